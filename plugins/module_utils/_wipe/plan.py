# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which places of a medium are looked at, when not all are: NIST SP 800-88's sampling plan. Pure.

Private to the collection. Valid for Python 3.6, standard library; travels with the wipe job.

The medium is cut into 1,000 equal subsections. In each one two places that do not overlap are chosen, each one twentieth
of the subsection long, so a tenth of the medium is covered; the first and the last block are always there. The
choice follows from a seed by SHA-256 alone, so anybody can work out the same places in any language; the
seed is new for each wipe.
"""

import bisect
import hashlib
import os
from typing import List, Tuple  # noqa: F401

UNIT = 4096
SECTIONS = 1000
SHARE = 20  # each of the two places is at least one twentieth of its subsection


def new_seed():
    # type: () -> str
    return "".join("%02x" % byte for byte in bytearray(os.urandom(32)))


def _two(seed, number):
    # type: (str, int) -> Tuple[int, int]
    text = "%s:%d" % (seed, number)
    digest = hashlib.sha256(text.encode("ascii")).digest()
    return int.from_bytes(digest[:16], "big"), int.from_bytes(digest[16:], "big")


def pieces(size, seed, sections=SECTIONS):
    # type: (int, str, int) -> List[Tuple[int, int]]
    """[(start, end)] in bytes, ascending, joined where they touch."""
    units = (size + UNIT - 1) // UNIT
    sections = max(1, min(sections, units))
    chosen = [(0, 1), (units - 1, units)]
    for number in range(sections):
        low, high = units * number // sections, units * (number + 1) // sections
        length = -(-(high - low) // SHARE)
        free = high - low - 2 * length
        if free <= 0:
            chosen.append((low, high))
            continue
        one, other = sorted(draw % (free + 1) for draw in _two(seed, number))
        chosen.append((low + one, low + one + length))
        chosen.append((low + other + length, low + other + 2 * length))
    joined = []  # type: List[List[int]]
    for start, end in sorted(chosen):
        if joined and start <= joined[-1][1]:
            joined[-1][1] = max(end, joined[-1][1])
        else:
            joined.append([start, end])
    return [(start * UNIT, min(end * UNIT, size)) for start, end in joined]


class Places:
    """The blocks of a plan, in order, without holding one entry a block."""

    def __init__(self, parts, block):
        # type: (List[Tuple[int, int]], int) -> None
        self.parts, self.block = parts, block
        self._starts = [start for start, _end in parts]
        self.total = sum(end - start for start, end in parts)

    def offsets(self):
        for start, end in self.parts:
            for offset in range(start, end, self.block):
                yield offset

    def length(self, offset):
        # type: (int) -> int
        """How many bytes of the plan follow from here, at most one block."""
        return min(self.block, self.parts[bisect.bisect_right(self._starts, offset) - 1][1] - offset)

    def holds(self, offset):
        # type: (int) -> bool
        at = bisect.bisect_right(self._starts, offset) - 1
        return at >= 0 and offset < self.parts[at][1]

    def unit(self, number):
        # type: (int) -> int
        """The offset of the plan's unit of that number."""
        for start, end in self.parts:
            count = (end - start + UNIT - 1) // UNIT
            if number < count:
                return start + number * UNIT
            number -= count
        raise IndexError(number)

    @property
    def units(self):
        # type: () -> int
        return sum((end - start + UNIT - 1) // UNIT for start, end in self.parts)


def whole(size):
    # type: (int) -> List[Tuple[int, int]]
    return [(0, size)]


def describe(parts, size, seed):
    """What the evidence says about a plan."""
    covered = sum(end - start for start, end in parts)
    return {
        "name": "NIST SP 800-88 sampling: %d subsections, two places each, first and last block" % SECTIONS,
        "seed": seed, "places": len(parts), "bytes": covered, "share": round(float(covered) / size, 4),
    }  # fmt: skip
