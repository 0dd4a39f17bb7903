# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Segments with the real age: cut, opened, and every way in which a row of them can be wrong. And that no decision reads the clock."""

import ast
import hashlib
import inspect
import os
import shutil
import subprocess

import pytest

from ansible_collections.sunset.crm.plugins.module_utils._copy import (
    direct as copy_direct,
    direct_job as copy_direct_job,
    preserve as copy_preserve,
    reader as copy_reader,
    staging as copy_staging,
)
from ansible_collections.sunset.crm.plugins.module_utils._vault import (
    fetch as vault_fetch,
    pipe as vault_pipe,
    pull as vault_pull,
    segments as vault_segments,
    source as vault_source,
    stream as vault_stream,
)
from ansible_collections.sunset.crm.plugins.module_utils._vault.state import VaultError

MIB = 1 << 20
DATA = os.urandom(700000)
with_age = pytest.mark.skipif(shutil.which("age") is None, reason="age is not installed")


@pytest.fixture(scope="module")
def identity(tmp_path_factory):
    path = tmp_path_factory.mktemp("age") / "identity"
    subprocess.run(["age-keygen", "-o", str(path)], check=True, stderr=subprocess.PIPE)
    recipient = subprocess.run(["age-keygen", "-y", str(path)], check=True, stdout=subprocess.PIPE).stdout.decode().strip()
    return str(path), recipient


@pytest.mark.parametrize(
    "total, size",
    [(5 * MIB, 4), (1000 * MIB, 63), (1025 * MIB, 65), (10 << 30, 640), (256 << 30, 1024), (4 << 40, 1024), (100 << 40, 20976)],
)
def test_the_size_of_segments(total, size):
    assert vault_segments.segment_size(total) == size * MIB
    assert total / vault_segments.segment_size(total) < vault_segments.MOST


def cut(folder, identity, data=DATA, size=100000, first=1):
    kept = []
    cutter = vault_segments.Cutter(str(folder), "x", first, size, identity[1], vault_pipe.Counted(), kept.append)
    for start in range(0, len(data), 33333):
        cutter.take(data[start : start + 33333])
    return cutter, kept


def entry_of(kept, data=DATA):
    return {"name": "x", "file": "x", "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data), "segments": kept}


@with_age
def test_cut_and_joined(tmp_path, identity):
    cutter, kept = cut(tmp_path, identity)
    cutter.end()
    assert [one["file"] for one in kept] == ["x.%04d.age" % number for number in range(1, 8)] == sorted(os.listdir(str(tmp_path)))
    assert [one["bytes"] for one in kept] == [100000] * 7
    got = []
    facts = vault_stream.decrypt_entry(str(tmp_path), entry_of(kept), identity[0], None, got.append)
    assert b"".join(got) == DATA and facts["plain_sha256"] == hashlib.sha256(DATA).hexdigest()


@with_age
@pytest.mark.parametrize("worth, files", [(1, 8), (60000, 7)])
def test_an_early_end_keeps_what_came(tmp_path, identity, worth, files):
    cutter, kept = cut(tmp_path, identity, DATA + b"y" * 50000)
    cutter.end(worth=worth)
    assert len(kept) == files == len(os.listdir(str(tmp_path)))


@with_age
def test_what_is_abandoned_leaves_no_part(tmp_path, identity):
    cutter, kept = cut(tmp_path, identity, DATA[:180000])
    cutter.abandon()
    assert sorted(os.listdir(str(tmp_path))) == [one["file"] for one in kept] == ["x.0001.age"]


@with_age
def test_a_record_that_cannot_be_written_ends_the_stream(tmp_path, identity):
    def refuse(_segment):
        raise IOError(28, "No space left on device")

    cutter = vault_segments.Cutter(str(tmp_path), "x", 1, 1000, identity[1], vault_pipe.Counted(), refuse)
    with pytest.raises(IOError):
        for _round in range(500):
            cutter.take(b"z" * 1000)
    cutter.abandon()
    assert not [name for name in os.listdir(str(tmp_path)) if name.endswith(".part")]


def swap(folder, kept):
    paths = [os.path.join(str(folder), kept[number]["file"]) for number in (2, 3)]
    os.rename(paths[0], paths[0] + "x")
    os.rename(paths[1], paths[0])
    os.rename(paths[0] + "x", paths[1])


def swap_with_the_record(_folder, kept):
    kept[2], kept[3] = kept[3], kept[2]


def swap_everything(folder, kept):
    swap(folder, kept)
    second = dict(kept[3], file=kept[2]["file"])
    kept[2], kept[3] = second, dict(kept[2], file=kept[3]["file"])


def flip(folder, kept):
    path = os.path.join(str(folder), kept[4]["file"])
    with open(path, "r+b") as stream:
        stream.seek(50000)
        byte = stream.read(1)
        stream.seek(50000)
        stream.write(bytes(bytearray([byte[0] ^ 1])))


@with_age
@pytest.mark.parametrize(
    "harm, words",
    [
        (swap, "x.0003.age: the ciphertext has sha256"),
        (swap_with_the_record, "the staged file has sha256"),
        (swap_everything, "the staged file has sha256"),
        (lambda folder, kept: kept.pop(), "the staged file has sha256"),
        (lambda folder, kept: kept.pop(0), "the staged file has sha256"),
        (lambda folder, kept: kept.insert(0, kept[0]), "the staged file has sha256"),
        (lambda folder, kept: os.unlink(os.path.join(str(folder), kept[5]["file"])), "x.0006.age cannot be opened"),
        (lambda folder, kept: os.truncate(os.path.join(str(folder), kept[6]["file"]), 0), "x.0007.age does not decrypt|the ciphertext has"),
        (flip, "x.0005.age"),
    ],
)
def test_a_row_that_is_wrong_is_found(tmp_path, identity, harm, words):
    cutter, kept = cut(tmp_path, identity)
    cutter.end()
    harm(tmp_path, kept)
    with pytest.raises(VaultError, match=words):
        vault_stream.decrypt_entry(str(tmp_path), entry_of(kept), identity[0], None, lambda _block: None)


class Known(object):
    """A record that knows the first segments only."""

    def __init__(self, segments):
        self.partial, self.kept = {"x": {"segments": segments}}, None

    def segments(self, artefact):
        return self.partial[artefact["file"]]["segments"]

    def keep(self, _artefact, segments):
        self.kept = segments


def puller_of(folder, identity, done):
    puller = object.__new__(vault_fetch.Puller)
    puller.folder, puller.identity, puller.proven, puller.left, puller.done = str(folder), identity[0], {}, {}, {"x": done}
    return puller


@with_age
def test_finished_segments_that_no_record_knows_are_taken_over(tmp_path, identity):
    """A vault was killed while it read them back."""
    cutter, kept = cut(tmp_path, identity)
    cutter.end()
    record, names = Known(kept[:3]), [one["file"] for one in kept]
    puller = puller_of(tmp_path, identity, names[3:])
    good, whole = puller.whole_segments({"file": "x"}, record)
    assert good == kept == record.kept and whole.facts() == (hashlib.sha256(DATA).hexdigest(), len(DATA))
    assert sorted(puller.proven) == names
    flip(tmp_path, kept)
    record = Known(kept[:3])
    good, whole = puller_of(tmp_path, identity, names[3:]).whole_segments({"file": "x"}, record)
    assert good == kept[:4] == record.kept and whole.bytes == 400000
    assert sorted(os.listdir(str(tmp_path))) == names[:4]


@with_age
def test_what_is_read_back_is_what_went_in(tmp_path, identity):
    cutter, kept = cut(tmp_path, identity)
    cutter.end()
    for key in ("bytes", "cipher_bytes"):
        with pytest.raises(VaultError, match="holds .* went in"):
            vault_segments.read_back(str(tmp_path), dict(kept[0], **{key: 5}), identity[0], vault_pipe.Counted())
    assert all(vault_segments.age_size(os.path.join(str(tmp_path), one["file"]), one["bytes"]) == one["cipher_bytes"] for one in kept)
    os.truncate(os.path.join(str(tmp_path), kept[0]["file"]), 70000)
    cutter = vault_segments.Cutter(str(tmp_path), "x", 8, 1000, identity[1], vault_pipe.Counted(), kept.append)
    cutter.behind.put({"file": kept[0]["file"], "bytes": 100000})
    with pytest.raises(VaultError, match="x.0001.age has 70000 bytes, which 100000 bytes do not become"):
        cutter.end()
    assert len(kept) == 7


@with_age
def test_segments_are_unpacked_as_one(tmp_path, identity):
    packed = subprocess.run(["zstd", "-qc"], input=DATA, stdout=subprocess.PIPE, check=True).stdout
    cutter, kept = cut(tmp_path, identity, packed)
    cutter.end()
    entry = dict(entry_of(kept, packed), plain_sha256=hashlib.sha256(DATA).hexdigest())
    got = []
    vault_stream.decrypt_entry(str(tmp_path), entry, identity[0], "zst", got.append)
    assert b"".join(got) == DATA
    with pytest.raises(VaultError, match="the content has sha256"):
        vault_stream.decrypt_entry(str(tmp_path), dict(entry, plain_sha256="0" * 64), identity[0], "zst", lambda _block: None)
    os.truncate(os.path.join(str(tmp_path), kept[3]["file"]), 500)
    with pytest.raises(VaultError, match="x.0004.age"):
        vault_stream.decrypt_entry(str(tmp_path), entry, identity[0], "zst", lambda _block: None)

    def sink(_block):
        raise VaultError("enough")

    with pytest.raises(VaultError, match="enough"):
        vault_stream.decrypt_entry(str(tmp_path), entry, identity[0], "zst", sink)


def test_a_word_on_standard_error_is_a_sign_of_life():
    source = vault_pipe.Source(["sh", "-c", "for i in 1 2 3 4; do sleep 1.5; echo at work >&2; done; echo x; echo 't {}' >&2"], 5)
    assert b"".join(source.blocks()) == b"x\n" and source.child.wait() == 0
    assert source.last_line(b"t ") == b"{}" and source.last_line(b"u ") is None
    source.close()


@pytest.mark.parametrize(
    "words, error", [("", "without the source's last words"), ("sunset-trailer []", "no trailer"), ("sunset-trailer {", "without")]
)
def test_a_stream_without_last_words_is_nothing(words, error):
    source = vault_pipe.Source(["sh", "-c", "echo '%s' >&2" % words], 60)
    assert list(source.blocks()) == []
    told = vault_source.trailer_of(source)
    source.close()
    assert told["ok"] is False and error in told["error"]


# --- direct ---


def direct(**change):
    return dict(
        {"name": "d.tar.zst", "role": "archive", "path": "/s/1/direct/direct.json", "direct": True, "of": "a" * 64, "estimate": 9}, **change
    )


def test_a_direct_artefact_has_no_digests_yet():
    (one,) = vault_pull.check_artefacts([direct(sha256=None, bytes=None, plain_sha256=None, codec="zstd")])
    assert one["file"] == "d.tar.zst" and one["source_path"].endswith("/direct.json") and "sha256" not in one
    assert vault_pull.matches(dict(one, sha256="b" * 64, bytes=5), one)
    for other in ({"of": "c" * 64}, {"direct": None}):
        assert not vault_pull.matches(dict(one, **other), one)
    for bad in (direct(of=None), direct(estimate=None), direct(sha256="a" * 64), direct(bytes=4)):
        with pytest.raises(VaultError):
            vault_pull.check_artefacts([bad])


@pytest.mark.parametrize(
    "free, direct_word, straight, refused",
    [
        (1 << 40, "auto", False, False),
        (1 << 40, "always", True, False),
        (1 << 26, "auto", True, False),
        (1 << 26, "never", False, True),
        (1 << 20, "auto", True, True),
    ],
)
def test_which_way_a_copy_goes(monkeypatch, free, direct_word, straight, refused):
    staging = copy_staging.Staging("/s", "database:x")
    monkeypatch.setattr(staging, "free", lambda: free)
    found, _why, shortage = copy_preserve.way(staging, 1 << 30, direct_word)
    assert found is straight and bool(shortage) is refused
    if refused:
        assert "bytes free; the copy may need" in shortage


def test_a_copy_that_was_not_staged_is_made_again_where_that_is_refused():
    assert copy_preserve.decide({"dump_id": "1"}, [], None, "done", refused=True)[0] is True
    assert copy_preserve.is_direct({"artefacts": [{"name": "a"}, {"direct": True}]})


def test_another_content_is_refused_before_the_stream():
    outlet = copy_direct.Outlet({"item": "database:x", "of": "ab" * 32, "role": "dump", "codec": "zstd"}, 1)
    assert outlet.begin("ab" * 8) == ""
    with pytest.raises(ValueError, match="not what it was"):
        outlet.begin("cd" * 8)


@pytest.mark.parametrize(
    "command",
    [
        "make direct.json",
        "make /s/x",
        "make /s/../direct.json",
        "make /s/direct.json x",
        "make /s/direct.json\n",
        "make //direct.json",
        "make",
    ],
)
def test_make_is_asked_for_one_name_only(command):
    with pytest.raises(copy_reader.Refused):
        copy_reader.parse(command)


def test_a_job_that_others_could_have_written_is_refused(tmp_path):
    place = tmp_path / "s" / "direct"
    place.mkdir(parents=True, mode=0o700)
    os.chmod(str(tmp_path / "s"), 0o700)
    spec = place / "direct.json"
    spec.write_text("{}")
    os.chmod(str(spec), 0o600)
    ask = lambda: copy_reader.job_directory([str(tmp_path / "s")], str(spec))  # noqa: E731
    descriptor = ask()
    assert os.listdir(descriptor) == ["direct.json"]
    os.close(descriptor)
    for path, good, bad in ((spec, 0o600, 0o640), (place, 0o700, 0o720), (tmp_path / "s", 0o700, 0o702)):
        os.chmod(str(path), bad)
        with pytest.raises(copy_reader.Refused, match="another account"):
            ask()
        os.chmod(str(path), good)
    os.link(str(spec), str(place / "twin"))
    with pytest.raises(copy_reader.Refused, match="another account"):
        ask()


# --- the clock ---


@pytest.mark.parametrize(
    "module", [vault_fetch, vault_pipe, vault_pull, vault_source, vault_stream, vault_segments, copy_reader, copy_direct, copy_direct_job]
)
def test_no_decision_of_a_transfer_reads_the_clock(module):
    """A clock that is moved during a transfer changes nothing: only the monotonic one is read, for the pace."""
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "time":
            assert node.attr in ("monotonic", "sleep"), node.attr
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            assert not {"datetime", "calendar"} & {name.name for name in node.names}
