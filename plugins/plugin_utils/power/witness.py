# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Outside witnesses of a host's power: something other than the host, and other than the call that switched it off.

read() never connects to the host to ask it. Three values: on, off, unknown. A witness that cannot see says unknown. A host may have
several witnesses of different kinds: then all of them must say the same, and what they disagree on is unknown.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.power import controllers
from ansible_collections.sunset.crm.plugins.plugin_utils.power.controllers import Controller, Deadline, Silent
from ansible_collections.sunset.crm.plugins.plugin_utils.power.ipmi import Ipmi
from ansible_collections.sunset.crm.plugins.plugin_utils.power.redfish import Redfish

# Kind: what it needs, what it may have beside that.
KEYS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "docker": (("container",), ("socket", "timeout")),
    "silence": (("address",), ("ports", "seconds", "reference", "wake")),
    "redfish": (("address", "credentials"), ("system", "ca_file", "fingerprint", "auth", "serial", "uuid", "timeout")),
    "ipmi": (("address", "credentials"), ("port", "serial", "uuid")),
    "libvirt": (("uri", "domain"), ()),
}
KINDS = tuple(KEYS)
# Those that can take the power away, and be asked for a graceful end.
OPENED: dict[str, Callable[[Mapping[str, Any], Deadline], contextlib.AbstractContextManager[Controller]]] = {
    "redfish": Redfish,
    "ipmi": Ipmi,
}
CONTROLLERS = tuple(OPENED)
# Silence takes its time, so it is asked last, and not at all where another witness has seen the host on.
LAST = ("silence",)
DEFAULT_SOCKET = "/var/run/docker.sock"
# What a container that is a whole host answers: 130 is the kernel's power-off inside a process namespace (PID 1 gets
# SIGINT), 129 its reboot, 0 an init that may not switch off and just ends.
DOCKER_BY_ITSELF = (0, 130)
SIGNS = 2
MAC = re.compile(r"^[0-9a-f]{2}([:-][0-9a-f]{2}){5}$", re.IGNORECASE)
AGAIN = 1.0  # seconds until a controller that gave no answer is asked once more
PATIENCE = 60.0  # seconds that a single reading of a controller may take, with all that belongs to it

Described = Mapping[str, Any] | Sequence[Mapping[str, Any]]


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def described(power: Described) -> list[dict[str, Any]]:
    """The witnesses of a host, as C(sunset_power) has them (one, or a list), in the order in which they are asked. Refuses a wrong one."""
    found = [power] if isinstance(power, Mapping) else power
    if not isinstance(found, list | tuple) or not found or not all(isinstance(one, Mapping) for one in found):
        raise Refusal("sunset_power is neither a witness (a mapping with kind) nor a list of them; see inventories/example")
    for one in found:
        check(one)
    kinds = [str(one["kind"]) for one in found]
    if len(set(kinds)) != len(kinds):
        raise Refusal(f"sunset_power names two witnesses of one kind ({', '.join(kinds)}); several must be of different kinds")
    return sorted((dict(one) for one in found), key=lambda one: one["kind"] in LAST)


def check_alone(witnesses: Sequence[Mapping[str, Any]]) -> None:
    """Refuse silence as the only witness where nothing shows that it is the host's: a network that broke is silent too."""
    if len(witnesses) == 1 and witnesses[0]["kind"] == "silence" and not witnesses[0].get("reference"):
        raise Refusal(
            "its only witness is silence, and it has no reference: where the control node's own network breaks, every host would be called off. "
            "Name the address of something on that network that stays and answers a ping (reference in sunset_power), or a second witness"
        )


def check(witness: Mapping[str, Any]) -> None:
    """Refuse a description that names no usable witness. No message repeats a value that may be a secret."""
    kind = witness.get("kind")
    if kind not in KEYS:
        raise Refusal(f"witness kind {kind!r} is not known; use one of {', '.join(KINDS)}")
    needed, more = KEYS[kind]
    if {"password", "username", "user"} & set(witness):
        raise Refusal(
            f"a witness of kind {kind} carries a login in the inventory, which would become part of the plan. Write it into a file of "
            "mode 0600 on the control node (username: NAME, password: WORD) and name that file: credentials"
        )
    lacking = [name for name in needed if not witness.get(name)]
    if lacking:
        raise Refusal(f"witness of kind {kind} needs {', '.join(lacking)}")
    strange = sorted(set(witness) - {"kind", *needed, *more})
    if strange:
        raise Refusal(f"witness of kind {kind} does not know {', '.join(strange)}; it takes {', '.join((*needed, *more))}")
    if kind == "redfish":
        if bool(witness.get("ca_file")) == bool(witness.get("fingerprint")):
            raise Refusal("witness of kind redfish needs one of ca_file and fingerprint: by which it knows its controller")
        if witness.get("auth", "session") not in ("session", "basic"):
            raise Refusal(f"witness of kind redfish: auth is {witness['auth']!r} (known: session, basic)")
    wake = witness.get("wake")
    if wake is not None and not (isinstance(wake, Mapping) and MAC.match(str(wake.get("mac", "")))):
        raise Refusal("wake of a witness of kind silence needs the hardware address of the host's network card: {mac: 52:54:00:12:34:56}")


class Watch:
    """Reads a host's witnesses as often as it is asked, over one session with each controller. Use as a context."""

    def __init__(self, power: Described, seconds: float = PATIENCE) -> None:
        self.witnesses = described(power)
        self._deadline = Deadline(seconds)
        self._open: dict[str, tuple[contextlib.ExitStack, Controller]] = {}
        self.left: list[str] = []

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_exc: object) -> None:
        for kind in list(self._open):
            self._drop(kind)

    def _drop(self, kind: str) -> None:
        stack, controller = self._open.pop(kind)
        stack.close()
        if getattr(controller, "left_session", ""):
            self.left.append(f"{kind}: a session could not be deleted ({controller.left_session})")  # type: ignore[attr-defined]

    def controller(self) -> Controller | None:
        """The management controller among the witnesses, opened; None where there is none. Raises Refusal or Silent."""
        for one in self.witnesses:
            if one["kind"] in CONTROLLERS:
                return self._opened(one)
        return None

    def _opened(self, witness: Mapping[str, Any]) -> Controller:
        kind = str(witness["kind"])
        if kind not in self._open:
            stack = contextlib.ExitStack()
            self._open[kind] = (stack, stack.enter_context(OPENED[kind](witness, self._deadline)))
        return self._open[kind][1]

    def _one(self, witness: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        kind = str(witness["kind"])
        if kind not in CONTROLLERS:
            return {"docker": _docker, "silence": _silence, "libvirt": _libvirt}[kind](witness)
        try:
            power, detail = self._read(kind, witness)
        except (Refusal, Silent) as exc:
            return "unknown", {"address": str(witness["address"]), "problem": str(exc)}
        if controllers.same_machine(witness, detail, {}) == "no":
            said = f"it shows serial {detail.get('serial')}, uuid {detail.get('uuid')}; the inventory has {witness.get('serial') or witness['uuid']}"
            return "unknown", {**detail, "problem": f"this is the controller of another machine: {said}"}
        return power, detail

    def _read(self, kind: str, witness: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """One reading; a controller that gave no answer is asked once more, over a new session."""
        for last in (False, True):
            try:
                return self._opened(witness).read()
            except (Refusal, Silent) as exc:
                if kind in self._open:
                    self._drop(kind)
                if last or isinstance(exc, Refusal) or self._deadline.over:
                    raise
            time.sleep(AGAIN)
        raise AssertionError("the second try neither answered nor failed")

    def look(self, wanted: str = "") -> dict[str, Any]:
        """What all see now. wanted: no further witness is asked once one has shown anything else than this."""
        seen: dict[str, tuple[str, dict[str, Any]]] = {}
        for one in self.witnesses:
            seen[str(one["kind"])] = self._one(one)
            if wanted and seen[str(one["kind"])][0] != wanted:
                break
        return {**combined(seen), "at": _now()}


def combined(seen: Mapping[str, tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    """One reading out of those of all witnesses. Pure. One that differs, or cannot see, makes the whole unknown."""
    kind = "+".join(seen)
    if len(seen) == 1:
        power, detail = next(iter(seen.values()))
        return {"power": power, "kind": kind, "detail": detail}
    powers = {power for power, _detail in seen.values()}
    whole: dict[str, Any] = {name: {"power": power, **detail} for name, (power, detail) in seen.items()}
    stays = [detail["stays_off"] for _power, detail in seen.values() if "stays_off" in detail]
    if stays:
        whole["stays_off"] = all(stays)
    for _power, detail in seen.values():
        whole.update((name, detail[name]) for name in ("how", "exit_code") if name in detail)
    if len(powers) > 1:
        whole["problem"] = "its witnesses disagree: " + ", ".join(f"{name} says {power}" for name, (power, _detail) in seen.items())
    return {"power": powers.pop() if len(powers) == 1 else "unknown", "kind": kind, "detail": whole}


def read(power: Described) -> dict[str, Any]:
    """What the witnesses see now: {power, kind, detail, at}. Raises Refusal only for a wrong description."""
    with Watch(power) as watch:
        return watch.look()


def switch_on(power: Described) -> str:
    """Switch the host on through the first witness that can, or wake it; the word of what was used. An answer that did not come
    is said with it: what became of the request shows in the next reading."""
    witnesses = described(power)
    for one in witnesses:
        kind = one["kind"]
        if kind == "docker":
            with _engine(one) as api:
                api.start(str(one["container"]))
            return "docker"
        if kind == "libvirt":
            with _domain(one, write=True) as domain:
                domain.create()
            return "libvirt"
        if kind in CONTROLLERS:
            with Watch(power) as used:
                try:
                    controller = used.controller()
                except Silent as exc:
                    raise Refusal(f"{exc}. It was not asked for anything; run the same command again.") from None
                try:
                    return f"{kind} ({controller.ask(controllers.ON) if controller else ''})"
                except Silent as exc:
                    return f"{kind} (no answer: {exc})"
    for one in witnesses:
        if one.get("wake"):
            wake(str(one["wake"]["mac"]), str(one["wake"].get("broadcast") or "255.255.255.255"), int(one["wake"].get("port") or 9))
            return "wake-on-lan"
    raise Refusal(
        "nothing here can switch this host on: its only witness is silence, without an address to wake (wake: {mac: ...}). Power it on "
        "by hand or through its management controller, then run the same command again."
    )


def wake(mac: str, broadcast: str, port: int = 9, times: int = 3) -> None:
    """Send magic packets. Nobody answers them: whether the host wakes is seen only when it is there."""
    octets = bytes.fromhex(re.sub("[:-]", "", mac))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as line:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        for _time in range(times):
            line.sendto(b"\xff" * 6 + octets * 16, (broadcast, port))


# --- libvirt: a host of the estate that is itself a guest

# virDomainState. 4 is on its way down and 7 sleeps: neither is off.
DOMAIN = {0: "unknown", 1: "on", 2: "on", 3: "on", 4: "on", 5: "off", 6: "unknown", 7: "on"}
OFF_REASONS = {1: "by itself", 2: "by force", 3: "by force"}
MOVED = (5, 4)  # shut off, because it runs on another hypervisor now


@contextlib.contextmanager
def _domain(witness: Mapping[str, Any], *, write: bool = False) -> Iterator[Any]:
    """The domain of a witness. Whatever goes wrong with it becomes one Refusal."""
    try:
        import libvirt
    except ImportError as exc:
        raise controllers.needed("libvirt-python", exc) from exc
    # It would otherwise print every error by itself.
    libvirt.registerErrorHandler(lambda _context, _error: None, None)
    name, uri = str(witness["domain"]), str(witness["uri"])
    try:
        line = libvirt.open(uri) if write else libvirt.openReadOnly(uri)
        with contextlib.closing(line):
            yield line.lookupByUUIDString(name) if controllers.uuids(name) else line.lookupByName(name)
    except libvirt.libvirtError as exc:
        raise Refusal(f"libvirt at {uri}, witness of {name}, answered: {controllers.shorten(str(exc))}") from None


def _libvirt(witness: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    name = str(witness["domain"])
    try:
        with _domain(witness) as domain:
            state, reason = domain.state()
            power = DOMAIN.get(state, "unknown")
            detail: dict[str, Any] = {"domain": name, "uuid": domain.UUIDString(), "state": state, "reason": reason}
            if (state, reason) == MOVED:
                power, detail["problem"] = "unknown", f"it was moved away from {witness['uri']}; find out where it runs, and name that one"
            if power == "off":
                detail["how"] = OFF_REASONS.get(reason, "unknown")
                detail["stays_off"] = not domain.autostart()
    except Refusal as exc:
        return "unknown", {"domain": name, "problem": str(exc)}
    return power, detail


# --- docker: the host is a container of the control node's engine (the lab's stand-in for a management controller)


@contextlib.contextmanager
def _engine(witness: Mapping[str, Any]) -> Iterator[Any]:
    """A client of the witness' engine. Whatever goes wrong with it becomes one Refusal."""
    try:
        import docker
        import docker.errors
        from requests.exceptions import RequestException
    except ImportError as exc:
        raise Refusal(f"the docker witness needs the Python package docker ({exc}): pip install docker") from exc
    path = str(witness.get("socket") or DEFAULT_SOCKET)
    try:
        client = docker.APIClient(base_url=f"unix://{path}", version="auto", timeout=int(witness.get("timeout") or 30))
        with contextlib.closing(client):
            yield client
    except docker.errors.APIError as exc:
        raise Refusal(f"the Docker engine at {path}, witness of {witness['container']}, answered: {exc.explanation}") from exc
    except (docker.errors.DockerException, RequestException, OSError) as exc:
        raise Refusal(f"the Docker engine at {path}, witness of {witness['container']}, does not answer: {exc}") from exc


def judge_docker(state: Mapping[str, Any], policy: str) -> tuple[str, dict[str, Any]]:
    """Power and detail from a container's State."""
    status = str(state.get("Status"))
    power = {"running": "on", "paused": "on", "exited": "off", "created": "off"}.get(status, "unknown")
    detail = {
        "status": status,
        "exit_code": state.get("ExitCode"),
        "oom_killed": bool(state.get("OOMKilled")),
        "started": state.get("StartedAt"),
        "finished": state.get("FinishedAt"),
        "restart_policy": policy or "no",
    }
    if power == "off":
        detail["how"] = "by itself" if state.get("ExitCode") in DOCKER_BY_ITSELF else "by force"
        if state.get("ExitCode") not in (*DOCKER_BY_ITSELF, 137):
            detail["how"] = "unknown"
        detail["stays_off"] = (policy or "no") in ("no", "on-failure")
    return power, detail


def _docker(witness: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    name = str(witness["container"])
    try:
        with _engine(witness) as api:
            inspect = api.inspect_container(name)
    except Refusal as exc:
        return "unknown", {"container": name, "problem": str(exc)}
    power, detail = judge_docker(inspect["State"], (inspect["HostConfig"].get("RestartPolicy") or {}).get("Name") or "no")
    return power, {"container": name, "id": inspect["Id"], **detail}


# --- silence: no sign of life for a set time. Weaker than a power state, and called by its name


def judge_silence(rounds: Sequence[Mapping[str, str]], reference: str) -> str:
    """Power from rounds of signs (each: heard, silent, blind). One sign of life is enough for on."""
    signs = [value for one in rounds for value in one.values()]
    if "heard" in signs:
        return "on"
    if not rounds or reference == "silent":
        return "unknown"
    # One silent sign may be a firewall: in every round several must have been able to hear, and heard nothing.
    enough = all(list(one.values()).count("silent") >= SIGNS for one in rounds)
    return "off" if enough else "unknown"


def _tcp(address: str, port: int, timeout: float) -> str:
    try:
        socket.create_connection((address, port), timeout).close()
    except ConnectionError:
        return "heard"  # a refusal is an answer
    except TimeoutError:
        return "silent"
    except OSError as exc:
        return "silent" if exc.errno == errno.EHOSTUNREACH else "blind"
    return "heard"


def _ping(address: str, timeout: float) -> str:
    ping = shutil.which("ping")
    if not ping:
        return "blind"
    done = subprocess.run(
        [ping, "-n", "-c", "1", "-W", str(max(1, round(timeout))), address],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=dict(os.environ, LC_ALL="C"),
        timeout=timeout + 10,
        check=False,
    )
    return {0: "heard", 1: "silent"}.get(done.returncode, "blind")


def _neighbour(address: str, table: str = "/proc/net/arp") -> str:
    """Whether the host answers for its hardware address on the wire; blind where it is behind a router."""
    try:
        with Path(table).open(encoding="ascii") as lines:
            rows = [line.split() for line in lines]
    except OSError:
        return "blind"
    for row in rows[1:]:
        if row[0] == address:
            # 0x2: complete. A complete entry may be old, so it is no sign of life; an incomplete one is silence.
            return "blind" if int(row[2], 16) & 0x2 else "silent"
    return "blind"


def _silence(
    witness: Mapping[str, Any], now: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep
) -> tuple[str, dict[str, Any]]:
    address = str(witness["address"])
    ports = [int(port) for port in witness.get("ports") or [22]]
    length = float(witness.get("seconds") or 20)
    start, rounds = now(), []
    while True:
        one = {f"tcp {port}": _tcp(address, port, 2.0) for port in ports}
        one["icmp"] = _ping(address, 2.0)
        one["arp"] = _neighbour(address)
        rounds.append(one)
        passed = now() - start
        if "heard" in one.values() or passed >= length:
            break
        sleep(min(1.0, max(0.0, length - passed)))
    reference = str(witness.get("reference") or "")
    own = _ping(reference, 2.0) if reference else "none"
    detail = {
        "address": address,
        "seconds": round(now() - start, 1),
        "rounds": len(rounds),
        "last": rounds[-1],
        "reference": reference,
        "reference_answer": own,
    }
    return judge_silence(rounds, own), detail
