# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What ATA devices answer, decoded from raw bytes: IDENTIFY DEVICE, the registers of SANITIZE STATUS and of the native maximum, DCO.

Private to the collection; it may change at any time. Valid for Python 3.6. Pure; numbers of words are those of the
ACS standards. An answer that cannot be (a wrong checksum, a size beyond the standard's 48 bits, no valid-bits where
they are demanded) is no answer: the caller gets None and a reason, never a guess.
"""

import struct
from typing import Optional, Tuple

from ansible_collections.sunset.crm.plugins.module_utils._disk.words import NO, UNKNOWN, YES, Row, all_unknown, bit, hexadecimal, text, tri

SIZE = 512
SECURITY = ("supported", "enabled", "locked", "frozen", "count_expired", "enhanced")
ACTIONS = ("block", "crypto", "overwrite")
LBA_LIMIT = 1 << 48


class Registers(object):
    """The result registers of a command, as SAT hands them back in an ATA Status Return descriptor."""

    def __init__(self, error: int, count: int, lba: int, status: int) -> None:
        self.error, self.count, self.lba, self.status = error, count, lba, status

    @property
    def failed(self) -> bool:
        return bool(self.status & 0x21)  # ERR or DEVICE FAULT


def registers(sense: bytes) -> Tuple[Optional[Registers], str]:
    """The registers in a SCSI sense buffer, or None and why. A drive behind a bridge that answers without them has told nothing."""
    raw = bytearray(sense)
    if len(raw) >= 14 and raw[0] & 0x7F in (0x70, 0x71) and (raw[12], raw[13]) == (0x00, 0x1D):
        # Fixed sense carries the low half only: enough to see a failure, not enough for a status.
        answer = Registers(raw[3], raw[6], raw[9] | raw[10] << 8 | raw[11] << 16, raw[4])
        return (answer, "") if answer.failed else (None, "the answer has only half of the result registers (fixed sense data)")
    if len(raw) < 8 or raw[0] & 0x7F not in (0x72, 0x73):
        return None, "the answer has no result registers (bad or missing sense data)"
    at, end = 8, min(len(raw), 8 + raw[7])
    while at + 2 <= end:
        if raw[at] == 0x09 and raw[at + 1] >= 0x0C and at + 14 <= len(raw):
            d = raw[at : at + 14]
            count = d[4] << 8 | d[5]
            lba = d[7] | d[9] << 8 | d[11] << 16 | d[6] << 24 | d[8] << 32 | d[10] << 40
            return Registers(d[3], count, lba, d[13]), ""
        at += 2 + raw[at + 1]
    return None, "the answer has no result registers (no ATA Status Return descriptor)"


def identify_problem(raw: bytes) -> Optional[str]:
    """Why these bytes are no IDENTIFY DEVICE data; None if they may be."""
    if len(raw) != SIZE:
        return "IDENTIFY DEVICE data has %d bytes, expected %d" % (len(raw), SIZE)
    data = bytearray(raw)
    if not any(data) or all(byte == 0xFF for byte in data):
        return "IDENTIFY DEVICE data is empty"
    if data[510] == 0xA5 and sum(data) & 0xFF:
        return "the checksum of the IDENTIFY DEVICE data is wrong"
    words = struct.unpack("<256H", raw)
    if words[0] & 0x8000 and words[0] != 0x848A:
        return "it answers as no ATA disk (word 0 is %04xh)" % words[0]
    return None


def words_text(words: Tuple[int, ...], first: int, last: int) -> Optional[str]:
    """ATA strings have the two bytes of each word swapped."""
    return text(struct.pack(">%dH" % (last - first + 1), *words[first : last + 1]))


def _minutes(word: int) -> Optional[int]:
    """Words 89 and 90: in units of two minutes, 8 bits, or 15 bits where bit 15 says so. The largest value is 'more than'."""
    value = word & 0x7FFF if word & 0x8000 else word & 0xFF
    return value * 2 if value else None


def _valid(word: int) -> bool:
    """Bits 15:14 are 01 where a word of this kind is valid."""
    return word >> 14 == 1


def identify(raw: bytes) -> Row:
    """All that IDENTIFY DEVICE says and a wipe needs. The caller has asked identify_problem first."""
    w = struct.unpack("<256H", raw)
    supported = (w[82], w[83]) if _valid(w[83]) else (None, None)
    enabled = w[85] if _valid(w[87]) else None
    found: Row = {
        "model": words_text(w, 27, 46),
        "serial": words_text(w, 10, 19),
        "firmware": words_text(w, 23, 26),
        "wwn": _wwn(w),
        "checked": tri(True) if raw[510] == 0xA5 else UNKNOWN,
    }
    found["logical"], found["physical"] = _blocks(w)
    found["capacity"] = _sectors(w) * found["logical"] if _sectors(w) else None
    found["rotational"] = NO if w[217] == 1 else (YES if 0x401 <= w[217] <= 0xFFFE else UNKNOWN)
    found["self_encrypting"] = bit(w[69], 4) if w[69] not in (0, 0xFFFF) else UNKNOWN
    found["trusted"] = bit(w[48], 0) if _valid(w[48]) else UNKNOWN
    found["security"] = _security(w, supported[0])
    found["sanitize"] = _sanitize(w)
    found["features"] = {
        "hpa": bit(supported[0], 10),
        "dco": bit(supported[1], 11),
        "amac": bit(w[119], 8) if _valid(w[119]) else UNKNOWN,
        "hpa_enabled": bit(enabled, 10),
        "lba48": bit(supported[1], 10),
    }
    return found


def _wwn(w: Tuple[int, ...]) -> Optional[str]:
    raw = struct.pack(">4H", *w[108:112])
    return hexadecimal(raw) if _valid(w[87]) and w[87] & 0x100 and raw[0] >> 4 == 5 else None


def _blocks(w: Tuple[int, ...]) -> Tuple[int, int]:
    logical = 512
    physical = 512
    if _valid(w[106]):
        if w[106] & 0x1000:
            size = 2 * (w[117] | w[118] << 16)
            logical = size if 512 <= size <= 1 << 16 else logical
        physical = logical << (w[106] & 0xF) if w[106] & 0x2000 else logical
    return logical, physical


def _sectors(w: Tuple[int, ...]) -> int:
    small = w[60] | w[61] << 16
    large = struct.unpack("<Q", struct.pack("<4H", *w[100:104]))[0] if _valid(w[83]) and w[83] & 0x400 else 0
    extended = struct.unpack("<Q", struct.pack("<4H", *w[230:234]))[0] if w[69] & 0x8 and w[69] != 0xFFFF else 0
    best = extended or large or small
    return best if best < LBA_LIMIT else 0


def _security(w: Tuple[int, ...], supported: Optional[int]) -> Row:
    """Word 128 and word 82 must agree that there is a security feature set; a drive where they do not has told nothing."""
    found: Row = all_unknown(SECURITY)
    found.update(minutes=None, enhanced_minutes=None, master_id=None)
    told = bit(supported, 1)
    word = w[128]
    if told == NO and not word & 1:
        found.update(dict.fromkeys(SECURITY, NO))
    elif told == YES and word & 1 and word >> 9 == 0:
        found.update({name: bit(word, position) for position, name in enumerate(SECURITY)})
        found.update(minutes=_minutes(w[89]), enhanced_minutes=_minutes(w[90]), master_id=w[92])
    return found


def _sanitize(w: Tuple[int, ...]) -> Row:
    """Word 59 bits 12 to 15. Bits of actions without the bit of the feature set are nonsense, and so is a set without any action."""
    word = w[59]
    actions = {"crypto": bit(word, 13), "overwrite": bit(word, 14), "block": bit(word, 15)}
    if word in (0xFFFF,):
        return dict(all_unknown(ACTIONS), supported=UNKNOWN)
    if not word & 0x1000:
        return dict(dict.fromkeys(ACTIONS, NO), supported=NO) if NO == _any(actions) else dict(all_unknown(ACTIONS), supported=UNKNOWN)
    return dict(actions, supported=YES) if _any(actions) == YES else dict(all_unknown(ACTIONS), supported=UNKNOWN)


def _any(actions: Row) -> str:
    return YES if YES in actions.values() else NO


def sanitize_status(answer: Registers) -> Row:
    """SANITIZE STATUS EXT. 'Idle, without error' is also what a drive says that was never sanitised: it is called idle here, and
    nothing more. The progress FFFFh means that nothing runs."""
    if answer.failed:
        why = {1: "the last sanitize was not successful", 2: "unsupported", 3: "frozen"}.get(answer.lba & 0xFF, "no reason given")
        state = "failed" if answer.lba & 0xFF == 1 else UNKNOWN
        return {"state": state, "frozen": YES if answer.lba & 0xFF == 3 else UNKNOWN, "progress": None, "without_error": NO, "why": why}
    running = answer.count >> 14 & 1
    frozen = answer.count >> 13 & 1
    clean = answer.count >> 15 & 1
    progress = answer.lba & 0xFFFF
    return {
        "state": "running" if running else "idle",
        "frozen": tri(bool(frozen)),
        "progress": round(progress * 100.0 / 65536, 1) if running and progress != 0xFFFF else None,
        "without_error": tri(bool(clean)),
        "why": "",
    }


def native_maximum(answer: Registers, current: Optional[int]) -> Tuple[Optional[int], str]:
    """(sectors, why not). READ NATIVE MAX ADDRESS EXT, or GET NATIVE MAX ADDRESS EXT: both give the last LBA.

    A bridge or an emulation answers with zeros or with what lies below the size that we can read: nonsense, not a HPA.
    """
    if answer.failed:
        return None, "the drive refused to tell its native maximum (status %02xh, error %02xh)" % (answer.status, answer.error)
    sectors = (answer.lba & (LBA_LIMIT - 1)) + 1
    if not current:
        return None, "the drive's current size is not known"
    if sectors <= 1 or sectors < current:
        return None, "the drive tells a native maximum of %d sectors, less than the %d that are there" % (sectors, current)
    return sectors, ""


def dco_identify(raw: bytes, current: Optional[int]) -> Tuple[Optional[int], str]:
    """(real maximum in sectors, why not). DEVICE CONFIGURATION IDENTIFY; words 3 to 6 hold the real last LBA."""
    if len(raw) != SIZE or not any(bytearray(raw)):
        return None, "the DCO data is empty"
    data = bytearray(raw)
    if data[510] != 0xA5 or sum(data) & 0xFF:
        return None, "the checksum of the DCO data is missing or wrong"
    sectors = struct.unpack("<Q", raw[6:14])[0] + 1
    if not current or sectors <= 1 or sectors > LBA_LIMIT or sectors < current:
        # Seen on real drives: "1 sector", or nothing at all.
        return None, "the DCO data tells %d sectors; the drive has %s" % (sectors, current or "an unknown number")
    return sectors, ""


def hidden(features: Row, current: Optional[int], native: Row, maximum: Row, dco: Row) -> Tuple[Row, Row]:
    """({hpa, dco, amac}, reasons). native, maximum, dco: {sectors, why} of what was asked; empty where it was not."""
    why: Row = {}
    found: Row = {}
    for name, answer in (("hpa", native), ("amac", maximum), ("dco", dco)):
        supported = features.get(name, UNKNOWN)
        if supported == NO:
            found[name] = NO
        elif supported == UNKNOWN:
            found[name], why["hidden." + name] = UNKNOWN, "the drive does not say whether it has this feature"
        elif answer.get("sectors") and current:
            # What HPA hides lies above the current maximum, what DCO hides above the native one.
            base = max(current, native.get("sectors") or 0, maximum.get("sectors") or 0) if name == "dco" else current
            found[name] = tri(answer["sectors"] > base)
        else:
            found[name], why["hidden." + name] = UNKNOWN, answer.get("why") or "it was not asked"
    return found, why


def of_page_89(raw: bytes) -> bytes:
    """The IDENTIFY data inside the SCSI page ATA Information, as the kernel keeps it; empty if the page holds none."""
    return raw[60 : 60 + SIZE] if len(raw) >= 60 + SIZE and raw[1:2] == b"\x89" else b""
