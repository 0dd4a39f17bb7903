# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host's power: asked through its own connection, seen by a witness outside it."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field
from typing import Any

from ansible.errors import AnsibleConnectionFailure, AnsibleError

from ansible_collections.sunset.crm.plugins.plugin_utils.actions.account import Account
from ansible_collections.sunset.crm.plugins.plugin_utils.actions.arguments import check_force, checked
from ansible_collections.sunset.crm.plugins.plugin_utils.actions.recording import RecordedAction
from ansible_collections.sunset.crm.plugins.plugin_utils.certificates import certify, orders
from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.planning.plan import Item
from ansible_collections.sunset.crm.plugins.plugin_utils.power import controllers, witness
from ansible_collections.sunset.crm.plugins.plugin_utils.power.controllers import Silent
from ansible_collections.sunset.crm.plugins.plugin_utils.power.powering import (
    asked_to_end,
    busy,
    how_it_ended,
    off_result,
    recorded_machine,
    seen_off,
    shown,
)
from ansible_collections.sunset.crm.plugins.plugin_utils.power.redfish import GOING_DOWN
from ansible_collections.sunset.crm.plugins.plugin_utils.proxmox import nodes as proxmox_nodes
from ansible_collections.sunset.crm.plugins.plugin_utils.record import ledger, view
from ansible_collections.sunset.crm.plugins.plugin_utils.record.estate import Estate
from ansible_collections.sunset.crm.plugins.plugin_utils.rescue import rescue
from ansible_collections.sunset.crm.plugins.plugin_utils.runs.session import Session
from ansible_collections.sunset.crm.plugins.plugin_utils.steps import steps

SPEC: dict[str, Any] = {
    "state": {"type": "str", "required": True, "choices": ["off", "on", "woken", "ended"]},
    "witness": {"type": "raw", "required": True},
    "timeout": {"type": "float", "default": 300},
    "silence_seconds": {"type": "float", "default": 20},
    "machine_id": {"type": "str"},
    "board": {"type": "dict", "default": {}},
    "ask_controller": {"type": "bool", "default": False},
    "force_after": {"type": "float"},
    "force_allowed_by": {"type": "str"},
    "excused": {"type": "list", "elements": "str", "default": []},
    "ports": {"type": "list", "elements": "int", "default": []},
    "idle_waiver": {"type": "str"},
    "cluster": {"type": "dict"},
    "attested": {"type": "dict", "default": {}},
}
RULES: dict[str, Any] = {"required_by": {"force_after": ["force_allowed_by"]}}
IDENTITY = "cat /etc/machine-id /proc/sys/kernel/random/boot_id"
# What the board says of itself; only root may read it, and many boards say nothing.
BOARD = "for f in uuid serial; do printf '%s=' $f; cat /sys/class/dmi/id/product_$f 2>/dev/null || echo; done"
POWER_OFF = "if test -d /run/systemd/system; then systemctl --no-block poweroff; else shutdown -P now || poweroff; fi"
POLL, LONGEST_POLL = 0.5, 5.0
SETTLE = 2.0  # seconds after which a controller must still show a host off: one that restarts is off for a moment
REFUSED_GRACE = 10.0  # a host may go down although its answer to the request was an error


@dataclass
class Descent:
    """What was done to one host on its way down."""

    identity: dict[str, Any] = field(default_factory=dict)
    asked: str = ""
    answer: str = ""
    forced: bool = False
    unforced: str = ""
    more: dict[str, Any] = field(default_factory=dict)


class ActionModule(RecordedAction):
    """off and on; the witness has the first and the last word."""

    def perform(self, args: dict[str, Any], task_vars: dict[str, Any], check: bool) -> dict[str, Any]:
        options = checked(self.name, SPEC, args, **RULES)
        check_force(options, "a host")
        outside = witness.described(options["witness"])
        for one in outside:
            if one["kind"] == "silence":
                one.setdefault("seconds", options["silence_seconds"])
        if options["state"] in ("off", "ended"):
            try:
                witness.check_alone(outside)
            except Refusal as exc:
                # The witness stands in the approved plan: to correct the inventory alone changes nothing here.
                raise Refusal(f"{options['item']}: {exc}; then survey again and have the new plan approved. Nothing was changed.") from None
        account = Account(self.name, options["item"])
        # The idle look belongs to the act itself and to a rehearsal of it, not to the reading of what was there before.
        # In a rescue nothing runs that could be asked.
        looking = (args.get("receipt") or {}).get("intent") != "observed" and options["state"] != "ended"
        watch = witness.Watch(outside, options["timeout"] + witness.PATIENCE)
        try:
            with watch:
                reading = watch.look()
                if reading["power"] == "off" and options["state"] in ("off", "ended") and settles(watch):
                    # What is begun here may be the moment in which it restarts: an earlier run asked it, or somebody else did.
                    time.sleep(SETTLE)
                    reading = watch.look()
                account.before = {"witness": reading}
                if reading["power"] == "unknown":
                    raise Refusal(
                        f"{options['item']}: its witness ({reading['kind']}) cannot say whether it is on or off: {_why(reading)}. "
                        "Nothing was changed. Mend the witness in the inventory (sunset_power), or wait until it answers."
                    )
                if options["state"] in ("off", "ended"):
                    return self._off(options, watch, reading, account, task_vars, check, looking)
                expected = options["machine_id"]
                if not expected:
                    book = Estate.at(task_vars.get("sunset_estate_dir")).ledger_file
                    expected = recorded_machine(ledger.read(book), options["item"])
                return self._on(options, watch, reading, account, expected, check, task_vars)
        finally:
            for complaint in watch.left:
                self._display.warning(f"{options['item']}: {complaint}; it ends there by itself")

    def before_act(self, session: Session, step: steps.Step, item: Item) -> None:
        """The evidence of a wipe from within lies in the rescue's memory: it ends only when the certificates are written."""
        if step.value != "ended":
            return
        lacks = [
            medium["id"]
            for medium in session.plan.wiped_from_within(item["host"])
            if not orders.excuse(medium, session.words, session.insiders)
            and ((seen := session.view.get(medium["id"], "wipe")) is None or certify.written(session.estate, medium, seen) is None)
        ]
        if lacks:
            raise Refusal(f"{item['id']} stays up: the certificate of {', '.join(lacks)} is not written. Run playbooks/wipe.yml again.")

    def conclude(self, session: Session, item: Item) -> dict[str, Any]:
        """A rescue's keys end with its host."""
        keys = rescue.Keys.of(session.estate, item["id"], make=False)
        if keys is not None and session.view.value(item["id"], "wake") == "ended":
            keys.forget(session.estate, item["id"])
        return {}

    # --- off

    def _off(
        self,
        options: dict[str, Any],
        watch: witness.Watch,
        reading: dict[str, Any],
        account: Account,
        task_vars: dict[str, Any],
        check: bool,
        looking: bool,
    ) -> dict[str, Any]:
        if reading["power"] == "off":
            self._is_this_host(options, watch, reading, {})
            self._contradicts(options, reading, task_vars)
            account.after = account.before
            return account.done(False, "yes", off_result(reading, "already off", {}, None, words_of(options)))
        going = shown(reading, "state") == GOING_DOWN
        if check and not looking:
            account.after = account.before
            return account.done(True, "unknown", {"power": "on", "proof": reading["kind"]})
        descent = Descent()
        start = time.monotonic()
        if not going:
            descent.identity = self._identity()
            self._may_be_asked(options, watch, reading, descent)
            account.before["identity"] = descent.identity
            held = self._held(options, descent, account, task_vars, rehearsal=check)
            held += self._held_by_cluster(options, account, task_vars)
            if check:
                account.after = account.before
                return account.done(True, "unknown", {"power": "on", "proof": reading["kind"], "now": held})
            if held:
                return account.failed(
                    f"{options['item']} stays on: {'; '.join(held)}. It was not asked for anything. End these first (a guest found by a "
                    "person to be none of the plan's business is classified: sunset_classified), then run the same command again.",
                    {"power": "on", "proof": reading["kind"], "held": held, **descent.identity},
                )
            start = time.monotonic()
            self._request(watch, descent, account)
        elif check:
            account.after = account.before
            return account.done(True, "unknown", {"power": "on", "proof": reading["kind"], "state": GOING_DOWN})
        elif self._is_this_host(options, watch, reading, {}) != "yes" and options["force_after"] is not None:
            # It comes down by itself, and is waited for; what nobody knows to be its own controller takes no power away.
            descent.unforced = " It was not cut off: nothing shows that the controller is that of this host."
            options = {**options, "force_after": None}
        return self._until_off(options, watch, descent, account, start)

    def _is_this_host(self, options: dict[str, Any], watch: witness.Watch, reading: dict[str, Any], board: dict[str, str]) -> str:
        """Whether the witness that knows a machine by its serial or uuid speaks of this one: yes or unknown. Another one is refused."""
        knowing = next((one for one in watch.witnesses if one["kind"] in (*witness.CONTROLLERS, "libvirt")), None)
        if knowing is None:
            return "unknown"
        seen = {name: shown(reading, name) for name in ("uuid", "serial")}
        match = controllers.same_machine({**options["board"], **knowing}, seen, board)
        if match == "no":
            what = "management controller" if knowing["kind"] in witness.CONTROLLERS else f"witness ({knowing['kind']})"
            raise Refusal(
                f"{options['item']}: its {what} shows serial {seen['serial'] or '-'}, uuid {seen['uuid'] or '-'}; the host itself is "
                f"{board or options['board']}. It is the controller of another machine; nothing was changed. Correct sunset_power."
            )
        return match

    def _contradicts(self, options: dict[str, Any], reading: dict[str, Any], task_vars: dict[str, Any]) -> None:
        """A host that is off for its witness and answers: the witness looks at something else. Not tried of one that was seen to go off."""
        entries = ledger.read(Estate.at(task_vars.get("sunset_estate_dir")).ledger_file)
        asked = asked_to_end(entries, options["item"], str((options["receipt"] or {}).get("intent", "")))
        if options["state"] == "ended" or asked and seen_off(entries, options["item"]):
            return
        found: dict[str, str] = {}
        with contextlib.suppress(AnsibleError):
            found = self._identity()
        if found and (not options["machine_id"] or found["machine_id"] == options["machine_id"]):
            raise Refusal(
                f"{options['item']} is off, says its witness ({reading['kind']}), and answers through its connection: the witness looks at another "
                "machine, or at nothing. Nothing was changed. Correct sunset_power."
            )

    def _may_be_asked(self, options: dict[str, Any], watch: witness.Watch, reading: dict[str, Any], descent: Descent) -> None:
        """Refuse where nobody could be asked, or where it would be another machine."""
        item, identity = options["item"], descent.identity
        declared = next((one for one in watch.witnesses if one["kind"] in witness.CONTROLLERS), {})
        match = self._is_this_host(options, watch, reading, self._board() if identity and declared else {})
        if declared:
            descent.more["controller_of_this_host"] = match
        else:
            match = "unknown"  # a witness that knows the host and has no power over it
        if options["force_after"] is not None and match != "yes":
            raise Refusal(
                f"{item} may be cut off after {options['force_after']:g} s, says {options['force_allowed_by']}, but "
                + (
                    "it has no management controller that could. "
                    if not declared
                    else "nothing shows that the controller is that of this host. "
                )
                + "Nothing was changed. Give the witness the serial or the uuid that the controller shows, or leave force_after out."
            )
        if identity:
            if options["machine_id"] and identity["machine_id"] != options["machine_id"]:
                raise Refusal(
                    f"{item}: what answers is the machine {identity['machine_id']}, the plan has {options['machine_id']}. "
                    "Another machine has its address; nothing was changed."
                )
            return
        if not options["ask_controller"]:
            raise Refusal(
                f"{item} is on, says its witness ({reading['kind']}), but does not answer through its connection, so it "
                "cannot be asked to end. Nothing was changed. Mend the connection, let its controller ask it (ask_controller), "
                "or switch it off by hand and run the same command again."
            )
        if match != "yes":
            raise Refusal(
                f"{item} does not answer through its connection, and nothing shows that the controller is that of this host. Nothing was "
                "changed. Give the witness the serial or the uuid that the controller shows (serial, uuid in sunset_power)."
            )

    def _held(
        self, options: dict[str, Any], descent: Descent, account: Account, task_vars: dict[str, Any], *, rehearsal: bool
    ) -> list[str]:
        """What keeps the host on. Read now, on the host; where it does not answer, only a person's signed word goes instead."""
        if options["idle_waiver"]:
            descent.more["idle_waiver"] = options["idle_waiver"]
        if not descent.identity:
            if options["idle_waiver"]:
                return []
            return [
                "it does not answer through its connection, so nobody can see whether a guest runs on it or somebody uses a database of it "
                "(a person can sign for that: a waiver of the gate 'idle': docs/operator/hosts.md, 'A host that does not go off')"
            ]
        try:
            done = self._execute_module(
                module_name="sunset.crm.host_idle",
                module_args={"excused": options["excused"], "ports": options["ports"]},
                task_vars=task_vars,
            )
        except AnsibleConnectionFailure as exc:
            done = {"msg": str(exc)}
        if "idle" not in done:
            why = str(done.get("msg") or done.get("module_stderr") or "no answer").strip()[-300:]
            return [] if options["idle_waiver"] else [f"whether a guest runs on it is unknown: it could not be looked at ({why})"]
        account.before["idle"] = done["idle"]
        held = busy(options["item"], done["idle"])
        if rehearsal:
            return held
        # A signed word goes instead of what could not be seen, never against what was seen.
        return [one for one in held if not (options["idle_waiver"] and "unknown" in one.partition(":")[0])]

    def _held_by_cluster(self, options: dict[str, Any], account: Account, task_vars: dict[str, Any]) -> list[str]:
        """What a node's cluster says against its going off, asked at that moment. Whether it is off, its witness says, never the cluster."""
        if not options["cluster"]:
            return []
        entries = ledger.read(Estate.at(task_vars.get("sunset_estate_dir")).ledger_file)
        place = proxmox_nodes.Place.of(options["cluster"])
        held, account.before["cluster"] = proxmox_nodes.hindrances(
            place, view.build(entries), place.gone(entries, str((options["receipt"] or {}).get("intent", "")))
        )
        return held

    def _request(self, watch: witness.Watch, descent: Descent, account: Account) -> None:
        if descent.identity:
            answer = self._ask()
            descent.asked = "ssh"
            descent.answer = f"exit code {answer['rc']}: {answer['stderr']}" if answer["rc"] not in (0, None, 255) else ""
            account.did(did="asked to power off", through="its connection", command=POWER_OFF, **answer)
            return
        self._tell(watch, controllers.SOFT, "asked to power off", account)
        descent.asked = "controller"

    def _tell(self, watch: witness.Watch, what: str, did: str, account: Account) -> None:
        """Send one request to the controller. An answer that does not come is recorded; the witness tells what became of it."""
        try:
            controller = watch.controller()
        except Silent as exc:
            raise Refusal(f"{exc}. It was not asked for anything; run the same command again.") from None
        if controller is None:
            raise Refusal("this host has no management controller that could be asked (a witness of kind redfish or ipmi)")
        try:
            account.did(did=did, through=controller.kind, request=controller.ask(what))
        except Silent as exc:
            account.did(did=did, through=controller.kind, request=what, answer=f"none: {exc}")

    def _until_off(self, options: dict[str, Any], watch: witness.Watch, descent: Descent, account: Account, start: float) -> dict[str, Any]:
        force_at = None if options["force_after"] is None else start + options["force_after"]
        deadline = start + options["timeout"]
        if descent.answer:
            deadline = min(deadline, start + REFUSED_GRACE) if force_at is None else deadline
        pause, problem = POLL, ""
        while True:
            reading = watch.look("off")
            now = time.monotonic()
            if reading["power"] == "off" or now >= deadline:
                break
            if force_at is not None and now >= force_at and not descent.forced:
                descent.forced = True
                try:
                    self._tell(watch, controllers.CUT, f"cut off, allowed by {options['force_allowed_by']}", account)
                except Refusal as exc:
                    descent.forced, problem = False, f" {exc}"
                    break
                pause = POLL
                continue
            time.sleep(min(pause, max(0.05, (force_at if force_at and not descent.forced else deadline) - now)))
            if any(one["kind"] in witness.CONTROLLERS for one in watch.witnesses):
                pause = min(pause * 1.5, LONGEST_POLL)
        seconds = round(time.monotonic() - start, 2)
        if reading["power"] == "off" and settles(watch):
            time.sleep(SETTLE)
            reading = watch.look()
        account.after = {"witness": reading}
        # The control connection of ssh would outlive the host and mislead the next task.
        with contextlib.suppress(Exception):
            self._connection.reset()
        more = {**descent.more, **words_of(options), "asked_through": descent.asked, "forced": descent.forced}
        if options["force_after"] is not None:
            more["force_allowed_by"] = options["force_allowed_by"]
        result = off_result(reading, how_it_ended(reading, descent.asked, descent.forced), descent.identity, seconds, more)
        if reading["power"] == "off":
            return account.done(True, "yes", result)
        said = f"; its answer was {descent.answer}" if descent.answer else ""
        forced = "It was cut off and is still not off." if descent.forced else f"Nothing was forced.{descent.unforced}"
        return account.failed(
            f"{options['item']} is {reading['power']} {seconds:g} s after it was asked to power off, says its witness "
            f"({reading['kind']}: {_why(reading)}){said}. {forced}{problem} Look at its console, or give it a longer "
            "timeout, and run the same command again.",
            result,
        )

    def _ask(self) -> dict[str, Any]:
        """Ask the host to power off. A connection that is cut is what is to be expected, and no answer."""
        try:
            done = self._low_level_execute_command(POWER_OFF, sudoable=True)
        except AnsibleConnectionFailure as exc:
            return {"rc": None, "stderr": str(exc)[-500:]}
        # On a terminal, which ssh may have been given, both streams are one.
        return {"rc": done["rc"], "stderr": (str(done.get("stderr") or "").strip() or str(done.get("stdout") or "").strip())[-500:]}

    def _identity(self) -> dict[str, str]:
        """Machine id and boot id, read through the connection; empty if it does not answer."""
        try:
            done = self._low_level_execute_command(IDENTITY, sudoable=False)
        except AnsibleConnectionFailure:
            return {}
        lines = str(done["stdout"]).split()
        return {"machine_id": lines[0], "boot_id": lines[1]} if done["rc"] == 0 and len(lines) == 2 else {}

    def _board(self) -> dict[str, str]:
        """The uuid and serial that the host's own board tells; empty where it tells nothing."""
        try:
            done = self._low_level_execute_command(BOARD, sudoable=True)
        except AnsibleConnectionFailure:
            return {}
        pairs = (line.strip().partition("=") for line in str(done["stdout"]).splitlines())
        return {name: value for name, _equals, value in pairs if name in ("uuid", "serial") and value}

    # --- on

    def _on(
        self,
        options: dict[str, Any],
        watch: witness.Watch,
        reading: dict[str, Any],
        account: Account,
        expected: str,
        check: bool,
        task_vars: dict[str, Any],
    ) -> dict[str, Any]:
        item, was_off = options["item"], reading["power"] == "off"
        if check:
            account.after = account.before
            return account.done(was_off, "unknown" if was_off else "yes", {"power": reading["power"], "proof": reading["kind"]})
        start = time.monotonic()
        through = ""
        if was_off:
            through = witness.switch_on(watch.witnesses)
            account.did(did="switched on", through=through)
        keys = rescue.Keys.of(Estate.at(task_vars.get("sunset_estate_dir")), item, make=False) if options["state"] == "woken" else None
        identity = self._wait_for_identity(start + options["timeout"], keys)
        reading = watch.look()
        account.after = {"witness": reading, "identity": identity}
        result = {"power": reading["power"], "proof": reading["kind"], "seconds": round(time.monotonic() - start, 2), **identity}
        if through:
            result["through"] = through
        if not identity:
            return account.failed(
                f"{item} does not answer through its connection within {options['timeout']:g} s (power: {reading['power']}"
                + (f", it was switched on through {through}" if through else "")
                + "). "
                "Look at its console; then run the same command again.",
                result,
            )
        if expected and identity["machine_id"] != expected:
            return account.failed(
                f"what answers for {item} is the machine {identity['machine_id']}, recorded was {expected}. Another machine has its "
                "address; do not go on before that is cleared up.",
                result,
            )
        if not expected:
            return account.failed(
                f"{item} answers, but no machine id was recorded for it, so nobody can say that it is the same machine. Give machine_id.",
                result,
                verdict="unknown",
            )
        return account.done(was_off, "yes", result)

    def _in_rescue(self, keys: rescue.Keys | None) -> dict[str, str]:
        """A host that an earlier run has brought into its rescue lets nobody in by the old key."""
        if keys is None:
            return {}
        with rescue.way_in(self._connection, keys) as reach:
            found, _why = rescue.look(reach, 20)
        return {name: str(found.get(name, "")) for name in ("machine_id", "boot_id")} if found else {}

    def _wait_for_identity(self, deadline: float, keys: rescue.Keys | None = None) -> dict[str, str]:
        while True:
            identity = self._identity() or self._in_rescue(keys)
            if identity or time.monotonic() >= deadline:
                return identity
            with contextlib.suppress(Exception):
                self._connection.reset()
            time.sleep(POLL)


def settles(watch: witness.Watch) -> bool:
    """Whether a witness tells at once that a host is off: one that restarts is off for a moment. Silence has lasted already."""
    return any(one["kind"] in (*witness.CONTROLLERS, "libvirt") for one in watch.witnesses)


def words_of(options: dict[str, Any]) -> dict[str, Any]:
    """Whose signed word stands for engines that nobody could ask; it belongs into the evidence."""
    return {"attested": options["attested"]} if options["attested"] else {}


def _why(reading: dict[str, Any]) -> str:
    """What a reading says beside its verdict, for a message."""
    return str(reading["detail"].get("problem") or reading["detail"])
