# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What both modules that wipe do with their job, whatever it wipes: name it, begin it, judge its end.

Private to the collection. Valid for Python 3.6, standard library.
"""

import hashlib
import os
import re

from ansible_collections.sunset.crm.plugins.module_utils._wipe import judge as wipe_judge

DONE = ("sanitised", "sanitised_with_exceptions")
SAID = {"refused": "was refused", "aborted": "was stopped", "failed": "has failed"}


def name(item, key, technique=wipe_judge.OVERWRITE):
    """One job for each medium, key and technique: another key is another wipe."""
    more = "" if technique == wipe_judge.OVERWRITE else "-" + technique
    return "%s-%s%s" % (re.sub(r"[^A-Za-z0-9._-]", "_", item), hashlib.sha256(key).hexdigest()[:12], more)


def begin(job, state_directory, spec, entry):
    """Hand the work to the job; a second start of a running one attaches."""
    abort = os.path.join(job.directory, "abort")
    if os.path.exists(abort):
        os.unlink(abort)
    if not os.path.isdir(state_directory):
        os.makedirs(state_directory, 0o700)
    job.start(spec, entry)


def trim(result):
    """The result as the ledger keeps it: without what only this machine understands, and not without bound."""
    kept = {key: value for key, value in result.items() if key != "found"}
    return dict(kept, state="done", sessions=(result.get("sessions") or [])[-20:])


def final_verdict(result):
    """Places that could not be written may still hold data: that medium is not wiped, it needs a destruction order."""
    return "no" if result.get("error_ranges") else "yes"


def finish(rec, job, status, what, result, look):
    """Judge the end of a job from its evidence and from a fresh look. ``look()``: yes, no or unknown; why; what was seen."""
    if status["state"] == "running":
        rec.after({"job": "running", "progress": status["progress"]})
        rec.finish(changed=True, verdict="unknown", result={"state": "running", "progress": status["progress"]})
    if status["state"] != "done":
        rec.after({"job": status["state"], "progress": status["progress"]})
        rec.fail(
            "the wipe job ended without a result at %s %%; run the same command again, it goes on. Last words: %s"
            % (status["progress"].get("percent", 0), job.log_tail(500).strip() or "none"), verdict="unknown",
        )  # fmt: skip
    outcome = result.get("outcome")
    if outcome not in DONE:
        rec.after({"job": "done", "outcome": outcome})
        rec.fail("%s: the wipe %s: %s" % (what, SAID.get(outcome, str(outcome)), "; ".join(result["reasons"])), **trim(result))
    holds, why, seen = look()
    rec.after(dict(seen, outcome=outcome, holds_stream=holds))
    for tool in sorted(result["tools"]):
        rec.tool(tool, result["tools"][tool])
    if holds != "yes":
        rec.fail(
            "the job says %s, but a fresh look says %s: %s. It counts as not wiped; run it again" % (outcome, holds, why), **trim(result)
        )
    rec.finish(changed=True, verdict=final_verdict(result), result=trim(result))
