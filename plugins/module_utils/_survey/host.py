# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Everything on a host that nobody declared: listeners, databases, cron lines, timers, mounts, engines.

Private to the collection; it may change at any time. Valid for Python 3.6. Reads only. What cannot be read becomes a
finding of its own ("could not be read"): no reader may take silence for an empty list.
"""

import glob
import os
import platform
import re
import socket
from typing import Any, Callable, Dict, List, Optional, Set, Tuple

from ansible_collections.sunset.crm.plugins.module_utils._service import proc as service_proc, scheduler as service_scheduler
from ansible_collections.sunset.crm.plugins.module_utils._survey import (
    foreign as survey_foreign,
    machine as survey_machine,
    media as survey_media,
    rules as survey_rules,
    stores as survey_stores,
)
from ansible_collections.sunset.crm.plugins.module_utils._survey.expected import Expected

Row = Dict[str, Any]
CRON_FOLDERS = ("/etc/cron.d", "/etc/cron.hourly", "/etc/cron.daily", "/etc/cron.weekly", "/etc/cron.monthly")
USER_CRONTABS = ("/var/spool/cron/crontabs", "/var/spool/cron")
CLUSTERS = (
    ("postgresql", ("/var/lib/postgresql/*/*/PG_VERSION", "/var/lib/pgsql/data/PG_VERSION", "/var/lib/pgsql/*/data/PG_VERSION")),
    ("mysql", ("/var/lib/mysql/mysql.ibd",)),  # the dictionary of MySQL from 8.0 on; MariaDB has none
    ("mariadb", ("/var/lib/mysql/ibdata1",)),
)
# (name, processes, paths): any one of them tells that it is here. Those that are not driven: survey_foreign.SIGNS.
ENGINES: Tuple[Tuple[str, Tuple[str, ...], Tuple[str, ...]], ...] = (
    ("docker", ("dockerd",), ("/var/run/docker.sock",)),
    ("podman", ("podman", "conmon"), ("/var/lib/containers/storage/overlay-containers/containers.json",)),
    ("libvirt", ("libvirtd", "virtqemud"), ()),
    ("proxmox", ("pve-cluster", "pmxcfs"), ()),
)
LISTEN = re.compile(r"^Listen=.*?:(\d+) \((Stream|Datagram)\)", re.M)


def host_facts() -> Row:
    """Who this host is."""
    release: Dict[str, str] = {}
    for line in (service_proc.read_text("/etc/os-release") or "").splitlines():
        key, _equals, value = line.partition("=")
        release[key] = value.strip().strip('"')
    return {
        "machine_id": (service_proc.read_text("/etc/machine-id") or "").strip() or None,
        "boot_id": (service_proc.read_text("/proc/sys/kernel/random/boot_id") or "").strip() or None,
        "hostname": socket.gethostname(),
        # Of a virtual machine: the id that its hypervisor knows it by.
        "product_uuid": (service_proc.read_text("/sys/class/dmi/id/product_uuid") or "").strip().lower() or None,
        "os": {
            "id": release.get("ID"),
            "version": release.get("VERSION_ID"),
            "name": release.get("PRETTY_NAME"),
            "kernel": platform.release(),
            "architecture": platform.machine(),
        },
        "python": platform.python_version(),
        "ssh_host_key": ssh_host_key(),
    }


def ssh_host_key() -> Optional[str]:
    """The host's public SSH key, which the plan pins for the vault's pull; the strongest kind that is there."""
    for kind in ("ed25519", "ecdsa", "rsa"):
        parts = (service_proc.read_text("/etc/ssh/ssh_host_%s_key.pub" % kind) or "").split()
        if len(parts) >= 2:
            return " ".join(parts[:2])
    return None


def ephemeral_ports() -> Tuple[int, int]:
    parts = (service_proc.read_text("/proc/sys/net/ipv4/ip_local_port_range") or "").split()
    return (int(parts[0]), int(parts[1])) if len(parts) == 2 else (32768, 60999)


def unreadable(kind: str, name: str) -> Row:
    return survey_rules.finding(kind, "unreadable/" + name, "%s could not be read, so nothing is known about it; run as root" % name)


class Findings(object):
    """Looks at one host, knowing what is declared."""

    def __init__(self, read: Callable[..., Any], items: List[Row], profiles: Dict[str, Row], expected: Expected) -> None:
        self.read = read
        self.items = items
        self.covered = survey_rules.covered_units(items, profiles)
        self.expected = expected
        self.media = expected.media

    def all(self, seen: Dict[str, Row]) -> List[Row]:
        """seen: what Expected said of each item."""
        found = self.listeners() + self.databases() + self.clusters() + self.cron() + self.timers()
        found += self.mounts(seen) + self.engines() + self.stores()
        return sorted(found, key=lambda one: str(one["id"]))

    def listeners(self) -> List[Row]:
        rows, complete = service_proc.listeners()
        owners = service_proc.socket_owners([row["inode"] for row in rows])
        init = service_proc.init_cgroup()
        sockets: Optional[Dict[Tuple[str, int], str]] = None
        for row in rows:
            pid = owners.get(row["inode"])
            row["unit"] = service_proc.unit_of_pid(pid, init) if pid else None
            row["comm"] = service_proc.command_name(pid) if pid else None
            if pid == 1:
                # systemd itself listens for its socket units
                sockets = self._socket_units() if sockets is None else sockets
                row["unit"] = sockets.get((row["proto"], row["port"]), "init.scope")
        rows = survey_rules.drop_resolver(rows, service_proc.read_text("/etc/resolv.conf") or "")
        if any(row["inode"] not in owners for row in rows):
            survey_rules.attribute_by_uid(rows, service_proc.unit_candidates(init), self.covered)
        found = survey_rules.judge_listeners(rows, self.covered, ephemeral_ports())
        return found if complete else found + [unreadable("listener", "/proc/net")]

    def _socket_units(self) -> Dict[Tuple[str, int], str]:
        """{(proto, port): socket unit}; a socket whose service is declared counts as that service."""
        units: Dict[Tuple[str, int], str] = {}
        answer = self.read(["systemctl", "show", "--no-pager", "-p", "Id,Listen,Triggers", "*.socket"])
        for block in answer.out.split("\n\n"):
            names = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
            name = names.get("Id", "")
            if names.get("Triggers", "") in self.covered:
                name = names["Triggers"]
            for port, kind in LISTEN.findall(block):
                units[("tcp" if kind == "Stream" else "udp", int(port))] = name
        return units

    def databases(self) -> List[Row]:
        found = []
        for engine, where in sorted(self.expected.servers):
            declared = {item["database"] for item in self.items if item["kind"] == "database" and item["engine"] == engine}
            found.extend(survey_rules.judge_databases(engine, where, self.expected.servers[(engine, where)], declared))
        return found

    def clusters(self) -> List[Row]:
        """Data directories of servers that no item declares, running or not."""
        declared = [os.path.realpath(item["data"]) for item in self.items if item["kind"] == "database" and item.get("data")]
        found = []
        for engine, patterns in CLUSTERS:
            for mark in sorted(path for pattern in patterns for path in glob.glob(pattern)):
                folder = os.path.realpath(os.path.dirname(mark))
                if engine == "mariadb" and os.path.exists(os.path.join(folder, "mysql.ibd")):
                    continue
                if any(survey_rules.is_below(folder, data) or survey_rules.is_below(data, folder) for data in declared):
                    continue
                what = "data directory of a %s server; no item declares it" % engine
                found.append(survey_rules.finding("database", "%s:%s" % (engine, os.path.dirname(mark)), what))
        return found

    def cron(self) -> List[Row]:
        files: Dict[str, Row] = {}
        lost: List[Row] = []
        for folder in CRON_FOLDERS + USER_CRONTABS:
            try:
                names = sorted(os.listdir(folder))
            except FileNotFoundError:
                continue
            except OSError:
                lost.append(unreadable("cron", folder))
                continue
            for name in names:
                path = os.path.join(folder, name)
                if os.path.isfile(path):
                    files[path] = {"lines": self._commands_in(path)}
        text = service_proc.read_text("/etc/crontab")
        if text is not None and survey_rules.base_commands(text):
            files["/etc/crontab"] = {"lines": survey_rules.base_commands(text)}
        return survey_rules.judge_cron(files, survey_rules.covered_cron_files(self.items)) + lost

    @staticmethod
    def _commands_in(path: str) -> Optional[int]:
        text = service_proc.read_text(path)
        if text is None:
            return None
        if path.startswith(("/etc/cron.d/", "/var/spool/")):
            return len(service_scheduler.cron_commands(text, with_user=path.startswith("/etc/")))
        return 1  # a script of its own

    def timers(self) -> List[Row]:
        answer = self.read(["systemctl", "show", "--no-pager", "-p", "Id,ActiveState,UnitFileState,Triggers", "*.timer"])
        if answer.rc != 0:
            return [unreadable("cron", "timers")]
        rows = {}
        for block in answer.out.split("\n\n"):
            names = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
            if names.get("Id") and (names.get("ActiveState") == "active" or names.get("UnitFileState", "").startswith("enabled")):
                rows[names["Id"]] = {"triggers": names.get("Triggers", "")}
        return survey_rules.judge_timers(rows, self.covered)

    def mounts(self, seen: Dict[str, Row]) -> List[Row]:
        if not self.media.known:
            return [unreadable("mount", "/proc/self/mountinfo")]
        rows = self.media.device_mounts()
        declared: Set[str] = set()
        for item in self.items:
            number = survey_media.device_number(item["device"]) if item["kind"] == "medium" else None
            declared.update(survey_media.whole_devices(number) if number else [])
            if item["kind"] == "filestore":
                declared.update(self.media.numbers_below(item["path"]))
        for answer in seen.values():
            declared.update(
                number for number in (survey_media.device_number(one["device"]) for one in answer["media"] if one.get("device")) if number
            )
        declared |= self.media.system_numbers()
        covered = {row["number"] for row in rows if set(survey_media.whole_devices(row["number"])) <= declared}
        return survey_rules.judge_mounts(rows, set(), covered)

    def engines(self) -> List[Row]:
        planned = {"docker"} if any(item["kind"] == "container" for item in self.items) else set()
        # What its guests are, the hypervisor itself is asked by guest_survey.
        planned |= {str(item.get("backend")) for item in self.items if item["kind"] == "guest"}
        running = {service_proc.command_name(pid) for pid in service_proc.pids()}
        found = []
        for name, processes, paths in ENGINES:
            if name in planned:
                continue
            signs = sorted(running & set(processes)) + [path for path in paths if os.path.exists(path)]
            if signs:
                what = "%s is here (%s); its guests are in no item of this host" % (name, ", ".join(signs))
                found.append(survey_rules.finding("service", name, what))
        return found + survey_foreign.look(running, survey_machine.in_container())

    def stores(self) -> List[Row]:
        running = survey_stores.processes(service_proc.init_cgroup())
        found = survey_stores.judge_unsupported({command for _pid, command, _unit in running})
        found += survey_stores.undeclared_redis(self.items, running)
        return found + survey_stores.undeclared_sqlite(self.items, running)
