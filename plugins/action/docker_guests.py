# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The containers of one stack, reached through the connection of the host on which their engine runs."""

from __future__ import annotations

from typing import Any

from ansible_collections.sunset.crm.plugins.plugin_utils import relay
from ansible_collections.sunset.crm.plugins.plugin_utils.actions.account import Account
from ansible_collections.sunset.crm.plugins.plugin_utils.actions.arguments import check_force, checked
from ansible_collections.sunset.crm.plugins.plugin_utils.actions.recording import RecordedAction
from ansible_collections.sunset.crm.plugins.plugin_utils.docker import verbs as docker_verbs, way as docker_way
from ansible_collections.sunset.crm.plugins.plugin_utils.docker.engine import Engine
from ansible_collections.sunset.crm.plugins.plugin_utils.guests import action as guest_action, lost_sight, verbs as guest_verbs
from ansible_collections.sunset.crm.plugins.plugin_utils.record import ledger
from ansible_collections.sunset.crm.plugins.plugin_utils.record.estate import Estate

SPEC: dict[str, Any] = {
    "state": {"type": "str", "required": True, "choices": ["stopped", "started", "saved"]},
    "label": {"type": "str", "required": True},
    "containers": {"type": "list", "elements": "str"},
    "others": {"type": "list", "elements": "str", "default": []},
    "timeout": {"type": "float", "default": 120},
    "force_after": {"type": "float"},
    "force_allowed_by": {"type": "str"},
    "former": {"type": "dict"},
    "socket": {"type": "path", "default": "/var/run/docker.sock"},
    "held_units": {"type": "list", "elements": "str", "default": []},
    "owned": {"type": "dict", "default": {}},
    "engines": {"type": "dict", "default": {}},
    "staging": {"type": "str"},
    "prove": {"type": "bool", "default": False},
}
RULES: dict[str, Any] = {
    "required_if": [("state", "saved", ["staging", "containers"]), ("state", "stopped", ["containers"])],
    "required_by": {"force_after": ["force_allowed_by"]},
}


class ActionModule(RecordedAction):
    """stopped, saved, started; one call for the whole set."""

    def perform(self, args: dict[str, Any], task_vars: dict[str, Any], check: bool) -> dict[str, Any]:
        options = checked(self.name, SPEC, args, **RULES)
        check_force(options, "a container")
        account = Account(self.name, options["item"])
        book = Estate.at(task_vars.get("sunset_estate_dir")).ledger_file
        former, asked = guest_action.remembered(ledger.read(book), options["item"])
        former = {**former, **(options["former"] or {})}

        def note(found: dict[str, Any]) -> None:
            ledger.append(book, {"item": options["item"], "aspect": "guest", **found})

        reach = relay.from_connection(self._connection)
        if options["state"] != "started":
            docker_way.check_awake(reach, options["socket"])
        with (
            relay.Relay(reach, options["socket"]) as way,
            Engine(
                way.address,
                options["label"],
                way=way,
                others=options["others"],
                held_units=options["held_units"],
                owned=options["owned"],
                asked=asked,
                owners=lambda pids: docker_way.owners(reach, pids),
                strays=lambda ids: lost_sight.containers(reach, ids),
            ) as engine,
        ):
            if options["state"] == "started":
                return docker_verbs.start(engine, account, former, options["timeout"], check)
            if options["state"] == "saved":
                saving = docker_verbs.Saving(options["item"], options["containers"], options["staging"], options["prove"])
                return docker_verbs.save(engine, account, reach, saving, check)
            order = guest_verbs.Order(
                options["containers"],
                timeout=options["timeout"],
                force_after=options["force_after"],
                allowed_by=options["force_allowed_by"] or "",
            )
            return docker_verbs.stop(engine, account, order, guest_verbs.Memory(former, asked, note), check, options["engines"])
