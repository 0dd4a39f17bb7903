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
from typing import Any, Dict, List, Optional, Tuple  # noqa: F401

from ansible_collections.sunset.crm.plugins.module_utils._vault.state import VaultError, sha256_file, write_atomic

INNER_MANIFEST = "data/inner-manifest.age"
CONTENTS = "data/contents.json.age"
READABLE = "data/readable"
FACTS = "package.json"
TAG_FILES = ("README.txt", "bag-info.txt", "bagit.txt", "contents.schema.json", "manifest-sha256.txt", FACTS)
TAG_MANIFEST = "tagmanifest-sha256.txt"
# Not listed in the tag manifest: one is made over it, the other says that there is nothing more to check.
SIGNATURE = TAG_MANIFEST + ".sig"
TOMBSTONE = "DESTROYED.json"
NAMESPACE = "package@sunset.crm"
BAGIT = "BagIt-Version: 1.0\nTag-File-Character-Encoding: UTF-8\n"
LINE = re.compile(r"^([0-9a-f]{64})  (.+)$")


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


def inner_manifest_text(stored, readable=()):
    # type: (List[Dict[str, Any]], Any) -> str
    """Lines for sha256sum -c over the decrypted files (segments joined) and over the decompressed ones."""
    lines = {("readable/%s.zip" % one["slug"], one["plain_sha256"]) for one in readable}
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


def bag_problems(package, tagmanifest_sha256=None):
    # type: (Any, Optional[str]) -> List[str]
    """Everything that is wrong with a sealed bag, by name; each byte is read. Empty means whole.

    tagmanifest_sha256: what was recorded at the sealing; None where there is no record beside the package.
    """
    path = os.path.join(package.bag, TAG_MANIFEST)
    try:
        if tagmanifest_sha256 is not None and sha256_file(path)[0] != tagmanifest_sha256:
            return ["%s is not the one that was recorded when the package was sealed" % TAG_MANIFEST]
        tags = read_manifest(path, TAG_MANIFEST)
        problems = ["%s does not list %s" % (TAG_MANIFEST, name) for name in ("bagit.txt", "manifest-sha256.txt") if name not in tags]
        for name, sha in sorted(tags.items()):
            problems += compare_file(package.bag, name, sha)
        for name in sorted(set(os.listdir(package.bag)) - set(tags) - {"data", TAG_MANIFEST, SIGNATURE, TOMBSTONE}):
            problems.append("%s does not belong to the package" % name)
        if any("manifest-sha256.txt" in problem for problem in problems):
            return problems
        expected = read_manifest(os.path.join(package.bag, "manifest-sha256.txt"), "manifest-sha256.txt")
        payload = package.payload()
    except IOError as exc:
        return ["%s cannot be read: %s" % (exc.filename, exc.strerror)]
    except VaultError as exc:
        return [str(exc)]
    for name in sorted(set(payload) - set(expected)):
        problems.append("%s is in the package but not in its manifest" % name)
    for name, sha in sorted(expected.items()):
        problems += compare_file(package.bag, name, sha)
    return problems


def read_manifest(path, name):
    # type: (str, str) -> Dict[str, str]
    with open(path, "rb") as stream:
        try:
            return parse_manifest(stream.read().decode("utf-8"), name)
        except ValueError:
            raise VaultError("%s is no text in UTF-8" % name)


def compare_file(bag, name, sha):
    # type: (str, str, str) -> List[str]
    path = os.path.join(bag, name)
    if os.path.islink(path) or not os.path.isfile(path):
        return ["%s is missing" % name]
    try:
        found = sha256_file(path)[0]
    except (IOError, OSError) as exc:
        return ["%s cannot be read: %s" % (name, exc.strerror)]
    if found != sha:
        return ["%s is damaged: its digest is not the recorded one" % name]
    return []
