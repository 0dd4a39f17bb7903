# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The loop devices that stand for disks.

Everything that writes to a device goes through ours(): it is a loop device, and its backing file is the one of this
lab, by inode. No other device of the machine is ever opened for writing.
"""

from __future__ import annotations

import os
import re
import stat
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path

from . import paths
from .layout import Medium
from .shell import LabError, out, run


@dataclass(frozen=True)
class Loop:
    """One attached medium, as the inventory tells it."""

    device: str
    serial: str
    backing_file: str
    inode: int
    size: int

    def identity(self) -> dict[str, object]:
        facts = asdict(self)
        del facts["device"]
        return {"kind": "loop", **facts}


def file_of(medium: Medium) -> Path:
    return paths.MEDIA / f"{medium.serial}.img"


def device_of(medium: Medium) -> str | None:
    """The loop device that carries this medium's file, if one does."""
    file = file_of(medium)
    if not file.exists():
        return None
    found = out(["losetup", "--list", "--noheadings", "--raw", "--output", "NAME", "--associated", str(file)]).split()
    return found[0] if found else None


def label(medium: Medium) -> str:
    """The label of the file system on the medium; empty if there is none any more."""
    return run(["blkid", "--probe", "-o", "value", "-s", "LABEL", str(file_of(medium))], check=False).stdout.decode().strip()


def ours(device: str, medium: Medium) -> None:
    """Refuses unless the device is the loop device of this medium's file."""
    node, file = Path(device), file_of(medium)
    if not re.fullmatch(r"/dev/loop\d+", device) or not stat.S_ISBLK(node.stat().st_mode):
        raise LabError(f"{device} is no loop device: the lab does not touch it")
    if os.major(node.stat().st_rdev) != 7:
        raise LabError(f"{device} has not the major number of loop devices: the lab does not touch it")
    inode = out(["losetup", "--list", "--noheadings", "--raw", "--output", "BACK-INO", device])
    backing = (Path("/sys/block") / node.name / "loop/backing_file").read_text().strip()
    if backing != str(file) or int(inode) != file.stat().st_ino:
        raise LabError(f"{device} carries {backing}, expected {file}: the lab does not touch it")


def attach(medium: Medium) -> Loop:
    """The medium's file, made if it is not there, on a loop device."""
    file = file_of(medium)
    file.parent.mkdir(parents=True, exist_ok=True)
    size = medium.megabytes << 20
    if not file.exists() or file.stat().st_size != size:
        run(["fallocate", "-l", str(size), str(file)])
    device = device_of(medium)
    if device is None:
        make = ["losetup", "--find", "--show"]
        # Direct I/O keeps the data out of a second page cache; not every file system below can do it.
        tried = run([*make, "--direct-io=on", str(file)], check=False)
        device = tried.stdout.decode().strip() if tried.returncode == 0 else out([*make, str(file)])
    ours(device, medium)
    return Loop(device, medium.serial, str(file), file.stat().st_ino, size)


def format_empty(medium: Medium, loop: Loop) -> None:
    ours(loop.device, medium)
    run(["wipefs", "--all", "--quiet", loop.device])
    run(["mkfs.ext4", "-q", "-F", "-m", "0", "-L", medium.name, "-E", "lazy_itable_init=0,lazy_journal_init=0", loop.device])


def restore(medium: Medium, loop: Loop, image: Path) -> None:
    """Lays a prepared image onto the medium, through the device: file, inode and preallocation stay."""
    ours(loop.device, medium)
    # Through a pipe, so the zeros are written too: what an earlier estate left there must not shine through.
    with open(loop.device, "r+b") as target:
        subprocess.run(["zstd", "-dcq", str(image)], stdout=target, check=True)
    run(["blockdev", "--flushbufs", loop.device])


def save(medium: Medium, loop: Loop, image: Path) -> None:
    ours(loop.device, medium)
    run(["blockdev", "--flushbufs", loop.device])
    with open(loop.device, "rb") as source, open(image, "wb") as target:
        subprocess.run(["zstd", "-q1", "-T2", "-c"], stdin=source, stdout=target, check=True)


def detach(medium: Medium) -> None:
    """Lets go of the medium's device, wherever it is attached, and removes the file."""
    file = file_of(medium)
    device = device_of(medium)
    if device is not None:
        ours(device, medium)
        run(["losetup", "--detach", device])
    file.unlink(missing_ok=True)
