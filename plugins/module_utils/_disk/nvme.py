# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What NVMe devices answer, decoded from raw bytes: Identify (controller, namespace, lists) and the sanitize log page 81h.

Private to the collection; it may change at any time. Valid for Python 3.6. Pure. The log is read raw because the JSON of
the usual tool changed its shape from version to version, and a missing field there was taken for zero.
"""

import struct
from typing import List, Optional

from ansible_collections.sunset.crm.plugins.module_utils._disk.words import NO, UNKNOWN, YES, Row, all_unknown, bit, hexadecimal, text, tri

ACTIONS = ("block", "crypto", "overwrite")
# SANACT of the command, and of SCDW10 in the log.
SANACT = {1: "exit-failure", 2: "block", 3: "overwrite", 4: "crypto"}
STATUS = {0: "never", 1: "succeeded", 2: "running", 3: "failed", 4: "succeeded"}


def _number(raw: bytes, at: int, size: int) -> int:
    return int.from_bytes(raw[at : at + size], "little")


def controller_problem(raw: bytes) -> Optional[str]:
    if len(raw) != 4096:
        return "Identify Controller has %d bytes, expected 4096" % len(raw)
    if not any(bytearray(raw[:512])):
        return "Identify Controller is empty"
    if text(raw[4:24]) is None and text(raw[24:64]) is None:
        return "Identify Controller has neither a serial number nor a model"
    return None


def controller(raw: bytes) -> Row:
    """Identify, CNS 01h. The caller has asked controller_problem first."""
    oacs, sanicap, fna = _number(raw, 256, 2), _number(raw, 328, 4), raw[524]
    version = _number(raw, 80, 4)
    ns_management = bit(oacs, 3)
    total, free = _number(raw, 280, 16), _number(raw, 296, 16)
    subnqn = raw[768:1024].split(b"\0")[0]
    return {
        "serial": text(raw[4:24]),
        "model": text(raw[24:64]),
        "firmware": text(raw[64:72]),
        "controller": _number(raw, 78, 2),
        "version": "%d.%d.%d" % (version >> 16, version >> 8 & 0xFF, version & 0xFF) if version else None,
        "several_controllers": bit(raw[76], 1),
        "namespaces_max": _number(raw, 516, 4) or None,
        "subnqn": text(subnqn),
        # Without namespace management a controller need not tell its capacity: zero then means nothing.
        "total": total or None,
        "unallocated": free if total or ns_management == YES else None,
        "ns_management": ns_management,
        "security_commands": bit(oacs, 0),
        "sanitize": sanitize_capabilities(sanicap),
        "format": {
            "supported": bit(oacs, 1),
            "crypto": bit(fna, 2) if oacs & 2 else NO,
            "all_namespaces": bit(fna, 0) if oacs & 2 else NO,
            "erase_all_namespaces": bit(fna, 1) if oacs & 2 else NO,
        },
    }


def sanitize_capabilities(sanicap: int) -> Row:
    found: Row = {"crypto": bit(sanicap, 0), "block": bit(sanicap, 1), "overwrite": bit(sanicap, 2)}
    found["supported"] = YES if YES in found.values() else NO
    found["no_deallocate_inhibited"] = bit(sanicap, 29)
    return found


def namespace(raw: bytes) -> Row:
    """Identify, CNS 00h. A namespace that is not there answers with zeros."""
    if len(raw) != 4096 or not any(bytearray(raw[:384])):
        return {}
    # FLBAS bits 3:0, and 6:5 above them where there are more than sixteen formats.
    chosen = raw[26] & 0xF
    if raw[25] >= 16:
        chosen |= (raw[26] >> 5 & 0x3) << 4
    at = 128 + 4 * chosen
    metadata, exponent = _number(raw, at, 2), raw[at + 2]
    block = 1 << exponent if 9 <= exponent <= 16 else None
    return {
        "bytes": _number(raw, 0, 8) * block if block else None,
        "block": block,
        "metadata": metadata,
        "nguid": hexadecimal(raw[104:120]),
        "eui64": hexadecimal(raw[120:128]),
        "shared": bit(raw[30], 0),
        "write_protected": tri(bool(raw[99])),
    }


def namespace_list(raw: bytes) -> List[int]:
    """CNS 02h (active) and 10h (allocated): numbers in rising order, ended by zero. Disorder means that it is none."""
    found: List[int] = []
    for (number,) in struct.iter_unpack("<I", raw[:4096]):
        if not number or (found and number <= found[-1]):
            break
        found.append(number)
    return found


def sanitize_log(raw: bytes) -> Row:
    """Log page 81h. SPROG is FFFFh whenever nothing runs: after success, after failure, and when there never was one.

    A status that the standard does not know, and a page of zeros and ones that no device writes, are unknown.
    """
    if len(raw) < 32 or all(byte == 0xFF for byte in bytearray(raw)):
        return {"state": UNKNOWN, "why": "the sanitize log has %d bytes that say nothing" % len(raw)}
    progress, status, command = struct.unpack("<HHI", raw[:8])
    estimates = struct.unpack("<6I", raw[8:32])
    state = STATUS.get(status & 7, UNKNOWN)
    names = ("overwrite", "block", "crypto", "overwrite_no_deallocate", "block_no_deallocate", "crypto_no_deallocate")
    return {
        "state": state,
        "progress": round(progress * 100.0 / 65536, 1) if state == "running" and progress != 0xFFFF else None,
        "action": SANACT.get(command & 7) if state not in ("never", UNKNOWN) else None,
        "passes": status >> 3 & 0x1F,
        "global_data_erased": bit(status, 8),
        "seconds": {name: estimates[at] for at, name in enumerate(names) if estimates[at] not in (0, 0xFFFFFFFF)},
        "why": "" if state != UNKNOWN else "the sanitize status %d is none of the standard" % (status & 7),
    }


def no_controller() -> Row:
    return {
        "sanitize": dict(all_unknown(ACTIONS), supported=UNKNOWN),
        "format": all_unknown(("supported", "crypto", "all_namespaces", "erase_all_namespaces")),
    }
