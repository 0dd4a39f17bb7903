# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What must be true before a node of a Proxmox VE cluster goes off, and what is set aside for it. Pure; nodes.py asks the cluster."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.sunset.crm.plugins.plugin_utils.proxmox import rights

DISARM_SINCE = (9, 1)
# Resources in these states are nobody's to start or to move.
LET_BE = ("ignored",)
UNKNOWN = "unknown"


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
    disarming: bool = False
    active_lrms: tuple[str, ...] = ()
    monitors: frozenset[str] = frozenset()
    ceph: str = ""  # health; empty without Ceph, "unknown" where nobody could say
    noout: bool = False

    def brief(self) -> dict[str, Any]:
        """What the evidence keeps."""
        return {
            "nodes": list(self.nodes), "online": sorted(self.online), "quorate": self.quorate, "running": list(self.running),
            "busy": list(self.busy), "ha": dict(self.ha or {}), "armed": not self.disarmed, "active_lrms": list(self.active_lrms),
            "monitors": sorted(self.monitors), "ceph": self.ceph or "none", "noout": self.noout,
        }  # fmt: skip


@dataclass(frozen=True)
class Changes:
    """What is changed so that nodes may go, and changed back when they are there again: HA disarmed, or these resources ignored; noout."""

    armed: bool = False
    ha: Mapping[str, str] = field(default_factory=dict)  # sid to the state that it had
    noout: bool = False

    def __bool__(self) -> bool:
        return bool(self.armed or self.ha or self.noout)

    def former(self) -> dict[str, Any]:
        return {"armed": self.armed, "ha": dict(self.ha), "noout": self.noout}

    @classmethod
    def of(cls, former: Mapping[str, Any]) -> Changes:
        return cls(bool(former.get("armed")), dict(former.get("ha") or {}), bool(former.get("noout")))


def keeps_quorum(nodes: Collection[str], off: Collection[str]) -> bool:
    """Whether the nodes that stay are more than half; a device that votes too is not counted."""
    return 2 * (len(nodes) - len(set(nodes) & set(off))) > len(nodes)


def ha_way(version: tuple[int, int]) -> str:
    """disarm, where that exists; else every resource is set to ignored."""
    return "disarm" if version >= DISARM_SINCE else "ignore"


def ha_is_aside(standing: Standing) -> bool:
    return standing.disarmed or all(state in LET_BE for state in (standing.ha or {}).values())


def fenced(standing: Standing, going: Collection[str]) -> bool:
    """Whether an HA agent still works that resets its node when the cluster loses its quorum, and these nodes would take it away."""
    return bool(standing.active_lrms) and not standing.disarmed and not keeps_quorum(standing.nodes, going)


def wanted(standing: Standing, going: Collection[str], version: tuple[int, int]) -> Changes:
    """What has to be changed before these nodes may go."""
    noout = bool(standing.ceph) and standing.ceph != UNKNOWN and not standing.noout
    if ha_way(version) == "disarm":
        return Changes(armed=not ha_is_aside(standing) or fenced(standing, going), noout=noout)
    armed = {} if ha_is_aside(standing) else {sid: state for sid, state in (standing.ha or {}).items() if state not in LET_BE}
    return Changes(ha=armed, noout=noout)


def left(former: Changes, standing: Standing) -> Changes:
    """What of it still has to be put back."""
    return Changes(
        former.armed and (standing.disarmed or standing.disarming),
        # One that HA does not know any more is not as it was either.
        {sid: state for sid, state in former.ha.items() if (standing.ha or {}).get(sid, LET_BE[0]) in LET_BE and state not in LET_BE},
        former.noout and standing.noout,
    )


def lacks(standing: Standing, going: Collection[str], gone: Collection[str] = ()) -> list[str]:
    """What must be true before the first of these nodes is asked, and is not; in words.

    gone: nodes that were asked before, so that they may be off. Without them there may be no quorum any more."""
    found = [f"{node} is no node of this cluster" for node in sorted(set(going) - set(standing.nodes))]
    if not standing.quorate and not gone:
        found.append("the cluster has no quorum, so what it says may be old")
    if standing.running:
        found.append(f"these guests are not off: {', '.join(standing.running)}")
    if standing.busy:
        found.append(f"these tasks still run: {', '.join(standing.busy)}")
    unheard = sorted(set(standing.nodes) - standing.online - set(gone))
    if unheard:
        found.append(f"{', '.join(unheard)} is not heard of, so nobody knows what runs there")
    if not ha_is_aside(standing):
        held = ", ".join(f"{sid} ({state})" for sid, state in sorted((standing.ha or {}).items()) if state not in LET_BE)
        found.append(f"HA is armed and would start these elsewhere, and reset nodes that lose quorum: {held}")
    if fenced(standing, going):
        found.append(f"the HA agent of {', '.join(standing.active_lrms)} is not idle yet: without quorum its watchdog resets the node")
    # Ceph gives no answer when its monitors are off, so that is no news once nodes are gone.
    if standing.ceph == UNKNOWN and not gone:
        found.append("whether Ceph stores anything here is unknown, it did not answer")
    if standing.ceph and standing.ceph != UNKNOWN and not standing.noout:
        found.append("Ceph would begin to move data as its disks go: its flag noout is not set")
    return found


# What is mended by setting HA and Ceph aside.
MENDED = ("HA is armed", "Ceph would begin", "the HA agent")


def unmended(said: Iterable[str]) -> list[str]:
    return [lack for lack in said if not lack.startswith(MENDED)]


def fencing(rows: Iterable[Mapping[str, Any]]) -> tuple[str, tuple[str, ...]]:
    """(armed, disarming, disarmed or standby; nodes whose local HA agent works) from /cluster/ha/status/current."""
    armed, working = "armed", []
    for row in rows:
        if row.get("type") == "fencing":
            armed = str(row.get("armed-state") or "armed")
        # "pve1 (idle, watchdog standby, TIME)": the name of the node may be anything. Of one that cannot be read nobody knows.
        said = str(row.get("status") or "").partition(" (")[2]
        if row.get("type") == "lrm" and ("active" in said or "unable to read" in said):
            working.append(str(row.get("node")))
    return armed, tuple(sorted(working))


def needs(changes: Changes) -> list[rights.Need]:
    found = []
    if changes.armed or changes.ha:
        found.append(rights.Need("/", "Sys.Console", "to set HA aside"))
    if changes.noout:
        found.append(rights.Need("/", "Sys.Modify", "to set Ceph's flag noout"))
    return found


def absent(standing: Standing) -> list[str]:
    """What is not there yet of a cluster that comes up, in words."""
    found = sorted(set(standing.nodes) - standing.online)
    return found if standing.quorate else [*found, "quorum"]
