# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests of container engines do again and again: one call of a verb as the action makes it, containers and services that obey or not."""

from __future__ import annotations

import contextlib
import re
import signal
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import docker.errors
import docker.types

from ansible_collections.sunset.crm.plugins.plugin_utils.actions.account import Account
from ansible_collections.sunset.crm.plugins.plugin_utils.docker import verbs as docker_verbs
from ansible_collections.sunset.crm.plugins.plugin_utils.docker.engine import Engine
from ansible_collections.sunset.crm.plugins.plugin_utils.guests import guests, verbs as guest_verbs
from tests.integration.private_engine import Podman, Private

LABEL = "crm=shop"
OBEYS = "trap 'exit 0' TERM; while :; do sleep 0.1; done"
IGNORES = "trap '' TERM; while :; do sleep 0.1; done"


def trapped(script: str) -> set[int]:
    """Numbers of the signals that a script sets traps for."""
    return {signal.Signals[f"SIG{name}"] for name in re.findall(r"""trap (?:'[^']*'|"[^"]*") ([A-Z0-9]+)""", script)}


def heeding(status: str, signals: Collection[int]) -> bool:
    """Whether the process of this /proc/<pid>/status catches, ignores or blocks all these signals."""
    masks = dict(re.findall(r"^Sig(Cgt|Ign|Blk):\s+([0-9a-f]+)$", status, re.MULTILINE))
    caught, ignored, blocked = (int(masks[name], 16) for name in ("Cgt", "Ign", "Blk"))
    # What makes the container, and becomes its program at last, catches all that a process can; no shell catches this one.
    if caught >> (signal.SIGSEGV - 1) & 1:
        return False
    return all((caught | ignored | blocked) >> (number - 1) & 1 for number in signals)


def heeds(
    pid: int, signals: Collection[int] = (signal.SIGTERM,), read: Callable[[str], str] = lambda place: Path(place).read_text()
) -> bool:
    """Wait until a container's first process has set its traps: before, it does not even hear these signals. False if it ended instead.

    pid: as its engine names it. read: reads a file where that engine runs.
    """
    deadline = time.monotonic() + 60
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        while signals and not heeding(read(f"/proc/{pid}/status"), signals):
            assert time.monotonic() < deadline, f"{pid} set no traps for {sorted(signals)}: {read(f'/proc/{pid}/status')}"
            time.sleep(0.02)
        return True
    return False


def all_heed(engine: Private) -> None:
    """Whatever runs on this engine, such as the tasks of services, has set its traps."""
    api = engine.client()
    for row in api.containers():
        # Between the two looks it may have made way for another one.
        with contextlib.suppress(docker.errors.NotFound):
            heeds(int(api.inspect_container(row["Id"])["State"]["Pid"]), trapped(row["Command"]))
    api.close()


class Patient(guests.Clock):
    """Stands still while `waits` says so: the time that deaf ones are given begins when those that obey have ended, however slow all is."""

    def __init__(self, waits: Callable[[], bool]) -> None:
        first, stood, over = time.monotonic(), 0.0, False

        def now() -> float:
            nonlocal stood, over
            if not over:
                over = time.monotonic() - first > 120 or not waits()
                stood = time.monotonic() - first
            return time.monotonic() - stood

        self.now = now


def item() -> Account:
    return Account("docker_guests", "container:t")


def stop(engine: Private, *names: str, timeout: float = 60, check: bool = False, engines: Any = None, **opening: Any) -> dict[str, Any]:
    notes: list[dict[str, Any]] = []
    force = {name: opening.pop(name) for name in ("force_after", "allowed_by") if name in opening}
    order = guest_verbs.Order(names, timeout=timeout, **force)
    with Engine(engine.address, LABEL, **opening) as opened:
        done = docker_verbs.stop(opened, item(), order, guest_verbs.Memory({}, {}, notes.append), check, engines)
    return {**done, "notes": notes}


def start(engine: Private, former: dict[str, Any], **opening: Any) -> dict[str, Any]:
    with Engine(engine.address, LABEL, **opening) as opened:
        return docker_verbs.start(opened, item(), former, 60, False)


def make(engine: Private, image: str, name: str, script: str, policy: str = "no", labels: dict[str, str] | None = None, **host: Any) -> str:
    api = engine.client()
    if isinstance(engine, Podman):
        host["ulimits"] = [{"Name": kind, "Soft": 1024, "Hard": 1024} for kind in ("nofile", "nproc")]
    settings = api.create_host_config(network_mode="none", restart_policy={"Name": policy}, **host)
    command = ["/bin/sh", "-c", script]
    made = api.create_container(image, command, name=name, labels={"crm": "shop", **(labels or {})}, host_config=settings)
    api.start(made["Id"])
    heeds(int(api.inspect_container(made["Id"])["State"]["Pid"]), trapped(script))
    api.close()
    return str(made["Id"])


def states(engine: Private) -> dict[str, str]:
    return {row["Names"][0].lstrip("/"): row["State"] for row in engine.client().containers(all=True)}


def service(
    engine: Private,
    image: str,
    name: str,
    script: str,
    grace: float = 10,
    mode: Any = None,
    label: bool = True,
    where: tuple[str, ...] = (),
) -> str:
    """On the network of its host, for an overlay needs more than these engines have. where: constraints on its nodes."""
    container = docker.types.ContainerSpec(
        image, command=["/bin/sh", "-c", script], labels={"crm": "shop"}, stop_grace_period=int(grace * 1e9)
    )
    placement = docker.types.Placement(constraints=list(where)) if where else None
    template = docker.types.TaskTemplate(container, networks=[{"Target": "host"}], placement=placement)
    made = engine.client().create_service(
        template, name=name, labels={"crm": "shop"} if label else {}, mode=mode or docker.types.ServiceMode("replicated", 2)
    )
    return str(made["ID"])


def until(engine: Private, want: int) -> None:
    """So many run, and heed what they are asked."""
    deadline = time.monotonic() + 150
    while True:
        if sum(row["State"] == "running" for row in engine.client().containers()) == want:
            all_heed(engine)
            return
        assert time.monotonic() < deadline, engine.client().containers(all=True)
        time.sleep(0.3)
