# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Copies of the ledger on a vault, with the real receiver behind a pipe in place of ssh."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.record import copies, ledger
from ansible_collections.sunset.crm.plugins.plugin_utils.record.estate import Estate
from tests.unit.builders import plan_bytes, plan_data

RECEIVER = Path(__file__).parents[5] / "roles/vault/files/ledger_receiver.py"
VAULT = {"vault": "vault1", "address": "192.0.2.1", "user": "ledger", "key": "/k", "known_hosts": "/h"}


@pytest.fixture
def estate(tmp_path: Path) -> Estate:
    made = Estate.at(tmp_path / "estate")
    made.plan_file.write_bytes(plan_bytes(plan_data()))
    for number in range(3):
        ledger.append(made.ledger_file, {"number": number})
    return made


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    base = tmp_path / "vault"
    base.mkdir()
    monkeypatch.setattr(copies, "command", lambda receiver: [sys.executable, "-I", str(RECEIVER), str(base)])
    return base / "acme" / "ledger.jsonl"


def send(estate: Estate, required: bool = True) -> list[dict[str, Any]]:
    return copies.send(estate, [VAULT], required=required)


def test_the_copy_is_the_same_bytes_and_grows_by_what_is_new(estate: Estate, stored: Path) -> None:
    assert send(estate)[0]["added"] == 3
    assert stored.read_bytes() == estate.ledger_file.read_bytes()
    ledger.append(estate.ledger_file, {"number": 3})
    assert send(estate)[0]["added"] == 1
    assert send(estate)[0]["added"] == 0
    assert stored.read_bytes() == estate.ledger_file.read_bytes()


def test_a_torn_last_line_is_not_sent(estate: Estate, stored: Path) -> None:
    with estate.ledger_file.open("ab") as stream:
        stream.write(b'{"torn"')
    assert send(estate)[0]["lines"] == 3


@pytest.mark.parametrize("required", [True, False])
def test_a_ledger_that_was_rewritten_or_shortened_here_stops_everything(estate: Estate, stored: Path, required: bool) -> None:
    """The one who can change the ledger here cannot change it there. Never a mere warning."""
    send(estate)
    estate.ledger_file.unlink()
    for number in (7, 8, 9):
        ledger.append(estate.ledger_file, {"number": number})
    with pytest.raises(Refusal, match="not the one that the vault vault1 holds"):
        send(estate, required)
    estate.ledger_file.write_bytes(b"".join(stored.read_bytes().splitlines(keepends=True)[:2]))
    with pytest.raises(Refusal, match="not the one that the vault vault1 holds"):
        send(estate, required)


def test_a_second_control_node_with_an_older_copy_of_the_folder_is_found_out(estate: Estate, stored: Path, tmp_path: Path) -> None:
    other = Estate.at(tmp_path / "copy")
    for name in ("plan.json", "ledger.jsonl"):
        (other.root / name).write_bytes((estate.root / name).read_bytes())
    ledger.append(estate.ledger_file, {"by": "the first"})
    send(estate)
    ledger.append(other.ledger_file, {"by": "the second"})
    with pytest.raises(Refusal, match="not the one that the vault"):
        send(other)


@pytest.mark.parametrize(
    "script",
    ["exit 255", "echo rubbish", "echo '[1]'", "echo '{}'", "echo '{\"ok\": true}'", 'echo \'{"ok": true, "lines": "3"}\'', "true"],
)
def test_a_vault_that_does_not_answer_well_is_a_failed_row_or_a_refusal(
    estate: Estate, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    monkeypatch.setattr(copies, "command", lambda receiver: ["sh", "-c", script])
    rows = send(estate, required=False)
    assert rows[0]["ok"] is False
    assert rows[0]["error"]
    with pytest.raises(Refusal, match="could not be copied to the vault before a step that needs it: vault1"):
        send(estate)


def test_the_head_is_signed_even_where_no_vault_keeps_a_copy(estate: Estate) -> None:
    assert copies.send(estate, [], required=True) == []
    assert (estate.root / "ledger.head.json.sig").is_file()


def test_the_way_there_is_pinned() -> None:
    line = " ".join(copies.command({**VAULT, "port": 2222}))
    for part in ("StrictHostKeyChecking=yes", "UserKnownHostsFile=/h", "BatchMode=yes", "-i /k", "-p 2222", "ledger@192.0.2.1"):
        assert part in line
