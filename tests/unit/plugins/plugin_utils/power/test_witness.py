# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a witness may conclude from what it sees."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.power import controllers, ipmi, redfish, witness

SILENT = {"tcp 22": "silent", "icmp": "silent", "arp": "blind"}


@pytest.mark.parametrize(
    ("described", "message"),
    [
        ({}, "kind None"),
        ({"kind": "telepathy"}, "not known"),
        ({"kind": "docker"}, "needs container"),
        ({"kind": "silence"}, "needs address"),
    ],
)
def test_a_wrong_description_is_refused(described: dict[str, str], message: str) -> None:
    with pytest.raises(Refusal, match=message):
        witness.read(described)


@pytest.mark.parametrize(
    ("status", "code", "power", "how"),
    [
        ("exited", 0, "off", "by itself"),
        ("exited", 130, "off", "by itself"),
        ("exited", 137, "off", "by force"),
        ("exited", 129, "off", "unknown"),
        ("running", 0, "on", None),
        ("paused", 0, "on", None),
        ("restarting", 1, "unknown", None),
        ("dead", 0, "unknown", None),
        ("removing", 0, "unknown", None),
    ],
)
def test_docker_states(status: str, code: int, power: str, how: str | None) -> None:
    seen, detail = witness.judge_docker({"Status": status, "ExitCode": code}, "no")
    assert (seen, detail.get("how")) == (power, how)


def test_a_policy_that_brings_the_host_back_is_told() -> None:
    assert witness.judge_docker({"Status": "exited", "ExitCode": 0}, "always")[1]["stays_off"] is False
    assert witness.judge_docker({"Status": "exited", "ExitCode": 0}, "")[1]["stays_off"] is True


def test_an_engine_that_does_not_answer_is_unknown() -> None:
    reading = witness.read({"kind": "docker", "container": "x", "socket": "/nonexistent.sock"})
    assert reading["power"] == "unknown"
    assert "does not answer" in reading["detail"]["problem"]


def test_silence_needs_several_signs_and_a_working_reference() -> None:
    assert witness.judge_silence([SILENT, SILENT], "none") == "off"
    assert witness.judge_silence([SILENT, SILENT], "heard") == "off"
    assert witness.judge_silence([SILENT], "silent") == "unknown"
    assert witness.judge_silence([], "heard") == "unknown"
    assert witness.judge_silence([SILENT, {**SILENT, "icmp": "heard"}], "heard") == "on"
    assert witness.judge_silence([{"tcp 22": "silent", "icmp": "blind", "arp": "blind"}], "heard") == "unknown"
    assert witness.judge_silence([{"tcp 22": "blind", "icmp": "blind", "arp": "blind"}], "heard") == "unknown"


def test_silence_alone_needs_a_reference() -> None:
    """Where the control node's own network breaks, every host is silent, and none is off."""
    alone = {"kind": "silence", "address": "a"}
    with pytest.raises(Refusal, match="its only witness is silence, and it has no reference"):
        witness.check_alone(witness.described(alone))
    witness.check_alone(witness.described({**alone, "reference": "192.0.2.1"}))
    witness.check_alone(witness.described([alone, {"kind": "docker", "container": "x"}]))
    witness.check_alone(witness.described({"kind": "docker", "container": "x"}))


def test_a_refused_port_is_a_sign_of_life() -> None:
    assert witness._tcp("127.0.0.1", 1, 1.0) == "heard"


def test_silence_stops_at_the_first_sign_of_life() -> None:
    reading = witness.read({"kind": "silence", "address": "127.0.0.1", "ports": [1], "seconds": 60})
    assert (reading["power"], reading["kind"], reading["detail"]["rounds"]) == ("on", "silence", 1)


def test_the_neighbour_table(tmp_path: Path) -> None:
    table = tmp_path / "arp"
    table.write_text(
        "IP address       HW type     Flags       HW address            Mask     Device\n"
        "192.0.2.1        0x1         0x2         aa:bb:cc:dd:ee:ff     *        eth0\n"
        "192.0.2.2        0x1         0x0         00:00:00:00:00:00     *        eth0\n"
    )
    assert witness._neighbour("192.0.2.1", str(table)) == "blind"
    assert witness._neighbour("192.0.2.2", str(table)) == "silent"
    assert witness._neighbour("192.0.2.3", str(table)) == "blind"


def test_silence_cannot_switch_on() -> None:
    with pytest.raises(Refusal, match="(?s)silence.*by hand or through its management controller"):
        witness.switch_on({"kind": "silence", "address": "192.0.2.1"})


REDFISH = {"kind": "redfish", "address": "bmc", "credentials": "/c", "ca_file": "/ca"}


@pytest.mark.parametrize(
    ("described", "message"),
    [
        ({**REDFISH, "password": "x"}, "carries a login in the inventory"),
        ({**REDFISH, "username": "x"}, "carries a login in the inventory"),
        ({**REDFISH, "ca_file": ""}, "one of ca_file and fingerprint"),
        ({**REDFISH, "fingerprint": "x"}, "one of ca_file and fingerprint"),
        ({**REDFISH, "auth": "none"}, "auth is 'none'"),
        ({**REDFISH, "verify": False}, "does not know verify"),
        ({"kind": "libvirt", "uri": "qemu:///system"}, "needs domain"),
        ({"kind": "silence", "address": "a", "wake": {"mac": "nonsense"}}, "hardware address"),
        ([REDFISH, REDFISH], "two witnesses of one kind"),
        ([REDFISH, {"kind": "ipmi"}], "needs address, credentials"),
        ([], "neither a witness"),
        ("redfish", "neither a witness"),
    ],
)
def test_a_description_that_is_wrong_is_one_clear_message(described: Any, message: str) -> None:
    with pytest.raises(Refusal, match=message):
        witness.described(described)


def test_silence_is_the_last_to_be_asked() -> None:
    order = witness.described([{"kind": "silence", "address": "a"}, REDFISH])
    assert [one["kind"] for one in order] == ["redfish", "silence"]


def test_witnesses_that_disagree_or_cannot_see_make_the_whole_unknown() -> None:
    on, off, blind = ("on", {}), ("off", {"stays_off": True}), ("unknown", {"problem": "x"})
    assert witness.combined({"redfish": off, "silence": ("off", {})})["power"] == "off"
    assert witness.combined({"redfish": off, "silence": on})["power"] == "unknown"
    assert witness.combined({"redfish": off, "ipmi": blind})["power"] == "unknown"
    assert witness.combined({"redfish": blind, "ipmi": blind})["power"] == "unknown"
    both = witness.combined({"redfish": off, "ipmi": ("off", {"stays_off": False})})
    assert (both["kind"], both["detail"]["stays_off"]) == ("redfish+ipmi", False)


def test_a_redfish_state_is_one_of_three() -> None:
    powers = {state: redfish.judge({"PowerState": state})[0] for state in ("On", "Off", "PoweringOn", "PoweringOff", "Paused", "Nap", None)}
    assert powers == {"On": "on", "Off": "off", "PoweringOn": "on", "PoweringOff": "on", "Paused": "on", "Nap": "unknown", None: "unknown"}


def test_a_chassis_status_that_is_too_short_is_unknown() -> None:
    assert ipmi.judge([])[0] == "unknown"
    assert ipmi.judge([0b01000001, 0, 0]) == ("on", {"state": "on", "power_policy": "always-on", "stays_off": False})


def test_whose_controller_it_is_has_three_answers() -> None:
    one = {"uuid": "11223344-1122-2233-4444-555555555555", "serial": "A1"}
    same = controllers.same_machine
    assert same({"serial": "a1 "}, one, {}) == "yes"
    assert same({}, one, {"uuid": "44332211-2211-3322-4444-555555555555"}) == "yes"
    assert same({"serial": "A1"}, one, {"uuid": "99223344-1122-2233-4444-555555555555"}) == "no"
    assert same({}, one, {"uuid": one["uuid"], "serial": "To be filled by O.E.M."}) == "yes"
    assert same({}, one, {"uuid": "0" * 32}) == "unknown"
    assert same({}, {}, one) == "unknown"
