# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Questions to devices, through ioctls on an opened descriptor. Only commands that read; the list of them is this file.

Private to the collection; it may change at any time. Valid for Python 3.6, x86 and ARM alike (native alignment).

Every answer is an Answer: data, sense, and why there is none. Nothing is raised: a device that does not answer is a
fact. A command that the device refused, or whose transport failed, has no data, whatever lies in the buffer.
"""

import array
import ctypes
import fcntl
import os
from typing import Any, Optional, Union

SG_IO = 0x2285
HDIO_GET_IDENTITY = 0x030D
NVME_IOCTL_ID = 0x4E40
NVME_IOCTL_ADMIN_CMD = 0xC0484E41
TIMEOUT_MS = 15000


class Answer(object):
    def __init__(self, data: bytes = b"", sense: bytes = b"", why: str = "") -> None:
        self.data, self.sense, self.why = data, sense, why


class _SgIo(ctypes.Structure):
    """struct sg_io_hdr of <scsi/sg.h>."""

    _fields_ = [
        ("interface_id", ctypes.c_int),
        ("dxfer_direction", ctypes.c_int),
        ("cmd_len", ctypes.c_ubyte),
        ("mx_sb_len", ctypes.c_ubyte),
        ("iovec_count", ctypes.c_ushort),
        ("dxfer_len", ctypes.c_uint),
        ("dxferp", ctypes.c_void_p),
        ("cmdp", ctypes.c_void_p),
        ("sbp", ctypes.c_void_p),
        ("timeout", ctypes.c_uint),
        ("flags", ctypes.c_uint),
        ("pack_id", ctypes.c_int),
        ("usr_ptr", ctypes.c_void_p),
        ("status", ctypes.c_ubyte),
        ("masked_status", ctypes.c_ubyte),
        ("msg_status", ctypes.c_ubyte),
        ("sb_len_wr", ctypes.c_ubyte),
        ("host_status", ctypes.c_ushort),
        ("driver_status", ctypes.c_ushort),
        ("resid", ctypes.c_int),
        ("duration", ctypes.c_uint),
        ("info", ctypes.c_uint),
    ]


class _NvmeAdmin(ctypes.Structure):
    """struct nvme_admin_cmd of <linux/nvme_ioctl.h>."""

    _fields_ = [
        ("opcode", ctypes.c_ubyte),
        ("flags", ctypes.c_ubyte),
        ("rsvd1", ctypes.c_ushort),
        ("nsid", ctypes.c_uint),
        ("cdw2", ctypes.c_uint),
        ("cdw3", ctypes.c_uint),
        ("metadata", ctypes.c_ulonglong),
        ("addr", ctypes.c_ulonglong),
        ("metadata_len", ctypes.c_uint),
        ("data_len", ctypes.c_uint),
        ("cdw10", ctypes.c_uint),
        ("cdw11", ctypes.c_uint),
        ("cdw12", ctypes.c_uint),
        ("cdw13", ctypes.c_uint),
        ("cdw14", ctypes.c_uint),
        ("cdw15", ctypes.c_uint),
        ("timeout_ms", ctypes.c_uint),
        ("result", ctypes.c_uint),
    ]


class Device(object):
    """An opened device. Use as a context. O_NONBLOCK: a drive without a medium must not make us wait."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.fd = -1
        self.why = ""

    def __enter__(self) -> "Device":
        try:
            self.fd = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as err:
            self.why = "%s cannot be opened: %s" % (self.path, err.strerror)
        return self

    def __exit__(self, *_exception: Any) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def _ioctl(self, request: int, argument: Any) -> str:
        """Empty on success, else why not."""
        if self.fd < 0:
            return self.why or "%s is not open" % self.path
        try:
            fcntl.ioctl(self.fd, request, argument, True)
        except OSError as err:
            return "the device cannot be asked: %s" % (err.strerror or err)
        return ""

    # --- SCSI, and ATA through it ---

    def scsi(self, cdb: bytes, length: int, sense_is_answer: bool = False) -> Answer:
        """One SCSI command that reads. sense_is_answer: the device hands its registers back as sense data (ATA)."""
        data = ctypes.create_string_buffer(max(length, 1))
        sense = ctypes.create_string_buffer(64)
        command = ctypes.create_string_buffer(bytes(cdb), len(cdb))
        header = _SgIo(
            interface_id=ord("S"),
            dxfer_direction=-3 if length else -1,
            cmd_len=len(cdb),
            mx_sb_len=len(sense),
            dxfer_len=length,
            dxferp=ctypes.addressof(data) if length else None,
            cmdp=ctypes.addressof(command),
            sbp=ctypes.addressof(sense),
            timeout=TIMEOUT_MS,
        )
        why = self._ioctl(SG_IO, header)
        if why:
            return Answer(why=why)
        got = sense.raw[: header.sb_len_wr]
        # DRIVER_SENSE (8) only says that there is sense; everything else of host and driver is a failed transport.
        if header.host_status or header.driver_status & ~0x08:
            why = "the transport failed (host status %02xh, driver status %02xh)" % (header.host_status, header.driver_status)
            return Answer(sense=got, why=why)
        if header.status not in (0, 2) or (header.status == 2 and not sense_is_answer):
            return Answer(sense=got, why=_refusal(header.status, got))
        taken = max(0, length - max(header.resid, 0))
        return Answer(data.raw[:taken], got)

    def inquiry(self, page: Optional[int] = None, length: int = 252) -> Answer:
        cdb = bytearray([0x12, 0 if page is None else 1, page or 0, length >> 8, length & 0xFF, 0])
        return self.scsi(bytes(cdb), length)

    def read_capacity(self) -> Answer:
        return self.scsi(bytes(bytearray([0x9E, 0x10] + [0] * 11 + [32, 0, 0])), 32)

    def operation_code(self, opcode: int, action: int) -> Answer:
        """REPORT SUPPORTED OPERATION CODES for one command and service action; options 3 and 2: older devices know only the latter."""
        answer = Answer()
        for option in (3, 2):
            cdb = bytearray([0xA3, 0x0C, option, opcode, action >> 8, action & 0xFF, 0, 0, 0, 64, 0, 0])
            answer = self.scsi(bytes(cdb), 64)
            if not answer.why:
                break
        return answer

    def request_sense(self) -> Answer:
        return self.scsi(bytes(bytearray([0x03, 0, 0, 0, 252, 0])), 252)

    def ata(self, command: int, feature: int = 0, count: int = 0, lba: int = 0, read: int = 0) -> Answer:
        """One ATA command that reads, as ATA PASS-THROUGH(16). read: blocks of 512 bytes by PIO, or 0 for the registers alone."""
        protocol = 4 if read else 3
        # What we ask with data is a 28-bit command, what we ask for registers a 48-bit one (EXTEND).
        # Registers are asked for (CK_COND) where they are the answer; T_DIR in, BYT_BLOK, length in the count where data comes.
        second = 0x0E if read else 0x20
        low = [lba >> shift & 0xFF for shift in (24, 0, 32, 8, 40, 16)]
        cdb = bytearray(
            [0x85, protocol << 1 | (0 if read else 1), second, feature >> 8 & 0xFF, feature & 0xFF, count >> 8 & 0xFF, (read or count) & 0xFF]
            + low + [0x40, command, 0]
        )  # fmt: skip
        return self.scsi(bytes(cdb), read * 512, sense_is_answer=not read)

    def ata_identity_of_kernel(self) -> Answer:
        """IDENTIFY DEVICE as the kernel took it when it found the drive (strings turned into reading order by it)."""
        buffer = array.array("B", [0] * 512)
        why = self._ioctl(HDIO_GET_IDENTITY, buffer)
        return Answer(why=why) if why else Answer(buffer.tobytes())

    def security(self, protocol: int, specific: int, length: int = 2048) -> Answer:
        """SECURITY PROTOCOL IN: TCG's discovery. libata turns it into TRUSTED RECEIVE for ATA drives."""
        cdb = bytearray([0xA2, protocol, specific >> 8, specific & 0xFF, 0, 0]) + length.to_bytes(4, "big") + bytearray(2)
        return self.scsi(bytes(cdb), length)

    # --- NVMe ---

    def namespace_number(self) -> Union[int, None]:
        if self.fd < 0:
            return None
        try:
            found = fcntl.ioctl(self.fd, NVME_IOCTL_ID)
        except OSError:
            return None
        return found if isinstance(found, int) and found > 0 else None

    def nvme(self, opcode: int, nsid: int, length: int, cdw10: int, cdw11: int = 0) -> Answer:
        """One admin command that reads. Through the namespace's own node: the number of a controller's node need not be the
        namespace's, and another drive would answer."""
        data = ctypes.create_string_buffer(length)
        command = _NvmeAdmin(
            opcode=opcode, nsid=nsid, addr=ctypes.addressof(data), data_len=length, cdw10=cdw10, cdw11=cdw11, timeout_ms=TIMEOUT_MS
        )  # fmt: skip
        if self.fd < 0:
            return Answer(why=self.why)
        try:
            status = fcntl.ioctl(self.fd, NVME_IOCTL_ADMIN_CMD, command, True)
        except OSError as err:
            return Answer(why="the device cannot be asked: %s" % (err.strerror or err))
        if status:
            return Answer(why="the device refused (NVMe status %04xh)" % status)
        return Answer(data.raw)

    def nvme_identify(self, what: int, nsid: int = 0) -> Answer:
        return self.nvme(0x06, nsid, 4096, what)

    def nvme_log(self, page: int, length: int) -> Answer:
        return self.nvme(0x02, 0xFFFFFFFF, length, page | (length // 4 - 1) << 16)

    def nvme_security(self, protocol: int, specific: int, length: int = 2048) -> Answer:
        return self.nvme(0x82, 0, length, protocol << 24 | specific << 8, length)


def _refusal(status: int, sense: bytes) -> str:
    raw = bytearray(sense)
    if status == 2 and len(raw) >= 4:
        fixed = raw[0] & 0x7F in (0x70, 0x71)
        key = raw[2] & 0xF if fixed else raw[1] & 0xF
        code = (raw[12], raw[13]) if fixed and len(raw) >= 14 else (raw[2], raw[3])
        return "the device refused (sense key %xh, %02xh/%02xh)" % ((key,) + tuple(code))
    return "the device refused (SCSI status %02xh)" % status
