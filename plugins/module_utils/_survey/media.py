# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From a path to the whole devices below it: mount, partition, LVM, RAID, encryption, disk.

Private to the collection; it may change at any time. Valid for Python 3.6. Reads only.
"""

import os
import stat
from typing import Any, Dict, List, Optional, Set

from ansible_collections.sunset.crm.plugins.module_utils._disk import device as disk_device
from ansible_collections.sunset.crm.plugins.module_utils._service import proc as service_proc
from ansible_collections.sunset.crm.plugins.module_utils._survey import rules as survey_rules

Row = Dict[str, Any]


def mounts() -> Optional[List[Row]]:
    """The mounts of this process's namespace, None if they cannot be read."""
    text = service_proc.read_text("/proc/self/mountinfo")
    return None if text is None else survey_rules.parse_mountinfo(text)


def sys_folder(number: str) -> str:
    return os.path.realpath("/sys/dev/block/" + number)


def device_number(path: str) -> Optional[str]:
    """'7:3' of a device node."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return disk_device.device_number(found.st_rdev) if stat.S_ISBLK(found.st_mode) else None


def number_of_mount(mount: Row) -> Optional[str]:
    """The block device of a mount; btrfs shows a number of its own (0:n), there the source tells. None: no device."""
    if not mount["number"].startswith("0:"):
        return str(mount["number"])
    return device_number(mount["source"]) if mount["source"].startswith("/dev/") else None


def whole_devices(number: str) -> List[str]:
    """Numbers of the whole devices at the bottom: partition to disk, LVM and RAID to all their members."""
    folder = sys_folder(number)
    if os.path.exists(folder + "/partition"):
        folder = os.path.dirname(folder)
    below = folder + "/slaves"
    found: List[str] = []
    for name in sorted(os.listdir(below)) if os.path.isdir(below) else []:
        member = (service_proc.read_text("/sys/class/block/%s/dev" % name) or "").strip()
        if member:
            found.extend(one for one in whole_devices(member) if one not in found)
    own = (service_proc.read_text(folder + "/dev") or "").strip()
    return found or [own or number]


def identity_of(number: str) -> Row:
    """The public identity of a whole device, with its node's name. Strongest through the node; without one from sysfs."""
    name = os.path.basename(sys_folder(number))
    node = "/dev/" + name
    if device_number(node) == number:
        facts = disk_device.identify(node)
        if facts["found"] == "yes":
            return dict(disk_device.public_identity(facts), device=node)
    facts = {"kind": disk_device.kind_of(name), "device": node}
    blocks = (service_proc.read_text(sys_folder(number) + "/size") or "").strip()
    if blocks.isdigit():
        facts["size"] = int(blocks) * 512
    backing = (service_proc.read_text(sys_folder(number) + "/loop/backing_file") or "").strip()
    if backing:
        facts.update(backing_file=backing, serial=disk_device.stem(backing))
    return facts


class Media(object):
    """The mounts read once, and what lies below them."""

    def __init__(self) -> None:
        found = mounts()
        self.known = found is not None
        self.mounts = found or []

    def numbers_below(self, path: str) -> List[str]:
        """Whole devices that carry a path; empty where it lies on no block device that can be seen."""
        mount = survey_rules.mount_of(os.path.realpath(path), self.mounts)
        number = number_of_mount(mount) if mount else None
        return whole_devices(number) if number else []

    def below(self, paths: List[str]) -> List[Row]:
        """Identities of all whole devices that carry these paths, each once."""
        numbers: List[str] = []
        for path in paths:
            numbers.extend(number for number in self.numbers_below(path) if number not in numbers)
        return [identity_of(number) for number in numbers]

    def in_memory(self, path: str) -> bool:
        """Whether a path lies in a file system that ends with the power."""
        mount = survey_rules.mount_of(os.path.realpath(path), self.mounts)
        return mount is not None and mount["fstype"] in ("tmpfs", "ramfs")

    def device_mounts(self) -> List[Row]:
        """Mounts of block devices, with the device's own number. Single files (a container's hosts file) are left out:
        they are bound from a file system that is judged where it is mounted."""
        rows = []
        for mount in self.mounts:
            number = number_of_mount(mount)
            if number and os.path.isdir(mount["point"]):
                rows.append(dict(mount, number=number))
        return rows

    def system_numbers(self) -> Set[str]:
        """All devices that share a disk with the root file system."""
        wholes = set(self.numbers_below("/"))
        rows = self.device_mounts()
        return {row["number"] for row in rows if wholes & set(whole_devices(row["number"]))} | wholes
