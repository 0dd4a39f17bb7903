# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Swarm services, Podman's units and pods, bind mounts, and what a started image is called."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.sunset.crm.plugins.action.guest_survey import expected, loose_binds
from ansible_collections.sunset.crm.plugins.plugin_utils import closing, docker_podman, docker_proof, docker_swarm
from ansible_collections.sunset.crm.plugins.plugin_utils.view import Seen


def service(replicas: int = 2, **mode: Any) -> dict[str, Any]:
    return {
        "ID": "s",
        "Spec": {"Name": "web", "Mode": mode or {"Replicated": {"Replicas": replicas}}, "TaskTemplate": {"ContainerSpec": {}}},
    }


def task(name: str, state: str, code: int = 0) -> dict[str, Any]:
    return {"ID": name, "Status": {"State": state, "ContainerStatus": {"ExitCode": code}}}


@pytest.mark.parametrize(
    ("replicas", "states", "power"),
    [
        (2, ["running", "preparing"], "on"),
        (2, [], "changing"),
        (0, ["running"], "on"),
        (0, ["shutdown"], "off"),
        (0, ["orphaned"], "unknown"),
    ],
)
def test_a_service_is_off_only_where_nothing_is_wanted_and_nothing_is_there(replicas: int, states: list[str], power: str) -> None:
    assert docker_swarm.power_of(service(replicas), [task(state, state) for state in states]) == power


def test_how_a_service_ended() -> None:
    before = docker_swarm.guest_of(service(), [task("a", "running"), task("b", "running")])

    def end(exits: dict[str, int], killed: tuple[str, ...] = ()) -> tuple[str, str]:
        ending = docker_swarm.ending_of(before, False, exits, killed)
        return ending.how, ending.graceful

    assert end({"a": 0, "b": 143}) == ("by itself", "yes")
    assert end({"a": 0}) == ("unknown", "unknown")
    assert end({"a": 0, "b": 137}) == ("by force", "no")
    assert end({"a": 0}, ("b",)) == ("by force", "no")


def test_a_running_task_has_no_exit_code() -> None:
    assert docker_swarm.exit_code_of(task("a", "running", 0)) is None
    assert docker_swarm.exit_code_of(task("a", "shutdown", -1)) is None
    assert docker_swarm.exit_code_of(task("a", "shutdown", 143)) == 143


def test_jobs_and_global_services() -> None:
    assert "cannot be scaled" in docker_swarm.refusal_of(service(Global={}), "on")
    assert "a job" in docker_swarm.refusal_of(service(ReplicatedJob={}), "on")
    assert docker_swarm.refusal_of(service(Global={}), "off") == ""


def test_a_node_that_is_no_manager_says_so() -> None:
    one = {"Config": {"Labels": {docker_swarm.SERVICE_NAME: "web"}}}
    assert "this node is no manager" in docker_swarm.task_refusal(one, False, "a=b")
    assert "service update --label-add a=b web" in docker_swarm.task_refusal(one, True, "a=b")


def test_pods_are_taken_whole() -> None:
    rows = [
        {"Id": "1", "Names": ["a"], "Pod": "p", "PodName": "shop"},
        {"Id": "2", "Names": ["b"], "Pod": "p"},
        {"Id": "3", "Names": ["p-infra"], "Pod": "p", "IsInfra": True},
        {"Id": "4", "Names": ["c"], "Pod": ""},
    ]
    assert docker_podman.infra_ids(rows, ["1", "2", "4"]) == (["3"], {})
    infra, refused = docker_podman.infra_ids(rows, ["1"])
    assert (infra, "holds b" in refused["1"]) == (["3"], True)


def mounted(name: str, source: str, unit: str = "") -> dict[str, Any]:
    labels = {docker_podman.UNIT: unit} if unit else {}
    mounts = [{"Type": "bind", "Source": source}, {"Type": "volume", "Name": "v"}]
    return {"Name": f"/{name}", "Id": name, "Image": "i", "Config": {"Labels": labels, "Image": "x"}, "Mounts": mounts}


def test_bind_mounts_that_no_file_store_covers_are_findings() -> None:
    inspects = [mounted("web", "/srv/shop/files"), mounted("job", "/srv/shopping"), mounted("x", "/var/run/docker.sock"), mounted("y", "/")]
    assert [one["id"] for one in loose_binds(inspects, ["/srv/shop"])] == ["bind:/", "bind:/srv/shopping"]


def test_the_survey_keeps_the_units_of_containers() -> None:
    seen = expected({"label": "a=b"}, [mounted("web", "/x", "web.service")], [], {"svc": "id"})
    assert seen["identity"]["containers"] == ["svc", "web"]
    assert seen["identity"]["units"]["web"]["unit"] == "web.service"


def test_a_started_image_is_judged_by_what_was_seen() -> None:
    def judged(**state: Any) -> str:
        return str(docker_proof.judged({"StartedAt": "2026", "ExitCode": 0, **state}, True, 5)["starts"])

    assert judged(Status="running") == "yes"
    assert judged(Status="exited") == "yes"
    assert judged(Status="exited", ExitCode=1) == "unknown"
    assert judged(Status="created", Error="no such file") == "no"


@pytest.mark.parametrize(
    ("starts", "word"),
    [
        ({}, "verified, not started,"),
        ({"a": "yes"}, "verified, started without"),
        ({"a": "yes", "b": "unknown"}, "verified, 1 of 2 started"),
    ],
)
def test_the_report_says_what_was_started(starts: dict[str, str], word: str) -> None:
    seen = Seen.__new__(Seen)
    object.__setattr__(seen, "result", {"starts": {name: {"starts": one} for name, one in starts.items()}})
    assert word in closing._proof_word({"kind": "container"}, seen)
