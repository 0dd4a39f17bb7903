# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
import os
import socket
import subprocess
import threading

import pytest

from ansible_collections.sunset.crm.plugins.module_utils._copy import (
    filestore as copy_filestore,
    filestore_archive as copy_filestore_archive,
)


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "tree"
    root.mkdir()
    (root / "Zo\u00eb \U0001f600.txt").write_text("hello")
    (root / "new\nline").write_text("x")
    with open(os.path.join(os.fsencode(str(root)), b"latin\xe9"), "wb") as stream:
        stream.write(b"1")
    (root / "empty").mkdir(mode=0o750)
    (root / "deep").mkdir()
    (root / "deep" / "-rf").write_text("y")
    (root / "out").symlink_to("/etc")
    os.link(str(root / "deep" / "-rf"), str(root / "hard"))
    with open(str(root / "sparse"), "wb") as stream:
        stream.truncate(3 * 1024 * 1024)
        stream.seek(2 * 1024 * 1024)
        stream.write(b"z")
    os.mkfifo(str(root / "pipe"))
    os.utime(str(root / "hard"), ns=(1, 1234567890123456789))
    return root


def by_name(entries):
    return {copy_filestore.decode_name(one): one for one in entries}


def restored(tree, tmp_path):
    archive = b"".join(copy_filestore_archive.archive_chunks(str(tree), copy_filestore.manifest(str(tree))))
    target = tmp_path / "copy"
    target.mkdir()
    subprocess.run(
        ["tar", "-x", "-p", "--xattrs", "--xattrs-include=*", "--acls", "--numeric-owner", "-C", str(target), "-f", "-"],
        input=archive,
        check=True,
    )
    return target


@pytest.mark.parametrize("tail", [0, 1, 511, 512, 513, 9000, 300000])
def test_wide_writes_make_the_archive_that_usual_ones_make(tree, tail):
    """Also where the last file ends in zeros, which look like the padding. Not the sparse one: tar writes its own number into its name."""
    (tree / "sparse").unlink()
    (tree / "zzz").write_bytes(b"z" + bytes(tail))
    (tree / "zzzz").write_bytes(bytes(tail))
    entries = copy_filestore.manifest(str(tree))
    wide = b"".join(copy_filestore_archive.archive_chunks(str(tree), entries))
    argv = copy_filestore_archive.tar_argv(str(tree), {"xattrs": True, "acls": True})
    usual = subprocess.run(argv, input=copy_filestore_archive.tar_names(entries), stdout=subprocess.PIPE, check=True).stdout
    assert wide == usual


def test_an_archive_without_the_tree_itself_is_written_as_usual(tree):
    """Its last member may be a file that ends in zeros."""
    (tree / "sparse").write_bytes(bytes(50000))
    entries = [one for one in copy_filestore.manifest(str(tree)) if copy_filestore.decode_name(one) == b"sparse"]
    archive = b"".join(copy_filestore_archive.archive_chunks(str(tree), entries))
    assert len(archive) % 10240 == 0
    assert len(archive) >= 50000
    listed = subprocess.run(["tar", "-t", "-v"], input=archive, stdout=subprocess.PIPE, check=True).stdout
    assert b" 50000 " in listed


def test_manifest_names_every_entry_once(tree):
    found = by_name(copy_filestore.manifest(str(tree)))
    assert set(found) == {
        b".",
        "Zo\u00eb \U0001f600.txt".encode("utf-8"),
        b"new\nline",
        b"latin\xe9",
        b"empty",
        b"deep",
        b"deep/-rf",
        b"out",
        b"hard",
        b"sparse",
        b"pipe",
    }
    assert found[b"out"] == dict(found[b"out"], type="symlink", target="/etc")
    assert "path_b64" in found[b"latin\xe9"]
    assert found[b"hard"]["linked"] == "deep/-rf" and found[b"hard"]["mtime_ns"] == 1234567890123456789
    assert found[b"pipe"]["type"] == "fifo"


def test_manifest_survives_its_own_file(tree):
    entries = copy_filestore.manifest(str(tree))
    lines = b"".join(copy_filestore.manifest_chunks(entries)).split(b"\n")
    assert copy_filestore.read_manifest(lines) == entries


def test_a_restored_archive_is_equal(tree, tmp_path):
    entries = copy_filestore.manifest(str(tree))
    copy = restored(tree, tmp_path)
    assert copy_filestore.verify_tree(entries, str(copy)) == []
    assert (copy / "sparse").stat().st_blocks * 512 < 1024 * 1024


@pytest.mark.parametrize(
    "damage, told",
    [
        (lambda copy: (copy / "deep" / "-rf").write_text("Y"), "deep/-rf differs in mtime_ns, sha256"),
        (lambda copy: (copy / "new\nline").unlink(), "new\\nline is missing"),
        (lambda copy: (copy / "more").write_text(""), "more is new"),
        (lambda copy: (copy / "empty").chmod(0o777), "empty differs in mode"),
    ],
)
def test_each_damage_of_the_copy_is_named(tree, tmp_path, damage, told):
    entries = copy_filestore.manifest(str(tree))
    copy = restored(tree, tmp_path)
    damage(copy)
    assert any(told in one for one in copy_filestore.verify_tree(entries, str(copy)))


def test_owners_are_read_from_the_archive_where_nobody_is_root(tree, tmp_path):
    entries = copy_filestore.manifest(str(tree))
    path = tmp_path / "a.tar"
    path.write_bytes(b"".join(copy_filestore_archive.archive_chunks(str(tree), copy_filestore.manifest(str(tree)))))
    with open(str(path), "rb") as stream:
        assert copy_filestore_archive.tar_owner_differences(entries, stream) == []
    entries[1] = dict(entries[1], uid=4242)
    with open(str(path), "rb") as stream:
        assert copy_filestore_archive.tar_owner_differences(entries, stream) == [
            copy_filestore.show(copy_filestore.decode_name(entries[1])) + " differs in owner"
        ]


def test_a_socket_is_listed_but_in_no_archive(tree, tmp_path):
    server = socket.socket(socket.AF_UNIX)
    here = os.getcwd()
    os.chdir(str(tree))
    try:
        server.bind("s")
    finally:
        os.chdir(here)
        server.close()
    entries = copy_filestore.manifest(str(tree))
    assert by_name(entries)[b"s"]["type"] == "socket"
    # The directory's own time is that of the socket's making, which tar keeps.
    assert copy_filestore.verify_tree(entries, str(restored(tree, tmp_path))) == []


def test_a_file_that_changes_while_it_is_read_is_named(tree, monkeypatch):
    read = os.read

    def changing(descriptor, size):
        (tree / "deep" / "-rf").write_text("changed meanwhile")
        return read(descriptor, size)

    monkeypatch.setattr(copy_filestore.os, "read", changing)
    with pytest.raises(copy_filestore.TreeError, match="(deep/-rf|hard) changed while it was read"):
        copy_filestore.manifest(str(tree))


def test_a_file_that_vanishes_is_named(tree, monkeypatch):
    children = copy_filestore._children
    monkeypatch.setattr(copy_filestore, "_children", lambda root, name: children(root, name) + ([b"gone"] if name == b"." else []))
    with pytest.raises(copy_filestore.TreeError, match="gone vanished"):
        copy_filestore.manifest(str(tree))


def test_two_manifests_that_differ_are_told_apart(tree):
    before = copy_filestore.manifest(str(tree))
    (tree / "late").write_text("written after")
    assert "late is new" in copy_filestore.differences(before, copy_filestore.manifest(str(tree)))


def test_staging_inside_the_tree_is_refused(tree, tmp_path):
    assert "lies inside" in copy_filestore.path_problem(str(tree), str(tree / "deep" / "staging"))
    (tmp_path / "way in").symlink_to(tree)
    assert "lies inside" in copy_filestore.path_problem(str(tree), str(tmp_path / "way in" / "staging"))
    assert copy_filestore.path_problem(str(tree), str(tmp_path / "staging")) is None
    assert "no directory" in copy_filestore.path_problem(str(tmp_path / "way in"), str(tmp_path / "staging"))
    assert "absolute" in copy_filestore.path_problem("tree", "/staging")


def test_old_tar_is_called_without_what_it_lacks():
    argv = copy_filestore_archive.tar_argv("/x", {"sort": False, "xattrs": False, "acls": False})
    assert not {"--sort=name", "--xattrs", "--acls"} & set(argv) and "--one-file-system" in argv


def test_reading_does_not_block_on_a_pipe(tree):
    done = threading.Event()
    worker = threading.Thread(target=lambda: (copy_filestore.manifest(str(tree)), done.set()))
    worker.daemon = True
    worker.start()
    assert done.wait(10)
