# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks of guests whose hypervisor stays, from a real libvirt through survey, plan, snapshot, gates, wipe and certificate to the closing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from ansible_collections.sunset.crm.plugins.plugin_utils.certificates import certificate, certify
from ansible_collections.sunset.crm.plugins.plugin_utils.people import signatures
from ansible_collections.sunset.crm.plugins.plugin_utils.planning import survey
from ansible_collections.sunset.crm.plugins.plugin_utils.record import ledger
from ansible_collections.sunset.crm.plugins.plugin_utils.record.view import build
from ansible_collections.sunset.crm.plugins.plugin_utils.runs import closing
from tests.integration import volume_images as images
from tests.integration.libvirt_world import OBEYS, World
from tests.integration.test_libvirt_flow import TOP, Flow
from tests.integration.volume_images import markers, tool
from tests.unit import builders

SET, DISK, DATA = "guest:crm", "medium:crm-db1-hda", "medium:crm-db1-hdb"
Result = dict[str, Any]
XML = "<disk type='file'><driver name='qemu' type='{1}'/><source file='{0}'/><target dev='{2}' bus='ide'/></disk>"


class Stays(Flow):
    """One hypervisor that stays, with a guest that is retired (a chain, and a raw disk) and one that is not."""

    def __init__(self, folder: Path, world: World) -> None:
        self.folder, self.world = folder, world
        self.base = world.disk("base", OBEYS, "qcow2", size=4 << 20)
        self.top = world.disk("db1", form="qcow2", backing=self.base)
        self.data = images.raw(world.folder / "disks" / "db1-data.raw")
        self.wiki = images.raw(world.folder / "disks" / "wiki.raw")
        part = folder / "part"
        part.write_bytes(images.text(1))
        for image in (self.base, self.top):
            tool("qemu-io", "-f", "qcow2", "-c", f"write -q -s {part} 2M 1M", image)
        world.define("db1", disks=XML.format(self.top, "qcow2", "hda") + XML.format(self.data, "raw", "hdb"), start=False)
        world.define("wiki", disks=XML.format(self.wiki, "raw", "hda"), start=False)
        (folder / "keys").mkdir()
        self.keys = builders.make_keys(folder / "keys")
        self.declared = {
            "kind": "guest", "name": "crm", "backend": "libvirt", "guests": ["db1"], "uri": world.uri, "staging": world.staging,
            "shared_hypervisor": True,
        }  # fmt: skip
        self.inventory = folder / "hosts.yml"
        common = {
            "ansible_connection": "local", "ansible_python_interpreter": sys.executable, "sunset_confirm": "acme",
            "sunset_estate_dir": str(folder / "estate"),
        }  # fmt: skip
        groups = {"sunset_estate": {"hosts": {"kvm1": None}}}
        self.inventory.write_text(
            yaml.safe_dump({"all": {"hosts": dict.fromkeys(("kvm1", "gatevault")), "vars": common, "children": groups}})
        )

    def surveyed(self) -> Result:
        """What guest_survey returns on this host."""
        play = {
            "hosts": "kvm1", "gather_facts": False,
            "tasks": [
                {"sunset.crm.guest_survey": {"items": [self.declared]}, "register": "seen"},
                {"ansible.builtin.copy": {"content": "{{ seen | to_json }}", "dest": str(self.folder / "seen.json")}},
            ],
        }  # fmt: skip
        book = self.folder / "survey.yml"
        book.write_text(yaml.safe_dump([play]))
        done = subprocess.run(
            [str(Path(sys.executable).with_name("ansible-playbook")), "-i", str(self.inventory), str(book)],
            cwd=TOP, capture_output=True, text=True, check=False,
            env={**self.environment(), "ANSIBLE_CONFIG": str(TOP / "ansible.cfg"), "ANSIBLE_COLLECTIONS_PATH": str(TOP / ".collections")},
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        found: Result = json.loads((self.folder / "seen.json").read_text())
        return found

    @staticmethod
    def environment() -> dict[str, str]:
        return {**os.environ, "ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.default", "ANSIBLE_NOCOLOR": "1"}

    def build(self, seen: Result, **more: Any) -> tuple[Result, list[str]]:
        estate = {
            "estate": "acme", "waves": ["only"], "vaults": {"gatevault": {"root": str(self.folder / "vault")}}, "allowed_signers": "nobody",
            "custodians": [{"name": "carol", "recipient": "age1carol"}], "settings": {"grace_seconds": 0},
        }  # fmt: skip
        facts = {
            "wave": "only", "power": {"kind": "none"}, "reach": {"user": "root", "address": "localhost", "port": 22, "host_key": ""},
            "items": [self.declared], "stays": True,
            "survey": {
                "hostname": "kvm1", "machine_id": Path("/etc/machine-id").read_text().strip(), "expected": seen["expected"],
                "findings": seen["findings"],
            }, **more,
        }  # fmt: skip
        return survey.build(estate, {"kvm1": facts})

    def retire(self, data: Result) -> None:
        """The estate's folder when all but the wipe is done: the save is the real one, with a real external snapshot."""
        saved = self.world.save("db1", snapshot="external")
        assert saved["evidence"]["verdict"] == "yes", saved
        for item in data["items"]:
            if item["kind"] == "medium":
                item["expects"]["state_directory"] = str(self.folder / "jobs")
        self.plan = builders.make_plan(data)
        book = builders.Book(self.plan)
        book.add(kind="accepted", wave="only")
        book.step(SET, "libvirt_guests", "stopped", former={"db1": {}})
        book.step(SET, "libvirt_guests", "saved", result=saved["evidence"]["result"])
        book.step("host:kvm1", "vault_package", "open", "gatevault", result={"identity_digest": "k"})
        book.step(SET, "vault_pull", None, "gatevault")
        book.step(SET, "vault_prove", None, "gatevault", result={"verdict": "equal"})
        book.step("host:kvm1", "vault_package", "sealed", "gatevault", result={"identity_digest": "k"})
        book.step("host:kvm1", "vault_package", "forgotten", "gatevault", result={"identity_digest": "k"})
        self.estate = builders.make_estate(self.folder / "estate", self.keys, data, book)

    def authorise(self) -> None:
        media = [
            {"item": one["id"], "serial": one["identity"]["serial"], "size": one["identity"]["size"], "method": one["wipe"]["method"]}
            for one in self.plan.of("medium")
        ]
        expires = (datetime.now(UTC) + timedelta(days=1)).isoformat()
        document = {"kind": "authorisation", "estate": "acme", "media": media, "expires": expires}
        builders.say(self.estate.statements_folder, "wipe", self.keys["bob"], signatures.AUTHORISATION, document)

    def overlays(self) -> list[Path]:
        return [Path(disk["source"]) for disk in self.engine_disks()]

    def engine_disks(self) -> list[Result]:
        with self.world.engine() as engine:
            found: list[Result] = engine.disks()["db1"]
        return found


WIPE: Result = {
    "hosts": "sunset_run_station",
    "gather_facts": False,
    "tasks": [{"ansible.builtin.include_role": {"name": "sunset.crm.wipe"}}],
}


@pytest.fixture
def stays() -> Iterator[Stays]:
    with tempfile.TemporaryDirectory(prefix="sunset-vd-") as folder:
        world = World(Path(folder) / "w")
        try:
            world.up()
            yield Stays(Path(folder), world)
        finally:
            world.close()


def test_from_the_survey_to_the_certificates(stays: Stays) -> None:
    seen = stays.surveyed()
    disks = seen["expected"][SET]["disks"]
    assert {(one["guest"], one["target"], one["stranger"]) for one in disks} == {
        ("db1", "hda", False), ("db1", "hdb", False), ("wiki", "hda", True),
    }  # fmt: skip
    chain = next(one for one in disks if one["target"] == "hda" and one["guest"] == "db1")["chain"]
    assert [one["path"] for one in chain] == [str(stays.top), str(stays.base)]
    data, lacks = stays.build(seen)
    assert lacks == [] and {item["id"] for item in data["items"]} == {"host:kvm1", SET, DISK, DATA}

    stays.retire(data)
    files = [stays.top, stays.base, stays.data, *stays.overlays()]
    assert len(set(files)) == 5, "the snapshot has put one more on each disk"
    before, wiki = markers(*files), stays.wiki.read_bytes()
    assert before > 200000

    code, out = stays.run("wipe", WIPE)
    assert code != 0 and "no authorisation names it" in out, out
    stays.authorise()
    code, out = stays.run("wipe", WIPE, options=("--check",))
    assert code == 0 and "changed=1" in out and "failed=0" in out, out
    assert markers(*files) == before

    code, out = stays.run("wipe", WIPE)
    assert code == 0 and "changed=1" in out, out
    assert markers(*files) == 0 and stays.wiki.read_bytes() == wiki
    for option in ((), ("--check",)):
        code, out = stays.run("wipe", WIPE, options=option)
        assert code == 0 and "changed=0" in out, out

    view = build(ledger.read(stays.estate.ledger_file), plan=stays.plan)
    assert certify.gaps(stays.estate, stays.plan, view, ["only"]) == []
    assert closing.unfinished(stays.plan, view, "wipe", ["only"]) == []
    for item in (DISK, DATA):
        path = stays.estate.certificates_folder / certificate.file_name({"medium": {"item": item}})
        paper = json.loads(path.read_bytes())
        assert paper["sanitisation"]["called"] == "logical sanitisation"
        assert set(paper["sanitisation"]["classes"].values()) == {"logical sanitisation"}
        assert (paper["decision"]["asked"], paper["decision"]["chosen"]["class"]) == ("clear", "logical")
        assert "not covered" in paper["sanitisation"]["statement"]
        assert path.with_suffix(".pdf").exists()
        for check in paper["check"][1:]:
            done = subprocess.run(["sh", "-c", check["command"]], capture_output=True, text=True, check=False)
            assert check["expect"] in done.stdout, (check, done.stdout, done.stderr)
    work = json.loads((stays.estate.certificates_folder / certificate.file_name({"medium": {"item": DISK}})).read_bytes())["sanitisation"]
    layers = [one["path"] for one in work["layers"]]
    assert len(layers) == 4 and layers[1:3] == [str(stays.top), str(stays.base)]
    assert Path(layers[3]).parent == Path(stays.world.staging), "what was staged of the guest goes with its first disk"


def test_a_base_that_a_guest_outside_the_set_uses_stops_the_plan_by_name(stays: Stays) -> None:
    shared = stays.world.disk("wiki-top", form="qcow2", backing=stays.base)
    stays.world.define("wiki2", disks=XML.format(shared, "qcow2", "hda"), start=False)
    _data, lacks = stays.build(stays.surveyed())
    assert len(lacks) == 1 and f"{stays.base} on kvm1 is a layer of the disk hda of db1, and of the guest wiki2" in lacks[0]


def test_a_guest_that_was_started_again_keeps_its_disks(stays: Stays) -> None:
    data, _lacks = stays.build(stays.surveyed())
    stays.retire(data)
    stays.authorise()
    stays.world.domain("db1", lambda one: one.create())
    before = markers(stays.top, stays.base, stays.data)
    code, out = stays.run("wipe", WIPE)
    assert code != 0 and "is opened by the process" in out and "qemu-system" in out, out
    assert markers(stays.top, stays.base, stays.data) == before
