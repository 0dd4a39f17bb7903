# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The certificate of one wiped medium: built from evidence, checked against its schema, signed by the run key.

``build_certificate`` is pure. It refuses where the evidence does not carry a certificate, and writes "unknown" where a
field could not be known, never nothing. What an auditor types to check it stands in the certificate itself.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible_collections.sunset.crm.plugins.module_utils._canonical import canonical
from ansible_collections.sunset.crm.plugins.module_utils._disk import device as disk_device
from ansible_collections.sunset.crm.plugins.module_utils._wipe import firmware as wipe_firmware, keys as wipe_keys
from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.files import plain, write_signed
from ansible_collections.sunset.crm.plugins.plugin_utils.people import signatures

FORMAT = "sunset.crm/certificate/1"
UNKNOWN = "unknown"
DONE = ("sanitised", "sanitised_with_exceptions")
SCHEMA_FILE = Path(__file__).with_name("certificate.schema.json")
SIGNER = "run"  # principal of the run key in the allowed-signers file that goes with the evidence

Certificate = dict[str, Any]
Facts = Mapping[str, Any]

MEDIUM_FIELDS = (
    "kind", "vendor", "model", "serial", "wwid", "firmware", "transport", "media_class", "size", "native_size",
    "logical_block", "inode", "backing_file", "offset", "slot", "property_number", "location",
)  # fmt: skip
ASSET_FIELDS = ("machine_id", "hostname", "product_uuid", "product_serial")
SAME = "the-stream-is-there"  # what a check prints when every byte compared
REMOVED = "it-is-gone"
GONE = "the-keyed-block-has-gone"
LOOP_ONLY = ("inode", "backing_file", "offset")


def build_certificate(
    *,
    item: Facts,
    plan: Facts,
    authorisation: Facts,
    data_sets: Sequence[Facts],
    wipe: Facts,
    stream_key: str,
    evidence: Facts,
    people: Facts,
    issued: str,
    control: str = "dual",
    waivers: Sequence[Facts] = (),
    destination: str | None = None,
    asset: Facts | None = None,
    stamped_by: str = "",
) -> Certificate:
    """The certificate of one medium.

    item: the medium's item of the plan. plan: ``{estate, sha256, approved_by}``. authorisation: ``{sha256, signer,
    name, expires, method}``. data_sets: what the medium carried, each ``{item, categories, dump: {id, entry}, proofs: [{vault,
    entry, verdict, ...}]}`` where ``entry`` is the hash of a ledger line. wipe: the result of ``media_wipe``. evidence:
    ``{ledger_entry, sha256, run}`` of the wipe's outcome. asset: what the plan knows of the machine that it stood in. people: ``{operator, verifier, witness, custodians}``. control:
    "dual" or "single". stamped_by: address of the time stamp service that is asked for a token over the signed file. Raises Refusal naming everything that is missing.
    """
    lacks = _lacks(item, plan, authorisation, data_sets, wipe, stream_key, evidence, people, control, waivers)
    if lacks:
        raise Refusal(f"no certificate for {item.get('id', 'the medium')}: {'; '.join(lacks)}")
    certificate: Certificate = {
        "format": FORMAT,
        "certificate_id": hashlib.sha256(canonical([plan["estate"], item["id"], evidence["ledger_entry"]])).hexdigest()[:32],
        "issued": issued,
        "estate": plan["estate"],
        "plan": {
            "sha256": plan["sha256"],
            "approved_by": plan["approved_by"],
            "item": item["id"],
            "wave": item.get("wave"),
        },
        "control": control,
        "medium": _medium(item, wipe, asset or {}),
        "data": {
            "categories": sorted({str(c) for data_set in data_sets for c in data_set.get("categories") or []}) or UNKNOWN,
            "sets": [_data_set(data_set) for data_set in data_sets],
        },
        "authorisation": {key: authorisation.get(key) or UNKNOWN for key in ("sha256", "signer", "name", "expires", "method")},
        "waivers": [dict(waiver) for waiver in waivers],
        "people": {
            "operator": people["operator"],
            "approver": plan["approved_by"],
            "authorised_by": authorisation["signer"],
            "verifier": people.get("verifier") or UNKNOWN,
            "witness": people.get("witness") or UNKNOWN,
            "custodians": list(people.get("custodians") or []),
        },
        "state_before": wipe.get("state_before") or {"hidden_areas": UNKNOWN, "security": UNKNOWN, "firmware_sanitise": UNKNOWN},
        "decision": wipe.get("decision") or UNKNOWN,
        "sanitisation": {
            **{key: wipe["classes"][key] for key in ("technique", "called", "statement")},
            "classes": {key: wipe["classes"][key] for key in ("nist_800_88r2", "nist_800_88r1", "ieee_2883_2022")},
            "algorithm": {**wipe["algorithm"], "key": stream_key.lower()},
            **{key: wipe.get(key, UNKNOWN) for key in ("byte_ranges", "error_ranges", "started", "ended", "seconds", "sessions")},
            "technique_id": technique_of(wipe),
            "final": wipe.get("final") or {},
            "firmware": {**wipe["firmware"], "left": list(wipe.get("left") or [])} if wipe.get("firmware") else {},
            **({"keys": dict(wipe["keys"])} if wipe.get("keys") else {}),
            **({"layers": list(wipe["layers"])} if wipe.get("layers") else {}),
        },
        "verification": dict(wipe["verification"]),
        "accounting": wipe.get("accounting") or UNKNOWN,
        "result": {"outcome": wipe["outcome"], "exceptions": list(wipe["exceptions"])},
        "destination": destination or UNKNOWN,
        "evidence": {"run": evidence.get("run") or UNKNOWN, "ledger_entry": evidence["ledger_entry"], "sha256": evidence["sha256"]},
        "tools": dict(wipe.get("tools") or {}),
        "timestamp": f"RFC 3161 token by {stamped_by}, beside this file" if stamped_by else UNKNOWN,
    }
    certificate["check"] = auditor_commands(certificate)
    certificate["unknown"] = unknown_fields(certificate)
    problems = schema_problems(certificate)
    if problems:
        raise Refusal(f"the certificate for {item['id']} does not follow its schema: {'; '.join(problems[:5])}")
    return certificate


def _lacks(
    item: Facts,
    plan: Facts,
    authorisation: Facts,
    data_sets: Sequence[Facts],
    wipe: Facts,
    stream_key: str,
    evidence: Facts,
    people: Facts,
    control: str,
    waivers: Sequence[Facts],
) -> list[str]:
    """What keeps this evidence from being a certificate."""
    lacks = []
    if wipe.get("outcome") not in DONE:
        lacks.append(f"the wipe's outcome is {wipe.get('outcome')!r} ({'; '.join(wipe.get('reasons') or []) or 'no reason given'})")
    elif (wipe.get("verification") or {}).get("verdict") != "yes":
        lacks.append("its verification is not positive")
    if not re.fullmatch(r"[0-9a-fA-F]{64}", stream_key or ""):
        lacks.append("the stream's key is not there")
    elif hashlib.sha256(bytes.fromhex(stream_key)).hexdigest() != (wipe.get("algorithm") or {}).get("key_sha256"):
        lacks.append("the key is not the one that the medium was wiped with")
    lacks += _wrong_technique(authorisation, wipe)
    lacks += [
        f"identity: {line}" for line in disk_device.compare_identity(dict(item.get("identity") or {}), dict(wipe.get("identity") or {}))
    ]
    lacks += [f"the plan's {key} is not known" for key in ("estate", "sha256", "approved_by") if not plan.get(key)]
    lacks += [f"the authorisation's {key} is not known" for key in ("sha256", "signer") if not authorisation.get(key)]
    if wipe.get("authorisation_sha256") not in (None, authorisation.get("sha256")):
        lacks.append("the wipe was done under another authorisation")
    lacks += [f"the evidence's {key} is not known" for key in ("ledger_entry", "sha256") if not evidence.get(key)]
    if not people.get("operator"):
        lacks.append("the operator is not known")
    if control == "dual" and authorisation.get("signer") in (people.get("operator"), plan.get("approved_by")):
        lacks.append("control is dual, but the authorisation was signed by the operator or the approver")
    waived = {name for waiver in waivers if waiver.get("gate") == "proof" for name in waiver.get("items", [])}
    for data_set in data_sets:
        proven = [proof for proof in data_set.get("proofs") or [] if proof.get("verdict") == "equal" and proof.get("entry")]
        if not proven and data_set["item"] not in waived:
            lacks.append(f"{data_set['item']} was on it and has no proof and no waiver")
    return lacks


def technique_of(wipe: Facts) -> str:
    return str(wipe.get("technique") or wipe_firmware.OVERWRITE)


def _wrong_technique(authorisation: Facts, wipe: Facts) -> list[str]:
    """A technique other than the one that a person has authorised, or a class that this technique never reaches."""
    technique, lacks = technique_of(wipe), []
    decided = wipe.get("decision")
    if decided and (decided.get("chosen") or {}).get("id") != technique:
        lacks.append(f"it was wiped by {technique}, the decision before it names {(decided.get('chosen') or {}).get('id') or 'nothing'}")
    elif decided and decided["chosen"]["class"] == "logical" and {"Purge", "Clear"} & words_of(wipe):
        lacks.append("the decision before it calls it logical sanitisation, the wipe calls it more")
    elif decided:
        lacks += _more_than_decided(decided["chosen"], wipe.get("classes") or {})
    named = authorisation.get("method")
    if named and wipe_firmware.canonical(str(named)) != technique:
        lacks.append(f"it was wiped by {technique}, the authorisation names {named}")
    words = words_of(wipe)
    if technique == wipe_firmware.OVERWRITE and "Purge" in words:
        lacks.append("an overwrite is never called Purge")
    elif technique == wipe_firmware.LUKS_KEYS:
        lacks += _wrong_keys(wipe.get("keys") or {})
    elif technique != wipe_firmware.OVERWRITE and not (wipe.get("firmware") or {}).get("trail"):
        lacks.append("nothing is known of what the drive was asked and what its log said")
    if (wipe.get("final") or {"verdict": "yes"}).get("verdict") != "yes":
        lacks.append("the zeros that it was to be left with were not all seen")
    return lacks


def _more_than_decided(chosen: Facts, classes: Facts) -> list[str]:
    """A class under a standard that is above the one which was decided before the first write."""
    rank = {"purge": 2, "clear": 1}
    pairs = (("NIST SP 800-88 Rev. 2", "class", "nist_800_88r2"), ("NIST SP 800-88 Rev. 1", "rev1", "nist_800_88r1"))
    return [
        f"under {name} the decision before it says {chosen[key]}, the wipe calls it {classes[field]}"
        for name, key, field in pairs
        if chosen.get(key) and rank.get(str(classes.get(field)).lower(), 0) > rank.get(str(chosen[key]).lower(), 0)
    ]


def words_of(wipe: Facts) -> set[str]:
    return set((wipe.get("classes") or {}).values())


def _wrong_keys(keys: Facts) -> list[str]:
    """What keeps the destruction of keys from being a sanitisation: looked at once more, from what the job itself has recorded."""
    header, ledger = keys.get("header") or {}, keys.get("ledger") or {}
    lacks = [row["why"] for row in wipe_keys.header_problems(header)] + wipe_keys.ledger_problems(ledger, header.get("uuid"))
    lacks += [f"the {name} of the ledger of key copies is not known" for name in ("sha256", "signer") if not ledger.get(name)]
    if keys.get("headers_after") != []:
        lacks.append("a LUKS header was still seen on it, or nobody looked")
    return lacks


def _medium(item: Facts, wipe: Facts, asset: Facts) -> Certificate:
    """Everything that is known about the medium; what is not is said to be unknown."""
    facts: Certificate = {"item": item["id"], "host": item.get("host") or UNKNOWN}
    read = {**_as_seen(wipe), **(item.get("identity") or {}), **(wipe.get("identity") or {}), "logical_block": wipe.get("logical_block")}
    for field in MEDIUM_FIELDS:
        value = read.get(field, (item.get("expects") or {}).get(field))
        if value in (None, "") and field in LOOP_ONLY and read.get("kind") != "loop":
            continue
        facts[field] = UNKNOWN if value in (None, "") else value
    if facts["kind"] == "loop":
        facts["media_class"] = "virtual (loop device over a file)"
    if wipe.get("layers"):
        facts["media_class"] = f"virtual disk, {len(wipe['layers'])} layers"
    facts["asset"] = {name: str(asset[name]) for name in ASSET_FIELDS if asset.get(name)} or UNKNOWN
    facts["wiped_at"] = (item.get("wipe") or {}).get("host") or item.get("host") or UNKNOWN
    facts["device_path"] = wipe["device"]
    return facts


def _as_seen(wipe: Facts) -> dict[str, Any]:
    """What the device told of itself before the wipe, and the identity does not hold."""
    seen = wipe.get("state_before") or {}
    layer = f" ({seen['layer']})" if seen.get("layer") else ""
    found = {name: seen.get(name) for name in ("vendor", "model", "firmware", "transport")}
    found["media_class"] = f"{seen['class']}{layer}" if seen.get("class") else None
    found["native_size"] = (seen.get("sizes") or {}).get("native")
    found["slot"] = ", ".join(seen.get("by_path") or [])
    return {name: value for name, value in found.items() if value not in (None, "", UNKNOWN)}


def _data_set(data_set: Facts) -> Certificate:
    dump = data_set.get("dump") or {}
    return {
        "item": data_set["item"],
        "categories": list(data_set.get("categories") or []) or UNKNOWN,
        "legal_basis": data_set.get("legal_basis") or UNKNOWN,
        "dump": {"id": dump.get("id") or UNKNOWN, "ledger_entry": dump.get("entry") or UNKNOWN},
        "proofs": [
            {
                "vault": proof["vault"],
                "verdict": proof["verdict"],
                "ledger_entry": proof.get("entry") or UNKNOWN,
                **{key: proof[key] for key in ("at", "tables", "rows", "files", "fingerprint_sha256") if proof.get(key) is not None},
            }
            for proof in data_set.get("proofs") or []
        ],
    }


def unknown_fields(value: Any, path: str = "") -> list[str]:
    """Paths of everything that the certificate says is unknown, so that nobody has to look for it."""
    if value == UNKNOWN and path:
        return [path]
    if isinstance(value, dict):
        parts = [unknown_fields(part, f"{path}.{key}" if path else str(key)) for key, part in sorted(value.items())]
    elif isinstance(value, list):
        parts = [unknown_fields(part, f"{path}[{number}]") for number, part in enumerate(value)]
    else:
        parts = []
    return [line for part in parts for line in part]


def sector_command(device: str, key: str, start: str, count: str) -> str:
    """Decrypt ``count`` blocks of 4 KiB from block ``start`` on and compare them with as many zeros.

    ``cmp -n`` also fails where less could be read, so an absent or short device never looks wiped.
    """
    return (
        f"S={start} N={count}; dd if={shlex.quote(device)} bs=4096 skip=$S count=$N iflag=direct status=none"
        f" | openssl enc -d -aes-256-ctr -K {key} -iv $(printf %032x $((S * 256)))"
        f" | cmp -n $((N * 4096)) - /dev/zero && echo {SAME}"
    )


def gone_command(device: str, key: str, start: str, name: str) -> dict[str, str]:
    """The keyed block that was there before the drive wiped itself: it must have gone. An absent device never looks like that:
    the block has to be read, and decrypted it must not be zeros."""
    return {
        "what": f"{name}: the keyed block that was there before the purge has gone (replace the number after S= by a place of your choice)",
        "command": f"S={start}; test $(dd if={shlex.quote(device)} bs=4096 skip=$S count=1 iflag=direct status=none"
        f" | openssl enc -d -aes-256-ctr -K {key} -iv $(printf %032x $((S * 256))) | tr -d '\\0' | wc -c) -gt 3000 && echo {GONE}",
        "expect": GONE,
    }


def auditor_commands(certificate: Facts, device: str | None = None) -> list[dict[str, str]]:
    """Stock commands that check this certificate and its medium, each with what it must print.

    device: where the auditor sees the medium; by default where it was wiped.
    """
    medium, key, work = certificate["medium"], certificate["sanitisation"]["algorithm"]["key"], certificate["sanitisation"]
    path, size, name = device or medium["device_path"], int(medium["size"]), file_name(certificate)
    last = size // 4096 - 1
    signed = {
        "what": "the certificate was signed by the run key and not altered since",
        "command": f"ssh-keygen -Y verify -f allowed_signers -I {SIGNER} -n {signatures.CERTIFICATE} -s {name}.sig < {name}",
        "expect": f'Good "{signatures.CERTIFICATE}" signature for {SIGNER}',
    }
    if work.get("layers"):
        return [signed, *(command for layer in work["layers"] for command in layer_commands(layer))]
    commands = [
        signed,
        {
            "what": "this is the medium: size in bytes",
            "command": f"blockdev --getsize64 {shlex.quote(path)}",
            "expect": str(size),
        },
        {
            "what": "this is the medium: serial number",
            "command": f"lsblk -dno SERIAL {shlex.quote(path)}",
            "expect": str(medium["serial"]),
        },
        {"what": "the first block holds the stream", "command": sector_command(path, key, "0", "1"), "expect": SAME},
        {
            "what": "the last block holds the stream",
            "command": sector_command(path, key, str(last), "1"),
            "expect": SAME,
        },
        {
            "what": "a stretch of 1 MiB of your choice (replace the number after S=; blocks of 4096 bytes)",
            "command": sector_command(path, key, str(last // 2), str(min(256, last - last // 2))),
            "expect": SAME,
        },
        {
            "what": "the whole medium",
            "command": f"dd if={shlex.quote(path)} bs=1M iflag=direct status=none"
            f" | openssl enc -d -aes-256-ctr -K {key} -iv {0:032x} | cmp -n {size} - /dev/zero && echo {SAME}",
            "expect": SAME,
        },
    ]
    if medium["kind"] == "loop":
        commands[2] = {
            "what": "this is the medium: inode of the file behind the loop device",
            "command": f"losetup --noheadings --output BACK-INO {shlex.quote(path)}",
            "expect": str(medium["inode"]),
        }
    elif medium["serial"] == UNKNOWN:
        commands[2] = {
            "what": "this is the medium: it has no serial number, and a person has waived that; its world wide name, if it has one",
            "command": f"lsblk -dno WWN {shlex.quote(path)}",
            "expect": "" if medium["wwid"] == UNKNOWN else str(medium["wwid"]).rpartition(".")[2],
        }
    if work["technique_id"] == wipe_firmware.LUKS_KEYS:
        # The rest is ciphertext, of which a command can show nothing.
        commands[4:] = [
            {
                "what": f"bytes {start} to {end}, where headers and key slots were",
                "command": sector_command(path, key, str(start // 4096), str((end - start) // 4096)),
                "expect": SAME,
            }
            for start, end in work["byte_ranges"]
        ]
        return commands
    if work["technique_id"] != wipe_firmware.OVERWRITE:
        commands[3:] = [gone_command(path, key, "0", "the first block"), gone_command(path, key, str(last), "the last block")]
        return commands
    if work["final"]:
        commands[3:] = [
            {
                "what": "zeros over the whole medium, written after its stream was verified",
                "command": f"cmp -n {size} {shlex.quote(path)} /dev/zero && echo {SAME}",
                "expect": SAME,
            }
        ]
    if work["error_ranges"]:
        ranges = ", ".join(f"{start}-{end}" for start, end in work["error_ranges"])
        commands[-1]["expect"] = f"differences only in the bytes {ranges}, which could not be written or read"
    return commands


def layer_commands(layer: Facts) -> list[dict[str, str]]:
    """How one layer of a virtual disk is checked: by its own key, on the stretches that had blocks."""
    path = str(layer["path"])
    if layer.get("removed"):
        return [{"what": f"{path} was removed", "command": f"test ! -e {shlex.quote(path)} && echo {REMOVED}", "expect": REMOVED}]
    commands = []
    if layer.get("inode"):
        told = {"what": f"{path}: this is the file, by inode and size", "command": f"stat -c '%i %s' {shlex.quote(path)}"}
        commands.append({**told, "expect": f"{layer['inode']} {layer['bytes']}"})
    whole = [(start // 4096, (end - start) // 4096) for start, end in layer["ranges"] if start % 4096 == 0 and end - start >= 4096]
    for start, count in [*whole[:1], *(whole[-1:] if len(whole) > 1 else [])]:
        command = sector_command(path, str(layer["key"]), str(start), str(min(256, count)))
        commands.append({"what": f"{path}: a stretch of it holds its stream (blocks of 4096 bytes)", "command": command, "expect": SAME})
    return commands


# --- bytes, schema, signature ------------------------------------------------------------------------------------------


def certificate_bytes(certificate: Certificate) -> bytes:
    """The one byte form that is signed: canonical JSON and a newline."""
    return canonical(certificate) + b"\n"


def file_name(certificate: Facts) -> str:
    return plain(str(certificate["medium"]["item"])) + ".certificate.json"


def summary(certificate: Facts) -> dict[str, str]:
    """One row of a report."""
    medium, result = certificate["medium"], certificate["result"]
    said = f"{result['outcome']}: {certificate['sanitisation']['called']}"
    return {"item": medium["item"], "serial": str(medium["serial"]), "result": said, "file": file_name(certificate)}


def schema() -> dict[str, Any]:
    """The shipped JSON schema."""
    found: dict[str, Any] = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
    return found


def schema_problems(certificate: Any) -> list[str]:
    """What breaks the shipped schema (JSON Schema 2020-12), each with its place."""
    try:
        import jsonschema
    except ImportError as exc:
        raise Refusal(f"certificates need the Python package jsonschema ({exc}): pip install jsonschema") from None
    found = jsonschema.Draft202012Validator(schema()).iter_errors(certificate)
    return sorted(f"{problem.json_path.replace('$', 'certificate', 1)}: {problem.message[:300]}" for problem in found)


def issue(certificate: Certificate, folder: Path, key: Path) -> Path:
    """Write the certificate and its signature by rename; returns its path."""
    return write_signed(folder / file_name(certificate), certificate_bytes(certificate), key, signatures.CERTIFICATE)
