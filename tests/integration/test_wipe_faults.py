# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks with bad places, disks that die, disks with another name, and many at once: real block devices, real EIO."""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.sunset.crm.plugins.module_utils._volume import (
    chain as volume_chain,
    engine as volume_engine,
    extents as volume_extents,
    look as volume_look,
)
from ansible_collections.sunset.crm.plugins.module_utils._wipe import engine as wipe_engine, job as wipe_job, plan as wipe_plan
from tests.integration import faulty_file, volume_images
from tests.integration.loop_media import (
    KEY,
    MARKER,
    MIB,
    Medium,
    a_medium as _medium,  # noqa: F401
    call_wipe as _wipe,  # noqa: F401
    claim,
    engine,
    halted,
    job_folder,
    kill_job,
    make,
    stock_tools_say_wiped,
    wait_for,
)

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="loop devices need root"),
    pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="no FUSE in this kernel"),
]
BAD = [(3 * MIB + 8192, 3 * MIB + 16384), (9 * MIB, 9 * MIB + 4096)]


@contextlib.contextmanager
def over_faults(folder: Path, mib: int, *bad: tuple[int, int]) -> Iterator[Medium]:
    """A loop device over a file that answers EIO at these places. ``medium.file`` is what lies below, readable everywhere."""
    below = make(folder / "below.img", mib)
    (folder / "fuse").mkdir()
    argv = [sys.executable, str(faulty_file.__file__), str(folder / "fuse"), str(below.file), *(f"{start}-{end}" for start, end in bad)]
    process = subprocess.Popen(argv)
    medium = Medium(folder / "fuse" / "medium")
    try:
        deadline = time.monotonic() + 60
        while not medium.file.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        medium.attach()
        medium.file = below.file
        yield medium
    finally:
        medium.detach()
        subprocess.run(["umount", "--lazy", str(folder / "fuse")], check=False)
        # Whoever looks at all loop devices just now keeps the lazily unmounted file system alive.
        process.terminate()
        process.wait(timeout=120)


@pytest.fixture
def faulty(tmp_path: Path) -> Iterator[Medium]:
    with over_faults(tmp_path, 16, *BAD) as medium:
        yield medium


@pytest.mark.parametrize("dies", [False, True])
def test_a_virtual_disk_on_a_disk_with_bad_sectors(tmp_path: Path, dies: bool) -> None:
    """The blocks of an image lie on places that answer EIO: they are listed and owed a destruction, everything else holds the stream."""
    with over_faults(tmp_path, 48) as medium:
        claim(["mkfs.ext4", "-q", "-F", "-b", "4096", medium.device])
        (tmp_path / "mnt").mkdir()
        claim(["mount", medium.device, str(tmp_path / "mnt")])
        try:
            image = volume_images.raw(tmp_path / "mnt" / "a.raw", holes=False)
            os.sync()
            layers = volume_images.chain(image)
            with image.open("rb") as stream:
                rows = volume_extents.places(volume_extents.extents(stream.fileno()))
            wanted = [place // 4096 * 4096 for place in (MIB + 8192, 2 * MIB)]  # in the image
            below = [next(at + place - start for start, at, length in rows if start <= place < start + length) for place in wanted]
            Path(f"{medium.file}.bad").write_text("\n".join(f"{at}-{at + 4096}" for at in below))
            before = [medium.content()[at : at + 4096] for at in below]
            assert all(MARKER in part for part in before)

            class Dying(volume_engine.VolumeWipe):  # type: ignore[misc]
                def verify(self, layer: Any, state: Any) -> None:
                    if dies:
                        Path(f"{medium.file}.bad").write_text(f"0-{medium.file.stat().st_size}")
                    super().verify(layer, state)

            (tmp_path / "job").mkdir()
            spec = {"layers": layers, "identity": volume_chain.identity(layers), "key": KEY}
            result = Dying(spec, str(tmp_path / "job")).run()
            Path(f"{medium.file}.bad").unlink()
            if dies:
                assert result["outcome"] == "failed" and result["reasons"], result
                return
            assert result["outcome"] == "sanitised_with_exceptions", result
            assert result["error_ranges"] == [[place, place + 4096] for place in wanted]
            assert result["verification"]["canaries_found"] > 3
            content = medium.content()
            assert [content[at : at + 4096] for at in below] == before, "what could not be written is still there"
            held = [part for start, at, length in rows for part in [(at, at + min(length, layers[0]["virtual_bytes"] - start))]]
            inside = b"".join(content[start:end] for start, end in held)
            assert inside.count(MARKER) == sum(part.count(MARKER) for part in before) > 0
            assert wipe_job.final_verdict(result) == "no"
            wrong, read, why = volume_look.sample(result, bytes.fromhex(KEY), 2000)
            assert not wrong and not why and len(read) > 100
        finally:
            subprocess.run(["umount", str(tmp_path / "mnt")], check=True)


@pytest.mark.parametrize("verify", ["full", "sample"])
def test_bad_sectors_are_listed_and_everything_else_is_wiped(faulty: Medium, tmp_path: Path, verify: str) -> None:
    result = engine(faulty, tmp_path / "job", verify=verify)
    assert result["outcome"] == "sanitised_with_exceptions", result
    assert result["error_ranges"] == [[start, end] for start, end in BAD]
    assert any("destroy the medium physically" in line for line in result["exceptions"])
    content = faulty.content()
    left = b"".join(content[start:end] for start, end in BAD)
    assert content.count(MARKER) == sum(content[start:end].count(MARKER) for start, end in BAD) > 0
    assert MARKER in left  # what could not be written is still there: so it is no clean result


def test_a_bad_first_sector_is_an_exception_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fresh look at the end knows which places cannot be read, and takes no other answer for them."""
    medium = make(tmp_path / "disk.img").attach()
    try:
        assert engine(medium, tmp_path / "job")["outcome"] == "sanitised"
        with open(medium.device, "r+b", buffering=0) as stream:
            stream.write(MARKER * 150)
            os.fsync(stream.fileno())
        key = bytes.fromhex(KEY)
        assert wipe_engine.sample(medium.device, key)[0] == [0]
        wrong, read = wipe_engine.sample(medium.device, key, leave_out=[[0, 4096]])
        assert wrong == [] and 0 not in read and 16 * MIB - 4096 in read
    finally:
        medium.detach()


def test_a_disk_that_dies_in_the_middle_is_not_wiped(faulty: Medium, tmp_path: Path) -> None:
    class Dying(wipe_engine.Wipe):
        def progress(self, done: int, rate: Any = None, total: Any = None) -> None:
            if done >= 4 * MIB:
                Path(f"{faulty.file}.dead").touch()
            super().progress(done, rate, total)

    result = engine(faulty, tmp_path / "job", Dying, rate=4 * MIB)
    assert result["outcome"] == "failed" and "places cannot be written" in result["reasons"][0]
    Path(f"{faulty.file}.dead").unlink()
    assert engine(faulty, tmp_path / "job")["outcome"] == "sanitised_with_exceptions"  # it answers again: the same call goes on


def test_a_disk_that_dies_while_it_is_read_is_not_wiped(faulty: Medium, tmp_path: Path) -> None:
    class Dying(wipe_engine.Wipe):
        def verify(self) -> None:
            Path(f"{faulty.file}.dead").touch()
            super().verify()

    result = engine(faulty, tmp_path / "job", Dying)
    assert result["outcome"] == "failed" and "places cannot be read" in result["reasons"][0]


def test_a_killed_wipe_goes_on_although_the_disk_has_another_name_now(medium: Medium, wipe: Any, tmp_path: Path) -> None:
    medium.detach()
    was = medium.attach_as("/dev/loop1000").device  # too high for what other tests find free
    with halted(tmp_path):  # however long the call takes: the job begins when it is looked at
        wipe(rate=4 * MIB, wait=0)
    kill_job(job_folder(tmp_path), wait_for(tmp_path, 40)["pid"])
    identity = medium.identity()
    medium.detach()
    (tmp_path / "other").mkdir()
    other = make(tmp_path / "other" / "bystander.img").attach_as(was)
    try:
        assert medium.attach().device != was
        stale = wipe(device=was, identity=identity)
        assert stale["failed"] and "identity" in stale["msg"]
        result = wipe(identity=identity)["result"]
        # The kernel counts for a number, so what was written under the old one is confirmed by the read-back alone: that is said.
        assert result["outcome"] == "sanitised_with_exceptions" and result["sessions"][1]["resumed_from"] > 0
        assert "not confirmed by the kernel" in result["exceptions"][0] and len(result["exceptions"]) == 1
        assert stock_tools_say_wiped(medium) and other.content().count(MARKER) > 1000
    finally:
        other.detach()


def test_killed_at_any_percentage(medium: Medium, tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    offsets = [random.randrange(0, 16 * MIB) for _number in range(6)]
    for offset in sorted(offsets):

        class Dying(wipe_engine.Wipe):
            def progress(self, done: int, rate: Any = None, total: Any = None, stop: int = offset) -> None:
                if done >= stop:
                    raise Killed

        with pytest.raises(Killed):
            engine(medium, tmp_path / "job", Dying)
    assert engine(medium, tmp_path / "job")["outcome"] == "sanitised", offsets
    assert stock_tools_say_wiped(medium) and MARKER not in medium.content()


def opened_cores(tmp_path: Path) -> list[set[str]]:
    """The cores that each job of this state directory has opened."""
    found = []
    for report in (tmp_path / "state").glob("*/progress.json"):
        names = set()
        for descriptor in Path("/proc", str(json.loads(report.read_text())["pid"]), "fd").iterdir():
            with contextlib.suppress(OSError):
                names.add(os.readlink(descriptor))
        found.append({os.path.basename(name) for name in names if name.startswith(f"{tmp_path}/state/.cores/")})
    return found


def test_several_disks_at_once(wipe: Any, tmp_path: Path) -> None:
    disks = []
    try:
        for number in range(3):
            (tmp_path / str(number)).mkdir()
            disks.append(make(tmp_path / str(number) / f"disk{number}.img").attach())
        with halted(tmp_path):  # none ends before the last has begun
            for number, disk in enumerate(disks):
                key = f"{number:x}123456789abcdef" * 4
                started = wipe(device=disk.device, identity=disk.identity(), stream_key=key, wait=0)
                assert started["result"]["state"] == "running"
            deadline, all_of_them = time.monotonic() + 60, {str(number) for number in range(os.cpu_count() or 0)}
            while opened_cores(tmp_path) != [all_of_them] * 3:
                assert time.monotonic() < deadline, "each is bounded by the same cores, as many as this machine has"
                time.sleep(0.05)
        results = [
            wipe(device=disk.device, identity=disk.identity(), stream_key=f"{number:x}123456789abcdef" * 4)["result"]
            for number, disk in enumerate(disks)
        ]
        assert [result["outcome"] for result in results] == ["sanitised"] * 3
        spans = [(result["started"], result["ended"]) for result in results]
        assert max(start for start, _end in spans) <= min(end for _start, end in spans)  # they ran at the same time
        assert len(list((tmp_path / "state" / ".cores").iterdir())) == os.cpu_count()
    finally:
        for disk in disks:
            disk.detach()


# --- sampling, zeros ------------------------------------------------------------------------------------------------------


def test_a_sample_is_drawn_anew_after_the_pass_and_finds_its_canaries(medium: Medium, wipe: Any) -> None:
    first = wipe(verify="sample")
    facts = first["result"]["verification"]
    assert first["result"]["outcome"] == "sanitised" and facts["mode"] == "sample", first
    assert facts["canaries_planted"] == facts["canaries_found"] == facts["canaries_wiped"] > 10
    parts = wipe_plan.pieces(medium.identity()["size"], facts["plan"]["seed"])
    assert facts["bytes_read"] == facts["plan"]["bytes"] == sum(end - start for start, end in parts)
    assert stock_tools_say_wiped(medium)
    assert not wipe(verify="sample")["changed"]
    full = wipe(verify="full")  # more was asked than was done
    assert full["changed"] and full["result"]["verification"]["mode"] == "full"
    assert not wipe(verify="sample")["changed"]  # and less than was done is done


def test_a_sample_finds_a_place_that_was_not_written(medium: Medium, tmp_path: Path) -> None:
    class Spoiling(wipe_engine.Wipe):
        def draw_places(self) -> Any:
            places = super().draw_places()
            # Not where a canary is: that place does not hold the stream on purpose, and is overwritten afterwards.
            left = {place // wipe_engine.UNIT for place in self.state["canaries"]}
            self.spoiled = next(start for start, _end in places.parts[1:] if start // wipe_engine.UNIT not in left)
            with open(medium.device, "r+b", buffering=0) as stream:
                stream.seek(self.spoiled)
                stream.write(MARKER)
                os.fsync(stream.fileno())
            return places

    result = engine(medium, tmp_path / "job", Spoiling, verify="sample")
    assert result["outcome"] == "failed" and any("do not hold the stream" in line for line in result["reasons"])


def test_zeros_by_choice_come_after_the_verification(medium: Medium, wipe: Any) -> None:
    first = wipe(final="zeros")
    result = first["result"]
    assert result["outcome"] == "sanitised" and result["final"]["verdict"] == "yes", first
    assert result["verification"]["verdict"] == "yes" and result["verification"]["mode"] == "full"
    assert set(medium.content()) == {0}
    assert not wipe(final="zeros")["changed"]
    with open(medium.device, "r+b", buffering=0) as stream:
        stream.write(MARKER * 200)
        os.fsync(stream.fileno())
    again = wipe(final="zeros")
    assert again["changed"] and set(medium.content()) == {0}
    assert KEY not in str(again["result"])


@pytest.mark.parametrize("phase", ["zeros", "verified"])
def test_killed_while_the_zeros_are_written(medium: Medium, tmp_path: Path, phase: str) -> None:
    class Killed(BaseException):
        pass

    class Dying(wipe_engine.Wipe):
        def save(self, **changes: Any) -> None:
            super().save(**changes)
            if changes.get("phase") == phase:
                raise Killed

    with pytest.raises(Killed):
        engine(medium, tmp_path / "job", Dying, final="zeros")
    assert engine(medium, tmp_path / "job", final="zeros")["outcome"] == "sanitised" and set(medium.content()) == {0}


def test_zeros_that_were_not_written_are_a_failure(medium: Medium, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = wipe_engine.wipe_passes.ZeroPass.block

    def lazy(self: Any, worker: Any, offset: int) -> None:
        if offset != 5 * MIB:
            real(self, worker, offset)

    monkeypatch.setattr(wipe_engine.wipe_passes.ZeroPass, "block", lazy)
    result = engine(medium, tmp_path / "job", final="zeros")
    assert result["outcome"] == "failed" and any("are not zero" in line for line in result["reasons"])
