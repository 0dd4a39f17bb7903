# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""When destroying the keys of a LUKS volume sanitises its medium, and what that may be called. Pure.

Private to the collection. Valid for Python 3.6, standard library; travels with the wipe job.

NIST SP 800-88 (both revisions) allows cryptographic erase only where all data was encrypted from the first write, with a cipher that
holds, and where every copy of every key is destroyed. No tool can see most of that: a header backup in a drawer, a volume key in the
memory image of a suspended guest. So it is a person who accounts for each place where a copy may be (``PLACES``), and signs it. What is
not accounted for is not "none".
"""

from typing import Any, Dict, List, Optional  # noqa: F401

YES, NO, UNKNOWN = "yes", "no", "unknown"
NAME = "luks-destroy-keys"
# Where copies of what opens a volume are found, in the words of the person who signs.
PLACES = (
    ("header-backup", "backups of the header (luksHeaderBackup), images and dd copies of the medium"),
    ("detached-header", "headers kept apart from the data (cryptsetup --header)"),
    ("keyfile", "key files and passphrases that are written down, TPM, FIDO2 and smart cards that were enrolled"),
    ("escrow", "recovery keys, dumped volume keys, key servers (Tang, KMIP, Vault, a helpdesk)"),
    ("memory", "a kernel keyring or memory that is still powered: running or suspended guests, hibernation images, crash dumps"),
    ("vault-package", "packages of this estate that hold the header area"),
    ("layers-below", "snapshots, mirrors, replicas and thin copies below the volume"),
)
NAMES = tuple(name for name, _what in PLACES)
COPY_FIELDS = ("place", "count", "where", "destroyed", "how", "by", "at")


def ledger_problems(ledger, uuid=None):
    # type: (Any, Optional[str]) -> List[str]
    """Why this account of the copies does not carry a cryptographic erase; empty if it does. uuid: of the volume, where it is known."""
    if not isinstance(ledger, dict) or not ledger:
        return [
            "nobody has attested that it was encrypted before the first data came",
            "there is no ledger of key copies (header backups, escrow, recovery keys); an empty one must say so",
        ]
    problems = []
    if ledger.get("encrypted_from_start") != YES:
        problems.append("nobody has attested that it was encrypted before the first data came")
    if uuid and str(ledger.get("uuid") or "").lower() != uuid.lower():
        problems.append("the ledger of key copies is about the volume %s, this is %s" % (ledger.get("uuid") or "of no name", uuid))
    copies = ledger.get("copies")
    if not isinstance(copies, list):
        return problems + ["there is no ledger of key copies (header backups, escrow, recovery keys); an empty one must say so"]
    told = set(ledger.get("none") or []) | {copy.get("place") for copy in copies if isinstance(copy, dict)}
    silent = [name for name in NAMES if name not in told]
    if silent:
        problems.append("the ledger of key copies says nothing of: %s" % ", ".join(silent))
    for copy in copies:
        fields = copy if isinstance(copy, dict) else {}
        lacking = [name for name in COPY_FIELDS if fields.get(name) in (None, "")]
        if fields.get("place") in (ledger.get("none") or []):
            problems.append("the ledger says both that there is none in %s and that there is one" % fields["place"])
        if fields.get("destroyed") != YES:
            problems.append("the key copy %s is not destroyed" % (fields.get("where") or fields.get("place") or "?"))
        elif lacking:
            problems.append(
                "of the key copy %s it is not said: %s" % (fields.get("where") or fields.get("place") or "?", ", ".join(lacking))
            )
    return problems


def header_problems(facts):
    # type: (Any) -> List[Dict[str, Any]]
    """[{why, known}]: what the header itself says against it. known: it is a fact, not an open question."""
    if not facts:
        return [
            _told("there is no LUKS header at its start; if its header is detached, wipe the medium that holds it and overwrite this one")
        ]
    problems = []
    if facts.get("unfinished") == YES:
        problems.append(_told("a reencryption of it was begun and is not finished: a part lies under another key, or under none"))
    if facts.get("keyslots") is None or facts.get("tokens") is None or facts.get("header_bytes") is None:
        problems.append(_told("its key slots and tokens cannot be read", False))
        return problems
    if facts["header_bytes"] == 0:
        problems.append(
            _told("it is a detached header, its data lies elsewhere: overwrite all of it (overwrite-keyed), and the data's medium too")
        )
    if facts.get("unfinished") != NO and facts.get("unfinished") != YES:
        problems.append(_told("not known whether a reencryption of it is unfinished", False))
    if facts.get("whole") != YES:
        word = "a part of it is not encrypted" if facts.get("whole") == NO else "not known whether all of it is encrypted"
        problems.append(_told(word, facts.get("whole") == NO))
    if facts.get("strength") != YES:
        text = "its cipher %s with a key of %s bits" % (facts.get("cipher"), facts.get("key_bits"))
        problems.append(
            _told(
                text + " does not hold" if facts.get("strength") == NO else "not known whether %s holds" % text, facts.get("strength") == NO
            )
        )
    return problems


def _told(why, known=True):
    # type: (str, bool) -> Dict[str, Any]
    return {"why": why, "known": known}


def reached(ledger, rotational, virtual):
    # type: (Dict[str, Any], Any, bool) -> Dict[str, str]
    """{class, why}: what the destruction is worth where nothing speaks against it. The key slots themselves are overwritten by the host,
    so what the host does not reach decides. rotational: True, False, or None for unknown, which counts as flash."""
    if virtual:
        return {"class": "logical", "why": "the medium is virtual: older places of its header in the layers below are not reached"}
    if rotational is not True:
        return {"class": "clear", "why": "flash, or not known to turn: older cells that held the key slots are out of the host's reach"}
    if ledger.get("copies"):
        return {
            "class": "clear",
            "why": "keys had left the medium (%d kinds of copies, destroyed by their ledger): a second technique is wanted for more"
            % len(ledger["copies"]),
        }
    return {
        "class": "purge",
        "why": "no key ever left the medium, by the signed ledger; a key slot split into 4,000 stripes survives no overwrite",
    }


def classes(ledger, rotational, virtual, size, destroyed):
    # type: (Dict[str, Any], Any, bool, int, int) -> Dict[str, str]
    """What the certificate says of it."""
    given = reached(ledger, rotational, virtual)
    name = {"purge": "Purge", "clear": "Clear", "logical": "logical sanitisation"}[given["class"]]
    statement = (
        "Both headers and all key slots, %d bytes, were overwritten and read back; %d bytes of ciphertext are still on the medium. That "
        "nobody can read them rests on the cipher, and on the word of %s, who signed that the volume was encrypted before the first data came "
        "and what became of every copy of its keys. A copy of the header area that was forgotten opens it again. Class %s, since: %s. "
        "No claim is made that the encryption was done by a validated module."
        % (destroyed, size - destroyed, ledger.get("signer") or "an unknown person", name, given["why"])
    )
    return {
        "technique": "cryptographic erase: LUKS headers and key slots destroyed (%s)" % NAME,
        "called": name if given["class"] == "logical" else "sanitisation (%s, cryptographic erase)" % name,
        "nist_800_88r2": name, "nist_800_88r1": name, "statement": statement,
        # It speaks of what a device does; keys above the device are none of its techniques.
        "ieee_2883_2022": name if given["class"] == "logical" else "not named",
    }  # fmt: skip
