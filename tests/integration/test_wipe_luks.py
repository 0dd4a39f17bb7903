# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Keys of real LUKS volumes on loop devices, destroyed; judged by cryptsetup itself. No device-mapper is needed for any of it."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.sunset.crm.plugins.module_utils import _job
from ansible_collections.sunset.crm.plugins.module_utils._disk import device as disk_device, luks_header as disk_luks_header
from ansible_collections.sunset.crm.plugins.module_utils._wipe import (
    audit as wipe_audit,
    keys as wipe_keys,
    luks as wipe_luks,
    passes as wipe_passes,
)
from ansible_collections.sunset.crm.plugins.plugin_utils.certificates import auditing, certificate
from ansible_collections.sunset.crm.plugins.plugin_utils.people import signatures
from tests.integration.loop_media import (
    KEY,
    MARKER,
    MIB,
    Medium,
    call_wipe as _wipe,  # noqa: F401
    claim,
    make,
    spec_of,
)
from tests.integration.test_wipe_engine import interpreters

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="loop devices need root")
PASSPHRASE = b"Zoe's dog is called Rex"
NAME = "luks-destroy-keys"


def cryptsetup(*arguments: str, data: bytes = b"", check: bool = True) -> subprocess.CompletedProcess[bytes]:
    return claim(["cryptsetup", *arguments], data, check)


def format_luks(medium: Medium, kind: str = "luks2", *more: str) -> None:
    quick = ("--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000")
    cryptsetup("luksFormat", "-q", "--type", kind, *quick, *more, medium.device, "-", data=PASSPHRASE)


def opens(medium: Medium) -> bool:
    return cryptsetup("open", "--test-passphrase", medium.device, "--key-file", "-", data=PASSPHRASE, check=False).returncode == 0


def write(medium: Medium, offset: int, data: bytes) -> None:
    with open(medium.device, "r+b", buffering=0) as stream:
        stream.seek(offset)
        stream.write(data)
        os.fsync(stream.fileno())


def sealed(path: Path, kind: str, *more: str) -> Medium:
    """A volume whose data area holds what ciphertext looks like, here and there, and nothing elsewhere."""
    with path.open("wb") as stream:
        stream.truncate(40 * MIB)
    medium = Medium(path).attach()
    format_luks(medium, kind, *more)
    write(medium, 20 * MIB, os.urandom(8 * MIB))
    return medium


@pytest.fixture(name="kind", params=["luks1", "luks2"])
def a_kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(name="medium")
def a_volume(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Medium]:
    kind = request.getfixturevalue("kind") if "kind" in request.fixturenames else "luks2"
    found = sealed(tmp_path / "pgdata.img", kind)
    yield found
    found.detach()


def uuid_of(medium: Medium) -> str:
    return cryptsetup("luksUUID", medium.device).stdout.decode().strip()


def ledger(medium: Medium, *copies: dict[str, Any], **more: Any) -> dict[str, Any]:
    told = {copy["place"] for copy in copies}
    none = [name for name in wipe_keys.NAMES if name not in told]
    found = {
        "uuid": uuid_of(medium),
        "encrypted_from_start": "yes",
        "none": none,
        "copies": list(copies),
        "signer": "berta",
        "sha256": "b" * 64,
    }
    return {**found, **more}


def destroy(medium: Medium, folder: Path, kind: type = wipe_luks.Keys, **more: Any) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    if "key_copies" not in more:
        more["key_copies"] = ledger(medium)
    found: dict[str, Any] = kind(spec_of(medium, technique=NAME, **more), str(folder)).run()
    return found


# --- what it does ---


def test_no_key_slot_opens_no_header_is_left_and_the_ciphertext_stays(medium: Medium, tmp_path: Path, kind: str) -> None:
    before = medium.content()
    assert opens(medium)
    result = destroy(medium, tmp_path / "job")
    assert result["outcome"] == "sanitised", result["reasons"]
    assert not opens(medium) and cryptsetup("isLuks", medium.device, check=False).returncode == 1
    keys, (start, end) = result["keys"], result["byte_ranges"][0]
    assert (keys["headers_after"], keys["witness"]["verdict"], keys["header"]["keyslots"]) == ([], "gone", ["0"])
    assert [row["offset"] for row in keys["headers_before"]] == ([0] if kind == "luks1" else [0, 16384])
    after = medium.content()
    assert start == 0 and end >= 8 * MIB and len(result["byte_ranges"]) == 1
    assert not any(after[at : at + 4096] == before[at : at + 4096] for at in range(0, end, 4096) if any(before[at : at + 4096]))
    assert after[end:] == before[end:] and keys["ciphertext_left"] == 40 * MIB - end
    facts = result["verification"]
    assert facts["canaries_left"] == facts["canaries_found"] == facts["canaries_wiped"] > 0 and facts["bytes_read"] == end
    assert result["accounting"]["written"]["verdict"] == result["accounting"]["read"]["verdict"] == "yes"
    assert result["classes"]["called"] == "logical sanitisation"  # it is a loop device


def test_the_old_header_with_the_right_passphrase_opens_nothing_and_a_whole_backup_opens_all(
    medium: Medium, tmp_path: Path, kind: str
) -> None:
    """Why erasing the header alone is no destruction, why the slots' area has to go too, and why each backup has to be accounted for."""
    cryptsetup("luksHeaderBackup", medium.device, "--header-backup-file", str(tmp_path / "backup"))
    headers = medium.content()[: 4096 if kind == "luks1" else 32768]
    assert destroy(medium, tmp_path / "job")["outcome"] == "sanitised"
    write(medium, 0, headers)
    assert cryptsetup("isLuks", medium.device, check=False).returncode == 0
    assert not opens(medium)
    cryptsetup("luksHeaderRestore", "-q", medium.device, "--header-backup-file", str(tmp_path / "backup"))
    assert opens(medium)


def test_what_luks_erase_leaves_behind_is_found_and_destroyed(medium: Medium, tmp_path: Path, kind: str) -> None:
    told = ledger(medium)
    cryptsetup("erase", "-q", medium.device)
    assert not opens(medium) and uuid_of(medium)  # no slot opens, and the header with the digest of the key is still there
    result = destroy(medium, tmp_path / "job", key_copies=told)
    assert result["outcome"] == "sanitised" and result["keys"]["header"]["keyslots"] == []
    assert cryptsetup("luksUUID", medium.device, check=False).returncode != 0


def test_a_header_of_an_earlier_format_goes_with_it(medium: Medium, tmp_path: Path) -> None:
    """A volume of today whose data begins early, and the second header of an earlier, larger one, in its ciphertext."""
    told = ledger(medium)
    format_luks(medium, "luks1", "--align-payload", "4096")
    write(medium, 4 * MIB, b"SKUL\xba\xbe" + b"\0" * 4090)
    assert disk_luks_header.remains(_reader(medium), 40 * MIB)[-1] == {"offset": 4 * MIB, "what": "second LUKS header"}
    result = destroy(medium, tmp_path / "job", key_copies={**told, "uuid": uuid_of(medium)})
    assert result["outcome"] == "sanitised", result["reasons"]
    assert result["byte_ranges"] == [[0, 8 * MIB]] and result["keys"]["headers_after"] == []


def _reader(medium: Medium) -> Any:
    content = medium.content()
    return lambda offset, length: content[offset : offset + length]


# --- what it refuses, with nothing touched ---


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"encrypted_from_start": "unknown"}, "nobody has attested"),
        ({"none": ["escrow"]}, "says nothing of: header-backup"),
        ({"copies": [{"place": "escrow", "where": "helpdesk", "destroyed": "no"}]}, "helpdesk is not destroyed"),
        ({"uuid": "00000000-0000-0000-0000-000000000000"}, "is about the volume 00000000"),
        (None, "there is no ledger of key copies"),
    ],
)
def test_a_condition_that_is_not_met_is_a_refusal(medium: Medium, tmp_path: Path, change: dict[str, Any] | None, word: str) -> None:
    before = medium.content()
    result = destroy(medium, tmp_path / "job", key_copies=None if change is None else ledger(medium, **change))
    assert result["outcome"] == "refused" and word in "; ".join(result["reasons"]), result["reasons"]
    assert medium.content() == before and opens(medium)


def test_data_that_was_there_before_the_encryption_is_seen_whatever_was_signed(tmp_path: Path) -> None:
    medium = make(tmp_path / "old.img", 40).attach()  # full of customers, then formatted: luksFormat overwrites the header alone
    try:
        format_luks(medium)
        before = medium.content()
        result = destroy(medium, tmp_path / "job")
        assert result["outcome"] == "refused" and "no ciphertext" in result["reasons"][0], result["reasons"]
        assert medium.content() == before and MARKER in before
    finally:
        medium.detach()


@pytest.mark.parametrize("cipher", [("cipher_null-ecb", "256"), ("aes-ecb", "256")])
def test_a_cipher_that_hides_nothing_is_refused(tmp_path: Path, cipher: tuple[str, str]) -> None:
    """The names are written into the header: a cryptsetup without the kernel's cipher does not format with them."""
    medium = sealed(tmp_path / "weak.img", "luks1")
    try:
        name, mode = cipher[0].split("-")
        write(medium, 0, medium.content()[:8] + name.encode().ljust(32, b"\0") + mode.encode().ljust(32, b"\0") + medium.content()[72:4096])
        told = {**ledger(medium), "uuid": None}
        result = destroy(medium, tmp_path / "job", key_copies={**told, "uuid": disk_luks_header.header(_reader(medium))["uuid"]})  # type: ignore[index]
        assert result["outcome"] == "refused" and "does not hold" in "; ".join(result["reasons"]), result["reasons"]
    finally:
        medium.detach()


def test_a_detached_header_is_no_medium_whose_keys_are_destroyed(tmp_path: Path) -> None:
    data, head = Medium(tmp_path / "data.img"), Medium(tmp_path / "head.img")
    for medium in (data, head):
        medium.file.write_bytes(b"\0" * 40 * MIB)
        medium.attach()
    try:
        quick = ("--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000")
        cryptsetup("luksFormat", "-q", "--type", "luks2", *quick, "--header", head.device, data.device, "-", data=PASSPHRASE)
        told = ledger(head)
        for medium, word in ((head, "it is a detached header"), (data, "there is no LUKS header at its start")):
            result = destroy(medium, tmp_path / "job", key_copies=told)
            assert result["outcome"] == "refused" and word in "; ".join(result["reasons"]), result["reasons"]
    finally:
        data.detach()
        head.detach()


def test_a_volume_that_something_stands_on_is_refused(medium: Medium, tmp_path: Path) -> None:
    """As an opened mapping would; that one is tried where there is a device-mapper (tests/guest)."""
    upper = claim(["losetup", "--find", "--show", medium.device]).stdout.decode().strip()
    try:
        result = destroy(medium, tmp_path / "job")
        assert result["outcome"] == "refused" and "in use" in "; ".join(result["reasons"]), result["reasons"]
    finally:
        subprocess.run(["losetup", "--detach", upper], check=True)
    assert opens(medium)


# --- faults ---


@pytest.mark.parametrize("phase", ["write", "verify", "canaries"])
def test_killed_at_any_phase_goes_on(medium: Medium, tmp_path: Path, phase: str) -> None:
    class Killed(BaseException):
        pass

    class Dying(wipe_luks.Keys):
        def save(self, **changes: Any) -> None:
            super().save(**changes)
            if changes.get("phase") == phase:
                raise Killed

    told = ledger(medium)
    with pytest.raises(Killed):
        destroy(medium, tmp_path / "job", Dying, key_copies=told)
    result = destroy(medium, tmp_path / "job", key_copies=told)
    assert result["outcome"] == "sanitised" and len(result["sessions"]) == 2, result["reasons"]
    assert result["keys"]["headers_before"] and not opens(medium)


def test_killed_while_it_writes_and_its_header_half_gone_goes_on(medium: Medium, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    told = ledger(medium)

    class Dying(wipe_luks.Keys):
        def _pass(self, work: Any, start: int = 0, checkpoint: Any = None) -> float:
            if self.phase == "write":
                worker = work.worker()
                work.block(worker, 0)
                worker.close()
                raise Killed
            return float(super()._pass(work, start, checkpoint))

    with pytest.raises(Killed):
        destroy(medium, tmp_path / "job", Dying, key_copies=told)
    assert not opens(medium)
    assert destroy(medium, tmp_path / "job", key_copies=told)["outcome"] == "sanitised"


def test_writes_that_never_arrive_are_found_out(medium: Medium, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wipe_passes.WritePass, "block", lambda self, worker, offset: None)
    result = destroy(medium, tmp_path / "job")
    assert result["outcome"] == "failed" and opens(medium)
    told = "; ".join(result["reasons"])
    assert "do not hold the stream" in told and "LUKS header at byte 0 is still there" in told and "cryptsetup still finds" in told


def test_a_second_header_that_survives_is_found_out(medium: Medium, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The area is worked out wrongly, and ends before it: the look at the device says so, whatever was verified."""
    monkeypatch.setattr(disk_luks_header, "area", lambda facts, size: [(0, 16384)])
    result = destroy(medium, tmp_path / "job")
    assert result["outcome"] == "failed" and "second LUKS header at byte 16384 is still there" in "; ".join(result["reasons"])


# --- what follows from it ---


def test_the_certificate_and_its_commands_and_a_later_audit(medium: Medium, tmp_path: Path) -> None:
    told = ledger(
        medium,
        {"place": "header-backup", "count": 2, "where": "safe", "destroyed": "yes", "how": "shredded", "by": "Eva", "at": "2026-11-01"},
    )
    result = destroy(medium, tmp_path / "job", key_copies=told, authorisation_sha256="a" * 64)
    facts: dict[str, Any] = {
        "item": {"id": "medium:pgdata", "host": "db1", "wave": "main", "identity": medium.identity(), "wipe": {"host": "station1"}},
        "plan": {"estate": "lab", "sha256": "b" * 64, "approved_by": "anna"},
        "authorisation": {"sha256": "a" * 64, "signer": "berta", "name": "w", "expires": "2030-01-01T00:00:00Z", "method": NAME},
        "data_sets": [],
        "wipe": result,
        "stream_key": KEY,
        "evidence": {"ledger_entry": "e" * 64, "sha256": "f" * 64},
        "people": {"operator": "otto"},
        "issued": "2026-01-31T10:00:00Z",
    }
    made = certificate.build_certificate(**facts)
    assert made["sanitisation"]["keys"]["ledger"]["copies"][0]["count"] == 2
    assert made["sanitisation"]["keys"]["ledger"]["signer"] == "berta" and "word of berta" in made["sanitisation"]["statement"]
    signatures.create_key(tmp_path / "run", "run")
    certificate.issue(made, tmp_path / "evidence", tmp_path / "run")

    def shown() -> list[bool]:
        found = [check for check in made["check"] if check["expect"] == certificate.SAME]
        ran = [subprocess.run(["sh", "-c", check["command"]], capture_output=True, text=True, check=False) for check in found]
        return [certificate.SAME in done.stdout for done in ran]

    def audited() -> str:
        paper = auditing.facts(made)
        seen = wipe_audit.audit(
            medium.device, paper["identity"], bytes.fromhex(KEY), paper["left"], paper["error_ranges"], "seed", paper["ranges"]
        )
        return str(seen["verdict"])

    assert shown() == [True, True] and audited() == "same"
    write(medium, 30 * MIB, os.urandom(4096))
    assert audited() == "same"  # of the ciphertext nothing is claimed
    write(medium, MIB, MARKER)
    assert shown() == [True, False] and audited() == "changed"
    for path, value in (("headers_after", [{"offset": 0}]), ("ledger", {**told, "sha256": ""}), ("ledger", {**told, "none": []})):
        spoilt = {**facts, "wipe": {**result, "keys": {**result["keys"], path: value}}}
        with pytest.raises(Exception, match="no certificate"):
            certificate.build_certificate(**spoilt)


@pytest.mark.parametrize("python", interpreters())
def test_the_job_alone_under_other_pythons(medium: Medium, tmp_path: Path, python: str) -> None:
    folder = tmp_path / "job"
    folder.mkdir()
    (folder / "spec.json").write_text(json.dumps(spec_of(medium, technique=NAME, key_copies=ledger(medium))))
    argv = [python, "-B", "-I", _job.lay(str(folder), wipe_luks), str(folder / "spec.json")]
    process = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False, cwd="/")
    result = json.loads((folder / "result.json").read_text())
    assert process.returncode == 0 and result["outcome"] == "sanitised", (process.stderr, result)
    assert not opens(medium)


def test_by_the_module_check_real_check_real(medium: Medium, wipe: Any, tmp_path: Path) -> None:
    told = ledger(medium)
    identity = {key: disk_device.identify(medium.device)[key] for key in ("kind", "serial", "inode", "size")}
    refused = wipe(technique=NAME, identity=identity)
    assert refused["failed"] and "no ledger of key copies" in refused["msg"] and opens(medium)
    seen = []
    for check in (True, False, True, False):
        answer = wipe(check=check, technique=NAME, key_copies=told, identity=identity)
        assert not answer.get("failed"), answer
        seen.append(answer["changed"])
    assert seen == [True, True, False, False] and not opens(medium)
    without = wipe(check=True, technique=NAME, identity=identity)  # as a second run looks, whose statement may be gone
    assert not without.get("failed") and without["changed"] is False
