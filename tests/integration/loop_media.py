# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Loop devices over files of their own, and media_wipe called on them. Touches no other device."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.sunset.crm.plugins.module_utils._disk import device as disk_device
from ansible_collections.sunset.crm.plugins.module_utils._recorded import make_receipt
from ansible_collections.sunset.crm.plugins.module_utils._wipe import engine as wipe_engine

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

    def attach_as(self, device: str) -> Medium:
        """Under this name. Waits until nobody has it: a detached one goes only when the last who looks at it has closed it."""
        deadline = time.monotonic() + 60
        while subprocess.run(["losetup", "--direct-io=on", device, str(self.file)], capture_output=True, check=False).returncode:
            assert time.monotonic() < deadline, f"{device} is not to be had"
            time.sleep(0.05)
        self.device = device
        return self

    def detach(self) -> None:
        if self.device:
            subprocess.run(["losetup", "--detach", self.device], check=True)
            self.device = ""

    def identity(self) -> dict[str, Any]:
        found = disk_device.identify(self.device)
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


@pytest.fixture(name="medium")
def a_medium(tmp_path: Path) -> Iterator[Medium]:
    found = make(tmp_path / "pgdata.img").attach()
    yield found
    found.detach()


@pytest.fixture(name="wipe")
def call_wipe(medium: Medium, tmp_path: Path) -> Any:
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
