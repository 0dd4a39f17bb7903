# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Virtual disks as files, overwritten for real: raw and qcow2 with chains and snapshots inside, killed, refused, removed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.sunset.crm.plugins.module_utils import _job
from ansible_collections.sunset.crm.plugins.module_utils._volume import (
    chain as volume_chain,
    engine as volume_engine,
    layer as volume_layer,
    users as volume_users,
)
from ansible_collections.sunset.crm.plugins.module_utils._wipe import engine as wipe_engine, passes as wipe_passes
from ansible_collections.sunset.crm.plugins.plugin_utils.certificates import certificate
from tests.integration import volume_images as images
from tests.integration.loop_media import attach, claim, halted, kill_job
from tests.integration.volume_images import KEY, MIB, Result, call, chain, extents_of, markers, mounted, qcow2, raw, tool

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the open files of all processes are root's to see")


@pytest.fixture(name="disk")
def a_disk(tmp_path: Path) -> tuple[Path, Path, Path]:
    """A chain of three: base, what an external snapshot has put on it, and what another has put on that."""
    base = qcow2(tmp_path / "base.qcow2")
    middle = qcow2(tmp_path / "middle.qcow2", base)
    return base, middle, qcow2(tmp_path / "top.qcow2", middle)


def stock_tools_say_wiped(layer: Result) -> bool:
    for start, end in layer["ranges"]:
        first, count = start // 4096, (end - start) // 4096
        command = certificate.sector_command(layer["path"], layer["key"], str(first), str(count))
        if subprocess.run(["sh", "-c", command], capture_output=True, check=False).returncode:
            return False
    return True


def test_four_in_a_row(disk: tuple[Path, Path, Path], tmp_path: Path) -> None:
    """Check, real, check, real: changed, changed, same, same. Nothing but the chain is touched, and holes stay holes."""
    neighbour = raw(tmp_path / "neighbour.raw")
    layers, places = chain(disk[2]), [extents_of(path) for path in disk]
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (*disk, neighbour)]
    assert len(layers) == 3 and markers(*disk) > 200000
    planned = call(tmp_path, layers, check=True)
    assert planned["changed"] and planned["result"]["decision"] == "start", planned
    assert [hashlib.sha256(path.read_bytes()).hexdigest() for path in (*disk, neighbour)] == digests
    sizes = [(path.stat().st_size, path.stat().st_blocks) for path in disk]

    done = call(tmp_path, layers)
    assert done["changed"] and done["evidence"]["verdict"] == "yes", done
    result = done["result"]
    assert (result["outcome"], result["exceptions"]) == ("sanitised", [])
    assert markers(*disk) == 0
    assert [(path.stat().st_size, path.stat().st_blocks) for path in disk] == sizes, "no file may grow, no hole may be filled"
    assert [extents_of(path) for path in disk] == places
    assert hashlib.sha256(neighbour.read_bytes()).hexdigest() == digests[-1]
    assert result["verification"]["canaries_found"] == result["verification"]["canaries_left"] > 3
    assert all(layer["in_place"] == "yes" and stock_tools_say_wiped(layer) for layer in result["layers"])
    assert len({layer["key"] for layer in result["layers"]}) == 3
    wanted = sum(layer["allocated"] // 4096 * 4096 for layer in result["layers"])
    assert result["accounting"]["written"]["bytes"] >= wanted and result["accounting"]["read"]["bytes"] >= wanted

    wiped = [hashlib.sha256(path.read_bytes()).hexdigest() for path in disk]
    for check in (True, False):
        again = call(tmp_path, layers, check=check)
        assert not again["changed"] and again["evidence"]["verdict"] == "yes", again
    assert [hashlib.sha256(path.read_bytes()).hexdigest() for path in disk] == wiped


def test_it_is_called_logical_sanitisation_and_says_what_that_does_not_cover(tmp_path: Path) -> None:
    result = call(tmp_path, chain(raw(tmp_path / "a.raw")))["result"]
    words = {name: word for name, word in result["classes"].items() if name not in ("technique", "statement")}
    assert set(words.values()) == {"logical sanitisation"}
    for word in ("gave back", "journals", "physical disks", "backups"):
        assert word in result["classes"]["statement"]


def test_a_preallocated_file_is_overwritten_where_it_never_was_written_too(tmp_path: Path) -> None:
    """Unwritten extents read as zeros, and what was on the disk before is still there: fallocate -z on a full file makes such."""
    path = raw(tmp_path / "a.raw", holes=False)
    tool("fallocate", "--zero-range", "--offset", "0", "--length", str(2 * MIB), "--keep-size", path)
    assert path.read_bytes()[: 2 * MIB] == bytes(2 * MIB)
    result = call(tmp_path, chain(path))["result"]
    assert result["layers"][0]["ranges"][0][0] == 0 and result["layers"][0]["in_place"] == "yes"
    assert stock_tools_say_wiped(result["layers"][0])


def test_a_disk_of_an_odd_size_is_overwritten_to_its_last_byte(tmp_path: Path) -> None:
    path = tmp_path / "a.raw"
    path.write_bytes(images.text(1) + images.MARKER * 40)
    result = call(tmp_path, chain(path))["result"]
    assert result["outcome"] == "sanitised" and markers(path) == 0
    assert path.stat().st_size == MIB + len(images.MARKER) * 40
    assert images.MARKER[:8] not in path.read_bytes()[-4096:]


def test_a_disk_without_a_single_block_is_done_without_writing(tmp_path: Path) -> None:
    path = tmp_path / "a.raw"
    with path.open("wb") as stream:
        stream.truncate(64 * MIB)
    result = call(tmp_path, chain(path))["result"]
    assert (result["outcome"], result["layers"][0]["allocated"], path.stat().st_blocks) == ("sanitised", 0, 0)


def test_the_files_are_removed_by_choice_once_all_of_them_are_proven(disk: tuple[Path, Path, Path], tmp_path: Path) -> None:
    layers = chain(disk[2])
    done = call(tmp_path, layers, remove=True)
    assert done["changed"] and all(layer["removed"] for layer in done["result"]["layers"]), done
    assert not any(path.exists() for path in disk)
    again = call(tmp_path, layers, remove=True)
    assert not again["changed"] and again["evidence"]["verdict"] == "yes", again
    disk[0].write_bytes(b"somebody else's")
    later = call(tmp_path, layers, remove=True)
    assert later["failed"] and disk[0].read_bytes() == b"somebody else's"


def test_a_removal_that_was_killed_goes_on(disk: tuple[Path, Path, Path], tmp_path: Path) -> None:
    layers = chain(disk[2])
    call(tmp_path, layers)
    folder = images.job_folder(tmp_path)
    state, result = (json.loads((folder / name).read_text()) for name in ("state.json", "result.json"))
    # As the job is when it was killed after the first of its files had gone.
    del state["ended"]
    (folder / "state.json").write_text(json.dumps({**state, "proven": result}))
    (folder / "result.json").unlink()
    disk[0].unlink()
    done = call(tmp_path, layers, remove=True)
    assert done["changed"] and done["evidence"]["verdict"] == "yes", done
    assert not any(path.exists() for path in disk)


# --- killed


def progress(folder: Path, percent: float) -> Result:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, ValueError, IndexError):
            found: Result = json.loads((images.job_folder(folder) / "progress.json").read_text())
            if found["percent"] >= percent:
                return found
        time.sleep(0.02)
    raise AssertionError("the job made no progress")


@pytest.mark.parametrize("percent", [5, 45, 80])
def test_killed_at_any_point_it_goes_on_and_ends_the_same(disk: tuple[Path, Path, Path], tmp_path: Path, percent: float) -> None:
    layers = chain(disk[2])
    with halted(tmp_path):  # however long the call takes: the job begins when it is looked at
        # Near its end it is seen each 0.5 s, and has to have time left after that.
        started = call(tmp_path, layers, rate=(4 if percent < 50 else 2) * MIB, wait=0)
    assert started["result"]["state"] == "running", started
    found = progress(tmp_path, percent)
    kill_job(images.job_folder(tmp_path), found["pid"])
    state = json.loads((images.job_folder(tmp_path) / "state.json").read_text())
    assert state["begun"] and not state.get("ended")
    done = call(tmp_path, layers)
    assert done["changed"] and done["evidence"]["verdict"] == "yes", done
    assert markers(*disk) == 0 and len(done["result"]["sessions"]) == 2
    assert all(stock_tools_say_wiped(layer) for layer in done["result"]["layers"])
    assert not call(tmp_path, layers)["changed"]


def test_a_layer_that_was_verified_before_a_kill_is_read_again_after_it(disk: tuple[Path, Path, Path], tmp_path: Path) -> None:
    """Nobody held its lock between the two sessions, and somebody has written to it."""

    class Killed(BaseException):
        pass

    class Dying(volume_engine.VolumeWipe):  # type: ignore[misc]
        def write(self, layer: Any, state: Result) -> None:
            if layer.number == 1:
                raise Killed
            super().write(layer, state)

    layers, folder = chain(disk[2]), tmp_path / "job"
    folder.mkdir()
    spec = {"layers": layers, "identity": volume_chain.identity(layers), "key": KEY}
    with pytest.raises(Killed):
        Dying(spec, str(folder)).run()
    start = extents_of(disk[2])[0][0]
    with disk[2].open("r+b") as stream:
        stream.seek(start)
        stream.write(b"Zoe Muster, customer 4711; " * 1000)
    result = volume_engine.VolumeWipe(spec, str(folder)).run()
    assert result["outcome"] == "failed" and any("do not hold the stream" in line for line in result["reasons"]), result
    again = volume_engine.VolumeWipe(spec, str(folder)).run()
    assert again["outcome"] == "sanitised" and markers(*disk) == 0, again


def test_a_second_call_attaches_to_the_job_that_works(disk: tuple[Path, Path, Path], tmp_path: Path) -> None:
    layers = chain(disk[2])
    with halted(tmp_path):
        call(tmp_path, layers, wait=0)
        visit = attach(partial(call, tmp_path, layers))
    done = call(tmp_path, layers, visit=visit)
    assert done["evidence"]["before"]["decision"] == "attach" and done["evidence"]["verdict"] == "yes", done
    assert len(done["result"]["sessions"]) == 1


def test_a_job_that_is_asked_to_stop_stops_on_record_and_goes_on_later(disk: tuple[Path, Path, Path], tmp_path: Path) -> None:
    layers = chain(disk[2])
    call(tmp_path, layers, rate=2 * MIB, wait=0)
    progress(tmp_path, 1)
    folder = images.job_folder(tmp_path)
    (folder / "abort").touch()
    deadline = time.monotonic() + 120
    while not (folder / "result.json").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    stopped = json.loads((folder / "result.json").read_text())
    assert stopped["outcome"] == "aborted" and "by request" in stopped["reasons"][0] and markers(*disk) > 0
    assert call(tmp_path, layers)["result"]["outcome"] == "sanitised"


def test_what_was_written_again_is_wiped_again(disk: tuple[Path, Path, Path], tmp_path: Path) -> None:
    layers = chain(disk[2])
    call(tmp_path, layers)
    with disk[0].open("r+b") as stream:
        stream.write(images.text(1))
    again = call(tmp_path, layers)
    assert again["changed"] and again["evidence"]["verdict"] == "yes" and markers(*disk) == 0, again


# --- refused, and nothing touched


def refused(folder: Path, layers: list[Result], paths: tuple[Path, ...], **options: Any) -> str:
    before = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
    for check in (True, False):
        answer = call(folder, layers, check=check, **options)
        assert answer.get("failed"), answer
    assert [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths] == before
    return str(answer["msg"])


def test_a_base_that_another_image_stands_on_is_refused_by_name(disk: tuple[Path, Path, Path], tmp_path: Path) -> None:
    layers = chain(disk[2])
    other = qcow2(tmp_path / "wiki.qcow2", disk[0])
    said = refused(tmp_path, layers, (*disk, other))
    assert f"the image {other}, which is not retired with it, stands on {disk[0]}" in said
    # Retired together with it, it is no obstacle.
    assert call(tmp_path, layers, known=[str(other)])["result"]["outcome"] == "sanitised"


def test_a_shared_base_may_go_before_what_stands_on_it(tmp_path: Path) -> None:
    """Each is a medium of its own; a failure of one must not keep the others from being wiped for good."""
    base = qcow2(tmp_path / "base.qcow2")
    one, other = (qcow2(tmp_path / f"{name}.qcow2", base) for name in ("one", "other"))
    known = [str(path) for path in (base, one, other)]
    upper = [[layer for layer in chain(path) if layer["path"] != str(base)] for path in (one, other)]
    lower = chain(base)
    assert call(tmp_path / "a", lower, known=known)["result"]["outcome"] == "sanitised"
    for number, layers in enumerate(upper):
        done = call(tmp_path / str(number), layers, known=known)
        assert done["evidence"]["verdict"] == "yes", done
    assert markers(base, one, other) == 0


def test_an_image_that_qemu_has_open_is_refused(disk: tuple[Path, Path, Path], tmp_path: Path) -> None:
    layers = chain(disk[2])
    nbd = subprocess.Popen(["qemu-nbd", "--socket", str(tmp_path / "nbd"), "--format", "qcow2", str(disk[2])])
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / "nbd").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        said = refused(tmp_path, layers, disk)
    finally:
        nbd.terminate()
        nbd.wait(60)
    assert "opened by the process" in said and "qemu-nbd" in said


def test_no_qemu_gets_an_image_while_it_is_wiped(disk: tuple[Path, Path, Path], tmp_path: Path) -> None:
    layers = chain(disk[2])
    call(tmp_path, layers, rate=MIB, wait=0)
    progress(tmp_path, 1)
    tried = subprocess.run(["qemu-io", "-f", "raw", "-c", "write -P 1 0 4k", str(disk[0])], capture_output=True, text=True, check=False)
    (images.job_folder(tmp_path) / "abort").touch()
    assert tried.returncode != 0 and "lock" in tried.stderr, tried
    assert call(tmp_path, layers)["result"]["outcome"] in ("aborted", "sanitised")


def test_a_lock_of_another_program_is_seen_even_where_no_descriptor_is(tmp_path: Path) -> None:
    """As a host of a cluster would hold it; the one that asks does not take it."""
    path = raw(tmp_path / "a.raw")
    one, other = (os.open(path, os.O_RDWR) for _number in range(2))
    try:
        assert volume_users.lock(one) and not volume_users.lock(other) and not volume_users.lock(other, take=False)
    finally:
        os.close(one)
    assert volume_users.lock(other, take=False) and volume_users.lock(other)
    os.close(other)


def test_a_loop_device_over_it_is_named(tmp_path: Path) -> None:
    path = raw(tmp_path / "a.raw")
    device = claim(["losetup", "--find", "--show", str(path)]).stdout.decode().strip()
    try:
        assert f"{path} is behind {device}" in refused(tmp_path, chain(path), (path,))
    finally:
        tool("losetup", "--detach", device)


@pytest.mark.parametrize(
    "change, word",
    [
        ("another", "inode is"),
        ("gone", "No such file"),
        ("format", "is no qcow2"),
        ("resized", "virtual_bytes is"),
        ("link", "hard links"),
        ("top", "lies behind the disk, and no medium of the plan has it"),
    ],
)
def test_what_is_not_what_the_plan_says_is_refused(disk: tuple[Path, Path, Path], tmp_path: Path, change: str, word: str) -> None:
    layers, left = chain(disk[2]), disk
    if change == "another":
        shutil.copy(disk[0], tmp_path / "copy")
        os.replace(tmp_path / "copy", disk[0])
    elif change == "gone":
        disk[0].unlink()
        left = disk[1:]
    elif change == "format":
        with disk[0].open("r+b") as stream:
            stream.write(b"XXXX")
    elif change == "resized":
        tool("qemu-img", "snapshot", "-d", "inside", disk[2])
        tool("qemu-img", "resize", "-q", "-f", "qcow2", disk[2], "+1M")
    elif change == "link":
        os.link(disk[0], tmp_path / "second-name")
    else:
        layers = layers[:2]
    assert word in refused(tmp_path, layers, left)


def test_the_opened_layer_is_the_one_that_was_compared_with_the_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name led to the planned file when it was looked at, and to another one when it was opened."""
    path = raw(tmp_path / "a.raw")
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(path, tmp_path / "elsewhere" / "a.raw")
    layers, real, before = chain(path), volume_chain.facts_of, markers(path)

    def swapped(name: str) -> Result:
        found = real(name)
        os.replace(tmp_path / "elsewhere" / "a.raw", path)
        return found

    monkeypatch.setattr(volume_chain, "facts_of", swapped)
    with pytest.raises(wipe_engine.Refused, match="when it was looked at"):
        volume_layer.Layer(layers[0], 0, bytes(32), False)
    assert markers(path) == before


def test_a_symbolic_link_in_the_place_of_a_layer_leads_nowhere(tmp_path: Path) -> None:
    path, secret = raw(tmp_path / "a.raw"), raw(tmp_path / "secret.raw")
    layers = chain(path)
    path.unlink()
    path.symlink_to(secret)
    refused(tmp_path, layers, (secret,))


@pytest.mark.parametrize("change", [{"size": 1}, {"serial": "vd-" + "0" * 32}, {"kind": "file"}])
def test_an_identity_that_is_not_that_of_the_layers_is_refused(tmp_path: Path, change: Result) -> None:
    layers = chain(raw(tmp_path / "a.raw"))
    said = refused(tmp_path, layers, (tmp_path / "a.raw",), identity={**volume_chain.identity(layers), **change})
    assert "identity is not that of these layers" in said


# --- a wipe that lies


class Lazy(volume_engine.VolumeWipe):  # type: ignore[misc]
    """Says that it has written the second layer, and has not."""

    def write(self, layer: Any, state: Result) -> None:
        if layer.number == 1:
            state.update(phase="verify", canaries=[0])
        else:
            super().write(layer, state)


class Swapped(volume_engine.VolumeWipe):  # type: ignore[misc]
    """Somebody puts another file in the place of the first layer while it is wiped."""

    def verify(self, layer: Any, state: Result) -> None:
        super().verify(layer, state)
        if layer.number == 0:
            os.replace(layer.path, layer.path + ".kept")
            shutil.copy(layer.path + ".kept", layer.path)


class Grown(volume_engine.VolumeWipe):  # type: ignore[misc]
    def verify(self, layer: Any, state: Result) -> None:
        super().verify(layer, state)
        with open(layer.path, "ab") as stream:
            stream.write(b"x" * 8192)


@pytest.mark.parametrize("kind, word", [(Lazy, "do not hold the stream"), (Swapped, "another file now"), (Grown, "its size changed")])
def test_what_was_not_done_is_seen(disk: tuple[Path, Path, Path], tmp_path: Path, kind: type, word: str) -> None:
    layers, folder = chain(disk[2]), tmp_path / "job"
    folder.mkdir()
    result = kind({"layers": layers, "identity": volume_chain.identity(layers), "key": KEY}, str(folder)).run()
    assert result["outcome"] == "failed" and any(word in line for line in result["reasons"]), result["reasons"]


def test_a_verifier_that_sees_nothing_is_no_verifier(
    disk: tuple[Path, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wipe_passes.VerifyPass, "wrong_units", lambda *_arguments: [])
    layers, folder = chain(disk[2]), tmp_path / "job"
    folder.mkdir()
    result = volume_engine.VolumeWipe({"layers": layers, "identity": volume_chain.identity(layers), "key": KEY}, str(folder)).run()
    assert result["outcome"] == "failed" and any("missed" in line for line in result["reasons"])


# --- what is asked for


def test_purge_is_never_quietly_less(disk: tuple[Path, Path, Path], tmp_path: Path) -> None:
    layers = chain(disk[2])
    said = refused(tmp_path, layers, disk, policy={"asked": "purge"})
    assert "reaches logical sanitisation" in said and "There is an order" in said
    done = call(tmp_path, layers, policy={"asked": "purge", "logical": "yes"})
    decision = done["result"]["decision"]
    assert (decision["asked"], decision["chosen"]["class"], done["result"]["classes"]["called"]) == (
        "purge",
        "logical",
        "logical sanitisation",
    )


# --- file systems


def test_shared_blocks_of_a_reflink_are_refused(tmp_path: Path) -> None:
    """XFS shares blocks between copies: overwriting one would leave the other's, and with it the content."""
    with mounted(tmp_path, "xfs", 320, "-q", "-m", "reflink=1") as point:
        path = raw(point / "a.raw")
        tool("cp", "--reflink=always", path, point / "backup.raw")
        said = refused(tmp_path, chain(path), (path, point / "backup.raw"))
        assert "shared with another file" in said
        (point / "backup.raw").unlink()
        result = call(tmp_path, chain(path))["result"]
        assert (result["outcome"], result["layers"][0]["file_system"], markers(path)) == ("sanitised", "xfs", 0)


def test_a_file_that_is_copied_on_write_is_refused_and_one_that_is_not_is_wiped(tmp_path: Path) -> None:
    with mounted(tmp_path, "btrfs", 256, "-q") as point:
        cow = raw(point / "cow.raw")
        assert "copied on write" in refused(tmp_path, chain(cow), (cow,))
        (point / "plain").mkdir()
        tool("chattr", "+C", point / "plain")
        path = raw(point / "plain" / "a.raw")
        os.sync()
        result = call(tmp_path, chain(path))["result"]
        assert (result["outcome"], result["layers"][0]["in_place"], markers(path)) == ("sanitised", "yes", 0)


def test_a_file_system_that_moves_the_blocks_meanwhile_ends_in_failed(tmp_path: Path) -> None:
    """The negative control: a snapshot of the subvolume after the guard makes every write go elsewhere, and the map shows it."""
    with mounted(tmp_path, "btrfs", 256, "-q") as point:
        tool("btrfs", "subvolume", "create", point / "images")
        tool("chattr", "+C", point / "images")
        path = raw(point / "images" / "a.raw")
        os.sync()

        class Snapshotted(volume_engine.VolumeWipe):  # type: ignore[misc]
            def open(self) -> None:
                super().open()
                tool("btrfs", "subvolume", "snapshot", point / "images", point / "kept")

        layers, folder = chain(path), tmp_path / "job"
        folder.mkdir()
        result = Snapshotted({"layers": layers, "identity": volume_chain.identity(layers), "key": KEY}, str(folder)).run()
        assert result["outcome"] == "failed" and any("lies elsewhere" in line for line in result["reasons"]), result["reasons"]
        assert markers(point / "kept" / "a.raw") > 0


def test_memory_and_unknown_file_systems_are_refused(tmp_path: Path) -> None:
    folder = Path("/dev/shm") / f"sunset-volume-{os.getpid()}"
    folder.mkdir()
    try:
        path = raw(folder / "a.raw", 1)
        assert "tmpfs" in refused(tmp_path, chain(path), (path,))
    finally:
        shutil.rmtree(folder)


# --- property: nothing outside the chain is touched


@pytest.mark.parametrize("seed", range(12))
def test_nothing_outside_the_chain_is_ever_touched(tmp_path: Path, seed: int) -> None:
    """Random trees of images; one of them is wiped. Either it was refused and nothing changed, or its own layers alone have changed, and then no
    other image stood on one of them."""
    draw = random.Random(seed)
    folder = tmp_path / "tree"
    folder.mkdir()
    made: list[Path] = []
    for number in range(draw.randint(1, 5)):
        below = draw.choice([None, *range(len(made))])
        path = folder / f"i{number}.qcow2"
        if below is None:
            source = folder / "source.raw"
            source.write_bytes(images.text(0.25))
            tool("qemu-img", "convert", "-f", "raw", "-O", "qcow2", source, path)
        else:
            tool("qemu-img", "create", "-q", "-f", "qcow2", "-b", made[below], "-F", "qcow2", path)
            tool("qemu-io", "-f", "qcow2", "-c", "write -q -P 65 0 64k", path)
        made.append(path)
    chosen = draw.choice(made)
    layers = chain(chosen)
    mine = {layer["path"] for layer in layers}
    before = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    dependent = [path for path in made if str(path) not in mine and mine & {one["path"] for one in chain(path)}]
    job = tmp_path / "job"
    job.mkdir()
    spec = {"layers": layers, "identity": volume_chain.identity(layers), "key": KEY}
    result = volume_engine.VolumeWipe(spec, str(job)).run()
    after = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in before}
    changed = {str(path) for path in before if before[path] != after[path]}
    if dependent:
        assert result["outcome"] == "refused" and not changed
    else:
        assert result["outcome"] == "sanitised" and changed == mine


# --- what travels


def test_the_job_runs_from_what_travels_alone(tmp_path: Path) -> None:
    """Without the collection beside it, as on a host."""
    path, job = raw(tmp_path / "a.raw"), tmp_path / "job"
    job.mkdir()
    layers = chain(path)
    spec = {"layers": layers, "identity": volume_chain.identity(layers), "key": KEY, "directory": str(job)}
    (job / "spec.json").write_text(json.dumps(spec))
    argv = [sys.executable, "-I", "-B", _job.lay(str(job), volume_engine), str(job / "spec.json")]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert wipe_engine.read_json(str(job / "result.json"))["outcome"] == "sanitised"
