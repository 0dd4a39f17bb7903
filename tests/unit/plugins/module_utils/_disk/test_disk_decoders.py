# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The raw structures of devices, decoded. Valid for Python 3.6.

The bytes here are CONSTRUCTED after the layouts of the standards, unless a test says that they were recorded. None of these paths has
met the drive of a maker; what was recorded comes from the emulated devices of QEMU.
"""

import struct

import pytest

from ansible_collections.sunset.crm.plugins.module_utils._disk import (
    ata as disk_ata,
    nvme as disk_nvme,
    scsi as disk_scsi,
    signs as disk_signs,
    text as disk_text,
)
from ansible_collections.sunset.crm.plugins.module_utils._wipe import tcg as wipe_tcg

# --- makers of structures ---


def ata_text(value, length):
    raw = value.ljust(length).encode("ascii")
    return b"".join(raw[at + 1 : at + 2] + raw[at : at + 1] for at in range(0, length, 2))


def ata(checksum=True, **words):
    """IDENTIFY DEVICE of a SATA SSD with security, all three sanitize actions, HPA and DCO; words overrule: w128=..."""
    found = dict.fromkeys(range(256), 0)
    found.update({0: 0x0040, 48: 0x4001, 59: 0xF000, 69: 0x0010, 82: 0x0402, 83: 0x4C00, 84: 0x4100, 85: 0x0002, 86: 0x0400, 87: 0x4100})
    found.update(
        {
            60: 0xFFFF,
            61: 0x0FFF,
            100: 0x6DB0,
            101: 0x3A38,
            106: 0x6003,
            117: 256,
            119: 0x4100,
            120: 0x4100,
            128: 0x0021,
            89: 1,
            90: 0x8004,
            217: 1,
        }
    )
    found.update({108: 0x5002, 109: 0x538E, 110: 0x1234, 111: 0x5678})
    found.update({int(name[1:]): value for name, value in words.items()})
    raw = bytearray(struct.pack("<256H", *[found[number] for number in range(256)]))
    raw[20:40] = ata_text("S3Z9NB0K123456", 20)
    raw[46:54] = ata_text("RVT02B6Q", 8)
    raw[54:94] = ata_text("Sample SSD 870", 40)
    if checksum:
        raw[510] = 0xA5
        raw[511] = 0
        raw[511] = -sum(raw) & 0xFF
    return bytes(raw)


def returned(error=0, count=0, lba=0, status=0x50):
    """Descriptor sense with an ATA Status Return descriptor."""
    low = [count >> 8, count & 0xFF] + [lba >> shift & 0xFF for shift in (24, 0, 32, 8, 40, 16)]
    return bytes(bytearray([0x72, 0x01, 0x00, 0x1D, 0, 0, 0, 14, 0x09, 0x0C, 1, error] + low + [0x40, status]))


def registers(**fields):
    found, why = disk_ata.registers(returned(**fields))
    assert why == ""
    return found


def nvme_controller(**fields):
    raw = bytearray(4096)
    raw[4:24] = b"S64FNE0R500001".ljust(20)
    raw[24:64] = b"Sample NVMe 980".ljust(40)
    raw[64:72] = b"GDC5602Q"
    raw[80:84] = struct.pack("<I", 0x00010400)
    raw[768:800] = b"nqn.2020-01.org.example:nvme:1".ljust(32, b"\0")
    layout = {"oacs": (256, "<H"), "sanicap": (328, "<I"), "fna": (524, "<B"), "nn": (516, "<I"), "cmic": (76, "<B")}
    values = {"oacs": 0x1F, "sanicap": 0x3, "fna": 0x4, "nn": 32}
    values.update({name: value for name, value in fields.items() if name in layout})
    for name, value in values.items():
        struct.pack_into(layout[name][1], raw, layout[name][0], value)
    raw[280:296] = fields.get("total", 10**12).to_bytes(16, "little")
    raw[296:312] = fields.get("free", 0).to_bytes(16, "little")
    return bytes(raw)


def log(sprog=0xFFFF, sstat=0, cdw10=0, times=(0xFFFFFFFF,) * 6):
    return struct.pack("<HHI6I", sprog, sstat, cdw10, *times).ljust(512, b"\0")


# --- ATA ---


def test_identify_tells_names_sizes_and_what_the_drive_can():
    raw = ata()
    assert disk_ata.identify_problem(raw) is None
    found = disk_ata.identify(raw)
    assert (found["serial"], found["model"], found["firmware"]) == ("S3Z9NB0K123456", "Sample SSD 870", "RVT02B6Q")
    assert found["wwn"] == "5002538e12345678"
    assert found["capacity"] == 0x3A386DB0 * 512
    assert (found["logical"], found["physical"], found["rotational"]) == (512, 4096, "no")
    assert found["self_encrypting"] == "yes"
    assert found["sanitize"] == {"supported": "yes", "block": "yes", "crypto": "yes", "overwrite": "yes"}
    assert found["security"]["supported"] == found["security"]["enhanced"] == "yes"
    assert found["security"]["frozen"] == "no"
    assert (found["security"]["minutes"], found["security"]["enhanced_minutes"]) == (2, 8)


@pytest.mark.parametrize(
    "word,names",
    [
        (0x0021, ""),
        (0x0023, "enabled"),
        (0x0027, "enabled locked"),
        (0x0029, "frozen"),
        (0x0031, "count_expired"),
        (0x012F, "enabled locked frozen"),
    ],
)
def test_the_state_of_security_is_read_from_word_128(word, names):
    found = disk_ata.identify(ata(w128=word))["security"]
    assert [name for name in ("enabled", "locked", "frozen", "count_expired") if found[name] == "yes"] == names.split()


def test_words_that_contradict_each_other_are_unknown_and_never_yes():
    told = disk_ata.identify(ata(w82=0x0400))["security"]
    assert {told[name] for name in disk_ata.SECURITY} == {"unknown"}
    assert set(disk_ata.identify(ata(w59=0xE000))["sanitize"].values()) == {"unknown"}
    assert set(disk_ata.identify(ata(w59=0x1000))["sanitize"].values()) == {"unknown"}
    assert set(disk_ata.identify(ata(w59=0xFFFF))["sanitize"].values()) == {"unknown"}
    assert set(disk_ata.identify(ata(w59=0))["sanitize"].values()) == {"no"}
    assert {disk_ata.identify(ata(w83=0))["security"][name] for name in disk_ata.SECURITY} == {"unknown"}


def test_a_drive_without_security_says_no():
    told = disk_ata.identify(ata(w82=0x0400, w128=0))["security"]
    assert {told[name] for name in disk_ata.SECURITY} == {"no"}


@pytest.mark.parametrize(
    "raw,word",
    [
        (b"", "0 bytes"),
        (b"\0" * 512, "empty"),
        (b"\xff" * 512, "empty"),
        (ata()[:-1] + b"\x01", "checksum"),
        (ata(w0=0x8580), "no ATA disk"),
    ],
)
def test_what_is_no_identify_data_is_told(raw, word):
    assert word in disk_ata.identify_problem(raw)


def test_large_sectors_and_a_turning_disk():
    found = disk_ata.identify(ata(w106=0x5000, w117=2048, w217=7200))
    assert (found["logical"], found["physical"], found["rotational"]) == (4096, 4096, "yes")
    assert disk_ata.identify(ata(w217=0))["rotational"] == "unknown"


def test_registers_are_found_in_descriptor_sense_alone():
    answer = registers(count=0x8000, lba=0x123456789ABC)
    assert (answer.count, answer.lba, answer.failed) == (0x8000, 0x123456789ABC, False)
    for sense in (b"", b"\x70\0\x05" + b"\0" * 15, b"\x72\x05\x20\0\0\0\0\0"):
        found, why = disk_ata.registers(sense)
        assert found is None and "no result registers" in why
    half = bytearray(18)
    half[0], half[12], half[13], half[4] = 0x70, 0x00, 0x1D, 0x50
    assert disk_ata.registers(bytes(half))[0] is None
    half[4], half[3] = 0x51, 0x04
    assert disk_ata.registers(bytes(half))[0].failed


def test_sanitize_idle_without_error_is_not_success():
    """An idle drive that was never sanitised answers the same."""
    status = disk_ata.sanitize_status(registers(count=0x8000, lba=0xFFFF))
    assert status["state"] == "idle"
    assert status["progress"] is None


def test_sanitize_states():
    running = disk_ata.sanitize_status(registers(count=0x4000, lba=0x8000))
    assert (running["state"], running["progress"]) == ("running", 50.0)
    assert disk_ata.sanitize_status(registers(count=0x2000))["frozen"] == "yes"
    assert disk_ata.sanitize_status(registers(status=0x51, error=4, lba=1))["state"] == "failed"
    assert disk_ata.sanitize_status(registers(status=0x51, error=4, lba=2))["state"] == "unknown"


FEATURES = {"hpa": "yes", "dco": "yes", "amac": "no"}


def test_a_host_protected_area_is_seen():
    sectors, why = disk_ata.native_maximum(registers(lba=999), 900)
    assert (sectors, why) == (1000, "")
    found, why = disk_ata.hidden(FEATURES, 900, {"sectors": 1000}, {}, {"sectors": 1000})
    assert found == {"hpa": "yes", "amac": "no", "dco": "no"}
    assert why == {}
    assert disk_ata.hidden(FEATURES, 900, {"sectors": 1000}, {}, {"sectors": 1200})[0]["dco"] == "yes"


@pytest.mark.parametrize("lba", [0, 1, 898])
def test_a_native_maximum_below_the_size_is_nonsense_not_hpa(lba):
    """hdparm -N on an emulated SCSI disk: 'max sectors = 0/1, HPA is enabled'."""
    sectors, why = disk_ata.native_maximum(registers(lba=lba), 900)
    assert sectors is None and "less than" in why
    assert disk_ata.hidden(FEATURES, 900, {"sectors": None, "why": why}, {}, {})[0]["hpa"] == "unknown"


def test_a_refused_native_maximum_is_unknown():
    sectors, why = disk_ata.native_maximum(registers(status=0x51, error=4), 900)
    assert sectors is None and "refused" in why


def test_dco_data_without_its_checksum_is_nonsense():
    raw = bytearray(512)
    raw[6:14] = struct.pack("<Q", 1199)
    assert disk_ata.dco_identify(bytes(raw), 900)[0] is None
    raw[510] = 0xA5
    raw[511] = -sum(raw) & 0xFF
    assert disk_ata.dco_identify(bytes(raw), 900) == (1200, "")
    assert disk_ata.dco_identify(b"\0" * 512, 900)[0] is None
    one = bytearray(512)
    one[510] = 0xA5
    one[511] = -sum(one) & 0xFF
    assert "1 sectors" in disk_ata.dco_identify(bytes(one), 900)[1]


def test_features_that_are_not_there_are_no_without_a_question():
    found, why = disk_ata.hidden({"hpa": "no", "dco": "no", "amac": "unknown"}, 900, {}, {}, {})
    assert found == {"hpa": "no", "dco": "no", "amac": "unknown"}
    assert list(why) == ["hidden.amac"]


# --- NVMe ---


def test_controller_capabilities():
    found = disk_nvme.controller(nvme_controller())
    assert (found["serial"], found["model"], found["firmware"]) == ("S64FNE0R500001", "Sample NVMe 980", "GDC5602Q")
    assert {name: found["sanitize"][name] for name in ("supported", "block", "crypto", "overwrite")} == {
        "supported": "yes",
        "block": "yes",
        "crypto": "yes",
        "overwrite": "no",
    }
    assert found["format"] == {"supported": "yes", "crypto": "yes", "all_namespaces": "no", "erase_all_namespaces": "no"}
    assert (found["total"], found["unallocated"], found["version"]) == (10**12, 0, "1.4.0")
    assert found["subnqn"] == "nqn.2020-01.org.example:nvme:1"


def test_a_controller_that_can_nothing_says_no():
    found = disk_nvme.controller(nvme_controller(sanicap=0, oacs=0, total=0))
    assert found["sanitize"]["supported"] == "no"
    assert set(found["format"].values()) == {"no"}
    assert found["unallocated"] is None


def test_format_of_all_namespaces():
    found = disk_nvme.controller(nvme_controller(fna=0x3))["format"]
    assert (found["all_namespaces"], found["erase_all_namespaces"], found["crypto"]) == ("yes", "yes", "no")


def test_an_empty_controller_is_none():
    assert "empty" in disk_nvme.controller_problem(b"\0" * 4096)
    assert "bytes" in disk_nvme.controller_problem(b"x")
    assert disk_nvme.controller_problem(nvme_controller()) is None


def test_namespace_and_list():
    raw = bytearray(4096)
    raw[0:8] = struct.pack("<Q", 1000)
    raw[25], raw[26] = 1, 1
    raw[104:120] = bytes(bytearray(range(1, 17)))
    raw[128:136] = bytes(bytearray([0, 0, 9, 0, 8, 0, 12, 0]))
    found = disk_nvme.namespace(bytes(raw))
    assert (found["bytes"], found["block"], found["metadata"]) == (4096000, 4096, 8)
    assert found["nguid"] == "0102030405060708090a0b0c0d0e0f10"
    assert found["eui64"] is None
    assert disk_nvme.namespace(b"\0" * 4096) == {}
    assert disk_nvme.namespace_list(struct.pack("<4I", 1, 2, 7, 0)) == [1, 2, 7]
    assert disk_nvme.namespace_list(struct.pack("<4I", 5, 2, 7, 0)) == [5]


@pytest.mark.parametrize(
    "sstat,state",
    [
        (0, "never"),
        (0x101, "succeeded"),
        (0x1, "succeeded"),
        (2, "running"),
        (3, "failed"),
        (4, "succeeded"),
        (5, "unknown"),
        (7, "unknown"),
    ],
)
def test_the_state_in_the_sanitize_log(sstat, state):
    assert disk_nvme.sanitize_log(log(sstat=sstat, cdw10=2))["state"] == state


def test_a_progress_of_ffff_is_not_the_end():
    """It stands there after success, after failure, and when there never was a sanitize."""
    for sstat in (0, 1, 3):
        assert disk_nvme.sanitize_log(log(sprog=0xFFFF, sstat=sstat))["progress"] is None
    assert disk_nvme.sanitize_log(log(sprog=0x4000, sstat=2, cdw10=4))["progress"] == 25.0


def test_the_log_names_the_action_that_it_is_about():
    assert disk_nvme.sanitize_log(log(sstat=0x101, cdw10=0x2))["action"] == "block"
    assert disk_nvme.sanitize_log(log(sstat=0x101, cdw10=0x2))["global_data_erased"] == "yes"
    assert disk_nvme.sanitize_log(log(sstat=0x001, cdw10=0xC))["action"] == "crypto"
    assert disk_nvme.sanitize_log(log(sstat=0, cdw10=0))["action"] is None


def test_estimates_that_are_not_told_are_left_out():
    found = disk_nvme.sanitize_log(log(times=(3600, 60, 0xFFFFFFFF, 0, 0, 0)))
    assert found["seconds"] == {"overwrite": 3600, "block": 60}


def test_a_log_that_says_nothing_is_unknown():
    assert disk_nvme.sanitize_log(b"")["state"] == "unknown"
    assert disk_nvme.sanitize_log(b"\xff" * 512)["state"] == "unknown"


# --- SCSI ---


def page(number, body):
    return struct.pack(">BBH", 0, number, len(body)) + body


def test_inquiry_and_pages():
    raw = b"\x00\x80\x06\x02\x1f\0\0\0" + b"SEAGATE " + b"ST8000NM0075    " + b"E002"
    found = disk_scsi.inquiry(raw)
    assert (found["vendor"], found["model"], found["firmware"], found["removable"]) == ("SEAGATE", "ST8000NM0075", "E002", "yes")
    assert disk_scsi.inquiry(b"\x7f" + raw[1:]) == {}
    assert disk_scsi.serial(page(0x80, b"ZA1234567890        ")) == "ZA1234567890"
    assert disk_scsi.serial(raw) is None, "a bridge that answers each page with the standard data has told no serial number"
    body = b"\x61\x93\0\x08" + b"\x50\0\xc5\0\xa1\xb2\xc3\xd5" + b"\x01\x03\0\x08" + b"\x50\0\xc5\0\xa1\xb2\xc3\xd4"
    assert disk_scsi.designators(page(0x83, body)) == {"naa": "5000c500a1b2c3d4"}, "the port's name is not the disk's"
    assert disk_scsi.rotation(page(0xB1, b"\x1c\x20" + b"\0" * 58)) == "yes"
    assert disk_scsi.rotation(page(0xB1, b"\0\x01" + b"\0" * 58)) == "no"
    assert disk_scsi.rotation(page(0xB1, b"\0\0" + b"\0" * 58)) == "unknown"


def test_capacity_with_520_byte_sectors():
    raw = struct.pack(">QI", 999, 520) + b"\x01\x03\x80" + b"\0" * 17
    found = disk_scsi.capacity(raw)
    assert (found["bytes"], found["logical"], found["metadata"], found["thin"]) == (520000, 520, 8, "yes")
    assert disk_scsi.capacity(b"\xff" * 32) == {}


@pytest.mark.parametrize("value,word", [(3, "yes"), (5, "yes"), (1, "no"), (0, "unknown"), (2, "unknown"), (7, "unknown")])
def test_supported_operation_codes(value, word):
    assert disk_scsi.operation_code(bytes(bytearray([0, value, 0, 10])))[0] == word


def test_sense_of_a_running_and_a_failed_sanitize():
    running = bytearray(18)
    running[0], running[2], running[12], running[13], running[15], running[16] = 0x70, 2, 0x04, 0x1B, 0x80, 0x40
    found = disk_scsi.sense(bytes(running))
    assert disk_scsi.sanitize_state(found) == "running" and found["progress"] == 25.0
    failed = bytes(bytearray([0x72, 3, 0x31, 0x03, 0, 0, 0, 0]))
    assert disk_scsi.sanitize_state(disk_scsi.sense(failed)) == "failed"
    assert disk_scsi.sanitize_state(disk_scsi.sense(b"\x70" + b"\0" * 17)) == "idle"
    assert disk_scsi.sanitize_state({}) == "unknown"


def test_tcg_discovery():
    features = bytes(bytearray([0, 1, 0x10, 12, 1] + [0] * 11 + [0, 2, 0x10, 12, 0x0B] + [0] * 11 + [2, 3, 0x10, 16] + [0] * 16))
    raw = struct.pack(">I", 44 + len(features)) + b"\0" * 44 + features
    found = wipe_tcg.level0(raw)
    assert found["ssc"] == ["opal-2"]
    assert (found["present"], found["locking_enabled"], found["locked"], found["media_encryption"]) == ("yes", "yes", "no", "yes")
    assert wipe_tcg.level0(b"\0" * 512) == {}
    assert wipe_tcg.level0(raw[:60]) == {}


@pytest.mark.parametrize(
    "vendor,model,volume",
    [
        ("DELL", "PERC H730P Mini", True),
        ("LSI", "MR9361-8i", True),
        ("HP", "LOGICAL VOLUME", True),
        ("HPE", "LOGICAL VOLUME", True),
        ("AVAGO", "AVAGO MegaRAID", True),
        ("Adaptec", "RAID 10 Volume", True),
        ("ATA", "HP RAID edition", False),
        ("SEAGATE", "ST8000NM0075", False),
        ("HP", "EG0300FBDBR", False),
        ("QEMU", "QEMU HARDDISK", False),
    ],
)
def test_volumes_of_raid_controllers(vendor, model, volume):
    assert disk_scsi.is_raid_volume(vendor, model) is volume


# --- signatures ---


def reader(raw):
    return lambda offset, length: raw[max(offset, 0) : offset + length] if offset >= 0 else b""


def luks2(keyslots="0", tokens=""):
    import json

    area = {
        "keyslots": {number: {"type": "luks2"} for number in keyslots.split()},
        "tokens": {number: {"type": "systemd-tpm2"} for number in tokens.split()},
        "segments": {"0": {"offset": "16777216"}},
    }
    head = bytearray(16384)
    head[0:8] = b"LUKS\xba\xbe\0\x02"
    head[8:16] = struct.pack(">Q", 16384)
    head[168:204] = b"2b1c9a52-0a50-4cfe-9a43-0f2b6e0a1c11"
    text = json.dumps(area).encode("ascii")
    head[4096 : 4096 + len(text)] = text
    return bytes(head) + b"SKUL\xba\xbe" + b"\0" * 16378


def test_the_header_of_luks2_names_slots_and_tokens():
    found = disk_signs.luks(reader(luks2("0 1", "0")))
    assert found["keyslots"] == ["0", "1"]
    assert found["tokens"] == ["0 systemd-tpm2"]
    assert (found["uuid"], found["secondary"], found["header_bytes"]) == ("2b1c9a52-0a50-4cfe-9a43-0f2b6e0a1c11", "yes", 16777216)


def test_a_spoilt_header_of_luks2_keeps_its_unknowns():
    raw = bytearray(luks2())
    raw[4096] = 0
    found = disk_signs.luks(reader(bytes(raw)))
    assert found["keyslots"] is None and found["tokens"] is None


def test_the_header_of_luks1():
    head = bytearray(4096)
    head[0:8] = b"LUKS\xba\xbe\0\x01"
    head[104:108] = struct.pack(">I", 4096)
    head[168:204] = b"2b1c9a52-0a50-4cfe-9a43-0f2b6e0a1c11"
    for number in range(8):
        head[208 + 48 * number : 212 + 48 * number] = struct.pack(">I", 0x00AC71F3 if number == 2 else 0x0000DEAD)
    found = disk_signs.luks(reader(bytes(head)))
    assert (found["version"], found["keyslots"], found["header_bytes"]) == (1, ["2"], 2097152)


@pytest.mark.parametrize(
    "at,magic,name",
    [
        (512, b"LABELONE", "lvm physical volume"),
        (4096, b"\xfc\x4e\x2b\xa9", "md member 1.2"),
        ((1 << 21) - 65536, b"\xfc\x4e\x2b\xa9", "md member 0.90"),
        ((1 << 21) - 8192, b"\xfc\x4e\x2b\xa9", "md member 1.0"),
        (65600, b"_BHRfS_M", "btrfs"),
        (131072 + 4096, struct.pack("<Q", 0x00BAB10C), "zfs"),
        (4086, b"SWAPSPACE2", "swap"),
        (0, b"bluestore block device", "ceph bluestore"),
    ],
)
def test_signatures_of_members_and_file_systems(at, magic, name):
    raw = bytearray(1 << 21)
    raw[at : at + len(magic)] = magic
    assert disk_signs.contents(reader(bytes(raw)), 1 << 21) == [name]


def test_noise_has_no_signature_by_two_bytes_alone():
    raw = bytearray(1 << 21)
    raw[1080:1082] = b"\x53\xef"
    raw[1082:1086] = b"\x77\x77\x77\x77"
    assert disk_signs.contents(reader(bytes(raw)), 1 << 21) == []


# --- the words of other tools ---


HDPARM = """
/dev/sda:

ATA device, with non-removable media
\tModel Number:       Sample SSD 870
\tSerial Number:      S3Z9NB0K123456
\tFirmware Revision:  RVT02B6Q
Commands/features:
\tEnabled\tSupported:
\t   *\tSANITIZE feature set
\t   *\tCRYPTO_SCRAMBLE_EXT command
\t   *\tBLOCK_ERASE_EXT command
Security:
\tMaster password revision code = 65534
\t\tsupported
\tnot\tenabled
\tnot\tlocked
\t\tfrozen
\tnot\texpired: security count
\t\tsupported: enhanced erase
\t2min for SECURITY ERASE UNIT. 8min for ENHANCED SECURITY ERASE UNIT.
Logical Unit WWN Device Identifier: 5002538e12345678
"""


def test_hdparm():
    found = disk_text.hdparm(HDPARM)
    assert found["security"] == {
        "supported": "yes", "enabled": "no", "locked": "no", "frozen": "yes", "count_expired": "no", "enhanced": "yes",
        "minutes": 2, "enhanced_minutes": 8,
    }  # fmt: skip
    assert found["sanitize"] == {"supported": "yes", "block": "yes", "crypto": "yes", "overwrite": "no"}


def test_a_missing_section_of_hdparm_is_unknown_and_not_no():
    """Another tool takes the enhanced erase where 'not supported: enhanced erase' is absent, also where the whole section is."""
    assert disk_text.hdparm("ATA device\n\tModel Number: X\n") == {
        "security": {},
        "sanitize": {},
        "model": "X",
        "serial": None,
        "firmware": None,
    }


@pytest.mark.parametrize(
    "text,state",
    [
        (
            '{"nvme0":{"sprog":65535,"sstat":{"global_erased":1,"status":"(1) Most Recent Sanitize Command Completed Successfully."}}}',
            "succeeded",
        ),
        ('{"/dev/nvme0n1":{"sprog":65535,"sstat":0}}', "never"),
        ('{"sprog":100,"sstat":2}', "running"),
        ('{"nvme0":{"sprog":65535}}', "unknown"),
        ('{"nvme0":{"sstat":{"text":"fine"}}}', "unknown"),
        ('{"sstat":true}', "unknown"),
        ("", "unknown"),
        ("[]", "unknown"),
    ],
)
def test_shapes_of_the_sanitize_log_as_json(text, state):
    """A field that is missing was taken for zero by others; here it is unknown."""
    assert disk_text.nvme_sanitize_log(text) == state


def test_nvme_controller_as_json():
    found = disk_text.nvme_controller('{"sn":"S1","mn":"M","fr":"F","sanicap":1610612739,"oacs":23,"fna":4}')
    assert found["sanitize"] == {"crypto": "yes", "block": "yes", "overwrite": "no", "supported": "yes"}
    assert found["format"]["crypto"] == "yes"
    assert disk_text.nvme_controller('{"sn":"S1"}')["sanitize"] == {}


def test_tools_fill_unknowns_and_overrule_nothing():
    from ansible_collections.sunset.crm.plugins.module_utils._disk import facts as disk_facts

    fact = disk_facts.blank("sda")
    fact.update(path="/dev/sda", vendor="ATA", serial="KERNEL")
    fact["security"]["frozen"] = "no"
    disk_text.fill(fact, lambda argv: HDPARM if argv[0] == "hdparm" else "")
    assert fact["security"]["frozen"] == "no"
    assert fact["security"]["enhanced"] == "yes"
    assert fact["serial"] == "KERNEL"
    assert fact["sources"]["identify"] == "tool: hdparm -I"
