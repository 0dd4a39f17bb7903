#!/usr/bin/python
# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: run_joined
short_description: Refuses to go on where no run is open
version_added: 0.1.0
description:
  - First task of each role of the collection. Without it, a first play skipped by tags would end in silence.
options: {}
attributes:
  check_mode:
    support: full
    description: The same check.
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
- name: Check that a run is open
  sunset.crm.run_joined:
"""

RETURN = r"""
run:
  description: Name of the run in the ledger.
  returned: success
  type: str
  sample: 20261121T030000Z-4711
"""
