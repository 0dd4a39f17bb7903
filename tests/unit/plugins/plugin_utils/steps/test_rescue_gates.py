# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host that wipes its own disks: when it may be woken, when it may end, and what is recognised as its rescue."""

from __future__ import annotations

import stat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.people.statements import Statements
from ansible_collections.sunset.crm.plugins.plugin_utils.power import witness
from ansible_collections.sunset.crm.plugins.plugin_utils.record.estate import Estate
from ansible_collections.sunset.crm.plugins.plugin_utils.rescue import rescue
from ansible_collections.sunset.crm.plugins.plugin_utils.runs import closing, runs
from ansible_collections.sunset.crm.plugins.plugin_utils.steps import filling, gates, grounds, steps
from tests.unit import builders

MARKER = {"schema": 1, "item": "host:db1", "nonce": "n"}
FOUND: dict[str, Any] = {
    "marker": {**MARKER, "machine_id": "m", "former_boot_id": "old"}, "machine_id": "m", "boot_id": "new", "root": "rootfs",
    "mounted_from_disks": [], "swap": [],
}  # fmt: skip
WOKEN = steps.find("host_power", {"state": "woken"})
ENDED = steps.find("host_power", {"state": "ended"})
RESCUE = steps.find("rescue_boot", {})
WIPE = steps.find("media_wipe", {})


def test_the_rescue_of_this_host_is_recognised() -> None:
    assert rescue.problems(FOUND, MARKER, "m", "old") == []
    # A later run does not know the boot id of the old system; the marker does.
    assert rescue.problems(FOUND, MARKER, "m", "") == []


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        ({"marker": None}, "marker"),
        ({"marker": {**FOUND["marker"], "nonce": "another"}}, "marker"),
        ({"machine_id": "x"}, "machine id is x"),
        ({"machine_id": None}, "machine id is unknown"),
        ({"boot_id": "old"}, "not started anew"),
        ({"boot_id": None}, "not started anew"),
        ({"root": "ext4"}, "root file system is ext4"),
        ({"root": None}, "unknown"),
        ({"mounted_from_disks": ["/mnt"]}, "mounted: /mnt"),
        ({"mounted_from_disks": None}, "unknown whether"),
        ({"swap": ["/dev/sda2"]}, "swaps"),
        ({"swap": None}, "unknown whether"),
    ],
)
def test_anything_else_is_not(changed: dict[str, Any], word: str) -> None:
    assert any(word in line for line in rescue.problems({**FOUND, **changed}, MARKER, "m", "old"))


def test_keys_are_made_once_and_private(tmp_path: Path) -> None:
    estate = Estate.at(tmp_path / "estate")
    assert rescue.Keys.of(estate, "host:db1", make=False) is None
    keys = rescue.Keys.of(estate, "host:db1", make=True)
    assert keys is not None and keys == rescue.Keys.of(estate, "host:db1", make=False) == rescue.Keys.of(estate, "host:db1", make=True)
    for path in (keys.login, keys.host, keys.known_hosts):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    public = keys.host.with_name(keys.host.name + ".pub").read_text().split()
    assert keys.known_hosts.read_text() == f"{keys.alias} {public[0]} {public[1]}\n"
    told = keys.arguments("-o ProxyJump=bastion")
    # ssh takes the first value of an option: the pinned key comes before what the inventory says.
    assert told.index(str(keys.known_hosts)) < told.index("ProxyJump=bastion") and "StrictHostKeyChecking=yes" in told
    assert keys.options("host:db1")["marker"] == keys.marker("host:db1")
    keys.forget(estate, "host:db1")
    assert not list((tmp_path / "estate/secrets").iterdir()) and rescue.Keys.of(estate, "host:db1", make=False) is None


# --- plan and gates


def within(**changes: Any) -> dict[str, Any]:
    data = builders.plan_data()
    builders.item_of(data, "medium:pgdata")["wipe"] = {"way": "kexec", "host": "db1", **changes}
    return data


def about(book: builders.Book, **changes: Any) -> grounds.Context:
    plan = book.plan
    words = [*builders.attested(), builders.authorised(plan, "medium:pgdata")]
    return builders.context(book, words, phase="wipe", **changes)


def lacks(step: steps.Step, item: str, context: grounds.Context) -> list[str]:
    return [str(lack) for lack in gates.missing(step, context.plan.items[item], context)]


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"host": "station1"}, "only its own host db1 can do that"),
        ({"way": "hammer"}, "'hammer' (known: station, kexec, virtual_media, pxe, in-place)"),
    ],
)
def test_a_plan_that_lets_another_host_do_it_is_refused(changes: dict[str, Any], word: str) -> None:
    with pytest.raises(Refusal, match=word.replace("(", r"\(").replace(")", r"\)")):
        builders.make_plan(within(**changes))


def retired() -> builders.Book:
    return builders.complete(builders.make_plan(within()), forgotten=True)


def test_a_host_is_woken_when_its_media_may_be_wiped_at_once() -> None:
    book = retired()
    assert lacks(WOKEN, "host:db1", about(book)) == []
    assert any("no authorisation" in lack for lack in lacks(WOKEN, "host:db1", builders.context(book, builders.attested(), phase="wipe")))
    assert any("to be wiped from within" in lack for lack in lacks(WOKEN, "host:app1", about(book)))
    assert any("belongs to a wipe" in lack for lack in lacks(WOKEN, "host:db1", builders.context(book, phase="shutdown")))


def test_no_rescue_before_it_was_woken_and_no_wipe_outside_the_rescue() -> None:
    book = retired()
    assert any("not seen to be woken" in lack for lack in lacks(RESCUE, "host:db1", about(book)))
    assert any("not seen to be in its rescue" in lack for lack in lacks(WIPE, "medium:pgdata", about(book)))
    book.step("host:db1", "host_power", "woken")
    assert lacks(RESCUE, "host:db1", about(book)) == []
    assert any("not seen to be in its rescue" in lack for lack in lacks(WIPE, "medium:pgdata", about(book)))
    book.step("host:db1", "rescue_boot")
    assert lacks(WIPE, "medium:pgdata", about(book)) == []
    # Woken once more: whatever it is now, it is not the rescue that was seen.
    book.step("host:db1", "host_power", "woken")
    assert any("not seen to be in its rescue" in lack for lack in lacks(WIPE, "medium:pgdata", about(book)))


def test_waking_takes_nothing_away_that_was_proven() -> None:
    book = retired()
    book.step("host:db1", "host_power", "woken")
    view = book.view()
    assert view.is_off("host:db1") and view.dump(book.plan, book.plan.items["database:creme"]) is not None
    assert set(view.accepted) == {"pilot", "main"}


def test_it_stays_up_until_every_medium_is_wiped_and_then_the_wipe_is_closed() -> None:
    book = retired()
    for module, state in (("host_power", "woken"), ("rescue_boot", None)):
        book.step("host:db1", module, state)
    assert [lack for lack in lacks(ENDED, "host:db1", about(book)) if "medium:pgdata: not seen to be wiped" in lack]
    book.step("medium:pgdata", "media_wipe")
    assert lacks(ENDED, "host:db1", about(book)) == []
    # Nobody has to sign again for what is wiped, only that the host can be looked at and ended.
    assert lacks(WOKEN, "host:db1", builders.context(book, builders.attested(), phase="wipe")) == []
    rows = {row.item: row for row in closing.unfinished(book.plan, book.view(), "wipe", ["main"])}
    assert rows["host:db1"].done == "woken for the wipe, still on" and "medium:pgdata" not in rows
    book.step("host:db1", "host_power", "ended")
    assert "host:db1" not in {row.item for row in closing.unfinished(book.plan, book.view(), "wipe", ["main"])}


@pytest.mark.parametrize("power", ["off", "on"])
def test_a_host_that_has_ended_is_not_woken_again(monkeypatch: pytest.MonkeyPatch, power: str) -> None:
    book = retired()
    for item, module, state in (
        ("host:db1", "host_power", "woken"), ("host:db1", "rescue_boot", None), ("medium:pgdata", "media_wipe", None),
    ):  # fmt: skip
        book.step(item, module, state)
    monkeypatch.setattr(witness, "read", lambda _witness: {"power": power, "kind": "docker", "detail": {}, "at": ""})
    plan = book.plan

    def session() -> Any:
        return SimpleNamespace(plan=plan, view=book.view(), words=Statements([], {}), insiders=("olga",))

    assert rescue.over(session(), WOKEN, plan.items["host:db1"]) is None
    book.step("host:db1", "host_power", "ended")
    answers = [rescue.over(session(), step, plan.items[item]) for step, item in (
        (WOKEN, "host:db1"), (RESCUE, "host:db1"), (WIPE, "medium:pgdata"), (WIPE, "medium:uploads"), (ENDED, "host:db1"),
    )]  # fmt: skip
    assert all(answer is not None and answer["changed"] is False for answer in answers[:3]) and answers[3] is None
    # One that somebody switched on is switched off again, and by nothing but that step.
    assert (answers[4] is None) == (power == "on")


def test_the_members_of_a_run_and_what_is_filled_in() -> None:
    book = retired()
    told = {(member["host"], member["place"]): member for member in runs.members(book.plan, ["main"])}
    work = told["db1", "rescue"]["items"]
    assert work["rescue"] == ["host:db1"] and work["rescue_medium"] == ["medium:pgdata"]
    assert "medium:pgdata" not in told["station1", "station"]["items"]["medium"]
    plan, view = book.plan, book.view()
    assert filling.options(WIPE, plan.items["medium:pgdata"], plan, view, "")["in_rescue"] is True
    assert "in_rescue" not in filling.options(WIPE, plan.items["medium:uploads"], plan, view, "")
    filled = filling.options(RESCUE, plan.items["host:db1"], plan, view, "")
    assert filled == {"services": [{"unit": "postgresql@15-main.service", "ports": [5432]}], "kernel_arguments": []}
