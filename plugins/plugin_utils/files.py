# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files of the evidence: whole or not there, and never without their signature."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from ansible_collections.sunset.crm.plugins.plugin_utils.people import signatures


def plain(name: str) -> str:
    """A file's name for an id (kind:name). Where a letter had to be replaced a digest follows, so that two ids never share a file: the names
    of media may be written in any script."""
    wanted = name.replace(":", "_", 1)
    kept = re.sub(r"[^A-Za-z0-9._-]", "_", wanted)
    return kept if kept == wanted else f"{kept}-{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:12]}"


def write(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Replace a file so that a reader sees the old one or the new one."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(fd, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, path)


def write_signed(path: Path, data: bytes, key: Path, namespace: str) -> Path:
    """Write a file and its detached SSH signature: the signature first, so that a file that can be seen always has one."""
    write(path.with_name(path.name + ".sig"), signatures.sign(data, key, namespace).encode("ascii"))
    write(path, data)
    return path
