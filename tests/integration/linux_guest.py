# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A Linux of a few megabytes for guests: Debian's cloud kernel, busybox, and a guest agent of twenty lines. Made once, kept in the cache.

What it does when it is asked is on its command line: C(agent) obeys its agent and the power button, C(deaf) has an agent that takes the request
and does nothing, and obeys the power button.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

MODULES = ("virtio_ring", "virtio", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci", "virtio_console", "button", "evdev")
INIT = """#!/bin/sh
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in MODULES; do insmod /m/$module.ko 2>/dev/ttyS0; done
agent() {
    while :; do
        # The port comes a moment after its driver.
        port=$(echo /dev/vport*)
        test -e "$port" || { sleep 1; continue; }
        exec 3<>"$port"
        while read -r line <&3; do
            case "$line" in
                *guest-sync*) echo "{\\"return\\":$(echo "$line" | sed 's/.*"id": *\\([0-9]*\\).*/\\1/')}" >&3 ;;
                *guest-shutdown*) grep -q deaf /proc/cmdline || poweroff -f ;;
            esac
        done
        sleep 1
    done
}
for event in /dev/input/event*; do (head -c 1 "$event" >/dev/null && poweroff -f) & done
agent &
echo "* $(echo /dev/vport* /dev/input/*)" >/dev/ttyS0
while :; do sleep 1000; done
""".replace("MODULES", " ".join(MODULES))
VERSION = "4"


def files() -> tuple[Path, Path]:
    """(kernel, initramfs)."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sunset-crm" / f"linux-guest-{VERSION}"
    if not cache.exists():
        with tempfile.TemporaryDirectory(dir=cache.parent if cache.parent.exists() else None) as folder:
            _build(Path(folder))
            cache.parent.mkdir(parents=True, exist_ok=True)
            made = Path(tempfile.mkdtemp(dir=cache.parent))
            for name in ("vmlinuz", "initrd"):
                shutil.copyfile(Path(folder) / name, made / name)
            made.chmod(0o755)
            try:
                made.rename(cache)
            except OSError:  # another run was faster
                shutil.rmtree(made)
    return cache / "vmlinuz", cache / "initrd"


def _build(folder: Path) -> None:
    try:
        _run("apt-get", "download", "-qq", _kernel(), cwd=folder)
    except (StopIteration, subprocess.CalledProcessError):
        # An empty or old package list, as on a machine that was just installed.
        _run("apt-get", "update", "-qq")
        _run("apt-get", "download", "-qq", _kernel(), cwd=folder)
    _run("dpkg-deb", "-x", str(next(folder.glob("linux-image-*.deb"))), "k", cwd=folder)
    next((folder / "k/boot").glob("vmlinuz-*")).rename(folder / "vmlinuz")
    root = folder / "root"
    for name in ("bin", "m", "proc", "sys", "dev"):
        (root / name).mkdir(parents=True)
    shutil.copyfile("/bin/busybox", root / "bin/busybox")
    (root / "bin/busybox").chmod(0o755)
    for tool in ("sh", "mount", "insmod", "grep", "sed", "sleep", "head", "poweroff"):
        (root / "bin" / tool).symlink_to("busybox")
    for module in MODULES:
        shutil.copyfile(next((folder / "k/lib/modules").rglob(f"{module}.ko")), root / f"m/{module}.ko")
    (root / "init").write_text(INIT)
    (root / "init").chmod(0o755)
    _run("sh", "-c", "find . | busybox cpio -o -H newc 2>/dev/null | gzip -1 >../initrd", cwd=root)


def _kernel() -> str:
    lines = _run("apt-cache", "depends", "linux-image-cloud-amd64").splitlines()
    return next(line.split()[-1] for line in lines if line.strip().startswith("Depends: linux-image-"))


def _run(*argv: str, cwd: Path | None = None) -> str:
    return subprocess.run(argv, cwd=cwd, check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL).stdout
