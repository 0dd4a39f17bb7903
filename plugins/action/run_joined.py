# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Refuse to begin a role where no run is open, so that a skipped first play ends in an error and not in silence."""

from __future__ import annotations

from typing import Any

from ansible_collections.sunset.crm.plugins.plugin_utils.actions.control import ControlAction
from ansible_collections.sunset.crm.plugins.plugin_utils.record.estate import Estate, my_run


class ActionModule(ControlAction):
    """See plugins/modules/run_joined.py."""

    def act(self, estate: Estate, args: dict[str, Any], task_vars: dict[str, Any], check: bool) -> dict[str, Any]:
        return {"changed": False, "run": my_run(estate)["run"]}
