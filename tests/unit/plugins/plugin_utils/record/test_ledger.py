# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The chain holds: against tampering, torn lines, forks, full disks and signals."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.record import ledger
from ansible_collections.sunset.crm.plugins.plugin_utils.record.estate import Estate


@pytest.fixture
def book(tmp_path: Path) -> Path:
    return tmp_path / "ledger.jsonl"


def test_each_line_carries_the_hash_of_the_bytes_before(book: Path) -> None:
    first = ledger.append(book, {"kind": "a"})
    second = ledger.append(book, {"kind": "b"})
    lines = book.read_bytes().splitlines()
    assert [entry.record["kind"] for entry in ledger.read(book)] == ["a", "b"]
    assert ledger.line_hash(lines[0]) == first.hash == second.record["prev"]
    assert first.record["prev"] == ledger.GENESIS
    assert first.record["v"] == ledger.SCHEMA
    assert book.stat().st_mode & 0o777 == 0o600


def test_a_record_cannot_bring_its_own_number_time_or_chain(book: Path) -> None:
    ledger.append(book, {"kind": "a"})
    entry = ledger.append(book, {"kind": "b", "n": 7, "prev": "f" * 64, "at": "yesterday", "v": 9})
    assert entry.record["n"] == 1
    assert entry.record["at"] != "yesterday"
    assert len(ledger.read(book)) == 2


def test_a_ledger_that_is_not_there_is_empty(book: Path) -> None:
    assert ledger.read(book) == []
    assert ledger.head(book) == {"lines": 0, "head": ledger.GENESIS}


def test_a_change_of_any_byte_is_seen(book: Path) -> None:
    """By the chain, or, in the last line, by the head that was signed."""
    for number in range(3):
        ledger.append(book, {"kind": "x", "number": number})
    true, head = book.read_bytes(), ledger.head(book)
    for place in range(len(true)):
        changed = bytearray(true)
        changed[place] ^= 0x01
        book.write_bytes(bytes(changed))
        try:
            assert ledger.head(book) != head, f"byte {place}"
        except Refusal as refusal:
            assert "broken" in str(refusal)


@pytest.mark.parametrize("line", [0, 1])
def test_a_line_that_is_gone_is_seen(book: Path, line: int) -> None:
    for number in range(3):
        ledger.append(book, {"number": number})
    lines = book.read_bytes().splitlines(keepends=True)
    book.write_bytes(b"".join(lines[:line] + lines[line + 1 :]))
    with pytest.raises(Refusal, match=f"line {line + 1} does not continue"):
        ledger.read(book)


def test_a_torn_last_line_is_cut_off_and_said(book: Path) -> None:
    ledger.append(book, {"kind": "a"})
    with book.open("ab") as stream:
        stream.write(b'{"kind":"torn')
    assert len(ledger.read(book)) == 1
    ledger.append(book, {"kind": "b"})
    kinds = [entry.record["kind"] for entry in ledger.read(book)]
    assert kinds == ["a", "repair", "b"]
    assert ledger.read(book)[1].record["cut_bytes"] == 13


def test_a_torn_first_line_is_cut_off(book: Path) -> None:
    book.write_bytes(b'{"torn"')
    ledger.append(book, {"kind": "a"})
    assert [entry.record["kind"] for entry in ledger.read(book)] == ["repair", "a"]


def test_a_last_line_that_is_whole_but_no_record_stops_everything(book: Path) -> None:
    ledger.append(book, {"kind": "a"})
    with book.open("ab") as stream:
        stream.write(b"rubbish\n")
    before = book.read_bytes()
    with pytest.raises(Refusal, match="broken"):
        ledger.append(book, {"kind": "b"})
    assert book.read_bytes() == before


def test_lines_longer_than_the_window_are_read_whole(book: Path) -> None:
    for size in (70_000, 200_000, 5):
        ledger.append(book, {"long": "x" * size})
    assert len(ledger.read(book)) == 3


def test_twenty_forks_share_the_ledger(book: Path) -> None:
    children = []
    for number in range(20):
        pid = os.fork()
        if pid == 0:
            try:
                for _ in range(5):
                    ledger.append(book, {"by": number}, reserve=True)
                os._exit(0)
            except BaseException:
                os._exit(1)
        children.append(pid)
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] == [0] * 20
    entries = ledger.read(book)
    assert len(entries) == 100
    assert sorted(entry.record["by"] for entry in entries) == sorted(list(range(20)) * 5)


def test_a_short_write_is_cut_back(book: Path) -> None:
    """A file size limit makes the kernel write a part of the line, then refuse the rest: as a full disk does."""
    ledger.append(book, {"kind": "a"})
    before = book.read_bytes()
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 40, old[1]))
    try:
        with pytest.raises(Refusal, match="could not be written"):
            ledger.append(book, {"kind": "b", "long": "x" * 500})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert book.read_bytes() == before
    ledger.append(book, {"kind": "c"})
    assert len(ledger.read(book)) == 2


def test_a_full_disk_refuses_the_intent_before_the_step(tmp_path: Path) -> None:
    """Space for the outcome is claimed with the intent. A small tmpfs is the full disk."""
    if os.geteuid() != 0:
        pytest.skip("mounting a tmpfs needs root")
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={ledger.RESERVE // 2}", "tmpfs", str(place)]
    if subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("this machine lets nobody mount a tmpfs")
    try:
        book = place / "ledger.jsonl"
        ledger.append(book, {"kind": "small enough"})
        before = book.read_bytes()
        with pytest.raises(Refusal, match="No space left"):
            ledger.append(book, {"kind": "intent"}, reserve=True)
        assert book.read_bytes() == before
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_the_reserved_space_holds_the_outcome(book: Path) -> None:
    ledger.append(book, {"kind": "intent"}, reserve=True)
    assert book.stat().st_size < 1000
    assert book.stat().st_blocks * 512 >= ledger.RESERVE


@pytest.mark.parametrize("obstacle", ["folder", "link"])
def test_a_ledger_that_cannot_be_opened_refuses_the_step(book: Path, tmp_path: Path, obstacle: str) -> None:
    if obstacle == "folder":
        book.mkdir()
    else:
        (tmp_path / "elsewhere").write_text("")
        book.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Refusal, match="The step was not started"):
        ledger.append(book, {"kind": "intent"})


WRITER = """
import signal
import sys
from pathlib import Path
from ansible_collections.sunset.crm.plugins.plugin_utils.record import ledger
# Where the tests themselves were started in the background, SIGINT is ignored and the child would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
print("ready", flush=True)
while True:
    ledger.append(Path(sys.argv[1]), {"long": "x" * 3000})
"""


@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_leaves_whole_lines(book: Path, which: signal.Signals) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    child = subprocess.Popen([sys.executable, "-c", WRITER, str(book)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment)
    assert child.stdout is not None
    child.stdout.readline()
    deadline = time.monotonic() + 60
    while not (book.exists() and b"\n" in book.read_bytes()) and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.15)
    child.send_signal(which)
    child.communicate(timeout=60)
    whole = len(ledger.read(book))
    assert whole > 0
    if which != signal.SIGKILL:
        assert book.read_bytes().endswith(b"\n")
    ledger.append(book, {"kind": "after"})
    assert len(ledger.read(book)) in (whole + 1, whole + 2)


def test_the_head_is_signed_and_stock_tools_verify_it(tmp_path: Path) -> None:
    estate = Estate.at(tmp_path / "estate")
    ledger.append(estate.ledger_file, {"kind": "a"})
    signed = estate.sign_head()
    document, signature = tmp_path / "estate/ledger.head.json", tmp_path / "estate/ledger.head.json.sig"
    assert signed["lines"] == 1
    allowed = tmp_path / "allowed"
    allowed.write_text("run " + (tmp_path / "estate/keys/run_ed25519.pub").read_text())
    verify = ["ssh-keygen", "-Y", "verify", "-f", str(allowed), "-I", "run", "-n", "ledger-head@sunset.crm", "-s", str(signature)]
    assert subprocess.run(verify, input=document.read_bytes(), capture_output=True, check=False).returncode == 0
    assert subprocess.run(verify, input=document.read_bytes() + b" ", capture_output=True, check=False).returncode != 0
    other = [part.replace("ledger-head@", "certificate@") for part in verify]
    assert subprocess.run(other, input=document.read_bytes(), capture_output=True, check=False).returncode != 0
