# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What happens to a medium that could not be wiped: an order, and a person's word that ends it."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.sunset.crm.plugins.plugin_utils.certificates import orders
from ansible_collections.sunset.crm.plugins.plugin_utils.people import signatures, statements
from ansible_collections.sunset.crm.plugins.plugin_utils.people.statements import Statement, Statements
from ansible_collections.sunset.crm.plugins.plugin_utils.runs import closing
from tests.unit.builders import complete, make_plan

SCRIPT = Path(__file__).resolve().parents[5] / "scripts" / "statement"
PLAN = make_plan()
ITEM = next(item for item in PLAN.of("medium") if item["identity"].get("serial"))
ENTRY = {
    "item": ITEM["id"], "serial": ITEM["identity"]["serial"], "method": "shredded to 2 mm", "place": "Olten", "by": "Recycle AG",
    "witness": "w. itness", "at": "2026-12-31T14:00Z",
}  # fmt: skip


def words(*entries: Any, kind: str = "disposal", signer: str = "berta", **document: Any) -> Statements:
    return Statements([Statement(kind, signer, {"media": list(entries), **document}, "d" * 64, "disposal-1.json")], {})


def test_an_order_is_signed_and_names_what_is_left(tmp_path: Path) -> None:
    result = {"outcome": "failed", "reasons": ["3 places do not hold the stream"], "exceptions": [], "error_ranges": [[4096, 8192]]}
    document = orders.order("lab", "b" * 64, ITEM, result, "e" * 64, "2026-01-31T10:00:00Z")
    path = orders.issue(document, tmp_path / "orders", tmp_path / "keys/run")
    read = json.loads(path.read_bytes())
    assert read["medium"]["serial"] == ITEM["identity"]["serial"] and read["reasons"] == ["3 places do not hold the stream"]
    assert read["error_ranges"] == [[4096, 8192]] and read["ledger_entry"] == "e" * 64 and read["technique"] == "unknown"
    signer = "run " + (tmp_path / "keys/run.pub").read_text()
    signature = path.with_name(path.name + ".sig").read_text()
    assert signatures.verify(path.read_bytes(), signature, signer, signatures.ORDER) == "run"


def test_a_disposal_ends_it() -> None:
    assert orders.excuse(ITEM, words(ENTRY)) == "destroyed (shredded to 2 mm) before w. itness, says berta (disposal-1.json)"
    assert orders.doubts(ITEM, words(ENTRY)) == []


@pytest.mark.parametrize("name", orders.SAID)
def test_a_disposal_that_leaves_something_out_ends_nothing(name: str) -> None:
    lame = words({**ENTRY, name: " "})
    assert orders.excuse(ITEM, lame) == ""
    assert name == "item" or f"it does not say {name}" in orders.doubts(ITEM, lame)[0]


def test_another_serial_another_kind_and_the_operators_own_word_end_nothing() -> None:
    assert orders.excuse(ITEM, words({**ENTRY, "serial": "other"})) == ""
    assert "it names 'other'" in orders.doubts(ITEM, words({**ENTRY, "serial": "other"}))[0]
    assert orders.excuse(ITEM, words(ENTRY), ("berta",)) == ""
    assert orders.excuse(ITEM, words("nonsense", None)) == "" and orders.excuse(ITEM, words(media="nonsense")) == ""


def test_a_medium_without_a_name_of_its_own_is_not_destroyed_by_a_word() -> None:
    nameless = {**ITEM, "identity": {"size": 1 << 30}}
    assert orders.excuse(nameless, words({**ENTRY, "serial": "None"})) == ""
    assert "nobody can say which one" in orders.doubts(nameless, words({**ENTRY, "serial": "None"}))[0]


def test_a_waiver_counts_by_name_alone() -> None:
    assert "waived by berta: lost in the move" in orders.excuse(
        ITEM, words(kind="waiver", gate="wipe", items=[ITEM["id"]], reason="lost in the move")
    )
    for wrong in ({"gate": "wipe", "items": ["*"]}, {"gate": "grace", "items": [ITEM["id"]]}):
        assert orders.excuse(ITEM, words(kind="waiver", reason="x", **wrong)) == ""


def test_the_wave_ends_with_it_and_not_before() -> None:
    book = complete(PLAN, forgotten=True)
    media = [item["id"] for item in PLAN.of("medium")]
    for medium in media:
        book.step(medium, "media_wipe", status="failed" if medium == ITEM["id"] else "done")
    waves = ["pilot", "main"]
    assert [row.item for row in closing.unfinished(PLAN, book.view(), "wipe", waves)] == [ITEM["id"]]
    assert closing.unfinished(PLAN, book.view(), "wipe", waves, {ITEM["id"]: "destroyed"}) == []


def test_a_person_signs_a_disposal_at_the_own_desk(tmp_path: Path) -> None:
    """The shipped script, a real key, judged as the gate does; a photograph is bound by its digest."""
    key = tmp_path / "berta"
    signatures.create_key(key, "berta")
    signers = f'berta namespaces="{signatures.DISPOSAL}" {key.with_suffix(".pub").read_text()}'
    data = {**PLAN.data, "allowed_signers": signers}
    (tmp_path / "plan.json").write_text(json.dumps(data))
    (tmp_path / "p.jpg").write_bytes(b"photo")
    argv = [str(SCRIPT), "dispose", "--key", str(key), "--yes", PLAN.estate, "--out", str(tmp_path / "out"), "--reason", "order"]
    argv += [part for name in ("method", "place", "by", "witness", "at") for part in ("--" + name, ENTRY[name])]
    done = subprocess.run(
        [*argv, "--photo", str(tmp_path / "p.jpg"), str(tmp_path / "plan.json"), ITEM["id"]], check=False, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    judged = statements.read(tmp_path / "out", make_plan(data))
    assert judged.rejected == {} and "says berta" in orders.excuse(ITEM, judged)
    (photo,) = judged.of("disposal")[0].document["media"][0]["photos"]
    assert photo["sha256"] == hashlib.sha256(b"photo").hexdigest()
    nobody = subprocess.run([*argv, str(tmp_path / "plan.json")], check=False, capture_output=True, text=True)
    assert nobody.returncode != 0 and "name the media" in nobody.stderr + nobody.stdout
