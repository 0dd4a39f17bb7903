#!/usr/bin/python
# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Overwrite a virtual disk with all its layers on a machine that stays in use; see DOCUMENTATION."""

DOCUMENTATION = r"""
---
module: volume_wipe
short_description: Overwrite a virtual disk with all its layers, where it lies, on a machine that stays in use
version_added: "0.1.0"
description:
  - Overwrites a raw file, a qcow2 with every file behind it, a logical volume or a thin volume with the key stream of AES-256-CTR, reads every
    byte back and compares it. Runs on the hypervisor, which goes on for others.
  - What it does is always called logical sanitisation. The result says what that does not cover.
  - Of a file only the stretches that have blocks are written, past all tables of its format, so that snapshots inside go with it. A hole stays a
    hole, no file grows. Of a thin volume only the blocks that its pool has given it are written. The pool is watched, and the job stops before it
    is full, whoever fills it.
  - Where the blocks lie is read before and after. If that changed, the file system has written somewhere else, and the wipe has failed. A file
    system that copies on write, one of another machine, shared extents (reflinks), a volume with snapshots or with a cache before it, and thin blocks
    that other volumes share are refused for that reason before anything is written.
  - Refuses, too, what anybody uses. That is an open descriptor, a lock of QEMU, a loop device, swap, another guest's definition, saved memory of one of the
    guests, and an image that stands on one of the layers and is not retired with them. While the job works no QEMU can take the images.
  - The work is a detached job, as with M(sunset.crm.media_wipe). A call with the same O(item) and O(stream_key) attaches to it, goes on after a kill,
    and changes nothing when it is done.
  - Runs only through the action plugin of the same name, which checks the authorisation and records an intent.
extends_documentation_fragment:
  - sunset.crm.recorded
  - sunset.crm.recorded.wiping
author:
  - sunset.crm contributors (@sunset-crm)
options:
  identity:
    description: What the plan and the authorisation say about the medium. Its C(serial) is a digest over O(layers).
    type: dict
    required: true
  layers:
    description:
      - The layers of the disk as the plan has them, the one that is written to first. Each has C(path), C(format), C(kind), C(virtual_bytes), and C(inode)
        or C(uuid).
      - Those that other disks of the plan share are media of their own and not among them.
    type: list
    elements: dict
    required: true
  overlays:
    description: Layers that were put on top since, by an external snapshot that the ledger knows. They are overwritten with the others.
    type: list
    elements: dict
    default: []
  copies:
    description: Files in the staging place that hold copies of this disk's guest, as the ledger knows them. They are overwritten with the layers.
    type: list
    elements: dict
    default: []
  known:
    description: Paths of all layers of this machine that are retired together; an image among them may stand on this disk.
    type: list
    elements: str
    default: []
  guests:
    description: Names of the guests that are retired on this machine; the definition of any other guest keeps a layer from being overwritten.
    type: list
    elements: str
    default: []
  policy:
    description:
      - What is asked for, as in M(sunset.crm.media_wipe); from the plan. Where it asks for purge, and does not say by C(logical) that logical
        sanitisation will do, nothing is done and the result has a proposal for an order.
    type: dict
    default: {asked: clear}
  remove:
    description: Whether files are unlinked once everything is proven. Volumes are left for their owner to remove. Comes from the plan (C(wipe.remove)).
    type: bool
    default: false
  pool_limit:
    description: Per cent of a thin pool's data or metadata, from which on nothing is written to anything on it.
    type: float
    default: 95
  stream_key:
    description: As in M(sunset.crm.media_wipe). Every layer but the first has a key that is derived from it; the result names them.
    type: str
    required: true
  identity_waiver:
    description: SHA-256 of a signed waiver about the identity. It opens nothing here; what the plan names is compared anyway.
    type: str
attributes:
  check_mode:
    support: full
    description:
      - Makes the same decision, and reports the same RV(ignore:changed), without writing. Which blocks of its pool a thin volume has is asked in the real
        run only, since the question changes the pool's metadata for a moment.
  diff_mode:
    support: none
    description: There is nothing to show of a medium's content.
notes:
  - Needs root, OpenSSL's libcrypto, and for volumes C(dmsetup); for thin ones C(thin_dump), which LVM itself needs to start a pool.
seealso:
  - module: sunset.crm.media_wipe
  - module: sunset.crm.volume_info
"""

EXAMPLES = r"""
- name: Overwrite the disk of a retired guest, its hypervisor stays
  sunset.crm.volume_wipe:
    item: medium:crm-db1-vda
"""

RETURN = r"""
evidence:
  description: What was seen before, done, and seen after.
  returned: always
  type: dict
  sample: {module: volume_wipe, item: "medium:crm-db1-vda", verdict: "yes", before: {decision: start}, actions: [], after: {}}
evidence_sha256:
  description: Digest of RV(evidence) as the module sent it.
  returned: always
  type: str
  sample: 8441553a1da40336adc2e98e9ef36d025fca915fff9b245657387843d14bdf61
certificate:
  description: Name of the certificate's file in the estate's folder. From the action plugin.
  returned: when the medium is wiped
  type: str
  sample: medium_crm-db1-vda.certificate.json
order:
  description: Name of the order's file. From the action plugin.
  returned: when data is, or may be, left
  type: str
  sample: medium_crm-db1-vda.order.json
result:
  description: What the certificate says about the wipe, as in M(sunset.crm.media_wipe).
  returned: always
  type: dict
  contains:
    state:
      description: V(done) or V(running).
      type: str
      returned: always
      sample: done
    outcome:
      description: V(sanitised), V(sanitised_with_exceptions), V(failed), V(refused) or V(aborted).
      type: str
      returned: when the job has ended
      sample: sanitised
    reasons:
      description: Why it failed or was refused.
      type: list
      elements: str
      returned: when the job has ended
      sample: []
    layers:
      description: Each layer with the stretches that were overwritten, its key, whether its blocks lie where they lay, and whether it was removed.
      type: list
      elements: dict
      returned: success
      sample: [{path: /var/lib/libvirt/images/db1.qcow2, kind: file, bytes: 196616, in_place: "yes", removed: false}]
    classes:
      description: Always logical sanitisation, with what it does not cover.
      type: dict
      returned: success
      sample: {called: logical sanitisation, nist_800_88r2: logical sanitisation}
    verification:
      description: Coverage, mismatches and the canaries, over all layers.
      type: dict
      returned: success
      sample: {mode: full, verdict: "yes", bytes_read: 2560000, mismatches: 0, canaries_left: 22, canaries_found: 22, canaries_wiped: 22}
"""

import hashlib
import json
import os
import re

from ansible_collections.sunset.crm.plugins.module_utils._job import Job
from ansible_collections.sunset.crm.plugins.module_utils._recorded import Recorded
from ansible_collections.sunset.crm.plugins.module_utils._volume import (
    chain as volume_chain,
    engine as volume_engine,
    judge as volume_judge,
    layer as volume_layer,
    look as volume_look,
)
from ansible_collections.sunset.crm.plugins.module_utils._wipe import job as wipe_job


def problem_of(params):
    """What is wrong with the options; None if nothing is."""
    key = params["stream_key"] or ""
    if not re.match(r"[0-9a-fA-F]{64}\Z", key) or len(set(bytearray.fromhex(key))) < 8:
        return "stream_key has %d characters; expected 64 hexadecimal digits that do not repeat themselves" % len(key)
    if not params["layers"]:
        return "layers is empty; expected what the survey has found of the disk"
    if params["identity"] != volume_chain.identity(params["layers"]):
        return "identity is not that of these layers; both come from the plan, so survey again"
    strange = [layer for layer in all_layers(params) if not str(layer.get("path", "")).startswith("/") or not layer.get("kind")]
    if strange:
        return "a layer has no absolute path or no kind: %s" % json.dumps(strange[0], sort_keys=True)[:200]
    if not 1 <= params["pool_limit"] <= 99:
        return "pool_limit is %s; expected per cent from 1 to 99" % params["pool_limit"]
    return None


def all_layers(params):
    return params["overlays"] + params["layers"] + [dict(one, role="copy") for one in params["copies"]]


def spec_of(params):
    return {
        "layers": all_layers(params), "identity": params["identity"], "known": params["known"], "guests": params["guests"], "remove": params["remove"],
        "pool_limit": params["pool_limit"], "key": params["stream_key"].lower(), "rate": params["rate"],
        "authorisation_sha256": params["authorisation_sha256"], "cores_directory": os.path.join(params["state_directory"], ".cores"),
    }  # fmt: skip


def wiped_already(result, params, key):
    """(yes, no or unknown; why): do these very layers hold the stream, or are they gone as was asked?"""
    rows = result.get("layers") or []
    same = result.get("identity") == params["identity"] and [row["path"] for row in rows] == [one["path"] for one in all_layers(params)]
    if result.get("outcome") not in wipe_job.DONE or not same:
        return "no", ""
    if (result.get("algorithm") or {}).get("key_sha256") != hashlib.sha256(key).hexdigest():
        return "no", "another key"
    if params["remove"] and not all(row["removed"] for row in rows if row["kind"] == "file"):
        return "no", "it is to be removed, and is there"
    wrong, read, why = volume_look.sample(result, key)
    if not read:
        return "unknown", why
    return ("no", why or "%d of %d places differ" % (len(wrong), len(read))) if wrong or why else ("yes", "")


def decide(job_state, refusals, wiped):
    """What to do: none, attach, start or refuse."""
    if job_state == "running":
        return "attach"
    if wiped == "yes":
        return "none"
    return "refuse" if refusals else "start"


def observe(params, job, key):
    """The layers and the job, read-only."""
    status, refusals, wiped, why = job.status(), [], "no", ""
    if status["state"] != "running":
        wiped, why = wiped_already(status["result"], params, key) if status["state"] == "done" else ("no", "")
        state = volume_engine.read_json(os.path.join(job.directory, "state.json")) or {}
        if wiped != "yes" and not (state.get("proven") and not state.get("ended")):
            refusals = volume_layer.refusals(spec_of(params), bool(state.get("begun")))
    before = {"job": status["state"], "refusals": refusals, "wiped": wiped, "why": why, "layers": len(all_layers(params))}
    before["decision"] = decide(status["state"], refusals, wiped)
    return before, status


def told(result, params):
    """The result with what was decided before it."""
    return dict(result, decision=volume_judge.decision(params["policy"])["decision"])


def finish(rec, job, status, params, key):
    """Judge the end of a job from its evidence and from a fresh look."""

    def look():
        holds, why = wiped_already(status["result"], params, key)
        return holds, why, {}

    wipe_job.finish(rec, job, status, rec.item, told(status["result"], params), look)


def main():
    rec = Recorded(
        argument_spec={
            "identity": {"type": "dict", "required": True},
            "layers": {"type": "list", "elements": "dict", "required": True},
            "overlays": {"type": "list", "elements": "dict", "default": []},
            "copies": {"type": "list", "elements": "dict", "default": []},
            "known": {"type": "list", "elements": "str", "default": []},
            "guests": {"type": "list", "elements": "str", "default": []},
            "policy": {"type": "dict", "default": {"asked": "clear"}},
            "remove": {"type": "bool", "default": False},
            "pool_limit": {"type": "float", "default": 95},
            "stream_key": {"type": "str", "required": True, "no_log": False},
            "authorisation_sha256": {"type": "str"},
            "identity_waiver": {"type": "str"},
            "rate": {"type": "int", "default": 0},
            "wait": {"type": "int", "default": 172800},
            "state_directory": {"type": "path", "default": "/var/lib/sunset-crm/wipe"},
        },
        object_lock="medium",
    )
    params = rec.params
    problem = problem_of(params)
    if problem:
        rec.fail(problem)
    key = bytes(bytearray.fromhex(params["stream_key"]))
    job = Job(params["state_directory"], wipe_job.name(rec.item, key))
    if rec.revisit:
        rec.let_others_attach()
        finish(rec, job, rec.attend(job, params["wait"]), params, key)
    before, status = observe(params, job, key)
    rec.before(before)
    decision = before["decision"]
    if decision == "refuse":
        rec.fail("%s is not wiped: %s" % (rec.item, "; ".join(before["refusals"])), outcome="refused", reasons=before["refusals"])
    decided = volume_judge.decision(params["policy"])
    if decided["reasons"] and decision == "start":
        rec.fail(
            "%s is not wiped: %s. There is an order: %s" % (rec.item, "; ".join(decided["reasons"]), decided["order"]["method"]), outcome="refused",
            reasons=decided["reasons"], order=decided["order"],
        )  # fmt: skip
    if decision == "none":
        rec.after(before)
        rec.finish(changed=False, verdict=wipe_job.final_verdict(status["result"]), result=wipe_job.trim(told(status["result"], params)))
    if rec.check_mode:
        rec.after(before)
        rec.finish(changed=True, verdict="unknown", result={"state": "planned", "decision": decision})
    if decision == "start":
        wipe_job.begin(job, params["state_directory"], spec_of(params), volume_engine)
    rec.note(act=decision, job=job.name, layers=[layer["path"] for layer in all_layers(params)])
    rec.let_others_attach()
    finish(rec, job, rec.attend(job, params["wait"]), params, key)


if __name__ == "__main__":
    main()
