# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host's power: asked through its own connection, seen by a witness outside it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable
from typing import Any

from ansible.errors import AnsibleConnectionFailure

from ansible_collections.sunset.crm.plugins.plugin_utils import ledger, witness
from ansible_collections.sunset.crm.plugins.plugin_utils.account import Account
from ansible_collections.sunset.crm.plugins.plugin_utils.arguments import checked
from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.estate import Estate
from ansible_collections.sunset.crm.plugins.plugin_utils.recording import RecordedAction

SPEC: dict[str, Any] = {
    "state": {"type": "str", "required": True, "choices": ["off", "on"]},
    "witness": {"type": "dict", "required": True},
    "timeout": {"type": "float", "default": 300},
    "silence_seconds": {"type": "float", "default": 20},
    "machine_id": {"type": "str"},
}
IDENTITY = "cat /etc/machine-id /proc/sys/kernel/random/boot_id"
POWER_OFF = "if test -d /run/systemd/system; then systemctl --no-block poweroff; else shutdown -P now || poweroff; fi"
POLL = 0.5
REFUSED_GRACE = 10.0  # a host may go down although its answer to the request was an error


def recorded_machine(entries: Iterable[ledger.Entry], item: str) -> str:
    """The machine id that was read before this host was last switched off."""
    found = ""
    for entry in entries:
        record = entry.record
        if record.get("item") == item and record.get("aspect") == "power" and record.get("kind") == "outcome":
            result = (record.get("evidence") or {}).get("result") or {}
            found = str(result.get("machine_id") or found)
    return found


def off_result(reading: dict[str, Any], how: str, identity: dict[str, str], seconds: float | None) -> dict[str, Any]:
    """What the ledger keeps of a host that is off. proof is the witness' kind: silence is never called a power state."""
    return {
        "power": reading["power"],
        "how": how,
        "proof": reading["kind"],
        "seen_at": reading["at"],
        "stays_off": {True: "yes", False: "no"}.get(reading["detail"].get("stays_off"), "unknown"),
        "exit_code": reading["detail"].get("exit_code"),
        "seconds": seconds,
        **identity,
    }


class ActionModule(RecordedAction):
    """off and on; the witness has the first and the last word."""

    def perform(self, args: dict[str, Any], task_vars: dict[str, Any], check: bool) -> dict[str, Any]:
        options = checked(self.name, SPEC, args)
        outside = dict(options["witness"])
        outside.setdefault("seconds", options["silence_seconds"])
        reading = witness.read(outside)
        account = Account(self.name, options["item"])
        account.before = {"witness": reading}
        if reading["power"] == "unknown":
            raise Refusal(
                f"{options['item']}: its witness ({reading['kind']}) cannot say whether it is on or off: {reading['detail']}. "
                "Nothing was changed. Mend the witness in the inventory (sunset_power), or wait until it answers."
            )
        if options["state"] == "off":
            return self._off(options, outside, reading, account, check)
        expected = options["machine_id"]
        if not expected:
            book = Estate.at(task_vars.get("sunset_estate_dir")).ledger_file
            expected = recorded_machine(ledger.read(book), options["item"])
        return self._on(options, outside, reading, account, expected, check)

    # --- off

    def _off(
        self, options: dict[str, Any], outside: dict[str, Any], reading: dict[str, Any], account: Account, check: bool
    ) -> dict[str, Any]:
        if reading["power"] == "off":
            account.after = account.before
            return account.done(False, "yes", off_result(reading, "already off", {}, None))
        if check:
            account.after = account.before
            return account.done(True, "unknown", {"power": "on", "proof": reading["kind"]})
        identity = self._identity()
        if not identity:
            raise Refusal(
                f"{options['item']} is on, says its witness ({reading['kind']}), but does not answer through its connection, so it "
                "cannot be asked to end. Nothing was changed. Mend the connection, or switch it off by hand and run the same command again."
            )
        account.before["identity"] = identity
        if options["machine_id"] and identity["machine_id"] != options["machine_id"]:
            raise Refusal(
                f"{options['item']}: what answers is the machine {identity['machine_id']}, the plan has {options['machine_id']}. "
                "Another machine has its address; nothing was changed."
            )
        start = time.monotonic()
        answer = self._ask()
        account.did(did="asked to power off", command=POWER_OFF, **answer)
        deadline = start + options["timeout"]
        if answer["rc"] not in (0, None, 255):
            deadline = min(deadline, start + REFUSED_GRACE)
        while True:
            reading = witness.read(outside)
            if reading["power"] == "off" or time.monotonic() >= deadline:
                break
            time.sleep(POLL)
        seconds = round(time.monotonic() - start, 2)
        account.after = {"witness": reading}
        # The control connection of ssh would outlive the host and mislead the next task.
        with contextlib.suppress(Exception):
            self._connection.reset()
        result = off_result(reading, str(reading["detail"].get("how", "unknown")), identity, seconds)
        if reading["power"] == "off":
            return account.done(True, "yes", result)
        said = f"; its answer was exit code {answer['rc']}: {answer['stderr']}" if answer["rc"] else ""
        return account.failed(
            f"{options['item']} is {reading['power']} {seconds:g} s after it was asked to power off, says its witness "
            f"({reading['kind']}: {reading['detail']}){said}. Nothing was forced. Look at its console, or give it a longer "
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

    # --- on

    def _on(
        self,
        options: dict[str, Any],
        outside: dict[str, Any],
        reading: dict[str, Any],
        account: Account,
        expected: str,
        check: bool,
    ) -> dict[str, Any]:
        item, was_off = options["item"], reading["power"] == "off"
        if check:
            account.after = account.before
            return account.done(was_off, "unknown" if was_off else "yes", {"power": reading["power"], "proof": reading["kind"]})
        start = time.monotonic()
        if was_off:
            witness.switch_on(outside)
            account.did(did="switched on", through=outside["kind"])
        identity = self._wait_for_identity(start + options["timeout"])
        reading = witness.read(outside)
        account.after = {"witness": reading, "identity": identity}
        result = {"power": reading["power"], "proof": reading["kind"], "seconds": round(time.monotonic() - start, 2), **identity}
        if not identity:
            return account.failed(
                f"{item} does not answer through its connection within {options['timeout']:g} s (power: {reading['power']}). "
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

    def _wait_for_identity(self, deadline: float) -> dict[str, str]:
        while True:
            identity = self._identity()
            if identity or time.monotonic() >= deadline:
                return identity
            with contextlib.suppress(Exception):
                self._connection.reset()
            time.sleep(POLL)
