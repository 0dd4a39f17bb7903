# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The structure of a saved container image: every layer is there and is the one that the image names. It is not started.

Private to the collection. Valid for Python 3.6, standard library.
"""

import hashlib
import json
import os
import posixpath
import re
import tarfile
import threading
import zlib
from typing import Any, BinaryIO, Dict, List, Optional, Tuple  # noqa: F401

from ansible_collections.sunset.crm.plugins.module_utils._vault.state import VaultError

BLOB = re.compile(r"^blobs/sha256/([0-9a-f]{64})$")
CONFIG = re.compile(r"^([0-9a-f]{64})\.json$")
SMALL = 16 << 20


class Facts(object):
    """What the members of the archive are: digest as they stand and unpacked, links, small JSON texts."""

    def __init__(self):
        # type: () -> None
        self.sha256 = {}  # type: Dict[str, str]
        self.unpacked = {}  # type: Dict[str, str]
        self.links = {}  # type: Dict[str, str]
        self.texts = {}  # type: Dict[str, bytes]

    def resolve(self, name):
        # type: (str) -> str
        for _step in range(8):
            if name not in self.links:
                return name
            name = self.links[name]
        return name


def digests(stream, keep):
    # type: (BinaryIO, bool) -> Tuple[str, str, bytes]
    """sha256 of the bytes, sha256 of them gunzipped (the same where they are not gzip), and the bytes if they are to be kept."""
    raw, plain, kept = hashlib.sha256(), hashlib.sha256(), []
    inflate = None  # type: Optional[Any]
    first = True
    while True:
        block = stream.read(1 << 20)
        if not block:
            break
        raw.update(block)
        if keep:
            kept.append(block)
        if first and block[:2] == b"\x1f\x8b":
            inflate = zlib.decompressobj(31)
        first = False
        plain.update(inflate.decompress(block) if inflate else block)
    if inflate:
        plain.update(inflate.flush())
    return raw.hexdigest(), plain.hexdigest(), b"".join(kept)


def read_members(archive):
    # type: (BinaryIO) -> Facts
    facts = Facts()
    with tarfile.open(fileobj=archive, mode="r|") as tar:
        for member in tar:
            name = posixpath.normpath(member.name)
            if member.issym():
                facts.links[name] = posixpath.normpath(posixpath.join(posixpath.dirname(name), member.linkname))
            elif member.islnk():
                facts.links[name] = posixpath.normpath(member.linkname)
            elif member.isfile():
                stream = tar.extractfile(member)
                if stream is not None:
                    small = member.size <= SMALL and (name.endswith(".json") or bool(BLOB.match(name)))
                    facts.sha256[name], facts.unpacked[name], text = digests(stream, small)  # type: ignore[arg-type]
                    if small:
                        facts.texts[name] = text
    return facts


def problems(facts):
    # type: (Facts) -> Tuple[List[str], int]
    """What is wrong with the image, and the number of layers that were seen to be right."""
    found, layers = [], 0
    for name, sha in facts.sha256.items():
        match = BLOB.match(name) or CONFIG.match(name)
        if match and match.group(1) != sha:
            found.append("%s is not what its name says" % name)
    try:
        images = json.loads(facts.texts["manifest.json"].decode("utf-8"))
        for image in images:
            config = json.loads(facts.texts[facts.resolve(image["Config"])].decode("utf-8"))
            wanted = config["rootfs"]["diff_ids"]
            if len(wanted) != len(image["Layers"]):
                found.append("the manifest lists %d layers, the configuration %d" % (len(image["Layers"]), len(wanted)))
            for path, diff_id in zip(image["Layers"], wanted):
                here = facts.resolve(posixpath.normpath(path))
                if here not in facts.unpacked:
                    found.append("layer %s is missing" % path)
                elif "sha256:" + facts.unpacked[here] != diff_id:
                    found.append("layer %s is not %s" % (path, diff_id))
                else:
                    layers += 1
        if not images:
            found.append("manifest.json names no image")
    except (KeyError, TypeError, ValueError, AttributeError) as exc:
        found.append("manifest.json or the image's configuration is missing or unreadable (%s)" % type(exc).__name__)
    return found, layers


class PipeReader(object):
    """A sink whose blocks another thread reads as a file: read(archive) gets the reading end.

    Used for _vault.stream.decrypt_into; finish() returns what read returned, or raises what it raised.
    """

    def __init__(self, read):
        # type: (Any) -> None
        reading, self.writing = os.pipe()
        self.value = None  # type: Any
        self.error = None  # type: Optional[BaseException]
        self.thread = threading.Thread(target=self.work, args=(read, reading))
        self.thread.daemon = True
        self.thread.start()

    def work(self, read, reading):
        # type: (Any, int) -> None
        with os.fdopen(reading, "rb") as stream:
            try:
                self.value = read(stream)
            except BaseException as exc:  # handed over to finish()
                self.error = exc
            while stream.read(1 << 20):
                pass  # the padding after the last member, or the rest after an error: the digests want it all

    def __call__(self, block):
        # type: (bytes) -> None
        while block:
            block = block[os.write(self.writing, block) :]

    def finish(self):
        # type: () -> Any
        self.abandon()
        if isinstance(self.error, (tarfile.TarError, EOFError, zlib.error)):
            raise VaultError("the artefact is no readable tar archive: %s" % self.error, verdict="no")
        if self.error is not None:
            raise self.error
        return self.value

    def abandon(self):
        # type: () -> None
        if self.writing >= 0:
            os.close(self.writing)
            self.writing = -1
        self.thread.join()
