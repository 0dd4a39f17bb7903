# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What was learnt about hypervisors and power APIs, and the test that holds each piece of it.

Facts and rows are those of facts/hypervisors.md (sections 0 and 5). A test holds one when its name or its docstring says so: "fact 4", or
the words given here. python -m tests.unit.test_traps_hypervisors prints the table.
"""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]

# Number of the fact -> what it says, in short.
FACTS = {
    1: "Proxmox: the exit status OK is no proof that a guest stopped, nor that it stopped gracefully",
    2: "Proxmox: a token that may not see all is answered 200 and a shortened list",
    3: "Proxmox: vzdump may answer OK in place of a task, and nothing was backed up",
    4: "Proxmox: other nodes start the HA guests of a node that goes off, and without quorum nodes reset themselves",
    5: "libvirt tells graceful from forced",
    6: "libvirt: a paused guest is 'not running' to shutdown()",
    7: "Docker: a stopped container with the policy always comes back with the engine",
    8: "Docker: the engine's own stop kills after ten seconds",
    9: "Redfish: others turn GracefulShutdown into ForceOff where it is not offered",
    10: "real tests need neither KVM nor Proxmox VE nor a management controller",
}
# The row's first column -> the words by which a test says that it holds it.
ROWS = {
    "Telmate/terraform #145, #362, fix #354": "Telmate 145",
    "community.proxmox proxmox_kvm HEAD 4a7ebd9": "community.proxmox proxmox_kvm HEAD",
    "community.proxmox proxmox_snap HEAD": "community.proxmox proxmox_snap HEAD",
    "#73, #95 (fixed #101)": "community.proxmox 73, 95",
    "#160, #218/#253": "community.proxmox 160, 218, 253",
    "#96, general #10185": "community.proxmox 96, general 10185",
    "proxmox_backup HEAD": "community.proxmox proxmox_backup HEAD",
    "#22, general #1906, #6257 (fixed #6570)": "community.proxmox 22, general 1906, 6257",
    "general #7817 (fixed #7953)": "general 7817",
    "proxmox_snap retention": "proxmox_snap retention",
    "proxmox_snap unbind": "proxmox_snap unbind",
    "proxmox_snap check mode": "proxmox_snap check mode",
    "proxmox_node HEAD": "community.proxmox proxmox_node HEAD",
    "#60, #76, #159": "community.proxmox 60, 76, 159",
    "bpg #1255, #995, #935, Telmate #173": "bpg 1255, 995, 935, Telmate 173",
    "bpg #1169, #133": "bpg 1169, 133",
    "Telmate #469, #872, #1023": "Telmate 469, 872, 1023",
    "Telmate #800": "Telmate 800",
    "cv4pve-autosnap #22, #46, #27, #95; proxmox-autosnap #24": "cv4pve-autosnap 22, 46, 27, 95; proxmox-autosnap 24",
    "BareProx #4": "BareProx 4",
    "community.libvirt #63 (open since 2021)": "community.libvirt 63",
    "community.libvirt #40, #159 (fixed #136)": "community.libvirt 40, 159",
    "vagrant-libvirt #293/#347; resource-agents #83": "vagrant-libvirt 293, 347; resource-agents 83",
    "docker-py #1374, #2243, compose #6214, #3834": "docker-py 1374, 2243, compose 6214, 3834",
    "docker/compose #8784; PDMLab #228": "compose 8784",
    "moby #12626/#11008, #38755, #33306, #25293": "moby 12626",
    "moby #32357, #26828, #22471; storj #2300; postgres #1207": "moby 32357, 26828, 22471; storj 2300; postgres 1207",
    "moby #15853, #12797, #28366; nomad #736": "moby 15853, 12797, 28366; nomad 736",
    "community.docker changelog": "community.docker changelog",
    "haltproof-cli 0.1.3 (MIT, 2026-08)": "haltproof-cli",
}


def plain(text: str) -> str:
    return " " + re.sub(r"[^a-z0-9]+", " ", text.lower()).strip() + " "


@functools.cache
def said() -> dict[str, str]:
    """Node id of each test -> its name and its docstring, as plain words."""
    found = {}
    for path in sorted((TOP / "tests").rglob("test_*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                found[f"{path.relative_to(TOP)}::{node.name}"] = plain(node.name) + plain(ast.get_docstring(node) or "")
    return found


def holding(words: str) -> list[str]:
    """The tests that say that they hold this."""
    return [test for test, text in said().items() if plain(words) in text]


def page() -> str:
    """The page of facts, which lies beside the checkout on the machines that have it; it is no part of the collection."""
    from tests.integration.pve_schema import _facts

    beside = _facts()
    return beside.with_name("hypervisors.md").read_text(encoding="utf-8") if beside else ""


@pytest.mark.parametrize("number", FACTS)
def test_each_fact_has_a_test_of_its_name(number: int) -> None:
    assert holding(f"fact {number}"), FACTS[number]


@pytest.mark.parametrize("row", ROWS)
def test_each_trap_that_others_fell_into_has_a_test_that_names_it(row: str) -> None:
    assert holding(ROWS[row]), f"no test's name or docstring says {ROWS[row]!r}"


def test_the_lists_are_those_of_the_page() -> None:
    text = page()
    if text:
        table = [
            line.split("|")[1].strip() for line in text[text.index("## 5. Traps") : text.index("## 6.")].splitlines() if line[:1] == "|"
        ]
        assert table[2:] == list(ROWS)
        facts = re.findall(r"^(\d+)\. \*\*", text[text.index("## 0.") : text.index("## 1.")], re.MULTILINE)
        assert [int(number) for number in facts] == list(FACTS)
    assert (len(FACTS), len(ROWS)) == (10, 30)


if __name__ == "__main__":
    rows = [(f"fact {number}: {text}", f"fact {number}") for number, text in FACTS.items()] + list(ROWS.items())
    for name, words in rows:
        print(name)
        for test in holding(words):
            print(f"    {test}")
