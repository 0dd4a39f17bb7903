# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read the containers and guests of the plan from their engine or hypervisor; changes nothing and therefore records nothing."""

from __future__ import annotations

import posixpath
from functools import partial
from typing import Any

from ansible.plugins.action import ActionBase

from ansible_collections.sunset.crm.plugins.plugin_utils import relay
from ansible_collections.sunset.crm.plugins.plugin_utils.actions.recording import plain
from ansible_collections.sunset.crm.plugins.plugin_utils.docker import images as docker_images, swarm as docker_swarm, way as docker_way
from ansible_collections.sunset.crm.plugins.plugin_utils.docker.engine import Engine
from ansible_collections.sunset.crm.plugins.plugin_utils.docker.facts import PROOF, name_of
from ansible_collections.sunset.crm.plugins.plugin_utils.docker.podman import unit_of
from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.guests import reading as guest_reading
from ansible_collections.sunset.crm.plugins.plugin_utils.planning import virtual_media

SOCKET = "/var/run/docker.sock"


def expected(
    declared: dict[str, Any],
    inspects: list[dict[str, Any]],
    volumes: list[dict[str, Any]],
    services: dict[str, str] | None = None,
    managers: list[str] | None = None,
) -> dict[str, Any]:
    """What the survey says of one declared container set. services: those of a swarm, name -> id. managers: of a swarm that this engine only
    works for. Pure."""
    names = {**{name_of(one): one["Id"] for one in inspects}, **(services or {})}
    units = {
        name_of(one): {"unit": unit_of(one), "id": one["Id"], "image": one["Config"]["Image"], "image_id": one["Image"]}
        for one in inspects
        if unit_of(one)
    }
    missing = sorted(set(declared.get("containers") or []) - set(names))
    undeclared = {volume["name"] for volume in volumes} - {volume["volume"] for volume in declared.get("volumes", [])}
    identity = {"containers": sorted(names), "ids": names, **({"units": units} if units else {})}
    tasks = [told for one in inspects if managers is not None and (told := docker_swarm.task_refusal(one, False, "", managers))]
    detail = ""
    if tasks:
        detail = tasks[0]
    elif not names:
        detail = f"no container has the label {declared['label']}"
    elif missing:
        detail = f"declared and not there: {', '.join(missing)}"
    elif undeclared:
        detail = f"these volumes of it are not declared: {', '.join(sorted(undeclared))}"
    return {"found": "no" if detail else "yes", "identity": identity, "media": [], "detail": detail}


def others_of(item: dict[str, Any], sets: list[dict[str, Any]]) -> set[str]:
    """Names that other sets declare under the same label. Pure. Raises Refusal where a shared label leaves open what is whose."""
    same = [one for one in sets if one is not item and one["label"] == item["label"]]
    for one in [item, *same] if same else []:
        if not one.get("containers"):
            raise Refusal(
                f"container:{one['name']} shares the label {one['label']} with another item; "
                "then each of them has to list its containers (containers: [NAME, ...])"
            )
    return {name for one in same for name in one["containers"]}


# What a bind mount of these shows is the machine, no data of the application.
OF_THE_MACHINE = ("/proc", "/sys", "/dev", "/run", "/var/run", "/etc/localtime", "/etc/timezone", "/etc/hosts", "/etc/resolv.conf")


def loose_binds(inspects: list[dict[str, Any]], covered: list[str]) -> list[dict[str, Any]]:
    """Folders of the host inside these containers that no file store archives, as findings. Pure.

    covered: paths of the file stores of the host.
    """
    users: dict[str, list[str]] = {}
    for one in inspects:
        for mount in one.get("Mounts") or ():
            source = posixpath.normpath(str(mount.get("Source") or "/"))
            if mount["Type"] == "bind" and not any(_within(source, path) for path in (*OF_THE_MACHINE, *covered)):
                users.setdefault(source, []).append(name_of(one))
    return [
        {
            "id": f"bind:{source}",
            "kind": "filestore",
            "what": f"a folder or file of the host inside {', '.join(sorted(set(names)))} (bind mount) that no file store covers",
        }
        for source, names in sorted(users.items())
    ]


def _within(path: str, above: str) -> bool:
    above = posixpath.normpath(above)
    return path == above or path.startswith(above.rstrip("/") + "/")


def strangers(rows: list[dict[str, Any]], labels: list[str]) -> list[dict[str, Any]]:
    """Containers of the engine that belong to no declared set, as findings. Pure."""
    wanted = {tuple(label.split("=", 1)) for label in labels}
    found = []
    for row in rows:
        if PROOF not in (row.get("Labels") or {}) and not wanted & {tuple(pair) for pair in (row.get("Labels") or {}).items()}:
            name = str(row["Names"][0]).lstrip("/")
            found.append(
                {"id": f"container:{name}", "kind": "container", "what": f"a container of the image {row['Image']} that no item covers"}
            )
    return found


class ActionModule(ActionBase):
    """See plugins/modules/guest_survey.py."""

    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        items = plain(self._task.args.get("items") or [])
        try:
            seen, findings = guest_reading.read(self._connection, [item for item in items if item.get("kind") == "guest"])
            self._follow([disk for one in seen.values() for disk in one.get("disks") or []], task_vars or {})
            covered = [str(item["path"]) for item in items if item.get("kind") == "filestore" and item.get("path")]
            boxes = self._read([item for item in items if item.get("kind") == "container"], covered)
            return {
                **result,
                "changed": False,
                "expected": {**boxes["expected"], **seen},
                "findings": [*boxes["findings"], *findings],
            }
        except Refusal as exc:
            return {**result, "failed": True, "changed": False, "msg": str(exc)}

    def _follow(self, disks: list[dict[str, Any]], task_vars: dict[str, Any]) -> None:
        """Add to each disk that lies on the host what it is made of, and on which devices that lies."""
        local = [disk for disk in disks if disk["type"] in virtual_media.LOCAL]
        wanted = sorted({(disk["source"], disk["format"]) for disk in local})
        if not wanted:
            return
        asked = [{"path": path, "format": form} for path, form in wanted]
        done = self._execute_module(module_name="sunset.crm.volume_info", module_args={"disks": asked}, task_vars=task_vars)
        if done.get("failed") or len(done.get("disks") or []) != len(wanted):
            raise Refusal(f"the host does not say what the disks of its guests are made of: {done.get('msg') or done.get('module_stderr')}")
        told = dict(zip(wanted, plain(done["disks"]), strict=True))
        for disk in local:
            disk.update({name: told[disk["source"], disk["format"]][name] for name in ("chain", "problem", "media")})

    def _read(self, declared: list[dict[str, Any]], covered: list[str]) -> dict[str, Any]:
        seen: dict[str, Any] = {}
        findings: list[dict[str, Any]] = []
        reach = relay.from_connection(self._connection)
        for socket in sorted({item.get("socket", SOCKET) for item in declared}):
            sets = [item for item in declared if item.get("socket", SOCKET) == socket]
            docker_way.check_awake(reach, socket)
            with relay.Relay(reach, socket) as way:
                for item in sets:
                    owners = partial(docker_way.owners, reach)
                    with Engine(way.address, item["label"], way=way, others=others_of(item, sets), owners=owners) as engine:
                        inspects = engine.inspects()
                        seen[f"container:{item['name']}"] = expected(
                            item, inspects, docker_images.volumes(engine, inspects), engine.services()
                        )
                        findings += loose_binds(inspects, covered)
                        rows = list(engine.api.containers(all=True))
            if not all(item.get("shared_engine") for item in sets):
                findings += strangers(rows, [item["label"] for item in sets])
        # Two sets may have the same folder inside.
        return {"expected": seen, "findings": list({found["id"]: found for found in findings}.values())}
