# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What must not be wiped: each refusal on a real block device, which is left as it was."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.sunset.crm.plugins.module_utils._disk import device as disk_device
from ansible_collections.sunset.crm.plugins.module_utils._wipe import engine as wipe_engine
from tests.integration.loop_media import (
    CLAIM,
    MIB,
    Medium,
    a_medium as _medium,  # noqa: F401
    call_wipe as _wipe,  # noqa: F401
    claim,
    claimed_fd,
    engine,
    forget_device,
    is_empty,
    make,
    spec_of,
)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="loop devices need root")


@contextlib.contextmanager
def mounted(medium: Medium, tmp_path: Path) -> Iterator[None]:
    claim(["mkfs.ext4", "-q", "-F", medium.device])
    (tmp_path / "mnt").mkdir()
    claim(["mount", medium.device, str(tmp_path / "mnt")])
    try:
        yield
    finally:
        subprocess.run(["umount", str(tmp_path / "mnt")], check=True)


@contextlib.contextmanager
def mounted_elsewhere(medium: Medium, tmp_path: Path) -> Iterator[None]:
    """In a mount namespace that only a sleeping process has."""
    claim(["mkfs.ext4", "-q", "-F", medium.device])
    (tmp_path / "mnt").mkdir()
    script = CLAIM + 'claim mount "$1" "$2" && echo ready && exec sleep 600'
    argv = ["unshare", "--mount", "sh", "-c", script, "sh", medium.device, str(tmp_path / "mnt")]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline().strip() == "ready"
    assert str(tmp_path / "mnt") not in Path("/proc/self/mountinfo").read_text()
    try:
        yield
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def opened(medium: Medium, tmp_path: Path) -> Iterator[None]:
    process = subprocess.Popen(
        ["sh", "-c", 'exec 3<"$1"; echo ready; exec sleep 600', "sh", medium.device], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline().strip() == "ready"
    try:
        yield
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def claimed(medium: Medium, tmp_path: Path) -> Iterator[None]:
    fd = claimed_fd(medium.device)
    try:
        yield
    finally:
        os.close(fd)


@contextlib.contextmanager
def carrying(medium: Medium, tmp_path: Path) -> Iterator[None]:
    """A loop device over the device itself: no holder in the kernel's own list."""
    upper = Medium(Path(medium.device)).attach()
    try:
        yield
    finally:
        upper.detach()


@contextlib.contextmanager
def swapping(medium: Medium, tmp_path: Path) -> Iterator[None]:
    claim(["mkswap", medium.device])
    claim(["swapon", medium.device])
    try:
        yield
    finally:
        subprocess.run(["swapoff", medium.device], check=True)


@pytest.mark.parametrize(
    "holder,words",
    [
        (mounted, ["mounts: ", "exclusive"]),
        (mounted_elsewhere, ["mounts: ", "exclusive"]),
        (opened, ["descriptors: pid"]),
        (claimed, ["exclusive"]),
        (carrying, ["loops: "]),
        (swapping, ["swap: "]),
    ],
)
def test_a_device_in_use_is_refused(medium: Medium, wipe: Any, tmp_path: Path, holder: Any, words: list[str]) -> None:
    with holder(medium, tmp_path):
        os.sync()
        # The kernel may put pages of its own onto a swap area; its header stays.
        untouched = slice(4096 if holder is swapping else None)
        before = medium.content()[untouched]
        for check in (True, False):
            answer = wipe(check=check)
            assert answer["failed"] and answer["evidence"]["verdict"] == "no"
            assert all(word in answer["msg"] for word in words), answer["msg"]
        direct = engine(medium, tmp_path / "direct")
        assert direct["outcome"] == "refused", direct
        assert medium.content()[untouched] == before
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize("look", [opened, claimed])
def test_what_is_only_a_look_at_the_device_is_waited_for(medium: Medium, tmp_path: Path, look: Any) -> None:
    with contextlib.ExitStack() as looking:
        looking.enter_context(look(medium, tmp_path))
        assert disk_device.blocking_holders(disk_device.holders(medium.device))
        end = threading.Timer(0.7, looking.pop_all().close)
        end.start()
        result = engine(medium, tmp_path / "direct")
        end.join()
    assert result["outcome"] == "sanitised", result


@pytest.mark.parametrize(
    "change,word",
    [
        ({"inode": 1}, "inode"),
        ({"size": 16 * MIB - 512}, "size"),
        ({"serial": "other"}, "serial"),
        ({"wwid": "naa.5000"}, "wwid"),
        ({"kind": "nvme"}, "kind"),
        ({"inode": None, "serial": None}, "identity is weak"),
    ],
)
def test_another_device_than_the_plan_names_is_refused(
    medium: Medium, wipe: Any, tmp_path: Path, change: dict[str, Any], word: str
) -> None:
    before, identity = medium.content(), {**medium.identity(), **change}
    answer = wipe(identity=identity)
    assert answer["failed"] and word in answer["msg"]
    folder = tmp_path / "direct"
    folder.mkdir()
    direct = wipe_engine.Wipe({**spec_of(medium), "identity": identity}, str(folder)).run()
    assert direct["outcome"] == "refused" and medium.content() == before


def test_a_swapped_device_is_refused(medium: Medium, wipe: Any, tmp_path: Path) -> None:
    medium.detach()
    identity = medium.attach_as("/dev/loop1001").identity()  # too high for what other tests find free
    (tmp_path / "elsewhere").mkdir()
    other = make(tmp_path / "elsewhere" / "pgdata.img")
    medium.detach()
    medium.file = other.file
    medium.attach_as("/dev/loop1001")
    before = other.content()
    answer = wipe(identity=identity)
    assert answer["failed"] and "inode: expected" in answer["msg"] and other.content() == before


def test_the_identity_of_the_opened_descriptor_counts(medium: Medium, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name led to the right device when it was looked at and to another one when it was opened."""
    real, right = disk_device.identify, {**disk_device.identify(medium.device), "inode": 1}
    monkeypatch.setattr(disk_device, "identify", lambda target: dict(right) if isinstance(target, str) else real(target))
    (tmp_path / "direct").mkdir()
    before = medium.content()
    result = wipe_engine.Wipe(spec_of(medium, identity={**medium.identity(), "inode": 1}), str(tmp_path / "direct")).run()
    assert result["outcome"] == "refused" and "inode" in result["reasons"][0] and medium.content() == before


def test_a_read_only_device_is_refused(medium: Medium, wipe: Any) -> None:
    medium.detach()
    medium.attach("--read-only")
    before = medium.content()
    answer = wipe()
    assert answer["failed"] and "read-only" in answer["msg"] and medium.content() == before


def test_a_protected_disk_is_refused(medium: Medium, wipe: Any) -> None:
    before = medium.content()
    answer = wipe(protected=[medium.identity()])
    assert answer["failed"] and "protected" in answer["msg"] and medium.content() == before


def test_a_file_and_nothing_are_refused(medium: Medium, wipe: Any, tmp_path: Path) -> None:
    before, identity = medium.content(), medium.identity()
    assert "not a block device" in wipe(device=str(medium.file), identity=identity)["msg"]
    assert "No such file" in wipe(device=str(tmp_path / "none"), identity=identity)["msg"]
    assert "not a block device" in wipe(device="/dev/null", identity=identity)["msg"]
    assert medium.content() == before


def test_an_empty_loop_device_is_refused(medium: Medium, wipe: Any) -> None:
    device, deadline = "/dev/loop1002", time.monotonic() + 60  # too high for what other tests find free
    medium.detach()
    identity = medium.attach_as(device).identity()
    medium.detach(forget=False)
    # It is empty once nobody looks at it any more, and may be the same test's of another run.
    while True:
        before = is_empty(device)
        answer = wipe(device=device, identity=identity)
        if before and is_empty(device):
            break
        assert time.monotonic() < deadline, f"{device} does not become empty"
    forget_device(device)
    assert answer["failed"] and "size is 0" in answer["msg"]


def test_the_running_root_is_refused(medium: Medium, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    number = disk_device.identify(medium.device)["number"]
    monkeypatch.setattr(disk_device, "running_root_devices", lambda: {"verdict": "yes", "numbers": [number], "names": [], "why": ""})
    before = medium.content()
    result = engine(medium, tmp_path / "direct")
    assert result["outcome"] == "refused" and "running system" in result["reasons"][0] and medium.content() == before


def test_the_running_root_is_found() -> None:
    root = disk_device.running_root_devices()
    major_minor = disk_device.device_number(os.stat("/").st_dev)
    assert root["verdict"] == "unknown" if major_minor.startswith("0:") else major_minor in root["numbers"]


def test_a_loop_over_a_device_is_refused(medium: Medium, wipe: Any, tmp_path: Path) -> None:
    """The kernel lets one be laid over a disk that is mounted: its own claim says nothing of the disk below."""
    with mounted(medium, tmp_path):
        upper = Medium(Path(medium.device)).attach()
        try:
            before = medium.content()
            identity = upper.identity()
            answer = wipe(device=upper.device, identity=identity)
            assert answer["failed"] and "a loop over the device" in answer["msg"], answer["msg"]
            folder = tmp_path / "direct"
            folder.mkdir()
            direct = wipe_engine.Wipe(spec_of(upper, identity=identity), str(folder)).run()
            assert direct["outcome"] == "refused" and medium.content() == before
        finally:
            upper.detach()
