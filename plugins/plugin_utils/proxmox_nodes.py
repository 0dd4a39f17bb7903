# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Nodes of a Proxmox VE cluster on their way off: what must be true first, in which order, and what is set aside for it.

Once half of the nodes are off the cluster has no quorum: nothing can be configured any more, and nodes on which HA works reset
themselves. So all work on guests is over, HA and Ceph know, and the nodes are asked nearly at once, the one that we speak to
last. What Proxmox says of a node that goes off is never evidence: the request is answered before anything happens, and "offline"
is what a cluster says of every node that it does not hear. That it is off is for an outside witness to see (witness.py).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.sunset.crm.plugins.plugin_utils import proxmox_guests as seeing
from ansible_collections.sunset.crm.plugins.plugin_utils import proxmox_rights as rights
from ansible_collections.sunset.crm.plugins.plugin_utils import proxmox_tasks as tasks
from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.proxmox_api import ApiError, Unanswered
from ansible_collections.sunset.crm.plugins.plugin_utils.proxmox_set import GuestSet

DISARM_SINCE = (9, 1)
NOOUT = "noout"
# Resources in these states are nobody's to start or to move.
LET_BE = ("ignored",)


@dataclass(frozen=True)
class Standing:
    """What is known of a cluster before its first node goes off."""

    nodes: tuple[str, ...]
    online: frozenset[str]
    connected: str
    quorate: bool
    running: tuple[str, ...] = ()  # guests that are not off, of the whole cluster, by their own status/current
    busy: tuple[str, ...] = ()  # tasks that still run
    ha: Mapping[str, str] | None = None  # sid to requested state
    disarmed: bool = False
    active_lrms: tuple[str, ...] = ()
    monitors: frozenset[str] = frozenset()
    ceph: str = ""  # health; empty without Ceph
    noout: bool = False


# --- decisions -----------------------------------------------------------------------------------------------------------


def order(going: Collection[str], connected: str, monitors: Collection[str] = ()) -> list[str]:
    """The order in which nodes are asked: those without a Ceph monitor, those with one, and last the one that we speak to."""
    return sorted(going, key=lambda node: (node == connected, node in monitors, node))


def keeps_quorum(nodes: Collection[str], off: Collection[str]) -> bool:
    """Whether the nodes that stay are more than half; a device that votes too is not counted."""
    return 2 * (len(nodes) - len(set(nodes) & set(off))) > len(nodes)


def ha_way(version: tuple[int, int]) -> str:
    """disarm, where that exists; else every resource is set to ignored."""
    return "disarm" if version >= DISARM_SINCE else "ignore"


def ha_is_aside(standing: Standing) -> bool:
    return standing.disarmed or all(state in LET_BE for state in (standing.ha or {}).values())


def lacks(standing: Standing, going: Collection[str]) -> list[str]:
    """What must be true before the first of these nodes is asked, and is not; in words."""
    found = [f"{node} is no node of this cluster" for node in sorted(set(going) - set(standing.nodes))]
    if not standing.quorate:
        found.append("the cluster has no quorum, so what it says may be old")
    if standing.running:
        found.append(f"these guests are not off: {', '.join(standing.running)}")
    if standing.busy:
        found.append(f"these tasks still run: {', '.join(standing.busy)}")
    unheard = sorted(set(standing.nodes) - standing.online)
    if unheard:
        found.append(f"{', '.join(unheard)} is not heard of, so nobody knows what runs there")
    if not ha_is_aside(standing):
        held = ", ".join(f"{sid} ({state})" for sid, state in sorted((standing.ha or {}).items()) if state not in LET_BE)
        found.append(f"HA is armed and would start these elsewhere, and reset nodes that lose quorum: {held}")
    if standing.active_lrms and not standing.disarmed and not keeps_quorum(standing.nodes, going):
        found.append(f"the HA agent of {', '.join(standing.active_lrms)} is not idle yet: without quorum its watchdog resets the node")
    if standing.ceph and not standing.noout:
        found.append("Ceph would begin to move data as its disks go: its flag noout is not set")
    return found


def lrm_states(rows: Iterable[Mapping[str, Any]]) -> tuple[bool, tuple[str, ...]]:
    """(disarmed, nodes whose local HA agent works) from /cluster/ha/status/current."""
    disarmed, working = False, []
    for row in rows:
        if row.get("type") == "fencing":
            disarmed = row.get("armed-state") == "disarmed"
        if row.get("type") == "lrm" and "active" in str(row.get("status") or ""):
            working.append(str(row.get("node")))
    return disarmed, tuple(sorted(working))


def needs(going: Collection[str], ha: bool, ceph: bool) -> list[rights.Need]:
    found = [rights.Need(f"/nodes/{node}", "Sys.PowerMgmt", "to switch the node off") for node in sorted(going)]
    if ha:
        found.append(rights.Need("/", "Sys.Console", "to set HA aside"))
    if ceph:
        found.append(rights.Need("/", "Sys.Modify", "to set Ceph's flag noout"))
    return found


# --- the world -----------------------------------------------------------------------------------------------------------


class Nodes(GuestSet):
    """The nodes of one cluster. Its guests are only looked at."""

    def standing(self) -> Standing:
        """Everything read afresh; of the guests all that there are, not those of a plan."""
        there = self.survey()
        online = frozenset(str(row["name"]) for row in self.nodes if int(row.get("online") or 0))
        local = next((str(row["name"]) for row in self.nodes if int(row.get("local") or 0)), "")
        seen = self._pool.map(self._state, there.values())
        rows = self.api.get("cluster", "ha", "status", "current") if len(self.nodes) > 1 else []
        disarmed, working = lrm_states(rows)
        health, monitors, noout = self._ceph()
        return Standing(
            nodes=tuple(sorted(str(row["name"]) for row in self.nodes)),
            online=online,
            connected=local,
            quorate=self.quorate,
            running=tuple(said for said in seen if said),
            busy=tuple(self._busy(online)),
            ha={str(row["sid"]): str(row.get("state")) for row in rows if row.get("type") == "service"},
            disarmed=disarmed,
            active_lrms=working,
            monitors=monitors,
            ceph=health,
            noout=noout,
        )

    def _state(self, place: seeing.Place) -> str:
        try:
            current = self.api.get(*place.path, "status", "current")
        except ApiError as exc:
            return f"{place} (unknown: {exc.text})"
        state = seeing.power(current)
        template = bool(int(current.get("template") or 0))
        return "" if template or state == "off" else f"{place} ({state})"

    def _busy(self, online: Collection[str]) -> list[str]:
        return [f"{upid.type} {upid.id} on {node}" for node in sorted(online) for upid in tasks.active(self.api, node)]

    def _ceph(self) -> tuple[str, frozenset[str], bool]:
        """(health, nodes with a monitor, noout); empty where there is no Ceph."""
        try:
            status = self.api.get("cluster", "ceph", "status")
            flags = self.api.get("cluster", "ceph", "flags")
        except ApiError:
            return "", frozenset(), False
        monitors = frozenset(str(mon.get("name")) for mon in ((status.get("monmap") or {}).get("mons") or []))
        noout = any(row.get("name") == NOOUT and int(row.get("value") or 0) for row in flags)
        return str((status.get("health") or {}).get("status") or "unknown"), monitors, noout

    def set_aside(self, standing: Standing, patience: float = 180.0) -> dict[str, Any]:
        """HA disarmed or every resource ignored, noout set. What was there before, for the way back."""
        former = {"ha": dict(standing.ha or {}), "armed": not standing.disarmed, "noout": standing.noout}
        if not ha_is_aside(standing):
            if ha_way(self.version) == "disarm":
                self.api.post("cluster", "ha", "status", "disarm-ha", **{"resource-mode": "ignore"})
            else:
                for sid, state in sorted((standing.ha or {}).items()):
                    if state not in LET_BE:
                        self.api.put("cluster", "ha", "resources", sid, state="ignored")
        if standing.ceph and not standing.noout:
            self.api.put("cluster", "ceph", "flags", NOOUT, value=1)
        deadline = self.clock.now() + patience
        while True:
            now = self.standing()
            if ha_is_aside(now) and (not now.ceph or now.noout):
                return former
            if self.clock.now() >= deadline:
                raise Refusal(f"HA or Ceph did not take note within {patience:g} s: {'; '.join(lacks(now, ()))}. No node was asked.")
            self.clock.sleep(1.0)

    def put_back(self, former: Mapping[str, Any]) -> None:
        """HA and Ceph as they were; for the power-up, when every node is there again."""
        now = self.standing()
        if former["armed"] and now.disarmed:
            self.api.post("cluster", "ha", "status", "arm-ha")
        for sid, state in sorted(former["ha"].items()):
            if (now.ha or {}).get(sid, state) != state:
                self.api.put("cluster", "ha", "resources", sid, state=state)
        if now.noout and not former["noout"]:
            self.api.put("cluster", "ceph", "flags", NOOUT, value=0)

    def allow(self, going: Sequence[str], standing: Standing) -> None:
        """Refuse before anything is touched: rights that are missing, guests that run, nodes that nobody hears of."""
        wanted = needs(going, ha=not ha_is_aside(standing), ceph=bool(standing.ceph) and not standing.noout)
        rights.check(self._tree, wanted, self.api.user)
        mends_itself = ("HA is armed", "Ceph would begin", "the HA agent")
        left = [lack for lack in lacks(standing, going) if not lack.startswith(mends_itself)]
        if left:
            raise Refusal(f"the nodes of {self.name} cannot go off: {'; '.join(left)}. Nothing was changed.")

    def ask(self, going: Sequence[str], standing: Standing) -> list[str]:
        """Ask each node to go off, nearly at once, in their order. Whether it went, its witness says."""
        left = lacks(standing, going)
        if left:
            raise Refusal(f"the nodes of {self.name} cannot go off: {'; '.join(left)}. No node was asked.")
        asked = []
        for node in order(going, standing.connected, standing.monitors):
            try:
                self.api.post("nodes", node, "status", command="shutdown")
            except Unanswered as exc:
                # Accepted or not: asking twice does no harm, and only the witness can tell.
                if not exc.sent:
                    raise
            asked.append(node)
        return asked
