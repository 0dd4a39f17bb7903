# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The media that a machine of the living (control node, vault) has in use: what no wipe may ever be handed. Reads only.

Private to the collection; it may change at any time. Valid for Python 3.6. Needs no root: the kernel's own words are enough, no disk is
asked or woken, and none is claimed even for a moment: an administrator of this machine may be mounting it.
"""

from typing import Any, Dict, Iterable, List

from ansible_collections.sunset.crm.plugins.module_utils._disk import device as disk_device, facts as disk_facts, world as disk_world
from ansible_collections.sunset.crm.plugins.module_utils._disk.words import YES, Row

# A claim that nobody explains, or a process that looks at a disk, is no sign of this machine's own data: a station claims what it wipes.
USED = frozenset(("mount", "swap", "system", "stacked", "zfs"))
# A container is shown the arrays and the swap of the whole kernel, which are not its own; its mounts are.
USED_INSIDE = frozenset(("mount", "system"))


def name_of(fact: Row) -> Row:
    """What a list of protected disks says of one."""
    found = {field: value for field, value in (fact.get("identity") or {}).items() if value is not None}
    for field in ("serial", "wwn"):
        if fact.get(field):
            found[field] = fact[field]
    size = (fact.get("sizes") or {}).get("current")
    if size and not found.get("size"):
        found["size"] = size
    if found and not found.get("kind"):
        found["kind"] = disk_device.kind_of(fact["name"])
    return found


def choose(disks: Row, numbers: Iterable[str] = ()) -> List[Row]:
    """Pure: of what ``disk_info`` told of a machine, the media that it has in use, or that lie below devices with these numbers."""
    facts, numbers = list(disks["devices"]), set(numbers)
    used = USED_INSIDE if (disks.get("machine") or {}).get("container") == YES else USED
    below = {name for fact in facts if fact["number"] in numbers for name in [fact["name"]] + fact["below"]}
    return [
        name_of(fact)
        for fact in facts
        if fact["class"] not in ("layer", "memory", "optical")
        and (fact["root"] == YES or fact["name"] in below or used & {row["kind"] for row in fact["holders"]})
    ]


def read(paths: Iterable[str]) -> List[Dict[str, Any]]:
    """The media of this machine that are in use, and those that carry these folders. One that cannot be named has its size alone."""
    numbers = [number for number in (disk_world.number_behind(path) for path in paths) if number]
    return choose(disk_facts.read(ask=False, claim=False), numbers)
