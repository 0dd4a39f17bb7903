# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""SQLite for the export. A column holds what each row put there, whatever it was declared as, so the rows are asked for their kinds.

Private to the collection. Valid for Python 3.6, standard library.
"""

import base64
from typing import Any, Iterable, List, Optional, Sequence  # noqa: F401

from ansible_collections.sunset.crm.plugins.module_utils._database import sqlclient as database_sqlclient
from ansible_collections.sunset.crm.plugins.module_utils._export.sql import Cell, Column, Reader, Table  # noqa: F401
from ansible_collections.sunset.crm.plugins.module_utils._fingerprint import lite as fingerprint_lite
from ansible_collections.sunset.crm.plugins.module_utils._vault.state import VaultError

# Storage classes of all values of a column -> the type that the export gives it; anything else is text.
KINDS = {("integer",): "integer", ("real",): "real", ("integer", "real"): "real", ("blob",): "blob"}


class LiteReader(Reader):
    """server: the restored file of the proof."""

    engine = "sqlite"

    def __init__(self, server, database, _scratch, names):
        # type: (Any, str, Any, Iterable[str]) -> None
        self.session = fingerprint_lite.LiteSession(server.session_arguments(database)["database"])
        self._tables = [self._table(name) for name in sorted(names)]

    def _table(self, name):
        # type: (str) -> Table
        found = fingerprint_lite.columns(self.session, name)
        columns, source = [column for column, _declared, _place in found], self.quote(name)
        seen = [set() for _column in columns]  # type: List[Any]
        if columns:
            kinds = ", ".join("typeof(%s)" % self.quote(column) for column in columns)
            for row in self.session.rows("SELECT DISTINCT %s FROM %s" % (kinds, source)):
                for place, kind in enumerate(row):
                    seen[place].add(kind)
        types = [KINDS.get(tuple(sorted(one - {"null"})), "text") for one in seen]
        key = [column for _place, column in sorted((place, column) for column, _declared, place in found if place)]
        return Table(name, name, [Column(column, types[place]) for place, column in enumerate(columns)], key, source)

    def close(self):
        # type: () -> None
        self.session.close()

    def tables(self):
        # type: () -> List[Table]
        return self._tables

    def select_rows(self, cells, rest):
        # type: (Sequence[Cell], str) -> Iterable[Sequence[Optional[str]]]
        try:
            for row in self.session.each("SELECT %s %s" % (", ".join(cell.sql for cell in cells), rest)):
                yield [text(value) for value in row]
        except database_sqlclient.SqlError as exc:
            raise VaultError("reading the restored copy: %s" % exc, verdict="unknown")


def text(value):
    # type: (Any) -> Optional[str]
    """The text of a value. Text that is not UTF-8 shows those bytes as \\xNN."""
    if value is None:
        return None
    if isinstance(value, fingerprint_lite.Text):
        return bytes(value).decode("utf-8", "backslashreplace")
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, float):
        return repr(value).replace("inf", "INF")
    return str(value)
