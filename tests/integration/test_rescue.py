# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host that wipes its own disks, for real: an emulated machine with its root on NVMe and its data on a second disk.

The whole of it goes through the real role with gates and ledger. What was wiped is judged from outside, in the files behind the disks.
One machine for the whole story, in the order of the tests.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ansible_collections.sunset.crm.plugins.plugin_utils.record import ledger
from tests.integration.rescue_guest import DATA_SERIAL, MACHINE_ID, MIB, ROOT_SERIAL
from tests.integration.rescue_world import DATA, ENTER, HOST, ROOT, World, kill_tree

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the disks of the emulated machine are made by root")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("rescue"))
    yield made
    made.end()


def test_without_the_second_persons_word_the_host_is_not_even_woken(world: World) -> None:
    folder = world.estate.statements_folder
    folder.rename(folder.with_name("away"))
    code, out = world.run(tasks=ENTER)
    folder.with_name("away").rename(folder)
    assert code != 0 and "no authorisation names it" in out, out
    assert world.guest.state() == "created" and not world.outcomes("host_power")


def test_a_rehearsal_wakes_nobody(world: World) -> None:
    code, out = world.run(check=True)
    assert code == 0, out
    assert world.guest.state() == "created" and not world.outcomes("host_power") and not world.outcomes("media_wipe")


def test_a_rescue_that_cannot_be_built_leaves_the_host_as_it_was(world: World) -> None:
    """The disk of the host is full: named, tidied up, and the host runs on."""
    world.guest.start()
    world.guest.wait_for_ssh()
    filled = world.guest.ssh("set -- $(stat -f -c '%f %S' /); fallocate -l $(($1 * $2 - 8388608)) /filler && sync")
    assert filled.returncode == 0, filled
    code, out = world.run(tasks=ENTER)
    assert code != 0 and "No space left on device" in out and "runs on as before" in out, out
    assert world.last("rescue_boot")["status"] == "failed"
    left = world.guest.ssh("cat /sys/kernel/kexec_loaded; ls /var/lib/sunset-crm/rescue 2>/dev/null; rm /filler; sync")
    assert left.stdout.split() == ["0"], left


def test_a_host_that_does_not_come_back_is_a_failed_step_and_its_disks_are_untouched(world: World, tmp_path: Path) -> None:
    """Its rescue finds no first program, by the plan of another estate. A reset starts the old system again."""
    lost = World(tmp_path / "lost", world.guest, kernel_arguments=["no_timer_check", "rdinit=/nowhere"])
    before = lost.planted()
    code, out = lost.run(tasks=[ENTER[0], {"sunset.crm.rescue_boot": {"item": f"host:{HOST}", "timeout": 15}}])
    assert code != 0 and "did not come back as a rescue" in out and "disks were not touched" in out, out
    assert lost.last("rescue_boot")["status"] == "failed" and lost.last("rescue_boot")["evidence"]["verdict"] == "unknown"
    # The build has used blocks that no file had; what is in files is all there, and the other disk is as it was.
    assert lost.planted()[0] >= 20000 and lost.planted()[1] == before[1] == 20000
    subprocess.run(["docker", "restart", "-t", "1", lost.guest.name], check=True, capture_output=True)
    lost.guest.wait_for_ssh()
    assert lost.guest.ssh("cat /etc/machine-id").stdout.strip() == MACHINE_ID


def test_it_moves_into_ram_and_is_recognised(world: World) -> None:
    boot = world.guest.ssh("cat /proc/sys/kernel/random/boot_id").stdout.strip()
    _code, out = world.run(tasks=ENTER)
    # The run as such is not finished, and says so: nothing is wiped yet.
    assert "woken for the wipe, still on" in out and "medium:root (wave only): not wiped" in out, (out, world.guest.said()[-2000:])
    seen = world.last("rescue_boot")
    result = seen["evidence"]["result"]
    assert seen["status"] == "done" and result["root"] == "rootfs" and result["mounted_from_disks"] == [] and result["swap"] == []
    assert result["machine_id"] == MACHINE_ID and result["boot_id"] != boot
    assert {disk["serial"] for disk in result["disks"]} == {ROOT_SERIAL, DATA_SERIAL}
    assert "no_timer_check" in world.inside("cat /proc/cmdline").stdout
    # The bridge over a bond of its card, and the VLAN over that, are what it is reached by, as before.
    network = world.inside(
        "ip -o address; cat /sys/class/net/bond0/bonding/mode /sys/class/net/bond0/bonding/slaves; cat /proc/net/vlan/config"
    )
    seen_there = " ".join(network.stdout.split())
    words = ("br0 inet 10.0.2.15/24", "br0.5 inet 192.0.2.7/24", "active-backup 1 eth0", "br0.5 | 5 | br0")
    assert all(word in seen_there for word in words), network.stdout
    # Nobody is let in by the old key, and what answers has not the old host key.
    assert world.guest.ssh("true").returncode != 0
    # The build has used blocks that no file had; what is in files is all there, and the other disk is as it was.
    assert world.planted()[0] >= 20000 and world.planted()[1] == 20000
    # No key of the rescue stands in the ledger.
    assert "PRIVATE KEY" not in world.estate.ledger_file.read_text()


def test_a_second_run_finds_it_there_and_disks_that_have_changed_places_are_refused_and_not_touched(world: World) -> None:
    done, before = len(world.outcomes("rescue_boot")), world.planted()
    assert world.inside("mv /dev/sda /dev/x && mv /dev/nvme0n1 /dev/sda && mv /dev/x /dev/nvme0n1").returncode == 0
    code, out = world.run()
    assert len(world.outcomes("rescue_boot")) == done + 1 and world.last("rescue_boot")["status"] == "done"
    assert world.last("rescue_boot")["changed"] is False and world.last("host_power")["changed"] is False
    assert code != 0 and out.count("identity: serial: expected") >= 2, out
    assert {one["status"] for one in world.outcomes("media_wipe")} == {"failed"}
    assert world.planted() == before and world.guest.state() == "running"
    assert world.inside("mv /dev/sda /dev/x && mv /dev/nvme0n1 /dev/sda && mv /dev/x /dev/nvme0n1").returncode == 0


def test_a_killed_controller_is_followed_by_one_that_joins_and_evidence_that_cannot_be_handed_over_keeps_it_up(world: World) -> None:
    child = world.start(rescue_rate=6 * MIB)
    deadline = time.monotonic() + 600
    while "write" not in world.inside("cat /var/lib/sunset-crm/wipe/*/progress.json 2>/dev/null").stdout:
        assert child.poll() is None and time.monotonic() < deadline, world.log()[-3000:]
        time.sleep(1)
    kill_tree(child.pid)
    child.wait()
    # Something lies where the certificates are to be written.
    world.estate.certificates_folder.write_text("in the way")
    code, out = world.run()
    assert code != 0, out
    wiped = [one for one in world.outcomes("media_wipe") if one["item"] == ROOT and one["status"] == "done"]
    assert len(wiped) == 1 and wiped[0]["evidence"]["before"]["decision"] == "attach", wiped
    assert len(wiped[0]["evidence"]["result"]["sessions"]) == 1
    assert world.guest.state() == "running" and world.inside("true").returncode == 0
    assert not [one for one in world.outcomes("host_power") if one["value"] == "ended"]


def test_it_ends_when_the_certificates_are_written_and_not_one_marker_is_left(world: World) -> None:
    world.estate.certificates_folder.unlink()
    code, out = world.run()
    assert code == 0, (out, world.guest.said()[-2000:])
    assert world.guest.state() == "exited" and world.planted() == (0, 0)
    assert world.last("host_power")["value"] == "ended" and world.last("host_power")["evidence"]["result"]["how"] == "by itself"
    assert len(list(world.estate.certificates_folder.glob("*.json.sig"))) == 2
    assert world.holds_the_stream(ROOT, world.guest.root) and world.holds_the_stream(DATA, world.guest.data)


def test_the_same_command_again_wakes_nobody(world: World) -> None:
    lines = len(ledger.read(world.estate.ledger_file))
    code, out = world.run()
    assert code == 0 and out.count("failed=0") >= 1, out
    new = [entry.record["kind"] for entry in ledger.read(world.estate.ledger_file)[lines:]]
    assert world.guest.state() == "exited" and "intent" not in new
    # The keys of the rescue ended with it.
    assert not list((world.estate.root / "secrets").glob("rescue-*"))
