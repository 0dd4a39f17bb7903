# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The stream and the passes, over plain files. Valid for Python 3.6."""

import errno
import os
import subprocess
import time

import pytest

from ansible_collections.sunset.crm.plugins.module_utils import _wipe_judge, _wipe_pass, _wipe_stream

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
    runner = _wipe_pass.Runner(work, start, SIZE, threads)
    with runner:
        while not runner.wait(0.1):
            pass
    return work


def content(fd):
    return os.pread(fd, SIZE, 0)


def keystream(offset, size):
    stream, buffer = _wipe_stream.Stream(KEY), _wipe_stream.Buffer(1 << 20)
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
    with pytest.raises(_wipe_stream.StreamError):
        _wipe_stream.Stream(b"short")


def test_a_pass_leaves_exactly_the_canaries(medium):
    canaries = [0, 4096, 1 << 20, SIZE // 4096 * 4096]
    run(_wipe_pass.WritePass(medium, KEY, SIZE, canaries, None))
    check = run(_wipe_pass.VerifyPass(medium, KEY, SIZE, None))
    assert check.mismatched == set(canaries) and check.bytes_read == SIZE
    assert content(medium)[:8192] == b"OLD DATA" * 1024
    assert content(medium)[8192:12288] == keystream(8192, 4096)


def test_one_flipped_bit_is_found(medium):
    run(_wipe_pass.WritePass(medium, KEY, SIZE, [], None))
    place = (2 << 20) + 123
    os.pwrite(medium, bytes(bytearray([bytearray(os.pread(medium, 1, place))[0] ^ 1])), place)
    assert run(_wipe_pass.VerifyPass(medium, KEY, SIZE, None)).mismatched == {2 << 20}


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
    assert _wipe_pass.segments(1 << 20, 16384, {(1 << 20) + place for place in left_out}) == parts


RealIO = _wipe_stream.DirectIO


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
    monkeypatch.setattr(_wipe_stream, "DirectIO", FaultyIO)


def test_bad_places_are_listed_and_everything_else_is_written(medium, faulty):
    work = run(_wipe_pass.WritePass(medium, KEY, SIZE, [], None))
    assert work.bad == FaultyIO.bad
    check = run(_wipe_pass.VerifyPass(medium, KEY, SIZE, None))
    assert check.unreadable == FaultyIO.bad and not check.mismatched
    assert check.bytes_read == SIZE - 8192
    facts = _wipe_judge.judge_verification([], [], check.unreadable, work.bad, SIZE, check.bytes_read)
    assert facts["error_ranges"] == [[1 << 20, (1 << 20) + 4096], [(2 << 20) + 20480, (2 << 20) + 24576]]


@pytest.mark.parametrize("code", [errno.ENODEV, errno.ENXIO, errno.ENOSPC, errno.EROFS])
def test_an_error_of_the_whole_device_ends_the_pass(medium, faulty, monkeypatch, code):
    monkeypatch.setattr(FaultyIO, "code", code)
    for work in (_wipe_pass.WritePass(medium, KEY, SIZE, [], None), _wipe_pass.VerifyPass(medium, KEY, SIZE, None)):
        with pytest.raises(_wipe_pass.Broken):
            run(work)


def test_too_many_bad_places_end_the_pass(medium, faulty, monkeypatch):
    monkeypatch.setattr(_wipe_pass, "MAX_BAD_UNITS", 1)
    with pytest.raises(_wipe_pass.Broken):
        run(_wipe_pass.WritePass(medium, KEY, SIZE, [], None))


def test_a_device_that_ends_early_is_an_error(medium):
    os.ftruncate(medium, 1 << 20)
    check = _wipe_pass.VerifyPass(medium, KEY, SIZE, None)
    run(check)
    assert check.bytes_read == 1 << 20 and (2 << 20) in check.unreadable


def test_the_rate_is_kept():
    rate, began = _wipe_pass.Rate(10 << 20), time.time()
    for _number in range(4):
        rate.take(1 << 20)
    assert 0.35 <= time.time() - began < 1.5
