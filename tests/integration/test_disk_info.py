# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""disk_info and the dry run on loop devices made here: partitions, a mount in another namespace, swap, an open descriptor, a loop over a loop,
a LUKS header; and the playbook C(media) from end to end. Arrays, volume groups, encryption and thin pools need a kernel that has them: see
tests/guest.
"""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.sunset.crm.plugins.module_utils._disk import (
    device as disk_device,
    facts as disk_facts,
    kept as disk_kept,
    world as disk_world,
)
from tests.integration.loop_media import CLAIM, Medium, claim, make

TOP = Path(__file__).resolve().parents[2]
Facts = dict[str, Any]
RUN = """
import json, sys
from ansible.module_utils.testing import patch_module_args
from ansible_collections.sunset.crm.plugins.modules import disk_info
with patch_module_args(json.load(sys.stdin)):
    disk_info.main()
"""


def call(**options: Any) -> Facts:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run(
        [sys.executable, "-B", "-c", RUN],
        input=json.dumps({"_ansible_module_name": "disk_info", **options}),
        capture_output=True,
        text=True,
        timeout=120,
        env=environment,
        check=False,
    )
    assert done.stdout.strip(), done.stderr
    answer: Facts = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


def fact(device: str) -> Facts:
    (found,) = call(devices=[device])["disks"]["devices"]
    assert isinstance(found, dict)
    return found


def settled(device: str, *expected: str) -> Facts:
    """Its facts once nobody but these has it open: who looks at all devices of the machine in another process has each of them for a moment."""
    deadline = time.monotonic() + 60
    while True:
        found = fact(device)
        others = [row for row in found["holders"] if row["what"] not in expected]
        if not others or not {row["kind"] for row in others} <= {"descriptor", "exclusive"} or time.monotonic() >= deadline:
            return found


def kinds(found: Facts) -> set[str]:
    return {row["kind"] for row in found["holders"]}


@pytest.fixture(name="medium")
def a_medium(tmp_path: Path) -> Iterator[Medium]:
    found = make(tmp_path / "disk-info-a.img").attach("--partscan")
    yield found
    found.detach()


@pytest.fixture(name="claims")
def every_claim(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The devices that are claimed in this process from now on, each for real."""
    seen: list[str] = []
    real = disk_device._exclusive
    monkeypatch.setattr(disk_device, "_exclusive", lambda path: seen.append(path) or real(path))
    return seen


def test_a_device_is_claimed_only_for_a_decision_about_it(medium: Medium, tmp_path: Path, claims: list[str]) -> None:
    """Somebody's mount of another one, or on a machine that stays, must not fail because we look."""
    number = disk_world.number_of(medium.device)
    other = make(tmp_path / "disk-info-other.img").attach()
    try:
        disk_facts.read(ask=False, number=number)
        assert medium.device in claims and other.device not in claims
        claims.clear()
        assert disk_kept.read([str(tmp_path)]) and claims == []
        disk_facts.read(ask=False)
        assert {medium.device, other.device} <= set(claims)
    finally:
        other.detach()


def test_a_loop_device_is_virtual_and_has_the_identity_that_the_plan_compares(medium: Medium) -> None:
    found = settled(medium.device)
    assert (found["class"], found["layer"], found["transport"]) == ("virtual", "loop", "loop")
    expected = medium.identity()
    assert {key: found["identity"][key] for key in expected} == expected
    assert (found["held"], found["holders"]) == ("no", [])
    for group in ("security", "sanitize", "format", "hidden", "tcg"):
        assert "yes" not in found[group].values()
    before = medium.content()
    fact(medium.device)
    assert medium.content() == before


def test_a_mount_is_seen_also_in_another_namespace(medium: Medium, tmp_path: Path) -> None:
    claim(["mkfs.ext4", "-q", "-F", medium.device])
    assert "ext" in fact(medium.device)["contents"]
    point = tmp_path / "mnt"
    point.mkdir()
    script = CLAIM + 'claim mount "$1" "$2" && echo ready && read -r line'
    other = subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", script, "sh", medium.device, str(point)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == b"ready\n"
        found = fact(medium.device)
        assert found["held"] == "yes"
        assert any(row["kind"] == "mount" and str(point) in row["what"] for row in found["holders"])
    finally:
        other.communicate(b"\n", timeout=30)
    assert settled(medium.device)["held"] == "no"


def test_a_name_that_would_drive_a_terminal_is_shown_without_its_power(medium: Medium, tmp_path: Path) -> None:
    claim(["mkfs.ext4", "-q", "-F", medium.device])
    point = tmp_path / "a\x1b[2Jb"
    point.mkdir()
    claim(["mount", medium.device, str(point)])
    try:
        (row,) = [row for row in fact(medium.device)["holders"] if row["kind"] == "mount"]
    finally:
        subprocess.run(["umount", str(point)], check=True)
    assert row["what"].endswith("a?[2Jb (ext4)")


def partitioned(medium: Medium) -> str:
    """One partition by a table written by hand."""
    table = bytearray(512)
    table[510:512] = b"\x55\xaa"
    table[446:462] = struct.pack("<BBBBBBBBII", 0, 0, 2, 0, 0x83, 0, 0, 0, 2048, 8192)
    fd = os.open(medium.device, os.O_RDWR)
    os.write(fd, table)
    os.fsync(fd)
    os.close(fd)
    claim(["partx", "--update", medium.device])
    return medium.device + "p1"


def test_swap_on_a_partition_holds_the_whole_disk(medium: Medium) -> None:
    part = partitioned(medium)
    name = os.path.basename(part)
    disks = {one["name"]: one for one in call()["disks"]["devices"]}
    assert (disks[name]["class"], disks[name]["layer"]) == ("layer", "partition")
    assert os.path.basename(medium.device) in disks[name]["below"]
    assert name in disks[os.path.basename(medium.device)]["above"]
    if not os.path.exists(part):
        number = Path(f"/sys/class/block/{name}/dev").read_text().split(":")
        os.mknod(part, 0o660 | 0o060000, os.makedev(int(number[0]), int(number[1])))
    claim(["mkswap", part])
    claim(["swapon", part])
    try:
        found = fact(medium.device)
        assert "swap" in kinds(found)
        assert found["held"] == "yes"
    finally:
        subprocess.run(["swapoff", part], check=True)
    assert settled(medium.device)["held"] == "no"


def test_an_open_descriptor_and_a_loop_over_the_device_are_holders(medium: Medium, tmp_path: Path) -> None:
    with open(medium.device, "rb") as stream:
        child = subprocess.Popen(["sleep", "600"], stdin=stream)
    try:
        found = settled(medium.device, f"process {child.pid} (sleep)")
        assert [row["what"] for row in found["holders"]] == [f"process {child.pid} (sleep)"]
    finally:
        child.kill()
        child.wait()
    top = Medium(Path(medium.device), claim(["losetup", "--find", "--show", medium.device]).stdout.decode().strip())
    try:
        found = fact(medium.device)
        assert "loop" in kinds(found)
        assert os.path.basename(top.device) in found["above"]
    finally:
        top.detach()


def test_the_header_of_an_encrypted_disk_is_read(medium: Medium) -> None:
    head = bytearray(16384)
    head[0:8] = b"LUKS\xba\xbe\0\x02"
    head[8:16] = struct.pack(">Q", 16384)
    head[168:204] = b"2b1c9a52-0a50-4cfe-9a43-0f2b6e0a1c11"
    text = json.dumps(
        {"keyslots": {"0": {}, "3": {}}, "tokens": {"0": {"type": "systemd-recovery"}}, "segments": {"0": {"offset": "1048576"}}}
    )
    head[4096 : 4096 + len(text)] = text.encode()
    with open(medium.device, "r+b") as stream:
        stream.write(head)
    found = fact(medium.device)
    assert found["traits"]["luks"] == "yes"
    assert found["luks"]["keyslots"] == ["0", "3"]
    assert found["luks"]["tokens"] == ["0 systemd-recovery"]


def test_a_device_that_is_not_there_is_one_clear_error() -> None:
    answer = call(devices=["/dev/nonesuch"])
    assert answer["failed"] and "no such block device: nonesuch" in answer["msg"]


def test_without_asking_only_the_kernel_is_read(medium: Medium) -> None:
    found = {one["name"]: one for one in call(ask=False)["disks"]["devices"]}[os.path.basename(medium.device)]
    assert found["traits"]["luks"] == "unknown"
    assert found["why"]["traits.luks"]


def test_the_module_writes_nothing_in_check_mode_or_out_of_it(medium: Medium) -> None:
    before = medium.content()
    deadline = time.monotonic() + 60
    while True:  # neither may have met somebody else's look at the device
        one, two = call(devices=[medium.device], _ansible_check_mode=True), call(devices=[medium.device])
        kept = [kinds(answer["disks"]["devices"][0]) for answer in (one, two)]
        if kept == [set(), set()] or time.monotonic() >= deadline:
            break
    assert one["changed"] is two["changed"] is False
    assert one["disks"]["devices"] == two["disks"]["devices"]
    assert medium.content() == before


# --- the playbook ---


def play(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    inventory = folder / "hosts.yml"
    inventory.write_text(
        json.dumps(
            {
                "sunset_stations": {"hosts": {"station1": {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}}},
                "sunset_estate": {"hosts": {}},
                "sunset_vaults": {"hosts": {}},
                "all": {"vars": {"sunset_estate_dir": str(folder / "estate")}},
            }
        )
    )
    environment = {**os.environ, "ANSIBLE_CONFIG": str(TOP / "ansible.cfg"), "ANSIBLE_COLLECTIONS_PATH": str(TOP / ".collections")}
    environment["ANSIBLE_LOCAL_TEMP"] = str(folder / "tmp")
    return subprocess.run(
        [str(Path(sys.executable).with_name("ansible-playbook")), "-i", str(inventory), str(TOP / "playbooks/media.yml"), *arguments],
        capture_output=True,
        text=True,
        timeout=180,
        env=environment,
        check=False,
    )


def played(folder: Path, medium: Medium, *arguments: str) -> tuple[subprocess.CompletedProcess[str], Facts, Facts]:
    """The dry run, its report and the medium's row in it, once nobody else looks at the device just then."""
    deadline = time.monotonic() + 120
    while True:
        done = play(folder, *arguments)
        found = json.loads((folder / "estate/report/media.json").read_text())
        (row,) = [row for row in found["rows"] if row["device"] == medium.device]
        looks = [reason for reason in row["reasons"] if reason.startswith(("in use: descriptor ", "in use: exclusive "))]
        if not looks or looks != row["reasons"] or time.monotonic() >= deadline:
            return done, found, row


def test_the_dry_run_shows_every_medium_and_touches_none(medium: Medium, tmp_path: Path) -> None:
    before = medium.content()
    done, found, row = played(tmp_path, medium)
    assert (row["verdict"], row["techniques"][0]["id"], row["techniques"][0]["class"]) == ("plan", "overwrite-keyed", "logical")
    assert "logical sanitisation" in done.stdout
    assert not [row for row in found["rows"] if row["verdict"] == "plan" and row["name"] == root_disk()]
    assert medium.content() == before


def test_asked_for_purge_a_virtual_disk_fails_the_dry_run_with_an_order(medium: Medium, tmp_path: Path) -> None:
    done, found, _row = played(tmp_path, medium, "-e", json.dumps({"sunset_wipe_policy": {"asked": "purge"}}))
    assert done.returncode != 0
    assert f"{medium.device} on station1 cannot reach purge" in done.stdout
    order = next(order for order in found["orders"] if order["device"] == medium.device)
    assert order["reachable"] == "logical"
    assert set(order["to_sign"]) == {"carried_out_by", "witness", "date", "place", "photo"}


def root_disk() -> str:
    from ansible_collections.sunset.crm.plugins.module_utils._disk import device as disk_device

    return str((disk_device.running_root_devices()["names"] or ["none"])[0])
