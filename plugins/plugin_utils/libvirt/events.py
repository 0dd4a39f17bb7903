# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What libvirt tells of guests while we are connected: the only witness of how a guest ended that exists only while it runs."""

from __future__ import annotations

import threading
from typing import Any

try:
    import libvirt
except ImportError:
    libvirt = None

LIFECYCLE = 0  # VIR_DOMAIN_EVENT_ID_LIFECYCLE
STOPPED, SHUTDOWN = 5, 6
STOPPED_DETAILS = {0: "shutdown", 1: "destroyed", 2: "crashed", 3: "migrated", 4: "saved", 5: "failed", 6: "from snapshot"}
SHUTDOWN_DETAILS = {0: "finished", 1: "by the guest", 2: "from the host"}

_lock = threading.Lock()
_running: list[threading.Thread] = []


def told(event: int, detail: int) -> str:
    """An event in words; empty for one that says nothing about an end."""
    if event == STOPPED:
        return f"stopped: {STOPPED_DETAILS.get(detail, detail)}"
    if event == SHUTDOWN:
        return f"shutdown: {SHUTDOWN_DETAILS.get(detail, detail)}"
    return ""


def _loop() -> None:
    while True:
        libvirt.virEventRunDefaultImpl()


def ensure_loop() -> None:
    """Start libvirt's event loop once in this process, before the first connection. It also carries the keep-alive of connections."""
    with _lock:
        if _running and _running[0].is_alive():
            return
        if not _running:
            libvirt.virEventRegisterDefaultImpl()
            # The loop must have something to wait for, or it would not notice what is added to it.
            libvirt.virEventAddTimeout(500, lambda *_arguments: None, None)
        thread = threading.Thread(target=_loop, daemon=True, name="libvirt events")
        thread.start()
        _running[:] = [thread]


class Listener:
    """Collects the ends of guests, by uuid, over all connections that it is put on."""

    def __init__(self) -> None:
        self.seen: dict[str, list[str]] = {}
        self._places: list[tuple[Any, int]] = []

    def put_on(self, connection: Any) -> None:
        try:
            number = connection.domainEventRegisterAny(None, LIFECYCLE, self._event, None)
        except libvirt.libvirtError:
            return  # then the hypervisor's own reading of how the guest ended has to do
        self._places.append((connection, number))

    def _event(self, _connection: Any, domain: Any, event: int, detail: int, _opaque: Any) -> None:
        if words := told(event, detail):
            self.seen.setdefault(domain.UUIDString(), []).append(words)

    def take_off(self) -> None:
        for connection, number in self._places:
            try:
                connection.domainEventDeregisterAny(number)
            except libvirt.libvirtError:
                continue
        self._places.clear()
