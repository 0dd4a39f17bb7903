# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A drive made of Python, spoken to as the kernel is: by ioctl, in raw structures. It can do what it says, or lie.

``FakeDrive(path).ioctl`` stands in for fcntl.ioctl. What it wipes is the file at ``path``. The structures are taken apart
here by hand, byte by byte, and not with the code under test. Valid for Python 3.6.

lie: "" honest | "nothing" says all the right things and does nothing | "part" leaves the last eighth | "wrong action" its log
names another action | "stuck" the progress never moves and it never ends | "instant" is done at once, without ever being at
work | "silent" takes the command, does nothing, its log stays as it was | "fails" ends with a failure | "refuses" refuses |
"still locked" (TCG) wipes and stays locked

TCG: ``tcg`` are the features that its discovery shows, ``psid`` the number on its label, ``sed`` what the kernel has for it: "yes", or
the errno of its refusal.
"""

import ctypes
import os
import struct

OLD = b"\x5a" * 4096


class FakeDrive:
    def __init__(self, path, lie="", serial="S123", looks=3, namespaces=(1,), qemu=False, frozen=False, late=0):
        self.path, self.lie, self.serial, self.looks, self.namespaces = path, lie, serial, looks, list(namespaces)
        self.qemu, self.frozen, self.late = qemu, frozen, late
        self.sstat, self.action, self.left, self.step = 0, 0, 0, 0
        self.commands = []  # what was asked for, as words
        self.password, self.locked, self.prepared = b"", False, False
        self.ata_done, self.ata_failed, self.scsi_failed = True, False, False  # "completed without error": also when never done
        self.when_sent, self.scsi_only = None, False
        self.tcg = {"ssc": 0x0203, "locking": 0x09, "sid": 0}  # Opal 2, locking supported, media encryption, SID as in the factory
        self.psid, self.sed, self.tries = b"ABCDEFGHJKLMNPQRSTUVWXYZ23456789", "yes", 0

    # --- the medium --------------------------------------------------------------------------------------------------

    def wipe(self, how):
        if self.lie in ("nothing", "silent", "wrong action", "stuck", "fails"):
            return
        size = os.path.getsize(self.path)
        with open(self.path, "r+b") as handle:
            for offset in range(0, size * 7 // 8 if self.lie == "part" else size, 65536):
                count = min(65536, size - offset)
                handle.seek(offset)
                handle.write(os.urandom(count) if how == "crypto" else b"\0" * count)
            handle.flush()
            os.fsync(handle.fileno())

    def begin(self, how):
        """A background operation begins. The medium is wiped when it ends."""
        self.commands.append(how)
        if self.when_sent:
            self.when_sent()
        self.how, self.left, self.step = how, 0 if self.lie == "instant" else self.looks, 0
        if self.lie == "silent":
            self.left = -1
        elif self.left == 0:
            self.end()

    def tick(self):
        """One look at the log: the operation goes on. True while it is at work."""
        if self.left <= 0:
            return False
        if self.lie == "stuck":
            return True
        self.left -= 1
        self.step += 1
        if self.left == 0:
            self.end()
            return False
        return True

    def end(self):
        if self.lie == "fails":
            self.ata_failed, self.ata_done, self.scsi_failed = True, False, True
        else:
            self.wipe(self.how)
            self.ata_done = True

    def progress(self):
        return 0 if self.lie == "stuck" else min(65535, self.step * 65536 // (self.looks + 1))

    # --- the kernel --------------------------------------------------------------------------------------------------

    def ioctl(self, _fd, request, argument=None, _mutate=False):
        if request == 0x4E40:
            if self.scsi_only:
                raise OSError(25, "Inappropriate ioctl for device")
            return self.namespaces[0] if self.namespaces else 1
        if request == 0xC0484E41:
            return self._nvme(argument)
        if request == 0x2285:
            return self._sg(argument)
        if request == 0x410870E8:  # IOC_OPAL_PSID_REVERT_TPR, by hand: _IOW('p', 232, 264 bytes)
            return self._revert(argument)
        raise OSError(25, "Inappropriate ioctl for device")

    # --- TCG ---------------------------------------------------------------------------------------------------------

    def _revert(self, key):
        """As the kernel: first who asks and of what, then the argument, then the drive, whose status comes back as a number."""
        if self.sed != "yes":
            raise OSError(self.sed, "")
        if key == 0:
            raise OSError(14, "Bad address")
        assert len(key) == 264 and key[0] == 0 and bytes(key[2:8]) == b"\0" * 6
        self.commands.append("revert")
        if self.when_sent:
            self.when_sent()
        if self.lie == "refuses":
            return 0x3F
        if self.tries >= 5:
            return 0x12
        if bytes(key[8 : 8 + key[1]]) != self.psid or key[1] != 32:
            self.tries += 1
            return 1
        if self.lie == "fails":
            return 4
        self.wipe("crypto")
        if self.lie != "still locked":
            self.tcg.update(locking=self.tcg["locking"] & 0x09, sid=0)
        return 0

    def discovery(self):
        if not self.tcg:
            return None
        parts = [(0x0001, b"\x11"), (0x0002, bytes(bytearray([self.tcg["locking"]]))), (self.tcg["ssc"], b"\0" * 16)]
        if self.tcg["sid"] is not None:
            parts.append((0x0402, bytes(bytearray([self.tcg["sid"]]))))
        features = b""
        for code, text in parts:
            text = text.ljust(12, b"\0")
            features += struct.pack(">HBB", code, 0x10, len(text)) + text
        return struct.pack(">I", 44 + len(features)) + b"\0" * 44 + features

    # --- NVMe --------------------------------------------------------------------------------------------------------

    def _nvme(self, raw):
        opcode, nsid = raw[0], struct.unpack_from("<I", raw, 4)[0]
        address, length = struct.unpack_from("<Q", raw, 24)[0], struct.unpack_from("<I", raw, 36)[0]
        cdw10 = struct.unpack_from("<I", raw, 40)[0]
        page = None
        if opcode == 0x06:
            page = self._identify(cdw10 & 0xFF, nsid)
        elif opcode == 0x02 and cdw10 & 0xFF == 0x81:
            page = self._sanitize_log()
        elif opcode == 0x02 and cdw10 & 0xFF == 0x02:
            page = b"\0" * 48 + struct.pack("<Q", 1000) + b"\0" * 456
        elif opcode == 0x82:
            page = self.discovery() if cdw10 == 0x01000100 and struct.unpack_from("<I", raw, 44)[0] == length else None
        elif opcode == 0x84:
            return self._sanitize(cdw10)
        elif opcode == 0x80:
            return self._format(cdw10, nsid)
        if page is None:
            return 0x4001  # invalid opcode, do not retry: what QEMU says to a sanitize
        ctypes.memmove(address, page[:length].ljust(length, b"\0"), length)
        return 0

    def _identify(self, cns, nsid):
        if cns == 1:
            page = bytearray(4096)
            page[4:24], page[24:64] = self.serial.ljust(20).encode(), b"FAKE DRIVE".ljust(40)
            struct.pack_into("<H", page, 256, 0x02)
            struct.pack_into("<I", page, 328, 0 if self.qemu else 0x07)
            page[524] = 0x04
            return bytes(page)
        if cns in (0x10, 0x02):
            return b"".join(struct.pack("<I", number) for number in self.namespaces)
        if cns == 0:
            page = bytearray(4096)
            page[26], page[29] = 0x01, 0x00
            return bytes(page)
        return None

    def _sanitize_log(self):
        if self.qemu:
            return None
        if self.late and self.left >= 0:
            self.late -= 1
            return struct.pack("<HHIIII", 0xFFFF, 0, 0, 10, 10, 10) + b"\0" * 492
        if self.left and self.tick():
            return struct.pack("<HHIIII", self.progress(), 2, self.action, 10, 10, 10) + b"\0" * 492
        status = self.sstat
        if self.commands and self.lie != "silent" and self.commands[-1] in ("crypto", "block", "overwrite"):
            status = 3 if self.lie == "fails" else 0x101
        return struct.pack("<HHIIII", 0xFFFF, status, self.action, 10, 10, 10) + b"\0" * 492

    def _sanitize(self, cdw10):
        if self.lie == "refuses" or self.qemu:
            self.commands.append("refused")
            return 0x4001
        number = cdw10 & 7
        if self.lie != "silent":
            self.action = (2 if number == 4 else 4) if self.lie == "wrong action" else number
        self.begin({2: "block", 3: "overwrite", 4: "crypto"}[number])
        return 0

    def _format(self, cdw10, nsid):
        ses = cdw10 >> 9 & 7
        self.commands.append("format ses=%d lbaf=%d nsid=%d" % (ses, cdw10 & 15, nsid))
        if self.lie == "refuses":
            return 0x4002
        if ses:  # without one, a format erases nothing
            self.wipe("crypto" if ses == 2 else "block")
        return 0

    # --- SCSI --------------------------------------------------------------------------------------------------------

    def _sg(self, header):
        base = ctypes.addressof(header)
        raw = ctypes.string_at(base, 88)
        length, size = raw[8], struct.unpack_from("<I", raw, 12)[0]
        data_at, command_at, sense_at = struct.unpack_from("<QQQ", raw, 16)
        command = ctypes.string_at(command_at, length)
        given = ctypes.string_at(data_at, size) if data_at and size else b""
        answer = self._ata(command, given) if command[:1] == b"\x85" else self._scsi(command, given)
        data, status, sense, host = answer
        if data:
            ctypes.memmove(data_at, data[:size].ljust(size, b"\0"), size)
        if sense:
            ctypes.memmove(sense_at, sense, len(sense))
        ctypes.memmove(base + 64, bytes(bytearray([status, 0, 0, len(sense)])), 4)
        ctypes.memmove(base + 68, struct.pack("<HH", host, 8 if sense else 0), 4)
        return 0

    def _scsi(self, command, given):
        code = bytearray(command)[0]
        illegal = b"\x70\x00\x05" + b"\0" * 4 + b"\x0a" + b"\0" * 4 + b"\x20\x00" + b"\0" * 4
        if code == 0x12:
            return b"\x00\x80\x00" + bytes(bytearray([len(self.serial)])) + self.serial.encode(), 0, b"", 0
        if code == 0xA2:
            page = self.discovery() if command[1:4] == b"\x01\x00\x01" else None
            return (page.ljust(2048, b"\0"), 0, b"", 0) if page else (b"", 2, illegal, 0)
        if code == 0xA3:
            return b"\0" + (b"\x01" if self.qemu else b"\x03") + b"\0" * 62, 0, b"", 0
        if code == 0x03:
            sense = bytearray(18)
            sense[0], sense[7] = 0x70, 10
            if self.left and self.tick():
                sense[2], sense[12], sense[13], sense[15] = 0x02, 0x04, 0x1B, 0x80
                sense[16:18] = struct.pack(">H", self.progress())
            elif self.scsi_failed:
                sense[2], sense[12], sense[13] = 0x03, 0x31, 0x03
            return bytes(sense), 0, b"", 0
        if code == 0x48:
            if self.qemu:  # recorded: sg_sanitize --overwrite, exit 0, DID_ERROR, nothing done
                self.commands.append("did error")
                return b"", 0, b"", 7
            number = bytearray(command)[1] & 0x1F
            if self.lie == "refuses" or (number == 1 and len(given) != 8):
                return b"", 2, illegal, 0
            self.begin({1: "overwrite", 2: "block", 3: "crypto"}[number])
            return b"", 0, b"", 0
        return b"", 2, illegal, 0

    # --- ATA ---------------------------------------------------------------------------------------------------------

    @staticmethod
    def _registers(status=0x50, error=0, count=0, lba=0):
        sense = bytearray(22)
        sense[0], sense[1], sense[3], sense[7], sense[8], sense[9] = 0x72, 0x01, 0x1D, 14, 0x09, 12
        sense[10], sense[11], sense[12], sense[13] = 1, error, count >> 8, count & 0xFF
        sense[15], sense[17], sense[19] = lba & 0xFF, lba >> 8 & 0xFF, lba >> 16 & 0xFF
        sense[14], sense[16], sense[18] = lba >> 24 & 0xFF, lba >> 32 & 0xFF, lba >> 40 & 0xFF
        sense[20], sense[21] = 0x40, status
        return b"", 2, bytes(sense), 0

    def _ata(self, command, given):
        cdb = bytearray(command)
        code, features = cdb[14], cdb[3] << 8 | cdb[4]
        lba = cdb[8] | cdb[10] << 8 | cdb[12] << 16 | cdb[7] << 24 | cdb[9] << 32 | cdb[11] << 40
        if code == 0xEC:
            words = self._words()
            return words, (0 if self.qemu else 2), (b"" if self.qemu else self._registers()[2]), 0
        if self.qemu:  # recorded: hdparm's erase commands, exit 0, "bad/missing sense data", nothing done
            self.commands.append("0x%02x" % code)
            return b"", 0, b"", 0
        if code == 0xB4:
            return self._ata_sanitize(features, lba)
        return self._security(code, given)

    def _words(self):
        words = [0] * 256
        for first, count, text in ((10, 10, self.serial), (27, 20, "FAKE ATA")):
            raw = text.ljust(count * 2).encode()
            for number in range(count):
                words[first + number] = struct.unpack(">H", raw[2 * number : 2 * number + 2])[0]
        words[59] = 0xF000
        words[89], words[90] = 1, 1
        words[128] = 0x21 | (2 if self.password else 0) | (4 if self.locked else 0) | (8 if self.frozen else 0)
        return struct.pack("<256H", *words)

    def _ata_sanitize(self, features, lba):
        names = {0x0011: ("crypto", 0x43727970), 0x0012: ("block", 0x426B4572), 0x0014: ("overwrite", 0x4F57 << 32)}
        if features == 0:
            if self.left and self.tick():
                return self._registers(count=0x4000, lba=self.progress())
            if self.ata_failed:
                return self._registers(status=0x51, error=4, lba=1)
            return self._registers(count=(0x8000 if self.ata_done else 0) | (0x2000 if self.frozen else 0), lba=0xFFFF)
        name, key = names.get(features, ("", None))
        if self.lie == "refuses" or self.frozen or lba != key:
            return self._registers(status=0x51, error=4, lba=3 if self.frozen else 2)
        self.ata_done = False
        self.begin(name)
        if self.lie == "silent":
            self.ata_done = True
        return self._registers(count=0x4000 if self.left > 0 else 0)

    def _security(self, code, given):
        aborted = self._registers(status=0x51, error=4)
        self.commands.append("0x%02x" % code)
        word, password = struct.unpack_from("<H", given.ljust(34, b"\0"))[0], given[2:34]
        if code == 0xF1:
            if self.locked:  # ACS: aborted while it is locked
                return aborted
            if self.lie != "silent":
                self.password = password
            return self._registers()
        if code in (0xF2, 0xF6):
            if password != self.password:
                return aborted
            self.locked = False
            if code == 0xF6:
                self.password = b""
            return self._registers()
        if code == 0xF3:
            self.prepared = True
            return self._registers()
        if code == 0xF4:
            if not self.prepared or password != self.password or self.lie == "refuses":
                return aborted
            if self.when_sent:
                self.when_sent()
            if self.lie == "fails":
                return aborted
            self.wipe("crypto" if word & 2 else "block")
            self.password, self.locked, self.prepared = b"", False, False
            return self._registers()
        return aborted
