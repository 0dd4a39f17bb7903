# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Decisions about sealed packages, without a vault."""

import contextlib
import datetime
import json
import os
import subprocess

import pytest

from ansible_collections.sunset.crm.plugins.module_utils._proof import run as proof_run
from ansible_collections.sunset.crm.plugins.module_utils._vault import (
    contents as vault_contents,
    destroy as vault_destroy,
    package as vault_package,
    readme as vault_readme,
    stream as vault_stream,
    verify as vault_verify,
)
from ansible_collections.sunset.crm.plugins.module_utils._vault.state import Package, VaultError

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
    assert vault_package.decide_open(opened, False, True) == "nothing"
    assert vault_package.decide_open(dict(opened, keys_live_digest=None), False, True) == "restart"
    assert vault_package.decide_open(dict(opened, keys_identity_digest=None, keys_live_digest=None), False, True) == "finish"
    with pytest.raises(VaultError, match="keys_attestation_sha256 is missing"):
        vault_package.decide_forget(SEEN, "a" * 64)
    assert vault_package.decide_forget(SEEN, "a" * 64, "b" * 64) == "forget"
    left = dict(SEEN, state="forgotten", live_digest=None, pull_key=False)
    assert vault_package.decide_forget(left, "a" * 64, "b" * 64) == "forget"


@pytest.mark.parametrize("state", ["destroying", "destroyed"])
@pytest.mark.parametrize("supersede", [True, False])
def test_a_destroyed_package_is_not_begun_again(state, supersede):
    with pytest.raises(VaultError, match="not begun again"):
        vault_package.decide_open(dict(SEEN, state=state), supersede)


def test_the_retention_that_is_written():
    check = vault_contents.check_retention
    assert check(None) == check({}) == {"class": "unclassified", "until": None, "hold": False}
    assert check({"class": "a\nb", "until": "2030-12-31", "hold": True}) == {"class": "a b", "until": "2030-12-31", "hold": True}
    for bad in ({"until": "2030-12-31"}, {"class": "a", "until": "2030-13-01"}, {"class": "a", "until": "soon"}, {"years": 3}):
        with pytest.raises(VaultError):
            check(bad)


@pytest.mark.parametrize("until, word", [(None, "unknown"), ("2026-11-20", "yes"), ("2026-11-21", "no"), ("2999-01-01", "no")])
def test_what_is_past(until, word):
    assert vault_contents.past({"until": until}, TODAY) == word


WANTED = {"tagmanifest_sha256": "t", "identity_digest": "d", "keys_identity_digest": None}
LEFT = dict(WANTED, state="forgotten", wrapped=2, live=False, payload=True, superseded=[], tombstone=None)


def test_what_destroying_does():
    gone = dict(LEFT, state="destroyed", wrapped=0, payload=False, tombstone="s")
    ended = {"until": "2020-12-31"}
    assert vault_destroy.decide(LEFT, WANTED, ended, TODAY) == "destroy"
    assert vault_destroy.decide(gone, WANTED, ended, TODAY) == "nothing"
    aside = {"place": "/v/acme/abandoned/db1.unrecorded.1", "retention": {}}
    for part in ({"wrapped": 1}, {"payload": True}, {"live": True}, {"tombstone": None}, {"state": "destroying"}, {"superseded": [aside]}):
        assert vault_destroy.decide(dict(gone, **part), WANTED, ended, TODAY) == "destroy"
    for state in ("absent", "open"):
        with pytest.raises(VaultError, match="expected a sealed one"):
            vault_destroy.decide(dict(LEFT, state=state), WANTED, ended, TODAY)
    for name in WANTED:
        with pytest.raises(VaultError, match="speaks of another package"):
            vault_destroy.decide(LEFT, dict(WANTED, **{name: "x"}), ended, TODAY)
    with pytest.raises(VaultError, match="to be kept until"):
        vault_destroy.decide(LEFT, WANTED, {"until": "2026-11-21"}, TODAY)
    for until, class_ in ((None, None), ("2026-11-20", "books")):
        older = dict(aside, retention={"class": class_, "until": until})
        assert vault_destroy.decide(dict(LEFT, superseded=[older]), WANTED, ended, TODAY) == "destroy"
    older = dict(aside, retention={"until": "2026-11-21"})
    with pytest.raises(VaultError, match=r"superseded package /v/acme/abandoned/db1.unrecorded.1, .* to be kept until 2026-11-21"):
        vault_destroy.decide(dict(LEFT, superseded=[older]), WANTED, ended, TODAY)


@pytest.mark.parametrize(
    ("folder", "owner"),
    [
        ("db1.0123456789ab.1", "db1"),
        ("db1.unrecorded.12", "db1"),
        ("db10.0123456789ab.1", "db10"),
        ("db1.example.0123456789ab.1", "db1.example"),
        ("db1.unrecorded.0123456789ab.1", "db1.unrecorded"),
        ("db1.0123456789ab.1.unrecorded.2", "db1.0123456789ab.1"),
        ("db1", None),
        ("db1.1", None),
        ("db1.0123456789ab", None),
        ("db1.0123456789ab.0", None),
        ("db1.0123456789AB.1", None),
        ("db1.0123456789abc.1", None),
        ("db1.0123456789ab.1.kept", None),
    ],
)
def test_whose_a_folder_in_abandoned_is(folder, owner):
    assert vault_package.owner_of(folder) == owner


class Acts(object):
    def __init__(self):
        self.done = []

    def note(self, **act):
        self.done.append(act["act"])


def made(tmp_path, name, digest, **record):
    """A package as it lies on a vault once it is sealed, with stand-ins for keys and ciphertext."""
    package = Package(str(tmp_path / "vault"), "acme", name, str(tmp_path / "live"))
    for folder in (package.data, package.keys, package.state_dir, package.live):
        os.makedirs(folder, exist_ok=True)
    wrapped = [{"custodian": "bob", "path": package.wrapped("bob", which), "sha256": "0", "identity": which} for which in ("data", "keys")]
    for path in [one["path"] for one in wrapped] + [os.path.join(package.data, "crm.age"), package.identity]:
        with open(path, "w") as stream:
            stream.write(name)
    with open(os.path.join(package.bag, "package.json"), "w") as stream:
        json.dump(dict(record, wrapped=wrapped), stream)
    facts = dict(record, state="sealed", identity_digest=digest, tagmanifest_sha256="t", wrapped=wrapped)
    with open(package.record_path, "w") as stream:
        json.dump(facts, stream)
    return package


def files_below(folder):
    return sorted(os.path.relpath(os.path.join(at, name), str(folder)) for at, _folders, names in os.walk(str(folder)) for name in names)


OWN = ("tagmanifest_sha256", "identity_digest", "keys_identity_digest")


def ended(package):
    """What the module does. Returns what was decided."""
    seen, acts = vault_destroy.observe(package), Acts()
    act = vault_destroy.decide(seen, {name: seen[name] for name in OWN}, vault_destroy.own_retention(package), TODAY)
    if act == "destroy":
        vault_destroy.destroy(package, "5" * 64, acts)
        keys = [number for number, done in enumerate(acts.done) if "identity" in done or "key" in done]
        data = [number for number, done in enumerate(acts.done) if done.startswith("removed")]
        assert not keys or not data or max(keys) < min(data), acts.done
    return act


def test_what_was_superseded_ends_with_its_package_and_nothing_else_does(tmp_path):
    others = [made(tmp_path, name, "c" * 64) for name in ("db10", "db1.example", "db1.unrecorded")]
    for other in others:
        vault_package.set_aside(other, Acts())
    kept = files_below(tmp_path)
    old = {"retention": {"class": "books", "until": "2020-12-31"}, "sealed": "2019-01-01T00:00:00Z"}
    places = [vault_package.set_aside(made(tmp_path, "db1", digit * 64, **old), Acts()) for digit in "aab"]
    assert [os.path.basename(place) for place in places] == ["db1.aaaaaaaaaaaa.1", "db1.aaaaaaaaaaaa.2", "db1.bbbbbbbbbbbb.1"]
    package = made(tmp_path, "db1", "d" * 64)
    aside = vault_verify.superseded(package, TODAY)
    assert [(one["place"], one["identity_digest"][0], one["retention"]["past"]) for one in aside] == list(zip(places, "aab", ["yes"] * 3))
    assert ended(package) == "destroy" and vault_destroy.gone(vault_destroy.observe(package))
    tombstone = ["vault/acme/db1/" + name for name in ("DESTROYED.json", "package.json")] + ["vault/acme/state/db1/package.json"]
    assert files_below(tmp_path) == sorted(kept + tombstone)
    told = vault_destroy.result_of(package)
    assert [(one["place"], one["sealed"]) for one in told["superseded"]] == [(place, old["sealed"]) for place in places]
    assert ended(package) == "nothing" and vault_destroy.result_of(package) == told
    assert vault_verify.fixity(package, None, None, False, vault_verify.Notes())["verdict"] == "destroyed"


@pytest.mark.parametrize("part", ["db1.bob.age", "package/data/crm.age", "state/package.json"])
def test_nothing_is_destroyed_as_long_as_a_part_of_a_superseded_package_is_left(tmp_path, part):
    """As an earlier version left it: on record as destroyed, with its tombstone."""
    place = vault_package.set_aside(made(tmp_path, "db1", "a" * 64), Acts())
    whole = os.path.join(str(tmp_path), "whole")
    os.rename(place, whole)
    package = made(tmp_path, "db1", "d" * 64)
    assert ended(package) == "destroy" and vault_destroy.gone(vault_destroy.observe(package))
    os.makedirs(os.path.dirname(os.path.join(place, part)))
    os.rename(os.path.join(whole, part), os.path.join(place, part))
    assert not vault_destroy.gone(vault_destroy.observe(package))
    told = vault_verify.fixity(package, None, None, False, vault_verify.Notes())
    assert told["verdict"] == "unknown" and place in told["unknown"][0]
    assert ended(package) == "destroy" and not os.path.lexists(place) and ended(package) == "nothing"


@pytest.mark.parametrize("call", range(12))
def test_a_destruction_killed_between_any_two_acts_is_finished(tmp_path, monkeypatch, call):
    """And what the killed run removed is on record after the second."""
    place = vault_package.set_aside(made(tmp_path, "db1", "a" * 64), Acts())
    package = made(tmp_path, "db1", "d" * 64)
    left = [call]

    def dying(function):
        def act(*args, **kwargs):
            left[0] -= 1
            if left[0] == -1:
                raise KeyboardInterrupt
            return function(*args, **kwargs)

        return act

    with monkeypatch.context() as patch:
        for module, name in ((vault_destroy, "overwrite"), (vault_destroy, "write_record"), (vault_destroy.shutil, "rmtree"),
                             (vault_destroy, "sync_directory"), (os, "unlink")):  # fmt: skip
            patch.setattr(module, name, dying(getattr(module, name)))
        with pytest.raises(KeyboardInterrupt):
            ended(package)
    assert not vault_destroy.gone(vault_destroy.observe(package)) or package.record()["state"] == "destroying"
    assert vault_verify.fixity(package, None, None, False, vault_verify.Notes())["verdict"] != "destroyed"
    assert ended(package) == "destroy" and ended(package) == "nothing"
    assert [one["place"] for one in vault_destroy.result_of(package)["superseded"]] == [place]
    assert not os.listdir(package.abandoned) and not os.listdir(package.keys)


def test_a_package_that_was_half_set_aside_can_be_destroyed(tmp_path, monkeypatch):
    package = made(tmp_path, "db1", "a" * 64)
    with monkeypatch.context() as patch:
        patch.setattr(vault_package, "destroy", lambda _path: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            vault_package.set_aside(package, Acts())
    assert not os.path.lexists(package.bag) and package.record()["state"] == "sealed"
    assert ended(package) == "destroy" and ended(package) == "nothing" and not os.listdir(package.abandoned)


def test_what_was_set_aside_of_no_package_is_named(tmp_path):
    package = made(tmp_path, "db1", "a" * 64)
    place = vault_package.set_aside(package, Acts())
    assert vault_verify.packages_here(package.estate_dir, {}) == ["db1"]
    seen = vault_verify.fixity(package, None, None, False, vault_verify.Notes())
    assert seen["verdict"] == "unknown" and place in seen["unknown"][0] and seen["superseded"][0]["place"] == place
    assert vault_verify.fixity(package, "t", None, False, vault_verify.Notes())["verdict"] == "damaged"


def test_verdicts():
    assert [vault_verify.verdict_of(*one) for one in (([], []), ([], ["x"]), (["x"], ["x"]))] == ["intact", "unknown", "damaged"]
    fixed = {"damage": [], "unknown": [], "verdict": "intact"}
    for verdict, word in (("equal", "intact"), ("different", "damaged"), ("unknown", "unknown"), ("anything", "unknown")):
        assert vault_verify.joined(fixed, [{"item": "database:crm", "verdict": verdict}])["verdict"] == word


def test_a_tombstone_is_no_destruction(tmp_path):
    """Until all keys and all content are gone; and where the ledger knows of none, it is a loss."""
    package = Package(str(tmp_path), "acme", "db1", None)
    for folder in (package.bag, package.keys, package.state_dir):
        os.makedirs(folder, exist_ok=True)

    def seen(expected=None, **stone):
        with open(os.path.join(package.bag, "DESTROYED.json"), "w") as stream:
            json.dump(stone, stream)
        return vault_verify.fixity(package, expected, None, False, vault_verify.Notes())

    assert "begun and not finished" in seen()["unknown"][0]
    assert seen(destroyed="2036-01-01T00:00:00Z")["verdict"] == "destroyed"
    lost = seen("a" * 64, destroyed="2036-01-01T00:00:00Z")
    assert lost["verdict"] == "damaged" and "knows of no destruction" in lost["damage"][0]
    facts = {"schema": 1, "estate": "acme", "package": "db1", "wrapped": [{"custodian": "bob", "file": "db1.bob.age", "sha256": "0" * 64}]}
    with open(os.path.join(package.bag, "package.json"), "w") as stream:
        json.dump(facts, stream)
    key = os.path.join(package.keys, "db1.bob.age")
    open(key, "w").close()
    told = seen(destroyed="2036-01-01T00:00:00Z")
    assert told["verdict"] == "unknown" and key in told["unknown"][0], "the vault's own record is lost, the key is not"
    os.unlink(key)
    assert seen(destroyed="2036-01-01T00:00:00Z")["verdict"] == "destroyed"


def test_a_proof_of_nothing_is_none(tmp_path, monkeypatch):
    package, document = sealed_and_read(tmp_path, monkeypatch, [])
    text = vault_contents.text_of(dict(document, data_sets=[])).encode("utf-8")
    monkeypatch.setattr(vault_stream, "decrypt_into", lambda _path, _identity, _codec, sink: sink(text))
    monkeypatch.setattr(vault_verify, "lent", lambda _package, _facts: ["data"])
    with pytest.raises(VaultError, match="lists no data set"):
        vault_verify.prove_all(package, {}, str(tmp_path), vault_verify.Notes())


@pytest.mark.parametrize(
    ("name", "word"), [("crm.sqlite3.zst", "sqlite3 FILE"), ("q.redis.jsonl.gz", "RESTORE"), ("f.manifest.jsonl", "any reader")]
)
def test_what_opens_an_artefact(name, word):
    assert word in vault_contents.opened_by(name)


CHANGED = {"kind": "table", "name": "public.ir_config_parameter", "what": "content"}


@contextlib.contextmanager
def unlocked(_item):
    yield


def sealed_and_read(tmp_path, monkeypatch, allowed):
    """The data set of a contents.json as the sealing writes it and the verification reads it, without age between them."""
    package = Package(str(tmp_path), "acme", "db1", None)
    os.makedirs(package.state_dir)
    stored = {"item": "database:crm", "artefacts": []}
    asked = proof_run.question("postgresql", [], {"fingerprint_sha256": "f" * 64}, allowed)
    proof_run.keep(package, "database:crm", asked, {"verdict": "equal"}, {"fingerprint_sha256": "f" * 64})
    with open(package.proof_path("database:crm")) as stream:
        records = [("database-crm", stored, json.load(stream))]
    document = vault_contents.document(package, "2026-11-21T00:00:00Z", records, [])
    text = vault_contents.text_of(document).encode("utf-8")
    monkeypatch.setattr(vault_stream, "decrypt_into", lambda _path, _identity, _codec, sink: sink(text))
    return package, document


@pytest.mark.parametrize(("allowed", "word"), [(["ir_config_parameter"], "equal"), ([], "different"), (["other"], "different")])
def test_what_was_allowed_to_differ_is_allowed_again_from_the_package_alone(tmp_path, monkeypatch, allowed, word):
    seen = {}

    def restored(_engine, _artefacts, _source, _base, more):
        seen.update(more)
        rest = proof_run.allow([CHANGED], more["allowed_differences"])[0]
        return {"verdict": "different" if rest else "equal"}

    monkeypatch.setattr(proof_run, "prove_database", restored)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(vault_verify, "locked", unlocked)
    package, _document = sealed_and_read(tmp_path, monkeypatch, allowed)
    (one,) = vault_verify.contents(package)["data_sets"]
    assert vault_verify.prove_one(package, one, ["data"], str(tmp_path), vault_verify.Notes())["verdict"] == word
    assert seen["readable"] == {"tables": False} and "pairs" not in seen, "a verification compares, it writes no export"


def test_packages_of_earlier_versions_allow_nothing_and_a_text_is_no_list(tmp_path, monkeypatch):
    package, document = sealed_and_read(tmp_path, monkeypatch, [])
    assert "allowed_differences" not in document["data_sets"][0]
    for wrong in ("ir_config_parameter", [1], {"a": "b"}, None):
        document["data_sets"][0]["allowed_differences"] = wrong
        text = vault_contents.text_of(document).encode("utf-8")
        monkeypatch.setattr(vault_stream, "decrypt_into", lambda _path, _identity, _codec, sink, text=text: sink(text))
        with pytest.raises(VaultError, match="does not list the allowed differences"):
            vault_verify.contents(package)


def test_segments_are_joined_by_the_readme_in_their_order(tmp_path):
    """With a stand-in for age: 12 segments, so that an order by text with numbers of unlike width would show."""
    (tmp_path / "age").write_text('#!/bin/sh\nexec cat "$4"\n')
    (tmp_path / "age").chmod(0o755)
    (tmp_path / "data" / "database-crm").mkdir(parents=True)
    (tmp_path / "out" / "database-crm").mkdir(parents=True)
    paths = ["data/database-crm/x.zst.%04d.age" % number for number in range(1, 13)]
    for number, path in enumerate(paths):
        (tmp_path / path).write_text("%d;" % number)
    lines = "\n".join(vault_readme.decrypting("package.identity", paths, "database-crm/x.zst"))
    environment = {"PATH": "%s:/usr/bin:/bin" % tmp_path, "OUT": str(tmp_path / "out")}
    subprocess.check_call(["sh", "-euc", lines], cwd=str(tmp_path), env=environment)
    assert (tmp_path / "out/database-crm/x.zst").read_text() == "".join("%d;" % number for number in range(12))
