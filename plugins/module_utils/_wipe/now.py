# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The decision about one medium at the moment of its wipe: the same one that the dry run takes, over what the machine shows now.

Private to the collection; it may change at any time. Valid for Python 3.6.

``look``    reads the devices of this machine and decides (read-only)
``weigh``   pure: does the decision name this technique for this device now? {reasons, decision, state_before, exceptions, order}
``told``    pure: a job's result with what was decided before it; never under a stronger name than the decision's
"""

import os
import time
from typing import Any, Dict, List, Optional  # noqa: F401

from ansible_collections.sunset.crm.plugins.module_utils._canonical import digest
from ansible_collections.sunset.crm.plugins.module_utils._disk import facts as disk_facts, world as disk_world
from ansible_collections.sunset.crm.plugins.module_utils._disk.words import Row  # noqa: F401
from ansible_collections.sunset.crm.plugins.module_utils._wipe import (
    firmware as wipe_firmware,
    group as wipe_group,
    judge as wipe_judge,
    tcg as wipe_tcg,
    transport as wipe_transport,
)

# Steps that the wipe takes by itself. Every other one that comes before a technique is a person's, and blocks until it is done.
OWN_STEPS = ("record-password", "open-by-revert")
LIFTS = "lift-"
KEPT_OF_A_TECHNIQUE = ("id", "class", "rev1", "ieee2883", "command", "why", "seconds", "estimate", "device_wide", "not_reached")


def look(params, found):
    # type: (Dict[str, Any], Dict[str, Any]) -> Row
    """Read this machine's devices, ask this one, decide. params: of the module; found: what ``identify`` told of the device."""
    disks = _settled(params, found)
    policy = dict(params.get("policy") or {"asked": "clear"}, protected=params["protected"], waiver=bool(params["identity_waiver"]))
    # What a person has signed, and what lies on this machine: never what an inventory says of either.
    policy["luks"] = params.get("key_copies")
    policy["tcg_credential"] = wipe_tcg.credential(found.get("serial"), params.get("psid_directory") or wipe_tcg.DIRECTORY)
    weighed = weigh(disks["devices"], found["number"], policy, params["technique"], params.get("hidden_waiver"))
    if weighed["state_before"]:
        weighed["state_before"]["counters"] = counters(params["device"], found)
        weighed["state_before"]["by_path"] = disk_world.by_path(found["number"])
        weighed["state_before"]["machine"] = {"complete": disks["complete"], "container": disks["machine"]["container"]}
    return weighed


def _settled(params, found, tries=4, pause=0.5):
    # type: (Dict[str, Any], Dict[str, Any], int, float) -> Row
    """This machine's devices, looked at again while nobody but a momentary look (udev's, a survey's) seems to be in the way."""
    while True:
        disks = disk_facts.read(number=found["number"], node=params["device"])
        kinds = {row["kind"] for fact in disks["devices"] if fact["number"] == found["number"] for row in fact["holders"]}
        tries -= 1
        if not kinds or not kinds <= {"descriptor", "exclusive"} or not tries:
            return disks
        time.sleep(pause)


def counters(device, found):
    # type: (str, Dict[str, Any]) -> Row
    """What kernel and device have counted so far."""
    seen = {"kernel": None, "device": None}  # type: Row
    try:
        with open("/sys/dev/block/%s/stat" % found["number"]) as handle:
            read, written = wipe_judge.parse_stat(handle.read())
        seen["kernel"] = {"sectors_read": read, "sectors_written": written}
        fd = os.open(device, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return seen
    try:
        seen["device"] = wipe_transport.written_by_device(fd, found.get("kind"))
    finally:
        os.close(fd)
    return seen


def weigh(facts, number, policy, technique, hidden_waiver=None):
    # type: (List[Row], str, Row, str, Optional[str]) -> Row
    """facts: of every device of the machine; number: of the device; technique: what plan and authorisation name; hidden_waiver: digest of a
    signed word that a part which the device hides may stay as it is."""
    technique = wipe_firmware.canonical(technique)
    mine = next((fact for fact in facts if fact["number"] == number), None)
    if mine is None:
        why = "the kernel does not show the device %s among those of this machine" % number
        return {"reasons": [why], "obstacles": [why], "decision": None, "state_before": None, "exceptions": [], "order": None}
    names = {mine["name"]} | {fact["name"] for fact in facts if mine["class"] != "layer" and _same_drive(fact, mine)}

    def policy_of(fact):
        # type: (Row) -> Any
        if fact["name"] in names or names & set(fact.get("paths") or ()):
            return dict(policy, volume=True) if fact["class"] == "layer" else policy
        return None

    decision = next((one for one in wipe_group.decide(facts, policy_of) if mine["name"] in one["paths"]), None)
    if decision is None:
        why = "%s is no medium of its own" % mine["name"]
        return {"reasons": [why], "obstacles": [why], "decision": None, "state_before": state(mine), "exceptions": [], "order": None}
    chosen = next((row for row in decision["techniques"] + decision["once_free"] if row["id"] == technique), None)
    obstacles = (list(decision["reasons"]) if decision["verdict"] == "refused" else []) + _other_path(mine, decision)
    if decision["order"]:
        reasons = obstacles + ["asked for %s, and nothing here reaches it" % decision["asked"]] + decision["order"]["because"][1:]
    elif chosen is None:
        reasons = obstacles + [_not_named(technique, decision)]
    else:
        reasons = obstacles + _steps(chosen, hidden_waiver)
    return {
        "reasons": reasons, "obstacles": obstacles, "decision": record(decision, technique, chosen), "state_before": state(mine),
        "exceptions": _exceptions(chosen, hidden_waiver),
        # What is in use, or is somebody's who stays, is nobody's to destroy.
        "order": None if obstacles else decision["order"],
    }  # fmt: skip


def _same_drive(fact, mine):
    # type: (Row, Row) -> bool
    return fact["class"] != "layer" and wipe_group.medium_key(fact) == wipe_group.medium_key(mine)


def _other_path(mine, decision):
    # type: (Row, Row) -> List[str]
    """A medium is wiped once: two jobs on two paths to it would each undo, and misjudge, the other."""
    if decision["through"]:
        return ["it is a path to a medium that the map %s claims; flush the map (multipath -f), then wipe one path" % decision["through"]]
    if mine["name"] != decision["name"]:
        return ["it is a second path to the medium that is %s as well; have the plan name that one" % decision["device"]]
    return []


def _not_named(technique, decision):
    # type: (str, Row) -> str
    named = [row["id"] for row in decision["techniques"] or decision["once_free"]]
    why = [row["why"] for row in decision["rejected"] if row["id"] == technique] or [
        "a device of this kind (%s) has it not" % decision["class"]
    ]
    return "the decision does not name %s for it: %s. It names %s; change the plan and have it authorised, nothing else is done instead" % (
        technique, "; ".join(why), ", ".join(named) or "nothing",
    )  # fmt: skip


def _steps(chosen, hidden_waiver):
    # type: (Row, Optional[str]) -> List[str]
    """What a person has to do to the drive before."""
    left = [step for step in chosen["before"] if step["id"] not in OWN_STEPS and not (hidden_waiver and step["id"].startswith(LIFTS))]
    mend = ", or have it waived by name (gate 'hidden')"
    return ["first: %s%s" % (step["what"], mend if step["id"].startswith(LIFTS) else "") for step in left]


def _exceptions(chosen, hidden_waiver):
    # type: (Optional[Row], Optional[str]) -> List[str]
    lifts = [step["what"] for step in (chosen or {}).get("before", ()) if step["id"].startswith(LIFTS)]
    word = "a part that the device hides was left as it is, by a signed waiver (%s): it was not done to %s"
    return [word % (hidden_waiver[:12], what) for what in lifts] if hidden_waiver else []


def record(decision, technique, chosen):
    # type: (Row, str, Optional[Row]) -> Row
    """The decision as ledger and certificate keep it."""
    return {
        "verdict": decision["verdict"], "asked": decision["asked"], "reachable": decision["reachable"], "technique": technique,
        "chosen": {key: chosen[key] for key in KEPT_OF_A_TECHNIQUE if key in chosen} if chosen else None,
        "before": [step["what"] for step in chosen["before"]] if chosen else [],
        "possible": [{"id": row["id"], "class": row["class"]} for row in decision["techniques"] or decision["once_free"]],
        "rejected": [{"id": row["id"], "why": row["why"]} for row in decision["rejected"]],
        "reasons": list(decision["reasons"]), "paths": list(decision["paths"]), "erases_with_it": list(decision["covers"]) if chosen and chosen["device_wide"] else [],
        "notes": list(decision["warnings"]),
    }  # fmt: skip


def state(fact):
    # type: (Row) -> Row
    """What the device was, hid and carried before anything was written. Raw structures by digest, so that a transcript can be held against it."""
    group = ("hidden", "security", "sanitize", "format", "tcg", "sizes", "blocks", "traits", "holders", "contents", "luks")
    names = ("name", "class", "layer", "transport", "vendor", "model", "serial", "wwn", "eui64", "nguid", "firmware", "below", "above")
    raw = fact.get("raw") or {}
    found = {name: fact[name] for name in names + group}
    found["hidden_areas"] = found.pop("hidden")
    found["firmware_sanitise"] = found.pop("sanitize")
    found["why"] = dict(fact["why"])
    found["raw_sha256"] = {name: digest(raw[name]) for name in sorted(raw)}
    return found


def told(result, decided):
    # type: (Row, Optional[Row]) -> Row
    """A job's result with what was decided before it, and no more than was decided."""
    if not decided:
        return result
    more = {"decision": decided["decision"], "state_before": decided["state_before"]}  # type: Row
    chosen = (decided["decision"] or {}).get("chosen") or {}
    classes = result.get("classes") or {}
    if chosen.get("class") == "logical" and classes and classes.get("nist_800_88r2") != "logical sanitisation":
        more["classes"] = wipe_judge.classes(None)
    elif chosen.get("class") != "logical" and str(chosen.get("rev1")).startswith("none") and classes:
        # A standard that the technique does not satisfy on this kind of medium is not named as satisfied.
        word = "NIST SP 800-88 Rev. 1: %s." % chosen["rev1"]
        more["classes"] = dict(classes, nist_800_88r1=chosen["rev1"], statement="%s %s" % (classes["statement"], word))
    if decided["exceptions"] and str(result.get("outcome")).startswith("sanitised"):
        more.update(outcome="sanitised_with_exceptions", exceptions=list(result["exceptions"]) + decided["exceptions"])
    return dict(result, **more)
