# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Passes over a device: threads that generate, write, read and compare blocks of the keyed stream.

Private to the collection. Valid for Python 3.6, standard library; travels with the wipe job.

Every worker makes its own part of the stream and writes or reads it itself, so one generates while the other one
waits for the device. libcrypto, pread and pwrite run without the interpreter lock.
"""

import errno
import os
import threading
import time
from typing import Any, Optional, Set  # noqa: F401

try:
    from ansible_collections.sunset.crm.plugins.module_utils import _wipe_judge, _wipe_stream
except ImportError:  # as a job the file lies beside its helpers, without the collection
    import _wipe_judge  # type: ignore
    import _wipe_stream  # type: ignore

BLOCK = 1 << 20
UNIT = _wipe_judge.UNIT
MAX_BAD_UNITS = 4096
# What a medium says about single places. Everything else (ENODEV, ENXIO, ENOSPC, EROFS ...) is about the whole device.
PLACE_ERRORS = (errno.EIO, errno.EILSEQ, errno.ENODATA, errno.EREMOTEIO)


class Broken(Exception):
    """The device as a whole does not work any more."""


def workers():
    # type: () -> int
    """Two, as measured: more do not help, and the machine may have other disks to wipe."""
    return 2


class Rate:
    """Bytes a second for all workers together; None or 0 is unlimited."""

    def __init__(self, rate):
        self.rate, self._next, self._lock = rate or 0, 0.0, threading.Lock()

    def take(self, count):
        if not self.rate:
            return
        with self._lock:
            now = time.time()
            self._next = max(self._next, now) + float(count) / self.rate
            pause = self._next - now
        time.sleep(max(0.0, pause))


class Worker:
    """Buffers and cipher of one thread, over one opened device."""

    def __init__(self, fd, key, size, canaries=(), bad=()):
        self.fd, self.size = fd, size
        self.skip = set(canaries) | set(bad)
        self.stream = _wipe_stream.Stream(key)
        self.wanted, self.seen = _wipe_stream.Buffer(BLOCK), _wipe_stream.Buffer(BLOCK)
        self.io = _wipe_stream.DirectIO()

    def close(self):
        self.stream.close()

    def write_stream(self, offset, size):
        self.stream.fill(self.wanted, offset, size)
        self.io.write(self.fd, self.wanted, offset, size)

    def write_bytes(self, offset, data):
        self.wanted.view[: len(data)] = data
        self.io.write(self.fd, self.wanted, offset, len(data))

    def holds_stream(self, offset, size):
        self.io.read(self.fd, self.seen, offset, size)
        self.stream.fill(self.wanted, offset, size)
        return self.io.same(self.wanted, self.seen, size)

    def block_holds_stream(self, offset):
        """Like ``holds_stream`` for a whole block, leaving out the canaries and the places known to be bad."""
        size = min(BLOCK, self.size - offset)
        try:
            return not [place for place in self.differing_units(offset, size) if place not in self.skip]
        except OSError:
            return False  # the pass will find out what is wrong there

    def differing_units(self, offset, size):
        if self.holds_stream(offset, size):
            return []
        return [
            offset + start for start in range(0, size, UNIT) if not self.io.same(self.wanted, self.seen, min(UNIT, size - start), start)
        ]


class WritePass:
    """Write the stream everywhere but on the canaries; collect places that cannot be written."""

    def __init__(self, fd, key, size, canaries, rate, bad=()):
        self.fd, self.key, self.size = fd, key, size
        self.canaries, self.rate, self.bad = frozenset(canaries), Rate(rate), set(bad)
        self._lock = threading.Lock()

    def worker(self):
        return Worker(self.fd, self.key, self.size)

    def block(self, worker, offset):
        size = min(BLOCK, self.size - offset)
        self.rate.take(size)
        worker.stream.fill(worker.wanted, offset, size)
        for start, end in segments(offset, size, self.canaries):
            try:
                worker.io.write(worker.fd, worker.wanted, offset + start, end - start, start)
            except OSError as err:
                if err.errno not in PLACE_ERRORS:
                    raise
                self._one_by_one(worker, offset, start, end)

    def _one_by_one(self, worker, offset, start, end):
        for place in range(start, end, UNIT):
            try:
                worker.io.write(worker.fd, worker.wanted, offset + place, min(UNIT, end - place), place)
            except OSError as err:
                if err.errno not in PLACE_ERRORS:
                    raise
                with self._lock:
                    self.bad.add(offset + place)
                    too_many(len(self.bad), "written")


class VerifyPass:
    """Read everything and collect the places that do not hold the stream. It does not know where canaries are."""

    def __init__(self, fd, key, size, rate):
        self.fd, self.key, self.size, self.rate = fd, key, size, Rate(rate)
        self.mismatched, self.unreadable = set(), set()
        self.bytes_read = 0
        self._lock = threading.Lock()

    def worker(self):
        return Worker(self.fd, self.key, self.size)

    def block(self, worker, offset):
        size = min(BLOCK, self.size - offset)
        self.rate.take(size)
        try:
            wrong, unreadable, count = worker.differing_units(offset, size), [], size
        except OSError as err:
            if err.errno not in PLACE_ERRORS:
                raise
            wrong, unreadable, count = self._one_by_one(worker, offset, size)
        with self._lock:
            self.bytes_read += count
            self.mismatched.update(wrong)
            self.unreadable.update(unreadable)
            too_many(len(self.unreadable), "read")

    def _one_by_one(self, worker, offset, size):
        wrong, unreadable, count = [], [], 0
        for place in range(offset, offset + size, UNIT):
            part = min(UNIT, offset + size - place)
            try:
                if not worker.holds_stream(place, part):
                    wrong.append(place)
                count += part
            except OSError as err:
                if err.errno not in PLACE_ERRORS:
                    raise
                unreadable.append(place)
        return wrong, unreadable, count


def too_many(count, verb):
    if count > MAX_BAD_UNITS:
        raise Broken("more than %d places cannot be %s; destroy the medium physically" % (MAX_BAD_UNITS, verb))


def segments(offset, size, left_out):
    """[(start, end)] within the block at ``offset`` that are to be written, leaving out the units of ``left_out``."""
    parts, start = [], 0
    for place in range(0, size, UNIT):
        if offset + place in left_out:
            if place > start:
                parts.append((start, place))
            start = place + UNIT
    if start < size:
        parts.append((start, size))
    return parts


class Runner:
    """Spread the blocks of a pass over threads; know up to where everything is done."""

    def __init__(self, work, start, size, count):
        # type: (Any, int, int, int) -> None
        self._work, self._next, self._size = work, start, size
        self._active = set()  # type: Set[int]
        self._error = None  # type: Optional[Exception]
        self._lock, self._stop = threading.Lock(), False
        self._threads = [threading.Thread(target=self._thread) for _number in range(count)]
        for thread in self._threads:
            thread.daemon = True

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind, value, trace):
        self._stop = True
        for thread in self._threads:
            thread.join()

    def _take(self):
        with self._lock:
            if self._stop or self._error or self._next >= self._size:
                return None
            offset, self._next = self._next, self._next + BLOCK
            self._active.add(offset)
            return offset

    def _thread(self):
        try:
            worker = self._work.worker()
            while True:
                offset = self._take()
                if offset is None:
                    break
                self._work.block(worker, offset)
                with self._lock:
                    self._active.discard(offset)
            worker.close()
        except Exception as err:  # whatever it is, the pass is not complete: it goes to the one who waits
            with self._lock:
                self._error = self._error or err

    def done_to(self):
        """Every byte before this offset has been handled."""
        with self._lock:
            return min(min(self._active or {self._next}), self._next, self._size)

    def wait(self, seconds):
        # type: (float) -> bool
        """Wait up to ``seconds``; True when the pass is complete. Raises what a worker raised."""
        deadline = time.time() + seconds
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.time()))
        if self._error:
            if isinstance(self._error, OSError):
                raise Broken("the device stopped working: %s" % os.strerror(self._error.errno or 0))
            raise self._error
        return not any(thread.is_alive() for thread in self._threads)
