# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host that wipes its own disks in a rescue booted from its controller's virtual CD, for real: BIOS, loader, sushy-emulator, libvirt, QEMU.

What was wiped is judged from outside, in the files behind the disks. One machine for the whole story, in the order of the tests.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from ansible_collections.sunset.crm.plugins.plugin_utils.record import ledger
from tests.full.media_guest import MediaGuest
from tests.integration.rescue_guest import DATA_SERIAL, MACHINE_ID, ROOT_SERIAL, free_port
from tests.integration.rescue_world import DATA, ENTER, ROOT, World

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="libvirt and the disks of the emulated machine need root")


class MediaWorld(World):
    way = "virtual_media"

    def machine(self) -> Any:
        return MediaGuest(self.folder)

    def power(self) -> dict[str, Any]:
        return {"power": self.guest.witness, "rescue_boot": {"way": "media", "serve": f"127.0.0.1:{free_port()}"}}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MediaWorld]:
    made = MediaWorld(tmp_path_factory.mktemp("media"))
    yield made
    made.end()


def test_it_boots_the_medium_and_the_controller_is_as_before(world: MediaWorld) -> None:
    assert world.planted() >= (20000, 20000) and world.guest.state() == "exited"
    _code, out = world.run(900, tasks=ENTER)
    # The run as such is not finished, and says so: nothing is wiped yet.
    assert "woken for the wipe, still on" in out and "medium:root (wave only): not wiped" in out, (out, world.guest.said()[-3000:])
    seen = world.last("rescue_boot")
    result, actions = seen["evidence"]["result"], [one["did"] for one in seen["evidence"]["actions"]]
    assert seen["status"] == "done" and result["root"] == "rootfs" and result["mounted_from_disks"] == [] and result["swap"] == []
    assert result["machine_id"] == MACHINE_ID and {disk["serial"] for disk in result["disks"]} == {ROOT_SERIAL, DATA_SERIAL}
    # It was started from the CD, after it was seen off; the emulator does not honour Once, so it had to be put back.
    assert result["boot"]["set"]["target"] == "Cd" and result["boot"]["off"]["power"] == "off"
    assert (result["boot"]["put_back"]["target"], result["boot"]["put_back"]["inserted"]) == ("Hdd", False)
    assert "cdrom" not in world.guest.definition()
    assert "BOOT_IMAGE=/boot/vmlinuz" in world.inside("cat /proc/cmdline").stdout and "gave out the medium" in actions
    # Nobody is let in by the old key; nothing was written to a disk but the build; no key of the rescue stands in the ledger.
    assert world.guest.ssh("true").returncode != 0 and world.planted() >= (20000, 20000)
    assert "PRIVATE KEY" not in world.estate.ledger_file.read_text()
    assert not list((world.estate.root / "secrets").glob("*.medium"))


def test_a_second_run_finds_it_there(world: MediaWorld) -> None:
    world.run(900, tasks=ENTER)
    assert world.last("rescue_boot")["status"] == "done" and world.last("rescue_boot")["changed"] is False


def test_it_wipes_itself_ends_and_not_one_marker_is_left(world: MediaWorld) -> None:
    code, out = world.run(1200)
    assert code == 0, (out, world.guest.said()[-3000:])
    assert world.guest.state() == "exited" and world.planted() == (0, 0)
    assert world.last("host_power")["value"] == "ended" and world.last("host_power")["evidence"]["result"]["proof"] == "redfish"
    assert len(list(world.estate.certificates_folder.glob("*.json.sig"))) == 2
    assert world.holds_the_stream(ROOT, world.guest.root) and world.holds_the_stream(DATA, world.guest.data)


def test_the_same_command_again_wakes_nobody(world: MediaWorld) -> None:
    lines = len(ledger.read(world.estate.ledger_file))
    code, out = world.run(300)
    assert code == 0 and out.count("failed=0") >= 1, out
    assert world.guest.state() == "exited" and "intent" not in [
        entry.record["kind"] for entry in ledger.read(world.estate.ledger_file)[lines:]
    ]
    assert not list((world.estate.root / "secrets").glob("rescue-*"))
