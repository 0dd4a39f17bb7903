# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What libvirt's numbers and definitions mean for us. Pure: no connection, no libvirt."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.sunset.crm.plugins.plugin_utils.guests.guests import ALREADY_OFF, BY_FORCE, BY_ITSELF, UNKNOWN, Ending, Guest

STATES = {0: "no state", 1: "running", 2: "blocked", 3: "paused", 4: "in shutdown", 5: "shut off", 6: "crashed", 7: "asleep"}
# In shutdown still runs, asleep and crashed still hold their memory: only 5 is off.
POWER = {0: "unknown", 1: "on", 2: "on", 3: "paused", 4: "changing", 5: "off", 6: "unknown", 7: "unknown"}
OFF_REASONS = {
    0: "unknown", 1: "shutdown", 2: "destroyed", 3: "crashed", 4: "migrated", 5: "saved", 6: "failed", 7: "from snapshot", 8: "daemon",
}  # fmt: skip
# Reasons of a pause: it is being moved; its disk failed. And of shut off: it was moved, and runs elsewhere under the same definition.
MOVING, IO_ERROR = 2, 5
MOVED = 4
GONE_ELSEWHERE = "it was moved to another host and is gone from here; find out where it runs, mend the inventory and survey again"
# Who else believes to own a guest, by the namespace of the metadata that it leaves in the definition.
OWNERS = (
    (re.compile(r"^https?://ovirt\.org/vm/"), "oVirt runs it and would start it again; stop it in its engine and take it out there"),
    (
        re.compile(r"^https?://openstack\.org/xmlns/libvirt/nova/"),
        "OpenStack runs it; stop the instance there, on every compute node it knows",
    ),
    (re.compile(r"^https?://kubevirt\.io"), "KubeVirt runs it; stop its virtual machine object"),
)
AGENT = "org.qemu.guest_agent.0"
# What a definition says shall happen when the guest ends: these make an end a new beginning.
RESTARTS = ("restart", "rename-restart", "coredump-restart")
COPIED_TYPES = ("file", "block")


def power_of(state: int, reason: int) -> str:
    """A definition that a move left behind is shut off, and its guest runs on another host: that is not off."""
    return "unknown" if (state, reason) == (5, MOVED) else POWER.get(state, "unknown")


def parse(xml: str) -> ET.Element:
    return ET.fromstring(xml)  # noqa: S314 - libvirt's own document


def owner_of(xml: str) -> str:
    """Why this guest belongs to another manager; empty if nothing says so."""
    for element in parse(xml).iterfind("metadata/*"):
        namespace = element.tag.partition("}")[0].lstrip("{")
        for pattern, why in OWNERS:
            if pattern.match(namespace):
                return f"{why} (metadata {namespace})"
    return ""


def cluster_owner(cib: str, name: str) -> str:
    """Why Pacemaker would start this guest again, from its configuration; empty if it has no such resource."""
    if "VirtualDomain" not in cib:
        return ""
    try:
        root = parse(cib)
    except ET.ParseError:
        return "Pacemaker has virtual machines on this host and its configuration cannot be read; disable the resource there first"
    for primitive in root.iter("primitive"):
        if primitive.get("type") == "VirtualDomain":
            configured = [one.get("value", "") for one in primitive.iter("nvpair") if one.get("name") == "config"]
            if not configured or any(re.search(rf"(^|/){re.escape(name)}(\.xml)?$", value) for value in configured):
                return f"Pacemaker runs it (resource {primitive.get('id')}) and would start it again; disable the resource there first"
    return ""


def endings_of(xml: str) -> dict[str, str]:
    """What the definition says about an end and a crash."""
    root = parse(xml)
    return {name: root.findtext(name) or "destroy" for name in ("on_poweroff", "on_crash")}


def agent_of(xml: str) -> str:
    """none, absent (a channel and nobody at its end) or connected."""
    for target in parse(xml).iterfind("devices/channel/target"):
        if target.get("name") == AGENT:
            return "connected" if target.get("state") == "connected" else "absent"
    return "none"


def disks_of(xml: str) -> list[dict[str, Any]]:
    """The guest's disks: what carries each, and in which format the hypervisor reads it. Empty drives and images of CDs are none."""
    found = []
    for disk in parse(xml).iterfind("devices/disk"):
        source, driver = disk.find("source"), disk.find("driver")
        if disk.get("device", "disk") not in ("disk", "lun") or source is None:
            continue
        kind = disk.get("type", "file")
        path = source.get("file") or source.get("dev") or ""
        told = path or ":".join(filter(None, (source.get("protocol"), source.get("pool"), source.get("name") or source.get("volume"))))
        found.append(
            {
                "target": (disk.find("target").attrib if disk.find("target") is not None else {}).get("dev", ""),  # type: ignore[union-attr]
                "type": kind,
                "source": told,
                "format": (driver.get("type") if driver is not None else "") or "raw",
                "readonly": disk.find("readonly") is not None,
                "shared": disk.find("shareable") is not None,
            }
        )
    return found


def boot_files(xml: str) -> list[tuple[str, str]]:
    """(what, path) of the files on the host that a guest is started from past its own disks: without them its disks do not start."""
    root = parse(xml)
    found = [(what, (root.findtext(f"os/{what}") or "").strip()) for what in ("kernel", "initrd", "dtb")]
    return [(what, path) for what, path in found if path]


def nvram_of(xml: str) -> str:
    """The file of the guest's UEFI variables; empty if it has none."""
    return (parse(xml).findtext("os/nvram") or "").strip()


def has_pflash(xml: str) -> bool:
    root = parse(xml)
    os = root.find("os")
    loader = root.find("os/loader")
    return (loader is not None and loader.get("type") == "pflash") or (os is not None and os.get("firmware") == "efi")


def snapshot_obstacles(name: str, xml: str, kind: str, *, managed_save: bool, others: Sequence[str]) -> list[str]:
    """Why a snapshot of this kind cannot be taken of a guest that is off, disk by disk. others: kinds of snapshots that it has."""
    wrong: list[str] = []
    if kind == "none":
        return wrong
    if managed_save:
        wrong.append(f"{name}: its memory is saved on disk; a snapshot would not match it. Start it and shut it down, then save it again")
    writable = [disk for disk in disks_of(xml) if not disk["readonly"]]
    if kind == "internal":
        wrong += [
            f"{name}: its disk {disk['target']} ({disk['source']}) is {disk['format']}; an internal snapshot needs qcow2 on every disk"
            for disk in writable
            if disk["format"] != "qcow2"
        ]
        if has_pflash(xml):
            wrong.append(f"{name}: it starts from UEFI firmware, of which this hypervisor takes no internal snapshot")
    else:
        wrong += [
            f"{name}: its disk {disk['target']} ({disk['source']}) is of the type {disk['type']}; an external snapshot needs a file or device"
            for disk in writable
            if disk["type"] not in COPIED_TYPES
        ]
    if set(others) - {kind}:
        wrong.append(f"{name}: it has {' and '.join(sorted(set(others) - {kind}))} snapshots; kinds that are mixed have lost disks")
    return wrong


def copy_obstacles(name: str, xml: str, *, managed_save: bool) -> list[str]:
    """Why the disks of a guest that is off cannot be copied."""
    wrong = [
        f"{name}: its disk {disk['target']} ({disk['source'] or disk['type']}) is of the type {disk['type']}; only files and block devices "
        "are this module's to copy. Copy it with the tools of its storage, and leave copy out"
        for disk in disks_of(xml)
        if disk["type"] not in COPIED_TYPES
    ]
    if managed_save:
        wrong.append(f"{name}: its memory is saved on disk, so its disks are not at rest. Start it and shut it down, then save it again")
    return wrong


def snapshot_kind(xml: str) -> str:
    """Of a snapshot's own description: external as soon as one disk's part lies in another file."""
    return "external" if any(disk.get("snapshot") == "external" for disk in parse(xml).iterfind("disks/disk")) else "internal"


def snapshot_xml(name: str, disks: Sequence[Mapping[str, Any]], kind: str) -> str:
    """The description that a snapshot is made from: every disk that is written to, no other."""
    root = ET.Element("domainsnapshot")
    ET.SubElement(root, "name").text = name
    parts = ET.SubElement(root, "disks")
    for disk in disks:
        ET.SubElement(parts, "disk", name=str(disk["target"]), snapshot="no" if disk["readonly"] else kind)
    return ET.tostring(root, encoding="unicode")


def ending_of(before: Guest, after: Guest, asked: bool, forced: bool, events: Sequence[str]) -> Ending:
    """How a guest came to be off. events: what libvirt told meanwhile, oldest first."""
    reason = str(after.record.get("reason"))
    if before.power == "off":
        graceful = {"shutdown": "yes", "unknown": "unknown", "daemon": "unknown", "migrated": "unknown"}.get(reason, "no")
        detail = "its memory is saved on disk (managed save)" if after.record.get("managed_save") else f"reason {reason}"
        return Ending(ALREADY_OFF, "no" if after.record.get("managed_save") else graceful, detail)
    shown = f"{after.record.get('state')}, reason {reason}" + (f"; events: {', '.join(events)}" if events else "; no event was seen")
    stopped = next((one.partition(": ")[2] for one in reversed(events) if one.startswith("stopped: ")), reason)
    if forced and stopped in ("destroyed", "unknown"):
        return Ending(BY_FORCE, "no", f"{shown}; cut off by this module")
    if stopped == "destroyed":
        return Ending(BY_FORCE, "no", f"{shown}; cut off by somebody else")
    if stopped == "shutdown":
        # A process that is ended on the host makes libvirt say shutdown as well; the event before tells who did it.
        if "shutdown: from the host" in events:
            return Ending(BY_FORCE, "no", f"{shown}; its process was ended on the host")
        return Ending(BY_ITSELF, "yes", shown if asked else f"{shown}; before it was asked")
    if stopped in ("crashed", "failed"):
        return Ending(UNKNOWN, "no", f"{shown}; it crashed")
    if stopped == "saved":
        return Ending(UNKNOWN, "no", f"{shown}; somebody saved its memory to disk")
    return Ending(UNKNOWN, "unknown", f"{shown}; libvirt does not say how it ended")


def returns_of(autostart: bool, endings: Sequence[Mapping[str, str]]) -> str:
    """What would start a guest again, in words. endings: of the running and of the kept definition."""
    found = {f"{name}={value}" for one in endings for name, value in one.items() if value in RESTARTS}
    return ", ".join((["autostart"] if autostart else []) + sorted(found))
