# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Revert of a self-encrypting drive: against a drive made of Python that can lie, and the secret of its label. Valid for Python 3.6."""

import errno
import os
import sys

import pytest

from ansible_collections.sunset.crm.plugins.module_utils._wipe import (
    firmware as wipe_firmware,
    purge as wipe_purge,
    tcg as wipe_tcg,
    transport as wipe_transport,
)

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from test_wipe_purge import PSID, FilePurge, bench  # noqa: F401

OWNED = 0x0B  # locking supported, enabled, media encryption
LOCKED = 0x0F
SHADOW = 0x1B  # and the shadow MBR switched on, not done


def job(bench, drive, kind=FilePurge, scsi=False, **spec):  # noqa: F811
    found = bench("tcg-revert", drive, kind, **spec)
    if scsi:
        drive.scsi_only = True
        type(found).kind = "scsi"
    return found


def joined(result):
    return "; ".join(result["reasons"])


@pytest.mark.parametrize("scsi", [False, True])
def test_an_owned_drive_is_reverted_and_the_evidence_says_what_it_rests_on(bench, scsi):  # noqa: F811
    drive = bench.drive()
    drive.tcg.update(locking=OWNED, sid=1)
    result = job(bench, drive, scsi=scsi).run()
    assert result["outcome"] == "sanitised", result["reasons"]
    assert drive.commands == ["revert"] and result["firmware"]["opened"] is None
    trail = result["firmware"]["trail"]
    assert (trail["before"]["state"], trail["final"]["state"], trail["final"]["facts"]["owned"]) == ("locked", "idle", "no")
    assert result["firmware"]["probe"]["facts"]["discovery"]["media_encryption"] == "yes"
    words = result["classes"]
    assert (words["nist_800_88r2"], words["nist_800_88r1"]) == ("Purge", "Purge")
    assert "no real drive" in words["statement"] and "all that was ever written had been encrypted" in words["statement"]


@pytest.mark.parametrize("scsi", [False, True])
@pytest.mark.parametrize("locking", [LOCKED, SHADOW])
def test_a_drive_that_hides_its_data_is_opened_first_and_then_put_to_the_test(bench, locking, scsi):  # noqa: F811
    drive = bench.drive()
    drive.tcg.update(locking=locking, sid=1)
    result = job(bench, drive, scsi=scsi).run()
    assert result["outcome"] == "sanitised", result["reasons"]
    assert drive.commands == ["revert", "revert"]  # once to open it, once over keyed blocks
    assert result["firmware"]["opened"]["before"]["state"] == "locked" and result["firmware"]["opened"]["final"]["state"] == "idle"
    assert result["verification"]["marks_before"] > 900


@pytest.mark.parametrize(
    "lie,locking,word",
    [
        ("nothing", OWNED, "keyed blocks are still there"),
        ("part", OWNED, "keyed blocks are still there"),
        ("still locked", OWNED, "its log ends as locked, expected idle"),
        ("refuses", OWNED, "did not take the command: the drive answers TCG status 0x3f"),
        ("fails", OWNED, "did not take the command: the drive answers TCG status 0x04"),
        ("still locked", LOCKED, "hides its data and was not opened: it took the command and is as before"),
        ("refuses", SHADOW, "hides its data and was not opened: the drive answers TCG status 0x3f"),
    ],
)
def test_a_drive_that_lies_or_refuses_is_found_out(bench, lie, locking, word):  # noqa: F811
    drive = bench.drive(lie)
    drive.tcg.update(locking=locking, sid=1)
    result = job(bench, drive).run()
    assert result["outcome"] == "failed" and word in joined(result), result["reasons"]


def test_a_wrong_number_is_tried_once_and_never_again_by_itself(bench):  # noqa: F811
    """Drives lock the authority out after a few tries."""
    drive = bench.drive()
    drive.psid = b"Z" * 32
    result = job(bench, drive).run()
    assert result["outcome"] == "failed" and "it is not the PSID of this drive" in joined(result)
    assert drive.tries == 1
    drive.tries = 5
    assert "take the drive's power away" in joined(job(bench, drive).run())


@pytest.mark.parametrize(
    "features,word",
    [
        ({"ssc": 0x0303, "locking": 0x01}, "Pyrite"),
        ({"locking": 0x01}, "says that it does not encrypt its media"),
        ({"ssc": 0x0100}, "Linux reverts Opal drives only, this one is enterprise"),
        ({"ssc": 0x0304}, "Linux reverts Opal drives only, this one is ruby"),
        ({}, "not known whether the drive knows"),
    ],
)
def test_what_would_be_no_cryptographic_erase_is_refused(bench, features, word):  # noqa: F811
    drive, before = bench.drive(), bench.medium.read_bytes()
    if features:
        drive.tcg.update(features)
    else:
        drive.tcg = None
    result = job(bench, drive).run()
    assert result["outcome"] == "refused" and word in joined(result), result["reasons"]
    assert drive.commands == [] and bench.medium.read_bytes() == before


@pytest.mark.parametrize(
    "number,word",
    [
        (errno.ENOTTY, "the kernel has no SED-OPAL (CONFIG_BLK_SED_OPAL)"),
        (524, "libata.allow_tpm=1"),
        (errno.EOPNOTSUPP, "does not know this drive as Opal"),
        (errno.EACCES, "only root"),
    ],
)
def test_what_the_kernel_lacks_is_named(bench, number, word):  # noqa: F811
    drive, before = bench.drive(), bench.medium.read_bytes()
    drive.sed = number
    result = job(bench, drive).run()
    assert result["outcome"] == "refused" and word in joined(result), result["reasons"]
    assert bench.medium.read_bytes() == before


def test_a_second_namespace_would_lose_its_keys_too(bench):  # noqa: F811
    drive = bench.drive(namespaces=(1, 2))
    result = job(bench, drive).run()
    assert result["outcome"] == "refused" and "every namespace of the drive (1, 2)" in joined(result) and drive.commands == []


# --- the secret ---


def test_the_number_gets_into_nothing_that_is_written_or_said(bench, capfd, monkeypatch):  # noqa: F811
    drive, seen = bench.drive(), []
    drive.tcg.update(locking=LOCKED, sid=1)
    real = drive.ioctl
    keys = []

    def watched(fd, request, argument=None, mutate=False):
        answer = real(fd, request, argument, mutate)
        if request == wipe_tcg.PSID_REVERT and argument:
            keys.append(argument)
        return answer

    monkeypatch.setattr(drive, "ioctl", watched)
    result = job(bench, drive).run()
    assert result["outcome"] == "sanitised" and len(keys) == 2
    for root, _folders, files in os.walk(str(bench.folder)):
        for name in files:
            with open(os.path.join(root, name), "rb") as handle:
                seen.append(handle.read())
    told = "".join(capfd.readouterr()) + repr(result) + repr(vars(type(result))) + "".join(repr(data) for data in seen)
    assert seen and PSID not in told and PSID.lower() not in told.lower()
    assert all(not any(key) for key in keys)  # and not in memory any longer than it takes


@pytest.mark.parametrize(
    "spoil,word",
    [
        (lambda path: path.chmod(0o640), "must be a plain file of mode 0600"),
        (lambda path: path.write_text("SHORT"), "holds 5 characters; expected the 32"),
        (lambda path: path.write_text(PSID.lower()), "holds 32 characters; expected the 32 capital letters"),
        (lambda path: path.unlink(), "write the PSID from the drive's label into it"),
        (lambda path: (path.rename(str(path) + ".x"), path.symlink_to(str(path) + ".x")), "cannot be opened"),
        (lambda path: (path.unlink(), path.mkdir()), "must be a plain file"),
    ],
)
def test_a_number_that_others_can_read_or_that_is_none_is_not_used(bench, spoil, word):  # noqa: F811
    path = bench.folder.parent / "psid" / "S123"
    spoil(path)
    drive = bench.drive()
    result = job(bench, drive).run()
    assert result["outcome"] == "refused" and word in joined(result), result["reasons"]
    assert drive.commands == [] and PSID not in joined(result) and PSID.lower() not in joined(result)
    assert wipe_tcg.credential("S123", str(path.parent)) == "no"


def test_the_file_is_the_drives_and_never_leaves_its_folder(tmp_path):
    assert wipe_tcg.file_of("/x", "../../etc/passwd") == "/x/.._.._etc_passwd"
    for nameless in (None, "", "  ", ".."):
        assert wipe_tcg.psid(str(tmp_path), nameless)[0] is None
    (tmp_path / "A B").write_text(PSID)
    assert "there is no" in wipe_tcg.psid(str(tmp_path), "A B")[1]


# --- decoding ---


def test_ownership_is_told_by_some_drives_alone():
    drive = __import__("fake_drive").FakeDrive("/nowhere")
    drive.tcg.update(locking=0x09, sid=None)
    facts = wipe_tcg.level0(drive.discovery())
    assert (facts["owned"], wipe_tcg.state(facts)) == ("unknown", "idle")
    drive.tcg.update(sid=1)
    assert wipe_tcg.state(wipe_tcg.level0(drive.discovery())) == "locked"
    assert wipe_tcg.state({}) == "unknown" and not wipe_tcg.hidden({})
    for at in range(0, len(drive.discovery()), 7):
        wipe_tcg.level0(drive.discovery()[:at])  # a torn answer is no error


def test_the_ioctl_is_the_kernels():
    """As <linux/sed-opal.h> has it: _IOW('p', 232, struct opal_key), 264 bytes."""
    assert (wipe_tcg.PSID_REVERT, wipe_tcg.OPAL_KEY.size) == (0x410870E8, 264)
    key = wipe_tcg.opal_key(bytearray(PSID.encode("ascii")))
    assert (key[0], key[1], bytes(key[2:8]), bytes(key[8:40])) == (0, 32, b"\0" * 6, PSID.encode("ascii"))


def test_the_real_kernel_is_asked_without_a_key(tmp_path):
    """A plain file takes no such command: the answer is a refusal with its reason, by the real ioctl."""
    path = tmp_path / "plain"
    path.write_bytes(b"x")
    with open(str(path), "rb") as handle:
        answer = wipe_transport.Link(handle.fileno()).opal_known()
        assert not answer.ok and answer.more["known"] == "no" and "ENOTTY" in answer.why
        way = wipe_firmware.TECHNIQUES["tcg-revert"]
        reasons, _probe = wipe_firmware.obstacles(way, wipe_transport.Link(handle.fileno()), {"kind": "scsi", "serial": "S1"})
    assert any("SED-OPAL" in reason for reason in reasons)


def test_before_a_job_is_started_the_same_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "plain"
    path.write_bytes(b"x")
    reasons = wipe_purge.refusals(str(path), "tcg-revert", {"kind": "nvme", "serial": "S1"}, str(tmp_path))
    assert any("its PSID is not here" in reason for reason in reasons) and any("SED-OPAL" in reason for reason in reasons)
