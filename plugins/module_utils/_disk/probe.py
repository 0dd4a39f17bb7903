# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ask one device everything that it can tell, by the way it is attached, and put the answers into its fact.

Private to the collection; it may change at any time. Valid for Python 3.6. Reads only. Each function fills what it learnt and
leaves the reason (why) where it learnt nothing; none of them decides anything.
"""

from typing import Any, Optional

from ansible_collections.sunset.crm.plugins.module_utils._disk import (
    ata as disk_ata,
    nvme as disk_nvme,
    scsi as disk_scsi,
    world as disk_world,
)
from ansible_collections.sunset.crm.plugins.module_utils._disk.ask import Answer, Device
from ansible_collections.sunset.crm.plugins.module_utils._disk.words import NO, UNKNOWN, YES, Row
from ansible_collections.sunset.crm.plugins.module_utils._wipe import tcg as wipe_tcg

SANITIZE_PAGE = 0x81


def unknown(fact: Row, group: str, why: str) -> None:
    """One reason for everything in a group that is still unknown."""
    for name, value in fact[group].items():
        if value == UNKNOWN:
            fact["why"].setdefault("%s.%s" % (group, name), why)


def _names(fact: Row, found: Row, *fields: str) -> None:
    for field in fields:
        if found.get(field):
            fact[field] = found[field]


def nvme(fact: Row, device: Any) -> None:
    answer = device.nvme_identify(1)
    problem = answer.why or disk_nvme.controller_problem(answer.data)
    if problem:
        fact["sources"]["identify"] = "none"
        for group in ("sanitize", "format"):
            unknown(fact, group, problem)
        return
    found = disk_nvme.controller(answer.data)
    fact["sources"]["identify"] = "ioctl: NVMe Identify Controller"
    fact["raw"]["identify"] = answer.data.hex()
    _names(fact, found, "model", "serial", "firmware")
    fact["sanitize"].update({name: found["sanitize"][name] for name in ("supported", "block", "crypto", "overwrite")}, frozen=NO)
    fact["format"] = found["format"]
    fact["sizes"].update(capacity=found["total"], unallocated=found["unallocated"])
    if found["unallocated"] is None:
        fact["why"]["sizes.unallocated"] = "the controller does not tell its total capacity"
    fact["controller"] = {name: found[name] for name in ("controller", "several_controllers", "ns_management", "version")}
    if found["subnqn"]:
        fact["subsystem"] = "nvme:" + found["subnqn"]
    elif fact["serial"]:
        fact["subsystem"] = "nvme:%s:%s" % (fact["model"], fact["serial"])
    nvme_namespaces(fact, device, found["ns_management"])
    nvme_sanitize_state(fact, device)
    if found["security_commands"] == YES:
        tcg(fact, device.nvme_security(1, 1), claimed=True)
    else:
        fact["tcg"]["present"] = NO


def nvme_namespaces(fact: Row, device: Any, management: str) -> None:
    own = device.namespace_number()
    # Allocated but not attached ones hold data as well; only controllers with namespace management know that list.
    for what in (0x10, 0x02) if management == YES else (0x02,):
        answer = device.nvme_identify(what)
        if not answer.why:
            break
    numbers = disk_nvme.namespace_list(answer.data) if not answer.why else []
    if not numbers:
        fact["why"]["sizes.namespaces"] = answer.why or "the list of namespaces is empty"
    rows = []
    for number in numbers[:128]:
        reply = device.nvme_identify(0x11 if what == 0x10 else 0x00, number)
        one = disk_nvme.namespace(reply.data) if not reply.why else {}
        rows.append({"nsid": number, "bytes": one.get("bytes"), "nguid": one.get("nguid"), "eui64": one.get("eui64")})
    fact["sizes"]["namespaces"] = rows or None
    fact["namespace"] = own
    mine = disk_nvme.namespace(device.nvme_identify(0x00, own).data) if own else {}
    if mine:
        _names(fact, mine, "nguid", "eui64")
        fact["blocks"]["metadata"] = mine["metadata"]
        if mine["write_protected"] == YES:
            fact["traits"]["read_only"] = YES


def nvme_sanitize_state(fact: Row, device: Any) -> None:
    answer = device.nvme_log(SANITIZE_PAGE, 512)
    if answer.why:
        fact["sources"]["sanitize"] = "ioctl: NVMe Identify Controller (capabilities only)"
        # A controller without sanitize refuses the page; one that has sanitize and refuses it cannot be followed.
        fact["sanitize"]["state"] = "never" if fact["sanitize"]["supported"] == NO else UNKNOWN
        if fact["sanitize"]["state"] == UNKNOWN:
            fact["why"]["sanitize.state"] = answer.why
        return
    log = disk_nvme.sanitize_log(answer.data)
    fact["sources"]["sanitize"] = "ioctl: NVMe log page 81h"
    fact["raw"]["sanitize_log"] = answer.data[:32].hex()
    fact["sanitize"].update(
        {name: log.get(name) for name in ("state", "progress", "action", "global_data_erased")}, seconds=log.get("seconds") or {}
    )
    if log["why"]:
        fact["why"]["sanitize.state"] = log["why"]


# --- SCSI and ATA ---


def scsi(fact: Row, device: Any, sysfs: str, block: bool = True) -> None:
    """A disk behind the kernel's SCSI layer: first what any of them answers, then ATA if it is one."""
    answer = device.inquiry()
    if "transport failed" in answer.why:
        # A dying disk: each further question would take its full time and tell no more.
        fact["why"]["device"] = answer.why
        return
    found = disk_scsi.inquiry(answer.data) if not answer.why else {}
    ata = (fact["vendor"] or "").strip().upper() == "ATA" or (found.get("vendor") or "").strip().upper() == "ATA"
    if found:
        fact["sources"]["inquiry"] = fact["sources"]["identify"] = "ioctl: SCSI INQUIRY"
        _names(fact, found, "vendor", "firmware")
        if not ata or not fact["model"]:
            _names(fact, found, "model")
        fact["traits"]["removable"] = found["removable"]
        _scsi_names(fact, device, sysfs)
        capacity = disk_scsi.capacity(device.read_capacity().data)
        if capacity:
            fact["sizes"]["capacity"] = capacity["bytes"]
            fact["blocks"].update({name: capacity[name] for name in ("logical", "physical", "metadata")})
    elif answer.why:
        fact["why"]["vendor"] = answer.why
    if ata:
        fact["sources"]["identify"] = "none"
    identity, source, why = ata_identity(device, sysfs, ata)
    if identity is not None:
        fact["ata"] = True
        ata_disk(fact, device, identity, source)
        return
    for group in ("security", "hidden"):
        if ata:
            unknown(fact, group, why)
        else:
            # These feature sets exist in ATA alone. Asking a SCSI disk for them gives invented answers.
            fact[group].update({name: NO for name, value in fact[group].items() if value == UNKNOWN})
    if ata:
        unknown(fact, "sanitize", why)
        return
    scsi_sanitize(fact, device)
    tcg(fact, device.security(1, 1))


def _scsi_names(fact: Row, device: Any, sysfs: str) -> None:
    for page in (0x80, 0x83, 0xB1):
        answer = device.inquiry(page)
        data = answer.data or disk_world.raw("%s/device/vpd_pg%02x" % (sysfs, page))
        if page == 0x80:
            fact["serial"] = disk_scsi.serial(data) or fact["serial"]
        elif page == 0x83:
            found = disk_scsi.designators(data)
            fact["wwn"] = found.get("naa") or fact["wwn"]
            fact["eui64"] = found.get("eui") or fact["eui64"]
        elif disk_scsi.rotation(data) != UNKNOWN:
            fact["traits"]["rotational"] = disk_scsi.rotation(data)
            fact["sources"]["rotational"] = "ioctl: SCSI VPD page B1h"


def scsi_sanitize(fact: Row, device: Any) -> None:
    """Which actions of SANITIZE (48h) the disk knows, and whether one runs."""
    for name, action in sorted(disk_scsi.SANITIZE.items()):
        answer = device.operation_code(0x48, action)
        value, why = disk_scsi.operation_code(answer.data) if not answer.why else (UNKNOWN, answer.why)
        fact["sanitize"][name] = value
        if why:
            fact["why"]["sanitize." + name] = why
    actions = [fact["sanitize"][name] for name in disk_scsi.SANITIZE]
    fact["sanitize"]["supported"] = YES if YES in actions else (NO if UNKNOWN not in actions else UNKNOWN)
    fact["sanitize"]["frozen"] = NO
    fact["sources"]["sanitize"] = "ioctl: SCSI REPORT SUPPORTED OPERATION CODES"
    answer = device.request_sense()
    found = disk_scsi.sense(answer.data) if not answer.why else {}
    fact["sanitize"].update(state=disk_scsi.sanitize_state(found), progress=found.get("progress"))


def ata_identity(device: Any, sysfs: str, ata: bool) -> Any:
    """(512 bytes, source, why not). SCSI disks are asked nothing of ATA unless they say that they are a translation."""
    page = disk_ata.of_page_89(disk_world.raw(sysfs + "/device/vpd_pg89"))
    if not ata and not page:
        return None, "none", "it is no ATA disk"
    answer = device.ata(0xEC, read=1)
    why = answer.why or disk_ata.identify_problem(answer.data)
    if not why:
        return answer.data, "ioctl: ATA IDENTIFY DEVICE", ""
    if page and not disk_ata.identify_problem(page):
        return page, "kernel: VPD page 89h", ""
    kept = device.ata_identity_of_kernel()
    if not kept.why and not disk_ata.identify_problem(_reading_order(kept.data)):
        return _reading_order(kept.data), "kernel: HDIO_GET_IDENTITY", ""
    return None, "none", why


def _reading_order(raw: bytes) -> bytes:
    """The kernel turns the bytes of the strings; turned back, one decoder does for all."""
    data = bytearray(raw)
    for first, last in ((10, 19), (23, 26), (27, 46)):
        for word in range(first, last + 1):
            data[2 * word], data[2 * word + 1] = data[2 * word + 1], data[2 * word]
    return bytes(data)


def ata_disk(fact: Row, device: Any, raw: bytes, source: str) -> None:
    found = disk_ata.identify(raw)
    fact["sources"]["identify"] = source
    fact["raw"]["identify"] = raw.hex()
    _names(fact, found, "model", "serial", "firmware", "wwn")
    fact["vendor"] = None  # "ATA" is the kernel's word for "the maker does not say"
    fact["blocks"].update(logical=found["logical"], physical=found["physical"])
    if found["capacity"]:
        fact["sizes"]["capacity"] = found["capacity"]
    for name in ("rotational", "self_encrypting"):
        if found[name] != UNKNOWN:
            fact["traits"][name] = found[name]
            fact["sources"][name] = source
    fact["security"].update(found["security"])
    unknown(fact, "security", "IDENTIFY words 82 and 128 do not agree whether there is a security feature set")
    fact["sanitize"].update(found["sanitize"])
    unknown(fact, "sanitize", "IDENTIFY word 59 says nothing that can be")
    fact["sources"]["sanitize"] = source
    if source.startswith("kernel") and fact["security"]["supported"] == YES:
        fact["why"]["security.frozen"] = "as the kernel found the drive; it may have changed since"
    ata_sanitize_state(fact, device)
    ata_hidden(fact, device, found["features"])
    if found["trusted"] == YES:
        tcg(fact, device.security(1, 1), claimed=True)
    elif found["trusted"] == NO:
        fact["tcg"]["present"] = NO
    else:
        fact["why"]["tcg.present"] = "the drive does not say whether it has trusted computing"


def ata_sanitize_state(fact: Row, device: Any) -> None:
    if fact["sanitize"]["supported"] != YES:
        if fact["sanitize"]["supported"] == NO:
            fact["sanitize"].update(frozen=NO, state="never")
        return
    answer = device.ata(0xB4)
    registers, why = disk_ata.registers(answer.sense) if not answer.why else (None, answer.why)
    if registers is None:
        fact["why"]["sanitize.state"] = fact["why"]["sanitize.frozen"] = why
        return
    status = disk_ata.sanitize_status(registers)
    fact["sanitize"].update({name: status[name] for name in ("state", "frozen", "progress", "without_error")})
    fact["sources"]["sanitize_state"] = "ioctl: ATA SANITIZE STATUS EXT"
    fact["raw"]["sanitize_status"] = answer.sense.hex()
    if status["why"]:
        fact["why"]["sanitize.state"] = status["why"]


def ata_hidden(fact: Row, device: Any, features: Row) -> None:
    """HPA, accessible maximum and DCO: asked only where the drive says that it has them. An emulation answers anything it is asked."""
    logical = fact["blocks"]["logical"] or 512
    current = fact["sizes"]["capacity"] // logical if fact["sizes"]["capacity"] else None
    native = _maximum(device.ata(0x27), current) if features["hpa"] == YES else {}
    maximum = _maximum(device.ata(0x78), current) if features["amac"] == YES else {}
    dco: Row = {}
    if features["dco"] == YES:
        answer = device.ata(0xB1, feature=0xC2, read=1)
        sectors, why = disk_ata.dco_identify(answer.data, current) if not answer.why else (None, answer.why)
        dco = {"sectors": sectors, "why": why}
    fact["hidden"], why = disk_ata.hidden(features, current, native, maximum, dco)
    fact["why"].update(why)
    fact["sources"]["hidden"] = "ioctl: ATA native and accessible maximum, DCO"
    if native.get("sectors"):
        fact["sizes"]["native"] = native["sectors"] * logical
    if maximum.get("sectors"):
        fact["sizes"]["accessible_max"] = maximum["sectors"] * logical


def _maximum(answer: Answer, current: Optional[int]) -> Row:
    registers, why = disk_ata.registers(answer.sense) if not answer.why else (None, answer.why)
    if registers is None:
        return {"sectors": None, "why": why}
    sectors, why = disk_ata.native_maximum(registers, current)
    return {"sectors": sectors, "why": why}


def tcg(fact: Row, answer: Answer, claimed: bool = False) -> None:
    """claimed: the drive says that it has these commands. A refusal is then not its own: the kernel keeps them from SATA drives
    (libata.allow_tpm), and in the same words."""
    found = wipe_tcg.level0(answer.data) if not answer.why else {}
    if found:
        fact["tcg"].update(found)
        fact["tcg"]["credential"] = wipe_tcg.credential(fact["serial"])
        fact["sources"]["tcg"] = "ioctl: TCG Level 0 Discovery"
        if found["media_encryption"] == YES:
            fact["traits"]["self_encrypting"] = YES
        return
    # A refusal of the very question is the answer of a drive without TCG; any other failure is none.
    refused = "sense key 5h, 20h/00h" in answer.why and not claimed
    fact["tcg"]["present"] = NO if refused else UNKNOWN
    if not refused:
        fact["why"]["tcg.present"] = answer.why or "the discovery answered with nothing that can be read"


def ask(fact: Row, sysfs: str) -> None:
    """Everything about one device that has a node."""
    with Device(fact["path"]) as device:
        if device.fd < 0:
            fact["why"]["device"] = device.why
            return
        if fact["name"].startswith("nvme"):
            nvme(fact, device)
        else:
            scsi(fact, device, sysfs)
