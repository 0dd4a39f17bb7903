# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What of a MySQL server's fingerprint is not as MariaDB's (fingerprint_my): the session's settings, and where accounts are kept.

Private to the collection. Valid for Python 3.6, standard library.
"""

import re
from typing import Any, Dict, List, Optional, Tuple  # noqa: F401

from ansible_collections.sunset.crm.plugins.module_utils._canonical import digest
from ansible_collections.sunset.crm.plugins.module_utils._database import sqlclient as database_sqlclient
from ansible_collections.sunset.crm.plugins.module_utils._fingerprint import my as fingerprint_my

# Before, there is no CAST to DOUBLE, no password hash in hexadecimal, and no view of the roles that are on.
OLDEST = (8, 0, 19)
# Made by the server for itself, with rights that change from version to version; no account of the source.
RESERVED = ("mysql.infoschema", "mysql.session", "mysql.sys")
GIPK_SINCE = (8, 0, 30)
GIPK = "SET SESSION show_gipk_in_create_table_and_information_schema = ON"


def numbers(version):
    # type: (Any) -> Optional[Tuple[int, ...]]
    """(8, 0, 36) of "8.0.36-0ubuntu0.22.04.1"; None where there is none. Pure."""
    match = re.search(r"(\d+)\.(\d+)\.(\d+)", str(version or ""))
    return tuple(int(one) for one in match.groups()) if match else None


def pins(version):
    # type: (str) -> List[str]
    """What a session needs besides what MariaDB's does. Pure.

    Statistics are kept for a day; primary keys that the server made by itself may be hidden from whoever asks.
    """
    wanted = ["SET SESSION information_schema_stats_expiry = 0"]
    if (numbers(version) or (0,)) >= GIPK_SINCE:
        wanted.append(GIPK)
    return wanted


def take(session, database, method=None, progress=None):
    # type: (Any, str, Optional[str], Any) -> Dict[str, Any]
    found = fingerprint_my.take(session, database, method, progress, accounts, definition)
    found["catalogue"]["reference system"] = reference_systems(session, database)
    return found


def reference_systems(session, database):
    # type: (Any, str) -> Dict[str, str]
    """Those of one's own that columns use: they belong to the server, no dump has them, and a server takes the column without them."""
    rows = session.rows(
        ["SRS_ID", "SRS_NAME", "DEFINITION"],
        "FROM information_schema.ST_SPATIAL_REFERENCE_SYSTEMS WHERE (ORGANIZATION IS NULL OR ORGANIZATION <> 'EPSG') AND SRS_ID <> 0 AND SRS_ID IN "
        "(SELECT SRS_ID FROM information_schema.ST_GEOMETRY_COLUMNS WHERE TABLE_SCHEMA = {0})".format(
            database_sqlclient.my_literal(database)
        ),
    )
    return {row[0]: digest(row[1:])[:32] for row in rows}


# A column's name and type at the beginning of its line, and the character set that its collation names too.
_SAID_TWICE = re.compile(r"^(  `(?:[^`]|``)*` \w+(?:\((?:[^()']|'(?:[^'\\]|''|\\.)*')*\))?) CHARACTER SET \w+(?= COLLATE )", re.MULTILINE)


def definition(text):
    # type: (str) -> str
    """SHOW CREATE TABLE in words that a reload keeps. Pure.

    The server remembers whether a collation was written at a column, and then prints the character set before it too. A column that had it from
    its table comes back from any dump as one where it was written.
    """
    return _SAID_TWICE.sub(lambda match: match.group(1), text)


def names(session):
    # type: (Any) -> List[Tuple[str, str]]
    """(user, host) of every account and role of the source's own."""
    rows = session.rows(["User", "Host"], "FROM mysql.user ORDER BY User, Host")
    return [(user, host) for user, host in rows if user not in RESERVED]


def grantee(user, host):
    return "'{0}'@'{1}'".format(user, host)


_LIMITS = ("max_questions", "max_updates", "max_connections", "max_user_connections")
_FACTS = _LIMITS + (
    "ssl_type",
    "ssl_cipher",
    "x509_issuer",
    "x509_subject",
    "account_locked",
    "password_expired",
    "password_lifetime",
    "Password_reuse_history",
    "Password_reuse_time",
    "Password_require_current",
    # With it comes a second password; that there is one counts, not which.
    "JSON_REMOVE(User_attributes, '$.additional_password')",
    "JSON_CONTAINS_PATH(User_attributes, 'one', '$.additional_password')",
    "plugin",
    "IFNULL(authentication_string, '') <> ''",
)


def accounts(session):
    # type: (Any) -> Dict[str, Dict[str, str]]
    """Accounts, their server-wide privileges and roles, without anything that authenticates them."""
    facts = {}  # type: Dict[str, List[Any]]
    for row in session.rows(["User", "Host"] + list(_FACTS), "FROM mysql.user"):
        if row[0] not in RESERVED:
            facts[grantee(*row[:2])] = [row[2:], [], [], []]
    for name, privilege, grantable in session.rows(
        ["GRANTEE", "PRIVILEGE_TYPE", "IS_GRANTABLE"], "FROM information_schema.USER_PRIVILEGES"
    ):
        if name in facts:
            facts[name][1].append([privilege, grantable])
    for user, host, role, role_host in session.rows(["USER", "HOST", "DEFAULT_ROLE_USER", "DEFAULT_ROLE_HOST"], "FROM mysql.default_roles"):
        facts.setdefault(grantee(user, host), [[], [], [], []])[2].append(grantee(role, role_host))
    for user, host, other, other_host, grant in session.rows(
        ["User", "Host", "Proxied_user", "Proxied_host", "With_grant"], "FROM mysql.proxies_priv"
    ):
        facts.setdefault(grantee(user, host), [[], [], [], []])[3].append([grantee(other, other_host), grant])
    members = {
        "{0} in {1}".format(grantee(user, host), grantee(role, role_host)): admin
        for role, role_host, user, host, admin in session.rows(
            ["FROM_USER", "FROM_HOST", "TO_USER", "TO_HOST", "WITH_ADMIN_OPTION"], "FROM mysql.role_edges"
        )
    }
    told = {name: digest([part if number == 0 else sorted(part) for number, part in enumerate(one)])[:32] for name, one in facts.items()}
    return dict({"account": told, "membership": members}, **fingerprint_my.server_objects(session))
