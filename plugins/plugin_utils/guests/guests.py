# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The core of every guest module: what is expected, what is there, what must happen when, and how it ended.

It knows no backend. A backend (containers, virtual machines) says what it sees as Guest and carries out single verbs;
everything that is decided is decided here, in functions without a world, and the two loops at the end only carry it out.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal

# How a guest ended.
BY_ITSELF, BY_FORCE, ALREADY_OFF, UNKNOWN, STILL_ON, NOT_ASKED = (
    "by itself",
    "by force",
    "already off",
    "unknown",
    "still running",
    "not asked",
)

POLL_SHORTEST, POLL_LONGEST = 0.1, 1.0
# The share of its time after which a guest that was asked one way is asked the next.
NEXT_WAY = 0.5
AGENT, LOST = "agent", "the answer was lost"
UNSURE = (AGENT, LOST)


@dataclass(frozen=True)
class Guest:
    """What a backend saw of one guest at one moment.

    power: on, paused, changing (comes up or goes down by itself), off, gone, unknown.
    returns: what would start it again without being asked (restart policy, autostart); empty = nothing.
    needs: names of the guests of this set that it stands on; it is stopped before them and started after them.
    refusal: why this backend must leave it alone; empty = it can be handled.
    """

    key: str
    name: str
    power: str
    returns: str = ""
    needs: frozenset[str] = frozenset()
    refusal: str = ""
    record: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Ending:
    """How a guest came to be off. graceful: yes, no, unknown - whether nobody cut it off."""

    how: str
    graceful: str
    detail: str = ""


class Backend(Protocol):
    """The verbs a backend offers. Each asks for one thing and returns; none waits for the guest."""

    def observe(self) -> list[Guest]:
        """Everything in the set, read afresh."""

    def powers(self) -> dict[str, str]:
        """Key to power for the whole set, as cheaply as the backend can (it is polled)."""

    def hold(self, guest: Guest) -> None:
        """See to it that nothing starts the guest again."""

    def wake(self, guest: Guest) -> None:
        """Make a paused guest able to hear a request."""

    def ask(self, guest: Guest) -> str | None:
        """Ask the guest to end, without any force by the backend. What was asked (agent, ACPI), where there is more than one way."""

    def force(self, guest: Guest) -> None:
        """Cut the guest off."""

    def ending(self, before: Guest, after: Guest, asked: bool, forced: bool) -> Ending:
        """How the guest ended, from what the backend reports afterwards."""

    def release(self, guest: Guest, former: Mapping[str, Any]) -> None:
        """Put back what hold() took away."""

    def start(self, guest: Guest, former: Mapping[str, Any]) -> None:
        """Start the guest in the state that it was in."""


# --- decisions -------------------------------------------------------------------------------------------------------


def differences(expected: Collection[str], found: Iterable[Guest]) -> list[str]:
    """What does not fit between the names in the plan and the guests that are there, each by name."""
    names = [guest.name for guest in found]
    problems = [f"{name} is in the plan and not there" for name in sorted(set(expected) - set(names))]
    problems += [f"{name} is there and not in the plan" for name in sorted(set(names) - set(expected))]
    problems += [f"{name} is there {names.count(name)} times" for name in sorted(set(names)) if names.count(name) > 1]
    return problems


def check_set(expected: Collection[str], found: Sequence[Guest], what: str) -> None:
    """Refuse before anything is touched: wrong set, guests that cannot be handled, a circle."""
    refused = [f"{guest.name}: {guest.refusal}" for guest in found if guest.refusal]
    problems = differences(expected, found)
    if problems:
        # What must be left alone is said as well: it may be why the set is not the plan's.
        raise Refusal(
            f"{what}: {'; '.join([*refused, *problems])}. Nothing was changed. Correct the inventory's declaration and survey again, "
            "or take the guest out of the selection."
        )
    if refused:
        raise Refusal(f"{what}: {'; '.join(refused)}. Nothing was changed.")
    tiers(found)


def tiers(guests: Sequence[Guest]) -> list[list[str]]:
    """The names in the order of stopping: whatever others stand on comes after them. A circle is refused."""
    left = {guest.name: {name for name in guest.needs if name != guest.name} for guest in guests}
    left = {name: {need for need in needs if need in left} for name, needs in left.items()}
    order: list[list[str]] = []
    while left:
        carried = set().union(*left.values())
        free = sorted(name for name in left if name not in carried)
        if not free:
            raise Refusal(
                f"{', '.join(sorted(left))} stand on each other in a circle: there is no order in which they can go off. "
                "Correct their dependencies."
            )
        order.append(free)
        for name in free:
            del left[name]
    return order


def former_of(guests: Iterable[Guest], earlier: Mapping[str, Any] | None = None, ran: Collection[str] = ()) -> dict[str, dict[str, Any]]:
    """What resume must put back, by name.

    ran: guests that are hosts of the plan and were switched off by their own step before: they were on.

    earlier: what an interrupted run had recorded before it changed anything. It wins for the same guest: that run may
    have taken the restart policy away already, and what is read now would be its own doing.
    """
    former: dict[str, dict[str, Any]] = {}
    for guest in guests:
        before = dict((earlier or {}).get(guest.name) or {})
        if before.get("id") == guest.key:
            former[guest.name] = before
        else:
            former[guest.name] = {"id": guest.key, "power": guest.power, **dict(guest.record.get("former", {}))}
        if guest.name in ran and former[guest.name].get("power") == "off":
            former[guest.name]["power"] = "on"
    return former


def to_stop(guests: Iterable[Guest]) -> tuple[list[str], list[str]]:
    """Names that must be held, and names that must end."""
    seen = list(guests)
    return (
        [guest.name for guest in seen if guest.returns],
        [guest.name for guest in seen if guest.power != "off"],
    )


@dataclass
class Course:
    """One guest on its way down."""

    guest: Guest
    phase: str = "waiting"  # waiting, asked, forced, off, late, kept
    asked_at: float | None = None
    # An earlier run has asked it: it is given time to come down before it is asked once more.
    expected: bool = False
    # When it is to be asked once more, by the backend's next way; None: never.
    again_at: float | None = None
    ended_at: float | None = None
    forced: bool = False
    notes: list[str] = field(default_factory=list)

    @property
    def over(self) -> bool:
        return self.phase in ("off", "late", "kept")


def moves(
    courses: Mapping[str, Course], powers: Mapping[str, str], now: float, timeout: float, force_after: float | None
) -> list[tuple[str, str]]:
    """What is due at this moment, as (verb, name): off, expect, ask, force, late, keep.

    Each guest has its own deadline, counted from its own request. A guest is asked as soon as everything that stands
    on it is off; where one of those does not end, it is kept running rather than pulled away from under it.
    """
    carriers: dict[str, list[str]] = {name: [] for name in courses}
    for name, course in courses.items():
        for need in course.guest.needs:
            if need in carriers and need != name:
                carriers[need].append(name)
    due: list[tuple[str, str]] = []
    ended = {name for name, course in courses.items() if course.phase == "off" or powers.get(course.guest.key, "gone") in ("off", "gone")}
    for name, course in courses.items():
        if course.over:
            continue
        if name in ended:
            due.append(("off", name))
        elif course.phase == "waiting":
            above = [courses[other] for other in carriers[name]]
            if any(other.phase in ("late", "kept") for other in above):
                due.append(("keep", name))
            elif all(other.guest.name in ended for other in above):
                due.append(("expect" if course.expected else "ask", name))
        elif now - (course.asked_at or 0.0) >= timeout:
            due.append(("late", name))
        elif course.phase == "asked" and force_after is not None and now - (course.asked_at or 0.0) >= force_after:
            due.append(("force", name))
        elif course.phase == "asked" and course.again_at is not None and now >= course.again_at:
            due.append(("ask", name))
    return due


def verdict(endings: Iterable[Ending], held: bool) -> tuple[str, str]:
    """(verdict, way): is the whole set proven off and kept off, and which word its worst end deserves.

    way: graceful, forced, unknown, running. A forced or unexplained end is never called graceful.
    """
    seen = list(endings)
    if any(ending.how in (STILL_ON, NOT_ASKED) for ending in seen):
        return "no", "running"
    way = "graceful"
    if any(ending.graceful == "unknown" for ending in seen):
        way = "unknown"
    if any(ending.graceful == "no" for ending in seen):
        way = "forced"
    return ("yes" if held else "no"), way


def late_message(courses: Mapping[str, Course], timeout: float, force_after: float | None, where: Mapping[str, str] | None = None) -> str:
    """One message for the guests that did not end. where: what is known of the place where each still runs."""
    late = sorted(name for name, course in courses.items() if course.phase == "late")
    shown = [f"{name} ({(where or {})[name]})" if (where or {}).get(name) else name for name in late]
    kept = sorted(name for name, course in courses.items() if course.phase == "kept")
    text = f"{', '.join(shown)} did not end within {timeout:g} s of the request and still runs"
    text += "; it was killed and is still there" if any(courses[name].forced for name in late) else "; nothing was killed"
    if kept:
        text += f". {', '.join(kept)} was not asked, because something that still runs stands on it"
    text += ". Find out why it does not end (its log), give it a longer timeout, or stop it by hand; then run the same command again"
    if force_after is None:
        text += ". Cutting it off is a decision: force_after together with force_allowed_by"
    return text + "."


@dataclass(frozen=True)
class Revival:
    """What bringing one guest back takes."""

    name: str
    release: bool
    start: bool


def to_start(guests: Sequence[Guest], former: Mapping[str, Mapping[str, Any]]) -> list[Revival]:
    """What must happen so that exactly that runs again which ran; in the order of starting."""
    by_name = {guest.name: guest for guest in guests}
    missing = [name for name in sorted(former) if name not in by_name]
    other = [name for name in sorted(former) if name in by_name and by_name[name].key != former[name].get("id")]
    problems = [f"{name} was recorded and is not there any more" for name in missing]
    problems += [f"{name} is not the guest that was recorded ({by_name[name].key[:12]})" for name in other]
    if problems:
        raise Refusal(f"{'; '.join(problems)}. Nothing was changed. Restore it from its package first.")
    order = [name for tier in reversed(tiers(guests)) for name in tier if name in former]
    plan = []
    for name in order:
        guest, before = by_name[name], former[name]
        plan.append(
            Revival(
                name,
                # Of what nobody knows (moved to another host, half removed) nothing is touched: it may run elsewhere.
                release=not (guest.power == "unknown" and guest.refusal)
                and dict(guest.record.get("former", {})) != {k: v for k, v in before.items() if k not in ("id", "power")},
                # What was paused and was left running (woken for its end, or started by a run that did not live to pause it) is paused again.
                start=before.get("power") != "off" and (guest.power == "off" or (before.get("power"), guest.power) == ("paused", "on")),
            )
        )
    return plan


BACK = {"on": ("on",), "paused": ("paused",), "changing": ("on", "changing")}


def not_back(guests: Iterable[Guest], former: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Names of those that ran and are not again in the state that they were in (one that crashes in a loop is not)."""
    now = {guest.name: guest.power for guest in guests}
    return sorted(
        name for name, before in former.items() if before.get("power") != "off" and now.get(name) not in BACK.get(before["power"], ("on",))
    )


# --- the world: carry the decisions out ---------------------------------------------------------------------------------


@dataclass
class Clock:
    """Monotonic time and sleep, replaceable in tests."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


def bring_down(
    backend: Backend,
    guests: Sequence[Guest],
    timeout: float,
    force_after: float | None,
    record: Callable[..., None],
    clock: Clock | None = None,
    expected: Collection[str] = (),
    before_asking: Callable[[Guest], None] | None = None,
    before_forcing: Callable[[Guest], None] | None = None,
) -> dict[str, Course]:
    """Hold all, then ask all as their turn comes, and wait for all together.

    expected: names of those that come down already, or that an earlier run has asked. before_asking, before_forcing: told of each first.
    """
    clock = clock or Clock()
    for guest in guests:
        if guest.returns:
            backend.hold(guest)
            record(did="held", guest=guest.name, was=guest.returns)
    courses = {
        guest.name: Course(guest, phase="off" if guest.power == "off" else "waiting", expected=guest.name in expected) for guest in guests
    }
    pause = POLL_SHORTEST
    while not all(course.over for course in courses.values()):
        due = moves(courses, backend.powers(), clock.now(), timeout, force_after)
        for verb, name in due:
            course = courses[name]
            if verb == "expect":
                course.asked_at, course.phase, course.again_at = clock.now(), "asked", clock.now() + timeout * NEXT_WAY
                record(did="left to come down, it was asked before", guest=name)
            elif verb == "ask":
                if course.guest.power == "paused" and course.asked_at is None:
                    backend.wake(course.guest)
                    record(did="woken", guest=name)
                if before_asking:
                    before_asking(course.guest)
                course.phase, course.again_at = "asked", None
                course.asked_at = clock.now() if course.asked_at is None else course.asked_at
                way = backend.ask(course.guest)
                if way in UNSURE:
                    # An agent may take a request and not carry it out; a lost answer leaves open whether it was taken.
                    course.again_at = clock.now() + timeout * NEXT_WAY
                record(did="asked", guest=name, **({"by": way} if way else {}))
            elif verb == "force":
                if before_forcing:
                    before_forcing(course.guest)
                course.forced, course.phase = True, "forced"
                backend.force(course.guest)
                record(did="forced", guest=name)
            else:
                course.phase = {"off": "off", "late": "late", "keep": "kept"}[verb]
                course.ended_at = clock.now()
        if due:
            pause = POLL_SHORTEST
        elif not all(course.over for course in courses.values()):
            clock.sleep(pause)
            pause = min(pause * 1.5, POLL_LONGEST)
    return courses


def endings(backend: Backend, courses: Mapping[str, Course], after: Iterable[Guest]) -> dict[str, Ending]:
    """How each ended, from a fresh reading; a guest that runs again by now is still running, whatever was seen before."""
    seen_after = list(after)
    now, named = {guest.key: guest for guest in seen_after}, {guest.name: guest for guest in seen_after}
    result: dict[str, Ending] = {}
    for name, course in courses.items():
        seen = now.get(course.guest.key)
        if seen is None:
            other = named.get(name)
            told = f", and another one of its name is {other.power} ({other.key[:12]}): something makes it anew" if other else ""
            running = other is not None and other.power != "off"
            result[name] = Ending(STILL_ON if running else UNKNOWN, "unknown", f"it is gone, and how it ended with it{told}")
        elif course.phase == "kept":
            result[name] = Ending(NOT_ASKED, "unknown", "something that still runs stands on it")
        elif seen.power != "off":
            # What the backend knows of the place where it still runs (the nodes of a swarm).
            detail = (
                str(seen.record.get("left", ""))
                if course.phase == "late"
                else (seen.refusal or f"it was off and is {seen.power} again: something starts it")
            )
            result[name] = Ending(STILL_ON, "unknown", detail)
        else:
            result[name] = backend.ending(course.guest, seen, asked=course.asked_at is not None, forced=course.forced)
    return result


def bring_up(
    backend: Backend,
    guests: Sequence[Guest],
    former: Mapping[str, Mapping[str, Any]],
    plan: Sequence[Revival],
    timeout: float,
    record: Callable[..., None],
    clock: Clock | None = None,
) -> dict[str, str]:
    """Put back what was taken and start what ran, those first that others stand on. Names that did not come up, and why where it is known.

    What stands on one of those is left as it is, for it would come up without what it needs; all others go on.
    """
    clock = clock or Clock()
    by_name = {guest.name: guest for guest in guests}
    # Of what nobody knows nothing is started (to_start), so nothing is started that stands on it.
    ran = {name for name, before in former.items() if before.get("power") != "off"}
    failed = {name: "" for name, guest in by_name.items() if name in ran and guest.power == "unknown" and guest.refusal}
    for step in plan:
        guest = by_name[step.name]
        lacking = sorted(guest.needs & set(failed))
        if lacking:
            failed[step.name] = f"left as it is: it stands on {', '.join(lacking)}"
            record(did="left, what it stands on did not come up", guest=step.name)
            continue
        try:
            if step.release:
                backend.release(guest, former[step.name])
                record(did="released", guest=step.name)
            if not step.start:
                continue
            backend.start(guest, former[step.name])
        except Refusal as exc:
            failed[step.name] = str(exc)
            record(did="tried to start" if step.start else "tried to release", guest=step.name, answer=str(exc))
            backend.powers()  # where nobody answers any more, that is what is told
            continue
        record(did="started", guest=step.name)
        deadline = clock.now() + timeout
        # What comes up (a service whose tasks start) is waited for; only what came and went by itself before may do so again.
        while backend.powers().get(guest.key) not in (*BACK.get(str(former[step.name].get("power")), ("on",)), "paused"):
            if clock.now() >= deadline:
                failed[step.name] = ""
                break
            clock.sleep(POLL_SHORTEST)
    return failed
