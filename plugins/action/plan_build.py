# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Turn the surveys of all hosts into the plan file."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible_collections.sunset.crm.plugins.module_utils._survey import machine as survey_machine
from ansible_collections.sunset.crm.plugins.plugin_utils.actions.control import ControlAction, host_variables
from ansible_collections.sunset.crm.plugins.plugin_utils.actions.recording import plain
from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.files import write
from ansible_collections.sunset.crm.plugins.plugin_utils.planning import jumping, picture, plan as plans, standing, survey
from ansible_collections.sunset.crm.plugins.plugin_utils.power import booting
from ansible_collections.sunset.crm.plugins.plugin_utils.power.witness import check_alone, described, read as read_witness
from ansible_collections.sunset.crm.plugins.plugin_utils.record import copies, ledger
from ansible_collections.sunset.crm.plugins.plugin_utils.record.estate import Estate
from ansible_collections.sunset.crm.plugins.plugin_utils.record.view import build
from ansible_collections.sunset.crm.plugins.plugin_utils.vaults import verifying


def _of_hosts_off(estate: Estate) -> dict[str, dict[str, Any]]:
    """Host -> its items and findings in the last plan, for hosts that the ledger and their outside witness say are off."""
    if not estate.plan_file.exists():
        return {}
    last = estate.plan()
    view = build(ledger.read(estate.ledger_file), plan=last)
    return {
        item["host"]: {
            "items": [one for one in last.items.values() if one["host"] == item["host"]],
            "findings": [found for found in last.data.get("findings", []) if found["host"] == item["host"]],
        }
        for item in last.of("host")
        if view.is_off(item["id"]) and read_witness(item["expects"]["power"])["power"] == "off"
    }


def _retired(facts: dict[str, Any]) -> list[str]:
    """The guests of a host that its sets name."""
    return [str(name) for item in facts["items"] if item.get("kind") == "guest" for name in item.get("guests") or []]


class ActionModule(ControlAction):
    """See plugins/modules/plan_build.py."""

    def act(self, estate: Estate, args: dict[str, Any], task_vars: dict[str, Any], check: bool) -> dict[str, Any]:
        groups = plain(task_vars["groups"])
        names = groups.get(args.get("group", "sunset_estate"), [])
        if not names:
            raise Refusal("the inventory has no host in the group sunset_estate; see inventories/example")
        kept = _of_hosts_off(estate)
        hosts = {name: {**self._facts(name, task_vars, args), "kept": kept.get(name)} for name in names}
        data, lacks = survey.build(self._estate_facts(args, groups, task_vars), hosts)
        if lacks:
            raise Refusal(
                "the survey found less than the inventory expects; no plan was written:\n"
                + "\n".join(f"  - {lack}" for lack in lacks)
                + "\nMend the estate or the inventory, then survey again."
            )
        kept_rows = self._kept(hosts, args, task_vars)
        if dark := [row for row in kept_rows if row["verdict"] == standing.DARK]:
            raise Refusal(
                "what is needed to the end stands on what goes off; no plan was written:\n"
                + "\n".join(f"  - the {row['role']} {row['name']}: {row['why']}" for row in dark)
                + "\nMove it, or take that host out of the estate, then survey again."
            )
        if unseen := [row for row in kept_rows if row["role"] == "vault" and row["why"] == standing.UNSEEN]:
            # The other unknowns can be seen from nowhere here; this one can be mended.
            raise Refusal(
                "nobody knows what these vaults stand on; no plan was written:\n"
                + "\n".join(f"  - the vault {row['name']}: {row['why']}" for row in unseen)
                + "\nIs it on, is it in the group sunset_vaults, does Ansible log in there? Mend that, then survey again."
            )
        text = (json.dumps(data, indent=1, sort_keys=True) + "\n").encode()
        plan = plans.parse(text)
        old = estate.plan_file.read_bytes() if estate.plan_file.exists() else b""
        if old != text and not check:
            write(estate.plan_file, text)
        tree = picture.tree(plan, kept_rows)
        if not check:
            write(estate.plan_file.with_name("standing.txt"), tree.encode())
            write(estate.plan_file.with_name("standing.svg"), picture.svg(plan).encode())
        diff = difflib.unified_diff(old.decode().splitlines(True), text.decode().splitlines(True), "plan before", "plan after")
        return {
            "changed": old != text,
            "diff": {"prepared": "".join(diff)},
            "plan": {"path": str(estate.plan_file), "sha256": plan.sha256, "items": len(plan.items)},
            "standing": {
                "path": str(estate.plan_file.with_name("standing.txt")),
                "tree": tree.splitlines(),
                "unknown": [f"{row['role']} {row['name']}: {row['why']}" for row in kept_rows if row["verdict"] == standing.UNKNOWN],
            },
            "unclassified": [f"{found['host']}: {found['id']} ({found['what']})" for found in plan.unclassified()],
            "foreign": [f"{found['host']}: {found['id']} ({found['what']})" for found in plan.foreign()],
        }

    def _kept(self, hosts: dict[str, dict[str, Any]], args: dict[str, Any], task_vars: dict[str, Any]) -> list[dict[str, str]]:
        """Whether control node, vaults, jump hosts and resolvers stand on a host of the estate. A host that is off carries none of them."""
        control = plain(survey_machine.machine())
        machines = {
            name: standing.staying(facts["survey"]["machine"], _retired(facts))
            if facts["stays"]
            else {**facts["survey"]["machine"], "reached_at": facts["reach"]["address"]}
            for name, facts in hosts.items()
            if (facts["survey"] or {}).get("machine")
        }
        vaults: dict[str, Any] = {}
        jump_hosts: dict[str, tuple[Any, str]] = {}
        for name in [*hosts, *args["vaults"]]:
            variables = host_variables(task_vars, name)
            jump_hosts.update(jumping.of_machine(name, variables))
            if name in args["vaults"]:
                seen = plain((variables.get("sunset_machine_seen") or {}).get("machine") or None)
                vaults[name] = control if copies.on_control_node(variables) else seen
        return standing.kept(control, vaults, jump_hosts, machines)

    def _facts(self, name: str, task_vars: dict[str, Any], args: dict[str, Any]) -> dict[str, Any]:
        variables = host_variables(task_vars, name)
        for wanted in ("sunset_wave", "sunset_power", "sunset_items"):
            if wanted not in variables and not (wanted == "sunset_power" and variables.get("sunset_stays")):
                raise Refusal(f"the inventory gives {name} no {wanted}; see inventories/example")
        stays = plain(variables.get("sunset_stays") or False)
        if not isinstance(stays, bool):
            raise Refusal(f"sunset_stays of {name} is {stays!r}; expected true or false")
        virtual = plain(variables.get("sunset_virtual_disks") or {})
        if not isinstance(virtual, dict) or set(virtual) - {"remove", "pool_limit"} or not isinstance(virtual.get("remove", False), bool):
            raise Refusal(f"sunset_virtual_disks of {name} is {virtual!r}; expected remove (true or false) and pool_limit (per cent)")
        power = plain(variables.get("sunset_power") or {"kind": "none"}) if stays else plain(variables["sunset_power"])
        rescue_boot = plain(variables.get("sunset_rescue_boot") or {})
        try:
            if not stays:
                check_alone(described(power))
            if rescue_boot:
                booting.described(rescue_boot)
        except Refusal as exc:
            raise Refusal(f"{name}: {exc}") from None
        address = str(variables.get("ansible_host", name))
        seen = variables.get(args["register"]) or {}
        found = plain(seen.get("survey")) if not seen.get("failed") else None
        if found:
            guests = variables.get(args["guests"]) or {}
            found["expected"] = {**found.get("expected", {}), **plain(guests.get("expected") or {})}
            found["findings"] = [*found.get("findings", []), *plain(guests.get("findings") or [])]
        return {
            "wave": str(variables["sunset_wave"]),
            "power": power,
            "stays": stays,
            "virtual": virtual,
            "items": plain(variables["sunset_items"]),
            "rescue": plain(variables.get("sunset_rescue") or {}),
            "survey": found,
            "profiles": plain(variables.get("survey_profiles") or {}),
            "guest": self._guest(name, variables),
            "rescue_boot": rescue_boot,
            "stands_on": [str(one) for one in plain(variables.get("sunset_stands_on") or [])],
            "reach": {
                "address": str(variables.get("sunset_pull_address", address)),
                "port": int(variables.get("ansible_port") or 22),
                "user": str(variables.get("ansible_user") or "root"),
                "host_key": (found or {}).get("ssh_host_key", ""),
            },
        }

    def _guest(self, name: str, variables: Mapping[str, Any]) -> dict[str, str]:
        """The guest that this host runs inside, if it is one: the set (C(guest:NAME)) and its name there."""
        told = plain(variables.get("sunset_guest") or {})
        if told and (not isinstance(told, dict) or not str(told.get("item", "")).startswith("guest:")):
            raise Refusal(f"sunset_guest of {name} is {told!r}; expected {{item: guest:SET, name: NAME}}, the set that it is a guest of")
        return {"item": str(told["item"]), "name": str(told.get("name") or name)} if told else {}

    def _vault(self, variables: Mapping[str, Any]) -> dict[str, Any]:
        """ledger_copy: whether the vault has the append-only place; pinned here, so that no later variable drops it."""
        copied = bool(variables.get("sunset_ledger_receiver")) and not copies.on_control_node(variables)
        found: dict[str, Any] = {"root": str(variables.get("sunset_vault_root", "")), "ledger_copy": copied}
        for name in ("live_dir", "scratch"):
            if variables.get(f"sunset_vault_{name}"):
                found[name] = str(variables[f"sunset_vault_{name}"])
        if shelf := variables.get("sunset_vault_shelf"):
            found["shelf"] = plain(verifying.shelf_settings(shelf))
        return found

    def _estate_facts(self, args: dict[str, Any], groups: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        signers = Path(str(args["allowed_signers"])).expanduser()
        if not signers.is_file():
            raise Refusal(
                f"there is no allowed-signers file {signers}; it holds the public keys of those who approve (docs/operator/prepare.md, 'Who may sign what')"
            )
        vaults = {name: self._vault(host_variables(task_vars, name)) for name in args["vaults"]}
        unknown = [name for name, detail in vaults.items() if not detail["root"]]
        if unknown:
            raise Refusal(f"the inventory gives the vault {', '.join(unknown)} no sunset_vault_root")
        names = ("estate", "waves", "custodians", "settings", "classified", "control")
        return {
            **{name: args[name] for name in names if name in args},
            "profiles": [Path(str(args["profile_folder"])).expanduser()] if args.get("profile_folder") else [],
            "vaults": vaults,
            "allowed_signers": signers.read_text(encoding="utf-8"),
        }
