# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is put into a host before its first start: its files, its keys, its mounts, as one tar."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

from . import paths, people, virtual
from .layout import HOSTS, VAULTS, Host, media_of
from .loops import Loop

HOSTS_DIR = paths.HERE / "hosts"
RECEIVER = paths.TOP / "roles/vault/files/ledger_receiver.py"


class Tar:
    def __init__(self) -> None:
        self._stream = io.BytesIO()
        self._tar = tarfile.TarFile(fileobj=self._stream, mode="w")

    def add(self, name: str, content: bytes | str, mode: int = 0o644) -> None:
        data = content.encode() if isinstance(content, str) else content
        entry = tarfile.TarInfo(name.lstrip("/"))
        entry.size, entry.mode = len(data), mode
        self._tar.addfile(entry, io.BytesIO(data))

    def folder(self, name: str, mode: int) -> None:
        entry = tarfile.TarInfo(name.lstrip("/"))
        entry.type, entry.mode = tarfile.DIRTYPE, mode
        self._tar.addfile(entry)

    def link(self, name: str, target: str) -> None:
        entry = tarfile.TarInfo(name.lstrip("/"))
        entry.type, entry.linkname = tarfile.SYMTYPE, target
        self._tar.addfile(entry)

    def tree(self, folder: Path) -> None:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.add(str(path.relative_to(folder)), path.read_bytes(), 0o755 if path.stat().st_mode & 0o100 else 0o644)

    def bytes(self) -> bytes:
        self._tar.close()
        return self._stream.getvalue()


def mount_unit(where: str) -> str:
    """The name systemd wants for a mount point's unit (systemd-escape --path)."""
    kept = "".join(c if c.isalnum() or c in "/_.:" else f"\\x{ord(c):02x}" for c in where.strip("/"))
    return kept.replace("/", "-") + ".mount"


def _mounts(tar: Tar, host: Host, loops: dict[str, Loop], volume: str) -> None:
    # A unit instead of a line in /etc/fstab: systemd passes over device lines there when it runs in a container.
    for medium, where in media_of(host.name):
        where = where.format(volume=volume)
        unit = mount_unit(where)
        tar.add(
            f"/etc/systemd/system/{unit}",
            f"[Mount]\nWhat={loops[medium.name].device}\nWhere={where}\nType=ext4\n\n[Install]\nWantedBy=local-fs.target\n",
        )
        tar.link(f"/etc/systemd/system/local-fs.target.wants/{unit}", f"../{unit}")


def _receiver(tar: Tar) -> None:
    """The vault's ledger receiver, as the collection ships it."""
    if RECEIVER.exists():
        tar.add("/usr/local/lib/sunset/ledger_receiver.py", RECEIVER.read_bytes(), 0o755)


def build(host: Host, loops: dict[str, Loop], volume: str, subnet: str, address: str) -> bytes:
    tar = Tar()
    tar.tree(HOSTS_DIR / "common/rootfs")
    tar.tree(HOSTS_DIR / host.recipe / "rootfs")
    _mounts(tar, host, loops, volume)
    key = people.host_key(host.name)
    tar.add("/etc/ssh/ssh_host_ed25519_key", key.read_bytes(), 0o600)
    tar.add("/etc/ssh/ssh_host_ed25519_key.pub", key.with_suffix(".pub").read_bytes())
    control = people.public(people.control_key()) + "\n"
    if host.user == "root":
        tar.folder("/root/.ssh", 0o700)
        tar.add("/root/.ssh/authorized_keys", control, 0o600)
    tar.add("/etc/lab/control.pub", control)
    tar.add("/etc/lab/ledger.pub", people.public(people.ledger_key()) + "\n")
    tar.add("/etc/lab.env", f"LAB_SUBNET={subnet}\nLAB_DB_PASSWORD={people.database_password()}\n", 0o600)
    if host.name in VAULTS:
        _receiver(tar)
    for name, (content, mode) in virtual.files(host, address).items():
        tar.add(name, content, mode)
    if host.name == "app1":
        tar.add("/usr/local/lib/lab/marks.py", (paths.HERE / "marks.py").read_bytes())
    return tar.bytes()


def script(host: str, *names: str) -> bytes | None:
    """The host's scripts of these names, one after the other; the common one of that name first."""
    own = HOSTS_DIR / HOSTS[host].recipe
    found = [path for name in names for path in (HOSTS_DIR / "common" / name, own / name) if path.exists()]
    prelude = b"set -euo pipefail\n. /etc/lab.env\n"
    return prelude + b"\n".join(path.read_bytes() for path in found) if found else None


def sources(*hosts: str) -> list[Path]:
    """All files that shape these hosts; their content names a prepared state."""
    folders = [HOSTS_DIR / name for name in ("common", *hosts)]
    return sorted(path for folder in folders for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc")
