# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
import pytest

from ansible_collections.sunset.crm.plugins.module_utils._copy import stream as copy_stream
from ansible_collections.sunset.crm.plugins.module_utils._dump import my as dump_my, mysql as dump_mysql, pg as dump_pg
from ansible_collections.sunset.crm.plugins.module_utils._fingerprint.my import Column

ALL = {"dump-history": True, "ignore-table-data": True, "system": True, "skip-dump-date": True}


def test_one_pass_where_the_text_form_is_exact():
    (only,) = dump_my.plan_passes("crm", ALL, [], [])
    assert {"--routines", "--events", "--triggers", "--hex-blob", "--single-transaction"} <= set(only)
    assert only[-2:] == ["--databases", "crm"]


@pytest.mark.parametrize("ignore", [True, False])
def test_triggers_and_events_come_after_the_own_export(ignore):
    passes = dump_my.plan_passes("crm", dict(ALL, **{"ignore-table-data": ignore}), ["leads"], [])
    assert len(passes) == (2 if ignore else 3)
    for early in passes[:-1]:
        assert "--skip-triggers" in early and "--skip-events" in early
    assert "--no-data" in passes[-1] and "--triggers" in passes[-1] and "--events" in passes[-1]
    assert any("crm.leads" in argument for argument in passes[-2])


@pytest.mark.parametrize("inexact", [[], ["leads"]])
def test_rows_of_plain_tables_are_dumped_apart_and_before_the_triggers(inexact):
    passes = dump_my.plan_passes("crm", ALL, inexact, [], ["notes"])
    assert len(passes) == 2 and "--ignore-table-data=crm.notes" in passes[0] and "--skip-triggers" in passes[0]
    assert "--no-data" in passes[1] and "--triggers" in passes[1]


@pytest.mark.parametrize(
    "name, kind, column, plain",
    [
        ("notes", "BASE TABLE", ("body", "longtext", "", "utf8mb4"), True),
        ("notes", "BASE TABLE", ("at", "datetime", "", None), True),
        ("notes", "SYSTEM VERSIONED", ("body", "text", "", "utf8mb4"), False),
        ("notes", "SEQUENCE", ("body", "bigint", "", None), False),
        ("notes", "BASE TABLE", ("body", "text", "", "latin1"), False),
        ("notes", "BASE TABLE", ("body", "text", "", "ucs2"), False),
        ("notes", "BASE TABLE", ("body", "blob", "", None), False),
        ("notes", "BASE TABLE", ("flag", "bit", "", None), False),
        ("notes", "BASE TABLE", ("score", "float", "", None), False),
        ("notes", "BASE TABLE", ("form", "polygon", "", None), False),
        ("n\u00f6tes", "BASE TABLE", ("body", "text", "", "utf8mb4"), False),
        ("--help", "BASE TABLE", ("body", "text", "", "utf8mb4"), False),
        ("notes", "BASE TABLE", ("b\u00f6dy", "text", "", "utf8mb4"), False),
        ("no`tes", "BASE TABLE", ("body", "text", "", "utf8mb4"), False),
    ],
)
def test_only_utf8_text_numbers_and_times_are_plain(name, kind, column, plain):
    columns = {name: [Column("id", "int", "", None), Column(*column)]}
    assert dump_my.plan_plain([[name, kind, "InnoDB"]], columns) == ([name] if plain else [])


def test_history_that_cannot_be_dumped_is_refused_by_name():
    with pytest.raises(ValueError, match="tables audit keep their history"):
        dump_my.plan_passes("crm", dict(ALL, **{"dump-history": False}), [], ["audit"])


def test_rows_become_inserts_of_bounded_size(monkeypatch):
    monkeypatch.setattr(dump_my, "STATEMENT_BYTES", 8)
    columns = [Column("a`b", "int", "", None)]
    out = list(dump_my.insert_chunks(iter([b"(1)\n(2", b"222222)\n(3)\n"]), "t", columns))
    assert out == [b"INSERT INTO `t` (`a``b`) VALUES\n(1),\n(2222222);\n", b"INSERT INTO `t` (`a``b`) VALUES\n(3);\n"]


@pytest.mark.parametrize("output, message", [(b"NULL\n", "too large"), (b"(1)\n(2", "middle of a row")])
def test_a_row_that_was_not_printed_is_an_error(output, message):
    with pytest.raises(copy_stream.StreamError, match="table t: .*" + message):
        list(dump_my.insert_chunks(iter([output]), "t", [Column("a", "int", "", None)]))


def test_computed_columns_are_not_inserted_but_a_period_is():
    columns = [Column("a", "int", "", None), Column("b", "int", "`A` + 1", None), Column("s", "timestamp", "ROW START", None)]
    assert [one.name for one in dump_my.stored(columns)] == ["a", "s"]


def test_text_keeps_its_bytes_and_its_charset():
    assert "_latin1 X'''" in dump_my.literal(Column("t", "varchar", "", "latin1"))


def test_tools_of_the_servers_version_are_preferred():
    assert dump_pg.major(150020) == "15" and dump_pg.major(90624) == "9.6"
    assert dump_pg.find_tool("pg_dump", "15", lambda path: path.startswith("/usr/pgsql-15/")) == "/usr/pgsql-15/bin/pg_dump"
    assert dump_pg.find_tool("pg_dump", "15", lambda path: False) == "pg_dump"


@pytest.mark.parametrize(
    "shown, roles, wanted",
    [
        ([], [], []),
        # Of a role that everybody has the server shows the rights too; they are the role's.
        (
            ["GRANT `a ON b` TO PUBLIC", "GRANT SELECT ON `x`.* TO PUBLIC", "GRANT USAGE ON *.* TO `a ON b`", "GRANT UPDATE ON `x`.`t` TO PUBLIC WITH GRANT OPTION"],
            ["a ON b"],
            ["GRANT USAGE ON *.* TO PUBLIC;", "GRANT SELECT ON `x`.* TO PUBLIC;", "GRANT UPDATE ON `x`.`t` TO PUBLIC WITH GRANT OPTION;",
             "INSERT IGNORE INTO mysql.roles_mapping (Host, User, Role, Admin_option) VALUES ('', 'PUBLIC', _utf8mb4 X'61204f4e2062', 'N');", "FLUSH PRIVILEGES;"],
        ),
    ],
)  # fmt: skip
def test_what_everybody_may(shown, roles, wanted):
    assert dump_my.public_statements(shown, roles) == wanted


def test_a_server_is_put_back_as_its_row():
    assert dump_mysql.server_statements([]) == []
    made = dump_mysql.server_statements([["s", "192.0.2.1", "d", "u", "it's", "3306", "", "mysql", ""]])
    assert "_utf8mb4 X'69742773'" in made[0] and made[1] == "FLUSH PRIVILEGES;"


@pytest.mark.parametrize("name, refused", [("template0", True), ("template1", True), ("postgres", False), ("crm", False)])
def test_templates_are_no_databases_of_a_crm(name, refused):
    assert bool(dump_pg.template_problem(name)) == refused
