# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is decided about guests of Proxmox VE, on answers as the real thing gives them (facts/hypervisors.md)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.guests.guests import ALREADY_OFF, BY_FORCE, BY_ITSELF, UNKNOWN
from ansible_collections.sunset.crm.plugins.plugin_utils.proxmox import api, cluster, copies, guests as seeing, rights, tasks

PLACE = seeing.Place("qemu", 100, "pve1", "crm-db")
UPID = "UPID:pve1:000F7C3E:0A1B2C3D:66F0A1B2:qmshutdown:100:sunset@pve!retire:"


# --- the API


def settings(**changes: Any) -> dict[str, Any]:
    return {"hosts": ["pve1"], "user": "sunset@pve", "token_id": "retire", "secret_file": "/x", **changes}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"password": "hunter2"}, "password is not known.*never into the inventory"),
        ({"hosts": []}, "hosts is empty"),
        ({"user": "root"}, "expected NAME@REALM"),
        ({"secret_file": None}, "secret_file is missing"),
        ({"verify": "no"}, "expected system, the path of a CA file.*fingerprint"),
        ({"verify": "false"}, "expected system"),
    ],
)
def test_a_wrong_description_of_the_api_is_named(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(Refusal, match=said) as caught:
        api.check_settings(settings(**changes))
    assert "hunter2" not in str(caught.value)


def test_a_fingerprint_may_have_colons_and_there_is_no_way_to_trust_nobody() -> None:
    assert api.way_of_trust(":".join(["AB"] * 32)) == ("fingerprint", "ab" * 32)
    assert api.way_of_trust("/etc/pve.pem") == ("ca_file", "/etc/pve.pem")


def test_a_secret_is_read_from_a_private_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("s3cret\n")
    path.chmod(0o644)
    with pytest.raises(Refusal, match="mode 0644; expected a regular file of uid .* with mode 0600"):
        api.read_secret(str(path))
    path.chmod(0o600)
    assert api.read_secret(str(path)) == "s3cret"
    os.symlink(path, tmp_path / "link")
    with pytest.raises(Refusal, match="cannot be read"):
        api.read_secret(str(tmp_path / "link"))
    path.write_text("two words\n")
    with pytest.raises(Refusal, match="does not hold one line") as caught:
        api.read_secret(str(path))
    assert "two words" not in str(caught.value)


def test_the_body_says_what_a_proxy_took_from_the_reason() -> None:
    """Behind HTTP/2 there is no reason phrase; since 8.4 the text stands in the body too. proxmoxer reads the reason alone."""
    assert api.error_text({"data": None, "message": "VM is locked (backup)\n"}, "Internal Server Error") == "VM is locked (backup)"
    assert api.error_text({"data": None}, "VM is locked (backup)") == "VM is locked (backup)"
    assert api.error_text(None, "No route to host") == "No route to host"


def test_versions() -> None:
    assert [api.version_of(text) for text in ("7.4-16", "8.4.1", "9.1~rc2")] == [(7, 4), (8, 4), (9, 1)]
    with pytest.raises(Refusal):
        api.version_of("unknown")


# --- rights (fact 2)


def test_rights_come_down_only_where_they_propagate() -> None:
    tree = {"/": {"Sys.Audit": 1, "VM.Audit": 0}, "/vms/100": {"VM.PowerMgmt": 0}}
    assert not rights.holds_below(tree, "/vms", "VM.Audit") and rights.holds_below(tree, "/", "Sys.Audit") is False
    assert rights.holds(tree, "/vms/100", "VM.PowerMgmt") and not rights.holds(tree, "/vms/101", "VM.PowerMgmt")
    # An entry of its own replaces what comes from above.
    assert not rights.holds({"/": {"VM.Audit": 1}, "/vms/100": {"VM.PowerMgmt": 1}}, "/vms/100", "VM.Audit")
    assert not rights.holds_below({"/vms": {"VM.Audit": 1}, "/vms/100": {"VM.PowerMgmt": 1}}, "/vms", "VM.Audit")


def test_what_is_missing_is_said_once_with_its_paths() -> None:
    tree = {"/": {"Sys.Audit": 1, "VM.Audit": 1}}
    with pytest.raises(Refusal) as caught:
        rights.check(tree, rights.needs("stopped", range(100, 107), ha=True), "sunset@pve!retire")
    text = str(caught.value)
    assert "VM.PowerMgmt on /vms/100, /vms/101, /vms/102, /vms/103, /vms/104 and 2 more" in text and "Sys.Console on /" in text
    assert "VM.Audit" not in text and "A token has only the rights that were given to the token itself" in text


# --- tasks (fact 1)


def test_a_upid_keeps_the_name_of_the_token() -> None:
    """proxmoxer's own reading drops it."""
    upid = tasks.parse(UPID)
    assert upid is not None
    assert (upid.node, upid.type, upid.id, upid.user) == ("pve1", "qmshutdown", "100", "sunset@pve!retire")
    assert [tasks.parse(text) for text in ("OK", None, "", {"errors": b""}, UPID + "x")] == [None] * 5


@pytest.mark.parametrize(
    ("kind", "exit_", "log", "word", "forced"),
    [
        ("qmshutdown", "OK", [], tasks.OK, False),
        # community.proxmox #96, general #10185: a success with warnings was taken for a failure, or waited for without end.
        ("vzdump", "WARNINGS: 2", ["WARN: one", "TASK WARNINGS: 2"], tasks.WARNINGS, False),
        ("hastop", "OK", ["Requesting HA stop for VM 100"], tasks.QUEUED, False),
        ("hastop", "WARNINGS: 1", [], tasks.QUEUED, False),
        ("qmshutdown", "OK", ["VM still running - terminating now with SIGTERM"], tasks.OK, True),
        ("qmshutdown", "OK", ["VM still running - terminating now with SIGKILL"], tasks.OK, True),
        ("qmshutdown", "unexpected status", [], tasks.UNKNOWN, False),
        ("qmshutdown", "unable to get last line of log file", [], tasks.UNKNOWN, False),
        ("qmshutdown", "", [], tasks.UNKNOWN, False),
        # proxmox_backup enumerates the texts that it knows and loops on every other one.
        ("vzdump", "job errors", ["ERROR: x", "TASK ERROR: job errors"], tasks.FAILED, False),
        ("vzdump", "interrupted by signal", [], tasks.FAILED, False),
        ("qmsnapshot", "snapshot feature is not available", [], tasks.FAILED, False),
    ],
)
def test_a_task_is_judged_by_type_end_and_log(kind: str, exit_: str, log: list[str], word: str, forced: bool) -> None:
    """[community.proxmox 96, general 10185; community.proxmox proxmox_backup HEAD] A success with warnings is one; any other text is an end."""
    seen = tasks.judge({"type": kind, "status": "stopped", "exitstatus": exit_}, log)
    assert (seen.word, seen.forced) == (word, forced)


def test_a_task_that_runs_has_not_ended() -> None:
    assert tasks.judge({"type": "qmshutdown", "status": "running"}, []).over is False


def test_proxmox_snap_the_reason_is_the_last_line() -> None:
    log = ["snapshotting 'drive-scsi0'", "TASK ERROR: VM is locked (backup)"]
    assert tasks.last_error(log) == "VM is locked (backup)"
    assert tasks.judge({"status": "stopped", "exitstatus": "VM is locked (backup)"}, log).notes == ("VM is locked (backup)",)


def test_whose_lock_it_is() -> None:
    def running(kind: str, id_: str) -> tasks.Upid:
        return tasks.Upid(f"{kind}{id_}", "pve1", 1, kind, id_, "root@pam")

    assert tasks.owner("backup", 100, [running("vzdump", "")]) is not None  # a job over all guests
    assert tasks.owner("backup", 100, [running("vzdump", "99,100")]) is not None
    assert tasks.owner("backup", 100, [running("vzdump", "1000"), running("qmstart", "100")]) is None
    assert tasks.owner("snapshot-delete", 100, [running("qmdelsnapshot", "100")]) is not None
    assert tasks.owner("snapshot-delete", 100, []) is None


def test_lists_of_tasks_with_and_without_a_status_for_what_runs() -> None:
    rows = [
        {"upid": UPID},
        {"upid": UPID, "status": "RUNNING"},
        {"upid": UPID, "status": "OK"},
        {"upid": UPID, "endtime": 5},
        {"upid": "x"},
    ]
    assert len(tasks.running(rows)) == 2


def test_a_request_without_an_answer_is_found_by_what_was_not_there_before() -> None:
    rows = [{"upid": UPID}, {"upid": UPID.replace("retire", "other")}]
    assert tasks.fresh(rows, set(), ("qmshutdown",), 100, "sunset@pve!retire") is not None
    assert tasks.fresh(rows, {UPID}, ("qmshutdown",), 100, "sunset@pve!retire") is None
    assert tasks.fresh(rows, set(), ("qmstop",), 100, "sunset@pve!retire") is None


# --- guests


@pytest.mark.parametrize(
    ("current", "power"),
    [
        ({"status": "stopped", "qmpstatus": "stopped"}, "off"),
        ({"status": "running", "qmpstatus": "running"}, "on"),
        ({"status": "running"}, "on"),
        ({"status": "running", "qmpstatus": "paused"}, "paused"),
        ({"status": "running", "qmpstatus": "io-error"}, "on"),
        ({"status": "running", "qmpstatus": "prelaunch"}, "changing"),  # a backup of a stopped guest
        ({"status": "running", "qmpstatus": "shutdown"}, "on"),  # the process still runs
        ({"status": "unknown"}, "unknown"),
        ({}, "unknown"),
    ],
)
def test_power(current: dict[str, Any], power: str) -> None:
    assert seeing.power(current) == power


def seen(current: dict[str, Any] | None = None, config: dict[str, Any] | None = None, **rest: Any) -> Any:
    return seeing.guest("100", PLACE, {"status": "running", **(current or {})}, config or {}, frozenset(), **rest)


def test_what_brings_a_guest_back() -> None:
    assert seen({}, {"onboot": 1}, ha="started").returns == "HA state started and onboot"
    assert seen(ha="ignored").returns == "" and seen().returns == ""
    assert seen({}, {"onboot": 1, "template": 1}, ha="started").returns == ""
    assert seen({}, {"onboot": 1}, keep_off=False).returns == ""
    assert seeing.stays_off(seen({}, {"onboot": 1}, ha="started").record) == "no: HA state started and onboot"
    assert seeing.stays_off(seen({}, {}).record) == "yes"


def test_the_state_of_ha_is_the_one_that_is_asked_for_and_not_the_managers_word_of_the_moment() -> None:
    """In status/current of the real thing an ignored resource is not managed, and the state is request_start, freeze and the like, which no
    request may name: a resume that put that back was refused."""
    rows = [{"sid": "vm:100", "type": "vm"}, {"sid": "ct:200", "state": "ignored"}, {"sid": "vm:101", "state": "disabled"}]
    assert seeing.ha_states(rows) == {"vm:100": "started", "ct:200": "ignored", "vm:101": "disabled"}
    assert seen({"ha": {"managed": 1, "state": "request_start"}}, ha="started").record["former"]["ha"] == "started"
    assert seen({"ha": {"managed": 0}}, ha="ignored").record["former"]["ha"] == "ignored"


def test_the_evidence_has_no_description() -> None:
    """People write passwords into it."""
    assert "hunter2" not in str(seen({}, {"description": "root / hunter2", "cipassword": "hunter2"}).record)


def test_the_start_order_backwards() -> None:
    """No order starts after all that have one, so it ends first; equal orders are alike."""
    found = seeing.needs({"db": 1, "app": 2, "app2": 2, "web": None})
    assert found == {"db": frozenset(), "app": {"db"}, "app2": {"db"}, "web": {"app", "app2"}}
    assert seeing.needs({"a": None, "b": None}) == {"a": frozenset(), "b": frozenset()}
    assert [seeing.orders({"startup": text}) for text in ("order=3,up=10", "up=5,order=3", "3,up=5", "up=30,down=60", "")] == [
        3,
        3,
        3,
        None,
        None,
    ]


def outcome(word: str = tasks.OK, kind: str = "qmshutdown", forced: bool = False, said: str = "OK") -> tasks.Outcome:
    return tasks.Outcome(word, said, kind, forced)


@pytest.mark.parametrize(
    ("asked", "forced", "how_it_ended", "expected"),
    [
        (True, False, outcome(), (BY_ITSELF, "yes")),
        (True, False, outcome(forced=True), (BY_FORCE, "no")),
        (True, True, outcome(kind="qmstop"), (BY_FORCE, "no")),
        (True, False, outcome(kind="qmstop"), (BY_FORCE, "no")),
        (True, False, outcome(tasks.QUEUED, "hastop"), (UNKNOWN, "unknown")),
        (True, False, outcome(tasks.FAILED, said="VM quit/powerdown failed - got timeout"), (UNKNOWN, "unknown")),
        (True, False, outcome(tasks.UNKNOWN, said="unexpected status"), (UNKNOWN, "unknown")),
        (True, False, None, (UNKNOWN, "unknown")),
        (False, False, outcome(), (ALREADY_OFF, "yes")),
        (False, False, outcome(kind="vzstop"), (ALREADY_OFF, "no")),
        (False, False, None, (ALREADY_OFF, "unknown")),
    ],
)
def test_how_a_guest_ended(asked: bool, forced: bool, how_it_ended: tasks.Outcome | None, expected: tuple[str, str]) -> None:
    end = seeing.ending_of(seen(), asked, forced, how_it_ended)
    assert (end.how, end.graceful) == expected


def test_ha_has_let_go_when_its_manager_wants_nothing_any_more() -> None:
    row = {"type": "service", "id": "service:vm:100", "sid": "vm:100", "state": "ignored"}
    assert cluster.let_go([row], "vm:100") and cluster.let_go([], "vm:100")
    assert not cluster.let_go([{**row, "crm_state": "started"}], "vm:100")
    assert not cluster.let_go([{**row, "state": "started"}], "vm:100")


def test_which_refusals_pass_by_themselves() -> None:
    for text in (
        "can't lock file '/var/lock/qemu-server/lock-100.conf' - got timeout",
        "VM is locked (backup)",
        "cluster not ready - no quorum?",
    ):
        assert cluster.retriable(text)
    assert not cluster.retriable("no such resource 'vm:100'")


# --- snapshots and backups


def test_a_snapshot_is_found_by_its_name_wherever_the_row_for_now_stands() -> None:
    """[proxmox_snap retention] proxmox_snap drops the last row as `current`."""
    rows = [{"name": "current"}, {"name": "sunset-retire", "snaptime": 7}, {"name": "half", "snapstate": "delete"}]
    assert copies.snapshot_of(rows, "sunset-retire")[0] == "whole" and copies.snapshot_of(rows, "half")[0] == "incomplete"
    assert copies.snapshot_of(rows, "current")[0] == "missing"


def test_which_disk_cannot_be_snapshotted() -> None:
    storages = {"tank": "zfspool", "nas": "nfs", "san": "iscsi"}
    config = {
        "scsi0": "tank:vm-100-disk-0,size=8G",
        "scsi1": "nas:100/vm-100-disk-1.qcow2,size=8G",
        "scsi2": "nas:100/vm-100-disk-2.raw,size=8G",
        "scsi3": "san:0.0.0.scsi-x",
        "scsi4": "/dev/sdx",
        "scsi5": "hidden:vm-100-disk-5",
        "ide2": "nas:iso/x.iso,media=cdrom",
        "unused0": "nas:100/old.raw",
    }
    said = copies.cannot_snapshot("qemu", config, storages)
    assert [one.split()[0] for one in said] == ["scsi2", "scsi3", "scsi4", "scsi5"]
    assert said[0] == "scsi2 (raw on nas, a storage of type nfs)" and "may not see" in said[3]


def test_what_a_backup_leaves_out() -> None:
    vm = {"scsi0": "a:b,size=1G", "scsi1": "a:c,backup=0", "scsi2": "a:d,backup=1"}
    ct = {"rootfs": "a:b", "mp0": "a:c,mp=/x", "mp1": "a:d,mp=/y,backup=1", "mp2": "/srv/x,mp=/z"}
    assert copies.left_out("qemu", vm, "backup") == ["scsi1"] and copies.left_out("qemu", vm, "snapshot") == []
    assert copies.left_out("lxc", ct, "backup") == ["mp0", "mp2"] and copies.left_out("lxc", ct, "snapshot") == ["mp2"]


def test_a_freeze_that_failed_is_one_line_in_a_log_that_ends_with_ok() -> None:
    assert copies.consistency(False, False, []) == "offline" and copies.consistency(True, True, []) == "memory"
    assert copies.consistency(True, False, ["INFO: issuing guest-agent 'fs-freeze' command"]) == "quiesced"
    assert copies.consistency(True, False, ["skipping guest filesystem freeze - agent configured but not running?"]) == "crash-consistent"
    assert (
        copies.consistency(True, False, ["issuing guest-agent 'fs-freeze' command", "guest-fsfreeze-thaw problems"]) == "crash-consistent"
    )
    assert copies.consistency(True, False, []) == "crash-consistent"


def test_only_whole_archives_with_our_mark_count() -> None:
    mark = copies.marker("guest:crm", seen())
    rows = [
        {"volid": "a", "vmid": 100, "notes": mark, "size": 10, "ctime": 1},
        {"volid": "b", "vmid": 100, "notes": mark + "\n", "size": 10, "ctime": 2},
        {"volid": "c", "vmid": 100, "notes": mark, "size": 0, "ctime": 3},
        {"volid": "d", "vmid": 101, "notes": mark, "size": 10, "ctime": 4},
        {"volid": "e", "vmid": 100, "notes": "nightly", "size": 10, "ctime": 5},
    ]
    assert [row["volid"] for row in copies.archives(rows, 100, mark)] == ["b", "a"] and "{" not in copies.marker("{{x}}", seen())


def test_a_log_of_vzdump() -> None:
    good = ["INFO: creating vzdump archive 'x'", "INFO: Finished Backup of VM 100 (00:00:05)", "TASK OK"]
    assert copies.names_archive(good, 100) == "" and copies.names_archive(good, 10) != ""
    assert copies.names_archive([*good, "ERROR: Backup of VM 101 failed"], 100).startswith("ERROR")


def test_an_archive_that_does_not_know_a_disk() -> None:
    config = {"scsi0": "a:b", "scsi1": "a:c"}
    assert copies.unlike("qemu", "scsi0: a:b\nname: x\n", config, []) == ["scsi1"]
    assert copies.unlike("qemu", "scsi0: a:b\nname: x\n", config, ["scsi1"]) == []
