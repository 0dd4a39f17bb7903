# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What stands on what among block devices, and who uses each: pure, over a snapshot that _disk.world reads.

Private to the collection; it may change at any time. Valid for Python 3.6.

snapshot: blocks {name: {number, partition_of, slaves, dm_uuid, dm_name, md_level, loop_file, loop_on, ...}}; mounts
[[number, point, type]]; swaps [[number, path]]; descriptors [[number, pid, comm]]; exports [[number, what]]; exclusive
{name: yes | no | unknown}; root {verdict, numbers}; incomplete {part: why}.
"""

import re
from typing import Any, Dict, List, Optional, Set

from ansible_collections.sunset.crm.plugins.module_utils._disk.words import NO, UNKNOWN, YES, Row

Snapshot = Dict[str, Any]
HYPERVISORS = re.compile(r"^(qemu|kvm|cloud-hyperviso|firecracker|vhost|virtualbox|VBox|xl$|bhyve|vmware)", re.I)
DM_KINDS = (
    (re.compile(r"^(part\d+-)?mpath-"), "multipath"),
    (re.compile(r"^CRYPT-"), "dm-crypt"),
    (re.compile(r"^LVM-.*-t?pool$"), "lvm-thin-pool"),
    (
        re.compile(r"^LVM-.*-(tdata|tmeta|cdata|cmeta|cpool|cvol|pmspare|rimage_\d+|rmeta_\d+|real|cow|mimage_\d+|corig|vdata|vpool)$"),
        "lvm-internal",
    ),
    (re.compile(r"^LVM-"), "lvm"),
)
# What claims a device exclusively. When an exclusive open succeeded, none of these is there, seen or not.
CLAIMED = ("mounts", "swaps", "stack", "machine")


def layer_of(name: str, block: Row, blocks: Dict[str, Row]) -> Optional[str]:
    """What a device made of others is; None for a device of its own."""
    if block.get("partition_of"):
        return "partition"
    if block.get("dm_uuid") is not None or re.match(r"^dm-\d+$", name):
        return _dm_layer(block, blocks)
    if re.match(r"^mmcblk\d+(boot|gp|rpmb)", name):
        return "card-area"  # boot partitions and the like: part of a card, with a node of their own
    for pattern, kind in ((r"^md(_|\d|p)", "md"), (r"^bcache\d", "bcache"), (r"^loop\d", "loop"), (r"^drbd\d", "drbd"), (r"^zd\d", "zvol")):
        if re.match(pattern, name):
            return kind
    return None


def _dm_layer(block: Row, blocks: Dict[str, Row]) -> str:
    uuid = block.get("dm_uuid") or ""
    kind = next((kind for pattern, kind in DM_KINDS if pattern.match(uuid)), "dm")
    if kind == "lvm" and any((blocks.get(one, {}).get("dm_uuid") or "").endswith("-tpool") for one in block.get("slaves", [])):
        return "lvm-thin"
    return kind


class Stack(object):
    """The graph of one machine."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.blocks: Dict[str, Row] = snapshot["blocks"]
        self.by_number = {block["number"]: name for name, block in self.blocks.items() if block.get("number")}
        self.children: Dict[str, Set[str]] = {name: set() for name in self.blocks}
        for name in self.blocks:
            for parent in self.parents(name):
                if parent in self.children:
                    self.children[parent].add(name)

    def parents(self, name: str) -> List[str]:
        """Directly below: the disk of a partition, the members of an array or a mapping, the device that carries a loop's file."""
        block = self.blocks[name]
        found = [block["partition_of"]] if block.get("partition_of") else []
        found += list(block.get("slaves") or [])
        if block.get("loop_on") in self.by_number:
            found.append(self.by_number[block["loop_on"]])
        return sorted(one for one in set(found) if one != name)

    def _walk(self, name: str, step: Any) -> List[str]:
        seen: Set[str] = set()
        frontier = [name]
        while frontier:
            for one in step(frontier.pop()):
                if one not in seen and one != name:
                    seen.add(one)
                    frontier.append(one)
        return sorted(seen)

    def above(self, name: str) -> List[str]:
        return self._walk(name, lambda one: self.children.get(one, ()))

    def below(self, name: str) -> List[str]:
        return self._walk(name, lambda one: self.parents(one) if one in self.blocks else ())

    def layer(self, name: str) -> Optional[str]:
        return layer_of(name, self.blocks[name], self.blocks)

    def multipath(self, name: str) -> Optional[str]:
        """The map whose path this device is."""
        return next((one for one in sorted(self.children.get(name, ())) if self.layer(one) == "multipath"), None)

    def holders(self, name: str) -> List[Row]:
        """Everybody who uses the device or something on it."""
        rows: List[Row] = []
        here = [name] + self.above(name)
        numbers = {self.blocks[one].get("number"): one for one in here}
        for number, point, kind in self.snapshot.get("mounts", ()):
            if number in numbers:
                rows.append({"kind": "mount", "what": "%s (%s)" % (point, kind), "device": numbers[number]})
        for number, path in self.snapshot.get("swaps", ()):
            if number in numbers:
                rows.append({"kind": "swap", "what": path, "device": numbers[number]})
        for number, pid, comm in self.snapshot.get("descriptors", ()):
            if number in numbers:
                kind = "vm" if HYPERVISORS.match(comm) else "descriptor"
                rows.append({"kind": kind, "what": "process %s (%s)" % (pid, comm), "device": numbers[number]})
        for number, what in self.snapshot.get("exports", ()):
            if number in numbers:
                rows.append({"kind": "export", "what": what, "device": numbers[number]})
        for one in here[1:]:
            layer = self.layer(one)
            if layer != "partition":
                rows.append({"kind": "loop" if layer == "loop" else "stacked", "what": self.label(one), "device": one})
        for one in here:
            if self.blocks[one].get("number") in self.snapshot.get("root", {}).get("numbers", ()):
                rows.append({"kind": "system", "what": "the running system of this machine", "device": one})
            # The kernel's word counts where nothing that can be seen explains it: a claim in another world (ZFS, a mount elsewhere).
            if self.snapshot.get("exclusive", {}).get(one) == YES and not any(row["kind"] not in ("descriptor", "vm") for row in rows):
                rows.append({"kind": "exclusive", "what": "the kernel says that it is claimed, by whom cannot be seen", "device": one})
        return sorted(_once(rows), key=lambda row: (row["kind"], row["device"], row["what"]))

    def label(self, name: str) -> str:
        """A name for people: dm-0 says nothing."""
        block = self.blocks[name]
        words = [self.layer(name) or "device", str(block.get("dm_name") or block.get("loop_file") or name)]
        return " ".join(words)

    def held(self, name: str, rows: List[Row]) -> Row:
        """{verdict, why}: no only where nothing was found and nothing could hide."""
        if rows:
            return {"verdict": YES, "why": ""}
        free = self.snapshot.get("exclusive", {}).get(name) == NO
        hidden = [
            "%s: %s" % (part, why)
            for part, why in sorted(self.snapshot.get("incomplete", {}).items())
            if not (free and part in CLAIMED)
        ]  # fmt: skip
        if hidden:
            return {"verdict": UNKNOWN, "why": "nobody was seen, but not everything could be read (%s)" % "; ".join(hidden)}
        if not free:
            return {"verdict": UNKNOWN, "why": "nobody was seen, but the device could not be opened exclusively to make sure"}
        return {"verdict": NO, "why": ""}

    def carries_root(self, name: str) -> str:
        root = self.snapshot.get("root", {})
        numbers = {self.blocks[one].get("number") for one in [name] + self.above(name)}
        if numbers & set(root.get("numbers", ())):
            return YES
        return NO if root.get("verdict") in (YES, NO) else UNKNOWN


def _once(rows: List[Row]) -> List[Row]:
    seen: Set[Any] = set()
    found: List[Row] = []
    for row in rows:
        key = (row["kind"], row["what"], row["device"])
        if key not in seen:
            seen.add(key)
            found.append(row)
    return found
