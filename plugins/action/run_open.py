# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Open a run on the estate: identity typed in, plan approved, lock taken, machines named."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

from ansible_collections.sunset.crm.plugins.plugin_utils.actions.control import ControlAction, host_variables
from ansible_collections.sunset.crm.plugins.plugin_utils.actions.recording import plain
from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.people import signatures, statements
from ansible_collections.sunset.crm.plugins.plugin_utils.planning.plan import Plan
from ansible_collections.sunset.crm.plugins.plugin_utils.record import copies, ledger
from ansible_collections.sunset.crm.plugins.plugin_utils.record.estate import Estate, close_run, controller, open_run
from ansible_collections.sunset.crm.plugins.plugin_utils.record.view import build
from ansible_collections.sunset.crm.plugins.plugin_utils.runs import closing, runs
from ansible_collections.sunset.crm.plugins.plugin_utils.runs.session import login
from ansible_collections.sunset.crm.plugins.plugin_utils.vaults import packages


class ActionModule(ControlAction):
    """See plugins/modules/run_open.py."""

    def act(self, estate: Estate, args: dict[str, Any], task_vars: dict[str, Any], check: bool) -> dict[str, Any]:
        phase = args.get("phase")
        if phase not in runs.PHASES:
            raise Refusal(f"run_open: phase is {phase!r}; expected one of {', '.join(runs.PHASES)}")
        plan = estate.plan()
        if args.get("confirm") != plan.estate:
            raise Refusal(
                f"sunset_confirm is {args.get('confirm') or 'not set'}; to {phase} this estate, type its own name: "
                f"-e sunset_confirm={plan.estate}"
            )
        approver = estate.approver(plan)
        view = build(ledger.read(estate.ledger_file), plan=plan)
        pins = {"allowed_signers": ledger.line_hash(plan.allowed_signers.encode()), "run_key": _run_key(estate, check)}
        _same_keys(view.genesis, pins)
        if view.genesis is not None and not check and plan.setting("acceptance", "automatic") == "signed":
            # The word may have come in since the run that finished the wave.
            words = statements.read(estate.statements_folder, plan)
            closing.accept(estate.ledger_file, plan, view, words, plan.waves)
            view = build(ledger.read(estate.ledger_file), plan=plan)
        waves = runs.waves_of(phase, args.get("wave") or "", plan, view, check)
        words = statements.read(estate.statements_folder, plan)
        named = packages.named(words, view, datetime.now(UTC)) if phase == "expire" else []
        members = runs.expiring(plan, named) if phase == "expire" else runs.members(plan, waves)
        if not members:
            raise Refusal(
                "no signed statement names a package of this estate that is to be destroyed; nothing is destroyed because its retention has "
                "ended. Have one signed by another person (scripts/statement destroy) and put it into statements/"
            )
        absent = runs.unreached(members, [str(host) for host in task_vars.get("ansible_play_hosts_all", [])])
        if absent:
            limit = f" (--limit {task_vars['ansible_limit']})" if task_vars.get("ansible_limit") else ""
            raise Refusal(
                f"this run of wave {', '.join(waves)} needs machines that the play does not have{limit}: {', '.join(absent)}. "
                "A wave is retired whole: run the command without a limit, or change the plan."
            )
        silent = _silent_vaults(plan, waves, phase, task_vars)
        if phase != "expire":
            members = runs.members(plan, waves, silent, phase)
        elif away := {vault: why for vault, why in silent.items() if vault in {member["host"] for member in members}}:
            raise Refusal(f"a statement names packages on a vault that cannot be worked with: {_told(away)}. Mend it, then run it again.")
        receivers = [] if check else _receivers(plan.vaults, task_vars)
        pinned = [vault for vault in plan.vaults if plan.data["vaults"][vault].get("ledger_copy")]
        dropped = [vault for vault in pinned if not check and vault not in [receiver["vault"] for receiver in receivers]]
        if dropped:
            raise Refusal(
                f"the plan has the ledger copied to {', '.join(dropped)}, and the inventory gives no sunset_ledger_receiver for it any "
                "more. Put it back, or survey again and have the new plan approved."
            )
        receivers = [receiver for receiver in receivers if receiver["vault"] not in silent]
        if pinned and not receivers and not check:
            raise Refusal(
                f"no place answers that the ledger can be appended to: {_told(silent)}. Mend a vault, then run the same command again."
            )
        run = {
            "run": time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()) + f"-{controller()['pid']}",
            "estate": plan.estate,
            "phase": phase,
            "waves": waves,
            "operator": str(args.get("operator") or login()),
            "login": login(),
            "owner": controller(),
            "since": ledger.now(),
            "plan_sha256": plan.sha256,
            "check": check,
            "receivers": receivers,
            **({"packages": [list(pair) for pair in named]} if named else {}),
            "silent_vaults": silent,
            **({"vault_disks": _vault_disks(plan, task_vars)} if phase == "wipe" else {}),
        }
        open_run(estate, run)
        try:
            noted = packages.noted(words, view)
            copied = [] if check else self._record(estate, run, approver, None if view.genesis else pins, noted)
        except BaseException:
            close_run(estate)
            raise
        return {
            "changed": False,
            "run": run["run"],
            "waves": waves,
            "members": members,
            "silent_vaults": [f"{vault}: {why}" for vault, why in silent.items()],
            "tiers": sorted(set(runs.power_order(plan).values())),
            "interrupted": [f"{e.record['item']}: {e.record['aspect']} {e.record['value']} ({e.record['at']})" for e in view.interrupted],
            "copies": copied,
        }

    def _record(
        self, estate: Estate, run: dict[str, Any], approver: str, pins: dict[str, str] | None, noted: list[dict[str, Any]]
    ) -> list[dict[str, Any]]:
        if pins is not None:
            ledger.append(estate.ledger_file, {"kind": "genesis", "estate": run["estate"], **pins})
        public = {key: value for key, value in run.items() if key not in ("receivers", "owner")}
        public["append_only"] = [receiver["vault"] for receiver in run["receivers"]]
        ledger.append(estate.ledger_file, {"kind": "run", "state": "open", "approver": approver, **public, **run["owner"]})
        for word in noted:
            ledger.append(estate.ledger_file, word)
        return copies.send(estate, run["receivers"], required=True)


def _silent_vaults(plan: Plan, waves: list[str], phase: str, task_vars: dict[str, Any]) -> dict[str, str]:
    """Vaults that cannot be worked with, and why. Raises Refusal where too few are left, before anything is touched."""
    seen = {vault: plain(host_variables(task_vars, vault).get("sunset_vault_seen") or {}) for vault in plan.vaults}
    silent = runs.silent(plan, waves, phase, seen)
    answer, needed = len(plan.vaults) - len(silent), runs.vaults_needed(plan, phase)
    if answer < needed:
        raise Refusal(
            f"{answer} of {len(plan.vaults)} vaults answer as they must, this {phase} needs {needed}; nothing was touched. "
            f"{_told(silent)}. Mend that, then run the same command again."
        )
    return silent


def _vault_disks(plan: Plan, task_vars: dict[str, Any]) -> dict[str, Any]:
    """The disks that each vault has in use, by its own word; None where it gave none. The wipe refuses them, and does not begin without."""
    found: dict[str, Any] = {}
    for vault in plan.vaults:
        seen = plain(host_variables(task_vars, vault).get("sunset_vault_seen") or {})
        disks = (seen.get("vault") or {}).get("disks")
        found[vault] = disks if isinstance(disks, list) and all(isinstance(disk, dict) for disk in disks) else None
    return found


def _told(silent: dict[str, str]) -> str:
    return "; ".join(f"{vault}: {why}" for vault, why in silent.items()) or "the inventory names none"


def _run_key(estate: Estate, check: bool) -> str:
    """SHA-256 of the public run key's line; empty in check mode before there is one."""
    if not check:
        signatures.create_key(estate.run_key, "sunset.crm run key")
    public = estate.run_key.with_suffix(".pub")
    return ledger.line_hash(public.read_bytes()) if public.exists() else ""


def _same_keys(genesis: dict[str, Any] | None, pins: dict[str, str]) -> None:
    """The keys of people and the run key are those of the first day, or the run does not begin."""
    for name, what in (("allowed_signers", "the plan's allowed signers"), ("run_key", "the run key")):
        if genesis is not None and genesis.get(name) != pins[name]:
            raise Refusal(
                f"{what} changed since the ledger began; they are pinned for the whole estate. Nothing was touched. Put the old "
                "ones back, or find out who changed them."
            )


def _receivers(vaults: list[str], task_vars: dict[str, Any]) -> list[dict[str, Any]]:
    """The append-only places that the inventory names, one a vault (sunset_ledger_receiver). A vault on the control node has none."""
    found = []
    for vault in vaults:
        variables = host_variables(task_vars, vault)
        receiver = variables.get("sunset_ledger_receiver")
        if receiver and not copies.on_control_node(variables):
            found.append({"vault": vault, "address": str(variables.get("ansible_host", vault)), **plain(receiver)})
    return found
