# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Servers of the other engines for the data sets' scenarios: MariaDB on a host, both engines inside a container beside dock1."""

from __future__ import annotations

from tests.lab import engine, image, paths as lab
from tests.lab.shell import run, wait_for

from . import world

ROWS = 50
BOX_ROWS = 30
# FLOAT is what a plain text dump changes.
PEOPLE = (
    "CREATE TABLE people (n int PRIMARY KEY, name varchar(50), share float) CHARACTER SET utf8mb4;"
    "INSERT INTO people SELECT seq, CONCAT('Zoë Müster, 田中 ', seq), SQRT(seq) FROM seq_1_to_{rows};"
    "CREATE TRIGGER noted BEFORE DELETE ON people FOR EACH ROW SET @gone = OLD.n;"
)
BOX = f"{world.NAME}-box"
PASSWORD = "Box: 'zq7box' #1"
UNIT = """[Unit]
Description=MariaDB of a scenario

[Service]
ExecStartPre=/usr/bin/install -d -o mysql /run/mysqld
ExecStart=/usr/sbin/mariadbd --no-defaults --user=mysql --datadir=/var/lib/molecule-maria --socket=/run/mysqld/mysqld.sock \\
    --port=3306 --bind-address=127.0.0.1 --innodb-buffer-pool-size=32M --performance-schema=OFF

[Install]
WantedBy=multi-user.target
"""
NAME = "molecule-maria.service"
START = f"""
rm -rf /etc/systemd/system/{NAME}.d /run/systemd/system/{NAME}*
[ -d /var/lib/molecule-maria/mysql ] || mariadb-install-db --no-defaults --user=mysql --datadir=/var/lib/molecule-maria --skip-test-db \\
    --auth-root-authentication-method=socket >/dev/null
systemctl daemon-reload; systemctl start {NAME}
i=0; until mariadb-admin --no-defaults -S /run/mysqld/mysqld.sock ping >/dev/null 2>&1; do i=$((i + 1)); [ $i -lt 150 ] || exit 1; sleep 0.2; done
"""
# The password of MariaDB's root is in the container's environment, as in the official images.
BOX_START = """
umask 022; install -d -o mysql /run/mysqld; install -d -o postgres /run/postgresql /data; install -d -o mysql /data/my
mariadb-install-db --no-defaults --user=mysql --datadir=/data/my --auth-root-authentication-method=normal --skip-test-db >/dev/null
runuser -u postgres -- /usr/lib/postgresql/15/bin/initdb -D /data/pg -U crmroot -A trust --no-sync >/dev/null
mariadbd --no-defaults --user=mysql --datadir=/data/my --skip-networking --socket=/run/mysqld/mysqld.sock --performance-schema=OFF &
runuser -u postgres -- /usr/lib/postgresql/15/bin/postgres -D /data/pg -c listen_addresses= -c fsync=off -c shared_buffers=16MB &
wait
"""


def lay_mariadb(host: str, database: str) -> None:
    """One database on the host's own MariaDB, which runs as a unit of its own and is started if it was stopped."""
    world.write_files(host, {f"/etc/systemd/system/{NAME}": UNIT})
    world.shell(host, START)
    sql = f"DROP DATABASE IF EXISTS {database}; CREATE DATABASE {database}; USE {database};" + PEOPLE.format(rows=ROWS)
    client = ["mariadb", "--no-defaults", "--default-character-set=utf8mb4", "-S", "/run/mysqld/mysqld.sock"]
    world.execute(host, client, stdin=sql.encode())


def lay_box() -> None:
    """A container with a PostgreSQL and a MariaDB, each with the database crm; reached by the engine on dock1 alone."""
    engine.remove(BOX)
    labels = ["--label", world.LABEL, "--label", f"{lab.NAME}=no", "--label", f"{world.NAME}.stack=box"]
    environment = ["-e", "POSTGRES_USER=crmroot", "-e", f"MARIADB_ROOT_PASSWORD={PASSWORD}"]
    argv = ["docker", "run", "-d", "--init", "--name", BOX, "--network", "none", *labels, *environment]
    run([*argv, image.ensure_host_image(), "sh", "-c", BOX_START])
    wait_for("the servers in the box", lambda: engine.answers(BOX, ["mariadb-admin", "status"]) and engine.answers(BOX, ["pg_isready"]))
    wait_for("the superuser in the box", lambda: engine.answers(BOX, ["psql", "-U", "crmroot", "-d", "postgres", "-c", "SELECT 1"]))
    psql = ["psql", "-qU", "crmroot", "-v", "ON_ERROR_STOP=1", "-d"]
    engine.execute(BOX, [*psql, "postgres", "-c", "CREATE DATABASE crm"])
    table = f"CREATE TABLE people AS SELECT n, 'Zoë Müster, 田中 ' || n AS name FROM generate_series(1, {BOX_ROWS}) AS n"
    engine.execute(BOX, [*psql, "crm", "-c", table])
    word = PASSWORD.replace("'", "''")
    sql = "CREATE DATABASE crm; USE crm;" + PEOPLE.format(rows=BOX_ROWS) + f"ALTER USER root@localhost IDENTIFIED BY '{word}';"
    engine.execute(BOX, ["mariadb", "--default-character-set=utf8mb4"], stdin=sql.encode())
