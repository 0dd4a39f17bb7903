# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""HA and Ceph of a simulated Proxmox VE cluster are set aside before its nodes go off, and put back when all are there again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.proxmox import nodes as proxmox_nodes
from ansible_collections.sunset.crm.plugins.plugin_utils.proxmox.api import Api
from ansible_collections.sunset.crm.plugins.plugin_utils.proxmox.node_rules import Changes, lacks, wanted
from ansible_collections.sunset.crm.plugins.plugin_utils.proxmox.nodes import Nodes, Place, hindrances
from ansible_collections.sunset.crm.plugins.plugin_utils.record.view import Seen, View
from tests.integration import pve_fake, pve_schema
from tests.integration.pve_acts import QUICK, asked, patient

ALL = ["pve1", "pve2", "pve3"]
FENCED = {"armed": True, "ha": {}, "noout": True}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxmox_nodes, "AGAIN", 0.5)


@contextmanager
def nodes(serving: pve_fake.Serving) -> Iterator[Nodes]:
    with Api(serving.api()) as api, Nodes(api, [], clock=QUICK) as one:
        yield one


@pytest.fixture
def real(tmp_path: Path) -> Iterator[pve_fake.Serving]:
    with pve_fake.serving(tmp_path, answers="real") as one:
        one.grant()
        one.pve.version = pve_schema.RELEASES["9.2"]
        yield one


def place(serving: pve_fake.Serving, node: str, **changes: Any) -> Place:
    told = {"name": "fakecluster", "api": serving.api(), "node": node, "hosts": {name: name for name in ALL}, "together": ALL}
    return Place.of({**told, **changes})


def writes(serving: pve_fake.Serving) -> list[str]:
    return [f"{method} {path}" for method, path, _values in serving.pve.seen if method != "GET"]


def silent(**_did: Any) -> None:
    pass


@pytest.mark.parametrize("version", pve_schema.VERSIONS)
def test_ha_and_ceph_are_set_aside_and_put_back(version: str, tmp_path: Path) -> None:
    """Every request is one that this version knows."""
    with pve_fake.serving(tmp_path, answers="real") as one:
        one.grant()
        one.pve.version = pve_schema.RELEASES[version]
        vm = one.pve.add_vm(100, "crm-db", node="pve2", status="stopped")
        one.pve.ha(vm, "stopped")
        let_be = one.pve.add_vm(101, "crm-app", node="pve3", status="stopped")
        one.pve.ha(let_be, "ignored")
        one.pve.ceph_flags.add("norebalance")
        with nodes(one) as cluster:
            standing = cluster.standing()
            cluster.allow(ALL, standing)
            former = wanted(standing, ALL, cluster.version)
            disarms = cluster.version >= (9, 1)
            assert former.former() == {"armed": disarms, "ha": {} if disarms else {"vm:100": "stopped"}, "noout": True}
            now = cluster.set_aside(ALL, 30, silent)
            assert lacks(now, ALL) == [] and (one.pve.armed == "disarmed") is disarms
            assert one.pve.ceph_flags == {"noout", "norebalance"} and not wanted(now, ALL, cluster.version)
            first = writes(one)
            cluster.set_aside(ALL, 30, silent)
            assert writes(one) == first and len(first) == 2, "a second run changes nothing"
            cluster.put_back(former, 30, silent)
            assert (vm.ha_state, let_be.ha_state, one.pve.armed) == ("stopped", "ignored", "armed")
            assert one.pve.ceph_flags == {"norebalance"}
        assert pve_schema.problems(one.pve.seen, version) == []


def test_fact_4_with_ha_armed_no_node_is_asked(real: pve_fake.Serving) -> None:
    """Other nodes would start the guests again, and without quorum every node with a working HA agent resets itself."""
    real.pve.ha(real.pve.add_vm(100, "crm-db", node="pve2", status="stopped"), "started")
    real.pve.active_lrms = ["pve2"]
    said, _seen = hindrances(place(real, "pve1"), View(), [], QUICK)
    assert any("HA is armed and would start these elsewhere" in one for one in said)
    assert any("the HA agent of pve2 is not idle yet" in one for one in said)
    with nodes(real) as cluster:
        cluster.set_aside(ALL, 30, silent)
    assert hindrances(place(real, "pve1"), View(), [], QUICK)[0] == []


def test_before_9_1_an_agent_that_still_works_is_waited_for(real: pve_fake.Serving) -> None:
    real.pve.version = pve_schema.RELEASES["8.4"]
    real.pve.active_lrms = ["pve3"]
    with nodes(real) as cluster:
        # Its patience is not over before all that can be done was done.
        cluster.clock = patient(lambda: "noout" in real.pve.ceph_flags)
        now = cluster.set_aside(ALL, 0.5, silent)
        assert lacks(now, ALL) == ["the HA agent of pve3 is not idle yet: without quorum its watchdog resets the node"]
        real.soon(0.5, real.pve.active_lrms.clear)
        assert lacks(cluster.set_aside(ALL, 30, silent), ALL) == []


def test_a_guest_that_runs_anywhere_keeps_all_nodes_on(real: pve_fake.Serving) -> None:
    """Also one that no plan knows: the hypervisor is asked, not the ledger. One that a person has classified may run."""
    real.pve.add_vm(300, "wiki", node="pve3", status="running")
    with nodes(real) as cluster, pytest.raises(Refusal, match=r"these guests are not off: 300 \(wiki\) \(on\). Nothing was changed"):
        cluster.allow(ALL, cluster.standing())
    assert "these guests are not off: 300 (wiki) (on)" in hindrances(place(real, "pve1"), View(), [], QUICK)[0]
    assert writes(real) == []
    real.pve.ceph_flags.add("noout")
    assert hindrances(place(real, "pve1", excused=["wiki"]), View(), [], QUICK)[0] == []


def test_rights_for_nodes_are_looked_for_first(real: pve_fake.Serving) -> None:
    real.pve.acl.clear()
    real.grant("VM.Audit", "Sys.Audit")
    real.pve.ha(real.pve.add_vm(100, "crm-db", status="stopped"), "stopped")
    said = r"lacks Sys.Console on / \(to set HA aside\); Sys.Modify on / \(to set Ceph's flag noout\)"
    with nodes(real) as cluster, pytest.raises(Refusal, match=said):
        cluster.allow(ALL, cluster.standing())
    assert writes(real) == []


def test_cut_after_the_request_was_taken(real: pve_fake.Serving) -> None:
    """The answers of the disarming and of the flag are lost: what became of them is read, and neither is asked for twice."""
    real.pve.ha(real.pve.add_vm(100, "crm-db", status="stopped"), "stopped")
    real.pve.cut = {("POST", "/disarm-ha"): 1, ("PUT", "/flags/noout"): 1, ("GET", "/ha/status/current"): 2}
    did: list[dict[str, Any]] = []
    with nodes(real) as cluster:
        now = cluster.set_aside(ALL, 30, lambda **act: did.append(act))
    assert lacks(now, ALL) == [] and sorted(act["did"] for act in did) == ["Ceph's noout set", "HA disarmed"]
    assert all("none: " in act["answer"] for act in did)
    assert (len(asked(real, "POST", "/disarm-ha")), len(asked(real, "PUT", "/flags/noout"))) == (1, 1)


def test_killed_after_a_request_the_next_run_sends_no_second_one(real: pve_fake.Serving) -> None:
    real.pve.ha(real.pve.add_vm(100, "crm-db", status="stopped"), "stopped")

    class Killed(BaseException):
        pass

    def die(**_did: Any) -> None:
        raise Killed

    with nodes(real) as cluster, pytest.raises(Killed):
        cluster.set_aside(ALL, 30, die)
    with nodes(real) as cluster:
        assert lacks(cluster.set_aside(ALL, 30, silent), ALL) == []
    assert (len(asked(real, "POST", "/disarm-ha")), len(asked(real, "PUT", "/flags/noout"))) == (1, 1)


def test_a_request_that_came_to_nothing_is_made_again(real: pve_fake.Serving) -> None:
    real.pve.forgets = 1
    with nodes(real) as cluster:
        assert lacks(cluster.set_aside(ALL, 30, silent), ALL) == []
    assert len(asked(real, "PUT", "/flags/noout")) == 2


def test_without_quorum_nothing_is_begun_and_when_half_are_off_the_rest_goes_on(real: pve_fake.Serving) -> None:
    real.pve.add_vm(100, "crm-db", node="pve1", status="stopped")
    with nodes(real) as cluster:
        cluster.set_aside(ALL, 30, silent)
    for node in ("pve1", "pve2"):
        real.pve.node_off(node)
    said, _seen = hindrances(place(real, "pve3"), View(), [], QUICK)
    assert any("no quorum" in one for one in said) and any("pve1, pve2 is not heard of" in one for one in said)
    # The ledger knows that these two were asked before; what runs on them is nobody's question any more.
    said, seen = hindrances(place(real, "pve3"), View(), ["pve1", "pve2"], QUICK)
    assert said == [] and (seen["gone"], seen["online"], seen["quorate"]) == (["pve1", "pve2"], ["pve3"], False)
    assert len(writes(real)) == 1


def test_a_cluster_that_does_not_answer_keeps_its_first_node_on_and_not_its_last(real: pve_fake.Serving) -> None:
    away = place(real, "pve3", api=real.api(hosts=["127.0.0.9"]))
    assert "its cluster fakecluster does not answer, so nobody knows what runs on it" in hindrances(away, View(), [], QUICK)[0][0]
    said, seen = hindrances(away, View(), ["pve1", "pve2"], QUICK)
    assert said == [] and seen["gone"] == ["pve1", "pve2"] and "127.0.0.9" in seen["answer"]


def test_a_node_with_a_monitor_waits_until_the_others_are_seen_off(real: pve_fake.Serving) -> None:
    real.pve.monitors = ["pve1"]
    real.pve.ceph_flags.add("noout")
    said = "a Ceph monitor runs on it, and pve2, pve3 with disks that need one was not seen to be off"
    assert hindrances(place(real, "pve1"), View(), ["pve2", "pve3"], QUICK)[0] == [said]
    assert hindrances(place(real, "pve2"), View(), ["pve3"], QUICK)[0] == []
    # A node that is retired by a later wave is not waited for.
    assert hindrances(place(real, "pve1", together=["pve1"]), View(), [], QUICK)[0] == []
    off = View()
    for name in ("pve2", "pve3"):
        off.seen[f"host:{name}", "power"] = Seen("off", 1, "", "", {}, {}, {})
    assert hindrances(place(real, "pve1"), off, ["pve2", "pve3"], QUICK)[0] == []


def test_no_ceph_is_told_from_a_ceph_that_does_not_answer(real: pve_fake.Serving) -> None:
    real.pve.has_ceph = False
    assert hindrances(place(real, "pve1"), View(), [], QUICK)[0] == []
    real.pve.has_ceph = True
    real.pve.ceph_down()
    assert hindrances(place(real, "pve1"), View(), [], QUICK)[0] == ["whether Ceph stores anything here is unknown, it did not answer"]


def test_a_task_that_runs_keeps_the_nodes_on(real: pve_fake.Serving) -> None:
    real.pve.add_vm(100, "crm-db", node="pve2", status="stopped")
    real.pve.ceph_flags.add("noout")
    real.pve.vzdump_secs = 10_000
    real.pve.storages["local"] = {"type": "dir", "content": "backup"}
    with nodes(real) as cluster:
        cluster.api.post("nodes", "pve2", "vzdump", vmid="100", storage="local", remove=0)
    assert hindrances(place(real, "pve1"), View(), [], QUICK)[0] == ["these tasks still run: vzdump 100 on pve2"]


def test_what_is_put_back_waits_for_every_node_and_for_quorum(real: pve_fake.Serving) -> None:
    real.pve.ha(real.pve.add_vm(100, "crm-db", status="stopped"), "stopped")
    with nodes(real) as cluster:
        former = wanted(cluster.standing(), ALL, cluster.version)
        assert former.former() == FENCED
        cluster.set_aside(ALL, 30, silent)
        for node in ALL[1:]:
            real.pve.node_off(node)
        before = writes(real)
        cluster.put_back(former, 1.0, silent)
        real.pve.node_on("pve2")  # quorum again, but one is away
        cluster.put_back(former, 1.0, silent)
        assert writes(real) == before and real.pve.armed == "disarmed"
        real.soon(0.5, real.pve.node_on, "pve3")
        cluster.put_back(former, 30, silent)
    assert real.pve.armed == "armed" and real.pve.ceph_flags == set()


def test_another_cluster_at_the_address_is_refused(real: pve_fake.Serving) -> None:
    with pytest.raises(Refusal, match="is the cluster fakecluster, the plan has crm"):
        hindrances(place(real, "pve1", name="crm"), View(), [], QUICK)
    assert Changes.of({}).former() == {"armed": False, "ha": {}, "noout": False}
