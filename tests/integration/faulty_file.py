# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A file (FUSE) over another one that answers EIO at some places, or everywhere from a moment on: under a loop device a disk with bad
sectors, or one that dies. Runs as a process of its own: faulty_file.py MOUNT FILE START-END...; a file FILE.dead kills the disk, and
FILE.bad (START-END, one a line) makes more places bad."""

from __future__ import annotations

import errno
import os
import sys
from typing import Any

from mfusepy import FUSE, FuseOSError, Operations


def parts(text: str) -> tuple[int, int]:
    start, end = text.split("-")
    return int(start), int(end)


class Faulty(Operations):  # type: ignore[misc]
    """One file, called medium."""

    use_ns = True

    def __init__(self, file: str, bad: list[tuple[int, int]]) -> None:
        self.file, self.bad = file, bad
        self.fd = os.open(file, os.O_RDWR)

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        found = os.fstat(self.fd)
        if path == "/":
            return {"st_mode": 0o40755, "st_nlink": 2}
        if path != "/medium":
            raise FuseOSError(errno.ENOENT)
        return {"st_mode": 0o100600, "st_nlink": 1, "st_size": found.st_size}

    def readdir(self, path: str, fh: int) -> list[str]:
        return [".", "..", "medium"]

    def _more(self) -> list[tuple[int, int]]:
        if not os.path.exists(self.file + ".bad"):
            return []
        with open(self.file + ".bad") as stream:
            return [parts(line) for line in stream.read().split()]

    def _judge(self, offset: int, size: int) -> None:
        dead = os.path.exists(self.file + ".dead")
        if dead or any(offset < end and start < offset + size for start, end in self.bad + self._more()):
            raise FuseOSError(errno.EIO)

    def open(self, path: str, flags: int) -> int:
        return 0

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        self._judge(offset, size)
        return os.pread(self.fd, size, offset)

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        self._judge(offset, len(data))
        return os.pwrite(self.fd, data, offset)

    def fsync(self, path: str, datasync: int, fh: int) -> int:
        return 0

    def flush(self, path: str, fh: int) -> int:
        return 0

    def statfs(self, path: str) -> dict[str, int]:
        return {"f_bsize": 4096, "f_blocks": 1 << 20, "f_bavail": 1 << 20}


if __name__ == "__main__":
    FUSE(Faulty(sys.argv[2], [parts(text) for text in sys.argv[3:]]), sys.argv[1], foreground=True, direct_io=True, nothreads=True)
