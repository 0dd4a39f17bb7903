# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One container with a source and a throw-away server of each engine, and the restore that the tests compare with.

The restore here is done by hand with the engines' own tools: the collection's own proof is tested elsewhere, and a copy that only
its maker can read would be none.
"""

from __future__ import annotations

import json
from typing import Any

from tests.integration.host_container import LIBRARY, HostContainer

STAGING = "/srv/staging"
PG_COPY_PORT = 5433
MY_COPY_SOCKET = "/srv/mycopy/s.sock"

FINGERPRINT = f"""
import json, sys
sys.path.insert(0, {LIBRARY!r})
from ansible_collections.sunset.crm.plugins.module_utils._fingerprint import engines as f
engine, database, port, socket, method = json.load(sys.stdin)
with f.open_session(engine, database, port=port, socket=socket, run_as="postgres" if engine == "postgresql" else None) as s:
    json.dump(f.take(engine, s, database, method), sys.stdout)
"""

START = """
pg_createcluster --start-conf=manual 15 main >/dev/null
pg_createcluster --start-conf=manual 15 copy -p 5433 >/dev/null
echo "timezone = 'Europe/Paris'" >>/etc/postgresql/15/main/postgresql.conf
for one in main copy; do
    printf 'fsync = off\\nmax_connections = 20\\nshared_buffers = 32MB\\n' >>/etc/postgresql/15/$one/postgresql.conf
    systemctl start postgresql@15-$one
done
install -d -o mysql /srv/mysource /srv/mycopy
for one in mysource mycopy; do
    mariadb-install-db --user=mysql --datadir=/srv/$one/data --auth-root-authentication-method=socket --skip-test-db >/dev/null
    chown mysql /srv/$one
done
install -d -o mysql /run/mysqld
systemd-run -q --unit source-maria mariadbd --no-defaults --user=mysql --datadir=/srv/mysource/data \
    --socket=/run/mysqld/mysqld.sock --port=3306 --bind-address=127.0.0.1
systemd-run -q --unit copy-maria mariadbd --no-defaults --user=mysql --datadir=/srv/mycopy/data \
    --socket=/srv/mycopy/s.sock --skip-networking
for one in /run/mysqld/mysqld.sock /srv/mycopy/s.sock; do
    i=0
    until mariadb-admin --no-defaults -S $one ping >/dev/null 2>&1; do
        i=$((i + 1)); [ $i -lt 600 ] || exit 1; sleep 0.2
    done
done
"""


class Servers(HostContainer):
    def __enter__(self) -> Servers:
        super().__enter__()
        try:
            self.shell(START)
        except BaseException:
            self.__exit__()
            raise
        return self

    def psql(self, sql: str, database: str = "postgres", port: int = 5432) -> str:
        name = database.replace("\\", "\\\\").replace("'", "\\'")
        argv = ["runuser", "-u", "postgres", "--", "psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "-d", f"port={port} dbname='{name}'"]
        return self.run(*argv, stdin=sql)

    def maria(self, sql: str, socket: str = "/run/mysqld/mysqld.sock") -> str:
        argv = ["mariadb", "--no-defaults", "--default-character-set=utf8mb4", "-N", "-S", socket]
        return self.run(*argv, stdin=sql)

    def fingerprint(
        self, engine: str, database: str, port: int | None = None, socket: str | None = None, method: str | None = None
    ) -> dict[str, Any]:
        found = json.loads(self.run("python3", "-c", FINGERPRINT, stdin=json.dumps([engine, database, port, socket, method])))
        assert isinstance(found, dict)
        return found

    def staged(self, result: dict[str, Any], role: str) -> str:
        (path,) = [one["path"] for one in result["artefacts"] if one["role"] == role]
        return str(path)

    def restore_postgresql(self, result: dict[str, Any]) -> None:
        """The roles first (that "postgres" exists is the one error that belongs there), then the database under its own name."""
        dump, roles = self.staged(result, "dump"), self.staged(result, "globals")
        self.shell(
            f"zstd -qdc {roles} | runuser -u postgres -- psql -Xq -p {PG_COPY_PORT} 2>&1 | grep -v '\"postgres\" already exists' || true"
        )
        self.shell(f"zstd -qdc {dump} | runuser -u postgres -- pg_restore -e -C -p {PG_COPY_PORT} -d postgres")

    def restore_mariadb(self, result: dict[str, Any]) -> None:
        client = f"mariadb --no-defaults --default-character-set=utf8mb4 -S {MY_COPY_SOCKET}"
        for role in ("users", "dump"):
            self.shell(f"zstd -qdc {self.staged(result, role)} | {client}")

    def jobs(self) -> list[str]:
        return self.shell("pgrep -f '[f]rame.py' || true").split()

    def kill_job(self) -> None:
        pids = self.jobs()
        assert pids, "no job runs"
        self.run("kill", "-9", *pids)
        self.wait(lambda: not self.jobs())

    def staged_names(self) -> list[str]:
        return self.shell(f"find {STAGING} -type f -name '*.zst*' -printf '%f\\n' 2>/dev/null || true").split()
