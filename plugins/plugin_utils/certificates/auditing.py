# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A certificate as the ground of an audit: whose signature it bears, and what the medium must be and hold."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.sunset.crm.plugins.module_utils._disk import device as disk_device
from ansible_collections.sunset.crm.plugins.plugin_utils.certificates import certificate
from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.people import signatures

# What a medium was left with, as _wipe/audit.py names it (that file wants a Linux that has disks).
STREAM, ZEROS, GONE = "stream", "zeros", "gone"
GOOD = ("same", "not contradicted")


@dataclass(frozen=True)
class Paper:
    """item: the medium it is about. signer: empty where nobody said whose signature counts. facts: for the module."""

    item: str
    signer: str
    facts: dict[str, Any]


def read(path: Path, signers: str | None) -> Paper:
    """Read and judge a certificate. Raises Refusal if it is none, is damaged, or bears no good signature."""
    try:
        data = path.read_bytes()
        document = json.loads(data)
    except OSError as exc:
        raise Refusal(f"the certificate {path} cannot be read: {exc.strerror}; give its path on the control node") from None
    except ValueError as exc:
        raise Refusal(f"{path} is no certificate: {exc}") from None
    problems = certificate.schema_problems(document)
    if problems:
        raise Refusal(f"{path} is no certificate of this kind: {'; '.join(problems[:3])}")
    if document["sanitisation"].get("layers"):
        raise Refusal(
            f"{path} is about a virtual disk, whose layers lie on {document['medium']['host']}; check them there with the commands in its field check"
        )
    signer = ""
    if signers:
        try:
            signature = path.with_name(path.name + ".sig").read_text(encoding="ascii")
        except (OSError, ValueError):
            raise Refusal(f"there is no signature {path.name}.sig beside the certificate; nothing was read from the medium") from None
        signer = signatures.verify(data, signature, signers, signatures.CERTIFICATE)
    return Paper(str(document["medium"]["item"]), signer, facts(document))


def facts(document: certificate.Certificate) -> dict[str, Any]:
    """What the module needs of a certificate. Pure."""
    medium, work = document["medium"], document["sanitisation"]
    identity = {name: medium[name] for name in disk_device.IDENTITY_FIELDS if medium.get(name) not in (None, "", certificate.UNKNOWN)}
    # A path, and where on it, say where it was; another machine may see it elsewhere.
    for place in ("backing_file", "offset", "kind"):
        identity.pop(place, None)
    return {
        "identity": identity,
        "key": work["algorithm"]["key"],
        "left": left(work),
        "error_ranges": work["error_ranges"],
        # Where only the keys of an encryption were destroyed, the rest is ciphertext, of which nobody can say anything.
        "ranges": work["byte_ranges"] if work.get("keys") else None,
        "seed": _marked(document),
    }


def _marked(document: certificate.Certificate) -> str | None:
    """The seed of the places at which keyed blocks lay before a purge, where they did not lie everywhere: nowhere else could one be left."""
    verified = document["verification"]
    if left(document["sanitisation"]) != GONE or verified.get("mode") != "sample":
        return None
    seed = (verified.get("plan") or {}).get("seed")
    return str(seed) if seed else None


def left(work: dict[str, Any]) -> str:
    """What the medium was left with: the key stream, zeros, or whatever a drive leaves that has wiped itself."""
    if work.get("firmware"):
        return GONE
    return ZEROS if (work.get("final") or {}).get("verdict") == "yes" else STREAM


def failure(paper: Paper, verdict: str, why: str) -> str:
    """Why the audit has failed, with what to do; empty if it has not."""
    if verdict not in GOOD:
        advice = {
            "another medium": "Give the device that the certificate is about.",
            "reused": "It was used again after its wipe: what is on it now is not covered by this certificate.",
            "contradicted": "Do not hand it on. Have it destroyed, and find out why its wipe was believed.",
        }.get(verdict, "Do not hand it on before that is explained.")
        return f"{paper.item}: {verdict}: {why}. {advice}"
    if not paper.signer:
        return (
            f"{paper.item}: the medium is {verdict}, but nobody has said whose signature counts; give allowed_signers (the run key, "
            "got by another way than the certificate)"
        )
    return ""
