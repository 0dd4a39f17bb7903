# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Proofs of what is looked into and not started: images of containers, definitions and disks of guests.

Private to the collection. Valid for Python 3.6, standard library.
"""

from typing import Any, Dict, List  # noqa: F401

from ansible_collections.sunset.crm.plugins.module_utils._proof import image as proof_image
from ansible_collections.sunset.crm.plugins.module_utils._vault.state import VaultError

SHOWN = 100


# --- images --------------------------------------------------------------------------------------------------------


def prove_image(artefacts, _source, _base):
    # type: (Any, Dict[str, Any], str) -> Dict[str, Any]
    images, found, layers = artefacts.of("image"), [], 0  # type: List[Dict[str, Any]], List[str], int
    if not images:
        raise VaultError("the package holds no image of %s; save it again" % artefacts.item, verdict="unknown")
    for entry in images:
        reader = proof_image.PipeReader(proof_image.read_members)
        try:
            artefacts.open(entry, reader)
            facts = reader.finish()
        finally:
            reader.abandon()
        wrong, right = proof_image.problems(facts)
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
    # type: (Any, Dict[str, Any], str) -> Dict[str, Any]
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
