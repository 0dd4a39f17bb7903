# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the hypervisors of a host say about its sets of guests: is each there, who is it, and what is there that no item covers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.guests import sets as guest_sets
from ansible_collections.sunset.crm.plugins.plugin_utils.libvirt import way as libvirt_way
from ansible_collections.sunset.crm.plugins.plugin_utils.proxmox import reading as proxmox_reading

Declared = dict[str, Any]
# What a hypervisor showed: name of each guest -> {id, uuid (where it has one), power, detail}; and who the hypervisor is.
Shown = tuple[dict[str, dict[str, Any]], dict[str, Any]]
# Backend -> its reader: the connection of the host, one declaration -> everything that the hypervisor has. Raises Refusal.
READERS: dict[str, Callable[[Any, Declared], Shown]] = {"libvirt": libvirt_way.look, "proxmox": proxmox_reading.read}


def expected(declared: Declared, guests: Mapping[str, Mapping[str, Any]], hypervisor: Mapping[str, Any]) -> dict[str, Any]:
    """What the survey says of one declared set. Pure."""
    wanted = [str(name) for name in declared.get("guests") or []]
    missing = sorted(set(wanted) - set(guests))
    detail = "it lists no guests" if not wanted else f"declared and not there: {', '.join(missing)}" if missing else ""
    mine = {name: guests[name] for name in sorted(set(wanted) & set(guests))}
    identity = {
        "guests": sorted(mine),
        "ids": {name: one["id"] for name, one in mine.items()},
        "uuids": {name: one["uuid"] for name, one in mine.items() if one.get("uuid")},
        "hypervisor": dict(hypervisor),
    }
    running = {name: str(one.get("detail")) for name, one in mine.items() if one.get("power") != "off"}
    found: dict[str, Any] = {"found": "no" if detail else "yes", "identity": identity, "media": [], "detail": detail, "running": running}
    if any("disks" in one for one in guests.values()):
        found["disks"] = [
            {"guest": name, "stranger": name not in mine, **disk} for name, one in sorted(guests.items()) for disk in one.get("disks") or []
        ]
    return found


def strangers(guests: Mapping[str, Mapping[str, Any]], sets: list[Declared]) -> list[dict[str, Any]]:
    """Guests of a hypervisor that no declared set covers, as findings: off as well as on, for their disks lie here. Pure."""
    covered = {str(name) for one in sets for name in one.get("guests") or []}
    return [
        {
            "id": f"guest:{name}",
            "kind": "guest",
            "what": f"a virtual machine ({guests[name].get('detail') or 'no detail'}) that no item covers",
        }
        for name in sorted(set(guests) - covered)
    ]


def read(connection: Any, declared: list[Declared]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Expected and findings of all declared sets of one host. Raises Refusal where a hypervisor cannot be read."""
    seen: dict[str, Any] = {}
    findings: list[dict[str, Any]] = []
    homes: dict[tuple[str, ...], list[Declared]] = {}
    for item in declared:
        if item.get("backend") not in READERS:
            raise Refusal(f"guest:{item.get('name')} has {guest_sets.unhandled(item.get('backend'))}")
        homes.setdefault(guest_sets.place({"host": "", "expects": item}), []).append(item)
    for sets in homes.values():
        # What a guest is called may depend on how it is declared, so the reader is told of all of them.
        named = [name for one in sets for name in one.get("guests") or []]
        guests, hypervisor = READERS[sets[0]["backend"]](connection, {**sets[0], "guests": named})
        for item in sets:
            seen[f"guest:{item['name']}"] = expected(item, guests, hypervisor)
        if not all(item.get("shared_hypervisor") for item in sets):
            findings += strangers(guests, sets)
    return seen, findings
