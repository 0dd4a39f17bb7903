# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run M(vault_verify) on a vault and keep what it said: in the ledger where there is one, and in a log of JSON lines.

It changes nothing, so no gate is asked and no run is opened. The ledger, where it is there, says which packages must be found.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase

from ansible_collections.sunset.crm.plugins.plugin_utils.actions.recording import placed, plain
from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.vaults import verifying


class ActionModule(ActionBase):
    """See plugins/modules/vault_verify.py."""

    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        variables = placed(task_vars or {}, self._templar)
        given = {name: verifying.shelf_settings(value) if name == "shelf" else value for name, value in self._task.args.items()}
        args, vault = plain(given), str(variables.get("inventory_hostname"))
        folder = variables.get("sunset_estate_dir")
        try:
            # Not Estate.at: a folder that is not there is not made, this works without the estate.
            known = verifying.Known.at(Path(str(folder)).expanduser() if folder else None, vault)
            if args.get("expected"):
                raise Refusal("vault_verify: expected is not the task's to choose; it comes from the ledger")
            filled = {**args, "expected": known.expected(args.get("package"))}
            if known.signers and not args.get("allowed_signers"):
                filled["allowed_signers"] = known.signers
            log = args.get("log") or (str(known.folder / "verify.jsonl") if known.folder else "")
            if not log:
                raise Refusal("vault_verify: log is not set, and there is no folder of the estate; give -e sunset_verify_log=FILE")
            done = self._execute_module(module_name="sunset.crm.vault_verify", module_args=filled, task_vars=task_vars)
            # A failed result also holds what Ansible caught, which is no JSON.
            seen = plain({name: done[name] for name in ("failed", "msg", "verdict", "packages", "unreachable") if name in done})
            if "packages" not in seen:
                seen = {
                    **seen,
                    "failed": True,
                    "verdict": "unknown",
                    "packages": [],
                    "msg": str(seen.get("msg", "the vault gave no answer")),
                }
            told = known.told(seen, bool(args.get("proof")))
            if not self._task.check_mode:
                _append(Path(log).expanduser(), told)
                known.record(told)
            return {**result, **seen, "changed": False, **{name: told[name] for name in ("past_retention", "on_hold")}}
        except Refusal as exc:
            return {**result, "failed": True, "changed": False, "msg": str(exc)}


def _append(path: Path, told: dict[str, Any]) -> None:
    """One whole line, synced."""
    line = (json.dumps(told, sort_keys=True) + "\n").encode()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            if os.write(fd, line) != len(line):
                raise Refusal(f"the log {path} could not take the whole line; free space there")
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as exc:
        raise Refusal(f"the log {path} cannot be written: {exc.strerror}; name another (-e sunset_verify_log=FILE)") from None
