# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether anybody wrote while a copy was made: what the server itself counts, read before and after.

Private to the collection. Valid for Python 3.6, standard library.

Each measure has its own reach. A log position or the next transaction number stands for the whole server, so "equal" shows that nobody
wrote, and "moved" may have been another database. Counters of one database are finer, but a server hands them in late.
"""

from typing import Any, Dict, Optional  # noqa: F401

Reading = Dict[str, Any]

_SESSIONS_PG = (
    "(SELECT count(*) FROM pg_stat_activity a WHERE a.datname = current_database() AND a.pid <> pg_backend_pid() "
    "AND coalesce(to_jsonb(a) ->> 'backend_type', 'client backend') = 'client backend')"
)
POSTGRESQL = (
    "SELECT json_build_array({0}(), txid_current_snapshot()::text, " + _SESSIONS_PG + ", "
    "(SELECT (d.tup_inserted + d.tup_updated + d.tup_deleted)::text FROM pg_stat_database d WHERE d.datname = current_database()), "
    "(SELECT coalesce(sum(u.n_tup_ins + u.n_tup_upd + u.n_tup_del), 0)::text FROM pg_stat_user_tables u))"
)
# What a statement that changes something is counted as; work on temporary tables has counters of its own.
_COUNTED = (
    "HANDLER_WRITE,HANDLER_UPDATE,HANDLER_DELETE,COM_TRUNCATE,COM_ALTER_TABLE,COM_CREATE_TABLE,COM_DROP_TABLE,COM_RENAME_TABLE,COM_LOAD,"
    "COM_CREATE_VIEW,COM_DROP_VIEW,COM_CREATE_TRIGGER,COM_DROP_TRIGGER"
).split(",")

_COUNTED_MYSQL = (
    "Innodb_rows_inserted,Innodb_rows_updated,Innodb_rows_deleted,Com_insert,Com_insert_select,Com_update,Com_update_multi,Com_delete,"
    "Com_delete_multi,Com_replace,Com_replace_select,Com_load,Com_truncate,Com_alter_table,Com_create_table,Com_drop_table,"
    "Com_rename_table,Com_create_view,Com_drop_view,Com_create_trigger,Com_drop_trigger"
).split(",")

_OWN_THREADS = ("Daemon", "Binlog Dump", "Binlog Dump GTID")


def read(engine, session):
    # type: (str, Any) -> Reading
    return {"postgresql": _postgresql, "mariadb": _mariadb, "mysql": _mysql}[engine](session)


def _postgresql(session):
    # type: (Any) -> Reading
    number = session.rows("SELECT json_build_array(current_setting('server_version_num')::int)")[0][0]
    function = "pg_current_wal_insert_lsn" if number >= 100000 else "pg_current_xlog_insert_location"
    lsn, snapshot, sessions, database, rows = session.rows(POSTGRESQL.format(function))[0]
    return {"lsn": lsn, "xid": snapshot, "sessions": sessions, "database": database, "rows": rows}


def _mariadb(session):
    # type: (Any) -> Reading
    logged, gtid, count, privileges, sessions = session.rows(
        [
            "@@log_bin",
            "@@gtid_binlog_pos",
            "(SELECT CAST(SUM(VARIABLE_VALUE) AS CHAR) FROM information_schema.GLOBAL_STATUS WHERE VARIABLE_NAME IN ({0}))".format(
                ",".join("'{0}'".format(name) for name in _COUNTED)
            ),
            "(SELECT COUNT(*) FROM information_schema.USER_PRIVILEGES WHERE PRIVILEGE_TYPE = 'PROCESS')",
            "(SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE ID <> CONNECTION_ID() AND COMMAND NOT IN "
            "('Daemon', 'Binlog Dump', 'Slave_IO', 'Slave_SQL', 'Slave_worker') AND (DB IS NULL OR DB = DATABASE()))",
        ]
    )[0]
    # Without PROCESS an account sees its own sessions only: nothing seen is then no answer.
    return {
        "gtid": (gtid or None) if logged in ("1", "ON") else None,
        "counters": count,
        "sessions": int(sessions) if int(privileges) else None,
    }


def _mysql(session):
    # type: (Any) -> Reading
    """As with MariaDB, where MySQL keeps it. Rows of InnoDB are counted apart from those of the server's own tables."""
    logged, gtid, count, privileges, me, database = session.rows(
        [
            "@@log_bin",
            "@@GLOBAL.gtid_executed",
            "(SELECT CAST(SUM(VARIABLE_VALUE) AS CHAR) FROM performance_schema.global_status WHERE VARIABLE_NAME IN ({0}))".format(
                ",".join("'{0}'".format(name) for name in _COUNTED_MYSQL)
            ),
            "(SELECT COUNT(*) FROM information_schema.USER_PRIVILEGES WHERE PRIVILEGE_TYPE = 'PROCESS')",
            "CONNECTION_ID()",
            "DATABASE()",
        ]
    )[0]
    # The one way to the list of sessions that is open to every account in all versions.
    shown = session.shown("SHOW PROCESSLIST")
    others = [row for row in shown if row[0] != me and row[4] not in _OWN_THREADS and row[3] in ("NULL", database)]
    return {
        # Without GTIDs this text is empty, and says nothing.
        "gtid": (gtid or None) if logged in ("1", "ON") else None,
        "counters": count,
        "sessions": len(others) if int(privileges) else None,
    }


def judge(engine, before, after):
    # type: (str, Reading, Reading) -> Dict[str, Any]
    """The record for the ledger: quiet is yes, no or unknown. Pure."""
    kind, quiet = {"postgresql": _judge_postgresql, "mariadb": _judge_mariadb, "mysql": _judge_mariadb}[engine](before, after)
    return {
        "sessions_before": before.get("sessions"),
        "sessions_after": after.get("sessions"),
        "position_kind": kind,
        "position_before": before.get({"counters": "database"}.get(kind, kind) if engine == "postgresql" else kind),
        "position_after": after.get({"counters": "database"}.get(kind, kind) if engine == "postgresql" else kind),
        "quiet": quiet,
    }


def _same(name, before, after):
    return before.get(name) is not None and before.get(name) == after.get(name)


def _alone(before, after):
    return before.get("sessions") == 0 and after.get("sessions") == 0


def _judge_postgresql(before, after):
    if _same("lsn", before, after):
        return "lsn", "yes"
    # xmin:xmax:running. With nobody running, the same next number means that no transaction of the whole server wrote.
    if _same("xid", before, after) and before["xid"].endswith(":"):
        return "xid", "yes"
    if None in (before.get("rows"), after.get("rows"), before.get("database"), after.get("database")):
        return "none", "unknown"
    if not _same("rows", before, after):
        return "counters", "no"
    # A session that is still open may not have handed in its counters; the catalogue's counters also move by autovacuum.
    if _same("database", before, after) and _alone(before, after):
        return "counters", "yes"
    return "counters", "unknown"


def _judge_mariadb(before, after):
    # A session that was there all the time may only have committed what it had written before: that moves no counter.
    for kind in ("counters", "gtid"):
        if _same(kind, before, after) and _alone(before, after):
            return kind, "yes"
    # Both stand for the whole server: who moved them is not to be seen.
    if before.get("gtid") and after.get("gtid"):
        return "gtid", "unknown"
    return ("counters" if before.get("counters") and after.get("counters") else "none"), "unknown"
