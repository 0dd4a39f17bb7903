# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host that wipes its own disks, for real: an emulated machine with its root on NVMe and its data on a second disk.

The whole of it goes through the real role with gates and ledger. What was wiped is judged from outside, in the files behind the disks.
One machine for the story, in the order of the tests; another one for a host that does not come back.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ansible_collections.sunset.crm.plugins.plugin_utils import ledger, rescue, signatures
from ansible_collections.sunset.crm.plugins.plugin_utils.estate import Estate
from tests.integration.rescue_guest import DATA_MIB, DATA_SERIAL, MACHINE_ID, MIB, ROOT_MIB, ROOT_SERIAL, Guest, markers
from tests.unit import builders

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the disks of the emulated machine are made by root")

TOP = Path(__file__).parents[2]
HOST, ROOT, DATA = "resc1", "medium:root", "medium:data"
Result = dict[str, Any]


class World:
    """The machine, an estate of which it is the only host, retired up to the wipe, and ansible-playbook on it."""

    def __init__(self, folder: Path, **rescue: Any) -> None:
        self.folder = folder
        self.guest = Guest(folder)
        (folder / "keys").mkdir()
        self.keys = builders.make_keys(folder / "keys")
        data = self._plan(rescue)
        self.book = builders.complete(builders.make_plan(data), forgotten=True)
        self.estate: Estate = builders.make_estate(folder / "estate", self.keys, data, self.book)
        self.plan = self.estate.plan()
        self.inventory = folder / "hosts.yml"
        common = {"sunset_estate_dir": str(self.estate.root), "sunset_confirm": "acme", "ansible_python_interpreter": sys.executable}
        guest = {
            "ansible_host": "127.0.0.1", "ansible_port": self.guest.port, "ansible_user": "root",
            "ansible_python_interpreter": "/usr/bin/python3", "ansible_ssh_private_key_file": str(self.guest.key),
            "ansible_ssh_common_args": f"-o UserKnownHostsFile={self.guest.known_hosts} -o StrictHostKeyChecking=yes",
        }  # fmt: skip
        vaults = dict.fromkeys(builders.VAULTS, {"ansible_connection": "local"})
        self.inventory.write_text(yaml.safe_dump({"all": {"hosts": {HOST: guest, **vaults}, "vars": common}}))
        self.authorise({ROOT: ROOT_SERIAL, DATA: DATA_SERIAL})

    def _plan(self, rescue: Result) -> Result:
        host = builders.host(HOST, "only")
        host["identity"] = {"machine_id": MACHINE_ID, "hostname": "guest"}
        host["expects"] |= {
            "power": {"kind": "docker", "container": self.guest.name},
            "rescue": {"kernel_arguments": ["no_timer_check"], **rescue},
        }
        items = [host]
        for name, serial, mib, device in (("root", ROOT_SERIAL, ROOT_MIB, "/dev/nvme0n1"), ("data", DATA_SERIAL, DATA_MIB, "/dev/sda")):
            medium = builders.medium(name, HOST, "only")
            medium |= {
                "identity": {"serial": serial, "size": mib * MIB},
                "wipe": {"way": "kexec", "host": HOST},
                "expects": {"device": device},
            }
            items += [builders.filestore(name, HOST, "only", name), medium]
        return builders.plan_data(waves=["only"], items=items, settings={"grace_seconds": 0})

    def authorise(self, serials: dict[str, str]) -> None:
        media = [
            {"item": item, "serial": serial, "size": self.plan.items[item]["identity"]["size"], "method": "overwrite"}
            for item, serial in serials.items()
        ]
        document = {"kind": "authorisation", "estate": "acme", "media": media, "expires": "2099-01-01T00:00:00+00:00"}
        builders.say(self.estate.statements_folder, "authorisation", self.keys["bob"], signatures.AUTHORISATION, document)

    # --- ansible ---

    def start(self, tasks: list[Result] | None = None, check: bool = False, **more: Any) -> subprocess.Popen[str]:
        path = self.folder / "play.yml"
        opening = {
            "sunset.crm.run_open": {"phase": "wipe", "confirm": "acme", "operator": "olga"},
            "run_once": True,
            "register": "sunset_run",
        }
        members = {
            "ansible.builtin.add_host": {
                "name": "{{ one.host }}", "groups": ["sunset_run_{{ one.place }}"], "sunset_work": "{{ one['items'] }}",
            },
            "loop": "{{ sunset_run.members }}",
            "loop_control": {"loop_var": "one"},
        }  # fmt: skip
        gate = {"sunset.crm.run_gate": {"gate": "wipe"}, "run_once": True}
        plays = [
            {"hosts": "all", "tasks": [opening, members, *([] if tasks else [gate])]},
            {"hosts": "sunset_run_rescue", **({"tasks": tasks} if tasks else {"roles": ["sunset.crm.rescue"]})},
            {"hosts": "all", "tasks": [{"sunset.crm.run_close": None, "run_once": True}]},
        ]
        path.write_text(yaml.safe_dump([{"gather_facts": False, **play} for play in plays], sort_keys=False))
        probed = {"sunset_vault_seen": {"vault": {"uid": 906, "problems": []}}, "rescue_timeout": 400, **more}
        environment = {
            **os.environ, "ANSIBLE_CONFIG": str(TOP / "ansible.cfg"), "ANSIBLE_COLLECTIONS_PATH": str(TOP / ".collections"),
            "ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.default", "ANSIBLE_NOCOLOR": "1", "ANSIBLE_LOCAL_TEMP": str(self.folder / "tmp"),
        }  # fmt: skip
        argv = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", str(self.inventory), "-e", json.dumps(probed), str(path)]
        argv += ["--check"] if check else []
        log = (self.folder / "ansible.log").open("a")
        log.write(f"--- {more}\n")
        log.flush()
        return subprocess.Popen(argv, cwd=TOP, env=environment, stdout=log, stderr=subprocess.STDOUT, text=True, start_new_session=True)

    def run(self, seconds: float = 400, tasks: list[Result] | None = None, check: bool = False, **more: Any) -> tuple[int, str]:
        before = self.log()
        child = self.start(tasks, check, **more)
        try:
            code = child.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            raise AssertionError(f"no end after {seconds:g} s: {self.log()[-3000:]} console: {self.guest.said()[-1500:]}") from None
        return code, " ".join(self.log()[len(before) :].split())

    def log(self) -> str:
        path = self.folder / "ansible.log"
        return path.read_text() if path.exists() else ""

    def outcomes(self, module: str) -> list[Result]:
        lines = [entry.record for entry in ledger.read(self.estate.ledger_file)[len(self.book.entries) :]]
        return [line for line in lines if line["kind"] == "outcome" and line["module"] == module]

    def last(self, module: str) -> Result:
        return self.outcomes(module)[-1]

    # --- the world

    def end(self) -> None:
        self.guest.remove()
        for path in (self.guest.root, self.guest.data):
            path.unlink(missing_ok=True)

    def planted(self) -> tuple[int, int]:
        """Markers in the files behind root and data, read from outside."""
        return markers(self.guest.root), markers(self.guest.data)

    def inside(self, line: str) -> subprocess.CompletedProcess[str]:
        """In the rescue, by its own key and its pinned host key."""
        keys = rescue.Keys.of(self.estate, f"host:{HOST}", make=False)
        assert keys is not None
        argv = ["ssh", "-F", "/dev/null", "-o", "BatchMode=yes", "-i", str(keys.login), "-p", str(self.guest.port)]
        options = shlex.split(keys.arguments(None).replace("ControlPath=~/.ansible/cp/sr-%C", "ControlPath=none"))
        return subprocess.run([*argv, *options, "root@127.0.0.1", line], capture_output=True, text=True, timeout=60, check=False)

    def holds_the_stream(self, item: str, path: Path) -> bool:
        """openssl alone, on the file behind the disk, with the key that the certificate discloses."""
        (certificate,) = [json.loads(one.read_text()) for one in self.estate.certificates_folder.glob(f"*_{item[7:]}.certificate.json")]
        key = self.estate.secret(f"stream-{item}", make=False)
        assert key and key in json.dumps(certificate)
        script = 'openssl enc -d -aes-256-ctr -K "$2" -iv "$3" <"$1" | tr -d "\\0" | wc -c'
        done = subprocess.run(["sh", "-c", script, "sh", str(path), key, "0" * 32], check=True, capture_output=True, text=True)
        return done.stdout.strip() == "0"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("rescue"))
    yield made
    made.end()


def kill_tree(root: int) -> None:
    """A controller as a power cut ends it: Ansible's workers have sessions of their own and would finish the step."""
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    doomed = [root]
    for pid in doomed:
        doomed += [child for child, parent in parents.items() if parent == pid]
    for pid in doomed:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


ENTER: list[Result] = [
    {"sunset.crm.host_power": {"item": f"host:{HOST}", "state": "woken", "timeout": 400}},
    {"sunset.crm.rescue_boot": {"item": f"host:{HOST}", "timeout": 400}},
]


def test_without_the_second_persons_word_the_host_is_not_even_woken(world: World) -> None:
    folder = world.estate.statements_folder
    folder.rename(folder.with_name("away"))
    code, out = world.run(tasks=ENTER)
    folder.with_name("away").rename(folder)
    assert code != 0 and "no authorisation names it" in out, out
    assert world.guest.state() == "created" and not world.outcomes("host_power")


def test_a_rehearsal_wakes_nobody(world: World) -> None:
    code, out = world.run(check=True)
    assert code == 0, out
    assert world.guest.state() == "created" and not world.outcomes("host_power") and not world.outcomes("media_wipe")


def test_a_rescue_that_cannot_be_built_leaves_the_host_as_it_was(world: World) -> None:
    """The disk of the host is full: named, tidied up, and the host runs on."""
    world.guest.start()
    world.guest.wait_for_ssh()
    filled = world.guest.ssh("dd if=/dev/zero of=/filler bs=1M 2>/dev/null; truncate -s -20M /filler && sync")
    assert filled.returncode == 0, filled
    code, out = world.run(tasks=ENTER)
    assert code != 0 and "No space left on device" in out and "runs on as before" in out, out
    assert world.last("rescue_boot")["status"] == "failed"
    left = world.guest.ssh("cat /sys/kernel/kexec_loaded; ls /var/lib/sunset-crm/rescue 2>/dev/null; rm /filler; sync")
    assert left.stdout.split() == ["0"], left


def test_it_moves_into_ram_and_is_recognised(world: World) -> None:
    boot = world.guest.ssh("cat /proc/sys/kernel/random/boot_id").stdout.strip()
    _code, out = world.run(tasks=ENTER)
    # The run as such is not finished, and says so: nothing is wiped yet.
    assert "woken for the wipe, still on" in out and "medium:root (wave only): not wiped" in out, (out, world.guest.said()[-2000:])
    seen = world.last("rescue_boot")
    result = seen["evidence"]["result"]
    assert seen["status"] == "done" and result["root"] == "rootfs" and result["mounted_from_disks"] == [] and result["swap"] == []
    assert result["machine_id"] == MACHINE_ID and result["boot_id"] != boot
    assert {disk["serial"] for disk in result["disks"]} == {ROOT_SERIAL, DATA_SERIAL}
    assert "no_timer_check" in world.inside("cat /proc/cmdline").stdout
    # Nobody is let in by the old key, and what answers has not the old host key.
    assert world.guest.ssh("true").returncode != 0
    # The build has used blocks that no file had; what is in files is all there, and the other disk is as it was.
    assert world.planted()[0] >= 20000 and world.planted()[1] == 20000
    # No key of the rescue stands in the ledger.
    assert "PRIVATE KEY" not in world.estate.ledger_file.read_text()


def test_a_second_run_finds_it_there(world: World) -> None:
    done = len(world.outcomes("rescue_boot"))
    world.run(tasks=ENTER)
    assert len(world.outcomes("rescue_boot")) == done + 1 and world.last("rescue_boot")["status"] == "done"
    assert world.last("rescue_boot")["changed"] is False and world.last("host_power")["changed"] is False


def test_disks_that_have_changed_places_are_refused_and_not_touched(world: World) -> None:
    before = world.planted()
    assert world.inside("mv /dev/sda /dev/x && mv /dev/nvme0n1 /dev/sda && mv /dev/x /dev/nvme0n1").returncode == 0
    code, out = world.run()
    assert code != 0 and out.count("identity: serial: expected") >= 2, out
    assert {one["status"] for one in world.outcomes("media_wipe")} == {"failed"}
    assert world.planted() == before and world.guest.state() == "running"
    assert world.inside("mv /dev/sda /dev/x && mv /dev/nvme0n1 /dev/sda && mv /dev/x /dev/nvme0n1").returncode == 0


def test_a_killed_controller_is_followed_by_one_that_joins_and_evidence_that_cannot_be_handed_over_keeps_it_up(world: World) -> None:
    child = world.start(rescue_rate=6 * MIB)
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and "write" not in world.inside("cat /var/lib/sunset-crm/wipe/*/progress.json 2>/dev/null").stdout:
        assert child.poll() is None, world.log()[-3000:]
        time.sleep(1)
    kill_tree(child.pid)
    child.wait()
    # Something lies where the certificates are to be written.
    world.estate.certificates_folder.write_text("in the way")
    code, out = world.run()
    assert code != 0, out
    wiped = [one for one in world.outcomes("media_wipe") if one["item"] == ROOT and one["status"] == "done"]
    assert len(wiped) == 1 and wiped[0]["evidence"]["before"]["decision"] == "attach", wiped
    assert len(wiped[0]["evidence"]["result"]["sessions"]) == 1
    assert world.guest.state() == "running" and world.inside("true").returncode == 0
    assert not [one for one in world.outcomes("host_power") if one["value"] == "ended"]


def test_it_ends_when_the_certificates_are_written_and_not_one_marker_is_left(world: World) -> None:
    world.estate.certificates_folder.unlink()
    code, out = world.run()
    assert code == 0, (out, world.guest.said()[-2000:])
    assert world.guest.state() == "exited" and world.planted() == (0, 0)
    assert world.last("host_power")["value"] == "ended" and world.last("host_power")["evidence"]["result"]["how"] == "by itself"
    assert len(list(world.estate.certificates_folder.glob("*.json.sig"))) == 2
    assert world.holds_the_stream(ROOT, world.guest.root) and world.holds_the_stream(DATA, world.guest.data)


def test_the_same_command_again_wakes_nobody(world: World) -> None:
    lines = len(ledger.read(world.estate.ledger_file))
    code, out = world.run()
    assert code == 0 and out.count("failed=0") >= 1, out
    new = [entry.record["kind"] for entry in ledger.read(world.estate.ledger_file)[lines:]]
    assert world.guest.state() == "exited" and "intent" not in new
    # The keys of the rescue ended with it.
    assert not list((world.estate.root / "secrets").glob("rescue-*"))


def test_a_host_that_does_not_come_back_is_a_failed_step_and_its_disks_are_untouched(tmp_path: Path) -> None:
    """Its rescue finds no first program. A reset starts the old system again."""
    lost = World(tmp_path, kernel_arguments=["no_timer_check", "rdinit=/nowhere"])
    try:
        before = lost.planted()
        code, out = lost.run(tasks=[ENTER[0], {"sunset.crm.rescue_boot": {"item": f"host:{HOST}", "timeout": 40}}])
        assert code != 0 and "did not come back as a rescue" in out and "disks were not touched" in out, out
        assert lost.last("rescue_boot")["status"] == "failed" and lost.last("rescue_boot")["evidence"]["verdict"] == "unknown"
        assert lost.planted()[0] >= 20000 and lost.planted()[1] == before[1]
        subprocess.run(["docker", "restart", "-t", "1", lost.guest.name], check=True, capture_output=True)
        lost.guest.wait_for_ssh()
        assert lost.guest.ssh("cat /etc/machine-id").stdout.strip() == MACHINE_ID
    finally:
        lost.end()
