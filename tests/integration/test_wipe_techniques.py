# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The purge job on real block devices: the drive's answers come from a fake, what is read before and after is real."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.sunset.crm.plugins.module_utils import _job
from ansible_collections.sunset.crm.plugins.module_utils._wipe import (
    drives as wipe_drives,
    firmware as wipe_firmware,
    purge as wipe_purge,
    transport as wipe_transport,
)
from ansible_collections.sunset.crm.plugins.plugin_utils.certificates import certificate
from ansible_collections.sunset.crm.plugins.plugin_utils.people import signatures
from tests.integration.loop_media import (
    KEY,
    MARKER,
    Medium,
    a_medium as _medium,  # noqa: F401
    call_wipe as _wipe,  # noqa: F401
    spec_of,
)
from tests.integration.test_wipe_engine import interpreters

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="loop devices need root")
_where = Path(__file__).resolve().parents[1] / "unit" / "plugins" / "module_utils" / "_wipe" / "fake_drive.py"
_found = importlib.util.spec_from_file_location("fake_drive", _where)
assert _found is not None and _found.loader is not None
fake_drive = importlib.util.module_from_spec(_found)
_found.loader.exec_module(fake_drive)
NAMES = [
    "nvme-sanitize-block",
    "nvme-format-ses2",
    "ata-sanitize-crypto",
    "ata-security-erase-enhanced",
    "scsi-sanitize-overwrite",
    "tcg-revert",
]


def purge(medium: Medium, folder: Path, name: str, drive: Any, kind: type = wipe_purge.Purge, **more: Any) -> dict[str, Any]:
    class OnLoop(kind):  # type: ignore[misc]
        def link(self) -> Any:
            return wipe_transport.Link(self.fd, drive.ioctl)

        def ready(self) -> None:
            real = self.found
            self.found = {**real, "kind": "nvme" if name.startswith(("nvme", "tcg")) else "scsi", "serial": "S123"}
            try:
                super().ready()
            finally:
                self.found = real

    folder.mkdir(exist_ok=True)
    quick = {"poll_seconds": 0.01, "grace_seconds": 0.1, "stall_seconds": 1, "psid_directory": str(folder.parent / "psid")}
    label = folder.parent / "psid" / str(medium.identity()["serial"])
    label.parent.mkdir(exist_ok=True)
    label.write_bytes(drive.psid)
    label.chmod(0o600)
    found: dict[str, Any] = OnLoop(spec_of(medium, technique=name, **quick, **more), str(folder)).run()
    return found


@pytest.mark.parametrize("verify", ["sample", "full"])
@pytest.mark.parametrize("name", NAMES)
def test_an_honest_drive(medium: Medium, tmp_path: Path, name: str, verify: str) -> None:
    result = purge(medium, tmp_path / "job", name, fake_drive.FakeDrive(str(medium.file)), verify=verify)
    assert result["outcome"] == "sanitised", result["reasons"]
    assert MARKER not in medium.content()
    assert result["accounting"]["written"]["verdict"] == result["accounting"]["read"]["verdict"] == "yes"
    assert result["classes"]["called"] == "logical sanitisation"  # it is a loop device, whatever the drive behind it says


@pytest.mark.parametrize("name", NAMES)
def test_a_drive_that_says_done_and_did_nothing(medium: Medium, tmp_path: Path, name: str) -> None:
    result = purge(medium, tmp_path / "job", name, fake_drive.FakeDrive(str(medium.file), "nothing"))
    assert result["outcome"] == "failed" and any("still there" in line for line in result["reasons"]), result["reasons"]
    assert MARKER in medium.content()


@pytest.mark.parametrize("foreign", ["busybox shred", "true"])
def test_a_command_that_ends_with_0_and_did_nothing(medium: Medium, tmp_path: Path, foreign: str) -> None:
    """busybox shred on a block device: exit 0, nothing changed. Read-back says so."""
    if foreign.startswith("busybox"):
        assert shutil.which("busybox"), "busybox is one of the packages that scripts/bootstrap installs"
    codes = []

    class Foreign(wipe_purge.Purge):
        def ready(self) -> None:
            super().ready()
            self.way.send = self.run_it

        def run_it(self, link: Any, estimate: Any, prepare: Any) -> dict[str, Any]:
            done = subprocess.run([*foreign.split(), medium.device], check=False, capture_output=True)
            codes.append(done.returncode)
            return {"accepted": "yes" if done.returncode == 0 else "no", "why": "", "running": True, "answers": []}

    result = purge(medium, tmp_path / "job", "ata-sanitize-block", fake_drive.FakeDrive(str(medium.file)), Foreign)
    assert codes == [0] and result["outcome"] == "failed", result["reasons"]
    assert any("still there" in line for line in result["reasons"]) and MARKER in medium.content()


@pytest.mark.parametrize("name", ["nvme-sanitize-block", "ata-security-erase", "scsi-sanitize-crypto", "tcg-revert", "shred"])
def test_a_technique_that_the_device_has_not_is_refused_and_nothing_else_is_done(
    medium: Medium, wipe: Any, tmp_path: Path, name: str
) -> None:
    before = medium.content()
    for check in (True, False):
        answer = wipe(check=check, technique=name)
        assert answer["failed"] and answer["result"]["outcome"] == "refused", answer
        assert "no technique" in answer["msg"]
    assert medium.content() == before and not (tmp_path / "state").exists()


def test_zeros_do_not_go_with_a_purge(medium: Medium, wipe: Any) -> None:
    answer = wipe(technique="nvme-sanitize-block", final="zeros")
    assert answer["failed"] and "final: zeros" in answer["msg"]


def test_a_later_look_sees_whether_a_purged_medium_was_written_again(medium: Medium, tmp_path: Path) -> None:
    result = purge(medium, tmp_path / "job", "nvme-sanitize-block", fake_drive.FakeDrive(str(medium.file)))
    wrong, read = wipe_purge.sample(medium.device, result["left"])
    assert not wrong and len(read) > 30
    with open(medium.device, "r+b", buffering=0) as stream:
        stream.write(MARKER * 200)
        os.fsync(stream.fileno())
    assert wipe_purge.sample(medium.device, result["left"])[0] == [0]


def test_the_commands_of_a_purges_certificate(medium: Medium, tmp_path: Path) -> None:
    result = purge(medium, tmp_path / "job", "ata-sanitize-crypto", fake_drive.FakeDrive(str(medium.file)), authorisation_sha256="a" * 64)
    made = certificate.build_certificate(
        item={"id": "medium:pgdata", "host": "db1", "wave": "main", "identity": medium.identity(), "wipe": {"host": "station1"}},
        plan={"estate": "lab", "sha256": "b" * 64, "approved_by": "anna"},
        authorisation={
            "sha256": "a" * 64,
            "signer": "berta",
            "name": "w",
            "expires": "2030-01-01T00:00:00Z",
            "method": "ata-sanitize-crypto",
        },
        data_sets=[],
        wipe=result,
        stream_key=KEY,
        evidence={"ledger_entry": "e" * 64, "sha256": "f" * 64},
        people={"operator": "otto"},
        issued="2026-01-31T10:00:00Z",
    )
    signatures.create_key(tmp_path / "run", "run")
    certificate.issue(made, tmp_path / "evidence", tmp_path / "run")

    def gone(device: str) -> list[bool]:
        commands = [check["command"].replace(medium.device, device) for check in made["check"] if check["expect"] == certificate.GONE]
        ran = [subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False) for command in commands]
        return [certificate.GONE in done.stdout for done in ran]

    assert gone(medium.device) == [True, True]
    assert gone(str(tmp_path / "absent")) == [False, False]
    script = 'head -c 4096 /dev/zero | openssl enc -aes-256-ctr -K "$2" -iv "$3" | dd of="$1" bs=4096 oflag=direct status=none'
    subprocess.run(["sh", "-c", script, "sh", medium.device, KEY, "0" * 32], check=True)
    assert gone(medium.device) == [False, True]


def test_the_password_follows_from_the_streams_key_by_stock_tools_as_the_handbook_says(tmp_path: Path) -> None:
    """A rescue whose power went has forgotten it, and the drive is locked with it."""
    handbook = Path(__file__).resolve().parents[2] / "docs" / "operator" / "wipe-ways.md"
    (line,) = [one for one in handbook.read_text().splitlines() if one.startswith("WORD=$(")]
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "stream-medium_pgdata").write_text(KEY)
    done = subprocess.run(["bash", "-c", line + '; printf %s "$WORD"'], cwd=tmp_path, capture_output=True, check=True, text=True)
    assert done.stdout == wipe_drives.security_password(bytes.fromhex(KEY)) and len(done.stdout) == 32


@pytest.mark.parametrize("python", interpreters())
def test_the_job_alone_under_other_pythons(medium: Medium, tmp_path: Path, python: str) -> None:
    """What travels is enough: it runs, asks the real kernel, and refuses a device that has no such firmware."""
    folder, before = tmp_path / "job", medium.content()
    folder.mkdir()
    (folder / "spec.json").write_text(json.dumps(spec_of(medium, technique="nvme-sanitize-block")))
    argv = [python, "-B", "-I", _job.lay(str(folder), wipe_purge), str(folder / "spec.json")]
    process = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False, cwd="/")
    result = json.loads((folder / "result.json").read_text())
    assert process.returncode == 1 and result["outcome"] == "refused", process.stderr
    assert "no technique for a device of the kind loop" in result["reasons"][0] and medium.content() == before


def test_a_loop_device_answers_no_firmware_command(medium: Medium) -> None:
    """The real ioctls against the real kernel: an answer that says no, and no exception."""
    fd = os.open(medium.device, os.O_RDONLY)
    try:
        link = wipe_transport.Link(fd)
        for answer in (link.nvme(0x06, cdw10=1, read=4096), link.scsi(b"\x03\0\0\0\xfc\0", read=252), link.ata(0xB4)):
            assert not answer.ok and answer.why and not answer.data
        assert link.nvme_namespace() is None
        for name in sorted(wipe_firmware.TECHNIQUES):
            found = {"kind": "nvme" if name.startswith("nvme") else "scsi", "serial": ""}
            way = wipe_firmware.TECHNIQUES[name]
            assert way.probe(link, found)["supported"] == "unknown"
            assert way.look(link)["state"] == "unknown"
    finally:
        os.close(fd)
