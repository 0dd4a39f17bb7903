# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a database contains, said so that two servers can be compared: rows and a content hash a table, a digest an object.

The same code looks at the source and at the restored copy. Usage on either side:

    with open_session("postgresql", database="crm", socket="/run/throwaway", port=5499) as session:
        copy = take("postgresql", session, "crm", method=source["method"])
    differences = compare(source, copy)
    equal = verdict(differences) == "equal"

The fingerprint is an artefact (a CRM has hundreds of tables); ledgers hold `digest(fp)` and `totals(fp)`.
"""

from typing import Any, Dict, Iterable, List  # noqa: F401

from ansible_collections.sunset.crm.plugins.module_utils import _canonical
from ansible_collections.sunset.crm.plugins.module_utils._database import sqlclient as database_sqlclient
from ansible_collections.sunset.crm.plugins.module_utils._fingerprint import (
    apart as fingerprint_apart,
    lite as fingerprint_lite,
    my as fingerprint_my,
    mysql as fingerprint_mysql,
    pg as fingerprint_pg,
    redis as fingerprint_redis,
)

PARTS = {
    "postgresql": fingerprint_pg,
    "mariadb": fingerprint_my,
    "mysql": fingerprint_mysql,
    "sqlite": fingerprint_lite,
    "redis": fingerprint_redis,
}  # type: Dict[str, Any]
Fingerprint = Dict[str, Any]
Difference = Dict[str, Any]

# What an engine's fingerprint counts. It grows when something more is counted: then an older one says nothing of that, and is not compared.
# postgresql 2: members of extensions, owners and grants of the system's own objects.
SCHEMAS = {"postgresql": 2, "mariadb": 1, "mysql": 1, "sqlite": 1, "redis": 1}
ENGINES = ("postgresql", "mariadb", "mysql", "sqlite", "redis")

# Objects that every fresh server brings along; the copy may have them although the source did not.
_EXTRA_ALLOWED = frozenset(["account", "role"])


def open_session(engine, database, port=None, socket=None, run_as=None, user=None, client=None, connection=None):
    """A session with pinned settings. `socket`: PostgreSQL's socket directory or MariaDB's (MySQL's) socket file; None means the default.

    `run_as` is the operating system account for peer authentication (only used when we are root): "postgres" for a
    PostgreSQL source, None for MariaDB and for a throw-away server that trusts its own socket. `connection` (see _database.reach) stands
    for port, socket and user where the server is not reached by the local socket.
    """
    if engine == "sqlite":
        return fingerprint_lite.LiteSession(database)
    if engine == "redis":
        return fingerprint_redis.RedisSession(port=port, socket=socket)
    if engine == "postgresql":
        session = database_sqlclient.PostgresqlSession(
            database, port=port, socket=socket, run_as=run_as, user=user or "postgres", psql=client or "psql", connection=connection
        )  # type: Any
        pins = fingerprint_pg.PINS  # type: Iterable[str]
    elif engine == "mariadb":
        session = database_sqlclient.MariadbSession(
            database, socket=socket, run_as=run_as, user=user or "root", client=client or "mariadb", connection=connection
        )
        pins = fingerprint_my.PINS
    elif engine == "mysql":
        session = database_sqlclient.MysqlSession(
            database, socket=socket, run_as=run_as, user=user or "root", client=client or "mysql", connection=connection
        )
        pins = fingerprint_my.PINS
    else:
        raise ValueError("engine is {0!r}; known are {1}".format(engine, ", ".join(ENGINES)))
    try:
        for statement in pins:
            session.lines(statement)
        if engine == "mysql":
            for statement in fingerprint_mysql.pins(session.rows(["VERSION()"])[0][0]):
                session.lines(statement)
    except Exception:
        session.close()
        raise
    return session


def take(engine, session, database, method=None, progress=None, apart=()):
    """The fingerprint of one database. `method`: the source's method, so that the copy is hashed in the same way. `apart`: rules of
    what may differ in some tables (see fingerprint_apart), each hashed a second time without that."""
    found = PARTS[engine].take(session, database, method=method, progress=progress or (lambda done, total: None))
    found.update(schema=SCHEMAS[engine], engine=engine, database=database)
    if apart:
        found["apart"] = fingerprint_apart.take(engine, session, database, found["method"], found["tables"], apart)
    return found


def digest(fingerprint: Fingerprint) -> str:
    """sha256 of what counts; the server's version is left out, a minor update is no change of content."""
    counted = {key: fingerprint.get(key) for key in ("schema", "engine", "database", "method", "tables", "derived", "catalogue", "globals")}
    if fingerprint.get("apart"):
        counted["apart"] = fingerprint["apart"]
    return _canonical.digest(counted)


def totals(fingerprint: Fingerprint) -> Dict[str, int]:
    tables = fingerprint["tables"]
    return {
        "tables": len(tables),
        "rows": sum(entry["rows"] for entry in tables.values()),
        "objects": sum(len(objects) for objects in fingerprint["catalogue"].values()),
    }


def compare(source: Fingerprint, copy: Fingerprint) -> List[Difference]:
    """Every difference as {kind, name, what, source, copy, derived}; `derived` ones follow from other data and do not decide.

    An empty list is only worth something if both fingerprints were really taken; a missing or foreign one raises.
    """
    for name in ("schema", "engine", "method", "database"):
        if source.get(name) != copy.get(name):
            raise ValueError(
                "fingerprints cannot be compared: {0} is {1!r} at the source and {2!r} in the copy{3}".format(
                    name,
                    source.get(name),
                    copy.get(name),
                    "; prove it with the version of sunset.crm that made the copy" if name == "schema" else "",
                )
            )
    differences = _compare_contents(source["tables"], copy["tables"], "table", False)
    differences += _compare_contents(source.get("derived", {}), copy.get("derived", {}), "materialized view", True)
    for section in ("catalogue", "globals"):
        left, right = source.get(section, {}), copy.get(section, {})
        for kind in sorted(set(left) | set(right)):
            differences += _compare_objects(kind, left.get(kind, {}), right.get(kind, {}))
    return differences


def _difference(kind, name, what, source, copy, derived=False):
    return {"kind": kind, "name": name, "what": what, "source": source, "copy": copy, "derived": derived}


def _compare_contents(left, right, kind, derived):
    found = []
    for name in sorted(set(left) | set(right)):
        if name not in right:
            found.append(_difference(kind, name, "missing in the copy", left[name]["rows"], None))
        elif name not in left:
            found.append(_difference(kind, name, "only in the copy", None, right[name]["rows"]))
        elif left[name]["rows"] != right[name]["rows"]:
            found.append(_difference(kind, name, "rows", left[name]["rows"], right[name]["rows"], derived))
        elif left[name]["hash"] != right[name]["hash"]:
            found.append(_difference(kind, name, "content", left[name]["hash"], right[name]["hash"], derived))
    return found


def _compare_objects(kind, left, right):
    found = []
    for name in sorted(set(left) | set(right)):
        if name not in right:
            found.append(_difference(kind, name, "missing in the copy", left[name], None))
        elif name not in left:
            found.append(_difference(kind, name, "only in the copy", None, right[name], kind in _EXTRA_ALLOWED))
        elif left[name] != right[name]:
            found.append(_difference(kind, name, "definition", left[name], right[name]))
    return found


def verdict(differences: List[Difference]) -> str:
    """equal | different. (Where a fingerprint could not be taken there is nothing to call this with: that is "unknown".)"""
    return "different" if any(not one["derived"] for one in differences) else "equal"
