# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The pilot wave, whose controller is killed in the middle of a dump and again in the middle of a power-off."""

from __future__ import annotations

from tests import lab
from tests.estate import world
from tests.estate.conftest import Killed
from tests.estate.driver import LEDGER, Done
from tests.lab.layout import VAULTS

DUMP = ("database:oldcrm", "dump")


def test_the_dump_was_under_way(pilot_killed_in_dump: Killed) -> None:
    assert pilot_killed_in_dump.progress["phase"] == "dump"
    assert DUMP in LEDGER.interrupted()
    assert lab.web.old_write() == 503


def test_the_next_run_attaches_to_the_dump(dump_attached: Done, pilot_killed_in_dump: Killed) -> None:
    """No second dump is started beside the one that went on without its controller."""
    dump_attached.well()
    outcome = LEDGER.find("outcome", item=DUMP[0], aspect=DUMP[1])[0]
    assert outcome["run"] != pilot_killed_in_dump.run and outcome["status"] == "done"
    assert outcome["evidence"]["before"]["job"] == "running"
    assert [act["act"] for act in outcome["evidence"]["actions"]] == ["attached to the running job"]


def test_there_is_one_dump(pilot: Done) -> None:
    """The run after that finds it whole and its source unchanged."""
    assert len(set(LEDGER.dumps(DUMP[0]))) == 1
    evidence = [entry["evidence"] for entry in LEDGER.find("outcome", item=DUMP[0], aspect=DUMP[1])]
    assert not [act for one in evidence for act in one["actions"] if act["act"] == "started the job"]


def test_the_ledger_shows_both_crashes(pilot: Done, pilot_killed_in_dump: Killed, pilot_killed_in_power_off: Killed) -> None:
    closed = {entry["run"] for entry in LEDGER.find("run", state="closed")}
    assert not closed & {pilot_killed_in_dump.run, pilot_killed_in_power_off.run}
    assert DUMP in LEDGER.interrupted()


def test_it_finished(pilot: Done) -> None:
    assert LEDGER.find("accepted", wave="pilot")
    assert world.powered()["old1"] is False
    power = LEDGER.find("outcome", item="host:old1", aspect="power", status="done")[-1]
    assert power["evidence"]["result"]["stays_off"] == "yes"


def test_the_copy_is_proven(pilot: Done) -> None:
    for vault in VAULTS:
        proof = LEDGER.find("outcome", item=DUMP[0], aspect=f"proof@{vault}", status="done")[-1]
        assert proof["about"]["dump"] == LEDGER.dumps(DUMP[0])[-1]
        assert proof["evidence"]["result"]["verdict"] == "equal"
        assert proof["evidence"]["result"]["differences"] == []


def test_a_vault_that_does_not_answer_stops_the_run_before_it_begins(pilot_without_vault2: Done) -> None:
    """Two vaults, so two proofs: a run that could only make one touches nothing, and no estate host is lost by it."""
    pilot_without_vault2.refused(
        "1 of 2 vaults answer as they must, this shutdown needs 2; nothing was touched", "vault2: it does not answer"
    )
    assert pilot_without_vault2.total("unreachable") == pilot_without_vault2.total("changed") == 0


def test_each_vault_has_a_package_and_a_key_of_its_own(pilot: Done) -> None:
    ends = [LEDGER.find("outcome", item="host:old1", aspect=f"package@{vault}", status="done")[-1] for vault in VAULTS]
    assert {end["value"] for end in ends} == {"sealed"}
    assert len({end["evidence"]["result"]["identity_digest"] for end in ends}) == len(VAULTS)
    held = {vault: world.held(vault, "ledger/lab/ledger.jsonl") for vault in VAULTS}
    assert held["vault1"] == held["vault2"] and held["vault1"]


def test_the_main_wave_is_untouched(pilot: Done) -> None:
    assert lab.web.creme_contacts() == 301
