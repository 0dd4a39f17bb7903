# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is refused before a host is asked to go off. (With real processes: tests/integration/test_powering.py.)"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from ansible_collections.sunset.crm.plugins.action import host_power
from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal

UUID = "5f3c1f0e-0000-4000-8000-00000000000a"


@pytest.mark.parametrize(
    ("more", "identity", "words"),
    [
        ({"force_after": 600.0}, {"machine_id": "a" * 32}, "it has no management controller that could"),
        ({"ask_controller": True}, {}, "does not answer through its connection"),
    ],
)
def test_a_hypervisor_that_knows_the_host_cannot_cut_it_off(more: dict[str, Any], identity: dict[str, str], words: str) -> None:
    """Its uuid is the host's, and it is no controller: to be told before the host is asked, not when it should be cut off."""
    options = {
        "item": "host:app1", "machine_id": "a" * 32, "board": {"uuid": UUID}, "force_after": None, "force_allowed_by": "Ada",
        "ask_controller": False, **more,
    }  # fmt: skip
    watch: Any = SimpleNamespace(witnesses=[{"kind": "libvirt", "uri": "qemu:///system", "domain": "app1"}])
    reading = {"power": "on", "kind": "libvirt", "detail": {"domain": "app1", "uuid": UUID}}
    action: Any = object.__new__(host_power.ActionModule)
    with pytest.raises(Refusal, match=words):
        action._may_be_asked(options, watch, reading, host_power.Descent(identity=identity))
    if not more.get("ask_controller"):
        action._may_be_asked({**options, "force_after": None}, watch, reading, host_power.Descent(identity=identity))
        with pytest.raises(Refusal, match=r"its witness \(libvirt\) shows .* another machine"):
            action._may_be_asked({**options, "board": {"uuid": UUID[:-1] + "b"}}, watch, reading, host_power.Descent(identity=identity))


def test_a_plan_with_a_lone_silence_says_that_another_plan_is_needed() -> None:
    """One of an earlier version: the inventory alone, corrected, would change nothing."""
    action: Any = object.__new__(host_power.ActionModule)
    args = {"item": "host:app1", "state": "off", "witness": {"kind": "silence", "address": "192.0.2.12"}}
    with pytest.raises(Refusal, match="^host:app1: its only witness is silence, .* survey again and have the new plan approved"):
        action.perform(args, {}, False)
