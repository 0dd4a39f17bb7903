# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The application's own records (accounts, contacts, ...) as one SELECT each, from what the product's profile says.

Private to the collection. Valid for Python 3.6, standard library. A profile holds no SQL: a base table, joined tables, lists,
conditions. Versions differ, so a joined table or a column that is not there is left out and named; a base table that is not
there makes the entity absent. A join that would multiply records is refused.

    {table: contacts, where: {column: [values]}, deleted: {column: deleted, values: ["1"]},
     join: {owner: {table: users, match: {id: assigned_user_id}, columns: [user_name]}},
     lists: {emails: {table: email_addr_bean_rel, match: {bean_id: id}, where: {deleted: ["0"]}, value: address.email_address,
                      join: {address: {table: email_addresses, match: {id: email_address_id}}}}}}
"""

from typing import Any, Dict, List, Optional, Tuple  # noqa: F401

from ansible_collections.sunset.crm.plugins.module_utils._export import form as export_form
from ansible_collections.sunset.crm.plugins.module_utils._export.sql import Cell, Reader, Table  # noqa: F401
from ansible_collections.sunset.crm.plugins.module_utils._vault.state import VaultError

BASE = "base"
DELETED = "soft_deleted"


class Absent(Exception):
    """What a profile names is not in this database."""


class Entity(object):
    """One entity against one database. fields: of the Table Schema. cells and rest: the SELECT. left_out: names."""

    def __init__(self, reader, name, spec):
        # type: (Reader, str, Dict[str, Any]) -> None
        self.reader, self.name, self.spec = reader, name, spec
        self.left_out = []  # type: List[str]
        base = reader.find(spec["table"])
        if base is None:
            raise Absent(spec["table"])
        self.base = base
        self.aliases = {BASE: base}  # type: Dict[str, Table]
        self.fields = []  # type: List[Dict[str, Any]]
        self.cells = []  # type: List[Cell]
        self._odd = {}  # type: Dict[str, List[str]]
        joins = self._joins(spec.get("join", {}), self.aliases)
        conditions = self._conditions(spec.get("where", {}), self.aliases)
        self.rest = "FROM %s AS %s%s%s" % (base.source, reader.quote(BASE), joins, conditions)
        self._base_rest = "FROM %s AS %s" % (base.source, reader.quote(BASE))
        self._conditioned = bool(conditions)
        for column in base.columns:
            self._add(BASE, column.name)
        for alias in [one for one in self.aliases if one != BASE]:
            self._join_columns(alias, spec["join"][alias])
        for title, one in sorted(spec.get("lists", {}).items()):
            self._list(title, one)
        self._deleted(spec.get("deleted"))

    # --- parts of the statement ---

    def _type(self, alias, column, aliases=None):
        # type: (str, str, Optional[Dict[str, Table]]) -> str
        table = (aliases or self.aliases).get(alias)
        for one in table.columns if table else []:
            if one.name == column:
                return str(one.type)
        raise Absent("%s.%s" % (alias, column))

    def _sql(self, said, aliases, home=BASE):
        # type: (str, Dict[str, Table], str) -> str
        """ "column" or "alias.column" as SQL."""
        alias, _, column = said.rpartition(".")
        alias = alias or home
        self._type(alias, column, aliases)
        return "%s.%s" % (self.reader.quote(alias), self.reader.quote(column))

    def _joins(self, joins, aliases, home=BASE):
        # type: (Dict[str, Any], Dict[str, Table], str) -> str
        found, waiting = "", dict(joins)
        while waiting:
            ready = [one for one in sorted(waiting) if not (_aliases_of(waiting[one]) & (set(waiting) - {one}))]
            alias = ready[0] if ready else sorted(waiting)[0]
            one = waiting.pop(alias)
            table = self.reader.find(one["table"])
            try:
                if table is None:
                    raise Absent(one["table"])
                within = dict(aliases)
                within[alias] = table
                pairs = [
                    "%s = %s" % (self._sql("%s.%s" % (alias, mine), within), self._sql(theirs, within, home))
                    for mine, theirs in sorted(one["match"].items())
                ]
                pairs += self._tests(one.get("where", {}), within, alias)
            except Absent as exc:
                self.left_out.append("%s (%s is not there)" % (alias, exc))
                continue
            aliases[alias] = table
            found += " LEFT JOIN %s AS %s ON %s" % (table.source, self.reader.quote(alias), " AND ".join(pairs))
        return found

    def _tests(self, where, aliases, home):
        # type: (Dict[str, List[str]], Dict[str, Table], str) -> List[str]
        found = []
        for said, values in sorted(where.items()):
            text = self.reader.as_text(self._sql(said, aliases, home))
            found.append("%s IN (%s)" % (text, ", ".join(self.reader.literal(value) for value in values)))
        return found

    def _conditions(self, where, aliases):
        # type: (Dict[str, List[str]], Dict[str, Table]) -> str
        try:
            tests = self._tests(where, aliases, BASE)
        except Absent as exc:
            # Without the condition the entity would be another one.
            raise Absent("%s, which tells its records apart" % exc)
        return " WHERE " + " AND ".join(tests) if tests else ""

    # --- columns ---

    def _name(self, wanted):
        # type: (str) -> str
        names = {one["name"] for one in self.fields}
        while wanted in names:
            wanted = "_" + wanted
        return wanted

    def _add(self, alias, column, translated=False):
        # type: (str, str, bool) -> None
        type_name = self._type(alias, column)
        sql = self._sql("%s.%s" % (alias, column), self.aliases)
        name = self._name(column if alias == BASE else "%s.%s" % (alias, column))
        flat = self.reader.translated(sql, type_name) if translated else None
        if flat is not None:
            self.cells.append(Cell(flat, False))
            self.fields.append(export_form.field(name, export_form.STRING, type_name + ", one of its languages"))
            return
        table = self.aliases[alias]
        if table.name not in self._odd:
            self._odd[table.name] = self.reader.odd_dates(table)
        self.cells.append(self.reader.cell(sql, type_name))
        kind = export_form.kind_of(self.reader.engine, type_name)
        self.fields.append(export_form.field(name, kind, type_name, column in self._odd[table.name]))

    def _join_columns(self, alias, one):
        # type: (str, Dict[str, Any]) -> None
        columns = one.get("columns", [])
        if columns == "all":
            columns = [column.name for column in self.aliases[alias].columns if column.name not in one["match"]]
        for column in columns:
            try:
                self._add(alias, column, column in one.get("translated", []))
            except Absent as exc:
                self.left_out.append("%s is not there" % exc)

    def _list(self, title, one):
        # type: (str, Dict[str, Any]) -> None
        """Several records of another table in one cell, as a subquery."""
        reader, table, home = self.reader, self.reader.find(one["table"]), "_list"
        try:
            if table is None:
                raise Absent(one["table"])
            aliases = dict(self.aliases)
            aliases[home] = table
            joins = self._joins(one.get("join", {}), aliases, home)
            tests = [
                "%s = %s" % (self._sql("%s.%s" % (home, mine), aliases), self._sql(theirs, aliases))
                for mine, theirs in sorted(one["match"].items())
            ]
            tests += self._tests(one.get("where", {}), aliases, home)
            value = self._sql(one["value"], aliases, home)
            label = self._sql(one["label"], aliases, home) if one.get("label") else None
        except Absent as exc:
            self.left_out.append("%s (%s is not there)" % (title, exc))
            return
        if label:
            value = self._labelled(label, value)
        inner = "(SELECT %s FROM %s AS %s%s WHERE %s)" % (
            reader.listed(value),
            table.source,
            reader.quote(home),
            joins,
            " AND ".join(tests),
        )
        self.cells.append(Cell(inner, False))
        self.fields.append(export_form.field(self._name(title), export_form.STRING, "list, separated by semicolons"))

    def _labelled(self, label, value):
        # type: (str, str) -> str
        text = self.reader.as_text
        if self.reader.engine in ("mariadb", "mysql"):
            return "CONCAT(%s, '=', %s)" % (text(label), text(value))
        return "(%s || '=' || %s)" % (text(label), text(value))

    def _deleted(self, one):
        # type: (Optional[Dict[str, Any]]) -> None
        if not one:
            return
        try:
            (test,) = self._tests({one["column"]: one["values"]}, self.aliases, BASE)
        except Absent as exc:
            self.left_out.append("%s (%s is not there)" % (DELETED, exc))
            return
        self.cells.append(Cell("CASE WHEN %s THEN 'true' ELSE 'false' END" % test, True))
        self.fields.append(export_form.field(self._name(DELETED), export_form.BOOLEAN, ""))

    # --- how many ---

    def expected(self):
        # type: () -> int
        """Records that must come out: those of the base table. Raises VaultError where the joins would multiply them."""
        reader = self.reader
        all_rows, joined = reader.number("SELECT COUNT(*) %s" % self._base_rest), reader.number("SELECT COUNT(*) %s" % self.rest)
        if not self._conditioned and all_rows == joined:
            return joined
        if len(self.base.key) == 1:
            key = "%s.%s" % (reader.quote(BASE), reader.quote(self.base.key[0]))
            distinct = reader.number("SELECT COUNT(DISTINCT %s) %s" % (key, self.rest))
        else:
            distinct = joined if joined <= all_rows else all_rows
        if distinct != joined:
            raise VaultError(
                "the profile's entity %s joins tables so that %d records become %d; a joined table must hold at most one row a "
                "record; mend the profile (join, match) or take the others in as lists" % (self.name, distinct, joined),
                verdict="unknown",
            )
        return joined


def _aliases_of(join):
    # type: (Dict[str, Any]) -> Any
    return {said.rpartition(".")[0] for said in join["match"].values()} - {""}
