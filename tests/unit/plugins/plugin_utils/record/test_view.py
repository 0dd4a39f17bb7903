# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the ledger is folded into: what counts, what went stale, what was interrupted."""

from __future__ import annotations

import pytest

from ansible_collections.sunset.crm.plugins.plugin_utils.record import view
from ansible_collections.sunset.crm.plugins.plugin_utils.steps import steps
from tests.unit.builders import Book, complete, dump_result, item_of, make_plan, plan_data

DB = "database:creme"


@pytest.fixture
def book() -> Book:
    return complete(make_plan())


def proven(book: Book, item: str = DB) -> list[str]:
    return book.view().proven_at(book.plan, book.plan.items[item])


def test_a_complete_ledger_is_proven_on_both_vaults(book: Book) -> None:
    assert proven(book) == ["vault1", "vault2"]
    assert book.view().is_off("host:db1")
    assert sorted(book.view().accepted) == ["main", "pilot"]


@pytest.mark.parametrize(
    ("item", "module", "state"),
    [
        ("application:creme", "service_state", "started"),
        ("application:creme", "scheduler_state", "restored"),
        ("application:creme", "web_closed", "open"),
        (DB, "service_state", "started"),
        ("host:db1", "host_power", "on"),
    ],
)
@pytest.mark.parametrize("status", ["done", "failed", "unknown", None])
def test_a_dump_is_stale_as_soon_as_something_that_may_write_was_to_start(
    book: Book, item: str, module: str, state: str, status: str | None
) -> None:
    """Whether the start ended well, badly or not at all: from the intent on, the data may have changed."""
    book.step(item, module, state, status=status)
    assert book.view().dump(book.plan, book.plan.items[DB]) is None
    assert proven(book) == []


def test_a_start_elsewhere_leaves_it(book: Book) -> None:
    book.step("container:shop", "docker_guests", "started")
    assert proven(book) == ["vault1", "vault2"]
    assert proven(book, "container:shop") == []
    assert proven(book, "filestore:shop-data") == []


def test_a_dump_that_began_before_a_start_is_stale_although_it_ended_after_it(book: Book) -> None:
    """A killed controller's worker writes its outcome late, when a resume has begun."""
    step = {**book.head(DB, view_step()), "about": {}}
    intent = book.add(kind="intent", former={}, **step)
    book.step("application:creme", "service_state", "started")
    book.step("application:creme", "service_state", "stopped")
    book.add(kind="outcome", intent=intent.hash, status="done", evidence={"result": dump_result(DB, 2)}, **step)
    assert book.view().dump(book.plan, book.plan.items[DB]) is None


def view_step() -> steps.Step:
    return steps.find("database_dump", {})


def test_the_same_dump_looked_at_again_keeps_its_proof(book: Book) -> None:
    book.step("application:creme", "service_state", "started")
    book.step("application:creme", "service_state", "stopped")
    book.step(DB, "database_dump", result=dump_result(DB))
    assert proven(book) == ["vault1", "vault2"]


def test_a_new_dump_has_no_proof(book: Book) -> None:
    book.step(DB, "database_dump", result=dump_result(DB, 2))
    assert book.view().dump(book.plan, book.plan.items[DB]) is not None
    assert proven(book) == []


def test_a_dump_without_artefacts_is_none(book: Book) -> None:
    book.step(DB, "database_dump", result={"dump_id": f"{DB}#1", "artefacts": []})
    assert proven(book) == []


def test_a_proof_of_a_copy_that_was_replaced_does_not_count(book: Book) -> None:
    """The source changed and changed back: the vault holds the copy in between, unproven."""
    book.step(DB, "database_dump", result=dump_result(DB, 2))
    book.step(DB, "vault_pull", vault="vault1")
    book.step(DB, "database_dump", result=dump_result(DB, 1))
    assert proven(book) == ["vault2"]


def test_a_proof_in_a_package_that_was_begun_again_does_not_count(book: Book) -> None:
    book.step("host:db1", "vault_package", "open", "vault1", result={"identity_digest": "a new one"})
    assert proven(book) == ["vault2"]


def test_a_failed_proof_takes_the_old_one_away(book: Book) -> None:
    book.step(DB, "vault_prove", vault="vault1", status="failed")
    assert proven(book) == ["vault2"]


def test_evidence_about_another_thing_of_the_same_name_does_not_count(book: Book) -> None:
    data = plan_data()
    item_of(data, DB)["identity"]["system_identifier"] = "another server"
    other = make_plan(data)
    seen = view.build(book.entries, plan=other)
    assert seen.dump(other, other.items[DB]) is None
    assert seen.value("host:db1", "power") == "off"


def test_former_is_kept_after_an_interrupted_try() -> None:
    book = Book(make_plan())
    key = ("application:creme", "scheduler")
    book.step(key[0], "scheduler_state", "frozen", former={"units": {"jobs": "active"}}, status=None)
    book.step(key[0], "scheduler_state", "frozen", former={"units": {"jobs": "inactive"}})
    assert book.view().former[key] == {"units": {"jobs": "active"}}
    book.step(key[0], "scheduler_state", "restored", status="failed")
    assert book.view().former[key] == {"units": {"jobs": "active"}}
    book.step(key[0], "scheduler_state", "restored")
    assert key not in book.view().former
    book.step(key[0], "scheduler_state", "frozen", former={"units": {"jobs": "failed"}})
    assert book.view().former[key] == {"units": {"jobs": "failed"}}


def test_interrupted_are_the_intents_without_an_outcome() -> None:
    book = Book(make_plan())
    book.step(DB, "database_dump", status=None)
    book.step("host:app1", "host_power", "off", status="unknown")
    assert [entry.record["item"] for entry in book.view().interrupted] == [DB]


def test_an_interrupted_step_is_mended_by_a_later_end_and_not_forgotten() -> None:
    book = Book(make_plan())
    book.step(DB, "database_dump", status=None)
    book.step(DB, "database_dump", status="unknown")
    assert len(book.view().interrupted) == 1
    book.step(DB, "database_dump", result=dump_result(DB))
    assert book.view().interrupted == []
    assert [entry.number for entry in book.view().mended] == [0]


def test_a_resume_takes_back_the_acceptance_of_its_wave_and_the_end_of_sessions(book: Book) -> None:
    book.step("application:creme", "web_closed", "open", status=None)
    seen = book.view()
    assert list(seen.accepted) == ["pilot"]
    assert seen.value("application:creme", "session") is None
    assert seen.value("application:old", "session") == "ended"


def test_an_unknown_outcome_is_neither_yes_nor_no() -> None:
    book = Book(make_plan())
    book.step("host:app1", "host_power", "off", status="unknown")
    assert book.view().value("host:app1", "power") is None
    book.step("host:app1", "host_power", "off")
    book.step("host:app1", "host_power", "off", status="unknown")
    assert book.view().is_off("host:app1")
    book.step("host:app1", "host_power", "off", status="failed")
    assert not book.view().is_off("host:app1")


def test_a_wipe_has_begun_with_its_intent() -> None:
    book = Book(make_plan())
    book.step("medium:pgdata", "media_wipe", status=None)
    assert book.view().wipe_begun("medium:pgdata")
    assert book.view().value("medium:pgdata", "wipe") is None


def test_predicted_outcomes_count_in_check_mode_only_and_are_marked(book: Book) -> None:
    start = Book(make_plan())
    said = {**start.head("host:app1", _power()), "status": "done", "evidence": {"result": {}}}
    seen = view.build(start.entries, [said], start.plan).get("host:app1", "power")
    assert seen is not None
    assert seen.predicted
    assert start.view().get("host:app1", "power") is None


def _power() -> steps.Step:
    return steps.find("host_power", {"state": "off"})


def test_a_predicted_copy_of_a_real_dump_is_a_copy_of_that_dump(book: Book) -> None:
    """Check mode halfway: the dump is there, the copy is not."""
    half = book.without((DB, "copy@vault1"))
    head = half.head(DB, steps.find("vault_pull", {}), "vault1")
    said = {**head, "status": "done", "about": half.about(DB, "vault1"), "evidence": {"result": {}}}
    assert "vault1" in view.build(half.entries, [said], half.plan).proven_at(half.plan, half.plan.items[DB], "copy")


def test_a_dump_that_is_seen_again_unchanged_is_no_new_one() -> None:
    """What was looked at after the first dump need not be looked at again because a later run found the same copy whole."""
    book = Book(make_plan())
    book.step("filestore:uploads", "filestore_archive", result=dump_result("filestore:uploads"))
    first = book.view().seen["filestore:uploads", "dump"]
    book.step("filestore:uploads", "filestore_archive", result=dump_result("filestore:uploads"), changed=False)
    again = book.view().seen["filestore:uploads", "dump"]
    assert again.number > first.number and again.begun > first.begun and again.first == first.number
    book.step("filestore:uploads", "filestore_archive", result=dump_result("filestore:uploads", 2), changed=True)
    newer = book.view().seen["filestore:uploads", "dump"]
    assert newer.first == newer.number > again.number
