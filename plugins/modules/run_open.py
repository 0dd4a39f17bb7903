#!/usr/bin/python
# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: run_open
short_description: Opens a run on the estate
version_added: 0.1.0
description:
  - The first act of a run. Checks that the estate's own name was typed in, that the plan is approved by a signature of its
    allowed signers, that no other run works on the estate and that the play has every machine of the wave.
  - Takes the estate's lock for this controller, appends the run to the ledger and copies the ledger to the vaults.
options:
  phase:
    description: What the run is to do.
    type: str
    choices: [shutdown, wipe, resume, expire]
    required: true
  confirm:
    description: The estate's name, typed in. A prompt would hang automation controllers.
    type: str
    required: true
  wave:
    description:
      - Names of waves, separated by commas.
      - Default for C(shutdown) is the first wave that is not accepted, for C(wipe) all accepted ones, for C(resume) all that
        were touched.
    type: str
  operator:
    description: Principal of the person who runs it. Default is the login name, or the sudo caller.
    type: str
attributes:
  check_mode:
    support: full
    description: Checks everything, appends nothing to the ledger.
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
- name: Open the run
  sunset.crm.run_open:
    phase: shutdown
    confirm: "{{ sunset_confirm }}"
    wave: pilot
  run_once: true
"""

RETURN = r"""
run:
  description: Name of the run in the ledger.
  returned: success
  type: str
  sample: 20261121T030000Z-4711
waves:
  description: The waves that it works on.
  returned: success
  type: list
  elements: str
  sample: [pilot]
members:
  description: Each machine of the run with its place, the ids of its items by kind (C(late) for those of hypervisors, which come after the hosts
    that run inside their guests are off), and its tier in the power-off.
  returned: success
  type: list
  elements: dict
  sample: [{host: old1, place: estate, tier: 0, items: {database: ["database:oldcrm"]}, late: {}, vaults: [vault1]}]
interrupted:
  description: Steps that an earlier run began and whose end the ledger does not hold.
  returned: success
  type: list
  elements: str
  sample: ["database:oldcrm: dump saved (2026-11-21T02:11:09.000000Z)"]
"""
