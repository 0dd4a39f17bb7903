# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The profiles of EspoCRM, Dolibarr, vtiger and Odoo against small databases of these products' shape: records with their own and
with custom fields, owners, soft-deleted rows, attachments; and what a product may change by itself.

Tables and columns are named as the products' sources name them (vtiger: schema/DatabaseSchema.xml, Dolibarr: install/mysql/tables,
EspoCRM: metadata/entityDefs); only few of them are made. SuiteCRM, Odoo's file store and a real Creme are in test_readable.py.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import xlsxwriter

from ansible_collections.sunset.crm.plugins.plugin_utils.planning import profiles
from tests.integration.host_container import Failed
from tests.integration.test_readable import SETUP, STAGING, Copies, described, give, rows
from tests.integration.test_vault import Vault

openpyxl = pytest.importorskip("openpyxl")

ESPO = """
CREATE DATABASE espo CHARACTER SET utf8mb4; USE espo;
CREATE TABLE user (id varchar(24) PRIMARY KEY, user_name varchar(50), first_name varchar(100), last_name varchar(100), is_active tinyint(1), deleted tinyint(1));
CREATE TABLE account (id varchar(24) PRIMARY KEY, name varchar(249), c_region varchar(99), assigned_user_id varchar(24), deleted tinyint(1));
CREATE TABLE contact LIKE account; CREATE TABLE lead LIKE account; CREATE TABLE opportunity LIKE account; CREATE TABLE document LIKE account;
ALTER TABLE opportunity ADD amount double, ADD account_id varchar(24);
CREATE TABLE note (id varchar(24) PRIMARY KEY, post mediumtext, created_by_id varchar(24), deleted tinyint(1));
CREATE TABLE email_address (id varchar(24) PRIMARY KEY, name varchar(255), lower varchar(255), deleted tinyint(1));
CREATE TABLE entity_email_address (id bigint AUTO_INCREMENT PRIMARY KEY, entity_id varchar(24), email_address_id varchar(24), entity_type varchar(100), deleted tinyint(1));
CREATE TABLE phone_number (id varchar(24) PRIMARY KEY, name varchar(36), deleted tinyint(1));
CREATE TABLE entity_phone_number (id bigint AUTO_INCREMENT PRIMARY KEY, entity_id varchar(24), phone_number_id varchar(24), entity_type varchar(100), deleted tinyint(1));
CREATE TABLE attachment (id varchar(24) PRIMARY KEY, name varchar(255), source_id varchar(36), storage varchar(24), deleted tinyint(1));
INSERT INTO user VALUES ('u1', 'ann', 'Ann', 'Ä', 1, 0), ('u2', 'bob', 'Bob', 'B', 0, 0);
INSERT INTO account VALUES ('a1', 'ACME', 'Süd', 'u1', 0), ('a2', 'gone', NULL, 'u2', 1), ('a3', 'nobody', '', NULL, 0);
INSERT INTO contact VALUES ('c1', 'Zoë', 'x', 'u2', 0), ('a1', 'same id as an account', NULL, NULL, 1);
INSERT INTO opportunity VALUES ('o1', 'deal', 'r', 'u1', 0, 0.1, 'a1');
INSERT INTO note VALUES ('n1', 'hello', 'u1', 0), ('n2', 'old', 'u2', 1);
INSERT INTO email_address VALUES ('e1', 'z@x', 'z@x', 0), ('e2', 'a@x', 'a@x', 0);
INSERT INTO entity_email_address (entity_id, email_address_id, entity_type, deleted) VALUES ('a1', 'e1', 'Account', 0), ('a1', 'e2', 'Account', 0),
    ('a1', 'e2', 'Contact', 0), ('c1', 'e1', 'Contact', 1);
INSERT INTO phone_number VALUES ('p1', '+41', 0); INSERT INTO entity_phone_number (entity_id, phone_number_id, entity_type, deleted) VALUES ('c1', 'p1', 'Contact', 0);
INSERT INTO attachment VALUES ('f1', 'a.pdf', NULL, 'EspoUploadDir', 0), ('f2', 'same file', 'f1', 'EspoUploadDir', 0), ('f3', 'lost', '', 'EspoUploadDir', 0),
    ('f4', 'deleted', NULL, 'EspoUploadDir', 1), ('f5', 'in S3', NULL, 'AwsS3', 0);
"""

DOLIBARR = """
CREATE DATABASE doli CHARACTER SET utf8mb4; USE doli;
CREATE TABLE llx_user (rowid int PRIMARY KEY, login varchar(50), firstname varchar(50), lastname varchar(50), statut int);
CREATE TABLE llx_societe (rowid int PRIMARY KEY, nom varchar(128), client tinyint, fk_user_creat int);
CREATE TABLE llx_societe_extrafields (rowid int AUTO_INCREMENT PRIMARY KEY, tms timestamp NULL, fk_object int NOT NULL, branche varchar(99), note_intern text);
CREATE TABLE llx_societe_commerciaux (rowid int AUTO_INCREMENT PRIMARY KEY, fk_soc int, fk_user int);
CREATE TABLE llx_socpeople (rowid int PRIMARY KEY, lastname varchar(50), fk_soc int, fk_user_creat int);
CREATE TABLE llx_projet (rowid int PRIMARY KEY, ref varchar(50), title varchar(255), fk_soc int, fk_user_creat int, opp_amount double(24,8));
CREATE TABLE llx_projet_extrafields (rowid int AUTO_INCREMENT PRIMARY KEY, fk_object int NOT NULL, chance varchar(9));
CREATE TABLE llx_actioncomm (id int PRIMARY KEY, label varchar(255), fk_user_action int);
CREATE TABLE llx_ecm_files (rowid int PRIMARY KEY, label varchar(128), filepath varchar(255), filename varchar(255), fk_user_c int);
INSERT INTO llx_user VALUES (1, 'ann', 'Ann', 'Ä', 1), (2, 'bob', 'Bob', 'B', 0);
INSERT INTO llx_societe VALUES (1, 'ACME', 1, 1), (2, 'Prospect', 2, NULL);
INSERT INTO llx_societe_extrafields (fk_object, branche, note_intern) VALUES (1, 'Öl', 'sehr alt');
INSERT INTO llx_societe_commerciaux (fk_soc, fk_user) VALUES (1, 2), (1, 1), (2, 2);
INSERT INTO llx_socpeople VALUES (1, 'Zoë', 1, 2); INSERT INTO llx_projet VALUES (7, 'P7', 'deal', 1, 1, 12.5);
INSERT INTO llx_projet_extrafields (fk_object, chance) VALUES (7, '70'); INSERT INTO llx_actioncomm VALUES (5, 'call', 2);
INSERT INTO llx_ecm_files VALUES (1, 'x', 'societe/1', 'a.pdf', 1), (2, 'y', 'societe/1', 'lost.pdf', 2);
"""

VTIGER = """
CREATE DATABASE vt CHARACTER SET utf8mb4; USE vt;
CREATE TABLE vtiger_users (id int PRIMARY KEY, user_name varchar(255), status varchar(25));
CREATE TABLE vtiger_groups (groupid int PRIMARY KEY, groupname varchar(100));
CREATE TABLE vtiger_crmentity (crmid int PRIMARY KEY, smownerid int, setype varchar(30), description text, createdtime datetime, modifiedtime datetime, deleted int);
CREATE TABLE vtiger_account (accountid int PRIMARY KEY, account_no varchar(100), accountname varchar(100));
CREATE TABLE vtiger_accountbillads (accountaddressid int PRIMARY KEY, bill_city varchar(30));
CREATE TABLE vtiger_accountshipads (accountaddressid int PRIMARY KEY, ship_city varchar(30));
CREATE TABLE vtiger_accountscf (accountid int PRIMARY KEY, cf_701 varchar(99));
CREATE TABLE vtiger_contactdetails (contactid int PRIMARY KEY, accountid int, firstname varchar(40), lastname varchar(80), email varchar(100));
CREATE TABLE vtiger_contactaddress (contactaddressid int PRIMARY KEY, mailingcity varchar(40));
CREATE TABLE vtiger_contactsubdetails (contactsubscriptionid int PRIMARY KEY, birthday date);
CREATE TABLE vtiger_contactscf (contactid int PRIMARY KEY, cf_702 decimal(10,2));
CREATE TABLE vtiger_leaddetails (leadid int PRIMARY KEY, lastname varchar(80), company varchar(100), converted int);
CREATE TABLE vtiger_leadaddress (leadaddressid int PRIMARY KEY, city varchar(30)); CREATE TABLE vtiger_leadsubdetails (leadsubscriptionid int PRIMARY KEY, website varchar(255));
CREATE TABLE vtiger_leadscf (leadid int PRIMARY KEY, cf_703 varchar(9));
CREATE TABLE vtiger_potential (potentialid int PRIMARY KEY, potentialname varchar(120), related_to int); CREATE TABLE vtiger_potentialscf (potentialid int PRIMARY KEY, cf_704 varchar(9));
CREATE TABLE vtiger_activity (activityid int PRIMARY KEY, subject varchar(100)); CREATE TABLE vtiger_activitycf (activityid int PRIMARY KEY, cf_705 varchar(9));
CREATE TABLE vtiger_notes (notesid int PRIMARY KEY, title varchar(50), filename varchar(200)); CREATE TABLE vtiger_notescf (notesid int PRIMARY KEY, cf_706 varchar(9));
CREATE TABLE vtiger_modcomments (modcommentsid int PRIMARY KEY, commentcontent text, related_to varchar(100));
CREATE TABLE vtiger_attachments (attachmentsid int PRIMARY KEY, name varchar(255), path text, storedname varchar(255));
INSERT INTO vtiger_users VALUES (1, 'admin', 'Active'), (5, 'bob', 'Inactive'); INSERT INTO vtiger_groups VALUES (3, 'Sales');
INSERT INTO vtiger_crmentity VALUES (10, 1, 'Accounts', 'first', '2020-01-01', '2020-01-02', 0), (11, 3, 'Accounts', '', '2020-01-01', '2020-01-02', 1),
    (20, 5, 'Contacts', '', '2020-01-01', '2020-01-02', 0), (30, 1, 'Leads', '', '2020-01-01', '2020-01-02', 1), (40, 1, 'Potentials', '', '2020-01-01', '2020-01-02', 0),
    (50, 5, 'Calendar', '', '2020-01-01', '2020-01-02', 0), (60, 1, 'Documents', '', '2020-01-01', '2020-01-02', 0), (70, 5, 'ModComments', '', '2020-01-01', '2020-01-02', 0),
    (61, 1, 'Documents Attachment', '', '2020-01-01', '2020-01-02', 0), (62, 1, 'Documents Attachment', '', '2020-01-01', '2020-01-02', 0);
INSERT INTO vtiger_account VALUES (10, 'ACC1', 'ACME'), (11, 'ACC2', 'gone'); INSERT INTO vtiger_accountbillads VALUES (10, 'Zürich');
INSERT INTO vtiger_accountshipads VALUES (10, 'Bern'); INSERT INTO vtiger_accountscf VALUES (10, 'custom of an account'), (11, NULL);
INSERT INTO vtiger_contactdetails VALUES (20, 10, 'Zoë', 'M', 'z@x'); INSERT INTO vtiger_contactaddress VALUES (20, 'Basel');
INSERT INTO vtiger_contactsubdetails VALUES (20, '1980-02-29'); INSERT INTO vtiger_contactscf VALUES (20, 1.50);
INSERT INTO vtiger_leaddetails VALUES (30, 'L', 'Firm', 0); INSERT INTO vtiger_leadaddress VALUES (30, 'Genf'); INSERT INTO vtiger_leadsubdetails VALUES (30, 'https://x');
INSERT INTO vtiger_leadscf VALUES (30, 'lcf'); INSERT INTO vtiger_potential VALUES (40, 'deal', 10); INSERT INTO vtiger_potentialscf VALUES (40, 'pcf');
INSERT INTO vtiger_activity VALUES (50, 'call'); INSERT INTO vtiger_activitycf VALUES (50, 'acf'); INSERT INTO vtiger_notes VALUES (60, 'doc', 'a.pdf');
INSERT INTO vtiger_notescf VALUES (60, 'ncf'); INSERT INTO vtiger_modcomments VALUES (70, 'a comment', '10');
INSERT INTO vtiger_attachments VALUES (61, 'a.pdf', 'storage/2020/January/week1/', 'f00'), (62, 'old.pdf', 'storage/2019/', NULL);
"""

ODOO = """
CREATE DATABASE shop;
\\c shop
CREATE TABLE res_users (id int PRIMARY KEY, login text, active boolean);
CREATE TABLE res_partner (id int PRIMARY KEY, name text, is_company boolean, parent_id int, user_id int, active boolean, x_studio_size numeric);
CREATE TABLE ir_config_parameter (id int PRIMARY KEY, key text, value text);
INSERT INTO res_users VALUES (1, 'ann@x', true); INSERT INTO res_partner VALUES (1, 'ACME', true, NULL, 1, true, 12.50), (2, 'old', true, NULL, NULL, false, NULL);
INSERT INTO ir_config_parameter VALUES (1, 'database.uuid', 'one'), (2, 'web.base.url', 'https://crm');
"""


@pytest.fixture(scope="module")
def world() -> Iterator[Vault]:
    if os.geteuid() != 0:
        pytest.skip("the lab's containers need root")
    with Vault(f"sunset-test-products-{os.getpid()}") as box:
        if box.shell("python3 -c 'import xlsxwriter' 2>/dev/null && echo there || true") == "":
            give(box, Path(xlsxwriter.__file__).parent, "/usr/lib/python3/dist-packages/xlsxwriter")
        box.shell(SETUP)
        box.run("runuser", "-u", "postgres", "--", "psql", "-qX", "-v", "ON_ERROR_STOP=1", stdin=ODOO)
        box.run("mariadb", "--default-character-set=utf8mb4", stdin=ESPO + DOLIBARR + VTIGER)
        yield box


@pytest.fixture(scope="module")
def copies(world: Vault, tmp_path_factory: pytest.TempPathFactory) -> Copies:
    return Copies(world, tmp_path_factory.mktemp("keys") / "alice.age")


def exported(copies: Copies, product: str, package: str, database: str, store: str, files: str, place: Path) -> tuple[Any, Any, Path]:
    """Proof with the product's profile: its result, the entities' rows by their name, and where the export lies."""
    copies.database(package, database, "mariadb")
    copies.box.shell(f"mkdir -p {store} && cd {store} && for one in {files}; do mkdir -p $(dirname $one); echo x >$one; done")
    copies.store(package, f"filestore:{database}", "filestore_archive", path=store)
    profile = profiles.load(product)
    planned = [{"id": f"filestore:{database}", "host": package, "expects": {"path": store}}]
    more = {
        "readable": {"entities": profiles.entities(profile), "xlsx": True},
        "pairs": profiles.pairs(profile, {"database": database}, planned),
    }
    result = copies.prove(package, f"database:{database}", "mariadb", **more)["result"]
    out = copies.opened(package, f"database:{database}", place)
    found = described(out)
    told = {name: rows(out, found[one["title"]]) for name, one in profiles.entities(profile).items() if one.get("title") in found}
    assert {name: len(one) for name, one in told.items()} == result["readable"]["entities"]
    # Each entity as a sheet too, cell by cell the same number of rows and the same columns.
    for name, one in told.items():
        sheet = openpyxl.load_workbook(out / f"entities/{name}.xlsx", read_only=True).active
        lines = list(sheet.iter_rows(values_only=True))
        assert len(lines) == len(one) + 1 and (not one or list(lines[0]) == list(one[0])), name
    return result, told, out


def columns(told: list[dict[str, Any]], *names: str) -> list[tuple[Any, ...]]:
    return [tuple(row[name] for name in names) for row in told]


def test_espocrm(copies: Copies, tmp_path: Path) -> None:
    result, told, out = exported(copies, "espocrm", "p1", "espo", "/srv/espo/data/upload", "f1 stray .htaccess thumbs/t", tmp_path)
    assert columns(told["accounts"], "name", "c_region", "owner.user_name", "owner.is_active", "soft_deleted") == [
        ("ACME", "Süd", "ann", "1", "false"), ("gone", None, "bob", "0", "true"), ("nobody", "", None, None, "false")]  # fmt: skip
    assert columns(told["accounts"], "email_addresses", "phone_numbers")[0] == ("a@x; z@x", None)
    assert sorted(columns(told["contacts"], "name", "email_addresses", "phone_numbers", "soft_deleted")) == [
        ("Zoë", None, "+41", "false"), ("same id as an account", "a@x", None, "true")]  # fmt: skip
    assert columns(told["opportunities"], "name", "amount", "account_id", "owner.user_name") == [("deal", "0.1", "a1", "ann")]
    assert columns(told["notes"], "post", "author.user_name", "soft_deleted") == [("hello", "ann", "false"), ("old", "bob", "true")]
    assert told["leads"] == [] and result["readable"]["absent"] == ["calls", "cases", "meetings", "tasks"]
    # f1 twice (a copy shares its file), f3 has lost its file; f4 is deleted, f5 lies elsewhere; stray has no row.
    assert result["pair"] == {"verdict": "unpaired", "rows": 3, "files": 4, "missing": 1, "orphans": 1}
    assert (out / "pairs/missing.csv").read_text().splitlines()[1:] == ["filestore:espo,attachment,f3"]


def test_dolibarr(copies: Copies, tmp_path: Path) -> None:
    result, told, out = exported(
        copies, "dolibarr", "p2", "doli", "/srv/doli/documents", "societe/1/a.pdf societe/1/extra.pdf doli/temp/t", tmp_path
    )
    assert columns(told["accounts"], "nom", "custom.branche", "custom.note_intern", "creator.login", "owners") == [
        ("ACME", "Öl", "sehr alt", "ann", "ann; bob"), ("Prospect", None, None, None, "bob")]  # fmt: skip
    assert columns(told["contacts"], "lastname", "account.nom", "creator.login") == [("Zoë", "ACME", "bob")]
    assert columns(told["opportunities"], "title", "custom.chance", "account.nom", "creator.login") == [("deal", "70", "ACME", "ann")]
    assert columns(told["activities"], "label", "owner.login") == [("call", "bob")]
    assert columns(told["documents"], "filename", "creator.login") == [("a.pdf", "ann"), ("lost.pdf", "bob")]
    assert (result["pair"]["verdict"], result["pair"]["missing"], result["pair"]["orphans"]) == ("unpaired", 1, 1)
    assert (out / "pairs/orphans.csv").read_text().splitlines()[1:] == ["filestore:doli,societe/1/extra.pdf"]


def test_vtiger(copies: Copies, tmp_path: Path) -> None:
    files = "2020/January/week1/61_f00 2019/62_old.pdf index.html"
    result, told, _out = exported(copies, "vtiger", "p3", "vt", "/srv/vt/storage", files, tmp_path)
    assert columns(told["accounts"], "accountname", "custom.cf_701", "billing.bill_city", "shipping.ship_city", "entity.description") == [
        ("ACME", "custom of an account", "Zürich", "Bern", "first"), ("gone", None, None, None, "")]  # fmt: skip
    assert columns(told["accounts"], "owner.user_name", "owner_group.groupname", "soft_deleted") == [
        ("admin", None, "false"), (None, "Sales", "true")]  # fmt: skip
    assert columns(told["contacts"], "lastname", "account.accountname", "address.mailingcity", "details.birthday", "custom.cf_702", "owner.user_name") == [
        ("M", "ACME", "Basel", "1980-02-29", "1.50", "bob")]  # fmt: skip
    assert columns(told["leads"], "lastname", "address.city", "details.website", "custom.cf_703", "soft_deleted") == [
        ("L", "Genf", "https://x", "lcf", "true")]  # fmt: skip
    assert columns(told["opportunities"], "potentialname", "custom.cf_704", "owner.user_name") == [("deal", "pcf", "admin")]
    assert columns(told["activities"], "subject", "custom.cf_705", "owner.user_name") == [("call", "acf", "bob")]
    assert columns(told["documents"], "title", "custom.cf_706", "owner.user_name") == [("doc", "ncf", "admin")]
    assert columns(told["notes"], "commentcontent", "owner.user_name") == [("a comment", "bob")]
    assert result["pair"] == {"verdict": "paired", "rows": 2, "files": 3, "missing": 0, "orphans": 0}


def test_what_odoo_changes_by_itself_is_allowed_and_nothing_else(copies: Copies, tmp_path: Path) -> None:
    """A copy in which database.uuid was written anew, as Odoo's own tools do, against the fingerprint of before."""
    box, item = copies.box, "database:shop"
    profile = profiles.load("odoo")
    allowed: dict[str, Any] = {"allowed_differences": [profiles._allowed(one) for one in profile["allowed_differences"]]}
    assert allowed == {"allowed_differences": [{"table": "ir_config_parameter", "where": {"key": ["database.uuid"]}}]}
    copies.database("p4", "shop", "postgresql", apart=allowed["allowed_differences"])
    before = copies.dumps[item]
    entities = {"readable": {"entities": profiles.entities(profile)}}
    assert copies.prove("p4", item, "postgresql", **entities)["result"]["verdict"] == "equal"
    out = copies.opened("p4", item, tmp_path)
    companies = rows(out, described(out)["Companies"])
    assert columns(companies, "name", "x_studio_size", "owner.login", "soft_deleted") == [
        ("ACME", "12.50", "ann@x", "false"), ("old", None, None, "true")]  # fmt: skip

    source = {**before, "artefacts": [one for one in before["artefacts"] if one["role"] == "fingerprint"]}

    def changed(package: str, sql: str, **more: Any) -> dict[str, Any]:
        box.run("runuser", "-u", "postgres", "--", "psql", "-qX", "-v", "ON_ERROR_STOP=1", "-d", "shop", stdin=sql)
        copies.database(package, "shop", "postgresql")
        mixed = [one for one in copies.dumps[item]["artefacts"] if one["role"] != "fingerprint"] + source["artefacts"]
        copies.dumps[item] = {"artefacts": mixed, "source": before["source"]}
        kept = f"{STAGING}/kept"
        box.shell(f"install -d -m 0700 {kept}")
        opened = box.vault("vault_package", item=f"host:{package}", state="open", custodians=copies.custodians, root="/srv/vault/packages", estate="lab", package=package)  # fmt: skip
        box.module("vault_access", item=f"host:{package}", public_key=opened["result"]["pull_public_key"], directories=[f"{STAGING}/database-shop", kept])  # fmt: skip
        box.vault("vault_pull", item=item, source=copies.source, artefacts=mixed, root="/srv/vault/packages", estate="lab", package=package)
        result: dict[str, Any] = copies.prove(package, item, "postgresql", readable={"tables": False}, **more)["result"]
        return result

    # The next dump replaces the staged one: what was counted before is kept aside.
    kept = f"{STAGING}/kept/fingerprint.json.zst"
    (fingerprint,) = source["artefacts"]
    box.shell(f"install -d -m 0700 {STAGING}/kept; cp {fingerprint['path']} {kept}; chmod 600 {kept}")
    source["artefacts"] = [{**fingerprint, "path": kept}]
    uuid = "UPDATE ir_config_parameter SET value = 'two' WHERE id = 1"
    with pytest.raises(Failed, match="is different: 1 differences, the first: table public.ir_config_parameter content"):
        changed("p5", uuid)
    result = changed("p5", uuid, **allowed)
    words = "; allowed to differ in content: ir_config_parameter (rows where key is database.uuid)"
    assert result["verdict"] == "equal" and result["depth"].endswith(words)
    with pytest.raises(Failed, match="is different: 1 differences, the first: table public.ir_config_parameter content"):
        changed("p8", "UPDATE ir_config_parameter SET value = 'https://elsewhere' WHERE id = 2", **allowed)
    box.run(
        "runuser", "-u", "postgres", "--", "psql", "-qXd", "shop", stdin="UPDATE ir_config_parameter SET value = 'https://crm' WHERE id = 2"
    )
    with pytest.raises(Failed, match="is different: 1 differences, the first: table public.ir_config_parameter rows"):
        changed("p6", "INSERT INTO ir_config_parameter VALUES (3, 'new', 'row')", **allowed)
    with pytest.raises(Failed, match="is different: 1 differences, the first: table public.res_partner content"):
        changed("p7", "DELETE FROM ir_config_parameter WHERE id = 3; UPDATE res_partner SET name = 'x' WHERE id = 1", **allowed)


CREME = """
import sqlite3, sys
c = sqlite3.connect(sys.argv[1])
c.executescript('''
CREATE TABLE creme_core_cremeuser (id integer PRIMARY KEY, username varchar(30), first_name varchar(50), last_name varchar(50), email varchar(254));
CREATE TABLE creme_core_cremeentity (id integer PRIMARY KEY, user_id integer, is_deleted bool NOT NULL, description text);
CREATE TABLE persons_contact (cremeentity_ptr_id integer PRIMARY KEY, last_name varchar(100), billing_address_id integer, shipping_address_id integer);
CREATE TABLE creme_core_customfield (id integer PRIMARY KEY, name varchar(100));
CREATE TABLE creme_core_customfieldstring (id integer PRIMARY KEY, entity_id integer, custom_field_id integer, value varchar(100));
INSERT INTO creme_core_cremeuser VALUES (1, 'root', 'Ro', 'Ot', 'r@x');
INSERT INTO creme_core_cremeentity VALUES (1, 1, 0, 'first'), (2, 1, 1, 'in the bin');
INSERT INTO persons_contact VALUES (1, 'Zoë', NULL, NULL), (2, 'Gone', NULL, NULL);
INSERT INTO creme_core_customfield VALUES (7, 'Region'); INSERT INTO creme_core_customfieldstring VALUES (1, 1, 7, 'Süd');
''')
"""


def test_creme_on_sqlite(copies: Copies, tmp_path: Path) -> None:
    """A flag is 1 there, not true: what lies in the bin must be marked all the same."""
    copies.box.run("install", "-d", "/srv/creme")
    copies.box.run("python3", "-c", CREME, "/srv/creme/db.sqlite3")
    copies.store("p8", "database:creme", "database_dump", engine="sqlite", database="/srv/creme/db.sqlite3")
    copies.prove("p8", "database:creme", "sqlite", readable={"entities": profiles.entities(profiles.load("creme"))})
    out = copies.opened("p8", "database:creme", tmp_path)
    contacts = rows(out, described(out)["Contacts"])
    assert columns(contacts, "last_name", "owner.username", "custom_text", "entity.description", "soft_deleted") == [
        ("Zoë", "root", "Region=Süd", "first", "false"), ("Gone", "root", None, "in the bin", "true")]  # fmt: skip
