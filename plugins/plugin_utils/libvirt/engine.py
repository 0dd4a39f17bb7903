# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Virtual machines of one libvirt as guests: the backend that the core in guests/guests.py drives.

Errors are told apart by their code, never by their text, which is translated. A connection that breaks (the daemon is restarted)
is opened again; what was read is read again, and a request whose answer was lost is not sent a second time before its time.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, TypeVar

from ansible_collections.sunset.crm.plugins.plugin_utils.errors import NotYet, Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.guests.guests import AGENT as BY_AGENT, LOST, Ending, Guest
from ansible_collections.sunset.crm.plugins.plugin_utils.libvirt import events as libvirt_events, facts as libvirt_facts

try:
    import libvirt
except ImportError as exc:
    MISSING: str | None = str(exc)
else:
    MISSING = None

T = TypeVar("T")
# VIR_ERR_*
NO_SUPPORT, INVALID_ARG, SYSTEM_ERROR, NO_DOMAIN, OPERATION_INVALID = 3, 8, 38, 42, 55
RECONNECT = 60.0  # seconds for which a daemon may be away
RECONNECT_PAUSE = 0.5
ACPI, AGENT = 1, 2
GRACEFUL = 1
INACTIVE = 2
AFFECT_LIVE, AFFECT_CONFIG = 1, 2
LIFECYCLE_TYPES = {"on_poweroff": 0, "on_crash": 2}
LIFECYCLE_ACTIONS = {"destroy": 0, "restart": 1, "rename-restart": 2, "preserve": 3, "coredump-destroy": 4, "coredump-restart": 5}
STATS_STATE = 1
LOGS = "/var/log/libvirt/qemu"
ENDED = re.compile(r"shutting down, reason=(\w+)")
SNAPSHOT_DISK_ONLY, SNAPSHOT_ATOMIC = 16, 128
KEEPALIVE = (10, 6)


def connect(uri: str) -> Any:
    return libvirt.open(uri)


class Engine:
    """The guests of one hypervisor that are named; others are not even read, but for everything().

    opener: opens a connection, again and again. put: writes a small file on the host (path, text) and returns its digest, read: reads
    one; staging: where to. cib: Pacemaker's configuration of the host.
    """

    def __init__(
        self,
        opener: Callable[[], Any],
        names: Collection[str] = (),
        what: str = "guests of libvirt",
        staging: str = "",
        put: Callable[[str, bytes], str] | None = None,
        read: Callable[[str], bytes] | None = None,
        cib: str = "",
        problem: Callable[[], str] = lambda: "",
        patience: float = RECONNECT,
    ) -> None:
        if MISSING:
            raise Refusal(f"the control node needs the Python package libvirt-python for this ({MISSING}): pip install libvirt-python")
        self.what = what
        self._opener, self._names, self._patience, self._problem = opener, set(names), patience, problem
        self._staging, self._put, self._read, self._cib = staging, put, read, cib
        self._former: dict[str, Mapping[str, Any]] = {}
        self._asked_agent: set[str] = set()
        self._pressed: set[str] = set()
        # Guests whose agent did not take the request -> libvirt's error.
        self._fallen: dict[str, int] = {}
        self._lives: dict[str, str] = {}
        self.listener = libvirt_events.Listener()
        self.reopened = 0
        # Every error is printed to standard error by default.
        libvirt.registerErrorHandler(lambda _context, _error: None, None)
        libvirt_events.ensure_loop()
        self._connection: Any = None
        self._open(0.0)

    # --- the connection

    def _open(self, patience: float) -> None:
        deadline = time.monotonic() + patience
        while True:
            try:
                self._connection = self._opener()
                break
            except libvirt.libvirtError as exc:
                if time.monotonic() >= deadline:
                    raise NotYet(f"libvirt does not answer: {self._problem() or exc} (error {exc.get_error_code()})") from exc
                time.sleep(RECONNECT_PAUSE)
        with contextlib.suppress(libvirt.libvirtError):
            self._connection.setKeepAlive(*KEEPALIVE)
        self.listener.put_on(self._connection)

    def _lost(self) -> bool:
        try:
            return not self._connection.isAlive()
        except libvirt.libvirtError:
            return True

    def _asking(self, call: Callable[[Any], T]) -> T:
        """Carry out what may be done twice; with a new connection, if this one breaks."""
        while True:
            try:
                return call(self._connection)
            except libvirt.libvirtError as exc:
                if not self._lost():
                    raise
                self.reopened += 1
                if self.reopened > 20:
                    raise Refusal(f"the connection to libvirt breaks again and again: {exc}") from exc
                self._open(self._patience)

    @contextlib.contextmanager
    def _errors(self, about: str) -> Iterator[None]:
        try:
            yield
        except libvirt.libvirtError as exc:
            raise Refusal(f"{about}: libvirt answered: {exc} (error {exc.get_error_code()})") from exc

    def close(self) -> None:
        self.listener.take_off()
        with contextlib.suppress(libvirt.libvirtError):
            self._connection.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    # --- reading

    def tools(self) -> dict[str, str]:
        with self._errors("versions"):
            return {
                "libvirt": dotted(self._asking(lambda c: c.getLibVersion())),
                "hypervisor": f"{self._asking(lambda c: c.getType())} {dotted(self._asking(lambda c: c.getVersion()))}",
                "libvirt-python": dotted(libvirt.getVersion()),
            }

    def host(self) -> dict[str, str]:
        """Who the hypervisor is."""
        with self._errors("capabilities"):
            xml = self._asking(lambda c: c.getCapabilities())
        return {"uuid": libvirt_facts.parse(xml).findtext("host/uuid") or ""}

    def everything(self) -> dict[str, dict[str, Any]]:
        """All guests of the hypervisor by name, running or not, as the survey shows them."""
        with self._errors("list"):
            return {
                str(domain.name()): {
                    "id": domain.UUIDString(),
                    "uuid": domain.UUIDString(),
                    "power": libvirt_facts.power_of(*domain.state()),
                    "detail": self._words(domain)[0],
                }
                for domain in self._asking(lambda c: c.listAllDomains(0))
            }

    def disks(self) -> dict[str, list[dict[str, Any]]]:
        """The disks of every guest by name: of the running and of the kept definition, each source once."""
        with self._errors("definitions"):
            found = {}
            for domain in self._asking(lambda c: c.listAllDomains(0)):
                try:
                    found[str(domain.name())] = self._disks(domain)
                except libvirt.libvirtError as exc:
                    # A guest that exists only while it runs may end between list and look.
                    if exc.get_error_code() != NO_DOMAIN:
                        raise
            return found

    def _disks(self, domain: Any) -> list[dict[str, Any]]:
        texts = [domain.XMLDesc(0), *([domain.XMLDesc(INACTIVE)] if domain.isPersistent() else [])]
        found: dict[tuple[str, str], dict[str, Any]] = {}
        for disk in (disk for text in texts for disk in libvirt_facts.disks_of(text)):
            if disk["type"] == "volume":
                disk = self._resolved(disk)
            found.setdefault((disk["target"], disk["source"]), disk)
        return list(found.values())

    def _resolved(self, disk: dict[str, Any]) -> dict[str, Any]:
        """A disk that is named as the volume of a pool, as what it is on the host, where libvirt knows."""
        pool, _colon, name = disk["source"].partition(":")
        with contextlib.suppress(libvirt.libvirtError):
            volume = self._connection.storagePoolLookupByName(pool).storageVolLookupByName(name)
            kind = {0: "file", 1: "block"}.get(volume.info()[0])
            if kind:
                return {**disk, "type": kind, "source": volume.path()}
        return disk

    @staticmethod
    def _words(domain: Any) -> tuple[str, str]:
        state, reason = domain.state()
        name = libvirt_facts.STATES.get(state, str(state))
        return name, libvirt_facts.OFF_REASONS.get(reason, str(reason)) if state == 5 else str(reason)

    def recall(self, former: Mapping[str, Mapping[str, Any]]) -> None:
        self._former = {name: dict(one) for name, one in former.items()}

    def _found(self) -> list[Any]:
        return [domain for domain in self._asking(lambda c: c.listAllDomains(0)) if domain.name() in self._names]

    def observe(self) -> list[Guest]:
        with self._errors(self.what):
            return self._asking(lambda _c: self._observe())

    def _observe(self) -> list[Guest]:
        seen = []
        for domain in self._found():
            try:
                seen.append(self._guest(domain))
            except libvirt.libvirtError as exc:
                # A guest that exists only while it runs may end between list and look.
                if exc.get_error_code() != NO_DOMAIN:
                    raise
        there = {guest.name for guest in seen}
        for name, former in self._former.items():
            if name in self._names and name not in there and former.get("persistent") is False:
                seen.append(self._ended(name, former))
        return sorted(seen, key=lambda guest: guest.name)

    def _guest(self, domain: Any) -> Guest:
        name, key = str(domain.name()), domain.UUIDString()
        state, reason = domain.state()
        persistent, active = bool(domain.isPersistent()), bool(domain.isActive())
        live = domain.XMLDesc(0)
        kept = domain.XMLDesc(INACTIVE) if persistent else live
        autostart = bool(domain.autostart()) if persistent else False
        words = self._words(domain)
        endings = libvirt_facts.endings_of(kept)
        former: dict[str, Any] = {"autostart": autostart, "persistent": persistent, **endings}
        recalled = self._former.get(name) or {}
        if recalled.get("id") == key and not persistent:
            former.update({word: recalled[word] for word in ("kept", "ended") if recalled.get(word)})
        return Guest(
            key=key,
            name=name,
            power=libvirt_facts.power_of(state, reason),
            # A guest that exists only while it runs brings nothing back once it is gone, and takes its definition with it.
            returns=libvirt_facts.returns_of(autostart, [libvirt_facts.endings_of(live), endings] if active else [endings]),
            refusal=self._refusal(name, live, state, reason),
            record={
                "id": key,
                "state": words[0],
                "reason": words[1],
                "life": str(domain.ID()) if active else "",
                "persistent": persistent,
                "autostart": autostart,
                "managed_save": bool(domain.hasManagedSaveImage()) if persistent else False,
                "agent": libvirt_facts.agent_of(live) if active else "none",
                "coming_down": state == 4,
                "disks": libvirt_facts.disks_of(kept),
                "former": former,
            },
        )

    def _refusal(self, name: str, xml: str, state: int, reason: int) -> str:
        if owner := libvirt_facts.owner_of(xml) or libvirt_facts.cluster_owner(self._cib, name):
            return owner
        if state == 5 and reason == libvirt_facts.MOVED:
            return libvirt_facts.GONE_ELSEWHERE
        if state == 3 and reason == libvirt_facts.MOVING:
            return (
                "it is being moved to another host; wait for the end of that, find out where it runs then, and run the same command again"
            )
        if state == 3 and reason == libvirt_facts.IO_ERROR:
            return "it is paused by an error of its disk and cannot go on; mend the storage, resume it, then run the same command again"
        if state == 7:
            return "it is asleep (suspended to memory), which is not off; wake it (virsh dompmwakeup), then run the same command again"
        if state == 6:
            return "it has crashed and its memory is kept for a look; end it (virsh destroy) when that was had, then run the same command again"
        return ""

    def _ended(self, name: str, former: Mapping[str, Any]) -> Guest:
        """A guest that existed only while it ran: that it is off is proven by libvirt not knowing it any more, and by how that came.

        Without a word about its end it may have been moved to another host, where it runs."""
        key = str(former["id"])
        try:
            self._connection.lookupByUUIDString(key)
        except libvirt.libvirtError as exc:
            if exc.get_error_code() != NO_DOMAIN:
                raise
        stopped = [one.partition(": ")[2] for one in self.listener.seen.get(key, []) if one.startswith("stopped: ")]
        reason = stopped[-1] if stopped else str(former.get("ended") or self._logged(name) or "unknown")
        refusal = {
            "migrated": libvirt_facts.GONE_ELSEWHERE,
            "unknown": "it existed only while it ran, is gone, and nothing here says whether it ended or was moved to another host; see that it "
            "runs nowhere, and define and start it here again or take it out of the plan",
        }.get(reason, "")
        record = {
            "id": key, "state": "gone (libvirt knows no such guest any more)", "persistent": False, "autostart": False, "managed_save": False,
            "reason": reason, "life": "", "agent": "none", "coming_down": False, "disks": [],
            "former": {name: value for name, value in former.items() if name not in ("id", "power")},
        }  # fmt: skip
        return Guest(key=key, name=name, power="unknown" if refusal else "off", refusal=refusal, record=record)

    def _logged(self, name: str) -> str:
        """How QEMU's own log on the host says that the guest ended last; empty if it does not."""
        text = self._read(f"{LOGS}/{name}.log").decode("utf-8", "replace") if self._read and "/" not in name else ""
        found = ENDED.findall(text[text.rfind("starting up libvirt version") :])
        return str(found[-1]) if found else ""

    def powers(self) -> dict[str, str]:
        with self._errors(self.what):
            return self._asking(self._powers)

    def _powers(self, connection: Any) -> dict[str, str]:
        try:
            rows = [(domain, facts.get("state.state")) for domain, facts in connection.getAllDomainStats(STATS_STATE)]
        except libvirt.libvirtError as exc:
            if exc.get_error_code() != NO_SUPPORT:
                raise
            rows = [(domain, domain.state()[0]) for domain in connection.listAllDomains(0)]
        return {domain.UUIDString(): self._power(domain, state) for domain, state in rows if domain.name() in self._names}

    def _power(self, domain: Any, state: int) -> str:
        asked = self._lives.get(domain.UUIDString())
        # Another life than the one that was asked: that one has ended, and something has started the guest again.
        if asked and str(domain.ID()) not in (asked, "-1"):
            return "off"
        return libvirt_facts.POWER.get(state, "unknown")

    def life(self, guest: Guest) -> str:
        return str(guest.record.get("life", ""))

    def brief(self, guest: Guest) -> dict[str, Any]:
        return {key: guest.record.get(key) for key in ("state", "reason", "persistent", "autostart", "managed_save", "agent")}

    def definition(self, guest: Guest) -> bytes:
        """The guest's definition as it would be started: without secrets (passwords of consoles), which libvirt keeps to itself."""
        if guest.record["former"].get("kept"):
            return self._kept(guest.record["former"]["kept"])
        with self._errors(guest.name):
            return str(self._asking(lambda c: c.lookupByUUIDString(guest.key).XMLDesc(INACTIVE))).encode("utf-8")

    def snapshots(self, guest: Guest) -> list[tuple[str, str]]:
        """(name, kind) of the snapshots that libvirt knows of; kind is internal or external."""
        if not guest.record["persistent"]:
            return []

        def read(connection: Any) -> list[tuple[str, str]]:
            domain = connection.lookupByUUIDString(guest.key)
            return [(one.getName(), libvirt_facts.snapshot_kind(one.getXMLDesc(0))) for one in domain.listAllSnapshots(0)]

        with self._errors(guest.name):
            return self._asking(read)

    def take_snapshot(self, guest: Guest, name: str, kind: str) -> None:
        """Of a guest that is off."""
        flags = SNAPSHOT_DISK_ONLY | SNAPSHOT_ATOMIC if kind == "external" else 0
        with self._errors(guest.name):
            self._domain(guest).snapshotCreateXML(libvirt_facts.snapshot_xml(name, guest.record["disks"], kind), flags)

    # --- verbs

    def _domain(self, guest: Guest) -> Any:
        return self._connection.lookupByUUIDString(guest.key)

    def keep(self, guest: Guest) -> dict[str, Any]:
        if guest.record["persistent"] or guest.record["former"].get("kept"):
            return {}
        if self._put is None:
            raise Refusal(f"{guest.name} exists only while it runs, and there is no staging place for its definition. Nothing was changed.")
        with self._errors(guest.name):
            xml = str(self._asking(lambda c: c.lookupByUUIDString(guest.key).XMLDesc(INACTIVE))).encode("utf-8")
        path = f"{self._staging}/{guest.key}.kept.xml"
        return {"kept": {"path": path, "sha256": self._put(path, xml)}}

    def _kept(self, kept: Mapping[str, str]) -> bytes:
        found = self._read(kept["path"]) if self._read else b""
        if hashlib.sha256(found).hexdigest() != kept["sha256"]:
            raise Refusal(
                f"the definition that was kept in {kept['path']} is not there or another one; take it from the package on a vault"
            )
        return found

    def hold(self, guest: Guest) -> None:
        with self._errors(guest.name):
            if guest.record["autostart"]:
                self._asking(lambda _c: self._domain(guest).setAutostart(0))
            for name in LIFECYCLE_TYPES:
                self._set_ending(guest, name, "destroy", only=libvirt_facts.RESTARTS)

    def _set_ending(self, guest: Guest, name: str, value: str, only: Collection[str] = ()) -> None:
        """In the running and in the kept definition, where it is not so already. only: leave every other value alone."""

        def act(_connection: Any) -> None:
            domain = self._domain(guest)
            ways = ([(AFFECT_LIVE, 0)] if domain.isActive() else []) + ([(AFFECT_CONFIG, INACTIVE)] if domain.isPersistent() else [])
            for affect, which in ways:
                found = libvirt_facts.endings_of(domain.XMLDesc(which))[name]
                if found != value and (not only or found in only):
                    domain.setLifecycleAction(LIFECYCLE_TYPES[name], LIFECYCLE_ACTIONS[value], affect)

        self._asking(act)

    def wake(self, guest: Guest) -> None:
        with self._errors(guest.name):
            try:
                self._asking(lambda _c: self._domain(guest).resume())
            except libvirt.libvirtError as exc:
                if exc.get_error_code() != OPERATION_INVALID:
                    raise

    def ask(self, guest: Guest) -> str | None:
        """By its agent if one answers, else by the power button; asked again, by the button."""
        self._lives[guest.key] = self.life(guest)
        if guest.record["agent"] == "connected" and guest.key not in self._asked_agent:
            self._asked_agent.add(guest.key)
            # libvirt answers only when the guest has ended, or a minute later: the others do not wait for that.
            threading.Thread(target=self._ask_agent, args=(guest,), daemon=True).start()
            return BY_AGENT
        if guest.key in self._fallen:
            return "ACPI, when its agent did not take the request"
        return self._press(guest)

    def _ask_agent(self, guest: Guest) -> None:
        connection = self._connection
        try:
            connection.lookupByUUIDString(guest.key).shutdownFlags(AGENT)
        except libvirt.libvirtError as exc:
            if exc.get_error_code() in (NO_DOMAIN, OPERATION_INVALID) or guest.key in self._pressed:
                return
            # A connection that was closed meanwhile refuses all of this.
            with contextlib.suppress(libvirt.libvirtError):
                if connection.isAlive():
                    self._fallen[guest.key] = exc.get_error_code()
                    connection.lookupByUUIDString(guest.key).shutdownFlags(ACPI)

    def _press(self, guest: Guest) -> str | None:
        self._pressed.add(guest.key)
        try:
            self._domain(guest).shutdownFlags(ACPI)
        except libvirt.libvirtError as exc:
            code = exc.get_error_code()
            if self._lost():
                # It may have been accepted. Nothing is sent again before the guest had its time.
                self._asking(lambda c: c.getLibVersion())
                return LOST
            if code in (NO_DOMAIN, OPERATION_INVALID):
                return None  # it ended in the very moment: the next reading shows that, or shows it running
            if code == INVALID_ARG:
                return self._ask_somehow(guest)
            raise Refusal(f"{guest.name}: libvirt answered: {exc} (error {code})") from exc
        return "ACPI"

    def _ask_somehow(self, guest: Guest) -> str:
        """A driver that knows no ways: it asks in its own."""
        with self._errors(guest.name):
            self._domain(guest).shutdown()
        return "the driver's own way"

    def force(self, guest: Guest) -> None:
        with self._errors(guest.name):
            try:
                # Only the process is asked to end, so that it writes out what it holds; the guest itself is cut off all the same.
                self._domain(guest).destroyFlags(GRACEFUL)
            except libvirt.libvirtError as exc:
                if exc.get_error_code() in (NO_DOMAIN, OPERATION_INVALID) or self._lost():
                    return
                self._domain(guest).destroy()

    def ending(self, before: Guest, after: Guest, asked: bool, forced: bool) -> Ending:
        ending = libvirt_facts.ending_of(before, after, asked, forced, self.listener.seen.get(before.key, []))
        if before.key in self._fallen:
            why = f"{ending.detail}; its agent did not take the request (error {self._fallen[before.key]}), so the power button was pressed"
            return Ending(ending.how, ending.graceful, why)
        return ending

    def release(self, guest: Guest, former: Mapping[str, Any]) -> None:
        if not former.get("persistent", True):
            return
        with self._errors(guest.name):
            for name in LIFECYCLE_TYPES:
                self._set_ending(guest, name, str(former.get(name, "destroy")))
            self._asking(lambda _c: self._domain(guest).setAutostart(1 if former.get("autostart") else 0))

    def start(self, guest: Guest, former: Mapping[str, Any]) -> None:
        self._lives.pop(guest.key, None)
        with self._errors(guest.name):
            if guest.power == "on":
                pass  # it was paused, and an earlier run has started or woken it
            elif former.get("persistent", True):
                self._starting(lambda: self._domain(guest).create())
            else:
                xml = self._kept(former["kept"]).decode("utf-8")
                self._starting(lambda: self._connection.createXML(xml, 0))
            if former.get("power") == "paused":
                self._asking(lambda _c: self._domain(guest).suspend())

    def _starting(self, act: Callable[[], Any]) -> None:
        try:
            act()
        except libvirt.libvirtError as exc:
            if self._lost():
                self._asking(lambda c: c.getLibVersion())  # whether it started, the next reading shows
                return
            if exc.get_error_code() != OPERATION_INVALID:  # it runs already
                raise


def dotted(number: int) -> str:
    return f"{number // 1000000}.{number // 1000 % 1000}.{number % 1000}"
