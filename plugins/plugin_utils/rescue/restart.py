# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host's way into its rescue over its management controller: told what to boot from, off, on; and the controller as it was before.

What the host boots from is set while its old system still runs, so that a controller that will not costs nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.sunset.crm.plugins.plugin_utils.actions.account import Account
from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.power import booting, controllers, witness
from ansible_collections.sunset.crm.plugins.plugin_utils.power.controllers import Silent

POLL, LONGEST_POLL = 0.5, 5.0
SETTLE = 2.0  # as host_power: one that restarts by itself is off for a moment


class NotThere(Exception):
    """It did not come as far as its rescue; the words say how far, and what it does now."""


@dataclass
class Restart:
    """One host. boot: with the address of its medium. note: keeps the former override before it is changed."""

    item: str
    witness: Any
    board: Mapping[str, Any]
    boot: Mapping[str, Any]
    account: Account
    former: dict[str, Any]
    note: Callable[[dict[str, Any]], None]
    readings: dict[str, Any] = field(default_factory=dict)

    def aim(self) -> None:
        """The medium in, the override set, both read back. Raises NotThere, and then nothing of ours is left at the controller."""
        try:
            with witness.Watch(self.witness) as watch:
                controller = booting.own_controller(self.item, watch, self.board)
                state = booting.read(controller, self.boot)
                self.account.before["boot"] = state
                self.former = booting.former_of(state, self.boot) or self.former
                if state["inserted"] and state["image"] == self.boot.get("image"):
                    # Of a run that was killed: its medium is another build.
                    self._did(booting.back(controller, self.boot, state, self.former), controller.kind)
                    state = booting.read(controller, self.boot)
                self.note(self.former)
                self._did(booting.into_rescue(controller, self.boot, state), controller.kind)
                after = booting.read(controller, self.boot)
                self.readings["set"] = after
        except (Refusal, Silent) as exc:
            raise NotThere(f"{exc} {self.left()}") from None
        if not booting.set_for(after, self.boot):
            raise NotThere(
                f"its controller took the request and does not show it: read back was target {after['target']}, {after['enabled']}, medium "
                f"{after['image'] or 'none'}. {self.left()}"
            )

    def off(self, ask: Callable[[], dict[str, Any]], seconds: float) -> None:
        """Asked through its own connection, seen off by its witness. Nothing is forced. Raises NotThere."""
        start = time.monotonic()
        self.account.did(did="asked to power off", through="its connection", **ask())
        pause = POLL
        with witness.Watch(self.witness, seconds + witness.PATIENCE) as watch:
            while True:
                reading = watch.look("off")
                if reading["power"] == "off":
                    time.sleep(SETTLE)
                    reading = watch.look()
                    if reading["power"] == "off":
                        break
                if time.monotonic() - start >= seconds:
                    said = reading["detail"].get("problem") or reading["detail"]
                    raise NotThere(
                        f"it is {reading['power']} {seconds:g} s after it was asked to power off, says its witness ({reading['kind']}: {said}). "
                        f"Nothing was forced. {self.left()}"
                    )
                time.sleep(pause)
                pause = min(pause * 1.5, LONGEST_POLL)
        self.readings["off"] = {**reading, "seconds": round(time.monotonic() - start, 2)}

    def on(self) -> None:
        """Switched on by its controller, once. Raises NotThere where that was turned down; the host is off then."""
        try:
            with witness.Watch(self.witness) as watch:
                controller = booting.own_controller(self.item, watch, self.board)
                try:
                    self.account.did(did="switched on", through=controller.kind, request=controller.ask(controllers.ON))
                except Silent as exc:
                    # It may have done it all the same: what answers shows that.
                    self.account.did(did="switched on", through=controller.kind, request="On", answer=f"none: {exc}")
        except (Refusal, Silent) as exc:
            raise NotThere(f"it is off, and could not be switched on: {exc} {self.left()} Switched on, it starts its old system.") from None

    def left(self) -> str:
        """Put the controller back, and say how that ended."""
        problem = self.back()
        return f"What it boots from was not put back: {problem}" if problem else "What it boots from is as it was before."

    def back(self) -> str:
        """The medium out, the override as it was, both read back; why not, else empty."""
        try:
            with witness.Watch(self.witness) as watch:
                controller = booting.own_controller(self.item, watch, self.board)
                state = booting.read(controller, self.boot)
                if not booting.usual(state, self.boot, self.former):
                    self._did(booting.back(controller, self.boot, state, self.former), controller.kind)
                    state = booting.read(controller, self.boot)
        except (Refusal, Silent) as exc:
            return str(exc)
        self.readings["put_back"] = state
        if booting.usual(state, self.boot, self.former):
            return ""
        return (
            f"its controller took the request and does not show it: read back was target {state['target']}, {state['enabled']}, medium "
            f"{state['image'] or 'none'}."
        )

    def _did(self, sent: list[str], kind: str) -> None:
        for one in sent:
            self.account.did(did="asked", through=kind, request=one)
