#!/usr/bin/python
# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: report
short_description: Writes the report of the estate from plan and ledger
version_added: 0.1.0
description:
  - Writes one self-contained HTML file (no scripts, no outside resources) and the same table as JSON.
options: {}
attributes:
  check_mode:
    support: full
    description: Writes nothing.
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
- name: Write the report
  sunset.crm.report:
  run_once: true
"""

RETURN = r"""
path:
  description: Where the report lies.
  returned: success
  type: str
  sample: /srv/sunset/acme/report/index.html
rows:
  description: One row an item.
  returned: success
  type: list
  elements: dict
  sample: [{item: "medium:pgdata", wave: main, done: wiped, proof: full read-back, evidence: "ledger 212:9f2c", finished: true}]
"""
