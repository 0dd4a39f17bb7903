# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The class over which every state-changing module's action plugin is written: gate, intent, act, outcome.

Because the check lies inside the act, no tag, limit, start-at-task, rescue, strategy, batch or ad-hoc call gets past it.
"""

from __future__ import annotations

import contextlib
import json
import time
from typing import Any

from ansible.plugins.action import ActionBase

from ansible_collections.sunset.crm.plugins.module_utils._canonical import digest
from ansible_collections.sunset.crm.plugins.module_utils._recorded import VISIT, make_receipt
from ansible_collections.sunset.crm.plugins.plugin_utils.actions.progress import words
from ansible_collections.sunset.crm.plugins.plugin_utils.certificates import orders
from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.people import signed
from ansible_collections.sunset.crm.plugins.plugin_utils.planning.plan import Item, from_within, subject
from ansible_collections.sunset.crm.plugins.plugin_utils.power.witness import read as read_witness
from ansible_collections.sunset.crm.plugins.plugin_utils.record import ledger
from ansible_collections.sunset.crm.plugins.plugin_utils.record.estate import Estate
from ansible_collections.sunset.crm.plugins.plugin_utils.record.view import Seen
from ansible_collections.sunset.crm.plugins.plugin_utils.rescue import rescue
from ansible_collections.sunset.crm.plugins.plugin_utils.runs.session import Session
from ansible_collections.sunset.crm.plugins.plugin_utils.steps import filling, gates, steps

# What a resume puts back: the state found before the first act is recorded with the intent, so that a kill cannot lose it.
REVERSIBLE = ("scheduler", "web", "service", "guest", "cluster", "power")
# In check mode these cannot look at a world that does not exist yet (a package, a staged dump, a host in its rescue); their end is predicted.
PREDICTED = ("package", "access", "copy", "proof", "shelf", "rescue")


# Seconds after which a person is told how far a long step is, and from then on how often.
FIRST_PATIENCE, PATIENCE = 20, 60


def plain(value: Any) -> Any:
    """value without the tags and lazy containers that Ansible 2.19 and later put around variables."""
    return json.loads(json.dumps(value))


def placed(task_vars: dict[str, Any], templar: Any) -> dict[str, Any]:
    """The variables with the estate's folder as it is meant: an action gets them untemplated."""
    return {**task_vars, "sunset_estate_dir": templar.template(task_vars.get("sunset_estate_dir"))}


class RecordedAction(ActionBase):
    """Check the gate, record the intent, run the module with a receipt, record the outcome."""

    _supports_check_mode = True
    _supports_async = False
    _machine = ""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        try:
            return {**result, **self._step(placed(task_vars or {}, self._templar))}
        except Refusal as exc:
            return {**result, "failed": True, "changed": False, "msg": str(exc)}

    @property
    def name(self) -> str:
        """The module's name: that of the file in which the subclass lies."""
        return type(self).__module__.rpartition(".")[2]

    def perform(self, args: dict[str, Any], task_vars: dict[str, Any], check: bool) -> dict[str, Any]:
        """Act. Verbs that speak an API replace this; the others run the module of their name."""
        done: dict[str, Any] = self._execute_module(module_name=f"sunset.crm.{self.name}", module_args=dict(args), task_vars=task_vars)
        return done

    def conclude(self, session: Session, item: Item) -> dict[str, Any]:
        """What follows from positive evidence, now or from an earlier run (a certificate); merged into the result."""
        return {}

    def regret(self, session: Session, item: Item, outcome: dict[str, Any], entry: str) -> dict[str, Any]:
        """What follows from a step that was recorded as failed (a destruction order); merged into the result. entry: its ledger line."""
        return {}

    def before_act(self, session: Session, step: steps.Step, item: Item) -> None:
        """A last look that only this step knows of. Raises Refusal; nothing was done and no intent is written by then."""

    # --- one step ---

    def _step(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        args, check = plain(self._task.args), bool(self._task.check_mode)
        session = Session.of(Estate.at(task_vars.get("sunset_estate_dir")), check)
        try:
            return self._allowed(session, args, task_vars)
        except Refusal as exc:
            if not exc.recorded:
                session.note_refusal(str(args.get("item")), self.name, [{"item": str(args.get("item")), "what": exc.public[:500]}])
            raise

    def _allowed(self, session: Session, args: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        host = str(task_vars.get("inventory_hostname"))
        if self._task.delegate_to:
            raise Refusal(
                f"{self.name} was delegated to {self._task.delegate_to}: it would make evidence about another machine than {host}"
            )
        step = steps.find(self.name, args)
        item = session.item(args.get("item"), self.name)
        if item["kind"] not in filling.KINDS[self.name]:
            raise Refusal(f"{self.name} is no step for {item['id']}; it takes items of kind {', '.join(filling.KINDS[self.name])}")
        vault = _vault(step, args, host, session)
        _right_host(step, item, host, session)
        # A wrong address or a stale name would let the module act on, and speak of, another machine.
        known = session.plan.items.get(f"host:{host}", {}).get("identity", {})
        self._machine = str(known.get("machine_id", "")) if step.where in (steps.ESTATE, steps.STATION) else ""
        lock = f"{item['id']}@{vault}" if vault else item["id"]
        with contextlib.nullcontext() if session.check else session.estate.item_lock(lock):
            session.refresh()
            return self._decide(session, step, item, vault, args, task_vars)

    def _decide(
        self, session: Session, step: steps.Step, item: Item, vault: str, args: dict[str, Any], task_vars: dict[str, Any]
    ) -> dict[str, Any]:
        check = session.check
        seen = session.view.get(item["id"], step.key(vault))
        settled = seen if seen is not None and seen.value == step.value else None
        if (answer := _from_ledger(session, step, item, vault, settled)) is not None:
            return answer
        filled = filling.merged(args, filling.options(step, item, session.plan, session.view, vault), self.name)
        filled.pop("vault", None)
        if (step.irreversible or step.final) and settled is not None:
            # Done before: look again without the right to act, since the authorisation may have run out meanwhile.
            observed = self._call({**filled, **session.look_options(step, item, vault, settled)}, "observed", True, task_vars)
            if not observed.get("failed") and not observed.get("changed"):
                return {**observed, **({} if check else self.conclude(session, item))}
        lacks = gates.missing(step, item, session.context(), vault)
        if lacks:
            raise Refusal(session.refuse(step, item, self.name, lacks), recorded=True)
        if step.irreversible:
            filled.update(session.irreversible_options(item))
        if step.module == "media_wipe":
            filled.update(session.disk_options(item, filled.get("protected") or []))
        filled.update(signed.said(step, item, session.context(), vault))
        if check and (step.aspect in PREDICTED or (step.aspect == "wipe" and from_within(item))):
            session.predict(step, item, vault, {"changed": True})
            return {"changed": True, "msg": f"would be done: {step.aspect} {step.value}"}
        if check:
            done = self._call(filled, "check", True, task_vars)
            if not done.get("failed"):
                session.predict(step, item, vault, done)
            return done
        return self._recorded(session, step, item, vault, filled, task_vars)

    def _recorded(
        self, session: Session, step: steps.Step, item: Item, vault: str, args: dict[str, Any], task_vars: dict[str, Any]
    ) -> dict[str, Any]:
        head = {
            "run": session.run["run"],
            "item": item["id"],
            "subject": subject(item),
            "aspect": step.key(vault),
            "value": step.value,
            "module": self.name,
            "host": str(task_vars.get("inventory_hostname")),
            "wave": item["wave"],
            "back": step.back,
            "irreversible": step.irreversible,
            "about": session.about(step, item, vault),
        }
        self.before_act(session, step, item)
        if step.irreversible or step.final or step.hands_over:
            session.copy_out(required=True)
        former: dict[str, Any] = {}
        done: dict[str, Any] | None = None
        if step.aspect in REVERSIBLE and not step.back:
            observed = self._call(args, "observed", True, task_vars)
            if observed.get("failed"):
                return observed
            former = found_before(observed)
            if not observed.get("changed") and judged(observed, item)["status"] == "done":
                if session.view.value(item["id"], step.key(vault)) == step.value:
                    return observed
                done = observed
        intent = ledger.append(session.estate.ledger_file, {"kind": "intent", **head, "former": former}, reserve=True)
        try:
            done = done or self._call(args, intent.hash, False, task_vars)
        except BaseException as exc:
            # A cut connection or a task timeout is not an end: the module may go on. Only the next look can tell.
            note = {"status": "unknown", "changed": False, "why": f"{type(exc).__name__}: {exc}"[:500]}
            ledger.append(session.estate.ledger_file, {"kind": "outcome", "intent": intent.hash, **head, **note})
            raise
        outcome = {"kind": "outcome", "intent": intent.hash, **head, **judged(done, item)}
        try:
            entry = ledger.append(session.estate.ledger_file, outcome)
        except Refusal as exc:
            return {**done, "failed": True, "msg": f"{exc} The step itself ended as shown in the evidence of this result."}
        if outcome["status"] != "done" and not done.get("failed") and not goes_on(args, done):
            done = {**done, "failed": True, "msg": f"{self.name} on {item['id']}: no positive evidence ({outcome['why']})"}
        if outcome["status"] == "done":
            session.refresh()
            done.update(self.conclude(session, item))
        elif outcome["status"] == "failed":
            done.update(self.regret(session, item, outcome, entry.hash))
        return {**done, "ledger": {"intent": intent.hash, "outcome": entry.hash}}

    def _call(self, args: dict[str, Any], intent: str, check: bool, task_vars: dict[str, Any]) -> dict[str, Any]:
        receipt = make_receipt(self.name, args["item"], intent, check, self._machine)
        was = self._task.check_mode
        self._task.check_mode = check
        visit: dict[str, Any] = {"patience": FIRST_PATIENCE}
        try:
            while True:
                done = self.perform({**args, "receipt": receipt if check else {**receipt, VISIT: visit}}, task_vars, check)
                if not (pending := plain(done.get("pending"))):
                    return done
                # What a module says of itself is no evidence; it is shown and never recorded.
                self._display.display(f"{task_vars.get('inventory_hostname')}: {args['item']}: {words(pending['progress'], time.time())}")
                visit = {**pending[VISIT], "patience": PATIENCE}
        except Refusal as exc:
            return {"failed": True, "changed": False, "msg": str(exc)}
        finally:
            self._task.check_mode = was


def goes_on(args: dict[str, Any], done: dict[str, Any]) -> bool:
    """Whether the task only wanted the work begun (C(wait: 0)) and it is at work. That is no failure, and no evidence either:
    the ledger says unknown, and the same step without it waits for the end."""
    return args.get("wait") == 0 and (done.get("result") or {}).get("state") == "running"


def found_before(done: dict[str, Any]) -> dict[str, Any]:
    """The state that a module found, in the form in which it takes it back (C(former))."""
    evidence = done.get("evidence") or {}
    former: dict[str, Any] = evidence.get("result", {}).get("former") or evidence.get("before") or {}
    return former


def judged(done: dict[str, Any], item: Item) -> dict[str, Any]:
    """What the ledger says of a module's result: done, failed or unknown, with the evidence as it arrived. Pure."""
    evidence = done.get("evidence")
    head: dict[str, Any] = {"changed": bool(done.get("changed")), "evidence": evidence, "evidence_sha256": done.get("evidence_sha256")}
    if not isinstance(evidence, dict):
        why = str(done.get("msg", "the module returned no evidence"))[:500]
        return {**head, "status": "unknown", "why": why}
    if digest(evidence) != done.get("evidence_sha256"):
        return {**head, "status": "unknown", "masked": True, "why": "the evidence was altered on its way (no_log masking?)"}
    if done.get("failed"):
        return {**head, "status": "failed", "why": str(done.get("msg", ""))[:500]}
    if evidence.get("verdict") != "yes":
        status = "failed" if evidence.get("verdict") == "no" else "unknown"
        return {**head, "status": status, "why": f"the verdict is {evidence.get('verdict')!r}"}
    if evidence.get("item") != item["id"]:
        return {**head, "status": "unknown", "why": f"the evidence is about {evidence.get('item')!r}"}
    if wrong := another(evidence, item):
        return {**head, "status": "failed", "why": wrong}
    return {**head, "status": "done", "why": ""}


def another(evidence: dict[str, Any], item: Item) -> str:
    """Why a copy was made of another data set than the plan's; empty if nothing says so. Pure."""
    source = (evidence.get("result") or {}).get("source") or {}
    found = source.get("identity") if item["kind"] in ("database", "filestore") else None
    for name, value in item["identity"].items():
        if isinstance(found, dict) and name in found and None not in (value, found[name]) and str(found[name]) != str(value):
            return f"it is a copy of another data set: {name} is {found[name]!r}, the plan has {value!r}"
    return ""


def _vault(step: steps.Step, args: dict[str, Any], host: str, session: Session) -> str:
    if not step.per_vault:
        return ""
    vault = host if step.where == steps.VAULT else str(args.get("vault") or "")
    if vault not in session.plan.vaults:
        raise Refusal(f"{vault or 'an empty name'} is no vault of the plan (its vaults: {', '.join(session.plan.vaults)})")
    return vault


def _right_host(step: steps.Step, item: Item, host: str, session: Session) -> None:
    """The module must run where the plan says that the item is."""
    expected = item["host"]
    if step.where == steps.VAULT:
        return
    if step.where == steps.STATION:
        expected = item["wipe"].get("host")
    if step.aspect == "session":
        expected = session.plan.items[item["expects"]["sessions"]["database"]]["host"]
    if host != expected:
        raise Refusal(f"{item['id']} is to be handled on {expected}, this task runs on {host}")


def _from_ledger(session: Session, step: steps.Step, item: Item, vault: str, settled: Seen | None) -> dict[str, Any] | None:
    """The answer for a step that needs no look at the item itself: its host is proven off, or the package is complete."""
    if step.back and not session.touched(step, item):
        return {"changed": False, "msg": f"{item['id']}: {step.aspect} was never changed, so there is nothing to put back"}
    if session.complete(step, item, vault):
        return {"changed": False, "msg": f"the package of {item['host']} on {vault} is sealed and everything in it is proven"}
    if step.key(vault) == f"access@{vault}" and step.value == "absent" and (item["id"], step.key(vault)) not in session.view.begun:
        return {"changed": False, "msg": f"{item['id']}: the vault {vault} was never let in"}
    if session.too_late(step, item, vault):
        why = f"{item['host']} is off and enough other vaults hold proven copies of it; {vault} has none"
        return {"changed": False, "msg": f"{item['id']}: {why}"}
    if step.irreversible and settled is None and (word := orders.excuse(item, session.words, session.insiders)):
        return {"changed": False, "msg": f"{item['id']}: {word}"}
    if (over := rescue.over(session, step, item)) is not None:
        return over
    if step.back or step.aspect in ("power", "boot", "wake", "rescue") or step.where in (steps.VAULT, steps.STATION):
        return None
    where = item["host"]
    if step.aspect == "session":
        where = session.plan.items[item["expects"]["sessions"]["database"]]["host"]
    power = session.view.get(f"host:{where}", "power")
    known = power is not None and power.value == "off" and not power.predicted
    # A run that was killed may have switched the host off and not lived to write it down; then only the witness can answer.
    if not known and (f"host:{where}", "power") not in session.view.former:
        return _half_dark(session, step, item, settled) or _without_server(session, step, item, settled)
    since = power.at if power is not None and known else "a run that did not live to record it"
    if known and settled is None:
        raise Refusal(f"{item['id']}: {where} is off since {since}, and {step.aspect} {step.value} was never seen; resume it first")
    reading = read_witness(session.plan.items[f"host:{where}"]["expects"]["power"])
    if reading["power"] != "off" and known:
        raise Refusal(
            f"{where} was seen off at {since}, but its outside witness ({reading['kind']}) now says {reading['power']}: "
            f"{reading.get('detail')}. Somebody has switched it on; run playbooks/resume.yml or switch it off again."
        )
    if reading["power"] != "off" or settled is None:
        return _half_dark(session, step, item, settled) or _without_server(session, step, item, settled)
    return {
        "changed": False,
        "msg": f"{item['id']}: {step.aspect} {step.value} since {settled.at} (ledger {settled.hash[:12]}); {where} is off, says {reading['kind']}",
        "result": settled.result,
    }


def _half_dark(session: Session, step: steps.Step, item: Item, settled: Seen | None) -> dict[str, Any] | None:
    """Guests of a cluster of which a node is off already: without it, or without quorum, nobody can look at all of them again.

    What can still be read of the cluster is read before each further node is asked (proxmox_nodes, host_power)."""
    if settled is None or settled.predicted or not (item["kind"] == "guest" or step.aspect == "look"):
        return None
    carriers = [item["host"], *(parent.partition(":")[2] for parent in item["stands_on"] if parent.startswith("host:"))]
    found = next((cluster for host in carriers if (cluster := session.plan.cluster_of(host))), None)
    for host in found["hosts"] if found else ():
        if session.view.is_off(f"host:{host}") or (f"host:{host}", "power") in session.view.former:
            reading = read_witness(session.plan.items[f"host:{host}"]["expects"]["power"])
            if reading["power"] == "off":
                said = f"{step.aspect} {step.value} since {settled.at} (ledger {settled.hash[:12]}); its node {host} is off, says {reading['kind']}"
                return {"changed": False, "msg": f"{item['id']}: {said}", "result": settled.result}
    return None


def _without_server(session: Session, step: steps.Step, item: Item, settled: Seen | None) -> dict[str, Any] | None:
    """A dump, the end of sessions, or the look at a host, in or on whose database server is stopped since: nobody can look again."""
    database = {"session": (item["expects"].get("sessions") or {}).get("database"), "dump": item["id"]}.get(step.aspect)
    if step.aspect == "look":
        database = next((base["id"] for base in session.plan.of("database", host=item["host"]) if base["expects"].get("unit")), None)
    stopped, what = session.view.get(str(database), "service"), f"the server of {database}"
    if step.aspect == "dump" and (serving := session.plan.serving(item)):
        # All of them: which one holds the server is the declaration's business.
        seen = [session.view.get(one, "guest") for one in serving]
        stopped = min((one for one in seen if one), key=lambda one: one.number) if all(seen) else None
        what = ", ".join(serving)
    if settled is None or stopped is None or stopped.value != "stopped" or stopped.number < settled.number or stopped.predicted:
        return None
    if step.aspect == "dump" and session.view.dump(session.plan, item) is None:
        return None
    return {
        "changed": False,
        "msg": f"{item['id']}: {step.aspect} {step.value} since {settled.at} (ledger {settled.hash[:12]}); {what} is stopped since",
        "result": settled.result,
    }
