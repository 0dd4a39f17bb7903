# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Loop devices over files of their own, and media_wipe called on them. Touches no other device."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.sunset.crm.plugins.module_utils._disk import device as disk_device
from ansible_collections.sunset.crm.plugins.module_utils._recorded import LOCK_DIRECTORIES, VISIT, make_receipt
from ansible_collections.sunset.crm.plugins.module_utils._wipe import engine as wipe_engine

MIB = 1 << 20
MARKER = b"Zoe Muster, customer 4711; "
KEY = "0123456789abcdef" * 4
# The module's lock on an item holds for the whole machine: what another process tests at the same time is another item.
ITEM = f"medium:pgdata-{os.getpid()}"
CLAIM_SECONDS = 30.0
LOOP_CTL_REMOVE = 0x4C81
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
        self.device = claim(["losetup", "--find", "--show", "--direct-io=on", *options, str(self.file)]).stdout.decode().strip()
        return self

    def attach_as(self, device: str) -> Medium:
        """Under this name. Waits until nobody has it: a detached one goes only when the last who looks at it has closed it."""
        deadline = time.monotonic() + 60
        while subprocess.run(["losetup", "--direct-io=on", device, str(self.file)], capture_output=True, check=False).returncode:
            assert time.monotonic() < deadline, f"{device} is not to be had"
            time.sleep(0.05)
        self.device = device
        return self

    def detach(self, forget: bool = True) -> None:
        if self.device:
            subprocess.run(["losetup", "--detach", self.device], check=True)
            if forget:
                forget_device(self.device)
            self.device = ""

    def identity(self) -> dict[str, Any]:
        found = disk_device.identify(self.device)
        return {key: found[key] for key in ("kind", "serial", "inode", "size")}

    def content(self) -> bytes:
        return self.file.read_bytes()


# --- others look at all devices of the machine meanwhile -------------------------------------------------------------------


def claim(argv: list[str], data: bytes = b"", check: bool = True) -> subprocess.CompletedProcess[bytes]:
    """Run a tool that claims a device. Who looks at all devices just now (a survey in another process) claims each of them for a moment: while
    the tool finds it in use it is run again. Any other error counts at once."""
    deadline = time.monotonic() + CLAIM_SECONDS
    while True:
        done = subprocess.run(argv, input=data, capture_output=True, check=False, env={**os.environ, "LC_ALL": "C"})
        busy = re.search(rb"\bbusy\b|\bin use\b", done.stderr) or (argv[0] == "cryptsetup" and done.returncode == 5)
        if not done.returncode or not busy or time.monotonic() >= deadline:
            break
        time.sleep(0.05)
    assert not check or not done.returncode, (argv, done.returncode, done.stderr)
    return done


# The same for a line of shell whose process has to stay: defines "claim", which runs its arguments.
CLAIM = """claim() {
    left=300
    until said=$("$@" 2>&1); do
        case $said in *busy*|*"in use"*) ;; *) left=0 ;; esac
        if [ $left = 0 ]; then echo "$said" >&2; return 1; fi
        left=$((left - 1)); sleep 0.1
    done
}; export LC_ALL=C; """


def claimed_fd(device: str) -> int:
    """A claim of our own."""
    deadline = time.monotonic() + CLAIM_SECONDS
    while True:
        try:
            return os.open(device, os.O_RDONLY | os.O_EXCL)
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() >= deadline:
                raise
        time.sleep(0.02)


def is_empty(device: str) -> bool:
    return disk_device.identify(device)["attached"] is False


def forget_device(device: str) -> None:
    """A high number (attach_as) is nobody's but a test's: it goes when nobody looks at it any more, or stays empty."""
    number = int(device.removeprefix("/dev/loop"))
    if number < 1000:
        return
    fd = os.open("/dev/loop-control", os.O_RDWR)
    try:
        for _attempt in range(20):
            with contextlib.suppress(OSError):
                fcntl.ioctl(fd, LOOP_CTL_REMOVE, number)
            if not os.path.exists(device):
                break
            time.sleep(0.05)
    finally:
        os.close(fd)


def make(path: Path, mib: int = 16) -> Medium:
    text = (MARKER * (MIB // len(MARKER) + 1))[:MIB]
    with path.open("wb") as stream:
        for _number in range(mib):
            stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    return Medium(path)


@pytest.fixture(name="medium")
def a_medium(tmp_path: Path) -> Iterator[Medium]:
    found = make(tmp_path / "pgdata.img").attach()
    yield found
    found.detach()


@pytest.fixture(name="wipe")
def call_wipe(medium: Medium, tmp_path: Path) -> Any:
    """Call the module as the action plugin would, in a process of its own. visit: what the action plugin hands from call to call (C(attach))."""

    def call(check: bool = False, visit: dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
        arguments = {
            "item": ITEM,
            "receipt": {**make_receipt("media_wipe", ITEM, "test", check), **({VISIT: visit} if visit else {})},
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
            timeout=300,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            check=False,
        )
        forget_lock(ITEM)
        assert process.stdout.strip(), process.stderr
        answer: dict[str, Any] = json.loads(process.stdout.strip().splitlines()[-1])
        return answer

    return call


def forget_lock(item: str) -> None:
    """The lock file of an item that nobody but this process calls a module for."""
    for folder in LOCK_DIRECTORIES:
        (Path(folder) / re.sub(r"[^A-Za-z0-9._-]", "_", f"sunset-medium-{item}.lock")).unlink(missing_ok=True)


# --- the job of a module ---------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def halted(tmp_path: Path) -> Iterator[None]:
    """No job of this state directory makes a block of its stream meanwhile: all cores are taken. It lives, looks for C(abort) and reports, and
    comes to its end when this ends."""
    folder = tmp_path / "state" / ".cores"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    cores = [os.open(folder / str(number), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600) for number in range(os.cpu_count() or 1)]
    try:
        for core in cores:
            fcntl.flock(core, fcntl.LOCK_EX)
        yield
    finally:
        for core in cores:
            os.close(core)


def attach(call: Any, **options: Any) -> dict[str, Any]:
    """A call that finds the job running and does not wait for it, as the action has it; the C(visit) of the next call, which sees the end."""
    pending = call(visit={"patience": 0.01}, **options)["pending"][VISIT]
    assert pending["carried"]["before"]["decision"] == "attach", pending
    return {**pending, "patience": 0}


def wait_for(tmp_path: Path, percent: float) -> dict[str, Any]:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        with contextlib.suppress(FileNotFoundError, ValueError):
            progress: dict[str, Any] = json.loads((job_folder(tmp_path) / "progress.json").read_text())
            if progress["percent"] >= percent:
                return progress
        time.sleep(0.02)
    raise AssertionError("the job made no progress")


def kill_job(folder: Path, pid: int) -> None:
    """A thread in direct I/O dies only after its write; until then the job has its lock, and its device."""
    os.kill(pid, signal.SIGKILL)
    lock, deadline = os.open(folder / "lock", os.O_RDWR), time.monotonic() + 60
    try:
        while True:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            assert time.monotonic() < deadline, f"{pid} does not die"
            time.sleep(0.02)
    finally:
        os.close(lock)


def job_folder(tmp_path: Path) -> Path:
    (folder,) = (path for path in (tmp_path / "state").iterdir() if not path.name.startswith("."))
    return folder


def spec_of(medium: Medium, **more: Any) -> dict[str, Any]:
    return {"device": medium.device, "identity": more.pop("identity", None) or medium.identity(), "key": KEY, **more}


def engine(medium: Medium, folder: Path, kind: type = wipe_engine.Wipe, **more: Any) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    found: dict[str, Any] = kind(spec_of(medium, **more), str(folder)).run()
    return found


def stock_tools_say_wiped(medium: Medium) -> bool:
    """dd and openssl alone: does the whole device hold the stream?"""
    script = 'dd if="$1" bs=1M iflag=direct status=none | openssl enc -d -aes-256-ctr -K "$2" -iv "$3" | tr -d "\\0" | wc -c'
    argv = ["sh", "-c", script, "sh", medium.device, KEY, "0" * 32]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip() == "0"
