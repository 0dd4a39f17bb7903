# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files of /etc/cron.d: set aside under a name that cron ignores, and put back byte for byte.

Private to the collection; it may change at any time. Valid for Python 3.6.
"""

import hashlib
import os
import re
import shlex
import time
from typing import Any, Dict, List, Optional, Tuple

from ansible_collections.sunset.crm.plugins.module_utils._service import proc as service_proc
from ansible_collections.sunset.crm.plugins.module_utils._service.units import sync_directory

# Debian's cron skips names with any dot, cronie only those that begin with one (it would read "crm.sunset-frozen"):
# the leading dot is what both skip.
FROZEN_SUFFIX = ".sunset-frozen"
ASSIGNMENT = re.compile(r"^[A-Za-z_][A-Za-z0-9_]*\s*=")


# --- pure ------------------------------------------------------------------------------------------------------------


def frozen_name(path: str) -> str:
    return os.path.join(os.path.dirname(path), "." + os.path.basename(path) + FROZEN_SUFFIX)


def thawed_name(path: str) -> Optional[str]:
    """The name a frozen file had; None if this is no frozen file."""
    name = os.path.basename(path)
    if name.startswith(".") and name.endswith(FROZEN_SUFFIX) and len(name) > len(FROZEN_SUFFIX) + 1:
        return os.path.join(os.path.dirname(path), name[1 : -len(FROZEN_SUFFIX)])
    return None


def cron_commands(text: str, with_user: bool = True) -> List[str]:
    """The commands of a crontab, as cron hands them to the shell (what follows a bare % is standard input)."""
    commands = []
    for line in text.splitlines():
        line = line.strip()
        if not line or line.startswith("#") or ASSIGNMENT.match(line):
            continue
        fields = (1 if line.startswith("@") else 5) + (1 if with_user else 0)
        parts = line.split(None, fields)
        if len(parts) > fields:
            commands.append(re.split(r"(?<!\\)%", parts[fields])[0].replace("\\%", "%").strip())
    return commands


def is_run_of(argv: List[str], commands: List[str]) -> bool:
    """Is this command line one of these cron commands at work?

    cron starts SHELL -c COMMAND; newer shells replace themselves by the command when it is a simple one.
    """
    for command in commands:
        if len(argv) >= 3 and argv[1] == "-c" and argv[2].strip() == command:
            return True
        try:
            if argv and argv == shlex.split(command):
                return True
        except ValueError:
            continue
    return False


def file_verdict(path: str, plain: Optional[str], frozen: Optional[str]) -> Tuple[str, str]:
    """(active | frozen | absent | conflict, message) from the digests of the file and of its frozen form."""
    if plain is not None and frozen is not None and plain != frozen:
        return "conflict", (
            "both %s and %s exist and differ: something (a configuration tool, a package) wrote it again after it was "
            "frozen. Stop that, keep the right one under the plain name, remove the other, run again" % (path, frozen_name(path))
        )
    if plain is not None:
        return "active", ""
    if frozen is not None:
        return "frozen", ""
    return "absent", "%s: found neither it nor its frozen form; correct the inventory's sunset_items" % path


# --- the world -------------------------------------------------------------------------------------------------------


def file_digest(path: str) -> Optional[str]:
    """sha256 of a file's bytes, None if there is no such file."""
    try:
        with open(path, "rb") as handle:
            return hashlib.sha256(handle.read()).hexdigest()
    except FileNotFoundError:
        return None


def observe_files(paths: List[str]) -> Dict[str, Dict[str, Any]]:
    """{path: {state, present, sha256}}"""
    found = {}
    for path in paths:
        plain, frozen = file_digest(path), file_digest(frozen_name(path))
        state, message = file_verdict(path, plain, frozen)
        found[path] = {
            "state": state,
            "present": plain is not None,
            "sha256": plain or frozen,
            "message": message,
            # both exist with the same bytes: the frozen one is a leftover
            "leftover": plain is not None and frozen is not None,
        }
    return found


def running_jobs(paths: List[str]) -> List[Dict[str, Any]]:
    """Processes that run a command of these files, frozen or not."""
    commands: List[str] = []
    for path in paths:
        text = service_proc.read_text(path)
        if text is None:
            text = service_proc.read_text(frozen_name(path))
        commands.extend(cron_commands(text or ""))
    if not commands:
        return []
    found = []
    for pid in service_proc.pids():
        argv = service_proc.argv_of(pid)
        if argv and pid != os.getpid() and is_run_of(argv, commands):
            found.append({"pid": pid, "comm": service_proc.command_name(pid)})
    return found


def wait_for_jobs(paths: List[str], timeout: float) -> List[Dict[str, Any]]:
    """Wait for running jobs to end; the ones still there."""
    deadline = time.time() + timeout
    while True:
        jobs = running_jobs(paths)
        if not jobs or time.time() > deadline:
            return jobs
        time.sleep(0.5)


def move(rec: Any, source: str, target: str) -> None:
    os.rename(source, target)
    sync_directory(os.path.dirname(target))
    rec.note(action="rename", path=source, to=target)
