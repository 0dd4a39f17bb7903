# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Faults at the source, injected for real while a copy is made or after it was staged.

In each: one clear error, nothing under a final name, nothing of what was there lost, and the second run completes. A killed job in the
middle, a full disk and writers during the dump are in test_database_dump.py and test_filestore_archive.py.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.host_container import Failed, flip
from tests.integration.preserve_servers import STAGING, Servers

PG: dict[str, Any] = {"item": "database:crm", "engine": "postgresql", "database": "crm", "port": 5432, "staging": STAGING}
MY: dict[str, Any] = {"item": "database:old", "engine": "mariadb", "database": "old", "port": 3306, "staging": STAGING}
FILES: dict[str, Any] = {"item": "filestore:up", "path": "/srv/up", "staging": STAGING}
ALL = pytest.mark.parametrize("options", [PG, MY, FILES], ids=["postgresql", "mariadb", "files"])
MARIA = """
systemctl reset-failed source-maria 2>/dev/null || true
systemd-run -q --unit source-maria mariadbd --no-defaults --user=mysql --datadir=/srv/mysource/data \
    --socket=/run/mysqld/mysqld.sock --port=3306 --bind-address=127.0.0.1
i=0; until mariadb-admin --no-defaults -S /run/mysqld/mysqld.sock ping >/dev/null 2>&1; do i=$((i + 1)); [ $i -lt 600 ] || exit 1; sleep 0.2; done
"""
# Shifts the wall clock of every Python on the host by what stands in a file. Servers and tar keep theirs.
CLOCK = """
import time
_real = time.time
def _shifted():
    try:
        with open("/run/clock-offset") as stream:
            return _real() + float(stream.read() or 0)
    except (OSError, ValueError):
        return _real()
time.time = _shifted
"""


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    with Servers(f"sunset-test-faults-{os.getpid()}") as host:
        host.psql("CREATE DATABASE crm")
        host.psql("CREATE TABLE note AS SELECT g AS id, repeat(md5(g::text), 6) AS text FROM generate_series(1, 60000) g", "crm")
        host.maria("CREATE DATABASE old; USE old; CREATE TABLE note AS SELECT seq AS id, REPEAT(MD5(seq), 6) AS text FROM seq_1_to_60000")
        host.shell("mkdir /srv/up; head -c 8000000 /dev/urandom >/srv/up/blob; echo x >/srv/up/small")
        yield host


@pytest.fixture(autouse=True)
def _fresh(servers: Servers) -> None:
    servers.wait(lambda: not servers.jobs())
    servers.shell(f"rm -rf {STAGING}")


def copied(servers: Servers, options: dict[str, Any], **more: Any) -> dict[str, Any]:
    return servers.module("filestore_archive" if "path" in options else "database_dump", **{**options, **more})


def started(servers: Servers, options: dict[str, Any], rate: int = 2500000) -> Any:
    """A copy that is slowly being made, with its first artefact begun. Its rate is lower where it is to be ended in its middle."""
    module = "filestore_archive" if "path" in options else "database_dump"
    process = servers.start_module(module, **dict(options, rate=rate))
    servers.wait(lambda: any(one.endswith(".part") for one in servers.staged_names()))
    return process


def refused(servers: Servers, process: Any, *words: str) -> None:
    out, _err = process.communicate(timeout=120)
    answer = json.loads(out.decode())
    assert answer.get("failed") and any(word in answer["msg"] for word in words), answer.get("msg")
    assert servers.staged_names() == [] and servers.shell(f"find {STAGING} -name finished.json") == ""


def test_the_backend_is_killed(servers: Servers) -> None:
    process = started(servers, PG, 500000)
    asked = "SELECT pid FROM pg_stat_activity WHERE application_name = 'pg_dump'"
    servers.wait(lambda: bool(servers.psql(asked).strip()))
    servers.shell("kill -9 " + servers.psql(asked).strip())
    refused(servers, process, "pg_dump ended with code 1")
    servers.wait(lambda: servers.run("runuser", "-u", "postgres", "--", "psql", "-Atc", "SELECT 1", check=False).strip() == "1")
    assert copied(servers, PG)["result"]["source"]["rows"] == 60000


def test_the_postgresql_server_is_killed(servers: Servers) -> None:
    process = started(servers, PG, 500000)
    servers.shell("kill -9 $(head -n 1 /var/lib/postgresql/15/main/postmaster.pid)")
    refused(servers, process, "pg_dump", "the database client ended", "terminating connection", "Is the server running")
    with pytest.raises(Failed, match="(?s)could not be looked at: .* Is the server running"):
        copied(servers, PG)
    servers.wait(lambda: not servers.shell("pgrep -u postgres -f '[1]5/main' || true"))
    servers.shell("systemctl reset-failed postgresql@15-main || true; systemctl restart postgresql@15-main")
    assert copied(servers, PG)["result"]["source"]["rows"] == 60000


def test_the_mariadb_server_is_killed(servers: Servers) -> None:
    process = started(servers, MY, 500000)
    servers.shell("systemctl kill -s KILL source-maria")
    refused(servers, process, "mariadb-dump", "the database client ended")
    servers.wait(lambda: servers.run("systemctl", "is-active", "source-maria", check=False).strip() != "active")
    servers.shell(MARIA)
    assert copied(servers, MY)["result"]["source"]["rows"] == 60000


@ALL
@pytest.mark.parametrize("after", [0.15, 0.5, 1.2])
def test_the_job_is_killed_at_some_moment(servers: Servers, options: dict[str, Any], after: float) -> None:
    process = servers.start_module("filestore_archive" if "path" in options else "database_dump", **options)
    servers.wait(lambda: bool(servers.jobs()) or process.poll() is not None)
    time.sleep(after)
    for pid in servers.jobs():
        servers.run("kill", "-9", pid, check=False)
    out, _err = process.communicate(timeout=120)
    answer = json.loads(out.decode())
    finished = bool(servers.shell(f"find {STAGING} -name finished.json"))
    if answer.get("failed"):
        # It may have died behind the last rename.
        said = "The finished copy" if finished else "Nothing it made carries a final name"
        assert "ended without a result" in answer["msg"] and said in answer["msg"]
    assert finished or answer.get("failed")
    again = copied(servers, options)
    assert again["changed"] is not finished
    assert not copied(servers, options)["changed"]
    names = servers.staged_names()
    assert sorted(names) == sorted(one["name"] for one in again["result"]["artefacts"])


DAMAGE = {
    "bit flipped": flip("{0}"),
    "truncated": "truncate -s -1 {0}",
    "removed": "rm {0}",
    "emptied": ": >{0}",
    "swapped": "cp {1} {0}",
}


@ALL
def test_a_staged_artefact_is_damaged(servers: Servers, options: dict[str, Any]) -> None:
    """Found before anything is handed out, in every kind of artefact, and made again."""
    whole = copied(servers, options)["result"]
    paths = [one["path"] for one in whole["artefacts"]]
    kinds = list(DAMAGE.items())
    for number, path in enumerate(paths + paths):
        name, damage = kinds[number % len(kinds)]
        servers.shell(damage.format(path, paths[(number + 1) % len(paths)]))
        answer = copied(servers, options)
        assert answer["changed"] and "the staged copy is damaged" in answer["evidence"]["before"]["why"], name
        assert answer["result"]["dump_id"] == whole["dump_id"]
    assert not copied(servers, options)["changed"]


@ALL
def test_two_runs_at_once(servers: Servers, options: dict[str, Any]) -> None:
    """The second attaches to the job of the first: one copy, and both tell of the same."""
    first = started(servers, options)
    second = copied(servers, options)
    out, _err = first.communicate(timeout=120)
    assert json.loads(out.decode())["result"] == second["result"]
    assert sorted(servers.staged_names()) == sorted(one["name"] for one in second["result"]["artefacts"])


@ALL
def test_the_clock_is_set_while_the_copy_is_made(servers: Servers, options: dict[str, Any]) -> None:
    servers.write("/usr/lib/python3/dist-packages/sunset_clock.py", CLOCK)
    servers.write("/usr/lib/python3/dist-packages/sunset_clock.pth", "import sunset_clock\n")
    try:
        for offset in ("-31536000", "31536000"):
            servers.shell(f"rm -rf {STAGING} /run/clock-offset")
            process = started(servers, options)
            servers.write("/run/clock-offset", offset)
            out, _err = process.communicate(timeout=120)
            answer = json.loads(out.decode())
            assert answer.get("changed"), answer.get("msg")
            assert not copied(servers, options)["changed"]
    finally:
        servers.shell("rm -f /usr/lib/python3/dist-packages/sunset_clock.* /run/clock-offset")


def test_the_compressor_is_missing(servers: Servers) -> None:
    """Without zstd it is gzip; without both it is refused. A copy that was staged with the other one stays good."""
    servers.shell("mv /usr/bin/zstd /usr/bin/zstd.away")
    try:
        result = copied(servers, FILES)["result"]
        assert {one["codec"] for one in result["artefacts"]} == {"gzip"}
        servers.shell("mv /usr/bin/gzip /usr/bin/gzip.away; touch /srv/up/small")
        with pytest.raises(Failed, match="found neither zstd nor gzip"):
            copied(servers, FILES)
        assert len(servers.shell(f"find {STAGING} -name '*.gz'").split()) == 2, "the copy before is still there"
    finally:
        servers.shell("for one in zstd gzip; do [ ! -e /usr/bin/$one.away ] || mv /usr/bin/$one.away /usr/bin/$one; done")
    assert {one["codec"] for one in copied(servers, FILES)["result"]["artefacts"]} == {"zstd"}
