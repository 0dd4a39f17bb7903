# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""HA and Ceph of a Proxmox VE cluster set aside before its nodes go off, and put back when they are there again."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

from ansible_collections.sunset.crm.plugins.plugin_utils.actions.account import Account
from ansible_collections.sunset.crm.plugins.plugin_utils.actions.arguments import checked
from ansible_collections.sunset.crm.plugins.plugin_utils.actions.recording import RecordedAction
from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.proxmox import node_rules as proxmox_node_rules
from ansible_collections.sunset.crm.plugins.plugin_utils.proxmox.api import ApiError, Unanswered
from ansible_collections.sunset.crm.plugins.plugin_utils.proxmox.node_rules import Changes, Standing
from ansible_collections.sunset.crm.plugins.plugin_utils.proxmox.nodes import Nodes, Place
from ansible_collections.sunset.crm.plugins.plugin_utils.record import ledger, view
from ansible_collections.sunset.crm.plugins.plugin_utils.record.estate import Estate

SPEC: dict[str, Any] = {
    "state": {"type": "str", "required": True, "choices": ["aside", "restored"]},
    "cluster": {"type": "dict", "required": True},
    # Before version 9.1 an HA agent is idle only about ten minutes after its last resource was let go.
    "timeout": {"type": "float", "default": 900},
    "former": {"type": "dict", "default": {}},
}
PAUSE = 1.0


class ActionModule(RecordedAction):
    """aside, restored; the same for each node of the cluster, one after another."""

    def perform(self, args: dict[str, Any], task_vars: dict[str, Any], check: bool) -> dict[str, Any]:
        options = checked(self.name, SPEC, args)
        account, place = Account(self.name, options["item"]), Place.of(options["cluster"])
        estate = Estate.at(task_vars.get("sunset_estate_dir"))
        entries = ledger.read(estate.ledger_file)
        book = view.build(entries)
        deadline = time.monotonic() + options["timeout"]
        until = deadline if options["state"] == "restored" and not check else 0.0
        with contextlib.nullcontext() if check else _alone(estate, place, deadline), _opened(place, place.gone(entries), until) as nodes:
            nodes.tell = lambda text: self._display.display(f"{options['item']}: {text}")
            account.tools = nodes.tools()
            patience = max(1.0, deadline - time.monotonic())
            if options["state"] == "aside":
                return _aside(nodes, place, options["item"], account, book, patience, check)
            return _restored(nodes, place, Changes.of(options["former"] or {}), options["item"], account, book, patience, check)


@contextlib.contextmanager
def _alone(estate: Estate, place: Place, deadline: float) -> Iterator[None]:
    """The nodes of one cluster take their turns: what the first has set aside, the others find so."""
    with contextlib.ExitStack() as held:
        while True:
            try:
                held.enter_context(estate.item_lock(f"cluster {place.cluster}"))
                break
            except Refusal:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(PAUSE / 4)
        yield


@contextlib.contextmanager
def _opened(place: Place, gone: list[str], deadline: float) -> Iterator[Nodes]:
    """The cluster. One that comes up answers nobody at first; it is waited for until the deadline."""
    with contextlib.ExitStack() as opened:
        while True:
            try:
                nodes = opened.enter_context(place.opened(gone))
                break
            except (Unanswered, ApiError) as exc:
                if time.monotonic() >= deadline:
                    raise exc if isinstance(exc, Refusal) else Refusal(f"the cluster {place.cluster} does not answer: {exc}") from None
                time.sleep(PAUSE)
        yield nodes


def _result(now: Standing, place: Place, former: Changes, nodes: Nodes, book: view.View) -> dict[str, Any]:
    monitors = place.monitors(book, now)
    return {
        "cluster": place.cluster,
        "node": place.node,
        "ha": "disarmed" if now.disarmed else "let be" if proxmox_node_rules.ha_is_aside(now) else "armed",
        "noout": now.noout,
        "ceph": now.ceph or "none",
        "quorate": now.quorate,
        "gone": list(nodes.gone),
        # Ceph's monitors outlast its disks: such a node is asked when the others are off.
        "late": place.node in monitors,
        "monitors": monitors,
        "former": former.former(),
    }


def _aside(nodes: Nodes, place: Place, item: str, account: Account, book: view.View, patience: float, check: bool) -> dict[str, Any]:
    going = list(place.hosts.values())
    before = nodes.standing()
    account.before = before.brief()
    former = proxmox_node_rules.wanted(before, going, nodes.version)
    lacking = proxmox_node_rules.lacks(before, going, nodes.gone)
    result = _result(before, place, former, nodes, book)
    if not lacking:
        account.after = account.before
        return account.done(False, "yes", result)
    if check:
        # A rehearsal, or the look at what is there before: guests may run by then.
        nodes.may(former)
        account.after = account.before
        return account.done(True, "unknown", {**result, "now": lacking})
    nodes.allow(going, before)
    now = nodes.set_aside(going, patience, account.did)
    account.after = now.brief()
    lacking = proxmox_node_rules.lacks(now, going, nodes.gone)
    # Nodes that were late for their turn find it done; what was there before is in the ledger since the first.
    result = _result(now, place, former, nodes, book)
    if lacking:
        return account.failed(
            f"{item} stays on: {'; '.join(lacking)}. No node was asked. Mend that, then run the same command again.",
            {**result, "now": lacking},
        )
    return account.done(account.acted, "yes", result)


def _restored(
    nodes: Nodes, place: Place, former: Changes, item: str, account: Account, book: view.View, patience: float, check: bool
) -> dict[str, Any]:
    before = nodes.standing()
    account.before = before.brief()
    todo, away = proxmox_node_rules.left(former, before), proxmox_node_rules.absent(before)
    if check or not (todo or away):
        account.after = account.before
        return account.done(bool(todo), "unknown" if todo or away else "yes", _result(before, place, former, nodes, book))
    nodes.may(todo)
    now = nodes.put_back(former, patience, account.did)
    account.after = now.brief()
    todo, away = proxmox_node_rules.left(former, now), proxmox_node_rules.absent(now)
    result = _result(now, place, former, nodes, book)
    if todo or away:
        said = f"not there yet: {', '.join(away)}" if away else f"not put back: {todo.former()}"
        return account.failed(
            f"{item}: HA and Ceph of {place.cluster} are not as they were ({said}). Switch its nodes on, then run the same command again.",
            result,
        )
    return account.done(account.acted, "yes", result)
