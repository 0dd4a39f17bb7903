# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The survey of a Proxmox VE cluster: every guest of it by name, and who the declared ones are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.sunset.crm.plugins.plugin_utils.proxmox import guests as seeing
from ansible_collections.sunset.crm.plugins.plugin_utils.proxmox.api import Api
from ansible_collections.sunset.crm.plugins.plugin_utils.proxmox.guests import Place
from ansible_collections.sunset.crm.plugins.plugin_utils.proxmox.set import GuestSet


def names(there: Mapping[int, Place], declared: Sequence[str]) -> dict[int, str]:
    """What each guest is called: as it is declared, else by its name, or by its number where the name is not its own alone."""
    words = {place.vmid: word for word, place in seeing.chosen(declared, there).items()}
    count = Counter(place.name for place in there.values())
    return {
        vmid: words.get(vmid) or (place.name if count[place.name] == 1 and not place.name.isdigit() else str(vmid))
        for vmid, place in there.items()
    }


def disks(configured: Mapping[str, str]) -> list[dict[str, Any]]:
    """The disks of a guest as its configuration names them: on a storage of the cluster, which no host is asked for. Pure."""
    found = []
    for target, value in sorted(configured.items()):
        volume = str(value).partition(",")[0].removeprefix("file=").removeprefix("volume=")
        if volume and volume != "none" and not volume.startswith("/"):
            found.append({"target": target, "type": "pve", "source": f"pve:{volume}", "format": "", "readonly": False})
    return found


def read(_connection: Any, declared: dict[str, Any]) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Everything that the cluster has, and who the cluster is. Raises Refusal where it cannot all be seen."""
    wanted = [str(name) for name in declared.get("guests") or []]
    with Api(declared.get("api") or {}) as api, GuestSet(api, wanted) as cluster:
        mine = {one.record["vmid"]: one for one in cluster.prepare(["survey"])}
        there = cluster.find()
        shown: dict[str, dict[str, Any]] = {}
        for vmid, name in names(there, wanted).items():
            place = there[vmid]
            shown[name] = {"id": f"{place.kind}/{vmid}", "power": "unknown", "detail": f"{place.kind} {vmid} on {place.node}"}
            if vmid in mine:
                one = mine[vmid]
                uuid = one.key.split("/")[2] if one.key.count("/") == 2 else ""
                state = "a template" if one.record["template"] else one.power
                shown[name]["disks"] = disks(one.record["disks"])
                shown[name].update(id=one.key, power=one.power, detail=f"{place.kind} {vmid}, {state}", **({"uuid": uuid} if uuid else {}))
        return shown, cluster.host()
