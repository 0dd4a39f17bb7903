# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Facts of devices as disk_info returns them, for tests of decisions. Constructed; valid for Python 3.6."""

import copy

from ansible_collections.sunset.crm.plugins.module_utils._disk import facts as disk_facts
from ansible_collections.sunset.crm.plugins.module_utils._wipe import keys as wipe_keys

GB = 10**9


def _fact(name, kind, transport, size, **more):
    fact = disk_facts.blank(name)
    fact.update(path="/dev/" + name, number="8:%d" % (sum(map(ord, name)) % 250), transport=transport, held="no", root="no", model="Sample")
    fact["class"] = kind
    fact["serial"] = "SER-" + name
    fact["identity"] = {"kind": "scsi", "serial": fact["serial"], "size": size}
    fact["sizes"].update(current=size, capacity=size)
    fact["blocks"].update(logical=512, physical=4096, metadata=0)
    fact["traits"].update(rotational="no", removable="no", read_only="no", self_encrypting="unknown", luks="no", emulated="no")
    for group in ("security", "sanitize", "format", "hidden", "tcg"):
        fact[group].update({key: "no" for key, value in fact[group].items() if value == "unknown"})
    fact["sanitize"]["state"] = "never"
    fact.update(copy.deepcopy(more))
    return fact


def nvme(name="nvme0n1", **sanitize):
    fact = _fact(name, "nvme", "nvme", 960 * GB, namespace=1, nguid="36344630525000010025384500000" + name[-3:].encode("ascii").hex()[:3])
    fact["identity"]["kind"] = "nvme"
    fact["subsystem"] = "nvme:nqn.example:" + name.split("n1")[0].split("n2")[0]
    fact["sanitize"].update(dict({"supported": "yes", "block": "yes", "crypto": "yes", "seconds": {"block": 60, "crypto": 4}}, **sanitize))
    fact["format"].update(supported="yes", crypto="yes")
    fact["sizes"].update(unallocated=0, namespaces=[{"nsid": 1, "bytes": 960 * GB}])
    fact["controller"] = {"several_controllers": "no"}
    return fact


def ata_ssd(name="sda", **more):
    fact = _fact(name, "ata-ssd", "sata", 500 * GB, ata=True, wwn="5002538e1234567" + name[-1].encode("ascii").hex()[-1], **more)
    fact["sanitize"].update(supported="yes", block="yes", crypto="yes")
    fact["security"].update(supported="yes", enhanced="yes", minutes=2, enhanced_minutes=8)
    return fact


def ata_hdd(name="sdb", **more):
    """An old turning disk: no sanitize, security erase alone."""
    fact = _fact(name, "ata-hdd", "sata", 4000 * GB, ata=True, wwn="5000c500a1b2c3d" + name[-1].encode("ascii").hex()[-1], **more)
    fact["traits"]["rotational"] = "yes"
    fact["security"].update(supported="yes", enhanced="yes", minutes=400, enhanced_minutes=400)
    return fact


def sas_hdd(name="sdc", **more):
    fact = _fact(name, "scsi-hdd", "sas", 8000 * GB, wwn="5000c500a1b2c3e" + name[-1].encode("ascii").hex()[-1], **more)
    fact["traits"]["rotational"] = "yes"
    fact["sanitize"].update(supported="yes", overwrite="yes", crypto="no")
    return fact


def virtual(name="vda", layer="virtio", **more):
    fact = _fact(name, "virtual", "virtio", 50 * GB, layer=layer, **more)
    fact["traits"].update(rotational="unknown", emulated="yes")
    return fact


def volume(name="dm-1", layer="lvm", size=10 * GB, **more):
    fact = _fact(name, "layer", "device-mapper", size, layer=layer, **more)
    fact["below"] = ["sda"]
    return fact


def usb(name="sdd", **more):
    return _fact(name, "usb", "usb", 32 * GB, **more)


def luks(**more):
    """A volume of LUKS2 that is all of a medium, as its header says it."""
    found = {
        "version": 2, "uuid": "u", "keyslots": ["0", "1"], "tokens": ["0 systemd-tpm2"], "header_bytes": 1 << 24, "secondary": "yes",
        "cipher": "aes-xts-plain64", "key_bits": 512, "whole": "yes", "data_bytes": None, "unfinished": "no", "strength": "yes",
    }  # fmt: skip
    return dict(found, **more)


def key_copy(place="header-backup", **more):
    said = {"place": place, "count": 1, "where": "the safe", "destroyed": "yes", "how": "shredded", "by": "Eva", "at": "2026-11-01"}
    return dict(said, **more)


def key_ledger(*copies, **more):
    """What a person signs of the keys of such a volume: every place is accounted for."""
    told = {copy["place"] for copy in copies}
    none = [name for name in wipe_keys.NAMES if name not in told]
    return dict(
        {"uuid": "u", "encrypted_from_start": "yes", "none": none, "copies": list(copies), "signer": "bob", "sha256": "a" * 64}, **more
    )
