# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A guest of libvirt is moved to another host: the definition that stays behind is shut off, and the guest runs. Two real daemons, real moves."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import libvirt
import pytest

from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.guests import guests
from ansible_collections.sunset.crm.plugins.plugin_utils.power import witness
from tests.integration.libvirt_world import IGNORES, OBEYS, World, wait
from tests.integration.ports import free_port

MOVED = (5, 4)
Hosts = tuple[World, World]


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    # A socket's path has little room: not below pytest's own folder.
    with tempfile.TemporaryDirectory(prefix="sunset-lv-") as folder:
        here, there = World(Path(folder) / "a", "kvm-a"), World(Path(folder) / "b", "kvm-b")
        try:
            here.up()
            there.up()
            yield here, there
        finally:
            here.close()
            there.close()


@pytest.fixture
def pair(hosts: Hosts) -> Hosts:
    hosts[0].notes.clear()
    return hosts


def move(here: World, there: World, name: str) -> None:
    """As a colleague's virsh migrate does it: the definition stays where it was."""
    # Whether the storage is shared is not asked: it is one machine.
    flags = libvirt.VIR_MIGRATE_LIVE | libvirt.VIR_MIGRATE_UNSAFE
    with here.admin() as source, there.admin() as target:
        source.lookupByName(name).migrate(target, flags, None, f"tcp:127.0.0.1:{free_port()}", 0)
    assert (here.state(name), there.state(name)[0]) == (MOVED, 1)


def test_a_guest_that_was_moved_away_is_not_off_and_is_not_started_a_second_time(pair: Hosts) -> None:
    here, there = pair
    here.define("gone", OBEYS)
    former = {"gone": {"id": here.domain("gone", lambda one: one.UUIDString()), "power": "on", "autostart": True, "persistent": True}}
    for name in ("on_poweroff", "on_crash"):
        former["gone"][name] = "destroy"
    move(here, there, "gone")
    with pytest.raises(Refusal, match="gone: it was moved to another host and is gone from here.*Nothing was changed"):
        here.stop("gone")
    with pytest.raises(Refusal, match="gone: it was moved to another host"):
        here.save("gone")
    # Two of one guest on one disk would destroy it.
    back = here.start(former)
    assert (back["failed"], here.state("gone"), there.state("gone")[0]) == (True, MOVED, 1), back
    assert "gone (it was moved to another host" in back["msg"]
    assert here.domain("gone", lambda one: one.autostart()) == 0, "nor with the next boot"
    with here.engine() as engine:
        assert engine.everything()["gone"]["power"] == "unknown"


def test_a_guest_that_is_moved_while_it_is_stopped_is_not_called_off(pair: Hosts) -> None:
    """Issue 4: the guest migrates meanwhile."""
    here, there = pair
    here.define("moving", IGNORES)

    def away() -> None:
        wait(lambda: any(note["kind"] == "asked" for note in here.notes), 60, "it was asked")
        move(here, there, "moving")

    thread = threading.Thread(target=away)
    thread.start()
    done = here.stop("moving", timeout=60)
    thread.join()
    row = done["result"]["guests"]["moving"]
    assert (done["failed"], done["evidence"]["verdict"], row["how"]) == (True, "no", guests.STILL_ON), row
    assert "moving it was moved to another host and is gone from here" in done["msg"]
    assert there.state("moving")[0] == 1


def test_a_host_of_the_estate_that_was_moved_away_is_not_off_for_its_witness(pair: Hosts) -> None:
    here, there = pair
    here.define("app1", OBEYS)
    seen = {"kind": "libvirt", "uri": f"qemu+unix:///system?socket={here.socket}", "domain": "app1"}
    assert witness.read(seen)["power"] == "on"
    move(here, there, "app1")
    reading = witness.read(seen)
    assert reading["power"] == "unknown" and "it was moved away from" in reading["detail"]["problem"]
