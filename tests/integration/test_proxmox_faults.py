# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What goes wrong on the way while guests of a simulated Proxmox VE cluster are stopped, and who is there at all."""

from __future__ import annotations

import time
from typing import Any

import pytest

from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.guests.guests import ALREADY_OFF, BY_ITSELF, UNKNOWN, bring_down, endings
from ansible_collections.sunset.crm.plugins.plugin_utils.proxmox import set as proxmox_set
from ansible_collections.sunset.crm.plugins.plugin_utils.proxmox.api import fingerprint_of
from tests.integration import pve_fake
from tests.integration.pve_acts import NAMES, QUICK, Ledger, asked, cluster, ends, patient, start, stop, three

pytestmark = pytest.mark.usefixtures("quick_cluster")


# --- faults ---------------------------------------------------------------------------------------------------------------


def test_cut_after_the_request_was_taken_there_is_one_shutdown(both: pve_fake.Serving) -> None:
    vm = both.pve.add_vm(100, "crm-db", status="running", config={"onboot": 1})
    ct = both.pve.add_ct(200, "crm-web", node="pve2", status="running")
    vm.shutdown_secs = ct.shutdown_secs = 30
    both.pve.cut = {("POST", "/status/shutdown"): 2, ("PUT", "/config"): 1}
    done = stop(both, ["100", "200"])
    assert (both.pve.tasks_of(100), both.pve.tasks_of(200)) == (["qmshutdown"], ["vzshutdown"])
    assert set(ends(done).values()) == {(BY_ITSELF, "yes")} and int(vm.config["onboot"]) == 0


def test_community_160_polls_that_fail_are_not_the_end(real: pve_fake.Serving) -> None:
    """[community.proxmox 160, 218, 253] A poll that fails is a poll that fails."""
    three(real)[0].shutdown_secs = 30
    real.pve.cut = {("GET", ":/status"): 4, ("GET", "/status/current"): 3, ("GET", "/tasks"): 3, ("GET", "/log"): 2}
    done = stop(real, NAMES)
    assert set(ends(done).values()) == {(BY_ITSELF, "yes")}
    assert [real.pve.tasks_of(vmid) for vmid in (100, 101, 200)] == [["qmshutdown"], ["qmshutdown"], ["vzshutdown"]]


def test_an_expired_ticket_is_renewed(real: pve_fake.Serving) -> None:
    vm, _app, _web = three(real)
    vm.shutdown_secs = 40
    with cluster(real, NAMES, api=real.with_password(), timeout=60) as one:
        found = one.prepare(["stopped"])
        real.pve.revoke_tickets()
        real.soon(0.5, real.pve.revoke_tickets)
        courses = bring_down(one, found, 60, None, lambda **_: None, QUICK)
        assert {course.phase for course in courses.values()} == {"off"}
    assert len(asked(real, "POST", "/access/ticket")) >= 2 and real.pve.tasks_of(100) == ["qmshutdown"]


def test_a_wrong_token_is_named_and_its_secret_is_not(real: pve_fake.Serving) -> None:
    real.pve.apitokens.clear()
    with pytest.raises(Refusal, match="does not accept the token sunset@pve!retire") as caught:
        stop(real, ["100"])
    assert pve_fake.TOKEN_SECRET not in str(caught.value)


def test_the_next_host_is_asked_when_one_is_dead(real: pve_fake.Serving) -> None:
    three(real)
    with cluster(real, NAMES, api=real.api(hosts=["127.0.0.9", "127.0.0.1"])) as one:
        assert len(one.prepare(["stopped"])) == 3 and one.api.host == "127.0.0.1"


def test_a_certificate_is_known_by_its_fingerprint_or_nothing_is_sent(real: pve_fake.Serving) -> None:
    three(real)
    with cluster(real, NAMES, api=real.with_password(verify=fingerprint_of(real.der))) as one:
        assert len(one.prepare(["stopped"])) == 3
    real.pve.seen.clear()
    for wrong in ("system", "AB:" * 31 + "AB"):
        with pytest.raises(Refusal, match="is not trusted.*Nothing was sent"), cluster(real, NAMES, api=real.with_password(verify=wrong)):
            pass
    assert real.pve.seen == []


def test_without_quorum_nothing_is_begun(real: pve_fake.Serving) -> None:
    three(real)
    real.pve.lose_quorum()
    with pytest.raises(Refusal, match="has no quorum.*Nothing was changed"):
        stop(real, NAMES)
    assert not [one for one in real.pve.seen if one[0] != "GET"]


def test_quorum_that_is_lost_on_the_way_is_waited_out(both: pve_fake.Serving) -> None:
    vm = both.pve.add_vm(100, "crm-db", status="running")
    with cluster(both, ["100"], timeout=60) as one:
        found = one.prepare(["stopped"])
        both.pve.lose_quorum()
        both.soon(0.8, both.pve.regain_quorum)
        bring_down(one, found, 60, None, lambda **_: None, QUICK)
    assert vm.status == "stopped"


def test_a_guest_on_a_silent_node_is_unknown(real: pve_fake.Serving) -> None:
    """595: nobody knows whether it runs. The list still has it, with the state unknown."""
    three(real)
    real.pve.set_node_offline("pve3")
    with pytest.raises(Refusal, match=r"guest 200 \(crm-web\): its node pve3 does not answer.*Nothing was changed"):
        stop(real, NAMES)
    assert not [one for one in real.pve.seen if one[0] != "GET"]


def test_a_node_that_falls_silent_on_the_way_is_not_off(real: pve_fake.Serving) -> None:
    web = real.pve.add_ct(200, "crm-web", node="pve3", status="running")
    web.shutdown_secs = 10_000

    def silent(**act: Any) -> None:
        if act["did"] == "asked":
            real.soon(0.0, real.pve.set_node_offline, "pve3")

    with cluster(real, ["200"], timeout=5) as one:
        found = one.prepare(["stopped"])
        # Its time is not over before somebody has noticed that the node is silent.
        courses = bring_down(one, found, 5, None, silent, patient(lambda: "595" in one.said_of("200")))
        assert courses["200"].phase == "late", courses
        assert "595" in one.said_of("200"), one.said_of("200")


def test_a_guest_that_migrates_meanwhile_is_looked_up_again(both: pve_fake.Serving) -> None:
    vm = both.pve.add_vm(100, "crm-db", node="pve1", status="running")
    with cluster(both, ["100"], timeout=60) as one:
        found = one.prepare(["stopped"])
        vm.node = "pve3"
        courses = bring_down(one, found, 60, None, lambda **_: None, QUICK)
        assert courses["100"].phase == "off" and vm.status == "stopped"
        assert endings(one, courses, one.observe())["100"].how == BY_ITSELF
    assert [task["node"] for task in both.pve.tasklog] == ["pve3"]


def test_a_guest_that_is_migrating_is_waited_for(both: pve_fake.Serving) -> None:
    both.pve.add_vm(100, "crm-db", node="pve1", status="running")
    both.run(both.pve.migrate(100, "pve2", secs=30))
    done = stop(both, ["100"])
    assert ends(done) == {"100": (BY_ITSELF, "yes")} and done["result"]["guests"]["100"]["after"]["node"] == "pve2"


def test_killed_between_request_and_answer(both: pve_fake.Serving) -> None:
    """The second run ends in the same state, asks nobody twice, and knows what was there before the first."""
    vm, app, web = three(both)
    for guest in (vm, app, web):
        guest.shutdown_secs = 50
    ledger = Ledger()
    both.pve.until = lambda: False

    class Killed(BaseException):
        pass

    def record(**act: Any) -> None:
        if act["did"] == "asked":
            deadline = time.monotonic() + 60
            while not both.pve.tasks_of(101):  # the request is on its way
                assert time.monotonic() < deadline
                time.sleep(0.02)
            raise Killed

    with cluster(both, NAMES, timeout=60) as one:
        found = one.prepare(["stopped"])
        ledger.note({"kind": "found", "former": {g.name: {"id": g.key, "power": g.power, **g.record["former"]} for g in found}})
        with pytest.raises(Killed):
            bring_down(one, found, 60, None, record, QUICK, before_asking=lambda g: ledger.note(
                {"kind": "asked", "guest": g.name, "life": one.life(g), "at_seconds": time.time()}))  # fmt: skip
    assert app.ha_state == "ignored" and [task["id"] for task in both.pve.tasklog] == ["101"]
    both.pve.until = both.listed(101)
    done = stop(both, NAMES, ledger)
    assert [both.pve.tasks_of(vmid) for vmid in (100, 101, 200)] == [["qmshutdown"], ["qmshutdown"], ["vzshutdown"]]
    assert set(ends(done).values()) == {(BY_ITSELF, "yes")} and ledger.former["crm-app"]["ha"] == "started"
    start(both, NAMES, ledger)
    assert (app.ha_state, int(vm.config["onboot"]), int(web.config["onboot"])) == ("started", 1, 1)


# --- who it is ------------------------------------------------------------------------------------------------------------


def test_another_cluster_or_another_guest_is_refused(real: pve_fake.Serving) -> None:
    three(real)
    with pytest.raises(Refusal, match="is the cluster fakecluster, the plan has crm-cluster"):
        stop(real, ["100"], known_as="crm-cluster")
    with pytest.raises(Refusal, match="100 is qemu/100/8c1d6d1e-0001, the plan has qemu/100/ffff"):
        stop(real, ["100"], ids={"100": "qemu/100/ffff"})


def test_a_name_that_is_missing_or_not_alone_is_refused(real: pve_fake.Serving) -> None:
    three(real)
    real.pve.add_vm(102, "crm-app", node="pve2")
    with pytest.raises(Refusal, match="crm-app is the name of several guests .101, 102."):
        stop(real, ["crm-app"])
    with pytest.raises(Refusal, match="999 is in the plan and not there.*Nothing was changed"):
        stop(real, ["100", "999"])


def test_an_end_that_no_task_tells_of_is_unknown(real: pve_fake.Serving) -> None:
    real.pve.add_vm(100, "crm-db", status="stopped")
    assert ends(stop(real, ["100"])) == {"100": (ALREADY_OFF, "unknown")}
    assert UNKNOWN == "unknown"


def test_the_survey_names_the_set_and_every_stranger(real: pve_fake.Serving) -> None:
    from ansible_collections.sunset.crm.plugins.plugin_utils.guests import reading as guest_reading

    three(real)
    real.pve.add_vm(300, "wiki", node="pve3")
    declared = {"kind": "guest", "name": "crm", "backend": "proxmox", "guests": NAMES, "api": real.api(), "staging": "/srv/x"}
    seen, findings = guest_reading.read(None, [declared])
    assert seen["guest:crm"]["found"] == "yes"
    assert seen["guest:crm"]["identity"]["ids"] == {"100": "qemu/100/8c1d6d1e-0001", "crm-app": "qemu/101", "crm-web": "lxc/200"}
    assert seen["guest:crm"]["identity"]["uuids"] == {"100": "8c1d6d1e-0001"}
    assert seen["guest:crm"]["identity"]["hypervisor"] == {"cluster": "fakecluster", "nodes": ["pve1", "pve2", "pve3"]}
    assert [finding["id"] for finding in findings] == ["guest:wiki"]
    assert {one["source"] for one in seen["guest:crm"]["disks"]} == {"pve:local-lvm:vm-100-disk-0", "pve:local-lvm:vm-200-disk-0"}
    assert not [one for one in real.pve.seen if one[0] != "GET"] and proxmox_set.STALE_LOOKS > 1
