# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""SQLite: what its fingerprint tells apart, and a consistent picture of a source that nobody changes by looking at it.

Runs where the estate's Python runs; a source is a file here, so these are the real thing and not a model of it.
"""

import os
import shutil
import sqlite3
import subprocess
import sys

import pytest

from ansible_collections.sunset.crm.plugins.module_utils._database import sqlclient as database_sqlclient
from ansible_collections.sunset.crm.plugins.module_utils._dump import lite as dump_lite
from ansible_collections.sunset.crm.plugins.module_utils._fingerprint import engines as fingerprint_engines, lite as fingerprint_lite
from ansible_collections.sunset.crm.plugins.module_utils._proof import sqlite as proof_sqlite

HOSTILE = """
PRAGMA user_version = 7; PRAGMA application_id = 4711;
CREATE TABLE "na""me; -- ' \\" (id INTEGER PRIMARY KEY AUTOINCREMENT, v, "select" REAL, b BLOB);
INSERT INTO "na""me; -- ' \\" (v, "select", b) VALUES (1, 1.5, x'00ff'), ('1', -0.0, NULL), (1.0, 9e999, ''), (x'31', NULL, x''),
    (9223372036854775807, 0.1, 'Zo' || char(128512)), (NULL, -9223372036854775808, CAST(x'ff00fe' AS TEXT));
CREATE TABLE "new
line" (rowid TEXT, "_rowid_", oid); INSERT INTO "new
line" VALUES ('a', 1, 2), ('a', 1, 2);
CREATE TABLE keyed (a TEXT, b INT, PRIMARY KEY (b, a)) WITHOUT ROWID; INSERT INTO keyed VALUES ('x', 1), ('x', 2);
CREATE TABLE nokey (a); INSERT INTO nokey VALUES ('one'), ('two'), ('two'); DELETE FROM nokey WHERE rowid = 1;
CREATE INDEX part ON nokey (a) WHERE a > 'a'; CREATE VIEW seen AS SELECT a FROM nokey;
CREATE TRIGGER tr AFTER INSERT ON keyed BEGIN INSERT INTO nokey VALUES (new.a); END;
CREATE VIRTUAL TABLE notes USING fts5(body, content=''); INSERT INTO notes (rowid, body) VALUES (42, 'found me');
CREATE VIRTUAL TABLE places USING rtree(id, x0, x1); INSERT INTO places VALUES (1, 2, 3);
ANALYZE;
"""


def make(path, script=HOSTILE, wal=False):
    source = sqlite3.connect(str(path), isolation_level=None)
    if wal:
        source.execute("PRAGMA journal_mode = WAL")
    source.executescript(script)
    source.close()
    return str(path)


def fingerprint(path, name="/x"):
    with fingerprint_engines.open_session("sqlite", path) as session:
        return fingerprint_engines.take("sqlite", session, name)


def differences(left, right):
    return [(one["kind"], one["name"], one["what"]) for one in fingerprint_engines.compare(fingerprint(left), fingerprint(right))]


def listing(folder):
    return {
        name: (os.stat(os.path.join(folder, name)).st_mtime_ns, open(os.path.join(folder, name), "rb").read())
        for name in os.listdir(folder)
    }


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "source").mkdir()
    return tmp_path


def taken(folder, path):
    """What the job does, without its stream: (fingerprint of the source, path of the picture)."""
    target = str(folder / "picture")
    with fingerprint_engines.open_session("sqlite", path) as session:
        assert dump_lite.read_transaction(session, path)
        assert dump_lite.sound(session, path) == "ok"
        found = fingerprint_engines.take("sqlite", session, path)
        assert dump_lite.picture(session, path, target)
    return found, target


@pytest.mark.parametrize("wal", [False, True])
def test_a_hostile_source_and_its_picture_are_equal_and_the_source_is_untouched(folder, wal):
    path = make(folder / "source" / "cr?m #1%.db", wal=wal)
    before = listing(str(folder / "source"))
    found, target = taken(folder, path)
    copy = fingerprint(proof_sqlite.frozen(target), path)
    assert fingerprint_engines.compare(found, copy) == [] and fingerprint_engines.digest(found) == fingerprint_engines.digest(copy)
    assert listing(str(folder / "source")) == before
    assert os.stat(target).st_mode & 0o777 == 0o600
    names = set(found["tables"])
    assert {"keyed", "nokey", "na\"me; -- ' \\", "new\nline", "sqlite_sequence", "sqlite_stat1", "notes_data", "places_node"} <= names
    assert "notes" not in names and "notes" in found["catalogue"]["table"]
    assert set(found["catalogue"]) == {"table", "index", "view", "trigger", "setting"}
    assert found["catalogue"]["setting"]["user_version"] == 7


def test_a_database_in_utf16_is_equal(folder):
    path = make(folder / "source" / "crm.db", "PRAGMA encoding = 'UTF-16be';" + HOSTILE)
    found, target = taken(folder, path)
    assert found["catalogue"]["setting"]["encoding"] == "UTF-16be"
    assert fingerprint_engines.compare(found, fingerprint(proof_sqlite.frozen(target), path)) == []


VALUES = ["1", "'1'", "1.0", "x'31'", "NULL", "''", "x''", "0.1", "0.1000000000000001", "9007199254740993", "9007199254740992.0", "0"]


def test_storage_classes_are_told_apart(folder):
    seen = {}
    for value in VALUES:
        path = make(folder / "v.db", "CREATE TABLE t (a); INSERT INTO t VALUES ({0});".format(value))
        seen[fingerprint(path)["tables"]["t"]["hash"]] = value
        os.unlink(path)
    assert len(seen) == len(VALUES)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("UPDATE keyed SET a = 'X' WHERE b = 1", ("table", "keyed", "content")),
        ("INSERT INTO nokey VALUES ('two')", ("table", "nokey", "rows")),
        ("UPDATE nokey SET rowid = 99 WHERE rowid = 3", ("table", "nokey", "content")),
        ("UPDATE sqlite_sequence SET seq = 1000", ("table", "sqlite_sequence", "content")),
        ("DROP TRIGGER tr", ("trigger", "tr", "missing in the copy")),
        ("DROP INDEX part; CREATE INDEX part ON nokey (a)", ("index", "part", "definition")),
        ("PRAGMA user_version = 8", ("setting", "user_version", "definition")),
        ("INSERT INTO notes (rowid, body) VALUES (43, 'more')", ("table", "notes_docsize", "rows")),
        ("UPDATE places SET x1 = 4", ("table", "places_node", "content")),
        ("CREATE TABLE extra (a)", ("table", "extra", "only in the copy")),
    ],
)
def test_every_change_is_seen(folder, change, told):
    path, other = make(folder / "a.db"), str(folder / "b.db")
    shutil.copy(path, other)
    assert differences(path, other) == []
    make(other, change)
    assert told in differences(path, other)


def test_a_swap_between_rows_and_a_row_that_is_there_twice(folder):
    left = make(folder / "a.db", "CREATE TABLE t (a, b, PRIMARY KEY (a, b)) WITHOUT ROWID; INSERT INTO t VALUES (1, 2), (3, 4);")
    right = make(folder / "b.db", "CREATE TABLE t (a, b, PRIMARY KEY (a, b)) WITHOUT ROWID; INSERT INTO t VALUES (1, 4), (3, 2);")
    assert ("table", "t", "content") in differences(left, right)
    twice = fingerprint_lite.contents([(1,), (1,)])
    assert twice["hash"] not in ("0" * 32, fingerprint_lite.contents([(2,), (2,)])["hash"])


WRITER = """
import sqlite3, sys, time
c = sqlite3.connect(sys.argv[1], isolation_level=None)
c.executescript(sys.argv[2])
print("ready", flush=True)
n = 0
while sys.argv[3] == "write":
    n += 1
    c.execute("BEGIN IMMEDIATE"); c.execute("INSERT INTO pair VALUES (?, 1)", (n,)); c.execute("INSERT INTO pair VALUES (?, -1)", (n,))
    c.execute("COMMIT")
time.sleep(60)
"""


@pytest.fixture
def writer(request):
    running = []

    def start(path, script, then="wait"):
        process = subprocess.Popen([sys.executable, "-c", WRITER, path, script, then], stdout=subprocess.PIPE)
        running.append(process)
        assert process.stdout.readline() == b"ready\n"
        return process

    yield start
    for process in running:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.skipif(not hasattr(sqlite3.Connection, "backup"), reason="no online backup before Python 3.7: there a writer is an error")
def test_a_writer_at_work_in_wal_mode_gives_one_moment(folder, writer):
    """Both rows of every transaction or neither, and the fingerprint of that very moment."""
    path = make(folder / "source" / "crm.db", "CREATE TABLE pair (n, s);", wal=True)
    writer(path, "", "write")
    for _attempt in range(3):
        found, target = taken(folder, path)
        assert fingerprint(proof_sqlite.frozen(target), path)["tables"] == found["tables"]
        copy = sqlite3.connect(target)
        assert copy.execute("SELECT sum(s) FROM pair").fetchone()[0] in (0, None)
        copy.close()
        dump_lite.discard(target)


def killed(writer, path, script):
    process = writer(path, script)
    process.kill()
    process.wait()


def test_what_a_crash_left_in_the_wal_is_in_the_copy_and_stays_at_the_source(folder, writer):
    path = make(folder / "source" / "crm.db", "CREATE TABLE t (a);", wal=True)
    killed(writer, path, "PRAGMA wal_autocheckpoint = 0; INSERT INTO t VALUES ('only in the log');")
    before = {name: one for name, one in listing(str(folder / "source")).items() if not name.endswith("-shm")}
    assert len(before["crm.db-wal"][1]) > 0
    found, target = taken(folder, path)
    assert found["tables"]["t"]["rows"] == 1
    assert fingerprint(proof_sqlite.frozen(target), path)["tables"] == found["tables"]
    assert {name: one for name, one in listing(str(folder / "source")).items() if not name.endswith("-shm")} == before


HOT = "PRAGMA cache_size = 1; PRAGMA synchronous = FULL; BEGIN; UPDATE t SET a = 'half done';"


def test_a_hot_journal_is_rolled_back_in_the_copy_only(folder, writer):
    rows = "CREATE TABLE t (a); WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000) "
    path = make(folder / "source" / "crm.db", rows + "INSERT INTO t SELECT hex(randomblob(200)) FROM n;")
    wanted = fingerprint(path, path)
    killed(writer, path, HOT)
    before = listing(str(folder / "source"))
    assert "crm.db-journal" in before and b"half done" in before["crm.db"][1]
    with fingerprint_engines.open_session("sqlite", path) as session:
        assert not dump_lite.read_transaction(session, path)
    target = str(folder / "picture")
    raw = dump_lite.recovered(path, target)
    assert fingerprint_engines.compare(wanted, fingerprint(target, path)) == []
    assert listing(str(folder / "source")) == before
    spec = {"database": path, "identity": dump_lite.identity(path)}
    record = {"source": {"identity": spec["identity"], "files": raw}}
    assert dump_lite.unchanged(spec, record)
    os.unlink(path + "-journal")
    assert not dump_lite.unchanged(spec, record)


def test_a_lock_that_stays_names_its_holder(folder, writer, monkeypatch):
    path = make(folder / "source" / "crm.db", "CREATE TABLE t (a);")
    monkeypatch.setattr(fingerprint_lite, "BUSY_SECONDS", 0.2)
    process = writer(path, "BEGIN EXCLUSIVE")
    told = r"locked by a writer .*\({0}\)".format(process.pid)
    with fingerprint_engines.open_session("sqlite", path) as session, pytest.raises(database_sqlclient.SqlError, match=told):
        dump_lite.read_transaction(session, path)


class Without(object):
    """A connection of Python 3.6: no online backup."""

    def __init__(self, connection):
        self._connection = connection

    def __getattr__(self, name):
        if name == "backup":
            raise AttributeError(name)
        return getattr(self._connection, name)


def test_without_the_online_backup(folder, writer):
    path = make(folder / "source" / "crm.db", "CREATE TABLE t (a);", wal=True)
    killed(writer, path, "PRAGMA wal_autocheckpoint = 0; INSERT INTO t VALUES ('only in the log');")
    for late in (False, True):
        with fingerprint_engines.open_session("sqlite", path) as session:
            session.connection = Without(session.connection)
            assert dump_lite.read_transaction(session, path)
            found = fingerprint_engines.take("sqlite", session, path)
            if late:
                make(path, "INSERT INTO t VALUES ('late')")
            target = str(folder / "picture{0}".format(late))
            assert dump_lite.picture(session, path, target) is not late
        if not late:
            assert fingerprint(proof_sqlite.frozen(target), path)["tables"] == found["tables"]
            assert not os.path.exists(target + "-wal") or os.path.getsize(target + "-wal") == 0


def test_a_corrupt_source_is_refused(folder):
    path = make(folder / "crm.db", "CREATE TABLE t (a); CREATE INDEX i ON t (a); INSERT INTO t VALUES ('aaaa'), ('bbbb');")
    with open(path, "rb") as stream:
        text = stream.read()
    at = text.rindex(b"aaaa")  # in the index; the table is whole and would be copied as equal
    with open(path, "wb") as stream:
        stream.write(text[:at] + b"aaab" + text[at + 4 :])
    with fingerprint_engines.open_session("sqlite", path) as session, pytest.raises(
        database_sqlclient.SqlError, match="integrity_check .*index i"
    ):
        dump_lite.sound(session, path)


def test_a_check_that_only_the_application_can_make_is_unknown_and_no_corruption(folder):
    source = sqlite3.connect(str(folder / "crm.db"))
    source.create_collation("mine", lambda left, right: (left > right) - (left < right))
    source.executescript("CREATE TABLE t (a TEXT COLLATE mine UNIQUE); INSERT INTO t VALUES (1);")
    source.close()
    with fingerprint_engines.open_session("sqlite", str(folder / "crm.db")) as session:
        assert dump_lite.sound(session, "crm.db").startswith("unknown: ")
        assert fingerprint_engines.take("sqlite", session, "/x")["tables"]["t"]["rows"] == 1


def test_what_cannot_be_the_source_is_refused_by_name(folder):
    path = make(folder / "crm.db", "CREATE TABLE t (a);")
    assert dump_lite.declared_problem(path) is None
    os.symlink(path, str(folder / "link.db"))
    os.symlink(str(folder), str(folder / "current"))
    (folder / "empty.db").write_bytes(b"")
    (folder / "cipher.db").write_bytes(os.urandom(4096))
    for name, words in (
        ("link.db", "link to {0}".format(path)),
        ("current/crm.db", "link to {0}".format(path)),
        ("empty.db", "is empty"),
        ("cipher.db", "SQLCipher"),
        ("nothing.db", "does not exist"),
        (".", "link|no regular file"),
    ):
        problem = dump_lite.declared_problem(os.path.join(str(folder), name))
        assert problem and any(word in problem for word in words.split("|")), (name, problem)
    assert "absolute path" in dump_lite.declared_problem("crm.db")
    os.link(path, str(folder / "second.db"))
    assert "2 names" in dump_lite.declared_problem(path)


def test_readable_rows(folder):
    reader = proof_sqlite.Readable(make(folder / "crm.db"))
    tables = {name: (columns, key) for name, columns, key in reader.tables()}
    assert tables["keyed"] == ([("a", "TEXT"), ("b", "INT")], ["b", "a"]) and "sqlite_sequence" not in tables
    assert list(reader.rows("keyed")) == [("x", 1), ("x", 2)] or list(reader.rows("keyed")) == [("x", 1), ("x", 2)][::-1]
    rows = list(reader.rows("na\"me; -- ' \\"))
    assert rows[0] == (1, 1, 1.5, b"\x00\xff") and rows[5][3] == "\\xff\x00\\xfe"
    reader.close()
