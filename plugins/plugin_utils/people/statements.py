# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Signed words of people: waivers, attestations, authorisations, holds, and the approval of the plan.

A statement is a JSON file with C(kind) and C(estate) beside its detached SSH signature (C(NAME.json), C(NAME.json.sig)).
It is judged by the allowed-signers text that the plan pins, in the namespace of its kind.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.people import signatures
from ansible_collections.sunset.crm.plugins.plugin_utils.planning.plan import Plan

NAMESPACES = {
    "waiver": signatures.WAIVER,
    "attestation": signatures.ATTESTATION,
    "authorisation": signatures.AUTHORISATION,
    "hold": signatures.HOLD,
    "acceptance": signatures.ACCEPTANCE,
    "retention": signatures.RETENTION,
    "destruction": signatures.DESTRUCTION,
    "disposal": signatures.DISPOSAL,
    "key-copies": signatures.KEY_COPIES,
}


@dataclass(frozen=True)
class Statement:
    """A statement whose signature holds."""

    kind: str
    signer: str
    document: dict[str, Any]
    sha256: str
    name: str


@dataclass(frozen=True)
class Statements:
    """valid: those that count. rejected: file name -> why it does not. doubtful_holds, doubtful_retentions: rejected ones that call
    themselves a hold, or an extension of a retention: they end nothing, but they keep things from being destroyed."""

    valid: list[Statement]
    rejected: dict[str, str]
    doubtful_holds: tuple[str, ...] = ()
    doubtful_retentions: tuple[str, ...] = ()

    def of(self, kind: str) -> list[Statement]:
        return [statement for statement in self.valid if statement.kind == kind]


def approval(plan_bytes: bytes, signature_path: Path, plan: Plan) -> str:
    """The principal who approved this very plan file. Raises Refusal if nobody did."""
    mend = f"Have it approved outside the control node: ssh-keygen -Y sign -f KEY -n {signatures.APPROVAL} plan.json"
    try:
        signature = signature_path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise Refusal(f"the plan {plan.sha256[:12]} is not approved: there is no {signature_path}. {mend}") from None
    except (OSError, UnicodeDecodeError) as exc:
        raise Refusal(f"the plan {plan.sha256[:12]} is not approved: {signature_path} cannot be read: {exc}. {mend}") from None
    try:
        return signatures.verify(plan_bytes, signature, plan.allowed_signers, signatures.APPROVAL)
    except Refusal as exc:
        raise Refusal(f"the plan {plan.sha256[:12]} is not approved: {exc}. {mend}") from None


def read(folder: Path, plan: Plan) -> Statements:
    """All statements of a folder, judged."""
    valid, rejected, holds, retentions = [], {}, [], []
    for path in sorted(folder.glob("*.json")) if folder.is_dir() else []:
        try:
            valid.append(_judge(path, plan))
        except Refusal as exc:
            rejected[path.name] = str(exc)
            if _may_be_hold(path):
                holds.append(path.name)
            elif _calls_itself(path, "retention"):
                retentions.append(path.name)
    return Statements(valid, rejected, tuple(holds), tuple(retentions))


def _may_be_hold(path: Path) -> bool:
    """Whether a rejected statement calls itself a hold. One that cannot be read may be one: unknown is not no."""
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return True
    return isinstance(document, dict) and document.get("kind") == "hold" and not document.get("lifts")


def _calls_itself(path: Path, kind: str) -> bool:
    document = json.loads(path.read_bytes())
    return isinstance(document, dict) and document.get("kind") == kind


def _judge(path: Path, plan: Plan) -> Statement:
    try:
        document_bytes = path.read_bytes()
        document = json.loads(document_bytes)
        kind, estate = str(document["kind"]), document["estate"]
    except OSError as exc:
        raise Refusal(f"it cannot be read: {exc.strerror}") from None
    except (ValueError, KeyError, TypeError):
        raise Refusal("it is not a JSON mapping with kind and estate") from None
    if kind not in NAMESPACES:
        raise Refusal(f"its kind {kind!r} is unknown (known: {', '.join(sorted(NAMESPACES))})")
    if estate != plan.estate:
        raise Refusal(f"it is for the estate {estate!r}, this one is {plan.estate!r}")
    try:
        signature = path.with_name(path.name + ".sig").read_text(encoding="utf-8")
    except FileNotFoundError:
        raise Refusal(f"there is no signature {path.name}.sig beside it") from None
    except (OSError, UnicodeDecodeError) as exc:
        raise Refusal(f"its signature {path.name}.sig cannot be read: {exc}") from None
    signer = signatures.verify(document_bytes, signature, plan.allowed_signers, NAMESPACES[kind])
    return Statement(kind, signer, document, hashlib.sha256(document_bytes).hexdigest(), path.name)


def moment(text: Any) -> datetime | None:
    """A time stamp in ISO 8601 as an aware datetime; None when it is not one."""
    try:
        parsed = datetime.fromisoformat(str(text).replace("Z", "+00:00"))
    except ValueError:
        return None
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)


def expired(document: dict[str, Any], now: datetime) -> bool:
    """Whether a statement's C(expires) has passed. One that cannot be read counts as passed."""
    if "expires" not in document:
        return False
    end = moment(document["expires"])
    return end is None or end <= now


def covers(document: dict[str, Any], item_id: str) -> bool:
    """Whether a waiver or hold speaks of this item: by id in the list C(items), or of all with the entry C(*)."""
    items = document.get("items")
    whole = items if isinstance(items, list) else [items]
    return item_id in whole or "*" in whole
