# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""docker_guests' verbs against a real engine, with containers that behave badly. The engine is reached through the relay.

Engines that are restarted, swarms and Podman: test_docker_engines.py. An engine that answers wrong: test_docker_faults.py.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import signal
import tarfile
import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import docker
import docker.errors
import pytest
import requests.exceptions

from ansible_collections.sunset.crm.plugins.plugin_utils import relay
from ansible_collections.sunset.crm.plugins.plugin_utils.actions.account import Account
from ansible_collections.sunset.crm.plugins.plugin_utils.docker import images as docker_images, proof as docker_proof, verbs as docker_verbs
from ansible_collections.sunset.crm.plugins.plugin_utils.docker.engine import Engine
from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.guests import action as guest_action, guests, verbs as guest_verbs
from ansible_collections.sunset.crm.plugins.plugin_utils.record import ledger
from tests.integration.engine_acts import Patient, heeds, trapped
from tests.integration.private_engine import Dockerd, running
from tests.lab.image import ensure_mini_image

SOCKET = "/var/run/docker.sock"
OBEYS = "trap 'exit 0' TERM; while :; do sleep 0.1; done"
SLOW = "trap 'sleep 6; exit 0' TERM; while :; do sleep 0.1; done"
IGNORES = "trap '' TERM; while :; do sleep 0.1; done"
ANSWERS_137 = "trap 'exit 137' TERM; while :; do sleep 0.1; done"
NO_HANDLER_SIGNAL = "SIGUSR1"


# Trap of facts (hypervisors, section 5 and 0) -> the test that holds it. test_every_trap_has_its_test looks that none is without.
ENGINES, FAULTS, SWARM = "test_docker_engines.py::", "test_docker_faults.py::", "test_docker_swarm.py::"
TRAPS = {
    "docker-py 1374, 2243; compose 6214, 3834: reading times out during a long stop": "test_a_container_may_take_longer_to_end_than_any_answer_may_take",
    "compose 8784: timeout ignored": "test_what_ignores_the_signal_is_named_and_left_running",
    "PDMLab 228: stop returns early": "test_all_ways_of_ending_are_told_apart",
    "moby 12626, 11008, 38755, 33306, 25293; fact 7: a stopped container with the policy always comes back": ENGINES
    + "test_reboot_the_engine_after_the_shutdown_everything_stays_off_resume_everything_that_ran_runs",
    "moby 32357, 26828, 22471; storj 2300; postgres 1207; fact 8: killed at 10 s by the engine's own stop": FAULTS
    + "test_the_engine_is_restarted_in_the_middle",
    "moby 15853, 12797, 28366; nomad 736: a paused container cannot be stopped": "test_paused_and_restarting_containers",
    "exit code 137 is not always force": "test_all_ways_of_ending_are_told_apart",
    "killed by somebody else": "test_a_kill_by_somebody_else_is_seen",
    "containers that vanish when they end": "test_a_vanishing_container_is_refused_untouched",
    "commit leaves volumes out": "test_saved_containers_hold_what_the_container_wrote",
    "a saved image that nobody started": "test_a_saved_image_is_proven_by_starting_it",
    "swarm starts another task": ENGINES + "test_services_of_a_swarm",
    "live restore: an engine that is down proves nothing": ENGINES + "test_with_live_restore_an_engine_that_is_down_proves_nothing",
    "swarm tasks of other nodes": SWARM + "test_services_come_to_zero_on_every_node_and_back",
    "a node that is no manager (503)": SWARM + "test_a_worker_that_is_addressed_names_its_managers",
    "a swarm without quorum": SWARM + "test_a_manager_without_quorum_decides_nothing",
    "a node that is lost": SWARM + "test_what_runs_on_a_node_that_is_lost_is_not_called_off",
    "global services cannot be scaled": ENGINES + "test_what_of_a_swarm_cannot_be_scaled_is_refused_by_name",
    "podman 17542: negative timeout; no change of policy; units start the container again": ENGINES + "test_podman",
    "pods": ENGINES + "test_a_pod_of_podman_is_taken_whole_or_not",
    "answer cut after the request was taken": FAULTS + "test_spoilt_answers",
    "controller killed between request and answer": FAULTS + "test_controller_killed_between_request_and_answer",
}


def test_every_trap_has_its_test() -> None:
    here = Path(__file__)
    for trap, where in TRAPS.items():
        file, _sep, test = where.rpartition("::")
        assert f"def {test}(" in (here.parent / (file or here.name)).read_text(), trap


SETTLE = guest_verbs.SETTLE


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here comes back by itself but in the one test that takes the whole time."""
    monkeypatch.setattr(guest_verbs, "SETTLE", 0.2)


class Stack:
    """Containers with a label of their own, on the machine's engine or another."""

    def __init__(self, api: docker.APIClient, image: str, socket: str = SOCKET) -> None:
        self.api, self.image, self.socket = api, image, socket
        self.traps: dict[str, set[int]] = {}
        self.mark = uuid.uuid4().hex[:8]
        self.label = f"sunset-test-e={self.mark}"
        self.notes: list[dict[str, Any]] = []

    def name(self, short: str) -> str:
        return f"ste-{self.mark}-{short}"

    def names(self, *short: str) -> list[str]:
        return [self.name(one) for one in short]

    def make(self, short: str, script: str, policy: str = "no", *, start: bool = True, **rest: Any) -> str:
        labels = {} if rest.pop("stranger", False) else {"sunset-test-e": self.mark}
        labels.update(rest.pop("labels", {}))
        labels["sunset-test-e-all"] = self.mark
        # The image carries the lab's own label; a container that kept it would be cleaned away with the lab.
        labels["sunset-lab"] = "no"
        create = {key: rest.pop(key) for key in ("stop_signal",) if key in rest}
        retries = {"MaximumRetryCount": 3} if policy == "on-failure" else {}
        if policy != "no":
            rest["restart_policy"] = {"Name": policy, **retries}
        # What --init puts before a program ignores this one as soon as it takes in all others, to pass them on.
        self.traps[short] = {signal.SIGTTOU} if rest.get("init") else trapped(script)
        host = self.api.create_host_config(**rest)
        made = self.api.create_container(
            self.image, ["/bin/sh", "-c", script], name=self.name(short), labels=labels, host_config=host, **create
        )
        if start:
            self.api.start(made["Id"])
        return str(made["Id"])

    def inspect(self, short: str) -> dict[str, Any]:
        return dict(self.api.inspect_container(self.name(short)))

    def status(self, short: str) -> str:
        return str(self.inspect(short)["State"]["Status"])

    def policy(self, short: str) -> str:
        return str(self.inspect(short)["HostConfig"]["RestartPolicy"]["Name"])

    def settle(self) -> None:
        """Those that run have set their traps."""
        for short, traps in self.traps.items():
            heeds(int(self.inspect(short)["State"]["Pid"]), traps)

    @contextlib.contextmanager
    def engine(self, others: Iterable[str] = (), **opening: Any) -> Iterator[Engine]:
        far = relay.Reach(argv=lambda line: ["/bin/sh", "-c", line], direct=False, name="far")
        with relay.Relay(far, self.socket) as way, Engine(way.address, self.label, way=way, others=others, **opening) as engine:
            yield engine

    def stop(self, *short: str, timeout: float = 60, check: bool = False, **rest: Any) -> dict[str, Any]:
        order = guest_verbs.Order(
            self.names(*short), timeout=timeout, force_after=rest.pop("force_after", None), allowed_by=rest.pop("allowed_by", "")
        )
        memory = guest_verbs.Memory(rest.pop("former", {}), rest.pop("asked", {}), self.notes.append)
        with self.engine(self.names(*rest.pop("others", ()))) as engine:
            return guest_verbs.stop(engine, Account("docker_guests", "container:t"), order, memory, check)

    def start(self, former: dict[str, Any], check: bool = False) -> dict[str, Any]:
        with self.engine() as engine:
            return docker_verbs.start(engine, Account("docker_guests", "container:t"), former, 15, check)

    def save(self, staging: Path, *short: str, check: bool = False, prove: bool = False) -> dict[str, Any]:
        saving = docker_verbs.Saving("container:t", self.names(*short), str(staging), prove, watch=1.0)
        with self.engine() as engine:
            return docker_verbs.save(engine, Account("docker_guests", "container:t"), relay.here(), saving, check)

    def row(self, answer: dict[str, Any], short: str) -> dict[str, Any]:
        found: dict[str, Any] = answer["result"]["guests"][self.name(short)]
        return found

    def remove(self) -> None:
        for one in self.api.containers(all=True, filters={"label": f"sunset-test-e-all={self.mark}"}):
            with contextlib.suppress(docker.errors.NotFound):
                self.api.remove_container(one["Id"], force=True, v=True)


@pytest.fixture(scope="session")
def api() -> Iterator[docker.APIClient]:
    client = docker.APIClient(base_url=f"unix://{SOCKET}", version="auto", timeout=60)
    yield client
    client.close()


@pytest.fixture
def stack(api: docker.APIClient) -> Iterator[Stack]:
    made = Stack(api, ensure_mini_image())
    yield made
    made.remove()


def test_containers_of_another_item_of_the_same_stack_are_left_alone(stack: Stack) -> None:
    stack.make("web", OBEYS, "always")
    stack.make("db", OBEYS, "always")
    stack.settle()
    with pytest.raises(Refusal, match=stack.name("db")):
        stack.stop("web")
    done = stack.stop("web", others=["db"])
    assert (done["changed"], list(done["result"]["guests"])) == (True, [stack.name("web")])
    assert (stack.status("web"), stack.status("db"), stack.policy("db")) == ("exited", "running", "always")


def test_all_ways_of_ending_are_told_apart(stack: Stack) -> None:
    """[PDMLab 228] What was asked has ended when that is said."""
    stack.make("obeys", OBEYS, "always")
    stack.make("slow", SLOW, "unless-stopped")
    stack.make("own137", ANSWERS_137)
    stack.make("gone", "exit 0", "on-failure")
    stack.make("never", OBEYS, "always", start=False)
    # With --init the program dies of the signal itself: 143.
    stack.make("dies", "sleep 1000", init=True)
    stack.make("signal", "trap 'exit 5' USR1; trap '' TERM; while :; do sleep 0.1; done", stop_signal=NO_HANDLER_SIGNAL)
    stack.make("stranger", OBEYS, "always", stranger=True)
    stack.settle()
    everyone = ("obeys", "slow", "own137", "gone", "never", "dies", "signal")

    dry = stack.stop(*everyone, check=True)
    assert dry["changed"] is True
    assert stack.status("obeys") == "running"
    assert stack.policy("obeys") == "always"
    assert stack.notes == []

    done = stack.stop(*everyone)
    assert (done["changed"], done["evidence"]["verdict"]) == (True, "yes"), done.get("msg")
    ends = {short: (stack.row(done, short)["how"], stack.row(done, short)["graceful"]) for short in everyone}
    assert ends == {
        "obeys": (guests.BY_ITSELF, "yes"),
        "slow": (guests.BY_ITSELF, "yes"),
        "own137": (guests.UNKNOWN, "unknown"),
        "gone": (guests.ALREADY_OFF, "yes"),
        "never": (guests.ALREADY_OFF, "yes"),
        "dies": (guests.BY_ITSELF, "yes"),
        "signal": (guests.BY_ITSELF, "yes"),
    }
    assert stack.row(done, "dies")["after"]["exit_code"] == 143
    assert stack.row(done, "signal")["after"]["exit_code"] == 5
    assert 5.5 < stack.row(done, "slow")["seconds"] < 30
    assert stack.row(done, "slow")["returned_before"] == "restart policy unless-stopped"
    assert {stack.row(done, short)["returns_after"] for short in everyone} == {""}
    assert done["result"]["way"] == "unknown"
    assert (stack.status("stranger"), stack.policy("stranger")) == ("running", "always")

    for _ in range(3):
        again = stack.stop(*everyone)
        assert (again["changed"], again["evidence"]["verdict"], again["evidence"]["actions"]) == (False, "yes", [])


def test_a_container_may_take_longer_to_end_than_any_answer_may_take(stack: Stack) -> None:
    """[docker-py 1374, 2243, compose 6214, 3834] The SDK's own stop waits for the end, and calls it an error when its time for an answer is over."""
    stack.make("slow", SLOW, "always")
    stack.settle()
    with stack.engine() as engine:
        engine.api.timeout = 3
        with pytest.raises(requests.exceptions.ReadTimeout):
            engine.api._post(engine.api._url("/containers/{0}/stop", stack.name("slow")), params={"t": 30}, timeout=engine.api.timeout)
        stack.api.wait(stack.name("slow"), timeout=120)
        stack.api.start(stack.name("slow"))
        stack.settle()
        order, memory = guest_verbs.Order(stack.names("slow"), timeout=60), guest_verbs.Memory({}, {}, stack.notes.append)
        done = guest_verbs.stop(engine, Account("docker_guests", "container:t"), order, memory, False)
    assert (done["evidence"]["verdict"], stack.row(done, "slow")["how"]) == ("yes", guests.BY_ITSELF), done.get("msg")
    assert stack.row(done, "slow")["seconds"] > 5.5


def test_what_ignores_the_signal_is_named_and_left_running(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """[compose 8784] The time that was given is the time that it has."""
    stack.make("ignores", IGNORES, "always")
    stack.make("obeys", OBEYS)
    stack.settle()
    with monkeypatch.context() as patch:
        patch.setattr(guests, "Clock", lambda: Patient(lambda: stack.status("obeys") == "running"))
        done = stack.stop("ignores", "obeys", timeout=2)
    assert done["failed"] is True
    assert done["evidence"]["verdict"] == "no"
    assert f"{stack.name('ignores')} did not end within 2 s" in done["msg"]
    assert "nothing was killed" in done["msg"]
    assert (stack.row(done, "ignores")["how"], stack.row(done, "obeys")["how"]) == (guests.STILL_ON, guests.BY_ITSELF)
    assert (stack.status("ignores"), stack.policy("ignores")) == ("running", "no")

    forced = stack.stop("ignores", "obeys", force_after=1.0, allowed_by="Ada", former=done["result"]["former"])
    assert forced["evidence"]["verdict"] == "yes"
    assert (stack.row(forced, "ignores")["how"], stack.row(forced, "obeys")["how"]) == (guests.BY_FORCE, guests.ALREADY_OFF)
    assert (forced["result"]["way"], forced["result"]["force_allowed_by"]) == ("forced", "Ada")
    assert forced["result"]["forced"] == stack.names("ignores")
    assert forced["result"]["former"][stack.name("ignores")]["policy"]["Name"] == "always"


def test_killed_after_the_force_the_next_run_knows_who_allowed_it(stack: Stack) -> None:
    stack.make("ignores", IGNORES)
    stack.settle()

    class Killed(BaseException):
        pass

    def die(engine: Engine, guest: guests.Guest) -> None:
        force(engine, guest)
        raise Killed

    force = Engine.force
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Engine, "force", die)
        stack.stop("ignores", force_after=1.0, allowed_by="Ada")
    book = [ledger.Entry(number, "", {"item": "container:t", "aspect": "guest", **note}) for number, note in enumerate(stack.notes)]
    former, asked = guest_action.remembered(book, "container:t")
    done = stack.stop("ignores", former=former, asked=asked)
    row = stack.row(done, "ignores")
    assert (done["changed"], row["how"], row["graceful"], done["result"]["way"]) == (False, guests.BY_FORCE, "no", "forced"), row
    assert (done["result"]["forced"], done["result"]["force_allowed_by"]) == (stack.names("ignores"), "Ada")


@pytest.fixture
def lone() -> Iterator[Stack]:
    """On an engine that nobody else uses."""
    with tempfile.TemporaryDirectory(prefix="ste-", ignore_cleanup_errors=True) as folder, running(Dockerd(Path(folder))) as engine:
        yield Stack(engine.client(), engine.load(), engine.address)


def test_a_kill_by_somebody_else_is_seen(lone: Stack) -> None:
    """An engine remembers its last 256 events, and where others work on it, these are soon theirs."""
    lone.make("ignores", IGNORES, network_mode="none")
    lone.settle()
    with lone.engine() as engine:
        before = engine.observe()
        engine.ask(before[0])
        lone.api.kill(before[0].key, "SIGKILL")
        while engine.powers()[before[0].key] != "off":
            time.sleep(0.1)
        ending = engine.ending(before[0], engine.observe()[0], asked=True, forced=False)
    assert (ending.how, ending.graceful) == (guests.BY_FORCE, "no")
    assert "somebody else" in ending.detail


def test_paused_and_restarting_containers(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """[moby 15853, 12797, 28366; nomad 736] It is woken first, and one that restarts all the time ends too."""
    monkeypatch.setattr(guest_verbs, "SETTLE", SETTLE)
    stack.make("paused", OBEYS, "unless-stopped")
    stack.make("loop", "exit 3", "always")
    stack.settle()
    stack.api.pause(stack.name("paused"))
    deadline = time.monotonic() + 20
    while stack.status("loop") != "restarting" and time.monotonic() < deadline:
        time.sleep(0.02)
    done = stack.stop("paused", "loop")
    assert done["evidence"]["verdict"] == "yes", done.get("msg")
    assert (stack.row(done, "paused")["how"], stack.row(done, "paused")["after"]["exit_code"]) == (guests.BY_ITSELF, 0)
    assert stack.row(done, "loop")["after"]["exit_code"] == 3
    assert done["result"]["former"][stack.name("paused")]["power"] == "paused"
    time.sleep(2)
    assert (stack.status("loop"), stack.status("paused")) == ("exited", "exited")
    back = stack.start(done["result"]["former"])
    # A container that crashes again and again runs for moments: seen in one of them at the stop, it may be missed at the start.
    ran = done["result"]["former"][stack.name("loop")]["power"] == "on"
    assert back["evidence"]["verdict"] == "yes" or (ran and stack.name("loop") in back["msg"]), back.get("msg")
    assert stack.status("paused") == "paused"
    assert stack.policy("loop") == "always"


def test_twenty_take_as_long_as_the_slowest(stack: Stack) -> None:
    names = [f"n{number}" for number in range(20)]
    for name in names:
        stack.make(name, "trap 'sleep 2; exit 0' TERM; while :; do sleep 0.2; done")
    stack.settle()
    start = time.monotonic()
    done = stack.stop(*names, timeout=60)
    seconds = time.monotonic() - start
    assert done["evidence"]["verdict"] == "yes", done.get("msg")
    assert {stack.row(done, name)["how"] for name in names} == {guests.BY_ITSELF}
    # One after the other, the whole would take at least as long as all together; the machine's own pace does not matter.
    assert seconds < sum(stack.row(done, name)["seconds"] for name in names) / 3
    asked = [action["did"] for action in done["evidence"]["actions"]]
    assert asked == ["asked"] * 20


def compose(service: str, depends: str = "") -> dict[str, str]:
    return {
        "com.docker.compose.project": "shop",
        "com.docker.compose.service": service,
        "com.docker.compose.depends_on": depends,
    }


def test_dependents_end_first_and_come_back_last(stack: Stack) -> None:
    slow = "trap 'sleep 1; exit 0' TERM; while :; do sleep 0.1; done"
    stack.make("db", slow, labels=compose("db"))
    stack.make("app", slow, labels=compose("app", "db:service_started:false"))
    stack.make("web", slow, labels=compose("web", "app:service_started:true,db:service_started:false"))
    stack.settle()
    done = stack.stop("db", "app", "web")
    asked = [action["guest"] for action in done["evidence"]["actions"] if action["did"] == "asked"]
    assert asked == stack.names("web", "app", "db")
    assert stack.inspect("app")["State"]["FinishedAt"] < stack.inspect("db")["State"]["FinishedAt"]
    back = stack.start(done["result"]["former"])
    assert back["result"]["started"] == stack.names("db", "app", "web")


def test_what_carries_a_stubborn_container_is_left_running(stack: Stack) -> None:
    stack.make("db", OBEYS, labels=compose("db"))
    stack.make("web", IGNORES, labels=compose("web", "db:service_started:false"))
    stack.settle()
    done = stack.stop("db", "web", timeout=1.5)
    assert done["failed"] is True
    assert (stack.status("db"), stack.row(done, "db")["how"]) == ("running", guests.NOT_ASKED)
    assert f"{stack.name('db')} was not asked" in done["msg"]


def test_a_wrong_set_is_refused_untouched(stack: Stack) -> None:
    stack.make("here", OBEYS, "always")
    with pytest.raises(Refusal, match="missing is in the plan and not there"):
        stack.stop("here", "missing")
    stack.make("extra", OBEYS)
    with pytest.raises(Refusal, match="extra is there and not in the plan"):
        stack.stop("here")
    assert (stack.status("here"), stack.policy("here")) == ("running", "always")


def test_a_vanishing_container_is_refused_untouched(stack: Stack) -> None:
    stack.make("here", OBEYS, "always")
    stack.make("rm", OBEYS, auto_remove=True)
    with pytest.raises(Refusal, match=r"rm: it was started with --rm"):
        stack.stop("here", "rm")
    assert stack.policy("here") == "always"


def test_killed_between_policy_and_stop(stack: Stack) -> None:
    """The controller dies after the policies were taken away. The next run must not take that for the former state."""
    stack.make("a", OBEYS, "always")
    stack.make("b", OBEYS, "on-failure")
    stack.make("off", "exit 0", "unless-stopped", start=False)
    stack.settle()

    class Killed(BaseException):
        pass

    def die(_self: Engine, guest: guests.Guest) -> None:
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "ask", die)
        with pytest.raises(Killed):
            stack.stop("a", "b", "off")
    assert (stack.status("a"), stack.policy("a"), stack.policy("off")) == ("running", "no", "no")
    noted = [note for note in stack.notes if note["kind"] == "found"][-1]["former"]

    done = stack.stop("a", "b", "off", former=noted)
    assert (done["changed"], done["evidence"]["verdict"]) == (True, "yes")
    former = done["result"]["former"]
    assert [former[stack.name(short)]["policy"]["Name"] for short in ("a", "b", "off")] == ["always", "on-failure", "unless-stopped"]

    dry = stack.start(former, check=True)
    assert (dry["changed"], stack.status("a")) == (True, "exited")
    back = stack.start(former)
    assert (back["changed"], back["evidence"]["verdict"]) == (True, "yes"), back.get("msg")
    assert [stack.status(short) for short in ("a", "b", "off")] == ["running", "running", "created"]
    assert [stack.policy(short) for short in ("a", "b", "off")] == ["always", "on-failure", "unless-stopped"]
    assert stack.inspect("b")["HostConfig"]["RestartPolicy"]["MaximumRetryCount"] == 3
    again = stack.start(former)
    assert (again["changed"], again["evidence"]["verdict"]) == (False, "yes")


def test_a_container_that_does_not_come_back_is_named(stack: Stack) -> None:
    stack.make("once", "test ! -e /tmp/done || exit 4; echo >/tmp/done; " + OBEYS)
    stack.settle()
    former = stack.stop("once")["result"]["former"]
    bring_up = guests.bring_up

    def and_ends(*all_: Any) -> dict[str, str]:
        failed = bring_up(*all_)
        stack.api.wait(stack.name("once"), timeout=60)
        return failed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(guests, "bring_up", and_ends)
        back = stack.start(former)
    assert back["failed"] is True
    assert f"{stack.name('once')} does not run" in back["msg"]


@pytest.mark.parametrize("again", ["runs", "ran"])
def test_a_container_that_is_started_while_it_is_saved_is_not_called_saved(
    stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, again: str
) -> None:
    """What was written meanwhile is in no copy, and its volumes did not rest."""
    stack.make("db", OBEYS)
    stack.settle()
    stack.stop("db")
    drop = docker_images.drop_snapshot

    def meanwhile(engine: Any, reference: str) -> None:
        drop(engine, reference)
        stack.api.start(stack.name("db"))
        if again == "ran":
            stack.api.kill(stack.name("db"))
            stack.api.wait(stack.name("db"), timeout=120)

    monkeypatch.setattr(docker_images, "drop_snapshot", meanwhile)
    done = stack.save(tmp_path / "staging", "db")
    assert done["failed"] and f"{stack.name('db')} was started or made anew while it was saved" in done["msg"], done
    monkeypatch.undo()
    if again == "runs":
        stack.settle()
        stack.stop("db")
    done = stack.save(tmp_path / "staging", "db")
    assert (done["changed"], done["evidence"]["verdict"]) == (True, "yes"), done.get("msg")


def test_saved_containers_hold_what_the_container_wrote(stack: Stack, tmp_path: Path) -> None:
    stack.make(
        "db", "echo kept >/data/own-layer; " + OBEYS, labels={"note": 'it\'s "quoted"'}, binds={f"ste-{stack.mark}": {"bind": "/vol"}}
    )
    stack.settle()
    staging = tmp_path / "staging"
    with pytest.raises(Refusal, match="db still runs"):
        stack.save(staging, "db")
    assert stack.save(staging, "db", check=True)["changed"] is True
    stack.stop("db")

    done = stack.save(staging, "db")
    try:
        assert (done["changed"], done["evidence"]["verdict"]) == (True, "yes")
        artefacts = {artefact["role"]: artefact for artefact in done["result"]["artefacts"]}
        for artefact in artefacts.values():
            data = Path(artefact["path"]).read_bytes()
            assert (hashlib.sha256(data).hexdigest(), len(data)) == (artefact["sha256"], artefact["bytes"])
        tar = gzip.decompress(Path(artefacts["image"]["path"]).read_bytes())
        assert hashlib.sha256(tar).hexdigest() == artefacts["image"]["plain_sha256"]
        assert len(tar) == artefacts["image"]["plain_bytes"]
        assert json.loads(Path(artefacts["inspect"]["path"]).read_text())["Name"] == f"/{stack.name('db')}"
        assert done["result"]["volumes"][0]["name"] == f"ste-{stack.mark}"
        assert Path(done["result"]["volumes"][0]["mountpoint"]).is_absolute()
        # Others save on the same engine.
        tags = [tag for image in stack.api.images() for tag in image["RepoTags"] or () if stack.mark in tag]
        assert "sunset-saved" not in json.dumps(tags)

        assert stack.save(staging, "db")["changed"] is False
        Path(artefacts["image"]["path"]).write_bytes(b"torn")
        assert stack.save(staging, "db")["changed"] is True

        # What was saved can be loaded, and what the container wrote is in it.
        reference = json.loads(_member(tar, "manifest.json"))[0]["RepoTags"][0]
        stack.api.load_image(io.BytesIO(tar))  # type: ignore[no-untyped-call]
        made = stack.api.create_container(
            reference, ["cat", "/data/own-layer"], labels={"sunset-test-e-all": stack.mark, "sunset-lab": "no"}
        )
        stack.api.start(made["Id"])
        stack.api.wait(made["Id"], timeout=120)
        assert stack.api.logs(made["Id"]) == b"kept\n"
        stack.remove()
        stack.api.remove_image(reference, force=True)
    finally:
        stack.remove()
        stack.api.remove_volume(f"ste-{stack.mark}", force=True)


def left_of_proofs(stack: Stack) -> list[Any]:
    images = [
        tag for image in stack.api.images() for tag in image["RepoTags"] or () if tag.startswith(("sunset-proof/t", "sunset-saved/t"))
    ]
    return [*images, *stack.api.containers(all=True, filters={"label": "org.sunset-crm.proof=container:t"})]


def test_a_saved_image_is_proven_by_starting_it(stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stack.make("db", OBEYS, "always", binds={f"ste-{stack.mark}": {"bind": "/vol"}})
    stack.make("fails", "test ! -e /tmp/done || exit 4; echo >/tmp/done; " + OBEYS)
    stack.settle()
    stack.stop("db", "fails")
    begin = docker_proof._start

    def begins(engine: Any, key: str) -> str:
        """However slow the machine is, it has begun or failed before the time of watching it is over."""
        error = begin(engine, key)
        if not heeds(int(stack.api.inspect_container(key)["State"]["Pid"])):
            stack.api.wait(key, timeout=60)
        return error

    monkeypatch.setattr(docker_proof, "_start", begins)
    try:
        assert stack.save(tmp_path / "s", "db", "fails")["result"]["starts"] == {}
        dry = stack.save(tmp_path / "s", "db", "fails", check=True, prove=True)
        assert (dry["changed"], dry["result"]["would_save"]) == (True, [])
        done = stack.save(tmp_path / "s", "db", "fails", prove=True)
        assert (done["changed"], done["evidence"]["verdict"]) == (True, "yes"), done.get("msg")
        starts = done["result"]["starts"]
        assert (starts[stack.name("db")]["starts"], starts[stack.name("fails")]["starts"]) == ("yes", "unknown"), starts
        assert starts[stack.name("fails")]["exit_code"] == 4
        assert left_of_proofs(stack) == []
        again = stack.save(tmp_path / "s", "db", "fails", prove=True)
        assert (again["changed"], again["result"]["starts"]) == (False, starts)
        # The container itself was not touched.
        assert (stack.status("db"), stack.policy("db")) == ("exited", "no")
    finally:
        stack.remove()
        stack.api.remove_volume(f"ste-{stack.mark}", force=True)


def test_killed_in_the_middle_of_a_proof_leaves_nothing_after_the_next_run(stack: Stack, tmp_path: Path) -> None:
    stack.make("db", OBEYS)
    stack.settle()
    stack.stop("db")

    class Killed(BaseException):
        pass

    def die(*_all: Any) -> None:
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        # What a killed controller does not do either: clean up.
        patch.setattr(docker_proof, "_remove", lambda *_all: None)
        patch.setattr(docker_images, "drop_snapshot", lambda *_all: None)
        patch.setattr(docker_proof, "judged", die)
        with pytest.raises(Killed):
            stack.save(tmp_path / "s", "db", prove=True)
    assert len(left_of_proofs(stack)) >= 2
    # It is no guest of the set meanwhile.
    assert stack.stop("db")["changed"] is False
    done = stack.save(tmp_path / "s", "db", prove=True)
    assert done["result"]["starts"][stack.name("db")]["starts"] == "yes"
    assert left_of_proofs(stack) == []


def _member(tar: bytes, name: str) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(tar)) as opened:
        found = opened.extractfile(name)
        assert found is not None
        return found.read()


def test_killed_between_commit_and_save(stack: Stack, tmp_path: Path) -> None:
    stack.make("db", OBEYS)
    stack.settle()
    stack.stop("db")
    with stack.engine() as engine:
        reference, made = docker_images.snapshot(engine, engine.inspects()[0], "container:t")
        assert made
        assert docker_images.snapshot(engine, engine.inspects()[0], "container:t") == (reference, False)
    done = stack.save(tmp_path / "s", "db")
    assert "found the commit of an earlier run" in [action["did"] for action in done["evidence"]["actions"]]
    assert stack.api.images(name=reference) == []


def test_the_engine_may_be_gone() -> None:
    with pytest.raises(Refusal, match="the Docker engine does not answer"):
        Engine("/nonexistent.sock", "a=b")
    with pytest.raises(Refusal, match="label is empty"):
        Engine(SOCKET, "")
