# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The pilot wave, whose controller is killed in the middle of a dump and again in the middle of a power-off."""

from __future__ import annotations

from tests import lab
from tests.estate import world
from tests.estate.conftest import Killed
from tests.estate.driver import LEDGER, Done

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
    proof = LEDGER.find("outcome", item=DUMP[0], aspect="proof@vault1", status="done")[-1]
    assert proof["about"]["dump"] == LEDGER.dumps(DUMP[0])[-1]
    assert proof["evidence"]["result"]["verdict"] == "equal"
    assert proof["evidence"]["result"]["differences"] == []


def test_the_main_wave_is_untouched(pilot: Done) -> None:
    assert lab.web.creme_contacts() == 301
