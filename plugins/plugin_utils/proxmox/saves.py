# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is kept of guests of Proxmox VE that are off: their definitions, and by choice snapshots and backups.

A snapshot lies on the same pool as the disk: it is no copy, and is never called one. All of it is taken of guests that are
off, which is the only state in which everything in them is at rest without asking an agent.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ansible_collections.sunset.crm.plugins.plugin_utils import relay
from ansible_collections.sunset.crm.plugins.plugin_utils.actions.account import Account
from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.guests import guests
from ansible_collections.sunset.crm.plugins.plugin_utils.guests.guests import Guest
from ansible_collections.sunset.crm.plugins.plugin_utils.proxmox import guests as seeing, tasks
from ansible_collections.sunset.crm.plugins.plugin_utils.proxmox.cluster import Cluster
from ansible_collections.sunset.crm.plugins.plugin_utils.proxmox.copies import Backups, Snapshots, Wish, left_out, name_problem


def definition(one: Guest, config: Mapping[str, Any]) -> bytes:
    """What a guest is, as a file. The digest is left out: it changes with every look at a snapshot."""
    whole = {
        "id": one.key,
        "kind": one.record["kind"],
        "vmid": one.record["vmid"],
        "name": one.record["guest_name"],
        "config": {name: value for name, value in config.items() if name != "digest"},
    }
    return json.dumps(whole, sort_keys=True, indent=1).encode("utf-8")


# --- the whole -----------------------------------------------------------------------------------------------------------


def save(cluster: Cluster, account: Account, reach: relay.Reach, wish: Wish, check: bool) -> dict[str, Any]:
    """Snapshots and backups where they are wished, then the definitions, which name the snapshots too."""
    if wish.snapshot and (problem := name_problem(wish.snapshot)):
        raise Refusal(f"{problem}. Nothing was changed.")
    if wish.storage == "":
        raise Refusal("the item wants copies (copy: true) and names no storage for them (storage). Nothing was changed.")
    found = _at_rest(cluster, wish, check)
    account.before, account.tools = records(found), cluster.tools()
    snapped = Snapshots(cluster, wish, [one for one in found if not one.record["template"]] if wish.snapshot else [])
    dumped = Backups(cluster, wish, found if wish.storage is not None else [])
    result: dict[str, Any] = {
        "snapshots": {},
        "backups": {},
        "leave_out": sorted(wish.leave_out),
        "templates": [one.name for one in found if one.record["template"]],
    }
    stale = _stale(cluster, reach, wish, found)
    if check:
        account.after = account.before
        todo = {"would_snapshot": snapped.names, "would_back_up": dumped.names, "would_save": stale}
        locked = {one.name: one.record["lock"] for one in found if one.record["lock"] in tasks.OWNERS}
        changed = bool(snapped.names or dumped.names or stale)
        return account.done(changed, "unknown" if changed else "yes", {**result, **todo, "waits_for": locked})
    copied = found if wish.snapshot or wish.storage is not None else []
    starts = cluster.each(lambda one: _last_start(cluster, one), copied)
    bad = snapped.take(account, result)
    bad += dumped.take(account, result)
    if not bad:
        stale = _stale(cluster, reach, wish, found)
        bad = _put(cluster, account, reach, wish, found, stale, result)
    after = cluster.observe()
    account.after = records(after)
    # Whoever ran while it was saved was not at rest, whatever Proxmox says of the snapshot.
    up = sorted(one.name for one in after if one.power != "off")
    ran = {name for name, last in cluster.each(lambda one: _last_start(cluster, one), copied).items() if last != starts[name]}
    bad += [f"{name} was started while it was saved; stop it, then save it again" for name in sorted({*up, *ran})]
    if bad:
        return account.failed(f"{'; '.join(bad)}. Mend that, then run the same command again.", result)
    return account.done(account.acted, "yes", result)


def _last_start(cluster: Cluster, one: Guest) -> str:
    """The newest task that started a guest, by name; no clock is compared."""
    place = cluster.place(one)
    last = tasks.last_of(tasks.of_guest(cluster.api, place.node, place.vmid), place.vmid, tasks.START)
    return last.text if last else ""


def records(seen: Iterable[Guest]) -> dict[str, Any]:
    return {guest.name: {k: v for k, v in guest.record.items() if k != "former"} for guest in seen}


def _at_rest(cluster: Cluster, wish: Wish, check: bool) -> list[Guest]:
    """The guests of the set: off, not hibernated, and nothing of them passed over in silence."""
    found = cluster.observe()
    guests.check_set(wish.expected, found, cluster.what)
    running = sorted(one.name for one in found if one.power != "off")
    # In check mode nothing was stopped yet; by its turn in a real run it will be.
    if running and not check:
        raise Refusal(f"{', '.join(running)} still runs; stop the set first (state: stopped), then it is at rest. Nothing was changed.")
    verbs = [verb for verb, wished in (("snapshot", wish.snapshot), ("backup", wish.storage)) if wished]
    hibernated = [one.name for one in found if one.record["lock"] == "suspended"]
    if hibernated and verbs:
        raise Refusal(
            f"{', '.join(hibernated)}: {seeing.HIBERNATED}, so no {' or '.join(verbs)} of it is worth its name. Nothing was changed. Start it, "
            "stop it properly (state: stopped), then run the same command again."
        )
    passed = sorted(
        {
            f"{one.name}:{key}"
            for verb in verbs
            for one in found
            for key in left_out(one.record["kind"], one.record["disks"], verb)
            if f"{one.name}:{key}" not in wish.leave_out
        }
    )
    if passed:
        raise Refusal(
            f"Proxmox would leave out {', '.join(passed)} without a word (a bind mount, or a disk that is excluded from backups). Nothing was "
            "changed. Keep its content as a file store, or include it; or name it in the item's leave_out, which is recorded."
        )
    return found


# --- definitions ---------------------------------------------------------------------------------------------------------


def _path(wish: Wish, one: Guest) -> str:
    return posixpath.join(wish.staging, f"guest-{one.record['vmid']}.definition.json")


def _definitions(cluster: Cluster, found: Sequence[Guest]) -> dict[str, bytes]:
    return {
        name: definition(next(one for one in found if one.name == name), config)
        for name, config in cluster.each(lambda one: cluster.api.get(*cluster.place(one).path, "config"), found).items()
    }


def _stale(cluster: Cluster, reach: relay.Reach, wish: Wish, found: Sequence[Guest]) -> list[str]:
    """Guests whose definition does not lie in staging as it is."""
    there = relay.digests(reach, [_path(wish, one) for one in found])
    now = _definitions(cluster, found)
    return [one.name for one in found if there[_path(wish, one)] != _facts(now[one.name])]


def _facts(text: bytes) -> dict[str, Any]:
    return {"sha256": hashlib.sha256(text).hexdigest(), "bytes": len(text)}


def _put(
    cluster: Cluster,
    account: Account,
    reach: relay.Reach,
    wish: Wish,
    found: Sequence[Guest],
    stale: Sequence[str],
    result: dict[str, Any],
) -> list[str]:
    """Write the definitions that are not there; what is wrong with them when they are read again."""
    now = _definitions(cluster, found)
    for one in found:
        if one.name in stale:
            relay.put(reach, _path(wish, one), [now[one.name]])
            account.did(did="saved its definition", guest=one.name)
    there = relay.digests(reach, [_path(wish, one) for one in found])
    artefacts, source = [], {}
    for one in found:
        facts, name = _facts(now[one.name]), f"guest-{one.record['vmid']}-definition"
        artefacts.append(
            {
                "name": name,
                "role": "definition",
                "path": _path(wish, one),
                **facts,
                "plain_sha256": facts["sha256"],
                "plain_bytes": facts["bytes"],
                "codec": "none",
            }
        )
        source[one.name] = {"id": one.key, "definition": name, "artefacts": {name: facts["sha256"]}}
    result.update(artefacts=artefacts, source={"guests": source})
    torn = [_path(wish, one) for one in found if there[_path(wish, one)] != _facts(now[one.name])]
    return [f"read again, {', '.join(torn)} is not what was written; check the medium of {wish.staging}"] if torn else []
