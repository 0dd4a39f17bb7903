# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A wiped loop device looked at again, from its certificate alone, as an auditor would call it."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.sunset.crm.plugins.module_utils._wipe import judge as wipe_judge, plan as wipe_plan
from ansible_collections.sunset.crm.plugins.plugin_utils.certificates import certificate
from ansible_collections.sunset.crm.plugins.plugin_utils.people import signatures
from tests.integration.loop_media import KEY, MARKER, MIB, Medium, claim, engine, make
from tests.unit.plugins.plugin_utils.certificates.test_certificate import facts

TOP = Path(__file__).resolve().parents[2]


class Desk:
    """A medium that was wiped, its certificate, and somebody who asks."""

    def __init__(self, folder: Path, medium: Medium, **how: Any) -> None:
        self.medium, self.folder, self.key = medium, folder, folder / "run"
        signatures.create_key(self.key, "run")
        self.signers = "run " + self.key.with_suffix(".pub").read_text()
        wipe = engine(medium, folder / "job", **how)
        assert wipe["outcome"] == "sanitised"
        self.paper = self.issue(wipe)

    def issue(self, wipe: dict[str, Any], **more: Any) -> Path:
        given = facts()
        identity = self.medium.identity()
        given["item"]["identity"] = identity
        given["wipe"].update({name: wipe[name] for name in ("verification", "byte_ranges", "error_ranges", "classes", "algorithm")})
        given["wipe"].update(identity=identity, device=self.medium.device, final=wipe.get("final"), **more)
        return certificate.issue(certificate.build_certificate(**given), self.folder / "certificates", self.key)

    def ask(self, device: str = "", **more: Any) -> tuple[int, dict[str, Any]]:
        options = {"certificate": str(self.paper), "device": device or self.medium.device, "allowed_signers": self.signers, **more}
        options = {name: value for name, value in options.items() if value is not None}
        argv = [
            str(Path(sys.executable).parent / "ansible"),
            "localhost",
            "-c",
            "local",
            "-m",
            "sunset.crm.wipe_audit",
            "-a",
            json.dumps(options),
        ]
        environment = {
            **os.environ,
            "ANSIBLE_LOAD_CALLBACK_PLUGINS": "1",
            "ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.oneline",
            "ANSIBLE_NOCOLOR": "1",
        }
        done = subprocess.run(argv, cwd=TOP, env=environment, check=False, capture_output=True, text=True)
        assert " => {" in done.stdout, done.stdout + done.stderr
        answer: dict[str, Any] = json.loads(done.stdout[done.stdout.index(" => ") + 4 :])
        assert not answer.get("changed")
        return done.returncode, answer

    def patch(self, offset: int, data: bytes) -> None:
        with self.medium.file.open("r+b") as stream:
            stream.seek(offset)
            stream.write(data)
            os.fsync(stream.fileno())


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    medium = make(tmp_path / "disk.img").attach()
    yield Desk(tmp_path, medium)
    medium.detach()


def test_as_it_was_left(desk: Desk) -> None:
    before = hashlib.sha256(desk.medium.content()).hexdigest()
    code, seen = desk.ask()
    assert (code, seen["verdict"], seen["signer"], seen["differing"]) == (0, "same", "run", 0)
    assert 0.1 <= seen["plan"]["share"] <= 1.0 and seen["bytes_read"] == seen["plan"]["bytes"]
    code, full = desk.ask(verify="full")
    assert (code, full["verdict"], full["bytes_read"]) == (0, "same", 16 * MIB)
    assert desk.ask()[1]["plan"]["seed"] != seen["plan"]["seed"], "a new choice each time"
    assert hashlib.sha256(desk.medium.content()).hexdigest() == before


def test_one_place_was_written(desk: Desk) -> None:
    desk.patch(5 * MIB + 77, b"x")
    code, seen = desk.ask(verify="full")
    assert code != 0 and seen["verdict"] == "changed" and seen["differing_ranges"] == [[5 * MIB, 5 * MIB + 4096]]
    assert "1 of 4096 places differ" in seen["msg"]


def test_it_was_used_again(desk: Desk) -> None:
    claim(["mke2fs", "-q", "-F", desk.medium.device])
    code, seen = desk.ask(verify="full")
    assert code != 0 and seen["verdict"] == "reused" and seen["sign"] == "a signature of ext2"
    desk.patch(0, bytes(16 * MIB))
    code, seen = desk.ask()
    assert code != 0 and seen["verdict"] == "reused" and seen["differing"] == seen["places"]


def test_zeros_at_the_end_by_choice(tmp_path: Path) -> None:
    medium = make(tmp_path / "disk.img").attach()
    try:
        desk = Desk(tmp_path, medium, final="zeros")
        assert medium.content() == bytes(16 * MIB)
        assert desk.ask(verify="full")[1]["verdict"] == "same"
        desk.patch(16 * MIB - 1, b"x")
        assert desk.ask(verify="full")[1]["verdict"] == "changed"
    finally:
        medium.detach()


def test_a_purge_can_only_be_contradicted(tmp_path: Path) -> None:
    medium = make(tmp_path / "disk.img").attach()
    try:
        desk = Desk(tmp_path, medium)
        paper = json.loads(desk.paper.read_bytes())
        paper["sanitisation"].update(technique_id="nvme-format-ses1", firmware={"trail": [{"log": "00"}]})
        desk.paper = certificate.issue(paper, tmp_path / "purged", desk.key)
        code, seen = desk.ask(verify="full")
        assert code != 0 and seen["verdict"] == "contradicted" and "Have it destroyed" in seen["msg"]
        desk.patch(0, bytes(16 * MIB))
        code, seen = desk.ask(verify="full")
        assert code == 0 and seen["verdict"] == "not contradicted"
        stream = make(tmp_path / "second.img").attach()
        stream.detach()
    finally:
        medium.detach()


def test_after_a_purge_the_places_are_looked_at_where_keyed_blocks_lay(tmp_path: Path) -> None:
    """They lay at a tenth of it, by the certificate's own seed; at other places nothing could be left."""
    medium, seed = make(tmp_path / "disk.img").attach(), "5" * 64
    try:
        desk = Desk(tmp_path, medium)
        paper = json.loads(desk.paper.read_bytes())
        paper["sanitisation"].update(technique_id="nvme-format-ses1", firmware={"trail": [{"log": "00"}]})
        paper["verification"].update(mode="sample", plan={"seed": seed})
        desk.paper = certificate.issue(paper, tmp_path / "purged", desk.key)
        wiped, blank = medium.content(), bytearray(16 * MIB)
        start, end = wipe_plan.pieces(16 * MIB, seed)[400]
        blank[start:end] = wiped[start:end]
        desk.patch(0, bytes(blank))
        code, seen = desk.ask()
        assert code != 0 and seen["verdict"] == "contradicted" and seen["plan"]["seed"] == seed, seen
        desk.patch(start, bytes(end - start))
        assert desk.ask()[1]["verdict"] == "not contradicted"
    finally:
        medium.detach()


def test_another_medium_and_none(desk: Desk, tmp_path: Path) -> None:
    other = make(tmp_path / "other.img").attach()
    try:
        code, seen = desk.ask(other.device)
        assert code != 0 and seen["verdict"] == "another medium" and "bytes_read" not in seen
    finally:
        other.detach()
    code, seen = desk.ask("/dev/nothing-here")
    assert code != 0 and seen["verdict"] == "unknown" and "No such file" in seen["msg"]


def test_the_certificate_is_judged_before_the_medium_is_read(desk: Desk, tmp_path: Path) -> None:
    code, seen = desk.ask(allowed_signers=None)
    assert code != 0 and seen["verdict"] == "same" and "whose signature counts" in seen["msg"]
    signatures.create_key(tmp_path / "stranger", "stranger")
    for signers in (
        "run " + (tmp_path / "stranger.pub").read_text(),
        f'run namespaces="{signatures.PACKAGE}" ' + desk.key.with_suffix(".pub").read_text(),
    ):
        code, seen = desk.ask(allowed_signers=signers)
        assert code != 0 and seen["verdict"] == "unknown" and "found" not in seen
    data = desk.paper.read_bytes()
    desk.paper.write_bytes(data.replace(KEY.encode(), KEY[::-1].encode()))
    assert desk.ask()[1]["verdict"] == "unknown"
    desk.paper.write_bytes(b"{}")
    assert "is no certificate of this kind" in desk.ask()[1]["msg"]
    assert "not the task's to choose" in desk.ask(facts={"key": KEY})[1]["msg"]


def test_the_words_for_bad_places() -> None:
    from ansible_collections.sunset.crm.plugins.module_utils._wipe.audit import verdict, within

    assert verdict("stream", [], 0, 0, 3, 100, "") == (
        "same",
        "every place looked at is as it was left, but for the bad places of the certificate",
    )
    assert verdict("stream", [], 1, 0, 3, 100, "")[0] == "changed"
    assert verdict("stream", [], 0, 0, 1, 100, "")[0] == "same" and verdict("stream", [], 0, 1, 0, 100, "")[0] == "unknown"
    assert verdict("gone", [], 1, 0, 1, 100, "")[0] == "contradicted"
    assert verdict("zeros", [], 0, 0, 0, 0, "")[0] == "unknown"
    assert within({0, 4096, 8192}, [[4096, 8192]]) == {4096} and wipe_judge.UNIT == 4096


def test_a_bad_place_that_cannot_be_read_excuses_no_other_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The certificate lists two bad places, which answer EIO today as they did then; two others were written since."""
    from ansible_collections.sunset.crm.plugins.module_utils._wipe import audit as wipe_audit, stream as wipe_stream

    medium = make(tmp_path / "disk.img").attach()
    try:
        assert engine(medium, tmp_path / "job")["outcome"] == "sanitised"
        bad, real = [[4 * MIB, 4 * MIB + 8192]], wipe_stream.DirectIO._all

        def failing(self: Any, function: Any, fd: int, buffer: Any, offset: int, size: int, start: int) -> None:
            if offset < bad[0][1] and bad[0][0] < offset + size:
                raise OSError(errno.EIO, "Input/output error")
            real(self, function, fd, buffer, offset, size, start)

        monkeypatch.setattr(wipe_stream.DirectIO, "_all", failing)
        look = lambda: wipe_audit.audit(medium.device, medium.identity(), bytes.fromhex(KEY), "stream", bad, None)  # noqa: E731
        assert (look()["verdict"], look()["unreadable"]) == ("same", 2)
        with open(medium.device, "r+b", buffering=0) as stream:
            for place in (9 * MIB, 11 * MIB):
                stream.seek(place)
                stream.write(MARKER * 10)
            os.fsync(stream.fileno())
        seen = look()
        assert seen["verdict"] == "changed" and seen["differing"] == 2, seen
    finally:
        medium.detach()
