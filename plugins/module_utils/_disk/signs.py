# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What lies on a device, by its signatures: members of arrays and volume groups that are not active, LUKS headers, file systems.

Private to the collection; it may change at any time. Valid for Python 3.6. Only signatures of four bytes and more: short ones
are hit by chance in encrypted data.
"""

import struct
from typing import Callable, List, Optional, Tuple

from ansible_collections.sunset.crm.plugins.module_utils._disk import luks_header as disk_luks_header
from ansible_collections.sunset.crm.plugins.module_utils._disk.words import Row

Read = Callable[[int, int], bytes]
MD = struct.pack("<I", 0xA92B4EFC)
FIXED = (
    ("luks", 0, disk_luks_header.MAGIC),
    ("bitlocker", 3, b"-FVE-FS-"),
    ("lvm physical volume", 0, b"LABELONE"),
    ("lvm physical volume", 512, b"LABELONE"),
    ("lvm physical volume", 1024, b"LABELONE"),
    ("lvm physical volume", 1536, b"LABELONE"),
    ("md member 1.1", 0, MD),
    ("md member 1.2", 4096, MD),
    ("swap", 4086, b"SWAPSPACE2"),
    ("hibernation image", 4086, b"S1SUSPEND"),
    ("xfs", 0, b"XFSB"),
    ("btrfs", 65600, b"_BHRfS_M"),
    ("bcache", 4120, b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81"),
    ("ceph bluestore", 0, b"bluestore block device"),
    ("ntfs", 3, b"NTFS    "),
    ("fat", 82, b"FAT32   "),
    ("gpt", 512, b"EFI PART"),
    ("gpt", 4096, b"EFI PART"),
)
HEAD = 1 << 17


def contents(read: Read, size: int) -> List[str]:
    """Names of the signatures that are found. read(offset, length) gives fewer bytes, or none, where it cannot."""
    head = read(0, HEAD)
    found = [name for name, at, magic in FIXED if head[at : at + len(magic)] == magic]
    if _ext(head):
        found.append("ext")
    if size >= 1 << 20:
        if read((size // 512 - 16 & ~7) * 512, 4) == MD:
            found.append("md member 1.0")
        if read((size & ~65535) - 65536, 4) == MD:
            found.append("md member 0.90")
        tail = read(size - 1024, 1024)
        if tail.startswith(b"Intel Raid ISM Cfg Sig. "):
            found.append("firmware raid member (Intel)")
        if tail[512:516] == b"\xde\x11\xde\x11":
            found.append("firmware raid member (DDF)")
        ring = read(HEAD, HEAD)
        if any(ring[at : at + 8] in (_zfs("<"), _zfs(">")) for at in range(0, len(ring), 1024)):
            found.append("zfs")
    return sorted(set(found))


def _zfs(order: str) -> bytes:
    return struct.pack(order + "Q", 0x00BAB10C)


def _ext(head: bytes) -> bool:
    """Two bytes of magic alone are too short: state, error behaviour and revision must make sense as well."""
    block = head[1024:2048]
    if len(block) < 1024 or block[56:58] != b"\x53\xef":
        return False
    state, errors = struct.unpack("<HH", block[58:62])
    revision = struct.unpack("<I", block[76:80])[0]
    return state <= 7 and 1 <= errors <= 3 and revision <= 1


def luks(read: Read) -> Optional[Row]:
    """The header: version, uuid, key slots in use, tokens, cipher, whether the second header is there. None where there is no LUKS."""
    return disk_luks_header.header(read)


def reader(fd: int) -> Tuple[Read, List[str]]:
    """(read, problems) on a descriptor. A bad sector gives no bytes, and is named."""
    import os

    problems: List[str] = []

    def read(offset: int, length: int) -> bytes:
        if offset < 0:
            return b""
        try:
            return os.pread(fd, length, offset)
        except OSError as err:
            problems.append("bytes at %d cannot be read: %s" % (offset, err.strerror))
            return b""

    return read, problems
