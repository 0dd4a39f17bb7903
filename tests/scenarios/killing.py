# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A run whose controller is killed in the middle, and the same command line again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from tests.lab import paths as lab
from tests.lab.shell import LabError, no_more_lines, say, wait_for

from .base import Scenario

MOLECULE = lab.TOP / "extensions/molecule"
PLAYBOOK = Path(sys.executable).parent / "ansible-playbook"


def argv(scenario: Scenario, *extra: str) -> list[str]:
    inventory = str(MOLECULE / "inventory.py")
    play = str(MOLECULE / scenario.name / "converge.yml")
    return [str(PLAYBOOK), "-i", inventory, "-e", "molecule_part=torn", *scenario.moment.both, *extra, play]


def _parents() -> dict[int, int]:
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text(errors="replace").rpartition(")")[2].split()
        except OSError:
            continue
        found[int(stat.parent.name)] = int(fields[1])
    return found


def _children(root: int) -> list[int]:
    """Its descendants now, whatever sessions they have made for themselves."""
    parents, found, frontier = _parents(), [], [root]
    while frontier:
        parent = frontier.pop()
        below = [pid for pid, above in parents.items() if above == parent]
        found += below
        frontier += below
    return found


def _kill_tree(root: int) -> None:
    """As when the machine loses its power: the controller first, then its workers, which would finish and record otherwise."""
    below = _children(root)
    os.kill(root, signal.SIGKILL)
    for pid in below:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def _reached(scenario: Scenario, log: Path) -> Callable[[], bool]:
    moment = scenario.moment
    if moment.text:
        return lambda: moment.text in log.read_text(errors="replace")
    return lambda: f"{moment.item} {moment.aspect}" in scenario.book()["interrupted"]


def kill(scenario: Scenario) -> None:
    """Kill a run on the part that is called torn; see that it was in the middle; run the same again to its end."""
    log = scenario.folder / "killed.log"
    reached = _reached(scenario, log)
    with log.open("wb") as stream, ExitStack() as held:
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        process = subprocess.Popen(
            argv(scenario, *scenario.moment.extra), stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, env=environment
        )
        try:
            wait_for("the moment to kill the run", lambda: reached() or process.poll() is not None, 120, 0.02)
            if scenario.moment.item:
                held.enter_context(no_more_lines(scenario.estate / "ledger.jsonl"))
            time.sleep(scenario.moment.seconds)
        finally:
            ended = process.poll()
            if ended is None:
                _kill_tree(process.pid)
            process.wait()
    if ended is not None or not reached():
        raise LabError(f"the run was to be killed in the middle, but it had ended ({ended}); see {log}:\n{log.read_text()[-3000:]}")
    say(f"killed {scenario.moment.seconds} s into {scenario.moment.item or scenario.moment.text} {scenario.moment.aspect}")
    time.sleep(0.5)  # less than a person needs to type the command again
    done = subprocess.run(argv(scenario), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    text = done.stdout.decode(errors="replace")
    (scenario.folder / "again.log").write_text(text)
    if done.returncode != 0:
        raise LabError(f"the same command after the kill ended with {done.returncode}:\n{text[-6000:]}")
    say("the same command again ended well")
