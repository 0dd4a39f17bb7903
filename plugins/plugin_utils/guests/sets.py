# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sets of virtual machines as items of the plan: who is in them, which host is one of them, what is wrong with them. Pure."""

from __future__ import annotations

from typing import Any

from ansible_collections.sunset.crm.plugins.module_utils._survey import foreign as survey_foreign

Item = dict[str, Any]

# Backend of a set -> the module that handles it.
BACKENDS = {"libvirt": "libvirt_guests", "proxmox": "proxmox_guests"}


def unhandled(backend: Any) -> str:
    """What is said of a backend that is not handled: by name and with what to do, where it is one that people have."""
    told = survey_foreign.refusal(str(backend))
    return f"the backend {backend!r}: {told}" if told else f"the unknown backend {backend!r} (known: {', '.join(BACKENDS)})"


def names(item: Item) -> list[str]:
    """The guests of a set by name: those that were declared."""
    return [str(name) for name in item["expects"].get("guests") or []]


def place(item: Item) -> tuple[str, ...]:
    """What tells one hypervisor from another: two sets of one place must not share a guest."""
    expects = item["expects"]
    return (str(expects.get("backend")), str(item["host"]), str(expects.get("uri") or ""), str(sorted((expects.get("api") or {}).items())))


def inhabitants(item: Item, items: dict[str, Item]) -> dict[str, Item]:
    """Guest -> the estate host that runs inside it."""
    found = {}
    for other in items.values():
        if other["kind"] == "host" and item["id"] in other["stands_on"]:
            found[str((other["expects"].get("guest") or {}).get("name"))] = other
    return found


def node_name(host: Item) -> str:
    """What a host is called as a node of a Proxmox VE cluster: Proxmox takes the host's own short name, nothing else."""
    return str(host["identity"].get("hostname") or "").partition(".")[0]


def _members(item: Item) -> list[str]:
    """The nodes of the cluster that carries a set, as the cluster itself told the survey."""
    hypervisor = item["identity"].get("hypervisor") or {}
    return [str(node) for node in hypervisor.get("nodes") or []] if item["expects"].get("backend") == "proxmox" else []


def lay_on_nodes(items: list[Item]) -> None:
    """Let each set of a cluster stand on every host of the plan that is a node of it, whether the inventory lists it or not."""
    sets = [item for item in items if item["kind"] == "guest" and _members(item)]
    for host in (item for item in items if item["kind"] == "host" and node_name(item)):
        homes = [one for one in sets if node_name(host) in _members(one)]
        told = {_cluster_name(one) for one in homes if host["id"] in one["stands_on"]}
        # Two clusters may both have a pve1: then the inventory has to say whose this one is (host, hosts).
        clusters = told or {_cluster_name(one) for one in homes}
        for one in homes:
            if len(clusters) == 1 and _cluster_name(one) in clusters:
                one["stands_on"] = sorted({*one["stands_on"], host["id"]})


def _cluster_name(item: Item) -> str:
    return str((item["identity"].get("hypervisor") or {}).get("cluster") or "")


def cluster(host: str, items: dict[str, Item]) -> dict[str, Any] | None:
    """The Proxmox VE cluster of which this host is a node: its name and API, the node, and all hosts of the plan that are nodes of it."""
    mine = items[f"host:{host}"]
    for item in items.values():
        if item["kind"] == "guest" and node_name(mine) in _members(item) and mine["id"] in item["stands_on"]:
            names = {parent.partition(":")[2]: items[parent] for parent in item["stands_on"] if parent.startswith("host:")}
            return {
                "name": _cluster_name(item),
                "api": item["expects"].get("api") or {},
                "node": node_name(mine),
                "hosts": {name: node_name(one) for name, one in names.items() if node_name(one) in _members(item)},
            }
    return None


def faults(items: list[Item]) -> list[str]:
    """What is wrong with the sets and with the hosts that run inside them, in words."""
    by_id = {item["id"]: item for item in items}
    wrong: list[str] = []
    homes: dict[tuple[tuple[str, ...], str], str] = {}
    for item in items:
        if item["kind"] == "guest":
            wrong += _set_faults(item, by_id)
            for name in sorted(set(names(item))):
                other = homes.setdefault((place(item), name), item["id"])
                if other != item["id"]:
                    wrong.append(f"the guest {name} is in {other} and in {item['id']}")
        if item["kind"] == "host":
            wrong += _host_faults(item, by_id)
    return wrong


def _set_faults(item: Item, by_id: dict[str, Item]) -> list[str]:
    wrong = []
    listed = names(item)
    if item["expects"].get("backend") not in BACKENDS:
        wrong.append(f"{item['id']} has {unhandled(item['expects'].get('backend'))}")
    if not listed or len(set(listed)) != len(listed):
        wrong.append(f"{item['id']} must list its guests by name, each once (guests: [NAME, ...])")
    if not item["expects"].get("staging"):
        wrong.append(f"{item['id']} names no folder on its host for the guests' definitions (staging)")
    for parent in item["stands_on"]:
        if parent.startswith("host:") and any(above.startswith("guest:") for above in by_id[parent]["stands_on"]):
            wrong.append(
                f"{item['id']} stands on {parent}, which is a guest itself; guests inside guests are not handled, retire them first"
            )
    return wrong


def _host_faults(item: Item, by_id: dict[str, Item]) -> list[str]:
    # On a host: a guest of nobody's set there, or one that uses storage of that host.
    wrong = [
        f"{item['id']} stands on {parent}, which is no set of guests and no host"
        for parent in item["stands_on"]
        if not parent.startswith(("guest:", "host:"))
    ]
    told = item["expects"].get("guest") or {}
    for parent in item["stands_on"]:
        if parent.startswith("guest:") and told.get("name") not in names(by_id[parent]):
            wrong.append(f"{item['id']} is said to be the guest {told.get('name')!r} of {parent}, which lists no such guest")
    twins = [other["id"] for other in by_id.values() if told and other["kind"] == "host" and other["expects"].get("guest") == told]
    if len(twins) > 1 and item["id"] == min(twins):
        wrong.append(f"{' and '.join(sorted(twins))} are said to be the same guest {told.get('name')!r}")
    return wrong
