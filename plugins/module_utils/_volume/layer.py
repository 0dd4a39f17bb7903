# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One layer of a virtual disk, opened, claimed and judged: which of its bytes have blocks, and whether writing them reaches those blocks.

Private to the collection. Valid for Python 3.6, standard library; travels with the wipe job. Writes nothing itself.
"""

import os
import stat
from typing import Any, Dict, List  # noqa: F401

from ansible_collections.sunset.crm.plugins.module_utils._disk import device as disk_device
from ansible_collections.sunset.crm.plugins.module_utils._volume import (
    chain as volume_chain,
    extents as volume_extents,
    judge as volume_judge,
    thin as volume_thin,
    users as volume_users,
)
from ansible_collections.sunset.crm.plugins.module_utils._wipe import engine as wipe_engine, judge as wipe_judge

UNIT = wipe_judge.UNIT
Refused = wipe_engine.Refused


class Layer:
    """One file or volume, opened for direct writing and claimed."""

    def __init__(self, expected, number, key, begun, write=True):
        # type: (Dict[str, Any], int, bytes, bool, bool) -> None
        self.path, self.number, self.may_write = str(expected["path"]), number, write
        self.key = volume_judge.layer_key(key, number)
        self.found = volume_chain.facts_of(self.path)
        if expected.get("format") and not begun:
            self.found.update(format=expected["format"], virtual_bytes=self.found["bytes"])
            if expected["format"] == "qcow2":
                self.found["virtual_bytes"] = volume_chain.qcow2_header(self.path)["virtual_bytes"]
        wrong = volume_chain.differences(expected, self.found, begun)
        if wrong:
            raise Refused(wrong)
        self.size = self.found["bytes"]
        self.kind = self.found["kind"]
        self.rows, self.map, self.parts = [], [], []  # type: List[Any], List[Any], List[Any]
        self.file_system, self.pools, self.thin = "", [], None  # type: str, List[str], Any
        self.fd = self._open()
        # What was compared with the plan was read by the name; what is written is this.
        opened = os.fstat(self.fd)
        block = stat.S_ISBLK(opened.st_mode)
        number = disk_device.device_number(opened.st_rdev if block else opened.st_dev)
        if (number, None if block else opened.st_ino) != (self.found["device"], self.found.get("inode")):
            self.close()
            raise Refused(["%s led to another file or device when it was looked at than when it was opened" % self.path])

    def _open(self):
        # type: () -> int
        flags = (os.O_RDWR | os.O_DIRECT if self.may_write else os.O_RDONLY) | os.O_CLOEXEC | os.O_NONBLOCK
        try:
            if self.kind == "file":
                return os.open(self.path, flags | os.O_NOFOLLOW)
            return os.open(self.path, flags | os.O_EXCL)  # the kernel's own word that nothing is mounted from it or made of it
        except OSError as err:
            raise Refused(
                ["%s cannot be opened for %s: %s" % (self.path, "exclusive direct writing" if self.may_write else "a look", err.strerror)]
            )

    def close(self):
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1

    def judge(self):
        # type: () -> List[str]
        """Where it lies, and why it may not be overwritten. Fills map, parts and pools."""
        if self.kind == "block":
            return ["it is a whole device or partition; plan it as a medium of its own"]
        if not volume_users.lock(self.fd, take=self.may_write):
            return ["somebody holds a lock on it (QEMU does while it uses an image)"]
        return self._judge_file() if self.kind == "file" else self._judge_volume()

    def _judge_file(self):
        found = os.fstat(self.fd)
        if found.st_ino != self.found["inode"] or found.st_nlink != 1:
            return ["it has %d names (hard links), or was replaced; expected one file with one name" % found.st_nlink]
        facts = volume_extents.read(self.fd)
        self.file_system, self.rows = facts["file_system"], facts["extents"]
        reasons = [facts["problem"]] if facts["problem"] else []
        reasons += volume_extents.obstacles(facts["file_system"], facts["nocow"], self.rows)
        self.map, self.parts = volume_extents.places(self.rows), volume_extents.parts(self.rows, self.size)
        stack = volume_thin.below(str(self.found["device"]))
        if stack["snapshots"]:
            reasons.append(
                "the volume below its file system has snapshots (%s), which keep what is overwritten" % ", ".join(stack["snapshots"])
            )
        self.pools = stack["pools"]
        return reasons

    def _judge_volume(self):
        try:
            self.thin = volume_thin.Volume(self.path)
            reasons = volume_thin.obstacles(self.thin.targets)
            if reasons:
                return reasons
            if self.thin.thin and not self.may_write:
                self.pools = [self.thin.pool]
                return []
            if not self.thin.thin:
                self.parts, self.map = [(0, self.size)], [[list(row[:3]), row[3]] for row in self.thin.rows]
                self.pools = volume_thin.below(str(self.found["device"]))["pools"]
                return []
            block, rows, others, once = self.thin.mapped()
        except volume_thin.ThinError as err:
            return [str(err)]
        self.pools, self.map = [self.thin.pool], [[origin, data, count] for origin, data, count in rows]
        self.parts = volume_thin.parts(rows, block, self.size)
        if others:
            return [
                "some of its blocks are also those of the thin volume(s) %s of the pool %s (snapshots): writing would take new blocks of the pool "
                "and leave the old ones. Retire or remove these first" % (", ".join(str(one) for one in others), self.thin.pool)
            ]
        if once:
            return [
                "a snapshot that is gone has shared %d of its blocks: the first write to each takes a new block of the pool %s and leaves the old "
                "one there with what it holds. Wipe the disks below the pool when they are free, or account for it by a disposal or a waiver"
                % (once, self.thin.pool)
            ]
        return []

    def map_now(self):
        # type: () -> List[Any]
        if self.kind == "file":
            return volume_extents.places(volume_extents.extents(self.fd))
        again = volume_thin.Volume(self.path)
        if again.thin:
            return [[origin, data, count] for origin, data, count in again.mapped()[1]]
        return [[list(row[:3]), row[3]] for row in again.rows]

    @property
    def whole_parts(self):
        # type: () -> List[Any]
        """Without the odd end of a file, which direct writing cannot reach."""
        return [(start, min(end, self.size // UNIT * UNIT)) for start, end in self.parts if start < self.size // UNIT * UNIT]

    @property
    def tail(self):
        # type: () -> List[int]
        """[start, end] of the odd end, if it has a block."""
        start = self.size // UNIT * UNIT
        held = any(first <= start < end for first, end in self.parts)
        return [start, self.size] if start < self.size and held else []


def unknown_layers(layers, spec):
    # type: (List[Any], Dict[str, Any]) -> List[str]
    """Files that the headers show behind the disk and that nobody has planned, and planned ones that nothing leads to."""
    mine = [layer.path for layer in layers if spec["layers"][layer.number].get("role") != "copy"]
    known = set(mine) | {os.path.realpath(path) for path in spec.get("known") or []}
    if not mine:
        return ["no layer of the disk is named"]
    look = volume_chain.look(mine[0], str(spec["layers"][0].get("format") or "raw"), known - set(mine))
    if look["problem"]:
        return [look["problem"]]
    shown = [one["path"] for one in look["chain"]]
    reasons = ["%s lies behind the disk, and no medium of the plan has it; survey again" % path for path in shown if path not in known]
    return reasons + ["%s is planned as a layer of the disk, and nothing leads to it" % path for path in mine if path not in shown]


def refusals(spec, begun):
    # type: (Dict[str, Any], bool) -> List[str]
    """Why these layers may not be overwritten now, without opening any of them for writing."""
    reasons = volume_users.reasons([layer["path"] for layer in spec["layers"]], spec.get("known") or [], spec.get("guests") or [])
    layers = []  # type: List[Any]
    try:
        for number, expected in enumerate(spec["layers"]):
            try:
                layers.append(Layer(expected, number, bytes(32), begun, write=False))
                reasons += ["%s: %s" % (expected["path"], line) for line in layers[-1].judge()]
            except Refused as err:
                reasons += err.reasons
            except (OSError, volume_chain.ChainError) as err:
                reasons.append("%s: %s" % (expected["path"], err))
        if not reasons and not begun:
            reasons = unknown_layers(layers, spec)
    finally:
        for layer in layers:
            layer.close()
    return reasons
