# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Data stores beside the two big database servers: SQLite files, Redis, and the ones that this collection cannot keep.

Private to the collection; it may change at any time. Valid for Python 3.6. Reads only.
"""

import os
import re
from typing import Any, Dict, List, Optional, Set, Tuple

from ansible_collections.sunset.crm.plugins.module_utils._database import sqlclient as database_sqlclient
from ansible_collections.sunset.crm.plugins.module_utils._dump import lite as dump_lite, redis as dump_redis
from ansible_collections.sunset.crm.plugins.module_utils._fingerprint import redis as fingerprint_redis
from ansible_collections.sunset.crm.plugins.module_utils._service import proc as service_proc
from ansible_collections.sunset.crm.plugins.module_utils._survey import rules as survey_rules

Row = Dict[str, Any]
Process = Tuple[int, str, Optional[str]]

ENGINES = ("postgresql", "mariadb", "mysql", "sqlite", "redis")
REDIS = ("redis-server", "valkey-server", "keydb-server")
# (name, processes, marks on the disk): met, and no copy of them can be made here
UNSUPPORTED: Tuple[Tuple[str, Tuple[str, ...], Tuple[str, ...]], ...] = (
    ("mongodb", ("mongod", "mongos"), ("/var/lib/mongodb/WiredTiger", "/var/lib/mongo/WiredTiger")),
    ("mssql", ("sqlservr",), ("/var/opt/mssql/data/master.mdf",)),
    ("oracle", ("ora_pmon",), ("/etc/oratab",)),
    ("db2", ("db2sysc",), ()),
    ("firebird", ("firebird", "fbserver"), ()),
    ("elasticsearch", (), ("/var/lib/elasticsearch/nodes", "/var/lib/elasticsearch/_state", "/var/lib/elasticsearch/indices")),
    ("opensearch", (), ("/var/lib/opensearch/nodes",)),
    ("solr", (), ("/var/solr/data",)),
    ("couchdb", ("couchdb", "couchjs"), ("/var/lib/couchdb/_dbs.couch",)),
    ("cassandra", (), ("/var/lib/cassandra/data",)),
    ("clickhouse", ("clickhouse-serv", "clickhouse"), ("/var/lib/clickhouse/metadata",)),
    ("influxdb", ("influxd",), ("/var/lib/influxdb/meta",)),
    ("neo4j", (), ("/var/lib/neo4j/data/databases",)),
    ("rabbitmq", (), ("/var/lib/rabbitmq/mnesia",)),
    ("memcached", ("memcached",), ()),
)


def unsupported_problem(item: Row) -> Optional[str]:
    if item["engine"] in ENGINES:
        return None
    return "no copy of a %s database can be made here; known are %s. Keep it by its own tools and have the finding classified" % (
        item["engine"],
        ", ".join(ENGINES),
    )


def redis_facts(item: Row) -> Tuple[Row, Optional[str]]:
    """(identity, what is wrong with it as a source). Raises SqlError where it cannot be asked."""
    if item["database"] != "all":
        return {}, "database is %r; a Redis server is kept whole: expected 'all'" % item["database"]
    with dump_redis.open_source(item) as session:
        problem = dump_redis.server_problem(session.server, session.info("replication"))
        return dump_redis.identity(session), problem


def processes(init: Optional[str]) -> List[Process]:
    """(pid, command, unit) of everything that runs on the host itself; what runs in a container belongs to the container's item."""
    found = []
    for pid in service_proc.pids():
        unit = service_proc.unit_of_pid(pid, init)
        if not (unit or "").startswith("docker:"):
            found.append((pid, service_proc.command_name(pid), unit))
    return found


def judge_unsupported(running: Set[str], exists: Any = os.path.exists) -> List[Row]:
    found = []
    for name, commands, marks in UNSUPPORTED:
        signs = sorted(one for one in running if one in commands or (name == "oracle" and one.startswith("ora_pmon")))
        signs += [path for path in marks if exists(path)]
        if signs:
            what = "%s is here (%s); this collection cannot keep its data: copy them by its own tools, or say why they may go" % (
                name,
                ", ".join(signs),
            )
            found.append(survey_rules.finding("database", name, what))
    return found


def redis_place(argv: List[str]) -> Row:
    """Where a Redis listens, from the title that it gives its process: 'redis-server 127.0.0.1:6379', '... unixsocket:/run/r.sock'."""
    title = " ".join(argv)
    socket = re.search(r" unixsocket:(\S+)", title)
    if socket:
        return {"socket": socket.group(1)}
    port = re.search(r" \S*:(\d+)( \[\w+\])?\s*$", title)
    return {"port": int(port.group(1)) if port else 6379}


def is_declared(place: Row, items: List[Row]) -> bool:
    declared = [item for item in items if item["kind"] == "database" and item["engine"] == "redis"]
    if "socket" in place:
        return any(item.get("socket") == place["socket"] for item in declared)
    return any(item.get("port", 0 if item.get("socket") else 6379) == place["port"] for item in declared)


def judge_redis(place: Row, keys: Optional[int], why: str = "") -> List[Row]:
    """keys: how many it holds, None if it did not say. An empty one has nothing to keep."""
    if keys == 0:
        return []
    where = place.get("socket") or str(place["port"])
    amount = "%d keys" % keys if keys is not None else "an unknown number of keys (%s)" % why
    return [survey_rules.finding("database", "redis/%s" % where, "Redis at %s holds %s; no item declares it" % (where, amount))]


def undeclared_redis(items: List[Row], running: List[Process]) -> List[Row]:
    found: List[Row] = []
    for pid, command, _unit in running:
        place = redis_place(service_proc.argv_of(pid)) if command in REDIS else None
        if place is None or is_declared(place, items):
            continue
        try:
            with dump_redis.open_source(place) as session:
                found += judge_redis(place, key_count(session))
        except database_sqlclient.SqlError as err:
            found += judge_redis(place, None, str(err))
    return found


def key_count(session: fingerprint_redis.RedisSession) -> int:
    rows = [value for name, value in session.info("keyspace").items() if name.startswith("db")]
    return sum(int(dict(one.split("=") for one in row.split(","))["keys"]) for row in rows)


def undeclared_sqlite(items: List[Row], running: List[Process]) -> List[Row]:
    """SQLite files that a program of no base system has open. One that is opened for each request only may be missed."""
    declared = {item["database"] for item in items if item["kind"] == "database" and item["engine"] == "sqlite"}
    users: Dict[str, Set[str]] = {}
    for pid, command, unit in running:
        if survey_rules.unit_is_known(unit, set()):
            continue
        for path in open_files(pid):
            if path not in declared and is_sqlite(path):
                users.setdefault(path, set()).add(unit or command)
    return [
        survey_rules.finding(
            "database", "sqlite:%s" % path, "SQLite database, open in %s; no item declares it" % ", ".join(sorted(users[path]))
        )
        for path in sorted(users)
    ]


def open_files(pid: int) -> Set[str]:
    found = set()
    folder = "/proc/%d/fd" % pid
    try:
        for name in os.listdir(folder):
            path = os.readlink(os.path.join(folder, name))
            if path.startswith("/") and not path.startswith(("/dev/", "/proc/", "/sys/")):
                found.add(path)
    except OSError:
        pass
    return found


def is_sqlite(path: str) -> bool:
    try:
        if not os.path.isfile(path):
            return False
        with open(path, "rb") as stream:
            return stream.read(16) == dump_lite.MAGIC
    except OSError:
        return False
