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

from ansible import constants
from ansible.plugins.loader import connection_loader

from ansible_collections.sunset.crm.plugins.plugin_utils.planning.standing import jumps

SETTINGS = ("ssh_args", "ssh_common_args", "ssh_extra_args")
SSH, PARAMIKO = ("ssh", "smart", "ansible.builtin.ssh"), ("paramiko", "paramiko_ssh", "ansible.builtin.paramiko_ssh")
TIMEOUT = 20


def _words(variables: Mapping[str, Any]) -> list[str]:
    """The options that Ansible gives to ssh for a machine: of the inventory, else of the environment, else of ansible.cfg. Raises ValueError."""
    # Else nobody knows the settings of that plugin yet.
    connection_loader.get("ssh", class_only=True)
    # These variables alone: to take all of them is to template all of them, and what concerns others may not be defined yet.
    own = {name: variables[name] for name in (f"ansible_{setting}" for setting in SETTINGS) if name in variables}
    told = (constants.config.get_config_value(name, plugin_type="connection", plugin_name="ssh", variables=own) for name in SETTINGS)
    return [word for text in told for word in shlex.split(str(text or ""))]


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
    connection = str(variables.get("ansible_connection") or "ssh")
    if connection in PARAMIKO:
        return {f"of {name}": ([], f"its connection is {connection}, whose way is not read; have it be ssh")}
    if connection not in SSH:
        return {}
    try:
        words = _words(variables)
    except ValueError:
        return {f"of {name}": ([], "its connection settings cannot be read (a quote is not closed)")}
    told = _effective(words, str(variables.get("ansible_host") or name))
    if told is None:
        return {f"of {name}": ([], "ssh -G does not tell how it is reached")}
    names, unclear = jumps(told)
    found = {hop: (addresses(hop), "") for hop in names}
    return {**found, **({f"of {name}": ([], unclear)} if unclear else {})}
