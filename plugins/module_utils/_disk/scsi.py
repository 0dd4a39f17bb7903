# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What SCSI devices answer, decoded from raw bytes: INQUIRY, VPD pages 80h, 83h, B1h, READ CAPACITY(16), supported operation codes, sense.

And TCG's Level 0 Discovery, which travels in the same way over SCSI, ATA and NVMe.
Private to the collection; it may change at any time. Valid for Python 3.6. Pure.
"""

from typing import Optional, Tuple

from ansible_collections.sunset.crm.plugins.module_utils._disk.words import NO, UNKNOWN, YES, Row, bit, text

SANITIZE = {"overwrite": 1, "block": 2, "crypto": 3}
RAID_VENDORS = (
    "dell",
    "lsi",
    "avago",
    "broadcom",
    "megaraid",
    "adaptec",
    "asr",
    "hp",
    "hpe",
    "ibm",
    "serveraid",
    "amcc",
    "3ware",
    "areca",
    "microsemi",
)
RAID_MODELS = (
    "perc",
    "logical volume",
    "raid",
    "mr9",
    "servraid",
    "serveraid",
    "smart array",
    "virtual disk",
    "virtual drive",
    "lsi logical",
    "array",
)
EMULATED = (
    "qemu",
    "vmware",
    "vbox",
    "msft",
    "virtual disk",
    "virtio",
    "google",
    "amazon elastic",
    "nutanix",
    "xen",
    "ceph",
    "lio-org",
    "iet",
)


def inquiry(raw: bytes) -> Row:
    """Standard INQUIRY data; empty if it is too short or no device is connected there."""
    if len(raw) < 36 or raw[0] >> 5:
        return {}
    return {
        "type": raw[0] & 0x1F,
        "removable": bit(raw[1], 7),
        "vendor": text(raw[8:16]),
        "model": text(raw[16:32]),
        "firmware": text(raw[32:36]),
    }


def _page(raw: bytes, number: int) -> bytes:
    """The body of a VPD page; empty if another page came: some bridges answer each page with standard INQUIRY data, and in that
    of a removable disk the second byte is 80h. Only the page of names may be longer than what was asked for."""
    if len(raw) < 4 or raw[1] != number or (number != 0x83 and (raw[2] << 8 | raw[3]) > len(raw) - 4):
        return b""
    return raw[4 : 4 + (raw[2] << 8 | raw[3])]


def serial(raw: bytes) -> Optional[str]:
    return text(_page(raw, 0x80))


def designators(raw: bytes) -> Row:
    """VPD page 83h: the names of the logical unit itself (not of its ports): {naa, eui, t10, name}."""
    body, at = _page(raw, 0x83), 0
    found: Row = {}
    while at + 4 <= len(body):
        code, kind, association = body[at] & 0xF, body[at + 1] & 0xF, body[at + 1] >> 4 & 3
        value = body[at + 4 : at + 4 + body[at + 3]]
        at += 4 + body[at + 3]
        if association:
            continue
        if kind == 3 and code == 1 and len(value) in (8, 16) and any(bytearray(value)):
            found.setdefault("naa", value.hex())
        elif kind == 2 and code == 1 and any(bytearray(value)):
            found.setdefault("eui", value.hex())
        elif kind == 1:
            found.setdefault("t10", text(value))
    return found


def rotation(raw: bytes) -> str:
    """Whether it turns, from VPD page B1h."""
    body = _page(raw, 0xB1)
    if len(body) < 2:
        return UNKNOWN
    rate = body[0] << 8 | body[1]
    return NO if rate == 1 else (YES if 0x401 <= rate <= 0xFFFE else UNKNOWN)


def capacity(raw: bytes) -> Row:
    """READ CAPACITY(16); empty for an answer that cannot be."""
    if len(raw) < 16:
        return {}
    last = int.from_bytes(raw[0:8], "big")
    block = int.from_bytes(raw[8:12], "big")
    if not 256 <= block <= 1 << 16 or last >= 1 << 60:
        return {}
    metadata = 8 if raw[12] & 1 else 0
    return {
        "bytes": (last + 1) * block,
        "logical": block,
        "physical": block << (raw[13] & 0xF),
        "metadata": metadata,
        "thin": bit(raw[14], 7),
    }


def operation_code(raw: bytes) -> Tuple[str, str]:
    """(yes | no | unknown, why) of one REPORT SUPPORTED OPERATION CODES answer for one command."""
    if len(raw) < 2:
        return UNKNOWN, "the answer is too short"
    value = raw[1] & 7
    if value in (3, 5):
        return YES, ""
    if value == 1:
        return NO, ""
    return UNKNOWN, "the device says that it cannot tell now" if value == 0 else "the answer %d is none of the standard" % value


def sense(raw: bytes) -> Row:
    """{key, asc, ascq, progress} of fixed or descriptor sense; empty where there is none."""
    if len(raw) < 4:
        return {}
    code = raw[0] & 0x7F
    if code in (0x72, 0x73):
        found: Row = {"key": raw[1] & 0xF, "asc": raw[2], "ascq": raw[3], "progress": None}
        at = 8
        while at + 8 <= len(raw) and at < 8 + (raw[7] if len(raw) > 7 else 0):
            if raw[at] == 2 and raw[at + 4] & 0x80:
                found["progress"] = round((raw[at + 5] << 8 | raw[at + 6]) * 100.0 / 65536, 1)
            at += 2 + raw[at + 1]
        return found
    if code in (0x70, 0x71) and len(raw) >= 14:
        found = {"key": raw[2] & 0xF, "asc": raw[12], "ascq": raw[13], "progress": None}
        if len(raw) >= 18 and raw[15] & 0x80:
            found["progress"] = round((raw[16] << 8 | raw[17]) * 100.0 / 65536, 1)
        return found
    return {}


def sanitize_state(found: Row) -> str:
    """From REQUEST SENSE. That nothing is wrong does not say that there was a sanitize: idle, never succeeded."""
    code = (found.get("asc"), found.get("ascq"))
    if code == (0x04, 0x1B):
        return "running"
    if code == (0x31, 0x03):
        return "failed"
    return "idle" if found and found.get("key") == 0 else UNKNOWN


def is_raid_volume(vendor: Optional[str], model: Optional[str]) -> bool:
    """A volume that a RAID controller shows instead of its disks. Only names tell; 'ATA' is what the kernel puts for a plain SATA disk."""
    maker, name = (vendor or "").strip().lower(), (model or "").strip().lower()
    if maker == "ata":
        return False
    if any(
        name.startswith(word) or word in name
        for word in ("perc", "logical volume", "smart array", "serveraid", "servraid", "logical drive")
    ):
        return True
    return maker in RAID_VENDORS and any(word in name for word in RAID_MODELS)


def is_emulated(vendor: Optional[str], model: Optional[str]) -> bool:
    """Named as something that a hypervisor or an array in software shows."""
    maker, name = (vendor or "").strip().lower(), (model or "").strip().lower()
    return any(maker.startswith(word) or name.startswith(word) for word in EMULATED)
