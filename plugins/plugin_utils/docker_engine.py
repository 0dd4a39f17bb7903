# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Containers of a Docker engine as guests: the backend that the core in guests.py drives.

The engine is reached by its unix socket, here or through the relay. Requests are signals with no wait: the engine's own
stop call kills after its timeout, which is a decision that is not the engine's.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from ansible_collections.sunset.crm.plugins.plugin_utils import docker_podman, docker_swarm
from ansible_collections.sunset.crm.plugins.plugin_utils.docker_facts import (
    KILLED,
    POWER,
    PROOF,
    RESTART_NO,
    ending_of,
    gone_with_unit,
    image_name,
    name_of,
    needs_of,
    policy_of,
    record_of,
    refusal_of,
    seconds_of,
    signal_number,
)
from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.guests import ALREADY_OFF, LOST, Ending, Guest

try:
    import docker
    import docker.errors
    import requests.exceptions
except ImportError as exc:
    MISSING: str | None = str(exc)
else:
    MISSING = None

HTTP_TIMEOUT = 60
T = TypeVar("T")
SAVED = "org.sunset-crm.saved"


UPDATE_TRIES = 20
UPDATE_PAUSE = 0.25  # seconds
# What only reads, and what may be said twice, is said again for so long: an engine that is restarted is back by then.
PATIENCE, PAUSE = 45.0, 0.5  # seconds
# Podman answers a stop when the container has ended; nobody waits for that.
STOP_ACCEPTED = 0.5  # seconds


class Silence(Refusal):
    """The engine gave no answer that can be read."""


class Engine:
    """One engine, one label. Guests outside the label are not even read, nor are those named in `others`.

    held_units: systemd units of the host that the plan has stopped and holds off. owned: containers (name -> id, unit, image) that such a
    unit removes when it stops. asked: requests of earlier runs (name -> life).
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
    ) -> None:
        if MISSING:
            raise Refusal(f"the control node needs the Python package docker for this ({MISSING}): pip install docker")
        if not label.strip() or label.startswith("="):
            raise Refusal("label is empty; without one every container of the engine would be taken. Give key=value.")
        self.label, self.what = label, f"containers with the label {label}"
        self._others = set(others)
        self._held_units = frozenset(held_units)
        self._owned = {name: one for name, one in (owned or {}).items() if one.get("unit") in self._held_units}
        self._asked = {name: str(one.get("life")) for name, one in (asked or {}).items()}
        self._way = way  # the relay, for its complaint when the engine does not answer
        self._services: dict[str, dict[str, Any]] = {}
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

    def __enter__(self) -> Engine:
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
        found = self.sure("services", lambda: self.api.services(filters={"label": self.label}))  # type: ignore[no-untyped-call]
        found = [one for one in found if one["Spec"]["Name"] not in self._others]
        tasks = self.sure("tasks", lambda: self.api.tasks(filters={"service": [one["ID"] for one in found]})) if found else []  # type: ignore[no-untyped-call]
        self._services = {one["ID"]: {**one, "tasks": [task for task in tasks if task["ServiceID"] == one["ID"]]} for one in found}
        for task in tasks:
            code = docker_swarm.exit_code_of(task)
            if code is not None:
                self._task_ends[task["ID"]] = code

    def _list(self) -> list[dict[str, Any]]:
        rows = self.sure("", lambda: self.api.containers(all=True, filters={"label": self.label}))
        return [row for row in rows if not self._not_mine(row)]

    def _not_mine(self, row: Mapping[str, Any]) -> bool:
        """Another item's, or a task of a service that is a guest of its own."""
        labels = row.get("Labels") or {}
        names = {str(name).lstrip("/") for name in row.get("Names") or ()} | {labels.get(docker_swarm.SERVICE_NAME)}
        return bool(labels.get(PROOF)) or bool(self._others & names) or labels.get(docker_swarm.SERVICE_ID) in self._services

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
        seen = (self.inspect(key) for key in keys)
        return sorted((one for one in seen if one is not None), key=name_of)

    def services(self) -> dict[str, str]:
        """The services of the set as they were read last, name to id."""
        return {str(one["Spec"]["Name"]): key for key, one in self._services.items()}

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
        seen += [docker_swarm.guest_of(one, one["tasks"]) for one in self._services.values()]
        there = {guest.name for guest in seen}
        seen += [gone_with_unit(name, one) for name, one in self._owned.items() if name not in there]
        return sorted(seen, key=lambda guest: guest.name)

    def _guest(self, inspect: Mapping[str, Any], needs: frozenset[str]) -> Guest:
        policy, unit = policy_of(inspect), docker_podman.unit_of(inspect)
        refusal = refusal_of(inspect, self._held_units, self.manager, self.label) or self._pods.get(inspect["Id"], "")
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
        seen |= {key: docker_swarm.power_of(one, one["tasks"]) for key, one in self._services.items()}
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

    # --- verbs

    def hold(self, guest: Guest) -> None:
        self._set_policy(guest, RESTART_NO)

    def _set_policy(self, guest: Guest, policy: Mapping[str, Any]) -> None:
        wanted: Any = dict(policy)

        def update() -> None:
            for left in reversed(range(UPDATE_TRIES)):
                try:
                    self.api.update_container(guest.key, restart_policy=wanted)
                    return
                except docker.errors.APIError as exc:
                    # A container in a restart loop may end between the engine's look at it and its update (seen with 20.10).
                    if not left or exc.status_code != 500 or "Cannot update container" not in str(exc.explanation):
                        raise
                    time.sleep(UPDATE_PAUSE)

        self.sure(guest.name, update)

    def _again(self, guest: Guest, call: Callable[[], Any], wanted: str) -> None:
        """A request that the engine refuses when it is made twice: refused, it counts if the container is as wanted."""

        def once() -> None:
            try:
                call()
            except docker.errors.APIError:
                if self.api.inspect_container(guest.key)["State"]["Status"] != wanted:
                    raise

        self.sure(guest.name, once)

    def wake(self, guest: Guest) -> None:
        self._again(guest, lambda: self.api.unpause(guest.key), "running")

    def ask(self, guest: Guest) -> str | None:
        if "replicas" in guest.record:
            return self._scale(guest, 0)
        life, earlier = self.life(guest), self._asked.get(guest.name)
        self._asked[guest.name] = life
        if earlier == life and self._delivered(guest):
            # Many programs take a second signal for an order to drop everything.
            return "an earlier request, which the engine has delivered"
        return self._stop_podman(guest) if self.podman else self._kill(guest, guest.record["stop_signal"])

    def _delivered(self, guest: Guest) -> bool:
        if self.podman:
            seen = self.inspect(guest.key)
            return seen is None or seen["State"]["Status"] == "stopping"
        return signal_number(guest.record["stop_signal"]) in {signal_number(one) for one in self._signals(guest)}

    def _stop_podman(self, guest: Guest) -> str | None:
        """A stop that never kills: a plain signal would let the restart policy start it again."""
        url = f"{self.api.base_url}/v{self.api.api_version}/containers/{guest.key}/stop"
        try:
            self.api.post(url, params={"t": docker_podman.PATIENCE}, timeout=(HTTP_TIMEOUT, STOP_ACCEPTED)).raise_for_status()
        except requests.exceptions.Timeout:
            seen = self.inspect(guest.key)
            return None if seen is None or seen["State"]["Status"] in ("stopping", "exited") else LOST
        except requests.exceptions.HTTPError as exc:
            raise Refusal(f"{guest.name}: Podman answered: {exc}") from exc
        except (requests.exceptions.RequestException, OSError):
            return LOST
        return None

    def force(self, guest: Guest) -> None:
        if "replicas" not in guest.record:
            self._kill(guest, "SIGKILL")
            return
        # The tasks of this node alone; the swarm kills those of the others after their grace period.
        mine = {"label": f"{docker_swarm.SERVICE_ID}={guest.key}", "status": "running"}
        for row in self.sure(guest.name, lambda: self.api.containers(filters=mine)):
            self._kill(Guest(row["Id"], guest.name, "on"), "SIGKILL")

    def _kill(self, guest: Guest, sent: str) -> str | None:
        try:
            with self.errors(guest.name):
                try:
                    self.api.kill(guest.key, sent)
                except docker.errors.NotFound:
                    pass
                except docker.errors.APIError as exc:
                    # 409: it ended in the very moment. The next reading shows that, or shows it running.
                    if exc.status_code != 409:
                        raise
        except Silence:
            return LOST
        return None

    def _scale(self, guest: Guest, replicas: int) -> str | None:
        """Sets the number of replicas; said twice it is the same, so a lost answer or a change by others is met by reading again."""

        def scale() -> str | None:
            for left in reversed(range(UPDATE_TRIES)):
                service = self.api.inspect_service(guest.key)  # type: ignore[no-untyped-call]
                if docker_swarm.mode_of(service) != "Replicated":
                    raise Refusal(f"{guest.name} is not a replicated service any more; survey again")
                if docker_swarm.replicas_of(service) == replicas:
                    return f"found at {replicas} replicas"
                try:
                    self._update_service(service, docker_swarm.scaled(service, replicas))
                    return f"scaled to {replicas} replicas"
                except docker.errors.APIError as exc:
                    if not left or "out of sequence" not in str(exc.explanation):
                        raise
            return None

        return self.sure(guest.name, scale)

    def _update_service(self, service: Mapping[str, Any], spec: Mapping[str, Any]) -> None:
        # The SDK's own call builds the specification anew from what it knows; what it does not know would be lost.
        url = f"{self.api.base_url}/v{self.api.api_version}/services/{service['ID']}/update"
        answer = self.api.post(url, json=dict(spec), params={"version": service["Version"]["Index"]}, timeout=HTTP_TIMEOUT)
        try:
            answer.raise_for_status()
        except requests.exceptions.HTTPError as exc:
            raise docker.errors.create_api_error_from_http_exception(exc) from exc

    def ending(self, before: Guest, after: Guest, asked: bool, forced: bool) -> Ending:
        if before.record.get("gone_with_unit"):
            return Ending(
                ALREADY_OFF, "unknown", f"its unit {before.record['unit']} removed it when it was stopped, and how it ended with it"
            )
        if "replicas" in before.record:
            exits, killed = self._task_events(before)
            return docker_swarm.ending_of(before, forced, {**self._task_ends, **exits}, killed)
        signals = self._signals(before) if after.record["exit_code"] == KILLED and asked and not self.podman else []
        return ending_of(before, after, asked, forced, signals)

    def _task_events(self, guest: Guest) -> tuple[dict[str, int], set[str]]:
        """(exit code of each task of this node that ended, tasks that were killed), from the engine's short memory."""
        tasks = {task["id"] for task in guest.record["tasks"]}
        if not tasks:
            return {}, set()
        until = int(self._time()) + 1
        filters = {"type": "container", "label": f"{docker_swarm.SERVICE_ID}={guest.key}"}
        events = self.sure(guest.name, lambda: list(self.api.events(since=1, until=until, filters=filters, decode=True)))
        exits, killed = {}, set()
        for event in events:
            about = event["Actor"]["Attributes"]
            task = about.get(docker_swarm.TASK_ID)
            if task in tasks and event.get("Action") == "die":
                exits[task] = int(about["exitCode"])
            if task in tasks and event.get("Action") == "kill" and signal_number(about.get("signal")) == signal.SIGKILL:
                killed.add(task)
        return exits, killed

    def release(self, guest: Guest, former: Mapping[str, Any]) -> None:
        if "replicas" in former:
            self._scale(guest, int(former["replicas"]))
        elif not self.podman:
            self._set_policy(guest, former["policy"])

    def start(self, guest: Guest, former: Mapping[str, Any]) -> None:
        if "replicas" in former:
            self._scale(guest, int(former["replicas"]))
            return
        self.sure(guest.name, lambda: self.api.start(guest.key))
        if former.get("power") == "paused":
            self._again(guest, lambda: self.api.pause(guest.key), "paused")

    # --- saving

    def other_sources(self, found: Sequence[Guest]) -> list[dict[str, Any]]:
        """What there is to save of guests that are no container any more, in the form of one: services, and what its unit removed."""
        rows = []
        for guest in found:
            if guest.key not in self._services and not guest.record.get("gone_with_unit"):
                continue
            service = {k: v for k, v in self._services.get(guest.key, {}).items() if k != "tasks"}
            spec = ((service.get("Spec") or {}).get("TaskTemplate") or {}).get("ContainerSpec") or {}
            image = str(guest.record["image"] or guest.record.get("image_id"))
            rows.append(
                {
                    "Own": False,
                    "Id": guest.key,
                    "Name": f"/{guest.name}",
                    "Image": self._image_id(guest.name, str(guest.record.get("image_id") or image)),
                    "Config": {
                        "Image": image,
                        "Entrypoint": spec.get("Command"),
                        "Cmd": spec.get("Args"),
                        "User": spec.get("User"),
                        "WorkingDir": spec.get("Dir"),
                    },
                    # Its definition: another one is another thing to save. The number of replicas is not part of it.
                    "State": {"FinishedAt": str((service.get("Spec") or {}).get("TaskTemplate", {}))},
                    "Service": service,
                    "Unit": guest.record.get("unit", ""),
                }
            )
        return rows

    def _image_id(self, name: str, reference: str) -> str:
        def read() -> str:
            try:
                return str(self.api.inspect_image(reference)["Id"])  # type: ignore[no-untyped-call]
            except docker.errors.ImageNotFound:
                raise Refusal(
                    f"{name}: its image {reference} is not on this node, so it cannot be saved; pull it here (docker pull {reference.partition('@')[0]})"
                ) from None

        return self.sure(name, read)

    def volumes(self, inspects: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The named volumes of the set: where the engine keeps them on its host, and who uses them."""
        users: dict[str, list[str]] = {}
        for one in inspects:
            for mount in one.get("Mounts") or ():
                if mount["Type"] == "volume":
                    users.setdefault(mount["Name"], []).append(name_of(one))
        result = []
        for name in sorted(users):
            with self.errors(name):
                volume = self.api.inspect_volume(name)
            options = volume.get("Options") or {}
            result.append(
                {
                    "name": name,
                    "driver": volume["Driver"],
                    "options": sorted(options),
                    "mountpoint": volume["Mountpoint"],
                    "containers": sorted(users[name]),
                }
            )
        return result

    @staticmethod
    def reference(inspect: Mapping[str, Any], item: str) -> str:
        """The name of the image that a container is saved as."""
        return f"sunset-saved/{image_name(item)}:{name_of(inspect)}-{inspect['Id'][:12]}"

    def snapshot(self, inspect: Mapping[str, Any], item: str) -> tuple[str, bool]:
        """(reference, made now) of an image of the container's own layer; one that an interrupted run left is taken."""
        finished = inspect["State"]["FinishedAt"]
        reference = self.reference(inspect, item)
        with self.errors(name_of(inspect)):
            for image in self.api.images(name=reference):
                labels = image.get("Labels") or {}
                if labels.get(f"{SAVED}.id") == inspect["Id"] and labels.get(f"{SAVED}.finished") == finished:
                    return reference, False
            repository, _colon, tag = reference.rpartition(":")
            self.api.commit(
                inspect["Id"],
                repository=repository,
                tag=tag,
                changes=[f"LABEL {SAVED}.id={inspect['Id']}", f"LABEL {SAVED}.finished={finished}"],
            )
        return reference, True

    def image_stream(self, reference: str) -> Iterator[bytes]:
        """What C(docker save) would write."""
        with self.errors(reference):
            yield from self.api.get_image(reference)

    def drop_snapshot(self, reference: str) -> None:
        with self.errors(reference):
            try:
                self.api.remove_image(reference, noprune=True)
            except docker.errors.ImageNotFound:
                return
