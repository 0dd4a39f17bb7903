# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""SQLite's half of the fingerprint, and the session it reads through: Python's own sqlite3, nothing from the host.

A session never changes the source. A value counts with its storage class, so 1, '1', 1.0 and x'31' are four values, and text that
is not UTF-8 keeps its bytes.
"""

import hashlib
import os
import struct
import sys
from typing import Any, Dict, List  # noqa: F401
from urllib.parse import quote

from ansible_collections.sunset.crm.plugins.module_utils._canonical import digest
from ansible_collections.sunset.crm.plugins.module_utils._database.sqlclient import SqlError

try:
    import sqlite3
except ImportError:  # some distributions ship Python without it
    sqlite3 = None  # type: ignore[assignment]

# Of the library; empty where there is none.
VERSION = sqlite3.sqlite_version if sqlite3 else ""
METHOD = "sha256/128"
BUSY_SECONDS = 15
SETTINGS = ("user_version", "application_id", "encoding", "auto_vacuum", "page_size")
_CORRUPT = ("malformed", "not a database", "disk image", "unsupported file format")
_WORD = 1 << 128
_DOUBLE = struct.Struct(">d").pack


class Text(bytes):
    """A TEXT value as the bytes it has; a BLOB is plain bytes."""


def uri(path, mode):
    return "file:{0}?mode={1}".format(quote(os.fsencode(path)), mode)


def identifier(name):
    return '"{0}"'.format(name.replace('"', '""'))


def shown(value):
    return bytes(value).decode("utf-8", "surrogateescape") if isinstance(value, Text) else value


def source_mode(path):
    """How to open a source without leaving anything behind. Read-only, but where the database is in WAL mode and its log is empty:
    there a read-only connection would leave an empty log and its index, a writing one that writes nothing takes them away."""
    try:
        with open(path, "rb") as stream:
            wal = stream.read(20)[18:20] == b"\x02\x02"
        return "rw" if wal and not (os.path.exists(path + "-wal") and os.path.getsize(path + "-wal")) else "ro"
    except OSError as error:
        raise SqlError("{0}: {1}".format(path, error.strerror))


class LiteSession(object):
    """One connection. `database` is an absolute path (a source, never written to), or a URI of SQLite's ("file:...")."""

    engine = "sqlite"

    def __init__(self, database):
        if sqlite3 is None:
            raise SqlError("the Python of this machine ({0}) has no sqlite3 module; install its package".format(sys.executable))
        where = database if database.startswith("file:") else uri(database, source_mode(database))
        try:
            self.connection = sqlite3.connect(where, timeout=BUSY_SECONDS, isolation_level=None, uri=True, check_same_thread=False)
        except sqlite3.Error as error:
            raise SqlError("SQLite: {0}".format(error))
        self.connection.text_factory = Text
        if "mode=rw" in where:
            self.rows("PRAGMA query_only = 1")

    def lines(self, sql):
        return self.rows(sql)

    def each(self, sql):
        try:
            cursor = self.connection.execute(sql)
            while True:
                rows = cursor.fetchmany(500)
                if not rows:
                    return
                yield from rows
        except (sqlite3.Error, OverflowError) as error:
            raise SqlError("SQLite: {0}".format(error))

    def rows(self, sql):
        return [[shown(value) for value in row] for row in self.each(sql)]

    def close(self):
        self.connection.close()

    def __enter__(self):
        return self

    def __exit__(self, *_exception):
        self.close()


def backup(session, target):
    """SQLite's online backup into the existing, empty file `target`: the state that the session's transaction sees."""
    try:
        copy = sqlite3.connect(target, isolation_level=None)
        try:
            copy.execute("PRAGMA journal_mode = OFF")
            copy.execute("PRAGMA synchronous = OFF")
            session.connection.backup(copy)
        finally:
            copy.close()
    except sqlite3.Error as error:
        raise SqlError("SQLite's online backup: {0}".format(error))


def integrity(session):
    """ "ok", "corrupt: ..." or "unknown: ..." (an expression needs a function or collation that only the application has)."""
    try:
        told = [str(row[0]) for row in session.rows("PRAGMA integrity_check(20)")]
    except SqlError as error:
        word = "corrupt" if any(one in str(error) for one in _CORRUPT) else "unknown"
        return "{0}: {1}".format(word, error)
    return "ok" if told == ["ok"] else "corrupt: {0} findings or more, first: {1}".format(len(told), "; ".join(told[:3]).replace("\n", " "))


# What stands for a value: its storage class, its length where it has one, itself. By exact type: this is the loop that takes the time.
ENCODE = {
    type(None): lambda value: b"n",
    Text: lambda value: b"t%d:%b" % (len(value), value),
    bytes: lambda value: b"b%d:%b" % (len(value), value),
    int: lambda value: b"i%d;" % value,
    float: lambda value: b"f" + _DOUBLE(value),
}


def contents(rows):
    """Rows and the sum of their hashes: free of order, and a row that is there twice counts twice."""
    count, total, encode, sha256, number = 0, 0, ENCODE, hashlib.sha256, int.from_bytes
    for row in rows:
        count += 1
        total += number(sha256(b"".join([encode[type(value)](value) for value in row])).digest()[:16], "big")
    return {"rows": count, "hash": "{0:032x}".format(total % _WORD)}


def tables(session):
    """Names of the tables that hold rows: not the virtual ones, whose rows lie in tables of their own."""
    found = session.rows("SELECT name, sql FROM sqlite_master WHERE type = 'table' ORDER BY name")
    return [name for name, sql in found if not (sql or "").lstrip().upper().startswith("CREATE VIRTUAL")]


def columns(session, table):
    """[(name, declared type, place in the primary key or 0)] of the stored columns; computed ones stand in the table's definition."""
    rows = session.rows("PRAGMA table_xinfo({0})".format(identifier(table)))  # SQLite 3.26; an older one answers nothing
    if not rows:
        rows = session.rows("PRAGMA table_info({0})".format(identifier(table)))
    return [(row[1], row[2], row[5]) for row in rows if len(row) < 7 or row[6] in (0, 3)]


def rowid_name(session, table, names):
    """The name under which the table's rowid can be read; None in a table WITHOUT ROWID.

    The rowid is content: where no primary key is its alias, an index of full text search points to it.
    """
    taken = {name.lower() for name in names}
    for name in ("rowid", "_rowid_", "oid"):
        if name not in taken:
            try:
                session.rows("SELECT {0} FROM {1} LIMIT 0".format(name, identifier(table)))
            except SqlError as error:
                if "no such column" in str(error):
                    return None
                raise
            return name
    return None


def select(session, table):
    names = [name for name, _type, _key in columns(session, table)]
    rowid = rowid_name(session, table, names)
    wanted = ([rowid] if rowid else []) + [identifier(name) for name in names]
    return "SELECT {0} FROM {1}".format(", ".join(wanted), identifier(table))


def take(session, database, method=None, progress=None):
    """All in one read transaction; where the caller has begun one, in that."""
    if method not in (None, METHOD):
        raise ValueError("method is {0!r}; SQLite fingerprints are taken with {1!r}".format(method, METHOD))
    own = not session.connection.in_transaction
    if own:
        session.rows("BEGIN")
    try:
        return _take(session, progress or (lambda done, total: None))
    finally:
        if own:
            session.connection.rollback()


def _take(session, progress):
    holders = tables(session)
    found = {}
    for done, name in enumerate(holders):
        progress(done, len(holders))
        found[name] = contents(session.each(select(session, name)))
    catalogue = {}  # type: Dict[str, Dict[str, Any]]
    for row in session.rows("SELECT type, name, tbl_name, sql FROM sqlite_master"):
        catalogue.setdefault(row[0], {})[row[1]] = digest(row)[:32]
    catalogue["setting"] = {name: session.rows("PRAGMA " + name)[0][0] for name in SETTINGS}
    return {
        "version": VERSION,
        "method": METHOD,
        "tables": found,
        "derived": {},
        "catalogue": catalogue,
        "globals": {},
        "notes": {},
    }
