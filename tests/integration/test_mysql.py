# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The whole way of a MySQL database: surveyed, dumped on the host and inside a container, pulled, proven, made readable, sealed, and opened
again by the words of the package's own README. The traps are in test_traps_mysql.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.sunset.crm.plugins.plugin_utils.planning import profiles
from tests.integration.host_container import Failed, HostContainer, docker
from tests.integration.mysql_host import SOCKET, MysqlHost, ensure_image
from tests.integration.preserve_servers import FINGERPRINT
from tests.integration.test_readable import Copies, described, rows
from tests.integration.test_vault import ROOT, Vault, base

CORE = "zq7Core"  # stands in the password in any spelling of it
PASSWORD = f' it\'s "a" {CORE}\\ :#%x '
SUITE = r"""
CREATE DATABASE suite CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci; USE suite; SET NAMES utf8mb4;
CREATE TABLE users (id char(36) PRIMARY KEY, user_name varchar(60), deleted tinyint(1)); INSERT INTO users VALUES ('u1', 'ann', 0);
CREATE TABLE accounts (id char(36) PRIMARY KEY, name varchar(150), date_entered datetime, assigned_user_id char(36), deleted tinyint(1));
INSERT INTO accounts VALUES ('a1', 'Zoë 🎈', '2024-02-29 01:02:03', 'u1', 0), ('a2', '=cmd()', NULL, NULL, 1);
CREATE TABLE accounts_cstm (id_c char(36) PRIMARY KEY, rating_c float); INSERT INTO accounts_cstm VALUES ('a1', 0.1);
CREATE TABLE kinds (id int PRIMARY KEY, f float, d double, j json, v vector(2), p point, b bit(9), raw varbinary(20), e enum('x','y"z'), at timestamp(3) NULL,
    txt longtext CHARACTER SET latin1);
INSERT INTO kinds VALUES (1, 0.1, 1e0/3, '{"a": [1, "q\\"\\n"]}', TO_VECTOR('[1,2]'), NULL, b'101010101', X'00ff0a', 'y"z', '2024-03-31 00:30:00.125', 'é"'),
    (2, 3.4028234e38, 1e300, NULL, NULL, NULL, NULL, '', NULL, NULL, NULL);
CREATE TABLE sessions (id int PRIMARY KEY); INSERT INTO sessions VALUES (1), (2), (3);
CREATE USER app@localhost IDENTIFIED BY 'x'; GRANT SELECT ON suite.* TO app@localhost; GRANT UPDATE ON suite.accounts TO app@localhost;
CREATE DATABASE neighbour; CREATE TABLE neighbour.t (a int); GRANT SELECT ON neighbour.t TO app@localhost;
"""
BOX_START = f"""
umask 022; install -d -o mysql /run/mysqld
[ -e /data/my ] || {{ install -d -o mysql /data/my; runuser -u mysql -- mysqld --no-defaults --initialize-insecure --datadir=/data/my/d; }}
exec mysqld --no-defaults --user=mysql --datadir=/data/my/d --socket={SOCKET} --skip-networking --mysqlx=OFF --secure-file-priv=NULL
"""
LOCAL: dict[str, Any] = {"item": "database:suite", "engine": "mysql", "database": "suite", "staging": "/srv/staging/local"}


class World(MysqlHost, Vault):
    """A host that is its own vault, with a way to the engine that it runs in itself."""

    def __init__(self, name: str) -> None:
        engine = Path("/usr/bin/docker") if Path("/usr/bin/docker").exists() else Path(shutil.which("docker") or "")
        mounts = ["-v", f"{engine.resolve()}:/usr/local/bin/docker:ro", "-v", "/var/run/docker.sock:/srv/docker.sock"]
        HostContainer.__init__(self, name, "--shm-size", "2g", "--security-opt", "seccomp=unconfined", *mounts)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with World(f"sunset-test-mysql-{os.getpid()}") as host:
        host.shell(
            "ln -s /srv/docker.sock /run/docker.sock; install -d -o vault -g vault -m 0700 /srv/vault; mkdir /srv/staging; ssh-keygen -A >/dev/null"
        )
        host.shell("systemctl reset-failed ssh; systemctl start ssh")  # it was tried before it had keys
        host.sql(SUITE)
        yield host


@pytest.fixture(scope="module")
def copies(world: World, tmp_path_factory: pytest.TempPathFactory) -> Copies:
    return Copies(world, tmp_path_factory.mktemp("keys") / "alice.age")


def surveyed(world: World, **more: Any) -> tuple[dict[str, Any], dict[str, str]]:
    item = {"kind": "database", "name": "suite", "database": "suite", "data": "/srv/mysource/data", **more}
    survey = world.module("host_survey", items=[item])["survey"]
    return survey["expected"]["database:suite"], {one["id"]: one["what"] for one in survey["findings"] if one["id"].startswith("database:")}


def test_the_survey_knows_mysql_by_the_servers_own_word(world: World) -> None:
    world.shell("install -d /var/lib/mysql; touch /var/lib/mysql/mysql.ibd /var/lib/mysql/ibdata1")
    seen, found = surveyed(world, engine="mysql", port=3306)
    assert seen["found"] == "yes", seen
    assert seen["identity"] == world.module("database_dump", **LOCAL)["result"]["source"]["identity"]
    assert set(found) == {"database:mysql/3306/neighbour", "database:mysql:/var/lib/mysql"}, found
    world.shell("rm -r /var/lib/mysql; ln -s /usr/bin/mysql /usr/local/bin/mariadb")
    other, _found = surveyed(world, engine="mariadb")
    world.shell("rm /usr/local/bin/mariadb")
    assert (
        other["found"] == "unknown"
        and "the server that answered is MySQL" in other["detail"]
        and "declare engine: mysql" in other["detail"]
    )


def test_check_and_real_twice(world: World) -> None:
    world.shell("rm -rf /srv/staging/local")
    answers = [world.module("database_dump", check=check, **LOCAL) for check in (True, False, True, False)]
    assert [one["changed"] for one in answers] == [True, True, False, False]
    world.sql("UPDATE suite.kinds SET d = 2 WHERE id = 1")
    assert world.module("database_dump", **LOCAL)["changed"]


def test_a_vault_says_beforehand_which_servers_it_has(world: World) -> None:
    told = world.module("vault_probe", root="/srv/vault/packages")["vault"]["servers"]
    assert told["mysql"] == "" and "this vault has no PostgreSQL server; install" in told["postgresql"]
    assert "MySQL's, which cannot prove a MariaDB dump; install mariadb-server" in told["mariadb"]


def test_the_whole_way(copies: Copies, world: World, tmp_path: Path) -> None:
    copies.database("h1", "suite", "mysql")
    readable = {"entities": profiles.entities(profiles.load("suitecrm")), "xlsx": True}
    result = copies.prove("h1", "database:suite", "mysql", readable=readable)["result"]
    assert (result["verdict"], result["version_relation"], result["network"]) == (
        "equal",
        "same",
        "none: a network namespace of its own",
    ), result
    assert result["readable"]["entities"] == {"accounts": 2}
    assert copies.prove("h1", "database:suite", "mysql", readable=readable)["changed"] is False
    out = copies.opened("h1", "database:suite", tmp_path)
    found = described(out)
    accounts = rows(out, found["Accounts"])
    assert [(row["name"], row["owner.user_name"], row["custom.rating_c"], row["soft_deleted"]) for row in accounts] == [
        ("Zoë 🎈", "ann", "0.1", "false"),
        ("=cmd()", None, None, "true"),
    ]
    one, two = rows(out, found["kinds"])
    assert (one["f"], two["f"], one["b"], one["raw"], one["e"]) == ("0.1", "3.4028234663852886e38", "341", "AP8K", 'y"z')
    assert json.loads(one["j"]) == {"a": [1, 'q"\n']} and (one["v"], one["at"], one["txt"]) == (
        "AACAPwAAAEA=",
        "2024-03-31T00:30:00.125Z",
        'é"',
    )
    sealed = world.vault("vault_package", item="host:h1", state="sealed", retention={"class": "books"}, **base("h1"))
    assert sealed["evidence"]["verdict"] == "yes"
    reopened(world, copies)


def reopened(world: World, copies: Copies) -> None:
    """By the README's own two lines, into a server that is made for it; then counted as the source was."""
    readme = world.read(f"{ROOT}/lab/h1/README.txt")
    lines = [line.strip() for line in readme.splitlines() if line.strip().startswith("mysql ")]
    assert len(lines) == 2 and "MySQL (not MariaDB)" in readme
    dump = copies.dumps["database:suite"]
    place = "/srv/reopened/database-suite"
    world.shell(f"install -d -o mysql /srv/reopened {place}")
    for one in dump["artefacts"]:
        world.shell(f"zstd -qdc {one['path']} >{place}/{os.path.basename(one['path'])[: -len('.zst')]}")
    world.shell(
        "runuser -u mysql -- mysqld --no-defaults --initialize-insecure --datadir=/srv/reopened/d 2>/dev/null; "
        "systemd-run -q --unit reopened mysqld --no-defaults --user=mysql --datadir=/srv/reopened/d --socket=/srv/reopened/s --skip-networking "
        "--mysqlx=OFF --secure-file-priv=NULL; "
        "i=0; until mysqladmin --no-defaults -S /srv/reopened/s ping >/dev/null 2>&1; do i=$((i + 1)); [ $i -lt 600 ] || exit 1; sleep 0.2; done"
    )
    for line in lines:
        world.shell(f"export OUT=/srv/reopened MYSQL_UNIX_PORT=/srv/reopened/s; {line}")
    again = json.loads(world.run("python3", "-c", FINGERPRINT, stdin=json.dumps(["mysql", "suite", None, "/srv/reopened/s", None])))
    (path,) = [one["path"] for one in dump["artefacts"] if one["role"] == "fingerprint"]
    source = json.loads(world.shell(f"zstd -qdc {path}"))
    assert {key: again[key] for key in ("tables", "catalogue")} == {key: source[key] for key in ("tables", "catalogue")}
    world.run("systemctl", "stop", "reopened")


def test_inside_a_container(world: World) -> None:
    """As the official images have it: the password of root stands in the container's environment."""
    box = f"{world.name}-box"
    environment = ["-e", f"MYSQL_ROOT_PASSWORD={PASSWORD}", "-e", "MYSQL_HOST=nowhere"]
    docker("rm", "-f", "-v", box, check=False)
    try:
        docker(
            "run", "-d", "--init", "--name", box, "--network", "none", "-v", "/data", *environment, ensure_image(), "sh", "-c", BOX_START
        )
        inside = ["exec", "-i", box, "env", "-u", "MYSQL_HOST", "mysql"]
        world.wait(lambda: "1" in docker(*inside, "-Ne", "SELECT 1", check=False))
        word = PASSWORD.replace("\\", "\\\\").replace("'", "''")
        docker(*inside, stdin=(SUITE + f"ALTER USER root@localhost IDENTIFIED BY '{word}';").encode())
        # Somebody's saved login, to another server: it must not count.
        docker("exec", box, "sh", "-c", "printf broken >/root/.mylogin.cnf; chmod 600 /root/.mylogin.cnf")
        options = {**LOCAL, "item": "database:boxed", "staging": "/srv/staging/box", "reach": {"kind": "container", "container": box}}
        answers = [world.module("database_dump", check=check, **options) for check in (True, False, True, False)]
        assert [one["changed"] for one in answers] == [True, True, False, False]
        source = answers[1]["result"]["source"]
        assert (source["reach"], source["roles"], source["rows"]) == ("container", "complete", 9)
        assert source["identity"]["server_uuid"] and source["identity"]["inode"]
        assert CORE not in json.dumps(answers)
        assert world.shell("find /dev/shm /run -path '*sunset-reach*' -print") == "" and ".sunset" not in docker(
            "exec", box, "ls", "-A", "/dev/shm"
        )
    finally:
        docker("rm", "-f", "-v", box, check=False)


def test_logins_are_ended(world: World) -> None:
    options = {"item": "application:suite", "engine": "mysql", "database": "suite", "table": "sessions", "port": 3306}
    changes = [world.module("session_end", check=check, **options)["changed"] for check in (True, False, True, False)]
    assert changes == [True, True, False, False] and world.sql("SELECT COUNT(*) FROM suite.sessions").strip() == "0"
    with pytest.raises(Failed, match="no such table|does not exist|has no table|absent"):
        world.module("session_end", **{**options, "table": "nothing"})
