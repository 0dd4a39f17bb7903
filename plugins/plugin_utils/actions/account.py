# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The evidence of a verb that runs on the control node, in the shape that the modules on hosts return theirs."""

from __future__ import annotations

import datetime
import json
import time
from typing import Any

from ansible_collections.sunset.crm.plugins.module_utils._canonical import canonical, digest


def utc_now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class Account:
    """What one call saw and did."""

    def __init__(self, module: str, item: str) -> None:
        self._start = time.monotonic()
        self.before: dict[str, Any] = {}
        self.after: dict[str, Any] = {}
        self.tools: dict[str, str] = {}
        # Belongs into the result, however the call ends.
        self.more: dict[str, Any] = {}
        self._head = {"module": module, "item": item, "started": utc_now()}
        self._actions: list[dict[str, Any]] = []

    def did(self, **action: Any) -> None:
        """Record one act, with the seconds since the call began."""
        self._actions.append({**action, "at": round(time.monotonic() - self._start, 3)})

    @property
    def acted(self) -> bool:
        return bool(self._actions)

    def evidence(self, verdict: str, result: dict[str, Any]) -> dict[str, Any]:
        whole = {
            **self._head,
            "before": self.before,
            "actions": self._actions,
            "after": self.after,
            "tools": self.tools,
            "verdict": verdict,
            "result": {**result, **self.more},
            "ended": utc_now(),
            "seconds": round(time.monotonic() - self._start, 3),
        }
        # The form that it will have in the ledger, before it is digested.
        plain: dict[str, Any] = json.loads(canonical(whole))
        return plain

    def done(self, changed: bool, verdict: str, result: dict[str, Any]) -> dict[str, Any]:
        """verdict: yes only if the world was read after acting and showed the wanted state."""
        evidence = self.evidence(verdict, result)
        return {
            "changed": changed,
            "evidence": evidence,
            "evidence_sha256": digest(evidence),
            "result": evidence["result"],
        }

    def failed(self, msg: str, result: dict[str, Any], verdict: str = "no") -> dict[str, Any]:
        """A failure that still hands over what was seen and done."""
        return {**self.done(self.acted, verdict, result), "failed": True, "msg": msg}
