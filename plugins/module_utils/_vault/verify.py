# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Verification of a sealed package at any later time, from the package alone: fixity, and on request a new restore proof.

Private to the collection. Valid for Python 3.6, standard library. It reads; the one thing that it removes is the identity
that a custodian lent for the proof. A verdict is intact, damaged, unknown, or destroyed where a tombstone says so.
"""

import contextlib
import datetime
import json
import os
import re
import stat
import tempfile
from typing import Any, Dict, Iterator, List, Optional, Tuple  # noqa: F401

from ansible_collections.sunset.crm.plugins.module_utils import _recorded
from ansible_collections.sunset.crm.plugins.module_utils._fingerprint import apart as fingerprint_apart
from ansible_collections.sunset.crm.plugins.module_utils._proof import run as proof_run
from ansible_collections.sunset.crm.plugins.module_utils._vault import (
    bag as vault_bag,
    contents as vault_contents,
    package as vault_package,
    seal as vault_seal,
    stream as vault_stream,
)
from ansible_collections.sunset.crm.plugins.module_utils._vault.state import (
    DATA,
    DIGESTS,
    NAME,
    RESERVED,
    Package,  # noqa: F401
    VaultError,
    cipher_files,
    item_slug,
    read_record,
    require_memory,
    sha256_file,
)

CONTENTS_LIMIT = 256 << 20
KEPT = ("verdict", "tables", "rows", "files", "entries", "images", "layers", "differences_total", "engine_version", "depth")


class Notes(object):
    """What the code of the proof writes down, here for the result of the verification."""

    def __init__(self):
        # type: () -> None
        self.actions = []  # type: List[Dict[str, Any]]

    def note(self, **action):
        # type: (**Any) -> None
        self.actions.append(action)

    def read(self, argv, stdin="", timeout=60, env=None):
        # type: (List[str], str, float, Optional[Dict[str, str]]) -> Any
        return _recorded.run_command(argv, stdin=stdin, timeout=timeout, env=env)


def packages_here(estate_dir, expected):
    # type: (str, Dict[str, Any]) -> List[str]
    """Names of every package that lies here, has records here, or is expected here: an absence is named, too."""
    found = set(expected)
    for folder in (estate_dir, os.path.join(estate_dir, "state")):
        if os.path.isdir(folder):
            found |= {name for name in os.listdir(folder) if os.path.isdir(os.path.join(folder, name)) and name not in RESERVED}
    found |= set(vault_package.owners_aside(os.path.join(estate_dir, "abandoned")))
    return sorted(name for name in found if NAME.match(name))


def verdict_of(damage, unknown):
    # type: (List[str], List[str]) -> str
    """Pure: damage outweighs what could not be told, and only the absence of both is intact."""
    return "damaged" if damage else ("unknown" if unknown else "intact")


def signer(package, signers, notes):
    # type: (Package, Optional[str], Notes) -> Dict[str, Any]
    """Who signed the tag manifest: good (an allowed signer), valid (a key nobody was asked about), bad, absent, unknown."""
    found = dict(vault_seal.signed(package, notes), signer=None)
    if found["state"] != "valid" or not signers:
        return found
    text, path = vault_seal.read_text(package, vault_bag.TAG_MANIFEST) or "", os.path.join(package.bag, vault_bag.SIGNATURE)
    with tempfile.NamedTemporaryFile("w", prefix="sunset-signers-") as allowed:
        allowed.write(signers)
        allowed.flush()
        names = notes.read(["ssh-keygen", "-Y", "find-principals", "-s", path, "-f", allowed.name], timeout=30)
        name = names.out.split("\n")[0].strip()
        argv = ["ssh-keygen", "-Y", "verify", "-f", allowed.name, "-I", name, "-n", vault_bag.NAMESPACE, "-s", path]
        good = names.rc == 0 and bool(name) and notes.read(argv, stdin=text, timeout=30).rc == 0
    return dict(found, state="good" if good else "bad", signer=name if good else None)


def superseded(package, today):
    # type: (Package, datetime.date) -> List[Dict[str, Any]]
    """What lies in abandoned/ of this package, with what it says itself about its retention. Its bytes are not verified: it counts for
    nothing any more, but it is there, and can be read by whoever holds its keys."""
    return [
        dict(one, retention=dict(one["retention"], past=vault_contents.past(one["retention"], today)))
        for one in vault_package.superseded(package)
    ]


def fixity(package, expected, signers, keys_elsewhere, notes):
    # type: (Package, Optional[str], Optional[str], bool, Notes) -> Dict[str, Any]
    """Every byte of one package against its manifests, and its keys, and what it superseded.

    expected: digest of the tag manifest as the ledger has it."""
    aside = superseded(package, datetime.datetime.now(datetime.timezone.utc).date())
    found = whole(package, expected, signers, keys_elsewhere, notes)
    if not aside:
        return found
    if not expected and not os.path.lexists(package.bag) and not os.path.lexists(package.record_path):
        words = "no package is here, only what was set aside of one: %s" % ", ".join(one["place"] for one in aside)
        found = {"verdict": "unknown", "damage": [], "unknown": [words]}
    return dict(found, superseded=aside)


def whole(package, expected, signers, keys_elsewhere, notes):
    # type: (Package, Optional[str], Optional[str], bool, Notes) -> Dict[str, Any]
    """The package itself, as fixity() says it."""
    damage, unknown = [], []  # type: List[str], List[str]
    record = read_record(package.record_path)
    if not os.path.isdir(package.bag):
        return {"verdict": "damaged", "damage": ["the package %s is not there" % package.bag], "unknown": []}
    if os.path.lexists(os.path.join(package.bag, vault_bag.TOMBSTONE)) or (record or {}).get("state") in ("destroying", "destroyed"):
        return unforeseen(tombstone(package, record or {}), expected)
    if not os.path.isfile(os.path.join(package.bag, vault_bag.TAG_MANIFEST)):
        if (record or {}).get("state") in ("open", "absent"):
            return {"verdict": "unknown", "damage": [], "unknown": ["the package is still %s, not sealed" % (record or {})["state"]]}
        return {"verdict": "damaged", "damage": ["%s is missing" % vault_bag.TAG_MANIFEST], "unknown": []}
    digest = sha256_file(os.path.join(package.bag, vault_bag.TAG_MANIFEST))[0]
    for who, wanted in (("the ledger", expected), ("the vault's own record", (record or {}).get("tagmanifest_sha256"))):
        if wanted and wanted != digest:
            damage.append("%s is not the one that %s has" % (vault_bag.TAG_MANIFEST, who))
    damage += vault_bag.bag_problems(package)
    found = signer(package, signers, notes)
    if found["state"] == "bad":
        damage.append("%s is no signature over %s by an allowed signer" % (vault_bag.SIGNATURE, vault_bag.TAG_MANIFEST))
    elif found["state"] in ("absent", "unknown"):
        unknown.append("who sealed it: the signature of the tag manifest is %s" % found["state"])
    elif found["state"] == "valid" and not expected:
        # Whoever can write here can seal anew with a key of his own.
        unknown.append("who sealed it: the signature holds, but nobody said whose key counts (allowed_signers; -e sunset_verify_signers)")
    result = {"signature": found, "tagmanifest_sha256": digest}  # type: Dict[str, Any]
    try:
        facts = vault_contents.read_facts(package)
        damage += wrong_place(package, facts)
        lost, untold = wrapped_problems(package, facts, keys_elsewhere)
        damage, unknown = damage + lost, unknown + untold
        retention = facts.get("retention") or {}
        today = datetime.datetime.now(datetime.timezone.utc).date()
        result.update({name: facts[name] for name in ("sealed", "identity_digest", "keys_identity_digest") if name in facts})
        result["retention"] = dict(retention, past=vault_contents.past(retention, today))
    except (VaultError, KeyError, TypeError, AttributeError) as exc:
        unknown.append("%s cannot be understood: %s" % (vault_bag.FACTS, exc))
    return dict(result, verdict=verdict_of(damage, unknown), damage=damage, unknown=unknown)


def tombstone(package, record):
    # type: (Package, Dict[str, Any]) -> Dict[str, Any]
    """A destroyed package: that nothing is left of it is looked at, too."""
    told = read_record(os.path.join(package.bag, vault_bag.TOMBSTONE)) or {}
    # The vault's own record may be lost, and what the package says itself with the package: a key is looked for by both.
    wrapped = {one["path"] for one in record.get("wrapped", [])}
    with contextlib.suppress(VaultError, KeyError, TypeError, AttributeError):
        facts = vault_contents.read_facts(package)
        wrapped |= {os.path.join(package.keys, os.path.basename(str(one["file"]))) for one in facts["wrapped"]}
    left = sorted(path for path in wrapped | {package.identity, package.keys_identity} if os.path.lexists(path))
    left += package.payload() if os.path.isdir(package.data) else []
    left += vault_package.owners_aside(package.abandoned).get(package.name, [])
    words = ["its destruction was begun and not finished: %s is still there" % path for path in left]
    if (record.get("state") == "destroying" or not told.get("destroyed")) and not words:
        words = ["its destruction was begun and not finished; run the same command again"]
    result = {"damage": [], "unknown": words, "destroyed": told.get("destroyed"), "statement_sha256": told.get("statement_sha256")}
    return dict(result, verdict="unknown" if words else "destroyed")


def unforeseen(stone, expected):
    # type: (Dict[str, Any], Optional[str]) -> Dict[str, Any]
    """A tombstone where the ledger knows of no destruction: whoever can write here can put one over a package that is lost. Pure."""
    if not expected:
        return stone
    return dict(stone, verdict="damaged", damage=["it is destroyed here, and the ledger has it sealed and knows of no destruction"])


def wrong_place(package, facts):
    # type: (Package, Dict[str, Any]) -> List[str]
    if (facts.get("estate"), facts.get("package")) == (package.estate, package.name):
        return []
    return [
        "it is the package %s/%s, put in the place of %s/%s" % (facts.get("estate"), facts.get("package"), package.estate, package.name)
    ]


def wrapped_problems(package, facts, keys_elsewhere):
    # type: (Package, Dict[str, Any], bool) -> Tuple[List[str], List[str]]
    """(damage, unknown) of the wrapped identities: without one of them nobody can open the package."""
    if keys_elsewhere:
        return [], []
    damage = []
    for one in facts["wrapped"]:
        path = os.path.join(package.keys, os.path.basename(str(one["file"])))
        what = "the wrapped identity of %s (keys/%s)" % (one["custodian"], one["file"])
        if not os.path.isfile(path):
            damage.append(what + " is missing")
        elif sha256_file(path)[0] != one["sha256"]:
            damage.append(what + " is damaged: its digest is not the recorded one")
    if len(damage) == len(facts["wrapped"]) and not os.path.isdir(package.keys):
        return [], ["the wrapped identities are not here: there is no %s (say keys_elsewhere where they are kept apart)" % package.keys]
    return damage, []


# --- the proof -----------------------------------------------------------------------------------------------------


def lent(package, facts):
    # type: (Package, Dict[str, Any]) -> List[str]
    """Which of the identities that a custodian lent are this package's: data, keys. A wrong one is an error."""
    base = package.live_base if os.path.isdir(package.live_base) else os.path.dirname(package.live_base)
    require_memory(base)
    found = []
    for which, path in sorted(package.lend().items()):
        if not os.path.lexists(path):
            continue
        mode = os.lstat(path)
        if not stat.S_ISREG(mode.st_mode) or mode.st_uid != os.getuid() or stat.S_IMODE(mode.st_mode) & 0o077:
            raise VaultError("%s is no file of mode 0600 that belongs to uid %d; lend the identity again" % (path, os.getuid()), "unknown")
        if package.live_digest(which) != facts.get(DIGESTS[which]):
            raise VaultError("the identity that was lent (%s) is not that of the package %s" % (path, package.name), "unknown")
        found.append(which)
    if DATA not in found:
        raise VaultError(
            "no custodian has lent the identity of the package %s: expected %s; on the custodian's machine: scripts/custodian lend"
            % (package.name, package.identity),
            verdict="unknown",
        )
    return found


def give_back(package):
    # type: (Package) -> List[str]
    """Destroy what was lent; returns which identities are gone now. The record of the verification says so."""
    return [which for which, path in sorted(package.lend().items()) if vault_package.destroy(path)]


def contents(package):
    # type: (Package) -> Dict[str, Any]
    """contents.json, decrypted in memory and looked at before it is believed."""
    blocks, size = [], [0]

    def take(block):
        # type: (bytes) -> None
        size[0] += len(block)
        if size[0] > CONTENTS_LIMIT:
            raise VaultError("contents.json is larger than %d bytes" % CONTENTS_LIMIT, verdict="unknown")
        blocks.append(block)

    vault_stream.decrypt_into(os.path.join(package.bag, vault_bag.CONTENTS), package.identity, None, take)
    try:
        found = json.loads(b"".join(blocks).decode("utf-8"))
        if found["schema"] != vault_contents.VERSION or (found["estate"], found["package"]) != (package.estate, package.name):
            raise VaultError("contents.json is of another package or version", verdict="unknown")
        for one in found["data_sets"]:
            names = [name for entry in one["artefacts"] for name, _sha, _size in cipher_files(entry["stored"])]
            names += [entry["stored"]["file"] for entry in one["artefacts"]]
            if item_slug(one["item"]) != one["slug"] or not all(NAME.match(name) for name in names):
                raise VaultError("contents.json names something else than plain files of this package", verdict="unknown")
            allowed = one.get("allowed_differences", [])
            # A text would be searched for parts of a table's name.
            if fingerprint_apart.problem(allowed):
                raise VaultError("contents.json does not list the allowed differences of %s" % one["item"], verdict="unknown")
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise VaultError("contents.json cannot be understood: %s" % type(exc).__name__, verdict="unknown")
    return dict(found)


def prove_all(package, facts, scratch, notes):
    # type: (Package, Dict[str, Any], str, Notes) -> List[Dict[str, Any]]
    """Every data set of the package restored and compared with the facts about its source that lie in the package."""
    which = lent(package, facts)
    sets = contents(package)["data_sets"]
    if not sets:
        raise VaultError("contents.json lists no data set, so nothing could be restored and compared", verdict="unknown")
    return [prove_one(package, one, which, scratch, notes) for one in sets]


def prove_one(package, one, which, scratch, notes):
    # type: (Package, Dict[str, Any], List[str], str, Notes) -> Dict[str, Any]
    if one["identity"] not in which:
        why = "the second identity (keys) was not lent; on the custodian's machine: scripts/custodian lend"
        return {"item": one["item"], "verdict": "unknown", "why": why}
    artefacts = proof_run.Artefacts(package, one["item"], [entry["stored"] for entry in one["artefacts"]], notes)
    # What the proof before the sealing allowed is part of its verdict; exports and pairs are not made again.
    more = {"readable": {"tables": False}, "allowed_differences": one.get("allowed_differences", [])}
    try:
        with locked(one["item"]):
            result = proof_run.prove(one["proof"], artefacts, one["source"], scratch, more)
            read_export(package, one)
    except (VaultError, KeyError) as exc:
        verdict = "different" if isinstance(exc, VaultError) and exc.verdict == "no" else "unknown"
        return {"item": one["item"], "verdict": verdict, "why": str(exc)}
    return dict({key: result[key] for key in KEPT if key in result}, item=one["item"])


def read_export(package, one):
    # type: (Package, Dict[str, Any]) -> None
    """The readable export opens, and is the one that was made at the proof."""
    for part in (one.get("readable") or {}).get("files", []):
        path = os.path.join(package.bag, vault_bag.READABLE, os.path.basename(part["path"]))
        found = vault_stream.decrypt_into(path, package.identity_of(one["identity"]), None, lambda _block: None)
        if found["sha256"] != one["readable"]["plain_sha256"]:
            raise VaultError("the readable export of %s is not the one that was recorded" % one["item"])


@contextlib.contextmanager
def locked(item):
    # type: (str) -> Iterator[None]
    """The lock of vault_prove on the same data set: both use one scratch place."""
    name = re.sub(r"[^A-Za-z0-9._-]", "_", "sunset-vault-%s.lock" % item)
    fd = None
    for directory in _recorded.LOCK_DIRECTORIES:
        try:
            fd = os.open(os.path.join(directory, name), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            break
        except OSError:
            continue
    if fd is None:
        raise VaultError("no lock file could be made for %s" % item, verdict="unknown")
    try:
        if not _recorded.taken_within(fd, _recorded.LOCK_PATIENCE):
            raise VaultError("another proof of %s is at work; wait for it to end" % item, verdict="unknown")
        yield
    finally:
        os.close(fd)


def joined(fixed, proofs):
    # type: (Dict[str, Any], List[Dict[str, Any]]) -> Dict[str, Any]
    """Fixity and proofs as one result. Pure."""
    damage, unknown = list(fixed["damage"]), list(fixed["unknown"])
    for proof in proofs:
        words = "%s: restored and compared, it is %s%s" % (proof["item"], proof["verdict"], ": " + proof["why"] if "why" in proof else "")
        if proof["verdict"] == "different":
            damage.append(words)
        elif proof["verdict"] != "equal":
            unknown.append(words)
    return dict(fixed, damage=damage, unknown=unknown, proofs=proofs, verdict=verdict_of(damage, unknown))
