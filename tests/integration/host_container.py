# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A throw-away estate host (systemd in a container of the lab's image) and a way to run modules on it without a controller.

The modules and what they import are packed into the container once; a call is one `python3` there, with the very
arguments that Ansible would hand over. That makes a call cheap, and it can be killed at any moment.
"""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ansible

from ansible_collections.sunset.crm.plugins.module_utils._recorded import make_receipt

TOP = Path(__file__).resolve().parents[2]
LIBRARY = "/opt/sunset-test"
RUNNER = f"""
import importlib, json, sys
sys.path.insert(0, {LIBRARY!r})
import ansible.module_utils.basic as basic
name, arguments = sys.argv[1], sys.stdin.buffer.read()
basic._ANSIBLE_ARGS = arguments
basic._ANSIBLE_PROFILE = "legacy"
importlib.import_module("ansible_collections.sunset.crm.plugins.modules." + name).main()
"""

# Inside a container: what ends a module, and what lets the job that it started stand still.
KILL_MODULE = f"pids=$(pgrep -f '^/usr/bin/python3 {LIBRARY}/run.py'); kill -9 $pids || true"
STOP_JOB = "kill -STOP $(pgrep -f '[f]rame.py')"


def flip(path: str, at: int | None = None) -> str:
    """A shell script that turns one bit of a file around, in its middle or at a place: a byte written over may have been the same before."""
    return f"""python3 - {path} {"" if at is None else at} <<'P'
import os, sys
with open(sys.argv[1], "r+b") as stream:
    at = int((sys.argv[2:] or [os.path.getsize(sys.argv[1]) // 2])[0])
    stream.seek(at); byte = stream.read(1)[0]; stream.seek(at); stream.write(bytes([byte ^ 1]))
P
"""


def lab_arguments() -> tuple[list[str], str]:
    """How the lab runs its hosts' image (depends on the cgroup version), and the image, built if it is not there."""
    from tests.lab import engine, image

    return engine.cgroup_arguments(), image.ensure_host_image()


class Failed(AssertionError):
    """A module ended with fail_json."""

    def __init__(self, answer: dict[str, Any]) -> None:
        super().__init__(answer.get("msg", answer))
        self.answer = answer


def library() -> bytes:
    """ansible's own module_utils, and ours, as a tar. No bytecode: both sides may have another Python."""
    stream = io.BytesIO()
    source = Path(ansible.__file__).parent
    with tarfile.open(fileobj=stream, mode="w") as tar:

        def pack(path: Path, name: str) -> None:
            tar.add(path, f"{LIBRARY}/{name}".lstrip("/"), filter=lambda one: None if "__pycache__" in one.name else one)

        pack(source / "module_utils", "ansible/module_utils")
        for part in ("modules", "module_utils"):
            pack(TOP / "plugins" / part, f"ansible_collections/sunset/crm/plugins/{part}")
        version = f"__version__ = {ansible.__version__!r}\n__author__ = ''\n"
        for name, text in (("run.py", RUNNER), ("ansible/__init__.py", version)):
            entry = tarfile.TarInfo(f"{LIBRARY}/{name}".lstrip("/"))
            entry.size = len(text.encode())
            tar.addfile(entry, io.BytesIO(text.encode()))
    return stream.getvalue()


def docker(*argv: str, stdin: bytes = b"", check: bool = True) -> str:
    done = subprocess.run(["docker", *argv], input=stdin, capture_output=True, check=False)
    if check and done.returncode != 0:
        raise AssertionError(f"docker {' '.join(argv)}: {done.returncode} {done.stdout.decode()} {done.stderr.decode()}")
    return done.stdout.decode()


class HostContainer:
    """Use as a context; what is inside dies with it."""

    def __init__(self, name: str, *docker_arguments: str) -> None:
        self.name = name
        self.docker_arguments = docker_arguments

    def __enter__(self) -> HostContainer:
        docker("rm", "-f", "-v", self.name, check=False)
        argv = ["docker", "create", "--name", self.name, "--hostname", self.name, "--network", "none"]
        argv += ["--stop-signal", "SIGRTMIN+3", "--tmpfs", "/run", "--tmpfs", "/run/lock", "--tmpfs", "/tmp"]
        arguments, image = self.how()
        argv += [*arguments, *self.docker_arguments, image, "/sbin/init"]
        docker(*argv[1:])
        try:
            docker("start", self.name)
            docker("cp", "-", f"{self.name}:/", stdin=library())
            self.wait(lambda: self.run("systemctl", "is-system-running", check=False).strip() in ("running", "degraded"))
        except BaseException:
            self.__exit__()
            raise
        return self

    def how(self) -> tuple[list[str], str]:
        return lab_arguments()

    def __exit__(self, *_exception: object) -> None:
        docker("rm", "-f", "-v", self.name, check=False)

    def run(self, *argv: str, check: bool = True, stdin: str = "") -> str:
        return docker("exec", "-i", self.name, *argv, stdin=stdin.encode(), check=check)

    def shell(self, script: str, check: bool = True) -> str:
        return self.run("sh", "-euc", script, check=check)

    def write(self, path: str, text: str, mode: str = "0644") -> None:
        self.run("sh", "-c", f"mkdir -p $(dirname {path}) && cat >{path} && chmod {mode} {path}", stdin=text)

    def read(self, path: str) -> str:
        return self.run("cat", path)

    @contextlib.contextmanager
    def promptly(self, condition: str, act: str) -> Iterator[None]:
        """Lies in wait inside the container before the block begins: once `condition` holds, `act` follows within 0.04 s.

        Two `docker exec`, one that looks and one that acts, lie seconds apart on a loaded machine. The act must have come to its end.
        """
        turns = f"i=0; until {condition}; do i=$((i+1)); [ $i -lt 3000 ] || exit 9; sleep 0.04; done"
        argv = ["docker", "exec", "-i", self.name, "sh", "-euc", f"echo ready; {turns}; {act}"]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            try:
                yield
                out, err = process.communicate(timeout=180)
            except BaseException:
                process.kill()
                raise
            assert process.returncode == 0, f"{'never seen: ' + condition if process.returncode == 9 else act}: {out} {err}"

    @contextlib.contextmanager
    def held(self, condition: str, name: str, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
        """A module whose job stands still from the moment that `condition` holds to the end of the block: what is done there falls into its
        work for certain. The rate of a copy is an average, so what was missed is made up for: do nothing in haste after the block."""
        with self.promptly(condition, STOP_JOB):
            process = self.start_module(name, **options)
        try:
            yield process
        finally:
            self.shell("kill -CONT $(pgrep -f '[f]rame.py') || true")

    def wait(self, good: Any, seconds: float = 180) -> None:
        deadline = time.monotonic() + seconds
        while not good():
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {seconds} s")
            time.sleep(0.1)

    def start_module(self, name: str, check: bool = False, **options: Any) -> subprocess.Popen[bytes]:
        """Start a module; its process can be killed with kill_module()."""
        arguments = dict(options)
        if "item" in options:
            arguments.setdefault("receipt", make_receipt(name, options["item"], intent="test", check=check))
        arguments.update(_ansible_check_mode=check, _ansible_module_name=f"sunset.crm.{name}")
        process = subprocess.Popen(
            ["docker", "exec", "-i", self.name, "/usr/bin/python3", f"{LIBRARY}/run.py", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdin is not None
        process.stdin.write(json.dumps({"ANSIBLE_MODULE_ARGS": arguments}).encode())
        process.stdin.close()
        process.stdin = None
        return process

    def module(self, name: str, check: bool = False, **options: Any) -> dict[str, Any]:
        out, err = self.start_module(name, check=check, **options).communicate(timeout=120)
        try:
            answer = json.loads(out.decode())
        except ValueError:
            raise AssertionError(f"{name}: no JSON: {out.decode()!r} {err.decode()[-3000:]}") from None
        if answer.get("failed"):
            raise Failed(answer)
        assert isinstance(answer, dict)
        return answer

    def module_pids(self) -> list[str]:
        return self.shell(f"pgrep -f '^/usr/bin/python3 {LIBRARY}/run.py' || true").split()

    def kill_module(self) -> None:
        for pid in self.module_pids():
            self.run("kill", "-9", pid, check=False)
        self.wait(lambda: not self.module_pids())

    def snapshot(self, *paths: str) -> str:
        """Names, types, modes, owners, times, links and digests below these paths: byte-identical means equal text."""
        folders = " ".join(paths)
        return self.shell(
            f"find {folders} -printf '%p %y %m %u %g %T@ %l %i\\n' | sort;find {folders} -type f -exec sha256sum {{}} + | sort -k2"
        )
