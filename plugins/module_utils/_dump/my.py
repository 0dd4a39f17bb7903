# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""MariaDB: what a dump consists of. mariadb-dump prints FLOAT with six digits, so tables that hold one are exported here, from
exact values; triggers and events come last, so that none fires while rows are put back.

Most tables hold numbers, times and UTF-8 text only. Their rows are dumped over a connection without a character set: the bytes are
the same (a test compares them), and mariadb-dump, which otherwise looks at each character, takes half the time."""

import re
import shutil
from typing import List, Set  # noqa: F401

from ansible_collections.sunset.crm.plugins.module_utils._copy import stream as copy_stream
from ansible_collections.sunset.crm.plugins.module_utils._database import sqlclient as database_sqlclient
from ansible_collections.sunset.crm.plugins.module_utils._fingerprint import my as fingerprint_my

END = b"-- Dump completed"
STATEMENT_BYTES = 512 * 1024

_TEXT = ("char", "varchar", "tinytext", "text", "mediumtext", "longtext")
_NUMBERS = ("tinyint", "smallint", "mediumint", "int", "bigint", "decimal")
# In these a byte below 0x80 is never a part of another character, and the connection's utf8mb4 changes nothing.
_PLAIN_CHARSETS = (None, "utf8mb4", "utf8mb3", "utf8", "ascii")
_PLAIN_TYPES = _TEXT + _NUMBERS + ("enum", "set", "json", "date", "time", "datetime", "timestamp", "year")
_PLAIN_NAME = re.compile(r"^[A-Za-z0-9_$][A-Za-z0-9_$ -]*$")
# A list of names on a command line has an end.
_MOST_PLAIN = 2000


# The tools of the container that the open link leads into (see _database.reach); empty means this machine's.
ELSEWHERE = []  # type: List[Set[str]]


def find_tool(names, which=None):
    if which is None:
        which = ELSEWHERE[-1].__contains__ if ELSEWHERE else shutil.which
    for name in names:
        if which(name):
            return name
    raise copy_stream.StreamError(
        "found none of {0} where the server is; the database's own client tools are needed".format(", ".join(names))
    )


def client(which=None, engine="mariadb"):
    # Either vendor's client can ask a server who it is.
    return find_tool(("mariadb", "mysql") if engine == "mariadb" else ("mysql", "mariadb"), which)


def dumper(which=None, engine="mariadb"):
    return find_tool(("mariadb-dump", "mysqldump") if engine == "mariadb" else ("mysqldump",), which)


def features(help_text):
    """What this mariadb-dump can do: options differ between versions and vendors, its own help tells."""
    return {name: "--" + name in help_text for name in ("dump-history", "ignore-table-data", "system", "skip-dump-date")}


def has_inexact(columns):
    """A text dump changes FLOAT values; DOUBLE loses only the sign of a zero, which its literal form cannot carry."""
    return any(column.data_type in ("float", "double") for column in columns)


def is_plain(table, kind, columns):
    """Whether the rows print to the same bytes with and without a character set on the connection."""
    if kind != "BASE TABLE" or not columns:
        return False
    if not all(_PLAIN_NAME.match(name) for name in [table] + [column.name for column in columns]):
        return False
    # --hex-blob goes by the connection's charset: it would print text as hexadecimal too, so tables with bytes are not for this.
    return all(one.charset in _PLAIN_CHARSETS and one.data_type in _PLAIN_TYPES for one in columns)


def plan_plain(relations, columns):
    """Names of the tables for the quick way. relations: [name, kind, engine]; columns: {name: [Column]}."""
    return sorted(name for name, kind, _engine in relations if is_plain(name, kind, columns.get(name, [])))[:_MOST_PLAIN]


def plain_rows(arguments, database, known, tables):
    """The rows of `tables`, printed over a connection without a character set, to be read back as the UTF-8 that they are."""
    extra = ["--default-character-set=binary", "--skip-set-charset", "--single-transaction", "--quick", "--max-allowed-packet=1G"]
    extra += ["--tz-utc", "--no-create-info", "--skip-triggers"] + (["--skip-dump-date"] if known["skip-dump-date"] else [])
    what = "{0} (rows of {1} tables)".format(dumper(), len(tables))
    yield "SET NAMES utf8mb4;\nUSE {0};\n".format(database_sqlclient.my_identifier(database)).encode("utf-8")
    chunks = copy_stream.process_chunks([dumper()] + arguments + extra + ["--", database] + tables, what=what)
    for chunk in copy_stream.ending_with(chunks, END, what):
        yield chunk


def plan_passes(database, known, inexact, versioned, plain=(), common=None):
    """The argument lists of the dumper, in order; the rows of `inexact` and `plain` tables stand before the last.

    common: the options of every pass, where they are not mariadb-dump's.

    Raises ValueError naming what this mariadb-dump cannot keep.
    """
    if versioned and not known.get("dump-history"):
        raise ValueError(
            "tables {0} keep their history, and this mariadb-dump has no --dump-history, so the old versions "
            "would be lost; use the client tools of MariaDB 10.11 or later".format(", ".join(sorted(versioned)))
        )
    if common is None:
        common = ["--single-transaction", "--quick", "--hex-blob", "--max-allowed-packet=1G", "--tz-utc"]
        if known["dump-history"] and versioned:
            common.append("--dump-history")
        if known["skip-dump-date"]:
            common.append("--skip-dump-date")
    last = ["--databases", database]
    apart = sorted(inexact) + sorted(plain)
    if not apart:
        return [common + ["--routines", "--events", "--triggers"] + last]
    structure = common + ["--routines", "--skip-events", "--skip-triggers"]
    ending = common + ["--no-create-db", "--no-create-info", "--no-data", "--skip-routines", "--events", "--triggers"] + last
    names = ["{0}.{1}".format(database, table) for table in apart]
    if known["ignore-table-data"]:
        return [structure + ["--ignore-table-data=" + name for name in names] + last, ending]
    rows = common + ["--no-create-db", "--no-create-info", "--skip-routines", "--skip-events", "--skip-triggers"]
    return [structure + ["--no-data"] + last, rows + ["--ignore-table=" + name for name in names] + last, ending]


def literal(column):
    """The SQL expression that prints one value as a literal of exactly that value; strings in their own bytes and charset."""
    name, kind = database_sqlclient.my_identifier(column.name), column.data_type
    if kind in ("float", "double"):
        # "0.5" would be a decimal and "-0" the integer zero; with an exponent it is read as the double it is.
        text = "CONCAT(CAST({0} AS DOUBLE))".format(name)
        text = "CONCAT({0}, IF(LOCATE('e', {0}) > 0, '', 'e0'))".format(text)
    elif kind in _NUMBERS:
        text = "CONCAT({0})".format(name)
    elif kind in ("bit", "enum", "set"):
        text = "CONCAT({0} + 0)".format(name)
    elif kind in fingerprint_my.BYTES + fingerprint_my.LONG_BYTES:
        text = "CONCAT('X''', HEX({0}), '''')".format(name)
    elif kind == "json":  # MariaDB's is a text; MySQL's is a type of its own, and is read back from what it prints
        text = "CONCAT('_utf8mb4 X''', HEX(CONVERT({0} USING utf8mb4)), '''')".format(name)
    elif kind in _TEXT:
        text = "CONCAT('_{1} X''', HEX({0}), '''')".format(name, column.charset)
    else:
        text = "CONCAT('''', {0}, '''')".format(name)
    # Not IFNULL: a text that is longer than max_allowed_packet comes back NULL too, and must end the export, not become a NULL.
    return "IF({0} IS NULL, 'NULL', {1})".format(name, text)


def stored(columns):
    """The columns an INSERT may name: not the computed ones, but the period of a versioned table."""
    return [one for one in columns if not one.generation or one.generation.startswith(("ROW START", "ROW END"))]


def rows_statement(table, kind, columns):
    """(columns, SELECT) for the own export; each line of its output is one parenthesised row."""
    suffix, implicit = fingerprint_my.history(kind, columns)
    named = stored(columns) + implicit
    values = ", ',', ".join(literal(one) for one in named)
    return named, "SELECT CONCAT('(', {0}, ')') FROM {1}{2}".format(values, database_sqlclient.my_identifier(table), suffix)


def insert_chunks(chunks, table, columns):
    """Lines of rows -> INSERT statements of bounded size. A line that is no row (a value too long came back NULL) is an error."""
    head = "INSERT INTO {0} ({1}) VALUES\n".format(
        database_sqlclient.my_identifier(table), ", ".join(database_sqlclient.my_identifier(one.name) for one in columns)
    ).encode("utf-8")
    rest, pending, size = b"", [], 0
    for chunk in chunks:
        lines = (rest + chunk).split(b"\n")
        rest = lines.pop()
        for line in lines:
            if not line.startswith(b"("):
                raise copy_stream.StreamError("table {0}: a row is too large for the server's max_allowed_packet; raise it".format(table))
            pending.append(line)
            size += len(line)
            if size >= STATEMENT_BYTES:
                yield head + b",\n".join(pending) + b";\n"
                pending, size = [], 0
    if rest:
        raise copy_stream.StreamError("table {0}: the export ended in the middle of a row".format(table))
    if pending:
        yield head + b",\n".join(pending) + b";\n"


OWN_HEAD = """
-- Rows of tables with floating point columns, as exact values
SET @sunset_names = @@character_set_client, @sunset_zone = @@time_zone, @sunset_mode = @@sql_mode;
SET @sunset_keys = @@foreign_key_checks, @sunset_unique = @@unique_checks, @sunset_checks = @@check_constraint_checks;
SET NAMES utf8mb4;
SET time_zone = '+00:00', sql_mode = 'NO_AUTO_VALUE_ON_ZERO';
SET foreign_key_checks = 0, unique_checks = 0, check_constraint_checks = 0;
"""
OWN_TAIL = """
SET time_zone = @sunset_zone, sql_mode = @sunset_mode;
SET foreign_key_checks = @sunset_keys, unique_checks = @sunset_unique, check_constraint_checks = @sunset_checks;
SET NAMES utf8mb4;
"""


def own_rows(arguments, database, tables, engine="mariadb", head=OWN_HEAD, tail=OWN_TAIL):
    """The part of the dump that is exported here. tables: [(name, kind, columns)]."""
    yield (head + "USE {0};\n".format(database_sqlclient.my_identifier(database))).encode("utf-8")
    for table, kind, columns in tables:
        named, select = rows_statement(table, kind, columns)
        history = kind == "SYSTEM VERSIONED"
        if history:
            yield b"SET system_versioning_insert_history = 1;\n"
        sql = "SET sql_mode = '', time_zone = '+00:00';\nSTART TRANSACTION WITH CONSISTENT SNAPSHOT;\n{0};\n".format(select)
        argv = (
            [client(engine=engine)]
            + arguments
            + ["--quick", "--batch", "--raw", "--skip-column-names", "--max-allowed-packet=1G", database]
        )
        for chunk in insert_chunks(copy_stream.process_chunks(argv, stdin=sql.encode("utf-8")), table, named):
            yield chunk
        if history:
            yield b"SET system_versioning_insert_history = 0;\n"
    yield tail.encode("utf-8")


def dump_chunks(arguments, database, passes, tables, plain=(), known=None, engine="mariadb", **frame):
    """The whole dump: the passes of the dumper, each seen to its end; before the last, whose triggers must find the rows there,
    the rows that are dumped apart. frame: head and tail of the own export, where they are not MariaDB's."""
    rows_after = len(passes) - 2
    tool = dumper(engine=engine)
    for number, extra in enumerate(passes):
        what = "{0} (part {1} of {2})".format(tool, number + 1, len(passes))
        chunks = copy_stream.process_chunks([tool] + arguments + extra, what=what)
        for chunk in copy_stream.ending_with(chunks, END, what):
            yield chunk
        if plain and number == rows_after:
            for chunk in plain_rows(arguments, database, known, list(plain)):
                yield chunk
        if tables and number == rows_after:
            for chunk in own_rows(arguments, database, tables, engine, **frame):
                yield chunk


_ROLE_TO_PUBLIC = re.compile(r"^GRANT `(?:[^`]|``)*` TO PUBLIC")
_TO_PUBLIC = re.compile(r"^GRANT .* ON .* TO PUBLIC( WITH GRANT OPTION)?$", re.DOTALL)


def public_statements(shown, roles):
    """What everybody may (MariaDB 10.11), which mariadb-dump leaves out. Pure.

    shown: SHOW GRANTS FOR PUBLIC, which tells what its roles may as well. roles: their names; who puts the accounts back may grant none of them.
    """
    granted = [one + ";" for one in shown if _TO_PUBLIC.match(one) and not _ROLE_TO_PUBLIC.match(one)]
    mapped = [
        "INSERT IGNORE INTO mysql.roles_mapping (Host, User, Role, Admin_option) VALUES ('', 'PUBLIC', {0}, 'N');".format(
            database_sqlclient.my_literal(role)
        )
        for role in roles
    ]
    head = ["GRANT USAGE ON *.* TO PUBLIC;"] if granted or mapped else []
    return head + granted + mapped + (["FLUSH PRIVILEGES;"] if mapped else [])


def public_chunks(session):
    """The same of a server, to stand after its accounts."""
    there = session.rows(["COUNT(*)"], "FROM information_schema.TABLES WHERE TABLE_SCHEMA = 'mysql' AND TABLE_NAME = 'global_priv'")[0][0]
    rest = "FROM mysql.global_priv WHERE User = '{0}' AND Host = '{1}'".format(*fingerprint_my.PUBLIC)
    if there == "0" or session.rows(["COUNT(*)"], rest)[0][0] == "0":
        return
    shown = [row[0] for row in session.shown("SHOW GRANTS FOR PUBLIC")]
    roles = [row[0] for row in session.rows(["Role"], "FROM mysql.roles_mapping WHERE User = 'PUBLIC' AND Host = ''")]
    for line in public_statements(shown, roles):
        yield (line + "\n").encode("utf-8", "surrogateescape")
