# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Identity of a block device, read from the opened descriptor, and who else holds the device.

Every fact has three values. A field that could not be read is ``None`` and named in ``unknown``; a field that this
kind of device does not have is ``None`` and not named there. Nothing here writes.

``identify(path or fd)``              what is this device?
``compare_identity(expected, found)`` pure: list of differences, empty = the same device
``lasting_holders(path)``             why it is not free, looked at for longer than udev looks at it
``holders(path)``                     who uses it: mounts, swap, stacked devices, loop devices, open descriptors, O_EXCL
``running_root_devices()``            devices below the running system
"""

import array
import errno
import fcntl
import os
import re
import stat
import struct
import time
from typing import Any, Dict, List, Optional, Set, Tuple, Union  # noqa: F401

BLKROGET = 0x125E
BLKFLSBUF = 0x1261
BLKSSZGET = 0x1268
BLKPBSZGET = 0x127B
BLKGETSIZE64 = 0x80081272
LOOP_GET_STATUS64 = 0x4C05
LOOP_INFO64 = struct.Struct("=5Q4I64s64s32s2Q")

# What tells one device from another. "strong" fields can stand for a device alone, the others only help to refuse.
STRONG_FIELDS = ("serial", "wwid", "inode")
IDENTITY_FIELDS = STRONG_FIELDS + ("kind", "backing_file", "offset", "model", "size")
# May stand in an identity for people or for other checks; they do not identify (names move, labels are wiped).
INFORMATIVE_FIELDS = (
    "found", "why", "unknown", "path", "name", "number", "label", "loop_name", "backing_device", "sizelimit",
    "attached",
    "logical_block", "physical_block", "read_only", "rotational", "removable", "vendor", "firmware", "direct_io", "over_device",
)  # fmt: skip


def _read(path):
    """Text of a small kernel file, or None when it is not there or cannot be read."""
    try:
        with open(path, "rb") as handle:
            return handle.read(65536).decode("utf-8", "surrogateescape").strip("\0\n ")
    except (OSError, IOError):
        return None


def _read_bytes(path):
    try:
        with open(path, "rb") as handle:
            return handle.read(4096)
    except (OSError, IOError):
        return b""


def _ioctl_number(fd, request, code):
    buf = array.array(code, [0])
    fcntl.ioctl(fd, request, buf, True)
    return int(buf[0])


def device_number(text_or_rdev):
    """'7:3' of a number as os.stat gives it."""
    return "%d:%d" % (os.major(text_or_rdev), os.minor(text_or_rdev))


def decode_kernel_device(number):
    """'254:0' of the kernel's own 64-bit device encoding (as LOOP_GET_STATUS64 hands it out)."""
    return "%d:%d" % ((number >> 8) & 0xFFF, (number & 0xFF) | ((number >> 12) & 0xFFF00))


def parse_loop_info(raw):
    """The fields of struct loop_info64 that identify what a loop device shows."""
    parts = LOOP_INFO64.unpack(raw)
    return {
        "backing_device": decode_kernel_device(parts[0]),
        "inode": parts[1],
        "offset": parts[3],
        "sizelimit": parts[4],
        "loop_name": parts[9].split(b"\0")[0].decode("utf-8", "surrogateescape"),
    }


def stem(path):
    """Name of a file without folder and suffix: the 'serial number' of a loop device."""
    name = os.path.basename(path)
    return name.rsplit(".", 1)[0] if "." in name[1:] else name


def kind_of(name):
    """Kind of device from its kernel name."""
    for pattern, kind in (
        (r"loop\d+$", "loop"),
        (r"nvme\d+(c\d+)?n\d+$", "nvme"),
        (r"sd[a-z]+$", "scsi"),
        (r"vd[a-z]+$", "virtio"),
        (r"xvd[a-z]+$", "xen"),
        (r"mmcblk\d+$", "mmc"),
        (r"dm-\d+$", "dm"),
        (r"md\d+$", "md"),
        (r"zram\d+$", "zram"),
        (r"(ram|nbd|rbd|bcache|drbd|zd|sr|fd)\d+$", "other"),
    ):
        if re.match(pattern, name):
            return kind
    return "other"


def _loop_facts(fd, sysfs, facts, unknown):
    try:
        buf = bytearray(LOOP_INFO64.size)
        fcntl.ioctl(fd, LOOP_GET_STATUS64, buf, True)
        facts.update(parse_loop_info(bytes(buf)))
        facts["attached"] = True
    except (OSError, IOError) as err:
        facts["attached"] = False if err.errno == errno.ENXIO else None
        if facts["attached"] is None:
            unknown.extend(["inode", "offset", "backing_file", "serial"])
        return
    # The kernel cuts the name in the ioctl to 63 bytes; sysfs has it whole.
    facts["backing_file"] = _read(sysfs + "/loop/backing_file") or facts["loop_name"] or None
    if not facts["backing_file"]:
        unknown.extend(["backing_file", "serial"])
    else:
        facts["serial"] = _read(sysfs + "/serial") or stem(facts["backing_file"])
    facts["direct_io"] = _read(sysfs + "/loop/dio") == "1"
    try:
        facts["over_device"] = stat.S_ISBLK(os.stat(facts["backing_file"] or "").st_mode)
    except OSError:
        facts["over_device"] = None  # its file has no name here (unlinked, or another mount namespace)


def serial_of_page_80(raw):
    # type: (bytes) -> Optional[str]
    """The serial number in the SCSI page 80h as the kernel keeps it: four bytes of head (the first is often zero), then text."""
    if len(raw) < 4 or raw[1:2] != b"\x80":
        return None
    text = raw[4 : 4 + (bytearray(raw)[2] << 8 | bytearray(raw)[3])]
    return text.decode("ascii", "replace").strip("\0 ") or None


def _serial_on_usb(sysfs):
    """The serial number of the USB device that a disk hangs on: the kernel reads no page 80h through USB."""
    folder = sysfs
    while "/usb" in folder:
        folder = os.path.dirname(folder)
        if os.path.exists(folder + "/idVendor"):
            return _read(folder + "/serial") or None
    return None


def _disk_facts(sysfs, facts, unknown):
    """Thin for devices that are no loops: what sysfs says without asking the device."""
    for field, names in (
        ("serial", ("/serial", "/device/serial")),
        ("wwid", ("/wwid", "/device/wwid", "/dm/uuid")),
        ("model", ("/device/model",)),
        ("vendor", ("/device/vendor",)),
        ("firmware", ("/device/firmware_rev", "/device/rev")),
    ):
        values = [value for value in (_read(sysfs + name) for name in names) if value]
        facts[field] = values[0] if values else None
    if not facts["serial"]:
        facts["serial"] = serial_of_page_80(_read_bytes(sysfs + "/device/vpd_pg80")) or _serial_on_usb(sysfs)
    for field in ("serial", "wwid", "model"):
        if not facts[field]:
            facts[field] = None
            unknown.append(field)


def _empty(path):
    facts = dict.fromkeys(IDENTITY_FIELDS)
    facts.update(found="unknown", why="", unknown=[], path=path, name=None, number=None)
    return facts


def identify(target):
    # type: (Union[str, int]) -> Dict[str, Any]
    """Identity of a block device. ``target`` is a path, or a descriptor that is already open (it stays open).

    Returns a dict: ``found`` yes | no | unknown with ``why``; the identity fields; ``unknown`` lists fields that exist
    but could not be read.
    """
    if isinstance(target, int):
        return _identify_fd(target, None)
    facts = _empty(target)
    try:
        # O_NONBLOCK: a drive without a medium or a pipe at this path must not make us wait.
        fd = os.open(target, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as err:
        absent = err.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENXIO, errno.ENODEV)
        facts.update(found="no" if absent else "unknown", why="%s: %s" % (target, err.strerror))
        return facts
    try:
        return _identify_fd(fd, target)
    finally:
        os.close(fd)


def _identify_fd(fd, path):
    facts = _empty(path)
    status = os.fstat(fd)
    if not stat.S_ISBLK(status.st_mode):
        facts.update(found="no", why="%s is not a block device" % (path or "descriptor %d" % fd))
        return facts
    unknown = []
    number = device_number(status.st_rdev)
    # /sys/dev/block is keyed by number, so a renamed or copied device node cannot lead us to another device.
    sysfs = os.path.realpath("/sys/dev/block/" + number)
    name = os.path.basename(sysfs) if os.path.isdir(sysfs) else None
    facts.update(found="yes", number=number, name=name)
    try:
        facts["size"] = _ioctl_number(fd, BLKGETSIZE64, "Q")
        facts["logical_block"] = _ioctl_number(fd, BLKSSZGET, "i")
        facts["physical_block"] = _ioctl_number(fd, BLKPBSZGET, "I")
        facts["read_only"] = bool(_ioctl_number(fd, BLKROGET, "i"))
    except (OSError, IOError) as err:
        unknown.append("size")
        facts["why"] = "size cannot be read: %s" % err
    if os.major(status.st_rdev) == 7:
        facts["kind"] = "loop"
        _loop_facts(fd, sysfs, facts, unknown)
    elif name is None:
        unknown.extend(["kind", "serial", "wwid", "model"])
    else:
        facts["kind"] = "partition" if os.path.exists(sysfs + "/partition") else kind_of(name)
        _disk_facts(sysfs, facts, unknown)
    facts["unknown"] = sorted(set(unknown))
    return facts


def identity_strength(expected):
    # type: (Any) -> str
    """'strong' when one field alone can stand for the device and the size is there, 'weak', or 'none'."""
    given = [field for field in IDENTITY_FIELDS if (expected or {}).get(field) not in (None, "")]
    if not given:
        return "none"
    return "strong" if "size" in given and any(field in given for field in STRONG_FIELDS) else "weak"


def _same(field, wanted, found):
    if field in ("inode", "size", "offset"):
        try:
            return int(wanted) == int(found)
        except (TypeError, ValueError):
            return False
    return str(wanted).strip() == str(found).strip()


def compare_identity(expected, found):
    # type: (Any, Any) -> List[str]
    """Differences between the identity that the plan names and the one that was read; empty means: the same device.

    What is expected and could not be read is a difference ("unknown"), never a match. A field of the expectation that
    we cannot compare is one too: a person wrote it there because it mattered.
    """
    if not isinstance(expected, dict) or not isinstance(found, dict):
        return ["identity: expected and found must be mappings"]
    if found.get("found", "yes") != "yes":
        return ["device: expected one, found %s (%s)" % (found.get("found"), found.get("why") or "no reason known")]
    differences = []
    for field in sorted(expected):
        wanted = expected[field]
        if wanted in (None, "") or field in INFORMATIVE_FIELDS:
            continue
        if field not in IDENTITY_FIELDS:
            differences.append("%s: expected %r, this field cannot be compared" % (field, wanted))
            continue
        value = found.get(field)
        if value is None:
            word = "unknown" if field in (found.get("unknown") or []) else "none"
            differences.append("%s: expected %r, found %s" % (field, wanted, word))
        elif field == "backing_file" and _same(field, wanted, found.get("loop_name")):
            continue  # the name given to losetup; sysfs may show another one in another mount namespace
        elif not _same(field, wanted, value):
            differences.append("%s: expected %r, found %r" % (field, wanted, value))
    return differences


def public_identity(facts):
    # type: (Dict[str, Any]) -> Dict[str, Any]
    """The part of an identity that a plan, a ledger or a certificate keeps."""
    return {field: facts.get(field) for field in IDENTITY_FIELDS if facts.get(field) is not None}


# --- a rescue system in RAM ---------------------------------------------------------------------------------------------

RESCUE_MARKER = "/run/sunset-rescue.json"
RAM_ROOTS = ("rootfs", "ramfs", "tmpfs")


def in_rescue():
    # type: () -> Dict[str, Any]
    """Is this the collection's own rescue system? {verdict: yes | no, why}: its marker is there, and the root lies in RAM."""
    kinds = [row[3] for row in parse_mountinfo(_read_all("/proc/self/mountinfo") or "") if row[2] == "/"]
    if not kinds or kinds[-1] not in RAM_ROOTS:
        return {"verdict": "no", "why": "the root file system is %s, expected one in RAM" % (kinds[-1] if kinds else "unknown")}
    if not os.path.isfile(RESCUE_MARKER):
        return {"verdict": "no", "why": "%s, which the rescue writes, is not there" % RESCUE_MARKER}
    return {"verdict": "yes", "why": ""}


# --- who uses it -----------------------------------------------------------------------------------------------------


def parse_mountinfo(text):
    """[(device number, root, mount point, file system type)] of a /proc/<pid>/mountinfo."""
    rows = []
    for line in text.splitlines():
        parts = line.split(" ")
        if len(parts) < 7 or " - " not in line:
            continue
        rows.append((parts[2], parts[3], parts[4], line.split(" - ", 1)[1].split(" ")[0]))
    return rows


def _processes():
    return [name for name in os.listdir("/proc") if name.isdigit()]


def _all_mounts():
    """(rows of every mount namespace that can be seen, complete?). One read a namespace, not a process."""
    rows, seen, complete = set(), set(), True
    for pid in _processes():
        try:
            space = os.readlink("/proc/%s/ns/mnt" % pid)
        except OSError as err:
            complete = complete and err.errno in (errno.ENOENT, errno.ESRCH)
            continue
        if space in seen:
            continue
        text = _read_all("/proc/%s/mountinfo" % pid)
        if text is None:
            complete = complete and not os.path.exists("/proc/%s" % pid)
            continue
        if text:
            seen.add(space)
            rows.update(parse_mountinfo(text))
    return rows, complete


def _read_all(path):
    try:
        with open(path, "rb") as handle:
            return handle.read().decode("utf-8", "surrogateescape")
    except (OSError, IOError):
        return None


def family(number):
    """Numbers of the whole device and of all its partitions."""
    base = os.path.realpath("/sys/dev/block/" + number)
    if os.path.exists(base + "/partition"):
        base = os.path.dirname(base)
    numbers = {number}
    paths = [base] + [os.path.join(base, name) for name in (os.listdir(base) if os.path.isdir(base) else [])]
    for path in paths:
        if path == base or os.path.exists(path + "/partition"):
            found = _read(path + "/dev")
            if found:
                numbers.add(found)
    return numbers


def _verdict(found, complete=True, why=""):
    return {"verdict": "yes" if found else ("no" if complete else "unknown"), "found": sorted(found), "why": why}


def _swaps(numbers):
    text = _read_all("/proc/swaps")
    found = []
    for line in (text or "").splitlines()[1:]:
        path = line.split()[0]
        try:
            if device_number(os.stat(path).st_rdev) in numbers:
                found.append(path)
        except OSError:
            continue
    return _verdict(found, text is not None)


def _stacked(numbers):
    found = []
    for number in numbers:
        folder = os.path.join("/sys/dev/block", number, "holders")
        if os.path.isdir(folder):
            found.extend(os.listdir(folder))
    return _verdict(found, os.path.isdir("/sys/dev/block"))


def _loops_over(numbers):
    """Loop devices whose backing file is this very device: the kernel does not count them as holders."""
    found, complete = [], os.path.isdir("/sys/block")
    for name in os.listdir("/sys/block") if complete else []:
        backing = _read("/sys/block/%s/loop/backing_file" % name) if name.startswith("loop") else None
        if backing and backing.startswith("/dev/"):
            try:
                if device_number(os.stat(backing).st_rdev) in numbers:
                    found.append(name)
            except OSError:
                found.append(name + "?")  # a loop over a device node that we cannot look at: rather refuse
    return _verdict(found, complete)


def opened(own):
    # type: (Any) -> Tuple[List[Tuple[str, str]], bool]
    """((number, pid) of every block device that a process has open, all processes seen?); C(own): process ids to pass over."""
    found, complete = [], True
    for pid in _processes():
        if int(pid) in own:
            continue
        try:
            fds = os.listdir("/proc/%s/fd" % pid)
        except OSError as err:
            complete = complete and err.errno in (errno.ENOENT, errno.ESRCH)
            continue
        for fd in fds:
            try:
                status = os.stat("/proc/%s/fd/%s" % (pid, fd))
            except OSError:
                continue
            if stat.S_ISBLK(status.st_mode):
                found.append((device_number(status.st_rdev), pid))
    return found, complete


def _descriptors(numbers, own):
    found, complete = opened(own)
    return _verdict({"pid %s (%s)" % (pid, _read("/proc/%s/comm" % pid) or "?") for number, pid in found if number in numbers}, complete)


def _exclusive(path):
    """The kernel's own answer, in all namespaces: mounts, swap, dm, md, LVM, ZFS and the like all claim the device."""
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC))
    except OSError as err:
        if err.errno == errno.EBUSY:
            return {"verdict": "yes", "found": ["claimed"], "why": "exclusive open: device or resource busy"}
        return {"verdict": "unknown", "found": [], "why": "exclusive open: %s" % err.strerror}
    return {"verdict": "no", "found": [], "why": ""}


def holders(path, own=()):
    # type: (str, Any) -> Dict[str, Any]
    """Who holds the device: {mounts, swap, stacked, loops, descriptors, exclusive: {verdict, found, why}}.

    ``own``: process ids that may have it open. "no" for mounts holds for the namespaces that can be seen from here;
    ``exclusive`` is the kernel's word for all of them.
    """
    try:
        number = device_number(os.stat(path).st_rdev)
    except OSError as err:
        blank = {"verdict": "unknown", "found": [], "why": err.strerror}  # type: Dict[str, Any]
        return dict.fromkeys(("mounts", "swap", "stacked", "loops", "descriptors", "exclusive"), blank)
    numbers = family(number)
    rows, complete = _all_mounts()
    mounts = {"%s (%s)" % (row[2], row[3]) for row in rows if row[0] in numbers}
    return {
        "mounts": _verdict(mounts, complete),
        "swap": _swaps(numbers),
        "stacked": _stacked(numbers),
        "loops": _loops_over(numbers),
        "descriptors": _descriptors(numbers, set(own) | {os.getpid()}),
        "exclusive": _exclusive(path),
    }


def blocking_holders(found):
    # type: (Dict[str, Any]) -> List[str]
    """Pure: the reasons of ``holders`` that forbid writing. An unknown counts as held, with one exception: what the
    kernel's exclusive open covers (mounts, swap, stacked devices) may be unseen from here when that open succeeded."""
    free = found["exclusive"]["verdict"] == "no"
    reasons = []
    for key in ("mounts", "swap", "stacked", "loops", "descriptors", "exclusive"):
        part = found[key]
        if part["verdict"] == "yes":
            reasons.append("%s: %s" % (key, ", ".join(part["found"])))
        elif part["verdict"] != "no" and not (free and key in ("mounts", "swap", "stacked")):
            reasons.append("%s: unknown (%s)" % (key, part["why"] or "not everything could be read"))
    return reasons


# What a look at a device (udev's after every change, a survey's) does to it, and ends a moment later.
MOMENTARY = ("descriptors", "exclusive")


def lasting_holders(path, tries=20, pause=0.1):
    # type: (str, int, float) -> List[str]
    """The reasons of ``blocking_holders`` now. What may be somebody's look at the device is looked at again, for 2 s at most."""
    for attempt in range(tries):
        found = holders(path)
        reasons = blocking_holders(found)
        lasting = any(found[key]["verdict"] == "yes" for key in found if key not in MOMENTARY)
        if not reasons or lasting or attempt + 1 == tries:
            return reasons
        time.sleep(pause)
    return []


def _below(number, seen):
    """All device numbers under a device: partition -> disk, dm/md -> members, loop -> the device of its file."""
    if number in seen or number.startswith("0:"):
        return
    seen.add(number)
    base = os.path.realpath("/sys/dev/block/" + number)
    if os.path.exists(base + "/partition"):
        _below(_read(os.path.dirname(base) + "/dev") or number, seen)
    slaves = os.path.join(base, "slaves")
    for name in os.listdir(slaves) if os.path.isdir(slaves) else []:
        below = _read("/sys/class/block/%s/dev" % name)
        if below:
            _below(below, seen)
    backing = _read(base + "/loop/backing_file")
    if backing:
        try:
            _below(device_number(os.stat(backing).st_dev), seen)
        except OSError:
            pass


def running_root_devices():
    # type: () -> Dict[str, Any]
    """Devices that carry the running system: {verdict: yes | no | unknown, numbers: [...], names: [...], why}.

    Besides the root file system also what is mounted for the system from elsewhere, and all devices below. "unknown"
    when the root is no block device (a container): then only the kernel's exclusive open can tell.
    """
    rows = parse_mountinfo(_read_all("/proc/self/mountinfo") or "")
    system = ("/", "/boot", "/boot/efi", "/usr", "/var", "/etc")
    seen, root = set(), False  # type: Set[str], bool
    for number, _root, point, _fstype in rows:
        if point in system or point.startswith("/etc/"):
            _below(number, seen)
            root = root or (point == "/" and not number.startswith("0:"))
    names = [os.path.basename(os.path.realpath("/sys/dev/block/" + number)) for number in seen]
    if not seen and in_rescue()["verdict"] == "yes":
        return {"verdict": "no", "numbers": [], "names": [], "why": "this is a rescue system in RAM; no disk carries it"}
    why = "" if root else "the root file system of this machine does not lie on a block device that can be seen"
    return {"verdict": "yes" if root else "unknown", "numbers": sorted(seen), "names": sorted(names), "why": why}
