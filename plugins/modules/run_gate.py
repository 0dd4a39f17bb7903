#!/usr/bin/python
# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: run_gate
short_description: Shows what a gate is waiting for
version_added: 0.1.0
description:
  - Shows early, for all items at once, what the gate of a phase would refuse. The check that counts lies inside each act.
options:
  gate:
    description: The gate to look at.
    type: str
    choices: [power off, power off of hypervisors, wipe]
    required: true
attributes:
  check_mode:
    support: full
    description: Looks at the ledger and at what this run predicted.
  diff_mode:
    support: none
    description: It changes no file of a host.
notes:
  - Runs on the control node and connects to no host, so it also answers while hosts are off.
  - The estate's folder is the variable C(sunset_estate_dir).
author:
  - sunset.crm contributors
"""

EXAMPLES = r"""
- name: Look at the gate of the wipe
  sunset.crm.run_gate:
    gate: wipe
  run_once: true
"""

RETURN = r"""
open_for:
  description: Items that may pass and have not passed yet.
  returned: success
  type: list
  elements: str
  sample: ["medium:pgdata"]
"""
