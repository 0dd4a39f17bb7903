# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The wipe: killed in the middle, finished by the next run, unchanged by the one after it."""

from __future__ import annotations

import json
from pathlib import Path

from tests import lab
from tests.estate import world
from tests.estate.conftest import Killed
from tests.estate.driver import LEDGER, Done, play
from tests.lab import paths


def test_killed_in_the_middle(wipe_killed: Killed, wiped: Done) -> None:
    assert 5 < wipe_killed.progress["percent"] < 95
    step = wipe_killed.step
    assert (step["item"], "wipe") in LEDGER.interrupted()
    outcomes = LEDGER.find("outcome", item=step["item"], aspect="wipe", status="done")
    assert len(outcomes) == 1 and outcomes[0]["run"] != wipe_killed.run


def test_the_second_run_did_not_begin_again(wiped: Done, wipe_killed: Killed) -> None:
    """It attached to the job that had gone on, or found it at its end: one session, one pass."""
    evidence = LEDGER.find("outcome", item=wipe_killed.step["item"], aspect="wipe", status="done")[0]["evidence"]
    assert not [act for act in evidence["actions"] if act.get("act") == "start"]
    assert len(evidence["result"]["sessions"]) == 1


def test_every_medium_is_wiped_with_a_certificate(certificates: dict[str, bytes]) -> None:
    media = [item for item in json.loads((paths.ESTATE / "plan.json").read_text())["items"] if item["kind"] == "medium"]
    documents = [json.loads(data) for name, data in certificates.items() if name.endswith(".json")]
    assert {document["plan"]["item"] for document in documents} == {item["id"] for item in media}
    assert {document["result"]["outcome"] for document in documents} == {"sanitised"}
    assert {document["medium"]["serial"] for document in documents} == {item["identity"]["serial"] for item in media}
    assert all(document["verification"]["bytes_read"] == document["medium"]["size"] for document in documents)


def test_no_mark_is_left_on_any_medium(wiped: Done) -> None:
    for name, file in world.backing_files().items():
        assert world.count_marks(Path(file)) == 0, name
        assert world.zeros(Path(file)) < 0.01, f"{name}: large parts of it are zeros, so it was not overwritten with the stream"


def test_nothing_else_was_touched(wiped: Done) -> None:
    assert lab.execute("station1", ["true"]) == ""
    assert world.containers()["bystander"]["state"]["Status"] == "running"


def test_a_second_wipe_changes_nothing(certificates: dict[str, bytes]) -> None:
    before, digests = len(LEDGER.entries()), world.media_digests()
    done = play("wipe").well()
    assert done.total("changed") == done.total("failed") == 0
    acts = list(LEDGER.acts(since=before))
    assert not [act for act in acts if act.get("aspect") == "wipe" or act.get("changed")]
    assert world.media_digests() == digests
    assert {path.name: path.read_bytes() for path in (paths.ESTATE / "certificates").iterdir()} == certificates
