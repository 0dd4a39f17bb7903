# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The readable export of a database: written while the proven copy is up, one encrypted ZIP in the package.

Private to the collection. Valid for Python 3.6. Row counts must be those of the fingerprint, table by table, else there is none.
"""

import glob
import json
import os
import time
from typing import Any, Callable, Dict, Iterable, Iterator, List, Optional, Tuple  # noqa: F401

from ansible_collections.sunset.crm.plugins.module_utils._export import (
    entity as export_entity,
    form as export_form,
    sql as export_sql,
    xlsx as export_xlsx,
    zip as export_zip,
)
from ansible_collections.sunset.crm.plugins.module_utils._vault.state import (  # noqa: F401
    DATA,
    KEYS,
    RECIPIENTS,
    Package,
    VaultError,
    item_slug,
    make_directory,
    read_record,
    sha256_file,
    write_record,
)
from ansible_collections.sunset.crm.plugins.module_utils._vault.stream import publish

FOLDER = "readable"
SUFFIX = ".readable.json"
# Tables whose rows have no column at all still have rows.
NO_COLUMNS = ({"name": "row", "type": "integer", "description": "the table has no columns"}, export_sql.Cell("1", True))


# --- where it is, and whether it is whole ---


def path(package, item):
    # type: (Package, str) -> str
    return os.path.join(package.data, FOLDER, item_slug(item) + ".zip.age")


def record_path(package, item):
    # type: (Package, str) -> str
    return os.path.join(package.state_dir, item_slug(item) + SUFFIX)


def records(package):
    # type: (Package) -> List[Dict[str, Any]]
    """Records of all readable exports in the package; C(file) is relative to its data directory."""
    found = [read_record(one) for one in sorted(glob.glob(os.path.join(glob.escape(package.state_dir), "*" + SUFFIX)))]
    return [one for one in found if one]


def identity_of(package, item):
    # type: (Package, str) -> str
    """The identity that opens the data set opens its export."""
    stored = (read_record(package.stored_path(item)) or {}).get("artefacts", [])
    return KEYS if any(entry.get("identity") == KEYS for entry in stored) else DATA


def wanted(readable):
    # type: (Dict[str, Any]) -> bool
    return bool(readable.get("tables", True) or readable.get("entities"))


def state(package, item, asked):
    # type: (Package, str, str) -> str
    """absent, another, damaged or whole: the file is read to its end."""
    record = read_record(record_path(package, item))
    if not record or not os.path.isfile(path(package, item)):
        return "absent"
    if record.get("asked") != asked:
        return "another"
    whole = sha256_file(path(package, item)) == (record["cipher_sha256"], record["cipher_bytes"])
    return "whole" if whole else "damaged"


def told(record):
    # type: (Dict[str, Any]) -> Dict[str, Any]
    """What the ledger may know of an export."""
    keys = (
        "file",
        "cipher_sha256",
        "cipher_bytes",
        "plain_sha256",
        "plain_bytes",
        "tables",
        "rows",
        "entities",
        "absent",
        "left_out",
        "xlsx",
    )
    return {key: record[key] for key in keys}


def check(readable):
    # type: (Dict[str, Any]) -> None
    """Before any work begins: what the export needs is there."""
    unknown = sorted(set(readable) - {"tables", "entities", "xlsx", "product", "title"})
    if unknown:
        raise VaultError("readable has %s; known are tables, entities, xlsx, product, title" % ", ".join(unknown))
    if readable.get("entities") and readable.get("xlsx", True):
        export_xlsx.library()


# --- making it ---


class Export(object):
    """One attempt. null: the word for NULL; a value that is the word raises NullTaken."""

    def __init__(self, archive, reader, scratch, null, counts):
        # type: (export_zip.Archive, export_sql.Reader, str, str, Dict[str, int]) -> None
        self.archive, self.reader, self.scratch, self.null, self.counts = archive, reader, scratch, null, counts
        self.resources = []  # type: List[Dict[str, Any]]
        self.sheets = []  # type: List[Dict[str, Any]]
        self.notes = []  # type: List[str]
        self.rows = 0
        self.entities = {}  # type: Dict[str, int]
        self.absent = []  # type: List[str]
        self.left_out = {}  # type: Dict[str, List[str]]

    def _csv(self, place, fields, cells, rest, see=None):
        # type: (str, List[Dict[str, Any]], List[export_sql.Cell], str, Optional[Any]) -> Dict[str, Any]
        """One CSV member. see: takes every record (for XLSX) as it passes."""
        stream = export_form.CsvStream(self.reader.select_csv(cells, rest, self.null), self.null, self.reader.tells_null_rows)

        def chunks():
            # type: () -> Iterator[bytes]
            yield export_form.csv_line([one["name"] for one in fields])
            for chunk in stream:
                yield chunk

        def parsed():
            # type: () -> Iterator[bytes]
            source = chunks()
            yield next(source)
            lines = Tee(source)
            for row in export_form.records(lines, self.null):
                see.add(row)  # type: ignore[union-attr]
                for chunk in lines.taken():
                    yield chunk
            for chunk in lines.taken():
                yield chunk

        try:
            sha256, size = self.archive.member(place, parsed() if see else chunks())
        except ValueError as exc:
            raise VaultError("%s: %s" % (place, exc), verdict="unknown")
        return {"sha256": sha256, "bytes": size, "rows": stream.rows}

    def tables(self):
        # type: () -> None
        found = self.reader.tables()
        lacking = sorted(set(self.counts) - {one.name for one in found})
        if lacking:
            raise VaultError("the export does not see %d tables of the copy, the first: %s" % (len(lacking), lacking[0]), verdict="unknown")
        used = set()  # type: Any
        stems = {one.name: export_form.safe_stem(one.bare, used) for one in found}
        foreign = self.reader.foreign_keys()
        for table in found:
            odd = self.reader.odd_dates(table)
            fields = [
                export_form.field(one.name, export_form.kind_of(self.reader.engine, one.type), one.type, one.name in odd)
                for one in table.columns
            ]
            cells = [self.reader.cell(self.reader.quote(one.name), one.type) for one in table.columns]
            if not fields:
                fields, cells = [NO_COLUMNS[0]], [NO_COLUMNS[1]]
            stem = stems[table.name]
            place = "tables/%s.csv" % stem
            facts = self._csv(place, fields, cells, "FROM " + table.source)
            if facts["rows"] != self.counts[table.name]:
                raise VaultError(
                    "the readable export of the table %s has %d rows; the proven copy has %d; no export was kept; this is a fault of the "
                    "export, report it" % (table.name, facts["rows"], self.counts[table.name]),
                    verdict="unknown",
                )
            self.rows += facts["rows"]
            keys = export_form.foreign_keys(foreign.get(table.name, []), stems)
            self.resources.append(export_form.resource(stem, place, table.name, fields, self.null, facts, table.key, keys))
        self.stems = used

    def entity(self, name, spec, xlsx):
        # type: (str, Dict[str, Any], bool) -> None
        try:
            entity = export_entity.Entity(self.reader, name, spec)
        except export_entity.Absent as exc:
            self.absent.append(name)
            self.notes.append("The entity %s is absent: this database has no %s." % (name, exc))
            return
        expected = entity.expected()
        stem, place = "entity-" + name, "entities/%s.csv" % name
        sheets = export_xlsx.Sheets(self.scratch, name, entity.fields) if xlsx else None
        facts = self._csv(place, entity.fields, entity.cells, entity.rest, sheets)
        if facts["rows"] != expected or (sheets and sheets.rows != expected):
            raise VaultError(
                "the entity %s came out with %d records; the copy has %d; no export was kept" % (name, facts["rows"], expected),
                verdict="unknown",
            )
        self.entities[name] = facts["rows"]
        one = export_form.resource(stem, place, spec.get("title") or name, entity.fields, self.null, facts)
        one["table"] = entity.base.name
        if entity.left_out:
            self.left_out[name] = entity.left_out
            one["leftOut"] = entity.left_out
            self.notes.append("In %s these parts are left out: %s." % (name, "; ".join(entity.left_out)))
        self.resources.append(one)
        for file_name, source, rows in sheets.close() if sheets else []:
            sha256, size = self.archive.file("entities/" + file_name, source)
            os.unlink(source)
            self.sheets.append({"path": "entities/" + file_name, "bytes": size, "hash": "sha256:" + sha256, "rowCount": rows})
        if sheets and len(sheets.files) > 1:
            self.notes.append("%s has more rows than a sheet holds; it goes on in %d files." % (name, len(sheets.files)))
        if sheets and sheets.cut:
            self.notes.append(
                "%d cells of %s.xlsx are longer than a cell may be; they are cut there, say so, and are whole in the CSV."
                % (sheets.cut, name)
            )


class Tee(object):
    """Chunks on their way to a parser, kept until they are taken out again for the archive."""

    def __init__(self, source):
        # type: (Iterator[bytes]) -> None
        self.source = source
        self.passed = []  # type: List[bytes]

    def __iter__(self):
        # type: () -> Iterator[bytes]
        for chunk in self.source:
            self.passed.append(chunk)
            yield chunk

    def taken(self):
        # type: () -> List[bytes]
        found, self.passed = self.passed, []
        return found


def make(package, item, reader, counts, readable, asked, scratch, lists=None, about=None):
    # type: (Package, str, export_sql.Reader, Dict[str, int], Dict[str, Any], str, str, Optional[Callable[[], Dict[str, Iterable[bytes]]]], Optional[Dict[str, Any]]) -> Dict[str, Any]
    """Write the export and its record. counts: rows of every table of the proven copy. lists: more CSV files, by their path."""
    for null in export_form.NULLS:
        try:
            return _attempt(package, item, reader, counts, readable, asked, scratch, null, lists, about or {})
        except export_form.NullTaken:
            continue
    raise VaultError("the database holds every word that could stand for NULL as a value; the export cannot be told apart", "unknown")


def _attempt(package, item, reader, counts, readable, asked, scratch, null, lists, about):
    # type: (Package, str, export_sql.Reader, Dict[str, int], Dict[str, Any], str, str, str, Any, Dict[str, Any]) -> Dict[str, Any]
    target, now = path(package, item), time.time()
    make_directory(os.path.dirname(target))
    recipient = package.record()[RECIPIENTS[identity_of(package, item)]]
    work = os.path.join(scratch, "export")
    if not os.path.isdir(work):
        os.mkdir(work, 0o700)
    sink = export_zip.Encrypted(recipient, target, scratch)
    try:
        archive = export_zip.Archive(sink, now)
        export = Export(archive, reader, work, null, counts)
        if readable.get("tables", True):
            export.tables()
        xlsx = bool(readable.get("xlsx", True))
        for name, spec in sorted((readable.get("entities") or {}).items()):
            export.entity(name, spec, xlsx)
        for place, chunks in sorted((lists() if lists else {}).items()):
            archive.member(place, chunks)
        if readable.get("entities") and not xlsx:
            export.notes.append("XLSX was left out on request.")
        made = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now))
        title = readable.get("title") or "Readable export of %s" % item
        more = dict(about, item=item, null=null, entities=export.entities, absent=export.absent, xlsx=export.sheets)
        described = export_form.package(item_slug(item), title, made, export.resources, more)
        archive.text("datapackage.json", json.dumps(described, indent=1, sort_keys=True).encode("utf-8") + b"\n")
        archive.text("README.txt", export_form.readme(title, null, export.notes).encode("utf-8"))
        archive.close()
        facts = sink.finish()
    except BaseException:
        sink.abandon()
        raise
    publish(target)
    record = dict(
        facts,
        item=item,
        file=os.path.relpath(target, package.data),
        tables=len(counts) if readable.get("tables", True) else 0,
        rows=export.rows,
        entities=export.entities,
        absent=export.absent,
        left_out={name: len(parts) for name, parts in export.left_out.items()},
        xlsx=len(export.sheets),
        asked=asked,
        made=made,
    )
    write_record(record_path(package, item), record)
    return record


def scrub(package, item):
    # type: (Package, str) -> None
    """A proof that is made anew begins without the export of the old one."""
    for one in (record_path(package, item), path(package, item), path(package, item) + ".part"):
        if os.path.lexists(one):
            os.unlink(one)
