#!/usr/bin/python
# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: vault_prove
short_description: Proves a stored copy by opening, restoring and comparing it
version_added: 0.1.0
description:
  - Runs on a vault, as an unprivileged user, while the package's identity is in its memory.
  - Opens every artefact of a data set, checks the digests of ciphertext, staged file and content, restores the data set in
    memory and compares it with what was read at the source.
  - A database goes into a throw-away server of the same engine and name that has a unix socket and no network. A file store
    is extracted. A SQLite copy is opened read-only and checked by SQLite's own C(integrity_check). An image's structure is checked; it is not started.
    Of virtual machines every artefact is compared by digest with what was read at the source; none is started.
  - Only the verdict V(equal) is success. V(different) and V(unknown) fail and say what was found.
options:
  proof:
    description: What kind of proof is made.
    type: str
    choices: [postgresql, mariadb, mysql, sqlite, redis, filestore, image, guest]
    required: true
  artefacts:
    description: The artefacts as the dump's evidence in the ledger names them. May be empty in check mode only.
    type: list
    elements: dict
    required: true
  source:
    description: What the dump's evidence in the ledger says about the source (engine, version, fingerprint or manifest digest).
    type: dict
    default: {}
  scratch:
    description: Directory in memory for the restore. Must be tmpfs. What a killed proof left there is removed by the next one.
    type: path
    default: /dev/shm
  secret:
    description: As in M(sunset.crm.vault_pull).
    type: bool
    default: false
  readable:
    description:
      - What is written for people who have no such application any more, while the proven copy is up. Databases only.
      - One ZIP, encrypted to the package, with every table as CSV beside a C(datapackage.json) of Frictionless.
      - C(tables) (default V(true)), C(entities) (from the product's profile), C(xlsx) (default V(true); entities only).
    type: dict
    default: {}
  pairs:
    description: >-
      Which rows of the database name files of which file store. Each has C(filestore), C(package), C(rows) and C(unneeded). The rows
      of the restored copy are compared with the manifest of the file store in its package on this vault. Databases only.
    type: list
    elements: dict
    default: []
  allowed_differences:
    description:
      - What may differ, because the product changes it by itself. What was allowed is named in C(result.depth).
      - The name of a table allows other content in as many rows of it. A mapping with C(table), and C(where) (column, list of texts) or
        C(columns) or both, allows it in those rows and columns alone; the dump must have been made with it (C(apart) of M(sunset.crm.database_dump)).
    type: list
    elements: raw
    default: []
  again:
    description: Make the proof again although an equal one is on record for the same copy.
    type: bool
    default: false
extends_documentation_fragment:
  - sunset.crm.recorded
  - sunset.crm.recorded.package
author:
  - sunset.crm contributors
"""

EXAMPLES = r"""
- name: Prove the copy of a database
  sunset.crm.vault_prove:
    item: database:crm
    root: /srv/vault/packages
    estate: lab
    package: db1
    proof: postgresql
    artefacts: "{{ dump.result.artefacts }}"
    source: "{{ dump.result.source }}"
"""

RETURN = r"""
result:
  description: What later steps and gates read from the ledger.
  returned: always
  type: dict
  contains:
    verdict:
      description: The word of the proof (equal, different, unknown).
      returned: when a comparison was made
      type: str
      sample: equal
    tables:
      description: Tables that were compared.
      returned: databases
      type: int
      sample: 214
    rows:
      description: Rows that were compared.
      returned: databases
      type: int
      sample: 18342
    files:
      description: Files that were compared.
      returned: file stores
      type: int
      sample: 312
    layers:
      description: Layers whose digest is the one that the image names.
      returned: images
      type: int
      sample: 4
    differences:
      description: At most a hundred differences. For file stores their kinds and numbers, without names.
      returned: when a comparison was made
      type: list
      elements: raw
      sample: []
    differences_total:
      description: How many there are.
      returned: when a comparison was made
      type: int
      sample: 0
    set_again:
      description: Statements that were taken from the source's fingerprint, because the dump does not hold what they say (PostgreSQL, what was
        altered of extensions' functions). Who restores by hand runs them after the extensions and before the indexes.
      returned: databases
      type: list
      elements: str
      sample: [ALTER FUNCTION public.unaccent(text) IMMUTABLE]
    engine_version:
      description: Version of the server that the copy was restored into.
      returned: databases
      type: str
      sample: "15.18"
    source_version:
      description: Version of the source's server.
      returned: databases
      type: str
      sample: "15.18"
    version_relation:
      description: How the two versions stand to each other (same, same major, newer, vendor changed, unknown).
      returned: databases
      type: str
      sample: same
    fingerprint_sha256:
      description: Digest of the restored copy's fingerprint; equal to the source's where the verdict is V(equal).
      returned: databases
      type: str
      sample: 2b1f03cd3e4de4e4a5b8d4b7c9a04d5cd5c8a8d7f1e1c4c0bd51a1a7b6f9f2aa
    network:
      description: What the throw-away server could have reached; V(none) where a network namespace of its own could be made.
      returned: databases
      type: str
      sample: "none: a network namespace of its own"
    hidden:
      description: Directories of the vault, its packages and live identities among them, that the throw-away server could not see; none where
        its account cannot make a mount namespace.
      returned: databases
      type: list
      elements: str
      sample: [/dev/shm/sunset-vault-906, /proc, /srv/vault]
    readable:
      description: The readable export (file, digests, tables, rows, records of each entity, what is absent); V(null) if none was asked for.
      returned: databases
      type: dict
      sample: {tables: 214, rows: 18342, entities: {contacts: 301}}
    pair:
      description: Attachment rows against files (verdict paired, unpaired or unknown; rows, files, missing, orphans). Counts only.
      returned: databases, where file stores are declared
      type: dict
      sample: {verdict: paired, rows: 60, files: 60, missing: 0, orphans: 0}
    artefact_sha256s:
      description: Digests of the staged files that were opened.
      returned: when a comparison was made
      type: dict
      sample: {crm.pgcustom.zst: 9c1f...}
    depth:
      description: What the verdict rests on, in words.
      returned: when a comparison was made
      type: str
      sample: restored into a throw-away server of the same name and compared table by table
evidence:
  description: Before, actions, after, times and tool versions, as the ledger records them.
  returned: always
  type: dict
evidence_sha256:
  description: Digest of the evidence.
  returned: always
  type: str
"""

from ansible_collections.sunset.crm.plugins.module_utils import _job
from ansible_collections.sunset.crm.plugins.module_utils._export import readable as export_readable
from ansible_collections.sunset.crm.plugins.module_utils._fingerprint import apart as fingerprint_apart
from ansible_collections.sunset.crm.plugins.module_utils._proof import run as proof_run
from ansible_collections.sunset.crm.plugins.module_utils._recorded import Recorded
from ansible_collections.sunset.crm.plugins.module_utils._vault import age as vault_age, pull as vault_pull
from ansible_collections.sunset.crm.plugins.module_utils._vault.state import Package, VaultError, item_slug, read_record


def run(rec):
    params = rec.params
    package = Package(params["root"], params["estate"], params["package"], params["live_dir"])
    item_slug(rec.item)
    artefacts = vault_pull.check_artefacts(params["artefacts"], params["secret"])
    if not artefacts and not rec.check_mode:
        raise VaultError("artefacts is empty; expected what the dump of %s left in the ledger" % rec.item)
    seen = vault_pull.observe(package, rec.item, artefacts)
    whole = bool(artefacts) and vault_pull.unchanged(seen)
    stored = (read_record(package.stored_path(rec.item)) or {"artefacts": []})["artefacts"]
    more = {}
    if params["proof"] in proof_run.READERS:
        more = {name: params[name] for name in ("readable", "pairs", "allowed_differences")}
        export_readable.check(more["readable"])
        wrong = fingerprint_apart.problem(more["allowed_differences"])
        if wrong:
            raise VaultError("allowed_differences: %s" % wrong)
    asked = proof_run.question(params["proof"], stored, params["source"], more.get("allowed_differences", ()))
    known = proof_run.already_proven(package, rec.item, asked) if whole and not params["again"] else None
    sealed = package.record()["state"] in ("sealed", "forgotten")
    if more:
        more["readable_asked"] = proof_run.readable_question(package, asked, more["readable"], more["pairs"])
        if known is not None and not proof_run.answered(package, rec.item, known, more["readable_asked"], more["readable"], sealed):
            known = None
    rec.before({"artefacts": seen["artefacts"], "proven": known is not None})
    if known is not None or rec.check_mode:
        rec.after({"artefacts": seen["artefacts"], "proven": known is not None})
        rec.finish(changed=known is None, verdict="yes" if known else "unknown", result=known or {"verdict": "unknown"})
    if not whole:
        raise VaultError(
            "the package does not hold %s as the ledger describes it (%s); the stored copy was altered or is not there; pull it "
            "again, then prove it" % (rec.item, ", ".join("%s: %s" % one for one in sorted(seen["artefacts"].items()))),
            artefacts=seen["artefacts"],
        )
    package.require_live()
    for tool, version in vault_age.tool_versions(rec.read).items():
        rec.tool(tool, version)
    for tool in ("zstd", "tar"):
        rec.tool(tool, proof_run.tool_version([tool, "--version"]))
    opened = proof_run.Artefacts(package, rec.item, stored, rec)
    earlier = {}
    if more and sealed:
        # A sealed package gets nothing new: the copy is proven again, its export is what it was.
        earlier = (read_record(package.proof_path(rec.item)) or {}).get("result", {})
        more.update(readable={"tables": False}, pairs=[])
    elif more:
        export_readable.scrub(package, rec.item)
        earlier = {"readable_asked": more["readable_asked"]}
    result = proof_run.prove(params["proof"], opened, params["source"], params["scratch"], more)
    result.update({key: earlier[key] for key in ("readable_asked", "readable", "pair") if key in earlier})
    proof_run.keep(package, rec.item, asked, result, params["source"])
    rec.after({"artefacts": seen["artefacts"], "proven": result["verdict"] == "equal"})
    if result["verdict"] != "equal":
        rec.fail(
            "the restored copy of %s is %s: %d differences, the first: %s; do not go on; look at the source and make the dump again"
            % (rec.item, result["verdict"], result["differences_total"], first_words(result)),
            **dict(result, verdict_word=result["verdict"], verdict="no" if result["verdict"] == "different" else "unknown"),
        )
    rec.finish(changed=True, result=result)


def first_words(result):
    """The first differences in a sentence."""
    words = []
    for one in result["differences"][:5] or result.get("not_restored") or ["nothing listed"]:
        if isinstance(one, dict) and "kind" in one:
            words.append("%s %s %s" % (one["kind"], one["name"], one["what"]))
        elif isinstance(one, dict):
            words.append("%s: %d" % (one["what"], one["entries"]))
        else:
            words.append(str(one))
    return "; ".join(words)


def main():
    rec = Recorded(
        argument_spec=dict(
            root=dict(type="path", required=True),
            estate=dict(type="str", required=True),
            package=dict(type="str", required=True),
            live_dir=dict(type="path"),
            proof=dict(
                type="str", choices=["postgresql", "mariadb", "mysql", "sqlite", "redis", "filestore", "image", "guest"], required=True
            ),
            artefacts=dict(type="list", elements="dict", required=True),
            source=dict(type="dict", default={}),
            scratch=dict(type="path", default="/dev/shm"),  # noqa: S108 - memory, on purpose
            secret=dict(type="bool", default=False, no_log=False),
            readable=dict(type="dict", default={}),
            pairs=dict(type="list", elements="dict", default=[]),
            allowed_differences=dict(type="list", elements="raw", default=[]),
            again=dict(type="bool", default=False),
        ),
        object_lock="vault",
    )
    _job.for_throughput()
    try:
        run(rec)
    except VaultError as exc:
        rec.fail(str(exc), verdict=exc.verdict, **exc.result)
    except (IOError, OSError) as exc:
        rec.fail("%s: %s" % (exc.filename or "input or output", exc.strerror), verdict="unknown")


if __name__ == "__main__":
    main()
