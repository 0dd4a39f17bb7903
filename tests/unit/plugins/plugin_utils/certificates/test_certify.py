# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From a ledger to a certificate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.sunset.crm.plugins.plugin_utils.certificates import certificate, certify, orders
from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.people import signatures
from ansible_collections.sunset.crm.plugins.plugin_utils.people.statements import Statement, Statements
from ansible_collections.sunset.crm.plugins.plugin_utils.planning.plan import Plan
from ansible_collections.sunset.crm.plugins.plugin_utils.record import ledger
from ansible_collections.sunset.crm.plugins.plugin_utils.record.estate import Estate
from ansible_collections.sunset.crm.plugins.plugin_utils.record.view import build
from ansible_collections.sunset.crm.plugins.plugin_utils.runs.session import Session
from tests.unit.plugins.plugin_utils.certificates.test_certificate import KEY, facts

ITEM = "medium:pgdata"


def record(kind: str, item: str, aspect: str, value: str, result: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "kind": kind, "run": "r1", "item": item, "aspect": aspect, "value": value, "back": False, "irreversible": aspect == "wipe", **more,
        **({"status": "done", "changed": True, "evidence": {"result": result, "before": {}}, "evidence_sha256": "f" * 64} if kind == "outcome" else {}),
    }  # fmt: skip


@pytest.fixture
def session(tmp_path: Path) -> Session:
    given = facts()
    items = [
        {**given["item"], "kind": "medium", "stands_on": [], "expects": {}},
        {"id": "host:db1", "kind": "host", "wave": "main", "host": "db1", "identity": {}, "stands_on": [], "expects": {}},
        {
            "id": "database:creme", "kind": "database", "wave": "main", "host": "db1", "identity": {}, "stands_on": ["host:db1"],
            "expects": {"categories": ["customers"]}, "media": [ITEM],
        },
    ]  # fmt: skip
    data = {"estate": "lab", "waves": ["main"], "vaults": ["vault1", "vault2"], "allowed_signers": "x", "items": items, "custodians": []}
    plan = Plan(data, "b" * 64, {item["id"]: item for item in items})
    estate = Estate(tmp_path)
    dump = {"dump_id": "d1", "artefacts": [{"sha256": "1" * 64}]}
    proof = {"verdict": "equal", "tables": 3, "rows": 700}
    lines = [{"kind": "run", "state": "open", "run": "r1", "operator": "otto"}]
    for item, aspect, value, result, more in (
        ("database:creme", "dump", "saved", dump, {}),
        ("database:creme", "copy@vault1", "stored", {}, {"about": {"dump": "d1"}}),
        ("database:creme", "copy@vault2", "stored", {}, {"about": {"dump": "d1"}}),
        ("database:creme", "proof@vault1", "equal", proof, {"about": {"dump": "d1"}}),
        ("database:creme", "proof@vault2", "equal", proof, {"about": {"dump": "an older one"}}),
        (ITEM, "wipe", "wiped", given["wipe"], {}),
    ):
        lines.append(record("intent", item, aspect, value, {}, **more))
        lines.append(record("outcome", item, aspect, value, result, **more))
    intent = ""
    for line in lines:
        entry = ledger.append(estate.ledger_file, {**line, **({"intent": intent} if line["kind"] == "outcome" else {})})
        intent = entry.hash
    (tmp_path / "secrets").mkdir()
    document = {"kind": "authorisation", "media": [{"item": ITEM, "method": "overwrite"}], "expires": "2020-01-01T00:00:00Z"}
    words = Statements([Statement("authorisation", "berta", document, "a" * 64, "wipe.json")], {})
    run = {"run": "r2", "operator": "someone later", "waves": ["main"], "phase": "wipe"}
    made = Session(estate, False, run, plan, "anna", build(ledger.read(estate.ledger_file), plan=plan), words)
    made.stream_key = lambda item, make: {"stream_key": KEY}  # type: ignore[method-assign]
    return made


def read(session: Session, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((session.estate.certificates_folder / name).read_bytes())
    return found


def test_the_certificate_tells_what_the_ledger_holds(session: Session) -> None:
    made = read(session, certify.conclude(session, session.plan.items[ITEM])["certificate"])
    assert certificate.schema_problems(made) == []
    assert made["evidence"]["ledger_entry"] == ledger.read(session.estate.ledger_file)[-1].hash
    assert made["people"]["operator"] == "otto", "the one whose run wiped it, not the one of this run"
    (data_set,) = made["data"]["sets"]
    assert data_set["categories"] == ["customers"]
    assert [proof["vault"] for proof in data_set["proofs"]] == ["vault1"], "a proof of another dump is none"
    assert made["authorisation"]["expires"] == "2020-01-01T00:00:00Z"
    assert certificate.summary(made)["result"] == "sanitised: sanitisation (Clear)"


def test_a_second_time_finds_it(session: Session) -> None:
    item = session.plan.items[ITEM]
    first = certify.conclude(session, item)
    assert set(first) == {"certificate", "pdf"}
    before = {path.name: path.read_bytes() for path in session.estate.certificates_folder.iterdir()}
    assert set(before) == {name + end for name in first.values() for end in ("", ".sig")}
    assert certify.conclude(session, item) == first
    assert {path.name: path.read_bytes() for path in session.estate.certificates_folder.iterdir()} == before


@pytest.mark.parametrize("gone", ["json", "json.sig", "pdf", "pdf.sig"])
def test_what_a_kill_left_half_done_is_done_again(session: Session, gone: str) -> None:
    item, folder = session.plan.items[ITEM], session.estate.certificates_folder
    certify.conclude(session, item)
    whole = {path.name for path in folder.iterdir()}
    (folder / f"medium_pgdata.certificate.{gone}").unlink()
    certify.conclude(session, item)
    assert {path.name for path in folder.iterdir()} == whole


def test_a_pdf_that_cannot_be_made_is_said_and_the_certificate_stands(session: Session) -> None:
    session.plan.data["settings"] = {"fonts": ["/nowhere.ttf"]}
    made = certify.conclude(session, session.plan.items[ITEM])
    assert "pdf" not in made and "/nowhere.ttf" in made["warnings"][0] and read(session, made["certificate"])


def test_a_time_stamp_that_the_plan_wants_and_nobody_gives(session: Session) -> None:
    session.plan.data["settings"] = {"timestamp": {"url": "http://127.0.0.1:9/", "ca": "-----BEGIN CERTIFICATE-----"}}
    with pytest.raises(Refusal, match="does not answer"):
        certify.conclude(session, session.plan.items[ITEM])
    assert "RFC 3161 token by http://127.0.0.1:9/" in read(session, "medium_pgdata.certificate.json")["timestamp"]


def test_the_wave_is_not_closed_over_a_certificate_that_is_gone_damaged_or_of_another(session: Session) -> None:
    item, folder = session.plan.items[ITEM], session.estate.certificates_folder
    gaps = lambda: certify.gaps(session.estate, session.plan, session.view, ["main"])  # noqa: E731
    assert gaps() == [f"{ITEM}: its certificate is missing, or is about another wipe"]
    path = folder / certify.conclude(session, item)["certificate"]
    assert gaps() == []
    data = path.read_bytes()
    path.write_bytes(data.replace(b'"otto"', b'"paul"'))
    assert "is unsound" in gaps()[0]
    path.write_bytes(data)
    (folder / "medium_other.certificate.json").write_bytes(data)
    assert gaps() == ["medium_other.certificate.json: a certificate of a medium that the plan does not have"]


def test_a_certificate_of_an_earlier_wipe_neither_closes_the_wave_nor_counts_in_the_report(session: Session) -> None:
    """It was wiped, then written again, and the second wipe failed: the first certificate still lies there, well signed."""
    item = session.plan.items[ITEM]
    name = certify.conclude(session, item)["certificate"]
    assert certify.standing(session.estate, session.plan, session.view) == {name: ""}
    session.view.seen.pop((ITEM, "wipe"))
    assert certify.standing(session.estate, session.plan, session.view) == {name: certify.NOT_WIPED}
    assert certify.gaps(session.estate, session.plan, session.view, ["main"]) == [f"{name}: {certify.NOT_WIPED}"]


def test_what_another_key_has_signed_or_another_wipe_is_about_does_not_stand(session: Session) -> None:
    item, folder = session.plan.items[ITEM], session.estate.certificates_folder
    path = folder / certify.conclude(session, item)["certificate"]
    stranger = session.estate.root / "stranger"
    signatures.create_key(stranger, "stranger")
    certificate.issue(json.loads(path.read_bytes()), folder, stranger)
    assert (
        "does not hold" in (wrong := certify.standing(session.estate, session.plan, session.view)[path.name]) or "allowed signers" in wrong
    )
    other = {**json.loads(path.read_bytes()), "evidence": {"ledger_entry": "9" * 64, "sha256": "f" * 64}}
    certificate.issue(other, folder, session.estate.run_key)
    assert certify.standing(session.estate, session.plan, session.view) == {path.name: certify.OTHER_WIPE}


def test_the_wave_is_not_closed_without_the_time_stamp_that_the_plan_wants(session: Session) -> None:
    item = session.plan.items[ITEM]
    certify.conclude(session, item)
    session.plan.data["settings"] = {"timestamp": {"url": "http://127.0.0.1:9/", "ca": "-----BEGIN CERTIFICATE-----"}}
    (gap,) = certify.gaps(session.estate, session.plan, session.view, ["main"])
    assert gap == f"{ITEM}: the time stamp of its certificate medium_pgdata.certificate.json is missing"
    for end in ("tsq", "tsr"):
        (session.estate.certificates_folder / f"medium_pgdata.certificate.json.{end}").write_bytes(b"nothing")
    assert "does not hold" in certify.gaps(session.estate, session.plan, session.view, ["main"])[0]


@pytest.mark.parametrize(("one", "other"), [("medium:財務", "medium:客戶"), ("medium:a b", "medium:a_b"), ("medium:a:b", "medium:a_b")])
def test_two_media_never_share_a_certificate_an_order_or_a_key(tmp_path: Path, one: str, other: str) -> None:
    """Names of media may be in any script; a letter that no file name should have must not make two of them one."""
    assert certificate.file_name({"medium": {"item": one}}) != certificate.file_name({"medium": {"item": other}})
    assert orders.file_name(one) != orders.file_name(other)
    estate = Estate.at(tmp_path)
    assert estate.secret(f"stream-{one}") != estate.secret(f"stream-{other}") and estate.secret(f"stream-{one}") == estate.secret(
        f"stream-{one}"
    )
    assert certificate.file_name({"medium": {"item": "medium:pg-data.1"}}) == "medium_pg-data.1.certificate.json"


def test_people_and_the_way_afterwards_are_as_the_authorisation_says(session: Session) -> None:
    said = {"item": ITEM, "method": "overwrite", "verifier": "Vera", "witness": "Willi", "destination": "recycled by Muster AG"}
    document = {"kind": "authorisation", "media": [said], "expires": "2020-01-01T00:00:00Z"}
    session.words = Statements([Statement("authorisation", "berta", document, "a" * 64, "wipe.json")], {})
    session.plan.items["host:db1"]["identity"] = {"machine_id": "0" * 32, "hostname": "db1"}
    made = read(session, certify.conclude(session, session.plan.items[ITEM])["certificate"])
    assert (made["people"]["verifier"], made["people"]["witness"], made["destination"]) == ("Vera", "Willi", "recycled by Muster AG")
    assert made["medium"]["asset"] == {"machine_id": "0" * 32, "hostname": "db1"} and made["evidence"]["run"] == "r1"
    assert not {"people.verifier", "people.witness", "destination", "medium.asset", "evidence.run"} & set(made["unknown"])


def test_a_wipe_that_failed_ends_in_an_order_and_one_that_was_refused_does_not(session: Session) -> None:
    item = session.plan.items[ITEM]
    result = {"outcome": "failed", "reasons": ["no"]}
    name = certify.order_destruction(session, item, result, "e" * 64)["order"]
    assert json.loads((session.estate.orders_folder / name).read_bytes())["reasons"] == ["no"]
    for outcome in ("refused", "aborted", "sanitised", None):
        assert certify.order_destruction(session, item, {"outcome": outcome}, "e" * 64) == {}


def test_one_that_was_refused_because_nothing_reaches_what_is_asked_for_ends_in_an_order(session: Session) -> None:
    item = session.plan.items["medium:pgdata"]
    proposal = {
        "asked": "purge", "reachable": "clear", "provisional": True, "method": "melt it", "find_out": ["tcg-revert: no PSID is recorded"],
    }  # fmt: skip
    result = {"outcome": "refused", "reasons": ["asked for purge"], "order": proposal}
    name = certify.order_destruction(session, item, result, "e" * 64)["order"]
    found = json.loads((session.estate.orders_folder / name).read_bytes())
    assert found["asked"] == "purge" and found["reachable"] == "clear" and found["provisional"] and found["technique"] == "none was begun"
    assert (
        found["what_to_do"].startswith("First find out: tcg-revert: no PSID is recorded.")
        and "melt it, before a witness" in found["what_to_do"]
    )


def test_no_authorisation_no_certificate(session: Session) -> None:
    session.words = Statements([], {})
    with pytest.raises(Refusal, match="not among the statements"):
        certify.conclude(session, session.plan.items[ITEM])


def test_no_wipe_no_certificate(session: Session) -> None:
    session.view.seen.pop((ITEM, "wipe"))
    with pytest.raises(Refusal, match="no outcome of a wipe"):
        certify.conclude(session, session.plan.items[ITEM])
