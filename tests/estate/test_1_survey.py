# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The survey: what is missing or not classified stops the way at its beginning."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from tests.estate import world
from tests.estate.driver import CLASSIFIED, HERE, LEDGER, Done, Ledger, play
from tests.lab import paths
from tests.lab.people import PEOPLE
from tests.lab.persons import SCRIPTS
from tests.lab.shell import run

FINDINGS = ("database:postgresql/5432/forgotten", "listener:tcp/9099:legacy-report.service", "cron:/etc/cron.d/billing")


@pytest.fixture(scope="module")
def other(fresh: None) -> Path:
    """Another estate's folder on the same hosts, so that this chapter leaves nothing in the real one."""
    folder = paths.STATE / "unclassified"
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def elsewhere(folder: Path) -> tuple[str, ...]:
    return "-e", f"sunset_estate_dir={folder}", "-e", "sunset_estate=unclassified", "-e", "sunset_confirm=unclassified"


def test_check_mode_writes_nothing(fresh: None) -> None:
    done = play("survey", *CLASSIFIED, "--check").well()
    assert done.total("unreachable") == 0
    assert not (paths.ESTATE / "plan.json").exists()


def test_something_expected_that_is_missing(other: Path) -> None:
    """A database of the inventory that is not there: no plan is written, and the message names it."""
    done = play("survey", *CLASSIFIED, *elsewhere(other), "-i", str(HERE / "plays" / "expected_too_much"))
    done.refused("database:vanished on db1 is not there", "no plan was written")
    assert not (other / "plan.json").exists()


def test_a_host_that_does_not_answer(other: Path) -> None:
    """Absence is never silent: a plan without the lost host would look complete."""
    with world.unreachable("dock1"):
        done = play("survey", *CLASSIFIED, *elsewhere(other))
    done.refused("dock1: it gave no survey")
    assert not (other / "plan.json").exists()


def test_findings_are_named(other: Path) -> None:
    play("survey", *elsewhere(other)).refused(*FINDINGS)


def test_power_off_is_refused_while_a_finding_is_not_classified(other: Path) -> None:
    """Not by the task that shows the gate: by the act itself, in a hand-written play that goes straight for it."""
    if not (other / "plan.json").exists():
        play("survey", *elsewhere(other))
    argv = [
        sys.executable,
        str(SCRIPTS / "statement"),
        "approve",
        "--key",
        str(PEOPLE["alice"].ssh_key),
        "--yes",
        "unclassified",
        str(other / "plan.json"),
    ]
    run(argv)
    done = play(str(HERE / "plays" / "straight_to_power_off.yml"), *elsewhere(other))
    done.refused("power off of host:app1 is refused", "power off of host:db1 is refused", *FINDINGS)
    assert world.powered()["app1"] and world.powered()["db1"]
    told = [lack["what"] for entry in Ledger(other).find("refused", module="host_power") for lack in entry["missing"]]
    assert all(any(finding in what for what in told) for finding in FINDINGS)
    assert not Ledger(other).find("intent")


def test_the_plan(planned: Done) -> None:
    assert planned.total("failed") == 0 and not LEDGER.lines()
