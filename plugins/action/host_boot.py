# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host boots from next: its rescue system, or as usual again."""

from __future__ import annotations

from typing import Any

from ansible_collections.sunset.crm.plugins.plugin_utils.actions.account import Account
from ansible_collections.sunset.crm.plugins.plugin_utils.actions.arguments import checked
from ansible_collections.sunset.crm.plugins.plugin_utils.actions.recording import RecordedAction
from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.power import booting, witness
from ansible_collections.sunset.crm.plugins.plugin_utils.power.controllers import Controller, Silent
from ansible_collections.sunset.crm.plugins.plugin_utils.record import ledger
from ansible_collections.sunset.crm.plugins.plugin_utils.record.estate import Estate
from ansible_collections.sunset.crm.plugins.plugin_utils.rescue import rescue

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
        boot = self._boot(options, task_vars)
        if options["state"] == "usual" and not options["former"] and task_vars.get("sunset_estate_dir"):
            options["former"] = booting.remembered(ledger.read(Estate.at(task_vars["sunset_estate_dir"]).ledger_file), options["item"])
        account = Account(self.name, options["item"])
        with witness.Watch(options["witness"]) as watch:
            try:
                controller = booting.own_controller(options["item"], watch, options["board"])
                return self._set(options, boot, watch, controller, account, check)
            except Silent as exc:
                raise Refusal(f"{options['item']}: {exc}. What came of it shows in the next run: run the same command again.") from None

    def _boot(self, options: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        """The description with the address of its medium. One that the control node makes is there only while rescue_boot waits for it."""
        boot = booting.described(options["boot"])
        if not (boot.get("serve") or boot.get("publish")) or boot["way"] != "media":
            return boot
        if options["state"] == "rescue":
            raise Refusal(
                f"{options['item']}: its medium is made and given out by rescue_boot, which also sets and puts back what it boots from; "
                "with a medium of your own (image) it can be set here. Nothing was changed."
            )
        keys = rescue.Keys.of(Estate.at(task_vars.get("sunset_estate_dir")), options["item"], make=False)
        return booting.addressed(boot, keys.token if keys else "")

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
