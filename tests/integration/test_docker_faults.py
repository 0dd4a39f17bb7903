# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The engine answers late, wrong or not at all, is restarted in the middle, or the controller is killed between request and answer.

Each time: the second run ends in the same state, no container got a second signal, and the evidence is true.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest

from ansible_collections.sunset.crm.plugins.plugin_utils.guests import guests
from tests.integration import docker_faults
from tests.integration.engine_acts import heeds
from tests.integration.private_engine import Dockerd, running

# Counts its signals, and takes its time.
COUNTS = "n=0; trap 'n=$((n+1)); echo signal $n' TERM; while [ $n -eq 0 ]; do sleep 0.1; done; sleep 2 & w=$!; while kill -0 $w 2>/dev/null; do wait $w; done; exit 0"
NAMES = ["one", "two"]


@pytest.fixture(scope="module")
def engine() -> Iterator[Dockerd]:
    with tempfile.TemporaryDirectory(prefix="ste-", ignore_cleanup_errors=True) as folder, running(Dockerd(Path(folder))) as made:
        made.image = made.load()  # type: ignore[attr-defined]
        yield made


@pytest.fixture
def api(engine: Dockerd) -> Iterator[docker.APIClient]:
    client = engine.client()
    for name in NAMES:
        host = client.create_host_config(network_mode="none", restart_policy={"Name": "always"})
        made = client.create_container(engine.image, ["/bin/sh", "-c", COUNTS], name=name, labels={"crm": "f"}, host_config=host)  # type: ignore[attr-defined]
        client.start(made["Id"])
    for name in NAMES:
        heeds(int(client.inspect_container(name)["State"]["Pid"]))
    yield client
    for name in NAMES:
        client.remove_container(name, force=True)
    client.close()


def signals(api: docker.APIClient) -> dict[str, str]:
    return {name: api.logs(name).decode() for name in NAMES}


def once_and_off(api: docker.APIClient, done: dict[str, Any]) -> None:
    assert done["evidence"]["verdict"] == "yes", done.get("msg")
    assert signals(api) == dict.fromkeys(NAMES, "signal 1\n")
    seen = [api.inspect_container(name) for name in NAMES]
    assert [(one["State"]["Status"], one["State"]["ExitCode"]) for one in seen] == [("exited", 0)] * 2
    assert [one["HostConfig"]["RestartPolicy"]["Name"] for one in seen] == ["no"] * 2
    assert {row["how"] for row in done["result"]["guests"].values()} <= {guests.BY_ITSELF, guests.ALREADY_OFF}
    assert [done["result"]["former"][name]["policy"]["Name"] for name in NAMES] == ["always"] * 2


LIST, LOOK, POLICY, SIGNAL = "GET .*/containers/json", "GET .*/[0-9a-f]{64}/json", "POST .*/update", "POST .*/kill"


@pytest.mark.parametrize(
    ("fault", "matching"),
    [("late", SIGNAL), ("garbage", LIST), ("garbage", LOOK), ("garbage", SIGNAL), ("cut", LIST), ("cut", POLICY), ("cut", SIGNAL)],
)
def test_spoilt_answers(engine: Dockerd, api: docker.APIClient, tmp_path: Path, fault: str, matching: str) -> None:
    with tempfile.TemporaryDirectory(prefix="ste-") as folder:
        way = docker_faults.Spoiler(Path(folder), engine.address, fault, matching)
        try:
            done = docker_faults.stop(way.address, "crm=f", NAMES, tmp_path / "book")
        finally:
            way.close()
    assert way.hit.is_set()
    once_and_off(api, done)
    again = docker_faults.stop(engine.address, "crm=f", NAMES, tmp_path / "book")
    assert (again["changed"], again["evidence"]["actions"]) == (False, [])


@pytest.mark.parametrize("matching", ["POST .*/update", "POST .*/kill"])
def test_controller_killed_between_request_and_answer(engine: Dockerd, api: docker.APIClient, tmp_path: Path, matching: str) -> None:
    with tempfile.TemporaryDirectory(prefix="ste-") as folder:
        way = docker_faults.Spoiler(Path(folder), engine.address, "hang", matching)
        argv = [sys.executable, "-m", "tests.integration.docker_faults", way.address, "crm=f", str(tmp_path / "book"), *NAMES]
        top = Path(__file__).resolve().parents[2]
        child = subprocess.Popen(argv, cwd=top, env={**os.environ, "PYTHONPATH": f"{top}/.collections:{top}"})
        assert way.hit.wait(120)
        child.send_signal(signal.SIGKILL)
        assert child.wait(60) == -signal.SIGKILL
        way.close()
    once_and_off(api, docker_faults.stop(engine.address, "crm=f", NAMES, tmp_path / "book"))


def test_the_engine_is_restarted_in_the_middle(engine: Dockerd, api: docker.APIClient, tmp_path: Path) -> None:
    """Its own stop of the containers is a second signal, which is the engine's doing: the evidence must only not call a kill graceful."""

    def restart() -> None:
        deadline = time.monotonic() + 120
        # The requests have arrived: before, a restart would give the containers other lives.
        while "" in signals(api).values() and time.monotonic() < deadline:
            time.sleep(0.05)
        engine.down()
        engine.up()

    other = threading.Thread(target=restart)
    other.start()
    try:
        done = docker_faults.stop(engine.address, "crm=f", NAMES, tmp_path / "book", timeout=60)
    finally:
        other.join()
    assert done["evidence"]["verdict"] == "yes", done.get("msg")
    rows = done["result"]["guests"]
    for name in NAMES:
        state = api.inspect_container(name)["State"]
        assert state["Status"] == "exited"
        assert rows[name]["graceful"] == ("unknown" if state["ExitCode"] == 137 else "yes"), rows[name]
    assert docker_faults.stop(engine.address, "crm=f", NAMES, tmp_path / "book")["changed"] is False
