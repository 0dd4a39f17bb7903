# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which devices of one machine are one medium (paths), and which share one drive (namespaces): decided once for each. Pure.

Private to the collection; it may change at any time. Valid for Python 3.6.
"""

import copy
from typing import Any, Callable, Dict, List

from ansible_collections.sunset.crm.plugins.module_utils._disk.words import NO, UNKNOWN, YES, Row
from ansible_collections.sunset.crm.plugins.module_utils._wipe import decide as wipe_decide

# What multipath itself does with its paths is no use by others.
OWN_OF_MULTIPATH = "(multipathd)"


def medium_key(fact: Row) -> str:
    """Equal for all paths to one medium. A loop's or a virtual disk's serial number is a label, no name in the world."""
    if fact["class"] in ("layer", "memory", "optical") or fact["transport"] in ("loop", "virtio", "xen"):
        return "name:" + str(fact["name"])
    for field in ("wwn", "nguid", "eui64"):
        if fact.get(field):
            return "%s:%s" % (field, fact[field])
    if fact["name"].startswith("nvme") and fact.get("subsystem") and fact.get("namespace"):
        return "%s:%s" % (fact["subsystem"], fact["namespace"])
    if fact.get("serial") and fact["class"] != "virtual":
        return "serial:%s:%s:%s" % (fact.get("vendor"), fact.get("model"), fact["serial"])
    return "name:" + str(fact["name"])


def media(facts: List[Row]) -> List[List[Row]]:
    """The devices, paths to one medium together; layers are no media and left out."""
    groups: Dict[str, List[Row]] = {}
    order: List[str] = []
    for fact in facts:
        if fact["class"] == "layer":
            continue
        key = medium_key(fact)
        if key not in groups:
            order.append(key)
        groups.setdefault(key, []).append(fact)
    return [groups[key] for key in order]


def unite(paths: List[Row], facts: List[Row]) -> Row:
    """One fact for all paths to a medium: used if any is, free only if all are. Written through the map, where there is one."""
    if len(paths) == 1 and not paths[0].get("multipath"):
        return paths[0]
    one = copy.deepcopy(paths[0])
    maps = sorted({path["multipath"] for path in paths if path.get("multipath")})
    held_by_map = [fact for fact in facts if fact["name"] in maps]
    rows: List[Row] = []
    for fact in paths + held_by_map:
        for row in fact["holders"]:
            if row["device"] in maps and row["kind"] == "stacked" or row["what"].endswith(OWN_OF_MULTIPATH):
                continue
            if row["kind"] == "exclusive" and maps and row["device"] not in maps:
                continue  # the map claims its paths; who claims the map is another matter
            if row not in rows:
                rows.append(row)
    one["holders"] = rows
    # The map claims its paths, so only the map can tell whether somebody else does.
    telling = held_by_map or paths
    words = [_own_verdict(fact) for fact in telling]
    one["held"] = YES if rows else (NO if words and all(word == NO for word in words) else UNKNOWN)
    if one["held"] == UNKNOWN:
        one["why"].setdefault("held", "the map above its paths could not be opened exclusively")
    one["root"] = YES if any(fact["root"] == YES for fact in paths + held_by_map) else one["root"]
    if any(fact["traits"].get("read_only") == YES for fact in paths):
        one["traits"]["read_only"] = YES
    one["paths"] = sorted(path["name"] for path in paths)
    one["through"] = held_by_map[0].get("path") if held_by_map else None
    return one


def _own_verdict(fact: Row) -> str:
    foreign = [row for row in fact["holders"] if not row["what"].endswith(OWN_OF_MULTIPATH)]
    return NO if fact["holders"] and not foreign else str(fact["held"])


def siblings(fact: Row, united: List[Row]) -> List[Row]:
    """Other media of the same drive, which its own sanitize would erase as well."""
    if not fact.get("subsystem") or not fact["name"].startswith("nvme"):
        return []
    return [one for one in united if one["name"] != fact["name"] and one.get("subsystem") == fact["subsystem"]]


def unseen(fact: Row, united: List[Row]) -> List[str]:
    """Namespaces that the controller lists and this machine does not show: sanitize erases them unseen, an overwrite leaves them."""
    listed = fact["sizes"].get("namespaces") or []
    shown = {one.get("namespace") for one in united if one.get("subsystem") == fact.get("subsystem")}
    return ["namespace %s of the same drive is not shown on this machine" % row["nsid"] for row in listed if row["nsid"] not in shown]


def _on_protected(fact: Row, facts: List[Row], policies: Dict[str, Any]) -> List[str]:
    """For a volume: the protected disks that it lies on. A loop's file is a file of theirs, and may be wiped like any other."""
    protected = (policies.get(fact["name"]) or {}).get("protected")
    if fact["class"] != "layer" or not protected:
        return []
    return [one["name"] for one in facts if one["name"] in fact["below"] and wipe_decide.is_protected(one, protected)]


def decide(facts: List[Row], policy_of: Callable[[Row], Any]) -> List[Row]:
    """A decision for every medium of one machine, each once. policy_of(fact): its policy, or None for a device that nobody wants wiped."""
    united = [unite(paths, facts) for paths in media(facts)]
    united += [fact for fact in facts if fact["class"] == "layer" and (policy_of(fact) or {}).get("volume")]
    policies = {fact["name"]: policy_of(fact) for fact in united}
    marked = [dict(fact, unplanned=policies[fact["name"]] is None, on_protected=_on_protected(fact, facts, policies)) for fact in united]
    found = []
    for fact in marked:
        policy = policies[fact["name"]]
        if policy is None:
            continue
        decision = wipe_decide.decide(fact, policy, siblings(fact, marked))
        decision["warnings"] = unseen(fact, marked)
        if (fact.get("controller") or {}).get("several_controllers") == YES:
            decision["warnings"].append("the drive has several controllers: another machine may use it")
        if fact.get("contents"):
            decision["warnings"].append("found on it: %s" % ", ".join(fact["contents"]))
        decision.update(paths=fact.get("paths") or [fact["name"]], through=fact.get("through"))
        found.append(decision)
    return found
