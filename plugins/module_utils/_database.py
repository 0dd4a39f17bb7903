# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The source database as the dump module meets it: which server answers, who it is, what its tools are, how much it holds."""

import os
from typing import Any, Callable, Dict, Tuple  # noqa: F401

from ansible_collections.sunset.crm.plugins.module_utils import (
    _dump_lite,
    _dump_my,
    _dump_pg,
    _dump_redis,
    _fingerprint,
    _fingerprint_my,
    _reach,
    _sqlclient,
    _stream,
)

# Engines whose own module looks at the source and says whether it is still the same.
OWN = {"sqlite": _dump_lite, "redis": _dump_redis}


class DatabaseError(Exception):
    """The source cannot be looked at, or is not what was declared."""


NAMES = {
    "mssql": "Microsoft SQL Server",
    "sqlserver": "Microsoft SQL Server",
    "sqlsrv": "Microsoft SQL Server",
    "oracle": "Oracle Database",
    "oci8": "Oracle Database",
    "mysql": "MySQL",
    "mongodb": "MongoDB",
    "db2": "IBM Db2",
    "ibm_db2": "IBM Db2",
    "firebird": "Firebird",
    "cassandra": "Apache Cassandra",
    "elasticsearch": "Elasticsearch",
    "cockroachdb": "CockroachDB",
}
INSTEAD = "Copy its data by its own tools, and have the survey's finding classified by a person instead of planning it as an item"
# Servers that speak another's protocol: what their version says, and who they are.
IMPOSTORS = {
    "postgresql": (("CockroachDB", "CockroachDB"), ("-YB-", "YugabyteDB"), ("Redshift", "Amazon Redshift"), ("Greenplum", "Greenplum")),
    "mariadb": (("TiDB", "TiDB"), ("-Vitess", "Vitess"), ("SingleStore", "SingleStore")),
}
# Without one of these a part of the database is not shown to an account, and would silently be missing.
NEEDED = ("EVENT", "EXECUTE", "SELECT", "SHOW VIEW", "TRIGGER")


def unsupported(engine):
    """The sentence that refuses an engine by name. Pure."""
    name = NAMES.get(engine.lower())
    return "engine {0} is not supported; expected one of {1}. {2}".format(
        "{0!r} ({1})".format(engine, name) if name else repr(engine), ", ".join(sorted(list(ENGINES) + list(OWN))), INSTEAD
    )


def impostor(engine, version):
    """Why the server that answered is not the declared engine; None if it is. Pure."""
    name = next((name for sign, name in IMPOSTORS[engine] if sign in version), None)
    if name is None and engine == "mariadb" and "mariadb" not in version.lower():
        name = "MySQL"
    if name is None and engine == "postgresql" and not version.startswith(("PostgreSQL ", "EnterpriseDB ")):
        name = version.split(" ")[0]
    if name is None:
        return None
    return "the server that answered is {0} ({1}), declared is {2}; {0} is not supported. {3}".format(name, version[:80], engine, INSTEAD)


def missing_privileges(held):
    """The sentence that refuses an account that does not see the whole database; None if it does. Pure."""
    lacking = [one for one in NEEDED if one not in held]
    if not lacking:
        return None
    return (
        "the account lacks {0} on the database, so tables, views, routines, triggers or events could silently be missing from the copy; "
        "grant them (GRANT {0} ON the database TO the account), or let the copy be made as the server's root".format(", ".join(lacking))
    )


def port_problem(declared, found):
    """A second server on one host answers at the default socket: the port tells which one was meant."""
    if declared is None or found in (None, 0, declared):
        return None
    return (
        "the server at the local socket uses port {0}, declared is {1}; set the option socket to the socket of the server that "
        "is meant".format(found, declared)
    )


def specification(params):
    """(spec of the job, bytes that the data take). Raises DatabaseError with one sentence."""
    if params["engine"] not in ENGINES and params["engine"] not in OWN:
        raise DatabaseError(unsupported(params["engine"]))
    spec = {key: params.get(key) for key in ("item", "engine", "database", "port", "socket", "staging", "rate", "reach")}
    spec["kind"] = params["engine"]
    spec["run_as"] = "postgres" if params["engine"] == "postgresql" else None
    try:
        if params["engine"] in OWN:
            wrong = _reach.problem(params["engine"], spec["reach"] or {})
            if wrong:
                raise DatabaseError(wrong)
            spec.update(config=params.get("config"), password_file=params.get("password_file"))
            return OWN[params["engine"]].specification(spec)
        with _reach.opened(spec) as live:
            return ENGINES[params["engine"]](spec, live)
    except (_sqlclient.SqlError, _stream.StreamError, _reach.ReachError, OSError) as error:
        if params["engine"] in OWN:
            raise DatabaseError("the {0} database cannot be copied: {1}".format(params["engine"], error))
        raise DatabaseError(
            "database {0} on {1} could not be looked at: {2}. {3}".format(
                params["database"], params["engine"], error, ADVICE.get((spec["reach"] or {}).get("kind", "local"), "")
            )
        )


ADVICE = {
    "local": "Is the server running, and does it let its own account in by the local socket?",
    "tcp": "Is the server running, and do the credentials of the CRM's configuration still count from this host?",
    "container": "Does the container run, and does its server let its own account in by the socket inside?",
}


def _session(live):
    return _fingerprint.open_session(
        live["engine"], live["database"], run_as=live["run_as"], client=live.get("client"), connection=live["connection"]
    )


def _postgresql(spec, live):
    with _session(live) as session:
        banner, version, number, may_identify, oid, standby, size = session.rows(_dump_pg.IDENTITY)[0]
        wrong = impostor("postgresql", banner)
        if wrong:
            raise DatabaseError(wrong)
        system = session.rows(_dump_pg.SYSTEM_IDENTIFIER)[0][0] if may_identify else None
    if standby:
        raise DatabaseError("the server is a standby (in recovery); expected the primary: dump there, a standby may lag behind")
    major = _dump_pg.major(number)
    spec["identity"] = {"system_identifier": system, "database": spec["database"], "oid": oid}
    if system is None:
        # What is left tells two databases of one address apart, not two servers that followed each other there.
        spec["identity"].update(address=live.get("address"), proven="unknown")
    spec["tools"] = live.get("tools") or {name: _dump_pg.find_tool(name, major) for name in _reach.PG_TOOLS}
    spec["client"] = live.get("client") or _dump_pg.find_tool("psql", major)
    spec["versions"] = {"postgresql": version}
    return spec, int(size)


def _mariadb(spec, live):
    live = dict(live, client=_dump_my.client())
    _dump_my.dumper()
    spec["client"] = live["client"]
    with _session(live) as session:
        version, datadir, port, hostname, size = session.rows(
            [
                "CONCAT(VERSION(), ' ', @@version_comment)",
                "@@datadir",
                "@@port",
                "@@hostname",
                "(SELECT IFNULL(SUM(DATA_LENGTH), 0) FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE())",
            ]
        )[0]
        wrong = impostor("mariadb", version) or missing_privileges(_fingerprint_my.privileges(session, spec["database"]))
    if wrong:
        raise DatabaseError(wrong)
    kind = (spec["reach"] or {}).get("kind", "local")
    problem = port_problem(spec["port"], int(port)) if kind == "local" and not spec["socket"] else None
    if problem:
        raise DatabaseError(problem)
    spec["identity"] = {"datadir": datadir, "database": spec["database"]}
    if kind == "local":
        found = os.stat(datadir)
        spec["identity"].update(inode=found.st_ino, uid=found.st_uid)
    elif kind == "container":
        volume, inode = _reach.data_inode(live, datadir)
        spec["identity"].update(volume=volume or "none: container " + live["container"]["id"][:12], inode=inode)
    else:
        # MariaDB tells a client nothing of itself that another server could not have too.
        spec["identity"].update(address=live["address"], hostname=hostname, proven="unknown")
    spec["versions"] = {"mariadb": version.split(" ")[0]}
    return spec, int(float(size))


# One line an engine: (spec, live) -> (spec with identity and versions, bytes of the data).
ENGINES = {
    "postgresql": _postgresql,
    "mariadb": _mariadb,
}  # type: Dict[str, Callable[..., Tuple[Dict[str, Any], int]]]


def unchanged(spec, record):
    """Whether the database is still the one that was copied, by identity and by fingerprint."""
    if record["source"].get("identity") != spec["identity"]:
        return False
    try:
        if spec["engine"] in OWN:
            return OWN[spec["engine"]].unchanged(spec, record)
        with _reach.opened(spec) as live, _session(live) as session:
            found = _fingerprint.take(spec["engine"], session, spec["database"], method=record["source"].get("method"))
    except (_sqlclient.SqlError, _reach.ReachError, ValueError) as error:
        raise DatabaseError("the database could not be compared with its staged copy: {0}".format(error))
    return _fingerprint.digest(found) == record["source"]["fingerprint_sha256"]
