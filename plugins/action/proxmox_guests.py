# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A set of guests of one Proxmox VE cluster, reached from the control node by its API."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from ansible_collections.sunset.crm.plugins.plugin_utils import relay
from ansible_collections.sunset.crm.plugins.plugin_utils.actions.account import Account
from ansible_collections.sunset.crm.plugins.plugin_utils.guests.action import GuestsAction
from ansible_collections.sunset.crm.plugins.plugin_utils.proxmox import copies as proxmox_copies, saves as proxmox_saves
from ansible_collections.sunset.crm.plugins.plugin_utils.proxmox.api import Api
from ansible_collections.sunset.crm.plugins.plugin_utils.proxmox.cluster import Cluster

OWN: dict[str, Any] = {
    "api": {"type": "dict", "required": True},
    "keep_off": {"type": "bool", "default": True},
    "lock_wait": {"type": "float", "default": 600},
    "snapshot": {"type": "bool", "default": False},
    "snapshot_name": {"type": "str", "default": "sunset-retire"},
    "copy": {"type": "bool", "default": False},
    "storage": {"type": "str"},
    "copy_timeout": {"type": "float", "default": 6 * 3600},
    "leave_out": {"type": "list", "elements": "str", "default": []},
}


class ActionModule(GuestsAction):
    """stopped, started, saved; one call for the whole set."""

    own_spec = OWN

    def opened(self, options: dict[str, Any]) -> AbstractContextManager[Any]:
        return self._open(options)

    @contextmanager
    def _open(self, options: dict[str, Any]) -> Iterator[Cluster]:
        identity = options["identity"]
        with (
            Api(options["api"]) as api,
            Cluster(
                api,
                options["guests"],
                options["timeout"],
                options["force_after"],
                options["keep_off"],
                options["lock_wait"],
                known_as=str((identity.get("hypervisor") or {}).get("cluster") or ""),
                ids=identity.get("ids"),
            ) as cluster,
        ):
            cluster.tell = lambda text: self._display.display(f"{options['item']}: {text}")
            # What the save will need is asked for before the stop: a right that is missing then would leave guests off and unsaved.
            saving = [*(["snapshot"] if options["snapshot"] else []), *(["backup"] if options["copy"] else [])]
            verbs = {"stopped": ["stopped", *saving], "saved": saving or ["survey"]}.get(options["state"], [options["state"]])
            found = cluster.prepare(verbs, (options["storage"] or "") if options["copy"] else "", options["former"])
            if not self._task.check_mode:
                cluster.settle(found)
            yield cluster

    def save(self, hypervisor: Any, account: Account, options: dict[str, Any], *rest: Any) -> dict[str, Any]:
        check = bool(rest[-1])  # nothing here depends on what was there before
        wish = proxmox_copies.Wish(
            options["item"],
            options["guests"],
            options["staging"],
            options["snapshot_name"] if options["snapshot"] else "",
            (options["storage"] or "") if options["copy"] else None,
            frozenset(options["leave_out"]),
            options["timeout"],
            options["copy_timeout"],
        )
        return proxmox_saves.save(hypervisor, account, relay.from_connection(self._connection), wish, check)
