# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Decisions about sealed packages, without a vault."""

import datetime
import subprocess

import pytest

from ansible_collections.sunset.crm.plugins.module_utils import (
    _vault_contents,
    _vault_destroy,
    _vault_package,
    _vault_readme,
    _vault_verify,
)
from ansible_collections.sunset.crm.plugins.module_utils._vault import VaultError

TODAY = datetime.date(2026, 11, 21)
SEEN = {
    "state": "sealed",
    "identity_digest": "d",
    "live_digest": "d",
    "keys_identity_digest": "k",
    "keys_live_digest": "k",
    "pull_key": True,
    "wrapped": True,
    "leftover": False,
}


def test_two_identities_are_opened_and_forgotten_together():
    opened = dict(SEEN, state="open")
    assert _vault_package.decide_open(opened, False, True) == "nothing"
    assert _vault_package.decide_open(dict(opened, keys_live_digest=None), False, True) == "restart"
    assert _vault_package.decide_open(dict(opened, keys_identity_digest=None, keys_live_digest=None), False, True) == "finish"
    with pytest.raises(VaultError, match="keys_attestation_sha256 is missing"):
        _vault_package.decide_forget(SEEN, "a" * 64)
    assert _vault_package.decide_forget(SEEN, "a" * 64, "b" * 64) == "forget"
    left = dict(SEEN, state="forgotten", live_digest=None, pull_key=False)
    assert _vault_package.decide_forget(left, "a" * 64, "b" * 64) == "forget"


@pytest.mark.parametrize("state", ["destroying", "destroyed"])
@pytest.mark.parametrize("supersede", [True, False])
def test_a_destroyed_package_is_not_begun_again(state, supersede):
    with pytest.raises(VaultError, match="not begun again"):
        _vault_package.decide_open(dict(SEEN, state=state), supersede)


def test_the_retention_that_is_written():
    check = _vault_contents.check_retention
    assert check(None) == check({}) == {"class": "unclassified", "until": None, "hold": False}
    assert check({"class": "a\nb", "until": "2030-12-31", "hold": True}) == {"class": "a b", "until": "2030-12-31", "hold": True}
    for bad in ({"until": "2030-12-31"}, {"class": "a", "until": "2030-13-01"}, {"class": "a", "until": "soon"}, {"years": 3}):
        with pytest.raises(VaultError):
            check(bad)


@pytest.mark.parametrize("until, word", [(None, "unknown"), ("2026-11-20", "yes"), ("2026-11-21", "no"), ("2999-01-01", "no")])
def test_what_is_past(until, word):
    assert _vault_contents.past({"until": until}, TODAY) == word


WANTED = {"tagmanifest_sha256": "t", "identity_digest": "d", "keys_identity_digest": None}
LEFT = dict(WANTED, state="forgotten", wrapped=2, live=False, payload=True, tombstone=None)


def test_what_destroying_does():
    gone = dict(LEFT, state="destroyed", wrapped=0, payload=False, tombstone="s")
    ended = {"until": "2020-12-31"}
    assert _vault_destroy.decide(LEFT, WANTED, ended, TODAY) == "destroy"
    assert _vault_destroy.decide(gone, WANTED, ended, TODAY) == "nothing"
    for part in ({"wrapped": 1}, {"payload": True}, {"live": True}, {"tombstone": None}, {"state": "destroying"}):
        assert _vault_destroy.decide(dict(gone, **part), WANTED, ended, TODAY) == "destroy"
    for state in ("absent", "open"):
        with pytest.raises(VaultError, match="expected a sealed one"):
            _vault_destroy.decide(dict(LEFT, state=state), WANTED, ended, TODAY)
    for name in WANTED:
        with pytest.raises(VaultError, match="speaks of another package"):
            _vault_destroy.decide(LEFT, dict(WANTED, **{name: "x"}), ended, TODAY)
    with pytest.raises(VaultError, match="to be kept until"):
        _vault_destroy.decide(LEFT, WANTED, {"until": "2026-11-21"}, TODAY)


def test_verdicts():
    assert [_vault_verify.verdict_of(*one) for one in (([], []), ([], ["x"]), (["x"], ["x"]))] == ["intact", "unknown", "damaged"]
    fixed = {"damage": [], "unknown": [], "verdict": "intact"}
    for verdict, word in (("equal", "intact"), ("different", "damaged"), ("unknown", "unknown"), ("anything", "unknown")):
        assert _vault_verify.joined(fixed, [{"item": "database:crm", "verdict": verdict}])["verdict"] == word


def test_segments_are_joined_by_the_readme_in_their_order(tmp_path):
    """With a stand-in for age: 12 segments, so that an order by text with numbers of unlike width would show."""
    (tmp_path / "age").write_text('#!/bin/sh\nexec cat "$4"\n')
    (tmp_path / "age").chmod(0o755)
    (tmp_path / "data" / "database-crm").mkdir(parents=True)
    (tmp_path / "out" / "database-crm").mkdir(parents=True)
    paths = ["data/database-crm/x.zst.%04d.age" % number for number in range(1, 13)]
    for number, path in enumerate(paths):
        (tmp_path / path).write_text("%d;" % number)
    lines = "\n".join(_vault_readme.decrypting("package.identity", paths, "database-crm/x.zst"))
    environment = {"PATH": "%s:/usr/bin:/bin" % tmp_path, "OUT": str(tmp_path / "out")}
    subprocess.check_call(["sh", "-euc", lines], cwd=str(tmp_path), env=environment)
    assert (tmp_path / "out/database-crm/x.zst").read_text() == "".join("%d;" % number for number in range(12))
