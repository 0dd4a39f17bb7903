# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A wiped medium is looked at again, from its certificate alone: is it that medium, and does it still hold what it was left with?

Private to the collection. Valid for Python 3.6, standard library. Reads only.
"""

import os
import subprocess
from typing import Any, Dict, List, Optional, Set, Tuple  # noqa: F401

from ansible_collections.sunset.crm.plugins.module_utils._disk import device as disk_device
from ansible_collections.sunset.crm.plugins.module_utils._wipe import judge as wipe_judge, passes as wipe_passes, plan as wipe_plan

STREAM, ZEROS, GONE = "stream", "zeros", "gone"
# What a medium was left with -> the pass that collects the places where it is otherwise.
PASSES = {STREAM: wipe_passes.VerifyPass, ZEROS: wipe_passes.ZeroVerifyPass, GONE: wipe_passes.SurvivorPass}
SAME, CHANGED, REUSED, OTHER, UNKNOWN = "same", "changed", "reused", "another medium", "unknown"
NOT_CONTRADICTED, CONTRADICTED = "not contradicted", "contradicted"


def verdict(left, identity, differing, unreadable, listed, units, sign):
    # type: (str, List[str], int, int, int, int, str) -> Tuple[str, str]
    """The word for what was seen, and why.

    left: what the certificate says the medium was left with; identity: lines in which it is not the certificate's; differing, unreadable:
    units that are not as they were left, or cannot be read, without those that the certificate lists as bad; listed: how many of these
    were met (a bad place that cannot be read excuses no other one); units: how many were looked at; sign: a file system or table that
    a stock tool recognises.
    """
    if identity:
        return OTHER, "; ".join(identity)
    if not units or unreadable:
        return UNKNOWN, "%d of %d places could not be read" % (unreadable, units)
    if left == GONE:
        if differing:
            return CONTRADICTED, "%d places hold what the purge is said to have removed" % differing
        return (
            NOT_CONTRADICTED,
            "no keyed block has survived; what the purge left behind is not known, so nobody can see that it is still there",
        )
    if not differing:
        return SAME, "every place looked at is as it was left" + (", but for the bad places of the certificate" if listed else "")
    if sign:
        return REUSED, "%d of %d places differ, and there is %s on it" % (differing, units, sign)
    if 2 * differing > units:
        return REUSED, "%d of %d places differ" % (differing, units)
    return CHANGED, "%d of %d places differ" % (differing, units)


def within(places, ranges):
    # type: (Any, List[List[int]]) -> Set[int]
    """Those of the places (units of 4 KiB) that lie in ranges [[start, end)]."""
    return {place for place in places if any(start < place + wipe_plan.UNIT and place < end for start, end in ranges)}


def signature(device):
    # type: (str) -> str
    """What blkid recognises, in its own words; empty if nothing, or if there is no blkid."""
    try:
        argv = ["blkid", "-p", "-o", "value", "-s", "TYPE", "-s", "PTTYPE", device]
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    words = done.stdout.decode("ascii", "replace").split()
    return "a signature of " + ", ".join(words) if done.returncode == 0 and words else ""


def audit(device, identity, key, left, error_ranges, seed, ranges=None):
    # type: (str, Dict[str, Any], bytes, str, List[List[int]], Optional[str], Optional[List[List[int]]]) -> Dict[str, Any]
    """Look at the device. seed: of the sampling plan; None reads every byte. ranges: all that was written, and so all that can be looked
    at, where it was not the whole device; it is read whole. Raises OSError where it cannot be opened."""
    fd = os.open(device, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        found = disk_device.identify(fd)
        wrong = disk_device.compare_identity(identity, found)
        facts = {"found": disk_device.public_identity(found), "left": left}  # type: Dict[str, Any]
        if wrong:
            word, why = verdict(left, wrong, 0, 0, 0, 0, "")
            return dict(facts, verdict=word, why=why)
        size = found["size"]
        if ranges:
            seed, parts = None, [(start, end) for start, end in ranges]
        else:
            parts = wipe_plan.pieces(size, seed) if seed else wipe_plan.whole(size)
        places = wipe_plan.Places(parts, wipe_passes.BLOCK)
        work = PASSES[left](fd, key, size, places=places)
        with wipe_passes.Runner(work, 0, size, wipe_passes.workers()) as runner:
            while not runner.wait(1.0):
                pass
        same_at_end = not disk_device.compare_identity(identity, disk_device.identify(fd))
    finally:
        os.close(fd)
    differing = len(work.mismatched)
    listed = within(work.mismatched | work.unreadable, error_ranges)
    # What a purge has left of the keyed blocks is a contradiction wherever it is.
    wrong_places = work.mismatched if left == GONE else work.mismatched - listed
    sign = signature(device) if wrong_places else ""
    gone = [] if same_at_end else ["it was exchanged while it was read"]
    word, why = verdict(left, gone, len(wrong_places), len(work.unreadable - listed), len(listed), places.units, sign)
    return dict(
        facts, verdict=word, why=why, bytes_read=work.bytes_read, places=places.units, differing=differing,
        unreadable=len(work.unreadable), differing_ranges=wipe_judge.unit_ranges(work.mismatched, size)[: wipe_judge.LISTED_RANGES],
        sign=sign, plan=wipe_plan.describe(parts, size, seed) if seed else {"name": "every byte that was written", "bytes": places.total},
    )  # fmt: skip
