# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The dry run of the wipe over the whole fleet: what each machine showed, held against the plan, decided, as rows and as a table.

Nothing here touches a device. The wipe takes the same decision again, over what its machine shows at that moment (C(_wipe.now.weigh)), and
refuses where it does not name the plan's technique; besides, it refuses what it sees on the descriptor that it has opened (C(_wipe.judge.refusals)).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from ansible_collections.sunset.crm.plugins.module_utils._canonical import digest
from ansible_collections.sunset.crm.plugins.module_utils._disk import kept as disk_kept
from ansible_collections.sunset.crm.plugins.module_utils._wipe import decide as wipe_decide, group as wipe_group
from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal

Facts = dict[str, Any]
SCHEMA = 1
# Names in the world: a disk with one of these that two machines show is one disk.
WORLD_NAMES = ("wwn", "nguid", "eui64")
COLUMNS = ("item", "host", "device", "model", "serial", "size", "verdict", "technique", "class", "rev1", "time")


def wanted(asked: Any) -> Facts:
    """The policy as the inventory gives it, checked."""
    policy = {"asked": asked} if isinstance(asked, str) else dict(asked or {"asked": "clear"})
    problem = wipe_decide.policy_problem(policy)
    if problem:
        raise Refusal(f"sunset_wipe_policy: {problem}. Give asked (clear or purge), and prefer, logical, pool_reserve where they differ")
    return policy


def same(medium: Facts, fact: Facts) -> bool:
    """Whether a planned medium is this device: size and one strong name, as the gate of the wipe compares them."""
    expected, own = medium.get("identity") or {}, fact.get("identity") or {}
    size = expected.get("size")
    if size and size != own.get("size"):
        return False
    shared = [key for key in ("serial", "wwid", "inode") if expected.get(key) and own.get(key)]
    return bool(shared) and all(str(expected[key]) == str(own[key]) for key in shared)


def fleet(
    hosts: dict[str, Facts | None],
    media: list[Facts] | None,
    policy: Facts,
    protected: Iterable[Facts] = (),
    signed: Mapping[str, Facts] | None = None,
) -> Facts:
    """hosts: machine -> what disk_info returned, None if it gave nothing. media: the plan's media; None: there is no plan yet, and
    every medium of every machine of the fleet is looked at. signed: medium -> what people have signed that its policy asks for (C(luks)).

    Returns rows, missing (planned, seen nowhere), unplanned, silent (machines that gave nothing), orders, and the digest of it all.
    """
    rows: list[Facts] = []
    unplanned: list[str] = []
    seen: set[str] = set()
    world = _world(hosts)
    for host, disks in sorted(hosts.items()):
        if disks is None:
            continue
        facts = [_elsewhere(fact, host, world) for fact in disks["devices"]]
        items: dict[str, Facts] = {}
        for fact in facts:
            item = _item_of(fact, host, media)
            if item:
                items[fact["name"]] = item

        def policy_of(fact: Facts, items: dict[str, Facts] = items) -> Facts | None:
            names = [name for name in (fact.get("paths") or [fact["name"]]) if name in items]
            if media is not None and not names:
                return None
            item = items[names[0]] if names else {}
            own = {**policy, **(item.get("expects", {}).get("sanitisation") or {}), "protected": list(protected)}
            # Only what people have signed counts of these, and what the machine itself has.
            own.update({"luks": None, "tcg_credential": None, **(signed or {}).get(item.get("id", ""), {})})
            if fact["class"] == "layer":
                own["volume"] = True
            return own if fact["class"] != "layer" or names else None

        for decision in wipe_group.decide(facts, policy_of):
            names = [name for name in decision["paths"] if name in items]
            item_id = items[names[0]]["id"] if names else None
            seen |= {item_id} if item_id else set()
            rows.append({**decision, "host": host, "item": item_id})
        if media is not None:
            named = {name for row in rows if row["host"] == host for name in row["paths"]}
            unplanned += [
                f"{host}: {fact['path'] or fact['name']} ({fact['class']}, {_words(fact)})"
                for fact in facts
                if fact["class"] not in ("layer", "memory", "optical") and fact["name"] not in named and not _of_the_outer_host(fact, disks)
            ]
    rows = _where_it_is_wiped(rows, media or [])
    # What is wiped in place is no device of its own: its wipe decides on the layers, at that moment.
    in_place = sorted(medium["id"] for medium in media or [] if (medium.get("wipe") or {}).get("way") == "in-place")
    missing = [medium["id"] for medium in media or [] if medium["id"] not in seen and medium["id"] not in in_place]
    found = {
        "schema": SCHEMA,
        "policy": {key: value for key, value in policy.items() if key != "protected"},
        "rows": rows,
        "missing": missing,
        "in_place": in_place,
        "unplanned": unplanned,
        "silent": sorted(host for host, disks in hosts.items() if disks is None),
        "orders": [{**row["order"], "host": row["host"], "item": row["item"]} for row in rows if row["order"]],
    }
    found["sha256"] = digest(
        {
            "policy": found["policy"],
            "rows": sorted(
                (summary(row) for row in rows), key=lambda row: (str(row["item"]), row["host"], str(row["serial"]), row["name"])
            ),
            "missing": missing,
        }
    )
    return found


def _where_it_is_wiped(rows: list[Facts], media: list[Facts]) -> list[Facts]:
    """One row a planned medium: that of the machine where it is to be wiped, once it is seen there."""
    places = {medium["id"]: medium.get("wipe", {}).get("host") for medium in media}
    there = {row["item"] for row in rows if row["item"] and places.get(row["item"]) == row["host"]}
    return [row for row in rows if row["item"] not in there or places[row["item"]] == row["host"]]


def summary(row: Facts) -> Facts:
    return {**wipe_decide.summary(row), "host": row["host"], "item": row["item"], "name": row["name"]}


def _item_of(fact: Facts, host: str, media: list[Facts] | None) -> Facts | None:
    for medium in media or []:
        # A loop's or a virtual disk's label is one machine's; a disk with a name in the world is itself wherever it is put.
        if same(medium, fact) and (host in (medium.get("host"), medium.get("wipe", {}).get("host")) or _world_name(fact)):
            return medium
    return None


def _world_name(fact: Facts) -> str | None:
    if fact["class"] == "layer" or fact["transport"] in ("loop", "virtio", "xen"):
        return None
    return next((f"{key}:{fact[key]}" for key in WORLD_NAMES if fact.get(key)), None)


def _world(hosts: dict[str, Facts | None]) -> dict[str, dict[str, Facts]]:
    """World name -> {machine: fact}: shared storage, or one disk seen by two machines."""
    found: dict[str, dict[str, Facts]] = {}
    for host, disks in hosts.items():
        for fact in (disks or {}).get("devices", []):
            name = _world_name(fact)
            if name:
                found.setdefault(name, {})[host] = fact
    return found


def _elsewhere(fact: Facts, host: str, world: dict[str, dict[str, Facts]]) -> Facts:
    """A disk that another machine uses is used, whatever is seen here."""
    name = _world_name(fact)
    others = {other: one for other, one in world.get(name or "", {}).items() if other != host}
    rows = [
        {"kind": row["kind"], "what": f"{row['what']} on the machine {other}", "device": row["device"]}
        for other, one in sorted(others.items())
        for row in one["holders"]
    ]
    if not rows:
        return fact
    return {**fact, "holders": [*fact["holders"], *rows], "held": "yes"}


def of_vaults(vaults: dict[str, Facts]) -> list[Facts]:
    """Media that a vault has in use: its system and its copies. A free disk in a vault that is a station as well is none of them."""
    return [disk for disks in vaults.values() for disk in disk_kept.choose(disks)]


def own_disks(folder: str | os.PathLike[str]) -> list[Facts]:
    """The control node's own media: what it has in use, and what carries the estate's folder. The kernel is asked, no disk is woken."""
    return list(disk_kept.read([os.fspath(folder)]))


def _of_the_outer_host(fact: Facts, disks: Facts) -> bool:
    """A container is shown the disks of the machine around it, without their nodes: they are not its media."""
    return (disks.get("machine") or {}).get("container") == "yes" and not fact["path"]


def _words(fact: Facts) -> str:
    words = [fact.get("model"), fact.get("serial"), size(fact["sizes"].get("current"))]
    return ", ".join(str(word) for word in words if word)


def size(number: int | None) -> str:
    if not number:
        return ""
    for unit, factor in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6)):
        if number >= factor:
            return f"{number / factor:.1f} {unit}"
    return f"{number} B"


def duration(seconds: int | None) -> str:
    if seconds is None:
        return "not told"
    if seconds < 120:
        return f"{seconds} s"
    return f"{seconds // 60} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def cells(row: Facts) -> list[str]:
    chosen = next(iter([*row["techniques"], *row["once_free"]]), None)
    return [
        row["item"] or "-",
        row["host"],
        row["through"] or row["device"],
        row["model"] or "-",
        row["serial"] or row["wwn"] or "-",
        size(row["identity"].get("size")),
        row["verdict"] if row["verdict"] != "refused" or chosen else "refused",
        chosen["id"] if chosen else "-",
        {"logical": "logical sanitisation"}.get(chosen["class"], chosen["class"]) if chosen else "-",
        chosen["rev1"] if chosen else "-",
        duration(chosen["seconds"]) if chosen else "-",
    ]


def table(found: Facts) -> list[str]:
    """Lines for people: the table, then under each row what is in the way, what comes before, and what was rejected."""
    body = [cells(row) for row in found["rows"]]
    widths = [max(len(line[at]) for line in [list(COLUMNS), *body]) for at in range(len(COLUMNS))]
    lines = ["  ".join(word.ljust(width) for word, width in zip(COLUMNS, widths, strict=True)).rstrip()]
    for row, line in zip(found["rows"], body, strict=True):
        lines.append("  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)).rstrip())
        if len(row["paths"]) > 1:
            lines.append(f"      one medium by several paths: {', '.join(row['paths'])}")
        if row["covers"]:
            lines.append(f"      erases with it: {', '.join(row['covers'])}")
        lines += [f"      in the way: {reason}" for reason in row["reasons"] if row["verdict"] == "refused"]
        chosen = next(iter([*row["techniques"], *row["once_free"]]), None)
        lines += [f"      before: {step['what']}" for step in (chosen or {}).get("before", [])]
        lines += [f"      not reached: {what}" for what in (chosen or {}).get("not_reached", [])]
        lines += [f"      rejected {other['id']}: {other['why']}" for other in row["rejected"]]
        lines += [f"      note: {word}" for word in row["warnings"]]
        if row["order"]:
            word = "destruction order, once what is not known was found out" if row["order"]["provisional"] else "destruction order"
            lines.append(f"      {word}: {row['order']['method']}")
    lines += [f"missing: {item}: no machine shows a medium with its identity" for item in found["missing"]]
    lines += [f"virtual: {item}: logical sanitisation in place, decided when it is wiped" for item in found.get("in_place", [])]
    lines += [f"silent: {host}: it gave no answer, nothing is known of its media" for host in found["silent"]]
    lines += [f"in no plan: {word}" for word in found["unplanned"]]
    return lines


def verdict(found: Facts) -> str | None:
    """What makes the dry run fail: a class that cannot be reached, a medium or a machine that is not there. Disks still in use are no fault."""
    faults = [f"{order['item'] or order['device']} on {order['host']} cannot reach {order['asked']}" for order in found["orders"]]
    faults += [f"{item} is shown by no machine" for item in found["missing"]]
    faults += [f"{host} gave no answer" for host in found["silent"]]
    faults += [f"the vault {host} gave no answer, so its disks cannot be told from others" for host in found.get("silent_vaults", [])]
    return "; ".join(faults) or None
