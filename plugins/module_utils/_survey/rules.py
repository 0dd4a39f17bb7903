# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What of the things seen on a host is declared, what is part of any base system, and what is a finding.

Private to the collection; it may change at any time. Valid for Python 3.6. Pure: the world is read in _survey.host.

A finding's id is stable over reboots (no process ids, no random ports) and says enough that another program on the
same port is another finding: a person's word about the one must not cover the other.
"""

import os
import re
from typing import Any, Dict, Iterable, List, Optional, Set, Tuple

from ansible_collections.sunset.crm.plugins.module_utils._service import scheduler as service_scheduler

Row = Dict[str, Any]
Finding = Dict[str, Any]

# What listens on a plain server with nothing on it. Short on purpose: mail, monitoring and file servers may hold data
# or be needed by others, so a person says once what they are.
BASE_UNITS = re.compile(
    r"^(ssh|sshd|sshd@.*|dbus|dbus-broker|rsyslog|chrony|chronyd|ntp|ntpd|ntpsec|openntpd|systemd-[a-z0-9-]+|"
    r"NetworkManager|networking|ifup@.*|dhcpcd|dhclient|cloud-init.*|cron|crond|atd|getty@.*|serial-getty@.*|"
    r"polkit|udev|unattended-upgrades|acpid|irqbalance)\.(service|socket)$"
)
BASE_CRON = {
    "/etc/cron.d": ("e2scrub_all", "sysstat", "anacron", "mdadm", "0hourly", "raid-check", "zfsutils-linux", "ntpsec"),
    "/etc/cron.hourly": ("0anacron", "ntpsec"),
    "/etc/cron.daily": (
        "apt-compat", "aptitude", "bsdmainutils", "cracklib-runtime", "dpkg", "logrotate", "man-db", "man-db.cron", "mlocate",
        "passwd", "plocate", "popularity-contest", "sysstat", "0anacron", "chkconfig", "google-chrome",
    ),
    "/etc/cron.weekly": ("man-db", "fstrim", "0anacron"),
    "/etc/cron.monthly": ("0anacron",),
}  # fmt: skip
BASE_TIMERS = re.compile(
    r"^(apt-daily|apt-daily-upgrade|dpkg-db-backup|e2scrub_all|fstrim|logrotate|man-db|motd-news|plocate-updatedb|"
    r"mlocate-updatedb|sysstat-(collect|rotate|summary)|systemd-[a-z-]+|dnf-makecache|dnf-automatic.*|unbound-anchor|"
    r"fwupd-refresh|update-notifier-(download|motd)|ua-timer|apt-news|esm-cache|mdcheck_(start|continue)|mdmonitor-oneshot|"
    r"raid-check|xfs_scrub_all|chrony-dnssrv@.*|anacron|phpsessionclean)\.timer$"
)
CRON_IGNORED = re.compile(r"^(\.placeholder|README.*|.*~|.*\.(dpkg-\w+|rpm\w+|bak|disabled))$")
PG_TEMPLATES = ("template0", "template1")
MY_SYSTEM = ("information_schema", "mysql", "performance_schema", "sys")
WEB_UNITS = {"nginx": ["nginx.service"]}
ENGINE_UNITS = ["docker.service", "docker.socket", "containerd.service"]
# The daemons of a hypervisor whose guests are planned; the guests' own processes run in scopes of their own (GUEST_SCOPES).
HYPERVISOR_UNITS = {
    "libvirt": [
        "libvirtd.service", "libvirtd.socket", "libvirtd-ro.socket", "libvirtd-admin.socket", "libvirtd-tls.socket", "libvirtd-tcp.socket",
        "virtqemud.service", "virtqemud.socket", "virtlogd.service", "virtlockd.service", "virtnetworkd.service", "virtstoraged.service",
        "virtproxyd.service", "libvirt-guests.service",
    ],
    "proxmox": [
        "pve-cluster.service", "pvedaemon.service", "pveproxy.service", "spiceproxy.service", "pvestatd.service", "pve-ha-crm.service",
        "pve-ha-lrm.service", "pvescheduler.service", "corosync.service", "qmeventd.service", "pve-firewall.service", "pvefw-logger.service",
    ],
}  # fmt: skip
GUEST_SCOPES = {
    "libvirt": re.compile(r"^machine-(qemu|lxc).*\.scope$"),
    "proxmox": re.compile(r"^(\d+\.scope|pve-container@\d+\.service)$"),
}
SYSTEM_MOUNTS = ("/", "/boot", "/boot/efi", "/efi", "/usr")


def item_id(item: Row) -> str:
    return "%s:%s" % (item["kind"], item["name"])


def finding(kind: str, name: str, what: str, **more: Any) -> Finding:
    return dict(more, id="%s:%s" % (kind, name), kind=kind, what=what)


def declaration_problem(items: List[Any]) -> Optional[str]:
    """What is wrong with the declarations themselves; None if nothing is."""
    seen: Set[str] = set()
    for number, item in enumerate(items, 1):
        if not isinstance(item, dict) or not item.get("kind") or not item.get("name"):
            return "item %d: expected a mapping with kind and name, found %r" % (number, item)
        lacking = [key for key in REQUIRED.get(item["kind"], ()) if not item.get(key)]
        if lacking:
            return "%s: %s missing in its declaration" % (item_id(item), ", ".join(lacking))
        if item_id(item) in seen:
            return "%s is declared twice" % item_id(item)
        seen.add(item_id(item))
    return None


REQUIRED: Dict[str, Tuple[str, ...]] = {
    "database": ("engine", "database"),
    "filestore": ("path",),
    "medium": ("device",),
    "guest": ("backend", "guests", "staging"),
}


def application_units(item: Row) -> List[str]:
    """Units that belong to an application by its declaration."""
    units = [service["unit"] for service in item.get("services") or []]
    units += (item.get("schedulers") or {}).get("units") or []
    return units + list(item.get("units") or [])


def covered_units(items: Iterable[Row], profiles: Dict[str, Row]) -> Set[str]:
    """Units whose listeners and timers are accounted for."""
    units: Set[str] = set()
    for item in items:
        units.update(application_units(item))
        if item.get("unit"):
            units.add(item["unit"])
        web = item.get("web") or {}
        units.update([web["unit"]] if web.get("unit") else WEB_UNITS.get(web.get("server", ""), []))
        if item["kind"] == "container":
            units.update(ENGINE_UNITS)
        if item["kind"] == "guest":
            units.update(HYPERVISOR_UNITS.get(item.get("backend", ""), []))
        units.update((profiles.get(item.get("profile", "")) or {}).get("units") or [])
    return units


def covered_cron_files(items: Iterable[Row]) -> Set[str]:
    return {path for item in items for path in (item.get("schedulers") or {}).get("cron_files") or []}


def unit_is_known(unit: Optional[str], covered: Set[str]) -> bool:
    if unit is None:
        return False
    # A planned guest's own process (its console) belongs to the guest's item.
    planned = [GUEST_SCOPES[name] for name, units in HYPERVISOR_UNITS.items() if units[0] in covered]
    return unit in covered or bool(BASE_UNITS.match(unit)) or any(scope.match(unit) for scope in planned)


def listener_name(row: Row, ephemeral: Tuple[int, int]) -> str:
    """'tcp/9099:report.service'. A port the system picked at random is no name."""
    port = "dynamic" if ephemeral[0] <= row["port"] <= ephemeral[1] else str(row["port"])
    owner = row.get("unit") or row.get("comm") or "unknown"
    if re.match(r"^session-\w+\.scope$", owner):
        # a login's number changes with each login; the program is what stays
        owner = "login:%s" % (row.get("comm") or "unknown")
    return "%s/%s:%s" % (row["proto"], port, owner)


def attribute_by_uid(rows: List[Row], candidates: Dict[int, Dict[Optional[str], str]], covered: Set[str]) -> None:
    """Fill in the unit of sockets whose holder could not be seen, from the processes of the socket's user.

    One candidate is the holder. Of several, all declared, any may stand for the others; else it stays unknown, for a
    stranger may be among them.
    """
    for row in rows:
        units = candidates.get(row["uid"]) if not row.get("unit") and not row.get("comm") else None
        if units and (len(units) == 1 or all(unit_is_known(unit, covered) for unit in units)):
            row["unit"] = sorted(units, key=str)[0]
            row["comm"] = units[row["unit"]]
        elif units:
            row["comm"] = "user %d" % row["uid"]


def drop_resolver(rows: List[Row], resolv_conf: str) -> List[Row]:
    """Without the name server that a container engine puts into a host that is itself a container: its sockets are
    here, its process is outside."""
    inside = re.search(r"^nameserver\s+127\.0\.0\.11\s*$", resolv_conf, re.M)
    return [row for row in rows if not (inside and row["address"] == "127.0.0.11" and not row.get("comm"))]


def judge_listeners(rows: List[Row], covered: Set[str], ephemeral: Tuple[int, int]) -> List[Finding]:
    """rows: {proto, address, port, unit, comm}. One finding a port and owner, with all its addresses."""
    found: Dict[str, Tuple[Row, Set[str]]] = {}
    for row in rows:
        if unit_is_known(row.get("unit"), covered):
            continue
        name = listener_name(row, ephemeral)
        found.setdefault(name, (row, set()))[1].add(row["address"])
    return [
        finding(
            "listener",
            name,
            "%s listens on %s port %s of %s; no item of this host declares it"
            % (
                "%s (%s)" % (row.get("unit") or "a process of no unit", row.get("comm") or "unknown program"),
                row["proto"], name.split("/")[1].split(":")[0], ", ".join(sorted(addresses)),
            ),
        )
        for name, (row, addresses) in sorted(found.items())
    ]  # fmt: skip


def judge_databases(engine: str, where: str, names: Dict[str, Optional[int]], declared: Set[str]) -> List[Finding]:
    """names: database -> number of user tables, None where that is unknown."""
    system = PG_TEMPLATES if engine == "postgresql" else MY_SYSTEM
    found = []
    for name in sorted(names):
        if name in declared or name in system or (engine == "postgresql" and name == "postgres" and names[name] == 0):
            continue
        tables = "an unknown number of" if names[name] is None else str(names[name])
        found.append(
            finding(
                "database",
                "%s/%s/%s" % (engine, where, name),
                "database %s with %s tables on the same %s server (%s); no item declares it" % (name, tables, engine, where),
            )
        )
    return found


def judge_cron(files: Dict[str, Row], declared: Set[str]) -> List[Finding]:
    """files: path -> {lines: number of commands or None if unreadable}."""
    found = []
    for path in sorted(files):
        folder, name = os.path.split(path)
        if path in declared or service_scheduler.thawed_name(path) in declared or CRON_IGNORED.match(name):
            continue
        if name in BASE_CRON.get(folder, ()):
            continue
        lines = files[path]["lines"]
        if lines == 0:
            continue
        owner = " of user %s" % name if "/spool/cron" in folder else ""
        amount = "unreadable" if lines is None else "%d command(s)" % lines
        found.append(finding("cron", path, "cron file%s, %s; no item declares it" % (owner, amount)))
    return found


def judge_timers(timers: Dict[str, Row], covered: Set[str]) -> List[Finding]:
    """timers: unit -> {triggers}."""
    found = []
    for name in sorted(timers):
        if BASE_TIMERS.match(name) or name in covered or timers[name]["triggers"] in covered:
            continue
        what = "timer that starts %s; no item declares it" % (timers[name]["triggers"] or "an unknown unit")
        found.append(finding("cron", "timer/" + name, what))
    return found


def base_commands(text: str) -> int:
    """Commands in /etc/crontab beyond the run-parts lines that every distribution ships."""
    return len([one for one in service_scheduler.cron_commands(text) if "run-parts" not in one])


def is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def mount_of(path: str, mounts: List[Row]) -> Optional[Row]:
    """The mount that a (resolved) path lies on: the longest mount point above it, the newest of equal ones."""
    best: Optional[Row] = None
    for mount in mounts:
        if is_below(path, mount["point"]) and (best is None or len(mount["point"]) >= len(best["point"])):
            best = mount
    return best


def parse_mountinfo(text: str) -> List[Row]:
    """[{number, root, point, fstype, source}] of a mountinfo file; escapes such as \\040 are undone."""
    rows = []
    for line in text.splitlines():
        parts = line.split(" ")
        if " - " not in line or len(parts) < 10:
            continue
        tail = line.split(" - ", 1)[1].split(" ")
        rows.append(
            {
                "number": parts[2], "root": unescaped(parts[3]), "point": unescaped(parts[4]),
                "fstype": tail[0], "source": unescaped(tail[1]),
            }
        )  # fmt: skip
    return rows


def unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match.group(1), 8)), text)


def judge_mounts(mounts: List[Row], covered_points: Set[str], covered_numbers: Set[str]) -> List[Finding]:
    """Mounts of block devices that carry nothing declared and are not the system's own.

    covered_numbers: device numbers of declared media and of the system's own disks.
    """
    found: Dict[str, Finding] = {}
    for mount in mounts:
        number, point = mount["number"], mount["point"]
        if number in covered_numbers or point in covered_points or point in SYSTEM_MOUNTS:
            continue
        what = "%s (%s) is mounted here from %s; no item lies on it" % (point, mount["fstype"], mount["source"])
        found.setdefault(number, finding("mount", point, what))
    return [found[number] for number in sorted(found, key=lambda one: str(found[one]["id"]))]
