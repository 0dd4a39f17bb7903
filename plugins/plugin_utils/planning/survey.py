# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From what the inventory declares and what the hosts showed to a plan. Pure."""

from __future__ import annotations

from typing import Any

from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.guests import sets as guest_sets
from ansible_collections.sunset.crm.plugins.plugin_utils.planning import profiles, standing, virtual_media
from ansible_collections.sunset.crm.plugins.plugin_utils.planning.plan import DATA_SETS, SCHEMA, WITHIN, wave_of_shared

Facts = dict[str, Any]

# Identity fields of a medium that must be equal between plan, survey and authorisation.
MEDIUM_KEYS = ("serial", "wwid", "size", "inode")
# Those of them that tell one medium from another; a size alone does not.
TELLING = ("serial", "wwid", "inode")


def build(estate: Facts, hosts: dict[str, Facts]) -> tuple[dict[str, Any], list[str]]:
    """The plan and what stands against it.

    estate: estate, waves, vaults, custodians, settings, allowed_signers, control, classified, profiles (folders looked at first).
    hosts: name -> wave, power, reach, items (the inventory's declarations), survey (what host_survey returned, or None), kept
    (items and findings of the last plan, for a host that is proven off).
    The second value names everything expected that is missing or unknown; a plan with such faults must not be written.
    """
    lacks: list[str] = []
    items: list[Facts] = []
    findings: list[Facts] = []
    seen_uuids: dict[str, str] = {}
    for host, facts in sorted(hosts.items()):
        survey = facts.get("survey")
        if not survey and facts.get("kept"):
            # Proven off: nobody can look again, and nothing can have changed since the plan that it went off with.
            items += facts["kept"]["items"]
            findings += [_finding(host, found, estate.get("classified", [])) for found in facts["kept"]["findings"]]
            continue
        if not survey:
            lacks.append(f"{host}: it gave no survey (unreachable, or its survey failed)")
            continue
        items.append(_host(host, facts, survey))
        seen_uuids[host] = str(survey.get("product_uuid") or "")
        if facts["reach"].get("user", "root") != "root" and any(declared["kind"] in DATA_SETS for declared in facts["items"]):
            lacks.append(
                f"{host}: Ansible logs in as {facts['reach']['user']}; the vaults read the staging places as root, so that must be root"
            )
        for declared in facts["items"]:
            items.append(_declared(host, facts, declared, survey, lacks))
        # What else is on a host that stays is its owner's: it is not switched off, and no disk of it is wiped.
        findings += [_finding(host, found, estate.get("classified", [])) for found in survey.get("findings", []) if not facts.get("stays")]
    lacks += virtual_media.lay_out(items, hosts)
    _lay_on_media(items, lacks)
    for host, facts in sorted(hosts.items()):
        lacks += _staging(host, facts, items)
    lacks += _stand(
        items, {host: facts["survey"]["machine"] for host, facts in hosts.items() if (facts.get("survey") or {}).get("machine")}
    )
    guest_sets.lay_on_nodes(items)
    _share_waves(items, estate["waves"])
    lacks += _other_machines(items, seen_uuids)
    profiles.lay_out(items, lambda name: profiles.load(name, estate.get("profiles", [])), estate.get("settings", {}), lacks)
    plan = {
        "schema": SCHEMA,
        "estate": estate["estate"],
        "control": estate.get("control", "dual"),
        "waves": estate["waves"],
        "vaults": estate["vaults"],
        "custodians": estate["custodians"],
        "settings": estate.get("settings", {}),
        "allowed_signers": estate["allowed_signers"],
        "items": items,
        "findings": sorted(findings, key=lambda f: (f["host"], f["id"])),
    }
    return plan, lacks


def _host(host: str, facts: Facts, survey: Facts) -> Facts:
    identity = {name: survey[name] for name in ("machine_id", "hostname") if survey.get(name)}
    # A host that runs inside a guest stands on the set of that guest.
    guest = facts.get("guest") or {}
    return {
        "id": f"host:{host}",
        "kind": "host",
        "host": host,
        "wave": facts["wave"],
        "identity": identity,
        "stands_on": sorted({*([guest["item"]] if guest else []), *facts.get("stands_on", [])}),
        "expects": {
            "power": facts["power"],
            "reach": facts["reach"],
            "profiles": facts.get("profiles", {}),
            **({"guest": guest} if guest else {}),
            **({"stays": True} if facts.get("stays") else {}),
            **({"rescue_boot": facts["rescue_boot"]} if facts.get("rescue_boot") else {}),
            # By which its management controller is known to be its own.
            **({"board": survey["machine"]["board"]} if (survey.get("machine") or {}).get("board") else {}),
            **({"rescue": facts["rescue"]} if facts.get("rescue") else {}),
            # What brings the container engines back, and whether containers need them; no part of what the host is.
            **({"engines": survey["engines"]} if survey.get("engines") else {}),
        },
    }


def _declared(host: str, facts: Facts, declared: Facts, survey: Facts, lacks: list[str]) -> Facts:
    item_id = f"{declared['kind']}:{declared['name']}"
    seen = survey.get("expected", {}).get(item_id, {})
    found = seen.get("found", "unknown")
    if found != "yes":
        what = "is not there" if found == "no" else "could not be examined"
        lacks.append(f"{item_id} on {host} {what}: {seen.get('detail') or 'the survey says nothing of it'}")
    expects = {key: value for key, value in declared.items() if key not in ("kind", "name", "uses", "wave", "identity", "wipe", "hosts")}
    item = {
        "id": item_id,
        "kind": declared["kind"],
        "host": host,
        "wave": declared.get("wave", facts["wave"]),
        "identity": seen.get("identity") or {},
        "stands_on": sorted(
            {
                *declared.get("uses", []),
                *_volumes(declared),
                # The other nodes of a cluster whose guests these are.
                *(f"host:{node}" for node in declared.get("hosts", [])),
                *([f"host:{host}"] if declared["kind"] != "medium" else []),
            }
        ),
        "expects": expects,
    }
    if declared["kind"] in DATA_SETS:
        item["_media"] = seen.get("media", [])
    if declared["kind"] == "medium":
        item["wipe"] = {**({"host": host} if declared["wipe"].get("way") in WITHIN else {}), **declared["wipe"]}
        for key, value in declared.get("identity", {}).items():
            if key in MEDIUM_KEYS and item["identity"].get(key) != value:
                lacks.append(f"{item_id} on {host}: {key} is {item['identity'].get(key)!r}, the inventory expects {value!r}")
    return item


def _stand(items: list[Facts], machines: Facts) -> list[str]:
    """Let hosts stand on those whose guests they are, or whose storage they use, as the machines themselves show it."""
    by_id = {item["id"]: item for item in items}
    lacks = []
    for host, carriers in standing.below(machines).items():
        item = by_id[f"host:{host}"]
        if item["expects"].get("guest"):
            # A person has said in which set it is, and that set stands on the nodes.
            carriers = {name: why for name, why in carriers.items() if not why.startswith(standing.GUEST)}
        for carrier, why in carriers.items():
            guest = standing.guest_of(machines[host], machines[carrier])
            sets = [
                one["id"]
                for one in items
                if one["kind"] == "guest" and one["host"] == carrier and guest in one["identity"].get("uuids", {})
            ]
            if guest and sets and not item["expects"].get("guest"):
                lacks.append(
                    f"{host} is the guest {guest} of {carrier}, which is in {sets[0]}: it would be shut down before its data are kept. "
                    f"Say so: sunset_guest: {{item: {sets[0]}, name: {guest}}}"
                )
            item["stands_on"] = sorted({*item["stands_on"], f"host:{carrier}"})
            item["expects"].setdefault("stands_because", {})[f"host:{carrier}"] = why
    return lacks


def _other_machines(items: list[Facts], seen: dict[str, str]) -> list[str]:
    """Hosts that are said to run inside a guest, and whose own firmware names another machine."""
    by_id = {item["id"]: item for item in items}
    lacks = []
    for item in items:
        told = item["expects"].get("guest") or {}
        uuids = by_id.get(told.get("item", ""), {}).get("identity", {}).get("uuids", {})
        wanted, found = str(uuids.get(told.get("name")) or "").lower(), seen.get(item["host"], "").lower()
        if item["kind"] == "host" and wanted and found and wanted != found:
            lacks.append(f"{item['host']} is said to be the guest {told['name']} ({wanted}), but its firmware says {found}")
    return lacks


def _volumes(declared: Facts) -> list[str]:
    return [volume["filestore"] for volume in declared.get("volumes", [])]


def _same_medium(one: Facts, other: Facts) -> bool:
    shared = [key for key in MEDIUM_KEYS if one.get(key) and other.get(key)]
    return any(key in TELLING for key in shared) and all(one[key] == other[key] for key in shared)


def _lay_on_media(items: list[Facts], lacks: list[str]) -> None:
    """Replace the devices that each data set was seen on by the ids of planned media."""
    media = [item for item in items if item["kind"] == "medium"]
    for item in items:
        if "_media" not in item:
            continue
        item["media"] = item.pop("_also", [])
        for device in item.pop("_media"):
            ids = [medium["id"] for medium in media if medium["id"] not in item["media"] and _same_medium(medium["identity"], device)]
            if ids:
                item["media"] += ids
            elif not any(_same_medium(medium["identity"], device) for medium in media):
                name = device.get("serial") or device.get("device") or "an unknown device"
                lacks.append(f"{item['id']} lies on {name}, which no medium of the inventory is")


def _staging(host: str, facts: Facts, items: list[Facts]) -> list[str]:
    """What stands against the staging places of a host: a copy in one is as much worth as the data, and is destroyed by the wipe alone."""
    media = [item for item in items if item["kind"] == "medium"]
    own = [medium for medium in media if medium["host"] == host]
    lacks = []
    for item_id, seen in sorted(((facts.get("survey") or {}).get("staging") or {}).items()):
        if seen["problem"]:
            lacks.append(f"{item_id} on {host}: {seen['problem']}")
            continue
        # A host that stays overwrites what it staged by itself; of a hypervisor without a planned medium a person has decided.
        if facts.get("stays") or seen["in_memory"] or (item_id.startswith("guest:") and not own):
            continue
        bare = [one for one in seen["media"] if not any(_same_medium(medium["identity"], one) for medium in media)]
        where = ", ".join(str(one.get("serial") or one.get("device") or "an unknown device") for one in bare)
        if bare or not seen["media"]:
            lacks.append(
                f"{item_id} on {host}: its staging place {seen['place']} lies on {where or 'no block device that can be seen from there'}, "
                "which no medium of the inventory is: its copy would stay there when all is wiped. Choose a place on a medium that is wiped"
            )
    return lacks


def _share_waves(items: list[Facts], waves: list[str]) -> None:
    """What serves several waves belongs to the last of them."""
    by_id = {item["id"]: item for item in items}
    for item in items:
        if item["wave"] not in waves:
            raise Refusal(f"{item['id']} belongs to the wave {item['wave']!r}; the inventory's waves are {', '.join(waves)}")
    waiting = list(items)
    while waiting:
        item = waiting.pop()
        below = [*item["stands_on"], *item.get("media", [])]
        if item["kind"] == "host":
            below += [medium["id"] for medium in items if medium["kind"] == "medium" and medium["host"] == item["host"]]
        for parent in (by_id[name] for name in below if name in by_id):
            last = wave_of_shared(waves, [parent["wave"], item["wave"]])
            if last != parent["wave"]:
                # It now serves a later wave, and so does all that it stands on.
                parent["wave"] = last
                waiting.append(parent)


def _finding(host: str, found: Facts, classified: list[Facts]) -> Facts:
    """A finding with the classification of the person who gave one, if the id and host fit."""
    for word in classified:
        if word.get("id") == found["id"] and word.get("host", host) == host and word.get("by") and word.get("as"):
            return {**found, "host": host, "classified": {key: word[key] for key in ("by", "as", "reason") if key in word}}
    return {**found, "host": host, "classified": None}
