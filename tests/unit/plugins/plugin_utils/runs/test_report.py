# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the report says of single guests."""

from __future__ import annotations

from typing import Any

from ansible_collections.sunset.crm.plugins.plugin_utils.record.view import Seen, View
from ansible_collections.sunset.crm.plugins.plugin_utils.runs import report
from tests.unit import builders


def rows(value: str, guests: dict[str, Any], hypervisor: dict[str, Any]) -> list[dict[str, Any]]:
    items = [builders.host("h", "only"), builders.guest("crm", "h", "only", ["a", "b"])]
    items[1]["identity"] = {"hypervisor": hypervisor}
    plan = builders.make_plan(builders.plan_data(waves=["only"], items=items))
    seen = Seen(value, 1, "0" * 64, "now", {"guests": guests}, {}, {})
    return report.guests(plan, View(seen={("guest:crm", "guest"): seen}))


ENDED = {
    "a": {"how": "by itself", "seconds": 1.5, "returned_before": "autostart", "returns_after": ""},
    "b": {"how": "already off", "seconds": None, "returned_before": "", "returns_after": ""},
}


def test_each_guest_is_named_with_its_cluster() -> None:
    first, second = rows("stopped", ENDED, {"cluster": "north", "nodes": ["n1"]})
    assert (first["name"], first["where"], first["how"], first["returned"], first["returns"]) == (
        "a",
        "h, cluster north",
        "by itself",
        "autostart",
        "",
    )
    assert (second["name"], second["seconds"]) == ("b", None)


def test_a_hypervisor_alone_is_its_host() -> None:
    assert {row["where"] for row in rows("stopped", ENDED, {"uuid": "0000"})} == {"h"}


def test_what_runs_again_is_not_listed_as_ended() -> None:
    assert rows("started", ENDED, {}) == []


def test_an_order_is_settled_by_a_later_wipe_and_not_by_the_one_that_it_speaks_of() -> None:
    order = {"item": "medium:x", "entry": "1" * 64}
    for value, entry, settled in (("wiped", "2" * 64, "wiped since (ledger 8)"), ("wiped", "1" * 64, ""), ("other", "2" * 64, "")):
        seen = Seen(value, 7, entry, "now", {}, {}, {})
        assert report._wiped_since(View(seen={("medium:x", "wipe"): seen}), order) == settled
    assert report._wiped_since(View(), order) == ""
