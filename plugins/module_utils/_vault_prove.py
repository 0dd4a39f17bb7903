# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The proof of a stored copy: opened with the package's identity, restored, compared with what the source was.

Private to the collection. Valid for Python 3.6, standard library. A verdict is equal, different or unknown. Equal needs
every digest on the way and the whole comparison; whatever kept the comparison from being made is unknown.
"""

import contextlib
import json
import os
import re
import subprocess
from typing import Any, Dict, List, Optional, Tuple  # noqa: F401

from ansible_collections.sunset.crm.plugins.module_utils import (
    _canonical,
    _export_lite,
    _export_sql,
    _filestore,
    _fingerprint,
    _pair,
    _sqlclient,
    _vault_image,
    _vault_mariadb,
    _vault_package,
    _vault_postgresql,
    _vault_readable,
    _vault_redis,
    _vault_sqlite,
    _vault_stream,
)
from ansible_collections.sunset.crm.plugins.module_utils._vault import (
    Package,  # noqa: F401
    VaultError,
    cipher_files,
    read_record,
    write_record,
)
from ansible_collections.sunset.crm.plugins.module_utils._vault_scratch import Feed, Scratch

SERVERS = {"postgresql": _vault_postgresql, "mariadb": _vault_mariadb, "sqlite": _vault_sqlite, "redis": _vault_redis}
CLASSES = {
    "postgresql": _vault_postgresql.Postgresql,
    "mariadb": _vault_mariadb.Mariadb,
    "sqlite": _vault_sqlite.Sqlite,
    "redis": _vault_redis.Redis,
}  # type: Dict[str, Any]
# Engines with tables; what a Redis holds is read from its dump.
READERS = {
    "postgresql": _export_sql.PostgresqlReader,
    "mariadb": _export_sql.MariadbReader,
    "sqlite": _export_lite.LiteReader,
}  # type: Dict[str, Any]
MEMORY_LIMIT = 256 << 20
SHOWN = 100
DEPTH = "restored into a throw-away server of the same name and compared table by table"


class Artefacts(object):
    """The stored artefacts of one data set, opened one after another, each digest checked at its end."""

    def __init__(self, package, item, stored, rec):
        # type: (Package, str, List[Dict[str, Any]], Any) -> None
        self.package, self.item, self.stored, self.rec = package, item, stored, rec
        self.checked = []  # type: List[str]

    def of(self, *roles):
        # type: (*str) -> List[Dict[str, Any]]
        return [entry for entry in self.stored if entry["role"] in roles]

    def one(self, role):
        # type: (str) -> Dict[str, Any]
        found = self.of(role)
        if len(found) != 1:
            raise VaultError(
                "the package holds %d artefacts of role %s for %s; expected one; make the dump again and pull it"
                % (len(found), role, self.item),
                verdict="unknown",
            )
        return found[0]

    def open(self, entry, sink):
        # type: (Dict[str, Any], Any) -> None
        """Decrypt an artefact into sink; every digest must be the recorded one."""
        codec = _vault_stream.codec_of(entry["file"])
        identity = self.package.identity_of(entry.get("identity"))
        facts = _vault_stream.decrypt_entry(self.package.folder(self.item), entry, identity, codec, sink)
        self.checked.append(entry["name"])
        self.rec.note(act="opened and checked", artefact=entry["name"], plain_bytes=facts["plain_bytes"])

    def text(self, entry):
        # type: (Dict[str, Any]) -> bytes
        """A small artefact, in memory, checked before it is used."""
        blocks, total = [], [0]

        def take(block):
            # type: (bytes) -> None
            total[0] += len(block)
            if total[0] > MEMORY_LIMIT:
                raise VaultError("%s is larger than %d bytes" % (entry["name"], MEMORY_LIMIT), verdict="unknown")
            blocks.append(block)

        self.open(entry, take)
        return b"".join(blocks)

    def open_manifest(self, package, item, record, sink):
        # type: (Package, str, Dict[str, Any], Any) -> None
        """The manifest of a file store, maybe of another package on this vault, decrypted into sink and checked."""
        other = Artefacts(package, item, record["artefacts"], self.rec)
        other.open(other.one("manifest"), sink)

    def rest(self):
        # type: () -> None
        """Open what no step of the proof has read: no artefact counts as good because nobody looked."""
        for entry in self.stored:
            if entry["name"] not in self.checked:
                self.open(entry, lambda _block: None)


def plain_bytes(entries):
    # type: (List[Dict[str, Any]]) -> int
    return sum(int(entry.get("plain_bytes") or entry["bytes"] * 10) for entry in entries)


# --- databases -----------------------------------------------------------------------------------------------------


def prove_database(engine, artefacts, source, base, more):
    # type: (str, Artefacts, Dict[str, Any], str, Dict[str, Any]) -> Dict[str, Any]
    parts, needed = SERVERS[engine], artefacts.one("dump")
    scratch = Scratch(base, artefacts.package, artefacts.item, parts.space_needed(plain_bytes([needed])))
    wanted = source_fingerprint(artefacts, source)
    with scratch, CLASSES[engine](scratch, source) as server:
        for entry in artefacts.of(*server.passes_globals):
            server.load_globals(artefacts.text(entry))
        feed = server.feed()
        try:
            artefacts.open(needed, feed)
            feed.finish()
        finally:
            feed.abandon()
        others = server.loaded(wanted["database"])
        artefacts.rec.note(
            act="restored into a throw-away server", engine=engine, artefact=needed["name"], grants_on_other_databases_left_out=others
        )
        try:
            with _fingerprint.open_session(engine, **server.session_arguments(wanted["database"])) as session:
                copy = without_own(_fingerprint.take(engine, session, wanted["database"], method=wanted["method"]))
            differences, allowed = allow(_fingerprint.compare(wanted, copy), more.get("allowed_differences") or [])
        except (_sqlclient.SqlError, ValueError, LookupError) as exc:
            raise VaultError("the restored copy could not be compared: %s" % exc, verdict="unknown")
        not_restored = server.not_restored
        verdict = _fingerprint.verdict(differences)
        if not_restored and verdict == "equal":
            verdict = "unknown"
        extra = read_copy(engine, artefacts, server, scratch, wanted["database"], copy, more) if verdict == "equal" else {}
    totals = _fingerprint.totals(copy)
    result = {
        "verdict": verdict,
        "tables": totals["tables"],
        "rows": totals["rows"],
        "objects": totals["objects"],
        "differences": differences[:SHOWN],
        "differences_total": len(differences),
        "not_restored": not_restored,
        # Tables whose rows are kept on another server: no copy of this one can hold them.
        "data_elsewhere": wanted.get("notes", {}).get("data_elsewhere", []),
        "engine_version": copy["version"],
        "source_version": wanted.get("version"),
        "version_relation": relation(str(wanted.get("version")), str(copy["version"])),
        "fingerprint_sha256": _fingerprint.digest(copy),
        "depth": DEPTH + ("; allowed to differ in content: %s" % ", ".join(allowed) if allowed else ""),
    }
    return dict(result, **extra)


def read_copy(engine, artefacts, server, scratch, database, copy, more):
    # type: (str, Artefacts, Any, Scratch, str, Dict[str, Any], Dict[str, Any]) -> Dict[str, Any]
    """While the equal copy is up: the pair with its file stores, and everything readable without the application."""
    if engine not in READERS or not (more.get("pairs") or _vault_readable.wanted(more.get("readable") or {})):
        return {"readable": None}
    counts = {name: one["rows"] for name, one in copy["tables"].items()}
    with contextlib.closing(READERS[engine](server, database, scratch, counts)) as reader:
        return read_with(reader, artefacts, scratch, copy, counts, more)


def read_with(reader, artefacts, scratch, copy, counts, more):
    # type: (Any, Artefacts, Scratch, Dict[str, Any], Dict[str, int], Dict[str, Any]) -> Dict[str, Any]
    readable, pairs, found = more.get("readable") or {}, more.get("pairs") or [], {}  # type: Any, Any, Dict[str, Any]
    compared = []  # type: List[Any]
    if pairs:
        found["pair"], compared = _pair.compare(artefacts.package, reader, pairs, artefacts.open_manifest)
        artefacts.rec.note(act="compared attachment rows with files", verdict=found["pair"]["verdict"])
    found["readable"] = None
    if _vault_readable.wanted(readable):
        about = {"engine": reader.engine, "version": copy["version"], "fingerprint_sha256": _fingerprint.digest(copy)}
        record = _vault_readable.make(
            artefacts.package,
            artefacts.item,
            reader,
            counts,
            readable,
            more["readable_asked"],
            scratch.path,
            (lambda: _pair.lists(compared)) if compared else None,
            about,
        )
        found["readable"] = _vault_readable.told(record)
        artefacts.rec.note(act="wrote the readable export", tables=record["tables"], rows=record["rows"])
    return found


def allow(differences, allowed):
    # type: (List[Dict[str, Any]], List[str]) -> Tuple[List[Dict[str, Any]], List[str]]
    """Take out what the product changes by itself: other content in as many rows of a listed table. (the rest, tables allowed)."""
    rest, named = [], []
    for one in differences:
        table = one["name"][len("public.") :] if one["name"].startswith("public.") else one["name"]
        if one["kind"] == "table" and one["what"] == "content" and table in allowed:
            named.append(table)
        else:
            rest.append(one)
    return rest, named


def without_own(copy):
    # type: (Dict[str, Any]) -> Dict[str, Any]
    """The copy's fingerprint without the account that the proof works with: it says nothing about the copy."""
    for kind, name in (("role", _vault_postgresql.ROLE), ("account", "'%s'@'localhost'" % _vault_mariadb.ACCOUNT)):
        copy.get("globals", {}).get(kind, {}).pop(name, None)
    members = copy.get("globals", {}).get("membership", {})
    for member in [one for one in members if one.startswith("'%s'@" % _vault_mariadb.ACCOUNT)]:
        del members[member]
    return copy


def source_fingerprint(artefacts, source):
    # type: (Artefacts, Dict[str, Any]) -> Dict[str, Any]
    """The fingerprint that was taken at the source; it must be the one that the ledger knows."""
    try:
        found = json.loads(artefacts.text(artefacts.one("fingerprint")).decode("utf-8"))
        digest = _fingerprint.digest(found)
    except (ValueError, AttributeError, TypeError):
        raise VaultError("the fingerprint artefact is no fingerprint; make the dump again", verdict="unknown")
    if source.get("fingerprint_sha256") != digest:
        raise VaultError(
            "the package's fingerprint has the digest %s; the ledger says %s for the source; they are not of the same dump"
            % (digest, source.get("fingerprint_sha256")),
            verdict="unknown",
        )
    return found


def relation(source, here):
    # type: (str, str) -> str
    """How the proving server's version stands to the source's: same, same major, newer, unknown."""
    if source == here:
        return "same"
    pattern = r"(\d+)\.(\d+)" if "mariadb" in (source + here).lower() else r"(\d+)()"
    ours, theirs = re.search(pattern, here), re.search(pattern, source)
    if not ours or not theirs:
        return "unknown"
    if ours.groups() == theirs.groups():
        return "same major"
    return "newer"


# --- files ---------------------------------------------------------------------------------------------------------


def prove_filestore(artefacts, source, base):
    # type: (Artefacts, Dict[str, Any], str) -> Dict[str, Any]
    archives = artefacts.of("archive")
    entries = manifest_of(artefacts, source)
    scratch = Scratch(base, artefacts.package, artefacts.item, plain_bytes(archives) + (16 << 20))
    with scratch:
        tree = scratch.sub("tree")
        held = attributes_held(tree)
        feed = Feed(scratch, lambda _first: tar_argv(tree, held), "tar")
        owners = _vault_image.PipeReader(lambda archive: _filestore.tar_owner_differences(entries, archive))

        def both(block):
            # type: (bytes) -> None
            feed(block)
            owners(block)

        try:
            artefacts.open(artefacts.one("archive"), both)
            feed.finish()
            told = owners.finish()
        finally:
            feed.abandon()
            owners.abandon()
        artefacts.rec.note(act="extracted", artefact=artefacts.one("archive")["name"])
        try:
            told = sorted(set(told + _filestore.verify_tree(entries, tree)))
        except _filestore.TreeError as exc:
            raise VaultError("the extracted tree could not be compared: %s" % exc, verdict="unknown")
    unchecked = [] if held else attributes_wanted(entries)
    totals = _filestore.totals(entries)
    if told and unchecked and all(line.endswith("differs in xattrs") for line in told):
        verdict = "unknown"
    else:
        verdict = "different" if told else "equal"
    return {
        "verdict": verdict,
        "files": totals["files"],
        "entries": totals["entries"],
        "bytes": totals["bytes"],
        # Names of files are customers' data: only how many, and in what.
        "differences": count_kinds(told),
        "differences_total": len(told),
        "not_checked": unchecked,
        "manifest_sha256": _filestore.manifest_digest(entries),
        "depth": "extracted and compared entry by entry; owners compared in the archive's headers",
    }


def manifest_of(artefacts, source):
    # type: (Artefacts, Dict[str, Any]) -> List[Dict[str, Any]]
    try:
        entries = _filestore.read_manifest(artefacts.text(artefacts.one("manifest")).splitlines())
        digest = _filestore.manifest_digest(entries)
    except (ValueError, TypeError, KeyError):
        raise VaultError("the manifest artefact is no manifest; make the archive again", verdict="unknown")
    if source.get("manifest_sha256") != digest:
        raise VaultError(
            "the package's manifest has the digest %s; the ledger says %s for the source; they are not of the same archive"
            % (digest, source.get("manifest_sha256")),
            verdict="unknown",
        )
    return entries


def attributes_held(directory):
    # type: (str) -> bool
    """Whether the scratch can hold extended attributes of users (tmpfs can since Linux 6.6)."""
    try:
        os.setxattr(directory, "user.sunset", b"1")
        os.removexattr(directory, "user.sunset")
        return True
    except OSError:
        return False


def attributes_wanted(entries):
    # type: (List[Dict[str, Any]]) -> List[str]
    count = sum(1 for entry in entries if any(name.startswith("user.") for name in entry.get("xattrs", {})))
    return ["extended attributes of %d entries: the scratch cannot hold them" % count] if count else []


def tar_argv(tree, held):
    # type: (str, bool) -> List[str]
    # --ignore-zeros: it reads to the end of the stream, the padding behind the end mark too.
    argv = ["tar", "--extract", "--ignore-zeros", "--file=-", "--directory=" + tree, "--preserve-permissions", "--numeric-owner", "--acls"]
    return argv + (["--xattrs", "--xattrs-include=user.*"] if held else [])


def count_kinds(told):
    # type: (List[str]) -> List[Dict[str, Any]]
    """ "x differs in size, sha256" -> {"what": "differs in size, sha256", "entries": n}, without the names."""
    kinds = {}  # type: Dict[str, int]
    for line in told:
        match = re.search(r"(differs in [a-z0-9_, ]+|is missing|is new|is in the archive only|is not in the archive)$", line)
        what = match.group(1) if match else "differs"
        kinds[what] = kinds.get(what, 0) + 1
    return [{"what": what, "entries": count} for what, count in sorted(kinds.items())]


# --- images --------------------------------------------------------------------------------------------------------


def prove_image(artefacts, _source, _base):
    # type: (Artefacts, Dict[str, Any], str) -> Dict[str, Any]
    images, found, layers = artefacts.of("image"), [], 0  # type: List[Dict[str, Any]], List[str], int
    if not images:
        raise VaultError("the package holds no image of %s; save it again" % artefacts.item, verdict="unknown")
    for entry in images:
        reader = _vault_image.PipeReader(_vault_image.read_members)
        try:
            artefacts.open(entry, reader)
            facts = reader.finish()
        finally:
            reader.abandon()
        wrong, right = _vault_image.problems(facts)
        found += ["%s: %s" % (entry["name"], line) for line in wrong]
        layers += right
    return {
        "verdict": "different" if found else "equal",
        "images": len(images),
        "layers": layers,
        "differences": found[:SHOWN],
        "differences_total": len(found),
        # Never to be read as "it runs".
        "depth": "structure verified, not started",
    }


# --- guests --------------------------------------------------------------------------------------------------------


def prove_guest(artefacts, source, _base):
    # type: (Artefacts, Dict[str, Any], str) -> Dict[str, Any]
    """Each guest's definition names that guest, and every copied disk has the digest that was read at the source."""
    guests, found, disks = source.get("guests") or {}, [], 0  # type: Dict[str, Any], List[str], int
    if not guests:
        raise VaultError("the ledger names no guests of %s; save it again" % artefacts.item, verdict="unknown")
    stored = {entry["name"]: entry for entry in artefacts.stored}
    for name, guest in sorted(guests.items()):
        definition = stored.get(guest["definition"])
        if definition is None:
            found.append("%s: its definition is not in the package" % name)
        elif str(guest["id"]).encode("utf-8") not in artefacts.text(definition):
            found.append("%s: its definition does not name %s" % (name, guest["id"]))
        for artefact, sha256 in sorted((guest.get("artefacts") or {}).items()):
            if artefact not in stored:
                found.append("%s: %s is not in the package" % (name, artefact))
            elif stored[artefact].get("plain_sha256") != sha256:
                found.append("%s: %s has another digest than at the source" % (name, artefact))
            elif stored[artefact]["role"] == "disk":
                disks += 1
    return {
        "verdict": "different" if found else "equal",
        "guests": len(guests),
        "disks": disks,
        "differences": found[:SHOWN],
        "differences_total": len(found),
        # Never to be read as "it runs".
        "depth": "definitions read, every artefact read back and compared by digest with the source; not started",
    }


# --- the whole -----------------------------------------------------------------------------------------------------


def prove(proof, artefacts, source, base, more=None):
    # type: (str, Artefacts, Dict[str, Any], str, Optional[Dict[str, Any]]) -> Dict[str, Any]
    """more: readable, readable_asked, pairs, allowed_differences (see vault_prove); without it nothing is exported."""
    if os.geteuid() == 0:
        raise VaultError("the proof runs as root; expected the vault's unprivileged user: a restore runs foreign code", "unknown")
    if proof in CLASSES:
        result = prove_database(proof, artefacts, source, base, more or {"readable": {"tables": False}})
    else:
        result = {"filestore": prove_filestore, "image": prove_image, "guest": prove_guest}[proof](artefacts, source, base)
    artefacts.rest()
    result["artefact_sha256s"] = {entry["name"]: entry["sha256"] for entry in artefacts.stored}
    return result


def question(proof, stored, source, allowed=()):
    # type: (str, List[Dict[str, Any]], Dict[str, Any], Any) -> Dict[str, Any]
    """What a proof record answers; another question needs another proof."""
    asked = {
        "proof": proof,
        "cipher_sha256": sorted(sha256 for entry in stored for _name, sha256, _size in cipher_files(entry)),
        "source_sha256": source.get("fingerprint_sha256") or source.get("manifest_sha256"),
    }  # type: Dict[str, Any]
    if allowed:
        asked["allowed_differences"] = sorted(allowed)
    return asked


def readable_question(package, asked, readable, pairs):
    # type: (Package, Dict[str, Any], Dict[str, Any], List[Dict[str, Any]]) -> str
    """What the export and the pair's verdict answer: the copy, the options, the manifests of the file stores as they are now."""
    return _canonical.digest([asked, readable, _pair.asked(package, pairs)])


def answered(package, item, record_result, digest, readable, sealed):
    # type: (Package, str, Dict[str, Any], str, Dict[str, Any], bool) -> bool
    """Whether an earlier equal proof left all that is asked for: its export whole, its pair compared with the manifests of now.

    A sealed package is what it was when it was sealed: nobody asks it anew.
    """
    if sealed:
        return True
    if record_result.get("readable_asked") != digest:
        return False
    return not _vault_readable.wanted(readable) or _vault_readable.state(package, item, digest) == "whole"


def already_proven(package, item, asked):
    # type: (Package, str, Dict[str, Any]) -> Optional[Dict[str, Any]]
    """The result of an earlier equal proof of the same question."""
    record = read_record(package.proof_path(item))
    if record and record.get("verdict") == "equal" and all(record.get(key) == value for key, value in asked.items()):
        return record["result"]
    return None


def keep(package, item, asked, result, source):
    # type: (Package, str, Dict[str, Any], Dict[str, Any], Dict[str, Any]) -> None
    """The record of a proof. With the facts about the source a sealed package can be proven again by itself."""
    record = dict(asked, verdict=result["verdict"], result=result, source=source, proven=_vault_package.utc_now())
    write_record(package.proof_path(item), record)


def tool_version(argv):
    # type: (List[str]) -> str
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=30, check=False)
    except OSError:
        return "not there"
    return (done.stdout.decode("utf-8", "replace").splitlines() or ["unknown"])[0][:80]
