# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A whole machine in software emulation: its root on an NVMe disk, its data on a SCSI disk, both files of the test's own.

The image is made once (its recipe's digest names it in the cache): Debian's cloud kernel, python3, sshd, iproute2, no systemd, no initrd.
The kernel has NVMe and ext4 built in; network and SCSI come from modules, which the rescue has to carry along.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.integration.ports import free_port as free_port
from tests.lab import paths
from tests.lab.image import ensure_mini_image
from tests.lab.shell import locked

MARKER = b"Zoe Muster, customer 4711; "
MACHINE_ID = "5ad0c0de5ad0c0de5ad0c0de5ad0c0de"
ROOT_SERIAL, DATA_SERIAL = "ROOT0001", "DATA0001"
MIB = 1 << 20
ROOT_MIB, DATA_MIB = 192, 16
# Images of recipes that no checkout has used for so long are removed; the tests of another one may be at work with theirs.
FORGOTTEN_SECONDS = 3 * 86400
PACKAGES = "python3,openssh-server,iproute2,kmod"
# Kernel modules that such a machine has use for; all others would only make the image larger.
MODULES = (
    "virtio",
    "net/virtio_net",
    "net/net_failover",
    "net/core/failover",
    "net/bonding",
    "net/bridge/bridge",
    "net/8021q",
    "net/802/",
    "net/llc/",
    "net/tls/",
    "scsi/virtio_scsi",
    "scsi/sd_mod",
    "scsi/scsi",
    "lib/crc",
    "crypto",
    "block/t10",
)
LEFT_OUT = ("doc", "man", "locale", "info", "lintian", "bug")
INIT = """#!/bin/sh
# PID 1 of the guest.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev 2>/dev/null
mkdir -p /dev/pts /dev/shm; mount -t devpts pts /dev/pts; mount -t tmpfs run /run; mkdir -p /run/lock /run/sshd
echo 0 >/proc/sys/kernel/printk_devkmsg 2>/dev/null
modprobe -a virtio_pci virtio_net virtio_scsi sd_mod; modprobe bonding max_bonds=0
n=0; while [ ! -e /dev/sda ] && [ $n -lt 100 ]; do sleep 0.1; n=$((n+1)); done
mount -t ext4 /dev/sda /srv
ip link set lo up
ip link add bond0 type bond mode active-backup miimon 100; ip link set eth0 master bond0; ip link set bond0 up
ip link add br0 type bridge forward_delay 0; ip link set bond0 master br0; ip link set br0 up
ip address add 10.0.2.15/24 dev br0; ip route add default via 10.0.2.2
ip link add link br0 name br0.5 type vlan id 5; ip link set br0.5 up; ip address add 192.0.2.7/24 dev br0.5
/usr/sbin/sshd
echo "guest: ready"
while :; do sleep 3600 & wait; done
"""
# On its own: the terminal that Ansible asks for ends with the session, and takes what hangs on it along, also in the moment before setsid.
POWEROFF = "#!/bin/sh\ntrap '' HUP\nsync\nsetsid sh -c 'sleep 1; echo o >/proc/sysrq-trigger' >/dev/null 2>&1 </dev/null &\n"
SHRINK = r"""set -e
root="$1"; mods="$2"
chroot "$root" sh -c 'cd /tmp && apt-get download -qq "$(apt-cache depends linux-image-cloud-amd64 | sed -n "s/ *Depends: *\(linux-image-[0-9].*\)/\1/p" | head -n1)"'
mkdir "$root/tmp/k"; dpkg-deb -x "$root"/tmp/linux-image-*.deb "$root/tmp/k"
release=$(ls "$root/tmp/k/lib/modules")
mkdir -p "$root/lib/modules/$release/kernel" "$root/boot"
cp "$root/tmp/k/boot/vmlinuz-$release" "$root/tmp/k/boot/config-$release" "$root/boot/"
cp "$root/tmp/k/lib/modules/$release"/modules.builtin* "$root/tmp/k/lib/modules/$release/modules.order" "$root/lib/modules/$release/"
(cd "$root/tmp/k/lib/modules/$release" && find kernel -name '*.ko' | grep -E "$mods" | cpio -pdm --quiet "$root/lib/modules/$release")
depmod -b "$root" "$release"
rm -rf "$root/tmp"/* "$root/var/lib/apt" "$root/var/cache"/* "$root/usr/share/perl" "$root/usr/share/perl5" "$root/usr/lib/x86_64-linux-gnu/perl" \
    "$root/usr/share/zoneinfo" "$root/var/lib/dpkg" "$root/usr/share/bash-completion" "$root/usr/lib/apt" "$root/usr/share/keyrings" \
    "$root/usr/lib/x86_64-linux-gnu/gconv" "$root/usr/lib/x86_64-linux-gnu"/libperl* "$root/usr/lib/x86_64-linux-gnu"/libapt* "$root/usr/bin/perl"*
(cd "$root/usr/lib/x86_64-linux-gnu" && rm -rf perl-base libstdc++* libgnutls* libunistring* libp11-kit* libdb-5* libsqlite3* libmvec* libhogweed* libnettle*)
# What no module and no rescue has use for: an emulated machine copies, links and packs file by file.
cd "$root/usr/lib/python3.11"
rm -rf asyncio unittest test pydoc_data distutils html xml xmlrpc wsgiref multiprocessing concurrent lib2to3 sqlite3 curses dbm turtle.py pydoc.py doctest.py
rm -f lib-dynload/_codecs_* lib-dynload/_test* lib-dynload/_xx* lib-dynload/_sqlite3* lib-dynload/_curses* lib-dynload/_dbm* lib-dynload/nis* lib-dynload/ossaudiodev* \
    lib-dynload/audioop* lib-dynload/readline* lib-dynload/_asyncio* lib-dynload/_multiprocessing* lib-dynload/_crypt* lib-dynload/_lsprof* lib-dynload/_zoneinfo*
cd encodings; rm -rf $(ls | grep -E '^(cp|iso|mac|koi|big5|euc|gb|shift|johab|hz|ptcp|tis|palmos|kz|hp_)' | grep -v cp437)
"""


def run(*argv: str, **more: Any) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False, **more)
    assert done.returncode == 0, f"{argv[0]}: {done.stderr[-3000:]}"
    return done.stdout


def base_image() -> Path:
    """The tar of the guest's root, from the cache or made now."""
    recipe = "\0".join([PACKAGES, *MODULES, *LEFT_OUT, SHRINK, "1"])
    target = paths.CACHE / "images" / f"rescue-guest-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}.tar"
    target.parent.mkdir(parents=True, exist_ok=True)
    with locked(target.parent / "rescue-lock"):
        if used(target):
            return target
        for older in forgotten(target.parent.glob("rescue-guest-*")):
            older.unlink()
        with tempfile.TemporaryDirectory() as folder:
            script = Path(folder) / "shrink"
            script.write_text("#!/bin/sh\n" + SHRINK)
            script.chmod(0o755)
            part = target.with_name(f"part-{target.name}")
            mirror = os.environ.get("SUNSET_LAB_MIRROR")
            try:
                run(
                    "mmdebstrap", "--quiet", "--variant=minbase", f"--include={PACKAGES}", "--dpkgopt=force-unsafe-io",
                    *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in LEFT_OUT),
                    f'--customize-hook={script} "$1" "{"|".join(MODULES)}"',
                    "bookworm", str(part), *([mirror] if mirror else []),
                )  # fmt: skip
                part.rename(target)
            finally:
                part.unlink(missing_ok=True)
    return target


def used(path: Path) -> bool:
    if path.exists():
        os.utime(path)
    return path.exists()


def forgotten(paths: Iterable[Path]) -> list[Path]:
    return [path for path in paths if time.time() - path.stat().st_mtime > FORGOTTEN_SECONDS]


def prepared() -> Path:
    """A folder of the cache with root.raw, data.raw, the kernel and the keys of the guest; filled with what a wipe must remove."""
    tar = base_image()
    target = tar.with_name(tar.name.replace("rescue-guest-", "rescue-disks-").removesuffix(".tar") + f"-{_prepared_digest()}")
    with locked(tar.parent / "rescue-lock"):
        if used(target):
            return target
        for older in forgotten(tar.parent.glob("rescue-disks-*")):
            shutil.rmtree(older)
        with tempfile.TemporaryDirectory(dir=tar.parent) as folder:
            made, root = Path(folder) / "made", Path(folder) / "root"
            made.mkdir()
            root.mkdir()
            run("tar", "-C", str(root), "--exclude=./dev/*", "-xf", str(tar))
            furnish(root, made)
            (kernel,) = (root / "boot").glob("vmlinuz-*")
            shutil.copy(kernel, made / "vmlinuz")
            disk(made / "root.raw", ROOT_MIB, root)
            data = Path(folder) / "data"
            (data / "crm").mkdir(parents=True)
            (data / "crm" / "attachments.bin").write_bytes(MARKER * 20000)
            disk(made / "data.raw", DATA_MIB, data)
            made.rename(target)
    return target


def _prepared_digest() -> str:
    return hashlib.sha256("\0".join([INIT, POWEROFF, MACHINE_ID, str(ROOT_MIB), str(DATA_MIB), "2"]).encode()).hexdigest()[:8]


def furnish(root: Path, made: Path) -> None:
    """What makes this copy of the image a host: its init, its id, its keys, its customers."""
    (root / "init").write_text(INIT)
    (root / "usr/sbin/poweroff").unlink(missing_ok=True)
    (root / "usr/sbin/poweroff").write_text(POWEROFF)
    for name in ("init", "usr/sbin/poweroff"):
        (root / name).chmod(0o755)
    (root / "etc/machine-id").write_text(MACHINE_ID + "\n")
    (root / "etc/hostname").write_text("guest\n")
    for name in ("key", "host"):
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"guest-{name}", "-f", str(made / name))
    (root / "root/.ssh").mkdir(mode=0o700, exist_ok=True)
    shutil.copy(made / "key.pub", root / "root/.ssh/authorized_keys")
    for path in (root / "etc/ssh").glob("ssh_host_*"):
        path.unlink()
    shutil.copy(made / "host", root / "etc/ssh/ssh_host_ed25519_key")
    (root / "etc/ssh/ssh_host_ed25519_key").chmod(0o600)
    (root / "var/lib/crm").mkdir(parents=True)
    for name in ("customers.txt", "deleted.txt"):
        (root / "var/lib/crm" / name).write_bytes(MARKER * 20000)


def disk(path: Path, mib: int, folder: Path) -> None:
    """An ext4 disk made of a folder, with markers also in blocks that no file has any more; its last MiB is left free."""
    run("mke2fs", "-q", "-t", "ext4", "-E", "lazy_itable_init=0,root_owner=0:0", "-d", str(folder), str(path), f"{mib - 1}M")
    if (folder / "var/lib/crm/deleted.txt").exists():
        run("debugfs", "-w", "-R", "rm /var/lib/crm/deleted.txt", str(path))
    os.truncate(path, mib * MIB)


def markers(path: Path) -> int:
    """How often the marker stands in a backing file, read from outside."""
    found, tail = 0, b""
    with path.open("rb") as stream:
        for block in iter(lambda: stream.read(1 << 22), b""):
            text = tail + block
            found += text.count(MARKER)
            tail = text[-(len(MARKER) - 1) :]
    return found


class Guest:
    """The machine on copies of the disks. Its emulator runs in a container of its own, which stands for a management controller:
    started is on, ended by itself is off. The container sees the programs of this machine read-only and one folder."""

    def __init__(self, folder: Path, memory: int = 768) -> None:
        self.folder = folder
        self.made = prepared()
        self.port = free_port()
        self.name = f"sunset-rescue-{uuid.uuid4().hex[:8]}"
        self.root, self.data, self.console = folder / "root.raw", folder / "data.raw", folder / "console.log"
        for path in (self.root, self.data):
            run("cp", "--sparse=always", str(self.made / path.name), str(path))
        for name in ("key", "vmlinuz"):
            shutil.copy(self.made / name, folder / name)
        self.key = folder / "key"
        self.key.chmod(0o600)
        self.known_hosts = folder / "known_hosts"
        public = (self.made / "host.pub").read_text().split()
        self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {public[0]} {public[1]}\n")
        shares = [word for place in ("/usr", "/lib", "/lib64", "/etc/alternatives") for word in ("-v", f"{place}:{place}:ro")]
        run(
            "docker", "create", "--name", self.name, "--label", "sunset-test-rescue=1", "--label", "sunset-lab=no", "--network", "host",
            *shares, "-v", f"{folder}:{folder}", ensure_mini_image(), *self._emulator(memory),
        )  # fmt: skip

    def _emulator(self, memory: int) -> list[str]:
        return [
            "/usr/bin/qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-machine", "q35",
            "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "1", "-m", str(memory), "-serial", f"file:{self.console}", "-no-reboot",
            "-kernel", str(self.folder / "vmlinuz"),
            "-append", "console=ttyS0 quiet root=/dev/nvme0n1 rw init=/init no_timer_check mitigations=off",
            "-drive", f"file={self.root},if=none,id=root,format=raw,cache=unsafe", "-device", f"nvme,drive=root,serial={ROOT_SERIAL}",
            "-device", "virtio-scsi-pci", "-drive", f"file={self.data},if=none,id=data,format=raw,cache=unsafe",
            "-device", f"scsi-hd,drive=data,serial={DATA_SERIAL}",
            "-device", "virtio-net-pci,netdev=net", "-netdev", f"user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{self.port}-:22",
            "-device", "virtio-rng-pci",
        ]  # fmt: skip

    def start(self) -> None:
        run("docker", "start", self.name)

    def ssh(self, line: str, timeout: float = 180) -> subprocess.CompletedProcess[str]:
        argv = [
            "ssh", "-F", "/dev/null", "-o", "BatchMode=yes", "-o", f"UserKnownHostsFile={self.known_hosts}", "-o", "StrictHostKeyChecking=yes",
            "-o", "ConnectTimeout=60", "-i", str(self.key), "-p", str(self.port), "root@127.0.0.1", line,
        ]  # fmt: skip
        return subprocess.run(argv, capture_output=True, text=True, timeout=timeout, check=False, stdin=subprocess.DEVNULL)

    def wait_for_ssh(self, seconds: float = 300) -> float:
        """User-mode networking accepts before anybody listens: only an answer counts."""
        start = time.monotonic()
        while time.monotonic() - start < seconds:
            assert self.state() == "running", run("docker", "logs", self.name)
            with contextlib.suppress(subprocess.TimeoutExpired):
                if self.ssh("true").returncode == 0:
                    return time.monotonic() - start
            time.sleep(0.5)
        raise AssertionError(f"the guest does not answer after {seconds:g} s: {self.said()[-2000:]}")

    def said(self) -> str:
        return self.console.read_text(errors="replace") if self.console.exists() else ""

    def state(self) -> str:
        return run("docker", "inspect", "--format", "{{.State.Status}}", self.name).strip()

    def remove(self) -> None:
        subprocess.run(["docker", "rm", "-f", self.name], capture_output=True, check=False)
