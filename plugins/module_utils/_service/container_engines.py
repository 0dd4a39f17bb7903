# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The container engines of a host: what brings them back, what goes on without them, and whether their units may be stopped.

Private to the collection; it may change at any time. Valid for Python 3.6. Reads only, and never wakes an engine: one that sleeps behind a
socket would start at the question, and with it every container whose restart policy is always.

An engine that is stopped proves nothing. With live restore Docker's containers run on without it, Podman's always do; so what runs is read
off the processes. And an engine that is stopped comes back: by its socket at the next call, by its unit at boot.
"""

import json
from http.client import HTTPException
from typing import Any, Callable, Dict, Iterable, List, Optional, Set, Tuple

from ansible_collections.sunset.crm.plugins.module_utils._service import idle as service_idle, proc as service_proc, units as service_units

Row = Dict[str, Any]
# Engine -> its units. A socket starts the service at the next call; the runtime below it holds the containers' processes.
UNITS = {
    "docker": ("docker.service", "docker.socket", "containerd.service"),
    "podman": ("podman.service", "podman.socket"),
}
PROCESS = {"docker": "dockerd", "podman": "conmon"}
# Kind of guest, as service_idle has it -> the engine that it belongs to.
KINDS = {"container": "docker", "podman": "podman"}
CONFIG = "/etc/docker/daemon.json"
# Starts Podman's containers at boot by their restart policy. Its own stop command would stop them all, each killed after ten seconds.
RESTARTER = "podman-restart.service"


# --- pure ------------------------------------------------------------------------------------------------------------


def engine_of(unit: str) -> Optional[str]:
    """The engine that a unit belongs to; None for any other unit."""
    return next((name for name in sorted(UNITS) if unit in UNITS[name]), None)


def live_restore(info: Optional[str], config: Optional[str], command: str) -> Tuple[str, str]:
    """(yes, no or unknown; by what) of a Docker engine. info: its own answer, if it runs. config: the text of daemon.json, None if there is
    none. command: the command line that starts it."""
    if info is not None:
        try:
            return ("yes" if json.loads(info)["LiveRestoreEnabled"] else "no"), "the engine's own answer"
        except (ValueError, KeyError, TypeError):
            return "unknown", "the engine's answer cannot be read"
    if "--live-restore=false" in command.split():
        return "no", "the command line of its unit"
    if "--live-restore" in command.split() or "--live-restore=true" in command.split():
        return "yes", "the command line of its unit"
    if config is None:
        return "no", "the default: there is no %s" % CONFIG
    try:
        return ("yes" if json.loads(config).get("live-restore") is True else "no"), CONFIG
    except (ValueError, AttributeError):
        return "unknown", "%s cannot be read" % CONFIG


def ways_back(name: str, units: Dict[str, Row]) -> List[str]:
    """What starts the engine again when it was stopped, in words. units: unit -> {active, unit_file_state}."""
    found = []
    for unit in UNITS[name]:
        state = units.get(unit)
        if state is None:
            continue
        if unit.endswith(".socket") and state["active"] == "active":
            found.append("%s listens: the next call on its socket starts the engine" % unit)
        if state["unit_file_state"].startswith("enabled") and unit != "containerd.service":
            found.append("%s is enabled: it is there again after a boot" % unit)
    return found


def units_of(rows: Dict[str, Dict[str, str]]) -> Dict[str, Row]:
    """The units that exist, of an answer of C(systemctl show)."""
    return {
        unit: {"active": row.get("ActiveState", ""), "unit_file_state": row.get("UnitFileState", "")}
        for unit, row in rows.items()
        if row.get("LoadState") in ("loaded", "masked")
    }


def problem_of_stopping(units: Iterable[str], running: Row, live: str) -> Optional[str]:
    """Why the units of an engine must not be stopped now; None if they may. running: {engine: [what runs]}."""
    concerned = {engine_of(unit): unit for unit in units}
    for name in sorted(running):
        if name not in concerned or not running[name]:
            continue
        if name == "podman" or live == "yes":
            then = "they would run on without their engine (%s), and nobody could ask them to end any more" % (
                "Podman has none that they depend on" if name == "podman" else "live restore is on"
            )
        elif live == "no":
            then = "the engine's own stop would kill each that has not ended after its stop timeout, ten seconds where it has none"
        else:
            then = "it is unknown whether they would be killed or run on without it (live restore)"
        return (
            "%s is the engine of containers that still run: %s; %s. Declare them as a set (kind: container), which is stopped container by "
            "container and needs its engine for that, and take %s out of services" % (concerned[name], ", ".join(running[name]), then, concerned[name])
        )  # fmt: skip
    return None


def left_running(units: Iterable[str], running: Row) -> List[str]:
    """What of these units' engines runs on although they are stopped."""
    concerned = {engine_of(unit) for unit in units}
    return sorted(one for name in running if name in concerned for one in running[name])


# --- the world -------------------------------------------------------------------------------------------------------


def ask_live_restore(read: Callable[..., Any], comms: Set[str]) -> Tuple[str, str]:
    """The same of this host's Docker engine. One that does not run is not asked."""
    info = None
    if PROCESS["docker"] in comms:
        info = ""
        for path in service_idle.docker_sockets():
            try:
                info = service_idle.ask(path, "/info")
                break
            except (OSError, HTTPException, ValueError):
                continue
    answer = read(["systemctl", "show", "--no-pager", "-p", "ExecStart", "docker.service"])
    return live_restore(info, service_proc.read_text(CONFIG), answer.out if answer.rc == 0 else "")


def look(read: Callable[..., Any]) -> Row:
    """{engine: {runs, live_restore, known_by, units, comes_back}} of the engines that are here."""
    comms = {service_proc.command_name(pid) for pid in service_proc.pids()}
    found = {}
    for name in sorted(UNITS):
        units = units_of(service_units.show(read, UNITS[name]))
        runs = PROCESS[name] in comms
        if not runs and UNITS[name][0] not in units:
            continue
        live = ask_live_restore(read, comms) if name == "docker" else ("yes", "Podman's containers need no engine")
        found[name] = {
            "runs": "yes" if runs else "no", "live_restore": live[0], "known_by": live[1], "units": units, "comes_back": ways_back(name, units),
        }  # fmt: skip
    return found


def running(read: Callable[..., Any]) -> Row:
    """{engine: containers that run}, by the processes that hold them; named by the engine where it answers."""
    table, comms = [], set()
    for pid in service_proc.pids():
        if not service_proc.is_zombie(pid):
            comms.add(service_proc.command_name(pid))
            table.append((service_proc.command_name(pid), service_proc.argv_of(pid)))
    named = {row["key"]: row["name"] for row in service_idle.docker_answers(comms, service_idle.docker_sockets())[0]}
    found: Row = {}
    for row in service_idle.processes(table):
        if row["kind"] in KINDS:
            found.setdefault(KINDS[row["kind"]], set()).add(named.get(row["key"], row["name"]))
    return {name: sorted(names) for name, names in found.items()}
