# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The decision at the moment of the wipe: it names the plan's technique for this device now, or the wipe is refused. Valid for Python 3.6."""

import copy

import pytest

from ansible_collections.sunset.crm.plugins.module_utils._disk import facts as disk_facts, kept as disk_kept, world as disk_world
from ansible_collections.sunset.crm.plugins.module_utils._disk.stack import Stack
from ansible_collections.sunset.crm.plugins.module_utils._wipe import judge as wipe_judge, now as wipe_now
from tests.unit.disk_samples import ata_hdd, ata_ssd, key_copy, key_ledger, luks, nvme, sas_hdd, usb, virtual, volume

CLEAR, PURGE = {"asked": "clear"}, {"asked": "purge"}


def weigh(fact, policy=CLEAR, technique="overwrite", others=(), waiver=None):
    for number, one in enumerate([fact] + list(others)):
        one["number"] = "8:%d" % number
    return wipe_now.weigh([fact] + list(others), "8:0", policy, technique, waiver)


def test_what_the_decision_names_may_begin_and_is_kept_with_its_reasons():
    found = weigh(ata_ssd(), PURGE, "ata-sanitize-block")
    assert found["reasons"] == found["exceptions"] == [] and found["order"] is None
    decision, before = found["decision"], found["state_before"]
    assert decision["chosen"]["id"] == "ata-sanitize-block" and decision["chosen"]["class"] == "purge"
    assert any(row["id"] == "overwrite-keyed" and "only clear" in row["why"] for row in decision["rejected"])
    assert before["hidden_areas"] == {"hpa": "no", "dco": "no", "amac": "no"}
    assert before["serial"] == "SER-sda" and before["holders"] == [] and before["class"] == "ata-ssd"


def test_asked_for_purge_a_disk_that_reaches_only_clear_ends_in_an_order_and_never_in_less():
    disk = ata_hdd()
    disk["security"].update(supported="no", enhanced="no")
    found = weigh(disk, PURGE, "overwrite")
    assert "asked for purge, and nothing here reaches it" in found["reasons"]
    assert found["order"]["reachable"] == "clear" and found["order"]["serial"] == "SER-sdb" and not found["order"]["provisional"]


def test_an_order_is_provisional_while_something_is_not_known():
    disk = ata_hdd()
    disk["security"].update(supported="unknown", enhanced="unknown")
    order = weigh(disk, PURGE, "overwrite")["order"]
    assert order["provisional"] and "ata-security-erase-enhanced" in order["find_out"][0]


def test_a_weaker_technique_than_what_is_asked_for_is_refused_by_name_where_the_stronger_is_there():
    found = weigh(ata_ssd(), PURGE, "overwrite")
    assert found["order"] is None and "does not name overwrite-keyed for it: only clear; the policy wants purge" in found["reasons"][0]
    assert "It names ata-sanitize-block" in found["reasons"][0]


def test_a_virtual_disk_has_no_purge_whatever_it_says():
    assert "a device of this kind (virtual) has it not" in weigh(virtual(), CLEAR, "nvme-sanitize-block")["reasons"][0]
    assert weigh(virtual(), PURGE, "overwrite")["order"]["method"].startswith("destroy the keys")
    assert weigh(virtual())["decision"]["chosen"]["class"] == "logical"


HELD = {"kind": "mount", "what": "/srv (ext4)", "device": "sda1"}


@pytest.mark.parametrize(
    "change,technique,words",
    [
        ({"holders": [HELD], "held": "yes"}, "overwrite", "in use: mount /srv (ext4)"),
        ({"held": "unknown"}, "overwrite", "not known whether somebody uses it"),
        ({"root": "yes"}, "overwrite", "carries the running system"),
        ({"class": "raid-volume"}, "overwrite", "a volume of a RAID controller"),
        ({"class": "unknown"}, "overwrite", "nobody knows what kind"),
        ({"identity": {}, "serial": None, "wwn": None}, "overwrite", "no identity of its own"),
        ({"blocks": {"logical": 520, "physical": 520, "metadata": 0}}, "overwrite", "sectors of 520 bytes"),
        ({"traits": {"read_only": "yes", "rotational": "no"}}, "overwrite", "read-only"),
    ],
)
def test_what_is_in_the_way_stops_it(change, technique, words):
    disk = ata_ssd()
    for key, value in copy.deepcopy(change).items():
        if isinstance(value, dict) and value:
            disk[key].update(value)
        else:
            disk[key] = value
    found = weigh(disk, CLEAR, technique)
    assert words in " ".join(found["reasons"])


@pytest.mark.parametrize(
    "group,technique,words",
    [
        ({"security": {"frozen": "yes"}}, "ata-security-erase-enhanced", "the firmware froze the drive"),
        ({"sanitize": {"frozen": "yes"}}, "ata-sanitize-block", "frozen for sanitize"),
        ({"security": {"enabled": "yes"}}, "ata-security-erase", "a password is set that is not ours"),
        ({"security": {"locked": "yes", "enabled": "yes"}}, "overwrite", "locked with a password"),
        ({"tcg": {"locked": "yes"}}, "overwrite", "locked by TCG"),
    ],
)
def test_a_frozen_or_locked_drive_is_refused_with_what_would_mend_it(group, technique, words):
    disk = ata_ssd()
    for name, values in group.items():
        disk[name].update(values)
    assert words in " ".join(weigh(disk, CLEAR, technique)["reasons"])


@pytest.mark.parametrize("area", ["hpa", "dco", "amac"])
def test_a_hidden_part_is_lifted_or_waived_by_name_and_then_an_exception(area):
    disk = ata_hdd()
    disk["hidden"][area] = "yes"
    found = weigh(disk)
    assert found["reasons"] and "first: " in found["reasons"][0] and "gate 'hidden'" in found["reasons"][0]
    waived = weigh(disk, waiver="ab" * 32)
    assert waived["reasons"] == [] and "abababababab" in waived["exceptions"][0]
    result = wipe_now.told({"outcome": "sanitised", "exceptions": [], "classes": {}}, waived)
    assert result["outcome"] == "sanitised_with_exceptions" and result["exceptions"] == waived["exceptions"]


def test_a_hidden_part_that_nobody_can_tell_of_is_named():
    disk = ata_hdd()
    disk["hidden"]["dco"] = "unknown"
    found = weigh(disk)
    assert found["reasons"] == []
    assert any("device configuration overlay, if there is one" in line for line in found["decision"]["chosen"]["not_reached"])
    assert found["state_before"]["hidden_areas"]["dco"] == "unknown"


def test_the_second_path_to_a_medium_is_refused():
    first, second = sas_hdd("sdc"), sas_hdd("sdc")
    second.update(name="sdk", path="/dev/sdk")
    assert weigh(first, others=[second])["reasons"] == []
    for one, number in ((first, "8:0"), (second, "8:1")):
        one["number"] = number
    found = wipe_now.weigh([first, second], "8:1", CLEAR, "overwrite")
    assert "a second path to the medium that is /dev/sdc" in found["reasons"][0]


def test_a_path_that_a_map_claims_is_refused():
    first = sas_hdd("sdc", multipath="dm-0", holders=[{"kind": "stacked", "what": "multipath mpatha", "device": "dm-0"}], held="yes")
    table = volume("dm-0", "multipath", size=8000 * 10**9)
    assert "flush the map" in " ".join(weigh(first, others=[table])["reasons"])


def test_a_path_that_is_used_elsewhere_is_used():
    first, second = sas_hdd("sdc"), sas_hdd("sdc", holders=[HELD], held="yes")
    second.update(name="sdk", path="/dev/sdk")
    assert "in use: mount" in " ".join(weigh(first, others=[second])["reasons"])


def test_a_command_that_would_reach_another_namespace_is_refused():
    first, second = nvme("nvme0n1"), nvme("nvme0n2")
    second.update(namespace=2, nguid="f" * 32)
    found = weigh(first, PURGE, "nvme-sanitize-block", others=[second])
    assert "nvme0n2" in " ".join(found["reasons"])


def test_a_protected_disk_is_refused_and_nobody_is_told_to_destroy_it():
    disk = ata_hdd()
    disk["security"].update(supported="no", enhanced="no")
    found = weigh(disk, dict(PURGE, protected=[{"wwn": disk["wwn"].upper()}]))
    assert "never wiped" in " ".join(found["reasons"]) and found["order"] is None


def test_a_device_that_the_kernel_does_not_list_is_refused():
    assert "does not show" in wipe_now.weigh([usb()], "99:1", CLEAR, "overwrite")["reasons"][0]


def test_a_result_is_not_called_more_than_was_decided():
    """A LUN of an array says that it is a disk; what was decided is logical sanitisation."""
    lun = virtual("sdx", "lun")
    lun["transport"] = "fc"
    result = {"outcome": "sanitised", "exceptions": [], "classes": wipe_judge.classes("scsi", {"vendor": "NETAPP", "model": "LUN C-Mode"})}
    assert result["classes"]["nist_800_88r2"] == "Clear"
    assert wipe_now.told(result, weigh(lun))["classes"]["nist_800_88r2"] == "logical sanitisation"
    assert wipe_now.told(result, weigh(ata_ssd()))["classes"] == result["classes"]
    assert wipe_now.told(result, None) is result


def test_one_pass_on_a_stick_or_a_card_is_no_clear_under_the_first_revision():
    """Rev. 1 asks for a pattern and its complement there; a disk in a USB case that says that it turns is a disk."""
    stick, card, case = usb("sdd"), usb("mmcblk0"), usb("sde")
    stick["traits"]["rotational"], card["class"], case["traits"]["rotational"] = "unknown", "sd-card", "yes"
    result = {"outcome": "sanitised", "exceptions": [], "classes": wipe_judge.classes("scsi", {"vendor": "SanDisk", "model": "Ultra"})}
    for fact in (stick, card):
        classes = wipe_now.told(result, weigh(fact))["classes"]
        assert classes["nist_800_88r1"] == "none (it asks for two passes)" and classes["nist_800_88r1"] in classes["statement"]
        assert classes["nist_800_88r2"] == classes["ieee_2883_2022"] == "Clear"
    assert wipe_now.told(result, weigh(case))["classes"]["nist_800_88r1"] == "Clear"


def test_the_kernels_word_that_a_disk_behind_usb_turns_is_no_fact():
    told, guessed = usb(), usb()
    for fact in (told, guessed):
        fact["traits"]["rotational"] = "yes"
    told["sources"]["rotational"] = "ioctl: SCSI VPD page B1h"
    for fact in (told, guessed):
        disk_facts.refine(fact)
    assert (told["traits"]["rotational"], guessed["traits"]["rotational"]) == ("yes", "unknown")
    assert "behind USB" in guessed["why"]["traits.rotational"]


# --- who is asked, and who is protected ---


def test_only_the_device_itself_and_its_other_names_are_asked():
    """A question to another drive could stand behind an erase that blocks it for hours."""
    blocks = {
        "sda": {"number": "8:0", "wwid": "naa.1"}, "sdb": {"number": "8:16", "wwid": "naa.1"}, "sdc": {"number": "8:32", "wwid": "naa.2"},
        "sdd": {"number": "8:48", "wwid": None}, "nvme0n1": {"number": "259:0", "subnqn": "q"}, "nvme0n2": {"number": "259:1", "subnqn": "q"},
    }  # fmt: skip
    assert disk_facts.akin(blocks, "8:0") == ["sda", "sdb"]
    assert disk_facts.akin(blocks, "8:48") == ["sdd"]
    assert disk_facts.akin(blocks, "259:1") == ["nvme0n1", "nvme0n2"]
    assert disk_facts.akin(blocks, "1:1") == []


def test_a_decision_claims_its_own_drive_with_all_that_belongs_to_it_and_nothing_else():
    """A claim, short as it is, makes somebody's mount fail; but what is not claimed is not known to be free."""
    blocks = {
        "sda": {"number": "8:0", "wwid": "naa.1"}, "sda1": {"number": "8:1", "partition_of": "sda"}, "dm-0": {"number": "253:0", "slaves": ["sda1", "sdb"]},
        "sdb": {"number": "8:16"}, "sdc": {"number": "8:32", "serial": "S1"}, "sdd": {"number": "8:48", "serial": "S1"}, "sde": {"number": "8:64"},
    }  # fmt: skip
    stack = Stack({"blocks": blocks})
    assert disk_facts.concerned(stack, "8:0") == ["dm-0", "sda", "sda1"]
    assert disk_facts.concerned(stack, "253:0") == ["dm-0", "sda", "sda1", "sdb"]
    assert disk_facts.concerned(stack, "8:32") == ["sdc", "sdd"]
    assert disk_facts.concerned(stack, "8:64") == ["sde"]
    assert disk_facts.concerned(stack, "1:1") == []


@pytest.mark.parametrize(
    "found,other,same",
    [
        ({"serial": "S1", "size": 9}, {"serial": "s1"}, True),
        ({"wwid": "naa.5000C500", "size": 9}, {"wwn": "5000c500"}, True),
        ({"wwid": "eui.0025", "size": 9}, {"wwid": "0025"}, True),
        ({"serial": "S1", "size": 9, "kind": "scsi"}, {"serial": "S1", "size": 8}, True),  # a hidden area was lifted since
        ({"serial": "vda", "size": 9, "kind": "virtio"}, {"serial": "vda", "size": 8}, False),  # a label that another machine uses too
        ({"serial": "pgdata", "inode": 5, "size": 9, "kind": "loop"}, {"inode": 5, "size": 9}, True),
        ({"serial": "LAB", "inode": 5, "size": 9, "kind": "loop"}, {"serial": "LAB", "inode": 6, "size": 9, "kind": "loop"}, False),
        (
            {"serial": "LAB", "inode": 5, "size": 9, "kind": "loop"},
            {"serial": "LAB", "size": 9, "kind": "loop"},
            True,
        ),  # its file is not known
        ({"serial": "S1", "size": 9}, {"serial": "S2", "size": 9}, False),
        ({"size": 9, "kind": "scsi"}, {"size": 9, "kind": "scsi"}, True),  # neither has a name: nobody can say that it is not
        ({"serial": "S1", "size": 9}, {"size": 9}, False),
        ({"serial": "S1", "size": 9}, {}, False),
        ({"size": None}, {"size": None}, False),
    ],
)
def test_a_protected_disk_is_known_by_any_name_of_it(found, other, same):
    assert bool(wipe_judge.protected_as(found, [other])) is same


def test_the_media_of_the_living_are_those_that_they_use():
    root, store, free = ata_ssd("sda"), ata_hdd("sdb"), sas_hdd("sdc")
    root["root"], store["number"] = "yes", "8:99"
    claimed = usb("sdd", holders=[{"kind": "exclusive", "what": "claimed", "device": "sdd"}], held="yes")
    part = volume("sdb1", "partition")
    part.update(number="8:100", below=["sdb"])
    names = [one["serial"] for one in disk_kept.choose({"devices": [root, store, free, claimed, part]}, ["8:100"])]
    assert names == ["SER-sda", "SER-sdb"], "what a wipe job claims in a vault that is a station too is none of the vault's own"


def test_a_container_is_not_told_to_own_the_arrays_of_the_kernel_around_it():
    stacked = ata_ssd(holders=[{"kind": "stacked", "what": "lvm other", "device": "dm-0"}], held="yes")
    mounted = ata_hdd(holders=[HELD], held="yes")
    for container, names in (("no", ["SER-sda", "SER-sdb"]), ("yes", ["SER-sdb"])):
        disks = {"devices": [stacked, mounted], "machine": {"container": container}}
        assert [one["serial"] for one in disk_kept.choose(disks)] == names


def test_one_without_a_name_has_its_size():
    disk = virtual()
    disk.update(serial=None, identity={}, root="yes")
    assert disk_kept.choose({"devices": [disk]}) == [{"size": 50 * 10**9, "kind": "virtio"}]


def test_the_port_of_a_device_is_found_by_its_number(tmp_path, monkeypatch):
    places = {"pci-0000:00:1f.2-ata-1": "8:0", "pci-0000:00:1f.2-ata-1-part1": "8:1", "pci-x\x1b[31m": "8:0"}
    for name in places:
        (tmp_path / name).write_text("")
    monkeypatch.setattr(disk_world, "number_of", lambda path: places[path.rsplit("/", 1)[1]])
    assert disk_world.by_path("8:0", str(tmp_path)) == ["pci-0000:00:1f.2-ata-1", "pci-x?[31m"]
    assert disk_world.by_path("9:9", str(tmp_path)) == disk_world.by_path("8:0", str(tmp_path / "none")) == []


# --- what an inventory cannot say by itself ---


def looked(monkeypatch, tmp_path, fact, technique, policy=None, key_copies=None):
    fact["number"] = "8:0"
    seen = {"devices": [fact], "complete": {"verdict": "yes", "why": []}, "machine": {"container": "no"}}
    monkeypatch.setattr(disk_facts, "read", lambda **_more: seen)
    params = {
        "device": "/dev/none", "policy": policy, "protected": [], "identity_waiver": None, "technique": technique, "key_copies": key_copies,
        "psid_directory": str(tmp_path),
    }  # fmt: skip
    return wipe_now.look(params, {"number": "8:0", "serial": fact["serial"], "kind": "scsi"})


def test_the_keys_are_destroyed_on_a_signed_word_and_not_on_the_inventorys(monkeypatch, tmp_path):
    fact = ata_hdd(luks=luks())
    claimed = {"asked": "clear", "luks": key_ledger()}
    refused = looked(monkeypatch, tmp_path, fact, "luks-destroy-keys", claimed)
    assert "no ledger of key copies" in refused["reasons"][0]
    found = looked(monkeypatch, tmp_path, fact, "luks-destroy-keys", {"asked": "purge"}, key_ledger())
    assert found["reasons"] == [] and found["decision"]["chosen"]["class"] == "purge" and found["state_before"]["luks"]["uuid"] == "u"
    assert (
        "only clear"
        in looked(monkeypatch, tmp_path, fact, "luks-destroy-keys", PURGE, key_ledger(key_copy()))["decision"]["rejected"][-1]["why"]
    )


def test_a_revert_wants_the_number_on_this_very_machine(monkeypatch, tmp_path):
    fact = ata_ssd()
    fact["tcg"].update(present="yes", ssc=["opal-2"], media_encryption="yes", locked="yes")
    refused = looked(monkeypatch, tmp_path, fact, "tcg-revert", {"asked": "purge", "tcg_credential": "yes"})
    assert "its PSID (printed on the label) is not on the machine" in " ".join(refused["reasons"])
    (tmp_path / fact["serial"]).write_text("A" * 32)
    (tmp_path / fact["serial"]).chmod(0o600)
    found = looked(monkeypatch, tmp_path, fact, "tcg-revert", {"asked": "purge"})
    assert found["reasons"] == [] and found["decision"]["before"][0].startswith("it is locked, or shows a shadow")
