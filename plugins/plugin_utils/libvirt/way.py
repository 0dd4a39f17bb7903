# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The way to a host's libvirt: its unix socket, through the connection that Ansible has to the host."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

from ansible_collections.sunset.crm.plugins.plugin_utils import relay
from ansible_collections.sunset.crm.plugins.plugin_utils.errors import NotYet, Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.guests import lost_sight
from ansible_collections.sunset.crm.plugins.plugin_utils.guests.guests import Guest
from ansible_collections.sunset.crm.plugins.plugin_utils.libvirt import engine as libvirt_engine
from ansible_collections.sunset.crm.plugins.plugin_utils.libvirt.engine import Engine

# One daemon for everything; or the one of QEMU alone.
SOCKETS = ("/run/libvirt/libvirt-sock", "/run/libvirt/virtqemud-sock", "/var/run/libvirt/libvirt-sock")
CIB = "/var/lib/pacemaker/cib/cib.xml"
OTHERS = {
    "lxc": "containers of libvirt", "xen": "Xen", "esx": "VMware", "vpx": "VMware", "hyperv": "Hyper-V", "bhyve": "bhyve", "vz": "Virtuozzo",
    "vbox": "VirtualBox", "ch": "Cloud Hypervisor",
}  # fmt: skip


def sockets_of(uri: str) -> tuple[str, ...]:
    """Where the daemon may listen on its host. Pure. Raises Refusal for a hypervisor that is not handled."""
    parts = urlsplit(uri)
    scheme = parts.scheme.partition("+")[0]
    if scheme in OTHERS:
        raise Refusal(f"{uri}: {OTHERS[scheme]} is not handled; stop its guests by hand and have that attested (scripts/statement attest)")
    if scheme != "qemu" or "+" in parts.scheme or parts.netloc or parts.path != "/system":
        raise Refusal(
            f"uri is {uri!r}; expected qemu:///system, or qemu:///system?socket=PATH where the daemon of the host listens elsewhere. The host is "
            "reached by its own connection, so the uri names none"
        )
    given = parse_qs(parts.query).get("socket")
    return tuple(given) if given else SOCKETS


def socket_of(reach: relay.Reach, uri: str) -> str:
    """The socket that is there on the host."""
    wanted = sockets_of(uri)
    tests = "; ".join(f"test -S {shlex.quote(path)} && echo {shlex.quote(path)}" for path in wanted)
    line = f"printf %s {shlex.quote(relay.MARKER.decode().rstrip())}; echo; {{ {tests}; }} 2>/dev/null; true"
    found = relay.call(reach, line, timeout=60).decode("utf-8", "replace").split()
    if not found:
        raise NotYet(
            f"{reach.name}: libvirt listens on none of {', '.join(wanted)}; start its daemon (libvirtd or virtqemud), or give its socket"
        )
    return found[0]


class Watched(Engine):
    """What libvirt calls ended is off when no process of it is on the host either: libvirt may have lost its notes on what runs."""

    def __init__(self, reach: relay.Reach, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._reach = reach

    def observe(self) -> list[Guest]:
        seen = super().observe()
        ids = [guest.key for guest in seen if guest.power == "off"]
        found = lost_sight.machines(self._reach, ids)[1] if ids else {}
        return [
            replace(guest, power="unknown", refusal=lost_sight.words(str(guest.record["state"]), found[guest.key]))
            if guest.key in found
            else guest
            for guest in seen
        ]


@contextlib.contextmanager
def opened(reach: relay.Reach, uri: str, names: Collection[str], staging: str = "") -> Iterator[Engine]:
    """The engine of a host's libvirt, with the hands that it needs on that host."""
    if libvirt_engine.MISSING:
        raise Refusal(
            f"the control node needs the Python package libvirt-python for this ({libvirt_engine.MISSING}): pip install libvirt-python"
        )
    with relay.Relay(reach, socket_of(reach, uri)) as way:

        def opener() -> Any:
            return libvirt_engine.connect(f"qemu+unix:///system?socket={quote(way.address)}")

        def put(path: str, text: bytes) -> str:
            return str(relay.put(reach, path, [text])["sha256"])

        with Watched(
            reach,
            opener,
            names,
            f"guests of {uri} on {reach.name}",
            staging,
            put,
            lambda path: relay.read(reach, path),
            relay.read(reach, CIB).decode("utf-8", "replace"),
            way.problem,
        ) as engine:
            yield engine


def look(connection: Any, declared: dict[str, Any]) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """What the survey asks: every guest of the hypervisor, and who the hypervisor is."""
    with opened(relay.from_connection(connection), str(declared.get("uri") or "qemu:///system"), ()) as engine:
        disks = engine.disks()
        shown = {name: {**one, "disks": disks.get(name, [])} for name, one in engine.everything().items()}
        return shown, engine.host()
