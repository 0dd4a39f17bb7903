# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a witness may conclude from what it sees."""

from __future__ import annotations

from pathlib import Path

import pytest

from ansible_collections.sunset.crm.plugins.plugin_utils import witness
from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal

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
