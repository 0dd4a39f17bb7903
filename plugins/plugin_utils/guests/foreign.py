# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Engines that the survey has found and nobody here can drive: refused by name, or taken in by a person's signed attestation. Pure.

An attestation says about one finding (C(about): C(engine:kubernetes)) of named hosts (C(items)) which guests there were (C(guests), which may
be none), how it was seen that they are dark and stay so (C(seen)), and when (C(at)).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from ansible_collections.sunset.crm.plugins.module_utils._survey import foreign as survey_foreign
from ansible_collections.sunset.crm.plugins.plugin_utils.people.statements import Statement, covers, expired
from ansible_collections.sunset.crm.plugins.plugin_utils.steps.grounds import Context

# Kinds of findings: an engine whose guests run on the host; a hypervisor that the host itself is a guest of.
ENGINE, HYPERVISOR = "engine", "hypervisor"


def word(found: dict[str, Any], context: Context) -> tuple[Statement | None, list[str]]:
    """The attestation that counts for this finding, and why others about it do not."""
    reasons = []
    for statement in context.statements.of("attestation"):
        document = statement.document
        if document.get("about") != found["id"] or not covers(document, f"host:{found['host']}"):
            continue
        wrong = _faults(statement, context)
        if not wrong:
            return statement, []
        reasons.append(f"{statement.name} does not count: {'; '.join(wrong)}")
    return None, reasons


def _faults(statement: Statement, context: Context) -> list[str]:
    document, wrong = statement.document, []
    guests = document.get("guests")
    if not isinstance(guests, list) or not all(isinstance(one, str) and one for one in guests):
        wrong.append("it does not list the guests that it is about (guests; an empty list says that there were none)")
    wrong += [f"it does not say {what} ({name})" for name, what in (("seen", "how it was seen"), ("at", "when")) if not document.get(name)]
    if "expires" not in document:
        wrong.append("it has no expiry")
    elif expired(document, context.now):
        wrong.append(f"it expired at {document['expires']}")
    if context.plan.dual and statement.signer in (context.operator, context.login):
        wrong.append("its signer is the operator of this run")
    return wrong


def obstacles(host: str, context: Context, kinds: Collection[str]) -> list[tuple[str, str]]:
    """(what is missing, what mends it) for each of these findings of the host that nobody has attested."""
    lacks = []
    for found in context.plan.foreign(host):
        statement, reasons = word(found, context) if found["kind"] in kinds else (None, [])
        if found["kind"] not in kinds or statement:
            continue
        title = survey_foreign.TITLES.get(found["foreign"], found["foreign"])
        if found["kind"] == ENGINE:
            what = f"{title} runs guests here that this collection can neither stop nor see dark ({found['what']})"
            mend = survey_foreign.INSTEAD.get(found["foreign"], "stop its guests and keep them off")
        else:
            what = f"it is a guest of {title}, which this collection does not drive ({found['what']})"
            mend = survey_foreign.BELOW
        what = "; ".join([what, *(reasons or ["no attestation says that its guests are dark"])])
        lacks.append((what, f"{mend}; then a person attests it: scripts/statement attest --about {found['id']} ... plan.json host:{host}"))
    return lacks


def attested(host: str, context: Context) -> dict[str, dict[str, Any]]:
    """Finding -> by whose word its guests are dark, as it goes into the evidence of the power-off."""
    words = {found["id"]: word(found, context)[0] for found in context.plan.foreign(host)}
    return {
        name: {"signer": one.signer, "sha256": one.sha256, "guests": sorted(one.document["guests"]), "at": str(one.document["at"])}
        for name, one in words.items()
        if one
    }


def spoken(words: dict[str, Any]) -> str:
    """The same in the words of the report."""
    return "; ".join(
        f"{survey_foreign.TITLES.get(name.partition(':')[2], name)}: {len(one['guests'])} guests dark by the signed word of {one['signer']}, not seen"
        for name, one in sorted(words.items())
    )
