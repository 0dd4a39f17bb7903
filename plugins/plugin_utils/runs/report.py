# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The report of an estate: one self-contained page made from plan, ledger and certificates. Pure but for the template file."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import jinja2

from ansible_collections.sunset.crm.plugins.plugin_utils.certificates import certify
from ansible_collections.sunset.crm.plugins.plugin_utils.people.statements import Statements, covers
from ansible_collections.sunset.crm.plugins.plugin_utils.planning.plan import SETS, Plan
from ansible_collections.sunset.crm.plugins.plugin_utils.record.ledger import Entry
from ansible_collections.sunset.crm.plugins.plugin_utils.record.view import View
from ansible_collections.sunset.crm.plugins.plugin_utils.runs import closing

TEMPLATES = Path(__file__).parent / "templates"


def facts(
    plan: Plan,
    view: View,
    entries: list[Entry],
    words: Statements,
    approver: str,
    certificates: list[dict[str, Any]],
    ordered: list[dict[str, Any]],
    made: str,
) -> dict[str, Any]:
    """Everything that the page shows."""
    refused = [entry.record for entry in entries if entry.record.get("kind") == "refused"]
    runs = [entry.record for entry in entries if entry.record.get("kind") == "run" and entry.record.get("state") == "open"]
    excuses = certify.excuses(plan, words, {str(run.get("operator")) for run in runs if run.get("phase") == "wipe"} if plan.dual else ())
    return {
        "estate": plan.estate,
        "made": made,
        "plan_sha256": plan.sha256,
        "approver": approver,
        # Two persons count for little where the control node could rewrite its own record.
        "control": "dual" if plan.dual and runs and runs[-1].get("append_only") else "single",
        "waves": [{"name": wave, "accepted": wave in view.accepted} for wave in plan.waves],
        "rows": [
            asdict(closing.row(item, plan, view, "wipe", excuses.get(item["id"], "")))
            for item in sorted(plan.items.values(), key=lambda i: plan.waves.index(i["wave"]))
        ],
        "guests": guests(plan, view),
        "findings": [{**found, "attested": _attested(found, view, words)} for found in plan.data.get("findings", [])],
        "statements": [
            {"kind": s.kind, "signer": s.signer, "name": s.name, "sha256": s.sha256, "reason": s.document.get("reason", "")}
            for s in words.valid
        ],
        "rejected": words.rejected,
        "interrupted": [e.record for e in (*view.interrupted, *view.mended)],
        "refused": [{"item": r["item"], "at": r["at"], "missing": [m["what"] for m in r["missing"]]} for r in refused],
        "runs": [{key: run.get(key) for key in ("run", "phase", "waves", "operator", "machine", "at")} for run in runs],
        "certificates": certificates,
        "orders": [{**one, "settled": excuses.get(one["item"], "") or _wiped_since(view, one)} for one in ordered],
        "lines": len(entries),
        "head": entries[-1].hash if entries else "",
    }


def _wiped_since(view: View, order: dict[str, Any]) -> str:
    """A later try that ended well settles an order; the very wipe that it speaks of does not (bad places, exceptions)."""
    seen = view.get(order["item"], "wipe")
    if seen is None or seen.value != "wiped" or seen.hash == order.get("entry"):
        return ""
    return f"wiped since (ledger {seen.number + 1})"


def _attested(found: dict[str, Any], view: View, words: Statements) -> str:
    """Whose word stands for an engine that is not handled: that of the evidence of the power-off, or one that was handed in since."""
    if not found.get("foreign"):
        return ""
    power = view.get(f"host:{found['host']}", "power")
    told = ((power.result.get("attested") or {}) if power else {}).get(found["id"])
    if told:
        return f"{told['signer']}, at the power-off"
    item = f"host:{found['host']}"
    given = [s.signer for s in words.of("attestation") if s.document.get("about") == found["id"] and covers(s.document, item)]
    return f"{', '.join(sorted(set(given)))}, handed in and not used yet" if given else ""


def guests(plan: Plan, view: View) -> list[dict[str, Any]]:
    """Each container and virtual machine that was stopped: where it ran, how it ended, what had brought it back until then."""
    rows = []
    for item in plan.of(*SETS):
        seen = view.get(item["id"], "guest")
        if seen is None or seen.value != "stopped":
            continue
        cluster = (item["identity"].get("hypervisor") or {}).get("cluster")
        where = f"{item['host']}, cluster {cluster}" if cluster else item["host"]
        for name, one in sorted((seen.result.get("guests") or {}).items()):
            rows.append(
                {
                    "item": item["id"],
                    "where": where,
                    "name": name,
                    "how": one.get("how"),
                    "seconds": one.get("seconds"),
                    "returned": one.get("returned_before") or "",
                    "returns": one.get("returns_after") or "",
                }
            )
    return rows


def page(content: dict[str, Any]) -> str:
    """The HTML of the report; everything that came from the estate is escaped."""
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(str(TEMPLATES)), autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.get_template("report.html.j2").render(content)


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as text for a terminal."""
    heads = {"item": "item", "done": "what was done", "proof": "proof", "evidence": "evidence"}
    widths = {key: max(len(head), *(len(str(row[key])) for row in rows)) if rows else len(head) for key, head in heads.items()}
    lines = ["  ".join(head.ljust(widths[key]) for key, head in heads.items()), "  ".join("-" * width for width in widths.values())]
    lines += ["  ".join(str(row[key]).ljust(widths[key]) for key in heads).rstrip() for row in rows]
    return "\n".join(lines)
