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


def test_the_dump_went_on_without_its_controller(pilot: Done, pilot_killed_in_dump: Killed) -> None:
    """No second dump: the next run attaches to the job, or finds what it made."""
    outcome = LEDGER.find("outcome", item=DUMP[0], aspect=DUMP[1])[0]
    assert outcome["run"] != pilot_killed_in_dump.run and outcome["status"] == "done"
    evidence = outcome["evidence"]
    assert evidence["before"]["job"] == "running" or evidence["before"]["source_unchanged"]
    assert not [act for act in evidence["actions"] if act["act"] == "started the job"]
    assert len(LEDGER.dumps(DUMP[0])) == 1


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
