# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The whole purge job over a file, against a drive made of Python that can lie. Valid for Python 3.6."""

import json
import os
import struct
import sys

import pytest

from ansible_collections.sunset.crm.plugins.module_utils._disk import device as disk_device
from ansible_collections.sunset.crm.plugins.module_utils._wipe import (
    drives as wipe_drives,
    engine as wipe_engine,
    firmware as wipe_firmware,
    judge as wipe_judge,
    purge as wipe_purge,
    transport as wipe_transport,
)

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from fake_drive import FakeDrive

KEY = "0123456789abcdef" * 4
PSID = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"
SIZE = 4 << 20
FAMILIES = {"nvme": "nvme", "ata": "scsi", "scsi": "scsi", "tcg": "nvme"}
BACKGROUND = sorted(name for name in wipe_firmware.TECHNIQUES if "sanitize" in name)
BLOCKING = sorted(name for name in wipe_firmware.TECHNIQUES if "sanitize" not in name)


class Killed(BaseException):
    """Stands for a kill: nothing of the job runs after it."""


class FilePurge(wipe_purge.Purge):
    """The job with a file in the place of the device and the fake in the place of the kernel."""

    drive, kind, reads = None, "", 0

    def open(self):
        self.fd = os.open(self.spec["device"], os.O_RDWR)
        self.found = {"found": "yes", "kind": self.kind, "serial": "S123", "size": SIZE, "number": "none", "model": "REAL"}
        self.size = SIZE
        wipe_purge.equip(self.way, self.key, self.found, self.spec["psid_directory"])

    def link(self):
        return wipe_transport.Link(self.fd, self.drive.ioctl)

    def still_the_same(self):
        pass

    def _counters(self):
        self.reads += SIZE
        return [self.reads, self.reads]


@pytest.fixture
def bench(tmp_path, monkeypatch):
    medium = tmp_path / "medium"
    medium.write_bytes(b"OLD DATA" * (SIZE // 8))
    (tmp_path / "job").mkdir()
    (tmp_path / "psid").mkdir()
    (tmp_path / "psid" / "S123").write_text(PSID + "\n")
    (tmp_path / "psid" / "S123").chmod(0o600)

    def job(name, drive, kind=None, **spec):
        monkeypatch.setattr(FilePurge, "drive", drive)
        monkeypatch.setattr(FilePurge, "kind", FAMILIES[name.split("-")[0]])
        spec = dict(
            {
                "device": str(medium),
                "key": KEY,
                "technique": name,
                "poll_seconds": 0.002,
                "grace_seconds": 0.1,
                "stall_seconds": 0.1,
                "psid_directory": str(tmp_path / "psid"),
            },
            **spec,
        )
        return (kind or FilePurge)(spec, str(tmp_path / "job"))

    def drive(lie="", **more):
        return FakeDrive(str(medium), lie, **more)

    def same(target):
        return {
            "found": "yes",
            "kind": FilePurge.kind,
            "serial": "S123",
            "size": SIZE,
            "logical_block": 512,
            "unknown": [],
            "model": "REAL",
        }

    monkeypatch.setattr(disk_device, "identify", same)
    monkeypatch.setattr(wipe_transport, "written_by_device", lambda *_args: None)
    monkeypatch.setattr(wipe_engine, "PROGRESS_SECONDS", 0.02)
    job.medium, job.drive, job.folder = medium, drive, tmp_path / "job"
    return job


@pytest.mark.parametrize("name", sorted(wipe_firmware.TECHNIQUES))
def test_an_honest_drive_is_purged_with_all_the_evidence(bench, name):
    drive = bench.drive()
    result = bench(name, drive).run()
    assert result["outcome"] == "sanitised", result
    facts = result["verification"]
    assert facts["marks_before"] > 900 and facts["mismatches"] == 0 and facts["mode"] == "sample"
    assert facts["canaries_found"] == facts["canaries_left"] == facts["canaries_wiped"] > 0
    assert b"OLD DATA" not in bench.medium.read_bytes()
    assert result["firmware"]["trail"]["sent"]["accepted"] == "yes" and "no real drive" in result["firmware"]["met"]
    assert len(result["left"]) > 10


@pytest.mark.parametrize("name", sorted(wipe_firmware.TECHNIQUES))
def test_a_drive_that_refuses_is_not_purged(bench, name):
    result = bench(name, bench.drive("refuses")).run()
    assert result["outcome"] == "failed" and any("did not take the command" in line for line in result["reasons"])
    assert any("keyed blocks are still there" in line for line in result["reasons"])


@pytest.mark.parametrize("lie,words", [
    ("nothing", ["keyed blocks are still there"]),
    ("part", ["keyed blocks are still there"]),
    ("silent", ["keyed blocks are still there"]),
    ("stuck", ["its progress has not moved"]),
    ("fails", ["its log ends as failed", "keyed blocks are still there"]),
])  # fmt: skip
@pytest.mark.parametrize("name", BACKGROUND)
def test_a_drive_that_lies_is_found_out(bench, name, lie, words):
    result = bench(name, bench.drive(lie)).run()
    assert result["outcome"] == "failed"
    for word in words:
        assert any(word in line for line in result["reasons"]), (word, result["reasons"])


@pytest.mark.parametrize("name", [name for name in BACKGROUND if "block" in name or "crypto" in name])
def test_a_log_that_stays_as_it_was_is_no_evidence_even_if_the_data_went(bench, name):
    """The medium was really emptied, by a discard perhaps; the drive's log knows nothing of a purge."""
    drive = bench.drive("silent")
    drive.when_sent = lambda: bench.medium.write_bytes(b"\0" * SIZE)
    result = bench(name, drive).run()
    assert result["outcome"] == "failed" and result["verification"]["mismatches"] == 0
    assert any("the same as before" in line or "its log ends as idle" in line for line in result["reasons"]), result["reasons"]


@pytest.mark.parametrize("name", [name for name in BACKGROUND if name.startswith("nvme")])
def test_a_log_about_another_action_is_no_evidence(bench, name):
    drive = bench.drive("wrong action")
    drive.when_sent = lambda: bench.medium.write_bytes(b"\0" * SIZE)
    result = bench(name, drive).run()
    assert result["outcome"] == "failed" and any("speaks of the action" in line for line in result["reasons"])


@pytest.mark.parametrize("name", [name for name in BACKGROUND if "overwrite" in name])
def test_an_overwrite_that_is_done_at_once_is_not_believed(bench, name):
    result = bench(name, bench.drive("instant")).run()
    assert result["outcome"] == "failed" and any("instant success" in line for line in result["reasons"])


def test_a_crypto_erase_may_be_instant_where_the_log_names_it(bench):
    assert bench("nvme-sanitize-crypto", bench.drive("instant")).run()["outcome"] == "sanitised"


def test_a_log_that_lags_is_waited_for(bench):
    result = bench("nvme-sanitize-block", bench.drive(late=20), grace_seconds=60).run()
    assert result["outcome"] == "sanitised", result["reasons"]


# --- what emulations answer with exit 0 and nothing done (facts of the VM lab) -------------------------------------------


@pytest.mark.parametrize("name,word", [
    ("ata-security-erase", "bad or missing sense data"),
    ("ata-security-erase-enhanced", "bad or missing sense data"),
    ("nvme-sanitize-block", "does not know"),
    ("scsi-sanitize-block", "does not know"),
])  # fmt: skip
def test_what_qemu_answers_is_not_success(bench, name, word):
    before = bench.medium.read_bytes()
    result = bench(name, bench.drive(qemu=True)).run()
    assert result["outcome"] in ("failed", "refused") and any(word in line for line in result["reasons"]), result["reasons"]
    if result["outcome"] == "refused":
        assert bench.medium.read_bytes() == before


def test_a_scsi_overwrite_that_ends_in_a_host_error_is_not_success(bench, monkeypatch):
    """sg_sanitize --overwrite of QEMU: exit 0, DID_ERROR, nothing done."""
    monkeypatch.setattr(FakeDrive, "_scsi_support", True, raising=False)
    drive = bench.drive(qemu=True)
    real = drive._scsi
    drive._scsi = lambda command, given: (b"\0\x03" + b"\0" * 62, 0, b"", 0) if bytearray(command)[0] == 0xA3 else real(command, given)
    result = bench("scsi-sanitize-overwrite", drive).run()
    assert result["outcome"] == "failed" and drive.commands == ["did error"]
    assert any("host 0x07" in line for line in result["reasons"])
    assert any("keyed blocks are still there" in line for line in result["reasons"])


def test_a_foreign_command_that_ends_with_0_and_did_nothing_is_found_out(bench):
    """sg_format and busybox shred: exit 0, "complete", and every byte as it was."""

    class Foreign(FilePurge):
        def open(self):
            FilePurge.open(self)
            self.way.send = lambda link, estimate, prepare: {"accepted": "yes", "why": "", "running": True, "answers": [{"rc": 0}]}

    result = bench("ata-sanitize-block", bench.drive(), Foreign).run()
    assert result["outcome"] == "failed" and result["verification"]["mismatches"] == result["verification"]["marks_before"]


# --- refusals, before anything is written --------------------------------------------------------------------------------


@pytest.mark.parametrize("name,more,word", [
    ("nvme-sanitize-block", dict(namespaces=(1, 2)), "every namespace of the drive (1, 2)"),
    ("nvme-sanitize-block", dict(serial="OTHER"), "the controller's serial is 'OTHER'"),
    ("ata-sanitize-block", dict(serial="OTHER"), "the drive's serial is 'OTHER'"),
    ("scsi-sanitize-block", dict(serial="OTHER"), "the drive's serial is 'OTHER'"),
    ("ata-sanitize-block", dict(frozen=True), "frozen"),
    ("ata-security-erase", dict(frozen=True), "frozen"),
])  # fmt: skip
def test_refused_before_anything_is_written(bench, name, more, word):
    before, drive = bench.medium.read_bytes(), bench.drive(**more)
    result = bench(name, drive).run()
    assert result["outcome"] == "refused" and word in "; ".join(result["reasons"])
    assert bench.medium.read_bytes() == before and not drive.commands


def test_a_drive_with_somebody_elses_password_is_refused(bench):
    drive = bench.drive()
    drive.password = drive_password = b"somebody".ljust(32, b"\0")
    result = bench("ata-security-erase", drive).run()
    assert result["outcome"] == "refused" and "a password already" in result["reasons"][0]
    assert drive.commands == [] and drive.password == drive_password


def test_what_is_no_technique_is_refused_by_name(bench):
    assert "is no technique" in (wipe_firmware.unusable("shred") or "")
    job = wipe_purge.Purge({"device": str(bench.medium), "key": KEY, "technique": "shred"}, str(bench.folder))
    assert job.run()["outcome"] == "refused"


# --- kills, joins, aborts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BACKGROUND)
def test_killed_while_the_drive_is_at_work_joins_it(bench, name):
    drive = bench.drive(looks=5)

    class Dying(FilePurge):
        def progress(self, done, rate=None, total=None):
            if self.phase == "purge":
                raise Killed

    with pytest.raises(Killed):
        bench(name, drive, Dying).run()
    result = bench(name, drive).run()
    assert result["outcome"] == "sanitised" and len(result["sessions"]) == 2, result["reasons"]
    assert len(drive.commands) == 1  # the command was not sent twice


@pytest.mark.parametrize("name", sorted(wipe_firmware.TECHNIQUES))
@pytest.mark.parametrize("phase", ["mark", "send", "sent", "check"])
def test_killed_at_any_phase_goes_on(bench, name, phase):
    class Dying(FilePurge):
        def save(self, **changes):
            FilePurge.save(self, **changes)
            if changes.get("phase") == phase:
                raise Killed

    drive = bench.drive()
    with pytest.raises(Killed):
        bench(name, drive, Dying).run()
    result = bench(name, drive).run()
    assert result["outcome"] == "sanitised", result["reasons"]


def test_what_was_checked_before_a_kill_is_checked_again_after_it(bench):
    """The keyed blocks are on it again: somebody has put an image back between the two sessions."""
    kept = []

    class Dying(FilePurge):
        def save(self, **changes):
            FilePurge.save(self, **changes)
            if changes.get("phase") == "send":
                kept.append(bench.medium.read_bytes())
            if changes.get("phase") == "verified":
                raise Killed

    drive = bench.drive()
    with pytest.raises(Killed):
        bench("nvme-sanitize-block", drive, Dying).run()
    bench.medium.write_bytes(kept[0])
    result = bench("nvme-sanitize-block", drive).run()
    assert result["outcome"] == "failed" and any("still there" in line for line in result["reasons"]), result


def test_killed_after_the_drive_took_the_command_and_before_that_was_written_down(bench):
    drive = bench.drive(looks=4)

    def die():
        drive.when_sent = None
        raise Killed

    class Dying(FilePurge):
        def _waiting(self, act):
            act()
            raise Killed

    with pytest.raises(Killed):
        bench("nvme-sanitize-block", drive, Dying).run()
    result = bench("nvme-sanitize-block", drive).run()
    assert result["outcome"] == "sanitised" and drive.commands == ["block"]
    assert result["firmware"]["trail"]["sent"]["seen_in_log"]


@pytest.mark.parametrize("again", [{}, {"verify": "sample"}])
def test_an_ata_erase_that_was_killed_opens_the_drive_with_its_own_password(bench, again):
    """Also where another verification is asked for by then, which begins the wipe anew."""
    drive = bench.drive()

    class Dying(FilePurge):
        def _waiting(self, act):
            self.way.send(self.link(), None, lambda **facts: self.save(**facts))
            raise Killed

    drive.lie = "fails"  # power goes while it erases: the password stays
    drive_ioctl = drive.ioctl
    real = drive._security
    drive._security = lambda code, given: drive._registers(status=0x51, error=4) if code in (0xF2, 0xF6) else real(code, given)
    with pytest.raises(Killed):
        bench("ata-security-erase", drive, Dying).run()
    assert drive.password and json.loads((bench.folder / "state.json").read_text())["ata_password"] == drive.password.decode()
    drive.lie, drive._security, drive.locked = "", real, True
    assert drive_ioctl
    result = bench("ata-security-erase", drive, **again).run()
    assert result["outcome"] == "sanitised" and not drive.password, result["reasons"]


def test_the_password_is_written_down_before_it_is_set(bench):
    drive, seen = bench.drive(), []
    real = drive._security

    def watch(code, given):
        if code == 0xF1:
            seen.append(json.loads((bench.folder / "state.json").read_text()).get("ata_password"))
        return real(code, given)

    drive._security = watch
    result = bench("ata-security-erase", drive).run()
    assert seen == [result["firmware"]["ata_password"]] and len(seen[0]) == 32


def test_a_password_that_the_drive_only_says_it_took_ends_before_the_erase(bench):
    drive = bench.drive("silent")
    result = bench("ata-security-erase", drive).run()
    assert result["outcome"] == "failed" and "0xf4" not in drive.commands
    assert any("is not locked by it" in line for line in result["reasons"])


def test_a_sanitize_that_somebody_else_has_started_is_waited_for_and_then_done_again(bench):
    drive = bench.drive(looks=4)
    drive.action = 2
    drive.begin("block")
    result = bench("nvme-sanitize-block", drive).run()
    assert result["outcome"] == "sanitised" and drive.commands == ["block", "block"]
    assert result["firmware"]["joined"]["looks"] > 0


def test_abort_ends_the_watching_on_record(bench):
    drive = bench.drive("stuck")

    class Aborting(FilePurge):
        def progress(self, done, rate=None, total=None):
            if self.phase == "purge":
                (bench.folder / "abort").touch()
            FilePurge.progress(self, done, rate, total)

    assert bench("nvme-sanitize-block", drive, Aborting).run()["outcome"] == "aborted"
    (bench.folder / "abort").unlink()
    drive.lie = ""
    result = bench("nvme-sanitize-block", drive).run()
    assert result["outcome"] == "sanitised" and drive.commands == ["block"]


def test_a_log_that_stood_still_is_joined_by_the_next_call(bench):
    drive = bench.drive("stuck")
    assert bench("nvme-sanitize-block", drive).run()["outcome"] == "failed"
    drive.lie = ""
    result = bench("nvme-sanitize-block", drive).run()
    assert result["outcome"] == "sanitised" and drive.commands == ["block"], result["reasons"]


def test_a_verifier_that_does_not_look_is_found_out(bench):
    class Blind(FilePurge):
        def _survivors(self, places):
            look = FilePurge._survivors(self, places)
            if self.phase == "check":
                look.mismatched.clear()
            return look

    result = bench("nvme-sanitize-block", bench.drive("nothing"), Blind).run()
    assert result["outcome"] == "failed" and any("it does not see the device" in line for line in result["reasons"])


# --- decoding and names --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sprog,sstat,cdw10,state,action,progress", [
    (0xFFFF, 0x101, 2, "succeeded", "block", None),  # samples seen in the wild
    (0xFFFF, 0x001, 2, "succeeded", "block", None),
    (0xFFFF, 0x000, 0, "idle", None, None),
    (0x1234, 0x002, 4, "running", "crypto", 0x1234),
    (0xFFFF, 0x003, 3, "failed", "overwrite", None),
    (0xFFFF, 0x104, 3, "succeeded", "overwrite", None),
    (0xFFFF, 0x007, 3, "unknown", "overwrite", None),
])  # fmt: skip
def test_the_sanitize_log_is_decoded_by_us(sprog, sstat, cdw10, state, action, progress):
    page = struct.pack("<HHI", sprog, sstat, cdw10).ljust(512, b"\0")
    seen = wipe_drives.decode_sanitize_log(page)
    assert (seen["state"], seen["action"], seen["progress"]) == (state, action, progress)
    assert wipe_drives.decode_sanitize_log(page[:20])["state"] == "unknown"


def test_progress_of_both_sense_formats():
    fixed = bytes(bytearray([0x70, 0, 2, 0, 0, 0, 0, 10, 0, 0, 0, 0, 4, 0x1B, 0, 0x80, 0x12, 0x34]))
    descriptor = bytes(bytearray([0x72, 2, 4, 0x1B, 0, 0, 0, 8, 2, 6, 0, 0, 0x80, 0x12, 0x34, 0]))
    for raw in (fixed, descriptor):
        seen = wipe_transport.parse_sense(raw)
        assert (seen["key"], seen["asc"], seen["ascq"], seen["progress"]) == (2, 4, 0x1B, 0x1234)
    assert wipe_transport.parse_sense(b"")["key"] is None
    assert wipe_transport.parse_ata_registers(fixed) is None


@pytest.mark.parametrize("found,name,words", [
    ({"kind": "nvme", "model": "SAMSUNG"}, "nvme-sanitize-block", ("Purge", "not named", "Purge")),
        ({"kind": "scsi", "vendor": "ATA", "model": "QEMU HARDDISK"}, "ata-sanitize-block", ("logical sanitisation",) * 3),
    ({"kind": "nvme", "model": "QEMU NVMe Ctrl"}, "nvme-sanitize-block", ("logical sanitisation",) * 3),
    ({"kind": "nvme", "model": "SAMSUNG"}, "nvme-format-ses1", ("Clear", "Purge", "Clear")),
    ({"kind": "scsi", "rotational": True}, "ata-security-erase-enhanced", ("Purge", "Purge", "Purge")),
    ({"kind": "scsi", "rotational": False}, "ata-security-erase-enhanced", ("Purge", "Clear", "Purge")),
    ({"kind": "scsi"}, "ata-security-erase-enhanced", ("Purge", "Clear", "Purge")),
    ({"kind": "scsi"}, "ata-security-erase", ("Clear", "Clear", "Clear")),
])  # fmt: skip
def test_each_standard_has_its_own_word(found, name, words):
    facts = wipe_firmware.classes(wipe_firmware.TECHNIQUES[name], found)
    assert (facts["nist_800_88r2"], facts["nist_800_88r1"], facts["ieee_2883_2022"]) == words
    assert "no real drive" in facts["statement"] or "virtual" in facts["statement"]


def test_an_impossible_speed_is_a_failure():
    way = wipe_firmware.TECHNIQUES["nvme-sanitize-block"]
    trail = {"sent": {"accepted": "yes"}, "running": 3, "progress": [1, 2], "before": {"state": "idle"}, "seconds": 1.0}
    trail["final"] = {"state": "succeeded", "action": "block"}
    assert wipe_firmware.judge(way, trail, 1 << 40)["verdict"] == "yes"
    assert "implausible" in wipe_firmware.judge(way, trail, 8 << 40)["reasons"][0]


def test_the_devices_own_counters():
    page = bytearray(512)
    page[48:56] = (123).to_bytes(8, "little")
    assert wipe_transport.nvme_written(bytes(page))["bytes"] == 123 * 512000
    assert wipe_transport.nvme_written(b"\0" * 512) is None
    page = bytearray(512)
    page[2], page[24:30], page[31] = 1, (99).to_bytes(6, "little"), 0xC0
    assert wipe_transport.ata_written(bytes(page))["bytes"] == 99 * 512
    page[31] = 0x80
    assert wipe_transport.ata_written(bytes(page)) is None
    told = wipe_judge.judge_device_counter({"bytes": 0, "step": 512, "counter": "x"}, {"bytes": 4096, "step": 512, "counter": "x"}, 1 << 20)
    assert told["verdict"] == "unknown"
