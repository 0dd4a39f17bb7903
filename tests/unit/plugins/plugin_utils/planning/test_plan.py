# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A plan that could mislead a gate is refused, each fault by name; relations between items are followed."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.planning import plan
from tests.unit.builders import filestore, host, item_of, make_plan, plan_bytes, plan_data

Data = dict[str, Any]


def set_in(item_id: str, **fields: Any) -> Callable[[Data], None]:
    return lambda data: item_of(data, item_id).update(fields)


def setting(**settings: Any) -> Callable[[Data], None]:
    return lambda data: data["settings"].update(settings)


def drop(item_id: str, name: str) -> Callable[[Data], None]:
    return lambda data: item_of(data, item_id).pop(name)


def twin(data: Data) -> None:
    item_of(data, "medium:uploads")["identity"] = dict(item_of(data, "medium:pgdata")["identity"])


FAULTS: list[tuple[str, Callable[[Data], Any], str]] = [
    ("unknown parent", set_in("application:creme", stands_on=["database:gone"]), "application:creme stands on database:gone"),
    ("circle", set_in("host:app1", stands_on=["application:creme"]), "in a circle"),
    ("duplicate", lambda data: data["items"].append(host("db1", "main")), "host:db1 is there twice"),
    ("no medium", set_in("database:creme", media=[]), "database:creme lies on no known medium"),
    ("unknown medium", set_in("database:creme", media=["medium:gone"]), "lies on medium:gone, which the plan does not have"),
    ("no medium at all", set_in("database:creme", media=["host:db1"]), "lies on host:db1, which is no medium"),
    ("dark vault", lambda data: data["vaults"].update(db1={"root": "/"}), "the vault db1 is itself a host that goes off"),
    ("unknown kind", set_in("filestore:uploads", kind="share"), "unknown kind 'share'"),
    ("unknown wave", set_in("host:db1", wave="later"), "the wave 'later'"),
    ("no identity", set_in("medium:pgdata", identity={}), "medium:pgdata has no identity"),
    ("no host", lambda data: data["items"].append(filestore("lost", "nowhere", "main", "pgdata")), "nowhere, which is no host of the plan"),
    ("false name", set_in("host:db1", id="host:db2"), "host:db2 is not named after its kind 'host' and host"),
    ("nothing to stop", set_in("application:creme", expects={}), "application:creme declares nothing to freeze or stop"),
    ("same device twice", twin, "medium:uploads and medium:pgdata are the same device"),
    ("no way to be wiped", drop("medium:pgdata", "wipe"), "'medium:pgdata' lacks wipe"),
    ("no expects", drop("host:db1", "expects"), "'host:db1' lacks expects"),
    ("proof of nothing", setting(proofs_required=0), "proofs_required is 0"),
    ("proof below nothing", setting(proofs_required=-1), "proofs_required is -1"),
    ("more proofs than vaults", setting(proofs_required=3), "from 1 to 2"),
    ("proof as a word", setting(proofs_required="all"), "proofs_required is 'all'"),
    ("no custodian needed", setting(custodians_required=0), "custodians_required is 0"),
    ("negative grace", setting(grace_seconds=-1), "grace_seconds is -1"),
    ("grace that is no number", setting(grace_seconds=float("nan")), "grace_seconds is nan"),
    ("unknown control", lambda data: data.update(control="none"), "control is 'none'"),
    ("a wave twice", lambda data: data.update(waves=["pilot", "main", "main"]), "a wave is named twice"),
    ("no vault", lambda data: data.update(vaults={}), "the field vaults is missing"),
    ("another schema", lambda data: data.update(schema=99), "its schema is 99"),
]


@pytest.mark.parametrize(("break_it", "words"), [fault[1:] for fault in FAULTS], ids=[fault[0] for fault in FAULTS])
def test_each_fault_is_named(break_it: Callable[[Data], Any], words: str) -> None:
    data = plan_data()
    break_it(data)
    with pytest.raises(Refusal) as refusal:
        make_plan(data)
    assert words in str(refusal.value)


def test_the_whole_plan_has_no_fault() -> None:
    current = make_plan()
    assert current.sha256 == plan.parse(plan_bytes(plan_data())).sha256
    assert current.dual
    assert current.waves == ["pilot", "main"]


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"7"])
def test_what_is_no_plan_is_refused(text: bytes) -> None:
    with pytest.raises(Refusal):
        plan.parse(text)


def test_order_puts_each_item_after_what_it_stands_on() -> None:
    order = plan.order(plan_data()["items"])
    for item in plan_data()["items"]:
        assert all(order.index(parent) < order.index(item["id"]) for parent in item["stands_on"])


def test_standing_on_goes_through_others() -> None:
    above = {item["id"] for item in make_plan().standing_on("host:db1")}
    assert above == {"database:creme", "application:creme"}


def test_hosts_before() -> None:
    current = make_plan()
    assert current.hosts_before("db1") == ["app1"]
    assert current.hosts_before("app1") == []


def test_data_sets_of_a_medium_and_the_hosts_that_must_be_off() -> None:
    data = plan_data()
    item_of(data, "filestore:uploads")["media"] = ["medium:uploads", "medium:pgdata"]
    current = make_plan(data)
    assert [item["id"] for item in current.carried_by("medium:pgdata")] == ["filestore:uploads", "database:creme"]
    assert current.media_hosts(current.items["medium:pgdata"]) == ["app1", "db1"]


def test_what_nobody_has_classified() -> None:
    word = {"by": "alice", "as": "test data"}
    found = [{"id": "x", "host": "db1", "what": "a database"}, {"id": "y", "host": "app1", "what": "a port", "classified": word}]
    current = make_plan(plan_data(findings=found))
    assert [finding["id"] for finding in current.unclassified()] == ["x"]
    assert current.unclassified("app1") == []


def test_the_subject_of_evidence_is_identity_and_place_not_the_way_to_reach_it() -> None:
    item = make_plan().items["database:creme"]
    assert plan.subject(item) == plan.subject({**item, "expects": {}, "wave": "pilot", "stands_on": []})
    assert plan.subject(item) != plan.subject({**item, "identity": {**item["identity"], "oid": 1}})
    assert plan.subject(item) != plan.subject({**item, "host": "db2"})


def test_the_digest_is_that_of_the_bytes() -> None:
    data = plan_data()
    assert plan.parse(json.dumps(data).encode()).sha256 != make_plan(data).sha256


@pytest.mark.parametrize("unit", ["docker.service", "docker.socket", "containerd.service", "podman.socket"])
def test_a_container_engine_is_no_service_of_an_application_beside_its_containers(unit: str) -> None:
    """Applications stop before containers, which need their engine to be stopped one by one."""
    data = plan_data()
    app = item_of(data, "application:creme")
    app["expects"]["services"].append({"unit": unit})
    # On another host than the containers' it is a service like any other.
    assert plan.faults(data) == []
    app["host"], app["stands_on"] = "dock1", ["host:dock1"]
    told = "; ".join(plan.faults(data))
    assert f"application:creme names {unit} under services" in told and "container:shop" in told
