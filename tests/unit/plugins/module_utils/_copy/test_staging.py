# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
import os

import pytest

from ansible_collections.sunset.crm.plugins.module_utils._copy import (
    preserve as copy_preserve,
    staging as copy_staging,
    stream as copy_stream,
)
from ansible_collections.sunset.crm.plugins.module_utils._survey import media as survey_media
from ansible_collections.sunset.crm.plugins.module_utils._survey.expected import Expected


def artefact(staging, dump_id, data=b"content"):
    directory = staging.begin(dump_id)
    return copy_stream.stage(iter([data]), directory, "a.sql", "dump", ("none", ["cat"]))


def finish(staging, dump_id):
    staging.prepare()
    record = {"dump_id": dump_id, "artefacts": [artefact(staging, dump_id)], "source": {"identity": {}}}
    staging.commit(record)
    return record


@pytest.mark.parametrize(
    "record, damage, fresh, job, changed",
    [
        (None, [], None, "absent", True),
        (None, [], None, "died", True),
        ({"dump_id": "1"}, ["a has 1 bytes"], None, "done", True),
        ({"dump_id": "1"}, [], False, "done", True),
        ({"dump_id": "1"}, [], None, "done", True),  # unknown is not unchanged
        ({"dump_id": "1"}, [], True, "running", True),
        ({"dump_id": "1"}, [], True, "done", False),
        ({"dump_id": "1"}, [], True, "died", False),
    ],
)
def test_decision(record, damage, fresh, job, changed):
    assert copy_preserve.decide(record, damage, fresh, job)[0] is changed


def test_slugs_are_readable_and_keep_items_apart():
    assert copy_staging.slug("database:creme") == "database-creme"
    assert copy_staging.slug("database:cr/eme") != copy_staging.slug("database:cr:eme")
    assert "/" not in copy_staging.slug("database:../../etc")


def test_place_is_private_and_files_are_too(tmp_path):
    staging = copy_staging.Staging(str(tmp_path / "staging"), "database:x")
    record = finish(staging, "0" * 16)
    assert os.stat(staging.root).st_mode & 0o777 == 0o700
    assert os.stat(record["artefacts"][0]["path"]).st_mode & 0o777 == 0o600
    assert staging.finished() == record and staging.damage(record) == []


def test_a_directory_that_others_use_is_not_shut(tmp_path):
    """It would become private: at /srv or /var/backups that ends whatever else lies there."""
    root = tmp_path / "srv"
    (root / "www").mkdir(parents=True)
    root.chmod(0o755)
    told = copy_staging.Staging(str(root), "database:x").problem()
    assert "is open to others (mode 0755) and holds 1 entries" in told and str(root / "sunset-staging") in told
    root.chmod(0o700)
    assert copy_staging.Staging(str(root), "database:x").problem() is None
    (root / "www").rmdir()
    (root / "lost+found").mkdir()
    root.chmod(0o755)
    assert copy_staging.Staging(str(root), "database:x").problem() is None, "an empty one, or a file system of its own"


def test_damage_is_named(tmp_path):
    staging = copy_staging.Staging(str(tmp_path / "staging"), "database:x")
    record = finish(staging, "0" * 16)
    path = record["artefacts"][0]["path"]
    with open(path, "wb") as stream:
        stream.write(b"CONTENT")
    assert staging.damage(record) == ["a.sql has other content than recorded"]
    os.truncate(path, 3)
    assert staging.damage(record) == ["a.sql has 3 bytes, recorded are 7"]
    os.unlink(path)
    assert staging.damage(record) == ["a.sql cannot be read: No such file or directory"]


def test_the_finished_copy_stays_until_the_new_one_is_whole(tmp_path):
    staging = copy_staging.Staging(str(tmp_path / "staging"), "database:x")
    first = finish(staging, "0" * 16)
    new = artefact(staging, "1" * 16)
    assert staging.finished() == first and staging.damage(first) == []
    staging.commit({"dump_id": "1" * 16, "artefacts": [new], "source": {}})
    assert sorted(os.listdir(staging.directory)) == ["1" * 16, "finished.json"]


def test_leftovers_of_a_killed_job_are_removed(tmp_path):
    staging = copy_staging.Staging(str(tmp_path / "staging"), "database:x")
    staging.prepare()
    staging.begin("2" * 16)
    open(os.path.join(staging.directory, "2" * 16, "a.sql.part"), "w").close()
    staging.begin("3" * 16)
    assert os.listdir(staging.directory) == ["3" * 16]


def test_want_of_space_is_said_in_numbers(tmp_path, monkeypatch):
    staging = copy_staging.Staging(str(tmp_path / "staging"), "database:x")
    monkeypatch.setattr(staging, "free", lambda: 1000)
    told = staging.shortage(5000)
    assert "1000 bytes free" in told and str(5000 + copy_staging.MARGIN) in told and str(4000 + copy_staging.MARGIN) in told
    monkeypatch.setattr(staging, "free", lambda: 5000 + copy_staging.MARGIN)
    assert staging.shortage(5000) is None


def test_places_that_cannot_be_trusted_are_refused(tmp_path):
    assert "absolute" in copy_staging.Staging("staging", "x:y").problem()
    assert "does not exist" in copy_staging.Staging(str(tmp_path / "no" / "staging"), "x:y").problem()
    (tmp_path / "link").symlink_to(tmp_path)
    assert "links are not followed" in copy_staging.Staging(str(tmp_path / "link"), "x:y").problem()


def test_the_survey_looks_at_staging_places(tmp_path):
    """Before anything is changed, not when the dump begins."""
    media = survey_media.Media()
    media.mounts = [{"number": "0:1", "root": "/", "point": "/", "fstype": "overlay", "source": "overlay"}]
    media.mounts.append({"number": "0:2", "root": "/", "point": str(tmp_path / "ram"), "fstype": "tmpfs", "source": "tmpfs"})
    store = tmp_path / "store"
    (tmp_path / "ram").mkdir()
    (store / "inner").mkdir(parents=True)
    store.chmod(0o755)
    expected = Expected(None, media)

    def look(place, kind="database"):
        return expected.staging({"kind": kind, "name": "x", "path": str(store), "staging": str(place)})

    good = look(tmp_path / "new")
    assert good == {"place": str(tmp_path / "new"), "problem": "", "media": [], "in_memory": False}
    assert look(tmp_path / "ram" / "new")["in_memory"] is True
    assert "is open to others (mode 0755)" in look(store)["problem"] and look(store, "container")["problem"] == ""
    assert "does not exist" in look(tmp_path / "no" / "new")["problem"]
    assert "lies inside the file store" in look(store / "inner" / "new", "filestore")["problem"]
    assert look(store / "inner" / "new")["problem"] == ""
