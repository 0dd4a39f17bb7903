# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The job that destroys the keys of a LUKS volume: all that is not ciphertext is overwritten and read back. Runs detached: luks spec.json.

Private to the collection. Valid for Python 3.6, standard library.

C(cryptsetup erase) alone would not do. It leaves the header, with the digest of the volume key and the salts, and whoever kept a copy of
a key slot would know what it belongs to; it knows nothing of the second header of an older format; and nobody has read back what it did. So
the whole area before the data is overwritten with the keyed stream, both headers and every slot with it, and at least the first 8 MiB,
where headers of earlier formats lie. Some places are left out on purpose, and the verifier has to find exactly them.

The ciphertext stays. Whether that sanitises the medium is decided by what a person has signed (``wipe_keys``): without it, nothing is done.
"""

import collections
import os
import random
import subprocess
import sys
import time
from typing import Any, Dict, List, Set  # noqa: F401

from ansible_collections.sunset.crm.plugins.module_utils._disk import device as disk_device, luks_header as disk_luks_header
from ansible_collections.sunset.crm.plugins.module_utils._wipe import (
    engine as wipe_engine,
    judge as wipe_judge,
    keys as wipe_keys,
    passes as wipe_passes,
    plan as wipe_plan,
    purge as wipe_purge,
    stream as wipe_stream,
)

UNIT = wipe_judge.UNIT
DATA_SECTIONS, CIPHER_BLOCK, TELLING = 1000, 16, 128
CRYPTSETUP = ("/sbin/cryptsetup", "/usr/sbin/cryptsetup")


def reader(fd, size):
    """read(offset, length) past the page cache: what the device holds, not what somebody once read from it. Nothing where it cannot."""
    io = wipe_stream.DirectIO()

    def read(offset, length):
        low, end = offset // UNIT * UNIT, min(offset + length, size)
        if end <= offset:
            return b""
        count = min((end - low + UNIT - 1) // UNIT * UNIT, size - low)
        buffer = wipe_stream.Buffer(count)
        try:
            io.read(fd, buffer, low, count)
        except OSError:
            return b""
        return bytes(buffer.view[offset - low : end - low])

    return read


def obstacles(facts, ledger):
    # type: (Any, Any) -> List[str]
    """Why the keys of this volume are not destroyed in the place of its data; empty if they may be."""
    told = [row["why"] for row in wipe_keys.header_problems(facts)]
    return told + wipe_keys.ledger_problems(ledger, (facts or {}).get("uuid"))


def refusals(device, ledger):
    """Read-only, before a job is started."""
    try:
        fd = os.open(device, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as err:
        return ["%s cannot be opened: %s" % (device, err.strerror)]
    try:
        size = disk_device.identify(fd)["size"] or 0
        facts = disk_luks_header.header(reader(fd, size))
        return obstacles(facts, ledger) or data_problems(look(reader(fd, size), facts, size))
    finally:
        os.close(fd)


def readable(data):
    # type: (bytes) -> str
    """Noise, as ciphertext looks (and compressed data too); "plain", what no cipher leaves behind; or "empty": nothing was ever written
    there, or too little to tell. Cipher blocks of one repeated byte are left out: around what was written there is often what never was."""
    blocks = (data[start : start + CIPHER_BLOCK] for start in range(0, len(data), CIPHER_BLOCK))
    kept = b"".join(block for block in blocks if block != block[:1] * CIPHER_BLOCK)
    if len(kept) < TELLING:
        return "empty"
    # Pearson's measure of the 256 byte values. Noise has 255 by mean, and not once in 10^18 times more than 512; text has far more.
    squares = sum(count * count for count in collections.Counter(bytearray(kept)).values())
    return "plain" if squares * 256.0 / len(kept) - len(kept) > 512 else "noise"


def look_at_data(read, start, end):
    """Two blocks in each thousandth of the data: does one hold what was never encrypted? Nothing found is no proof, something found is."""
    told = {"noise": 0, "empty": 0, "plain": 0, "unreadable": 0}
    units = max(0, end - start) // UNIT
    chooser = random.SystemRandom()
    low, places = 0, set()  # type: int, Set[int]
    for number in range(1, DATA_SECTIONS + 1):
        high = units * number // DATA_SECTIONS
        places |= {chooser.randrange(low, high) for _two in range(2) if high > low}
        low = high
    for place in sorted(places):
        data = read(start + place * UNIT, UNIT)
        told[readable(data) if len(data) == UNIT else "unreadable"] += 1
    return dict(told, looked=len(places))


def look(read, facts, size):
    """The same for the data of a volume, at places that nobody knows before."""
    start = int(facts["header_bytes"])
    return look_at_data(read, start, min(size, start + int(facts.get("data_bytes") or size)))


def data_problems(told):
    # type: (Dict[str, int]) -> List[str]
    if not told["plain"]:
        return []
    text = (
        "%d of %d places of its data are no ciphertext: they were there before the encryption, or beside it. Overwrite it (overwrite-keyed)"
    )
    return [text % (told["plain"], told["looked"])]


def witness(device):
    """What cryptsetup itself says, where the machine has it: "gone", "found" or "unknown". Another program's eyes, by another way."""
    tool = next((path for path in CRYPTSETUP if os.path.exists(path)), None)
    if tool is None:
        return {"verdict": "unknown", "why": "cryptsetup is not on this machine"}
    try:
        argv = [tool, "isLuks", device]
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as err:
        return {"verdict": "unknown", "why": str(err)}
    # 1: no LUKS there; 4 and others: it could not look.
    word = {0: "found", 1: "gone"}.get(done.returncode, "unknown")
    return {"verdict": word, "why": "cryptsetup isLuks ends with %d" % done.returncode}


class Keys(wipe_engine.Wipe):
    """One volume, one state file."""

    def work(self):
        self.look_again()
        if self.state["phase"] == "new":
            self.ready()
        if self.state["phase"] == "write":
            self.destroy()
        if self.state["phase"] == "verify":
            self.verify()
        if self.state["phase"] == "canaries":
            self.wipe_canaries()

    def read(self):
        return reader(self.fd, self.size)

    def ready(self):
        """Nothing has been written yet. What the header says is kept: after this nobody can read it again."""
        facts, ledger = disk_luks_header.header(self.read()), self.spec.get("key_copies")
        reasons = obstacles(facts, ledger)
        if facts is None or reasons:
            raise wipe_engine.Refused(reasons)
        before = disk_luks_header.remains(self.read(), self.size)
        parts = disk_luks_header.area(facts, self.size)
        told = look(self.read(), facts, self.size)
        if data_problems(told):
            raise wipe_engine.Refused(data_problems(told))
        self.save(data=told, header=facts, headers_before=before, ledger=ledger, parts=parts)
        self.leave_out()

    def places(self):
        return wipe_plan.Places([(start, end) for start, end in self.state["parts"]], wipe_passes.BLOCK)

    def leave_out(self):
        """Unpredictable places that the pass does not write. With a second run of the same key the stream may be there: then noise is."""
        places, chooser, planted = self.places(), random.SystemRandom(), 0
        canaries = set()  # type: Set[int]
        worker = wipe_passes.Worker(self.fd, self.key, self.size)
        for _number in range(min(wipe_engine.CANARIES, max(1, places.units // 8))):
            place = places.unit(chooser.randrange(places.units))
            try:
                if worker.holds_stream(place, min(UNIT, self.size - place)):
                    worker.write_bytes(place, os.urandom(min(UNIT, self.size - place)))
                    planted += 1
                canaries.add(place)
            except OSError:
                continue
        worker.close()
        self.save(phase="write", canaries=sorted(canaries), planted=planted)

    def destroy(self):
        """From the start, however often it is begun: the area is small."""
        self.phase, places = "write", self.places()
        bad = set(self.state["bad"])
        work = wipe_passes.WritePass(
            self.fd, self.key, self.size, self.state["canaries"], self.spec.get("rate"), bad, places=places, cores=self.cores
        )
        seconds = self._pass(work)
        self.flush()
        self.still_the_same()
        self.save(phase="verify", bad=sorted(work.bad), write_seconds=seconds)

    def verify(self):
        self.phase, places = "verify", self.places()
        work = wipe_passes.VerifyPass(self.fd, self.key, self.size, self.spec.get("rate"), places, self.cores)
        before = self._counters()
        seconds = self._pass(work)
        after = self._counters()
        canaries, bad = self.state["canaries"], self.state["bad"]
        facts = wipe_judge.judge_verification(canaries, work.mismatched, work.unreadable, bad, self.size, work.bytes_read, places.total)
        facts.update(mode="full", seconds=seconds, unreadable=sorted(work.unreadable), covers="everything but the ciphertext")
        facts["accounting"] = wipe_judge.judge_accounting(before and before[0], after and after[0], work.bytes_read, before is not None)
        self.save(phase="canaries" if facts["verdict"] == "yes" else "verified", verification=facts)

    def result(self):
        state, places = self.state, self.places()
        verification = dict(state["verification"])
        unreadable = verification.pop("unreadable", [])
        errors = wipe_judge.unit_ranges(set(state["bad"]) | set(unreadable), self.size)
        counters, now = state.get("counters"), self._counters()
        accounting = {
            "written": wipe_judge.judge_accounting(
                counters and counters[1], now and now[1], places.total - wipe_judge.range_bytes(errors), counters is not None
            ),
            "read": verification.pop("accounting"),
        }
        reverified = state.get("reverification") or {"verdict": "no", "reasons": ["not done: the first one failed"]}
        after = disk_device.identify(self.fd)
        differences = disk_device.compare_identity(disk_device.public_identity(self.found), after)
        left, told = disk_luks_header.remains(self.read(), self.size), witness(self.spec["device"])
        gone = judge_gone(state["headers_before"], left, told)
        word, reasons, exceptions = wipe_judge.outcome(verification, reverified, accounting, differences, errors, more=[gone])
        verification["canaries_wiped"] = reverified.get("wiped", 0) if reverified["verdict"] == "yes" else 0
        verification["canaries_planted"] = state["planted"]
        virtual = wipe_judge.is_virtual(self.found["kind"], self.found)
        ended = time.time()
        return {
            "outcome": word, "reasons": reasons, "exceptions": exceptions, "device": self.spec["device"],
            "identity": disk_device.public_identity(after), "found": after, "size": self.size, "logical_block": after["logical_block"],
            "byte_ranges": [list(part) for part in state["parts"]], "error_ranges": errors[: wipe_judge.LISTED_RANGES],
            "algorithm": dict(wipe_engine.algorithm(self.key), use="over both headers, the key slots and all that is not ciphertext"),
            "verification": verification, "accounting": accounting, "technique": self.technique,
            "keys": {
                "header": state["header"], "headers_before": state["headers_before"], "headers_after": left, "witness": told,
                "ledger": state["ledger"], "data": state["data"], "ciphertext_left": self.size - places.total,
            },
            "left": wipe_purge.left(self.fd, self.size, places) if word != "failed" else [],
            "classes": wipe_keys.classes(state["ledger"], self.rotates(), virtual, self.size, places.total),
            "started": wipe_engine.utc(state["first_started"]), "ended": wipe_engine.utc(ended),
            "seconds": round(self.sessions_before + ended - self.started, 3), "sessions": state["sessions"],
            "authorisation_sha256": self.spec.get("authorisation_sha256"),
            "tools": wipe_engine.tools(sys.modules[__name__]),
        }  # fmt: skip


def judge_gone(before, after, told):
    # type: (List[Dict[str, Any]], List[Dict[str, Any]], Dict[str, Any]) -> Dict[str, Any]
    """Pure. The look that finds none now must have found one before, by the same way; nobody else may find one either."""
    reasons = ["%s at byte %d is still there" % (row["what"], row["offset"]) for row in after]
    if not [row for row in before if row["what"] != "unreadable"]:
        reasons.append("no header was seen before, so the look that finds none now has never found one")
    if told["verdict"] == "found":
        reasons.append("cryptsetup still finds a LUKS volume on it")
    return {"verdict": "no" if reasons else "yes", "reasons": reasons}


def main(argv):
    return wipe_engine.main(argv, Keys)
