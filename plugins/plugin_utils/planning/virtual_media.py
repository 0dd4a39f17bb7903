# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The disks of guests as media of the plan: on which devices they lie, and, where their hypervisor stays, as media of their own. Pure.

A layer (file or volume) belongs to one medium. What only one disk has is that disk's medium; what several disks of the plan share is one of its own;
what a guest outside the plan uses is nobody's to wipe, and is named.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from ansible_collections.sunset.crm.plugins.module_utils._volume import chain as volume_chain

Facts = dict[str, Any]
# Types of disks whose layers lie on the host itself.
LOCAL = ("file", "block")
REMOVE = {
    "pve": "remove it on the cluster with its snapshots and replicas (pvesm free, or qm destroy --purge with its guest, when that is off); what the disks "
    "of the nodes keep is not covered by that",
    "rbd": "remove the image with its snapshots, clones and entry in the trash (rbd snap purge, rbd rm, rbd trash ls), and on mirrors too; what the "
    "physical disks of the cluster keep is not covered by that",
}
BY_HAND = "remove it with the tools of its storage, snapshots and copies with it; what the physical disks below keep is not covered by that"


def by_hand(medium: Facts) -> str:
    """Why this module does not overwrite a virtual medium, and what to do; empty if it does."""
    if medium["expects"].get("layers"):
        return ""
    kind = str(medium["identity"].get("kind"))
    return (
        f"it is {medium['identity'].get('serial')} ({kind}), which is not overwritten here: nothing could show which blocks that would reach. "
        f"Have somebody {REMOVE.get(kind, BY_HAND)}; then sign a disposal that names its serial {medium['identity'].get('serial')!r} (scripts/statement dispose)"
    )


def lay_out(items: list[Facts], hosts: dict[str, Facts]) -> list[str]:
    """Add to items what the disks of their guests are, and return what stands against it.

    items: those of the plan so far. hosts: name -> its survey (expected) and whether it stays.
    """
    lacks: list[str] = []
    for host, facts in sorted(hosts.items()):
        seen = (facts.get("survey") or {}).get("expected", {})
        sets = [item for item in items if item["kind"] == "guest" and item["host"] == host and "disks" in seen.get(item["id"], {})]
        rows = [{**row, "set": item["id"]} for item in sets for row in seen[item["id"]]["disks"]]
        own = [row for row in rows if not row.get("stranger")]
        covered = {row["guest"] for row in own}
        # One set's stranger may be another set's guest.
        strangers = [row for row in rows if row.get("stranger") and row["guest"] not in covered]
        lacks += _untold(own, host)
        if facts.get("stays"):
            lacks += _media_of(items, sets, host, own, strangers, facts.get("virtual") or {})
            continue
        for item in sets:
            mine = [row for row in own if row["set"] == item["id"]]
            item["_media"] = _distinct(device for row in mine for device in row.get("media") or [])
            # A node that goes off takes its local storages with it; which those are its cluster's API does not tell.
            far = [row for row in mine if row["type"] not in (*LOCAL, "pve")]
            if far:
                names = {one["id"] for one in items}
                made = [_far(item, host, row, names) for row in _merged(far)]
                items += made
                item["_also"] = [medium["id"] for medium in made]
    return lacks


def _distinct(rows: Iterable[Facts]) -> list[Facts]:
    found: list[Facts] = []
    for row in rows:
        if row not in found:
            found.append(row)
    return found


def _untold(rows: Sequence[Facts], host: str) -> list[str]:
    return [
        f"{row['set']} on {host}: what the disk {row['target']} of {row['guest']} ({row['source'] or row['type']}) is made of cannot be told: {row['problem']}"
        for row in rows
        if row["type"] in LOCAL and row.get("problem")
    ]


def _media_of(items: list[Facts], sets: list[Facts], host: str, own: list[Facts], strangers: list[Facts], wishes: Facts) -> list[str]:
    """A medium for each disk of guests whose hypervisor stays, and one for each layer that several of them share."""
    lacks = []
    by_id = {item["id"]: item for item in sets}
    users: dict[str, list[Facts]] = {}
    for row in own:
        for layer in row.get("chain") or []:
            users.setdefault(layer["path"], []).append(row)
    foreign: dict[str, set[str]] = {}
    for row in strangers:
        for layer in row.get("chain") or []:
            if layer["path"] in users:
                foreign.setdefault(layer["path"], set()).add(str(row["guest"]))
    for path, guests in sorted(foreign.items()):
        mine = ", ".join(sorted({f"{row['target']} of {row['guest']}" for row in users[path]}))
        lacks.append(
            f"{path} on {host} is a layer of the disk {mine}, and of the guest {', '.join(sorted(guests))}, which no set retires: it cannot be "
            "wiped. Give that guest a disk of its own (virsh blockpull, or qemu-img rebase when it is off), or retire it too"
        )
    names: set[str] = {item["id"] for item in items}
    made: list[Facts] = []
    shared: dict[str, Facts] = {}
    for row in _merged(own):
        item = by_id[row["set"]]
        found = item.setdefault("_also", [])
        if row["type"] not in LOCAL:
            made.append(_far(item, host, row, names))
            found.append(made[-1]["id"])
            continue
        alone = [layer for layer in row["chain"] if len({_disk(user) for user in users[layer["path"]]}) == 1]
        if alone:
            made.append(_medium(item, host, alone, _name(item, f"{row['guest']}-{row['target']}", names), [row], wishes))
            found.append(made[-1]["id"])
        for layer in row["chain"]:
            if layer in alone or layer["path"] in foreign:
                continue
            if layer["path"] not in shared:
                name = _name(item, "base-" + layer["path"].rsplit("/", 1)[-1], names)
                shared[layer["path"]] = _medium(item, host, [layer], name, users[layer["path"]], wishes)
            base = shared[layer["path"]]["id"]
            found += [base] if base not in found else []
    # What others stand on comes last: its turn is when they are gone.
    items += [*made, *shared.values()]
    return lacks


def _merged(rows: list[Facts]) -> list[Facts]:
    """One row a disk: the running definition of a guest may have layers that the kept one has not, and the other way about."""
    found: dict[tuple[str, str, str], Facts] = {}
    for row in sorted(rows, key=lambda one: -len(one.get("chain") or [])):
        known = found.setdefault(_disk(row), {**row, "chain": list(row.get("chain") or [])})
        paths = {layer["path"] for layer in known["chain"]}
        known["chain"] += [layer for layer in row.get("chain") or [] if layer["path"] not in paths]
    return [found[key] for key in sorted(found)]


def _disk(row: Facts) -> tuple[str, str, str]:
    return str(row["set"]), str(row["guest"]), str(row["target"])


def _name(item: Facts, what: str, names: set[str]) -> str:
    """An id that no name of a guest or file can bend, and that no other medium has."""
    kept = re.sub(r"[^A-Za-z0-9._-]", "_", f"{item['id'].partition(':')[2]}-{what}")[:100]
    found, number = f"medium:{kept}", 1
    while found in names:
        number += 1
        found = f"medium:{kept}-{number}"
    names.add(found)
    return found


def _medium(item: Facts, host: str, layers: list[Facts], name: str, users: Sequence[Facts], wishes: Facts) -> Facts:
    told = [volume_chain.told(layer) for layer in layers]
    return {
        "id": name,
        "kind": "medium",
        "host": host,
        "wave": item["wave"],
        "identity": volume_chain.identity(told),
        "stands_on": [],
        "expects": {
            "device": told[0]["path"],
            "layers": told,
            **({"pool_limit": wishes["pool_limit"]} if "pool_limit" in wishes else {}),
            "guests": [list(pair) for pair in sorted({(str(row["guest"]), str(row["target"])) for row in users})],
        },
        "wipe": {"way": "in-place", "host": host, "method": "overwrite", **({"remove": True} if wishes.get("remove") else {})},
    }


def _far(item: Facts, host: str, row: Facts, names: set[str]) -> Facts:
    """A disk that lies on no device of the host (RBD, iSCSI, NBD ...): it is in the plan, and a person has to account for it."""
    kind = str(row["source"]).partition(":")[0] or str(row["type"])
    return {
        "id": _name(item, f"{row['guest']}-{row['target']}", names),
        "kind": "medium",
        "host": host,
        "wave": item["wave"],
        "identity": {"kind": kind, "serial": str(row["source"] or f"{row['type']} disk {row['target']} of {row['guest']}")},
        "stands_on": [],
        "expects": {"guests": [[str(row["guest"]), str(row["target"])]]},
        "wipe": {"way": "in-place", "host": host, "method": "by hand"},
    }


def overlays(medium: Facts, chains: Facts) -> list[Facts]:
    """What was put on top of this medium since the survey, as the save of its guest saw it (C(chains): guest -> its disks and their files).

    Raises ValueError where what was saved is not this disk any more.
    """
    mine = [layer["path"] for layer in medium["expects"]["layers"]]
    users = medium["expects"]["guests"]
    if len(users) != 1:
        return []  # a shared layer is never the top one
    guest, target = users[0]
    for disk in chains.get(guest, []):
        if disk["target"] != target:
            continue
        volume = medium["expects"]["layers"][0]["kind"] != "file"
        # A volume has several paths; a device in the chain is that one, and the module compares what it is.
        known = [number for number, one in enumerate(disk["files"]) if one["path"] in mine or (volume and one.get("device"))]
        if not known:
            paths = ", ".join(one["path"] for one in disk["files"]) or "unknown"
            raise ValueError(f"when {guest} was saved, its disk {target} was {paths}; the plan has {', '.join(mine)}. Survey again")
        return [_overlay(one) for one in disk["files"][: known[0]]]
    return []


def _overlay(one: Facts) -> Facts:
    if one.get("device"):
        raise ValueError(f"{one['path']}, which was put on top since the survey, is a device; survey again")
    found = {"path": one["path"], "format": one["format"], "kind": "file", "inode": one["inode"]}
    return {**found, **({"virtual_bytes": one["virtual_bytes"]} if one.get("virtual_bytes") else {})}


def copies(medium: Facts, artefacts: Sequence[Facts], source: Facts, staging: str) -> list[Facts]:
    """Staged copies of what this medium held: files of the dump whose guest it is, below the staging place of the host."""
    mine = {guest for guest, _target in medium["expects"]["guests"]}
    names = {name for guest in mine for name in (source.get("guests", {}).get(guest) or {}).get("artefacts", {})}
    below = staging.rstrip("/") + "/"
    return [
        {"path": one["path"], "kind": "file", "bytes": one["bytes"]}
        for one in artefacts
        if one["name"] in names and str(one["path"]).startswith(below) and "/../" not in str(one["path"])
    ]
