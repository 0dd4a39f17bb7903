# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a tar stream holds, read while it passes: type, owner, mode, time and sha256 of every member.

An archive that ended well is no proof that it holds what was read: this reads the bytes that go into the copy. It knows what GNU tar
writes with --format=pax (extended headers, sparse files 1.0, hard links); anything else is an error, never a guess.
"""

import hashlib
from typing import Any, Dict, Optional  # noqa: F401

BLOCK = 512
ZEROS = memoryview(bytes(1 << 20))
KINDS = {
    b"0": "file",
    b"\0": "file",
    b"1": "link",
    b"2": "symlink",
    b"3": "character device",
    b"4": "block device",
    b"5": "directory",
    b"6": "fifo",
}
XATTR = b"SCHILY.xattr."


class TarError(Exception):
    """The stream is not what GNU tar writes, or ends too early."""


def number(field):
    # type: (bytes) -> int
    """A number of a header: octal digits, or base 256 where they do not suffice."""
    if field[:1] == b"\x80":
        return int.from_bytes(field[1:], "big")
    digits = field.rstrip(b" \0").lstrip(b" ")
    try:
        return int(digits or b"0", 8)
    except ValueError:
        raise TarError("a header holds {0!r} where a number belongs".format(field))


def nanoseconds(text):
    # type: (bytes) -> int
    """b"-1.25" -> -1250000000, without the rounding of a float."""
    whole, _point, fraction = text.partition(b".")
    value = abs(int(whole)) * 10**9 + int((fraction + b"0" * 9)[:9])
    return -value if whole.startswith(b"-") else value


def records(data):
    # type: (bytes) -> Dict[bytes, bytes]
    """The records of an extended header: "<length> <key>=<value>\\n"."""
    found, at = {}, 0
    while at < len(data):
        blank = data.find(b" ", at, at + 20)
        try:
            end = at + int(data[at:blank])
        except ValueError:
            raise TarError("an extended header is damaged")
        key, _equals, value = data[blank + 1 : end - 1].partition(b"=")
        if blank < 0 or end <= blank or data[end - 1 : end] != b"\n":
            raise TarError("an extended header is damaged")
        found[key] = value
        at = end
    return found


def attributes(more):
    # type: (Dict[bytes, bytes]) -> Dict[bytes, bytes]
    """Extended attributes, and ACLs by name only: their text form is another than the kernel's."""
    found = {key: b"" for key in more if key.startswith(b"SCHILY.acl.")}
    for key, value in more.items():
        if key.startswith(XATTR) and key != XATTR + b"security.selinux":
            found[key[len(XATTR) :].replace(b"%3D", b"=").replace(b"%25", b"%")] = value
    return found


def clean(name):
    # type: (bytes) -> bytes
    """b"./a/b/" -> b"a/b", as the manifest calls it."""
    while name.startswith(b"./"):
        name = name[2:].lstrip(b"/")
    return name.rstrip(b"/") or b"."


class Reader(object):
    """Feed it the chunks, then finish(); `members` is {name: facts}."""

    def __init__(self):
        # type: () -> None
        self.members = {}  # type: Dict[bytes, Dict[str, Any]]
        self._chunk = memoryview(b"")
        self._ended = False
        self._parser = self._parse()
        next(self._parser)

    def feed(self, chunk):
        # type: (bytes) -> None
        if chunk and not self._ended:
            self._chunk = memoryview(chunk)
            self._step()

    def finish(self):
        # type: () -> Dict[bytes, Dict[str, Any]]
        if not self._ended:
            raise TarError("the archive ends before its end mark")
        return self.members

    def _step(self):
        # type: () -> None
        try:
            next(self._parser)
        except StopIteration:
            self._ended = True

    def _take(self, size):
        # type: (int) -> Any
        """The next `size` bytes, for headers."""
        if len(self._chunk) >= size:
            got, self._chunk = bytes(self._chunk[:size]), self._chunk[size:]
            return got
        parts, left = [], size
        while left:
            if not len(self._chunk):
                yield
            piece, self._chunk = self._chunk[:left], self._chunk[left:]
            parts.append(bytes(piece))
            left -= len(piece)
        return b"".join(parts)

    def _through(self, size, sink):
        # type: (int, Any) -> Any
        """The next `size` bytes into sink, without a copy."""
        while size:
            if not len(self._chunk):
                yield
            piece, self._chunk = self._chunk[:size], self._chunk[size:]
            sink(piece)
            size -= len(piece)

    def _parse(self):
        # type: () -> Any
        yield
        more = {}  # type: Dict[bytes, bytes]
        while True:
            header = yield from self._take(BLOCK)
            if not header.strip(b"\0"):
                return
            if sum(header[:148]) + sum(header[156:]) + 8 * 32 != number(header[148:156]):
                raise TarError("a header's checksum is wrong")
            kind, size = header[156:157], int(more.get(b"size", b"-1"))
            size = number(header[124:136]) if size < 0 else size
            if kind in (b"x", b"g", b"L", b"K"):
                data = yield from self._take(size)
                yield from self._take(-size % BLOCK)
                if kind == b"x":
                    more.update(records(data))
                elif kind != b"g":
                    more[b"path" if kind == b"L" else b"linkpath"] = data.rstrip(b"\0")
                continue
            if kind not in KINDS:
                raise TarError("a member is of the type {0!r}, which is not known here".format(kind))
            yield from self._member(header, KINDS[kind], size, more)
            more = {}

    def _member(self, header, kind, size, more):
        # type: (bytes, str, int, Dict[bytes, bytes]) -> Any
        name = header[:100].rstrip(b"\0")
        prefix = header[345:500].rstrip(b"\0") if header[257:263] == b"ustar\0" else b""
        name = more.get(b"GNU.sparse.name") or more.get(b"path") or (prefix + b"/" + name if prefix else name)
        facts = {
            "type": kind,
            "mode": "{0:04o}".format(number(header[100:108]) & 0o7777),
            "uid": int(more[b"uid"]) if b"uid" in more else number(header[108:116]),
            "gid": int(more[b"gid"]) if b"gid" in more else number(header[116:124]),
            "mtime_ns": nanoseconds(more[b"mtime"]) if b"mtime" in more else number(header[136:148]) * 10**9,
            "xattrs": attributes(more),
        }
        target = more.get(b"linkpath") or header[157:257].rstrip(b"\0")
        if kind == "symlink":
            facts["target"] = target
        elif kind == "link":
            facts["linked"] = clean(target)
        elif kind.endswith("device"):
            facts["device"] = [number(header[329:337]), number(header[337:345])]
        if kind == "file":
            digest = hashlib.sha256()
            if more.get(b"GNU.sparse.major"):
                facts["size"] = yield from self._sparse(size, more, digest)
            elif any(key.startswith(b"GNU.sparse.") for key in more):
                raise TarError("a sparse file is stored in an old form")
            else:
                yield from self._through(size, digest.update)
                facts["size"] = size
            yield from self._take(-size % BLOCK)
            facts["sha256"] = digest.hexdigest()
        elif size and kind != "link":
            raise TarError("a member that is no file has content")
        if clean(name) in self.members:
            raise TarError("a name is in the archive twice")
        self.members[clean(name)] = facts

    def _sparse(self, size, more, digest):
        # type: (int, Dict[bytes, bytes], Any) -> Any
        """Version 1.0: a map (count, then offset and length of each piece, a line each) padded to blocks, then the pieces."""
        if (more.get(b"GNU.sparse.major"), more.get(b"GNU.sparse.minor")) != (b"1", b"0"):
            raise TarError("a sparse file is stored in a form that is not known here")
        text, wanted = b"", None  # type: bytes, Optional[int]
        while wanted is None or text.count(b"\n") < wanted:
            text += yield from self._take(BLOCK)
            if wanted is None and b"\n" in text:
                wanted = 1 + 2 * int(text.partition(b"\n")[0])
        numbers = [int(one) for one in text.split(b"\n")[1:wanted]]
        at, stored, real = 0, len(text), int(more[b"GNU.sparse.realsize"])
        for offset, length in zip(numbers[::2], numbers[1::2]):
            zeros(digest, offset - at)
            yield from self._through(length, digest.update)
            at, stored = offset + length, stored + length
        zeros(digest, real - at)
        if stored != size:
            raise TarError("a sparse file's pieces have another size than its header says")
        return real


def zeros(digest, count):
    # type: (Any, int) -> None
    """A hole is hashed as what a reader of the file gets."""
    if count < 0:
        raise TarError("the pieces of a sparse file overlap")
    while count:
        digest.update(ZEROS[:count])
        count -= min(count, len(ZEROS))
