# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A large artefact on its way into segments: a stream that is cut, and each piece its own file of stock age.

Private to the collection. Valid for Python 3.6, standard library. A stream of age cannot be continued in its middle (each
file has a new key), so what is to survive an interruption must be a file of its own. Any person joins them again:

    for one in FILE.*.age; do age -d -i package.identity "$one" || break; done >FILE
"""

import os
from typing import Any, Callable, Dict, List, Optional  # noqa: F401

from ansible_collections.sunset.crm.plugins.module_utils._vault_pipe import Worker
from ansible_collections.sunset.crm.plugins.module_utils._vault_stream import Sealer

MIB = 1 << 20
SMALLEST, LARGEST = 4 * MIB, 1024 * MIB
# A killed vault loses the segment that is filled and the one that is being synced: two of these are under a hundredth.
PARTS = 256
# The names sort as the segments do only while the numbers have four digits.
MOST = 9999
# A cut connection leaves a segment that ends early; below this size it is not worth a file.
WORTH = MIB // 4


def segment_size(total):
    # type: (int) -> int
    """How large the segments of an artefact of that many bytes are."""
    wanted = max(SMALLEST, min(LARGEST, -(-total // PARTS)), -(-total // (MOST // 2)))
    return -(-wanted // MIB) * MIB


def segment_name(file, number):
    # type: (str, int) -> str
    return "%s.%04d.age" % (file, number)


class Cutter(object):
    """Takes a stream and makes segments of it, numbered on from `first`; keep(segment) is called when one has its final name.

    While a segment is filled, the one before it is synced and recorded in a thread, and the age process of the next starts.
    """

    def __init__(self, folder, file, first, size, recipient, keep):
        # type: (str, str, int, int, str, Callable[[Dict[str, Any]], Any]) -> None
        self.folder, self.file, self.number, self.size, self.recipient, self.keep = folder, file, first, size, recipient, keep
        self.current = None  # type: Optional[Sealer]
        self.ahead = None  # type: Optional[Sealer]
        self.finishing = None  # type: Optional[Worker]
        self.sealers = []  # type: List[Sealer]

    def _sealer(self, number):
        # type: (int) -> Sealer
        sealer = Sealer(self.recipient, os.path.join(self.folder, segment_name(self.file, number)))
        self.sealers.append(sealer)
        return sealer

    def take(self, block):
        # type: (bytes) -> None
        view = memoryview(block)
        while len(view):
            if self.current is None:
                self.current, self.ahead = self.ahead or self._sealer(self.number), None
            piece = view[: self.size - self.current.plain.bytes]
            view = view[len(piece) :]
            self.current.write(piece)
            filled = self.current.plain.bytes
            if filled == self.size:
                self._hand_over(self.current)
            elif self.ahead is None and filled * 2 >= self.size:
                self.ahead = self._sealer(self.number + 1)

    def _hand_over(self, sealer):
        # type: (Sealer) -> None
        number = self.number
        sealer.end()
        self._wait()
        self.finishing = Worker(lambda: self._finish(sealer, number))
        self.finishing.start()
        self.current, self.number = None, number + 1

    def _finish(self, sealer, number):
        # type: (Sealer, int) -> None
        facts = sealer.finish()
        os.rename(sealer.part, sealer.target)
        self.keep(dict(facts, file=segment_name(self.file, number)))
        self.sealers.remove(sealer)

    def _wait(self):
        # type: () -> None
        if self.finishing is not None:
            self.finishing.join()
            worker, self.finishing = self.finishing, None
            if worker.error is not None:
                raise worker.error

    def end(self, worth=0):
        # type: (int) -> None
        """The end of the stream: the last segment may be short. worth: drop it if it holds less."""
        if self.current is not None and self.current.plain.bytes >= worth:
            self._hand_over(self.current)
        self._wait()
        self.abandon()

    def abandon(self):
        # type: () -> None
        """Leave no process and no part behind. What was kept stays."""
        if self.finishing is not None:
            self.finishing.join()
            self.finishing = None
        for sealer in self.sealers:
            sealer.abandon()
        self.sealers, self.current, self.ahead = [], None, None
