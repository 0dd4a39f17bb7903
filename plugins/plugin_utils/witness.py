# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Outside witnesses of a host's power: something other than the host, and other than the call that switched it off.

read() never connects to the host to ask it. Three values: on, off, unknown. A witness that cannot see says unknown.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal

KINDS = ("docker", "silence")
DEFAULT_SOCKET = "/var/run/docker.sock"
# What a container that is a whole host answers: 130 is the kernel's power-off inside a process namespace (PID 1 gets
# SIGINT), 129 its reboot, 0 an init that may not switch off and just ends.
DOCKER_BY_ITSELF = (0, 130)
SIGNS = 2


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def check(witness: Mapping[str, Any]) -> None:
    """Refuse a description that names no usable witness."""
    kind = witness.get("kind")
    needed = {"docker": "container", "silence": "address"}
    if kind not in KINDS:
        raise Refusal(f"witness kind {kind!r} is not known; use one of {', '.join(KINDS)}")
    if not witness.get(needed[kind]):
        raise Refusal(f"witness of kind {kind} needs {needed[kind]}")


def read(witness: Mapping[str, Any]) -> dict[str, Any]:
    """What the witness sees now: {power, kind, detail, at}. Raises Refusal only for a wrong description."""
    check(witness)
    if witness["kind"] == "docker":
        power, detail = _docker(witness)
    else:
        power, detail = _silence(witness)
    return {"power": power, "kind": witness["kind"], "detail": detail, "at": _now()}


def switch_on(witness: Mapping[str, Any]) -> None:
    """Switch the host on through its witness, where the witness is one that can."""
    check(witness)
    if witness["kind"] != "docker":
        raise Refusal(
            "nothing here can switch this host on: its only witness is silence. Power it on by hand or through its "
            "management controller, then run the same command again."
        )
    with _engine(witness) as api:
        api.start(str(witness["container"]))


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
