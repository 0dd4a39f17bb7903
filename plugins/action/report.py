# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write the report from plan, ledger, statements and certificates."""

from __future__ import annotations

import json
from typing import Any

from ansible_collections.sunset.crm.plugins.plugin_utils.actions.control import ControlAction
from ansible_collections.sunset.crm.plugins.plugin_utils.certificates import certificate, certify, orders
from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.files import write
from ansible_collections.sunset.crm.plugins.plugin_utils.people import statements
from ansible_collections.sunset.crm.plugins.plugin_utils.planning import picture
from ansible_collections.sunset.crm.plugins.plugin_utils.record import ledger
from ansible_collections.sunset.crm.plugins.plugin_utils.record.estate import Estate
from ansible_collections.sunset.crm.plugins.plugin_utils.record.view import build
from ansible_collections.sunset.crm.plugins.plugin_utils.runs import report


class ActionModule(ControlAction):
    """See plugins/modules/report.py."""

    def act(self, estate: Estate, args: dict[str, Any], task_vars: dict[str, Any], check: bool) -> dict[str, Any]:
        plan = estate.plan()
        entries = ledger.read(estate.ledger_file)
        words = statements.read(estate.statements_folder, plan)
        try:
            approver = estate.approver(plan)
        except Refusal as exc:
            approver = f"nobody ({exc})"
        view = build(entries, plan=plan)
        # What a file in that folder says counts where the ledger and the run key say the same.
        fallen = certify.standing(estate, plan, view)
        certificates = [
            {
                **certificate.summary(json.loads((estate.certificates_folder / name).read_bytes())),
                **({"result": f"DOES NOT COUNT: {why}"} if why else {}),
            }
            for name, why in fallen.items()
        ]
        ordered = [orders.summary(json.loads(path.read_bytes())) for path in sorted(estate.orders_folder.glob("*.json"))]
        content = report.facts(plan, view, entries, words, approver, certificates, ordered, ledger.now())
        path = estate.report_folder / "index.html"
        if not check:
            write(path, report.page({**content, "standing": picture.page_of(plan)}).encode())
            write(estate.report_folder / "report.json", (json.dumps(content, indent=1, sort_keys=True) + "\n").encode())
        return {"changed": False, "path": str(path), "rows": content["rows"], "msg": f"the report lies in {path}"}
