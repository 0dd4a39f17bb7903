# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Logical volumes as virtual disks, overwritten for real in an emulated machine: plain, thin, with snapshots, on a pool that runs full.
What lies on the disk below is looked at afterwards. Takes minutes; not part of the stages that run on every change (C(scripts/test full))."""

from __future__ import annotations

from typing import Any

import pytest

from tests.guest import guest

Facts = dict[str, Any]
PROGRAM = r"""
import shutil, threading, traceback
from ansible_collections.sunset.crm.plugins.module_utils._volume import chain as volume_chain, engine as volume_engine, layer as volume_layer, look as volume_look, thin as volume_thin
MIB, KEY = 1 << 20, "0123456789abcdef" * 4
found = {}
os.makedirs("/etc/lvm", exist_ok=True)
with open("/etc/lvm/lvm.conf", "w") as stream:
    stream.write("activation { udev_sync=0 udev_rules=0 verify_udev_operations=1 thin_pool_autoextend_threshold=100 }\ndevices { obtain_device_list_from_udev=0 }\n")
run("/sbin/pvcreate", "-ff", "-y", "/dev/nvme0n1", "/dev/sda", "/dev/vda")
run("/sbin/vgcreate", "-s", "1M", "vg", "/dev/nvme0n1", "/dev/sda", "/dev/vda")

def lv(*argv):
    # Of a pool no signatures are wiped, of a thin volume nothing is zeroed: lvcreate refuses the option.
    options = ["-Zn"] if "thin-pool" in argv else (["-Wn"] if "-V" in argv else ["-Zn", "-Wn"])
    done = run("/sbin/lvcreate", "-y", *(options + list(argv)))
    assert done.returncode == 0, (argv, done.stdout)

def plant(path, word, mib, at=0):
    text = (word.encode() * (MIB // len(word) + 1))[:MIB]
    with open(path, "r+b") as stream:
        stream.seek(at * MIB)
        for _number in range(mib):
            stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())

def left(word):
    # On the disks below, whatever the volumes show.
    count = 0
    run("/bin/busybox", "sh", "-c", "echo 3 >/proc/sys/vm/drop_caches")
    for disk in ("/dev/nvme0n1", "/dev/sda", "/dev/vda"):
        with open(disk, "rb") as stream:
            while True:
                block = stream.read(4 * MIB)
                if not block:
                    break
                count += block.count(word.encode())
    return count

def spec(path, **more):
    layers = [volume_chain.told(layer) for layer in volume_chain.follow(path, "raw")]
    return dict({"layers": layers, "identity": volume_chain.identity(layers), "key": KEY}, **more)

def wipe(path, folder, kind=volume_engine.VolumeWipe, **more):
    os.makedirs(folder, exist_ok=True)
    try:
        result = kind(spec(path, **more), folder).run()
    except Exception:
        return {"outcome": "error", "reasons": [traceback.format_exc()], "layers": []}
    kept = {name: result.get(name) for name in ("outcome", "reasons", "exceptions")}
    kept["layers"] = [{name: row[name] for name in ("kind", "allocated", "in_place", "pools", "ranges")} for row in result.get("layers") or []]
    kept["verified"] = (result.get("verification") or {}).get("bytes_read")
    kept["holds"] = not volume_look.sample(result, bytes.fromhex(KEY))[0] if result.get("layers") else None
    return kept

def pool():
    return volume_thin.pool_of("vg-pool-tpool")["used"]

try:
    # a plain volume
    lv("-L", "6M", "-n", "plain", "vg")
    plant("/dev/mapper/vg-plain", "PLAINMARK,", 6)
    found["plain_before"] = left("PLAINMARK,")
    found["plain_check"] = volume_layer.refusals(spec("/dev/mapper/vg-plain"), False)
    found["plain"] = wipe("/dev/mapper/vg-plain", "/tmp/plain")
    found["plain_after"] = left("PLAINMARK,")

    # one that is mounted, and one with a snapshot
    lv("-L", "8M", "-n", "used", "vg")
    run("/sbin/mke2fs", "-q", "/dev/mapper/vg-used")
    os.makedirs("/mnt/used", exist_ok=True)
    run("/bin/busybox", "mount", "-t", "ext4", "/dev/mapper/vg-used", "/mnt/used")
    found["mounted"] = wipe("/dev/mapper/vg-used", "/tmp/mounted")
    run("/bin/busybox", "umount", "/mnt/used")
    found["snapshot_made"] = run("/sbin/lvcreate", "-y", "-s", "-L", "2M", "-n", "snap", "vg/used").returncode
    found["origin"] = wipe("/dev/mapper/vg-used", "/tmp/origin")
    found["snapshot"] = wipe("/dev/mapper/vg-snap", "/tmp/snap")
    run("/sbin/lvremove", "-y", "vg/snap")
    run("/sbin/lvremove", "-y", "vg/used")

    # thin volumes: db has 5 MiB of the pool, other has 3
    lv("--type", "thin-pool", "-L", "40M", "--poolmetadatasize", "2M", "--chunksize", "64k", "-n", "pool", "vg")
    lv("-V", "256M", "--thinpool", "vg/pool", "-n", "db")
    lv("-V", "64M", "--thinpool", "vg/pool", "-n", "other")
    plant("/dev/mapper/vg-db", "DBMARK,", 3)
    plant("/dev/mapper/vg-db", "DBMARK,", 2, at=200)
    plant("/dev/mapper/vg-other", "OTHERMARK,", 3)
    found["thin_kind"] = [layer["kind"] for layer in volume_chain.follow("/dev/mapper/vg-db", "raw")]
    found["used_before"], found["db_before"], found["other_before"] = pool(), left("DBMARK,"), left("OTHERMARK,")

    # a snapshot shares its blocks, and for the kernel it does when it is gone, too
    lv("-V", "16M", "--thinpool", "vg/pool", "-n", "old")
    plant("/dev/mapper/vg-old", "OLDMARK,", 1)
    run("/sbin/lvcreate", "-y", "-s", "-kn", "-n", "oldsnap", "vg/old")
    found["thin_shared"] = wipe("/dev/mapper/vg-old", "/tmp/shared")
    run("/sbin/lvremove", "-y", "vg/oldsnap")
    found["thin_once"] = wipe("/dev/mapper/vg-old", "/tmp/once")
    run("/sbin/lvremove", "-y", "vg/old")
    # the pool is beyond its limit before anything is written
    found["thin_full"] = wipe("/dev/mapper/vg-db", "/tmp/full", pool_limit=10)
    found["db_untouched"] = left("DBMARK,") == found["db_before"]

    # somebody else fills the pool meanwhile
    class Filled(volume_engine.VolumeWipe):
        def write(self, layer, state):
            plant("/dev/mapper/vg-other", "OTHERMARK,", 10, at=10)
            self._pool_looked = 0
            volume_engine.VolumeWipe.write(self, layer, state)
    found["thin_filled"] = wipe("/dev/mapper/vg-db", "/tmp/thin", Filled, pool_limit=35)
    found["used_filled"] = pool()

    # and the same job goes on with room
    found["thin"] = wipe("/dev/mapper/vg-db", "/tmp/thin", pool_limit=90)
    found["used_after"], found["db_after"], found["other_after"] = pool(), left("DBMARK,"), left("OTHERMARK,")
    found["held"] = volume_thin.Volume("/dev/mapper/vg-db")._held()

    # a killed question to the pool leaves its snapshot held; the next one releases it
    run("/sbin/dmsetup", "message", "vg-pool-tpool", "0", "reserve_metadata_snap")
    found["held_by_another"] = wipe("/dev/mapper/vg-db", "/tmp/held")
    open("/run/sunset-thin-vg-pool-tpool", "w").close()
    found["held_by_us"] = wipe("/dev/mapper/vg-db", "/tmp/held")

    # a file whose blocks the pool has not given yet: writing it would fill the pool
    lv("-V", "256M", "--thinpool", "vg/pool", "-n", "fs")
    run("/sbin/mke2fs", "-q", "-t", "ext4", "-E", "nodiscard,lazy_itable_init=1", "/dev/mapper/vg-fs")
    os.makedirs("/mnt/fs", exist_ok=True)
    run("/bin/busybox", "mount", "-t", "ext4", "/dev/mapper/vg-fs", "/mnt/fs")
    with open("/mnt/fs/small.raw", "wb") as stream:
        stream.write(b"FILEMARK," * 100000)
    fd = os.open("/mnt/fs/large.raw", os.O_RDWR | os.O_CREAT)
    os.posix_fallocate(fd, 0, 100 * MIB)
    os.close(fd)
    os.sync()
    found["file_large"] = wipe("/mnt/fs/large.raw", "/tmp/large")
    found["file_small"] = wipe("/mnt/fs/small.raw", "/tmp/small")
    found["file_after"] = left("FILEMARK,")
    run("/bin/busybox", "umount", "/mnt/fs")
except BaseException:
    found["error"] = traceback.format_exc()
hand_out(found)
"""


@pytest.fixture(name="seen", scope="module")
def what_was_seen(tmp_path_factory: pytest.TempPathFactory) -> Facts:
    answer: Facts = guest.boot(PROGRAM, tmp_path_factory.mktemp("guest"), seconds=800)
    assert "error" not in answer, answer["error"]
    return answer


def reasons(row: Facts) -> str:
    return "; ".join(row["reasons"])


def test_a_plain_volume_is_overwritten_and_the_disk_below_holds_none_of_it(seen: Facts) -> None:
    assert seen["plain_check"] == [] and seen["plain_before"] > 500000
    assert (seen["plain"]["outcome"], seen["plain"]["exceptions"], seen["plain"]["holds"]) == ("sanitised", [], True), seen["plain"]
    assert seen["plain"]["layers"][0]["ranges"] == [[0, 6 << 20]] and seen["plain"]["verified"] == 6 << 20
    assert seen["plain_after"] == 0


def test_a_mounted_volume_and_one_with_snapshots_are_refused(seen: Facts) -> None:
    assert seen["mounted"]["outcome"] == "refused" and "busy" in reasons(seen["mounted"]), seen["mounted"]
    assert seen["snapshot_made"] == 0
    assert seen["origin"]["outcome"] == "refused" and "first be copied into them" in reasons(seen["origin"]), seen["origin"]
    assert seen["snapshot"]["outcome"] == "refused", seen["snapshot"]


def test_of_a_thin_volume_only_its_own_blocks_are_written_and_the_pool_gives_none(seen: Facts) -> None:
    assert seen["thin_kind"] == ["thin"] and seen["db_before"] > 500000
    assert (seen["thin"]["outcome"], seen["thin"]["exceptions"], seen["thin"]["holds"]) == ("sanitised", [], True), seen["thin"]
    assert seen["thin"]["layers"][0]["ranges"] == [[0, 3 << 20], [200 << 20, 202 << 20]]
    assert seen["used_after"] == seen["used_filled"], "the pool has given new blocks"
    assert (seen["db_after"], seen["held"]) == (0, False)


def test_the_neighbour_in_the_pool_is_not_touched(seen: Facts) -> None:
    planted = seen["other_before"]
    assert planted > 200000 and seen["other_after"] >= planted * 13 // 3 - 400


def test_blocks_that_a_snapshot_shares_are_refused(seen: Facts) -> None:
    assert seen["thin_shared"]["outcome"] == "refused" and "also those of the thin volume" in reasons(seen["thin_shared"])
    assert seen["thin_once"]["outcome"] == "refused" and "a snapshot that is gone" in reasons(seen["thin_once"]), seen["thin_once"]
    assert seen["db_untouched"]


def test_a_pool_beyond_its_limit_is_not_written_to(seen: Facts) -> None:
    assert seen["thin_full"]["outcome"] == "refused" and "the limit is 10 %" in reasons(seen["thin_full"]), seen["thin_full"]


def test_a_pool_that_somebody_fills_meanwhile_stops_the_job_which_goes_on_later(seen: Facts) -> None:
    assert seen["thin_filled"]["outcome"] == "aborted" and "Make room" in reasons(seen["thin_filled"]), seen["thin_filled"]
    assert seen["thin"]["outcome"] == "sanitised"


def test_a_snapshot_of_the_metadata_that_another_holds_is_left_and_our_own_is_released(seen: Facts) -> None:
    assert seen["held_by_another"]["outcome"] == "refused" and "somebody holds a snapshot" in reasons(seen["held_by_another"])
    assert seen["held_by_us"]["outcome"] == "sanitised", seen["held_by_us"]


def test_a_file_that_would_fill_the_pool_below_is_refused_and_a_small_one_is_wiped(seen: Facts) -> None:
    assert seen["file_large"]["outcome"] == "refused" and "to give before its limit" in reasons(seen["file_large"]), seen["file_large"]
    assert (seen["file_small"]["outcome"], seen["file_small"]["layers"][0]["in_place"]) == ("sanitised", "yes"), seen["file_small"]
    assert seen["file_small"]["layers"][0]["pools"] and seen["file_after"] == 0
