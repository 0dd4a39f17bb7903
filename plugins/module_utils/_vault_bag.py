# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A package as a BagIt 1.0 bag (RFC 8493): texts are built by pure functions, checked by reading every byte.

Private to the collection. Valid for Python 3.6, standard library. The payload is ciphertext, so that anybody can check
it without a key; the manifest over the plaintext is itself an encrypted payload file.
"""

import hashlib
import os
import re
from typing import Any, Dict, List, Tuple  # noqa: F401

from ansible_collections.sunset.crm.plugins.module_utils._vault import VaultError, sha256_file, write_atomic

INNER_MANIFEST = "data/inner-manifest.age"
TAG_FILES = ("README.txt", "bag-info.txt", "bagit.txt", "manifest-sha256.txt")
TAG_MANIFEST = "tagmanifest-sha256.txt"
BAGIT = "BagIt-Version: 1.0\nTag-File-Character-Encoding: UTF-8\n"
LINE = re.compile(r"^([0-9a-f]{64})  (.+)$")

README = """This folder is a sealed archive package of a retired CRM system
================================================================

Estate:   {estate}
Package:  {package}
Sealed:   {date}
{retention}
What it is: a BagIt 1.0 bag (RFC 8493). Everything below data/ is encrypted with age (https://age-encryption.org, format
age-encryption.org/v1, X25519) to one identity that belongs to this package alone.

Is it whole? No key and no special tool is needed:

    sha256sum -c tagmanifest-sha256.txt
    sha256sum -c manifest-sha256.txt

Who can open it? The package's identity was given, encrypted, to these custodians; each file lies beside the package's folder,
in keys/ ({package}.<custodian>.age):

{custodians}
    age -d -i <custodian's own identity file> -o package.identity {package}.<custodian>.age

The result must have this SHA-256:  {identity_digest}

Then, in an empty folder, for each file (the paths below data/ are kept, so that the list of digests fits):

    mkdir -p <data set> && age -d -i package.identity -o <data set>/<name> data/<data set>/<name>.age

    <name>.zst      decompress with: zstd -d       <name>.gz      with: gzip -d
    *.globals.sql   roles: psql, first             *.pgcustom     PostgreSQL custom format: pg_restore -C
    *.users.sql     accounts: mariadb              *.sql          mariadb
    *.sqlite3       SQLite 3, the file itself      *.redis.jsonl  one JSON line a key; its dump (base64) is for Redis' RESTORE
    *.tar           tar                            *.json[l]      fingerprints and manifests, as text

Were the files the right ones? data/inner-manifest.age holds the SHA-256 of every file after decryption, and of every file
after decompression:

    age -d -i package.identity -o inner-manifest.txt data/inner-manifest.age
    sha256sum --ignore-missing -c inner-manifest.txt

What is in it:

{contents}
To destroy this package for good, destroy every copy of its identity: the files in keys/ and what custodians have made of them.
"""


def encode_path(path):
    # type: (str) -> str
    """RFC 8493 section 2.1.3: percent, line feed and carriage return are written as %25, %0A, %0D."""
    return path.replace("%", "%25").replace("\n", "%0A").replace("\r", "%0D")


def decode_path(path):
    # type: (str) -> str
    return re.sub(r"%(0[aA]|0[dD]|25)", lambda match: chr(int(match.group(1), 16)), path)


def manifest_text(entries):
    # type: (List[Tuple[str, str]]) -> str
    """A manifest of (path, sha256), sorted by path."""
    return "".join("%s  %s\n" % (sha, encode_path(path)) for path, sha in sorted(entries))


def parse_manifest(text, name):
    # type: (str, str) -> Dict[str, str]
    found = {}  # type: Dict[str, str]
    for number, line in enumerate(text.splitlines(), 1):
        match = LINE.match(line)
        path = decode_path(match.group(2)) if match else ""
        if not match or os.path.isabs(path) or ".." in path.split("/") or path in found:
            raise VaultError("%s line %d is no manifest line of this package" % (name, number))
        found[path] = match.group(1)
    return found


def inner_manifest_text(stored):
    # type: (List[Dict[str, Any]]) -> str
    """Lines for sha256sum -c over the decrypted files and over the decompressed ones."""
    lines = set()
    for entry in stored:
        path = "%s/%s" % (entry["slug"], entry["file"])
        lines.add((path, entry["sha256"]))
        if entry.get("plain_sha256") and path.rsplit(".", 1)[-1] in ("zst", "gz"):
            lines.add((path.rsplit(".", 1)[0], entry["plain_sha256"]))
    return manifest_text(sorted(lines))


def one_line(value):
    # type: (Any) -> str
    return " ".join(str(value).split())


def bag_info_text(payload, date, identifier, extra):
    # type: (List[Tuple[str, int]], str, str, Dict[str, Any]) -> str
    """bag-info.txt; payload is a list of (path, bytes)."""
    fields = [
        ("Bag-Software-Agent", "sunset.crm vault_package"),
        ("Bagging-Date", date),
        ("External-Identifier", identifier),
        ("Payload-Oxum", payload_oxum(payload)),
    ]
    fields += [(name, value) for name, value in sorted(extra.items()) if value not in (None, "")]
    return "".join("%s: %s\n" % (name, one_line(value)) for name, value in fields)


def payload_oxum(payload):
    # type: (List[Tuple[str, int]]) -> str
    return "%d.%d" % (sum(size for _path, size in payload), len(payload))


def readme_text(estate, package, date, custodians, identity_digest, stored, retention):
    # type: (str, str, str, List[str], str, List[Dict[str, Any]], Dict[str, Any]) -> str
    contents = "".join(
        "    data/%s/%s.age  (%s, %d bytes before encryption)\n" % (e["slug"], e["file"], e["role"], e["bytes"])
        for e in sorted(stored, key=lambda e: (e["slug"], e["file"]))
    )
    return README.format(
        estate=estate,
        package=package,
        date=date,
        retention="".join("%s: %s\n" % (k, one_line(v)) for k, v in sorted(retention.items()) if v not in (None, "")),
        custodians="".join("    %s\n" % name for name in custodians),
        identity_digest=identity_digest,
        contents=contents,
    )


def write_bag(package, texts, payload_digests):
    # type: (Any, Dict[str, str], List[Tuple[str, str]]) -> str
    """Write the tag files, the tag manifest last; returns the digest of the tag manifest."""
    everything = dict(texts, **{"bagit.txt": BAGIT, "manifest-sha256.txt": manifest_text(payload_digests)})
    for name in TAG_FILES:
        write_atomic(os.path.join(package.bag, name), everything[name].encode("utf-8"), 0o600)
    tags = [(name, hashlib.sha256(everything[name].encode("utf-8")).hexdigest()) for name in TAG_FILES]
    text = manifest_text(tags).encode("utf-8")
    write_atomic(os.path.join(package.bag, TAG_MANIFEST), text, 0o600)
    return hashlib.sha256(text).hexdigest()


def bag_problems(package, tagmanifest_sha256):
    # type: (Any, str) -> List[str]
    """Everything that is wrong with a sealed bag; each byte is read. Empty means whole."""
    path = os.path.join(package.bag, TAG_MANIFEST)
    try:
        if sha256_file(path)[0] != tagmanifest_sha256:
            return ["%s is not the one that was recorded when the package was sealed" % TAG_MANIFEST]
        problems, expected = [], {}  # type: Tuple[List[str], Dict[str, str]]
        with open(path, "rb") as stream:
            tags = parse_manifest(stream.read().decode("utf-8"), TAG_MANIFEST)
        for name, sha in tags.items():
            problems += compare_file(package.bag, name, sha)
        if problems:
            return problems
        with open(os.path.join(package.bag, "manifest-sha256.txt"), "rb") as stream:
            expected = parse_manifest(stream.read().decode("utf-8"), "manifest-sha256.txt")
    except IOError as exc:
        return ["%s cannot be read: %s" % (exc.filename, exc.strerror)]
    for name in sorted(set(package.payload()) - set(expected)):
        problems.append("%s is in the package but not in its manifest" % name)
    for name, sha in sorted(expected.items()):
        problems += compare_file(package.bag, name, sha)
    return problems


def compare_file(bag, name, sha):
    # type: (str, str, str) -> List[str]
    path = os.path.join(bag, name)
    if os.path.islink(path) or not os.path.isfile(path):
        return ["%s is missing" % name]
    if sha256_file(path)[0] != sha:
        return ["%s is damaged: its digest is not the recorded one" % name]
    return []
