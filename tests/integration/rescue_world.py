# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An estate whose only host is an emulated machine that wipes its own disks, retired up to the wipe; and ansible-playbook on it."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from ansible_collections.sunset.crm.plugins.plugin_utils.people import signatures
from ansible_collections.sunset.crm.plugins.plugin_utils.record import ledger
from ansible_collections.sunset.crm.plugins.plugin_utils.record.estate import Estate
from ansible_collections.sunset.crm.plugins.plugin_utils.rescue import rescue
from tests.integration.rescue_guest import DATA_MIB, DATA_SERIAL, MACHINE_ID, MIB, ROOT_MIB, ROOT_SERIAL, Guest, markers
from tests.unit import builders

TOP = Path(__file__).parents[2]
HOST, ROOT, DATA = "resc1", "medium:root", "medium:data"
Result = dict[str, Any]


class World:
    """The machine, an estate of which it is the only host, retired up to the wipe, and ansible-playbook on it."""

    way = "kexec"

    def __init__(self, folder: Path, guest: Any = None, **rescue: Any) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self.guest = guest or self.machine()
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

    def machine(self) -> Any:
        return Guest(self.folder)

    def power(self) -> Result:
        """What the plan says of the host's power, and of what it boots from."""
        return {"power": {"kind": "docker", "container": self.guest.name}}

    def _plan(self, rescue: Result) -> Result:
        host = builders.host(HOST, "only")
        host["identity"] = {"machine_id": MACHINE_ID, "hostname": "guest"}
        host["expects"] |= {
            **self.power(),
            "rescue": {"kernel_arguments": ["no_timer_check"], **rescue},
        }
        items = [host]
        for name, serial, mib, device in (("root", ROOT_SERIAL, ROOT_MIB, "/dev/nvme0n1"), ("data", DATA_SERIAL, DATA_MIB, "/dev/sda")):
            medium = builders.medium(name, HOST, "only")
            medium |= {
                "identity": {"serial": serial, "size": mib * MIB},
                "wipe": {"way": self.way, "host": HOST},
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
        probed = {"sunset_vault_seen": {"vault": {"uid": 906, "problems": [], "disks": []}}, "rescue_timeout": 900, **more}
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

    def run(self, seconds: float = 1200, tasks: list[Result] | None = None, check: bool = False, **more: Any) -> tuple[int, str]:
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
        return subprocess.run([*argv, *options, "root@127.0.0.1", line], capture_output=True, text=True, timeout=180, check=False)

    def holds_the_stream(self, item: str, path: Path) -> bool:
        """openssl alone, on the file behind the disk, with the key that the certificate discloses."""
        (certificate,) = [json.loads(one.read_text()) for one in self.estate.certificates_folder.glob(f"*_{item[7:]}.certificate.json")]
        key = self.estate.secret(f"stream-{item}", make=False)
        assert key and key in json.dumps(certificate)
        script = 'openssl enc -d -aes-256-ctr -K "$2" -iv "$3" <"$1" | tr -d "\\0" | wc -c'
        done = subprocess.run(["sh", "-c", script, "sh", str(path), key, "0" * 32], check=True, capture_output=True, text=True)
        return done.stdout.strip() == "0"


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
    {"sunset.crm.host_power": {"item": f"host:{HOST}", "state": "woken", "timeout": 900}},
    {"sunset.crm.rescue_boot": {"item": f"host:{HOST}", "timeout": 900}},
]
