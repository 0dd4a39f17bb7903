# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Opening and closing a run: which waves it works on, who is asked to do what, and what it must have finished."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.planning.plan import DATA_SETS, SETS, Item, Plan, from_within, in_place
from ansible_collections.sunset.crm.plugins.plugin_utils.record.view import View

PHASES = ("shutdown", "wipe", "resume", "expire")


def waves_of(phase: str, wanted: str, plan: Plan, view: View, check: bool = False) -> list[str]:
    """The waves of a run: those named (comma-separated), else the first that is not accepted, for a wipe all accepted ones.

    A shutdown works on one wave; in check mode it may rehearse several, by default all that are not accepted.
    """
    if wanted:
        waves = [wave.strip() for wave in str(wanted).split(",")]
        unknown = [wave for wave in waves if wave not in plan.waves]
        if unknown:
            raise Refusal(f"the plan has no wave {', '.join(unknown)} (its waves, in order: {', '.join(plan.waves)})")
        if phase == "shutdown" and len(waves) > 1 and not check:
            raise Refusal(f"a run retires one wave; {', '.join(waves)} are {len(waves)}. Name one: -e sunset_wave_wanted={waves[0]}")
        return waves
    accepted = [wave for wave in plan.waves if wave in view.accepted]
    if phase == "wipe":
        if not accepted:
            raise Refusal("no wave is accepted yet, so there is nothing to wipe; run playbooks/shutdown.yml first")
        return accepted
    if phase == "resume":
        touched = {item for item, _aspect in (*view.seen, *view.former)} | {entry.record["item"] for entry in view.interrupted}
        return [wave for wave in plan.waves if any(plan.items[i]["wave"] == wave for i in touched if i in plan.items)] or plan.waves[:1]
    if phase == "expire":
        return plan.waves
    waiting = [wave for wave in plan.waves if wave not in view.accepted]
    return (waiting if check else waiting[:1]) or plan.waves[-1:]


def vaults_needed(plan: Plan, phase: str) -> int:
    """How many vaults must answer before a run begins: as many as the gate wants proofs of; all of them before a wipe.

    A resume touches no vault: whatever is down there, the way back is open."""
    return {"shutdown": plan.proofs_required, "wipe": len(plan.vaults)}.get(phase, 0)


def silent(plan: Plan, waves: list[str], phase: str, seen: dict[str, Any]) -> dict[str, str]:
    """Vault -> why it cannot be worked with, from what M(vault_probe) brought. A vault that nobody asked is no vault that answers."""
    if phase == "resume":
        return {vault: "it does not answer" for vault in plan.vaults if (seen.get(vault) or {}).get("unreachable")}
    proven = [item for item in plan.of(*DATA_SETS) if item["wave"] in waves] if phase == "shutdown" else []
    engines = {str(item["expects"].get("engine")) for item in proven if item["kind"] == "database"}
    return {vault: why for vault in plan.vaults if (why := _silence(seen.get(vault) or {}, bool(proven), engines))}


def _silence(seen: dict[str, Any], proofs: bool, engines: Collection[str]) -> str:
    if seen.get("unreachable"):
        return f"it does not answer ({str(seen.get('msg', '')).strip()[:300]})"
    found = seen.get("vault")
    if not isinstance(found, dict):
        return str(seen.get("msg") or "it was not asked: the inventory gives it no sunset_vault_root").strip()[:300]
    problems = list(found.get("problems", []))
    problems += [why for engine, why in sorted((found.get("servers") or {}).items()) if why and engine in engines]
    if proofs and found.get("uid") == 0:
        problems.append(
            "its account is root, which proves nothing (a restore runs foreign code); log in as, or become, an account without privileges"
        )
    return "; ".join(problems)


# What a shutdown does on a hypervisor only when its guests are off: those that run inside them go off first, by their own step.
LATE = (
    "libvirt_guest", "proxmox_guest", "database", "database_again", "database_served", "database_container", "database_service", "filestore", "host",
    "proxmox_node", "package", "shelf", "data_set",
)  # fmt: skip


def members(plan: Plan, waves: list[str], without: Collection[str] = (), phase: str = "shutdown") -> list[dict[str, Any]]:
    """For each machine of the run: its name, its place (estate, vault, station or rescue) and the ids of its items by kind.

    items: what it does; late: what it does, in a shutdown, after the hosts that run inside guests are off.
    without: vaults that do not answer; they get no work in this run.
    Containers are listed in the order in which they stop: those that others stand on come last."""
    found: dict[tuple[str, str], dict[str, list[str]]] = {}
    late: dict[tuple[str, str], dict[str, list[str]]] = {}
    hypervisors = plan.hypervisors() if phase == "shutdown" else set()

    def add(host: str, place: str, kind: str, item_id: str) -> None:
        found.setdefault((host, place), {})
        second = kind in LATE and plan.items[item_id]["host"] in hypervisors
        (late if second else found).setdefault((host, place), {}).setdefault(kind, []).append(item_id)

    for item in plan.items.values():
        if item["wave"] not in waves:
            continue
        if item["kind"] == "medium":
            if not from_within(item):
                add(item["wipe"]["host"], "station", "virtual_medium" if in_place(item) else "medium", item["id"])
                continue
            add(item["host"], "rescue", "rescue_medium", item["id"])
            if f"host:{item['host']}" not in found[item["host"], "rescue"].get("rescue", []):
                add(item["host"], "rescue", "rescue", f"host:{item['host']}")
            continue
        for kind in _work(item, plan):
            add(item["host"], "estate", kind, item["id"])
        if item["expects"].get("sessions"):
            add(plan.items[item["expects"]["sessions"]["database"]]["host"], "estate", "session", item["id"])
        if item["kind"] == "host" and plan.of(*DATA_SETS, host=item["host"]):
            add(item["host"], "estate", "package", item["id"])
    vaults = [vault for vault in plan.vaults if vault not in without]
    for vault in vaults:
        for item in plan.items.values():
            if item["wave"] in waves and item["kind"] in DATA_SETS:
                add(vault, "vault", "data_set", item["id"])
                package = f"host:{item['host']}"
                known = [*found[vault, "vault"].get("package", []), *late.get((vault, "vault"), {}).get("package", [])]
                if package not in known:
                    add(vault, "vault", "package", package)
                    if plan.data["vaults"][vault].get("shelf"):
                        add(vault, "vault", "shelf", package)
    for kinds in (*found.values(), *late.values()):
        for kind in ("container", "database_container", "libvirt_guest", "proxmox_guest"):
            if kind in kinds:
                kinds[kind].sort(key=lambda name: sum(above["kind"] in SETS for above in plan.standing_on(name)))
    tiers = power_order(plan)
    # One machine in two places (a vault that is also the station) is told all its work each time: its variables are its own.
    work, after = (
        {host: {kind: ids for (name, _), kinds in part.items() if name == host for kind, ids in kinds.items()} for host, _ in found}
        for part in (found, late)
    )
    return [
        {
            "host": host,
            "place": place,
            "items": work[host],
            "late": after[host] if (host, place) in late else {},
            "tier": tiers.get(host, 0),
            "vaults": vaults,
            "all_vaults": plan.vaults,
        }
        for host, place in sorted(found)
    ]


def expiring(plan: Plan, named: list[tuple[str, str]]) -> list[dict[str, Any]]:
    """The vaults of a run that destroys packages, each with the hosts whose packages on it a statement names."""
    found: dict[str, list[str]] = {}
    for package, vault in named:
        if vault in plan.vaults and f"host:{package}" in plan.items:
            found.setdefault(vault, []).append(f"host:{package}")
    return [
        {
            "host": vault,
            "place": "vault",
            "items": {"expired": sorted(set(items))},
            "late": {},
            "tier": 0,
            "vaults": plan.vaults,
            "all_vaults": plan.vaults,
        }
        for vault, items in sorted(found.items())
    ]


def _work(item: Item, plan: Plan) -> list[str]:
    """The lists of work that an item is in: its kind, and what it declares to be frozen or stopped."""
    expects = item["expects"]
    if item["kind"] == "application":
        declared = (("scheduler", "schedulers"), ("web", "web"), ("application", "services"))
        return [name for name, key in declared if expects.get(key)]
    if item["kind"] == "database":
        # A server in a container stops when its databases are dumped and read once more; every other goes on until its copy is proven.
        again = "database_served" if plan.serving(item) else "database_again"
        return ["database", again, *(("database_service",) if expects.get("unit") else ())]
    if item["kind"] == "container" and plan.served_by(item["id"]):
        return ["database_container"]
    if item["kind"] == "guest":
        return [f"{expects['backend']}_guest"]
    if item["kind"] == "host" and expects.get("stays"):
        return []
    if item["kind"] == "host" and plan.cluster_of(item["host"]):
        return ["host", "proxmox_node"]
    return [item["kind"]]


def power_order(plan: Plan) -> dict[str, int]:
    """Host -> tier: tier 0 goes off first; a host goes after all whose items stand on its own."""
    hosts = sorted({item["host"] for item in plan.items.values()})
    tiers: dict[str, int] = {}

    def tier(host: str, path: tuple[str, ...]) -> int:
        if host in path:
            raise Refusal(f"the hosts {' -> '.join([*path, host])} stand on each other in a circle; the power-off has no order")
        if host not in tiers:
            tiers[host] = max((tier(above, (*path, host)) + 1 for above in plan.hosts_before(host)), default=0)
        return tiers[host]

    for host in hosts:
        tier(host, ())
    return tiers


def unreached(members: list[dict[str, Any]], present: list[str]) -> list[str]:
    """Machines that this run needs and that the play does not have (cut off by --limit, or not in the inventory)."""
    needed = {member["host"] for member in members}
    return sorted(needed - set(present))
