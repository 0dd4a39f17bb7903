# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every known way in which a MariaDB copy silently loses something, one named case each, on a real server.

One database holds all that a copy must carry; it is dumped and proven by the product once. Then each case takes its piece out of
the restored copy: the comparison must name exactly that. What no copy can carry must be refused or named.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.host_container import LIBRARY, Failed
from tests.integration.trap_copy import Holder, TrapHost, told

# trap -> the test that holds it. test_every_trap_has_its_test looks that none is without.
TRAPS = {
    "dump of a database that does not exist": "test_no_such_database",
    "text dump loses FLOAT": "test_the_copy_is_equal",
    "restored under another name a view reads the source": "test_the_copy_has_the_name_of_the_source",
    "event scheduler runs in the copy": "test_no_event_runs_in_the_copy",
    "MyISAM and Aria with a writer": "test_a_writer_without_transactions_is_noticed",
    "low-privilege dump": "test_low_privilege_is_refused",
    "account that is shown no routines": "test_an_account_that_is_shown_no_routines_is_refused",
    "default that asks a sequence": "test_a_default_that_asks_a_sequence",
    "event that is over": "test_an_event_that_is_over_is_named",
    "event of a session with a named time zone": "test_an_event_with_a_named_time_zone",
    "view that reads another database": "test_a_view_that_reads_another_database_names_it",
    "dates that no strict server takes": "test_impossible_dates_are_named",
    "view on a table that is gone": "test_a_broken_view_is_refused_by_name",
    "row larger than a packet": "test_a_row_larger_than_a_packet_is_refused",
    "account of a plugin that the vault lacks": "test_an_account_of_a_plugin_that_the_vault_lacks",
    "grants to everybody": "test_what_everybody_may_comes_with_the_copy",
    "other servers, proxies and functions out of libraries": "test_what_belongs_to_the_server_is_kept_or_named",
    "table in memory, larger than a new server allows": "test_a_table_in_memory_that_is_larger_than_a_new_server_allows",
    "history by transaction": "test_history_by_transaction_is_never_called_equal",
    "data of federated tables": "test_data_elsewhere_is_named",
    "a table is changed, emptied or made while it is dumped": "test_definitions_that_change_meanwhile_are_noticed",
    "text dump cut in half": "test_a_damaged_dump_is_refused[cut]",
    "text dump cut at the end of a statement": "test_a_damaged_dump_is_refused[cut at a statement]",
    "text dump without one statement": "test_a_damaged_dump_is_refused[statement lost]",
    "bit flipped in a text dump": "test_a_damaged_dump_is_refused[bit]",
    "accounts cut in half": "test_half_of_the_accounts",
    **{
        trap: f"test_the_comparison_has_teeth[{trap}]"
        for trap in (
            "float", "double", "history", "routine", "package", "event", "trigger", "grant on the database", "grant on a table",
            "grant on a column", "grant on a routine", "account", "role", "membership", "default role", "password asked for",
            "limits of an account", "view with a missing definer", "emoji", "case and accents", "myisam", "aria", "generated column",
            "bit", "varbinary with zero bytes", "zero byte in text", "zero date", "auto increment zero", "next auto increment",
            "invisible column", "sequence", "partition", "check", "row against its check", "compressed column", "dynamic column", "circular keys",
            "name with a slash", "name with blanks and backticks", "unicode name", "names that differ in case", "name with a dot", "spatial",
            "json", "uuid", "inet6", "default", "collation of a column", "collation of the database", "index", "table comment", "null is not empty",
            "one row missing and one twice", "values swapped between columns", "values swapped between rows", "mojibake", "enum without a value",
            "table missing", "line ends in a routine",
        )
    },
}  # fmt: skip

KEPT = r"""
CREATE DATABASE traps CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci; USE traps; SET NAMES utf8mb4;
CREATE USER clerk@localhost IDENTIFIED BY 'hidden' WITH MAX_USER_CONNECTIONS 7; CREATE USER locked@'10.%' ACCOUNT LOCK; CREATE ROLE staff;
CREATE TABLE f (id int PRIMARY KEY, v float, w float(7,4)); INSERT INTO f SELECT seq, RAND(seq) * 1000, RAND(seq) * 99 FROM seq_1_to_500;
CREATE TABLE d (id int PRIMARY KEY, v double); INSERT INTO d VALUES (1, -0e0), (2, 5e-324), (3, 1.7976931348623157e308), (4, 0.1);
CREATE TABLE hist (id int PRIMARY KEY, v text) WITH SYSTEM VERSIONING; INSERT INTO hist VALUES (1, 'a'), (2, 'x');
UPDATE hist SET v = 'b' WHERE id = 1; DELETE FROM hist WHERE id = 2;
CREATE TABLE hist2 (id int PRIMARY KEY, f float, a timestamp(6) GENERATED ALWAYS AS ROW START, b timestamp(6) GENERATED ALWAYS AS ROW END,
    PERIOD FOR SYSTEM_TIME (a, b)) WITH SYSTEM VERSIONING; INSERT INTO hist2 (id, f) VALUES (1, 0.1); UPDATE hist2 SET f = 0.7;
CREATE TABLE emo (id int PRIMARY KEY, v varchar(40), w varchar(40) CHARACTER SET latin1, x varchar(9) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin,
    n varchar(9)); INSERT INTO emo VALUES (1, 'Zoë 😀 𝕫', 'é', 'ÄÖ', NULL), (2, 'ZOE', 'e', 'äö', '');
INSERT INTO emo VALUES (3, 'mojibake', CONVERT(X'C3A95A81' USING latin1), 'a', 'b');
CREATE TABLE isam (v int) ENGINE=MyISAM; INSERT INTO isam VALUES (1), (2); CREATE TABLE ari (v int) ENGINE=Aria; INSERT INTO ari VALUES (1), (2);
CREATE TABLE mem (v int) ENGINE=MEMORY; INSERT INTO mem VALUES (1);
CREATE TABLE gen (a int, vv int AS (a * 2) VIRTUAL, pp int AS (a * 3) STORED, hid int INVISIBLE DEFAULT 7); INSERT INTO gen (a, hid) VALUES (1, 8);
CREATE TABLE bits (id int PRIMARY KEY, b bit(13), vb varbinary(20), t text, e enum('a', 'b'), s set('x', 'y'));
INSERT INTO bits VALUES (1, b'1010000000001', X'00FF0041', CONCAT('a', CHAR(0), 'b', CHAR(13, 10), '\\'), 'a', 'x,y');
SET sql_mode = ''; INSERT INTO bits (id, e) VALUES (2, 'wrong');
CREATE TABLE zero (id int PRIMARY KEY, d date, dt datetime, ts timestamp NULL, ti time(6), y year);
INSERT INTO zero VALUES (1, '0000-00-00', '0000-00-00 00:00:00', '2024-03-31 01:30:00', '-838:59:59', 0), (2, '2020-00-01', '2020-01-00', NULL, NULL, NULL);
SET sql_mode = 'NO_AUTO_VALUE_ON_ZERO'; CREATE TABLE auto (id int AUTO_INCREMENT PRIMARY KEY, v text) AUTO_INCREMENT = 50;
INSERT INTO auto VALUES (0, 'zero'), (-3, 'below'); SET sql_mode = DEFAULT;
CREATE SEQUENCE sq START 100 INCREMENT 5 CACHE 10; SELECT NEXTVAL(sq); CREATE SEQUENCE sq2; SELECT SETVAL(sq2, 41);
CREATE TABLE part (a int) PARTITION BY RANGE (a) (PARTITION p0 VALUES LESS THAN (10), PARTITION p1 VALUES LESS THAN MAXVALUE);
INSERT INTO part VALUES (1), (100);
CREATE TABLE chk (a int CHECK (a > 0)); INSERT INTO chk VALUES (1); SET check_constraint_checks = 0; INSERT INTO chk VALUES (-1);
SET check_constraint_checks = 1;
CREATE TABLE comp (v text COMPRESSED, dyn blob); INSERT INTO comp VALUES (REPEAT('abc', 500), COLUMN_CREATE('a', 1, 'b', 'x'));
CREATE TABLE k1 (id int PRIMARY KEY, other int); CREATE TABLE k2 (id int PRIMARY KEY, other int, FOREIGN KEY to1 (other) REFERENCES k1 (id));
ALTER TABLE k1 ADD CONSTRAINT to2 FOREIGN KEY (other) REFERENCES k2 (id);
SET foreign_key_checks = 0; INSERT INTO k1 VALUES (1, 1); INSERT INTO k2 VALUES (1, 1); SET foreign_key_checks = 1;
CREATE TABLE `a/b` (v float); INSERT INTO `a/b` VALUES (0.3); CREATE TABLE ` x``y \ "q" ; --` (` c``d` float); INSERT INTO ` x``y \ "q" ; --` VALUES (0.7);
CREATE TABLE `Ünï 表` (`č` text); INSERT INTO `Ünï 表` VALUES ('x'); CREATE TABLE twin (v int); CREATE TABLE Twin (v int); INSERT INTO twin VALUES (1);
INSERT INTO Twin VALUES (2); CREATE TABLE `a.b` (v float); INSERT INTO `a.b` VALUES (0.1);
CREATE TABLE geo (id int PRIMARY KEY, g geometry, p point, j json, u uuid, i inet6, dc decimal(30,10) ZEROFILL);
INSERT INTO geo VALUES (1, ST_GeomFromText('POLYGON((0 0, 1 0, 1 1, 0 0))', 4326), POINT(1.1, 2), '{"a":  1}', '123e4567-e89b-12d3-a456-426655440000', '::ffff:1.2.3.4', 1.5);
CREATE TABLE defs (a varchar(20) DEFAULT 'to  do' COMMENT 'c', b timestamp DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP, KEY ka (a)) COMMENT 'of 2019';
CREATE TABLE audit (n int); CREATE TABLE pairs (a int, b int); INSERT INTO pairs VALUES (1, 2), (3, 4);
CREATE TRIGGER noted AFTER INSERT ON f FOR EACH ROW INSERT INTO audit VALUES (1);
CREATE TRIGGER noted2 AFTER INSERT ON d FOR EACH ROW FOLLOWS noted INSERT INTO audit VALUES (2);
CREATE FUNCTION plus(a int) RETURNS int DETERMINISTIC RETURN a + 1;
DELIMITER //
CREATE PROCEDURE pr() BEGIN SELECT 'ü 😀'; END//
SET sql_mode = 'ORACLE'//
CREATE PACKAGE pk AS FUNCTION one RETURN int; END//
CREATE PACKAGE BODY pk AS FUNCTION one RETURN int AS BEGIN RETURN 1; END; END//
SET sql_mode = DEFAULT//
DELIMITER ;
CREATE EVENT tick ON SCHEDULE EVERY 1 SECOND DO INSERT INTO audit VALUES (3); CREATE EVENT later ON SCHEDULE AT NOW() + INTERVAL 9 YEAR DISABLE DO SELECT 1;
CREATE VIEW vw AS SELECT id, plus(id) AS x FROM traps.f; CREATE USER gone@localhost;
CREATE DEFINER = gone@localhost VIEW orphan AS SELECT a FROM pairs; DROP USER gone@localhost;
GRANT SELECT, INSERT ON traps.* TO clerk@localhost; GRANT UPDATE ON traps.f TO clerk@localhost; GRANT SELECT (v) ON traps.emo TO staff;
GRANT EXECUTE ON PROCEDURE traps.pr TO staff; GRANT staff TO clerk@localhost; SET DEFAULT ROLE staff FOR clerk@localhost;
CREATE DATABASE neighbour; CREATE TABLE neighbour.t (a int); GRANT SELECT ON neighbour.t TO clerk@localhost;
"""
KEPT = KEPT.replace("FOR EACH ROW FOLLOWS noted ", "FOR EACH ROW ")

START = """
install -d -m 0755 -o vault /srv/given; install -d -o mysql /srv/mysource /run/mysqld
mariadb-install-db --user=mysql --datadir=/srv/mysource/data --auth-root-authentication-method=socket --skip-test-db >/dev/null
chown mysql /srv/mysource
systemd-run -q --unit source-maria mariadbd --no-defaults --user=mysql --datadir=/srv/mysource/data \
    --socket=/run/mysqld/mysqld.sock --skip-networking --event-scheduler=OFF --plugin-maturity=experimental
i=0; until mariadb-admin --no-defaults -S /run/mysqld/mysqld.sock ping >/dev/null 2>&1; do i=$((i + 1)); [ $i -lt 600 ] || exit 1; sleep 0.2; done
"""

# trap -> (statements on the copy, what must be said)
TEETH: dict[str, tuple[list[str], list[str]]] = {
    "float": (["UPDATE f SET v = ROUND(v, 3) WHERE id = 7"], ["table f: content"]),
    "double": (["DELETE FROM d WHERE id = 1", "INSERT INTO d VALUES (1, 1e-300)"], ["table d: content"]),
    "history": (["DELETE HISTORY FROM hist"], ["table hist: rows"]),
    "routine": (["DROP FUNCTION plus"], ["routine FUNCTION plus: missing in the copy"]),
    "package": (["SET sql_mode = 'ORACLE'", "DROP PACKAGE BODY pk", "SET sql_mode = ''"], ["routine PACKAGE BODY pk: missing in the copy"]),
    "event": (["ALTER EVENT later ENABLE"], ["event later: definition"]),
    "trigger": (["DROP TRIGGER noted"], ["trigger noted: missing in the copy"]),
    "grant on the database": (["REVOKE INSERT ON traps.* FROM clerk@localhost"], ["grant on the database 'clerk'@'localhost': definition"]),
    "grant on a table": (["REVOKE UPDATE ON traps.f FROM clerk@localhost"], ["grant on a table 'clerk'@'localhost' on f: missing in the copy"]),
    "grant on a column": (["REVOKE SELECT (v) ON traps.emo FROM staff"], ["grant on a column "]),
    "grant on a routine": (["REVOKE EXECUTE ON PROCEDURE traps.pr FROM staff"], ["grant on a routine "]),
    "account": (["DROP USER locked@'10.%'"], ["account 'locked'@'10.%': missing in the copy"]),
    "role": (["CREATE ROLE more"], []),
    "membership": (["DELETE FROM mysql.roles_mapping WHERE User = 'clerk'"], ["membership "]),
    "default role": (["SET DEFAULT ROLE NONE FOR clerk@localhost"], ["account 'clerk'@'localhost': definition"]),
    "password asked for": (["ALTER USER clerk@localhost IDENTIFIED BY ''"], ["account 'clerk'@'localhost': definition"]),
    "limits of an account": (["ALTER USER clerk@localhost WITH MAX_USER_CONNECTIONS 8"], ["account 'clerk'@'localhost': definition"]),
    "view with a missing definer": (["DROP VIEW orphan"], ["view orphan: missing in the copy"]),
    "emoji": (["UPDATE emo SET v = 'Zoë ? 𝕫' WHERE id = 1"], ["table emo: content"]),
    "case and accents": (["UPDATE emo SET v = 'zoe' WHERE id = 2"], ["table emo: content"]),
    "mojibake": (["UPDATE emo SET w = 'é' WHERE id = 3"], ["table emo: content"]),
    "null is not empty": (["UPDATE emo SET n = '' WHERE id = 1"], ["table emo: content"]),
    "collation of a column": (["ALTER TABLE emo MODIFY x varchar(9) CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci"], ["relation emo: definition"]),
    "myisam": (["DELETE FROM isam WHERE v = 1"], ["table isam: rows"]),
    "aria": (["UPDATE ari SET v = 9 WHERE v = 1"], ["table ari: content"]),
    "generated column": (["ALTER TABLE gen MODIFY pp int AS (a * 4) STORED"], ["table gen: content", "relation gen: definition"]),
    "invisible column": (["UPDATE gen SET hid = 7"], ["table gen: content"]),
    "bit": (["UPDATE bits SET b = b'1010000000000' WHERE id = 1"], ["table bits: content"]),
    "varbinary with zero bytes": (["UPDATE bits SET vb = X'FF0041' WHERE id = 1"], ["table bits: content"]),
    "zero byte in text": (["UPDATE bits SET t = REPLACE(t, CHAR(13), '') WHERE id = 1"], ["table bits: content"]),
    "enum without a value": (["UPDATE bits SET e = NULL WHERE id = 2"], ["table bits: content"]),
    "zero date": (["UPDATE zero SET d = NULL WHERE id = 1"], ["table zero: content"]),
    "auto increment zero": (["UPDATE auto SET id = 1 WHERE id = 0"], ["table auto: content"]),
    "next auto increment": (["ALTER TABLE auto AUTO_INCREMENT = 51"], ["relation auto: definition"]),
    "sequence": (["DO NEXTVAL(sq2)", "DO SETVAL(sq2, 900)"], ["sequence value sq2: definition"]),
    "partition": (["ALTER TABLE part REMOVE PARTITIONING"], ["relation part: definition"]),
    "check": (["ALTER TABLE pairs ADD CONSTRAINT c CHECK (a > 0)"], ["relation pairs: definition"]),
    "row against its check": (["DELETE FROM chk WHERE a = -1"], ["table chk: rows"]),
    "compressed column": (["ALTER TABLE comp MODIFY v text"], ["relation comp: definition"]),
    "dynamic column": (["UPDATE comp SET dyn = COLUMN_ADD(dyn, 'b', 'y')"], ["table comp: content"]),
    "circular keys": (["ALTER TABLE k1 DROP FOREIGN KEY to2"], ["relation k1: definition"]),
    "name with a slash": (["UPDATE `a/b` SET v = 0.4"], ["table a/b: content"]),
    "name with blanks and backticks": ([r'UPDATE ` x``y \ "q" ; --` SET ` c``d` = 1'], [r'table  x`y \ "q" ; --: content']),
    "unicode name": (["DROP TABLE `Ünï 表`"], ["table Ünï 表: missing in the copy"]),
    "names that differ in case": (["UPDATE Twin SET v = 1"], ["table Twin: content"]),
    "name with a dot": (["UPDATE `a.b` SET v = 1"], ["table a.b: content"]),
    "spatial": (["UPDATE geo SET p = POINT(1.2, 2)"], ["table geo: content"]),
    "json": (["UPDATE geo SET j = '{\"a\": 1}'"], ["table geo: content"]),
    "uuid": (["UPDATE geo SET u = '123e4567-e89b-12d3-a456-426655440001'"], ["table geo: content"]),
    "inet6": (["UPDATE geo SET i = '::1'"], ["table geo: content"]),
    "default": (["ALTER TABLE defs ALTER a SET DEFAULT 'to do'"], ["relation defs: definition"]),
    "index": (["ALTER TABLE defs DROP KEY ka"], ["relation defs: definition"]),
    "table comment": (["ALTER TABLE defs COMMENT 'x'"], ["relation defs: definition"]),
    "one row missing and one twice": (["DELETE FROM pairs WHERE a = 3", "INSERT INTO pairs VALUES (1, 2)"], ["table pairs: content"]),
    "values swapped between columns": (["DELETE FROM pairs", "INSERT INTO pairs VALUES (2, 1), (3, 4)"], ["table pairs: content"]),
    "values swapped between rows": (["DELETE FROM pairs", "INSERT INTO pairs VALUES (1, 4), (3, 2)"], ["table pairs: content"]),
    "table missing": (["DROP TABLE mem"], ["table mem: missing in the copy"]),
    "collation of the database": (["ALTER DATABASE traps COLLATE utf8mb4_general_ci"], ["database database: definition"]),
    "line ends in a routine": (["CREATE OR REPLACE PROCEDURE pr() SELECT 'ü ?'"], ["routine PROCEDURE pr: definition"]),
}  # fmt: skip


def maria(host: TrapHost, sql: str) -> str:
    return host.run("mariadb", "--no-defaults", "--default-character-set=utf8mb4", "-N", "-S", "/run/mysqld/mysqld.sock", stdin=sql)


@pytest.fixture(scope="module")
def host() -> Iterator[TrapHost]:
    with TrapHost(f"sunset-test-traps-my-{os.getpid()}") as host:
        host.shell(START)
        maria(host, KEPT)
        yield host


@pytest.fixture(scope="module")
def dumped(host: TrapHost) -> dict[str, Any]:
    return host.dump("mariadb", "traps")


@pytest.fixture(scope="module")
def copy(host: TrapHost, dumped: dict[str, Any]) -> Iterator[Holder]:
    with host.holder("mariadb", dumped, "traps", True) as holder:
        answer = holder.answer()
        assert answer == {"restored": True}, answer
        yield holder


def fresh(host: TrapHost, name: str, sql: str) -> str:
    maria(host, f"DROP DATABASE IF EXISTS {name}; CREATE DATABASE {name}; USE {name};\n{sql}")
    return name


def test_the_copy_is_equal(copy: Holder) -> None:
    assert told(copy.changed()) == set()


def test_no_event_runs_in_the_copy(copy: Holder) -> None:
    assert copy.rows("SELECT @@event_scheduler, (SELECT SLEEP(1.5)), (SELECT COUNT(*) FROM audit)") == ["OFF\t0\t0"]


def test_the_copy_has_the_name_of_the_source(copy: Holder) -> None:
    """The view names its schema: only under the same name, on a server of its own, does it read the copy."""
    assert copy.rows("SELECT DATABASE(), @@skip_networking, (SELECT COUNT(*) FROM vw)") == ["traps\t1\t500"]


@pytest.mark.parametrize("trap", TEETH)
def test_the_comparison_has_teeth(copy: Holder, trap: str) -> None:
    """MariaDB takes no definition back, so the cases add up; each must add its own."""
    statements, wanted = TEETH[trap]
    before = copy.changed()
    found = copy.changed(*statements)
    new = [one for one in found if one not in before]
    assert new
    for one in wanted:
        assert any(two.startswith(one) for two in told(new)), told(new)


def test_no_such_database(host: TrapHost) -> None:
    with pytest.raises(Failed, match="Unknown database"):
        host.dump("mariadb", "nosuchdb")


@pytest.mark.parametrize("engine", ["MyISAM", "Aria"])
def test_a_writer_without_transactions_is_noticed(host: TrapHost, engine: str) -> None:
    name = fresh(host, f"w_{engine.lower()}", f"CREATE TABLE t (a int) ENGINE={engine}")
    options: dict[str, Any] = {"item": f"database:{name}", "engine": "mariadb", "database": name, "staging": "/srv/staging"}
    late = f"mariadb --no-defaults -S /run/mysqld/mysqld.sock -e 'INSERT INTO {name}.t VALUES (1)'"
    with host.promptly(f"find /srv/staging -path '*w-{engine.lower()}*.sql.zst.part' 2>/dev/null | grep -q .", late):
        process = host.start_module("database_dump", **options, rate=1000)
    out, _err = process.communicate(timeout=120)
    assert b"changed while the dump was made: table t" in out and b'"failed": true' in out
    assert (
        host.shell(f"find /srv/staging -path '*w-{engine.lower()}*' -name '*.zst' -o -path '*w-{engine.lower()}*' -name finished.json")
        == ""
    )
    assert host.dump("mariadb", name, item=f"database:{name}")["source"]["rows"] == 1


LOWLY = f"""
import sys
sys.path.insert(0, {LIBRARY!r})
from ansible_collections.sunset.crm.plugins.module_utils._fingerprint import engines as fingerprint_engines
with fingerprint_engines.open_session("mariadb", "lowdb", user="lowly") as session:
    try:
        fingerprint_engines.take("mariadb", session, "lowdb")
        print("TAKEN")
    except ValueError as error:
        print(error)
"""


def test_low_privilege_is_refused(host: TrapHost) -> None:
    """MariaDB does not say that it hides something: an account that sees one of two tables would make a whole dump of one."""
    fresh(
        host,
        "lowdb",
        "CREATE TABLE open (a int); CREATE TABLE shut (a int); CREATE OR REPLACE USER lowly@localhost; GRANT SELECT ON lowdb.open TO lowly@localhost",
    )
    said = host.run("python3", "-c", LOWLY)
    assert "lowly@localhost lacks SELECT, SHOW VIEW, TRIGGER, EVENT" in said and "TAKEN" not in said
    maria(host, "GRANT ALL ON lowdb.* TO lowly@localhost")
    assert "TAKEN" in host.run("python3", "-c", LOWLY)
    maria(host, "DROP USER lowly@localhost")


def test_an_account_that_is_shown_no_routines_is_refused(host: TrapHost) -> None:
    """The usual account of a backup: its dump would have no routine, nor would its fingerprint, and the copy would be equal."""
    fresh(
        host,
        "lowdb",
        "CREATE TABLE t (a int); CREATE FUNCTION kept() RETURNS int RETURN 1; CREATE OR REPLACE USER lowly@localhost;"
        "GRANT SELECT, SHOW VIEW, TRIGGER, EVENT, LOCK TABLES ON lowdb.* TO lowly@localhost",
    )
    said = host.run("python3", "-c", LOWLY)
    assert "lowly@localhost lacks EXECUTE" in said and "TAKEN" not in said
    maria(host, "GRANT EXECUTE ON lowdb.* TO lowly@localhost")
    assert "TAKEN" in host.run("python3", "-c", LOWLY)
    # It sees that there is one, and not what it says: then the dumper ends.
    dump = host.shell("mariadb-dump --no-defaults -S /run/mysqld/mysqld.sock -u lowly --routines lowdb 2>&1 >/dev/null || echo refused")
    assert "insufficient privileges" in dump and "refused" in dump
    maria(host, "REVOKE EXECUTE ON lowdb.* FROM lowly@localhost; GRANT SELECT ON *.* TO lowly@localhost")
    assert "TAKEN" in host.run("python3", "-c", LOWLY)
    maria(host, "DROP USER lowly@localhost")


def test_a_default_that_asks_a_sequence(host: TrapHost) -> None:
    """The dumper locks the table alone, and no server then takes its rows (error 1100)."""
    fresh(host, "asking", "CREATE SEQUENCE s START 5; CREATE TABLE t (a int DEFAULT NEXTVAL(s), b text, f float); INSERT INTO t (b) VALUES ('x');"
          "CREATE TABLE plain (a int DEFAULT NEXTVAL(s)); INSERT INTO plain VALUES (), ()")  # fmt: skip
    answer = host.prove("mariadb", host.dump("mariadb", "asking"), "asking")
    assert answer.get("verdict") == "equal" and answer["rows"] == 3, answer


DDL = {
    "column": ("ALTER TABLE late ADD c int", "late"),
    "emptied": ("TRUNCATE TABLE late", "late"),
    "dropped": ("DROP TABLE late", "late|zlast"),
    "new table": ("CREATE TABLE zlast (a int)", "zlast"),
    "routine": ("CREATE FUNCTION new() RETURNS int RETURN 1", "new"),
}


@pytest.mark.parametrize("change", DDL)
def test_definitions_that_change_meanwhile_are_noticed(host: TrapHost, change: str) -> None:
    """--single-transaction does not hold definitions: known to have made dumps in which a table is there and empty."""
    fresh(
        host,
        "ddl",
        "CREATE TABLE early AS SELECT seq AS a, REPEAT('x', 200) AS t FROM seq_1_to_5000; CREATE TABLE late (a int); INSERT INTO late VALUES (1)",
    )
    options = {"item": "database:ddl", "engine": "mariadb", "database": "ddl", "staging": "/srv/staging"}
    host.shell("rm -rf /srv/staging/*ddl*")
    statement, named = DDL[change]
    # It stands still once some of its rows are written.
    begun = "find /srv/staging -path '*ddl*.sql.zst.part' 2>/dev/null | grep -q . && sleep 0.5"
    with host.held(begun, "database_dump", **options, rate=200000) as process:
        # A table that the dump holds open is changed as soon as it lets go: the client is waited for until it waits itself.
        waiting = subprocess.Popen(
            ["docker", "exec", "-i", host.name, "mariadb", "--no-defaults", "-S", "/run/mysqld/mysqld.sock", "ddl"], stdin=subprocess.PIPE
        )
        assert waiting.stdin is not None
        waiting.stdin.write(statement.encode())
        waiting.stdin.close()
        asked = f"SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE DB = 'ddl' AND INFO = '{statement}'"
        host.wait(lambda: waiting.poll() is not None or maria(host, asked).strip() == "1")
    out, _err = process.communicate(timeout=120)
    assert waiting.wait(60) == 0
    answer = json.loads(out)
    assert answer.get("failed") and re.search(named, answer["msg"]), answer
    assert host.shell("find /srv/staging -path '*ddl*' -name '*.zst' -o -path '*ddl*' -name finished.json") == ""
    assert host.dump("mariadb", "ddl")["source"]["rows"] >= 5000


DAMAGE = {
    "cut": "truncate -s $(($(stat -c %s /tmp/plain) / 2)) /tmp/plain",
    "cut at a statement": "head -n $(($(grep -n ' ENABLE KEYS ' /tmp/plain | sed -n 20p | cut -d: -f1))) /tmp/plain >/tmp/p2; mv /tmp/p2 /tmp/plain",
    "statement lost": "sed -i '/^INSERT INTO `pairs`/,/;$/d' /tmp/plain",
    "bit": "sed -i 's/mojibake/mojibakf/' /tmp/plain",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_dump_is_refused(host: TrapHost, dumped: dict[str, Any], damage: str) -> None:
    """With honest digests over the damaged file, so that only the restore and the comparison are left to see it."""
    (dump,) = [one for one in dumped["artefacts"] if one["role"] == "dump"]
    host.shell(f"zstd -qdc {dump['path']} >/tmp/plain; {DAMAGE[damage]}; zstd -qf /tmp/plain -o /srv/damaged.zst")
    sha = host.shell("sha256sum </tmp/plain")[:64]
    assert sha != dump["plain_sha256"]
    bad = [{**one, "path": "/srv/damaged.zst", "plain_sha256": sha} if one is dump else one for one in dumped["artefacts"]]
    answer = host.prove("mariadb", {**dumped, "artefacts": bad}, "damaged")
    wanted = {"statement lost": "table pairs: ", "bit": "table emo: content"}.get(damage)
    if wanted:
        assert answer["verdict"] == "different" and [one for one in told(answer["differences"]) if one.startswith(wanted)], answer
    else:
        assert answer["verdict"] in ("different", "unknown"), answer


@pytest.mark.parametrize("role", ["users", "dump"])
def test_commands_for_the_client_are_not_obeyed(host: TrapHost, dumped: dict[str, Any], role: str) -> None:
    """The estate's host makes these texts; a line of them must not run a program on the vault."""
    host.shell("rm -f /dev/shm/obeyed")
    (one,) = [one for one in dumped["artefacts"] if one["role"] == role]
    for number, order in enumerate(("\\! touch /dev/shm/obeyed", "system touch /dev/shm/obeyed")):
        host.write("/tmp/order", f"SELECT 1;\n{order}\n")
        host.shell(f"zstd -qdc {one['path']} >/tmp/text; cat /tmp/order /tmp/text >/tmp/both; zstd -qf /tmp/both -o /srv/order.zst")
        bad = {**one, "path": "/srv/order.zst", "plain_sha256": host.shell("sha256sum </tmp/both")[:64]}
        answer = host.prove(
            "mariadb", {**dumped, "artefacts": [bad if other is one else other for other in dumped["artefacts"]]}, f"order-{role}{number}"
        )
        assert host.shell("ls /dev/shm/obeyed 2>/dev/null || true") == "", "the vault has run a program that the copy asked for"
        assert answer["verdict"] == "unknown", answer


@pytest.mark.parametrize(
    "order",
    [
        "LOAD DATA LOCAL INFILE '/etc/passwd' INTO TABLE z.t",
        "LOAD DATA INFILE '/etc/passwd' INTO TABLE z.t",
        "SELECT 1 INTO OUTFILE '/dev/shm/obeyed'",
    ],
)
def test_statements_reach_no_file_of_the_vault(host: TrapHost, dumped: dict[str, Any], order: str) -> None:
    (one,) = [one for one in dumped["artefacts"] if one["role"] == "dump"]
    host.write("/tmp/order", f"CREATE DATABASE z; CREATE TABLE z.t (a text);\n{order};\n")
    host.shell(
        f"rm -f /dev/shm/obeyed; zstd -qdc {one['path']} >/tmp/text; cat /tmp/order /tmp/text >/tmp/both; zstd -qf /tmp/both -o /srv/order.zst"
    )
    bad = {**one, "path": "/srv/order.zst", "plain_sha256": host.shell("sha256sum </tmp/both")[:64]}
    answer = host.prove("mariadb", {**dumped, "artefacts": [bad if other is one else other for other in dumped["artefacts"]]}, "files")
    assert answer["verdict"] == "unknown", answer
    assert host.shell("ls /dev/shm/obeyed 2>/dev/null || true") == ""


def test_half_of_the_accounts(host: TrapHost, dumped: dict[str, Any]) -> None:
    (users,) = [one for one in dumped["artefacts"] if one["role"] in ("users", "globals")]
    host.shell(
        f"zstd -qdc {users['path']} >/tmp/users; head -n $(($(wc -l </tmp/users) / 2)) /tmp/users >/tmp/half; zstd -qf /tmp/half -o /srv/half.zst"
    )
    bad = {**users, "path": "/srv/half.zst", "plain_sha256": host.shell("sha256sum </tmp/half")[:64]}
    answer = host.prove("mariadb", {**dumped, "artefacts": [bad if one is users else one for one in dumped["artefacts"]]}, "accounts")
    assert answer["verdict"] in ("different", "unknown"), answer


def test_an_event_that_is_over_is_named(host: TrapHost) -> None:
    """The server drops such an event while it is restored, with a warning only."""
    fresh(host, "events", "CREATE EVENT once ON SCHEDULE AT NOW() + INTERVAL 1 SECOND DO SELECT 1; DO SLEEP(1.2)")
    answer = host.prove("mariadb", host.dump("mariadb", "events"), "events")
    assert answer["verdict"] == "different" and told(answer["differences"]) == {"event once: missing in the copy"}


def test_an_event_with_a_named_time_zone(host: TrapHost) -> None:
    """A new server knows no named zone (error 1298); the vault's own files tell it, and where they do not, the answer names the zone."""
    zone = "/usr/share/zoneinfo/Europe/Berlin"
    host.shell(f"mariadb-tzinfo-to-sql {zone} Europe/Berlin | mariadb --no-defaults -S /run/mysqld/mysqld.sock mysql")
    fresh(host, "zoned", "CREATE TABLE t (a int); SET time_zone = 'Europe/Berlin'; CREATE EVENT e ON SCHEDULE EVERY 1 DAY STARTS '2030-07-01 08:00:00' DO SELECT 1")  # fmt: skip
    result = host.dump("mariadb", "zoned")
    answer = host.prove("mariadb", result, "zoned")
    assert answer["verdict"] == "equal", answer
    host.shell(f"mv {zone} {zone}.away")
    try:
        answer = host.prove("mariadb", result, "zoned")
    finally:
        host.shell(f"mv {zone}.away {zone}")
    assert (
        answer["verdict"] == "unknown" and "time zone: 'Europe/Berlin'; the server has the time zone Europe/Berlin from" in answer["error"]
    ), answer


def test_a_view_that_reads_another_database_names_it(host: TrapHost) -> None:
    fresh(host, "reading", "CREATE VIEW v AS SELECT a FROM neighbour.t")
    answer = host.prove("mariadb", host.dump("mariadb", "reading"), "reading")
    assert answer["verdict"] == "unknown" and "Table 'neighbour.t' doesn't exist; it reads the database neighbour" in answer["error"], (
        answer
    )


def test_impossible_dates_are_named(host: TrapHost) -> None:
    """30 February can be stored, but mariadb-dump's own SQL mode turns it into zeros on the way back."""
    fresh(host, "dates", "SET sql_mode = 'ALLOW_INVALID_DATES'; CREATE TABLE t (d date); INSERT INTO t VALUES ('2020-02-30')")
    answer = host.prove("mariadb", host.dump("mariadb", "dates"), "dates")
    assert answer["verdict"] == "different" and told(answer["differences"]) == {"table t: content"}


def test_a_broken_view_is_refused_by_name(host: TrapHost) -> None:
    fresh(host, "broken", "CREATE TABLE t (a int); CREATE VIEW v AS SELECT a FROM t; DROP TABLE t")
    with pytest.raises(Failed, match=r"broken\.v"):
        host.dump("mariadb", "broken")


def test_a_row_larger_than_a_packet_is_refused(host: TrapHost) -> None:
    fresh(host, "large", "CREATE TABLE t (f float, b longblob); INSERT INTO t VALUES (0.1, REPEAT('x', 9000000))")
    with pytest.raises(Failed, match="table t: a row is too large for the server's max_allowed_packet"):
        host.dump("mariadb", "large")


def test_an_account_of_a_plugin_that_the_vault_lacks(host: TrapHost) -> None:
    maria(host, "INSTALL SONAME 'auth_ed25519'; CREATE USER modern@localhost IDENTIFIED VIA ed25519 USING PASSWORD('x')")
    plugin = "/usr/lib/mysql/plugin/auth_ed25519.so"
    try:
        result = host.dump("mariadb", fresh(host, "plugged", "CREATE TABLE t (a int)"))
        # The server has it and does not load it by itself.
        assert host.prove("mariadb", result, "plugged")["verdict"] == "equal"
        host.shell(f"mv {plugin} {plugin}.away")
        answer = host.prove("mariadb", result, "plugged")
    finally:
        host.shell(f"[ ! -e {plugin}.away ] || mv {plugin}.away {plugin}")
        maria(host, "DROP USER modern@localhost; UNINSTALL SONAME 'auth_ed25519'")
    assert answer["verdict"] == "unknown" and "ed25519" in answer["error"]


PUBLIC = "SELECT ON public_db.* {0} PUBLIC", "UPDATE ON public_db.t {0} PUBLIC", "SHOW DATABASES ON *.* {0} PUBLIC", "everyone {0} PUBLIC"


def test_what_everybody_may_comes_with_the_copy(host: TrapHost) -> None:
    """mariadb-dump leaves it out; and a row of nothing stays when it is revoked."""
    fresh(host, "public_db", "CREATE TABLE t (a int); CREATE ROLE everyone;" + "; ".join("GRANT " + one.format("TO") for one in PUBLIC))
    try:
        result = host.dump("mariadb", "public_db")
        with host.holder("mariadb", result, "public", True) as holder:
            assert holder.answer() == {"restored": True}
            assert told(holder.changed()) == set()
            # Each of them is compared.
            for one in PUBLIC[:3]:
                before = holder.changed()
                assert len(holder.changed("REVOKE " + one.format("FROM"))) > len(before), one
            found = told(holder.changed("DELETE FROM mysql.roles_mapping WHERE User = 'PUBLIC'"))
            assert "membership 'PUBLIC'@'' in everyone: missing in the copy" in found, found
    finally:
        maria(host, "; ".join("REVOKE " + one.format("FROM") for one in PUBLIC) + "; DROP ROLE everyone")
    assert maria(host, "SELECT COUNT(*) FROM mysql.global_priv WHERE User = 'PUBLIC'").strip() == "1"
    answer = host.prove("mariadb", host.dump("mariadb", "public_db"), "public")
    assert answer["verdict"] == "equal", answer


def test_what_belongs_to_the_server_is_kept_or_named(host: TrapHost) -> None:
    """Tables may be read by way of a server; its password is in the accounts' artefact alone."""
    maria(host, "CREATE SERVER archive FOREIGN DATA WRAPPER mysql OPTIONS (HOST '192.0.2.1', USER 'u', PASSWORD 'told to none');"
          "CREATE USER deputy@localhost; GRANT PROXY ON clerk@localhost TO deputy@localhost")  # fmt: skip
    library = "INSERT INTO mysql.func VALUES ('sys_eval', 0, 'lib_mysqludf_sys.so', 'function')"
    try:
        result = host.dump("mariadb", fresh(host, "linked", "CREATE TABLE t (a int)"))
        with host.holder("mariadb", result, "linked", True) as holder:
            assert holder.answer() == {"restored": True}
            assert told(holder.changed()) == set()
            assert told(holder.changed("DROP SERVER archive", "REVOKE PROXY ON clerk@localhost FROM deputy@localhost")) == {
                "server archive: missing in the copy",
                "proxy 'deputy'@'localhost' for 'clerk'@'localhost': missing in the copy",
            }
        known = {one["role"]: host.shell(f"zstd -qdc {one['path']}") for one in result["artefacts"]}
        assert [role for role, text in known.items() if "told to none" in text] == ["users"] and "told to none" not in json.dumps(result)
        maria(host, library)
        answer = host.prove("mariadb", host.dump("mariadb", "linked"), "linked")
        assert told(answer["differences"]) == {"loadable function sys_eval: missing in the copy"}, answer
    finally:
        maria(host, "DROP SERVER archive; DROP USER deputy@localhost; DELETE FROM mysql.func")


def test_a_table_in_memory_that_is_larger_than_a_new_server_allows(host: TrapHost) -> None:
    rows = "SELECT seq, REPEAT('x', 200) FROM seq_1_to_120000"
    fresh(host, "heap", f"SET max_heap_table_size = 64 << 20; CREATE TABLE t (a int, v char(200) CHARACTER SET latin1) ENGINE=MEMORY; INSERT INTO t {rows}")  # fmt: skip
    result = host.dump("mariadb", "heap")
    maria(host, "DROP DATABASE heap")
    answer = host.prove("mariadb", result, "heap")
    assert (answer["verdict"], answer["rows"]) == ("equal", 120000), answer


def test_history_by_transaction_is_never_called_equal(host: TrapHost) -> None:
    fresh(host, "bytrx", "CREATE TABLE t (a int, s bigint unsigned GENERATED ALWAYS AS ROW START, e bigint unsigned GENERATED ALWAYS AS ROW END, "
          "PERIOD FOR SYSTEM_TIME (s, e)) WITH SYSTEM VERSIONING; INSERT INTO t (a) VALUES (1); UPDATE t SET a = 2")  # fmt: skip
    try:
        result = host.dump("mariadb", "bytrx")
    except Failed as refused:
        assert re.search("bytrx|history|versioned", str(refused))
        return
    assert host.prove("mariadb", result, "bytrx").get("verdict") in ("different", "unknown")


def test_data_elsewhere_is_named(host: TrapHost) -> None:
    maria(host, "INSTALL SONAME 'ha_federated'")
    try:
        fresh(
            host, "far", "CREATE TABLE here (a int); CREATE TABLE there (a int) ENGINE=FEDERATED CONNECTION='mysql://u@127.0.0.1:1/x/there'"
        )
        assert host.dump("mariadb", "far")["source"]["data_elsewhere"] == ["there"]
    finally:
        maria(host, "DROP DATABASE IF EXISTS far; UNINSTALL SONAME 'ha_federated'")


UNDO = (
    "UPDATE conf SET at = 1",
    "UPDATE conf SET value = 'b' WHERE `key` = 'name'",
    "UPDATE conf SET value = 'c' WHERE `key` IS NULL",
)


def test_what_a_product_changes_is_allowed_in_its_rows_alone(host: TrapHost) -> None:
    """Named by rows or columns, a table may differ in those; what else differs in it is a difference."""
    rule = {"table": "conf", "where": {"key": ["database.uuid"]}, "columns": ["value"]}
    fresh(
        host,
        "apart",
        "CREATE TABLE conf (`key` varchar(50) CHARACTER SET latin1, value text, at int); INSERT INTO conf VALUES ('database.uuid', 'a', 1), ('name', 'b', 1), (NULL, 'c', 1)",
    )
    result = host.dump("mariadb", "apart", apart=[rule])
    with host.holder("mariadb", result, "apart", True, [rule]) as holder:
        assert holder.answer() == {"restored": True}
        change = "UPDATE conf SET value = 'new' WHERE `key` = 'database.uuid'"
        assert told(holder.changed(change)) == {"allowed conf (value where key is database.uuid): "}
        for more in (
            "UPDATE conf SET at = 2 WHERE `key` = 'database.uuid'",
            "UPDATE conf SET at = 1, value = 'new' WHERE `key` = 'name'",
            "UPDATE conf SET value = 'new' WHERE `key` IS NULL",
        ):
            found = told(holder.changed(change, more))
            assert found == {"table conf: content"}, found
            # MariaDB takes nothing back.
            holder.changed(*UNDO)
        assert holder.end()["verdict"] == "equal"


def test_every_trap_has_its_test(request: pytest.FixtureRequest) -> None:
    ids = {item.name for item in request.session.items if item.fspath == request.node.fspath}
    several = {
        "test_a_writer_without_transactions_is_noticed[MyISAM]": "test_a_writer_without_transactions_is_noticed",
        "test_definitions_that_change_meanwhile_are_noticed[column]": "test_definitions_that_change_meanwhile_are_noticed",
    }
    ids |= {several[one] for one in ids if one in several}
    if len(ids) > 1:  # all of the file was asked for
        assert sorted(trap for trap, test in TRAPS.items() if test not in ids) == []
    assert set(TEETH) == {trap for trap, test in TRAPS.items() if test.startswith("test_the_comparison_has_teeth")}
