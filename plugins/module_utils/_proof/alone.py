# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Namespaces for a throw-away server: what was restored may hold code and addresses of others. It must reach nobody, and see nothing of
what the same account keeps: packages, live identities, its own home.

Private to the collection. Valid for Python 3.6, standard library. An unprivileged account makes them inside a user
namespace of its own, in which it stays the account that it is. Where the kernel or a container forbids that, it is said.
"""

import ctypes
import errno
import fcntl
import os
import socket
import struct
from typing import Any, Dict, List  # noqa: F401

CLONE_NEWUSER, CLONE_NEWNET, CLONE_NEWNS = 0x10000000, 0x40000000, 0x00020000
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REC, MS_PRIVATE = 2, 4, 8, 1 << 14, 1 << 18
SIOCSIFFLAGS, IFF_UP = 0x8914, 0x1
NONE = "none: a network namespace of its own"
# Of PostgreSQL; with them a restore can run what speaks to other machines. (A foreign server is named by itself.)
REACHING = ("dblink", "http", "pg_net", "plperlu", "plpython3u", "plpythonu", "plsh", "pltclu")
_KNOWN = []  # type: List[str]
_HIDES = {}  # type: Dict[Any, bool]


def _mount(libc, source, target, kind, flags, options):
    # type: (Any, bytes, bytes, Any, int, Any) -> None
    if libc.mount(source, target, kind, ctypes.c_ulong(flags), options) != 0:
        raise OSError(ctypes.get_errno(), "mount")


def enter(hidden=()):
    # type: (Any) -> None
    """Into new namespaces, with a loopback device that leads nowhere and nothing in the hidden directories. For a process that will be
    another program (preexec_fn): from then on it has no right to take that back."""
    uid, gid = os.getuid(), os.getgid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWUSER | CLONE_NEWNET | (CLONE_NEWNS if hidden else 0)) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    for name, text in (("setgroups", "deny"), ("uid_map", "%d %d 1" % (uid, uid)), ("gid_map", "%d %d 1" % (gid, gid))):
        with open("/proc/self/" + name, "w") as stream:
            stream.write(text)
    # Old servers talk to themselves over it.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        fcntl.ioctl(one.fileno(), SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", IFF_UP))
    if hidden:
        _mount(libc, b"none", b"/", None, MS_REC | MS_PRIVATE, None)
    for path in hidden:
        _mount(libc, b"none", os.fsencode(path), b"tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, b"size=4k,mode=0")


def to_hide(kept, needed):
    # type: (List[str], List[str]) -> List[str]
    """The directories that a server is not to see: those that are there, the outermost only, and none that holds what it needs."""
    found = []  # type: List[str]
    # Through /proc, other processes of the account lead to the same files.
    for path in sorted(os.path.realpath(one) for one in kept + ["/proc"]):
        above = any(path == one or path.startswith(one + "/") for one in found)
        inside = any((one + "/").startswith(path.rstrip("/") + "/") for one in needed)
        if os.path.isdir(path) and not above and not inside:
            found.append(path)
    return found


def hides(paths):
    # type: (List[str]) -> bool
    """Whether a server that we start can be kept from seeing these. Tried once, in a child."""
    key = tuple(paths)
    if key not in _HIDES:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                enter(paths)
                code = 0 if all(os.statvfs(path).f_blocks <= 1 for path in paths) else 1
            except OSError:
                pass
            finally:
                os._exit(code)
        _HIDES[key] = os.waitpid(child, 0)[1] == 0
    return _HIDES[key]


def network():
    # type: () -> str
    """What a server that we start can reach, in words: NONE, or why it is this machine's network. Tried once, in a child."""
    if not _KNOWN:
        child = os.fork()
        if child == 0:
            code = 255
            try:
                enter()
                with open("/proc/self/net/dev") as stream:
                    devices = [line.split(":")[0].strip() for line in stream if ":" in line]
                code = 0 if devices == ["lo"] else 255
            except OSError as exc:
                code = exc.errno or 255
            finally:
                os._exit(code)
        status = os.waitpid(child, 0)[1]
        code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else 255
        why = errno.errorcode.get(code, "no answer")
        _KNOWN.append(NONE if code == 0 else "the vault's own: no network namespace can be made here (%s)" % why)
    return _KNOWN[0]


def reaching(wanted):
    # type: (Dict[str, Any]) -> List[str]
    """What of a fingerprint could make its restored copy speak to another machine."""
    catalogue = wanted.get("catalogue", {})
    found = ["foreign server %s" % name for name in sorted(catalogue.get("foreign server", {}))]
    found += ["extension %s" % name for name in sorted(catalogue.get("extension", {})) if name in REACHING]
    if wanted.get("engine") in ("mariadb", "mysql"):
        found += ["table %s" % name for name in wanted.get("notes", {}).get("data_elsewhere", [])]
    return found
