# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What was restored with a mode that keeps its owner out is read, and told as it was. (As an ordinary account: test_vault.py.)"""

import errno
import io
import os
import shutil
import tarfile

import pytest

from ansible_collections.sunset.crm.plugins.module_utils._copy import (
    filestore as copy_filestore,
    filestore_archive as copy_filestore_archive,
    treemodes as copy_treemodes,
)


def mode(path):
    return os.stat(str(path)).st_mode & 0o7777


@pytest.fixture
def tree(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "inner").write_text("x")
    (tmp_path / "shut").write_text("y")
    os.link(str(tmp_path / "shut"), str(tmp_path / "twin"))
    (tmp_path / "open").write_text("z")
    os.symlink("/etc/passwd", str(tmp_path / "link"))
    os.chmod(str(tmp_path / "folder"), 0o2000)
    os.chmod(str(tmp_path / "shut"), 0o040)
    yield tmp_path
    os.chmod(str(tmp_path / "folder"), 0o700)
    shutil.rmtree(str(tmp_path))


def test_only_what_is_shut_is_opened(tree):
    outside = os.stat("/etc/passwd").st_mode
    found = copy_treemodes.open_all(os.fsencode(str(tree)))
    assert sorted(found) == [b"folder", b"shut", b"twin"]
    assert found[b"folder"]["mode"] == "2000" and found[b"shut"] == found[b"twin"] and found[b"twin"]["mode"] == "0040"
    assert mode(tree / "folder") == 0o2500 and mode(tree / "shut") == 0o440 and os.stat("/etc/passwd").st_mode == outside


def test_the_comparison_tells_the_modes_of_before(tree, monkeypatch):
    wanted = copy_filestore.manifest(str(tree))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert copy_filestore.verify_tree(wanted, str(tree)) == []
    os.chmod(str(tree / "folder"), 0o2000)  # the scratch was opened
    os.chmod(str(tree / "shut"), 0)
    assert copy_filestore.verify_tree(wanted, str(tree)) == ["shut differs in mode", "twin differs in mode"]


@pytest.mark.parametrize(("number", "good"), [(errno.ENOTSUP, True), (errno.EACCES, False), (errno.EIO, False)])
def test_attributes_that_cannot_be_read_are_not_absent(tmp_path, monkeypatch, number, good):
    (tmp_path / "one").write_text("x")

    def listing(path, follow_symlinks=True):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "listxattr", listing)
    if good:
        assert len(copy_filestore.manifest(str(tmp_path))) == 2
    else:
        with pytest.raises(copy_filestore.TreeError, match="cannot be read: "):
            copy_filestore.manifest(str(tmp_path))


@pytest.mark.parametrize(
    ("kept", "told"),
    [
        ({"user.a=%b": "/wA="}, []),
        ({}, ["one differs in xattrs"]),
        ({"user.a=%b": "/wE="}, ["one differs in xattrs"]),
        ({"user.a=%b": "/wA=", "user.more": ""}, ["one differs in xattrs"]),
        # Those of the system are not given back without root, and not asked for.
        ({"user.a=%b": "/wA=", "security.capability": "AQ=="}, []),
    ],
)
def test_users_attributes_are_read_off_the_headers(kept, told):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT, errors="surrogateescape") as archive:
        member = tarfile.TarInfo("./one")
        member.pax_headers = {"SCHILY.xattr.user.a%3D%25b": b"\xff\x00".decode("utf-8", "surrogateescape")}
        archive.addfile(member)
    stream.seek(0)
    entry = {"path": "one", "type": "file", "uid": 0, "gid": 0}
    assert copy_filestore_archive.tar_owner_differences([dict(entry, xattrs=kept) if kept else entry], stream) == told
