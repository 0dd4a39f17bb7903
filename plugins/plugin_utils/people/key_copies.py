# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The ledger of key copies: what a person has signed about an encrypted medium whose keys, and not its data, are to be destroyed.

A statement of the kind C(key-copies) names media, each with the volume's UUID, whether it was encrypted before the first data came, and for
each place where a copy of its keys may be either that there is none, or how many there were, where, and how, by whom and when they were
destroyed. What carries a cryptographic erase is decided by C(wipe_keys), on the control node and again by the job.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from ansible_collections.sunset.crm.plugins.module_utils._wipe import firmware as wipe_firmware, keys as wipe_keys
from ansible_collections.sunset.crm.plugins.plugin_utils.people.statements import Statement, Statements
from ansible_collections.sunset.crm.plugins.plugin_utils.planning.plan import Item, Plan

KIND = "key-copies"
MEND = "have every copy of its keys accounted for by a signed statement: scripts/statement keys (docs/operator/wipe-ways.md, 'Destroying the keys alone')"


def wanted(item: Mapping[str, Any]) -> bool:
    """Whether the plan says that this medium's keys are destroyed in the place of its data."""
    return wipe_firmware.canonical(str((item.get("wipe") or {}).get("method", "overwrite"))) == wipe_firmware.LUKS_KEYS


def ledger(item: Item, words: Statements, insiders: Collection[str] = ()) -> tuple[dict[str, Any] | None, list[str]]:
    """(what was signed about the copies of this medium's keys, why others that name it do not count). insiders: whose word does not count
    (under dual control the operator's). Of several that count the newest stands; a later one may tell of a copy that turned up."""
    found: list[tuple[str, dict[str, Any]]] = []
    reasons = []
    for statement in words.of(KIND):
        for entry in _media(statement):
            if entry.get("item") != item["id"]:
                continue
            if wrong := _faults(statement, entry, item, insiders):
                reasons.append(f"{statement.name} does not count: {'; '.join(wrong)}")
            else:
                found.append(
                    (str(statement.document.get("issued") or ""), {**entry, "sha256": statement.sha256, "signer": statement.signer})
                )
    if not found:
        return None, reasons
    newest = max(found, key=lambda pair: pair[0])[1]
    return {key: value for key, value in newest.items() if key not in ("item", "serial")}, []


def lacks(item: Item, words: Statements, insiders: Collection[str] = ()) -> list[str]:
    """What keeps the keys of this medium from being destroyed, as far as people's words go; empty for another method."""
    if not wanted(item):
        return []
    told, reasons = ledger(item, words, insiders)
    return reasons or [f"its keys: {problem}" for problem in wipe_keys.ledger_problems(told)]


def policies(plan: Plan, words: Statements, insiders: Collection[str] = ()) -> dict[str, dict[str, Any]]:
    """Medium -> what the decision's policy says of its keys (C(luks)), where somebody has signed something that counts."""
    told = {item["id"]: ledger(item, words, insiders)[0] for item in plan.of("medium")}
    return {name: {"luks": entry} for name, entry in told.items() if entry is not None}


def _media(statement: Statement) -> list[dict[str, Any]]:
    media = statement.document.get("media")
    return [entry for entry in media if isinstance(entry, dict)] if isinstance(media, list) else []


def _faults(statement: Statement, entry: Mapping[str, Any], item: Item, insiders: Collection[str]) -> list[str]:
    wrong = []
    if statement.signer in insiders:
        wrong.append("its signer is the operator of this run")
    known = item["identity"].get("serial") or item["identity"].get("wwid") or item["identity"].get("inode")
    if known is None or str(entry.get("serial")) != str(known):
        wrong.append(f"it names {entry.get('serial')!r}, the plan has {known!r}")
    if not str(entry.get("uuid") or "").strip():
        wrong.append("it does not name the volume by its UUID")
    if not str(entry.get("known_by") or "").strip():
        wrong.append("it does not say how it is known that the volume was encrypted from the start")
    return wrong
