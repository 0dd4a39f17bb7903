# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sets of virtual machines in the plan: hosts inside guests go off first, the guests next, their hypervisor last."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.sunset.crm.plugins.module_utils._survey import rules as survey_rules
from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.guests import reading as guest_reading
from ansible_collections.sunset.crm.plugins.plugin_utils.planning import plan as plans, survey
from ansible_collections.sunset.crm.plugins.plugin_utils.runs import closing, runs
from ansible_collections.sunset.crm.plugins.plugin_utils.steps import filling, gates, steps
from tests.unit.builders import VAULTS, Book, context, dump_result, filestore, guest, host, item_of, make_plan, medium, plan_data, shut

SET, APP, KVM = "guest:crm", "host:app1", "host:kvm1"


def data(**more: Any) -> dict[str, Any]:
    """The estate of builders, with app1 as one of two guests of kvm1."""
    found = plan_data()
    found["items"] += [host("kvm1", "main"), guest("crm", "kvm1", "main", ["vm-app", "vm-old"], **more), medium("kvmdisk", "kvm1", "main")]
    item_of(found, APP)["stands_on"] = [SET]
    item_of(found, APP)["expects"]["guest"] = {"item": SET, "name": "vm-app"}
    return found


PLAN = make_plan(data())


def retired(without_guest: bool = False) -> Book:
    """Everything of wave main but what hypervisors do after the others are off."""
    book = Book(PLAN)
    shut(book, "pilot")
    book.add(kind="accepted", wave="pilot")
    for item in PLAN.of("application", wave="main"):
        book.step(item["id"], "scheduler_state", "frozen", former={"units": {}})
        book.step(item["id"], "web_closed", "closed", former={"site": "x"})
        book.step(item["id"], "session_end")
        book.step(item["id"], "service_state", "stopped", former={"services": {}})
    book.step(APP, "host_power", "off", former={"witness": {"power": "on"}})
    return book


def late(book: Book, skip: tuple[str, ...] = ()) -> Book:
    def step(key: str, *arguments: Any, **more: Any) -> None:
        if key not in skip:
            book.step(*arguments, **more)

    step("guest", SET, "libvirt_guests", "stopped", former={"vm-app": {}}, result={"guests": {"vm-app": {"how": "already off"}}})
    step("dump", SET, "libvirt_guests", "saved", result=dump_result(SET))
    for vault in VAULTS:
        step(f"open@{vault}", KVM, "vault_package", "open", vault, result={"identity_digest": f"k@{vault}"})
        step(f"copy@{vault}", SET, "vault_pull", None, vault)
        step(f"proof@{vault}", SET, "vault_prove", None, vault)
        step(f"sealed@{vault}", KVM, "vault_package", "sealed", vault, result={"identity_digest": f"k@{vault}"})
    step("look", KVM, "host_look", result={"new": []})
    return book


def lacks(module: str, state: str | None, item: str, book: Book, plan: plans.Plan = PLAN) -> list[str]:
    step = steps.find(module, {"state": state})
    return [f"{one.item}: {one.what}" for one in gates.missing(step, plan.items[item], context(book))]


def test_a_plan_with_guests_and_a_host_inside_one_has_no_fault() -> None:
    assert plans.faults(data()) == []


@pytest.mark.parametrize("backend", ["libvirt", "proxmox"])
def test_both_backends_have_the_same_steps(backend: str) -> None:
    module = f"{backend}_guests"
    assert [(steps.find(module, {"state": s}).aspect, steps.find(module, {"state": s}).value) for s in ("stopped", "started", "saved")] == [
        ("guest", "stopped"), ("guest", "started"), ("dump", "saved"),
    ]  # fmt: skip
    assert steps.find(module, {"state": "started"}).back
    assert module in filling.TAKES_FORMER


def test_the_host_inside_the_guest_goes_off_before_the_hypervisor() -> None:
    tiers = runs.power_order(PLAN)
    assert tiers["app1"] < tiers["db1"]
    assert tiers["app1"] < tiers["kvm1"]
    assert PLAN.hypervisors() == {"kvm1"}


def test_what_must_be_off_after_a_hypervisor_is_late_too() -> None:
    found = data()
    found["items"].append({**filestore("nas", "nas1", "main", "nas"), "media": ["medium:nas"]})
    found["items"] += [host("nas1", "main"), medium("nas", "nas1", "main")]
    item_of(found, SET)["stands_on"] = ["filestore:nas", KVM]
    assert make_plan(found).hypervisors() == {"kvm1", "nas1"}


def test_guests_stop_only_when_the_hosts_inside_them_are_off() -> None:
    assert lacks("libvirt_guests", "stopped", SET, retired()) == []
    missing = lacks("libvirt_guests", "stopped", SET, retired().without((APP, "power")))
    assert missing == [f"{APP}: not seen to be off (power)"]
    running = lacks("libvirt_guests", "stopped", SET, retired().without(("application:creme", "service")))
    assert running == ["application:creme: not seen to be stopped (service)"]


def test_guests_are_saved_only_when_they_are_stopped() -> None:
    assert f"{SET}: not seen to be stopped (guest)" in lacks("libvirt_guests", "saved", SET, retired())
    assert lacks("libvirt_guests", "saved", SET, late(retired(), skip=("dump",))) == []


def test_the_hypervisor_goes_off_on_complete_evidence_and_not_without_any_piece() -> None:
    """[haltproof-cli] Guests first, and evidence of their state."""
    assert lacks("host_power", "off", KVM, late(retired())) == []
    for skip in ("guest", "dump", "copy@vault1", "proof@vault2", "sealed@vault1", "look"):
        assert lacks("host_power", "off", KVM, late(retired(), skip=(skip,))), skip
    assert f"{APP}: not seen to be off (power)" in lacks("host_power", "off", KVM, late(retired()).without((APP, "power")))


def test_a_guest_that_nobody_planned_keeps_the_hypervisor_on() -> None:
    found = data()
    found["findings"] = [{"id": "guest:wiki", "host": "kvm1", "kind": "guest", "what": "a virtual machine (running) that no item covers"}]
    plan = make_plan(found)
    step = steps.find("host_power", {"state": "off"})
    book = Book(plan)
    book.entries = late(retired()).entries
    assert ["guest:wiki" in one.what for one in gates.missing(step, plan.items[KVM], context(book))] == [True]


def test_a_cluster_stands_on_each_of_its_nodes_and_they_have_no_order_among_themselves() -> None:
    found = data()
    found["items"].append(host("kvm2", "main"))
    item_of(found, SET)["stands_on"] = [KVM, "host:kvm2"]
    plan = make_plan(found)
    assert runs.power_order(plan)["kvm1"] == runs.power_order(plan)["kvm2"] > runs.power_order(plan)["app1"]
    book = Book(plan)
    missing = {one.item for one in gates.missing(steps.find("host_power", {"state": "off"}), plan.items["host:kvm2"], context(book))}
    assert {SET, APP} <= missing


def test_a_hypervisors_work_comes_after_the_power_off_of_the_others() -> None:
    told = {(one["host"], one["place"]): one for one in runs.members(PLAN, ["main"])}
    assert told["kvm1", "estate"]["items"] == {}
    assert told["kvm1", "estate"]["late"] == {"host": [KVM], "libvirt_guest": [SET], "package": [KVM]}
    assert (told["app1", "estate"]["late"], told["app1", "estate"]["items"]["host"]) == ({}, [APP])
    vault = told["vault1", "vault"]
    assert vault["late"] == {"data_set": [SET], "package": [KVM]}
    assert KVM not in vault["items"]["package"]
    assert SET not in vault["items"]["data_set"]
    assert told["station1", "station"]["late"] == {}


def test_other_phases_know_no_second_part() -> None:
    for phase in ("resume", "wipe"):
        told = {(one["host"], one["place"]): one for one in runs.members(PLAN, ["main"], phase=phase)}
        assert (told["kvm1", "estate"]["items"]["libvirt_guest"], told["kvm1", "estate"]["late"]) == ([SET], {})
        assert KVM in told["vault1", "vault"]["items"]["package"]


def test_the_options_come_from_the_plan_and_say_which_guests_are_hosts_and_ran() -> None:
    def filled(book: Book) -> dict[str, Any]:
        return filling.options(steps.find("libvirt_guests", {"state": "stopped"}), PLAN.items[SET], PLAN, book.view(), "")

    found = filled(retired())
    assert (found["guests"], found["hosts"], found["ran"]) == (["vm-app", "vm-old"], {"vm-app": "app1"}, ["vm-app"])
    assert filled(Book(PLAN))["ran"] == []
    with pytest.raises(Refusal, match="has the backend libvirt, proxmox_guests is for proxmox"):
        filling.options(steps.find("proxmox_guests", {"state": "stopped"}), PLAN.items[SET], PLAN, Book(PLAN).view(), "")
    with pytest.raises(Refusal, match="not its to choose|comes from the plan"):
        filling.merged({"item": SET, "guests": ["other"]}, found, "libvirt_guests")
    assert filling.options(steps.find("vault_prove", {}), PLAN.items[SET], PLAN, late(retired()).view(), "vault1")["proof"] == "guest"


def test_guests_of_another_set_of_the_same_hypervisor_are_left_alone() -> None:
    found = data()
    found["items"].append(guest("more", "kvm1", "main", ["vm-more"]))
    plan = make_plan(found)
    options = filling.options(steps.find("libvirt_guests", {"state": "stopped"}), plan.items[SET], plan, Book(plan).view(), "")
    assert options["others"] == ["vm-more"]


def test_a_host_that_is_switched_on_again_makes_the_copy_of_its_guest_stale() -> None:
    book = late(retired())
    assert book.view().dump(PLAN, PLAN.items[SET]) is not None
    book.step(APP, "host_power", "on")
    assert book.view().dump(PLAN, PLAN.items[SET]) is None


def test_the_table_says_how_the_guests_ended_and_that_none_was_started_from_the_copy() -> None:
    row = closing.row(PLAN.items[SET], PLAN, late(retired()).view(), "shutdown")
    assert row.finished
    assert (row.done, row.proof) == (
        "stopped (already off), saved",
        "read back and compared, not started, on vault1, vault2",
    )


def test_the_table_names_who_allowed_a_guest_to_be_cut_off() -> None:
    book = late(retired()).without((SET, "guest"))
    result = {"guests": {"vm-app": {"how": "by force"}}, "forced": ["vm-app"], "force_allowed_by": "Ada"}
    book.step(SET, "libvirt_guests", "stopped", result=result)
    done = closing.row(PLAN.items[SET], PLAN, book.view(), "shutdown").done
    assert done == "stopped (by force), saved; vm-app cut off, allowed by Ada"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda one: one["expects"].update(backend="nonsense"), "unknown backend 'nonsense'"),
        (lambda one: one["expects"].update(backend="xen"), "Xen is not driven by this collection"),
        (lambda one: one["expects"].update(guests=["vm-app", "vm-app"]), "must list its guests by name, each once"),
        (lambda one: one["expects"].update(guests=[]), "must list its guests by name"),
        (lambda one: one["expects"].update(guests=["vm-old"]), "said to be the guest 'vm-app' of guest:crm, which lists no such guest"),
        (lambda one: one["expects"].pop("staging"), "names no folder on its host"),
    ],
)
def test_faults_of_a_set_are_named(change: Any, words: str) -> None:
    found = data()
    change(item_of(found, SET))
    assert words in "; ".join(plans.faults(found))


def test_faults_between_sets_and_hosts_are_named() -> None:
    found = data()
    found["items"].append(guest("more", "kvm1", "main", ["vm-old"]))
    assert plans.faults(found) == ["the guest vm-old is in guest:crm and in guest:more"]
    found = data()
    found["items"].append(guest("inner", "app1", "main", ["vm-deep"]))
    assert "stands on host:app1, which is a guest itself" in plans.faults(found)[0]
    found = data()
    item_of(found, "host:db1")["stands_on"] = ["database:old"]
    assert "host:db1 stands on database:old, which is no set of guests" in "; ".join(plans.faults(found))
    found = data()
    item_of(found, "host:db1").update(stands_on=[SET])
    item_of(found, "host:db1")["expects"]["guest"] = {"item": SET, "name": "vm-app"}
    assert "host:app1 and host:db1 are said to be the same guest 'vm-app'" in "; ".join(plans.faults(found))


def test_the_survey_lays_a_host_on_its_guest_and_names_one_that_is_another_machine() -> None:
    declared = {"kind": "guest", "name": "crm", "backend": "libvirt", "guests": ["vm-app"], "staging": "/s", "hosts": ["kvm2"]}
    found = {"found": "yes", "identity": {"guests": ["vm-app"], "uuids": {"vm-app": "AB"}}}
    hypervisor = {
        "wave": "main", "power": {}, "reach": {}, "items": [declared],
        "survey": {"machine_id": "1", "hostname": "kvm1", "expected": {SET: found}},
    }  # fmt: skip
    inside = {
        "wave": "main", "power": {}, "reach": {}, "items": [], "guest": {"item": SET, "name": "vm-app"},
        "survey": {"machine_id": "2", "hostname": "app1", "product_uuid": "ab"},
    }  # fmt: skip
    estate = {"estate": "acme", "waves": ["main"], "vaults": {}, "custodians": [], "allowed_signers": "x"}
    built, wrong = survey.build(estate, {"kvm1": hypervisor, "app1": inside})
    by_id = {item["id"]: item for item in built["items"]}
    assert (wrong, by_id[APP]["stands_on"], by_id[SET]["stands_on"]) == ([], [SET], ["host:kvm1", "host:kvm2"])
    assert "hosts" not in by_id[SET]["expects"]
    inside["survey"]["product_uuid"] = "cd"
    assert survey.build(estate, {"kvm1": hypervisor, "app1": inside})[1] == [
        "app1 is said to be the guest vm-app (ab), but its firmware says cd"
    ]


def test_guests_of_the_hypervisor_are_found_on_or_off_and_missing_ones_are_named() -> None:
    shown = {
        "vm-app": {"id": "u1", "uuid": "u1", "detail": "running"},
        "wiki": {"id": "u2", "uuid": "u2", "detail": "shut off"},
    }
    declared = {"name": "crm", "backend": "libvirt", "guests": ["vm-app"]}
    assert guest_reading.expected(declared, shown, {"uuid": "h"})["identity"] == {
        "guests": ["vm-app"], "ids": {"vm-app": "u1"}, "uuids": {"vm-app": "u1"}, "hypervisor": {"uuid": "h"},
    }  # fmt: skip
    assert [(one["id"], one["what"]) for one in guest_reading.strangers(shown, [declared])] == [
        ("guest:wiki", "a virtual machine (shut off) that no item covers")
    ]
    gone = guest_reading.expected({**declared, "guests": ["vm-app", "vm-b"]}, shown, {})
    assert (gone["found"], gone["detail"]) == ("no", "declared and not there: vm-b")


def test_the_daemons_of_a_planned_hypervisor_and_its_guests_consoles_are_accounted_for() -> None:
    covered = survey_rules.covered_units([{"kind": "guest", "name": "crm", "backend": "libvirt"}], {})
    assert survey_rules.unit_is_known("libvirtd.service", covered)
    assert survey_rules.unit_is_known("machine-qemu\\x2d1\\x2dvm.scope", covered)
    assert not survey_rules.unit_is_known("machine-qemu\\x2d1\\x2dvm.scope", set())
    assert not survey_rules.unit_is_known("100.scope", covered)
