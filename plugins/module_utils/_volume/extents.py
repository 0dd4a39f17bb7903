# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where on its file system a file lies, and whether writing into it changes those very blocks. Reads only.

Private to the collection. Valid for Python 3.6, standard library; travels with the wipe job.
"""

import ctypes
import fcntl
import os
import struct
from typing import Any, Dict, List, Tuple  # noqa: F401

FS_IOC_FIEMAP, FS_IOC_GETFLAGS = 0xC020660B, 0x80086601
FIEMAP_SYNC = 1
NOCOW = 0x00800000
LAST, UNWRITTEN, SHARED = 0x1, 0x800, 0x2000
# What makes an extent one that cannot be overwritten where it lies, or of which nobody knows where it lies.
STRANGE = (
    (0x2, "lies where the file system does not tell"),
    (0x4, "has no place on the disk yet"),
    (0x8, "is compressed or otherwise encoded"),
    (0x80, "is encrypted by the file system"),
    (0x100, "is not aligned"),
    (0x200, "lies within other structures of the file system"),
    (0x400, "shares its block with another file's end"),
    (SHARED, "is shared with another file (reflink or snapshot)"),
)
ROOM = 512  # extents asked for at a time
EXTENT = struct.Struct("=QQQQQIIII")
FILE_SYSTEMS = {
    0xEF53: "ext4", 0x58465342: "xfs", 0x9123683E: "btrfs", 0x2FC12FC1: "zfs", 0xF2F52010: "f2fs", 0xCA451A4E: "bcachefs", 0x6969: "nfs",
    0xFF534D42: "cifs", 0xFE534D42: "smb", 0x65735546: "fuse", 0x794C7630: "overlay", 0x01021994: "tmpfs", 0x00C36400: "ceph", 0x3434: "nilfs2",
    0x01161970: "gfs2", 0x7461636F: "ocfs2",
}  # fmt: skip
# These write into a block that is allocated, and not shared, where it lies. That it was so is read again after the pass.
IN_PLACE = ("ext4", "xfs")
REMOTE = ("nfs", "cifs", "smb", "ceph", "fuse")


def file_system(fd):
    # type: (int) -> str
    """The kind of file system that a file lies on."""
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(512)
    if libc.fstatfs(fd, buffer) != 0:
        return "unknown"
    number = struct.unpack_from("l", buffer.raw)[0] & 0xFFFFFFFF
    return FILE_SYSTEMS.get(number, "0x%x" % number)


def is_nocow(fd):
    # type: (int) -> bool
    buffer = bytearray(8)
    try:
        fcntl.ioctl(fd, FS_IOC_GETFLAGS, buffer, True)
    except (OSError, IOError):
        return False
    return bool(struct.unpack_from("=I", buffer)[0] & NOCOW)


def extents(fd):
    # type: (int) -> List[Tuple[int, int, int, int]]
    """[(offset in the file, place on the device, length, flags)], after everything waiting was written. Raises OSError."""
    os.fsync(fd)
    found, start = [], 0  # type: List[Tuple[int, int, int, int]], int
    while True:
        buffer = bytearray(32 + ROOM * EXTENT.size)
        struct.pack_into("=QQIIII", buffer, 0, start, (1 << 64) - 1 - start, FIEMAP_SYNC, 0, ROOM, 0)
        fcntl.ioctl(fd, FS_IOC_FIEMAP, buffer, True)
        count = struct.unpack_from("=I", buffer, 20)[0]
        for number in range(count):
            row = EXTENT.unpack_from(buffer, 32 + number * EXTENT.size)
            found.append((row[0], row[1], row[2], row[5]))
        if not count or found[-1][3] & LAST:
            return found
        start = found[-1][0] + found[-1][2]


def places(rows):
    # type: (Any) -> List[List[int]]
    """[[offset, place, length]] of extents, neighbours joined: what must be equal before and after, whatever the flags became."""
    joined = []  # type: List[List[int]]
    for offset, place, length, _flags in sorted(rows):
        last = joined[-1] if joined else None
        if last and last[0] + last[2] == offset and last[1] + last[2] == place:
            last[2] += length
        else:
            joined.append([offset, place, length])
    return joined


def parts(rows, size):
    # type: (Any, int) -> List[Tuple[int, int]]
    """[(start, end)] of the file that has blocks, within its size, neighbours joined. Holes stay holes."""
    joined = []  # type: List[List[int]]
    for offset, _place, length, _flags in sorted(rows):
        end = min(offset + length, size)
        if end <= offset:
            continue
        if joined and joined[-1][1] == offset:
            joined[-1][1] = end
        else:
            joined.append([offset, end])
    return [(start, end) for start, end in joined]


def beyond(rows, size):
    # type: (Any, int) -> int
    """Bytes that are allocated behind the end of the file."""
    return sum(max(0, offset + length - max(size, offset)) for offset, _place, length, _flags in rows)


def strangeness(rows):
    # type: (Any) -> List[str]
    """What keeps extents from being overwritten where they lie."""
    found = []
    for flag, words in STRANGE:
        count = sum(1 for row in rows if row[3] & flag)
        if count:
            found.append("%d of its %d extents: each %s" % (count, len(rows), words))
    return found


def obstacles(kind, nocow, rows):
    # type: (str, bool, Any) -> List[str]
    """Why overwriting this file would not reach the blocks in which its content lies. Pure."""
    end = "Destroy the keys of an encryption below, or wipe the disks under it when they are free, and sign a disposal or a waiver."
    if kind in REMOTE:
        return ["it lies on %s: what the server or daemon behind it does with an overwritten block is not known here. %s" % (kind, end)]
    if kind == "btrfs" and not nocow:
        return ["it lies on btrfs and is copied on write: each overwritten block goes to another place, the old one stays. %s" % end]
    if kind not in IN_PLACE and kind != "btrfs":
        return ["it lies on %s, of which it is not known that it overwrites where a block lies. %s" % (kind, end)]
    return ["its blocks cannot be overwritten where they lie: %s. %s" % (words, end) for words in strangeness(rows)]


def read(fd):
    # type: (int) -> Dict[str, Any]
    """{file_system, nocow, extents, problem} of an opened file."""
    kind = file_system(fd)
    facts = {"file_system": kind, "nocow": is_nocow(fd), "extents": [], "problem": ""}  # type: Dict[str, Any]
    try:
        facts["extents"] = extents(fd)
    except (OSError, IOError) as err:
        facts["problem"] = "the file system does not tell where the file lies (%s)" % os.strerror(err.errno or 0)
    return facts
