# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A throw-away host with systemd, Docker and Podman as Debian 13 brings them: sockets, Quadlet, podman-restart. It can be rebooted.
Another with the newest Docker that Debian has.

Needs no more rights than containers in a container need; it is not privileged. Its engines' data lie on volumes that die with it.
"""

from __future__ import annotations

import json
import subprocess
from typing import Any

from ansible_collections.sunset.crm.plugins.plugin_utils import relay
from tests.integration.engine_acts import heeds
from tests.integration.host_container import HostContainer, docker
from tests.lab import engine, image, paths, shell

PACKAGES = "systemd,systemd-sysv,dbus,python3,procps,podman,docker.io"
LEFT_OUT = ("/usr/share/man/*", "/usr/share/doc/*", "/usr/share/locale/*")
DOCKER, PODMAN = "/var/run/docker.sock", "/run/podman/podman.sock"
# What Podman cannot have in a container on this kind of host: limits above those of the container, and crun with hybrid control groups.
CONFIG = """[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
netns = "none"
[engine]
cgroup_manager = "cgroupfs"
runtime = "runc"
"""


NEWEST, NEWEST_PACKAGES = "forky", "python3,procps,docker.io"


def ensure_image(suite: str = "trixie", packages: str = PACKAGES) -> str:
    """Made once for all clones; some two minutes, most of it fetching packages."""
    mark = image._hash(packages, *LEFT_OUT, *([] if suite == "trixie" else [suite]))
    name = f"{paths.NAME}-engines:{mark}"
    tar = paths.CACHE / "images" / f"engines-{mark}.tar.zst"
    if image._there(name):
        return name
    tar.parent.mkdir(parents=True, exist_ok=True)
    with shell.locked(tar.parent / "lock-engines"):
        if not image._there(name):
            if not tar.exists():
                part = tar.with_name(f"part-{tar.name}")
                # A mirror that lags behind has an expired list of what is to be the next release; for a throw-away host that does.
                lagging = ['--aptopt=Acquire::Check-Valid-Until "false"'] if suite == NEWEST else []
                left_out = [f"--dpkgopt=path-exclude={path}" for path in LEFT_OUT]
                argv = [
                    "mmdebstrap",
                    "--quiet",
                    "--variant=minbase",
                    f"--include={packages}",
                    "--dpkgopt=force-unsafe-io",
                    *left_out,
                    *lagging,
                ]
                shell.run([*argv, suite, str(part)])
                part.rename(tar)
            image._import(tar, name)
    return name


class EngineHost(HostContainer):
    """Use as a context."""

    def __init__(self, name: str) -> None:
        rights = ["--cap-add", "SYS_ADMIN", "--cap-add", "NET_ADMIN", "--cap-add", "SYS_PTRACE"]
        free = ["--security-opt", "seccomp=unconfined", "--security-opt", "apparmor=unconfined"]
        super().__init__(name, *rights, *free, "-v", "/var/lib/docker", "-v", "/var/lib/containers")

    def how(self) -> tuple[list[str], str]:
        return engine.cgroup_arguments(), ensure_image()

    def __enter__(self) -> EngineHost:
        super().__enter__()
        try:
            self.write("/etc/containers/containers.conf", CONFIG)
            # A test starts it more often in a minute than its own limit allows.
            for unit in ("docker.service", "docker.socket"):
                self.write(f"/etc/systemd/system/{unit}.d/test.conf", "[Unit]\nStartLimitIntervalSec=0\n")
            self.shell("systemctl -q daemon-reload")
            self.prepare()
        except BaseException:
            self.__exit__()
            raise
        return self

    def prepare(self) -> None:
        self.load(["podman", "load"], ["python3", "-c", LOAD])
        self.shell("systemctl -q start podman.socket")

    def load(self, *loaders: list[str]) -> None:
        """The image of the tests, into its engines."""
        saved = subprocess.run(["docker", "save", image.ensure_mini_image()], check=True, capture_output=True).stdout
        for load in loaders:
            subprocess.run(["docker", "exec", "-i", self.name, *load], input=saved, check=True, capture_output=True)

    @property
    def reach(self) -> relay.Reach:
        """As Ansible's connection to the host would be: a shell line there."""
        return relay.Reach(argv=lambda line: ["docker", "exec", "-i", self.name, "/bin/sh", "-c", line], direct=False, name=self.name)

    def heed(self, *pids: int) -> None:
        """Containers in it, by their first process, have set their traps for SIGTERM."""
        for pid in pids:
            assert heeds(pid, read=lambda place: self.run("cat", place)), f"{pid} has ended"

    def active(self, unit: str) -> str:
        return self.run("systemctl", "is-active", unit, check=False).strip()

    def podman(self) -> dict[str, str]:
        """Podman's containers and their states."""
        rows = self.run("podman", "ps", "-a", "--format", "{{.Names}} {{.State}}").split("\n")
        return dict(row.split(" ", 1) for row in rows if row)

    def podman_heeds(self, *names: str) -> None:
        self.heed(*(int(pid) for pid in self.run("podman", "inspect", "-f", "{{.State.Pid}}", *names).split()))

    def held(self) -> list[str]:
        """Containers that processes of this host hold, whoever asked for them."""
        return self.shell("ps -eo comm= | grep -E '^(conmon|containerd-shim)' || true").split()

    def reboot(self) -> None:
        """Off by systemd's own shutdown, and on again."""
        docker("stop", "-t", "60", self.name)
        docker("start", self.name)
        self.wait(lambda: self.run("systemctl", "is-system-running", check=False).strip() in ("running", "degraded"))


class NewestHost(EngineHost):
    """The newest Docker, without systemd, whose newest release wants newer control groups than some machines have.

    store: where it keeps images (classic, or containerd, which is what a fresh Docker 29 does). It takes no older API than Docker 29 takes.
    """

    def __init__(self, name: str, store: str) -> None:
        super().__init__(name)
        self.store = store

    def __enter__(self) -> NewestHost:
        docker("rm", "-f", "-v", self.name, check=False)
        argv = ["--init", "--name", self.name, "--network", "none", "--label", "sunset-lab=no", "--tmpfs", "/run", "--tmpfs", "/tmp"]
        docker(
            "run",
            "-d",
            *argv,
            *engine.cgroup_arguments(),
            *self.docker_arguments,
            ensure_image(NEWEST, NEWEST_PACKAGES),
            "sleep",
            "infinity",
        )
        try:
            # It has no network, and no firewall of its own.
            settings = {
                "features": {"containerd-snapshotter": self.store == "containerd"},
                "bridge": "none",
                "iptables": False,
                "ip6tables": False,
            }
            self.write("/etc/docker/daemon.json", json.dumps(settings))
            self.up()
            self.load(["python3", "-c", LOAD])
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        # What is paused inside hears no kill, and would hold the whole of it.
        self.run("python3", "-c", CLEAR, check=False)
        super().__exit__(*exception)

    def listened(self) -> int:
        """How often it has begun to listen. Whether that is its last word so far says nothing: it goes on talking."""
        return int(self.shell("grep -c 'API listen' /var/log/dockerd.log 2>/dev/null || true") or 0)

    def up(self) -> None:
        before = self.listened()
        line = "exec dockerd --pidfile /run/docker.pid >>/var/log/dockerd.log 2>&1"
        docker("exec", "-d", "-e", "DOCKER_MIN_API_VERSION=1.44", self.name, "sh", "-c", line)
        self.wait(lambda: self.listened() > before)

    def restart(self) -> None:
        self.shell("pid=$(cat /run/docker.pid); kill $pid; while kill -0 $pid 2>/dev/null; do sleep 0.1; done")
        self.up()


LOAD = f"""
import http.client, json, socket, sys
line = http.client.HTTPConnection("localhost")
line.sock = socket.socket(socket.AF_UNIX); line.sock.connect({DOCKER!r})
line.request("POST", "/images/load", sys.stdin.buffer.read(), {{"Content-Type": "application/x-tar"}})
assert b"Loaded image" in line.getresponse().read()
"""


CLEAR = f"""
import http.client, json, socket
line = http.client.HTTPConnection("localhost")
line.sock = socket.socket(socket.AF_UNIX); line.sock.connect({DOCKER!r})
line.request("GET", "/containers/json?all=1")
for row in json.loads(line.getresponse().read()):
    line.request("DELETE", "/containers/" + row["Id"] + "?force=1&v=1")
    line.getresponse().read()
"""


def sdk(way: Any) -> Any:
    """The Docker SDK through an open relay."""
    import docker as package

    return package.APIClient(base_url=f"unix://{way.address}", version="auto", timeout=60)
