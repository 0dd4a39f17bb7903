# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The purge job: keyed blocks on the device, the drive's own command, its own log followed, none of the blocks left.

Private to the collection. Valid for Python 3.6, standard library. Runs detached: purge spec.json.

The order is: guard, may the drive do it at all, keyed blocks at the places of the sampling plan (or everywhere), the
verifier must find every one of them, the command with its intent written down before, the drive's log until it rests, the
verifier must find none, and then exactly those that are put back for it to find. A job that was killed joins what the
drive is doing. A drive that says "done" and did nothing fails here, whatever its log says.
"""

import copy
import hashlib
import os
import random
import sys
import threading
import time
from typing import Any, List  # noqa: F401

from ansible_collections.sunset.crm.plugins.module_utils._disk import device as disk_device
from ansible_collections.sunset.crm.plugins.module_utils._wipe import (
    drives as wipe_drives,
    engine as wipe_engine,
    firmware as wipe_firmware,
    judge as wipe_judge,
    passes as wipe_passes,
    plan as wipe_plan,
    tcg as wipe_tcg,
    transport as wipe_transport,
)

UNIT = wipe_judge.UNIT
POLL_SECONDS = 5.0
GRACE_SECONDS = 120.0  # a drive's log may lag behind what it does (seen: half a minute)
STALL_SECONDS = 4 * 3600.0  # a log that has not moved for so long; a block erase may report nothing for a while
LEFT_PLACES = 64


class Purge(wipe_engine.Wipe):
    """One device, one technique, one state file."""

    def __init__(self, spec, directory):
        wipe_engine.Wipe.__init__(self, spec, directory)
        self.way = copy.copy(wipe_firmware.TECHNIQUES.get(wipe_firmware.canonical(self.technique)))  # type: Any
        self._link = None  # type: Any

    def open(self):
        if self.way is None:
            raise wipe_engine.Refused([wipe_firmware.unusable(self.technique) or "the overwrite is another job's work"])
        wipe_engine.Wipe.open(self)
        equip(self.way, self.key, self.found, self.spec.get("psid_directory"))

    def link(self):
        """To the very descriptor that was judged."""
        if self._link is None:
            self._link = wipe_transport.Link(self.fd)
        return self._link

    def work(self):
        self.way.mine = bool(self.state.get("ata_password"))
        if len(self.state["sessions"]) > 1 and self.state["phase"] == "verified":
            self.save(phase="check")  # what an earlier session has seen, others may have written over since
        if self.state["phase"] == "new":
            self.ready()
        if self.state["phase"] == "mark":
            self.mark()
        if self.state["phase"] in ("send", "sent"):
            self.send()
        if self.state["phase"] == "running":
            self.follow()
        if self.state["phase"] == "check":
            self.check()

    # --- before ------------------------------------------------------------------------------------------------------

    def ready(self):
        """Nothing has been written yet: may the drive do this, and does it do something already?"""
        reasons, probe = wipe_firmware.obstacles(self.way, self.link(), self.found)
        if reasons:
            raise wipe_engine.Refused(reasons)
        now = self.way.look(self.link())
        joined = None
        if now["state"] == "running":
            joined = self.wait_for_rest(now, "joined")
        opened = self.open_up() if self.way.shut(self.link()) else None
        self.save(phase="mark", seed=wipe_plan.new_seed(), probe=probe, joined=joined, opened=opened)

    def open_up(self):
        """The drive hides its data, so nothing can be put on it. The technique opens it, and is then sent once more, over keyed blocks:
        the first time destroys what was there, the second shows that this drive means it."""
        before = self.way.look(self.link())
        self.save(opening=before)
        sent = self.way.send(self.link(), None, lambda **facts: self.save(**facts))
        final = self.way.look(self.link())
        if sent["accepted"] != "yes" or self.way.shut(self.link()):
            raise wipe_passes.Broken(
                "the drive hides its data and was not opened: %s" % (sent["why"] or "it took the command and is as before")
            )
        self.flush()
        self.still_the_same()
        return {"before": before, "sent": sent, "final": final}

    def wait_for_rest(self, now, word):
        """Somebody else's run: let it come to its end. Ours is made after it, so that the evidence is whole."""
        self.phase, seen = word, 0
        while now["state"] == "running":
            seen += 1
            self.progress(now["progress"] or 0, None, 65536)
            time.sleep(self.poll())
            now = self.way.look(self.link())
        return {"looks": seen, "final": now}

    def poll(self):
        return self.spec.get("poll_seconds", POLL_SECONDS)

    def places(self):
        parts = wipe_plan.whole(self.size) if self.spec.get("verify") == "full" else wipe_plan.pieces(self.size, self.state["seed"])
        return wipe_plan.Places(parts, wipe_passes.BLOCK)

    def mark(self):
        """Keyed blocks, and the proof that the verifier sees them: it must find every single one."""
        self.phase = "mark"
        places = self.places()
        work = wipe_passes.WritePass(self.fd, self.key, self.size, (), self.spec.get("rate"), places=places, cores=self.cores)
        self._pass(work)
        self.flush()
        look = self._survivors(places)
        bad = work.bad | look.unreadable
        expected = places.units - len(bad)
        if not expected or len(look.mismatched - bad) != expected:
            raise wipe_passes.Broken(
                "of %d keyed blocks %d could be read back: there is nothing to judge a purge by" % (expected, len(look.mismatched))
            )
        self.still_the_same()
        self.save(phase="send", marks=expected, marked_bytes=expected * UNIT, bad=sorted(bad))

    def _survivors(self, places):
        look = wipe_passes.SurvivorPass(self.fd, self.key, self.size, self.spec.get("rate"), places, self.cores)
        self._pass(look)
        return look

    # --- the command -------------------------------------------------------------------------------------------------

    def send(self):
        self.phase = "send"
        if self.state["phase"] == "sent":
            return self.send_again()
        before = self.way.look(self.link())
        self.still_the_same()
        self.save(phase="sent", trail={"before": before, "sent": None, "running": 0, "progress": []}, sent_at=time.time())
        return self._send()

    def _send(self):
        estimate = self.state["probe"]["estimate"]
        sent = self._waiting(lambda: self.way.send(self.link(), estimate, lambda **facts: self.save(**facts)))
        trail = dict(self.state["trail"], sent=sent)
        if sent["accepted"] == "yes" and not self.way.blocking:
            return self.save(phase="running", trail=trail)
        # However the drive answered, what is on it is looked at: the answer alone proves nothing in either direction.
        return self.save(phase="check", trail=self._rested(trail))

    def send_again(self):
        """The job was killed between writing down the intent and the drive's answer: the drive's log knows more than we do."""
        now, before = self.way.look(self.link()), self.state["trail"]["before"]
        taken = now["state"] == "running" or (not self.way.blocking and wipe_firmware.changed(before, now))
        if not taken:
            return self._send()  # doing it twice harms nothing
        self.state["trail"]["sent"] = {"accepted": "yes", "why": "", "running": False, "answers": [], "seen_in_log": True}
        return self.save(phase="running", trail=self.state["trail"])

    def _waiting(self, act):
        """A command that may take hours: it runs beside us, so that somebody can see that we are alive."""
        found = []  # type: List[Any]
        thread = threading.Thread(target=lambda: found.append(act()))
        thread.daemon = True
        thread.start()
        while thread.is_alive():
            thread.join(wipe_engine.PROGRESS_SECONDS)
            self.say(self.way.blocking and self.state["probe"]["estimate"])
        if not found:
            raise wipe_passes.Broken("the command to the drive ended with an error inside this program")
        return found[0]

    def say(self, estimate):
        """Progress of a command that reports none: by the drive's own estimate. It cannot be stopped any more."""
        gone = time.time() - self.state["sent_at"]
        share = min(99.0, 100.0 * gone / estimate) if estimate else 0.0
        report = {
            "phase": self.phase, "done": int(share), "total": 100, "percent": round(share, 2), "bytes_per_second": None,
            "started": wipe_engine.utc(self.started), "updated": wipe_engine.utc(time.time()), "pid": os.getpid(),
        }  # fmt: skip
        wipe_engine.write_json(self.path("progress.json"), report, sync=False)

    def follow(self):
        """The drive's own log, until it rests. An abort ends the watching; the drive goes on, and the next call joins it."""
        self.phase, trail = "purge", self.state["trail"]
        trail.pop("stalled", None)
        stall, moved = self.spec.get("stall_seconds", STALL_SECONDS), time.time()
        grace = time.time() + self.spec.get("grace_seconds", GRACE_SECONDS)
        while True:
            now = self.way.look(self.link())
            if now["state"] == "running":
                trail["running"] += 1
                step = now["progress"]
                if step is not None and (not trail["progress"] or trail["progress"][-1] != step):
                    trail["progress"] = trail["progress"][-49:] + [step]
                    moved = time.time()
            elif trail["running"] or trail["sent"]["running"] or wipe_firmware.changed(trail["before"], now) or time.time() > grace:
                break
            if time.time() - moved > stall and now["state"] == "running":
                trail["stalled"] = "its progress has not moved for %d s and it is still at work; the same command joins it again" % stall
                break
            self.progress(now["progress"] or 0, None, 65536)
            time.sleep(self.poll())
        self._rested(trail, now)
        self.save(phase="running" if trail.get("stalled") else "check", trail=trail)

    def _rested(self, trail, now=None):
        """The trail with its end: the drive's last word, and how long it took."""
        trail.update(final=now or self.way.look(self.link()), seconds=round(time.time() - self.state["sent_at"], 3))
        return trail

    # --- after -------------------------------------------------------------------------------------------------------

    def check(self):
        """None of the keyed blocks is left; and a verifier that says so is shown some, which it must find."""
        self.phase = "check"
        self.flush()
        self.still_the_same()
        places, before = self.places(), self._counters()
        look = self._survivors(places)
        after = self._counters()
        chooser, bad = random.SystemRandom(), set(self.state["bad"]) | look.unreadable
        drawn = {places.unit(chooser.randrange(places.units)) for _number in range(min(wipe_engine.CANARIES, places.units))}
        shown = sorted(drawn - bad)
        control, cleaned = self._control(shown), self._clean(shown)
        new = look.unreadable - set(self.state["bad"])  # what could not be read before is known and listed
        covered = look.bytes_read + len(look.unreadable) * UNIT
        facts = judge_survivors(len(look.mismatched), len(new), covered >= places.total, shown, control, cleaned)
        facts.update(
            bytes_read=look.bytes_read, mode="full" if self.spec.get("verify") == "full" else "sample", unreadable=sorted(look.unreadable),
            mismatch_ranges=wipe_judge.unit_ranges(look.mismatched, self.size)[: wipe_judge.LISTED_RANGES],
            marks_before=self.state["marks"], plan=wipe_plan.describe(places.parts, self.size, self.state["seed"]),
        )  # fmt: skip
        facts["accounting"] = wipe_judge.judge_accounting(before and before[0], after and after[0], look.bytes_read, before is not None)
        self.save(phase="verified", verification=facts, left=left(self.fd, self.size, places))

    def _control(self, shown):
        """Put some keyed blocks back; which of them does the verifier find? None where the drive takes no writes."""
        worker = wipe_passes.Worker(self.fd, self.key, self.size)
        try:
            for place in shown:
                worker.write_stream(place, min(UNIT, self.size - place))
            self.flush()
            parts = [(place, min(place + UNIT, self.size)) for place in shown]
            return sorted(self._survivors(wipe_plan.Places(parts, UNIT)).mismatched)
        except OSError:
            return None
        finally:
            worker.close()

    def _clean(self, shown):
        """Zeros over what was shown; True when none of it is left."""
        worker = wipe_passes.Worker(self.fd, self.key, self.size)
        try:
            for place in shown:
                worker.write_bytes(place, b"\0" * min(UNIT, self.size - place))
            self.flush()
            parts = [(place, min(place + UNIT, self.size)) for place in shown]
            return not self._survivors(wipe_plan.Places(parts, UNIT)).mismatched
        except OSError:
            return False
        finally:
            worker.close()

    def result(self):
        state = self.state
        verification = dict(state.get("verification") or {"verdict": "no", "reasons": ["the drive is not at rest: nothing was read"]})
        unreadable = verification.pop("unreadable", [])
        trail = state["trail"]
        verdict = wipe_firmware.judge(self.way, trail, self.size)
        after = disk_device.identify(self.fd)
        differences = disk_device.compare_identity(disk_device.public_identity(self.found), after)
        counters, now = state.get("counters"), self._counters()
        written = wipe_judge.judge_accounting(counters and counters[1], now and now[1], state.get("marked_bytes", 0), counters is not None)
        nothing = {"verdict": "unknown", "why": "nothing was read"}
        accounting = {"written": dict(written, what="the keyed blocks before"), "read": verification.pop("accounting", nothing)}
        reverified = {"verdict": "yes"}  # the control is a part of the verification here
        errors = wipe_judge.unit_ranges(unreadable, self.size)
        word, reasons, exceptions = wipe_judge.outcome(verification, reverified, accounting, differences, errors, more=[verdict])
        exceptions = exceptions + verdict["exceptions"]
        if word == "sanitised" and exceptions:
            word = "sanitised_with_exceptions"
        ended = time.time()
        return {
            "outcome": word, "reasons": reasons, "exceptions": exceptions, "technique": self.technique,
            "device": self.spec["device"], "identity": disk_device.public_identity(after), "found": after, "size": self.size,
            "logical_block": after["logical_block"], "byte_ranges": [[0, self.size]], "error_ranges": errors[: wipe_judge.LISTED_RANGES],
            "algorithm": dict(wipe_engine.algorithm(self.key), name=self.way.text, use="blocks put there before, of which none may be left"),
            "verification": verification, "accounting": accounting, "left": state.get("left") or [],
            "firmware": {
                "trail": trail, "probe": state["probe"], "joined": state.get("joined"), "met": self.way.met, "opened": state.get("opened"),
                "ata_password": state.get("ata_password"),
            },
            "classes": wipe_firmware.classes(self.way, dict(self.found, rotational=self.rotates())), "started": wipe_engine.utc(state["first_started"]),
            "ended": wipe_engine.utc(ended), "seconds": round(self.sessions_before + ended - self.started, 3),
            "sessions": state["sessions"], "authorisation_sha256": self.spec.get("authorisation_sha256"),
            "tools": wipe_engine.tools(sys.modules[__name__]),
        }  # fmt: skip


def judge_survivors(survivors, unreadable, everything, shown, control, cleaned):
    """Pure. None left, everything looked at, and the verifier found exactly what it was shown."""
    reasons = []
    if survivors:
        reasons.append("%d of the keyed blocks are still there: the drive did not wipe itself, whatever it said" % survivors)
    if unreadable:
        reasons.append("%d places cannot be read after the purge, so nobody knows what they hold" % unreadable)
    if not everything:
        reasons.append("not every place was looked at")
    if not shown:
        reasons.append("nothing could be shown to the verifier, so it was never seen to find anything")
    if control is None:
        reasons.append("the drive takes no writes after the purge, so the verifier could not be put to the test")
    elif control != shown:
        reasons.append("the verifier was shown %d blocks and found %d: it does not see the device" % (len(shown), len(control)))
    if not cleaned:
        reasons.append("what the verifier was shown is still there")
    return {
        "verdict": "no" if reasons else "yes", "reasons": reasons, "mismatches": survivors,
        "canaries_left": len(shown), "canaries_found": len(control or []), "canaries_wiped": len(shown) if cleaned else 0,
    }  # fmt: skip


def left(fd, size, places):
    """[[offset, digest]] of some places as the purge left them, so that a later look can tell whether they were written since."""
    chooser, worker = random.SystemRandom(), wipe_passes.Worker(fd, b"\0" * 32, size)
    drawn = {places.unit(chooser.randrange(places.units)) for _number in range(LEFT_PLACES)} | {0, (size - 1) // UNIT * UNIT}
    found = [[place, digest_at(worker, fd, place, size)] for place in sorted(drawn)]
    worker.close()
    return found


def equip(way, key, found, psid_directory=None):
    """What a technique needs besides the device: a password of ours, or the way to the number on the drive's label."""
    way.password = wipe_drives.security_password(key) if key else ""
    way.serial, way.directory = found.get("serial") or "", psid_directory or wipe_tcg.DIRECTORY


def refusals(device, technique, found, psid_directory=None):
    """Read-only, before a job is started: why the drive cannot be asked for this."""
    problem = wipe_firmware.unusable(technique)
    if problem:
        return [problem]
    way = copy.copy(wipe_firmware.TECHNIQUES[wipe_firmware.canonical(technique)])
    equip(way, b"", found, psid_directory)
    try:
        fd = os.open(device, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as err:
        return ["%s cannot be opened: %s" % (device, err.strerror)]
    try:
        return wipe_firmware.obstacles(way, wipe_transport.Link(fd), found)[0]
    finally:
        os.close(fd)


def digest_at(worker, fd, place, size):
    count = min(UNIT, size - place)
    try:
        worker.io.read(fd, worker.seen, place, count)
    except OSError:
        return "unreadable"
    return hashlib.sha256(bytes(worker.seen.view[:count])).hexdigest()[:24]


def sample(device, places):
    """Read-only: do the places still hold what the purge left there? (wrong, read)"""
    fd = os.open(device, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        size = disk_device.identify(fd)["size"] or 0
        worker = wipe_passes.Worker(fd, b"\0" * 32, size)
        wrong = [place for place, digest in places if place >= size or digest_at(worker, fd, place, size) != digest]
        worker.close()
        return wrong, [place for place, _digest in places]
    finally:
        os.close(fd)


def main(argv):
    return wipe_engine.main(argv, Purge)
