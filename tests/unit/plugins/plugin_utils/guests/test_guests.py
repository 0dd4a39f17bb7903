# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The core of the guest modules, without any backend: sets, order, deadlines, verdicts."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.guests import guests
from ansible_collections.sunset.crm.plugins.plugin_utils.guests.guests import Clock, Course, Ending, Guest


def guest(name: str, power: str = "on", needs: tuple[str, ...] = (), **rest: Any) -> Guest:
    return Guest(key=f"id-{name}", name=name, power=power, needs=frozenset(needs), **rest)


class World:
    """Guests that end a set time after they were asked. A time of None means never."""

    def __init__(self, seen: list[Guest], takes: dict[str, float | None]) -> None:
        self.guests = {one.name: one for one in seen}
        self.takes = takes
        self.time = 0.0
        self.asked: dict[str, float] = {}
        self.dead: set[str] = set()
        self.log: list[tuple[str, str]] = []
        self.polls = 0

    def clock(self) -> Clock:
        return Clock(now=lambda: self.time, sleep=self._sleep)

    def _sleep(self, seconds: float) -> None:
        self.time += seconds

    def _power(self, name: str) -> str:
        takes = self.takes.get(name, 0.0)
        if name in self.dead or self.guests[name].power == "off":
            return "off"
        if name in self.asked and takes is not None and self.time - self.asked[name] >= takes:
            return "off"
        return self.guests[name].power

    def powers(self) -> dict[str, str]:
        self.polls += 1
        return {one.key: self._power(one.name) for one in self.guests.values()}

    def observe(self) -> list[Guest]:
        return [Guest(one.key, one.name, self._power(one.name)) for one in self.guests.values()]

    def hold(self, one: Guest) -> None:
        self.log.append(("hold", one.name))

    def wake(self, one: Guest) -> None:
        self.log.append(("wake", one.name))

    def ask(self, one: Guest) -> None:
        self.log.append(("ask", one.name))
        self.asked[one.name] = self.time

    def force(self, one: Guest) -> None:
        self.log.append(("force", one.name))
        self.dead.add(one.name)

    def ending(self, before: Guest, after: Guest, asked: bool, forced: bool) -> Ending:
        if before.power == "off":
            return Ending(guests.ALREADY_OFF, "yes")
        return Ending(guests.BY_FORCE, "no") if forced else Ending(guests.BY_ITSELF, "yes")

    def release(self, one: Guest, former: Any) -> None:
        self.log.append(("release", one.name))

    def start(self, one: Guest, former: Any) -> None:
        self.log.append(("start", one.name))
        self.guests[one.name] = Guest(one.key, one.name, "on")


def down(world: World, timeout: float = 10, force_after: float | None = None) -> dict[str, Course]:
    return guests.bring_down(world, list(world.guests.values()), timeout, force_after, lambda **_: None, world.clock())


def test_missing_extra_and_double_are_named() -> None:
    seen = [guest("a"), guest("c"), guest("c")]
    assert guests.differences(["a", "b"], seen) == [
        "b is in the plan and not there",
        "c is there and not in the plan",
        "c is there 2 times",
    ]


def test_a_wrong_set_is_refused_before_anything_else() -> None:
    with pytest.raises(Refusal, match="b is in the plan and not there.*Nothing was changed"):
        guests.check_set(["a", "b"], [guest("a")], "containers")


def test_a_guest_that_cannot_be_handled_is_refused_by_name() -> None:
    with pytest.raises(Refusal, match="a: it is dead"):
        guests.check_set(["a"], [guest("a", refusal="it is dead")], "containers")


def test_order_of_stopping_is_dependents_first() -> None:
    seen = [guest("db"), guest("web", needs=("app", "db")), guest("app", needs=("db", "elsewhere")), guest("alone")]
    assert guests.tiers(seen) == [["alone", "web"], ["app"], ["db"]]


def test_a_circle_is_refused() -> None:
    with pytest.raises(Refusal, match="a, b stand on each other"):
        guests.tiers([guest("a", needs=("b",)), guest("b", needs=("a",)), guest("c")])


def test_twenty_take_as_long_as_the_slowest() -> None:
    world = World([guest(f"g{n}") for n in range(20)], {f"g{n}": float(n % 5) for n in range(20)})
    courses = down(world)
    assert {course.phase for course in courses.values()} == {"off"}
    assert 4.0 <= world.time < 5.1
    assert [verb for verb, _name in world.log[:20]] == ["ask"] * 20


def test_polling_does_not_grow_with_the_number_of_guests() -> None:
    small, large = World([guest("a")], {"a": 5.0}), World([guest(f"g{n}") for n in range(50)], {f"g{n}": 5.0 for n in range(50)})
    down(small)
    down(large)
    assert large.polls <= small.polls + 2


def test_holding_comes_before_every_request() -> None:
    world = World([guest("a", returns="restart policy always"), guest("b", returns="autostart")], {})
    down(world)
    assert world.log == [("hold", "a"), ("hold", "b"), ("ask", "a"), ("ask", "b")]


def test_a_carrier_is_asked_only_when_what_stands_on_it_is_off() -> None:
    world = World([guest("db"), guest("web", needs=("db",))], {"web": 3.0, "db": 1.0})
    courses = down(world)
    assert world.log == [("ask", "web"), ("ask", "db")]
    assert courses["db"].asked_at is not None and courses["db"].asked_at >= 3.0


def test_each_deadline_counts_from_the_own_request() -> None:
    world = World([guest("db"), guest("web", needs=("db",))], {"web": 8.0, "db": 8.0})
    assert {course.phase for course in down(world, timeout=10).values()} == {"off"}


@pytest.mark.parametrize("timeout", [0.1, 7.3, 10, 33.37])
def test_a_deadline_that_no_poll_meets_still_ends(timeout: float) -> None:
    """[community.proxmox 73, 95, fixed 101] Others count a number down, miss zero and never end. Here it is the time that has passed."""
    world = World([guest("web")], {"web": None})
    assert {course.phase for course in down(world, timeout=timeout).values()} == {"late"}
    assert timeout <= world.time < timeout + 2


def test_what_does_not_end_is_late_and_what_carries_it_is_kept() -> None:
    world = World([guest("db"), guest("web", needs=("db",)), guest("other")], {"web": None})
    courses = down(world, timeout=10)
    assert {name: course.phase for name, course in courses.items()} == {"db": "kept", "web": "late", "other": "off"}
    assert ("force", "web") not in world.log
    assert ("ask", "db") not in world.log
    message = guests.late_message(courses, 10, None)
    assert "web did not end within 10 s" in message
    assert "db was not asked" in message
    assert "nothing was killed" in message
    ends = guests.endings(world, courses, world.observe())
    assert (ends["web"].how, ends["db"].how) == (guests.STILL_ON, guests.NOT_ASKED)
    assert guests.verdict(ends.values(), held=True) == ("no", "running")


def test_force_happens_only_when_set_and_then_is_called_so() -> None:
    world = World([guest("a"), guest("b")], {"a": None, "b": 1.0})
    courses = down(world, timeout=10, force_after=4)
    ends = guests.endings(world, courses, world.observe())
    assert world.log[-1] == ("force", "a")
    assert 4.0 <= world.time < 6.0
    assert guests.verdict(ends.values(), held=True) == ("yes", "forced")
    assert ends["b"].how == guests.BY_ITSELF


def test_a_paused_guest_is_woken_before_it_is_asked() -> None:
    world = World([guest("a", power="paused")], {})
    down(world)
    assert world.log == [("wake", "a"), ("ask", "a")]


def test_what_is_off_is_not_asked() -> None:
    world = World([guest("a", power="off"), guest("db"), guest("web", power="off", needs=("db",))], {})
    down(world)
    assert world.log == [("ask", "db")]


def test_a_guest_that_vanished_is_unknown_not_off() -> None:
    courses = {"a": Course(guest("a"), phase="off", asked_at=0.0)}
    ends = guests.endings(World([], {}), courses, [])
    assert ends["a"].how == guests.UNKNOWN
    assert guests.verdict(ends.values(), held=True) == ("yes", "unknown")


def test_another_guest_of_the_same_name_that_runs_is_not_off() -> None:
    """Made anew while the others came down (compose up, watchtower): the one that was asked is gone, and what it did is done again."""
    courses = {"a": Course(guest("a"), phase="off", asked_at=0.0)}
    ends = guests.endings(World([], {}), courses, [Guest("other", "a", "on")])
    assert ends["a"].how == guests.STILL_ON and "another one of its name is on (other)" in ends["a"].detail
    assert guests.verdict(ends.values(), held=True) == ("no", "running")
    ends = guests.endings(World([], {}), courses, [Guest("other", "a", "off")])
    assert ends["a"].how == guests.UNKNOWN and "another one of its name is off" in ends["a"].detail


def test_a_guest_that_runs_again_is_not_off() -> None:
    courses = {"a": Course(guest("a"), phase="off", asked_at=0.0)}
    ends = guests.endings(World([], {}), courses, [guest("a")])
    assert ends["a"].how == guests.STILL_ON
    assert "something starts it" in ends["a"].detail


def test_not_held_is_no() -> None:
    assert guests.verdict([Ending(guests.BY_ITSELF, "yes")], held=False)[0] == "no"


def test_former_state_of_an_interrupted_run_wins_over_what_is_read_now() -> None:
    now = guest("a", record={"former": {"policy": "no"}})
    earlier = {"a": {"id": "id-a", "power": "on", "policy": "always"}}
    assert guests.former_of([now], earlier)["a"]["policy"] == "always"
    assert guests.former_of([now], {"a": {**earlier["a"], "id": "another"}})["a"]["policy"] == "no"
    assert guests.former_of([now])["a"] == {"id": "id-a", "power": "on", "policy": "no"}


FORMER = {
    "db": {"id": "id-db", "power": "on", "policy": "always"},
    "web": {"id": "id-web", "power": "on", "policy": "no"},
    "old": {"id": "id-old", "power": "off", "policy": "always"},
}


def halted() -> list[Guest]:
    record = {"former": {"policy": "no"}}
    return [
        guest("db", "off", record=record),
        guest("web", "off", needs=("db",), record=record),
        guest("old", "off", record=record),
    ]


def test_start_brings_back_exactly_what_ran_in_order() -> None:
    plan = guests.to_start(halted(), FORMER)
    assert [(step.name, step.release, step.start) for step in plan] == [
        ("db", True, True),
        ("old", True, False),
        ("web", False, True),
    ]
    world = World(halted(), {})
    assert guests.bring_up(world, halted(), FORMER, plan, 5, lambda **_: None, world.clock()) == {}
    assert world.log == [("release", "db"), ("start", "db"), ("release", "old"), ("start", "web")]


class Broken(World):
    """Some of its guests do not start: some say so, some just stay off."""

    def __init__(self, seen: list[Guest], refuses: tuple[str, ...] = (), dead: tuple[str, ...] = (), silent: bool = False) -> None:
        super().__init__(seen, {})
        self.refuses, self.dead, self.silent = refuses, set(dead), silent

    def powers(self) -> dict[str, str]:
        if self.silent and ("start", "db") in self.log:
            raise Refusal("nobody answers")
        return super().powers()

    def start(self, one: Guest, former: Any) -> None:
        super().start(one, former)
        if one.name in self.refuses:
            self.guests[one.name] = guest(one.name, "off")
            raise Refusal("its port is taken")


def family() -> list[Guest]:
    record = {"former": {"policy": "no"}}
    return [
        guest("db", "off", record=record),
        guest("app", "off", needs=("db",), record=record),
        guest("web", "off", needs=("app",), record=record),
        guest("alone", "off", record=record),
    ]


def revive(world: World, power: str = "on") -> dict[str, str]:
    seen = list(world.guests.values())
    former = {one.name: {"id": one.key, "power": power, "policy": "always"} for one in seen}
    return guests.bring_up(world, seen, former, guests.to_start(seen, former), 5, lambda **_: None, world.clock())


@pytest.mark.parametrize("how", [{"refuses": ("db",)}, {"dead": ("db",)}])
def test_what_stands_on_a_guest_that_does_not_come_up_is_left_and_named_and_the_others_go_on(how: dict[str, Any]) -> None:
    world = Broken(family(), **how)
    failed = revive(world)
    assert failed == {
        "db": "its port is taken" if "refuses" in how else "",
        "app": "left as it is: it stands on db",
        "web": "left as it is: it stands on app",
    }
    # Not even what would bring it back is given back: a service or a resource of HA is started by that.
    assert sorted(world.log) == [("release", "alone"), ("release", "db"), ("start", "alone"), ("start", "db")]


def test_what_stands_on_a_guest_of_which_nobody_knows_anything_is_left() -> None:
    world = World([guest("db", "unknown", refusal="it was moved"), *family()[1:]], {})
    assert set(revive(world)) == {"db", "app", "web"} and ("start", "app") not in world.log


def test_a_hypervisor_that_is_gone_ends_it_all() -> None:
    world = Broken(family(), refuses=("db",), silent=True)
    with pytest.raises(Refusal, match="nobody answers"):
        revive(world)


def test_what_was_paused_and_was_left_running_by_a_run_that_died_is_paused_again() -> None:
    """It was woken so that it could hear the request, or started, and the controller was killed before the next word."""
    seen = [guest("a", "on")]
    assert guests.to_start(seen, {"a": {"id": "id-a", "power": "paused"}}) == [guests.Revival("a", release=False, start=True)]
    assert guests.to_start(seen, {"a": {"id": "id-a", "power": "on"}}) == [guests.Revival("a", release=False, start=False)]


def test_start_refuses_another_guest_of_the_same_name() -> None:
    with pytest.raises(Refusal, match="db is not the guest that was recorded"):
        guests.to_start(halted(), {"db": {"id": "else", "power": "on"}})
    with pytest.raises(Refusal, match="gone is not there|gone was recorded"):
        guests.to_start(halted(), {"gone": {"id": "x", "power": "on"}})


def test_what_may_run_elsewhere_is_neither_started_nor_touched() -> None:
    record = {"former": {"policy": "no"}}
    moved = Guest("id-db", "db", "unknown", refusal="it was moved", record=record)
    assert guests.to_start([moved], {"db": FORMER["db"]}) == [guests.Revival("db", release=False, start=False)]
    # A service of which a lost node says nothing is wanted as it was all the same.
    lost = Guest("id-db", "db", "unknown", record=record)
    assert guests.to_start([lost], {"db": FORMER["db"]}) == [guests.Revival("db", release=True, start=False)]


def test_a_crash_loop_is_not_back() -> None:
    former = {"a": {"power": "on"}, "b": {"power": "changing"}, "c": {"power": "paused"}, "d": {"power": "off"}, "e": {"power": "on"}}
    now = [guest("a", "changing"), guest("b", "changing"), guest("c", "on"), guest("d", "off"), guest("e", "on")]
    assert guests.not_back(now, former) == ["a", "c"]
    assert guests.not_back([], {"a": {"power": "on"}}) == ["a"]
