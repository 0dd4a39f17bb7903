# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the estate consists of. Data only; the other files make it so."""

from __future__ import annotations

from dataclasses import dataclass

from . import paths


@dataclass(frozen=True)
class Medium:
    """A loop device with one ext4 file system: it stands for a disk."""

    name: str
    megabytes: int
    mounts: tuple[tuple[str, str], ...]  # (host, mount point); {volume} is where the engine keeps the stack's volume

    @property
    def serial(self) -> str:
        return f"LAB-{self.name.upper()}-0001"


@dataclass(frozen=True)
class Host:
    name: str
    octet: int
    user: str = "root"  # whom Ansible logs in as
    extra: tuple[str, ...] = ()  # arguments of docker create
    like: str = ""  # the host whose files and scripts it shares
    guests: bool = False  # carries virtual machines, real or simulated: made from the image with their tools

    @property
    def container(self) -> str:
        return f"{paths.NAME}-{self.name}"

    @property
    def recipe(self) -> str:
        """Name of the folder that shapes it."""
        return self.like or self.name


# One machine that stands for a whole Proxmox VE cluster: its API is simulated, and so are the nodes and guests behind it.
SIMULATED = "pve-simulated"
HYPERVISOR = "kvm1"
VOLUME = f"{paths.NAME}-shop-data"

MEDIA = {
    medium.name: medium
    for medium in (
        Medium("pgdata", 448, (("db1", "/var/lib/postgresql"),)),
        Medium("mydata", 320, (("old1", "/srv/mydata"),)),
        Medium("uploads", 96, (("app1", "/srv/creme/media"),)),
        Medium("shopvol", 64, (("dock1", "{volume}"),)),
        # The container host's own disk: what preserve stages there must lie outside the volume that it copies.
        Medium("dockdisk", 64, (("dock1", "/srv/dock"),)),
        # The disks of the virtual machines, and where their copies are staged.
        Medium("kvmdisk", 64, (("kvm1", "/srv/kvm"),)),
    )
}

HOSTS = {
    host.name: host
    for host in (
        Host("app1", 11),
        Host("db1", 12),
        Host("old1", 13),
        Host("dock1", 14, extra=("-v", "/var/run/docker.sock:/var/run/docker.sock")),
        Host("kvm1", 15, guests=True),
        Host(SIMULATED, 16, guests=True),
        Host("vault1", 21, user="vault", extra=("--shm-size", "2g")),
        Host("station1", 22),
        Host("vault2", 23, user="vault", extra=("--shm-size", "2g"), like="vault1"),
    )
}

VAULTS = ("vault1", "vault2")

STATION = "station1"
CONTAINER_HOST = "dock1"


def media_of(host: str) -> list[tuple[Medium, str]]:
    """(medium, mount point) for each file system that the host mounts itself."""
    return [(medium, where) for medium in MEDIA.values() for name, where in medium.mounts if name == host]


def devices_of(host: str) -> list[Medium]:
    """The media whose device nodes the host has: its own, all at the station."""
    return list(MEDIA.values()) if host == STATION else [medium for medium, _where in media_of(host)]
