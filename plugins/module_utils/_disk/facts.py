# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The facts of every block device of this machine: put together from the kernel, the device's own answers, and what stands on it.

Private to the collection; it may change at any time. Valid for Python 3.6. Reads only. The shape is in the documentation
of the module ``disk_info``.

``read(ask=True)``              everything
``fact_of(name, block, stack)`` pure: what the kernel alone tells of one device
"""

import os
import re
from typing import Any, List, Optional, Tuple

from ansible_collections.sunset.crm.plugins.module_utils._disk import (
    ask as disk_ask,
    device as disk_device,
    probe as disk_probe,
    scsi as disk_scsi,
    signs as disk_signs,
    text as disk_text,
    world as disk_world,
)
from ansible_collections.sunset.crm.plugins.module_utils._disk.stack import Stack
from ansible_collections.sunset.crm.plugins.module_utils._disk.words import NO, UNKNOWN, YES, Row, all_unknown, clean, either, tri

SCHEMA = 1
# Classes whose devices have something to tell of themselves.
ASKED = ("nvme", "ata", "ata-hdd", "ata-ssd", "scsi", "scsi-hdd", "scsi-ssd", "usb", "raid-volume")
LAYERS = (
    "partition",
    "lvm",
    "lvm-thin",
    "lvm-thin-pool",
    "lvm-internal",
    "dm-crypt",
    "multipath",
    "dm",
    "md",
    "bcache",
    "drbd",
    "card-area",
)
TRANSPORTS = (
    (r"/usb\d", "usb"), (r"/session\d", "iscsi"), (r"/rport-", "fc"), (r"/(expander|end_device|sas_host|phy)-", "sas"), (r"/ata\d+/", "sata"),
    (r"/virtio\d", "virtio"), (r"/vmbus|/VMBUS", "virtual"), (r"/nvme", "nvme"), (r"/mmc\d", "mmc"),
)  # fmt: skip
# Values of groups that do not exist for a class of devices: no, not unknown.
ATA_ONLY = ("security", "hidden")


def blank(name: str) -> Row:
    return {
        "name": name, "path": None, "number": None, "class": "unknown", "layer": None, "transport": "unknown",
        "vendor": None, "model": None, "serial": None, "wwn": None, "eui64": None, "nguid": None, "firmware": None,
        "identity": {}, "subsystem": None, "multipath": None, "over": None, "luks": None, "namespace": None, "controller": None, "ata": False,
        "sizes": {"current": None, "capacity": None, "native": None, "accessible_max": None, "unallocated": None, "namespaces": None},
        "blocks": {"logical": None, "physical": None, "metadata": None},
        "traits": all_unknown(("rotational", "removable", "read_only", "self_encrypting", "luks", "emulated")),
        "security": dict(
            all_unknown(("supported", "enabled", "locked", "frozen", "count_expired", "enhanced")),
            minutes=None, enhanced_minutes=None, master_id=None,
        ),
        "sanitize": dict(all_unknown(("supported", "block", "crypto", "overwrite", "frozen", "state")), progress=None, seconds={}),
        "format": all_unknown(("supported", "crypto", "all_namespaces", "erase_all_namespaces")),
        "hidden": all_unknown(("hpa", "dco", "amac")),
        "tcg": dict(all_unknown(("present", "locking_supported", "locking_enabled", "locked", "media_encryption", "mbr_enabled")), ssc=[]),
        "below": [], "above": [], "contents": [], "thin": {}, "holders": [], "held": UNKNOWN, "root": UNKNOWN,
        "sources": {}, "raw": {}, "why": {},
    }  # fmt: skip


def transport_of(path: str, name: str) -> str:
    if name.startswith(("vd", "xvd")):
        return "virtio" if name.startswith("vd") else "xen"
    for pattern, word in TRANSPORTS:
        if re.search(pattern, path):
            return word
    return "unknown"


def classify(name: str, block: Row, layer: Optional[str], transport: str) -> Tuple[str, Optional[str]]:
    """(class, layer) by what the kernel tells; the device's own answers refine it afterwards."""
    if layer in LAYERS:
        return "layer", layer
    if layer in ("loop", "zvol"):
        return "virtual", layer
    for pattern, kind, what in (
        (r"^(zram|ram|pmem)\d", "memory", None), (r"^(sr|fd)\d", "optical", None), (r"^rbd\d", "virtual", "rbd"), (r"^nbd\d", "virtual", "nbd"),
        (r"^vd[a-z]", "virtual", "virtio"), (r"^xvd[a-z]", "virtual", "xen"),
    ):  # fmt: skip
        if re.match(pattern, name):
            return kind, what
    if name.startswith("mmcblk"):
        return ("emmc" if (block.get("mmc_type") or "").upper() == "MMC" else "sd-card"), None
    if disk_scsi.is_emulated(block.get("vendor"), block.get("model")):
        return "virtual", "emulated"
    if name.startswith("nvme"):
        return ("nvme", None) if transport == "nvme" else ("virtual", "fabric")
    if transport in ("iscsi", "fc"):
        return "virtual", "lun"
    if transport == "usb":
        return "usb", None
    if disk_scsi.is_raid_volume(block.get("vendor"), block.get("model")):
        return "raid-volume", None
    if re.match(r"^(sd|sg)", name):
        return "scsi", None
    return "unknown", None


def refine(fact: Row) -> None:
    """ATA and SCSI disks by whether they turn, and volumes and emulations by the name that the device itself told."""
    if fact["class"] in ("scsi", "nvme") and disk_scsi.is_emulated(fact["vendor"], fact["model"]):
        fact["class"], fact["layer"] = "virtual", "emulated"
    elif fact["class"] == "scsi" and not fact["ata"] and disk_scsi.is_raid_volume(fact["vendor"], fact["model"]):
        fact["class"] = "raid-volume"
    if fact["class"] == "scsi":
        kind = "ata" if fact["ata"] else "scsi"
        fact["class"] = kind + {YES: "-hdd", NO: "-ssd"}.get(fact["traits"]["rotational"], "")
    if fact["class"] == "nvme":
        fact["traits"]["rotational"] = NO
    if fact["class"] == "usb" and "rotational" not in fact["sources"]:
        fact["traits"]["rotational"] = UNKNOWN
        fact["why"]["traits.rotational"] = "it does not tell, and the kernel says of every disk behind USB that it turns"
    if fact["class"] in ("virtual", "layer", "memory"):
        fact["traits"]["rotational"] = UNKNOWN
        fact["why"]["traits.rotational"] = "it is not a medium of its own"


def fact_of(name: str, block: Row, stack: Stack) -> Row:
    """What the kernel alone tells of one device."""
    fact = blank(name)
    transport = transport_of(block.get("path") or "", name)
    layer = stack.layer(name)
    fact["class"], fact["layer"] = classify(name, block, layer, transport)
    if fact["class"] == "layer":
        transport = {"partition": transport, "md": "md"}.get(
            layer or "", "device-mapper" if block.get("dm_uuid") is not None else str(layer)
        )
    fact.update(
        path=block.get("node"), number=block.get("number"), transport={"loop": "loop"}.get(layer or "", transport),
        vendor=block.get("vendor"), model=block.get("model"), serial=block.get("serial"), firmware=block.get("firmware"),
        below=stack.below(name), above=stack.above(name), multipath=stack.multipath(name), root=stack.carries_root(name),
    )  # fmt: skip
    if block.get("loop_file") and not fact["serial"]:
        fact["serial"] = disk_device.stem(block["loop_file"])  # as the identity says it, where there is a node to read it from
    if block.get("loop_whole"):
        fact["over"] = block["loop_file"]
    if re.match(r"^0x[0-9a-f]{4}$", fact["vendor"] or ""):
        fact["vendor"] = None  # a number of the bus, no maker's name
    _names_of_kernel(fact, block)
    fact["sizes"]["current"] = block.get("bytes")
    fact["blocks"].update(logical=block.get("logical"), physical=block.get("physical"))
    fact["traits"].update(
        rotational=tri(None if block.get("rotational") is None else bool(block["rotational"])),
        removable=tri(None if block.get("removable") is None else bool(block["removable"])),
        read_only=tri(None if block.get("ro") is None else bool(block["ro"])),
        emulated=tri(fact["class"] == "virtual" or transport == "virtio"),
    )
    fact["sources"].update(sizes="kernel", names="kernel", stack="kernel", holders="kernel")
    fact["holders"] = stack.holders(name)
    held = stack.held(name, fact["holders"])
    fact["held"] = held["verdict"]
    if held["why"]:
        fact["why"]["held"] = held["why"]
    if fact["root"] == UNKNOWN:
        fact["why"]["root"] = stack.snapshot.get("root", {}).get("why") or "the root file system cannot be traced to a device"
    return fact


def _names_of_kernel(fact: Row, block: Row) -> None:
    wwid = (block.get("wwid") or "").lower()
    if wwid.startswith("naa."):
        fact["wwn"] = wwid[4:]
    elif wwid.startswith("eui."):
        fact["nguid" if len(wwid) == 36 else "eui64"] = wwid[4:]
    for field, source in (("nguid", "nguid"), ("eui64", "eui")):
        value = re.sub(r"[^0-9a-f]", "", (block.get(source) or "").lower())
        if value and value.strip("0"):
            fact[field] = value
    if block.get("subnqn"):
        fact["subsystem"] = "nvme:" + block["subnqn"]


def not_applicable(fact: Row) -> None:
    """What a class of device cannot have is a no. For a virtual device or a layer nothing below is known: unknown stays, with the reason."""
    kind = fact["class"]
    if kind in ("layer", "memory", "optical") or (kind == "virtual" and not fact["name"].startswith(("sd", "sg", "nvme"))):
        for group in ("security", "sanitize", "format", "tcg"):
            fact[group].update({name: NO for name, value in fact[group].items() if value == UNKNOWN})
        fact["sanitize"]["state"] = "never"
        fact["hidden"].update({name: NO for name, value in fact["hidden"].items() if value == UNKNOWN})
        fact["sources"]["capabilities"] = "none: it is no medium that takes commands of its own"
        return
    if kind == "nvme" or fact["name"].startswith("nvme"):
        for group in ATA_ONLY:
            fact[group].update({name: NO for name, value in fact[group].items() if value == UNKNOWN})
    else:
        fact["format"].update({name: NO for name, value in fact["format"].items() if value == UNKNOWN})
    if kind in ("emmc", "sd-card"):
        for group in ATA_ONLY + ("tcg",):
            fact[group].update({name: NO for name, value in fact[group].items() if value == UNKNOWN})
        disk_probe.unknown(fact, "sanitize", "the extended registers of cards are not read")
    if fact["tcg"].get("present") == NO:
        fact["tcg"].update({name: NO for name, value in fact["tcg"].items() if value == UNKNOWN})
        if fact["traits"]["self_encrypting"] == UNKNOWN and not fact["ata"] and kind != "nvme":
            fact["why"]["traits.self_encrypting"] = "it has no TCG; whether it encrypts otherwise it does not say"


def explain(fact: Row) -> None:
    """No unknown without a reason, and no reason for what is known."""
    for name in sorted(fact["why"]):
        group, _dot, field = name.partition(".")
        if (
            field
            and isinstance(fact.get(group), dict)
            and group not in ("sizes",)
            and fact[group].get(field) != UNKNOWN
            and fact["why"][name]
        ):
            if not (name == "security.frozen"):
                del fact["why"][name]
    general = fact["why"].get("device") or (
        "there is no device node here to ask it by" if not fact["path"] else "the device was not asked, or does not tell"
    )
    for group in ("traits", "security", "sanitize", "format", "hidden", "tcg"):
        disk_probe.unknown(fact, group, general)


def on_the_device(fact: Row) -> None:
    """Signatures and the LUKS header."""
    size = fact["sizes"]["current"]
    if not fact["path"] or not size or fact["class"] == "optical":
        fact["why"]["contents"] = "there is no device node here, or nothing that is read"
        fact["why"]["traits.luks"] = fact["why"]["contents"]
        return
    with disk_ask.Device(fact["path"]) as device:
        if device.fd < 0:
            fact["why"]["contents"] = fact["why"]["traits.luks"] = device.why
            return
        read, problems = disk_signs.reader(device.fd)
        fact["contents"] = disk_signs.contents(read, size)
        fact["luks"] = disk_signs.luks(read)
        fact["traits"]["luks"] = tri(None if problems and not fact["luks"] else bool(fact["luks"]))
        if problems:
            fact["why"]["contents"] = "; ".join(problems[:3])


def public(fact: Row) -> None:
    """The identity that plan, authorisation and the wipe compare, from the one function that they all use."""
    if not fact["path"]:
        return
    found = disk_device.identify(fact["path"])
    if found.get("found") == "yes":
        fact["identity"] = disk_device.public_identity(found)
        fact["serial"] = fact["serial"] or clean(found.get("serial"))


def thin(fact: Row, stack: Stack) -> None:
    if fact["layer"] not in ("lvm-thin", "lvm-thin-pool"):
        return
    # A pool shows two devices: the one that its volumes use, and a plain one on top of it that carries its name.
    pool = next((one for one in [fact["name"]] + fact["below"] if (stack.blocks[one].get("dm_uuid") or "").endswith("-tpool")), "")
    if not pool:
        fact["why"]["thin"] = "its pool cannot be found"
        return
    fact["thin"] = dict(disk_world.thin_pool(stack.blocks[pool]["number"]), pool=stack.blocks[pool].get("dm_name") or pool)
    if fact["layer"] == "lvm-thin":
        fact["thin"]["mapped"] = disk_world.thin_volume(fact["number"])


def share(facts: List[Row]) -> None:
    """What several devices have in common: namespaces of one subsystem, and paths of one drive."""
    for fact in facts:
        if fact["subsystem"]:
            continue
        if fact["class"] == "layer" or not (fact["wwn"] or fact["serial"]):
            continue
        if fact["transport"] not in ("loop", "virtio", "xen"):
            fact["subsystem"] = "wwn:" + fact["wwn"] if fact["wwn"] else "serial:%s:%s:%s" % (fact["vendor"], fact["model"], fact["serial"])


def without_block(seen: Any) -> List[Row]:
    """SCSI disks that the kernel made no block device for: disks below a RAID controller, sectors of a size that it does not take."""
    found = []
    for name in disk_world.names("/sys/class/scsi_generic"):
        base = "/sys/class/scsi_generic/%s/device" % name
        if disk_world.read(base + "/type") not in ("0", "14") or disk_world.names(base + "/block"):
            continue
        number = disk_world.read("/sys/class/scsi_generic/%s/dev" % name)
        block: Row = {field: clean(disk_world.read("%s/%s" % (base, field))) for field in ("vendor", "model")}
        fact = blank(name)
        path = os.path.realpath(base)
        fact.update(
            path="/dev/" + name if os.path.exists("/dev/" + name) else None, number=number, transport=transport_of(path, name), **block
        )
        fact["class"], fact["layer"] = classify(name, block, None, fact["transport"])
        fact["why"]["held"] = "it has no block device of its own; a volume of its controller may lie on it"
        fact["why"]["root"] = fact["why"]["held"]
        fact["sources"]["names"] = "kernel"
        if seen and fact["path"]:
            disk_probe.ask(fact, "/sys/class/scsi_generic/" + name)
        refine(fact)
        not_applicable(fact)
        explain(fact)
        found.append(fact)
    return found


def akin(blocks: Any, number: str) -> List[str]:
    """Pure: the device with this number, and what the kernel shows to be the same drive by another path or name."""
    mine: Row = next((block for block in blocks.values() if block.get("number") == number), {})
    told = [field for field in ("number", "wwid", "nguid", "eui", "subnqn") if mine.get(field)]
    return sorted(name for name, block in blocks.items() if any(block.get(field) == mine[field] for field in told))


def concerned(stack: Stack, number: str) -> List[str]:
    """Pure: what a decision about the device with this number looks at: the drive by all its names, a twin by its serial number, and
    whatever these stand on or carry."""
    blocks = stack.blocks
    names = set(akin(blocks, number))
    serials = {blocks[name].get("serial") for name in names} - {None}
    names |= {name for name, block in blocks.items() if block.get("serial") in serials}
    return sorted(names.union(*(stack.above(name) + stack.below(name) for name in names)))


def read(ask: bool = True, number: Optional[str] = None, node: Optional[str] = None, claim: bool = True) -> Row:
    """Every device of this machine. number: only that device, and what is the same drive, is asked and claimed: a question to another one
    could stand behind an erase that blocks it for hours. node: where that device has its node, if not at its usual place. claim: without
    it no device is claimed even for a moment, and none is ever called free."""
    snapshot = disk_world.snapshot({number: node} if number and node else {})
    stack = Stack(snapshot)
    asked = None if number is None else akin(snapshot["blocks"], number)
    claimed = [] if not claim else sorted(snapshot["blocks"]) if number is None else concerned(stack, number)
    snapshot["exclusive"] = {name: disk_world.exclusive(name, snapshot["blocks"][name]["node"]) for name in claimed}
    facts = []
    for name in sorted(snapshot["blocks"]):
        block = snapshot["blocks"][name]
        if block.get("hidden"):
            continue  # a path of NVMe's own multipath; its head is in the list
        fact = fact_of(name, block, stack)
        if ask and fact["path"] and (asked is None or name in asked):
            if fact["class"] in ASKED or (fact["class"] == "virtual" and name.startswith(("sd", "nvme"))):
                disk_probe.ask(fact, block["sysfs"])
                disk_text.fill(fact)
            on_the_device(fact)
        refine(fact)
        public(fact)
        thin(fact, stack)
        not_applicable(fact)
        explain(fact)
        facts.append(fact)
    facts += without_block(ask and asked is None)
    share(facts)
    # A path that is gone mid-way, a controller that several namespaces share: who belongs together is told once, for all.
    incomplete = ["%s: %s" % (part, why) for part, why in sorted(snapshot["incomplete"].items())]
    return {
        "schema": SCHEMA,
        "machine": {
            "machine_id": disk_world.read("/etc/machine-id"),
            "virtual": disk_world.virtual_machine(),
            "container": tri("machine" in snapshot["incomplete"]),
        },
        "complete": {"verdict": either(NO if not incomplete else UNKNOWN) if incomplete else YES, "why": incomplete},
        "root": snapshot["root"],
        "devices": facts,
    }
