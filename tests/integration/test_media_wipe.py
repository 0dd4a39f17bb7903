# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module on real block devices (loop devices over files that the test makes): runs, interruptions, the certificate."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.sunset.crm.plugins.module_utils._recorded import make_receipt
from ansible_collections.sunset.crm.plugins.plugin_utils.certificates import certificate
from ansible_collections.sunset.crm.plugins.plugin_utils.people import signatures
from tests.integration.loop_media import (
    ITEM,
    KEY,
    MARKER,
    MIB,
    Medium,
    a_medium as _medium,  # noqa: F401
    attach,
    call_wipe as _wipe,  # noqa: F401
    halted,
    job_folder,
    kill_job,
    stock_tools_say_wiped,
    wait_for,
)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="loop devices need root")


def test_four_in_a_row(medium: Medium, wipe: Any) -> None:
    before = medium.content()
    planned = wipe(check=True)
    assert planned["changed"] and planned["evidence"]["before"]["decision"] == "start"
    assert medium.content() == before

    first = wipe()
    assert first["changed"] and first["evidence"]["verdict"] == "yes", first
    result = first["result"]
    assert result["outcome"] == "sanitised" and result["exceptions"] == []
    assert result["verification"]["canaries_found"] == result["verification"]["canaries_left"] == 16
    assert result["verification"]["bytes_read"] == medium.identity()["size"]
    assert result["accounting"]["written"]["bytes"] >= result["size"]
    assert result["classes"]["called"] == "logical sanitisation"
    assert MARKER not in medium.content() and stock_tools_say_wiped(medium)

    wiped = medium.content()
    second, third = wipe(), wipe(check=True)
    assert not second["changed"] and second["evidence"]["verdict"] == "yes" and second["result"] == result
    assert not third["changed"]
    assert medium.content() == wiped


def test_a_medium_that_was_written_again_is_wiped_again(medium: Medium, wipe: Any) -> None:
    assert wipe()["changed"]
    with open(medium.device, "r+b", buffering=0) as stream:
        stream.write(MARKER * 200)
        os.fsync(stream.fileno())
    again = wipe()
    assert again["changed"] and again["evidence"]["before"]["wiped"] == "no"
    assert MARKER not in medium.content()


def test_killed_in_the_middle_goes_on_where_the_stream_ends(medium: Medium, wipe: Any, tmp_path: Path) -> None:
    with halted(tmp_path):  # however long the call takes: the job begins when it is looked at
        started = wipe(rate=4 * MIB, wait=0)
    assert started["changed"] and started["evidence"]["verdict"] == "unknown" and started["result"]["state"] == "running"
    progress = wait_for(tmp_path, 40)
    kill_job(job_folder(tmp_path), progress["pid"])
    assert MARKER in medium.content()

    result = wipe()["result"]
    assert result["outcome"] == "sanitised" and len(result["sessions"]) == 2
    assert result["sessions"][1]["resumed_from"] >= progress["done"] > 0
    assert result["verification"]["bytes_read"] == result["size"] and result["accounting"]["written"]["verdict"] == "yes"
    assert stock_tools_say_wiped(medium)


def test_a_second_call_attaches_to_the_running_job(medium: Medium, wipe: Any, tmp_path: Path) -> None:
    with halted(tmp_path):
        wipe(wait=0)
        pid = wait_for(tmp_path, 0)["pid"]
        visit = attach(wipe)
    joined = wipe(visit=visit)
    assert joined["changed"] and joined["evidence"]["before"]["decision"] == "attach"
    assert [session["pid"] for session in joined["result"]["sessions"]] == [pid]
    assert stock_tools_say_wiped(medium)


def test_a_job_of_an_earlier_plan_is_not_taken_for_what_is_asked_for_now(medium: Medium, wipe: Any, tmp_path: Path) -> None:
    """It is attached to, since nothing else may write there; what it did is less than, or another device than, what the plan now names."""
    for change, word in (
        ({"verify": "full"}, "asked for overwrite-keyed, verify full"),
        ({"identity": {"serial": "x", "size": 1}}, "serial: "),
    ):
        asked: dict[str, Any] = {"verify": "sample", **change}
        with halted(tmp_path):
            assert wipe(wait=0, verify="sample")["evidence"]["before"]["decision"] == "start"
            visit = attach(wipe, **asked)
        joined = wipe(visit=visit, **asked)
        assert joined["failed"] and joined["evidence"]["verdict"] == "no" and word in joined["msg"], joined["msg"]
        with open(medium.device, "r+b", buffering=0) as stream:
            stream.write(MARKER * 200)
            os.fsync(stream.fileno())
    assert wipe()["result"]["verification"]["mode"] == "full"


def test_abort_stops_on_record_and_the_next_call_goes_on(medium: Medium, wipe: Any, tmp_path: Path) -> None:
    """Who only waits does not start it again; who comes after that does."""
    with halted(tmp_path):
        wipe(rate=MIB, wait=0)
        visit = attach(wipe)
    wait_for(tmp_path, 10)
    (job_folder(tmp_path) / "abort").touch()
    stopped = wipe(visit=visit)
    assert stopped["failed"] and "was stopped" in stopped["msg"] and stopped["evidence"]["verdict"] == "no"
    result = wipe()["result"]
    assert result["outcome"] == "sanitised" and len(result["sessions"]) == 2


def test_the_key_is_in_no_argument_list_and_its_file_is_private(medium: Medium, wipe: Any, tmp_path: Path) -> None:
    with halted(tmp_path):
        wipe(wait=0)
        pid = wait_for(tmp_path, 0)["pid"]
        seen: dict[int, bytes] = {}
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):  # others come and go
                seen[int(path.parent.name)] = path.read_bytes()
        assert str(job_folder(tmp_path)).encode() in seen[pid], "its own was looked at"
        assert not [other for other, line in seen.items() if other != os.getpid() and KEY.encode() in line]
        assert (job_folder(tmp_path) / "spec.json").stat().st_mode & 0o777 == 0o600
        assert job_folder(tmp_path).stat().st_mode & 0o777 == 0o700
        kill_job(job_folder(tmp_path), pid)


@pytest.mark.parametrize("key,word", [("xyz", "64 hexadecimal digits"), ("0" * 64, "repeats itself")])
def test_a_poor_key_is_refused(medium: Medium, wipe: Any, key: str, word: str) -> None:
    before = medium.content()
    answer = wipe(stream_key=key)
    assert answer["failed"] and word in answer["msg"] and medium.content() == before


def test_no_receipt_no_wipe(medium: Medium, wipe: Any) -> None:
    before = medium.content()
    assert wipe(receipt=None)["failed"]
    assert wipe(receipt=make_receipt("media_wipe", "medium:other", "x"))["failed"]
    assert wipe(receipt=make_receipt("media_wipe", ITEM, "x", True))["failed"]
    assert medium.content() == before


def handbook_agrees(medium: Medium, path: Path) -> None:
    """Run the blocks of docs/auditor.md that speak of a wiped device, as they stand there."""
    text = (Path(__file__).resolve().parents[2] / "docs" / "auditor.md").read_text()
    blocks = dict(re.findall(r"<!-- block: (device[\w-]*); as: root -->\n```sh\n(.*?)```", text, re.DOTALL))
    assert set(blocks) == {"device", "device-places"}
    environment = {**os.environ, "CERTIFICATE": str(path), "DEVICE": medium.device}
    for block in blocks.values():
        process = subprocess.run(["sh", "-c", block], capture_output=True, text=True, env=environment, check=False)
        assert process.returncode == 0, (block, process.stdout, process.stderr)


def test_the_commands_of_the_certificate_confirm_it(medium: Medium, wipe: Any, tmp_path: Path) -> None:
    answer = wipe()
    made = certificate.build_certificate(
        item={"id": "medium:pgdata", "host": "db1", "wave": "main", "identity": medium.identity(), "wipe": {"host": "station1"}},
        plan={"estate": "lab", "sha256": "b" * 64, "approved_by": "anna"},
        authorisation={
            "sha256": "a" * 64,
            "signer": "berta",
            "name": "wipe.json",
            "expires": "2030-01-01T00:00:00Z",
            "method": "overwrite",
        },
        data_sets=[
            {
                "item": "database:creme",
                "categories": ["customers"],
                "dump": {"id": "d1", "entry": "c" * 64},
                "proofs": [{"vault": "vault1", "verdict": "equal", "entry": "d" * 64, "tables": 3, "rows": 700}],
            }
        ],
        wipe=answer["result"],
        stream_key=KEY,
        evidence={"ledger_entry": "e" * 64, "sha256": answer["evidence_sha256"]},
        people={"operator": "otto"},
        issued="2026-01-31T10:00:00Z",
    )
    signatures.create_key(tmp_path / "run", "run")
    path = certificate.issue(made, tmp_path / "evidence", tmp_path / "run")
    (path.parent / "allowed_signers").write_text(f'run namespaces="{signatures.CERTIFICATE}" {(tmp_path / "run.pub").read_text()}')

    def outputs() -> list[bool]:
        found = []
        for check in json.loads(path.read_text())["check"]:
            if "SERIAL" in check["command"]:
                continue
            process = subprocess.run(["sh", "-c", check["command"]], capture_output=True, text=True, cwd=path.parent, check=False)
            found.append(check["expect"] in process.stdout)
        return found

    assert outputs() == [True] * 7
    handbook_agrees(medium, path)
    with open(medium.device, "r+b", buffering=0) as stream:
        stream.write(b"x")
        os.fsync(stream.fileno())
    path.write_text(path.read_text().replace("otto", "paul"))
    assert outputs() == [False, True, True, False, True, True, False]
