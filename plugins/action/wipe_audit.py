# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read a certificate on the control node, check its signature, and have M(wipe_audit) look at the medium. Changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase

from ansible_collections.sunset.crm.plugins.plugin_utils.actions.recording import plain
from ansible_collections.sunset.crm.plugins.plugin_utils.certificates import auditing
from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal


class ActionModule(ActionBase):
    """See plugins/modules/wipe_audit.py."""

    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        args = plain(self._task.args)
        try:
            if args.get("facts"):
                raise Refusal("wipe_audit: facts are not the task's to choose; they come from the certificate")
            path = Path(str(args.get("certificate") or "")).expanduser()
            paper = auditing.read(path, args.get("allowed_signers"))
        except Refusal as exc:
            return {**result, "failed": True, "changed": False, "verdict": "unknown", "msg": str(exc)}
        done = self._execute_module(module_name="sunset.crm.wipe_audit", module_args={**args, "facts": paper.facts}, task_vars=task_vars)
        if "verdict" not in done:
            return {**result, **done}
        wrong = auditing.failure(paper, str(done["verdict"]), str(done.get("why", "")))
        return {**result, **done, "changed": False, "signer": paper.signer, **({"failed": True, "msg": wrong} if wrong else {})}
