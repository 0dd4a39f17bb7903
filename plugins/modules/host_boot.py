#!/usr/bin/python
# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This file is documentation: the act itself runs on the control node, in the action plugin of the same name.

DOCUMENTATION = r"""
module: host_boot
short_description: Let a host boot from a rescue medium or the network next, or as usual again
version_added: 0.1.0
description:
  - V(rescue) inserts a medium into the virtual drive of the host's management controller and sets the boot override, or sets it to
    the network alone. V(usual) takes the medium out and puts the override back.
  - Both are read back from the controller. Many controllers accept a boot override for once and keep it for ever; what was read is
    in RV(result.once), and V(usual) is owed in any case.
  - The host is neither switched on nor off; that is M(sunset.crm.host_power).
  - The controller must be known to be that of this host, by serial number or UUID.
options:
  state:
    description: What the host boots from next.
    type: str
    choices: [rescue, usual]
    required: true
  boot:
    description: How the host comes into its rescue system. Taken from the plan (C(sunset_rescue_boot)).
    type: dict
    required: true
    suboptions:
      way:
        description: A medium in the controller's virtual drive (Redfish), or the network (Redfish, IPMI).
        type: str
        choices: [media, pxe]
        required: true
      image:
        description: Address of a medium of your own, for V(media), as the controller reaches it.
        type: str
      serve:
        description: Address and port under which the control node gives out the medium that M(sunset.crm.rescue_boot) makes; for V(usual) only.
        type: str
      publish:
        description: Folder of the control node into which M(sunset.crm.rescue_boot) lays what it makes, in place of O(boot.serve).
        type: str
      url:
        description: Address under which your web server gives out O(boot.publish), for V(media).
        type: str
  witness:
    description: The host's witnesses, one of which is a management controller; see M(sunset.crm.host_power). Taken from the plan.
    type: raw
    required: true
  board:
    description: UUID and serial number of the host's mainboard, as the survey read them. Taken from the plan.
    type: dict
    default: {}
  former:
    description: The override that V(usual) puts back. Taken from the ledger; without it the override is switched off.
    type: dict
    default: {}
requirements:
  - Python package C(sushy) or C(pyghmi) on the control node
seealso:
  - module: sunset.crm.host_power
extends_documentation_fragment:
  - sunset.crm.recorded
author:
  - sunset.crm contributors
"""

EXAMPLES = r"""
- name: Boot into the rescue system next
  sunset.crm.host_boot:
    item: host:db1
    state: rescue

- name: Boot as usual again
  sunset.crm.host_boot:
    item: host:db1
    state: usual
"""

RETURN = r"""
result:
  description: What later steps and the ledger read.
  returned: always
  type: dict
  contains:
    target:
      description: What the controller says that the host boots from.
      returned: always
      type: str
      sample: Cd
    enabled:
      description: V(Once), V(Continuous) or V(Disabled), as read back.
      returned: always
      type: str
      sample: Once
    once:
      description: Whether the controller forgets it after one boot; V(yes), V(no) or V(unknown).
      returned: for V(rescue)
      type: str
      sample: 'yes'
    image:
      description: What lies in the virtual drive.
      returned: always
      type: str
      sample: https://192.0.2.22/rescue.iso
    former:
      description: The override as it was before.
      returned: always
      type: dict
      sample: {target: None, enabled: Disabled}
evidence:
  description: Before, actions, after, verdict, times and tool versions, as it enters the ledger.
  returned: always
  type: dict
  sample: {verdict: 'yes'}
evidence_sha256:
  description: Digest of the evidence.
  returned: always
  type: str
  sample: 2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae
"""
