# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The stream and the passes, over plain files. Valid for Python 3.6."""

import errno
import os
import subprocess
import threading
import time
from types import SimpleNamespace

import pytest

from ansible_collections.sunset.crm.plugins.module_utils._wipe import (
    judge as wipe_judge,
    passes as wipe_passes,
    plan as wipe_plan,
    stream as wipe_stream,
)

KEY = bytes(bytearray(range(32)))
SIZE = (3 << 20) + 8192 + 512  # neither a multiple of the block nor of the unit


@pytest.fixture
def medium(tmp_path):
    path = str(tmp_path / "medium")
    with open(path, "wb") as handle:
        handle.write(b"OLD DATA" * (SIZE // 8))
    fd = os.open(path, os.O_RDWR)
    yield fd
    os.close(fd)


def run(work, start=0, threads=2):
    runner = wipe_passes.Runner(work, start, SIZE, threads)
    with runner:
        while not runner.wait(0.1):
            pass
    return work


def content(fd):
    return os.pread(fd, SIZE, 0)


def keystream(offset, size):
    stream, buffer = wipe_stream.Stream(KEY), wipe_stream.Buffer(1 << 20)
    stream.fill(buffer, offset, size)
    return bytes(buffer.view[:size])


def test_stock_openssl_makes_the_same_stream():
    for offset in (0, 16, 4096, (1 << 40) + 4096):
        argv = ["openssl", "enc", "-aes-256-ctr", "-K", "".join("%02x" % b for b in bytearray(KEY)), "-iv", "%032x" % (offset // 16)]
        process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.communicate(b"\0" * 100000)[0] == keystream(offset, 100000)


def test_the_stream_is_seekable():
    assert keystream(0, 70000)[65536:] == keystream(65536, 4464)


def test_a_short_key_is_refused():
    with pytest.raises(wipe_stream.StreamError):
        wipe_stream.Stream(b"short")


def test_a_pass_leaves_exactly_the_canaries(medium):
    canaries = [0, 4096, 1 << 20, SIZE // 4096 * 4096]
    run(wipe_passes.WritePass(medium, KEY, SIZE, canaries, None))
    check = run(wipe_passes.VerifyPass(medium, KEY, SIZE, None))
    assert check.mismatched == set(canaries) and check.bytes_read == SIZE
    assert content(medium)[:8192] == b"OLD DATA" * 1024
    assert content(medium)[8192:12288] == keystream(8192, 4096)


def test_one_flipped_bit_is_found(medium):
    run(wipe_passes.WritePass(medium, KEY, SIZE, [], None))
    place = (2 << 20) + 123
    os.pwrite(medium, bytes(bytearray([bytearray(os.pread(medium, 1, place))[0] ^ 1])), place)
    assert run(wipe_passes.VerifyPass(medium, KEY, SIZE, None)).mismatched == {2 << 20}


@pytest.mark.parametrize(
    "left_out,parts",
    [
        ([], [(0, 16384)]),
        ([0], [(4096, 16384)]),
        ([12288], [(0, 12288)]),
        ([4096, 8192], [(0, 4096), (12288, 16384)]),
        ([0, 4096, 8192, 12288], []),
    ],
)
def test_segments(left_out, parts):
    assert wipe_passes.segments(1 << 20, 16384, {(1 << 20) + place for place in left_out}) == parts


RealIO = wipe_stream.DirectIO


class FaultyIO(RealIO):
    """A medium with places that answer with an error."""

    bad, code = frozenset(), errno.EIO

    def _all(self, function, fd, buffer, offset, size, start):
        if any(offset <= place < offset + size for place in self.bad):
            raise OSError(self.code, os.strerror(self.code))
        RealIO._all(self, function, fd, buffer, offset, size, start)


@pytest.fixture
def faulty(monkeypatch):
    monkeypatch.setattr(FaultyIO, "bad", {1 << 20, (2 << 20) + 20480})
    monkeypatch.setattr(wipe_stream, "DirectIO", FaultyIO)


def test_bad_places_are_listed_and_everything_else_is_written(medium, faulty):
    work = run(wipe_passes.WritePass(medium, KEY, SIZE, [], None))
    assert work.bad == FaultyIO.bad
    check = run(wipe_passes.VerifyPass(medium, KEY, SIZE, None))
    assert check.unreadable == FaultyIO.bad and not check.mismatched
    assert check.bytes_read == SIZE - 8192
    facts = wipe_judge.judge_verification([], [], check.unreadable, work.bad, SIZE, check.bytes_read)
    assert facts["error_ranges"] == [[1 << 20, (1 << 20) + 4096], [(2 << 20) + 20480, (2 << 20) + 24576]]


@pytest.mark.parametrize("code", [errno.ENODEV, errno.ENXIO, errno.ENOSPC, errno.EROFS])
def test_an_error_of_the_whole_device_ends_the_pass(medium, faulty, monkeypatch, code):
    monkeypatch.setattr(FaultyIO, "code", code)
    for work in (wipe_passes.WritePass(medium, KEY, SIZE, [], None), wipe_passes.VerifyPass(medium, KEY, SIZE, None)):
        with pytest.raises(wipe_passes.Broken):
            run(work)


def test_too_many_bad_places_end_the_pass(medium, faulty, monkeypatch):
    monkeypatch.setattr(wipe_passes, "MAX_BAD_UNITS", 1)
    with pytest.raises(wipe_passes.Broken):
        run(wipe_passes.WritePass(medium, KEY, SIZE, [], None))


def test_a_device_that_ends_early_is_an_error(medium):
    os.ftruncate(medium, 1 << 20)
    check = wipe_passes.VerifyPass(medium, KEY, SIZE, None)
    with pytest.raises(wipe_passes.Broken):
        run(check)
    assert check.bytes_read <= 1 << 20 and check.unreadable


def test_the_rate_is_kept(monkeypatch):
    """By a clock of its own: a real one runs on while nobody lets us run."""
    now = [1000.0]

    def sleep(seconds):
        now[0] += seconds

    monkeypatch.setattr(wipe_passes, "time", SimpleNamespace(time=lambda: now[0], sleep=sleep))
    rate = wipe_passes.Rate(10 << 20)
    for number in range(4):
        rate.take(1 << 20)
        assert abs(now[0] - 1000.0 - (number + 1) * 0.1) < 0.001


# --- the sampling plan ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [4096, 5000, 1 << 20, SIZE, (1 << 30) + 512, 4 << 40])
def test_the_plan_is_nists(size):
    parts = wipe_plan.pieces(size, "ab" * 32)
    assert parts[0][0] == 0 and parts[-1][1] == size  # the first and the last block
    assert all(start < end and start % 4096 == 0 for start, end in parts)
    assert all(parts[at][1] < parts[at + 1][0] for at in range(len(parts) - 1))  # ascending, nothing twice
    assert sum(end - start for start, end in parts) * 10 >= size  # a tenth
    assert parts == wipe_plan.pieces(size, "ab" * 32)
    if size > 1 << 30:
        assert parts != wipe_plan.pieces(size, "cd" * 32)
        for number in range(1000):  # each subsection has its share, one place of at least a twentieth of it or more
            low, high = size * number // 1000, size * (number + 1) // 1000
            inside = sum(min(end, high) - max(start, low) for start, end in parts if start < high and end > low)
            assert inside * 10 >= (high - low) * 0.98


def test_the_places_of_a_plan():
    places = wipe_plan.Places([(0, 4096), (1 << 20, (3 << 20) + 512)], 1 << 20)
    assert list(places.offsets()) == [0, 1 << 20, 2 << 20, 3 << 20]
    assert [places.length(offset) for offset in places.offsets()] == [4096, 1 << 20, 1 << 20, 512]
    assert places.units == 1 + 512 + 1 and places.unit(0) == 0 and places.unit(1) == 1 << 20 and places.unit(513) == 3 << 20
    assert places.holds(4095) and not places.holds(4096) and places.holds(3 << 20)


def test_a_plan_over_a_pass(medium):
    places = wipe_plan.Places(wipe_plan.pieces(SIZE, "ab" * 32), wipe_passes.BLOCK)
    run(wipe_passes.WritePass(medium, KEY, SIZE, (), None, places=places))
    look = run(wipe_passes.SurvivorPass(medium, KEY, SIZE, None, places))
    assert len(look.mismatched) == places.units and look.bytes_read == places.total
    os.pwrite(medium, b"x" * 511, 0)  # a sector lost one byte, seven others of the block are whole: it is still there
    assert 0 in run(wipe_passes.SurvivorPass(medium, KEY, SIZE, None, places)).mismatched
    for sector in range(8):
        os.pwrite(medium, b"x", sector * 512)
    assert 0 not in run(wipe_passes.SurvivorPass(medium, KEY, SIZE, None, places)).mismatched


def test_zeros(medium):
    run(wipe_passes.ZeroPass(medium, KEY, SIZE, (), None))
    assert set(bytearray(content(medium))) == {0}
    os.pwrite(medium, b"x", 8192 + 17)
    look = run(wipe_passes.ZeroVerifyPass(medium, KEY, SIZE))
    assert look.mismatched == {8192} and look.bytes_read == SIZE


def test_no_more_streams_at_once_than_cores(tmp_path):
    """Two cores, six jobs: never are three at work, and all come to their end."""
    at_work, most, lock = [0], [0], threading.Lock()
    cores = [wipe_passes.Cores(str(tmp_path / "cores"), 2) for _job in range(6)]

    def job(mine):
        slots = mine.slots()
        for _round in range(30):
            slot = mine.take(slots)
            with lock:
                at_work[0] += 1
                most[0] = max(most[0], at_work[0])
            time.sleep(0.0005)
            with lock:
                at_work[0] -= 1
            mine.give(slot)
        for slot in slots:
            os.close(slot)

    threads = [threading.Thread(target=job, args=(mine,)) for mine in cores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads) and most[0] == 2


def test_an_impossible_speed_is_no_wipe():
    assert wipe_judge.judge_speed(1 << 40, 5.0, wipe_judge.HOST_LIMIT)["verdict"] == "no"
    assert wipe_judge.judge_speed(1 << 30, 1.0, wipe_judge.HOST_LIMIT) is None
    assert wipe_judge.judge_speed(1 << 20, 0.0, wipe_judge.HOST_LIMIT) is None  # too little to measure by
