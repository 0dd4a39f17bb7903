# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Decisions of media_wipe, without a device. Valid for Python 3.6."""

import pytest

from ansible_collections.sunset.crm.plugins.modules import media_wipe

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
    assert media_wipe.decide(job, refusals, wiped) == decision


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
    assert media_wipe.wiped_already(result, found, key, wrong, read) == word


def test_a_key_is_64_random_digits():
    assert media_wipe.key_problem("0123456789abcdef" * 4) is None
    for poor in ("", None, "ab" * 31, "zz" * 32, "00" * 32, "0123456789abcdef" * 4 + "\n"):
        assert media_wipe.key_problem(poor)


def test_each_medium_and_key_has_its_own_job():
    names = {media_wipe.job_name(item, key) for item in ("medium:a", "medium:b") for key in (b"1", b"2")}
    assert len(names) == 4 and all("/" not in name and ":" not in name for name in names)


def test_bad_places_are_no_positive_verdict():
    assert media_wipe.final_verdict({"error_ranges": []}) == "yes"
    assert media_wipe.final_verdict({"error_ranges": [[0, 4096]]}) == "no"


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
    assert media_wipe.as_asked(result, technique, verify, final) is good


def test_each_technique_has_its_own_job():
    assert media_wipe.job_name("medium:a", b"1") != media_wipe.job_name("medium:a", b"1", PURGE)
