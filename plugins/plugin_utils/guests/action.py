# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The class under the action plugins of virtual machines: options, memory in the ledger, the verb. A backend opens its hypervisor."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

from ansible_collections.sunset.crm.plugins.plugin_utils.actions.account import Account
from ansible_collections.sunset.crm.plugins.plugin_utils.actions.arguments import check_force, checked
from ansible_collections.sunset.crm.plugins.plugin_utils.actions.recording import RecordedAction
from ansible_collections.sunset.crm.plugins.plugin_utils.errors import NotYet
from ansible_collections.sunset.crm.plugins.plugin_utils.guests import verbs as guest_verbs
from ansible_collections.sunset.crm.plugins.plugin_utils.record import ledger
from ansible_collections.sunset.crm.plugins.plugin_utils.record.estate import Estate

# The options that the modules of all backends have.
SPEC: dict[str, Any] = {
    "state": {"type": "str", "required": True, "choices": ["stopped", "started", "saved"]},
    "guests": {"type": "list", "elements": "str", "required": True},
    "identity": {"type": "dict", "default": {}},
    "others": {"type": "list", "elements": "str", "default": []},
    "hosts": {"type": "dict", "default": {}},
    "ran": {"type": "list", "elements": "str", "default": []},
    "timeout": {"type": "float", "default": 300},
    "force_after": {"type": "float"},
    "force_allowed_by": {"type": "str"},
    "former": {"type": "dict"},
    "staging": {"type": "str", "required": True},
}
PAUSE = 1.0
RULES: dict[str, Any] = {"required_by": {"force_after": ["force_allowed_by"]}}


def remembered(entries: Iterable[ledger.Entry], item: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What runs noted before they changed anything, unless it was put back since: the former state, and who was asked when. Pure."""
    former: dict[str, Any] = {}
    asked: dict[str, Any] = {}
    for entry in entries:
        record = entry.record
        if record.get("item") != item or record.get("aspect") != "guest":
            continue
        if record.get("kind") == "found":
            former = dict(record.get("former") or {})
        elif record.get("kind") == "asked":
            asked[str(record["guest"])] = {"life": record.get("life"), "at": record.get("at_seconds")}
        elif record.get("kind") == "forced":
            asked.setdefault(str(record["guest"]), {})["forced"] = record.get("allowed_by")
        elif record.get("kind") == "outcome" and record.get("back") and record.get("status") == "done":
            former, asked = {}, {}
    return former, asked


class GuestsAction(RecordedAction):
    """stopped, saved, started; one call for the whole set."""

    own_spec: Mapping[str, Any] = {}

    def opened(self, options: dict[str, Any]) -> AbstractContextManager[Any]:
        """The hypervisor (C(guest_verbs.Hypervisor)), for the time of one call. Its rights are checked before it is handed out."""
        raise NotImplementedError

    def save(self, hypervisor: Any, account: Account, options: dict[str, Any], former: dict[str, Any], check: bool) -> dict[str, Any]:
        """Put away what the guests are: artefacts in the staging place, with digests."""
        raise NotImplementedError

    @contextmanager
    def _opened_in_time(self, options: dict[str, Any], patience: float) -> Iterator[Any]:
        """opened(), again and again while it may only not be up yet."""
        deadline = time.monotonic() + patience
        with ExitStack() as stack:
            while True:
                try:
                    hypervisor = stack.enter_context(self.opened(options))
                    break
                except NotYet:
                    if time.monotonic() >= deadline:
                        raise
                    time.sleep(PAUSE)
            yield hypervisor

    def perform(self, args: dict[str, Any], task_vars: dict[str, Any], check: bool) -> dict[str, Any]:
        options = checked(self.name, {**SPEC, **self.own_spec}, args, **RULES)
        check_force(options, "a guest")
        account = Account(self.name, options["item"])
        book = Estate.at(task_vars.get("sunset_estate_dir")).ledger_file
        former, asked = remembered(ledger.read(book), options["item"])
        former = options["former"] = {**former, **(options["former"] or {})}

        def note(found: dict[str, Any]) -> None:
            ledger.append(book, {"item": options["item"], "aspect": "guest", **found})

        # A resume has just switched the hypervisor on; its daemon comes up after its SSH, its cluster's quorum later still.
        patience = options["timeout"] if options["state"] == "started" and not check else 0.0
        with self._opened_in_time(options, patience) as hypervisor:
            if options["state"] == "started":
                return guest_verbs.start(hypervisor, account, former, options["timeout"], check)
            if options["state"] == "saved":
                return self.save(hypervisor, account, options, former, check)
            order = guest_verbs.Order(
                options["guests"],
                options["hosts"],
                options["ran"],
                options["timeout"],
                options["force_after"],
                options["force_allowed_by"] or "",
                options["identity"],
            )
            return guest_verbs.stop(hypervisor, account, order, guest_verbs.Memory(former, asked, note), check)
