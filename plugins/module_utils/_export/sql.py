# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading a restored copy for the export: what tables there are, and any SELECT as CSV of exact values.

Private to the collection. Valid for Python 3.6, standard library. An engine is a Reader; one that hands over values instead of
text gives C(select_rows) and takes C(select_csv) as it stands.
"""

import binascii
import collections
import os
import subprocess
import tempfile
from typing import Any, Dict, Iterable, Iterator, List, Optional, Sequence, Tuple  # noqa: F401

from ansible_collections.sunset.crm.plugins.module_utils._database import sqlclient as database_sqlclient
from ansible_collections.sunset.crm.plugins.module_utils._database.messages import safe_errors
from ansible_collections.sunset.crm.plugins.module_utils._export import form as export_form
from ansible_collections.sunset.crm.plugins.module_utils._fingerprint import (
    engines as fingerprint_engines,
    my as fingerprint_my,
    pg as fingerprint_pg,
)
from ansible_collections.sunset.crm.plugins.module_utils._proof.scratch import dies_with_us
from ansible_collections.sunset.crm.plugins.module_utils._vault.pipe import BLOCK
from ansible_collections.sunset.crm.plugins.module_utils._vault.state import VaultError

# name: as in the fingerprint. bare: as a profile says it. columns: [Column]. key: names. source: what follows FROM.
Table = collections.namedtuple("Table", "name bare columns key source")
Column = collections.namedtuple("Column", "name type")
# sql: an expression that gives the value's text or NULL. plain: that text needs no quotes in CSV (digits, dates, base64).
Cell = collections.namedtuple("Cell", "sql plain")
NOT_TRANSLATED = None  # type: Optional[str]


class Reader(object):
    """What the export needs of an engine."""

    engine = ""
    # Whether select_csv prints the word NULL for a row that it could not put together.
    tells_null_rows = False

    def close(self):
        # type: () -> None
        """The export is done."""

    def tables(self):
        # type: () -> List[Table]
        """Every table whose rows the fingerprint counts."""
        raise NotImplementedError

    def foreign_keys(self):
        # type: () -> Dict[str, List[Tuple[List[str], str, List[str]]]]
        """Table -> [(columns, other table, other columns)], names as in the fingerprint."""
        return {}

    def odd_dates(self, _table):
        # type: (Table) -> List[str]
        """Columns that hold dates outside the years 1 to 9999."""
        return []

    def quote(self, name):
        # type: (str) -> str
        return '"%s"' % name.replace('"', '""')

    def literal(self, text):
        # type: (str) -> str
        return "'%s'" % text.replace("'", "''")

    def cell(self, sql, type_name):
        # type: (str, str) -> Cell
        """The exact text of a value of that type."""
        return Cell(sql, False)

    def as_text(self, sql):
        # type: (str) -> str
        return "CAST(%s AS text)" % sql

    def listed(self, sql):
        # type: (str) -> str
        """Several values in one, in a fixed order."""
        return "group_concat(%s, '; ')" % sql

    def translated(self, sql, _type_name):
        # type: (str, str) -> Optional[str]
        """The text of a value that holds one translation a language; None where the type holds none."""
        return NOT_TRANSLATED

    def select_rows(self, _cells, _rest):
        # type: (Sequence[Cell], str) -> Iterable[Sequence[Optional[str]]]
        raise NotImplementedError

    def select_csv(self, cells, rest, null):
        # type: (Sequence[Cell], str, str) -> Iterable[bytes]
        """SELECT cells rest, as CSV."""
        return export_form.csv_of_rows(self.select_rows(cells, rest), null)

    def number(self, sql):
        # type: (str) -> int
        """The one number that a SELECT gives."""
        ((found,),) = list(self.select_rows([Cell("(%s)" % sql, True)], ""))
        return int(found or 0)

    def find(self, bare):
        # type: (str) -> Optional[Table]
        for table in self.tables():
            if bare in (table.bare, table.name):
                return table
        return None


class Client(object):
    """One client process for the whole export: a database of hundreds of tables would else start it hundreds of times.

    ending: the statement that prints a word on a line of its own. Each answer ends with a word that nobody could have guessed.
    What the client complains about stays in the scratch: it may quote rows.
    """

    def __init__(self, argv, pins, ending, scratch):
        # type: (List[str], Iterable[str], str, Any) -> None
        self.argv, self.pins, self.ending, self.scratch = argv, "".join("%s;\n" % pin for pin in pins), ending, scratch
        self._child = None  # type: Any
        self._errors = None  # type: Any
        self._busy = False

    def chunks(self, sql):
        # type: (str) -> Iterator[bytes]
        """What the client prints for one statement."""
        if self._busy:
            self.close()  # an answer that nobody read to its end stands in the way
        if self._child is None:
            self._start()
        self._busy = True
        word = "sunset-" + binascii.hexlify(os.urandom(16)).decode("ascii")
        end, held = word.encode("ascii") + b"\n", b"\n"
        self._say("%s;\n%s\n" % (sql, self.ending % word))
        first = True
        while True:
            block = os.read(self._child.stdout.fileno(), BLOCK)
            if not block:
                self._refuse()
            held += block
            if held.endswith(b"\n" + end):
                rest = held[1 if first else 0 : -len(end)]
                self._busy = False
                if rest:
                    yield rest
                return
            if len(held) > len(end) + 1:
                out, held = held[1 if first else 0 : -len(end) - 1], held[-len(end) - 1 :]
                first = False
                if out:
                    yield out

    def _start(self):
        # type: () -> None
        self._errors = tempfile.TemporaryFile(dir=self.scratch.path)
        try:
            self._child = subprocess.Popen(
                self.argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env=database_sqlclient.child_environment(),
                cwd=self.scratch.path,
                preexec_fn=dies_with_us(9),
            )
        except OSError as exc:
            raise VaultError("%s cannot be started on the vault: %s" % (self.argv[0], exc.strerror), verdict="unknown")
        self._say(self.pins)

    def _say(self, text):
        # type: (str) -> None
        try:
            self._child.stdin.write(text.encode("utf-8", "surrogateescape"))
            self._child.stdin.flush()
        except OSError:
            self._refuse()

    def _refuse(self):
        # type: () -> None
        code = self._child.wait()
        self._errors.seek(0)
        said = safe_errors(self._errors.read().decode("utf-8", "replace"))
        self.close()
        raise VaultError("reading the restored copy: %s ended with code %d: %s" % (self.argv[0], code, said), verdict="unknown")

    def close(self):
        # type: () -> None
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            for stream in (self._child.stdin, self._child.stdout, self._errors):
                try:
                    stream.close()
                except OSError:
                    pass
        self._child, self._busy = None, False


class ServerReader(Reader):
    """A server that one client asks: what its tables are was read when it was opened."""

    client = None  # type: Any
    _tables = []  # type: List[Table]
    _foreign = {}  # type: Dict[str, List[Tuple[List[str], str, List[str]]]]

    def close(self):
        # type: () -> None
        self.client.close()

    def tables(self):
        # type: () -> List[Table]
        return self._tables

    def foreign_keys(self):
        # type: () -> Dict[str, List[Tuple[List[str], str, List[str]]]]
        return self._foreign


# --- PostgreSQL ----------------------------------------------------------------------------------------------------

_PG_TABLES = (
    "SELECT json_build_array(quote_ident(n.nspname) || '.' || quote_ident(c.relname), n.nspname, c.relname, "
    "(SELECT json_agg(json_build_array(a.attname, CASE t.typtype WHEN 'd' THEN format_type(t.typbasetype, NULL) ELSE "
    "format_type(a.atttypid, NULL) END) ORDER BY a.attnum) FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid "
    "WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped), "
    "(SELECT json_agg(a.attname ORDER BY array_position(k.conkey, a.attnum)) FROM pg_constraint k JOIN pg_attribute a ON a.attrelid = c.oid "
    "AND a.attnum = ANY (k.conkey) WHERE k.conrelid = c.oid AND k.contype = 'p')) "
    "FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'r' ORDER BY n.nspname, c.relname"
)
_PG_FOREIGN = (
    "SELECT json_build_array({0}, {1}, (SELECT json_agg(a.attname ORDER BY array_position(k.conkey, a.attnum)) FROM pg_attribute a "
    "WHERE a.attrelid = k.conrelid AND a.attnum = ANY (k.conkey)), (SELECT json_agg(a.attname ORDER BY array_position(k.confkey, "
    "a.attnum)) FROM pg_attribute a WHERE a.attrelid = k.confrelid AND a.attnum = ANY (k.confkey))) FROM pg_constraint k "
    "JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_class d ON d.oid = k.confrelid "
    "JOIN pg_namespace m ON m.oid = d.relnamespace WHERE k.contype = 'f' ORDER BY k.conname"
).format(
    "quote_ident(n.nspname) || '.' || quote_ident(c.relname)",
    "quote_ident(m.nspname) || '.' || quote_ident(d.relname)",
)


class PostgresqlReader(ServerReader):
    """server: the throw-away server of the proof."""

    engine = "postgresql"

    def __init__(self, server, database, scratch, names):
        # type: (Any, str, Any, Iterable[str]) -> None
        # As a connection string: a database called "a=b" must not be read as a setting.
        user = server.session_arguments(database)["user"]
        argv = server.psql(database)[:-1] + [database_sqlclient.postgresql_target(database, user=user)]
        self.client = Client(argv, fingerprint_pg.PINS, "\\echo %s", scratch)
        wanted = set(names)
        with fingerprint_engines.open_session(self.engine, **server.session_arguments(database)) as session:
            rows, foreign = session.rows(_PG_TABLES), session.rows(_PG_FOREIGN)
        self._tables = [
            Table(
                name,
                table if schema == "public" else "%s.%s" % (schema, table),
                [Column(*one) for one in columns or []],
                key or [],
                "ONLY %s.%s" % (self.quote(schema), self.quote(table)),
            )
            for name, schema, table, columns, key in rows
            if name in wanted
        ]
        self._foreign = {}  # type: Dict[str, List[Tuple[List[str], str, List[str]]]]
        for name, other, columns, others in foreign:
            self._foreign.setdefault(name, []).append((columns, other, others))

    def cell(self, sql, type_name):
        # type: (str, str) -> Cell
        kind = export_form.kind_of(self.engine, type_name)
        if kind == export_form.BASE64:
            return Cell("replace(encode(%s, 'base64'), chr(10), '')" % sql, True)
        if kind == export_form.DATETIME:
            return Cell("replace(replace(%s::text, ' ', 'T'), '+00', 'Z')" % sql, True)
        if kind == export_form.NUMBER:
            return Cell("replace(%s::text, 'Infinity', 'INF')" % sql, True)
        if kind == export_form.BOOLEAN:
            return Cell("%s::text" % sql, True)
        return Cell(sql, kind != export_form.STRING)

    def listed(self, sql):
        # type: (str) -> str
        return "string_agg({0}, '; ' ORDER BY {0})".format(self.as_text(sql))

    def translated(self, sql, type_name):
        # type: (str, str) -> Optional[str]
        if type_name != "jsonb":
            return None
        other = "(SELECT e.value FROM jsonb_each_text({0}) e ORDER BY e.key LIMIT 1)".format(sql)
        whole = "CASE jsonb_typeof({0}) WHEN 'object' THEN coalesce({0} ->> 'en_US', {1}) ELSE {0}::text END"
        return whole.format(sql, other)

    def odd_dates(self, table):
        # type: (Table) -> List[str]
        dates = [
            one.name for one in table.columns if export_form.kind_of(self.engine, one.type) in (export_form.DATE, export_form.DATETIME)
        ]
        if not dates:
            return []
        tests = ["coalesce(bool_or({0} < '0001-01-01' OR {0} >= '10000-01-01'), false)::text".format(self.quote(one)) for one in dates]
        (answer,) = self.select_rows([Cell(test, True) for test in tests], "FROM " + table.source)
        return [name for number, name in enumerate(dates) if answer[number] == "true"]

    def select_csv(self, cells, rest, null):
        # type: (Sequence[Cell], str, str) -> Iterable[bytes]
        chosen = ", ".join(one.sql for one in cells)
        return self.client.chunks("COPY (SELECT %s %s) TO STDOUT WITH (FORMAT csv, NULL %s)" % (chosen, rest, self.literal(null)))

    def select_rows(self, cells, rest):
        # type: (Sequence[Cell], str) -> Iterable[Sequence[Optional[str]]]
        return export_form.records(self.select_csv(cells, rest, export_form.NULLS[-1]), export_form.NULLS[-1])


# --- MariaDB -------------------------------------------------------------------------------------------------------


class MariadbReader(ServerReader):
    """server: the throw-away server of the proof."""

    engine = "mariadb"
    tells_null_rows = True
    # Before, there is no CAST to FLOAT, and the exact DOUBLE is written.
    CASTS_FLOAT_SINCE = (10, 4, 5)

    def __init__(self, server, database, scratch, names):
        # type: (Any, str, Any, Iterable[str]) -> None
        argv = server.argv(server.session_arguments(database)["user"])
        argv += ["--quick", "--raw", "--unbuffered", "--skip-column-names", "--database=" + database]
        pins = fingerprint_my.PINS + ("SET SESSION group_concat_max_len = 1073741824",)
        self.client = Client(argv, pins, "SELECT '%s';", scratch)
        wanted = set(names)
        here = "= " + database_sqlclient.my_literal(database)
        with fingerprint_engines.open_session(self.engine, **server.session_arguments(database)) as session:
            relations = fingerprint_my.list_tables(session, database)
            columns = fingerprint_my.list_columns(session, database)
            usage = session.rows(
                ["CONSTRAINT_NAME", "TABLE_NAME", "COLUMN_NAME", "REFERENCED_TABLE_NAME", "REFERENCED_COLUMN_NAME"],
                "FROM information_schema.KEY_COLUMN_USAGE WHERE TABLE_SCHEMA %s AND (REFERENCED_TABLE_SCHEMA IS NULL OR "
                "REFERENCED_TABLE_SCHEMA %s) ORDER BY TABLE_NAME, CONSTRAINT_NAME, ORDINAL_POSITION" % (here, here),
            )
            version = _numbers(session.rows(["VERSION()"])[0][0])
        self.casts_float = version >= self.CASTS_FLOAT_SINCE
        versioned = {name for name, kind, _engine in relations if kind == "SYSTEM VERSIONED"}
        keys = {}  # type: Dict[str, List[str]]
        foreign = {}  # type: Dict[Tuple[str, str, str], Tuple[List[str], List[str]]]
        for constraint, name, column, other, other_column in usage:
            if other:
                pair = foreign.setdefault((name, constraint, other), ([], []))
                pair[0].append(column)
                pair[1].append(other_column)
            elif constraint == "PRIMARY" and name not in versioned:
                keys.setdefault(name, []).append(column)
        self._tables = []
        for name, kind, _engine in sorted(relations):
            if name in wanted:
                suffix, implicit = fingerprint_my.history(kind, columns.get(name, []))
                own = [Column(one.name, one.data_type) for one in columns.get(name, []) + implicit]
                self._tables.append(Table(name, name, own, keys.get(name, []), self.quote(name) + suffix))
        self._foreign = {}  # type: Dict[str, List[Tuple[List[str], str, List[str]]]]
        for (name, _constraint, other), (mine, others) in sorted(foreign.items()):
            if name not in versioned and other not in versioned:
                self._foreign.setdefault(name, []).append((mine, other, others))

    def quote(self, name):
        # type: (str) -> str
        return database_sqlclient.my_identifier(name)

    def literal(self, text):
        # type: (str) -> str
        return database_sqlclient.my_literal(text)

    def as_text(self, sql):
        # type: (str) -> str
        return "CONVERT(%s USING utf8mb4)" % sql

    def cell(self, sql, type_name):
        # type: (str, str) -> Cell
        kind = export_form.kind_of(self.engine, type_name)
        word = type_name.split("(")[0].lower()
        if word == "float":
            return Cell(self._float(sql), True)
        if word == "double":
            return Cell("CONCAT(CAST(%s AS DOUBLE))" % sql, True)
        if word == "bit":
            return Cell("CONCAT(%s + 0)" % sql, True)
        if word == "timestamp":
            return Cell("CONCAT(REPLACE(CONCAT(%s), ' ', 'T'), 'Z')" % sql, True)
        if kind == export_form.DATETIME:
            return Cell("REPLACE(CONCAT(%s), ' ', 'T')" % sql, True)
        if kind == export_form.BASE64:
            return Cell("REPLACE(TO_BASE64(%s), %s, '')" % (sql, self.literal("\n")), True)
        if kind in (export_form.INTEGER, export_form.NUMBER, export_form.DATE):
            return Cell("CONCAT(%s)" % sql, True)
        return Cell(self.as_text(sql), False)

    def _float(self, sql):
        # type: (str) -> str
        exact = "CONCAT(CAST(%s AS DOUBLE))" % sql
        if not self.casts_float:
            return exact
        return "IF(CAST(CONCAT({0}) AS FLOAT) = {0}, CONCAT({0}), {1})".format(sql, exact)

    def listed(self, sql):
        # type: (str) -> str
        return "GROUP_CONCAT({0} ORDER BY {0} SEPARATOR '; ')".format(self.as_text(sql))

    def odd_dates(self, table):
        # type: (Table) -> List[str]
        dates = [
            one.name for one in table.columns if export_form.kind_of(self.engine, one.type) in (export_form.DATE, export_form.DATETIME)
        ]
        if not dates:
            return []
        test = "IFNULL(SUM(YEAR({0}) = 0 OR MONTH({0}) = 0 OR DAYOFMONTH({0}) = 0), 0) > 0"
        (answer,) = self.select_rows([Cell(test.format(self.quote(one)), True) for one in dates], "FROM " + table.source)
        return [name for number, name in enumerate(dates) if answer[number] == "1"]

    def select_csv(self, cells, rest, null):
        # type: (Sequence[Cell], str, str) -> Iterable[bytes]
        word = self.literal(null)
        quoted = "CONCAT('\"', REPLACE({0}, '\"', '\"\"'), '\"')"
        chosen = ", ',', ".join("IFNULL(%s, %s)" % (one.sql if one.plain else quoted.format(one.sql), word) for one in cells)
        return self.client.chunks("SELECT CONCAT(%s) %s" % (chosen, rest))

    def select_rows(self, cells, rest):
        # type: (Sequence[Cell], str) -> Iterable[Sequence[Optional[str]]]
        return export_form.records(self.select_csv(cells, rest, export_form.NULLS[-1]), export_form.NULLS[-1])


def _numbers(version):
    # type: (str) -> Tuple[int, ...]
    return tuple(int("".join(c for c in part if c.isdigit()) or 0) for part in version.split("-")[0].split(".")[:3])


class MysqlReader(MariadbReader):
    engine = "mysql"
    CASTS_FLOAT_SINCE = (8, 0, 17)
