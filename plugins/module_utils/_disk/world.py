# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The snapshot of a machine's block devices and their users, as the kernel shows them. Reads only.

Private to the collection; it may change at any time. Valid for Python 3.6. What could not be read is in ``incomplete``
with its reason, so that an empty list is never taken for "nobody".
"""

import fcntl
import glob
import os
import re
import stat
import struct
from typing import Any, Dict, List, Optional, Tuple

from ansible_collections.sunset.crm.plugins.module_utils._disk import device as disk_device, text as disk_text
from ansible_collections.sunset.crm.plugins.module_utils._disk.words import NO, UNKNOWN, YES, Row, clean

BLOCK = "/sys/class/block"
DM_CONTROL = "/dev/mapper/control"
DM_TABLE_STATUS = 0xC138FD0C
# Without it the question about a thin pool makes it write its metadata.
DM_NOFLUSH = 1 << 11


def read(path: str) -> Optional[str]:
    """Text of a small kernel file, None when there is none."""
    return disk_device._read(path)


def raw(path: str) -> bytes:
    try:
        with open(path, "rb") as handle:
            return handle.read(8192)
    except OSError:
        return b""


def names(folder: str) -> List[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def node_of(name: str, number: Optional[str]) -> Optional[str]:
    """The device node, if it is there and is this device."""
    path = "/dev/" + name.replace("!", "/")
    try:
        found = os.stat(path)
    except OSError:
        return None
    return path if stat.S_ISBLK(found.st_mode) and disk_device.device_number(found.st_rdev) == number else None


def present(name: str, size: int) -> bool:
    """Whether there is a device at all: kernels make loop, nbd, zram and ram nodes that are nothing."""
    if re.match(r"^loop\d+$", name):
        return os.path.exists("%s/%s/loop/backing_file" % (BLOCK, name))
    if names("%s/%s/slaves" % (BLOCK, name)):
        return True  # an array that is not started has no size, and holds its members all the same
    return not (size == 0 and name.rstrip("0123456789") in ("nbd", "zram", "ram", "fd", "md", "dm-", "drbd"))


def block(name: str) -> Row:
    base = "%s/%s" % (BLOCK, name)
    path = os.path.realpath(base)
    number = read(base + "/dev")
    size = read(base + "/size") or ""
    found: Row = {
        "number": number,
        "node": node_of(name, number),
        "bytes": int(size) * 512 if size.isdigit() else None,
        "partition_of": os.path.basename(os.path.dirname(path)) if os.path.exists(base + "/partition") else None,
        "slaves": names(base + "/slaves"),
        "path": path,
        "sysfs": base,
    }
    for field, file in (
        ("ro", "/ro"), ("removable", "/removable"), ("rotational", "/queue/rotational"), ("logical", "/queue/logical_block_size"),
        ("physical", "/queue/physical_block_size"), ("hidden", "/hidden"),
    ):  # fmt: skip
        value = read(base + file) or ""
        found[field] = int(value) if value.isdigit() else None
    for field, files in (
        ("vendor", ("/device/vendor",)), ("model", ("/device/model", "/device/name")), ("serial", ("/device/serial", "/serial")),
        ("firmware", ("/device/firmware_rev", "/device/rev", "/device/fwrev")), ("wwid", ("/wwid", "/device/wwid")),
        ("dm_uuid", ("/dm/uuid",)), ("dm_name", ("/dm/name",)), ("md_level", ("/md/level",)), ("nguid", ("/nguid",)), ("eui", ("/eui",)),
        ("mmc_type", ("/device/type",)), ("subnqn", ("/device/subsysnqn",)),
    ):  # fmt: skip
        found[field] = next((value for value in (clean(read(base + file)) for file in files) if value), None)
    if found["dm_uuid"] is None and os.path.isdir(base + "/dm"):
        found["dm_uuid"] = ""
    backing = read(base + "/loop/backing_file")
    if backing:
        found["loop_file"] = clean(backing)
        found["loop_on"] = number_behind(backing)
        found["loop_whole"] = number_of(backing) is not None
    return found


def number_behind(path: str) -> Optional[str]:
    """The device of a loop's backing: the block device itself, or the one that its file lies on."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    if stat.S_ISBLK(status.st_mode):
        return disk_device.device_number(status.st_rdev)
    number = disk_device.device_number(status.st_dev)
    if not number.startswith("0:"):
        return number
    # btrfs and the like: the mount's source tells the device.
    best: Tuple[str, Optional[str]] = ("", None)
    for line in (disk_device._read_all("/proc/self/mountinfo") or "").splitlines():
        parts = line.split(" ")
        source = line.split(" - ", 1)[-1].split(" ")[1:2]
        if parts[2] == number and source and source[0].startswith("/dev/") and len(parts[4]) >= len(best[0]):
            best = (parts[4], number_of(source[0]))
    return best[1]


def number_of(path: str) -> Optional[str]:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return disk_device.device_number(status.st_rdev) if stat.S_ISBLK(status.st_mode) else None


def by_path(number: str, folder: str = "/dev/disk/by-path") -> List[str]:
    """Names of the place where a device is plugged in, as udev gives them: controller, port, slot. Empty where nobody has made any."""
    return [str(clean(name)) for name in names(folder) if number_of(os.path.join(folder, name)) == number]


def snapshot(nodes: Any = None) -> Dict[str, Any]:
    """nodes: number -> device node, where one is known that is not at its usual place. Nothing is claimed: see exclusive()."""
    incomplete: Dict[str, str] = {}
    blocks = {}
    for name in names(BLOCK):
        one = block(name)
        if one["node"] is None and (nodes or {}).get(one["number"]) and number_of(nodes[one["number"]]) == one["number"]:
            one["node"] = nodes[one["number"]]
        if present(name, one["bytes"] or 0):
            blocks[name] = one
    if not blocks and not os.path.isdir(BLOCK):
        incomplete["stack"] = "%s cannot be read" % BLOCK
    mounts, complete = mounted()
    if not complete:
        incomplete["mounts"] = "some mount namespaces cannot be seen"
    swaps, why = swap()
    if why:
        incomplete["swaps"] = why
    opened, complete = descriptors()
    if not complete:
        incomplete["descriptors"] = "the descriptors of some processes cannot be seen"
    if in_container():
        incomplete["machine"] = "this is a container: processes, mounts and device nodes of the host cannot be seen"
    return {
        "blocks": blocks,
        "mounts": mounts,
        "swaps": swaps,
        "descriptors": opened,
        "exports": exports(),
        "exclusive": {},
        "root": disk_device.running_root_devices(),
        "incomplete": incomplete,
    }


def in_container() -> bool:
    if os.path.exists("/.dockerenv") or os.path.exists("/run/.containerenv"):
        return True
    environment = raw("/proc/1/environ").split(b"\0")
    return any(one.startswith(b"container=") and one != b"container=" for one in environment)


def virtual_machine() -> str:
    """Whether this machine is itself virtual: the processor says so to its guests."""
    text = disk_device._read_all("/proc/cpuinfo") or ""
    flags = [line for line in text.splitlines() if line.startswith(("flags", "Features"))]
    if any(" hypervisor" in line for line in flags):
        return YES
    vendor = ((read("/sys/class/dmi/id/sys_vendor") or "") + " " + (read("/sys/class/dmi/id/product_name") or "")).lower()
    if any(word in vendor for word in ("qemu", "kvm", "vmware", "virtual", "xen", "bochs", "openstack", "amazon ec2", "google")):
        return YES
    return NO if flags and vendor.strip() else UNKNOWN


def mounted() -> Tuple[List[List[str]], bool]:
    """Mounts of block devices in every mount namespace that can be seen, and all members of btrfs and ZFS."""
    rows, complete = disk_device._all_mounts()
    found = {(row[0], str(clean(row[2])), str(clean(row[3]))) for row in rows if not row[0].startswith("0:")}
    for member in glob.glob("/sys/fs/btrfs/*/devices/*"):
        number = read(member + "/dev")
        if number:
            found.add((number, "file system %s" % member.split("/")[4], "btrfs"))
    for number, pool in zfs():
        found.add((number, "pool %s" % pool, "zfs"))
    return [list(row) for row in sorted(found)], complete


def zfs() -> List[Tuple[str, str]]:
    """Members of imported pools, where the kernel has ZFS; the tool is its own only list of members."""
    if not os.path.isdir("/proc/spl/kstat/zfs"):
        return []
    found, pool = [], ""
    for line in disk_text.run_tool(["zpool", "list", "-vHPL"]).splitlines():
        parts = line.split("\t")
        if parts and parts[0]:
            pool = parts[0]
        for part in parts:
            number = number_of(part.strip()) if part.strip().startswith("/dev/") else None
            if number:
                found.append((number, str(clean(pool))))
    return found


def swap() -> Tuple[List[List[str]], str]:
    text = disk_device._read_all("/proc/swaps")
    found = []
    for line in (text or "").splitlines()[1:]:
        path = line.split()[0]
        number = number_of(path)
        if number:
            found.append([number, str(clean(path))])
    return found, "" if text is not None else "/proc/swaps cannot be read"


def descriptors() -> Tuple[List[List[Any]], bool]:
    """[number, pid, command] of every process that has a block device open, our own apart."""
    found, complete = disk_device.opened({os.getpid()})
    return [[number, int(pid), clean(read("/proc/%s/comm" % pid)) or "?"] for number, pid in found], complete


def exports() -> List[List[str]]:
    """Devices that the kernel itself hands out to others: iSCSI and Fibre Channel targets, NVMe over fabrics."""
    found = []
    for pattern, what in (
        ("/sys/kernel/config/target/core/*/*/udev_path", "SCSI target"),
        ("/sys/kernel/config/nvmet/subsystems/*/namespaces/*/device_path", "NVMe target"),
    ):
        for file in glob.glob(pattern):
            path = read(file) or ""
            number = number_of(path)
            if number:
                found.append([number, "%s %s" % (what, clean(file.split("/")[-2]))])
    return found


def exclusive(name: str, node: Optional[str]) -> str:
    """Whether the kernel lets nobody claim the device, found by claiming it: who mounts it in that very moment is told that it is busy.

    Not for drives of removable discs: opening one closes its tray, or waits for a motor.
    """
    if name.startswith(("sr", "fd")):
        return UNKNOWN
    return UNKNOWN if node is None else str(disk_device._exclusive(node)["verdict"])


# --- thin pools ---


def thin_pool(number: str) -> Row:
    """{data_bytes, data_used, metadata_used, metadata_total, why} of a thin pool, by the device mapper's own ioctls."""
    table = dict(_targets(number, 1 << 4))
    state = dict(_targets(number, 0))
    if "thin-pool" in table and "thin-pool" in state:
        return decode_thin_pool(table["thin-pool"], state["thin-pool"])
    return {"why": "the device mapper does not tell the state of the pool"}


def thin_volume(number: str) -> Optional[int]:
    """Bytes of a thin volume that are mapped; None if nobody knows."""
    for kind, state in _targets(number, 0):
        words = state.split()
        if kind == "thin" and words and words[0].isdigit():
            return int(words[0]) * 512
    return None


def decode_thin_pool(table: str, status: str) -> Row:
    """The lines of 'dmsetup table' and 'dmsetup status' for a thin pool."""
    try:
        block_bytes = int(table.split()[2]) * 512
        words = status.split()
        metadata = [int(part) for part in words[1].split("/")]
        data = [int(part) for part in words[2].split("/")]
    except (IndexError, ValueError):
        return {"why": "the state of the pool cannot be read: %s" % clean(status)}
    return {
        "data_bytes": data[1] * block_bytes, "data_used": data[0] * block_bytes, "metadata_used": metadata[0], "metadata_total": metadata[1], "why": "",
    }  # fmt: skip


def _targets(number: str, flags: int) -> List[Tuple[str, str]]:
    """[(target type, parameters)] of DM_TABLE_STATUS; empty if it cannot be asked."""
    major, minor = (int(part) for part in number.split(":"))
    kernel = (minor & 0xFF) | major << 8 | (minor & ~0xFF) << 12
    size = 16384
    buffer = bytearray(size)
    # version, data_size, data_start, target_count, open_count, flags, event_nr, padding, dev, name, uuid
    struct.pack_into("=3I", buffer, 0, 4, 0, 0)
    struct.pack_into("=4I", buffer, 12, size, 312, 0, 0)
    struct.pack_into("=I", buffer, 28, flags | DM_NOFLUSH)
    struct.pack_into("=Q", buffer, 40, kernel)
    try:
        fd = os.open(DM_CONTROL, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return []
    try:
        fcntl.ioctl(fd, DM_TABLE_STATUS, buffer, True)
    except OSError:
        return []
    finally:
        os.close(fd)
    start, count = struct.unpack_from("=II", buffer, 16)
    found, at = [], start
    for _number in range(min(count, 64)):
        if at + 40 > len(buffer):
            break
        following = struct.unpack_from("=I", buffer, at + 20)[0]
        kind = bytes(buffer[at + 24 : at + 40]).split(b"\0")[0].decode("ascii", "replace")
        text = bytes(buffer[at + 40 :]).split(b"\0")[0].decode("utf-8", "replace")
        found.append((kind, text))
        at = start + following
    return found
