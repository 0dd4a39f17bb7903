# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The source database as the dump module meets it: which server answers, who it is, what its tools are, how much it holds."""

import os
from typing import Any, Callable, Dict, Tuple  # noqa: F401

from ansible_collections.sunset.crm.plugins.module_utils._copy import stream as copy_stream
from ansible_collections.sunset.crm.plugins.module_utils._database import reach as database_reach, sqlclient as database_sqlclient
from ansible_collections.sunset.crm.plugins.module_utils._dump import (
    lite as dump_lite,
    my as dump_my,
    mysql as dump_mysql,
    pg as dump_pg,
    redis as dump_redis,
)
from ansible_collections.sunset.crm.plugins.module_utils._fingerprint import (
    apart as fingerprint_apart,
    engines as fingerprint_engines,
    my as fingerprint_my,
)

# Engines whose own module looks at the source and says whether it is still the same.
OWN = {"sqlite": dump_lite, "redis": dump_redis}


class DatabaseError(Exception):
    """The source cannot be looked at, or is not what was declared."""


NAMES = {
    "mssql": "Microsoft SQL Server",
    "sqlserver": "Microsoft SQL Server",
    "sqlsrv": "Microsoft SQL Server",
    "oracle": "Oracle Database",
    "oci8": "Oracle Database",
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
    "mysql": (("TiDB", "TiDB"), ("-Vitess", "Vitess"), ("SingleStore", "SingleStore")),
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
    # By the server's own word, never by the client's name: either vendor's client speaks to either's server.
    if name is None and engine in database_sqlclient.MY_ENGINES and ("mariadb" in version.lower()) != (engine == "mariadb"):
        name, right = ("MySQL", "mysql") if engine == "mariadb" else ("MariaDB", "mariadb")
        return "the server that answered is {0} ({1}), declared is {2}; declare engine: {3}".format(name, version[:80], engine, right)
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
    spec = {key: params.get(key) for key in ("item", "engine", "database", "port", "socket", "staging", "rate", "reach", "apart")}
    wrong = fingerprint_apart.problem(spec["apart"] or [])
    if wrong:
        raise DatabaseError("apart: %s" % wrong)
    spec["kind"] = params["engine"]
    spec["run_as"] = "postgres" if params["engine"] == "postgresql" else None
    try:
        if params["engine"] in OWN:
            wrong = database_reach.problem(params["engine"], spec["reach"] or {})
            if wrong:
                raise DatabaseError(wrong)
            spec.update(config=params.get("config"), password_file=params.get("password_file"))
            return OWN[params["engine"]].specification(spec)
        with database_reach.opened(spec) as live:
            return ENGINES[params["engine"]](spec, live)
    except (database_sqlclient.SqlError, copy_stream.StreamError, database_reach.ReachError, OSError) as error:
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
    return fingerprint_engines.open_session(
        live["engine"], live["database"], run_as=live["run_as"], client=live.get("client"), connection=live["connection"]
    )


def _postgresql(spec, live):
    wrong = dump_pg.template_problem(spec["database"])
    if wrong:
        raise DatabaseError(wrong)
    with _session(live) as session:
        banner, version, number, may_identify, oid, standby, size = session.rows(dump_pg.IDENTITY)[0]
        wrong = impostor("postgresql", banner)
        if wrong:
            raise DatabaseError(wrong)
        system = session.rows(dump_pg.SYSTEM_IDENTIFIER)[0][0] if may_identify else None
    if standby:
        raise DatabaseError("the server is a standby (in recovery); expected the primary: dump there, a standby may lag behind")
    major = dump_pg.major(number)
    spec["identity"] = {"system_identifier": system, "database": spec["database"], "oid": oid}
    if system is None:
        # What is left tells two databases of one address apart, not two servers that followed each other there.
        spec["identity"].update(address=live.get("address"), proven="unknown")
    spec["tools"] = live.get("tools") or {name: dump_pg.find_tool(name, major) for name in database_reach.PG_TOOLS}
    spec["client"] = live.get("client") or dump_pg.find_tool("psql", major)
    spec["versions"] = {"postgresql": version}
    return spec, int(size)


def client_problem(live):
    """Why the tools that are there cannot copy this server; None if they can."""
    if live["engine"] != "mysql":
        return None
    for tool in (live["client"], dump_my.dumper(engine="mysql")):
        problem = dump_mysql.foreign_tool(tool, database_reach.told_version(live, tool))
        if problem:
            return problem
    return None


def _my(spec, live):
    engine = spec["engine"]
    live = dict(live, client=dump_my.client(engine=engine))
    dump_my.dumper(engine=engine)
    spec["client"] = live["client"]
    who = database_sqlclient.MysqlSession if engine == "mysql" else database_sqlclient.MariadbSession
    with who(run_as=live["run_as"], client=live["client"], connection=live["connection"]) as session:
        # Before the session is set up: another vendor's server, or an older one, may not know its settings.
        version = session.rows(["CONCAT(VERSION(), ' ', @@version_comment)"])[0][0]
    wrong = impostor(engine, version) or (dump_mysql.too_old(version) if engine == "mysql" else None) or client_problem(live)
    if wrong:
        raise DatabaseError(wrong)
    with _session(live) as session:
        datadir, port, hostname, uuid, size = session.rows(
            [
                "@@datadir",
                "@@port",
                "@@hostname",
                "@@server_uuid" if engine == "mysql" else "NULL",
                "(SELECT IFNULL(SUM(DATA_LENGTH), 0) FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE())",
            ]
        )[0]
        wrong = missing_privileges(fingerprint_my.privileges(session, spec["database"]))
    if wrong:
        raise DatabaseError(wrong)
    kind = (spec["reach"] or {}).get("kind", "local")
    problem = port_problem(spec["port"], int(port)) if kind == "local" and not spec["socket"] else None
    if problem:
        raise DatabaseError(problem)
    spec["identity"] = {"datadir": datadir, "database": spec["database"]}
    if uuid:
        spec["identity"]["server_uuid"] = uuid
    if kind == "local":
        found = os.stat(datadir)
        spec["identity"].update(inode=found.st_ino, uid=found.st_uid)
    elif kind == "container":
        volume, inode = database_reach.data_inode(live, datadir)
        spec["identity"].update(volume=volume or "none: container " + live["container"]["id"][:12], inode=inode)
    elif uuid:
        spec["identity"].update(address=live["address"], hostname=hostname)
    else:
        # MariaDB tells a client nothing of itself that another server could not have too.
        spec["identity"].update(address=live["address"], hostname=hostname, proven="unknown")
    spec["versions"] = {engine: version.split(" ")[0]}
    return spec, int(float(size))


# One line an engine: (spec, live) -> (spec with identity and versions, bytes of the data).
ENGINES = {
    "postgresql": _postgresql,
    "mariadb": _my,
    "mysql": _my,
}  # type: Dict[str, Callable[..., Tuple[Dict[str, Any], int]]]


def unchanged(spec, record):
    """Whether the database is still the one that was copied, by identity and by fingerprint."""
    if record["source"].get("identity") != spec["identity"]:
        return False
    try:
        if spec["engine"] in OWN:
            return OWN[spec["engine"]].unchanged(spec, record)
        with database_reach.opened(spec) as live, _session(live) as session:
            method, apart = record["source"].get("method"), fingerprint_apart.rules(spec.get("apart"))
            found = fingerprint_engines.take(spec["engine"], session, spec["database"], method=method, apart=apart)
    except (database_sqlclient.SqlError, database_reach.ReachError, ValueError) as error:
        raise DatabaseError("the database could not be compared with its staged copy: {0}".format(error))
    return fingerprint_engines.digest(found) == record["source"]["fingerprint_sha256"]
