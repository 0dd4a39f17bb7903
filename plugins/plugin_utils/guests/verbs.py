# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Two verbs on a set of virtual machines, whatever their hypervisor: stop it, start it again. Core and backend put together."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ansible_collections.sunset.crm.plugins.plugin_utils.actions.account import Account
from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.guests import guests

SETTLE = 1.0  # seconds between the last end or start and the reading that counts: what comes back at once has done so by then
PATIENCE = 3600.0  # seconds for which a request of an earlier run still counts


class Hypervisor(guests.Backend, Protocol):
    """What a hypervisor offers beside the verbs of the core. Its records hold only what may stand in the ledger."""

    what: str

    def tools(self) -> dict[str, str]:
        """Versions of everything on the way."""

    def host(self) -> dict[str, Any]:
        """Who the hypervisor is, in the form in which the survey wrote it into the plan."""

    def recall(self, former: Mapping[str, Mapping[str, Any]]) -> None:
        """What an earlier call knew of guests that may be gone by now (they exist only while they run)."""

    def brief(self, guest: guests.Guest) -> dict[str, Any]:
        """The few fields of a guest that its row in the evidence shows."""

    def keep(self, guest: guests.Guest) -> dict[str, Any]:
        """Put away what would vanish with the guest, before it is asked. What a resume needs of it is merged into its former state."""

    def life(self, guest: guests.Guest) -> str:
        """A name of this run of the guest: after its next start it is another."""


@dataclass(frozen=True)
class Order:
    """What is asked for. hosts: guests that are hosts of the plan (name there -> host). ran: those of them that were on before their own step."""

    guests: Sequence[str]
    hosts: Mapping[str, str] = field(default_factory=dict)
    ran: Collection[str] = ()
    timeout: float = 300
    force_after: float | None = None
    allowed_by: str = ""
    # Who they and their hypervisor were when the plan was made.
    identity: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Memory:
    """What the ledger keeps between runs. asked: name -> {life, at} of requests already sent, and forced: who allowed it, of those that were cut
    off then; note: append to the ledger, synced."""

    former: Mapping[str, Any]
    asked: Mapping[str, Mapping[str, Any]]
    note: Callable[[dict[str, Any]], None]
    now: Callable[[], float] = time.time


def _records(seen: Iterable[guests.Guest]) -> dict[str, Any]:
    return {guest.name: {k: v for k, v in guest.record.items() if k != "former"} for guest in seen}


def check_hosts(seen: Iterable[guests.Guest], hosts: Mapping[str, str]) -> None:
    """A guest that is a host of the plan is not pulled away from under what runs on it: its own step comes first."""
    up = [f"{guest.name} (the host {hosts[guest.name]})" for guest in seen if guest.name in hosts and guest.power != "off"]
    if up:
        raise Refusal(
            f"{', '.join(up)} still runs: a host of the plan goes off by its own step (host_power), which asks for everything on it. "
            "Nothing was changed. Somebody has switched it on again since, or it never went off; run playbooks/shutdown.yml again."
        )


def check_identity(seen: Iterable[guests.Guest], identity: Mapping[str, Any], hypervisor: Mapping[str, Any]) -> None:
    """Another guest under the same name, or another hypervisor at the same address, is not the plan's."""
    ids = identity.get("ids") or {}
    other = [
        f"{guest.name} is {guest.key}, the plan has {ids[guest.name]}" for guest in seen if ids.get(guest.name) not in (None, guest.key)
    ]
    told = identity.get("hypervisor") or {}
    other += [
        f"the hypervisor's {key} is {hypervisor.get(key)}, the plan has {value}"
        for key, value in told.items()
        if hypervisor.get(key) != value
    ]
    if other:
        raise Refusal(f"{'; '.join(other)}. Nothing was changed. Find out which it is; survey again if it was moved on purpose.")


def coming_down(backend: Hypervisor, seen: Iterable[guests.Guest], memory: Memory) -> set[str]:
    """Guests that are on their way down already: they say so, or an earlier run has asked this very life of theirs."""
    found = set()
    for guest in seen:
        told = memory.asked.get(guest.name) or {}
        again = told.get("life") == backend.life(guest) and memory.now() - float(told.get("at") or 0) < PATIENCE
        if guest.power != "off" and (again or guest.record.get("coming_down")):
            found.add(guest.name)
    return found


def stop(backend: Hypervisor, account: Account, order: Order, memory: Memory, check: bool) -> dict[str, Any]:
    """Nothing brings them back, then all are asked to end; each is seen to be off, and how it ended."""
    backend.recall(memory.former)
    before = backend.observe()
    guests.check_set(order.guests, before, backend.what)
    check_identity(before, order.identity, backend.host())
    account.before, account.tools = _records(before), backend.tools()
    if not check:
        check_hosts(before, order.hosts)
    held, ending = guests.to_stop(before)
    former = guests.former_of(before, memory.former, order.ran)
    if check or not (held or ending):
        result = _stopped(backend, before, before, {g.name: guests.Course(g, phase="off") for g in before}, former, memory)
        account.after = account.before
        if check and (held or ending):
            return account.done(True, "unknown", {"former": former, "would_hold": held, "would_stop": ending})
        return account.done(False, "yes", result)
    # Before the first change: an interrupted run must not take its own doing for the former state.
    for guest in before:
        if guest.power != "off":
            kept = backend.keep(guest)
            # What an earlier run found on, and has asked since, was on.
            former[guest.name].update({name: value for name, value in kept.items() if name != "power" or guest.name not in memory.former})
    memory.note({"kind": "found", "former": former})

    def asking(guest: guests.Guest) -> None:
        memory.note({"kind": "asked", "guest": guest.name, "life": backend.life(guest), "at_seconds": memory.now()})

    def forcing(guest: guests.Guest) -> None:
        # Whoever is killed now could not say any more by whose word it was.
        memory.note({"kind": "forced", "guest": guest.name, "allowed_by": order.allowed_by})

    expected = coming_down(backend, before, memory)
    courses = guests.bring_down(backend, before, order.timeout, order.force_after, account.did, None, expected, asking, forcing)
    time.sleep(SETTLE)
    backend.recall(former)
    after = backend.observe()
    account.after = _records(after)
    # How a guest ended that exists only while it runs, nobody can read later.
    ended = {one.name: one.record["reason"] for one in after if one.power == "off" and one.record.get("persistent") is False}
    if ended:
        for name, reason in ended.items():
            former[name]["ended"] = reason
        memory.note({"kind": "found", "former": former})
    result = _stopped(backend, before, after, courses, former, memory)
    if order.force_after is not None:
        words = (result.get("force_allowed_by"), order.allowed_by)
        result["force_allowed_by"] = ", ".join(dict.fromkeys(word for word in words if word))
    if any(course.phase in ("late", "kept") for course in courses.values()):
        where = {name: str(row["detail"]) for name, row in result["guests"].items()}
        return account.failed(guests.late_message(courses, order.timeout, order.force_after, where), result)
    problems = guests.differences(order.guests, after)
    problems += [f"{name} {one['detail']}" for name, one in result["guests"].items() if one["how"] == guests.STILL_ON]
    ids = {guest.key for guest in before}
    problems += [
        f"{guest.name} {result['guests'][guest.name]['detail']}"
        for guest in after
        if guest.key not in ids and guest.power == "off" and guest.name in courses
    ]
    problems += [f"{guest.name} still has its {guest.returns}" for guest in after if guest.returns]
    if problems:
        return account.failed(
            f"read again after all had ended: {'; '.join(problems)}. Something else works on these guests; find it, "
            "stop it, and run the same command again.",
            result,
        )
    return account.done(True, "yes", result)


def _stopped(
    backend: Hypervisor,
    before: Sequence[guests.Guest],
    after: Sequence[guests.Guest],
    courses: Mapping[str, guests.Course],
    former: Mapping[str, Any],
    memory: Memory,
) -> dict[str, Any]:
    ends = guests.endings(backend, courses, after)
    # Cut off by a run that did not live to record how it ended.
    earlier = {
        name: str(told["forced"])
        for name, told in memory.asked.items()
        if told.get("forced") and name in ends and ends[name].how == guests.ALREADY_OFF and ends[name].graceful != "yes"
    }
    for name, who in earlier.items():
        ends[name] = guests.Ending(guests.BY_FORCE, "no", f"{ends[name].detail}; cut off by an earlier run, allowed by {who}")
    now = {guest.key: guest for guest in after}
    rows: dict[str, Any] = {}
    for guest in before:
        course, end, seen = courses[guest.name], ends[guest.name], now.get(guest.key)
        timed = course.asked_at is not None and course.ended_at is not None
        rows[guest.name] = {
            "id": guest.key,
            "how": end.how,
            "graceful": end.graceful,
            "detail": end.detail,
            "seconds": round((course.ended_at or 0.0) - (course.asked_at or 0.0), 2) if timed else None,
            "before": backend.brief(guest),
            "after": backend.brief(seen) if seen else {},
            "returned_before": guest.returns,
            "returns_after": seen.returns if seen else "",
        }
    _verdict, way = guests.verdict(ends.values(), all(not guest.returns for guest in after))
    forced = [name for name, course in courses.items() if course.forced or name in earlier]
    allowed = {"force_allowed_by": ", ".join(sorted(set(earlier.values())))} if earlier else {}
    return {"guests": rows, "former": dict(former), "way": way, "forced": forced, **allowed}


def start(backend: Hypervisor, account: Account, former: Mapping[str, Any], timeout: float, check: bool) -> dict[str, Any]:
    """Exactly those run again that ran, kept or brought back by exactly what did so before."""
    if not former:
        raise Refusal("there is no record of what ran before (former is empty), so nothing can be put back")
    backend.recall(former)
    before = backend.observe()
    account.before, account.tools = _records(before), backend.tools()
    plan = [step for step in guests.to_start(before, former) if step.release or step.start]
    result: dict[str, Any] = {
        "started": [step.name for step in plan if step.start],
        "released": [step.name for step in plan if step.release],
    }
    if check:
        account.after = account.before
        return account.done(bool(plan), "unknown" if plan else "yes", result)
    after, failed = before, dict[str, str]()
    if plan:
        failed = guests.bring_up(backend, before, former, plan, timeout, account.did)
        time.sleep(SETTLE)
        after = backend.observe()
    account.after = _records(after)
    result["guests"] = {guest.name: {**backend.brief(guest), "returns": guest.returns} for guest in after}
    why = {name: f" ({text})" for name, text in failed.items() if text}
    why |= {guest.name: f" ({guest.refusal})" for guest in after if guest.power == "unknown" and guest.refusal}
    down = [f"{name}{why.get(name, '')}" for name in sorted({*failed, *guests.not_back(after, former)})]
    loose = [step.name for step in guests.to_start(after, former) if step.release]
    if down or loose:
        return account.failed(
            f"after the start {', '.join(down) or 'no guest'} does not run as it did and {', '.join(loose) or 'none'} lacks what brought it "
            "back before (autostart). Look at its console and the hypervisor's log, mend it, and run the same command again.",
            result,
        )
    return account.done(bool(plan), "yes", result)
