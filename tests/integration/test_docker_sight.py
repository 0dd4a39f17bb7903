# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Containers that run where a list of the engine says otherwise: made anew meanwhile, or lost from its sight. Engines of the test's own."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.sunset.crm.plugins.plugin_utils import relay
from ansible_collections.sunset.crm.plugins.plugin_utils.docker.engine import Engine
from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.guests import guests, lost_sight
from tests.integration.engine_acts import LABEL, OBEYS, make, start, states, stop
from tests.integration.private_engine import Dockerd, Enduring, Podman, Private, running

STRAYS = functools.partial(lost_sight.containers, relay.here())


@pytest.fixture
def folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="ste-"))
    yield made
    shutil.rmtree(made, ignore_errors=True)


@contextlib.contextmanager
def outliving(engine: Private, key: str) -> Iterator[int]:
    """The first process of a container, which the test ends at last: nobody else knows of it any more."""
    pid = int(engine.client().inspect_container(key)["State"]["Pid"])
    try:
        yield pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def test_a_container_that_is_made_anew_under_its_name_while_others_come_down_is_not_off(folder: Path) -> None:
    """As `compose up` in a timer or a program that updates images does: the name is there, and what was asked is gone."""
    with running(Dockerd(folder)) as engine:
        image = engine.load()
        first = make(engine, image, "web", OBEYS)
        make(engine, image, "slow", "trap '' TERM; trap 'exit 0' USR1; while :; do sleep 0.1; done")

        def anew() -> None:
            while states(engine)["web"] == "running":
                time.sleep(0.05)
            engine.client().remove_container(first)
            make(engine, image, "web", OBEYS)
            # The last one comes down when the new one runs.
            engine.client().kill("slow", "SIGUSR1")

        other = threading.Thread(target=anew)
        other.start()
        done = stop(engine, "web", "slow")
        other.join()
        assert states(engine) == {"web": "running", "slow": "exited"}
        assert done["failed"] and done["evidence"]["verdict"] == "no" and "web it is gone" in done["msg"], done.get("msg")
        assert done["result"]["guests"]["web"]["how"] == guests.STILL_ON
        again = stop(engine, "web", "slow")
        assert again["evidence"]["verdict"] == "yes" and set(states(engine).values()) == {"exited"}, again.get("msg")


class Apart(Podman):
    """With its notes on what runs in a folder of its own, not in that of the machine's Podman."""

    def base(self) -> list[str]:
        return [*super().base(), "--tmpdir", str(self.folder / "exec")]


def lose(engine: Private) -> None:
    """The engine comes back without its notes on what runs, as when /run or /tmp was cleared or another containerd took over."""
    engine.down()
    shutil.rmtree(engine.folder / "exec", ignore_errors=True)
    engine.up()


@pytest.mark.parametrize("kind", [Enduring, Apart])
def test_a_container_that_its_engine_calls_ended_and_that_runs_is_not_off(folder: Path, kind: Any) -> None:
    with running(kind(folder)) as engine:
        key = make(engine, engine.load(), "web", OBEYS)
        with outliving(engine, key) as pid:
            lose(engine)
            assert states(engine)["web"] in ("exited", "created", "configured") and alive(pid)
            with pytest.raises(Refusal, match=f"web: it is called .*pid .*{pid}.*Nothing was changed"):
                stop(engine, "web", strays=STRAYS)
            # Nor is a second one started beside it.
            with Engine(engine.address, LABEL, strays=STRAYS) as opened:
                former = {"web": {**opened.observe()[0].record["former"], "id": key, "power": "on"}}
            back = start(engine, former, strays=STRAYS)
            assert back["failed"] and "web (it is called" in back["msg"], back.get("msg")
            os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + 60
        while alive(pid) and time.monotonic() < deadline:
            time.sleep(0.1)
        done = stop(engine, "web", strays=STRAYS)
        assert done["evidence"]["verdict"] == "yes" and done["result"]["guests"]["web"]["graceful"] == "unknown", done.get("msg")
        assert done["evidence"]["tools"]["processes of the host"] == "seen"
