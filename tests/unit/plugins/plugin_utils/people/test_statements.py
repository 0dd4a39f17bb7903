# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Signed words with real keys: who, for what purpose, about which bytes."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.people import signatures, statements
from ansible_collections.sunset.crm.plugins.plugin_utils.planning.plan import Plan
from tests.unit.builders import allowed_signers, make_plan, plan_bytes, plan_data, say, sign

Keys = dict[str, Path]


@pytest.fixture
def data(keys: Keys) -> dict[str, Any]:
    return plan_data(allowed_signers=allowed_signers({name: keys[name] for name in ("alice", "bob", "carol")}))


@pytest.fixture
def current(data: dict[str, Any]) -> Plan:
    return make_plan(data)


def authorisation(**changes: Any) -> dict[str, Any]:
    return {
        "kind": "authorisation",
        "estate": "acme",
        "media": [{"item": "medium:pgdata", "serial": "s"}],
        "expires": "2030-01-01",
        **changes,
    }


def judged(folder: Path, current: Plan) -> tuple[list[str], str]:
    found = statements.read(folder, current)
    return [statement.signer for statement in found.valid], "; ".join(found.rejected.values())


def test_a_statement_counts_with_the_name_of_its_signer(tmp_path: Path, keys: Keys, current: Plan) -> None:
    path = say(tmp_path, "word", keys["bob"], signatures.AUTHORISATION, authorisation())
    found = statements.read(tmp_path, current)
    assert [(s.signer, s.kind, s.name) for s in found.valid] == [("bob", "authorisation", "word.json")]
    assert found.valid[0].sha256 == subprocess.run(["sha256sum", str(path)], capture_output=True, check=True, text=True).stdout.split()[0]


def test_each_bit_counts(tmp_path: Path, keys: Keys, current: Plan) -> None:
    path = say(tmp_path, "word", keys["bob"], signatures.AUTHORISATION, authorisation())
    true = path.read_bytes()
    for place in (0, true.index(b"pgdata"), true.index(b"2030") + 3, len(true) - 1):
        changed = bytearray(true)
        changed[place] ^= 0x01
        path.write_bytes(bytes(changed))
        assert judged(tmp_path, current)[0] == [], place
    path.write_bytes(true + b" ")
    assert "the document was altered" in judged(tmp_path, current)[1]


@pytest.mark.parametrize("namespace", [signatures.WAIVER, signatures.APPROVAL, signatures.ATTESTATION, "file"])
def test_a_signature_for_another_purpose_does_not_count(tmp_path: Path, keys: Keys, current: Plan, namespace: str) -> None:
    say(tmp_path, "word", keys["bob"], namespace, authorisation())
    valid, why = judged(tmp_path, current)
    assert valid == []
    assert "does not hold for namespace authorisation@sunset.crm" in why


def test_a_stranger_does_not_count(tmp_path: Path, keys: Keys, current: Plan) -> None:
    say(tmp_path, "word", keys["operator"], signatures.AUTHORISATION, authorisation())
    assert judged(tmp_path, current) == ([], "the key that signed it is not among the allowed signers")


def test_a_signer_may_be_limited_to_some_purposes(tmp_path: Path, keys: Keys, data: dict[str, Any]) -> None:
    key = " ".join(keys["bob"].with_suffix(".pub").read_text().split()[:2])
    data["allowed_signers"] = f'bob namespaces="{signatures.WAIVER}" {key}\n'
    say(tmp_path, "word", keys["bob"], signatures.AUTHORISATION, authorisation())
    assert judged(tmp_path, make_plan(data))[0] == []
    data["allowed_signers"] = f'bob valid-before="20200101" {key}\n'
    assert judged(tmp_path, make_plan(data))[0] == []


def test_one_key_under_two_names_is_one_person(tmp_path: Path, keys: Keys, data: dict[str, Any]) -> None:
    """Whoever owns a key cannot pass as two: the first name counts, for each kind of word."""
    key = " ".join(keys["bob"].with_suffix(".pub").read_text().split()[:2])
    data["allowed_signers"] = f"alice {key}\nbob {key}\n"
    say(tmp_path, "word", keys["bob"], signatures.AUTHORISATION, authorisation())
    plan_file = tmp_path / "plan"
    plan_file.write_bytes(plan_bytes(data))
    signature = sign(plan_file, keys["bob"], signatures.APPROVAL)
    current = make_plan(data)
    assert judged(tmp_path, current)[0] == ["alice"] == [statements.approval(plan_file.read_bytes(), signature, current)]


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (authorisation(estate="other"), "it is for the estate 'other'"),
        (authorisation(kind="order"), "its kind 'order' is unknown"),
        (authorisation(kind=["hold"]), "is unknown"),
        ({"estate": "acme"}, "not a JSON mapping with kind and estate"),
        (["hold"], "not a JSON mapping"),
    ],
)
def test_words_of_another_form_do_not_count(tmp_path: Path, keys: Keys, current: Plan, document: Any, words: str) -> None:
    say(tmp_path, "word", keys["bob"], signatures.AUTHORISATION, document)
    valid, why = judged(tmp_path, current)
    assert valid == []
    assert words in why


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"{"])
def test_rubbish_is_rejected_without_a_crash(tmp_path: Path, current: Plan, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    (tmp_path / "b.json").mkdir()
    (tmp_path / "c.json").write_text('{"kind": "hold", "estate": "acme"}')
    (tmp_path / "c.json.sig").write_bytes(b"\xff\xfe")
    found = statements.read(tmp_path, current)
    assert sorted(found.rejected) == ["a.json", "b.json", "c.json"]
    assert found.valid == []
    assert "c.json" in found.doubtful_holds


def test_a_hold_without_its_signature_is_doubtful_not_absent(tmp_path: Path, keys: Keys, current: Plan) -> None:
    path = say(tmp_path, "hold", keys["carol"], signatures.HOLD, {"kind": "hold", "estate": "acme", "items": ["*"]})
    assert statements.read(tmp_path, current).doubtful_holds == ()
    path.with_name("hold.json.sig").unlink()
    assert statements.read(tmp_path, current).doubtful_holds == ("hold.json",)
    say(tmp_path, "word", keys["operator"], signatures.AUTHORISATION, authorisation())
    assert statements.read(tmp_path, current).doubtful_holds == ("hold.json",)


def test_no_folder_is_no_statement(tmp_path: Path, current: Plan) -> None:
    assert statements.read(tmp_path / "none", current) == statements.Statements([], {})


# --- the approval of the plan ---


def test_a_plan_is_approved_by_name(tmp_path: Path, keys: Keys, data: dict[str, Any]) -> None:
    path = tmp_path / "plan.json"
    path.write_bytes(plan_bytes(data))
    signature, current = tmp_path / "plan.json.sig", make_plan(data)
    with pytest.raises(Refusal, match="not approved: there is no"):
        statements.approval(path.read_bytes(), signature, current)
    sign(path, keys["alice"], signatures.APPROVAL)
    assert statements.approval(path.read_bytes(), signature, current) == "alice"
    with pytest.raises(Refusal, match="not approved"):
        statements.approval(path.read_bytes() + b" ", signature, current)
    sign(path, keys["alice"], signatures.AUTHORISATION)
    with pytest.raises(Refusal, match="not approved"):
        statements.approval(path.read_bytes(), signature, current)
    sign(path, keys["operator"], signatures.APPROVAL)
    with pytest.raises(Refusal, match="not among the allowed signers"):
        statements.approval(path.read_bytes(), signature, current)
    signature.write_bytes(b"\xff")
    with pytest.raises(Refusal, match="cannot be read"):
        statements.approval(path.read_bytes(), signature, current)


def test_another_allowed_signer_than_the_plan_pins_does_not_count(keys: Keys, current: Plan, tmp_path: Path) -> None:
    say(tmp_path, "word", keys["bob"], signatures.AUTHORISATION, authorisation())
    narrowed = replace(current, data={**current.data, "allowed_signers": allowed_signers({"alice": keys["alice"]})})
    assert judged(tmp_path, narrowed)[0] == []


@pytest.mark.parametrize(("text", "there"), [("2026-01-01T00:00:00Z", True), ("2026-01-01", True), ("tomorrow", False), (None, False)])
def test_moments_have_a_time_zone_or_are_none(text: Any, there: bool) -> None:
    found = statements.moment(text)
    assert (found is not None) == there
    assert found is None or found.tzinfo is not None


def test_an_authorisation_by_the_shipped_script_names_media_people_and_the_way_afterwards(
    tmp_path: Path, keys: Keys, data: dict[str, Any]
) -> None:
    script = Path(__file__).resolve().parents[5] / "scripts" / "statement"
    names = {item["id"]: item["identity"] for item in data["items"] if item["kind"] == "medium"}
    names["medium:pgdata"].pop("serial")
    names["medium:uploads"].pop("serial")
    names["medium:uploads"].pop("inode")
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps(data))
    argv = [str(script), "authorise", "--key", str(keys["bob"]), "--yes", "acme", "--out", str(tmp_path / "out"), "--verifier", "Vera"]
    argv += ["--witness", "Willi", "--destination", "recycled", str(plan), "medium:pgdata", "medium:uploads"]
    done = subprocess.run(argv, check=False, capture_output=True, text=True)
    (word,) = statements.read(tmp_path / "out", make_plan(data)).of("authorisation")
    first, second = word.document["media"]
    assert (word.signer, first["serial"], first["verifier"], first["witness"], first["destination"]) == (
        "bob",
        7,
        "Vera",
        "Willi",
        "recycled",
    )
    assert second["serial"] is None and "medium:uploads HAS NO SERIAL NUMBER" in done.stdout, done.stderr
