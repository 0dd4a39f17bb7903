# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A phase is finished when each of its items ended in evidence, and not before."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.sunset.crm.plugins.plugin_utils.runs import closing
from tests.unit.builders import Book, complete, item_of, make_plan, plan_data

PLAN = make_plan()
WHOLE = complete(PLAN)


def open_items(book: Book, phase: str = "shutdown", waves: tuple[str, ...] = ("pilot", "main")) -> set[str]:
    return {row.item for row in closing.unfinished(book.plan, book.view(), phase, list(waves))}


def test_a_complete_shutdown_owes_nothing_and_an_empty_one_everything() -> None:
    assert open_items(WHOLE) == set()
    owed = {item["id"] for item in PLAN.items.values() if item["kind"] != "medium"}
    assert open_items(Book(PLAN)) == owed
    assert open_items(Book(PLAN), waves=("pilot",)) == {"host:old1", "application:old", "database:old"}


@pytest.mark.parametrize(
    "key", [key for key in WHOLE.pieces() if key[0].split(":")[0] in ("application", "host", "container", "database", "filestore")]
)
def test_each_missing_piece_leaves_its_item_open(key: tuple[str, str]) -> None:
    """What only prepares (a package, an access, a database's service) is asked for by the gate of the power-off."""
    item, aspect = key
    prepares = aspect.startswith(("package@", "access@")) or (item.startswith("database") and aspect == "service")
    assert open_items(WHOLE.without(key)) == (set() if prepares else {item})


def test_an_application_without_services_still_owes_what_it_declares() -> None:
    data = plan_data()
    item_of(data, "application:creme")["expects"].pop("services")
    book = complete(make_plan(data)).without(("application:creme", "service"))
    assert open_items(book) == set()
    assert open_items(book.without(("application:creme", "web"))) == {"application:creme"}


def test_the_wipe_owes_every_medium() -> None:
    media = {item["id"] for item in PLAN.of("medium")}
    book = complete(PLAN, forgotten=True)
    assert open_items(book, "wipe") == media
    for medium in sorted(media):
        book.step(medium, "media_wipe")
    assert open_items(book, "wipe") == set()
    book.step("medium:pgdata", "media_wipe", status=None)
    assert open_items(book, "wipe") == {"medium:pgdata"}


def test_a_resume_owes_what_the_ledger_recorded_as_changed() -> None:
    book = Book(PLAN)
    book.step("application:creme", "scheduler_state", "frozen", former={"units": {"a": "active"}})
    book.step("application:creme", "web_closed", "closed", former={"site": "x"})
    assert open_items(book, "resume") == {"application:creme"}
    book.step("application:creme", "scheduler_state", "restored")
    assert open_items(book, "resume") == {"application:creme"}
    book.step("application:creme", "web_closed", "open")
    assert open_items(book, "resume") == set()


@pytest.mark.parametrize("status", ["failed", "unknown", None])
def test_a_step_back_that_was_not_seen_to_end_well_is_owed(status: str | None) -> None:
    book = Book(PLAN)
    book.step("application:creme", "scheduler_state", "frozen", former={"units": {"a": "active"}})
    book.step("application:creme", "scheduler_state", "restored", status=status)
    assert open_items(book, "resume") == {"application:creme"}


def test_a_freeze_that_was_interrupted_is_owed_by_a_resume() -> None:
    book = Book(PLAN)
    book.step("application:creme", "scheduler_state", "frozen", former={"units": {"a": "active"}}, status=None)
    assert open_items(book, "resume") == {"application:creme"}


def test_each_row_names_the_line_of_its_evidence() -> None:
    for item in PLAN.items.values():
        row = closing.row(item, PLAN, WHOLE.view(), "shutdown")
        assert row.evidence.startswith("ledger ") or item["kind"] == "medium"


def test_a_host_that_was_cut_off_or_comes_back_is_called_that() -> None:
    book = WHOLE.without(("host:db1", "power"))
    result = {"proof": "redfish", "forced": True, "force_allowed_by": "alice", "stays_off": "no"}
    book.step("host:db1", "host_power", "off", result=result)
    row = closing.row(PLAN.items["host:db1"], PLAN, book.view(), "shutdown")
    assert row.done == "powered off by force (allowed by alice), comes back when its mains do"
    assert (row.proof, row.finished) == ("seen by its outside witness (redfish)", True)


@pytest.mark.parametrize(
    ("result", "words"),
    [
        ({}, "full read-back against the keyed stream, certificate"),
        ({"verification": {"mode": "sample"}}, "read-back of a sample (a tenth) against the keyed stream, certificate"),
        ({"verification": {"mode": "full"}, "exceptions": ["x"]}, "full read-back against the keyed stream, with exceptions, certificate"),
        (
            {"technique": "nvme-sanitize-block", "verification": {"mode": "sample"}},
            "by the drive itself (nvme-sanitize-block), none of the keyed blocks left in a sample of a tenth, certificate",
        ),
        (
            {"technique": "luks-destroy-keys", "verification": {"mode": "full"}},
            "headers and key slots read back against the keyed stream, the ciphertext is left, certificate",
        ),
    ],
)
def test_a_medium_is_not_said_to_be_read_back_more_than_it_was(result: dict[str, Any], words: str) -> None:
    book = complete(PLAN, forgotten=True)
    book.step("medium:pgdata", "media_wipe", result=result)
    assert closing.row(PLAN.items["medium:pgdata"], PLAN, book.view(), "wipe").proof == words
