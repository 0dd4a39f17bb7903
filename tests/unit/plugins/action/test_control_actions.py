# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Opening, showing, closing and reporting a run, called as Ansible's worker would call them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.sunset.crm.plugins.action import plan_build, report, run_close, run_gate, run_joined, run_open
from ansible_collections.sunset.crm.plugins.plugin_utils.actions.control import ControlAction
from ansible_collections.sunset.crm.plugins.plugin_utils.certificates import certificate
from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.people import signatures
from ansible_collections.sunset.crm.plugins.plugin_utils.record import copies, estate as estates, ledger
from ansible_collections.sunset.crm.plugins.plugin_utils.record.estate import Estate
from ansible_collections.sunset.crm.plugins.plugin_utils.steps import predictions
from tests.unit.builders import Book, complete, make_estate, make_plan, plan_bytes, plan_data, sign
from tests.unit.plugins.plugin_utils.certificates.test_certificate import facts as wipe_facts

Result = dict[str, Any]
ANSWER = {"sunset_vault_seen": {"vault": {"uid": 906, "problems": [], "disks": []}}}
EVERYONE = ["old1", "app1", "db1", "dock1", "vault1", "vault2", "station1"]


@pytest.fixture(autouse=True)
def private(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(predictions, "_path", lambda: tmp_path / "predicted.jsonl")


@pytest.fixture
def estate(tmp_path: Path, keys: dict[str, Path]) -> Estate:
    made: Estate = make_estate(tmp_path / "acme", keys)
    return made


def act(plugin: Any, estate: Estate, args: Result | None = None, check: bool = False, **variables: Any) -> Result:
    action: ControlAction = object.__new__(plugin.ActionModule)
    told = {"ansible_play_hosts_all": EVERYONE, "hostvars": {name: {} for name in EVERYONE}, **variables}
    told["hostvars"] = {name: {**ANSWER, **found} for name, found in told["hostvars"].items()}
    return action.act(estate, args or {}, told, check)


def opened(estate: Estate, phase: str = "shutdown", **more: Any) -> Result:
    args = {"phase": phase, "confirm": "acme", "operator": "olga", "wave": more.pop("wave", "")}
    return act(run_open, estate, args, **more)


def kinds(estate: Estate) -> list[str]:
    return [entry.record["kind"] for entry in ledger.read(estate.ledger_file)]


# --- opening ---


def test_a_run_is_opened_on_record(estate: Estate) -> None:
    done = opened(estate)
    assert done["waves"] == ["pilot"]
    assert {member["host"] for member in done["members"]} == {"old1", "vault1", "vault2", "station1"}
    assert kinds(estate) == ["genesis", "run"]
    record = ledger.read(estate.ledger_file)[1].record
    assert (record["operator"], record["approver"], record["phase"]) == ("olga", "alice", "shutdown")
    assert act(run_joined, estate)["run"] == done["run"]


def test_a_run_of_the_wipe_writes_down_the_disks_of_the_vaults_and_who_did_not_tell(
    estate: Estate, tmp_path: Path, keys: dict[str, Path]
) -> None:
    """An older vault, one that fell silent, and one that answers nonsense are alike: not known."""
    opened(estate)
    assert "vault_disks" not in estates.my_run(estate)
    mine = [{"serial": "S1", "size": 9}]
    for answer in (
        {"problems": []},
        {"problems": [], "disks": "none"},
        {"problems": [], "disks": ["sda"]},
        {"problems": [], "disks": None},
    ):
        made = whole(tmp_path / str(len(str(answer))), keys)
        told = {name: {} for name in EVERYONE}
        told["vault1"] = {"sunset_vault_seen": {"vault": {"uid": 906, "problems": [], "disks": mine}}}
        told["vault2"] = {"sunset_vault_seen": {"vault": {"uid": 906, **answer}}}
        opened(made, "wipe", wave="pilot", hostvars=told)
        assert estates.my_run(made)["vault_disks"] == {"vault1": mine, "vault2": None}
        assert [e.record for e in ledger.read(made.ledger_file) if e.record["kind"] == "run"][-1]["vault_disks"]["vault1"] == mine


@pytest.mark.parametrize("word", ["", None, "yes", "Acme", "acme "])
def test_the_estates_own_name_is_typed_in(estate: Estate, word: Any) -> None:
    with pytest.raises(Refusal, match="type its own name: -e sunset_confirm=acme"):
        act(run_open, estate, {"phase": "shutdown", "confirm": word})
    assert not estate.run_file.exists()
    assert kinds(estate) == []


def test_an_unknown_phase_and_an_unknown_wave_are_refused(estate: Estate) -> None:
    with pytest.raises(Refusal, match="expected one of shutdown, wipe, resume"):
        opened(estate, "everything")
    with pytest.raises(Refusal, match="the plan has no wave later"):
        opened(estate, wave="later")
    with pytest.raises(Refusal, match="no wave is accepted yet"):
        opened(estate, "wipe")
    assert not estate.run_file.exists()


def test_a_plan_that_nobody_approved_as_it_is_opens_nothing(estate: Estate) -> None:
    estate.plan_file.write_bytes(estate.plan_file.read_bytes().replace(b'"dual"', b'"single"'))
    with pytest.raises(Refusal, match="is not approved"):
        opened(estate)


def test_a_limit_that_cuts_machines_off_is_refused(estate: Estate) -> None:
    with pytest.raises(Refusal) as refusal:
        opened(estate, ansible_play_hosts_all=["old1"], ansible_limit="old1")
    for word in ("--limit old1", "station1", "vault1", "vault2"):
        assert word in str(refusal.value)


def test_the_keys_of_people_are_pinned_for_the_whole_estate(estate: Estate, keys: dict[str, Path]) -> None:
    """Whoever can write plans cannot bring other people in later."""
    opened(estate)
    estates.close_run(estate)
    signers = "alice " + " ".join(keys["operator"].with_suffix(".pub").read_text().split()[:2]) + "\n"
    estate.plan_file.write_bytes(plan_bytes(plan_data(allowed_signers=signers)))
    sign(estate.plan_file, keys["operator"], signatures.APPROVAL)
    with pytest.raises(Refusal, match="allowed signers changed since the ledger began"):
        opened(estate)


def test_a_broken_ledger_opens_nothing(estate: Estate) -> None:
    opened(estate)
    estates.close_run(estate)
    estate.ledger_file.write_bytes(estate.ledger_file.read_bytes().replace(b"olga", b"otto").replace(b"genesis", b"Genesis"))
    with pytest.raises(Refusal, match="is broken"):
        opened(estate)


def test_check_mode_opens_without_a_record(estate: Estate) -> None:
    opened(estate, check=True)
    assert kinds(estate) == []
    assert json.loads(estate.run_file.read_text())["check"] is True
    assert act(run_close, estate, check=True)["failed"]
    assert not estate.run_file.exists()


def test_a_vault_that_does_not_take_the_ledger_keeps_the_run_closed(estate: Estate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies, "command", lambda receiver: ["false"])
    hostvars: dict[str, Result] = {name: {} for name in EVERYONE} | {
        "vault1": {"sunset_ledger_receiver": {"user": "ledger", "key": "/k", "known_hosts": "/h"}}
    }
    with pytest.raises(Refusal, match="vault1"):
        opened(estate, hostvars=hostvars)
    assert not estate.run_file.exists()


def test_what_an_earlier_run_left_open_is_named(tmp_path: Path, keys: dict[str, Path]) -> None:
    book = Book(make_plan())
    book.step("application:old", "scheduler_state", "frozen", status=None)
    assert opened(make_estate(tmp_path / "a", keys, book=book))["interrupted"][0].startswith("application:old: scheduler frozen")


# --- closing ---


def test_a_run_that_left_something_fails_and_names_it(estate: Estate) -> None:
    opened(estate)
    done = act(run_close, estate)
    assert done["failed"]
    for item in ("host:old1", "application:old", "database:old"):
        assert item in done["msg"]
    assert not estate.run_file.exists()
    last = ledger.read(estate.ledger_file)[-1].record
    assert (last["state"], sorted(last["unfinished"])) == ("closed", ["application:old", "database:old", "host:old1"])


def accepted(estate: Estate) -> list[str]:
    return [entry.record["wave"] for entry in ledger.read(estate.ledger_file) if entry.record["kind"] == "accepted"]


def whole(folder: Path, keys: dict[str, Path], **changes: Any) -> Estate:
    """Everything is done, but no wave was accepted."""
    data = plan_data(**changes)
    book = complete(make_plan(data))
    for wave in data["waves"]:
        book = book.without((wave, "accepted"))
    made: Estate = make_estate(folder, keys, data, book)
    return made


def test_a_wave_is_accepted_on_full_evidence_once(tmp_path: Path, keys: dict[str, Path]) -> None:
    made = whole(tmp_path / "a", keys)
    opened(made)
    assert act(run_close, made)["accepted"] == ["pilot"]
    opened(made, wave="pilot")
    act(run_close, made)
    assert accepted(made) == ["pilot"]


def test_a_wave_is_not_accepted_where_a_person_has_to(tmp_path: Path, keys: dict[str, Path]) -> None:
    made = whole(tmp_path / "a", keys, settings={"acceptance": "signed"})
    opened(made)
    act(run_close, made)
    assert accepted(made) == []


def test_a_resume_accepts_nothing(tmp_path: Path, keys: dict[str, Path]) -> None:
    made = whole(tmp_path / "a", keys)
    opened(made, "resume", wave="pilot")
    assert act(run_close, made)["failed"]
    assert accepted(made) == []


def test_nobody_closes_or_joins_a_run_that_is_not_open(estate: Estate) -> None:
    for plugin in (run_close, run_joined, run_gate):
        with pytest.raises(Refusal, match="no run is open"):
            act(plugin, estate, {"gate": "wipe"})


# --- gates shown early, report ---


def test_the_gate_is_shown_with_all_that_is_missing(estate: Estate) -> None:
    opened(estate)
    with pytest.raises(Refusal, match="gate is 'any'"):
        act(run_gate, estate, {"gate": "any"})
    done = act(run_gate, estate, {"gate": "power off"})
    assert done["failed"]
    assert "application:old: not seen to be frozen" in done["msg"]


def test_the_gate_shows_the_order_of_its_own_phase_as_no_obstacle(tmp_path: Path, keys: dict[str, Path]) -> None:
    book = complete(make_plan()).without(("main", "accepted")).without(("host:app1", "power")).without(("host:db1", "power"))
    made = make_estate(tmp_path / "a", keys, book=book)
    opened(made)
    assert act(run_gate, made, {"gate": "power off"})["open_for"] == ["host:app1", "host:db1"]


def test_the_report_is_one_escaped_page_from_any_point(tmp_path: Path, keys: dict[str, Path]) -> None:
    data = plan_data(findings=[{"id": "<script>alert(1)</script>", "host": "db1", "kind": "x", "what": "y", "classified": None}])
    made = make_estate(tmp_path / "a", keys, data, complete(make_plan(data)))
    page = Path(act(report, made)["path"]).read_text()
    assert "<script>alert" not in page
    assert "database:creme" in page
    assert "http://" not in page.replace("http://127.0.0.1", "").replace("http://www.w3.org", "")
    made.approval_file.unlink()
    assert "nobody" in Path(act(report, made)["path"]).read_text()


def test_the_report_does_not_repeat_what_a_planted_certificate_says(tmp_path: Path, keys: dict[str, Path]) -> None:
    """Well formed and well signed, and its medium was never wiped."""
    data = plan_data()
    made = make_estate(tmp_path / "a", keys, data, complete(make_plan(data)))
    signatures.create_key(made.run_key, "run")
    certificate.issue(certificate.build_certificate(**wipe_facts()), made.certificates_folder, made.run_key)
    assert (made.certificates_folder / "medium_pgdata.certificate.json").exists()
    page = Path(act(report, made)["path"]).read_text()
    assert "DOES NOT COUNT: a certificate of a medium that is not seen wiped" in page and "sanitised: sanitisation" not in page


# --- the plan ---


def survey_variables(machine: str = "1") -> Result:
    item = {"kind": "application", "name": "a", "schedulers": {"units": ["x"]}}
    seen = {"machine_id": machine, "hostname": "app1", "expected": {"application:a": {"found": "yes", "identity": {"files": 1}}}}
    power = {"kind": "silence", "address": "a", "reference": "192.0.2.1"}
    host = {"sunset_wave": "main", "sunset_power": power, "sunset_items": [item], "seen": {"survey": seen}}
    vault = {"sunset_vault_root": "/srv/vault", "sunset_machine_seen": {"machine": {"machine_id": "v" * 32, "container": True}}}
    return {"groups": {"sunset_estate": ["app1"]}, "hostvars": {"app1": host, "vault1": vault}}


def build_args(tmp_path: Path) -> Result:
    signers = tmp_path / "signers"
    signers.write_text("alice ssh-ed25519 AAAA\n")
    people = [{"name": "bob", "recipient": "age1"}]
    return {
        "estate": "acme", "waves": ["main"], "vaults": ["vault1"], "custodians": people, "allowed_signers": str(signers),
        "register": "seen", "guests": "guests",
    }  # fmt: skip


def test_a_plan_is_written_and_a_second_survey_changes_nothing(tmp_path: Path) -> None:
    made, args = Estate.at(tmp_path / "acme"), build_args(tmp_path)
    assert act(plan_build, made, args, check=True, **survey_variables())["changed"]
    assert not made.plan_file.exists()
    assert act(plan_build, made, args, **survey_variables())["changed"]
    assert act(plan_build, made, args, **survey_variables())["changed"] is False
    assert made.plan().items["host:app1"]["identity"] == {"machine_id": "1", "hostname": "app1"}
    assert "machine_id" in act(plan_build, made, args, **survey_variables("2"))["diff"]["prepared"]


def test_no_plan_whose_host_would_be_called_off_when_the_network_breaks(tmp_path: Path) -> None:
    variables = survey_variables()
    del variables["hostvars"]["app1"]["sunset_power"]["reference"]
    with pytest.raises(Refusal, match=r"app1: its only witness is silence, and it has no reference.*reference in sunset_power"):
        act(plan_build, Estate.at(tmp_path / "acme"), build_args(tmp_path), **variables)


@pytest.mark.parametrize(("connection", "copied"), [("ssh", True), ("local", False), ("ansible.builtin.local", False)])
def test_a_vault_on_the_control_node_is_no_place_for_a_second_ledger(tmp_path: Path, connection: str, copied: bool) -> None:
    variables = survey_variables()
    receiver = {"user": "ledger", "key": "/k", "known_hosts": "/h"}
    variables["hostvars"]["vault1"].update(ansible_connection=connection, sunset_ledger_receiver=receiver)
    made = Estate.at(tmp_path / "acme")
    act(plan_build, made, build_args(tmp_path), **variables)
    assert made.plan().data["vaults"]["vault1"]["ledger_copy"] is copied
    assert [one["vault"] for one in run_open._receivers(["vault1"], variables)] == ["vault1"] * copied


def test_the_picture_lies_beside_the_plan_with_what_nobody_could_compare(tmp_path: Path) -> None:
    made, args = Estate.at(tmp_path / "acme"), build_args(tmp_path)
    dry = act(plan_build, made, args, check=True, **survey_variables())
    assert not made.plan_file.with_name("standing.txt").exists()
    done = act(plan_build, made, args, **survey_variables())
    assert dry["standing"]["tree"] == done["standing"]["tree"] == Path(done["standing"]["path"]).read_text().splitlines()
    assert "host:app1  (wave main; goes off as number 1)" in done["standing"]["tree"]
    assert "vault vault1: it is a container, and what it runs on does not show in it" in done["standing"]["unknown"]
    assert "<svg" in made.plan_file.with_name("standing.svg").read_text()
    assert "application:a" in Path(act(report, made)["path"]).read_text()


@pytest.mark.parametrize("seen", [None, {"unreachable": True}, {"failed": True, "msg": "no python"}])
@pytest.mark.parametrize("check", [True, False])
def test_no_plan_whose_vault_nobody_has_looked_at(tmp_path: Path, seen: Result | None, check: bool) -> None:
    """Unknown is not no: a vault that is off now may be a guest of what goes off."""
    variables, made = survey_variables(), Estate.at(tmp_path / "acme")
    vault = variables["hostvars"]["vault1"]
    known = vault.pop("sunset_machine_seen")
    if seen is not None:
        vault["sunset_machine_seen"] = seen
    with pytest.raises(Refusal, match="the vault vault1: it was not looked at.*(?s:.*)then survey again"):
        act(plan_build, made, build_args(tmp_path), check=check, **variables)
    assert not made.plan_file.exists()
    vault["sunset_machine_seen"] = known
    assert act(plan_build, made, build_args(tmp_path), check=check, **variables)["changed"]
    # The control node itself is always looked at.
    del vault["sunset_machine_seen"]
    vault["ansible_connection"] = "local"
    act(plan_build, made, build_args(tmp_path), check=check, **variables)


@pytest.mark.parametrize("what", ["guest", "same", "jump"])
def test_a_plan_in_which_what_is_kept_stands_on_what_goes_off_is_refused(tmp_path: Path, what: str) -> None:
    variables = survey_variables()
    app, vault = variables["hostvars"]["app1"], variables["hostvars"]["vault1"]
    machine = {"machine_id": "1" * 32, "macs": ["52:54:00:00:00:01"], "addresses": ["192.0.2.11"], "guests": []}
    kept = {"machine_id": "2" * 32, "macs": ["52:54:00:00:00:02"], "addresses": ["192.0.2.12"], "guests": []}
    expected = "the vault vault1: it is the guest archive of app1, which goes off"
    if what == "guest":
        machine["guests"] = [{"name": "archive", "uuid": "", "macs": ["52:54:00:00:00:02"]}]
    elif what == "same":
        kept["machine_id"], expected = machine["machine_id"], "the vault vault1: it is the same machine as app1, which goes off"
    else:
        vault.update(ansible_host="192.0.2.12", ansible_ssh_common_args="-F none -o ProxyJump=root@192.0.2.11")
        expected = "the jump host 192.0.2.11: it is app1, which goes off"
    app["seen"]["survey"]["machine"], vault["sunset_machine_seen"] = machine, {"machine": kept}
    made = Estate.at(tmp_path / "acme")
    with pytest.raises(Refusal, match=expected):
        act(plan_build, made, build_args(tmp_path), **variables)
    assert not made.plan_file.exists()


def test_a_host_stands_on_its_hypervisor_as_the_survey_shows_it(tmp_path: Path) -> None:
    variables = survey_variables()
    app = variables["hostvars"]["app1"]
    kvm = json.loads(json.dumps(app))
    kvm["sunset_items"] = []
    kvm["seen"]["survey"] = {"machine_id": "9", "machine": {"guests": [{"name": "a", "uuid": "", "macs": ["52:54:00:00:00:01"]}]}}
    app["seen"]["survey"]["machine"] = {"macs": ["52:54:00:00:00:01"], "board": {"uuid": "u"}}
    variables["hostvars"]["kvm1"] = kvm
    variables["groups"]["sunset_estate"].append("kvm1")
    made = Estate.at(tmp_path / "acme")
    act(plan_build, made, build_args(tmp_path), **variables)
    item = made.plan().items["host:app1"]
    assert (item["stands_on"], item["expects"]["board"]) == (["host:kvm1"], {"uuid": "u"})
    assert item["expects"]["stands_because"] == {"host:kvm1": "is its guest a"}
    app["sunset_stands_on"] = ["host:nowhere"]
    with pytest.raises(Refusal, match="host:app1 stands on host:nowhere, which the plan does not have"):
        act(plan_build, made, build_args(tmp_path), **variables)


def test_a_hypervisor_that_stays_needs_no_witness_and_may_carry_what_is_kept(tmp_path: Path) -> None:
    variables = survey_variables()
    mac = "52:54:00:00:00:02"
    disk = {
        "guest": "db1", "target": "vda", "type": "file", "source": "/i/db1.raw", "format": "raw", "stranger": False, "problem": "", "media": [],
        "chain": [{"path": "/i/db1.raw", "format": "raw", "kind": "file", "inode": 7, "virtual_bytes": 512}],
    }  # fmt: skip
    seen = {"found": "yes", "identity": {"guests": ["db1"]}, "media": [], "disks": [disk]}
    guests = [{"name": "archive", "uuid": "", "macs": [mac]}, {"name": "db1", "uuid": "", "macs": ["52:54:00:00:00:03"]}]
    declared = {"kind": "guest", "name": "crm", "backend": "libvirt", "guests": ["db1"], "staging": "/s"}
    variables["hostvars"]["kvm1"] = {
        "sunset_wave": "main", "sunset_stays": True, "sunset_items": [declared], "sunset_virtual_disks": {"remove": True, "pool_limit": 80},
        "seen": {"survey": {"machine_id": "9", "machine": {"machine_id": "9" * 32, "guests": guests}}}, "guests": {"expected": {"guest:crm": seen}},
    }  # fmt: skip
    variables["groups"]["sunset_estate"].append("kvm1")
    vault = variables["hostvars"]["vault1"]
    vault["sunset_machine_seen"] = {"machine": {"machine_id": "2" * 32, "macs": [mac]}}
    made = Estate.at(tmp_path / "acme")
    done = act(plan_build, made, build_args(tmp_path), **variables)
    plan = made.plan()
    medium = plan.items["medium:crm-db1-vda"]
    assert plan.stays("kvm1") and plan.items["guest:crm"]["media"] == [medium["id"]]
    assert (medium["wipe"]["remove"], medium["expects"]["pool_limit"]) == (True, 80)
    assert any("host:kvm1  (wave main; stays in use)" in line for line in done["standing"]["tree"])
    assert not any("kvm1" in line for line in done["standing"]["tree"] if line.startswith("Wave"))
    vault["sunset_machine_seen"]["machine"]["macs"] = ["52:54:00:00:00:03"]
    with pytest.raises(Refusal, match="the vault vault1: it is the guest db1 of kvm1"):
        act(plan_build, made, build_args(tmp_path), **variables)
    variables["hostvars"]["kvm1"]["sunset_virtual_disks"] = {"shred": True}
    with pytest.raises(Refusal, match="sunset_virtual_disks of kvm1"):
        act(plan_build, made, build_args(tmp_path), **variables)


def test_a_login_in_the_inventory_does_not_reach_the_plan(tmp_path: Path) -> None:
    variables = survey_variables()
    variables["hostvars"]["app1"]["sunset_power"] = {"kind": "ipmi", "address": "a", "password": "quite secret"}
    made = Estate.at(tmp_path / "acme")
    with pytest.raises(Refusal, match="app1: a witness of kind ipmi carries a login in the inventory") as told:
        act(plan_build, made, build_args(tmp_path), **variables)
    assert "quite secret" not in str(told.value)
    assert not made.plan_file.exists()


@pytest.mark.parametrize("seen", [{"failed": True, "survey": {"machine_id": "1"}}, {}, {"unreachable": True}])
def test_a_survey_that_failed_is_no_plan(tmp_path: Path, seen: Result) -> None:
    variables = survey_variables()
    variables["hostvars"]["app1"]["seen"] = seen
    made = Estate.at(tmp_path / "acme")
    with pytest.raises(Refusal, match="app1: it gave no survey"):
        act(plan_build, made, build_args(tmp_path), **variables)
    assert not made.plan_file.exists()
