# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a sealed package says about itself: package.json for everybody, contents.json for whoever can open it.

Private to the collection. Valid for Python 3.6, standard library. With both, a package can be proven again without the
estate, its plan or its ledger.
"""

import datetime
import glob
import json
import os
import re
from typing import Any, Dict, List, Optional, Tuple  # noqa: F401

from ansible_collections.sunset.crm.plugins.module_utils._vault import bag as vault_bag
from ansible_collections.sunset.crm.plugins.module_utils._vault.state import DATA, DIGESTS, KEYS, VaultError, cipher_files, read_record

VERSION = 1
UNCLASSIFIED = "unclassified"
DATE = re.compile(r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$")
SHA = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
SIZE = {"type": "integer", "minimum": 0}
FILE = {
    "type": "object",
    "required": ["path", "sha256", "bytes"],
    "properties": {"path": {"type": "string"}, "sha256": SHA, "bytes": SIZE},
}
SCHEMA = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "Contents of a sealed sunset.crm package (data/contents.json.age, after decryption)",
    "type": "object",
    "required": ["schema", "estate", "package", "sealed", "data_sets"],
    "properties": {
        "schema": {"const": VERSION},
        "estate": {"type": "string"},
        "package": {"type": "string"},
        "sealed": {"type": "string", "description": "when, UTC"},
        "data_sets": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["item", "slug", "kind", "proof", "identity", "artefacts", "source", "proven"],
                "properties": {
                    "item": {"type": "string", "description": "kind:name, as in the plan of the estate"},
                    "slug": {"type": "string", "description": "folder below data/"},
                    "kind": {"enum": ["database", "filestore", "container", "guest"]},
                    "proof": {"type": "string", "description": "how it is restored: the engine of a database, filestore, image or guest"},
                    "identity": {"enum": [DATA, KEYS], "description": "which of the package's identities opens it"},
                    "source": {
                        "type": "object",
                        "description": "facts about the source, among them the digest that a restored copy must have",
                    },
                    "allowed_differences": {
                        "type": "array",
                        "description": "tables whose content may differ in as many rows (all of it, or the rows and columns that are named): "
                        "the product changes it by itself",
                        "items": {"type": ["string", "object"]},
                    },
                    "proven": {
                        "type": "object",
                        "description": "the restore proof that was made before the sealing",
                        "required": ["verdict", "at"],
                        "properties": {"verdict": {"const": "equal"}, "at": {"type": "string"}, "depth": {"type": "string"}},
                    },
                    "artefacts": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "required": ["name", "file", "role", "sha256", "bytes", "files", "opened_by", "stored"],
                            "properties": {
                                "name": {"type": "string"},
                                "file": {"type": "string", "description": "its name after decryption"},
                                "role": {"type": "string"},
                                "sha256": dict(SHA, description="after decryption (segments joined), before decompression"),
                                "bytes": SIZE,
                                "plain_sha256": dict(SHA, description="after decompression"),
                                "plain_bytes": SIZE,
                                "files": {"type": "array", "items": FILE, "description": "the ciphertext, in order"},
                                "opened_by": {"type": "string"},
                                "stored": {"type": "object", "description": "the vault's own record of it"},
                            },
                        },
                    },
                    "readable": {
                        "type": "object",
                        "description": "export of the tables that needs no database: a ZIP",
                        "required": ["files", "plain_sha256"],
                        "properties": {"files": {"type": "array", "items": FILE}, "plain_sha256": SHA, "entities": {"type": "object"}},
                    },
                },
            },
        },
    },
}  # type: Dict[str, Any]

# (ending of the decrypted and decompressed file, what opens it); the first that fits.
OPENERS = (
    (".globals.sql", "psql -X -d template1 -f FILE (roles; before the dump)"),
    (
        ".pgcustom",
        "pg_restore -e -C --no-tablespaces -d template1 FILE (where it is the database postgres: rename the server's own before)",
    ),
    (".mysql.sql", "mysql --binary-mode --default-character-set=utf8mb4 <FILE"),
    (".mysql-users.sql", "mysql --force <FILE (accounts and grants; after the dumps, their objects must be there)"),
    (".users.sql", "mariadb --force <FILE (accounts and grants; after the dumps, their tables must be there)"),
    (".sql", "mariadb --binary-mode --default-character-set=utf8mb4 <FILE"),
    (".image.tar", "docker load -i FILE"),
    (".domain.xml", "virsh define FILE"),
    (".tar", "tar -xf FILE"),
    (".sqlite3", "sqlite3 FILE"),
    (".redis.jsonl", "one line of JSON a key; its dump (base64) is for RESTORE of redis-cli"),
    (".zip", "unzip FILE (CSV in UTF-8 with a table schema beside each)"),
    (".json", "any reader of JSON"),
    (".jsonl", "any reader of JSON, line by line"),
)


def text_of(value):
    # type: (Any) -> str
    return json.dumps(value, sort_keys=True, indent=1) + "\n"


def plain_name(name):
    # type: (str) -> str
    """The name after decompression."""
    return name.rsplit(".", 1)[0] if name.rsplit(".", 1)[-1] in ("zst", "gz") else name


def opened_by(name):
    # type: (str) -> str
    plain = plain_name(name)
    for ending, command in OPENERS:
        if plain.endswith(ending):
            return command
    return "no program is known for this ending"


# --- retention -----------------------------------------------------------------------------------------------------


def check_retention(given):
    # type: (Optional[Dict[str, Any]]) -> Dict[str, Any]
    """{class, until, hold} as it is written into the package; no class is unclassified, which never ends by itself."""
    given = given or {}
    strange = sorted(set(given) - {"class", "until", "hold"})
    if strange:
        raise VaultError("retention has the field %s; expected class, until and hold" % ", ".join(strange))
    until = given.get("until") or None
    if until is not None and day(until) is None:
        raise VaultError("retention.until is %r; expected a day such as 2036-12-31" % (until,))
    name = vault_bag.one_line(given.get("class") or UNCLASSIFIED)
    if name == UNCLASSIFIED and until is not None:
        raise VaultError("retention.until is %s without a class; give the class that asks for it" % until)
    return {"class": name, "until": until, "hold": bool(given.get("hold"))}


def day(text):
    # type: (Any) -> Optional[datetime.date]
    """A day written as YYYY-MM-DD; None when it is not one."""
    if not DATE.match(str(text)):
        return None
    try:
        return datetime.date(*[int(part) for part in str(text).split("-")])
    except ValueError:
        return None


def past(retention, today):
    # type: (Dict[str, Any], datetime.date) -> str
    """Whether the package may be thought of for destruction: yes, no, or unknown where no end is set. A hold is said apart."""
    end = day(retention.get("until"))
    if end is None:
        return "unknown"
    return "yes" if end < today else "no"


# --- what is in it -------------------------------------------------------------------------------------------------


def readable_records(package):
    # type: (Any) -> List[Dict[str, Any]]
    """The readable exports, each with the slug of its data set; the file is data/readable/<slug>.zip.age."""
    found = []
    for path in sorted(glob.glob(os.path.join(glob.escape(package.state_dir), "*.readable.json"))):
        record = read_record(path)
        if record is not None:
            slug = os.path.basename(path)[: -len(".readable.json")]
            found.append(dict(record, slug=slug, path="%s/%s.zip.age" % (vault_bag.READABLE, slug)))
    return found


def document(package, date, records, readable):
    # type: (Any, str, List[Tuple[str, Dict[str, Any], Optional[Dict[str, Any]]]], List[Dict[str, Any]]) -> Dict[str, Any]
    """contents.json: with it and the package alone every data set can be restored and compared again."""
    exports = {one["slug"]: one for one in readable}
    sets = []
    for slug, stored, proof in records:
        proof = proof or {}
        result = proof.get("result") or {}
        one = {
            "item": stored["item"],
            "slug": slug,
            "kind": stored["item"].partition(":")[0],
            "proof": proof.get("proof", ""),
            "identity": identity_of(stored),
            "source": proof.get("source") or {},
            "proven": {
                key: value
                for key, value in (
                    ("verdict", proof.get("verdict")),
                    ("at", proof.get("proven")),
                    ("depth", result.get("depth")),
                    ("engine_version", result.get("engine_version")),
                    ("source_version", result.get("source_version")),
                )
                if value is not None
            },
            "artefacts": [artefact(slug, entry) for entry in stored["artefacts"]],
        }
        if proof.get("allowed_differences"):
            one["allowed_differences"] = proof["allowed_differences"]
        if slug in exports:
            export = exports[slug]
            path = {"path": export["path"], "sha256": export["cipher_sha256"], "bytes": int(export["cipher_bytes"])}
            kept = {key: export[key] for key in ("plain_sha256", "plain_bytes", "tables", "rows", "entities") if key in export}
            one["readable"] = dict(kept, files=[path])  # type: ignore[arg-type]
        sets.append(one)
    return {"schema": VERSION, "estate": package.estate, "package": package.name, "sealed": date, "data_sets": sets}


def identity_of(stored):
    # type: (Dict[str, Any]) -> str
    """Which identity opens a data set: keys where one of its artefacts says so."""
    return KEYS if any(entry.get("identity") == KEYS for entry in stored["artefacts"]) else DATA


def artefact(slug, entry):
    # type: (str, Dict[str, Any]) -> Dict[str, Any]
    kept = {key: entry[key] for key in ("name", "file", "role", "sha256", "bytes", "plain_sha256", "plain_bytes") if key in entry}
    files = [{"path": "data/%s/%s" % (slug, name), "sha256": sha, "bytes": size} for name, sha, size in cipher_files(entry)]
    return dict(kept, files=files, opened_by=opened_by(entry["file"]), stored=entry)  # type: ignore[arg-type]


def facts(package, record, date, retention):
    # type: (Any, Dict[str, Any], str, Dict[str, Any]) -> Dict[str, Any]
    """package.json: what whoever holds the package, without any key, must know to check it and to ask for its keys."""
    wrapped = [
        {
            "custodian": one["custodian"],
            "identity": one.get("identity", DATA),
            "file": os.path.basename(one["path"]),
            "sha256": one["sha256"],
        }
        for one in record["wrapped"]
    ]
    known = {DIGESTS[which]: record[DIGESTS[which]] for which in (DATA, KEYS) if record.get(DIGESTS[which])}
    return dict(known, schema=VERSION, estate=package.estate, package=package.name, sealed=date, wrapped=wrapped, retention=retention)


def read_facts(package):
    # type: (Any) -> Dict[str, Any]
    found = read_record(os.path.join(package.bag, vault_bag.FACTS))
    if not isinstance(found, dict) or found.get("schema") != VERSION:
        raise VaultError(
            "%s/%s is not there or of another version than %d; this package was sealed by another version of the collection"
            % (package.bag, vault_bag.FACTS, VERSION),
            verdict="unknown",
        )
    return found


def info(record, retention, records, readable):
    # type: (Dict[str, Any], Dict[str, Any], List[Any], List[Any]) -> Dict[str, Any]
    """The collection's own fields of bag-info.txt; nothing in them names a customer's thing."""
    kinds = {}  # type: Dict[str, int]
    for _slug, stored, _proof in records:
        kind = stored["item"].partition(":")[0]
        kinds[kind] = kinds.get(kind, 0) + 1
    return {
        "Sunset-Retention-Class": retention["class"],
        "Sunset-Retain-Until": retention["until"] or "no end is set",
        "Sunset-Legal-Hold": "yes" if retention["hold"] else "no",
        "Sunset-Contents": ", ".join("%d %s" % (count, kind) for kind, count in sorted(kinds.items())),
        "Sunset-Readable-Exports": len(readable),
        "Sunset-Contents-Schema": VERSION,
        "Sunset-Identities": 2 if record.get(DIGESTS[KEYS]) else 1,
    }
