# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The containers of one stack, reached through the connection of the host on which their engine runs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ansible_collections.sunset.crm.plugins.plugin_utils import docker_verbs, ledger, relay
from ansible_collections.sunset.crm.plugins.plugin_utils.account import Account
from ansible_collections.sunset.crm.plugins.plugin_utils.arguments import checked
from ansible_collections.sunset.crm.plugins.plugin_utils.docker_engine import Engine
from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.estate import Estate
from ansible_collections.sunset.crm.plugins.plugin_utils.recording import RecordedAction

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
    "staging": {"type": "str"},
}
RULES: dict[str, Any] = {
    "required_if": [("state", "saved", ["staging", "containers"]), ("state", "stopped", ["containers"])],
    "required_by": {"force_after": ["force_allowed_by"]},
}


def remembered(entries: Iterable[ledger.Entry], item: str) -> dict[str, Any]:
    """The former state that a run noted before its first change, unless it was put back since."""
    former: dict[str, Any] = {}
    for entry in entries:
        record = entry.record
        if record.get("item") != item or record.get("aspect") != "guest":
            continue
        if record.get("kind") == "found":
            former = dict(record.get("former") or {})
        elif record.get("kind") == "outcome" and record.get("back") and record.get("status") == "done":
            former = {}
    return former


class ActionModule(RecordedAction):
    """stopped, saved, started; one call for the whole set."""

    def perform(self, args: dict[str, Any], task_vars: dict[str, Any], check: bool) -> dict[str, Any]:
        options = checked(self.name, SPEC, args, **RULES)
        if options["force_after"] is not None and options["force_after"] >= options["timeout"]:
            raise Refusal("force_after must be shorter than timeout, or a killed container has no time left to be seen off")
        account = Account(self.name, options["item"])
        book = Estate.at(task_vars.get("sunset_estate_dir")).ledger_file
        former = {**remembered(ledger.read(book), options["item"]), **(options["former"] or {})}

        def note(found: dict[str, Any]) -> None:
            ledger.append(book, {"kind": "found", "item": options["item"], "aspect": "guest", **found})

        reach = relay.from_connection(self._connection)
        with (
            relay.Relay(reach, options["socket"]) as way,
            Engine(way.address, options["label"], way=way, others=options["others"]) as engine,
        ):
            if options["state"] == "stopped":
                return docker_verbs.stop(
                    engine,
                    account,
                    options["containers"],
                    docker_verbs.Limits(options["timeout"], options["force_after"], options["force_allowed_by"] or ""),
                    former,
                    note,
                    check,
                )
            if options["state"] == "started":
                return docker_verbs.start(engine, account, former, options["timeout"], check)
            return docker_verbs.save(engine, account, reach, options["item"], options["containers"], options["staging"], check)
