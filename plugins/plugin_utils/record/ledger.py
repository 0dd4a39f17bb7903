# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The ledger: append-only JSON lines, each with the SHA-256 of the exact bytes of the line before.

Forks of one controller, and several controllers, may append: every append takes an exclusive flock on a freshly
opened descriptor (a descriptor inherited by fork would share the lock). A line is whole and synced, or it is not there:
a short write is cut back, and a torn last line (a killed writer) is cut off and said by the next append.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import json
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ansible_collections.sunset.crm.plugins.module_utils._canonical import canonical
from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal

SCHEMA = 1
GENESIS = "0" * 64
# Disk space claimed beyond the end before an intent is written, so that its outcome cannot fail for want of space.
RESERVE = 512 * 1024
_FALLOC_FL_KEEP_SIZE = 1


@dataclass(frozen=True)
class Entry:
    """One line: its number (from 0), the SHA-256 of its bytes without the newline, and what it says."""

    number: int
    hash: str
    record: dict[str, Any]


def now() -> str:
    """The current time in UTC, ISO 8601 with microseconds."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def line_hash(line: bytes) -> str:
    """SHA-256 of a line's bytes without its newline, in hexadecimal."""
    return hashlib.sha256(line.rstrip(b"\n")).hexdigest()


def read(path: Path) -> list[Entry]:
    """All whole lines, with the chain checked. Raises Refusal at the first line that does not continue it."""
    entries: list[Entry] = []
    prev = GENESIS
    for number, line in enumerate(_whole_lines(path)):
        try:
            record = json.loads(line)
        except ValueError:
            raise Refusal(_broken(path, number, "is not JSON")) from None
        if not isinstance(record, dict) or record.get("prev") != prev or record.get("n") != number:
            raise Refusal(_broken(path, number, "does not continue the line before"))
        prev = line_hash(line)
        entries.append(Entry(number, prev, record))
    return entries


def _broken(path: Path, number: int, what: str) -> str:
    line = f"line {number + 1}" if number >= 0 else "a line"
    return (
        f"the ledger {path} is broken: {line} {what}. Nothing was touched. Compare it with the copy on a vault "
        "(docs/auditor.md, 'The ledger') and put the true one back."
    )


def _whole_lines(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as stream:
            for line in stream:
                if line.endswith(b"\n"):
                    yield line[:-1]
    except FileNotFoundError:
        return


@contextlib.contextmanager
def _signals_blocked() -> Iterator[None]:
    """Ctrl-C between write and sync must not tear a line."""
    old = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, old)


def _reserve(fd: int, end: int) -> None:
    """Claim blocks beyond the end of the file. File systems without fallocate are left as they are."""
    libc = ctypes.CDLL(None, use_errno=True)
    result = libc.fallocate(fd, _FALLOC_FL_KEEP_SIZE, ctypes.c_longlong(end), ctypes.c_longlong(RESERVE))
    code = ctypes.get_errno()
    if result != 0 and code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        raise OSError(code, os.strerror(code))


def _tail(fd: int) -> tuple[int, int, str, bytes]:
    """(end of the last whole line, its number + 1, its hash, torn bytes after it)."""
    size = os.fstat(fd).st_size
    window = b""
    start = size
    while start > 0 and window.count(b"\n") < 2:
        step = min(65536, start)
        start -= step
        window = os.pread(fd, step, start) + window
    whole, newline, torn = window.rpartition(b"\n")
    if not newline:
        return 0, 0, GENESIS, window
    last = whole.rpartition(b"\n")[2]
    return size - len(torn), int(json.loads(last)["n"]) + 1, line_hash(last), torn


def append(path: Path, record: dict[str, Any], *, reserve: bool = False) -> Entry:
    """Append one record, synced to the disk, and return it as an Entry.

    reserve: claim space for the line that will follow (used for intents).
    Raises Refusal when the line could not be written whole; the file is then as it was.
    """
    with _signals_blocked():
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as exc:
            raise Refusal(f"the ledger {path} cannot be opened for writing: {exc.strerror}. The step was not started.") from exc
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            try:
                end, number, prev, torn = _tail(fd)
            except (ValueError, KeyError, TypeError):
                raise Refusal(_broken(path, -1, "(the last) cannot be read")) from None
            if torn:
                os.ftruncate(fd, end)
                cut = {"kind": "repair", "cut_bytes": len(torn), "cut_sha256": hashlib.sha256(torn).hexdigest()}
                entry = _write(fd, path, end, number, prev, cut, reserve=False)
                end, number, prev = os.fstat(fd).st_size, number + 1, entry.hash
            return _write(fd, path, end, number, prev, record, reserve=reserve)
        finally:
            os.close(fd)


def _write(fd: int, path: Path, end: int, number: int, prev: str, record: dict[str, Any], *, reserve: bool) -> Entry:
    # The frame comes last: no record may bring its own number, time or chain.
    full = {**record, "v": SCHEMA, "n": number, "at": now(), "prev": prev}
    line = canonical(full)
    try:
        if reserve:
            _reserve(fd, end)
        data = memoryview(line + b"\n")
        written = 0
        while written < len(data):
            written += os.pwrite(fd, data[written:], end + written)
        os.fsync(fd)
        if number == 0:
            _sync_folder(path.parent)
    except OSError as exc:
        os.ftruncate(fd, end)
        raise Refusal(f"the ledger {path} could not be written: {exc.strerror}. Make room on its file system, then run again.") from exc
    return Entry(number, line_hash(line), full)


def _sync_folder(folder: Path) -> None:
    """A new file is there after a power cut only when its folder was synced too."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def head(path: Path) -> dict[str, Any]:
    """What is signed and sent to the vaults: number of lines and hash of the last one."""
    entries = read(path)
    return {"lines": len(entries), "head": entries[-1].hash if entries else GENESIS}
