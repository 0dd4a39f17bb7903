# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Wiping real block devices (loop devices over files that the test makes): the module, the job, the refusals.

Needs root. Touches no device but its own.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.sunset.crm.plugins.module_utils import _device, _wipe_engine, _wipe_pass, _wipe_stream
from ansible_collections.sunset.crm.plugins.module_utils._recorded import make_receipt
from ansible_collections.sunset.crm.plugins.plugin_utils import certificate, signatures

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="loop devices need root")

MIB = 1 << 20
MARKER = b"Zoe Muster, customer 4711; "
KEY = "0123456789abcdef" * 4
RUN = """
import json, sys
from ansible.module_utils.testing import patch_module_args
from ansible_collections.sunset.crm.plugins.modules import media_wipe
with patch_module_args(json.load(sys.stdin)):
    media_wipe.main()
"""


@dataclass
class Medium:
    """A loop device over a file of its own."""

    file: Path
    device: str = ""

    def attach(self, *options: str) -> Medium:
        argv = ["losetup", "--find", "--show", "--direct-io=on", *options, str(self.file)]
        self.device = subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()
        return self

    def detach(self) -> None:
        if self.device:
            subprocess.run(["losetup", "--detach", self.device], check=True)
            self.device = ""

    def identity(self) -> dict[str, Any]:
        found = _device.identify(self.device)
        return {key: found[key] for key in ("kind", "serial", "inode", "size")}

    def content(self) -> bytes:
        return self.file.read_bytes()


def make(path: Path, mib: int = 16) -> Medium:
    text = (MARKER * (MIB // len(MARKER) + 1))[:MIB]
    with path.open("wb") as stream:
        for _number in range(mib):
            stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    return Medium(path)


@pytest.fixture
def medium(tmp_path: Path) -> Iterator[Medium]:
    found = make(tmp_path / "pgdata.img").attach()
    yield found
    found.detach()


@pytest.fixture
def wipe(medium: Medium, tmp_path: Path) -> Any:
    """Call the module as the action plugin would, in a process of its own."""

    def call(check: bool = False, **options: Any) -> dict[str, Any]:
        item = "medium:pgdata"
        arguments = {
            "item": item,
            "receipt": make_receipt("media_wipe", item, "test", check),
            "device": medium.device,
            "identity": medium.identity() if "identity" not in options else None,
            "stream_key": KEY,
            "authorisation_sha256": "a" * 64,
            "state_directory": str(tmp_path / "state"),
            "_ansible_check_mode": check,
            "_ansible_module_name": "media_wipe",
            **options,
        }
        paths = [p for p in sys.path if p]
        process = subprocess.run(
            [sys.executable, "-B", "-c", RUN],
            input=json.dumps(arguments),
            capture_output=True,
            text=True,
            timeout=120,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            check=False,
        )
        assert process.stdout.strip(), process.stderr
        answer: dict[str, Any] = json.loads(process.stdout.strip().splitlines()[-1])
        return answer

    return call


def job_folder(tmp_path: Path) -> Path:
    (folder,) = (tmp_path / "state").iterdir()
    return folder


def spec_of(medium: Medium, **more: Any) -> dict[str, Any]:
    return {"device": medium.device, "identity": more.pop("identity", None) or medium.identity(), "key": KEY, **more}


def engine(medium: Medium, folder: Path, kind: type = _wipe_engine.Wipe, **more: Any) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    found: dict[str, Any] = kind(spec_of(medium, **more), str(folder)).run()
    return found


def stock_tools_say_wiped(medium: Medium) -> bool:
    """dd and openssl alone: does the whole device hold the stream?"""
    script = 'dd if="$1" bs=1M iflag=direct status=none | openssl enc -d -aes-256-ctr -K "$2" -iv "$3" | tr -d "\\0" | wc -c'
    argv = ["sh", "-c", script, "sh", medium.device, KEY, "0" * 32]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip() == "0"


# --- the module ----------------------------------------------------------------------------------------------------------


def test_four_in_a_row(medium: Medium, wipe: Any) -> None:
    before = medium.content()
    planned = wipe(check=True)
    assert planned["changed"] and planned["evidence"]["before"]["decision"] == "start"
    assert medium.content() == before

    first = wipe()
    assert first["changed"] and first["evidence"]["verdict"] == "yes", first
    result = first["result"]
    assert result["outcome"] == "sanitised" and result["exceptions"] == []
    assert result["verification"]["canaries_found"] == result["verification"]["canaries_left"] == 16
    assert result["verification"]["bytes_read"] == medium.identity()["size"]
    assert result["accounting"]["written"]["bytes"] >= result["size"]
    assert result["classes"]["called"] == "logical sanitisation"
    assert MARKER not in medium.content() and stock_tools_say_wiped(medium)

    wiped = medium.content()
    second, third = wipe(), wipe(check=True)
    assert not second["changed"] and second["evidence"]["verdict"] == "yes" and second["result"] == result
    assert not third["changed"]
    assert medium.content() == wiped


def test_a_medium_that_was_written_again_is_wiped_again(medium: Medium, wipe: Any) -> None:
    assert wipe()["changed"]
    with open(medium.device, "r+b", buffering=0) as stream:
        stream.write(MARKER * 200)
        os.fsync(stream.fileno())
    again = wipe()
    assert again["changed"] and again["evidence"]["before"]["wiped"] == "no"
    assert MARKER not in medium.content()


def wait_for(tmp_path: Path, percent: float) -> dict[str, Any]:
    deadline = time.time() + 30
    while time.time() < deadline:
        with contextlib.suppress(FileNotFoundError, ValueError):
            progress: dict[str, Any] = json.loads((job_folder(tmp_path) / "progress.json").read_text())
            if progress["percent"] >= percent:
                return progress
        time.sleep(0.02)
    raise AssertionError("the job made no progress")


def test_killed_in_the_middle_goes_on_where_the_stream_ends(medium: Medium, wipe: Any, tmp_path: Path) -> None:
    started = wipe(rate=4 * MIB, wait=0)
    assert started["changed"] and started["evidence"]["verdict"] == "unknown" and started["result"]["state"] == "running"
    progress = wait_for(tmp_path, 40)
    os.kill(progress["pid"], signal.SIGKILL)
    time.sleep(0.3)
    assert MARKER in medium.content()

    result = wipe()["result"]
    assert result["outcome"] == "sanitised" and len(result["sessions"]) == 2
    assert result["sessions"][1]["resumed_from"] >= progress["done"] > 0
    assert result["verification"]["bytes_read"] == result["size"] and result["accounting"]["written"]["verdict"] == "yes"
    assert stock_tools_say_wiped(medium)


def test_a_second_call_attaches_to_the_running_job(medium: Medium, wipe: Any, tmp_path: Path) -> None:
    wipe(rate=8 * MIB, wait=0)
    pid = wait_for(tmp_path, 10)["pid"]
    joined = wipe()
    assert joined["changed"] and joined["evidence"]["before"]["decision"] == "attach"
    assert [session["pid"] for session in joined["result"]["sessions"]] == [pid]
    assert stock_tools_say_wiped(medium)


def test_abort_stops_on_record_and_the_next_call_goes_on(medium: Medium, wipe: Any, tmp_path: Path) -> None:
    wipe(rate=4 * MIB, wait=0)
    wait_for(tmp_path, 20)
    (job_folder(tmp_path) / "abort").touch()
    stopped = wipe()
    assert stopped["failed"] and "was stopped" in stopped["msg"] and stopped["evidence"]["verdict"] == "no"
    result = wipe()["result"]
    assert result["outcome"] == "sanitised" and len(result["sessions"]) == 2


def test_the_key_is_in_no_argument_list_and_its_file_is_private(medium: Medium, wipe: Any, tmp_path: Path) -> None:
    wipe(rate=4 * MIB, wait=0)
    pid = wait_for(tmp_path, 1)["pid"]
    seen = b"".join(path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if int(path.parent.name) != os.getpid())
    assert KEY.encode() not in seen
    assert (job_folder(tmp_path) / "spec.json").stat().st_mode & 0o777 == 0o600
    assert job_folder(tmp_path).stat().st_mode & 0o777 == 0o700
    os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("key,word", [("xyz", "64 hexadecimal digits"), ("0" * 64, "repeats itself")])
def test_a_poor_key_is_refused(medium: Medium, wipe: Any, key: str, word: str) -> None:
    before = medium.content()
    answer = wipe(stream_key=key)
    assert answer["failed"] and word in answer["msg"] and medium.content() == before


def test_no_receipt_no_wipe(medium: Medium, wipe: Any) -> None:
    before = medium.content()
    assert wipe(receipt=None)["failed"]
    assert wipe(receipt=make_receipt("media_wipe", "medium:other", "x"))["failed"]
    assert wipe(receipt=make_receipt("media_wipe", "medium:pgdata", "x", True))["failed"]
    assert medium.content() == before


# --- refusals: each with the device left as it was -----------------------------------------------------------------------


@contextlib.contextmanager
def mounted(medium: Medium, tmp_path: Path) -> Iterator[None]:
    subprocess.run(["mkfs.ext4", "-q", "-F", medium.device], check=True)
    (tmp_path / "mnt").mkdir()
    subprocess.run(["mount", medium.device, str(tmp_path / "mnt")], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(tmp_path / "mnt")], check=True)


@contextlib.contextmanager
def mounted_elsewhere(medium: Medium, tmp_path: Path) -> Iterator[None]:
    """In a mount namespace that only a sleeping process has."""
    subprocess.run(["mkfs.ext4", "-q", "-F", medium.device], check=True)
    (tmp_path / "mnt").mkdir()
    script = 'mount "$1" "$2" && echo ready && exec sleep 60'
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
    process = subprocess.Popen(["sh", "-c", 'exec 3<"$1"; echo ready; exec sleep 60', "sh", medium.device], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline().strip() == "ready"
    try:
        yield
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def claimed(medium: Medium, tmp_path: Path) -> Iterator[None]:
    fd = os.open(medium.device, os.O_RDONLY | os.O_EXCL)
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
    subprocess.run(["mkswap", medium.device], check=True, capture_output=True)
    if subprocess.run(["swapon", medium.device], check=False, capture_output=True).returncode != 0:
        pytest.skip("swap cannot be switched on here")
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
        before = medium.content()
        for check in (True, False):
            answer = wipe(check=check)
            assert answer["failed"] and answer["evidence"]["verdict"] == "no"
            assert all(word in answer["msg"] for word in words), answer["msg"]
        direct = engine(medium, tmp_path / "direct")
        assert direct["outcome"] == "refused", direct
        assert medium.content() == before
    assert not (tmp_path / "state").exists()


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
def test_another_device_than_the_plan_names_is_refused(medium: Medium, wipe: Any, tmp_path: Path, change: dict[str, Any], word: str) -> None:
    before, identity = medium.content(), {**medium.identity(), **change}
    answer = wipe(identity=identity)
    assert answer["failed"] and word in answer["msg"]
    folder = tmp_path / "direct"
    folder.mkdir()
    direct = _wipe_engine.Wipe({**spec_of(medium), "identity": identity}, str(folder)).run()
    assert direct["outcome"] == "refused" and medium.content() == before


def test_a_swapped_device_is_refused(medium: Medium, wipe: Any, tmp_path: Path) -> None:
    identity, device = medium.identity(), medium.device
    (tmp_path / "elsewhere").mkdir()
    other = make(tmp_path / "elsewhere" / "pgdata.img")
    medium.detach()
    medium.file = other.file
    medium.attach()
    if medium.device != device:
        pytest.skip("another process took the loop device meanwhile")
    before = other.content()
    answer = wipe(identity=identity)
    assert answer["failed"] and "inode: expected" in answer["msg"] and other.content() == before


def test_the_identity_of_the_opened_descriptor_counts(medium: Medium, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name led to the right device when it was looked at and to another one when it was opened."""
    real, right = _device.identify, {**_device.identify(medium.device), "inode": 1}
    monkeypatch.setattr(_device, "identify", lambda target: dict(right) if isinstance(target, str) else real(target))
    (tmp_path / "direct").mkdir()
    before = medium.content()
    result = _wipe_engine.Wipe(spec_of(medium, identity={**medium.identity(), "inode": 1}), str(tmp_path / "direct")).run()
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
    identity, device = medium.identity(), medium.device
    medium.detach()
    if _device.identify(device).get("attached") is not False:
        pytest.skip("another process took the loop device meanwhile")
    answer = wipe(device=device, identity=identity)
    assert answer["failed"] and "size is 0" in answer["msg"]


def test_the_running_root_is_refused(medium: Medium, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    number = _device.identify(medium.device)["number"]
    monkeypatch.setattr(_device, "running_root_devices", lambda: {"verdict": "yes", "numbers": [number], "names": [], "why": ""})
    before = medium.content()
    result = engine(medium, tmp_path / "direct")
    assert result["outcome"] == "refused" and "running system" in result["reasons"][0] and medium.content() == before


def test_the_running_root_is_found() -> None:
    root = _device.running_root_devices()
    major_minor = _device.device_number(os.stat("/").st_dev)
    assert root["verdict"] == "unknown" if major_minor.startswith("0:") else major_minor in root["numbers"]


# --- the job -------------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """Stands for a kill: nothing of the job runs after it."""


def killed_at(offset: int) -> type:
    class Dying(_wipe_engine.Wipe):
        def progress(self, done: int, rate: Any = None, total: Any = None) -> None:
            if done >= offset:
                raise Killed

    return Dying


def test_what_a_checkpoint_claims_is_not_believed(medium: Medium, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk whose write cache was lost: the checkpoint says 12 MiB, the last 3 of them are not there."""
    monkeypatch.setattr(_wipe_engine, "PROGRESS_SECONDS", 0.02)
    folder = tmp_path / "job"
    with pytest.raises(Killed):
        engine(medium, folder, killed_at(12 * MIB), rate=16 * MIB, checkpoint_seconds=0.01)
    state = json.loads((folder / "state.json").read_text())
    assert state["offset"] >= 8 * MIB
    state["offset"] = 12 * MIB
    (folder / "state.json").write_text(json.dumps(state))
    with open(medium.device, "r+b", buffering=0) as stream:
        stream.seek(9 * MIB)
        stream.write(MARKER * 2000)
        os.fsync(stream.fileno())
    result = engine(medium, folder)
    assert result["outcome"] == "sanitised" and result["sessions"][1]["resumed_from"] == 9 * MIB
    assert stock_tools_say_wiped(medium) and MARKER not in medium.content()


@pytest.mark.parametrize("phase", ["verify", "canaries", "verified"])
def test_killed_in_a_later_phase(medium: Medium, tmp_path: Path, phase: str) -> None:
    class Dying(_wipe_engine.Wipe):
        def save(self, **changes: Any) -> None:
            super().save(**changes)
            if changes.get("phase") == phase:
                raise Killed

    with pytest.raises(Killed):
        engine(medium, tmp_path / "job", Dying)
    result = engine(medium, tmp_path / "job")
    assert result["outcome"] == "sanitised" and stock_tools_say_wiped(medium)


def test_a_torn_state_file_means_a_whole_new_pass(medium: Medium, tmp_path: Path) -> None:
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "state.json").write_text('{"offset": 163')
    assert engine(medium, tmp_path / "job")["outcome"] == "sanitised" and stock_tools_say_wiped(medium)


def test_a_device_that_shrinks_under_the_job_is_not_wiped(medium: Medium, tmp_path: Path) -> None:
    class Shrinking(_wipe_engine.Wipe):
        def save(self, **changes: Any) -> None:
            super().save(**changes)
            if changes.get("phase") == "write":
                os.truncate(medium.file, 8 * MIB)
                subprocess.run(["losetup", "--set-capacity", medium.device], check=True)

    result = engine(medium, tmp_path / "job", Shrinking)
    assert result["outcome"] == "failed" and result["reasons"], result


def test_a_device_that_changes_between_the_passes_is_not_wiped(medium: Medium, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = _device.identify

    class Changing(_wipe_engine.Wipe):
        def flush(self) -> None:
            super().flush()
            monkeypatch.setattr(_device, "identify", lambda target: {**real(target), "inode": 1})

    result = engine(medium, tmp_path / "job", Changing)
    assert result["outcome"] == "failed" and "changed under the job" in result["reasons"][0]


def test_nobody_can_claim_the_device_while_it_is_wiped(medium: Medium, tmp_path: Path) -> None:
    class Watched(_wipe_engine.Wipe):
        def verify(self) -> None:
            with pytest.raises(OSError, match="busy"):
                os.open(medium.device, os.O_RDONLY | os.O_EXCL)
            super().verify()

    assert engine(medium, tmp_path / "job", Watched)["outcome"] == "sanitised"


def test_one_flipped_byte_fails_the_wipe(medium: Medium, tmp_path: Path) -> None:
    class Flipping(_wipe_engine.Wipe):
        def verify(self) -> None:
            place = 10 * MIB + 123
            while place // 4096 * 4096 in self.state["canaries"]:
                place += 4096
            with open(medium.device, "r+b", buffering=0) as stream:
                stream.seek(place)
                byte = stream.read(1)
                stream.seek(place)
                stream.write(bytes([byte[0] ^ 1]))
                os.fsync(stream.fileno())
            super().verify()

    result = engine(medium, tmp_path / "job", Flipping)
    assert result["outcome"] == "failed" and result["verification"]["mismatches"] == 1
    assert result["verification"]["mismatch_ranges"][0][0] // MIB == 10


def test_a_verifier_that_does_not_look_fails_the_wipe(medium: Medium, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def blind(self: Any, worker: Any, offset: int) -> None:
        self.bytes_read += min(_wipe_pass.BLOCK, self.size - offset)

    monkeypatch.setattr(_wipe_pass.VerifyPass, "block", blind)
    result = engine(medium, tmp_path / "job", workers=1)
    assert result["outcome"] == "failed"
    assert any("missed 16 of 16 canaries" in line for line in result["reasons"])
    assert result["accounting"]["read"]["verdict"] == "no"


def test_a_verifier_that_looks_at_another_device_fails_the_wipe(medium: Medium, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "other").mkdir()
    other = make(tmp_path / "other" / "x.img").attach()
    try:
        assert engine(other, tmp_path / "first")["outcome"] == "sanitised"
        stray = os.open(other.device, os.O_RDONLY | os.O_DIRECT)
        real = _wipe_pass.VerifyPass.worker

        def misled(self: Any) -> Any:
            self.fd = stray
            return real(self)

        monkeypatch.setattr(_wipe_pass.VerifyPass, "worker", misled)
        result = engine(medium, tmp_path / "job")
        os.close(stray)
    finally:
        other.detach()
    assert result["outcome"] == "failed" and any("canaries" in line for line in result["reasons"])


def test_a_writer_that_writes_less_fails_the_wipe(medium: Medium, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = _wipe_pass.WritePass.block

    def lazy(self: Any, worker: Any, offset: int) -> None:
        if offset != 5 * MIB:
            real(self, worker, offset)

    monkeypatch.setattr(_wipe_pass.WritePass, "block", lazy)
    result = engine(medium, tmp_path / "job")
    assert result["outcome"] == "failed" and result["accounting"]["written"]["verdict"] == "no"


def test_wiped_twice_with_one_key_still_has_canaries(medium: Medium, tmp_path: Path) -> None:
    assert engine(medium, tmp_path / "one")["outcome"] == "sanitised"
    result = engine(medium, tmp_path / "two")
    assert result["outcome"] == "sanitised" and result["verification"]["canaries_planted"] == 16


def test_bad_places_end_with_exceptions(medium: Medium, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, bad = _wipe_stream.DirectIO._all, {7 * MIB + 8192, 7 * MIB + 12288}

    def failing(self: Any, function: Any, fd: int, buffer: Any, offset: int, size: int, start: int) -> None:
        if any(offset <= place < offset + size for place in bad):
            raise OSError(errno.EIO, "Input/output error")
        real(self, function, fd, buffer, offset, size, start)

    monkeypatch.setattr(_wipe_stream.DirectIO, "_all", failing)
    result = engine(medium, tmp_path / "job")
    assert result["outcome"] == "sanitised_with_exceptions"
    assert result["error_ranges"] == [[7 * MIB + 8192, 7 * MIB + 16384]]
    assert any("destroy the medium" in line for line in result["exceptions"])


def interpreters() -> list[str]:
    """The oldest Python that is promised, wherever it lies, and the system's own."""
    names = [str(path) for path in Path.home().glob(".pyenv/versions/3.6*/bin/python")]
    names += [f"{folder}/python3.6" for folder in os.environ.get("PATH", "").split(":") if os.access(f"{folder}/python3.6", os.X_OK)]
    return names[:1] + [path for path in ("/usr/bin/python3", "/usr/libexec/platform-python") if os.access(path, os.X_OK)]


@pytest.mark.parametrize("python", interpreters())
def test_the_job_alone_under_other_pythons(medium: Medium, tmp_path: Path, python: str) -> None:
    folder = tmp_path / "job"
    folder.mkdir()
    for module in (_wipe_engine, *_wipe_engine.MODULES):
        (folder / Path(str(module.__file__)).name).write_text(Path(str(module.__file__)).read_text())
    (folder / "spec.json").write_text(json.dumps(spec_of(medium)))
    argv = [python, "-B", "-I", str(folder / "_wipe_engine.py"), str(folder / "spec.json")]
    process = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False, cwd="/")
    assert process.returncode == 0, process.stderr + (folder / "result.json").read_text()
    result = json.loads((folder / "result.json").read_text())
    assert result["outcome"] == "sanitised" and stock_tools_say_wiped(medium)


# --- the certificate -----------------------------------------------------------------------------------------------------


def handbook_agrees(medium: Medium, path: Path) -> None:
    """Run the commands of docs/auditor.md as they stand there, with the placeholders filled in."""
    (path.parent / "ledger.jsonl").write_text('{"n":0}\n{"n":1,"what":"wiped"}\n')
    entry = hashlib.sha256(b'{"n":1,"what":"wiped"}').hexdigest()
    text = (Path(__file__).resolve().parents[2] / "docs" / "auditor.md").read_text().split("## Wiped media")[1].split("\n## ")[0]
    blocks = re.findall(r"```\n(.*?)```", text, re.DOTALL)
    expected = ['Good "certificate@sunset.crm" signature for run', "# must print: 0", "0", "0", '"wiped"']
    assert len(blocks) == len(expected)
    for block, word in zip(blocks, expected, strict=True):
        if "jq" in block and not shutil.which("jq"):
            block = block.replace("| jq .", "")
            if "jq" in block:
                continue
        for placeholder, value in (
            ("medium_NAME", "medium_pgdata"), ("/dev/DEVICE", medium.device), (" KEY ", f" {KEY} "), ("LEDGER_ENTRY", entry),
        ):  # fmt: skip
            block = block.replace(placeholder, value)
        process = subprocess.run(["bash", "-c", block], capture_output=True, text=True, cwd=path.parent, check=False)
        assert word in process.stdout and (word != "0" or process.stdout.strip() == "0"), (block, process.stdout, process.stderr)


def test_the_commands_of_the_certificate_confirm_it(medium: Medium, wipe: Any, tmp_path: Path) -> None:
    answer = wipe()
    made = certificate.build_certificate(
        item={"id": "medium:pgdata", "host": "db1", "wave": "main", "identity": medium.identity(), "wipe": {"host": "station1"}},
        plan={"estate": "lab", "sha256": "b" * 64, "approved_by": "anna"},
        authorisation={"sha256": "a" * 64, "signer": "berta", "name": "wipe.json", "expires": "2030-01-01T00:00:00Z", "method": "overwrite"},
        data_sets=[
            {
                "item": "database:creme",
                "categories": ["customers"],
                "dump": {"id": "d1", "entry": "c" * 64},
                "proofs": [{"vault": "vault1", "verdict": "equal", "entry": "d" * 64, "tables": 3, "rows": 700}],
            }
        ],
        wipe=answer["result"],
        stream_key=KEY,
        evidence={"ledger_entry": "e" * 64, "sha256": answer["evidence_sha256"]},
        people={"operator": "otto"},
        issued="2026-01-31T10:00:00Z",
    )
    signatures.create_key(tmp_path / "run", "run")
    path, _signature = certificate.issue(made, tmp_path / "evidence", tmp_path / "run")
    (path.parent / "allowed_signers").write_text(f'run namespaces="{signatures.CERTIFICATE}" {(tmp_path / "run.pub").read_text()}')

    def outputs() -> list[bool]:
        found = []
        for check in json.loads(path.read_text())["check"]:
            if "SERIAL" in check["command"]:
                continue
            process = subprocess.run(["sh", "-c", check["command"]], capture_output=True, text=True, cwd=path.parent, check=False)
            found.append(check["expect"] in process.stdout and (check["expect"] != "0" or process.stdout.strip() == "0"))
        return found

    assert outputs() == [True] * 7
    handbook_agrees(medium, path)
    with open(medium.device, "r+b", buffering=0) as stream:
        stream.write(b"x")
        os.fsync(stream.fileno())
    path.write_text(path.read_text().replace("otto", "paul"))
    assert outputs() == [False, True, True, False, True, True, False]
