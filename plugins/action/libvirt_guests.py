# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A set of guests on libvirt, reached through the connection of the host on which they run."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from ansible_collections.sunset.crm.plugins.plugin_utils import relay
from ansible_collections.sunset.crm.plugins.plugin_utils.actions.account import Account
from ansible_collections.sunset.crm.plugins.plugin_utils.guests.action import GuestsAction
from ansible_collections.sunset.crm.plugins.plugin_utils.libvirt import save as libvirt_save, way as libvirt_way
from ansible_collections.sunset.crm.plugins.plugin_utils.libvirt.engine import Engine

OWN: dict[str, Any] = {
    "uri": {"type": "str", "default": "qemu:///system"},
    "snapshot": {"type": "str", "choices": ["none", "internal", "external"], "default": "none"},
    "copy": {"type": "bool", "default": False},
}


class ActionModule(GuestsAction):
    """stopped, saved, started, of one libvirt."""

    own_spec = OWN

    def opened(self, options: dict[str, Any]) -> AbstractContextManager[Engine]:
        return libvirt_way.opened(relay.from_connection(self._connection), options["uri"], options["guests"], options["staging"])

    def save(self, hypervisor: Engine, account: Account, options: dict[str, Any], former: dict[str, Any], check: bool) -> dict[str, Any]:
        wish = libvirt_save.Wish(options["staging"], options["snapshot"], options["copy"])
        reach = relay.from_connection(self._connection)
        return libvirt_save.save(hypervisor, account, reach, options["guests"], former, wish, check)
