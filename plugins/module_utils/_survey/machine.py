# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""By what a machine is known again from elsewhere: ids, addresses, network cards, the guests defined on it, the storage it uses.

Private to the collection; it may change at any time. Valid for Python 3.6. Reads files only; no engine is asked, so nothing is started.
A fact that cannot be read is left out, which says nothing.
"""

import glob
import os
import re
import socket
import struct
from typing import Any, Dict, List, Optional, Set

from ansible_collections.sunset.crm.plugins.module_utils._service import proc as service_proc

Row = Dict[str, Any]
# Bridges that engines make: every machine with such an engine has the same address on them.
OWN_BRIDGES = re.compile(
    r"^(lo|docker\d+|docker_gwbridge|br-[0-9a-f]{12}|virbr\d+|lxcbr\d+|lxdbr\d+|incusbr\d+|cni\d*|cni-.*|podman\d+|veth.*|tap.*|vnet.*)$"
)
MAC = re.compile(r"\b([0-9a-fA-F]{2}(?::[0-9a-fA-F]{2}){5})\b")
UUID = re.compile(r"<uuid>\s*([0-9a-fA-F-]{36})\s*</uuid>")
NAME = re.compile(r"<name>([^<]*)</name>")
NETWORK_FILE_SYSTEMS = ("nfs", "nfs4", "cifs", "smb3", "ceph", "fuse.glusterfs", "fuse.sshfs", "9p")


def machine() -> Row:
    """Everything that tells this machine."""
    inside = in_container()
    found: Row = {
        "machine_id": (service_proc.read_text("/etc/machine-id") or "").strip(),
        "container": inside,
        "addresses": addresses(),
        "macs": cards(),
        "nameservers": nameservers(),
        "neighbours": neighbours(service_proc.read_text("/proc/net/arp") or ""),
        "guests": guests(),
        "storage": storage(service_proc.read_text("/proc/self/mounts") or ""),
    }
    # In a container the board is that of the machine outside.
    found["board"] = {} if inside else board()
    return found


def in_container() -> bool:
    if os.path.exists("/.dockerenv") or os.path.exists("/run/.containerenv") or os.path.exists("/run/systemd/container"):
        return True
    return "container=" in (service_proc.read_text("/proc/1/environ") or "")


def board() -> Row:
    """uuid and serial of the mainboard; only root may read them, and many boards have fillers."""
    found = {}
    for name in ("uuid", "serial"):
        text = (service_proc.read_text("/sys/class/dmi/id/product_" + name) or "").strip()
        if text:
            found[name] = text
    return found


def cards() -> List[str]:
    """Hardware addresses of the network cards that are not made by an engine of this machine."""
    found = set()
    for path in glob.glob("/sys/class/net/*/address"):
        text = (service_proc.read_text(path) or "").strip().lower()
        if not OWN_BRIDGES.match(path.split("/")[4]) and MAC.match(text) and text != "00:00:00:00:00:00":
            found.add(text)
    return sorted(found)


def addresses() -> List[str]:
    """Addresses by which others reach this machine: no loopback, no link-local ones, none of an engine's own bridges."""
    found = set()
    v6 = service_proc.read_text("/proc/net/if_inet6") or ""
    for line in v6.splitlines():
        parts = line.split()
        if len(parts) == 6 and parts[3] == "00" and not OWN_BRIDGES.match(parts[5]):
            found.add(socket.inet_ntop(socket.AF_INET6, bytes(bytearray.fromhex(parts[0]))))
    routes = parse_local_routes(service_proc.read_text("/proc/net/fib_trie") or "")
    bridges = {one for one in (own_address(name) for _number, name in interfaces() if OWN_BRIDGES.match(name)) if one}
    return sorted(found | (routes - bridges))


def interfaces() -> List[Any]:
    try:
        return list(socket.if_nameindex())
    except OSError:
        return []


def own_address(name: str) -> Optional[str]:
    """The IPv4 address of an interface."""
    import fcntl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as line:
        try:
            answer = fcntl.ioctl(line.fileno(), 0x8915, struct.pack("256s", name[:15].encode("ascii", "replace")))  # SIOCGIFADDR
        except OSError:
            return None
    return socket.inet_ntoa(answer[20:24])


def parse_local_routes(text: str) -> Set[str]:
    """The machine's own IPv4 addresses in /proc/net/fib_trie: those whose host route is local."""
    found, last = set(), ""
    for line in text.splitlines():
        parts = line.split()
        if len(parts) == 2 and parts[0] == "|--":
            last = parts[1]
        elif parts[:3] == ["/32", "host", "LOCAL"] and not last.startswith("127."):
            found.add(last)
    return found


def nameservers() -> List[str]:
    """The resolvers in use. Where a local one stands in between, those that it asks, as far as it says so."""
    own = parse_nameservers(service_proc.read_text("/etc/resolv.conf") or "")
    if any(one.startswith("127.") for one in own):
        own = parse_nameservers(service_proc.read_text("/run/systemd/resolve/resolv.conf") or "") or own
    return own


def parse_nameservers(text: str) -> List[str]:
    found = [line.split()[1].partition("%")[0] for line in text.splitlines() if len(line.split()) >= 2 and line.split()[0] == "nameserver"]
    return sorted(set(found))


def neighbours(text: str) -> Dict[str, str]:
    """Who answers for which address on the wire: /proc/net/arp, complete entries."""
    rows = [line.split() for line in text.splitlines()[1:]]
    return {row[0]: row[3].lower() for row in rows if len(row) >= 4 and int(row[2], 16) & 0x2}


def storage(mounts: str) -> List[str]:
    """Addresses and names of the servers of network file systems and iSCSI targets that this machine uses."""
    found = set()
    for line in mounts.splitlines():
        parts = line.split()
        if len(parts) < 4 or parts[2] not in NETWORK_FILE_SYSTEMS:
            continue
        told = re.search(r"(?:^|,)addr=([^,]+)", parts[3])
        source = parts[0].lstrip("/").split("/")[0] if parts[2] in ("cifs", "smb3") else parts[0].rpartition(":/")[0]
        server = told.group(1) if told else source.strip("[]").rpartition("@")[2]
        if server:
            found.add(server)
    for path in glob.glob("/sys/class/iscsi_connection/*/persistent_address"):
        text = (service_proc.read_text(path) or "").strip()
        if text:
            found.add(text)
    return sorted(found)


def guests() -> List[Row]:
    """Guests that are defined here, running or not: libvirt, Proxmox, and QEMU processes of nobody."""
    found: List[Row] = []
    for path in sorted(glob.glob("/etc/libvirt/qemu/*.xml") + glob.glob("/etc/libvirt/lxc/*.xml") + glob.glob("/run/libvirt/qemu/*.xml")):
        text = service_proc.read_text(path) or ""
        uuid, name = UUID.search(text), NAME.search(text)
        if uuid and name:
            found.append({"name": name.group(1), "uuid": uuid.group(1).lower(), "macs": macs_in(text)})
    for path in sorted(glob.glob("/etc/pve/qemu-server/*.conf") + glob.glob("/etc/pve/lxc/*.conf")):
        found.append(parse_pve(os.path.basename(path)[:-5], service_proc.read_text(path) or ""))
    for pid in service_proc.pids():
        argv = service_proc.argv_of(pid)
        if argv and "qemu" in os.path.basename(argv[0]) + service_proc.command_name(pid) and "-uuid" in argv[:-1]:
            uuid_of = argv[argv.index("-uuid") + 1].lower()
            found.append({"name": "process %d" % pid, "uuid": uuid_of, "macs": macs_in(" ".join(argv))})
    unique = {(one["uuid"], tuple(one["macs"])): one for one in reversed(found)}
    return sorted(unique.values(), key=lambda one: str(one["name"]))


def macs_in(text: str) -> List[str]:
    return sorted({one.lower() for one in MAC.findall(text)})


def parse_pve(number: str, text: str) -> Row:
    """A guest's file of Proxmox; what follows a section heading is a snapshot."""
    current = re.split(r"(?m)^\[", text)[0]
    name = re.search(r"(?m)^(?:name|hostname):\s*(\S+)", current)
    uuid = re.search(r"(?m)^smbios1:.*?uuid=([0-9a-fA-F-]{36})", current)
    networks = " ".join(line for line in current.splitlines() if re.match(r"net\d+:", line))
    return {"name": name.group(1) if name else number, "uuid": uuid.group(1).lower() if uuid else "", "macs": macs_in(networks)}
