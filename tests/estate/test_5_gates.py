# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The gates of the wipe on the real estate: each piece that is missing is named, and no byte of a medium changes."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.estate import world
from tests.estate.driver import HERE, LEDGER, Done, play
from tests.lab import paths, persons
from tests.lab.layout import VAULTS
from tests.lab.people import PEOPLE
from tests.lab.shell import run

STATEMENTS = paths.ESTATE / "statements"
MEDIA = ("dockdisk", "kvmdisk", "mydata", "pgdata", "shopvol", "uploads")
STRAIGHT, WITHOUT = str(HERE / "plays" / "straight_to_wipe.yml"), str(HERE / "plays" / "wipe_without_a_run.yml")


@pytest.fixture(autouse=True)
def media_untouched(dark_media: dict[str, str]) -> Iterator[None]:
    """After each of these tests every byte of every medium is what it was, and the ledger knows of no wipe."""
    yield
    assert world.media_digests() == dark_media
    assert not LEDGER.find("intent", aspect="wipe")


@contextmanager
def handed_in(*makers: Callable[[], object]) -> Iterator[None]:
    """Statements that lie in the operator's folder for a while."""
    before = set(STATEMENTS.iterdir()) if STATEMENTS.exists() else set()
    try:
        for make in makers:
            make()
        yield
    finally:
        for path in set(STATEMENTS.iterdir()) - before:
            path.unlink()


def authorise(person: str, plan: Path, out: Path, days: str = "7") -> Path:
    """An authorisation of pgdata, signed by this person after this plan; the statement's file."""
    key = str(PEOPLE[person].ssh_key)
    script = [sys.executable, str(persons.SCRIPTS / "statement"), "authorise", "--key", key, "--yes", persons.NAME]
    run([*script, f"--days={days}", "--out", str(out), str(plan), "medium:pgdata"])
    (made,) = out.glob("*.json")
    return made


def bad_words(folder: Path) -> dict[str, Path]:
    """Authorisations that must not count: for another serial number, by the approver, expired, with one byte changed."""
    true = paths.ESTATE / "plan.json"
    data = json.loads(true.read_text())
    for item in data["items"]:
        if item["id"] == "medium:pgdata":
            item["identity"]["serial"] = "LAB-OTHER-0001"
    folder.mkdir(parents=True, exist_ok=True)
    other = folder / "other-plan.json"
    other.write_text(json.dumps(data))
    words = {
        "another serial": authorise("bob", other, folder / "1"),
        "the approver": authorise("alice", true, folder / "2", days="6"),
        "expired": authorise("bob", true, folder / "3", days="-1"),
        "one byte": authorise("bob", true, folder / "4", days="5"),
    }
    changed = words["one byte"].read_bytes()
    words["one byte"].write_bytes(changed.replace(b'"issued": "2', b'"issued": "3', 1))
    return words


def hand_in(words: dict[str, Path]) -> None:
    STATEMENTS.mkdir(mode=0o700, exist_ok=True)
    for word in words.values():
        shutil.copy(word, STATEMENTS)
        shutil.copy(f"{word}.sig", STATEMENTS)


def test_marks_can_be_found_before_the_wipe(dark_media: dict[str, str]) -> None:
    """The scan that finds nothing after the wipe finds the customers' data before it."""
    counts = {name: world.count_marks(Path(file)) for name, file in world.backing_files().items()}
    assert {name for name, count in counts.items() if count} >= {"pgdata", "mydata", "uploads", "shopvol", "kvmdisk"}


def test_everything_that_is_missing_is_named(dark_media: dict[str, str]) -> None:
    done = play("wipe")
    done.refused(
        "the gate of 'wipe' is closed", "the grace period has not ended", "no authorisation names it", *(f"medium:{name}" for name in MEDIA)
    )
    for vault in VAULTS:
        done.refused(f"0 of 1 custodians have shown that the wrapped identity of its package on {vault} opens")


def test_the_grace_period_alone_holds(attested: list[tuple[str, str]]) -> None:
    with handed_in(lambda: persons.authorise()):
        done = play("wipe").refused("the grace period has not ended")
    assert "no authorisation" not in done.flat and "custodians have shown" not in done.flat


def test_authorisations_that_do_not_count(attested: list[tuple[str, str]], tmp_path: Path) -> None:
    words = bad_words(tmp_path)
    with handed_in(lambda: hand_in(words), lambda: persons.waive_grace("*")):
        done = play(STRAIGHT)
    done.refused("wipe of medium:pgdata is refused")
    done.refused("it names serial 'LAB-OTHER-0001', the plan has 'LAB-PGDATA-0001'")
    done.refused("its signer is also the one who approved the plan", "it expired at", f"not counted: {words['one byte'].name}")
    assert "grace period" not in done.flat


def test_a_hand_written_play(attested: list[tuple[str, str]]) -> None:
    """free, ignore_errors, rescue, always, options and receipts of one's own, delegation: refused each time."""
    done = play(STRAIGHT).refused("wipe of medium:pgdata is refused", "wipe of medium:mydata is refused")
    every = f"{json.dumps([True] * 8)} changed {json.dumps([False] * 8)}"
    assert every in done.flat, done.text[-3000:]


def test_without_a_run(dark_media: dict[str, str]) -> None:
    play(WITHOUT).refused("no run is open")


TRICKS = {
    "limit": ("--limit", "station1"),
    "skip-tags": ("--skip-tags", "always"),
    "tags": ("--tags", "wipe"),
    "start-at-task": ("--start-at-task", "Wipe the media and verify every byte"),
    "another name": ("-e", "sunset_confirm=laboratory"),
    "another wave": ("-e", "sunset_wave_wanted=last"),
    "work of one's own": ("-e", '{"wipe_work": {"medium": ["medium:pgdata"]}}', "--skip-tags", "always"),
}


@pytest.mark.parametrize("trick", TRICKS)
def test_ways_around(attested: list[tuple[str, str]], trick: str) -> None:
    """Everything but the authorisation is there."""
    done: Done = play("wipe", *TRICKS[trick])
    done.refused()
    assert not [host for host, counts in done.recap().items() if counts["changed"]]
