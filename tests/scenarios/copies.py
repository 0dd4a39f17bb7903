# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The data sets: preserve and vault. What they leave is opened with the tools that any custodian has."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import sqlite3
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ansible_collections.sunset.crm.plugins.plugin_utils.record import ledger
from tests.lab.shell import run

from . import engines, world
from .applications import nowhere
from .base import Declaration, Moment, Scenario, facts

# As text, or as the hexadecimal digits in which MariaDB's exact rows are written.
PERSON = "Zoë Müster|5A6FC3AB204DC3BC73746572"
ROW = "Zoë Müster, 田中 {n}"
ROWS = {"calm": 50, "torn": 20000, "kept": 5}


def table(part: str) -> str:
    return (
        "CREATE TABLE people AS SELECT n, 'Zoë Müster, 田中 ' || n AS name, sqrt(n)::real AS share, md5(n::text) || md5((-n)::text) AS noise"
        f" FROM generate_series(1, {ROWS[part]}) AS n"
    )


def database(name: str, staging: str, **more: Any) -> Declaration:
    real = name.replace("-", "_")
    declared = {"kind": "database", "name": name, "engine": "postgresql", "database": real, "port": 5432, "staging": staging}
    return {**declared, "identity": {"database": real}, **more}


def mariadb(name: str, **more: Any) -> Declaration:
    real = name.replace("-", "_")
    declared = {"kind": "database", "name": name, "engine": "mariadb", "database": real, "staging": f"/srv/{name}/.staging"}
    return {**declared, "identity": {"database": real}, **more}


def boxed(engine: str) -> Declaration:
    """The database crm of one of the servers in the container."""
    name = f"preserve-{engine}-box-calm"
    declared = {"kind": "database", "name": name, "engine": engine, "database": "crm", "staging": f"/srv/{name}/.staging"}
    reach = {"kind": "container", "container": engines.BOX}
    return {**declared, "identity": {"database": "crm"}, "reach": reach, "uses": ["container:preserve-box-kept"]}


def sqlite(name: str, path: str) -> Declaration:
    declared = {"kind": "database", "name": name, "engine": "sqlite", "database": path, "staging": f"/srv/{name}/.staging"}
    return {**declared, "identity": {"path": path}}


def filestore(name: str) -> Declaration:
    path = f"/srv/{name}/files"
    return {"kind": "filestore", "name": name, "path": path, "staging": f"/srv/{name}/.staging", "identity": {"path": path}}


def lay_files(host: str, name: str) -> None:
    world.shell(host, f"rm -rf /srv/{name}")
    texts = {f"/srv/{name}/files/folder {n}/Übersicht-{n}.txt": f"{ROW.format(n=n)}\n" * 200 for n in range(20)}
    world.write_files(host, texts)


def lay_database(host: str, name: str, part: str) -> None:
    real = name.replace("-", "_")
    world.psql("postgres", f"DROP DATABASE IF EXISTS {real} WITH (FORCE)", host)
    world.psql("postgres", f"CREATE DATABASE {real}", host)
    world.psql(real, table(part), host)


def forget_vault(estate: str) -> None:
    world.shell("vault1", f"rm -rf /srv/vault/{estate} /dev/shm/sunset-vault*")


def access(host: str) -> int:
    """How many forced-command keys are in root's authorized_keys."""
    return int(world.shell(host, "grep -c '^restrict,command=' /root/.ssh/authorized_keys || true").strip())


def drop_access(host: str) -> None:
    world.shell(host, "sed -i '/^restrict,command=/d' /root/.ssh/authorized_keys")


LITE, VAULT_LITE = "/srv/preserve-lite-calm/crm.sqlite3", "/srv/vault-lite-calm/crm.sqlite3"
LAY_LITE = """
rm -rf $(dirname {path}); install -d $(dirname {path})
python3 - <<'P'
import sqlite3
c = sqlite3.connect("{path}")
c.execute("PRAGMA journal_mode = WAL")
c.execute("CREATE TABLE people (n INTEGER PRIMARY KEY, name TEXT)")
c.executemany("INSERT INTO people VALUES (?, ?)", [(n, "Zoë Müster, 田中 %d" % n) for n in range(70)])
c.commit()
P
"""
QUEUE_SOCKET = "/run/preserve-queue-calm.sock"
LAY_QUEUE = f"""
systemctl stop preserve-queue-calm.service 2>/dev/null || true
rm -rf /srv/preserve-queue-calm; install -d /srv/preserve-queue-calm/data
systemd-run -q --collect --unit preserve-queue-calm redis-server --port 0 --unixsocket {QUEUE_SOCKET} --save "" --dir /srv/preserve-queue-calm/data
i=0; until redis-cli -s {QUEUE_SOCKET} ping 2>/dev/null | grep -q PONG; do i=$((i + 1)); [ $i -lt 600 ] || exit 1; sleep 0.1; done
redis-cli -s {QUEUE_SOCKET} RPUSH queue:mail one two three >/dev/null
"""


class Preserve(Scenario):
    name = "preserve"
    moment = Moment(1.2, "database:preserve-torn", "dump", extra=("-e", "preserve_rate=600000"))

    def lay(self) -> None:
        drop_access("data1")
        forget_vault(self.estate_name)
        for part in world.PARTS:
            lay_database("data1", f"preserve-{part}", part)
            lay_files("data1", f"preserve-{part}")
        world.shell("data1", LAY_LITE.format(path=LITE))
        world.shell("data1", LAY_QUEUE)
        engines.lay_mariadb("data1", "preserve_maria_calm")
        world.shell("data1", "rm -rf /srv/preserve-maria-calm; install -d /srv/preserve-maria-calm")
        drop_access("dock1")
        world.shell("dock1", "rm -rf /srv/preserve-*; install -d /srv/preserve-postgresql-box-calm /srv/preserve-mariadb-box-calm")
        engines.lay_box()

    def declared(self) -> dict[str, list[Declaration]]:
        items: list[Declaration] = [nowhere()]
        for part in world.PARTS:
            name = f"preserve-{part}"
            items += [database(name, f"/srv/{name}/.staging"), filestore(name)]
        items += [sqlite("preserve-lite-calm", LITE), mariadb("preserve-maria-calm")]
        items.append({"kind": "database", "name": "preserve-queue-calm", "engine": "redis", "database": "all", "socket": QUEUE_SOCKET,
                      "staging": "/srv/preserve-queue-calm/.staging", "identity": {"dir": "/srv/preserve-queue-calm/data"}})  # fmt: skip
        # Something that writes stands on the kept data sets, and nobody has stopped it.
        uses = ["database:preserve-kept", "filestore:preserve-kept"]
        services = [{"unit": "preserve-kept-web.service", "ports": []}]
        # The container itself is the business of another scenario: here it is never stopped.
        stack = {"kind": "container", "name": "preserve-box-kept", "label": f"{world.NAME}.stack=box", "shared_engine": True}
        inside = [
            boxed("postgresql"),
            boxed("mariadb"),
            {**stack, "identity": {"containers": [engines.BOX]}, "staging": "/srv/preserve-box"},
        ]
        return {
            "data1": items,
            "dock1": inside,
            "app1": [{"kind": "application", "name": "preserve-kept", "uses": uses, "services": services}],
        }

    def look(self) -> dict[str, Any]:
        seen: dict[str, Any] = {"access": access("data1")}
        for part in world.PARTS:
            name, staging = f"preserve-{part}", f"/srv/preserve-{part}/.staging"
            recorded = [one for kind in ("database", "filestore") for one in self.result(f"{kind}:{name}", "dump").get("artefacts", [])]
            there = facts("data1", files=[f"{staging}/**/*.zst"])["files"]
            paths = {one["role"] + "@" + one["name"]: one["path"] for one in recorded}
            seen[part] = {
                "rows": int(world.psql(name.replace("-", "_"), "SELECT count(*) FROM people")),
                "staged": there,
                "altered": [one["path"] for one in recorded if there.get(one["path"]) != one["sha256"]],
                "readable_by_others": world.shell("data1", f"[ ! -d {staging} ] || find {staging} -maxdepth 0 -perm /077").split()
                + world.shell("data1", f"[ ! -d {staging} ] || find {staging} -name '*.zst' -perm /077").split(),
                "roles": sorted(one["role"] for one in recorded),
                **self._opened(paths),
            }
        return seen | self._others() | {name: self._text(*where) for name, where in self.TEXTS.items()}

    TEXTS = {
        "maria": ("data1", "database:preserve-maria-calm"),
        "box_postgresql": ("dock1", "database:preserve-postgresql-box-calm"),
        "box_mariadb": ("dock1", "database:preserve-mariadb-box-calm"),
    }

    def _text(self, host: str, item: str) -> dict[str, Any]:
        """How many of the people are in a dump, and what lies beside it; nothing of the password may be there."""
        recorded = self.result(item, "dump").get("artefacts", [])
        seen: dict[str, Any] = {"roles": sorted(one["role"] for one in recorded), "rows": 0, "password": ""}
        for one in recorded:
            if one["role"] == "dump":
                show = "pg_restore -a -t people -f -" if ".pgcustom" in one["path"] else "cat"
                find = f"{{ grep -oiE '{PERSON}' || true; }} | wc -l"
                seen["rows"] = int(world.shell(host, f"zstd -qdc {one['path']} | {show} | {find}"))
            there = world.shell(host, f"stat -c '%a %U' {one['path']}").split()
            seen["modes"] = sorted({*seen.get("modes", []), " ".join(there)})
        readings = [entry.record for entry in ledger.read(self.estate / "ledger.jsonl") if entry.record["kind"] == "outcome"]
        readings = [record for record in readings if record["item"] == item and record["aspect"] == "dump"]
        seen["first_run"] = [record["changed"] for record in readings if record["run"] == readings[0]["run"]]
        if recorded:
            seen["password"] = world.shell(host, "grep -rlaF zq7box /srv/preserve-* /tmp /dev/shm 2>/dev/null || true").strip()
        return seen

    def _others(self) -> dict[str, Any]:
        """The copies of SQLite and Redis, opened by Python's own sqlite3 and read as JSON."""
        seen: dict[str, Any] = {"lite": 0, "queue": []}
        for artefact in self.result("database:preserve-lite-calm", "dump").get("artefacts", []):
            if artefact["role"] == "dump":
                world.shell("data1", f"zstd -qdfc {artefact['path']} >/srv/opened.sqlite3")
                count = "import sqlite3; print(sqlite3.connect('/srv/opened.sqlite3').execute('SELECT count(*) FROM people').fetchone()[0])"
                seen["lite"] = int(world.shell("data1", f'python3 -c "{count}"; rm -f /srv/opened.sqlite3*'))
        for artefact in self.result("database:preserve-queue-calm", "dump").get("artefacts", []):
            if artefact["role"] == "dump":
                lines = [json.loads(line) for line in world.shell("data1", f"zstd -qdc {artefact['path']}").splitlines()]
                seen["queue"] = [[base64.b64decode(one["key"]).decode(), one["length"]] for one in lines if "key" in one]
        return seen

    def _opened(self, paths: dict[str, str]) -> dict[str, Any]:
        """The dump's rows and the archive's files, by pg_restore and tar."""
        dump = next((path for key, path in paths.items() if path.endswith(".pgcustom.zst")), "")
        archive = next((path for key, path in paths.items() if path.endswith(".tar.zst")), "")
        return {
            "dumped": int(world.shell("data1", f"zstd -qdc {dump} | pg_restore -a -t people -f - | grep -c 'Zoë Müster, 田中'"))
            if dump
            else 0,
            "archived": int(world.shell("data1", f"zstd -qdc {archive} | tar -tf - | grep -c txt")) if archive else 0,
        }


class Vault(Scenario):
    """calm: a database of each engine and a file store of data2; torn: a file store of store1; kept: one of data1 that nobody has copied."""

    name = "vault"
    hosts = {"calm": "data2", "torn": "store1", "kept": "data1"}
    moment = Moment(0.1, "filestore:vault-torn", "proof@vault1")

    def lay(self) -> None:
        forget_vault(self.estate_name)
        world.shell("data2", RELEASE)
        lay_database("data2", "vault-calm", "calm")
        engines.lay_mariadb("data2", "vault_maria_calm")
        world.shell("data2", "rm -rf /srv/vault-maria-calm; install -d /srv/vault-maria-calm")
        world.shell("data2", LAY_LITE.format(path=VAULT_LITE))
        for part, host in self.hosts.items():
            lay_files(host, f"vault-{part}")
        for host in ("data2", "store1"):
            drop_access(host)

    def declared(self) -> dict[str, list[Declaration]]:
        server = database("vault-calm", "/srv/vault-calm/.staging", unit="postgresql@15-main.service", data="/var/lib/postgresql")
        found: dict[str, list[Declaration]] = {host: [filestore(f"vault-{part}")] for part, host in self.hosts.items()}
        maria = mariadb("vault-maria-calm", port=3306, unit=engines.NAME, data="/var/lib/molecule-maria")
        found["data2"] += [server, maria, sqlite("vault-lite-calm", VAULT_LITE), nowhere()]
        return found

    def look(self) -> dict[str, Any]:
        return {part: self._package(part, host) for part, host in self.hosts.items()} | {
            "server": facts("data2", units=["postgresql@15-main.service", engines.NAME], ports=[5432, 3306]),
        }

    def _package(self, part: str, host: str) -> dict[str, Any]:
        bag = f"/srv/vault/{self.estate_name}/{host}"
        sealed = world.shell("vault1", f"[ -e {bag}/tagmanifest-sha256.txt ] && echo yes || echo no").strip() == "yes"
        seen: dict[str, Any] = {"sealed": sealed, "access": access(host)}
        if not sealed:
            return seen
        check = f"cd {bag} && sha256sum -c --quiet --strict tagmanifest-sha256.txt && sha256sum -c --quiet --strict manifest-sha256.txt && echo good"
        seen["manifests"] = world.shell("vault1", check).strip()
        plain = f"grep -rlaE 'Zoë|Müster' /srv/vault/{self.estate_name} /tmp /dev/shm || true"
        seen["plain_on_vault"] = world.shell("vault1", plain).split()
        seen["opened"] = self._open(bag, host)
        return seen

    def _open(self, bag: str, host: str) -> dict[str, Any]:
        """As the custodian does it at the own desk: the own key opens the package's, and that opens the files."""
        with TemporaryDirectory(prefix="molecule-", dir="/dev/shm") as name:
            desk = Path(name)
            wrapped = f"/srv/vault/{self.estate_name}/keys/{host}.bob.age"
            (desk / "wrapped").write_bytes(fetch(wrapped))
            run(["age", "-d", "-i", str(world.age_identity()[0]), "-o", str(desk / "identity"), str(desk / "wrapped")])
            found: dict[str, Any] = {}
            for path in world.shell("vault1", f"find {bag}/data -name '*.age'").split():
                (desk / "file").write_bytes(fetch(path))
                plain = run(["age", "-d", "-i", str(desk / "identity"), str(desk / "file")]).stdout
                if path.endswith(".tar.zst.age"):
                    found["files"] = run(["tar", "--zstd", "-tf", "-"], stdin=plain).stdout.decode().count(".txt")
                if path.endswith(".sqlite3.zst.age"):
                    (desk / "lite").write_bytes(run(["zstd", "-qdc"], stdin=plain).stdout)
                    with contextlib.closing(sqlite3.connect(desk / "lite")) as opened:
                        found["lite"] = opened.execute("SELECT count(*) FROM people").fetchone()[0]
                if "/database-vault-maria-calm/" in path and path.endswith(".sql.zst.age") and ".users." not in path:
                    found["maria"] = len(re.findall(f"(?i){PERSON}", run(["zstd", "-qdc"], stdin=plain).stdout.decode()))
                if path.endswith(".pgcustom.zst.age"):
                    raw = run(["zstd", "-qdc"], stdin=plain).stdout
                    text = world.execute("data1", ["pg_restore", "-a", "-t", "people", "-f", "-"], stdin=raw)
                    found["rows"] = text.count("Zoë Müster, 田中")
            return found


RELEASE = """
rm -rf /etc/systemd/system/postgresql@15-main.service* /run/systemd/system/postgresql@15-main.service*
systemctl daemon-reload
systemctl start postgresql@15-main.service
"""


def fetch(path: str) -> bytes:
    return base64.b64decode(world.execute("vault1", ["base64", path]))
