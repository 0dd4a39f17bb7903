# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Questions to devices: the kernel's structures, the commands that are sent, and what counts as an answer. Valid for Python 3.6."""

import ctypes
import errno

import pytest

from ansible_collections.sunset.crm.plugins.module_utils._disk import ask as disk_ask

# First bytes of the commands that may be sent: SCSI commands that only read.
HARMLESS = {0x03, 0x12, 0x85, 0x9E, 0xA2, 0xA3}
HARMLESS_ATA = {0xEC, 0xB4, 0x27, 0x78, 0xB1}
HARMLESS_NVME = {0x02, 0x06, 0x82}


class Kernel(object):
    """Takes the place of fcntl.ioctl; keeps what was asked, and answers as told."""

    def __init__(self):
        self.commands, self.nvme = [], []
        self.fields = {}
        self.sense = b""
        self.data = b""
        self.status = 0

    def __call__(self, fd, request, argument=None, mutate=True):
        if request == disk_ask.SG_IO:
            self.commands.append(ctypes.string_at(argument.cmdp, argument.cmd_len))
            assert argument.dxfer_direction in (-1, -3), "nothing is ever sent to a device"
            ctypes.memmove(argument.sbp, self.sense, len(self.sense))
            if argument.dxferp:
                ctypes.memmove(argument.dxferp, self.data, min(len(self.data), argument.dxfer_len))
            argument.sb_len_wr = len(self.sense)
            for name, value in self.fields.items():
                setattr(argument, name, value)
            return 0
        if request == disk_ask.NVME_IOCTL_ADMIN_CMD:
            self.nvme.append((argument.opcode, argument.nsid, argument.cdw10, argument.cdw11))
            return self.status
        raise OSError(errno.ENOTTY, "Inappropriate ioctl for device")


@pytest.fixture
def kernel(monkeypatch):
    found = Kernel()
    monkeypatch.setattr(disk_ask.fcntl, "ioctl", found)
    return found


@pytest.fixture
def device():
    with disk_ask.Device("/dev/null") as found:
        yield found


@pytest.mark.skipif(ctypes.sizeof(ctypes.c_void_p) != 8, reason="sizes of a 64-bit kernel")
def test_structures_have_the_kernels_size():
    assert ctypes.sizeof(disk_ask._SgIo) == 88
    assert ctypes.sizeof(disk_ask._NvmeAdmin) == 72


def test_only_commands_that_read_are_sent(kernel, device):
    device.inquiry()
    device.inquiry(0x83)
    device.read_capacity()
    device.operation_code(0x48, 2)
    device.request_sense()
    device.security(1, 1)
    device.ata(0xEC, read=1)
    device.ata(0xB4)
    device.ata(0x27)
    device.ata(0x78)
    device.ata(0xB1, feature=0xC2, read=1)
    device.nvme_identify(1)
    device.nvme_log(0x81, 512)
    device.nvme_security(1, 1)
    assert {command[0] for command in map(bytearray, kernel.commands)} == HARMLESS
    ata = [bytearray(command) for command in kernel.commands if bytearray(command)[0] == 0x85]
    assert {command[14] for command in ata} == HARMLESS_ATA
    for command in ata:
        features = command[3] << 8 | command[4]
        # SANITIZE STATUS is feature 0, DCO IDENTIFY is C2h, GET NATIVE MAX is 0: their neighbours change the drive.
        assert features == (0xC2 if command[14] == 0xB1 else 0)
    assert {row[0] for row in kernel.nvme} == HARMLESS_NVME


def test_the_log_page_is_asked_for_the_whole_controller(kernel, device):
    device.nvme_log(0x81, 512)
    assert kernel.nvme == [(0x02, 0xFFFFFFFF, 0x81 | 127 << 16, 0)]


def test_a_question_for_registers_asks_for_them_and_one_for_data_does_not(kernel, device):
    device.ata(0xB4)
    device.ata(0xEC, read=1)
    registers, data = (bytearray(command) for command in kernel.commands)
    assert (registers[1], registers[2]) == (3 << 1 | 1, 0x20)
    assert (data[1], data[2], data[6]) == (4 << 1, 0x0E, 1)


def test_a_transport_that_failed_is_no_answer_whatever_lies_in_the_buffer(kernel, device):
    """An emulated disk: exit code 0 of the tool, and DID_ERROR below it."""
    kernel.data = b"x" * 252
    kernel.fields = {"host_status": 7}
    answer = device.inquiry()
    assert answer.data == b"" and "transport failed" in answer.why
    kernel.fields = {"driver_status": 6}
    assert device.inquiry().data == b""
    kernel.fields = {"driver_status": 8}
    assert device.inquiry().why == ""


def test_a_refusal_is_told_by_its_sense(kernel, device):
    kernel.fields = {"status": 2}
    kernel.sense = bytes(bytearray([0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x20, 0, 0, 0, 0, 0]))
    assert device.inquiry().why == "the device refused (sense key 5h, 20h/00h)"
    kernel.sense = bytes(bytearray([0x72, 5, 0x24, 0, 0, 0, 0, 0]))
    assert device.inquiry().why == "the device refused (sense key 5h, 24h/00h)"
    kernel.fields = {"status": 8}
    assert "status 08h" in device.inquiry().why


def test_bytes_that_did_not_come_are_cut_off(kernel, device):
    kernel.data = b"abcd"
    kernel.fields = {"resid": 248}
    assert device.inquiry().data == b"abcd"


def test_a_device_that_cannot_be_asked_or_opened_says_why(device):
    assert "cannot be asked" in device.inquiry().why
    assert "cannot be asked" in device.nvme_identify(1).why
    assert device.namespace_number() is None
    assert "cannot be asked" in device.ata_identity_of_kernel().why
    with disk_ask.Device("/dev/nonesuch-device") as absent:
        assert "cannot be opened" in absent.inquiry().why
        assert "cannot be opened" in absent.nvme_identify(1).why


def test_a_refusal_of_nvme_is_told_by_its_status(kernel, device):
    kernel.status = 0x4002
    assert device.nvme_log(0x81, 512).why == "the device refused (NVMe status 4002h)"


def test_an_address_lies_where_the_translation_wants_it(kernel, device):
    device.ata(0x27, lba=0x060504030201)
    raw = bytearray(kernel.commands[0])
    assert [raw[at] for at in (8, 10, 12, 7, 9, 11)] == [1, 2, 3, 4, 5, 6]
