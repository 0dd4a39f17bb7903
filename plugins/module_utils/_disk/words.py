# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Three values, and text that devices gave: the small change of all decoders of devices.

Private to the collection; it may change at any time. Valid for Python 3.6. Pure.
"""

from typing import Any, Dict, Optional

YES, NO, UNKNOWN = "yes", "no", "unknown"
Row = Dict[str, Any]


def tri(value: Optional[bool]) -> str:
    return UNKNOWN if value is None else (YES if value else NO)


def bit(number: Optional[int], position: int) -> str:
    """The bit of a number that may not be known."""
    return UNKNOWN if number is None else tri(bool(number >> position & 1))


def either(*values: str) -> str:
    """yes if one is, no if all are, else unknown."""
    if YES in values:
        return YES
    return NO if values and all(value == NO for value in values) else UNKNOWN


def text(raw: bytes) -> Optional[str]:
    """Printable text of a device's field; None for an empty one. What cannot be printed is a question mark."""
    found = "".join(chr(byte) if 32 <= byte < 127 else "?" for byte in bytearray(raw.rstrip(b"\0 ").lstrip(b"\0 ")))
    return found.strip() or None


def clean(value: Optional[str]) -> Optional[str]:
    """The same for text that the kernel or a tool handed on."""
    if value is None:
        return None
    return text(value.encode("utf-8", "replace"))


def hexadecimal(raw: bytes) -> Optional[str]:
    """None for a field of zeros: a device writes zeros where it has no such name."""
    return raw.hex() if any(bytearray(raw)) else None


def all_unknown(names: Any) -> Row:
    return dict.fromkeys(names, UNKNOWN)
