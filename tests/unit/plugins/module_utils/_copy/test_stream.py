# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
import subprocess

import pytest

from ansible_collections.sunset.crm.plugins.module_utils._copy import stream as copy_stream

CAT = ("none", ["cat"])
GZIP = ("gzip", ["gzip", "-n", "-6", "-c"])


def names(directory):
    return sorted(one.name for one in directory.iterdir())


def test_staged_file_has_both_digests_and_both_counts(tmp_path):
    data = b"Zo\xc3\xab " * 300000
    artefact = copy_stream.stage(iter([data[:5], data[5:]]), str(tmp_path), "a.sql", "dump", GZIP)
    path = tmp_path / "a.sql.gz"
    assert artefact["path"] == str(path) and names(tmp_path) == ["a.sql.gz"]
    assert (artefact["plain_bytes"], artefact["bytes"]) == (len(data), path.stat().st_size)
    assert subprocess.check_output(["gzip", "-dc", str(path)]) == data
    assert path.stat().st_mode & 0o777 == 0o600
    copy_stream.check_staged(artefact)


def test_what_is_written_out_early_is_whole(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(copy_stream.os, "posix_fadvise", lambda _descriptor, start, length, _advice: told.append((start, length)))
    data = [bytes([number]) * 700000 for number in range(30)]
    artefact = copy_stream.stage(iter(data), str(tmp_path), "a", "dump", CAT)
    assert (tmp_path / "a").read_bytes() == b"".join(data)
    copy_stream.check_staged(artefact)
    assert len(told) == 2 and told[0][0] == 0 and told[1][0] == told[0][1] and all(length >= 8 << 20 for _start, length in told)


def test_a_failed_source_leaves_no_file(tmp_path):
    argv = ["sh", "-c", "echo half a dump; echo no such database >&2; exit 1"]
    with pytest.raises(copy_stream.StreamError, match="pg_dump ended with code 1: no such database"):
        copy_stream.stage(copy_stream.process_chunks(argv, what="pg_dump"), str(tmp_path), "a", "dump", GZIP)
    assert names(tmp_path) == []


def test_a_killed_source_is_no_end(tmp_path):
    argv = ["sh", "-c", "echo half; kill -9 $$"]
    with pytest.raises(copy_stream.StreamError, match="ended with code -9"):
        copy_stream.stage(copy_stream.process_chunks(argv), str(tmp_path), "a", "dump", CAT)
    assert names(tmp_path) == []


def test_a_failed_compressor_leaves_no_file(tmp_path):
    with pytest.raises(copy_stream.StreamError, match="sh ended with code 3: broken"):
        copy_stream.stage(iter([b"x" * 100]), str(tmp_path), "a", "dump", ("none", ["sh", "-c", "cat; echo broken >&2; exit 3"]))
    assert names(tmp_path) == []


def test_a_compressor_that_dies_early_does_not_hang(tmp_path):
    with pytest.raises(copy_stream.StreamError):
        copy_stream.stage((b"x" * 1000000 for _n in range(50)), str(tmp_path), "a", "dump", ("none", ["sh", "-c", "exit 1"]))
    assert names(tmp_path) == []


def test_a_full_disk_is_said_and_leaves_no_file(tmp_path, monkeypatch):
    def full(descriptor, chunk):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(copy_stream, "_write_all", full)
    with pytest.raises(copy_stream.StreamError, match="No space left on device"):
        copy_stream.stage((b"x" * 1000000 for _n in range(50)), str(tmp_path), "a", "dump", CAT)
    assert names(tmp_path) == []


def test_missing_end_of_dump_is_noticed_although_the_exit_code_is_good(tmp_path):
    cut = copy_stream.process_chunks(["printf", "INSERT INTO x"])
    with pytest.raises(copy_stream.StreamError, match="the end of the dump was not seen"):
        copy_stream.stage(copy_stream.ending_with(cut, b"-- Dump completed", "mariadb-dump"), str(tmp_path), "a", "dump", CAT)
    assert names(tmp_path) == []


def test_end_of_dump_may_be_split_between_chunks():
    chunks = list(copy_stream.ending_with(iter([b"a" * 5000, b"-- Dump co", b"mpleted\n"]), b"-- Dump completed", "x"))
    assert b"".join(chunks).endswith(b"-- Dump completed\n")


@pytest.mark.parametrize("change", ["flip", "cut"])
def test_read_back_sees_every_change(tmp_path, change):
    artefact = copy_stream.stage(iter([b"row\n" * 100000]), str(tmp_path), "a", "dump", CAT)
    path = tmp_path / "a"
    data = bytearray(path.read_bytes())
    if change == "flip":
        data[1234] ^= 1
    else:
        del data[-1]
    path.write_bytes(bytes(data))
    with pytest.raises(copy_stream.StreamError, match="read back as"):
        copy_stream.check_staged(artefact)


def test_a_reader_that_refuses_the_dump_is_an_error(tmp_path):
    artefact = copy_stream.stage(iter([b"x"]), str(tmp_path), "a", "dump", CAT)
    with pytest.raises(copy_stream.StreamError, match="cannot read it to its end"):
        copy_stream.check_staged(artefact, ["sh", "-c", "cat >/dev/null; exit 1"])


def test_a_reader_that_gives_up_early_says_why(tmp_path):
    """And not the broken pipe that it leaves."""
    artefact = copy_stream.stage(iter([b"x" * 4000000]), str(tmp_path), "a", "dump", CAT)
    with pytest.raises(copy_stream.StreamError, match=r"a: sh cannot read it to its end \(code 3\): unsupported version \(1.17\)"):
        copy_stream.check_staged(artefact, ["sh", "-c", "echo 'unsupported version (1.17)' >&2; exit 3"])


def test_throttle_holds_the_average():
    now = [0.0]
    throttle = copy_stream.Throttle(100, clock=lambda: now[0], sleep=lambda s: now.__setitem__(0, now[0] + s))
    for _turn in range(10):
        throttle.passed(50)
    assert now[0] == pytest.approx(5.0)


def test_codec_falls_back_to_gzip_and_refuses_without_any():
    assert copy_stream.find_codec(lambda name: "/bin/" + name)[0] == "zstd"
    assert copy_stream.find_codec(lambda name: "/bin/gzip" if name == "gzip" else None)[0] == "gzip"
    with pytest.raises(copy_stream.StreamError, match="neither zstd nor gzip"):
        copy_stream.find_codec(lambda name: None)


def test_a_sink_that_fails_in_any_way_fails_the_stream():
    """A thread that died without a word would look like one that has seen the end of a small stream."""

    def sink(_chunk):
        raise RuntimeError("no room")

    with pytest.raises(copy_stream.StreamError, match="far end of the stream failed: no room"):
        copy_stream._through(iter([b"x"]), ["cat"], sink, copy_stream.Throttle(None), None)
