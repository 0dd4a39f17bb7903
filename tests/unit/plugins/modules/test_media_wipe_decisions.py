# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Decisions of media_wipe, without a device. Valid for Python 3.6."""

import json

import pytest

from ansible_collections.sunset.crm.plugins.module_utils._job import Job
from ansible_collections.sunset.crm.plugins.module_utils._wipe import call as wipe_call, engine as wipe_engine, job as wipe_job

FOUND = {"found": "yes", "serial": "S1", "size": 4096, "unknown": []}
RESULT = {"outcome": "sanitised", "algorithm": {"key_sha256": "k"}, "identity": {"serial": "S1", "size": 4096}}


@pytest.mark.parametrize(
    "job,refusals,wiped,decision",
    [
        ("absent", [], "no", "start"),
        ("died", [], "no", "start"),
        ("done", [], "no", "start"),
        ("done", [], "unknown", "start"),
        ("done", [], "yes", "none"),
        ("done", ["in use"], "yes", "refuse"),
        ("absent", ["in use"], "no", "refuse"),
        ("running", ["in use: exclusive: claimed"], "no", "attach"),
    ],
)
def test_decide(job, refusals, wiped, decision):
    assert wipe_call.decide(job, refusals, wiped) == decision


@pytest.mark.parametrize(
    "result,found,key,wrong,read,word",
    [
        (RESULT, FOUND, "k", [], [0], "yes"),
        (RESULT, FOUND, "k", [0], [0], "no"),
        (RESULT, FOUND, "k", [], [], "unknown"),
        (RESULT, FOUND, "other", [], [0], "no"),
        (RESULT, dict(FOUND, serial="S2"), "k", [], [0], "no"),
        (dict(RESULT, outcome="failed"), FOUND, "k", [], [0], "no"),
        ({}, FOUND, "k", [], [0], "no"),
        (None, FOUND, "k", [], [0], "no"),
    ],
)
def test_wiped_already(result, found, key, wrong, read, word):
    assert wipe_call.wiped_already(result, found, key, wrong, read) == word


def test_a_key_is_64_random_digits():
    assert wipe_call.key_problem("0123456789abcdef" * 4) is None
    for poor in ("", None, "ab" * 31, "zz" * 32, "00" * 32, "0123456789abcdef" * 4 + "\n"):
        assert wipe_call.key_problem(poor)


def test_each_medium_and_key_has_its_own_job():
    names = {wipe_job.name(item, key) for item in ("medium:a", "medium:b") for key in (b"1", b"2")}
    assert len(names) == 4 and all("/" not in name and ":" not in name for name in names)


def test_bad_places_are_no_positive_verdict():
    assert wipe_job.final_verdict({"error_ranges": []}) == "yes"
    assert wipe_job.final_verdict({"error_ranges": [[0, 4096]]}) == "no"


OVERWRITE, PURGE = "overwrite-keyed", "nvme-sanitize-block"
ZEROS = {"final": {"verdict": "yes"}}


@pytest.mark.parametrize(
    "result,technique,verify,final,good",
    [
        ({}, OVERWRITE, "full", "stream", True),  # what an earlier version has recorded
        ({"verification": {"mode": "full"}}, OVERWRITE, "sample", "stream", True),
        ({"verification": {"mode": "sample"}}, OVERWRITE, "full", "stream", False),
        ({"verification": {"mode": "sample"}}, OVERWRITE, "sample", "stream", True),
        (ZEROS, OVERWRITE, "full", "zeros", True),
        (ZEROS, OVERWRITE, "full", "stream", False),
        ({}, OVERWRITE, "full", "zeros", False),
        ({"technique": PURGE, "verification": {"mode": "sample"}}, PURGE, "sample", "stream", True),
        ({"technique": PURGE, "verification": {"mode": "sample"}}, PURGE, "full", "stream", False),
        ({"technique": PURGE}, OVERWRITE, "full", "stream", False),
        ({}, PURGE, "sample", "stream", False),
    ],
)
def test_less_than_was_asked_for_is_not_done(result, technique, verify, final, good):
    assert wipe_call.as_asked(result, technique, verify, final) is good


def test_each_technique_has_its_own_job():
    assert wipe_job.name("medium:a", b"1") != wipe_job.name("medium:a", b"1", PURGE)


DISK = {"found": "yes", "kind": "scsi", "serial": "S1", "size": 4096}
ASKED = {"technique": OVERWRITE, "verify": "full", "final": "stream"}


@pytest.mark.parametrize(
    "found,params,key,goes_on",
    [
        (DISK, ASKED, b"1", True),
        (dict(DISK, serial="S2"), ASKED, b"1", False),  # another disk under the same item: what was decided about the first is not about it
        (dict(DISK, size=8192), ASKED, b"1", False),
        (DISK, dict(ASKED, verify="sample"), b"1", False),
        (DISK, dict(ASKED, final="zeros"), b"1", False),
        (DISK, dict(ASKED, technique=PURGE), b"1", False),
        (DISK, ASKED, b"2", False),
    ],
)
def test_what_was_decided_counts_for_that_device_and_that_way_alone(tmp_path, found, params, key, goes_on):
    job = Job(str(tmp_path), "job")
    (tmp_path / "job").mkdir()
    state = dict(wipe_engine.asked_of(ASKED, DISK, b"1"), phase="write")
    (tmp_path / "job" / "state.json").write_text(json.dumps(state))
    (tmp_path / "job" / "spec.json").write_text(json.dumps({"decided": {"decision": "of the first"}}))
    assert bool(wipe_call.begun(job, params, found, key)) is goes_on
    for change in ({"ended": "2026-01-31T10:00:00Z"}, {"phase": "new"}):
        (tmp_path / "job" / "state.json").write_text(json.dumps(dict(state, **change)))
        assert wipe_call.begun(job, params, found, key) is None
