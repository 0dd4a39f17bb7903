# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A small emulated machine with disks of five kinds, for what this kernel has not: SATA, SCSI, NVMe, volume groups, arrays, encryption, thin pools.

Its system is an initramfs in memory made of the distribution's own packages, unpacked, never installed; it runs one Python program over
our code and hands a JSON document out over its second serial port. Nothing of it touches a disk of this machine.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

TOP = Path(__file__).resolve().parents[2]
CACHE = Path(os.environ.get("SUNSET_CACHE", "~/.cache/sunset-crm")).expanduser()
PACKAGES = (
    "python3.11", "busybox-static", "lvm2", "dmsetup", "thin-provisioning-tools", "mdadm", "cryptsetup-bin", "kmod", "util-linux", "mount",
    "e2fsprogs", "linux-image-amd64",
)  # fmt: skip
MODULES = [
    "ahci",
    "sd_mod",
    "sg",
    "virtio_blk",
    "virtio_pci",
    "virtio_scsi",
    "nvme",
    "usb_storage",
    "uas",
    "xhci_pci",
    "dm_mod",
    "dm_crypt",
    "dm_thin_pool",
    "dm_snapshot",
    "raid1",
    "ext4",
    "loop",
    "xts",
    "aes_generic",
    "cbc",
    "sha256_generic",
    "crc32c_generic",
    "algif_skcipher",
]
PRUNED = (
    "usr/share/doc",
    "usr/share/man",
    "usr/share/locale",
    "usr/share/perl",
    "usr/share/perl5",
    "usr/lib/x86_64-linux-gnu/perl",
    "usr/share/i18n",
)
INIT = """#!/bin/busybox sh
export PYTHONHASHSEED=0 PATH=/usr/sbin:/usr/bin:/sbin:/bin
/bin/busybox mount -t devtmpfs dev /dev
exec </dev/console >/dev/console 2>&1
for what in proc sysfs; do mkdir -p /$what; done
mkdir -p /proc /sys /run /tmp /mnt
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox mount -t tmpfs tmpfs /run
/bin/busybox mount -t tmpfs tmpfs /tmp
for module in $(cat /work/modules); do /sbin/modprobe -q $module; done
/bin/busybox sleep 1.5
/usr/bin/python3.11 -S /work/main.py
/bin/busybox poweroff -f
"""


def run(*argv: str, cwd: Path | None = None, check: bool = True) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, cwd=cwd, check=False)
    if check and done.returncode:
        raise AssertionError(f"{' '.join(argv)[:200]}: {done.returncode} {done.stderr[-2000:]}")
    return done.stdout


def base() -> Path:
    """The folder with kernel and initramfs, made once."""
    for tool in ("qemu-system-x86_64", "cpio"):
        assert shutil.which(tool), f"{tool} is not installed: apt-get install qemu-system-x86 cpio"
    name = hashlib.sha256(repr((PACKAGES, MODULES, PRUNED, INIT)).encode()).hexdigest()[:12]
    folder = CACHE / f"guest-{name}"
    if (folder / "ready").exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "debs").mkdir(parents=True)
    (folder / "empty").touch()
    # As on a machine with nothing installed, so that every library is named.
    listed = run("apt-get", "-o", f"Dir::State::status={folder}/empty", "-o", "APT::Install-Recommends=false", "-s", "install", *PACKAGES)
    names = sorted({line.split()[1] for line in listed.splitlines() if line.startswith("Inst ")})
    run("apt-get", "-qq", "-o", "Acquire::Retries=3", "download", *names, cwd=folder / "debs")
    tree = folder / "tree"
    for deb in sorted((folder / "debs").glob("*.deb")):
        run("dpkg-deb", "-x", str(deb), str(tree))
    (version,) = [path.name for path in (tree / "lib/modules").iterdir()]
    keep_modules(tree, version)
    shutil.copy(next((tree / "boot").glob("vmlinuz-*")), folder / "vmlinuz")
    for what in ("boot", *PRUNED):
        shutil.rmtree(tree / what, ignore_errors=True)
    archive(tree, folder / "base.cpio.gz")
    shutil.rmtree(tree)
    shutil.rmtree(folder / "debs")
    (folder / "ready").touch()
    return folder


def keep_modules(tree: Path, version: str) -> None:
    """Only what is loaded: the whole set is hundreds of megabytes."""
    top = tree / "lib/modules" / version
    run("depmod", "-b", str(tree), version)
    wanted = set()
    for module in MODULES:
        shown = run("modprobe", "-d", str(tree), "-S", version, "--show-depends", module, check=False)
        wanted |= {os.path.realpath(line.split()[1]) for line in shown.splitlines() if line.startswith("insmod")}
    for path in sorted(top.rglob("*.ko*")):
        if os.path.realpath(path) not in wanted:
            path.unlink()
    run("depmod", "-b", str(tree), version)


def archive(tree: Path, target: Path) -> None:
    with target.open("wb") as stream:
        find = subprocess.Popen(["find", "."], cwd=tree, stdout=subprocess.PIPE)
        cpio = subprocess.Popen(["cpio", "-o", "-H", "newc", "--quiet"], cwd=tree, stdin=find.stdout, stdout=subprocess.PIPE)
        subprocess.run(["gzip", "-1"], stdin=cpio.stdout, stdout=stream, check=True)
        assert cpio.wait() == 0


def boot(program: str, folder: Path, seconds: int = 300) -> Any:
    """Run a program in the guest; it gives its answer to C(hand_out(value)). Returns the value."""
    made = base()
    code = folder / "code"
    collection = code / "work/lib/ansible_collections/sunset/crm/plugins"
    shutil.copytree(TOP / "plugins/module_utils", collection / "module_utils", ignore=shutil.ignore_patterns("__pycache__"))
    (code / "init").write_text(INIT)
    (code / "init").chmod(0o755)
    (code / "work/modules").write_text(" ".join(MODULES))
    (code / "work/main.py").write_text(PRELUDE + program)
    archive(code, folder / "code.cpio.gz")
    with (folder / "initrd.gz").open("wb") as stream:
        for part in (made / "base.cpio.gz", folder / "code.cpio.gz"):
            with part.open("rb") as source:
                shutil.copyfileobj(source, stream)
    answer, console = folder / "answer.json", folder / "console"
    argv = ["qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-m", "768", "-smp", "1", "-nodefaults", "-display", "none", "-no-reboot"]
    argv += ["-kernel", str(made / "vmlinuz"), "-initrd", str(folder / "initrd.gz")]
    argv += [
        "-append",
        "console=ttyS0 no_timer_check quiet panic=1 rdinit=/init",
        "-serial",
        f"file:{console}",
        "-serial",
        f"file:{answer}",
    ]
    devices = {
        "sata": "ide-hd,bus=ahci.0,serial=SATA0001",
        "nvme": "nvme,serial=NVME0001",
        "scsi": "scsi-hd,bus=scsi.0,serial=SCSI0001",
        "virtio": "virtio-blk-pci,serial=VIRTIO01",
        "usb": "usb-storage,serial=USB00001",
    }
    argv += ["-device", "ahci,id=ahci", "-device", "virtio-scsi-pci,id=scsi", "-device", "qemu-xhci"]
    for name, device in devices.items():
        with (folder / f"{name}.img").open("wb") as image:
            image.truncate(64 << 20)
        argv += ["-drive", f"if=none,id={name},file={folder}/{name}.img,format=raw", "-device", f"{device},drive={name}"]
    subprocess.run(argv, timeout=seconds, check=True, capture_output=True)
    text = answer.read_text()
    assert text.strip(), console.read_text()[-4000:]
    return json.loads(text)


PRELUDE = """
import fcntl, json, os, struct, subprocess, sys, time
sys.path.insert(0, "/work/lib")

def run(*argv):
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    print("+", " ".join(argv), done.returncode, done.stdout[-400:].strip(), flush=True)
    return done

def hand_out(value):
    with open("/dev/ttyS1", "w") as stream:
        json.dump(value, stream)
"""
