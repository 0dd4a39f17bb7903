# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Management controllers as witnesses: sushy-emulator and virtualbmc as they are, and two controllers that lie."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.power import controllers, witness
from ansible_collections.sunset.crm.plugins.plugin_utils.power.controllers import CUT, SOFT, Silent
from tests.integration import controller_stand as stand
from tests.integration.ports import free_port
from tests.integration.redfish_fake import RESET, SESSIONS, Bmc, certificates

UUID = "11111111-2222-3333-4444-555555555555"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(witness, "AGAIN", 0.05)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("controllers")


@pytest.fixture(scope="module")
def tls(place: Path) -> dict[str, str]:
    return certificates(place / "tls")


@pytest.fixture
def bmc(tls: dict[str, str]) -> Iterator[Bmc]:
    made = Bmc(password=stand.PASSWORD).start(tls)
    yield made
    made.stop()


@pytest.fixture
def seen(bmc: Bmc, tls: dict[str, str], place: Path) -> dict[str, Any]:
    return {"kind": "redfish", "address": bmc.address, "credentials": stand.credentials(place), "ca_file": tls["ca"], "timeout": 20}


def problem(described: Any) -> str:
    reading = witness.read(described)
    assert reading["power"] == "unknown"
    return str(reading["detail"]["problem"])


def ask(described: dict[str, Any], what: str) -> str:
    with witness.Watch(described) as watch:
        controller = watch.controller()
        assert controller is not None
        return controller.ask(what)


def until(described: dict[str, Any], power: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    with witness.Watch(described) as watch:
        while watch.look()["power"] != power:
            assert time.monotonic() < deadline
            time.sleep(0.2)


# --- the emulators, as they are ---


@pytest.mark.parametrize("driver", ["fake", "libvirt"])
def test_sushy_emulator_goes_down_and_up(driver: str, place: Path, tls: dict[str, str]) -> None:
    """[Fact 10] A controller that nobody had to buy."""
    port = free_port()
    machine = {"uuid": UUID, "name": "one", "power_state": "On"}
    more: dict[str, Any] = {"FAKE_DRIVER": True, "FAKE_SYSTEMS": [machine]} if driver == "fake" else {}
    config = stand.redfish(place, port, tls, **more)
    seen = {
        "kind": "redfish", "address": f"https://127.0.0.1:{port}", "credentials": stand.credentials(place), "auth": "basic",
        "fingerprint": tls["fingerprint"],
    }  # fmt: skip
    with stand.running("emulator", place, **config, libvirt="test:///default" if driver == "libvirt" else ""):
        until(seen, "on")
        # Accepted is not done: the emulator answers before the state changes, by up to eleven seconds.
        assert ask(seen, SOFT) == "GracefulShutdown"
        until(seen, "off")
        assert "stays_off" not in witness.read(seen)["detail"]
        if driver == "fake":
            return
        assert witness.switch_on(seen) == "redfish (On)"
        until(seen, "on")
        assert ask(seen, CUT) == "ForceOff"
        until(seen, "off")


def test_virtualbmc_goes_down_and_up(place: Path) -> None:
    port = free_port()
    seen = {"kind": "ipmi", "address": "127.0.0.1", "port": port, "credentials": stand.credentials(place)}
    with stand.running("vbmc", place, port=port):
        reading = witness.read(seen)
        assert (reading["power"], reading["kind"], reading["detail"]["state"]) == ("on", "ipmi", "on")
        assert ask(seen, SOFT) == "chassis power soft"
        until(seen, "off")
        assert witness.switch_on(seen) == "ipmi (chassis power on)"
        until(seen, "on")
        assert ask(seen, CUT) == "chassis power off"
        until(seen, "off")


# --- Redfish that lies ---


def test_a_reading_tells_the_state_the_policy_and_whose_controller_it_is(bmc: Bmc, seen: dict[str, Any]) -> None:
    detail = witness.read(seen)["detail"]
    assert (detail["state"], detail["stays_off"], detail["serial"], detail["uuid"]) == ("On", True, "SER-1", UUID)
    assert bmc.sessions == {}


@pytest.mark.parametrize(("policy", "stays"), [("AlwaysOff", True), ("LastState", True), ("AlwaysOn", False), (None, None), ("Odd", None)])
def test_the_restore_policy_says_whether_it_stays_off(bmc: Bmc, seen: dict[str, Any], policy: str | None, stays: bool | None) -> None:
    bmc.policy, bmc.machine.state = policy, "Off"
    assert witness.read(seen)["detail"].get("stays_off") is stays


def test_fact_9_a_graceful_shutdown_that_is_not_offered_is_an_error_and_never_a_forced_one(bmc: Bmc, seen: dict[str, Any]) -> None:
    bmc.offers = ["On", "ForceOff", "PushPowerButton"]
    with pytest.raises(Refusal, match=r"offers On, ForceOff, PushPowerButton, not GracefulShutdown\. Nothing else was sent"):
        ask(seen, SOFT)
    bmc.offers = ["GracefulShutdown"]
    with pytest.raises(Refusal, match="not ForceOff"):
        ask(seen, CUT)
    assert (bmc.posts(), bmc.sessions) == ([], {})


def test_what_is_offered_is_read_from_the_action_info_too_and_nothing_listed_is_not_everything(bmc: Bmc, seen: dict[str, Any]) -> None:
    bmc.action_info, bmc.offers = True, ["On", "GracefulShutdown"]
    with pytest.raises(Refusal, match="offers On, GracefulShutdown, not ForceOff"):
        ask(seen, CUT)
    assert ask(seen, SOFT) == "GracefulShutdown"
    bmc.action_info, bmc.offers = False, None
    with pytest.raises(Refusal, match="does not say what it offers"):
        ask(seen, SOFT)
    assert bmc.posts() == ["GracefulShutdown"]


def test_the_power_button_is_never_pushed_to_switch_on(bmc: Bmc, seen: dict[str, Any]) -> None:
    bmc.offers, bmc.machine.state = ["ForceOff", "PushPowerButton"], "Off"
    with pytest.raises(Refusal, match="offers ForceOff, PushPowerButton, not On"):
        witness.switch_on(seen)
    assert bmc.posts() == []


def test_an_answer_that_is_cut_off_after_the_request_was_accepted_is_not_sent_again(bmc: Bmc, seen: dict[str, Any]) -> None:
    bmc.cut = lambda method, path: path == RESET
    with pytest.raises(Silent, match="gave no answer when it was asked for GracefulShutdown"):
        ask(seen, SOFT)
    assert bmc.posts() == ["GracefulShutdown"]
    until(seen, "off")
    assert witness.switch_on(seen).startswith("redfish (no answer: ")
    assert bmc.posts() == ["GracefulShutdown", "On"]
    until(seen, "on")
    assert bmc.sessions == {}


def test_a_request_that_is_turned_down_is_an_error(bmc: Bmc, seen: dict[str, Any]) -> None:
    bmc.status = 400
    with pytest.raises(Refusal, match="turned GracefulShutdown down"):
        ask(seen, SOFT)
    bmc.status = 503
    with pytest.raises(Silent, match="error of its own"):
        ask(seen, SOFT)
    assert bmc.sessions == {}


def test_sessions_are_deleted_whatever_happens_and_none_left_is_named(bmc: Bmc, seen: dict[str, Any]) -> None:
    bmc.cut = lambda method, path: method == "GET" and path.endswith("Systems/1")
    assert "gave no answer" in problem(seen)
    bmc.cut = lambda method, path: False
    assert bmc.sessions == {}
    bmc.slots = 0
    assert "All its sessions may be taken: end some on its own page, or set auth: basic" in problem(seen)
    # No silent fall-back: it was not told to use Basic.
    assert not [body for method, path, body in bmc.log if (method, path) == ("POST", RESET)]
    assert witness.read({**seen, "auth": "basic"})["power"] == "on"


def test_many_readings_take_one_session(bmc: Bmc, seen: dict[str, Any]) -> None:
    with witness.Watch(seen) as watch:
        for _time in range(5):
            assert watch.look()["power"] == "on"
        assert len(bmc.sessions) == 1
        # The controller restarts and forgets its sessions: the next reading begins anew.
        bmc.sessions.clear()
        assert watch.look()["power"] == "on"
    assert bmc.sessions == {}
    assert len([1 for method, path, _body in bmc.log if (method, path) == ("POST", SESSIONS)]) == 2


def test_a_session_that_cannot_be_deleted_is_told(bmc: Bmc, seen: dict[str, Any]) -> None:
    with witness.Watch(seen) as watch:
        watch.look()
        bmc.cut = lambda method, path: method == "DELETE"
        bmc.stop()
    assert "a session could not be deleted" in watch.left[0]
    bmc.start(certificates(Path(seen["ca_file"]).parent / "again"))


def test_a_slow_controller_is_waited_for_and_one_that_hangs_is_unknown(bmc: Bmc, seen: dict[str, Any]) -> None:
    bmc.delay = 0.3
    assert witness.read(seen)["power"] == "on"
    bmc.delay = 60
    start = time.monotonic()
    assert "gave no answer" in problem({**seen, "timeout": 1})
    assert time.monotonic() - start < 30


@pytest.mark.parametrize("state", ["PoweringOff", "PoweringOn", "Paused"])
def test_on_its_way_is_not_off(bmc: Bmc, seen: dict[str, Any], state: str) -> None:
    bmc.machine.state = state
    reading = witness.read(seen)
    assert (reading["power"], reading["detail"]["state"]) == ("on", state)


@pytest.mark.parametrize("state", [None, "Sleeping", 7, ["Off"], ""])
def test_a_state_that_nobody_knows_is_unknown(bmc: Bmc, seen: dict[str, Any], state: Any) -> None:
    bmc.machine.state = state
    assert witness.read(seen)["power"] == "unknown"


def test_what_is_no_redfish_is_unknown(bmc: Bmc, seen: dict[str, Any]) -> None:
    for text in ("<html>log in</html>", "[]", "null", '{"Systems": 4}', "{"):
        bmc.broken = text
        assert "127.0.0.1" in problem(seen)


def test_tls_is_verified_by_ca_file_or_fingerprint(
    bmc: Bmc, seen: dict[str, Any], place: Path, tls: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = certificates(place / "other")
    assert "a certificate that is not the one of the inventory" in problem({**seen, "ca_file": other["ca"]})
    pinned = {key: value for key, value in seen.items() if key != "ca_file"}
    assert witness.read({**pinned, "fingerprint": tls["fingerprint"]})["power"] == "on"
    assert "a certificate that is not the one of the inventory" in problem({**pinned, "fingerprint": other["fingerprint"]})
    # The name in the certificate counts, too, where a CA vouches for it.
    assert "certificate" in problem({**seen, "address": seen["address"].replace("127.0.0.1", "localhost")})
    assert "not reached over https" in problem({**seen, "address": seen["address"].replace("https", "http")})
    before = len(bmc.log)
    problem({**pinned, "fingerprint": other["fingerprint"]})
    assert len(bmc.log) == before, "the password was sent before the certificate was looked at"
    # Neither a proxy nor a certificate store of the environment comes between.
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", other["ca"])
    assert witness.read(seen)["power"] == "on"


def test_the_controller_of_another_machine_is_no_witness(bmc: Bmc, seen: dict[str, Any]) -> None:
    bmc.machine.state = "Off"
    assert witness.read({**seen, "serial": "ser-1"})["power"] == "off"
    assert "this is the controller of another machine" in problem({**seen, "serial": "SER-2"})
    assert "this is the controller of another machine" in problem({**seen, "uuid": UUID.replace("1111", "9999")})


def test_several_systems_behind_one_controller_are_not_chosen_from(bmc: Bmc, seen: dict[str, Any]) -> None:
    bmc.systems = 2
    assert "has not exactly one system; name the one that is meant: system in sunset_power" in problem(seen)
    assert witness.read({**seen, "system": "2"})["power"] == "off"
    assert witness.read({**seen, "system": "/redfish/v1/Systems/1"})["power"] == "on"
    assert "has no 3" in problem({**seen, "system": "3"})
    assert bmc.sessions == {}


def test_a_login_that_is_refused_is_named_without_its_words(bmc: Bmc, seen: dict[str, Any], place: Path) -> None:
    said = problem({**seen, "credentials": stand.credentials(place, "wrong", "quite wrong")})
    assert "refuses the login of" in said
    assert "HTTP 401" in said
    assert "quite wrong" not in said
    assert len([1 for method, path, _body in bmc.log if (method, path) == ("POST", SESSIONS)]) == 1, "tries lock an account"


@pytest.mark.parametrize(("mode", "text"), [(0o640, "mode 0640"), (0o604, "mode 0604")])
def test_credentials_that_others_can_read_are_refused(seen: dict[str, Any], place: Path, mode: int, text: str) -> None:
    path = stand.credentials(place, "open")
    os.chmod(path, mode)
    with pytest.raises(Refusal, match=text):
        controllers.login(path)
    assert "mode" in problem({**seen, "credentials": path})


def test_credentials_must_be_a_file_with_words(seen: dict[str, Any], place: Path) -> None:
    link = place / "link"
    link.symlink_to(stand.credentials(place))
    with pytest.raises(Refusal, match="cannot be opened"):
        controllers.login(str(link))
    with pytest.raises(Refusal, match="cannot be opened"):
        controllers.login(str(place / "nothing"))
    for text in ("", "username: a\n", "username: a\npassword: 12345\n", "- a secret word\n", "a: [", "\xff"):
        path = place / "odd"
        path.write_text(text, encoding="latin-1")
        path.chmod(0o600)
        with pytest.raises(Refusal) as told:
            controllers.login(str(path))
        assert "12345" not in str(told.value) and "a secret word" not in str(told.value)
    assert stand.PASSWORD not in repr(controllers.login(stand.credentials(place)))


def test_a_library_that_is_missing_is_one_clear_message(seen: dict[str, Any], monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "sushy", None)
    assert "needs the Python package sushy on the control node" in problem(seen)
    monkeypatch.setitem(__import__("sys").modules, "pyghmi.ipmi.command", None)
    assert "needs the Python package pyghmi" in problem({"kind": "ipmi", "address": "127.0.0.1", "credentials": stand.credentials(place)})


# --- IPMI that lies ---


class Ipmi:
    """The machine behind the lying controller, as the test sees it."""

    def __init__(self, folder: Path, port: int) -> None:
        self.state, self.log = folder / "ipmi-state.json", folder / "ipmi-log"
        self.seen = {"kind": "ipmi", "address": "127.0.0.1", "port": port, "credentials": stand.credentials(folder)}
        self.set()

    def set(self, **changes: Any) -> None:
        whole = {"power": "on", "obey": [0, 1, 5], "policy": 0, "guid": "", "refuse": False, "cut": False}
        self.log.write_text("")
        self.state.write_text(json.dumps({**whole, **changes}))

    def asked(self) -> list[int]:
        return [int(line) for line in self.log.read_text().split()]


@pytest.fixture(scope="module")
def board(place: Path) -> Iterator[Ipmi]:
    port = free_port()
    made = Ipmi(place, port)
    with stand.running("ipmi", place, port=port, state=str(made.state), log=str(made.log)):
        yield made


@pytest.mark.parametrize(("policy", "stays"), [(0, True), (1, True), (2, False), (3, None)])
def test_the_power_policy_says_whether_it_stays_off(board: Ipmi, policy: int, stays: bool | None) -> None:
    board.set(power="off", policy=policy, guid=UUID)
    reading = witness.read(board.seen)
    assert (reading["power"], reading["detail"].get("stays_off"), reading["detail"]["uuid"]) == ("off", stays, UUID)


def test_ipmi_takes_a_request_and_does_nothing(board: Ipmi) -> None:
    board.set(obey=[])
    assert ask(board.seen, SOFT) == "chassis power soft"
    assert witness.read(board.seen)["power"] == "on"


def test_ipmi_turns_a_request_down(board: Ipmi) -> None:
    board.set(refuse=True)
    with pytest.raises(Refusal, match=r"turned chassis power soft down \(completion code 0xcc\)"):
        ask(board.seen, SOFT)
    assert board.asked() == [5]


def test_ipmi_carries_a_request_out_and_does_not_answer(board: Ipmi) -> None:
    board.set(cut=True)
    with pytest.raises(Silent, match="when it was asked for chassis power soft"):
        ask(board.seen, SOFT)
    assert board.asked() == [5], "a soft power-off that is sent twice is a second push of the button"
    assert witness.read(board.seen)["power"] == "off"


def test_ipmi_refuses_a_login_once(board: Ipmi, place: Path) -> None:
    said = problem({**board.seen, "credentials": stand.credentials(place, "bad", "not this one")})
    assert "refuses the login" in said and "not this one" not in said


def test_ipmi_that_is_not_there_is_unknown(place: Path) -> None:
    port = free_port()
    assert "gave no usable answer" in problem(
        {"kind": "ipmi", "address": "127.0.0.1", "port": port, "credentials": stand.credentials(place)}
    )


# --- several ---


def test_witnesses_that_disagree_are_unknown(bmc: Bmc, seen: dict[str, Any], board: Ipmi) -> None:
    board.set()
    both = [seen, board.seen]
    reading = witness.read(both)
    assert (reading["power"], reading["kind"]) == ("on", "redfish+ipmi")
    board.set(power="off")
    assert problem(both) == "its witnesses disagree: redfish says on, ipmi says off"
    bmc.machine.state, bmc.policy = "Off", "AlwaysOn"
    reading = witness.read(both)
    assert (reading["power"], reading["detail"]["stays_off"]) == ("off", False)
    bmc.broken = "x"
    assert "redfish says unknown, ipmi says off" in problem(both)


def test_silence_is_asked_last_and_only_where_it_matters(bmc: Bmc, seen: dict[str, Any]) -> None:
    quiet = {"kind": "silence", "address": "127.0.0.1", "ports": [1], "seconds": 30}
    with witness.Watch([quiet, seen]) as watch:
        start = time.monotonic()
        assert watch.look("off")["kind"] == "redfish"
        assert time.monotonic() - start < 25
        assert watch.look()["kind"] == "redfish+silence"
    bmc.machine.state = "Off"
    # A controller that says off of a host that answers: one of both is not about this host.
    assert problem([quiet, seen]) == "its witnesses disagree: redfish says off, silence says on"


def test_a_guest_is_seen_by_libvirt() -> None:
    seen = {"kind": "libvirt", "uri": "test:///default", "domain": "test"}
    reading = witness.read(seen)
    assert (reading["power"], reading["detail"]["state"]) == ("on", 1)
    assert "no-such" in problem({**seen, "domain": "no-such"})
    import libvirt

    held = libvirt.open("test:///default")
    try:
        domain = held.lookupByName("test")
        domain.shutdown()
        reading = witness.read({**seen, "domain": domain.UUIDString()})
        assert (reading["power"], reading["detail"]["stays_off"]) == ("off", True)
        assert reading["detail"]["how"] == "by itself"
        assert witness.switch_on(seen) == "libvirt"
        domain.suspend()
        assert witness.read(seen)["power"] == "on"
    finally:
        held.close()


def test_magic_packets_are_what_they_are_called() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as heard:
        heard.bind(("127.0.0.1", 0))
        heard.settimeout(5)
        port = heard.getsockname()[1]
        seen = {
            "kind": "silence", "address": "192.0.2.1",
            "wake": {"mac": "52-54-00-12-34-56", "broadcast": "127.0.0.1", "port": port},
        }  # fmt: skip
        assert witness.switch_on(seen) == "wake-on-lan"
        assert heard.recv(200) == b"\xff" * 6 + bytes.fromhex("525400123456") * 16
