# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Engines of a test's own, with their own data and socket: dockerd that may be restarted or made a swarm, and Podman's service."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker

from tests.lab.image import ensure_mini_image


class Private:
    """One engine process. The folder must be short: a socket's path has about 100 bytes."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.address = folder, str(folder / "s")
        self.child: subprocess.Popen[bytes] | None = None

    def argv(self) -> list[str]:
        raise NotImplementedError

    def load(self) -> str:
        """The image of the tests; its name there."""
        raise NotImplementedError

    def up(self) -> None:
        log = (self.folder / "log").open("ab")
        self.child = subprocess.Popen(self.argv(), stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=self.environment())
        log.close()
        deadline = time.monotonic() + 180
        while True:
            with contextlib.suppress(Exception):
                client = docker.APIClient(base_url=f"unix://{self.address}", version="auto", timeout=5)
                client.close()
                return
            assert self.child.poll() is None, (self.folder / "log").read_text()[-2000:]
            assert time.monotonic() < deadline, (self.folder / "log").read_text()[-2000:]
            time.sleep(0.2)

    def environment(self) -> dict[str, str]:
        return {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}

    def down(self) -> None:
        if self.child is not None:
            self.child.terminate()
            self.child.wait(180)
            self.child = None

    def client(self) -> docker.APIClient:
        return docker.APIClient(base_url=f"unix://{self.address}", version="auto", timeout=60)


class Dockerd(Private):
    """In a network namespace of its own: a dockerd without a bridge removes docker0, whoever that belongs to."""

    more: tuple[str, ...] = ()

    def enter(self) -> list[str]:
        """The command in whose network it runs."""
        return ["unshare", "--net", "/bin/sh", "-c", 'ip link set lo up && exec "$@"', "sh"]

    def argv(self) -> list[str]:
        own = ["--data-root", str(self.folder / "data"), "--exec-root", str(self.folder / "exec"), "--pidfile", str(self.folder / "pid")]
        daemon = ["dockerd", *own, "--host", f"unix://{self.address}", "--bridge", "none", "--iptables=false", "--ip6tables=false"]
        return [*self.enter(), *daemon, *self.more]

    def load(self) -> str:
        image = ensure_mini_image()
        saved = subprocess.run(["docker", "save", image], check=True, capture_output=True).stdout
        subprocess.run(["docker", "-H", f"unix://{self.address}", "load"], input=saved, check=True, capture_output=True)
        return image

    def swarm(self) -> None:
        with contextlib.closing(socket.socket()) as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.client().init_swarm(advertise_addr="127.0.0.1", listen_addr=f"127.0.0.1:{port}")  # type: ignore[no-untyped-call]


class Enduring(Dockerd):
    """With live restore: its containers run on while it is down."""

    more = ("--live-restore",)

    def shims(self) -> list[int]:
        """The processes that hold its containers, by the folder in their command line: they outlive it."""
        found = []
        for place in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                words = (place / "cmdline").read_bytes().decode(errors="replace").split("\0")
                if "containerd-shim" in words[0] and any(str(self.folder) in word for word in words):
                    found.append(int(place.name))
        return sorted(found)

    def without_shims(self) -> bool:
        """Whether they all end: each goes a moment after its container."""
        deadline = time.monotonic() + 20
        while self.shims() and time.monotonic() < deadline:
            time.sleep(0.1)
        return not self.shims()


class Podman(Private):
    """Limits and control groups are those that containers inside a container can have."""

    def base(self) -> list[str]:
        own = ["--root", str(self.folder / "data"), "--runroot", str(self.folder / "run"), "--storage-driver", "vfs"]
        return ["podman", *own, "--cgroup-manager", "cgroupfs", "--runtime", "runc"]

    def argv(self) -> list[str]:
        (self.folder / "containers.conf").write_text(
            '[containers]\ndefault_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]\nnetns = "none"\n'
        )
        return [*self.base(), "system", "service", "--time", "0", f"unix://{self.address}"]

    def environment(self) -> dict[str, str]:
        return {**super().environment(), "CONTAINERS_CONF": str(self.folder / "containers.conf"), "HOME": str(self.folder)}

    def run(self, *argv: str, feed: bytes = b"") -> str:
        done = subprocess.run([*self.base(), *argv], input=feed, capture_output=True, check=False, env=self.environment())
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()

    def load(self) -> str:
        saved = subprocess.run(["docker", "save", ensure_mini_image()], check=True, capture_output=True).stdout
        self.run("load", feed=saved)
        return f"localhost/{ensure_mini_image()}"


@contextlib.contextmanager
def running(engine: Any) -> Iterator[Any]:
    """Up for the time of the context; its containers end with it."""
    engine.up()
    try:
        yield engine
    finally:
        if engine.child is None:
            with contextlib.suppress(Exception):
                engine.up()
        with contextlib.suppress(Exception):
            client = engine.client()
            with contextlib.suppress(Exception):
                client.leave_swarm(force=True)
            for row in client.containers(all=True):
                with contextlib.suppress(Exception):
                    client.remove_container(row["Id"], force=True, v=True)
            client.close()
        engine.down()
        # What an engine leaves mounted (its network namespaces) keeps its folder from being removed.
        mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
        for place in sorted((one for one in mounts if one.startswith(f"{engine.folder}/")), reverse=True):
            subprocess.run(["umount", place], check=False, capture_output=True)
