# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs inside the emulated machine, beside the code that travels with a wipe job: every technique on every kind of disk.

Prints one line ``RESULT {json}`` a case. test_wipe_emulated.py starts it and judges what it prints, and the disks from outside.
"""

import json
import os
import subprocess
import sys
import traceback

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from ansible_collections.sunset.crm.plugins.module_utils._disk import device as disk_device
from ansible_collections.sunset.crm.plugins.module_utils._wipe import (
    engine as wipe_engine,
    firmware as wipe_firmware,
    purge as wipe_purge,
    transport as wipe_transport,
)

KEY = "0123456789abcdef" * 4
SIZE = 32 << 20
SERIALS = {"NVME0001": "nvme", "SCSI0001": "scsi", "ATA0001": "ata"}
DISKS = {}
for name in os.listdir("/sys/block"):
    found = disk_device.identify("/dev/" + name)
    if found["size"] == SIZE:
        DISKS[SERIALS.get((found["serial"] or "").strip(), name)] = "/dev/" + name


def say(name, result):
    verification, firmware = result.get("verification") or {}, result.get("firmware") or {}
    told = {
        "case": name, "outcome": result["outcome"], "reasons": result["reasons"], "exceptions": result["exceptions"],
        "marks": verification.get("marks_before"), "left": verification.get("mismatches"), "accounting": result.get("accounting"),
        "called": (result.get("classes") or {}).get("called"), "sent": (firmware.get("trail") or {}).get("sent"),
        "seconds": result.get("seconds"),
    }  # fmt: skip
    print("RESULT " + json.dumps(told, sort_keys=True))
    sys.stdout.flush()


def purge(disk, technique, kind=wipe_purge.Purge, name=""):
    folder = "/tmp/%s-%s-%s" % (disk, technique, name)
    os.mkdir(folder)
    identity = disk_device.public_identity(disk_device.identify(DISKS[disk]))
    spec = {
        "device": DISKS[disk], "identity": identity, "key": KEY, "technique": technique,
        "poll_seconds": 0.5, "grace_seconds": 3, "stall_seconds": 120,
    }  # fmt: skip
    work = kind if technique != "overwrite-keyed" else wipe_engine.Wipe
    say(name or "%s %s" % (disk, technique), work(spec, folder).run())


class Forced(wipe_purge.Purge):
    """Asked although the drive says that it does not know it: what do its answers look like?"""

    def ready(self):
        real = wipe_firmware.obstacles
        wipe_firmware.obstacles = lambda *args: ([], dict(real(*args)[1] or {}, estimate=None))
        try:
            wipe_purge.Purge.ready(self)
        finally:
            wipe_firmware.obstacles = real


def foreign(act):
    class Foreign(Forced):
        def open(self):
            Forced.open(self)
            self.way.look = lambda link: {"state": "idle", "action": None, "progress": None, "raw": ""}
            self.way.send = lambda link, estimate, prepare: act(self, link)

    return Foreign


def shred(job, link):
    done = subprocess.run(
        [os.path.join(os.path.dirname(os.path.abspath(__file__)), "busybox"), "shred", job.spec["device"]],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    return {
        "accepted": "yes" if done.returncode == 0 else "no",
        "why": str(done.stdout[-200:]),
        "running": True,
        "answers": [{"rc": done.returncode}],
    }


def format_unit(job, link):
    answer = link.scsi(bytes(bytearray([0x04, 0, 0, 0, 0, 0])), timeout=120)
    return {"accepted": "yes" if answer.ok else "no", "why": answer.why, "running": True, "answers": [answer.record()]}


def main():
    print("DISKS " + json.dumps({name: disk_device.identify(path) for name, path in DISKS.items()}))
    for disk, path in sorted(DISKS.items()):
        fd = os.open(path, os.O_RDONLY)
        print("COUNTED %s %s" % (disk, json.dumps(wipe_transport.written_by_device(fd, disk_device.identify(fd)["kind"]))))
        os.close(fd)
    purge("nvme", "nvme-sanitize-block")
    purge("nvme", "nvme-sanitize-block", Forced, "forced nvme sanitize")
    purge("nvme", "nvme-format-ses2")
    purge("nvme", "nvme-format-ses1")
    purge("ata", "ata-sanitize-block")
    purge("ata", "ata-security-erase")
    purge("ata", "ata-security-erase", Forced, "forced ata security erase")
    purge("ata", "ata-security-erase-enhanced", Forced, "forced ata security erase enhanced")
    purge("ata", "ata-sanitize-block", Forced, "forced ata sanitize")
    purge("ata", "ata-sanitize-block", foreign(shred), "busybox shred")
    purge("scsi", "scsi-sanitize-block")
    purge("scsi", "scsi-sanitize-crypto")
    purge("scsi", "scsi-sanitize-block", foreign(format_unit), "format unit")
    purge("scsi", "scsi-sanitize-overwrite", Forced, "forced scsi overwrite")
    for disk in sorted(DISKS):
        purge(disk, "overwrite-keyed")


try:
    main()
except BaseException:
    traceback.print_exc()
