# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The proof of a SQLite copy: the file itself in memory, opened so that nothing can write to it. And the copy as plain rows.

Private to the collection. Valid for Python 3.6, standard library.
"""

import os
from typing import Any, Dict, Iterator, List, Tuple  # noqa: F401

from ansible_collections.sunset.crm.plugins.module_utils._database import sqlclient as database_sqlclient
from ansible_collections.sunset.crm.plugins.module_utils._fingerprint import lite as fingerprint_lite
from ansible_collections.sunset.crm.plugins.module_utils._proof.scratch import Scratch  # noqa: F401
from ansible_collections.sunset.crm.plugins.module_utils._vault.state import VaultError


def space_needed(plain_bytes):
    # type: (int) -> int
    return plain_bytes + (16 << 20)


def frozen(path):
    # type: (str) -> str
    """Read-only, no locks, no log beside it: the file and nothing else."""
    return fingerprint_lite.uri(path, "ro&immutable=1")


class FileSink(object):
    """Takes the stream into the file; finish() opens it and lets SQLite check it."""

    def __init__(self, server):
        # type: (Sqlite) -> None
        self.server = server
        self.stream = os.fdopen(os.open(server.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")

    def __call__(self, block):
        # type: (bytes) -> None
        self.stream.write(block)

    def finish(self):
        # type: () -> None
        self.stream.close()
        if os.path.getsize(self.server.path) == 0:
            raise VaultError("the artefact is empty; expected a SQLite file")  # SQLite would take it for an empty database
        try:
            with fingerprint_lite.LiteSession(frozen(self.server.path)) as session:
                word = fingerprint_lite.integrity(session)
        except database_sqlclient.SqlError as exc:
            raise VaultError("the copy cannot be opened: %s" % exc, verdict="unknown")
        if word.startswith("corrupt"):
            raise VaultError("the copy fails SQLite's integrity_check: %s" % word)
        if word != "ok" and word.split(":")[0] != self.server.source.get("integrity", "").split(":")[0]:
            raise VaultError("the copy's integrity_check could not be made here (%s), at the source it could" % word, verdict="unknown")

    def abandon(self):
        # type: () -> None
        self.stream.close()


class Sqlite(object):
    """What _proof.run drives like a server; there is none, the file is the database."""

    engine = "sqlite"
    passes_globals = ()  # type: Tuple[str, ...]

    def __init__(self, scratch, source):
        # type: (Scratch, Dict[str, Any]) -> None
        if not fingerprint_lite.VERSION:
            raise VaultError("the Python of this vault has no sqlite3 module; install its package", verdict="unknown")
        self.scratch, self.source = scratch, source
        self.not_restored = []  # type: List[str]
        self.set_again = []  # type: List[str]

    def __enter__(self):
        # type: () -> Sqlite
        self.path = os.path.join(self.scratch.path, "copy.sqlite3")
        return self

    def __exit__(self, *_exc):
        # type: (*Any) -> None
        pass

    def load_globals(self, text):
        # type: (bytes) -> None
        raise VaultError("a SQLite copy has no globals; the package holds an artefact that it should not")

    def loaded(self, _database):
        # type: (str) -> int
        """There are no accounts and no grants to put back after the data."""
        return 0

    def feed(self, _wanted):
        # type: (Dict[str, Any]) -> FileSink
        return FileSink(self)

    def session_arguments(self, database):
        # type: (str) -> Dict[str, Any]
        """For _fingerprint.engines.open_session."""
        return {"database": frozen(self.path)}


# --- the copy as rows, for the export that is read without the application -----------------------------------------


class Readable(object):
    """Tables and rows of a restored copy. Text that is not UTF-8 shows its bytes as \\xNN."""

    def __init__(self, path):
        # type: (str) -> None
        self.session = fingerprint_lite.LiteSession(frozen(path))

    def tables(self):
        # type: () -> List[Tuple[str, List[Tuple[str, str]], List[str]]]
        """[(name, [(column, declared type)], columns of the primary key)], without SQLite's own tables."""
        found = []
        for name in fingerprint_lite.tables(self.session):
            if not name.lower().startswith("sqlite_"):
                columns = fingerprint_lite.columns(self.session, name)
                key = [column for _place, column in sorted((place, column) for column, _type, place in columns if place)]
                found.append((name, [(column, kind) for column, kind, _place in columns], key))
        return found

    def rows(self, table):
        # type: (str) -> Iterator[Tuple[Any, ...]]
        names = [fingerprint_lite.identifier(name) for name, _type, _place in fingerprint_lite.columns(self.session, table)]
        for row in self.session.each("SELECT %s FROM %s" % (", ".join(names), fingerprint_lite.identifier(table))):
            yield tuple(readable(value) for value in row)

    def close(self):
        # type: () -> None
        self.session.close()


def readable(value):
    # type: (Any) -> Any
    return bytes(value).decode("utf-8", "backslashreplace") if isinstance(value, fingerprint_lite.Text) else value
