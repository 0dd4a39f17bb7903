# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A package is sealed when each row of an attachment has its file and no rows lie elsewhere, or a person has signed that it may be so."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.sunset.crm.plugins.plugin_utils.steps import gates, steps
from tests.unit.builders import NOW, Book, complete, context, dump_result, item_of, make_plan, plan_data, said

SEAL = steps.find("vault_package", {"state": "sealed"})


def book(pair: dict[str, Any] | None) -> Book:
    """Everything is proven; what the proof of the database says of its pair is given."""
    data = plan_data()
    item_of(data, "database:creme")["expects"]["pairs"] = [{"filestore": "filestore:uploads"}]
    made = complete(make_plan(data))
    about = made.about("database:creme", "vault1")
    result = {"verdict": "equal", **({"pair": pair} if pair else {})}
    made.step("database:creme", "vault_prove", vault="vault1", result=result, about=about)
    return made


def lacks(made: Book, *words: Any) -> list[str]:
    return [f"{one.item}: {one.what}" for one in gates.missing(SEAL, made.plan.items["host:db1"], context(made, words), "vault1")]


@pytest.mark.parametrize(
    ("pair", "what"),
    [
        ({"verdict": "unpaired", "rows": 60, "missing": 2}, "2 of 60 rows of attachments have no file"),
        ({"verdict": "unknown", "rows": 60, "missing": 0}, "it is unknown whether each row of an attachment has its file"),
        (None, "it is unknown whether each row of an attachment has its file"),
    ],
)
def test_what_is_no_pair_keeps_the_package_open(pair: dict[str, Any] | None, what: str) -> None:
    assert lacks(book(pair)) == [f"database:creme: {what} (vault vault1)"]


def test_a_pair_is_sealed() -> None:
    assert lacks(book({"verdict": "paired", "rows": 60, "missing": 0})) == []


def test_a_person_may_sign_that_the_source_was_so() -> None:
    unpaired = book({"verdict": "unpaired", "rows": 60, "missing": 2})
    word = {"gate": "pair", "items": ["database:creme"], "expires": NOW.replace(year=2027).isoformat()}
    assert lacks(unpaired, said("waiver", "bob", **word)) == []
    assert lacks(unpaired, said("waiver", "bob", **{**word, "gate": "grace"}))
    assert lacks(unpaired, said("waiver", "olga", **word)), "not the operator's own"


def test_rows_on_another_server_keep_the_package_open() -> None:
    made = complete(make_plan())
    result = {**dump_result("database:creme"), "source": {"data_elsewhere": ["public.stock"]}}
    made.step("database:creme", "database_dump", result=result)
    for vault in ("vault1", "vault2"):
        for module in ("vault_pull", "vault_prove"):
            made.step("database:creme", module, vault=vault, result={"verdict": "equal"})
    assert lacks(made) == ["database:creme: the rows of public.stock lie on another server and are in no copy"]
    word = {"gate": "elsewhere", "items": ["database:creme"], "expires": NOW.replace(year=2027).isoformat()}
    assert lacks(made, said("waiver", "bob", **word)) == []


WROTE = {"quiet": "no", "position_kind": "counters"}


@pytest.mark.parametrize(("writers", "free"), [(WROTE, False), ({"quiet": "unknown"}, True), ({"quiet": "yes"}, True), (None, True)])
def test_a_writer_that_was_seen_keeps_the_package_open(writers: dict[str, Any] | None, free: bool) -> None:
    """The snapshot is whole, but what came after it is in no copy. Reading the same again shows that nothing came."""
    made = complete(make_plan())
    result = {**dump_result("database:creme"), "source": {"writers": writers} if writers else {}}

    def proven() -> None:
        for vault in ("vault1", "vault2"):
            for module in ("vault_pull", "vault_prove"):
                made.step("database:creme", module, vault=vault, result={"verdict": "equal"})

    made.step("database:creme", "database_dump", result=result)
    proven()
    what = "somebody wrote to it while it was copied, and what came after the moment of the copy is in no copy"
    assert lacks(made) == ([] if free else [f"database:creme: {what}"])
    word = {"gate": "writers", "items": ["database:creme"], "expires": NOW.replace(year=2027).isoformat()}
    assert lacks(made, said("waiver", "bob", **word)) == []
    assert free or lacks(made, said("waiver", "bob", **{**word, "gate": "pair"}))
    made.step("database:creme", "database_dump", result=result, changed=False)
    assert lacks(made) == []
    made.step("database:creme", "database_dump", result={**result, "dump_id": "anew"})
    proven()
    assert bool(lacks(made)) is not free, "another dump, and again somebody wrote meanwhile"
