# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A fresh look at a virtual disk that was overwritten: do its layers hold the stream still, or are they gone as was asked? Reads only.

Private to the collection. Valid for Python 3.6, standard library.
"""

import errno
import os
import random

from ansible_collections.sunset.crm.plugins.module_utils._volume import chain as volume_chain, judge as volume_judge
from ansible_collections.sunset.crm.plugins.module_utils._wipe import judge as wipe_judge, passes as wipe_passes, plan as wipe_plan

UNIT = wipe_judge.UNIT


def sample(result, key, count=64):
    """Read-only: do unpredictable places of every layer hold the stream still? (wrong, read, why)"""
    wrong, read, chooser = [], [], random.SystemRandom()
    for number, row in enumerate(result.get("layers") or []):
        if row["removed"]:
            if os.path.exists(row["path"]):
                return [row["path"]], [row["path"]], "%s is there again" % row["path"]
            read.append(row["path"])
            continue
        try:
            fd = os.open(row["path"], os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as err:
            return [], [], "%s: %s" % (row["path"], err.strerror)
        try:
            facts = volume_chain.facts_of(row["path"])
            if any(facts.get(name) != row.get(name) for name in ("inode", "uuid", "bytes")):
                return [row["path"]], [row["path"]], "%s is another one than the one that was wiped" % row["path"]
            ends = [(start, min(end, row["bytes"] // UNIT * UNIT)) for start, end in row["ranges"]]
            places = wipe_plan.Places([part for part in ends if part[0] < part[1]], wipe_passes.BLOCK)
            if not places.total:
                read.append(row["path"])
                continue
            worker = wipe_passes.Worker(fd, volume_judge.layer_key(key, number), row["bytes"])
            for unit in sorted({0, places.units - 1} | {chooser.randrange(places.units) for _number in range(count)}):
                place = places.unit(unit)
                if any(start < place + UNIT and place < end for start, end in row.get("error_ranges") or []):
                    continue  # known to be bad: it makes the result one with exceptions, and tells nothing of the others
                read.append(place)
                if not worker.holds_stream(place, min(UNIT, places.length(place))):
                    wrong.append(place)
            worker.close()
        except OSError as err:
            return wrong, read, "%s: %s" % (row["path"], os.strerror(err.errno or errno.EIO))
        finally:
            os.close(fd)
    return wrong, read, ""
