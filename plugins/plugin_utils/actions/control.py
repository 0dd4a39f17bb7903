# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The base of the actions that stay on the control node: they connect to nothing, so they answer for hosts that are off."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

from ansible.plugins.action import ActionBase

from ansible_collections.sunset.crm.plugins.plugin_utils.actions.recording import placed, plain
from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.record.estate import Estate


class ControlAction(ActionBase):
    """One act on the estate's folder; a Refusal becomes one clear message."""

    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        variables = placed(task_vars or {}, self._templar)
        try:
            estate = Estate.at(variables.get("sunset_estate_dir"))
            return {**result, **self.act(estate, plain(self._task.args), variables, bool(self._task.check_mode))}
        except Refusal as exc:
            return {**result, "failed": True, "changed": False, "msg": str(exc)}

    @abstractmethod
    def act(self, estate: Estate, args: dict[str, Any], task_vars: dict[str, Any], check: bool) -> dict[str, Any]:
        """Do it and return Ansible's result."""


def host_variables(task_vars: dict[str, Any], host: str) -> Mapping[str, Any]:
    """The variables of another host, each templated when it is asked for: one that cannot be yet is nobody else's trouble."""
    found: Mapping[str, Any] = task_vars["hostvars"][host]
    return found
