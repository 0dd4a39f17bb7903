# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Credentials of a database, as a CRM's own configuration names them, and whether they are for the declared one. Pure.

Private to the collection. Valid for Python 3.6, standard library.
"""

import re
from typing import Any, Dict, Optional, Tuple  # noqa: F401

FAMILIES = {
    "mysql": ("mysql", "mysqli", "mariadb", "pdo_mysql", "mysql2"),
    "postgresql": ("postgresql", "postgres", "pgsql", "pdo_pgsql", "psycopg2", "postgresql_psycopg2", "postgis"),
}
SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")


class ConfigError(Exception):
    """The configuration cannot be read, or does not say what is needed. The text never holds a value of it."""


class Credentials(object):
    """host None means a socket; the password does not show itself."""

    def __init__(self, user=None, password=None, host=None, port=None, socket=None, database=None, engine=None, sslmode=None):
        if not user:
            raise ConfigError("it names no database user")
        self.user, self.password = str(user), "" if password is None else str(password)
        self.host, self.port, self.socket = place(host, port)
        self.socket = socket or self.socket
        self.database = str(database) if database else None
        self.engine = str(engine).rsplit(".", 1)[-1].lower() if engine else None
        self.sslmode = sslmode
        if sslmode is not None and sslmode not in SSL_MODES:
            raise ConfigError("its sslmode is none of {0}".format(", ".join(SSL_MODES)))
        for what, value in (("user", self.user), ("password", self.password), ("host", self.host or "")):
            if any(sign in value for sign in "\n\r\0"):
                raise ConfigError("its database {0} holds a line end or a NUL".format(what))

    def __repr__(self):
        return "Credentials(user={0!r}, host={1!r}, port={2!r})".format(self.user, self.host, self.port)


def family(engine):
    """mysql, postgresql, or None for a word that is neither."""
    return next((name for name, words in FAMILIES.items() if (engine or "").lower() in words), None)


def place(host, port):
    # type: (Any, Any) -> Tuple[Optional[str], Optional[int], Optional[str]]
    """(host, port, socket) of what configurations write: "", False, "db", "db:3307", ":3306", "db:/run/s.sock", "p:db", "[::1]:5432"."""
    host = "" if host in (None, False) or str(host).strip().lower() in ("false", "none") else str(host).strip()
    if host.startswith("p:"):
        host = host[2:]
    if host.startswith("unix:"):
        host = host[5:]
    if host.startswith("/"):
        return None, number(port), host
    bracket = re.match(r"^\[([^\]]+)\](?::(.*))?$", host)
    rest = ""
    if bracket:
        host, rest = bracket.group(1), bracket.group(2) or ""
    elif host.count(":") == 1:
        host, rest = host.split(":")
    if rest.startswith("/"):
        return None, number(port), rest
    if "," in host:
        raise ConfigError("it names several database hosts; declare in reach.host which one is meant, with a configuration of its own")
    return host or None, number(rest) or number(port), None


def number(port):
    # type: (Any) -> Optional[int]
    """A port as configurations write it, vtiger's with a colon before it; None where there is none."""
    text = "" if port in (None, False) else str(port).strip().lstrip(":")
    if text in ("", "0", "False", "None"):
        return None
    if not text.isdigit() or int(text) > 65535:
        raise ConfigError("its database port is no number between 1 and 65535")
    return int(text)


def contradiction(declared, found):
    # type: (Dict[str, Any], Credentials) -> Optional[str]
    """Why these credentials are not for what the plan declares; None if they are. Pure."""
    wanted = family(declared["engine"]) or declared["engine"]
    if found.engine and family(found.engine) != wanted:
        return "it is for engine {0}, declared is {1}".format(found.engine, declared["engine"])
    if found.database and found.database != declared["database"]:
        return "it is for database {0!r}, declared is {1!r}".format(found.database, declared["database"])
    for what, said, meant in (("host", found.host, declared.get("host")), ("port", found.port, declared.get("port"))):
        if said and meant and said != meant and not (what == "host" and _loopback(said) and _loopback(meant)):
            return "it names {0} {1}, declared is {2}".format(what, said, meant)
    return None


def _loopback(host):
    return host in ("localhost", "::1") or re.match(r"^127\.", host) is not None
