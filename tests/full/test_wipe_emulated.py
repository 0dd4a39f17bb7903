# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The real ioctls against QEMU's NVMe, SATA and SCSI disks. What the emulation answers with success and nothing done must have failed.

One machine is booted once: Debian's cloud kernel and python3, no network; its image is made once and lies in the cache.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.sunset.crm.plugins.module_utils import _job
from ansible_collections.sunset.crm.plugins.module_utils._wipe import purge as wipe_purge
from tests.integration.loop_media import KEY, MARKER, MIB
from tests.lab import paths
from tests.lab.shell import locked

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the image is made as root")
SIZE = 32 * MIB
MODULES = "virtio|drivers/ata|drivers/scsi/(scsi_mod|scsi_common|sd_mod|virtio_scsi)|lib/crc|crypto/crc|block/t10|drivers/nvme|fs/ext4|fs/jbd2|fs/mbcache"
INIT = """#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev 2>/dev/null; mount -t tmpfs run /run; mount -t tmpfs tmp /tmp
modprobe -a virtio_pci virtio_scsi ata_piix sd_mod
n=0; while [ ! -e /dev/sdb ] && [ $n -lt 100 ]; do sleep 0.2; n=$((n+1)); done
python3 -I /work/wipe_scenario.py 2>&1
echo "scenario: end"
sync; sleep 1; echo o >/proc/sysrq-trigger; sleep 60
"""
HOOK = r"""#!/bin/sh
set -e
root="$1"
chroot "$root" sh -c 'cd /tmp && apt-get download -qq "$(apt-cache depends linux-image-cloud-amd64 | sed -n "s/ *Depends: *\(linux-image-[0-9].*\)/\1/p" | head -n1)"'
mkdir "$root/tmp/k"; dpkg-deb -x "$root"/tmp/linux-image-*.deb "$root/tmp/k"
release=$(ls "$root/tmp/k/lib/modules"); mkdir -p "$root/lib/modules/$release" "$root/boot"
cp "$root/tmp/k/boot/vmlinuz-$release" "$root/boot/vmlinuz"
cp "$root/tmp/k/lib/modules/$release"/modules.builtin* "$root/tmp/k/lib/modules/$release/modules.order" "$root/lib/modules/$release/"
(cd "$root/tmp/k/lib/modules/$release" && find kernel -name '*.ko' | grep -E '@MODULES@' | cpio -pdm --quiet "$root/lib/modules/$release")
depmod -b "$root" "$release"
rm -rf "$root/tmp"/* "$root/var/lib/apt" "$root/var/cache"/* "$root/usr/share/doc" "$root/usr/share/locale" "$root/usr/share/perl"* "$root/usr/share/zoneinfo"
""".replace("@MODULES@", MODULES)


def base() -> Path:
    """The tar of the machine's root, from the cache or made now."""
    name = hashlib.sha256((HOOK + "1").encode()).hexdigest()[:12]
    target = paths.CACHE / "images" / f"wipe-guest-{name}.tar"
    target.parent.mkdir(parents=True, exist_ok=True)
    with locked(target.parent / "wipe-guest-lock"):
        if not target.exists():
            with tempfile.TemporaryDirectory() as folder:
                hook = Path(folder) / "hook"
                hook.write_text(HOOK)
                hook.chmod(0o755)
                part = target.with_name(f"part-{target.name}")
                mirror = os.environ.get("SUNSET_LAB_MIRROR")
                include = "--include=python3,kmod,cpio,dpkg,busybox-static"
                argv = ["mmdebstrap", "--quiet", "--variant=minbase", include, f'--customize-hook={hook} "$1"', "bookworm", str(part)]
                subprocess.run([*argv, *([mirror] if mirror else [])], check=True)
                part.rename(target)
    return target


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path, str]:
    """What the scenario printed, the folder with the disks, the console."""
    folder = tmp_path_factory.mktemp("guest")
    root = folder / "root"
    root.mkdir()
    subprocess.run(["tar", "-C", str(root), "--exclude=./dev/*", "-xf", str(base())], check=True)
    (root / "init").write_text(INIT)
    (root / "init").chmod(0o755)
    (root / "work").mkdir()
    here = Path(__file__).parent
    _job.lay(str(root / "work"), wipe_purge)
    shutil.copy(here / "wipe_scenario.py", root / "work/wipe_scenario.py")
    shutil.copy(root / "bin/busybox", root / "work/busybox")
    subprocess.run(
        ["mke2fs", "-q", "-t", "ext4", "-E", "lazy_itable_init=0,root_owner=0:0", "-d", str(root), str(folder / "root.raw"), "400M"],
        check=True,
    )
    text = (MARKER * (SIZE // len(MARKER) + 1))[:SIZE]
    for name in ("nvme", "scsi", "ata"):
        (folder / f"{name}.raw").write_bytes(text)
    kernel = shutil.copy(root / "boot/vmlinuz", folder / "vmlinuz")
    shutil.rmtree(root)

    def drive(name: str, more: str = ",discard=unmap") -> list[str]:
        return ["-drive", f"file={folder / name}.raw,if=none,id={name},format=raw,cache=unsafe{more}"]

    argv = [
        "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-M", "pc", "-accel", "tcg,thread=multi", "-cpu", "max",
        "-m", "512", "-serial", "stdio", "-no-reboot", "-kernel", str(kernel),
        "-append", "root=/dev/nvme0n1 rw init=/init console=ttyS0 quiet no_timer_check mitigations=off",
        *drive("root", ""), "-device", "nvme,drive=root,serial=ROOT0001",
        *drive("nvme"), "-device", "nvme,drive=nvme,serial=NVME0001",
        "-device", "virtio-scsi-pci", *drive("scsi"), "-device", "scsi-hd,drive=scsi,serial=SCSI0001",
        *drive("ata"), "-device", "ide-hd,drive=ata,serial=ATA0001",
    ]  # fmt: skip
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=1500, check=False)
    assert "scenario: end" in done.stdout, done.stdout[-4000:] + done.stderr[-2000:]
    lines = [json.loads(line.split("RESULT ", 1)[1]) for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    return {line["case"]: line for line in lines}, folder, done.stdout


Machine = tuple[dict[str, Any], Path, str]


def test_format_is_honoured_and_called_by_its_name(machine: Machine) -> None:
    result = machine[0]["nvme nvme-format-ses1"]
    assert result["outcome"] == "sanitised" and result["marks"] > 1000 and result["left"] == 0, result
    assert result["called"] == "logical sanitisation"  # QEMU's NVMe is no medium


UNKNOWN = ["nvme nvme-sanitize-block", "nvme nvme-format-ses2", "ata ata-sanitize-block", "ata ata-security-erase"]
UNKNOWN += ["scsi scsi-sanitize-block", "scsi scsi-sanitize-crypto"]


@pytest.mark.parametrize("case", UNKNOWN)
def test_what_the_drive_does_not_know_is_not_done(machine: Machine, case: str) -> None:
    assert machine[0][case]["outcome"] in ("refused", "failed"), machine[0][case]


@pytest.mark.parametrize(
    "case",
    [
        "forced nvme sanitize",
        "forced ata security erase",
        "forced ata security erase enhanced",
        "forced ata sanitize",
        "forced scsi overwrite",
        "busybox shred",
        "format unit",
    ],
)
def test_success_with_nothing_done_ends_in_failed_by_read_back(machine: Machine, case: str) -> None:
    result = machine[0][case]
    assert result["outcome"] == "failed" and result["left"] == result["marks"] > 1000, result
    assert any("still there" in reason for reason in result["reasons"])


@pytest.mark.parametrize("case", ["busybox shred", "format unit"])
def test_they_really_said_that_all_was_well(machine: Machine, case: str) -> None:
    assert machine[0][case]["sent"]["accepted"] == "yes", machine[0][case]


@pytest.mark.parametrize("disk", ["nvme", "scsi", "ata"])
def test_the_overwrite_reaches_the_backing_file(machine: Machine, disk: str) -> None:
    results, folder, _console = machine
    result = results[f"{disk} overwrite-keyed"]
    assert result["outcome"] == "sanitised" and result["accounting"]["written"]["verdict"] == "yes", result
    assert result["called"] == "logical sanitisation"  # none of these is a medium, whatever it says of itself
    script = 'openssl enc -d -aes-256-ctr -K "$2" -iv "$3" <"$1" | tr -d "\\0" | wc -c'
    argv = ["sh", "-c", script, "sh", str(folder / f"{disk}.raw"), KEY, "0" * 32]
    assert subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip() == "0"
    assert MARKER not in (folder / f"{disk}.raw").read_bytes()


def test_the_nvme_drives_own_counter_is_read(machine: Machine) -> None:
    device = machine[0]["nvme overwrite-keyed"]["accounting"].get("device")
    assert device and device["counter"].startswith("NVMe SMART") and device["bytes"] >= SIZE, device
