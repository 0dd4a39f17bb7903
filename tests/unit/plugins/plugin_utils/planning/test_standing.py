# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who stands on whom, and whether what is kept stands on what goes off."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from ansible.errors import AnsibleError

from ansible_collections.sunset.crm.plugins.plugin_utils.planning import jumping, picture, plan, standing
from ansible_collections.sunset.crm.plugins.plugin_utils.runs import runs
from tests.unit import builders
from tests.unit.builders import application, host, item_of, make_plan, plan_data

UUID = "11223344-1122-2233-4444-555555555555"
SWAPPED = "44332211-2211-3322-4444-555555555555"
Machine = dict[str, Any]


def machine(number: int, **more: Any) -> Machine:
    return {
        "machine_id": f"{number:032x}", "container": False, "addresses": [f"192.0.2.{number}"], "macs": [f"52:54:00:00:00:{number:02x}"],
        "nameservers": [], "neighbours": {}, "guests": [], "storage": [], "board": {}, **more,
    }  # fmt: skip


def guest(name: str, uuid: str = "", *macs: str) -> Machine:
    return {"name": name, "uuid": uuid, "macs": list(macs)}


# --- hosts on hosts ---


def test_a_guest_is_known_by_its_board_in_either_spelling_or_by_its_card() -> None:
    kvm = machine(1, guests=[guest("web", UUID), guest("mail", "", "52:54:00:00:00:07")])
    assert standing.guest_of(machine(3, board={"uuid": UUID.upper()}), kvm) == "web"
    assert standing.guest_of(machine(3, board={"uuid": SWAPPED}), kvm) == "web"
    assert standing.guest_of(machine(7), kvm) == "mail"
    assert standing.guest_of(machine(9, board={"uuid": "0" * 32}), kvm) == ""


def test_hosts_stand_on_their_hypervisor_and_on_their_storage() -> None:
    hosts = {
        "kvm": machine(1, guests=[guest("web", UUID)]),
        "web": machine(2, board={"uuid": UUID}, storage=["192.0.2.3"]),
        "nfs": machine(3),
        "alone": machine(4, storage=["198.51.100.1"]),
    }
    found = standing.below(hosts)
    assert found == {"web": {"kvm": "is its guest web", "nfs": "uses storage of 192.0.2.3"}}


def stacked() -> dict[str, Any]:
    """A guest of a host of the plan: web runs on kvm."""
    data = plan_data()
    web, kvm = host("web", "pilot"), host("kvm", "main")
    web["stands_on"] = ["host:kvm"]
    data["items"] += [web, kvm, application("front", "web", "pilot", [], "database:old")]
    return data


def test_the_order_of_going_off_is_sorted_through_all_of_it() -> None:
    made = make_plan(stacked())
    assert made.hosts_before("kvm") == ["web"]
    assert runs.power_order(made)["kvm"] > runs.power_order(made)["web"]


def test_storage_inside_a_guest_of_the_host_that_needs_it_is_a_circle_and_refused() -> None:
    data = stacked()
    item_of(data, "host:kvm")["stands_on"] = ["host:web"]
    assert any("stand on each other in a circle" in fault for fault in plan.faults(data))


def test_an_unknown_parent_is_refused() -> None:
    data = stacked()
    item_of(data, "host:web")["stands_on"] = ["host:elsewhere"]
    assert "host:web stands on host:elsewhere, which the plan does not have" in plan.faults(data)


# --- what is kept ---

GONE = {"kvm": machine(1, guests=[guest("vm-vault", UUID, "52:54:00:00:00:aa")]), "db": machine(2)}


@pytest.mark.parametrize(
    ("kept", "verdict", "why"),
    [
        (machine(9), "clear", "compared by"),
        (machine(9, machine_id=f"{2:032x}"), "dark", "the same machine as db"),
        (machine(9, macs=["52:54:00:00:00:02"]), "dark", "the same machine as db"),
        (machine(9, board={"uuid": UUID}), "dark", "the guest vm-vault of kvm"),
        (machine(9, macs=["52:54:00:00:00:aa"]), "dark", "the guest vm-vault of kvm"),
        (machine(9, storage=["192.0.2.2"]), "dark", "uses storage of db"),
        (machine(9, container=True), "unknown", "what it runs on does not show"),
        (machine(9, container=True, machine_id=f"{2:032x}"), "dark", "the same machine as db"),
        (None, "unknown", "was not looked at"),
        ({}, "unknown", "was not looked at"),
    ],
)
def test_a_vault_or_control_node_on_what_goes_off(kept: Machine | None, verdict: str, why: str) -> None:
    found = standing.judge_machine(kept, GONE)
    assert found[0] == verdict
    assert why in found[1]


@pytest.mark.parametrize(
    ("addresses", "neighbours", "verdict"),
    [
        (["192.0.2.2"], {}, "dark"),
        (["192.0.2.77"], {"192.0.2.77": "52:54:00:00:00:aa"}, "dark"),
        (["192.0.2.77"], {"192.0.2.77": "52:54:00:00:00:bb"}, "clear"),
        (["192.0.2.77"], {}, "unknown"),
        (["192.0.2.9"], {}, "clear"),
        ([], {}, "unknown"),
    ],
)
def test_a_jump_host_or_resolver_on_what_goes_off(addresses: list[str], neighbours: dict[str, str], verdict: str) -> None:
    control = machine(9, neighbours=neighbours)
    assert standing.judge_address(addresses, GONE, [control])[0] == verdict


def test_a_host_is_known_by_the_address_that_it_is_reached_at() -> None:
    hosts = {"db": {**machine(2), "reached_at": "203.0.113.2"}}
    assert standing.judge_address(["203.0.113.2"], hosts, [])[0] == "dark"


def test_everything_that_is_kept_is_named() -> None:
    control = machine(9, nameservers=["192.0.2.2", "127.0.0.53"])
    rows = standing.kept(control, {"a": machine(8), "b": None}, {"jump": (["192.0.2.77"], ""), "of db": ([], "odd")}, GONE)
    assert [(row["role"], row["name"], row["verdict"]) for row in rows] == [
        ("control node", "localhost", "clear"),
        ("vault", "a", "clear"),
        ("vault", "b", "unknown"),
        ("jump host", "jump", "unknown"),
        ("jump host", "of db", "unknown"),
        ("resolver", "192.0.2.2 of the control node", "dark"),
        ("resolver", "127.0.0.53 of the control node", "unknown"),
    ]


# --- jump hosts ---


@pytest.mark.parametrize(
    ("told", "names"),
    [
        ("user root\nproxyjump admin@gate.example.org:2222\n", ["gate.example.org"]),
        ("proxyjump one,ssh://u@two:22,[2001:db8::1]:22\n", ["one", "two", "2001:db8::1"]),
        ("proxyjump 2001:db8::2\n", ["2001:db8::2"]),
        ("proxycommand ssh -i /k -o A=b -W %h:%p -q -p 22 root@gate\n", ["gate"]),
        ("proxycommand /usr/bin/ssh -Wfoo:22 gate\n", ["gate"]),
        ("proxyjump none\nproxycommand none\n", []),
        ("hostname a\n", []),
    ],
)
def test_jump_hosts_are_read_from_what_ssh_says(told: str, names: list[str]) -> None:
    assert standing.jumps(told) == (names, "")


@pytest.mark.parametrize("command", ["nc -X connect %h %p", "ssh", "ssh -W", "'ssh gate"])
def test_a_way_that_cannot_be_read_is_unknown(command: str) -> None:
    names, unclear = standing.jumps(f"proxycommand {command}\n")
    assert names == []
    assert "does not tell through which machine it goes" in unclear


def test_the_inventorys_settings_go_through_ssh_itself(tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text("Host gate\n  HostName 192.0.2.44\n")
    common = f"-F {config} -o ProxyJump=admin@gate"
    assert list(jumping.of_machine("db", {"ansible_host": "192.0.2.2", "ansible_ssh_common_args": common})) == ["gate"]
    assert jumping.of_machine("db", {"ansible_host": "192.0.2.2", "ansible_ssh_common_args": f"-F {config}"}) == {}
    assert jumping.of_machine("db", {"ansible_connection": "local", "ansible_ssh_common_args": common}) == {}
    assert "quote is not closed" in str(jumping.of_machine("db", {"ansible_ssh_common_args": "-o 'x"}))
    assert "ssh -G does not tell" in str(jumping.of_machine("db", {"ansible_ssh_common_args": "--no-such"}))
    assert jumping.addresses("192.0.2.44") == ["192.0.2.44"]
    assert "its connection is paramiko, whose way is not read" in str(jumping.of_machine("db", {"ansible_connection": "paramiko"}))


def test_a_jump_host_of_ansibles_own_settings_is_one_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """ansible.cfg or the environment says how all machines are reached; the inventory does not repeat it."""
    monkeypatch.setenv("ANSIBLE_SSH_COMMON_ARGS", "-F none -o ProxyJump=root@192.0.2.44")
    assert jumping.of_machine("db", {"ansible_host": "192.0.2.2"}) == {"192.0.2.44": (["192.0.2.44"], "")}
    # What the inventory says of a machine goes before.
    assert jumping.of_machine("db", {"ansible_host": "192.0.2.2", "ansible_ssh_common_args": "-F none"}) == {}


class Lazy(Mapping[str, Any]):
    """As Ansible's variables: each is templated when it is asked for, and one of them cannot be yet."""

    def __init__(self, **told: Any) -> None:
        self.told = told

    def __getitem__(self, name: str) -> Any:
        if name == "others":
            raise AnsibleError("'sunset_work' is undefined")
        return self.told[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.told)

    def __len__(self) -> int:
        return len(self.told)


def test_a_variable_that_is_not_defined_yet_is_nobody_elses_trouble() -> None:
    variables = Lazy(ansible_host="192.0.2.2", ansible_ssh_common_args="-F none -o ProxyJump=root@192.0.2.44", others="")
    assert jumping.of_machine("db", variables) == {"192.0.2.44": (["192.0.2.44"], "")}


# --- the picture ---


def test_the_tree_shows_each_thing_under_all_that_it_stands_on() -> None:
    text = picture.tree(make_plan(stacked()), [{"role": "vault", "name": "a", "verdict": "unknown", "why": "x"}])
    lines = text.splitlines()
    at = lines.index("host:kvm  (wave main; goes off as number 2)")
    assert lines[at + 1] == "└─ host:web  (wave pilot; goes off as number 1)"
    assert lines[at + 2] == "   └─ application:front  (wave pilot)"
    assert len([line for line in lines if "application:creme" in line]) == 3
    assert "Wave main, in this order: app1, dock1; then db1, kvm" in lines
    assert "  vault a: unknown (x)" in lines


def test_a_hypervisor_goes_off_after_every_host_that_is_none() -> None:
    """The run has a second pass for hypervisors, whatever stands on them: the picture tells the order of the run."""
    data = plan_data(waves=["main"], items=[host("app", "main"), host("kvm", "main"), builders.guest("crm", "kvm", "main", ["a"])])
    assert "Wave main, in this order: app; then kvm" in picture.tree(make_plan(data)).splitlines()


def test_the_picture_is_sorted_and_the_same_each_time() -> None:
    data = stacked()
    first = picture.svg(make_plan(data))
    data["items"].reverse()
    assert sorted(picture.svg(make_plan(data)).splitlines()) == sorted(first.splitlines())
    made = make_plan(data)
    levels = picture._levels(made)
    assert all(levels[one["id"]] > levels[parent] for one in made.items.values() for parent in [*one["stands_on"], *one.get("media", [])])


def test_hostile_names_stay_text_in_the_picture() -> None:
    data = plan_data()
    evil = '<script>alert("x")</script>&'
    item = (
        item_of(data, "filestore:letters")
        if any(one["id"] == "filestore:letters" for one in data["items"])
        else item_of(data, "filestore:uploads")
    )
    old = item["id"]
    item["id"] = f"filestore:{evil}"
    for one in data["items"]:
        one["stands_on"] = [item["id"] if parent == old else parent for parent in one["stands_on"]]
    drawn = picture.svg(make_plan(data))
    assert "<script" not in drawn
    root = ElementTree.fromstring(drawn)  # noqa: S314 - our own text
    assert f"filestore:{evil}" in ["".join(one.itertext()) for one in root.iter("{http://www.w3.org/2000/svg}text")]


def test_a_wide_row_is_folded_and_nothing_lies_on_another() -> None:
    data = plan_data()
    data["items"] += [host(f"a-rather-long-name-of-a-host-{number}", "main") for number in range(40)]
    root = ElementTree.fromstring(picture.svg(make_plan(data)))  # noqa: S314 - our own text
    boxes = [tuple(float(one.get(name, "0")) for name in ("x", "y", "width")) for one in root.iter("{http://www.w3.org/2000/svg}rect")]
    assert max(x + width for x, _y, width in boxes) < picture.WIDEST + 200
    for number, (x, y, width) in enumerate(boxes):
        assert not [1 for x2, y2, width2 in boxes[number + 1 :] if y == y2 and x < x2 + width2 and x2 < x + width]
