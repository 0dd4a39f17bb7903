# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Virtual disks without a hypervisor: headers, extents, mappings of a thin pool, and what each is worth. Valid for Python 3.6."""

import hashlib
import os
import random
import struct

import pytest

from ansible_collections.sunset.crm.plugins.module_utils._volume import (
    chain as volume_chain,
    extents as volume_extents,
    judge as volume_judge,
    thin as volume_thin,
    users as volume_users,
)
from ansible_collections.sunset.crm.plugins.module_utils._wipe import plan as wipe_plan

MIB = 1 << 20


def image(path, backing="", form="qcow2", virtual=MIB, snapshots=0, version=3, data_file="", incompatible=0):
    """A qcow2 header as QEMU writes it, and nothing behind it."""
    extensions = b""
    for kind, value in ((0xE2792ACA, form if backing else ""), (0x44415441, data_file)):
        if value:
            raw = value.encode("ascii")
            extensions += struct.pack(">II", kind, len(raw)) + raw.ljust((len(raw) + 7) // 8 * 8, b"\0")
    extensions += struct.pack(">II", 0, 0)
    start = 104 if version >= 3 else 72
    name = backing.encode("utf-8")
    head = bytearray(start)
    head[:20] = struct.pack(">4sIQI", b"QFI\xfb", version, start + len(extensions) if backing else 0, len(name))
    head[24:32] = struct.pack(">Q", virtual)
    head[60:64] = struct.pack(">I", snapshots)
    if version >= 3:
        head[72:80] = struct.pack(">Q", incompatible)
        head[100:104] = struct.pack(">I", 104)
    path.write_bytes((bytes(head) + extensions + name).ljust(65536, b"\0"))
    return path


# --- chains


def test_a_chain_is_followed_to_its_base(tmp_path):
    base = tmp_path / "base.raw"
    base.write_bytes(b"x" * MIB)
    image(tmp_path / "middle", "base.raw", "raw", snapshots=2)
    image(tmp_path / "top", str(tmp_path / "middle"))
    chain = volume_chain.follow(str(tmp_path / "top"), "qcow2")
    assert [os.path.basename(layer["path"]) for layer in chain] == ["top", "middle", "base.raw"]
    assert [layer["format"] for layer in chain] == ["qcow2", "qcow2", "raw"]
    assert chain[1]["snapshots"] == 2 and chain[2]["virtual_bytes"] == MIB


def test_an_external_data_file_is_a_layer_of_its_own(tmp_path):
    (tmp_path / "data.raw").write_bytes(b"x" * MIB)
    image(tmp_path / "top", data_file="data.raw", incompatible=4)
    chain = volume_chain.follow(str(tmp_path / "top"), "qcow2")
    assert [os.path.basename(layer["path"]) for layer in chain] == ["top", "data.raw"]


def test_a_raw_disk_is_never_probed(tmp_path):
    """Its guest could have written the header of a qcow2 with the host's own files behind it."""
    (tmp_path / "secret").write_bytes(b"the host's")
    image(tmp_path / "disk", str(tmp_path / "secret"), "raw")
    chain = volume_chain.follow(str(tmp_path / "disk"), "raw")
    assert [os.path.basename(layer["path"]) for layer in chain] == ["disk"]


@pytest.mark.parametrize("backing", ["json:{}", "nbd://host/export", "rbd:pool/image", "https://host/image", "iscsi://host/1"])
def test_what_is_no_file_of_this_machine_is_named(tmp_path, backing):
    image(tmp_path / "top", backing)
    assert "which is no file of this machine" in volume_chain.look(str(tmp_path / "top"), "qcow2")["problem"]


@pytest.mark.parametrize(
    "make, word",
    [
        (lambda folder: image(folder / "top", "base", ""), "does not say the format"),
        (lambda folder: image(folder / "top", "base", "vmdk"), "format vmdk"),
        (lambda folder: image(folder / "top", "top"), "circle"),
        (lambda folder: image(folder / "top", incompatible=4), "does not name"),
        (lambda folder: (folder / "top").write_bytes(b"QFI"), "no qcow2"),
        (lambda folder: (folder / "top").mkdir(), "neither a file"),
    ],
)
def test_a_chain_that_cannot_all_be_told_has_a_problem_and_no_layers(tmp_path, make, word):
    (tmp_path / "base").write_bytes(b"x")
    make(tmp_path)
    seen = volume_chain.look(str(tmp_path / "top"), "qcow2")
    assert word in seen["problem"] and seen["chain"] == []


def test_the_identity_of_a_medium_is_that_of_all_its_layers():
    one = {"path": "/a", "format": "qcow2", "kind": "file", "inode": 1, "virtual_bytes": MIB, "bytes": 5, "device": "1:2"}
    other = dict(one, path="/b", inode=2)
    known = volume_chain.identity([one, other])
    assert known["size"] == MIB and known == volume_chain.identity([dict(one, bytes=6, device="7:7"), other])
    for change in (dict(one, inode=9), dict(one, path="/c"), dict(one, format="raw"), dict(one, virtual_bytes=MIB + 1)):
        assert volume_chain.identity([change, other])["serial"] != known["serial"]
    assert volume_chain.identity([other, one])["serial"] != known["serial"]
    assert volume_chain.identity([one])["serial"] != known["serial"]


def test_once_begun_only_what_lasts_is_compared():
    expected = {"path": "/a", "inode": 1, "virtual_bytes": MIB, "format": "qcow2"}
    found = {"path": "/a", "inode": 1, "bytes": 9}
    assert volume_chain.differences(expected, found) and not volume_chain.differences(expected, found, begun=True)
    assert volume_chain.differences(expected, dict(found, inode=2), begun=True)


# --- where a file lies


def test_a_hole_stays_a_hole_and_nothing_behind_the_end_is_written():
    rows = [(0, 1000000, 8192, 0), (8192, 1008192, 4096, 0x800), (65536, 5000000, 65536, 1)]
    assert volume_extents.parts(rows, 100000) == [(0, 12288), (65536, 100000)]
    assert volume_extents.beyond(rows, 100000) == 131072 - 100000
    assert volume_extents.places(rows) == [[0, 1000000, 12288], [65536, 5000000, 65536]]


def test_places_are_equal_whatever_became_of_the_flags_and_not_when_a_block_has_moved():
    before = [(0, 4096, 8192, 0x800), (8192, 12288, 4096, 1)]
    assert volume_extents.places(before) == volume_extents.places([(0, 4096, 12288, 1)])
    moved = volume_extents.places([(0, 4096, 8192, 0), (8192, 999424, 4096, 1)])
    assert volume_judge.in_place(volume_extents.places(before), moved)


@pytest.mark.parametrize("seed", range(20))
def test_parts_hold_exactly_the_allocated_bytes_of_the_file(seed):
    draw, rows, at = random.Random(seed), [], 0
    for _number in range(draw.randint(0, 12)):
        at += draw.choice([0, 4096, 40960])
        length = draw.randint(1, 9) * 4096
        rows.append((at, draw.randint(1, 999) * 4096, length, draw.choice([0, 0x800])))
        at += length
    size = draw.randint(0, at + 8192)
    draw.shuffle(rows)
    parts = volume_extents.parts(rows, size)
    wanted = {one for start, _place, length, _flags in rows for one in range(start, min(start + length, size), 512)}
    assert {one for start, end in parts for one in range(start, end, 512)} == wanted
    assert all(parts[n][1] < parts[n + 1][0] for n in range(len(parts) - 1))
    assert wipe_plan.Places(parts, MIB).total == sum(end - start for start, end in parts)


@pytest.mark.parametrize(
    "flag, word",
    [
        (0x2000, "shared with another file"),
        (0x8, "compressed"),
        (0x80, "encrypted"),
        (0x200, "within other structures"),
        (0x4, "no place"),
        (0x2, "does not tell"),
    ],
)
def test_extents_that_cannot_be_overwritten_where_they_lie(flag, word):
    (said,) = volume_extents.obstacles("ext4", False, [(0, 0, 4096, 0), (4096, 4096, 4096, flag)])
    assert word in said and "1 of its 2 extents" in said


@pytest.mark.parametrize(
    "kind, nocow, allowed",
    [("ext4", False, True), ("xfs", False, True), ("btrfs", True, True), ("btrfs", False, False), ("zfs", False, False), ("nfs", False, False),
     ("overlay", False, False), ("f2fs", False, False), ("tmpfs", False, False), ("fuse", False, False), ("0x1234", False, False), ("unknown", True, False)],
)  # fmt: skip
def test_only_file_systems_that_write_in_place_are_written_to(kind, nocow, allowed):
    assert (not volume_extents.obstacles(kind, nocow, [(0, 0, 4096, 1)])) == allowed


# --- volumes

DUMP = """<superblock uuid="" time="3" transaction="5" version="2" data_block_size="128" nr_data_blocks="640">
  <device dev_id="1" mapped_blocks="4" transaction="0" creation_time="0" snap_time="@SNAP@">
    <single_mapping origin_block="0" data_block="7" time="0"/>
    <range_mapping origin_begin="100" data_begin="20" length="3" time="0"/>
  </device>
  <device dev_id="2" mapped_blocks="2" transaction="1" creation_time="0" snap_time="0">
    <range_mapping origin_begin="0" data_begin="%d" length="2" time="0"/>
  </device>
</superblock>"""


@pytest.mark.parametrize("begin, shared", [(30, []), (21, [2]), (22, [2]), (19, [2]), (23, []), (18, []), (6, [2])])
def test_blocks_of_a_thin_volume_and_those_that_others_share(begin, shared):
    block, rows, others, once = volume_thin.mappings(DUMP.replace("@SNAP@", "0") % begin, 1)
    assert block == 65536 and others == shared and once == 0
    assert volume_thin.parts(rows, block, 1 << 40) == [(0, 65536), (100 * 65536, 103 * 65536)]
    assert volume_thin.parts(rows, block, 101 * 65536 + 512) == [(0, 65536), (100 * 65536, 101 * 65536 + 512)]


@pytest.mark.parametrize("snapshot, once", [("0", 0), ("1", 4)])
def test_blocks_that_a_removed_snapshot_has_shared_are_known_by_their_age(snapshot, once):
    """Seen on a real pool: the first write to them goes elsewhere, and the old block stays in the pool with the data."""
    assert volume_thin.mappings(DUMP.replace("@SNAP@", snapshot) % 30, 1)[3] == once


@pytest.mark.parametrize("text", ["", "<superblock/>", "not xml", DUMP.replace("@SNAP@", "0") % 1])
def test_what_thin_dump_does_not_say_is_an_error(text):
    with pytest.raises(volume_thin.ThinError):
        volume_thin.mappings(text, 9)


@pytest.mark.parametrize(
    "words, problem",
    [
        ("1 50/1024 100/640 - rw discard_passdown queue_if_no_space - 1024", None),
        ("1 50/1024 620/640 - rw discard_passdown queue_if_no_space - 1024", "96.9 % of its data"),
        ("1 1000/1024 100/640 - rw discard_passdown queue_if_no_space - 1024", "% of its metadata"),
        ("1 50/1024 640/640 - out_of_data_space discard_passdown queue_if_no_space - 1024", "out_of_data_space"),
        ("1 50/1024 100/640 - ro discard_passdown", "its pool is ro"),
    ],
)
def test_a_pool_near_its_end_gets_nothing_more(words, problem):
    found = volume_thin.pool_problem(volume_thin.pool_state(words.split()))
    assert found is None if problem is None else problem in found


def test_a_pool_that_does_not_tell_is_an_error():
    for words in ("Fail", "1 x/y 1/2 - rw", "1 1/0 1/0 - rw"):
        with pytest.raises(volume_thin.ThinError):
            volume_thin.pool_state(words.split())


@pytest.mark.parametrize(
    "targets, word",
    [
        (["linear", "linear"], ""), (["raid"], ""), (["thin"], ""), (["striped"], ""), ([], "nothing of it"), (["snapshot-origin"], "copied into them"),
        (["snapshot"], "a snapshot itself"), (["cache"], "uncache"), (["linear", "vdo"], "VDO"), (["crypt"], "encrypted"), (["zero"], "nothing is known"),
    ],
)  # fmt: skip
def test_volumes_that_would_keep_what_is_overwritten_are_refused(targets, word):
    said = volume_thin.obstacles(targets)
    assert not said if not word else word in said[0]


# --- who uses it


DOMAIN = "<domain><name>%s</name><devices><disk type='%s'><source %s='%s'/></disk></devices></domain>"


def test_a_guest_that_is_not_retired_keeps_a_layer_from_being_wiped(tmp_path):
    base = tmp_path / "base.qcow2"
    base.write_bytes(b"x")
    keys = {volume_users.key_of(str(base)): str(base)}
    (tmp_path / "link").symlink_to(base)
    (tmp_path / "wiki.xml").write_text(DOMAIN % ("wiki", "file", "file", tmp_path / "link"))
    (tmp_path / "db1.xml").write_text(DOMAIN % ("db1", "file", "file", base))
    (tmp_path / "run.xml").write_text("<domstatus>%s</domstatus>" % (DOMAIN % ("shop", "volume", "volume", "base.qcow2")))
    patterns = [str(tmp_path / "*.xml")]
    found = volume_users.defined(keys, ["db1", "shop"], patterns)
    assert found == ["%s is a layer of a disk of the guest wiki, which is not retired with it" % base]
    assert "may be a disk of the guest shop" in " ".join(volume_users.defined(keys, ["db1", "wiki"], patterns))
    assert volume_users.defined(keys, ["db1", "wiki", "shop"], patterns) == []
    (tmp_path / "torn.xml").write_text("<domain>")
    assert "cannot be read" in volume_users.defined(keys, ["db1", "wiki", "shop"], patterns)[0]


def test_a_guest_whose_disk_stands_on_a_layer_is_found_wherever_its_own_file_lies(tmp_path):
    (tmp_path / "far").mkdir()
    base = image(tmp_path / "base")
    top = image(tmp_path / "far" / "top", str(base))
    keys = {volume_users.key_of(str(base)): str(base)}
    text = (DOMAIN % ("wiki", "file", "file", top)).replace("<source", "<driver name='qemu' type='qcow2'/><source")
    (tmp_path / "wiki.xml").write_text(text)
    assert "a layer of a disk of the guest wiki" in volume_users.defined(keys, [], [str(tmp_path / "*.xml")])[0]


def test_what_the_kernel_exports_is_found(tmp_path):
    layer = tmp_path / "a"
    layer.write_bytes(b"x")
    (tmp_path / "udev_path").write_text("%s\n" % layer)
    keys = {volume_users.key_of(str(layer)): str(layer)}
    assert "is exported to others" in volume_users.exported(keys, str(tmp_path / "udev_path"))[0]


def test_saved_memory_of_a_guest_is_found(tmp_path):
    (tmp_path / "db1.save").write_bytes(b"")
    assert "memory of the guest db1" in volume_users.saved(["db1", "db2"], str(tmp_path))[0]
    assert volume_users.saved(["db2"], str(tmp_path)) == []


def test_an_image_in_a_pool_of_its_own_that_stands_on_a_layer_is_found(tmp_path):
    for name in ("mine", "pool", "storage"):
        (tmp_path / name).mkdir()
    base = image(tmp_path / "mine" / "base")
    other = image(tmp_path / "pool" / "other", str(base))
    (tmp_path / "storage" / "p.xml").write_text("<pool><target><path>%s</path></target></pool>" % (tmp_path / "pool"))
    folders = volume_users.folders_of([str(base)], str(tmp_path / "storage" / "*.xml"), str(tmp_path / "none"))
    assert folders == [str(tmp_path / "mine"), str(tmp_path / "pool")]
    keys = {volume_users.key_of(str(base)): str(base)}
    assert "stands on" in volume_users.standing_on(keys, [], folders)[0]
    assert volume_users.standing_on(keys, [str(other)], folders) == []


def test_a_descriptor_of_another_process_is_found_and_our_own_is_not(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"x")
    keys = {volume_users.key_of(str(path)): str(path)}
    with path.open("rb"):
        assert any("opened by the process" in line for line in volume_users.descriptors(keys, ()))
        assert not any(str(path) in line for line in volume_users.descriptors(keys, (os.getpid(),)))


# --- what it is worth


def test_each_layer_has_a_key_that_stock_tools_can_derive():
    key = bytes(range(32))
    assert volume_judge.layer_key(key, 0) == key
    # printf %s KEY:1 | sha256sum
    assert volume_judge.layer_key(key, 1).hex() == hashlib.sha256((key.hex() + ":1").encode()).hexdigest()


def good(**more):
    return dict({"path": "/a", "moved": [], "error_ranges": []}, **more)


def counted(verdict="yes"):
    return {"verdict": verdict, "why": "w"}


YES = {"reasons": []}


@pytest.mark.parametrize(
    "layers, verification, written, differences, word",
    [
        ([good()], YES, "yes", [], "sanitised"),
        ([good(), good(moved=["elsewhere"])], YES, "yes", [], "failed"),
        ([good()], {"reasons": ["3 places"]}, "yes", [], "failed"),
        ([good()], YES, "no", [], "failed"),
        ([good()], YES, "unknown", [], "sanitised_with_exceptions"),
        ([good()], YES, "yes", ["another file"], "failed"),
        ([good(error_ranges=[[0, 4096]])], YES, "yes", [], "sanitised_with_exceptions"),
    ],
)
def test_one_piece_of_evidence_against_it_is_enough(layers, verification, written, differences, word):
    accounting = {"written": counted(written), "read": counted()}
    assert volume_judge.outcome(layers, verification, accounting, differences)[0] == word


def test_the_class_is_never_more_than_logical():
    words = volume_judge.classes(["and this"])
    assert {words[name] for name in ("called", "nist_800_88r2", "nist_800_88r1", "ieee_2883_2022")} == {"logical sanitisation"}
    assert "and this" in words["statement"] and "Purge" not in str(words) and "Clear" not in str(words)


@pytest.mark.parametrize(
    "policy, allowed",
    [
        ({"asked": "clear"}, True),
        ({}, True),
        ({"asked": "clear", "logical": "no"}, False),
        ({"asked": "purge"}, False),
        ({"asked": "purge", "logical": "yes"}, True),
    ],
)
def test_what_is_asked_for_decides_whether_logical_will_do(policy, allowed):
    found = volume_judge.decision(policy)
    assert (not found["reasons"], found["order"] is None) == (allowed, allowed)
    assert found["decision"]["reachable"] == "logical"


def test_no_layers_are_no_verification():
    assert volume_judge.together([])["verdict"] == "no"


@pytest.mark.parametrize("moved, wanted, verdict", [(10, 10, "yes"), (9, 10, "no"), (None, 10, "unknown")])
def test_what_the_kernel_counted(moved, wanted, verdict):
    assert volume_judge.counted("write", moved, wanted)["verdict"] == verdict
