# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A swarm of several nodes: what runs on other nodes is seen to be gone, or said not to be; who can decide is asked, or named."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker.errors
import docker.types
import pytest

from ansible_collections.sunset.crm.plugins.action.guest_survey import expected
from ansible_collections.sunset.crm.plugins.plugin_utils.docker import swarm as docker_swarm
from ansible_collections.sunset.crm.plugins.plugin_utils.docker.engine import Engine
from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.guests import guests
from tests.integration import docker_faults
from tests.integration.engine_acts import IGNORES, LABEL, OBEYS, all_heed, service, start, stop
from tests.integration.swarm_nodes import swarm

EACH = docker.types.ServiceMode("replicated", 6)
ONE = docker.types.ServiceMode("replicated", 1)


@pytest.fixture(scope="module")
def nodes() -> Iterator[list[Any]]:
    """Two managers, so that the loss of one is the loss of their majority, and a worker."""
    with swarm(["Manager", "Manager", "Worker"]) as made:
        yield made


@pytest.fixture(autouse=True)
def _clean(nodes: list[Any]) -> Iterator[None]:
    yield
    for node in nodes:
        node.mend()
    settled(nodes, lambda: {one["Status"]["State"] for one in nodes[0].client().nodes()} == {"ready"})  # type: ignore[no-untyped-call]
    for one in nodes[0].client().services():  # type: ignore[no-untyped-call]
        nodes[0].client().remove_service(one["ID"])  # type: ignore[no-untyped-call]
    settled(nodes, lambda: not any(node.names() for node in nodes))


def settled(nodes: list[Any], good: Any, seconds: float = 150) -> None:
    deadline, why = time.monotonic() + seconds, ""
    while True:
        try:
            if good():
                return
        except Exception as err:
            why = str(err)  # a manager that looks for its leader answers with an error
        assert time.monotonic() < deadline, (why, [(node.names(), told_of(node)) for node in nodes])
        time.sleep(0.3)


def told_of(node: Any) -> Any:
    """What one node says of itself and of the others."""
    seen = node.client().info()["Swarm"]
    try:
        return seen["LocalNodeState"], seen["Error"], [(one["Status"], one.get("ManagerStatus")) for one in node.client().nodes()]
    except docker.errors.APIError as err:
        return seen["LocalNodeState"], seen["Error"], str(err)


def worker_of(nodes: list[Any]) -> str:
    return str(nodes[2].client().info()["Swarm"]["NodeID"])


def test_services_come_to_zero_on_every_node_and_back(nodes: list[Any]) -> None:
    leader, second, worker = nodes
    service(leader, leader.image, "web", OBEYS, mode=EACH)
    service(leader, leader.image, "far", IGNORES, grace=1, mode=ONE, where=(f"node.id=={worker_of(nodes)}",))
    settled(nodes, lambda: [node.names().count("web") for node in nodes] == [2, 2, 2] and "far" in worker.names())
    for node in nodes:
        all_heed(node)
    # Any manager will do.
    done = stop(second, "web", "far", timeout=150)
    assert done["evidence"]["verdict"] == "yes", done.get("msg")
    assert [node.names() for node in nodes] == [[], [], []]
    rows = done["result"]["guests"]
    # Tasks of other nodes are cleared away; what the swarm did not tell of their end is not called graceful, and one that was killed never is.
    told = {guests.BY_FORCE: "no", guests.UNKNOWN: "unknown"}
    assert rows["far"]["how"] in told and rows["far"]["graceful"] == told[rows["far"]["how"]], rows["far"]
    assert rows["web"]["how"] in (guests.BY_ITSELF, guests.UNKNOWN), rows["web"]
    assert done["result"]["way"] != "graceful" and done["result"]["former"]["web"]["replicas"] == 6
    places = {task["node"] for task in rows["web"]["before"]["tasks"]}
    assert len(places) == 3 and all(any(f"({node.where}, ready)" in place for place in places) for node in nodes), places
    assert stop(leader, "web", "far")["changed"] is False
    back = start(leader, done["result"]["former"])
    assert back["evidence"]["verdict"] == "yes", back.get("msg")
    settled(nodes, lambda: sum(node.names().count("web") for node in nodes) == 6 and "far" in worker.names())


def test_a_worker_that_is_addressed_names_its_managers(nodes: list[Any]) -> None:
    leader, second, worker = nodes
    service(leader, leader.image, "far", OBEYS, mode=ONE, where=(f"node.id=={worker_of(nodes)}",))
    settled(nodes, lambda: worker.names() == ["far"])
    managers = f"managers: {leader.where}:2377, {second.where}:2377"
    # Whether the set is named by its service or by what runs here.
    for named in ("far", worker.client().containers()[0]["Names"][0].lstrip("/")):
        with pytest.raises(Refusal, match="the swarm service far runs it .* this node is no manager") as caught:
            stop(worker, named)
        assert managers in str(caught.value) and worker.names() == ["far"]
    # The survey says so before there is a plan.
    with Engine(worker.address, LABEL) as engine:
        seen = expected({"label": LABEL, "name": "shop"}, engine.inspects(), [], engine.services(), docker_swarm.managers_of(engine.info))
    assert seen["found"] == "no" and managers in seen["detail"]


def test_a_manager_without_quorum_decides_nothing(nodes: list[Any], tmp_path: Path) -> None:
    leader, second, worker = nodes
    service(leader, leader.image, "far", OBEYS, mode=ONE, where=(f"node.id=={worker_of(nodes)}",))
    settled(nodes, lambda: worker.names() == ["far"])
    second.cut()
    book = tmp_path / "book"
    with pytest.raises(Refusal, match="the swarm has no quorum") as caught:
        docker_faults.stop(leader.address, LABEL, ["far"], book)
    assert second.where in str(caught.value) and worker.names() == ["far"]
    second.mend()
    settled(nodes, lambda: bool(leader.client().services()))
    # The refused request may have been carried out with the new majority, and the new leader has heard of no node yet: its tasks are
    # forgotten, and run. They are waited for, and what ran before is known.
    done = docker_faults.stop(leader.address, LABEL, ["far"], book, timeout=150)
    assert worker.names() == [], "called off while it ran"
    assert done["evidence"]["verdict"] == "yes", done.get("msg")
    # Until the new leader has heard of the worker again, the task that runs there "comes up": either is put back as one replica.
    former = done["result"]["former"]["far"]
    assert former["replicas"] == 1 and former["power"] in ("on", "changing"), former


def test_what_runs_on_a_node_that_is_lost_is_not_called_off(nodes: list[Any]) -> None:
    leader, _second, worker = nodes
    service(leader, leader.image, "far", OBEYS, mode=ONE, where=(f"node.id=={worker_of(nodes)}",))
    settled(nodes, lambda: worker.names() == ["far"])
    worker.cut()
    settled(nodes, lambda: any(one["Status"]["State"] == "down" for one in leader.client().nodes()))
    done = stop(leader, "far", timeout=5)
    assert (done["failed"], done["evidence"]["verdict"], done["result"]["way"]) == (True, "no", "running")
    assert f"({worker.where}, down)" in done["msg"], done["msg"]
    # It does run on there.
    assert worker.names() == ["far"]
    worker.mend()
    settled(nodes, lambda: worker.names() == [])
    again = stop(leader, "far", timeout=120)
    assert again["evidence"]["verdict"] == "yes", again.get("msg")
