# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tasks of Proxmox VE: whose they are, how they ended, and what that is worth.

An end of OK is not yet a guest that is off: hastop only queues a request, and a forced kill is OK with one more line in
the log. So a task is judged by its type, its end and its whole log, and nobody relies on it without a reading of the guest.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.proxmox.api import Api, ApiError, Unanswered

# How a task ended. QUEUED: it is over, and what it asked for is yet to come.
RUNNING, OK, WARNINGS, QUEUED, FAILED, UNKNOWN = "running", "ok", "warnings", "queued", "failed", "unknown"
QUEUEING = ("hastop", "hastart", "hamigrate", "harelocate")
SHUTDOWN, STOP = ("qmshutdown", "vzshutdown"), ("qmstop", "vzstop")
START = ("qmstart", "vzstart", "hastart", "qmresume", "vzresume", "qmreboot", "vzreboot", "qmrollback")
# Ends of a worker that nobody saw ending: its node went down.
NOBODY_SAW = ("unexpected status", "unable to get last line", "unable to read tail", "unable to open file")
FORCED = re.compile(r"terminating now with SIG(TERM|KILL)|forcing? (kill|stop)|lxc-stop.*--kill", re.IGNORECASE)
FLOCK = re.compile(r"can't lock file .* - got timeout")
LOCKED = re.compile(r"\b(?:VM|CT) is locked \(([\w-]+)\)")
NOT_RUNNING = re.compile(r"\b(?:VM|CT) \d+ not running\b")
ABSENT = re.compile(r"Configuration file '.*' does not exist")
# Whose work a lock is, by the type of the task. A backup of several guests has no guest in its id.
OWNERS = {
    "backup": ("vzdump",),
    "clone": ("qmclone", "vzclone"),
    "create": ("qmcreate", "qmrestore", "vzcreate", "vzrestore", "qmclone", "vzclone"),
    "migrate": ("qmigrate", "vzmigrate", "hamigrate"),
    "rollback": ("qmrollback", "vzrollback"),
    "snapshot": ("qmsnapshot", "vzsnapshot", "vzdump"),
    "snapshot-delete": ("qmdelsnapshot", "vzdelsnapshot", "vzdump"),
    "suspending": ("qmsuspend",),
    "disk": ("resize", "move_volume", "qmmove", "imgdel"),
    "fstrim": ("vzfstrim", "fstrim"),
}
LOG_PAGE = 2000
LIST_LIMIT = 1000


@dataclass(frozen=True)
class Upid:
    """The name of a task. user keeps the name of the token, which proxmoxer's own reading drops."""

    text: str
    node: str
    start: int
    type: str
    id: str
    user: str


@dataclass(frozen=True)
class Outcome:
    """How a task ended: word is one of the constants above, said is what Proxmox wrote."""

    word: str
    said: str
    type: str = ""
    forced: bool = False
    notes: tuple[str, ...] = ()

    @property
    def over(self) -> bool:
        return self.word != RUNNING

    @property
    def good(self) -> bool:
        return self.word in (OK, WARNINGS)


class NoTask(Refusal):
    """Proxmox answered, and started nothing."""


# --- decisions -----------------------------------------------------------------------------------------------------------


def parse(text: Any) -> Upid | None:
    """The task that an answer names; None for everything else, such as the plain OK of vzdump."""
    parts = str(text).split(":")
    if len(parts) != 9 or parts[0] != "UPID" or parts[8]:
        return None
    try:
        start = int(parts[4], 16)
    except ValueError:
        return None
    return Upid(str(text), parts[1], start, parts[5], parts[6], parts[7])


def judge(status: Mapping[str, Any], log: Sequence[str]) -> Outcome:
    """How a task ended, by its type, its exit status and its whole log."""
    kind = str(status.get("type") or "")
    if status.get("status") != "stopped":
        return Outcome(RUNNING, "", kind)
    said = str(status.get("exitstatus") or "")
    forced = any(FORCED.search(line) for line in log)
    notes = tuple(line for line in log if re.match(r"(WARN|WARNING)\b", line) or FORCED.search(line))
    if not said or said.startswith(NOBODY_SAW):
        return Outcome(UNKNOWN, said or "no end was written", kind, forced, notes)
    if said == "OK":
        return Outcome(QUEUED if kind in QUEUEING else OK, said, kind, forced, notes)
    if re.fullmatch(r"WARNINGS: \d+", said):
        return Outcome(QUEUED if kind in QUEUEING else WARNINGS, said, kind, forced, notes)
    return Outcome(FAILED, said, kind, forced, (*notes, last_error(log)) if last_error(log) else notes)


def last_error(log: Sequence[str]) -> str:
    """The reason stands in the last line of the log, not in the first."""
    return next((line.partition("TASK ERROR: ")[2].strip() for line in reversed(log) if line.startswith("TASK ERROR: ")), "")


def running(rows: Iterable[Mapping[str, Any]]) -> list[Upid]:
    """The tasks of a list that still run."""
    found = (parse(row.get("upid")) for row in rows if not row.get("endtime") and row.get("status") in (None, "", "RUNNING", "running"))
    return [upid for upid in found if upid is not None]


def about(upid: Upid, vmid: int) -> bool:
    """Whether a task is about this guest. A backup job names all of its guests, or none when it takes all."""
    return str(vmid) in re.split(r"[,\s;]+", upid.id) or (upid.type == "vzdump" and not upid.id)


def owner(lock: str, vmid: int, tasks: Iterable[Upid]) -> Upid | None:
    """The running task that holds a lock; None if there is none, so that it was left behind."""
    types = OWNERS.get(lock, ())
    return next((upid for upid in tasks if upid.type in types and about(upid, vmid)), None)


def fresh(rows: Iterable[Mapping[str, Any]], known: Collection[str], types: Collection[str], vmid: int, user: str) -> Upid | None:
    """The task that a request without an answer started after all: of that kind, guest and user, and not there before."""
    for row in rows:
        upid = parse(row.get("upid"))
        if upid and upid.text not in known and upid.type in types and about(upid, vmid) and upid.user == user:
            return upid
    return None


def last_of(rows: Iterable[Mapping[str, Any]], vmid: int, types: Collection[str]) -> Upid | None:
    """The newest task of these types about a guest."""
    found = [upid for upid in (parse(row.get("upid")) for row in rows) if upid and upid.id == str(vmid) and upid.type in types]
    return max(found, key=lambda upid: upid.start, default=None)


# --- the world -----------------------------------------------------------------------------------------------------------


def active(api: Api, node: str) -> list[Upid]:
    """What runs on a node now."""
    return running(api.look("nodes", node, "tasks", source="active", limit=LIST_LIMIT))


def of_guest(api: Api, node: str, vmid: int, limit: int = 50) -> list[dict[str, Any]]:
    """The tasks about a guest that its node knows of, running and over."""
    return list(api.get("nodes", node, "tasks", source="all", vmid=vmid, limit=limit))


def whole_log(api: Api, upid: Upid) -> list[str]:
    """Every line. limit=0 means all of them; a server that takes it for none is read page by page."""
    rows = api.look("nodes", upid.node, "tasks", upid.text, "log", start=0, limit=0)
    if not rows:
        page: list[Any] = [None] * LOG_PAGE
        rows = []
        while len(page) == LOG_PAGE:
            page = api.look("nodes", upid.node, "tasks", upid.text, "log", start=len(rows), limit=LOG_PAGE)
            rows += page
    return [str(row.get("t", "")) for row in rows]


def outcome(api: Api, upid: Upid) -> Outcome:
    """How a task stands. The log is read when it is over."""
    status = api.look("nodes", upid.node, "tasks", upid.text, "status")
    if status.get("status") != "stopped":
        return Outcome(RUNNING, "", upid.type)
    return judge({"type": upid.type, **status}, whole_log(api, upid))


def wait(api: Api, upid: Upid, timeout: float, now: Callable[[], float], sleep: Callable[[float], None]) -> Outcome:
    """Wait for a task until a monotonic deadline. A poll that fails is a poll that fails, not an end."""
    deadline, pause = now() + timeout, 0.1
    while True:
        try:
            seen = outcome(api, upid)
        except (ApiError, Unanswered) as exc:
            seen = Outcome(RUNNING, str(exc))
        if seen.over or now() >= deadline:
            return seen
        sleep(pause)
        pause = min(pause * 1.5, 3.0)


def begin(
    api: Api,
    path: Sequence[Any],
    values: Mapping[str, Any],
    types: Collection[str],
    vmid: int,
    node: str,
    sleep: Callable[[float], None],
    known: Collection[str] | None = None,
) -> Upid:
    """Make a request that starts a task, once. Without an answer the task is looked for before the request is repeated.

    known: tasks that were there before, if the caller has read them already. No clock is compared: nodes' clocks differ.
    """
    if known is None:
        known = {str(row.get("upid")) for row in of_guest(api, node, vmid)}
    for left in reversed(range(3)):
        try:
            answer = api.post(*path, **values)
        except Unanswered:
            for pause in (0.2, 1.0, 2.0):
                sleep(pause)
                found = fresh(of_guest(api, node, vmid), known, types, vmid, api.user)
                if found:
                    return found
            if not left:
                raise
            continue
        upid = parse(answer)
        if upid is None:
            raise NoTask(f"POST /{'/'.join(str(part) for part in path)}: Proxmox answered {answer!r} and started no task: nothing was done")
        return upid
    raise AssertionError("no try was made")
