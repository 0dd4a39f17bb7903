# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which waves a run works on, who is asked to do what, in which order hosts go off."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.runs import runs
from ansible_collections.sunset.crm.plugins.plugin_utils.steps import gates, steps
from tests.unit.builders import Book, complete, context, database, dump_result, item_of, make_plan, plan_data, shut

PLAN = make_plan()


def waves(phase: str, book: Book, wanted: str = "") -> list[str]:
    return runs.waves_of(phase, wanted, PLAN, book.view())


def after_pilot() -> Book:
    book = Book(PLAN)
    shut(book, "pilot")
    book.add(kind="accepted", wave="pilot")
    return book


def test_a_shutdown_takes_the_first_wave_that_is_not_accepted() -> None:
    assert waves("shutdown", Book(PLAN)) == ["pilot"]
    assert waves("shutdown", after_pilot()) == ["main"]
    assert waves("shutdown", complete(PLAN)) == ["main"]


def test_a_wipe_takes_all_accepted_waves() -> None:
    with pytest.raises(Refusal, match="no wave is accepted yet"):
        waves("wipe", Book(PLAN))
    assert waves("wipe", after_pilot()) == ["pilot"]
    assert waves("wipe", complete(PLAN)) == ["pilot", "main"]


def test_a_resume_takes_what_was_touched() -> None:
    assert waves("resume", Book(PLAN)) == ["pilot"]
    assert waves("resume", after_pilot()) == ["pilot"]
    assert waves("resume", complete(PLAN)) == ["pilot", "main"]


def test_a_resume_takes_a_wave_whose_first_step_was_interrupted() -> None:
    book = after_pilot()
    book.step("application:creme", "scheduler_state", "frozen", former={"units": {}}, status=None)
    assert waves("resume", book) == ["pilot", "main"]


def test_named_waves_are_known_ones() -> None:
    assert waves("wipe", complete(PLAN), "main, pilot") == ["main", "pilot"]
    assert waves("shutdown", Book(PLAN), "main") == ["main"]
    with pytest.raises(Refusal, match="a run retires one wave; main, pilot are 2"):
        waves("shutdown", Book(PLAN), "main, pilot")
    with pytest.raises(Refusal, match=r"no wave later \(its waves, in order: pilot, main\)"):
        waves("shutdown", Book(PLAN), "later")


def test_check_mode_rehearses_all_waves_that_are_left() -> None:
    assert runs.waves_of("shutdown", "", PLAN, Book(PLAN).view(), check=True) == ["pilot", "main"]
    assert runs.waves_of("shutdown", "main,pilot", PLAN, Book(PLAN).view(), check=True) == ["main", "pilot"]
    assert runs.waves_of("shutdown", "", PLAN, after_pilot().view(), check=True) == ["main"]


def test_each_machine_is_told_its_work() -> None:
    told = {(m["host"], m["place"]): m for m in runs.members(PLAN, ["main"])}
    assert sorted(told) == [
        ("app1", "estate"), ("db1", "estate"), ("dock1", "estate"), ("station1", "station"), ("vault1", "vault"), ("vault2", "vault"),
    ]  # fmt: skip
    assert told["app1", "estate"]["items"]["scheduler"] == ["application:creme"]
    assert told["db1", "estate"]["items"]["session"] == ["application:creme"], "sessions end where the database is"
    assert told["db1", "estate"]["items"]["database_service"] == ["database:creme"]
    assert told["db1", "estate"]["items"]["database_again"] == ["database:creme"], "read once more before its server stops"
    assert told["dock1", "estate"]["items"]["container"] == ["container:shop"]
    assert told["vault1", "vault"]["items"]["package"] == ["host:app1", "host:db1", "host:dock1"]
    assert sorted(told["station1", "station"]["items"]["medium"]) == ["medium:pgdata", "medium:shopvol", "medium:uploads"]
    assert "old" not in str(told)


def test_a_database_in_a_container_is_read_again_before_its_container_stops() -> None:
    """Its container stops right after the dump; every other goes on for as long as the vaults take to pull and prove. What cannot be known
    of the writers at the first reading is settled by the second, in the same run."""
    data = plan_data()
    item_of(data, "database:creme")["stands_on"].append("container:shop")
    told = {(m["host"], m["place"]): m for m in runs.members(make_plan(data), ["main"])}
    assert "database_again" not in told["db1", "estate"]["items"]
    assert told["db1", "estate"]["items"]["database_served"] == ["database:creme"]
    tasks = yaml.safe_load((Path(__file__).resolve().parents[5] / "roles/preserve/tasks/main.yml").read_text())
    first, again = [n for n, task in enumerate(tasks) if "sunset.crm.database_dump" in task]
    stops = next(n for n, task in enumerate(tasks) if task.get("sunset.crm.docker_guests", {}).get("state") == "stopped")
    assert first < again < stops
    assert "preserve_work.database_served" in tasks[again]["loop"] and tasks[again]["when"] == "not ansible_check_mode"


def test_databases_are_read_again_before_their_servers_stop() -> None:
    """What somebody writes between the copy and the stop is in no copy: the second reading makes another dump, and the gate of the stop
    asks for that one's proof."""
    tasks = yaml.safe_load((Path(__file__).resolve().parents[5] / "roles/preserve/tasks/finish.yml").read_text())
    order = [next(name for name in task if name.startswith("sunset.crm.")).rpartition(".")[2] for task in tasks]
    assert order.index("database_dump") < order.index("host_look") < order.index("service_state")
    (again,) = [task for task in tasks if "sunset.crm.database_dump" in task]
    assert "preserve_work.database_again" in again["loop"] and "when" not in again
    book = complete(PLAN)
    stop = steps.find("service_state", {"state": "stopped"})
    book.step("database:creme", "database_dump", result={**dump_result("database:creme"), "dump_id": "a late row"})
    lacks = [str(one) for one in gates.missing(stop, PLAN.items["database:creme"], context(book), "")]
    assert any("database:creme: restored and compared on 0 of 2 vaults" in one for one in lacks), lacks


def test_one_machine_in_two_places_keeps_the_work_of_both() -> None:
    """A company of five: the vault is the wiping station as well; both plays read the same variable of that machine."""
    data = plan_data()
    for item in data["items"]:
        if item["kind"] == "medium":
            item["wipe"]["host"] = "vault1"
    told = [m for m in runs.members(make_plan(data), ["main"]) if m["host"] == "vault1"]
    assert [m["place"] for m in told] == ["station", "vault"]
    for member in told:
        assert {"medium", "data_set", "package"} <= set(member["items"])


def test_hosts_go_off_after_those_that_stand_on_them() -> None:
    tiers = runs.power_order(PLAN)
    assert tiers["app1"] == 0
    assert tiers["db1"] == 1


def test_hosts_that_stand_on_each_other_have_no_order() -> None:
    data = plan_data()
    other = database("other", "app1", "main", "uploads")
    data["items"].append(other)
    extra = {**item_of(data, "application:creme"), "id": "application:back", "host": "db1", "stands_on": ["database:other", "host:db1"]}
    data["items"].append(extra)
    with pytest.raises(Refusal, match="in a circle"):
        runs.power_order(make_plan(data))


def test_machines_that_the_play_lacks_are_named() -> None:
    everyone = ["app1", "db1", "dock1", "station1", "vault1", "vault2", "old1"]
    assert runs.unreached(runs.members(PLAN, ["main"]), everyone) == []
    assert runs.unreached(runs.members(PLAN, ["main"]), ["app1", "vault1"]) == ["db1", "dock1", "station1", "vault2"]


# --- vaults that do not answer ---

WELL = {"vault": {"uid": 906, "problems": []}}


def test_a_vault_answers_well_or_has_a_reason() -> None:
    seen = {"vault1": WELL, "vault2": {"unreachable": True, "msg": "no route"}}
    assert runs.silent(PLAN, ["pilot"], "shutdown", seen) == {"vault2": "it does not answer (no route)"}
    assert runs.silent(PLAN, ["pilot"], "shutdown", {"vault1": WELL, "vault2": WELL}) == {}
    assert "was not asked" in runs.silent(PLAN, ["pilot"], "shutdown", {"vault1": WELL})["vault2"]
    broken = {"vault": {"uid": 0, "problems": ["the program age is not there"]}}
    assert runs.silent(PLAN, ["pilot"], "shutdown", {"vault1": broken, "vault2": WELL})["vault1"].startswith("the program age")
    assert "its account is root" in runs.silent(PLAN, ["pilot"], "shutdown", {"vault1": broken, "vault2": WELL})["vault1"]
    assert "root" not in runs.silent(PLAN, ["pilot"], "wipe", {"vault1": broken, "vault2": WELL})["vault1"]


def test_a_vault_without_the_server_of_a_database_of_the_wave_is_told_before_it_begins() -> None:
    lacking = {
        "vault": {
            "uid": 906,
            "problems": [],
            "servers": {"postgresql": "this vault has no PostgreSQL server", "mysql": "none", "redis": ""},
        }
    }
    (engine,) = {item["expects"]["engine"] for item in PLAN.of("database") if item["wave"] == "main"}
    assert engine == "postgresql"
    assert runs.silent(PLAN, ["main"], "shutdown", {"vault1": lacking, "vault2": WELL}) == {"vault1": "this vault has no PostgreSQL server"}
    assert runs.silent(PLAN, ["main"], "wipe", {"vault1": lacking, "vault2": WELL}) == {}
    lacking["vault"]["servers"] = {"postgresql": "", "mysql": "none"}
    assert runs.silent(PLAN, ["main"], "shutdown", {"vault1": lacking, "vault2": WELL}) == {}


def test_a_resume_needs_no_vault() -> None:
    assert runs.vaults_needed(PLAN, "resume") == 0
    assert runs.silent(PLAN, ["pilot"], "resume", {"vault1": {"unreachable": True}}) == {"vault1": "it does not answer"}


def test_as_many_vaults_as_proofs_and_all_for_a_wipe() -> None:
    assert (runs.vaults_needed(PLAN, "shutdown"), runs.vaults_needed(PLAN, "wipe")) == (2, 2)
    one = make_plan(plan_data(settings={"proofs_required": 1}))
    assert (runs.vaults_needed(one, "shutdown"), runs.vaults_needed(one, "wipe")) == (1, 2)


def test_a_silent_vault_gets_no_work_and_an_estate_host_still_shuts_it_out() -> None:
    found = runs.members(PLAN, ["pilot"], {"vault2": "gone"})
    assert "vault2" not in {member["host"] for member in found}
    assert {tuple(member["vaults"]) for member in found} == {("vault1",)}
    assert {tuple(member["all_vaults"]) for member in found} == {("vault1", "vault2")}


def test_a_vault_with_a_shelf_is_told_of_it() -> None:
    shelf = {"kind": "s3", "endpoint": "https://s3.example.org", "bucket": "archive"}
    plan = make_plan(plan_data(vaults={"vault1": {"root": "/srv/vault", "shelf": shelf}, "vault2": {"root": "/srv/vault"}}))
    work = {member["host"]: member["items"].get("shelf") for member in runs.members(plan, ["pilot"]) if member["place"] == "vault"}
    assert work == {"vault1": ["host:old1"], "vault2": None}
