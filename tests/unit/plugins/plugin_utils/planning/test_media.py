# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The dry run over a fleet: planned, missing, silent, unplanned, shared between machines; the table; the action on the control node."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.sunset.crm.plugins.action import media_plan
from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.planning import media
from tests.unit.builders import complete, make_estate, make_plan
from tests.unit.disk_samples import ata_hdd, ata_ssd, nvme, usb, virtual, volume

Facts = dict[str, Any]
PURGE = {"asked": "purge"}


def disks(*facts: Facts) -> Facts:
    return {"devices": list(facts), "root": {"verdict": "yes", "numbers": []}}


def item(name: str, fact: Facts, host: str = "station1", **more: Any) -> Facts:
    return {
        "id": f"medium:{name}",
        "kind": "medium",
        "host": "db1",
        "identity": {key: fact["identity"][key] for key in ("serial", "size")},
        "expects": {"device": "/dev/sda"},
        "wipe": {"way": "station", "host": host},
        **more,
    }


def test_each_planned_medium_is_found_by_its_identity_whatever_its_name() -> None:
    found = media.fleet({"station1": disks(ata_ssd("sdq"), nvme())}, [item("a", ata_ssd("sdq")), item("b", nvme())], PURGE)
    assert {row["item"]: row["verdict"] for row in found["rows"]} == {"medium:a": "plan", "medium:b": "plan"}
    assert media.verdict(found) is None


def test_what_is_in_no_plan_is_named_and_never_decided() -> None:
    found = media.fleet({"station1": disks(ata_ssd("sda"), ata_hdd("sdb"))}, [item("a", ata_ssd("sda"))], PURGE)
    assert [row["item"] for row in found["rows"]] == ["medium:a"]
    assert len(found["unplanned"]) == 1
    assert "SER-sdb" in found["unplanned"][0]


def test_disks_around_a_container_are_not_its_media_but_unreadable_ones_of_a_machine_are_named() -> None:
    hidden = ata_hdd("sdb")
    hidden.update(path=None, held="unknown")
    inside = {**disks(hidden), "machine": {"container": "yes"}}
    assert media.fleet({"station1": inside}, [], PURGE)["unplanned"] == []
    assert len(media.fleet({"station1": disks(hidden)}, [], PURGE)["unplanned"]) == 1


def test_a_planned_medium_that_nobody_shows_and_a_machine_without_an_answer_are_named() -> None:
    found = media.fleet({"station1": disks(ata_ssd()), "db1": None}, [item("a", ata_ssd()), item("lost", nvme())], PURGE)
    assert found["missing"] == ["medium:lost"]
    assert found["silent"] == ["db1"]
    assert media.verdict(found) == "medium:lost is shown by no machine; db1 gave no answer"


def test_a_disk_of_another_size_is_another_disk() -> None:
    medium = item("a", ata_ssd())
    medium["identity"]["size"] += 512
    assert media.fleet({"station1": disks(ata_ssd())}, [medium], PURGE)["missing"] == ["medium:a"]


def test_a_label_of_a_loop_or_virtual_disk_counts_on_its_own_machine_alone() -> None:
    fact = virtual()
    assert media.fleet({"station1": disks(fact)}, [item("a", fact)], {"asked": "clear"})["missing"] == []
    assert media.fleet({"other": disks(fact)}, [item("a", fact)], {"asked": "clear"})["missing"] == ["medium:a"]


def test_a_medium_seen_on_its_host_and_at_its_station_is_one_row() -> None:
    hosts = {"station1": disks(ata_ssd("sdq")), "db1": disks(ata_ssd("sdq"))}
    (row,) = media.fleet(hosts, [item("a", ata_ssd("sdq"))], PURGE)["rows"]
    assert row["host"] == "station1"
    (row,) = media.fleet({"station1": disks(), "db1": hosts["db1"]}, [item("a", ata_ssd("sdq"))], PURGE)["rows"]
    assert row["host"] == "db1"


def test_a_disk_that_another_machine_uses_is_in_use() -> None:
    """Shared storage: free here, mounted there."""
    there = ata_ssd(holders=[{"kind": "mount", "what": "/data (ext4)", "device": "sdx"}])
    there["held"] = "yes"
    found = media.fleet({"station1": disks(ata_ssd()), "app9": disks(there)}, None, PURGE)
    assert {row["verdict"] for row in found["rows"]} == {"refused"}
    assert "on the machine app9" in next(row for row in found["rows"] if row["host"] == "station1")["reasons"][0]


def test_a_class_that_cannot_be_reached_fails_the_run_and_gives_an_order() -> None:
    found = media.fleet({"station1": disks(usb())}, [item("stick", usb())], PURGE)
    (order,) = found["orders"]
    assert (order["item"], order["host"], order["serial"]) == ("medium:stick", "station1", "SER-sdd")
    assert media.verdict(found) == "medium:stick on station1 cannot reach purge"
    assert any("destruction order: IEEE 2883 Destruct" in line for line in media.table(found))


def test_a_mediums_own_policy_overrules_the_estates() -> None:
    medium = item("stick", usb())
    medium["expects"]["sanitisation"] = {"asked": "clear"}
    (row,) = media.fleet({"station1": disks(usb())}, [medium], PURGE)["rows"]
    assert (row["asked"], row["verdict"]) == ("clear", "plan")


def test_without_a_plan_every_medium_is_looked_at_and_no_layer() -> None:
    found = media.fleet({"db1": disks(ata_ssd(), volume())}, None, PURGE)
    assert [row["name"] for row in found["rows"]] == ["sda"]


def test_a_volume_is_decided_only_where_the_plan_names_it() -> None:
    fact = volume()
    (row,) = media.fleet({"station1": disks(fact)}, [item("lv", fact)], {"asked": "clear"})["rows"]
    assert row["techniques"][0]["class"] == "logical"


def test_disks_of_a_vault_are_protected_where_they_turn_up_elsewhere() -> None:
    used = ata_ssd(holders=[{"kind": "mount", "what": "/srv/vault (ext4)", "device": "sda1"}])
    free = ata_hdd("sdb")
    protected = media.of_vaults({"vault1": disks(used, free, volume())})
    assert [one["serial"] for one in protected] == ["SER-sda"]
    (row,) = media.fleet({"station1": disks(ata_ssd())}, None, PURGE, protected)["rows"]
    assert row["verdict"] == "refused"
    assert "never wiped" in row["reasons"][0]


def test_the_digest_changes_with_what_matters_only() -> None:
    def digest(fact: Facts, policy: Facts = PURGE) -> str:
        return str(media.fleet({"station1": disks(fact)}, None, policy)["sha256"])

    same, other = ata_ssd(), ata_ssd()
    same["sanitize"]["seconds"] = {"block": 77}
    other["sanitize"]["block"] = "no"
    assert digest(ata_ssd()) == digest(same)
    assert len({digest(ata_ssd()), digest(other), digest(ata_ssd(), {"asked": "clear"})}) == 3


def test_the_table_says_who_is_in_the_way_how_long_and_under_which_names() -> None:
    held = ata_hdd("sdb", holders=[{"kind": "mount", "what": "/srv (ext4)", "device": "sdb1"}])
    held["held"] = "yes"
    lines = media.table(media.fleet({"station1": disks(nvme(), held)}, None, PURGE))
    assert lines[0].split() == list(media.COLUMNS)
    text = "\n".join(lines)
    assert "nvme-sanitize-block" in text and "60 s" in text
    assert "ata-security-erase-enhanced" in text and "6.7 h" in text
    assert "in the way: in use: mount /srv (ext4) on sdb1; unmount it in every namespace" in text
    assert "before: the password is written to the estate's evidence" in text


@pytest.mark.parametrize("policy", ["wipe", {"asked": "purge", "prefer": "colour"}, {"asked": None}])
def test_a_policy_that_cannot_be_is_one_clear_error(policy: Any) -> None:
    with pytest.raises(Refusal, match="sunset_wipe_policy"):
        media.wanted(policy)


# --- the action ---


def call(estate: Any, answers: dict[str, Any], check: bool = False, **args: Any) -> Facts:
    action = object.__new__(media_plan.ActionModule)
    groups = {"sunset_estate": ["old1", "app1", "db1", "dock1"], "sunset_stations": ["station1"], "sunset_vaults": ["vault1"]}
    told = {"groups": groups, "hostvars": {name: {"sunset_disks": answers.get(name)} for names in groups.values() for name in names}}
    return dict(action.act(estate, args, told, check))


@pytest.fixture(name="estate")
def an_estate(tmp_path: Path, keys: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(media, "own_disks", lambda estate: [])
    return make_estate(tmp_path / "acme", keys)


def test_the_action_writes_the_decisions_and_names_what_is_missing(estate: Any) -> None:
    done = call(estate, {"station1": {"disks": disks(ata_ssd())}, "vault1": {"disks": disks()}})
    assert done["changed"] is False
    written = json.loads((estate.report_folder / "media.json").read_bytes())
    assert written["sha256"] == done["sha256"]
    assert "medium:pgdata is shown by no machine" in done["problem"]
    assert "old1 gave no answer" in done["problem"]
    assert (estate.report_folder / "media.txt").read_text().splitlines() == done["table"]


def test_check_mode_decides_the_same_and_writes_nothing(estate: Any) -> None:
    answers = {"station1": {"disks": disks(ata_ssd())}, "vault1": {"unreachable": True}}
    done = call(estate, answers, check=True)
    assert not (estate.report_folder / "media.json").exists()
    assert done["sha256"] == call(estate, answers)["sha256"]
    assert "the vault vault1 gave no answer" in done["problem"]


def test_a_host_that_is_proven_off_is_not_silent(tmp_path: Path, keys: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media, "own_disks", lambda estate: [])
    estate = make_estate(tmp_path / "acme", keys, book=complete(make_plan()))
    assert "gave no answer" not in call(estate, {"station1": {"disks": disks()}, "vault1": {"disks": disks()}})["problem"]


def test_the_control_nodes_own_disks_are_found_without_waking_or_claiming_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine, loop = ata_ssd(), virtual("vdb")
    mine["root"] = "yes"
    asked = []

    def read(ask: bool = True, claim: bool = True) -> Facts:
        asked.append((ask, claim))
        return disks(mine, loop)

    monkeypatch.setattr(media.disk_kept.disk_facts, "read", read)
    found = media.own_disks(tmp_path)
    assert asked == [(False, False)]
    assert [one["serial"] for one in found] == ["SER-sda"]


def make_folder(path: Path) -> Any:
    from ansible_collections.sunset.crm.plugins.plugin_utils.record.estate import Estate

    return Estate.at(path)
