# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What of a MySQL server's dump is not as MariaDB's (_dump.my): whose tools, their options, and the accounts.

Private to the collection. Valid for Python 3.6, standard library. MariaDB's tools are refused: they ask a MySQL server for tables that
it does not have, and do not know its hidden keys, roles and password hashes.
"""

import re
from typing import Any, Dict, Iterator, List, Optional  # noqa: F401

from ansible_collections.sunset.crm.plugins.module_utils._copy import stream as copy_stream
from ansible_collections.sunset.crm.plugins.module_utils._database import sqlclient as database_sqlclient
from ansible_collections.sunset.crm.plugins.module_utils._fingerprint import mysql as fingerprint_mysql

_NAME = r"`(?:[^`]|``)*`@`(?:[^`]|``)*`"
# The role must be there before: it is set when all accounts are.
DEFAULT_ROLE = re.compile(r"^(CREATE USER {0} .*?) DEFAULT ROLE ({0}(?:,{0})*)( REQUIRE .*)$".format(_NAME), re.DOTALL)

# As in _dump.my, without what only MariaDB knows: a MySQL server holds no row against its checks.
OWN_HEAD = """
-- Rows of tables with floating point columns, as exact values
SET @sunset_zone = @@time_zone, @sunset_mode = @@sql_mode, @sunset_keys = @@foreign_key_checks, @sunset_unique = @@unique_checks;
SET NAMES utf8mb4;
SET time_zone = '+00:00', sql_mode = 'NO_AUTO_VALUE_ON_ZERO';
SET foreign_key_checks = 0, unique_checks = 0;
"""
OWN_TAIL = """
SET time_zone = @sunset_zone, sql_mode = @sunset_mode, foreign_key_checks = @sunset_keys, unique_checks = @sunset_unique;
SET NAMES utf8mb4;
"""


def too_old(version):
    # type: (str) -> Optional[str]
    """The sentence that refuses a server which cannot be asked exactly; None if it can. Pure."""
    found = fingerprint_mysql.numbers(version)
    if found is not None and found >= fingerprint_mysql.OLDEST:
        return None
    return (
        "the server is MySQL {0}; expected {1} or later, because an older one cannot print FLOAT values and password hashes exactly. Upgrade "
        "it to the last 8.0 and run this again, or copy the data by its own tools and have the finding classified".format(
            version, ".".join(str(one) for one in fingerprint_mysql.OLDEST)
        )
    )


def foreign_tool(tool, told):
    # type: (str, str) -> Optional[str]
    """The sentence that refuses a client tool of MariaDB; None if it is MySQL's. Pure."""
    if "mariadb" not in told.lower() and re.search(r"\bVer\b", told):
        return None
    return (
        "{0} here is not MySQL's ({1}); install MySQL's own client tools (mysql-client) where the dump is made, of the server's version or "
        "a newer one".format(tool, " ".join(told.split())[:100] or "it does not tell its version")
    )


def features(help_text):
    # type: (str) -> Dict[str, bool]
    """What this mysqldump can do: its own help tells."""
    known = {name: "--" + name in help_text for name in ("column-statistics", "set-gtid-purged", "init-command", "no-tablespaces")}
    # Its help names the positive form only.
    return dict(known, **{"skip-dump-date": "--dump-date" in help_text, "ignore-table-data": "--ignore-table-data" in help_text})


def common(known, version):
    # type: (Dict[str, bool], str) -> List[str]
    """The options of every pass. Pure.

    Without --set-gtid-purged=OFF the copy would claim the source's transactions; statistics and tablespaces ask for rights beside the data.
    """
    wanted = ["--single-transaction", "--quick", "--hex-blob", "--max-allowed-packet=1G", "--tz-utc"]
    for name, option in (
        ("set-gtid-purged", "--set-gtid-purged=OFF"),
        ("column-statistics", "--column-statistics=0"),
        ("no-tablespaces", "--no-tablespaces"),
        ("skip-dump-date", "--skip-dump-date"),
    ):
        if known[name]:
            wanted.append(option)
    if (fingerprint_mysql.numbers(version) or (0,)) >= fingerprint_mysql.GIPK_SINCE and known["init-command"]:
        wanted.append("--init-command=" + fingerprint_mysql.GIPK)
    return wanted


def hidden_keys_problem(known, shown):
    # type: (Dict[str, bool], Any) -> Optional[str]
    """shown: what the server says of show_gipk_in_create_table_and_information_schema; None where it has no such thing. Pure."""
    if known["init-command"] or shown in (None, "1", "ON"):
        return None
    return (
        "the server hides primary keys that it made by itself (show_gipk_in_create_table_and_information_schema is OFF), and this mysqldump "
        "cannot ask otherwise; SET GLOBAL it to ON for the dump, or use a newer mysqldump"
    )


def in_order(created):
    # type: (List[str]) -> List[str]
    """CREATE USER statements as they were shown -> the same without the default roles, then those. Pure."""
    first, last = [], []
    for one in created:
        match = DEFAULT_ROLE.match(one)
        if match:
            account = re.match(r"CREATE USER ({0})".format(_NAME), one)
            last.append("SET DEFAULT ROLE {0} TO {1};".format(match.group(2), account.group(1)))  # type: ignore[union-attr]
            one = match.group(1) + match.group(3)
        first.append(re.sub(r"^CREATE USER ", "CREATE USER IF NOT EXISTS ", one) + ";")
    return first + [""] + last


def second_password(user, host, digits):
    # type: (str, str, str) -> str
    """No statement sets the hash of a password that is kept beside a newer one. Pure."""
    return (
        "UPDATE mysql.user SET User_attributes = JSON_SET(COALESCE(User_attributes, JSON_OBJECT()), '$.additional_password', "
        "CONVERT(X'{0}' USING utf8mb4)) WHERE User = {1} AND Host = {2};".format(
            digits, database_sqlclient.my_literal(user), database_sqlclient.my_literal(host)
        )
    )


_SERVER = ("Server_name", "Host", "Db", "Username", "Password", "Port", "Socket", "Wrapper", "Owner")


def server_statements(rows):
    # type: (List[List[str]]) -> List[str]
    """CREATE SERVER for each: no statement shows one, and the table is what the server reads. Pure."""
    head = "INSERT IGNORE INTO mysql.servers ({0}) VALUES ".format(", ".join(_SERVER))
    made = [head + "({0});".format(", ".join(database_sqlclient.my_literal(cell) for cell in row)) for row in rows]
    return made + (["FLUSH PRIVILEGES;"] if made else [])


def account_chunks(session):
    # type: (Any) -> Iterator[bytes]
    """Accounts and roles, their grants, their default roles: a grant of a role needs the role, and so does a default role."""
    session.lines("SET SESSION print_identified_with_as_hex = ON")
    accounts = ["{0}@{1}".format(*map(database_sqlclient.my_identifier, one)) for one in fingerprint_mysql.names(session)]
    created = [session.shown("SHOW CREATE USER " + one)[0][0] for one in accounts]
    grants = ["{0};".format(row[0]) for one in accounts for row in session.shown("SHOW GRANTS FOR " + one)]
    ordered = in_order(created)
    middle = ordered.index("")
    partial = session.rows(["@@GLOBAL.partial_revokes"])[0][0] in ("1", "ON")
    lines = ["-- Accounts, roles and grants"]
    # Names of databases in grants are read in another way with it, and a REVOKE from a part is understood at all.
    lines += ["SET GLOBAL partial_revokes = ON;"] if partial else []
    lines += ordered[:middle] + grants + ordered[middle + 1 :]
    kept = session.rows(
        ["User", "Host", "HEX(User_attributes->>'$.additional_password')"],
        "FROM mysql.user WHERE JSON_CONTAINS_PATH(User_attributes, 'one', '$.additional_password')",
    )
    if kept:
        lines += [second_password(*one) for one in kept] + ["FLUSH PRIVILEGES;"]
    lines += server_statements(session.rows(list(_SERVER), "FROM mysql.servers"))
    for line in lines:
        if "\n" in line or "\r" in line:
            raise copy_stream.StreamError("an account's name or attribute holds a line end; rename it, then run the same command again")
        yield (line + "\n").encode("utf-8", "surrogateescape")
    yield b"-- Dump completed\n"
