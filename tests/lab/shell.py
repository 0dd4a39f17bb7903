# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Running commands and telling about it. Nothing here knows the lab."""

from __future__ import annotations

import fcntl
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")
START = time.monotonic()


class LabError(Exception):
    """Something that a person has to look at; the text says what was found and what to do."""


def say(text: str) -> None:
    print(f"lab [{time.monotonic() - START:5.1f}s] {text}", flush=True)


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """One at a time; the others wait and say so. The kernel lets go of it when the process ends, however it ends."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another command that holds {file}")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@contextmanager
def no_more_lines(ledger: Path) -> Iterator[None]:
    """Meanwhile nobody appends to the ledger: what is under way goes on, but no outcome of it can be written."""
    with open(ledger, "rb") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def run(argv: Sequence[str], *, stdin: bytes | None = None, check: bool = True, timeout: float = 900) -> subprocess.CompletedProcess[bytes]:
    """One command, its output caught; a failure shows the end of what it said."""
    done = subprocess.run(
        list(argv),
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        timeout=timeout,
        check=False,
    )
    if check and done.returncode != 0:
        said = (done.stderr + b"\n" + done.stdout).decode(errors="replace").strip()
        raise LabError(f"{' '.join(argv)[:300]}\nended with {done.returncode}:\n{said[-3000:]}")
    return done


def out(argv: Sequence[str], *, timeout: float = 900) -> str:
    return run(argv, timeout=timeout).stdout.decode().strip()


def together(work: Callable[[T], R], things: Iterable[T]) -> list[R]:
    """The same for several things at once; all are waited for, then the first failure is raised."""
    with ThreadPoolExecutor(max_workers=8) as pool:
        futures = [pool.submit(work, thing) for thing in things]
    return [future.result() for future in futures]


def wait_for(what: str, true: Callable[[], bool], seconds: float = 60, pause: float = 0.1) -> None:
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            raise LabError(f"waited {seconds:.0f} s in vain for: {what}")
        time.sleep(pause)


def die(text: str) -> int:
    print(f"lab: {text}", file=sys.stderr, flush=True)
    return 1
