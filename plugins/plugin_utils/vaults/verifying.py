# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the control node knows of a vault's packages when they are verified, and what it remembers of the answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.people import statements
from ansible_collections.sunset.crm.plugins.plugin_utils.planning import plan
from ansible_collections.sunset.crm.plugins.plugin_utils.record import ledger
from ansible_collections.sunset.crm.plugins.plugin_utils.record.estate import Estate
from ansible_collections.sunset.crm.plugins.plugin_utils.record.view import View, build
from ansible_collections.sunset.crm.plugins.plugin_utils.vaults import packages


def shelf_settings(shelf: Any) -> Any:
    """C(sunset_vault_shelf) as text and numbers: a date of YAML is no JSON. Everything else of it is judged by _shelf.rules.faults."""
    if not isinstance(shelf, Mapping):
        return shelf
    return {key: str(value) if key == "retain_until" else value for key, value in shelf.items()}


@dataclass(frozen=True)
class Known:
    """folder: the estate's, where it is there. sealed: package -> digest of the tag manifest that must be on this vault."""

    folder: Path | None
    vault: str
    signers: str = ""
    sealed: dict[str, str] = field(default_factory=dict)
    view: View = field(default_factory=View)
    words: statements.Statements = field(default_factory=lambda: statements.Statements([], {}))

    @classmethod
    def at(cls, folder: Path | None, vault: str) -> Known:
        """What the estate's folder knows; nothing where there is none. A folder that is there and cannot be read is an error."""
        if folder is None or not (folder / "ledger.jsonl").is_file() or not (folder / "plan.json").is_file():
            return cls(folder if folder is not None and folder.is_dir() else None, vault)
        estate = Estate(folder.absolute())
        current = estate.plan()
        view = build(ledger.read(estate.ledger_file), plan=current)
        public = estate.run_key.with_suffix(".pub")
        pinned = (view.genesis or {}).get("run_key")
        if pinned and public.is_file() and ledger.line_hash(public.read_bytes()) != pinned:
            raise Refusal(
                f"the run key {public} is not the one that the ledger pinned; find out who changed it before anything is verified"
            )
        return cls(
            estate.root,
            vault,
            estate.signers(current) if public.is_file() else "",
            sealed(current, view, vault),
            view,
            statements.read(estate.statements_folder, current),
        )

    def expected(self, package: str | None) -> dict[str, str]:
        return {name: digest for name, digest in self.sealed.items() if package in (None, "", name)}

    def told(self, seen: dict[str, Any], proof: bool) -> dict[str, Any]:
        """The record of one verification: verdicts, digests and what is due; extensions and holds that were signed since are counted."""
        today = datetime.now(UTC).date()
        past, held, found = [], [], []
        for one in seen.get("packages", []):
            kept = dict(one)
            recorded = one.get("retention") or {}
            last = packages.kept_until(one["package"], recorded, self.words)
            holds = self.holds(one["package"])
            if recorded:
                kept["retention"] = {**recorded, "kept_until": last.isoformat() if last else None, "holds": holds}
            if holds or (recorded.get("hold") and self.folder is None):
                held.append(one["package"])
            if last is not None and last < today:
                past.append(one["package"])
            found.append(kept)
        return {
            "kind": "verified", "at": ledger.now(), "vault": self.vault, "verdict": seen.get("verdict", "unknown"), "proof": proof,
            "packages": found, "past_retention": past, "on_hold": held, "msg": str(seen.get("msg", "")) if seen.get("failed") else "",
        }  # fmt: skip

    def holds(self, package: str) -> list[str]:
        """Names of the holds, not lifted, that speak of this package, of what is in it, or of what uses that."""
        lifted = {word.document.get("lifts") for word in self.words.of("hold")}
        subjects = self.subjects(package)
        return [
            word.name
            for word in self.words.of("hold")
            if not word.document.get("lifts")
            and word.sha256 not in lifted
            and any(statements.covers(word.document, subject) for subject in subjects)
        ]

    def subjects(self, package: str) -> list[str]:
        """What a hold on this package may name, as the plan has it; the host alone where there is no plan."""
        host = f"host:{package}"
        if self.folder is None or not (self.folder / "plan.json").is_file():
            return [host]
        current = plan.load(self.folder / "plan.json")
        return current.held_by(current.items[host]) if host in current.items else [host]

    def record(self, told: dict[str, Any]) -> None:
        """Append it to the ledger, with what it must remember of holds and extensions."""
        if self.folder is None or not (self.folder / "ledger.jsonl").is_file():
            return
        for word in packages.noted(self.words, self.view):
            ledger.append(self.folder / "ledger.jsonl", word)
        ledger.append(self.folder / "ledger.jsonl", {name: value for name, value in told.items() if name != "at"})


def sealed(current: plan.Plan, view: View, vault: str) -> dict[str, str]:
    """Packages that the ledger knows as sealed on this vault, whose destruction was never begun, with the digest of each tag manifest."""
    return {
        host["host"]: str(seen.result["tagmanifest_sha256"])
        for host in current.of("host")
        if (seen := view.sealed.get((host["id"], f"package@{vault}"))) is not None
        and view.value(host["id"], f"package@{vault}") in ("sealed", "forgotten")
        and seen.result.get("tagmanifest_sha256")
        # Its destruction was begun on record: what is left of it says how far that came.
        and view.doomed.get((host["id"], f"package@{vault}"), -1) < seen.number
    }
