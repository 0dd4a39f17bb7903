# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
import pytest

from ansible_collections.sunset.crm.plugins.module_utils._service import units as service_units, verbs as service_verbs

ON = {"active": "active", "unit_file_state": "enabled"}
OFF = {"active": "inactive", "unit_file_state": "disabled"}


def state(**changes):
    """A running unit that nobody has touched."""
    base = dict(
        load="loaded", active="active", sub="running", unit_file_state="enabled", result="success", killed=False, exit="0",
        processes=[{"pid": 1, "comm": "x"}], held=False, in_force=False, lifted=False, former=None, refuses_start=False,
        needs_reload=True, busy=False, oneshot=False, stop_timeout="90s", stops_with_it=[],
    )  # fmt: skip
    return dict(base, **changes)


def dead(**changes):
    """A unit that was stopped and is kept off."""
    base = dict(active="inactive", processes=[], held=True, in_force=True, refuses_start=True, needs_reload=False, former=ON)
    return state(**dict(base, **changes))


@pytest.mark.parametrize("unit", ["x.service", "postgresql@15-main.service", "a\\x2db.timer", "x.socket", "x.path"])
def test_units_that_can_be_switched(unit):
    assert service_units.unit_problem(unit) is None


@pytest.mark.parametrize("unit", ["", "x", "x.target", "-x service", "../x.service", "x.service\n", "--all"])
def test_what_is_no_unit(unit):
    assert "whole one" in service_units.unit_problem(unit)


def test_show_keeps_the_order_and_equal_signs():
    blocks = service_units.parse_show("Id=a.service\nResult=x=y\n\nId=b.service\nLoadState=not-found\n")
    assert blocks == [{"Id": "a.service", "Result": "x=y"}, {"Id": "b.service", "LoadState": "not-found"}]
    assert service_units.parse_show("") == []


def test_the_drop_in_carries_the_former_state():
    text = service_units.drop_in_text("application:crm", ON)
    assert service_units.parse_former(text) == ON
    assert "RefuseManualStart=yes" in text and "ConditionPathExists=!/" in text


@pytest.mark.parametrize("text", [None, "", "[Unit]\n", "# sunset-former: {broken", "# sunset-former: []", "# sunset-former: {}"])
def test_a_torn_drop_in_says_nothing(text):
    assert service_units.parse_former(text) is None


def test_kept_off_needs_systemds_own_word():
    assert service_units.kept_off(dead())
    assert service_units.kept_off(state(load="masked"))
    assert not service_units.kept_off(dead(needs_reload=True))
    assert not service_units.kept_off(dead(refuses_start=False))
    assert not service_units.kept_off(dead(held=False))


def test_dead_means_no_process_is_left():
    assert service_units.is_dead(dead())
    assert service_units.is_dead(dead(active="failed"))
    assert not service_units.is_dead(dead(processes=[{"pid": 9, "comm": "x"}]))
    assert not service_units.is_dead(dead(active="deactivating"))


@pytest.mark.parametrize(
    "changes, former, way",
    [
        ({}, ON, "graceful"),
        ({"killed": True, "exit": "15"}, ON, "graceful"),
        ({"result": "timeout"}, ON, "forced"),
        ({"killed": True, "exit": "9", "result": "signal"}, ON, "forced"),
        ({"result": "oom-kill"}, ON, "forced"),
        ({"result": "exit-code"}, ON, "error"),
        ({"result": "timeout"}, OFF, "was_off"),
        ({"result": "timeout"}, None, "forced"),
    ],
)
def test_the_way_it_ended(changes, former, way):
    assert service_units.way_of_ending(dead(**changes), former) == way


def test_a_one_shot_at_work_is_not_put_back():
    assert service_units.former_of(state(oneshot=True, active="activating"))["active"] == "inactive"
    assert service_units.former_of(state(active="activating"))["active"] == "activating"


def test_what_would_go_down_too():
    states = {"a.service": state(stops_with_it=["b.service", "c.service"]), "b.service": state()}
    assert service_units.dependents(states) == [("a.service", "c.service")]


def test_decision_of_the_way_there():
    states = {"on": state(), "held": dead(), "half": dead(processes=[{"pid": 2, "comm": "x"}]), "free": dead(held=False)}
    assert service_verbs.units_to_stop(["on", "held", "half", "free"], states) == ["on", "half", "free"]
    assert service_verbs.former_units(["on", "held"], states) == {"on": ON, "held": ON}


def test_decision_of_the_way_back():
    untouched, off = state(), state(active="inactive", processes=[])
    states = {"held": dead(), "lifted": state(lifted=True), "untouched": untouched, "fell": off, "off": off}
    former = {"held": OFF, "lifted": ON, "untouched": ON, "fell": ON, "off": OFF}
    assert service_verbs.units_to_restore(list(states), states, former) == ["held", "lifted", "fell"]


def test_the_ledgers_word_goes_before_the_hosts():
    states = {"a": dead(former=ON), "b": dead(former=ON), "c": state(active="inactive")}
    former = service_verbs.known_former(["a", "b", "c"], states, {"units": {"a": OFF}})
    assert [former[unit]["active"] for unit in "abc"] == ["inactive", "active", "inactive"]


def test_a_forced_end_is_said():
    report = service_verbs.dead_report(["a"], {"a": dead(result="timeout")}, {"a": ON})
    assert report["a"]["ended"] == "forced" and report["a"]["kept_off"] == "drop-in"
    assert "a (Result=timeout, stop timeout 90s)" in service_verbs.forced_message(report, {"a": dead(result="timeout")})
    assert service_verbs.forced_message(service_verbs.dead_report(["a"], {"a": dead()}, {"a": ON}), {"a": dead()}) == ""


def test_files_are_written_whole(tmp_path):
    target = tmp_path / "site"
    target.write_text("old")
    service_units.write_atomic(str(target), "new", mode=0o640)
    assert target.read_text() == "new"
    assert target.stat().st_mode & 0o777 == 0o640
    assert [path.name for path in tmp_path.iterdir()] == ["site"]
