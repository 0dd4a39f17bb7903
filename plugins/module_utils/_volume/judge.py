# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the overwriting of a virtual disk was worth, from the evidence of its layers. Pure; the class is always logical sanitisation.

Private to the collection. Valid for Python 3.6, standard library; travels with the wipe job.
"""

import hashlib
from typing import Any, Dict, Iterable, List  # noqa: F401

CALLED = "logical sanitisation"
TECHNIQUE = (
    "host overwrite of a virtual disk with all its layers, one pass, keyed AES-256-CTR stream, every block that is allocated to them"
)
STATEMENT = (
    "The disk is virtual, and the machine that carries it stays in use. Every block that was allocated to its layers was overwritten where it "
    "lies and read back, their tables and the snapshots inside them with it; holes stayed holes. This is logical sanitisation: %s. Whoever "
    "needs more has to destroy the keys of an encryption below, or to wipe the disks under it when they are free."
)
WHY = "the layers of a virtual disk are overwritten where they lie; whatever is below them stays in use"
METHOD = "destroy the keys of an encryption that was there before the data, or purge every physical disk below it when they are free"
NOT_COVERED = (
    "blocks that the layers once had and gave back (discard, an image that was moved, a snapshot that was deleted) are not covered",
    "what the layers below keep of overwritten blocks (caches, journals, spare and remapped areas of the physical disks) is not covered",
    "copies elsewhere (backups, replicas, other hosts of a cluster) are not covered",
)


def layer_key(key, number):
    # type: (bytes, int) -> bytes
    """Each layer has a stream of its own, or equal places of two would look equal. The first has the key itself."""
    if number == 0:
        return key
    return hashlib.sha256(("%s:%d" % (key.hex(), number)).encode("ascii")).digest()


def classes(more):
    # type: (Iterable[str]) -> Dict[str, str]
    left = "; ".join(list(NOT_COVERED) + list(more))
    return {
        "technique": TECHNIQUE, "called": CALLED, "nist_800_88r2": CALLED, "nist_800_88r1": CALLED, "ieee_2883_2022": CALLED,
        "statement": STATEMENT % left,
    }  # fmt: skip


def decision(policy):
    # type: (Dict[str, Any]) -> Dict[str, Any]
    """What is done for what is asked, in the words of the decision on disks: more than logical sanitisation there is not, and whether that
    will do is the policy's to say. {reasons, decision, order}."""
    asked = policy.get("asked") or "clear"
    chosen = {"id": "overwrite-keyed", "class": "logical", "why": WHY, "not_reached": list(NOT_COVERED)}
    found = {
        "verdict": "plan", "asked": asked, "reachable": "logical", "technique": "overwrite-keyed", "chosen": chosen, "before": [], "rejected": [],
        "possible": [{"id": chosen["id"], "class": chosen["class"]}], "reasons": [], "paths": [], "erases_with_it": [], "notes": [],
    }  # type: Dict[str, Any]  # fmt: skip
    if policy.get("logical", "yes" if asked == "clear" else "no") == "yes":
        return {"reasons": [], "decision": found, "order": None}
    reasons = [
        "asked for %s; a virtual disk on a machine that stays reaches logical sanitisation, and the policy does not say that this will do"
        % asked
    ]
    order = {"asked": asked, "reachable": "logical", "because": reasons, "provisional": False, "find_out": [], "method": METHOD}
    return {"reasons": reasons, "decision": dict(found, verdict="destroy", chosen=None, reasons=reasons), "order": order}


def counted(verb, bytes_, wanted):
    # type: (str, Any, int) -> Dict[str, Any]
    """What the kernel counted for the job's own process against what was to be moved."""
    facts = {"wanted_bytes": wanted, "counter": "/proc/self/io %s_bytes of the job" % verb, "bytes": bytes_, "why": ""}
    if bytes_ is None:
        return dict(facts, verdict="unknown", why="the kernel does not count it here")
    if bytes_ < wanted:
        return dict(facts, verdict="no", why="the kernel counted %d bytes, expected at least %d" % (bytes_, wanted))
    return dict(facts, verdict="yes")


def in_place(before, after):
    # type: (Any, Any) -> List[str]
    """Why the blocks that were overwritten may not be those that held the content: the map of a layer changed."""
    if before == after:
        return []
    return ["it lies elsewhere after the pass than before (%d stretches before, %d after): old blocks are left" % (len(before), len(after))]


def together(parts):
    # type: (List[Dict[str, Any]]) -> Dict[str, Any]
    """One verification from those of the layers."""
    numbers = ("canaries_left", "canaries_found", "canaries_wiped", "mismatches", "bytes_read", "bytes_unreadable", "seconds")
    total = {name: sum(part.get(name) or 0 for part in parts) for name in numbers}  # type: Dict[str, Any]
    wrong = [line for part in parts if part["verdict"] != "yes" for line in part["reasons"]]
    total.update(mode="full", verdict="no" if wrong or not parts else "yes", reasons=wrong, layers=len(parts))
    total["seconds"] = round(total["seconds"], 3)
    return total


def outcome(layers, verification, accounting, differences):
    # type: (Any, Dict[str, Any], Dict[str, Any], List[str]) -> Any
    """(outcome, reasons for failure, exceptions)."""
    reasons = list(differences)
    reasons += ["verification: " + line for line in verification["reasons"]]
    exceptions = []  # type: List[str]
    for layer in layers:
        reasons += ["%s: %s" % (layer["path"], line) for line in layer["moved"]]
        if layer["error_ranges"]:
            exceptions.append("%s: %d ranges could not be written or read" % (layer["path"], len(layer["error_ranges"])))
    for name in ("written", "read"):
        if accounting[name]["verdict"] == "no":
            reasons.append("%s bytes: %s" % (name, accounting[name]["why"]))
        elif accounting[name]["verdict"] != "yes":
            exceptions.append("bytes %s are not confirmed by the kernel: %s" % (name, accounting[name]["why"]))
    if reasons:
        return "failed", reasons, exceptions
    return ("sanitised_with_exceptions" if exceptions else "sanitised"), [], exceptions
