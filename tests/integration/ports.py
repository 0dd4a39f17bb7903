# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ports for servers that must be named before they listen.

They lie below those that the kernel hands out by itself, to other tests too, and a port is kept until its process ends, so no two test
processes of a machine get the same one.
"""

from __future__ import annotations

import os
import socket

RANGE = range(20000, 32000)

_kept: list[socket.socket] = []
# Where processes begin at different places, none has to pass over what another one holds.
_numbers = iter([*RANGE[os.getpid() * 97 % len(RANGE) :], *RANGE[: os.getpid() * 97 % len(RANGE)]])


def free_port() -> int:
    """A port, TCP and UDP, that nobody else uses or is given as long as this process lives."""
    for port in _numbers:
        keeper = socket.socket(socket.AF_UNIX)
        try:
            # A name without a file: whoever has it bound holds the port, and the kernel frees it with the process.
            keeper.bind(f"\0sunset-test-port-{port}")
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                with socket.socket(socket.AF_INET, kind) as one:
                    one.bind(("127.0.0.1", port))
        except OSError:
            keeper.close()
            continue
        _kept.append(keeper)
        return port
    raise AssertionError(f"no port of {RANGE} is free")
