# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Waiting for a job in visits: what one call hands to the next. Valid for Python 3.6."""

import pytest

from ansible_collections.sunset.crm.plugins.module_utils import _recorded


class Ended(Exception):
    """The module gave its answer."""


class Module(object):
    params = {"item": "database:x"}  # type: dict

    def exit_json(self, **answer):
        raise Ended(answer)


class Job(object):
    """A job that runs for so many seconds."""

    def __init__(self, seconds):
        self.left, self.waits = seconds, []

    def wait(self, timeout):
        self.waits.append(timeout)
        self.left -= timeout
        return {"state": "running" if self.left > 0 else "done", "progress": {"phase": "dump"}}


def recorded(visit):
    rec = object.__new__(_recorded.Recorded)
    rec.module = Module()
    rec._visit = visit
    rec._evidence = {"started": "now", "before": {"was": 1}, "actions": [{"act": "started the job"}], "tools": {}}
    return rec


def pending(visit, seconds, timeout):
    with pytest.raises(Ended) as told:
        recorded(visit).attend(Job(seconds), timeout)
    return told.value.args[0]["pending"]


def test_without_patience_one_call_waits_to_the_end():
    job = Job(100)
    assert recorded({}).attend(job, 500)["state"] == "done"
    assert job.waits == [500]


def test_a_visit_ends_as_pending_and_carries_what_was_found_first():
    told = pending({"patience": 20}, 100, 500)
    assert told["progress"] == {"phase": "dump"}
    assert (told["visit"]["waited"], told["visit"]["carried"]["before"]) == (20, {"was": 1})


def test_later_visits_carry_the_first_ones_words_and_count_on():
    told = pending({"patience": 60, "waited": 20, "carried": {"before": {"was": 0}}}, 100, 500)
    assert told["visit"] == {"patience": 60, "waited": 80, "carried": {"before": {"was": 0}}}


def test_the_timeout_counts_over_all_visits():
    job = Job(100)
    assert recorded({"patience": 60, "waited": 470, "carried": {"before": {}}}).attend(job, 500)["state"] == "running"
    assert job.waits == [30]


def test_a_visit_does_not_unseal_a_receipt():
    receipt = dict(_recorded.make_receipt("m", "i", "x"), visit={"patience": 1})
    assert _recorded.receipt_problem(receipt, "m", "i", False) is None
    assert "altered" in (_recorded.receipt_problem(dict(receipt, check=True), "m", "i", True) or "")
