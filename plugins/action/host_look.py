# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Survey a host once more before it goes off, and hold what is found there against the plan."""

from __future__ import annotations

from typing import Any

from ansible_collections.sunset.crm.plugins.plugin_utils.actions.account import Account
from ansible_collections.sunset.crm.plugins.plugin_utils.actions.recording import RecordedAction, plain
from ansible_collections.sunset.crm.plugins.plugin_utils.guests import reading as guest_reading
from ansible_collections.sunset.crm.plugins.plugin_utils.record.estate import Estate


class ActionModule(RecordedAction):
    """What came after the survey was approved (a database that somebody created meanwhile) must not go dark unseen."""

    def perform(self, args: dict[str, Any], task_vars: dict[str, Any], check: bool) -> dict[str, Any]:
        account = Account(self.name, args["item"])
        plan = Estate.at(task_vars.get("sunset_estate_dir")).plan()
        host = plan.items[args["item"]]["host"]
        seen = self._execute_module(
            module_name="sunset.crm.host_survey",
            module_args={"items": args["items"], "profiles": args["profiles"]},
            task_vars=task_vars,
        )
        if seen.get("failed") or "survey" not in seen:
            return account.failed(f"{host} could not be surveyed again: {seen.get('msg', 'no answer')}", {}, "unknown")
        machine, expected = seen["survey"].get("machine_id"), plan.items[args["item"]]["identity"].get("machine_id")
        if machine != expected:
            return account.failed(
                f"what answers for {host} is the machine {machine}, the plan has {expected}; find out which one it is", {}
            )
        known = {found["id"] for found in plan.data.get("findings", []) if found["host"] == host}
        # A hypervisor is asked itself, not the ledger: what runs there, and what came since.
        guests, more = guest_reading.read(self._connection, [one for one in args["items"] if one["kind"] == "guest"])
        found = [*plain(seen["survey"]["findings"]), *more]
        new = sorted(one["id"] for one in found if one["id"] not in known)
        account.after = {"machine_id": machine, "findings": sorted(one["id"] for one in found)}
        result = {"new": new, "machine_id": machine}
        running = [f"{name} ({detail})" for one in guests.values() for name, detail in one["running"].items()]
        if running and not check:
            return account.failed(
                f"{', '.join(sorted(running))} still runs, says the hypervisor {host}"
                + (f", and it has something new: {', '.join(new)}" if new else "")
                + ". Stop the set of guests (playbooks/shutdown.yml); plan what is new or have it classified, survey again, have the plan approved.",
                result,
            )
        if new:
            return account.failed(
                f"{host} has something that was not there when the plan was approved: {', '.join(new)}. Plan it or have it classified "
                "(sunset_classified), survey again, have the plan approved, and run the same command again.",
                result,
            )
        return account.done(False, "yes", result)
