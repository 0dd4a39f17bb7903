# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Each rule, by taking away single pieces of evidence from a complete ledger; and what would be a wipe without proof."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import pytest

from ansible_collections.sunset.crm.plugins.plugin_utils.people import signed
from ansible_collections.sunset.crm.plugins.plugin_utils.people.statements import Statements
from ansible_collections.sunset.crm.plugins.plugin_utils.planning.plan import Plan, subject
from ansible_collections.sunset.crm.plugins.plugin_utils.steps import gates, grounds, steps
from tests.unit.builders import (
    NOW,
    VAULTS,
    Book,
    Key,
    attested,
    authorised,
    complete,
    context,
    dump_result,
    item_of,
    make_plan,
    plan_data,
    said,
)

APP, DB, UPLOADS, SHOP, SHOP_DATA = "application:creme", "database:creme", "filestore:uploads", "container:shop", "filestore:shop-data"
PGDATA = "medium:pgdata"
PLAN = make_plan()
WHOLE = complete(PLAN)
FORGOTTEN = complete(PLAN, forgotten=True)
PILOT = {("pilot", "accepted")}


def sides(app: str) -> set[Key]:
    return {(app, aspect) for aspect in ("scheduler", "web", "session", "service")}


def proof(*data_sets: str) -> set[Key]:
    """The dump, its copy and its proof on both vaults (two are asked for where there are two)."""
    return {
        (name, aspect) for name in data_sets for aspect in ("dump", *(f"{what}@{vault}" for what in ("copy", "proof") for vault in VAULTS))
    }


def packages(host: str) -> set[Key]:
    return {(f"host:{host}", f"package@{vault}") for vault in VAULTS}


@dataclass(frozen=True)
class Row:
    """A step and every piece of evidence that its gate asks for: no more, no less."""

    item: str
    module: str
    state: str | None
    needs: frozenset[Key]
    vault: str = ""


def row(item: str, module: str, state: str | None, needs: set[Key], vault: str = "") -> Row:
    return Row(item, module, state, frozenset(needs | PILOT), vault)


ROWS = [
    row(APP, "scheduler_state", "frozen", set()),
    row(APP, "web_closed", "closed", {(APP, "scheduler")}),
    row(APP, "session_end", None, {(APP, "scheduler"), (APP, "web")}),
    row(APP, "service_state", "stopped", sides(APP) - {(APP, "service")}),
    row(DB, "service_state", "stopped", sides(APP) | proof(DB) | packages("db1") | {("host:db1", "look")}),
    row(SHOP, "docker_guests", "stopped", set()),
    row(DB, "database_dump", None, sides(APP)),
    row(UPLOADS, "filestore_archive", None, sides(APP)),
    row(SHOP_DATA, "filestore_archive", None, {(SHOP, "guest")}),
    row(SHOP, "docker_guests", "saved", {(SHOP, "guest")}),
    row("host:db1", "vault_package", "open", set(), "vault1"),
    row("host:db1", "vault_access", "present", {("host:db1", "package@vault1")}, "vault1"),
    row(DB, "vault_pull", None, {(DB, "dump"), ("host:db1", "package@vault1")}, "vault1"),
    row(DB, "vault_prove", None, {(DB, "dump"), (DB, "copy@vault1")}, "vault1"),
    row("host:db1", "vault_package", "sealed", {(DB, "dump"), (DB, "copy@vault1"), (DB, "proof@vault1")}, "vault1"),
    row(
        "host:dock1",
        "vault_package",
        "sealed",
        {(n, a) for n in (SHOP, SHOP_DATA) for a in ("dump", "copy@vault2", "proof@vault2")},
        "vault2",
    ),
    row("host:db1", "vault_access", "absent", set(), "vault1"),
    row("host:db1", "host_look", None, set()),
    row("host:app1", "host_power", "off", sides(APP) | proof(UPLOADS) | packages("app1") | {("host:app1", "look")}),
    row("host:db1", "host_power", "off", proof(DB) | packages("db1") | {(DB, "service"), ("host:app1", "power"), ("host:db1", "look")}),
    row("host:dock1", "host_power", "off", {(SHOP, "guest")} | proof(SHOP, SHOP_DATA) | packages("dock1") | {("host:dock1", "look")}),
]
ALL_ACCEPTED = {("pilot", "accepted"), ("main", "accepted")}
WIPES = [
    Row(PGDATA, "media_wipe", None, frozenset(ALL_ACCEPTED | proof(DB) | packages("db1") | {("host:db1", "power")})),
    Row("medium:shopvol", "media_wipe", None, frozenset(ALL_ACCEPTED | proof(SHOP, SHOP_DATA) | packages("dock1") | {("host:dock1", "power")})),
    Row(
        "medium:mydata", "media_wipe", None,
        frozenset({("pilot", "accepted")} | proof("database:old") | packages("old1") | {("host:old1", "power")}),
    ),
]  # fmt: skip


def lacks(one: Row, book: Book, words: Any = (), **changes: Any) -> list[grounds.Missing]:
    step = steps.find(one.module, {"state": one.state})
    return gates.missing(step, book.plan.items[one.item], context(book, words, **changes), one.vault)


def wipe_lacks(book: Book, words: Any = None, medium: str = PGDATA, **changes: Any) -> list[grounds.Missing]:
    given = [authorised(book.plan, medium)] if words is None else words
    return lacks(Row(medium, "media_wipe", None, frozenset()), book, given, **{"phase": "wipe", **changes})


def text(found: list[grounds.Missing]) -> str:
    return "\n".join(map(str, found))


def described(one: Row) -> str:
    return f"{one.module}-{one.state}-{one.item}"


@pytest.mark.parametrize("one", ROWS, ids=described)
def test_a_step_is_open_on_complete_evidence_and_closed_without_any_single_piece_of_it(one: Row) -> None:
    assert lacks(one, WHOLE) == []
    closed = {key for key in WHOLE.pieces() if lacks(one, WHOLE.without(key))}
    assert closed == set(one.needs)


@pytest.mark.parametrize("one", WIPES, ids=described)
def test_a_medium_is_wiped_on_complete_evidence_only(one: Row) -> None:
    words = [authorised(PLAN, one.item)]
    assert lacks(one, FORGOTTEN, words, phase="wipe") == []
    closed = {key for key in FORGOTTEN.pieces() if lacks(one, FORGOTTEN.without(key), words, phase="wipe")}
    assert closed == set(one.needs)


@pytest.mark.parametrize("one", [*ROWS, *WIPES], ids=described)
def test_what_is_missing_is_named_with_its_item_and_a_way_to_mend_it(one: Row) -> None:
    book = FORGOTTEN if one.module == "media_wipe" else WHOLE
    phase = "wipe" if one.module == "media_wipe" else "shutdown"
    for key in one.needs:
        found = lacks(one, book.without(key), [authorised(PLAN, PGDATA)], phase=phase)
        named = {lack.item for lack in found}
        assert named & {key[0], one.item, f"host:{PLAN.items[one.item]['host']}"}, key
        assert all(lack.mend for lack in found)


def test_every_step_has_a_rule() -> None:
    forward = {(step.aspect, step.value) for step in steps.STEPS if not step.back}
    assert forward == set(gates.RULES)


@pytest.mark.parametrize("status", ["failed", "unknown", None])
def test_what_was_tried_but_not_seen_does_not_count(status: str | None) -> None:
    book = WHOLE.without(("host:app1", "power"))
    book.step("host:app1", "host_power", "off", status=status)
    found = lacks(row("host:db1", "host_power", "off", set()), book)
    assert [lack.item for lack in found] == ["host:app1"]
    assert ("interrupted" in text(found)) == (status is None)


# --- waves and phases ---


def test_an_item_of_another_wave_is_refused() -> None:
    found = lacks(ROWS[0], WHOLE, waves=("pilot",))
    assert "it belongs to wave main, this run works on pilot" in text(found)


def test_the_pilot_comes_first_and_a_resumed_pilot_is_no_longer_accepted() -> None:
    assert "wave pilot is not accepted yet" in text(lacks(ROWS[0], Book(PLAN)))
    book = complete(PLAN)
    book.step("application:old", "scheduler_state", "restored")
    assert "wave pilot is not accepted yet" in text(lacks(ROWS[0], book))


def test_a_rehearsal_goes_through_all_waves_and_a_real_step_never_does() -> None:
    book = Book(PLAN)
    assert lacks(ROWS[0], book, check=True) == []
    assert lacks(ROWS[0], book, check=True, waves=("main",))
    assert lacks(ROWS[0], book, check=False)


@pytest.mark.parametrize("one", [*ROWS[:1], *WIPES[:1]], ids=described)
@pytest.mark.parametrize("phase", ["shutdown", "wipe", "resume", "survey", ""])
def test_a_run_does_only_what_it_was_opened_for(one: Row, phase: str) -> None:
    wanted = "wipe" if one.module == "media_wipe" else "shutdown"
    found = lacks(one, FORGOTTEN, [authorised(PLAN, PGDATA)], phase=phase)
    assert bool(found) == (phase != wanted)


# --- power-off ---


def test_what_nobody_classified_closes_power_off_and_wipe() -> None:
    finding = {"id": "database:forgotten", "host": "db1", "what": "a database nobody planned"}
    current = make_plan(plan_data(findings=[finding]))
    power = row("host:db1", "host_power", "off", set())
    assert "database:forgotten (a database nobody planned)" in text(lacks(power, complete(current)))
    assert "database:forgotten" in text(wipe_lacks(complete(current, forgotten=True)))
    assert lacks(row("host:dock1", "host_power", "off", set()), complete(current)) == []


def test_an_access_that_is_not_taken_back_keeps_the_host_on() -> None:
    book = complete(PLAN)
    book.step("host:db1", "vault_access", "present", "vault2")
    assert "the read access of the vault vault2" in text(lacks(row("host:db1", "host_power", "off", set()), book))


def test_an_application_without_services_is_down_when_it_is_frozen() -> None:
    data = plan_data()
    item_of(data, APP)["expects"].pop("services")
    current = make_plan(data)
    book = complete(current).without((APP, "service"))
    power = row("host:app1", "host_power", "off", set())
    assert lacks(power, book) == []
    for aspect in ("scheduler", "web", "session"):
        assert lacks(power, book.without((APP, aspect)))


# --- the wipe: proofs ---


def test_fewer_proofs_than_one_are_never_enough() -> None:
    """A plan that asks for none is refused; if one came past that, one is asked for still."""
    careless = replace(PLAN, data={**PLAN.data, "settings": {"proofs_required": 0, "custodians_required": 0}})
    assert careless.proofs_required == 1
    book = Book(careless)
    book.entries = FORGOTTEN.without((DB, "proof@vault1")).without((DB, "proof@vault2")).entries
    assert "restored and compared on 0 of 1 vaults" in text(wipe_lacks(book))
    sealed = Book(careless)
    sealed.entries = WHOLE.entries
    assert "0 of 1 custodians" in text(wipe_lacks(sealed))


def test_one_proof_is_enough_where_the_plan_says_so() -> None:
    current = make_plan(plan_data(settings={"proofs_required": 1}))
    assert wipe_lacks(complete(current, forgotten=True).without((DB, "proof@vault1"))) == []


def test_a_second_data_set_on_the_medium_is_asked_for() -> None:
    data = plan_data()
    item_of(data, UPLOADS)["media"] = [PGDATA, "medium:uploads"]
    current = make_plan(data)
    book = complete(current, forgotten=True)
    assert wipe_lacks(book) == []
    assert UPLOADS in text(wipe_lacks(book.without((UPLOADS, "proof@vault2"))))
    assert "host:app1" in text(wipe_lacks(book.without(("host:app1", "power"))))


def test_evidence_about_a_former_thing_of_that_name_does_not_open_the_wipe() -> None:
    data = plan_data()
    item_of(data, DB)["identity"]["system_identifier"] = "surveyed again: another server"
    book = Book(make_plan(data))
    book.entries = FORGOTTEN.entries
    assert "no dump of it was seen" in text(wipe_lacks(book))


def tracked(book: Book) -> dict[str, set[str]]:
    """An own, simple-minded reading of the ledger: data set -> vaults whose copy of the newest dump is proven, since which
    nothing was started."""
    current: dict[str, str] = {}
    copies: dict[Key, str] = {}
    proofs: dict[Key, str] = {}
    uses = {item["id"]: {item["id"], *item["stands_on"]} for item in book.plan.items.values()}
    for entry in book.entries:
        record = entry.record
        if record["kind"] == "intent" and record["back"]:
            for name in [n for n in current if n in uses[record["item"]] or f"host:{book.plan.items[n]['host']}" == record["item"]]:
                current.pop(name)
        if record["kind"] != "outcome" or record["status"] == "unknown":
            continue
        name, (aspect, _, vault), done = record["item"], record["aspect"].partition("@"), record["status"] == "done"
        if aspect == "dump":
            result = record["evidence"]["result"]
            current.pop(name, None)
            if done and result.get("artefacts"):
                current[name] = result["dump_id"]
        kept = {"copy": copies, "proof": proofs}.get(aspect)
        if kept is not None:
            kept[name, vault] = record["about"].get("dump", "") if done else ""
    return {
        name: {vault for vault in VAULTS if copies.get((name, vault)) == proofs.get((name, vault)) == dump}
        for name, dump in current.items()
    }


@pytest.mark.parametrize("seed", range(8))
def test_no_ledger_that_lacks_a_proof_of_a_data_set_opens_the_wipe_of_its_medium(seed: int) -> None:
    """Random ends of a ledger. The gate may be closed for many reasons; when it is open, an independent reading agrees."""
    dice = random.Random(seed)
    opened = 0
    for _ in range(40):
        book = Book(PLAN)
        book.entries = list(FORGOTTEN.entries)
        for _ in range(dice.randint(0, 6)):
            random_step(dice, book)
        words = [*attested(), *(authorised(PLAN, item["id"]) for item in PLAN.of("medium"))]
        proven = tracked(book)
        for medium in PLAN.of("medium"):
            if wipe_lacks(book, words, medium["id"]):
                continue
            opened += 1
            for data_set in PLAN.carried_by(medium["id"]):
                assert proven.get(data_set["id"]) == set(VAULTS), [e.record for e in book.entries[len(FORGOTTEN.entries) :]]
            assert all(book.view().is_off(f"host:{host}") for host in PLAN.media_hosts(medium))
    assert opened > 20


def random_step(dice: random.Random, book: Book) -> None:
    kinds: dict[str, tuple[str, ...]] = {
        "scheduler_state": ("application",), "web_closed": ("application",), "session_end": ("application",),
        "service_state": ("application", "database"), "docker_guests": ("container",), "libvirt_guests": ("guest",), "proxmox_guests": ("guest",), "database_dump": ("database",),
        "filestore_archive": ("filestore",), "host_look": ("host",), "host_power": ("host",), "host_boot": ("host",), "proxmox_nodes": ("host",), "vault_package": ("host",), "vault_access": ("host",),
        "vault_destroy": ("host",), "vault_shelf": ("host",),
        "vault_pull": ("database", "filestore", "container"), "vault_prove": ("database", "filestore", "container"),
        "media_wipe": ("medium",), "rescue_boot": ("host",),
    }  # fmt: skip
    step = dice.choice([one for one in steps.STEPS if one.aspect != "wipe" and book.plan.of(*kinds[one.module])])
    item = dice.choice(book.plan.of(*kinds[step.module]))
    status = dice.choice(["done", "done", "done", "failed", "unknown", None])
    result: dict[str, Any] = {}
    if step.aspect == "dump":
        result = dump_result(item["id"], dice.choice([1, 1, 2]))
        if dice.random() < 0.2:
            result["artefacts"] = []
    if step.aspect == "package":
        result = {"identity_digest": f"{item['id']}@vault1"}
    book.step(item["id"], step.module, step.state, dice.choice(VAULTS) if step.per_vault else "", status, result=result)


# --- the wipe: authorisation ---


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"expires": (NOW - timedelta(seconds=1)).isoformat()}, "it expired at"),
        ({"expires": NOW.isoformat()}, "it expired at"),
        ({"expires": "soon"}, "it expired at soon"),
        ({"expires": None}, "it has no expiry"),
        ({"serial": "serial-uploads"}, "names serial 'serial-uploads', the plan has 'serial-pgdata'"),
        ({"serial": None}, "names serial None"),
        ({"size": (64 << 20) + 1}, "names size"),
        ({"size": str(64 << 20)}, "names size"),
        ({"method": "shred"}, "names the method 'shred'"),
        ({"item": "medium:uploads"}, "no authorisation names it"),
        ({"signer": "alice"}, "also the one who approved the plan"),
        ({"signer": "olga"}, "its signer is the operator"),
        ({"signer": "root"}, "its signer is the operator"),
    ],
)
def test_an_authorisation_counts_only_for_this_medium_now_by_a_second_person(changes: dict[str, Any], words: str) -> None:
    found = wipe_lacks(FORGOTTEN, [authorised(PLAN, PGDATA, **changes)], login="root")
    assert len(found) == 1
    assert words in found[0].what


def test_a_medium_without_a_serial_number_cannot_be_named() -> None:
    data = plan_data()
    item_of(data, PGDATA)["identity"] = {"kind": "usb", "size": 64 << 20}
    book = complete(make_plan(data), forgotten=True)
    assert "the plan knows no serial of it" in text(wipe_lacks(book))


def test_a_medium_without_any_name_is_wiped_on_a_signed_waiver_of_its_identity_alone() -> None:
    data = plan_data()
    item_of(data, PGDATA)["identity"] = {"kind": "usb", "size": 64 << 20}
    book = complete(make_plan(data), forgotten=True)
    given = authorised(book.plan, PGDATA, serial=None)
    waived = said("waiver", "bob", gate="identity", items=[PGDATA], expires=(NOW + timedelta(days=1)).isoformat())
    assert "signed waiver of the gate 'identity'" in text(wipe_lacks(book, [given]))
    assert wipe_lacks(book, [given, waived]) == []
    assert "names serial 'x'" in text(wipe_lacks(book, [authorised(book.plan, PGDATA, serial="x"), waived]))
    assert "names size" in text(wipe_lacks(book, [authorised(book.plan, PGDATA, serial=None, size=7), waived]))
    assert "without a signed waiver" in text(wipe_lacks(book, [given, replace(waived, signer="olga")], operator="olga"))


@pytest.mark.parametrize("name", ["wwid", "inode"])
def test_a_medium_without_a_serial_number_is_named_by_what_else_the_world_calls_it(name: str) -> None:
    data = plan_data()
    item_of(data, PGDATA)["identity"] = {"kind": "scsi", name: 4711, "size": 64 << 20}
    book = complete(make_plan(data), forgotten=True)
    assert wipe_lacks(book, [authorised(book.plan, PGDATA, serial=4711)]) == []
    assert "names serial 4712, the plan has 4711" in text(wipe_lacks(book, [authorised(book.plan, PGDATA, serial=4712)]))


def test_the_operator_is_not_the_verifier_of_his_own_wipe() -> None:
    named = authorised(PLAN, PGDATA, verifier="olga")
    assert "the verifier whom it names is the operator" in text(wipe_lacks(FORGOTTEN, [named], operator="olga"))
    assert wipe_lacks(FORGOTTEN, [named], operator="otto") == []


def test_no_word_is_no_authorisation_and_a_valid_one_counts_beside_a_bad_one() -> None:
    assert "no authorisation names it" in text(wipe_lacks(FORGOTTEN, []))
    bad = authorised(PLAN, PGDATA, serial="x")
    assert wipe_lacks(FORGOTTEN, [bad, authorised(PLAN, PGDATA, signer="carol")]) == []


@pytest.mark.parametrize("media", [None, "medium:pgdata", {"item": PGDATA}, [PGDATA], [None], 7])
def test_a_list_of_media_of_another_form_authorises_nothing(media: Any) -> None:
    word = said("authorisation", "bob", media=media, expires=(NOW + timedelta(days=1)).isoformat())
    assert "no authorisation names it" in text(wipe_lacks(FORGOTTEN, [word]))


@pytest.mark.parametrize("kind", ["waiver", "attestation", "hold"])
def test_another_kind_of_word_authorises_nothing(kind: str) -> None:
    word = replace(authorised(PLAN, PGDATA), kind=kind)
    assert "no authorisation names it" in text(wipe_lacks(FORGOTTEN, [word]))


def test_with_single_control_one_person_does_all() -> None:
    single = make_plan(plan_data(control="single"))
    book = complete(single, forgotten=True)
    assert wipe_lacks(book, [authorised(single, PGDATA, signer="olga")], approver="olga") == []


# --- the wipe: grace, holds, custodians ---


def recent() -> Book:
    book = FORGOTTEN.without(("host:db1", "power"))
    book.step("host:db1", "host_power", "off", at="2026-11-20T12:00:00.000000Z")
    return book


def waiver(**document: Any) -> list[Any]:
    return [authorised(PLAN, PGDATA), said("waiver", "bob", **{"gate": "grace", "items": [PGDATA], **document})]


def test_the_grace_period_runs_from_the_last_power_off() -> None:
    assert "the grace period has not ended (until 2026-12-04T12:00:00+00:00)" in text(wipe_lacks(recent()))
    assert wipe_lacks(recent(), now=NOW + timedelta(days=13), words=[authorised(PLAN, PGDATA, expires="2027-01-01T00:00:00Z")]) == []


@pytest.mark.parametrize("document", [{}, {"items": ["*"]}, {"items": PGDATA}, {"expires": "2027-01-01T00:00:00Z"}])
def test_a_signed_waiver_ends_the_grace_period(document: dict[str, Any]) -> None:
    assert wipe_lacks(recent(), waiver(**document)) == []


@pytest.mark.parametrize(
    "document",
    [
        {"items": ["medium:uploads"]},
        {"items": []},
        {"items": None},
        {"items": "medium:pgdata2"},
        {"items": "all *"},
        {"gate": "proof"},
        {"gate": None},
        {"expires": "2026-11-21T11:59:59Z"},
        {"expires": "never"},
    ],
)
def test_a_waiver_of_something_else_does_not(document: dict[str, Any]) -> None:
    assert "the grace period" in text(wipe_lacks(recent(), waiver(**document)))


def test_a_waiver_waives_no_proof() -> None:
    book = FORGOTTEN.without((DB, "proof@vault1"))
    assert wipe_lacks(book, waiver(gate="proof"))


# The medium, what lies on it, the host, and what uses it on another host.
@pytest.mark.parametrize("items", [[PGDATA], [DB], ["*"], ["host:db1"], ["application:creme"], ["medium:uploads", "host:db1"]])
def test_a_legal_hold_closes_the_wipe_until_it_is_lifted(items: list[str]) -> None:
    hold = said("hold", "carol", items=items)
    given = [authorised(PLAN, PGDATA), hold]
    assert "legal hold hold-carol.json by carol" in text(wipe_lacks(FORGOTTEN, given))
    other = said("hold", "carol", "other", lifts="sha-of-something-else", items=["*"])
    assert "legal hold" in text(wipe_lacks(FORGOTTEN, [*given, other]))
    lift = said("hold", "carol", "lift", lifts=hold.sha256)
    assert wipe_lacks(FORGOTTEN, [*given, lift]) == []


@pytest.mark.parametrize("other", ["medium:uploads", "filestore:uploads", "host:app1", "application:old"])
def test_a_hold_of_something_else_does_not(other: str) -> None:
    assert wipe_lacks(FORGOTTEN, [authorised(PLAN, PGDATA), said("hold", "carol", items=[other])]) == []


@pytest.mark.parametrize(
    "items,named", [(["db1"], "db1"), (["database:Creme"], "database:Creme"), ([], "nothing"), (None, "None"), ("db1", "db1")]
)
def test_a_hold_of_what_the_plan_does_not_have_is_cleared_up_first(items: Any, named: str) -> None:
    """A slip of the pen must not let go what somebody meant to hold."""
    hold = said("hold", "carol", items=items)
    given = [authorised(PLAN, PGDATA), hold]
    assert f"the legal hold hold-carol.json speaks of {named}, which the plan does not have" in text(wipe_lacks(FORGOTTEN, given))
    assert wipe_lacks(FORGOTTEN, [*given, said("hold", "carol", "lift", lifts=hold.sha256)]) == []


def test_a_hold_whose_signature_does_not_hold_is_cleared_up_first() -> None:
    step = steps.find("media_wipe", {})
    words = Statements([authorised(PLAN, PGDATA)], {"hold.json": "there is no signature"}, ("hold.json",))
    found = gates.missing(step, PLAN.items[PGDATA], replace(context(FORGOTTEN, phase="wipe"), statements=words))
    assert "hold.json says that it is a legal hold" in text(found)


def forget_lacks(words: Any, current: Plan = PLAN) -> str:
    book = complete(current)
    step = steps.find("vault_package", {"state": "forgotten"})
    return text(gates.missing(step, current.items["host:db1"], context(book, words, phase="wipe"), "vault1"))


def test_a_vault_forgets_what_a_custodian_has_shown_to_open() -> None:
    assert "0 of 1 custodians" in forget_lacks([])
    assert forget_lacks(attested()) == ""


@pytest.mark.parametrize(
    "word",
    [
        said("attestation", "carol", about="package:db1", identity_digest="another"),
        said("attestation", "carol", about="package:app1", identity_digest="host:db1@vault1"),
        said("attestation", "carol", about="package:db1", identity_digest="host:db1@vault1", expires="2026-01-01T00:00:00Z"),
        said("attestation", "olga", about="package:db1", identity_digest="host:db1@vault1"),
        said("waiver", "carol", about="package:db1", identity_digest="host:db1@vault1"),
    ],
    ids=["other identity", "other package", "expired", "no custodian", "other kind"],
)
def test_any_other_word_is_no_challenge(word: Any) -> None:
    assert "0 of 1 custodians" in forget_lacks([word])


def test_two_custodians_are_two_persons() -> None:
    both = make_plan(plan_data(settings={"custodians_required": 2}))
    assert "1 of 2 custodians" in forget_lacks(attested("carol") + attested("carol"), both)
    assert forget_lacks(attested("carol") + attested("bob"), both) == ""


def test_what_is_forgotten_asks_for_no_new_word() -> None:
    step = steps.find("vault_package", {"state": "forgotten"})
    assert gates.missing(step, PLAN.items["host:db1"], context(FORGOTTEN, phase="wipe"), "vault1") == []


# --- the way back ---


@pytest.mark.parametrize(
    ("item", "module", "state"),
    [(APP, "service_state", "started"), (DB, "service_state", "started"), ("host:db1", "host_power", "on"), (APP, "web_closed", "open")],
)
def test_there_is_a_way_back_until_a_wipe_has_begun(item: str, module: str, state: str) -> None:
    book = complete(PLAN, forgotten=True)
    step = steps.find(module, {"state": state})
    assert gates.missing(step, PLAN.items[item], context(book, phase="resume")) == []
    book.step(PGDATA, "media_wipe", status=None)
    assert "the wipe of medium:pgdata has begun" in text(gates.missing(step, PLAN.items[item], context(book, phase="resume")))


def test_subjects_differ_between_items() -> None:
    assert len({subject(item) for item in PLAN.items.values()}) == len(PLAN.items)


def test_the_operator_opens_no_gate_for_himself() -> None:
    words = [said("waiver", "olga", gate="grace", items=["*"])]
    item = PLAN.items[PGDATA]
    assert signed.waiver("grace", item, context(FORGOTTEN, words)) is None
    assert signed.waiver("grace", item, context(FORGOTTEN, [said("waiver", "alice", gate="grace", items=["*"])])) is not None
    hold = said("hold", "alice", items=[PGDATA], reason="court")
    lift = said("hold", "olga", "lift", lifts=hold.sha256)
    assert signed.held([PGDATA], context(FORGOTTEN, [hold, lift])) == [hold]
    assert signed.held([PGDATA], context(FORGOTTEN, [hold, said("hold", "bob", "lift", lifts=hold.sha256)])) == []


# --- the shelf, and vaults that were away ---


def shelf_plan() -> Any:
    shelf = {"kind": "s3", "endpoint": "https://s3.example.org", "bucket": "archive"}
    return make_plan(plan_data(vaults={"vault1": {"root": "/srv/vault", "shelf": shelf}, "vault2": {"root": "/srv/vault"}}))


def test_a_package_must_be_on_the_shelf_that_its_vault_has() -> None:
    book = complete(shelf_plan())
    step = steps.find("host_power", {"state": "off"})
    told = [str(lack) for lack in gates.missing(step, book.plan.items["host:db1"], context(book))]
    assert [line for line in told if "its package is not on the shelf of the vault vault1" in line]
    book.step("host:db1", "vault_shelf", None, "vault1", about={"package": "host:db1@vault1"})
    told = [str(lack) for lack in gates.missing(step, book.plan.items["host:db1"], context(book))]
    assert not [line for line in told if "shelf" in line]


def test_an_earlier_package_on_the_shelf_counts_for_nothing() -> None:
    book = complete(shelf_plan())
    book.step("host:db1", "vault_shelf", None, "vault1", about={"package": "host:db1@vault1"})
    book.step("host:db1", "vault_package", "sealed", "vault1", result={"identity_digest": "another"})
    step = steps.find("host_power", {"state": "off"})
    assert "shelf" in " ".join(str(lack) for lack in gates.missing(step, book.plan.items["host:db1"], context(book)))


def test_only_a_sealed_package_goes_on_the_shelf() -> None:
    book = Book(shelf_plan())
    step = steps.find("vault_shelf", {})
    item = book.plan.items["host:old1"]
    assert "is not sealed" in " ".join(str(lack) for lack in gates.missing(step, item, context(book), "vault1"))
    book.step("host:old1", "vault_package", "sealed", "vault1", result={"identity_digest": "x"})
    assert gates.missing(step, item, context(book), "vault1") == []


def test_a_vault_that_never_had_anything_of_a_host_has_nothing_to_forget() -> None:
    """With one proof asked for: the second vault was away from the first day to the last."""
    plan = make_plan(plan_data(settings={"proofs_required": 1}))
    whole = complete(plan, forgotten=True)
    book = Book(plan)
    book.entries = [entry for entry in whole.entries if not str(entry.record.get("aspect", "")).endswith("@vault2")]
    words = [*attested(), authorised(plan, "medium:pgdata")]
    assert wipe_lacks(book, words, "medium:pgdata") == []
    book.step("host:db1", "vault_package", "open", "vault2", status="unknown")
    assert "vault2" in " ".join(str(lack) for lack in wipe_lacks(book, words, "medium:pgdata"))


# --- what runs on a host when it goes off ---


def test_a_signed_waiver_of_the_gate_idle_reaches_the_power_off_and_nobody_elses_does() -> None:
    book = complete(make_plan())
    step = steps.find("host_power", {"state": "off"})
    item = book.plan.items["host:db1"]
    word = said("waiver", "bob", gate="idle", items=["host:db1"], expires="2030-01-01T00:00:00+00:00")
    assert signed.said(step, item, context(book, [word]), "") == {"idle_waiver": word.sha256}
    assert signed.said(step, book.plan.items["host:app1"], context(book, [word]), "") == {}
    assert signed.said(step, item, context(book, [said("waiver", "olga", gate="idle", items=["host:db1"])]), "") == {}
    assert signed.said(step, item, context(book, [said("waiver", "bob", gate="grace", items=["host:db1"])]), "") == {}
    assert signed.said(steps.find("host_power", {"state": "on"}), item, context(book, [word]), "") == {}


def test_a_host_is_told_to_boot_into_its_rescue_system_only_when_it_was_seen_off() -> None:
    book = complete(make_plan())
    rescue, usual = (steps.find("host_boot", {"state": state}) for state in ("rescue", "usual"))
    item = book.plan.items["host:db1"]
    assert gates.missing(rescue, item, context(book, phase="wipe"), "") == []
    assert "belongs to a wipe" in str(gates.missing(rescue, item, context(book), "")[0])
    awake = book.without(("host:db1", "power"))
    assert [lack.what for lack in gates.missing(rescue, item, context(awake, phase="wipe"), "")] == ["not seen to be off (power)"]
    # The way back is open whatever became of the host.
    assert gates.missing(usual, item, context(awake, phase="wipe"), "") == []
