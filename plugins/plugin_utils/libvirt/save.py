# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Put away what guests of libvirt are when they are off: definition, UEFI variables, and by choice a snapshot and copies of the disks."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.sunset.crm.plugins.plugin_utils import relay
from ansible_collections.sunset.crm.plugins.plugin_utils.actions.account import Account
from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.guests import guests
from ansible_collections.sunset.crm.plugins.plugin_utils.guests.guests import Guest
from ansible_collections.sunset.crm.plugins.plugin_utils.libvirt import disks as libvirt_disks, facts as libvirt_facts
from ansible_collections.sunset.crm.plugins.plugin_utils.libvirt.engine import Engine

SNAPSHOT = "sunset-saved"


@dataclass(frozen=True)
class Wish:
    """What is to be saved, and where. snapshot: none, internal, external."""

    staging: str
    snapshot: str = "none"
    copy: bool = False


@dataclass(frozen=True)
class Found:
    """One guest that is off, with everything that is to be saved of it."""

    guest: Guest
    xml: bytes
    chains: list[dict[str, Any]]
    snapshots: list[tuple[str, str]]

    @property
    def files(self) -> list[dict[str, Any]]:
        """The files of all chains, each once: several disks may have one base."""
        known: dict[str, dict[str, Any]] = {}
        for chain in self.chains:
            for one in chain["chain"]:
                known.setdefault(one["path"], one)
        return list(known.values())

    def state(self, wish: Wish) -> dict[str, Any]:
        """What must be equal for an earlier save to count still. A snapshot changes the files, so it is part of it."""
        return {
            "id": self.guest.key,
            "snapshot": wish.snapshot,
            "copy": wish.copy,
            "disks": [
                {"target": chain["target"], "files": [{k: v for k, v in one.items() if k != "snapshots"} for one in chain["chain"]]}
                for chain in self.chains
            ],
        }


def stem(guest: Guest) -> str:
    """A file name that nothing in a guest's name can bend."""
    kept = "".join(letter if letter.isascii() and (letter.isalnum() or letter in "._-") else "_" for letter in guest.name).lstrip(".")
    return f"{kept[:60] or 'guest'}-{guest.key[:8]}"


def record_path(wish: Wish, guest: Guest) -> str:
    return posixpath.join(wish.staging, f"{guest.key}.saved.json")


def obstacles(found: Sequence[Found], wish: Wish) -> list[str]:
    """Everything that keeps the wish from being fulfilled, before anything is touched. Pure."""
    wrong = []
    for one in found:
        name, xml, managed = one.guest.name, one.xml.decode("utf-8"), bool(one.guest.record.get("managed_save"))
        others = [kind for title, kind in one.snapshots if title != SNAPSHOT]
        wrong += libvirt_facts.snapshot_obstacles(name, xml, wish.snapshot, managed_save=managed, others=others)
        if wish.snapshot != "none" and not one.guest.record.get("persistent", True):
            wrong.append(f"{name}: it exists only while it runs, so no snapshot can be kept of it")
        if wish.copy:
            wrong += libvirt_facts.copy_obstacles(name, xml, managed_save=managed)
            wrong += [
                f"{name}: the files of its disk {chain['target']} are not all known: {chain['problem']}"
                for chain in one.chains
                if chain["problem"]
            ]
    return wrong


def look(engine: Engine, reach: relay.Reach, guest: Guest) -> Found:
    xml = engine.definition(guest)
    disks = [disk for disk in libvirt_facts.disks_of(xml.decode("utf-8")) if disk["type"] in libvirt_facts.COPIED_TYPES]
    disks += [{"target": what, "source": path, "format": "raw"} for what, path in libvirt_facts.boot_files(xml.decode("utf-8"))]
    chains = libvirt_disks.chains(reach, [(disk["source"], disk["format"]) for disk in disks])
    told = [{**chain, "target": disk["target"]} for disk, chain in zip(disks, chains, strict=True)]
    return Found(guest, xml, told, engine.snapshots(guest))


def save(
    engine: Engine, account: Account, reach: relay.Reach, expected: Sequence[str], former: Mapping[str, Any], wish: Wish, check: bool
) -> dict[str, Any]:
    """Each guest's artefacts on its host, with digests. What an earlier run has saved of the same state is not saved again."""
    engine.recall(former)
    before = engine.observe()
    guests.check_set(expected, before, engine.what)
    account.before, account.tools = _records(before), engine.tools()
    running = sorted(guest.name for guest in before if guest.power != "off")
    # In check mode nothing was stopped yet; by its turn in a real run it will be.
    if running and not check:
        raise Refusal(
            f"{', '.join(running)} still runs; what is saved of a running guest is torn. Stop the set first (state: stopped), then save it."
        )
    found = [look(engine, reach, guest) for guest in before]
    if wrong := obstacles([one for one in found if one.guest.name not in running], wish):
        raise Refusal(f"{engine.what}: {'; '.join(wrong)}. Nothing was changed.")
    kept: dict[str, dict[str, Any]] = {}
    for one in found:
        record = _parsed(relay.read(reach, record_path(wish, one.guest)))
        if record.get("state") == one.state(wish) and (wish.snapshot == "none" or (SNAPSHOT, wish.snapshot) in one.snapshots):
            kept[one.guest.name] = record
    there = relay.digests(reach, [artefact["path"] for record in kept.values() for artefact in record["artefacts"]])
    intact = {name: record for name, record in kept.items() if all(_as_recorded(there, artefact) for artefact in record["artefacts"])}
    missing = [one for one in found if one.guest.name not in intact]
    if check and missing:
        account.after = account.before
        return account.done(True, "unknown", {"would_save": [one.guest.name for one in missing], "still_runs": running})
    for one in missing:
        intact[one.guest.name] = _save_one(engine, account, reach, one, wish)
    after = engine.observe()
    account.after = _records(after)
    artefacts = [artefact for name in sorted(intact) for artefact in intact[name]["artefacts"]]
    seen = relay.digests(reach, [artefact["path"] for artefact in artefacts]) if missing else there
    result = {
        "artefacts": artefacts,
        "source": {"guests": {guest.name: _source(guest, intact[guest.name]) for guest in before}},
        # The wipe of a medium must get every file of a chain, not only the one that the definition names.
        "chains": {name: record["state"]["disks"] for name, record in sorted(intact.items())},
    }
    up = [guest.name for guest in after if guest.power != "off"]
    changed = [one.guest.name for one in missing if look(engine, reach, one.guest).state(wish) != intact[one.guest.name]["state"]]
    if up or changed:
        names = ", ".join(sorted({*up, *changed}))
        return account.failed(f"{names} was started or its disks were changed while it was saved; stop it, then save it again", result)
    torn = [artefact["path"] for artefact in artefacts if not _as_recorded(seen, artefact)]
    if torn:
        return account.failed(f"read again, {', '.join(torn)} is not what was written; check the medium of {wish.staging}", result)
    return account.done(bool(missing), "yes", result)


def _records(seen: Sequence[Guest]) -> dict[str, Any]:
    return {guest.name: {k: v for k, v in guest.record.items() if k != "former"} for guest in seen}


def _as_recorded(there: Mapping[str, Any], artefact: Mapping[str, Any]) -> bool:
    return bool(there.get(artefact["path"]) == {"sha256": artefact["sha256"], "bytes": artefact["bytes"]})


def _source(guest: Guest, record: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "id": guest.key,
        "definition": f"{stem(guest)}-definition",
        "artefacts": {artefact["name"]: artefact["plain_sha256"] for artefact in record["artefacts"]},
        # Which file of the chain each copy is of: a restore puts it there again.
        "disks": dict(record["disks"]),
    }


def _parsed(raw: bytes) -> dict[str, Any]:
    try:
        value = json.loads(raw or b"{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _save_one(engine: Engine, account: Account, reach: relay.Reach, one: Found, wish: Wish) -> dict[str, Any]:
    guest, name = one.guest, stem(one.guest)
    artefacts, disks = [], {}
    if wish.snapshot != "none":
        if (SNAPSHOT, wish.snapshot) in one.snapshots:
            account.did(did="found the snapshot of an earlier run", guest=guest.name)
        else:
            engine.take_snapshot(guest, SNAPSHOT, wish.snapshot)
            account.did(did=f"took the {wish.snapshot} snapshot", guest=guest.name, snapshot=SNAPSHOT)
        # The files are others now: an external snapshot has put a new one on top of each.
        one = look(engine, reach, guest)
    path = posixpath.join(wish.staging, f"{name}.domain.xml")
    put = relay.put(reach, path, [one.xml])
    artefacts.append(
        _artefact(f"{name}-definition", "definition", path, {**put, "plain_sha256": put["sha256"], "plain_bytes": put["bytes"]}, "none")
    )
    if nvram := libvirt_facts.nvram_of(one.xml.decode("utf-8")):
        path = posixpath.join(wish.staging, f"{name}.nvram.fd")
        artefacts.append(_artefact(f"{name}-nvram", "nvram", path, libvirt_disks.copy(reach, nvram, path, "none"), "none"))
        account.did(did="copied the UEFI variables", guest=guest.name)
    for number, file in enumerate(one.files if wish.copy else []):
        kind = "qcow2" if file["format"] == "qcow2" else "raw"
        path = posixpath.join(wish.staging, f"{name}.disk{number}.{kind}.gz")
        done = libvirt_disks.copy(reach, file["path"], path, "gzip")
        artefacts.append(_artefact(f"{name}-disk{number}", "disk", path, done, "gzip"))
        disks[f"{name}-disk{number}"] = file["path"]
        account.did(did="copied a disk's file", guest=guest.name, bytes=done["plain_bytes"])
    record = {"state": one.state(wish), "artefacts": artefacts, "disks": disks}
    relay.put(reach, record_path(wish, guest), [json.dumps(record, sort_keys=True).encode("utf-8")])
    account.did(did="saved", guest=guest.name, artefacts=len(artefacts))
    return record


def _artefact(name: str, role: str, path: str, done: Mapping[str, Any], codec: str) -> dict[str, Any]:
    return {"name": name, "role": role, "path": path, "codec": codec, **done}
