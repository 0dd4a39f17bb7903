# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What libvirt's states, reasons, events and definitions mean; the engine's logic on libvirt's own test driver."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import libvirt
import pytest

from ansible_collections.sunset.crm.plugins.plugin_utils.actions.account import Account
from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.guests import guests, verbs as guest_verbs
from ansible_collections.sunset.crm.plugins.plugin_utils.guests.action import remembered
from ansible_collections.sunset.crm.plugins.plugin_utils.guests.guests import Guest
from ansible_collections.sunset.crm.plugins.plugin_utils.libvirt import facts as libvirt_facts, way as libvirt_way
from ansible_collections.sunset.crm.plugins.plugin_utils.libvirt.engine import Engine
from ansible_collections.sunset.crm.plugins.plugin_utils.libvirt.events import told
from ansible_collections.sunset.crm.plugins.plugin_utils.record.ledger import Entry


def guest(power: str, reason: str = "unknown", **record: Any) -> Guest:
    return Guest(key="k", name="vm", power=power, record={"state": "shut off", "reason": reason, "life": "7", **record})


@pytest.mark.parametrize("state", [0, 1, 2, 3, 4, 6, 7])
def test_only_state_5_is_off(state: int) -> None:
    """[vagrant-libvirt 293, 347; resource-agents 83; community.libvirt 63] in shutdown (4) still runs, asleep (7) keeps its memory."""
    assert libvirt_facts.POWER[state] != "off"
    assert libvirt_facts.POWER[5] == "off"


def test_what_a_move_left_behind_is_not_off() -> None:
    assert libvirt_facts.power_of(5, 4) == "unknown"
    assert {libvirt_facts.power_of(5, reason) for reason in range(9) if reason != 4} == {"off"}


def test_a_guest_in_shutdown_is_waited_for_and_not_asked_again() -> None:
    now = 0.0
    log: list[str] = []

    class Falling:
        def life(self, one: Guest) -> str:
            return str(one.record["life"])

        def powers(self) -> dict[str, str]:
            return {"k": "off" if now > 5 else "changing"}

        def ask(self, _guest: Guest) -> None:
            log.append("asked")

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    one = guest("changing", coming_down=True)
    memory = guest_verbs.Memory({}, {}, lambda _note: None)
    expected = guest_verbs.coming_down(Falling(), [one], memory)  # type: ignore[arg-type]
    clock = guests.Clock(now=lambda: now, sleep=sleep)
    courses = guests.bring_down(Falling(), [one], 60, None, lambda **_act: None, clock, expected=expected)  # type: ignore[arg-type]
    assert (courses["vm"].phase, log) == ("off", [])


def test_a_request_of_an_earlier_life_or_of_long_ago_counts_no_more() -> None:
    class Backend:
        def life(self, one: Guest) -> str:
            return str(one.record["life"])

    def waits(asked: dict[str, Any]) -> set[str]:
        memory = guest_verbs.Memory({}, {"vm": asked}, lambda _note: None, now=lambda: 10000.0)
        return guest_verbs.coming_down(Backend(), [guest("on")], memory)  # type: ignore[arg-type]

    assert waits({"life": "7", "at": 9990}) == {"vm"}
    assert waits({"life": "6", "at": 9990}) == set()
    assert waits({"life": "7", "at": 10}) == set()


def test_an_agent_that_does_nothing_is_followed_by_the_power_button() -> None:
    now = 0.0
    asked: list[tuple[float, str]] = []

    class Deaf:
        def powers(self) -> dict[str, str]:
            return {"k": "off" if len(asked) == 2 else "on"}

        def ask(self, _guest: Guest) -> str:
            asked.append((now, "ACPI" if asked else "agent"))
            return asked[-1][1]

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    clock = guests.Clock(now=lambda: now, sleep=sleep)
    courses = guests.bring_down(Deaf(), [guest("on")], 20, None, lambda **_act: None, clock)  # type: ignore[arg-type]
    assert [way for _at, way in asked] == ["agent", "ACPI"]
    assert 10 <= asked[1][0] < 12
    assert courses["vm"].phase == "off"


@pytest.mark.parametrize(
    ("reason", "events", "forced", "how", "graceful"),
    [
        ("shutdown", [(6, 1), (5, 0)], False, guests.BY_ITSELF, "yes"),
        ("shutdown", [], False, guests.BY_ITSELF, "yes"),
        ("destroyed", [(6, 2), (5, 1)], True, guests.BY_FORCE, "no"),
        ("destroyed", [], False, guests.BY_FORCE, "no"),
        ("shutdown", [(6, 2), (5, 0)], False, guests.BY_FORCE, "no"),
        ("crashed", [(5, 2)], False, guests.UNKNOWN, "no"),
        ("failed", [(5, 5)], False, guests.UNKNOWN, "no"),
        ("saved", [(5, 4)], False, guests.UNKNOWN, "no"),
        # Reasons do not outlive the daemon.
        ("unknown", [], False, guests.UNKNOWN, "unknown"),
        ("daemon", [], False, guests.UNKNOWN, "unknown"),
        ("unknown", [(6, 1), (5, 0)], False, guests.BY_ITSELF, "yes"),
    ],
)
def test_fact_5_how_a_guest_ended(reason: str, events: list[tuple[int, int]], forced: bool, how: str, graceful: str) -> None:
    seen = [words for event in events if (words := told(*event))]
    ending = libvirt_facts.ending_of(guest("on"), guest("off", reason), True, forced, seen)
    assert (ending.how, ending.graceful) == (how, graceful)


def test_what_was_off_before_is_called_graceful_only_where_libvirt_knows_it() -> None:
    ways = {
        reason: libvirt_facts.ending_of(guest("off"), guest("off", reason), False, False, []).graceful
        for reason in libvirt_facts.OFF_REASONS.values()
    }
    assert {reason for reason, graceful in ways.items() if graceful == "yes"} == {"shutdown"}
    assert ways["destroyed"] == ways["crashed"] == ways["saved"] == "no"
    assert ways["unknown"] == ways["daemon"] == "unknown"


CIB = (
    '<cib><configuration><resources><primitive id="p_vm" class="ocf" type="VirtualDomain"><instance_attributes>'
    '<nvpair name="config" value="/etc/libvirt/qemu/{name}.xml"/></instance_attributes></primitive></resources></configuration></cib>'
)


def test_a_guest_that_pacemaker_would_start_again_is_refused_and_others_are_not() -> None:
    assert "Pacemaker runs it (resource p_vm)" in libvirt_facts.cluster_owner(CIB.format(name="vm"), "vm")
    assert libvirt_facts.cluster_owner(CIB.format(name="other-vm"), "vm") == ""
    assert libvirt_facts.cluster_owner("", "vm") == ""
    assert "cannot be read" in libvirt_facts.cluster_owner("<cib VirtualDomain", "vm")


def test_the_agents_channel_has_three_values() -> None:
    def xml(state: str) -> str:
        return f"<domain><devices><channel><target type='virtio' name='org.qemu.guest_agent.0' {state}/></channel></devices></domain>"

    assert libvirt_facts.agent_of(xml("state='connected'")) == "connected"
    assert libvirt_facts.agent_of(xml("state='disconnected'")) == libvirt_facts.agent_of(xml("")) == "absent"
    assert libvirt_facts.agent_of("<domain/>") == "none"


def test_what_would_bring_a_guest_back_is_named() -> None:
    restart = libvirt_facts.endings_of("<domain><on_poweroff>restart</on_poweroff><on_crash>preserve</on_crash></domain>")
    assert libvirt_facts.returns_of(True, [restart]) == "autostart, on_poweroff=restart"
    assert libvirt_facts.returns_of(False, [libvirt_facts.endings_of("<domain/>")]) == ""


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("xen:///system", "Xen is not handled"),
        ("lxc:///", "containers of libvirt is not handled"),
        ("esx://host/", "VMware is not handled"),
        ("qemu:///session", "expected qemu:///system"),
        ("qemu+ssh://root@kvm1/system", "so the uri names none"),
        ("", "expected qemu:///system"),
    ],
)
def test_other_hypervisors_and_ways_are_refused_by_name(uri: str, words: str) -> None:
    with pytest.raises(Refusal, match=words.replace("+", r"\+")):
        libvirt_way.sockets_of(uri)


def test_the_socket_may_lie_elsewhere() -> None:
    assert libvirt_way.sockets_of("qemu:///system?socket=/run/x/libvirt-sock") == ("/run/x/libvirt-sock",)
    assert "/run/libvirt/virtqemud-sock" in libvirt_way.sockets_of("qemu:///system")


def test_what_earlier_runs_noted_is_taken_until_it_was_put_back() -> None:
    def entry(number: int, **record: Any) -> Entry:
        return Entry(number, str(number), {"item": "guest:t", "aspect": "guest", **record})

    book = [
        entry(0, kind="found", former={"vm": {"power": "on"}}),
        entry(1, kind="asked", guest="vm", life="7", at_seconds=5.0),
        Entry(2, "2", {"item": "guest:other", "aspect": "guest", "kind": "found", "former": {"x": {}}}),
    ]
    assert remembered(book, "guest:t") == ({"vm": {"power": "on"}}, {"vm": {"life": "7", "at": 5.0}})
    cut = [*book, entry(3, kind="forced", guest="vm", allowed_by="Ada")]
    assert remembered(cut, "guest:t")[1] == {"vm": {"life": "7", "at": 5.0, "forced": "Ada"}}
    again = [*cut, entry(4, kind="asked", guest="vm", life="8", at_seconds=9.0)]
    assert remembered(again, "guest:t")[1] == {"vm": {"life": "8", "at": 9.0}}, "in its next life it was not"
    assert remembered([*book, entry(3, kind="outcome", back=True, status="done")], "guest:t") == ({}, {})


LOG = "{0}: starting up libvirt version: 9.0.0\n{0}: shutting down, reason={1}\n"


@pytest.mark.parametrize(
    ("log", "power"),
    [
        (LOG.format("2026", "shutdown"), "off"),
        (LOG.format("2026", "migrated"), "unknown"),
        (LOG.format("2026", "shutdown") + "2027: starting up libvirt version: 9.0.0\n", "unknown"),
        ("", "unknown"),
    ],
)
def test_a_transient_guest_that_is_gone_is_off_only_where_something_says_that_it_ended(log: str, power: str) -> None:
    with Engine(lambda: libvirt.open("test:///default"), ["vm"], read=lambda _path: log.encode()) as engine:
        engine.recall({"vm": {"id": "6695eb01-f6a4-8304-79aa-97f2502e193e", "persistent": False, "power": "on"}})
        assert engine.observe()[0].power == ("unknown" if power == "unknown" else "off")


# --- libvirt's test driver: good for the logic, not for ways of asking ---


@pytest.fixture
def engine() -> Iterator[Engine]:
    with Engine(lambda: libvirt.open("test:///default"), ["test"]) as made:
        yield made
        for domain in made._connection.listAllDomains():
            if domain.name() == "test" and not domain.isActive():
                domain.create()


def stopped(engine: Engine, check: bool = False, **order: Any) -> dict[str, Any]:
    memory = guest_verbs.Memory(order.pop("former", {}), {}, lambda _note: None)
    return guest_verbs.stop(engine, Account("libvirt_guests", "guest:t"), guest_verbs.Order(["test"], timeout=5, **order), memory, check)


def test_the_state_logic_on_the_test_driver(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guest_verbs, "SETTLE", 0.0)
    assert stopped(engine, check=True)["changed"] is True
    done = stopped(engine)
    assert (done["evidence"]["verdict"], done["result"]["guests"]["test"]["how"]) == ("yes", guests.BY_ITSELF)
    assert [action.get("by") for action in done["evidence"]["actions"]] == ["the driver's own way"]
    former = done["result"]["former"]
    assert stopped(engine, check=True, former=former)["changed"] is False
    assert stopped(engine, former=former)["changed"] is False
    back = guest_verbs.start(engine, Account("libvirt_guests", "guest:t"), former, 5, check=False)
    assert (back["evidence"]["verdict"], back["result"]["started"]) == ("yes", ["test"])
    assert guest_verbs.start(engine, Account("libvirt_guests", "guest:t"), former, 5, check=False)["changed"] is False


def test_a_hypervisor_that_does_not_answer_is_one_clear_message() -> None:
    with pytest.raises(Refusal, match=r"libvirt does not answer: .*error 38"):
        Engine(lambda: libvirt.open("qemu+unix:///system?socket=/nowhere/libvirt-sock"), ["test"], patience=0)


def test_a_missing_library_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ansible_collections.sunset.crm.plugins.plugin_utils.libvirt.engine.MISSING", "No module named 'libvirt'")
    with pytest.raises(Refusal, match="pip install libvirt-python"):
        Engine(lambda: None, ["test"])


def test_a_guest_that_is_started_past_its_own_disks() -> None:
    """Its kernel lies on the host: a copy of the disks alone would not start."""
    xml = "<domain><os><kernel>/b/vmlinuz</kernel><initrd> /b/initrd </initrd><cmdline>quiet</cmdline></os></domain>"
    assert libvirt_facts.boot_files(xml) == [("kernel", "/b/vmlinuz"), ("initrd", "/b/initrd")]
    assert libvirt_facts.boot_files("<domain><os><type>hvm</type></os></domain>") == []
