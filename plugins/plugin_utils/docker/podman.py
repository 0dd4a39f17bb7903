# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where Podman's Docker-compatible socket is not Docker. Pure.

Seen with Podman 4.3: a signal (kill) lets the restart policy start the container again, a stop does not; the restart policy cannot be
changed; a stop refuses a negative timeout and a paused container; the engine remembers no events unless it is set up for that.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

UNIT = "PODMAN_SYSTEMD_UNIT"
# Where the unit is noted that was found on the host: a container that a unit starts, and did not make, carries no label.
FOUND = "OwningUnit"
# The unit that starts containers at boot: the only thing that heeds a restart policy once a container was stopped.
RESTARTER = "podman-restart.service"
# The engine kills when this is over. Nobody waits so long: force is ours to decide.
PATIENCE = 1_000_000  # seconds


def is_podman(version: Mapping[str, Any]) -> bool:
    return any("podman" in str(part.get("Name", "")).lower() for part in version.get("Components") or ())


def unit_of(inspect: Mapping[str, Any]) -> str:
    """The systemd unit that a container belongs to: by the label that podman run gives it in a unit, or as it was found on the host."""
    return str((inspect["Config"].get("Labels") or {}).get(UNIT) or inspect.get(FOUND) or "")


def unit_refusal(inspect: Mapping[str, Any], held_units: Collection[str]) -> str:
    """Why a container of a systemd unit is left alone: unless the plan has stopped that unit, it would be started again."""
    unit = unit_of(inspect)
    if not unit or unit in held_units:
        return ""
    return (
        f"the systemd unit {unit} runs it and would start it again; declare {unit} under services of an application of this host, "
        f"which stops it and holds it off before the containers' turn ({UNIT}={unit})"
    )


def policy_refusal(policy: str, held_units: Collection[str]) -> str:
    """Podman cannot take a restart policy away; what heeds it at boot can be held off."""
    if policy not in ("always", "unless-stopped") or RESTARTER in held_units:
        return ""
    return (
        f"its restart policy {policy} cannot be taken away on Podman, and {RESTARTER} would start it at boot; declare {RESTARTER} under "
        "services of an application of this host, which holds it off before the containers' turn"
    )


def infra_ids(rows: Sequence[Mapping[str, Any]], members: Collection[str]) -> tuple[list[str], dict[str, str]]:
    """(ids of the infra containers of the pods that these containers are in, id of a member -> why its pod cannot be handled).

    rows: all containers as libpod lists them. A pod with members outside the set is more than this set.
    """
    pods = {row["Pod"]: str(row.get("PodName") or row["Pod"][:12]) for row in rows if row.get("Pod") and row["Id"] in members}
    infra = [row["Id"] for row in rows if row.get("Pod") in pods and row.get("IsInfra")]
    refused: dict[str, str] = {}
    for pod, name in pods.items():
        outside = [row["Names"][0] for row in rows if row.get("Pod") == pod and not row.get("IsInfra") and row["Id"] not in members]
        if outside:
            why = f"its pod {name} also holds {', '.join(sorted(outside))}, which is not in this set; give all of the pod the label"
            refused.update({row["Id"]: why for row in rows if row.get("Pod") == pod and row["Id"] in members})
    return infra, refused
