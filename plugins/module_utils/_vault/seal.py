# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sealing a package: what keeps it from being sealed, the bag around its payload, the signature over its tag manifest.

Private to the collection. Valid for Python 3.6, standard library.
"""

import errno
import glob
import os
import re
from typing import Any, Dict, List, Optional, Tuple  # noqa: F401

from ansible_collections.sunset.crm.plugins.module_utils._vault import bag as vault_bag, contents as vault_contents, readme as vault_readme
from ansible_collections.sunset.crm.plugins.module_utils._vault.package import utc_now
from ansible_collections.sunset.crm.plugins.module_utils._vault.state import (
    Package,  # noqa: F401
    cipher_files,
    read_record,
    sha256_file,
    sync_directory,
    write_atomic,
)


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
    problems, known = [], {vault_bag.INNER_MANIFEST, vault_bag.CONTENTS}
    records = stored_records(package)
    if not records:
        problems.append("it holds no data set")
    for slug, stored, proof in records:
        if not stored.get("complete"):
            problems.append("%s: not all artefacts are stored (run vault_pull again)" % slug)
        files = [one for entry in stored["artefacts"] for one in cipher_files(entry)]
        for name, sha256, _bytes in files:
            path = os.path.join("data", slug, name)
            known.add(path)
            problems += vault_bag.compare_file(package.bag, path, sha256)
        if not proof or proof.get("verdict") != "equal" or sorted(proof.get("cipher_sha256", [])) != sorted(one[1] for one in files):
            problems.append("%s: the stored copy is not proven (run vault_prove)" % slug)
    for export in vault_contents.readable_records(package):
        known.add(export["path"])
        problems += vault_bag.compare_file(package.bag, export["path"], export["cipher_sha256"])
    for path in package.payload():
        if path not in known:
            problems.append("%s belongs to no recorded data set" % path)
    return problems


def seal(package, retention, rec):
    # type: (Package, Dict[str, Any], Any) -> Dict[str, Any]
    """Write the bag around the payload; returns the new record."""
    record, date = package.record(), utc_now()
    records, readable = stored_records(package), vault_contents.readable_records(package)
    facts = vault_contents.facts(package, record, date, retention)
    document = vault_contents.document(package, date, records, readable)
    stored = [dict(entry, slug=slug) for slug, one, _proof in records for entry in one["artefacts"]]
    encrypt_text(package, vault_bag.INNER_MANIFEST, vault_bag.inner_manifest_text(stored, readable), record["recipient"], rec)
    encrypt_text(package, vault_bag.CONTENTS, vault_contents.text_of(document), record["recipient"], rec)
    sync_directory(package.data)
    paths = package.payload()
    digests = [(path,) + sha256_file(os.path.join(package.bag, path)) for path in paths]
    oxum = [(path, size) for path, _sha, size in digests]
    info = vault_contents.info(record, retention, records, readable)
    texts = {
        "bag-info.txt": vault_bag.bag_info_text(oxum, date[:10], "%s/%s" % (package.estate, package.name), info),
        "README.txt": vault_readme.text(document, facts),
        "contents.schema.json": vault_contents.text_of(vault_contents.SCHEMA),
        vault_bag.FACTS: vault_contents.text_of(facts),
    }
    tagmanifest = vault_bag.write_bag(package, texts, [(path, sha) for path, sha, _size in digests])
    sealed = dict(record, state="sealed", sealed=date, tagmanifest_sha256=tagmanifest, payload_oxum=vault_bag.payload_oxum(oxum))
    sealed["retention"] = retention
    rec.note(act="wrote the bag", files=len(paths), payload_oxum=sealed["payload_oxum"])
    return sealed


def encrypt_text(package, name, text, recipient, rec):
    # type: (Package, str, str, str, Any) -> None
    """A small file of the payload, whole or not there; its text goes through standard input only."""
    path = os.path.join(package.bag, name)
    if os.path.lexists(path + ".part"):
        os.unlink(path + ".part")
    rec.run(["age", "-r", recipient, "-o", path + ".part"], stdin=text, timeout=60)
    os.chmod(path + ".part", 0o600)
    fd = os.open(path + ".part", os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    os.rename(path + ".part", path)


# --- signed --------------------------------------------------------------------------------------------------------


def read_text(package, name):
    # type: (Package, str) -> Optional[str]
    try:
        with open(os.path.join(package.bag, name), "rb") as stream:
            return stream.read().decode("utf-8", "replace")
    except IOError as exc:
        if exc.errno == errno.ENOENT:
            return None
        raise


def signed(package, rec):
    # type: (Package, Any) -> Dict[str, Any]
    """Whether the signature beside the tag manifest is one over it, and with which key. Who owns the key is not asked here."""
    text, signature = read_text(package, vault_bag.TAG_MANIFEST), os.path.join(package.bag, vault_bag.SIGNATURE)
    if text is None or not os.path.isfile(signature):
        return {"state": "absent", "key": None}
    done = rec.read(["ssh-keygen", "-Y", "check-novalidate", "-n", vault_bag.NAMESPACE, "-s", signature], stdin=text, timeout=30)
    if done.rc == 127:
        return {"state": "unknown", "key": None}
    match = re.search(r"(SHA256:[A-Za-z0-9+/]+)", done.out)
    good = done.rc == 0 and match is not None
    return {"state": "valid" if good else "bad", "key": match.group(1) if good and match else None}


def add_signature(package, signature, rec):
    # type: (Package, str, Any) -> None
    write_atomic(os.path.join(package.bag, vault_bag.SIGNATURE), signature.encode("ascii"), 0o600)
    rec.note(act="put the signature beside the tag manifest", file=vault_bag.SIGNATURE)
