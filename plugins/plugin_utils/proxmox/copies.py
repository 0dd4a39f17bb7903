# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Snapshots and backups of guests of Proxmox VE that are off: what Proxmox says of them, and what that is worth."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.sunset.crm.plugins.plugin_utils.actions.account import Account
from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.guests.guests import Guest
from ansible_collections.sunset.crm.plugins.plugin_utils.proxmox import guests as seeing, tasks
from ansible_collections.sunset.crm.plugins.plugin_utils.proxmox.api import ApiError
from ansible_collections.sunset.crm.plugins.plugin_utils.proxmox.cluster import Cluster

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{1,39}")
RESERVED = ("current", "pending", "vzdump")
# Storages that snapshot whatever format the volume has, and those where the format decides.
ALWAYS, BY_FORMAT = ("zfspool", "zfs", "rbd", "lvmthin", "btrfs"), ("dir", "nfs", "cifs", "cephfs", "glusterfs", "lvm")
FREEZE_FAILED = re.compile(r"skipping guest filesystem freeze|guest-fsfreeze-\w+ problems|fsfreeze.*(failed|timeout)", re.IGNORECASE)
FROZEN = re.compile(r"issuing guest-agent '?fs-?freeze|guest-fsfreeze-freeze|freeze filesystem", re.IGNORECASE)


@dataclass(frozen=True)
class Wish:
    """What is to be kept. snapshot: its name, empty for none. storage: where backups go, None for none. leave_out: GUEST:DISK."""

    item: str
    expected: Sequence[str]
    staging: str
    snapshot: str = ""
    storage: str | None = None
    leave_out: frozenset[str] = frozenset()
    timeout: float = 1800.0
    copy_timeout: float = 6 * 3600.0


# --- decisions -----------------------------------------------------------------------------------------------------------


def name_problem(name: str) -> str:
    """Why Proxmox would not take this name for a snapshot; empty if it would."""
    if name.lower() in RESERVED:
        return f"snapshot_name {name!r} is reserved by Proxmox ({', '.join(RESERVED)}); choose another"
    if not NAME.fullmatch(name):
        return f"snapshot_name {name!r}; expected a letter, then 1 to 39 letters, digits, - or _"
    return ""


def snapshot_of(rows: Iterable[Mapping[str, Any]], name: str) -> tuple[str, dict[str, Any]]:
    """(missing | incomplete | whole, row). The list also has a row for "now", at any place; snapstate means half made or half removed."""
    row = next((dict(one) for one in rows if one.get("name") == name and name != "current"), None)
    if row is None:
        return "missing", {}
    return ("incomplete" if row.get("snapstate") else "whole"), row


def cannot_snapshot(kind: str, config: Mapping[str, Any], storages: Mapping[str, str]) -> list[str]:
    """Which disks cannot be snapshotted, by name; Proxmox only says that one cannot. storages: id to type."""
    found = []
    for key, value in seeing.disks(kind, config).items():
        volume = value.split(",")[0].removeprefix("file=").removeprefix("volume=")
        storage, _, name = volume.partition(":")
        if volume.startswith("/") or not name:
            found.append(f"{key} ({volume}: not on a storage of Proxmox)")
            continue
        type_ = storages.get(storage, "")
        qcow2 = name.endswith(".qcow2") or "format=qcow2" in value
        if type_ in ALWAYS or type_ in BY_FORMAT and qcow2:
            continue
        form = "qcow2" if qcow2 else "vmdk" if name.endswith(".vmdk") else "raw"
        found.append(f"{key} ({form} on {storage}, {'a storage of type ' + type_ if type_ else 'whose type the token may not see'})")
    return found


def left_out(kind: str, config: Mapping[str, Any], verb: str) -> list[str]:
    """Disks that a snapshot or backup of this guest passes over without a word."""
    found = []
    for key, value in seeing.disks(kind, config).items():
        options = dict(part.partition("=")[::2] for part in value.split(",")[1:])
        bound = kind == "lxc" and value.split(",")[0].removeprefix("volume=").startswith("/")
        if (
            bound
            or verb == "backup"
            and (
                kind == "qemu"
                and options.get("backup") in ("0", "no")
                or kind == "lxc"
                and key != "rootfs"
                and options.get("backup") not in ("1", "yes")
            )
        ):
            found.append(key)
    return found


def consistency(was_running: bool, memory: bool, log: Sequence[str]) -> str:
    """offline, memory, quiesced, or crash-consistent: a freeze that failed is one line in a log that ends with OK."""
    if not was_running:
        return "offline"
    if memory:
        return "memory"
    frozen = any(FROZEN.search(line) for line in log)
    return "quiesced" if frozen and not any(FREEZE_FAILED.search(line) for line in log) else "crash-consistent"


def marker(item: str, guest: Guest) -> str:
    """What a backup of ours is known by. It becomes a template in Proxmox: no braces, no line breaks."""
    return re.sub(r"[^\w ./:@-]", "_", f"sunset.crm {item} {guest.key}")[:200]


def archives(rows: Iterable[Mapping[str, Any]], vmid: int, mark: str) -> list[dict[str, Any]]:
    """Whole backups of this guest that carry our mark, the newest first."""
    ours = [
        dict(row)
        for row in rows
        if str(row.get("vmid", vmid)) == str(vmid) and str(row.get("notes") or "").strip() == mark and int(row.get("size") or 0) > 0
    ]
    return sorted(ours, key=lambda row: int(row.get("ctime") or 0), reverse=True)


def names_archive(log: Sequence[str], vmid: int) -> str:
    """What speaks against a vzdump log; empty if it says that this guest is in an archive."""
    if not any(f"Finished Backup of VM {vmid} " in f"{line} " for line in log):
        return "its log does not say that the backup was finished"
    return next((line for line in log if line.startswith("ERROR:")), "")


def unlike(kind: str, archived: str, config: Mapping[str, Any], without: Collection[str]) -> list[str]:
    """Disks of the guest that the configuration inside an archive does not know."""
    return [
        key for key in seeing.disks(kind, config) if key not in without and not re.search(rf"^{re.escape(key)}:", archived, re.MULTILINE)
    ]


def started_since(cluster: Cluster, one: Guest, moment: int) -> str:
    """The task that started a guest after a moment; empty if there is none."""
    place = cluster.place(one)
    last = tasks.last_of(tasks.of_guest(cluster.api, place.node, place.vmid), place.vmid, tasks.START)
    return last.type if last is not None and last.start > moment else ""


# --- snapshots -----------------------------------------------------------------------------------------------------------


class Snapshots:
    """Every guest has a whole snapshot of the name, taken since it last ran."""

    def __init__(self, cluster: Cluster, wish: Wish, usable: Sequence[Guest]) -> None:
        """Look, and refuse what cannot be done before anything is begun."""
        self._cluster, self._wish, self._usable = cluster, wish, usable
        standing = cluster.each(self._standing, usable)
        self._refuse_broken(standing)
        self._wanted = [one for one in usable if standing[one.name][0] == "missing"]
        able = cluster.each(self._unable, self._wanted)
        unable = [f"{name}: {', '.join(why)}" for name, why in sorted(able.items()) if why]
        if unable:
            raise Refusal(
                f"no snapshot is possible of {'; '.join(unable)}. Nothing was changed. Have a backup made instead (copy, storage), or move the "
                "disk to a storage that can."
            )

    @property
    def names(self) -> list[str]:
        return [one.name for one in self._wanted]

    def _rows(self, one: Guest) -> tuple[str, dict[str, Any]]:
        return snapshot_of(self._cluster.api.get(*self._cluster.place(one).path, "snapshot"), self._wish.snapshot)

    def _standing(self, one: Guest) -> tuple[str, str]:
        state, row = self._rows(one)
        if state == "whole" and (since := started_since(self._cluster, one, int(row.get("snaptime") or 0))):
            return "old", since
        return state, str(row.get("snapstate") or "")

    def _refuse_broken(self, standing: Mapping[str, tuple[str, str]]) -> None:
        name = self._wish.snapshot
        broken = [f"{guest} ({why})" for guest, (state, why) in sorted(standing.items()) if state == "incomplete"]
        old = [f"{guest} ({why} since)" for guest, (state, why) in sorted(standing.items()) if state == "old"]
        if broken:
            raise Refusal(
                f"the snapshot {name} of {', '.join(broken)} is incomplete (snapstate): a task that made or removed it broke. Nothing was "
                "changed. Have a person look at the disks and remove it, then run the same command again."
            )
        if old:
            raise Refusal(
                f"the snapshot {name} is older than the last run of {', '.join(old)}. Nothing was changed and nothing is removed. Give another "
                "snapshot_name, or have a person remove the old one."
            )

    def _unable(self, one: Guest) -> list[str]:
        place, api = self._cluster.place(one), self._cluster.api
        if int(api.get(*place.path, "feature", feature="snapshot").get("hasFeature") or 0):
            return []
        storages = {str(row["storage"]): str(row.get("type") or "") for row in api.get("nodes", place.node, "storage")}
        return cannot_snapshot(place.kind, one.record["disks"], storages) or ["one of its disks; Proxmox does not say which"]

    def take(self, account: Account, result: dict[str, Any]) -> list[str]:
        """Take what is missing and read again; what is wrong, in words."""
        ended = self._cluster.each(self._one, self._wanted)
        for one in self._wanted:
            account.did(did="asked for a snapshot", guest=one.name, said=ended[one.name].said)
        after = self._cluster.each(self._rows, self._usable)
        bad = []
        for one in self._usable:
            state, row = after[one.name]
            done = ended.get(one.name)
            result["snapshots"][one.name] = {
                "id": one.key,
                "snapshot": self._wish.snapshot,
                "state": state,
                "taken": int(row.get("snaptime") or 0),
                "consistency": consistency(False, False, ()),
                "copy": "no: it lies on the same storage as the disk",
                "said": done.said if done else "it was there",
                "left_out": left_out(one.record["kind"], one.record["disks"], "snapshot"),
            }
            if state != "whole" or (done and not done.good):
                bad.append(f"no whole snapshot {self._wish.snapshot} of {one.name}: {reason(done, state)}")
        return bad

    def _one(self, one: Guest) -> tasks.Outcome:
        cluster, place = self._cluster, self._cluster.place(one)
        values = {"snapname": self._wish.snapshot, "description": f"sunset.crm: {self._wish.item}, taken while off"}
        clock, types = cluster.clock, ("qmsnapshot", "vzsnapshot")
        deadline = clock.now() + self._wish.timeout
        while True:
            try:
                upid = tasks.begin(cluster.api, (*place.path, "snapshot"), values, types, place.vmid, place.node, clock.sleep)
                seen = tasks.wait(cluster.api, upid, max(1.0, deadline - clock.now()), clock.now, clock.sleep)
            except ApiError as exc:
                seen = tasks.Outcome(tasks.FAILED, exc.text)
            passing = seen.word == tasks.FAILED and (tasks.FLOCK.search(seen.said) or tasks.LOCKED.search(seen.said))
            if not passing or clock.now() >= deadline:
                return seen
            clock.sleep(2.0)


def reason(ended: tasks.Outcome | None, state: str) -> str:
    """Why there is no whole snapshot, in words."""
    if ended is None:
        return f"it is {state} now and was whole before"
    if ended.word == tasks.RUNNING:
        return "its task has not ended in time and still runs"
    return f"{ended.said}{' (' + '; '.join(ended.notes) + ')' if ended.notes else ''}; the snapshot is {state}"


# --- backups -------------------------------------------------------------------------------------------------------------


class Backups:
    """Every guest has an archive on the storage, made since it last ran, that was read again."""

    def __init__(self, cluster: Cluster, wish: Wish, found: Sequence[Guest]) -> None:
        self._cluster, self._wish, self._found = cluster, wish, found
        self._storage = wish.storage or ""
        standing = cluster.each(self._standing, found)
        self._wanted = [one for one in found if not standing[one.name]]

    @property
    def names(self) -> list[str]:
        return [one.name for one in self._wanted]

    def _content(self, one: Guest) -> list[dict[str, Any]]:
        place = self._cluster.place(one)
        path = ("nodes", place.node, "storage", self._storage, "content")
        return list(self._cluster.api.get(*path, content="backup", vmid=place.vmid))

    def _ours(self, one: Guest) -> list[dict[str, Any]]:
        return archives(self._content(one), one.record["vmid"], marker(self._wish.item, one))

    def _standing(self, one: Guest) -> bool:
        """Whether an archive of an earlier run is still of the guest as it is now."""
        kept = self._ours(one)
        return bool(kept) and not started_since(self._cluster, one, int(kept[0].get("ctime") or 0))

    def take(self, account: Account, result: dict[str, Any]) -> list[str]:
        """Make what is missing and read again; what is wrong, in words."""
        # One vzdump a node at a time is all that Proxmox does; asked for all at once they would only queue for its lock.
        made = self._cluster.each(self._one, self._wanted, by_node=True)
        for one in self._wanted:
            account.did(did="asked for a backup", guest=one.name, said=made[one.name] or "an archive was made")
        bad = []
        for one in self._found:
            row, why = self._proven(one)
            result["backups"][one.name] = {"id": one.key, "storage": self._storage, "sha256": "unknown: Proxmox gives none", **row}
            if why := made.get(one.name) or why:
                bad.append(f"no proven backup of {one.name} on {self._storage}: {why}")
        return bad

    def _one(self, one: Guest) -> str:
        """What went wrong; empty if an archive was made."""
        cluster = self._cluster
        before = {str(row["volid"]) for row in self._content(one)}
        try:
            upid = self._begin(one)
        except tasks.NoTask as exc:
            # The plain word OK: the guest is not on that node, and nothing was done. Once more where it is now.
            was = cluster.place(one).node
            if cluster.look_again(one).node == was:
                return str(exc)
            try:
                upid = self._begin(one)
            except (tasks.NoTask, ApiError) as again:
                return str(again)
        except ApiError as exc:
            return exc.text
        seen = tasks.wait(cluster.api, upid, self._wish.copy_timeout, cluster.clock.now, cluster.clock.sleep)
        if not seen.over:
            return f"its vzdump has not ended within {self._wish.copy_timeout:g} s and still runs"
        if not seen.good:
            return f"vzdump: {seen.said}{' (' + '; '.join(seen.notes) + ')' if seen.notes else ''}"
        if why := names_archive(tasks.whole_log(cluster.api, upid), one.record["vmid"]):
            return why
        fresh = [row for row in self._content(one) if row["volid"] not in before]
        return "" if fresh else f"vzdump ended with {seen.said}, and there is no archive that was not there before"

    def _begin(self, one: Guest) -> tasks.Upid:
        place = self._cluster.place(one)
        values = {
            "vmid": place.vmid,
            "storage": self._storage,
            "mode": "snapshot",  # of a guest that is off; mode stop would be no better and starts guests
            "compress": "zstd",
            "remove": 0,  # the default prunes older backups
            "protected": 1,  # or the retention of the storage removes it one day
            "notes-template": marker(self._wish.item, one),
        }
        clock = self._cluster.clock
        return tasks.begin(self._cluster.api, ("nodes", place.node, "vzdump"), values, ("vzdump",), place.vmid, place.node, clock.sleep)

    def _proven(self, one: Guest) -> tuple[dict[str, Any], str]:
        """The archive as it is read again, and what speaks against it."""
        kept = self._ours(one)
        if not kept:
            return {}, "there is no archive of it with the mark of this item"
        row = {key: kept[0].get(key) for key in ("volid", "size", "ctime", "format", "protected", "verification")}
        place = self._cluster.place(one)
        try:
            archived = str(self._cluster.api.get("nodes", place.node, "vzdump", "extractconfig", volume=row["volid"]))
        except ApiError as exc:
            return row, f"the configuration inside {row['volid']} cannot be read: {exc.text}"
        without = [key for key in one.record["disks"] if f"{one.name}:{key}" in self._wish.leave_out]
        lacks = unlike(place.kind, archived, one.record["disks"], without)
        if lacks:
            return row, f"{row['volid']} does not know {', '.join(lacks)}"
        state = (kept[0].get("verification") or {}).get("state")
        return row, f"the backup server's own verification of {row['volid']} says {state}" if state not in (None, "ok") else ""
