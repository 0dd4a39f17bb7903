# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ways past the gates, tried with the real ansible-playbook: each is refused, ends non-zero and changes nothing.

The estate is made up: inventory names whose connection is local, a cron file, a folder and a file in place of a disk, all
in a temporary folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ansible_collections.sunset.crm.plugins.module_utils._recorded import make_receipt
from ansible_collections.sunset.crm.plugins.plugin_utils.people import signatures
from ansible_collections.sunset.crm.plugins.plugin_utils.record import ledger
from ansible_collections.sunset.crm.plugins.plugin_utils.record.estate import Estate
from tests.unit import builders

TOP = Path(__file__).parents[2]
HOSTS = ("gate1", "gatevault", "gatestation")
APP, FILES, MEDIUM = "application:toy", "filestore:toy", "medium:toy"
# Nobody else sleeps for that long: the process that the freeze waits for.
NAP = "86397"
# The tests in which something is meant to change.
ACTS = ("test_a_second_controller_and_a_killed_one",)

Result = dict[str, Any]


class Gate:
    """A tiny estate in a folder, and ansible-playbook on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cron, self.data, self.disk = folder / "cron.d/toy", folder / "srv/toy", folder / "disk.img"
        for path in (self.cron, self.data / "a.txt", self.disk):
            path.parent.mkdir(parents=True, exist_ok=True)
        self.cron.write_text(f"17 3 * * * root sleep {NAP}\n")
        (self.data / "a.txt").write_text("customer data")
        self.disk.write_bytes(b"x" * 65536)
        self.keys = builders.make_keys(self._made("keys"))
        self.estate: Estate = builders.make_estate(folder / "estate", self.keys, self._plan())
        self.inventory = folder / "hosts.yml"
        common = {
            "ansible_connection": "local",
            "ansible_python_interpreter": sys.executable,
            "sunset_estate_dir": str(self.estate.root),
            "sunset_confirm": "acme",
        }
        groups = {"sunset_estate": {"hosts": {"gate1": None}}}
        self.inventory.write_text(yaml.safe_dump({"all": {"hosts": dict.fromkeys(HOSTS), "vars": common, "children": groups}}))

    def _made(self, name: str) -> Path:
        (self.folder / name).mkdir()
        return self.folder / name

    def _plan(self) -> Result:
        items = [
            builders.host("gate1", "only"),
            {
                **builders.application("toy", "gate1", "only", [FILES], ""),
                "expects": {"schedulers": {"units": [], "cron_files": [str(self.cron)]}},
            },
            builders.filestore("toy", "gate1", "only", "toy"),
            builders.medium("toy", "gate1", "only"),
        ]
        machine = Path("/etc/machine-id")
        items[0]["identity"] = {"hostname": "gate1", "machine_id": machine.read_text().strip() if machine.exists() else ""}
        items[2]["expects"] = {"path": str(self.data), "staging": str(self.data / ".staging")}
        items[2]["identity"] = {"path": str(self.data)}
        items[3]["expects"]["device"] = str(self.disk)
        items[3]["wipe"]["host"] = "gatestation"
        return builders.plan_data(waves=["only"], vaults={"gatevault": {"root": str(self.folder / "vault")}}, items=items)

    # --- ansible ---

    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "ANSIBLE_CONFIG": str(TOP / "ansible.cfg"),
            "ANSIBLE_COLLECTIONS_PATH": str(TOP / ".collections"),
            "ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.default",
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_LOCAL_TEMP": str(self.folder / "tmp"),
        }

    def start(self, *arguments: str, program: str = "ansible-playbook") -> subprocess.Popen[str]:
        # The made-up vault runs as root, which a probe of it would rightly refuse.
        probed = json.dumps({"sunset_vault_seen": {"vault": {"uid": 906, "problems": [], "disks": []}}})
        line = [str(Path(sys.executable).with_name(program)), "-i", str(self.inventory), "-e", probed, *arguments]
        return subprocess.Popen(
            line, cwd=TOP, env=self.environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )

    def run(self, *arguments: str, program: str = "ansible-playbook") -> tuple[int, str]:
        child = self.start(*arguments, program=program)
        out, _ = child.communicate(timeout=400)
        # Messages are wrapped by the callback; words are looked for in one line of text.
        return child.returncode, " ".join(out.split())

    def play(self, *plays: Result, options: tuple[str, ...] = ()) -> tuple[int, str]:
        return self.run(self.written(*plays), *options)

    def written(self, *plays: Result) -> str:
        path = self.folder / "hand-written.yml"
        path.write_text(yaml.safe_dump([{"gather_facts": False, **play} for play in plays], sort_keys=False))
        return str(path)

    # --- the world ---

    def world(self) -> dict[str, str]:
        """Everything that a step could change: names and digests of all files outside the estate's own folder."""
        places = (self.cron.parent, self.data, self.folder / "vault")
        files = [self.disk, *(path for place in places if place.exists() for path in sorted(place.rglob("*")) if path.is_file())]
        return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    def records(self, kind: str) -> list[Result]:
        return [entry.record for entry in ledger.read(self.estate.ledger_file) if entry.record["kind"] == kind]


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Gate:
    return Gate(tmp_path_factory.mktemp("gate"))


@pytest.fixture(autouse=True)
def unchanged(gate: Gate, request: pytest.FixtureRequest) -> Iterator[None]:
    """After each attempt the world is as before, and no intent was written (but where a test says that it acts)."""
    acts = request.node.originalname in ACTS
    before, intents = gate.world(), len(gate.records("intent"))
    yield
    if not acts:
        assert gate.world() == before
        assert len(gate.records("intent")) == intents


def opening(phase: str = "shutdown") -> Result:
    task = {"sunset.crm.run_open": {"phase": phase, "confirm": "acme", "operator": "olga"}, "run_once": True}
    return {"hosts": "all", "tasks": [task]}


CLOSING: Result = {"hosts": "all", "tasks": [{"sunset.crm.run_close": None, "run_once": True}]}


def test_inside_an_open_run_no_keyword_gets_past_the_gate(gate: Gate) -> None:
    """One hand-written play after the other, in a run that was opened rightly; each swallows the failure as best it can."""
    gate.estate.statements_folder.mkdir(exist_ok=True)
    wipe: Result = {"sunset.crm.media_wipe": {"item": MEDIUM}}
    prove: Result = {"sunset.crm.vault_prove": {"item": FILES}}
    archive: Result = {"sunset.crm.filestore_archive": {"item": FILES}}
    off: Result = {"sunset.crm.host_power": {"item": "host:gate1", "state": "off"}}
    shifted: Result = {"sunset.crm.scheduler_state": {"item": APP, "state": "frozen", "cron_files": []}}
    elsewhere: Result = {"sunset.crm.scheduler_state": {"item": APP, "state": "frozen"}, "delegate_to": "gatevault"}
    back: Result = {"sunset.crm.filestore_archive": {"item": APP}}
    in_check: Result = {"sunset.crm.host_power": {"item": "host:gate1", "state": "off"}, "check_mode": True}
    code, out = gate.play(
        opening(),
        {"hosts": "gatestation", "ignore_errors": True, "tasks": [{**wipe, "ignore_errors": True}, {**wipe, "async": 60, "poll": 0}]},
        {"hosts": "gatestation", "tasks": [{"block": [wipe], "rescue": [{"ansible.builtin.debug": {"msg": "RESCUED"}}]}]},
        {"hosts": "all", "strategy": "free", "ignore_errors": True, "tasks": [wipe]},
        {"hosts": "gatevault", "ignore_errors": True, "tasks": [prove]},
        {
            "hosts": "gate1",
            "serial": 1,
            "max_fail_percentage": 100,
            "ignore_errors": True,
            "tasks": [archive, off, shifted, elsewhere, back, in_check],
        },
        {
            "hosts": "gatestation",
            "ignore_errors": True,
            "module_defaults": {
                "sunset.crm.media_wipe": {"device": "/dev/null", "stream_key": "ab" * 32, "authorisation_sha256": "c" * 64}
            },
            "tasks": [wipe],
        },
        {"hosts": "gatestation", "ignore_errors": True, "vars": {"sunset_estate_dir": str(gate.folder / "other")}, "tasks": [wipe]},
        CLOSING,
    )
    assert code != 0
    assert "shutdown of wave only is not finished" in out
    assert "RESCUED" in out
    told = [(record["item"], record["module"], record["missing"][0]["what"]) for record in gate.records("refused")]
    for item, module, words in (
        (MEDIUM, "media_wipe", "this run is a shutdown, wipe belongs to a wipe"),
        (MEDIUM, "media_wipe", "this task runs on gate1"),
        (MEDIUM, "media_wipe", "which is not its to choose"),
        (FILES, "vault_prove", "no dump of it was seen"),
        (FILES, "filestore_archive", "not seen to be frozen"),
        ("host:gate1", "host_power", "not seen to be frozen"),
        (APP, "scheduler_state", "the task sets cron_files"),
        (APP, "scheduler_state", "was delegated to gatevault"),
        (APP, "filestore_archive", "is no step for application:toy"),
    ):
        assert any((item, module) == one[:2] and words in one[2] for one in told), (module, words, told)
    assert "async is not supported" in out or "async" in out
    assert gate.records("outcome") == []
    assert gate.records("accepted") == []
    assert not (gate.estate.root / "secrets").exists()


def test_without_a_run_nothing_acts(gate: Gate) -> None:
    """A play of one's own that never opens a run; all modules are tried, with the errors ignored: what is left is the world."""
    tasks: list[Result] = [
        {"sunset.crm.media_wipe": {"item": MEDIUM}},
        {"sunset.crm.web_closed": {"item": APP, "state": "closed"}},
        {"sunset.crm.vault_prove": {"item": FILES}},
        {"sunset.crm.scheduler_state": {"item": APP, "state": "frozen"}},
        {"sunset.crm.run_close": None},
    ]
    code, out = gate.play({"hosts": "gate1", "tasks": [{**task, "ignore_errors": True} for task in tasks] + [tasks[0]]})
    assert code != 0
    assert "failed=1" in out
    assert f"ignored={len(tasks)}" in out
    assert out.count("no run is open") > len(tasks)


@pytest.mark.parametrize(
    ("playbook", "options", "words"),
    [
        ("shutdown", ["--limit", "gate1"], "needs machines that the play does not have (--limit gate1): gatestation, gatevault"),
        ("shutdown", ["--skip-tags", "always"], "no run is open"),
        ("shutdown", ["--tags", "nothing"], "shutdown of wave only is not finished"),
        ("wipe", ["--start-at-task", "Wipe the media and verify every byte"], "no run is open"),
        ("wipe", [], "no wave is accepted yet"),
        ("shutdown", ["-e", "sunset_confirm=yes"], "type its own name"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_the_command_line_gets_past_no_gate(gate: Gate, playbook: str, options: list[str], words: str) -> None:
    code, out = gate.run(f"playbooks/{playbook}.yml", *options)
    assert code != 0
    assert words in out


def test_check_mode_is_no_way_to_act_unseen(gate: Gate) -> None:
    """A run that is opened under --check is not recorded; a task that steps out of check mode does nothing in it."""
    before = gate.estate.ledger_file.read_bytes()
    task = {"sunset.crm.scheduler_state": {"item": APP, "state": "frozen"}, "check_mode": False, "ignore_errors": True}
    code, out = gate.play(opening(), {"hosts": "gate1", "tasks": [task]}, CLOSING, options=("--check",))
    assert code != 0
    assert "opened in check mode" in out
    assert gate.estate.ledger_file.read_bytes() == before


def test_ad_hoc(gate: Gate) -> None:
    code, out = gate.run("gatestation", "-m", "sunset.crm.media_wipe", "-a", f"item={MEDIUM} device={gate.disk}", program="ansible")
    assert code != 0
    assert "no run is open" in out


@pytest.mark.parametrize(
    ("receipt", "words"),
    [
        (None, "there is no receipt"),
        ({"module": "scheduler_state", "item": APP, "intent": "x", "check": False, "seal": "0" * 64}, "or was altered"),
        (make_receipt("media_wipe", APP, "x"), "belongs to another module or item"),
        (make_receipt("scheduler_state", APP, "x", check=True), "was given for check mode"),
        (make_receipt("scheduler_state", APP, "x", machine="0" * 32), "the plan says that the item is on"),
    ],
    ids=["none", "forged", "of another module", "of check mode", "for another machine"],
)
def test_the_module_by_hand(gate: Gate, receipt: Result | None, words: str) -> None:
    """Not the action: the module's own file, as somebody on the host would start it."""
    args = {
        "_ansible_module_name": "sunset.crm.scheduler_state",
        "item": APP,
        "state": "frozen",
        "units": [],
        "cron_files": [str(gate.cron)],
        **({"receipt": receipt} if receipt else {}),
    }
    code = (
        "import json, sys\n"
        "from ansible.module_utils import basic\n"
        "from ansible.module_utils.testing import patch_module_args\n"
        "from ansible_collections.sunset.crm.plugins.modules import scheduler_state\n"
        "with patch_module_args(json.loads(sys.argv[1])):\n"
        "    scheduler_state.main()\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(TOP / ".collections")}
    done = subprocess.run([sys.executable, "-c", code, json.dumps(args)], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode != 0
    assert words in json.loads(done.stdout)["msg"]


def test_a_plan_that_was_changed_after_its_approval(gate: Gate) -> None:
    true = gate.estate.plan_file.read_bytes()
    gate.estate.plan_file.write_bytes(true.replace(b'"proofs_required": 1', b"").replace(b'"dual"', b'"single"'))
    try:
        code, out = gate.play(opening())
        assert code != 0
        assert "is not approved" in out
        change = {"ansible.builtin.copy": {"content": true.decode() + " ", "dest": str(gate.estate.plan_file), "mode": "0600"}}
        gate.estate.plan_file.write_bytes(true)
        freeze = {"sunset.crm.scheduler_state": {"item": APP, "state": "frozen"}, "ignore_errors": True}
        code, out = gate.play(opening(), {"hosts": "gate1", "tasks": [change, freeze]}, CLOSING)
        assert code != 0
        assert out.count("the plan was changed while this run was open") >= 2
    finally:
        gate.estate.plan_file.write_bytes(true)


def descendants(pid: int) -> list[int]:
    """Processes below one, by /proc; children of Ansible's workers have sessions of their own."""
    parents: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            number, rest = path.read_text().split(" ", 1)
        except OSError:
            continue
        parents.setdefault(int(rest.rpartition(")")[2].split()[1]), []).append(int(number))
    found, waiting = [], [pid]
    while waiting:
        for child in parents.get(waiting.pop(), []):
            found.append(child)
            waiting.append(child)
    return found


def wait_for(what: str, condition: Any, seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds} s for {what}"
        time.sleep(0.1)


def test_a_second_controller_and_a_killed_one(gate: Gate) -> None:
    """The first waits in the middle of a step (a cron job still runs): a second is refused; killed, it leaves an
    interrupted step, which the next one names and finishes."""
    intents = len(gate.records("intent"))
    freeze: Result = {"hosts": "gate1", "tasks": [{"sunset.crm.scheduler_state": {"item": APP, "state": "frozen"}}]}
    nap = subprocess.Popen(["sleep", NAP])
    first = gate.start(gate.written(opening(), freeze, CLOSING))
    try:
        wait_for("the intent", lambda: len(gate.records("intent")) == intents + 1)
        code, out = gate.run("playbooks/resume.yml", "-e", "sunset_confirm=acme")
        assert code != 0
        assert f"another run works on the estate acme: olga on {os.uname().nodename} (process {first.pid}), phase shutdown, since 20" in out
        # The cron file is moved before the module waits for what still runs.
        wait_for("the module to wait", lambda: not gate.cron.exists())
    finally:
        # The controller first, then what it had started: nothing of it may write an outcome.
        below = descendants(first.pid)
        for pid in (first.pid, *below):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        first.communicate(timeout=120)
        nap.kill()
        nap.wait()
    assert gate.records("outcome") == []
    assert gate.estate.run_file.exists(), "the dead owner's lock is still there"

    show = {"hosts": "all", "tasks": [{**opening()["tasks"][0], "register": "run"}, {"ansible.builtin.debug": {"var": "run.interrupted"}}]}
    code, out = gate.play(show, freeze, freeze, CLOSING)
    assert "application:toy: scheduler frozen" in out
    assert code != 0, "the rest of the wave is not finished"
    outcomes = gate.records("outcome")
    assert [(record["item"], record["value"], record["status"]) for record in outcomes] == [(APP, "frozen", "done")]
    former = gate.records("intent")[intents]["former"]["cron_files"][str(gate.cron)]
    assert former["sha256"] == hashlib.sha256(f"17 3 * * * root sleep {NAP}\n".encode()).hexdigest()

    restore: Result = {"hosts": "gate1", "tasks": [{"sunset.crm.scheduler_state": {"item": APP, "state": "restored"}}]}
    code, out = gate.play(opening("resume"), restore, restore, CLOSING)
    assert code == 0, out
    assert gate.cron.read_text() == f"17 3 * * * root sleep {NAP}\n"
    assert len(gate.records("outcome")) == 2


def test_all_that_happened_is_in_one_chain_with_a_signed_head(gate: Gate) -> None:
    head = gate.estate.root / "ledger.head.json"
    allowed = gate.folder / "allowed"
    allowed.write_text("run " + gate.estate.run_key.with_suffix(".pub").read_text())
    line = ["ssh-keygen", "-Y", "verify", "-f", str(allowed), "-I", "run", "-n", signatures.LEDGER_HEAD, "-s", f"{head}.sig"]
    assert subprocess.run(line, input=head.read_bytes(), check=False, capture_output=True).returncode == 0
    assert json.loads(head.read_text()) == ledger.head(gate.estate.ledger_file)
