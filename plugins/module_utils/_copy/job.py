# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The detached job that makes a copy: it outlives the controller and the module that started it.

Its last act is result.json: {"ok": true, "record": {...}} or {"ok": false, "error": "..."}; without that file it was killed.
"""

import itertools
import json
import os
import subprocess
import tempfile
import time
from typing import Any, Dict  # noqa: F401

from ansible_collections.sunset.crm.plugins.module_utils import _canonical, _job
from ansible_collections.sunset.crm.plugins.module_utils._copy import (
    direct as copy_direct,
    filestore as copy_filestore,
    filestore_archive as copy_filestore_archive,
    staging as copy_staging,
    stream as copy_stream,
)
from ansible_collections.sunset.crm.plugins.module_utils._database import (
    reach as database_reach,
    sqlclient as database_sqlclient,
    writers as database_writers,
)
from ansible_collections.sunset.crm.plugins.module_utils._dump import (
    lite as dump_lite,
    my as dump_my,
    pg as dump_pg,
    redis as dump_redis,
    ways as dump_ways,
)
from ansible_collections.sunset.crm.plugins.module_utils._fingerprint import (
    apart as fingerprint_apart,
    engines as fingerprint_engines,
    my as fingerprint_my,
    pg as fingerprint_pg,
)

RESERVE = 64 * 1024


class SourceChanged(Exception):
    """Somebody wrote while the copy was made."""


class Report(object):
    """progress.json, at most once a second: a watcher reads it, nobody waits for it."""

    def __init__(self, directory):
        self._path = os.path.join(directory, "progress.json")
        self._last = 0.0
        self._state = {"started": time.time(), "phase": "", "bytes": 0, "done": 0, "total": 0}

    def phase(self, name, total=0):
        self._state.update(phase=name, done=0, total=total)
        self._write(True)

    def objects(self, done, total):
        self._state.update(done=done, total=total)
        self._write(False)

    def bytes(self, count):
        self._state.update(bytes=count)
        self._write(False)

    def _write(self, now):
        if now or time.time() - self._last >= 1.0:
            self._last = time.time()
            _job.write_json_atomic(self._path, dict(self._state, at=self._last))


class Copy(object):
    """One copy in the making: its directory, its artefacts, its codec."""

    def __init__(self, staging, dump_id, spec, report, level=copy_stream.DUMP_LEVEL):
        self._directory = staging.begin(dump_id)
        self._place = staging
        self._prefix = "{0}.{1}".format(staging.slug, dump_id)
        self._codec = copy_stream.find_codec(level=level)
        self._rate = spec.get("rate")
        self._report = report
        self.artefacts = []

    def scratch(self, name):
        """A file beside the artefacts that is gone with a copy that was not finished."""
        return os.path.join(self._directory, name)

    def add(self, role, ending, chunks):
        self._report.phase(role)
        name = self._prefix + ending
        artefact = self._place.stage(chunks, self._directory, name, role, self._codec, self._rate, self._report.bytes)
        self.artefacts.append(artefact)
        return artefact

    def add_json(self, role, ending, value):
        return self.add(role, ending, copy_staging.copy_chunks(_canonical.canonical(value)))

    def check(self, readers, looks=None):
        """Read everything back from the disk; a reader must take the dump to its end, a look sees its content."""
        for artefact in self.artefacts:
            if artefact.get("direct"):
                continue  # nothing was staged; the vault's proof restores it
            self._report.phase("reading back " + artefact["role"], artefact["bytes"])
            copy_stream.check_staged(artefact, readers.get(artefact["role"]), (looks or {}).get(artefact["role"]))


def short_id(digest):
    return digest[:16]


def open_database(spec):
    return fingerprint_engines.open_session(
        spec["engine"],
        spec["database"],
        port=spec.get("port"),
        socket=spec.get("socket"),
        run_as=spec.get("run_as"),
        client=spec.get("client"),
        connection=spec.get("connection"),
    )


# What a fingerprint's method says about the roles or accounts in the copy; the proof compares no more than that.
ROLES = {
    fingerprint_pg.WITHOUT_PASSWORDS: "names, rights and memberships; passwords are not readable by this account",
    fingerprint_my.WITHOUT_ACCOUNTS: "not readable by this account; accounts and grants are not in the copy",
}


def roles_kept(method):
    return next((text for ending, text in ROLES.items() if method.endswith(ending)), "complete")


def source_facts(spec, found, consistency, means, writers=None):
    facts = dict(
        fingerprint_engines.totals(found),
        engine=spec["engine"],
        version=found["version"],
        database=spec["database"],
        identity=spec["identity"],
        method=found["method"],
        fingerprint_sha256=fingerprint_engines.digest(found),
        reach=(spec.get("reach") or {}).get("kind", "local"),
        consistency=consistency,
        consistency_means=means,
    )
    if writers is not None:  # a server with accounts of its own and other clients
        facts.update(roles=roles_kept(found["method"]), writers=writers)
    facts.pop("objects")
    # Tables whose rows are kept on another server: the copy has their definition only.
    facts["data_elsewhere"] = found.get("notes", {}).get("data_elsewhere", [])
    return facts


def copy_of_postgresql(spec, staging, report):
    tools = spec["tools"]
    with open_database(spec) as session:
        quiet_before = database_writers.read("postgresql", session)
        snapshot = session.rows("SELECT json_build_array(pg_export_snapshot())")[0][0]
        report.phase("fingerprint")
        found = fingerprint_engines.take(
            "postgresql", session, spec["database"], progress=report.objects, apart=fingerprint_apart.rules(spec.get("apart"))
        )
        copy = Copy(staging, short_id(fingerprint_engines.digest(found)), spec, report)
        encoding = session.rows(dump_pg.ENCODING)[0][0]
        argv = dump_pg.dump_argv(tools["pg_dump"], spec.get("run_as"), session.target, snapshot, encoding)
        copy.add("dump", ".pgcustom", copy_stream.process_chunks(argv, what="pg_dump"))
    passwords = not found["method"].endswith(fingerprint_pg.WITHOUT_PASSWORDS)
    argv = dump_pg.globals_argv(tools["pg_dumpall"], spec.get("run_as"), session.target, passwords)
    with open_database(spec) as session:
        for_all = dump_pg.settings_of_all_roles([row[0] for row in session.rows(dump_pg.ALL_ROLES)])
    chunks = copy_stream.ending_with(copy_stream.process_chunks(argv, what="pg_dumpall"), dump_pg.GLOBALS_END, "pg_dumpall")
    copy.add("globals", ".globals.sql", itertools.chain(chunks, copy_staging.copy_chunks(for_all.encode("utf-8"))))
    copy.add_json("fingerprint", ".fingerprint.json", found)
    # Sequences and roles stand outside the snapshot: they must be the same before and after.
    with open_database(spec) as session:
        values = {name: "{0}/{1}".format(*value) for name, value in fingerprint_pg.sequences(session).items()}
        roles = fingerprint_pg.global_objects(session, found["method"])
        quiet_after = database_writers.read("postgresql", session)
    if values != found["catalogue"]["sequence value"] or roles != found["globals"]:
        raise SourceChanged("sequences or roles changed while the dump was made")
    copy.check({"dump": spec.get("inside", []) + dump_pg.reader_argv(tools["pg_restore"])})
    facts = source_facts(
        spec,
        found,
        "fingerprint and dump in one exported snapshot; sequences and roles equal before and after",
        "snapshot",
        database_writers.judge("postgresql", quiet_before, quiet_after),
    )
    return copy.artefacts, facts


def copy_of_my(spec, staging, report):
    """MariaDB and MySQL."""
    engine, arguments, apart = spec["engine"], spec["connection"], fingerprint_apart.rules(spec.get("apart"))
    kind = dump_ways.WAYS[engine]
    known = kind.features(tool_help(spec["inside"] + [dump_my.dumper(engine=engine)]))
    with open_database(spec) as session:
        quiet_before = database_writers.read(engine, session)
        way = kind(spec, arguments, known, session)
        report.phase("fingerprint")
        before = fingerprint_engines.take(engine, session, spec["database"], progress=report.objects, apart=apart)
        relations = fingerprint_my.list_tables(session, spec["database"])
        columns = fingerprint_my.list_columns(session, spec["database"])
    tables = [
        (name, kind, columns[name])
        for name, kind, _engine in relations
        if kind in ("BASE TABLE", "SYSTEM VERSIONED") and dump_my.has_inexact(columns.get(name, []))
    ]
    # The accounts come with the copy where they can be read; the fingerprint's method says whether.
    with_accounts = before["method"] == fingerprint_my.METHOD
    plain, passes = way.plan(relations, columns, [name for name, _kind, _columns in tables])
    if with_accounts and way.accounts_problem():
        raise ValueError(way.accounts_problem())
    copy = Copy(staging, short_id(fingerprint_engines.digest(before)), spec, report)
    chunks = dump_my.dump_chunks(arguments, spec["database"], passes, tables, plain, known, engine, **way.frame)
    copy.add("dump", way.endings[0], chunks)
    if with_accounts:
        copy.add("users", way.endings[1], way.accounts(lambda: open_database(spec)))
    copy.add_json("fingerprint", ".fingerprint.json", before)
    report.phase("fingerprint again")
    with open_database(spec) as session:
        after = fingerprint_engines.take(engine, session, spec["database"], before["method"], progress=report.objects, apart=apart)
        quiet_after = database_writers.read(engine, session)
    engines = {name: engine for name, kind, engine in relations if engine and kind != "SEQUENCE"}
    if fingerprint_engines.digest(before) != fingerprint_engines.digest(after):
        raise SourceChanged(
            "changed while the dump was made: {0}".format(
                ", ".join(changed_objects(fingerprint_engines.compare(before, after), engines)[:10])
            )
        )
    copy.check({})
    facts = source_facts(
        spec,
        before,
        "fingerprint equal before and after the dump",
        "equal before and after",
        database_writers.judge(engine, quiet_before, quiet_after),
    )
    facts["exact_export_of"] = len(tables)
    facts["without_transactions"] = sum(engine not in TRANSACTIONAL for engine in engines.values())
    return copy.artefacts, facts


def copy_of_sqlite(spec, staging, report):
    path = spec["database"]
    with open_database(spec) as session:
        readable = dump_lite.read_transaction(session, path)
        if readable:
            word, found, copy = lite_copy(spec, session, staging, report)
            target = copy.scratch("picture")
            report.phase("picture")
            if not dump_lite.picture(session, path, target):
                raise SourceChanged("{0} was written to while it was copied".format(path))
            facts = {"consistency": "fingerprint and copy in one read transaction of SQLite"}
    if not readable:
        target = os.path.join(spec["directory"], "picture")
        dump_lite.discard(target)
        raw = dump_lite.recovered(path, target)
        with fingerprint_engines.open_session("sqlite", target) as session:
            word, found, copy = lite_copy(spec, session, staging, report)
        facts = {"consistency": "a crash left a hot journal: file and journal copied, the copy rolled back by SQLite", "files": raw}
    try:
        copy.add("dump", ".sqlite3", copy_stream.file_chunks(target))
    finally:
        dump_lite.discard(target)
    copy.add_json("fingerprint", ".fingerprint.json", found)
    copy.check({})
    return copy.artefacts, dict(source_facts(spec, found, facts.pop("consistency"), "snapshot"), integrity=word, **facts)


def lite_copy(spec, session, staging, report):
    report.phase("integrity")
    word = dump_lite.sound(session, spec["database"])
    report.phase("fingerprint")
    found = fingerprint_engines.take(
        "sqlite", session, spec["database"], progress=report.objects, apart=fingerprint_apart.rules(spec.get("apart"))
    )
    return word, found, Copy(staging, short_id(fingerprint_engines.digest(found)), spec, report)


def copy_of_redis(spec, staging, report):
    with tempfile.TemporaryFile(dir=spec["directory"]) as spool, dump_redis.open_source(spec) as session:
        report.phase("reading keys")
        found = dump_redis.spool(session, spool, report.objects)
        copy = Copy(staging, short_id(fingerprint_engines.digest(found)), spec, report)
        spool.seek(0)
        copy.add("dump", ".redis.jsonl", iter(lambda: spool.read(copy_stream.CHUNK), b""))
        copy.add_json("fingerprint", ".fingerprint.json", found)
        report.phase("reading keys again")
        again = fingerprint_engines.take("redis", session, spec["database"], progress=report.objects)
    changed = dump_redis.changed(found, again)
    if changed:
        raise SourceChanged("changed while the dump was made: {0}".format(", ".join(changed[:10])))
    copy.check({})
    facts = source_facts(
        spec, found, "fingerprint and dump from one reading; keys without expiry equal in a second one", "equal before and after"
    )
    facts.update(
        queues=found["notes"]["queues"],
        rdb_version=found["notes"]["rdb_version"],
        databases=dump_redis.databases(found),
        lasting_sha256=dump_redis.lasting_digest(found),
    )
    return copy.artefacts, facts


# --single-transaction shows one picture of these; of every other engine's tables only the equal fingerprints do.
TRANSACTIONAL = ("InnoDB", "ROCKSDB", "TokuDB")


def changed_objects(differences, engines):
    """What changed, by name; of tables that no snapshot covers, their engine too."""
    found = set()
    for one in differences:
        engine = engines.get(one["name"]) if one["kind"] == "table" else None
        loose = "" if engine in TRANSACTIONAL + (None,) else " ({0}: no snapshot covers it)".format(engine)
        found.add("{0} {1}{2}".format(one["kind"], one["name"], loose))
    return sorted(found)


def tool_help(words):
    done = subprocess.run(
        words + ["--no-defaults", "--help"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=database_sqlclient.child_environment(),
        timeout=60,
    )
    return done.stdout.decode("utf-8", "replace")


def archive_filestore(spec, staging, report):
    report.phase("manifest")
    selection = copy_filestore.selection_of(spec)
    marks = {}  # type: Dict[bytes, Any]
    entries = copy_filestore.manifest(spec["path"], report.objects, selection, marks)
    digest = copy_filestore.manifest_digest(entries)
    copy = Copy(staging, short_id(digest), spec, report, copy_stream.FILES_LEVEL)
    # The content of each member is compared where the archive is read back from the disk; else on its way.
    copy.add("archive", ".tar", copy_filestore_archive.archive_chunks(spec["path"], entries, check=not staging.reads_back))
    copy.add("manifest", ".manifest.jsonl", copy_filestore.manifest_chunks(entries))
    report.phase("looking again")
    changes = copy_filestore.moved(spec["path"], marks, selection)
    if changes:
        raise SourceChanged("changed while the archive was made: {0}".format("; ".join(changes[:10])))
    checked = copy_filestore_archive.ArchiveCheck(entries)
    # Without --ignore-zeros tar leaves at the end mark, and the padding that follows meets a closed pipe.
    copy.check({"archive": ["tar", "--list", "--ignore-zeros", "--file=-"]}, {"archive": checked.feed})
    if not any(artefact.get("direct") for artefact in copy.artefacts):
        checked.finish()
    facts = dict(
        copy_filestore.totals(entries),
        manifest_sha256=digest,
        identity=spec["identity"],
        only=spec.get("only") or [],
        leave_out=spec.get("leave_out") or [],
        consistency="each member of the archive has the manifest's content; inodes, sizes and times equal before and after",
    )
    return copy.artefacts, facts


KINDS = {
    "postgresql": copy_of_postgresql,
    "mariadb": copy_of_my,
    "mysql": copy_of_my,
    "sqlite": copy_of_sqlite,
    "redis": copy_of_redis,
    "filestore": archive_filestore,
}


def make(spec):
    staging = copy_direct.place(spec)
    report = Report(spec["directory"])
    try:
        with database_reach.opened(spec) as live:
            artefacts, facts = KINDS[spec["kind"]](live, staging, report)
    except Exception:
        staging.abandon()  # half a copy is of no use, and where the disk is full its room is needed to say so
        raise
    content = facts.get("fingerprint_sha256") or facts["manifest_sha256"]
    dump_id = short_id(content)
    staging.seal(spec, artefacts, content)
    record = {"dump_id": dump_id, "artefacts": artefacts, "source": facts}
    staging.commit(record)
    report.phase("done")
    return record


def reserve_room(directory):
    """Room for result.json: what happened must be sayable on a disk that is full by then."""
    path = os.path.join(directory, "reserve")
    with open(path, "wb") as stream:
        stream.write(b"\0" * RESERVE)
    return path


def main(argv):
    _job.for_throughput()
    with open(argv[1]) as stream:
        spec = json.load(stream)
    reserve = reserve_room(spec["directory"])
    try:
        result = {"ok": True, "record": make(spec)}
    except SourceChanged as error:
        result = {
            "ok": False,
            "error": "{0}. Stop what writes there (services, cron, users), then run the same command again".format(error),
        }
    except (
        copy_stream.StreamError,
        database_sqlclient.SqlError,
        copy_filestore.TreeError,
        database_reach.ReachError,
        ValueError,
        OSError,
    ) as error:
        result = {"ok": False, "error": str(error)}
    os.unlink(reserve)
    _job.write_json_atomic(os.path.join(spec["directory"], "result.json"), result)
