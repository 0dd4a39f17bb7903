# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A second hash of a table that may differ: over everything but the rows and columns that a product changes by itself.

Private to the collection. Valid for Python 3.6, standard library. A rule is {table, where: {column: [texts]}, columns: [names]}: in rows that
`where` names (in all, if it names none) the `columns` may differ (the whole row, if there are none). Both sides are hashed by the rule
that the source's fingerprint holds; where it cannot be followed there is no second hash, and nothing of the table is allowed.
"""

from typing import Any, Dict, List, Optional, Tuple  # noqa: F401

from ansible_collections.sunset.crm.plugins.module_utils._database.sqlclient import my_identifier, my_literal, pg_identifier, pg_literal
from ansible_collections.sunset.crm.plugins.module_utils._fingerprint import (
    lite as fingerprint_lite,
    my as fingerprint_my,
    pg as fingerprint_pg,
)

Rule = Dict[str, Any]


def rules(allowed):
    # type: (Any) -> List[Rule]
    """Those of the allowed differences that name less than a whole table."""
    return [one for one in allowed or [] if isinstance(one, dict)]


def problem(allowed):
    # type: (Any) -> Optional[str]
    """Why a list of allowed differences cannot be meant; None if it can. Pure."""
    if not isinstance(allowed, list):
        return "it is no list"
    for one in allowed:
        if _text(one):
            continue
        if not isinstance(one, dict) or set(one) - {"table", "where", "columns"} or not _text(one.get("table")):
            return "%r is neither the name of a table nor {table, where, columns}" % (one,)
        where, columns = one.get("where", {}), one.get("columns", [])
        if not isinstance(where, dict) or not all(_text(key) and _texts(values) and values for key, values in where.items()):
            return "where of %s is no mapping of columns to lists of texts" % one["table"]
        if not _texts(columns) or not (where or columns):
            return "%s names neither rows (where) nor columns; the table's name alone stands for all of it" % one["table"]
    return None


def _text(value):
    # type: (Any) -> bool
    return isinstance(value, type("")) and bool(value)


def _texts(values):
    # type: (Any) -> bool
    return isinstance(values, list) and all(isinstance(one, type("")) for one in values)


def words(rule):
    # type: (Rule) -> str
    """The rule for people."""
    rows = " and ".join("%s is %s" % (name, " or ".join(values)) for name, values in sorted(rule.get("where", {}).items()))
    columns = ", ".join(rule.get("columns", []))
    return "%s (%s%s)" % (rule["table"], columns or "rows", " where %s" % rows if rows else "")


def named(table, tables):
    # type: (str, Any) -> Optional[str]
    """The fingerprint's name of a table that a profile names."""
    return next((name for name in (table, "public." + table) if name in tables), None)


def take(engine, session, database, method, tables, wanted):
    # type: (str, Any, str, str, Dict[str, Any], List[Rule]) -> Dict[str, Dict[str, Any]]
    """{table: {rule, hash}}; in the session's own snapshot where it has one, else the fingerprints before and after must be equal."""
    way = {"postgresql": _postgresql, "mariadb": _my, "mysql": _my, "sqlite": _lite}.get(engine)
    found = {}  # type: Dict[str, Dict[str, Any]]
    for rule in wanted:
        name = named(rule["table"], tables)
        if name is None or way is None:
            continue
        told = way(session, database, method, name, rule)
        if told is not None:
            found[name] = {"rule": rule, "hash": told}
    return found


def _left(rule, columns):
    # type: (Rule, List[str]) -> Optional[List[str]]
    """The columns that must be equal in a row that may differ; None where the rule names a column that is not there."""
    if not set(rule.get("columns", [])) | set(rule.get("where", {})) <= set(columns):
        return None
    return [name for name in columns if name not in rule["columns"]] if rule.get("columns") else []


def _match(rule, test, true):
    # type: (Rule, Any, str) -> str
    return " AND ".join(test(name, values) for name, values in sorted(rule.get("where", {}).items())) or true


def _postgresql(session, _database, method, name, rule):
    # type: (Any, str, str, str, Rule) -> Optional[str]
    listed = session.rows(
        "SELECT json_build_array(a.attname) FROM pg_attribute a WHERE a.attrelid = {0}::regclass AND a.attnum > 0 AND NOT a.attisdropped "
        "ORDER BY a.attnum".format(pg_literal(name))
    )
    left = _left(rule, [row[0] for row in listed])
    if left is None:
        return None

    def test(column, values):
        # type: (str, List[str]) -> str
        return "{0}::text IN ({1})".format(pg_identifier(column), ", ".join(pg_literal(one) for one in values))

    kept = "ROW({0})::text".format(", ".join(pg_identifier(one) for one in left)) if left else "NULL"
    alias = fingerprint_pg.ROW
    value = "(CASE WHEN {0} THEN {1} ELSE {2}::text END)".format(_match(rule, test, "true"), kept, alias)
    hashed = fingerprint_pg.METHODS[method.split(" ")[0]].format(value)
    return str(session.rows("SELECT json_build_array({0}) FROM ONLY {1} AS {2}".format(hashed, name, alias))[0][0])


def _my(session, database, _method, name, rule):
    # type: (Any, str, str, str, Rule) -> Optional[str]
    kinds = {table: kind for table, kind, _engine in fingerprint_my.list_tables(session, database)}
    columns = fingerprint_my.list_columns(session, database).get(name, [])
    left = _left(rule, [one.name for one in columns])
    if left is None or kinds.get(name) != "BASE TABLE":
        return None

    def test(column, values):
        # type: (str, List[str]) -> str
        text = "CAST(CONVERT({0} USING utf8mb4) AS BINARY)".format(my_identifier(column))
        return "{0} IN ({1})".format(text, ", ".join("CAST({0} AS BINARY)".format(my_literal(one)) for one in values))

    def hashed(some):
        # type: (Any) -> str
        return "IFNULL({0},{1})".format(fingerprint_my.row_hash(some), fingerprint_my.UNHASHED)

    kept = hashed([one for one in columns if one.name in left]) if left else "0"
    value = "SUM(IF({0},{1},{2}))".format(_match(rule, test, "TRUE"), kept, hashed(columns))
    return str(session.rows(["IFNULL({0},0)".format(value)], "FROM {0}".format(my_identifier(name)))[0][0])


def _lite(session, _database, _method, name, rule):
    # type: (Any, str, str, str, Rule) -> Optional[str]
    columns = [column for column, _type, _key in fingerprint_lite.columns(session, name)]
    left = _left(rule, columns)
    if left is None:
        return None
    quote = fingerprint_lite.identifier

    def test(column, values):
        # type: (str, List[str]) -> str
        return "CAST({0} AS TEXT) IN ({1})".format(quote(column), ", ".join("'%s'" % one.replace("'", "''") for one in values))

    match = "({0})".format(_match(rule, test, "1"))
    parts = [fingerprint_lite.contents(session.each("{0} WHERE {1} IS NOT 1".format(fingerprint_lite.select(session, name), match)))]
    if left:
        chosen = ", ".join(quote(one) for one in left)
        parts.append(fingerprint_lite.contents(session.each("SELECT {0} FROM {1} WHERE {2}".format(chosen, quote(name), match))))
    return "/".join(one["hash"] for one in parts)
