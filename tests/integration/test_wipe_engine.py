# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The wipe job itself on real block devices: kills, lies, faults, other Pythons."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.sunset.crm.plugins.module_utils import _job
from ansible_collections.sunset.crm.plugins.module_utils._disk import device as disk_device
from ansible_collections.sunset.crm.plugins.module_utils._wipe import engine as wipe_engine, passes as wipe_passes, stream as wipe_stream
from tests.integration.loop_media import (
    MARKER,
    MIB,
    Medium,
    a_medium as _medium,  # noqa: F401
    call_wipe as _wipe,  # noqa: F401
    engine,
    make,
    spec_of,
    stock_tools_say_wiped,
)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="loop devices need root")


class Killed(BaseException):
    """Stands for a kill: nothing of the job runs after it."""


def test_what_a_checkpoint_claims_is_not_believed(medium: Medium, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk whose write cache was lost: the checkpoint says 12 MiB, the last 3 of them are not there."""
    monkeypatch.setattr(wipe_engine, "PROGRESS_SECONDS", 0.02)
    folder, reached, real = tmp_path / "job", threading.Event(), wipe_passes.WritePass.block

    def waiting(self: Any, worker: Any, offset: int) -> None:
        if offset >= 12 * MIB:
            assert reached.wait(120)
        real(self, worker, offset)

    class Dying(wipe_engine.Wipe):
        def save(self, **changes: Any) -> None:
            super().save(**changes)
            if changes.get("offset") == 12 * MIB:
                reached.set()
                raise Killed

    monkeypatch.setattr(wipe_passes.WritePass, "block", waiting)
    with pytest.raises(Killed):
        engine(medium, folder, Dying, checkpoint_seconds=0.01)
    state = json.loads((folder / "state.json").read_text())
    assert (state["phase"], state["offset"]) == ("write", 12 * MIB)
    with open(medium.device, "r+b", buffering=0) as stream:
        stream.seek(9 * MIB)
        stream.write(MARKER * 2000)
        os.fsync(stream.fileno())
    result = engine(medium, folder)
    assert result["outcome"] == "sanitised" and result["sessions"][1]["resumed_from"] == 9 * MIB
    assert stock_tools_say_wiped(medium) and MARKER not in medium.content()


@pytest.mark.parametrize("phase", ["verify", "canaries", "verified"])
def test_killed_in_a_later_phase(medium: Medium, tmp_path: Path, phase: str) -> None:
    class Dying(wipe_engine.Wipe):
        def save(self, **changes: Any) -> None:
            super().save(**changes)
            if changes.get("phase") == phase:
                raise Killed

    with pytest.raises(Killed):
        engine(medium, tmp_path / "job", Dying)
    result = engine(medium, tmp_path / "job")
    assert result["outcome"] == "sanitised" and stock_tools_say_wiped(medium)


def test_places_left_out_for_a_full_look_are_not_forgotten_when_a_sample_is_asked_for_instead(medium: Medium, tmp_path: Path) -> None:
    """Killed in the pass of one wipe, gone on with under a plan that asks for less: its canaries hold what was there before."""

    class Dying(wipe_engine.Wipe):
        def verify(self) -> None:
            raise Killed

    with pytest.raises(Killed):
        engine(medium, tmp_path / "job", Dying, verify="full")
    assert MARKER in medium.content()  # the places that were left out
    result = engine(medium, tmp_path / "job", verify="sample")
    assert result["outcome"] == "sanitised" and MARKER not in medium.content() and stock_tools_say_wiped(medium)


def test_a_name_that_leads_elsewhere_between_look_and_open_is_refused(
    medium: Medium, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who uses the device was asked of another one, and a waiver lets this one go without a name of its own."""
    real, before = disk_device.identify, medium.content()
    monkeypatch.setattr(
        disk_device, "identify", lambda target: {**real(target), "number": "7:99"} if isinstance(target, str) else real(target)
    )
    result = engine(medium, tmp_path / "job", identity={"size": medium.identity()["size"]}, waiver="c" * 64)
    assert result["outcome"] == "refused" and "when its users were looked for" in result["reasons"][0], result
    assert medium.content() == before


def test_the_zeros_at_the_end_do_not_stand_for_a_pass_that_was_not_made(
    medium: Medium, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer leaves a quarter out, and a verifier that lies finds nothing: what the kernel has counted still tells."""
    real = wipe_passes.WritePass.block

    def lazy(self: Any, worker: Any, offset: int) -> None:
        if type(self) is not wipe_passes.WritePass or offset % (4 * MIB):
            real(self, worker, offset)

    def honest(canaries: Any, mismatched: Any, *more: Any) -> Any:
        return judge(canaries, canaries, *more)

    judge = wipe_engine.wipe_judge.judge_verification
    monkeypatch.setattr(wipe_passes.WritePass, "block", lazy)
    monkeypatch.setattr(wipe_engine.wipe_judge, "judge_verification", honest)
    result = engine(medium, tmp_path / "job", final="zeros")
    assert result["outcome"] == "failed" and result["accounting"]["written"]["verdict"] == "no", result


@pytest.mark.parametrize("phase", ["canaries", "verified", "ended"])
@pytest.mark.parametrize("verify", ["full", "sample"])
def test_what_was_verified_before_a_kill_is_read_again_after_it(medium: Medium, tmp_path: Path, phase: str, verify: str) -> None:
    """Nobody claimed the device between the two sessions, and somebody has written to it."""

    class Dying(wipe_engine.Wipe):
        def save(self, **changes: Any) -> None:
            super().save(**changes)
            if changes.get("phase") == phase:
                raise Killed

        def result(self) -> dict[str, Any]:
            super().result()
            raise Killed

    with pytest.raises(Killed):
        engine(medium, tmp_path / "job", Dying, verify=verify)
    with open(medium.device, "r+b", buffering=0) as stream:
        stream.seek(5 * MIB)
        stream.write((MARKER * 400000)[: 10 * MIB])
        os.fsync(stream.fileno())
    result = engine(medium, tmp_path / "job", verify=verify)
    assert result["outcome"] == "failed" and any("do not hold the stream" in line for line in result["reasons"]), result
    assert engine(medium, tmp_path / "job", verify=verify)["outcome"] == "sanitised" and stock_tools_say_wiped(medium)


def test_a_torn_state_file_means_a_whole_new_pass(medium: Medium, tmp_path: Path) -> None:
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "state.json").write_text('{"offset": 163')
    assert engine(medium, tmp_path / "job")["outcome"] == "sanitised" and stock_tools_say_wiped(medium)


def test_a_device_that_shrinks_under_the_job_is_not_wiped(medium: Medium, tmp_path: Path) -> None:
    class Shrinking(wipe_engine.Wipe):
        def save(self, **changes: Any) -> None:
            super().save(**changes)
            if changes.get("phase") == "write":
                os.truncate(medium.file, 8 * MIB)
                subprocess.run(["losetup", "--set-capacity", medium.device], check=True)

    result = engine(medium, tmp_path / "job", Shrinking)
    assert result["outcome"] == "failed" and result["reasons"], result


def test_a_device_that_changes_between_the_passes_is_not_wiped(medium: Medium, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = disk_device.identify

    class Changing(wipe_engine.Wipe):
        def flush(self) -> None:
            super().flush()
            monkeypatch.setattr(disk_device, "identify", lambda target: {**real(target), "inode": 1})

    result = engine(medium, tmp_path / "job", Changing)
    assert result["outcome"] == "failed" and "changed under the job" in result["reasons"][0]


def test_nobody_can_claim_the_device_while_it_is_wiped(medium: Medium, tmp_path: Path) -> None:
    class Watched(wipe_engine.Wipe):
        def verify(self) -> None:
            with pytest.raises(OSError, match="busy"):
                os.open(medium.device, os.O_RDONLY | os.O_EXCL)
            super().verify()

    assert engine(medium, tmp_path / "job", Watched)["outcome"] == "sanitised"


def test_one_flipped_byte_fails_the_wipe(medium: Medium, tmp_path: Path) -> None:
    class Flipping(wipe_engine.Wipe):
        def verify(self) -> None:
            place = 10 * MIB + 123
            while place // 4096 * 4096 in self.state["canaries"]:
                place += 4096
            with open(medium.device, "r+b", buffering=0) as stream:
                stream.seek(place)
                byte = stream.read(1)
                stream.seek(place)
                stream.write(bytes([byte[0] ^ 1]))
                os.fsync(stream.fileno())
            super().verify()

    result = engine(medium, tmp_path / "job", Flipping)
    assert result["outcome"] == "failed" and result["verification"]["mismatches"] == 1
    assert result["verification"]["mismatch_ranges"][0][0] // MIB == 10


def test_a_verifier_that_does_not_look_fails_the_wipe(medium: Medium, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def blind(self: Any, worker: Any, offset: int) -> None:
        self.bytes_read += min(wipe_passes.BLOCK, self.size - offset)

    monkeypatch.setattr(wipe_passes.VerifyPass, "block", blind)
    result = engine(medium, tmp_path / "job", workers=1)
    assert result["outcome"] == "failed"
    assert any("missed 16 of 16 canaries" in line for line in result["reasons"])
    assert result["accounting"]["read"]["verdict"] == "no"


def test_a_verifier_that_looks_at_another_device_fails_the_wipe(medium: Medium, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "other").mkdir()
    other = make(tmp_path / "other" / "x.img").attach()
    try:
        assert engine(other, tmp_path / "first")["outcome"] == "sanitised"
        stray = os.open(other.device, os.O_RDONLY | os.O_DIRECT)
        real = wipe_passes.VerifyPass.worker

        def misled(self: Any) -> Any:
            self.fd = stray
            return real(self)

        monkeypatch.setattr(wipe_passes.VerifyPass, "worker", misled)
        result = engine(medium, tmp_path / "job")
        os.close(stray)
    finally:
        other.detach()
    assert result["outcome"] == "failed" and any("canaries" in line for line in result["reasons"])


def test_a_writer_that_writes_less_fails_the_wipe(medium: Medium, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = wipe_passes.WritePass.block

    def lazy(self: Any, worker: Any, offset: int) -> None:
        if offset != 5 * MIB:
            real(self, worker, offset)

    monkeypatch.setattr(wipe_passes.WritePass, "block", lazy)
    result = engine(medium, tmp_path / "job")
    assert result["outcome"] == "failed" and result["accounting"]["written"]["verdict"] == "no"


def test_wiped_twice_with_one_key_still_has_canaries(medium: Medium, tmp_path: Path) -> None:
    assert engine(medium, tmp_path / "one")["outcome"] == "sanitised"
    result = engine(medium, tmp_path / "two")
    assert result["outcome"] == "sanitised" and result["verification"]["canaries_planted"] == 16


def test_bad_places_end_with_exceptions(medium: Medium, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, bad = wipe_stream.DirectIO._all, {7 * MIB + 8192, 7 * MIB + 12288}

    def failing(self: Any, function: Any, fd: int, buffer: Any, offset: int, size: int, start: int) -> None:
        if any(offset <= place < offset + size for place in bad):
            raise OSError(errno.EIO, "Input/output error")
        real(self, function, fd, buffer, offset, size, start)

    monkeypatch.setattr(wipe_stream.DirectIO, "_all", failing)
    result = engine(medium, tmp_path / "job")
    assert result["outcome"] == "sanitised_with_exceptions"
    assert result["error_ranges"] == [[7 * MIB + 8192, 7 * MIB + 16384]]
    assert any("destroy the medium" in line for line in result["exceptions"])


def interpreters() -> list[str]:
    """The oldest Python that is promised, wherever it lies, and the system's own."""
    names = [str(path) for path in Path.home().glob(".pyenv/versions/3.6*/bin/python")]
    names += [f"{folder}/python3.6" for folder in os.environ.get("PATH", "").split(":") if os.access(f"{folder}/python3.6", os.X_OK)]
    return names[:1] + [path for path in ("/usr/bin/python3", "/usr/libexec/platform-python") if os.access(path, os.X_OK)]


@pytest.mark.parametrize("python", interpreters())
def test_the_job_alone_under_other_pythons(medium: Medium, tmp_path: Path, python: str) -> None:
    folder = tmp_path / "job"
    folder.mkdir()
    (folder / "spec.json").write_text(json.dumps(spec_of(medium)))
    argv = [python, "-B", "-I", _job.lay(str(folder), wipe_engine), str(folder / "spec.json")]
    process = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False, cwd="/")
    assert process.returncode == 0, process.stderr + (folder / "result.json").read_text()
    result = json.loads((folder / "result.json").read_text())
    assert result["outcome"] == "sanitised" and stock_tools_say_wiped(medium)
