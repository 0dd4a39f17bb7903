# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The ledger of key copies: who signed it, about which medium, what it leaves open; the gate; the script of the person who signs."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.sunset.crm.plugins.module_utils._wipe import keys as wipe_keys
from ansible_collections.sunset.crm.plugins.plugin_utils.people import key_copies, signatures, signed, statements
from ansible_collections.sunset.crm.plugins.plugin_utils.planning import media
from ansible_collections.sunset.crm.plugins.plugin_utils.steps import gates, steps
from tests.unit.builders import Record, authorised, complete, context, item_of, make_plan, plan_data, said
from tests.unit.disk_samples import ata_hdd, key_copy, key_ledger, luks

SCRIPT = Path(__file__).resolve().parents[5] / "scripts" / "statement"
MEDIUM = "medium:pgdata"
METHOD = "luks-destroy-keys"


def data() -> Record:
    found = plan_data()
    item_of(found, MEDIUM)["wipe"]["method"] = METHOD
    return found


PLAN = make_plan(data())
ITEM = PLAN.items[MEDIUM]
BOOK = complete(PLAN, forgotten=True)


def entry(*copies: dict[str, Any], **more: Any) -> dict[str, Any]:
    told = key_ledger(*copies)
    kept = {name: told[name] for name in ("uuid", "encrypted_from_start", "none", "copies")}
    return {"item": MEDIUM, "serial": "serial-pgdata", "known_by": "installed so", **kept, **more}


def word(*entries: Any, signer: str = "bob", issued: str = "2026-11-20T00:00:00Z", name: str = "") -> statements.Statement:
    return said("key-copies", signer, name, media=list(entries), issued=issued, reason="end of the estate")


def words(*found: statements.Statement) -> statements.Statements:
    return statements.Statements(list(found), {})


def lacks(*found: statements.Statement) -> list[str]:
    (step,) = (one for one in steps.STEPS if one.module == "media_wipe")
    given = [authorised(PLAN, MEDIUM, method=METHOD), *found]
    return [lack.what for lack in gates.missing(step, ITEM, context(BOOK, given, phase="wipe"))]


# --- the gate ---


def test_the_gate_opens_with_a_whole_account_and_not_without() -> None:
    assert lacks(word(entry())) == []
    assert lacks(word(entry(key_copy(), key_copy("keyfile", where="a USB stick")))) == []
    told = " ".join(lacks())
    assert "nobody has attested" in told and "no ledger of key copies" in told


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (word(entry(encrypted_from_start="unknown")), "nobody has attested"),
        (word(entry(none=["escrow", "memory"])), "says nothing of: header-backup, detached-header, keyfile, vault-package, layers-below"),
        (word(entry(key_copy("escrow", destroyed="no", where="helpdesk"))), "helpdesk is not destroyed"),
        (word(entry(key_copy("escrow", at=""))), "it is not said: at"),
        (word(entry(serial="another")), "it names 'another', the plan has 'serial-pgdata'"),
        (word(entry(uuid="")), "does not name the volume"),
        (word(entry(known_by=" ")), "how it is known"),
        (word(entry(), signer="olga"), "its signer is the operator"),
        (word(entry(item="medium:uploads")), "no ledger of key copies"),
        (word("nonsense"), "no ledger of key copies"),
        (said("key-copies", "bob", media="nonsense"), "no ledger of key copies"),
    ],
)
def test_each_gap_closes_it(wrong: statements.Statement, why: str) -> None:
    assert why in " ".join(lacks(wrong))


def test_the_newest_word_stands_also_when_it_is_the_worse() -> None:
    good = word(entry(), issued="2026-11-01T00:00:00Z", name="first")
    turned_up = word(entry(key_copy(destroyed="no", where="a drawer")), issued="2026-11-02T00:00:00Z", name="second")
    for order in ((good, turned_up), (turned_up, good)):
        assert "a drawer is not destroyed" in " ".join(lacks(*order))
    gone = word(entry(key_copy(where="a drawer")), issued="2026-11-03T00:00:00Z", name="third")
    assert lacks(good, turned_up, gone) == []


def test_other_methods_ask_for_none_of_it() -> None:
    plain = make_plan(plan_data())
    assert key_copies.lacks(plain.items[MEDIUM], words()) == []


def test_the_wipe_is_given_what_was_signed_with_its_digest_and_signer() -> None:
    (step,) = (one for one in steps.STEPS if one.module == "media_wipe")
    given = signed.said(step, ITEM, context(BOOK, [word(entry(key_copy()), name="w")], phase="wipe"), "")["key_copies"]
    assert (given["signer"], given["sha256"], given["uuid"]) == ("bob", "sha-key-copies-w", "u")
    assert "serial" not in given and wipe_keys.ledger_problems(given, "U") == []
    assert signed.said(step, make_plan(plan_data()).items[MEDIUM], context(BOOK, phase="wipe"), "") == {}


# --- the dry run ---


def test_the_dry_run_decides_by_what_was_signed() -> None:
    fact = ata_hdd("sda", luks=luks())
    item = {"id": MEDIUM, "kind": "medium", "host": "db1", "identity": fact["identity"], "expects": {}, "wipe": {"host": "station1"}}
    hosts = {"station1": {"devices": [fact], "root": {"verdict": "yes", "numbers": []}}}
    signed = key_copies.policies(PLAN, words(word(entry())))
    assert set(signed) == {MEDIUM}
    for told, there in ((signed, True), ({}, False), (None, False)):
        (row,) = media.fleet(hosts, [item], {"asked": "purge"}, (), told)["rows"]
        assert (METHOD in [one["id"] for one in row["techniques"]]) is there
    assert "no ledger of key copies" in "\n".join(media.table(media.fleet(hosts, [item], {"asked": "purge"})))
    claimed = media.fleet(hosts, [item], {"asked": "purge", "luks": key_ledger()})  # by an inventory, which nobody has signed
    assert "no ledger of key copies" in "\n".join(media.table(claimed))


# --- the person's own desk ---


def at_the_desk(tmp_path: Path, *options: str, items: tuple[str, ...] = (MEDIUM,)) -> tuple[subprocess.CompletedProcess[str], Any]:
    key = tmp_path / "berta"
    signatures.create_key(key, "berta")
    found = {**data(), "allowed_signers": f'berta namespaces="{signatures.KEY_COPIES}" {key.with_suffix(".pub").read_text()}'}
    (tmp_path / "plan.json").write_text(json.dumps(found))
    argv = [str(SCRIPT), "keys", "--key", str(key), "--yes", "acme", "--out", str(tmp_path / "out"), "--reason", "end"]
    argv += ["--uuid", "u", "--from-start", "yes", "--known-by", "the installer's log", *options, str(tmp_path / "plan.json"), *items]
    done = subprocess.run(argv, check=False, capture_output=True, text=True)
    return done, statements.read(tmp_path / "out", make_plan(found))


def nones(*but: str) -> list[str]:
    return [part for name in wipe_keys.NAMES if name not in but for part in ("--none", name)]


def test_a_person_signs_it_with_the_shipped_script(tmp_path: Path) -> None:
    copy = ["--copy", "header-backup", "2", "safe in Olten", "shredded", "E. Va", "2026-11-01"]
    done, judged = at_the_desk(tmp_path, *nones("header-backup"), *copy)
    assert done.returncode == 0 and judged.rejected == {}, (done.stderr, judged.rejected)
    told, reasons = key_copies.ledger(ITEM, judged)
    assert reasons == [] and told is not None and told["signer"] == "berta"
    assert wipe_keys.ledger_problems(told, "u") == [] and told["copies"][0]["count"] == 2
    assert "NOT ACCOUNTED" not in done.stdout


def test_the_script_says_what_a_word_leaves_open(tmp_path: Path) -> None:
    done, judged = at_the_desk(tmp_path, *nones("escrow", "memory"), "--left", "escrow", "1", "helpdesk")
    assert done.returncode == 0 and "NOT ACCOUNTED FOR, so nothing is destroyed on this word alone: memory" in done.stdout
    assert "COPIES ARE LEFT" in done.stdout
    assert "helpdesk is not destroyed" in " ".join(key_copies.lacks(ITEM, judged))


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--none", "attic"], "unknown place: attic"),
        (["--none", "escrow", "--copy", "escrow", "1", "a", "b", "c", "d"], "there is none, and there is one"),
        (["--copy", "escrow", "many", "a", "b", "c", "d"], "number of copies is 'many'"),
    ],
)
def test_the_script_refuses_nonsense(tmp_path: Path, options: list[str], word: str) -> None:
    done, judged = at_the_desk(tmp_path, *options)
    assert done.returncode != 0 and word in done.stderr and judged.valid == []


def test_one_medium_at_a_time(tmp_path: Path) -> None:
    done, _judged = at_the_desk(tmp_path, *nones(), items=(MEDIUM, "medium:uploads"))
    assert done.returncode != 0 and "name the one medium" in done.stderr


def test_the_script_and_the_decision_know_the_same_places() -> None:
    text = SCRIPT.read_text()
    for name, what in wipe_keys.PLACES:
        assert f'"{name}": "{what}"' in text
