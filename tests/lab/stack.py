# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The application stack on the container host: picked by a label, beside a neighbour that must never be touched."""

from __future__ import annotations

from dataclasses import dataclass

from . import engine, paths
from .image import ensure_mini_image
from .layout import VOLUME
from .loops import Loop
from .marks import mark
from .shell import out, run
from .tree import Tar

STACK_LABEL = "sunset.lab.stack=shop"

# The shell is process 1 here and has no handlers but the ones it is given.
WEB = "trap 'exit 0' TERM; httpd -f -p 8080 -h /data & wait"
DB = "trap 'sync; exit 0' TERM; while :; do date >/data/heartbeat; sleep 2 & wait $!; done"
SLOW = "trap 'sleep 6; exit 0' TERM; while :; do sleep 1 & wait $!; done"
NEIGHBOUR = "trap 'exit 0' TERM; while :; do sleep 5 & wait $!; done"


@dataclass(frozen=True)
class Container:
    service: str
    script: str
    restart: str
    arguments: tuple[str, ...] = ()
    stack: bool = True

    @property
    def name(self) -> str:
        return f"{paths.NAME}-shop-{self.service}" if self.stack else f"{paths.NAME}-{self.service}"


CONTAINERS = (
    Container("db", DB, "unless-stopped", ("-v", f"{VOLUME}:/data")),
    Container("web", WEB, "always", ("--label", "com.docker.compose.depends_on=db:service_started:false")),
    Container("slow", SLOW, "always", ("--stop-timeout", "20")),
    Container("bystander", NEIGHBOUR, "always", stack=False),
)


def ensure_volume(loop: Loop) -> str:
    """The stack's named volume on the loop medium; returns where the engine mounts it."""
    found = run(["docker", "volume", "inspect", "-f", "{{.Options.device}}", VOLUME], check=False)
    if found.returncode == 0 and found.stdout.decode().strip() != loop.device:
        remove()
        run(["docker", "volume", "rm", VOLUME])
        found = run(["docker", "volume", "inspect", VOLUME], check=False)
    if found.returncode != 0:
        options = ["-o", "type=ext4", "-o", f"device={loop.device}"]
        run(["docker", "volume", "create", "--label", engine.LABEL, *options, VOLUME])
    return out(["docker", "volume", "inspect", "-f", "{{.Mountpoint}}", VOLUME])


def _content() -> bytes:
    tar = Tar()
    lines = [f"{n};{mark('shop-order', n)};Commande №{n} für 田中;{n * 19.9:.2f}" for n in range(400)]
    tar.add("data/orders.csv", "\n".join(lines) + "\n")
    for n in range(20):
        tar.add(f"data/invoices/rechnung-{n:03d}.txt", f"Facture {n}\n" * (50 + n * 100))
    return tar.bytes()


def _create(container: Container, image: str) -> None:
    argv = ["docker", "create", "--name", container.name, "--label", engine.LABEL, "--network", paths.NAME]
    if container.stack:
        argv += ["--label", STACK_LABEL, "--label", "com.docker.compose.project=shop"]
        argv += ["--label", f"com.docker.compose.service={container.service}"]
    run([*argv, "--restart", container.restart, *container.arguments, image, "/bin/sh", "-c", container.script])


def ensure() -> None:
    image = ensure_mini_image()
    for container in CONTAINERS:
        if engine.inspect(container.name) is None:
            _create(container, image)
            if container.service == "db":
                engine.put(container.name, _content())
        if not engine.running(container.name):
            # The policy too: a shutdown of the estate leaves it at "no".
            run(["docker", "update", "--restart", container.restart, container.name])
            engine.start(container.name)


def remove() -> None:
    for container in CONTAINERS:
        engine.remove(container.name)
