# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Opening, sealing and forgetting a package on a vault: decisions first, the acts below them.

Private to the collection. Valid for Python 3.6, standard library.
"""

import datetime
import glob
import os
import re
import stat
from typing import Any, Dict, List, Optional, Tuple  # noqa: F401

from ansible_collections.sunset.crm.plugins.module_utils._vault import age as vault_age, bag as vault_bag
from ansible_collections.sunset.crm.plugins.module_utils._vault.state import (
    DATA,
    DIGESTS,
    KEYS,
    RECIPIENT,
    RECIPIENTS,
    Package,  # noqa: F401
    VaultError,
    check_name,
    make_directory,
    read_record,
    require_memory,
    sha256_file,
    swap_in_use,
    sync_directory,
    write_record,
)

UNRECORDED = "unrecorded"
ASIDE = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)\.(?:[0-9a-f]{12}|%s)\.[1-9][0-9]*$" % UNRECORDED)


def utc_now():
    # type: () -> str
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def check_custodians(custodians):
    # type: (List[Dict[str, str]]) -> None
    if not custodians:
        raise VaultError("custodians is empty; expected at least one (two by default), or nobody could ever open the package")
    names = [custodian["name"] for custodian in custodians]
    for custodian in custodians:
        check_name(custodian["name"], "custodian")
        if custodian["name"].startswith("keys."):
            raise VaultError("custodian is %r; names that begin with keys. are taken by the second identities" % custodian["name"])
        if not RECIPIENT.match(custodian["recipient"]):
            raise VaultError(
                "the recipient of custodian %s is no age recipient; expected age1... as age-keygen -y prints it, or an "
                "ssh-ed25519/ssh-rsa public key" % custodian["name"]
            )
    if len(set(names)) != len(names) or len({c["recipient"] for c in custodians}) != len(custodians):
        raise VaultError("two custodians have the same name or the same recipient; each needs an own key")


# --- what is there -------------------------------------------------------------------------------------------------


def observe(package, custodians):
    # type: (Package, List[Dict[str, str]]) -> Dict[str, Any]
    """The state of a package in words that hold no secret."""
    record = package.record()
    known = {key_of(entry): entry for entry in record.get("wrapped", [])}
    here = [which for which in (DATA, KEYS) if record.get(DIGESTS[which])]
    wrapped = []
    for custodian in custodians:
        for which in here:
            entry = known.get((custodian["name"], custodian["recipient"], which))
            wrapped.append(entry is not None and same_file(package.wrapped(custodian["name"], which), entry["sha256"]))
    return {
        "state": record["state"],
        "identity_digest": record.get("identity_digest"),
        "live_digest": package.live_digest(),
        "keys_identity_digest": record.get("keys_identity_digest"),
        "keys_live_digest": package.live_digest(KEYS),
        "pull_key": os.path.isfile(package.pull_key) and os.path.isfile(package.pull_key + ".pub"),
        "wrapped": all(wrapped) and len(known) == len(wrapped),
        "leftover": record["state"] in ("absent",) and os.path.isdir(package.data) and bool(package.payload()),
    }


def key_of(entry):
    # type: (Dict[str, Any]) -> Tuple[str, str, str]
    """What tells the wrapped identities of a package apart."""
    return entry["custodian"], entry["recipient"], entry.get("identity", DATA)


def same_file(path, sha256):
    # type: (str, str) -> bool
    return os.path.isfile(path) and sha256_file(path)[0] == sha256


def decide_open(seen, supersede, keys=False):
    # type: (Dict[str, Any], bool, bool) -> str
    """nothing | finish (make what is missing) | restart (move the old package aside, then make everything).

    keys: the host has a data set that is encrypted to a second identity."""
    if seen["state"] in ("destroying", "destroyed"):
        raise VaultError(
            "the package is %s, on record: a destroyed package is not begun again under its name; if the host lives again, give it "
            "another name or move the tombstone away by hand" % ("destroyed" if seen["state"] == "destroyed" else "half destroyed")
        )
    if seen["state"] in ("sealed", "forgotten"):
        return "restart" if supersede else "nothing"
    if seen["state"] == "absent":
        return "restart" if seen["leftover"] else "finish"
    if any(seen[live] != seen[recorded] for live, recorded in LIVE if seen[recorded]):
        return "restart"
    if keys and not seen["keys_identity_digest"]:
        return "finish"
    return "nothing" if seen["wrapped"] and seen["pull_key"] else "finish"


LIVE = (("live_digest", "identity_digest"), ("keys_live_digest", "keys_identity_digest"))


def decide_forget(seen, attestation_sha256, keys_attestation_sha256=None):
    # type: (Dict[str, Any], Optional[str], Optional[str]) -> str
    """nothing | forget, or VaultError where forgetting would lose the copy."""
    if seen["state"] == "forgotten" and not any(seen[name] for name in ("live_digest", "keys_live_digest", "pull_key")):
        return "nothing"
    if seen["state"] not in ("sealed", "forgotten"):
        raise VaultError(
            "the package is %s; expected sealed: forgetting its identity now would end every proof of it; seal it first" % seen["state"]
        )
    asked = [("attestation_sha256", attestation_sha256, seen["identity_digest"])]
    if seen["keys_identity_digest"]:
        asked.append(("keys_attestation_sha256", keys_attestation_sha256, seen["keys_identity_digest"]))
    for name, given, digest in asked:
        if not given:
            raise VaultError(
                "%s is missing; expected the digest of a custodian's signed attestation that the wrapped identity "
                "%s opens; let a custodian run the challenge (scripts/custodian challenge) and hand it in" % (name, digest)
            )
    return "forget"


# --- open ----------------------------------------------------------------------------------------------------------


def prepare_live(package):
    # type: (Package) -> None
    """The directory of live keys: in memory, ours alone."""
    require_memory(package.live_base if os.path.isdir(package.live_base) else os.path.dirname(package.live_base))
    for path in (package.live_base, package.live):
        make_directory(path)
        facts = os.lstat(path)
        if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.getuid() or stat.S_IMODE(facts.st_mode) & 0o077:
            raise VaultError(
                "%s is not a directory of mode 0700 that belongs to uid %d; somebody else made it; remove it or name another "
                "live_dir" % (path, os.getuid())
            )


def aside_name(package, identity_digest, number):
    # type: (str, Optional[str], int) -> str
    """The folder in abandoned/ that takes a package: neither label nor number holds a dot, so that a folder has one owner only."""
    return "%s.%s.%d" % (package, identity_digest[:12] if identity_digest else UNRECORDED, number)


def owner_of(folder):
    # type: (str) -> Optional[str]
    """Name of the package that a folder in abandoned/ was; None where no package was moved to such a name. Pure."""
    match = ASIDE.match(folder)
    return match.group(1) if match else None


def owners_aside(abandoned):
    # type: (str) -> Dict[str, List[str]]
    """Package -> every place that holds a superseded or interrupted package of its name."""
    found = {}  # type: Dict[str, List[str]]
    for folder in sorted(os.listdir(abandoned)) if os.path.isdir(abandoned) else []:
        owner = owner_of(folder)
        if owner:
            found.setdefault(owner, []).append(os.path.join(abandoned, folder))
    return found


def superseded(package):
    # type: (Package) -> List[Dict[str, Any]]
    """What was moved aside of a package, in words that hold no secret. A record that was lost says nothing."""
    found = []
    for place in owners_aside(package.abandoned).get(package.name, []):
        record = read_record(os.path.join(place, "state", os.path.basename(package.record_path))) or {}
        facts = read_record(os.path.join(place, "package", vault_bag.FACTS)) or record
        one = {name: record.get(name) or facts.get(name) for name in list(DIGESTS.values()) + ["tagmanifest_sha256", "sealed"]}
        one.update(place=place, retention=dict(facts.get("retention") or {}))
        one["custodians"] = sorted({str(entry["custodian"]) for entry in record.get("wrapped") or facts.get("wrapped") or []})
        found.append(one)
    return found


def set_aside(package, rec):
    # type: (Package, Any) -> Optional[str]
    """Move what an earlier identity encrypted out of the way; nothing is deleted. Returns the place, or None.

    The end of the package is the end of what lies there, too (destroy.py)."""
    record = package.record()
    number = 1
    while os.path.lexists(os.path.join(package.abandoned, aside_name(package.name, record.get("identity_digest"), number))):
        number += 1
    place = os.path.join(package.abandoned, aside_name(package.name, record.get("identity_digest"), number))
    make_directory(place)
    moved = False
    wraps = glob.glob(os.path.join(package.keys, glob.escape(package.name) + ".*.age"))
    for wrap in wraps:
        # crm.2 and crm.2.alice: only the recorded custodians' files belong to this package.
        if wrap in [package.wrapped(entry["custodian"], entry.get("identity", DATA)) for entry in record.get("wrapped", [])]:
            os.rename(wrap, os.path.join(place, os.path.basename(wrap)))
            moved = True
    if os.path.isdir(package.bag):
        os.rename(package.bag, os.path.join(place, "package"))
        moved = True
    for path in (package.identity, package.keys_identity, package.pull_key, package.pull_key + ".pub"):
        destroy(path)
    # The records go last: as long as they are here, a second run comes by here again.
    if os.path.isdir(package.state_dir):
        os.rename(package.state_dir, os.path.join(place, "state"))
        moved = True
    sync_directory(package.abandoned)
    if not moved:
        os.rmdir(place)
        return None
    rec.note(act="moved the earlier package aside", place=place)
    return place


def open_package(package, custodians, rec, keys=False):
    # type: (Package, List[Dict[str, str]], Any, bool) -> None
    """Make whatever is missing of an open package; the record is written last."""
    os.umask(0o077)
    for path in (package.root, package.estate_dir, package.bag, package.data, package.keys, package.state_dir):
        make_directory(path)
    prepare_live(package)
    record = package.record()
    made = {}  # type: Dict[str, Any]
    for which in (DATA, KEYS):
        if which == DATA or keys or record.get(DIGESTS[KEYS]):
            if package.live_digest(which) is None:
                vault_age.make_identity(rec.run, package.identity_of(which))
            made[DIGESTS[which]] = package.live_digest(which)
            made[RECIPIENTS[which]] = vault_age.recipient_of(rec.read, package.identity_of(which))
    if not (os.path.isfile(package.pull_key) and os.path.isfile(package.pull_key + ".pub")):
        make_pull_key(package, rec)
    same = record.get("identity_digest") == made["identity_digest"]
    known = {key_of(entry): entry for entry in record.get("wrapped", []) if same}
    wrapped = []
    for custodian in custodians:
        for which in [one for one in (DATA, KEYS) if DIGESTS[one] in made]:
            path = package.wrapped(custodian["name"], which)
            entry = known.pop((custodian["name"], custodian["recipient"], which), None)
            if entry is None or not same_file(path, entry["sha256"]):
                sha256 = vault_age.wrap(rec.run, package.identity_of(which), custodian["recipient"], path)
                entry = {"custodian": custodian["name"], "recipient": custodian["recipient"], "path": path, "sha256": sha256}
                entry["identity"] = which
            wrapped.append(entry)
    for entry in known.values():
        if entry["path"] not in [w["path"] for w in wrapped] and os.path.exists(entry["path"]):
            os.unlink(entry["path"])
            rec.note(act="removed the wrapped identity of a custodian who is no longer named", custodian=entry["custodian"])
    opened = record.get("opened", utc_now()) if same else utc_now()
    head = {"state": "open", "estate": package.estate, "package": package.name, "wrapped": wrapped, "opened": opened}
    write_record(package.record_path, dict(head, **made))


def make_pull_key(package, rec):
    # type: (Package, Any) -> None
    for path in (package.pull_key, package.pull_key + ".pub"):
        destroy(path)
    # The comment tells the lines of several vaults apart in one authorized_keys.
    node = re.sub(r"[^A-Za-z0-9._-]", "-", os.uname().nodename)
    comment = "sunset-vault-%s-%s@%s" % (package.estate, package.name, node)
    rec.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", package.pull_key], timeout=30)


# --- forgotten -----------------------------------------------------------------------------------------------------


def destroy(path):
    # type: (str) -> bool
    """Overwrite and remove a key file in memory. True if there was one."""
    try:
        with open(path, "r+b", 0) as stream:
            stream.write(b"\0" * os.fstat(stream.fileno()).st_size)
    except (IOError, OSError):
        if not os.path.lexists(path):
            return False
    os.unlink(path)
    return True


def forget(package, attestation_sha256, keys_attestation_sha256, rec):
    # type: (Package, str, Optional[str], Any) -> None
    forget_live(package, rec)
    record = dict(package.record(), state="forgotten", forgotten=utc_now(), attestation_sha256=attestation_sha256)
    if record.get(DIGESTS[KEYS]):
        record["keys_attestation_sha256"] = keys_attestation_sha256
    write_record(package.record_path, record)


def forget_live(package, rec):
    # type: (Package, Any) -> None
    """Destroy what this vault holds in memory of a package."""
    identities = [path + end for path in (package.identity, package.keys_identity) for end in ("", ".part")]
    for path in identities + [package.pull_key, package.pull_key + ".pub"]:
        if destroy(path):
            rec.note(act="destroyed a key in memory", path=path)


def open_result(package):
    # type: (Package) -> Dict[str, Any]
    """What later steps read from the ledger about an open (or later) package."""
    record = package.record()
    public = None
    if os.path.isfile(package.pull_key + ".pub"):
        with open(package.pull_key + ".pub") as stream:
            public = stream.read().strip()
    here = [which for which in (DATA, KEYS) if record.get(DIGESTS[which])]
    return {
        "state": record["state"],
        "identity_digest": record.get("identity_digest"),
        "recipient": record.get("recipient"),
        "keys_identity_digest": record.get("keys_identity_digest"),
        "keys_recipient": record.get("keys_recipient"),
        "pull_public_key": public,
        "live": bool(here) and all(package.live_digest(which) == record[DIGESTS[which]] for which in here),
        "live_swap": swap_in_use(),
        "wrapped": [
            {"custodian": w["custodian"], "identity": w.get("identity", DATA), "path": w["path"], "sha256": w["sha256"]}
            for w in record.get("wrapped", [])
        ],
    }
