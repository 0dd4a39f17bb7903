# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a user or token of Proxmox VE may do, checked before anything is touched.

A token that may see three of five guests is answered 200 and a list of three. So nothing is concluded from a list before
these rights are known.
"""

from __future__ import annotations

import posixpath
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal

Tree = Mapping[str, Mapping[str, Any]]
# What each verb needs on each guest of the set.
VERBS = {
    "survey": ("VM.Audit",),
    "stopped": ("VM.Audit", "VM.PowerMgmt"),
    "started": ("VM.Audit", "VM.PowerMgmt"),
    "snapshot": ("VM.Audit", "VM.Snapshot"),
    "backup": ("VM.Audit", "VM.Backup"),
}


@dataclass(frozen=True)
class Need:
    """A privilege on a path; below: on everything under it too."""

    path: str
    privilege: str
    why: str
    below: bool = False


def holds(tree: Tree, path: str, privilege: str) -> bool:
    """Whether the privilege is held on the path, itself or from above. The nearest entry decides, as in Proxmox."""
    if path in tree:
        return privilege in tree[path]
    while path != "/":
        path = posixpath.dirname(path)
        if path in tree:
            return bool(int(tree[path].get(privilege) or 0))
    return False


def holds_below(tree: Tree, path: str, privilege: str) -> bool:
    """Whether the privilege is held on the path and everything below it that the tree knows of."""
    above = [tree[one] for one in (path, posixpath.dirname(path)) if one in tree]
    if not above or not int(above[0].get(privilege) or 0):
        return False
    return all(privilege in held for one, held in tree.items() if one.startswith(path.rstrip("/") + "/"))


def needs(verb: str, vmids: Collection[int], ha: bool = False, onboot: bool = False, storage: str = "") -> list[Need]:
    """Everything that a verb on these guests takes."""
    found = [
        Need("/vms", "VM.Audit", "without it guests are left out of lists without a word", below=True),
        Need("/", "Sys.Audit", "to read the cluster's quorum, its HA and the tasks of others", below=True),
    ]
    for vmid in sorted(vmids):
        found += [Need(f"/vms/{vmid}", privilege, f"to have guest {vmid} {verb}") for privilege in VERBS[verb] if privilege != "VM.Audit"]
        if onboot:
            found.append(Need(f"/vms/{vmid}", "VM.Config.Options", f"to keep guest {vmid} from starting with its node (onboot)"))
    if ha:
        found.append(Need("/", "Sys.Console", "to set HA resources aside"))
    if storage:
        path = f"/storage/{storage}"
        found += [Need(path, "Datastore.AllocateSpace", "to write a backup"), Need(path, "Datastore.Audit", "to read the backup again")]
    return found


def missing(tree: Tree, wanted: Collection[Need]) -> list[Need]:
    """The needs that are not met."""
    return [need for need in wanted if not (holds_below if need.below else holds)(tree, need.path, need.privilege)]


def check(tree: Tree, wanted: Collection[Need], user: str) -> None:
    """Refuse with every right that is missing, each once."""
    lacks = missing(tree, wanted)
    if lacks:
        grouped: dict[tuple[str, str], list[Need]] = {}
        for need in lacks:
            grouped.setdefault((need.privilege, need.why if not need.path.startswith("/vms/") else ""), []).append(need)
        said = []
        for (privilege, _why), those in grouped.items():
            paths = ", ".join(need.path for need in those[:5]) + (f" and {len(those) - 5} more" if len(those) > 5 else "")
            said.append(f"{privilege} on {paths}{' with everything below' if those[0].below else ''} ({those[0].why})")
        hint = (
            " A token has only the rights that were given to the token itself, unless its privilege separation is off."
            if "!" in user
            else ""
        )
        raise Refusal(
            f"{user} lacks {'; '.join(said)}. Nothing was changed. Give it a role with these privileges, with propagation, and run the "
            f"same command again.{hint}"
        )
