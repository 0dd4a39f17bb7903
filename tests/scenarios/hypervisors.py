# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A libvirt with tiny guests beside virt1, which has its socket and disks, and a simulated Proxmox VE cluster; the guests in both."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

from tests.integration import libvirt_world
from tests.lab import paths as lab
from tests.lab.shell import wait_for

from . import simulated, world
from .base import Declaration, Moment, Scenario, facts

SLOWNESS = {"calm": 0.5, "torn": 5.0, "kept": 0.5}
KINDS = ("quick", "slow")
LIBVIRT, PROXMOX = world.GUESTS / "libvirt", world.GUESTS / "proxmox"


def name(part: str, kind: str) -> str:
    return f"{part}-{kind}"


def _is_ours(pid: int, folder: Path) -> bool:
    """Whether a process is what the file beside it says: the folder is in its command line, or is what it sees as libvirt's own."""
    try:
        if str(folder) in Path(f"/proc/{pid}/cmdline").read_text(errors="replace"):
            return True
        return os.path.samefile(f"/proc/{pid}/root/run/libvirt", folder / "run")
    except OSError:
        return False


def _ends(pid: int, folder: Path) -> None:
    """End a process of an earlier call."""
    if not _is_ours(pid, folder):
        return
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        return
    wait_for(f"process {pid} to end", lambda: not Path(f"/proc/{pid}").exists() or _is_zombie(pid), 30, 0.05)


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def destroy() -> None:
    """End both, with their guests, and remove what is theirs."""
    for path in [*LIBVIRT.glob("run/qemu/*.pid"), LIBVIRT / "run/libvirtd.pid", PROXMOX / "pid"]:
        if path.exists():
            _ends(int(path.read_text().split()[0]), LIBVIRT if LIBVIRT in path.parents else PROXMOX)
    for folder in (LIBVIRT, PROXMOX):
        shutil.rmtree(folder, ignore_errors=True)


def _libvirt() -> libvirt_world.World:
    made = libvirt_world.World(LIBVIRT)
    made.up()
    keys = {}
    for part in world.PARTS:
        keys[name(part, "quick")] = made.define(name(part, "quick"), libvirt_world.OBEYS, start=False, autostart=True)
        keys[name(part, "slow")] = made.define(name(part, "slow"), libvirt_world.slow(SLOWNESS[part]), start=False)
    with made.admin() as connection:
        for one in keys:
            connection.lookupByName(one).create()
    for key in keys.values():
        made.running(key)
    (LIBVIRT / "keys.json").write_text(json.dumps(keys))
    return made


def _proxmox() -> None:
    PROXMOX.mkdir(parents=True)
    with (PROXMOX / "log").open("wb") as log:
        argv = [sys.executable, "-m", "tests.scenarios.simulated", str(PROXMOX)]
        child = subprocess.Popen(argv, cwd=lab.TOP, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    (PROXMOX / "pid").write_text(str(child.pid))
    wait_for("the simulated cluster", lambda: (PROXMOX / "ready").exists(), 30, 0.05)


def api() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((PROXMOX / "ready").read_text())
    return found


def ask(path: str) -> Any:
    """A question to the simulated cluster, past the collection and its library."""
    told = api()
    secret = Path(told["secret_file"]).read_text().strip()
    header = {"Authorization": f"PVEAPIToken={told['user']}!{told['token_id']}={secret}"}
    request = urllib.request.Request(f"https://127.0.0.1:{told['port']}/api2/json{path}", headers=header)
    with urllib.request.urlopen(request, context=ssl.create_default_context(cafile=told["verify"]), timeout=10) as answer:  # noqa: S310
        return json.load(answer)["data"]


class Guests(Scenario):
    """Of each hypervisor two guests a part: on libvirt one that obeys at once and one that takes its time; a machine and a container on Proxmox."""

    name = "guests"
    moment = Moment(1.5, "guest:guests-torn", "guest")

    def lay(self) -> None:
        destroy()
        world.shell("virt1", "rm -rf /srv/guests-*")
        _proxmox()
        _libvirt()

    def declared(self) -> dict[str, list[Declaration]]:
        keys: dict[str, str] = json.loads((LIBVIRT / "keys.json").read_text()) if LIBVIRT.exists() else {}
        cluster = {"cluster": "fakecluster", "nodes": ["pve1", "pve2", "pve3"]}
        found: list[Declaration] = []
        for part in world.PARTS:
            mine = {one: key for one, key in keys.items() if one.startswith(f"{part}-")}
            number = simulated.PARTS[part]
            found += [
                {
                    "kind": "guest", "name": f"guests-{part}", "backend": "libvirt", "guests": sorted(mine), "shared_hypervisor": True,
                    "uri": f"qemu:///system?socket={LIBVIRT}/run/libvirt-sock", "copy": True, "staging": f"/srv/guests-{part}",
                    "identity": {"guests": sorted(mine), "ids": mine, "uuids": mine},
                },
                {
                    "kind": "guest", "name": f"guests-pve-{part}", "backend": "proxmox", "guests": [f"{part}-vm", f"{part}-ct"],
                    "shared_hypervisor": True, "api": api(), "staging": f"/srv/guests-pve-{part}",
                    "identity": {
                        "guests": [f"{part}-ct", f"{part}-vm"], "hypervisor": cluster,
                        "ids": {f"{part}-vm": f"qemu/{number}", f"{part}-ct": f"lxc/{number + 1}"},
                    },
                },
            ]  # fmt: skip
        return {"virt1": found}

    def look(self) -> dict[str, Any]:
        made = libvirt_world.World.__new__(libvirt_world.World)
        made.folder, made.socket = LIBVIRT, LIBVIRT / "run/libvirt-sock"
        seen: dict[str, Any] = {}
        for part in world.PARTS:
            seen[part] = self._on_libvirt(part, made)
            seen[f"pve-{part}"] = self._on_proxmox(part)
        seen["daemons"] = [int(path.read_text()) for path in (LIBVIRT / "run/libvirtd.pid", PROXMOX / "pid")]
        return seen

    def _on_libvirt(self, part: str, made: libvirt_world.World) -> dict[str, Any]:
        seen: dict[str, Any] = {}
        disks = {}
        with made.admin() as connection:
            for kind in KINDS:
                domain = connection.lookupByName(name(part, kind))
                seen[kind] = {"state": list(domain.state()), "autostart": bool(domain.autostart())}
                disk = LIBVIRT / "disks" / f"{domain.UUIDString()}.raw"
                disks[kind] = hashlib.sha256(disk.read_bytes()).hexdigest()
        read = world.shell("virt1", f"for one in $(find /srv/guests-{part} -name '*.gz' 2>/dev/null); do gzip -dc $one | sha256sum; done")
        copies = [line.split()[0] for line in read.splitlines()]
        return {**seen, **self._kept(f"guests-{part}"), "disks": sorted(disks.values()), "copies": copies}

    def _on_proxmox(self, part: str) -> dict[str, Any]:
        number = simulated.PARTS[part]
        seen: dict[str, Any] = {}
        for kind, path in (("vm", f"/nodes/pve1/qemu/{number}"), ("ct", f"/nodes/pve2/lxc/{number + 1}")):
            node = path.split("/")[2]
            tasks = [task["type"] for task in ask(f"/nodes/{node}/tasks?vmid={path.rpartition('/')[2]}")]
            config = ask(f"{path}/config")
            seen[kind] = {"status": ask(f"{path}/status/current")["status"], "onboot": int(config.get("onboot") or 0), "tasks": tasks}
        return {**seen, **self._kept(f"guests-pve-{part}")}

    def _kept(self, item: str) -> dict[str, Any]:
        """What lies in the staging place, and what the ledger says of it."""
        recorded = {one["path"]: one["sha256"] for one in self.result(f"guest:{item}", "dump").get("artefacts", [])}
        return {"staged": facts("virt1", files=[f"/srv/{item}/**"])["files"], "recorded": recorded}
