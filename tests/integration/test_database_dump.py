# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""database_dump against a real PostgreSQL 15 and a real MariaDB 10.11: each copy is restored and compared."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator
from typing import Any

import pytest

from ansible_collections.sunset.crm.plugins.module_utils._fingerprint import engines as fingerprint_engines
from ansible_collections.sunset.crm.plugins.module_utils._recorded import make_receipt
from tests.integration.host_container import Failed, flip
from tests.integration.preserve_servers import MY_COPY_SOCKET, PG_COPY_PORT, STAGING, Servers

PG_NAME = "cr\"m='x"
MY_NAME = "old`crm"

POSTGRESQL = r"""
CREATE EXTENSION pg_trgm;
CREATE ROLE clerk LOGIN PASSWORD 'secret'; CREATE ROLE staff; GRANT staff TO clerk; ALTER ROLE clerk SET work_mem = '5MB';
CREATE TABLE "na""me; -- \ x" (id serial PRIMARY KEY, "t" text, "select" float4, d float8, v varchar(10) CHECK (v IN ('a', 'b')),
    ts timestamptz DEFAULT now(), b bytea, j json, n numeric, i interval, m money);
INSERT INTO "na""me; -- \ x" (t, "select", d, v, b, j, n, i, m)
    SELECT 'Zoë 😀 ' || g, random(), random(), 'a', '\x00ff', '{"a": 1}', g / 3.0, '1 mon 1 day', g FROM generate_series(1, 500) g;
CREATE TABLE "new
line" (a int GENERATED ALWAYS AS IDENTITY, b text); INSERT INTO "new
line" (b) VALUES ('x'), (NULL), ('');
CREATE TABLE nothing (); INSERT INTO nothing DEFAULT VALUES;
CREATE VIEW v1 AS SELECT * FROM "na""me; -- \ x" WHERE v IN ('a', 'b');
CREATE MATERIALIZED VIEW mv AS SELECT count(*) FROM nothing; CREATE MATERIALIZED VIEW mv2 AS SELECT 1 AS one WITH NO DATA;
CREATE FUNCTION f1() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
CREATE TRIGGER t1 BEFORE INSERT ON nothing FOR EACH ROW EXECUTE FUNCTION f1();
CREATE SEQUENCE sq; SELECT nextval('sq'), nextval('sq');
CREATE TYPE mood AS ENUM ('good', 'bad'); CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE TABLE part (a int) PARTITION BY RANGE (a); CREATE TABLE part1 PARTITION OF part FOR VALUES FROM (1) TO (10);
INSERT INTO part VALUES (3);
CREATE INDEX ON "na""me; -- \ x" USING gin (t gin_trgm_ops);
SELECT lo_from_bytea(0, decode(repeat('ab', 5000), 'hex')); SELECT lo_create(0);
SELECT lo_put((SELECT max(oid) FROM pg_largeobject_metadata), 100000, 'after a hole');
CREATE SCHEMA "S 2"; CREATE TABLE "S 2"."Ünï" (x int); COMMENT ON TABLE "S 2"."Ünï" IS 'kept';
GRANT SELECT ON "S 2"."Ünï" TO staff; ALTER TABLE nothing ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON nothing USING (true);
DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET TimeZone = %L', current_database(), 'Europe/Zurich'); END $$;
"""

MARIADB = r"""
CREATE DATABASE `old``crm` CHARACTER SET utf8mb4; USE `old``crm`;
CREATE USER clerk@localhost IDENTIFIED BY 'secret'; GRANT SELECT, INSERT ON `old``crm`.* TO clerk@localhost;
CREATE TABLE leads (id int PRIMARY KEY, f float, f2 float(7,4), d double, d2 double(10,2), dc decimal(20,6), bt bit(13),
    vb varbinary(20), ts timestamp(6) NULL, tx longtext, bl longblob, e enum('', 'a', 'b'), s set('x', 'y'), js json,
    l1 varchar(20) CHARACTER SET latin1, g geometry, vv int AS (id * 2) VIRTUAL, pp int AS (id * 3) STORED, y year, ip inet6,
    un bigint unsigned, dt date, tm time(3), inv int INVISIBLE DEFAULT 7);
INSERT INTO leads (id, f, f2, d, d2, dc, bt, vb, ts, tx, bl, e, s, js, l1, g, y, ip, un, dt, tm)
    SELECT seq, RAND(seq) * 1000, RAND(seq) * 100, RAND(seq), RAND(seq) * 100, RAND(seq) * 1000, seq % 8000, UNHEX(SHA1(seq)),
    FROM_UNIXTIME(1600000000 + seq + 0.123), CONCAT('Zoë 😀 \\ '' \n ', seq), UNHEX(REPEAT(MD5(seq), 10)), IF(seq % 3 = 0, '', 'a'),
    'x,y', '{"a": 1}', 'é', ST_GeomFromText('POINT(1 2)', 4326), 2020, '::1', 18446744073709551615 - seq, '2020-01-01',
    '10:00:00.123' FROM seq_1_to_3000;
INSERT INTO leads (id, f, d) VALUES (9001, NULL, NULL), (9002, -0e0, -0e0), (9003, 3.4e38, 1.7e308), (9004, 1e-40, 5e-324),
    (9005, 16777217, 0.1);
CREATE TABLE `na``me; -- \` (`a\``b` int, `c"d` text) ENGINE=MyISAM; INSERT INTO `na``me; -- \` VALUES (1, 'x'), (NULL, NULL);
CREATE TABLE history (id int PRIMARY KEY, f float, v text) WITH SYSTEM VERSIONING;
INSERT INTO history VALUES (1, 0.1, 'a'); UPDATE history SET v = 'b', f = 0.3333333333; UPDATE history SET v = 'c';
CREATE SEQUENCE sq CACHE 10; SELECT NEXTVAL(sq);
CREATE TABLE audit (n int);
CREATE TRIGGER seen AFTER INSERT ON leads FOR EACH ROW INSERT INTO audit VALUES (NEW.id);
CREATE FUNCTION plus(a int) RETURNS int DETERMINISTIC RETURN a + 1;
DELIMITER //
CREATE PROCEDURE pr() BEGIN SELECT 1; SELECT 'ü'; END//
DELIMITER ;
CREATE EVENT nightly ON SCHEDULE EVERY 1 DAY STARTS '2026-01-01 03:00:00' DO DELETE FROM audit;
CREATE VIEW vw AS SELECT id, plus(id) AS x FROM leads;
CREATE TABLE words (id int PRIMARY KEY, w varchar(200), t3 text CHARACTER SET utf8mb3, a char(20) CHARACTER SET ascii,
    e enum('ä', 'b'), s set('x', 'ü'), js json, d decimal(10,3), at timestamp NULL, dt datetime(6), tm time, y year,
    twice int AS (id * 2) STORED, low varchar(200) AS (LOWER(w)) VIRTUAL);
INSERT INTO words (id, w, t3, a, e, s, js, d, at, dt, tm, y) SELECT seq, CONCAT('Zoë 😀 \\ " \' \n\r\t\Z\0 ', seq), CONCAT('é\0', CHAR(seq % 128)), 'a',
    IF(seq % 2, 'ä', 'b'), 'x,ü', '{"a": "ü\\\\n"}', seq / 7, FROM_UNIXTIME(1600000000 + seq), '2020-02-29 10:00:00.123456', '-10:00:00',
    2020 FROM seq_1_to_500;
INSERT INTO words (id, w, e) VALUES (9000, NULL, NULL), (9001, '', 'b');
CREATE TABLE child (id int, lead int, FOREIGN KEY (lead) REFERENCES leads (id)); INSERT INTO child VALUES (1, 1);
CREATE USER gone@localhost; CREATE DEFINER = gone@localhost VIEW orphan AS SELECT id FROM child; DROP USER gone@localhost;
"""

PG: dict[str, Any] = {"item": "database:crm", "engine": "postgresql", "database": PG_NAME, "port": 5432, "staging": STAGING}
MY: dict[str, Any] = {"item": "database:old", "engine": "mariadb", "database": MY_NAME, "port": 3306, "staging": STAGING}
ENGINES = pytest.mark.parametrize("options", [PG, MY], ids=["postgresql", "mariadb"])


MY_PART = f"find {STAGING} -name '*.sql.zst.part' 2>/dev/null | grep -q ."
PART = f"find {STAGING} -name '*.zst.part' 2>/dev/null | grep -q ."


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    with Servers(f"sunset-test-dump-{os.getpid()}", "--tmpfs", "/srv/small:size=40m") as host:
        host.psql('CREATE DATABASE "' + PG_NAME.replace('"', '""') + '"')
        host.psql(POSTGRESQL, PG_NAME)
        host.maria(MARIADB)
        yield host


@pytest.fixture(autouse=True)
def _fresh(servers: Servers) -> None:
    servers.wait(lambda: not servers.jobs())
    servers.shell(f"rm -rf {STAGING} /srv/small/*")


def dump(servers: Servers, options: dict[str, Any], check: bool = False, **more: Any) -> dict[str, Any]:
    return servers.module("database_dump", check=check, **dict(options, **more))


def differences(servers: Servers, options: dict[str, Any]) -> list[dict[str, Any]]:
    engine, name = options["engine"], options["database"]
    source = servers.fingerprint(engine, name)
    if engine == "postgresql":
        copy = servers.fingerprint(engine, name, port=PG_COPY_PORT)
    else:
        copy = servers.fingerprint(engine, name, socket=MY_COPY_SOCKET)
    return [one for one in fingerprint_engines.compare(source, copy) if not one["derived"]]


@ENGINES
def test_four_times_in_a_row(servers: Servers, options: dict[str, Any]) -> None:
    answers = [dump(servers, options, check=True)]
    assert servers.staged_names() == []
    answers += [dump(servers, options, check=check) for check in (False, True, False)]
    assert [one["changed"] for one in answers] == [True, True, False, False]
    first, last = answers[1]["result"], answers[3]["result"]
    assert first == last and first["dump_id"] == first["source"]["fingerprint_sha256"][:16]
    assert {one["role"] for one in first["artefacts"]} >= {"dump", "fingerprint"}
    assert answers[1]["evidence"]["verdict"] == "yes"
    assert servers.shell(f"stat -c %a {STAGING}; find {STAGING} -name '*.zst' -printf '%m\\n'").split() == ["700", "600", "600", "600"]
    for artefact in first["artefacts"]:
        told = servers.shell(f"sha256sum <{artefact['path']}; zstd -qdc {artefact['path']} | sha256sum").split()
        assert (told[0], told[2]) == (artefact["sha256"], artefact["plain_sha256"])


def test_postgresql_copy_is_equal(servers: Servers) -> None:
    """Hostile names, large objects with holes, sequences, roles, the database's own TimeZone, partitions, policies."""
    result = dump(servers, PG)["result"]
    servers.restore_postgresql(result)
    assert differences(servers, PG) == []
    shown = servers.psql("SHOW TimeZone", PG_NAME, port=PG_COPY_PORT)
    assert shown.strip() == "Europe/Zurich"
    assert "5MB" in servers.psql("SELECT rolconfig FROM pg_roles WHERE rolname = 'clerk'", port=PG_COPY_PORT)


def test_mariadb_copy_is_equal_to_the_last_bit(servers: Servers) -> None:
    """FLOAT, negative zero, history, routines, events, views with a missing definer; triggers did not fire."""
    result = dump(servers, MY)["result"]
    servers.restore_mariadb(result)
    assert differences(servers, MY) == []
    assert servers.maria("SELECT COUNT(*) FROM `old``crm`.audit", MY_COPY_SOCKET).strip() == "0"
    assert "clerk" in servers.maria("SELECT User FROM mysql.user", MY_COPY_SOCKET)
    assert result["source"]["exact_export_of"] == 2


def test_the_quick_way_prints_the_same_bytes(servers: Servers) -> None:
    """Rows over a connection without a character set: equal to those over utf8mb4, else the dump would say something else."""
    base = "mariadb-dump --no-defaults -S /run/mysqld/mysqld.sock --skip-set-charset --skip-dump-date --no-create-info --skip-triggers"
    ways = [servers.shell(f"{base} --default-character-set={way} -- 'old`crm' words child") for way in ("utf8mb4", "binary")]
    assert ways[0] == ways[1] and "Zoë 😀" in ways[0] and ways[0].count("\n(") == 503
    dumped = servers.shell(f"zstd -qdc {servers.staged(dump(servers, MY)['result'], 'dump')}")
    rows = ways[0][ways[0].index("INSERT INTO `words`") :].split(";")[0]
    assert rows in dumped and dumped.count("INSERT INTO `words`") == 1


def test_a_plain_dump_loses_floats_and_the_fingerprint_sees_it(servers: Servers) -> None:
    """Without this the test above would prove nothing."""
    servers.maria(f"DROP DATABASE IF EXISTS `{MY_NAME.replace('`', '``')}`", MY_COPY_SOCKET)
    servers.shell(
        "mariadb-dump --no-defaults -S /run/mysqld/mysqld.sock --single-transaction --routines --events --triggers --hex-blob"
        f" --dump-history --databases 'old`crm' | mariadb --no-defaults -S {MY_COPY_SOCKET}"
    )
    tables = {(one["name"], one["what"]) for one in differences(servers, MY) if one["kind"] == "table"}
    assert tables == {("leads", "content"), ("history", "content")}


@ENGINES
def test_killed_in_the_middle(servers: Servers, options: dict[str, Any]) -> None:
    """Module and job both die; the same call finishes it, and nothing carried a final name before."""
    process = servers.start_module("database_dump", **dict(options, rate=5000))
    servers.wait(lambda: any(one.endswith(".part") for one in servers.staged_names()))
    servers.kill_module()
    process.wait(60)
    assert servers.jobs(), "the job goes on without its module"
    servers.kill_job()
    assert not any(one.endswith(".zst") for one in servers.staged_names())
    answer = dump(servers, options)
    assert answer["changed"] and "interrupted" in answer["evidence"]["before"]["why"]
    assert len(servers.staged_names()) == 3 and not any(one.endswith(".part") for one in servers.staged_names())


def test_a_second_run_attaches(servers: Servers) -> None:
    receipt = make_receipt("database_dump", PG["item"], intent="test")
    with servers.held(PART, "database_dump", **dict(PG, rate=40000)) as process:
        servers.kill_module()
        process.wait(60)
        job = servers.jobs()
        visit = dump(servers, PG, receipt={**receipt, "visit": {"patience": 0.5}})["pending"]["visit"]
        assert servers.jobs() == job
    answer = dump(servers, PG, receipt={**receipt, "visit": {"waited": visit["waited"], "carried": visit["carried"]}})
    assert answer["evidence"]["actions"][0]["act"] == "attached to the running job"
    assert answer["changed"] and job and not servers.jobs()
    assert not dump(servers, PG, check=True)["changed"]


def test_a_long_dump_is_visited_until_it_ends(servers: Servers) -> None:
    """As the action does it: the module ends early and says how far it is; the last visit has what the first one found."""
    receipt = make_receipt("database_dump", PG["item"], intent="test")
    seen: list[dict[str, Any]] = []

    def again(answer: dict[str, Any]) -> dict[str, Any]:
        seen.append(answer["pending"]["progress"])
        return dump(servers, PG, receipt={**receipt, "visit": {**answer["pending"]["visit"], "patience": 0.5}})

    # That the first two visits find it at work is made certain; after those it ends when it likes.
    with servers.held(PART, "database_dump", **dict(PG, rate=40000), receipt={**receipt, "visit": {"patience": 0.5}}) as process:
        answer = again(json.loads(process.communicate(timeout=120)[0]))
        assert "pending" in answer
    while "pending" in answer:
        answer = again(answer)
    assert len(seen) >= 2 and {"phase", "bytes", "started"} <= set(seen[-1])
    evidence = answer["evidence"]
    assert answer["changed"] and evidence["verdict"] == "yes" and evidence["before"]["job"] == "absent"
    assert [act["act"] for act in evidence["actions"]] == ["started the job"]
    assert not dump(servers, PG, check=True)["changed"]


@ENGINES
def test_a_changed_source_is_copied_again(servers: Servers, options: dict[str, Any]) -> None:
    first = dump(servers, options)["result"]
    if options is PG:
        servers.psql("SELECT nextval('sq')", PG_NAME)
    else:
        servers.maria("UPDATE `old``crm`.leads SET f = 1.0000001 WHERE id = 1")
    second = dump(servers, options)
    assert second["changed"] and second["result"]["dump_id"] != first["dump_id"]
    assert len(servers.staged_names()) == 3, "the copy before is gone"


def test_damaged_staging_is_noticed_and_made_again(servers: Servers) -> None:
    path = servers.staged(dump(servers, PG)["result"], "dump")
    servers.shell(flip(path, 100))
    answer = dump(servers, PG, check=True)
    assert answer["changed"] and "other content" in answer["evidence"]["before"]["why"]
    assert dump(servers, PG)["changed"]
    assert not dump(servers, PG)["changed"]


def test_writers_during_the_dump_are_an_error(servers: Servers) -> None:
    """MariaDB has no snapshot that two clients share: what is written meanwhile must be found out."""
    late = "INSERT INTO `old``crm`.`na``me; -- \\` VALUES (2, 'late')"
    with servers.promptly(MY_PART, f"sleep 0.5; mariadb --no-defaults -S /run/mysqld/mysqld.sock -e {shlex.quote(late)}"):
        process = servers.start_module("database_dump", **dict(MY, rate=400000))
    out, _err = process.communicate(timeout=120)
    assert b"changed while the dump was made" in out and b"na`me" in out and b'"failed": true' in out
    servers.maria("DELETE FROM `old``crm`.`na``me; -- \\` WHERE `a\\``b` = 2")
    assert dump(servers, MY)["changed"]


@ENGINES
def test_want_of_space_is_said_before_the_start(servers: Servers, options: dict[str, Any]) -> None:
    servers.shell("fallocate -l 30M /srv/small/other")
    for check in (True, False):
        with pytest.raises(Failed, match=r"bytes free; the copy may need \d+ .* are missing"):
            dump(servers, options, check=check, staging="/srv/small/staging")
    assert servers.shell("ls -A /srv/small").split() == ["other"]


def test_a_disk_that_fills_up_leaves_nothing_behind(servers: Servers) -> None:
    """The estimate is only one: another program can take the room meanwhile."""
    full = "dd if=/dev/zero of=/srv/small/other bs=1M count=100 2>/dev/null || true"
    with servers.promptly(MY_PART.replace(STAGING, "/srv/small"), full):
        process = servers.start_module("database_dump", **dict(MY, staging="/srv/small/staging", rate=300000))
    out, _err = process.communicate(timeout=120)
    assert b"No space left on device" in out and b'"failed": true' in out
    assert servers.shell("find /srv/small/staging -name '*.zst*'") == ""


def test_a_truncated_archive_is_noticed_where_listing_is_not_enough(servers: Servers) -> None:
    path = servers.staged(dump(servers, PG)["result"], "dump")
    servers.shell(f"zstd -qdc {path} >/srv/whole; head -c $(($(stat -c %s /srv/whole) * 8 / 10)) /srv/whole >/srv/cut")
    servers.shell("pg_restore --list /srv/cut >/dev/null")  # exits 0: this is why it proves nothing
    with pytest.raises(AssertionError):
        servers.shell("pg_restore -f /dev/null </srv/cut")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"database": "nosuchdb"}, 'database "nosuchdb" does not exist'),
        ({"port": 5999}, "Is the server running"),
        ({"staging": "relative"}, "could not be looked at|absolute|does not exist"),
        ({"staging": "/no/such/place"}, "directory /no/such does not exist"),
    ],
)
def test_bad_input_is_one_clear_message(servers: Servers, change: dict[str, Any], message: str) -> None:
    with pytest.raises(Failed, match=message):
        dump(servers, PG, **change)


def test_the_wrong_mariadb_server_is_refused(servers: Servers) -> None:
    with pytest.raises(Failed, match="uses port 3306, declared is 3307"):
        dump(servers, MY, port=3307)


def test_no_receipt_no_dump(servers: Servers) -> None:
    with pytest.raises(Failed, match="refuses to act"):
        dump(servers, PG, receipt={})
