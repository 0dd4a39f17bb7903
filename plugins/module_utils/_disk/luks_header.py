# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The header of LUKS1 and LUKS2: where it lies, what opens it, how strong the cipher is, and where copies of it may be. Pure.

Private to the collection. Valid for Python 3.6, standard library; travels with the wipe job.
"""

import json
import struct
from typing import Any, Callable, Dict, List, Optional, Tuple  # noqa: F401

MAGIC, SECOND, RESTING = b"LUKS\xba\xbe", b"SKUL\xba\xbe", b"LUKS\xde\xad"
# Where cryptsetup looks for the second header of LUKS2 when the first is damaged: at every size that a header may have.
SECOND_PLACES = tuple(0x4000 << step for step in range(9))
# Everything before this is destroyed even where the data begins earlier: stale headers of an earlier format lie there.
REACH = 8 << 20
FARTHEST = 1 << 30  # no key slot lies beyond: a header that says so is damaged
SLOT_IN_USE = 0x00AC71F3
YES, NO, UNKNOWN = "yes", "no", "unknown"
GOOD_CIPHERS = ("aes", "serpent", "twofish", "camellia")
# A mode that gives the pattern of the data away, or no cipher at all.
BAD_WORDS = ("cipher_null", "null", "ecb", "des", "des3_ede", "blowfish", "arc4", "cast5")


def header(read):
    # type: (Callable[[int, int], bytes]) -> Optional[Dict[str, Any]]
    """What the device's own header says. read(offset, length) gives fewer bytes, or none, where it cannot. None: there is no header at
    the start. What cannot be read is None or "unknown", never a guess.

    whole: "yes" where one encrypted segment is all that follows the header; header_bytes: where the data begins, 0 in a detached header.
    """
    head = read(0, 4096)
    if head[:6] == RESTING:
        return blank(1, None, unfinished=YES)
    if head[:6] != MAGIC or len(head) < 592:
        return None
    version = struct.unpack(">H", head[6:8])[0]
    uuid = printable(head[168:208])
    if version == 1:
        return _first(head, uuid)
    if version == 2:
        return _second(read, head, uuid)
    return blank(version, uuid)


def blank(version, uuid, **more):
    # type: (int, Optional[str], **Any) -> Dict[str, Any]
    found = {
        "version": version,
        "uuid": uuid,
        "keyslots": None,
        "tokens": None,
        "header_bytes": None,
        "secondary": UNKNOWN,
        "cipher": None,
        "key_bits": None,
        "whole": UNKNOWN,
        "data_bytes": None,
        "unfinished": UNKNOWN,
        "strength": UNKNOWN,
    }  # type: Dict[str, Any]
    found.update(more)
    return found


def printable(raw):
    # type: (bytes) -> Optional[str]
    found = "".join(chr(byte) if 32 <= byte < 127 else "?" for byte in bytearray(raw.split(b"\0")[0]))
    return found.strip() or None


def _first(head, uuid):
    # type: (bytes, Optional[str]) -> Dict[str, Any]
    slots = [str(number) for number in range(8) if struct.unpack(">I", head[208 + 48 * number : 212 + 48 * number])[0] == SLOT_IN_USE]
    payload, key_bytes = struct.unpack(">II", head[104:112])
    places = [struct.unpack(">II", head[248 + 48 * number : 256 + 48 * number]) for number in range(8)]
    ends = [start * 512 + stripes * key_bytes for start, stripes in places if start * 512 + stripes * key_bytes <= FARTHEST]
    cipher = "%s-%s" % (printable(head[8:40]), printable(head[40:72]))
    return blank(
        1, uuid, slots_end=max(ends + [0]), keyslots=slots, tokens=[], header_bytes=payload * 512, secondary=NO, cipher=cipher, key_bits=key_bytes * 8, whole=YES,
        unfinished=NO, strength=strength(cipher, key_bytes * 8),
    )  # fmt: skip


def _second(read, head, uuid):
    # type: (Callable[[int, int], bytes], bytes, Optional[str]) -> Dict[str, Any]
    size = struct.unpack(">Q", head[8:16])[0]
    found = blank(2, uuid)
    if not 16384 <= size <= 4 << 20:
        return found
    found["secondary"] = YES if read(size, 6) == SECOND else NO
    try:
        data = json.loads(read(4096, size - 4096).split(b"\0")[0].decode("utf-8"))
        tokens = data.get("tokens") or {}
        found["keyslots"] = sorted(data["keyslots"], key=int)
        found["tokens"] = sorted("%s %s" % (number, tokens[number].get("type")) for number in tokens)
        found["header_bytes"] = min(int(segment["offset"]) for segment in data["segments"].values())
    except (ValueError, KeyError, TypeError, AttributeError):
        return found  # a header that cannot be read keeps its unknowns
    try:
        _segments(found, data)
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    return found


def _segments(found, data):
    # type: (Dict[str, Any], Dict[str, Any]) -> None
    wanted = (data.get("config") or {}).get("requirements") or {}
    demands = wanted.get("mandatory") or []
    kinds = {slot.get("type") for slot in data["keyslots"].values()}
    found["unfinished"] = YES if any("reencrypt" in str(word) for word in demands) or "reencrypt" in kinds else NO
    segments = list(data["segments"].values())
    one = segments[0]
    found["whole"] = YES if len(segments) == 1 and one.get("type") == "crypt" else NO
    if len(segments) == 1 and one.get("type") not in ("crypt", "linear"):
        found["whole"] = UNKNOWN  # keys inside the drive (hw-opal) and what comes after it
    if one.get("size") not in (None, "dynamic"):
        found["data_bytes"] = int(one["size"])
    areas = [slot["area"] for slot in data["keyslots"].values() if slot.get("area")]
    ends = [int(area["offset"]) + int(area["size"]) for area in areas]
    found["slots_end"] = max([end for end in ends if end <= FARTHEST] + [0])
    found["cipher"] = str(one.get("encryption") or "none")
    sizes = [int(slot["key_size"]) * 8 for slot in data["keyslots"].values() if slot.get("type") == "luks2" and slot.get("key_size")]
    found["key_bits"] = min(sizes) if sizes else None
    found["strength"] = strength(found["cipher"], found["key_bits"])


def strength(cipher, bits):
    # type: (Optional[str], Optional[int]) -> str
    """Is the cipher one that nobody breaks without the key? XTS halves its key, so it needs twice as long a one."""
    words = (cipher or "").lower().split("-")
    if any(word.split(":")[0] in BAD_WORDS for word in words):
        return NO
    if len(words) < 2:
        return UNKNOWN
    if bits is None and words[0] == "aes":
        bits = 256  # no slot is left to tell; but AES has no key below 128 bits, and in XTS none below 256
    if bits is None:
        return UNKNOWN
    if words[0] in GOOD_CIPHERS and words[1] in ("xts", "cbc", "ctr", "lrw"):
        return YES if bits >= (256 if words[1] in ("xts", "lrw") else 128) else NO
    if words[0].startswith(("xchacha20", "xchacha12")) and "adiantum" in words:
        return YES if bits >= 256 else NO
    return UNKNOWN


def remains(read, size):
    # type: (Callable[[int, int], bytes], int) -> List[Dict[str, Any]]
    """Every place at which cryptsetup would find a header: [{offset, what}]. ``what`` is "unreadable" where nobody can say."""
    found = []
    for place, magics in ((0, (MAGIC, RESTING)),) + tuple((place, (SECOND,)) for place in SECOND_PLACES):
        if place + 6 > size:
            continue
        raw = read(place, 6)
        if len(raw) < 6:
            found.append({"offset": place, "what": "unreadable"})
        elif raw in magics:
            found.append({"offset": place, "what": "LUKS header" if place == 0 else "second LUKS header"})
    return found


def area(facts, size):
    # type: (Dict[str, Any], int) -> List[Tuple[int, int]]
    """What has to be destroyed: all that is not the one encrypted segment, and of it as much as may hide an older header, or a key slot."""
    start = int(facts["header_bytes"])
    parts = [(0, min(size, max(start, (int(facts.get("slots_end") or 0) + 4095) // 4096 * 4096, REACH)))]
    if facts.get("data_bytes") is not None:
        end = start + int(facts["data_bytes"])
        if end < size:
            low = end // 4096 * 4096
            parts = [(0, size)] if low <= parts[0][1] else parts + [(low, size)]
    return parts
