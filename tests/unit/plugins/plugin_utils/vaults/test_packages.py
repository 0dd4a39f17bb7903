# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How long a package is kept, and that nothing but a signed word for this very package, after its time and without a hold, ends it."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.people import signatures, signed, statements
from ansible_collections.sunset.crm.plugins.plugin_utils.people.statements import Statement, Statements
from ansible_collections.sunset.crm.plugins.plugin_utils.runs import closing, runs
from ansible_collections.sunset.crm.plugins.plugin_utils.steps import gates, grounds, steps
from ansible_collections.sunset.crm.plugins.plugin_utils.vaults import packages
from tests.unit.builders import NOW, Book, complete, context, make_plan, plan_data, said

PLAN = make_plan()
STEP = steps.find("vault_destroy", {})
HOST = PLAN.items["host:db1"]
FACTS = {"tagmanifest_sha256": "t" * 64, "identity_digest": "host:db1@vault1", "keys_identity_digest": None}


def sealed(retention: dict[str, Any] | None = None, **more: Any) -> Book:
    """A ledger in which the package of db1 is sealed on vault1 and forgotten; its retention ended long ago unless said otherwise."""
    book = complete(PLAN, forgotten=False)
    known = {**FACTS, "retention": retention or {"class": "books", "until": "2020-12-31", "hold": False}, **more}
    book.step("host:db1", "vault_package", "sealed", "vault1", result=known)
    book.step("host:db1", "vault_package", "forgotten", "vault1", result=known)
    return book


def word(signer: str = "bob", entry: dict[str, Any] | None = None, **document: Any) -> Statement:
    """bob's word that the package of db1 on vault1 is destroyed."""
    whole = {"package": "db1", "vault": "vault1", **{name: value for name, value in FACTS.items() if value}, **(entry or {})}
    return said(
        "destruction", signer, **{"packages": [whole], "expires": (NOW + timedelta(days=1)).isoformat(), "reason": "due", **document}
    )


def lacks(book: Book, *words: Statement, **changes: Any) -> list[str]:
    given = {"phase": "expire", **changes}
    return [lack.what for lack in gates.missing(STEP, HOST, context(book, words, **given), "vault1")]


def test_a_due_package_that_is_named_by_another_person_may_be_destroyed() -> None:
    assert lacks(sealed(), word()) == []
    assert signed.said(STEP, HOST, context(sealed(), [word()], phase="expire"), "vault1") == {
        "tagmanifest_sha256": "t" * 64, "identity_digest": "host:db1@vault1", "statement_sha256": "sha-destruction-bob"}  # fmt: skip


@pytest.mark.parametrize(
    ("statement", "why"),
    [
        (word(expires="2026-01-01"), "it expired at 2026-01-01"),
        (said("destruction", "bob", packages=[{"package": "db1", "vault": "vault1"}]), "it has no expiry"),
        (word(entry={"vault": "vault2"}), "no signed statement says"),
        (word(entry={"package": "app1"}), "no signed statement says"),
        (word(entry={"tagmanifest_sha256": "x"}), "it names tagmanifest_sha256 'x'"),
        (word(entry={"identity_digest": "x"}), "it names identity_digest 'x'"),
        (word(entry={"keys_identity_digest": "x"}), "it names keys_identity_digest 'x'"),
        (word("olga"), "its signer is the operator of this run"),
        (word(packages="db1"), "no signed statement says"),
    ],
)
def test_a_statement_that_does_not_count(statement: Statement, why: str) -> None:
    (lack,) = lacks(sealed(), statement)
    assert why in lack


def test_under_single_control_ones_own_word_counts() -> None:
    single = make_plan(plan_data(control="single"))
    book = Book(single)
    book.entries = sealed().entries
    assert lacks(book, word("olga")) == []


def test_it_belongs_to_a_run_of_its_own_phase() -> None:
    assert "this run is a shutdown, expire belongs to a expire" in lacks(sealed(), word(), phase="shutdown")
    assert lacks(sealed(), word(), phase="wipe") != []


@pytest.mark.parametrize("until", ["2026-11-21", "2026-11-22", "2999-12-31"])
def test_never_before_its_time(until: str) -> None:
    """NOW is 2026-11-21: the last day itself still counts. Not even an express word shortens it."""
    book = sealed({"class": "books", "until": until, "hold": False})
    for statement in (word(), word(entry={"unclassified": "accept"})):
        assert lacks(book, statement) == [f"it is to be kept until {until}"]
    assert lacks(sealed({"class": "books", "until": "2026-11-20", "hold": False}), word()) == []


@pytest.mark.parametrize("retention", [{"class": "unclassified", "until": None, "hold": False}, {"class": "for ever", "until": None}])
def test_what_has_no_end_needs_an_express_word_with_a_reason(retention: dict[str, Any]) -> None:
    book = sealed(retention)
    assert "has no end, and no statement accepts that" in lacks(book, word())[0]
    assert lacks(book, word(entry={"unclassified": "accept"}, reason=""))
    assert lacks(book, word(entry={"unclassified": "accept"})) == []


def test_a_retention_is_extended_and_never_shortened() -> None:
    later, sooner = said("retention", "carol", "l", packages=["db1"], until="2030-12-31"), said("retention", "carol", "s", packages=["*"], until="2021-01-01")  # fmt: skip
    other = said("retention", "carol", "o", packages=["app1"], until="2999-12-31")
    assert lacks(sealed(), word(), later) == ["it is to be kept until 2030-12-31"]
    assert lacks(sealed(), word(), sooner, other) == []
    far = sealed({"class": "books", "until": "2040-12-31", "hold": False})
    assert lacks(far, word(), sooner) == ["it is to be kept until 2040-12-31"]
    endless = sealed({"class": "unclassified", "until": None, "hold": False})
    assert lacks(endless, word(entry={"unclassified": "accept"}), later) == ["it is to be kept until 2030-12-31"]
    assert "names no day" in lacks(sealed(), word(), said("retention", "carol", packages=["db1"], until="soon"))[0]
    assert packages.kept_until("db1", {"until": "2020-12-31"}, Statements([later, sooner], {})) == date(2030, 12, 31)
    assert packages.kept_until("db1", {"until": None}, Statements([later], {})) is None


@pytest.mark.parametrize("items", [["host:db1"], ["database:creme"], ["*"]])
def test_a_hold_on_the_host_or_anything_in_it_stops_the_end(items: list[str]) -> None:
    hold = said("hold", "carol", items=items)
    assert lacks(sealed(), word(), hold) == [f"legal hold {hold.name} by carol"]
    lift = said("hold", "bob", "lift", lifts=hold.sha256)
    assert lacks(sealed(), word(), hold, lift) == []
    own = said("hold", "olga", "lift", lifts=hold.sha256)
    assert lacks(sealed(), word(), hold, own) == [f"legal hold {hold.name} by carol"]
    assert lacks(sealed(), word(), said("hold", "carol", items=["host:app1"])) == []
    (vague,) = lacks(sealed(), word(), said("hold", "carol", items=["db1"]))
    assert "speaks of db1, which the plan does not have" in vague


def test_a_hold_that_is_taken_out_of_the_folder_still_holds() -> None:
    """Here and before a wipe: the ledger remembers it."""
    hold, longer = said("hold", "carol", items=["database:creme"]), said("retention", "carol", packages=["db1"], until="2021-12-31")
    book = sealed()
    for record in packages.noted(Statements([hold, longer], {}), book.view()):
        book.add(**record)
    assert packages.noted(Statements([hold, longer], {}), book.view()) == []
    assert lacks(book, word(), hold, longer) == ["legal hold hold-carol.json by carol"]
    gone = lacks(book, word())
    assert [line for line in gone if "the legal hold hold-carol.json, which the ledger knows, is no longer" in line]
    assert [line for line in gone if "the extension retention-carol.json, which the ledger knows, is no longer" in line]
    assert lacks(book, word(), longer, said("hold", "bob", "lift", lifts=hold.sha256)) == []
    medium = PLAN.items["medium:pgdata"]
    wipe = [lack.what for lack in gates.missing(steps.find("media_wipe", {}), medium, context(book, phase="wipe"))]
    assert [line for line in wipe if "which the ledger knows, is no longer" in line]


def test_a_seal_under_a_hold_of_which_nothing_is_known_any_more() -> None:
    book = sealed({"class": "books", "until": "2020-12-31", "hold": True})
    assert "of which nothing is known any more" in lacks(book, word())[0]
    hold = said("hold", "carol", items=["host:db1"])
    assert lacks(book, word(), hold, said("hold", "bob", "lift", lifts=hold.sha256)) == []


def test_doubtful_words_block() -> None:
    for field, text in (("doubtful_holds", "says that it is a legal hold"), ("doubtful_retentions", "says that it extends a retention")):
        words = Statements([word()], {"x.json": "no signature"}, **{field: ("x.json",)})
        given = context(sealed(), phase="expire")
        given = grounds.Context(**{**given.__dict__, "statements": words})
        assert text in gates.missing(STEP, HOST, given, "vault1")[0].what


def test_only_what_was_sealed_on_record() -> None:
    book = Book(PLAN)
    assert "knows no sealed package" in lacks(book, word())[0]
    begun = sealed()
    begun.step("host:db1", "vault_package", "open", "vault1", result={"identity_digest": "new"})
    assert "knows no sealed package" in lacks(begun, word())[0]


@pytest.mark.parametrize("status", [None, "unknown", "failed"])
def test_a_destruction_that_broke_off_is_finished_and_counts_as_begun(status: str | None) -> None:
    book = sealed()
    assert "vault1" in book.view().proven_at(PLAN, PLAN.items["database:creme"])
    book.step("host:db1", "vault_destroy", None, "vault1", status=status)
    assert book.view().proven_at(PLAN, PLAN.items["database:creme"]) == ["vault2"]
    assert lacks(book, word()) == []
    assert closing.undestroyed(book.view(), [["db1", "vault1"]]) == ["host:db1 on vault1"]


def test_what_was_destroyed_proves_nothing_and_is_no_longer_owed() -> None:
    book = sealed()
    book.step("host:db1", "vault_destroy", None, "vault1", result={"statement_sha256": "s"})
    view, base = book.view(), PLAN.items["database:creme"]
    assert view.proven_at(PLAN, base) == ["vault2"]
    assert closing.undestroyed(view, [["db1", "vault1"]]) == []
    row = closing.row(base, PLAN, view, "shutdown")
    assert row.finished and "package destroyed on record on vault1" in row.proof
    wipe = [lack.what for lack in gates.missing(steps.find("media_wipe", {}), PLAN.items["medium:pgdata"], context(book, phase="wipe"))]
    assert [line for line in wipe if "restored and compared on 1 of 2 vaults" in line]


def test_who_is_asked_in_a_run_of_expiry() -> None:
    old = word("carol", expires="2026-01-01")
    words = Statements([word(), old], {})
    assert packages.named(words, sealed().view(), NOW) == [("db1", "vault1")]
    assert packages.named(Statements([old], {}), sealed().view(), NOW) == []
    book = sealed()
    book.step("host:db1", "vault_destroy", None, "vault1")
    assert packages.named(Statements([old], {}), book.view(), NOW) == [("db1", "vault1")]
    assert runs.expiring(PLAN, [("db1", "vault1"), ("db1", "elsewhere"), ("nobody", "vault2")]) == [
        {
            "host": "vault1",
            "place": "vault",
            "items": {"expired": ["host:db1"]},
            "late": {},
            "tier": 0,
            "vaults": PLAN.vaults,
            "all_vaults": PLAN.vaults,
        }
    ]


# --- what a package is marked with ---


@pytest.mark.parametrize(
    ("rules", "host", "expected"),
    [
        ({}, "db1", ("unclassified", None)),
        ({"default": {"class": "books", "years": 10}}, "db1", ("books", "2036-12-31")),
        ({"default": {"class": "books", "years": 0}}, "db1", ("books", "2026-12-31")),
        ({"default": {"class": "books", "until": "2030-01-02"}}, "db1", ("books", "2030-01-02")),
        ({"default": {"class": "for ever"}}, "db1", ("for ever", None)),
        ({"host:db1": {"class": "letters", "years": 6}}, "db1", ("letters", "2032-12-31")),
        ({"host:db1": {"class": "letters", "years": 6}}, "app1", ("unclassified", None)),
        # Several data sets of one host: the longest, and none where one has none.
        ({"container:shop": {"class": "vouchers", "years": 8}, "filestore:shop-data": {"class": "books", "years": 10}}, "dock1", ("books + vouchers", "2036-12-31")),
        ({"container:shop": {"class": "vouchers", "years": 8}}, "dock1", ("unclassified", None)),
        ({"container:shop": {"class": "v", "years": 8}, "filestore:shop-data": {"class": "for ever"}}, "dock1", ("for ever + v", None)),
    ],
)  # fmt: skip
def test_the_retention_of_a_package(rules: dict[str, Any], host: str, expected: tuple[str, str | None]) -> None:
    plan = make_plan(plan_data(settings={"retention": rules}))
    assert packages.retention(plan, host, hold=False, now=NOW) == {"class": expected[0], "until": expected[1], "hold": False}


def test_the_seal_is_marked_with_the_holds_that_stand() -> None:
    step, hold = steps.find("vault_package", {"state": "sealed"}), said("hold", "carol", items=["database:creme"])
    for words, expected in (([], False), ([hold], True), ([hold, said("hold", "bob", "lift", lifts=hold.sha256)], False)):
        assert signed.said(step, HOST, context(sealed(), words), "vault1")["retention"]["hold"] is expected


@pytest.mark.parametrize(
    "rules",
    [
        "books",
        {"default": "books"},
        {"default": {"years": 10}},
        {"default": {"class": "books", "years": -1}},
        {"default": {"class": "books", "years": True}},
        {"default": {"class": "books", "until": "2036-13-31"}},
        {"default": {"class": "books", "until": "2036-12-31", "years": 1}},
        {"default": {"class": "books", "for": 1}},
        {"database:nobody": {"class": "books", "years": 10}},
    ],
)
def test_a_retention_that_nobody_can_read_is_no_plan(rules: Any) -> None:
    with pytest.raises(Refusal, match="retention"):
        make_plan(plan_data(settings={"retention": rules}))


# --- two identities ---


def test_both_identities_must_be_shown_to_open() -> None:
    book, step = complete(PLAN), steps.find("vault_package", {"state": "forgotten"})
    book.step("host:db1", "vault_package", "sealed", "vault1", result={"identity_digest": "i", "keys_identity_digest": "k"})
    data = said("attestation", "carol", "d", about="package:db1", identity_digest="i")
    keys = said("attestation", "carol", "k", about="package:db1", identity_digest="k")
    others = said("attestation", "bob", "k", about="package:db1", identity_digest="k")
    for words in ([data], [keys], [data, others]):
        (lack,) = gates.missing(step, HOST, context(book, words, phase="wipe"), "vault1")
        assert "0 of 1 custodians have shown that the wrapped identity (both: data and keys)" in lack.what
    assert gates.missing(step, HOST, context(book, [data, keys], phase="wipe"), "vault1") == []
    assert signed.said(step, HOST, context(book, [data, keys], phase="wipe"), "vault1") == {
        "attestation_sha256": data.sha256, "keys_attestation_sha256": keys.sha256}  # fmt: skip


# --- real signatures ---


def test_each_word_counts_in_its_own_namespace(tmp_path: Path) -> None:
    from tests.unit import builders

    (tmp_path / "keys").mkdir()
    keys = builders.make_keys(tmp_path / "keys")
    plan = make_plan(plan_data(allowed_signers=builders.allowed_signers(keys)))
    folder = tmp_path / "statements"
    good = {"kind": "destruction", "estate": "acme", "packages": [], "expires": "2027-01-01"}
    builders.say(folder, "a", keys["bob"], signatures.DESTRUCTION, good)
    builders.say(folder, "b", keys["bob"], signatures.AUTHORISATION, good)
    builders.say(
        folder, "c", keys["bob"], signatures.RETENTION, {"kind": "retention", "estate": "acme", "packages": ["db1"], "until": "2030-01-01"}
    )
    builders.say(
        folder,
        "d",
        keys["bob"],
        signatures.DESTRUCTION,
        {"kind": "retention", "estate": "acme", "packages": ["db1"], "until": "2031-01-01"},
    )
    found = statements.read(folder, plan)
    assert sorted(one.name for one in found.valid) == ["a.json", "c.json"]
    assert found.doubtful_retentions == ("d.json",) and found.doubtful_holds == ()
