# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A container engine as it is seen: its containers and services as guests, its signals, what it keeps where. Changes nothing.

The engine is reached by its unix socket, here or through the relay.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Self, TypeVar

from ansible_collections.sunset.crm.plugins.plugin_utils.docker import podman as docker_podman, swarm as docker_swarm
from ansible_collections.sunset.crm.plugins.plugin_utils.docker.facts import (
    POWER,
    PROOF,
    gone_with_unit,
    name_of,
    needs_of,
    policy_of,
    record_of,
    refusal_of,
    seconds_of,
)
from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.guests.guests import Guest

try:
    import requests.exceptions

    import docker
    import docker.errors
except ImportError as exc:
    MISSING: str | None = str(exc)
else:
    MISSING = None

HTTP_TIMEOUT = 60
T = TypeVar("T")
# What only reads, and what may be said twice, is said again for so long: an engine that is restarted is back by then.
PATIENCE, PAUSE = 45.0, 0.5  # seconds


class Silence(Refusal):
    """The engine gave no answer that can be read."""


class Reader:
    """One engine, one label. Guests outside the label are not even read, nor are those named in `others`.

    held_units: systemd units of the host that the plan has stopped and holds off. owned: containers (name -> id, unit, image) that such a
    unit removes when it stops. asked: requests of earlier runs (name -> life). owners: asks the host which unit holds a process.
    """

    def __init__(
        self,
        address: str,
        label: str,
        timeout: int = HTTP_TIMEOUT,
        way: Any = None,
        others: Iterable[str] = (),
        held_units: Iterable[str] = (),
        owned: Mapping[str, Mapping[str, Any]] | None = None,
        asked: Mapping[str, Mapping[str, Any]] | None = None,
        owners: Callable[[list[int]], dict[int, str]] | None = None,
    ) -> None:
        if MISSING:
            raise Refusal(f"the control node needs the Python package docker for this ({MISSING}): pip install docker")
        if not label.strip() or label.startswith("="):
            raise Refusal("label is empty; without one every container of the engine would be taken. Give key=value.")
        self.label, self.what = label, f"containers with the label {label}"
        self._others = set(others)
        self._held_units = frozenset(held_units)
        self._owned = {name: one for name, one in (owned or {}).items() if one.get("unit") in self._held_units}
        self._find_owners = owners
        self._asked = {name: str(one.get("life")) for name, one in (asked or {}).items()}
        self._way = way  # the relay, for its complaint when the engine does not answer
        self.known_services: dict[str, dict[str, Any]] = {}
        self._nodes: list[dict[str, Any]] = []
        self._clock: float | None = None  # the engine's, less this machine's monotonic one
        self._reports: dict[str, float] = {}
        self._running_here: set[str] = set()
        self._task_ends: dict[str, int] = {}
        self._pods: dict[str, str] = {}
        self.calls = 0
        with self.errors():
            self.api = docker.APIClient(base_url=f"unix://{address}", version="auto", timeout=timeout)
            self.api.hooks["response"].append(self._count)
            self.version: dict[str, Any] = self.api.version()
            self.info: dict[str, Any] = self.api.info()
        self.podman = docker_podman.is_podman(self.version)
        self.manager = docker_swarm.is_manager(self.info)

    def _count(self, *_answer: Any, **_rest: Any) -> None:
        self.calls += 1

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self.api.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    @contextlib.contextmanager
    def errors(self, what: str = "") -> Iterator[None]:
        about = f"{what}: " if what else ""
        try:
            yield
        except docker.errors.APIError as exc:
            raise Refusal(f"{about}the Docker engine answered {exc.status_code}: {exc.explanation}") from exc
        except (docker.errors.DockerException, requests.exceptions.RequestException, OSError, ValueError) as exc:
            complaint = self._way.problem() if self._way is not None else ""
            raise Silence(f"{about}the Docker engine does not answer: {complaint or exc}") from exc

    def sure(self, what: str, call: Callable[[], T]) -> T:
        """The answer to what may be asked twice, asked again while the engine does not answer."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                with self.errors(what):
                    return call()
            except Silence:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(PAUSE)

    def tools(self) -> dict[str, str]:
        """Versions, and what of the engine bears on what its silence means: with live restore, containers run on while it is down."""
        return {
            "podman" if self.podman else "docker engine": str(self.version.get("Version", "?")),
            "docker api": str(self.api.api_version),
            "docker sdk": str(docker.__version__),
            "live restore": "yes" if self.info.get("LiveRestoreEnabled") else "no",
            "swarm": "manager" if self.manager else str((self.info.get("Swarm") or {}).get("LocalNodeState") or "inactive"),
            "rootless": "yes" if any("rootless" in str(one) for one in self.info.get("SecurityOptions") or ()) else "no",
        }

    def host(self) -> dict[str, Any]:
        return {}

    # --- reading

    def _read_services(self) -> None:
        """The services of the set with their tasks, where this engine manages a swarm."""
        if not self.manager:
            return
        found = self.of_swarm("services", lambda: self.api.services(filters={"label": self.label}))  # type: ignore[no-untyped-call]
        found = [one for one in found if one["Spec"]["Name"] not in self._others]
        # Before the tasks: of a node that is heard of by then, they are what runs.
        self._nodes = self.of_swarm("nodes", lambda: self.api.nodes()) if found else []  # type: ignore[no-untyped-call]
        tasks = self.of_swarm("tasks", lambda: self.api.tasks(filters={"service": [one["ID"] for one in found]})) if found else []  # type: ignore[no-untyped-call]
        earlier = [task for one in self.known_services.values() for task in one["tasks"]]
        tasks += docker_swarm.forgotten(earlier, tasks, self._nodes)
        self.known_services = {one["ID"]: {**one, "tasks": [task for task in tasks if task["ServiceID"] == one["ID"]]} for one in found}
        for task in tasks:
            code = docker_swarm.exit_code_of(task)
            if code is not None:
                self._task_ends[task["ID"]] = code
        # Asked only when it decides: while tasks are listed, the next answer may be the only one that tells how they ended.
        if found and not all(docker_swarm.active(one["tasks"]) for one in self.known_services.values()):
            self._read_reports()

    def _read_reports(self) -> None:
        if self._clock is None:
            self._clock = self._time() - time.monotonic()
        now = self._clock + time.monotonic()
        # Of clocks that differ, one that is behind the leader's makes a report look younger, and the wait longer.
        self._reports = {one["ID"]: now - seconds_of(str(one["UpdatedAt"])) for one in self._nodes if one.get("UpdatedAt")}
        # Of this node the engine itself is the better witness.
        rows = self.sure("", lambda: self.api.containers(filters={"label": docker_swarm.SERVICE_ID}))
        self._running_here = {row["Labels"][docker_swarm.SERVICE_ID] for row in rows}

    def _reports_for(self, service: Mapping[str, Any]) -> dict[str, float]:
        """Node -> seconds since its report; this one's counts as just made while a task of the service runs here, else as long ago."""
        here = str((self.info.get("Swarm") or {}).get("NodeID"))
        return {**self._reports, here: 0.0 if service["ID"] in self._running_here else math.inf}

    def of_swarm(self, what: str, call: Callable[[], T]) -> T:
        """An answer that only managers with a majority can give."""
        try:
            return self.sure(what, call)
        except Silence:
            raise
        except Refusal as exc:
            if not docker_swarm.without_quorum(str(exc)):
                raise
            known = ", ".join(docker_swarm.managers_of(self.info)) or "none that this one knows"
            raise Refusal(
                f"the swarm has no quorum: more than half of its managers ({known}) must be up before anybody can tell what runs in it, or stop it. "
                f"Bring them back, then run the same command again; do not force a new cluster from one manager while tasks run on the nodes of the "
                f"others. ({exc})"
            ) from exc

    def _list(self) -> list[dict[str, Any]]:
        rows = self.sure("", lambda: self.api.containers(all=True, filters={"label": self.label}))
        return [row for row in rows if not self._not_mine(row)]

    def _not_mine(self, row: Mapping[str, Any]) -> bool:
        """Another item's, or a task of a service that is a guest of its own."""
        labels = row.get("Labels") or {}
        names = {str(name).lstrip("/") for name in row.get("Names") or ()} | {labels.get(docker_swarm.SERVICE_NAME)}
        return bool(labels.get(PROOF)) or bool(self._others & names) or labels.get(docker_swarm.SERVICE_ID) in self.known_services

    def inspect(self, key: str) -> dict[str, Any] | None:
        def read() -> dict[str, Any] | None:
            try:
                return dict(self.api.inspect_container(key))
            except docker.errors.NotFound:
                return None

        return self.sure(key[:12], read)

    def inspects(self) -> list[dict[str, Any]]:
        """All of the set; one that vanished between list and inspection is left out, as if listed a moment later."""
        self._read_services()
        keys = [row["Id"] for row in self._list()]
        self._pods = {}
        if self.podman:
            infra, self._pods = docker_podman.infra_ids(self._libpod_list(), keys)
            keys += [key for key in infra if key not in keys]
        seen = [one for one in (self.inspect(key) for key in keys) if one is not None]
        if self.podman:
            self._note_units(seen)
        return sorted(seen, key=name_of)

    def _note_units(self, inspects: list[dict[str, Any]]) -> None:
        """The units of containers that carry no label of one: as the plan knows them, else as the host shows them."""
        bare = [one for one in inspects if not docker_podman.unit_of(one)]
        for one in bare:
            known = self._owned.get(name_of(one)) or {}
            if known.get("id") == one["Id"]:
                one[docker_podman.FOUND] = known["unit"]
        pids = [int(one["State"].get("Pid") or 0) for one in bare if docker_podman.FOUND not in one]
        found = self._find_owners(pids) if self._find_owners and any(pids) else {}
        for one in bare:
            if int(one["State"].get("Pid") or 0) in found:
                one[docker_podman.FOUND] = found[int(one["State"]["Pid"])]

    def services(self) -> dict[str, str]:
        """The services of the set as they were read last, name to id."""
        return {str(one["Spec"]["Name"]): key for key, one in self.known_services.items()}

    def _libpod_list(self) -> list[dict[str, Any]]:
        """All containers with their pods, which the compatible answers leave out."""

        def read() -> list[dict[str, Any]]:
            answer = self.api.get(f"{self.api.base_url}/v4.0.0/libpod/containers/json", params={"all": "true"})
            answer.raise_for_status()
            return list(answer.json() or [])

        return self.sure("pods", read)

    def observe(self) -> list[Guest]:
        inspects = self.inspects()
        services: dict[str, list[str]] = {}
        for one in inspects:
            labels = one["Config"].get("Labels") or {}
            if labels.get("com.docker.compose.service"):
                service = f"{labels.get('com.docker.compose.project', '')}/{labels['com.docker.compose.service']}"
                services.setdefault(service, []).append(name_of(one))
        ids = {one["Id"]: name_of(one) for one in inspects}
        seen = [self._guest(one, needs_of(one, services, ids)) for one in inspects]
        seen += [docker_swarm.guest_of(one, one["tasks"], self._nodes, self._reports_for(one)) for one in self.known_services.values()]
        there = {guest.name for guest in seen}
        seen += [gone_with_unit(name, one) for name, one in self._owned.items() if name not in there]
        return sorted(seen, key=lambda guest: guest.name)

    def _guest(self, inspect: Mapping[str, Any], needs: frozenset[str]) -> Guest:
        policy, unit = policy_of(inspect), docker_podman.unit_of(inspect)
        managers = docker_swarm.managers_of(self.info)
        refusal = refusal_of(inspect, self._held_units, self.manager, self.label, managers) or self._pods.get(inspect["Id"], "")
        former: dict[str, Any] = {"policy": policy}
        returns = "" if policy["Name"] == "no" else f"restart policy {policy['Name']}"
        if self.podman:
            refusal = refusal or ("" if unit else docker_podman.policy_refusal(policy["Name"], self._held_units))
            # It stays as it is, and nothing heeds it once the container was stopped and the unit that starts at boot is held off.
            returns = ""
        if unit:
            former["unit"] = unit
        return Guest(
            key=inspect["Id"],
            name=name_of(inspect),
            power=POWER.get(inspect["State"]["Status"], "unknown"),
            returns=returns,
            needs=needs,
            refusal=refusal,
            record={**record_of(inspect), "former": former},
        )

    def powers(self) -> dict[str, str]:
        self._read_services()
        seen = {row["Id"]: POWER.get(row["State"], "unknown") for row in self._list()}
        for key, one in self.known_services.items():
            waiting = docker_swarm.waiting_for(one, self._nodes, self._reports_for(one))
            seen[key] = docker_swarm.power_of(one, one["tasks"], waiting)
        if self.podman:
            # The infra container of a pod carries no label.
            seen |= {row["Id"]: POWER.get(row["State"], "unknown") for row in self._libpod_list() if row.get("IsInfra")}
        return seen

    def recall(self, former: Mapping[str, Mapping[str, Any]]) -> None:
        """Nothing: a container that is off is still there, and how it ended with it."""

    def brief(self, guest: Guest) -> dict[str, Any]:
        keys = ("status", "exit_code", "oom_killed", "started", "finished", "policy", "replicas", "mode", "grace", "tasks", "unit")
        return {key: guest.record[key] for key in keys if key in guest.record}

    def keep(self, guest: Guest) -> dict[str, Any]:
        """A service that comes down to zero already is off, for a resume."""
        return {"power": "off"} if "replicas" in guest.record and guest.record["coming_down"] else {}

    def life(self, guest: Guest) -> str:
        if "replicas" in guest.record:
            return f"{guest.record['replicas']} replicas, version {guest.record['version']}"
        return str(guest.record.get("started", ""))

    def _time(self) -> float:
        """The engine's own clock: its events are stamped by it."""
        return seconds_of(self.sure("", lambda: str(self.api.info()["SystemTime"])))

    def _signals(self, guest: Guest) -> list[str]:
        """The signals that the engine delivered to this life of a container, from its own short memory."""
        since = int(seconds_of(guest.record["started"]))
        # An end is given: without it the engine would go on sending for ever.
        until = int(self._time()) + 1
        filters = {"container": guest.key, "event": "kill"}

        def read() -> list[str]:
            events = self.api.events(since=since, until=until, filters=filters, decode=True)
            return [str(event["Actor"]["Attributes"].get("signal", "")) for event in events]

        return self.sure(guest.name, read)
