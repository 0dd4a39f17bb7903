# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One scenario: its small estate with an approved plan, its part of the world, and how that part is read."""

from __future__ import annotations

import json
import shutil
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.sunset.crm.plugins.plugin_utils.planning import survey
from ansible_collections.sunset.crm.plugins.plugin_utils.record import ledger, view
from tests.lab import paths as lab
from tests.lab.shell import LabError, run

from . import world

Declaration = dict[str, Any]
FACTS = Path(__file__).with_name("facts.py").read_bytes()
NOWHERE = {"serial": "MOLECULE-NOWHERE", "size": world.MIB}
"""The medium of data sets whose medium plays no part."""


@dataclass(frozen=True)
class Moment:
    """When a run is killed: so many seconds after the intent of one step is in the ledger, or after a text was printed."""

    seconds: float
    item: str = ""
    aspect: str = ""
    text: str = ""
    extra: tuple[str, ...] = ()  # variables of the run that is killed
    both: tuple[str, ...] = ()  # and of the one after it too


class Scenario(ABC):
    name: str
    moment: Moment

    @property
    def folder(self) -> Path:
        return world.STATE / self.name

    @property
    def estate(self) -> Path:
        return self.folder / "estate"

    @property
    def estate_name(self) -> str:
        return f"molecule-{self.name}"

    @abstractmethod
    def lay(self) -> None:
        """Put this scenario's part of the world back to the first day, whatever an earlier run left of it."""

    @abstractmethod
    def look(self) -> dict[str, Any]:
        """Read this scenario's part of the world, past Ansible and past the collection."""

    def declared(self) -> dict[str, list[Declaration]]:
        """Host -> items, as an inventory would declare them, with C(identity) and C(media) as a survey would find them."""
        return {}

    def settings(self) -> dict[str, Any]:
        return {}

    def prepare(self) -> None:
        if not world.READY.exists():
            raise LabError("the containers are not there: molecule destroy, then molecule create (scripts/test molecule does both)")
        shutil.rmtree(self.folder, ignore_errors=True)
        self.estate.mkdir(mode=0o700, parents=True)
        self.lay()
        if self.declared():
            self._write_plan()
        self.sign()

    def sign(self) -> None:  # noqa: B027
        """What people sign beside the plan's approval."""

    # --- the plan ---

    def _write_plan(self) -> None:
        where = world.addresses()
        waves = ["only"]
        estate = {
            "estate": self.estate_name,
            "waves": waves,
            "vaults": {"vault1": {"root": "/srv/vault"}},
            "custodians": [{"name": "bob", "recipient": world.age_identity()[1]}],
            "settings": self.settings(),
            "allowed_signers": world.allowed_signers(),
        }
        hosts = {name: self._host(name, items, where) for name, items in self.declared().items()}
        plan, lacks = survey.build(estate, hosts)
        if lacks:
            raise LabError("; ".join(lacks))
        path = self.estate / "plan.json"
        path.write_text(json.dumps(plan, indent=1, sort_keys=True) + "\n")
        statement("alice", "approve", path, self.estate_name)

    def _host(self, name: str, items: list[Declaration], where: dict[str, str]) -> dict[str, Any]:
        host = world.HOSTS[name]
        expected = {
            f"{item['kind']}:{item['name']}": {
                "found": "yes",
                "identity": item.get("identity") or {"name": item["name"]},
                "media": [NOWHERE] if item["kind"] in ("database", "filestore") else [],
            }
            for item in items
        }
        return {
            "wave": "only",
            "power": {"kind": "docker", "container": host.container},
            "reach": {
                "address": where.get(name, name),
                "port": 22,
                "user": host.user,
                "host_key": world.public("host"),
            },
            "items": items,
            "survey": {"machine_id": world.machine_id(name), "hostname": name, "expected": expected, "findings": []},
        }

    # --- the ledger ---

    def book(self) -> dict[str, Any]:
        """What the ledger says; reading it checks its chain."""
        entries = ledger.read(self.estate / "ledger.jsonl")
        records = [entry.record for entry in entries]
        seen = view.build(entries)
        ended = {record["intent"] for record in records if record["kind"] == "outcome"}
        return {
            "done": sorted(f"{item} {aspect} {found.value}" for (item, aspect), found in seen.seen.items()),
            "interrupted": sorted(
                f"{entry.record['item']} {entry.record['aspect']}"
                for entry in entries
                if entry.record["kind"] == "intent" and entry.hash not in ended
            ),
            "refused": sorted(str(record["item"]) for record in records if record["kind"] == "refused"),
            "accepted": sorted(seen.accepted),
            "verified": [f"{record['vault']} {record['verdict']}" for record in records if record["kind"] == "verified"],
        }

    def result(self, item: str, aspect: str) -> dict[str, Any]:
        found = view.build(ledger.read(self.estate / "ledger.jsonl")).get(item, aspect)
        return found.result if found else {}


def statement(person: str, verb: str, plan: Path, estate: str, *options: str, items: tuple[str, ...] = ()) -> None:
    """A person signs, with the script that people get and a key that the collection never sees."""
    script = [sys.executable, str(lab.TOP / "scripts/statement"), verb, "--key", str(world.ssh_key(person)), "--yes", estate]
    run([*script, *options, str(plan), *items])


def facts(host: str, **wanted: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(world.execute(host, ["python3", "-I", "-", json.dumps(wanted)], stdin=FACTS))
    return found
