# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What must be true before a node of a Proxmox VE cluster goes off, and in which order they go."""

from __future__ import annotations

import dataclasses
import re

import pytest

from ansible_collections.sunset.crm.plugins.plugin_utils import proxmox_nodes as nodes

ALL = ("pve1", "pve2", "pve3")
READY = nodes.Standing(ALL, frozenset(ALL), "pve1", True)


def test_the_node_that_we_speak_to_is_last_and_monitors_come_late() -> None:
    assert nodes.order(ALL, "pve1") == ["pve2", "pve3", "pve1"]
    assert nodes.order(ALL, "pve3", monitors={"pve1", "pve3"}) == ["pve2", "pve1", "pve3"]
    assert nodes.order(ALL, "pve2", monitors={"pve1"}) == ["pve3", "pve1", "pve2"]


def test_quorum_needs_more_than_half() -> None:
    assert nodes.keeps_quorum(ALL, ["pve1"]) and not nodes.keeps_quorum(ALL, ["pve1", "pve2"])
    assert not nodes.keeps_quorum(["a", "b"], ["a"]) and not nodes.keeps_quorum(["a"], ["a"])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"quorate": False}, "no quorum"),
        ({"running": ("104 (wiki) (on)",)}, "these guests are not off: 104"),
        ({"busy": ("vzdump 100 on pve2",)}, "these tasks still run: vzdump"),
        ({"online": frozenset({"pve1", "pve2"})}, "pve3 is not heard of"),
        ({"ha": {"vm:100": "stopped"}}, r"HA is armed.*vm:100 \(stopped\)"),
        ({"active_lrms": ("pve2",)}, "the HA agent of pve2 is not idle yet"),
        ({"ceph": "HEALTH_OK"}, "noout is not set"),
    ],
)
def test_each_condition_keeps_the_nodes_on(changes: dict[str, object], said: str) -> None:
    found = nodes.lacks(dataclasses.replace(READY, **changes), ALL)  # type: ignore[arg-type]
    assert len(found) == 1 and re.search(said, found[0]), found


def test_fact_4_disarmed_or_ignored_is_aside() -> None:
    """Under the default policy HA starts the guests of a node that goes elsewhere, and nodes without quorum reset themselves."""
    assert nodes.lacks(dataclasses.replace(READY, ha={"vm:100": "started"}, disarmed=True, active_lrms=("pve1",)), ALL) == []
    assert nodes.lacks(dataclasses.replace(READY, ha={"vm:100": "ignored"}), ALL) == []
    # One node of three: the others keep quorum, so a working agent is no danger.
    assert nodes.lacks(dataclasses.replace(READY, active_lrms=("pve2",)), ["pve1"]) == []
    assert [nodes.ha_way(version) for version in ((7, 4), (9, 0), (9, 1), (9, 2))] == ["ignore", "ignore", "disarm", "disarm"]


def test_what_the_ha_status_says() -> None:
    rows = [
        {"type": "fencing", "armed-state": "disarming"},
        {"type": "lrm", "node": "pve2", "status": "pve2 (active, Sun Nov 22)"},
        {"type": "lrm", "node": "pve1", "status": "pve1 (idle, Sun Nov 22)"},
    ]
    assert nodes.lrm_states(rows) == (False, ("pve2",))
    assert nodes.lrm_states([{"type": "fencing", "armed-state": "disarmed"}]) == (True, ())
