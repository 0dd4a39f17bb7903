# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Logical volumes as layers: what the device mapper makes of them, which blocks of a thin pool are theirs, how full the pool is.

Private to the collection. Valid for Python 3.6, standard library; travels with the wipe job. Reads only, but for the snapshot of a pool's
metadata that C(thin_dump) needs while the pool is in use; it is released again.
"""

import os
import subprocess
import xml.etree.ElementTree as ET
from typing import Any, Callable, Dict, List, Optional, Tuple  # noqa: F401

from ansible_collections.sunset.crm.plugins.module_utils._disk import device as disk_device

SECTOR = 512
MARKERS = "/run"
# Writing into these changes the blocks in which the content lies.
PLAIN = ("linear", "striped", "mirror", "raid")
WHY_NOT = {
    "snapshot-origin": "it has snapshots: each overwritten block would first be copied into them. Remove the snapshots that are retired too",
    "snapshot": "it is a snapshot itself, which holds only what differs; wipe its origin when it is free",
    "cache": "a cache lies before it, which keeps copies (lvconvert --uncache first)",
    "writecache": "a cache lies before it, which keeps copies (lvconvert --uncache first)",
    "vdo": "VDO keeps equal and compressed blocks elsewhere",
    "crypt": "it is encrypted; destroy its keys, or wipe the volume below",
}
LIMIT = 95.0  # per cent of a pool's data or metadata beyond which nothing is written to anything on it


class ThinError(Exception):
    """The device mapper or thin_dump does not tell what must be known."""


def _tool(argv, timeout=120):
    # type: (List[str], float) -> str
    environment = dict(os.environ, LC_ALL="C", PATH=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    try:
        child = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, close_fds=True
        )
        out, err = child.communicate(timeout=timeout)
    except OSError as exc:
        raise ThinError("%s: %s" % (argv[0], exc.strerror))
    except subprocess.TimeoutExpired:
        child.kill()
        child.communicate()
        raise ThinError("%s did not end within %d s" % (" ".join(argv[:2]), timeout))
    if child.returncode:
        raise ThinError("%s: %s" % (" ".join(argv[:2]), err.decode("utf-8", "replace").strip()[-300:]))
    return out.decode("utf-8", "replace")


def rows(text):
    # type: (str) -> List[Tuple[int, int, str, List[str]]]
    """[(start, length, target, words)] of 'dmsetup table' or 'dmsetup status', in sectors."""
    found = []
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 3 and words[0].isdigit() and words[1].isdigit():
            found.append((int(words[0]), int(words[1]), words[2], words[3:]))
    return found


def table(device):
    # type: (str) -> List[Tuple[int, int, str, List[str]]]
    return rows(_tool(["dmsetup", "table", device]))


def status(device):
    # type: (str) -> List[Tuple[int, int, str, List[str]]]
    return rows(_tool(["dmsetup", "status", "--noflush", device]))


def obstacles(targets):
    # type: (List[str]) -> List[str]
    """Why writing into a volume made of these would leave what was there. Pure."""
    if not targets:
        return ["the device mapper shows nothing of it"]
    strange = sorted({name for name in targets if name != "thin" and not any(name == one or name.startswith(one) for one in PLAIN)})
    return [WHY_NOT.get(name, "it is made by %r, of which nothing is known here" % name) for name in strange]


def pool_state(words):
    # type: (List[str]) -> Dict[str, Any]
    """Of a pool's status: per cent of data and of metadata that is used, its mode. Pure."""
    try:
        meta, data = [[int(part) for part in word.split("/")] for word in words[1:3]]
        return {
            "data_percent": 100.0 * data[0] / data[1],
            "metadata_percent": 100.0 * meta[0] / meta[1],
            "mode": _mode(words),
            "used": data[0],
            "total": data[1],
        }
    except (IndexError, ValueError, ZeroDivisionError):
        raise ThinError("the state of the pool cannot be read: %s" % " ".join(words)[:200])


def _mode(words):
    return next((word for word in words[3:] if word in ("rw", "ro", "out_of_data_space")), "unknown")


def pool_problem(state, limit=LIMIT):
    # type: (Dict[str, Any], float) -> Optional[str]
    """Why nothing more may be written to anything on this pool. Pure."""
    if state["mode"] != "rw":
        return "its pool is %s" % state["mode"]
    for name in ("data", "metadata"):
        if state[name + "_percent"] >= limit:
            return "its pool has used %.1f %% of its %s, the limit is %.0f %%" % (state[name + "_percent"], name, limit)
    return None


def mappings(text, number):
    # type: (str, int) -> Tuple[int, List[Tuple[int, int, int]], List[int], int]
    """From thin_dump: (block size in bytes, [(block of the volume, block of the pool, count)], other volumes that share some, blocks that
    a snapshot has shared once). Pure.

    A block that is older than the volume's last snapshot is shared for the kernel, also when that snapshot is long removed: the first
    write to it goes to a new block, and the old one goes back to the pool with what it holds."""
    try:
        root = ET.fromstring(text)  # noqa: S314 - what thin_dump says
        block = int(root.get("data_block_size") or 0) * SECTOR
        found = {}  # type: Dict[int, List[Tuple[int, int, int]]]
        once = 0
        for device in root.iter("device"):
            name = int(device.get("dev_id") or -1)
            own = found.setdefault(name, [])
            for one in device:
                if one.tag == "single_mapping":
                    own.append((int(one.get("origin_block") or 0), int(one.get("data_block") or 0), 1))
                elif one.tag == "range_mapping":
                    own.append((int(one.get("origin_begin") or 0), int(one.get("data_begin") or 0), int(one.get("length") or 0)))
                else:
                    continue
                if name == number and int(one.get("time") or 0) < int(device.get("snap_time") or 0):
                    once += own[-1][2]
    except (ET.ParseError, ValueError) as err:
        raise ThinError("what thin_dump says cannot be read: %s" % err)
    if not block or number not in found:
        raise ThinError("thin_dump says nothing of the volume %d" % number)
    mine = sorted(found.pop(number))
    return block, mine, sorted(other for other, rows_of in found.items() if _overlap(mine, rows_of)), once


def _overlap(mine, others):
    spans = sorted((data, data + count) for _origin, data, count in mine)
    for _origin, data, count in others:
        for start, end in spans:
            if start >= data + count:
                break
            if data < end:
                return True
    return False


def parts(rows_of, block, size):
    # type: (List[Tuple[int, int, int]], int, int) -> List[Tuple[int, int]]
    """[(start, end)] in bytes of the volume that have blocks in the pool, neighbours joined. Pure."""
    joined = []  # type: List[List[int]]
    for origin, _data, count in sorted(rows_of):
        start, end = origin * block, min((origin + count) * block, size)
        if end <= start:
            continue
        if joined and joined[-1][1] == start:
            joined[-1][1] = end
        else:
            joined.append([start, end])
    return [(start, end) for start, end in joined]


class Volume:
    """One logical volume, asked through dmsetup. name: as in /dev/mapper."""

    def __init__(self, path):
        # type: (str) -> None
        self.path = path
        self.rows = table(path)
        self.targets = [row[2] for row in self.rows]
        self.thin = self.targets == ["thin"]
        self.pool, self.number = "", -1
        if self.thin:
            words = self.rows[0][3]
            if len(words) != 2:
                raise ThinError("%s has an external origin; what it shows lies in another volume" % path)
            self.pool, self.number = dm_name(words[0]), int(words[1])

    def state(self):
        # type: () -> Dict[str, Any]
        """The pool, and how many sectors of it are this volume's."""
        (pool,) = [row for row in status(self.pool) if row[2] == "thin-pool"]
        (own,) = status(self.path)
        return dict(pool_state(pool[3]), mapped=int(own[3][0]) if own[3] and own[3][0].isdigit() else None)

    def mapped(self):
        # type: () -> Tuple[int, List[Tuple[int, int, int]], List[int], int]
        """The blocks of the pool that are this volume's, from a snapshot of the pool's metadata that is released again."""
        meta = self._metadata()
        # One that we left behind when we were killed is ours to release; another's is not.
        marker = os.path.join(MARKERS, "sunset-thin-%s" % self.pool.replace("/", "_"))
        if os.path.exists(marker) and self._held():
            _tool(["dmsetup", "message", self.pool, "0", "release_metadata_snap"])
        if self._held():
            raise ThinError(
                "somebody holds a snapshot of the metadata of the pool %s; wait for it, or release it: dmsetup message %s 0 release_metadata_snap"
                % (self.pool, self.pool)
            )
        with open(marker, "w"):
            pass
        _tool(["dmsetup", "message", self.pool, "0", "reserve_metadata_snap"])
        try:
            return mappings(_tool(["thin_dump", "--metadata-snap", meta], timeout=900), self.number)
        finally:
            _tool(["dmsetup", "message", self.pool, "0", "release_metadata_snap"])
            os.unlink(marker)

    def _held(self):
        (words,) = [row[3] for row in status(self.pool) if row[2] == "thin-pool"]
        return len(words) > 3 and words[3] != "-"

    def _metadata(self):
        (words,) = [row[3] for row in table(self.pool) if row[2] == "thin-pool"]
        return "/dev/mapper/" + dm_name(words[0])


def dm_name(number):
    # type: (str) -> str
    """The device mapper's name of '253:4'."""
    name = disk_device._read("/sys/dev/block/%s/dm/name" % number)
    if not name:
        raise ThinError("the device %s is no device of the device mapper" % number)
    return name


def below(number):
    # type: (str) -> Dict[str, List[str]]
    """Pools and snapshots that a device lies on, through all layers below it: {pools: [name], snapshots: [why]}."""
    found = {"pools": [], "snapshots": []}  # type: Dict[str, List[str]]
    seen = set()
    waiting = [number]
    while waiting:
        one = waiting.pop()
        if one in seen:
            continue
        seen.add(one)
        base = os.path.realpath("/sys/dev/block/" + one)
        if os.path.exists(base + "/partition"):
            waiting.append(disk_device._read(os.path.dirname(base) + "/dev") or one)
        uuid, name = disk_device._read(base + "/dm/uuid") or "", disk_device._read(base + "/dm/name") or one
        if uuid.endswith("-tpool"):
            found["pools"].append(name)
            continue
        if uuid.startswith("LVM-") and uuid.endswith(("-real", "-cow")):
            found["snapshots"].append(name)
        for slave in sorted(os.listdir(base + "/slaves")) if os.path.isdir(base + "/slaves") else []:
            waiting.append(disk_device._read("/sys/class/block/%s/dev" % slave) or "")
    return found


def pool_of(name):
    # type: (str) -> Dict[str, Any]
    """The state of a pool by its name."""
    (words,) = [row[3] for row in status(name) if row[2] == "thin-pool"]
    (shape,) = [row[3] for row in table(name) if row[2] == "thin-pool"]
    state = pool_state(words)
    block = int(shape[2]) * SECTOR
    return dict(state, data_bytes=state["total"] * block, free_bytes=(state["total"] - state["used"]) * block)
