# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The certificate: what it refuses, what it says, its schema and its signature."""

from __future__ import annotations

import copy
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.sunset.crm.plugins.module_utils._wipe import firmware as wipe_firmware, judge as wipe_judge, now as wipe_now
from ansible_collections.sunset.crm.plugins.plugin_utils.certificates import certificate
from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.people import signatures
from tests.unit.disk_samples import ata_hdd, ata_ssd

KEY = "0123456789abcdef" * 4
IDENTITY = {"kind": "scsi", "serial": "S1", "size": 1 << 30, "model": "Disk 3000"}
YES = {"verdict": "yes", "why": "", "bytes": 1 << 30, "wanted_bytes": 1 << 30}


def facts() -> dict[str, Any]:
    return copy.deepcopy(
        {
            "item": {"id": "medium:pgdata", "host": "db1", "wave": "main", "identity": IDENTITY, "wipe": {"host": "station1"}},
            "plan": {"estate": "lab", "sha256": "b" * 64, "approved_by": "anna"},
            "authorisation": {
                "sha256": "a" * 64,
                "signer": "berta",
                "name": "w.json",
                "expires": "2030-01-01T00:00:00Z",
                "method": "overwrite",
            },
            "data_sets": [
                {
                    "item": "database:creme",
                    "categories": ["customers"],
                    "dump": {"id": "d1", "entry": "c" * 64},
                    "proofs": [{"vault": "vault1", "verdict": "equal", "entry": "d" * 64, "tables": 3, "rows": 700}],
                }
            ],
            "wipe": {
                "outcome": "sanitised",
                "reasons": [],
                "exceptions": [],
                "device": "/dev/sdb",
                "identity": IDENTITY,
                "logical_block": 512,
                "size": 1 << 30,
                "authorisation_sha256": "a" * 64,
                "byte_ranges": [[0, 1 << 30]],
                "error_ranges": [],
                "algorithm": {"name": "n", "counter": "c", "passes": 1, "key_sha256": hashlib.sha256(bytes.fromhex(KEY)).hexdigest()},
                "verification": {
                    "mode": "full",
                    "verdict": "yes",
                    "bytes_read": 1 << 30,
                    "mismatches": 0,
                    "canaries_left": 16,
                    "canaries_found": 16,
                    "canaries_wiped": 16,
                },
                "accounting": {"written": YES, "read": YES},
                "classes": wipe_judge.classes("scsi"),
                "started": "2026-01-31T10:00:00Z",
                "ended": "2026-01-31T10:10:00Z",
                "seconds": 600.0,
                "sessions": [{"started": "2026-01-31T10:00:00Z", "seconds": 600.0}],
                "tools": {"libcrypto": "OpenSSL 3"},
            },
            "stream_key": KEY,
            "evidence": {"ledger_entry": "e" * 64, "sha256": "f" * 64},
            "people": {"operator": "otto", "custodians": ["carla"]},
            "issued": "2026-01-31T10:11:00Z",
        }
    )


def test_a_whole_certificate() -> None:
    made = certificate.build_certificate(**facts())
    assert certificate.schema_problems(made) == []
    assert made["sanitisation"]["algorithm"]["key"] == KEY
    assert made["sanitisation"]["classes"]["nist_800_88r2"] == "Clear"
    assert made["people"] == {
        "operator": "otto", "approver": "anna", "authorised_by": "berta", "verifier": "unknown", "witness": "unknown", "custodians": ["carla"],
    }  # fmt: skip
    assert made["data"]["sets"][0]["proofs"][0]["ledger_entry"] == "d" * 64


def test_what_is_unknown_is_said_and_listed() -> None:
    made = certificate.build_certificate(**facts())
    assert made["medium"]["wwid"] == "unknown" and made["medium"]["firmware"] == "unknown"
    for path in ("medium.wwid", "people.verifier", "state_before.hidden_areas", "destination", "timestamp", "data.sets[0].legal_basis"):
        assert path in made["unknown"]
    assert "inode" not in made["medium"]  # a disk has none: that is not unknown


def change(given: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    *parents, last = path.split(".")
    target: Any = given
    for key in parents:
        target = target[int(key) if key.isdigit() else key]
    target[last] = value
    return given


@pytest.mark.parametrize(
    "path,value,word",
    [
        ("wipe.outcome", "failed", "outcome is 'failed'"),
        ("wipe.outcome", "aborted", "outcome is 'aborted'"),
        ("wipe.outcome", None, "outcome is None"),
        ("wipe.verification.verdict", "no", "not positive"),
        ("wipe.verification.verdict", "unknown", "not positive"),
        ("stream_key", "f" * 64, "not the one"),
        ("stream_key", "", "key is not there"),
        ("wipe.identity", {**IDENTITY, "serial": "S2"}, "serial: expected 'S1', found 'S2'"),
        ("wipe.identity", {}, "identity"),
        ("authorisation.sha256", "9" * 64, "another authorisation"),
        ("authorisation.signer", "", "authorisation's signer"),
        ("authorisation.signer", "otto", "signed by the operator"),
        ("authorisation.signer", "anna", "signed by the operator or the approver"),
        ("plan.approved_by", None, "approved_by"),
        ("evidence.ledger_entry", None, "ledger_entry"),
        ("people.operator", "", "operator is not known"),
        ("data_sets.0.proofs", [], "no proof and no waiver"),
        ("data_sets.0.proofs", [{"vault": "v", "verdict": "different", "entry": "d" * 64}], "no proof"),
        ("data_sets.0.proofs", [{"vault": "v", "verdict": "unknown", "entry": "d" * 64}], "no proof"),
        ("wipe.verification.mismatches", 1, "schema"),
        ("wipe.classes.nist_800_88r2", "Purge", "never called Purge"),
        ("wipe.classes.nist_800_88r2", "Destroy", "schema"),
        ("wipe.technique", "ata-sanitize-block", "the authorisation names overwrite"),
        ("authorisation.method", "nvme-sanitize-block", "it was wiped by overwrite-keyed"),
        ("wipe.final", {"verdict": "no"}, "were not all seen"),
        ("wipe.verification.mode", "quick", "schema"),
        ("evidence.ledger_entry", "short", "schema"),
    ],
)
def test_no_certificate_without_evidence(path: str, value: Any, word: str) -> None:
    with pytest.raises(Refusal, match="medium:pgdata") as refused:
        certificate.build_certificate(**change(facts(), path, value))
    assert word in str(refused.value)


def test_single_control_is_possible_and_said() -> None:
    given = change(change(facts(), "authorisation.signer", "anna"), "people.operator", "anna")
    assert certificate.build_certificate(**given, control="single")["control"] == "single"


def test_a_waiver_stands_for_a_proof_and_is_in_the_certificate() -> None:
    given = change(facts(), "data_sets.0.proofs", [])
    waiver = {"gate": "proof", "items": ["database:creme"], "signer": "anna", "sha256": "1" * 64}
    assert certificate.build_certificate(**given, waivers=[waiver])["waivers"] == [waiver]
    with pytest.raises(Refusal, match="no proof and no waiver"):
        certificate.build_certificate(**given, waivers=[{**waiver, "gate": "grace"}])


def test_the_schema_check_agrees_with_a_library() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    validator = jsonschema.Draft202012Validator(certificate.schema())
    made = certificate.build_certificate(**facts())
    variants = [made]
    for key in made:
        variants.append({name: value for name, value in made.items() if name != key})
        variants.append({**made, key: 7})
        if isinstance(made[key], dict):
            variants += [{**made, key: {name: value for name, value in made[key].items() if name != gone}} for gone in made[key]]
            variants += [{**made, key: {**made[key], name: ["x"]}} for name in made[key]]
    for variant in variants:
        assert bool(certificate.schema_problems(variant)) == bool(list(validator.iter_errors(variant)))


def test_one_certificate_has_one_form(tmp_path: Path) -> None:
    first, second = (certificate.certificate_bytes(certificate.build_certificate(**facts())) for _number in range(2))
    assert first == second and first.endswith(b"}\n") and b"\n" not in first[:-1]


def test_the_signature_is_for_certificates_only(tmp_path: Path) -> None:
    signatures.create_key(tmp_path / "run", "run")
    made = certificate.build_certificate(**facts())
    path = certificate.issue(made, tmp_path / "certificates", tmp_path / "run")
    sig = path.with_name(path.name + ".sig")
    allowed = f"run {(tmp_path / 'run.pub').read_text()}"
    data = path.read_bytes()
    assert json.loads(data) == made and path.name == "medium_pgdata.certificate.json"
    assert signatures.verify(data, sig.read_text(), allowed, signatures.CERTIFICATE) == "run"
    with pytest.raises(Refusal):
        signatures.verify(data, sig.read_text(), allowed, signatures.LEDGER_HEAD)
    with pytest.raises(Refusal):
        signatures.verify(data.replace(b"otto", b"paul"), sig.read_text(), allowed, signatures.CERTIFICATE)
    assert sorted(child.name for child in path.parent.iterdir()) == [path.name, sig.name]


def test_commands_quote_the_device_and_name_every_check() -> None:
    made = certificate.build_certificate(**facts())
    commands = certificate.auditor_commands(made, "/dev/disk/by id")
    assert all("'/dev/disk/by id'" in entry["command"] for entry in commands[1:])
    assert [entry["expect"] for entry in commands[1:3]] == [str(1 << 30), "S1"]
    assert any("S=262143 N=1;" in entry["command"] for entry in commands)


def purged() -> dict[str, Any]:
    given = facts()
    given["authorisation"]["method"] = "nvme-sanitize-block"
    way = wipe_firmware.TECHNIQUES["nvme-sanitize-block"]
    given["wipe"].update(
        technique="nvme-sanitize-block",
        classes=wipe_firmware.classes(way, {"kind": "nvme"}),
        firmware={"met": way.met, "trail": {"running": 3}},
    )
    given["wipe"]["verification"]["mode"] = "sample"
    return given


def test_a_purge_is_called_so_and_says_that_no_real_drive_was_met() -> None:
    made = certificate.build_certificate(**purged())
    assert made["sanitisation"]["classes"] == {"nist_800_88r2": "Purge", "nist_800_88r1": "not named", "ieee_2883_2022": "Purge"}
    assert "no real drive" in made["sanitisation"]["statement"] and made["sanitisation"]["technique_id"] == "nvme-sanitize-block"
    assert [check["expect"] for check in made["check"][3:]] == [certificate.GONE] * 2


@pytest.mark.parametrize(
    ("path", "value", "word"),
    [
        ("authorisation.method", "overwrite", "it was wiped by nvme-sanitize-block, the authorisation names overwrite"),
        ("authorisation.method", "nvme-sanitize-crypto", "the authorisation names nvme-sanitize-crypto"),
        ("wipe.firmware", {}, "what its log said"),
    ],
)
def test_no_certificate_for_a_purge_without_its_evidence(path: str, value: Any, word: str) -> None:
    with pytest.raises(Refusal) as refused:
        certificate.build_certificate(**change(purged(), path, value))
    assert word in str(refused.value)


def test_a_medium_that_was_left_with_zeros_is_checked_for_zeros() -> None:
    given = facts()
    given["wipe"]["final"] = {"pattern": "zeros", "verdict": "yes"}
    made = certificate.build_certificate(**given)
    assert [check["command"].split()[0] for check in made["check"][3:]] == ["cmp"]


# --- what was decided before the first write ---


def decided(disk: dict[str, Any], policy: dict[str, Any] | None = None, technique: str = "overwrite") -> dict[str, Any]:
    """Facts of a wipe whose machine took this decision about this disk."""
    given = facts()
    weighed = wipe_now.weigh([disk], disk["number"], policy or {"asked": "clear"}, technique, "ab" * 32)
    given["wipe"] = wipe_now.told(given["wipe"], weighed)
    return given


def test_decision_and_state_before_are_in_it_and_what_they_leave_open_is_listed() -> None:
    disk = ata_hdd()
    disk["hidden"]["dco"] = "unknown"
    disk["raw"] = {"identify": "00ff"}
    made = certificate.build_certificate(**decided(disk))
    assert made["decision"]["chosen"]["id"] == "overwrite-keyed" and made["decision"]["asked"] == "clear"
    assert made["state_before"]["hidden_areas"] == {"hpa": "no", "dco": "unknown", "amac": "no"}
    assert "state_before.hidden_areas.dco" in made["unknown"] and "medium.media_class" not in made["unknown"]
    assert made["medium"]["media_class"] == "ata-hdd" and made["medium"]["transport"] == "sata"
    assert len(made["state_before"]["raw_sha256"]["identify"]) == 64


def test_a_part_left_hidden_by_a_waiver_is_an_exception_of_the_certificate() -> None:
    disk = ata_hdd()
    disk["hidden"]["hpa"] = "yes"
    made = certificate.build_certificate(**decided(disk))
    assert made["result"]["outcome"] == "sanitised_with_exceptions" and "abababababab" in made["result"]["exceptions"][0]


def test_no_certificate_for_another_technique_or_a_stronger_name_than_was_decided() -> None:
    with pytest.raises(Refusal, match="the decision before it names ata-sanitize-block"):
        certificate.build_certificate(**decided(ata_ssd(), {"asked": "purge"}, "ata-sanitize-block"))
    given = decided(ata_hdd())
    given["wipe"]["decision"]["chosen"]["class"] = "logical"
    with pytest.raises(Refusal, match="calls it logical sanitisation, the wipe calls it more"):
        certificate.build_certificate(**given)


def test_a_decision_that_says_who_used_the_device_is_no_clean_state() -> None:
    given = decided(ata_hdd())
    given["wipe"]["state_before"]["holders"] = [{"kind": "mount", "what": "/srv", "device": "sdb1"}]
    with pytest.raises(Refusal, match="holders"):
        certificate.build_certificate(**given)


@pytest.mark.parametrize(
    "chosen,classes,word",
    [
        ({"class": "clear", "rev1": "none (it asks for two passes)"}, {}, "under NIST SP 800-88 Rev. 1 the decision before it says none"),
        (
            {"class": "clear", "rev1": "clear"},
            {"nist_800_88r1": "Purge"},
            "Rev. 1 the decision before it says clear, the wipe calls it Purge",
        ),
        (
            {"class": "clear", "rev1": "clear"},
            {"nist_800_88r2": "Purge"},
            "Rev. 2 the decision before it says clear, the wipe calls it Purge",
        ),
    ],
)
def test_a_standard_is_not_claimed_above_what_was_decided(chosen: dict[str, str], classes: dict[str, str], word: str) -> None:
    given = facts()
    given["wipe"]["decision"] = {"chosen": {"id": "overwrite-keyed", "why": "w", **chosen}}
    given["wipe"]["classes"].update(classes)
    with pytest.raises(Refusal, match="the wipe calls it") as caught:
        certificate.build_certificate(**given)
    assert word in str(caught.value)


def test_a_medium_without_a_serial_number_is_not_checked_for_one_that_is_unknown() -> None:
    given = facts()
    identity = {"kind": "scsi", "size": 1 << 30}
    given["item"]["identity"] = given["wipe"]["identity"] = identity
    made = certificate.build_certificate(**given)
    check = made["check"][2]
    assert made["medium"]["serial"] == "unknown" and "SERIAL" not in check["command"] and check["expect"] != "unknown"
