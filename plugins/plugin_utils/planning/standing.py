# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who stands on whom: which host is a guest of which, whose storage it uses, and whether what is kept stands on what goes off. Pure.

Three values. What is kept (control node, vaults, jump hosts, resolvers) stands clear only where it was compared; what could not be
compared is unknown, and named.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping
from typing import Any

from ansible_collections.sunset.crm.plugins.plugin_utils.power.controllers import uuids

Machine = Mapping[str, Any]
CLEAR, DARK, UNKNOWN = "clear", "dark", "unknown"
GUEST = "is its guest "
UNSEEN = "it was not looked at (it did not answer the survey)"


def guest_of(one: Machine, host: Machine) -> str:
    """The name under which this machine is defined as a guest on a host; empty if it is none of its guests."""
    own = uuids(str((one.get("board") or {}).get("uuid", "")))
    for guest in host.get("guests") or []:
        if own & uuids(str(guest.get("uuid") or "")) or set(one.get("macs") or []) & set(guest.get("macs") or []):
            return str(guest["name"])
    return ""


def staying(host: Machine, retired: Iterable[str]) -> Machine:
    """Of a host that stays, what goes off: those of its guests that are retired. The host itself may carry what is kept."""
    names = set(retired)
    return {
        "guests": [guest for guest in host.get("guests") or [] if guest.get("name") in names],
        **({"neighbours": host["neighbours"]} if host.get("neighbours") else {}),
    }


def same(one: Machine, other: Machine) -> bool:
    """Whether both are one machine."""
    if one.get("machine_id") and one.get("machine_id") == other.get("machine_id"):
        return True
    return bool(set(one.get("macs") or []) & set(other.get("macs") or []))


def below(hosts: Mapping[str, Machine]) -> dict[str, dict[str, str]]:
    """Host -> the hosts that it stands on, each with the reason: a guest of it, or storage that lies there."""
    found: dict[str, dict[str, str]] = {}
    for name, one in sorted(hosts.items()):
        for other, host in sorted(hosts.items()):
            if name == other:
                continue
            if guest := guest_of(one, host):
                found.setdefault(name, {})[other] = f"{GUEST}{guest}"
            used = {*(one.get("storage") or [])} & {other, *(host.get("addresses") or [])}
            if used:
                found.setdefault(name, {}).setdefault(other, f"uses storage of {', '.join(sorted(used))}")
    return found


def judge_machine(one: Machine | None, hosts: Mapping[str, Machine]) -> tuple[str, str]:
    """(verdict, why) of a machine that is kept and was looked at."""
    if not one:
        return UNKNOWN, UNSEEN
    for name, host in sorted(hosts.items()):
        if same(one, host):
            return DARK, f"it is the same machine as {name}, which goes off"
        if guest := guest_of(one, host):
            return DARK, f"it is the guest {guest} of {name}, which goes off"
        if used := {*(one.get("storage") or [])} & {name, *(host.get("addresses") or [])}:
            return DARK, f"it uses storage of {name} ({', '.join(sorted(used))}), which goes off"
    if one.get("container"):
        return UNKNOWN, "it is a container, and what it runs on does not show in it"
    return CLEAR, "compared by its ids, network cards and storage"


def judge_address(addresses: Iterable[str], hosts: Mapping[str, Machine], kept: Iterable[Machine]) -> tuple[str, str]:
    """(verdict, why) of something that is known by its addresses only. Whose network card answers for one is read off the tables of
    neighbours of all machines that were looked at."""
    wanted = set(addresses)
    if not wanted:
        return UNKNOWN, "its name could not be resolved"
    cards = {mac for one in (*hosts.values(), *kept) for address, mac in (one.get("neighbours") or {}).items() if address in wanted}
    for name, host in sorted(hosts.items()):
        if wanted & {*(host.get("addresses") or []), str(host.get("reached_at", ""))}:
            return DARK, f"it is {name}, which goes off"
        for guest in host.get("guests") or []:
            if cards & set(guest.get("macs") or []):
                return DARK, f"it is the guest {guest['name']} of {name}, which goes off"
    for one in kept:
        if wanted & set(one.get("addresses") or []):
            return CLEAR, "it is one of the machines that are kept"
    if cards:
        return CLEAR, "no guest of a host that goes off has its network card"
    return UNKNOWN, "it is no host of the estate; what it stands on itself could not be seen from any machine here"


def kept(
    control: Machine,
    vaults: Mapping[str, Machine | None],
    jump_hosts: Mapping[str, tuple[Iterable[str], str]],
    hosts: Mapping[str, Machine],
) -> list[dict[str, str]]:
    """A row for everything that is kept and needed: role, name, verdict, why. jump_hosts: name -> its addresses, what is unclear of it."""
    machines = {"control node": control, **{f"vault {name}": one for name, one in vaults.items()}}
    known = [one for one in machines.values() if one]
    rows = []
    for label, one in machines.items():
        role, _space, name = label.partition(" ") if label != "control node" else ("control node", "", "localhost")
        rows.append((role, name, *judge_machine(one, hosts)))
    for name, (addresses, unclear) in jump_hosts.items():
        rows.append(("jump host", name, *((UNKNOWN, unclear) if unclear else judge_address(addresses, hosts, known))))
    for label, one in machines.items():
        for address in (one or {}).get("nameservers") or []:
            if address.startswith("127.") or address == "::1":
                told = (UNKNOWN, "it runs on that machine itself, and whom it asks does not show")
            else:
                told = judge_address([address], hosts, known)
            rows.append(("resolver", f"{address} of the {label}", *told))
    return [dict(zip(("role", "name", "verdict", "why"), row, strict=True)) for row in rows]


# --- jump hosts --------------------------------------------------------------------------------------------------------------------


def jumps(effective: str) -> tuple[list[str], str]:
    """(names of the jump hosts, what could not be read) of what C(ssh -G) prints."""
    settings: dict[str, str] = {}
    for line in effective.splitlines():
        name, _space, value = line.partition(" ")
        settings.setdefault(name, value.strip())
    hops = [hop for hop in settings.get("proxyjump", "none").split(",") if hop and hop != "none"]
    if hops:
        return [_name(hop) for hop in hops], ""
    command = settings.get("proxycommand", "none")
    if command in ("", "none"):
        return [], ""
    try:
        words = shlex.split(command)
    except ValueError:
        words = []
    if words and words[0].rpartition("/")[2] == "ssh":
        found = _destination(words[1:])
        if found:
            return [_name(found)], ""
    return [], f"the ProxyCommand {command[:80]!r} does not tell through which machine it goes"


# Options of ssh(1) that take a word after them.
WITH_WORD = set("BbcDEeFIiJLlmOoPpQRSWw")


def _destination(words: list[str]) -> str:
    at = 0
    while at < len(words):
        word = words[at]
        if not word.startswith("-") or word == "-":
            return word
        at += 2 if len(word) == 2 and word[1] in WITH_WORD else 1
    return ""


def _name(hop: str) -> str:
    """user@host:port, ssh://user@host:port, [v6]:port -> host."""
    hop = hop.removeprefix("ssh://").rpartition("@")[2].rstrip("/")
    bracketed = re.match(r"^\[([^]]+)\]", hop)
    if bracketed:
        return bracketed.group(1)
    return hop.partition(":")[0] if hop.count(":") == 1 else hop
