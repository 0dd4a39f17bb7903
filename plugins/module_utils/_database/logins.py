# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The table that holds an application's logins: count its rows, empty it.

Private to the collection; it may change at any time. Valid for Python 3.6.
"""

from typing import Any, List, Optional

from ansible_collections.sunset.crm.plugins.module_utils._database import sqlclient as database_sqlclient


class TableAbsent(Exception):
    """The database has no such table."""


def table_parts(table: str) -> List[str]:
    """['public', 'django_session'] of 'public.django_session'; the schema may be left out."""
    return table.split(".", 1)


def quoted(engine: str, table: str) -> str:
    quote = database_sqlclient.pg_identifier if engine == "postgresql" else database_sqlclient.my_identifier
    return ".".join(quote(part) for part in table_parts(table))


def table_problem(table: str) -> Optional[str]:
    if not table or "\0" in table or "\n" in table or not all(table_parts(table)):
        return "table: found %r, expected a name such as django_session or public.django_session" % table
    return None


class SessionTable(object):
    """One open client of the server; use it as a context."""

    def __init__(self, engine: str, database: str, table: str, port: Optional[int], socket: Optional[str]) -> None:
        self.engine = engine
        self.table = table
        self.name = quoted(engine, table)
        if engine == "postgresql":
            self.client: Any = database_sqlclient.PostgresqlSession(database, port=port, socket=socket)
        else:
            self.client = (database_sqlclient.MysqlSession if engine == "mysql" else database_sqlclient.MariadbSession)(
                database, socket=socket
            )
            if port:
                found = self._value("@@port")
                if int(found) != port:
                    # The socket chooses the server, so a wrong port would end the sessions of another one unseen.
                    raise database_sqlclient.SqlError(
                        "the server behind the socket listens on port %s, expected %d; give its `socket`" % (found, port)
                    )

    def __enter__(self) -> "SessionTable":
        return self

    def __exit__(self, *_exception: Any) -> None:
        self.client.close()

    def _value(self, expression: str, rest: str = "") -> Any:
        if self.engine == "postgresql":
            return self.client.rows("SELECT json_build_array(%s) %s" % (expression, rest))[0][0]
        return self.client.rows([expression], rest)[0][0]

    def version(self) -> str:
        return str(self._value("current_setting('server_version')" if self.engine == "postgresql" else "VERSION()"))

    def count(self) -> int:
        if not self._exists():
            raise TableAbsent(self.table)
        return int(self._value("count(*)", "FROM " + self.name))

    def _exists(self) -> bool:
        if self.engine == "postgresql":
            return bool(self._value("to_regclass(%s) IS NOT NULL" % database_sqlclient.pg_literal(self.name)))
        parts = table_parts(self.table)
        schema = database_sqlclient.my_literal(parts[0]) if len(parts) == 2 else "DATABASE()"
        where = "FROM information_schema.tables WHERE table_schema=%s AND table_name=%s" % (
            schema,
            database_sqlclient.my_literal(parts[-1]),
        )
        return int(self._value("count(*)", where)) == 1

    def statement(self) -> str:
        return "DELETE FROM " + self.name

    def empty(self) -> None:
        self.client.lines(self.statement())
