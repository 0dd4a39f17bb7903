# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fetching the artefacts of one data set into a package, encrypted before they reach the vault's disk.

Private to the collection. Valid for Python 3.6, standard library. A small artefact is one file and is fetched again from its
start; a large one is a row of segments, recorded one by one, and the next run asks for what is missing behind the last whole
one and behind what the unfinished ones hold. The record of a data set:

    {"item", "complete", "artefacts": [whole ones], "partial": {"file": {"sha256", "bytes", "segments": [...]}},
     "earlier": [those of an earlier dump, until this one is complete]}

Nothing counts until the digest over the whole staged file is the ledger's, or, of a direct artefact (one that was never staged:
its source makes the stream anew for each vault), the one that the source tells at the end of its stream.
"""

import hashlib
import os
from typing import Any, Dict, List, Optional, Set  # noqa: F401

from ansible_collections.sunset.crm.plugins.module_utils._vault import fetch as vault_fetch  # noqa: F401
from ansible_collections.sunset.crm.plugins.module_utils._vault.fetch import KEPT
from ansible_collections.sunset.crm.plugins.module_utils._vault.state import (
    KEYS,
    NAME,
    SHA256,
    Package,  # noqa: F401
    VaultError,
    cipher_files,
    make_directory,
    read_record,
    require_space,
    sha256_file,
    sync_directory,
    write_record,
)

NUMBERS = ("bytes", "plain_bytes", "estimate")


def check_artefacts(artefacts, secret=False):
    # type: (List[Dict[str, Any]], bool) -> List[Dict[str, Any]]
    """The artefacts as the ledger names them, reduced to what is kept; anything odd is refused.

    secret: they are encrypted to the package's second identity."""
    names, files, kept = set(), set(), []
    for artefact in artefacts:
        name = artefact.get("name") or ""
        if not NAME.match(name):
            raise VaultError("artefact name %r is no plain name" % name)
        if name in names:
            raise VaultError("two artefacts are called %s; names must differ within a data set" % name)
        # Inside the package it carries the staged file's own name, whose ending tells how to open it.
        stored_as = name if artefact.get("direct") else os.path.basename(str(artefact.get("path") or name))
        if not NAME.match(stored_as) or stored_as.endswith((".part", ".age")) or stored_as in files:
            raise VaultError("the staged file of artefact %s is called %r; expected a plain name of its own" % (name, stored_as))
        names.add(name)
        files.add(stored_as)
        check_digests(artefact)
        one = {key: artefact[key] for key in KEPT if artefact.get(key) not in (None, False) and key != "identity"}
        if secret:
            one["identity"] = KEYS
        for key in NUMBERS:
            if key in one:
                one[key] = int(one[key])
        one.setdefault("role", "artefact")
        one["file"] = stored_as
        one["source_path"] = source_path(artefact)
        kept.append(one)
    return kept


def check_digests(artefact):
    # type: (Dict[str, Any]) -> None
    if artefact.get("direct"):
        if not SHA256.match(str(artefact.get("of"))) or not str(artefact.get("estimate")).isdigit():
            raise VaultError(
                "artefact %s is to come directly from its source, but has no `of` and `estimate`; expected them from the ledger's "
                "evidence of the dump" % artefact["name"]
            )
        if artefact.get("sha256") or artefact.get("bytes"):
            raise VaultError("artefact %s is both direct and has digests of a staged file; make the dump again" % artefact["name"])
    elif not SHA256.match(str(artefact.get("sha256"))) or not str(artefact.get("bytes")).isdigit():
        raise VaultError("artefact %s has no sha256 and bytes; expected them from the ledger's evidence of the dump" % artefact["name"])


def source_path(artefact):
    # type: (Dict[str, Any]) -> str
    """What the reader is asked for: the staged file's whole path, else its name."""
    path = str(artefact.get("path") or artefact["name"])
    if "\n" in path or "\0" in path or path.startswith("/") and os.path.normpath(path) != path:
        raise VaultError("the path %r of artefact %s is no plain path" % (path, artefact["name"]))
    return path


def matches(entry, artefact):
    # type: (Optional[Dict[str, Any]], Dict[str, Any]) -> bool
    """Whether a record is about this very artefact. A direct one has no digest beforehand: it is the copy of the same content."""
    keys = ("direct", "of", "name", "identity") if artefact.get("direct") else ("direct", "sha256", "bytes", "identity")
    return entry is not None and all(entry.get(key) == artefact.get(key) for key in keys)


def is_whole(folder, name, sha256, size):
    # type: (str, str, str, int) -> bool
    """Read to its end."""
    path = os.path.join(folder, name)
    return os.path.isfile(path) and os.path.getsize(path) == size and sha256_file(path) == (sha256, size)


def is_proven(folder, proven, name, sha256, size):
    # type: (str, Dict[str, Any], str, str, int) -> bool
    """This very run has read it from the disk to its end, and it has that size still."""
    path = os.path.join(folder, name)
    return proven.get(name) == (sha256, size) and os.path.isfile(path) and os.path.getsize(path) == size


def state_of(folder, entry, artefact, partial, here, proven):
    # type: (str, Optional[Dict[str, Any]], Dict[str, Any], Optional[Dict[str, Any]], Set[str], Dict[str, Any]) -> str
    """absent, another, partial, damaged or stored; each stored file is read that is not proven."""
    if entry is not None and matches(entry, artefact):
        files = cipher_files(entry)
        if not any(name in here for name, _sha256, _size in files):
            return "absent"
        return "stored" if all(is_proven(folder, proven, *one) or is_whole(folder, *one) for one in files) else "damaged"
    if matches(partial, artefact):
        return "partial"
    return "another" if entry is not None or artefact["file"] + ".age" in here else "absent"


def observe(package, item, artefacts, proven=None):
    # type: (Package, str, List[Dict[str, Any]], Optional[Dict[str, Any]]) -> Dict[str, Any]
    """Which artefacts are stored and whole: each stored file is read to its end, but for those that this run read back already."""
    folder, record = package.folder(item), read_record(package.stored_path(item)) or {"artefacts": []}
    by_file = {entry["file"]: entry for entry in record["artefacts"]}
    partial = record.get("partial") or {}
    here = set(os.listdir(folder)) if os.path.isdir(folder) else set()
    state, wanted = {}, set()  # type: Dict[str, str], Set[str]
    for artefact in artefacts:
        entry, begun = by_file.get(artefact["file"]), partial.get(artefact["file"])
        state[artefact["name"]] = state_of(folder, entry, artefact, begun, here, proven or {})
        wanted |= {name for one in (entry, begun) if one is not None and matches(one, artefact) for name, _s, _b in cipher_files(one)}
    return {
        "artefacts": state,
        "superfluous": sorted(here - wanted),
        "recorded": bool(record.get("complete")) and sorted(by_file) == sorted(a["file"] for a in artefacts),
    }


def decide(seen):
    # type: (Dict[str, Any]) -> List[str]
    """Names of the artefacts that must be fetched."""
    return sorted(name for name, state in seen["artefacts"].items() if state != "stored")


def unchanged(seen):
    # type: (Dict[str, Any]) -> bool
    return not decide(seen) and not seen["superfluous"] and seen["recorded"]


def size_of(artefact):
    # type: (Dict[str, Any]) -> int
    """Bytes that will come; of a direct artefact the most that may come."""
    return int(artefact["estimate"] if artefact.get("direct") else artefact["bytes"])


def space_needed(artefacts, names, kept=0):
    # type: (List[Dict[str, Any]], List[str], int) -> int
    """age adds a header to each file and 16 bytes to each 64 KiB; a tenth of a per cent and a megabyte are kept on top.

    kept: bytes that an interrupted run has brought already.
    """
    total = max(0, sum(size_of(artefact) for artefact in artefacts if artefact["name"] in names) - kept)
    return total + total // 1000 + len(names) * 4096 + (1 << 20)


class Record(object):
    """The record of one data set on its way to complete; every change is written at once."""

    def __init__(self, package, item, seen, artefacts):
        # type: (Package, str, Dict[str, Any], List[Dict[str, Any]]) -> None
        self.item, self.path = item, package.stored_path(item)
        known = read_record(self.path) or {"artefacts": []}
        wanted = {artefact["file"] for artefact in artefacts}
        # A whole copy of an earlier dump stays, and is remembered, until the newer one is complete.
        self.earlier = [entry for entry in known["artefacts"] if entry["file"] not in wanted] + known.get("earlier", [])
        self.entries = {e["name"]: e for e in known["artefacts"] if seen["artefacts"].get(e["name"]) == "stored"}
        self.partial = {}  # type: Dict[str, Dict[str, Any]]
        by_file = {e["file"]: e for e in known["artefacts"]}
        for artefact in artefacts:
            state, file = seen["artefacts"][artefact["name"]], artefact["file"]
            begun = {"partial": (known.get("partial") or {}).get(file), "damaged": by_file.get(file)}.get(state)
            if begun and begun.get("segments") is not None and not artefact.get("direct"):
                self.partial[file] = dict(begun, segments=list(begun["segments"]))

    def segments(self, artefact):
        # type: (Dict[str, Any]) -> List[Dict[str, Any]]
        begun = self.partial.get(artefact["file"])
        return begun["segments"] if begun else []

    def keep(self, artefact, segments):
        # type: (Dict[str, Any], List[Dict[str, Any]]) -> None
        about = {key: artefact[key] for key in ("sha256", "bytes", "identity") if key in artefact}  # type: Dict[str, Any]
        self.partial[artefact["file"]] = dict(about, segments=segments)
        self.write()

    def done(self, entry):
        # type: (Dict[str, Any]) -> None
        self.partial.pop(entry["file"], None)
        self.entries[entry["name"]] = entry
        self.write()

    def drop(self, artefact):
        # type: (Dict[str, Any]) -> None
        if self.partial.pop(artefact["file"], None):
            self.write()

    def write(self, complete=False):
        # type: (bool) -> None
        record = {"item": self.item, "complete": complete, "artefacts": ordered(self.entries)}
        rest = {"partial": self.partial, "earlier": self.earlier}
        write_record(self.path, dict(record, **{key: value for key, value in rest.items() if value}))

    def files(self):
        # type: () -> Set[str]
        held = list(self.entries.values()) + list(self.partial.values()) + self.earlier
        return {name for one in held for name, _sha256, _size in cipher_files(one)}


def pull(package, item, artefacts, seen, puller, recipient):
    # type: (Package, str, List[Dict[str, Any]], Dict[str, Any], vault_fetch.Puller, str) -> None
    """Fetch what is missing; the record is written after each artefact and each segment, and as complete at the end."""
    os.umask(0o077)
    make_directory(puller.folder)
    sync_directory(package.data)
    missing, record = decide(seen), Record(package, item, seen, artefacts)
    # Leftovers that no record knows are of no use and go first: their room may be needed.
    unfinished = {name for artefact in artefacts for name in puller.set_aside(artefact, record)}
    remove_others(puller, record.files() | unfinished | {artefact["file"] + ".age" for artefact in artefacts}, "removed a leftover")
    kept = sum(segment["bytes"] for begun in record.partial.values() for segment in begun["segments"])
    kept += sum(os.path.getsize(os.path.join(puller.folder, name)) for names in puller.done.values() for name in names)
    require_space(package.data, space_needed(artefacts, missing, kept), "the package of %s" % item)
    with puller.connection:
        for artefact in artefacts:
            if artefact["name"] in missing:
                record.done(puller.fetch(artefact, recipient, record))
    record.earlier = []
    remove_others(puller, record.files(), "removed an artefact of an earlier dump")
    record.write(complete=True)


def remove_others(puller, wanted, act):
    # type: (vault_fetch.Puller, Set[str], str) -> None
    for name in sorted(set(os.listdir(puller.folder)) - wanted):
        os.unlink(os.path.join(puller.folder, name))
        puller.rec.note(act=act, file=name)


def ordered(entries):
    # type: (Dict[str, Dict[str, Any]]) -> List[Dict[str, Any]]
    return [entries[name] for name in sorted(entries)]


def told_of(entry):
    # type: (Dict[str, Any]) -> Dict[str, Any]
    """An entry as the ledger gets it: of segments their number and the digest of what `sha256sum FILE.*.age` prints."""
    if not entry.get("segments"):
        return entry
    lines = "".join("%s  %s\n" % (sha256, name) for name, sha256, _size in cipher_files(entry))
    return dict(
        entry,
        segments=len(entry["segments"]),
        segments_sha256=hashlib.sha256(lines.encode("ascii")).hexdigest(),
        cipher_bytes=sum(size for _name, _sha256, size in cipher_files(entry)),
    )


def result_of(package, item):
    # type: (Package, str) -> Dict[str, Any]
    record = read_record(package.stored_path(item)) or {"artefacts": []}
    return {
        "stored": [told_of(entry) for entry in record["artefacts"]],
        "complete": bool(record.get("complete")),
        "cipher_bytes": sum(size for entry in record["artefacts"] for _name, _sha256, size in cipher_files(entry)),
    }
