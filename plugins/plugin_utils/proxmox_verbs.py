# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Stop a set of guests of Proxmox VE, and start it again. Core and cluster put together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.sunset.crm.plugins.plugin_utils import guests
from ansible_collections.sunset.crm.plugins.plugin_utils import proxmox_guests as seeing
from ansible_collections.sunset.crm.plugins.plugin_utils import proxmox_tasks as tasks
from ansible_collections.sunset.crm.plugins.plugin_utils.account import Account
from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.proxmox_cluster import Cluster

SETTLE = 2.0  # seconds between the last start and the reading that counts
KEPT = ("kind", "vmid", "node", "guest_name", "status", "qmpstatus", "lock", "ha", "onboot", "startup", "agent")


@dataclass(frozen=True)
class Limits:
    """How long a guest may take from its request, and whether, when and on whose word it is cut off before that."""

    timeout: float
    force_after: float | None = None
    allowed_by: str = ""


def records(seen: Iterable[guests.Guest]) -> dict[str, Any]:
    return {guest.name: {k: v for k, v in guest.record.items() if k != "former"} for guest in seen}


def _short(guest: guests.Guest) -> dict[str, Any]:
    return {key: guest.record[key] for key in KEPT}


def waits(found: Iterable[guests.Guest]) -> dict[str, str]:
    """Guests that are locked by a task that has to end first, by name."""
    return {guest.name: guest.record["lock"] for guest in found if guest.record["lock"] in tasks.OWNERS}


def stop(
    cluster: Cluster,
    account: Account,
    limits: Limits,
    former: Mapping[str, Any],
    note: Callable[[dict[str, Any]], None],
    check: bool,
) -> dict[str, Any]:
    """HA and onboot are set aside, then all are asked to end; each is seen to be off, and how it ended."""
    expected = cluster.expected
    before = cluster.prepare("stopped")
    what = f"guests of {cluster.name}"
    guests.check_set(expected, before, what)
    if not check:
        before = cluster.settle(before)
        guests.check_set(expected, before, what)
    account.before, account.tools = records(before), cluster.tools()
    held, ending = guests.to_stop(before)
    keep = guests.former_of(before, former)
    if check or not (held or ending):
        account.after = account.before
        if held or ending:
            extra = {"waits_for": waits(before)} if waits(before) else {}
            return account.done(True, "unknown", {"former": keep, "would_hold": held, "would_stop": ending, **extra})
        courses = {guest.name: guests.Course(guest, phase="off") for guest in before}
        return account.done(False, "yes", _stopped(cluster, before, before, courses, keep))
    # Before the first change: an interrupted run must not take its own doing for the former state.
    note({"former": keep})
    courses = guests.bring_down(cluster, before, limits.timeout, limits.force_after, account.did)
    after = cluster.observe()
    account.after = records(after)
    result = _stopped(cluster, before, after, courses, keep)
    if limits.force_after is not None:
        result["force_allowed_by"] = limits.allowed_by
    if any(course.phase in ("late", "kept") for course in courses.values()):
        said = guests.late_message(courses, limits.timeout, limits.force_after)
        reasons = {name: cluster.said_of(name) for name, course in courses.items() if course.phase == "late"}
        reasons = {name: why for name, why in reasons.items() if why}
        if reasons:
            said += f" Proxmox said: {'; '.join(f'{name}: {why}' for name, why in sorted(reasons.items()))}."
        return account.failed(said, result)
    problems = guests.differences(expected, after)
    problems += [f"{name} {one['detail']}" for name, one in result["guests"].items() if one["how"] == guests.STILL_ON]
    problems += [f"{guest.name} still has its {guest.returns}" for guest in after if guest.returns]
    if problems:
        return account.failed(
            f"read again after all had ended: {'; '.join(problems)}. Something else works on these guests; find it, "
            "stop it, and run the same command again.",
            result,
        )
    return account.done(True, "yes", result)


def _stopped(
    cluster: Cluster,
    before: Sequence[guests.Guest],
    after: Sequence[guests.Guest],
    courses: Mapping[str, guests.Course],
    former: Mapping[str, Any],
) -> dict[str, Any]:
    ends = guests.endings(cluster, courses, after)
    now = {guest.key: guest for guest in after}
    rows: dict[str, Any] = {}
    for guest in before:
        course, end, seen = courses[guest.name], ends[guest.name], now.get(guest.key)
        seconds = None
        if course.asked_at is not None and course.ended_at is not None:
            seconds = round(course.ended_at - course.asked_at, 2)
        rows[guest.name] = {
            "id": guest.key,
            "how": end.how,
            "graceful": end.graceful,
            "detail": end.detail,
            "seconds": seconds,
            "before": _short(guest),
            "after": _short(seen) if seen else {},
            "stays_off": seeing.stays_off(seen.record) if seen else "unknown",
            "noticed": cluster.said_of(guest.name),
        }
    _verdict, way = guests.verdict(ends.values(), all(not guest.returns for guest in after))
    return {
        "guests": rows,
        "former": dict(former),
        "way": way,
        "forced": [name for name, course in courses.items() if course.forced],
        "templates": [guest.name for guest in before if guest.record["template"]],
        "hibernated": [guest.name for guest in before if guest.record["lock"] == "suspended"],
    }


def start(
    cluster: Cluster,
    account: Account,
    former: Mapping[str, Any],
    timeout: float,
    check: bool,
) -> dict[str, Any]:
    """Exactly those run again that ran, with exactly the onboot and HA state that they had."""
    if not former:
        raise Refusal("there is no record of what ran before (former is empty), so nothing can be put back")
    before = cluster.prepare("started")
    guests.check_set(list(former), before, f"guests of {cluster.name}")
    account.before, account.tools = records(before), cluster.tools()
    plan = [step for step in guests.to_start(before, former) if step.release or step.start]
    result: dict[str, Any] = {
        "started": [step.name for step in plan if step.start],
        "released": [step.name for step in plan if step.release],
    }
    if check:
        account.after = account.before
        return account.done(bool(plan), "unknown" if plan else "yes", result)
    after, failed = list(before), list[str]()
    if plan:
        cluster.settle(before)
        failed = guests.bring_up(cluster, before, former, plan, timeout, account.did)
        cluster.clock.sleep(SETTLE)
        after = cluster.observe()
    account.after = records(after)
    result["guests"] = {guest.name: _short(guest) for guest in after}
    down = sorted({*failed, *guests.not_back(after, former)})
    loose = [step.name for step in guests.to_start(after, former) if step.release]
    if down or loose:
        said = "; ".join(f"{name}: {why}" for name in down if (why := cluster.said_of(name)))
        return account.failed(
            f"after the start {', '.join(down) or 'no guest'} does not run as it did and {', '.join(loose) or 'none'} lacks its former "
            f"HA state or onboot{' (' + said + ')' if said else ''}. Look at its task log, mend it, and run the same command again.",
            result,
        )
    return account.done(bool(plan), "yes", result)
