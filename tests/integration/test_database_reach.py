# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""database_dump over TCP with a CRM's own account, and inside a container; what shows that nobody wrote; several at a time.

The host of these tests has the engine's socket, so that it reaches the container beside it as a real host does.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from ansible_collections.sunset.crm.plugins.module_utils._fingerprint import engines as fingerprint_engines
from tests.integration.host_container import Failed, docker, lab_arguments
from tests.integration.preserve_servers import MY_COPY_SOCKET, PG_COPY_PORT, STAGING, Servers

CORE = "zq7Core"  # stands in the password in any spelling of it
PASSWORD = f' it\'s "a" {CORE}\\ :#%x '
BOX, VOLUME = "sunset-test-reach-db", "sunset-test-reach-db"

POSTGRESQL = f"""
CREATE ROLE shop LOGIN PASSWORD '{PASSWORD.replace("'", "''")}'; CREATE ROLE staff; GRANT staff TO shop;
CREATE DATABASE shop OWNER shop;
"""
SHOP = """
SET ROLE shop;
CREATE TABLE leads (id int PRIMARY KEY, t text); INSERT INTO leads SELECT g, repeat(md5(g::text), 10) FROM generate_series(1, 5000) g;
SELECT lo_from_bytea(0, decode(repeat('ab', 5000), 'hex')); SELECT lo_create(0);
SELECT lo_put((SELECT max(oid) FROM pg_largeobject_metadata), 100000, 'after a hole');
CREATE SEQUENCE sq; SELECT nextval('sq');
"""
MARIADB = """
CREATE DATABASE {0}; USE {0};
CREATE TABLE leads (id int PRIMARY KEY, f float, t text); INSERT INTO leads SELECT seq, RAND(seq), REPEAT(MD5(seq), 10) FROM seq_1_to_8000;
CREATE TABLE log (id int AUTO_INCREMENT PRIMARY KEY, t text) ENGINE=MyISAM; INSERT INTO log (t) SELECT REPEAT('x', 300) FROM seq_1_to_3000;
CREATE VIEW v AS SELECT id FROM leads;
"""
BOX_START = """
umask 022; install -d -o mysql /run/mysqld; install -d -o postgres /run/postgresql
if [ ! -e /data/my ]; then
    install -d -o postgres -m 0700 /data/pg; install -d -o mysql /data/my
    mariadb-install-db --no-defaults --user=mysql --datadir=/data/my --auth-root-authentication-method=normal --skip-test-db >/dev/null
    runuser -u postgres -- /usr/lib/postgresql/15/bin/initdb -D /data/pg -U crmroot -A trust --no-sync >/dev/null
fi
mariadbd --no-defaults --user=mysql --datadir=/data/my --skip-networking --socket=/run/mysqld/mysqld.sock &
runuser -u postgres -- /usr/lib/postgresql/15/bin/postgres -D /data/pg -c listen_addresses= -c fsync=off &
wait
"""

TCP_PG: dict[str, Any] = {
    "item": "database:shop", "engine": "postgresql", "database": "shop", "staging": STAGING,
    "reach": {"kind": "tcp", "host": "127.0.0.1", "config": {"format": "env", "path": "/srv/shop/.env"}},
}  # fmt: skip
TCP_MY: dict[str, Any] = {
    "item": "database:old", "engine": "mariadb", "database": "old", "staging": STAGING,
    "reach": {"kind": "tcp", "host": "127.0.0.1", "config": {"format": "frappe", "path": "/srv/bench/one/site_config.json"}},
}  # fmt: skip
BOX_PG: dict[str, Any] = {
    "item": "database:boxed", "engine": "postgresql", "database": "crm", "staging": STAGING, "reach": {"kind": "container", "container": BOX},
}  # fmt: skip
BOX_MY: dict[str, Any] = dict(BOX_PG, item="database:boxed-old", engine="mariadb")
TCP = pytest.mark.parametrize("options", [TCP_PG, TCP_MY], ids=["postgresql", "mariadb"])
PART = f"find {STAGING} -name '*.zst.part' 2>/dev/null | grep -q ."
BOXED = pytest.mark.parametrize("options", [BOX_PG, BOX_MY], ids=["postgresql", "mariadb"])


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    engine = Path("/usr/bin/docker") if Path("/usr/bin/docker").exists() else Path(shutil.which("docker") or "")
    mounts = ["-v", f"{engine.resolve()}:/usr/local/bin/docker:ro", "-v", "/var/run/docker.sock:/srv/docker.sock"]
    with Servers("sunset-test-reach", *mounts) as host:
        host.shell("ln -s /srv/docker.sock /run/docker.sock")
        host.psql(POSTGRESQL)
        host.psql(SHOP, "shop")
        host.maria(MARIADB.format("old"))
        word = PASSWORD.replace("\\", "\\\\").replace("'", "''")
        host.maria(f"CREATE USER shop@'127.0.0.1' IDENTIFIED BY '{word}', shop@localhost IDENTIFIED BY '{word}'")
        host.maria("GRANT ALL ON old.* TO shop@'127.0.0.1'; GRANT ALL ON old.* TO shop@localhost")
        host.maria("CREATE DEFINER = shop@localhost FUNCTION old.one() RETURNS int DETERMINISTIC RETURN 1")
        host.write("/srv/shop/.env", f"DATABASE_URL=postgresql://shop:{quote(PASSWORD, safe='')}@localhost:5432/shop\n", "0640")
        host.write("/srv/bench/one/site_config.json", json.dumps({"db_name": "old", "db_user": "shop", "db_password": PASSWORD}))
        yield host


def surveyed(servers: Servers, options: dict[str, Any], **more: Any) -> dict[str, Any]:
    declared = {key: value for key, value in options.items() if key not in ("item", "staging")}
    item = {"kind": "database", "name": options["item"].partition(":")[2], **declared, **more}
    seen = servers.module("host_survey", items=[item])["survey"]["expected"][options["item"]]
    assert isinstance(seen, dict)
    return seen


@pytest.fixture(scope="module")
def box(servers: Servers) -> Iterator[Servers]:
    """A container with both engines; the password of MariaDB's root is in its environment, as in the official images."""
    docker("rm", "-f", "-v", BOX, check=False)
    docker("volume", "rm", VOLUME, check=False)
    try:
        start_box()
        wait_for_box(servers, "")
        docker("exec", "-i", BOX, "psql", "-h", "/run/postgresql", "-U", "crmroot", "-d", "postgres", "-c", "CREATE DATABASE crm")
        sql = SHOP.replace("SET ROLE shop;", "CREATE ROLE clerk LOGIN PASSWORD 'x';").replace("5000) g", "40000) g")
        docker("exec", "-i", BOX, "psql", "-h", "/run/postgresql", "-qU", "crmroot", "-d", "crm", stdin=sql.encode())
        docker(
            "exec",
            "-i",
            BOX,
            "env",
            "-u",
            "MYSQL_HOST",
            "mariadb",
            stdin=MARIADB.format("crm").replace("seq_1_to_3000", "seq_1_to_30000").encode(),
        )
        word = PASSWORD.replace("\\", "\\\\").replace("'", "''")
        docker("exec", "-i", BOX, "env", "-u", "MYSQL_HOST", "mariadb", stdin=f"ALTER USER root@localhost IDENTIFIED BY '{word}'".encode())
        yield servers
    finally:
        docker("rm", "-f", "-v", BOX, check=False)
        docker("volume", "rm", VOLUME, check=False)


def start_box() -> None:
    environment = [
        "-e",
        "POSTGRES_USER=crmroot",
        "-e",
        f"MARIADB_ROOT_PASSWORD={PASSWORD}",
        "-e",
        "PGHOST=/nowhere",
        "-e",
        "MYSQL_HOST=nowhere",
    ]
    image = lab_arguments()[1]
    docker("run", "-d", "--init", "--name", BOX, "--network", "none", "-v", f"{VOLUME}:/data", *environment, image, "sh", "-c", BOX_START)


def wait_for_box(servers: Servers, password: str) -> None:
    ready = 'env -u MYSQL_HOST MYSQL_PWD="$MARIADB_ROOT_PASSWORD" mariadb-admin status || mariadb-admin status; pg_isready -h /var/run/postgresql'
    servers.wait(lambda: "accepting" in docker("exec", BOX, "sh", "-c", f"({ready}) 2>/dev/null && echo accepting", check=False))


@pytest.fixture(autouse=True)
def _fresh(servers: Servers) -> None:
    servers.wait(lambda: not servers.jobs())
    servers.shell(f"rm -rf {STAGING}")


def dump(servers: Servers, options: dict[str, Any], check: bool = False, **more: Any) -> dict[str, Any]:
    return servers.module("database_dump", check=check, **dict(options, **more))


def secrets_left(servers: Servers) -> str:
    return servers.shell("find /dev/shm /run -path '*sunset-reach*' -print")


def differences(servers: Servers, result: dict[str, Any]) -> list[dict[str, Any]]:
    """The copy, restored on the second server, against the fingerprint that came with it."""
    source = json.loads(servers.shell(f"zstd -qdc {servers.staged(result, 'fingerprint')}"))
    engine, name, method = source["engine"], source["database"], source["method"]
    if engine == "postgresql":
        servers.shell(f"runuser -u postgres -- dropdb -p {PG_COPY_PORT} --if-exists {name}")
        servers.restore_postgresql(result)
        copy = servers.fingerprint(engine, name, port=PG_COPY_PORT, method=method)
    else:
        # Without the accounts: the box's root has a password, and would lock this test out of the server that it restores on.
        client = f"mariadb --no-defaults --default-character-set=utf8mb4 -S {MY_COPY_SOCKET}"
        servers.shell(f"zstd -qdc {servers.staged(result, 'dump')} | {client}")
        copy = servers.fingerprint(engine, name, socket=MY_COPY_SOCKET, method=method)
    return [one for one in fingerprint_engines.compare(source, copy) if not one["derived"]]


@TCP
def test_a_crms_own_account_makes_a_copy_that_is_equal(servers: Servers, options: dict[str, Any]) -> None:
    """Four times in a row; what this account cannot read is said and not claimed."""
    answers = [dump(servers, options, check=check) for check in (True, False, True, False)]
    assert [one["changed"] for one in answers] == [True, True, False, False]
    source = answers[1]["result"]["source"]
    assert source["reach"] == "tcp" and "not readable by this account" in source["roles"]
    roles = {one["role"] for one in answers[1]["result"]["artefacts"]}
    assert roles == ({"dump", "globals", "fingerprint"} if options is TCP_PG else {"dump", "fingerprint"})
    if options is TCP_PG:
        assert source["identity"]["system_identifier"] and "proven" not in source["identity"]
        assert CORE not in servers.shell(f"zstd -qdc {servers.staged(answers[1]['result'], 'globals')}")
    else:
        assert source["identity"]["proven"] == "unknown" and source["without_transactions"] == 1
    assert differences(servers, answers[1]["result"]) == []
    assert secrets_left(servers) == "" and CORE not in json.dumps(answers)


@TCP
def test_the_password_is_nowhere(servers: Servers, options: dict[str, Any]) -> None:
    looked = f"grep -lsa {CORE} /proc/[0-9]*/cmdline /proc/[0-9]*/environ || true; grep -rlsa {CORE} {STAGING} /tmp /var/log /run || true"
    with servers.held(PART, "database_dump", **dict(options, rate=300000)) as process:
        found = [servers.shell(looked).split() for _ in range(5)]
        # grep finds its own command line; nothing else may hold the word.
        grep = servers.shell(f"grep -sa {CORE} /proc/[0-9]*/cmdline | tr '\\0' ' ' || true")
        secret = servers.shell("find /dev/shm/sunset-reach-* -printf '%m %u %y\\n'").splitlines()
    assert "mariadb" not in grep and "psql" not in grep and "pg_dump" not in grep, grep
    assert not [path for one in found for path in one if not path.endswith("/cmdline")]
    assert sorted(set(secret)) == ["600 root f", "700 root d"]
    out, err = process.communicate(timeout=120)
    assert CORE.encode() not in out + err and json.loads(out)["changed"]
    assert secrets_left(servers) == ""
    assert CORE not in servers.shell(f"cat {STAGING}/*/job-*/spec.json {STAGING}/*/job-*/log {STAGING}/*/finished.json")


@TCP
def test_after_a_kill_the_next_run_removes_the_password(servers: Servers, options: dict[str, Any]) -> None:
    process = servers.start_module("database_dump", **dict(options, rate=5000))
    servers.wait(lambda: any(one.endswith(".part") for one in servers.staged_names()))
    servers.kill_module()
    process.wait(60)
    servers.kill_job()
    assert "sunset-reach" in secrets_left(servers)
    assert dump(servers, options)["changed"]
    assert secrets_left(servers) == ""


def test_row_security_and_forbidden_tables_are_refusals(servers: Servers) -> None:
    """A copy with fewer rows than the table has must not be possible."""
    servers.psql("CREATE TABLE hidden (a int); INSERT INTO hidden VALUES (1), (2); GRANT SELECT ON hidden TO shop;"
                 "ALTER TABLE hidden ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON hidden USING (a = 1)", "shop")  # fmt: skip
    try:
        with pytest.raises(Failed, match='row-level security policy for table "hidden"'):
            dump(servers, TCP_PG)
        servers.psql("REVOKE ALL ON hidden FROM shop; ALTER TABLE hidden DISABLE ROW LEVEL SECURITY", "shop")
        with pytest.raises(Failed, match="permission denied for table hidden"):
            dump(servers, TCP_PG)
    finally:
        servers.psql("DROP TABLE hidden", "shop")
    assert servers.staged_names() == [] and secrets_left(servers) == ""


def test_an_account_that_does_not_see_everything_is_refused(servers: Servers) -> None:
    """MariaDB hides what an account has no right on: its catalogue would just be shorter."""
    servers.maria(
        "REVOKE EXECUTE, TRIGGER, EVENT ON old.* FROM shop@'127.0.0.1'; REVOKE EXECUTE, TRIGGER, EVENT ON old.* FROM shop@localhost"
    )
    try:
        with pytest.raises(Failed, match="lacks EVENT, EXECUTE, TRIGGER on the database"):
            dump(servers, TCP_MY)
    finally:
        servers.maria("GRANT ALL ON old.* TO shop@'127.0.0.1'; GRANT ALL ON old.* TO shop@localhost")


def test_a_routine_whose_body_is_hidden_is_a_refusal(servers: Servers) -> None:
    servers.maria("CREATE FUNCTION old.two() RETURNS int DETERMINISTIC RETURN 2")
    try:
        with pytest.raises(Failed, match="insufficient privileges to SHOW CREATE FUNCTION `two`"):
            dump(servers, TCP_MY)
    finally:
        servers.maria("DROP FUNCTION old.two")
    assert servers.staged_names() == []


@pytest.mark.parametrize(
    ("options", "change", "message"),
    [
        (TCP_PG, {"host": "10.0.0.1"}, "names host localhost, declared is 10.0.0.1"),
        (TCP_PG, {"port": 5433}, "names port 5432, declared is 5433"),
        (TCP_PG, {"config": {"format": "env", "path": "/srv/none/.env"}}, "there is no such file"),
        (TCP_PG, {"config": {"format": "suitecrm", "path": "/srv/shop/.env"}}, "no php to evaluate it"),
        (TCP_PG, {"config": None}, "reach.config is missing"),
        (TCP_MY, {"config": {"format": "env", "path": "/srv/shop/.env"}}, "is for engine postgresql, declared is mariadb"),
        (TCP_MY, {"port": 3999}, "Can't connect to server"),
        (BOX_PG, {"container": "a b; rm"}, "expected the name of the container"),
        (BOX_PG, {"container": "sunset-test-reach-none"}, "was not found .docker: .*[Nn]o such"),
    ],
)
def test_a_wrong_reach_is_one_clear_message(servers: Servers, options: dict[str, Any], change: dict[str, Any], message: str) -> None:
    with pytest.raises(Failed, match=message) as caught:
        dump(servers, options, reach={**options["reach"], **change})
    assert CORE not in json.dumps(caught.value.answer)
    assert servers.staged_names() == [] and secrets_left(servers) == ""


@pytest.mark.parametrize(
    ("engine", "name"), [("mssql", "Microsoft SQL Server"), ("oracle", "Oracle Database"), ("mongodb", "MongoDB"), ("ingres", "ingres")]
)
def test_engines_that_are_not_supported_are_named(servers: Servers, engine: str, name: str) -> None:
    with pytest.raises(Failed, match=f"{name}.* is not supported; expected one of mariadb.*own tools.*classified by a person"):
        dump(servers, TCP_PG, engine=engine)


def test_two_databases_of_one_server_at_the_same_time(servers: Servers) -> None:
    """Each is an item of its own; neither sees the other's work as a writer."""
    servers.maria("CREATE DATABASE IF NOT EXISTS second; CREATE TABLE IF NOT EXISTS second.t (a int); INSERT INTO second.t VALUES (1)")
    both = [
        {"item": f"database:{name}", "engine": "mariadb", "database": name, "staging": STAGING, "port": 3306} for name in ("old", "second")
    ] + [{"item": f"database:pg-{name}", "engine": "postgresql", "database": name, "staging": STAGING} for name in ("shop", "postgres")]
    running = [servers.start_module("database_dump", **one, rate=2000000) for one in both]
    answers = [json.loads(one.communicate(timeout=120)[0]) for one in running]
    assert [one.get("changed") for one in answers] == [True] * 4, answers
    assert [one["result"]["source"]["database"] for one in answers] == ["old", "second", "shop", "postgres"]
    assert not any(dump(servers, one, check=True)["changed"] for one in both)


LOCAL_PG = {"item": "database:shop", "engine": "postgresql", "database": "shop", "staging": STAGING}
LOCAL_MY = {"item": "database:old", "engine": "mariadb", "database": "old", "staging": STAGING}


@pytest.mark.parametrize("options", [LOCAL_PG, LOCAL_MY], ids=["postgresql", "mariadb"])
def test_a_quiet_server_is_shown_to_be_quiet(servers: Servers, options: dict[str, Any]) -> None:
    source = dump(servers, options)["result"]["source"]
    assert source["writers"]["quiet"] == "yes", source["writers"]
    assert source["consistency_means"] == ("snapshot" if options is LOCAL_PG else "equal before and after")
    assert source["roles"] == "complete"


def test_a_writer_of_postgresql_is_seen_and_outside_the_snapshot(servers: Servers) -> None:
    late = "runuser -u postgres -- psql -XqAt -v ON_ERROR_STOP=1 -d shop -c \"INSERT INTO leads VALUES (900001, 'late')\""
    with servers.promptly(PART.replace("*", "*.pgcustom"), late):
        process = servers.start_module("database_dump", **dict(LOCAL_PG, rate=300000))
    out, _err = process.communicate(timeout=120)
    source = json.loads(out)["result"]["source"]
    assert source["writers"]["quiet"] == "no" and source["writers"]["position_kind"] == "counters"
    assert source["rows"] == 5000, "the copy is of the moment before"
    servers.psql("DELETE FROM leads WHERE id = 900001", "shop")


def test_a_session_that_stays_is_not_called_quiet(servers: Servers) -> None:
    """It wrote nothing that was counted, but it could have: unknown is not yes."""
    servers.shell("systemd-run -q --unit idle-client sh -c 'sleep 300 | mariadb --no-defaults -S /run/mysqld/mysqld.sock old'")
    try:
        servers.wait(lambda: "old" in servers.maria("SELECT DB FROM information_schema.PROCESSLIST WHERE ID <> CONNECTION_ID()"))
        writers = dump(servers, LOCAL_MY)["result"]["source"]["writers"]
        assert writers["sessions_before"] == 1 and writers["quiet"] == "unknown"
    finally:
        servers.shell("systemctl stop idle-client")


def test_a_table_without_transactions_and_a_writer_is_a_refusal(servers: Servers) -> None:
    late = "mariadb --no-defaults -S /run/mysqld/mysqld.sock -e \"INSERT INTO old.log (t) VALUES ('late')\""
    with servers.promptly(PART.replace("*", "*.sql"), f"sleep 0.3; {late}"):
        process = servers.start_module("database_dump", **dict(LOCAL_MY, rate=300000))
    out, _err = process.communicate(timeout=120)
    assert b"changed while the dump was made" in out and b"table log (MyISAM: no snapshot covers it)" in out, out
    assert servers.staged_names() == []
    assert dump(servers, LOCAL_MY)["changed"]


@BOXED
def test_inside_a_container(box: Servers, options: dict[str, Any]) -> None:
    answers = [dump(box, options, check=check) for check in (True, False, True, False)]
    assert [one["changed"] for one in answers] == [True, True, False, False]
    result = answers[1]["result"]
    assert result["source"]["reach"] == "container" and result["source"]["roles"] == "complete"
    if options is BOX_MY:
        assert result["source"]["identity"]["volume"] == VOLUME
        assert "users" in {one["role"] for one in result["artefacts"]}
        assert [one for one in differences(box, result) if one["kind"] not in ("account", "grant on the database")] == []
    else:
        assert [one for one in differences(box, result) if one["kind"] not in ("role", "membership")] == []
    assert CORE not in json.dumps(answers)
    assert secrets_left(box) == "" and docker("exec", BOX, "ls", "-A", "/dev/shm").split() == [
        one for one in docker("exec", BOX, "ls", "-A", "/dev/shm").split() if one.startswith("PostgreSQL")
    ]


@BOXED
def test_killed_while_it_works_inside_a_container(box: Servers, options: dict[str, Any]) -> None:
    """The client inside outlives the one outside: the next run ends it."""
    tool = "pg_dump" if options is BOX_PG else "mariadb-dump"
    process = box.start_module("database_dump", **dict(options, rate=400000))
    box.wait(lambda: bool(docker("exec", BOX, "pgrep", "-x", tool, check=False)))
    inside = docker("exec", BOX, "pgrep", "-x", tool).split()
    held = docker("exec", BOX, "sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
    assert CORE not in held
    box.kill_module()
    process.wait(60)
    box.kill_job()
    answer = dump(box, options)
    assert answer["changed"] and inside
    assert not set(inside) & set(docker("exec", BOX, "pgrep", "-x", tool, check=False).split())
    assert ".sunset" not in docker("exec", BOX, "ls", "-A", "/dev/shm") and secrets_left(box) == ""


@BOXED
def test_a_container_that_dies_leaves_no_copy_and_one_made_anew_is_the_same_server(box: Servers, options: dict[str, Any]) -> None:
    first = dump(box, options)["result"]["source"]["identity"]
    box.shell(f"rm -rf {STAGING}")
    process = box.start_module("database_dump", **dict(options, rate=400000))
    box.wait(lambda: bool(docker("exec", BOX, "pgrep", "-x", "pg_dump|mariadb-dump", check=False)))
    docker("kill", BOX)
    out, _err = process.communicate(timeout=120)
    assert b'"failed": true' in out and b"code 137" in out, out[:600]
    assert box.staged_names() == []
    with pytest.raises(Failed, match="does not run; start it"):
        dump(box, options)
    docker("rm", "-v", BOX)
    start_box()
    wait_for_box(box, PASSWORD)
    answer = dump(box, options)
    # Not the same dump: a PostgreSQL that died goes on with its sequences up to 32 values later.
    assert answer["result"]["source"]["identity"] == first
    docker("restart", BOX)
    wait_for_box(box, PASSWORD)
    assert not dump(box, options)["changed"]


@TCP
def test_the_survey_goes_the_same_way(servers: Servers, options: dict[str, Any]) -> None:
    """What the survey takes for the item's identity is what the dump finds; where the data lie has to be said."""
    found = surveyed(servers, options, data="/srv")
    dumped = servers.module("database_dump", check=True, **options)["evidence"]
    assert (found["found"], found["detail"]) in (("yes", ""), ("yes", "its data lie on no block device that can be seen"))
    assert found["identity"]["database"] == options["database"] and dumped["verdict"] == "unknown"
    assert surveyed(servers, options, data="elsewhere") == {**found, "media": [], "detail": ""}
    untold = surveyed(servers, options)
    assert untold["found"] == "unknown" and "declare data" in untold["detail"]
    assert CORE not in json.dumps([found, untold])


@BOXED
def test_the_survey_looks_into_the_container(box: Servers, options: dict[str, Any]) -> None:
    found = surveyed(box, options)
    copied = box.module("database_dump", **options)["result"]["source"]["identity"]
    assert found["found"] == "yes" and found["identity"] == copied
    gone = surveyed(box, {**options, "reach": {"kind": "container", "container": "sunset-test-nobody"}})
    assert gone["found"] == "unknown" and "was not found" in gone["detail"]
