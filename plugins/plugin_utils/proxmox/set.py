# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A set of guests of one Proxmox VE cluster or node, read: rights, quorum, who is where, who has locked what."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

from ansible_collections.sunset.crm.plugins.plugin_utils.errors import NotYet, Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.guests.guests import Clock, Guest
from ansible_collections.sunset.crm.plugins.plugin_utils.proxmox import guests as seeing, rights, tasks
from ansible_collections.sunset.crm.plugins.plugin_utils.proxmox.api import WORKERS, Api, ApiError, version_of
from ansible_collections.sunset.crm.plugins.plugin_utils.proxmox.guests import Place

STALE_LOOKS, STALE_PAUSE = 3, 2.0


class GuestSet:
    """One API, and the guests of it that a declaration names. Others are not touched."""

    def __init__(
        self,
        api: Api,
        expected: Sequence[str],
        timeout: float = 120.0,
        force_after: float | None = None,
        keep_off: bool = True,
        lock_wait: float = 600.0,
        clock: Clock | None = None,
        known_as: str = "",
        ids: Mapping[str, str] | None = None,
    ) -> None:
        self.api = api
        self.expected = [str(name) for name in expected]
        self._timeout, self._force_after = timeout, force_after
        self._keep_off, self._lock_wait = keep_off, lock_wait
        self._known_as, self._ids = known_as, dict(ids or {})
        self.clock = clock or Clock()
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="proxmox")
        self._places: dict[str, Place] = {}
        self._seen: dict[str, Guest] = {}
        self._told: set[str] = set()
        self.tell: Callable[[str], None] = lambda _text: None
        said = api.get("version")
        self.running = str(said.get("version") or "?")
        self.version = version_of(self.running)
        self.nodes: list[dict[str, Any]] = []
        self.name = ""

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    @property
    def what(self) -> str:
        return f"guests of {self.name}"

    def host(self) -> dict[str, Any]:
        """Who the cluster is, in the form in which the survey writes it into the plan."""
        return {"cluster": self.name, "nodes": sorted(str(node["name"]) for node in self.nodes)}

    def tools(self) -> dict[str, str]:
        return {"proxmox ve": self.running, "proxmox api": self.api.host}

    def _tell(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self.tell(text)

    def each(self, call: Callable[[Guest], Any], found: Iterable[Guest], by_node: bool = False) -> dict[str, Any]:
        """The result of a call for each guest by name; together, or one after another on each node."""
        groups: dict[str, list[Guest]] = {}
        for one in found:
            groups.setdefault(one.record["node"] if by_node else one.name, []).append(one)

        def work(those: list[Guest]) -> dict[str, Any]:
            return {one.name: call(one) for one in those}

        done: dict[str, Any] = {}
        for part in self._pool.map(work, groups.values()):
            done.update(part)
        return done

    def place(self, guest: Guest) -> Place:
        return self._places[guest.key]

    def look_again(self, guest: Guest) -> Place:
        """Where a guest is now."""
        self._places[guest.key] = self._moved(self._places[guest.key]) or self._places[guest.key]
        return self._places[guest.key]

    # --- reading

    def survey(self) -> dict[int, Place]:
        """Every guest of the cluster, after the rights say that the list is whole and quorum says that it is true."""
        tree = self.api.get("access", "permissions")
        rights.check(tree, rights.needs("survey", ()), self.api.user)
        self._tree = tree
        rows = self.api.get("cluster", "status")
        cluster = next((row for row in rows if row.get("type") == "cluster"), None)
        self.nodes = [row for row in rows if row.get("type") == "node"]
        self.name = str(cluster["name"]) if cluster else str(self.nodes[0]["name"] if self.nodes else "")
        if self._known_as and self._known_as != self.name:
            raise Refusal(
                f"what answers at {self.api.host} is the cluster {self.name}, the plan has {self._known_as}. Another one has its address; "
                "nothing was changed."
            )
        self.quorate = cluster is None or bool(int(cluster.get("quorate") or 0))
        return self.find()

    def said_of(self, name: str) -> str:
        """What was noticed of a guest while something was done with it, in words."""
        return ""

    def find(self) -> dict[int, Place]:
        return seeing.places(self.api.get("cluster", "resources", type="vm"))

    def prepare(self, verbs: Sequence[str], storage: str = "", former: Mapping[str, Mapping[str, Any]] | None = None) -> list[Guest]:
        """Rights, quorum, then the set as it is. Refuses before anything is touched. former: what a start puts back."""
        there = self.survey()
        vmids = [place.vmid for place in seeing.chosen(self.expected, there).values()]
        wanted = [need for verb in verbs for need in rights.needs(verb, vmids, storage=storage if verb == "backup" else "")]
        rights.check(self._tree, dict.fromkeys(wanted), self.api.user)
        if not self.quorate:
            raise NotYet(
                f"the cluster {self.name} has no quorum: its configuration is read-only, and what it says of its guests may be old. "
                "Nothing was changed. Bring enough nodes back, then run the same command again."
            )
        found = self.observe(there)
        others = [
            f"{one.name} is {one.key}, the plan has {self._ids[one.name]}" for one in found if self._ids.get(one.name, one.key) != one.key
        ]
        if others:
            raise Refusal(f"other guests have these names or numbers now: {'; '.join(others)}. Nothing was changed. Survey again.")
        for verb in {"stopped", "started"} & set(verbs):
            known = [one for one in found if one.record["ha"] and (verb == "started" or one.record["ha"] != "ignored")]
            onboot = {one.name: one.record["onboot"] for one in found}
            if verb == "started":
                # It was taken away, so it does not show in the guest any more.
                onboot = {name: int((former or {}).get(name, {}).get("onboot", value)) != value for name, value in onboot.items()}
            config = [one.record["vmid"] for one in found if self._keep_off and onboot[one.name] and not one.record["template"]]
            rights.check(self._tree, rights.needs(verb, config, ha=bool(known), onboot=bool(config)), self.api.user)
        return found

    def observe(self, there: Mapping[int, Place] | None = None) -> list[Guest]:
        chosen = seeing.chosen(self.expected, self.find() if there is None else there)
        read = dict(zip(chosen, self._pool.map(self._read, chosen.values()), strict=True))
        order = {
            name: seeing.orders(config)
            for name, (_place, current, config) in read.items()
            if not int(config.get("template") or 0) and current
        }
        stands, ha = seeing.needs(order), seeing.ha_states(self.api.get("cluster", "ha", "resources"))
        found = []
        for name, (place, current, config) in read.items():
            one = seeing.guest(name, place, current, config, stands.get(name, frozenset()), self._keep_off, ha.get(place.sid, ""))
            self._places[one.key], self._seen[one.key] = place, one
            found.append(one)
        return sorted(found, key=lambda one: one.name)

    def _read(self, place: Place) -> tuple[Place, dict[str, Any], dict[str, Any]]:
        for left in reversed(range(3)):
            try:
                return place, self.api.get(*place.path, "status", "current"), self.api.get(*place.path, "config")
            except ApiError as exc:
                if exc.node_is_down:
                    raise NotYet(
                        f"guest {place}: its node {place.node} does not answer ({exc.text}), so nobody knows whether it runs. "
                        "Nothing was changed. Bring the node back, or have the guest moved, then run the same command again."
                    ) from None
                if not left or not tasks.ABSENT.search(exc.text):
                    raise
            # It moved between the list and the look.
            place = self.find().get(place.vmid, place)
            self.clock.sleep(0.5)
        raise AssertionError("unreachable")

    def _moved(self, place: Place) -> Place | None:
        """Where the guest is now; None if no node has it, twice, with a pause: a moving guest is between two lists."""
        for pause in (0.0, 1.0):
            self.clock.sleep(pause)
            now = self.find().get(place.vmid)
            if now is not None:
                return now
        return None

    def settle(self, found: Sequence[Guest]) -> list[Guest]:
        """Wait for whoever has locked guests. A lock without an owner was left behind; it is reported and never removed."""
        deadline = self.clock.now() + self._lock_wait
        orphaned: dict[str, int] = {}
        while True:
            locked = [one for one in found if one.record["lock"] in tasks.OWNERS]
            if not locked:
                return list(found)
            owners = self._owners(locked)
            for one in locked:
                orphaned[one.name] = 0 if owners[one.name] else orphaned.get(one.name, 0) + 1
            stale = [one for one in locked if orphaned[one.name] >= STALE_LOOKS]
            if stale:
                tool = {"qemu": "qm", "lxc": "pct"}
                said = "; ".join(
                    f"{one.name} ({one.record['lock']}: {tool[one.record['kind']]} unlock {one.record['vmid']} on {one.record['node']})"
                    for one in stale
                )
                raise Refusal(
                    f"locked, and no running task owns the lock, so it was left behind by one that broke: {said}. Nothing was changed. "
                    "Look at what that task left (disks, snapshots), have a person unlock the guest, then run the same command again."
                )
            if self.clock.now() >= deadline:
                said = "; ".join(f"{one.name} ({one.record['lock']}, {owners[one.name]})" for one in locked)
                raise Refusal(
                    f"still locked after {self._lock_wait:g} s: {said}. Nothing was changed. Wait for these tasks, then run it again."
                )
            for one in locked:
                self._tell(f"{one.name}: waiting for {owners[one.name] or 'the owner of the lock ' + one.record['lock']}")
            self.clock.sleep(STALE_PAUSE)
            found = self.observe()

    def _owners(self, locked: Sequence[Guest]) -> dict[str, str]:
        lists = {node: tasks.active(self.api, node) for node in {str(one.record["node"]) for one in locked}}
        found = {}
        for one in locked:
            upid = tasks.owner(one.record["lock"], one.record["vmid"], lists[one.record["node"]])
            found[one.name] = f"{upid.type} of {upid.user}" if upid else ""
        return found

    def recall(self, former: Mapping[str, Mapping[str, Any]]) -> None:
        """Nothing: guests of Proxmox are there whether they run or not."""

    def keep(self, guest: Guest) -> dict[str, Any]:
        """Nothing: what a guest is does not vanish when it ends."""
        return {}

    def life(self, guest: Guest) -> str:
        """The process of this run of the guest, on its node."""
        return f"{guest.record['node']}:{guest.record['pid']}"

    def brief(self, guest: Guest) -> dict[str, Any]:
        seen = {name: guest.record[name] for name in seeing.BRIEF}
        return {**seen, "stays_off": seeing.stays_off(guest.record), "noticed": self.said_of(guest.name)}
