# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Images of virtual disks made by qemu-img, and volume_wipe called on them. Touches nothing but files that it has made."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ansible_collections.sunset.crm.plugins.module_utils._recorded import VISIT, make_receipt
from ansible_collections.sunset.crm.plugins.module_utils._volume import chain as volume_chain
from tests.integration.loop_media import claim, forget_lock

MIB = 1 << 20
MARKER = b"Zoe Muster, customer 4711; "
KEY = "0123456789abcdef" * 4
# The module's lock on an item holds for the whole machine: what another process tests at the same time is another item.
ITEM = f"medium:crm-db1-vda-{os.getpid()}"
RUN = """
import json, sys
from ansible.module_utils.testing import patch_module_args
from ansible_collections.sunset.crm.plugins.modules import volume_wipe
with patch_module_args(json.load(sys.stdin)):
    volume_wipe.main()
"""
Result = dict[str, Any]


def tool(*argv: str | Path) -> str:
    return subprocess.run([str(one) for one in argv], check=True, capture_output=True, text=True).stdout


def text(mib: float) -> bytes:
    size = int(mib * MIB)
    return (MARKER * (size // len(MARKER) + 1))[:size]


def raw(path: Path, mib: int = 8, holes: bool = True) -> Path:
    """A raw image full of a customer's name, with a hole in its middle."""
    with path.open("wb") as stream:
        stream.write(text(mib / 4))
        stream.seek(int(mib * MIB * 3 / 4) if holes else 0, 0 if holes else 1)
        stream.write(text(mib / 4))
    return path


def qcow2(path: Path, backing: Path | None = None, mib: int = 8) -> Path:
    """A qcow2 with the name in it, on top of another image if one is given, and a snapshot inside that holds more of it."""
    if backing is None:
        source = raw(path.with_suffix(".tmp"), mib)
        tool("qemu-img", "convert", "-f", "raw", "-O", "qcow2", source, path)
        source.unlink()
    else:
        tool("qemu-img", "create", "-q", "-f", "qcow2", "-b", backing, "-F", backing.suffix[1:], path)
    part = path.with_suffix(".part")
    part.write_bytes(text(1))
    tool("qemu-io", "-f", "qcow2", "-c", f"write -q -s {part} 2M 1M", path)
    tool("qemu-img", "snapshot", "-c", "inside", path)
    tool("qemu-io", "-f", "qcow2", "-c", "write -q -P 7 2M 1M", path)
    part.unlink()
    return path


def chain(top: Path) -> list[Result]:
    return [volume_chain.told(layer) for layer in volume_chain.follow(str(top), top.suffix[1:])]


def markers(*paths: Path) -> int:
    return sum(path.read_bytes().count(MARKER) for path in paths)


def arguments(folder: Path, layers: list[Result], **options: Any) -> Result:
    return {
        "item": ITEM, "identity": volume_chain.identity(layers), "layers": layers, "stream_key": KEY, "state_directory": str(folder / "state"),
        **options,
    }  # fmt: skip


def call(folder: Path, layers: list[Result], check: bool = False, visit: Result | None = None, **options: Any) -> Result:
    given = {
        **arguments(folder, layers, **options),
        "receipt": {**make_receipt("volume_wipe", ITEM, "test", check), **({VISIT: visit} if visit else {})},
        "_ansible_check_mode": check, "_ansible_module_name": "volume_wipe",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-B", "-c", RUN],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
    forget_lock(ITEM)
    assert done.stdout, done.stderr
    found: Result = json.loads(done.stdout)
    return found


def job_folder(folder: Path) -> Path:
    (found,) = [path for path in (folder / "state").iterdir() if path.name.startswith("medium")]
    return found


@contextmanager
def mounted(folder: Path, kind: str, mib: int, *options: str) -> Iterator[Path]:
    """A file system of this kind over a loop device over a file of its own."""
    image, point = folder / f"{kind}.fs", folder / kind
    with image.open("wb") as stream:
        stream.truncate(mib * MIB)
    tool(f"mkfs.{kind}", *options, image)
    point.mkdir()
    claim(["mount", "-o", "loop", str(image), str(point)])
    try:
        yield point
    finally:
        tool("umount", point)


def extents_of(path: Path) -> list[list[int]]:
    from ansible_collections.sunset.crm.plugins.module_utils._volume import extents as volume_extents

    fd = os.open(path, os.O_RDONLY)
    try:
        return volume_extents.places(volume_extents.extents(fd))
    finally:
        os.close(fd)
