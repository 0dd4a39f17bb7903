# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Show early what the gate of a phase will ask; the check that counts lies inside each act."""

from __future__ import annotations

from typing import Any

from ansible_collections.sunset.crm.plugins.plugin_utils.actions.control import ControlAction
from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.record.estate import Estate
from ansible_collections.sunset.crm.plugins.plugin_utils.runs.session import Session
from ansible_collections.sunset.crm.plugins.plugin_utils.steps import gates, gates_wipe, grounds, steps

GATES = {
    "power off": (("host_power", "off"), ("host",)),
    "power off of hypervisors": (("host_power", "off"), ("host",)),
    "wipe": (("media_wipe", None), ("medium",)),
}


class ActionModule(ControlAction):
    """See plugins/modules/run_gate.py."""

    def act(self, estate: Estate, args: dict[str, Any], task_vars: dict[str, Any], check: bool) -> dict[str, Any]:
        if args.get("gate") not in GATES:
            raise Refusal(f"run_gate: gate is {args.get('gate')!r}; expected one of {', '.join(GATES)}")
        session = Session.of(estate, check)
        (module, state), kinds = GATES[args["gate"]]
        step = steps.find(module, {"state": state})
        context = session.context()
        # Their turn comes when the hosts that run inside their guests are off.
        late = session.plan.hypervisors() if step.aspect == "power" else set()
        second = args["gate"] == "power off of hypervisors"
        items = [
            item
            for item in session.plan.of(*kinds)
            if item["wave"] in session.run["waves"] and (step.aspect != "power" or (item["host"] in late) == second)
        ]
        lacks = {
            item["id"]: [str(lack) for lack in gates.missing(step, item, context) if not _own_order(item, lack, step)]
            for item in items
            if session.view.value(item["id"], step.aspect) != step.value
        }
        copied = [] if check else session.copy_out(required=True)
        if any(lacks.values()):
            # No play after this one will run: the run ends here, on record.
            session.close([item_id for item_id, found in lacks.items() if found])
            lines = [f"  {item_id}:\n" + "\n".join(f"    - {lack}" for lack in found) for item_id, found in lacks.items() if found]
            return {"failed": True, "changed": False, "msg": f"the gate of '{args['gate']}' is closed:\n" + "\n".join(lines)}
        return {"changed": False, "open_for": sorted(lacks), "copies": copied}


def _own_order(item: dict[str, Any], lack: grounds.Missing, step: steps.Step) -> bool:
    """What this very phase does first, tier by tier, is no reason to stop before it."""
    if step.aspect == "wipe":
        return lack.what == gates_wipe.NOT_IN_RESCUE
    return step.aspect == "power" and lack.item.startswith("host:") and lack.what.partition(",")[0].endswith(("(power)", "(cluster)"))
