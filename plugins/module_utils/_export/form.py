# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a readable export looks like: names of files, CSV, types of columns, the descriptor. Pure.

Private to the collection. Valid for Python 3.6, standard library. CSV is RFC 4180 in UTF-8 with a header. NULL is a word of
its own (the schema's missingValues), the empty string is nothing between two commas or two quotes.
"""

import csv
import hashlib
import io
import re
from typing import Any, Dict, Iterable, Iterator, List, Optional, Sequence, Set, Tuple  # noqa: F401

# Tried one after another: a table that really holds the word as a value makes the whole export begin again with the next.
# None holds the letters that a client prints for a row it has no text for.
NULLS = ("\\N", "\\N-nil", "\\N-0b5e7a41c9")
NAME_LENGTH = 80
# Windows takes these for devices, with any extension.
RESERVED = re.compile(r"^(con|prn|aux|nul|com[0-9]|lpt[0-9])(\.|$)")

csv.field_size_limit((1 << 31) - 1)


class NullTaken(Exception):
    """A value is the very word that stands for NULL."""


def safe_stem(name, used):
    # type: (str, Set[str]) -> str
    """A file name without extension for a table called name: portable, unique without regard to case, never out of its folder.

    A name that had to be changed carries a digest of the real one, so two tables never share a file.
    """
    plain = re.sub(r"[^a-z0-9._-]", "_", name.lower())[:NAME_LENGTH].strip(".-_") or "table"
    # A device is one whatever stands behind the first dot, so the name must begin otherwise.
    stem = plain = "t-" + plain if RESERVED.match(plain) else plain
    if plain != name or plain in used:
        stem = "%s-%s" % (plain, hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:8])
    number = 2
    while stem in used:
        stem = "%s-%d" % (stem, number)
        number += 1
    used.add(stem)
    return stem


def csv_line(values, null=None):
    # type: (Sequence[Optional[str]], Optional[str]) -> bytes
    """One record. With null given, None becomes that word and a value that is the word raises NullTaken."""
    if null is not None:
        if null in values:
            raise NullTaken(null)
        values = [null if value is None else value for value in values]
    stream = io.StringIO()
    if len(values) == 1 and values[0] == "":
        return b'""\r\n'  # else the record would be an empty line, which readers skip
    csv.writer(stream, lineterminator="\r\n").writerow(values)
    return stream.getvalue().encode("utf-8", "surrogateescape")


def csv_of_rows(rows, null):
    # type: (Iterable[Sequence[Optional[str]]], str) -> Iterator[bytes]
    """CSV chunks of an engine that hands over values."""
    pending, size = [], 0
    for row in rows:
        line = csv_line(row, null)
        pending.append(line)
        size += len(line)
        if size >= 1 << 18:
            yield b"".join(pending)
            pending, size = [], 0
    if pending:
        yield b"".join(pending)


class CsvStream(object):
    """Passes a server's own CSV through: counts its records, turns their ends into CR LF, watches for what would be ambiguous.

    Memory is one chunk: text in quotes may be of any length.
    """

    def __init__(self, chunks, null, refuse_null_row=False):
        # type: (Iterable[bytes], str, bool) -> None
        self.chunks, self.refuse_null_row = chunks, refuse_null_row
        word = null.encode("ascii")
        self.taken = re.compile(b'[,\n]"' + re.escape(word) + b'"(?=[,\n\r])')
        self.overlap = len(word) + 4
        self.rows = 0

    def __iter__(self):
        # type: () -> Iterator[bytes]
        inside, tail, last, edge = 0, b"\n", b"\n", b""
        for chunk in self.chunks:
            if not chunk:
                continue
            seen = tail + chunk
            if self.taken.search(seen):
                raise NullTaken()
            tail = seen[-self.overlap :]
            parts = chunk.split(b'"')
            for number in range(inside, len(parts), 2):
                part = parts[number]
                ends = part.count(b"\n")
                if ends:
                    self.rows += ends
                    parts[number] = part.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
                if self.refuse_null_row:
                    # The word may begin in one chunk and end in the next.
                    if b"NULL" in (edge if number == 0 else b"") + part:
                        raise ValueError("a row is too large for the server to put together")
                    edge = ((edge if number == 0 else b"") + part)[-3:] if number == len(parts) - 1 else b""
            inside = (inside + len(parts) - 1) % 2
            last = chunk[-1:]
            yield b'"'.join(parts)
        if inside or last != b"\n":
            raise ValueError("the rows end in the middle of a record")


def records(chunks, null):
    # type: (Iterable[bytes], str) -> Iterator[List[Optional[str]]]
    """The records of CSV chunks; None for NULL."""
    for row in csv.reader(_lines(chunks)):
        yield [None if value == null else value for value in row]


def _lines(chunks):
    # type: (Iterable[bytes]) -> Iterator[str]
    rest = b""
    for chunk in chunks:
        if b"\n" not in chunk:
            rest += chunk
            continue
        lines = (rest + chunk).split(b"\n")
        rest = lines.pop()
        for line in lines:
            yield line.decode("utf-8", "replace") + "\n"
    if rest:
        yield rest.decode("utf-8", "replace")


# --- types ---------------------------------------------------------------------------------------------------------

INTEGER, NUMBER, BOOLEAN, DATE, DATETIME, STRING, BASE64 = "integer", "number", "boolean", "date", "datetime", "string", "base64"

_TYPES = {
    INTEGER: "smallint integer bigint oid tinyint mediumint int year bit",
    NUMBER: "numeric real double decimal float",
    BOOLEAN: "boolean",
    DATE: "date",
    DATETIME: "timestamp datetime",
    BASE64: "bytea binary varbinary tinyblob blob mediumblob longblob geometry point linestring polygon multipoint multilinestring "
    "multipolygon geometrycollection geomcollection vector",
}
_KIND = {word: kind for kind, words in _TYPES.items() for word in words.split()}
# The same word is another type there.
_KIND_OF_ENGINE = {"postgresql": {"bit": STRING, "point": STRING, "polygon": STRING}}  # type: Dict[str, Dict[str, str]]


def kind_of(engine, type_name):
    # type: (str, str) -> str
    """The kind of a column from the server's name of its type; whatever is not known is text."""
    if type_name.endswith("[]"):
        return STRING
    word = re.split(r"[ (]", type_name.lower(), maxsplit=1)[0]
    return _KIND_OF_ENGINE.get(engine, {}).get(word) or _KIND.get(word, STRING)


def field(name, kind, type_name, odd=False):
    # type: (str, str, str, bool) -> Dict[str, Any]
    """A field of the Table Schema."""
    if odd:
        return {"name": name, "type": "string", "description": "%s; holds values that no calendar has" % type_name}
    found = {"name": name, "type": STRING if kind == BASE64 else kind}
    if kind == BASE64:
        found["format"] = "binary"
    if type_name:
        found["description"] = type_name + (" (base64)" if kind == BASE64 else "")
    return found


# --- descriptor ----------------------------------------------------------------------------------------------------


def resource(stem, path, title, fields, null, facts, key=(), foreign=()):
    # type: (str, str, str, List[Dict[str, Any]], str, Dict[str, Any], Sequence[str], Sequence[Dict[str, Any]]) -> Dict[str, Any]
    """One CSV in the descriptor. facts: bytes, sha256, rows."""
    schema = {"fields": fields, "missingValues": [null]}  # type: Dict[str, Any]
    if key:
        schema["primaryKey"] = list(key)
    if foreign:
        schema["foreignKeys"] = list(foreign)
    return {
        "profile": "tabular-data-resource",
        "name": stem,
        "path": path,
        "title": title,
        "format": "csv",
        "mediatype": "text/csv",
        "encoding": "utf-8",
        "bytes": facts["bytes"],
        "hash": "sha256:" + facts["sha256"],
        "dialect": {"delimiter": ",", "quoteChar": '"', "doubleQuote": True, "lineTerminator": "\r\n", "header": True},
        "schema": schema,
        "rowCount": facts["rows"],
    }


def foreign_keys(found, stems):
    # type: (Iterable[Tuple[List[str], str, List[str]]], Dict[str, str]) -> List[Dict[str, Any]]
    """Foreign keys whose other table is in the export."""
    return [
        {"fields": columns, "reference": {"resource": stems[other], "fields": others}} for columns, other, others in found if other in stems
    ]


def package(name, title, created, resources, more):
    # type: (str, str, str, List[Dict[str, Any]], Dict[str, Any]) -> Dict[str, Any]
    return dict(
        {"profile": "tabular-data-package", "name": name.lower(), "title": title, "created": created, "resources": resources}, sunset=more
    )


README = """{title}
{line}

This archive holds every row of every table of a database as plain text, so that it can be read without the application and
without a database server. Large objects, views and computed columns are not in it; they are in the dump. It was written from a copy that had been restored from the stored dump and compared with the source.
The dump beside it in the package is the original; this is the readable form.

tables/      one CSV file a table, all rows, also those that the application calls deleted
entities/    the application's own records joined with their owners and custom fields, as CSV and (where asked for) as XLSX
pairs/       attachments that have no file, and files that no attachment knows (where they were compared)
datapackage.json   names, types, keys, row counts and SHA-256 of every CSV file (Data Package v1, Table Schema of
             Frictionless; https://specs.frictionlessdata.io). "title" is the real name of a table, "path" its file.

How values are written
  Encoding UTF-8, RFC 4180: comma, double quotes, line ends CR LF, a header line.
  NULL is the word {null} without anything else; an empty value is the empty string. The word is no value in this export.
  Binary values are base64 (format "binary" in the schema). Dates and times are ISO 8601; times with a zone are in UTC (Z).
  A column with dates that no calendar has (0000-00-00, infinity) is of type string and says so. JSON and arrays stand as text.
  FLOAT is written so that reading it back gives the same number.
  soft_deleted in entities/: true for records that the application shows as deleted, in its trash or archived.
{notes}
WARNING. The values are what people and machines wrote into the application; they were not changed. A cell that begins
with = + - @ may be a formula to a spreadsheet program that opens a CSV file. Import CSV files with all columns as text,
or open the XLSX files: there every cell is text or a number, never a formula or a link.
"""


def readme(title, null, notes):
    # type: (str, str, List[str]) -> str
    told = "".join("  %s\n" % note for note in notes)
    return README.format(title=title, line="=" * len(title), null=null, notes=("\nNotes\n" + told) if told else "")
