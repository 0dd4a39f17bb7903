# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A large artefact on its way into segments: a stream that is cut, and each piece its own file of stock age.

Private to the collection. Valid for Python 3.6, standard library. A stream of age cannot be continued in its middle (each
file has a new key), so what is to survive an interruption must be a file of its own. Any person joins them again:

    for one in FILE.*.age; do age -d -i package.identity "$one" || break; done >FILE
"""

import concurrent.futures
import contextlib
import errno
import os
import queue
import subprocess
import tempfile
import time
from typing import Any, Callable, Dict, List, Optional  # noqa: F401

from ansible_collections.sunset.crm.plugins.module_utils._vault.pipe import Counted, Worker, start, stop, text_tail, write_all  # noqa: F401
from ansible_collections.sunset.crm.plugins.module_utils._vault.state import VaultError, sha256_file
from ansible_collections.sunset.crm.plugins.module_utils._vault.stream import decrypt_parts

MIB = 1 << 20
SMALLEST, LARGEST = 4 * MIB, 1024 * MIB
# Each costs a process of age. What a killed vault leaves unfinished is taken over (_vault.fetch), so few are enough.
PARTS = 16
# A power cut takes what was not synced: a sixteenth of a segment, and as much again that is being synced, are under a hundredth.
SYNCS = 16
# The names sort as the segments do only while the numbers have four digits.
MOST = 9999
# A cut connection leaves a segment that ends early; below this size it is not worth a file.
WORTH = MIB // 4


def segment_size(total):
    # type: (int) -> int
    """How large the segments of an artefact of that many bytes are."""
    wanted = max(SMALLEST, min(LARGEST, -(-total // PARTS)), -(-total // (MOST // 2)))
    return -(-wanted // MIB) * MIB


def segment_name(file, number):
    # type: (str, int) -> str
    return "%s.%04d.age" % (file, number)


class Filler(object):
    """One age process that writes target + ".part" (0600) itself. Whoever makes one owes it finish() or abandon()."""

    def __init__(self, recipient, target):
        # type: (str, str) -> None
        self.target, self.part, self.bytes = target, target + ".part", 0
        self.syncing = None  # type: Optional[Worker]
        self.synced = 0
        if os.path.lexists(self.part):
            os.unlink(self.part)
        self.errors = tempfile.TemporaryFile()
        self.out = os.open(self.part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            self.age = start(["age", "-r", recipient], subprocess.PIPE, self.errors, self.out)
        except VaultError:
            os.close(self.out)
            os.unlink(self.part)
            self.errors.close()
            raise

    def write(self, block):
        # type: (Any) -> None
        try:
            write_all(self.age.stdin, block)
        except OSError:
            self._ended()
            raise VaultError("age stopped reading before the end: %s" % text_tail(self.errors))
        self.bytes += len(block)

    def sync_behind(self, step):
        # type: (int) -> None
        """Bring what is there to the disk, beside the stream: a power cut takes no more than a step, and the end has little to sync."""
        if self.bytes - self.synced >= step and (self.syncing is None or not self.syncing.is_alive()):
            self._synced()
            self.synced, out = self.bytes, self.out
            self.syncing = Worker(lambda: os.fdatasync(out))
            self.syncing.start()

    def _synced(self):
        # type: () -> None
        """Linux tells of a failed write once: who was told must not keep it."""
        if self.syncing is not None:
            self.syncing.join()
            if self.syncing.error is not None:
                raise VaultError("%s cannot be written: %s" % (self.part, self.syncing.error))

    def end(self):
        # type: () -> None
        with contextlib.suppress(OSError):  # age is gone; finish() tells why
            self.age.stdin.close()

    def _ended(self):
        # type: () -> None
        self.end()
        code = self.age.wait()
        if code != 0:
            said = text_tail(self.errors)
            if "no space left on device" in said:
                said = os.strerror(errno.ENOSPC)
            raise VaultError("%s cannot be written: age ended with exit code %d: %s" % (self.part, code, said))

    def finish(self):
        # type: () -> None
        """The part is whole, on the disk, and has its name."""
        self._ended()
        self._synced()
        os.fsync(self.out)
        self._close()
        os.rename(self.part, self.target)

    def _close(self):
        # type: () -> None
        stop([self.age], [self.syncing] if self.syncing is not None else [])
        if self.out >= 0:
            os.close(self.out)
            self.out = -1
            self.errors.close()

    def abandon(self):
        # type: () -> None
        """End everything; a part that was not finished and named by then is removed."""
        self._close()
        if os.path.lexists(self.part):
            os.unlink(self.part)


class ReadBack(object):
    """Reads finished segments from the disk, in their order, behind the transfer. keep(segment) is called for each.

    The digest that is recorded is that of what lies on the disk, not of what was sent there; its length is that of all that went in.
    While the stream flows this takes only the time that nobody else wants; close() reads what is left by all means.
    """

    def __init__(self, folder, keep):
        # type: (str, Callable[[Dict[str, Any]], Any]) -> None
        self.folder, self.keep = folder, keep
        self.waiting = queue.Queue()  # type: Any
        self.closing = False
        self.worker = Worker(self._beside)
        self.worker.start()

    def put(self, segment):
        # type: (Dict[str, Any]) -> None
        self.check()
        self.waiting.put(segment)

    def check(self):
        # type: () -> None
        if self.worker.error is not None:
            raise self.worker.error

    def _beside(self):
        # type: () -> None
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, 0, 10)  # Linux: of this thread alone
        while not self.closing:
            segment = self.waiting.get()
            if segment is not None:
                self.keep(self._facts(segment))

    def _facts(self, segment):
        # type: (Dict[str, Any]) -> Dict[str, Any]
        path = os.path.join(self.folder, segment["file"])
        sha256, size = sha256_file(path)
        if size != age_size(path, segment["bytes"]):
            raise VaultError("%s has %d bytes, which %d bytes do not become in age; pull again" % (path, size, segment["bytes"]))
        return dict(segment, cipher_sha256=sha256, cipher_bytes=size)

    def close(self):
        # type: () -> None
        """Until all that was put here is read and kept, in its order; an error is raised."""
        self.closing = True
        self.waiting.put(None)
        self.worker.join()
        self.check()
        left = []  # type: List[Dict[str, Any]]
        while not self.waiting.empty():
            segment = self.waiting.get()
            if segment is not None:
                left.append(segment)
        if left:
            with concurrent.futures.ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
                for segment in pool.map(self._facts, left):
                    self.keep(segment)


def age_size(path, plain):
    # type: (str, int) -> int
    """How large the file of age is that holds so many bytes: header, nonce, and a tag for each 64 KiB (age-encryption.org/v1)."""
    with open(path, "rb") as stream:
        head = stream.read(4096)
    mac = head.find(b"\n--- ") + 1
    end = head.find(b"\n", mac) + 1
    if not head.startswith(b"age-encryption.org/v1\n") or mac == 0 or end == 0:
        return -1
    return end + 16 + plain + 16 * max(1, -(-plain // 65536))


def read_back(folder, segment, identity, whole):
    # type: (str, Dict[str, Any], str, Counted) -> Dict[str, Any]
    """The facts of a stored segment, opened; VaultError where it is not what is known of it. whole grows by what it holds."""
    part = dict(segment, path=os.path.join(folder, segment["file"]))
    facts = decrypt_parts([part], identity, None, whole.add, digest=False)
    for key, what in (("bytes", "bytes"), ("cipher_bytes", "bytes of ciphertext")):
        if segment.get(key, facts[key]) != facts[key]:
            raise VaultError("%s holds %d %s; %d went in; the stored copy is damaged" % (part["path"], facts[key], what, segment[key]))
    known = {key: segment[key] for key in segment if key not in ("bytes", "cipher_bytes", "cipher_sha256")}
    return dict(known, bytes=facts["bytes"], cipher_sha256=facts["cipher_sha256"], cipher_bytes=facts["cipher_bytes"])


class Cutter(object):
    """Takes a stream and makes segments of it, numbered on from `first`; each is synced, named and read back beside the stream.

    whole grows by what was taken; keep(segment): see ReadBack.
    """

    def __init__(self, folder, file, first, size, recipient, whole, keep):
        # type: (str, str, int, int, str, Counted, Callable[[Dict[str, Any]], Any]) -> None
        self.folder, self.file, self.number, self.size, self.recipient, self.whole = folder, file, first, size, recipient, whole
        self.current = None  # type: Optional[Filler]
        self.ahead = None  # type: Optional[Filler]
        self.finishing = None  # type: Optional[Worker]
        self.fillers = []  # type: List[Filler]
        self.synced = time.monotonic()  # when the last segment was on the disk and named
        self.behind = ReadBack(folder, keep)  # type: Optional[ReadBack]

    def _filler(self, number):
        # type: (int) -> Filler
        filler = Filler(self.recipient, os.path.join(self.folder, segment_name(self.file, number)))
        self.fillers.append(filler)
        return filler

    def take(self, block):
        # type: (bytes) -> None
        self.whole.add(block)
        view = memoryview(block)
        while len(view):
            if self.current is None:
                self.current, self.ahead = self.ahead or self._filler(self.number), None
            piece = view[: self.size - self.current.bytes]
            view = view[len(piece) :]
            self.current.write(piece)
            filled = self.current.bytes
            if filled == self.size:
                self._hand_over(self.current)
                continue
            self.current.sync_behind(max(SMALLEST, self.size // SYNCS))
            if self.ahead is None and filled * 2 >= self.size:
                self.ahead = self._filler(self.number + 1)

    def _hand_over(self, filler):
        # type: (Filler) -> None
        number = self.number
        filler.end()
        self._wait()
        self.finishing = Worker(lambda: self._finish(filler, number))
        self.finishing.start()
        self.current, self.number = None, number + 1

    def _finish(self, filler, number):
        # type: (Filler, int) -> None
        filler.finish()
        self.fillers.remove(filler)
        if self.behind is not None:
            self.behind.put({"file": segment_name(self.file, number), "bytes": filler.bytes})

    def _wait(self):
        # type: () -> None
        if self.finishing is not None:
            self.finishing.join()
            worker, self.finishing = self.finishing, None
            if worker.error is not None:
                raise worker.error

    def end(self, worth=0):
        # type: (int) -> None
        """The end of the stream: the last segment may be short. worth: drop it if it holds less."""
        if self.current is not None and self.current.bytes >= worth:
            self._hand_over(self.current)
        self._wait()
        self.synced = time.monotonic()
        behind, self.behind = self.behind, None
        self.abandon()
        if behind is not None:
            behind.close()

    def abandon(self):
        # type: () -> None
        """Leave no process and no part behind. What was finished stays, and is read back."""
        if self.finishing is not None:
            self.finishing.join()
            self.finishing = None
        for filler in self.fillers:
            filler.abandon()
        self.fillers, self.current, self.ahead = [], None, None
        behind, self.behind = self.behind, None
        if behind is not None:
            with contextlib.suppress(Exception):  # on the way out of another trouble; what was not kept is looked at by the next run
                behind.close()
