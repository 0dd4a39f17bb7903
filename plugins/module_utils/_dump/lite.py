# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""SQLite: is the declared file one that can be copied whole, and one consistent picture of it.

The picture is a file of its own on the staging medium: while a writer works, a database in WAL mode is spread over two files, and
only SQLite's online backup brings them together. The source itself is never written to, not even to finish what a crash left.
"""

import contextlib
import os
import stat

from ansible_collections.sunset.crm.plugins.module_utils._copy import filestore as copy_filestore, stream as copy_stream
from ansible_collections.sunset.crm.plugins.module_utils._database import sqlclient as database_sqlclient
from ansible_collections.sunset.crm.plugins.module_utils._fingerprint import (
    apart as fingerprint_apart,
    engines as fingerprint_engines,
    lite as fingerprint_lite,
)

MAGIC = b"SQLite format 3\0"
PARTS = ("", "-wal", "-journal")


def declared_problem(path):
    """Why this path cannot be the source; None if it can. Looks at names and the first bytes only."""
    if not path.startswith("/"):
        return "database is {0!r}; SQLite needs the absolute path of its file".format(path)
    try:
        found = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return "{0} does not exist".format(path)
    real = os.path.realpath(path)
    if real != os.path.normpath(path):
        return "{0} leads through a link to {1}; declare that path, so that the file and its medium are those that are meant".format(
            path, real
        )
    if not stat.S_ISREG(found.st_mode):
        return "{0} is no regular file".format(path)
    if found.st_nlink > 1:
        return (
            "{0} has {1} names (hard links); SQLite keeps unfinished work beside the name that its writer used, so another name can "
            "show an old state. Remove the other names"
        ).format(path, found.st_nlink)
    with open(path, "rb") as stream:
        head = stream.read(16)
    if not head:
        return "{0} is empty; it holds no database. Is it the file that the application uses?".format(path)
    if head != MAGIC:
        return (
            "{0} does not begin like a SQLite 3 file: it is another kind of file, or encrypted (SQLCipher, SEE), which this collection "
            "cannot open. Decrypt it with its application, or keep it as a file store together with its key"
        ).format(path)
    return None


def application_id(path):
    with open(path, "rb") as stream:
        return int.from_bytes(stream.read(72)[68:72], "big")


def identity(path):
    """Who the file is."""
    return dict(copy_filestore.identity(path), application_id=application_id(path))


def size(path):
    return sum(os.path.getsize(path + part) for part in PARTS if os.path.exists(path + part))


def holders(path):
    """ "name (pid)" of the processes that have the file open, for the message that it is locked."""
    found = []
    for pid in sorted(int(name) for name in os.listdir("/proc") if name.isdigit()):
        with contextlib.suppress(OSError):
            folder = "/proc/{0}/fd".format(pid)
            if pid != os.getpid() and any(_leads_to(os.path.join(folder, name), path) for name in os.listdir(folder)):
                with open("/proc/{0}/comm".format(pid)) as stream:
                    found.append("{0} ({1})".format(stream.read().strip(), pid))
    return found


def _leads_to(link, path):
    with contextlib.suppress(OSError):
        return os.readlink(link) == path
    return False


def specification(spec):
    """For _database.server: (spec of the job, bytes that the staging must hold). Opens nothing: check mode must not touch a hot journal."""
    path = spec["database"]
    problem = declared_problem(path)
    if problem:
        raise database_sqlclient.SqlError(problem)
    if not fingerprint_lite.VERSION:
        raise database_sqlclient.SqlError("this host's Python has no sqlite3 module; install its package")
    spec["identity"] = identity(path)
    spec["client"] = None
    spec["versions"] = {"sqlite": fingerprint_lite.VERSION}
    return spec, 2 * size(path)  # the picture, and the stream where nothing compresses


def read_transaction(session, path):
    """Begin to read. False: a crash left a hot journal, which only a writer may roll back."""
    session.rows("BEGIN")
    try:
        session.rows("SELECT count(*) FROM sqlite_master")
    except database_sqlclient.SqlError as error:
        session.connection.rollback()
        left = os.path.exists(path + "-journal") and os.path.getsize(path + "-journal") > 0
        if left and ("readonly" in str(error) or "unable to open" in str(error)):
            return False
        if "locked" in str(error):
            raise database_sqlclient.SqlError(
                "{0} is locked by a writer for more than {1} seconds; open in: {2}. Stop it, then run the same command again".format(
                    path, fingerprint_lite.BUSY_SECONDS, ", ".join(holders(path)) or "no process that can be seen"
                )
            )
        raise
    return True


def lift(path, target, parts):
    """Copy the file as it lies. By another program: closing a descriptor in this one would drop the locks of its connection."""
    for part in parts:
        if os.path.exists(path + part):
            with os.fdopen(os.open(target + part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as stream:
                for chunk in copy_stream.process_chunks(["cat", "--", path + part]):
                    stream.write(chunk)


def recovered(path, target):
    """A picture of a database with a hot journal: both files copied, the copy rolled back. Digests of the raw files."""
    before = states(path)
    lift(path, target, ("", "-journal"))
    if states(path) != before:
        raise database_sqlclient.SqlError(
            "{0} changed while it was copied; stop what writes there, then run the same command again".format(path)
        )
    raw = {part: copy_stream.file_sha256(target + part) for part in ("", "-journal")}
    settle(target)
    return raw


def settle(target):
    """Let SQLite finish what the copied log or journal holds, so that the picture is one file."""
    with fingerprint_lite.LiteSession(fingerprint_lite.uri(target, "rw")) as session:
        session.rows("PRAGMA query_only = 0")
        session.rows("SELECT count(*) FROM sqlite_master")
        session.rows("PRAGMA wal_checkpoint(TRUNCATE)")


def states(path):
    found = {}
    for part in PARTS:
        if os.path.exists(path + part):
            one = os.stat(path + part)
            found[part] = [one.st_ino, one.st_size, one.st_mtime_ns, one.st_ctime_ns]
    return found


def picture(session, path, target):
    """The state that the session's read transaction sees, as the file `target`. False: somebody wrote, and this Python (3.6) has
    no online backup that could tell the one state from the other."""
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    if hasattr(session.connection, "backup"):
        fingerprint_lite.backup(session, target)
        return True
    before = session.rows("PRAGMA data_version")
    lift(path, target, ("", "-wal"))
    session.connection.rollback()
    settle(target)
    return session.rows("PRAGMA data_version") == before


def discard(target):
    for part in PARTS + ("-shm",):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(target + part)


def sound(session, path):
    """The word on the source's integrity; a corrupt source is refused."""
    word = fingerprint_lite.integrity(session)
    if word.startswith("corrupt"):
        raise database_sqlclient.SqlError(
            "{0} fails SQLite's integrity_check ({1}). A copy of it could not be called whole: repair it (sqlite3 FILE .recover), or keep "
            "the file in a file store, which promises its bytes only".format(path, word)
        )
    return word


def unchanged(spec, record):
    """Whether the file is still the one that was copied."""
    path, source = spec["database"], record["source"]
    if source.get("identity") != spec["identity"]:
        return False
    raw = source.get("files")
    if raw:  # copied with a hot journal: nobody can read it without a rollback, but its bytes can be compared
        return {part: copy_stream.file_sha256(path + part) for part in PARTS if os.path.exists(path + part)} == raw
    with fingerprint_lite.LiteSession(path) as session:
        if not read_transaction(session, path):
            return False
        found = fingerprint_engines.take("sqlite", session, path, apart=fingerprint_apart.rules(spec.get("apart")))
    return fingerprint_engines.digest(found) == source["fingerprint_sha256"]
