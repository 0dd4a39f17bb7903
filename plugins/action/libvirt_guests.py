# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A set of guests on libvirt."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.guest_action import GuestsAction

OWN: dict[str, Any] = {
    "uri": {"type": "str", "default": "qemu:///system"},
    "snapshot": {"type": "str", "choices": ["none", "internal", "external"], "default": "none"},
    "copy": {"type": "bool", "default": False},
}


class ActionModule(GuestsAction):
    """Not in this version yet."""

    own_spec = OWN

    def opened(self, options: dict[str, Any]) -> AbstractContextManager[Any]:
        raise Refusal("guests on libvirt are not handled in this version yet; nothing was changed")
