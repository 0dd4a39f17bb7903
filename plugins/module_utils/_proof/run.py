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
from typing import Any, Dict, List, Optional, Sequence, Tuple  # noqa: F401

from ansible_collections.sunset.crm.plugins.module_utils import _canonical
from ansible_collections.sunset.crm.plugins.module_utils._copy import (
    filestore as copy_filestore,
    filestore_archive as copy_filestore_archive,
)
from ansible_collections.sunset.crm.plugins.module_utils._database import sqlclient as database_sqlclient
from ansible_collections.sunset.crm.plugins.module_utils._export import (
    lite as export_lite,
    pair as export_pair,
    readable as export_readable,
    sql as export_sql,
)
from ansible_collections.sunset.crm.plugins.module_utils._fingerprint import apart as fingerprint_apart, engines as fingerprint_engines
from ansible_collections.sunset.crm.plugins.module_utils._proof import (
    alone as proof_alone,
    image as proof_image,
    mariadb as proof_mariadb,
    mysql as proof_mysql,
    postgresql as proof_postgresql,
    redis as proof_redis,
    sqlite as proof_sqlite,
    still as proof_still,
)
from ansible_collections.sunset.crm.plugins.module_utils._proof.scratch import Feed, Scratch
from ansible_collections.sunset.crm.plugins.module_utils._vault import package as vault_package, stream as vault_stream
from ansible_collections.sunset.crm.plugins.module_utils._vault.state import (
    Package,  # noqa: F401
    VaultError,
    cipher_files,
    read_record,
    write_record,
)

SERVERS = {
    "postgresql": proof_postgresql,
    "mariadb": proof_mariadb,
    "mysql": proof_mysql,
    "sqlite": proof_sqlite,
    "redis": proof_redis,
}  # type: Dict[str, Any]
CLASSES = {
    "postgresql": proof_postgresql.Postgresql,
    "mariadb": proof_mariadb.Mariadb,
    "mysql": proof_mysql.Mysql,
    "sqlite": proof_sqlite.Sqlite,
    "redis": proof_redis.Redis,
}  # type: Dict[str, Any]
# Engines with tables; what a Redis holds is read from its dump.
READERS = {
    "postgresql": export_sql.PostgresqlReader,
    "mariadb": export_sql.MariadbReader,
    "mysql": export_sql.MysqlReader,
    "sqlite": export_lite.LiteReader,
}  # type: Dict[str, Any]
MEMORY_LIMIT = 256 << 20
SHOWN = 100
# Kinds of differences that are no definitions.
DATA = ("table", "large object", "sequence value")
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
        codec = vault_stream.codec_of(entry["file"])
        identity = self.package.identity_of(entry.get("identity"))
        facts = vault_stream.decrypt_entry(self.package.folder(self.item), entry, identity, codec, sink)
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
    network = check_network(wanted)
    with scratch, CLASSES[engine](scratch, source) as server:
        for entry in artefacts.of(*server.passes_globals):
            server.load_globals(artefacts.text(entry))
        feed = server.feed(wanted)
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
            with fingerprint_engines.open_session(engine, **server.session_arguments(wanted["database"])) as session:
                rules = [one["rule"] for one in wanted.get("apart", {}).values()]
                copy = without_own(fingerprint_engines.take(engine, session, wanted["database"], method=wanted["method"], apart=rules))
            differences, allowed = allow(fingerprint_engines.compare(wanted, copy), more.get("allowed_differences") or [], wanted, copy)
        except (database_sqlclient.SqlError, ValueError, LookupError) as exc:
            raise VaultError("the restored copy could not be compared: %s" % exc, verdict="unknown")
        not_restored = server.not_restored
        verdict = fingerprint_engines.verdict(differences)
        wrong = apart_by_major(engine, wanted, copy, differences)
        if wrong:
            raise VaultError(wrong, verdict="unknown", differences=differences[:SHOWN], differences_total=len(differences))
        if not_restored and verdict == "equal":
            verdict = "unknown"
        extra = read_copy(engine, artefacts, server, scratch, wanted["database"], copy, more) if verdict == "equal" else {}
    totals = fingerprint_engines.totals(copy)
    result = {
        "verdict": verdict,
        "tables": totals["tables"],
        "rows": totals["rows"],
        "objects": totals["objects"],
        "differences": differences[:SHOWN],
        "differences_total": len(differences),
        "not_restored": not_restored,
        # Statements from the fingerprint: the dump does not hold what they say.
        "set_again": server.set_again,
        # Tables whose rows are kept on another server: no copy of this one can hold them.
        "data_elsewhere": wanted.get("notes", {}).get("data_elsewhere", []),
        "engine_version": copy["version"],
        "source_version": wanted.get("version"),
        "version_relation": relation(str(wanted.get("version")), str(copy["version"]), engine),
        "fingerprint_sha256": fingerprint_engines.digest(copy),
        # What the throw-away server could have reached while the copy was up.
        "network": network,
        # Directories of the vault that it could not have seen.
        "hidden": scratch.unseen,
        "depth": depth(differences, allowed, server.set_again),
    }
    return dict(result, **extra)


def depth(differences, allowed, set_again=()):
    # type: (List[Dict[str, Any]], List[str], Sequence[str]) -> str
    """What the verdict rests on, and what it does not say. A restore fills materialized views anew: rows that only an old one still held
    are in no copy. Pure."""
    words, stale = DEPTH, [one["name"] for one in differences if one["kind"] == "materialized view" and one["derived"]]
    if allowed:
        words += "; allowed to differ in content: %s" % ", ".join(allowed)
    if set_again:
        words += "; set again from the fingerprint, since no dump holds it: %s" % "; ".join(set_again)
    if stale:
        words += "; filled anew, with other rows than at the source: the materialized views %s" % ", ".join(stale)
    return words


def apart_by_major(engine, wanted, copy, differences):
    # type: (str, Dict[str, Any], Dict[str, Any], List[Dict[str, Any]]) -> str
    """Why a difference says nothing: a newer major version of PostgreSQL prints and keeps definitions in another way, so that they differ
    although the copy lost nothing. Rows, large objects and sequences' values are read alike in all. Empty where it does say something."""
    decide = [one for one in differences if not one["derived"]]
    newer = engine == "postgresql" and relation(str(wanted.get("version")), str(copy["version"]), engine) == "newer"
    if not newer or not decide or any(one["kind"] in DATA for one in decide):
        return ""
    named = "; ".join("%s %s %s" % (one["kind"], one["name"], one["what"]) for one in decide[:5])
    return (
        "all rows are in the copy, but definitions cannot be compared across major versions: the source ran PostgreSQL %s, the vault's "
        "server is %s (%d differ, the first: %s); install the source's major version on the vault, then prove it again"
        % (wanted.get("version"), copy["version"], len(decide), named)
    )


def check_network(wanted):
    # type: (Dict[str, Any]) -> str
    """What the throw-away server will be able to reach; refused where that is something and the copy knows whom to call."""
    network, reaching = proof_alone.network(), proof_alone.reaching(wanted)
    if network != proof_alone.NONE and reaching:
        raise VaultError(
            "the copy holds %s, and could speak to other machines while it is restored, because its server would have the network of %s; "
            "let the vault's user make user namespaces (user.max_user_namespaces; in a container its seccomp profile), or prove it elsewhere"
            % (", ".join(reaching[:10]), network),
            verdict="unknown",
        )
    return network


def read_copy(engine, artefacts, server, scratch, database, copy, more):
    # type: (str, Artefacts, Any, Scratch, str, Dict[str, Any], Dict[str, Any]) -> Dict[str, Any]
    """While the equal copy is up: the pair with its file stores, and everything readable without the application."""
    if engine not in READERS or not (more.get("pairs") or export_readable.wanted(more.get("readable") or {})):
        return {"readable": None}
    counts = {name: one["rows"] for name, one in copy["tables"].items()}
    with contextlib.closing(READERS[engine](server, database, scratch, counts)) as reader:
        return read_with(reader, artefacts, scratch, copy, counts, more)


def read_with(reader, artefacts, scratch, copy, counts, more):
    # type: (Any, Artefacts, Scratch, Dict[str, Any], Dict[str, int], Dict[str, Any]) -> Dict[str, Any]
    readable, pairs, found = more.get("readable") or {}, more.get("pairs") or [], {}  # type: Any, Any, Dict[str, Any]
    compared = []  # type: List[Any]
    if pairs:
        found["pair"], compared = export_pair.compare(artefacts.package, reader, pairs, artefacts.open_manifest)
        artefacts.rec.note(act="compared attachment rows with files", verdict=found["pair"]["verdict"])
    found["readable"] = None
    if export_readable.wanted(readable):
        about = {"engine": reader.engine, "version": copy["version"], "fingerprint_sha256": fingerprint_engines.digest(copy)}
        record = export_readable.make(
            artefacts.package,
            artefacts.item,
            reader,
            counts,
            readable,
            more["readable_asked"],
            scratch.path,
            (lambda: export_pair.lists(compared)) if compared else None,
            about,
        )
        found["readable"] = export_readable.told(record)
        artefacts.rec.note(act="wrote the readable export", tables=record["tables"], rows=record["rows"])
    return found


def allow(differences, allowed, wanted=None, copy=None):
    # type: (List[Dict[str, Any]], List[Any], Any, Any) -> Tuple[List[Dict[str, Any]], List[str]]
    """Take out what the product changes by itself: other content in as many rows of a listed table, or, where a rule names rows or columns
    of it, in those alone: everything else of the table must have the same second hash on both sides. (the rest, what was allowed)."""
    rest, named = [], []
    for one in differences:
        table = one["name"][len("public.") :] if one["name"].startswith("public.") else one["name"]
        said = [rule for rule in allowed if rule == table or isinstance(rule, dict) and rule["table"] == table]
        words = [word for word in (allowed_by(rule, one["name"], wanted, copy) for rule in said) if word]
        if one["kind"] == "table" and one["what"] == "content" and words:
            named.append(words[0])
        else:
            rest.append(one)
    return rest, named


def allowed_by(rule, name, wanted, copy):
    # type: (Any, str, Any, Any) -> Optional[str]
    """In words what a rule allows of a table that differs; None where it differs in more than that, or nobody hashed the rest."""
    if not isinstance(rule, dict):
        return str(rule)
    ours, theirs = ((one or {}).get("apart", {}).get(name) for one in (copy, wanted))
    if ours is None or ours != theirs or ours["rule"] != rule:
        return None
    return fingerprint_apart.words(rule)


def without_own(copy):
    # type: (Dict[str, Any]) -> Dict[str, Any]
    """The copy's fingerprint without the account that the proof works with: it says nothing about the copy."""
    for kind, name in (("role", proof_postgresql.ROLE), ("account", "'%s'@'localhost'" % proof_mariadb.ACCOUNT)):
        copy.get("globals", {}).get(kind, {}).pop(name, None)
    members = copy.get("globals", {}).get("membership", {})
    for member in [one for one in members if one.startswith("'%s'@" % proof_mariadb.ACCOUNT)]:
        del members[member]
    return copy


def source_fingerprint(artefacts, source):
    # type: (Artefacts, Dict[str, Any]) -> Dict[str, Any]
    """The fingerprint that was taken at the source; it must be the one that the ledger knows."""
    try:
        found = json.loads(artefacts.text(artefacts.one("fingerprint")).decode("utf-8"))
        digest = fingerprint_engines.digest(found)
    except (ValueError, AttributeError, TypeError):
        raise VaultError("the fingerprint artefact is no fingerprint; make the dump again", verdict="unknown")
    if source.get("fingerprint_sha256") != digest:
        raise VaultError(
            "the package's fingerprint has the digest %s; the ledger says %s for the source; they are not of the same dump"
            % (digest, source.get("fingerprint_sha256")),
            verdict="unknown",
        )
    return found


def relation(source, here, engine=""):
    # type: (str, str, str) -> str
    """How the proving server's version stands to the source's: same, same major, newer, vendor changed, unknown."""
    if source == here:
        return "same"
    if ("mariadb" in source.lower()) != ("mariadb" in here.lower()):
        return "vendor changed"
    # 8.0 and 8.4, 10.6 and 10.11 are releases apart; PostgreSQL counts by its first number.
    pattern = r"(\d+)\.(\d+)" if engine == "mysql" or "mariadb" in (source + here).lower() else r"(\d+)()"
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
        feed = Feed(scratch, lambda _first: tar_argv(tree), "tar")
        owners = proof_image.PipeReader(lambda archive: copy_filestore_archive.tar_owner_differences(entries, archive))

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
            told = sorted(set(told + copy_filestore.verify_tree(entries, tree)))
        except copy_filestore.TreeError as exc:
            raise VaultError("the extracted tree could not be compared: %s" % exc, verdict="unknown")
    totals = copy_filestore.totals(entries)
    return {
        "verdict": "different" if told else "equal",
        "files": totals["files"],
        "entries": totals["entries"],
        "bytes": totals["bytes"],
        # Names of files are customers' data: only how many, and in what.
        "differences": count_kinds(told),
        "differences_total": len(told),
        "manifest_sha256": copy_filestore.manifest_digest(entries),
        "depth": "extracted and compared entry by entry; owners and users' attributes compared in the archive's headers",
    }


def manifest_of(artefacts, source):
    # type: (Artefacts, Dict[str, Any]) -> List[Dict[str, Any]]
    try:
        entries = copy_filestore.read_manifest(artefacts.text(artefacts.one("manifest")).splitlines())
        digest = copy_filestore.manifest_digest(entries)
    except (ValueError, TypeError, KeyError):
        raise VaultError("the manifest artefact is no manifest; make the archive again", verdict="unknown")
    if source.get("manifest_sha256") != digest:
        raise VaultError(
            "the package's manifest has the digest %s; the ledger says %s for the source; they are not of the same archive"
            % (digest, source.get("manifest_sha256")),
            verdict="unknown",
        )
    return entries


def tar_argv(tree):
    # type: (str) -> List[str]
    # --ignore-zeros: it reads to the end of the stream, the padding behind the end mark too. No --xattrs: without root, tar cannot open a
    # file that has attributes and that its owner may not write to.
    return ["tar", "--extract", "--ignore-zeros", "--file=-", "--directory=" + tree, "--preserve-permissions", "--numeric-owner", "--acls"]


def count_kinds(told):
    # type: (List[str]) -> List[Dict[str, Any]]
    """ "x differs in size, sha256" -> {"what": "differs in size, sha256", "entries": n}, without the names."""
    kinds = {}  # type: Dict[str, int]
    for line in told:
        match = re.search(r"(differs in [a-z0-9_, ]+|is missing|is new|is in the archive only|is not in the archive)$", line)
        what = match.group(1) if match else "differs"
        kinds[what] = kinds.get(what, 0) + 1
    return [{"what": what, "entries": count} for what, count in sorted(kinds.items())]


# --- the whole -----------------------------------------------------------------------------------------------------


def prove(proof, artefacts, source, base, more=None):
    # type: (str, Artefacts, Dict[str, Any], str, Optional[Dict[str, Any]]) -> Dict[str, Any]
    """more: readable, readable_asked, pairs, allowed_differences (see vault_prove); without it nothing is exported."""
    if os.geteuid() == 0:
        raise VaultError("the proof runs as root; expected the vault's unprivileged user: a restore runs foreign code", "unknown")
    if proof in CLASSES:
        result = prove_database(proof, artefacts, source, base, more or {"readable": {"tables": False}})
    else:
        result = {"filestore": prove_filestore, "image": proof_still.prove_image, "guest": proof_still.prove_guest}[proof](
            artefacts, source, base
        )
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
        asked["allowed_differences"] = sorted(allowed, key=_canonical.canonical)
    return asked


def readable_question(package, asked, readable, pairs):
    # type: (Package, Dict[str, Any], Dict[str, Any], List[Dict[str, Any]]) -> str
    """What the export and the pair's verdict answer: the copy, the options, the manifests of the file stores as they are now."""
    return _canonical.digest([asked, readable, export_pair.asked(package, pairs)])


def answered(package, item, record_result, digest, readable, sealed):
    # type: (Package, str, Dict[str, Any], str, Dict[str, Any], bool) -> bool
    """Whether an earlier equal proof left all that is asked for: its export whole, its pair compared with the manifests of now.

    A sealed package is what it was when it was sealed: nobody asks it anew.
    """
    if sealed:
        return True
    if record_result.get("readable_asked") != digest:
        return False
    return not export_readable.wanted(readable) or export_readable.state(package, item, digest) == "whole"


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
    record = dict(asked, verdict=result["verdict"], result=result, source=source, proven=vault_package.utc_now())
    write_record(package.proof_path(item), record)


def tool_version(argv):
    # type: (List[str]) -> str
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=30, check=False)
    except OSError:
        return "not there"
    return (done.stdout.decode("utf-8", "replace").splitlines() or ["unknown"])[0][:80]
