# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A hypervisor that was just switched on is waited for; one that refuses for another reason is not."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from ansible_collections.sunset.crm.plugins.plugin_utils.errors import NotYet, Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.guests import action as guest_action


class Opening(guest_action.GuestsAction):
    """Answers at the third try, or refuses for good."""

    def __init__(self, *problems: Refusal) -> None:
        self.problems, self.closed = list(problems), 0

    @contextmanager
    def opened(self, options: dict[str, Any]) -> Iterator[str]:
        if self.problems:
            raise self.problems.pop(0)
        yield "hypervisor"
        self.closed += 1


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guest_action, "PAUSE", 0.0)


def test_it_is_waited_for() -> None:
    one = Opening(NotYet("no socket"), NotYet("no quorum"))
    with one._opened_in_time({}, 60) as found:
        assert (found, one.problems, one.closed) == ("hypervisor", [], 0)
    assert one.closed == 1


def test_without_patience_the_first_answer_counts() -> None:
    one = Opening(NotYet("no socket"), NotYet("never asked"))
    with pytest.raises(NotYet, match="no socket"), one._opened_in_time({}, 0):
        pass
    assert len(one.problems) == 1


def test_a_refusal_for_good_is_not_waited_for() -> None:
    one = Opening(Refusal("the token may not see every guest"), Refusal("never asked"))
    with pytest.raises(Refusal, match="token"), one._opened_in_time({}, 60):
        pass
    assert len(one.problems) == 1


def test_what_goes_wrong_inside_is_not_tried_again() -> None:
    one = Opening()
    with pytest.raises(NotYet), one._opened_in_time({}, 60):
        raise NotYet("it went away meanwhile")


@pytest.mark.parametrize("name", ["docker_guests", "libvirt_guests", "proxmox_guests", "host_power"])
@pytest.mark.parametrize(
    ("force", "said"),
    [
        ({"force_after": 0, "force_allowed_by": "Ada"}, "force_after is 0; expected seconds above 0"),
        ({"force_after": -1, "force_allowed_by": "Ada"}, "force_after is -1; expected seconds above 0"),
        ({"force_after": 60, "force_allowed_by": "Ada"}, "must be shorter than timeout"),
        ({"force_after": 5, "force_allowed_by": " "}, "force_allowed_by is empty"),
        ({"force_after": 5}, "force_allowed_by"),
    ],
)
def test_a_force_that_nobody_can_have_meant_is_refused_before_anything(name: str, force: dict[str, Any], said: str) -> None:
    """0 is what other tools write for never: here it would cut everything off at once."""
    plugin = importlib.import_module(f"ansible_collections.sunset.crm.plugins.action.{name}")
    needed: dict[str, dict[str, Any]] = {
        "docker_guests": {"state": "stopped", "label": "a=b", "containers": ["x"]},
        "libvirt_guests": {"state": "stopped", "guests": ["x"], "staging": "/s"},
        "proxmox_guests": {"state": "stopped", "guests": ["x"], "staging": "/s", "api": {}},
        "host_power": {"state": "off", "witness": {"kind": "docker", "container": "x"}},
    }
    one: Any = plugin.ActionModule.__new__(plugin.ActionModule)
    # Without a connection: whatever goes further than the options ends with another error.
    with pytest.raises(Refusal, match=said):
        one.perform({"item": "a:b", "timeout": 60, **needed[name], **force}, {}, False)
