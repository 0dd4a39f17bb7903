# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The commands by which a drive wipes itself: may it be asked, what does its log say now, what does it answer.

Private to the collection. Valid for Python 3.6, standard library; travels with the wipe job.

Each technique has ``probe``, ``look`` and ``send``. None of them decides what a run was worth: ``_wipe.firmware`` does, over what was seen.
"""

import hashlib
import struct
from typing import Any, Dict, List, Optional  # noqa: F401

from ansible_collections.sunset.crm.plugins.module_utils._wipe import tcg as wipe_tcg, transport as wipe_transport

FAKE = "a protocol-level fake only, no real drive"
QEMU = "a protocol-level fake and QEMU's emulation, no real drive"
DAY = 86400


class Technique:
    """One way to have the drive wipe itself. ``classes``: r2, r1 and IEEE 2883 for flash and for rotating media."""

    family = ""
    blocking = False  # the command returns when the work is done, and there is no log of it
    reports_action = False  # the log says which action it speaks of

    def __init__(self, name, text, action, classes, limit=None, met=FAKE):
        # type: (str, str, str, Dict[str, Any], Optional[float], str) -> None
        self.name, self.text, self.action, self.classes, self.limit, self.met = name, text, action, classes, limit, met

    def probe(self, link, found):
        # type: (Any, Dict[str, Any]) -> Dict[str, Any]
        """{supported: yes | no | unknown, reasons: [...], estimate: seconds or None, facts: {...}}"""
        raise NotImplementedError

    def look(self, link):
        # type: (Any) -> Dict[str, Any]
        """{state: idle | running | succeeded | failed | frozen | unknown, action, progress (0..65535), raw}"""
        raise NotImplementedError

    def shut(self, link):
        # type: (Any) -> bool
        """Does the drive hide its data, so that the technique has to be sent once before anything can be put on it?"""
        return False

    def send(self, link, estimate, prepare):
        # type: (Any, Optional[int], Any) -> Dict[str, Any]
        """{accepted: yes | no | unknown, why, running, answers}. ``prepare(**facts)`` writes down what must outlive a power cut."""
        raise NotImplementedError


def answered(answers, running=False):
    # type: (List[Any], bool) -> Dict[str, Any]
    bad = [answer for answer in answers if not answer.ok]
    return {
        "accepted": "no" if bad else "yes", "why": bad[0].why if bad else "", "running": running,
        "answers": [answer.record() for answer in answers],
    }  # fmt: skip


def support(capable, reasons, estimate=None, **facts):
    word = "unknown" if capable is None else ("yes" if capable else "no")
    return {"supported": word, "reasons": reasons, "estimate": estimate, "facts": facts}


def hexadecimal(data):
    # type: (bytes) -> str
    return "".join("%02x" % byte for byte in bytearray(data))


# --- NVMe ------------------------------------------------------------------------------------------------------------


def decode_sanitize_log(page):
    # type: (bytes) -> Dict[str, Any]
    """Log page 0x81, raw. SPROG FFFFh means "not running", never "100 %"; SSTAT 0 means never sanitised."""
    if len(page) < 32:
        return {"state": "unknown", "action": None, "progress": None, "raw": hexadecimal(page), "why": "the log page is short"}
    sprog, sstat, cdw10 = struct.unpack("<HHI", page[:8])
    state = {0: "idle", 1: "succeeded", 2: "running", 3: "failed", 4: "succeeded"}.get(sstat & 7, "unknown")
    action = {2: "block", 3: "overwrite", 4: "crypto"}.get(cdw10 & 7)
    return {
        "state": state, "action": action, "progress": sprog if state == "running" else None, "raw": hexadecimal(page[:32]),
        "global_data_erased": bool(sstat & 0x100), "passes": sstat >> 3 & 0x1F,
        "estimates": {name: struct.unpack_from("<I", page, 8 + 4 * at)[0] for at, name in enumerate(("overwrite", "block", "crypto"))},
    }  # fmt: skip


def nvme_controller(link):
    # type: (Any) -> Dict[str, Any]
    """What the controller says of itself, and which namespaces it has."""
    answer = link.nvme(0x06, cdw10=1, read=4096)
    if not answer.ok:
        return {"why": answer.why}
    page = answer.data
    listed = link.nvme(0x06, cdw10=0x10, read=4096)  # all that are allocated
    if not listed.ok:
        listed = link.nvme(0x06, cdw10=0x02, read=4096)  # all that are active: what an older controller knows
    namespaces = [number for number in struct.unpack("<1024I", listed.data) if number] if listed.ok else None
    return {
        "why": "", "serial": page[4:24].decode("ascii", "replace").strip(), "model": page[24:64].decode("ascii", "replace").strip(),
        "firmware": page[64:72].decode("ascii", "replace").strip(), "oacs": struct.unpack("<H", page[256:258])[0],
        "sanicap": struct.unpack("<I", page[328:332])[0], "fna": bytearray(page)[524], "namespaces": namespaces,
        "namespace": link.nvme_namespace(),
    }  # fmt: skip


def nvme_reasons(controller, found, whole):
    """Why a command must not go to this controller. whole: it would reach all namespaces."""
    reasons = []
    if controller.get("why"):
        return ["the controller does not identify itself: %s" % controller["why"]]
    if found.get("serial") and found["serial"].strip() != controller["serial"]:
        reasons.append("the controller's serial is %r, the device's is %r" % (controller["serial"], found["serial"]))
    if controller["namespace"] is None:
        reasons.append("it is not known which namespace this device is")
    elif whole and controller["namespaces"] != [controller["namespace"]]:
        seen = "unknown" if controller["namespaces"] is None else ", ".join(str(number) for number in controller["namespaces"])
        reasons.append(
            "it would wipe every namespace of the drive (%s), the plan names this one (%d); plan the others or overwrite"
            % (seen, controller["namespace"])
        )
    return reasons


class NvmeSanitize(Technique):
    family, reports_action = "nvme", True
    CODES = {"block": 2, "overwrite": 3, "crypto": 4}
    BITS = {"crypto": 1, "block": 2, "overwrite": 4}

    def probe(self, link, found):
        controller = nvme_controller(link)
        reasons = nvme_reasons(controller, found, True)
        capable = bool(controller["sanicap"] & self.BITS[self.action]) if "sanicap" in controller else None
        estimate = (self.look(link).get("estimates") or {}).get(self.action)
        return support(capable, reasons, None if estimate in (0, 0xFFFFFFFF) else estimate, controller=controller)

    def look(self, link):
        answer = link.nvme(0x02, nsid=0xFFFFFFFF, cdw10=0x81 | 127 << 16, read=512)
        if not answer.ok:
            return {"state": "unknown", "action": None, "progress": None, "raw": "", "why": answer.why}
        return decode_sanitize_log(answer.data)

    def send(self, link, estimate, prepare):
        passes = 1 << 4 if self.action == "overwrite" else 0
        return answered([link.nvme(0x84, cdw10=self.CODES[self.action] | passes)])


class NvmeFormat(Technique):
    """Format NVM with an explicit ses: without one nothing is erased. The drive keeps no log of it."""

    family, blocking = "nvme", True
    SES = {"ses1": 1, "ses2": 2}

    def _namespace(self, link, number):
        # type: (Any, int) -> Dict[str, Any]
        answer = link.nvme(0x06, nsid=number, cdw10=0, read=4096)
        page = bytearray(answer.data)
        if not answer.ok or len(page) < 40:
            return {"why": answer.why or "the answer is short"}
        formatted = page[26] & 0x0F | (page[26] >> 5 & 3) << 4
        return {"why": "", "format": formatted, "protection": page[29] & 0x0F, "flbas": page[26], "raw": hexadecimal(bytes(page[:40]))}

    def probe(self, link, found):
        controller = nvme_controller(link)
        if controller.get("why"):
            return support(None, nvme_reasons(controller, found, False), controller=controller)
        capable = bool(controller["oacs"] & 2) and (self.action == "ses1" or bool(controller["fna"] & 4))
        return support(capable, nvme_reasons(controller, found, bool(controller["fna"] & 3)), controller=controller)

    def look(self, link):
        number = link.nvme_namespace()
        seen = self._namespace(link, number) if number else {"why": "no namespace number"}  # type: Dict[str, Any]
        state = "unknown" if seen["why"] else "idle"
        return dict({"raw": ""}, state=state, action=None, progress=None, **seen)

    def send(self, link, estimate, prepare):
        number = link.nvme_namespace()
        seen = self._namespace(link, number) if number else {"why": "no namespace number"}  # type: Dict[str, Any]
        if seen["why"]:
            return {"accepted": "no", "why": seen["why"], "running": False, "answers": []}
        flbas = seen["flbas"]
        cdw10 = flbas & 0x0F | (flbas >> 4 & 1) << 4 | (seen["protection"] & 7) << 5 | (seen["protection"] >> 3 & 1) << 8
        cdw10 |= self.SES[self.action] << 9 | (flbas >> 5 & 3) << 12
        return answered([link.nvme(0x80, nsid=number, cdw10=cdw10, timeout=2 * DAY)])


# --- ATA -------------------------------------------------------------------------------------------------------------


def decode_identify(page):
    # type: (bytes) -> Dict[str, Any]
    """The words of IDENTIFY DEVICE that matter for a purge. ``valid``: it was a drive's answer at all."""
    if len(page) < 512 or not any(bytearray(page)):
        return {"valid": False}
    words = struct.unpack("<256H", page[:512])

    def text(first, last):
        raw = b"".join(struct.pack(">H", word) for word in words[first : last + 1])
        return raw.decode("ascii", "replace").strip()

    def minutes(word):
        value = word & 0x7FFF if word & 0x8000 else word & 0xFF
        return value * 120 or None

    status = words[128]
    return {
        "valid": True, "serial": text(10, 19), "firmware": text(23, 26), "model": text(27, 46),
        "sanitize": bool(words[59] & 0x1000), "crypto": bool(words[59] & 0x2000), "overwrite": bool(words[59] & 0x4000),
        "block": bool(words[59] & 0x8000), "security_supported": bool(status & 1), "security_enabled": bool(status & 2),
        "locked": bool(status & 4), "frozen": bool(status & 8), "count_expired": bool(status & 16), "enhanced": bool(status & 32),
        "seconds_normal": minutes(words[89]), "seconds_enhanced": minutes(words[90]), "word59": words[59], "word128": status,
    }  # fmt: skip


def ata_identify(link):
    answer = link.ata(0xEC, protocol=wipe_transport.ATA_PIO_IN, read=512)
    return dict(decode_identify(answer.data), why=answer.why)


def ata_reasons(identity, found):
    if not identity["valid"]:
        return ["the drive does not answer IDENTIFY DEVICE: %s" % (identity["why"] or "an empty answer")]
    if found.get("serial") and found["serial"].strip() != identity["serial"]:
        return ["the drive's serial is %r, the device's is %r" % (identity["serial"], found["serial"])]
    return []


class AtaSanitize(Technique):
    """An idle drive that was never sanitised also says "completed without error": that alone is worth nothing."""

    family = "ata"
    FEATURES = {"crypto": (0x0011, 0x43727970), "block": (0x0012, 0x426B4572), "overwrite": (0x0014, 0x4F57 << 32)}

    def probe(self, link, found):
        identity = ata_identify(link)
        reasons = ata_reasons(identity, found)
        if identity["valid"] and identity["sanitize"] and self.look(link)["state"] == "frozen":
            reasons.append("its sanitize feature is frozen; power the drive off and on (not the machine), then run it again")
        capable = identity["sanitize"] and identity[self.action] if identity["valid"] else None
        return support(capable, reasons, identity=identity)

    @staticmethod
    def decode(answer):
        registers = answer.more.get("registers")
        if registers is None:
            return {"state": "unknown", "action": None, "progress": None, "raw": answer.more.get("sense", ""), "why": answer.why}
        flags = registers["count"] >> 8
        if registers["status"] & 0x21:
            state = {1: "failed", 3: "frozen"}.get(registers["lba"] & 0xFF, "unknown")
        elif flags & 0x40:
            state = "running"
        elif flags & 0x20:
            state = "frozen"
        else:
            state = "succeeded" if flags & 0x80 else "idle"
        progress = registers["lba"] & 0xFFFF if state == "running" else None
        return {"state": state, "action": None, "progress": progress, "raw": answer.more.get("sense", ""), "why": answer.why}

    def look(self, link):
        return self.decode(link.ata(0xB4))

    def send(self, link, estimate, prepare):
        features, key = self.FEATURES[self.action]
        answer = link.ata(0xB4, features=features, count=1 if self.action == "overwrite" else 0, lba=key)
        return answered([answer], running=answer.ok and self.decode(answer)["state"] == "running")


def security_password(key):
    # type: (bytes) -> str
    """From the stream's key, which the control node wrote down before anything began: so the drive can always be opened."""
    return hashlib.sha256(b"sunset.crm ata security " + key).hexdigest()[:32]


class AtaSecurityErase(Technique):
    """The password is written down, set, and *seen to be set*, before the drive is asked to erase itself."""

    family, blocking = "ata", True
    password, mine = "", False

    def probe(self, link, found):
        identity = ata_identify(link)
        reasons = ata_reasons(identity, found)
        if identity["valid"]:
            if identity["frozen"]:
                reasons.append("its security is frozen; power the drive off and on (not the machine), then run it again")
            if identity["count_expired"]:
                reasons.append("too many wrong passwords were tried; power the drive off and on")
            if identity["security_enabled"] and not self._taken_back(link, identity):
                reasons.append(
                    "it has a password already, and not that of an unfinished job here; take it away first (that of a rescue whose power "
                    "went follows from the medium's stream key: docs/operator/wipe-ways.md, 'The password of an erase that was cut off')"
                )
        capable = identity["security_supported"] if identity["valid"] else None
        if capable and self.action == "enhanced":
            capable = identity["enhanced"]
        return support(capable, reasons, identity.get("seconds_" + self.action), identity=identity)

    def _block(self, flags):
        return struct.pack("<H", flags) + self.password.encode("ascii") + b"\0" * (510 - len(self.password))

    def _order(self, link, command, flags=0, timeout=60):
        return link.ata(command, protocol=wipe_transport.ATA_PIO_OUT, data=self._block(flags), timeout=timeout)

    def _taken_back(self, link, identity):
        """Only a password that an interrupted run of ours has set is tried: drives count wrong ones."""
        if not self.mine:
            return False
        if identity["locked"] and not self._order(link, 0xF2).ok:
            return False
        return self._order(link, 0xF6).ok

    def look(self, link):
        identity = ata_identify(link)
        if not identity["valid"]:
            return {"state": "unknown", "action": None, "progress": None, "raw": "", "why": identity["why"]}
        locked = identity["security_enabled"] or identity["locked"]
        return {"state": "locked" if locked else "idle", "action": None, "progress": None, "raw": "word 128: 0x%04x" % identity["word128"]}

    def send(self, link, estimate, prepare):
        prepare(ata_password=self.password)
        identity = ata_identify(link)
        if self.mine and identity["valid"] and identity["security_enabled"]:
            self._taken_back(link, identity)  # of a run that was cut off; a locked drive takes no new one
        answers = [self._order(link, 0xF1)]
        if answers[0].ok and self.look(link)["state"] != "locked":
            answers[0].ok, answers[0].why = False, "the drive took the password and is not locked by it: it did nothing"
        if answers[0].ok:
            answers.append(link.ata(0xF3))
        if answers[-1].ok:
            patience = 2 * (estimate or DAY) + 3600
            answers.append(self._order(link, 0xF4, 2 if self.action == "enhanced" else 0, timeout=patience))
        said = answered(answers)
        if said["accepted"] != "yes" and self.look(link)["state"] == "locked":
            self._order(link, 0xF2)
            said["answers"].append(dict(self._order(link, 0xF6).record(), act="the password is taken away again"))
        return said


# --- SCSI ------------------------------------------------------------------------------------------------------------


class ScsiSanitize(Technique):
    family = "scsi"
    ACTIONS = {"overwrite": 1, "block": 2, "crypto": 3}

    def probe(self, link, found):
        code = self.ACTIONS[self.action]
        answer = link.scsi(bytes(bytearray([0xA3, 0x0C, 0x02, 0x48, 0, code, 0, 0, 0, 64, 0, 0])), read=64)
        capable = None
        if answer.ok and len(answer.data) >= 2:
            capable = {1: False, 3: True, 5: True}.get(bytearray(answer.data)[1] & 7)
        number, reasons = self.serial_reasons(link, found)
        return support(capable, reasons, serial=number, why=answer.why)

    @staticmethod
    def serial_reasons(link, found):
        """(the serial number that the drive answers, why it is not the one that is meant)"""
        serial = link.scsi(b"\x12\x01\x80\x00\xff\x00", read=255)
        page = bytearray(serial.data)
        number = bytes(page[4 : 4 + page[3]]).decode("ascii", "replace").strip() if serial.ok and len(page) > 4 else ""
        if number and found.get("serial") and found["serial"].strip() != number:
            return number, ["the drive's serial is %r, the device's is %r" % (number, found["serial"])]
        return number, []

    def look(self, link):
        answer = link.scsi(b"\x03\x00\x00\x00\xfc\x00", read=252)
        seen = wipe_transport.parse_sense(answer.data)
        triple = (seen["key"], seen["asc"], seen["ascq"])
        state = {(2, 0x04, 0x1B): "running", (3, 0x31, 0x03): "failed"}.get(triple, "idle" if seen["key"] == 0 else "unknown")
        state = state if answer.ok else "unknown"
        return {"state": state, "action": None, "progress": seen["progress"], "raw": hexadecimal(answer.data), "why": answer.why}

    def send(self, link, estimate, prepare):
        pattern = b"\x01\x00\x00\x04\x00\x00\x00\x00" if self.action == "overwrite" else b""  # one pass of four zero bytes
        command = bytearray([0x48, 0x80 | self.ACTIONS[self.action], 0, 0, 0, 0, 0, 0, len(pattern), 0])
        return answered([link.scsi(bytes(command), write=pattern)])


# --- TCG -------------------------------------------------------------------------------------------------------------


class TcgRevert(Technique):
    """The drive throws its media keys away, opened by the number on its label. It keeps no log of it: its discovery must say that it is
    as it left the factory, and the keyed blocks must have become noise."""

    family, blocking = "tcg", True
    serial, directory = "", wipe_tcg.DIRECTORY

    @staticmethod
    def _serial_reasons(link, found):
        if found.get("kind") == "nvme":
            return nvme_reasons(nvme_controller(link), found, True)
        return ScsiSanitize.serial_reasons(link, found)[1]

    def probe(self, link, found):
        seen = self.look(link)
        facts, kernel = seen["facts"], link.opal_known()
        reasons = self._serial_reasons(link, found) + wipe_tcg.reasons(facts)
        if kernel.more["known"] != "yes":
            reasons.append(kernel.why)
        secret, why = wipe_tcg.psid(self.directory, self.serial or found.get("serial"))
        if secret is None:
            reasons.append("its PSID is not here: %s" % why)
        else:
            wipe_tcg.forget(secret)
        capable = {"yes": True, "no": False}.get(facts.get("present", "unknown"))
        return support(capable, reasons, discovery=facts, raw=seen["raw"], why=seen["why"])

    def look(self, link):
        answer = link.tcg_discovery()
        facts = wipe_tcg.level0(answer.data) if answer.ok else {}
        raw = hexadecimal(answer.data.rstrip(b"\0"))[:1024]
        why = answer.why or ("" if facts else "the discovery cannot be read")
        return {"state": wipe_tcg.state(facts), "action": None, "progress": None, "raw": raw, "why": why, "facts": facts}

    def shut(self, link):
        return wipe_tcg.hidden(self.look(link)["facts"])

    def send(self, link, estimate, prepare):
        secret, why = wipe_tcg.psid(self.directory, self.serial)
        if secret is None:
            return {"accepted": "no", "why": why, "running": False, "answers": []}
        try:
            return answered([link.opal_psid_revert(secret)])
        finally:
            wipe_tcg.forget(secret)
