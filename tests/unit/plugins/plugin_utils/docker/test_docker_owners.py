# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Swarm services, Podman's units and pods, bind mounts, and what a started image is called."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.sunset.crm.plugins.action.guest_survey import expected, loose_binds
from ansible_collections.sunset.crm.plugins.plugin_utils.docker import (
    facts as docker_facts,
    podman as docker_podman,
    proof as docker_proof,
    swarm as docker_swarm,
    way as docker_way,
)
from ansible_collections.sunset.crm.plugins.plugin_utils.record.view import Seen
from ansible_collections.sunset.crm.plugins.plugin_utils.runs import closing


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


def test_an_engine_that_sleeps_behind_its_socket_is_not_asked() -> None:
    """The question would start it, and with it each container whose restart policy is always."""
    assert docker_way.asleep("docker.socket docker.service inactive\n") == ("docker.socket", "docker.service")
    assert docker_way.asleep("docker.socket docker.service failed\n") == ("docker.socket", "docker.service")
    assert docker_way.asleep("docker.socket docker.service active\n") is None
    assert docker_way.asleep("") is None
    # Podman's service holds no containers: to wake it starts none.
    assert docker_way.asleep("podman.socket podman.service inactive\n") is None


def test_the_evidence_says_what_brings_the_engine_back() -> None:
    engines = {"docker": {"comes_back": ["docker.socket listens: the next call on its socket starts the engine"]}}
    told = docker_way.standing({"live restore": "yes"}, engines, podman=False)
    assert told["comes_back"] == engines["docker"]["comes_back"] and "its silence proves nothing" in told["means"]
    assert docker_way.standing({"live restore": "no"}, {}, podman=False)["comes_back"][0].startswith("unknown")
    assert docker_way.standing({"live restore": "no"}, {"podman": {"comes_back": []}}, podman=True)["live_restore"] == "yes"


def test_nomad_and_kubernetes_are_refused_by_name() -> None:
    for label, words in (("io.kubernetes.pod.name", "kubectl drain"), ("com.hashicorp.nomad.alloc_id", "nomad job stop")):
        one = {"Config": {"Labels": {label: "x"}}, "State": {"Status": "running"}, "HostConfig": {}}
        assert words in docker_facts.refusal_of(one) and label in docker_facts.refusal_of(one)


def test_the_unit_of_a_container_without_a_label_is_found_by_its_holder() -> None:
    """podman generate systemd without --new: the unit starts a container that it did not make, which carries no label of it."""
    answer = "12 11\n14 1\n\nMainPID=11\nId=container-gen.service\n\nMainPID=0\nId=idle.service\n"
    assert docker_way.owners_in(answer) == {12: "container-gen.service"}
    one = {"Config": {"Labels": {}}, docker_podman.FOUND: "container-gen.service"}
    assert "declare container-gen.service under services" in docker_podman.unit_refusal(one, frozenset())
    assert docker_podman.unit_refusal(one, frozenset({"container-gen.service"})) == ""


def test_nothing_is_off_before_a_new_leader_has_heard_of_every_node() -> None:
    """Seen with 20.10: after a change of leaders the tasks of a service at zero are forgotten, and run on nodes that have not reported yet."""

    def node(name: str, state: str) -> dict[str, Any]:
        return {"ID": name, "Description": {"Hostname": name}, "Status": {"State": state, "Addr": "192.0.2.1"}}

    early = docker_swarm.guest_of(service(0), [], [node("a", "ready"), node("b", "unknown")])
    assert (early.power, early.record["coming_down"]) == ("changing", True)
    # A node that counts as down (its host may have been retired before) holds nothing up, and is named.
    late = docker_swarm.guest_of(service(0), [], [node("a", "ready"), node("b", "down")])
    assert (late.power, late.record["nodes_down"]) == ("off", ["b (192.0.2.1, down)"])
    assert "of b (192.0.2.1, down) nothing is heard" in docker_swarm.ending_of(late, False, {}, ()).detail
    # Unless a task is known to run there.
    assert docker_swarm.guest_of(service(0), [{**task("t", "running"), "NodeID": "b"}], [node("b", "down")]).power == "on"


def test_a_node_that_has_reported_is_given_time_to_end_what_its_new_leader_has_forgotten() -> None:
    """Seen with 20.10: each node ready, no task listed, and the container running for 3.3 s more; CI called that off."""
    nodes = [{"ID": "a", "Description": {"Hostname": "a"}, "Status": {"State": "ready", "Addr": "192.0.2.1"}}]
    late = service(0)
    late["Spec"]["TaskTemplate"]["ContainerSpec"]["StopGracePeriod"] = 30 * 10**9
    for since, power in ((-5.0, "changing"), (0.0, "changing"), (39.9, "changing"), (40.0, "off")):
        assert docker_swarm.guest_of(late, [], nodes, {"a": since}).power == power, since
    assert "what a (192.0.2.1, ready) ran" in docker_swarm.guest_of(late, [], nodes, {"a": 1.0}).record["left"]
    # Without a grace period of the service's own it is the swarm's, 10 s.
    assert [docker_swarm.guest_of(service(0), [], nodes, {"a": since}).power for since in (19.9, 20.0)] == ["changing", "off"]
    # A node that is down does not report; what is recorded counts.
    down = [{**nodes[0], "Status": {"State": "down"}}]
    assert docker_swarm.guest_of(service(0), [], down, {"a": 1.0}).power == "off"


def test_a_task_that_vanishes_with_its_node_is_kept_as_it_was_seen_last() -> None:
    ran = [{**task("t", "running"), "NodeID": "b"}, {**task("u", "shutdown"), "NodeID": "b"}, {**task("v", "pending"), "NodeID": ""}]
    for state, kept in (("down", ["t"]), ("unknown", ["t"]), ("disconnected", ["t"]), ("ready", [])):
        nodes = [{"ID": "b", "Status": {"State": state}}]
        assert [one["ID"] for one in docker_swarm.forgotten(ran, [], nodes)] == kept, state
        assert not docker_swarm.forgotten(ran, ran, nodes)
