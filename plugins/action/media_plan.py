# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The dry run of the wipe: decide for every medium that the machines showed, and write it down."""

from __future__ import annotations

import json
from typing import Any

from ansible.utils.display import Display

from ansible_collections.sunset.crm.plugins.plugin_utils.actions.control import ControlAction, host_variables
from ansible_collections.sunset.crm.plugins.plugin_utils.actions.recording import plain
from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.files import write
from ansible_collections.sunset.crm.plugins.plugin_utils.people import key_copies, statements
from ansible_collections.sunset.crm.plugins.plugin_utils.planning import media
from ansible_collections.sunset.crm.plugins.plugin_utils.record import ledger
from ansible_collections.sunset.crm.plugins.plugin_utils.record.estate import Estate
from ansible_collections.sunset.crm.plugins.plugin_utils.record.view import build


class ActionModule(ControlAction):
    """See plugins/modules/media_plan.py."""

    def act(self, estate: Estate, args: dict[str, Any], task_vars: dict[str, Any], check: bool) -> dict[str, Any]:
        groups = plain(task_vars["groups"])
        names = list(dict.fromkeys([*groups.get("sunset_estate", []), *groups.get("sunset_stations", [])]))
        if not names:
            raise Refusal("the inventory has no host in the groups sunset_estate and sunset_stations; see inventories/example")
        plan = estate.plan() if estate.plan_file.exists() else None
        policy = media.wanted(args.get("policy") or (plan.setting("wipe_policy", None) if plan else None))
        view = build(ledger.read(estate.ledger_file), plan=plan) if plan else None

        def answer(name: str) -> dict[str, Any] | None:
            seen = host_variables(task_vars, name).get(args.get("register", "sunset_disks")) or {}
            disks = plain(seen.get("disks"))
            return disks if isinstance(disks, dict) and isinstance(disks.get("devices"), list) else None

        # A host that is proven off cannot answer; its media are looked for where they are to be wiped.
        hosts = {
            name: answer(name)
            for name in names
            if not (view and f"host:{name}" in (plan.items if plan else {}) and view.is_off(f"host:{name}"))
        }
        vaults = {name: answer(name) for name in groups.get("sunset_vaults", [])}
        protected = [*media.own_disks(estate.root), *media.of_vaults({name: disks for name, disks in vaults.items() if disks})]
        signed = key_copies.policies(plan, statements.read(estate.statements_folder, plan)) if plan else {}
        found = media.fleet(hosts, plan.of("medium") if plan else None, policy, protected, signed)
        found["silent_vaults"] = sorted(name for name, disks in vaults.items() if disks is None)
        lines = media.table(found)
        for line in [*lines, f"decisions {found['sha256'][:12]}"]:
            # Not by a debug task: it would break the lines of the table.
            Display().display(line)
        path = estate.report_folder / "media.json"
        if not check:
            write(path, (json.dumps(found, indent=1, sort_keys=True) + "\n").encode())
            write(estate.report_folder / "media.txt", ("\n".join(lines) + "\n").encode())
        return {
            "changed": False,
            "path": str(path),
            "table": lines,
            "rows": found["rows"],
            "seconds": sum(row["seconds"] or 0 for row in found["rows"]),
            "sha256": found["sha256"],
            "problem": media.verdict(found) or "",
        }
