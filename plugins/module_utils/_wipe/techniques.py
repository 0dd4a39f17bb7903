# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which techniques a medium has, what each is called by the standards, how long it takes, and why it has not the others. Pure.

Private to the collection; it may change at any time. Valid for Python 3.6.

Classes: NIST SP 800-88 Rev. 2 leaves the techniques to IEEE 2883 and adds logical sanitisation; ``class`` is the one of IEEE
2883-2022 as Seagate's published tools read it (the standard's text is not free), ``rev1`` that of the withdrawn Rev. 1, for
contracts that still name it; Rev. 1 does not name NVMe Sanitize, and its Purge of flash names neither an overwrite nor a security
erase. Where a reading says "possible Purge", the class is Clear.
"""

from typing import List, NamedTuple, Optional, Tuple

from ansible_collections.sunset.crm.plugins.module_utils._disk.words import NO, UNKNOWN, YES, Row
from ansible_collections.sunset.crm.plugins.module_utils._wipe import keys as wipe_keys

RANK = {"logical": 0, "clear": 1, "purge": 2}
# Bytes a second where the device tells no estimate: careful figures of plain devices of the class, named as assumed.
RATES = {
    "nvme": 800e6, "ata-ssd": 350e6, "scsi-ssd": 400e6, "ata-hdd": 140e6, "scsi-hdd": 160e6, "ata": 120e6, "scsi": 120e6, "emmc": 60e6,
    "sd-card": 15e6, "usb": 30e6, "virtual": 200e6, "layer": 200e6,
}  # fmt: skip

HIDDEN = (
    ("hpa", "lift the host protected area: set the native maximum (one change a power cycle)"),
    ("amac", "restore the accessible maximum address (one change a power cycle)"),
    ("dco", "restore the device configuration, after the host protected area is lifted"),
)
# What an overwrite of a virtual disk or a volume leaves besides the layers below.
LEFT = {
    "lvm": "snapshots of the volume",
    "lvm-thin": "snapshots, and blocks of the pool that it once had",
    "rbd": "snapshots, clones, the trash and mirrors of the image",
    "zvol": "snapshots and clones of the volume",
    "qcow2": "snapshots inside the image, its backing chain and bitmaps",
    "loop": "earlier places of the file",
}

Technique = NamedTuple(
    "Technique",
    [("id", str), ("klass", str), ("rev1", str), ("ieee2883", str), ("command", str), ("device_wide", bool)],
)

_OVERWRITE = "Clear, overwrite"
NOT_NAMED = "not named"
# Rev. 1 on USB sticks and memory cards: a pattern and then its complement.
TWO_PASSES = "none (it asks for two passes)"
# Purge under Rev. 1 on rotating media, Clear on flash.
CLEAR_ON_FLASH = ("ata-sanitize-overwrite", "scsi-sanitize-overwrite", "ata-security-erase-enhanced")
CATALOGUE = {
    one.id: one
    for one in (
        Technique("nvme-sanitize-block", "purge", NOT_NAMED, "Purge, sanitize block erase", "NVMe Sanitize, SANACT 2", True),
        Technique("nvme-sanitize-crypto", "purge", NOT_NAMED, "Purge, sanitize cryptographic erase", "NVMe Sanitize, SANACT 4", True),
        Technique("nvme-sanitize-overwrite", "purge", NOT_NAMED, "Purge, sanitize overwrite", "NVMe Sanitize, SANACT 3", True),
        Technique("nvme-format-ses2", "clear", "purge", "Clear, format with cryptographic erase (Purge where the vendor says so)", "NVMe Format, SES 2", False),
        Technique("nvme-format-ses1", "clear", "purge", "Clear, format with user data erase", "NVMe Format, SES 1", False),
        Technique("ata-sanitize-block", "purge", "purge", "Purge, sanitize block erase", "BLOCK ERASE EXT", True),
        Technique("ata-sanitize-crypto", "purge", "purge", "Purge, sanitize cryptographic erase", "CRYPTO SCRAMBLE EXT", True),
        Technique("ata-sanitize-overwrite", "purge", "purge", "Purge, sanitize overwrite", "OVERWRITE EXT", True),
        Technique("ata-security-erase-enhanced", "purge", "purge", "Purge, security erase enhanced", "SECURITY ERASE UNIT, enhanced", True),
        Technique("ata-security-erase", "clear", "clear", "Clear, security erase", "SECURITY ERASE UNIT", True),
        Technique("scsi-sanitize-block", "purge", "purge", "Purge, sanitize block erase", "SANITIZE, BLOCK ERASE", True),
        Technique("scsi-sanitize-crypto", "purge", "purge", "Purge, sanitize cryptographic erase", "SANITIZE, CRYPTOGRAPHIC ERASE", True),
        Technique("scsi-sanitize-overwrite", "purge", "purge", "Purge, sanitize overwrite", "SANITIZE, OVERWRITE", True),
        Technique("tcg-revert", "purge", "purge", "Purge, cryptographic erase by TCG Revert", "TCG Revert or PSID Revert", True),
        Technique("luks-destroy-keys", "purge", "purge", NOT_NAMED + ", keys above the device", "all key slots and headers destroyed", False),
        Technique("overwrite-keyed", "clear", "clear", _OVERWRITE, "one pass, keyed AES-256-CTR stream, all of it read back", False),
    )
}  # fmt: skip


class Choice(object):
    """The candidates of one device, and the reasons against the others."""

    def __init__(self, fact: Row, policy: Row) -> None:
        self.fact, self.policy = fact, policy
        self.techniques: List[Row] = []
        self.rejected: List[Row] = []

    def add(self, name: str, why: str, seconds: Optional[float], estimate: str, before: Tuple[Row, ...] = (), **more: str) -> None:
        one = CATALOGUE[name]
        row: Row = {
            "id": name,
            "class": one.klass,
            "rev1": one.rev1 if name not in CLEAR_ON_FLASH or self.fact["traits"].get("rotational") == YES else "clear",
            "ieee2883": one.ieee2883,
            "command": one.command,
            "why": why,
            "seconds": None if seconds is None else int(round(seconds)),
            "estimate": estimate,
            "before": list(before),
            "device_wide": one.device_wide,
        }
        row.update(more)
        self.techniques.append(row)

    def reject(self, name: str, why: str, known: bool = True) -> None:
        """known: the reason is a fact. Otherwise it may yet turn out that the technique is there."""
        self.rejected.append({"id": name, "class": CATALOGUE[name].klass, "why": why, "known": known})

    def by_fact(self, name: str, value: str, key: str) -> bool:
        """Reject by a three-valued capability; True where it is a yes."""
        if value == YES:
            return True
        if value == NO:
            self.reject(name, "the device says that it has it not")
        else:
            self.reject(name, "not known whether the device has it: %s" % (self.fact["why"].get(key) or "no reason given"), known=False)
        return False


def size_of(fact: Row) -> int:
    return int(fact["sizes"].get("native") or fact["sizes"].get("capacity") or fact["sizes"].get("current") or 0)


def step(name: str, what: str) -> Row:
    return {"id": name, "what": what}


def overwrite_seconds(fact: Row, policy: Row) -> Tuple[Optional[float], str]:
    """Write and read back."""
    size = fact["sizes"].get("current") or 0
    rate = policy.get("rate") or RATES.get(fact["class"])
    if not size or not rate:
        return None, "no estimate: its size or kind is not known"
    return 2.0 * size / rate, "write and read back at %s %d MB/s" % ("the measured" if policy.get("rate") else "an assumed", rate // 10**6)


def _unmeasured(action: str) -> Tuple[Optional[float], str]:
    return None, "the device tells no estimate; %s" % ("seconds as a rule" if action == "crypto" else "minutes as a rule")


def lifts(fact: Row) -> List[Row]:
    """What hides a part of the disk comes first: an overwrite does not reach it, and after an erase it could not be read back."""
    return [step("lift-" + key, what) for key, what in HIDDEN if fact["hidden"].get(key) == YES]


def sanitize(choice: Choice, family: str) -> None:
    fact = choice.fact
    group = fact["sanitize"]
    turning = fact["traits"].get("rotational") == YES
    order = ("overwrite", "crypto", "block") if turning else ("block", "crypto", "overwrite")
    for action in order:
        name = "%s-sanitize-%s" % (family, action)
        if not choice.by_fact(name, group.get(action, UNKNOWN), "sanitize." + action):
            continue
        before = lifts(fact)
        if group.get("frozen") == YES:
            before.append(step("thaw-sanitize", "the drive is frozen for sanitize: power-cycle this drive (a warm restart is not enough)"))
        if group.get("state") == "failed":
            before.append(
                step(
                    "leave-failure",
                    "the last sanitize failed: exit the failure state, then start again; until then the drive refuses all else",
                )
            )
        told = (group.get("seconds") or {}).get(action)
        seconds: Optional[float] = None
        if told:
            seconds, estimate = float(told), "the device's own estimate"
        elif action == "overwrite" and size_of(fact):
            rate = RATES.get(fact["class"], 120e6)
            seconds, estimate = size_of(fact) / rate, "one pass inside the drive at an assumed %d MB/s" % (rate // 10**6)
        else:
            seconds, estimate = _unmeasured(action)
        why = "the firmware's own sanitize reaches spare, reallocated and cached areas too"
        if action == "crypto":
            why += "; rests on the drive's word that all data was encrypted, so a watermark is read before and after"
        if group.get("state") == "running":
            why += "; one is running already: it is joined, not started"
        choice.add(name, why, seconds, estimate, tuple(before))


def nvme_format(choice: Choice) -> None:
    fact = choice.fact["format"]
    for name, key in (("nvme-format-ses2", "crypto"), ("nvme-format-ses1", "supported")):
        if choice.by_fact(name, fact.get(key, UNKNOWN), "format." + key):
            wide = fact.get("all_namespaces") != NO or fact.get("erase_all_namespaces") != NO
            choice.add(name, "erases with an explicit setting; without it Format erases nothing", *_unmeasured(key))
            choice.techniques[-1]["device_wide"] = wide


def ata_security(choice: Choice) -> None:
    fact = choice.fact
    group = fact["security"]
    for name, key, minutes in (
        ("ata-security-erase-enhanced", "enhanced", group.get("enhanced_minutes")),
        ("ata-security-erase", "supported", group.get("minutes")),
    ):
        if not choice.by_fact(name, group.get(key, UNKNOWN), "security." + key):
            continue
        if group.get("enabled") == YES:
            choice.reject(name, "a password is set that is not ours; erase needs it. Have it removed by who set it, or destroy the drive")
            continue
        if UNKNOWN in (group.get("enabled"), group.get("locked"), group.get("frozen")):
            choice.reject(name, "not known whether the drive is enabled, locked or frozen", known=False)
            continue
        before = [
            step(
                "record-password",
                "the password is written to the estate's evidence before it is set: a power cut leaves the drive locked with it",
            )
        ]
        if group.get("count_expired") == YES:
            before.insert(0, step("reset-count", "the count of attempts is spent: power-cycle the drive"))
        if group.get("frozen") == YES:
            before.insert(
                0, step("thaw-security", "the firmware froze the drive: suspend to RAM and resume, or power-cycle the drive's slot")
            )
        before = lifts(fact) + before
        seconds = minutes * 60.0 if minutes else None
        choice.add(
            name,
            "reaches reallocated sectors too; blocks the drive until its end, cannot be followed, and must be judged by reading back",
            seconds, "the drive's own estimate" if minutes else "the drive tells no estimate", tuple(before),
        )  # fmt: skip


def tcg_revert(choice: Choice) -> None:
    """By the PSID alone: it needs no password of the drive's owner, and it is the drive itself that shows it, on its label."""
    fact = choice.fact
    group = fact["tcg"]
    if not choice.by_fact("tcg-revert", group.get("present", UNKNOWN), "tcg.present"):
        return
    ssc = group.get("ssc") or []
    if ssc and all(one.startswith("pyrite") for one in ssc):
        choice.reject("tcg-revert", "a Pyrite drive does not encrypt: revert only lifts the lock")
    elif group.get("media_encryption") != YES:
        choice.reject("tcg-revert", "the drive does not say that it encrypts its media", known=group.get("media_encryption") == NO)
    elif ssc and not any(one.startswith("opal-") for one in ssc):
        choice.reject("tcg-revert", "Linux reverts Opal drives only, this one is %s: use its maker's tool and a waiver" % ", ".join(ssc))
    elif YES not in (choice.policy.get("tcg_credential"), group.get("credential")):
        choice.reject(
            "tcg-revert",
            "its PSID (printed on the label) is not on the machine where it is wiped; put it there, then decide again",
            known=False,
        )
    else:
        before = []
        if YES in (group.get("locked"), group.get("mbr_enabled")):
            before.append(
                step(
                    "open-by-revert",
                    "it is locked, or shows a shadow: it is reverted once to be opened, gets keyed blocks, and is reverted again",
                )
            )
        why = "new media keys: what lies on the drive can no longer be decrypted; rests on the drive's word that all of it was encrypted"
        choice.add("tcg-revert", why, 5.0, "seconds", tuple(before))


def luks_keys(choice: Choice) -> None:
    """Never where data was stored before the encryption, where the cipher does not hold, or where a copy of a key is not accounted for."""
    fact = choice.fact
    if not fact.get("luks"):
        return
    ledger: Row = choice.policy.get("luks") or {}
    told = wipe_keys.header_problems(fact["luks"])
    open_questions = [row["why"] for row in told if not row["known"]] + wipe_keys.ledger_problems(ledger, fact["luks"].get("uuid"))
    problems = [row["why"] for row in told if row["known"]] + open_questions
    if problems:
        choice.reject("luks-destroy-keys", "; ".join(problems), known=len(problems) > len(open_questions))
        return
    slots, tokens, copies = fact["luks"]["keyslots"], fact["luks"]["tokens"], ledger["copies"]
    turning = {YES: True, NO: False}.get(fact["traits"].get("rotational"))
    given = wipe_keys.reached(ledger, turning, fact["class"] in ("virtual", "layer"))
    choice.add(
        "luks-destroy-keys",
        "all keys of the volume cease to exist: %d slots, %d tokens, %d copies in the ledger; %s" % (len(slots), len(tokens), len(copies), given["why"]),
        60.0, "header and key slots are overwritten and read back", (),
    )  # fmt: skip
    row = choice.techniques[-1]
    row.update({"class": given["class"], "rev1": given["class"], "ledger": {"keyslots": slots, "tokens": tokens, "copies": copies}})
    if given["class"] == "logical":
        row.update(rev1="none", ieee2883="none: logical sanitisation (NIST SP 800-88 Rev. 2)")
    row["not_reached"] = ["the ciphertext itself: it stays, and a forgotten copy of the header area opens it"]


def overwrite(choice: Choice) -> None:
    """The host's own overwrite: what it does not reach is named, never left out."""
    fact, policy = choice.fact, choice.policy
    name = "overwrite-keyed"
    logical = fact["blocks"].get("logical")
    if logical not in (512, 4096):
        choice.reject(
            name, "sectors of %s bytes: the kernel cannot write them. Sanitise by the firmware first, reformat to 512 only after" % logical
        )
        return
    if not fact["sizes"].get("current"):
        choice.reject(name, "the kernel shows no bytes to write")
        return
    if fact["layer"] == "lvm-thin-pool":
        choice.reject(name, "a thin pool is never filled up")
        return
    if fact["layer"] == "lvm-thin" and not _fits(choice):
        return
    seconds, estimate = overwrite_seconds(fact, policy)
    before = lifts(fact)
    choice.add(name, "every addressable byte, read back against a stream that no device can invent", seconds, estimate, tuple(before))
    row = choice.techniques[-1]
    if fact["class"] in ("virtual", "layer"):
        row.update({"class": "logical", "rev1": "none", "ieee2883": "none: logical sanitisation (NIST SP 800-88 Rev. 2)"})
        row["why"] = "one generation of a virtual disk's blocks; snapshots, chains, thin areas and the physical disks below are not reached"
    elif fact["class"] == "sd-card" or (fact["class"] == "usb" and fact["traits"].get("rotational") != YES):
        row["rev1"] = TWO_PASSES
    row["not_reached"] = not_reached(fact)


def _fits(choice: Choice) -> bool:
    """Writing all of a thin volume takes space from its pool; a full pool stops everybody on it."""
    thin = choice.fact.get("thin") or {}
    size = choice.fact["sizes"].get("current") or 0
    reserve = choice.policy.get("pool_reserve", 0.2)
    if thin.get("mapped") is None or thin.get("data_bytes") is None or thin.get("data_used") is None:
        choice.reject("overwrite-keyed", "a thin volume whose pool does not tell its free space; a pool is never filled up", known=False)
        return False
    new = max(0, size - thin["mapped"])
    free = thin["data_bytes"] - thin["data_used"]
    if new > free - reserve * thin["data_bytes"]:
        choice.reject(
            "overwrite-keyed",
            "overwriting it would take %d MB of the pool %s, which has %d MB free; a pool is never filled up. Remove what else lies on it, or "
            "wipe the disks below the pool" % (new // 10**6, thin.get("pool"), free // 10**6),
        )  # fmt: skip
        return False
    return True


def not_reached(fact: Row) -> List[str]:
    """What an overwrite through the block layer leaves, as far as it is known; unknown is named too."""
    found = []
    if fact["class"] in ("virtual", "layer"):
        return ["all layers below this device"] + ([LEFT[fact["layer"]]] if fact["layer"] in LEFT else [])
    for key, what in (
        ("hpa", "a host protected area"),
        ("dco", "a device configuration overlay"),
        ("amac", "an area above the accessible maximum"),
    ):
        if fact["hidden"].get(key) == UNKNOWN:
            found.append("%s, if there is one: %s" % (what, fact["why"].get("hidden." + key, "not known")))
    if fact["class"] == "nvme":
        free = fact["sizes"].get("unallocated")
        if free:
            found.append("%d bytes outside of all namespaces" % free)
        elif free is None:
            found.append("capacity outside of namespaces, if there is any: the controller does not tell")
    if fact["traits"].get("rotational") != YES:
        found.append("spare and reallocated flash")
    else:
        found.append("reallocated sectors")
    if fact["class"] == "emmc":
        found.append("boot partitions and RPMB")
    return found


def gather(fact: Row, policy: Row) -> Choice:
    """All candidates of a device by its kind."""
    choice = Choice(fact, policy)
    kind = fact["class"]
    direct = kind not in ("virtual", "layer", "usb", "emmc", "sd-card", "unknown")
    if kind == "nvme":
        sanitize(choice, "nvme")
        nvme_format(choice)
    elif direct and fact.get("ata"):
        sanitize(choice, "ata")
        ata_security(choice)
    elif direct and kind.startswith("scsi"):
        sanitize(choice, "scsi")
    if direct:
        tcg_revert(choice)
    luks_keys(choice)
    overwrite(choice)
    if kind == "usb":
        for name in ("ata-sanitize-block", "ata-security-erase-enhanced"):
            choice.reject(
                name, "behind a USB bridge: bridges swap serials and lose commands; take the drive out of its case to have it sanitised"
            )
    if kind in ("emmc", "sd-card"):
        choice.reject(
            "overwrite-keyed" if not choice.techniques else "nvme-sanitize-block",
            "cards: no firmware technique of theirs is carried out here",
        )
        choice.rejected[-1]["id"] = "card-sanitize"
    if direct and kind != "nvme" and (fact["security"].get("locked") == YES):
        _locked(choice)
    if fact["tcg"].get("locked") == YES:
        _shadowed(choice)
    return choice


def _locked(choice: Choice) -> None:
    """A locked ATA drive refuses reads, writes and sanitize alike."""
    for row in choice.techniques:
        if row["id"] != "tcg-revert":
            choice.reject(row["id"], "the drive is locked with a password; have it unlocked by who set it, or destroy the drive")
    choice.techniques = [row for row in choice.techniques if row["id"] == "tcg-revert"]


def _shadowed(choice: Choice) -> None:
    """A locked Opal drive shows a small shadow disk instead of its data: an overwrite would wipe that alone."""
    kept = []
    for row in choice.techniques:
        if row["id"] in ("overwrite-keyed", "luks-destroy-keys"):
            choice.reject(row["id"], "the drive is locked by TCG; what can be written is not its data. Unlock it, or revert it by its PSID")
        else:
            kept.append(row)
    choice.techniques = kept
