# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The pure parts of the readable export and of pairs. Valid for Python 3.6."""

import io
import json
import os
import sqlite3
import sys
import zipfile

import pytest

from ansible_collections.sunset.crm.plugins.module_utils._export import (
    entity as export_entity,
    form as export_form,
    lite as export_lite,
    pair as export_pair,
    readable as export_readable,
    sql as export_sql,
    xlsx as export_xlsx,
    zip as export_zip,
)
from ansible_collections.sunset.crm.plugins.module_utils._fingerprint import apart as fingerprint_apart, engines as fingerprint_engines
from ansible_collections.sunset.crm.plugins.module_utils._proof import run as proof_run
from ansible_collections.sunset.crm.plugins.module_utils._vault.state import VaultError


class Memory(export_sql.Reader):
    """An engine that hands over values: tables as lists of rows."""

    engine = "sqlite"

    def __init__(self, **tables):
        self.data = tables

    def tables(self):
        return [
            export_sql.Table(name, name, [export_sql.Column(*one) for one in columns], [columns[0][0]], self.quote(name))
            for name, (columns, _rows) in sorted(self.data.items())
        ]

    def select_rows(self, cells, rest):
        name = rest.split('"')[1]
        columns, rows = self.data[name]
        names = [one[0] for one in columns]
        return [[row[names.index(cell.sql.split('"')[-2])] for cell in cells] for row in rows]


def through(chunks, null="\\N", **more):
    stream = export_form.CsvStream(chunks, null, **more)
    return b"".join(stream), stream.rows


def test_names_of_files_are_safe_and_unique():
    used = set()
    names = ["accounts", "Accounts", "../../etc/passwd", "a/b", "a\\b", "", "..", "con", "NUL.x", "x" * 300, "ünï\nline", "-rf", "accounts"]
    stems = [export_form.safe_stem(name, used) for name in names]
    assert stems[0] == "accounts" and len(set(stems)) == len(names)
    for stem in stems:
        assert export_form.re.match(r"^[a-z0-9][a-z0-9._-]*$", stem) and len(stem) < 100 and ".." not in stem
        assert not export_form.RESERVED.match(stem)


def test_csv_keeps_null_and_empty_apart():
    assert export_form.csv_line(["a", "", None, 'q"u', "x,y", "l\n"], "\\N") == b'a,,\\N,"q""u","x,y","l\n"\r\n'
    assert export_form.csv_line([""], "\\N") == b'""\r\n'
    with pytest.raises(export_form.NullTaken):
        export_form.csv_line(["\\N"], "\\N")


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_a_servers_csv_passes_in_pieces_of_any_size(size):
    text = b'1,\\N,""\n2,"a\nb","c""\n"\n3,"x,\\N,y",z\r\n'
    pieces = [text[i : i + size] for i in range(0, len(text), size)]
    out, rows = through(pieces)
    assert rows == 3
    assert list(export_form.records([out], "\\N")) == [["1", None, ""], ["2", "a\nb", 'c"\n'], ["3", "x,\\N,y", "z"]]
    assert out.startswith(b'1,\\N,""\r\n2,"a\nb"')


@pytest.mark.parametrize("size", [1, 4, 1000])
def test_a_value_that_is_the_word_for_null_is_seen(size):
    for text in (b'"\\N"\n', b'1,"\\N"\n', b'1,"\\N",2\n', b'a\n"\\N",2\n'):
        with pytest.raises(export_form.NullTaken):
            through([text[i : i + size] for i in range(0, len(text), size)])
    assert through([b'"a""\\N""b",",\\N,"\n'])[1] == 1


def test_what_ends_in_the_middle_or_could_not_be_put_together_is_an_error():
    for text in (b'1,"a\n', b"1,2"):
        with pytest.raises(ValueError, match="middle"):
            through([text])
    with pytest.raises(ValueError, match="too large"):
        through([b"1,2\nNULL\n"], refuse_null_row=True)
    for text in (b"1,2\nNULL\n", b'"a"\nNULL\n1,2\n', b"NULL\n"):
        for size in (1, 2, 3, 5):
            with pytest.raises(ValueError, match="too large"):
                through([text[i : i + size] for i in range(0, len(text), size)], refuse_null_row=True)
    quoted = b'N,"ULL"\n"NU","LL"\n"NULL",U\n'
    assert through([quoted[i : i + 1] for i in range(len(quoted))], refuse_null_row=True)[1] == 3
    assert through([b'1,"NULL"\n'], refuse_null_row=True)[1] == 1
    assert not any("NULL" in word for word in export_form.NULLS)


@pytest.mark.parametrize(
    ("engine", "type_name", "kind"),
    [
        ("postgresql", "timestamp with time zone", "datetime"), ("postgresql", "character varying", "string"),
        ("postgresql", "integer[]", "string"), ("postgresql", "bit", "string"), ("mariadb", "bit", "integer"),
        ("postgresql", "double precision", "number"), ("mariadb", "time", "string"), ("mariadb", "longblob", "base64"),
        ("postgresql", "bytea", "base64"), ("postgresql", "jsonb", "string"), ("mariadb", "date", "date"), ("sqlite", "whatever", "string"),
    ],
)  # fmt: skip
def test_types(engine, type_name, kind):
    assert export_form.kind_of(engine, type_name) == kind


def test_fields_say_what_they_are():
    assert export_form.field("a", "base64", "blob") == {"name": "a", "type": "string", "format": "binary", "description": "blob (base64)"}
    assert export_form.field("d", "date", "date", odd=True)["type"] == "string"


def test_a_whole_export_of_values(tmp_path, monkeypatch):
    reader = Memory(t=([("id", "integer"), ("x", "text")], [["1", None], ["2", "=1"]]), **{"../u": ([("id", "integer")], [])})
    stream = io.BytesIO()
    archive = export_zip.Archive(stream, 1700000000)
    export = export_readable.Export(archive, reader, str(tmp_path), "\\N", {"t": 2, "../u": 0})
    export.tables()
    archive.close()
    opened = zipfile.ZipFile(stream)
    assert opened.testzip() is None
    assert opened.read("tables/t.csv") == b"id,x\r\n1,\\N\r\n2,=1\r\n"
    assert all(not name.startswith(("/", "..")) and "/../" not in name for name in opened.namelist())
    assert [one["rowCount"] for one in export.resources] == [0, 2]


@pytest.mark.parametrize(
    ("counts", "words"), [({"t": 3}, "has 2 rows; the proven copy has 3"), ({"t": 2, "more": 1}, "does not see 1 tables")]
)
def test_an_export_that_is_not_the_copy_is_refused(tmp_path, counts, words):
    reader = Memory(t=([("id", "integer")], [["1"], ["2"]]))
    export = export_readable.Export(export_zip.Archive(io.BytesIO(), 1700000000), reader, str(tmp_path), "\\N", counts)
    with pytest.raises(VaultError, match=words):
        export.tables()


def test_sqlite_by_what_its_rows_hold(tmp_path):
    path = str(tmp_path / "x.db")
    with sqlite3.connect(path) as made:
        made.execute("CREATE TABLE t (id integer PRIMARY KEY AUTOINCREMENT, lie integer, f real, b blob, owner int, deleted int)")
        made.executemany(
            "INSERT INTO t VALUES (?, ?, ?, ?, ?, ?)",
            [(1, 5, 0.1, b"\0\xff", 7, 0), (2, "x", None, None, 8, 1), (3, "", 1e999, b"", 9, None)],
        )
        made.execute("CREATE TABLE u (id int PRIMARY KEY, login text)")
        made.execute("INSERT INTO u VALUES (7, 'ann')")
    made.close()

    class Server(object):
        def session_arguments(self, _database):
            return {"database": path}

    reader = export_lite.LiteReader(Server(), path, None, ["t", "u", "sqlite_sequence"])
    table = reader.find("t")
    assert [one.type for one in table.columns] == ["integer", "text", "real", "blob", "integer", "integer"] and table.key == ["id"]
    stream = io.BytesIO()
    archive = export_zip.Archive(stream, 1700000000)
    export = export_readable.Export(archive, reader, str(tmp_path), "\\N", {"t": 3, "u": 1, "sqlite_sequence": 1})
    export.tables()
    owner = {"table": "u", "match": {"id": "owner"}, "columns": ["login"]}
    export.entity("people", {"table": "t", "join": {"owner": owner}, "deleted": {"column": "deleted", "values": ["1"]}}, False)
    archive.close()
    reader.close()
    opened = zipfile.ZipFile(stream)
    assert opened.read("tables/t.csv").split(b"\r\n")[1:4] == [b"1,5,0.1,AP8=,7,0", b"2,x,\\N,\\N,8,1", b"3,,INF,,9,\\N"]
    assert [line.split(b",")[-2:] for line in opened.read("entities/people.csv").split(b"\r\n")[1:4]] == [
        [b"ann", b"false"], [b"\\N", b"true"], [b"\\N", b"false"]]  # fmt: skip
    assert export.rows == 5 and export.entities == {"people": 3}


# --- XLSX ---


def test_sheets_split_and_never_cut_silently(tmp_path):
    import openpyxl

    fields = [{"name": "n", "type": "integer"}, {"name": "t", "type": "string"}]
    sheets = export_xlsx.Sheets(str(tmp_path), "people", fields, limit=2)
    values = [["1", "=1+1"], ["2", None], ["12345678901234567", "http://x.org"], ["-4", ""], ["5", "x" * 40000]]
    for row in values:
        sheets.add(row)
    files = sheets.close()
    assert [(name, count) for name, _path, count in files] == [("people.xlsx", 2), ("people.2.xlsx", 2), ("people.3.xlsx", 1)]
    assert (sheets.rows, sheets.cut) == (5, 1)
    cells = []
    for _name, path, _count in files:
        with open(path, "rb") as stream:
            sheet = openpyxl.load_workbook(io.BytesIO(stream.read())).active
        assert [cell.value for cell in sheet[1]] == ["n", "t"]
        cells += [[cell.value for cell in row] for row in sheet.iter_rows(min_row=2, max_col=2)]
        assert not any(cell.data_type == "f" or cell.hyperlink for row in sheet.iter_rows() for cell in row)
    assert cells[0] == [1, "=1+1"] and cells[2] == ["12345678901234567", "http://x.org"] and cells[3][0] == -4
    assert len(cells[4][1]) <= 32767 and "40000 characters" in cells[4][1]
    assert sorted(os.listdir(str(tmp_path))) == ["sheet-1", "sheet-2", "sheet-3"]


@pytest.mark.parametrize(("kind", "text", "value"), [("integer", "42", 42), ("number", "1.5e300", None), ("string", "42", None),
                                                     ("number", "NaN", None), ("number", "INF", None), ("integer", "1234567890123456", None)])  # fmt: skip
def test_numbers_of_a_sheet_lose_nothing(kind, text, value):
    assert export_xlsx.number(kind, text) == value


# --- entities ---


def test_what_is_not_there_is_named():
    reader = Memory(c=([("id", "integer"), ("name", "text"), ("owner_id", "integer")], []), u=([("id", "integer"), ("login", "text")], []))
    spec = {
        "table": "c",
        "join": {
            "owner": {"table": "u", "match": {"id": "owner_id"}, "columns": ["login", "gone"]},
            "custom": {"table": "c_cstm", "match": {"id_c": "id"}, "columns": "all"},
        },
        "deleted": {"column": "deleted", "values": ["1"]},
    }
    entity = export_entity.Entity(reader, "contacts", spec)
    assert [one["name"] for one in entity.fields] == ["id", "name", "owner_id", "owner.login"]
    assert entity.left_out == ["custom (c_cstm is not there)", "owner.gone is not there", "soft_deleted (base.deleted is not there)"]
    with pytest.raises(export_entity.Absent, match="nothing"):
        export_entity.Entity(reader, "x", {"table": "nothing"})
    with pytest.raises(export_entity.Absent, match=r"base\.kind"):
        export_entity.Entity(reader, "x", {"table": "c", "where": {"kind": ["lead"]}})


def test_a_profiles_words_cannot_become_sql():
    reader = Memory(**{'c" x': ([('i"d', "integer")], [])})
    entity = export_entity.Entity(reader, "x", {"table": 'c" x', "where": {'i"d': ["'; DROP TABLE c; --"]}})
    assert entity.rest == 'FROM "c"" x" AS "base" WHERE CAST("base"."i""d" AS text) IN (\'\'\'; DROP TABLE c; --\')'


# --- pairs ---


def test_paths_of_rows():
    values = {"path": "storage/2024/", "id": "7", "source_id": None, "name": "a b"}
    assert export_pair.filled("{path}{id}_{stored?|name}", values) == "storage/2024/7_a b"
    assert export_pair.filled("{source_id|id}", values) == "7"
    assert export_pair.filled("{source_id}", values) is None
    assert export_pair.columns_of("{a}{b?|c}") == ["a", "b?", "c"]
    assert export_pair.normal("storage//2024/./x", "storage/") == b"2024/x"
    assert export_pair.normal("/../../etc/passwd") == b"../../etc/passwd"


def test_rows_against_files():
    wanted = [("t", b"a"), ("t", b"a"), ("t", b"gone"), ("u", b"gone"), ("t", b"d/b")]
    found = export_pair.Compared(wanted, {b"a", b"d/b", b"stray", b"d/thumbs/x", b"\xff"}, ["*/thumbs/*"])
    assert (found.rows, found.files, found.missing, found.orphans) == (5, 5, [("t", b"gone")], [b"stray", b"\xff"])
    text = {name: b"".join(chunks) for name, chunks in export_pair.lists([("filestore:f", found)]).items()}
    assert text["pairs/missing.csv"] == b"filestore,table,path\r\nfilestore:f,t,gone\r\n"
    assert text["pairs/orphans.csv"].endswith(b"stray\r\nfilestore:f,\\xff\r\n")


def test_names_of_a_manifest_in_pieces():
    lines = [{"path": ".", "type": "directory"}, {"path": "upload/a", "type": "file"}, {"path_b64": "dXBsb2FkL/8=", "type": "file"}, {"path": "cache/x", "type": "file"}]  # fmt: skip
    text = b"".join(json.dumps(one).encode("ascii") + b"\n" for one in lines)
    names = export_pair.Names("upload/")
    for place in range(0, len(text), 5):
        names(text[place : place + 5])
    assert names.finish() == {b"a", b"\xff"}
    with pytest.raises(VaultError, match="no manifest"):
        export_pair.Names()(b'{"path": 1}\n')


def test_a_link_is_a_file_where_it_leads_to_one_of_the_same_store():
    """Links are archived as links: an attachment that lies elsewhere and is only linked to is in no copy."""
    store = {
        "up/a": None, "up/near": "a", "up/again": "near", "up/d/back": "../a", "up/through": "./d/../near",
        "up/nas": "/mnt/nas/4711", "up/out": "../../etc/passwd", "up/gone": "never", "up/round": "round2", "up/round2": "round",
        "up/folder": "d", "up/in": "folder/back", "up/whole": ".", "up/d/deep/b": None, "up/deep": "d/deep",
        # ".." is of the place that the link before it leads to; through a folder that is not there leads no way.
        "up/truly": "deep/../back", "up/seemingly": "deep/../a", "up/nowhere": "none/../a", "up/file": "a/../a",
        # A target that is said by its whole path is inside where that is the store's own.
        "up/whole path": "/srv/crm/up/a", "up/odd path": "/srv//./crm/up/folder/../a", "up/beside": "/srv/crm2/up/a",
        "up/away": "/srv/crm/../crm2/a", "up/back in": "/srv/crm/up/d/../a", "up/over": "/srv/other/../crm/up/a", "up/root": "/srv/crm",
    }  # fmt: skip

    def found(root):
        names = export_pair.Names("up/", root)
        for path in ["up", "up/d", "up/d/deep"]:
            names(json.dumps({"path": path, "type": "directory"}).encode() + b"\n")
        for path, target in store.items():
            entry = {"path": path, "type": "symlink", "target": target} if target else {"path": path, "type": "file"}
            names(json.dumps(entry).encode() + b"\n")
        return names.finish()

    inside = {b"a", b"d/deep/b", b"near", b"again", b"d/back", b"through", b"in", b"truly"}
    assert found("") == inside
    assert found("/srv/crm/") == inside | {b"whole path", b"odd path", b"back in"}


@pytest.mark.parametrize(
    "rows, files, told", [([], {b"a", b"b"}, 1), ([], set(), 0), ([], {b"d/thumbs/x"}, 0), ([("t", b"a")], {b"a", b"b"}, 0)]
)
def test_files_of_which_no_row_speaks_are_no_pair(rows, files, told):
    reasons = export_pair.unrelated(export_pair.Compared(rows, files, ["*/thumbs/*"]))
    assert len(reasons) == told and all("2 files are there" in reason for reason in reasons)


@pytest.mark.parametrize(
    ("missing", "incomplete", "word"), [(0, False, "paired"), (1, False, "unpaired"), (1, True, "unpaired"), (0, True, "unknown")]
)
def test_verdict_of_a_pair(missing, incomplete, word):
    assert export_pair.verdict(missing, incomplete) == word


# --- allowed differences ---


def test_only_other_content_of_a_listed_table_is_allowed():
    def one(name, what, kind="table"):
        return {"kind": kind, "name": name, "what": what, "derived": False}

    told = [one("public.ir_config_parameter", "content"), one("ir_config_parameter", "rows"), one("public.res_users", "content"),
            one("public.ir_config_parameter", "definition", "relation"), one("other.ir_config_parameter", "content")]  # fmt: skip
    rest, allowed = proof_run.allow(told, ["ir_config_parameter"])
    assert allowed == ["ir_config_parameter"] and rest == told[1:]
    assert proof_run.question("postgresql", [], {}) != proof_run.question("postgresql", [], {}, ["x"])


RULE = {"table": "ir_config_parameter", "where": {"key": ["database.uuid"]}}


def test_a_rule_allows_its_rows_and_nothing_else_of_the_table():
    told = [{"kind": "table", "name": "public.ir_config_parameter", "what": "content", "derived": False}]

    def side(total, rule=RULE):
        return {"apart": {"public.ir_config_parameter": {"rule": rule, "hash": total}}}

    rest, allowed = proof_run.allow(told, [RULE], side("7"), side("7"))
    assert rest == [] and allowed == ["ir_config_parameter (rows where key is database.uuid)"]
    other = dict(RULE, where={"key": ["x"]})
    for wanted, copy in ((side("7"), side("8")), ({}, {}), (side("7"), {}), ({}, side("7")), (side("7", other), side("7", other))):
        assert proof_run.allow(told, [RULE], wanted, copy) == (told, [])
    rows = [dict(told[0], what="rows")]
    assert proof_run.allow(rows, [RULE], side("7"), side("7")) == (rows, [])
    assert proof_run.question("sqlite", [], {}, [RULE, "b", "a"]) == proof_run.question("sqlite", [], {}, ["a", RULE, "b"])


def test_the_verdict_says_what_it_does_not_stand_for():
    stale = {"kind": "materialized view", "name": "app.mv", "what": "rows", "derived": True}
    assert proof_run.depth([], []) == proof_run.DEPTH
    told = proof_run.depth([stale, {"kind": "role", "name": "x", "what": "only in the copy", "derived": True}], ["conf"])
    assert told.endswith(
        "; allowed to differ in content: conf; filled anew, with other rows than at the source: the materialized views app.mv"
    )


@pytest.mark.parametrize(
    "wrong",
    ["t", [1], [""], [{"table": "t"}], [{"where": {"a": ["b"]}}], [{"table": "t", "where": {"a": "b"}}], [{"table": "t", "where": {"a": []}}],
     [{"table": "t", "columns": "a"}], [{"table": "t", "columns": [1]}], [{"table": "t", "columns": ["a"], "rows": 1}]],
)  # fmt: skip
def test_rules_that_cannot_be_meant(wrong):
    assert fingerprint_apart.problem(wrong)


def test_sqlite_hashes_a_table_without_what_may_differ(tmp_path):
    path = str(tmp_path / "a.db")
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE conf (k TEXT, v TEXT, at TEXT)")
    connection.executemany("INSERT INTO conf VALUES (?, ?, ?)", [("uuid", "1", "x"), ("name", "n", "x"), (None, "z", "x")])
    connection.commit()

    def seen(rule, *changes):
        for sql in changes:
            connection.execute(sql)
        connection.commit()
        with fingerprint_engines.open_session("sqlite", path) as session:
            return fingerprint_engines.take("sqlite", session, path, apart=[dict(rule, table="conf")])

    row, column, both = {"where": {"k": ["uuid"]}}, {"columns": ["at"]}, {"where": {"k": ["uuid"]}, "columns": ["v"]}
    for rule, allowed, other in (
        (row, "UPDATE conf SET v = v || '1' WHERE k = 'uuid'", "UPDATE conf SET v = v || '1' WHERE k = 'name'"),
        (row, "UPDATE conf SET at = at || '1' WHERE k = 'uuid'", "UPDATE conf SET v = v || '1' WHERE k IS NULL"),
        (column, "UPDATE conf SET at = at || '2'", "UPDATE conf SET v = v || '2' WHERE k = 'uuid'"),
        (both, "UPDATE conf SET v = v || '3' WHERE k = 'uuid'", "UPDATE conf SET at = at || '3' WHERE k = 'uuid'"),
        (both, "UPDATE conf SET v = v || '4' WHERE k = 'uuid'", "UPDATE conf SET v = v || '4' WHERE k = 'name'"),
    ):
        before, after = seen(rule), seen(rule, allowed)
        assert before["tables"] != after["tables"] and before["apart"] == after["apart"]
        assert proof_run.allow(fingerprint_engines.compare(before, after), [dict(rule, table="conf")], before, after)[0] == []
        worse = seen(rule, other)
        assert worse["apart"] != after["apart"]
        assert len(proof_run.allow(fingerprint_engines.compare(after, worse), [dict(rule, table="conf")], after, worse)[0]) == 1
        assert fingerprint_engines.digest(worse) != fingerprint_engines.digest(after)
    assert seen({"where": {"gone": ["x"]}})["apart"] == {} and seen({"columns": ["gone"]})["apart"] == {}
    connection.close()


def test_options_are_checked_before_any_work(monkeypatch):
    with pytest.raises(VaultError, match="readable has entitys"):
        export_readable.check({"entitys": {}})
    monkeypatch.setitem(sys.modules, "xlsxwriter", None)
    with pytest.raises(VaultError, match="python3-xlsxwriter"):
        export_readable.check({"entities": {"a": {}}})
    export_readable.check({"entities": {"a": {}}, "xlsx": False})
    export_readable.check({})


@pytest.mark.parametrize(("when", "year"), [(0, 1980), (1700000000, 2023), (17e9, 2107)])
def test_a_clock_that_stands_in_no_year_of_the_format(when, year):
    stream = io.BytesIO()
    archive = export_zip.Archive(stream, when)
    archive.member("a.csv", [b"x"])
    archive.text("b", b"y")
    archive.close()
    with zipfile.ZipFile(stream) as opened:
        assert opened.testzip() is None and {one.date_time[0] for one in opened.infolist()} == {year}
