# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The firmware techniques of a purge: what is asked of the drive, what its own log says, and what that is worth.

Private to the collection. Valid for Python 3.6, standard library; travels with the wipe job.

Each technique has ``probe`` (may it be used here?), ``look`` (what does the drive's log say now?) and ``send``. None of them
decides what a run was worth: that is ``judge``, a pure function over what was seen. NONE OF THESE PATHS HAS EVER MET REAL
HARDWARE (``met``): they are tested against a drive made of Python, on the level of the kernel's ioctls, which can also lie.
"""

import hashlib
import struct
from typing import Any, Dict, List, Optional  # noqa: F401

try:
    from ansible_collections.sunset.crm.plugins.module_utils import _wipe_judge, _wipe_transport
except ImportError:  # as a job the file lies beside its helpers, without the collection
    import _wipe_judge  # type: ignore
    import _wipe_transport  # type: ignore

OVERWRITE = _wipe_judge.OVERWRITE
FAKE = "a protocol-level fake only, no real drive"
QEMU = "a protocol-level fake and QEMU's emulation, no real drive"
# What is refused by name: a weaker thing is never done under its name.
NOT_BUILT = {
    "tcg-revert": "reverting a self-encrypting drive is not built; use the maker's tool (sedutil-cli) and a waiver, or another technique",
    "luks-destroy-keys": "destroying LUKS keys alone is not built; overwrite the whole device (overwrite-keyed)",
}
# Other names of the same techniques: "overwrite" is what an authorisation says, the rest the decision's own.
ALIASES = {"overwrite": OVERWRITE}
OVERWRITE_LIMIT, BLOCK_LIMIT = 16e9, 2e12  # bytes a second that no link, and no flash erase, can exceed
NOT_NAMED = "not named"
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
    answer = link.ata(0xEC, protocol=_wipe_transport.ATA_PIO_IN, read=512)
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
                reasons.append("it has a password already, and not ours; take that away first")
        capable = identity["security_supported"] if identity["valid"] else None
        if capable and self.action == "enhanced":
            capable = identity["enhanced"]
        return support(capable, reasons, identity.get("seconds_" + self.action), identity=identity)

    def _block(self, flags):
        return struct.pack("<H", flags) + self.password.encode("ascii") + b"\0" * (510 - len(self.password))

    def _order(self, link, command, flags=0, timeout=60):
        return link.ata(command, protocol=_wipe_transport.ATA_PIO_OUT, data=self._block(flags), timeout=timeout)

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
        serial = link.scsi(b"\x12\x01\x80\x00\xff\x00", read=255)
        page = bytearray(serial.data)
        number = bytes(page[4 : 4 + page[3]]).decode("ascii", "replace").strip() if serial.ok and len(page) > 4 else ""
        reasons = []
        if number and found.get("serial") and found["serial"].strip() != number:
            reasons.append("the drive's serial is %r, the device's is %r" % (number, found["serial"]))
        return support(capable, reasons, serial=number, why=answer.why)

    def look(self, link):
        answer = link.scsi(b"\x03\x00\x00\x00\xfc\x00", read=252)
        seen = _wipe_transport.parse_sense(answer.data)
        triple = (seen["key"], seen["asc"], seen["ascq"])
        state = {(2, 0x04, 0x1B): "running", (3, 0x31, 0x03): "failed"}.get(triple, "idle" if seen["key"] == 0 else "unknown")
        state = state if answer.ok else "unknown"
        return {"state": state, "action": None, "progress": seen["progress"], "raw": hexadecimal(answer.data), "why": answer.why}

    def send(self, link, estimate, prepare):
        pattern = b"\x01\x00\x00\x04\x00\x00\x00\x00" if self.action == "overwrite" else b""  # one pass of four zero bytes
        command = bytearray([0x48, 0x80 | self.ACTIONS[self.action], 0, 0, 0, 0, 0, 0, len(pattern), 0])
        return answered([link.scsi(bytes(command), write=pattern)])


# --- the list --------------------------------------------------------------------------------------------------------


def _classes(r2, r1, ieee, flash_r1=None):
    return {"nist_800_88r2": r2, "nist_800_88r1": r1, "ieee_2883_2022": ieee, "flash_r1": flash_r1 or r1}


def _purge(flash_r1=None, r1="Purge"):
    return _classes("Purge", r1, "Purge", flash_r1)


_ALL = (
    NvmeSanitize("nvme-sanitize-crypto", "NVMe Sanitize, crypto erase", "crypto", _purge(r1=NOT_NAMED)),
    NvmeSanitize("nvme-sanitize-block", "NVMe Sanitize, block erase", "block", _purge(r1=NOT_NAMED), BLOCK_LIMIT),
    NvmeSanitize("nvme-sanitize-overwrite", "NVMe Sanitize, overwrite", "overwrite", _purge(r1=NOT_NAMED), OVERWRITE_LIMIT),
    NvmeFormat("nvme-format-ses1", "NVMe Format, user data erase (ses 1)", "ses1", _classes("Clear", "Purge", "Clear"), BLOCK_LIMIT, QEMU),
    NvmeFormat("nvme-format-ses2", "NVMe Format, crypto erase (ses 2)", "ses2", _classes("Clear", "Purge", "Clear"), None),
    AtaSanitize("ata-sanitize-crypto", "ATA Sanitize, crypto scramble", "crypto", _purge()),
    AtaSanitize("ata-sanitize-block", "ATA Sanitize, block erase", "block", _purge(), BLOCK_LIMIT),
    AtaSanitize("ata-sanitize-overwrite", "ATA Sanitize, overwrite", "overwrite", _purge("Clear"), OVERWRITE_LIMIT),
    AtaSecurityErase("ata-security-erase", "ATA Security Erase, normal", "normal", _classes("Clear", "Clear", "Clear"), BLOCK_LIMIT),
    AtaSecurityErase("ata-security-erase-enhanced", "ATA Security Erase, enhanced", "enhanced", _purge("Clear")),
    ScsiSanitize("scsi-sanitize-crypto", "SCSI Sanitize, cryptographic erase", "crypto", _purge()),
    ScsiSanitize("scsi-sanitize-block", "SCSI Sanitize, block erase", "block", _purge(), BLOCK_LIMIT),
    ScsiSanitize("scsi-sanitize-overwrite", "SCSI Sanitize, overwrite", "overwrite", _purge("Clear"), OVERWRITE_LIMIT),
)  # type: Any
TECHNIQUES = {technique.name: technique for technique in _ALL}  # type: Dict[str, Technique]


def canonical(name):
    # type: (str) -> str
    return ALIASES.get(name, name)


def unusable(name):
    # type: (str) -> Optional[str]
    """Why a technique of this name cannot be asked for; None if it can."""
    name = canonical(name)
    if name == OVERWRITE or name in TECHNIQUES:
        return None
    if name in NOT_BUILT:
        return "%s: %s" % (name, NOT_BUILT[name])
    return "%r is no technique; expected one of %s" % (name, ", ".join([OVERWRITE] + sorted(TECHNIQUES)))


def classes(technique, found):
    # type: (Technique, Dict[str, Any]) -> Dict[str, str]
    """What the technique may be called on this medium, per standard; where the standards differ, each its own word."""
    given = technique.classes
    flash = found.get("rotational") is not True  # unknown counts as flash: the weaker word
    named = {
        "nist_800_88r2": given["nist_800_88r2"], "nist_800_88r1": given["flash_r1"] if flash else given["nist_800_88r1"],
        "ieee_2883_2022": given["ieee_2883_2022"],
    }  # fmt: skip
    statement = (
        "The drive was asked to wipe itself, its own log was followed, and none of the keyed blocks that were put on it before "
        "could be read after. What it did inside rests on its maker's word. This way of wiping has met %s." % technique.met
    )
    if technique.action in ("crypto", "ses2"):
        statement += " It also rests on the maker's word that all that was ever written had been encrypted."
    if _wipe_judge.is_virtual(found.get("kind"), found):
        named = dict.fromkeys(named, "logical sanitisation")
        statement = "The device is virtual: it passed the command on to nobody. Copies in the layers below are not covered."
    called = named["nist_800_88r2"]
    return dict(
        named, technique="%s (%s)" % (technique.text, technique.name), statement=statement,
        called=called if called == "logical sanitisation" else "sanitisation (%s)" % called,
    )  # fmt: skip


# --- what a run was worth --------------------------------------------------------------------------------------------


def judge(technique, trail, size):
    # type: (Technique, Dict[str, Any], int) -> Dict[str, Any]
    """Pure: accepted command, progress seen, matching action, final state, possible speed. Any one that is missing: no.

    trail: ``before`` and ``final`` looks, ``sent`` (what ``send`` gave), ``running`` (how often it was seen at work),
    ``progress`` (the values seen), ``seconds`` from sending to the end, ``joined`` (somebody else had started it),
    ``stalled`` (why the watching ended early).
    """
    reasons, exceptions = [], []  # type: List[str], List[str]
    sent, final, before = trail.get("sent") or {}, trail.get("final") or {}, trail.get("before") or {}
    at_work = int(trail.get("running") or 0) > 0 or bool(sent.get("running"))
    if trail.get("joined"):
        exceptions.append("it was started by somebody else and joined, so no keyed blocks were there before")
    elif sent.get("accepted") != "yes":
        reasons.append("the drive did not take the command: %s" % (sent.get("why") or "no answer is known"))
    if trail.get("stalled"):
        reasons.append(trail["stalled"])
    wanted = "idle" if technique.blocking or technique.family == "scsi" else "succeeded"
    if final.get("state") != wanted:
        reasons.append("its log ends as %s, expected %s" % (final.get("state") or "unknown", wanted))
    if technique.reports_action and final.get("action") != technique.action:
        reasons.append("its log speaks of the action %s, %s was asked for" % (final.get("action") or "none", technique.action))
    if not technique.blocking and not at_work:
        if technique.action == "overwrite":
            reasons.append("instant success: an overwrite was never seen at work")
        elif not changed(before, final):
            reasons.append("its log says the same as before, and it was never seen at work: it may speak of an older run")
    steps = trail.get("progress") or []
    if technique.action == "overwrite" and not technique.blocking and int(trail.get("running") or 0) >= 10 and len(set(steps)) < 2:
        reasons.append("its progress never moved")
    if technique.limit and not trail.get("joined"):
        speed = _wipe_judge.judge_speed(size, trail.get("seconds"), technique.limit)
        reasons.extend(speed["reasons"] if speed else [])
    return {"verdict": "no" if reasons else "yes", "reasons": reasons, "exceptions": exceptions}


def changed(before, after):
    """Does the log say something else than before? The estimates may differ by themselves."""
    names = ("state", "action", "global_data_erased", "passes")
    return any(before.get(name) != after.get(name) for name in names)


def obstacles(technique, link, found):
    # type: (Technique, Any, Dict[str, Any]) -> Any
    """(reasons why the drive is not asked, what it says of itself). Only reads; nothing has been written yet."""
    kind = {"nvme": "nvme", "ata": "scsi", "scsi": "scsi"}[technique.family]
    if found.get("kind") != kind:
        return ["%s is no technique for a device of the kind %s" % (technique.name, found.get("kind"))], {}
    probe = technique.probe(link, found)
    reasons = list(probe["reasons"])
    if probe["supported"] == "no":
        reasons.append("the drive does not know %s" % technique.text)
    # Not every SAS drive can say what it knows: those are asked, and refuse by themselves.
    if probe["supported"] == "unknown" and not reasons and technique.family != "scsi":
        reasons.append("it is not known whether the drive knows %s" % technique.text)
    return reasons, probe
