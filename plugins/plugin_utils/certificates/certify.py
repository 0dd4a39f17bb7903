# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From the ledger to the certificate of a wiped medium: gathers what ``certificate.build_certificate`` takes.

The certificate speaks of the one ledger line that holds the wipe's outcome. Written once; a second run finds it.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from ansible_collections.sunset.crm.plugins.plugin_utils.certificates import certificate, orders, pdf as certificate_pdf, timestamps
from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.files import write_signed
from ansible_collections.sunset.crm.plugins.plugin_utils.people import signatures, signed
from ansible_collections.sunset.crm.plugins.plugin_utils.people.statements import Statement, Statements, covers
from ansible_collections.sunset.crm.plugins.plugin_utils.planning.plan import Item, Plan
from ansible_collections.sunset.crm.plugins.plugin_utils.record import ledger
from ansible_collections.sunset.crm.plugins.plugin_utils.record.estate import Estate
from ansible_collections.sunset.crm.plugins.plugin_utils.record.view import Seen, View, dump_id
from ansible_collections.sunset.crm.plugins.plugin_utils.runs.session import Session

PROOF_FIELDS = ("tables", "rows", "files", "bytes", "fingerprint_sha256", "engine_version")


def conclude(session: Session, item: Item) -> dict[str, Any]:
    """Make sure that the wiped medium has its signed certificate; for the action plugin of ``media_wipe``.

    Returns ``{certificate: file name}`` with what lies beside it (``pdf``, ``timestamp``) and ``warnings``. Raises Refusal when the
    evidence does not carry a certificate, or the plan's time stamp service gives no token.
    """
    seen = session.view.get(item["id"], "wipe")
    if seen is None:
        raise Refusal(f"{item['id']}: the ledger holds no outcome of a wipe; run the wipe")
    if (name := written(session.estate, item, seen)) is not None:
        return beside(session, session.estate.certificates_folder / name)
    outcome = next(entry.record for entry in ledger.read(session.estate.ledger_file) if entry.hash == seen.hash)
    word = authorised(session.words.of("authorisation"), seen, item)
    made = certificate.build_certificate(
        item=item,
        plan={"estate": session.plan.estate, "sha256": session.plan.sha256, "approved_by": session.approver},
        authorisation=word,
        data_sets=data_sets(session.plan, session.view, item),
        wipe=seen.result,
        stream_key=session.stream_key(item, make=False).get("stream_key", ""),
        evidence={"ledger_entry": seen.hash, "sha256": outcome.get("evidence_sha256"), "run": outcome.get("run")},
        people={
            "operator": operator(session, str(outcome.get("run"))),
            "custodians": custodians(session, item),
            "verifier": word["verifier"],
            "witness": word["witness"],
        },
        destination=word["destination"],
        asset=session.plan.items.get(f"host:{item['host']}", {}).get("identity") or {},
        issued=ledger.now(),
        # Two persons count for little where the control node could rewrite its own record.
        control="dual" if session.plan.dual and session.run.get("receivers") else "single",
        waivers=waivers(session, item),
        stamped_by=session.plan.setting("timestamp", {}).get("url", ""),
    )
    signatures.create_key(session.estate.run_key, "sunset.crm run key")
    path = certificate.issue(made, session.estate.certificates_folder, session.estate.run_key)
    return beside(session, path)


def beside(session: Session, path: Path) -> dict[str, Any]:
    """See to it that the certificate's time stamp and PDF lie beside it, whatever an earlier run left undone."""
    found: dict[str, Any] = {"certificate": path.name}
    service = session.plan.setting("timestamp", {})
    if service:
        found["timestamp"] = timestamps.stamp(path, service).name
    try:
        pdf = certificate_pdf.render(json.loads(path.read_bytes()), session.plan.setting("fonts", []))
    except Refusal as exc:
        # The signed file is the certificate, and it is there; what is missing is a view of it.
        return {**found, "warnings": [f"no PDF of {path.name} was made: {exc}"]}
    target = path.with_suffix(".pdf")
    whole = target.exists() and target.with_name(target.name + ".sig").exists()
    if not whole or target.read_bytes() != pdf:
        write_signed(target, pdf, session.estate.run_key, signatures.CERTIFICATE)
    return {**found, "pdf": target.name}


def order_destruction(session: Session, item: Item, result: dict[str, Any], entry: str) -> dict[str, Any]:
    """Where a wipe left, or may have left, data, or nothing that can be done reaches what is asked for: the signed order to destroy the
    medium. Returns ``{order: file name}`` or nothing."""
    if result.get("outcome") not in orders.OWED and not result.get("order"):
        return {}
    document = orders.order(session.plan.estate, session.plan.sha256, item, result, entry, ledger.now())
    return {"order": orders.issue(document, session.estate.orders_folder, session.estate.run_key).name}


def written(estate: Estate, item: Item, seen: Seen) -> str | None:
    """The name of the certificate about this very outcome, if it and its signature are there."""
    path = estate.certificates_folder / certificate.file_name({"medium": {"item": item["id"]}})
    if not path.with_name(path.name + ".sig").exists():
        return None
    try:
        found = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return path.name if found.get("evidence", {}).get("ledger_entry") == seen.hash else None


def gaps(estate: Estate, plan: Plan, view: View, waves: list[str]) -> list[str]:
    """What keeps the media of these waves from being closed: wiped ones without their signed certificate or its time stamp, certificates of
    no medium of the plan, or of one that is not seen wiped."""
    found, service = [], plan.setting("timestamp", {})
    for item in plan.of("medium"):
        seen = view.get(item["id"], "wipe")
        if item["wave"] not in waves or seen is None or seen.value != "wiped":
            continue
        name = written(estate, item, seen)
        if name is None:
            found.append(f"{item['id']}: its certificate is missing, or is about another wipe")
        elif wrong := unsound(estate, estate.certificates_folder / name):
            found.append(f"{item['id']}: its certificate {name} is unsound: {wrong}")
        elif service and (wrong := timestamps.lack(estate.certificates_folder / name, service)):
            found.append(f"{item['id']}: the time stamp of its certificate {name} {wrong}")
    return found + [f"{name}: {why}" for name, why in standing(estate, plan, view).items() if why in (STRANGER, NOT_WIPED)]


STRANGER = "a certificate of a medium that the plan does not have"
NOT_WIPED = "a certificate of a medium that is not seen wiped; it is of an earlier wipe, or of none: take it out of the folder"
OTHER_WIPE = "its signature is missing, or it is about another wipe than the medium's last"


def standing(estate: Estate, plan: Plan, view: View) -> dict[str, str]:
    """Certificate file -> why it does not speak for its medium as it is now; empty where it does."""
    known = {certificate.file_name({"medium": {"item": item["id"]}}): item for item in plan.of("medium")}
    found = {}
    for path in sorted(estate.certificates_folder.glob("*.certificate.json")):
        item = known.get(path.name)
        seen = view.get(item["id"], "wipe") if item else None
        if item is None:
            found[path.name] = STRANGER
        elif seen is None or seen.value != "wiped":
            found[path.name] = NOT_WIPED
        else:
            found[path.name] = unsound(estate, path) if written(estate, item, seen) else OTHER_WIPE
    return found


def unsound(estate: Estate, path: Path) -> str:
    """Why a written certificate does not hold; empty if it does."""
    try:
        data = path.read_bytes()
        signature = path.with_name(path.name + ".sig").read_text(encoding="ascii")
        public = estate.run_key.with_suffix(".pub").read_text(encoding="ascii")
        signatures.verify(data, signature, f"{certificate.SIGNER} {public}", signatures.CERTIFICATE)
        problems = certificate.schema_problems(json.loads(data))
    except (OSError, ValueError) as exc:
        return str(exc)
    except Refusal as exc:
        return str(exc)
    return problems[0] if problems else ""


def excuses(plan: Plan, words: Statements, insiders: Collection[str] = ()) -> dict[str, str]:
    """Medium -> how a person accounts for it; those that nobody accounts for are not there. A host that was to wipe none but such is too."""
    found = {item["id"]: word for item in plan.of("medium") if (word := orders.excuse(item, words, insiders))}
    for host in plan.of("host"):
        media = plan.wiped_from_within(host["host"])
        if media and all(medium["id"] in found for medium in media):
            found[host["id"]] = "nothing is left for which it would be woken"
    return found


def authorised(statements: list[Statement], seen: Seen, item: Item) -> dict[str, Any]:
    """The authorisation that the wipe was done under: by its digest, since it may have expired by now."""
    digest = seen.result.get("authorisation_sha256")
    for statement in statements:
        if statement.sha256 == digest:
            named: dict[str, Any] = next((entry for entry in statement.document.get("media", []) if entry.get("item") == item["id"]), {})
            return {
                "sha256": statement.sha256,
                "signer": statement.signer,
                "name": statement.name,
                "expires": str(statement.document.get("expires", "")),
                "method": named.get("method"),
                # Of people and of what becomes of the medium a program knows nothing: this is what the signer has said.
                **{name: str(named[name]) if named.get(name) else None for name in ("verifier", "witness", "destination")},
            }
    raise Refusal(f"{item['id']}: the authorisation {str(digest)[:12]} that it was wiped under is not among the statements; put it back")


def data_sets(plan: Plan, view: View, item: Item) -> list[dict[str, Any]]:
    """What the medium carried, with the ledger lines of its dumps and proofs."""
    found = []
    for data_set in plan.carried_by(item["id"]):
        dump = view.dump(plan, data_set)
        proofs = []
        for vault in view.proven_at(plan, data_set):
            seen = view.seen[(data_set["id"], f"proof@{vault}")]
            kept = {key: seen.result.get(key) for key in PROOF_FIELDS}
            verdict = seen.result.get("verdict", seen.value)
            proofs.append({"vault": vault, "verdict": verdict, "entry": seen.hash, "at": seen.at, **kept})
        found.append(
            {
                "item": data_set["id"],
                "categories": data_set["expects"].get("categories"),
                "legal_basis": data_set["expects"].get("legal_basis"),
                "dump": {"id": dump_id(dump.result), "entry": dump.hash} if dump else {},
                "proofs": proofs,
            }
        )
    return found


def operator(session: Session, run: str) -> str:
    """Who ran the run that wiped it, which may be an earlier one than this."""
    for entry in ledger.read(session.estate.ledger_file):
        if entry.record.get("kind") == "run" and entry.record.get("run") == run:
            return str(entry.record.get("operator", ""))
    return str(session.run["operator"])


def custodians(session: Session, item: Item) -> list[str]:
    """Who has shown that the packages of what lay on it can be opened."""
    context = session.context()
    found: set[str] = set()
    for host in {data_set["host"] for data_set in session.plan.carried_by(item["id"])}:
        for vault in session.plan.vaults:
            package = session.plan.items.get(f"host:{host}")
            if package is not None:
                found |= signed.openers(package, context, vault)
    return sorted(found)


def waivers(session: Session, item: Item) -> list[dict[str, Any]]:
    """The signed waivers that speak of this medium or of what lay on it."""
    about = {item["id"], *(data_set["id"] for data_set in session.plan.carried_by(item["id"]))}
    return [
        {
            "sha256": statement.sha256,
            "signer": statement.signer,
            "gate": statement.document.get("gate"),
            "items": list(statement.document.get("items", [])),
            "reason": statement.document.get("reason"),
        }
        for statement in session.words.of("waiver")
        if any(covers(statement.document, item_id) for item_id in about)
    ]
