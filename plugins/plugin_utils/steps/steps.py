# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every act of the collection as a step: whose evidence it makes, and in which phase it belongs.

A step is known by its module and by the value of the module's C(state) (or by nothing, where there is no state).
C(aspect) is the side of an item that the step settles, C(value) what it settles it to: C(service) = C(stopped).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal

ESTATE, VAULT, STATION, CONTROL = "estate", "vault", "station", "control"


@dataclass(frozen=True)
class Step:
    """where: on which kind of machine the module runs. per_vault: the aspect is kept for each vault apart.
    inject: option that the action fills from the ledger -> the kind of evidence it comes from."""

    module: str
    state: str | None
    aspect: str
    value: str
    phase: str
    where: str = ESTATE
    per_vault: bool = False
    back: bool = False
    irreversible: bool = False
    # Destroys a copy for good: the ledger must have reached the vaults before.
    final: bool = False
    # Ends the last place that could still say something: the ledger must have reached the vaults before.
    hands_over: bool = False

    def key(self, vault: str) -> str:
        """The name of the aspect in the ledger."""
        return f"{self.aspect}@{vault}" if self.per_vault else self.aspect


STEPS = (
    Step("scheduler_state", "frozen", "scheduler", "frozen", "freeze"),
    Step("scheduler_state", "restored", "scheduler", "restored", "resume", back=True),
    Step("web_closed", "closed", "web", "closed", "freeze"),
    Step("web_closed", "open", "web", "open", "resume", back=True),
    Step("session_end", None, "session", "ended", "freeze"),
    Step("service_state", "stopped", "service", "stopped", "stop"),
    Step("service_state", "started", "service", "started", "resume", back=True),
    Step("docker_guests", "stopped", "guest", "stopped", "stop", CONTROL),
    Step("docker_guests", "started", "guest", "started", "resume", CONTROL, back=True),
    Step("docker_guests", "saved", "dump", "saved", "preserve", CONTROL),
    Step("libvirt_guests", "stopped", "guest", "stopped", "stop", CONTROL),
    Step("libvirt_guests", "started", "guest", "started", "resume", CONTROL, back=True),
    Step("libvirt_guests", "saved", "dump", "saved", "preserve", CONTROL),
    Step("proxmox_guests", "stopped", "guest", "stopped", "stop", CONTROL),
    Step("proxmox_guests", "started", "guest", "started", "resume", CONTROL, back=True),
    Step("proxmox_guests", "saved", "dump", "saved", "preserve", CONTROL),
    Step("database_dump", None, "dump", "saved", "preserve"),
    Step("filestore_archive", None, "dump", "saved", "preserve"),
    Step("vault_package", "open", "package", "open", "preserve", VAULT, per_vault=True),
    Step("vault_access", "present", "access", "present", "preserve", per_vault=True),
    Step("vault_pull", None, "copy", "stored", "preserve", VAULT, per_vault=True),
    Step("vault_prove", None, "proof", "equal", "preserve", VAULT, per_vault=True),
    Step("vault_package", "sealed", "package", "sealed", "preserve", VAULT, per_vault=True),
    Step("vault_shelf", None, "shelf", "stored", "preserve", VAULT, per_vault=True),
    Step("vault_access", "absent", "access", "absent", "preserve", per_vault=True),
    # Its module only documents: the action runs the survey on the host and judges it here, where the plan is.
    Step("host_look", None, "look", "clear", "power off", CONTROL),
    # Before the first node of a Proxmox VE cluster goes off, and when all are there again.
    Step("proxmox_nodes", "aside", "cluster", "aside", "power off", CONTROL),
    Step("proxmox_nodes", "restored", "cluster", "restored", "resume", CONTROL, back=True),
    Step("host_power", "off", "power", "off", "power off", CONTROL),
    Step("host_power", "on", "power", "on", "resume", CONTROL, back=True),
    # A host that is off is told what to boot from; switching it on is another step.
    Step("host_boot", "rescue", "boot", "rescue", "wipe", CONTROL),
    Step("host_boot", "usual", "boot", "usual", "wipe", CONTROL),
    Step("vault_package", "forgotten", "package", "forgotten", "wipe", VAULT, per_vault=True),
    # A host whose disks are wiped from within: on again for that alone, in RAM, and off for good.
    Step("host_power", "woken", "wake", "woken", "wipe", CONTROL),
    Step("rescue_boot", None, "rescue", "entered", "wipe"),
    Step("host_power", "ended", "wake", "ended", "wipe", CONTROL, hands_over=True),
    Step("vault_destroy", None, "package", "destroyed", "expire", VAULT, per_vault=True, final=True),
    Step("media_wipe", None, "wipe", "wiped", "wipe", STATION, irreversible=True),
    # A virtual disk, on its own host, which stays in use.
    Step("volume_wipe", None, "wipe", "wiped", "wipe", STATION, irreversible=True),
)


def find(module: str, arguments: dict[str, Any], default_state: str | None = None) -> Step:
    """The step that this call of a module is. Raises Refusal for a module or state that no step knows."""
    state = arguments.get("state", default_state)
    for step in STEPS:
        if step.module == module and step.state in (None, state):
            return step
    known = ", ".join(sorted({s.state or "-" for s in STEPS if s.module == module}))
    raise Refusal(f"{module} with state {state!r} is no step that can be gated and recorded (known states: {known or 'none'})")
