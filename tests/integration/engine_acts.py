# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests of container engines do again and again: one call of a verb as the action makes it, containers and services that obey or not."""

from __future__ import annotations

import time
from typing import Any

import docker.types

from ansible_collections.sunset.crm.plugins.plugin_utils.actions.account import Account
from ansible_collections.sunset.crm.plugins.plugin_utils.docker import verbs as docker_verbs
from ansible_collections.sunset.crm.plugins.plugin_utils.docker.engine import Engine
from ansible_collections.sunset.crm.plugins.plugin_utils.guests import verbs as guest_verbs
from tests.integration.private_engine import Podman, Private

LABEL = "crm=shop"
OBEYS = "trap 'exit 0' TERM; while :; do sleep 0.1; done"
IGNORES = "trap '' TERM; while :; do sleep 0.1; done"


def item() -> Account:
    return Account("docker_guests", "container:t")


def stop(engine: Private, *names: str, timeout: float = 20, check: bool = False, engines: Any = None, **opening: Any) -> dict[str, Any]:
    notes: list[dict[str, Any]] = []
    force = {name: opening.pop(name) for name in ("force_after", "allowed_by") if name in opening}
    order = guest_verbs.Order(names, timeout=timeout, **force)
    with Engine(engine.address, LABEL, **opening) as opened:
        done = docker_verbs.stop(opened, item(), order, guest_verbs.Memory({}, {}, notes.append), check, engines)
    return {**done, "notes": notes}


def start(engine: Private, former: dict[str, Any], **opening: Any) -> dict[str, Any]:
    with Engine(engine.address, LABEL, **opening) as opened:
        return docker_verbs.start(opened, item(), former, 20, False)


def make(engine: Private, image: str, name: str, script: str, policy: str = "no", labels: dict[str, str] | None = None, **host: Any) -> str:
    api = engine.client()
    if isinstance(engine, Podman):
        host["ulimits"] = [{"Name": kind, "Soft": 1024, "Hard": 1024} for kind in ("nofile", "nproc")]
    settings = api.create_host_config(network_mode="none", restart_policy={"Name": policy}, **host)
    command = ["/bin/sh", "-c", script]
    made = api.create_container(image, command, name=name, labels={"crm": "shop", **(labels or {})}, host_config=settings)
    api.start(made["Id"])
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
    deadline = time.monotonic() + 40
    while True:
        if sum(row["State"] == "running" for row in engine.client().containers()) == want:
            return
        assert time.monotonic() < deadline, engine.client().containers(all=True)
        time.sleep(0.3)
