#!/usr/bin/python
# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: run_close
short_description: Closes a run and fails unless everything has evidence
version_added: 0.1.0
description:
  - The last act of a run. Fails, naming each item, unless every item of the run's waves has the evidence that the phase owes.
  - After a complete shutdown it marks the wave as accepted, where the plan's setting C(acceptance) is C(automatic).
  - Signs the head of the ledger and copies the ledger to the vaults.
options: {}
attributes:
  check_mode:
    support: full
    description: Judges what the steps of this check-mode run predicted; appends nothing.
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
- name: Close the run
  sunset.crm.run_close:
  run_once: true
"""

RETURN = r"""
accepted:
  description: The waves that are accepted now.
  returned: success
  type: list
  elements: str
  sample: [pilot]
"""
