# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""MariaDB's half of the fingerprint. A row is hashed from exact values: FLOAT is read as DOUBLE, because its own text form has
six digits, and two different numbers would look the same (so do text dumps, which is how they lose them)."""

import collections
import json
from typing import Any, Dict, List  # noqa: F401

from ansible_collections.sunset.crm.plugins.module_utils._canonical import digest
from ansible_collections.sunset.crm.plugins.module_utils._database.sqlclient import my_identifier, my_literal

# Session SQL mode is emptied so that quotes and || mean the same on every server. The snapshot keeps one picture for all tables
# of a transactional engine; a table of another engine is only quiet because its writers are.
PINS = (
    "SET SESSION sql_mode = ''",
    "SET SESSION time_zone = '+00:00'",
    "SET NAMES utf8mb4",
    "SET SESSION group_concat_max_len = 1048576",
    "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ",
)
METHOD = "sha256/64"
# What an account without rights on the server's own tables can take: it sees no accounts but itself, and no grants but its own.
WITHOUT_ACCOUNTS = METHOD + " without accounts"

# Engines whose rows are kept by another server or in files outside the database; mariadb-dump writes no rows of them.
ELSEWHERE = ("CONNECT", "FEDERATED", "OQGRAPH", "SPHINX", "SPIDER", "S3")

# generation: the expression of a computed column, upper case; "" for an ordinary one.
Column = collections.namedtuple("Column", "name data_type generation charset")

_TEXT = ("char", "varchar", "enum", "set")
_LONG_TEXT = ("tinytext", "text", "mediumtext", "longtext", "json")
BYTES = ("binary", "varbinary")
LONG_BYTES = (
    "tinyblob",
    "blob",
    "mediumblob",
    "longblob",
    "geometry",
    "point",
    "linestring",
    "polygon",
    "multipoint",
    "multilinestring",
    "multipolygon",
    "geometrycollection",
    "geomcollection",
    "vector",
)


def exact_value(name, data_type):
    """The expression whose printed bytes are equal exactly if two values of this column are equal."""
    column = my_identifier(name)
    if data_type in ("float", "double"):
        return "CAST({0} AS DOUBLE)".format(column)
    if data_type in _LONG_TEXT or data_type in LONG_BYTES:
        # Hashed on its own: a CONCAT longer than max_allowed_packet would be NULL, and a NULL drops out of the sum.
        return "SHA2({0}, 256)".format(column)
    if data_type in ("enum", "set"):
        return "{0} + 0".format(column)
    if data_type in _TEXT or data_type in BYTES:
        return "CAST({0} AS BINARY)".format(column)
    if data_type == "bit":
        return "HEX({0})".format(column)
    return column


def exact_length(name, data_type):
    """LENGTH(exact_value) without forming the value a second time."""
    column = my_identifier(name)
    if data_type in _LONG_TEXT or data_type in LONG_BYTES:
        return "IF({0} IS NULL,'N',64)".format(column)
    if data_type in BYTES or data_type in ("char", "varchar"):
        return "IFNULL(LENGTH({0}),'N')".format(column)
    return "IFNULL(LENGTH({0}),'N')".format(exact_value(name, data_type))


def row_hash(columns):
    """64 bits of sha256 over all values, each with its length or N for NULL before it: nothing can shift between columns."""
    marks, values = [], []
    for column in columns:
        value = exact_value(column.name, column.data_type)
        marks.append(exact_length(column.name, column.data_type))
        values.append("IFNULL({0},'')".format(value))
    joined = "CONCAT_WS(',',{0})".format(",".join(marks + values))
    return "CAST(CONV(LEFT(SHA2({0},256),16),16,10) AS DECIMAL(20,0))".format(joined)


# A row whose hash could not be formed stands in the sum as this. It is larger than any sum of hashes, so both come out of one sum, and
# the hash, which is nearly all the work, is formed once a row.
UNHASHED = 10**40


def contents_expressions(columns):
    """Rows, and the sum of the row hashes with UNHASHED for each row whose hash could not be formed."""
    return ["COUNT(*)", "IFNULL(SUM(IFNULL({0},{1})),0)".format(row_hash(columns), UNHASHED)]


def take(session, database, method=None, progress=None, accounts=None, definition=None):
    """accounts: (session) -> the accounts; definition: (text) -> the same in words that a reload keeps. Where they are not MariaDB's."""
    if method not in (None, METHOD, WITHOUT_ACCOUNTS):
        raise ValueError("method is {0!r}; these fingerprints are taken with {1!r}".format(method, METHOD))
    if method is None:
        method = METHOD if "SELECT" in privileges(session, "mysql") else WITHOUT_ACCOUNTS
    session.lines("START TRANSACTION WITH CONSISTENT SNAPSHOT")
    try:
        return _take(session, database, method, progress, accounts or _accounts, definition or str)
    finally:
        session.lines("COMMIT")


def _take(session, database, method, progress, accounts, definition):
    here = "= {0}".format(my_literal(database))
    version, found = session.rows(["VERSION()", "DATABASE()"])[0]
    if found != database:
        raise ValueError("the session is in database {0!r}, the fingerprint was asked for {1!r}".format(found, database))
    relations = list_tables(session, database)
    check_privileges(session, database)
    columns = list_columns(session, database)
    elsewhere = sorted(name for name, _kind, engine in relations if (engine or "").upper() in ELSEWHERE)
    holders = [(name, kind) for name, kind, _engine in relations if kind in ("BASE TABLE", "SYSTEM VERSIONED") and name not in elsewhere]
    tables = {}
    for done, (name, kind) in enumerate(holders):
        progress(done, len(holders))
        tables[name] = _contents(session, name, kind, columns.get(name, []))
    engines = {}  # type: Dict[str, int]
    for _name, _kind, engine in relations:
        if engine:
            engines[engine] = engines.get(engine, 0) + 1
    return {
        "version": version,
        "method": method,
        "tables": tables,
        "derived": {},
        "catalogue": _catalogue(session, relations, here, method == METHOD, definition),
        "globals": accounts(session) if method == METHOD else {},
        "notes": {"engines": engines, "data_elsewhere": elsewhere},
    }


def privileges(session, database):
    """What this account (and the roles that it has on) may do with a database: on the server, or by a grant on a pattern of names."""
    account = session.rows(["CURRENT_USER()"])[0][0]
    user, host = account.rsplit("@", 1)
    mine = {"'{0}'@'{1}'".format(user, host)}
    for (role,) in session.rows(["ROLE_NAME"], "FROM information_schema.ENABLED_ROLES"):
        mine.update(form.format(role) for form in ("'{0}'", "'{0}'@''", "'{0}'@'%'"))
    rows = session.rows(["GRANTEE", "PRIVILEGE_TYPE"], "FROM information_schema.USER_PRIVILEGES")
    rows += session.rows(
        ["GRANTEE", "PRIVILEGE_TYPE"],
        "FROM information_schema.SCHEMA_PRIVILEGES WHERE {0} LIKE CONVERT(TABLE_SCHEMA USING utf8mb4)".format(my_literal(database)),
    )
    return {privilege for grantee, privilege in rows if grantee in mine}


# Any of them shows that a routine is there. The usual account of a backup (SELECT, LOCK TABLES, SHOW VIEW, TRIGGER, EVENT) has none.
SEE_ROUTINES = ("EXECUTE", "CREATE ROUTINE", "ALTER ROUTINE", "SHOW CREATE ROUTINE", "SHOW_ROUTINE")


def sees_system(session):
    """Whether the account may read everything on the server: MySQL asks for that, MariaDB for the table of the routines alone."""
    return "SELECT" in privileges(session, "performance_schema") and "SELECT" in privileges(session, "mysql")


def check_privileges(session, database):
    """The server shows an account what it may use and hides the rest: what is hidden would be missing from every copy without a word."""
    held = privileges(session, database)
    lacking = [one for one in ("SELECT", "SHOW VIEW", "TRIGGER", "EVENT") if one not in held]
    # Routines are shown to whoever may use one of them. With EXECUTE alone their bodies stay hidden, and the dumper says so.
    if not held.intersection(SEE_ROUTINES) and not sees_system(session):
        lacking.append("EXECUTE")
    if lacking:
        raise ValueError(
            "the account {0} lacks {1} on this database; objects that it may not see would be missing without a word. Use an account "
            "that has them (the server's own root by the local socket)".format(session.rows(["CURRENT_USER()"])[0][0], ", ".join(lacking))
        )


def list_tables(session, database):
    """[name, kind, engine] of every table, view and sequence."""
    return session.rows(
        ["TABLE_NAME", "TABLE_TYPE", "ENGINE"], "FROM information_schema.TABLES WHERE TABLE_SCHEMA = {0}".format(my_literal(database))
    )


def list_columns(session, database):
    """{table: [Column]} of the columns that hold data; virtual ones are computed and stand in the catalogue."""
    columns = {}  # type: Dict[str, List[Column]]
    for table, name, kind, extra, generation, charset in session.rows(
        ["TABLE_NAME", "COLUMN_NAME", "DATA_TYPE", "EXTRA", _generation(session), "CHARACTER_SET_NAME"],
        "FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = {0} ORDER BY TABLE_NAME, ORDINAL_POSITION".format(my_literal(database)),
    ):
        if "VIRTUAL" in (extra or "").upper():
            continue
        columns.setdefault(table, []).append(Column(name, kind.lower(), (generation or "").upper(), charset))
    return columns


def _generation(session):
    """GENERATION_EXPRESSION came with MariaDB 10.2; before, nothing is generated that has to be told apart."""
    known = session.rows(
        ["COUNT(*)"],
        "FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = 'information_schema' AND "
        "TABLE_NAME = 'COLUMNS' AND COLUMN_NAME = 'GENERATION_EXPRESSION'",
    )
    return "GENERATION_EXPRESSION" if known[0][0] == "1" else "NULL"


def history(kind, columns):
    """(suffix of FROM, implicit columns) so that the old versions of a system-versioned table are read too."""
    if kind != "SYSTEM VERSIONED":
        return "", []
    if any(column.generation.startswith("ROW START") for column in columns):
        return " FOR SYSTEM_TIME ALL", []
    return " FOR SYSTEM_TIME ALL", [Column(name, "timestamp", name.upper().replace("_", " "), None) for name in ("row_start", "row_end")]


def _contents(session, name, kind, columns):
    suffix, implicit = history(kind, columns)
    rows, told = session.rows(contents_expressions(columns + implicit), "FROM {0}{1}".format(my_identifier(name), suffix))[0]
    unhashed, total = divmod(int(told), UNHASHED)
    if unhashed:
        raise ValueError(
            "table {0}: {1} rows are too large for max_allowed_packet and could not be hashed; raise it on the server".format(
                name, unhashed
            )
        )
    return {"rows": int(rows), "hash": str(total)}


def _digest(payload):
    return digest(payload)[:32]


def _catalogue(session, relations, here, with_grants, definition):
    found = {"relation": {}, "sequence": {}, "sequence value": {}}  # type: Dict[str, Dict[str, str]]
    for name, kind, _engine in relations:
        if kind == "VIEW":
            continue
        shown = [definition(cell) for cell in session.shown("SHOW CREATE TABLE {0}".format(my_identifier(name)))[0]]
        if kind == "SEQUENCE":
            found["sequence"][name] = _digest(shown)
            value = session.rows(["next_not_cached_value", "cycle_count"], "FROM {0}".format(my_identifier(name)))[0]
            found["sequence value"][name] = "/".join(value)
        else:
            found["relation"][name] = _digest(shown)
    for kind, key, fields, source in _OBJECTS:
        if kind.startswith("grant on") and not with_grants:
            continue
        rows = session.rows([key] + list(fields), "FROM information_schema.{0} {1}".format(source, here))
        grouped = {}  # type: Dict[str, List[Any]]
        for row in rows:
            grouped.setdefault(row[0], []).append(row[1:])
        found[kind] = {name: _digest(sorted(group, key=repr)) for name, group in grouped.items()}
    if with_grants:
        rows = session.rows(["User", "Host", "Routine_type", "Routine_name", "Proc_priv"], "FROM mysql.procs_priv WHERE Db " + here)
        found["grant on a routine"] = {"{0} on {1} {2}".format(_grantee(*row[:2]), row[2], row[3]): _digest(row[4]) for row in rows}
    return found


def _grantee(user, host):
    return "'{0}'@'{1}'".format(user, host)


# kind, key, what describes it, table and condition. SHOW CREATE VIEW fails for a view with a missing definer; this does not.
_OBJECTS = (
    ("database", "'database'", ("DEFAULT_CHARACTER_SET_NAME", "DEFAULT_COLLATION_NAME"), "SCHEMATA WHERE SCHEMA_NAME"),
    (
        "view",
        "TABLE_NAME",
        ("VIEW_DEFINITION", "CHECK_OPTION", "IS_UPDATABLE", "DEFINER", "SECURITY_TYPE", "CHARACTER_SET_CLIENT", "COLLATION_CONNECTION"),
        "VIEWS WHERE TABLE_SCHEMA",
    ),
    (
        "routine",
        "CONCAT(ROUTINE_TYPE, ' ', ROUTINE_NAME)",
        (
            "DTD_IDENTIFIER",
            "ROUTINE_DEFINITION",
            "IS_DETERMINISTIC",
            "SQL_DATA_ACCESS",
            "SECURITY_TYPE",
            "SQL_MODE",
            "ROUTINE_COMMENT",
            "DEFINER",
            "CHARACTER_SET_CLIENT",
            "COLLATION_CONNECTION",
            "DATABASE_COLLATION",
        ),
        "ROUTINES WHERE ROUTINE_SCHEMA",
    ),
    (
        "parameter",
        "CONCAT(SPECIFIC_NAME, '.', ORDINAL_POSITION)",
        ("PARAMETER_MODE", "PARAMETER_NAME", "DTD_IDENTIFIER"),
        "PARAMETERS WHERE SPECIFIC_SCHEMA",
    ),
    (
        "trigger",
        "TRIGGER_NAME",
        (
            "EVENT_MANIPULATION",
            "EVENT_OBJECT_TABLE",
            "ACTION_ORDER",
            "ACTION_STATEMENT",
            "ACTION_TIMING",
            "SQL_MODE",
            "DEFINER",
            "CHARACTER_SET_CLIENT",
            "COLLATION_CONNECTION",
            "DATABASE_COLLATION",
        ),
        "TRIGGERS WHERE TRIGGER_SCHEMA",
    ),
    (
        "event",
        "EVENT_NAME",
        (
            "DEFINER",
            "TIME_ZONE",
            "EVENT_DEFINITION",
            "EVENT_TYPE",
            "EXECUTE_AT",
            "INTERVAL_VALUE",
            "INTERVAL_FIELD",
            "SQL_MODE",
            "STARTS",
            "ENDS",
            "STATUS",
            "ON_COMPLETION",
            "EVENT_COMMENT",
        ),
        "EVENTS WHERE EVENT_SCHEMA",
    ),
    (
        "grant on the database",
        "GRANTEE",
        ("PRIVILEGE_TYPE", "IS_GRANTABLE"),
        "SCHEMA_PRIVILEGES WHERE DATABASE() LIKE TABLE_SCHEMA AND DATABASE()",
    ),
    ("grant on a table", "CONCAT(GRANTEE, ' on ', TABLE_NAME)", ("PRIVILEGE_TYPE", "IS_GRANTABLE"), "TABLE_PRIVILEGES WHERE TABLE_SCHEMA"),
    (
        "grant on a column",
        "CONCAT(GRANTEE, ' on ', TABLE_NAME, '.', COLUMN_NAME)",
        ("PRIVILEGE_TYPE", "IS_GRANTABLE"),
        "COLUMN_PRIVILEGES WHERE TABLE_SCHEMA",
    ),
)


def _accounts(session):
    """Accounts and their server-wide privileges, without anything that authenticates them."""
    rows = session.rows(["GRANTEE", "PRIVILEGE_TYPE", "IS_GRANTABLE"], "FROM information_schema.USER_PRIVILEGES")
    grouped = {}  # type: Dict[str, List[Any]]
    for grantee, privilege, grantable in rows:
        grouped.setdefault(grantee, []).append([privilege, grantable])
    accounts = {name: [sorted(group)] for name, group in grouped.items()}
    members = {}  # type: Dict[str, str]
    there = {row[0] for row in session.rows(["TABLE_NAME"], "FROM information_schema.TABLES WHERE TABLE_SCHEMA = 'mysql'")}
    if "global_priv" in there:  # MariaDB 10.4; roles are in no view of the information schema
        for user, host, told in session.rows(["User", "Host", "Priv"], "FROM mysql.global_priv"):
            facts = public_facts(json.loads(told)) if (user, host) == PUBLIC else account_facts(json.loads(told))
            if facts:
                accounts.setdefault(_grantee(user, host), [[]]).append(facts)
    if "roles_mapping" in there:
        for user, host, role, admin in session.rows(["User", "Host", "Role", "Admin_option"], "FROM mysql.roles_mapping"):
            members["{0} in {1}".format(_grantee(user, host), role)] = admin
    found = {"account": {name: _digest(facts) for name, facts in accounts.items()}, "membership": members}
    if "proxies_priv" in there:
        # Of those for anybody a new server has its own, for accounts that it makes itself.
        rows = session.rows(
            ["User", "Host", "Proxied_user", "Proxied_host", "With_grant"], "FROM mysql.proxies_priv WHERE Proxied_user <> ''"
        )
        found.update(some("proxy", {"{0} for {1}".format(_grantee(*row[:2]), _grantee(row[2], row[3] or "%")): row[4] for row in rows}))
    return dict(found, **server_objects(session))


def some(kind, objects):
    # type: (str, Dict[str, str]) -> Dict[str, Dict[str, str]]
    """A kind that most servers have nothing of is left out there, so that their fingerprints stay what they were."""
    return {kind: objects} if objects else {}


def server_objects(session):
    """What belongs to the server and is no account: how to reach other servers (CREATE SERVER), and functions out of libraries."""
    facts = ["Host", "Db", "Username", "Port", "Socket", "Wrapper", "Owner", "Password <> ''"]
    servers = {row[0]: _digest(row[1:]) for row in session.rows(["Server_name"] + facts, "FROM mysql.servers")}
    functions = {row[0]: _digest(row[1:]) for row in session.rows(["name", "ret", "dl", "type"], "FROM mysql.func")}
    return dict(some("server", servers), **some("loadable function", functions))


# Everybody, since MariaDB 10.11: a row among the accounts, which stays when all that was granted is revoked.
PUBLIC = ("PUBLIC", "")


def public_facts(told):
    """What everybody may on the whole server, which is in no view of the information schema; None for nothing."""
    return ["public", told["access"]] if told.get("access") else None


def account_facts(told):
    """What an account may and must, without what authenticates it: only whether something does."""
    ways = [told] + [one for one in told.get("auth_or", []) if one]
    wanted = ("max_", "ssl_", "x509_", "default_role", "account_locked", "is_role")
    kept = {key: value for key, value in told.items() if value and key.startswith(wanted)}
    plugins = sorted({one.get("plugin") or "mysql_native_password" for one in ways} if not told.get("is_role") else ())
    return [plugins, any(one.get("authentication_string") not in (None, "", "invalid") for one in ways), kept]
