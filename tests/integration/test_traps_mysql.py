# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every known way in which a copy of a MySQL database silently loses something, one named case each, on a real MySQL server.

As test_traps_mariadb: one database holds all that a copy must carry, and is dumped and proven once. Then each case takes its piece out of the
restored copy, and the comparison must name exactly that. What no copy can carry must be refused or named.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.host_container import Failed
from tests.integration.mysql_host import SOCKET, MysqlHost
from tests.integration.trap_copy import Holder, told

# trap -> the test that holds it. test_every_trap_has_its_test looks that none is without.
TRAPS = {
    "text dump loses FLOAT": "test_the_copy_is_equal",
    "a collation that the column has from its table": "test_the_copy_is_equal",
    "password hash that cannot be printed": "test_the_copy_is_equal",
    "second password of an account": "test_the_copy_is_equal",
    "role and default role before the role is there": "test_the_copy_is_equal",
    "event scheduler runs in the copy": "test_no_event_runs_in_the_copy",
    "restored under another name a view reads the source": "test_the_copy_is_alone_and_has_the_name_of_the_source",
    "dump of a database that does not exist": "test_no_such_database",
    "MyISAM with a writer": "test_a_writer_without_transactions_is_noticed",
    "low-privilege dump": "test_low_privilege_is_refused",
    "a table is changed, emptied or made while it is dumped": "test_definitions_that_change_meanwhile_are_noticed[column]",
    "text dump cut in half": "test_a_damaged_dump_is_refused[cut]",
    "text dump cut at the end of a statement": "test_a_damaged_dump_is_refused[cut at a statement]",
    "text dump without one statement": "test_a_damaged_dump_is_refused[statement lost]",
    "bit flipped in a text dump": "test_a_damaged_dump_is_refused[bit]",
    "accounts cut in half": "test_half_of_the_accounts",
    "primary keys hidden on the whole server": "test_hidden_primary_keys_come_with_the_copy",
    "rights taken back in part": "test_rights_that_are_taken_back_in_part",
    "event that is over": "test_an_event_that_is_over_is_named",
    "event of a session with a named time zone": "test_an_event_with_a_named_time_zone",
    "other servers": "test_what_belongs_to_the_server_is_kept",
    "dates that no strict server takes": "test_impossible_dates_are_named",
    "view on a table that is gone": "test_a_broken_view_is_refused_by_name",
    "row larger than a packet": "test_a_row_larger_than_a_packet_is_refused",
    "account of a plugin that the vault lacks": "test_an_account_of_a_plugin_that_the_vault_lacks",
    "encrypted table": "test_an_encrypted_table_is_never_called_equal",
    "reference system of one's own": "test_a_reference_system_of_ones_own_is_named",
    "MariaDB's tools beside a MySQL server": "test_mariadbs_tools_are_refused",
    "MySQL where MariaDB is declared": "test_mysql_where_mariadb_is_declared",
    "server killed": "test_the_server_is_killed",
    "vault without a MySQL server": "test_a_vault_without_mysql",
}

KEPT = r"""
CREATE DATABASE traps CHARACTER SET utf8mb4 COLLATE utf8mb4_0900_as_cs; USE traps; SET NAMES utf8mb4;
CREATE ROLE staff, boss@'10.%';
CREATE USER clerk@localhost IDENTIFIED BY 'hidden' DEFAULT ROLE staff WITH MAX_USER_CONNECTIONS 7 PASSWORD HISTORY 3 COMMENT 'it''s "one"';
CREATE USER locked@'10.%' IDENTIFIED WITH sha256_password BY 'x' PASSWORD EXPIRE ACCOUNT LOCK ATTRIBUTE '{"of": "2019"}';
CREATE USER two@localhost IDENTIFIED BY 'first'; ALTER USER two@localhost IDENTIFIED BY 'second' RETAIN CURRENT PASSWORD;
CREATE TABLE f (id int PRIMARY KEY, v float, w float(7,4)); SET SESSION cte_max_recursion_depth = 5000;
INSERT INTO f WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM n WHERE i < 500) SELECT i, RAND(i) * 1000, RAND(i) * 99 FROM n;
CREATE TABLE d (id int PRIMARY KEY, v double); INSERT INTO d VALUES (1, -0e0), (2, 5e-324), (3, 1.7976931348623157e308), (4, 0.1);
CREATE TABLE mix (id int PRIMARY KEY, v float, j json, g geometry NOT NULL SRID 4326, vec vector(3), b blob, t text CHARACTER SET latin1, gc geometrycollection,
    e enum('a','b'), s set('x','y'), bi bit(3), ts timestamp(3) NULL, dbl double AS (v * 2) STORED, SPATIAL KEY (g));
INSERT INTO mix (id, v, j, g, vec, b, t, gc, e, s, bi, ts) VALUES (1, 0.7, '{"a\'s": "q\\"\\\\ 😀", "n": 1.50, "big": 12345678901234567890, "l": [1, null, true]}',
    ST_GeomFromText('POINT(47.1 8.5)', 4326), TO_VECTOR('[1.5,2,3]'), X'00FF27', 'é\'', ST_GeomFromText('GEOMETRYCOLLECTION(POINT(1 1))'), 'b', 'x,y', b'101',
    '2024-03-31 01:30:00.123');
CREATE TABLE emo (id int PRIMARY KEY, v varchar(40), w varchar(40) CHARACTER SET latin1, x varchar(9) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin,
    n varchar(9)); INSERT INTO emo VALUES (1, 'Zoë 😀 𝕫', 'é', 'ÄÖ', NULL), (2, 'ZOE', 'e', 'äö', '');
INSERT INTO emo VALUES (3, 'mojibake', CONVERT(X'C3A95A81' USING latin1), 'a', 'b');
CREATE TABLE isam (v int) ENGINE=MyISAM; INSERT INTO isam VALUES (1), (2); CREATE TABLE mem (v int) ENGINE=MEMORY; INSERT INTO mem VALUES (1);
CREATE TABLE gen (a int, vv int AS (a * 2) VIRTUAL, pp int AS (a * 3) STORED, hid int DEFAULT 7 INVISIBLE); INSERT INTO gen (a, hid) VALUES (1, 8);
SET sql_generate_invisible_primary_key = 1; CREATE TABLE gipk (a int, f float); INSERT INTO gipk VALUES (7, 0.7), (8, 0.1); DELETE FROM gipk WHERE a = 7;
SET sql_generate_invisible_primary_key = 0;
CREATE TABLE bits (id int PRIMARY KEY, b bit(13), vb varbinary(20), t text, e enum('a', 'b'), s set('x', 'y'));
INSERT INTO bits VALUES (1, b'1010000000001', X'00FF0041', CONCAT('a', CHAR(0), 'b', CHAR(13, 10), '\\'), 'a', 'x,y');
SET sql_mode = ''; INSERT INTO bits (id, e) VALUES (2, 'wrong');
CREATE TABLE zero (id int PRIMARY KEY, d date, dt datetime, ts timestamp NULL, ti time(6), y year);
INSERT INTO zero VALUES (1, '0000-00-00', '0000-00-00 00:00:00', '2024-03-31 01:30:00', '-838:59:59', 0), (2, '2020-00-01', '2020-01-00', NULL, NULL, NULL);
SET sql_mode = 'NO_AUTO_VALUE_ON_ZERO'; CREATE TABLE auto (id int AUTO_INCREMENT PRIMARY KEY, v text) AUTO_INCREMENT = 50;
INSERT INTO auto VALUES (0, 'zero'), (-3, 'below'); SET sql_mode = DEFAULT;
CREATE TABLE part (a int) PARTITION BY RANGE (a) (PARTITION p0 VALUES LESS THAN (10), PARTITION p1 VALUES LESS THAN MAXVALUE);
INSERT INTO part VALUES (1), (100);
CREATE TABLE chk (a int, CONSTRAINT pos CHECK (a > 0) NOT ENFORCED, CONSTRAINT big CHECK (a < 100)); INSERT INTO chk VALUES (-1), (1);
CREATE TABLE fx (id int PRIMARY KEY, a varchar(20) DEFAULT (UPPER('x')), b json, KEY low ((LOWER(a))), KEY mv ((CAST(b->'$.t' AS UNSIGNED ARRAY))),
    KEY gone (a) INVISIBLE, KEY down (a DESC)); INSERT INTO fx VALUES (1, 'Abc', '{"t": [1, 2]}');
ANALYZE TABLE fx UPDATE HISTOGRAM ON a WITH 4 BUCKETS;
CREATE TABLE k1 (id int PRIMARY KEY, other int); CREATE TABLE k2 (id int PRIMARY KEY, other int, CONSTRAINT to1 FOREIGN KEY (other) REFERENCES k1 (id));
ALTER TABLE k1 ADD CONSTRAINT to2 FOREIGN KEY (other) REFERENCES k2 (id);
SET foreign_key_checks = 0; INSERT INTO k1 VALUES (1, 1); INSERT INTO k2 VALUES (1, 1); SET foreign_key_checks = 1;
CREATE TABLE `a/b` (v float); INSERT INTO `a/b` VALUES (0.3); CREATE TABLE ` x``y \ "q" ; --` (` c``d` float); INSERT INTO ` x``y \ "q" ; --` VALUES (0.7);
CREATE TABLE `Ünï 表` (`č` text); INSERT INTO `Ünï 表` VALUES ('x'); CREATE TABLE twin (v int); CREATE TABLE Twin (v int); INSERT INTO twin VALUES (1);
INSERT INTO Twin VALUES (2); CREATE TABLE `a.b` (v float); INSERT INTO `a.b` VALUES (0.1);
CREATE TABLE geo (id int PRIMARY KEY, p point SRID 0, dc decimal(30,10), j json); INSERT INTO geo VALUES (1, POINT(1.1, 2), 1.5, '{"a":  1}');
CREATE TABLE defs (a varchar(20) DEFAULT 'to  do' COMMENT 'c', b timestamp DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP, KEY ka (a)) COMMENT 'of 2019';
CREATE TABLE audit (n int); CREATE TABLE pairs (a int, b int); INSERT INTO pairs VALUES (1, 2), (3, 4);
CREATE TRIGGER noted AFTER INSERT ON f FOR EACH ROW INSERT INTO audit VALUES (1);
CREATE TRIGGER noted2 AFTER INSERT ON f FOR EACH ROW PRECEDES noted INSERT INTO audit VALUES (2);
CREATE TRIGGER noted3 AFTER INSERT ON pairs FOR EACH ROW INSERT INTO audit VALUES (3);
CREATE FUNCTION plus(a int) RETURNS int DETERMINISTIC RETURN a + 1;
DELIMITER //
CREATE PROCEDURE pr() BEGIN SELECT 'ü 😀'; END//
DELIMITER ;
CREATE EVENT tick ON SCHEDULE EVERY 1 SECOND DO INSERT INTO audit VALUES (3); CREATE EVENT later ON SCHEDULE AT NOW() + INTERVAL 9 YEAR DISABLE DO SELECT 1;
CREATE VIEW vw AS SELECT id, plus(id) AS x FROM traps.f; CREATE USER gone@localhost;
CREATE DEFINER = gone@localhost VIEW orphan AS SELECT a FROM pairs; DROP USER IF EXISTS gone@localhost;
GRANT SELECT, INSERT ON traps.* TO clerk@localhost WITH GRANT OPTION; GRANT UPDATE ON traps.f TO clerk@localhost; GRANT SELECT (v) ON traps.emo TO staff;
GRANT EXECUTE ON PROCEDURE traps.pr TO staff; GRANT staff TO clerk@localhost WITH ADMIN OPTION; GRANT boss@'10.%' TO staff;
GRANT BACKUP_ADMIN, PROCESS ON *.* TO boss@'10.%'; GRANT PROXY ON clerk@localhost TO two@localhost;
CREATE DATABASE neighbour; CREATE TABLE neighbour.t (a int); GRANT SELECT ON neighbour.t TO clerk@localhost;
"""

# trap -> (statements on the copy, what must be said)
TEETH: dict[str, tuple[list[str], list[str]]] = {
    "float": (["UPDATE f SET v = ROUND(v, 3) WHERE id = 7"], ["table f: content"]),
    "float beside other types": (["UPDATE mix SET v = 0.70001"], ["table mix: content"]),
    "double": (["DELETE FROM d WHERE id = 1", "INSERT INTO d VALUES (1, 1e-300)"], ["table d: content"]),
    "routine": (["DROP FUNCTION plus"], ["routine FUNCTION plus: missing in the copy"]),
    "event": (["ALTER EVENT later ENABLE"], ["event later: definition"]),
    "trigger": (["DROP TRIGGER noted3"], ["trigger noted3: missing in the copy"]),
    "order of triggers": (["DROP TRIGGER noted", "CREATE TRIGGER noted BEFORE INSERT ON f FOR EACH ROW SET @x = 1"], ["trigger noted: definition"]),
    "grant on the database": (["REVOKE INSERT ON traps.* FROM clerk@localhost"], ["grant on the database 'clerk'@'localhost': definition"]),
    "grant on a table": (["REVOKE UPDATE ON traps.f FROM clerk@localhost"], ["grant on a table 'clerk'@'localhost' on f: missing in the copy"]),
    "grant on a column": (["REVOKE SELECT (v) ON traps.emo FROM staff"], ["grant on a column "]),
    "grant on a routine": (["REVOKE EXECUTE ON PROCEDURE traps.pr FROM staff"], ["grant on a routine "]),
    "account": (["DROP USER locked@'10.%'"], ["account 'locked'@'10.%': missing in the copy"]),
    "role": (["DROP ROLE boss@'10.%'"], ["account 'boss'@'10.%': missing in the copy"]),
    "default role": (["ALTER USER clerk@localhost DEFAULT ROLE NONE"], ["account 'clerk'@'localhost': definition"]),
    "membership": (["REVOKE staff FROM clerk@localhost"], ["membership 'clerk'@'localhost' in 'staff'@'%': missing in the copy"]),
    "password asked for": (["ALTER USER clerk@localhost IDENTIFIED BY ''"], ["account 'clerk'@'localhost': definition"]),
    "limits of an account": (["ALTER USER two@localhost WITH MAX_USER_CONNECTIONS 8"], ["account 'two'@'localhost': definition"]),
    "proxy": (["REVOKE PROXY ON clerk@localhost FROM two@localhost"], ["account 'two'@'localhost': definition"]),
    "view with a missing definer": (["DROP VIEW orphan"], ["view orphan: missing in the copy"]),
    "emoji": (["UPDATE emo SET v = 'Zoë ? 𝕫' WHERE id = 1"], ["table emo: content"]),
    "case and accents": (["UPDATE emo SET v = 'zoe' WHERE id = 2"], ["table emo: content"]),
    "mojibake": (["UPDATE emo SET w = 'é' WHERE id = 3"], ["table emo: content"]),
    "null is not empty": (["UPDATE emo SET n = '' WHERE id = 1"], ["table emo: content"]),
    "collation of a column": (["ALTER TABLE emo MODIFY x varchar(9) CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci"], ["relation emo: definition"]),
    "myisam": (["DELETE FROM isam WHERE v = 1"], ["table isam: rows"]),
    "generated column": (["ALTER TABLE gen MODIFY pp int AS (a * 4) STORED"], ["table gen: content", "relation gen: definition"]),
    "invisible column": (["UPDATE gen SET hid = 7"], ["table gen: content"]),
    "hidden primary key": (["UPDATE gipk SET my_row_id = 9"], ["table gipk: content"]),
    "bit": (["UPDATE bits SET b = b'1010000000000' WHERE id = 1"], ["table bits: content"]),
    "varbinary with zero bytes": (["UPDATE bits SET vb = X'FF0041' WHERE id = 1"], ["table bits: content"]),
    "zero byte in text": (["UPDATE bits SET t = REPLACE(t, CHAR(13), '') WHERE id = 1"], ["table bits: content"]),
    "enum without a value": (["UPDATE bits SET e = NULL WHERE id = 2"], ["table bits: content"]),
    "zero date": (["UPDATE zero SET d = NULL WHERE id = 1"], ["table zero: content"]),
    "auto increment zero": (["UPDATE auto SET id = 1 WHERE id = 0"], ["table auto: content"]),
    "next auto increment": (["ALTER TABLE auto AUTO_INCREMENT = 51"], ["relation auto: definition"]),
    "partition": (["ALTER TABLE part REMOVE PARTITIONING"], ["relation part: definition"]),
    "check": (["ALTER TABLE chk ALTER CHECK big NOT ENFORCED"], ["relation chk: definition"]),
    "row against a check that is not enforced": (["DELETE FROM chk WHERE a = -1"], ["table chk: rows"]),
    "functional index": (["ALTER TABLE fx DROP KEY low"], ["relation fx: definition"]),
    "invisible index": (["ALTER TABLE fx ALTER INDEX gone VISIBLE"], ["relation fx: definition"]),
    "circular keys": (["ALTER TABLE k1 DROP FOREIGN KEY to2"], ["relation k1: definition"]),
    "name with a slash": (["UPDATE `a/b` SET v = 0.4"], ["table a/b: content"]),
    "name with blanks and backticks": ([r'UPDATE ` x``y \ "q" ; --` SET ` c``d` = 1'], [r'table  x`y \ "q" ; --: content']),
    "unicode name": (["DROP TABLE `Ünï 表`"], ["table Ünï 表: missing in the copy"]),
    "names that differ in case": (["UPDATE Twin SET v = 1"], ["table Twin: content"]),
    "name with a dot": (["UPDATE `a.b` SET v = 1"], ["table a.b: content"]),
    "spatial": (["UPDATE geo SET p = POINT(1.2, 2)"], ["table geo: content"]),
    "spatial reference": (["ALTER TABLE geo MODIFY p point"], ["relation geo: definition"]),
    "vector": (["UPDATE mix SET vec = TO_VECTOR('[1.5,2,4]')"], ["table mix: content"]),
    "json": (["UPDATE geo SET j = '{\"a\": \"1\"}'"], ["table geo: content"]),
    "default": (["ALTER TABLE defs ALTER a SET DEFAULT 'to do'"], ["relation defs: definition"]),
    "index": (["ALTER TABLE defs DROP KEY ka"], ["relation defs: definition"]),
    "table comment": (["ALTER TABLE defs COMMENT 'x'"], ["relation defs: definition"]),
    "one row missing and one twice": (["DELETE FROM pairs WHERE a = 3", "INSERT INTO pairs VALUES (1, 2)"], ["table pairs: content"]),
    "values swapped between columns": (["DELETE FROM pairs", "INSERT INTO pairs VALUES (2, 1), (3, 4)"], ["table pairs: content"]),
    "values swapped between rows": (["DELETE FROM pairs", "INSERT INTO pairs VALUES (1, 4), (3, 2)"], ["table pairs: content"]),
    "table missing": (["DROP TABLE mem"], ["table mem: missing in the copy"]),
    "collation of the database": (["ALTER DATABASE traps COLLATE utf8mb4_general_ci"], ["database database: definition"]),
    "line ends in a routine": (["DROP PROCEDURE pr", "CREATE PROCEDURE pr() SELECT 'ü ?'"], ["routine PROCEDURE pr: definition"]),
}  # fmt: skip


@pytest.fixture(scope="module")
def host() -> Iterator[MysqlHost]:
    with MysqlHost(f"sunset-test-traps-mysql-{os.getpid()}") as host:
        host.sql(KEPT)
        yield host


@pytest.fixture(scope="module")
def dumped(host: MysqlHost) -> dict[str, Any]:
    return host.dump("mysql", "traps")


@pytest.fixture(scope="module")
def copy(host: MysqlHost, dumped: dict[str, Any]) -> Iterator[Holder]:
    with host.holder("mysql", dumped, "traps", True) as holder:
        answer = holder.answer()
        assert answer == {"restored": True}, answer
        yield holder


def test_the_copy_is_equal(copy: Holder, dumped: dict[str, Any]) -> None:
    assert told(copy.changed()) == set()
    assert dumped["source"]["roles"] == "complete" and dumped["source"]["engine"] == "mysql"


def test_no_event_runs_in_the_copy(copy: Holder) -> None:
    assert copy.rows("SELECT @@event_scheduler, (SELECT SLEEP(1.5)), (SELECT COUNT(*) FROM audit)") == ["OFF\t0\t0"]


def test_the_copy_is_alone_and_has_the_name_of_the_source(copy: Holder) -> None:
    asked = "SELECT DATABASE(), @@skip_networking, @@log_bin, @@secure_file_priv, (SELECT COUNT(*) FROM vw)"
    assert copy.rows(asked) == ["traps\t1\t0\tNULL\t500"]


@pytest.fixture(scope="module")
def differing(copy: Holder) -> list[list[dict[str, Any]]]:
    """What differs since the last case."""
    return [copy.changed()]


@pytest.mark.parametrize("trap", TEETH)
def test_the_comparison_has_teeth(copy: Holder, differing: list[list[dict[str, Any]]], trap: str) -> None:
    """MySQL takes no definition back, so the cases add up; each must add its own."""
    statements, wanted = TEETH[trap]
    before = differing[0]
    found = differing[0] = copy.changed(*statements)
    new = [one for one in found if one not in before]
    assert new
    for one in wanted:
        assert any(two.startswith(one) for two in told(new)), told(new)


def test_no_such_database(host: MysqlHost) -> None:
    with pytest.raises(Failed, match="Unknown database"):
        host.dump("mysql", "nosuchdb")


SQL = f"mysql --no-defaults --default-character-set=utf8mb4 -S {SOCKET} -e "


def begun(host: MysqlHost, name: str, rate: int, act: str) -> Any:
    """A slow dump, and what happens as soon as it is being written."""
    host.shell(f"rm -rf /srv/staging/*{name}*")
    options: dict[str, Any] = {"item": f"database:{name}", "engine": "mysql", "database": name, "staging": "/srv/staging", "rate": rate}
    with host.promptly(f"find /srv/staging -path '*{name}*.sql.zst.part' 2>/dev/null | grep -q .", act):
        return host.start_module("database_dump", **options)


def refused(host: MysqlHost, process: Any, name: str, words: str) -> None:
    out, _err = process.communicate(timeout=120)
    answer = json.loads(out)
    assert answer.get("failed") and re.search(words, answer["msg"]), answer
    assert host.shell(f"find /srv/staging -path '*{name}*' -name '*.zst' -o -path '*{name}*' -name finished.json") == ""


def test_a_writer_without_transactions_is_noticed(host: MysqlHost) -> None:
    host.fresh("loose", "CREATE TABLE t (a int) ENGINE=MyISAM")
    process = begun(host, "loose", 1000, SQL + "'INSERT INTO loose.t VALUES (1)'")
    refused(host, process, "loose", r"changed while the dump was made: table t \(MyISAM: no snapshot covers it\)")
    source = host.dump("mysql", "loose")["source"]
    assert source["rows"] == 1 and source["writers"]["quiet"] == "yes"


def test_low_privilege_is_refused(host: MysqlHost) -> None:
    """MySQL does not say that it hides something: an account that sees one of two tables would make a whole dump of one."""
    host.fresh("lowdb", "CREATE TABLE open (a int); CREATE TABLE shut (a int); CREATE USER lowly@'127.0.0.1' IDENTIFIED BY 'pa ss#\"1'; "
               "GRANT SELECT ON lowdb.open TO lowly@'127.0.0.1'")  # fmt: skip
    host.write("/root/db.json", json.dumps({"user": "lowly", "password": 'pa ss#"1', "host": "127.0.0.1", "port": 3306}), "0600")
    reach = {"kind": "tcp", "config": {"format": "file", "path": "/root/db.json"}}
    with pytest.raises(Failed, match="lacks EVENT, EXECUTE, SELECT, SHOW VIEW, TRIGGER"):
        host.dump("mysql", "lowdb", reach=reach)
    host.sql("GRANT ALL ON lowdb.* TO lowly@'127.0.0.1'")
    result = host.dump("mysql", "lowdb", reach=reach)
    assert "not readable by this account" in result["source"]["roles"] and result["source"]["identity"]["server_uuid"]
    assert [one["role"] for one in result["artefacts"]] == ["dump", "fingerprint"]
    assert host.prove("mysql", result, "lowdb")["verdict"] == "equal"
    # The body of somebody else's routine is hidden from it.
    host.sql("CREATE FUNCTION lowdb.secret() RETURNS int DETERMINISTIC RETURN 1")
    with pytest.raises(Failed, match="insuffici?ent privileges to SHOW CREATE FUNCTION `secret`"):
        host.dump("mysql", "lowdb", reach=reach)
    host.sql("DROP USER lowly@'127.0.0.1'")


DDL = {
    "column": ("ALTER TABLE late ADD c int", "late"),
    "emptied": ("TRUNCATE TABLE late", "late"),
    "dropped": ("DROP TABLE late", "late"),
    "new table": ("CREATE TABLE zlast (a int)", "zlast"),
}


@pytest.mark.parametrize("change", DDL)
def test_definitions_that_change_meanwhile_are_noticed(host: MysqlHost, change: str) -> None:
    host.fresh("ddl", "SET SESSION cte_max_recursion_depth = 6000; CREATE TABLE late (a int); INSERT INTO late VALUES (1); CREATE TABLE early AS "
               "WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM n WHERE i < 5000) SELECT i, REPEAT('x', 200) AS t FROM n")  # fmt: skip
    statement, named = DDL[change]
    process = begun(host, "ddl", 300000, f"{SQL} '{statement}' ddl")
    refused(host, process, "ddl", named)


DAMAGE = {
    "cut": "truncate -s $(($(stat -c %s /tmp/plain) / 2)) /tmp/plain",
    "cut at a statement": "head -n $(($(grep -n '^UNLOCK TABLES' /tmp/plain | sed -n 12p | cut -d: -f1))) /tmp/plain >/tmp/p2; mv /tmp/p2 /tmp/plain",
    "statement lost": "sed -i '/^INSERT INTO `pairs`/,/;$/d' /tmp/plain",
    "bit": "sed -i 's/mojibake/mojibakf/' /tmp/plain",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_dump_is_refused(host: MysqlHost, dumped: dict[str, Any], damage: str) -> None:
    """With honest digests over the damaged file, so that only the restore and the comparison are left to see it."""
    (dump,) = [one for one in dumped["artefacts"] if one["role"] == "dump"]
    host.shell(f"zstd -qdc {dump['path']} >/tmp/plain; {DAMAGE[damage]}; zstd -qf /tmp/plain -o /srv/damaged.zst")
    sha = host.shell("sha256sum </tmp/plain")[:64]
    assert sha != dump["plain_sha256"]
    bad = [{**one, "path": "/srv/damaged.zst", "plain_sha256": sha} if one is dump else one for one in dumped["artefacts"]]
    answer = host.prove("mysql", {**dumped, "artefacts": bad}, "damaged")
    wanted = {"statement lost": "table pairs: ", "bit": "table emo: content"}.get(damage)
    if wanted:
        assert answer["verdict"] == "different" and [one for one in told(answer["differences"]) if one.startswith(wanted)], answer
    else:
        assert answer["verdict"] in ("different", "unknown"), answer


def test_half_of_the_accounts(host: MysqlHost, dumped: dict[str, Any]) -> None:
    (users,) = [one for one in dumped["artefacts"] if one["role"] == "users"]
    host.shell(
        f"zstd -qdc {users['path']} >/tmp/users; head -n $(($(wc -l </tmp/users) / 2)) /tmp/users >/tmp/half; zstd -qf /tmp/half -o /srv/half.zst"
    )
    bad = {**users, "path": "/srv/half.zst", "plain_sha256": host.shell("sha256sum </tmp/half")[:64]}
    answer = host.prove("mysql", {**dumped, "artefacts": [bad if one is users else one for one in dumped["artefacts"]]}, "accounts")
    assert answer["verdict"] in ("different", "unknown"), answer


def test_hidden_primary_keys_come_with_the_copy(host: MysqlHost) -> None:
    """Where the server hides them from everybody, mysqldump leaves them out without a word."""
    host.sql("SET GLOBAL show_gipk_in_create_table_and_information_schema = OFF")
    try:
        table = (
            "SET sql_generate_invisible_primary_key = 1; CREATE TABLE t (a int); INSERT INTO t VALUES (1), (2); DELETE FROM t WHERE a = 1"
        )
        result = host.dump("mysql", host.fresh("gipks", table))
    finally:
        host.sql("SET GLOBAL show_gipk_in_create_table_and_information_schema = ON")
    (dump,) = [one for one in result["artefacts"] if one["role"] == "dump"]
    assert "`my_row_id`" in host.shell(f"zstd -qdc {dump['path']}")
    assert host.prove("mysql", result, "gipks")["verdict"] == "equal"


def test_rights_that_are_taken_back_in_part(host: MysqlHost) -> None:
    host.sql("SET GLOBAL partial_revokes = ON; CREATE USER most@localhost; GRANT SELECT ON *.* TO most@localhost; "
             "CREATE DATABASE partly; REVOKE SELECT ON partly.* FROM most@localhost")  # fmt: skip
    try:
        answer = host.prove("mysql", host.dump("mysql", "partly"), "partly")
    finally:
        host.sql("DROP USER most@localhost; DROP DATABASE partly; SET GLOBAL partial_revokes = OFF")
    assert answer["verdict"] == "equal", answer


def test_an_event_that_is_over_is_named(host: MysqlHost) -> None:
    """The server drops such an event while it is restored, with a warning only."""
    answer = host.proven("events", "CREATE EVENT once ON SCHEDULE AT NOW() + INTERVAL 1 SECOND DO SELECT 1; DO SLEEP(1.2)")
    assert answer["verdict"] == "different" and told(answer["differences"]) == {"event once: missing in the copy"}


def test_an_event_with_a_named_time_zone(host: MysqlHost) -> None:
    host.shell(f"mysql_tzinfo_to_sql /usr/share/zoneinfo/Europe/Berlin Europe/Berlin | mysql --no-defaults -S {SOCKET} mysql")
    answer = host.proven(
        "zoned", "SET time_zone = 'Europe/Berlin'; CREATE EVENT e ON SCHEDULE EVERY 1 DAY STARTS '2030-07-01 08:00:00' DO SELECT 1"
    )
    assert answer["verdict"] == "equal", answer


def test_what_belongs_to_the_server_is_kept(host: MysqlHost) -> None:
    host.sql("CREATE SERVER archive FOREIGN DATA WRAPPER mysql OPTIONS (HOST '192.0.2.1', USER 'u', PASSWORD 'told to none')")
    try:
        result = host.dump("mysql", host.fresh("linked", "CREATE TABLE t (a int)"))
        with host.holder("mysql", result, "linked", True) as holder:
            assert holder.answer() == {"restored": True}
            assert told(holder.changed()) == set()
            assert told(holder.changed("DROP SERVER archive")) == {"server archive: missing in the copy"}
    finally:
        host.sql("DROP SERVER archive")
    assert "told to none" not in json.dumps(result)


def test_impossible_dates_are_named(host: MysqlHost) -> None:
    answer = host.proven("dates", "SET sql_mode = 'ALLOW_INVALID_DATES'; CREATE TABLE t (d date); INSERT INTO t VALUES ('2020-02-30')")
    assert answer["verdict"] in ("different", "unknown"), answer


def test_a_broken_view_is_refused_by_name(host: MysqlHost) -> None:
    host.fresh("broken", "CREATE TABLE t (a int); CREATE VIEW v AS SELECT a FROM t; DROP TABLE t")
    with pytest.raises(Failed, match=r"broken\.v"):
        host.dump("mysql", "broken")


def test_a_row_larger_than_a_packet_is_refused(host: MysqlHost) -> None:
    host.sql("SET GLOBAL max_allowed_packet = 16777216")
    try:
        host.fresh("large", "CREATE TABLE t (f float, b longblob); INSERT INTO t VALUES (0.1, REPEAT('x', 9000000))")
        with pytest.raises(Failed, match="table t: a row is too large for the server's max_allowed_packet"):
            host.dump("mysql", "large")
    finally:
        host.sql("SET GLOBAL max_allowed_packet = DEFAULT")


def test_an_account_of_a_plugin_that_the_vault_lacks(host: MysqlHost) -> None:
    host.sql("INSTALL PLUGIN mysql_no_login SONAME 'mysql_no_login.so'; CREATE USER modern@localhost IDENTIFIED WITH mysql_no_login")
    try:
        answer = host.proven("plugged", "CREATE TABLE t (a int)")
    finally:
        host.sql("DROP USER modern@localhost; UNINSTALL PLUGIN mysql_no_login")
    assert answer["verdict"] == "unknown" and "mysql_no_login" in answer["error"]


def test_an_encrypted_table_is_never_called_equal(host: MysqlHost, dumped: dict[str, Any]) -> None:
    """The key ring is outside the server: a dump that asks for one is not restored as if it did not."""
    (dump,) = [one for one in dumped["artefacts"] if one["role"] == "dump"]
    host.shell(
        f"zstd -qdc {dump['path']} | sed '0,/) ENGINE=InnoDB/s//) ENGINE=InnoDB ENCRYPTION=\\x27Y\\x27/' >/tmp/plain; zstd -qf /tmp/plain -o /srv/enc.zst"
    )
    sha = host.shell("sha256sum </tmp/plain")[:64]
    bad = [{**one, "path": "/srv/enc.zst", "plain_sha256": sha} if one is dump else one for one in dumped["artefacts"]]
    answer = host.prove("mysql", {**dumped, "artefacts": bad}, "encrypted")
    assert answer["verdict"] == "unknown" and "keyring" in answer["error"], answer


def test_a_reference_system_of_ones_own_is_named(host: MysqlHost) -> None:
    host.sql("CREATE OR REPLACE SPATIAL REFERENCE SYSTEM 4711 NAME 'ours' DEFINITION 'GEOGCS[\"ours\",DATUM[\"ours\","
             "SPHEROID[\"ours\",6378137,298.25]],PRIMEM[\"Greenwich\",0],UNIT[\"degree\",0.017453292519943278],AXIS[\"Lat\",NORTH],AXIS[\"Lon\",EAST]]'")  # fmt: skip
    answer = host.proven("srs", "CREATE TABLE t (p point SRID 4711)")
    assert answer["verdict"] == "different" and told(answer["differences"]) == {"reference system 4711: missing in the copy"}, answer


def test_mariadbs_tools_are_refused(host: MysqlHost) -> None:
    """On many hosts mysqldump is a name of MariaDB's; it leaves out what it does not know."""
    host.write(
        "/usr/local/bin/mysqldump",
        "#!/bin/sh\necho 'mysqldump from 10.11.19-MariaDB, client 10.19 for debian-linux-gnu (x86_64)'\n",
        "0755",
    )
    try:
        with pytest.raises(Failed, match=r"mysqldump here is not MySQL's \(.*MariaDB.*install MySQL's own client tools"):
            host.dump("mysql", host.fresh("tools", "CREATE TABLE t (a int)"))
    finally:
        host.shell("rm /usr/local/bin/mysqldump")


def test_mysql_where_mariadb_is_declared(host: MysqlHost) -> None:
    with pytest.raises(Failed, match=r"the server that answered is MySQL \(9\..*\), declared is mariadb; declare engine: mysql"):
        host.run("ln", "-sf", "/usr/bin/mysqldump", "/usr/local/bin/mariadb-dump")
        host.dump("mariadb", host.fresh("named", "CREATE TABLE t (a int)"))
    host.shell("rm -f /usr/local/bin/mariadb-dump")


def test_a_vault_without_mysql(host: MysqlHost) -> None:
    """The refusal says what is there under that name, and what to install."""
    result = host.dump("mysql", host.fresh("alone", "CREATE TABLE t (a int)"))
    host.shell("mv /usr/sbin/mysqld /usr/sbin/away")
    try:
        answer = host.prove("mysql", result, "alone")
    finally:
        host.shell("mv /usr/sbin/away /usr/sbin/mysqld")
    assert answer["verdict"] == "unknown" and "this vault has no mysqld of MySQL; install MySQL's server and client" in answer["error"]


def test_the_server_is_killed(host: MysqlHost) -> None:
    """Last: the server is started again, and the same call makes the copy."""
    host.fresh("killed", "SET SESSION cte_max_recursion_depth = 6000; CREATE TABLE t AS "
               "WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM n WHERE i < 5000) SELECT i, REPEAT('x', 200) AS t FROM n")  # fmt: skip
    process = begun(host, "killed", 300000, "systemctl kill -s KILL source-mysql")
    refused(host, process, "killed", "mysqldump|mysql")
    host.start_server()
    assert host.prove("mysql", host.dump("mysql", "killed"), "killed")["verdict"] == "equal"


def test_every_trap_has_its_test(request: pytest.FixtureRequest) -> None:
    ids = {item.name for item in request.session.items if item.fspath == request.node.fspath}
    if len(ids) > 1:  # all of the file was asked for
        assert sorted(trap for trap, test in TRAPS.items() if test not in ids) == []
