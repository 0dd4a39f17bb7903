# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Guests of a simulated Proxmox VE cluster are stopped and started, through proxmoxer over HTTPS.

Each trap of facts/hypervisors.md (section 0, facts 1 to 4; section 5, its rows about Proxmox) has a test here, in
test_proxmox_saves.py, test_proxmox_faults.py, or, where no server is needed, in the unit tests of proxmox_*.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.guests import verbs as guest_verbs
from ansible_collections.sunset.crm.plugins.plugin_utils.guests.guests import ALREADY_OFF, BY_FORCE, BY_ITSELF, Clock, bring_down, endings
from ansible_collections.sunset.crm.plugins.plugin_utils.proxmox import cluster as proxmox_cluster
from tests.integration import pve_fake, pve_schema
from tests.integration.pve_acts import NAMES, QUICK, Ledger, asked, cluster, ends, start, stop, three

pytestmark = pytest.mark.usefixtures("quick_cluster")


def test_check_real_check_real_and_back(both: pve_fake.Serving) -> None:
    """[Fact 10] A cluster that nobody had to install."""
    db, app, web = three(both)
    ledger = Ledger()
    first = stop(both, NAMES, ledger, check=True)
    assert (first["changed"], sorted(first["result"]["would_stop"])) == (True, NAMES) and not ledger.former
    assert not asked(both, "PUT", "config") and db.status == "running"
    done = stop(both, NAMES, ledger)
    assert (done["changed"], done["evidence"]["verdict"], done["result"]["way"]) == (True, "yes", "graceful")
    assert set(ends(done).values()) == {(BY_ITSELF, "yes")}
    assert (db.status, app.status, web.status) == ("stopped",) * 3
    assert {row["after"]["stays_off"] for row in done["result"]["guests"].values()} == {"yes"}
    assert stop(both, NAMES, ledger, check=True)["changed"] is False
    again = stop(both, NAMES, ledger)
    assert again["changed"] is False and set(ends(again).values()) == {(ALREADY_OFF, "yes")}
    assert [both.pve.tasks_of(vmid) for vmid in (100, 101, 200)] == [["qmshutdown"], ["qmshutdown"], ["vzshutdown"]]

    back = start(both, NAMES, ledger, check=True)
    assert back["changed"] is True and db.status == "stopped"
    assert start(both, NAMES, copied(ledger))["result"]["started"] == ["100", "crm-app", "crm-web"]
    assert (db.status, app.status, web.status) == ("running",) * 3
    assert (app.ha_state, int(db.config["onboot"]), int(web.config["onboot"])) == ("started", 1, 1)
    assert start(both, NAMES, ledger)["changed"] is False
    assert both.pve.tasks_of(101) == ["qmshutdown"]  # HA starts its own


def copied(other: Ledger) -> Ledger:
    one = Ledger()
    one.former = dict(other.former)
    return one


def test_the_order_is_the_reverse_of_the_start_order(real: pve_fake.Serving) -> None:
    """Who starts first (the database) is asked last: when everybody else is off."""
    db, app, web = three(real)
    app.shutdown_secs = web.shutdown_secs = 30
    seen: dict[int, tuple[str, str]] = {}
    powerdown = real.pve._powerdown

    async def watched(vm: Any, values: Any) -> Any:
        seen[vm.vmid] = (app.status, web.status)
        return await powerdown(vm, values)

    real.pve._powerdown = watched  # type: ignore[method-assign]
    stop(real, NAMES)
    assert seen[db.vmid] == ("stopped", "stopped") and seen[app.vmid][0] == "running"


@pytest.mark.parametrize("version", pve_schema.VERSIONS)
def test_every_request_is_one_that_this_version_knows(version: str, tmp_path: Path) -> None:
    with pve_fake.serving(tmp_path, answers="real") as one:
        one.grant()
        one.pve.version = pve_schema.RELEASES[version]
        three(one)
        stubborn = one.pve.add_vm(103, "crm-old", node="pve1", status="running")
        stubborn.acpi = False
        ledger = Ledger()
        stop(one, [*NAMES, "103"], ledger, timeout=30, force_after=1)
        start(one, [*NAMES, "103"], ledger)
        assert stubborn.vmid == 103 and one.pve.starts(103) == 1
        assert pve_schema.problems(one.pve.seen, version) == []
        # It is also held against what it does not know, or the check would pass everything.
        assert pve_schema.problems([("POST", "/nodes/a/qemu/100/status/shutdown", {"force": "1"})], version)
        assert pve_schema.problems([("POST", "/cluster/ha/status/arm-ha", {})], "9.0")


# --- section 0, and section 5 -------------------------------------------------------------------------------------------


def test_fact_1_hastop_ok_is_only_a_request(real: pve_fake.Serving) -> None:
    """[community.proxmox proxmox_kvm HEAD] Telmate #145, community.proxmox at 4a7ebd9: the task is OK and the guest runs. Here HA takes the guest after the look at it."""
    vm = real.pve.add_vm(100, "crm-db", status="running")
    real.pve.ha_delay = 40  # 0.8 s after the task of the request is OK
    with cluster(real, ["100"], timeout=60) as one:
        found = one.prepare(["stopped"])
        real.pve.ha(vm, "started")
        begun = time.monotonic()
        courses = bring_down(one, found, 60, None, lambda **_: None, QUICK)
        assert time.monotonic() - begun > 0.7 and vm.status == "stopped"
        end = endings(one, courses, one.observe())["100"]
    assert "hastop" in real.pve.tasks_of(100)
    # The task of HA's own agent says how it ended.
    assert (end.how, end.graceful) == (BY_ITSELF, "yes") and "qmshutdown" in end.detail


def test_fact_1_what_ha_killed_is_not_called_graceful(real: pve_fake.Serving) -> None:
    vm = real.pve.add_vm(100, "crm-db", status="running")
    real.pve.forced_by_ha = True
    with cluster(real, ["100"], timeout=60) as one:
        found = one.prepare(["stopped"])
        real.pve.ha(vm, "started")
        courses = bring_down(one, found, 60, None, lambda **_: None, QUICK)
        end = endings(one, courses, one.observe())["100"]
    assert (end.how, end.graceful) == (BY_FORCE, "no")


def test_fact_1_ok_after_a_kill_is_an_end_by_force(real: pve_fake.Serving) -> None:
    """Somebody else's forced shutdown runs already: it is joined, and its log tells what OK does not."""
    vm = real.pve.add_vm(100, "crm-db", status="running")
    vm.acpi = False
    real.pve.until = real.listed(100)
    with cluster(real, ["100"]) as other:
        other.api.post("nodes", "pve1", "qemu", 100, "status", "shutdown", timeout=20, forceStop=1)
    done = stop(real, ["100"])
    assert ends(done) == {"100": (BY_FORCE, "no")} and done["result"]["way"] == "forced"
    assert real.pve.tasks_of(100) == ["qmshutdown"]


def test_fact_2_a_token_that_does_not_see_all_is_refused(real: pve_fake.Serving) -> None:
    three(real)
    real.pve.acl = {}
    real.grant("VM.Audit", "VM.PowerMgmt", "VM.Config.Options", path="/vms/100")
    real.grant("Sys.Audit", "Sys.Console")
    with pytest.raises(Refusal, match="VM.Audit on /vms with everything below.*left out of lists.*Nothing was changed"):
        stop(real, ["100"])
    assert not [one for one in real.pve.seen if one[0] != "GET"]


@pytest.mark.parametrize("lacking", ["VM.PowerMgmt", "VM.Config.Options", "Sys.Console", "Sys.Audit"])
def test_each_right_is_looked_for_before_anything_is_touched(real: pve_fake.Serving, lacking: str) -> None:
    three(real)
    real.pve.acl = {}
    real.grant(*(right for right in pve_fake.ALL_RIGHTS if right != lacking))
    with pytest.raises(Refusal, match=f"sunset@pve!retire lacks {lacking}.*Nothing was changed"):
        stop(real, NAMES)
    assert not [one for one in real.pve.seen if one[0] != "GET"]


def test_telmate_145_ha_is_set_aside_and_put_back_exactly(real: pve_fake.Serving) -> None:
    """[Telmate 145, 362, fix 354; Telmate 800] Telmate #800: a stop through HA leaves the state stopped behind. The manager is waited for, or it restarts what was stopped."""
    _db, app, _web = three(real)
    ledger = Ledger()
    stop(real, NAMES, ledger)
    assert app.ha_state == "ignored" and ledger.former["crm-app"]["ha"] == "started"
    order = [path for method, path, _values in real.pve.seen if method != "GET" or path.endswith("ha/status/current")]
    assert order.index("/cluster/ha/status/current") < order.index("/nodes/pve1/qemu/101/status/shutdown")
    assert order.index("/cluster/ha/resources/vm%3A101") < order.index("/cluster/ha/status/current")
    start(real, NAMES, ledger)
    assert app.ha_state == "started"


def test_ha_that_does_not_let_go_is_a_refusal_before_any_shutdown(real: pve_fake.Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    three(real)
    real.pve.ha_lag = 10_000
    monkeypatch.setattr(proxmox_cluster, "HA_PATIENCE", 0.5)
    with pytest.raises(Refusal, match="has not let go of vm:101.*No guest was asked"):
        stop(real, NAMES)
    assert not asked(real, "POST", "status/shutdown")


def test_general_7817_the_list_of_resources_does_not_decide(real: pve_fake.Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    """[general 7817, fixed 7953] /cluster/resources says stopped of a guest that runs: pvestatd has not told it yet."""
    vm = real.pve.add_vm(100, "crm-db", status="running")
    whole = pve_fake.Pve._resources

    async def late(self: Any, request: Any) -> Any:
        response = await whole(self, request)
        response.text = response.text.replace('"running"', '"stopped"')
        return response

    monkeypatch.setattr(pve_fake.Pve, "_resources", late)
    real.run(real.pve.runner.cleanup())  # routes hold bound methods: serve anew
    real.run(real.pve.start(real.ca_file, str(Path(real.ca_file).with_suffix(".key"))))
    done = stop(real, ["100"])
    assert done["changed"] and vm.status == "stopped" and ends(done) == {"100": (BY_ITSELF, "yes")}


def test_proxmox_kvm_22_nothing_is_forced_unless_it_was_allowed(both: pve_fake.Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    """[community.proxmox 22, general 1906, 6257, fixed 6570] Graceful and forced are not one state."""
    vm = both.pve.add_vm(100, "crm-db", status="running")
    vm.acpi = False
    powers = proxmox_cluster.Cluster.powers

    def noticing(self: proxmox_cluster.Cluster) -> dict[str, str]:
        """The guest's time is not over before the end of its task was noticed."""
        seen, deadline = powers(self), time.monotonic() + 60
        while asked(both, "POST", "status/shutdown") and "got timeout" not in self.said_of("100") and time.monotonic() < deadline:
            time.sleep(0.05)
            seen = powers(self)
        return seen

    monkeypatch.setattr(proxmox_cluster.Cluster, "powers", noticing)
    done = stop(both, ["100"], timeout=2)
    assert done["failed"] and "did not end within 2 s" in done["msg"] and "nothing was killed" in done["msg"]
    assert vm.status == "running" and done["result"]["way"] == "running"
    assert {values["forceStop"] for values in asked(both, "POST", "status/shutdown")} == {"0"}
    assert {values["timeout"] for values in asked(both, "POST", "status/shutdown")} == {"2"}
    assert not asked(both, "POST", "status/stop")
    assert "got timeout" in done["result"]["guests"]["100"]["after"]["noticed"]


def test_force_is_recorded_with_who_allowed_it(both: pve_fake.Serving) -> None:
    vm = both.pve.add_vm(100, "crm-db", status="running")
    vm.acpi = False
    done = stop(both, ["100"], timeout=30, force_after=1)
    assert not done.get("failed") and vm.status == "stopped" and ends(done) == {"100": (BY_FORCE, "no")}
    assert (done["result"]["way"], done["result"]["forced"], done["result"]["force_allowed_by"]) == ("forced", ["100"], "alice")


def test_bpg_1255_a_held_configuration_is_tried_again(both: pve_fake.Serving) -> None:
    """[bpg 1255, 995, 935, Telmate 173] `can't lock file ... - got timeout` is transient; it is not the end."""
    vm = both.pve.add_vm(100, "crm-db", status="running", config={"onboot": 1})
    both.pve.lock_wait = 5
    both.run(both.pve.hold_config_lock(100, None))
    both.soon(1.0, both.pve.release_config_lock, 100)
    done = stop(both, ["100"])
    assert done["changed"] and vm.status == "stopped" and ends(done)["100"][0] == BY_ITSELF
    assert int(vm.config["onboot"]) == 0


def test_bpg_1169_a_shutdown_that_runs_already_is_joined(both: pve_fake.Serving) -> None:
    """[bpg 1169, 133] The second try finds the first."""
    vm = both.pve.add_vm(100, "crm-db", status="running")
    vm.shutdown_secs = 50
    both.pve.until = both.listed(100)
    with cluster(both, ["100"]) as other:
        other.api.post("nodes", "pve1", "qemu", 100, "status", "shutdown", timeout=100)
    done = stop(both, ["100"])
    assert both.pve.tasks_of(100) == ["qmshutdown"] and ends(done) == {"100": (BY_ITSELF, "yes")}


def test_telmate_469_graceful_first_and_whether_an_agent_is_configured_is_shown(both: pve_fake.Serving) -> None:
    """[Telmate 469, 872, 1023] Others kill first, or wait for an agent that is configured and not there."""
    vm = both.pve.add_vm(100, "crm-db", status="running", config={"agent": "1"})
    vm.agent, vm.shutdown_secs = None, 30
    done = stop(both, ["100"])
    assert ends(done) == {"100": (BY_ITSELF, "yes")} and both.pve.tasks_of(100) == ["qmshutdown"]
    assert done["result"]["guests"]["100"]["after"]["agent"] is True
    assert not [path for _method, path, _values in both.pve.seen if "/agent/" in path]


def test_a_backup_is_waited_for_and_never_unlocked(both: pve_fake.Serving) -> None:
    vm = both.pve.add_vm(100, "crm-db", status="running")
    told: list[str] = []
    both.pve.until = lambda: bool(told)
    both.run(both.pve.backup(100, secs=math.inf))
    with cluster(both, ["100"]) as one:
        one.tell = told.append
        found = one.settle(one.prepare(["stopped"]))
        assert found[0].record["lock"] == "" and "waiting for vzdump of root@pam" in told[0]
    assert ends(stop(both, ["100"])) == {"100": (BY_ITSELF, "yes")}
    assert not any("skiplock" in values or values.get("delete") for _m, _p, values in both.pve.seen)
    assert vm.status == "stopped"


def test_a_lock_that_comes_between_is_waited_for(both: pve_fake.Serving) -> None:
    """The real thing takes the request and fails its task; the simulator refuses at once. Both are tried again."""
    vm = both.pve.add_vm(100, "crm-db", status="running")
    with cluster(both, ["100"], timeout=60) as one:
        found = one.prepare(["stopped"])
        vm.lock = "backup"

        def pause(seconds: float) -> None:
            if "locked (backup)" in one.said_of("100"):
                vm.lock = None
            QUICK.sleep(seconds)

        courses = bring_down(one, found, 60, None, lambda **_: None, Clock(time.monotonic, pause))
        assert vm.lock is None
        assert endings(one, courses, one.observe())["100"].how == BY_ITSELF


def test_cv4pve_22_a_stale_lock_is_reported_and_left(both: pve_fake.Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    """[cv4pve-autosnap 22, 46, 27, 95; proxmox-autosnap 24] What a broken task left is for a person to judge."""
    vm = both.pve.add_vm(100, "crm-db", status="running")
    both.pve.snapshot_lock(100, "snapshot-delete")
    with pytest.raises(
        Refusal, match=r"no running task owns the lock.*100 \(snapshot-delete: qm unlock 100 on pve1\).*Nothing was changed"
    ):
        stop(both, ["100"])
    assert vm.lock == "snapshot-delete" and vm.status == "running"
    assert not [one for one in both.pve.seen if one[0] != "GET"]


def test_a_lock_that_lasts_is_a_refusal(real: pve_fake.Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    real.pve.add_vm(100, "crm-db", status="running")
    real.run(real.pve.backup(100, secs=10_000))
    with pytest.raises(Refusal, match=r"still locked after 0.5 s: 100 \(backup, vzdump of root@pam\)"):
        stop(real, ["100"], lock_wait=0.5)


def test_a_hibernated_guest_is_off_and_called_what_it_is(real: pve_fake.Serving) -> None:
    real.pve.add_vm(100, "crm-db", status="stopped", lock="suspended")
    done = stop(real, ["100"])
    assert done["changed"] is False and ends(done) == {"100": (ALREADY_OFF, "unknown")}
    assert "its memory lies on disk" in done["result"]["guests"]["100"]["detail"]


def test_templates_are_left_alone_and_named(real: pve_fake.Serving) -> None:
    real.pve.add_vm(900, "golden", template=True, config={"onboot": 1, "template": 1})
    real.pve.add_vm(100, "crm-db", status="running")
    done = stop(real, ["900", "100"])
    assert ends(done)["900"] == (ALREADY_OFF, "yes") and "template" in done["result"]["guests"]["900"]["detail"]
    assert not asked(real, "PUT", "qemu/900/config") and not real.pve.tasks_of(900)


def test_a_paused_guest_is_woken_and_paused_again(both: pve_fake.Serving) -> None:
    """The real thing answers 500, `VM is paused - cannot shutdown`; with forceStop it would cut it off."""
    vm = both.pve.add_vm(100, "crm-db", status="running", qmpstatus="paused")
    ledger = Ledger()
    done = stop(both, ["100"], ledger)
    assert both.pve.tasks_of(100) == ["qmresume", "qmshutdown"] and ends(done) == {"100": (BY_ITSELF, "yes")}
    back = start(both, ["100"], ledger)
    assert vm.qmpstatus == "paused" and back["evidence"]["verdict"] == "yes" and not back.get("failed"), back.get("msg")


def test_a_guest_that_a_dead_run_has_woken_is_paused_again(real: pve_fake.Serving) -> None:
    """The controller was killed between waking it and the shutdown, or between its start and its pause: the same command ends it."""
    vm = real.pve.add_vm(100, "crm-db", status="running", qmpstatus="paused")
    ledger = Ledger()
    stop(real, ["100"], ledger)
    vm.status = vm.qmpstatus = "running"
    back = start(real, ["100"], ledger)
    assert vm.qmpstatus == "paused" and back["evidence"]["verdict"] == "yes", back.get("msg")
    assert real.pve.tasks_of(100) == ["qmresume", "qmshutdown", "qmsuspend"]


def test_ha_that_has_not_let_go_of_guests_that_are_all_off_is_waited_for(real: pve_fake.Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    """HA finds one of its guests off and is about to start it: that its state is ignored now says nothing of what it has queued."""
    vm = real.pve.add_vm(100, "crm-db", status="stopped")
    real.pve.ha(vm, "started")
    looked: list[bool] = []

    def not_yet(rows: Any, sid: str) -> bool:
        looked.append(proxmox_let_go(rows, sid))
        return len(looked) > 3 and looked[-1]

    proxmox_let_go = proxmox_cluster.let_go
    monkeypatch.setattr(proxmox_cluster, "let_go", not_yet)
    done = stop(real, ["100"])
    assert len(looked) > 3 and done["evidence"]["verdict"] == "yes", done.get("msg")


def test_never_edit_a_configuration_but_onboot(real: pve_fake.Serving) -> None:
    """[proxmox_snap unbind] proxmox_snap's unbind rewrites mount points; here one key is written, with the digest of what was read, and only where it is set."""
    db, _app, web = three(real)
    before = {key: value for key, value in db.config.items() if key != "onboot"}
    stop(real, NAMES)
    written = [(path, set(values)) for method, path, values in real.pve.seen if method == "PUT" and path.endswith("/config")]
    assert sorted(written) == [("/nodes/pve2/qemu/100/config", {"onboot", "digest"}), ("/nodes/pve3/lxc/200/config", {"onboot", "digest"})]
    assert {key: value for key, value in db.config.items() if key != "onboot"} == before
    assert not [one for one in real.pve.seen if one[0] == "DELETE"]


def test_where_onboot_is_left_the_guest_is_said_not_to_stay_off(real: pve_fake.Serving) -> None:
    db, _app, _web = three(real)
    done = stop(real, ["100"], keep_off=False)
    assert db.config["onboot"] == 1 and done["result"]["guests"]["100"]["after"]["stays_off"] == "no: onboot"


def test_a_guest_that_starts_again_is_seen(real: pve_fake.Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    vm = real.pve.add_vm(100, "crm-db", status="running")

    def restarted(_seconds: float) -> None:
        vm.status = vm.qmpstatus = "running"

    monkeypatch.setattr(guest_verbs.time, "sleep", restarted)
    done = stop(real, ["100"])
    assert done["failed"] and "it was off and is on again: something starts it" in done["msg"]
