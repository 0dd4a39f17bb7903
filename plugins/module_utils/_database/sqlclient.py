# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One session with a database server through its own command-line client.

The machines hold no driver and get none (law 5), so a session is a client process that stays open: pinned settings and an
exported snapshot belong to a session, not to a query. SQL goes in through stdin, never through argv; the server believes us by
peer or socket authentication, so there is no password to leak. Where there is one (see _database.reach), the connection names the file
that holds it.
"""

import binascii
import contextlib
import json
import os
import subprocess
import tempfile
from typing import Any, List, Sequence  # noqa: F401

from ansible_collections.sunset.crm.plugins.module_utils._database.messages import safe_errors

# Servers that speak MySQL's protocol and are asked by its clients.
MY_ENGINES = ("mariadb", "mysql")


class SqlError(Exception):
    """The client or the server refused; the text is what it said."""


def child_environment():
    """LC_ALL=C and nothing inherited that could point the client at another server or file."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PG", "MYSQL", "MARIADB"))}
    # MySQL's clients read an account's login file even with --no-defaults, unless this names another.
    kept.update(LC_ALL="C", PGCLIENTENCODING="UTF8", MYSQL_TEST_LOGIN_FILE="/dev/null")
    return kept


def as_user(user):
    """The argv prefix that runs a client as the server's own account; empty where we are that account already.

    A list is such a prefix already: the words that lead into the container of the server.
    """
    if isinstance(user, (list, tuple)):
        return list(user)
    if not user or os.geteuid() != 0:
        return []
    return ["runuser", "-u", user, "--"]


def conninfo_value(value):
    """Quote one value of a libpq connection string; a database called "a=b" must not be read as a setting."""
    return "'{0}'".format(value.replace("\\", "\\\\").replace("'", "\\'"))


def postgresql_target(database, port=None, socket=None, user="postgres", host=None, passfile=None, sslmode=None):
    """The connection string for psql, pg_dump and pg_restore: a socket directory, or a host and the file of its password."""
    parts = ["dbname=" + conninfo_value(database), "user=" + conninfo_value(user)]
    if socket or host:
        parts.append("host=" + conninfo_value(host or socket))
    if port:
        parts.append("port={0:d}".format(int(port)))
    for name, value in (("passfile", passfile), ("sslmode", sslmode), ("connect_timeout", "30" if host else None)):
        if value:
            parts.append("{0}={1}".format(name, conninfo_value(value)))
    return " ".join(parts)


class Arguments(list):
    """The connection arguments of the MariaDB tools. Every command line is made as [tool] + arguments; where the server is inside a
    container, that puts the words that lead there before the tool, so that no caller can forget them."""

    before = ()  # type: Sequence[str]

    def __radd__(self, tool):
        return list(self.before) + list(tool) + list(self)


def mariadb_arguments(socket=None, user="root", host=None, port=None, defaults=None, before=()):
    """Connection arguments of every MariaDB tool. The first one keeps every other option file from redirecting us;
    `defaults` is the one file that counts, and holds the password."""
    arguments = Arguments(["--defaults-file=" + defaults] if defaults else ["--no-defaults"])
    arguments.before = tuple(before)
    arguments += ["--protocol=" + ("tcp" if host else "socket"), "--user=" + user, "--default-character-set=utf8mb4"]
    if host:
        arguments += ["--host=" + host, "--port={0:d}".format(int(port or 3306))]
    elif socket:
        arguments.append("--socket=" + socket)
    return arguments


def pg_identifier(name):
    return '"{0}"'.format(name.replace('"', '""'))


def my_identifier(name):
    return "`{0}`".format(name.replace("`", "``"))


def pg_literal(value):
    return "'{0}'".format(value.replace("'", "''"))


def my_literal(value):
    """A text literal as hexadecimal: nothing in it can be mistaken for SQL, whatever the SQL mode says about backslashes."""
    digits = binascii.hexlify(value.encode("utf-8", "surrogateescape")).decode("ascii")
    return "_utf8mb4 X'{0}'".format(digits)


class _Session(object):
    """A client process with a marker after each statement, so that an answer's end is seen and not guessed."""

    def __init__(self, argv):
        self._errors = tempfile.TemporaryFile()
        self._count = 0
        try:
            self._process = subprocess.Popen(
                argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, env=child_environment(), cwd="/"
            )
        except OSError as error:
            self._errors.close()
            raise SqlError("the client {0} could not be started: {1}".format(argv[0], error))
        self._in = self._process.stdin  # type: Any
        self._out = self._process.stdout  # type: Any

    def _marker_statement(self, marker):
        raise NotImplementedError

    def lines(self, sql):
        """Run one statement; its output lines as bytes, without the line ends."""
        self._count += 1
        marker = "sunset-end-{0}".format(self._count)
        text = "{0}\n;\n{1}\n".format(sql, self._marker_statement(marker))
        try:
            self._in.write(text.encode("utf-8", "surrogateescape"))
            self._in.flush()
        except (OSError, ValueError):
            self._refuse(sql)
        wanted = marker.encode("ascii")
        answer = []  # type: List[bytes]
        while True:
            line = self._out.readline()
            if not line:
                self._refuse(sql)
            line = line.rstrip(b"\n")
            if line == wanted:
                return answer
            answer.append(line)

    def _refuse(self, sql):
        code = self._process.wait()
        self._errors.seek(0)
        said = safe_errors(self._errors.read().decode("utf-8", "replace"))
        raise SqlError("the database client ended with code {0}: {1} (statement: {2})".format(code, said, " ".join(sql.split())[:200]))

    def close(self):
        with contextlib.suppress(OSError):
            self._in.close()
        self._out.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()

    def __enter__(self):
        return self

    def __exit__(self, *_exception):
        self.close()


class PostgresqlSession(_Session):
    """rows() expects statements that select one json_build_array(...): JSON keeps NULL, newlines and tabs apart."""

    engine = "postgresql"

    def __init__(self, database, port=None, socket=None, run_as="postgres", user="postgres", psql="psql", connection=None):
        self.target = connection or postgresql_target(database, port, socket, user)
        argv = as_user(run_as) + [psql, "-X", "-q", "-A", "-t", "-w", "-v", "ON_ERROR_STOP=1", "-v", "VERBOSITY=verbose"]
        argv += ["-d", self.target]
        super(PostgresqlSession, self).__init__(argv)

    def _marker_statement(self, marker):
        return "\\echo {0}".format(marker)

    def rows(self, sql):
        return [json.loads(line.decode("utf-8", "surrogateescape")) for line in self.lines(sql) if line]


class MariadbSession(_Session):
    """rows() takes expressions and the rest of the SELECT; values come as hexadecimal, the one form no version misprints."""

    engine = "mariadb"

    def __init__(self, database=None, socket=None, run_as=None, user="root", client="mariadb", connection=None):
        argv = as_user(run_as) + ([client] + (connection or mariadb_arguments(socket, user)))
        argv += ["--batch", "--skip-column-names", "--unbuffered"]
        super(MariadbSession, self).__init__(argv)
        self.database = database
        if database:
            self.lines("USE {0}".format(my_identifier(database)))

    def _marker_statement(self, marker):
        return "SELECT '{0}';".format(marker)

    def rows(self, expressions, rest=""):
        wrapped = ",".join("IFNULL(HEX(CONVERT({0} USING utf8mb4)),'-')".format(one) for one in expressions)
        answer = self.lines("SELECT CONCAT_WS(',',{0}) {1}".format(wrapped, rest))
        return [[_unhex(cell) for cell in line.split(b",")] for line in answer]

    def shown(self, sql):
        """A SHOW statement cannot be wrapped; the client's batch mode escapes tab, newline and backslash, which is undone."""
        return [[_unescape(cell) for cell in line.split(b"\t")] for line in self.lines(sql)]


class MysqlSession(MariadbSession):
    """Oracle's server and those made of it; the client speaks alike."""

    engine = "mysql"

    def __init__(self, database=None, socket=None, run_as=None, user="root", client="mysql", connection=None):
        super(MysqlSession, self).__init__(database, socket, run_as, user, client, connection)


def _unhex(cell):
    if cell == b"-":
        return None
    return binascii.unhexlify(cell).decode("utf-8", "surrogateescape")


def _unescape(cell):
    out = bytearray()
    source = iter(bytearray(cell))
    for value in source:
        if value != 0x5C:
            out.append(value)
            continue
        following = next(source, 0x5C)
        out.append({0x6E: 0x0A, 0x74: 0x09, 0x30: 0x00}.get(following, following))
    return bytes(out).decode("utf-8", "surrogateescape")
