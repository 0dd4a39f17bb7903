# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every known way in which a PostgreSQL copy silently loses something, one named case each, on a real server.

One database holds all that a copy must carry; it is dumped and proven by the product once. Then each case takes its piece out of
the restored copy: the comparison must name exactly that. What no copy can carry must be refused or named.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from typing import Any

import pytest

from ansible_collections.sunset.crm.plugins.module_utils._vault import readme as vault_readme
from tests.integration.host_container import LIBRARY, Failed
from tests.integration.trap_copy import Holder, TrapHost, told

# trap -> the test that holds it. test_every_trap_has_its_test looks that none is without.
TRAPS = {
    "dump of a database that does not exist, through a pipe": "test_no_such_database",
    "custom format cut to 60 %": "test_a_damaged_dump_is_refused[cut]",
    "custom format with a part taken out": "test_a_damaged_dump_is_refused[hole]",
    "bit flipped where nothing is compressed": "test_a_damaged_dump_is_refused[bit]",
    "plain dump cut in half": "test_half_of_a_plain_dump",
    "restrict key is the last line of a plain dump": "test_the_end_of_the_globals_is_seen",
    "low-privilege dump": "test_low_privilege_is_refused",
    "row security filters rows": "test_row_security_never_filters",
    "session settings change how equal data print": "test_session_settings_do_not_matter",
    "lc_monetary": "test_session_settings_do_not_matter",
    "data of foreign tables": "test_data_elsewhere_is_named",
    "prepared transactions": "test_prepared_transactions_are_refused",
    "database set to read-only": "test_the_copy_is_equal",
    "database named postgres": "test_the_database_named_postgres",
    "template of a server": "test_a_template_is_refused",
    "extension of an older version": "test_an_extension_of_an_older_version",
    "definitions of another major version": "test_definitions_of_another_major_version_are_not_compared",
    "function of an extension altered": "test_altered_functions_of_an_extension_are_set_again",
    "extension that the vault does not have": "test_an_extension_that_the_vault_lacks",
    "rows in tables of extensions": "test_rows_that_an_extension_keeps_are_not_lost_silently",
    "tables in the system's schemas": "test_a_table_in_a_system_schema_is_named",
    "bytes that are no UTF-8": "test_bytes_that_are_no_utf8_are_kept[any]",
    "view, routine or type in a system schema": "test_what_was_made_in_a_system_schema_is_named",
    "materialized views are derived": "test_a_materialized_view_is_derived",
    "the restored copy calls another machine": "test_the_copy_reaches_nobody",
    "the restored copy reads the vault's own files": "test_the_copy_sees_nothing_of_the_vault[/srv/trap/identity]",
    "commands for psql in the globals": "test_commands_for_psql_are_not_obeyed[globals]",
    "globals cut in half": "test_half_of_the_globals",
    **{
        trap: f"test_the_comparison_has_teeth[{trap}]"
        for trap in (
            "large object lost", "large object changed", "grant on a large object", "extension", "database setting", "role in database",
            "role", "membership", "role setting", "setting of all roles", "tablespace", "default tablespace of a table", "unlogged table",
            "sequence value", "sequence called", "collation of a column", "own collation", "generated column", "identity column", "domain",
            "enum", "composite type", "range type", "array", "jsonb", "bytea with zero bytes", "negative zero", "nan and infinity",
            "infinite date", "partition bound", "partition detached", "inheritance", "foreign server", "user mapping", "foreign table",
            "event trigger", "publication", "table of a publication", "policy", "row security off", "comment on a column",
            "comment on a policy", "default privileges", "trigger disabled", "trigger", "rule", "one row changed",
            "one row missing and one twice", "values swapped between columns", "values swapped between rows", "null is not empty",
            "index dropped", "index unique", "grant missing", "grant to public", "other default", "blank in a default", "check", "not null",
            "foreign key", "view", "routine body", "aggregate", "cast", "text search dictionary", "operator class", "statistics object",
            "storage of a column", "owner", "schema", "grant on a system object", "table missing", "table too many", "database comment",
            "grant on a language", "owner of a language", "grant on plpgsql", "grant on the system's schema", "grant on a parameter", "base type",
            "owner of a base type", "owner of an operator family", "owner of an operator",
            *(f"{what} of an extension" for what in ("trigger", "index", "row security", "policy", "check", "rule", "column", "comment", "owner",
              "table", "view", "function", "cost of a function", "setting of a function", "sequence value", "sequence", "dictionary",
              "search configuration", "domain", "enum", "wrapper", "statistics")),
        )
    },
}  # fmt: skip

KEPT = r"""
CREATE EXTENSION pg_trgm; CREATE EXTENSION hstore; CREATE EXTENSION postgres_fdw; CREATE EXTENSION citext; CREATE EXTENSION unaccent;
CREATE EXTENSION "uuid-ossp"; CREATE EXTENSION wide;
CREATE ROLE clerk LOGIN PASSWORD 'secret' CONNECTION LIMIT 7 VALID UNTIL '2031-01-01'; CREATE ROLE staff NOLOGIN;
COMMENT ON ROLE staff IS 'people'; GRANT staff TO clerk WITH ADMIN OPTION; ALTER ROLE clerk SET work_mem = '5MB';
ALTER ROLE clerk IN DATABASE traps SET statement_timeout = '7s'; ALTER ROLE ALL SET search_path = "$user", public, "odd, name";
ALTER DATABASE traps SET TimeZone = 'Europe/Zurich'; ALTER DATABASE traps SET DateStyle = 'SQL, DMY';
ALTER DATABASE traps SET IntervalStyle = 'sql_standard'; ALTER DATABASE traps SET extra_float_digits = 0;
ALTER DATABASE traps SET bytea_output = 'escape'; ALTER DATABASE traps SET xmlbinary = 'hex';
COMMENT ON DATABASE traps IS 'old CRM'; GRANT CONNECT ON DATABASE traps TO staff;
CREATE TABLESPACE fast OWNER staff LOCATION '/srv/pgfast'; GRANT CREATE ON TABLESPACE fast TO clerk;
CREATE SCHEMA app AUTHORIZATION staff; SET search_path = app, public;
CREATE DOMAIN positive AS int CHECK (VALUE > 0); CREATE TYPE mood AS ENUM ('good', 'bad'); CREATE TYPE pair AS (a int, b text);
CREATE TYPE spread AS RANGE (subtype = float8); CREATE COLLATION plain (provider = libc, locale = 'C');
CREATE TABLE contact (id int GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, name text COLLATE plain NOT NULL, nick citext, mood mood,
    level positive, seen timestamptz, gap interval, price money, f4 float4, f8 float8, n numeric, d date, b bytea, j jsonb, js json,
    tags text[], p pair, r spread, mr int4multirange, h hstore, x xml, inet inet, bits bit(5), ts tsvector, u uuid,
    twice float8 GENERATED ALWAYS AS (f8 * 2) STORED, note text DEFAULT 'to  do', CONSTRAINT sane CHECK (length(name) < 99));
INSERT INTO contact (name, nick, mood, level, seen, gap, price, f4, f8, n, d, b, j, js, tags, p, r, mr, h, x, inet, bits, ts, u, note)
    SELECT 'Zoë 😀 ' || g, 'Z' || g, 'good', g, '2024-03-31 00:30Z'::timestamptz + g * interval '1 hour', '1 mon 1 day -3 s', g * 1.5,
    random(), random(), g / 3.0, '2020-01-01', '\x00ff0041', '{"a": [1, null]}', '{"b":1,  "a": 2}', ARRAY['a', NULL, 'NULL', ''],
    ROW(g, NULL)::app.pair, '[1,2)', '{[1,3),[5,6)}', 'a=>1, b=>NULL', '<a>ü</a>', '::1/64', B'10101', to_tsvector('simple', 'a b'),
    md5(g::text)::uuid, NULL FROM generate_series(1, 300) g;
INSERT INTO contact (id, name, f4, f8, n, d, seen) VALUES (1001, 'zero', '-0', '-0', 'NaN', 'infinity', '-infinity'),
    (1002, 'nan', 'NaN', 'NaN', '-Infinity', '0044-03-15 BC', 'infinity'), (1003, 'inf', '-Infinity', 'Infinity', 'Infinity', NULL, NULL),
    (1004, '', 1e-45, 5e-324, 1e-200, '5874897-12-31', '294276-12-31 23:59:59Z');
SELECT setval('contact_id_seq', 2000); ALTER TABLE contact ALTER note SET STORAGE EXTERNAL;
CREATE UNIQUE INDEX by_name ON contact (lower(name), id); CREATE INDEX fuzzy ON contact USING gin (name gin_trgm_ops);
CREATE STATISTICS both_of ON name, nick FROM contact;
CREATE TABLE child (id int REFERENCES contact, what text) TABLESPACE fast; INSERT INTO child VALUES (1, 'left'), (2, 'right'), (3, NULL);
CREATE UNLOGGED TABLE scrap (v text); INSERT INTO scrap VALUES ('kept'); CREATE TABLE nothing (); INSERT INTO nothing DEFAULT VALUES;
CREATE SEQUENCE numbers START 5; SELECT setval('numbers', 41, false); CREATE SEQUENCE fresh; SELECT nextval('fresh');
CREATE TABLE sold (day date, v int) PARTITION BY RANGE (day); CREATE TABLE sold1 PARTITION OF sold FOR VALUES FROM ('2020-01-01') TO ('2021-01-01');
CREATE TABLE sold2 PARTITION OF sold DEFAULT; INSERT INTO sold VALUES ('2020-05-05', 1), ('1999-01-01', 2);
CREATE TABLE parent (a int); CREATE TABLE heir (b int) INHERITS (parent); INSERT INTO parent VALUES (1); INSERT INTO heir VALUES (2, 3);
CREATE VIEW v AS SELECT id, name FROM contact WHERE mood IN ('good', 'bad'); CREATE MATERIALIZED VIEW mv AS SELECT count(*) FROM contact;
CREATE MATERIALIZED VIEW empty_mv AS SELECT 1 AS one WITH NO DATA;
CREATE FUNCTION noted() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'must not fire in a restore'; END $$;
CREATE TRIGGER asleep BEFORE INSERT ON child FOR EACH ROW EXECUTE FUNCTION noted(); ALTER TABLE child DISABLE TRIGGER asleep;
CREATE TRIGGER awake BEFORE UPDATE ON child FOR EACH ROW EXECUTE FUNCTION noted();
CREATE RULE quiet AS ON DELETE TO scrap DO INSTEAD NOTHING;
CREATE FUNCTION joined(text, text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT $1 || $2'; CREATE AGGREGATE glued (text) (sfunc = joined, stype = text);
CREATE OPERATOR <<< (leftarg = text, rightarg = text, procedure = text_lt); CREATE AGGREGATE least_of (text) (sfunc = joined, stype = text, sortop = <<<);
CREATE FUNCTION as_int(mood) RETURNS int LANGUAGE sql AS 'SELECT 1'; CREATE CAST (mood AS int) WITH FUNCTION as_int(mood);
CREATE FUNCTION handled() RETURNS language_handler LANGUAGE c AS '$libdir/plpgsql', 'plpgsql_call_handler';
CREATE TRUSTED LANGUAGE spoken HANDLER handled; ALTER LANGUAGE spoken OWNER TO staff; GRANT USAGE ON LANGUAGE spoken TO clerk;
REVOKE USAGE ON LANGUAGE plpgsql FROM PUBLIC; GRANT USAGE ON LANGUAGE plpgsql TO clerk; GRANT CREATE ON SCHEMA pg_catalog TO staff;
GRANT SET ON PARAMETER log_statement TO clerk WITH GRANT OPTION; GRANT ALTER SYSTEM ON PARAMETER work_mem TO staff;
CREATE TYPE whole; CREATE FUNCTION whole_in(cstring) RETURNS whole LANGUAGE internal STRICT IMMUTABLE AS 'int4in';
CREATE FUNCTION whole_out(whole) RETURNS cstring LANGUAGE internal STRICT IMMUTABLE AS 'int4out';
CREATE TYPE whole (INPUT = whole_in, OUTPUT = whole_out, INTERNALLENGTH = 4, PASSEDBYVALUE); ALTER TYPE whole OWNER TO staff;
CREATE OPERATOR FAMILY kin USING btree; ALTER OPERATOR FAMILY kin USING btree OWNER TO staff; ALTER OPERATOR <<< (text, text) OWNER TO staff;
CREATE TEXT SEARCH DICTIONARY words (TEMPLATE = simple, stopwords = english);
CREATE OPERATOR CLASS text_way FOR TYPE text USING btree AS OPERATOR 1 <, FUNCTION 1 bttextcmp(text, text);
ALTER TABLE child ENABLE ROW LEVEL SECURITY; ALTER TABLE child FORCE ROW LEVEL SECURITY; CREATE POLICY mine ON child TO staff USING (id > 1);
COMMENT ON POLICY mine ON child IS 'rule of 2019'; COMMENT ON COLUMN contact.name IS 'as on the card'; COMMENT ON SEQUENCE numbers IS 'invoices';
GRANT SELECT (name), UPDATE (name) ON contact TO staff; GRANT SELECT ON child TO PUBLIC; ALTER TABLE heir OWNER TO staff;
ALTER DEFAULT PRIVILEGES IN SCHEMA app GRANT SELECT ON TABLES TO staff; GRANT EXECUTE ON FUNCTION pg_catalog.pg_read_file(text) TO staff;
CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host 'db.example.org', dbname 'other');
CREATE USER MAPPING FOR clerk SERVER far OPTIONS (user 'me', password 'hidden'); GRANT USAGE ON FOREIGN SERVER far TO staff;
CREATE FOREIGN TABLE remote (id int, v text OPTIONS (column_name 'w')) SERVER far OPTIONS (table_name 'there');
CREATE PUBLICATION news FOR TABLE contact (id, name) WHERE (id > 5), child WITH (publish = 'insert');
SELECT lo_from_bytea(4711, decode(repeat('00ff', 5000), 'hex')), lo_create(4712), lo_put(4712, 9000, 'after a hole');
GRANT SELECT ON LARGE OBJECT 4711 TO clerk; COMMENT ON LARGE OBJECT 4711 IS 'scan of a letter';
CREATE FUNCTION watched() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN END $$;
CREATE EVENT TRIGGER watch ON ddl_command_end WHEN TAG IN ('CREATE TABLE') EXECUTE FUNCTION watched();
ALTER DATABASE traps SET default_transaction_read_only = on;
"""

START = r"""
install -d -m 0755 -o vault /srv/given; install -d -o postgres /srv/pgfast
pg_createcluster --start-conf=manual 15 main >/dev/null
printf "fsync = off\nmax_connections = 20\nshared_buffers = 32MB\nmax_prepared_transactions = 2\ntimezone = 'Asia/Tokyo'\n" \
    >>/etc/postgresql/15/main/postgresql.conf
sed -i '1i local all lowly trust' /etc/postgresql/15/main/pg_hba.conf
systemctl start postgresql@15-main
cd /usr/share/postgresql/15/extension
printf "default_version = '1'\n" >ours.control
printf "CREATE TABLE rates (a int); CREATE TABLE declared (a int); SELECT pg_extension_config_dump('declared', '');" >ours--1.sql
printf "default_version = '1'\n" >wide.control
cat >wide--1.sql <<'SQL'
CREATE TABLE conf (k text PRIMARY KEY, v text NOT NULL DEFAULT 'x'); SELECT pg_extension_config_dump('conf', '');
COMMENT ON TABLE conf IS 'what it is set to'; CREATE SEQUENCE tick; CREATE VIEW seen AS SELECT k FROM conf;
CREATE FUNCTION said(a int DEFAULT 1) RETURNS int LANGUAGE sql AS 'SELECT a';
CREATE FUNCTION fired() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE FUNCTION postgis_scripts_build_date() RETURNS text LANGUAGE sql AS $f$ SELECT '2020' $f$;
CREATE TRIGGER own BEFORE INSERT ON conf FOR EACH ROW EXECUTE FUNCTION fired();
CREATE DOMAIN rate AS int CHECK (VALUE > 0); CREATE TYPE step AS ENUM ('one', 'two');
CREATE TEXT SEARCH CONFIGURATION way (COPY = simple); CREATE TEXT SEARCH DICTIONARY few (TEMPLATE = simple, STOPWORDS = english); CREATE FOREIGN DATA WRAPPER sheet;
SQL
"""

Q = "SET search_path = app, public"
# trap -> (statements on the copy, what must be said). "=": nothing else may be said.
TEETH: dict[str, tuple[list[str], list[str]]] = {
    "large object lost": (["SELECT lo_unlink(4711)"], ["large object 4711: missing in the copy", "comment large object 4711: missing in the copy"]),
    "large object changed": (["SELECT lo_put(4711, 9999, 'x')"], ["large object 4711: definition"]),
    "grant on a large object": (["REVOKE SELECT ON LARGE OBJECT 4711 FROM clerk"], ["large object 4711: definition"]),
    "extension": (["DROP EXTENSION pg_trgm CASCADE"], ["extension pg_trgm: missing in the copy", "index app.fuzzy: missing in the copy"]),
    "database setting": (["ALTER DATABASE traps RESET TimeZone"], ["setting /TimeZone: missing in the copy"]),
    "role in database": (["ALTER ROLE clerk IN DATABASE traps RESET ALL"], ["setting clerk/statement_timeout: missing in the copy"]),
    "role": (["ALTER ROLE clerk CONNECTION LIMIT 8"], ["role clerk: definition"]),
    "membership": (["REVOKE ADMIN OPTION FOR staff FROM clerk"], ["membership clerk in staff: definition"]),
    "role setting": (["ALTER ROLE clerk RESET work_mem"], ["role setting clerk/work_mem: missing in the copy"]),
    "setting of all roles": (["ALTER ROLE ALL RESET search_path"], ["role setting (all roles)/search_path: missing in the copy"]),
    "tablespace": (["ALTER TABLESPACE fast OWNER TO clerk"], ["tablespace fast: definition"]),
    "default tablespace of a table": (["ALTER TABLE app.child SET TABLESPACE pg_default"], ["relation app.child: definition"]),
    "unlogged table": (["ALTER TABLE app.scrap SET LOGGED"], ["relation app.scrap: definition"]),
    "sequence value": (["ALTER SEQUENCE app.numbers RESTART 40"], ["sequence value app.numbers: definition"]),
    "sequence called": (["ALTER SEQUENCE app.fresh RESTART 1"], ["sequence value app.fresh: definition"]),
    "collation of a column": (
        ["DROP PUBLICATION news", "DROP VIEW app.v", 'ALTER TABLE app.contact ALTER name TYPE text COLLATE "POSIX"'], ["column app.contact.name: definition"]),
    "own collation": (["ALTER TABLE app.contact RENAME TO c2", "ALTER COLLATION app.plain RENAME TO other"], ["collation app.plain: missing in the copy"]),
    "generated column": (["ALTER TABLE app.contact ALTER twice DROP EXPRESSION"], ["column app.contact.twice: definition"]),
    "identity column": (["ALTER TABLE app.contact ALTER id SET GENERATED ALWAYS"], ["column app.contact.id: definition"]),
    "domain": (["ALTER DOMAIN app.positive ADD CHECK (VALUE < 100000)"], ["type app.positive: definition"]),
    "enum": (["ALTER TYPE app.mood RENAME VALUE 'bad' TO 'worse'"], ["type app.mood: definition", "view app.v: definition"]),
    "composite type": (["ALTER TYPE app.pair OWNER TO staff"], ["type app.pair: definition"]),
    "range type": (["ALTER TYPE app.spread RENAME TO wide"], ["type app.spread: missing in the copy", "type app.wide: only in the copy"]),
    "array": (["UPDATE app.contact SET tags[2] = 'NULL' WHERE id = 7"], ["table app.contact: content"]),
    "jsonb": (["UPDATE app.contact SET j = '{\"a\": [1]}' WHERE id = 7"], ["table app.contact: content"]),
    "bytea with zero bytes": (["UPDATE app.contact SET b = '\\xff0041' WHERE id = 7"], ["table app.contact: content"]),
    "negative zero": (["UPDATE app.contact SET f8 = 0 WHERE id = 1001"], ["table app.contact: content"]),
    "nan and infinity": (["UPDATE app.contact SET f4 = 'Infinity' WHERE id = 1003"], ["table app.contact: content"]),
    "infinite date": (["UPDATE app.contact SET seen = NULL WHERE id = 1001"], ["table app.contact: content"]),
    "partition bound": (
        ["ALTER TABLE app.sold DETACH PARTITION app.sold1", "ALTER TABLE app.sold ATTACH PARTITION app.sold1 FOR VALUES FROM ('2020-01-01') TO ('2022-01-01')"],
        ["relation app.sold1: definition"]),
    "partition detached": (["ALTER TABLE app.sold DETACH PARTITION app.sold2"], ["relation app.sold2: definition"]),
    "inheritance": (["ALTER TABLE app.heir NO INHERIT app.parent"], ["relation app.heir: definition"]),
    "foreign server": (["ALTER SERVER far OPTIONS (SET host 'elsewhere')"], ["foreign server far: definition"]),
    "user mapping": (["DROP USER MAPPING FOR clerk SERVER far"], ["user mapping clerk at far: missing in the copy"]),
    "foreign table": (["ALTER FOREIGN TABLE app.remote OPTIONS (SET table_name 'x')"], ["foreign table app.remote: definition"]),
    "event trigger": (["ALTER EVENT TRIGGER watch DISABLE"], ["event trigger watch: definition"]),
    "publication": (["ALTER PUBLICATION news SET (publish = 'insert, update')"], ["publication news: definition"]),
    "table of a publication": (["ALTER PUBLICATION news DROP TABLE app.child"], ["publication news: definition"]),
    "policy": (["ALTER POLICY mine ON app.child USING (id > 2)"], ["policy app.child.mine: definition"]),
    "row security off": (["ALTER TABLE app.child DISABLE ROW LEVEL SECURITY"], ["relation app.child: definition"]),
    "comment on a column": (["COMMENT ON COLUMN app.contact.name IS NULL"], ["comment table column app.contact.name: missing in the copy"]),
    "comment on a policy": (["COMMENT ON POLICY mine ON app.child IS 'x'"], ["comment policy mine on app.child: definition"]),
    "default privileges": (
        ["ALTER DEFAULT PRIVILEGES FOR ROLE postgres IN SCHEMA app REVOKE SELECT ON TABLES FROM staff"], ["default privileges postgres/app/r: "]),
    "trigger disabled": (["ALTER TABLE app.child ENABLE TRIGGER asleep"], ["trigger app.child.asleep: definition"]),
    "trigger": (["DROP TRIGGER awake ON app.child"], ["trigger app.child.awake: missing in the copy"]),
    "rule": (["DROP RULE quiet ON app.scrap"], ["rule app.scrap.quiet: missing in the copy"]),
    "one row changed": (["UPDATE app.contact SET name = name || '.' WHERE id = 7"], ["table app.contact: content"]),
    "one row missing and one twice": (
        ["DELETE FROM app.heir", "DELETE FROM app.parent", "INSERT INTO app.heir VALUES (2, 4)", "INSERT INTO app.parent VALUES (1)"], ["table app.heir: content"]),
    "values swapped between columns": (["UPDATE app.sold1 SET day = '2020-01-01', v = 5"], ["table app.sold1: content"]),
    "values swapped between rows": (
        ["ALTER TABLE app.child DISABLE TRIGGER ALL", "UPDATE app.child SET what = CASE id WHEN 1 THEN 'right' ELSE 'left' END WHERE id < 3"],
        ["table app.child: content"]),
    "null is not empty": (["ALTER TABLE app.child DISABLE TRIGGER ALL", "UPDATE app.child SET what = '' WHERE id = 3"], ["table app.child: content"]),
    "index dropped": (["DROP INDEX app.by_name"], ["index app.by_name: missing in the copy"]),
    "index unique": (
        ["DROP INDEX app.by_name", "CREATE INDEX by_name ON app.contact (lower(name), id)"], ["index app.by_name: definition"]),
    "grant missing": (["REVOKE UPDATE (name) ON app.contact FROM staff"], ["column app.contact.name: definition"]),
    "grant to public": (["REVOKE SELECT ON app.child FROM PUBLIC"], ["relation app.child: definition"]),
    "other default": (["ALTER TABLE app.contact ALTER note SET DEFAULT 'done'"], ["column app.contact.note: definition"]),
    "blank in a default": (["ALTER TABLE app.contact ALTER note SET DEFAULT 'to do'"], ["column app.contact.note: definition"]),
    "check": (["ALTER TABLE app.contact DROP CONSTRAINT sane"], ["constraint app.contact.sane: missing in the copy"]),
    "not null": (["ALTER TABLE app.contact ALTER name DROP NOT NULL"], ["column app.contact.name: definition"]),
    "foreign key": (["ALTER TABLE app.child DROP CONSTRAINT child_id_fkey"], ["constraint app.child.child_id_fkey: missing in the copy"]),
    "view": (["CREATE OR REPLACE VIEW app.v AS SELECT id, name FROM app.contact WHERE mood IN ('good')"], ["view app.v: definition"]),
    "routine body": (["CREATE OR REPLACE FUNCTION app.as_int(app.mood) RETURNS int LANGUAGE sql AS 'SELECT 2'"], ["routine app.as_int(app.mood): definition"]),
    "aggregate": (["DROP AGGREGATE app.glued (text)"], ["routine app.glued(text): missing in the copy"]),
    "cast": (["DROP CAST (app.mood AS int)"], ["other object cast (app.mood AS integer): missing in the copy"]),
    "text search dictionary": (
        ["ALTER TEXT SEARCH DICTIONARY app.words (stopwords)"], ["other object text search dictionary app.words: definition"]),
    "operator class": (
        ["DROP OPERATOR CLASS app.text_way USING btree"], ["other object operator class app.text_way USING btree: missing in the copy"]),
    "statistics object": (["DROP STATISTICS app.both_of"], ["statistics app.both_of: missing in the copy"]),
    "storage of a column": (["ALTER TABLE app.contact ALTER note SET STORAGE MAIN"], ["column app.contact.note: definition"]),
    "owner": (["ALTER TABLE app.heir OWNER TO clerk"], ["relation app.heir: definition"]),
    "schema": (["ALTER SCHEMA app OWNER TO clerk"], ["schema app: definition"]),
    "grant on a system object": (
        ["REVOKE EXECUTE ON FUNCTION pg_catalog.pg_read_file(text) FROM staff"], ["grant on a system object pg_read_file(text): "]),
    "table missing": (["DROP TABLE app.nothing"], ["table app.nothing: missing in the copy", "relation app.nothing: missing in the copy"]),
    "table too many": (["CREATE TABLE app.more ()"], ["table app.more: only in the copy", "relation app.more: only in the copy"]),
    "database comment": (["COMMENT ON DATABASE traps IS 'x'"], ["database database: definition"]),
    "grant on a language": (["REVOKE USAGE ON LANGUAGE spoken FROM clerk"], ["other object language spoken: definition"]),
    "owner of a language": (["ALTER LANGUAGE spoken OWNER TO clerk"], ["other object language spoken: definition"]),
    "grant on plpgsql": (["REVOKE USAGE ON LANGUAGE plpgsql FROM clerk"], ["grant on a system object language plpgsql: definition"]),
    "grant on the system's schema": (
        ["REVOKE CREATE ON SCHEMA pg_catalog FROM staff"], ["grant on a system object schema pg_catalog: definition"]),
    "grant on a parameter": (
        ["REVOKE GRANT OPTION FOR SET ON PARAMETER log_statement FROM clerk", "REVOKE ALTER SYSTEM ON PARAMETER work_mem FROM staff"],
        ["grant on a parameter log_statement: definition", "grant on a parameter work_mem: missing in the copy"]),
    "base type": (["ALTER TYPE app.whole SET (ANALYZE = pg_catalog.array_typanalyze)"], ["type app.whole: definition"]),
    "owner of a base type": (["ALTER TYPE app.whole OWNER TO clerk"], ["type app.whole: definition"]),
    "owner of an operator family": (
        ["ALTER OPERATOR FAMILY app.kin USING btree OWNER TO clerk"], ["other object operator family app.kin USING btree: definition"]),
    "owner of an operator": (["ALTER OPERATOR app.<<< (text, text) OWNER TO clerk"], ["operator app.<<<(text,text): definition"]),
    "trigger of an extension": (
        ["CREATE TRIGGER mine BEFORE UPDATE ON public.conf FOR EACH ROW EXECUTE FUNCTION public.fired()"], ["trigger public.conf.mine: only in the copy"]),
    "index of an extension": (["CREATE INDEX mine ON public.conf (v)"], ["index public.mine: only in the copy"]),
    "row security of an extension": (
        ["ALTER TABLE public.conf FORCE ROW LEVEL SECURITY"], ["extension member table public.conf of wide: definition"]),
    "policy of an extension": (["CREATE POLICY mine ON public.conf USING (true)"], ["policy public.conf.mine: only in the copy"]),
    "check of an extension": (["ALTER TABLE public.conf ADD CONSTRAINT short CHECK (k < 'z')"], ["constraint public.conf.short: only in the copy"]),
    "rule of an extension": (["CREATE RULE mine AS ON DELETE TO public.conf DO INSTEAD NOTHING"], ["rule public.conf.mine: only in the copy"]),
    "column of an extension": (
        ["ALTER TABLE public.conf ADD w int", "ALTER TABLE public.conf ALTER v SET DEFAULT 'y'"],
        ["column public.conf.w: only in the copy", "column public.conf.v: definition"]),
    "comment of an extension": (
        ["COMMENT ON TABLE public.conf IS 'x'", "COMMENT ON COLUMN public.conf.v IS 'x'"],
        ["extension member table public.conf of wide: definition", "column public.conf.v: definition"]),
    "owner of an extension": (["ALTER TABLE public.conf OWNER TO staff"], ["extension member table public.conf of wide: definition"]),
    "table of an extension": (
        ["CREATE TABLE public.joined (a int)", "ALTER EXTENSION wide ADD TABLE public.joined"],
        ["extension member table public.joined of wide: only in the copy"]),
    "view of an extension": (
        ["CREATE OR REPLACE VIEW public.seen AS SELECT k FROM public.conf WHERE v > ''"], ["extension member view public.seen of wide: definition"]),
    "function of an extension": (
        ["CREATE OR REPLACE FUNCTION public.said(a int DEFAULT 1) RETURNS int LANGUAGE sql AS 'SELECT 2'"],
        ["extension member function public.said(integer) of wide: definition"]),
    "cost of a function of an extension": (
        ["ALTER FUNCTION public.similarity(text, text) COST 77"], ["extension member function public.similarity(pg_catalog.text,pg_catalog.text) of pg_trgm: definition"]),
    "setting of a function of an extension": (
        ["ALTER FUNCTION public.similarity(text, text) SET search_path = public"],
        ["extension member function public.similarity(pg_catalog.text,pg_catalog.text) of pg_trgm: definition"]),
    "sequence value of an extension": (["ALTER SEQUENCE public.tick RESTART 40"], ["sequence value public.tick: definition"]),
    "sequence of an extension": (["ALTER SEQUENCE public.tick INCREMENT 2"], ["extension member sequence public.tick of wide: definition"]),
    "dictionary of an extension": (
        ["ALTER TEXT SEARCH DICTIONARY public.few (STOPWORDS)"],
        ["extension member text search dictionary public.few of wide: definition"]),
    "search configuration of an extension": (
        ["ALTER TEXT SEARCH CONFIGURATION public.way DROP MAPPING FOR word"],
        ["extension member text search configuration public.way of wide: definition"]),
    "domain of an extension": (["ALTER DOMAIN public.rate SET DEFAULT 7"], ["extension member type public.rate of wide: definition"]),
    "enum of an extension": (["ALTER TYPE public.step RENAME VALUE 'two' TO 'three'"], ["extension member type public.step of wide: definition"]),
    "wrapper of an extension": (
        ["ALTER FOREIGN DATA WRAPPER sheet OPTIONS (a 'b')"],
        ["extension member foreign-data wrapper sheet of wide: definition"]),
    "statistics of an extension": (["CREATE STATISTICS public.mine ON k, v FROM public.conf"], ["statistics public.mine: only in the copy"]),
}  # fmt: skip


def psql(host: TrapHost, sql: str, database: str = "postgres") -> str:
    # One of the tests sets a timeout of a millisecond for the whole server, which a busy machine needs to take it back.
    argv = ["runuser", "-u", "postgres", "--", "env", "PGOPTIONS=-c statement_timeout=0"]
    return host.run(*argv, "psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "-d", database, stdin=sql)


@pytest.fixture(scope="module")
def host() -> Iterator[TrapHost]:
    with TrapHost(f"sunset-test-traps-pg-{os.getpid()}") as host:
        host.shell(START)
        psql(host, "CREATE DATABASE traps")
        psql(host, KEPT, "traps")
        yield host


@pytest.fixture(scope="module")
def dumped(host: TrapHost) -> dict[str, Any]:
    return host.dump("postgresql", "traps", port=5432)


@pytest.fixture(scope="module")
def copy(host: TrapHost, dumped: dict[str, Any]) -> Iterator[Holder]:
    with host.holder("postgresql", dumped, "traps", True) as holder:
        assert holder.answer() == {"restored": True}
        yield holder


def fresh(host: TrapHost, name: str, sql: str = "") -> str:
    psql(host, f"DROP DATABASE IF EXISTS {name}; ")
    psql(host, f"CREATE DATABASE {name}")
    psql(host, sql, name)
    return name


def test_the_copy_is_equal(copy: Holder) -> None:
    assert told(copy.changed()) == set()


@pytest.mark.parametrize("trap", TEETH)
def test_the_comparison_has_teeth(copy: Holder, trap: str) -> None:
    statements, wanted = TEETH[trap]
    found = told(copy.changed(*statements))
    for one in wanted:
        assert any(two.startswith(one) for two in found), found


def test_after_all_that_it_is_still_equal(copy: Holder) -> None:
    """Each change was taken back, so none of the cases above can have answered for another."""
    assert told(copy.changed()) == set()


def test_a_materialized_view_is_derived(copy: Holder) -> None:
    found = copy.changed(
        "ALTER TABLE app.child DROP CONSTRAINT child_id_fkey", "DELETE FROM app.contact WHERE id > 100", "REFRESH MATERIALIZED VIEW app.mv"
    )
    assert [one["derived"] for one in found if one["kind"] == "materialized view"] == [True]


def test_data_elsewhere_is_named(dumped: dict[str, Any]) -> None:
    assert dumped["source"]["data_elsewhere"] == ["app.remote"]


def test_nothing_secret_is_in_the_fingerprint(host: TrapHost, dumped: dict[str, Any]) -> None:
    (path,) = [one["path"] for one in dumped["artefacts"] if one["role"] == "fingerprint"]
    assert host.shell(f"zstd -qdc {path} | grep -cE 'hidden|SCRAM|Zoë' || true").strip() == "0"
    assert "hidden" not in json.dumps(dumped)


def test_no_such_database(host: TrapHost) -> None:
    assert (
        host.shell("(runuser -u postgres -- pg_dump nosuchdb 2>/dev/null | gzip >/tmp/x); echo $?; gzip -t /tmp/x").strip() == "0"
    )  # the trap
    with pytest.raises(Failed, match='database "nosuchdb" does not exist'):
        host.dump("postgresql", "nosuchdb")
    assert "nosuchdb" not in host.shell("ls /srv/staging || true")


DAMAGE = {
    "cut": "truncate -s $(($(stat -c %s /tmp/plain) * 6 / 10)) /tmp/plain",
    "hole": "head -c 20000 /tmp/plain >/tmp/a; tail -c +30001 /tmp/plain >>/tmp/a; mv /tmp/a /tmp/plain",
    "bit": "at=$(grep -abo 'Zo.*99' /tmp/plain | head -1 | cut -d: -f1); printf Y | dd of=/tmp/plain bs=1 seek=$at conv=notrunc status=none",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_dump_is_refused(host: TrapHost, dumped: dict[str, Any], damage: str) -> None:
    """With honest digests over the damaged file, so that only the restore and the comparison are left to see it."""
    (dump,) = [one for one in dumped["artefacts"] if one["role"] == "dump"]
    host.shell(f"zstd -qdc {dump['path']} >/tmp/plain; {DAMAGE[damage]}; zstd -qf /tmp/plain -o /srv/damaged.zst")
    sha = host.shell("sha256sum </tmp/plain")[:64]
    assert sha != dump["plain_sha256"]
    if damage == "cut":
        host.shell("pg_restore -l /tmp/plain >/dev/null")  # listing sees nothing
    if damage == "bit":
        host.shell("pg_restore -f /dev/null /tmp/plain")  # nor does reading all of it
    bad = [{**one, "path": "/srv/damaged.zst", "plain_sha256": sha} if one is dump else one for one in dumped["artefacts"]]
    answer = host.prove("postgresql", {**dumped, "artefacts": bad}, "damaged")
    if damage == "bit":
        assert answer["verdict"] == "different" and told(answer["differences"]) == {"table app.contact: content"}
    else:
        assert answer["verdict"] == "unknown" and "ended with" in answer["error"]


def test_half_of_a_plain_dump(host: TrapHost, dumped: dict[str, Any]) -> None:
    fresh(host, "plain", "CREATE TABLE t AS SELECT g, md5(g::text) FROM generate_series(1, 2000) g; CREATE INDEX ON t (g)")
    result = host.dump("postgresql", "plain")
    (dump,) = [one for one in result["artefacts"] if one["role"] == "dump"]
    host.shell(
        "runuser -u postgres -- pg_dump -C plain >/tmp/plain; truncate -s $(($(stat -c %s /tmp/plain) / 2)) /tmp/plain; zstd -qf /tmp/plain -o /srv/half.zst"
    )
    bad = {**dump, "path": "/srv/half.zst", "plain_sha256": host.shell("sha256sum </tmp/plain")[:64]}
    answer = host.prove("postgresql", {**result, "artefacts": [bad if one is dump else one for one in result["artefacts"]]}, "half")
    assert answer["verdict"] == "unknown" and "custom format" in answer["error"]


@pytest.mark.parametrize("role", ["globals", "dump"])
def test_commands_for_psql_are_not_obeyed(host: TrapHost, dumped: dict[str, Any], role: str) -> None:
    """The estate's host makes these texts. Where psql reads them, one line of them would run a program as the vault's account."""
    host.shell("rm -f /dev/shm/obeyed; printf 'SELECT 1;\\n\\\\! touch /dev/shm/obeyed\\n' >/tmp/order")
    assert host.read("/tmp/order") == "SELECT 1;\n\\! touch /dev/shm/obeyed\n"
    (one,) = [one for one in dumped["artefacts"] if one["role"] == role]
    host.shell(
        f"{'zstd -qdc ' + one['path'] if role == 'globals' else 'true'} >/tmp/text; cat /tmp/order >>/tmp/text; zstd -qf /tmp/text -o /srv/order.zst"
    )
    bad = {**one, "path": "/srv/order.zst", "plain_sha256": host.shell("sha256sum </tmp/text")[:64]}
    answer = host.prove(
        "postgresql", {**dumped, "artefacts": [bad if other is one else other for other in dumped["artefacts"]]}, f"order-{role}"
    )
    assert host.shell("ls /dev/shm/obeyed 2>/dev/null || true") == "", "the vault has run a program that the copy asked for"
    assert answer["verdict"] == "unknown" and ("restricted" in answer["error"] or "custom format" in answer["error"]), answer


def test_half_of_the_globals(host: TrapHost, dumped: dict[str, Any]) -> None:
    """They go through psql, which ends well with half of a file; with honest digests only the comparison is left to see it."""
    (roles,) = [one for one in dumped["artefacts"] if one["role"] == "globals"]
    host.shell(f"zstd -qdc {roles['path']} >/tmp/roles; grep -n 'ALTER ROLE clerk' /tmp/roles | head -1 | cut -d: -f1 >/tmp/at")
    host.shell(
        'head -n $(cat /tmp/at) /tmp/roles >/tmp/half; zstd -qf /tmp/half -o /srv/half-roles.zst; ! grep -q "GRANT staff TO clerk" /tmp/half'
    )
    bad = {**roles, "path": "/srv/half-roles.zst", "plain_sha256": host.shell("sha256sum </tmp/half")[:64]}
    answer = host.prove("postgresql", {**dumped, "artefacts": [bad if one is roles else one for one in dumped["artefacts"]]}, "roles")
    assert answer["verdict"] in ("unknown", "different"), answer
    if answer["verdict"] == "different":
        assert "membership clerk in staff: missing in the copy" in told(answer["differences"])


def test_the_end_of_the_globals_is_seen(host: TrapHost, dumped: dict[str, Any]) -> None:
    """The last line of newer tools is a random restrict key; the marker is looked for among the last lines."""
    (path,) = [one["path"] for one in dumped["artefacts"] if one["role"] == "globals"]
    text = host.shell(f"zstd -qdc {path}")
    assert "-- PostgreSQL database cluster dump complete" in text and 'ALTER ROLE ALL SET "search_path" TO' in text
    host.shell("mv /usr/lib/postgresql/15/bin/pg_dumpall /usr/lib/postgresql/15/bin/real")
    try:
        host.write("/usr/lib/postgresql/15/bin/pg_dumpall", '#!/bin/sh\n/usr/lib/postgresql/15/bin/real "$@" | head -n 20\n', "0755")
        with pytest.raises(Failed, match="pg_dumpall: the end of the dump was not seen"):
            host.dump("postgresql", "postgres")
    finally:
        host.shell("mv /usr/lib/postgresql/15/bin/real /usr/lib/postgresql/15/bin/pg_dumpall")


AS_LOWLY = f"""
import json, subprocess, sys
sys.path.insert(0, {LIBRARY!r})
from ansible_collections.sunset.crm.plugins.module_utils._database import sqlclient as database_sqlclient
from ansible_collections.sunset.crm.plugins.module_utils._dump import pg as dump_pg
from ansible_collections.sunset.crm.plugins.module_utils._fingerprint import engines as fingerprint_engines
with fingerprint_engines.open_session("postgresql", sys.argv[1], user="lowly", run_as=None) as session:
    snapshot = session.rows("SELECT json_build_array(pg_export_snapshot())")[0][0]
    done = subprocess.run(dump_pg.dump_argv("pg_dump", None, session.target, snapshot), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    print(done.returncode, done.stderr.decode())
    try:
        fingerprint_engines.take("postgresql", session, sys.argv[1])
        print("TAKEN")
    except database_sqlclient.SqlError as error:
        print(error)
"""


def test_low_privilege_is_refused(host: TrapHost) -> None:
    psql(host, "DROP ROLE IF EXISTS lowly; CREATE ROLE lowly LOGIN")
    fresh(host, "lowdb", "CREATE TABLE open (a int); CREATE TABLE shut (a int); GRANT SELECT ON open TO lowly")
    said = host.run("python3", "-c", AS_LOWLY, "lowdb")
    assert said.startswith("1 ") and "permission denied for table shut" in said and "TAKEN" not in said


def test_row_security_never_filters(host: TrapHost) -> None:
    """An account that a policy applies to gets an error, not the rows it may see; the server's own account gets all rows."""
    psql(host, "DROP DATABASE IF EXISTS lowdb; DROP ROLE IF EXISTS lowly; CREATE ROLE lowly LOGIN")
    fresh(host, "rls", "CREATE TABLE t (a int); INSERT INTO t VALUES (1), (2); ALTER TABLE t ENABLE ROW LEVEL SECURITY;"
          "CREATE POLICY p ON t USING (a = 1); GRANT SELECT ON t TO lowly")  # fmt: skip
    said = host.run("python3", "-c", AS_LOWLY, "rls")
    assert said.startswith("1 ") and "affected by row-level security" in said and "TAKEN" not in said
    result = host.dump("postgresql", "rls")
    assert result["source"]["rows"] == 2
    psql(host, "DROP DATABASE rls; DROP ROLE lowly")


SETTINGS = ["TimeZone = 'Asia/Kathmandu'", "DateStyle = 'German, MDY'", "IntervalStyle = 'iso_8601'", "extra_float_digits = -10",
            "bytea_output = 'escape'", "lc_monetary = 'C.UTF-8'", "xmlbinary = 'hex'", "search_path = nowhere", "quote_all_identifiers = on",
            "row_security = on", "standard_conforming_strings = off", "statement_timeout = '1ms'", "default_transaction_isolation = 'serializable'"]  # fmt: skip


def test_session_settings_do_not_matter(host: TrapHost, copy: Holder) -> None:
    """The same data under other settings of the server: the same fingerprint, to the digest."""
    take = (
        f"import sys; sys.path.insert(0, {LIBRARY!r})\nfrom ansible_collections.sunset.crm.plugins.module_utils._fingerprint import engines as f\n"
        "with f.open_session('postgresql', 'traps', run_as='postgres') as s: t = f.take('postgresql', s, 'traps')\nprint(f.digest(t))"
    )
    before = host.run("python3", "-c", take)
    try:
        for one in SETTINGS:
            psql(host, "SET statement_timeout = 0; ALTER SYSTEM SET " + one)
        # The database's own settings are stronger than the server's: they must not stand in the way either.
        psql(host, "SET statement_timeout = 0; SET default_transaction_read_only = off; SELECT pg_reload_conf()")
        assert host.run("python3", "-c", take) == before
    finally:
        psql(host, "SET statement_timeout = 0; ALTER SYSTEM RESET ALL; SELECT pg_reload_conf()")
    assert len(before.strip()) == 64


def test_prepared_transactions_are_refused(host: TrapHost) -> None:
    fresh(host, "twophase", "CREATE TABLE t (a int); BEGIN; INSERT INTO t VALUES (1); PREPARE TRANSACTION 'pending'")
    with pytest.raises(Failed, match="1 prepared transactions wait"):
        host.dump("postgresql", "twophase")
    psql(host, "COMMIT PREPARED 'pending'", "twophase")
    assert host.dump("postgresql", "twophase")["source"]["rows"] == 1


def test_rows_that_an_extension_keeps_are_not_lost_silently(host: TrapHost) -> None:
    """pg_dump takes the rows of such a table only where the extension declares it; the others are named."""
    fresh(host, "extended", "CREATE EXTENSION ours; INSERT INTO rates VALUES (1); INSERT INTO declared VALUES (2)")
    answer = host.prove("postgresql", host.dump("postgresql", "extended"), "extended")
    assert answer["verdict"] == "different" and told(answer["differences"]) == {"table public.rates: rows"}
    psql(host, "DELETE FROM rates", "extended")
    assert host.prove("postgresql", host.dump("postgresql", "extended"), "extended")["verdict"] == "equal"


def test_what_was_changed_in_an_extension_is_named(host: TrapHost) -> None:
    """A restore makes all that an extension brought along from its script again; pg_dump leaves out what somebody did to it. When
    the script was built is no such thing."""
    fresh(host, "members", "CREATE EXTENSION wide; CREATE EXTENSION pg_trgm; INSERT INTO conf VALUES ('a', 'b')")
    psql(host, "GRANT SELECT (k) ON conf TO pg_monitor; GRANT UPDATE ON SEQUENCE tick TO pg_monitor", "members")
    assert host.prove("postgresql", host.dump("postgresql", "members"), "members")["verdict"] == "equal"
    psql(host, "CREATE TRIGGER mine BEFORE UPDATE ON conf FOR EACH ROW EXECUTE FUNCTION fired(); CREATE INDEX mine ON conf (v);"
         "ALTER TABLE conf ENABLE ROW LEVEL SECURITY; CREATE POLICY mine ON conf USING (v <> 'c'); ALTER TABLE conf ADD CONSTRAINT short CHECK (k < 'z');"
         "CREATE OR REPLACE FUNCTION said(a int DEFAULT 1) RETURNS int LANGUAGE sql AS 'SELECT 2'; CREATE OR REPLACE VIEW seen AS SELECT k FROM conf WHERE v > '';"
         "SELECT nextval('tick'), nextval('tick'); ALTER FUNCTION similarity(text, text) SET search_path = public;"
         "CREATE OR REPLACE FUNCTION postgis_scripts_build_date() RETURNS text LANGUAGE sql AS $f$ SELECT '2021' $f$", "members")  # fmt: skip
    answer = host.prove("postgresql", host.dump("postgresql", "members"), "members")
    assert answer["verdict"] == "different" and told(answer["differences"]) == {
        "trigger public.conf.mine: missing in the copy",
        "index public.mine: missing in the copy",
        "policy public.conf.mine: missing in the copy",
        "constraint public.conf.short: missing in the copy",
        "extension member table public.conf of wide: definition",
        "extension member function public.said(integer) of wide: definition",
        "extension member view public.seen of wide: definition",
        "sequence value public.tick: definition",
    }
    # What was altered of a function is known, and was set again.
    assert [word for word in answer["set_again"] if "similarity" in word], answer


def test_an_extension_that_was_updated_is_equal_to_a_new_one(host: TrapHost) -> None:
    """A dump does not say by which steps an extension came to its version; the copy's is made at once."""
    fresh(host, "updated", "CREATE EXTENSION citext VERSION '1.4'; ALTER EXTENSION citext UPDATE; CREATE EXTENSION hstore VERSION '1.4';"
          "ALTER EXTENSION hstore UPDATE; CREATE EXTENSION pg_trgm VERSION '1.3'; ALTER EXTENSION pg_trgm UPDATE; CREATE TABLE t (a citext)")  # fmt: skip
    answer = host.prove("postgresql", host.dump("postgresql", "updated"), "updated")
    assert answer["verdict"] == "equal", answer


def test_the_copy_reaches_nobody(host: TrapHost) -> None:
    """A materialized view that asks another server is filled while it is restored: the throw-away server has no way there."""
    psql(
        host,
        "DROP ROLE IF EXISTS caller; CREATE ROLE caller LOGIN PASSWORD 'x'; ALTER SYSTEM SET log_connections = on; SELECT pg_reload_conf()",
    )
    where = "host=127.0.0.1 port=5432 dbname=postgres user=caller password=x connect_timeout=30"
    fresh(
        host, "calls", f"CREATE EXTENSION dblink; CREATE MATERIALIZED VIEW mv AS SELECT * FROM dblink('{where}', 'SELECT 1') AS t (a int)"
    )
    calls = lambda: int(host.shell("grep -c 'user=caller' /var/log/postgresql/postgresql-15-main.log || true"))  # noqa: E731
    before = calls()
    assert before > 0
    # The account that the proof runs as could call: it is the server alone that cannot.
    assert host.run("runuser", "-u", "vault", "--", "psql", "-XAtc", "SELECT 7", where).strip() == "7"
    before = calls()
    answer = host.prove("postgresql", host.dump("postgresql", "calls"), "calls")
    assert answer["verdict"] == "unknown" and "could not establish connection" in answer["error"], answer
    assert calls() == before
    psql(host, "DROP MATERIALIZED VIEW mv", "calls")
    answer = host.prove("postgresql", host.dump("postgresql", "calls"), "calls")
    assert (answer["verdict"], answer["network"]) == ("equal", "none: a network namespace of its own")
    psql(host, "DROP DATABASE calls; DROP ROLE caller; ALTER SYSTEM RESET ALL; SELECT pg_reload_conf()")


@pytest.mark.parametrize("path", ["/srv/trap/identity", "/proc/self/root/srv/trap/identity"])
def test_the_copy_sees_nothing_of_the_vault(host: TrapHost, path: str) -> None:
    """A restored copy runs code as the vault's account: it must not read packages and identities, nor by way of another process."""
    host.shell("install -d /srv/trap; echo secret >/srv/trap/identity; chown -R vault /srv/trap")
    fresh(host, "spies", f"CREATE FUNCTION look() RETURNS text LANGUAGE sql AS $$ SELECT pg_read_file('{path}') $$; CREATE MATERIALIZED VIEW mv AS SELECT look()")  # fmt: skip
    answer = host.prove("postgresql", host.dump("postgresql", "spies"), "spies")
    assert answer["verdict"] == "unknown" and "could not open file" in answer["error"], answer
    psql(host, "DROP MATERIALIZED VIEW mv", "spies")
    answer = host.prove("postgresql", host.dump("postgresql", "spies"), "spies")
    assert answer["verdict"] == "equal" and {"/proc", "/srv/trap"} <= set(answer["hidden"]), answer


def test_an_extension_that_the_vault_lacks(host: TrapHost) -> None:
    result = host.dump("postgresql", fresh(host, "lacking", "CREATE EXTENSION ours"))
    host.shell("mv /usr/share/postgresql/15/extension/ours.control /tmp/")
    try:
        answer = host.prove("postgresql", result, "lacking")
    finally:
        host.shell("mv /tmp/ours.control /usr/share/postgresql/15/extension/")
    assert answer["verdict"] == "unknown" and 'extension "ours"' in answer["error"]


ASKED = f"""
import sys
sys.path.insert(0, {LIBRARY!r})
from ansible_collections.sunset.crm.plugins.module_utils._database import sqlclient as database_sqlclient
with database_sqlclient.PostgresqlSession("raises") as session:
    try:
        session.lines("SELECT refuse(mail) FROM customer")
    except database_sqlclient.SqlError as error:
        print(error)
"""


@pytest.mark.parametrize("place", ["index", "accounts"])
def test_what_the_databases_own_code_says_is_in_no_answer(host: TrapHost, dumped: dict[str, Any], place: str) -> None:
    """A text of RAISE quotes whatever row it was about, and an answer goes into the ledger."""
    said = "RAISE EXCEPTION 'cannot index customer %: denied', m"
    if place == "index":
        made = f"SET my.quiet = 'yes'; CREATE FUNCTION refuse(m text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN IF current_setting('my.quiet', true) IS NULL THEN {said}; END IF; RETURN m; END $$;"  # fmt: skip
        rows = "CREATE TABLE customer (mail text); INSERT INTO customer VALUES ('erika.mustermann@example.org'); CREATE INDEX i ON customer (refuse(mail))"
        result = host.dump("postgresql", fresh(host, "raises", made + rows))
        told_there = host.run("runuser", "-u", "postgres", "--", "python3", "-c", ASKED)
        assert "refuse(text) line 1 at RAISE" in told_there and "P0001" in told_there and "erika" not in told_there
    else:
        (one,) = [one for one in dumped["artefacts"] if one["role"] == "globals"]
        host.write("/tmp/plain", f"DO $$ DECLARE m text := 'erika.mustermann@example.org'; BEGIN {said}; END $$;\n")
        host.shell("zstd -qf /tmp/plain -o /srv/raises.zst")
        bad = {**one, "path": "/srv/raises.zst", "plain_sha256": host.shell("sha256sum </tmp/plain")[:64]}
        result = {**dumped, "artefacts": [bad if other is one else other for other in dumped["artefacts"]]}
    answer = host.prove("postgresql", result, "raises")
    assert answer["verdict"] == "unknown" and "erika" not in json.dumps(answer), answer
    where = {"index": "function public.refuse(text) line 1 at RAISE", "accounts": "P0001: (a text of the database's own code is left out"}[
        place
    ]
    assert where in answer["error"], answer


def by_hand(host: TrapHost, result: dict[str, Any], commands: list[str]) -> str:
    """What a person with a new server and the README of the package does with a dump ($OUT/it.pgcustom)."""
    (dump,) = [one["path"] for one in result["artefacts"] if one["role"] == "dump"]
    where = "/srv/byhand"
    host.shell(f"rm -rf {where}; install -d -o vault {where}; zstd -qdc {dump} >{where}/it.pgcustom")
    server = f"""set -eu; export OUT={where} PGHOST={where} PGUSER=postgres PATH=$PATH:/usr/lib/postgresql/15/bin
initdb -D {where}/pg -U postgres -A trust --no-sync >/dev/null
pg_ctl -D {where}/pg -l {where}/log -s -w -o "-k {where} -c listen_addresses= -c fsync=off" start
trap 'pg_ctl -D {where}/pg -s -m immediate stop' EXIT
"""
    return host.run("runuser", "-u", "vault", "--", "sh", stdin=server + "\n".join(commands))


def test_the_database_named_postgres(host: TrapHost) -> None:
    """Every server has one, so a restore that creates it finds it there already; some containers keep all their rows in it."""
    psql(
        host, "DROP TABLE IF EXISTS kept; CREATE TABLE kept AS SELECT g FROM generate_series(1, 7) g; CREATE EXTENSION IF NOT EXISTS hstore"
    )
    result = host.dump("postgresql", "postgres")
    answer = host.prove("postgresql", result, "postgres")
    psql(host, "DROP TABLE kept; DROP EXTENSION hstore")
    assert answer.get("verdict") == "equal" and (answer["tables"], answer["rows"]) == (1, 7), answer
    (command,) = [words for ending, _what, words in vault_readme.RESTORES if ending == ".pgcustom"]
    counted = by_hand(host, result, [command.format(file="it.pgcustom"), "psql -XqAt -d postgres -c 'SELECT count(*) FROM kept'"])
    assert counted.strip() == "7"


def test_a_template_is_refused(host: TrapHost) -> None:
    with pytest.raises(Failed, match="template1 is the template of new databases"):
        host.dump("postgresql", "template1")


def test_an_extension_of_an_older_version(host: TrapHost) -> None:
    """As after pg_upgrade. A dump says no version: the restore would make the newest one. It may lie in any schema, and need others."""
    made = (
        "CREATE SCHEMA parts; CREATE EXTENSION pg_trgm SCHEMA parts VERSION '1.5'; CREATE EXTENSION cube VERSION '1.4';"
        "CREATE EXTENSION earthdistance; CREATE TABLE t (name text, at earth); INSERT INTO t VALUES ('a', ll_to_earth(1, 2));"
        "CREATE INDEX fuzzy ON t USING gin (name parts.gin_trgm_ops);"
        # What the source runs by itself must neither see the preparation nor run in it.
        "CREATE FUNCTION never() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'never'; END $$;"
        "CREATE EVENT TRIGGER never ON ddl_command_start EXECUTE FUNCTION never(); ALTER EVENT TRIGGER never ENABLE ALWAYS"
    )
    result = host.dump("postgresql", fresh(host, "older", made))
    answer = host.prove("postgresql", result, "older")
    assert answer.get("verdict") == "equal", answer
    scripts = "/usr/share/postgresql/15/extension"
    host.shell(f"mkdir /tmp/away; mv {scripts}/pg_trgm--*1.5*.sql /tmp/away/")
    try:
        answer = host.prove("postgresql", result, "older")
    finally:
        host.shell(f"mv /tmp/away/* {scripts}/; rmdir /tmp/away")
    assert answer["verdict"] == "unknown" and 'extension "pg_trgm" in version 1.5' in answer["error"], answer


def test_altered_functions_of_an_extension_are_set_again(host: TrapHost) -> None:
    """A dump leaves out what was altered of an extension's own functions, and an index that needs it cannot be restored."""
    made = (
        "CREATE SCHEMA parts; CREATE EXTENSION unaccent SCHEMA parts; ALTER FUNCTION parts.unaccent(text) IMMUTABLE COST 7;"
        'ALTER FUNCTION parts.unaccent(regdictionary, text) SET search_path = "$user", parts; CREATE EXTENSION hstore;'
        "CREATE TABLE t (name text); INSERT INTO t VALUES ('Zoë'); CREATE INDEX plain ON t (parts.unaccent(name))"
    )
    result = host.dump("postgresql", fresh(host, "altered", made))
    answer = host.prove("postgresql", result, "altered")
    assert answer.get("verdict") == "equal", answer
    assert answer["set_again"] == [
        'ALTER FUNCTION parts.unaccent(regdictionary,text) RESET ALL SET "search_path" TO "$user", parts',
        "ALTER FUNCTION parts.unaccent(text) IMMUTABLE COST 7",
    ]
    assert answer["set_again"][0] in answer["depth"]
    commands = ['pg_restore -e -C --no-tablespaces --section=pre-data -d template1 "$OUT/it.pgcustom"']
    commands += [f"psql -Xq -v ON_ERROR_STOP=1 -d altered <<'END'\n{';'.join(answer['set_again'])};\nEND"]
    commands += ['pg_restore -e --no-tablespaces --section=data --section=post-data -d altered "$OUT/it.pgcustom"']
    assert by_hand(host, result, [*commands, "psql -XqAt -d altered -c 'SELECT count(*) FROM t'"]).strip() == "1"


def test_a_table_in_a_system_schema_is_named(host: TrapHost) -> None:
    result = host.dump("postgresql", fresh(host, "hidden", "CREATE TABLE information_schema.mine AS SELECT 1 AS a"))
    answer = host.prove("postgresql", result, "hidden")
    assert answer["verdict"] == "different" and told(answer["differences"]) == {"table information_schema.mine: missing in the copy"}


@pytest.mark.parametrize(
    ("encoding", "value"), [("SQL_ASCII", "\\xe4\\xf6"), ("WIN1252", "\\x81"), ("LATIN1", "\\xe4")], ids=["any", "windows", "latin"]
)
def test_bytes_that_are_no_utf8_are_kept(host: TrapHost, encoding: str, value: str) -> None:
    """Databases of old CRM systems: with the client's encoding the dump would end at the first such value."""
    psql(host, "DROP DATABASE IF EXISTS old")
    psql(host, f"CREATE DATABASE old ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0")
    argv = ["env", f"PGCLIENTENCODING={encoding}", "psql", "-Xq", "-v", "ON_ERROR_STOP=1", "-d", "old"]
    made = f"CREATE TABLE t (a text); INSERT INTO t VALUES (E'{value}'), ('plain')"
    if encoding != "SQL_ASCII":
        made += '; CREATE SCHEMA U&"B\\00FCro"; CREATE EXTENSION pg_trgm SCHEMA U&"B\\00FCro" VERSION \'1.5\''
    host.run("runuser", "-u", "postgres", "--", *argv, stdin=made)
    answer = host.prove("postgresql", host.dump("postgresql", "old"), "old")
    assert answer.get("verdict") == "equal" and answer["rows"] == 2, answer


def test_what_was_made_in_a_system_schema_is_named(host: TrapHost) -> None:
    """pg_dump leaves out whatever lies there; the source's fingerprint must know it, or both sides would be silent of it."""
    made = "CREATE FUNCTION pg_catalog.lost() RETURNS int LANGUAGE sql AS 'SELECT 1'; CREATE VIEW information_schema.seen AS SELECT 1 AS a;"
    result = host.dump("postgresql", fresh(host, "hidden", made + "CREATE DOMAIN pg_catalog.kept AS text"))
    answer = host.prove("postgresql", result, "hidden")
    assert answer["verdict"] == "different" and told(answer["differences"]) == {
        "routine pg_catalog.lost(): missing in the copy",
        "view information_schema.seen: missing in the copy",
        "type pg_catalog.kept: missing in the copy",
    }


def test_definitions_of_another_major_version_are_not_compared(host: TrapHost) -> None:
    """A fingerprint that says 14 stands for a source of that version; what differs is a definition, so nobody can call the copy damaged."""
    made = "CREATE TABLE t (a int); CREATE FUNCTION pg_catalog.lost() RETURNS int LANGUAGE sql AS 'SELECT 1'"
    result = host.dump("postgresql", fresh(host, "hidden", made))
    (entry,) = [one for one in result["artefacts"] if one["role"] == "fingerprint"]
    found = json.loads(host.shell(f"zstd -qdc {entry['path']}"))
    text = json.dumps({**found, "version": "14.1"})
    host.run("sh", "-c", "zstd -q >/tmp/older.zst", stdin=text)
    older = {**entry, "path": "/tmp/older.zst", "plain_sha256": hashlib.sha256(text.encode()).hexdigest()}
    result["artefacts"] = [older if one is entry else one for one in result["artefacts"]]
    answer = host.prove("postgresql", result, "hidden")
    assert answer["verdict"] == "unknown" and "definitions cannot be compared across major versions" in answer["error"], answer
    assert "(1 differ, the first: routine pg_catalog.lost() missing in the copy)" in answer["error"], answer


def test_what_was_done_to_the_languages_and_schemas_of_the_system_is_named(host: TrapHost) -> None:
    """pg_dump keeps grants on plpgsql and pg_catalog, and nothing of SQL, C and the information schema, nor who owns an extension's language."""
    fresh(host, "system", "REVOKE USAGE ON LANGUAGE sql FROM PUBLIC; GRANT CREATE ON SCHEMA information_schema TO staff;"
          "GRANT CREATE ON SCHEMA pg_catalog TO staff; GRANT USAGE ON LANGUAGE plpgsql TO staff; ALTER LANGUAGE plpgsql OWNER TO clerk")  # fmt: skip
    answer = host.prove("postgresql", host.dump("postgresql", "system"), "system")
    assert answer["verdict"] == "different" and told(answer["differences"]) == {
        "grant on a system object language sql: definition",
        "grant on a system object schema information_schema: definition",
        "extension member language plpgsql of plpgsql: definition",
    }


def test_what_a_product_changes_is_allowed_in_its_rows_alone(host: TrapHost) -> None:
    """Named by rows or columns, a table may differ in those; what else differs in it is a difference."""
    rule = {"table": "conf", "where": {"key": ["database.uuid"]}, "columns": ["value"]}
    fresh(
        host,
        "apart",
        "CREATE TABLE conf (key text, value text, at int); INSERT INTO conf VALUES ('database.uuid', 'a', 1), ('name', 'b', 1), (NULL, 'c', 1)",
    )
    result = host.dump("postgresql", "apart", apart=[rule])
    with host.holder("postgresql", result, "apart", True, [rule]) as holder:
        assert holder.answer() == {"restored": True}
        change = "UPDATE conf SET value = 'new' WHERE key = 'database.uuid'"
        assert told(holder.changed("SET LOCAL search_path = public", change)) == {"allowed conf (value where key is database.uuid): "}
        for more in (
            "UPDATE conf SET at = 2 WHERE key = 'database.uuid'",
            "UPDATE conf SET at = 1, value = 'new' WHERE key = 'name'",
            "UPDATE conf SET value = 'new' WHERE key IS NULL",
        ):
            found = told(holder.changed("SET LOCAL search_path = public", change, more))
            assert found == {"table public.conf: content"}, found

        assert holder.end()["verdict"] == "equal"
    assert host.dump("postgresql", "apart")["dump_id"] != result["dump_id"], "made by other rules, it is another dump"


def test_every_trap_has_its_test(request: pytest.FixtureRequest) -> None:
    ids = {item.name for item in request.session.items if item.fspath == request.node.fspath}
    if len(ids) > 1:  # all of the file was asked for
        assert sorted(trap for trap, test in TRAPS.items() if test not in ids) == []
    assert set(TEETH) == {trap for trap, test in TRAPS.items() if test.startswith("test_the_comparison_has_teeth")}
