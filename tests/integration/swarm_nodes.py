# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A swarm of several private engines: each in a network namespace of its own, all of them on one bridge in another."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.integration.private_engine import Dockerd, running

NETWORK = "10.213.99"  # inside the namespaces alone; no route of the machine leads there
PORT = 2377
# What managers agree upon is written through to their disks, and a disk that others keep busy for seconds costs them their leader.
MEMORY = "/dev/shm"


def ip(*argv: str) -> None:
    subprocess.run(["ip", *argv], check=True, capture_output=True)


class Node(Dockerd):
    """One engine of the swarm."""

    def __init__(self, folder: Path, namespace: str, number: int) -> None:
        super().__init__(folder)
        self.namespace, self.where = namespace, f"{NETWORK}.{number}"

    def enter(self) -> list[str]:
        return ["nsenter", f"--net=/run/netns/{self.namespace}"]

    def lead(self) -> None:
        # A node that is silent for three of these is down: not by default after a quarter of a minute, nor where a machine holds its breath.
        spec = self.client().create_swarm_spec(dispatcher_heartbeat_period=3 * 10**9)  # type: ignore[no-untyped-call]
        self.client().init_swarm(advertise_addr=self.where, listen_addr=f"{self.where}:{PORT}", swarm_spec=spec)  # type: ignore[no-untyped-call]

    def join(self, leader: Node, role: str) -> None:
        tokens = leader.client().inspect_swarm()["JoinTokens"]  # type: ignore[no-untyped-call]
        self.client().join_swarm(  # type: ignore[no-untyped-call]
            [f"{leader.where}:{PORT}"], tokens[role], listen_addr=f"{self.where}:{PORT}", advertise_addr=self.where
        )

    def cut(self) -> None:
        """Nobody hears of it any more."""
        ip("-n", self.namespace, "link", "set", "e0", "down")

    def mend(self) -> None:
        ip("-n", self.namespace, "link", "set", "e0", "up")

    def names(self) -> list[str]:
        """What runs here, whoever asked for it."""
        return sorted(row["Names"][0].lstrip("/").partition(".")[0] for row in self.client().containers())


@contextlib.contextmanager
def wired(count: int) -> Iterator[list[str]]:
    """So many namespaces that reach each other and nothing else."""
    mark = f"ste{os.getpid()}"
    switch, names = f"{mark}s", [f"{mark}n{number}" for number in range(1, count + 1)]
    try:
        ip("netns", "add", switch)
        ip("-n", switch, "link", "add", "b0", "type", "bridge")
        ip("-n", switch, "link", "set", "b0", "up")
        for number, name in enumerate(names, 1):
            ip("netns", "add", name)
            ip("-n", switch, "link", "add", f"p{number}", "type", "veth", "peer", "name", "e0", "netns", name)
            ip("-n", switch, "link", "set", f"p{number}", "master", "b0", "up")
            ip("-n", name, "addr", "add", f"{NETWORK}.{number}/24", "dev", "e0")
            ip("-n", name, "link", "set", "e0", "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield names
    finally:
        for name in (*names, switch):
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


@contextlib.contextmanager
def swarm(roles: list[str]) -> Iterator[list[Any]]:
    """Engines that are one swarm; the first leads, the others join as what roles says (Manager, Worker)."""
    with contextlib.ExitStack() as stack:
        names = stack.enter_context(wired(len(roles)))
        nodes = []
        for number, name in enumerate(names, 1):
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="ste-", dir=MEMORY, ignore_cleanup_errors=True))
            nodes.append(stack.enter_context(running(Node(Path(folder), name, number))))
            nodes[-1].image = nodes[-1].load()
        nodes[0].lead()
        for node, role in zip(nodes[1:], roles[1:], strict=True):
            node.join(nodes[0], role)
        yield nodes
