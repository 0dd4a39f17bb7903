# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The ends: hosts that go off, media that are wiped."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from tests.lab import engine
from tests.lab.shell import run

from . import world
from .applications import nowhere
from .base import Declaration, Moment, Scenario, statement
from .copies import database

MARKER = b"Zo\xc3\xab Muster, customer 4711; "


def full(part: str) -> bytes:
    """Customer data from the first byte of a medium to the last."""
    size = world.MEDIA_MIB[part] * world.MIB
    return (MARKER * (size // len(MARKER) + 1))[:size]


class PowerOff(Scenario):
    """calm: idle1, torn: idle2, kept: data1, on which lies a database that nobody has copied."""

    name = "power_off"
    hosts = {"calm": "idle1", "torn": "idle2", "kept": "data1"}
    moment = Moment(0.15, "host:idle2", "power")

    def lay(self) -> None:
        for host in self.hosts.values():
            world.ensure_on(host)

    def declared(self) -> dict[str, list[Declaration]]:
        return {"idle1": [], "idle2": [], "data1": [database("power_off-kept", "/srv/s"), nowhere()]}

    def look(self) -> dict[str, Any]:
        seen = {}
        for part, host in self.hosts.items():
            state = (engine.inspect(world.HOSTS[host].container) or {})["State"]
            seen[part] = {
                "status": state["Status"],
                "exit_code": state["ExitCode"],
                "oom_killed": state["OOMKilled"],
                "began": state["StartedAt"],
            }
        return seen


class Wipe(Scenario):
    """Three disks of a host that is off; the third is in nobody's authorisation."""

    name = "wipe"
    moment = Moment(1.5, "medium:wipe-torn", "wipe", extra=("-e", f"wipe_rate={5 * world.MIB}"))

    def lay(self) -> None:
        world.ensure_on("gone1")
        world.shell("station1", "rm -rf /var/lib/sunset-crm")
        for part in world.PARTS:
            world.fill_medium(part, full(part))

    def declared(self) -> dict[str, list[Declaration]]:
        return {
            "gone1": [
                {
                    "kind": "medium",
                    "name": f"wipe-{part}",
                    "device": world.device(part),
                    "identity": world.identity(part),
                    "wipe": {"way": "station", "host": "station1"},
                }
                for part in world.PARTS
            ]
        }

    def sign(self) -> None:
        plan, folder = self.estate / "plan.json", str(self.estate / "statements")
        statement("bob", "authorise", plan, self.estate_name, "--out", folder, items=("medium:wipe-calm", "medium:wipe-torn"))
        grace = ("--gate", "grace", "--reason", "a test does not wait two weeks", "--out", folder)
        statement("alice", "waive", plan, self.estate_name, *grace, items=("*",))

    def look(self) -> dict[str, Any]:
        return {part: self._medium(part) for part in world.PARTS}

    def _medium(self, part: str) -> dict[str, Any]:
        node, size = world.device(part), world.MEDIA_MIB[part] * world.MIB
        run(["blockdev", "--flushbufs", node])
        with open(node, "rb") as stream:
            content = stream.read()
        first = hashlib.sha256(full(part)).hexdigest()
        seen: dict[str, Any] = {
            "sha256": hashlib.sha256(content).hexdigest(),
            "first": first,
            "marked": MARKER in content,
            "whole": len(content) == size,
        }
        certificates = sorted((self.estate / "certificates").glob(f"*wipe-{part}*.json"))
        seen["certificates"] = len(certificates)
        if certificates:
            signers = str(self.estate / "allowed_signers")
            signature = f"{certificates[0]}.sig"
            argv = ["ssh-keygen", "-Y", "verify", "-f", signers, "-I", "run", "-n", "certificate@sunset.crm", "-s", signature]
            seen["signed"] = run(argv, stdin=certificates[0].read_bytes(), check=False).returncode == 0
            key = json.loads(certificates[0].read_text())["sanitisation"]["algorithm"]["key"]
            plain = run(["openssl", "enc", "-d", "-aes-256-ctr", "-K", key, "-iv", "0" * 32], stdin=content).stdout
            seen["stream"] = plain == bytes(size)
        return seen
