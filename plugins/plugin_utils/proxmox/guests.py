# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Guests of Proxmox VE as the core in guests/guests.py sees them: what is read of one, and what that means. Without a world."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.guests.guests import (
    ALREADY_OFF,
    BY_FORCE,
    BY_ITSELF,
    UNKNOWN,
    Ending,
    Guest,
)
from ansible_collections.sunset.crm.plugins.plugin_utils.proxmox.tasks import (
    FAILED,
    QUEUED,
    RUNNING,
    SHUTDOWN,
    STOP,
    Outcome,
)

# QEMU's own word for what a running process does. Everything that is not here leaves the guest on.
QMP = {"paused": "paused", "suspended": "paused", "prelaunch": "changing", "inmigrate": "changing", "finish-migrate": "changing"}
HA_STARTS = ("started", "enabled")
HIBERNATED = "hibernated: its memory lies on disk and its file systems are not clean"
BRIEF = ("kind", "vmid", "node", "guest_name", "status", "qmpstatus", "lock", "ha", "onboot", "startup", "agent", "template")
ORDER = re.compile(r"(?:^|,)(?:order=)?(\d+)(?=,|$)")


@dataclass(frozen=True)
class Place:
    """Where a guest is. It may move at any time; vmid and kind stay."""

    kind: str  # qemu or lxc
    vmid: int
    node: str
    name: str

    @property
    def path(self) -> tuple[str, str, str, str]:
        return ("nodes", self.node, self.kind, str(self.vmid))

    @property
    def sid(self) -> str:
        """Its name as a resource of HA."""
        return f"{'vm' if self.kind == 'qemu' else 'ct'}:{self.vmid}"

    def __str__(self) -> str:
        return f"{self.vmid} ({self.name})"


def places(rows: Iterable[Mapping[str, Any]]) -> dict[int, Place]:
    """All guests of the cluster by number, from /cluster/resources. What that says of their power is old and is not read."""
    found = {}
    for row in rows:
        if row.get("type") in ("qemu", "lxc"):
            vmid = int(row["vmid"])
            found[vmid] = Place(str(row["type"]), vmid, str(row["node"]), str(row.get("name") or f"guest-{vmid}"))
    return found


def chosen(expected: Sequence[str], there: Mapping[int, Place]) -> dict[str, Place]:
    """The guests that a declaration names, by number or by name. A name that several guests have is refused."""
    found: dict[str, Place] = {}
    for word in (str(one) for one in expected):
        if word.isdigit():
            same = [there[int(word)]] if int(word) in there else []
        else:
            same = [place for place in there.values() if place.name == word]
        if len(same) > 1:
            numbers = ", ".join(str(place.vmid) for place in same)
            raise Refusal(f"{word} is the name of several guests ({numbers}); names are free in Proxmox, so declare the number")
        if same:
            found[word] = same[0]
    twice = [word for word, place in found.items() if [*found.values()].count(place) > 1]
    if twice:
        raise Refusal(f"{', '.join(sorted(twice))} name one and the same guest; declare it once")
    return found


def power(current: Mapping[str, Any]) -> str:
    """The power of a guest from its status/current: on, paused, changing, off, unknown."""
    status = current.get("status")
    if status == "stopped":
        return "off"
    if status != "running":
        return "unknown"
    return QMP.get(str(current.get("qmpstatus") or ""), "on")


def ha_states(rows: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """The state that is asked of HA for each of its resources, from /cluster/ha/resources; it says nothing where it is started.

    A guest's own status/current does not tell: there an ignored resource is one that HA does not manage, as every one is while HA is
    disarmed, and the state is the manager's own word of the moment (request_start, freeze), which nobody may ask for.
    """
    return {str(row["sid"]): str(row.get("state") or "started") for row in rows}


def orders(config: Mapping[str, Any]) -> int | None:
    found = ORDER.search(str(config.get("startup") or ""))
    return int(found[1]) if found else None


def needs(order: Mapping[str, int | None]) -> dict[str, frozenset[str]]:
    """Who stands on whom by the declared start order: the lower starts first and ends last; no order starts after all of them."""
    ranks = sorted({rank for rank in order.values() if rank is not None})
    tier = {rank: frozenset(name for name, own in order.items() if own == rank) for rank in ranks}
    found = {}
    for name, own in order.items():
        lower = [rank for rank in ranks if own is None or rank < own]
        found[name] = tier[lower[-1]] if lower else frozenset()
    return found


def disks(kind: str, config: Mapping[str, Any]) -> dict[str, str]:
    """Name of each disk or volume to what stands for it in the configuration, without drives for CDs."""
    pattern = r"(ide|sata|scsi|virtio|efidisk|tpmstate)\d+" if kind == "qemu" else r"rootfs|mp\d+"
    found = {key: str(value) for key, value in config.items() if re.fullmatch(pattern, key)}
    return {key: value for key, value in sorted(found.items()) if "media=cdrom" not in value and not value.startswith("none")}


def identity(config: Mapping[str, Any]) -> str:
    """What tells a guest from another that got its number later; empty for containers, which have nothing of the kind."""
    found = re.search(r"(?:^|,)uuid=([0-9A-Fa-f-]+)", str(config.get("smbios1") or ""))
    return found[1].lower() if found else ""


def key_of(place: Place, config: Mapping[str, Any]) -> str:
    own = identity(config)
    return f"{place.kind}/{place.vmid}" + (f"/{own}" if own else "")


def record(place: Place, current: Mapping[str, Any], config: Mapping[str, Any], ha: str = "") -> dict[str, Any]:
    """What goes into the evidence. The description does not: people write passwords into it. ha: empty if HA has nothing to do with it."""
    former = {"onboot": int(config.get("onboot") or 0), "ha": ha}
    return {
        "vmid": place.vmid,
        "kind": place.kind,
        "node": place.node,
        "guest_name": place.name,
        "status": str(current.get("status")),
        "qmpstatus": str(current.get("qmpstatus") or ""),
        "lock": str(current.get("lock") or ""),
        "template": bool(int(current.get("template") or config.get("template") or 0)),
        "agent": bool(int(current.get("agent") or 0)),
        "pid": int(current.get("pid") or 0),
        "ha": former["ha"],
        "onboot": former["onboot"],
        "startup": str(config.get("startup") or ""),
        "protection": bool(int(config.get("protection") or 0)),
        "hookscript": str(config.get("hookscript") or ""),
        "disks": disks(place.kind, config),
        "former": former,
    }


def guest(
    name: str,
    place: Place,
    current: Mapping[str, Any],
    config: Mapping[str, Any],
    stands_on: frozenset[str],
    keep_off: bool = True,
    ha: str = "",
) -> Guest:
    """One guest at one moment. keep_off: whether onboot may be taken away. ha: the state that is asked of HA for it."""
    seen = record(place, current, config, ha)
    returns = []
    if not seen["template"]:
        if seen["ha"] and seen["ha"] != "ignored":
            returns.append(f"HA state {seen['ha']}")
        if seen["onboot"] and keep_off:
            returns.append("onboot")
    state = power(current)
    refusal = ""
    if state == "unknown":
        refusal = f"its node {place.node} says {seen['status']!r} of it, which is neither running nor stopped; look at the node"
    elif seen["lock"] in ("mounted", "destroyed"):
        refusal = f"it is locked ({seen['lock']}): somebody works on it by hand; have that finished"
    return Guest(
        key=key_of(place, config),
        name=name,
        power="off" if seen["template"] else state,
        returns=" and ".join(returns),
        needs=stands_on,
        refusal=refusal,
        record=seen,
    )


def stays_off(seen: Mapping[str, Any]) -> str:
    """yes, or no with what would start it."""
    if seen["template"]:
        return "yes"
    why = [f"HA state {seen['ha']}"] if seen["ha"] in HA_STARTS else []
    why += ["onboot"] if seen["onboot"] else []
    return f"no: {' and '.join(why)}" if why else "yes"


def ending_of(before: Guest, asked: bool, forced: bool, outcome: Outcome | None) -> Ending:
    """How a guest that is off came to be off. outcome: of the last task that ended it, None if the cluster knows of none."""
    seen = before.record
    if seen["template"]:
        return Ending(ALREADY_OFF, "yes", "a template: it never runs")
    if seen["lock"] == "suspended":
        return Ending(ALREADY_OFF, "unknown", HIBERNATED)
    how = BY_ITSELF if asked else ALREADY_OFF
    if outcome is None or outcome.word == RUNNING:
        if asked or forced:
            return Ending(UNKNOWN, "unknown", "no task of Proxmox says how it ended")
        return Ending(ALREADY_OFF, "unknown", "it was off when it was first seen, and no task of Proxmox says how it ended")
    said = f"{outcome.type}: {outcome.said}"
    if outcome.notes:
        said += f" ({'; '.join(outcome.notes)})"[:400]
    if outcome.forced:
        return Ending(BY_FORCE if asked or forced else how, "no", said)
    if outcome.type in STOP:
        who = "" if forced else ", by somebody else"
        return Ending(BY_FORCE if asked or forced else how, "no", said + who)
    if outcome.type in SHUTDOWN and outcome.good:
        return Ending(how, "yes", said)
    if outcome.word == QUEUED:
        return Ending(UNKNOWN, "unknown", f"{said}: HA was asked to stop it, and HA kills after its timeout")
    if outcome.word == FAILED and asked:
        return Ending(UNKNOWN, "unknown", f"{said}, and yet it is off now")
    return Ending(UNKNOWN if asked else how, "unknown", said)
