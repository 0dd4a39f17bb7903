# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a container engine's silence and its return mean: it may sleep behind a socket, run containers that do not need it, and come back."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from typing import Any

from ansible_collections.sunset.crm.plugins.plugin_utils import relay
from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal

# Each listening socket of systemd with its units; the path as the kernel knows it, and the state of the service behind it.
LOOK = (
    "printf %s {marker}; echo; path=$(readlink -f {path}); "
    "systemctl list-sockets --no-legend --no-pager --full 2>/dev/null | while read -r listen unit service rest; do "
    'if [ "$listen" = "$path" ]; then echo "$unit $service $(systemctl is-active "$service")"; fi; done; true'
)
# Starting it starts no container: it answers a call and ends again.
HARMLESS = ("podman.service",)


def asleep(answer: str) -> tuple[str, str] | None:
    """(socket unit, service) of an engine that is down and would be started by a call on its socket. Pure."""
    for line in answer.splitlines():
        parts = line.split()
        if len(parts) == 3 and parts[2] in ("inactive", "failed") and parts[1] not in HARMLESS:
            return parts[0], parts[1]
    return None


# The parent of each process, and the main process of each running service: a container's unit has its conmon as the main process.
OWNERS = (
    "printf %s {marker}; echo; for pid in {pids}; do echo \"$pid $(sed 's/.*) //' /proc/$pid/stat 2>/dev/null | cut -d' ' -f2)\"; done; echo; "
    "systemctl show --no-pager -p Id,MainPID '*.service' 2>/dev/null; true"
)


def owners_in(answer: str) -> dict[int, str]:
    """Process of a container -> the systemd unit whose main process holds it. Pure."""
    mains: dict[str, str] = {}
    for block in answer.split("\n\n"):
        told = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        if told.get("MainPID", "0") != "0":
            mains[told["MainPID"]] = told.get("Id", "")
    rows = [line.split() for line in answer.splitlines() if "=" not in line]
    return {int(row[0]): mains[row[1]] for row in rows if len(row) == 2 and row[1] in mains}


def owners(reach: relay.Reach, pids: Iterable[int]) -> dict[int, str]:
    """The same, of a host."""
    wanted = sorted({pid for pid in pids if pid > 0})
    if not wanted:
        return {}
    line = OWNERS.format(marker=shlex.quote(relay.MARKER.decode().rstrip()), pids=" ".join(map(str, wanted)))
    return owners_in(relay.call(reach, line, timeout=60).decode("utf-8", "replace"))


def check_awake(reach: relay.Reach, path: str) -> None:
    """Raises Refusal for an engine that sleeps: to ask it anything would start it, and each container whose restart policy is always."""
    line = LOOK.format(marker=shlex.quote(relay.MARKER.decode().rstrip()), path=shlex.quote(path))
    found = asleep(relay.call(reach, line, timeout=60).decode("utf-8", "replace"))
    if found:
        raise Refusal(
            f"{reach.name}: the engine {found[1]} is down and {found[0]} listens in its place: to ask it anything would start it, and with it every "
            f"container whose restart policy is always. Nothing was asked. Start it on purpose (systemctl start {found[1]}), then run the same "
            "command again"
        )


def standing(tools: Mapping[str, str], engines: Mapping[str, Mapping[str, Any]], podman: bool) -> dict[str, Any]:
    """What keeps the containers from coming back, and what does not: for the evidence. Pure.

    tools: of the engine, asked now. engines: what the survey saw of the host's engines.
    """
    name = "podman" if podman else "docker"
    comes_back = list((engines.get(name) or {}).get("comes_back") or [])
    outlives = "yes" if podman else tools["live restore"]
    said = {
        "yes": "containers run on while the engine is down, so its silence proves nothing",
        "no": "containers end with the engine",
    }
    return {
        "name": name,
        "live_restore": outlives,
        "means": said[outlives],
        "comes_back": comes_back if name in engines else ["unknown: the survey says nothing of its units"],
        "then": "an engine that comes back starts none of them: their restart policy is no"
        if not podman
        else "none of them is started by it; what starts containers at boot or runs them as services is held off",
    }
