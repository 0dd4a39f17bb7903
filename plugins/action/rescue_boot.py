# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Gate and record M(rescue_boot): the module lays the rescue ready, this lets the host jump and judges what answers then."""

from __future__ import annotations

import contextlib
import shlex
from typing import Any

from ansible.errors import AnsibleConnectionFailure

from ansible_collections.sunset.crm.plugins.plugin_utils import rescue
from ansible_collections.sunset.crm.plugins.plugin_utils.account import Account
from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.estate import Estate
from ansible_collections.sunset.crm.plugins.plugin_utils.recording import RecordedAction, plain

# The rescue is looked for this long before a host is taken to run its old system.
ALREADY = 20.0


class ActionModule(RecordedAction):
    """Look, build, jump, look again."""

    def perform(self, args: dict[str, Any], task_vars: dict[str, Any], check: bool) -> dict[str, Any]:
        item = str(args["item"])
        estate = Estate.at(task_vars.get("sunset_estate_dir"))
        keys = rescue.Keys.of(estate, item, make=not check)
        account = Account(self.name, item)
        if keys is not None:
            with rescue.way_in(self._connection, keys) as reach:
                found, _why = rescue.look(reach, ALREADY)
            if found is not None:
                return self._there(account, keys, item, found, task_vars)
        if check or keys is None:
            return self._module(args, task_vars)
        done = self._module({**args, **keys.options(item)}, task_vars)
        if done.get("failed") or (done.get("evidence") or {}).get("verdict") != "yes":
            return done
        evidence = plain(done["evidence"])
        account.before, account.tools = evidence["before"], evidence["tools"]
        for action in evidence["actions"]:
            account.did(**action)
        return self._jump(account, keys, item, evidence["result"], float(args.get("timeout") or 600), task_vars)

    def _module(self, args: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        try:
            done: dict[str, Any] = self._execute_module(module_name=f"sunset.crm.{self.name}", module_args=dict(args), task_vars=task_vars)
            return done
        except AnsibleConnectionFailure as exc:
            raise Refusal(
                f"{args['item']} answers neither as a rescue nor as itself ({str(exc)[-200:]}). Nothing was changed by this step. "
                "Look at its console, or switch it on, and run the same command again."
            ) from exc

    def _there(self, account: Account, keys: rescue.Keys, item: str, found: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        """A rescue answers already, of an earlier run."""
        account.before = account.after = found
        machine = self._machine or str((found.get("marker") or {}).get("machine_id") or "")
        wrong = rescue.problems(found, keys.marker(item), machine, "")
        if wrong:
            return account.failed(
                f"{item}: what answers with its rescue's key is not fit for a wipe: {'; '.join(wrong)}.", {"state": "unknown"}
            )
        return {**account.done(False, "yes", entered(found, {})), "connection": self._way(keys, found)}

    def _jump(
        self, account: Account, keys: rescue.Keys, item: str, loaded: dict[str, Any], timeout: float, task_vars: dict[str, Any]
    ) -> dict[str, Any]:
        line = f"{shlex.quote(loaded['python'])} -I {shlex.quote(loaded['jump'])}"
        try:
            asked = self._low_level_execute_command(line, sudoable=True)
            answer = {"rc": asked["rc"], "stderr": str(asked.get("stderr") or "").strip()[-300:]}
        except AnsibleConnectionFailure as exc:
            answer = {"rc": None, "stderr": str(exc)[-300:]}
        account.did(did="asked to jump into the rescue", command=line, **answer)
        # The control connection of ssh outlives the old system and would mislead the next task.
        with contextlib.suppress(Exception):
            self._connection.reset()
        with rescue.way_in(self._connection, keys) as reach:
            found, why, waited = rescue.wait(reach, timeout)
        account.after = found or {"answer": "none", "why": why}
        image = {"image": {name: loaded["image"][name] for name in ("bytes", "sha256")}, "waited": waited}
        if found is None:
            return account.failed(
                f"{item} did not come back as a rescue within {waited:g} s after the jump (last: {why}). Its disks were not touched. Look at "
                "its console; a reset starts its old system again. Then run the same command again, or take the disk to the station.",
                {"state": "lost", **image},
                verdict="unknown",
            )
        wrong = rescue.problems(found, keys.marker(item), loaded["machine_id"], loaded["boot_id"])
        if wrong:
            return account.failed(
                f"{item}: what answers after the jump is not fit for a wipe: {'; '.join(wrong)}. No disk was touched.",
                {"state": "unknown", **image},
            )
        return {**account.done(True, "yes", entered(found, image)), "connection": self._way(keys, found)}

    def _way(self, keys: rescue.Keys, found: dict[str, Any]) -> dict[str, str]:
        """For C(add_host): the tasks that follow talk to the rescue."""
        common = self._connection.get_option("ssh_common_args")
        python = str((found.get("python")) or "/usr/bin/python3")
        return {"private_key_file": str(keys.login), "common_args": keys.arguments(common), "python": python}


def entered(found: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """What the ledger keeps of a rescue that was recognised. Pure."""
    kept = {name: found.get(name) for name in ("machine_id", "boot_id", "kernel", "root", "disks", "mounted_from_disks", "swap")}
    return {"state": "entered", **kept, **more}
