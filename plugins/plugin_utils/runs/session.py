# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One look at an estate inside an open run: its plan, what the ledger says, the statements; and how a refusal is recorded."""

from __future__ import annotations

import os
import pwd
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.people import signed, statements
from ansible_collections.sunset.crm.plugins.plugin_utils.planning import media
from ansible_collections.sunset.crm.plugins.plugin_utils.planning.plan import DATA_SETS, Item, Plan, from_within
from ansible_collections.sunset.crm.plugins.plugin_utils.power import witness
from ansible_collections.sunset.crm.plugins.plugin_utils.record import copies, ledger
from ansible_collections.sunset.crm.plugins.plugin_utils.record.estate import Estate, close_run, my_run
from ansible_collections.sunset.crm.plugins.plugin_utils.record.view import Seen, View, build, dump_id
from ansible_collections.sunset.crm.plugins.plugin_utils.runs import closing
from ansible_collections.sunset.crm.plugins.plugin_utils.steps import grounds, predictions, steps
from ansible_collections.sunset.crm.plugins.plugin_utils.vaults import packages


def login() -> str:
    """The person at the keyboard, as far as this machine knows: the sudo caller, else the account."""
    return os.environ.get("SUDO_USER") or pwd.getpwuid(os.getuid()).pw_name


@dataclass
class Session:
    """estate, run and plan are fixed for the step; view and words are read anew by refresh()."""

    estate: Estate
    check: bool
    run: dict[str, Any]
    plan: Plan
    approver: str
    view: View = field(default_factory=View)
    words: statements.Statements = field(default_factory=lambda: statements.Statements([], {}))

    @classmethod
    def of(cls, estate: Estate, check: bool) -> Session:
        """The session of the run that this controller has open. Raises Refusal if there is none, or the plan changed."""
        run = my_run(estate)
        plan = estate.plan()
        if plan.sha256 != run["plan_sha256"]:
            raise Refusal("the plan was changed while this run was open; start the same command again")
        if run.get("check") and not check:
            raise Refusal("this run was opened in check mode; a task with check_mode: false may not act in it. Start it without --check")
        session = cls(estate, check, run, plan, estate.approver(plan))
        session.refresh()
        return session

    def refresh(self) -> None:
        entries = ledger.read(self.estate.ledger_file)
        self.view = build(entries, predictions.read() if self.check else (), self.plan)
        self.words = statements.read(self.estate.statements_folder, self.plan)

    def item(self, item_id: Any, module: str) -> Item:
        if item_id not in self.plan.items:
            raise Refusal(f"{module}: the plan has no item {item_id!r}; survey again or mend the task")
        return self.plan.items[item_id]

    @property
    def insiders(self) -> tuple[str, ...]:
        """Whose signed word does not count in this run: under dual control the operator's own."""
        return (str(self.run["operator"]), str(self.run.get("login", ""))) if self.plan.dual else ()

    def context(self) -> grounds.Context:
        return grounds.Context(
            self.plan,
            self.view,
            self.words,
            self.approver,
            self.run["operator"],
            tuple(self.run["waves"]),
            datetime.now(UTC),
            self.run["phase"],
            self.run.get("login", ""),
            self.check,
            tuple(vault for vault in self.plan.vaults if self.vault_disks().get(vault) is None),
        )

    def vault_disks(self) -> dict[str, list[dict[str, Any]] | None]:
        """The disks that each vault told it uses when this run was opened; None for one that did not."""
        told: dict[str, list[dict[str, Any]] | None] = self.run.get("vault_disks") or {}
        return told

    def protected(self) -> list[dict[str, Any]]:
        """Disks that no wipe may be handed: the control node's, as they are now, and the vaults'."""
        return [*media.own_disks(self.estate.root), *(disk for disks in self.vault_disks().values() for disk in disks or ())]

    def complete(self, step: steps.Step, item: Item, vault: str) -> bool:
        """Whether the vault's package of this item's host is sealed with every current dump proven: nothing is left to preserve."""
        if not step.per_vault or step.phase != "preserve":
            return False
        value = self.view.value(f"host:{item['host']}", f"package@{vault}")
        if step.aspect == "shelf":
            return self.view.shelved(item["host"], vault)
        data_sets = self.plan.of(*DATA_SETS, host=item["host"])
        if step.aspect == "access" and step.value == "absent":
            return False
        return value in ("sealed", "forgotten") and all(vault in self.view.proven_at(self.plan, data_set) for data_set in data_sets)

    def too_late(self, step: steps.Step, item: Item, vault: str) -> bool:
        """Whether this vault came back after the host went off, with enough copies proven on others: nothing is left to be pulled."""
        if not step.per_vault or step.phase != "preserve" or not self.view.is_off(f"host:{item['host']}"):
            return False
        found = [self.view.proven_at(self.plan, data_set) for data_set in self.plan.of(*DATA_SETS, host=item["host"])]
        enough = all(len(vaults) >= self.plan.proofs_required for vaults in found)
        left = step.aspect == "access" and self.view.value(item["id"], step.key(vault)) == "present"
        return enough and not left and not all(vault in vaults for vaults in found)

    def touched(self, step: steps.Step, item: Item) -> bool:
        """Whether this aspect of the item was ever meant to be changed and is not put back yet."""
        key = (item["id"], step.aspect)
        begun = any((e.record["item"], e.record["aspect"]) == key for e in self.view.interrupted)
        seen = self.view.seen.get(key)
        return begun or key in self.view.former or (seen is not None and seen.value != step.value)

    def note_refusal(self, item_id: str, module: str, missing: list[dict[str, str]], **more: Any) -> None:
        """Record a refusal (not in check mode)."""
        if not self.check:
            record = {"kind": "refused", "run": self.run["run"], "item": item_id, "module": module, "missing": missing, **more}
            ledger.append(self.estate.ledger_file, record)

    def refuse(self, step: steps.Step, item: Item, module: str, lacks: list[grounds.Missing]) -> str:
        """Record a refusal and return its text, naming everything that is missing."""
        told = [{"item": lack.item, "what": lack.what} for lack in lacks]
        self.note_refusal(item["id"], module, told, aspect=step.aspect, value=step.value)
        rejected = "".join(f"\n  not counted: {name}: {why}" for name, why in self.words.rejected.items())
        lines = "\n".join(f"  - {lack}" for lack in lacks)
        return f"{step.phase} of {item['id']} is refused; missing:\n{lines}{rejected}"

    def about(self, step: steps.Step, item: Item, vault: str) -> dict[str, Any]:
        """What a copy or proof is about: the very dump that is current, in the very package that is open."""
        package = self.view.identity(item["host"], vault)
        if step.aspect == "shelf":
            return {"package": package} if package else {}
        dump = self.view.dump(self.plan, item) if step.per_vault else None
        if dump is None:
            return {}
        return {"dump": dump_id(dump.result), **({"package": package} if package else {})}

    def predict(self, step: steps.Step, item: Item, vault: str, done: dict[str, Any]) -> None:
        predictions.add(
            {
                "item": item["id"],
                "aspect": step.key(vault),
                "value": step.value,
                "back": step.back,
                "irreversible": step.irreversible,
                "status": "done",
                "changed": done.get("changed", False),
                "evidence": {"result": (done.get("evidence") or {}).get("result", {})},
                "about": self.about(step, item, vault),
            }
        )

    def stream_key(self, item: Item, *, make: bool) -> dict[str, Any]:
        """The key of a medium's stream, made for its first wipe."""
        key = self.estate.secret(f"stream-{item['id']}", make)
        return {"stream_key": key} if key else {}

    def look_options(self, step: steps.Step, item: Item, vault: str, settled: Seen) -> dict[str, Any]:
        """What a module needs to look again at what it destroyed before."""
        if step.irreversible:
            return self.stream_key(item, make=False)
        known = {name: value for name, value in packages.digests(item, self.view, vault).items() if value}
        return {**known, "statement_sha256": settled.result.get("statement_sha256")}

    def irreversible_options(self, item: Item) -> dict[str, Any]:
        """What only an authorised wipe is given: the stream's key, the digest of the authorisation, the waiver of a weak identity.

        The last look before it: the ledger saw the hosts off some time ago, their witnesses must say so now."""
        statement, _reasons = signed.authorisation(item, self.context())
        if statement is None:
            raise Refusal(f"{item['id']}: no authorisation names it")
        for host in self.plan.media_hosts(item):
            if from_within(item) and host == item["host"]:
                # It is on, in its rescue: the gate has seen that, and the module refuses anywhere else.
                continue
            reading = witness.read(self.plan.items[f"host:{host}"]["expects"]["power"])
            if reading["power"] != "off":
                raise Refusal(
                    f"{item['id']}: its host {host} was seen off before, but its outside witness ({reading['kind']}) now says "
                    f"{reading['power']}: {reading.get('detail')}. Nothing was touched. Switch it off again, or mend the witness."
                )
        waiver = signed.waiver("identity", item, self.context())
        return {
            **self.stream_key(item, make=True),
            "authorisation_sha256": statement.sha256,
            **({"identity_waiver": waiver.sha256} if waiver else {}),
        }

    def disk_options(self, item: Item, also: list[dict[str, Any]]) -> dict[str, Any]:
        """What the wipe of a whole disk is given besides: the disks that it may not be, and the waiver of a part that it hides.

        also: disks that the task names; it may add some, and strike none."""
        waiver = signed.waiver("hidden", item, self.context())
        return {"protected": [*also, *self.protected()], **({"hidden_waiver": waiver.sha256} if waiver else {})}

    def close(self, unfinished: list[str], *, accept: bool = False) -> list[dict[str, Any]]:
        """End the run on record, accept the waves that may be, send the ledger to the vaults, and give the estate free."""
        copied: list[dict[str, Any]] = []
        if not self.check:
            if accept:
                closing.accept(self.estate.ledger_file, self.plan, self.view, self.words, self.run["waves"])
            record = {"kind": "run", "state": "closed", "run": self.run["run"], "unfinished": unfinished}
            ledger.append(self.estate.ledger_file, record)
            copied = self.copy_out(required=False)
            copied += [{"vault": vault, "ok": False, "error": why} for vault, why in self.run.get("silent_vaults", {}).items()]
            self.refresh()
        close_run(self.estate)
        return copied

    def copy_out(self, *, required: bool) -> list[dict[str, Any]]:
        """Send ledger and signed head to the vaults' append-only places. Raises Refusal if required and one does not answer."""
        return copies.send(self.estate, self.run.get("receivers", []), required=required)
