# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Destruction orders: what happens to a medium that could not be wiped, or not whole, and how a person reports it done.

An order is signed by the run key and names the medium and the reason. It stays open, and keeps the wave from ending, until a person
signs a C(disposal) that names the medium by its serial number and says how, where, by whom and before whose eyes it was destroyed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ansible_collections.sunset.crm.plugins.module_utils._canonical import canonical
from ansible_collections.sunset.crm.plugins.plugin_utils.files import plain, write_signed
from ansible_collections.sunset.crm.plugins.plugin_utils.people import signatures
from ansible_collections.sunset.crm.plugins.plugin_utils.people.statements import Statement, Statements
from ansible_collections.sunset.crm.plugins.plugin_utils.planning.plan import Item

FORMAT = "sunset.crm/destruction-order/1"
# Outcomes of a wipe after which data may be left on the medium.
OWED = ("failed", "sanitised_with_exceptions")
# What a disposal must say of each medium.
VIRTUAL = (
    "This is a virtual disk: remove it with its snapshots and copies, destroy the keys of an encryption below it, or wipe or destroy the physical "
    "disks under it when they are free, before a witness. Then sign a disposal: scripts/statement dispose."
)
SAID = ("item", "serial", "method", "place", "by", "witness", "at")
NAMED = ("serial", "wwid", "inode", "size", "model", "vendor", "kind")


def order(estate: str, plan_sha256: str, item: Item, result: Mapping[str, Any], entry: str, issued: str) -> dict[str, Any]:
    """The order for one medium, from the result of its last wipe and the hash of the ledger line that holds it."""
    reasons = [*(result.get("reasons") or []), *(result.get("exceptions") or [])]
    # Where it was not even begun: the decision's proposal. It may name what has to be found out before a drive is cut.
    proposed = result.get("order") or {}
    open_questions = [str(line) for line in proposed.get("find_out") or []]
    first = f"First find out: {'; '.join(open_questions)}. If that leaves nothing: " if open_questions else ""
    return {
        "format": FORMAT,
        "estate": estate,
        "plan_sha256": plan_sha256,
        "item": item["id"],
        "host": item["host"],
        "medium": {name: item["identity"][name] for name in NAMED if item["identity"].get(name)},
        "technique": (result.get("classes") or {}).get("technique") or ("none was begun" if proposed else "unknown"),
        **({name: proposed.get(name) for name in ("asked", "reachable", "provisional")} if proposed else {}),
        "outcome": result["outcome"],
        "reasons": reasons or ["the wipe gave no reason"],
        "error_ranges": list(result.get("error_ranges") or []),
        "ledger_entry": entry,
        "issued": issued,
        "what_to_do": VIRTUAL
        if (item.get("wipe") or {}).get("way") == "in-place"
        else f"{first}{proposed.get('method') or 'Destroy this medium (IEEE 2883-2022: Destruct)'}, before a witness. "
        "Then sign a disposal: scripts/statement dispose.",
    }


def file_name(item_id: str) -> str:
    return plain(item_id) + ".order.json"


def issue(document: Mapping[str, Any], folder: Path, key: Path) -> Path:
    """Write the order and its signature; returns its path."""
    signatures.create_key(key, "sunset.crm run key")
    return write_signed(folder / file_name(str(document["item"])), canonical(dict(document)) + b"\n", key, signatures.ORDER)


def summary(document: Mapping[str, Any]) -> dict[str, str]:
    """One row of a report."""
    item = str(document["item"])
    serial = str(document["medium"].get("serial") or "unknown")
    return {
        "item": item, "serial": serial, "why": "; ".join(document["reasons"]), "file": file_name(item), "entry": str(document["ledger_entry"]),
    }  # fmt: skip


def excuse(item: Item, words: Statements, insiders: Collection[str] = ()) -> str:
    """How a person accounts for a medium that was not wiped: its destruction before a witness, or a waiver of the gate C(wipe). Empty if
    nobody does. insiders: whose word does not count (under dual control the operator's).

    A waiver that has expired since still accounts for it: it opens nothing, it says who has taken responsibility.
    """
    for statement in words.of("disposal"):
        for entry in _media(statement) if statement.signer not in insiders else ():
            if not _faults(entry, item):
                return f"destroyed ({entry['method']}) before {entry['witness']}, says {statement.signer} ({statement.name})"
    for statement in words.of("waiver"):
        if statement.signer not in insiders and statement.document.get("gate") == "wipe" and item["id"] in _named(statement):
            return f"neither wiped nor destroyed: waived by {statement.signer}: {statement.document.get('reason')} ({statement.name})"
    return ""


def _named(statement: Statement) -> list[Any]:
    """Items by name: a waiver of all media at once is none."""
    items = statement.document.get("items")
    return items if isinstance(items, list) else [items]


def doubts(item: Item, words: Statements) -> list[str]:
    """Why disposals that name this medium do not count."""
    return [
        f"{statement.name}: {'; '.join(wrong)}"
        for statement in words.of("disposal")
        for entry in _media(statement)
        if entry.get("item") == item["id"] and (wrong := _faults(entry, item))
    ]


def _media(statement: Statement) -> list[dict[str, Any]]:
    media = statement.document.get("media")
    return [entry for entry in media if isinstance(entry, dict)] if isinstance(media, list) else []


def _faults(entry: Mapping[str, Any], item: Item) -> list[str]:
    if entry.get("item") != item["id"]:
        return ["it is about another medium"]
    wrong = [f"it does not say {name}" for name in SAID if not str(entry.get(name) or "").strip()]
    serial = item["identity"].get("serial") or item["identity"].get("wwid") or item["identity"].get("inode")
    if serial is None:
        wrong.append("the plan knows no serial number of it, so nobody can say which one was destroyed; sign a waiver of the gate 'wipe'")
    elif str(entry.get("serial")) != str(serial):
        wrong.append(f"it names {entry.get('serial')!r}, the plan has {serial!r}")
    return wrong
