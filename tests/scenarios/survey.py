# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The survey of seen1: an application and a file store that are declared, and a listener that nobody knows."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from tests.lab.shell import run

from . import world
from .applications import SERVE, unit
from .base import Moment, Scenario, facts

FORGOTTEN = "listener:tcp/8699:survey-forgotten.service"
INVENTORY: dict[str, Any] = {
    "sunset_estate": "molecule-survey",
    "sunset_waves": ["only"],
    "sunset_vaults": ["vault1"],
    "sunset_classified": [{"id": FORGOTTEN, "host": "seen1", "by": "alice", "as": "irrelevant", "reason": "a page that nobody reads"}],
}
SETUP = """
systemctl stop 'survey-*' 2>/dev/null || true
mountpoint -q /srv/papers || { mkdir -p /srv/papers; mount -t ext4 %(device)s /srv/papers; }
mkdir -p /srv/papers/files
echo text >/srv/papers/files/one.txt
systemctl daemon-reload
systemctl --quiet enable --now survey-web.service survey-forgotten.service
"""


def declared() -> dict[str, Any]:
    """The variables of seen1."""
    return {
        "sunset_wave": "only",
        "sunset_power": {"kind": "docker", "container": world.HOSTS["seen1"].container},
        "sunset_items": [
            {
                "kind": "application",
                "name": "survey-web",
                "uses": ["filestore:survey-papers"],
                "schedulers": {"units": [], "cron_files": ["/etc/cron.d/survey-web"]},
                "services": [{"unit": "survey-web.service", "ports": [8601]}],
            },
            {"kind": "filestore", "name": "survey-papers", "path": "/srv/papers/files", "staging": "/srv/papers/.staging"},
            {
                "kind": "medium",
                "name": "survey-papers",
                "device": world.device("papers"),
                "identity": world.identity("papers"),
                "wipe": {"way": "station", "host": "station1"},
            },
        ],
    }


def write_inventory() -> None:
    """The inventory of all scenarios; what belongs to the survey is of use to it alone."""
    signers = world.STATE / "allowed_signers"
    signers.write_text(world.allowed_signers())
    shared = {
        "molecule_state": str(world.STATE),
        "sunset_allowed_signers": str(signers),
        "sunset_custodians": [{"name": "bob", "recipient": world.age_identity()[1]}],
        **INVENTORY,
    }
    world.write_inventory({"vault1": {"sunset_vault_root": "/srv/vault"}, "seen1": declared()}, shared)


class Survey(Scenario):
    name = "survey"
    moment = Moment(0.1, text="TASK [sunset.crm.survey : Read the host", both=("-e", "molecule_estate=estate-torn"))

    def lay(self) -> None:
        node = world.device("papers")
        if run(["blkid", "-o", "value", "-s", "TYPE", node], check=False).stdout.strip() != b"ext4":
            world.check_own(node, world.medium_file("papers"))
            run(["mkfs.ext4", "-q", "-F", "-U", "11111111-2222-4333-8444-555555555555", node])
        serve = "/usr/bin/python3 -I /usr/local/lib/molecule/serve.py"
        files = {"/usr/local/lib/molecule/serve.py": SERVE, "/etc/cron.d/survey-web": "5 2 * * * root /bin/true\n"}
        world.write_files("seen1", {**files, **unit("survey-web", f"{serve} 8601 0"), **unit("survey-forgotten", f"{serve} 8699 0")})
        world.shell("seen1", SETUP % {"device": node})

    def look(self) -> dict[str, Any]:
        seen: dict[str, Any] = {
            "host": facts(
                "seen1",
                units=["survey-web.service", "survey-forgotten.service"],
                files=["/etc/**/*survey-*", "/srv/papers/**", "/usr/local/**", "/root/**", "/var/lib/sunset*/**"],
                ports=[8601, 8699],
            ),
        }
        for estate in sorted(self.folder.glob("estate*/plan.json")):
            plan = json.loads(estate.read_text())
            seen[estate.parent.name] = {
                "sha256": hashlib.sha256(estate.read_bytes()).hexdigest(),
                "items": sorted(item["id"] for item in plan["items"]),
                "machine_id": next(item["identity"]["machine_id"] for item in plan["items"] if item["kind"] == "host"),
                "serial": next(item["identity"]["serial"] for item in plan["items"] if item["kind"] == "medium"),
                "media": next(item["media"] for item in plan["items"] if item["kind"] == "filestore"),
                "unclassified": [found["id"] for found in plan["findings"] if not found["classified"]],
            }
        # The run that was killed left no plan, whole or torn: the next one began from nothing.
        killed = self.folder / "killed.log"
        seen["planned_when_killed"] = killed.exists() and "Build the plan" in killed.read_text()
        seen["machine_id"] = world.machine_id("seen1")
        return seen
