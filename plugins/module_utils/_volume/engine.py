# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The job that overwrites a virtual disk, layer by layer, where each lies. Runs detached: engine spec.json.

Private to the collection. Valid for Python 3.6, standard library.

All layers are opened, locked and judged before the first is written, and all stay open to the end. Of a file only the stretches that have
blocks are written, of a thin volume only the blocks of the pool that are its own; nothing grows. The order within a layer is that of
C(wipe_engine): canaries chosen, pass, verification (must find exactly the canaries), canaries overwritten and read again. Then the map of
the layer is read again: where it changed, the file system wrote somewhere else, and the wipe has failed.
"""

import errno
import json
import os
import random
import sys
import time
from typing import Any, Dict, List  # noqa: F401

from ansible_collections.sunset.crm.plugins.module_utils._disk import device as disk_device
from ansible_collections.sunset.crm.plugins.module_utils._volume import (
    chain as volume_chain,
    extents as volume_extents,
    judge as volume_judge,
    layer as volume_layer,
    thin as volume_thin,
    users as volume_users,
)
from ansible_collections.sunset.crm.plugins.module_utils._wipe import (
    engine as wipe_engine,
    judge as wipe_judge,
    passes as wipe_passes,
    plan as wipe_plan,
    stream as wipe_stream,
)

UNIT = wipe_judge.UNIT
Layer, Refused, Aborted = volume_layer.Layer, wipe_engine.Refused, wipe_engine.Aborted
read_json, write_json, utc, key_digest = wipe_engine.read_json, wipe_engine.write_json, wipe_engine.utc, wipe_engine.key_digest
RECHECK_BLOCKS = 64
POOL_SECONDS = 2.0


class VolumeWipe:
    """One virtual medium, one key, one state file."""

    def __init__(self, spec, directory):
        self.spec, self.directory = spec, directory
        self.key = bytes(bytearray.fromhex(spec["key"]))
        self.cores = wipe_passes.Cores(spec.get("cores_directory"))
        self.started, self.phase = time.time(), "guard"
        self.layers = []  # type: List[Any]
        self.state = {}  # type: Dict[str, Any]
        self.limit = float(spec.get("pool_limit") or volume_thin.LIMIT)
        self._pool_looked = 0.0
        self._io = {}  # type: Dict[str, int]

    def path(self, name):
        return os.path.join(self.directory, name)

    # --- the guard

    def asked(self):
        layers = [{name: layer[name] for name in sorted(layer)} for layer in self.spec["layers"]]
        return {"layers": layers, "key_sha256": key_digest(self.key)}

    def load(self):
        state = read_json(self.path("state.json")) or {}
        if state.get("asked") != self.asked() or state.get("ended"):
            # Once it was begun its headers may be gone, whatever became of that.
            begun = bool(state.get("begun")) and (state.get("asked") or {}).get("layers") == self.asked()["layers"]
            state = {
                "asked": self.asked(), "begun": begun, "mapped": False, "sessions": [], "first_started": self.started, "written": 0, "read": 0,
                "parts": [{"phase": "new", "offset": 0, "canaries": [], "bad": []} for _layer in self.spec["layers"]],
            }  # fmt: skip
        self.state = state
        state["sessions"] = state["sessions"] + [{"started": utc(self.started), "seconds": 0.0, "pid": os.getpid()}]

    def save(self, **changes):
        self.state.update(changes)
        self.state["sessions"][-1]["seconds"] = round(time.time() - self.started, 3)
        self._count()
        write_json(self.path("state.json"), self.state)

    def _count(self):
        """Add what the kernel has counted since the last time."""
        now = _process_io()
        for name in ("written", "read"):
            if not now or self.state[name] is None:
                self.state[name] = None
            elif self._io:
                self.state[name] += now[name] - self._io[name]
        self._io = now

    def open(self):
        """Open, claim and judge every layer. Nothing is written before this returns."""
        begun = bool(self.state["begun"])
        reasons = volume_users.reasons(
            [layer["path"] for layer in self.spec["layers"]], self.spec.get("known") or [], self.spec.get("guests") or []
        )
        if reasons:
            raise Refused(reasons)
        for number, expected in enumerate(self.spec["layers"]):
            try:
                layer = Layer(expected, number, self.key, begun)
            except (OSError, volume_chain.ChainError) as err:
                raise Refused(["%s: %s" % (expected["path"], err)])
            self.layers.append(layer)
            reasons += ["%s: %s" % (layer.path, line) for line in layer.judge()]
        if not reasons:
            reasons = self._room() + ([] if begun else volume_layer.unknown_layers(self.layers, self.spec))
        if reasons:
            raise Refused(reasons)
        for number, layer in enumerate(self.layers):
            name = self.path("map-%d.json" % number)
            if self.state["mapped"]:
                kept = read_json(name) or []
                if kept != json.loads(json.dumps(layer.map)):
                    raise wipe_passes.Broken("%s does not lie any more where it lay when it was begun" % layer.path)
            else:
                write_json(name, layer.map)
        self._count()
        self.save(begun=True, mapped=True)

    def _room(self):
        """No pool below may come near its end, and what a pool has not given yet must fit if every byte of it were asked for."""
        reasons = []
        for name in sorted({pool for layer in self.layers for pool in layer.pools}):
            try:
                state = volume_thin.pool_of(name)
                problem = volume_thin.pool_problem(state, self.limit)
                free, wanted = state["free_bytes"] - state["data_bytes"] * (1 - self.limit / 100.0), self._above(name)
                if not problem and wanted > free:
                    problem = "%d bytes are to be written above it, and it has %d to give before its limit" % (wanted, free)
            except (volume_thin.ThinError, ValueError) as err:
                problem = str(err)
            if problem:
                reasons.append("the thin pool %s below it: %s" % (name, problem))
        return reasons

    def _above(self, pool):
        """Bytes that may take new blocks of a pool in the worst case: those of files on it, whose blocks it need not have given yet."""
        if self.state["begun"] and self.phase != "guard":
            return 0
        layers = [layer for layer in self.layers if pool in layer.pools and (layer.thin is None or not layer.thin.thin)]
        return sum(end - start for layer in layers for start, end in layer.parts)

    def watch(self):
        """While writing: a pool that comes near its end stops the job, whoever fills it; so does one that gives this volume new blocks."""
        if time.time() - self._pool_looked < POOL_SECONDS:
            return
        self._pool_looked = time.time()
        reasons = self._room()
        if reasons:
            raise Aborted("stopped: %s. Make room, then run the same command again" % "; ".join(reasons))
        for layer in self.layers:
            if layer.thin is not None and layer.thin.thin:
                mapped, most = layer.thin.state()["mapped"], sum(end - start for start, end in layer.parts)
                if mapped is not None and mapped * volume_thin.SECTOR > most + (1 << 20) + layer.size // 100:
                    raise wipe_passes.Broken("%s takes new blocks of its pool: it does not write where its content lies" % layer.path)

    def progress(self, layer, done, total):
        if os.path.exists(self.path("abort")):
            raise Aborted("stopped by request at %d of %d (%s of %s)" % (done, total, self.phase, layer.path))
        self.watch()
        sizes = [sum(end - start for start, end in one.whole_parts) for one in self.layers]
        # Each byte is written once and read once.
        before = 2 * sum(sizes[: layer.number]) + (sizes[layer.number] if self.phase != "write" else 0)
        whole = max(1, 2 * sum(sizes))
        report = {
            "phase": "%s, layer %d of %d" % (self.phase, layer.number + 1, len(self.layers)), "done": before + done, "total": whole,
            "percent": round(100.0 * (before + done) / whole, 2), "started": utc(self.started), "updated": utc(time.time()), "pid": os.getpid(),
            "bytes_per_second": int((before + done) / max(time.time() - self.started, 0.001)),
        }  # fmt: skip
        write_json(self.path("progress.json"), report, sync=False)

    # --- one layer

    def _pass(self, layer, work, checkpoint=None):
        runner = wipe_passes.Runner(work, 0, layer.size, self.spec.get("workers") or wipe_passes.workers())
        began = last = time.time()
        total = work.places.total
        with runner:
            while not runner.wait(wipe_engine.PROGRESS_SECONDS):
                self.progress(layer, runner.handled, total)
                if checkpoint and time.time() - last >= self.spec.get("checkpoint_seconds", wipe_engine.CHECKPOINT_SECONDS):
                    checkpoint(runner.done_to())
                    last = time.time()
        self.progress(layer, total, total)
        return round(time.time() - began, 3)

    def _canaries(self, layer, places, state):
        """Unpredictable places that the pass leaves out; where the stream is there already the place gets noise."""
        wanted = min(wipe_engine.CANARIES, max(1, places.units // 8))
        worker, chooser = wipe_passes.Worker(layer.fd, layer.key, layer.size), random.SystemRandom()
        left = []
        for place in sorted({places.unit(chooser.randrange(places.units)) for _number in range(wanted)}):
            length = min(UNIT, places.length(place))
            try:
                if worker.holds_stream(place, length):
                    worker.write_bytes(place, os.urandom(length))
                left.append(place)
            except OSError:
                continue  # an unreadable place is no canary; the pass will name it
        worker.close()
        state.update(phase="write", canaries=left, offset=0)
        self.save()

    def _resume(self, layer, places, state):
        """Where to go on: what lies before the checkpoint is compared, as far as memory may have lied."""
        worker = wipe_passes.Worker(layer.fd, layer.key, layer.size)
        skip, start = set(state["canaries"]) | set(state["bad"]), state["offset"]
        for offset in [one for one in places.offsets() if one < state["offset"]][-RECHECK_BLOCKS:]:
            try:
                wrong = [one for one in worker.differing_units(offset, places.length(offset)) if one not in skip]
            except OSError:
                wrong = [offset]
            if wrong:
                start = offset
                break
        worker.close()
        self.state["sessions"][-1].update(layer=layer.number, checkpoint=state["offset"], resumed_from=start)
        return start

    def write(self, layer, state):
        self.phase = "write"
        places = wipe_plan.Places(layer.whole_parts, wipe_passes.BLOCK)
        start = 0
        if not places.total:
            state.update(phase="verify")
            return
        if state["phase"] == "new":
            self._canaries(layer, places, state)
        else:
            start = self._resume(layer, places, state)
        left = wipe_plan.Places(_from(layer.whole_parts, start), wipe_passes.BLOCK)
        work = wipe_passes.WritePass(
            layer.fd, layer.key, layer.size, state["canaries"], self.spec.get("rate"), set(state["bad"]), left, self.cores
        )

        def checkpoint(offset):
            os.fsync(layer.fd)  # only what the device has confirmed may be called written
            state.update(offset=offset, bad=sorted(work.bad))
            self.save()

        self._pass(layer, work, checkpoint)
        os.fsync(layer.fd)
        state.update(phase="verify", offset=layer.size, bad=sorted(work.bad))
        self.save()

    def write_tail(self, layer):
        """The odd end of a file, less than 4 KiB: through the page cache, synced, the cache dropped, read again."""
        if not layer.tail:
            return True
        start, end = layer.tail
        buffer, stream = wipe_stream.Buffer(UNIT), wipe_stream.Stream(layer.key)
        stream.fill(buffer, start, end - start)
        stream.close()
        wanted = bytes(buffer.view[: end - start])
        fd = os.open(layer.path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            if os.fstat(fd).st_ino != layer.found["inode"]:
                raise wipe_passes.Broken("%s was replaced while it was wiped" % layer.path)
            os.pwrite(fd, wanted, start)
            os.fsync(fd)
            os.posix_fadvise(fd, start, end - start, os.POSIX_FADV_DONTNEED)
            return os.pread(fd, end - start, start) == wanted
        finally:
            os.close(fd)

    def verify(self, layer, state):
        self.phase = "verify"
        ended = self.write_tail(layer)
        places = wipe_plan.Places(layer.whole_parts, wipe_passes.BLOCK)
        if not places.total:
            facts = dict(verdict="yes" if ended else "no", reasons=[], canaries_left=0, canaries_found=0, mismatches=0, bytes_read=0)  # type: Dict[str, Any]
        else:
            work = wipe_passes.VerifyPass(layer.fd, layer.key, layer.size, self.spec.get("rate"), places, self.cores)
            seconds = self._pass(layer, work)
            facts = wipe_judge.judge_verification(
                state["canaries"], work.mismatched, work.unreadable, state["bad"], layer.size, work.bytes_read, work.total
            )
            facts.update(seconds=seconds, unreadable=sorted(work.unreadable))
        if not ended:
            facts.update(
                verdict="no", reasons=facts["reasons"] + ["the last %d bytes do not hold the stream" % (layer.tail[1] - layer.tail[0])]
            )
        facts["reasons"] = ["%s: %s" % (layer.path, line) for line in facts["reasons"]]
        state.update(phase="canaries" if facts["verdict"] == "yes" else "done", verification=facts)
        self.save()

    def wipe_canaries(self, layer, state):
        self.phase = "canaries"
        worker = wipe_passes.Worker(layer.fd, layer.key, layer.size)
        places = wipe_plan.Places(layer.whole_parts, wipe_passes.BLOCK)
        left, bad = [], set()
        for place in state["canaries"]:
            try:
                worker.write_stream(place, min(UNIT, places.length(place)))
            except OSError:
                bad.add(place)
        os.fsync(layer.fd)
        for place in sorted(set(state["canaries"]) - bad):
            try:
                if not worker.holds_stream(place, min(UNIT, places.length(place))):
                    left.append(place)
            except OSError:
                bad.add(place)
        worker.close()
        facts = state["verification"]
        facts["canaries_wiped"] = len(state["canaries"]) - len(left) - len(bad)
        state["bad"] = sorted(set(state["bad"]) | bad)
        if left:
            facts.update(verdict="no", reasons=facts["reasons"] + ["%s: %d canaries are still there" % (layer.path, len(left))])
        state.update(phase="done")
        self.save()

    def look_again(self, layer, state):
        """What an earlier session has verified, others may have written since: the places that were left out hold noise again, and all of
        the layer is read once more."""
        if len(self.state["sessions"]) < 2 or state["phase"] not in ("canaries", "done") or state["verification"]["verdict"] != "yes":
            return
        worker, places = wipe_passes.Worker(layer.fd, layer.key, layer.size), wipe_plan.Places(layer.whole_parts, wipe_passes.BLOCK)
        for place in sorted(set(state["canaries"]) - set(state["bad"])):
            worker.write_bytes(place, os.urandom(min(UNIT, places.length(place))))
        worker.close()
        os.fsync(layer.fd)
        state.update(phase="verify")
        self.save()

    def work(self):
        for layer in self.layers:
            state = self.state["parts"][layer.number]
            self.look_again(layer, state)
            if state["phase"] in ("new", "write"):
                self.write(layer, state)
            if state["phase"] == "verify":
                self.verify(layer, state)
            if state["phase"] == "canaries":
                self.wipe_canaries(layer, state)

    # --- the end

    def layer_result(self, layer, state):
        unreadable = (state.get("verification") or {}).get("unreadable") or []
        errors = wipe_judge.unit_ranges(set(state["bad"]) | set(unreadable), layer.size)
        now = json.loads(json.dumps(layer.map_now()))
        kept = read_json(self.path("map-%d.json" % layer.number)) or []
        changed = os.stat(layer.path).st_size != layer.size if layer.kind == "file" else False
        moved = volume_judge.in_place(kept, now) + (["its size changed from %d" % layer.size] if changed else [])
        return {
            "path": layer.path, "kind": layer.kind, "format": self.spec["layers"][layer.number].get("format"), "bytes": layer.size,
            "allocated": sum(end - start for start, end in layer.parts), "ranges": layer.parts[: wipe_judge.LISTED_RANGES],
            "range_count": len(layer.parts), "file_system": layer.file_system or None, "inode": layer.found.get("inode"),
            "uuid": layer.found.get("uuid"), "key": layer.key.hex(), "moved": moved, "error_ranges": errors[: wipe_judge.LISTED_RANGES],
            "in_place": "no" if moved else "yes", "beyond_end": volume_extents.beyond(layer.rows, layer.size), "pools": layer.pools, "removed": False,
        }  # fmt: skip

    def result(self):
        state = self.state
        rows = [self.layer_result(layer, state["parts"][layer.number]) for layer in self.layers]
        verification = volume_judge.together([part["verification"] for part in state["parts"]])
        self.save()
        bad = sum(wipe_judge.range_bytes(row["error_ranges"]) for row in rows)
        wanted = sum(end - start for layer in self.layers for start, end in layer.whole_parts) - bad
        accounting = {name: volume_judge.counted(verb, state[name], wanted) for name, verb in (("written", "write"), ("read", "read"))}
        word, reasons, exceptions = volume_judge.outcome(rows, verification, accounting, self.replaced())
        ended = time.time()
        more = [
            "%d bytes that are allocated behind the end of %s" % (row["beyond_end"], row["path"])
            for row in rows
            if row["beyond_end"] > UNIT
        ]
        return {
            "outcome": word, "reasons": reasons, "exceptions": exceptions, "device": self.layers[0].path, "identity": self.spec["identity"],
            "size": self.spec["identity"]["size"], "logical_block": 512, "byte_ranges": [list(part) for part in rows[0]["ranges"]],
            "error_ranges": [one for row in rows for one in row["error_ranges"]], "algorithm": wipe_engine.algorithm(self.key),
            "verification": verification, "accounting": accounting, "final": None, "technique": wipe_judge.OVERWRITE, "layers": rows,
            "classes": volume_judge.classes(more), "started": utc(state["first_started"]), "ended": utc(ended),
            "seconds": round(sum(one["seconds"] for one in state["sessions"]), 3), "sessions": state["sessions"],
            "authorisation_sha256": self.spec.get("authorisation_sha256"), "tools": wipe_engine.tools(sys.modules[__name__]),
        }  # fmt: skip

    def replaced(self):
        """Layers whose path leads to something else now than what was written."""
        found = []
        for layer in self.layers:
            try:
                same = volume_users.key_of(layer.path) == _key_of_fd(layer.fd)
            except OSError as err:
                found.append("%s: %s" % (layer.path, err.strerror))
                continue
            if not same:
                found.append("%s is another file now than the one that was overwritten" % layer.path)
        return found

    def remove(self, result):
        """By choice, once everything is proven: files are unlinked, the lowest first. What is proven was written down before, so that a killed
        removal goes on."""
        for row in reversed(result["layers"]):
            if row["kind"] != "file":
                continue
            try:
                if os.stat(row["path"]).st_ino == row["inode"]:
                    os.unlink(row["path"])
            except OSError as err:
                if err.errno != errno.ENOENT:
                    raise
            folder = os.open(os.path.dirname(row["path"]), os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)
            row["removed"] = not os.path.exists(row["path"])
        return result

    def run(self):
        """The whole job. Returns the result; what is not a result (a kill) leaves the state for the next start."""
        try:
            self.load()
            result = self.state.get("proven")
            if not result:
                self.open()
                self.work()
                result = self.result()
            if result["outcome"] == "sanitised" and self.spec.get("remove"):
                self.save(proven=result)
                result = self.remove(result)
            self.save(ended=utc(time.time()))
        except Refused as err:
            result = self.short("refused", err.reasons)
        except Aborted as err:
            result = self.short("aborted", [str(err)])
        except wipe_passes.Broken as err:
            result = self.short("failed", [str(err).replace("the device stopped", "it stopped")])
        except (wipe_stream.StreamError, volume_thin.ThinError, OSError) as err:
            result = self.short("failed", [str(err)])
        finally:
            for layer in self.layers:
                layer.close()
        write_json(self.path("result.json"), result)
        return result

    def short(self, word, reasons):
        return {
            "outcome": word, "reasons": reasons, "exceptions": [], "device": self.spec["layers"][0]["path"], "phase": self.phase,
            "identity": self.spec["identity"], "size": self.spec["identity"]["size"], "started": utc(self.started), "ended": utc(time.time()),
            "begun": bool(self.state.get("begun")), "tools": wipe_engine.tools(sys.modules[__name__]),
        }  # fmt: skip


def _from(parts, start):
    return [(max(first, start), end) for first, end in parts if end > start]


def _key_of_fd(fd):
    return volume_users.key_of("/proc/self/fd/%d" % fd)


def _process_io():
    # type: () -> Dict[str, int]
    text = disk_device._read_all("/proc/self/io") or ""
    pairs = dict(line.split(": ", 1) for line in text.splitlines() if ": " in line)
    try:
        return {"written": int(pairs["write_bytes"]), "read": int(pairs["read_bytes"])}
    except (KeyError, ValueError):
        return {}


def main(argv):
    return wipe_engine.main(argv, VolumeWipe)
