# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The decision over constructed facts: which technique, what it is called, why not another, and when nothing may be done. Valid for Python 3.6."""

import pytest

from ansible_collections.sunset.crm.plugins.module_utils._wipe import (
    decide as wipe_decide,
    firmware as wipe_firmware,
    group as wipe_group,
    keys as wipe_keys,
    techniques as wipe_techniques,
)
from tests.unit.disk_samples import GB, ata_hdd, ata_ssd, key_copy, key_ledger, luks, nvme, sas_hdd, usb, virtual, volume

PURGE = {"asked": "purge"}
CLEAR = {"asked": "clear"}


def decide(fact, policy=PURGE, siblings=(), **more):
    return wipe_decide.decide(fact, dict(policy, **more), siblings)


def ids(decision):
    return [row["id"] for row in decision["techniques"]]


def why(decision, name):
    return next(row["why"] for row in decision["rejected"] if row["id"] == name)


# --- what is chosen, and what it is called ---


def test_an_nvme_disk_is_purged_by_its_own_sanitize():
    decision = decide(nvme())
    assert decision["verdict"] == "plan"
    assert ids(decision) == ["nvme-sanitize-block", "nvme-sanitize-crypto"]
    assert (decision["techniques"][0]["class"], decision["techniques"][0]["rev1"], decision["seconds"]) == ("purge", "not named", 60)
    assert why(decision, "nvme-sanitize-overwrite") == "the device says that it has it not"


def test_nvme_format_is_clear_whatever_revision_1_called_it():
    decision = decide(nvme(supported="no", block="no", crypto="no"))
    assert decision["verdict"] == "destroy"
    assert decision["reachable"] == "clear"
    assert why(decision, "nvme-format-ses2") == "only clear; the policy wants purge"
    cleared = decide(nvme(supported="no", block="no", crypto="no"), CLEAR)
    assert ids(cleared) == ["overwrite-keyed", "nvme-format-ses2", "nvme-format-ses1"]
    assert next(row for row in cleared["techniques"] if row["id"] == "nvme-format-ses2")["rev1"] == "purge"


def test_asked_for_purge_and_only_clear_possible_is_a_failure_with_an_order():
    decision = decide(usb())
    assert decision["verdict"] == "destroy"
    assert decision["techniques"] == []
    order = decision["order"]
    assert (order["serial"], order["reachable"], order["provisional"]) == ("SER-sdd", "clear", False)
    assert "Destruct" in order["method"]
    assert any("overwrite-keyed: only clear" in line for line in order["because"])


def test_unknown_is_neither_yes_nor_no_and_the_order_waits_for_the_answer():
    fact = nvme(supported="unknown", block="unknown", crypto="unknown", overwrite="unknown")
    fact["why"]["sanitize.block"] = "the device cannot be asked: Operation not permitted"
    decision = decide(fact)
    assert decision["verdict"] == "destroy"
    assert decision["order"]["provisional"] is True
    assert any("Operation not permitted" in line for line in decision["order"]["find_out"])


def test_clear_begins_with_what_is_proven_byte_by_byte():
    assert ids(decide(ata_ssd(), CLEAR))[0] == "overwrite-keyed"
    assert ids(decide(ata_ssd(), dict(CLEAR, prefer="speed")))[0] != "overwrite-keyed"


def test_a_turning_disk_is_overwritten_by_its_firmware():
    decision = decide(sas_hdd())
    assert ids(decision) == ["scsi-sanitize-overwrite"]
    assert decision["seconds"] == 50000


def test_enhanced_security_erase_of_flash_prints_both_classes():
    fact = ata_ssd()
    fact["sanitize"].update(supported="no", block="no", crypto="no")
    decision = decide(fact)
    row = decision["techniques"][0]
    assert (row["id"], row["class"], row["rev1"], row["seconds"]) == ("ata-security-erase-enhanced", "purge", "clear", 480)
    assert decide(ata_hdd())["techniques"][0]["rev1"] == "purge"
    assert why(decision, "ata-security-erase") == "only clear; the policy wants purge"


def test_the_password_is_recorded_before_it_is_set():
    assert [step["id"] for step in decide(ata_hdd())["before"]] == ["record-password"]


# --- states of drives ---


def test_a_frozen_drive_needs_a_power_cycle_first():
    fact = ata_hdd()
    fact["security"]["frozen"] = "yes"
    assert [step["id"] for step in decide(fact)["before"]] == ["thaw-security", "record-password"]
    fact = ata_ssd()
    fact["sanitize"]["frozen"] = "yes"
    assert [step["id"] for step in decide(fact)["before"]] == ["thaw-sanitize"]


def test_a_locked_drive_can_do_nothing():
    fact = ata_ssd()
    fact["security"].update(enabled="yes", locked="yes")
    for policy in (PURGE, CLEAR):
        decision = decide(fact, policy)
        assert decision["verdict"] == "destroy"
        assert "locked" in why(decision, "overwrite-keyed")
        assert "locked" in why(decision, "ata-sanitize-block")


def test_a_password_of_somebody_else_keeps_erase_away():
    fact = ata_hdd()
    fact["security"]["enabled"] = "yes"
    assert "not ours" in why(decide(fact), "ata-security-erase-enhanced")


def test_unknown_security_is_not_taken_for_free():
    fact = ata_hdd()
    fact["security"]["frozen"] = "unknown"
    assert decide(fact)["verdict"] == "destroy"


def test_hidden_areas_are_lifted_or_named():
    fact = ata_ssd()
    fact["hidden"].update(hpa="yes", dco="unknown")
    row = decide(fact, CLEAR)["techniques"][0]
    assert [step["id"] for step in row["before"]] == ["lift-hpa"]
    assert any("overlay, if there is one" in text for text in row["not_reached"])
    assert [step["id"] for step in decide(fact)["before"]] == ["lift-hpa"], "after the erase, all of it is read back"


def test_a_running_sanitize_is_joined_and_a_failed_one_left_first():
    assert "joined" in decide(nvme(state="running"))["techniques"][0]["why"]
    assert [step["id"] for step in decide(nvme(state="failed"))["before"]] == ["leave-failure"]


def test_a_pyrite_drive_does_not_encrypt():
    fact = ata_ssd()
    fact["tcg"].update(present="yes", ssc=["pyrite-2"], media_encryption="no")
    assert "does not encrypt" in why(decide(fact, tcg_credential="yes"), "tcg-revert")


def test_revert_needs_the_number_on_the_label():
    fact = ata_ssd()
    fact["tcg"].update(present="yes", ssc=["opal-2"], media_encryption="yes")
    assert "PSID" in why(decide(fact), "tcg-revert")
    assert "tcg-revert" in ids(decide(fact, tcg_credential="yes"))
    for word, there in (("yes", True), ("no", False), ("unknown", False)):
        fact["tcg"]["credential"] = word  # as the machine says that has the drive
        assert ("tcg-revert" in ids(decide(fact))) is there


def test_a_drive_that_linux_cannot_revert_is_named():
    fact = ata_ssd()
    for ssc in (["enterprise"], ["ruby"], ["opalite"]):
        fact["tcg"].update(present="yes", ssc=ssc, media_encryption="yes", credential="yes")
        assert "Opal drives only, this one is %s" % ssc[0] in why(decide(fact), "tcg-revert")


def test_a_drive_that_hides_its_data_is_opened_by_a_first_revert():
    fact = ata_ssd()
    fact["tcg"].update(present="yes", ssc=["opal-2"], media_encryption="yes", credential="yes")
    assert decide(fact, prefer="speed")["techniques"][0]["before"] == []
    fact["tcg"].update(locked="yes")
    row = next(row for row in decide(fact)["techniques"] if row["id"] == "tcg-revert")
    assert [step["id"] for step in row["before"]] == ["open-by-revert"]


def test_a_drive_locked_by_tcg_shows_a_shadow_that_is_not_its_data():
    fact = ata_ssd()
    fact["tcg"].update(present="yes", locked="yes")
    assert "overwrite-keyed" not in ids(decide(fact, CLEAR))
    assert "not its data" in why(decide(fact, CLEAR), "overwrite-keyed")


def test_sectors_of_520_bytes_are_sanitised_before_they_are_reformatted():
    fact = sas_hdd()
    fact["blocks"]["logical"] = 520
    fact["sizes"]["current"] = 0
    assert ids(decide(fact)) == ["scsi-sanitize-overwrite"]
    fact["sanitize"]["overwrite"] = "no"
    assert "520" in why(decide(fact, CLEAR), "overwrite-keyed")
    assert decide(fact, CLEAR)["verdict"] == "destroy"


# --- what must not be touched ---


@pytest.mark.parametrize(
    "change,word",
    [
        ({"holders": [{"kind": "mount", "what": "/srv (ext4)", "device": "sda1"}], "held": "yes"}, "unmount it in every namespace"),
        ({"holders": [{"kind": "swap", "what": "/dev/sda2", "device": "sda2"}], "held": "yes"}, "swapoff"),
        ({"holders": [{"kind": "vm", "what": "process 7 (qemu-system-x86)", "device": "sda"}], "held": "yes"}, "switch the guest off"),
        ({"holders": [{"kind": "stacked", "what": "md md0", "device": "md0"}], "held": "yes"}, "deactivate"),
        ({"held": "unknown"}, "not known whether somebody uses it"),
        ({"root": "yes"}, "running system"),
        ({"class": "raid-volume"}, "physical disks"),
        ({"class": "memory"}, "no medium of data"),
        ({"class": "unknown"}, "nobody knows"),
        ({"identity": {}, "serial": None, "wwn": None}, "no identity"),
    ],
)
def test_what_is_in_the_way_is_named_and_nothing_is_planned(change, word):
    fact = ata_ssd()
    fact.update(change)
    decision = decide(fact)
    assert decision["verdict"] == "refused"
    assert decision["techniques"] == []
    assert any(word in reason for reason in decision["reasons"]), decision["reasons"]


def test_a_disk_in_use_still_shows_what_will_be_done_once_it_is_free():
    fact = ata_ssd()
    fact.update(holders=[{"kind": "mount", "what": "/srv (ext4)", "device": "sda1"}], held="yes")
    decision = decide(fact)
    assert decision["once_free"][0]["id"] == "ata-sanitize-block"
    assert decision["order"] is None


def test_a_read_only_disk_is_refused():
    fact = ata_ssd()
    fact["traits"]["read_only"] = "yes"
    assert "read-only" in decide(fact)["reasons"][0]


@pytest.mark.parametrize(
    "other",
    [{"serial": "SER-sda"}, {"wwid": "naa.5002538e12345671"}, {"wwn": "5002538E12345671"}, {"serial": "ser-SDA", "size": 1}],
)
def test_a_disk_of_the_control_node_or_a_vault_is_refused_by_any_of_its_names(other):
    assert decide(ata_ssd(), protected=[other])["verdict"] == "refused"


def test_others_disks_protect_nothing_here():
    assert decide(ata_ssd(), protected=[{"serial": "OTHER", "size": 500 * GB}, {}, {"size": 500 * GB}])["verdict"] == "plan"


# --- virtual disks and volumes ---


def test_a_virtual_disk_is_logical_sanitisation_and_called_so():
    row = decide(virtual(), CLEAR)["techniques"][0]
    assert (row["id"], row["class"], row["rev1"]) == ("overwrite-keyed", "logical", "none")
    assert row["not_reached"] == ["all layers below this device"]
    assert decide(virtual(), dict(CLEAR, logical="no"))["verdict"] == "destroy"


@pytest.mark.parametrize("layer,word", [("rbd", "trash"), ("loop", "earlier places"), ("qcow2", "backing chain")])
def test_what_a_virtual_disk_keeps_elsewhere_is_named(layer, word):
    assert word in decide(virtual(layer=layer), CLEAR)["techniques"][0]["not_reached"][1]


def test_logical_sanitisation_is_no_purge():
    decision = decide(virtual())
    assert decision["verdict"] == "destroy"
    assert decision["reachable"] == "logical"
    assert "every physical disk below" in decision["order"]["method"]
    assert decide(virtual(), logical="yes")["techniques"][0]["class"] == "logical"


def test_a_layer_is_refused_in_favour_of_what_it_is_made_of():
    for layer in ("partition", "md", "lvm", "lvm-thin-pool", "dm-crypt", "bcache"):
        decision = decide(volume(layer=layer), CLEAR)
        assert decision["verdict"] == "refused" and "sda" in decision["reasons"][0]
        assert decision["once_free"] == []
    assert decide(volume(layer="md"), CLEAR, volume=True)["verdict"] == "refused"


def test_a_volume_that_the_plan_names_is_logical_sanitisation():
    assert decide(volume(), CLEAR, volume=True)["techniques"][0]["class"] == "logical"


def thin(**more):
    return volume(
        layer="lvm-thin",
        size=10 * GB,
        thin=dict({"pool": "vg-pool", "data_bytes": 20 * GB, "data_used": 12 * GB, "mapped": 6 * GB}, **more),
    )


def test_a_thin_pool_is_never_filled_up():
    assert decide(thin(), CLEAR, volume=True)["verdict"] == "plan", "4 GB of 8 free are taken, 4 stay"
    full = decide(thin(mapped=1 * GB), CLEAR, volume=True)
    assert full["verdict"] == "destroy"
    assert "never filled up" in why(full, "overwrite-keyed")
    assert decide(thin(), CLEAR, volume=True, pool_reserve=0.25)["verdict"] == "destroy"
    for lost in ("mapped", "data_bytes", "data_used"):
        assert "does not tell" in why(decide(thin(**{lost: None}), CLEAR, volume=True), "overwrite-keyed")


# --- LUKS ---


def luks_disk(turning=False):
    fact = ata_hdd() if turning else ata_ssd()
    fact["sanitize"].update(supported="no", block="no", crypto="no")
    fact["security"].update(supported="no", enhanced="no")
    fact["luks"] = luks()
    return fact


def test_keys_that_never_left_a_turning_disk_are_purged_by_destroying_them():
    row = decide(luks_disk(turning=True), luks=key_ledger())["techniques"][0]
    assert (row["id"], row["class"], row["rev1"], row["ieee2883"][:9]) == ("luks-destroy-keys", "purge", "purge", "not named")
    assert row["ledger"]["keyslots"] == ["0", "1"] and row["seconds"] == 60
    assert "forgotten copy" in row["not_reached"][0]


@pytest.mark.parametrize(
    "turning,ledger,word",
    [
        (False, key_ledger(), "older cells that held the key slots"),
        (True, key_ledger(key_copy()), "keys had left the medium (1 kinds of copies"),
    ],
)
def test_what_the_host_cannot_reach_makes_it_clear_and_says_so(turning, ledger, word):
    decision = decide(luks_disk(turning), luks=ledger)
    assert decision["verdict"] == "destroy" and decision["reachable"] == "clear"
    assert why(decision, "luks-destroy-keys") == "only clear; the policy wants purge"
    row = next(row for row in decide(luks_disk(turning), CLEAR, luks=ledger)["techniques"] if row["id"] == "luks-destroy-keys")
    assert (row["class"], row["rev1"]) == ("clear", "clear") and word in row["why"]


def test_a_disk_that_is_not_known_to_turn_counts_as_flash():
    fact = luks_disk(turning=True)
    fact["traits"]["rotational"] = "unknown"
    assert decide(fact, luks=key_ledger())["reachable"] == "clear"


def test_the_keys_of_a_virtual_disk_are_logical_sanitisation():
    fact = virtual()
    fact["luks"] = luks()
    fact["sizes"]["current"] = 1 << 20
    assert decide(fact, luks=key_ledger())["verdict"] == "destroy"
    row = next(row for row in decide(fact, CLEAR, luks=key_ledger())["techniques"] if row["id"] == "luks-destroy-keys")
    assert (row["class"], row["rev1"]) == ("logical", "none") and row["ieee2883"].startswith("none: logical")


@pytest.mark.parametrize(
    "ledger,word",
    [
        (None, "attested"),
        (None, "no ledger of key copies"),
        (key_ledger(encrypted_from_start="unknown"), "attested"),
        (key_ledger(encrypted_from_start="no"), "attested"),
        (key_ledger(copies=None), "no ledger of key copies"),
        (key_ledger(none=["escrow"]), "says nothing of: header-backup, detached-header, keyfile, memory, vault-package, layers-below"),
        (key_ledger(key_copy("escrow", where="helpdesk", destroyed="no")), "helpdesk is not destroyed"),
        (key_ledger(key_copy("escrow", where="helpdesk", destroyed="unknown")), "helpdesk is not destroyed"),
        (key_ledger(key_copy("escrow", where="")), "escrow"),
        (key_ledger(key_copy("escrow", by="")), "it is not said: by"),
        (key_ledger(key_copy("escrow"), none=list(key_ledger()["none"])), "both that there is none in escrow and that there is one"),
        (key_ledger(uuid="another"), "about the volume another, this is u"),
        (key_ledger(uuid=None), "about the volume of no name, this is u"),
    ],
)
def test_a_cryptographic_erase_with_an_open_question_is_none(ledger, word):
    decision = decide(luks_disk(turning=True), luks=ledger)
    assert decision["verdict"] == "destroy" and decision["order"]["provisional"]
    assert word in why(decision, "luks-destroy-keys")


@pytest.mark.parametrize(
    "changes,word,known",
    [
        ({"keyslots": None}, "cannot be read", False),
        ({"header_bytes": None}, "cannot be read", False),
        ({"unfinished": "yes"}, "reencryption", True),
        ({"unfinished": "unknown"}, "not known whether a reencryption", False),
        ({"whole": "no"}, "a part of it is not encrypted", True),
        ({"whole": "unknown"}, "not known whether all of it", False),
        ({"strength": "no", "cipher": "cipher_null-ecb", "key_bits": 0}, "cipher_null-ecb with a key of 0 bits does not hold", True),
        ({"strength": "unknown"}, "not known whether its cipher", False),
        ({"header_bytes": 0}, "detached header, its data lies elsewhere", True),
    ],
)
def test_what_the_header_says_against_it(changes, word, known):
    fact = luks_disk(turning=True)
    fact["luks"] = luks(**changes)
    decision = decide(fact, luks=key_ledger())
    assert word in why(decision, "luks-destroy-keys")
    assert next(row["known"] for row in decision["rejected"] if row["id"] == "luks-destroy-keys") is known


def test_decision_and_certificate_call_the_destruction_of_keys_the_same():
    for turning, copies in ((True, []), (True, [key_copy()]), (False, []), (None, [])):
        ledger = key_ledger(*copies)
        fact = luks_disk(turning=True)
        fact["traits"]["rotational"] = {True: "yes", False: "no", None: "unknown"}[turning]
        row = next(row for row in decide(fact, CLEAR, luks=ledger)["techniques"] if row["id"] == "luks-destroy-keys")
        said = wipe_keys.classes(ledger, turning, False, 1 << 30, 1 << 24)
        assert (said["nist_800_88r2"].lower(), said["nist_800_88r1"].lower()) == (row["class"], row["rev1"])
        assert row["ieee2883"].startswith(said["ieee_2883_2022"])


# --- one drive, several devices ---


def pair(**second):
    one, two = nvme("nvme0n1"), nvme("nvme0n2")
    two.update(namespace=2, nguid="f" * 32, **second)
    one["sizes"]["namespaces"] = two["sizes"]["namespaces"] = [{"nsid": 1}, {"nsid": 2}, {"nsid": 3}]
    return [one, two]


def test_sanitize_names_the_other_namespaces_and_those_that_nobody_shows():
    first, second = wipe_group.decide(pair(), lambda fact: PURGE)
    assert (first["covers"], second["covers"]) == (["nvme0n2"], ["nvme0n1"])
    assert first["warnings"] == ["namespace 3 of the same drive is not shown on this machine"]


def test_sanitize_is_out_where_another_namespace_is_mounted():
    held = {"holders": [{"kind": "mount", "what": "/srv (ext4)", "device": "nvme0n2"}], "held": "yes"}
    first, second = wipe_group.decide(pair(**held), lambda fact: CLEAR)
    assert ids(first) == ["overwrite-keyed", "nvme-format-ses2", "nvme-format-ses1"]
    assert "nvme0n2" in why(first, "nvme-sanitize-block")
    assert second["verdict"] == "refused"
    assert wipe_group.decide(pair(**held), lambda fact: PURGE)[0]["verdict"] == "destroy"


def test_sanitize_is_out_where_another_namespace_is_in_no_plan():
    (first,) = wipe_group.decide(pair(), lambda fact: PURGE if fact["name"] == "nvme0n1" else None)
    assert first["verdict"] == "destroy"
    assert "no plan" in why(first, "nvme-sanitize-crypto")


def test_a_format_that_reaches_all_namespaces_is_out_as_well():
    facts = pair(holders=[{"kind": "swap", "what": "/dev/nvme0n2", "device": "nvme0n2"}], held="yes")
    for fact in facts:
        fact["format"]["erase_all_namespaces"] = "unknown"
    first = wipe_group.decide(facts, lambda fact: CLEAR)[0]
    assert ids(first) == ["overwrite-keyed"]


def paths(map_holders=(), own=()):
    stacked = {"kind": "stacked", "what": "multipath mpatha", "device": "dm-0"}
    daemon = {"kind": "descriptor", "what": "process 500 (multipathd)", "device": "sda"}
    facts = []
    for name in ("sda", "sdb"):
        fact = sas_hdd(name)
        fact.update(wwn="5000c500ffffffff", multipath="dm-0", held="yes", holders=[stacked, daemon] + list(own) + list(map_holders))
        facts.append(fact)
    above = volume("dm-0", "multipath", 8000 * GB, holders=list(map_holders))
    above["held"] = "yes" if map_holders else "no"
    return facts + [above]


def test_a_disk_behind_several_paths_is_decided_once_and_written_through_its_map():
    (only,) = wipe_group.decide(paths(), lambda fact: PURGE)
    assert (only["verdict"], only["paths"], only["through"]) == ("plan", ["sda", "sdb"], "/dev/dm-0")


def test_what_is_mounted_from_the_map_is_in_the_way_on_every_path():
    mounted = {"kind": "mount", "what": "/data (xfs)", "device": "dm-0"}
    (only,) = wipe_group.decide(paths([mounted]), lambda fact: PURGE)
    assert only["verdict"] == "refused"


def test_a_map_that_somebody_unseen_claims_is_in_the_way():
    claimed = {"kind": "exclusive", "what": "the kernel says that it is claimed, by whom cannot be seen", "device": "dm-0"}
    (only,) = wipe_group.decide(paths([claimed]), lambda fact: PURGE)
    assert any("claimed" in reason for reason in only["reasons"])


def test_two_paths_without_a_map_are_one_medium():
    facts = [sas_hdd(name) for name in ("sda", "sdb")]
    for fact in facts:
        fact["wwn"] = "5000c500ffffffff"
    assert len(wipe_group.decide(facts, lambda fact: PURGE)) == 1
    facts[1].update(held="yes", holders=[{"kind": "mount", "what": "/x (ext4)", "device": "sdb1"}])
    assert wipe_group.decide(facts, lambda fact: PURGE)[0]["verdict"] == "refused"


@pytest.mark.parametrize(
    "policy",
    [
        None,
        {},
        {"asked": "wipe"},
        {"asked": "purge", "prefer": "fun"},
        {"asked": "clear", "logical": True},
        {"asked": "clear", "pool_reserve": 0},
    ],
)
def test_a_policy_that_says_nothing_is_one_clear_error(policy):
    assert wipe_decide.policy_problem(policy)
    with pytest.raises(ValueError):
        wipe_decide.decide(nvme(), policy)


def test_the_digest_of_a_decision_does_not_hang_on_a_process_id():
    one, two = ata_ssd(), ata_ssd()
    for fact, pid in ((one, 7), (two, 8)):
        fact.update(held="yes", holders=[{"kind": "descriptor", "what": "process %d (dd)" % pid, "device": "sda"}])
    assert wipe_decide.summary(decide(one)) == wipe_decide.summary(decide(two))
    assert wipe_decide.summary(decide(one)) != wipe_decide.summary(decide(one, CLEAR))


def test_both_tables_say_the_same_of_every_technique():
    """The decision, which a person approves, and the result, which the certificate prints."""
    for name, technique in wipe_firmware.TECHNIQUES.items():
        for rotational in (True, False):
            said = wipe_firmware.classes(technique, {"kind": "nvme", "rotational": rotational})
            choice = wipe_techniques.Choice({"traits": {"rotational": "yes" if rotational else "no"}}, {})
            choice.add(name, "", None, "")
            row = choice.techniques[0]
            assert (said["nist_800_88r2"].lower(), said["nist_800_88r1"].lower()) == (row["class"], row["rev1"]), name
            assert row["ieee2883"].startswith(said["ieee_2883_2022"] + ","), name
