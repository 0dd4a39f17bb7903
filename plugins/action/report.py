# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write the report from plan, ledger, statements and certificates."""

from __future__ import annotations

import json
from typing import Any

from ansible_collections.sunset.crm.plugins.plugin_utils import certificate, ledger, orders, picture, report, statements
from ansible_collections.sunset.crm.plugins.plugin_utils.control import ControlAction
from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.estate import Estate
from ansible_collections.sunset.crm.plugins.plugin_utils.files import write
from ansible_collections.sunset.crm.plugins.plugin_utils.view import build


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
        certificates = [certificate.summary(json.loads(path.read_bytes())) for path in sorted(estate.certificates_folder.glob("*.json"))]
        ordered = [orders.summary(json.loads(path.read_bytes())) for path in sorted(estate.orders_folder.glob("*.json"))]
        content = report.facts(plan, build(entries, plan=plan), entries, words, approver, certificates, ordered, ledger.now())
        path = estate.report_folder / "index.html"
        if not check:
            write(path, report.page({**content, "standing": picture.page_of(plan)}).encode())
            write(estate.report_folder / "report.json", (json.dumps(content, indent=1, sort_keys=True) + "\n").encode())
        return {"changed": False, "path": str(path), "rows": content["rows"], "msg": f"the report lies in {path}"}
