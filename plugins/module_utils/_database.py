# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The source database as the dump module meets it: which server answers, who it is, what its tools are, how much it holds."""

import os

from ansible_collections.sunset.crm.plugins.module_utils import (
    _dump_lite,
    _dump_my,
    _dump_pg,
    _dump_redis,
    _fingerprint,
    _sqlclient,
    _stream,
)

# Engines whose own module looks at the source and says whether it is still the same.
OWN = {"sqlite": _dump_lite, "redis": _dump_redis}


class DatabaseError(Exception):
    """The source cannot be looked at, or is not what was declared."""


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
    spec = {key: params[key] for key in ("item", "engine", "database", "port", "socket", "staging", "rate")}
    spec["kind"] = params["engine"]
    spec["run_as"] = "postgres" if params["engine"] == "postgresql" else None
    try:
        if params["engine"] in OWN:
            spec.update(config=params.get("config"), password_file=params.get("password_file"))
            return OWN[params["engine"]].specification(spec)
        return {"postgresql": _postgresql, "mariadb": _mariadb}[params["engine"]](spec)
    except (_sqlclient.SqlError, _stream.StreamError, OSError) as error:
        if params["engine"] in OWN:
            raise DatabaseError("the {0} database cannot be copied: {1}".format(params["engine"], error))
        raise DatabaseError(
            "database {0} on {1} could not be looked at: {2}. Is the server running, and does it let its own "
            "account in by the local socket?".format(params["database"], params["engine"], error)
        )


def _postgresql(spec):
    with _fingerprint.open_session("postgresql", spec["database"], spec["port"], spec["socket"], spec["run_as"]) as session:
        version, number, system, oid, standby, size = session.rows(_dump_pg.IDENTITY)[0]
    if standby:
        raise DatabaseError("the server is a standby (in recovery); expected the primary: dump there, a standby may lag behind")
    major = _dump_pg.major(number)
    spec["identity"] = {"system_identifier": system, "database": spec["database"], "oid": oid}
    spec["tools"] = {name: _dump_pg.find_tool(name, major) for name in ("pg_dump", "pg_dumpall", "pg_restore")}
    spec["client"] = _dump_pg.find_tool("psql", major)
    spec["versions"] = {"postgresql": version}
    return spec, int(size)


def _mariadb(spec):
    spec["client"] = _dump_my.client()
    _dump_my.dumper()
    with _fingerprint.open_session("mariadb", spec["database"], socket=spec["socket"], client=spec["client"]) as session:
        version, datadir, port, size = session.rows(
            [
                "VERSION()",
                "@@datadir",
                "@@port",
                "(SELECT IFNULL(SUM(DATA_LENGTH), 0) FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE())",
            ]
        )[0]
    problem = port_problem(spec["port"], int(port)) if not spec["socket"] else None
    if problem:
        raise DatabaseError(problem)
    found = os.stat(datadir)
    spec["identity"] = {"datadir": datadir, "inode": found.st_ino, "uid": found.st_uid, "database": spec["database"]}
    spec["versions"] = {"mariadb": version}
    return spec, int(float(size))


def unchanged(spec, record):
    """Whether the database is still the one that was copied, by identity and by fingerprint."""
    if record["source"].get("identity") != spec["identity"]:
        return False
    try:
        if spec["engine"] in OWN:
            return OWN[spec["engine"]].unchanged(spec, record)
        with _fingerprint.open_session(
            spec["engine"], spec["database"], spec["port"], spec["socket"], spec["run_as"], client=spec["client"]
        ) as session:
            found = _fingerprint.take(spec["engine"], session, spec["database"], method=record["source"].get("method"))
    except (_sqlclient.SqlError, ValueError) as error:
        raise DatabaseError("the database could not be compared with its staged copy: {0}".format(error))
    return _fingerprint.digest(found) == record["source"]["fingerprint_sha256"]
