# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A sealed package on its way to the shelf: which files, what is there already, what must be done, and the record of it.

Private to the collection. Valid for Python 3.6, standard library. The record C(shelf.json) beside the package's other records
names the version of every object; it is never taken as proof that the bytes are there.
"""

import binascii
import datetime  # noqa: F401
import hashlib
import os
from typing import Any, Dict, List, Optional, Tuple  # noqa: F401

from ansible_collections.sunset.crm.plugins.module_utils._shelf import probe as shelf_probe, rules as shelf_rules
from ansible_collections.sunset.crm.plugins.module_utils._shelf.s3 import Store  # noqa: F401
from ansible_collections.sunset.crm.plugins.module_utils._vault import bag as vault_bag
from ansible_collections.sunset.crm.plugins.module_utils._vault.state import Package, VaultError, read_record, sha256_file, write_record  # noqa: F401

PAYLOAD_MANIFEST = "manifest-sha256.txt"
MANIFEST_LIMIT = 256 << 20


def record_path(package):
    # type: (Package) -> str
    return os.path.join(package.state_dir, "shelf.json")


def notes_path(package):
    # type: (Package) -> str
    return os.path.join(package.state_dir, "shelf-uploads.json")


def files_of(package, tagmanifest_sha256):
    # type: (Package, str) -> List[shelf_rules.Asked]
    """Every file of the sealed bag with the digest that the bag itself gives it; what the bag does not name is not stored.

    The wrapped identities lie outside the bag. Nothing of them goes to a store that cannot be told to forget.
    """
    problems = []  # type: List[str]
    digests = {vault_bag.TAG_MANIFEST: tagmanifest_sha256}
    if sha256_file(os.path.join(package.bag, vault_bag.TAG_MANIFEST))[0] != tagmanifest_sha256:
        raise VaultError("the package %s is not the one that was sealed; bring it back from another vault" % package.bag)
    for name in (vault_bag.TAG_MANIFEST, "manifest-sha256.txt"):
        with open(os.path.join(package.bag, name), "rb") as stream:
            digests.update(vault_bag.parse_manifest(stream.read().decode("utf-8"), name))
    # The signature lies beside the manifests and is named by none of them.
    signature = os.path.join(package.bag, vault_bag.SIGNATURE)
    if os.path.isfile(signature) and not os.path.islink(signature):
        digests[vault_bag.SIGNATURE] = sha256_file(signature)[0]
    found = []
    for name, sha256 in sorted(digests.items()):
        path = os.path.join(package.bag, name)
        if os.path.islink(path) or not os.path.isfile(path):
            problems.append("%s is missing" % name)
        elif name not in vault_bag.TAG_FILES + (vault_bag.TAG_MANIFEST, vault_bag.SIGNATURE) and not name.startswith("data/"):
            problems.append("%s is no part of a package" % name)
        else:
            found.append(shelf_rules.Asked(name, sha256, os.path.getsize(path)))
    if problems:
        raise VaultError("the package %s is not whole: %s" % (package.bag, "; ".join(problems)), problems=problems)
    # The tag manifest last: where it lies, everything else does.
    return sorted(found, key=lambda one: (one.path == vault_bag.TAG_MANIFEST, one.path))


def verify(package, store, shelf, tagmanifest_sha256, keep_until):
    # type: (Package, Store, Dict[str, Any], str, Optional[datetime.datetime]) -> Tuple[List[str], Dict[str, Any]]
    """(damage, what was seen) of a package on the shelf, from the store's own bytes: what the bag on the vault has become does not matter.

    tagmanifest_sha256: the seal. keep_until: no lock may end before.
    """
    folder = shelf_rules.folder_of(shelf, package.estate, package.name, tagmanifest_sha256)
    record = read_record(record_path(package)) or {}
    versions = record.get("objects", {}) if (record.get("terms") or {}).get("folder") == folder else {}
    damage, seen = [], {"folder": folder, "files": 0, "bytes": 0}  # type: List[str], Dict[str, Any]

    def found(path):
        # type: (str) -> Tuple[str, shelf_rules.Found]
        key = "%s/%s" % (folder, path)
        known = store.head(key, versions[path]) if path in versions else shelf_rules.Found()
        return key, known if known.version else store.head(key)

    def text(path, sha256):
        # type: (str, str) -> Optional[Dict[str, str]]
        """A manifest, if it is the right one; that it is not is told where its digest is looked at."""
        key, one = found(path)
        data = store.read(key, str(one.version), MANIFEST_LIMIT) if one.version else b""
        return vault_bag.parse_manifest(data.decode("utf-8"), path) if hashlib.sha256(data).hexdigest() == sha256 else None

    tags = text(vault_bag.TAG_MANIFEST, tagmanifest_sha256)
    payload = text(PAYLOAD_MANIFEST, tags[PAYLOAD_MANIFEST]) if tags and PAYLOAD_MANIFEST in tags else None
    digests = dict(tags or {}, **dict(payload or {}, **{vault_bag.TAG_MANIFEST: tagmanifest_sha256}))
    for path, sha256 in sorted(digests.items()):
        key, one = found(path)
        if one.version is None:
            damage.append("on the shelf, %s is missing" % path)
            continue
        sha, size = store.digest(key, one.version)
        seen["files"], seen["bytes"] = seen["files"] + 1, seen["bytes"] + size
        if sha != sha256:
            damage.append("on the shelf, %s is damaged: its digest is not the recorded one" % path)
        if keep_until is not None and (one.lock is None or one.lock.until < keep_until):
            ends = "has no lock" if one.lock is None else "is locked until %s only" % one.lock.until.isoformat()
            damage.append("on the shelf, %s %s; expected %s" % (path, ends, keep_until.isoformat()))
    if not damage and (tags is None or payload is None):
        damage.append("on the shelf, the manifests name no payload")
    return damage, seen


def terms(shelf, folder, lock):
    # type: (Dict[str, Any], str, shelf_rules.Lock) -> Dict[str, Any]
    """What the probes were made for: another bucket, folder or mode needs new ones."""
    return {
        "endpoint": shelf.get("endpoint"),
        "region": shelf.get("region"),
        "bucket": shelf["bucket"],
        "folder": folder,
        "mode": lock.mode,
    }


class Shelving(object):
    """One package, one bucket, one run."""

    def __init__(self, package, store, shelf, folder, lock, files):
        # type: (Package, Store, Dict[str, Any], str, shelf_rules.Lock, List[shelf_rules.Asked]) -> None
        self.package, self.store, self.folder, self.lock, self.files = package, store, folder, lock, files
        self.terms = terms(shelf, folder, lock)
        kept = read_record(record_path(package)) or {}
        self.record = kept if kept.get("terms") == self.terms else {"terms": self.terms, "objects": {}}  # type: Dict[str, Any]

    def key(self, path):
        # type: (str) -> str
        return "%s/%s" % (self.folder, path)

    def look(self):
        # type: () -> List[Tuple[shelf_rules.Asked, shelf_rules.Found, str]]
        """(file, what is there, what must be done) for each file. What seems to be there is read to its end."""
        seen = []
        for asked in self.files:
            found = self._found(asked)
            act = shelf_rules.decide(found, asked, self.lock)
            if act != "upload" and not self._same(asked, str(found.version)):
                # What has another content stays there, locked as it is; the true bytes go on top of it.
                found, act = shelf_rules.Found(), "upload"
            seen.append((asked, found, act))
        return seen

    def _found(self, asked):
        # type: (shelf_rules.Asked) -> shelf_rules.Found
        known = self.record["objects"].get(asked.path)
        found = self.store.head(self.key(asked.path), known) if known else shelf_rules.Found()
        return found if found.version else self.store.head(self.key(asked.path))

    def _same(self, asked, version):
        # type: (shelf_rules.Asked, str) -> bool
        return self.store.digest(self.key(asked.path), version) == (asked.sha256, asked.bytes)

    def probed(self):
        # type: () -> bool
        """Whether the probes on record were made by today's rules."""
        return bool(self.record.get("probes")) and self.record.get("rules") == shelf_probe.RULES

    def probe(self):
        # type: () -> None
        data = b"canary of %s %s\n" % (self.folder.encode("utf-8"), binascii.hexlify(os.urandom(32)))
        made = shelf_probe.probe(self.store, self.folder + ".canary", self.lock, data)
        self.record.update(probes=made["probes"], canary=made["version"], rules=shelf_probe.RULES)
        self.keep()

    def keep(self):
        # type: () -> None
        write_record(record_path(self.package), self.record)

    def store_one(self, asked, found, act):
        # type: (shelf_rules.Asked, shelf_rules.Found, str) -> None
        """Upload or lock one file, then read it from the store again: its lock, and after an upload every byte."""
        key, version = self.key(asked.path), found.version
        if act == "upload":
            path = os.path.join(self.package.bag, asked.path)
            version = self.store.upload(path, key, asked, self.lock, notes_path(self.package))
            if not self._same(asked, version):
                raise VaultError(
                    "the store gives back other bytes for %s than were stored (version %s); the object counts for nothing; run the same "
                    "command again, and look for another store if it stays so" % (asked.path, version)
                )
        elif act == "lock":
            self.store.strengthen(key, str(version), self.lock)
        seen = self.store.head(key, str(version))
        if act == "upload" and not shelf_rules.lock_holds(seen.lock, self.lock):
            # A store that forgets the lock of an upload in parts: it is put on the whole object, and read again.
            self.store.strengthen(key, str(version), self.lock)
            seen = self.store.head(key, str(version))
        if not shelf_rules.lock_holds(seen.lock, self.lock):
            raise VaultError(
                "the store says of %s: %s; expected %s until %s%s at least; the object is not kept as it must be"
                % (asked.path, seen.lock or "no lock", self.lock.mode, self.lock.until.isoformat(), ", held" if self.lock.hold else "")
            )
        self.record["objects"][asked.path] = version
        if act != "keep":
            self.keep()

    def result(self, seen):
        # type: (List[Tuple[shelf_rules.Asked, shelf_rules.Found, str]]) -> Dict[str, Any]
        """What later steps and gates read from the ledger. It is the same after a second run, but for the counts of acts."""
        probes = self.record["probes"] if self.probed() else {}
        acts = [act for _asked, _found, act in seen]
        return dict(
            self.terms,
            state="stored",
            retain_until=self.lock.until.strftime("%Y-%m-%dT%H:%M:%SZ"),
            hold=self.lock.hold,
            files=len(self.files),
            bytes=sum(asked.bytes for asked in self.files),
            probes=probes,
            failed_probes=shelf_rules.failed_probes(probes),
            uploaded=acts.count("upload"),
            locked=acts.count("lock"),
            kept=acts.count("keep"),
            **{"class": shelf_rules.class_of(probes)},
        )
