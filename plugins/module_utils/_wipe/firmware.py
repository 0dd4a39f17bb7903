# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The firmware techniques of a purge: the list of them, what each may be called, and what a run of one was worth.

Private to the collection. Valid for Python 3.6, standard library; travels with the wipe job.

What is asked of a drive and what its log says is in ``_wipe.drives``; ``judge`` is a pure function over what was seen. NONE OF THESE
PATHS HAS EVER MET REAL HARDWARE (``met``): they are tested against a drive made of Python, on the level of the kernel's ioctls, which can
also lie.
"""

from typing import Any, Dict, List, Optional  # noqa: F401

from ansible_collections.sunset.crm.plugins.module_utils._wipe import judge as wipe_judge, keys as wipe_keys
from ansible_collections.sunset.crm.plugins.module_utils._wipe.drives import (
    QEMU,
    AtaSanitize,
    AtaSecurityErase,
    NvmeFormat,
    NvmeSanitize,
    ScsiSanitize,
    TcgRevert,
    Technique,  # noqa: F401  (in type comments)
)

OVERWRITE = wipe_judge.OVERWRITE
# Not by the drive but by the host, and yet no overwrite of the whole: the keys of an encryption above the device (another job).
LUKS_KEYS = wipe_keys.NAME
# Other names of the same techniques: "overwrite" is what an authorisation says, the rest the decision's own.
ALIASES = {"overwrite": OVERWRITE}
OVERWRITE_LIMIT, BLOCK_LIMIT = 16e9, 2e12  # bytes a second that no link, and no flash erase, can exceed
NOT_NAMED = "not named"


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
    TcgRevert("tcg-revert", "TCG Opal, revert by PSID", "crypto", _purge()),
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
    if name in (OVERWRITE, LUKS_KEYS) or name in TECHNIQUES:
        return None
    return "%r is no technique; expected one of %s" % (name, ", ".join([OVERWRITE, LUKS_KEYS] + sorted(TECHNIQUES)))


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
    if wipe_judge.is_virtual(found.get("kind"), found):
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
        speed = wipe_judge.judge_speed(size, trail.get("seconds"), technique.limit)
        reasons.extend(speed["reasons"] if speed else [])
    return {"verdict": "no" if reasons else "yes", "reasons": reasons, "exceptions": exceptions}


def changed(before, after):
    """Does the log say something else than before? The estimates may differ by themselves."""
    names = ("state", "action", "global_data_erased", "passes")
    return any(before.get(name) != after.get(name) for name in names)


def obstacles(technique, link, found):
    # type: (Technique, Any, Dict[str, Any]) -> Any
    """(reasons why the drive is not asked, what it says of itself). Only reads; nothing has been written yet."""
    kinds = {"nvme": ("nvme",), "ata": ("scsi",), "scsi": ("scsi",), "tcg": ("nvme", "scsi")}[technique.family]
    if found.get("kind") not in kinds:
        return ["%s is no technique for a device of the kind %s" % (technique.name, found.get("kind"))], {}
    probe = technique.probe(link, found)
    reasons = list(probe["reasons"])
    if probe["supported"] == "no":
        reasons.append("the drive does not know %s" % technique.text)
    # Not every SAS drive can say what it knows: those are asked, and refuse by themselves.
    if probe["supported"] == "unknown" and not reasons and technique.family != "scsi":
        reasons.append("it is not known whether the drive knows %s" % technique.text)
    return reasons, probe
