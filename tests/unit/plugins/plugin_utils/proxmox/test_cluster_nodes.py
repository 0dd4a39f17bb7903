# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which hosts of the plan are nodes of a Proxmox VE cluster, and what must have been seen before one of them goes off."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from ansible_collections.sunset.crm.plugins.plugin_utils.actions import recording
from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.guests import sets as guest_sets
from ansible_collections.sunset.crm.plugins.plugin_utils.planning import survey
from ansible_collections.sunset.crm.plugins.plugin_utils.power import witness
from ansible_collections.sunset.crm.plugins.plugin_utils.proxmox import nodes as proxmox_nodes
from ansible_collections.sunset.crm.plugins.plugin_utils.runs import closing, runs
from ansible_collections.sunset.crm.plugins.plugin_utils.steps import filling, gates, steps
from tests.unit.builders import Book, context, dump_result, guest, host, item_of, make_plan, plan_data

SET, NODES = "guest:crm", ("pve1", "pve2", "pve3")
API = {"hosts": ["pve1", "pve2"], "user": "sunset@pve", "secret_file": "/x"}


def data() -> dict[str, Any]:
    """Three nodes, one set of guests that was declared on the first of them."""
    crm = guest("crm", "pve1", "main", ["100"], backend="proxmox", api=API)
    crm["identity"]["hypervisor"] = {"cluster": "crm-cluster", "nodes": list(NODES)}
    items = [*(host(name, "main") for name in NODES), host("mail1", "main"), crm]
    found = plan_data(waves=["main"], vaults={"vault1": {"root": "/srv/vault"}}, items=items)
    guest_sets.lay_on_nodes(found["items"])
    return found


PLAN = make_plan(data())


def ready(plan: Any = PLAN, aside: tuple[str, ...] = NODES) -> Book:
    """The guests are off and proven, the hosts were looked at, HA and Ceph are aside."""
    book = Book(plan)
    book.step(SET, "proxmox_guests", "stopped", former={"100": {}})
    book.step(SET, "proxmox_guests", "saved", result=dump_result(SET))
    book.step("host:pve1", "vault_package", "open", "vault1", result={"identity_digest": "k"})
    book.step(SET, "vault_pull", None, "vault1")
    book.step(SET, "vault_prove", None, "vault1")
    book.step("host:pve1", "vault_package", "sealed", "vault1", result={"identity_digest": "k"})
    for name in NODES:
        book.step(f"host:{name}", "host_look", result={"new": []})
    for name in aside:
        book.step(f"host:{name}", "proxmox_nodes", "aside", former={"armed": True, "ha": {}, "noout": False})
    return book


def lacks(item: str, book: Book, module: str = "host_power", state: str = "off") -> list[str]:
    return [f"{one.item}: {one.what}" for one in gates.missing(steps.find(module, {"state": state}), PLAN.items[item], context(book))]


def test_a_host_is_a_node_by_its_own_name_whether_the_inventory_lists_it_or_not() -> None:
    assert PLAN.items[SET]["stands_on"] == ["host:pve1", "host:pve2", "host:pve3"]
    found = PLAN.cluster_of("pve2")
    assert found == {"name": "crm-cluster", "api": API, "node": "pve2", "hosts": {name: name for name in NODES}}
    assert PLAN.cluster_of("mail1") is None
    named = data()
    item_of(named, "host:pve3")["identity"]["hostname"] = "pve3.example.org"
    assert (make_plan(named).cluster_of("pve3") or {})["node"] == "pve3"


def test_of_two_clusters_with_a_node_of_the_same_name_the_inventory_tells_which() -> None:
    found = data()
    other = guest("old", "mail1", "main", ["7"], backend="proxmox", api=API)
    other["identity"]["hypervisor"] = {"cluster": "old-cluster", "nodes": ["pve1", "pve9"]}
    found["items"].append(other)
    guest_sets.lay_on_nodes(found["items"])
    assert item_of(found, "guest:old")["stands_on"] == ["host:mail1"]
    unlisted = data()
    item_of(unlisted, SET)["stands_on"] = ["host:mail1"]
    unlisted["items"].append(other)
    guest_sets.lay_on_nodes(unlisted["items"])
    assert "host:pve1" not in item_of(unlisted, SET)["stands_on"] and "host:pve2" in item_of(unlisted, SET)["stands_on"]


def test_a_set_on_libvirt_makes_no_nodes() -> None:
    found = data()
    item_of(found, SET)["expects"]["backend"] = "libvirt"
    assert make_plan(found).cluster_of("pve1") is None


def test_the_survey_lays_a_set_on_all_nodes_of_its_cluster() -> None:
    declared = {"kind": "guest", "name": "crm", "backend": "proxmox", "guests": ["100"], "staging": "/s", "api": API}
    seen = {"found": "yes", "identity": {"guests": ["100"], "hypervisor": {"cluster": "c", "nodes": ["pve1", "pve2"]}}}
    hosts = {
        "hyper-a": {"items": [declared], "survey": {"machine_id": "1", "hostname": "pve1", "expected": {SET: seen}}},
        "hyper-b": {"items": [], "survey": {"machine_id": "2", "hostname": "pve2.example.org"}},
    }
    estate = {"estate": "acme", "waves": ["main"], "vaults": {}, "custodians": [], "allowed_signers": "x"}
    built, wrong = survey.build(estate, {name: {"wave": "main", "power": {}, "reach": {}, **one} for name, one in hosts.items()})
    assert wrong == [] and item_of(built, SET)["stands_on"] == ["host:hyper-a", "host:hyper-b"]
    found = guest_sets.cluster("hyper-b", {item["id"]: item for item in built["items"]})
    assert found is not None and (found["node"], found["hosts"]) == ("pve2", {"hyper-a": "pve1", "hyper-b": "pve2"})


def test_fact_4_a_node_goes_off_only_when_guests_are_off_and_ha_is_aside() -> None:
    assert lacks("host:pve2", ready()) == []
    assert lacks("host:pve2", ready(aside=("pve1", "pve3"))) == ["host:pve2: not seen to be aside (cluster)"]
    # The guests of the whole cluster, on whatever node they were declared.
    for item, module, state in (("host:pve2", "host_power", "off"), ("host:pve2", "proxmox_nodes", "aside")):
        assert f"{SET}: not seen to be stopped (guest)" in lacks(item, ready().without((SET, "guest")), module, state)
        assert any("restored and compared on 0" in one for one in lacks(item, ready().without((SET, "proof@vault1")), module, state))
    assert lacks("host:pve2", ready(aside=()), "proxmox_nodes", "aside") == []


def test_a_host_that_is_no_node_has_nothing_to_set_aside() -> None:
    assert "no set of guests of the plan says that it is a node" in lacks("host:mail1", ready(), "proxmox_nodes", "aside")[0]
    with pytest.raises(Refusal, match="host:mail1 is no node of a Proxmox VE cluster"):
        filling.options(steps.find("proxmox_nodes", {"state": "aside"}), PLAN.items["host:mail1"], PLAN, Book(PLAN).view(), "")


def test_after_a_resume_ha_has_to_be_set_aside_again() -> None:
    book = ready()
    book.step("host:pve2", "proxmox_nodes", "restored")
    assert "host:pve2: not seen to be aside (cluster)" in lacks("host:pve2", book)
    assert closing.row(PLAN.items["host:pve2"], PLAN, book.view(), "resume").finished
    assert closing.row(PLAN.items["host:pve1"], PLAN, book.view(), "resume").done == "still changed: cluster"


def test_the_options_come_from_the_plan_with_what_a_person_has_classified_on_any_node() -> None:
    found = data()
    told = {"by": "alice", "as": "scrap"}
    found["findings"] = [{"id": "guest:wiki", "host": "pve1", "kind": "guest", "what": "a virtual machine", "classified": told}]
    plan, view = make_plan(found), Book(PLAN).view()
    for module, state in (("proxmox_nodes", "aside"), ("host_power", "off")):
        filled = filling.options(steps.find(module, {"state": state}), plan.items["host:pve3"], plan, view, "")
        assert (filled["cluster"]["node"], filled["cluster"]["excused"]) == ("pve3", ["wiki"])
        assert filled["cluster"]["together"] == list(NODES)
        with pytest.raises(Refusal, match="Leave the option out"):
            filling.merged({"cluster": {"api": {"hosts": ["elsewhere"]}}}, filled, module)
    assert "cluster" not in filling.options(steps.find("host_power", {"state": "off"}), plan.items["host:mail1"], plan, view, "")
    back = filling.options(steps.find("proxmox_nodes", {"state": "restored"}), PLAN.items["host:pve1"], PLAN, ready().view(), "")
    assert back["former"] == {"armed": True, "ha": {}, "noout": False}


def test_nodes_go_off_last_and_have_no_order_among_themselves() -> None:
    told = {one["host"]: one for one in runs.members(PLAN, ["main"]) if one["place"] == "estate"}
    assert {name: (told[name]["items"], told[name]["late"].get("proxmox_node")) for name in NODES} == {
        name: ({}, [f"host:{name}"]) for name in NODES
    }
    assert told["mail1"]["items"] == {"host": ["host:mail1"]} and told["mail1"]["late"] == {}
    assert len({told[name]["tier"] for name in NODES}) == 1
    back = {one["host"]: one for one in runs.members(PLAN, ["main"], phase="resume") if one["place"] == "estate"}
    assert back["pve2"]["items"]["proxmox_node"] == ["host:pve2"]


def test_which_nodes_are_gone_says_the_ledger() -> None:
    """Asked, or begun and not recorded, and not switched on since. One that was refused before it was asked is not gone."""
    place = proxmox_nodes.Place.of(PLAN.cluster_of("pve3") or {})
    book = ready()
    assert place.gone(book.entries) == []
    book.step("host:pve1", "host_power", "off", former={"power": "on"})
    book.step("host:pve2", "host_power", "off", status=None, former={"power": "on"})
    book.step("host:pve3", "host_power", "off", status="failed", former={"power": "on"})
    assert place.gone(book.entries) == ["pve1", "pve2"]
    book.step("host:pve3", "host_power", "off", status=None, former={"power": "on"})
    # The step that asks is not counted itself.
    assert place.gone(book.entries, book.entries[-1].hash) == ["pve1", "pve2"]
    book.entries[-1].record.update(kind="outcome", status="failed", evidence={"actions": [{"did": "asked to power off"}]})
    assert place.gone(book.entries) == ["pve1", "pve2", "pve3"]
    book.step("host:pve1", "host_power", "on")
    assert place.gone(book.entries) == ["pve2", "pve3"]


@pytest.mark.parametrize("refused", [False, True])
def test_the_same_shutdown_goes_on_when_a_node_is_off(refused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it nobody can look at all guests again; what was seen of them stands. refused: their own node was, before it was asked."""
    book = ready()
    if refused:
        book.step("host:pve1", "host_power", "off", status="failed", former={"witness": {"power": "on"}})
    sees = {"pve1": "on", "pve2": "off", "pve3": "on"}
    monkeypatch.setattr(recording, "read_witness", lambda one: {"power": sees[one["container"]], "kind": "docker", "detail": {}})
    step, item = steps.find("proxmox_guests", {"state": "stopped"}), PLAN.items[SET]

    def answer() -> Any:
        session = SimpleNamespace(plan=PLAN, view=book.view(), complete=lambda *_: False, too_late=lambda *_: False)
        return recording._from_ledger(session, step, item, "", book.view().get(SET, "guest"))  # type: ignore[arg-type]

    assert answer() is None
    book.step("host:pve2", "host_power", "off", former={"witness": {"power": "on"}})
    assert "its node pve2 is off, says docker" in answer()["msg"]
    # It is on again, whatever the ledger says: the guests are looked at.
    sees["pve2"] = "on"
    assert answer() is None


def test_proxmox_node_what_proxmox_says_of_a_node_is_no_witness() -> None:
    """[community.proxmox proxmox_node HEAD] community.proxmox proxmox_node posts a shutdown and returns "has been powered off". Here no kind of witness asks Proxmox."""
    assert set(witness.KINDS) == {"docker", "silence", "redfish", "ipmi", "libvirt"}
    with pytest.raises(Refusal, match="witness kind 'proxmox' is not known"):
        witness.described({"kind": "proxmox", "node": "pve1"})
