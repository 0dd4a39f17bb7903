# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Readable exports and pairs on a vault with real servers: hostile tables, a small SuiteCRM and Odoo, and the lab's own Creme.

The export is opened with age, read with frictionless and openpyxl, and compared with what was put into the database.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import xlsxwriter

from ansible_collections.sunset.crm.plugins.plugin_utils.planning import profiles
from tests import lab
from tests.integration.host_container import KILL_MODULE, Failed
from tests.integration.test_vault import ROOT, Vault, base

frictionless = pytest.importorskip("frictionless")
openpyxl = pytest.importorskip("openpyxl")

STAGING = "/srv/staging"
MARKER = "Zoë Müster 4711 🎈"
FORMULA = "=cmd|' /C calc'!A0"

SETUP = r"""
install -d -o vault -g vault -m 0700 /srv/vault
ssh-keygen -A >/dev/null; systemctl start ssh
install -d -m 0700 /root/.ssh /srv/staging
install -d -o postgres -m 0700 /var/run/postgresql
data=/var/lib/postgresql/t
if [ ! -d $data ]; then runuser -u postgres -- /usr/lib/postgresql/15/bin/initdb -D $data --no-sync >/dev/null; fi
echo 'local all all peer' >$data/pg_hba.conf; : >$data/postgresql.conf; rm -f $data/postmaster.pid
chown -R postgres $data; chmod 700 $data
runuser -u postgres -- /usr/lib/postgresql/15/bin/pg_ctl -w -D $data -l /tmp/pg.log -o '-c listen_addresses= -c fsync=off' start >/dev/null
install -d -o mysql -m 0700 /var/lib/mysql /run/mysqld
mariadb-install-db --no-defaults --user=mysql --datadir=/var/lib/mysql --skip-test-db >/dev/null
(setsid mariadbd --no-defaults --user=mysql --datadir=/var/lib/mysql --socket=/run/mysqld/mysqld.sock --skip-networking >/tmp/my.log 2>&1 &)
for i in $(seq 600); do mariadb -e 'SELECT 1' >/dev/null 2>&1 && break; sleep 0.1; done
"""

POSTGRES = r"""
CREATE DATABASE hostile;
\c hostile
CREATE TABLE "../../etc/Passwd" (id int PRIMARY KEY, "a,b" text, "quote""d" text);
CREATE TABLE "con" (id int); CREATE TABLE "ünï
line" (id int);
CREATE TABLE "Con" (id int); CREATE TABLE nothing ();
INSERT INTO nothing DEFAULT VALUES; INSERT INTO nothing DEFAULT VALUES;
INSERT INTO "../../etc/Passwd" VALUES (1, NULL, ''), (2, '', NULL), (3, E'line\nbreak\r\n"quoted", comma', '=1+1'), (4, '\N', 'NULL');
CREATE TABLE kinds (id bigserial PRIMARY KEY, parent bigint REFERENCES kinds, flag boolean, small smallint, amount numeric(30,10), f4 real,
    f8 double precision, day date, at timestamptz, local_at timestamp, raw bytea, doc jsonb, many text[], odd date, u uuid);
INSERT INTO kinds (parent, flag, small, amount, f4, f8, day, at, local_at, raw, doc, many, odd, u) VALUES
    (1, true, -7, 12345678901234567890.0123456789, 0.1, 1.0/3, '2024-02-29', '2024-03-31 02:30:00.123456+02', '2024-03-31 02:30:00',
     '\x00ff0a', '{"a": [1, "x"]}', '{a,"b c"}', 'infinity', '00000000-0000-0000-0000-000000000001'),
    (NULL, false, NULL, 'NaN', 'Infinity', '-Infinity', NULL, NULL, NULL, '', NULL, NULL, '0044-03-15 BC', NULL);
CREATE DATABASE shop;
\c shop
CREATE TABLE res_users (id int PRIMARY KEY, login text, active boolean);
CREATE TABLE res_partner (id int PRIMARY KEY, name text, is_company boolean, parent_id int, user_id int, active boolean);
CREATE TABLE crm_stage (id int PRIMARY KEY, name jsonb);
CREATE TABLE crm_lead (id int PRIMARY KEY, name text, type text, stage_id int, user_id int, team_id int, active boolean);
CREATE TABLE ir_attachment (id int PRIMARY KEY, name text, store_fname text);
CREATE TABLE ir_config_parameter (key text PRIMARY KEY, value text);
CREATE TABLE a_bulk AS SELECT i, repeat(md5(i::text), 8) AS text FROM generate_series(1, 300000) i;
INSERT INTO res_users VALUES (1, 'ann@x', true), (2, 'bob@x', false);
INSERT INTO res_partner VALUES (1, 'ACME', true, NULL, 1, true), (2, 'Zoë', false, 1, 2, false), (3, 'nobody', false, NULL, NULL, true);
INSERT INTO crm_stage VALUES (1, '{"en_US": "New", "de_DE": "Neu"}'), (2, '{"fr_FR": "Gagné"}');
INSERT INTO crm_lead VALUES (1, 'a', 'lead', 1, 1, 9, true), (2, 'b', 'opportunity', 2, 2, 9, false);
INSERT INTO ir_attachment VALUES (1, 'one', 'aa/aa11'), (2, 'same', 'aa/aa11'), (3, 'gone', 'bb/bb22'), (4, 'inline', NULL);
"""

MARIA = r"""
CREATE DATABASE suite CHARACTER SET utf8mb4; USE suite;
CREATE TABLE users (id char(36) PRIMARY KEY, user_name varchar(60), first_name varchar(30), last_name varchar(30), status varchar(9));
CREATE TABLE accounts (id char(36) PRIMARY KEY, name varchar(150), assigned_user_id char(36), deleted tinyint(1), date_entered datetime);
CREATE TABLE accounts_cstm (id_c char(36) PRIMARY KEY, industry_code_c varchar(20), rating_c float);
CREATE TABLE contacts (id char(36) PRIMARY KEY, last_name varchar(100), assigned_user_id char(36), deleted tinyint(1));
CREATE TABLE accounts_contacts (id char(36) PRIMARY KEY, contact_id char(36), account_id char(36), deleted tinyint(1));
CREATE TABLE email_addresses (id char(36) PRIMARY KEY, email_address varchar(255));
CREATE TABLE email_addr_bean_rel (id char(36) PRIMARY KEY, email_address_id char(36), bean_id char(36), bean_module varchar(100), deleted tinyint(1));
CREATE TABLE notes (id char(36) PRIMARY KEY, name varchar(255), filename varchar(255), assigned_user_id char(36), deleted tinyint(1));
CREATE TABLE document_revisions (id char(36) PRIMARY KEY, filename varchar(255), deleted tinyint(1));
INSERT INTO users VALUES ('u1', 'ann', 'Ann', 'Ä', 'Active'), ('u2', 'bob', 'Bob', 'B', 'Inactive');
INSERT INTO accounts VALUES ('a1', "=cmd|' /C calc'!A0", 'u1', 0, '2024-03-31 02:30:00'), ('a2', 'Ztrash 🎈', 'u2', 1, '0000-00-00 00:00:00'),
    ('a3', '', NULL, 0, NULL);
INSERT INTO accounts_cstm VALUES ('a1', 'X1', 0.1), ('a3', NULL, 16777216.5);
INSERT INTO contacts VALUES ('c1', 'One', 'u1', 0), ('c2', 'Two', 'u9', 1);
INSERT INTO accounts_contacts VALUES ('r1', 'c1', 'a1', 0), ('r2', 'c1', 'a3', 1);
INSERT INTO email_addresses VALUES ('e1', 'z@x.org'), ('e2', 'a@x.org');
INSERT INTO email_addr_bean_rel VALUES ('b1', 'e1', 'c1', 'Contacts', 0), ('b2', 'e2', 'c1', 'Contacts', 0), ('b3', 'e2', 'c1', 'Contacts', 1);
INSERT INTO notes VALUES ('n1', 'x', 'x.pdf', NULL, 0), ('n2', 'y', 'y.pdf', NULL, 0), ('n3', 'no file', NULL, NULL, 0), ('n4', 'd', 'd.pdf', NULL, 1);
INSERT INTO document_revisions VALUES ('d1', 'd.odt', 0);
CREATE TABLE kinds (id int unsigned AUTO_INCREMENT PRIMARY KEY, parent int unsigned, f float, d double, n decimal(30,10), b bit(9), raw varbinary(20),
    txt longtext CHARACTER SET latin1, e enum('x','y"z'), at timestamp(3) NULL, day date, t time, y year, CONSTRAINT up FOREIGN KEY (parent) REFERENCES kinds (id));
INSERT INTO kinds VALUES (1, NULL, 0.1, 1e0/3, 12345678901234567890.0123456789, b'101010101', X'00ff0a', CONCAT('caf', CHAR(233 USING latin1)), 'y"z',
    '2024-03-31 00:30:00.125', '2024-02-29', '-838:59:59', 2024), (2, 1, 3.4028235e38, 1e300, NULL, NULL, '', '', NULL, NULL, NULL, NULL, NULL),
    (3, 1, 16777216, -0.5, 0, 0, NULL, CONCAT('a"b', CHAR(10), 'c,d', CHAR(13, 10), 'NULL', CHAR(9)), 'x', NULL, NULL, '00:00:01', NULL);
CREATE TABLE `weird ``name``` (`a,"b"` int, x text); INSERT INTO `weird ``name``` VALUES (1, '\\N');
CREATE TABLE kept (id int PRIMARY KEY, v int) WITH SYSTEM VERSIONING; INSERT INTO kept VALUES (1, 1); UPDATE kept SET v = 2;
"""


def unpacked(image: Path, place: Path) -> Path:
    """The files of a prepared medium, read without mounting it."""
    raw, tree = place / "image", place / image.name.split(".")[0]
    tree.mkdir()
    subprocess.run(["zstd", "-dqf", image, "-o", raw], check=True)
    subprocess.run(["debugfs", "-R", f"rdump / {tree}", raw], check=True, capture_output=True)
    raw.unlink()
    return tree


def give(box: Vault, tree: Path, place: str) -> None:
    packed = subprocess.run(["tar", "-C", tree, "-c", "."], check=True, capture_output=True).stdout
    box.shell(f"mkdir -p {place}")
    subprocess.run(["docker", "exec", "-i", box.name, "tar", "-C", place, "-x"], input=packed, check=True)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vault]:
    if os.geteuid() != 0:
        pytest.skip("the lab's containers need root")
    with Vault(f"sunset-test-readable-{os.getpid()}") as box:
        creme, place = lab.filled(), tmp_path_factory.mktemp("creme")
        give(box, unpacked(creme / "pgdata.img.zst", place) / "15/main", "/var/lib/postgresql/t")
        give(box, unpacked(creme / "uploads.img.zst", place) / "upload", "/srv/creme/media/upload")
        if box.shell("python3 -c 'import xlsxwriter' 2>/dev/null && echo there || true") == "":
            give(box, Path(xlsxwriter.__file__).parent, "/usr/lib/python3/dist-packages/xlsxwriter")
        box.shell(SETUP)
        box.run("runuser", "-u", "postgres", "--", "psql", "-qX", "-v", "ON_ERROR_STOP=1", stdin=POSTGRES)
        box.run("mariadb", "--default-character-set=utf8mb4", "-e", "SET GLOBAL sql_mode=''")
        box.run("mariadb", "--default-character-set=utf8mb4", stdin="SET sql_mode='';" + MARIA)
        yield box


class Copies:
    """Dumps, pulls and proves; one package for each 'host'."""

    def __init__(self, box: Vault, keys: Path) -> None:
        self.box, self.keys = box, keys
        subprocess.run(["age-keygen", "-o", keys], check=True, capture_output=True)
        made = subprocess.run(["age-keygen", "-y", keys], check=True, capture_output=True, text=True)
        self.custodians = [{"name": "alice", "recipient": made.stdout.strip()}]
        key = box.read("/etc/ssh/ssh_host_ed25519_key.pub").strip()
        self.source = {"address": "127.0.0.1", "port": 22, "user": "root", "host_key": key}
        self.dumps: dict[str, dict[str, Any]] = {}

    def store(self, package: str, item: str, module: str, **options: Any) -> None:
        """Dump or archive, and pull into the package."""
        staging = f"{STAGING}/{item.replace(':', '-')}"
        self.box.shell(f"install -d -m 0700 {staging}")
        self.dumps[item] = self.box.module(module, item=item, staging=staging, **options)["result"]
        opened = self.box.vault("vault_package", item=f"host:{package}", state="open", custodians=self.custodians, **base(package))
        places = sorted(f"{STAGING}/{name.replace(':', '-')}" for name in self.dumps)
        self.box.module("vault_access", item=f"host:{package}", public_key=opened["result"]["pull_public_key"], directories=places)
        self.box.vault("vault_pull", item=item, source=self.source, artefacts=self.dumps[item]["artefacts"], **base(package))

    def database(self, package: str, name: str, engine: str, **more: Any) -> None:
        more = {**({"port": 5432} if engine == "postgresql" else {}), **more}
        self.store(package, f"database:{name}", "database_dump", engine=engine, database=name, **more)

    def prove(self, package: str, item: str, engine: str, **more: Any) -> dict[str, Any]:
        dump = self.dumps[item]
        given = {"item": item, "proof": engine, "artefacts": dump["artefacts"], "source": dump["source"], **base(package)}
        return self.box.vault("vault_prove", **{**given, **more})

    def opened(self, package: str, item: str, place: Path) -> Path:
        """The export, decrypted on the test's own machine with the package's identity, and unpacked."""
        slug = item.replace(":", "-")
        identity = place / "identity"
        identity.write_text(self.box.read(f"/dev/shm/sunset-vault-906/lab/{package}.identity"))
        cipher = subprocess.run(
            ["docker", "exec", self.box.name, "cat", f"{ROOT}/lab/{package}/data/readable/{slug}.zip.age"], check=True, capture_output=True
        ).stdout
        plain = subprocess.run(["age", "-d", "-i", identity], input=cipher, check=True, capture_output=True).stdout
        (place / "readable.zip").write_bytes(plain)
        with zipfile.ZipFile(place / "readable.zip") as archive:
            assert archive.testzip() is None
            archive.extractall(place / "out")
        return place / "out"


@pytest.fixture(scope="module")
def copies(world: Vault, tmp_path_factory: pytest.TempPathFactory) -> Copies:
    return Copies(world, tmp_path_factory.mktemp("keys") / "alice.age")


def described(out: Path) -> dict[str, dict[str, Any]]:
    """Resources by their real name, after frictionless has found every file, type, key, size and digest right."""
    report = frictionless.validate(str(out / "datapackage.json"))
    assert report.valid, report.flatten(["name", "rowNumber", "fieldName", "type", "note"])[:5]
    package = json.loads((out / "datapackage.json").read_text())
    for one in package["resources"]:
        assert not os.path.relpath(out / one["path"], out).startswith("..")
    return {one["title"]: one for one in package["resources"]}


def rows(out: Path, one: dict[str, Any]) -> list[dict[str, Any]]:
    """The values of a CSV, None for NULL, told apart by the schema's word alone."""
    (null,) = one["schema"]["missingValues"]
    with (out / one["path"]).open(newline="", encoding="utf-8") as stream:
        return [{key: None if value == null else value for key, value in row.items()} for row in csv.DictReader(stream)]


def test_hostile_tables_of_postgresql(copies: Copies, tmp_path: Path) -> None:
    box = copies.box
    copies.database("h1", "hostile", "postgresql")
    state = lambda: box.shell(f"find {ROOT}/lab/h1 {ROOT}/lab/state/h1 -printf '%p %m %s %T@\\n' | sort")  # noqa: E731
    before = state()
    prove = lambda **more: copies.prove("h1", "database:hostile", "postgresql", **more)  # noqa: E731
    assert prove(check=True)["changed"] is True and state() == before
    first = prove()
    told = first["result"]["readable"]
    assert (told["tables"], told["rows"], first["result"]["rows"]) == (6, 8, 8)
    after = state()
    assert prove()["changed"] is False and prove(check=True)["changed"] is False and state() == after
    assert box.shell(f"stat -c %a {ROOT}/lab/h1/data/readable/database-hostile.zip.age").strip() == "600"
    assert box.shell(f"find {ROOT} -name '*.part'") == "" and box.leaves() == ""
    out = copies.opened("h1", "database:hostile", tmp_path)
    found = described(out)
    table = found['public."../../etc/Passwd"']
    # The second row of values holds \N itself, so NULL had to be another word.
    assert table["schema"]["missingValues"] == ["\\N-nil"] and table["schema"]["primaryKey"] == ["id"]
    assert [tuple(row.values()) for row in rows(out, table)] == [
        ("1", None, ""), ("2", "", None), ("3", 'line\nbreak\r\n"quoted", comma', "=1+1"), ("4", "\\N", "NULL")]  # fmt: skip
    one, two = rows(out, found["public.kinds"])
    assert one["flag"] == "true" and two["flag"] == "false" and one["amount"] == "12345678901234567890.0123456789"
    assert (one["at"], one["local_at"]) == ("2024-03-31T00:30:00.123456Z", "2024-03-31T02:30:00")
    assert (one["raw"], two["raw"], two["f4"], one["f4"]) == ("AP8K", "", "INF", "0.1")
    assert (one["odd"], two["odd"]) == ("infinity", "0044-03-15 BC")
    kinds = {field["name"]: field["type"] for field in found["public.kinds"]["schema"]["fields"]}
    assert (kinds["odd"], kinds["day"], kinds["at"], kinds["id"], kinds["doc"]) == ("string", "date", "datetime", "integer", "string")
    assert found["public.kinds"]["schema"]["foreignKeys"][0]["reference"]["resource"] == found["public.kinds"]["name"]
    assert found["public.nothing"]["rowCount"] == 2
    assert MARKER not in json.dumps(first, ensure_ascii=False) and "comma" not in json.dumps(first)


def test_a_damaged_or_lost_export_is_made_again(copies: Copies) -> None:
    path = f"{ROOT}/lab/h1/data/readable/database-hostile.zip.age"
    for damage in (f"rm {path}", f"truncate -s -1 {path}", f"rm {ROOT}/lab/state/h1/database-hostile.readable.json"):
        copies.box.shell(damage)
        assert copies.prove("h1", "database:hostile", "postgresql", check=True)["changed"] is True
        assert copies.prove("h1", "database:hostile", "postgresql")["changed"] is True
        assert copies.prove("h1", "database:hostile", "postgresql")["changed"] is False
    assert copies.prove("h1", "database:hostile", "postgresql", readable={"tables": False})["result"]["readable"] is None
    assert copies.box.shell(f"ls {ROOT}/lab/h1/data/readable") == ""


def test_suitecrm_on_mariadb(copies: Copies, tmp_path: Path) -> None:
    box = copies.box
    copies.database("h2", "suite", "mariadb")
    box.shell("mkdir -p /srv/suite/upload && cd /srv/suite/upload && touch n1 d1 stray .htaccess")
    copies.store("h2", "filestore:up", "filestore_archive", path="/srv/suite/upload")
    profile = profiles.load("suitecrm")
    stores = [{"id": "filestore:up", "host": "h2", "expects": {"path": "/srv/suite/upload"}}]
    pairs = profiles.pairs(profile, {"database": "suite"}, stores)
    readable = {"entities": profiles.entities(profile), "xlsx": True}
    result = copies.prove("h2", "database:suite", "mariadb", readable=readable, pairs=pairs)["result"]
    assert copies.prove("h2", "database:suite", "mariadb", readable=readable, pairs=pairs)["changed"] is False
    # n2 has no file; n3 has no file name; n4 is deleted; stray has no row; .htaccess needs none.
    assert result["pair"] == {"verdict": "unpaired", "rows": 3, "files": 4, "missing": 1, "orphans": 1}
    told = result["readable"]
    assert told["entities"] == {"accounts": 3, "contacts": 2, "notes": 4}
    assert told["absent"] == ["calls", "cases", "documents", "leads", "meetings", "opportunities", "targets", "tasks"]
    assert told["rows"] == result["rows"] == copies.dumps["database:suite"]["source"]["rows"]
    out = copies.opened("h2", "database:suite", tmp_path)
    found = described(out)
    assert (out / "pairs/missing.csv").read_text() == "filestore,table,path\nfilestore:up,notes,n2\n"
    assert (out / "pairs/orphans.csv").read_text() == "filestore,path\nfilestore:up,stray\n"
    accounts = rows(out, found["Accounts"])
    assert [row["name"] for row in accounts] == [FORMULA, "Ztrash 🎈", ""]
    assert [row["soft_deleted"] for row in accounts] == ["false", "true", "false"]
    assert [row["owner.user_name"] for row in accounts] == ["ann", "bob", None]
    assert [row["custom.rating_c"] for row in accounts] == ["0.1", None, "16777216"]
    assert accounts[1]["date_entered"] == "0000-00-00T00:00:00"
    contacts = rows(out, found["Contacts"])
    assert contacts[0]["email_addresses"] == "a@x.org; z@x.org" and contacts[0]["accounts"] == FORMULA
    assert "custom (contacts_cstm is not there)" in found["Contacts"]["leftOut"]
    sheet = openpyxl.load_workbook(out / "entities/accounts.xlsx").active
    assert sheet["B2"].value == FORMULA and sheet["B2"].data_type == "s"
    one, two, three = rows(out, found["kinds"])
    assert (one["f"], two["f"], three["f"]) == ("0.1", "3.4028234663852886e38", "16777216")
    assert (one["d"], one["n"], one["b"], one["raw"]) == ("0.3333333333333333", "12345678901234567890.0123456789", "341", "AP8K")
    assert (one["txt"], one["e"], one["at"], one["t"]) == ("café", 'y"z', "2024-03-31T00:30:00.125Z", "-838:59:59")
    assert (two["txt"], two["raw"], two["e"]) == ("", "", None)
    assert three["txt"] == 'a"b\nc,d\r\nNULL\t'
    assert rows(out, found["weird `name`"]) == [{'a,"b"': "1", "x": "\\N"}]
    assert [row["v"] for row in sorted(rows(out, found["kept"]), key=lambda row: row["v"])] == ["1", "2"]


def test_a_join_that_multiplies_is_refused(copies: Copies) -> None:
    entity = {"table": "contacts", "join": {"links": {"table": "email_addr_bean_rel", "match": {"bean_id": "id"}, "columns": ["id"]}}}
    with pytest.raises(Failed, match="joins tables so that 2 records become 4"):
        copies.prove("h2", "database:suite", "mariadb", readable={"entities": {"contacts": entity}})
    assert copies.box.shell(f"ls {ROOT}/lab/h2/data/readable") == "" and copies.box.leaves() == ""


def test_without_the_library_xlsx_is_refused_before_any_work(copies: Copies) -> None:
    entity = {"accounts": {"table": "accounts"}}
    place = "/usr/lib/python3/dist-packages/xlsxwriter"
    copies.box.shell(f"mv {place} /root/kept-xlsxwriter")
    try:
        with pytest.raises(Failed, match="install the package python3-xlsxwriter"):
            copies.prove("h2", "database:suite", "mariadb", readable={"entities": entity})
        result = copies.prove("h2", "database:suite", "mariadb", readable={"entities": entity, "xlsx": False})["result"]
    finally:
        copies.box.shell(f"mv /root/kept-xlsxwriter {place}")
    assert (result["readable"]["xlsx"], result["readable"]["entities"]) == (0, {"accounts": 3})


def test_odoo_on_postgresql(copies: Copies, tmp_path: Path) -> None:
    copies.database("h3", "shop", "postgresql")
    copies.box.shell("mkdir -p /srv/odoo/filestore/shop/aa && touch /srv/odoo/filestore/shop/aa/aa11")
    copies.store("h3", "filestore:odoo", "filestore_archive", path="/srv/odoo/filestore/shop")
    profile = profiles.load("odoo")
    stores = [{"id": "filestore:odoo", "host": "h3", "expects": {"path": "/srv/odoo/filestore/shop"}}]
    pairs = profiles.pairs(profile, {"database": "shop"}, stores)
    result = copies.prove("h3", "database:shop", "postgresql", readable={"entities": profiles.entities(profile)}, pairs=pairs,
                          allowed_differences=["ir_config_parameter"])["result"]  # fmt: skip
    assert result["pair"] == {"verdict": "unpaired", "rows": 3, "files": 1, "missing": 1, "orphans": 0}
    out = copies.opened("h3", "database:shop", tmp_path)
    found = described(out)
    (lead,), (won,) = rows(out, found["Leads"]), rows(out, found["Opportunities"])
    assert (lead["stage.name"], lead["owner.login"], lead["soft_deleted"]) == ("New", "ann@x", "false")
    assert (won["stage.name"], won["owner.login"], won["soft_deleted"]) == ("Gagné", "bob@x", "true")
    assert [row["company.name"] for row in rows(out, found["Contacts"])] == ["ACME", None]
    assert "team (crm_team is not there)" in found["Leads"]["leftOut"]


def test_a_killed_export_leaves_nothing_and_is_made(copies: Copies) -> None:
    box, dump, folder = copies.box, copies.dumps["database:shop"], f"{ROOT}/lab/h3/data/readable"
    options = {"item": "database:shop", "proof": "postgresql", "artefacts": dump["artefacts"], "source": dump["source"], **base("h3")}
    # In the middle of the export: its large table takes longer than the kill.
    with box.promptly(f"ls {folder}/*.part >/dev/null 2>&1", KILL_MODULE):
        process = box.start_vault("vault_prove", **options)
    process.communicate()
    assert box.shell(f"ls {folder}") == "database-shop.zip.age.part\n"
    assert copies.prove("h3", "database:shop", "postgresql")["changed"] is True
    assert box.shell(f"ls {folder}") == "database-shop.zip.age\n" and box.leaves() == ""


def test_the_labs_creme(copies: Copies, tmp_path: Path) -> None:
    """The real application's database; its uploads are in another package of the same vault, and come later."""
    copies.database("h5", "creme", "postgresql")
    profile = profiles.load("creme")
    stores = [{"id": "filestore:uploads", "host": "h6", "expects": {"path": "/srv/creme/media/upload"}}]
    more = {"readable": {"entities": profiles.entities(profile)}, "pairs": profiles.pairs(profile, {"database": "creme"}, stores)}
    first = copies.prove("h5", "database:creme", "postgresql", **more)["result"]
    assert first["pair"]["verdict"] == "unknown" and "h6 holds no complete copy" in first["pair"]["why_unknown"][0]
    copies.store("h6", "filestore:uploads", "filestore_archive", path="/srv/creme/media/upload")
    again = copies.prove("h5", "database:creme", "postgresql", **more)
    assert again["changed"] is True
    result = again["result"]
    assert result["pair"] == {"verdict": "paired", "rows": 60, "files": 60, "missing": 0, "orphans": 0}
    assert copies.prove("h5", "database:creme", "postgresql", **more)["changed"] is False
    told = result["readable"]
    assert told["entities"]["contacts"] > 200 and told["entities"]["documents"] == 60 and told["absent"] == [] and told["left_out"] == {}
    assert (told["tables"], told["rows"]) == (result["tables"], result["rows"])
    out = copies.opened("h5", "database:creme", tmp_path)
    found = described(out)
    contacts = rows(out, found["Contacts"])
    assert {row["owner.username"] for row in contacts} == {"root"} and {row["soft_deleted"] for row in contacts} <= {"true", "false"}
    sheet = openpyxl.load_workbook(out / "entities/contacts.xlsx", read_only=True).active
    names = [row[2].value for row in sheet.iter_rows(min_row=2)]
    assert names == [row["last_name"] for row in contacts]
