# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A simulated Proxmox VE cluster as a process of its own: python -m tests.scenarios.simulated FOLDER; ends with SIGTERM."""

from __future__ import annotations

import json
import signal
import sys
import threading
from pathlib import Path

from tests.lab import paths as lab

sys.path.insert(0, str(lab.TOP / ".collections"))

from tests.integration import pve_fake

PARTS = {"calm": 100, "torn": 110, "kept": 120}
"""Each part has a virtual machine of this number, and a container of the next."""


def main(folder: Path) -> None:
    over = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: over.set())
    with pve_fake.serving(folder, answers="real") as one:
        one.grant()
        for part, number in PARTS.items():
            one.pve.add_vm(
                number, f"{part}-vm", node="pve1", status="running", config={"onboot": 1, "scsi0": f"local-lvm:vm-{number}-disk-0"}
            )
            one.pve.add_ct(number + 1, f"{part}-ct", node="pve2", status="running", config={"onboot": 1})
        half = folder / "ready.part"
        half.write_text(json.dumps(one.api()))
        half.rename(folder / "ready")
        over.wait()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
