# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From answers to facts, over answers RECORDED from QEMU's emulated devices and over constructed ones of a drive that tells the truth or lies.

Valid for Python 3.6.
"""

import json
import os

import pytest

from ansible_collections.sunset.crm.plugins.module_utils._disk import (
    device as disk_device,
    facts as disk_facts,
    probe as disk_probe,
    world as disk_world,
)
from ansible_collections.sunset.crm.plugins.module_utils._disk.ask import Answer
from ansible_collections.sunset.crm.plugins.module_utils._disk.stack import Stack

HERE = os.path.dirname(os.path.abspath(__file__))
with open(os.path.join(HERE, "..", "..", "..", "recorded", "qemu_disks.json")) as stream:
    RECORDED = json.load(stream)["devices"]


class Recorded(object):
    """Answers as they were recorded; what was not asked then is refused."""

    def __init__(self, name):
        self.kept = RECORDED[name]
        self.asked = []

    def take(self, key):
        self.asked.append(key)
        if key not in self.kept:
            return Answer(why="the device refused (sense key 5h, 20h/00h)")
        one = self.kept[key]
        data = bytes(bytearray.fromhex(one["data"])).ljust(one["length"], b"\0")
        return Answer(data, bytes(bytearray.fromhex(one["sense"])), one["why"])

    def inquiry(self, page=None):
        return self.take("inquiry" if page is None else "pg%02x" % page)

    def read_capacity(self):
        return self.take("capacity")

    def operation_code(self, opcode, action):
        return self.take("op48_1")

    def request_sense(self):
        return self.take("sense")

    def security(self, protocol, specific):
        return self.take("tcg")

    def ata(self, command, feature=0, read=0):
        return self.take({0xEC: "identify", 0xB4: "sanitize_status", 0x27: "native", 0x78: "amac", 0xB1: "dco"}[command])

    def ata_identity_of_kernel(self):
        return self.take("kernel_identity")

    def nvme_identify(self, what, nsid=0):
        return self.take({1: "controller", 2: "list", 0x10: "allocated", 0: "namespace", 0x11: "namespace"}[what])

    def nvme_log(self, page, length):
        return self.take("log")

    def nvme_security(self, protocol, specific):
        return self.take("security")

    def namespace_number(self):
        return self.kept.get("nsid")


def fact_of(name, vendor, device=None):
    fact = disk_facts.blank(name)
    fact.update(path="/dev/" + name, vendor=vendor, model="QEMU HARDDISK")
    fact["class"] = "nvme" if name.startswith("nvme") else "scsi"
    device = device or Recorded(name)
    if fact["class"] == "nvme":
        disk_probe.nvme(fact, device)
    else:
        disk_probe.scsi(fact, device, "/nowhere")
    disk_facts.refine(fact)
    disk_facts.not_applicable(fact)
    disk_facts.explain(fact)
    return fact, device


def test_recorded_sata_disk_is_not_asked_for_what_it_does_not_claim():
    """The emulation answers READ NATIVE MAX, and breaks off at SANITIZE STATUS and DCO: none of it is asked, none of it is a yes."""
    fact, device = fact_of("sda", "ATA")
    assert (fact["model"], fact["serial"], fact["firmware"]) == ("QEMU HARDDISK", "SATA0001", "2.5+")
    assert (fact["class"], fact["layer"]) == ("virtual", "emulated")
    assert not {"native", "dco", "amac", "sanitize_status", "tcg"} & set(device.asked)
    for group in ("security", "sanitize", "format", "hidden", "tcg"):
        assert "yes" not in fact[group].values(), group
    assert fact["hidden"]["hpa"] == fact["hidden"]["dco"] == "no"


def test_recorded_answers_to_questions_that_should_not_be_asked_are_no_answers():
    from ansible_collections.sunset.crm.plugins.module_utils._disk import ata as disk_ata

    for key in ("sanitize_status", "amac"):
        sense = bytes(bytearray.fromhex(RECORDED["sda"][key]["sense"]))
        found, why = disk_ata.registers(sense)
        assert found is None and why, key
    assert RECORDED["sda"]["dco"]["why"]
    for key in ("sanitize_status", "native", "amac"):
        assert disk_ata.registers(bytes(bytearray.fromhex(RECORDED["sdb"][key]["sense"])))[0] is None, "a SCSI disk has no ATA registers"


@pytest.mark.parametrize("name,serial", [("sdb", "SCSI0001"), ("sdc", "USB00001")])
def test_recorded_scsi_disk_has_no_hpa_and_an_unknown_sanitize(name, serial):
    fact, device = fact_of(name, "QEMU")
    assert fact["serial"] == serial
    assert set(fact["hidden"].values()) == {"no"}, "hdparm -N reports a host protected area on this disk"
    assert {fact["sanitize"][action] for action in ("block", "crypto", "overwrite")} == {"unknown"}
    assert "sense key 5h, 20h/00h" in fact["why"]["sanitize.overwrite"]
    assert "identify" not in device.asked, "no ATA command goes to a disk that is none"


def test_recorded_nvme_disk_refuses_sanitize_and_has_format():
    fact, _device_asked = fact_of("nvme0n1", None)
    assert (fact["serial"], fact["subsystem"]) == ("NVME0001", "nvme:nqn.2019-08.org.qemu:NVME0001")
    assert {fact["sanitize"][name] for name in ("supported", "block", "crypto", "overwrite")} == {"no"}
    assert fact["format"]["supported"] == "yes" and fact["format"]["crypto"] == "no"
    assert fact["sizes"]["namespaces"] == [{"nsid": 1, "bytes": 67108864, "nguid": None, "eui64": None}]
    assert fact["class"] == "virtual"


class Constructed(Recorded):
    """A drive made of constructed answers."""

    def __init__(self, **answers):
        self.kept = {}
        self.answers = answers
        self.asked = []

    def take(self, key):
        self.asked.append(key)
        value = self.answers.get(key, "the device refused (sense key 5h, 20h/00h)")
        return Answer(why=value) if isinstance(value, str) else value

    def namespace_number(self):
        return 1


def real_ssd(**answers):
    from test_disk_decoders import ata, returned

    inquiry = b"\x00\x00\x05\x02\x5b\0\0\0" + b"ATA     " + b"Sample SSD 870  " + b"02B6"
    told = {
        "inquiry": Answer(inquiry),
        "identify": Answer(ata()),
        "sanitize_status": Answer(b"", returned(count=0x8000)),
        "native": Answer(b"", returned(lba=0x3A386DB0 + 2047)),
    }
    told.update(answers)
    return fact_of("sda", "ATA", Constructed(**told))[0]


def test_a_drive_that_tells_the_truth():
    fact = real_ssd()
    assert (fact["class"], fact["serial"], fact["wwn"]) == ("ata-ssd", "S3Z9NB0K123456", "5002538e12345678")
    assert (fact["sanitize"]["block"], fact["sanitize"]["state"], fact["sanitize"]["frozen"]) == ("yes", "idle", "no")
    assert fact["hidden"] == {"hpa": "yes", "amac": "unknown", "dco": "unknown"}
    assert "refused" in fact["why"]["hidden.dco"]
    assert fact["sizes"]["native"] == (0x3A386DB0 + 2048) * 512
    assert fact["traits"]["self_encrypting"] == "yes"
    assert "security.enabled" not in fact["why"]


def test_a_bridge_that_swallows_the_registers_leaves_unknowns_with_their_reasons():
    fact = real_ssd(native=Answer(b"", b"\x70" + b"\0" * 17), sanitize_status=Answer(b"", b""))
    assert fact["hidden"]["hpa"] == "unknown"
    assert "no result registers" in fact["why"]["hidden.hpa"]
    assert (fact["sanitize"]["state"], fact["sanitize"]["frozen"]) == ("unknown", "unknown")


def test_a_drive_that_does_not_answer_identify_is_unknown_throughout():
    fact = real_ssd(
        identify="the device cannot be asked: Operation not permitted",
        kernel_identity="the device cannot be asked: Operation not permitted",
    )
    assert {fact["security"][name] for name in ("supported", "frozen", "enhanced")} == {"unknown"}
    assert fact["why"]["security.frozen"].endswith("Operation not permitted")
    assert {fact["sanitize"][name] for name in ("block", "crypto", "overwrite")} == {"unknown"}


def test_identify_data_with_a_wrong_checksum_is_not_believed():
    from test_disk_decoders import ata

    fact = real_ssd(identify=Answer(ata()[:-1] + b"\x77"))
    assert fact["security"]["supported"] == "unknown"
    assert "checksum" in fact["why"]["security.supported"]


def test_the_kernels_copy_of_identify_has_its_strings_turned():
    from test_disk_decoders import ata

    turned = bytearray(ata(checksum=False))
    for first, last in ((10, 19), (23, 26), (27, 46)):
        for word in range(first, last + 1):
            turned[2 * word], turned[2 * word + 1] = turned[2 * word + 1], turned[2 * word]
    fact = real_ssd(identify="the device refused (sense key 5h, 20h/00h)", kernel_identity=Answer(bytes(turned)))
    assert fact["serial"] == "S3Z9NB0K123456"
    assert fact["sources"]["identify"] == "kernel: HDIO_GET_IDENTITY"
    assert "may have changed since" in fact["why"]["security.frozen"]


def test_a_drive_that_claims_tcg_and_is_kept_from_us_is_not_without_it():
    """libata answers for the drive, with the words of a drive that has it not."""
    fact = real_ssd()
    assert fact["tcg"]["present"] == "unknown"
    assert "20h/00h" in fact["why"]["tcg.present"]
    assert fact_of("sdb", "QEMU")[0]["tcg"]["present"] == "no"


def test_a_dying_disk_is_asked_once():
    device = Constructed(inquiry="the transport failed (host status 07h, driver status 00h)")
    fact = fact_of("sda", "SEAGATE", device)[0]
    assert device.asked == ["inquiry"]
    assert fact["sanitize"]["overwrite"] == "unknown"
    assert "host status 07h" in fact["why"]["sanitize.overwrite"]


def test_every_unknown_has_its_reason():
    for name, vendor in (("sda", "ATA"), ("sdb", "QEMU"), ("nvme0n1", None)):
        fact = fact_of(name, vendor)[0]
        for group in ("security", "sanitize", "format", "hidden", "tcg"):
            for field, value in fact[group].items():
                if value == "unknown":
                    assert fact["why"].get("%s.%s" % (group, field)), "%s: %s.%s" % (name, group, field)
                elif (group, field) != ("security", "frozen"):
                    assert "%s.%s" % (group, field) not in fact["why"]


def test_the_serial_number_of_a_scsi_page_keeps_its_first_letter():
    raw = bytes(bytearray.fromhex(RECORDED["sdb"]["pg80"]["data"])).ljust(12, b"\0")
    assert disk_device.serial_of_page_80(raw) == "SCSI0001"
    assert disk_device.serial_of_page_80(b"") is None
    assert disk_device.serial_of_page_80(b"\x00\x83\x00\x04abcd") is None


# --- the stack and the kernel's words ---


def snapshot(blocks, **more):
    found = {
        "mounts": [],
        "swaps": [],
        "descriptors": [],
        "exports": [],
        "exclusive": {},
        "root": {"verdict": "yes", "numbers": []},
        "incomplete": {},
    }
    for number, name in enumerate(sorted(blocks)):
        blocks[name] = dict({"number": "8:%d" % number, "slaves": [], "partition_of": None, "dm_uuid": None}, **blocks[name])
    found.update(blocks=blocks, **more)
    return found


def test_layers_by_the_device_mappers_own_names():
    stack = Stack(
        snapshot(
            {
                "sda": {},
                "sda1": {"partition_of": "sda"},
                "dm-0": {"slaves": ["sda1"], "dm_uuid": "LVM-abc-tpool"},
                "dm-1": {"slaves": ["dm-0"], "dm_uuid": "LVM-def"},
                "dm-7": {"slaves": ["dm-0"], "dm_uuid": "LVM-abc-pool"},
                "dm-2": {"slaves": ["sda1"], "dm_uuid": "LVM-ghi"},
                "dm-3": {"slaves": ["dm-2"], "dm_uuid": "CRYPT-LUKS2-u-secret"},
                "dm-4": {"slaves": ["sda"], "dm_uuid": "mpath-3500"},
                "dm-5": {"slaves": ["sda"], "dm_uuid": ""},
                "dm-6": {"slaves": ["sda1"], "dm_uuid": "LVM-abc-tmeta"},
                "md0": {"slaves": ["sda"]},
                "loop0": {"loop_on": "8:10", "loop_file": "/x.img"},
            }
        )
    )
    kinds = {name: stack.layer(name) for name in stack.blocks}
    assert kinds == {
        "sda": None, "sda1": "partition", "dm-0": "lvm-thin-pool", "dm-7": "lvm-thin-pool", "dm-1": "lvm-thin", "dm-2": "lvm", "dm-3": "dm-crypt", "dm-4": "multipath",
        "dm-5": "dm", "dm-6": "lvm-internal", "md0": "md", "loop0": "loop",
    }  # fmt: skip
    assert stack.above("dm-2") == ["dm-3"]
    assert stack.below("dm-1") == ["dm-0", "sda", "sda1"]
    assert stack.multipath("sda") == "dm-4"


def test_a_claim_that_nobody_can_be_seen_for_is_a_holder():
    stack = Stack(snapshot({"sda": {}}, exclusive={"sda": "yes"}))
    (row,) = stack.holders("sda")
    assert row["kind"] == "exclusive"


def test_nobody_seen_is_free_only_if_the_kernel_agrees():
    def verdict(exclusive, **incomplete):
        stack = Stack(snapshot({"sda": {}}, exclusive={"sda": exclusive}, incomplete=incomplete))
        return stack.held("sda", stack.holders("sda"))["verdict"]

    assert verdict("no") == "no"
    assert verdict("unknown") == "unknown"
    assert verdict("no", mounts="hidden") == "no", "a mount elsewhere claims the device, and it is not claimed"
    assert verdict("no", descriptors="hidden") == "unknown", "an open descriptor claims nothing"


def test_a_guests_disk_is_told_from_another_process():
    stack = Stack(snapshot({"sda": {}}, descriptors=[["8:0", 7, "qemu-system-x86"], ["8:0", 8, "dd"]]))
    assert {row["what"]: row["kind"] for row in stack.holders("sda")} == {
        "process 7 (qemu-system-x86)": "vm",
        "process 8 (dd)": "descriptor",
    }


def test_the_root_is_seen_from_the_disk_below_it():
    blocks = {"sda": {}, "sda1": {"partition_of": "sda"}, "dm-0": {"slaves": ["sda1"], "dm_uuid": "LVM-x"}, "sdb": {}}
    stack = Stack(snapshot(blocks, root={"verdict": "yes", "numbers": ["8:0"]}))
    assert {name: stack.carries_root(name) for name in blocks} == {"sda": "yes", "sda1": "yes", "dm-0": "yes", "sdb": "no"}
    blind = Stack(snapshot({"sda": {}}, root={"verdict": "unknown", "numbers": [], "why": "a container"}))
    assert blind.carries_root("sda") == "unknown"


def test_the_state_of_a_thin_pool():
    found = disk_world.decode_thin_pool(
        "253:1 253:2 128 0 1 skip_block_zeroing ", "1 12/512 48/192 - rw discard_passdown queue_if_no_space - 1024 "
    )
    assert (found["data_bytes"], found["data_used"]) == (192 * 65536, 48 * 65536)
    assert disk_world.decode_thin_pool("x", "Fail")["why"]


@pytest.mark.parametrize(
    "path,name,word",
    [
        ("/sys/devices/pci0000:00/0000:00:1f.2/ata3/host2/target2:0:0/2:0:0:0/block/sda", "sda", "sata"),
        ("/sys/devices/pci0/host0/port-0:0/end_device-0:0/target0:0:0/0:0:0:0/block/sda", "sda", "sas"),
        ("/sys/devices/pci0/usb2/2-1/2-1:1.0/host6/target6:0:0/6:0:0:0/block/sdb", "sdb", "usb"),
        ("/sys/devices/platform/host3/session1/target3:0:0/3:0:0:0/block/sdc", "sdc", "iscsi"),
        ("/sys/devices/pci0/host1/rport-1:0-0/target1:0:0/1:0:0:0/block/sdd", "sdd", "fc"),
        ("/sys/devices/pci0/0000:01:00.0/nvme/nvme0/nvme0n1", "nvme0n1", "nvme"),
        ("/sys/devices/pci0/virtio3/host2/target2:0:0/2:0:0:0/block/sda", "sda", "virtio"),
        ("/sys/devices/pci0/virtio1/block/vda", "vda", "virtio"),
    ],
)
def test_the_way_a_disk_is_attached(path, name, word):
    assert disk_facts.transport_of(path, name) == word


def test_disks_below_a_raid_controller_are_seen_without_a_block_device(monkeypatch):
    kept = {
        "/sys/class/scsi_generic/sg0/device/type": "0",
        "/sys/class/scsi_generic/sg0/dev": "21:0",
        "/sys/class/scsi_generic/sg0/device/vendor": "SEAGATE",
        "/sys/class/scsi_generic/sg0/device/model": "ST8000NM0075",
        "/sys/class/scsi_generic/sg1/device/type": "0",
        "/sys/class/scsi_generic/sg2/device/type": "13",
    }
    folders = {"/sys/class/scsi_generic": ["sg0", "sg1", "sg2"], "/sys/class/scsi_generic/sg1/device/block": ["sda"]}
    monkeypatch.setattr(disk_world, "read", kept.get)
    monkeypatch.setattr(disk_world, "names", lambda folder: folders.get(folder, []))
    (fact,) = disk_facts.without_block(False)
    assert (fact["name"], fact["class"], fact["vendor"]) == ("sg0", "scsi", "SEAGATE")
    assert fact["held"] == "unknown"
    assert "a volume of its controller" in fact["why"]["held"]
    for group in ("sanitize", "tcg"):
        assert all(fact["why"].get("%s.%s" % (group, name)) for name, value in fact[group].items() if value == "unknown")
