# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The decisions about devices and wipes, without a device. Valid for Python 3.6."""

import struct

import pytest

from ansible_collections.sunset.crm.plugins.module_utils._disk import device as disk_device
from ansible_collections.sunset.crm.plugins.module_utils._wipe import judge as wipe_judge

DISK = {
    "found": "yes",
    "kind": "scsi",
    "serial": "S1",
    "wwid": "naa.5",
    "model": "M",
    "size": 1 << 30,
    "read_only": False,
    "number": "8:16",
    "unknown": [],
    "inode": None,
    "backing_file": None,
    "offset": None,
}
WANTED = {"kind": "scsi", "serial": "S1", "size": 1 << 30}
ROOT = {"verdict": "yes", "numbers": ["254:0"], "names": ["vda"], "why": ""}


def refusals(found=None, wanted=None, held=(), root=ROOT, protected=(), waiver=False):
    return wipe_judge.refusals(WANTED if wanted is None else wanted, dict(DISK, **(found or {})), held, root, protected, waiver)


def test_the_planned_free_disk_may_be_wiped():
    assert refusals() == []


@pytest.mark.parametrize(
    "change,word",
    [
        (dict(found={"serial": "S2"}), "serial: expected 'S1', found 'S2'"),
        (dict(found={"size": (1 << 30) - 512}), "size: expected"),
        (dict(found={"kind": "nvme"}), "kind: expected 'scsi', found 'nvme'"),
        (dict(found={"serial": None, "unknown": ["serial"]}), "found unknown"),
        (dict(found={"serial": None}), "found none"),
        (dict(found={"size": 0}), "size is 0"),
        (dict(found={"size": None, "unknown": ["size"]}), "0 or unknown"),
        (dict(found={"read_only": True}), "read-only"),
        (dict(found={"read_only": None}), "not known to be writable"),
        (dict(found={"kind": "partition"}, wanted={"serial": "S1", "size": 1 << 30}), "it is a partition"),
        (dict(found={"kind": "dm"}, wanted={"serial": "S1", "size": 1 << 30}), "it is a dm"),
        (dict(found={"found": "no", "why": "x is not a block device"}), "not a block device"),
        (dict(found={"found": "unknown", "why": "Operation not permitted"}), "not permitted"),
        (dict(found={"number": "254:0"}), "running system"),
        (dict(held=["mounts: /srv (ext4)"]), "in use: mounts"),
        (dict(protected=[{"serial": "S1"}]), "protected disks"),
        (dict(wanted={}), "identity is none"),
        (dict(wanted={"size": 1 << 30, "model": "M"}), "identity is weak"),
        (dict(wanted={"serial": "S1"}), "identity is weak"),
        (dict(wanted={"serial": "S1", "size": 1 << 30, "colour": "red"}), "cannot be compared"),
    ],
)
def test_each_reason_alone_refuses(change, word):
    reasons = refusals(**change)
    assert [line for line in reasons if word in line], reasons


def test_a_waiver_replaces_a_missing_identity_but_not_a_wrong_one():
    assert refusals(wanted={"size": 1 << 30}, waiver=True) == []
    assert refusals(wanted={"size": 512}, waiver=True)
    assert refusals(wanted={}, held=["swap: /dev/sdb"], waiver=True)


def test_a_protected_disk_without_strong_identity_protects_nothing_by_chance():
    assert refusals(protected=[{}, {"model": "M"}, {"serial": "other"}]) == []


def test_backing_file_may_match_the_name_given_to_losetup():
    found = {"found": "yes", "backing_file": "/merged/a.img", "loop_name": "/srv/a.img", "unknown": []}
    assert disk_device.compare_identity({"backing_file": "/srv/a.img"}, found) == []
    assert disk_device.compare_identity({"backing_file": "/srv/b.img"}, found)


def test_labels_and_paths_are_not_compared():
    assert disk_device.compare_identity({"label": "pgdata", "path": "/dev/sdx", "serial": "S1"}, DISK) == []


def held(**changed):
    parts = dict.fromkeys(("mounts", "swap", "stacked", "loops", "descriptors", "exclusive"))
    for key in parts:
        parts[key] = {"verdict": changed.get(key, "no"), "found": ["x"] if changed.get(key) == "yes" else [], "why": ""}
    return disk_device.blocking_holders(parts)


@pytest.mark.parametrize("key", ["mounts", "swap", "stacked", "loops", "descriptors", "exclusive"])
def test_every_kind_of_holder_blocks(key):
    assert held(**{key: "yes"})


def test_an_unknown_blocks_unless_the_exclusive_open_covers_it():
    assert held() == []
    assert held(mounts="unknown") == [] and held(stacked="unknown") == [] and held(swap="unknown") == []
    assert held(descriptors="unknown") and held(loops="unknown") and held(exclusive="unknown")
    assert held(mounts="unknown", exclusive="unknown")


def test_loop_info_is_read_as_the_kernel_lays_it_out():
    raw = struct.pack("=5Q4I64s64s32s2Q", 0xFE00, 4711, 0, 512, 0, 3, 0, 0, 0, b"/srv/a.img", b"", b"", 0, 0)
    facts = disk_device.parse_loop_info(raw)
    assert facts == {"backing_device": "254:0", "inode": 4711, "offset": 512, "sizelimit": 0, "loop_name": "/srv/a.img"}


@pytest.mark.parametrize("path,stem", [("/a/pgdata.img", "pgdata"), ("/a/x", "x"), ("/a/.img", ".img"), ("/a/b.c.d", "b.c")])
def test_stem(path, stem):
    assert disk_device.stem(path) == stem


def test_mountinfo_with_optional_fields():
    text = "36 35 98:0 /sub /mnt\\040x rw,noatime shared:1 master:2 - ext3 /dev/root rw\nshort\n"
    assert disk_device.parse_mountinfo(text) == [("98:0", "/sub", "/mnt\\040x", "ext3")]


# --- verification --------------------------------------------------------------------------------------------------------

SIZE = 1 << 20
CANARIES = [0, 8192, SIZE - 4096]


def judged(mismatched=CANARIES, unreadable=(), errors=(), read=SIZE, canaries=CANARIES):
    return wipe_judge.judge_verification(canaries, mismatched, unreadable, errors, SIZE, read)


def test_exactly_the_canaries_is_verified():
    facts = judged()
    assert facts["verdict"] == "yes" and facts["canaries_found"] == 3 and facts["mismatches"] == 0


def test_a_verifier_that_finds_nothing_is_no_verifier():
    assert judged(mismatched=[])["verdict"] == "no"
    assert judged(mismatched=CANARIES[:2])["verdict"] == "no"
    assert judged(mismatched=[], canaries=[])["verdict"] == "no"


def test_one_more_difference_is_a_failure():
    facts = judged(mismatched=CANARIES + [40960])
    assert facts["verdict"] == "no" and facts["mismatch_ranges"] == [[40960, 45056]]


def test_less_than_everything_read_is_a_failure():
    assert judged(read=SIZE - 512)["verdict"] == "no"


def test_bad_places_are_exceptions_not_differences():
    facts = judged(mismatched=CANARIES + [40960], errors=[40960], unreadable=[49152], read=SIZE - 4096)
    assert facts["verdict"] == "yes" and facts["error_ranges"] == [[40960, 45056], [49152, 53248]]


def test_ranges_join_neighbours_and_end_at_the_device():
    assert wipe_judge.unit_ranges([4096, 0, 12288], 12800) == [[0, 8192], [12288, 12800]]


@pytest.mark.parametrize(
    "before,after,same,verdict",
    [(0, 2048, True, "yes"), (100, 2147, True, "no"), (None, 5, True, "unknown"), (9, 3, True, "unknown"), (0, 9999, False, "unknown")],
)
def test_accounting(before, after, same, verdict):
    assert wipe_judge.judge_accounting(before, after, SIZE, same)["verdict"] == verdict


def test_stat_is_read_by_position():
    assert wipe_judge.parse_stat("  1 2 3 4 5 6 7 8 9 10 11") == (3, 7)
    assert wipe_judge.parse_stat(None) == (None, None)


YES = {"verdict": "yes", "reasons": [], "why": ""}
NO = {"verdict": "no", "reasons": ["bad"], "why": "bad"}
UNKNOWN = {"verdict": "unknown", "reasons": [], "why": "restart"}


@pytest.mark.parametrize(
    "first,second,written,read,differences,errors,word",
    [
        (YES, YES, YES, YES, [], [], "sanitised"),
        (NO, YES, YES, YES, [], [], "failed"),
        (YES, NO, YES, YES, [], [], "failed"),
        (YES, YES, NO, YES, [], [], "failed"),
        (YES, YES, YES, NO, [], [], "failed"),
        (YES, YES, YES, YES, ["serial: other"], [], "failed"),
        (YES, YES, UNKNOWN, YES, [], [], "sanitised_with_exceptions"),
        (YES, YES, YES, YES, [], [[0, 4096]], "sanitised_with_exceptions"),
        (UNKNOWN, YES, YES, YES, [], [], "failed"),
    ],
)
def test_outcome(first, second, written, read, differences, errors, word):
    found, reasons, exceptions = wipe_judge.outcome(first, second, {"written": written, "read": read}, differences, errors)
    assert found == word
    assert bool(reasons) == (word == "failed")
    assert word != "sanitised" or not exceptions


@pytest.mark.parametrize(
    "kind,called", [("loop", "logical sanitisation"), ("virtio", "logical sanitisation"), (None, "logical sanitisation")]
)
def test_virtual_media_never_get_a_class_of_media(kind, called):
    facts = wipe_judge.classes(kind)
    assert facts["called"] == called
    assert {facts[key] for key in ("nist_800_88r2", "nist_800_88r1", "ieee_2883_2022")} == {called}


def test_a_disk_is_cleared_and_never_purged():
    assert wipe_judge.classes("scsi")["nist_800_88r2"] == "Clear"
    assert "purge" not in str(wipe_judge.classes("nvme")).lower()
