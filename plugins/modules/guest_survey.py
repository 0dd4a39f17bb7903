#!/usr/bin/python
# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: guest_survey
short_description: Reads the containers and virtual machines that the inventory declares
version_added: 0.1.0
description:
  - Asks the container engine of a host, through the connection that Ansible has to it, for the declared sets of containers.
  - Containers of the engine that no declared set covers are findings, unless the sets say that the engine is shared with
    others and stays (C(shared_engine)).
  - Asks the hypervisor in the same way for the declared sets of virtual machines. One that no declared set covers is a finding, running or
    not, unless the sets say that the hypervisor is shared with others and stays (C(shared_hypervisor)).
attributes:
  check_mode:
    support: full
    description: Only reads.
  diff_mode:
    support: none
    description: It changes nothing.
options:
  items:
    description: The declarations of the host's items (C(sunset_items)); those of kind C(container) and C(guest) are read.
    type: list
    elements: dict
    required: true
author:
  - sunset.crm contributors
"""

EXAMPLES = r"""
- name: Read the containers of the container engine
  sunset.crm.guest_survey:
    items: "{{ sunset_items }}"
  register: survey_guests
"""

RETURN = r"""
expected:
  description: For each declared set whether it was found, and the names and ids of its containers or guests.
  returned: success
  type: dict
  sample: {"container:shop": {found: "yes", identity: {containers: [shop-web], ids: {shop-web: 4f2a}}, media: [], detail: ""}}
findings:
  description: Containers and virtual machines that no declared set covers.
  returned: success
  type: list
  elements: dict
  sample: [{id: "container:wiki", kind: container, what: "a container of the image wiki:3 that no item covers"}]
"""
