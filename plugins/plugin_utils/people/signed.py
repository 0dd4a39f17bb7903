# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which signed words of people count for an item: waivers, holds, authorisations, a custodian's word. Pure."""

from __future__ import annotations

from typing import Any

from ansible_collections.sunset.crm.plugins.plugin_utils.guests import foreign
from ansible_collections.sunset.crm.plugins.plugin_utils.people import key_copies
from ansible_collections.sunset.crm.plugins.plugin_utils.people.statements import Statement, covers, expired
from ansible_collections.sunset.crm.plugins.plugin_utils.planning.plan import Item
from ansible_collections.sunset.crm.plugins.plugin_utils.record.view import View
from ansible_collections.sunset.crm.plugins.plugin_utils.steps.grounds import Context
from ansible_collections.sunset.crm.plugins.plugin_utils.steps.steps import Step
from ansible_collections.sunset.crm.plugins.plugin_utils.vaults import packages


def identity_digest(item: Item, view: View, vault: str, which: str = "identity_digest") -> str | None:
    """Digest of an age identity of a host's package, as the vault reported it."""
    seen = view.get(item["id"], f"package@{vault}")
    return seen.result.get(which) if seen else None


def attestations(item: Item, context: Context, vault: str, which: str = "identity_digest") -> list[Statement]:
    """Custodians' statements that the very identity of the package on this vault opens, newest word of each."""
    digest = identity_digest(item, context.view, vault, which)
    custodians = {custodian.get("name") for custodian in context.plan.data.get("custodians", [])}
    return [
        statement
        for statement in context.statements.of("attestation")
        if digest
        and statement.signer in custodians
        and statement.document.get("about") == f"package:{item['host']}"
        and statement.document.get("identity_digest") == digest
        and not expired(statement.document, context.now)
    ]


def openers(item: Item, context: Context, vault: str) -> set[str]:
    """Custodians who have shown that every identity of the package on this vault opens: the second one too, where there is one."""
    found = {statement.signer for statement in attestations(item, context, vault)}
    if identity_digest(item, context.view, vault, "keys_identity_digest"):
        found &= {statement.signer for statement in attestations(item, context, vault, "keys_identity_digest")}
    return found


def authorisation(item: Item, context: Context) -> tuple[Statement | None, list[str]]:
    """The authorisation that names this medium, and why others that name it do not count."""
    reasons = []
    for statement in context.statements.of("authorisation"):
        media = statement.document.get("media")
        named = [entry for entry in media if isinstance(entry, dict) and entry.get("item") == item["id"]] if isinstance(media, list) else []
        if not named:
            continue
        wrong = _authorisation_faults(statement, named[0], item, context)
        if not wrong:
            return statement, []
        reasons.append(f"{statement.name} does not count: {'; '.join(wrong)}")
    return None, reasons


def _authorisation_faults(statement: Statement, named: dict[str, Any], item: Item, context: Context) -> list[str]:
    wrong = []
    if "expires" not in statement.document:
        wrong.append("it has no expiry")
    elif expired(statement.document, context.now):
        wrong.append(f"it expired at {statement.document['expires']}")
    known = name_of(item)
    if known is None and not waiver("identity", item, context):
        wrong.append(
            "the plan knows no serial of it, nor a WWN or an inode, so nobody can name it without a signed waiver of the gate 'identity'"
        )
    elif named.get("serial") != known:
        wrong.append(f"it names serial {named.get('serial')!r}, the plan has {known!r}")
    if not item["identity"].get("size"):
        wrong.append("the plan knows no size of it, so nobody can name it")
    elif named.get("size") != item["identity"]["size"]:
        wrong.append(f"it names size {named.get('size')!r}, the plan has {item['identity']['size']!r}")
    if named.get("method") != item["wipe"].get("method", "overwrite"):
        wrong.append(f"it names the method {named.get('method')!r}, the plan has {item['wipe'].get('method', 'overwrite')!r}")
    if _own_word(statement, context):
        wrong.append("its signer is the operator of this run")
    if context.plan.dual and statement.signer == context.approver:
        wrong.append("its signer is also the one who approved the plan, a second person is needed")
    if context.plan.dual and named.get("verifier") in (context.operator, context.login) and named.get("verifier"):
        wrong.append("the verifier whom it names is the operator of this run")
    return wrong


def name_of(item: Item) -> Any:
    """By what people call a medium: its serial number, else its WWN, else the inode of its file; None where the plan knows none of them."""
    return next((item["identity"][name] for name in ("serial", "wwid", "inode") if item["identity"].get(name)), None)


def _own_word(statement: Statement, context: Context) -> bool:
    """Whether the operator of this run signed it: under dual control nobody opens a gate for himself."""
    return context.plan.dual and statement.signer in (context.operator, context.login)


def insiders(context: Context) -> tuple[str, ...]:
    """Whose word about media does not count: under dual control that of who operates the run."""
    return (context.operator, context.login) if context.plan.dual else ()


def held(item_ids: list[str], context: Context) -> list[Statement]:
    """Legal holds that speak of one of these items and were not lifted."""
    return [statement for statement in held_at_all(context) if any(covers(statement.document, item_id) for item_id in item_ids)]


def held_at_all(context: Context) -> list[Statement]:
    """Legal holds that were not lifted."""
    gone = lifted(context)
    return [word for word in context.statements.of("hold") if not word.document.get("lifts") and word.sha256 not in gone]


def pointless(context: Context) -> list[tuple[str, str]]:
    """(name, why) of holds, not lifted, that speak of something that the plan does not have. Whoever signed one meant something."""
    found = []
    for statement in held_at_all(context):
        items = statement.document.get("items")
        named = items if isinstance(items, list) else [items]
        unknown = [str(one) for one in named if one != "*" and one not in context.plan.items]
        if unknown or not named:
            found.append((statement.name, ", ".join(unknown) or "nothing"))
    return found


def lifted(context: Context) -> set[Any]:
    """Digests of the holds that somebody else than the operator has lifted."""
    return {s.document.get("lifts") for s in context.statements.of("hold") if not _own_word(s, context)} - {None}


def waiver(gate: str, item: Item, context: Context) -> Statement | None:
    """A signed word to go on without one piece of evidence about this item."""
    for statement in context.statements.of("waiver"):
        document = statement.document
        fits = document.get("gate") == gate and covers(document, item["id"])
        if fits and not expired(document, context.now) and not _own_word(statement, context):
            return statement
    return None


def said(step: Step, item: Item, context: Context, vault: str) -> dict[str, Any]:
    """The options of a step on a package that come from people's signed words and are not the task's to choose."""
    if step.value == "sealed":
        hold = bool(held(context.plan.held_by(item), context) or context.statements.doubtful_holds or pointless(context))
        return {"retention": packages.retention(context.plan, item["host"], hold=hold, now=context.now)}
    if step.value == "forgotten":
        names = {"attestation_sha256": "identity_digest", "keys_attestation_sha256": "keys_identity_digest"}
        words = {name: attestations(item, context, vault, which) for name, which in names.items()}
        return {name: found[0].sha256 for name, found in words.items() if found}
    if (step.aspect, step.value) == ("power", "off"):
        word, dark = waiver("idle", item, context), foreign.attested(item["host"], context)
        return {**({"idle_waiver": word.sha256} if word else {}), **({"attested": dark} if dark else {})}
    if step.value == "wiped" and key_copies.wanted(item):
        return {"key_copies": key_copies.ledger(item, context.statements, insiders(context))[0]}
    if step.value == "destroyed":
        statement, _entry, _reasons = packages.destruction(item, vault, context)
        known = {name: value for name, value in packages.digests(item, context.view, vault).items() if value}
        return {**known, **({"statement_sha256": statement.sha256} if statement else {})}
    return {}
