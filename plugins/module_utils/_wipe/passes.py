# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Passes over a device: threads that generate, write, read and compare blocks of the keyed stream.

Private to the collection. Valid for Python 3.6, standard library; travels with the wipe job.

Every worker makes its own part of the stream and writes or reads it itself, so one generates while the other one
waits for the device. libcrypto, pread and pwrite run without the interpreter lock.
"""

import errno
import fcntl
import os
import threading
import time
from typing import Any, List, Optional, Set  # noqa: F401

from ansible_collections.sunset.crm.plugins.module_utils._wipe import judge as wipe_judge, stream as wipe_stream

BLOCK = 1 << 20
UNIT = wipe_judge.UNIT
MAX_BAD_UNITS = 4096
# What a medium says about single places. Everything else (ENODEV, ENXIO, ENOSPC, EROFS ...) is about the whole device.
PLACE_ERRORS = (errno.EIO, errno.EILSEQ, errno.ENODATA, errno.EREMOTEIO)


class Broken(Exception):
    """The device as a whole does not work any more."""


def workers():
    # type: () -> int
    """Three: while one makes its stream the other two keep the device busy; a fourth made it slower. How many make one at a time is bounded
    by Cores, since the machine may have other disks to wipe."""
    return 3


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


class Cores:
    """As many streams are made at a time on this machine as it has cores, whatever the number of disks and jobs.

    Each core is a file; who holds its lock may generate. A lock dies with its process, so a killed job blocks nobody.
    """

    def __init__(self, directory, count=None):
        self.directory, self.count = directory, count or os.cpu_count() or 1
        if directory and not os.path.isdir(directory):
            os.makedirs(directory, 0o700)

    def slots(self):
        """The descriptors of one thread (a lock belongs to the opened file, so each thread opens its own)."""
        if not self.directory:
            return []
        paths = [os.path.join(self.directory, str(number)) for number in range(self.count)]
        return [os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600) for path in paths]

    @staticmethod
    def take(slots):
        """Wait for a core; returns what ``give`` gives back."""
        if not slots:
            return None
        first = threading.current_thread().ident or 0
        for number in range(len(slots)):
            slot = slots[(first + number) % len(slots)]
            try:
                fcntl.flock(slot, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return slot
            except OSError:
                continue
        slot = slots[(first + os.getpid()) % len(slots)]
        fcntl.flock(slot, fcntl.LOCK_EX)  # nobody holds one longer than a block takes
        return slot

    @staticmethod
    def give(slot):
        if slot is not None:
            fcntl.flock(slot, fcntl.LOCK_UN)


class Worker:
    """Buffers and cipher of one thread, over one opened device."""

    def __init__(self, fd, key, size, canaries=(), bad=(), cores=None):
        self.fd, self.size = fd, size
        self.slots = cores.slots() if cores else []  # type: List[int]
        self.skip = set(canaries) | set(bad)
        self.stream = wipe_stream.Stream(key)
        self.wanted, self.seen = wipe_stream.Buffer(BLOCK), wipe_stream.Buffer(BLOCK)
        self.io = wipe_stream.DirectIO()

    def close(self):
        self.stream.close()
        for slot in self.slots:
            os.close(slot)
        self.slots = []

    def fill(self, offset, size):
        slot = Cores.take(self.slots)
        try:
            self.stream.fill(self.wanted, offset, size)
        finally:
            Cores.give(slot)

    def write_stream(self, offset, size):
        self.fill(offset, size)
        self.io.write(self.fd, self.wanted, offset, size)

    def write_bytes(self, offset, data):
        self.wanted.view[: len(data)] = data
        self.io.write(self.fd, self.wanted, offset, len(data))

    def holds_stream(self, offset, size):
        self.io.read(self.fd, self.seen, offset, size)
        self.fill(offset, size)
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


class Pass:
    """What all passes share. ``places``: the plan they follow; None is the whole device."""

    def __init__(self, fd, key, size, rate=None, places=None, cores=None):
        self.fd, self.key, self.size, self.rate, self.places, self.cores = fd, key, size, Rate(rate), places, cores
        self._lock = threading.Lock()

    @property
    def total(self):
        # type: () -> int
        return self.places.total if self.places else self.size

    def worker(self):
        return Worker(self.fd, self.key, self.size, cores=self.cores)

    def offsets(self, start):
        return self.places.offsets() if self.places else iter(range(start, self.size, BLOCK))

    def length(self, offset):
        # type: (int) -> int
        return self.places.length(offset) if self.places else min(BLOCK, self.size - offset)


class WritePass(Pass):
    """Write the stream everywhere but on the canaries; collect places that cannot be written."""

    def __init__(self, fd, key, size, canaries, rate, bad=(), places=None, cores=None):
        Pass.__init__(self, fd, key, size, rate, places, cores)
        self.canaries, self.bad = frozenset(canaries), set(bad)

    def fill(self, worker, offset, size):
        worker.fill(offset, size)

    def block(self, worker, offset):
        size = self.length(offset)
        self.rate.take(size)
        self.fill(worker, offset, size)
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
                    too_many(len(self.bad), "written", self.size)


class ZeroPass(WritePass):
    """Write zeros everywhere: what a medium is left with by choice, after its stream was verified."""

    def fill(self, worker, offset, size):
        pass  # a new buffer is zeros, and nothing else is ever put into it


class VerifyPass(Pass):
    """Read everything and collect the places that do not hold the stream. It does not know where canaries are."""

    def __init__(self, fd, key, size, rate=None, places=None, cores=None):
        Pass.__init__(self, fd, key, size, rate, places, cores)
        self.mismatched, self.unreadable = set(), set()
        self.bytes_read = 0

    def block(self, worker, offset):
        size = self.length(offset)
        self.rate.take(size)
        try:
            wrong, unreadable, count = self.wrong_units(worker, offset, size), [], size
        except OSError as err:
            if err.errno not in PLACE_ERRORS:
                raise
            wrong, unreadable, count = self._one_by_one(worker, offset, size)
        with self._lock:
            self.bytes_read += count
            self.mismatched.update(wrong)
            self.unreadable.update(unreadable)
            too_many(len(self.unreadable), "read", self.size)

    def wrong_units(self, worker, offset, size):
        return worker.differing_units(offset, size)

    def _one_by_one(self, worker, offset, size):
        wrong, unreadable, count = [], [], 0
        for place in range(offset, offset + size, UNIT):
            part = min(UNIT, offset + size - place)
            try:
                wrong.extend(self.wrong_units(worker, place, part))
                count += part
            except OSError as err:
                if err.errno not in PLACE_ERRORS:
                    raise
                unreadable.append(place)
        return wrong, unreadable, count


class ZeroVerifyPass(VerifyPass):
    """Read everything and collect the places that are not zero."""

    def wrong_units(self, worker, offset, size):
        worker.io.read(worker.fd, worker.seen, offset, size)
        if worker.io.same(worker.wanted, worker.seen, size):  # nothing was ever put into "wanted"
            return []
        parts = [(start, min(UNIT, size - start)) for start in range(0, size, UNIT)]
        return [offset + start for start, part in parts if not worker.io.same(worker.wanted, worker.seen, part, start)]


class SurvivorPass(VerifyPass):
    """Read and collect the places where a sector of the stream is still there: after a purge there must be none."""

    SECTOR = 512

    def wrong_units(self, worker, offset, size):
        worker.io.read(worker.fd, worker.seen, offset, size)
        if size > 16 and worker.io.periodic(worker.seen, size):
            return []  # zeros or another short pattern all through: no sector of a key stream looks like that
        worker.fill(offset, size)
        found = []
        for start in range(0, size, UNIT):
            sectors = range(start, min(start + UNIT, size), self.SECTOR)
            if any(worker.io.same(worker.wanted, worker.seen, min(self.SECTOR, size - at), at) for at in sectors):
                found.append(offset + start)
        return found


def too_many(count, verb, size):
    """One in a hundred places, and never more than MAX_BAD_UNITS: that is no disk with bad places any more."""
    limit = min(MAX_BAD_UNITS, max(16, size // UNIT // 100))
    if count > limit:
        raise Broken("more than %d places cannot be %s; destroy the medium physically" % (limit, verb))


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
        self._offsets = work.offsets(start)
        self.handled = 0
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
            offset = next(self._offsets, None)
            if offset is None:
                self._next = self._size
                return None
            self._next = offset + self._work.length(offset)
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
                    self.handled += self._work.length(offset)
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
