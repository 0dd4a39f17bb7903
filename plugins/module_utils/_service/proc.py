# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which process listens where, and which unit it belongs to, read from /proc alone.

Private to the collection; it may change at any time. Valid for Python 3.6.

Nothing here trusts a tool: ss, lsof and netstat are missing on lean hosts, and systemd's own word is what these
functions check. A fact that cannot be read is None, never an empty list.
"""

import os
import re
import socket
import struct
from typing import Any, Dict, Iterable, List, Optional, Tuple

NET_FILES = ("tcp", "tcp6", "udp", "udp6")
TCP_LISTEN = "0A"
UDP_UNCONNECTED = "07"
ANY_PEER = re.compile(r"^0+:0000$")
CONTAINER_ID = re.compile(r"(?:^|[-/])([0-9a-f]{64})(?:\.scope)?$")
UNIT_NAME = re.compile(r"^[A-Za-z0-9:_.\\@-]+\.(service|socket|timer|path|target|mount|scope|swap|slice)$")


def read_text(path: str) -> Optional[str]:
    """Text of a file, None if it cannot be read."""
    try:
        with open(path, "rb") as handle:
            return handle.read().decode("utf-8", "surrogateescape")
    except OSError:
        return None


def decode_address(text: str) -> Tuple[str, int]:
    """('127.0.0.1', 5432) of '0100007F:1538': the kernel prints each 32-bit word in the machine's own byte order."""
    address, port = text.split(":")
    words = [address[at : at + 8] for at in range(0, len(address), 8)]
    raw = b"".join(struct.pack("=I", int(word, 16)) for word in words)
    family = socket.AF_INET if len(raw) == 4 else socket.AF_INET6
    return socket.inet_ntop(family, raw), int(port, 16)


def parse_listeners(text: str, proto: str) -> List[Dict[str, Any]]:
    """Listening sockets of one /proc/net file. A UDP socket without a peer counts as listening."""
    rows = []
    wanted = TCP_LISTEN if proto.startswith("tcp") else UDP_UNCONNECTED
    for line in text.splitlines()[1:]:
        parts = line.split()
        if len(parts) < 10 or parts[3] != wanted or not ANY_PEER.match(parts[2]):
            continue
        address, port = decode_address(parts[1])
        rows.append({"proto": proto[:3], "address": address, "port": port, "uid": int(parts[7]), "inode": int(parts[9])})
    return rows


def listeners() -> Tuple[List[Dict[str, Any]], bool]:
    """(all listening sockets of this network namespace, could everything be read?)."""
    rows: List[Dict[str, Any]] = []
    complete = True
    for proto in NET_FILES:
        text = read_text("/proc/net/" + proto)
        if text is None:
            # A kernel without IPv6 has no tcp6 and udp6; that is an answer, the rest is not.
            complete = complete and proto.endswith("6") and not os.path.exists("/proc/net/if_inet6")
            continue
        rows.extend(parse_listeners(text, proto))
    return rows, complete


def listening_on(ports: Iterable[int], rows: List[Dict[str, Any]]) -> List[Dict[str, Any]]:
    """The rows of listeners() on one of these ports, any address."""
    wanted = set(ports)
    return [row for row in rows if row["port"] in wanted]


def pids() -> List[int]:
    return sorted(int(name) for name in os.listdir("/proc") if name.isdigit())


def socket_owners(wanted: Iterable[int]) -> Dict[int, int]:
    """{socket inode: lowest pid that has it open}. The lowest is the master of forked workers."""
    owners: Dict[int, int] = {}
    links = {"socket:[%d]" % inode: inode for inode in wanted}
    for pid in pids():
        try:
            names = os.listdir("/proc/%d/fd" % pid)
        except OSError:
            continue
        for name in names:
            try:
                inode = links.get(os.readlink("/proc/%d/fd/%s" % (pid, name)))
            except OSError:
                continue
            if inode is not None:
                owners.setdefault(inode, pid)
    return owners


def unit_candidates(init_path: Optional[str]) -> Dict[int, Dict[Optional[str], str]]:
    """{uid: {unit: command}} of the processes whose descriptors we may not see (a root without CAP_SYS_PTRACE, as in
    containers, sees only root's). A socket that no readable process holds must be held by one of these, and the kernel
    tells the socket's uid."""
    found: Dict[int, Dict[Optional[str], str]] = {}
    for pid in pids():
        try:
            os.listdir("/proc/%d/fd" % pid)
            os.readlink("/proc/%d/fd/0" % pid)
        except PermissionError:
            try:
                uid = os.stat("/proc/%d" % pid).st_uid
            except OSError:
                continue
            found.setdefault(uid, {}).setdefault(unit_of_pid(pid, init_path), command_name(pid))
        except OSError:
            continue
    return found


def cgroup_path(text: str) -> Optional[str]:
    """The path in systemd's own hierarchy: name=systemd (cgroup v1, hybrid), else the unified one (v2)."""
    unified = None
    for line in text.splitlines():
        parts = line.split(":", 2)
        if len(parts) != 3:
            continue
        if parts[1] == "name=systemd":
            return parts[2]
        if parts[0] == "0":
            unified = parts[2]
    return unified


def relative_cgroup(path: str, init_path: Optional[str]) -> str:
    """The path below the one that holds init: a host may itself be a container with a path of its outer world."""
    base = re.sub(r"/init\.scope$", "", init_path or "").rstrip("/")
    if base and (path == base or path.startswith(base + "/")):
        return path[len(base) :] or "/"
    return path


def unit_of_path(path: str) -> Optional[str]:
    """The unit that a cgroup path belongs to; None outside any unit.

    'docker:<id>' for an engine's container, 'user@1000.service:x.service' for a user's own unit.
    """
    parts = [part[1:] if part.startswith("_") else part for part in path.split("/") if part]
    user = [part for part in parts if re.match(r"^user@\d+\.service$", part)]
    for at in range(len(parts) - 1, -1, -1):
        container = CONTAINER_ID.search(parts[at])
        if container:
            return "docker:" + container.group(1)[:12]
        if UNIT_NAME.match(parts[at]) and not parts[at].endswith(".slice"):
            if user and parts[at] != user[0]:
                return "%s:%s" % (user[0], parts[at])
            return parts[at]
    return None


def unit_of_pid(pid: int, init_path: Optional[str]) -> Optional[str]:
    """The unit a process belongs to; None if it has none or is gone."""
    path = cgroup_path(read_text("/proc/%d/cgroup" % pid) or "")
    return None if path is None else unit_of_path(relative_cgroup(path, init_path))


def init_cgroup() -> Optional[str]:
    return cgroup_path(read_text("/proc/1/cgroup") or "")


def command_name(pid: int) -> str:
    return (read_text("/proc/%d/comm" % pid) or "?").strip()


def argv_of(pid: int) -> List[str]:
    """The command line; empty for kernel threads and processes that have just ended."""
    text = read_text("/proc/%d/cmdline" % pid) or ""
    return text.rstrip("\0").split("\0") if text else []


def is_zombie(pid: int) -> bool:
    """A zombie holds nothing any more; it only waits for its parent."""
    stat = read_text("/proc/%d/stat" % pid) or ""
    return stat.rsplit(")", 1)[-1].split()[:1] == ["Z"]


def processes_of_units(units: Iterable[str]) -> Dict[str, List[Dict[str, Any]]]:
    """{unit: [{pid, comm}]}: every process whose cgroup lies in the unit, sub-groups too.

    Asks all of /proc instead of the unit's own cgroup.procs: works alike on cgroup v1 and v2, and after the unit was
    unloaded. Names in the path are compared whole, so web.service does not match my-web.service.
    """
    found: Dict[str, List[Dict[str, Any]]] = {unit: [] for unit in units}
    for pid in pids():
        path = cgroup_path(read_text("/proc/%d/cgroup" % pid) or "")
        if path is None:
            continue
        parts = {part[1:] if part.startswith("_") else part for part in path.split("/")}
        for unit in found:
            if unit in parts and not is_zombie(pid):
                found[unit].append({"pid": pid, "comm": command_name(pid)})
    return found


def describe_processes(processes: List[Dict[str, Any]], limit: int = 5) -> str:
    """'123 python3, 124 python3 and 7 more' for messages."""
    text = ", ".join("%(pid)d %(comm)s" % row for row in processes[:limit])
    return text + (" and %d more" % (len(processes) - limit) if len(processes) > limit else "")
