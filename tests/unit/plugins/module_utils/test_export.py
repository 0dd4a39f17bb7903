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

from ansible_collections.sunset.crm.plugins.module_utils import (
    _export,
    _export_entity,
    _export_lite,
    _export_sql,
    _export_xlsx,
    _export_zip,
    _pair,
    _vault_prove,
    _vault_readable,
)
from ansible_collections.sunset.crm.plugins.module_utils._vault import VaultError


class Memory(_export_sql.Reader):
    """An engine that hands over values: tables as lists of rows."""

    engine = "sqlite"

    def __init__(self, **tables):
        self.data = tables

    def tables(self):
        return [
            _export_sql.Table(name, name, [_export_sql.Column(*one) for one in columns], [columns[0][0]], self.quote(name))
            for name, (columns, _rows) in sorted(self.data.items())
        ]

    def select_rows(self, cells, rest):
        name = rest.split('"')[1]
        columns, rows = self.data[name]
        names = [one[0] for one in columns]
        return [[row[names.index(cell.sql.split('"')[-2])] for cell in cells] for row in rows]


def through(chunks, null="\\N", **more):
    stream = _export.CsvStream(chunks, null, **more)
    return b"".join(stream), stream.rows


def test_names_of_files_are_safe_and_unique():
    used = set()
    names = ["accounts", "Accounts", "../../etc/passwd", "a/b", "a\\b", "", "..", "con", "NUL.x", "x" * 300, "ünï\nline", "-rf", "accounts"]
    stems = [_export.safe_stem(name, used) for name in names]
    assert stems[0] == "accounts" and len(set(stems)) == len(names)
    for stem in stems:
        assert _export.re.match(r"^[a-z0-9][a-z0-9._-]*$", stem) and len(stem) < 100 and ".." not in stem
        assert not _export.RESERVED.match(stem)


def test_csv_keeps_null_and_empty_apart():
    assert _export.csv_line(["a", "", None, 'q"u', "x,y", "l\n"], "\\N") == b'a,,\\N,"q""u","x,y","l\n"\r\n'
    assert _export.csv_line([""], "\\N") == b'""\r\n'
    with pytest.raises(_export.NullTaken):
        _export.csv_line(["\\N"], "\\N")


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_a_servers_csv_passes_in_pieces_of_any_size(size):
    text = b'1,\\N,""\n2,"a\nb","c""\n"\n3,"x,\\N,y",z\r\n'
    pieces = [text[i : i + size] for i in range(0, len(text), size)]
    out, rows = through(pieces)
    assert rows == 3
    assert list(_export.records([out], "\\N")) == [["1", None, ""], ["2", "a\nb", 'c"\n'], ["3", "x,\\N,y", "z"]]
    assert out.startswith(b'1,\\N,""\r\n2,"a\nb"')


@pytest.mark.parametrize("size", [1, 4, 1000])
def test_a_value_that_is_the_word_for_null_is_seen(size):
    for text in (b'"\\N"\n', b'1,"\\N"\n', b'1,"\\N",2\n', b'a\n"\\N",2\n'):
        with pytest.raises(_export.NullTaken):
            through([text[i : i + size] for i in range(0, len(text), size)])
    assert through([b'"a""\\N""b",",\\N,"\n'])[1] == 1


def test_what_ends_in_the_middle_or_could_not_be_put_together_is_an_error():
    for text in (b'1,"a\n', b"1,2"):
        with pytest.raises(ValueError, match="middle"):
            through([text])
    with pytest.raises(ValueError, match="too large"):
        through([b"1,2\nNULL\n"], refuse_null_row=True)
    assert through([b'1,"NULL"\n'], refuse_null_row=True)[1] == 1
    assert not any("NULL" in word for word in _export.NULLS)


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
    assert _export.kind_of(engine, type_name) == kind


def test_fields_say_what_they_are():
    assert _export.field("a", "base64", "blob") == {"name": "a", "type": "string", "format": "binary", "description": "blob (base64)"}
    assert _export.field("d", "date", "date", odd=True)["type"] == "string"


def test_a_whole_export_of_values(tmp_path, monkeypatch):
    reader = Memory(t=([("id", "integer"), ("x", "text")], [["1", None], ["2", "=1"]]), **{"../u": ([("id", "integer")], [])})
    stream = io.BytesIO()
    archive = _export_zip.Archive(stream, 1700000000)
    export = _vault_readable.Export(archive, reader, str(tmp_path), "\\N", {"t": 2, "../u": 0})
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
    export = _vault_readable.Export(_export_zip.Archive(io.BytesIO(), 1700000000), reader, str(tmp_path), "\\N", counts)
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

    reader = _export_lite.LiteReader(Server(), path, None, ["t", "u", "sqlite_sequence"])
    table = reader.find("t")
    assert [one.type for one in table.columns] == ["integer", "text", "real", "blob", "integer", "integer"] and table.key == ["id"]
    stream = io.BytesIO()
    archive = _export_zip.Archive(stream, 1700000000)
    export = _vault_readable.Export(archive, reader, str(tmp_path), "\\N", {"t": 3, "u": 1, "sqlite_sequence": 1})
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
    sheets = _export_xlsx.Sheets(str(tmp_path), "people", fields, limit=2)
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
    assert _export_xlsx.number(kind, text) == value


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
    entity = _export_entity.Entity(reader, "contacts", spec)
    assert [one["name"] for one in entity.fields] == ["id", "name", "owner_id", "owner.login"]
    assert entity.left_out == ["custom (c_cstm is not there)", "owner.gone is not there", "soft_deleted (base.deleted is not there)"]
    with pytest.raises(_export_entity.Absent, match="nothing"):
        _export_entity.Entity(reader, "x", {"table": "nothing"})
    with pytest.raises(_export_entity.Absent, match=r"base\.kind"):
        _export_entity.Entity(reader, "x", {"table": "c", "where": {"kind": ["lead"]}})


def test_a_profiles_words_cannot_become_sql():
    reader = Memory(**{'c" x': ([('i"d', "integer")], [])})
    entity = _export_entity.Entity(reader, "x", {"table": 'c" x', "where": {'i"d': ["'; DROP TABLE c; --"]}})
    assert entity.rest == 'FROM "c"" x" AS "base" WHERE CAST("base"."i""d" AS text) IN (\'\'\'; DROP TABLE c; --\')'


# --- pairs ---


def test_paths_of_rows():
    values = {"path": "storage/2024/", "id": "7", "source_id": None, "name": "a b"}
    assert _pair.filled("{path}{id}_{stored?|name}", values) == "storage/2024/7_a b"
    assert _pair.filled("{source_id|id}", values) == "7"
    assert _pair.filled("{source_id}", values) is None
    assert _pair.columns_of("{a}{b?|c}") == ["a", "b?", "c"]
    assert _pair.normal("storage//2024/./x", "storage/") == b"2024/x"
    assert _pair.normal("/../../etc/passwd") == b"../../etc/passwd"


def test_rows_against_files():
    wanted = [("t", b"a"), ("t", b"a"), ("t", b"gone"), ("u", b"gone"), ("t", b"d/b")]
    found = _pair.Compared(wanted, {b"a", b"d/b", b"stray", b"d/thumbs/x", b"\xff"}, ["*/thumbs/*"])
    assert (found.rows, found.files, found.missing, found.orphans) == (5, 5, [("t", b"gone")], [b"stray", b"\xff"])
    text = {name: b"".join(chunks) for name, chunks in _pair.lists([("filestore:f", found)]).items()}
    assert text["pairs/missing.csv"] == b"filestore,table,path\r\nfilestore:f,t,gone\r\n"
    assert text["pairs/orphans.csv"].endswith(b"stray\r\nfilestore:f,\\xff\r\n")


def test_names_of_a_manifest_in_pieces():
    lines = [{"path": ".", "type": "directory"}, {"path": "upload/a", "type": "file"}, {"path_b64": "dXBsb2FkL/8=", "type": "file"}, {"path": "cache/x", "type": "file"}]  # fmt: skip
    text = b"".join(json.dumps(one).encode("ascii") + b"\n" for one in lines)
    names = _pair.Names("upload/")
    for place in range(0, len(text), 5):
        names(text[place : place + 5])
    assert names.finish() == {b"a", b"\xff"}
    with pytest.raises(VaultError, match="no manifest"):
        _pair.Names()(b'{"path": 1}\n')


@pytest.mark.parametrize(
    ("missing", "incomplete", "word"), [(0, False, "paired"), (1, False, "unpaired"), (1, True, "unpaired"), (0, True, "unknown")]
)
def test_verdict_of_a_pair(missing, incomplete, word):
    assert _pair.verdict(missing, incomplete) == word


# --- allowed differences ---


def test_only_other_content_of_a_listed_table_is_allowed():
    def one(name, what, kind="table"):
        return {"kind": kind, "name": name, "what": what, "derived": False}

    told = [one("public.ir_config_parameter", "content"), one("ir_config_parameter", "rows"), one("public.res_users", "content"),
            one("public.ir_config_parameter", "definition", "relation"), one("other.ir_config_parameter", "content")]  # fmt: skip
    rest, allowed = _vault_prove.allow(told, ["ir_config_parameter"])
    assert allowed == ["ir_config_parameter"] and rest == told[1:]
    assert _vault_prove.question("postgresql", [], {}) != _vault_prove.question("postgresql", [], {}, ["x"])


def test_options_are_checked_before_any_work(monkeypatch):
    with pytest.raises(VaultError, match="readable has entitys"):
        _vault_readable.check({"entitys": {}})
    monkeypatch.setitem(sys.modules, "xlsxwriter", None)
    with pytest.raises(VaultError, match="python3-xlsxwriter"):
        _vault_readable.check({"entities": {"a": {}}})
    _vault_readable.check({"entities": {"a": {}}, "xlsx": False})
    _vault_readable.check({})
