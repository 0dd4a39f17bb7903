# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What must be true before a node of a Proxmox VE cluster goes off, and what is set aside for it."""

from __future__ import annotations

import dataclasses
import re

import pytest

from ansible_collections.sunset.crm.plugins.plugin_utils.proxmox import node_rules as nodes

ALL = ("pve1", "pve2", "pve3")
READY = nodes.Standing(ALL, frozenset(ALL), "pve1", True)


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
        ({"ceph": "unknown"}, "whether Ceph stores anything here is unknown"),
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
    assert nodes.fencing(rows) == ("disarming", ("pve2",))
    assert nodes.fencing([{"type": "fencing", "armed-state": "disarmed"}]) == ("disarmed", ())
    # As version 9.2 writes it. The name of a node is no word about its agent, and of one that cannot be read nobody knows.
    rows = [
        {"type": "lrm", "node": "active1", "status": "active1 (idle, watchdog standby, Sun Nov 22)"},
        {"type": "lrm", "node": "pve2", "status": "pve2 (maintenance mode, watchdog active, Sun Nov 22)"},
        {"type": "lrm", "node": "pve3", "status": "pve3 (unable to read lrm status)"},
        {"type": "lrm", "node": "pve4", "status": "pve4 (disarm mode, watchdog released, Sun Nov 22)"},
    ]
    assert nodes.fencing(rows) == ("armed", ("pve2", "pve3"))


def test_a_resource_that_ha_does_not_know_any_more_was_not_put_back() -> None:
    former = nodes.Changes(ha={"vm:1": "started"})
    assert nodes.left(former, dataclasses.replace(READY, ha={})).ha == {"vm:1": "started"}
    assert not nodes.left(former, dataclasses.replace(READY, ha={"vm:1": "started"})).ha


def test_nodes_that_are_gone_are_no_news_and_guests_that_run_still_are() -> None:
    """Half of the nodes are off: there is no quorum, and Ceph gives no answer. What still can be read must not contradict."""
    half = dataclasses.replace(READY, quorate=False, online=frozenset({"pve3"}), ceph="unknown")
    assert nodes.lacks(half, ALL, gone=["pve1", "pve2"]) == []
    assert len(nodes.lacks(half, ALL)) == 3 and "pve2 is not heard of" in nodes.lacks(half, ALL, gone=["pve1"])[0]
    assert "these guests are not off" in nodes.lacks(dataclasses.replace(half, running=("104 (on)",)), ALL, gone=["pve1", "pve2"])[0]
    assert "HA is armed" in nodes.lacks(dataclasses.replace(half, ha={"vm:1": "started"}), ALL, gone=["pve1", "pve2"])[0]


@pytest.mark.parametrize(
    ("changes", "version", "former"),
    [
        ({}, (9, 1), {}),
        ({"ha": {"vm:1": "started", "vm:2": "ignored"}}, (9, 1), {"armed": True}),
        ({"ha": {"vm:1": "started", "vm:2": "ignored"}}, (9, 0), {"ha": {"vm:1": "started"}}),
        ({"ha": {"vm:2": "ignored"}, "active_lrms": ("pve1",)}, (9, 1), {"armed": True}),
        # Before 9.1 nothing can be done about an agent that is not idle yet, but wait.
        ({"ha": {"vm:2": "ignored"}, "active_lrms": ("pve1",)}, (8, 4), {}),
        ({"ha": {"vm:1": "started"}, "disarmed": True}, (9, 2), {}),
        ({"ceph": "HEALTH_OK"}, (8, 4), {"noout": True}),
        ({"ceph": "HEALTH_WARN", "noout": True}, (8, 4), {}),
    ],
)
def test_only_what_is_not_so_yet_is_changed(changes: dict[str, object], version: tuple[int, int], former: dict[str, object]) -> None:
    found = nodes.wanted(dataclasses.replace(READY, **changes), ALL, version)  # type: ignore[arg-type]
    assert found.former() == {"armed": False, "ha": {}, "noout": False, **former} and bool(found) is bool(former)


def test_only_what_was_changed_is_put_back() -> None:
    former = nodes.Changes.of({"armed": True, "ha": {"vm:1": "started", "vm:2": "stopped"}, "noout": True})
    dark = dataclasses.replace(
        READY, ha={"vm:1": "ignored", "vm:2": "ignored", "vm:3": "ignored"}, disarmed=True, ceph="HEALTH_WARN", noout=True
    )
    assert nodes.left(former, dark) == former
    # A person has given one of them another state meanwhile.
    assert nodes.left(former, dataclasses.replace(dark, ha={"vm:1": "disabled", "vm:2": "ignored"})).ha == {"vm:2": "stopped"}
    assert not nodes.left(nodes.Changes.of({}), dark)
    assert nodes.absent(dataclasses.replace(READY, online=frozenset({"pve1"}), quorate=False)) == ["pve2", "pve3", "quorum"]
