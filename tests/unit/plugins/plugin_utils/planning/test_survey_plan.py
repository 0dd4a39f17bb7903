# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From declarations and surveys to a plan: nothing expected goes missing, every data set is on a known medium."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.planning import plan, survey
from tests.unit.builders import plan_bytes

ESTATE: dict[str, Any] = {
    "estate": "acme", "waves": ["pilot", "main"], "vaults": {"vault1": {"root": "/srv"}}, "allowed_signers": "x",
    "custodians": [{"name": "bob", "recipient": "age1"}],
}  # fmt: skip
DEVICE = {"serial": "S1", "wwid": None, "inode": None, "size": 100}


def base(wave: str = "main") -> dict[str, Any]:
    """A host with one database on one medium."""
    return {
        "wave": wave, "power": {"kind": "silence", "address": "a"}, "reach": {"address": "a"},
        "items": [
            {"kind": "database", "name": "d", "engine": "postgresql", "database": "d", "staging": "/s"},
            {"kind": "medium", "name": "m", "device": "/dev/sda", "identity": {"serial": "S1"}, "wipe": {"host": "station1"}},
        ],
        "survey": {
            "machine_id": "1", "hostname": "db1", "findings": [],
            "expected": {
                "database:d": {"found": "yes", "identity": {"oid": 1}, "media": [dict(DEVICE)]},
                "medium:m": {"found": "yes", "identity": dict(DEVICE)},
            },
        },
    }  # fmt: skip


def front(wave: str = "main") -> dict[str, Any]:
    return {
        "wave": wave, "power": {"kind": "silence", "address": "b"}, "reach": {"address": "b"},
        "items": [{"kind": "application", "name": "a", "uses": ["database:d"], "schedulers": {"units": ["x"]}}],
        "survey": {"machine_id": "2", "hostname": "app1", "expected": {"application:a": {"found": "yes", "identity": {"files": {"x": 1}}}}},
    }  # fmt: skip


def built(**changes: Any) -> tuple[dict[str, Any], list[str]]:
    return survey.build({**ESTATE, **changes.pop("estate", {})}, {"db1": base(), "app1": front(), **changes})


def item(data: dict[str, Any], name: str) -> dict[str, Any]:
    return next(found for found in data["items"] if found["id"] == name)


def test_a_whole_survey_makes_a_plan_without_faults() -> None:
    data, lacks = built()
    assert lacks == []
    current = plan.parse(plan_bytes(data))
    assert current.items["application:a"]["stands_on"] == ["database:d", "host:app1"]
    assert current.items["database:d"]["media"] == ["medium:m"]
    assert [found["id"] for found in current.carried_by("medium:m")] == ["database:d"]
    assert "_media" not in str(data)


@pytest.mark.parametrize("silent", [None, {}])
def test_a_host_that_gave_no_survey_is_named(silent: Any) -> None:
    assert "db1: it gave no survey" in built(db1={**base(), "survey": silent})[1][0]


@pytest.mark.parametrize(
    ("found", "words"), [("no", "is not there"), ("unknown", "could not be examined"), (None, "could not be examined")]
)
def test_an_item_that_was_not_seen_is_named(found: str | None, words: str) -> None:
    host = base()
    if found is None:
        del host["survey"]["expected"]["database:d"]
    else:
        host["survey"]["expected"]["database:d"]["found"] = found
    assert f"database:d on db1 {words}" in "; ".join(built(db1=host)[1])


def test_a_medium_that_is_not_the_declared_one_is_named() -> None:
    host = base()
    host["items"][1]["identity"]["serial"] = "S2"
    assert built(db1=host)[1] == ["medium:m on db1: serial is 'S1', the inventory expects 'S2'"]


@pytest.mark.parametrize(
    "device",
    [
        {"serial": "S2", "size": 100},
        {"serial": "S1", "size": 101},
        {"serial": None, "size": 100},
        {"size": 100, "device": "/dev/sdb"},
        {},
    ],
    ids=["other serial", "other size", "size only", "size and a name", "nothing"],
)
def test_a_data_set_on_an_unplanned_device_is_named(device: dict[str, Any]) -> None:
    """Equal size is no identity: else the data would count as lying on another disk, and its own would be nobody's."""
    host = base()
    host["survey"]["expected"]["database:d"]["media"] = [device]
    assert "database:d lies on" in "; ".join(built(db1=host)[1])


def test_a_data_set_on_no_device_at_all_is_no_plan() -> None:
    host = base()
    host["survey"]["expected"]["database:d"]["media"] = []
    with pytest.raises(Refusal, match="database:d lies on no known medium"):
        plan.parse(plan_bytes(built(db1=host)[0]))


def test_a_wwid_tells_a_device_too() -> None:
    host = base()
    host["survey"]["expected"]["medium:m"]["identity"] = {"wwid": "naa.5", "serial": "S1", "size": 100}
    host["survey"]["expected"]["database:d"]["media"] = [{"wwid": "naa.5", "size": 100}]
    assert item(built(db1=host)[0], "database:d")["media"] == ["medium:m"]
    host["survey"]["expected"]["database:d"]["media"] = [{"wwid": "naa.6", "size": 100}]
    assert built(db1=host)[1]


@pytest.mark.parametrize("order", [("app1", "db1"), ("zapp", "db1")])
def test_what_serves_several_waves_belongs_to_the_last_of_them(order: tuple[str, str]) -> None:
    """Through any number of steps, whatever the order of the inventory: database, its host, its medium."""
    front_name, base_name = order
    data, _ = survey.build(ESTATE, {base_name: base("pilot"), front_name: front("main")})
    assert {found["id"]: found["wave"] for found in data["items"]} == {
        f"host:{front_name}": "main", "application:a": "main", "host:db1": "main", "database:d": "main", "medium:m": "main",
    }  # fmt: skip
    data, _ = survey.build(ESTATE, {base_name: base("main"), front_name: front("pilot")})
    assert item(data, "application:a")["wave"] == "pilot"
    assert item(data, "database:d")["wave"] == "main"


def test_an_unknown_wave_is_refused() -> None:
    with pytest.raises(Refusal, match="belongs to the wave 'later'"):
        built(db1=base("later"))


WORD = {"id": "x", "by": "alice", "as": "test data", "reason": "asked"}


@pytest.mark.parametrize(
    ("word", "counts"),
    [
        (WORD, True),
        ({**WORD, "host": "db1"}, True),
        ({**WORD, "host": "app1"}, False),
        ({**WORD, "id": "y"}, False),
        ({**WORD, "by": ""}, False),
        ({"id": "x", "by": "alice"}, False),
    ],
)
def test_a_finding_is_classified_by_a_named_person_for_that_host(word: dict[str, Any], counts: bool) -> None:
    host = base()
    host["survey"]["findings"] = [{"id": "x", "kind": "listener", "what": "port 1"}]
    data, _ = built(db1=host, estate={"classified": [word]})
    current = plan.parse(plan_bytes(data))
    assert (current.unclassified() == []) == counts


def test_a_host_that_is_proven_off_keeps_its_part_of_the_plan() -> None:
    first, lacks = survey.build(ESTATE, {"db1": base(), "app1": front()})
    assert lacks == []
    kept = {key: [one for one in first[key] if one["host"] == "db1"] for key in ("items", "findings")}
    again, lacks = survey.build(ESTATE, {"db1": {**base(), "survey": None, "kept": kept}, "app1": front()})
    assert (again, lacks) == (first, [])
    assert "it gave no survey" in survey.build(ESTATE, {"db1": {**base(), "survey": None, "kept": None}, "app1": front()})[1][0]


def staged(host: dict[str, Any], item_id: str = "database:d", **changes: Any) -> list[str]:
    host["survey"]["staging"] = {item_id: {"place": "/s", "problem": "", "media": [dict(DEVICE)], "in_memory": False, **changes}}
    return built(db1=host)[1]


def test_a_staging_place_on_a_medium_that_is_wiped_is_good() -> None:
    assert staged(base()) == []
    assert staged(base(), media=[], in_memory=True) == []


@pytest.mark.parametrize(
    ("media", "words"),
    [
        ([{"serial": "SYSTEM", "size": 9}], "lies on SYSTEM, which no medium of the inventory is"),
        ([dict(DEVICE), {"device": "/dev/sdz", "size": 9}], "lies on /dev/sdz, which"),
        ([], "lies on no block device that can be seen from there"),
    ],
)
def test_a_staging_place_that_no_wipe_reaches_makes_no_plan(media: list[dict[str, Any]], words: str) -> None:
    """The copies would outlive the wipe. Until now this was seen by nobody; and an open place only when the dump began."""
    (lack,) = staged(base(), media=media)
    assert lack.startswith("database:d on db1: its staging place /s") and words in lack
    assert not staged({**base(), "stays": True}, media=media)
    alone = base()
    alone["items"] = [{"kind": "guest", "name": "g", "backend": "proxmox", "guests": ["x"], "staging": "/s"}]
    assert not [one for one in staged(alone, "guest:g", media=media) if "staging place" in one]


def test_a_staging_place_that_cannot_be_used_makes_no_plan() -> None:
    assert staged(base(), problem="staging /s is open to others (mode 0755)") == [
        "database:d on db1: staging /s is open to others (mode 0755)"
    ]
