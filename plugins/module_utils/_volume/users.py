# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who else uses a layer of a virtual disk: processes, locks, loop devices, swap, other guests' definitions, images that stand on it. Reads only.

Private to the collection. Valid for Python 3.6, standard library; travels with the wipe job.
"""

import errno
import fcntl
import glob
import os
import stat
import struct
import xml.etree.ElementTree as ET
from typing import Any, Dict, Iterable, List, Set, Tuple  # noqa: F401

from ansible_collections.sunset.crm.plugins.module_utils._disk import device as disk_device
from ansible_collections.sunset.crm.plugins.module_utils._volume import chain as volume_chain

# What libvirt keeps of its guests: those that are defined, and those that run now.
DEFINITIONS = ("/etc/libvirt/qemu/*.xml", "/run/libvirt/qemu/*.xml")
POOLS = "/etc/libvirt/storage/*.xml"
IMAGES = "/var/lib/libvirt/images"
EXPORTED = "/sys/kernel/config/target/core/*/*/udev_path"
SAVED = "/var/lib/libvirt/qemu/save"
# Bytes 100 to 299 of an image are what QEMU locks while it uses it: who holds a lock on all of them keeps every QEMU out.
LOCK_FROM, LOCK_LENGTH = 100, 200
F_OFD_GETLK, F_OFD_SETLK = 36, 37
TOO_MANY = 20000

Key = Tuple[int, int]


def key_of(path):
    # type: (str) -> Key
    """What a file or device is, whatever its name: (file system, inode), or (-1, device number)."""
    found = os.stat(path)
    return (-1, found.st_rdev) if stat.S_ISBLK(found.st_mode) else (found.st_dev, found.st_ino)


def descriptors(keys, own):
    # type: (Dict[Key, str], Any) -> List[str]
    """Processes that have one of these open or mapped, and whether all of them could be looked at."""
    found, blind = set(), set()  # type: Set[str], Set[str]
    for pid in disk_device._processes():
        if int(pid) in own:
            continue
        for folder in ("fd", "map_files"):
            try:
                entries = os.listdir("/proc/%s/%s" % (pid, folder))
            except OSError as err:
                if folder == "fd" and err.errno not in (errno.ENOENT, errno.ESRCH):
                    blind.add(pid)
                continue
            for entry in entries:
                try:
                    key = key_of("/proc/%s/%s/%s" % (pid, folder, entry))
                except OSError:
                    continue
                if key in keys:
                    name = disk_device._read("/proc/%s/comm" % pid) or "?"
                    found.add("%s is opened by the process %s (%s)" % (keys[key], pid, name))
    if blind:
        found.add("the open files of %d processes could not be looked at" % len(blind))
    return sorted(found)


def loops(keys):
    # type: (Dict[Key, str]) -> List[str]
    found = []
    for name in sorted(os.listdir("/sys/block")) if os.path.isdir("/sys/block") else []:
        if not name.startswith("loop") or not os.path.exists("/sys/block/%s/loop/backing_file" % name):
            continue
        # By what it is: the name may be one of another mount namespace, and no process has the file open.
        facts = disk_device.identify("/dev/" + name)
        backing = disk_device._read("/sys/block/%s/loop/backing_file" % name) or ""
        for key, path in keys.items():
            same = (facts.get("backing_device"), facts.get("inode")) == (disk_device.device_number(max(key[0], 0)), key[1])
            try:
                same = same or key_of(backing) == key
            except OSError:
                same = same or facts.get("inode") is None
            if same:
                found.append("%s is behind /dev/%s" % (path, name))
    return found


def exported(keys, pattern=EXPORTED):
    # type: (Dict[Key, str], str) -> List[str]
    """Layers that the kernel itself gives to others as a disk (LIO): no process has them open, either."""
    found = []
    for name in sorted(glob.glob(pattern)):
        try:
            path = (disk_device._read(name) or "").strip()
            if path and key_of(path) in keys:
                found.append("%s is exported to others (%s)" % (keys[key_of(path)], os.path.dirname(name)))
        except OSError:
            continue
    return found


def swaps(keys):
    # type: (Dict[Key, str]) -> List[str]
    found = []
    for line in (disk_device._read_all("/proc/swaps") or "").splitlines()[1:]:
        try:
            if line.split() and key_of(line.split()[0]) in keys:
                found.append("%s is swap" % line.split()[0])
        except OSError:
            continue
    return found


def defined(keys, guests, patterns=DEFINITIONS):
    # type: (Dict[Key, str], Iterable[str], Iterable[str]) -> List[str]
    """Guests other than these whose definition names one of the layers."""
    found, mine = set(), set(guests)  # type: Set[str], Set[str]
    names = {os.path.basename(path): path for path in keys.values()}
    for path in sorted(one for pattern in patterns for one in glob.glob(pattern)):
        try:
            root = ET.parse(path).getroot()  # noqa: S314 - libvirt's own file
        except (OSError, ET.ParseError) as err:
            found.add("the definition %s cannot be read (%s)" % (path, err))
            continue
        guest = (root.findtext("name") or root.findtext("domain/name") or os.path.basename(path)[:-4]).strip()
        if guest in mine:
            continue
        for disk in root.iter("disk"):
            driver = disk.find("driver")
            form = (driver.get("type") if driver is not None else "") or "raw"
            # Not only its own: also what a running guest's definition lists behind it.
            for source in disk.iter("source"):
                for layer in layers_of(source.get("file") or source.get("dev") or "", form):
                    if layer in keys:
                        found.add("%s is a layer of a disk of the guest %s, which is not retired with it" % (keys[layer], guest))
                if source.get("volume") in names:
                    found.add("%s may be a disk of the guest %s, which is not retired with it" % (names[str(source.get("volume"))], guest))
    return sorted(found)


def layers_of(path, form):
    # type: (str, str) -> List[Key]
    """What a disk of a definition lies in, as far as it is there."""
    if not path:
        return []
    paths = [path] + [one["path"] for one in (volume_chain.look(path, form)["chain"] if form == "qcow2" else [])]
    found = []
    for one in paths:
        try:
            found.append(key_of(one))
        except OSError:
            continue
    return found


def saved(guests, folder=SAVED):
    # type: (Iterable[str], str) -> List[str]
    """Guests whose memory is saved on this host: it holds what their disks held."""
    return [
        "the memory of the guest %s is saved in %s/%s.save; start it and shut it down, or remove that (virsh managedsave-remove)"
        % (name, folder, name)
        for name in guests
        if os.path.exists("%s/%s.save" % (folder, name))
    ]


def folders_of(paths, pools=POOLS, images=IMAGES):
    # type: (Iterable[str], str, str) -> List[str]
    """Where images lie that could stand on one of these."""
    found = {os.path.dirname(path) for path in paths if not path.startswith("/dev/")}
    for path in glob.glob(pools):
        try:
            root = ET.parse(path).getroot()  # noqa: S314 - libvirt's own file
        except (OSError, ET.ParseError):
            continue
        target = (root.findtext("target/path") or "").strip()
        if target and not target.startswith("/dev"):
            found.add(target)
    return sorted(folder for folder in found | {images} if os.path.isdir(folder))


def standing_on(keys, known, folders):
    # type: (Dict[Key, str], Iterable[str], Iterable[str]) -> List[str]
    """Images in these folders, other than those that are known, that have one of the layers behind them."""
    found, mine = [], {os.path.realpath(path) for path in known}
    for folder in folders:
        entries = sorted(os.listdir(folder))
        if len(entries) > TOO_MANY:
            found.append("%s has more than %d files; not all of them were looked at" % (folder, TOO_MANY))
        for entry in entries[:TOO_MANY]:
            path = os.path.realpath(os.path.join(folder, entry))
            if path in mine or not os.path.isfile(path) or not volume_chain.holds_header(path):
                continue
            try:
                head = volume_chain.qcow2_header(path)
                for name in (head["backing"], head["data_file"]):
                    below = volume_chain.next_path(name, path) if name else ""
                    if below and os.path.exists(below) and key_of(below) in keys:
                        found.append("the image %s, which is not retired with it, stands on %s" % (path, keys[key_of(below)]))
            except (OSError, volume_chain.ChainError, struct.error):
                continue  # what cannot be read stands on nothing that QEMU could open
    return found


def lock(fd, take=True):
    # type: (int, bool) -> bool
    """Take every lock that QEMU takes on an image, for as long as this is open: no QEMU has it, and none can have it meanwhile. Or only ask."""
    wanted = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, LOCK_FROM, LOCK_LENGTH, 0)
    try:
        answer = fcntl.fcntl(fd, F_OFD_SETLK if take else F_OFD_GETLK, wanted)
        return take or struct.unpack("hhqqi4x", answer)[0] == fcntl.F_UNLCK
    except (OSError, IOError) as err:
        if err.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise


def reasons(paths, known, guests, own=()):
    # type: (List[str], Iterable[str], Iterable[str], Any) -> List[str]
    """Everything that forbids overwriting these layers. known: paths of all layers that are retired together."""
    keys = {}  # type: Dict[Key, str]
    found = []  # type: List[str]
    for path in paths:
        try:
            keys[key_of(path)] = path
        except OSError as err:
            found.append("%s: %s" % (path, err.strerror))
    guests = list(guests)
    found += (
        descriptors(keys, set(own) | {os.getpid()}) + loops(keys) + exported(keys) + swaps(keys) + defined(keys, guests) + saved(guests)
    )
    return found + standing_on(keys, list(known) + list(paths), folders_of(paths))
