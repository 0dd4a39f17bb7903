# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Facts of a device and a policy in, a decision out: may it be wiped now, how, what would that be called, and if not, why. Pure.

Private to the collection; it may change at any time. Valid for Python 3.6; works on the control node and beside a wipe job.

policy: asked ("clear" | "purge"), prefer ("evidence": what can be verified comes first | "speed"), logical ("yes": a virtual
disk may end in logical sanitisation | "no"), volume (True: the plan names this very volume as the medium), waiver (True: a person
signed for a device without an identity), protected (identities never to be wiped), rate, tcg_credential, luks {encrypted_from_start,
copies}, pool_reserve.

decision: verdict "plan" (may be done now) | "refused" (something is in the way) | "destroy" (the class that was asked for cannot be
reached); techniques: ordered, each of at least the asked class, the first is the one to do, EMPTY unless the verdict is "plan";
once_free: the same list for a device that something is in the way of; rejected; before; reasons; reachable; order (of destruction).
"""

from typing import Any, Dict, List, Optional

from ansible_collections.sunset.crm.plugins.module_utils._disk import device as disk_device
from ansible_collections.sunset.crm.plugins.module_utils._disk.words import NO, YES, Row
from ansible_collections.sunset.crm.plugins.module_utils._wipe import judge as wipe_judge, techniques as wipe_techniques
from ansible_collections.sunset.crm.plugins.module_utils._wipe.techniques import RANK, Choice

ASKED = ("clear", "purge")
# Layers that may be a medium of their own where the plan names them: volumes of a machine that stays.
VOLUMES = ("lvm", "lvm-thin", "dm-crypt", "zvol")
DESTRUCT = "IEEE 2883 Destruct: melt, incinerate or disintegrate (shredding and pulverising no longer count)"


def policy_problem(policy: Any) -> Optional[str]:
    """What is wrong with a policy, in a sentence; None if nothing is."""
    if not isinstance(policy, dict):
        return "the policy must be a mapping, found %r" % (policy,)
    if policy.get("asked") not in ASKED:
        return "policy: asked is %r; expected one of %s" % (policy.get("asked"), ", ".join(ASKED))
    if policy.get("prefer", "evidence") not in ("evidence", "speed"):
        return "policy: prefer is %r; expected evidence or speed" % (policy["prefer"],)
    if policy.get("logical", YES) not in (YES, NO):
        return "policy: logical is %r; expected yes or no" % (policy["logical"],)
    reserve = policy.get("pool_reserve", 0.2)
    if isinstance(reserve, bool) or not isinstance(reserve, (int, float)) or not 0.05 <= reserve < 1:
        return "policy: pool_reserve is %r; expected a share of the pool from 0.05 to 1" % (reserve,)
    return None


def is_protected(fact: Row, protected: Any) -> Optional[Row]:
    """The protected identity that this device is, by any one strong name. Rather one device too many than one too few."""
    own = fact.get("identity") or {}
    names: Row = {field: fact.get(field) or own.get(field) for field in ("serial", "wwn", "eui64", "nguid", "sizes")}
    if names["serial"] and own.get("serial") and own["serial"] != names["serial"]:
        # A bridge may tell another serial number than the drive behind it: both are its names.
        other: Optional[Row] = wipe_judge.protected_as(own, protected)
        if other:
            return other
    names.update({field: own[field] for field in ("wwid", "inode", "kind", "size") if own.get(field)})
    names.setdefault("kind", disk_device.kind_of(fact["name"]))
    found: Optional[Row] = wipe_judge.protected_as(names, protected)
    return found


def obstacles(fact: Row, policy: Row) -> List[str]:
    """Why this device must not be touched now; empty where nothing is in the way."""
    reasons = []
    kind, layer = fact["class"], fact.get("layer")
    if kind == "layer" and not (policy.get("volume") and layer in VOLUMES):
        reasons.append("it is a %s, not a medium; wipe what it is made of: %s" % (layer, ", ".join(fact.get("below") or []) or "unknown"))
    if fact.get("over"):
        # The kernel lets somebody lay one over a disk that is mounted, and its claim says nothing of that disk.
        reasons.append("it is a loop over the device %s, not over a file; wipe that one" % fact["over"])
    if kind == "raid-volume":
        reasons.append("it is a volume of a RAID controller; wipe its physical disks, through the controller or in another machine")
    if kind in ("memory", "optical"):
        reasons.append("it is %s, no medium of data" % {"memory": "memory", "optical": "a drive for removable discs"}[kind])
    if kind == "unknown":
        reasons.append("nobody knows what kind of device it is")
    guilty = is_protected(fact, policy.get("protected"))
    if guilty:
        reasons.append(
            "it is on the list of disks that are never wiped (control node, vault): %s"
            % (guilty.get("serial") or guilty.get("wwid") or "by inode")
        )
    if fact.get("on_protected"):
        reasons.append("it lies on %s, which is never written (control node, vault)" % ", ".join(fact["on_protected"]))
    if fact.get("root") == YES:
        reasons.append("it carries the running system of this machine; move into a rescue system first")
    for row in fact.get("holders") or []:
        reasons.append("in use: %s %s on %s; %s" % (row["kind"], row["what"], row["device"], RELEASE.get(row["kind"], "release it")))
    if fact.get("held") != NO and not fact.get("holders"):
        reasons.append("not known whether somebody uses it: %s" % (fact["why"].get("held") or "no reason given"))
    if fact["traits"].get("read_only") == YES:
        reasons.append("it is read-only; remove the write protection (switch, kernel, or the namespace's)")
    if disk_device.identity_strength(fact.get("identity")) != "strong" and not _named(fact) and not policy.get("waiver"):
        reasons.append("it has no identity of its own (serial, WWN, EUI); only a signed waiver lets it be wiped")
    return reasons


RELEASE = {
    "mount": "unmount it in every namespace",
    "swap": "swapoff",
    "stacked": "deactivate what is made of it",
    "loop": "detach the loop device",
    "descriptor": "end the process, or have it close the device",
    "vm": "switch the guest off, or take the disk from it",
    "export": "remove the export",
    "zfs": "export the pool",
    "system": "move into a rescue system",
    "exclusive": "find out who claims it",
}


def _named(fact: Row) -> bool:
    """A disk without a block device has no public identity, but may have a serial number and a size of its own."""
    return bool((fact.get("serial") or fact.get("wwn")) and (fact["sizes"].get("capacity") or fact["sizes"].get("current")))


def decide(fact: Row, policy: Row, siblings: Any = ()) -> Row:
    """siblings: facts of other devices that a technique of the whole drive would erase as well (namespaces of one controller)."""
    problem = policy_problem(policy)
    if problem:
        raise ValueError(problem)
    reasons = obstacles(fact, policy)
    choice = wipe_techniques.gather(fact, policy)
    if fact["class"] in ("raid-volume", "memory", "optical", "unknown") or (fact["class"] == "layer" and not policy.get("volume")):
        choice.techniques, choice.rejected = [], []
    _spare_siblings(choice, siblings, policy)
    possible = sorted(choice.techniques, key=lambda row: RANK[row["class"]])
    reachable = possible[-1]["class"] if possible else None
    good = order_of(choice, policy)
    decision: Row = {
        "device": fact.get("path") or fact["name"],
        "name": fact["name"],
        "class": fact["class"],
        "layer": fact.get("layer"),
        "identity": dict(fact.get("identity") or {}),
        "model": fact.get("model"),
        "serial": fact.get("serial"),
        "wwn": fact.get("wwn"),
        "asked": policy["asked"],
        "reachable": reachable,
        "techniques": [],
        "once_free": [],
        "rejected": choice.rejected,
        "reasons": reasons,
        "before": [],
        "covers": sorted(one["name"] for one in siblings),
        "order": None,
        "seconds": None,
    }
    if not good and _medium(fact, policy):
        decision["order"] = destruction_order(fact, policy, choice, reachable)
    if reasons:
        decision.update(verdict="refused", once_free=good)
    elif not good:
        decision.update(verdict="destroy", reasons=decision["order"]["because"] if decision["order"] else [])
    else:
        decision.update(verdict="plan", techniques=good, before=good[0]["before"], seconds=good[0]["seconds"])
    if good:
        decision["seconds"] = good[0]["seconds"]
        if not good[0]["device_wide"]:
            decision["covers"] = []
    return decision


def _medium(fact: Row, policy: Row) -> bool:
    """Whether the device is something that can be destroyed or wiped at all, and not made of others."""
    return fact["class"] not in ("layer", "raid-volume", "memory", "optical", "unknown") or (
        fact["class"] == "layer" and bool(policy.get("volume")) and fact.get("layer") in VOLUMES
    )


def _spare_siblings(choice: Choice, siblings: Any, policy: Row) -> None:
    """A technique of the whole drive is out where it would erase something that must stay or is in use."""
    guarded: Row = {str(key): policy[key] for key in ("asked", "protected", "waiver") if key in policy}
    bad = []
    for one in siblings:
        reasons = obstacles(one, guarded)
        if reasons:
            bad.append("%s (%s)" % (one["name"], reasons[0]))
        elif one.get("unplanned"):
            bad.append("%s (it is in no plan)" % one["name"])
    if not bad:
        return
    kept = []
    for row in choice.techniques:
        if row["device_wide"]:
            choice.reject(row["id"], "it would erase the whole drive, and with it %s" % ", ".join(bad))
        else:
            kept.append(row)
    choice.techniques = kept


def order_of(choice: Choice, policy: Row) -> List[Row]:
    """The techniques that reach the asked class, best first."""
    wanted = RANK[policy["asked"]]
    good = []
    for row in choice.techniques:
        if RANK[row["class"]] >= wanted or (row["class"] == "logical" and _logical_will_do(policy)):
            good.append(row)
        elif row["class"] == "logical":
            choice.reject(
                row["id"],
                "only logical sanitisation; the policy wants %s%s"
                % (policy["asked"], "" if policy["asked"] == "purge" else " and no less"),
            )
        else:
            choice.reject(row["id"], "only %s; the policy wants %s" % (row["class"], policy["asked"]))
    full = [row for row in good if RANK[row["class"]] >= wanted]
    if full:
        # Logical sanitisation is for where there is nothing else, however fast it is.
        for row in good:
            if row not in full:
                choice.reject(row["id"], "only logical sanitisation, and %s reaches %s" % (full[0]["id"], full[0]["class"]))
        good = full
    if policy.get("prefer") == "speed":
        good.sort(key=_likely)
    elif policy["asked"] == "clear":
        # What is proven byte by byte comes first where no more is asked for.
        good.sort(key=lambda row: row["id"] != "overwrite-keyed")
    return good


def _likely(row: Row) -> float:
    """Seconds for an order by speed: where the device tells none, new keys take seconds and erasing blocks takes minutes."""
    if row["seconds"] is not None:
        return float(row["seconds"])
    return 10.0 if "crypto" in row["id"] else 300.0


def _logical_will_do(policy: Row) -> bool:
    """Only by a word of the policy, and never as purge by default: it is called logical sanitisation wherever it is named."""
    return bool(policy.get("logical", YES if policy["asked"] == "clear" else NO) == YES)


def destruction_order(fact: Row, policy: Row, choice: Choice, reachable: Optional[str]) -> Row:
    """What a person carries out and signs where the asked class cannot be reached."""
    open_questions = [row for row in choice.rejected if not row["known"] and RANK[row["class"]] >= RANK[policy["asked"]]]
    because = ["asked for %s, reachable is %s" % (policy["asked"], reachable or "nothing")]
    because += ["%s: %s" % (row["id"], row["why"]) for row in choice.rejected]
    if fact["class"] in ("virtual", "layer"):
        method = "destroy the keys of an encryption that was there before the data, or purge every physical disk below it"
    else:
        method = DESTRUCT
    return {
        "device": fact.get("path") or fact["name"], "vendor": fact.get("vendor"), "model": fact.get("model"), "serial": fact.get("serial"),
        "wwn": fact.get("wwn"), "size": fact["sizes"].get("current"), "asked": policy["asked"], "reachable": reachable, "because": because,
        "method": method,
        # Something may yet turn out to be there: find it out before the drive is cut.
        "provisional": bool(open_questions), "find_out": ["%s: %s" % (row["id"], row["why"]) for row in open_questions],
        "to_sign": {"carried_out_by": "", "witness": "", "date": "", "place": "", "photo": ""},
    }  # fmt: skip


def summary(decision: Row) -> Dict[str, Any]:
    """What does not change from hour to hour: the part of a decision that its digest covers (no process ids, no estimates)."""
    chosen = decision["techniques"] or decision["once_free"]
    return {
        "identity": decision["identity"], "serial": decision["serial"], "wwn": decision["wwn"], "class": decision["class"], "asked": decision["asked"],
        "reachable": decision["reachable"], "techniques": [{"id": row["id"], "class": row["class"], "rev1": row["rev1"]} for row in chosen],
        "before": [row["id"] for row in (chosen[0]["before"] if chosen else [])], "destroy": decision["order"] is not None,
        "rejected": sorted({row["id"] for row in decision["rejected"]}), "covers": decision["covers"],
    }  # fmt: skip
