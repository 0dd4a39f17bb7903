# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Does a guest run on this host, and does anybody from elsewhere still talk to a database server of it?

Private to the collection; it may change at any time. Valid for Python 3.6. Reads only.

Two signs for guests. What the engine itself answers, where its daemon runs (a daemon that does not run is never asked: the question
would start it, and with it what it starts by itself). And what the kernel shows of processes that are a guest or hold one: it sees
guests whose engine is stopped, hung, or unknown here. Any guest seen by either is there; an engine that runs and gives no answer is unknown.
"""

import glob
import json
import os
import re
import socket
from http.client import HTTPConnection, HTTPException
from typing import Any, Callable, Dict, Iterable, List, Optional, Set, Tuple

from ansible_collections.sunset.crm.plugins.module_utils._service import proc as service_proc

Row = Dict[str, Any]
TIMEOUT = 20
CONTAINER = re.compile(r"^[0-9a-f]{64}$")
# Process name (15 letters, as the kernel cuts it) -> kind of guest that it is or holds.
QEMU = re.compile(r"^(qemu-system-.*|qemu-kvm|kvm)$")
HOLDERS = {
    "libvirt_lxc": "lxc",
    "lxc-start": "lxc",
    "conmon": "podman",
    "systemd-nspawn": "nspawn",
    "firecracker": "microvm",
    "cloud-hyperviso": "microvm",
    "crosvm": "microvm",
    "VBoxHeadless": "virtualbox",
    "VirtualBoxVM": "virtualbox",
    "vmware-vmx": "vmware",
    "qemu-dm": "xen",
}
SHIM = re.compile(r"^containerd-shim")
SERVERS = ("postgres", "postmaster", "mysqld", "mariadbd", "redis-server", "valkey-server", "mongod", "oracle", "sqlservr", "firebird")
ESTABLISHED = "01"


class _UnixConnection(HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str) -> None:
        HTTPConnection.__init__(self, "localhost", timeout=TIMEOUT)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(TIMEOUT)
        self.sock.connect(self._path)


def guest(kind: str, name: str, sign: str, key: str = "") -> Row:
    """key: what the same guest is called by another sign (a container's id, a machine's number)."""
    return {"kind": kind, "name": name, "sign": sign, "key": key or name}


def argument_after(argv: List[str], name: str) -> str:
    return next((argv[at + 1] for at in range(len(argv) - 1) if argv[at] == name), "")


def of_process(comm: str, argv: List[str]) -> Optional[Row]:
    """The guest that a process is or holds; None for any other process."""
    if QEMU.match(comm) or (argv and QEMU.match(os.path.basename(argv[0]))):
        named = argument_after(argv, "-name")
        found = re.search(r"(?:^|,)guest=([^,]+)", named)
        number = argument_after(argv, "-id")
        name = (found.group(1) if found else named.split(",")[0]) or number or "without a name"
        return guest("machine", name, "process", number or name)
    if SHIM.match(comm):
        key = argument_after(argv, "-id") or argument_after(argv, "--id")
        return guest("container", key[:12] or "without an id", "process", key)
    if HOLDERS.get(comm) == "podman":
        return guest("podman", argument_after(argv, "-n") or argument_after(argv, "-c")[:12], "process", argument_after(argv, "-c"))
    if comm in HOLDERS:
        name = argument_after(argv, "-n") or argument_after(argv, "--name") or argument_after(argv, "--machine") or "without a name"
        return guest(HOLDERS[comm], name, "process")
    if argv and argv[0].startswith("[lxc monitor]"):
        return guest("lxc", argv[0].split()[-1], "process")
    return None


def processes(table: Iterable[Tuple[str, List[str]]]) -> List[Row]:
    return [row for row in (of_process(comm, argv) for comm, argv in table) if row]


# --- the engines' own answers: parsers, which raise ValueError for what they do not understand ---------------------------------------


def parse_docker(text: str) -> List[Row]:
    """GET /containers/json: everything that is not stopped (running, paused, restarting)."""
    rows = json.loads(text)
    if not isinstance(rows, list):
        raise ValueError("no list of containers")
    return [guest("container", str(row["Names"][0]).lstrip("/"), "docker", str(row["Id"])) for row in rows]


def parse_virsh(text: str) -> List[Row]:
    """virsh list --name: all that is active, paused machines too."""
    return [guest("machine", line.strip(), "libvirt") for line in text.splitlines() if line.strip()]


def parse_qm(text: str) -> List[Row]:
    """qm list: VMID NAME STATUS MEM(MB) BOOTDISK(GB) PID. A name may be missing; the process id is the last column, 0 if it does not run."""
    found = []
    for line in text.splitlines()[1:]:
        parts = line.split()
        if len(parts) < 5 or not parts[0].isdigit():
            raise ValueError("a line of qm list that cannot be read")
        states = [part for part in parts[1:] if part in ("running", "stopped", "paused", "suspended")]
        if not states or states[-1] != "stopped":
            found.append(guest("machine", parts[1], "proxmox", parts[0]))
    return found


def parse_pct(text: str) -> List[Row]:
    """pct list: VMID Status Lock Name."""
    found = []
    for line in text.splitlines()[1:]:
        parts = line.split()
        if len(parts) < 2 or not parts[0].isdigit():
            raise ValueError("a line of pct list that cannot be read")
        if parts[1] != "stopped":
            found.append(guest("lxc", parts[-1], "proxmox", parts[0]))
    return found


def parse_podman(text: str) -> List[Row]:
    """podman ps --format json, of the user that asks."""
    rows = json.loads(text or "[]") or []
    return [guest("podman", str((row.get("Names") or [row.get("Id", "")[:12]])[0]), "podman", str(row["Id"])) for row in rows]


def parse_names(kind: str, sign: str) -> Callable[[str], List[Row]]:
    def parse(text: str) -> List[Row]:
        return [guest(kind, line.split()[0], sign) for line in text.splitlines() if line.split()]

    return parse


def parse_xl(text: str) -> List[Row]:
    """xl list: the first line is a heading, Domain-0 is the host itself."""
    names = [line.split()[0] for line in text.splitlines()[1:] if line.split()]
    return [guest("xen", name, "xen") for name in names if name != "Domain-0"]


def parse_machinectl(text: str) -> List[Row]:
    """machinectl list: libvirt's guests are registered there under qemu-NUMBER-NAME."""
    names = [line.split()[0] for line in text.splitlines() if line.split()]
    return [guest("machine", re.sub(r"^(qemu|lxc)-\d+-", "", name), "machined") for name in names if name != ".host"]


# (engine, process names of its daemon, command, parser). An engine without a daemon is asked where its program is there.
ASKED = (
    ("libvirt", ("libvirtd", "virtqemud"), ["virsh", "-r", "-c", "qemu:///system", "list", "--name"], parse_virsh),
    ("libvirt-lxc", ("virtlxcd",), ["virsh", "-r", "-c", "lxc:///system", "list", "--name"], parse_names("lxc", "libvirt")),
    ("proxmox machines", ("pvedaemon", "pmxcfs"), ["qm", "list"], parse_qm),
    ("proxmox containers", ("pvedaemon", "pmxcfs"), ["pct", "list"], parse_pct),
    ("podman", (), ["podman", "ps", "--format", "json", "--no-trunc"], parse_podman),
    ("lxc", (), ["lxc-ls", "--active", "-1"], parse_names("lxc", "lxc")),
    ("machined", ("systemd-machine",), ["machinectl", "list", "--no-legend", "--no-pager"], parse_machinectl),
)


def answers(run: Callable[..., Any], running: Set[str]) -> Tuple[List[Row], List[str], List[str]]:
    """(guests, engines that answered, what stays unknown) of the engines whose daemons run."""
    seen: List[Row] = []
    asked, unknown = [], []
    for name, daemons, argv, parse in ASKED:
        alive = bool(running & set(daemons)) if daemons else None
        if alive is False:
            continue
        answer = run(argv)
        if answer.rc == 127 or answer.rc is None:
            # Without a daemon there is no engine where the program is not there.
            if alive:
                unknown.append("%s runs here and there is no %s to ask it" % (name, argv[0]))
            continue
        try:
            if answer.rc != 0:
                raise ValueError((answer.err.strip().splitlines() or ["exit code %d" % answer.rc])[-1][:200])
            seen.extend(parse(answer.out))
            asked.append(name)
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as exc:
            unknown.append("%s does not tell what runs: %s" % (name, exc))
    return seen, asked, unknown


def ask(path: str, what: str) -> str:
    """One answer of the engine behind a socket. Raises OSError, HTTPException, ValueError."""
    line = _UnixConnection(path)
    try:
        line.request("GET", what)
        answer = line.getresponse()
        text = answer.read().decode("utf-8", "replace")
        if answer.status != 200:
            raise ValueError("status %d" % answer.status)
        return text
    finally:
        line.close()


def docker_answers(running: Set[str], sockets: Iterable[str]) -> Tuple[List[Row], List[str], List[str]]:
    """The same of Docker. A socket without a dockerd of this host is the way to an engine elsewhere, and not this host's matter."""
    if "dockerd" not in running:
        return [], [], []
    seen: List[Row] = []
    asked, unknown = [], []
    for path in sockets:
        try:
            seen.extend(parse_docker(ask(path, "/containers/json")))
            asked.append("docker")
        except (OSError, HTTPException, ValueError, KeyError, IndexError, TypeError) as exc:
            unknown.append("docker at %s does not tell what runs: %s" % (path, exc))
    if not asked and not unknown:
        unknown.append("dockerd runs here and none of its sockets was found")
    return seen, asked, unknown


def judge(engines: List[Row], kernel: List[Row], unknown: List[str], excused: Iterable[str]) -> Row:
    """What runs, by name, each guest once; yes, no or unknown whether any does. Those that a person has classified are named apart."""
    keys = {row["key"] for row in engines} | {row["name"] for row in engines}
    rows = engines + [row for row in kernel if row["key"] not in keys and row["name"] not in keys]
    names = set(excused)
    there = sorted({"%s %s (%s)" % (row["kind"], row["name"], row["sign"]) for row in rows if row["name"] not in names})
    return {
        "running": "yes" if there else "unknown" if unknown else "no",
        "guests": there,
        "excused": sorted({row["name"] for row in rows if row["name"] in names}),
        "unknown": sorted(unknown),
    }


# --- databases ---------------------------------------------------------------------------------------------------------------------


def parse_established(text: str) -> List[Tuple[str, int, str]]:
    """(own address, own port, peer) of the connections in one /proc/net/tcp file."""
    rows = []
    for line in text.splitlines()[1:]:
        parts = line.split()
        if len(parts) >= 4 and parts[3] == ESTABLISHED:
            own, port = service_proc.decode_address(parts[1])
            rows.append((own, port, service_proc.decode_address(parts[2])[0]))
    return rows


def plain(address: str) -> str:
    return address[7:] if address.startswith("::ffff:") else address


def foreign(rows: Iterable[Tuple[str, int, str]], ports: Iterable[int]) -> List[str]:
    """Sessions on these ports whose other end is not this host."""
    rows = list(rows)
    own = {plain(one[0]) for one in rows}
    wanted = set(ports)
    return sorted(
        {
            "%s on port %d" % (plain(peer), port)
            for _own, port, peer in rows
            if port in wanted and plain(peer) not in own and not plain(peer).startswith("127.") and peer != "::1"
        }
    )


def sessions(
    declared: Iterable[int], table: Iterable[Tuple[str, int]], listening: Iterable[Row], connections: Iterable[Tuple[str, int, str]]
) -> Row:
    """Open sessions from other hosts: on the plan's ports, and on whatever a database server listens on.

    table: name and user of each process. An unprivileged look at who holds which socket may be refused even to root in a
    container, so a server's sockets are known by its user.
    """
    servers = sorted({(comm, uid) for comm, uid in table if comm in SERVERS or comm.startswith("ora_pmon")})
    uids = {uid for _comm, uid in servers if uid != 0}
    ports = {int(port) for port in declared} | {row["port"] for row in listening if row["uid"] in uids and row["proto"] == "tcp"}
    return {"servers": sorted({comm for comm, _uid in servers}), "ports": sorted(ports), "sessions": foreign(connections, ports)}


# --- the world -----------------------------------------------------------------------------------------------------------------------


def look(run: Callable[..., Any], excused: Iterable[str], ports: Iterable[int]) -> Row:
    """Everything above, of this host, now."""
    table, comms, owners = [], set(), []
    for pid in service_proc.pids():
        comm = service_proc.command_name(pid)
        if service_proc.is_zombie(pid):
            continue
        comms.add(comm)
        table.append((comm, service_proc.argv_of(pid)))
        try:
            owners.append((comm, os.stat("/proc/%d" % pid).st_uid))
        except OSError:
            continue
    unknown = [] if os.geteuid() == 0 else ["it was not looked at as root, who alone sees everything that runs"]
    if not os.path.isdir("/proc/1"):
        unknown.append("/proc hides the processes of others")
    seen, asked, problems = answers(run, comms)
    engine = docker_answers(comms, sorted({os.path.realpath(path) for path in docker_sockets()}))
    unknown += problems + engine[2]
    if os.path.exists("/proc/xen/capabilities") and "control_d" in (service_proc.read_text("/proc/xen/capabilities") or ""):
        answer = run(["xl", "list"])
        if answer.rc == 0:
            seen += parse_xl(answer.out)
        else:
            unknown.append("this is a Xen host, and xl does not tell what runs")
    found = judge(seen + engine[0], processes(table), unknown, excused)
    lines: List[Tuple[str, int, str]] = []
    for name in ("tcp", "tcp6"):
        text = service_proc.read_text("/proc/net/" + name)
        if text is None and (name == "tcp" or os.path.exists("/proc/net/if_inet6")):
            found["unknown"].append("/proc/net/%s cannot be read, so nobody knows who is connected" % name)
        lines += parse_established(text or "")
    base = sessions(ports, owners, service_proc.listeners()[0], lines)
    return dict(found, engines=sorted(asked + engine[1]), databases=base)


def docker_sockets() -> List[str]:
    return [path for path in ["/var/run/docker.sock"] + glob.glob("/run/user/*/docker.sock") if os.path.exists(path)]
