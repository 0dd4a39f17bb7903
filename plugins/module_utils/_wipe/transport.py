# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Commands to a drive's own firmware, over the very descriptor that was opened and judged.

Private to the collection. Valid for Python 3.6, standard library; travels with the wipe job.

``Link`` turns NVMe admin commands, SCSI commands and ATA commands (by SCSI's ATA PASS-THROUGH) into the kernel's
ioctls and their answers into facts. Nothing is raised for a drive that refuses: an answer says what came back, and
C(ok) is true only where the drive itself said so. An answer without the drive's own status is never a success: exit
code 0 with "bad or missing sense data" is what emulations give for a secure erase that did nothing.
"""

import ctypes
import errno
import fcntl
import os
import struct
from typing import Any, Dict, Optional  # noqa: F401

from ansible_collections.sunset.crm.plugins.module_utils._wipe import tcg as wipe_tcg

NVME_IOCTL_ID = 0x4E40
NVME_IOCTL_ADMIN_CMD = 0xC0484E41
SG_IO = 0x2285
SG_DXFER_NONE, SG_DXFER_TO_DEV, SG_DXFER_FROM_DEV = -1, -2, -3
SENSE_SIZE = 64
# opcode, flags, reserved, nsid, cdw2, cdw3, metadata, addr, metadata_len, data_len, cdw10..cdw15, timeout_ms, result
NVME_COMMAND = struct.Struct("=BBHIIIQQIIIIIIIIII")
ATA_NON_DATA, ATA_PIO_IN, ATA_PIO_OUT = 3, 4, 5


class SgHeader(ctypes.Structure):
    _fields_ = [
        ("interface_id", ctypes.c_int), ("dxfer_direction", ctypes.c_int), ("cmd_len", ctypes.c_ubyte),
        ("mx_sb_len", ctypes.c_ubyte), ("iovec_count", ctypes.c_ushort), ("dxfer_len", ctypes.c_uint),
        ("dxferp", ctypes.c_void_p), ("cmdp", ctypes.c_void_p), ("sbp", ctypes.c_void_p), ("timeout", ctypes.c_uint),
        ("flags", ctypes.c_uint), ("pack_id", ctypes.c_int), ("usr_ptr", ctypes.c_void_p), ("status", ctypes.c_ubyte),
        ("masked_status", ctypes.c_ubyte), ("msg_status", ctypes.c_ubyte), ("sb_len_wr", ctypes.c_ubyte),
        ("host_status", ctypes.c_ushort), ("driver_status", ctypes.c_ushort), ("resid", ctypes.c_int),
        ("duration", ctypes.c_uint), ("info", ctypes.c_uint),
    ]  # fmt: skip


class Answer:
    """What came back: ``ok``, ``why`` (empty where ok), ``data``, and the rest by family in ``more``."""

    def __init__(self, ok, why="", data=b"", **more):
        # type: (bool, str, bytes, **Any) -> None
        self.ok, self.why, self.data, self.more = ok, why, data, more

    def record(self):
        # type: () -> Dict[str, Any]
        """For the evidence: everything but the data."""
        return dict(self.more, ok=self.ok, why=self.why)


class Link:
    """One opened device. ``ioctl`` is the kernel's, or in tests that of a drive that is made of Python."""

    def __init__(self, fd, ioctl=fcntl.ioctl):
        # type: (int, Any) -> None
        self.fd, self._ioctl = fd, ioctl

    # --- NVMe --------------------------------------------------------------------------------------------------------

    def nvme_namespace(self):
        # type: () -> Optional[int]
        """The number of the namespace behind the descriptor."""
        try:
            return int(self._ioctl(self.fd, NVME_IOCTL_ID))
        except (OSError, IOError):
            return None

    def nvme(self, opcode, nsid=0, cdw10=0, cdw11=0, read=0, timeout=60):
        # type: (int, int, int, int, int, int) -> Answer
        """An admin command. The kernel hands back the drive's status: 0 is success, anything else the drive's reason."""
        buffer = ctypes.create_string_buffer(max(read, 1))
        address = ctypes.addressof(buffer) if read else 0
        milliseconds = min(timeout * 1000, 0xFFFFFFFF)
        raw = NVME_COMMAND.pack(opcode, 0, 0, nsid, 0, 0, 0, address, 0, read, cdw10, cdw11, 0, 0, 0, 0, milliseconds, 0)
        command = bytearray(raw)
        try:
            status = int(self._ioctl(self.fd, NVME_IOCTL_ADMIN_CMD, command, True))
        except (OSError, IOError) as err:
            return Answer(False, "the kernel says: %s" % os.strerror(err.errno or 0), opcode=opcode, status=None)
        why = "" if status == 0 else "the drive answers NVMe status 0x%x" % status
        result = NVME_COMMAND.unpack(bytes(command))[-1]
        return Answer(status == 0, why, buffer.raw[:read] if status == 0 else b"", opcode=opcode, status=status, result=result)

    # --- SCSI --------------------------------------------------------------------------------------------------------

    def scsi(self, command, read=0, write=b"", timeout=60):
        # type: (bytes, int, bytes, int) -> Answer
        sense = ctypes.create_string_buffer(SENSE_SIZE)
        cdb = ctypes.create_string_buffer(bytes(command), len(command))
        size = read or len(write)
        buffer = ctypes.create_string_buffer(bytes(write), size) if write else ctypes.create_string_buffer(max(size, 1))
        header = SgHeader()
        header.interface_id = ord("S")
        header.dxfer_direction = SG_DXFER_FROM_DEV if read else (SG_DXFER_TO_DEV if write else SG_DXFER_NONE)
        header.cmd_len, header.mx_sb_len, header.dxfer_len = len(command), SENSE_SIZE, size
        header.dxferp = ctypes.addressof(buffer) if size else None
        header.cmdp, header.sbp = ctypes.addressof(cdb), ctypes.addressof(sense)
        header.timeout = min(timeout * 1000, 0xFFFFFFFF)
        try:
            self._ioctl(self.fd, SG_IO, header, True)
        except (OSError, IOError) as err:
            return Answer(False, "the kernel says: %s" % os.strerror(err.errno or 0), opcode=bytearray(command)[0], status=None)
        seen = sense.raw[: header.sb_len_wr]
        facts = parse_sense(seen)
        # A driver status of 8 only says that there is sense data.
        ok = header.status == 0 and header.host_status == 0 and header.driver_status in (0, 8)
        why = ""
        if not ok:
            why = "status 0x%02x, host 0x%02x, driver 0x%02x, sense %s" % (
                header.status, header.host_status, header.driver_status, facts["text"],
            )  # fmt: skip
        more = {
            "opcode": bytearray(command)[0], "status": header.status, "host_status": header.host_status,
            "driver_status": header.driver_status, "sense": "".join("%02x" % byte for byte in bytearray(seen)),
        }  # fmt: skip
        return Answer(ok, why, buffer.raw[: max(0, read - header.resid)] if read else b"", **more)

    # --- TCG ---------------------------------------------------------------------------------------------------------

    def tcg_discovery(self):
        # type: () -> Answer
        """Level 0 Discovery: protocol 1, ComID 1. libata turns the SCSI command into TRUSTED RECEIVE."""
        if self.nvme_namespace() is not None:
            return self.nvme(0x82, cdw10=0x01 << 24 | 0x0001 << 8, cdw11=2048, read=2048)
        return self.scsi(bytes(bytearray([0xA2, 0x01, 0x00, 0x01, 0, 0, 0, 0, 0x08, 0x00, 0, 0])), read=2048)

    def opal_known(self):
        # type: () -> Answer
        """Has the kernel a revert for this device? Asked without a key, at no address: it cannot do anything but say so."""
        try:
            self._ioctl(self.fd, wipe_tcg.PSID_REVERT, 0)
        except (OSError, IOError) as err:
            if err.errno == errno.EFAULT:
                return Answer(True, known=wipe_tcg.YES)
            known, why = wipe_tcg.refusal(err.errno or 0)
            return Answer(False, why, known=known)
        return Answer(False, "the kernel took a revert without a key, which no kernel does", known=wipe_tcg.UNKNOWN)

    def opal_psid_revert(self, secret):
        # type: (bytearray) -> Answer
        """Revert by the PSID. The kernel hands back the drive's status: 0 is success. The secret is in no part of the answer."""
        key = wipe_tcg.opal_key(secret)
        command = "IOC_OPAL_PSID_REVERT_TPR"
        try:
            status = int(self._ioctl(self.fd, wipe_tcg.PSID_REVERT, key, True))
        except (OSError, IOError) as err:
            return Answer(False, wipe_tcg.refusal(err.errno or 0)[1], ioctl=command, status=None)
        finally:
            wipe_tcg.forget(key)
        why = "" if status == 0 else "the drive answers TCG status 0x%02x (%s)" % (status, wipe_tcg.STATUS.get(status, "no name is known"))
        return Answer(status == 0, why, ioctl=command, status=status)

    # --- ATA through SCSI --------------------------------------------------------------------------------------------

    def ata(self, command, features=0, count=0, lba=0, protocol=ATA_NON_DATA, data=b"", read=0, timeout=60):
        # type: (int, int, int, int, int, bytes, int, int) -> Answer
        """One ATA command, asking for the drive's registers back. Without them nothing is known, so C(ok) is false."""
        flags = 0x20  # CK_COND: hand back the registers
        if protocol != ATA_NON_DATA:
            flags |= 0x06 | (0x08 if protocol == ATA_PIO_IN else 0)  # length in the count field, in blocks
            count = count or 1
        extended = command in (0x2F, 0xB4)
        cdb = bytearray(
            [0x85, protocol << 1 | int(extended), flags, features >> 8 & 0xFF, features & 0xFF, count >> 8 & 0xFF, count & 0xFF]
        )
        for high, low in ((24, 0), (32, 8), (40, 16)):
            cdb += bytearray([lba >> high & 0xFF, lba >> low & 0xFF])
        cdb += bytearray([0x40, command, 0])
        answer = self.scsi(bytes(cdb), read=read, write=data, timeout=timeout)
        registers = parse_ata_registers(bytes(bytearray.fromhex(answer.more.get("sense") or "")))
        more = dict(answer.more, ata_command=command, registers=registers)
        if answer.more.get("host_status"):
            return Answer(False, answer.why, **more)
        if registers is None:
            why = answer.why or "the drive's own status did not come back (bad or missing sense data)"
            return Answer(False, why, answer.data, **more)
        if registers["status"] & 0x21:
            return Answer(False, "the drive answers ATA status 0x%02x, error 0x%02x" % (registers["status"], registers["error"]), **more)
        return Answer(True, "", answer.data, **more)


def parse_sense(raw):
    # type: (bytes) -> Dict[str, Any]
    """Sense key, code, qualifier and the progress indication of either format."""
    data = bytearray(raw)
    facts = {"key": None, "asc": None, "ascq": None, "progress": None, "text": "none"}  # type: Dict[str, Any]
    kind = data[0] & 0x7F if data else 0
    if kind in (0x70, 0x71) and len(data) >= 14:
        facts.update(key=data[2] & 0x0F, asc=data[12], ascq=data[13])
        if len(data) >= 18 and data[15] & 0x80:
            facts["progress"] = data[16] << 8 | data[17]
    elif kind in (0x72, 0x73) and len(data) >= 8:
        facts.update(key=data[1] & 0x0F, asc=data[2], ascq=data[3])
        at = 8
        while at + 1 < len(data):
            part = data[at : at + 2 + data[at + 1]]
            if part[0] == 0x02 and len(part) >= 7 and part[4] & 0x80:
                facts["progress"] = part[5] << 8 | part[6]
            elif part[0] == 0x0A and len(part) >= 8:
                facts["progress"] = part[6] << 8 | part[7]
            at += 2 + data[at + 1]
    if facts["key"] is not None:
        facts["text"] = "%x/%02x/%02x" % (facts["key"], facts["asc"], facts["ascq"])
    return facts


def parse_ata_registers(raw):
    # type: (bytes) -> Optional[Dict[str, int]]
    """The ATA registers of a descriptor-format sense, or None. The fixed format leaves half of them out: None too."""
    data = bytearray(raw)
    if len(data) < 22 or data[0] & 0x7F not in (0x72, 0x73) or data[8] != 0x09:
        return None
    return {
        "error": data[11], "count": data[12] << 8 | data[13], "device": data[20], "status": data[21],
        "lba": data[15] | data[17] << 8 | data[19] << 16 | data[14] << 24 | data[16] << 32 | data[18] << 40,
    }  # fmt: skip


# --- what the device itself counts -----------------------------------------------------------------------------------


def written_by_device(fd, kind, link=None):
    # type: (int, Any, Optional[Link]) -> Optional[Dict[str, Any]]
    """Bytes that the device says were ever written to it: {bytes, step, counter}; None where it does not count."""
    if kind == "nvme":
        answer = (link or Link(fd)).nvme(0x02, nsid=0xFFFFFFFF, cdw10=0x02 | 127 << 16, read=512)
        return nvme_written(answer.data) if answer.ok else None
    # Not every bridge survives an ATA command: only what the kernel itself speaks ATA to is asked.
    if kind == "scsi" and (link or _is_ata(fd)):
        answer = (link or Link(fd)).ata(0x2F, count=1, lba=0x0104, protocol=ATA_PIO_IN, read=512)
        return ata_written(answer.data) if answer.data else None
    return None


def _is_ata(fd):
    # type: (int) -> bool
    number = os.fstat(fd).st_rdev
    try:
        with open("/sys/dev/block/%d:%d/device/vendor" % (os.major(number), os.minor(number))) as handle:
            return handle.read().strip() == "ATA"
    except (OSError, IOError):
        return False


def nvme_written(page):
    # type: (bytes) -> Optional[Dict[str, Any]]
    """Data Units Written of the SMART page: thousands of 512 bytes."""
    if len(page) < 64 or not any(bytearray(page)):
        return None
    units = int.from_bytes(page[48:64], "little")
    return {"bytes": units * 512000, "step": 512000, "counter": "NVMe SMART, data units written"}


def ata_written(page):
    # type: (bytes) -> Optional[Dict[str, Any]]
    """Logical Sectors Written of the Device Statistics log, where the drive says that the number is valid."""
    if len(page) < 32 or bytearray(page)[2] != 1:
        return None
    value, flags = int.from_bytes(page[24:30], "little"), bytearray(page)[31]
    if flags & 0xC0 != 0xC0:
        return None
    return {"bytes": value * 512, "step": 512, "counter": "ATA device statistics, logical sectors written"}
