# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Containers of a Docker engine as guests: the backend that the core in guests.py drives.

The engine is reached by its unix socket, here or through the relay. Requests are signals with no wait: the engine's own
stop call kills after its timeout, which is a decision that is not the engine's.
"""

from __future__ import annotations

import contextlib
import datetime
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.guests import (
    ALREADY_OFF,
    BY_FORCE,
    BY_ITSELF,
    UNKNOWN,
    Ending,
    Guest,
)

try:
    import docker
    import docker.errors
    import requests.exceptions
except ImportError as exc:
    MISSING: str | None = str(exc)
else:
    MISSING = None

HTTP_TIMEOUT = 60
NEVER = "0001-01-01T00:00:00Z"
KILLED = 137
RESTART_NO = {"Name": "no", "MaximumRetryCount": 0}
POWER = {
    "running": "on",
    "paused": "paused",
    "restarting": "changing",
    "created": "off",
    "exited": "off",
    "dead": "unknown",
    "removing": "unknown",
}
# Who else believes to own the container, by the label that it leaves on it.
OWNERS = {
    "com.docker.swarm.service.name": "a swarm service runs it and would start another; scale the service to zero on a manager",
    "io.kubernetes.pod.name": "Kubernetes runs it; drain the node and give an attestation for it",
    "PODMAN_SYSTEMD_UNIT": "a systemd unit runs it and would start it again; stop and mask that unit",
}
SAVED = "org.sunset-crm.saved"


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


def refusal_of(inspect: Mapping[str, Any]) -> str:
    """Why this container is left alone; empty if it can be handled."""
    labels = inspect["Config"].get("Labels") or {}
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
        if now["finished"] == NEVER:
            return Ending(ALREADY_OFF, "yes", "it never ran")
        return Ending(ALREADY_OFF, "unknown" if code == KILLED else "yes", shown)
    if code != KILLED:
        if code == 143:
            shown += ", ended by the signal without handling it"
        return Ending(BY_ITSELF, "yes", shown if asked else f"{shown}, before it was asked")
    if forced:
        return Ending(BY_FORCE, "no", f"{shown}, killed by this module")
    if "9" in signals or "SIGKILL" in signals:
        return Ending(BY_FORCE, "no", f"{shown}, killed through the engine by somebody else")
    return Ending(UNKNOWN, "unknown", f"{shown}, and the engine knows of no kill: killed from outside it, or its own number")


UPDATE_TRIES = 20
UPDATE_PAUSE = 0.25  # seconds


class Engine:
    """One engine, one label. Guests outside the label are not even read, nor are those named in `others`."""

    def __init__(self, address: str, label: str, timeout: int = HTTP_TIMEOUT, way: Any = None, others: Iterable[str] = ()) -> None:
        if MISSING:
            raise Refusal(f"the control node needs the Python package docker for this ({MISSING}): pip install docker")
        if not label.strip() or label.startswith("="):
            raise Refusal("label is empty; without one every container of the engine would be taken. Give key=value.")
        self.label = label
        self._others = {f"/{name}" for name in others}
        self._way = way  # the relay, for its complaint when the engine does not answer
        self._asked_at: dict[str, float] = {}
        self._ahead: float | None = None
        with self._errors():
            self.api = docker.APIClient(base_url=f"unix://{address}", version="auto", timeout=timeout)
            self.version: dict[str, Any] = self.api.version()

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self.api.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    @contextlib.contextmanager
    def _errors(self, what: str = "") -> Iterator[None]:
        about = f"{what}: " if what else ""
        try:
            yield
        except docker.errors.APIError as exc:
            raise Refusal(f"{about}the Docker engine answered {exc.status_code}: {exc.explanation}") from exc
        except (docker.errors.DockerException, requests.exceptions.RequestException, OSError) as exc:
            complaint = self._way.problem() if self._way is not None else ""
            raise Refusal(f"{about}the Docker engine does not answer: {complaint or exc}") from exc

    def tools(self) -> dict[str, str]:
        return {
            "docker engine": str(self.version.get("Version", "?")),
            "docker api": str(self.api.api_version),
            "docker sdk": str(docker.__version__),
        }

    # --- reading

    def _list(self) -> list[dict[str, Any]]:
        with self._errors():
            rows = self.api.containers(all=True, filters={"label": self.label})
        return [row for row in rows if not self._others & set(row.get("Names") or [])]

    def inspect(self, key: str) -> dict[str, Any] | None:
        with self._errors(key[:12]):
            try:
                return dict(self.api.inspect_container(key))
            except docker.errors.NotFound:
                return None

    def inspects(self) -> list[dict[str, Any]]:
        """All of the set; one that vanished between list and inspection is left out, as if listed a moment later."""
        seen = (self.inspect(row["Id"]) for row in self._list())
        return sorted((one for one in seen if one is not None), key=name_of)

    def observe(self) -> list[Guest]:
        inspects = self.inspects()
        services: dict[str, list[str]] = {}
        for one in inspects:
            labels = one["Config"].get("Labels") or {}
            if labels.get("com.docker.compose.service"):
                service = f"{labels.get('com.docker.compose.project', '')}/{labels['com.docker.compose.service']}"
                services.setdefault(service, []).append(name_of(one))
        ids = {one["Id"]: name_of(one) for one in inspects}
        return [self._guest(one, needs_of(one, services, ids)) for one in inspects]

    @staticmethod
    def _guest(inspect: Mapping[str, Any], needs: frozenset[str]) -> Guest:
        policy = policy_of(inspect)
        return Guest(
            key=inspect["Id"],
            name=name_of(inspect),
            power=POWER.get(inspect["State"]["Status"], "unknown"),
            returns="" if policy["Name"] == "no" else f"restart policy {policy['Name']}",
            needs=needs,
            refusal=refusal_of(inspect),
            record={**record_of(inspect), "former": {"policy": policy}},
        )

    def powers(self) -> dict[str, str]:
        return {row["Id"]: POWER.get(row["State"], "unknown") for row in self._list()}

    def _time(self) -> float:
        """The engine's own clock: its events are stamped by it."""
        with self._errors():
            stamp = str(self.api.info()["SystemTime"])
        # Nanoseconds, and any time zone: more than fromisoformat reads.
        whole, zone = stamp[:19], stamp[19:].lstrip(".0123456789")
        return datetime.datetime.fromisoformat(whole + (zone or "Z")).timestamp()

    def _signals(self, key: str) -> list[str]:
        """The signals that the engine delivered to this container since it was asked, from its own short memory."""
        # An end is given: without it the engine would go on sending for ever.
        with self._errors(key[:12]):
            events = self.api.events(
                since=int(self._asked_at[key]),
                until=int(self._time()) + 1,
                filters={"container": key, "event": "kill"},
                decode=True,
            )
            return [str(event["Actor"]["Attributes"].get("signal", "")) for event in events]

    # --- verbs

    def hold(self, guest: Guest) -> None:
        self._set_policy(guest, RESTART_NO)

    def _set_policy(self, guest: Guest, policy: Mapping[str, Any]) -> None:
        wanted: Any = dict(policy)
        with self._errors(guest.name):
            for left in reversed(range(UPDATE_TRIES)):
                try:
                    self.api.update_container(guest.key, restart_policy=wanted)
                    return
                except docker.errors.APIError as exc:
                    # A container in a restart loop may end between the engine's look at it and its update (seen with 20.10).
                    if not left or exc.status_code != 500 or "Cannot update container" not in str(exc.explanation):
                        raise
                    time.sleep(UPDATE_PAUSE)

    def wake(self, guest: Guest) -> None:
        with self._errors(guest.name):
            self.api.unpause(guest.key)

    def ask(self, guest: Guest) -> None:
        if self._ahead is None:
            self._ahead = self._time() - time.time()
        # The second before covers what the stamps leave out.
        self._asked_at[guest.key] = time.time() + self._ahead - 1
        self._kill(guest, guest.record["stop_signal"])

    def force(self, guest: Guest) -> None:
        self._kill(guest, "SIGKILL")

    def _kill(self, guest: Guest, signal: str) -> None:
        with self._errors(guest.name):
            try:
                self.api.kill(guest.key, signal)
            except docker.errors.NotFound:
                return
            except docker.errors.APIError as exc:
                # 409: it ended in the very moment. The next reading shows that, or shows it running.
                if exc.status_code != 409:
                    raise

    def ending(self, before: Guest, after: Guest, asked: bool, forced: bool) -> Ending:
        signals = self._signals(before.key) if after.record["exit_code"] == KILLED and asked else []
        return ending_of(before, after, asked, forced, signals)

    def release(self, guest: Guest, former: Mapping[str, Any]) -> None:
        self._set_policy(guest, former["policy"])

    def start(self, guest: Guest, former: Mapping[str, Any]) -> None:
        with self._errors(guest.name):
            self.api.start(guest.key)
            if former.get("power") == "paused":
                self.api.pause(guest.key)

    # --- saving

    def volumes(self, inspects: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The named volumes of the set: where the engine keeps them on its host, and who uses them."""
        users: dict[str, list[str]] = {}
        for one in inspects:
            for mount in one.get("Mounts") or ():
                if mount["Type"] == "volume":
                    users.setdefault(mount["Name"], []).append(name_of(one))
        result = []
        for name in sorted(users):
            with self._errors(name):
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

    def snapshot(self, inspect: Mapping[str, Any], item: str) -> tuple[str, bool]:
        """(reference, made now) of an image of the container's own layer; one that an interrupted run left is taken."""
        finished = inspect["State"]["FinishedAt"]
        reference = f"sunset-saved/{image_name(item)}:{name_of(inspect)}-{inspect['Id'][:12]}"
        with self._errors(name_of(inspect)):
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
        with self._errors(reference):
            yield from self.api.get_image(reference)

    def drop_snapshot(self, reference: str) -> None:
        with self._errors(reference):
            try:
                self.api.remove_image(reference, noprune=True)
            except docker.errors.ImageNotFound:
                return


def image_name(item: str) -> str:
    """An item's name as a repository name takes it: small letters, digits, single separators."""
    name = item.partition(":")[2] or item
    kept = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in name.lower())
    return "-".join(part for part in kept.split("-") if part) or "unnamed"
