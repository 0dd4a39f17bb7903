# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A libvirt of one's own, with QEMU in software: a daemon in a mount namespace, so that it shares nothing with the machine's.

Its guests are boot sectors of a few dozen bytes. They run on real QEMU and real ACPI hardware, start within a second or two, and are what a
test needs: one that obeys the power button, one that never looks at it, one that is slow.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import struct
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import libvirt

from ansible_collections.sunset.crm.plugins.plugin_utils import relay
from ansible_collections.sunset.crm.plugins.plugin_utils.actions.account import Account
from ansible_collections.sunset.crm.plugins.plugin_utils.guests import verbs as guest_verbs
from ansible_collections.sunset.crm.plugins.plugin_utils.libvirt import save as libvirt_save, way as libvirt_way
from tests.integration import linux_guest

# Real mode; the power management registers lie where SeaBIOS puts them (0x600). out 0x602: enable the power button's status bit.
_ENABLE = bytes.fromhex("ba0206 b80001 ef")
_WAIT = bytes.fromhex("ba0006 fb f4 ed f6c401 74f8")  # sti; hlt (till the next tick); in ax,dx; test ah,1; jz
_OFF = bytes.fromhex("ba0406 b80020 ef f4 ebfd")  # out 0x604: sleep, S5
_TICKS = bytes.fromhex("b9 ffff")  # mov cx, ticks (filled in)
_COUNT = bytes.fromhex("f4 e2fd")  # hlt; loop
# The serial port says when it has come as far as that.
_SAY = bytes.fromhex("baf803 b02a ee")
OBEYS = _ENABLE + _SAY + _WAIT + _OFF
IGNORES = _SAY + bytes.fromhex("fb f4 ebfd")


def slow(seconds: float) -> bytes:
    """Obeys, after so many seconds."""
    return _ENABLE + _SAY + _WAIT + b"\xb9" + struct.pack("<H", int(seconds * 18.2)) + _COUNT + _OFF


def crashes(seconds: float) -> bytes:
    """Ends by a triple fault, whose handling the definition decides, some time after the power button."""
    return _ENABLE + _SAY + _WAIT + b"\xb9" + struct.pack("<H", int(seconds * 18.2)) + _COUNT + bytes.fromhex("0f01 1e 007d cd03")


# Obeys, when the sector behind its own says so: real mode, the BIOS reads it after every tick.
HELD = _ENABLE + _SAY + _WAIT + bytes.fromhex("f4 31c0 8ec0 8ed8 b80102 bb007e b90200 ba8000 cd13 803e007e00 74e4") + _OFF


def sector(code: bytes) -> bytes:
    if len(code) > 510:
        raise ValueError("a boot sector has 510 bytes")
    return code.ljust(510, b"\0") + b"\x55\xaa"


UP = """
set -e
cd "$1"
test -z "$2" || echo "$2" >/proc/sys/kernel/hostname
for pair in etc:/etc/libvirt lib:/var/lib/libvirt run:/run/libvirt cache:/var/cache/libvirt log:/var/log/libvirt; do
    mkdir -p "${pair%%:*}" "${pair#*:}"
    mount --bind "${pair%%:*}" "${pair#*:}"
done
exec libvirtd --pid-file /run/libvirt/libvirtd.pid
"""
QEMU_CONF = 'user = "root"\ngroup = "root"\nsecurity_driver = "none"\ncgroup_controllers = []\nstdio_handler = "file"\nremember_owner = 0\n'


class World:
    """One private daemon and its guests, all below one folder. name: another host than this machine, which guests can be moved to."""

    def __init__(self, folder: Path, name: str = "") -> None:
        self.folder, self.name = folder, name
        self.socket = folder / "run/libvirt-sock"
        self.uri = f"qemu:///system?socket={self.socket}"
        self.daemon: subprocess.Popen[bytes] | None = None
        self.notes: list[dict[str, Any]] = []
        (folder / "etc").mkdir(parents=True)
        (folder / "etc/qemu.conf").write_text(QEMU_CONF)
        own = f'host_uuid = "{uuid.uuid4()}"\n' if name else ""
        (folder / "etc/libvirtd.conf").write_text('auth_unix_rw = "none"\n' + own)
        (folder / "disks").mkdir()

    # --- the daemon

    def up(self) -> None:
        with (self.folder / "daemon.log").open("ab") as log:
            self.daemon = subprocess.Popen(
                # slave: what others unmount meanwhile, a volume of an engine, is not kept mounted in here.
                ["unshare", "--mount", "--propagation", "slave", "--uts", "sh", "-c", UP, "up", str(self.folder), self.name],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wait(lambda: self.socket.exists() and self._answers(), 180, "libvirtd listens")

    def _answers(self) -> bool:
        try:
            libvirt.open(f"qemu+unix:///system?socket={self.socket}").close()
        except libvirt.libvirtError:
            return False
        return True

    def down(self, number: int = signal.SIGTERM) -> None:
        """End the daemon. Its guests go on: their processes are not its children's to end."""
        if self.daemon and self.daemon.poll() is None:
            self.daemon.send_signal(number)
            self.daemon.wait(90)
        self.socket.unlink(missing_ok=True)

    def restart(self, number: int = signal.SIGTERM) -> None:
        self.down(number)
        self.up()

    def reboot(self) -> None:
        """The host loses its power and comes back: no guest runs, and what lay in /run is gone. With it goes libvirt's note that it has
        started the guests with autostart already: after a mere restart of the daemon it starts none of them."""
        with self.admin() as connection:
            names = [one.name() for one in connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE)]
        processes = [self.process(name) for name in names]
        self.down(signal.SIGKILL)
        for pid in processes:
            os.kill(pid, signal.SIGKILL)
        wait(
            lambda: not any(Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes() for pid in processes),
            60,
            "they end",
        )
        shutil.rmtree(self.folder / "run")
        self.up()

    @contextlib.contextmanager
    def admin(self) -> Iterator[Any]:
        connection = libvirt.open(f"qemu+unix:///system?socket={self.socket}")
        try:
            yield connection
        finally:
            connection.close()

    def close(self) -> None:
        with contextlib.suppress(libvirt.libvirtError), self.admin() as connection:
            for domain in connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE):
                domain.destroy()
        self.down()
        shutil.rmtree(self.folder, ignore_errors=True)

    # --- guests

    def disk(self, name: str, code: bytes = b"", form: str = "raw", size: int = 1 << 20, backing: Path | None = None) -> Path:
        path = self.folder / "disks" / f"{name}.{form}"
        if backing is not None:
            run("qemu-img", "create", "-q", "-f", "qcow2", "-b", str(backing), "-F", backing.suffix[1:], str(path))
            return path
        raw = self.folder / "disks" / f"{name}.tmp"
        raw.write_bytes((sector(code) if code else b"").ljust(size, b"\0"))
        if form == "raw":
            raw.rename(path)
        else:
            run("qemu-img", "convert", "-f", "raw", "-O", form, str(raw), str(path))
            raw.unlink()
        return path

    def define(
        self, name: str, code: bytes = OBEYS, form: str = "raw", *, start: bool = True, transient: bool = False, more: str = "",
        devices: str = "", disks: str = "", autostart: bool = False, os: str = "", memory: int = 16,
        wait_for: float = 180,
    ) -> str:  # fmt: skip
        """A guest; its uuid. It is waited for until its own code runs."""
        key = str(uuid.uuid4())
        said = self.folder / f"{key}.said"
        disk = (
            disks
            or f"<disk type='file'><driver name='qemu' type='{form}'/><source file='{self.disk(key, code, form)}'/><target dev='hda' bus='ide'/></disk>"
        )
        xml = (
            f"<domain type='qemu'><name>{name}</name><uuid>{key}</uuid><memory unit='MiB'>{memory}</memory>"
            f"<os><type arch='x86_64' machine='pc'>hvm</type>{os}</os><features><acpi/></features>{more}"
            f"<devices><emulator>/usr/bin/qemu-system-x86_64</emulator>{disk}<serial type='file'><source path='{said}'/></serial>"
            f"<memballoon model='none'/><controller type='usb' model='none'/>{devices}</devices></domain>"
        )
        with self.admin() as connection:
            if transient:
                connection.createXML(xml, 0)
            else:
                domain = connection.defineXML(xml)
                domain.setAutostart(int(autostart))
                if start:
                    domain.create()
        if start or transient:
            self.running(key, wait_for)
        return key

    def linux(self, name: str, mode: str) -> str:
        """A guest with Linux and a guest agent (linux_guest)."""
        kernel, initrd = linux_guest.files()
        os = f"<kernel>{kernel}</kernel><initrd>{initrd}</initrd><cmdline>quiet no_timer_check mitigations=off {mode}</cmdline>"
        channel = "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>"
        key = self.define(name, devices=channel, os=os, memory=96, wait_for=400)
        wait(lambda: "state='connected'" in self.domain(name, lambda one: one.XMLDesc(0)), 120, "its agent is there")
        return key

    def release(self, key: str) -> None:
        """Let a guest with HELD do what it was asked for."""
        with (self.folder / "disks" / f"{key}.raw").open("r+b") as disk:
            disk.seek(512)
            disk.write(b"\1")

    def running(self, key: str, seconds: float = 180) -> None:
        said = self.folder / f"{key}.said"
        wait(lambda: said.exists() and b"*" in said.read_bytes(), seconds, "the guest's own code runs")

    def state(self, name: str) -> tuple[int, int]:
        with self.admin() as connection:
            state, reason = connection.lookupByName(name).state()
        return state, reason

    def domain(self, name: str, act: Callable[[Any], Any]) -> Any:
        with self.admin() as connection:
            return act(connection.lookupByName(name))

    def process(self, name: str) -> int:
        return int((self.folder / "run/qemu" / f"{name}.pid").read_text())

    # --- the verbs

    @property
    def far(self) -> relay.Reach:
        """This machine as if it were another: everything goes through a relay."""
        return relay.Reach(argv=lambda line: ["/bin/sh", "-c", line], direct=False, name="far")

    @property
    def staging(self) -> str:
        return str(self.folder / "staging")

    @contextlib.contextmanager
    def engine(self, *names: str) -> Iterator[Any]:
        with libvirt_way.opened(self.far, self.uri, names, self.staging) as engine:
            yield engine

    def memory(self, former: dict[str, Any] | None = None, asked: dict[str, Any] | None = None) -> guest_verbs.Memory:
        return guest_verbs.Memory(former or {}, asked or {}, self.notes.append)

    def asked(self) -> dict[str, Any]:
        """What the notes of earlier calls say of requests, as the action reads them from the ledger."""
        return {note["guest"]: {"life": note["life"], "at": note["at_seconds"]} for note in self.notes if note["kind"] == "asked"}

    def former(self) -> dict[str, Any]:
        found = [note["former"] for note in self.notes if note["kind"] == "found"]
        return dict(found[-1]) if found else {}

    def stop(self, *names: str, timeout: float = 60, check: bool = False, remembering: bool = False, **order: Any) -> dict[str, Any]:
        memory = self.memory(order.pop("former", self.former() if remembering else {}), self.asked() if remembering else {})
        with self.engine(*names) as engine:
            return guest_verbs.stop(engine, account(), guest_verbs.Order(names, timeout=timeout, **order), memory, check)

    def start(self, former: dict[str, Any], *, check: bool = False) -> dict[str, Any]:
        with self.engine(*former) as engine:
            return guest_verbs.start(engine, account(), former, 60, check)

    def save(self, *names: str, check: bool = False, former: dict[str, Any] | None = None, **wish: Any) -> dict[str, Any]:
        with self.engine(*names) as engine:
            return libvirt_save.save(engine, account(), self.far, names, former or {}, libvirt_save.Wish(self.staging, **wish), check)


def account() -> Account:
    return Account("libvirt_guests", "guest:t")


def run(*argv: str) -> str:
    return subprocess.run(
        argv, check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL, env={**os.environ, "LC_ALL": "C"}
    ).stdout


def wait(true: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds:g} s in vain: {what}")
        time.sleep(0.05)
