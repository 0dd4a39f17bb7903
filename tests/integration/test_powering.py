# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""host_power against a controller that lies, slows, cuts and forgets. The host's own side is played; test_host_power.py has a real one."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleConnectionFailure

from ansible_collections.sunset.crm.plugins.action import host_power
from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.power import witness
from ansible_collections.sunset.crm.plugins.plugin_utils.record import ledger
from ansible_collections.sunset.crm.plugins.plugin_utils.record.estate import Estate
from tests.integration import controller_stand as stand
from tests.integration.redfish_fake import RESET, Bmc, certificates

UUID = "11111111-2222-3333-4444-555555555555"
MACHINE = "0123456789abcdef0123456789abcdef"
IDLE = {"running": "no", "guests": [], "excused": [], "unknown": [], "databases": {"servers": [], "ports": [], "sessions": []}}


class Ticking:
    """The time of a loop that waits: only its pauses take any, however long what it does meanwhile takes."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)
        self.now += seconds


class Host(host_power.ActionModule):
    """A host with a board: what it answers, and what it does when it is asked to end."""

    name = "host_power"

    def __init__(self, bmc: Bmc, folder: Path) -> None:
        self.bmc, self.folder = bmc, folder
        self.reachable, self.obeys, self.asked = True, True, 0
        self.uuid = UUID
        self.idle: dict[str, Any] = IDLE
        self.warnings: list[str] = []
        self._display = type("Display", (), {"warning": lambda _self, text: self.warnings.append(text)})()
        self._connection = type("Connection", (), {"reset": lambda _self: None})()

    def _low_level_execute_command(self, line: str, sudoable: bool) -> dict[str, Any]:
        if not self.reachable or self.bmc.machine.state == "Off":
            raise AnsibleConnectionFailure("no route to host")
        if line == host_power.IDENTITY:
            return {"rc": 0, "stdout": f"{MACHINE}\nboot-1\n"}
        if line == host_power.BOARD:
            return {"rc": 0, "stdout": f"uuid={self.uuid}\nserial=\n"}
        self.asked += 1
        if self.obeys:
            threading.Timer(0.2, lambda: setattr(self.bmc.machine, "state", "Off")).start()
        return {"rc": 0, "stdout": "", "stderr": ""}

    def _execute_module(self, module_name: str, module_args: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        assert module_name == "sunset.crm.host_idle"
        return {"idle": self.idle} if self.idle else {"failed": True, "msg": "python is gone"}

    def play(self, state: str = "off", check: bool = False, **options: Any) -> dict[str, Any]:
        args = {"item": "host:h", "state": state, "timeout": 6, "machine_id": MACHINE, **options}
        try:
            done: dict[str, Any] = self.perform(args, {"sunset_estate_dir": str(self.folder / "estate")}, check)
        except Refusal as exc:
            return {"failed": True, "changed": False, "msg": str(exc)}
        return done


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def host(tls: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    monkeypatch.setattr(host_power, "SETTLE", 0.3)
    monkeypatch.setattr(host_power, "POLL", 0.1)
    monkeypatch.setattr(host_power, "time", Ticking())
    monkeypatch.setattr(witness, "AGAIN", 0.05)
    bmc = Bmc(password=stand.PASSWORD).start(tls)
    yield Host(bmc, tmp_path)
    bmc.stop()


@pytest.fixture
def seen(host: Host, tls: dict[str, str], tmp_path: Path) -> dict[str, Any]:
    return {"kind": "redfish", "address": host.bmc.address, "credentials": stand.credentials(tmp_path), "ca_file": tls["ca"], "timeout": 20}


def told(done: dict[str, Any]) -> list[str]:
    return [action["did"] for action in done["evidence"]["actions"]]


# --- off ---


def test_check_real_check_real(host: Host, seen: dict[str, Any]) -> None:
    dry = host.play(witness=seen, check=True)
    assert (dry["changed"], host.asked, host.bmc.posts()) == (True, 0, [])
    done = host.play(witness=seen)
    assert (done["changed"], done["evidence"]["verdict"]) == (True, "yes"), done.get("msg")
    result = done["result"]
    assert (result["power"], result["proof"], result["how"], result["stays_off"]) == ("off", "redfish", "after a graceful request", "yes")
    assert (result["asked_through"], result["forced"], result["controller_of_this_host"]) == ("ssh", False, "yes")
    assert (host.bmc.posts(), host.bmc.sessions) == ([], {})
    for again in (host.play(witness=seen, check=True), host.play(witness=seen)):
        assert (again["changed"], again["evidence"]["verdict"], again["result"]["how"]) == (False, "yes", "already off")
    assert stand.PASSWORD not in str(done) + str(dry)


def test_a_guest_that_runs_keeps_the_host_on(host: Host, seen: dict[str, Any]) -> None:
    host.idle = {**IDLE, "running": "yes", "guests": ["machine web1 (libvirt)"]}
    done = host.play(witness=seen)
    assert (done["failed"], done["changed"], done["evidence"]["verdict"]) == (True, False, "no")
    assert "host:h stays on: this guest still runs on it: machine web1 (libvirt). It was not asked for anything" in done["msg"]
    assert (host.asked, host.bmc.posts()) == (0, [])
    # A rehearsal finds the estate as it runs, and says so.
    dry = host.play(witness=seen, check=True)
    assert (dry["changed"], dry["result"]["now"]) == (True, ["this guest still runs on it: machine web1 (libvirt)"])
    # Nobody's signature goes against what was seen.
    assert host.play(witness=seen, idle_waiver="abc")["failed"] is True


def test_unknown_guests_block_until_a_person_signs(host: Host, seen: dict[str, Any]) -> None:
    host.idle = {**IDLE, "running": "unknown", "unknown": ["docker at /var/run/docker.sock does not tell what runs: timed out"]}
    assert "whether a guest runs on it is unknown: docker at" in host.play(witness=seen)["msg"]
    host.idle = {}
    assert "it could not be looked at (python is gone)" in host.play(witness=seen)["msg"]
    assert host.asked == 0
    done = host.play(witness=seen, idle_waiver="abc")
    assert (done["evidence"]["verdict"], done["result"]["idle_waiver"]) == ("yes", "abc")


def test_a_session_from_another_host_keeps_the_host_on(host: Host, seen: dict[str, Any]) -> None:
    host.idle = {**IDLE, "databases": {"servers": ["postgres"], "ports": [5432], "sessions": ["192.0.2.7 on port 5432"]}}
    assert "a session from 192.0.2.7 on port 5432 is open on a database server of it" in host.play(witness=seen)["msg"]
    assert host.asked == 0


def test_a_host_that_goes_down_already_is_not_asked_again(host: Host, seen: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed after the request: the second run waits for what the first has begun."""
    look, shown = witness.Watch.look, list[str]()

    def twice(self: witness.Watch, wanted: str = "") -> dict[str, Any]:
        reading = look(self, wanted)
        shown.append(reading["detail"]["state"])
        if len(shown) == 2:
            host.bmc.machine.state = "Off"
        return reading

    monkeypatch.setattr(witness.Watch, "look", twice)
    host.bmc.machine.state, host.reachable = "PoweringOff", False
    done = host.play(witness=seen)
    assert shown[:3] == ["PoweringOff", "PoweringOff", "Off"]
    assert (done["changed"], done["evidence"]["verdict"], done["result"]["how"]) == (True, "yes", "unknown")
    assert (host.asked, host.bmc.posts(), told(done)) == (0, [], [])


def test_powering_off_for_ever_is_not_off(host: Host, seen: dict[str, Any]) -> None:
    host.obeys, host.bmc.machine.state = False, "PoweringOff"
    done = host.play(witness=seen, timeout=1.5)
    assert (done["failed"], done["evidence"]["verdict"]) == (True, "no")
    assert "PoweringOff" in done["msg"]
    assert "Nothing was forced" in done["msg"]


def test_a_controller_that_goes_silent_meanwhile_does_not_make_a_host_off(
    host: Host, seen: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    host.obeys = False
    ask = host._ask

    def mad() -> dict[str, Any]:
        host.bmc.broken = "gone mad"
        return ask()

    monkeypatch.setattr(host, "_ask", mad)
    done = host.play(witness=seen, timeout=2)
    assert done["failed"] is True
    assert "host:h is unknown" in done["msg"]


def test_a_host_that_restarts_is_off_for_a_moment_only(host: Host, seen: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    shown = iter(["Off"])
    monkeypatch.setattr(host.bmc.machine, "power", lambda: next(shown, "On") if host.asked else "On")
    host.obeys = False
    # One look at the controller reads its system once.
    done = host.play(witness=seen)
    assert (done["failed"], host.asked) == (True, 1)
    assert "host:h is on" in done["msg"]


def test_a_host_that_restarts_when_it_is_looked_at_first_is_not_already_off(
    host: Host, seen: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An earlier run was killed after it had asked, and the host restarts: the first look falls into the moment in which it is off."""
    look = witness.Watch.look

    def once(self: witness.Watch, wanted: str = "") -> dict[str, Any]:
        reading = look(self, wanted)
        if not host.asked:
            host.bmc.machine.state = "On"
        return reading

    monkeypatch.setattr(witness.Watch, "look", once)
    host.bmc.machine.state = "Off"
    assert host.play(witness=seen, check=True)["changed"] is True
    host.bmc.machine.state = "Off"
    done = host.play(witness=seen)
    assert (done["changed"], host.asked, done["result"]["how"]) == (True, 1, "after a graceful request"), done.get("msg")


# --- force ---


def test_force_is_a_decision_and_recorded(host: Host, seen: dict[str, Any]) -> None:
    host.obeys = False
    done = host.play(witness=seen, force_after=0.5, force_allowed_by="alice")
    assert (done["evidence"]["verdict"], done["result"]["how"], done["result"]["forced"]) == ("yes", "by force", True), done.get("msg")
    assert done["result"]["force_allowed_by"] == "alice"
    assert (host.asked, host.bmc.posts()) == (1, ["ForceOff"])
    assert told(done) == ["asked to power off", "cut off, allowed by alice"]


def test_force_is_not_used_where_the_host_ends_by_itself(host: Host, seen: dict[str, Any]) -> None:
    done = host.play(witness=seen, timeout=60, force_after=30, force_allowed_by="alice")
    assert (done["result"]["how"], host.bmc.posts()) == ("after a graceful request", [])


def test_force_that_is_not_offered_is_an_error(host: Host, seen: dict[str, Any]) -> None:
    host.obeys, host.bmc.offers = False, ["On", "GracefulShutdown", "PushPowerButton"]
    done = host.play(witness=seen, force_after=0.3, force_allowed_by="alice")
    assert (done["failed"], host.bmc.posts()) == (True, [])
    assert "not ForceOff" in done["msg"] and "Nothing was forced" in done["msg"]


def test_force_whose_answer_is_cut_off_is_sent_once(host: Host, seen: dict[str, Any]) -> None:
    host.obeys = False
    host.bmc.cut = lambda method, path: path == RESET
    done = host.play(witness=seen, force_after=0.3, force_allowed_by="alice")
    assert (done["evidence"]["verdict"], done["result"]["forced"], host.bmc.posts()) == ("yes", True, ["ForceOff"])


def test_a_force_that_changes_nothing_is_told(host: Host, seen: dict[str, Any]) -> None:
    host.obeys = host.bmc.machine.obey = False
    done = host.play(witness=seen, timeout=2, force_after=0.3, force_allowed_by="alice")
    assert (done["failed"], host.bmc.posts()) == (True, ["ForceOff"])
    assert "It was cut off and is still not off" in done["msg"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"force_after": 3}, "force_allowed_by"),
        ({"force_after": 6, "force_allowed_by": "alice"}, "must be shorter than timeout"),
        ({"force_after": 0, "force_allowed_by": "alice"}, "must be shorter than timeout"),
    ],
)
def test_bad_options_of_force(host: Host, seen: dict[str, Any], options: dict[str, Any], message: str) -> None:
    done = host.play(witness=seen, **options)
    assert message in done["msg"]
    assert host.asked == 0


def test_nothing_is_forced_on_a_controller_of_which_nobody_knows_whose_it_is(host: Host, seen: dict[str, Any]) -> None:
    host.uuid = ""
    done = host.play(witness=seen, force_after=1, force_allowed_by="alice")
    assert "nothing shows that the controller is that of this host" in done["msg"]
    assert host.asked == 0
    assert host.play(witness={**seen, "serial": "SER-1"}, force_after=1, force_allowed_by="alice")["evidence"]["verdict"] == "yes"
    silence = {"kind": "silence", "address": "127.0.0.1", "ports": [1], "reference": "127.0.0.1"}
    host.bmc.machine.state = "On"
    assert "no management controller that could" in host.play(witness=silence, force_after=1, force_allowed_by="alice")["msg"]


def test_the_controller_of_another_machine_is_refused(host: Host, seen: dict[str, Any]) -> None:
    host.uuid = UUID.replace("1111", "2222")
    done = host.play(witness=seen)
    assert "It is the controller of another machine" in done["msg"]
    assert host.asked == 0
    # Firmware writes the first parts of one and the same UUID in two ways.
    host.uuid = "44332211-2211-3322-4444-555555555555"
    host.bmc.uuid = "11223344-1122-2233-4444-555555555555"
    assert host.play(witness=seen)["evidence"]["verdict"] == "yes"


def test_a_host_that_goes_down_already_is_cut_off_by_its_own_controller_alone(host: Host, seen: dict[str, Any]) -> None:
    """Killed after the request: the second run must know whose controller it is as well as the first."""
    host.obeys, host.reachable, host.bmc.machine.state = False, False, "PoweringOff"
    force = {"force_after": 0.3, "force_allowed_by": "alice", "timeout": 2}
    done = host.play(witness=seen, **force)
    assert (done["failed"], host.bmc.posts()) == (True, [])
    assert "It was not cut off: nothing shows that the controller is that of this host" in done["msg"]
    assert "another machine" in host.play(witness=seen, board={"uuid": UUID.replace("5", "6")}, **force)["msg"]
    done = host.play(witness=seen, board={"uuid": UUID}, **force)
    assert (done["evidence"]["verdict"], host.bmc.posts()) == ("yes", ["ForceOff"]), done.get("msg")


def test_the_controller_of_a_machine_that_is_off_is_no_proof_that_this_one_is(host: Host, seen: dict[str, Any]) -> None:
    """A wrong address in the inventory: the controller of a machine that was retired long ago."""
    host.bmc.machine.state = "Off"
    done = host.play(witness=seen, board={"uuid": UUID.replace("5", "6")})
    assert done["failed"] and "It is the controller of another machine; nothing was changed" in done["msg"]
    assert host.play(witness=seen, board={"uuid": UUID})["result"]["how"] == "already off"


def test_a_host_that_is_off_for_its_witness_and_answers_is_not_off(
    host: Host, seen: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "_identity", lambda: {"machine_id": MACHINE, "boot_id": "boot-1"})
    host.bmc.machine.state = "Off"
    for check in (True, False):
        done = host.play(witness=seen, check=check)
        assert done["failed"] and "off, says its witness (redfish), and answers through its connection" in done["msg"]
    # Another machine that has its address by now says nothing about it.
    monkeypatch.setattr(host, "_identity", lambda: {"machine_id": "f" * 32, "boot_id": "boot-1"})
    assert host.play(witness=seen)["result"]["how"] == "already off"


def test_a_host_that_was_asked_and_not_seen_to_go_off_is_tried_before_a_witness_is_believed(
    host: Host, seen: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It did not go off; then its witness was corrected, to the wrong machine."""
    book = Estate.at(str(host.folder / "estate")).ledger_file
    head = {"item": "host:h", "aspect": "power", "value": "off"}
    ledger.append(book, {"kind": "intent", **head, "former": {}})
    ledger.append(book, {"kind": "outcome", **head, "status": "failed", "evidence": {"actions": [{"did": "asked to power off"}]}})
    monkeypatch.setattr(host, "_identity", lambda: {"machine_id": MACHINE, "boot_id": "boot-1"})
    host.bmc.machine.state = "Off"
    assert "answers through its connection: the witness looks at another machine" in host.play(witness=seen)["msg"]
    # One that was seen to go off is not waited for again and again.
    ledger.append(book, {"kind": "outcome", **head, "status": "done", "evidence": {"actions": []}})
    assert host.play(witness=seen)["result"]["how"] == "already off"


def test_silence_without_a_reference_is_no_witness_of_an_end(host: Host) -> None:
    done = host.play(witness={"kind": "silence", "address": "192.0.2.77", "seconds": 1})
    assert "its only witness is silence, and it has no reference" in done["msg"] and host.asked == 0


# --- a host that does not answer ---


def test_a_host_without_ssh_is_not_asked_by_its_controller_unless_told(host: Host, seen: dict[str, Any]) -> None:
    host.reachable = False
    assert "let its controller ask it (ask_controller)" in host.play(witness=seen)["msg"]
    done = host.play(witness=seen, ask_controller=True)
    assert "nothing shows that the controller is that of this host" in done["msg"]
    known = {**seen, "uuid": UUID}
    done = host.play(witness=known, ask_controller=True)
    assert "nobody can see whether a guest runs on it" in done["msg"]
    assert host.bmc.posts() == []
    done = host.play(witness=known, ask_controller=True, idle_waiver="abc")
    assert (done["evidence"]["verdict"], done["result"]["asked_through"]) == ("yes", "controller"), done.get("msg")
    assert (host.bmc.posts(), host.asked) == (["GracefulShutdown"], 0)


def test_the_board_of_the_plan_tells_whose_controller_it_is(host: Host, seen: dict[str, Any]) -> None:
    host.reachable = False
    done = host.play(witness=seen, board={"uuid": UUID}, ask_controller=True, idle_waiver="abc")
    assert done["evidence"]["verdict"] == "yes", done.get("msg")
    host.bmc.machine.state = "On"
    assert (
        "another machine" in host.play(witness=seen, board={"uuid": UUID.replace("5", "6")}, ask_controller=True, idle_waiver="abc")["msg"]
    )


def test_fact_9_no_graceful_shutdown_is_no_reason_to_force(host: Host, seen: dict[str, Any]) -> None:
    host.reachable, host.bmc.offers = False, ["On", "ForceOff"]
    done = host.play(witness={**seen, "uuid": UUID}, ask_controller=True, idle_waiver="abc")
    assert "offers On, ForceOff, not GracefulShutdown. Nothing else was sent in its place" in done["msg"]
    assert host.bmc.posts() == []


# --- on ---


def test_on_check_real_check_real(host: Host, seen: dict[str, Any]) -> None:
    host.bmc.machine.state = "Off"
    dry = host.play("on", witness=seen, check=True)
    assert (dry["changed"], host.bmc.posts()) == (True, [])
    done = host.play("on", witness=seen)
    assert (done["changed"], done["evidence"]["verdict"], done["result"]["through"]) == (True, "yes", "redfish (On)"), done.get("msg")
    assert host.play("on", witness=seen, check=True)["changed"] is False
    assert host.play("on", witness=seen)["changed"] is False
    assert (host.bmc.posts(), host.bmc.sessions) == (["On"], {})


def test_another_machine_that_comes_up_is_refused(host: Host, seen: dict[str, Any]) -> None:
    host.bmc.machine.state = "Off"
    done = host.play("on", witness=seen, machine_id="f" * 32)
    assert "Another machine has its address" in done["msg"]


def test_a_controller_that_takes_the_request_and_does_nothing(host: Host, seen: dict[str, Any]) -> None:
    host.bmc.machine.state, host.bmc.machine.obey = "Off", False
    start = time.monotonic()
    done = host.play("on", witness=seen, timeout=1.5)
    assert (done["failed"], done["changed"]) == (True, True)
    assert "does not answer through its connection within 1.5 s (power: off, it was switched on through redfish (On))" in done["msg"]
    assert time.monotonic() - start < 60


def test_on_whose_answer_is_cut_off_is_sent_once(host: Host, seen: dict[str, Any]) -> None:
    host.bmc.machine.state = "Off"
    host.bmc.cut = lambda method, path: path == RESET
    done = host.play("on", witness=seen)
    assert (done["evidence"]["verdict"], host.bmc.posts()) == ("yes", ["On"])


def test_a_wrong_witness_is_refused_before_anything(host: Host, seen: dict[str, Any]) -> None:
    for wrong, message in (
        ({**seen, "password": "x"}, "carries a login in the inventory"),
        ({**seen, "fingerprint": "00"}, "one of ca_file and fingerprint"),
        ({**seen, "verify": False}, "does not know verify"),
        ([seen, seen], "two witnesses of one kind"),
        ([], "neither a witness"),
        ("redfish", "neither a witness"),
    ):
        assert message in host.play(witness=wrong)["msg"]
    assert host.bmc.log == []
