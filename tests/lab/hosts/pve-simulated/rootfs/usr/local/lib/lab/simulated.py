# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A SIMULATED Proxmox VE cluster of three nodes: an API over HTTPS and nothing behind it. Its state outlives a power-off in a file.

After a boot it does what the nodes would do: it starts the guests that are to be started at boot, and those that HA wants to run.
"""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path
from typing import Any

from pve_fake import ALL_RIGHTS, TOKEN, Pve

PLACE = Path("/var/lib/simulated-pve")
STATE = PLACE / "state.json"
# In memory: gone after a boot, there after a mere restart of the service.
BOOTED = Path("/run/simulated-pve-is-up")
NODES = ("simulated1", "simulated2", "simulated3")
VMS = (
    (101, "crm-mail", "simulated1", "running", {"onboot": 1, "startup": "order=2", "scsi0": "local-lvm:vm-101-disk-0,size=8G"}, ""),
    (102, "crm-reports", "simulated2", "stopped", {"scsi0": "local-lvm:vm-102-disk-0,size=4G"}, ""),
    (103, "crm-telephony", "simulated3", "running", {"scsi0": "local-lvm:vm-103-disk-0,size=4G"}, "started"),
)
CTS = (
    (201, "crm-proxy", "simulated2", "running", {"onboot": 1, "startup": "order=1", "rootfs": "local-lvm:vm-201-disk-0,size=2G"}),
    (202, "crm-dock", "simulated1", "running", {"rootfs": "local-lvm:vm-202-disk-0,size=8G"}),
)
# Simulated guest -> the host of the lab that stands for what runs inside it: the guest is on when that host is.
INHABITANTS = {202: "dock1"}


def build(secret: str) -> Pve:
    pve = Pve("real")
    pve.cluster_name = "simulated"
    pve.host, pve.port = "0.0.0.0", 8006  # noqa: S104 - it stands for a machine of its own
    # A second of the real thing is a fiftieth here.
    pve.time_scale = 0.02
    pve.ha_lag = 10.0
    pve.nodes.clear()  # it brings one of its own
    for node in NODES:
        pve.add_node(node)
    for vmid, name, node, status, config, state in VMS:
        vm = pve.add_vm(vmid, name, node=node, status=status, config=dict(config))
        vm.config["smbios1"] = f"uuid=00000000-0000-4000-8000-{vmid:012d}"
        vm.shutdown_secs = 10
        if state:
            pve.ha(vm, state)
    for vmid, name, node, status, config in CTS:
        pve.add_ct(vmid, name, node=node, status=status, config=dict(config))
    pve.apitokens.clear()
    pve.apitokens[TOKEN] = secret
    pve.grant(TOKEN, "/", *ALL_RIGHTS)
    return pve


def state_of(pve: Pve) -> dict[str, Any]:
    guests = {str(one.vmid): {"status": one.status, "config": one.config, "ha": one.ha_state} for one in [*pve.vms, *pve.cts]}
    return {"guests": guests, "crm": pve.crm, "armed": pve.armed}


def recall(pve: Pve, state: dict[str, Any], booted: bool) -> None:
    pve.crm.update(state["crm"])
    pve.armed = state["armed"]
    for one in [*pve.vms, *pve.cts]:
        kept = state["guests"][str(one.vmid)]
        one.config = dict(kept["config"])
        one.ha_state = kept["ha"]
        wanted = bool(int(one.config.get("onboot") or 0)) or kept["ha"] in ("started", "enabled")
        one.status = ("running" if wanted else "stopped") if booted else kept["status"]
        if hasattr(one, "qmpstatus"):
            one.qmpstatus = one.status


async def is_on(host: str) -> bool:
    """Somebody answers there, be it by a refusal. From a machine that is off nothing comes."""
    try:
        _reader, writer = await asyncio.wait_for(asyncio.open_connection(host, 22), 1.0)
        writer.close()
    except ConnectionRefusedError:
        return True
    except (OSError, TimeoutError):
        return False
    return True


async def follow(pve: Pve, vmid: int, host: str) -> None:
    """A guest that was started here stays on until its host has come up; one whose host went off is off."""
    came = False
    while True:
        guest, now = pve.guest(vmid), await is_on(host)
        if now:
            guest.status, came = "running", True
        elif came:
            guest.status, came = "stopped", False
        await asyncio.sleep(0.2)


async def main() -> None:
    pve = build((PLACE / "token.secret").read_text().strip())
    if STATE.exists():
        recall(pve, json.loads(STATE.read_text()), booted=not BOOTED.exists())
    BOOTED.touch()
    await pve.start(str(PLACE / "api.crt"), str(PLACE / "api.key"))
    following = [asyncio.ensure_future(follow(pve, vmid, host)) for vmid, host in INHABITANTS.items()]
    over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
    last = ""
    while True:
        now = json.dumps(state_of(pve), sort_keys=True)
        if now != last:
            part = STATE.with_suffix(".part")
            part.write_text(now)
            part.rename(STATE)
            last = now
        if over.is_set():
            break
        try:
            await asyncio.wait_for(over.wait(), 0.2)
        except TimeoutError:
            continue
    for one in following:
        one.cancel()
    await pve.stop()


if __name__ == "__main__":
    asyncio.run(main())
