# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A simulated Proxmox VE cluster over HTTPS: fakepve, with what it leaves out and with the answers of a real one.

fakepve (a test dependency, AGPL, never shipped) answers for every method of the API. Here it learns HA resources, vzdump,
the feature check, Ceph flags, disarming and the abort of a task; where it answers otherwise than the real thing
(``answers="real"``), it answers as the real thing does, as read in its source. Connections can be cut after a request was taken.
"""

from __future__ import annotations

import asyncio
import datetime
import math
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aiohttp import web
from fakepve.certs import make_cert
from fakepve.lxc import FakeCt
from fakepve.model import FakeVm, PveError, TaskError
from fakepve.server import FakePve, settle

USER, PASSWORD = "root@pam", "secret"
TOKEN, TOKEN_SECRET = "sunset@pve!retire", "0d7c5b2e-1c49-4f5a-9a53-5f0c7e3f1a11"
ALL_RIGHTS = (
    "VM.Audit", "VM.PowerMgmt", "VM.Snapshot", "VM.Backup", "VM.Config.Options", "Sys.Audit", "Sys.Console", "Sys.PowerMgmt", "Sys.Modify",
    "Datastore.Audit", "Datastore.AllocateSpace",
)  # fmt: skip


class Vm(FakeVm):
    @property
    def ha_managed(self) -> bool:
        return self.ha_state not in (None, "ignored")


class Ct(FakeCt):
    @property
    def ha_managed(self) -> bool:
        return self.ha_state not in (None, "ignored")


class Pve(FakePve):
    """The cluster. Attributes that a test sets: answers, cut, ha_lag, vzdump_answers, forced_by_ha, until."""

    def __init__(self, answers: str = "fake", **rest: Any) -> None:
        super().__init__(user=USER, password=PASSWORD, host="127.0.0.1", port=0, **rest)
        self.answers = answers
        self.seen: list[tuple[str, str, dict[str, Any]]] = []  # every request: method, path, parameters
        self.cut: dict[tuple[str, str], int] = {}  # (method, end of the path) -> how many answers are swallowed
        self.warns: set[str] = set()  # types of tasks that end with warnings
        self.armed = "armed"
        self.ceph_flags: set[str] = set()
        self.crm: dict[str, str] = {}  # what the HA manager still wants of a resource
        self.ha_words = {"started": "request_start", "stopped": "request_stop", "disabled": "stopped"}  # the manager's own, for a moment
        self.ha_lag = 0.0  # PVE seconds until it has taken note
        self.forced_by_ha = False
        # No VM goes off before this is so, whatever else it takes; and what takes math.inf ends then.
        self.until: Callable[[], bool] = lambda: True
        self.vzdump_answers: list[str] = []  # answers instead of a task
        self.vzdump_secs = 0.0
        self.vzdump_writes = True
        self.monitors: list[str] = []  # nodes with a Ceph monitor
        self.has_ceph = True
        self.forgets = 0  # how many requests for a flag are answered and come to nothing
        self.active_lrms: list[str] = []  # nodes whose HA agent is not idle
        self.apitokens[TOKEN] = TOKEN_SECRET

    # --- time

    async def _awaited(self) -> None:
        while not self.until():
            await asyncio.sleep(0.02)

    async def pause(self, secs: float) -> None:
        await (self._awaited() if secs == math.inf else super().pause(secs))

    async def _powerdown(self, vm: Any, p: Any) -> Any:
        await self._awaited()
        return await super()._powerdown(vm, p)

    # --- guests

    def add_vm(self, *args: Any, **kwargs: Any) -> Vm:
        vm = Vm(*args, **kwargs)
        self.vms.append(vm)
        self.nodes.setdefault(vm.node, {"online": True})
        return vm

    def add_ct(self, *args: Any, **kwargs: Any) -> Ct:
        ct = super().add_ct(*args, **kwargs)
        ct.__class__ = Ct
        return ct

    def ha(self, guest: Any, state: str) -> None:
        guest.ha_state = state
        self.crm[self._sid(guest)] = state

    @staticmethod
    def _sid(guest: Any) -> str:
        return f"{'ct' if isinstance(guest, FakeCt) else 'vm'}:{guest.vmid}"

    def starts(self, vmid: int) -> int:
        return sum(task["id"] == str(vmid) and task["type"] in ("qmstart", "vzstart") for task in self.tasklog)

    def tasks_of(self, vmid: int) -> list[str]:
        return [task["type"] for task in self.tasklog if task["id"] == str(vmid)]

    # --- recording and cutting

    def _record(self, request: Any, body: bytes) -> None:
        super()._record(request, body)
        values: dict[str, Any] = dict(request.query)
        values.update(dict(part.split("=", 1) for part in body.decode().split("&") if "=" in part))
        self.seen.append((request.method, request.rel_url.raw_path.removeprefix("/api2/json"), values))

    async def _answer(self, request: Any, *rest: Any) -> Any:
        response = await super()._answer(request, *rest)
        for (method, end), left in list(self.cut.items()):
            if left and request.method == method and request.path.endswith(end):
                self.cut[(method, end)] = left - 1
                request.transport.close()
                raise ConnectionResetError("cut off after the request was taken")
        return response

    # --- answers of the real thing

    def _view_ha(self, data: dict[str, Any], guest: Any) -> dict[str, Any]:
        """As get_service_status in PVE::HA::Config: what is ignored counts as not managed, all does while HA is disarmed, and the state
        is the manager's own."""
        if not guest.ha_managed or self.armed != "armed":
            data["ha"] = {"managed": 0}
        else:
            data["ha"] = {"managed": 1, "state": self.ha_words.get(guest.ha_state, guest.ha_state)}
        return data

    def _vm_status(self, vm: Any, listing: bool = False) -> dict[str, Any]:
        return self._view_ha(super()._vm_status(vm, listing), vm)

    async def _lxc_status_current(self, user: str, v: Any) -> dict[str, Any]:
        return self._view_ha(await super()._lxc_status_current(user, v), self._find_ct(v["node"], v["vmid"]))

    async def _do_shutdown(self, vm: Any, user: str, p: Any) -> Any:
        if self.answers != "real" or vm.ha_managed:
            return await super()._do_shutdown(vm, user, p)
        if vm.qmpstatus == "paused" and str(p.get("forceStop", "0")) != "1":
            raise PveError(500, "VM is paused - cannot shutdown")

        async def body() -> Any:
            if vm.lock:
                raise TaskError(f"VM is locked ({vm.lock})")
            if vm.status != "running":
                return None
            return await self._powerdown(vm, p)

        return await self.task(vm.node, "qmshutdown", vm.vmid, user, body, vm=vm)

    def _task_view(self, task: dict[str, Any], listing: bool = False) -> Any:
        ended = "WARNINGS: 1" if task["type"] in self.warns and task.get("exitstatus") == "OK" else None
        return super()._task_view({**task, "exitstatus": ended} if ended else task, listing)

    async def _task_log(self, request: Any) -> Any:
        if self.answers == "real" and request.query.get("limit") == "0":
            lines = self._get_task(request)["log"] or ["no content"]
            return web.json_response({"data": [{"n": n + 1, "t": t} for n, t in enumerate(lines)], "total": len(lines)})
        return await super()._task_log(request)

    async def _task_list(self, request: Any) -> Any:
        node, query = request.match_info["node"], request.query
        if self.answers != "real":
            return await super()._task_list(request)
        rows = []
        for task in reversed(self.tasklog):
            over = task["status"] != "running"
            if task["node"] != node or (query.get("vmid") and task["id"] != query["vmid"]):
                continue
            if (query.get("source") == "active" and over) or (query.get("source", "archive") == "archive" and not over):
                continue
            row = {key: task[key] for key in ("upid", "node", "pid", "pstart", "starttime", "type", "id", "user")}
            rows.append({**row, "status": task["exitstatus"], "endtime": task["endtime"]} if over else {**row, "status": "RUNNING"})
        return web.json_response({"data": rows[: int(query.get("limit", 50))]})

    async def _ha_request(self, vm: Any, user: str, state: str) -> Any:
        """As the HA stack does it: the request is queued, then the agent stops the guest by a task of its own, and kills."""
        if state != "stopped":
            return await super()._ha_request(vm, user, state)

        async def body() -> None:
            asyncio.ensure_future(self._ha_stops(vm))

        return await self.task(vm.node, "hastop", vm.vmid, user, body, lock=False, log=[f"Requesting HA stop for VM {vm.vmid}"])

    async def _ha_stops(self, vm: Any) -> None:
        vm.ha_state = "stopped"
        await self.pause(self.ha_delay)

        async def body() -> Any:
            vm.status = vm.qmpstatus = "stopped"
            return "VM still running - terminating now with SIGTERM" if self.forced_by_ha else None

        await self.task(vm.node, "qmshutdown", vm.vmid, "root@pam", body)

    # --- what it leaves out

    def _routes_aaa_ours(self) -> list[tuple[str, str, Any]]:
        node = "/nodes/{node}"
        return [
            ("PUT", "/cluster/ha/resources/{sid}", self._ha_put),
            ("GET", "/cluster/ha/resources/{sid}", self._ha_read),
            ("GET", "/cluster/ha/resources", self._ha_list),
            ("GET", "/cluster/ha/status/current", self._ha_current),
            ("POST", "/cluster/ha/status/disarm-ha", self._disarm),
            ("POST", "/cluster/ha/status/arm-ha", self._arm),
            ("GET", "/cluster/ceph/flags", self._flags),
            ("PUT", "/cluster/ceph/flags/{flag}", self._flag),
            ("GET", node + "/qemu/{vmid}/feature", self._feature),
            ("GET", node + "/lxc/{vmid}/feature", self._feature),
            ("POST", node + "/vzdump", self._vzdump),
            ("GET", node + "/vzdump/extractconfig", self._extract),
            ("DELETE", node + "/tasks/{upid}", self._abort),
        ]

    def _ha_rows(self) -> dict[str, dict[str, Any]]:
        """started is what a resource has that says nothing."""
        there = {self._sid(guest): guest.ha_state for guest in [*self.vms, *self.cts] if guest.ha_state is not None}
        more = {sid: {} if state == "started" else {"state": state} for sid, state in there.items()}
        return {sid: {"sid": sid, "type": sid.partition(":")[0], "digest": "d", **more[sid]} for sid in there}

    async def _ha_list(self, v: Any, user: str) -> list[dict[str, Any]]:
        return list(self._ha_rows().values())

    async def _ha_read(self, v: Any, user: str) -> dict[str, Any]:
        if v["sid"] not in self._ha_rows():
            raise PveError(500, f"no such resource '{v['sid']}'")
        return self._ha_rows()[v["sid"]]

    async def _ha_put(self, v: Any, user: str) -> None:
        self.need_quorum()
        kind, _, vmid = v["sid"].partition(":")
        guest = self.ct(int(vmid)) if kind == "ct" else self.vm(int(vmid))
        if guest is None or guest.ha_state is None:
            raise PveError(500, f"no such resource '{v['sid']}'")
        guest.ha_state = v["state"]

        async def later() -> None:
            await self.pause(self.ha_lag)
            self.crm[v["sid"]] = v["state"]
            if v["state"] in ("started", "enabled"):
                guest.status = "running"
                if isinstance(guest, FakeVm):
                    guest.qmpstatus = "running"

        if self.time_scale and self.ha_lag:
            asyncio.ensure_future(later())
        else:
            await later()

    async def _ha_current(self, v: Any, user: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = [{"id": "quorum", "type": "quorum", "node": "pve1", "status": "OK", "quorate": int(self.quorate)}]
        rows.append({"id": "fencing", "type": "fencing", "node": "pve1", "status": self.armed, "armed-state": self.armed})
        for node in sorted(self.nodes):
            working = node in self.active_lrms and self.armed != "disarmed"
            said = "active, watchdog active" if working else "idle, watchdog standby"
            rows.append({"id": f"lrm:{node}", "type": "lrm", "node": node, "status": f"{node} ({said}, now)"})
        for guest in [*self.vms, *self.cts]:
            if guest.ha_state is None:
                continue
            sid = self._sid(guest)
            row = {"id": f"service:{sid}", "type": "service", "sid": sid, "node": guest.node, "status": "x"}
            # Its own word, and what is asked of it; while it is disarmed, that it is let be.
            verbose = "ignore" if self.armed == "disarmed" else {"started": "starting"}.get(guest.ha_state, guest.ha_state)
            row.update(state=verbose, request_state=guest.ha_state)
            if self.crm.get(sid, "ignored") != "ignored":
                row["crm_state"] = self.crm[sid]
            rows.append(row)
        return rows

    async def _disarm(self, v: Any, user: str) -> None:
        self.armed = "disarming"

        async def later() -> None:
            await self.pause(self.ha_lag)
            self.armed = "disarmed"

        asyncio.ensure_future(later())

    async def _arm(self, v: Any, user: str) -> None:
        self.armed = "armed"

    async def _ceph_status(self, request: Any) -> Any:
        if not self.has_ceph:
            raise PveError(500, "binary not installed: /usr/bin/ceph-mon")
        if self.ceph["down"] or not self.quorate:
            raise PveError(500, "rados_connect failed - Connection timed out")
        health = "HEALTH_WARN" if self.ceph_flags else self.ceph["health"]
        whole = {"health": {"status": health}, "monmap": {"mons": [{"name": node} for node in self.monitors]}}
        return web.json_response({"data": whole})

    async def _flags(self, v: Any, user: str) -> list[dict[str, Any]]:
        return [{"name": name, "value": name in self.ceph_flags} for name in ("noout", "norebalance")]

    async def _flag(self, v: Any, user: str) -> None:
        if self.forgets:
            self.forgets -= 1
            return
        (self.ceph_flags.add if int(v["value"]) else self.ceph_flags.discard)(v["flag"])

    async def _feature(self, v: Any, user: str) -> dict[str, Any]:
        guest = self.guest(int(v["vmid"]))
        disks = dict(guest.config)
        if isinstance(guest, FakeCt):
            disks = {key: value for key, value in disks.items() if re.match(r"rootfs|mp\d", key)}
            disks = {f"scsi{n}": value for n, value in enumerate(disks.values())}
        return {"hasFeature": int(self._qm_can_snapshot(disks)), "nodes": sorted(self.nodes)}

    async def _vzdump(self, v: Any, user: str) -> Any:
        if self.vzdump_answers:
            return self.vzdump_answers.pop(0)
        guest = self.guest(int(v["vmid"]))
        if guest is None or guest.node != v["node"]:
            return "OK"
        kind = "lxc" if isinstance(guest, FakeCt) else "qemu"

        async def body() -> str:
            guest.lock = "backup"
            try:
                await self.pause(self.vzdump_secs)
            finally:
                guest.lock = None
            stamp = datetime.datetime.now(datetime.UTC).strftime("%Y_%m_%d-%H_%M_%S")
            name = f"backup/vzdump-{kind}-{guest.vmid}-{stamp}.{'vma' if kind == 'qemu' else 'tar'}.zst"
            if self.vzdump_writes:
                self.storages[v["storage"]].setdefault("volumes", {})[name] = {
                    "content": "backup", "format": "vma.zst", "size": 4096, "vmid": guest.vmid, "ctime": int(time.time()),
                    "notes": v.get("notes-template"), "protected": bool(v.get("protected")),
                }  # fmt: skip
            return f"INFO: Finished Backup of VM {guest.vmid} (00:00:01)"

        log = [f"INFO: starting new backup job: vzdump {guest.vmid}", f"INFO: Starting Backup of VM {guest.vmid} ({kind})"]
        return await self.task(v["node"], "vzdump", guest.vmid, user, body, log=log)

    async def _extract(self, v: Any, user: str) -> str:
        sid, _, name = v["volume"].partition(":")
        volume = self.storages[sid]["volumes"][name]
        guest = self.guest(volume["vmid"])
        return "".join(f"{key}: {value}\n" for key, value in sorted(guest.config.items()))

    async def _abort(self, v: Any, user: str) -> None:
        task = self.tasks.get(v["upid"])
        if task and task["status"] == "running":
            task.update(status="stopped", exitstatus="unexpected status", endtime=int(time.time()))
            guest = self.guest(int(task["id"]))
            self.release(guest, v["upid"])

    def node_off(self, node: str) -> None:
        """As the others see it: they do not hear it any more, and half of them or more make no quorum."""
        self.set_node_offline(node)
        online = sum(state.get("online", True) for state in self.nodes.values())
        if online * 2 <= len(self.nodes):
            self.lose_quorum()

    def node_on(self, node: str) -> None:
        self.set_node_offline(node, False)
        online = sum(state.get("online", True) for state in self.nodes.values())
        if online * 2 > len(self.nodes):
            self.regain_quorum()


class Serving:
    """A cluster on a private event loop in a thread, and what a client needs to reach it."""

    def __init__(self, directory: Path, answers: str = "fake", time_scale: float = 0.02, nodes: int = 3) -> None:
        self.pve = Pve(answers)
        self.pve.time_scale = time_scale
        for number in range(1, nodes + 1):
            self.pve.add_node(f"pve{number}")
        certfile, keyfile, self.der = make_cert(str(directory), hosts=("127.0.0.1",))
        self.ca_file = certfile
        self.secret_file = str(directory / "token.secret")
        self.password_file = str(directory / "password.secret")
        for path, secret in ((self.secret_file, TOKEN_SECRET), (self.password_file, PASSWORD)):
            Path(path).touch(0o600)
            Path(path).write_text(secret + "\n", encoding="ascii")
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.run(self.pve.start(certfile, keyfile))

    def run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(30)

    def soon(self, delay: float, call: Any, *args: Any) -> None:
        self._loop.call_soon_threadsafe(self._loop.call_later, delay, call, *args)

    def listed(self, vmid: int) -> Callable[[], bool]:
        """Whether the tasks of a guest have been listed, from now on: whoever looks for one that runs has found it by then."""
        since = len(self.pve.seen)
        return lambda: any(path.endswith("/tasks") and values.get("vmid") == str(vmid) for _m, path, values in self.pve.seen[since:])

    def stop(self) -> None:
        self.run(settle())
        self.run(self.pve.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)

    def grant(self, *rights: str, path: str = "/") -> None:
        self.pve.grant(TOKEN, path, *(rights or ALL_RIGHTS))

    def api(self, **changes: Any) -> dict[str, Any]:
        """The declaration of this cluster, with a token."""
        known = {"hosts": ["127.0.0.1"], "port": self.pve.port, "user": "sunset@pve", "token_id": "retire"}
        return {**known, "secret_file": self.secret_file, "verify": self.ca_file, **changes}

    def with_password(self, **changes: Any) -> dict[str, Any]:
        known = self.api(user=USER, secret_file=self.password_file, **changes)
        return {key: value for key, value in known.items() if key != "token_id"}


@contextmanager
def serving(directory: Path, **options: Any) -> Iterator[Serving]:
    one = Serving(directory, **options)
    try:
        yield one
    finally:
        one.stop()
