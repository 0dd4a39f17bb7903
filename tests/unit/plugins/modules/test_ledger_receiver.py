# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The ledger receiver: what it appends, what it refuses, what it repairs."""

import hashlib
import json
import os
import subprocess
import sys

import pytest

SCRIPT = os.path.join(os.path.dirname(__file__), "../../../../roles/vault/files/ledger_receiver.py")


def chain(count, prev="0" * 64, start=0, word="done"):
    lines = []
    for number in range(start, start + count):
        line = json.dumps({"n": number, "prev": prev, "word": word}, sort_keys=True).encode()
        prev = hashlib.sha256(line).hexdigest()
        lines.append(line)
    return lines


def head_of(lines):
    return hashlib.sha256(lines[-1]).hexdigest()


def call(base, header, lines=(), raw=None):
    text = raw if raw is not None else b"".join(line + b"\n" for line in [json.dumps(header).encode()] + list(lines))
    done = subprocess.run(
        [sys.executable, "-I", SCRIPT, str(base)], input=text, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False
    )
    assert not done.stderr, done.stderr
    return done.returncode, json.loads(done.stdout.decode())


def append(base, start, lines, **more):
    return call(base, dict({"op": "append", "estate": "lab", "from_line": start}, **more), lines)


def stored(base):
    return (base / "lab" / "ledger.jsonl").read_bytes()


def test_an_empty_place_has_the_genesis_head(tmp_path):
    code, answer = call(tmp_path, {"op": "head", "estate": "lab"})
    assert (code, answer["ok"], answer["lines"], answer["head"]) == (0, True, 0, "0" * 64)


def test_appends_and_goes_on_and_repeats(tmp_path):
    lines = chain(5)
    code, answer = append(tmp_path, 0, lines[:2], head="{}", head_signature="SIG1")
    assert (code, answer["lines"], answer["added"], answer["head"]) == (0, 2, 2, head_of(lines[:2]))
    # Overlapping and repeated lines are the same, so they change nothing.
    code, answer = append(tmp_path, 1, lines[1:], head="{}", head_signature="SIG2")
    assert (code, answer["lines"], answer["added"], answer["head"]) == (0, 5, 3, head_of(lines))
    assert append(tmp_path, 0, lines)[1]["added"] == 0
    assert stored(tmp_path) == b"".join(line + b"\n" for line in lines)
    heads = [json.loads(line) for line in (tmp_path / "lab" / "heads.jsonl").read_text().splitlines()]
    assert [(one["signature"], one["lines"]) for one in heads] == [("SIG1", 2), ("SIG2", 5)]
    assert os.stat(str(tmp_path / "lab" / "ledger.jsonl")).st_mode & 0o777 == 0o600


@pytest.mark.parametrize("start", [0, 2])
def test_a_rewritten_line_is_refused(tmp_path, start):
    append(tmp_path, 0, chain(4))
    before = stored(tmp_path)
    forged = chain(6, word="forged")
    code, answer = append(tmp_path, start, forged[start:])
    assert (code, answer["ok"]) == (3, False)
    assert "will not be rewritten" in answer["error"]
    assert stored(tmp_path) == before


def test_a_line_off_the_chain_is_refused_and_nothing_of_the_call_is_kept(tmp_path):
    lines = chain(4)
    append(tmp_path, 0, lines[:2])
    before = stored(tmp_path)
    code, answer = append(tmp_path, 2, [lines[2], lines[2]])
    assert code == 3 and "line 4 does not continue" in answer["error"]
    assert append(tmp_path, 2, [b"no json"])[0] == 3
    code, answer = append(tmp_path, 3, lines[3:])
    assert code == 3 and "are missing here" in answer["error"]
    assert stored(tmp_path) == before


def test_cut_off_input_keeps_nothing(tmp_path):
    lines = chain(3)
    header = json.dumps({"op": "append", "estate": "lab", "from_line": 0}).encode() + b"\n"
    code, answer = call(tmp_path, None, raw=header + lines[0] + b"\n" + lines[1][:10])
    assert code == 2 and "middle of a line" in answer["error"]
    assert call(tmp_path, None, raw=header[:-3])[0] == 2
    assert append(tmp_path, 0, lines[:1], line_count=3)[0] == 2
    assert call(tmp_path, {"op": "head", "estate": "lab"})[1]["lines"] == 0


def test_a_torn_last_line_is_cut_off(tmp_path):
    lines = chain(3)
    append(tmp_path, 0, lines[:2])
    with open(str(tmp_path / "lab" / "ledger.jsonl"), "ab") as stream:
        stream.write(lines[2][:20])
    code, answer = append(tmp_path, 2, lines[2:])
    assert (code, answer["repaired"], answer["lines"]) == (0, True, 3)
    assert stored(tmp_path) == b"".join(line + b"\n" for line in lines)


def test_a_damaged_copy_is_said_and_not_continued(tmp_path):
    lines = chain(3)
    append(tmp_path, 0, lines)
    path = tmp_path / "lab" / "ledger.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"n": 1', b'"n": 7'))
    code, answer = call(tmp_path, {"op": "head", "estate": "lab"})
    assert code == 4 and "damaged" in answer["error"]


@pytest.mark.parametrize(
    "header",
    [
        {"op": "truncate", "estate": "lab"},
        {"op": "head"},
        {"op": "head", "estate": "../x"},
        {"op": "head", "estate": ".."},
        {"op": "append", "estate": "lab", "from_line": -1},
        {"op": "append", "estate": "lab", "from_line": True},
        ["head"],
    ],
)
def test_headers_that_are_not_understood(tmp_path, header):
    assert call(tmp_path, header)[0] == 2
    assert os.listdir(str(tmp_path)) == []


def test_a_link_in_the_place_of_the_ledger_is_not_followed(tmp_path):
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab" / "ledger.jsonl").symlink_to(tmp_path / "elsewhere")
    assert append(tmp_path, 0, chain(1))[0] == 4
    assert not (tmp_path / "elsewhere").exists()


def test_two_writers_at_once_keep_one_chain(tmp_path):
    lines = chain(40)
    text = json.dumps({"op": "append", "estate": "lab", "from_line": 0}).encode() + b"\n" + b"".join(x + b"\n" for x in lines)
    argv = [sys.executable, "-I", SCRIPT, str(tmp_path)]
    children = [subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(4)]
    answers = [json.loads(child.communicate(text)[0].decode()) for child in children]
    assert all(answer["ok"] for answer in answers)
    assert sorted(answer["added"] for answer in answers) == [0, 0, 0, 40]
    assert stored(tmp_path) == b"".join(line + b"\n" for line in lines)
