# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A database whose server runs in a container: its stack stops, it is dumped, then its container stops, then the volume rests."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from ansible_collections.sunset.crm.plugins.action.guest_survey import others_of
from ansible_collections.sunset.crm.plugins.plugin_utils.actions import recording
from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.planning import plan as plans
from ansible_collections.sunset.crm.plugins.plugin_utils.runs import runs
from ansible_collections.sunset.crm.plugins.plugin_utils.steps import filling, gates, steps
from tests.unit.builders import Book, container, context, database, dump_result, item_of, make_plan, plan_data

STOP = steps.find("docker_guests", {"state": "stopped"})


def data(**reach: Any) -> dict[str, Any]:
    """The shop's stack of builders, with its database served by a container of the same stack."""
    found = plan_data()
    serving = container("shopdb", "dock1", "main", "filestore:shop-data", "shopvol")
    serving["expects"] = {**serving["expects"], "label": "stack=shop", "containers": ["shop-db"]}
    shop = item_of(found, "container:shop")
    shop["expects"]["containers"] = ["shop-web"]
    shop["stands_on"] = ["database:shop", "host:dock1"]
    stored = database("shop", "dock1", "main", "shopvol")
    stored["stands_on"] = ["container:shopdb", "host:dock1"]
    stored["expects"] = {"engine": "mariadb", "database": "shop", "staging": "/srv/s", "reach": {"kind": "container", **reach}}
    found["items"] += [serving, stored]
    return found


PLAN = make_plan(data(container="shop-db"))


def lacks(step: steps.Step, item: str, book: Book) -> list[str]:
    return [f"{one.item}: {one.what}" for one in gates.missing(step, PLAN.items[item], context(book))]


def stopped(book: Book) -> Book:
    book.step("container:shop", "docker_guests", "stopped")
    return book


def test_it_is_dumped_when_the_rest_of_the_stack_is_stopped_and_its_own_server_still_runs() -> None:
    dump = steps.find("database_dump", {})
    assert any("container:shop: not seen to be stopped" in one for one in lacks(dump, "database:shop", Book(PLAN)))
    assert not [one for one in lacks(dump, "database:shop", stopped(Book(PLAN))) if "container:" in one]


def test_its_container_stops_only_after_the_dump() -> None:
    book = stopped(Book(PLAN))
    assert "database:shop: no dump of it was seen" in lacks(STOP, "container:shopdb", book)
    book.step("database:shop", "database_dump", result=dump_result("database:shop"))
    assert not [one for one in lacks(STOP, "container:shopdb", book) if "dump" in one]


@pytest.mark.parametrize(
    ("quiet", "word"), [("no", "somebody wrote to it while"), ("unknown", "it is unknown whether somebody wrote to it")]
)
def test_its_container_runs_on_while_somebody_writes_or_nobody_knows(quiet: str, word: str) -> None:
    """Once it has stopped, nobody can look whether the copy is still what the database holds."""
    book = stopped(Book(PLAN))
    result = {**dump_result("database:shop"), "source": {"writers": {"quiet": quiet}}}
    book.step("database:shop", "database_dump", result=result)
    assert [one for one in lacks(STOP, "container:shopdb", book) if word in one]
    book.step("database:shop", "database_dump", result=result, changed=False)
    assert not [one for one in lacks(STOP, "container:shopdb", book) if "somebody wrote" in one]


def test_its_dump_stands_when_its_container_rests() -> None:
    """A run that was interrupted after it is started again: nobody can look into the server any more, and nobody has to start it."""
    dump, item = steps.find("database_dump", {}), PLAN.items["database:shop"]

    def answer(book: Book) -> dict[str, Any] | None:
        view = book.view()
        return recording._without_server(SimpleNamespace(plan=PLAN, view=view), dump, item, view.get("database:shop", "dump"))

    book = stopped(Book(PLAN))
    assert answer(book) is None
    book.step("database:shop", "database_dump", result=dump_result("database:shop"))
    assert answer(book) is None, "its server still runs: look"
    book.step("container:shopdb", "docker_guests", "stopped")
    told = answer(book)
    assert told and told["changed"] is False and "container:shopdb is stopped since" in told["msg"]
    assert told["result"] == dump_result("database:shop")
    book.step("container:shopdb", "docker_guests", "started")
    assert answer(book) is None
    book.step("container:shopdb", "docker_guests", "stopped")
    assert answer(book) is None, "somebody may have written meanwhile: another dump is needed"


def test_its_volume_is_archived_when_its_container_rests() -> None:
    archive = steps.find("filestore_archive", {})
    assert any("container:shopdb: not seen to be stopped" in one for one in lacks(archive, "filestore:shop-data", stopped(Book(PLAN))))


def test_it_has_a_list_of_work_of_its_own() -> None:
    work = next(one for one in runs.members(PLAN, ["main"]) if one["host"] == "dock1")["items"]
    assert (work["container"], work["database_container"]) == (["container:shop"], ["container:shopdb"])


def test_containers_stop_before_those_that_they_stand_on() -> None:
    found = data(container="shop-db")
    first = container("before", "dock1", "main", "filestore:shop-data", "shopvol")
    first["stands_on"] = ["container:shop", "host:dock1"]
    found["items"].append(first)
    work = next(one for one in runs.members(make_plan(found), ["main"]) if one["host"] == "dock1")["items"]
    assert work["container"] == ["container:before", "container:shop"]


def test_the_items_of_one_stack_leave_each_others_containers_alone() -> None:
    def filled(item: str) -> dict[str, Any]:
        return filling.options(STOP, PLAN.items[item], PLAN, Book(PLAN).view(), "")

    assert (filled("container:shop")["containers"], filled("container:shop")["others"]) == (["shop-web"], ["shop-db"])
    assert (filled("container:shopdb")["containers"], filled("container:shopdb")["others"]) == (["shop-db"], ["shop-web"])


def test_it_is_staged_in_any_case() -> None:
    dump = steps.find("database_dump", {})
    assert filling.options(dump, PLAN.items["database:shop"], PLAN, Book(PLAN).view(), "")["direct"] == "never"
    assert "direct" not in filling.options(dump, PLAN.items["database:creme"], PLAN, Book(PLAN).view(), "")


def test_data_may_lie_elsewhere_only_where_a_person_said_so_of_a_server_on_the_network() -> None:
    found = plan_data()
    item = item_of(found, "database:creme")
    item["media"] = []
    del item["expects"]["unit"]
    assert plans.faults(found) == ["database:creme lies on no known medium"]
    item["expects"]["data"] = "elsewhere"
    assert plans.faults(found) == ["database:creme lies on no known medium"]
    item["expects"]["reach"] = {"kind": "tcp", "config": {"format": "env", "path": "/x"}}
    assert plans.faults(found) == []
    item["expects"]["unit"] = "postgresql.service"
    assert plans.faults(found) == ["database:creme lies on no known medium"]


def test_a_shared_label_needs_lists_of_containers() -> None:
    one, other = {"name": "a", "label": "x=y", "containers": ["p"]}, {"name": "b", "label": "x=y"}
    with pytest.raises(Refusal, match="container:b shares the label x=y with another item"):
        others_of(one, [one, other])
    assert others_of(one, [one, {**other, "containers": ["q"]}]) == {"q"}
    assert others_of(other, [other, {"name": "c", "label": "z=z"}]) == set()


def test_a_plan_whose_database_stands_on_no_container_is_refused() -> None:
    found = data(container="shop-db")
    item_of(found, "database:shop")["stands_on"] = ["host:dock1"]
    assert plans.faults(found) == ["database:shop is served by the container 'shop-db', but stands on no item of containers (uses)"]
