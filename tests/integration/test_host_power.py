# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""host_power and docker_guests as Ansible runs them: real playbooks, real SSH, a host that really goes off.

The host is a systemd container. The plays use action plugins of their own that call perform() past gate and ledger, which
have their own tests.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import docker
import docker.errors
import pytest

from tests.integration.ports import free_port
from tests.integration.redfish_fake import Bmc, certificates
from tests.integration.rescue_world import kill_tree
from tests.lab import engine as lab_engine
from tests.lab.image import ensure_host_image, ensure_mini_image

TOP = Path(__file__).resolve().parents[2]
# The image carries the lab's own label; a container that kept it would be taken for a host of the lab and cleaned away.
LABELS = ("--label", "sunset-test-e=host", "--label", "sunset-lab=no")
ACTION = """
import json
from ansible_collections.sunset.crm.plugins.action.{name} import ActionModule as Real
from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.actions.recording import plain

class ActionModule(Real):
    name = "{name}"
    def run(self, tmp=None, task_vars=None):
        try:
            answer = self.perform(plain(self._task.args), task_vars, self._task.check_mode)
        except Refusal as exc:
            answer = dict(failed=True, changed=False, msg=str(exc))
        with open(task_vars["answer_file"], "w") as stream:
            json.dump(answer, stream)
        return answer
"""


class Host:
    """One systemd container with an SSH server, and a controller's folder beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = f"ste-host-{uuid.uuid4().hex[:8]}"
        self.port = free_port()
        self.key = folder / "key"
        self.witness: dict[str, Any] = {"kind": "docker", "container": self.name}
        for name in ("host_power", "docker_guests"):
            (folder / "action_plugins").mkdir(exist_ok=True)
            (folder / "action_plugins" / f"try_{name}.py").write_text(ACTION.format(name=name))

    def docker(self, *argv: str, stdin: bytes = b"") -> str:
        done = subprocess.run(["docker", *argv], input=stdin, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()

    def inside(self, script: str) -> str:
        return self.docker("exec", self.name, "sh", "-euc", script)

    def up(self) -> None:
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.key)], check=True)
        argv = ["create", "--name", self.name, "--hostname", "ste", *LABELS, "-p", f"127.0.0.1:{self.port}:22"]
        argv += ["--stop-signal", "SIGRTMIN+3", "--tmpfs", "/run", "--tmpfs", "/run/lock", "--tmpfs", "/tmp"]
        argv += ["-v", "/var/run/docker.sock:/srv/engine.sock", *lab_engine.cgroup_arguments()]
        self.docker(*argv, ensure_host_image(), "/sbin/init")
        self.start()
        self.inside(
            "umask 077; mkdir -p /root/.ssh; ssh-keygen -q -A; systemctl -q enable --now ssh; systemctl -q mask systemd-logind; "
            f"echo '{self.key.with_suffix('.pub').read_text().strip()}' >/root/.ssh/authorized_keys"
        )

    def start(self) -> None:
        self.docker("start", self.name)
        deadline = time.monotonic() + 180
        while time.monotonic() < deadline:
            done = subprocess.run(["docker", "exec", self.name, "systemctl", "is-system-running"], capture_output=True, check=False)
            if done.stdout.strip() in (b"running", b"degraded"):
                return
            time.sleep(0.2)
        raise AssertionError("the host does not come up")

    def status(self) -> str:
        return self.docker("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", self.name).strip()

    def play(
        self, action: str, args: dict[str, Any], *, check: bool = False, kill_after: Callable[[], bool] | None = None, **variables: Any
    ) -> dict[str, Any]:
        answer = self.folder / "answer.json"
        answer.unlink(missing_ok=True)
        options = "-o UserKnownHostsFile=/dev/null -o StrictHostKeyChecking=no -o LogLevel=ERROR"
        host = {
            "ansible_host": "127.0.0.1",
            "ansible_port": self.port,
            "ansible_user": "root",
            "ansible_ssh_private_key_file": str(self.key),
            "ansible_ssh_common_args": options,
            "ansible_python_interpreter": "/usr/bin/python3",
            "answer_file": str(answer),
            "sunset_estate_dir": str(self.folder / "estate"),
            **variables,
        }
        (self.folder / "hosts.json").write_text(json.dumps({"all": {"hosts": {"h": host}}}))
        play = [{"hosts": "h", "gather_facts": False, "tasks": [{f"try_{action}": {"item": "host:h", **args}}]}]
        (self.folder / "play.json").write_text(json.dumps(play))
        environment = {
            **os.environ,
            "ANSIBLE_CONFIG": str(self.folder / "none.cfg"),
            "ANSIBLE_COLLECTIONS_PATH": str(TOP / ".collections"),
            "ANSIBLE_SSH_CONTROL_PATH_DIR": str(self.folder / "cp"),
            "ANSIBLE_TIMEOUT": "30",
        }
        (self.folder / "none.cfg").touch()
        ansible = str(Path(sys.executable).with_name("ansible-playbook"))
        argv = [ansible, "-i", "hosts.json", "play.json", *(["--check"] if check else [])]
        if kill_after is not None:
            child = subprocess.Popen(
                argv, cwd=self.folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
            )
            while not kill_after():
                assert child.poll() is None, "it has ended before it could be killed"
                time.sleep(0.05)
            kill_tree(child.pid)
            child.wait()
            assert answer.exists(), "killed"
        done = subprocess.run(argv, cwd=self.folder, env=environment, capture_output=True, check=False, timeout=300)
        assert answer.exists(), done.stdout.decode() + done.stderr.decode()
        found: dict[str, Any] = json.loads(answer.read_text())
        return found

    def power(self, state: str, *, check: bool = False, timeout: float = 60, **variables: Any) -> dict[str, Any]:
        args: dict[str, Any] = {"state": state, "witness": self.witness, "timeout": timeout}
        return self.play("host_power", {**args, **variables.pop("args", {})}, check=check, **variables)

    def down(self) -> None:
        for path in (self.folder / "cp").glob("*"):
            subprocess.run(["ssh", "-O", "exit", "-o", f"ControlPath={path}", "x"], capture_output=True, check=False)
        subprocess.run(["docker", "rm", "-f", "-v", self.name], capture_output=True, check=False)
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    # Not pytest's folder: the path of a control socket must be short.
    made = Host(Path(tempfile.mkdtemp(prefix="ste-")))
    try:
        made.up()
        yield made
    finally:
        made.down()


@pytest.fixture
def running(host: Host) -> Host:
    host.start()
    return host


def test_off_and_on_again(running: Host) -> None:
    dry = running.power("off", check=True)
    assert (dry["changed"], running.status()) == (True, "running 0")

    done = running.power("off")
    assert (done["changed"], done["evidence"]["verdict"]) == (True, "yes"), done.get("msg")
    assert running.status().startswith("exited")
    result = done["result"]
    assert (result["power"], result["proof"], result["how"], result["stays_off"]) == ("off", "docker", "by itself", "yes")
    assert len(result["machine_id"]) == 32

    # Nothing answers there any more: no connection may be made.
    again = running.power("off", ansible_ssh_executable="/bin/false")
    assert (again["changed"], again["evidence"]["verdict"], again["result"]["how"]) == (False, "yes", "already off")

    dry = running.power("on", check=True)
    assert (dry["changed"], running.status().split()[0]) == (True, "exited")
    back = running.power("on", args={"machine_id": result["machine_id"]})
    assert (back["changed"], back["evidence"]["verdict"], back["result"]["power"]) == (True, "yes", "on"), back.get("msg")
    same = running.power("on", args={"machine_id": result["machine_id"]})
    assert (same["changed"], same["evidence"]["verdict"]) == (False, "yes")


def test_another_machine_at_the_address_is_refused(running: Host) -> None:
    back = running.power("on", args={"machine_id": "0" * 32})
    assert back["failed"] is True
    assert "Another machine has its address" in back["msg"]
    unknown = running.power("on")
    assert (unknown["failed"], unknown["evidence"]["verdict"]) == (True, "unknown")


def test_a_witness_that_cannot_see_is_refused(running: Host) -> None:
    done = running.power("off", args={"witness": {"kind": "docker", "container": "ste-no-such-host"}})
    assert done["failed"] is True
    assert "cannot say whether it is on or off" in done["msg"]
    assert running.status() == "running 0"


def test_a_host_that_does_not_answer_is_named_and_not_called_off(running: Host) -> None:
    done = running.power("off", ansible_port=1)
    assert done["failed"] is True
    assert "is on, says its witness (docker), but does not answer" in done["msg"]
    assert running.status() == "running 0"


def test_a_host_that_will_not_go_is_named_and_not_forced(running: Host) -> None:
    running.inside("systemctl mask poweroff.target")
    try:
        done = running.power("off", timeout=4)
        assert (done["failed"], done["evidence"]["verdict"]) == (True, "no")
        assert "Nothing was forced" in done["msg"]
        assert "poweroff.target is masked" in done["msg"]
        assert running.status() == "running 0"
    finally:
        running.inside("systemctl unmask poweroff.target")


def test_silence_sees_life(running: Host) -> None:
    done = running.power(
        "on", args={"witness": {"kind": "silence", "address": "127.0.0.1", "ports": [running.port]}, "machine_id": "0" * 32}
    )
    assert "Another machine" in done["msg"]
    assert done["evidence"]["before"]["witness"]["power"] == "on"


@pytest.fixture
def container() -> Iterator[str]:
    """A container of the machine's engine, with a label of its own."""
    api = docker.APIClient(base_url="unix:///var/run/docker.sock", version="auto")
    name = f"ste-far-{uuid.uuid4().hex[:8]}"
    made = api.create_container(
        ensure_mini_image(),
        ["/bin/sh", "-c", "echo kept >/data/x; trap 'exit 0' TERM; echo it heeds the signal; while :; do sleep 0.1; done"],
        name=name,
        labels={"sunset-test-e": name, "sunset-lab": "no"},
        host_config=api.create_host_config(restart_policy={"Name": "always"}),
    )
    api.start(made["Id"])
    # Before its trap is set, the first process of a container ignores the signal.
    deadline = time.monotonic() + 60
    while b"heeds" not in api.logs(made["Id"]):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    yield name
    with contextlib.suppress(docker.errors.NotFound):
        api.remove_container(name, force=True, v=True)
    api.close()


def test_containers_through_ssh_port_key_and_jump_host(running: Host, container: str) -> None:
    base: dict[str, Any] = {"label": f"sunset-test-e={container}", "containers": [container], "socket": "/srv/engine.sock"}
    ssh = f"ssh -i {running.key} -p {running.port} -o UserKnownHostsFile=/dev/null -o StrictHostKeyChecking=no -o LogLevel=ERROR"
    jump = f'-o UserKnownHostsFile=/dev/null -o StrictHostKeyChecking=no -o ProxyCommand="{ssh} -W %h:%p root@127.0.0.1"'
    way: dict[str, Any] = {"ansible_ssh_common_args": jump, "ansible_port": 22}

    dry = running.play("docker_guests", {**base, "state": "stopped"}, check=True, **way)
    assert dry["changed"] is True, dry.get("msg")
    done = running.play("docker_guests", {**base, "state": "stopped"}, **way)
    assert (done["changed"], done["evidence"]["verdict"]) == (True, "yes"), done.get("msg")
    assert done["result"]["guests"][container]["returned_before"] == "restart policy always"
    # The former state is in the ledger before the first change.
    book = [json.loads(line) for line in (running.folder / "estate" / "ledger.jsonl").read_text().splitlines()]
    assert [(line["kind"], line["former"][container]["policy"]["Name"]) for line in book if line["kind"] == "found"] == [
        ("found", "always")
    ]
    again = running.play("docker_guests", {**base, "state": "stopped"}, **way)
    assert (again["changed"], again["result"]["former"][container]["policy"]["Name"]) == (False, "always")

    saved = running.play("docker_guests", {**base, "state": "saved", "staging": "/var/tmp/it's staging"}, **way)
    assert (saved["changed"], saved["evidence"]["verdict"]) == (True, "yes"), saved.get("msg")
    image = next(one for one in saved["result"]["artefacts"] if one["role"] == "image")
    seen = running.docker("exec", running.name, "sha256sum", image["path"]).split()[0].lstrip("\\")
    assert seen == image["sha256"]
    assert running.play("docker_guests", {**base, "state": "saved", "staging": "/var/tmp/it's staging"}, **way)["changed"] is False

    # No former state given: it is the one in the ledger.
    back = running.play("docker_guests", {**base, "state": "started"}, **way)
    assert (back["changed"], back["result"]["started"]) == (True, [container]), back.get("msg")
    assert running.docker("inspect", "-f", "{{.HostConfig.RestartPolicy.Name}}", container).strip() == "always"


def test_become_is_used_on_the_way_to_the_engine(running: Host, container: str) -> None:
    base: dict[str, Any] = {
        "label": f"sunset-test-e={container}",
        "containers": [container],
        "socket": "/srv/engine.sock",
        "state": "stopped",
    }
    become: dict[str, Any] = {"ansible_become": True, "ansible_become_method": "su", "ansible_become_user": "daemon"}
    done = running.play("docker_guests", base, **become, ansible_become_flags="-s /bin/sh")
    assert done["failed"] is True
    assert "Permission denied" in done["msg"]
    assert running.docker("inspect", "-f", "{{.State.Status}}", container).strip() == "running"


def test_a_host_that_cannot_be_reached_is_one_clear_message(running: Host, container: str) -> None:
    base: dict[str, Any] = {"label": f"sunset-test-e={container}", "containers": [container], "state": "stopped"}
    done = running.play("docker_guests", base, ansible_port=1)
    assert done["failed"] is True
    assert "Connection refused" in done["msg"]


def test_bad_options_are_one_clear_message(running: Host) -> None:
    done = running.play("docker_guests", {"state": "stopped", "label": "a=b", "containers": ["x"], "force_after": 5})
    assert "force_allowed_by" in done["msg"]
    done = running.play("host_power", {"state": "asleep", "witness": running.witness})
    assert "asleep" in done["msg"]


class Board:
    """The board of a host that is a container, for a management controller in front of it. released: until then it does not tell that it is off."""

    def __init__(self, host: Host) -> None:
        self.host, self.released = host, threading.Event()
        self.released.set()

    def power(self) -> str:
        if self.host.status().startswith("running"):
            return "On"
        self.released.wait(120)
        return "Off"

    def reset(self, kind: str) -> None:
        verb = {"On": "start", "ForceOff": "kill"}.get(kind)
        if verb:
            self.host.docker(verb, self.host.name)


@pytest.fixture
def controlled(running: Host) -> Iterator[tuple[Host, Bmc, dict[str, Any]]]:
    """A host with a Redfish controller."""
    tls = certificates(running.folder / "tls")
    bmc = Bmc(machine=Board(running)).start(tls)
    path = running.folder / "bmc.yml"
    path.write_text(f"username: admin\npassword: {bmc.password}\n")
    path.chmod(0o600)
    witness = {"kind": "redfish", "address": bmc.address, "credentials": str(path), "ca_file": tls["ca"], "serial": "SER-1"}
    # This machine's own board shows through into a container: the controller tells the same, or nothing.
    bmc.uuid = running.docker("exec", running.name, "sh", "-c", "cat /sys/class/dmi/id/product_uuid 2>/dev/null || true").strip()
    yield running, bmc, witness
    bmc.stop()


def test_off_and_on_by_a_management_controller(controlled: tuple[Host, Bmc, dict[str, Any]]) -> None:
    host, bmc, witness = controlled
    both = [witness, {"kind": "silence", "address": "127.0.0.1", "ports": [host.port], "seconds": 1}]
    dry = host.power("off", check=True, args={"witness": witness})
    assert (dry["changed"], dry["result"]["now"], bmc.posts()) == (True, [], []), dry.get("msg")
    done = host.power("off", args={"witness": witness})
    assert (done["changed"], done["evidence"]["verdict"], done["result"]["proof"]) == (True, "yes", "redfish"), done.get("msg")
    assert (done["result"]["how"], done["result"]["stays_off"], bmc.posts()) == ("after a graceful request", "yes", [])
    assert host.status().startswith("exited")
    # Loopback answers every ping: here silence contradicts, and what they disagree on is not off.
    assert "its witnesses disagree: redfish says off, silence says on" in host.power("off", args={"witness": both})["msg"]
    assert host.power("off", args={"witness": witness}, ansible_ssh_executable="/bin/false")["changed"] is False
    back = host.power("on", args={"witness": witness, "machine_id": done["result"]["machine_id"]})
    assert (back["evidence"]["verdict"], back["result"]["through"]) == ("yes", "redfish (On)"), back.get("msg")
    assert (bmc.posts(), bmc.sessions) == (["On"], {})
    assert bmc.password not in json.dumps([dry, done, back])


def test_a_host_that_will_not_go_is_cut_off_only_on_somebodys_word(controlled: tuple[Host, Bmc, dict[str, Any]]) -> None:
    host, bmc, witness = controlled
    host.inside("systemctl mask poweroff.target")
    try:
        done = host.power("off", timeout=3, args={"witness": witness})
        assert (done["failed"], bmc.posts(), host.status()) == (True, [], "running 0")
        done = host.power("off", timeout=20, args={"witness": witness, "force_after": 2, "force_allowed_by": "alice"})
        assert (done["evidence"]["verdict"], done["result"]["how"], done["result"]["forced"]) == ("yes", "by force", True), done.get("msg")
        assert (bmc.posts(), done["result"]["force_allowed_by"]) == (["ForceOff"], "alice")
    finally:
        host.start()
        host.inside("systemctl unmask poweroff.target")


def test_a_guest_on_the_host_is_seen_at_that_moment_and_keeps_it_on(running: Host) -> None:
    running.inside("cp /usr/bin/sleep /usr/local/bin/qemu-system-x86_64; systemd-run -q --unit guest /usr/local/bin/qemu-system-x86_64 600")
    try:
        done = running.power("off")
        assert (done["failed"], done["changed"], done["evidence"]["verdict"]) == (True, False, "no")
        assert "this guest still runs on it: machine without a name (process)" in done["msg"]
        assert running.status() == "running 0"
    finally:
        running.inside("systemctl stop guest")
    assert running.power("off", check=True)["result"]["now"] == []


def test_a_session_on_a_database_server_is_seen_in_the_kernels_table(running: Host) -> None:
    running.inside(
        "systemd-run -q --unit served python3 -c 'import socket,time\n"
        's=socket.socket(); s.bind(("", 15432)); s.listen(5)\n'
        "c=s.accept()\ntime.sleep(600)'"
    )
    address = running.docker("inspect", "-f", "{{.NetworkSettings.IPAddress}}", running.name).strip()
    deadline = time.monotonic() + 120
    try:
        while True:
            try:
                line = socket.create_connection((address, 15432), 5)
                break
            except (ConnectionRefusedError, TimeoutError):
                assert time.monotonic() < deadline
                time.sleep(0.2)
        with line:
            done = running.power("off", args={"ports": [15432]})
            assert "on port 15432 is open on a database server of it" in done["msg"]
            assert running.status() == "running 0"
    finally:
        running.inside("systemctl stop served")


def test_a_controller_node_that_is_killed_after_the_request_goes_on(controlled: tuple[Host, Bmc, dict[str, Any]]) -> None:
    """The playbook dies between the request and the reading; the same command finds the host off, or waits for it."""
    host, bmc, witness = controlled
    # The controller hangs as soon as the host is down, so that the play is still waiting when it is killed.
    bmc.machine.released.clear()
    try:
        with pytest.raises(AssertionError, match="^killed"):
            host.power("off", args={"witness": witness}, kill_after=lambda: host.status() != "running 0")
    finally:
        bmc.machine.released.set()
    again = host.power("off", args={"witness": witness})
    assert (again["evidence"]["verdict"], again["result"]["power"]) == ("yes", "off"), again.get("msg")
    assert bmc.posts() == []
