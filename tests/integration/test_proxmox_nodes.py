# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Nodes of a simulated Proxmox VE cluster are asked to go off, after everything that must come first."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.proxmox_api import Api
from ansible_collections.sunset.crm.plugins.plugin_utils.proxmox_nodes import Nodes
from tests.integration import pve_fake, pve_schema
from tests.integration.pve_acts import QUICK

ALL = ["pve1", "pve2", "pve3"]


@contextmanager
def nodes(serving: pve_fake.Serving) -> Iterator[Nodes]:
    with Api(serving.api()) as api, Nodes(api, [], clock=QUICK) as one:
        yield one


@pytest.mark.parametrize("version", pve_schema.VERSIONS)
def test_all_nodes_go_off_in_order_and_ha_and_ceph_are_put_back(version: str, tmp_path: Path) -> None:
    with pve_fake.serving(tmp_path, answers="real") as one:
        one.grant()
        one.pve.version = pve_schema.RELEASES[version]
        vm = one.pve.add_vm(100, "crm-db", node="pve2", status="stopped")
        one.pve.ha(vm, "stopped")
        with nodes(one) as cluster:
            standing = cluster.standing()
            with pytest.raises(Refusal, match="HA is armed.*No node was asked"):
                cluster.ask(ALL, standing)
            cluster.allow(ALL, standing)
            former = cluster.set_aside(standing)
            assert former == {"ha": {"vm:100": "stopped"}, "armed": True, "noout": False}
            assert (one.pve.armed == "disarmed") is (cluster.version >= (9, 1)) and one.pve.ceph_flags == {"noout"}
            assert cluster.ask(ALL, cluster.standing()) == ["pve2", "pve3", "pve1"] == one.pve.went_down
        assert pve_schema.problems(one.pve.seen, version) == []
        for node in ALL:
            one.pve.set_node_offline(node, False)
        one.pve.regain_quorum()
        with nodes(one) as cluster:
            cluster.put_back(former)
        assert vm.ha_state == "stopped" and one.pve.armed == "armed" and one.pve.ceph_flags == set()
        assert pve_schema.problems(one.pve.seen, version) == []


def test_a_guest_that_runs_anywhere_keeps_all_nodes_on(tmp_path: Path) -> None:
    """Also one that no plan knows: the hypervisor is asked, not the ledger."""
    with pve_fake.serving(tmp_path, answers="real") as one:
        one.grant()
        one.pve.add_vm(300, "wiki", node="pve3", status="running")
        with nodes(one) as cluster, pytest.raises(Refusal, match=r"these guests are not off: 300 \(wiki\) \(on\). Nothing was changed"):
            cluster.allow(ALL, cluster.standing())
        assert not [made for made in one.pve.seen if made[0] != "GET"] and one.pve.went_down == []


def test_rights_for_nodes_are_looked_for_first(tmp_path: Path) -> None:
    with pve_fake.serving(tmp_path, answers="real") as one:
        one.grant("VM.Audit", "Sys.Audit", "Sys.Console", "Sys.Modify")
        with nodes(one) as cluster, pytest.raises(Refusal, match="lacks Sys.PowerMgmt on /nodes/pve1"):
            cluster.allow(ALL, cluster.standing())
        assert one.pve.went_down == []
