# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Snapshots, backups and definitions of guests of a simulated Proxmox VE cluster, through proxmoxer over HTTPS."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.proxmox import copies as proxmox_copies
from tests.integration import pve_fake, pve_schema
from tests.integration.pve_acts import Ledger, save, start, stop

pytestmark = pytest.mark.usefixtures("quick_cluster")


@pytest.fixture
def staging(tmp_path: Path) -> Path:
    place = tmp_path / "staging"
    place.mkdir()
    return place


NAMES = ["100", "200"]


def two(serving: pve_fake.Serving) -> tuple[Any, Any]:
    """A VM and a container, both off."""
    config = {"scsi0": "local-lvm:vm-100-disk-0,size=8G", "ide2": "local:iso/x.iso,media=cdrom", "smbios1": "uuid=8c1d6d1e-0001"}
    vm = serving.pve.add_vm(100, "crm-db", node="pve2", status="stopped", config=config)
    ct = serving.pve.add_ct(200, "crm-web", node="pve3", status="stopped", config={"rootfs": "local-lvm:vm-200-disk-0,size=8G"})
    return vm, ct


def count(serving: pve_fake.Serving, kind: str) -> int:
    return sum(task["type"].endswith(kind) for task in serving.pve.tasklog)


def test_check_real_check_real(both: pve_fake.Serving, staging: Path) -> None:
    """[proxmox_snap check mode] What check mode says would be done is what is done."""
    vm, ct = two(both)
    wish = {"snapshot": "sunset-retire", "storage": "local"}
    first = save(both, NAMES, staging, check=True, **wish)
    assert first["changed"] and first["result"]["would_snapshot"] == NAMES and not vm.snapshots and not list(staging.iterdir())
    done = save(both, NAMES, staging, **wish)
    assert done["changed"] and done["evidence"]["verdict"] == "yes", done.get("msg")
    assert set(vm.snapshots) == set(ct.snapshots) == {"sunset-retire"}
    assert done["result"]["snapshots"]["100"]["consistency"] == "offline"
    assert done["result"]["snapshots"]["100"]["copy"].startswith("no:")
    assert done["result"]["backups"]["200"]["volid"].startswith("local:backup/vzdump-lxc-200-")
    assert done["result"]["backups"]["200"]["protected"] == 1
    source = done["result"]["source"]["guests"]["100"]
    definition = json.loads((staging / "guest-100.definition.json").read_text())
    assert definition["id"] == source["id"] == "qemu/100/8c1d6d1e-0001" and definition["config"]["scsi0"].startswith("local-lvm:")
    assert {a["name"]: a["sha256"] for a in done["result"]["artefacts"]}[source["definition"]] == source["artefacts"][source["definition"]]
    for check in (True, False):
        assert save(both, NAMES, staging, check=check, **wish)["changed"] is False
    assert (count(both, "snapshot"), count(both, "vzdump")) == (2, 2)


@pytest.mark.parametrize("version", pve_schema.VERSIONS)
def test_every_request_is_one_that_this_version_knows(version: str, tmp_path: Path, staging: Path) -> None:
    with pve_fake.serving(tmp_path, answers="real") as one:
        one.grant()
        one.pve.version = pve_schema.RELEASES[version]
        two(one)
        one.pve.add_vm(103, "crm-raw", node="pve1", config={"scsi0": "local:103/vm-103-disk-0.raw"})
        save(one, NAMES, staging, snapshot="sunset-retire", storage="local")
        with pytest.raises(Refusal, match="no snapshot is possible"):
            save(one, ["103"], staging, snapshot="sunset-retire")
        assert pve_schema.problems(one.pve.seen, version) == []


def test_tasks_that_end_with_warnings_have_ended_and_are_called_so(both: pve_fake.Serving, staging: Path) -> None:
    """[community.proxmox 96, general 10185] Others wait for an OK that never comes, or call it a failure."""
    vm, _ct = two(both)
    vm.status = vm.qmpstatus = "running"
    both.pve.warns = {"qmshutdown", "qmsnapshot", "vzdump"}
    done = stop(both, ["100"])
    row = done["result"]["guests"]["100"]
    assert (done["evidence"]["verdict"], row["how"], row["graceful"]) == ("yes", "by itself", "yes") and "WARNINGS: 1" in row["detail"], row
    done = save(both, ["100"], staging, snapshot="sunset-retire", storage="local")
    assert done["evidence"]["verdict"] == "yes" and done["result"]["snapshots"]["100"]["said"] == "WARNINGS: 1", done.get("msg")
    assert (count(both, "snapshot"), count(both, "vzdump")) == (1, 1)


def test_nothing_is_pruned_and_nothing_is_removed(real: pve_fake.Serving, staging: Path) -> None:
    """[community.proxmox 60, 76, 159; proxmox_snap retention] Never delete."""
    two(real)
    save(real, NAMES, staging, snapshot="sunset-retire", storage="local")
    dumps = [values for method, path, values in real.pve.seen if method == "POST" and path.endswith("/vzdump")]
    assert len(dumps) == 2 and {values["remove"] for values in dumps} == {"0"} and not any("prune-backups" in values for values in dumps)
    assert not [one for one in real.pve.seen if one[0] == "DELETE"]


def test_fact_3_vzdump_that_answers_ok_has_backed_up_nothing(both: pve_fake.Serving, staging: Path) -> None:
    """[community.proxmox proxmox_backup HEAD] community.proxmox takes the plain word OK for an end. It means that the guest is on another node."""
    vm, _ct = two(both)
    both.pve.vzdump_answers = ["OK"]
    done = save(both, ["100"], staging, storage="local")
    assert done["failed"] and "answered 'OK' and started no task: nothing was done" in done["msg"] and not done["result"].get("artefacts")

    both.pve.vzdump_answers = []
    whole, moved = both.pve._vzdump, []

    async def moving(v: Any, user: str) -> Any:
        if not moved:
            moved.append(v["node"])
            vm.node = "pve1"
        return await whole(v, user)

    both.pve._vzdump = moving
    both.run(both.pve.runner.cleanup())  # routes hold bound methods: serve anew
    both.run(both.pve.start(both.ca_file, str(Path(both.ca_file).with_suffix(".key"))))
    done = save(both, ["100"], staging, storage="local")
    assert moved == ["pve2"] and not done.get("failed") and count(both, "vzdump") == 1


def test_proxmox_backup_ok_without_an_archive_is_no_backup(both: pve_fake.Serving, staging: Path) -> None:
    two(both)
    both.pve.vzdump_writes = False
    done = save(both, ["100"], staging, storage="local")
    assert done["failed"] and "there is no archive that was not there before" in done["msg"]


def test_proxmox_snap_a_failed_task_ends_at_once_with_its_reason(both: pve_fake.Serving, staging: Path) -> None:
    """[community.proxmox proxmox_snap HEAD] Others wait to the timeout and show the first line of the log."""
    vm, _ct = two(both)
    both.pve.fail("POST", "/nodes/pve2/qemu/100/snapshot", 500, "can't snapshot this image format", times=1)
    done = save(both, ["100"], staging, snapshot="sunset-retire")
    assert done["failed"] and "can't snapshot this image format" in done["msg"] and not vm.snapshots
    # Taken, and its task fails: the reason is the last line of its log.
    both.pve.add_ceph_storage()
    vm.config["scsi0"] = "ceph-pool:vm-100-disk-0,size=8G"
    both.pve.ceph_down()
    began = time.monotonic()
    done = save(both, ["100"], staging, snapshot="sunset-retire", timeout=120)
    assert done["failed"] and "rbd" in done["msg"] and not vm.snapshots and time.monotonic() - began < 60
    both.pve.ceph_recover()
    assert save(both, ["100"], staging, snapshot="sunset-retire")["changed"] and set(vm.snapshots) == {"sunset-retire"}


def test_bareprox_4_a_snapshot_that_hangs_ends_at_its_deadline_and_is_not_taken_twice(real: pve_fake.Serving, staging: Path) -> None:
    """[BareProx 4] Its limit of 30 minutes was not applied. The task is left to whoever knows what it does."""
    vm, _ct = two(real)
    real.pve.add_ceph_storage()
    vm.config["scsi0"] = "ceph-pool:vm-100-disk-0,size=8G"
    real.pve.ceph_slow(10_000)
    began = time.monotonic()
    done = save(real, ["100"], staging, snapshot="sunset-retire", timeout=1.0)
    assert done["failed"] and "its task has not ended in time and still runs" in done["msg"] and time.monotonic() - began < 60
    assert not [made for made in real.pve.seen if made[0] == "DELETE"] and count(real, "snapshot") == 1


def test_a_storage_that_cannot_is_named_with_its_disk(both: pve_fake.Serving, staging: Path) -> None:
    """Proxmox says `snapshot feature is not available` and not of which disk."""
    vm, _ct = two(both)
    vm.config["scsi1"] = "local:100/vm-100-disk-1.raw,size=4G"
    with pytest.raises(Refusal, match=r"100: scsi1 \(raw on local, a storage of type dir\). Nothing was changed"):
        save(both, NAMES, staging, snapshot="sunset-retire")
    assert count(both, "snapshot") == 0


def test_an_incomplete_snapshot_is_no_snapshot(both: pve_fake.Serving, staging: Path) -> None:
    """community.proxmox takes a row with snapstate for one that is there."""
    vm, _ct = two(both)
    vm.snapshots["sunset-retire"] = {"snaptime": 1, "snapstate": "prepare"}
    with pytest.raises(Refusal, match=r"the snapshot sunset-retire of 100 \(prepare\) is incomplete"):
        save(both, ["100"], staging, snapshot="sunset-retire")
    assert count(both, "snapshot") == 0


def test_a_snapshot_from_before_the_last_run_is_not_taken_for_a_new_one(real: pve_fake.Serving, staging: Path) -> None:
    vm, _ct = two(real)
    save(real, ["100"], staging, snapshot="sunset-retire")
    vm.snapshots["sunset-retire"]["snaptime"] -= 100
    ledger = Ledger()
    ledger.former = {"100": {"id": "qemu/100/8c1d6d1e-0001", "power": "on", "onboot": 0, "ha": ""}}
    start(real, ["100"], ledger)
    stop(real, ["100"])
    with pytest.raises(Refusal, match=r"older than the last run of 100 \(qmstart since\).*nothing is removed"):
        save(real, ["100"], staging, snapshot="sunset-retire")


def test_bind_mounts_and_excluded_disks_are_not_left_out_in_silence(both: pve_fake.Serving, staging: Path) -> None:
    vm, ct = two(both)
    ct.config["mp0"] = "/srv/shared,mp=/srv"
    vm.config["scsi1"] = "local-lvm:vm-100-disk-1,size=4G,backup=0"
    with pytest.raises(Refusal, match="would leave out 100:scsi1, 200:mp0 without a word"):
        save(both, NAMES, staging, storage="local")
    done = save(both, NAMES, staging, storage="local", leave_out=frozenset({"100:scsi1", "200:mp0"}))
    assert not done.get("failed") and done["result"]["leave_out"] == ["100:scsi1", "200:mp0"]


def test_a_running_or_hibernated_guest_is_not_saved(both: pve_fake.Serving, staging: Path) -> None:
    vm, _ct = two(both)
    vm.status = vm.qmpstatus = "running"
    with pytest.raises(Refusal, match="100 still runs; stop the set first"):
        save(both, NAMES, staging, snapshot="sunset-retire")
    vm.status = vm.qmpstatus = "stopped"
    vm.lock = "suspended"
    with pytest.raises(Refusal, match="100: hibernated: its memory lies on disk"):
        save(both, NAMES, staging, snapshot="sunset-retire")


@pytest.mark.parametrize("again", ["runs", "ran"])
def test_a_guest_that_is_started_while_it_is_saved_is_not_called_saved(
    real: pve_fake.Serving, staging: Path, monkeypatch: pytest.MonkeyPatch, again: str
) -> None:
    """A snapshot of what ran is not offline, and a backup of it is not either, though both end with OK."""
    vm, _ct = two(real)
    take = proxmox_copies.Snapshots.take

    def meanwhile(self: Any, account: Any, result: Any) -> list[str]:
        bad = take(self, account, result)
        self._cluster.api.post("nodes", "pve2", "qemu", "100", "status", "start")
        deadline = time.monotonic() + 20
        while vm.status != "running" and time.monotonic() < deadline:
            time.sleep(0.05)
        if again == "ran":
            vm.status = vm.qmpstatus = "stopped"
        return bad

    monkeypatch.setattr(proxmox_copies.Snapshots, "take", meanwhile)
    done = save(real, ["100"], staging, snapshot="sunset-retire")
    assert done["failed"] and "100 was started while it was saved" in done["msg"], done


def test_rights_for_copies_are_looked_for_first(real: pve_fake.Serving, staging: Path) -> None:
    two(real)
    real.pve.acl = {}
    real.grant(*(right for right in pve_fake.ALL_RIGHTS if right not in ("VM.Snapshot", "Datastore.AllocateSpace")))
    with pytest.raises(Refusal, match="lacks VM.Snapshot on /vms/100, /vms/200.*Datastore.AllocateSpace on /storage/local"):
        save(real, NAMES, staging, snapshot="sunset-retire", storage="local")


def test_cut_after_the_request_was_taken_there_is_one_snapshot_and_one_backup(both: pve_fake.Serving, staging: Path) -> None:
    two(both)
    both.pve.vzdump_secs = 20
    both.pve.cut = {("POST", "/snapshot"): 2, ("POST", "/vzdump"): 2}
    done = save(both, NAMES, staging, snapshot="sunset-retire", storage="local")
    assert not done.get("failed"), done["msg"]
    assert (count(both, "snapshot"), count(both, "vzdump")) == (2, 2)


def test_killed_while_a_backup_runs_the_next_run_waits_for_it_and_makes_no_second(both: pve_fake.Serving, staging: Path) -> None:
    two(both)
    both.pve.vzdump_secs, both.pve.until = math.inf, lambda: False
    done = save(both, ["100"], staging, storage="local", copy_timeout=0.2)
    assert done["failed"] and "has not ended within 0.2 s and still runs" in done["msg"]
    # It ends when it was seen that the lock has an owner, who is to be waited for.
    since = len(both.pve.seen)
    both.pve.until = lambda: any(values.get("source") == "active" for _method, _path, values in both.pve.seen[since:])
    done = save(both, ["100"], staging, storage="local")
    assert not done.get("failed") and count(both, "vzdump") == 1


def test_a_name_that_proxmox_would_not_take(real: pve_fake.Serving, staging: Path) -> None:
    two(real)
    for name in ("current", "Pending", "vzdump", "x", "1st", "a b", "a" * 41):
        with pytest.raises(Refusal, match="snapshot_name .* Nothing was changed"):
            save(real, ["100"], staging, snapshot=name)
    assert count(real, "snapshot") == 0


def test_the_action_stops_saves_and_starts_from_the_ledger_alone(
    real: pve_fake.Serving, staging: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What Ansible calls: options as the plan fills them, what was there before from what the runs noted."""
    from types import SimpleNamespace

    from ansible_collections.sunset.crm.plugins.action import proxmox_guests as action
    from ansible_collections.sunset.crm.plugins.plugin_utils import relay
    from ansible_collections.sunset.crm.plugins.plugin_utils.record import ledger
    from ansible_collections.sunset.crm.plugins.plugin_utils.record.estate import Estate

    vm, ct = two(real)
    vm.status = vm.qmpstatus = ct.status = "running"
    vm.config["onboot"] = 1
    monkeypatch.setattr(relay, "from_connection", lambda _connection: relay.here())
    variables = {"sunset_estate_dir": str(tmp_path / "estate")}
    (tmp_path / "estate").mkdir()
    identity = {"ids": {"100": "qemu/100/8c1d6d1e-0001"}, "hypervisor": {"cluster": "fakecluster"}}
    common = {"item": "guest:crm", "guests": NAMES, "identity": identity, "staging": str(staging), "api": real.api(), "snapshot": True}

    def call(state: str, check: bool = False, **more: Any) -> dict[str, Any]:
        one: Any = action.ActionModule.__new__(action.ActionModule)
        one._task, one._connection = SimpleNamespace(check_mode=check), None
        one._display = SimpleNamespace(display=lambda _text: None)
        done: dict[str, Any] = one.perform({**common, "state": state, **more}, variables, check)
        return done

    assert call("stopped", check=True)["changed"] and vm.status == "running"
    assert call("stopped", timeout=60)["evidence"]["verdict"] == "yes" and vm.status == ct.status == "stopped"
    assert call("saved")["evidence"]["verdict"] == "yes" and set(vm.snapshots) == {"sunset-retire"}
    assert call("saved")["changed"] is False and call("stopped")["changed"] is False
    assert [entry.record["kind"] for entry in ledger.read(Estate.at(str(tmp_path / "estate")).ledger_file)] == ["found", "asked", "asked"]
    # Nor is it found out in the middle of the way back that what was taken away cannot be put back.
    whole, real.pve.acl = real.pve.acl, {}
    real.grant(*(right for right in pve_fake.ALL_RIGHTS if right != "VM.Config.Options"))
    with pytest.raises(Refusal, match=r"lacks VM.Config.Options on /vms/100 .*Nothing was changed"):
        call("started")
    assert (vm.status, ct.status) == ("stopped", "stopped")
    real.pve.acl = whole
    assert call("started")["result"]["started"] == NAMES and vm.status == "running" and int(vm.config["onboot"]) == 1
    assert pve_fake.TOKEN_SECRET not in Path(Estate.at(str(tmp_path / "estate")).ledger_file).read_text()
    with pytest.raises(Refusal, match="password is not known"):
        call("stopped", api=real.api(password="x"))
    # What the save needs is looked for before the stop: or guests would be off, and could not be saved.
    real.pve.acl = {}
    real.grant(*(right for right in pve_fake.ALL_RIGHTS if right not in ("VM.Snapshot", "Datastore.AllocateSpace")))
    before = [one for one in real.pve.seen if one[0] != "GET"]
    for check in (True, False):
        with pytest.raises(Refusal, match="lacks VM.Snapshot on .*Datastore.AllocateSpace on /storage/local.*Nothing was changed"):
            call("stopped", check=check, copy=True, storage="local")
    assert vm.status == "running" and [one for one in real.pve.seen if one[0] != "GET"] == before
