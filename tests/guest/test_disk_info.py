# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""disk_info in an emulated machine: four kinds of disks and a USB one, asked for real, bare and under volume groups, a thin pool, an array,
encryption, swap and a loop. Takes a minute or two; not part of the stages that run on every change (C(scripts/test guest))."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.sunset.crm.plugins.module_utils._wipe import group as wipe_group
from tests.guest import guest

Facts = dict[str, Any]
PROGRAM = """
from ansible_collections.sunset.crm.plugins.module_utils._disk import facts as disk_facts
found = {"bare": disk_facts.read()}
table = bytearray(512)
table[510:512] = b"\\x55\\xaa"
table[446:462] = struct.pack("<BBBBBBBBII", 0, 0, 2, 0, 0x8E, 0, 0, 0, 2048, 100000)
table[462:478] = struct.pack("<BBBBBBBBII", 0, 0, 2, 0, 0x83, 0, 0, 0, 104448, 20000)
fd = os.open("/dev/nvme0n1", os.O_RDWR)
os.write(fd, table)
os.fsync(fd)
fcntl.ioctl(fd, 0x125F)
os.close(fd)
time.sleep(0.5)
os.makedirs("/etc/lvm", exist_ok=True)
with open("/etc/lvm/lvm.conf", "w") as stream:
    stream.write("activation { udev_sync=0 udev_rules=0 verify_udev_operations=1 }\\ndevices { obtain_device_list_from_udev=0 }\\n")
run("/sbin/pvcreate", "-ff", "-y", "/dev/nvme0n1p1")
run("/sbin/vgcreate", "vg", "/dev/nvme0n1p1")
run("/sbin/lvcreate", "-y", "-Zn", "-Wn", "-L", "12M", "-n", "data", "vg")
run("/sbin/lvcreate", "-y", "-Zn", "--type", "thin-pool", "-L", "12M", "--poolmetadatasize", "2M", "-n", "pool", "vg")
run("/sbin/lvcreate", "-y", "-Wn", "-V", "32M", "--thinpool", "vg/pool", "-n", "thin")
run("/bin/busybox", "dd", "if=/dev/urandom", "of=/dev/mapper/vg-thin", "bs=1M", "count=3")
os.sync()
run("/sbin/mke2fs", "-q", "/dev/mapper/vg-data")
os.makedirs("/mnt/data", exist_ok=True)
run("/bin/busybox", "mount", "-t", "ext4", "/dev/mapper/vg-data", "/mnt/data")
run("/bin/busybox", "dd", "if=/dev/zero", "of=/mnt/data/l.img", "bs=1M", "count=4")
run("/bin/busybox", "losetup", "/dev/loop0", "/mnt/data/l.img")
run("/sbin/mdadm", "--create", "/dev/md0", "--run", "--level=1", "--raid-devices=2", "--metadata=1.2", "--assume-clean", "/dev/sda", "/dev/vda")
with open("/tmp/key", "w") as stream:
    stream.write("pw")
run("/sbin/cryptsetup", "luksFormat", "-q", "--type", "luks2", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--key-file", "/tmp/key", "/dev/sdb")
run("/sbin/cryptsetup", "open", "--disable-external-tokens", "--key-file", "/tmp/key", "/dev/sdb", "secret")
run("/bin/busybox", "mkswap", "/dev/sdc")
run("/bin/busybox", "swapon", "/dev/sdc")
holder = subprocess.Popen(["/bin/busybox", "sleep", "600"], stdin=open("/dev/nvme0n1p2", "rb"))
found["stacked"] = disk_facts.read()
run("/bin/busybox", "losetup", "-d", "/dev/loop0")
run("/bin/busybox", "umount", "/mnt/data")
run("/sbin/vgchange", "-an", "vg")
run("/sbin/mdadm", "--stop", "/dev/md0")
run("/sbin/cryptsetup", "close", "secret")
run("/bin/busybox", "swapoff", "/dev/sdc")
holder.kill()
holder.wait()
found["released"] = disk_facts.read()
hand_out(found)
"""


@pytest.fixture(name="seen", scope="module")
def what_was_seen(tmp_path_factory: pytest.TempPathFactory) -> Facts:
    answer = guest.boot(PROGRAM, tmp_path_factory.mktemp("guest"))
    return {stage: {fact["name"]: fact for fact in disks["devices"]} for stage, disks in answer.items()}


def kinds(fact: Facts) -> set[tuple[str, str]]:
    return {(row["kind"], row["device"]) for row in fact["holders"]}


@pytest.mark.parametrize(
    "name,serial,transport",
    [
        ("sda", "SATA0001", "sata"),
        ("sdb", "SCSI0001", "virtio"),
        ("sdc", "USB00001", "usb"),
        ("nvme0n1", "NVME0001", "nvme"),
        ("vda", "VIRTIO01", "virtio"),
    ],
)
def test_each_disk_has_its_own_serial_number_and_is_known_as_emulated(seen: Facts, name: str, serial: str, transport: str) -> None:
    fact = seen["bare"][name]
    assert (fact["serial"], fact["identity"]["serial"], fact["transport"]) == (serial, serial, transport)
    assert (fact["class"], fact["held"], fact["holders"]) == ("virtual", "no", [])
    assert fact["sizes"]["current"] == 64 << 20


def test_no_emulated_disk_has_what_it_would_only_pretend(seen: Facts) -> None:
    """Security, sanitize, HPA and DCO: tools report some of them here with exit code 0."""
    for name in ("sda", "sdb", "sdc", "nvme0n1", "vda"):
        fact = seen["bare"][name]
        for group in ("security", "sanitize", "hidden", "tcg"):
            assert "yes" not in fact[group].values(), f"{name}: {group} {fact[group]}"
    assert seen["bare"]["nvme0n1"]["format"]["supported"] == "yes"
    assert seen["bare"]["nvme0n1"]["sanitize"]["supported"] == "no"
    assert seen["bare"]["sda"]["sources"]["identify"] == "ioctl: ATA IDENTIFY DEVICE"
    assert seen["bare"]["sdb"]["sanitize"]["block"] == "unknown"


def test_the_stack_above_a_disk_is_seen_through_partitions_volumes_and_loops(seen: Facts) -> None:
    disk = seen["stacked"]["nvme0n1"]
    layers = {name: fact["layer"] for name, fact in seen["stacked"].items()}
    by_layer = {layer: name for name, layer in layers.items()}
    data = next(row["device"] for row in disk["holders"] if row["kind"] == "mount")
    assert layers[data] == "lvm"
    assert {("mount", data), ("loop", "loop0"), ("descriptor", "nvme0n1p2"), ("stacked", by_layer["lvm-thin"])} <= kinds(disk)
    assert {"nvme0n1p1", "nvme0n1p2", data, "loop0", by_layer["lvm-thin"]} <= set(disk["above"])
    assert seen["stacked"]["nvme0n1p1"]["contents"] == ["lvm physical volume"]
    for name in ("sda", "vda"):
        assert ("stacked", "md0") in kinds(seen["stacked"][name])
        assert "md member 1.2" in seen["stacked"][name]["contents"]
    assert ("stacked", by_layer["dm-crypt"]) in kinds(seen["stacked"]["sdb"])
    assert ("swap", "sdc") in kinds(seen["stacked"]["sdc"])


def test_the_pool_of_a_thin_volume_tells_its_free_space(seen: Facts) -> None:
    (fact,) = [fact for fact in seen["stacked"].values() if fact["layer"] == "lvm-thin"]
    assert fact["thin"]["data_bytes"] == 12 << 20
    assert fact["thin"]["data_used"] == fact["thin"]["mapped"] == 3 << 20
    decision = wipe_group.wipe_decide.decide(fact, {"asked": "clear", "volume": True})
    assert decision["techniques"] == decision["once_free"] == []
    assert any("never filled up" in row["why"] for row in decision["rejected"]), "32 MB do not fit into a pool of 12"
    assert fact["identity"]["wwid"].startswith("LVM-"), "a volume's identity is its name in the volume group"


def test_an_encrypted_disk_shows_its_header(seen: Facts) -> None:
    fact = seen["stacked"]["sdb"]
    assert fact["traits"]["luks"] == "yes"
    assert (fact["luks"]["version"], fact["luks"]["keyslots"], fact["luks"]["secondary"]) == (2, ["0"], "yes")


def test_no_disk_in_use_is_in_a_plan_and_each_is_once_it_is_free(seen: Facts) -> None:
    names = {"sda", "sdb", "sdc", "nvme0n1", "vda"}

    def planned(stage: str) -> set[str]:
        decisions = wipe_group.decide(list(seen[stage].values()), lambda fact: {"asked": "clear"})
        return {row["name"] for row in decisions if row["techniques"]} & names

    assert planned("bare") == names
    assert planned("stacked") == set()
    assert planned("released") == names
