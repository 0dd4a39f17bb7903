# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Gate and record M(vault_package); a seal is signed with the run key in the same act."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from ansible_collections.sunset.crm.plugins.module_utils._canonical import digest
from ansible_collections.sunset.crm.plugins.plugin_utils.actions.recording import RecordedAction, judged
from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.people import signatures
from ansible_collections.sunset.crm.plugins.plugin_utils.record.estate import Estate


class ActionModule(RecordedAction):
    """The run key never leaves the control node: the vault gives the tag manifest, and is given the signature over it.

    Whoever is killed between the two finds the sealed package unsigned in the next run, which signs it."""

    def perform(self, args: dict[str, Any], task_vars: dict[str, Any], check: bool) -> dict[str, Any]:
        done = super().perform(args, task_vars, check)
        text = (done.get("result") or {}).get("tagmanifest")
        if (
            args.get("state") != "sealed"
            or check
            or done.get("failed")
            or judged(done, {"id": args["item"], "kind": "host", "identity": {}})["status"] != "done"
        ):
            return done
        if not text:
            return done if (done["result"].get("signature") or {}).get("state") == "valid" else _unsigned(done)
        key = Estate.at(task_vars.get("sunset_estate_dir")).run_key
        signed = super().perform({**args, "signature": seal_signature(text, done["result"]["tagmanifest_sha256"], key)}, task_vars, check)
        if not signed.get("failed") and (signed.get("result") or {}).get("signature", {}).get("state") != "valid":
            return _unsigned(signed)
        return _joined(done, signed)


def seal_signature(text: str, sha256: str, key: Path) -> str:
    """The run key's signature over exactly the tag manifest that the seal speaks of."""

    if hashlib.sha256(text.encode()).hexdigest() != sha256:
        raise Refusal("the tag manifest that the vault gave is not the one that it sealed; it is not signed")
    return signatures.sign(text.encode(), key, signatures.PACKAGE)


def _unsigned(done: dict[str, Any]) -> dict[str, Any]:
    return {
        **done,
        "failed": True,
        "msg": "the package is sealed, but no valid signature lies beside its tag manifest; run the same command again",
    }


def _joined(sealed: dict[str, Any], signed: dict[str, Any]) -> dict[str, Any]:
    """One act, one evidence: that of the signing, with the acts of the sealing before it. Untouched where it was masked on its way."""
    evidence = signed.get("evidence")
    if not isinstance(evidence, dict) or digest(evidence) != signed.get("evidence_sha256"):
        return signed
    first = sealed["evidence"]
    whole = {**evidence, "before": first["before"], "started": first["started"], "actions": [*first["actions"], *evidence["actions"]]}
    changed = bool(sealed.get("changed") or signed.get("changed"))
    return {**signed, "changed": changed, "evidence": whole, "evidence_sha256": digest(whole)}
