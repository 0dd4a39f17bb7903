# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the documentation of every module that changes the world shares."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  item:
    description: Id of the item in the plan that this act belongs to, such as V(database:crm) or V(host:db1).
    type: str
    required: true
  receipt:
    description: Set by the collection's action plugin; binds this call to its intent in the ledger. Without it the module refuses to act.
    type: dict
attributes:
  check_mode:
    support: full
    description: Takes the same decision and changes nothing.
  diff_mode:
    support: none
    description: The result says what was found, what was done and what is there now.
"""

    # A set of virtual machines of a hypervisor or cluster.
    GUESTS = r"""
options:
  state:
    description: What the set is to be.
    type: str
    choices: [stopped, started, saved]
    required: true
  guests:
    description: The names that are expected. Taken from the plan.
    type: list
    elements: str
    required: true
  identity:
    description: Who the guests and their hypervisor were when the plan was made. Taken from the plan.
    type: dict
    default: {}
  others:
    description: Guests of the same hypervisor that belong to other items of the plan. Taken from the plan.
    type: list
    elements: str
    default: []
  hosts:
    description:
      - Guests that are hosts of the plan, by their name here. They go off by their own step (M(sunset.crm.host_power)); one that
        still runs is refused. Taken from the plan.
    type: dict
    default: {}
  ran:
    description: Those of O(hosts) that were on before their own step, so that O(state=started) starts them. Taken from plan and ledger.
    type: list
    elements: str
    default: []
  timeout:
    description: Seconds that each guest has, from its own request, to end or to start.
    type: float
    default: 300
  force_after:
    description:
      - Seconds after which a guest that did not end is cut off. Not set means never.
      - Its end is recorded as V(by force), and RV(result.way) is V(forced).
      - Must be above 0 and shorter than O(timeout).
    type: float
  force_allowed_by:
    description: Name of the person who allowed that. Recorded. Required with O(force_after).
    type: str
  former:
    description: For O(state=started), the RV(result.former) that the ledger keeps. Filled in by the action plugin.
    type: dict
  staging:
    description: Directory on the item's host for what is saved. Must lie on a medium that is wiped. Taken from the plan.
    type: str
    required: true
"""

    # A package on a vault.
    PACKAGE = r"""
options:
  root:
    description: Directory of the vault that holds all packages.
    type: path
    required: true
  estate:
    description: Name of the estate.
    type: str
    required: true
  package:
    description: Name of the package, which is the inventory name of the host.
    type: str
    required: true
  live_dir:
    description:
      - Directory in memory for the package's identity and the pull key. Must be tmpfs.
      - The default is C(/dev/shm/sunset-vault-<uid>).
    type: path
"""

    # The wipe of one medium, as a job that goes on by itself.
    WIPING = r"""
options:
  authorisation_sha256:
    description: SHA-256 of the authorisation that names this medium; recorded with the result.
    type: str
  rate:
    description: Upper limit in bytes a second for writing and for reading. V(0) is no limit.
    type: int
    default: 0
  wait:
    description:
      - Seconds to wait for the end. When they have passed, the module returns with RV(result.state=running); call it again to attach.
      - V(0) starts the job and returns at once.
    type: int
    default: 172800
  state_directory:
    description: Where the job keeps its code, its progress and what it needs to be resumed. Should outlive a restart of the machine.
    type: path
    default: /var/lib/sunset-crm/wipe
"""
