# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Database and file store as one pair: every attachment row has its file, every file has a row or is an orphan.

Private to the collection. Valid for Python 3.6, standard library. The rows come from the restored copy, the files from the stored
manifest of the file store, opened and checked. The ledger gets counts; the names go into the readable export.

    {filestore: "filestore:uploads", package: app1, root: /var/www/crm, prefix: "upload/", unneeded: ["*/thumbs/*"],
     rows: [{table: documents_document, path: "{filedata}", needs: [filename], where: {deleted: ["0"]}, strip: "storage/"}]}

In a path, {a|b} is b where a is empty, and {a?|b} also where there is no column a. Only files below the prefix count; paths and
patterns are relative to it. A pair with C(why) instead of rows could not be laid out: its verdict is unknown.
"""

import fnmatch
import json
import posixpath
import re
from typing import Any, Callable, Container, Dict, Iterable, Iterator, List, Optional, Sequence, Set, Tuple  # noqa: F401

from ansible_collections.sunset.crm.plugins.module_utils._copy import filestore as copy_filestore
from ansible_collections.sunset.crm.plugins.module_utils._export import form as export_form, sql as export_sql  # noqa: F401
from ansible_collections.sunset.crm.plugins.module_utils._vault.state import Package, VaultError, item_slug, read_record

SLOT = re.compile(r"\{([^{}]+)\}")


def columns_of(template):
    # type: (str) -> List[str]
    """ "{path}{source_id?|id}" -> path, source_id?, id."""
    return [name for slot in SLOT.findall(template) for name in slot.split("|")]


def filled(template, values):
    # type: (str, Dict[str, Optional[str]]) -> Optional[str]
    """The path that a row means; None for a row without a file. {a|b}: b where a is empty."""
    lacking = []

    def value(match):
        # type: (Any) -> str
        found = next((values[name] for name in match.group(1).replace("?", "").split("|") if values.get(name)), None)
        if not found:
            lacking.append(match.group(1))
        return found or ""

    text = SLOT.sub(value, template)
    return None if lacking else text


def normal(path, strip=""):
    # type: (str, str) -> bytes
    """A relative path as the manifest writes it. It is only compared, never opened, so it may lead anywhere."""
    if strip and path.startswith(strip):
        path = path[len(strip) :]
    return posixpath.normpath(path.lstrip("/") or ".").encode("utf-8", "surrogateescape")


def wanted_paths(reader, rows):
    # type: (export_sql.Reader, Sequence[Dict[str, Any]]) -> Iterator[Tuple[str, bytes]]
    """(table, path) of every attachment row."""
    for one in rows:
        table = reader.find(one["table"])
        if table is None:
            if one.get("optional"):
                continue
            raise VaultError("the profile's attachments name the table %s; the database has none of that name" % one["table"], "unknown")
        types = {column.name: column.type for column in table.columns}
        needs, conditions = one.get("needs", []), one.get("where", {})
        names = [name.rstrip("?") for name in columns_of(one["path"]) + needs if not name.endswith("?") or name[:-1] in types]
        lacking = [name for name in names + sorted(conditions) if name not in types]
        if lacking:
            raise VaultError("the profile's attachments name %s of %s; there is no such column" % (lacking[0], one["table"]), "unknown")
        tests = [
            "%s IN (%s)" % (reader.as_text(reader.quote(name)), ", ".join(reader.literal(value) for value in values))
            for name, values in sorted(conditions.items())
        ]
        rest = "FROM %s%s" % (table.source, " WHERE " + " AND ".join(tests) if tests else "")
        for row in reader.select_rows([reader.cell(reader.quote(name), types[name]) for name in names], rest):
            values = {name: row[number] for number, name in enumerate(names)}
            path = filled(one["path"], values) if all(values[name] for name in needs) else None
            if path is not None:
                yield one["table"], normal(path, one.get("strip", ""))


LINKS = 40  # as many as a kernel follows


def followed(link, links, folders, root=b""):
    # type: (bytes, Dict[bytes, bytes], Container[bytes], bytes) -> Optional[bytes]
    """Where a link of the tree leads, as a path of the tree; None where it leads out of it, or nowhere. Name by name, as a kernel goes: what
    ".." means is only known when the links before it are followed.

    folders: the directories of the tree. root: the absolute path that the tree had on its host; a target below it stays inside."""
    done, todo, met = [], link.split(b"/"), 0  # type: List[bytes], List[bytes], int
    while todo:
        part = todo.pop(0)
        if part == b"..":
            if not done or b"/".join(done) not in folders:
                return None
            done.pop()
        elif part not in (b"", b"."):
            done.append(part)
            target = links.get(b"/".join(done))
            if target is None:
                continue
            met += 1
            done.pop()
            if target.startswith(b"/"):
                inside = below(target, root)
                if inside is None:
                    return None
                done, todo = [], inside + todo
            else:
                todo = target.split(b"/") + todo
            if met > LINKS:
                return None
    return b"/".join(done)


def below(path, root):
    # type: (bytes, bytes) -> Optional[List[bytes]]
    """The names of an absolute path behind those of root; None where it does not begin with them."""
    names, wanted = ([part for part in one.split(b"/") if part not in (b"", b".")] for one in (path, root))
    return names[len(wanted) :] if wanted and names[: len(wanted)] == wanted else None


class Names(object):
    """A sink for a manifest artefact: the names of its files, line by line. A link counts where it leads to a file of the same tree:
    links are kept as links, so what one that leads elsewhere names is in no copy."""

    def __init__(self, prefix="", root=""):
        # type: (str, str) -> None
        self.prefix, self.root = prefix.encode("utf-8"), root.encode("utf-8", "surrogateescape")
        self.files = set()  # type: Set[bytes]
        self._folders = set()  # type: Set[bytes]
        self._links = {}  # type: Dict[bytes, bytes]
        self._rest = b""

    def __call__(self, block):
        # type: (bytes) -> None
        lines = (self._rest + block).split(b"\n")
        self._rest = lines.pop()
        for line in lines:
            self._line(line)

    def _line(self, line):
        # type: (bytes) -> None
        if not line.strip():
            return
        try:
            entry = json.loads(line.decode("ascii"))
            if entry["type"] == "file":
                self.files.add(copy_filestore.decode_name(entry))
            elif entry["type"] == "directory":
                self._folders.add(copy_filestore.decode_name(entry))
            elif entry["type"] == "symlink":
                self._links[copy_filestore.decode_name(entry)] = copy_filestore.decode_name(entry, "target")
        except (ValueError, KeyError, TypeError):
            raise VaultError("the manifest artefact is no manifest; make the archive again", verdict="unknown")

    def finish(self):
        # type: () -> Set[bytes]
        self._line(self._rest)
        self._rest = b""
        found = self.files | {name for name in self._links if followed(name, self._links, self._folders, self.root) in self.files}
        return {name[len(self.prefix) :] for name in found if name.startswith(self.prefix)}


class Compared(object):
    """rows: attachment rows with a file name. missing: (table, path). orphans: paths of files that no row names."""

    def __init__(self, wanted, files, unneeded):
        # type: (Iterable[Tuple[str, bytes]], Set[bytes], Sequence[str]) -> None
        self.rows, self.files = 0, len(files)
        self.missing = []  # type: List[Tuple[str, bytes]]
        left, told = set(files), set()  # type: Set[bytes], Set[bytes]
        for table, path in wanted:
            self.rows += 1
            left.discard(path)
            if path not in files and path not in told:
                told.add(path)
                self.missing.append((table, path))
        self.missing.sort(key=lambda one: (one[1], one[0]))
        self.orphans = sorted(path for path in left if not any(matches(path, pattern) for pattern in unneeded))


def matches(path, pattern):
    # type: (bytes, str) -> bool
    """A shell pattern over the whole relative path; * also takes slashes."""
    return fnmatch.fnmatchcase(path.decode("utf-8", "backslashreplace"), pattern)


def stored_manifest(package, item):
    # type: (Package, str) -> Tuple[Optional[Dict[str, Any]], str]
    """(stored record of the file store with a manifest, why not)."""
    record = read_record(package.stored_path(item))
    if not record or not record.get("complete"):
        return None, "the package %s holds no complete copy of %s" % (package.name, item)
    if not any(entry["role"] == "manifest" for entry in record["artefacts"]):
        return None, "the copy of %s has no manifest" % item
    return record, ""


def asked(package, pairs):
    # type: (Package, Sequence[Dict[str, Any]]) -> List[Any]
    """What the verdict rests on: the declarations, and the manifests as they are stored now. Another answer needs another look."""
    found = []
    for one in pairs:
        if "why" in one:
            continue
        record, _why = stored_manifest(sibling(package, one), one["filestore"])
        digests = [entry["sha256"] for entry in record["artefacts"] if entry["role"] == "manifest"] if record else []
        found.append([one, sorted(digests)])
    return found


def sibling(package, one):
    # type: (Package, Dict[str, Any]) -> Package
    """The package of the same estate, on this vault, that holds the file store."""
    item_slug(one["filestore"])
    return Package(package.root, package.estate, one.get("package") or package.name, package.live_base)


def compare(package, reader, pairs, open_manifest):
    # type: (Package, export_sql.Reader, Sequence[Dict[str, Any]], Callable[[Package, str, Dict[str, Any], Any], None]) -> Tuple[Dict[str, Any], List[Tuple[str, Compared]]]
    """(what the ledger may know, [(file store, lists)]). open_manifest(package, item, record, sink) opens and checks it."""
    compared, reasons = [], []  # type: List[Tuple[str, Compared]], List[str]
    for one in pairs:
        if "why" in one:
            reasons.append(one["why"])
            continue
        place = sibling(package, one)
        record, why = stored_manifest(place, one["filestore"])
        if record is None:
            reasons.append(why)
            continue
        names = Names(one.get("prefix", ""), one.get("root", ""))
        try:
            place.require_live()
            open_manifest(place, one["filestore"], record, names)
            files = names.finish()
            found = Compared(wanted_paths(reader, one["rows"]), files, one.get("unneeded", []))
            compared.append((one["filestore"], found))
            reasons.extend("%s: %s" % (one["filestore"], reason) for reason in unrelated(found))
        except VaultError as exc:
            reasons.append("%s: %s" % (one["filestore"], exc))
    result = {key: sum(len(getattr(c, key)) for _i, c in compared) for key in ("missing", "orphans")}  # type: Dict[str, Any]
    result.update({key: sum(getattr(c, key) for _i, c in compared) for key in ("rows", "files")})
    result["verdict"] = verdict(result["missing"], bool(reasons))
    if reasons:
        result["why_unknown"] = reasons
    return result, compared


def unrelated(found):
    # type: (Compared) -> List[str]
    """Nothing is missing where nothing was looked for: files that no row at all speaks of are no evidence of a pair."""
    if found.rows or not found.orphans:
        return []
    return [
        "no row of the database names a file, but %d files are there; see that the profile looks at this application's database, then waive it"
        % len(found.orphans)
    ]


def verdict(missing, incomplete):
    # type: (int, bool) -> str
    """A missing file is seen whatever else is not; an orphan is listed and breaks nothing."""
    if missing:
        return "unpaired"
    return "unknown" if incomplete else "paired"


def lists(compared):
    # type: (List[Tuple[str, Compared]]) -> Dict[str, Iterable[bytes]]
    """The CSV files with names, for the readable export."""

    def missing():
        # type: () -> Iterator[bytes]
        yield export_form.csv_line(["filestore", "table", "path"])
        for item, one in compared:
            for table, path in one.missing:
                yield export_form.csv_line([item, table, path.decode("utf-8", "backslashreplace")])

    def orphans():
        # type: () -> Iterator[bytes]
        yield export_form.csv_line(["filestore", "path"])
        for item, one in compared:
            for path in one.orphans:
                yield export_form.csv_line([item, path.decode("utf-8", "backslashreplace")])

    return {"pairs/missing.csv": missing(), "pairs/orphans.csv": orphans()}
