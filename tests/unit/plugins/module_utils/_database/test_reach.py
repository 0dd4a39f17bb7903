# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The ways to a server: what a declaration must say, where a secret stands, and what the server's counters mean."""

import fcntl
import os
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.sunset.crm.plugins.module_utils._copy import job as copy_job
from ansible_collections.sunset.crm.plugins.module_utils._database import (
    reach as database_reach,
    server as database_server,
    sqlclient as database_sqlclient,
    writers as database_writers,
)

SHM = "tmpfs /dev/shm tmpfs rw 0 0\n"


@pytest.mark.parametrize(
    ("mounts", "expected"),
    [(SHM, "/dev/shm"), ("tmpfs /run tmpfs rw 0 0", "/run"), (SHM + "/dev/sda1 /dev/shm ext4 rw 0 0\ntmpfs /run tmpfs rw 0 0\n", "/run")],
)
def test_a_secret_stands_in_memory(mounts: str, expected: str) -> None:
    assert database_reach.memory_place(mounts) == expected


def test_no_memory_no_secret() -> None:
    with pytest.raises(database_reach.ReachError, match="must not reach a disk"):
        database_reach.memory_place("/dev/sda1 / ext4 rw 0 0\n/dev/sda2 /run ext4 rw 0 0")


def test_a_place_is_private_and_a_dead_ones_is_removed(tmp_path: Path) -> None:
    alive, dead = database_reach.Place(str(tmp_path)), database_reach.Place(str(tmp_path))
    path = dead.write("pgpass", b"x")
    assert os.stat(path).st_mode & 0o777 == 0o600 and os.stat(dead.path).st_mode & 0o777 == 0o700
    os.close(dead._lock)
    (tmp_path / (database_reach.PREFIX + "link")).symlink_to("/etc")
    (tmp_path / "other").mkdir()
    database_reach.sweep(str(tmp_path))
    assert os.path.isdir(alive.path) and not os.path.exists(dead.path)
    assert (tmp_path / "other").is_dir() and (tmp_path / (database_reach.PREFIX + "link")).is_symlink()
    alive.remove()
    assert not os.path.exists(alive.path)


def test_what_a_container_still_holds_is_not_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that does not answer now will be asked again by the next run."""
    place = database_reach.Place(str(tmp_path))
    place.write("inside.json", b'{"tool": "docker", "id": "x", "token": "t", "user": "0"}')
    fcntl.flock(place._lock, fcntl.LOCK_UN)
    said: Any = {"returncode": 1, "stdout": b"", "stderr": b"Cannot connect to the Docker daemon"}
    monkeypatch.setattr(database_reach, "_call", lambda argv, timeout=60: type("Done", (), said))
    database_reach.sweep(str(tmp_path))
    assert os.path.isdir(place.path)
    said["stderr"] = b"Error: No such container: x"
    database_reach.sweep(str(tmp_path))
    assert not os.path.exists(place.path)


@pytest.mark.parametrize("password", ["a:b\\c", " 'x' \"y\" ", "#;=[x]"])
def test_passwords_in_the_clients_own_files(password: str) -> None:
    (line,) = database_reach.pgpass(password).decode().splitlines()
    assert line.startswith("*:*:*:*:") and line[8:].replace("\\:", ":").replace("\\\\", "\\") == password
    head, value = database_reach.option_file(password).decode().splitlines()
    assert head == "[client]" and value[:10] == 'password="' and value[10:-1].replace('\\"', '"').replace("\\\\", "\\") == password


def test_every_command_line_leads_into_the_container() -> None:
    arguments = database_sqlclient.mariadb_arguments(defaults="/f", before=["docker", "exec", "x"])
    assert ["mariadb", *arguments][0] == "mariadb", "only the documented form leads there"
    words = ["mariadb"] + arguments + ["--quick"]
    assert words[:5] == ["docker", "exec", "x", "mariadb", "--defaults-file=/f"] and words[-1] == "--quick"
    assert database_sqlclient.as_user(["docker", "exec"]) == ["docker", "exec"]
    assert database_sqlclient.mariadb_arguments()[0] == "--no-defaults"


def test_a_connection_string_names_the_file_and_quotes() -> None:
    target = database_sqlclient.postgresql_target("a'b", 5432, None, "u x", host="h", passfile="/dev/shm/f", sslmode="require")
    assert target == "dbname='a\\'b' user='u x' host='h' port=5432 passfile='/dev/shm/f' sslmode='require' connect_timeout='30'"


@pytest.mark.parametrize(
    ("engine", "reach", "message"),
    [
        ("mariadb", {"kind": "ssh"}, "expected one of local, tcp, container"),
        ("sqlite", {"kind": "tcp", "config": {}}, "only reached locally"),
        ("mariadb", {"kind": "tcp"}, "reach.config is missing"),
        ("mariadb", {"kind": "container", "container": "--privileged"}, "name of the container"),
    ],
)
def test_a_reach_that_says_too_little(engine: str, reach: Any, message: str) -> None:
    assert message in (database_reach.problem(engine, reach) or "")
    assert database_reach.problem("mariadb", {}) is None


def test_the_volume_of_a_path() -> None:
    mounts = [{"Destination": "/var/lib", "Source": "/srv/lib"}, {"Destination": "/var/lib/mysql", "Name": "vol", "Source": "/x"}]
    assert database_reach.volume_of(mounts, "/var/lib/mysql/data") == "vol"
    assert database_reach.volume_of(mounts, "/var/lib/mysql2") == "/srv/lib"
    assert database_reach.volume_of(mounts, "/data") is None


QUIET = {"lsn": "0/1", "xid": "7:7:", "sessions": 0, "database": "5", "rows": "3"}


@pytest.mark.parametrize(
    ("before", "after", "kind", "quiet"),
    [
        ({}, {}, "lsn", "yes"),
        ({}, {"lsn": "0/2"}, "xid", "yes"),  # a checkpoint
        ({"xid": "5:7:5"}, {"lsn": "0/2", "xid": "5:7:5"}, "counters", "yes"),  # another database's transaction stays open
        ({}, {"lsn": "0/2", "xid": "8:8:"}, "counters", "yes"),  # another database wrote
        ({}, {"lsn": "0/2", "xid": "8:8:", "rows": "4"}, "counters", "no"),
        ({}, {"lsn": "0/2", "xid": "8:8:", "database": "6"}, "counters", "unknown"),
        ({}, {"lsn": "0/2", "xid": "8:8:", "sessions": 1}, "counters", "unknown"),
        ({"sessions": None}, {"lsn": "0/2", "xid": "8:8:"}, "counters", "unknown"),
        ({"lsn": None, "rows": None}, {"lsn": None, "xid": "8:8:"}, "none", "unknown"),
    ],
)
def test_what_postgresqls_positions_mean(before: Any, after: Any, kind: str, quiet: str) -> None:
    found = database_writers.judge("postgresql", dict(QUIET, **before), dict(QUIET, **after))
    assert (found["position_kind"], found["quiet"]) == (kind, quiet)


STILL = {"gtid": "0-1-5", "counters": "9", "sessions": 0}


@pytest.mark.parametrize(
    ("before", "after", "kind", "quiet"),
    [
        ({}, {}, "counters", "yes"),
        ({}, {"counters": "10"}, "gtid", "yes"),
        ({}, {"counters": "10", "gtid": "0-1-6"}, "gtid", "unknown"),
        ({"gtid": None}, {"counters": "10", "gtid": None}, "counters", "unknown"),
        ({"sessions": 1}, {}, "gtid", "unknown"),
        ({"sessions": None}, {"sessions": None}, "gtid", "unknown"),
        ({"gtid": None, "counters": None}, {"gtid": None, "counters": None}, "none", "unknown"),
    ],
)
def test_what_mariadbs_positions_mean(before: Any, after: Any, kind: str, quiet: str) -> None:
    found = database_writers.judge("mariadb", dict(STILL, **before), dict(STILL, **after))
    assert (found["position_kind"], found["quiet"]) == (kind, quiet)


@pytest.mark.parametrize(
    ("engine", "version", "name"),
    [
        ("mariadb", "8.0.36 MySQL Community Server - GPL", "MySQL"),
        ("mariadb", "8.0.35-27 Percona Server (GPL), Release 27", "MySQL"),
        ("mariadb", "8.0.11-TiDB-v7.5.0 TiDB Server", "TiDB"),
        ("mariadb", "10.11.6-MariaDB-0+deb12u1 Debian 12", None),
        ("mysql", "10.11.6-MariaDB-0+deb12u1 Debian 12", "MariaDB"),
        ("mysql", "8.0.11-TiDB-v7.5.0 TiDB Server", "TiDB"),
        ("mysql", "8.0.36 MySQL Community Server - GPL", None),
        ("mysql", "8.0.35-27 Percona Server (GPL), Release 27", None),
        ("postgresql", "PostgreSQL 15.5 (Debian) on x86_64", None),
        ("postgresql", "PostgreSQL 11.2-YB-2.18 on x86_64", "YugabyteDB"),
        ("postgresql", "CockroachDB CCL v23.1", "CockroachDB"),
    ],
)
def test_another_server_in_its_place_is_named(engine: str, version: str, name: Any) -> None:
    found = database_server.impostor(engine, version)
    advice = {"MySQL": "declare engine: mysql", "MariaDB": "declare engine: mariadb"}.get(name, "not supported")
    assert found is None if name is None else found is not None and f"answered is {name} (" in found and advice in found


def test_tables_that_no_snapshot_covers_are_named_with_their_engine() -> None:
    changes = [{"kind": "table", "name": "a"}, {"kind": "table", "name": "b"}, {"kind": "routine", "name": "a"}]
    assert copy_job.changed_objects(changes, {"a": "InnoDB", "b": "Aria"}) == [
        "routine a",
        "table a",
        "table b (Aria: no snapshot covers it)",
    ]
