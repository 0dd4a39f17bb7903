# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""libvirt_guests' verbs against a real libvirtd with real QEMU in software: how guests end, what keeps them down, what brings them back.

Names in brackets are rows of the list of others' bugs that this module must do better than.
"""

from __future__ import annotations

import os
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import libvirt
import pytest

from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.guests import guests, verbs as guest_verbs
from tests.integration.libvirt_world import HELD, IGNORES, OBEYS, World, account, slow, wait


@pytest.fixture(scope="module")
def daemon() -> Iterator[World]:
    # A socket's path has little room: not below pytest's own folder.
    with tempfile.TemporaryDirectory(prefix="sunset-lv-") as folder:
        made = World(Path(folder) / "w")
        try:
            made.up()
            yield made
        finally:
            made.close()


@pytest.fixture
def world(daemon: World) -> World:
    daemon.notes.clear()
    return daemon


def ends(done: dict[str, Any]) -> dict[str, tuple[str, str]]:
    return {name: (row["how"], row["graceful"]) for name, row in done["result"]["guests"].items()}


def did(done: dict[str, Any]) -> list[str]:
    return [action["did"] for action in done["evidence"]["actions"]]


def test_check_real_check_real_and_back_again(world: World) -> None:
    """[community.libvirt 63] waits for the end; changed, changed, same, same; resume puts back exactly what was."""
    world.define("cr-obeys", OBEYS)
    world.define("cr-auto", slow(1), "qcow2", autostart=True)
    world.define("cr-down", OBEYS, start=False)
    names = ("cr-obeys", "cr-auto", "cr-down")
    dry = world.stop(*names, check=True)
    assert (dry["changed"], dry["result"]["would_hold"], dry["result"]["would_stop"]) == (True, ["cr-auto"], ["cr-auto", "cr-obeys"])
    assert (world.state("cr-obeys")[0], world.notes) == (1, [])

    done = world.stop(*names)
    assert (done["changed"], done["evidence"]["verdict"], done["result"]["way"]) == (True, "yes", "unknown"), done.get("msg")
    assert ends(done) == {
        "cr-obeys": (guests.BY_ITSELF, "yes"),
        "cr-auto": (guests.BY_ITSELF, "yes"),
        "cr-down": (guests.ALREADY_OFF, "unknown"),
    }
    assert done["result"]["guests"]["cr-auto"]["seconds"] >= 0.9
    assert [action["by"] for action in done["evidence"]["actions"] if action["did"] == "asked"] == ["ACPI", "ACPI"]
    assert world.state("cr-obeys") == (5, 1)
    assert world.domain("cr-auto", lambda one: one.autostart()) == 0

    former = done["result"]["former"]
    for check in (True, False):
        again = world.stop(*names, former=former, check=check)
        assert (again["changed"], again["evidence"]["verdict"], again["evidence"]["actions"]) == (False, "yes", [])

    assert world.start(former, check=True)["changed"] is True
    back = world.start(former)
    assert (back["evidence"]["verdict"], back["result"]["started"], back["result"]["released"]) == (
        "yes",
        ["cr-auto", "cr-obeys"],
        ["cr-auto"],
    )
    assert (world.state("cr-obeys")[0], world.state("cr-down")[0]) == (1, 5)
    assert world.domain("cr-auto", lambda one: one.autostart()) == 1
    assert world.start(former, check=True)["changed"] is False
    assert world.start(former)["changed"] is False


def test_fact_5_an_end_by_the_guest_is_told_from_one_by_force(world: World) -> None:
    """Force is a decision: not without force_after, recorded with its word, and called forced."""
    world.define("f5-deaf", IGNORES)
    late = world.stop("f5-deaf", timeout=2)
    assert (late["failed"], late["evidence"]["verdict"], world.state("f5-deaf")[0]) == (True, "no", 1)
    assert "f5-deaf did not end within 2 s of the request and still runs; nothing was killed" in late["msg"]
    forced = world.stop("f5-deaf", timeout=20, force_after=1, allowed_by="Ada")
    assert (forced["evidence"]["verdict"], ends(forced)["f5-deaf"]) == ("yes", (guests.BY_FORCE, "no"))
    assert (forced["result"]["way"], forced["result"]["forced"], forced["result"]["force_allowed_by"]) == ("forced", ["f5-deaf"], "Ada")
    assert world.state("f5-deaf") == (5, 2)


def test_an_end_from_the_host_is_not_called_graceful(world: World) -> None:
    """libvirt says 'shutdown' for a QEMU process that was ended on the host too; its event before says who did it."""
    world.define("host-end", IGNORES)
    with world.engine("host-end") as engine:
        before = engine.observe()
        engine.ask(before[0])
        os.kill(world.process("host-end"), signal.SIGTERM)
        wait(lambda: engine.powers()[before[0].key] == "off", 60, "it ended")
        ending = engine.ending(before[0], engine.observe()[0], asked=True, forced=False)
    assert (ending.how, ending.graceful) == (guests.BY_FORCE, "no"), ending.detail


def test_somebody_elses_destroy_is_seen(world: World) -> None:
    world.define("other-end", IGNORES)

    def cut() -> None:
        wait(lambda: any(note["kind"] == "asked" for note in world.notes), 60, "it was asked")
        world.domain("other-end", lambda one: one.destroy())

    thread = threading.Thread(target=cut)
    thread.start()
    done = world.stop("other-end")
    thread.join()
    assert ends(done)["other-end"] == (guests.BY_FORCE, "no")
    assert "cut off by somebody else" in done["result"]["guests"]["other-end"]["detail"]
    assert done["result"]["way"] == "forced"


def test_fact_6_a_paused_guest_cannot_hear_and_is_resumed_first(world: World) -> None:
    world.define("paused")
    world.domain("paused", lambda one: one.suspend())
    with pytest.raises(libvirt.libvirtError) as caught:
        world.domain("paused", lambda one: one.shutdownFlags(1))
    assert caught.value.get_error_code() == 55
    done = world.stop("paused")
    assert (ends(done)["paused"], did(done)) == ((guests.BY_ITSELF, "yes"), ["woken", "asked"])
    back = world.start(done["result"]["former"])
    assert (back["evidence"]["verdict"], world.state("paused")[0]) == ("yes", 3), "as it was: paused"


def test_a_transient_guest_takes_its_definition_with_it_so_that_is_kept_first(world: World) -> None:
    world.define("transient", transient=True)
    done = world.stop("transient")
    assert (done["evidence"]["verdict"], ends(done)["transient"]) == ("yes", (guests.BY_ITSELF, "yes")), done.get("msg")
    with pytest.raises(libvirt.libvirtError) as caught:
        world.state("transient")
    assert caught.value.get_error_code() == 42
    former = done["result"]["former"]
    assert Path(former["transient"]["kept"]["path"]).stat().st_mode & 0o777 == 0o600
    assert world.stop("transient", former=former)["changed"] is False
    with pytest.raises(Refusal, match="transient is in the plan and not there"):
        world.stop("transient")
    with pytest.raises(Refusal, match="nothing here says whether it ended or was moved to another host"):
        world.stop("transient", former={"transient": {**former["transient"], "ended": ""}})
    with pytest.raises(Refusal, match="it was moved to another host"):
        world.stop("transient", former={"transient": {**former["transient"], "ended": "migrated"}})
    saved = world.save("transient", former=former)
    assert saved["evidence"]["verdict"] == "yes"
    assert world.start(former)["evidence"]["verdict"] == "yes"
    assert world.state("transient")[0] == 1


def test_a_kept_definition_that_was_altered_starts_nothing(world: World) -> None:
    world.define("altered", transient=True)
    former = world.stop("altered")["result"]["former"]
    Path(former["altered"]["kept"]["path"]).write_text("<domain/>")
    back = world.start(former)
    assert back["failed"] and "is not there or another one; take it from the package" in back["msg"], back.get("msg")
    with world.admin() as connection:
        assert "altered" not in {guest.name() for guest in connection.listAllDomains(0)}


def test_a_guest_whose_end_is_a_restart_ends_all_the_same_and_gets_that_back(world: World) -> None:
    world.define("again", more="<on_poweroff>restart</on_poweroff><on_crash>restart</on_crash>")
    done = world.stop("again")
    assert (done["evidence"]["verdict"], ends(done)["again"]) == ("yes", (guests.BY_ITSELF, "yes")), done.get("msg")
    row = done["result"]["guests"]["again"]
    assert (row["returned_before"], row["returns_after"]) == ("on_crash=restart, on_poweroff=restart", "")
    world.start(done["result"]["former"])
    text = world.domain("again", lambda one: one.XMLDesc(2))
    assert "<on_poweroff>restart</on_poweroff>" in text
    assert "<on_crash>restart</on_crash>" in text


def test_a_guest_that_comes_back_is_seen(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.define("back")
    down = guests.bring_down

    def and_up_again(*args: Any) -> dict[str, guests.Course]:
        courses = down(*args)
        assert (courses["back"].phase, world.state("back")[0]) == ("off", 5)
        world.domain("back", lambda one: one.create())
        return courses

    monkeypatch.setattr(guests, "bring_down", and_up_again)
    done = world.stop("back")
    assert (done["failed"], done["evidence"]["verdict"], ends(done)["back"][0]) == (True, "no", guests.STILL_ON)
    assert "it was off and is on again: something starts it" in done["msg"]


def test_a_guest_that_libvirt_has_lost_sight_of_and_that_runs_is_not_off(world: World) -> None:
    """Its note in /run was cleared away while the daemon was down: libvirt says shut off, and QEMU runs on."""
    key = world.define("crm")
    pid = world.process("crm")
    try:
        world.down()
        for note in (world.folder / "run/qemu").glob("crm*"):
            note.unlink()
        world.up()
        assert world.state("crm")[0] == libvirt.VIR_DOMAIN_SHUTOFF and Path(f"/proc/{pid}").exists()
        with pytest.raises(Refusal, match=f"crm: it is called shut off, .*pid {pid}.*Nothing was changed"):
            world.stop("crm")
        # Nor is it started a second time on the same disk.
        back = world.start({"crm": {"id": key, "power": "on", "autostart": False, "persistent": True}})
        assert back["failed"] and f"pid {pid}" in back["msg"] and world.state("crm")[0] == libvirt.VIR_DOMAIN_SHUTOFF
    finally:
        os.kill(pid, signal.SIGKILL)
    wait(lambda: not Path(f"/proc/{pid}/cmdline").exists() or not Path(f"/proc/{pid}/cmdline").read_bytes(), 60, "it ends")
    assert world.stop("crm")["evidence"]["verdict"] == "yes"


def test_a_managed_save_is_off_but_no_graceful_end_and_no_snapshot_or_copy_is_taken_of_it(world: World) -> None:
    world.define("saved-ram", form="qcow2")
    world.domain("saved-ram", lambda one: one.managedSave())
    done = world.stop("saved-ram")
    assert (done["changed"], ends(done)["saved-ram"], done["result"]["way"]) == (False, (guests.ALREADY_OFF, "no"), "forced")
    for wish in ({"snapshot": "internal"}, {"copy": True}):
        with pytest.raises(Refusal, match="its memory is saved on disk"):
            world.save("saved-ram", **wish)
    assert world.save("saved-ram")["evidence"]["verdict"] == "yes"
    assert world.domain("saved-ram", lambda one: one.hasManagedSaveImage()) == 1, "it is still there"


@pytest.mark.parametrize(
    ("name", "metadata", "words"),
    [
        ("ovirt", "<o:vm xmlns:o='http://ovirt.org/vm/1.0'/>", "oVirt runs it"),
        ("nova", "<n:instance xmlns:n='http://openstack.org/xmlns/libvirt/nova/1.1'/>", "OpenStack runs it"),
    ],
)
def test_a_guest_of_another_manager_is_refused_by_name(world: World, name: str, metadata: str, words: str) -> None:
    world.define(name, start=False, more=f"<metadata>{metadata}</metadata>")
    with pytest.raises(Refusal, match=f"{name}: {words}"):
        world.stop(name)


def test_a_host_of_the_plan_that_still_runs_is_not_pulled_away(world: World) -> None:
    world.define("inner")
    with pytest.raises(Refusal, match="inner .the host app1. still runs: a host of the plan goes off by its own step"):
        world.stop("inner", hosts={"inner": "app1"})
    assert world.state("inner")[0] == 1
    former = world.stop("inner")["result"]["former"]
    assert former["inner"]["power"] == "on"
    off = world.stop("inner", hosts={"inner": "app1"}, ran=["inner"])
    assert (off["changed"], off["result"]["former"]["inner"]["power"]) == (False, "on"), "its own step had switched it off"


def test_another_guest_under_the_name_or_another_hypervisor_is_refused(world: World) -> None:
    key = world.define("twin", start=False)
    with pytest.raises(Refusal, match="twin is .*, the plan has somebody"):
        world.stop("twin", identity={"ids": {"twin": "somebody"}})
    with pytest.raises(Refusal, match="the hypervisor's uuid is .*, the plan has elsewhere"):
        world.stop("twin", identity={"ids": {"twin": key}, "hypervisor": {"uuid": "elsewhere"}})
    with world.engine("twin") as engine:
        assert world.stop("twin", identity={"ids": {"twin": key}, "hypervisor": engine.host()})["changed"] is False


def test_what_is_there_and_not_planned_shows_in_the_survey(world: World) -> None:
    world.define("stranger", start=False)
    with world.engine() as engine:
        assert engine.everything()["stranger"]["detail"] == "shut off"


def test_a_linux_that_obeys_its_agent_is_asked_by_it(world: World) -> None:
    world.linux("agent", "agent")
    done = world.stop("agent", timeout=120)
    assert (done["evidence"]["verdict"], ends(done)["agent"]) == ("yes", (guests.BY_ITSELF, "yes")), done.get("msg")
    assert [action.get("by") for action in done["evidence"]["actions"] if action["did"] == "asked"] == ["agent"]


def test_a_linux_whose_agent_does_nothing_is_asked_by_the_power_button_next(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.linux("deaf", "deaf")
    monkeypatch.setattr(guests, "NEXT_WAY", 0.1)
    done = world.stop("deaf", timeout=150)
    assert (done["evidence"]["verdict"], ends(done)["deaf"]) == ("yes", (guests.BY_ITSELF, "yes")), done.get("msg")
    # Either libvirt says that the agent did not take it, or its time is up: the evidence has the one or the other.
    asked = [action.get("by") for action in done["evidence"]["actions"] if action["did"] == "asked"]
    assert asked[0] == "agent"
    assert asked[1:] == ["ACPI"] or "so the power button was pressed" in done["result"]["guests"]["deaf"]["detail"]


# --- faults


def test_the_daemon_restarts_while_guests_come_down(world: World) -> None:
    """Requests were sent, the daemon goes away and comes back, the end is seen; nobody is asked twice."""
    world.define("restart-slow", slow(4))
    world.define("restart-other", slow(4))

    def restart() -> None:
        wait(lambda: len([note for note in world.notes if note["kind"] == "asked"]) == 2, 60, "both were asked")
        time.sleep(0.5)
        world.restart()

    thread = threading.Thread(target=restart)
    thread.start()
    done = world.stop("restart-slow", "restart-other", timeout=120)
    thread.join()
    assert done["evidence"]["verdict"] == "yes", done.get("msg")
    assert did(done).count("asked") == 2
    assert {row["how"] for row in done["result"]["guests"].values()} <= {guests.BY_ITSELF, guests.UNKNOWN}
    assert world.state("restart-slow")[0] == 5


def test_the_answer_is_lost_after_the_request_was_accepted(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a second request before the guest had its time; the end is the guest's own."""
    world.define("lost", slow(2))
    with world.engine("lost") as engine:
        domain = engine._domain
        presses = []

        class Cut:
            def __init__(self, real: Any) -> None:
                self.real = real

            def shutdownFlags(self, flags: int) -> None:
                presses.append(flags)
                self.real.shutdownFlags(flags)
                world.restart(signal.SIGKILL)
                self.real.info()

        monkeypatch.setattr(engine, "_domain", lambda guest: Cut(domain(guest)))
        done = guest_verbs.stop(engine, account(), guest_verbs.Order(["lost"], timeout=120), world.memory(), check=False)
    assert (done["evidence"]["verdict"], presses) == ("yes", [1]), done.get("msg")
    assert [action.get("by") for action in done["evidence"]["actions"]] == [guests.LOST]
    assert world.state("lost")[0] == 5


def test_killed_after_the_request_the_second_run_sends_no_second_one(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    key = world.define("killed", HELD, autostart=True)

    class Killed(BaseException):
        pass

    def die(_seconds: float) -> None:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(guests.Clock, "__init__", lambda self: self.__dict__.update(now=time.monotonic, sleep=die))
        world.stop("killed")
    assert [note["kind"] for note in world.notes] == ["found", "asked"]

    def pause(seconds: float) -> None:
        world.release(key)  # it was seen to run, and is waited for
        time.sleep(seconds)

    monkeypatch.setattr(guests.Clock, "__init__", lambda self: self.__dict__.update(now=time.monotonic, sleep=pause))
    done = world.stop("killed", remembering=True)
    assert (done["evidence"]["verdict"], ends(done)["killed"]) == ("yes", (guests.BY_ITSELF, "yes")), done.get("msg")
    assert did(done) == ["left to come down, it was asked before"]
    assert done["result"]["former"]["killed"]["autostart"] is True, "what the first run found, not what it left"


def test_a_guest_that_did_not_hear_the_first_run_is_asked_once_more(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    key = world.define("unheard", OBEYS)
    with world.engine("unheard") as engine:
        life = engine.life(engine.observe()[0])
    world.notes.append({"kind": "asked", "guest": "unheard", "life": life, "at_seconds": time.time()})
    monkeypatch.setattr(guests, "NEXT_WAY", 0.05)
    done = world.stop("unheard", remembering=True, timeout=100)
    assert (done["evidence"]["verdict"], did(done)) == ("yes", ["left to come down, it was asked before", "asked"]), (key, done.get("msg"))


def test_many_guests_take_as_long_as_the_slowest(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {name: world.define(name, HELD) for name in (f"many-{number}" for number in range(6))}
    asked: list[int] = []

    def pause(seconds: float) -> None:
        """None of them ends before the first pause."""
        asked.append(len([note for note in world.notes if note["kind"] == "asked"]))
        for key in keys.values():
            world.release(key)
        time.sleep(seconds)

    monkeypatch.setattr(guests.Clock, "__init__", lambda self: self.__dict__.update(now=time.monotonic, sleep=pause))
    done = world.stop(*keys, timeout=120)
    assert {row["how"] for row in done["result"]["guests"].values()} == {guests.BY_ITSELF}
    assert asked[0] == len(keys), "all were asked before the first had ended"
