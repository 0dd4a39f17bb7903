# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The gates: what must have been seen before a step may be taken. Pure: plan, view and statements in, words out.

Rules are relations between items, never between hosts that happened to answer: a data set is dumped when everything that
writes to it is stopped, a host goes off when everything that stands on it is, a medium is wiped when every data set on it
is proven.
"""

from __future__ import annotations

from collections.abc import Callable

from ansible_collections.sunset.crm.plugins.plugin_utils.planning.plan import Item
from ansible_collections.sunset.crm.plugins.plugin_utils.steps import gates_shutdown, gates_wipe
from ansible_collections.sunset.crm.plugins.plugin_utils.steps.grounds import SHUTDOWN, Context, Missing
from ansible_collections.sunset.crm.plugins.plugin_utils.steps.steps import Step


def missing(step: Step, item: Item, context: Context, vault: str = "") -> list[Missing]:
    """What keeps this step on this item from being taken; an empty list if nothing does."""
    found = _of_phase(step, item, context) + _of_wave(step, item, context)
    if step.back:
        return found + gates_wipe.no_wipe(item, context)
    return found + RULES[step.aspect, step.value](item, context, vault)


def _of_phase(step: Step, item: Item, context: Context) -> list[Missing]:
    """A run does what it was opened, and confirmed, for."""
    wanted = step.phase if step.phase in ("wipe", "resume", "expire") else "shutdown"
    if context.phase == wanted:
        return []
    return [Missing(item["id"], f"this run is a {context.phase}, {step.phase} belongs to a {wanted}", f"run playbooks/{wanted}.yml")]


def _of_wave(step: Step, item: Item, context: Context) -> list[Missing]:
    plan, wave = context.plan, item["wave"]
    if wave not in context.waves:
        return [
            Missing(
                item["id"],
                f"it belongs to wave {wave}, this run works on {', '.join(context.waves)}",
                f"run it with -e sunset_wave_wanted={wave}",
            )
        ]
    if step.back or step.phase == "expire":
        return []
    waves = plan.waves[: plan.waves.index(wave)] + ([wave] if step.phase == "wipe" else [])
    return [
        Missing(item["id"], f"wave {other} is not accepted yet", f"ansible-playbook {SHUTDOWN} -e sunset_wave_wanted={other}")
        for other in waves
        if other not in context.view.accepted and not (context.check and other in context.waves)
    ]


def _first(item: Item, context: Context, vault: str) -> list[Missing]:
    """Steps before which nothing but the wave has to be in order."""
    return []


RULES: dict[tuple[str, str], Callable[[Item, Context, str], list[Missing]]] = {
    ("scheduler", "frozen"): _first,
    ("package", "open"): _first,
    ("access", "absent"): _first,
    ("web", "closed"): gates_shutdown.web,
    ("session", "ended"): gates_shutdown.session,
    ("service", "stopped"): gates_shutdown.service,
    ("guest", "stopped"): gates_shutdown.guest,
    ("dump", "saved"): gates_shutdown.dump,
    ("access", "present"): gates_shutdown.package_open,
    ("copy", "stored"): gates_shutdown.copy,
    ("proof", "equal"): gates_shutdown.proof,
    ("package", "sealed"): gates_shutdown.sealed,
    ("shelf", "stored"): gates_shutdown.shelf,
    ("package", "forgotten"): gates_wipe.forgotten,
    ("package", "destroyed"): gates_wipe.destroyed,
    ("look", "clear"): _first,
    ("cluster", "aside"): gates_shutdown.cluster,
    ("power", "off"): gates_shutdown.power,
    ("boot", "rescue"): gates_shutdown.boot,
    ("boot", "usual"): _first,
    ("wake", "woken"): gates_wipe.wake,
    ("rescue", "entered"): gates_wipe.rescue,
    ("wipe", "wiped"): gates_wipe.wipe,
    ("wake", "ended"): gates_wipe.ended,
}
