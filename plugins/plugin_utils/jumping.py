# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Through which machines Ansible reaches the others: the connection settings of the inventory and of ssh itself, as ssh reads them."""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
from collections.abc import Mapping
from typing import Any

from ansible_collections.sunset.crm.plugins.plugin_utils.standing import jumps

SETTINGS = ("ansible_ssh_args", "ansible_ssh_common_args", "ansible_ssh_extra_args")
TIMEOUT = 20


def _effective(words: list[str], host: str) -> str | None:
    """What ssh would use for this host; it connects to nobody for that. None if it does not say."""
    try:
        done = subprocess.run(
            ["ssh", "-G", *words, "--", host],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=dict(os.environ, LC_ALL="C"),
            timeout=TIMEOUT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def addresses(name: str) -> list[str]:
    """Where a jump host is: the name may be an alias of ssh's own configuration."""
    told = _effective([], name) or ""
    real = next((line.partition(" ")[2] for line in told.splitlines() if line.startswith("hostname ")), name)
    try:
        return sorted({str(found[4][0]).partition("%")[0] for found in socket.getaddrinfo(real, None, type=socket.SOCK_STREAM)})
    except OSError:
        return []


def of_machine(name: str, variables: Mapping[str, Any]) -> dict[str, tuple[list[str], str]]:
    """Jump hosts on the way to one machine: name -> addresses, and what could not be read."""
    if str(variables.get("ansible_connection") or "ssh") not in ("ssh", "smart", "ansible.builtin.ssh"):
        return {}
    try:
        words = [word for setting in SETTINGS for word in shlex.split(str(variables.get(setting) or ""))]
    except ValueError:
        return {f"of {name}": ([], "its connection settings cannot be read (a quote is not closed)")}
    told = _effective(words, str(variables.get("ansible_host") or name))
    if told is None:
        return {f"of {name}": ([], "ssh -G does not tell how it is reached")}
    names, unclear = jumps(told)
    found = {hop: (addresses(hop), "") for hop in names}
    return {**found, **({f"of {name}": ([], unclear)} if unclear else {})}
