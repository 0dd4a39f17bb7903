# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Is each declared item there, who is it, and which media carry it?

Private to the collection; it may change at any time. Valid for Python 3.6. Reads only.

Each answer is {found: yes | no | unknown, identity, media, detail}. "no" is said only where something that would know
it answered; whatever could not be read is "unknown".
"""

import os
import stat
from typing import Any, Callable, Dict, List, Optional, Tuple

from ansible_collections.sunset.crm.plugins.module_utils._copy import (
    filestore as copy_filestore,
    staging as copy_staging,
    stream as copy_stream,
)
from ansible_collections.sunset.crm.plugins.module_utils._database import (
    reach as database_reach,
    server as database_server,
    sqlclient as database_sqlclient,
)
from ansible_collections.sunset.crm.plugins.module_utils._disk import device as disk_device
from ansible_collections.sunset.crm.plugins.module_utils._dump import lite as dump_lite, my as dump_my, mysql as dump_mysql
from ansible_collections.sunset.crm.plugins.module_utils._service import (
    scheduler as service_scheduler,
    units as service_units,
    web as service_web,
)
from ansible_collections.sunset.crm.plugins.module_utils._survey import rules as survey_rules, stores as survey_stores
from ansible_collections.sunset.crm.plugins.module_utils._survey.media import Media

Row = Dict[str, Any]
Server = Tuple[str, Any]


# The word for data of a server that is no part of the estate (a managed service): no medium of the plan carries them.
ELSEWHERE = "elsewhere"


def answer(found: str, detail: str = "", identity: Optional[Row] = None, media: Optional[List[Row]] = None) -> Row:
    return {"found": found, "detail": detail, "identity": identity or {}, "media": media or []}


class Expected(object):
    """Looks at the declared items of one host."""

    def __init__(self, read: Callable[..., Any], media: Media) -> None:
        self.read = read
        self.media = media
        # {(engine, where): {database: number of user tables or None}}, for the findings
        self.servers: Dict[Server, Dict[str, Optional[int]]] = {}

    def look(self, item: Row) -> Row:
        looks: Dict[str, Callable[[Row], Row]] = {
            "application": self.application,
            "database": self.database,
            "filestore": self.filestore,
            "medium": self.medium,
        }
        if item["kind"] == "container":
            return answer("unknown", "containers are read through their engine, by sunset.crm.guest_survey")
        if item["kind"] == "guest":
            return answer("unknown", "guests are read through their hypervisor, by sunset.crm.guest_survey")
        if item["kind"] not in looks:
            return answer("unknown", "this survey does not know items of the kind %s" % item["kind"])
        try:
            return looks[item["kind"]](item)
        except OSError as err:
            return answer("unknown", "%s: %s" % (err.filename or item["kind"], err.strerror))

    def staging(self, item: Row) -> Row:
        """Its staging place: why it cannot be used ("" if it can), the media that carry it, whether it is in memory alone."""
        place, problem = item["staging"], ""
        try:
            # Sets of containers and guests put private files there, and leave the directory as it is.
            if item["kind"] in ("database", "filestore"):
                problem = copy_staging.Staging(place, survey_rules.item_id(item)).problem() or ""
            if not problem and item["kind"] == "filestore" and os.path.isdir(item["path"]):
                problem = copy_filestore.path_problem(item["path"], place) or ""
        except OSError as err:
            problem = "staging %s cannot be looked at: %s" % (place, err.strerror)
        return {"place": place, "problem": problem, "media": self.media.below([place]), "in_memory": self.media.in_memory(place)}

    def application(self, item: Row) -> Row:
        """Its identity is what its declared files are, so that another program under the same names is another item."""
        units = survey_rules.application_units(item)
        rows = service_units.show(self.read, units)
        if units and not rows:
            return answer("unknown", "systemd does not answer")
        lacking: List[str] = []
        files: Dict[str, Optional[str]] = {}
        for unit in sorted(rows):
            if rows[unit].get("LoadState") not in ("loaded", "masked"):
                lacking.append("unit %s (%s)" % (unit, rows[unit].get("LoadState")))
            elif rows[unit].get("FragmentPath"):
                files[unit] = service_scheduler.file_digest(rows[unit]["FragmentPath"])
        for path in (item.get("schedulers") or {}).get("cron_files") or []:
            files[path] = service_scheduler.observe_files([path])[path]["sha256"]
        site = (item.get("web") or {}).get("site")
        if site:
            real = os.path.realpath(site)
            files[site] = service_scheduler.file_digest(service_web.original_name(real)) or service_scheduler.file_digest(real)
        lacking.extend(sorted(name for name in files if files[name] is None))
        if lacking:
            return answer("no", "missing: " + ", ".join(lacking), identity={"files": files})
        if not files:
            return answer("unknown", "its declaration names no unit, cron file or site, so nothing can tell whether it is there")
        return answer("yes", identity={"files": files})

    def filestore(self, item: Row) -> Row:
        path = item["path"]
        try:
            is_folder = stat.S_ISDIR(os.stat(path).st_mode)
        except (FileNotFoundError, NotADirectoryError):
            return answer("no", "%s does not exist" % path)
        if not is_folder:
            return answer("no", "%s is not a directory" % path)
        media = self.media.below([path])
        detail = "" if media else "%s lies on no block device that can be seen from here" % path
        return answer("yes", detail, copy_filestore.identity(path), media)

    def medium(self, item: Row) -> Row:
        facts = disk_device.identify(item["device"])
        if facts["found"] != "yes":
            return answer(facts["found"], facts["why"])
        identity = disk_device.public_identity(facts)
        wrong = disk_device.compare_identity(item["identity"], facts) if item.get("identity") else []
        if wrong:
            return answer("no", "%s is another device: %s" % (item["device"], "; ".join(wrong)), identity, [identity])
        return answer("yes", identity=identity, media=[dict(identity, device=item["device"])])

    def database(self, item: Row) -> Row:
        looks = {"postgresql": self._postgresql, "mariadb": self._my, "mysql": self._my, "sqlite": self._sqlite, "redis": self._redis}
        problem = survey_stores.unsupported_problem(item)
        if problem:
            return answer("unknown", problem)
        try:
            return self._reached(item) if item.get("reach") else looks[item["engine"]](item)
        except (database_sqlclient.SqlError, copy_stream.StreamError) as err:
            return answer("unknown", "the server could not be asked: %s" % err)
        except (database_server.DatabaseError, database_reach.ReachError) as err:
            return answer("unknown", str(err))

    def _reached(self, item: Row) -> Row:
        """Another way than the local socket: asked as the dump will ask it, so that both see the same identity."""
        spec, _size = database_server.specification({"item": "database:" + item["name"], **item})
        data, kind = item.get("data"), item["reach"].get("kind")
        if data == ELSEWHERE:
            return answer("yes", "", spec["identity"])
        places = [data] if data else []
        if kind == "container" and not data:
            _tool, found = database_reach.find_container(item["reach"]["container"])
            places = sorted(one["Source"] for one in found["mounts"] or [] if one.get("Source"))
        if not places:
            where = "in the container itself, on no volume" if kind == "container" else "on a machine that TCP does not tell"
            return answer(
                "unknown", "its data lie %s: declare data (the directory on this host, or %r)" % (where, ELSEWHERE), spec["identity"]
            )
        media = self.media.below(places)
        return answer("yes", "" if media else "its data lie on no block device that can be seen", spec["identity"], media)

    def _lies_where(self, item: Row, places: List[str]) -> Optional[str]:
        """A server that keeps its data elsewhere than declared is not the declared one."""
        data = item.get("data")
        if data and not survey_rules.is_below(os.path.realpath(places[0]), os.path.realpath(data)):
            return "the server keeps its data in %s, declared is %s" % (places[0], data)
        return None

    def _answer_for(self, item: Row, names: Row, places: List[str], identity: Row) -> Row:
        if item["database"] not in names:
            return answer("no", "the server answers and has no database %s" % item["database"])
        wrong = self._lies_where(item, places)
        if wrong:
            return answer("no", wrong, identity)
        media = self.media.below(places)
        return answer("yes", "" if media else "its data lie on no block device that can be seen", identity, media)

    def _postgresql(self, item: Row) -> Row:
        port = item.get("port")
        with database_sqlclient.PostgresqlSession("postgres", port=port, socket=item.get("socket")) as session:
            oids = dict(session.rows(PG_DATABASES))
            system, folder, where = session.rows(PG_SERVER)[0]
            places = [folder, folder + "/pg_wal"] + [row[0] for row in session.rows(PG_TABLESPACES)]
        server = ("postgresql", str(where))
        if server not in self.servers:
            self.servers[server] = {
                name: _pg_tables(name, port, item.get("socket")) for name in oids if name not in survey_rules.PG_TEMPLATES
            }
        identity = {"system_identifier": system, "database": item["database"], "oid": oids.get(item["database"])}
        return self._answer_for(item, oids, places, identity)

    def _my(self, item: Row) -> Row:
        engine = item["engine"]
        kind = database_sqlclient.MysqlSession if engine == "mysql" else database_sqlclient.MariadbSession
        with kind(socket=item.get("socket"), client=dump_my.client(engine=engine)) as session:
            version = session.rows(["CONCAT(VERSION(), ' ', @@version_comment)"])[0][0]
            wrong = database_server.impostor(engine, version) or (dump_mysql.too_old(version) if engine == "mysql" else None)
            if wrong:
                return answer("unknown", wrong)
            folder, port = session.rows(["@@datadir", "@@port"])[0]
            if item.get("port") and int(port) != item["port"]:
                return answer("unknown", "the server at the local socket uses port %s, declared is %s" % (port, item["port"]))
            rows = session.rows(["schema_name"], "FROM information_schema.schemata")
            counts = session.rows(["table_schema", "count(*)"], "FROM information_schema.tables GROUP BY table_schema")
            # redo, undo and binary logs hold rows too, and may lie on another disk
            more = [session.rows(["@@" + name])[0][0] for name in MY_PLACES]
            uuid = session.rows(["@@server_uuid"])[0][0] if engine == "mysql" else None
        tables = {name: int(number) for name, number in counts}
        names: Dict[str, Optional[int]] = {row[0]: tables.get(row[0], 0) for row in rows}
        self.servers[(engine, str(port))] = names
        places = [folder]
        for value, is_file in zip(more, MY_PLACES.values()):
            if value and value.startswith("/"):
                places.append(os.path.dirname(value) if is_file else value)
        found = os.stat(folder)
        identity = {"datadir": folder, "inode": found.st_ino, "uid": found.st_uid, "database": item["database"]}
        if uuid:
            identity["server_uuid"] = uuid
        return self._answer_for(item, names, places, identity)

    def _sqlite(self, item: Row) -> Row:
        path = item["database"]
        problem = dump_lite.declared_problem(path)
        if problem:
            return answer("no", problem)
        media = self.media.below([path])
        return answer(
            "yes", "" if media else "%s lies on no block device that can be seen from here" % path, dump_lite.identity(path), media
        )

    def _redis(self, item: Row) -> Row:
        identity, problem = survey_stores.redis_facts(item)
        if problem:
            return answer("unknown", problem, identity)
        places = [place for place in (identity["dir"] or item.get("data"),) if place]
        if not places:
            return answer("unknown", "the server does not tell where it keeps its data; declare data", identity)
        wrong = self._lies_where(item, places)
        if wrong:
            return answer("no", wrong, identity)
        media = self.media.below(places)
        return answer("yes", "" if media else "its data lie on no block device that can be seen", identity, media)


PG_DATABASES = "SELECT json_build_array(datname, oid::text) FROM pg_database"
PG_SERVER = (
    "SELECT json_build_array((SELECT system_identifier::text FROM pg_control_system()), "
    "current_setting('data_directory'), current_setting('port'))"
)
PG_TABLESPACES = "SELECT json_build_array(pg_tablespace_location(oid)) FROM pg_tablespace WHERE pg_tablespace_location(oid) <> ''"
PG_TABLES = "SELECT json_build_array(count(*)) FROM pg_class WHERE relkind IN ('r','p','m','f') AND oid >= 16384"
# variable -> is it a file name?
MY_PLACES = {"innodb_log_group_home_dir": False, "innodb_undo_directory": False, "log_bin_basename": True}


def _pg_tables(name: str, port: Optional[int], socket: Optional[str]) -> Optional[int]:
    """How many tables people made there; None if the database lets nobody in."""
    try:
        with database_sqlclient.PostgresqlSession(name, port=port, socket=socket) as session:
            return int(session.rows(PG_TABLES)[0][0])
    except database_sqlclient.SqlError:
        return None
