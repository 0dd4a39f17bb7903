# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host boots from next: its rescue system, or as usual again."""

from __future__ import annotations

from typing import Any

from ansible_collections.sunset.crm.plugins.plugin_utils import booting, controllers, witness
from ansible_collections.sunset.crm.plugins.plugin_utils.account import Account
from ansible_collections.sunset.crm.plugins.plugin_utils.arguments import checked
from ansible_collections.sunset.crm.plugins.plugin_utils.controllers import Controller, Silent
from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.powering import shown
from ansible_collections.sunset.crm.plugins.plugin_utils.recording import RecordedAction

SPEC: dict[str, Any] = {
    "state": {"type": "str", "required": True, "choices": ["rescue", "usual"]},
    "witness": {"type": "raw", "required": True},
    "boot": {"type": "dict", "required": True},
    "board": {"type": "dict", "default": {}},
    "former": {"type": "dict", "default": {}},
}


class ActionModule(RecordedAction):
    """rescue and usual; each is read back."""

    def perform(self, args: dict[str, Any], task_vars: dict[str, Any], check: bool) -> dict[str, Any]:
        options = checked(self.name, SPEC, args)
        boot = booting.described(options["boot"])
        account = Account(self.name, options["item"])
        with witness.Watch(options["witness"]) as watch:
            try:
                return self._set(options, boot, watch, self._controller(options, watch), account, check)
            except Silent as exc:
                raise Refusal(f"{options['item']}: {exc}. What came of it shows in the next run: run the same command again.") from None

    def _controller(self, options: dict[str, Any], watch: witness.Watch) -> Controller:
        controller = watch.controller()
        if controller is None:
            raise Refusal(
                f"{options['item']} has no management controller (a witness of kind redfish or ipmi), so nothing can be set at it"
            )
        declared = next(one for one in watch.witnesses if one["kind"] in witness.CONTROLLERS)
        reading = watch.look()
        seen = {name: shown(reading, name) for name in ("uuid", "serial")}
        if controllers.same_machine({**options["board"], **declared}, seen, {}) != "yes":
            raise Refusal(
                f"{options['item']}: nothing shows that the controller is that of this host; another machine could be booted into a rescue "
                "system. Nothing was changed. Give the witness the serial or the uuid that the controller shows."
            )
        return watch.controller() or controller

    def _set(
        self, options: dict[str, Any], boot: dict[str, Any], watch: witness.Watch, controller: Controller, account: Account, check: bool
    ) -> dict[str, Any]:
        rescue, former = options["state"] == "rescue", dict(options["former"])
        before = booting.read(controller, boot)
        account.before = {"boot": before}
        if rescue:
            former = booting.former_of(before, boot) or former
        there = booting.set_for(before, boot) if rescue else booting.usual(before, boot, former)
        if there or check:
            account.after = account.before
            return account.done(not there, "yes" if there else "unknown", _result(options, boot, before, former))
        sent = booting.into_rescue(controller, boot, before) if rescue else booting.back(controller, boot, before, former)
        for one in sent:
            account.did(did="asked", through=controller.kind, request=one)
        after = booting.read(controller, boot)
        account.after = {"boot": after}
        result = _result(options, boot, after, former)
        if booting.set_for(after, boot) if rescue else booting.usual(after, boot, former):
            return account.done(True, "yes", result)
        wanted = f"boot from {boot['way']}" if rescue else "boot as usual"
        return account.failed(
            f"{options['item']}: its controller took the request and does not show it: it was to {wanted}, read back was target "
            f"{after['target']}, {after['enabled']}, medium {after['image'] or 'none'}. Set it on the controller's own page, and run the same command again.",
            result,
        )


def _result(options: dict[str, Any], boot: dict[str, Any], state: dict[str, Any], former: dict[str, Any]) -> dict[str, Any]:
    """once: whether the controller forgets it after one boot. Where it does not, it must be put back or the host boots there for ever."""
    once = {"Once": "yes", "Continuous": "no"}.get(str(state["enabled"]), "unknown")
    return {
        "boot": options["state"],
        "way": boot["way"],
        **state,
        "former": former,
        **({"once": once} if options["state"] == "rescue" else {}),
    }
