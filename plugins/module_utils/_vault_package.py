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

from ansible_collections.sunset.crm.plugins.module_utils import _age, _vault_bag
from ansible_collections.sunset.crm.plugins.module_utils._vault import (
    RECIPIENT,
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
    known = {(w["custodian"], w["recipient"]): w for w in record.get("wrapped", [])}
    wrapped = []
    for custodian in custodians:
        entry = known.get((custodian["name"], custodian["recipient"]))
        wrapped.append(entry is not None and same_file(package.wrapped(custodian["name"]), entry["sha256"]))
    return {
        "state": record["state"],
        "identity_digest": record.get("identity_digest"),
        "live_digest": package.live_digest(),
        "pull_key": os.path.isfile(package.pull_key) and os.path.isfile(package.pull_key + ".pub"),
        "wrapped": all(wrapped) and len(known) == len(custodians),
        "leftover": record["state"] in ("absent",) and os.path.isdir(package.data) and bool(package.payload()),
    }


def same_file(path, sha256):
    # type: (str, str) -> bool
    return os.path.isfile(path) and sha256_file(path)[0] == sha256


def decide_open(seen, supersede):
    # type: (Dict[str, Any], bool) -> str
    """nothing | finish (make what is missing) | restart (move the old package aside, then make everything)."""
    if seen["state"] in ("sealed", "forgotten"):
        return "restart" if supersede else "nothing"
    if seen["state"] == "absent":
        return "restart" if seen["leftover"] else "finish"
    if seen["live_digest"] != seen["identity_digest"]:
        return "restart"
    return "nothing" if seen["wrapped"] and seen["pull_key"] else "finish"


def decide_forget(seen, attestation_sha256):
    # type: (Dict[str, Any], Optional[str]) -> str
    """nothing | forget, or VaultError where forgetting would lose the copy."""
    if seen["state"] == "forgotten" and not seen["live_digest"] and not seen["pull_key"]:
        return "nothing"
    if seen["state"] not in ("sealed", "forgotten"):
        raise VaultError(
            "the package is %s; expected sealed: forgetting its identity now would end every proof of it; seal it first" % seen["state"]
        )
    if not attestation_sha256:
        raise VaultError(
            "attestation_sha256 is missing; expected the digest of a custodian's signed attestation that the wrapped identity "
            "%s opens; let a custodian run the challenge (scripts/custodian challenge) and hand it in" % seen["identity_digest"]
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


def set_aside(package, rec):
    # type: (Package, Any) -> Optional[str]
    """Move what an earlier identity encrypted out of the way; nothing is deleted. Returns the place, or None."""
    record = package.record()
    label = (record.get("identity_digest") or "unrecorded")[:12]
    number = 1
    while os.path.lexists(os.path.join(package.abandoned, "%s.%s.%d" % (package.name, label, number))):
        number += 1
    place = os.path.join(package.abandoned, "%s.%s.%d" % (package.name, label, number))
    make_directory(place)
    moved = False
    wraps = glob.glob(os.path.join(package.keys, glob.escape(package.name) + ".*.age"))
    for wrap in wraps:
        # crm.2 and crm.2.alice: only the recorded custodians' files belong to this package.
        if wrap in [package.wrapped(entry["custodian"]) for entry in record.get("wrapped", [])]:
            os.rename(wrap, os.path.join(place, os.path.basename(wrap)))
            moved = True
    if os.path.isdir(package.bag):
        os.rename(package.bag, os.path.join(place, "package"))
        moved = True
    for path in (package.identity, package.pull_key, package.pull_key + ".pub"):
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


def open_package(package, custodians, rec):
    # type: (Package, List[Dict[str, str]], Any) -> None
    """Make whatever is missing of an open package; the record is written last."""
    os.umask(0o077)
    for path in (package.root, package.estate_dir, package.bag, package.data, package.keys, package.state_dir):
        make_directory(path)
    prepare_live(package)
    record = package.record()
    digest = package.live_digest()
    if digest is None:
        _age.make_identity(rec.run, package.identity)
        digest = package.live_digest()
    if not (os.path.isfile(package.pull_key) and os.path.isfile(package.pull_key + ".pub")):
        make_pull_key(package, rec)
    known = {(w["custodian"], w["recipient"]): w for w in record.get("wrapped", []) if record.get("identity_digest") == digest}
    wrapped = []
    for custodian in custodians:
        path = package.wrapped(custodian["name"])
        entry = known.pop((custodian["name"], custodian["recipient"]), None)
        if entry is None or not same_file(path, entry["sha256"]):
            sha256 = _age.wrap(rec.run, package.identity, custodian["recipient"], path)
            entry = {"custodian": custodian["name"], "recipient": custodian["recipient"], "path": path, "sha256": sha256}
        wrapped.append(entry)
    for entry in known.values():
        if entry["path"] not in [w["path"] for w in wrapped] and os.path.exists(entry["path"]):
            os.unlink(entry["path"])
            rec.note(act="removed the wrapped identity of a custodian who is no longer named", custodian=entry["custodian"])
    write_record(
        package.record_path,
        {
            "state": "open",
            "estate": package.estate,
            "package": package.name,
            "identity_digest": digest,
            "recipient": _age.recipient_of(rec.read, package.identity),
            "wrapped": wrapped,
            "opened": record.get("opened", utc_now()) if record.get("identity_digest") == digest else utc_now(),
        },
    )


def make_pull_key(package, rec):
    # type: (Package, Any) -> None
    for path in (package.pull_key, package.pull_key + ".pub"):
        destroy(path)
    # The comment tells the lines of several vaults apart in one authorized_keys.
    node = re.sub(r"[^A-Za-z0-9._-]", "-", os.uname().nodename)
    comment = "sunset-vault-%s-%s@%s" % (package.estate, package.name, node)
    rec.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", package.pull_key], timeout=30)


# --- sealed --------------------------------------------------------------------------------------------------------


def stored_records(package):
    # type: (Package) -> List[Tuple[str, Dict[str, Any], Optional[Dict[str, Any]]]]
    """(slug, stored record, proof record or None) of every data set in the package."""
    found = []
    for path in sorted(glob.glob(os.path.join(glob.escape(package.state_dir), "*.stored.json"))):
        slug = os.path.basename(path)[: -len(".stored.json")]
        stored = read_record(path)
        if stored is not None:
            found.append((slug, stored, read_record(path[: -len(".stored.json")] + ".proof.json")))
    return found


def seal_obstacles(package):
    # type: (Package) -> List[str]
    """What keeps the package from being sealed, by name. Reads every byte of it."""
    problems, known = [], {_vault_bag.INNER_MANIFEST}
    records = stored_records(package)
    if not records:
        problems.append("it holds no data set")
    for slug, stored, proof in records:
        if not stored.get("complete"):
            problems.append("%s: not all artefacts are stored (run vault_pull again)" % slug)
        for entry in stored["artefacts"]:
            path = os.path.join("data", slug, entry["file"] + ".age")
            known.add(path)
            problems += _vault_bag.compare_file(package.bag, path, entry["cipher_sha256"])
        digests = sorted(entry["cipher_sha256"] for entry in stored["artefacts"])
        if not proof or proof.get("verdict") != "equal" or sorted(proof.get("cipher_sha256", [])) != digests:
            problems.append("%s: the stored copy is not proven (run vault_prove)" % slug)
    for path in package.payload():
        if path not in known:
            problems.append("%s belongs to no recorded data set" % path)
    return problems


def seal(package, retention, rec):
    # type: (Package, Dict[str, Any], Any) -> Dict[str, Any]
    """Write the bag around the payload; returns the new record."""
    record, date = package.record(), utc_now()
    records = stored_records(package)
    stored = [dict(entry, slug=slug) for slug, one, _proof in records for entry in one["artefacts"]]
    inner = os.path.join(package.bag, _vault_bag.INNER_MANIFEST)
    if os.path.lexists(inner + ".part"):
        os.unlink(inner + ".part")
    text = _vault_bag.inner_manifest_text(stored)
    rec.run(["age", "-r", record["recipient"], "-o", inner + ".part"], stdin=text, timeout=60)
    os.chmod(inner + ".part", 0o600)
    os.rename(inner + ".part", inner)
    sync_directory(package.data)
    paths = package.payload()
    digests = [(path,) + sha256_file(os.path.join(package.bag, path)) for path in paths]
    oxum = [(path, size) for path, _sha, size in digests]
    identifier = "%s/%s" % (package.estate, package.name)
    texts = {
        "bag-info.txt": _vault_bag.bag_info_text(oxum, date[:10], identifier, retention),
        "README.txt": _vault_bag.readme_text(
            package.estate,
            package.name,
            date,
            [entry["custodian"] for entry in record["wrapped"]],
            record["identity_digest"],
            stored,
            retention,
        ),
    }
    tagmanifest = _vault_bag.write_bag(package, texts, [(path, sha) for path, sha, _size in digests])
    sealed = dict(record, state="sealed", sealed=date, tagmanifest_sha256=tagmanifest, payload_oxum=_vault_bag.payload_oxum(oxum))
    rec.note(act="wrote the bag", files=len(paths), payload_oxum=sealed["payload_oxum"])
    return sealed


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


def forget(package, attestation_sha256, rec):
    # type: (Package, str, Any) -> None
    for path in (package.identity, package.identity + ".part", package.pull_key, package.pull_key + ".pub"):
        if destroy(path):
            rec.note(act="destroyed a key in memory", path=path)
    record = package.record()
    write_record(package.record_path, dict(record, state="forgotten", forgotten=utc_now(), attestation_sha256=attestation_sha256))


def open_result(package):
    # type: (Package) -> Dict[str, Any]
    """What later steps read from the ledger about an open (or later) package."""
    record = package.record()
    public = None
    if os.path.isfile(package.pull_key + ".pub"):
        with open(package.pull_key + ".pub") as stream:
            public = stream.read().strip()
    return {
        "state": record["state"],
        "identity_digest": record.get("identity_digest"),
        "recipient": record.get("recipient"),
        "pull_public_key": public,
        "live": bool(record.get("identity_digest")) and package.live_digest() == record.get("identity_digest"),
        "live_swap": swap_in_use(),
        "wrapped": [{k: w[k] for k in ("custodian", "path", "sha256")} for w in record.get("wrapped", [])],
    }
