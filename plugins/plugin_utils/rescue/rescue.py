# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host's rescue as the control node sees it: its keys, the way in, and whether what answers is that rescue.

Each host has a host key and a login key of its own, made here before the rescue exists. So nobody else can answer in its place,
and nobody else is let in. Both keys end with the host.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.sunset.crm.plugins.plugin_utils import relay
from ansible_collections.sunset.crm.plugins.plugin_utils.certificates import orders
from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.files import write
from ansible_collections.sunset.crm.plugins.plugin_utils.people import signatures
from ansible_collections.sunset.crm.plugins.plugin_utils.planning.plan import Item, from_within
from ansible_collections.sunset.crm.plugins.plugin_utils.power import controllers, witness
from ansible_collections.sunset.crm.plugins.plugin_utils.record.estate import Estate
from ansible_collections.sunset.crm.plugins.plugin_utils.runs.session import Session
from ansible_collections.sunset.crm.plugins.plugin_utils.steps.steps import Step

LOOK = "/sunset/look"
RAM_ROOTS = ("rootfs", "ramfs", "tmpfs")
LOOK_TIMEOUT = 60
POLL = 2.0


@dataclass(frozen=True)
class Keys:
    """The files of one host's rescue, in the estate's folder of secrets."""

    login: Path
    host: Path
    known_hosts: Path
    alias: str
    nonce: str

    @classmethod
    def of(cls, estate: Estate, item: str, *, make: bool) -> Keys | None:
        """The keys of this host's rescue; None if they were never made and shall not be."""
        nonce = estate.secret(f"rescue-{item}", make)
        if nonce is None:
            return None
        folder = estate.root / "secrets"
        # Without the colon of an item's id, which ssh's own options would take apart.
        name = "rescue-" + item.partition(":")[2]
        alias = f"sunset-{name}"
        keys = cls(folder / f"{name}.login", folder / f"{name}.host", folder / f"{name}.known_hosts", alias, nonce)
        if make:
            signatures.create_key(keys.login, alias)
            signatures.create_key(keys.host, alias)
            public = keys.host.with_name(keys.host.name + ".pub").read_text(encoding="ascii").split()
            write(keys.known_hosts, f"{alias} {public[0]} {public[1]}\n".encode("ascii"))
        return keys if keys.known_hosts.exists() else None

    def forget(self, estate: Estate, item: str) -> None:
        """The host has ended: nobody needs to get in any more."""
        for path in (self.login, self.host):
            path.unlink(missing_ok=True)
            path.with_name(path.name + ".pub").unlink(missing_ok=True)
        self.known_hosts.unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)
        estate.forget_secret(f"rescue-{item}")

    @property
    def token(self) -> str:
        """Part of the address under which the rescue is given out, which nobody guesses; the same in each run."""
        return hashlib.sha256(f"medium {self.nonce}".encode()).hexdigest()[:32]

    @property
    def folder(self) -> Path:
        """Where the rescue's medium is made; what lies there holds the private host key."""
        return self.login.with_suffix(".medium")

    def marker(self, item: str) -> dict[str, Any]:
        return {"schema": 1, "item": item, "nonce": self.nonce}

    def options(self, item: str) -> dict[str, Any]:
        """What the module builds into the rescue."""
        return {
            "marker": self.marker(item),
            "host_key": self.host.read_text(encoding="ascii"),
            "authorized_key": self.login.with_name(self.login.name + ".pub").read_text(encoding="ascii"),
        }

    def arguments(self, common: str | None) -> str:
        """ssh's options for the rescue: its pinned key and nothing else, over the same way (jump hosts) as before."""
        own = [
            "-o", "StrictHostKeyChecking=yes", "-o", f"UserKnownHostsFile={self.known_hosts}", "-o", "GlobalKnownHostsFile=/dev/null",
            "-o", f"HostKeyAlias={self.alias}", "-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none", "-o", "PasswordAuthentication=no",
            # The socket of the connection to the host's old system must not be taken for a way to this one.
            "-o", "ControlPath=~/.ansible/cp/sr-%C",
        ]  # fmt: skip
        return " ".join([*[shlex.quote(word) for word in own[:-1]], own[-1], common or ""]).strip()


@contextlib.contextmanager
def way_in(connection: Any, keys: Keys) -> Iterator[relay.Reach]:
    """The task's own connection, for the time of the block as a way into the rescue."""
    if connection.transport != "ssh":
        raise Refusal(
            f"the connection to this host is {connection.transport}; a rescue is reached through ssh alone. Set ansible_connection to ssh."
        )
    names = ("private_key_file", "ssh_common_args", "remote_user", "host_key_checking", "password")
    former = {name: connection.get_option(name) for name in names}
    become = connection.become
    try:
        connection.become = None
        connection.set_option("ssh_common_args", keys.arguments(former["ssh_common_args"]))
        connection.set_option("private_key_file", str(keys.login))
        connection.set_option("remote_user", "root")
        connection.set_option("host_key_checking", True)
        connection.set_option("password", None)
        Path("~/.ansible/cp").expanduser().mkdir(parents=True, exist_ok=True, mode=0o700)
        yield relay.from_connection(connection)
    finally:
        for name, value in former.items():
            connection.set_option(name, value)
        connection.become = become


def look(reach: relay.Reach, timeout: float = LOOK_TIMEOUT) -> tuple[dict[str, Any] | None, str]:
    """What the rescue says of itself, or why nothing that it signed for was heard."""
    try:
        done = subprocess.run(
            reach.argv(LOOK), stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout, check=False, start_new_session=True
        )
    except subprocess.TimeoutExpired:
        return None, f"no answer within {timeout:g} s"
    if done.returncode != 0:
        return None, done.stderr.decode("utf-8", "replace").strip()[-300:] or f"exit code {done.returncode}"
    try:
        found = json.loads(done.stdout.decode("utf-8", "replace").strip().splitlines()[-1])
    except (ValueError, IndexError):
        return None, "what it said cannot be read"
    return (found, "") if isinstance(found, dict) else (None, "what it said cannot be read")


def another(why: str) -> bool:
    """Whether what ssh said means that another system answers, with another key. Pure."""
    return "Host key verification failed" in why or "REMOTE HOST IDENTIFICATION HAS CHANGED" in why or "Permission denied" in why


def wait(reach: relay.Reach, seconds: float, enough: Callable[[str], bool] = lambda why: False) -> tuple[dict[str, Any] | None, str, float]:
    """Look until something answers: (what, the last reason, seconds waited). enough: whether a reason makes more waiting useless."""
    start = time.monotonic()
    while True:
        left = seconds - (time.monotonic() - start)
        found, why = look(reach, max(5.0, min(LOOK_TIMEOUT, left)))
        waited = time.monotonic() - start
        if found is not None or waited >= seconds or enough(why):
            return found, why, round(waited, 2)
        time.sleep(POLL)


def same_hardware(told: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """Why the machine that a rescue runs on is not the one that it was built on; empty if it is. Pure.

    A rescue that is booted from a medium carries the machine id with it, wherever it is booted: the board counts, else the network cards."""
    before, now = told.get("board") or {}, found.get("board") or {}
    match = controllers.same_machine({}, now, before)
    if match == "unknown":
        cards, here = set(told.get("macs") or ()), set(found.get("macs") or ())
        match = ("yes" if cards & here else "no") if cards and here else "unknown"
    if match == "yes":
        return ""
    said = f"it runs on the board {now or 'unknown'} with the network cards {', '.join(found.get('macs') or ()) or 'unknown'}"
    return f"{said}, it was built on {before or 'unknown'} with {', '.join(told.get('macs') or ()) or 'unknown'}"


def problems(found: dict[str, Any], marker: dict[str, Any], machine_id: str, former_boot_id: str, *, elsewhere: bool = False) -> list[str]:
    """Why what answers is not the rescue of this host, with nothing of a disk in use; empty if it is. Pure.

    A fact that is not there counts against it. former_boot_id may be empty where nobody knows it any more: the marker has it too.
    elsewhere: it was booted from a medium, which another machine could have been given."""
    wrong = []
    told = found.get("marker")
    if not isinstance(told, dict) or any(told.get(name) != value for name, value in marker.items()):
        wrong.append("it does not carry the marker of this rescue")
        told = {}
    if not machine_id or found.get("machine_id") != machine_id:
        wrong.append(f"its machine id is {found.get('machine_id') or 'unknown'}, expected {machine_id or 'one that nobody knows'}")
    before = former_boot_id or told.get("former_boot_id")
    if not found.get("boot_id") or not before or found["boot_id"] == before:
        wrong.append("it was not started anew (its boot id is the old one, or unknown)")
    if found.get("root") not in RAM_ROOTS:
        wrong.append(f"its root file system is {found.get('root') or 'unknown'}, expected one in RAM")
    if elsewhere and (why := same_hardware(told.get("hardware") or {}, found)):
        wrong.append(f"nothing shows that it is the same machine: {why}")
    for name, what in (("mounted_from_disks", "file systems of disks are mounted"), ("swap", "it swaps")):
        if not isinstance(found.get(name), list):
            wrong.append(f"it is unknown whether {what}")
        elif found[name]:
            wrong.append(f"{what}: {', '.join(str(one) for one in found[name][:5])}")
    return wrong


def over(session: Session, step: Step, item: Item) -> dict[str, Any] | None:
    """The answer for a step of a wipe from within whose host has done it all and is off for good; else None.

    Nobody can look at such a host again. Its witness is asked each time: one that somebody switched on is switched off again."""
    if step.aspect not in ("wake", "rescue") and not (step.aspect == "wipe" and from_within(item)):
        return None
    plan, view = session.plan, session.view
    host = plan.items[f"host:{item['host']}"]
    ended = view.get(host["id"], "wake")
    owed = [medium for medium in plan.wiped_from_within(item["host"]) if not orders.excuse(medium, session.words, session.insiders)]
    wiped = [view.get(medium["id"], "wipe") for medium in owed]
    if ended is None or ended.value != "ended" or not all(seen and seen.number < ended.number for seen in wiped):
        return None
    reading = witness.read(host["expects"]["power"])
    if reading["power"] != "off" and step.value == "ended":
        return None
    if reading["power"] != "off":
        return {
            "changed": False,
            "msg": f"{item['host']} has wiped its disks and was off since {ended.at}; now its witness says {reading['power']}",
        }
    settled = view.get(item["id"], step.aspect)
    return {
        "changed": False,
        "msg": f"{item['id']}: {item['host']} has wiped its disks and is off since {ended.at}, says {reading['kind']}",
        "result": settled.result if settled else {},
    }
