# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The role guests with the real ansible-playbook, ledger and gates, on a real libvirt: once, again, killed in the middle, and back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ansible_collections.sunset.crm.plugins.plugin_utils.record import ledger
from ansible_collections.sunset.crm.plugins.plugin_utils.record.estate import Estate
from tests.integration.libvirt_world import OBEYS, World, slow, wait
from tests.integration.rescue_world import kill_tree
from tests.unit import builders

TOP = Path(__file__).parents[2]
SET = "guest:crm"
HOSTS = ("kvm1", "gatevault", "station1")
Result = dict[str, Any]


class Flow:
    """An estate with one hypervisor, which is this machine by a local connection."""

    def __init__(self, folder: Path, world: World) -> None:
        self.folder, self.world = folder, world
        world.define("flow-a", slow(12), autostart=True)
        world.define("flow-b", OBEYS)
        world.define("flow-off", OBEYS, start=False)
        world.define("wiki", OBEYS, start=False)
        (folder / "keys").mkdir()
        with world.engine() as engine:
            shown, hypervisor = engine.everything(), engine.host()
        names = ["flow-a", "flow-b", "flow-off"]
        self.declared = {
            "kind": "guest", "name": "crm", "backend": "libvirt", "guests": names, "uri": world.uri, "staging": world.staging, "copy": True,
        }  # fmt: skip
        guests = {
            **builders.guest("crm", "kvm1", "only", names),
            "expects": {key: value for key, value in self.declared.items() if key not in ("kind", "name")},
            "identity": {"guests": names, "ids": {name: shown[name]["id"] for name in names}, "hypervisor": hypervisor},
        }
        items = [builders.host("kvm1", "only"), guests, builders.medium("kvm", "kvm1", "only")]
        items[0]["identity"] = {"hostname": "kvm1", "machine_id": Path("/etc/machine-id").read_text().strip()}
        data = builders.plan_data(waves=["only"], vaults={"gatevault": {"root": str(folder / "vault")}}, items=items)
        self.estate: Estate = builders.make_estate(folder / "estate", builders.make_keys(folder / "keys"), data)
        common = {
            "ansible_connection": "local",
            "ansible_python_interpreter": sys.executable,
            "sunset_estate_dir": str(self.estate.root),
            "sunset_confirm": "acme",
        }
        self.inventory = folder / "hosts.yml"
        groups = {"sunset_estate": {"hosts": {"kvm1": None}}}
        self.inventory.write_text(yaml.safe_dump({"all": {"hosts": dict.fromkeys(HOSTS), "vars": common, "children": groups}}))

    def start(self, phase: str, *plays: Result, options: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        opening = {"import_playbook": str(TOP / "playbooks/internal/open.yml"), "vars": {"sunset_phase": phase}}
        book = self.folder / "book.yml"
        book.write_text(yaml.safe_dump([opening, *plays], sort_keys=False))
        probed = json.dumps({"sunset_vault_seen": {"vault": {"uid": 906, "problems": [], "disks": []}}})
        environment = {
            **os.environ,
            "ANSIBLE_CONFIG": str(TOP / "ansible.cfg"),
            "ANSIBLE_COLLECTIONS_PATH": str(TOP / ".collections"),
            "ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.default",
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_LOCAL_TEMP": str(self.folder / "tmp"),
        }
        line = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", str(self.inventory), "-e", probed, str(book), *options]
        return subprocess.Popen(
            line, cwd=TOP, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )

    def run(self, phase: str, *plays: Result, options: tuple[str, ...] = ()) -> tuple[int, str]:
        child = self.start(phase, *plays, options=options)
        out, _ = child.communicate(timeout=240)
        return child.returncode, " ".join(out.split())

    def kinds(self, kind: str) -> list[Result]:
        return [entry.record for entry in ledger.read(self.estate.ledger_file) if entry.record.get("kind") == kind]


GUESTS: Result = {
    "hosts": "sunset_late_estate",
    "gather_facts": False,
    "tasks": [{"ansible.builtin.include_role": {"name": "sunset.crm.guests"}, "vars": {"guests_timeout": 60}}],
}
BACK: Result = {
    "hosts": "kvm1",
    "gather_facts": False,
    "tasks": [{"sunset.crm.libvirt_guests": {"item": SET, "state": "started", "timeout": 60}}],
}


@pytest.fixture
def flow() -> Iterator[Flow]:
    with tempfile.TemporaryDirectory(prefix="sunset-lv-") as folder:
        world = World(Path(folder) / "w")
        try:
            world.up()
            yield Flow(Path(folder), world)
        finally:
            world.close()


def test_a_run_that_is_killed_and_the_same_again_and_back(flow: Flow) -> None:
    """[Fact 10] Real guests, in software."""
    code, out = flow.run("shutdown", GUESTS, options=("--check",))
    assert code == 0, out
    assert (flow.world.state("flow-b")[0], flow.kinds("intent")) == (1, [])

    child = flow.start("shutdown", GUESTS)
    # The word that a guest is asked stands in the ledger before the request goes out: that the second is off shows that both went out.
    wait(lambda: len(flow.kinds("asked")) == 2 and flow.world.state("flow-b")[0] == 5, 60, "both were asked, and one is off")
    # A worker is in a session of its own; a machine that loses its power takes it along.
    kill_tree(child.pid)
    child.communicate()
    assert flow.kinds("outcome") == []

    code, out = flow.run("shutdown", GUESTS)
    assert code == 0, out
    assert len(flow.kinds("asked")) == 2, "nobody who was coming down was asked again"
    stopped, saved = flow.kinds("outcome")
    assert (stopped["status"], stopped["value"], saved["status"], saved["value"]) == ("done", "stopped", "done", "saved")
    former = stopped["evidence"]["result"]["former"]
    assert {name: (one["power"], one["autostart"]) for name, one in former.items()} == {
        "flow-a": ("on", True), "flow-b": ("on", False), "flow-off": ("off", False),
    }  # fmt: skip
    assert len(saved["evidence"]["result"]["artefacts"]) == 6
    assert flow.world.domain("flow-a", lambda one: one.autostart()) == 0

    code, out = flow.run("shutdown", GUESTS)
    assert (code, "changed=0" in out) == (0, True), out

    # The hypervisor is rebooted: everything stays off.
    flow.world.reboot()
    assert [flow.world.state(name)[0] for name in ("flow-a", "flow-b", "flow-off")] == [5, 5, 5]

    code, out = flow.run("resume", BACK)
    assert code == 0, out
    assert [flow.world.state(name)[0] for name in ("flow-a", "flow-b", "flow-off")] == [1, 1, 5]
    assert flow.world.domain("flow-a", lambda one: one.autostart()) == 1
    code, out = flow.run("resume", BACK)
    assert (code, "changed=0" in out) == (0, True), out

    # The other side: with its autostart put back, the one guest comes back with the hypervisor.
    flow.world.reboot()
    wait(lambda: flow.world.state("flow-a")[0] == 1, 120, "flow-a comes back")
    assert [flow.world.state(name)[0] for name in ("flow-b", "flow-off")] == [5, 5]


def test_the_survey_asks_the_hypervisor_and_names_what_nobody_planned(flow: Flow) -> None:
    look: Result = {
        "hosts": "kvm1",
        "gather_facts": False,
        "tasks": [
            {"sunset.crm.guest_survey": {"items": [flow.declared]}, "register": "seen"},
            {"ansible.builtin.copy": {"content": "{{ seen | to_json }}", "dest": str(flow.folder / "seen.json")}},
        ],
    }
    code, out = flow.run("shutdown", look)
    assert code == 0, out
    seen = json.loads((flow.folder / "seen.json").read_text())
    assert seen["expected"][SET]["found"] == "yes"
    assert seen["expected"][SET]["identity"] == flow.estate.plan().items[SET]["identity"] | {
        "uuids": seen["expected"][SET]["identity"]["ids"]
    }
    assert [one["id"] for one in seen["findings"]] == ["guest:wiki"]


def test_the_look_before_the_power_off_asks_the_hypervisor_again(flow: Flow) -> None:
    """A guest that came after the plan was approved, or one that runs again, keeps the hypervisor on."""
    look: Result = {
        "hosts": "kvm1",
        "gather_facts": False,
        "tasks": [{"sunset.crm.host_look": {"item": "host:kvm1"}}],
    }
    code, out = flow.run("shutdown", look)
    assert code != 0
    assert "guest:wiki" in out
    assert "flow-a (running), flow-b (running) still runs, says the hypervisor" in out
