# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Nodes of a Proxmox VE cluster on their way off: what must be true first, in which order, and what is set aside for it.

Once half of the nodes are off the cluster has no quorum: nothing can be configured any more, and nodes on which HA works reset
themselves. So all work on guests is over, and HA and Ceph know, before the first node is asked; the nodes with a Ceph monitor are
asked after the others. A node is asked through its own connection, like any host (host_power). What Proxmox says of a node that
goes off is never evidence: its answer comes before anything happens, and "offline" is what a cluster says of every node that it does
not hear. That it is off is for an outside witness to see (power/witness.py).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.guests.guests import Clock
from ansible_collections.sunset.crm.plugins.plugin_utils.power.powering import asked_to_end
from ansible_collections.sunset.crm.plugins.plugin_utils.proxmox import guests as seeing, rights, tasks
from ansible_collections.sunset.crm.plugins.plugin_utils.proxmox.api import Api, ApiError, Unanswered
from ansible_collections.sunset.crm.plugins.plugin_utils.proxmox.node_rules import (
    UNKNOWN,
    Changes,
    Standing,
    absent,
    fencing,
    lacks,
    left,
    needs,
    unmended,
    wanted,
)
from ansible_collections.sunset.crm.plugins.plugin_utils.proxmox.set import GuestSet
from ansible_collections.sunset.crm.plugins.plugin_utils.record import ledger
from ansible_collections.sunset.crm.plugins.plugin_utils.record.view import View

NOOUT = "noout"
# What a node answers that has no Ceph. Any other error leaves open whether there is one.
NO_CEPH = re.compile(r"not installed|configuration not (initialized|enabled)", re.IGNORECASE)
NOT_THERE = 501  # this version has no such path
# An act whose effect does not show is made again after so many seconds: its request may have been lost.
AGAIN = 15.0


class Nodes(GuestSet):
    """The nodes of one cluster. Its guests are only looked at.

    excused: guests that a person has classified and that may run until their node goes off. gone: nodes that were asked to go off before.
    """

    excused: Collection[str] = ()
    gone: Collection[str] = ()

    def standing(self) -> Standing:
        """Everything read afresh; of the guests all that there are, not those of a plan."""
        there = self.survey()
        online = frozenset(str(row["name"]) for row in self.nodes if int(row.get("online") or 0))
        local = next((str(row["name"]) for row in self.nodes if int(row.get("local") or 0)), "")
        names = Counter(place.name for place in there.values())
        seen = self._pool.map(lambda place: self._state(place, names), there.values())
        rows = self._ha_status() if len(self.nodes) > 1 else []
        armed, working = fencing(rows)
        health, monitors, noout = self._ceph()
        return Standing(
            nodes=tuple(sorted(str(row["name"]) for row in self.nodes)),
            online=online,
            connected=local,
            quorate=self.quorate,
            running=tuple(said for said in seen if said),
            busy=tuple(self._busy(online)),
            # What is asked of HA, which is what can be asked for again; its own word of the moment (starting, freeze) is none of that.
            ha={str(row["sid"]): str(row.get("request_state") or row.get("state")) for row in rows if row.get("type") == "service"},
            disarmed=armed == "disarmed",
            disarming=armed == "disarming",
            active_lrms=tuple(node for node in working if node not in self.gone or node in online),
            monitors=monitors,
            ceph=health,
            noout=noout,
        )

    def _ha_status(self) -> list[dict[str, Any]]:
        """A whole answer begins with the quorum; one without it is no proof that HA has nothing to do."""
        rows = list(self.api.get("cluster", "ha", "status", "current"))
        if not any(row.get("type") == "quorum" for row in rows):
            raise ApiError("GET /cluster/ha/status/current", 200, f"an answer that is not whole ({len(rows)} rows, none about the quorum)")
        return rows

    def _state(self, place: seeing.Place, names: Counter[str]) -> str:
        # A name that another guest has too was nobody's word about this one.
        if str(place.vmid) in self.excused or (place.name in self.excused and names[place.name] == 1):
            return ""
        try:
            current = self.api.get(*place.path, "status", "current")
        except ApiError as exc:
            if exc.node_is_down and place.node in self.gone:
                return ""
            return f"{place} (unknown: {exc.text})"
        state = seeing.power(current)
        template = bool(int(current.get("template") or 0))
        return "" if template or state == "off" else f"{place} ({state})"

    def _busy(self, online: Collection[str]) -> list[str]:
        found = []
        for node in sorted(online):
            try:
                found += [f"{upid.type} {upid.id} on {node}" for upid in tasks.active(self.api, node)]
            except ApiError as exc:
                # It may have gone off between the two questions.
                if not (exc.node_is_down and node in self.gone):
                    raise
        return found

    def _ceph(self) -> tuple[str, frozenset[str], bool]:
        """(health, nodes with a monitor, noout); empty where there is no Ceph."""
        try:
            status = self.api.get("cluster", "ceph", "status")
            flags = self.api.get("cluster", "ceph", "flags")
        except ApiError as exc:
            return "" if NO_CEPH.search(exc.text) or exc.status == NOT_THERE else UNKNOWN, frozenset(), False
        monitors = frozenset(str(mon.get("name")) for mon in ((status.get("monmap") or {}).get("mons") or []))
        noout = any(row.get("name") == NOOUT and int(row.get("value") or 0) for row in flags)
        return str((status.get("health") or {}).get("status") or UNKNOWN), monitors, noout

    def may(self, changes: Changes) -> None:
        """Refuse where a right for these changes is missing."""
        rights.check(self._tree, needs(changes), self.api.user)

    def allow(self, going: Collection[str], standing: Standing) -> None:
        """Refuse before anything is touched: rights that are missing, guests that run, nodes that nobody hears of."""
        self.may(wanted(standing, going, self.version))
        hindered = unmended(lacks(standing, going, self.gone))
        if hindered:
            raise Refusal(f"the nodes of {self.name} cannot go off: {'; '.join(hindered)}. Nothing was changed.")

    def set_aside(self, going: Collection[str], patience: float, did: Callable[..., None]) -> Standing:
        """HA disarmed or every resource ignored, noout set, the HA agents idle; as it stands then."""

        def acts(now: Standing) -> dict[str, Callable[[], Any]]:
            todo = wanted(now, going, self.version)
            found: dict[str, Callable[[], Any]] = {}
            if todo.armed and not now.disarming:
                found["HA disarmed"] = lambda: self.api.post("cluster", "ha", "status", "disarm-ha", **{"resource-mode": "ignore"})
            for sid in sorted(todo.ha):
                found[f"HA of {sid} ignored"] = self._ha_state(sid, "ignored")
            if todo.noout:
                found["Ceph's noout set"] = lambda: self.api.put("cluster", "ceph", "flags", NOOUT, value=1)
            return found

        return self._until(acts, lambda now: not lacks(now, going, self.gone), patience, did)

    def put_back(self, former: Changes, patience: float, did: Callable[..., None]) -> Standing:
        """HA and Ceph as they were, when every node is there again and the cluster has its quorum; as it stands then."""

        def acts(now: Standing) -> dict[str, Callable[[], Any]]:
            if absent(now):
                self._tell(f"{self.name}: waiting for {', '.join(absent(now))}")
                return {}
            todo = left(former, now)
            found: dict[str, Callable[[], Any]] = {}
            if todo.armed and now.disarmed:
                found["HA armed"] = lambda: self.api.post("cluster", "ha", "status", "arm-ha")
            for sid, state in sorted(todo.ha.items()):
                found[f"HA of {sid} {state}"] = self._ha_state(sid, state)
            if todo.noout:
                found["Ceph's noout unset"] = lambda: self.api.put("cluster", "ceph", "flags", NOOUT, value=0)
            return found

        return self._until(acts, lambda now: not absent(now) and not left(former, now), patience, did)

    def _ha_state(self, sid: str, state: str) -> Callable[[], Any]:
        return lambda: self.api.put("cluster", "ha", "resources", sid, state=state)

    def _until(
        self,
        acts: Callable[[Standing], dict[str, Callable[[], Any]]],
        over: Callable[[Standing], bool],
        patience: float,
        did: Callable[..., None],
    ) -> Standing:
        """Do what is still to be done until nothing is, or patience ends. What came of a request shows only in the next look."""
        deadline, sent = self.clock.now() + patience, dict[str, float]()
        while True:
            try:
                now = self.standing()
            except (Unanswered, ApiError):
                # A cluster whose nodes come and go gives no answer for a while.
                if self.clock.now() >= deadline:
                    raise
                self.clock.sleep(1.0)
                continue
            if over(now) or self.clock.now() >= deadline:
                return now
            for name, act in acts(now).items():
                if self.clock.now() - sent.get(name, -AGAIN) < AGAIN:
                    continue
                sent[name] = self.clock.now()
                try:
                    act()
                    did(did=name)
                except Unanswered as exc:
                    did(did=name, answer=f"none: {exc}")
            self.clock.sleep(1.0)


@dataclass(frozen=True)
class Place:
    """Where one host of the plan stands: its node, and the nodes of the cluster that are hosts of the plan, by inventory name."""

    api: Mapping[str, Any]
    cluster: str
    node: str
    hosts: Mapping[str, str]  # inventory name to node
    together: tuple[str, ...] = ()  # those of them that are retired with this one, by inventory name
    excused: tuple[str, ...] = ()

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Place:
        return cls(
            told["api"],
            str(told["name"]),
            str(told["node"]),
            dict(told["hosts"]),
            tuple(told.get("together") or ()),
            tuple(told.get("excused") or ()),
        )

    def gone(self, entries: Sequence[ledger.Entry], but: str = "") -> list[str]:
        """Nodes that were asked to go off, as the ledger has it. but: the intent to ask one of them now."""
        return sorted(node for host, node in self.hosts.items() if asked_to_end(entries, f"host:{host}", but))

    def monitors(self, view: View, standing: Standing) -> list[str]:
        """Nodes with a Ceph monitor. Where Ceph gives no answer any more, those that were seen before the first node was asked."""
        known = [seen for host in self.hosts if (seen := view.get(f"host:{host}", "cluster")) and standing.ceph == UNKNOWN]
        return sorted({*standing.monitors, *(str(node) for seen in known for node in seen.result.get("monitors") or [])})

    @contextmanager
    def opened(self, gone: Collection[str], clock: Clock | None = None) -> Iterator[Nodes]:
        with Api(self.api) as api, Nodes(api, [], clock=clock, known_as=self.cluster) as nodes:
            nodes.excused, nodes.gone = self.excused, gone
            yield nodes


def hindrances(place: Place, view: View, gone: Sequence[str], clock: Clock | None = None) -> tuple[list[str], dict[str, Any]]:
    """A last look at the cluster before one of its nodes is asked: what keeps the node on, and what was seen. gone: those asked before."""
    try:
        with place.opened(gone, clock) as nodes:
            standing = nodes.standing()
    except Unanswered as exc:
        if gone:
            # The rest of what was named in api is off; that all guests were, HA and Ceph aside was seen before the first of them was asked.
            return [], {"answer": str(exc), "gone": list(gone)}
        return [f"its cluster {place.cluster} does not answer, so nobody knows what runs on it ({exc})"], {"answer": str(exc)}
    held = lacks(standing, list(place.hosts.values()), gone)
    monitors = place.monitors(view, standing)
    waits = sorted(place.hosts[host] for host in place.together if place.hosts[host] not in monitors and not view.is_off(f"host:{host}"))
    if waits and place.node in monitors:
        held.append(f"a Ceph monitor runs on it, and {', '.join(waits)} with disks that need one was not seen to be off")
    return held, {**standing.brief(), "gone": list(gone)}
