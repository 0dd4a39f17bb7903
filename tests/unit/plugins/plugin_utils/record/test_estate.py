# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One run at a time, by whom it is known; one act at a time on an item; secrets made once."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.record import estate as estates
from ansible_collections.sunset.crm.plugins.plugin_utils.record.estate import Estate


@pytest.fixture
def estate(tmp_path: Path) -> Estate:
    return Estate.at(tmp_path / "acme")


def run_of(owner: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    mine = owner or estates.controller()
    return {"run": "r1", "estate": "acme", "phase": "shutdown", "operator": "olga", "since": "today", "owner": mine, **changes}


@pytest.fixture
def other() -> Any:
    """Another living process, as another controller would be."""
    child = subprocess.Popen(["sleep", "60"])
    yield {"pid": child.pid, "started": estates._start_time(child.pid), "machine": socket.gethostname()}
    child.kill()
    child.wait()


def test_the_folder_is_private_and_must_be_named(tmp_path: Path) -> None:
    assert Estate.at(tmp_path / "x").root.stat().st_mode & 0o777 == 0o700
    for nothing in (None, ""):
        with pytest.raises(Refusal, match="sunset_estate_dir is not set"):
            Estate.at(nothing)


def test_there_is_no_run_before_one_is_opened(estate: Estate) -> None:
    assert estates.current_run(estate) is None
    with pytest.raises(Refusal, match="no run is open"):
        estates.my_run(estate)


def test_open_use_close(estate: Estate) -> None:
    estates.open_run(estate, run_of())
    assert estates.my_run(estate)["run"] == "r1"
    estates.open_run(estate, run_of(run="r2"))
    assert estates.my_run(estate)["run"] == "r2"
    estates.close_run(estate)
    assert not estate.run_file.exists()


def test_a_second_controller_is_refused_with_who_where_and_since_when(estate: Estate, other: dict[str, Any]) -> None:
    estates.open_run(estate, run_of(other, operator="otto", since="yesterday", phase="wipe"))
    with pytest.raises(Refusal) as refusal:
        estates.open_run(estate, run_of())
    for word in ("otto", socket.gethostname(), str(other["pid"]), "wipe", "since yesterday"):
        assert word in str(refusal.value)
    with pytest.raises(Refusal, match="no run is open"):
        estates.my_run(estate)
    estates.close_run(estate)
    assert estate.run_file.exists(), "nobody closes the run of another"


def test_a_dead_owners_lock_is_taken_over(estate: Estate) -> None:
    child = subprocess.Popen(["true"])
    child.wait()
    estates.open_run(estate, run_of({"pid": child.pid, "started": "1", "machine": socket.gethostname()}))
    estates.open_run(estate, run_of())
    assert estates.my_run(estate)["operator"] == "olga"


def test_a_reused_process_number_is_another_process(estate: Estate, other: dict[str, Any]) -> None:
    estates.open_run(estate, run_of({**other, "started": "1"}))
    assert estates.current_run(estate) is None


def test_a_run_of_another_machine_is_never_taken_for_dead(estate: Estate) -> None:
    estates.open_run(estate, run_of({"pid": 1, "started": "1", "machine": "elsewhere"}))
    with pytest.raises(Refusal, match="elsewhere"):
        estates.open_run(estate, run_of())


def test_ten_controllers_at_once_one_wins(estate: Estate) -> None:
    until, end = os.pipe()
    for number in range(10):
        if os.fork() == 0:
            os.close(end)
            # Each is an owner of its own: this very process.
            me = {"pid": os.getpid(), "started": estates._start_time(os.getpid()), "machine": socket.gethostname()}
            try:
                estates.open_run(estate, run_of(me, run=str(number)))
            except Refusal:
                os._exit(3)
            # It is at work until the others have had their answers, or two are.
            os.read(until, 1)
            os._exit(0)
    deadline, codes = time.monotonic() + 60, []
    while len(codes) < 9 and time.monotonic() < deadline:
        pid, status = os.waitpid(-1, os.WNOHANG)
        codes += [os.waitstatus_to_exitcode(status)] if pid else []
        time.sleep(0.01)
    os.close(end)
    codes += [os.waitstatus_to_exitcode(os.wait()[1]) for _left in range(10 - len(codes))]
    os.close(until)
    assert sorted(codes) == [0] + [3] * 9


def test_one_act_at_a_time_on_an_item(estate: Estate) -> None:
    refused = pytest.raises(Refusal, match="another task is at work on")
    with estate.item_lock("database:a/../b"), estate.item_lock("database:c"), refused, estate.item_lock("database:a/../b"):
        pass
    with estate.item_lock("database:a/../b"):
        pass
    assert [path.parent.name for path in estate.root.rglob("*.lock")] == ["locks", "locks"]


def test_a_secret_is_made_once_and_private(estate: Estate) -> None:
    assert estate.secret("stream-medium:x", make=False) is None
    key = estate.secret("stream-medium:x")
    assert key is not None
    assert len(bytes.fromhex(key)) == 32
    assert key == estate.secret("stream-medium:x") == estate.secret("stream-medium:x", make=False)
    assert key != estate.secret("stream-medium:y")
    files = list((estate.root / "secrets").iterdir())
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    assert len(files) == 2


def test_a_file_is_replaced_whole(estate: Estate) -> None:
    estates.write(estate.run_file, b"one")
    estates.write(estate.run_file, b"two")
    assert estate.run_file.read_bytes() == b"two"
    assert [path.name for path in estate.root.iterdir()] == ["run.json"]


def test_a_torn_run_file_is_no_run(estate: Estate) -> None:
    estate.run_file.write_text(json.dumps(run_of())[:20])
    assert estates.current_run(estate) is None
