# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Check mode of the whole shutdown on the untouched estate: it says what would be done, and the world stays as it is."""

from __future__ import annotations

from tests.estate import world
from tests.estate.conftest import First
from tests.estate.driver import LEDGER
from tests.lab import paths
from tests.lab.layout import VAULTS


def test_it_goes_through_every_wave(checked: First) -> None:
    assert checked.checked is not None
    recap = checked.checked.well().recap()
    assert {host for host, counts in recap.items() if counts["changed"]} == {
        "app1",
        "db1",
        "old1",
        "dock1",
        "kvm1",
        "pve-simulated",
        *VAULTS,
    }
    assert checked.checked.total("failed") == checked.checked.total("unreachable") == 0


def test_the_world_is_as_it_was(checked: First) -> None:
    assert world.differences(checked.world, world.snapshot()) == {}


def test_nothing_is_recorded(checked: First) -> None:
    assert not LEDGER.lines()
    assert not (paths.ESTATE / "report").exists() and not (paths.ESTATE / "run.json").exists()
