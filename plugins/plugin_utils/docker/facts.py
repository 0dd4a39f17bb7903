# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a container engine's answers say of a container: who owns it, what it stands on, how it ended. Pure."""

from __future__ import annotations

import datetime
import signal
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ansible_collections.sunset.crm.plugins.module_utils._survey import foreign as survey_foreign
from ansible_collections.sunset.crm.plugins.plugin_utils.docker import podman as docker_podman, swarm as docker_swarm
from ansible_collections.sunset.crm.plugins.plugin_utils.guests.guests import (
    ALREADY_OFF,
    BY_FORCE,
    BY_ITSELF,
    UNKNOWN,
    Ending,
    Guest,
)

# On what a proof starts: which item it is for.
PROOF = "org.sunset-crm.proof"
NEVER = "0001-01-01T00:00:00Z"
KILLED = 137
# What an engine writes of a container whose end it did not see (it was killed, its host lost power).
UNSEEN = (255, -1)
# 128 and the number of a signal that no one sends for an orderly end: ILL, TRAP, ABRT, BUS, FPE, SEGV.
CRASHED = (132, 133, 134, 135, 136, 139)
RESTART_NO = {"Name": "no", "MaximumRetryCount": 0}
POWER = {
    "running": "on",
    "paused": "paused",
    "restarting": "changing",
    "created": "off",
    "exited": "off",
    # Podman's own.
    "stopping": "on",
    "configured": "off",
    "initialized": "off",
    "stopped": "off",
    "dead": "unknown",
    "removing": "unknown",
}
# Who else believes to own the container, by the label that it leaves on it.
OWNERS = {
    "io.kubernetes.pod.name": f"Kubernetes runs it; {survey_foreign.INSTEAD['kubernetes']}, and have that attested (scripts/statement attest)",
    "com.hashicorp.nomad.alloc_id": "Nomad runs it and would start another; stop its job (nomad job stop NAME), then survey again",
}


def policy_of(inspect: Mapping[str, Any]) -> dict[str, Any]:
    """The restart policy in one form; engines write the absent one in two ways."""
    policy = inspect["HostConfig"].get("RestartPolicy") or {}
    return {"Name": policy.get("Name") or "no", "MaximumRetryCount": int(policy.get("MaximumRetryCount") or 0)}


def needs_of(inspect: Mapping[str, Any], services: Mapping[str, Sequence[str]], ids: Mapping[str, str]) -> frozenset[str]:
    """Names of the containers that this one stands on: Compose dependencies, links, shared network, shared volumes.

    services: Compose service to names of its containers. ids: container id to name.
    """
    labels = inspect["Config"].get("Labels") or {}
    host = inspect["HostConfig"]
    found: set[str] = set()
    for entry in (labels.get("com.docker.compose.depends_on") or "").split(","):
        found.update(services.get(f"{labels.get('com.docker.compose.project', '')}/{entry.split(':')[0].strip()}", ()))
    for link in host.get("Links") or ():
        found.add(link.split(":")[0].lstrip("/"))
    other = str(host.get("NetworkMode") or "")
    if other.startswith("container:"):
        found.add(ids.get(other.partition(":")[2], other.partition(":")[2]))
    for source in host.get("VolumesFrom") or ():
        found.add(ids.get(source.split(":")[0], source.split(":")[0]))
    return frozenset(found - {name_of(inspect)})


def name_of(inspect: Mapping[str, Any]) -> str:
    return str(inspect["Name"]).lstrip("/")


def refusal_of(
    inspect: Mapping[str, Any], held_units: Iterable[str] = (), manager: bool = False, label: str = "", managers: Sequence[str] = ()
) -> str:
    """Why this container is left alone; empty if it can be handled.

    held_units: systemd units of this host that the plan has stopped and holds off. manager: the engine manages a swarm. managers: the addresses
    of those that do.
    """
    labels = inspect["Config"].get("Labels") or {}
    owned = docker_swarm.task_refusal(inspect, manager, label, managers) or docker_podman.unit_refusal(inspect, frozenset(held_units))
    if owned:
        return owned
    for label, why in OWNERS.items():
        if labels.get(label):
            return f"{why} ({label}={labels[label]})"
    status = inspect["State"]["Status"]
    if status in ("dead", "removing"):
        return f"it is {status}, half removed; finish the removal (docker rm) or restart the engine, then survey again"
    if inspect["HostConfig"].get("AutoRemove") and POWER.get(status) != "off":
        return (
            "it was started with --rm and would vanish with its anonymous volumes when it ends; take what must be kept "
            "out of it, let it end by hand, and take it out of the plan"
        )
    return ""


def record_of(inspect: Mapping[str, Any]) -> dict[str, Any]:
    """What goes into the evidence of one container. Its environment does not: passwords live there."""
    state, config = inspect["State"], inspect["Config"]
    return {
        "id": inspect["Id"],
        "status": state["Status"],
        "exit_code": state["ExitCode"],
        "oom_killed": bool(state["OOMKilled"]),
        "started": state["StartedAt"],
        "finished": state["FinishedAt"],
        "restarts": int(inspect.get("RestartCount") or 0),
        "coming_down": state["Status"] == "stopping",
        "health": (state.get("Health") or {}).get("Status", ""),
        "policy": policy_of(inspect),
        "image": config["Image"],
        "image_id": inspect["Image"],
        "stop_signal": config.get("StopSignal") or "SIGTERM",
        "stop_timeout": config.get("StopTimeout"),
        "mounts": [
            {"type": m["Type"], "name": m.get("Name", ""), "source": m.get("Source", ""), "to": m["Destination"], "rw": m["RW"]}
            for m in inspect.get("Mounts") or ()
        ],
    }


def ending_of(before: Guest, after: Guest, asked: bool, forced: bool, signals: Sequence[str]) -> Ending:
    """How a container ended. signals: those the engine delivered to it since the request, as it reports them.

    Exit code 137 says "killed" and no more: by whom, or whether the program chose that number, only the engine's
    events can tell; where they are silent it stays unknown.
    """
    now = after.record
    code = now["exit_code"]
    shown = f"exit code {code}"
    if now["oom_killed"]:
        return Ending(ALREADY_OFF if before.power == "off" else BY_FORCE, "no", f"{shown}, out of memory")
    if before.power == "off":
        if not ended_since(now):
            return Ending(ALREADY_OFF, "unknown", "it was started, and its engine did not see how it ended")
        if now["finished"] == NEVER:
            return Ending(ALREADY_OFF, "yes", "it never ran")
        return Ending(ALREADY_OFF, "unknown" if code == KILLED or unclear_of(code) else "yes", shown + unclear_of(code))
    if unclear_of(code) and not (forced and code in UNSEEN):
        return Ending(UNKNOWN, "unknown", shown + unclear_of(code))
    if code not in (KILLED, *UNSEEN):
        if code == 143:
            shown += ", ended by the signal without handling it"
        return Ending(BY_ITSELF, "yes", shown if asked else f"{shown}, before it was asked")
    if forced:
        return Ending(BY_FORCE, "no", f"{shown}, killed by this module")
    if signal_number(before.record.get("stop_signal")) == signal.SIGKILL and asked:
        return Ending(BY_FORCE, "no", f"{shown}, killed: its own stop signal is SIGKILL, so it cannot end by itself")
    if signal.SIGKILL in {signal_number(one) for one in signals}:
        return Ending(BY_FORCE, "no", f"{shown}, killed through the engine by somebody else")
    return Ending(UNKNOWN, "unknown", f"{shown}, and the engine knows of no kill: killed from outside it, or its own number")


def ended_since(record: Mapping[str, Any]) -> bool:
    """Whether the engine saw an end of what it started last: Podman forgets it when it takes a cleared folder for a reboot."""
    started, finished = str(record.get("started") or NEVER), str(record["finished"])
    if NEVER in (started, finished):
        return started == NEVER
    return seconds_of(finished) >= seconds_of(started)


def unclear_of(code: int) -> str:
    """What leaves open how a container ended, beside a kill; empty where its exit code is its own last word."""
    if code in UNSEEN:
        return ", which an engine also writes where it did not see the end"
    return ", a crash or its own number" if code in CRASHED else ""


def signal_number(name: Any) -> int:
    """15 of 15, TERM and SIGTERM; 0 where it is none that this machine knows."""
    text = str(name).upper()
    if text.isdigit():
        return int(text)
    found = signal.Signals.__members__.get(text if text.startswith("SIG") else f"SIG{text}")
    return int(found) if found else 0


def seconds_of(stamp: str) -> float:
    """An engine's time stamp: nanoseconds, and any time zone; more than fromisoformat reads."""
    whole, zone = stamp[:19], stamp[19:].lstrip(".0123456789")
    return datetime.datetime.fromisoformat(whole + (zone or "Z")).timestamp()


def gone_with_unit(name: str, one: Mapping[str, Any]) -> Guest:
    """A container that its unit made, and removed when it was stopped: what the plan knows of it."""
    unit = str(one["unit"])
    record = {
        "id": one["id"],
        "status": "removed by its unit",
        "gone_with_unit": True,
        "unit": unit,
        "image": one.get("image", ""),
        "image_id": one.get("image_id", ""),
        "former": {"unit": unit},
    }
    return Guest(str(one["id"]), name, "off", record=record)


def image_name(item: str) -> str:
    """An item's name as a repository name takes it: small letters, digits, single separators."""
    name = item.partition(":")[2] or item
    kept = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in name.lower())
    return "-".join(part for part in kept.split("-") if part) or "unnamed"
