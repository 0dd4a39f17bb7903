# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Starting the collection's playbooks on the lab, killing them, and reading the ledger that they leave."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.lab import demo, paths, persons

HERE = Path(__file__).resolve().parent
CLASSIFIED = ("-e", demo.CLASSIFIED)
CLOCK = "%Y-%m-%dT%H:%M:%S"


def wave(name: str) -> tuple[str, str]:
    return "-e", f"sunset_wave_wanted={name}"


@dataclass(frozen=True)
class Done:
    """How a playbook ended."""

    rc: int
    seconds: float
    text: str

    @property
    def flat(self) -> str:
        """What it said, without the line breaks that YAML folds messages at."""
        return re.sub(r"\s+", " ", self.text)

    def recap(self) -> dict[str, dict[str, int]]:
        """Host -> ok, changed, unreachable, failed, ..."""
        rows = re.findall(r"^(\S+)\s+: (ok=.*)$", self.text.partition("PLAY RECAP")[2], re.M)
        return {host: {name: int(count) for name, count in re.findall(r"(\w+)=(\d+)", counts)} for host, counts in rows}

    def total(self, name: str) -> int:
        return sum(counts[name] for counts in self.recap().values())

    def well(self) -> Done:
        """Itself, if it ended with 0; else an assertion that shows the end of what it said."""
        assert self.rc == 0, self.text[-6000:]
        return self

    def refused(self, *named: str) -> Done:
        """Itself, if it failed and named each of these; what only failed by a traceback is no refusal."""
        assert self.rc != 0, f"it ended with 0:\n{self.text[-3000:]}"
        assert "Traceback" not in self.text, self.text[-6000:]
        lacking = [name for name in named if name not in self.flat]
        assert not lacking, f"not named: {lacking}\n{self.text[-6000:]}"
        return self


class Play:
    """One ansible-playbook that runs. `play("shutdown").wait()` is the plain way; kill() is what a crash test does."""

    def __init__(self, name: str, *arguments: str) -> None:
        book = name if name.endswith(".yml") else f"playbooks/{name}.yml"
        argv = [str(demo.PLAYBOOK), *demo.INVENTORIES, "-e", f"sunset_confirm={persons.NAME}", book, *arguments]
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        self.begun = time.monotonic()
        self.process = subprocess.Popen(
            argv,
            cwd=paths.TOP,
            env={name: value for name, value in demo.environment().items() if name != "PYTHONUNBUFFERED"},
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def text(self) -> str:
        # Not seek(): the file's position is shared with the process that writes.
        return os.pread(self._log.fileno(), 1 << 26, 0).decode(errors="replace")

    def wait(self, seconds: float = 420) -> Done:
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            said = self.text()
            self.kill()
            raise AssertionError(f"no end within {seconds:.0f} s:\n{said[-6000:]}") from None
        return Done(self.process.returncode, time.monotonic() - self.begun, self.text())

    def until(self, what: str, true: Callable[[], Any], seconds: float = 240) -> Any:
        """Wait, while it runs, for something to be true; returns it."""
        end = time.monotonic() + seconds
        while not (found := true()):
            assert self.process.poll() is None, f"it ended before {what}:\n{self.text()[-6000:]}"
            if time.monotonic() > end:
                said = self.text()
                self.kill()
                raise AssertionError(f"waited {seconds:.0f} s in vain for {what}:\n{said[-4000:]}")
            time.sleep(0.02)
        return found

    def kill(self, *, workers: bool = True) -> None:
        """kill -9 of the controller; with its workers and their ssh clients, or of the main process alone."""
        family = [self.process.pid, *(_descendants(self.process.pid) if workers else [])]
        for pid in family:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(30)


def _descendants(pid: int) -> list[int]:
    """All children and theirs. A process group is not enough: workers begin sessions of their own."""
    parents: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError):
                parent = int((folder / "stat").read_text(errors="replace").rpartition(")")[2].split()[1])
                parents.setdefault(parent, []).append(int(folder.name))
    found, waiting = [], [pid]
    while waiting:
        children = parents.get(waiting.pop(), [])
        found += children
        waiting += children
    return found


def play(name: str, *arguments: str) -> Done:
    return Play(name, *arguments).wait()


class Ledger:
    """The estate's ledger as a reader sees it, line by line; the chain is the auditor's business."""

    def __init__(self, folder: Path = paths.ESTATE) -> None:
        self.file = folder / "ledger.jsonl"

    def lines(self) -> list[bytes]:
        whole = self.file.read_bytes() if self.file.exists() else b""
        return whole[: whole.rfind(b"\n") + 1].splitlines()

    def entries(self) -> list[dict[str, Any]]:
        return [{**json.loads(line), "hash": hashlib.sha256(line).hexdigest()} for line in self.lines()]

    def find(self, kind: str, **wanted: Any) -> list[dict[str, Any]]:
        return [entry for entry in self.entries() if entry["kind"] == kind and all(entry.get(k) == v for k, v in wanted.items())]

    def has(self, kind: str, **wanted: Any) -> Callable[[], list[dict[str, Any]]]:
        return lambda: self.find(kind, **wanted)

    def interrupted(self) -> list[tuple[str, str]]:
        """(item, aspect) of each intent that has no outcome."""
        ended = {entry["intent"] for entry in self.find("outcome")}
        return [(entry["item"], entry["aspect"]) for entry in self.find("intent") if entry["hash"] not in ended]

    def dumps(self, item: str) -> list[str]:
        """The names of the dumps of one data set that were brought to an end, in order."""
        done = self.find("outcome", item=item, aspect="dump", status="done")
        return [entry["evidence"]["result"]["dump_id"] for entry in done]

    def acts(self, since: int = 0) -> Iterator[dict[str, Any]]:
        """Lines from number `since` on that speak of an act, not of a run that came and went."""
        return (entry for entry in self.entries()[since:] if entry["kind"] not in ("run",))


LEDGER = Ledger()
