# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The dry run of the wipe: decide for every medium that the machines showed, and write it down."""

from __future__ import annotations

import json
import os
from typing import Any

from ansible.utils.display import Display

from ansible_collections.sunset.crm.plugins.module_utils import _disk_facts
from ansible_collections.sunset.crm.plugins.plugin_utils import ledger, media
from ansible_collections.sunset.crm.plugins.plugin_utils.control import ControlAction, host_variables
from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.estate import Estate
from ansible_collections.sunset.crm.plugins.plugin_utils.files import write
from ansible_collections.sunset.crm.plugins.plugin_utils.recording import plain
from ansible_collections.sunset.crm.plugins.plugin_utils.view import build


def own_disks(estate: Estate) -> list[dict[str, Any]]:
    """The control node's own media: its system, and where the estate's folder lies. The kernel is asked, no disk is woken."""
    found = _disk_facts.read(ask=False)["devices"]
    device = os.stat(estate.root).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    names = {name for fact in found if fact["root"] == "yes" or fact["number"] == number for name in (fact["name"], *fact["below"])}
    return [media.name_of(fact) for fact in found if fact["name"] in names]


class ActionModule(ControlAction):
    """See plugins/modules/media_plan.py."""

    def act(self, estate: Estate, args: dict[str, Any], task_vars: dict[str, Any], check: bool) -> dict[str, Any]:
        groups = plain(task_vars["groups"])
        policy = media.wanted(args.get("policy"))
        names = list(dict.fromkeys([*groups.get("sunset_estate", []), *groups.get("sunset_stations", [])]))
        if not names:
            raise Refusal("the inventory has no host in the groups sunset_estate and sunset_stations; see inventories/example")
        plan = estate.plan() if estate.plan_file.exists() else None
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
        protected = [*own_disks(estate), *media.of_vaults({name: disks for name, disks in vaults.items() if disks})]
        found = media.fleet(hosts, plan.of("medium") if plan else None, policy, protected)
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
