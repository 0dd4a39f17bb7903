# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One call of media_wipe: look at the device and its job, decide, hand the work over, judge its end.

Private to the collection. Valid for Python 3.6, standard library. The documentation and the options are in the module.
"""

import os
import re

from ansible_collections.sunset.crm.plugins.module_utils._disk import device as disk_device
from ansible_collections.sunset.crm.plugins.module_utils._job import read_json
from ansible_collections.sunset.crm.plugins.module_utils._wipe import (
    engine as wipe_engine,
    firmware as wipe_firmware,
    job as wipe_job,
    judge as wipe_judge,
    luks as wipe_luks,
    now as wipe_now,
    purge as wipe_purge,
    stream as wipe_stream,
)

OVERWRITE = wipe_judge.OVERWRITE
# The job of a technique; all others are the drive's own firmware.
ENTRIES = {OVERWRITE: wipe_engine, wipe_firmware.LUKS_KEYS: wipe_luks}


def key_problem(text):
    """Why this is no usable stream key; None if it is."""
    if not re.match(r"[0-9a-fA-F]{64}\Z", text or ""):
        return "stream_key has %d characters; expected 64 hexadecimal digits" % len(text or "")
    if len(set(bytearray.fromhex(text))) < 8:
        return "stream_key repeats itself; make a random one, for instance with 'openssl rand -hex 32'"
    return None


def as_asked(result, technique, verify, final):
    """Was it done by this technique, looked at no less than asked, and left as asked?"""
    mode = (result.get("verification") or {}).get("mode", "full")
    zeros = (result.get("final") or {}).get("verdict") == "yes"
    done_by = result.get("technique") or OVERWRITE
    return done_by == technique and (mode == verify or mode == "full") and (technique != OVERWRITE or zeros == (final == "zeros"))


def wiped_already(result, found, key_sha256, wrong, read):
    """yes, no or unknown: is there a verification of this very device with this key, and does it still hold?"""
    if (result or {}).get("outcome") not in wipe_job.DONE:
        return "no"
    if (result.get("algorithm") or {}).get("key_sha256") != key_sha256:
        return "no"
    if disk_device.compare_identity(result.get("identity") or {}, found):
        return "no"
    if not read:
        return "unknown"
    return "no" if wrong else "yes"


def decide(job_state, refusals, wiped):
    """What to do: none, attach, start or refuse."""
    if job_state == "running":
        return "attach"  # the job judged the device before its first write and holds it since
    if refusals:
        return "refuse"
    return "none" if wiped == "yes" else "start"


def sample(device, key, result):
    """Fresh look at some places, which must be as the wipe left them: (wrong, read, why)."""
    try:
        if (result.get("technique") or OVERWRITE) != OVERWRITE:
            wrong, read = wipe_purge.sample(device, result.get("left") or [])
        else:
            zeros = (result.get("final") or {}).get("verdict") == "yes"
            wrong, read = wipe_engine.sample(device, key, zeros=zeros, leave_out=result.get("error_ranges") or [])
    except (OSError, wipe_stream.StreamError) as err:
        return [], [], str(err)
    return wrong, read, ""


def of_the_technique(params, found):
    """Why this device cannot be wiped by this very technique; read-only."""
    if params["technique"] == OVERWRITE:
        return []
    if params["technique"] == wipe_firmware.LUKS_KEYS:
        return wipe_luks.refusals(params["device"], params["key_copies"])
    return wipe_purge.refusals(params["device"], params["technique"], found, params["psid_directory"])


def observe(params, job, key):
    """The device and the job, read-only."""
    found = disk_device.identify(params["device"])
    status = job.status()
    held = []
    if status["state"] != "running" and found["found"] == "yes":
        held = disk_device.lasting_holders(params["device"])
    root, waiver = disk_device.running_root_devices(), bool(params["identity_waiver"])
    refusals = wipe_judge.refusals(params["identity"], found, held, root, params["protected"], waiver)
    if params["in_rescue"]:
        place = disk_device.in_rescue()
        if place["verdict"] != "yes":
            refusals.append("it is to be wiped from within, and this is not the host's rescue system: %s" % place["why"])
    technique = params["technique"]
    before = {"found": found, "technique": technique, "job": status["state"], "wiped": "no", "sampled": 0}
    asked = as_asked(status["result"], technique, params["verify"], params["final"])
    if not refusals and status["state"] == "done" and status["result"].get("outcome") in wipe_job.DONE and asked:
        wrong, read, why = sample(params["device"], key, status["result"])
        key_sha256 = wipe_engine.key_digest(key)
        before.update(wiped=wiped_already(status["result"], found, key_sha256, wrong, read), sampled=len(read), why=why)
    if before["wiped"] != "yes" and status["state"] in ("absent", "done") and not refusals:
        refusals = of_the_technique(params, found)
    decided = None
    if decide(status["state"], refusals, before["wiped"]) == "start":
        decided = wipe_now.look(params, found)
        earlier = begun(job, params, found, key)
        refusals = decided["obstacles"] if earlier else decided["reasons"]
        # What a job that goes on has done to the drive is no reason against it; what it found before that is what counts.
        decided = earlier or decided
        # Whole, they are in the result; here it is enough to know what was looked at.
        before.update(decided={"verdict": (decided["decision"] or {}).get("verdict"), "goes_on": earlier is not None})
    before.update(refusals=refusals, decision=decide(status["state"], refusals, before["wiped"]))
    return before, status, decided


def begun(job, params, found, key):
    """What was decided before a job that has written something on this very device and not come to its end; None where there is no such
    job. It goes by the same rule as the job: what was decided about another device, or for another way, is no decision about this."""
    spec = read_json(os.path.join(job.directory, "spec.json")) or {}
    state = wipe_engine.read_json(os.path.join(job.directory, "state.json")) or {}
    asked = wipe_engine.asked_of(params, found, key)
    if any(state.get(name) != asked[name] for name in asked) or state.get("ended") or state.get("phase") in (None, "new"):
        return None
    return spec.get("decided")


def start(job, params, decided):
    """Hand the work to the job; a second start of a running one attaches."""
    spec = {
        "device": params["device"], "identity": params["identity"], "waiver": params["identity_waiver"],
        "protected": params["protected"], "key": params["stream_key"].lower(), "rate": params["rate"],
        "authorisation_sha256": params["authorisation_sha256"], "technique": params["technique"], "verify": params["verify"],
        "final": params["final"], "decided": decided, "key_copies": params["key_copies"], "psid_directory": params["psid_directory"],
        "cores_directory": os.path.join(params["state_directory"], ".cores"),
    }  # fmt: skip
    wipe_job.begin(job, params["state_directory"], spec, ENTRIES.get(params["technique"], wipe_purge))


def result_of(job, status):
    """The job's result, with what was decided before it."""
    if status["state"] != "done":
        return status["result"]
    return wipe_now.told(status["result"], (read_json(os.path.join(job.directory, "spec.json")) or {}).get("decided"))


def finish(rec, job, status, params, key):
    """Judge the end of a job from its evidence and from a fresh look."""
    result = result_of(job, status)

    def look():
        found = disk_device.identify(params["device"])
        # The job may be one that was begun under another plan: what it did must be what is asked for now, on the device that is named now.
        other = ["identity: " + line for line in disk_device.compare_identity(params["identity"], found)]
        if not as_asked(result, params["technique"], params["verify"], params["final"]):
            other.append("asked for %s, verify %s, final %s" % (params["technique"], params["verify"], params["final"]))
        if other:
            rec.after({"found": found, "outcome": result["outcome"], "asked_otherwise": other})
            rec.fail(
                "%s: a job that was begun before ended %s, and that is not what is asked for now (%s). Run the same command again"
                % (params["device"], result["outcome"], "; ".join(other)), **wipe_job.trim(result)
            )  # fmt: skip
        wrong, read, why = sample(params["device"], key, result)
        holds = wiped_already(result, found, wipe_engine.key_digest(key), wrong, read)
        return holds, why or "%d of %d places differ" % (len(wrong), len(read)), {"found": found, "sampled": len(read)}

    wipe_job.finish(rec, job, status, params["device"], result, look)
