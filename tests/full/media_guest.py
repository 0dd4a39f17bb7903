# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The machine of tests/integration/rescue_guest.py as a whole computer: its BIOS starts what it is told to (the loader on its disk, or a
virtual CD), it is a domain of a libvirt of its own, and a Redfish controller (sushy-emulator as it is) stands in front of it."""

from __future__ import annotations

import contextlib
import shutil
import struct
import uuid
from pathlib import Path
from typing import Any

import libvirt

from tests.integration import controller_stand as stand, libvirt_world, redfish_fake
from tests.integration.rescue_guest import DATA_MIB, DATA_SERIAL, MIB, ROOT_SERIAL, Guest, free_port, prepared, run

SECTOR = 512
# Read by the loader's own small parser; it knows the file system by what lies in it, not by the BIOS's number of its disk.
LOADER = """search --no-floppy --file --set=root /init
linux /boot/{kernel} root=/dev/nvme0n1 rw init=/init console=ttyS0 quiet no_timer_check mitigations=off
boot
"""
DOMAIN = """<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
<name>{name}</name><uuid>{uuid}</uuid><memory unit='MiB'>768</memory><vcpu>1</vcpu><cpu mode='maximum'/>
<os><type arch='x86_64' machine='pc'>hvm</type><boot dev='hd'/></os><features><acpi/></features>
<devices><emulator>/usr/bin/qemu-system-x86_64</emulator>
<controller type='scsi' index='0' model='virtio-scsi'/><controller type='usb' model='none'/><memballoon model='none'/>
<disk type='file' device='disk'><driver name='qemu' type='raw' cache='unsafe'/><source file='{data}'/><target dev='sda' bus='scsi'/>
<serial>{data_serial}</serial></disk>
<serial type='file'><source path='{console}' append='on'/></serial></devices>
<qemu:commandline>{arguments}</qemu:commandline></domain>
"""
POOL = "<pool type='dir'><name>default</name><target><path>{path}</path></target></pool>"


class MediaGuest(Guest):
    """On, off and what it boots from only through its controller; looked at from outside through libvirt."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port, self.name, self.uuid = folder, free_port(), "resc1", str(uuid.uuid4())
        self.root, self.data, self.console = folder / "root.raw", folder / "data.raw", folder / "console.log"
        self.key, self.known_hosts = folder / "key", folder / "guest_known_hosts"
        made = prepared()
        for source, path in ((made / "root.raw", self.root), (made / "data.raw", self.data)):
            run("cp", "--sparse=always", str(source), str(path))
        shutil.copy(made / "key", self.key)
        self.key.chmod(0o600)
        self._loader()
        public = (made / "host.pub").read_text().split()
        self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {public[0]} {public[1]}\n")
        self._ends = contextlib.ExitStack()
        self.world = libvirt_world.World(folder / "libvirt")
        self._ends.callback(self.world.close)
        self.world.up()
        (folder / "pool").mkdir()
        with self.world.admin() as line:
            line.storagePoolDefineXML(POOL.format(path=folder / "pool")).create()
            line.defineXML(self._xml())
        self.witness = self._controller()

    def _loader(self) -> None:
        """What the BIOS starts: it tries one hard disk, the one that libvirt knows, whose last MiB no file system has."""
        kernels = run("debugfs", "-R", "ls -p /boot", str(self.root)).split("/")
        (kernel,) = [name for name in kernels if name.startswith("vmlinuz-")]
        config, core = self.folder / "loader.cfg", self.folder / "core.img"
        config.write_text(LOADER.format(kernel=kernel))
        run(
            "grub-mkimage", "-O", "i386-pc", "-p", "/boot/grub", "-c", str(config), "-o", str(core),
            "biosdisk", "ext2", "linux", "search", "search_fs_file", "boot",
        )  # fmt: skip
        first, rest = bytearray(Path("/usr/lib/grub/i386-pc/boot.img").read_bytes()), bytearray(core.read_bytes())
        assert len(rest) <= MIB
        place = (DATA_MIB - 1) * MIB // SECTOR
        # Where the second part lies, and, in its first sector, where the rest of it does.
        struct.pack_into("<Q", first, 0x5C, place)
        struct.pack_into("<Q", rest, SECTOR - 12, place + 1)
        with self.data.open("r+b") as stream:
            stream.write(first[:510] + b"\x55\xaa")
            stream.seek(place * SECTOR)
            stream.write(rest)

    def _xml(self) -> str:
        arguments = [
            "-drive", f"file={self.root},if=none,id=root,format=raw,cache=unsafe",
            "-device", f"nvme,drive=root,serial={ROOT_SERIAL},bootindex=9,addr=0x10",
            "-netdev", f"user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{self.port}-:22", "-device", "virtio-net-pci,netdev=net,addr=0x11",
            "-device", "virtio-rng-pci,addr=0x12",
        ]  # fmt: skip
        return DOMAIN.format(
            name=self.name, uuid=self.uuid, data=self.data, data_serial=DATA_SERIAL, console=self.console,
            arguments="".join(f"<qemu:arg value='{word}'/>" for word in arguments),
        )  # fmt: skip

    def _controller(self) -> dict[str, Any]:
        port, tls = free_port(), redfish_fake.certificates(self.folder / "tls")
        stand.credentials(self.folder)
        config = stand.redfish(self.folder, port, tls)
        uri = f"qemu+unix:///system?socket={self.world.socket}"
        self._ends.enter_context(stand.running("emulator", self.folder, **config, libvirt=uri))
        return {
            "kind": "redfish", "address": f"https://127.0.0.1:{port}", "credentials": str(self.folder / "credentials"), "auth": "basic",
            "ca_file": tls["ca"], "uuid": self.uuid,
        }  # fmt: skip

    def start(self) -> None:
        raise NotImplementedError("it is switched on by its controller alone")

    def state(self) -> str:
        with self.world.admin() as line:
            return "running" if line.lookupByName(self.name).isActive() else "exited"

    def definition(self) -> str:
        """What the next start would boot, in libvirt's own words."""
        with self.world.admin() as line:
            return str(line.lookupByName(self.name).XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))

    def remove(self) -> None:
        self._ends.close()
