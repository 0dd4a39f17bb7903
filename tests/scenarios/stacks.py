# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The stacks of containers beside dock1."""

from __future__ import annotations

from typing import Any

from tests.lab import engine, image, paths as lab
from tests.lab.shell import out, run

from . import world
from .base import Declaration, Moment, Scenario, facts

QUICK = "trap 'exit 0' TERM; while :; do sleep 5 & wait $!; done"
SLOW = "trap 'sleep {seconds}; exit 0' TERM; while :; do sleep 1 & wait $!; done"
SLOWNESS = {"calm": 1, "torn": 4, "kept": 1}
POLICY = {"quick": "always", "slow": "unless-stopped"}


def container(part: str, kind: str) -> str:
    return f"{world.NAME}-{part}-{kind}"


class Containers(Scenario):
    """Two containers a stack, one that ends at once and one that takes its time."""

    name = "containers"
    moment = Moment(1.5, "container:containers-torn", "guest")

    def lay(self) -> None:
        mini = image.ensure_mini_image()
        world.shell("dock1", "rm -rf /srv/containers-*")
        for part in world.PARTS:
            for kind in POLICY:
                script = QUICK if kind == "quick" else SLOW.format(seconds=SLOWNESS[part])
                engine.remove(container(part, kind))
                labels = ["--label", world.LABEL, "--label", f"{lab.NAME}=no", "--label", f"{world.NAME}.stack={part}"]
                argv = ["docker", "run", "-d", "--name", container(part, kind), "--network", "none", "--restart", POLICY[kind]]
                run([*argv, *labels, "--env", "PASSWORD=never-in-the-ledger", mini, "/bin/sh", "-c", script])

    def declared(self) -> dict[str, list[Declaration]]:
        return {
            "dock1": [
                {
                    "kind": "container",
                    "name": f"containers-{part}",
                    "label": f"{world.NAME}.stack={part}",
                    "identity": {"containers": sorted(container(part, kind) for kind in POLICY)},
                    "shared_engine": True,
                    "staging": f"/srv/containers-{part}",
                }
                for part in world.PARTS
            ]
        }

    def look(self) -> dict[str, Any]:
        seen: dict[str, Any] = {}
        for part in world.PARTS:
            seen[part] = {}
            for kind in POLICY:
                found = engine.inspect(container(part, kind)) or {}
                seen[part][kind] = {
                    "id": found["Id"],
                    "running": found["State"]["Running"],
                    "exit_code": found["State"]["ExitCode"],
                    "policy": found["HostConfig"]["RestartPolicy"]["Name"],
                }
            staged = facts("dock1", files=[f"/srv/containers-{part}/**"])["files"]
            seen[part]["staged"] = staged
            seen[part]["recorded"] = {
                one["path"]: one["sha256"] for one in self.result(f"container:containers-{part}", "dump").get("artefacts", [])
            }
            for path in [path for path in staged if path.endswith(".image.tar.gz")]:
                seen[part].setdefault("layers", []).append(
                    world.shell("dock1", f"gzip -dc {path} | tar -t | grep -c 'layer.tar\\|^blobs/' || true").strip()
                )
        seen["images"] = out(
            ["docker", "image", "ls", "-q", "--filter", "label=org.sunset-crm.saved.id", "--filter", f"label={world.LABEL}"]
        ).split()
        seen["secret"] = "never-in-the-ledger" in ((self.estate / "ledger.jsonl").read_text() if self.book()["done"] else "")
        return seen
