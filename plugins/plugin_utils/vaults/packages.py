# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How long a package is kept, and what must be there before it is destroyed. Pure: plan, view and signed words in, words out.

A retention only ever grows: the package says its end since it was sealed, a signed extension can move it away, nothing moves
it nearer. What was once seen of a hold or an extension is noted in the ledger, so taking the file away lifts nothing.
"""

from __future__ import annotations

from datetime import date, datetime
from typing import Any

from ansible_collections.sunset.crm.plugins.plugin_utils.people.statements import Statement, Statements, covers, expired
from ansible_collections.sunset.crm.plugins.plugin_utils.planning.plan import DATA_SETS, Item, Plan
from ansible_collections.sunset.crm.plugins.plugin_utils.record.view import Seen, View
from ansible_collections.sunset.crm.plugins.plugin_utils.steps.grounds import Context
from ansible_collections.sunset.crm.plugins.plugin_utils.vaults.retention import day

UNCLASSIFIED = "unclassified"
DIGESTS = ("tagmanifest_sha256", "identity_digest", "keys_identity_digest")
# Why not, and what would mend it.
Lack = tuple[str, str]


def retention(plan: Plan, host: str, *, hold: bool, now: datetime) -> dict[str, Any]:
    """What a package that is sealed now is marked with: the longest of its items. One without an end leaves the package without one.

    Years are full calendar years after the one in which it is sealed."""
    rules = plan.setting("retention", {})
    package = f"host:{host}"
    found = [rules.get(item["id"]) or rules.get(package) or rules.get("default") for item in plan.of(*DATA_SETS, host=host)]
    known = [rule for rule in found or [rules.get(package) or rules.get("default")] if rule]
    ends = [day(rule["until"]) if rule.get("until") else _after(rule.get("years"), now) for rule in known]
    classes = " + ".join(sorted({str(rule["class"]) for rule in known}))
    if not known or len(known) < len(found):
        return {"class": UNCLASSIFIED, "until": None, "hold": hold}
    whole = [end for end in ends if end is not None]
    return {"class": classes, "until": max(whole).isoformat() if len(whole) == len(ends) else None, "hold": hold}


def _after(years: int | None, now: datetime) -> date | None:
    return None if years is None else date(min(now.year + years, 9999), 12, 31)


def noted(words: Statements, view: View) -> list[dict[str, Any]]:
    """What the ledger is to remember of holds, lifts and extensions that it does not know yet: no reasons, no more than is needed."""
    found = []
    for statement in [*words.of("hold"), *words.of("retention")]:
        if statement.sha256 not in view.words:
            told: dict[str, Any] = {
                name: statement.document[name] for name in ("items", "packages", "until", "lifts") if name in statement.document
            }
            record: dict[str, Any] = {
                "kind": "word",
                "word": statement.kind,
                "sha256": statement.sha256,
                "name": statement.name,
                "signer": statement.signer,
            }
            record.update(told)
            found.append(record)
    return found


def vanished(kind: str, subjects: list[str], context: Context, lifted: set[Any]) -> list[str]:
    """Names of holds or extensions about these items (or packages) that the ledger knows and that are no longer among the statements."""
    present = {statement.sha256 for statement in context.statements.of(kind)}
    field = "items" if kind == "hold" else "packages"
    return [
        record["name"]
        for sha256, record in context.view.words.items()
        if record["word"] == kind
        and not record.get("lifts")
        and sha256 not in present | lifted
        and any(covers({"items": record.get(field)}, subject) for subject in subjects)
    ]


def extensions(package: str, words: Statements) -> list[Statement]:
    """Signed words that a package is kept longer."""
    return [word for word in words.of("retention") if covers({"items": word.document.get("packages")}, package)]


def kept_until(package: str, recorded: dict[str, Any], words: Statements) -> date | None:
    """The last day on which a package must be kept: what it says itself, or what was added since; None where no end is set."""
    own = day(recorded.get("until"))
    longer = [end for word in extensions(package, words) if (end := day(word.document.get("until"))) is not None]
    return max([*longer, own]) if own is not None else None


def entries(statement: Statement) -> list[dict[str, Any]]:
    """The packages that a statement of destruction names."""
    named = statement.document.get("packages")
    return [entry for entry in named if isinstance(entry, dict)] if isinstance(named, list) else []


def named(words: Statements, view: View, now: datetime) -> list[tuple[str, str]]:
    """(package, vault) of every destruction that may still be asked for, or that was done."""
    found = {
        (str(entry.get("package")), str(entry.get("vault"))): expired(statement.document, now)
        for statement in sorted(words.of("destruction"), key=lambda word: not expired(word.document, now))
        for entry in entries(statement)
    }
    return sorted(pair for pair, over in found.items() if not over or view.value(f"host:{pair[0]}", f"package@{pair[1]}") == "destroyed")


def digests(item: Item, view: View, vault: str) -> dict[str, Any]:
    """What the ledger knows of the package that was sealed on this vault."""
    seen: Seen | None = view.sealed.get((item["id"], f"package@{vault}"))
    return {name: seen.result.get(name) for name in DIGESTS} if seen else {}


def destruction(item: Item, vault: str, context: Context) -> tuple[Statement | None, dict[str, Any], list[str]]:
    """The statement that names this very package, its entry for it, and why others that name it do not count."""
    reasons = []
    for statement in context.statements.of("destruction"):
        for entry in entries(statement):
            if (entry.get("package"), entry.get("vault")) != (item["host"], vault):
                continue
            wrong = _faults(statement, entry, item, vault, context)
            if not wrong:
                return statement, entry, []
            reasons.append(f"{statement.name} does not count: {'; '.join(wrong)}")
    return None, {}, reasons


def _faults(statement: Statement, entry: dict[str, Any], item: Item, vault: str, context: Context) -> list[str]:
    wrong = []
    if "expires" not in statement.document:
        wrong.append("it has no expiry")
    elif expired(statement.document, context.now):
        wrong.append(f"it expired at {statement.document['expires']}")
    for name, known in digests(item, context.view, vault).items():
        if (entry.get(name) or None) != (known or None):
            wrong.append(f"it names {name} {entry.get(name)!r}, the ledger has {known!r}")
    if context.plan.dual and statement.signer in (context.operator, context.login):
        wrong.append("its signer is the operator of this run")
    return wrong


def obstacles(
    item: Item, vault: str, context: Context, holds: list[Statement], lifted: set[Any], pointless: list[tuple[str, str]]
) -> list[Lack]:
    """Everything that keeps this package from being destroyed. holds, lifted, pointless: as people.signed tells them."""
    view, words, package = context.view, context.statements, item["host"]
    key = (item["id"], f"package@{vault}")
    seal = view.sealed.get(key)
    begun = seal is not None and view.doomed.get(key, -1) > seal.number
    if seal is None or (not begun and view.value(*key) not in ("sealed", "forgotten", "destroyed")):
        return [(f"the ledger knows no sealed package of it on {vault}", "only what was sealed on record is destroyed on record")]
    found = [(f"legal hold {hold.name} by {hold.signer}", "have it lifted by a signed statement") for hold in holds]
    for name, unknown in pointless:
        what = f"the legal hold {name} speaks of {unknown}, which the plan does not have: nobody can say what is held"
        found.append((what, "have it signed for items of the plan and then this one lifted"))
    for name in vanished("hold", context.plan.held_by(item), context, lifted):
        found.append(
            (f"the legal hold {name}, which the ledger knows, is no longer among the statements", "put it back, or have it lifted")
        )
    for name in words.doubtful_holds:
        what = f"{name} says that it is a legal hold, but cannot be counted: {words.rejected.get(name, '')}"
        found.append((what, "have it signed again, or cleared up by the one whose hold it is"))
    recorded = seal.result.get("retention") or {}
    if recorded.get("hold") and not any(record["word"] == "hold" for record in view.words.values()) and not words.of("hold"):
        found.append(("it was sealed under a legal hold of which nothing is known any more", "put the hold and its lift into statements/"))
    for name in vanished("retention", [package], context, set()):
        found.append((f"the extension {name}, which the ledger knows, is no longer among the statements", "put it back"))
    for name in words.doubtful_retentions:
        found.append(
            (f"{name} says that it extends a retention, but cannot be counted: {words.rejected.get(name, '')}", "have it signed again")
        )
    statement, entry, reasons = destruction(item, vault, context)
    found += _of_time(package, recorded, entry, statement, context)
    if statement is None:
        what = "; ".join(reasons) or "no signed statement says that it is to be destroyed"
        found.append((what, "have it signed by another person (scripts/statement destroy)"))
    return found


def _of_time(package: str, recorded: dict[str, Any], entry: dict[str, Any], statement: Statement | None, context: Context) -> list[Lack]:
    """The retention's own part: not before its end, and without an end only on a person's express word."""
    words, today = context.statements, context.now.date()
    unread = [word.name for word in extensions(package, words) if day(word.document.get("until")) is None]
    found = [(f"the extension {name} names no day until which it is kept", "have it signed again") for name in unread]
    ends = [end for word in extensions(package, words) if (end := day(word.document.get("until"))) is not None]
    own = day(recorded.get("until"))
    last = max([*ends, *([own] if own else [])], default=None)
    if last is not None and last >= today:
        return [*found, (f"it is to be kept until {last.isoformat()}", "wait; a retention is never shortened")]
    if own is None and (statement is None or entry.get("unclassified") != "accept" or not statement.document.get("reason")):
        what = f"its retention ({recorded.get('class') or UNCLASSIFIED}) has no end, and no statement accepts that with a reason"
        found.append((what, "scripts/statement destroy --unclassified, with a reason"))
    return found
