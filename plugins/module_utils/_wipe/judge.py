# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The decisions of a wipe, without a world: may this device be written, was it verified, what may the result be called.

Private to the collection. Valid for Python 3.6, standard library; travels with the wipe job.
"""

from typing import Any, Dict, Iterable, List  # noqa: F401

from ansible_collections.sunset.crm.plugins.module_utils._disk import device as disk_device

UNIT = 4096  # what one canary, one mismatch and one bad place is counted in
SECTOR = 512  # unit of the kernel's counters, whatever the device's own block size is
LISTED_RANGES = 200

OVERWRITE = "overwrite-keyed"
HOST_LIMIT = 50e9  # bytes a second: no host makes and writes a cipher stream as fast
VIRTUAL_MODELS = ("QEMU", "VMWARE", "VBOX", "VIRTUAL", "XEN", "AMAZON ELASTIC", "GOOGLE", "MSFT")
VIRTUAL_KINDS = ("loop", "virtio", "xen", "zram", "other")
LABELLED_KINDS = ("loop", "virtio", "xen")  # their serial number is a label, no name in the world
LAYERED_KINDS = ("partition", "dm", "md")
TECHNIQUE = "host overwrite, one pass, keyed AES-256-CTR stream, every addressable byte"


def refusals(expected, found, holders, root, protected, waiver=False):
    # type: (Any, Dict[str, Any], Iterable[str], Any, Any, bool) -> List[str]
    """All reasons why this device must not be written; an empty list means that it may.

    expected: the plan's identity; found: ``identify`` of the very descriptor that will be written; holders: what
    ``blocking_holders`` said; root: ``running_root_devices``; protected: identities of disks that are never wiped
    (control node, vaults); waiver: a person signed that this device may go without a strong identity.
    """
    reasons = []
    if found.get("found") != "yes":
        return ["not a device that can be wiped: %s" % (found.get("why") or "nothing was found there")]
    if not found.get("size"):
        reasons.append("its size is %s; expected a device with a medium in it" % (found.get("size") or "0 or unknown"))
    if found.get("read_only") is not False:
        state = "read-only" if found.get("read_only") else "not known to be writable"
        reasons.append("the kernel says the device is %s; remove the write protection first" % state)
    if found.get("kind") in LAYERED_KINDS:
        reasons.append("it is a %s, not a medium; wipe the device(s) below it" % found["kind"])
    if found.get("over_device"):
        reasons.append("it is a loop over the device %s, not over a file; wipe that one" % found.get("backing_file"))
    strength = disk_device.identity_strength(expected)
    if strength != "strong" and not waiver:
        reasons.append(
            "the plan's identity is %s (needed: size and one of %s); name them in the plan or have a waiver signed"
            % (strength, ", ".join(disk_device.STRONG_FIELDS))
        )
    reasons.extend("identity: " + line for line in disk_device.compare_identity(expected or {}, found))
    guilty = protected_as(found, protected)
    if guilty:
        reasons.append("it is on the list of protected disks (control node or vault): %s" % describe(guilty))
    if found.get("number") in (root or {}).get("numbers", []):
        reasons.append("it carries the running system of this machine")
    reasons.extend("in use: " + line for line in holders)
    return reasons


def protected_as(found, protected):
    # type: (Dict[str, Any], Any) -> Any
    """Pure: the entry of the list of protected disks that this device is, by any one strong name; None where it is none of them.

    found: an identity, or the facts of a device. Rather one device too many than one too few: names are compared whatever their case and
    their prefix. Only a label that somebody has chosen (of a loop, of a virtual disk) needs the same size beside it. A protected
    disk without a name is any device of its size that has no name either.
    """
    mine = _names(found)
    size, kind = found.get("size") or (found.get("sizes") or {}).get("current"), found.get("kind")
    for other in protected or []:
        theirs = _names(other)
        label = bool({kind, other.get("kind")} & set(LABELLED_KINDS))
        sizes = (size, other.get("size"))
        alike = None in sizes or sizes[0] == sizes[1]
        # Two loop devices whose files can be told apart are told apart by them, whatever they are called.
        files = label and bool(other.get("inode") and found.get("inode"))
        if mine & theirs and not files and (alike or not label):
            return dict(other)
        if other.get("inode") and other["inode"] == found.get("inode") and alike:
            return dict(other)
        if not theirs and not other.get("inode") and not mine and other.get("size") and other["size"] == size:
            return dict(other)
    return None


def _names(identity):
    # type: (Any) -> Any
    """All names in the world that an identity, or the facts of a device, give it: lower case, with and without the prefix of their kind."""
    found = set()
    for field in ("serial", "wwid", "wwn", "eui64", "nguid"):
        value = str((identity or {}).get(field) or "").strip().lower()
        found |= {value, value.split(".", 1)[-1]} if field != "serial" else {value}
    return found - {""}


def describe(identity):
    told = ", ".join("%s %s" % (key, identity[key]) for key in sorted(disk_device.public_identity(identity)))
    return told or "wwn %s" % identity.get("wwn")


def unit_ranges(offsets, size, unit=UNIT):
    """Byte offsets of units -> [[start, end)] ranges, neighbours joined, the last one cut at the device's end."""
    ranges = []  # type: List[List[int]]
    for offset in sorted(set(offsets)):
        end = min(offset + unit, size)
        if ranges and ranges[-1][1] == offset:
            ranges[-1][1] = end
        else:
            ranges.append([offset, end])
    return ranges


def range_bytes(ranges):
    return sum(end - start for start, end in ranges)


def judge_verification(canaries, mismatched, unreadable, write_errors, size, bytes_read, wanted=None):
    """Was the whole device (or of it the ``wanted`` bytes of a plan) read and found to hold the stream, except for exactly the canaries?

    A verifier that reports no difference at all has not looked: each canary must be among its differences. A place
    that could not be written or read is no difference; it makes the result one "with exceptions".
    """
    expected, found, bad = set(canaries), set(mismatched), set(write_errors) | set(unreadable)
    missed = expected - found - set(unreadable)
    unexpected = found - expected - set(write_errors)
    covered = bytes_read + range_bytes(unit_ranges(unreadable, size))
    reasons = []
    if not expected:
        reasons.append("no canary was left, so the verifier was never seen to find a difference")
    if expected and not expected & found and not missed:
        reasons.append("none of %d canaries could be read, so the verifier was never seen to find a difference" % len(expected))
    if missed:
        reasons.append("the verifier missed %d of %d canaries: it does not see the device" % (len(missed), len(expected)))
    if unexpected:
        reasons.append("%d places do not hold the stream" % len(unexpected))
    if covered != (size if wanted is None else wanted):
        reasons.append("%d of %d bytes were read" % (covered, size if wanted is None else wanted))
    return {
        "verdict": "no" if reasons else "yes",
        "reasons": reasons,
        "canaries_left": len(expected),
        "canaries_found": len(expected & found),
        "mismatches": len(unexpected),
        "mismatch_ranges": unit_ranges(unexpected, size)[:LISTED_RANGES],
        "bytes_read": bytes_read,
        "bytes_unreadable": range_bytes(unit_ranges(unreadable, size)),
        "error_ranges": unit_ranges(bad, size)[:LISTED_RANGES],
    }


def judge_accounting(before, after, wanted, same_boot):
    """Did the kernel see as many bytes go to the device as it holds? Independent of what the engine says it wrote."""
    facts = {"wanted_bytes": wanted, "counter": "/sys/dev/block/*/stat"}
    if before is None or after is None or not same_boot or after < before:
        why = "the counter was not readable, or it began anew (restart of the machine, another device number)"
        return dict(facts, verdict="unknown", bytes=None, why=why)
    moved = (after - before) * SECTOR
    why = "" if moved >= wanted else "the kernel counted %d bytes, expected at least %d" % (moved, wanted)
    return dict(facts, verdict="yes" if moved >= wanted else "no", bytes=moved, why=why)


def parse_stat(text):
    """(sectors read, sectors written) of a block device's stat file, or (None, None)."""
    parts = (text or "").split()
    try:
        return int(parts[2]), int(parts[6])
    except (IndexError, ValueError):
        return None, None


def judge_zeros(mismatched, unreadable, write_errors, size, bytes_read):
    """Were zeros left everywhere, but for the places that could not be written or read?"""
    wrong = set(mismatched) - set(write_errors)
    covered = bytes_read + range_bytes(unit_ranges(unreadable, size))
    reasons = ["%d places are not zero after the final pass" % len(wrong)] if wrong else []
    if covered != size:
        reasons.append("%d of %d bytes were read after the final pass" % (covered, size))
    return {"pattern": "zeros", "verdict": "no" if reasons else "yes", "reasons": reasons, "bytes_read": bytes_read}


def judge_speed(moved, seconds, limit):
    """A verdict where a speed is beyond what is physically possible; None where nothing can be said or all is well."""
    if not moved or seconds is None or moved < 1 << 28:
        return None  # too little to measure by
    rate = moved / max(float(seconds), 0.001)
    if rate <= limit:
        return None
    text = "implausible: %d bytes in %.3f s are %.0f GB/s, more than %.0f GB/s is not possible"
    return {"verdict": "no", "reasons": [text % (moved, seconds, rate / 1e9, limit / 1e9)]}


def judge_device_counter(before, after, wanted):
    """What the device itself counted as written. None where it counts nothing. Some count in coarse steps or not
    at all, so a small number is an exception that a person looks at, not a failure."""
    if not before or not after or after["bytes"] < before["bytes"]:
        return None
    moved, step = after["bytes"] - before["bytes"], after["step"]
    enough = moved + 2 * step >= wanted
    why = "" if enough else "the device counted %d bytes written, expected at least %d" % (moved, wanted)
    return {"verdict": "yes" if enough else "unknown", "bytes": moved, "wanted_bytes": wanted, "counter": after["counter"], "why": why}


def is_virtual(kind, found=None):
    # type: (Any, Any) -> bool
    """Also where an emulated disk says that it is a real one: by its maker's name."""
    # Each by itself: an emulated SATA disk has the vendor "ATA".
    names = [str((found or {}).get(field) or "").strip().upper() for field in ("vendor", "model")]
    return kind in VIRTUAL_KINDS or kind is None or any(name.startswith(word) for name in names for word in VIRTUAL_MODELS)


def classes(kind, found=None):
    # type: (Any, Any) -> Dict[str, str]
    """What the overwrite may be called, per standard. A virtual device never gets a medium's class."""
    if is_virtual(kind, found):
        name = "logical sanitisation"
        statement = (
            "The device is virtual. Its current blocks were overwritten and read back; copies in layers below it "
            "(snapshots, old extents, the disks that carry its file) are not covered and need their own certificate."
        )
    else:
        name = "Clear"
        statement = (
            "Every addressable block was overwritten and read back. Areas that the host cannot address "
            "(spare, remapped and over-provisioned blocks, HPA, DCO) are not covered by this technique."
        )
    return {
        "technique": TECHNIQUE,
        "called": name if name != "Clear" else "sanitisation (Clear)",
        "nist_800_88r2": name,
        "nist_800_88r1": name,
        "ieee_2883_2022": name,
        "statement": statement,
    }


def outcome(verification, reverification, accounting, identity_differences, error_ranges, virtual_notes=(), more=()):
    """(outcome, reasons for failure, exceptions) from the pieces of evidence. more: further verdicts that must not be "no"."""
    reasons = ["identity changed during the wipe: " + line for line in identity_differences]
    for name, part in (("verification", verification), ("second verification of the canaries", reverification)):
        if part.get("verdict") != "yes":
            reasons.extend("%s: %s" % (name, line) for line in part.get("reasons") or ["no result"])
    for name in ("written", "read"):
        if accounting[name]["verdict"] == "no":
            reasons.append("%s bytes: %s" % (name, accounting[name]["why"]))
    for part in more:
        if part["verdict"] == "no":
            reasons.extend(part["reasons"])
    exceptions = list(virtual_notes)
    if (accounting.get("device") or {}).get("verdict") == "unknown":
        exceptions.append(accounting["device"]["why"])
    for name in ("written", "read"):
        if accounting[name]["verdict"] == "unknown":
            exceptions.append("bytes %s are not confirmed by the kernel: %s" % (name, accounting[name]["why"]))
    if error_ranges:
        text = "%d bytes in %d ranges could not be written or read; destroy the medium physically"
        exceptions.append(text % (range_bytes(error_ranges), len(error_ranges)))
    if reasons:
        return "failed", reasons, exceptions
    return ("sanitised_with_exceptions" if exceptions else "sanitised"), [], exceptions
