# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Containers of a Docker engine as guests: the backend that the core in guests/guests.py drives.

Requests are signals with no wait: the engine's own stop call kills after its timeout, which is a decision that is not the engine's.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from ansible_collections.sunset.crm.plugins.plugin_utils.docker import podman as docker_podman, swarm as docker_swarm
from ansible_collections.sunset.crm.plugins.plugin_utils.docker.facts import KILLED, RESTART_NO, ending_of, signal_number
from ansible_collections.sunset.crm.plugins.plugin_utils.docker.reading import HTTP_TIMEOUT, Reader, Silence
from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.guests import lost_sight
from ansible_collections.sunset.crm.plugins.plugin_utils.guests.guests import ALREADY_OFF, LOST, Ending, Guest

# Without it Reader has refused before anything here is called.
with contextlib.suppress(ImportError):
    import requests.exceptions

    import docker.errors


UPDATE_TRIES = 20
UPDATE_PAUSE = 0.25  # seconds
# Podman answers a stop when the container has ended; nobody waits for that.
STOP_ACCEPTED = 0.5  # seconds


class Engine(Reader):
    """One engine, one label: the verbs. strays: asks the host which processes of these containers it has, and whether it shows any."""

    def __init__(self, *args: Any, strays: Callable[[list[str]], lost_sight.Found] | None = None, **options: Any) -> None:
        super().__init__(*args, **options)
        self._find_strays, self._processes = strays, "not looked at"

    def observe(self) -> list[Guest]:
        """The engine's word, and of what it calls ended the kernel's too: an engine that lost its notes calls a container ended that runs."""
        seen = super().observe()
        ids = [guest.key for guest in seen if guest.power == "off" and "replicas" not in guest.record]
        if self._find_strays is None or not ids:
            return seen
        open_to_see, found = self._find_strays(ids)
        self._processes = "seen" if open_to_see else "hidden"
        return [
            replace(guest, power="unknown", refusal=lost_sight.words(str(guest.record.get("status")), found[guest.key]))
            if guest.key in found
            else guest
            for guest in seen
        ]

    def tools(self) -> dict[str, str]:
        return {**super().tools(), "processes of the host": self._processes}

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

        return self.of_swarm(guest.name, scale)

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
