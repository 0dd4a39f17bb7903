# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The wipe job: keyed overwrite of one device, read-back, canaries, resume. Runs detached.

Private to the collection. Valid for Python 3.6, standard library.

The order is: guard, canaries chosen, pass, flush, verification (must find exactly the canaries), canaries
overwritten and read again, zeros over it all where a person chose that, evidence weighed. ``state.json`` holds what a
later start needs; what it says about the pass is never believed: the last part is compared with the stream on the
device first. ``abort`` (a file) stops it.

With ``verify: sample`` the places are drawn after the pass, and the canaries are noise put there after it: who writes
cannot know where it will be looked.
"""

import errno
import fcntl
import hashlib
import json
import os
import random
import sys
import tempfile
import time
from typing import Set  # noqa: F401

from ansible_collections.sunset.crm.plugins.module_utils import _job
from ansible_collections.sunset.crm.plugins.module_utils._disk import device as disk_device
from ansible_collections.sunset.crm.plugins.module_utils._wipe import (
    judge as wipe_judge,
    passes as wipe_passes,
    plan as wipe_plan,
    stream as wipe_stream,
    transport as wipe_transport,
)

UNIT = wipe_judge.UNIT
CANARIES = 16
RECHECK = 64 << 20  # how much before a checkpoint is compared again
CHECKPOINT_SECONDS = 5.0
PROGRESS_SECONDS = 0.5


class Refused(Exception):
    """The device may not be written; carries the reasons."""

    def __init__(self, reasons):
        Exception.__init__(self, "; ".join(reasons))
        self.reasons = reasons


class Aborted(Exception):
    """A person asked the job to stop."""


def read_text(path):
    try:
        with open(path) as handle:
            return handle.read().strip()
    except (OSError, IOError):
        return None


def read_json(path):
    text = read_text(path)
    try:
        return json.loads(text) if text else None
    except ValueError:
        return None  # a torn file counts as none; the device itself is asked anyway


def write_json(path, value, sync=True):
    fd, temporary = tempfile.mkstemp(dir=os.path.dirname(path), prefix=".", suffix=".tmp")
    with os.fdopen(fd, "w") as handle:
        json.dump(value, handle, sort_keys=True)
        handle.flush()
        if sync:
            os.fsync(handle.fileno())
    os.rename(temporary, path)


def utc(seconds):
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def key_digest(key):
    return hashlib.sha256(key).hexdigest()


def asked_of(spec, found, key):
    """What an unfinished job must have been about to be gone on with. Asked for otherwise, it is another wipe: the places that the first
    one left out on purpose would be forgotten, or its few marks be taken for marks all over."""
    return {
        "identity": disk_device.public_identity(found), "key_sha256": key_digest(key), "technique": spec.get("technique") or wipe_judge.OVERWRITE,
        "asked_verify": spec.get("verify"), "asked_final": spec.get("final"),
    }  # fmt: skip


def open_exclusive(path, tries=20):
    """Open for direct writing, claimed: fails while anything in the kernel (mount, swap, dm ...) holds the device."""
    flags = os.O_RDWR | os.O_EXCL | os.O_CLOEXEC | os.O_DIRECT | os.O_NONBLOCK
    for attempt in range(tries):
        try:
            return os.open(path, flags)
        except OSError as err:
            # udev and friends look at new devices for a moment; only a lasting claim is a refusal
            if err.errno != errno.EBUSY or attempt + 1 == tries:
                raise Refused(["%s cannot be opened for exclusive writing: %s" % (path, err.strerror)])
        time.sleep(0.05)
    raise Refused(["%s cannot be opened" % path])


class Wipe:
    """One device, one key, one state file."""

    def __init__(self, spec, directory):
        self.spec, self.directory = spec, directory
        self.technique = spec.get("technique") or wipe_judge.OVERWRITE
        self.cores = wipe_passes.Cores(spec.get("cores_directory"))
        self.key = bytes(bytearray.fromhex(spec["key"]))
        self.started = time.time()
        self.state = {}
        self.fd = -1
        self.found = {}
        self.size = 0
        self.phase = "guard"
        self.sessions_before = 0.0

    def path(self, name):
        return os.path.join(self.directory, name)

    # --- the guard ---------------------------------------------------------------------------------------------------

    def open(self):
        """Open and claim the device, then judge that very descriptor. Nothing is written before this returns."""
        device = self.spec["device"]
        before = disk_device.identify(device)
        held = disk_device.lasting_holders(device) if before["found"] == "yes" else []
        root = disk_device.running_root_devices()
        reasons = self._judge(before, held, root)
        if reasons:
            raise Refused(reasons)
        self.fd = open_exclusive(device)
        self.found = disk_device.identify(self.fd)
        # The claim is ours from now on, so what else was found before is judged again on the opened descriptor alone.
        reasons = self._judge(self.found, [], root)
        if self.found["number"] != before["number"]:
            reasons.append(
                "%s led to the device %s when its users were looked for, and to %s when it was opened"
                % (device, before["number"], self.found["number"])
            )
        if reasons:
            raise Refused(reasons)
        self.size = self.found["size"]

    def _judge(self, found, held, root):
        spec = self.spec
        return wipe_judge.refusals(spec.get("identity") or {}, found, held, root, spec.get("protected"), bool(spec.get("waiver")))

    # --- state -------------------------------------------------------------------------------------------------------

    def load(self):
        state = read_json(self.path("state.json")) or {}
        asked = asked_of(self.spec, self.found, self.key)
        if any(state.get(name) != asked[name] for name in asked) or state.get("ended"):
            # Whatever else begins anew: the drive may be locked by the password that was set with this key.
            same = all(state.get(name) == asked[name] for name in ("identity", "key_sha256"))
            kept = {"ata_password": state["ata_password"]} if same and state.get("ata_password") else {}
            state = dict(
                asked, phase="new", offset=0, canaries=[], planted=0, bad=[], sessions=[], first_started=self.started,
                device_counters=wipe_transport.written_by_device(self.fd, self.found["kind"]), **kept,
            )  # fmt: skip
        if (state.get("boot_id"), state.get("number")) != (self._boot_id(), self.found["number"]):
            # the kernel's counters begin anew with the machine and belong to a number: what came before cannot be confirmed by them
            state["counters"] = self._counters() if state["phase"] == "new" else None
            state["boot_id"], state["number"] = self._boot_id(), self.found["number"]
        self.state = state
        self.sessions_before = sum(item["seconds"] for item in state["sessions"])
        state["sessions"] = state["sessions"] + [{"started": utc(self.started), "seconds": 0.0, "pid": os.getpid()}]

    def save(self, **changes):
        self.state.update(changes)
        self.state["sessions"][-1]["seconds"] = round(time.time() - self.started, 3)
        write_json(self.path("state.json"), self.state)

    def rotates(self):
        """As it was decided before the first write, by what the drive itself tells: behind USB the kernel says of everything that it turns."""
        before = (self.spec.get("decided") or {}).get("state_before") or {}
        told = (before.get("traits") or {}).get("rotational")
        if told is None:
            told = {"1": "yes", "0": "no"}.get(read_text("/sys/dev/block/%s/queue/rotational" % self.found["number"]) or "")
        return {"yes": True, "no": False}.get(told or "")

    def _boot_id(self):
        return read_text("/proc/sys/kernel/random/boot_id")

    def _counters(self):
        text = read_text("/sys/dev/block/%s/stat" % self.found["number"])
        pair = wipe_judge.parse_stat(text)
        return list(pair) if pair[0] is not None else None

    def progress(self, done, rate=None, total=None):
        total = total or self.size
        if os.path.exists(self.path("abort")):
            raise Aborted("stopped by request at %d of %d (%s)" % (done, total, self.phase))
        report = {
            "phase": self.phase, "done": done, "total": total, "percent": round(100.0 * done / total, 2),
            "bytes_per_second": rate, "started": utc(self.started), "updated": utc(time.time()), "pid": os.getpid(),
        }  # fmt: skip
        write_json(self.path("progress.json"), report, sync=False)

    # --- the steps ---------------------------------------------------------------------------------------------------

    def _pass(self, work, start=0, checkpoint=None):
        """Run a pass from ``start`` to the end with progress; ``checkpoint(offset)`` now and then."""
        runner = wipe_passes.Runner(work, start, self.size, self.spec.get("workers") or wipe_passes.workers())
        began, last = time.time(), time.time()
        with runner:
            while not runner.wait(PROGRESS_SECONDS):
                done = runner.handled if work.places else runner.done_to()
                self.progress(done, int((done - start) / max(time.time() - began, 0.001)), work.total)
                if checkpoint and time.time() - last >= self.spec.get("checkpoint_seconds", CHECKPOINT_SECONDS):
                    checkpoint(done)
                    last = time.time()
        self.progress(work.total, int((work.total - start) / max(time.time() - began, 0.001)), work.total)
        return round(time.time() - began, 3)

    def flush(self):
        os.fsync(self.fd)
        try:
            fcntl.ioctl(self.fd, disk_device.BLKFLSBUF, 0)  # drop cached pages, so that later readers see the device
        except (OSError, IOError):
            pass

    def choose_canaries(self):
        """Unpredictable places that the pass leaves out. Where the stream is there already (a second wipe with the
        same key) the place gets noise, so that there is something for the verifier to find."""
        units = max(self.size // UNIT, 1)
        wanted = min(CANARIES, max(1, units // 8))
        worker = wipe_passes.Worker(self.fd, self.key, self.size)
        chooser, planted = random.SystemRandom(), 0
        canaries = set()  # type: Set[int]
        for _attempt in range(wanted * 8):
            if len(canaries) == wanted:
                break
            place = chooser.randrange(units) * UNIT
            try:
                if place not in canaries and worker.holds_stream(place, min(UNIT, self.size - place)):
                    worker.write_bytes(place, os.urandom(min(UNIT, self.size - place)))
                    planted += 1
                canaries.add(place)
            except OSError:
                continue  # an unreadable place is no canary; the pass will name it
        worker.close()
        self.save(phase="write", canaries=sorted(canaries), planted=planted, offset=0)

    def resume_offset(self):
        """Where the stream on the device ends. The checkpoint is only a hint: what lies before it is compared."""
        hint = min(int(self.state.get("offset") or 0), self.size) // wipe_passes.BLOCK * wipe_passes.BLOCK
        checker = wipe_passes.Worker(self.fd, self.key, self.size, self.state["canaries"], self.state["bad"])
        start, upper, checked = hint, hint, 0
        while upper > 0:  # back: until a whole stretch holds the stream
            lower = max(0, upper - RECHECK)
            wrong = [o for o in range(lower, upper, wipe_passes.BLOCK) if not checker.block_holds_stream(o)]
            checked += upper - lower
            if not wrong:
                break
            start = upper = wrong[0]
            if wrong[0] > lower:
                break
        if start == hint:
            while start < self.size and checker.block_holds_stream(start):  # and on, as far as the stream goes
                checked += min(wipe_passes.BLOCK, self.size - start)
                start += wipe_passes.BLOCK
        checker.close()
        return min(start, self.size), hint, checked

    def write(self):
        start, bad = 0, set(self.state["bad"])
        if self.state["phase"] == "new" and self.spec.get("verify") == "sample":
            self.save(phase="write", offset=0)  # the canaries come after the pass, when the places are drawn
        elif self.state["phase"] == "new":
            self.choose_canaries()
        else:
            start, hint, checked = self.resume_offset()
            self.state["sessions"][-1].update(checkpoint=hint, rechecked_bytes=checked, resumed_from=start)
        work = wipe_passes.WritePass(self.fd, self.key, self.size, self.state["canaries"], self.spec.get("rate"), bad, cores=self.cores)

        def checkpoint(offset):
            os.fsync(self.fd)  # only what the device has confirmed may be called written
            self.still_the_same()
            self.save(offset=offset, bad=sorted(work.bad))

        self.phase = "write"
        seconds = self._pass(work, start, checkpoint)
        self.flush()
        self.still_the_same()
        self.save(phase="verify", offset=self.size, bad=sorted(work.bad), write_seconds=seconds, write_bytes=self.size - start)

    def still_the_same(self):
        differences = disk_device.compare_identity(disk_device.public_identity(self.found), disk_device.identify(self.fd))
        if differences:
            raise wipe_passes.Broken("the device changed under the job: %s" % "; ".join(differences))

    def draw_places(self):
        """A new random choice of places, and canaries of noise among them. Both are written down before they are used."""
        if not self.state.get("seed"):
            seed, chooser = wipe_plan.new_seed(), random.SystemRandom()
            places = wipe_plan.Places(wipe_plan.pieces(self.size, seed), wipe_passes.BLOCK)
            wanted = min(CANARIES, max(1, places.units // 8))
            drawn = {places.unit(chooser.randrange(places.units)) for _number in range(wanted)}
            self.save(seed=seed, canaries=sorted(drawn - set(self.state["bad"])))
        worker = wipe_passes.Worker(self.fd, self.key, self.size)
        for place in self.state["canaries"]:
            worker.write_bytes(place, os.urandom(min(UNIT, self.size - place)))
        worker.close()
        self.flush()
        self.save(planted=len(self.state["canaries"]))
        return wipe_plan.Places(wipe_plan.pieces(self.size, self.state["seed"]), wipe_passes.BLOCK)

    def verify(self):
        self.phase = "verify"
        places = self.draw_places() if self.spec.get("verify") == "sample" else None
        work = wipe_passes.VerifyPass(self.fd, self.key, self.size, self.spec.get("rate"), places, self.cores)
        before = self._counters()
        seconds = self._pass(work)
        after = self._counters()
        bad = [place for place in self.state["bad"] if places is None or places.holds(place)]
        canaries, read = self.state["canaries"], work.bytes_read
        facts = wipe_judge.judge_verification(canaries, work.mismatched, work.unreadable, bad, self.size, read, work.total)
        facts.update(mode="sample" if places else "full", seconds=seconds, unreadable=sorted(work.unreadable))
        if places:
            facts["plan"] = wipe_plan.describe(places.parts, self.size, self.state["seed"])
        facts["accounting"] = wipe_judge.judge_accounting(before and before[0], after and after[0], work.bytes_read, before is not None)
        self.save(phase="canaries" if facts["verdict"] == "yes" else "verified", verification=facts)

    def wipe_canaries(self):
        """Overwrite what was left out and read exactly that again."""
        self.phase = "canaries"
        worker = wipe_passes.Worker(self.fd, self.key, self.size)
        wrong, failed = [], []
        for place in self.state["canaries"]:
            try:
                worker.write_stream(place, min(UNIT, self.size - place))
            except OSError:
                failed.append(place)
        self.flush()
        for place in self.state["canaries"]:
            try:
                if place not in failed and not worker.holds_stream(place, min(UNIT, self.size - place)):
                    wrong.append(place)
            except OSError:
                failed.append(place)
        worker.close()
        bad = sorted(set(self.state["bad"]) | set(failed))
        reasons = ["%d canaries are still there" % len(wrong)] if wrong else []
        facts = {"verdict": "no" if wrong else "yes", "reasons": reasons, "wiped": len(self.state["canaries"])}
        again = facts["verdict"] == "yes" and self.spec.get("final") == "zeros"
        self.save(phase="zeros" if again else "verified", reverification=facts, bad=bad)

    def leave_zeros(self):
        """By choice: zeros over the verified stream, all of them read again."""
        self.phase = "zeros"
        work = wipe_passes.ZeroPass(self.fd, self.key, self.size, (), self.spec.get("rate"), set(self.state["bad"]))
        self._pass(work)
        self.flush()
        self.still_the_same()
        self.phase = "zeros read"
        look = wipe_passes.ZeroVerifyPass(self.fd, self.key, self.size, self.spec.get("rate"))
        self._pass(look)
        facts = wipe_judge.judge_zeros(look.mismatched, look.unreadable, work.bad, self.size, look.bytes_read)
        bad = sorted(set(self.state["bad"]) | work.bad | look.unreadable)
        self.save(phase="verified", final=facts, bad=bad)

    # --- the end -----------------------------------------------------------------------------------------------------

    def result(self):
        state, verification = self.state, dict(self.state["verification"])
        unreadable = verification.pop("unreadable", [])
        errors = wipe_judge.unit_ranges(set(state["bad"]) | set(unreadable), self.size)
        counters, now = state.get("counters"), self._counters()
        # The zeros of a final pass must not stand for bytes that the first pass has not written.
        wanted = (self.size - wipe_judge.range_bytes(errors)) * (2 if state.get("final") else 1)
        accounting = {
            "written": wipe_judge.judge_accounting(counters and counters[1], now and now[1], wanted, counters is not None),
            "read": verification.pop("accounting"),
        }
        device = wipe_transport.written_by_device(self.fd, self.found["kind"])
        told = wipe_judge.judge_device_counter(state.get("device_counters"), device, wanted)
        if told:
            accounting["device"] = told
        speed = wipe_judge.judge_speed(state.get("write_bytes"), state.get("write_seconds"), wipe_judge.HOST_LIMIT)
        reverified = state.get("reverification") or {"verdict": "no", "reasons": ["not done: the first one failed"]}
        after = disk_device.identify(self.fd)
        differences = disk_device.compare_identity(disk_device.public_identity(self.found), after)
        more = [part for part in (speed, state.get("final")) if part]
        word, reasons, exceptions = wipe_judge.outcome(verification, reverified, accounting, differences, errors, more=more)
        verification["canaries_wiped"] = reverified.get("wiped", 0) if reverified["verdict"] == "yes" else 0
        verification["canaries_planted"] = state["planted"]
        ended = time.time()
        return {
            "outcome": word, "reasons": reasons, "exceptions": exceptions,
            "device": self.spec["device"], "identity": disk_device.public_identity(after), "found": after,
            "size": self.size, "logical_block": after["logical_block"], "byte_ranges": [[0, self.size]],
            "error_ranges": errors[: wipe_judge.LISTED_RANGES],
            "algorithm": algorithm(self.key), "verification": verification, "accounting": accounting, "final": state.get("final"),
            "technique": self.technique, "classes": wipe_judge.classes(after["kind"], after), "started": utc(state["first_started"]),
            "ended": utc(ended), "seconds": round(self.sessions_before + ended - self.started, 3),
            "write_seconds": state.get("write_seconds"), "sessions": state["sessions"],
            "authorisation_sha256": self.spec.get("authorisation_sha256"), "tools": tools(sys.modules[__name__]),
        }  # fmt: skip

    def run(self):
        """The whole job. Returns the result; what is not a result (a kill) leaves the state for the next start."""
        try:
            self.open()
            self.load()
            self.work()
            result = self.result()
            if self.state["phase"] == "verified":
                self.save(ended=utc(time.time()))
        except Refused as err:
            result = self.short("refused", err.reasons)
        except Aborted as err:
            result = self.short("aborted", [str(err)])
        except (wipe_passes.Broken, wipe_stream.StreamError, OSError) as err:
            result = self.short("failed", [str(err)])
        finally:
            if self.fd >= 0:
                os.close(self.fd)
        write_json(self.path("result.json"), result)
        return result

    def look_again(self):
        """What an earlier session has verified, others may have written since: nobody claimed the device meanwhile. So the places that
        were left out hold noise again, and everything is read once more; zeros are written once more."""
        state = self.state
        if len(state["sessions"]) < 2 or state["phase"] not in ("canaries", "verified") or state["verification"]["verdict"] != "yes":
            return
        if state.get("final"):
            self.save(phase="zeros", final=None)
            return
        worker = wipe_passes.Worker(self.fd, self.key, self.size)
        for place in sorted(set(state["canaries"]) - set(state["bad"])):
            worker.write_bytes(place, os.urandom(min(UNIT, self.size - place)))
        worker.close()
        self.flush()
        self.save(phase="verify", planted=len(state["canaries"]), reverification=None)

    def work(self):
        """From the phase that the state is in to the last."""
        self.look_again()
        if self.state["phase"] in ("new", "write"):
            self.write()
        if self.state["phase"] == "verify":
            self.verify()
        if self.state["phase"] == "canaries":
            self.wipe_canaries()
        if self.state["phase"] == "zeros":
            self.leave_zeros()

    def short(self, word, reasons):
        found = self.found or disk_device.identify(self.spec["device"])
        return {
            "outcome": word, "reasons": reasons, "exceptions": [], "device": self.spec["device"], "phase": self.phase,
            "identity": disk_device.public_identity(found), "found": found, "size": found.get("size"),
            "started": utc(self.started), "ended": utc(time.time()), "tools": tools(sys.modules[__name__]),
        }  # fmt: skip


def algorithm(key):
    return {
        "name": "AES-256-CTR keystream over zeros",
        "counter": "128 bit, big-endian, value = byte offset / 16",
        "passes": 1,
        "key_sha256": key_digest(key),
    }


def tools(entry):
    try:
        crypto = wipe_stream.libcrypto_version()
    except wipe_stream.StreamError:
        crypto = "none"
    digest = hashlib.sha256()
    for _name, text in sorted(_job.sources(entry).items()):
        digest.update(text.encode("utf-8"))
    return {
        "engine_sha256": digest.hexdigest(), "libcrypto": crypto, "kernel": os.uname().release,
        "python": "%d.%d.%d" % sys.version_info[:3],
    }  # fmt: skip


def sample(device, key, count=64, zeros=False, leave_out=()):
    """Read-only: do the first, the last and ``count`` unpredictable places hold the stream (or zeros)? (wrong, read)
    leave_out: ranges that are known to be bad."""
    fd = os.open(device, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        size = disk_device.identify(fd)["size"] or 0
        if not size:
            return [0], []
        units = (size + UNIT - 1) // UNIT
        chooser = random.SystemRandom()
        places = sorted({0, (units - 1) * UNIT} | {chooser.randrange(units) * UNIT for _number in range(count)})
        places = [place for place in places if not any(start < place + UNIT and place < end for start, end in leave_out)]
        worker = wipe_passes.Worker(fd, key, size)
        look = wipe_passes.ZeroVerifyPass(fd, key, size) if zeros else wipe_passes.VerifyPass(fd, key, size)
        wrong = [place for place in places if look.wrong_units(worker, place, min(UNIT, size - place))]
        worker.close()
        return wrong, places
    finally:
        os.close(fd)


def main(argv, kind=Wipe):
    with open(argv[1]) as handle:
        spec = json.load(handle)
    directory = spec.get("directory") or os.path.dirname(os.path.abspath(argv[1]))
    result = kind(spec, directory).run()
    return 0 if result["outcome"].startswith("sanitised") else 1
