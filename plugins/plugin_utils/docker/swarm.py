# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Services of a swarm as guests: what they are, whether they run, how their tasks ended. Pure.

A service is scaled to zero and its number of replicas put back. Its tasks are no guests: the swarm would start others. The swarm itself
kills a task after the service's own stop grace period; a change of that period would start every task anew, so it is left alone and told.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from ansible_collections.sunset.crm.plugins.plugin_utils.guests.guests import (
    ALREADY_OFF,
    BY_FORCE,
    BY_ITSELF,
    UNKNOWN,
    Ending,
    Guest,
)

SERVICE_ID, SERVICE_NAME, TASK_ID = "com.docker.swarm.service.id", "com.docker.swarm.service.name", "com.docker.swarm.task.id"
OVER = ("complete", "shutdown", "failed", "rejected", "remove")
GRACE = 10.0  # seconds; the swarm's own, where the service says nothing
SETTLE = 10.0  # seconds from a node's report to a new leader until it was told to end what that leader has forgotten; up to 3.3 were seen
KILLED = 137


def is_manager(info: Mapping[str, Any]) -> bool:
    swarm = info.get("Swarm") or {}
    return swarm.get("LocalNodeState") == "active" and bool(swarm.get("ControlAvailable"))


def managers_of(info: Mapping[str, Any]) -> list[str]:
    """The addresses of the swarm's managers, as a node of it knows them."""
    return sorted(str(one.get("Addr")) for one in (info.get("Swarm") or {}).get("RemoteManagers") or () if one.get("Addr"))


def without_quorum(answer: str) -> bool:
    """Whether a manager's refusal says that too few managers are left to decide anything."""
    return any(
        words in answer.lower()
        for words in ("does not have a leader", "too few managers", "lost leader status", "context deadline exceeded")
    )


def names_of(nodes: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Node id -> how people call it, and whether the swarm hears of it: a task on a node that is down is not seen to be gone."""
    return {
        str(node["ID"]): f"{(node.get('Description') or {}).get('Hostname', '?')} "
        f"({(node.get('Status') or {}).get('Addr') or 'no address'}, {(node.get('Status') or {}).get('State', 'unknown')})"
        for node in nodes
    }


def task_refusal(inspect: Mapping[str, Any], manager: bool, label: str, managers: Sequence[str] = ()) -> str:
    """Why a task's container is left alone that no guest of the set speaks for; empty if it is no task's."""
    labels = inspect["Config"].get("Labels") or {}
    name = labels.get(SERVICE_NAME)
    if not name:
        return ""
    if manager:
        return (
            f"the swarm service {name} runs it and would start another, and the service itself does not carry the label: "
            f"docker service update --label-add {label or 'LABEL'} {name} ({SERVICE_NAME}={name})"
        )
    return (
        f"the swarm service {name} runs it and would start another, and this node is no manager that could scale the service to zero; "
        f"declare the set on the host of a manager (managers: {', '.join(managers) or 'unknown'}; {SERVICE_NAME}={name})"
    )


def mode_of(service: Mapping[str, Any]) -> str:
    """Replicated, Global, ReplicatedJob, GlobalJob."""
    return str(next(iter(service["Spec"].get("Mode") or {"Replicated": {}})))


def replicas_of(service: Mapping[str, Any]) -> int:
    mode = service["Spec"].get("Mode") or {}
    # Where a replicated service says no number, it is one.
    return int((mode.get("Replicated") or {}).get("Replicas", 1)) if mode_of(service) == "Replicated" else 0


def state_of(task: Mapping[str, Any]) -> str:
    return str((task.get("Status") or {}).get("State", "unknown"))


def exit_code_of(task: Mapping[str, Any]) -> int | None:
    """The exit code of a task that is over; while it runs, the swarm shows 0 or -1 for it."""
    if state_of(task) not in OVER:
        return None
    code = ((task.get("Status") or {}).get("ContainerStatus") or {}).get("ExitCode")
    return int(code) if code is not None and int(code) >= 0 else None


def active(tasks: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [task for task in tasks if state_of(task) not in OVER]


def unheard(nodes: Iterable[Mapping[str, Any]], *states: str) -> list[str]:
    """Ids of the nodes in one of these states."""
    return sorted(str(node["ID"]) for node in nodes if str((node.get("Status") or {}).get("State", "unknown")) in states)


def grace_of(service: Mapping[str, Any]) -> float:
    """Seconds that a task has between its stop signal and its being killed."""
    grace = ((service["Spec"].get("TaskTemplate") or {}).get("ContainerSpec") or {}).get("StopGracePeriod")
    return float(grace) / 1e9 if grace is not None else GRACE


def waiting_for(service: Mapping[str, Any], nodes: Iterable[Mapping[str, Any]], reports: Mapping[str, float]) -> list[str]:
    """Ids of the nodes that may run tasks of this service which the swarm does not know.

    A new leader has heard of no node, and forgets the tasks of a service at zero before it has; they run on until their node has
    reported, was told and has ended them (seen with 20.10: ready, no task listed, and the container running 3.3 s longer).
    reports: node -> seconds since the swarm's record of it changed last; a node that joins or reports to a new leader changes it.
    """
    settling = grace_of(service) + SETTLE
    fresh = [one for one in nodes if reports.get(str(one["ID"]), settling) < settling]
    return sorted({*unheard(nodes, "unknown"), *unheard(fresh, "ready")})


def forgotten(
    before: Iterable[Mapping[str, Any]], now: Iterable[Mapping[str, Any]], nodes: Iterable[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """Tasks of an earlier answer that ran then and that nobody lists any more, on nodes of which nothing is heard: as they were seen last."""
    silent, listed = set(unheard(nodes, "unknown", "down", "disconnected")), {task["ID"] for task in now}
    return [task for task in active(before) if task["ID"] not in listed and task.get("NodeID") in silent]


def power_of(service: Mapping[str, Any], tasks: Sequence[Mapping[str, Any]], waiting: Collection[str] = ()) -> str:
    """off only where nothing is wanted and nothing is there. A task on a node that was lost may still run there.

    waiting: nodes that may run what the swarm does not know (waiting_for).
    """
    left = active(tasks)
    if any(state_of(task) == "orphaned" for task in left):
        return "unknown"
    if any(state_of(task) == "running" for task in left):
        return "on"
    return "changing" if left or replicas_of(service) or waiting else "off"


def refusal_of(service: Mapping[str, Any], power: str) -> str:
    """Why this service is left alone; empty if it can be scaled, or is over."""
    name, mode = service["Spec"]["Name"], mode_of(service)
    if power == "off" or mode == "Replicated":
        return ""
    if mode == "Global":
        return (
            "it is a global service, which cannot be scaled to zero; give it a constraint that no node meets "
            f"(docker service update --constraint-add node.labels.sunset==never {name}) and take that away again at a resume"
        )
    return (
        f"it is a job ({mode}), which ends by itself; wait for its end, or remove it (docker service rm {name}) and take it out of the plan"
    )


def left_of(places: Sequence[str], waiting: Sequence[str]) -> str:
    """What stands between a service and its being off, for people; empty if nothing does."""
    if places:
        return f"tasks on {', '.join(places)}"
    return f"nothing is listed, and what {', '.join(waiting)} ran may not have ended yet" if waiting else ""


def record_of(
    service: Mapping[str, Any],
    tasks: Sequence[Mapping[str, Any]],
    nodes: Mapping[str, str],
    waiting: Collection[str],
    down: Collection[str],
) -> dict[str, Any]:
    """What goes into the evidence of one service. Its environment does not."""
    container = (service["Spec"].get("TaskTemplate") or {}).get("ContainerSpec") or {}
    left = active(tasks)
    running = sum(state_of(task) == "running" for task in left)
    places = sorted({nodes.get(task["NodeID"], task["NodeID"]) for task in left if task.get("NodeID")})
    return {
        "id": service["ID"],
        "version": (service.get("Version") or {}).get("Index"),
        "mode": mode_of(service),
        "replicas": replicas_of(service),
        "status": f"{running} of {replicas_of(service)} tasks run" if left or replicas_of(service) else "no task",
        "image": container.get("Image", ""),
        "grace": grace_of(service),
        "tasks": [
            {"id": task["ID"], "node": nodes.get(task.get("NodeID", ""), task.get("NodeID", "")), "state": state_of(task)} for task in left
        ],
        # Nothing is wanted any more: whoever asked for that need not ask again.
        "coming_down": bool(left or waiting) and mode_of(service) == "Replicated" and not replicas_of(service),
        # Nobody can say what runs there; what is recorded of their tasks counts.
        "nodes_down": [nodes.get(node, node) for node in down],
        "left": left_of(places, sorted(nodes.get(node, node) for node in waiting)),
        "former": {"replicas": replicas_of(service)},
    }


def guest_of(
    service: Mapping[str, Any],
    tasks: Sequence[Mapping[str, Any]],
    nodes: Sequence[Mapping[str, Any]] = (),
    reports: Mapping[str, float] | None = None,
) -> Guest:
    """reports: as of waiting_for."""
    waiting = waiting_for(service, nodes, reports or {})
    power = power_of(service, tasks, waiting)
    return Guest(
        key=service["ID"],
        name=str(service["Spec"]["Name"]),
        power=power,
        refusal=refusal_of(service, power),
        record=record_of(service, tasks, names_of(nodes), waiting, unheard(nodes, "down", "disconnected")),
    )


def scaled(service: Mapping[str, Any], replicas: int) -> dict[str, Any]:
    """The specification of the service as it is, with another number of replicas."""
    return {**service["Spec"], "Mode": {"Replicated": {"Replicas": replicas}}}


def ending_of(before: Guest, forced: bool, exits: Mapping[str, int], killed: Collection[str]) -> Ending:
    """How the tasks of a service ended. exits: task -> exit code, as far as engine and swarm told. killed: tasks that the engine killed.

    What ran on another node and was cleared away before the swarm told its exit code stays unknown.
    """
    if before.power == "off" or not (before.record["tasks"] or before.record["replicas"]):
        down = before.record.get("nodes_down")
        silent = f"; of {', '.join(down)} nothing is heard" if down else ""
        return Ending(ALREADY_OFF, "unknown", f"no task, and nobody asked how the last one ended{silent}")
    tasks = [task["id"] for task in before.record["tasks"]]
    known = {task: exits[task] for task in tasks if task in exits}
    codes = ", ".join(str(code) for code in sorted(set(known.values())))
    grace = before.record["grace"]
    by_engine = [task for task in tasks if known.get(task, KILLED if task in killed else 0) == KILLED]
    if by_engine:
        who = "this module" if forced else f"the swarm after the service's own stop grace period of {grace:g} s"
        sure = "" if all(task in killed for task in by_engine) else ", or from outside, or it is the program's own number"
        return Ending(BY_FORCE, "no", f"{len(by_engine)} of {len(tasks)} tasks with exit code 137, killed by {who}{sure}")
    if len(known) < len(tasks):
        lost = len(tasks) - len(known)
        return Ending(UNKNOWN, "unknown", f"{lost} of {len(tasks)} tasks were cleared away before the swarm told their exit code")
    return Ending(BY_ITSELF, "yes", f"{len(tasks)} tasks, exit code {codes}" if tasks else "no task had started")
