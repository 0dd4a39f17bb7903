# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The plan: every item that is expected, what it stands on, and the words it is approved with.

Pure functions over the parsed plan file. An item is a mapping with at least C(id) (kind:name), C(kind), C(wave),
C(host) (inventory name), C(identity) and C(stands_on) (ids).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from ansible_collections.sunset.crm.plugins.module_utils._canonical import digest
from ansible_collections.sunset.crm.plugins.module_utils._service import container_engines as service_container_engines
from ansible_collections.sunset.crm.plugins.module_utils._shelf.rules import faults as shelf_faults
from ansible_collections.sunset.crm.plugins.module_utils._wipe import decide as wipe_decide
from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.guests.sets import cluster, faults as guest_faults
from ansible_collections.sunset.crm.plugins.plugin_utils.vaults import retention

SCHEMA = 1
KINDS = ("host", "application", "database", "filestore", "container", "guest", "medium")
DATA_SETS = ("database", "filestore", "container", "guest")
RUNNING = ("application", "container", "guest")
# Sets of things that one engine runs: its containers, or the virtual machines of a hypervisor or cluster.
SETS = ("container", "guest")
# How a medium is wiped: taken out, at a station; from within, by its own host in a rescue system that it starts by kexec, or boots
# from its management controller's virtual medium, or from the network; or, for virtual disks, in place, on a host that stays in use.
WITHIN = ("kexec", "virtual_media", "pxe")
WAYS = ("station", *WITHIN, "in-place")
# What must be set at the controller for them (sunset_rescue_boot), and the kinds of controllers that can.
BOOTED = {"virtual_media": ("media", ("redfish",)), "pxe": ("pxe", ("redfish", "ipmi"))}
FIELDS = ("id", "kind", "wave", "host", "identity", "stands_on", "expects")

Item = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """A parsed plan and the digest of the very bytes that were read."""

    data: dict[str, Any]
    sha256: str
    items: dict[str, Item] = field(default_factory=dict)

    @property
    def estate(self) -> str:
        return str(self.data["estate"])

    @property
    def waves(self) -> list[str]:
        return list(self.data["waves"])

    @property
    def dual(self) -> bool:
        return bool(self.data.get("control", "dual") != "single")

    @property
    def allowed_signers(self) -> str:
        return str(self.data["allowed_signers"])

    @property
    def vaults(self) -> list[str]:
        """Names of the vaults; the plan maps each to its settings."""
        return list(self.data["vaults"])

    def setting(self, name: str, default: Any) -> Any:
        return self.data.get("settings", {}).get(name, default)

    @property
    def proofs_required(self) -> int:
        """How many vaults must hold a proven copy: the setting, else two where there are two, else one. Never none."""
        return max(1, int(self.setting("proofs_required", min(2, len(self.vaults)))))

    def of(self, *kinds: str, wave: str | None = None, host: str | None = None) -> list[Item]:
        """Items of these kinds, in plan order, of one wave or host if given."""
        return [
            item for item in self.items.values() if item["kind"] in kinds and wave in (None, item["wave"]) and host in (None, item["host"])
        ]

    def standing_on(self, item_id: str) -> list[Item]:
        """Items that stand on this one, directly or through others."""
        found: dict[str, Item] = {}
        frontier = [item_id]
        while frontier:
            parent = frontier.pop()
            for item in self.items.values():
                if parent in item["stands_on"] and item["id"] not in found:
                    found[item["id"]] = item
                    frontier.append(item["id"])
        return list(found.values())

    def served_by(self, container_id: str) -> list[Item]:
        """The databases whose server runs in this set of containers."""
        return [item for item in self.of("database") if container_id in item["stands_on"]]

    def serving(self, item: Item) -> list[str]:
        """The sets of containers that the server of this database runs in."""
        return [name for name in item["stands_on"] if item["kind"] == "database" and name.startswith("container:")]

    def guests_on(self, host: str) -> list[Item]:
        """The sets of virtual machines that stand on this host. One of a cluster stands on each of its nodes."""
        return [item for item in self.of("guest") if f"host:{host}" in item["stands_on"]]

    def data_on(self, host: str) -> list[Item]:
        """The data sets of a host, with the sets of virtual machines that it carries for another node."""
        return [*self.of(*DATA_SETS, host=host), *(item for item in self.guests_on(host) if item["host"] != host)]

    def cluster_of(self, host: str) -> dict[str, Any] | None:
        """The Proxmox VE cluster of which this host is a node; None for any other host."""
        return cluster(host, self.items)

    def hypervisors(self) -> set[str]:
        """Hosts that carry virtual machines, and those that must be off after one: their turn comes when the guests are off."""
        found = {item["host"] for item in self.of("host") if self.guests_on(item["host"])}
        while more := {item["host"] for item in self.of("host") if found & set(self.hosts_before(item["host"]))} - found:
            found |= more
        return found

    def carried_by(self, medium_id: str) -> list[Item]:
        """The data sets that lie on this medium."""
        return [item for item in self.of(*DATA_SETS) if medium_id in item.get("media", [])]

    def held_by(self, item: Item) -> list[str]:
        """Ids that a legal hold may name and so hold this medium, or the package of this host.

        Itself, the data sets on it (or in it), what uses these, the hosts of them all, and the applications there. A person who holds
        "the CRM" or "that server" means its disks and its copies too; another medium of the same host is held by the host alone."""
        medium = item["kind"] == "medium"
        data_sets = self.carried_by(item["id"]) if medium else self.of(*DATA_SETS, host=item["host"])
        hosts = {item["host"], *(one["host"] for one in data_sets), *(self.media_hosts(item) if medium else ())}
        users = [user for one in data_sets for user in self.standing_on(one["id"])]
        there = [one for host in hosts for one in self.of("host", "application", host=host)]
        return list(dict.fromkeys(one["id"] for one in [item, *data_sets, *users, *there]))

    def wiped_from_within(self, host: str) -> list[Item]:
        """The media of this host that are wiped by the host itself, from a rescue system in its memory."""
        return [medium for medium in self.of("medium", host=host) if from_within(medium)]

    def stays(self, host: str) -> bool:
        """Whether this host goes on for others after its guests are retired."""
        return bool(self.items.get(f"host:{host}", {}).get("expects", {}).get("stays"))

    def rescue_way(self, host: str) -> str:
        """How this host comes into its rescue system; empty if none of its media is wiped from within."""
        return next((str(medium["wipe"]["way"]) for medium in self.wiped_from_within(host)), "")

    def hosts_before(self, host: str) -> list[str]:
        """Hosts that must be off before this one: something on them stands on something of this host."""
        here = {item["id"] for item in self.items.values() if item["host"] == host and item["kind"] != "medium"}
        above: set[str] = set()
        for item in (item for item_id in here for item in self.standing_on(item_id)):
            if item["kind"] != "guest":
                above.add(item["host"])
            elif f"host:{host}" not in item["stands_on"]:
                # The nodes of a cluster have no order among themselves; what they all stand on comes after each.
                above |= {parent.partition(":")[2] for parent in item["stands_on"] if parent.startswith("host:")}
        return sorted(above - {host})

    def media_hosts(self, medium: Item) -> list[str]:
        """Hosts that must be off before this medium is wiped: its own and those of the data sets on it.

        A virtual disk is wiped on its host, which stays: then those that ran inside its guests."""
        if in_place(medium):
            above = [item for data_set in self.carried_by(medium["id"]) for item in self.standing_on(data_set["id"])]
            return sorted({item["host"] for item in above if item["kind"] == "host"})
        return sorted({medium["host"], *(data_set["host"] for data_set in self.carried_by(medium["id"]))})

    def unclassified(self, host: str | None = None) -> list[dict[str, Any]]:
        """What was found and is neither planned nor classified by a person. Foreign engines are a matter of attestations instead."""
        found = [one for one in self.data.get("findings", []) if not one.get("classified") and not one.get("foreign")]
        return [one for one in found if host in (None, one["host"])]

    def foreign(self, host: str | None = None) -> list[dict[str, Any]]:
        """Engines and hypervisors that were found and are not driven: no classification settles them."""
        return [one for one in self.data.get("findings", []) if one.get("foreign") and host in (None, one["host"])]


def parse(text: bytes) -> Plan:
    """Read and check a plan. Raises Refusal naming every fault."""
    try:
        data = json.loads(text)
    except ValueError as exc:
        raise Refusal(f"the plan is not JSON ({exc}); make it again with playbooks/survey.yml") from None
    problems = faults(data) if isinstance(data, dict) else ["it is not a mapping"]
    if problems:
        raise Refusal("the plan cannot be used: " + "; ".join(problems) + ". Mend the inventory and survey again.")
    return Plan(data, hashlib.sha256(text).hexdigest(), {item["id"]: item for item in data["items"]})


def load(path: Path) -> Plan:
    try:
        return parse(path.read_bytes())
    except FileNotFoundError:
        raise Refusal(f"there is no plan at {path}; run playbooks/survey.yml first") from None


def from_within(medium: Item) -> bool:
    """Whether the host itself wipes this medium, in a rescue system; else a station does."""
    return medium["wipe"].get("way") in WITHIN


def in_place(medium: Item) -> bool:
    """Whether this is a virtual disk that is wiped where it lies, on a host that stays in use."""
    return bool(medium["wipe"].get("way") == "in-place")


def subject(item: Item) -> str:
    """What evidence about an item is about: digest of its identity and place. Another thing under the same name has another one."""
    return digest({"id": item["id"], "host": item["host"], "identity": item["identity"]})


def faults(data: dict[str, Any]) -> list[str]:
    """What is wrong with a plan, in words; an empty list if nothing is."""
    wrong = [f"the field {name} is missing" for name in ("estate", "waves", "vaults", "allowed_signers", "items") if not data.get(name)]
    if data.get("schema") != SCHEMA:
        wrong.append(f"its schema is {data.get('schema')!r}, this version reads {SCHEMA}")
    if wrong:
        return wrong
    items: list[Item] = data["items"]
    wrong += [
        f"the item {item.get('id', item)!r} lacks {name}"
        for item in items
        for name in (*FIELDS, *(("wipe",) if item.get("kind") == "medium" else ()))
        if name not in item
    ]
    if wrong:
        return wrong
    wrong += _setting_faults(data)
    ids = [item["id"] for item in items]
    wrong += [f"{item_id} is there twice" for item_id in sorted({i for i in ids if ids.count(i) > 1})]
    for item in items:
        wrong += _item_faults(item, set(ids), data["waves"])
    if not wrong:
        wrong += guest_faults(items)
        wrong += _engine_faults(items)
        wrong += _staying_faults(items)
        wrong += _circles(items)
        wrong += _dark_vaults(items, data["vaults"])
        wrong += _twins(items)
        wrong += _rescue_faults(items)
    return wrong


def _item_faults(item: Item, ids: set[str], waves: list[str]) -> list[str]:
    wrong = []
    name = item["id"]
    if item.get("kind") not in KINDS:
        wrong.append(f"{name} is of the unknown kind {item.get('kind')!r} (known: {', '.join(KINDS)})")
    if item.get("wave") not in waves:
        wrong.append(f"{name} belongs to the wave {item.get('wave')!r}, which the plan does not have")
    if not item.get("identity"):
        wrong.append(f"{name} has no identity")
    wrong += [f"{name} stands on {parent}, which the plan does not have" for parent in item["stands_on"] if parent not in ids]
    wrong += [f"{name} lies on {medium}, which the plan does not have" for medium in item.get("media", []) if medium not in ids]
    wrong += [f"{name} lies on {medium}, which is no medium" for medium in item.get("media", []) if not medium.startswith("medium:")]
    if item.get("kind") in ("database", "filestore") and not item.get("media") and not _elsewhere(item):
        wrong.append(f"{name} lies on no known medium")
    if item["kind"] == "medium":
        wrong += _way_faults(item)
    if not name.startswith(f"{item['kind']}:") or (item["kind"] == "host" and name != f"host:{item['host']}"):
        wrong.append(f"{name} is not named after its kind {item['kind']!r}" + (" and host" if item["kind"] == "host" else ""))
    within = item["expects"].get("reach") or {}
    if within.get("kind") == "container" and not any(parent.startswith("container:") for parent in item["stands_on"]):
        wrong.append(f"{name} is served by the container {within.get('container')!r}, but stands on no item of containers (uses)")
    if f"host:{item['host']}" not in ids:
        wrong.append(f"{name} is on {item['host']}, which is no host of the plan")
    if item["kind"] == "application" and not any(item["expects"].get(part) for part in ("schedulers", "web", "services")):
        wrong.append(f"{name} declares nothing to freeze or stop (schedulers, web, services), so nothing could show that it is down")
    return wrong


def _way_faults(item: Item) -> list[str]:
    """Who wipes a medium: a station that is named, or the very host that it is in."""
    way, where = item["wipe"].get("way", "station"), item["wipe"].get("host")
    if way not in WAYS:
        return [f"{item['id']} is to be wiped by {way!r} (known: {', '.join(WAYS)})"]
    if way == "in-place" and (where != item["host"] or "guests" not in item["expects"]):
        return [f"{item['id']} is to be wiped in place; only disks of guests are, as the survey finds them, on their own host"]
    if way in WITHIN and where != item["host"]:
        return [f"{item['id']} is to be wiped from within ({way}), by {where}; only its own host {item['host']} can do that"]
    return []


def _engine_faults(items: list[Item]) -> list[str]:
    """An engine is no service of an application: those stop before the containers, which need it to be stopped one by one."""
    wrong = []
    for item in items:
        named = [str(service.get("unit")) for service in item["expects"].get("services") or []]
        engines = sorted(unit for unit in named if service_container_engines.engine_of(unit))
        sets = sorted(one["id"] for one in items if one["kind"] == "container" and one["host"] == item["host"])
        if engines and sets:
            wrong.append(
                f"{item['id']} names {', '.join(engines)} under services, and {', '.join(sets)} needs that engine to be stopped and saved after it; "
                "take it out of services: the containers are kept from coming back one by one, and the engine goes off with its host"
            )
    return wrong


def _staying_faults(items: list[Item]) -> list[str]:
    """On a host that stays only sets of guests are retired: nothing there is ever off, so what it carries itself cannot be proven dead."""
    staying = {item["host"] for item in items if item["kind"] == "host" and item["expects"].get("stays")}
    wrong = []
    for item in items:
        if (
            item["kind"] == "medium"
            and item["wipe"].get("way") == "in-place"
            and item["host"] not in staying
            and item["expects"].get("layers")
        ):
            wrong.append(f"{item['id']} is to be wiped in place, but its host {item['host']} does not stay (sunset_stays)")
        if item["host"] not in staying or item["kind"] in ("host", "guest"):
            continue
        if item["kind"] != "medium":
            wrong.append(
                f"{item['id']} is on {item['host']}, which stays (sunset_stays); only sets of guests can be retired on such a host"
            )
        elif item["wipe"].get("way") != "in-place":
            wrong.append(
                f"{item['id']} is a medium of {item['host']}, which stays (sunset_stays) and is never off; take it out of the inventory"
            )
    return wrong


def _rescue_faults(items: list[Item]) -> list[str]:
    """A host has one way into its rescue, and one over its controller needs that controller and what it is to boot from."""
    wrong, ways = [], {}  # type: list[str], dict[str, set[str]]
    for item in items:
        if item["kind"] == "medium" and from_within(item):
            ways.setdefault(item["host"], set()).add(str(item["wipe"]["way"]))
    for host in (item for item in items if item["kind"] == "host"):
        found = sorted(ways.get(host["host"], ()))
        if len(found) > 1:
            wrong.append(f"the media of {host['host']} are to be wiped from within by {' and by '.join(found)}; a host goes one way")
        for way in found:
            if way not in BOOTED:
                continue
            wanted, kinds = BOOTED[way]
            boot, power = host["expects"].get("rescue_boot") or {}, host["expects"].get("power") or {}
            witnesses = [power] if isinstance(power, dict) else power
            if boot.get("way") != wanted or not (boot.get("publish") or boot.get("serve")):
                how = "serve, or publish and url" if wanted == "media" else "publish"
                wrong.append(
                    f"media of {host['host']} are to be wiped in a rescue that it boots by {way}; that needs sunset_rescue_boot of the "
                    f"host, with way: {wanted} and {how} (a medium of somebody else's making carries no key to know it by)"
                )
            if not any(one.get("kind") in kinds for one in witnesses):
                wrong.append(
                    f"{host['host']} is to boot its rescue by {way}, and no witness of it is a controller of kind {' or '.join(kinds)}"
                )
    return wrong


def _elsewhere(item: Item) -> bool:
    """A database on a server that is no part of the estate, reached over the network: a person has declared that no medium here carries it."""
    expects = item["expects"]
    return bool(expects.get("data") == "elsewhere" and (expects.get("reach") or {}).get("kind") == "tcp" and not expects.get("unit"))


def _setting_faults(data: dict[str, Any]) -> list[str]:
    """Settings that would open a gate by themselves, or that nobody can read."""
    wrong, settings = [], data.get("settings", {})
    if len(set(data["waves"])) != len(data["waves"]):
        wrong.append("a wave is named twice")
    if data.get("control", "dual") not in ("dual", "single"):
        wrong.append(f"control is {data['control']!r} (known: dual, single)")
    for name, detail in data["vaults"].items() if isinstance(data["vaults"], dict) else ():
        if isinstance(detail, dict) and detail.get("shelf"):
            wrong += [f"the shelf of the vault {name}: {fault}" for fault in shelf_faults(detail["shelf"])]
    limits = (("proofs_required", len(data["vaults"])), ("custodians_required", len(data.get("custodians", []))))
    for name, most in limits:
        value = settings.get(name, 1)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1 or (name in settings and value > most):
            wrong.append(f"the setting {name} is {value!r}; expected a whole number from 1 to {most}")
    if "retention" in settings:
        wrong += retention.faults(settings["retention"], {str(item.get("id")) for item in data["items"]})
    if "wipe_policy" in settings:
        problem = wipe_decide.policy_problem(settings["wipe_policy"])
        wrong += [f"the setting wipe_policy cannot be used: {problem}"] if problem else []
    if settings.get("acceptance", "automatic") not in ("automatic", "signed"):
        wrong.append(f"the setting acceptance is {settings['acceptance']!r} (known: automatic, signed)")
    if settings.get("timestamp"):
        from ansible_collections.sunset.crm.plugins.plugin_utils.certificates.timestamps import faults as stamp_faults

        wrong += stamp_faults(settings["timestamp"])
    if not isinstance(settings.get("fonts", []), list):
        wrong.append(f"the setting fonts is {settings['fonts']!r}; expected a list of paths of TrueType files")
    grace = settings.get("grace_seconds", 0)
    if not isinstance(grace, int | float) or isinstance(grace, bool) or not grace >= 0:
        wrong.append(f"the setting grace_seconds is {grace!r}; expected a number of seconds")
    return wrong


def _twins(items: list[Item]) -> list[str]:
    """Two items for one device: the authorisation of one would wipe the other."""
    known: dict[str, str] = {}
    wrong = []
    for item in items:
        told = {name: item["identity"].get(name) for name in ("serial", "wwid", "inode", "size")}
        if item["kind"] == "medium" and any(told[name] for name in ("serial", "wwid", "inode")):
            twin = known.setdefault(digest(told), item["id"])
            if twin != item["id"]:
                wrong.append(f"{twin} and {item['id']} are the same device ({told['serial'] or told['wwid'] or told['inode']})")
    return wrong


def _circles(items: list[Item]) -> list[str]:
    try:
        order(items)
    except CycleError as exc:
        return ["these items stand on each other in a circle: " + " -> ".join(exc.args[1])]
    return []


def _dark_vaults(items: list[Item], vaults: list[str]) -> list[str]:
    hosts = {item["host"] for item in items if item["kind"] == "host"}
    return [f"the vault {vault} is itself a host that goes off" for vault in vaults if vault in hosts]


def order(items: list[Item]) -> list[str]:
    """Ids, each after everything that it stands on."""
    return list(TopologicalSorter({item["id"]: item["stands_on"] for item in items}).static_order())


def wave_of_shared(waves: list[str], users: Iterable[str]) -> str:
    """The wave of an item that serves several: the last of them."""
    return max(users, key=waves.index)
