# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What runs on a host though its engine calls it ended: the kernel's processes, by what they carry of a guest.

An engine keeps its notes on what runs in /run or /tmp. Where they were lost (a clean-up, another daemon, a restored host) it calls every
guest ended that still runs. So a guest is off when its engine says so and no process of it is there.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterable

from ansible_collections.sunset.crm.plugins.plugin_utils import relay

# (whether the host shows the processes of others, guest -> its processes)
Found = tuple[bool, dict[str, list[int]]]
# Each process of which a file of /proc matches, with its state and name. /proc/1 is missing where others are hidden.
LINE = (
    "printf %s {marker}; echo; test -e /proc/1/{file} && {{ grep -aE x /dev/null; test $? -eq 1; }} && echo seen; grep -aHE -m 1 -e {keys} /proc/[0-9]*/{file} 2>/dev/null | tr '\\000' ' ' | "
    "while read -r line; do pid=${{line#/proc/}}; pid=${{pid%%/*}}; "
    'echo "$pid $(sed -n "s/^State:[[:space:]]*//p" "/proc/$pid/status" 2>/dev/null | cut -c 1) $(cat "/proc/$pid/comm" 2>/dev/null | tr " " _) $line"; '
    "done; true"
)
AT_ONCE = 500
LINGER = 1.0  # seconds that the last process of a guest may need to go
QEMU = ("qemu", "kvm")


def _rows(answer: str) -> list[tuple[int, str, str]]:
    """(process, its name, the rest) of those that are no zombies."""
    found = []
    for line in answer.splitlines():
        parts = line.split(" ", 3)
        if len(parts) == 4 and parts[0].isdigit() and parts[1] not in ("", "Z", "X"):
            found.append((int(parts[0]), parts[2], parts[3]))
    return found


def of_containers(answer: str, ids: Iterable[str]) -> dict[str, list[int]]:
    """By the control group, which is named after its container. Who only watches over it (conmon) has one of its own beside it. Pure."""
    wanted, found = list(ids), dict[str, list[int]]()
    for pid, _name, group in _rows(answer):
        for key in wanted:
            if key in group and f"conmon-{key}" not in group and f"{key}/conmon" not in group:
                found.setdefault(key, []).append(pid)
    return found


def of_machines(answer: str, ids: Iterable[str]) -> dict[str, list[int]]:
    """By the arguments of QEMU: libvirt gives each guest its own uuid. Pure."""
    wanted, found = list(ids), dict[str, list[int]]()
    for pid, name, argv in _rows(answer):
        for key in wanted:
            if name.startswith(QEMU) and f"-uuid {key}" in argv:
                found.setdefault(key, []).append(pid)
    return found


def _look(reach: relay.Reach, ids: Iterable[str], file: str, judge: Callable[[str, Iterable[str]], dict[str, list[int]]]) -> Found:
    wanted = sorted(set(ids))
    seen, found = True, dict[str, list[int]]()
    for at in range(0, len(wanted), AT_ONCE):
        part = wanted[at : at + AT_ONCE]
        line = LINE.format(marker=shlex.quote(relay.MARKER.decode().rstrip()), keys=shlex.quote("|".join(part)), file=file)
        for last in (False, True):
            answer = relay.call(reach, line, timeout=60).decode("utf-8", "replace")
            there = judge(answer, part)
            if last or not there:
                break
            time.sleep(LINGER)
        seen = seen and "seen" in answer.split()
        found |= there
    return seen, found


def containers(reach: relay.Reach, ids: Iterable[str]) -> Found:
    return _look(reach, ids, "cgroup", of_containers)


def machines(reach: relay.Reach, ids: Iterable[str]) -> Found:
    return _look(reach, ids, "cmdline", of_machines)


def words(said: str, pids: Iterable[int]) -> str:
    """Why a guest is left alone that runs out of its engine's sight."""
    shown = ", ".join(str(pid) for pid in list(pids)[:5])
    return (
        f"it is called {said}, and processes of it run on the host (pid {shown}): its engine has lost sight of it. End them on the host, "
        "then run the same command again"
    )
