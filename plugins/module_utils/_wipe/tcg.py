# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Self-encrypting drives: what their discovery says, and the number on their label that opens the way to new keys.

Private to the collection. Valid for Python 3.6, standard library; travels with the wipe job.

The revert itself is the kernel's (IOC_OPAL_PSID_REVERT_TPR, since 5.3): it speaks TCG's packets, this collection does not. The PSID is a
secret: who has it can empty the drive. It lies in a file on the machine that has the drive, readable by its owner alone; it never gets
into an argument, a log, a state file or the evidence.
"""

import errno
import os
import re
import stat
import struct
from typing import Any, Dict, List, Optional, Tuple  # noqa: F401

YES, NO, UNKNOWN = "yes", "no", "unknown"
DIRECTORY = "/etc/sunset-crm/psid"
LENGTH = 32
SSC = {0x0100: "enterprise", 0x0200: "opal-1", 0x0203: "opal-2", 0x0301: "opalite", 0x0302: "pyrite-1", 0x0303: "pyrite-2", 0x0304: "ruby"}
LOCKING = ("locking_supported", "locking_enabled", "locked", "media_encryption", "mbr_enabled", "mbr_done")
FEATURES = {0x0001: "tper", 0x0002: "locking", 0x0402: "block_sid"}
# struct opal_key of <linux/sed-opal.h>: range, length, type of key (0: it is in here), filling, key.
OPAL_KEY = struct.Struct("=BBB5x256s")
PSID_REVERT = 1 << 30 | OPAL_KEY.size << 16 | ord("p") << 8 | 232
ENOTSUPP = 524  # the kernel's own number for "not supported", which has no name outside of it
STATUS = {
    1: "not authorised: it is not the PSID of this drive", 3: "the drive's security provider is busy", 4: "it failed", 5: "it is disabled",
    6: "it is frozen", 7: "no session is free", 0x12: "locked out after too many wrong tries: take the drive's power away and give it back",
}  # fmt: skip


def level0(raw):
    # type: (bytes) -> Dict[str, Any]
    """TCG Level 0 Discovery: what kind of self-encrypting drive, its locking, whether somebody owns it. Empty for an answer that is none.

    owned: the drive says that its SID is no longer the one from the factory; only drives with Block SID Authentication tell."""
    data = bytearray(raw)
    if len(data) < 48:
        return {}
    length = (data[0] << 24 | data[1] << 16 | data[2] << 8 | data[3]) + 4
    if length < 48 or length > len(data) or not any(data[4:length]):
        return {}
    at, ssc, seen = 48, [], {}  # type: int, List[str], Dict[str, int]
    while at + 4 <= length:
        code, size = data[at] << 8 | data[at + 1], data[at + 3]
        if code in SSC:
            ssc.append(SSC[code])
        elif code in FEATURES and size >= 1 and at + 4 < length:
            seen[FEATURES[code]] = data[at + 4]
        elif code == 0x0001:
            seen["tper"] = 0
        at += 4 + size
    if "tper" not in seen:
        return {}
    found = {name: _bit(seen.get("locking"), place) for place, name in enumerate(LOCKING)}  # type: Dict[str, Any]
    return dict(found, present=YES if ssc else UNKNOWN, ssc=ssc, owned=_bit(seen.get("block_sid"), 0))


def _bit(number, place):
    # type: (Optional[int], int) -> str
    return UNKNOWN if number is None else (YES if number >> place & 1 else NO)


def state(facts):
    # type: (Dict[str, Any]) -> str
    """ "idle": as it left the factory, as far as it tells. "locked": somebody's locking, shadow or ownership is on it. Else "unknown"."""
    if facts.get("present") != YES or UNKNOWN in (facts.get("locked"), facts.get("locking_enabled"), facts.get("mbr_enabled")):
        return UNKNOWN
    return "locked" if YES in (facts["locked"], facts["locking_enabled"], facts["mbr_enabled"], facts.get("owned")) else "idle"


def hidden(facts):
    # type: (Dict[str, Any]) -> bool
    """Does the drive show something else than its data? Then nothing can be put on it, or read from it, before it is reverted."""
    return facts.get("locked") == YES or (facts.get("mbr_enabled") == YES and facts.get("mbr_done") != YES)


def reasons(facts):
    # type: (Dict[str, Any]) -> List[str]
    """Why a revert of this drive would not be a cryptographic erase."""
    ssc = facts.get("ssc") or []
    if not facts:
        return []
    if ssc and all(name.startswith("pyrite") for name in ssc):
        return ["it is a Pyrite drive, which does not encrypt: a revert would only lift the lock"]
    found = []
    if not any(name.startswith("opal-") for name in ssc):
        found.append(
            "Linux reverts Opal drives only, this one is %s: use its maker's tool and a waiver"
            % (", ".join(ssc) or "of no kind that it tells")
        )
    if facts.get("media_encryption") != YES:
        word = "says that it does not encrypt" if facts.get("media_encryption") == NO else "does not say that it encrypts"
        found.append("the drive %s its media: a revert would leave the data" % word)
    return found


# --- the number on the label -----------------------------------------------------------------------------------------


def file_of(directory, serial):
    # type: (str, str) -> str
    return os.path.join(directory, re.sub(r"[^A-Za-z0-9._-]", "_", serial.strip()))


def psid(directory, serial):
    # type: (str, Optional[str]) -> Tuple[Optional[bytearray], str]
    """(the PSID, why not). The caller empties it after use. Never says what is in the file."""
    if not (serial or "").strip(" ."):
        return None, "the drive shows no serial number, so no file of a PSID can be its"
    path = file_of(directory, str(serial))
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as err:
        if err.errno == errno.ENOENT:
            return None, "there is no %s; write the PSID from the drive's label into it (mode 0600)" % path
        return None, "%s cannot be opened: %s" % (path, err.strerror)
    try:
        kept = os.fstat(fd)
        if not stat.S_ISREG(kept.st_mode) or kept.st_uid != os.geteuid() or kept.st_mode & 0o077:
            return None, "%s must be a plain file of mode 0600 of this user; found mode %04o, owner %d" % (
                path,
                kept.st_mode & 0o7777,
                kept.st_uid,
            )
        data = bytearray(os.read(fd, 4096).strip())
    finally:
        os.close(fd)
    if not re.match(rb"[A-Z0-9]{32}\Z", data):
        count = len(data)
        forget(data)
        return None, "%s holds %d characters; expected the %d capital letters and digits of the label" % (path, count, LENGTH)
    return data, ""


def credential(serial, directory=DIRECTORY):
    # type: (Optional[str], str) -> str
    """yes, no or unknown: does this machine have the PSID of that drive?"""
    found, why = psid(directory, serial)
    if found is not None:
        forget(found)
        return YES
    return UNKNOWN if "Permission" in why else NO


def forget(secret):
    # type: (bytearray) -> None
    secret[:] = b"\0" * len(secret)


def opal_key(secret):
    # type: (bytearray) -> bytearray
    """The argument of the ioctl. The caller empties it after use."""
    key = bytearray(OPAL_KEY.size)
    key[1], key[8 : 8 + len(secret)] = len(secret), secret
    return key


def refusal(number):
    # type: (int) -> Tuple[str, str]
    """(known, why) of an errno that the kernel gave: "no" it has no such command for this device, "unknown" it was not let."""
    if number == errno.ENOTTY:
        return NO, "the kernel has no SED-OPAL (CONFIG_BLK_SED_OPAL), or not for this device (ENOTTY)"
    if number in (ENOTSUPP, errno.EOPNOTSUPP):
        return NO, "the kernel does not know this drive as Opal (for SATA it must be started with libata.allow_tpm=1)"
    if number in (errno.EACCES, errno.EPERM):
        return UNKNOWN, "the kernel lets only root (CAP_SYS_ADMIN) ask for a revert"
    return UNKNOWN, "the kernel says: %s" % os.strerror(number)
