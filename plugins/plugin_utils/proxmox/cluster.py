# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A set of guests of one Proxmox VE cluster or node, acted on: the backend that the core in guests/guests.py drives.

Requests and looks run in a few threads, because the API blocks and a hundred guests must take as long as the slowest. All
state is changed in the caller's thread alone, when a request has come back. Whether a task still runs is read from one list
a node; the guest itself, and how its task ended, is looked at when that list says that there is something to see.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.guests.guests import Ending, Guest
from ansible_collections.sunset.crm.plugins.plugin_utils.proxmox import guests as seeing, tasks
from ansible_collections.sunset.crm.plugins.plugin_utils.proxmox.api import ApiError, Unanswered
from ansible_collections.sunset.crm.plugins.plugin_utils.proxmox.guests import Place
from ansible_collections.sunset.crm.plugins.plugin_utils.proxmox.set import GuestSet

OVERRULE_SINCE = (8, 4)
BACKSTOP = 15.0  # the list of active tasks may lag; by then the guest is looked at anyway
RETRY = 2.0
CLEARING = 30.0  # a guest is off and its task still tidies up: its end is worth that long
HA_PATIENCE = 180.0  # the HA manager works in rounds of ten seconds


@dataclass
class Way:
    """One guest on its way off or on, as this backend follows it."""

    place: Place
    goal: str
    since: float
    power: str
    call: Callable[[], Any]
    request: Future[Any] | None = None
    looking: Future[Any] | None = None
    upid: tasks.Upid | None = None
    outcome: tasks.Outcome | None = None
    due: float = 0.0
    retry_at: float | None = None
    off_since: float | None = None
    begun: float = 0.0  # when the task was known; lists that are older do not know it
    notes: list[str] = field(default_factory=list)

    def say(self, note: str) -> None:
        if note and note not in self.notes:
            self.notes.append(note[:300])


def retriable(text: str) -> bool:
    """Whether the reason passes by itself: somebody holds the configuration for a moment, or has locked it for a job."""
    return bool(tasks.FLOCK.search(text) or tasks.LOCKED.search(text) or "no quorum" in text or "got timeout" in text)


def let_go(rows: Iterable[Mapping[str, Any]], sid: str) -> bool:
    """Whether the HA manager has taken note that a resource is ignored: it forgets what it wanted of it."""
    for row in rows:
        if row.get("type") == "service" and row.get("sid", str(row.get("id", "")).partition(":")[2]) == sid:
            return row.get("state") == "ignored" and row.get("crm_state") in (None, "", "ignored")
    return True


class Cluster(GuestSet):
    """One API, and the guests of it that a declaration names. Others are not touched."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._ways: dict[str, Way] = {}
        self._holds: dict[str, Future[Any]] = {}
        self._lists: dict[str, tuple[Future[Any] | None, float, float]] = {}
        self._woken: set[str] = set()
        self._polled = False

    # --- keeping off

    def hold(self, guest: Guest) -> None:
        self._holds[guest.key] = self._pool.submit(self._hold, guest)

    def _hold(self, guest: Guest) -> str:
        if guest.record["ha"] not in ("", "ignored"):
            self._set_ha(self._places[guest.key], "ignored")
        if guest.record["onboot"] and self._keep_off:
            self._set_onboot(guest, 0)
        return guest.key if guest.record["ha"] not in ("", "ignored") else ""

    def _set_ha(self, place: Place, state: str) -> None:
        def read() -> str:
            return seeing.ha_states([{"sid": place.sid, **self.api.get("cluster", "ha", "resources", place.sid)}])[place.sid]

        self._until(
            f"guest {place}: HA state {state}",
            lambda: self.api.put("cluster", "ha", "resources", place.sid, state=state),
            lambda: read() == state,
        )

    def _set_onboot(self, guest: Guest, value: int) -> None:
        """The one key of a configuration that is ever written: it changes no device and what it was is on record."""

        def write() -> None:
            place = self._places[guest.key]
            config = self.api.get(*place.path, "config")
            if int(config.get("onboot") or 0) != value:
                self.api.put(*place.path, "config", onboot=value, digest=config.get("digest"))

        def written() -> bool:
            return int(self.api.get(*self._places[guest.key].path, "config").get("onboot") or 0) == value

        self._until(f"guest {self._places[guest.key]}: onboot {value}", write, written)

    def _until(self, what: str, write: Callable[[], Any], written: Callable[[], bool]) -> None:
        """Write until it is written. No answer is no end: then it is read what is there."""
        deadline = self.clock.now() + self._lock_wait
        while True:
            try:
                write()
                return
            except Unanswered:
                if written():
                    return
                problem = "no answer"
            except ApiError as exc:
                changed = "detected modified configuration" in exc.text or "checksum mismatch" in exc.text
                if not (changed or retriable(exc.text) or exc.node_is_down):
                    raise
                problem = exc.text
            if self.clock.now() >= deadline:
                raise Refusal(f"{what} could not be set within {self._lock_wait:g} s: {problem}")
            self.clock.sleep(RETRY / 2)

    def _held(self) -> None:
        """Every hold has come back, and HA has let go, before the first guest is asked."""
        if not self._holds:
            return
        aside = {key for future in self._holds.values() if (key := future.result())}
        self._holds = {}
        waits = {self._places[key].sid for key in aside}
        deadline = self.clock.now() + HA_PATIENCE
        while waits:
            rows = self.api.get("cluster", "ha", "status", "current")
            waits = {sid for sid in waits if not let_go(rows, sid)}
            if waits and self.clock.now() >= deadline:
                raise Refusal(
                    f"the HA manager has not let go of {', '.join(sorted(waits))} within {HA_PATIENCE:g} s of their state becoming ignored; "
                    "it may have no master. No guest was asked to end. Look at the HA status, then run the same command again."
                )
            if waits:
                self.clock.sleep(1.0)

    def observe(self, there: Mapping[int, Place] | None = None) -> list[Guest]:
        """Never while something is still on its way: where every guest was off already nobody has waited for what was set aside."""
        self._held()
        return super().observe(there)

    # --- verbs

    def wake(self, guest: Guest) -> None:
        self._woken.add(guest.key)

    def ask(self, guest: Guest) -> None:
        seconds = int(self._timeout if self._force_after is None else min(self._timeout, self._force_after))
        self._go(guest, "off", lambda: self._shutdown(guest, max(1, seconds)))

    def force(self, guest: Guest) -> None:
        way = self._ways[guest.key]
        if way.outcome is not None:
            way.say(f"{way.outcome.type}: {way.outcome.said}")
        former, way.upid, way.outcome = way.upid, None, None
        self._go(guest, "off", lambda: self._stop(guest, former), way)

    def _go(self, guest: Guest, goal: str, call: Callable[[], Any], way: Way | None = None) -> None:
        now = self.clock.now()
        if way is None:
            way = self._ways[guest.key] = Way(self._places[guest.key], goal, now, guest.power, call)
        way.call, way.retry_at, way.since = call, None, now
        way.request = self._pool.submit(call)

    def _shutdown(self, guest: Guest, seconds: int) -> tasks.Upid | None:
        """The task of a graceful shutdown: one that runs already, or a new one. None: it is off."""
        place = self._ways[guest.key].place
        rows = tasks.of_guest(self.api, place.node, place.vmid)
        for upid in tasks.running(rows):
            if upid.type in (*tasks.SHUTDOWN, *tasks.STOP):
                return upid
        if guest.key in self._woken:
            self._resume(place)
            self._woken.discard(guest.key)
        return self._begin(place, "shutdown", {"timeout": seconds, "forceStop": 0}, (*tasks.SHUTDOWN, "hastop"), rows)

    def _stop(self, guest: Guest, shutdown: tasks.Upid | None) -> tasks.Upid | None:
        place = self._ways[guest.key].place
        values: dict[str, Any] = {}
        if self.version >= OVERRULE_SINCE:
            values["overrule-shutdown"] = 1
        elif shutdown is not None:
            # Older versions let a stop wait behind the shutdown's lock until it gives up.
            self._end_task(shutdown)
        return self._begin(place, "stop", values, (*tasks.STOP, "hastop"), tasks.of_guest(self.api, place.node, place.vmid))

    def _end_task(self, upid: tasks.Upid) -> None:
        try:
            self.api.delete("nodes", upid.node, "tasks", upid.text)
        except (ApiError, Unanswered):
            return

    def _begin(
        self, place: Place, verb: str, values: Mapping[str, Any], types: Sequence[str], rows: Iterable[Mapping[str, Any]]
    ) -> tasks.Upid | None:
        known = {str(row.get("upid")) for row in rows}
        try:
            return tasks.begin(self.api, (*place.path, "status", verb), values, types, place.vmid, place.node, self.clock.sleep, known)
        except ApiError as exc:
            if tasks.NOT_RUNNING.search(exc.text):
                return None
            raise

    def _resume(self, place: Place) -> None:
        known = {str(row.get("upid")) for row in tasks.of_guest(self.api, place.node, place.vmid)}
        types = ("qmresume", "vzresume")
        upid = tasks.begin(self.api, (*place.path, "status", "resume"), {}, types, place.vmid, place.node, self.clock.sleep, known)
        tasks.wait(self.api, upid, 60.0, self.clock.now, self.clock.sleep)

    # --- waiting

    def powers(self) -> dict[str, str]:
        self._held()
        now = self.clock.now()
        if self._polled:
            for key, one in self._seen.items():
                if key not in self._ways and one.power != "off":
                    # Not asked (yet), or asked by an earlier run: its task, if there is one, is followed.
                    self._follow(one, now)
        self._polled = True
        for way in self._ways.values():
            self._collect(way, now)
        self._watch_nodes(now)
        for way in self._ways.values():
            if way.power != way.goal and way.request is None and way.looking is None:
                if way.retry_at is not None and now >= way.retry_at:
                    way.retry_at, way.outcome, way.upid = None, None, None
                    way.request = self._pool.submit(way.call)
                elif way.retry_at is None and now >= way.due:
                    way.looking = self._pool.submit(self._look, way.place, way.upid if way.outcome is None else None)
        return {key: self._ways[key].power if key in self._ways else one.power for key, one in self._seen.items()}

    def _follow(self, guest: Guest, now: float) -> None:
        place = self._places[guest.key]

        def find() -> tasks.Upid | None:
            running = tasks.running(tasks.of_guest(self.api, place.node, place.vmid))
            return next((upid for upid in running if upid.type in (*tasks.SHUTDOWN, *tasks.STOP)), None)

        way = self._ways[guest.key] = Way(place, "off", now, guest.power, find)
        way.request = self._pool.submit(find)

    def _watch_nodes(self, now: float) -> None:
        """One list a node says which tasks still run; what is not on it any more is looked at."""
        waiting = [way for way in self._ways.values() if way.upid and way.outcome is None and way.power != way.goal]
        for node in {way.upid.node for way in waiting if way.upid}:
            future, due, begun = self._lists.get(node, (None, 0.0, 0.0))
            if future is not None and future.done():
                if future.exception() is None:
                    still = {upid.text for upid in future.result()}
                    for way in waiting:
                        if way.upid and way.upid.node == node and way.begun <= begun and way.upid.text not in still:
                            way.due = min(way.due, now)
                future = None
            if future is None and now >= due:
                first = min(way.since for way in waiting)
                pause = min(2.0, max(0.25, (now - first) * 0.1))
                future, due, begun = self._pool.submit(tasks.active, self.api, node), now + pause, now
            self._lists[node] = (future, due, begun)

    def _collect(self, way: Way, now: float) -> None:
        if way.request is not None and way.request.done():
            request, way.request = way.request, None
            self._requested(way, request, now)
        if way.looking is not None and way.looking.done():
            looking, way.looking = way.looking, None
            if looking.exception() is not None:
                way.say(str(looking.exception()))
                way.due = now + RETRY
            else:
                self._looked(way, now, *looking.result())

    def _requested(self, way: Way, request: Future[Any], now: float) -> None:
        problem = request.exception()
        if problem is None:
            way.upid, way.begun = request.result(), now
            way.due = now + BACKSTOP if way.upid else now
        elif isinstance(problem, (ApiError, Unanswered)):
            way.say(str(problem))
            if isinstance(problem, ApiError) and tasks.ABSENT.search(problem.text):
                way.due = now  # the look finds where it went
                way.retry_at = now + RETRY
                way.place = self._moved(way.place) or way.place
            else:
                final = isinstance(problem, ApiError) and problem.status in (400, 403)
                way.retry_at, way.due = (None, now + BACKSTOP) if final else (now + RETRY, now)
        else:
            raise problem

    def _look(self, place: Place, upid: tasks.Upid | None) -> tuple[Place, tasks.Outcome | None, dict[str, Any] | None, str]:
        outcome, said = None, ""
        if upid is not None:
            try:
                outcome = tasks.outcome(self.api, upid)
            except (ApiError, Unanswered) as exc:
                said = str(exc)
        try:
            return place, outcome, dict(self.api.look(*place.path, "status", "current")), said
        except ApiError as exc:
            if not tasks.ABSENT.search(exc.text):
                return place, outcome, None, str(exc)
            now = self._moved(place)
            return (now or place), outcome, (None if now else {"status": "gone"}), f"{place.node}: {exc.text}"
        except Unanswered as exc:
            return place, outcome, None, str(exc)

    def _looked(self, way: Way, now: float, place: Place, outcome: tasks.Outcome | None, current: dict[str, Any] | None, said: str) -> None:
        if place != way.place:
            way.say(f"moved from {way.place.node} to {place.node}")
            way.place = place
        if said:
            way.say(said)
        if outcome is not None and outcome.over:
            way.outcome = outcome
        way.due = now + (RETRY if way.outcome or way.upid is None else BACKSTOP)
        if current is None:
            way.due = now + RETRY
            return
        state = "gone" if current.get("status") == "gone" else seeing.power(current)
        if state == "off" and way.goal == "off":
            way.off_since = now if way.off_since is None else way.off_since
            if way.upid is None or way.outcome or now - way.off_since >= CLEARING:
                way.power = "off"
            else:
                way.due = now + 0.3
            return
        way.power = "on" if way.goal == "on" and state in ("on", "paused", "changing") else state
        way.off_since = None
        ended = way.outcome
        if ended is None or way.goal != "off":
            way.due = min(way.due, now + RETRY) if way.goal != "off" else way.due
        elif ended.word == tasks.FAILED and retriable(ended.said) and "powerdown failed" not in ended.said:
            way.say(ended.said)
            way.retry_at = now + RETRY
        elif ended.word == tasks.FAILED:
            way.say(f"{ended.type}: {ended.said}")

    def said_of(self, name: str) -> str:
        """What was noticed on the way of a guest, in words."""
        return next(("; ".join(self._ways[key].notes) for key, one in self._seen.items() if one.name == name and key in self._ways), "")

    # --- afterwards

    def ending(self, before: Guest, after: Guest, asked: bool, forced: bool) -> Ending:
        way = self._ways.get(before.key)
        outcome = way.outcome if way else None
        if before.record["template"] or before.record["lock"] == "suspended":
            return seeing.ending_of(before, asked, forced, None)
        if outcome is None or outcome.word == tasks.QUEUED:
            # HA does the work by a task of its own; an earlier run of ours left one.
            outcome = self._last_end(self._places[before.key]) or outcome
        return seeing.ending_of(before, asked, forced, outcome)

    def _last_end(self, place: Place) -> tasks.Outcome | None:
        rows = tasks.of_guest(self.api, place.node, place.vmid)
        last = tasks.last_of(rows, place.vmid, (*tasks.SHUTDOWN, *tasks.STOP, *tasks.START))
        if last is None or last.type in tasks.START:
            return None
        try:
            return tasks.outcome(self.api, last)
        except (ApiError, Unanswered):
            return None

    def release(self, guest: Guest, former: Mapping[str, Any]) -> None:
        place = self._places[guest.key]
        if former["ha"] and not guest.record["ha"]:
            raise Refusal(
                f"guest {place}: HA knew it as {former['ha']} and does not know it any more; add it to HA again, then run it again"
            )
        if former["onboot"] != guest.record["onboot"]:
            self._set_onboot(guest, int(former["onboot"]))
        if former["ha"] and former["ha"] != guest.record["ha"]:
            self._set_ha(place, str(former["ha"]))

    def start(self, guest: Guest, former: Mapping[str, Any]) -> None:
        place = self._places[guest.key]
        ha = former.get("ha") in seeing.HA_STARTS

        def begin() -> tasks.Upid | None:
            if ha or guest.power == "on":
                return None  # HA starts it by itself, as it did before; what was paused and runs is to be paused again
            known = {str(row.get("upid")) for row in tasks.of_guest(self.api, place.node, place.vmid)}
            path = (*place.path, "status", "start")
            return tasks.begin(self.api, path, {}, tasks.START, place.vmid, place.node, self.clock.sleep, known)

        self._ways.pop(guest.key, None)
        self._go(guest, "on", begin)
        if former.get("power") == "paused":
            self._pause(guest)

    def _pause(self, guest: Guest) -> None:
        deadline = self.clock.now() + 60
        while self.powers()[guest.key] != "on" and self.clock.now() < deadline:
            self.clock.sleep(0.2)
        way = self._ways[guest.key]
        place, path = way.place, (*way.place.path, "status", "suspend")
        known = {str(row.get("upid")) for row in tasks.of_guest(self.api, place.node, place.vmid)}
        upid = tasks.begin(self.api, path, {}, ("qmsuspend", "vzsuspend"), place.vmid, place.node, self.clock.sleep, known)
        tasks.wait(self.api, upid, 60.0, self.clock.now, self.clock.sleep)
        # That it runs is not enough any more: it is looked at until it is seen to be paused.
        way.goal, way.due = "paused", 0.0
