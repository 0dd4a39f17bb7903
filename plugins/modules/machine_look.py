#!/usr/bin/python
# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: machine_look
short_description: Read by what a machine that is kept is known again
version_added: 0.1.0
description:
  - Reads machine id, addresses, network cards, the board, resolvers, guests defined on the machine and the storage that it uses.
  - Run on the vaults by the survey, so that a plan is refused in which one of them stands on something that goes off. The hosts of the
    estate say the same in M(sunset.crm.host_survey).
  - Reads files only.
options: {}
attributes:
  check_mode:
    description: The module only reads.
    support: full
  diff_mode:
    description: It changes nothing.
    support: none
author:
  - sunset.crm contributors
"""

EXAMPLES = r"""
- name: Look at the vault
  sunset.crm.machine_look:
  register: sunset_machine_seen
"""

RETURN = r"""
machine:
  description: What tells the machine.
  returned: success
  type: dict
  sample: {machine_id: 3f0c9a4e8d6b4c0f9a1d2e3f4a5b6c7d, addresses: [192.0.2.21], macs: ["52:54:00:12:34:56"], container: false}
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.sunset.crm.plugins.module_utils._survey import machine as survey_machine


def main():
    module = AnsibleModule(argument_spec=dict(), supports_check_mode=True)
    module.exit_json(changed=False, machine=survey_machine.machine())


if __name__ == "__main__":
    main()
