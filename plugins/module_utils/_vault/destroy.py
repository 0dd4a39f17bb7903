# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The end of a package, and of all that it superseded: first the keys, then the ciphertext; what is left is a tombstone.

Private to the collection. Valid for Python 3.6, standard library. Whether it may be is decided by the gate on the control
node; what is checked again here is that it is this very package, and that its own end of retention has passed.
"""

import datetime  # noqa: F401
import os
import shutil
from typing import Any, Dict, Iterator, List, Optional  # noqa: F401

from ansible_collections.sunset.crm.plugins.module_utils._vault import (
    bag as vault_bag,
    contents as vault_contents,
    package as vault_package,
)
from ansible_collections.sunset.crm.plugins.module_utils._vault.state import (
    DIGESTS,
    Package,  # noqa: F401
    VaultError,
    make_directory,
    read_record,
    sync_directory,
    write_record,
)

NO_GUARANTEE = (
    "the wrapped identities were overwritten and removed; on copy-on-write file systems, flash storage, snapshots and backups older "
    "blocks may live on"
)
ELSEWHERE = (
    "custodians' own copies of the wrapped files (those of superseded packages as well), other vaults and backups of keys/ and abandoned/ "
    "are not reached from here; each must be destroyed too"
)


def observe(package):
    # type: (Package) -> Dict[str, Any]
    """What is left of a package."""
    record = package.record()
    identities = (package.identity, package.keys_identity, package.pull_key, package.pull_key + ".pub")
    return {
        "state": record["state"],
        # As it was sealed: a package that was damaged since is still the one that is meant.
        "tagmanifest_sha256": record.get("tagmanifest_sha256"),
        "identity_digest": record.get("identity_digest"),
        "keys_identity_digest": record.get("keys_identity_digest"),
        "wrapped": sum(1 for entry in record.get("wrapped", []) if os.path.lexists(entry["path"])),
        "live": any(os.path.lexists(path) for path in identities),
        "payload": os.path.lexists(package.data),
        "superseded": vault_package.superseded(package),
        "tombstone": stone_of(package).get("statement_sha256"),
    }


def stone_of(package):
    # type: (Package) -> Dict[str, Any]
    return read_record(os.path.join(package.bag, vault_bag.TOMBSTONE)) or {}


def gone(seen):
    # type: (Dict[str, Any]) -> bool
    return bool(seen["tombstone"]) and not (seen["wrapped"] or seen["live"] or seen["payload"] or seen["superseded"])


def decide(seen, wanted, retention, today):
    # type: (Dict[str, Any], Dict[str, Any], Dict[str, Any], datetime.date) -> str
    """nothing | destroy, or VaultError. wanted: the digests that the signed statement names. Pure."""
    if seen["state"] == "destroyed" and gone(seen):
        return "nothing"
    if seen["state"] not in ("sealed", "forgotten", "destroying", "destroyed"):
        raise VaultError("the package is %s; expected a sealed one: an open package is not destroyed by this step" % seen["state"])
    for name in ("tagmanifest_sha256", "identity_digest", "keys_identity_digest"):
        if (seen[name] or None) != (wanted.get(name) or None):
            raise VaultError(
                "the signed statement names %s %s, the package on this vault has %s; it speaks of another package; nothing was touched"
                % (name, wanted.get(name), seen[name])
            )
    if vault_contents.past(retention, today) == "no":
        raise VaultError(
            "the package itself says that it is to be kept until %s, and by this vault's clock it is %s; nothing was touched"
            % (retention["until"], today.isoformat())
        )
    for one in seen["superseded"]:
        if vault_contents.past(one["retention"], today) == "no":
            raise VaultError(
                "the superseded package %s, which ends with this one, says that it is to be kept until %s, and by this vault's clock it "
                "is %s; nothing was touched" % (one["place"], one["retention"]["until"], today.isoformat())
            )
    return "destroy"


def own_retention(package):
    # type: (Package) -> Dict[str, Any]
    """What the package says itself; a package that cannot be read any more says nothing."""
    found = read_record(os.path.join(package.bag, vault_bag.FACTS)) or package.record()
    return dict(found.get("retention") or {})


def destroy(package, statement_sha256, rec):
    # type: (Package, str, Any) -> None
    """Each act is one that a second run repeats without harm; the record goes to destroyed last."""
    record = package.record()
    write_record(package.record_path, dict(record, state="destroying", statement_sha256=statement_sha256))
    kept = {name: record.get(name) for name in list(DIGESTS.values()) + ["tagmanifest_sha256", "payload_oxum", "sealed", "retention"]}
    stone = dict(kept, estate=package.estate, package=package.name, statement_sha256=statement_sha256)
    stone.update(begun=vault_package.utc_now(), destroyed=None, overwriting=NO_GUARANTEE, elsewhere=ELSEWHERE)
    path = os.path.join(package.bag, vault_bag.TOMBSTONE)
    earlier, aside = stone_of(package), vault_package.superseded(package)
    stone["begun"] = earlier.get("begun") or stone["begun"]
    # What a killed run removed is no longer there to be seen: its tombstone names it.
    stone["superseded"] = named_once(earlier.get("superseded", []) + aside)
    make_directory(package.bag)
    write_record(path, stone)
    for entry in record.get("wrapped", []):
        if overwrite(entry["path"]):
            rec.note(act="overwrote and removed a wrapped identity", custodian=entry["custodian"], sha256=entry["sha256"])
    for wrap in [wrap for one in aside for wrap in wraps_in(one["place"])]:
        if overwrite(wrap):
            rec.note(act="overwrote and removed a wrapped identity of a superseded package", path=wrap)
    vault_package.forget_live(package, rec)
    for folder in [package.keys] + [one["place"] for one in aside]:
        if os.path.isdir(folder):
            sync_directory(folder)
    if os.path.lexists(package.data):
        files = sum(len(names) for _folder, _folders, names in os.walk(package.data))
        shutil.rmtree(package.data)
        rec.note(act="removed the ciphertext", files=files)
    for one in aside:
        shutil.rmtree(one["place"])
        rec.note(act="removed a superseded package", place=one["place"])
    if aside:
        sync_directory(package.abandoned)
    sync_directory(package.bag)
    write_record(path, dict(stone, destroyed=vault_package.utc_now()))
    write_record(package.record_path, dict(record, state="destroyed", statement_sha256=statement_sha256, destroyed=vault_package.utc_now()))


def named_once(superseded):
    # type: (List[Dict[str, Any]]) -> List[Dict[str, Any]]
    """One entry a place, as it was first seen: half removed, a package says less of itself. Pure."""
    found = {}  # type: Dict[str, Dict[str, Any]]
    for one in superseded:
        found.setdefault(one["place"], one)
    return [found[place] for place in sorted(found)]


def wraps_in(place):
    # type: (str) -> Iterator[str]
    """The wrapped identities of a package that was moved aside: they lie beside its bag, its records in folders of their own."""
    for name in sorted(os.listdir(place)):
        if name.endswith(".age"):
            yield os.path.join(place, name)


def overwrite(path):
    # type: (str) -> bool
    """Random bytes over a small file, synced, then removed. True if there was one."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_NOFOLLOW)
    except OSError:
        if not os.path.lexists(path):
            return False
        raise
    try:
        size = os.fstat(fd).st_size
        os.write(fd, os.urandom(size))
        os.fsync(fd)
    finally:
        os.close(fd)
    os.unlink(path)
    return True


def result_of(package):
    # type: (Package) -> Dict[str, Any]
    record = package.record()
    names = list(DIGESTS.values()) + ["state", "tagmanifest_sha256", "retention", "statement_sha256", "destroyed"]
    aside = named_once(stone_of(package).get("superseded", []) + vault_package.superseded(package))
    custodians = {entry["custodian"] for entry in record.get("wrapped", [])}.union(*[one["custodians"] for one in aside])
    told = {name: record.get(name) for name in names}
    return dict(told, superseded=aside, custodians=sorted(custodians), overwriting=NO_GUARANTEE, elsewhere=ELSEWHERE)
