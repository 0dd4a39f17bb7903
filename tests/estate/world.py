# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab's world read past the collection: units, files, sites, sessions, containers, vault, media."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests import lab
from tests.lab import engine, stack, virtual
from tests.lab.layout import HOSTS, SIMULATED, VAULTS
from tests.lab.shell import out, run, wait_for

UNITS = {
    "app1": ["creme-jobs", "creme-web", "redis-server", "nginx", "cron", "ssh", "legacy-report"],
    "db1": ["postgresql@15-main", "cron", "ssh"],
    "old1": ["oldcrm-worker", "oldcrm-web", "mariadb", "nginx", "cron", "ssh"],
    "dock1": ["cron", "ssh"],
    "kvm1": ["libvirtd", "cron", "ssh"],
    "pve-simulated": ["pveproxy", "cron", "ssh"],
}
PROPERTIES = "Id,ActiveState,SubState,UnitFileState,FragmentPath,DropInPaths,MainPID,ActiveEnterTimestampMonotonic,NRestarts"
# Everything on a host that a shutdown might change, its staging places among it. Left out: what the system writes by itself.
FILES = (
    "find / \\( -path /proc -o -path /sys -o -path /dev -o -path /run -o -path /tmp -o -path /var/log -o -path /var/cache"
    " -o -path /var/lib/systemd -o -path /var/lib/nginx -o -path /srv/creme/media/queue -o -path /var/lib/postgresql/15 -o -path /srv/mydata/mysql"
    " -o -path /var/lib/docker -o -path /var/lib/libvirt/qemu \\) -prune -o -type f -not -name '*.pyc' -printf '%p %m %u %s %T@\\n' | LC_ALL=C sort;"
    " find /run /tmp /var/lib -maxdepth 3 -iname '*sunset*'; find $(ls -d /etc/nginx /etc/libvirt 2>/dev/null) /etc/cron.d /etc/systemd -type f -exec sha256sum {} +"
)
SESSIONS = {
    "db1": ["runuser", "-u", "postgres", "--", "psql", "-XAt", "creme", "-c", "SELECT count(*) FROM django_session"],
    "old1": ["mariadb", "-N", "-B", "oldcrm", "-e", "SELECT count(*) FROM sessions"],
}


def powered() -> dict[str, bool]:
    """Host -> whether it is on, as the engine says."""
    return {host.name: engine.running(host.container) for host in HOSTS.values()}


def units(host: str) -> str:
    argv = ["systemctl", "show", f"--property={PROPERTIES}", *(f"{unit}.service" for unit in UNITS[host])]
    return lab.execute(host, argv)


def sessions(host: str) -> int:
    """Rows in the table of users' sessions."""
    return int(lab.execute(host, SESSIONS[host]))


def containers() -> dict[str, Any]:
    """The stack and its neighbour: what runs since when, and what would bring it back."""
    found = {}
    for one in stack.CONTAINERS:
        facts = engine.inspect(one.name)
        assert facts is not None, f"the container {one.name} is gone"
        found[one.service] = {
            "id": facts["Id"],
            "state": {key: facts["State"][key] for key in ("Status", "Pid", "StartedAt", "ExitCode")},
            "restarts": facts["RestartCount"],
            "policy": facts["HostConfig"]["RestartPolicy"]["Name"],
            "image": facts["Image"],
        }
    return found


# What runs on the hypervisors, and what of it starts with its host.
KVM_ON, KVM_AUTOSTART = {"crm-wiki", "crm-fax"}, {"crm-wiki"}
SIMULATED_ON, SIMULATED_ONBOOT, SIMULATED_HA = {"101", "103", "201", "202"}, {"101", "201"}, {"103": "started"}


def real_guests() -> dict[str, set[str]]:
    """The guests of kvm1 as its own libvirt and its processes show them."""
    listed = {what: lab.execute("kvm1", ["virsh", "list", "--name", *what.split()]).split() for what in ("--all", "", "--all --autostart")}
    running = lab.execute("kvm1", ["sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -ao 'gues[t]=[^,]*' | cut -d= -f2 || true"])
    return {
        "all": set(listed["--all"]),
        "on": set(listed[""]),
        "autostart": set(listed["--all --autostart"]),
        "processes": set(running.split()),
    }


def simulated_guests() -> dict[str, Any]:
    """The guests of the simulated cluster as the simulation itself keeps them, whether its machine is on or off."""
    file = run(["docker", "cp", f"{HOSTS[SIMULATED].container}:{virtual.PLACE}/state.json", "-"]).stdout
    with tarfile.open(fileobj=io.BytesIO(file)) as tar:
        member = tar.extractfile("state.json")
        assert member is not None
        guests = json.load(member)["guests"]
    return {
        "on": {vmid for vmid, one in guests.items() if one["status"] != "stopped"},
        "onboot": {vmid for vmid, one in guests.items() if int(one["config"].get("onboot") or 0)},
        "ha": {vmid: one["ha"] for vmid, one in guests.items() if one["ha"]},
    }


def simulation_answers() -> bool:
    """Its API listens, so it has settled what runs after a boot."""
    return engine.answers(HOSTS[SIMULATED].container, ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/8006"])


def vault(name: str) -> list[str]:
    """Every file of the vault with its digest, the copies of the ledger too."""
    command = "find /srv/vault /srv/ledger /dev/shm /run/user -type f -exec sha256sum {} + 2>/dev/null | sort"
    return lab.execute(name, ["sh", "-c", command]).splitlines()


def held(name: str, file: str) -> str:
    """Digest of one file below /srv of a vault; empty if it is not there."""
    return lab.execute(name, ["sh", "-c", f"[ ! -e /srv/{file} ] || sha256sum </srv/{file}"]).strip()


def snapshot() -> dict[str, Any]:
    """The whole world in a form that can be compared."""
    found: dict[str, Any] = {"containers": containers(), "powered": powered(), "real": real_guests(), "simulated": simulated_guests()}
    for host in UNITS:
        found[f"{host} units"] = units(host).splitlines()
        found[f"{host} files"] = lab.execute(host, ["sh", "-c", FILES]).splitlines()
    for name in VAULTS:
        found[name] = vault(name)
    for host in SESSIONS:
        found[f"{host} sessions"] = sessions(host)
    # Molecule's containers are saved as images beside the estate; what is committed has its container's labels.
    others = set(out(["docker", "images", "-q", "--no-trunc", "--filter", "label=sunset-molecule"]).split())
    found["images"] = sorted(set(out(["docker", "images", "-q", "--no-trunc"]).split()) - others)
    return found


def differences(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """What is not as it was, small enough to be read."""
    found: dict[str, Any] = {}
    for name in before.keys() | after.keys():
        old, new = before.get(name), after.get(name)
        if isinstance(old, list) and isinstance(new, list):
            old, new = sorted(set(old) - set(new)), sorted(set(new) - set(old))
        if old != new:
            found[name] = {"before": old, "after": new}
    return found


def file_digest(host: str, path: str) -> str:
    return lab.execute(host, ["sha256sum", path]).split()[0]


def active(host: str, unit: str) -> str:
    return lab.execute(host, ["sh", "-c", f"systemctl is-active {unit} || true"]).strip()


# Breaking and mending


def cut_off(host: str) -> None:
    """The host runs on, but nobody reaches it: sshd and every session of it are gone."""
    lab.execute(host, ["sh", "-c", "systemctl --runtime mask ssh.service && systemctl kill --kill-who=all --signal=KILL ssh.service"])


def reach_again(host: str) -> None:
    lab.execute(
        host, ["sh", "-c", "systemctl --runtime unmask ssh.service; systemctl reset-failed ssh.service; systemctl start ssh.service"]
    )
    wait_for(f"sshd of {host}", lambda: active(host, "ssh.service") == "active")


@contextmanager
def unreachable(host: str) -> Iterator[None]:
    cut_off(host)
    try:
        yield
    finally:
        reach_again(host)


# Media


def _digest(file: str) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def mounted_somewhere() -> list[str]:
    """Media whose file system the kernel still holds, also for a mount that no process of ours can see."""
    return [name for name, loop in lab.media().items() if any(Path("/sys/fs").glob(f"*/{Path(loop.device).name}"))]


def media_digests() -> dict[str, str]:
    """Medium -> SHA-256 of every byte of it, read from outside."""
    files = {name: loop.backing_file for name, loop in lab.media().items()}
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(files, pool.map(_digest, files.values()), strict=True))


def count_marks(file: Path) -> int:
    """How often the planted prefix stands in a file, whatever it is."""
    prefix, count, rest = lab.PREFIX.encode(), 0, b""
    with open(file, "rb") as stream:
        while block := stream.read(1 << 23):
            window = rest + block
            count += window.count(prefix)
            rest = window[-(len(prefix) - 1) :]
    return count


def progress(host: str, pattern: str) -> dict[str, Any]:
    """The newest progress file of a detached job on a host; empty if there is none yet."""
    text = lab.execute(host, ["sh", "-c", f"cat $(ls -t {pattern} 2>/dev/null | head -n 1) </dev/null"])
    return json.loads(text) if text.strip() else {}


def backing_files() -> dict[str, str]:
    return {name: loop.backing_file for name, loop in lab.media().items()}


def zeros(file: Path) -> float:
    """Which part of a file's 4 KiB blocks holds nothing but zeros."""
    empty, count, total = bytes(4096), 0, 0
    with open(file, "rb") as stream:
        while block := stream.read(4096):
            count += block == empty
            total += 1
    return count / max(total, 1)
