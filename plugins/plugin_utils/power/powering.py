# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is decided about a host's power, without a world: which result is recorded, what keeps a host from going off."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ansible_collections.sunset.crm.plugins.plugin_utils.guests import guests
from ansible_collections.sunset.crm.plugins.plugin_utils.record import ledger


def recorded_machine(entries: Iterable[ledger.Entry], item: str) -> str:
    """The machine id that was read before this host was last switched off."""
    found = ""
    for entry in entries:
        record = entry.record
        if record.get("item") == item and record.get("aspect") == "power" and record.get("kind") == "outcome":
            result = (record.get("evidence") or {}).get("result") or {}
            found = str(result.get("machine_id") or found)
    return found


def asked_to_end(entries: Iterable[ledger.Entry], item: str, but: str = "") -> bool:
    """Whether a host was asked to go off, or nobody lived to record that it was not, and was not switched on since. Pure.

    but: the intent of the step that asks this; what was there before it counts."""
    asked, begun = False, ""
    for entry in entries:
        record = entry.record
        if record.get("item") != item or record.get("aspect") != "power":
            continue
        if record.get("kind") == "intent" and entry.hash != but:
            asked, begun = (False, "") if record.get("back") else (asked, entry.hash)
        elif record.get("kind") == "outcome" and not record.get("back"):
            did = [str(act.get("did")) for act in (record.get("evidence") or {}).get("actions") or []]
            asked = asked or record.get("status") != "failed" or any(one.startswith(("asked", "cut off")) for one in did)
            begun = ""
    return asked or bool(begun)


def seen_off(entries: Iterable[ledger.Entry], item: str) -> bool:
    """Whether what was recorded last of a host's end is that it was off, and it was not switched on since. Pure."""
    off = False
    for entry in entries:
        record = entry.record
        if record.get("item") == item and record.get("aspect") == "power":
            if record.get("kind") == "outcome" and not record.get("back"):
                off = record.get("status") == "done"
            elif record.get("kind") == "intent" and record.get("back"):
                off = False
    return off


def off_result(
    reading: Mapping[str, Any], how: str, identity: Mapping[str, Any], seconds: float | None, more: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """What the ledger keeps of a host that is off. proof is the witness' kind: silence is never called a power state."""
    return {
        "power": reading["power"],
        "how": how,
        "proof": reading["kind"],
        "seen_at": reading["at"],
        "stays_off": {True: "yes", False: "no"}.get(reading["detail"].get("stays_off"), "unknown"),
        "exit_code": reading["detail"].get("exit_code"),
        "seconds": seconds,
        **identity,
        **(more or {}),
    }


def how_it_ended(reading: Mapping[str, Any], asked: str, forced: bool) -> str:
    """How a host came to be off. A controller shows that it is off, not how: then it is what was done that is told."""
    known = reading["detail"].get("how")
    if forced:
        return guests.BY_FORCE
    if known:
        return str(known)
    return "after a graceful request" if asked else guests.UNKNOWN


def shown(reading: Mapping[str, Any], name: str) -> str:
    """A word of the controller's reading (state, serial, uuid), wherever it stands."""
    detail = reading["detail"]
    parts = [detail, *(part for part in detail.values() if isinstance(part, Mapping))]
    return next((str(part[name]) for part in parts if part.get(name)), "")


def busy(item: str, idle: Mapping[str, Any]) -> list[str]:
    """What keeps a host on: guests that run or may run, sessions from elsewhere. Empty if nothing does. Pure."""
    found = [f"this guest still runs on it: {name}" for name in idle["guests"]]
    found += [f"whether a guest runs on it is unknown: {why}" for why in idle["unknown"]]
    if idle["running"] == "unknown" and not idle["unknown"]:
        found.append("whether a guest runs on it is unknown")
    return found + [f"a session from {peer} is open on a database server of it" for peer in idle["databases"]["sessions"]]
