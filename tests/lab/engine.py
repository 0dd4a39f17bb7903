# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The Docker engine as the lab uses it: its network, its containers, and how to get files and commands into them."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import paths
from .layout import HOSTS, Host
from .shell import LabError, out, run, say

LABEL = f"{paths.NAME}=1"
# Tried in this order; one that the machine routes somewhere already is passed over.
SUBNETS = ("172.30.77.0/24", "10.213.77.0/24", "192.168.213.0/24")


def cgroup_version() -> int:
    return 2 if Path("/sys/fs/cgroup/cgroup.controllers").exists() else 1


def cgroup_arguments() -> list[str]:
    """What systemd in a container that is not privileged needs to see of the control groups."""
    if cgroup_version() == 1:
        return ["-v", "/sys/fs/cgroup:/sys/fs/cgroup:ro"]
    return ["--cgroupns=host", "-v", "/sys/fs/cgroup:/sys/fs/cgroup:rw"]


def ensure_network() -> dict[str, str]:
    """The lab's network; returns each host's address on it, which stays the same over a power-off."""
    if run(["docker", "network", "inspect", paths.NAME], check=False).returncode != 0:
        routed = [
            ipaddress.ip_network(route["dst"], strict=False)
            for route in json.loads(out(["ip", "-j", "-4", "route"]))
            if route["dst"] != "default"
        ]
        free = [net for net in SUBNETS if not any(ipaddress.ip_network(net).overlaps(other) for other in routed)]
        for net in free:
            made = run(["docker", "network", "create", "--label", LABEL, "--subnet", net, paths.NAME], check=False)
            if made.returncode == 0:
                break
        else:
            raise LabError(f"none of {', '.join(SUBNETS)} is free for the lab's network {paths.NAME}")
    facts = json.loads(out(["docker", "network", "inspect", paths.NAME]))[0]
    network = ipaddress.ip_network(facts["IPAM"]["Config"][0]["Subnet"])
    return {host.name: str(network.network_address + host.octet) for host in HOSTS.values()}


def inspect(container: str) -> dict[str, Any] | None:
    found = run(["docker", "container", "inspect", container], check=False)
    return json.loads(found.stdout)[0] if found.returncode == 0 else None


def running(container: str) -> bool:
    facts = inspect(container)
    return bool(facts and facts["State"]["Running"])


def create(host: Host, image: str, addresses: dict[str, str], devices: Sequence[str], labels: dict[str, str]) -> None:
    """A host, not yet switched on. Not privileged; one that mounts file systems itself gets just that right."""
    argv = ["docker", "create", "--name", host.container, "--hostname", host.name, "--label", LABEL]
    for key, value in labels.items():
        argv += ["--label", f"{key}={value}"]
    argv += ["--network", paths.NAME, "--ip", addresses[host.name]]
    argv += ["--restart", "no", "--stop-signal", "SIGRTMIN+3", "--stop-timeout", "30"]
    argv += ["--tmpfs", "/run", "--tmpfs", "/run/lock", "--tmpfs", "/tmp", *cgroup_arguments()]
    # As on a real host, root may look at every process: the survey tells by that which unit a listener belongs to.
    argv += ["--cap-add", "SYS_PTRACE"]
    for name, address in addresses.items():
        if name != host.name:
            argv += ["--add-host", f"{name}:{address}"]
    if devices:
        argv += ["--cap-add", "SYS_ADMIN", "--security-opt", "apparmor=unconfined"]
        for device in devices:
            argv += ["--device", device]
    run([*argv, *host.extra, image, "/sbin/init"])


def put(container: str, tar: bytes) -> None:
    """Unpacks a tar at the container's root; works before it was started."""
    run(["docker", "cp", "-", f"{container}:/"], stdin=tar)


def execute(container: str, argv: Sequence[str], *, stdin: bytes | None = None, user: str = "root") -> str:
    interactive = ["-i"] if stdin is not None else []
    return run(["docker", "exec", *interactive, "-u", user, container, *argv], stdin=stdin).stdout.decode()


def answers(container: str, argv: Sequence[str]) -> bool:
    return run(["docker", "exec", container, *argv], check=False).returncode == 0


def start(container: str) -> None:
    run(["docker", "start", container])


def stop(container: str) -> None:
    run(["docker", "stop", container])


def remove(container: str) -> None:
    run(["docker", "rm", "-f", "-v", container], check=False)


def ours() -> list[str]:
    """Names of all containers of the lab, running or not: by label and by name, since whatever else is made from the lab's
    image (the tests' own hosts) inherits the label."""
    return out(["docker", "ps", "-a", "--filter", f"label={LABEL}", "--filter", f"name=^/{paths.NAME}-", "--format", "{{.Names}}"]).split()


def remove_volumes_and_network() -> None:
    for volume in out(["docker", "volume", "ls", "-q", "--filter", f"label={LABEL}"]).split():
        run(["docker", "volume", "rm", volume])
    if run(["docker", "network", "inspect", paths.NAME], check=False).returncode == 0:
        # Engines sometimes go on counting an endpoint whose container is gone; only their restart mends that.
        done = run(["docker", "network", "rm", paths.NAME], check=False)
        if done.returncode and b"active endpoints" not in done.stderr:
            raise LabError(done.stderr.decode(errors="replace").strip())
        if done.returncode:
            say(f"the engine counts an endpoint of the network {paths.NAME} that is gone: the empty network stays until it is restarted")
