#!/usr/bin/python
# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This file is documentation: the act itself runs on the control node, in the action plugin of the same name.

DOCUMENTATION = r"""
module: host_power
short_description: Power a host off gracefully and see from outside that it is off, or switch it on again
version_added: 0.1.0
description:
  - A witness outside the host has the first and the last word. A host that it shows off is left alone, and no connection
    to it is made. A witness that cannot see is a refusal.
  - V(off) asks the host through its own connection to power off. A connection that is cut by that is expected and proves
    nothing. Then the witness is read until it shows the host off or O(timeout) has passed. Nothing is ever forced.
  - V(on) switches on through the witness where that can, waits until the host answers through its connection, and
    checks that it is the same machine.
options:
  item:
    description: Identity of the plan's item.
    type: str
    required: true
  state:
    description: What the power is to be. Quote it, YAML takes both words for booleans.
    type: str
    choices: ['off', 'on']
    required: true
  witness:
    description: What sees the host's power from outside. Taken from the plan.
    type: dict
    required: true
    suboptions:
      kind:
        description:
          - V(docker) means that the host is a container of the control node's engine, as in the lab.
          - V(silence) means no sign of life for a set time, by TCP, ICMP and ARP. It is weaker than a power state, is called
            V(silence) wherever it appears, and cannot switch on.
        type: str
        choices: [docker, silence]
        required: true
      container:
        description: Name of the container, for V(docker).
        type: str
      socket:
        description: Socket of the engine, for V(docker).
        type: path
        default: /var/run/docker.sock
      address:
        description: Address of the host, for V(silence).
        type: str
      ports:
        description: TCP ports that are tried, for V(silence). A refusal is a sign of life.
        type: list
        elements: int
        default: [22]
      seconds:
        description: How long there must be no sign of life, for V(silence). Default is O(silence_seconds).
        type: float
      reference:
        description: Address that must answer a ping meanwhile, for V(silence), so that a cut cable here is not taken for a host that is off.
        type: str
  timeout:
    description: Seconds from the request until the witness must show the wanted power.
    type: float
    default: 300
  silence_seconds:
    description: How long a host must be silent, where the witness does not say it.
    type: float
    default: 20
  machine_id:
    description: The machine id that must answer after V(on). Default is the one read before the last power-off.
    type: str
  receipt:
    description: Set by the collection's action plugin.
    type: dict
attributes:
  check_mode:
    description: Takes the same decision without acting.
    support: full
  diff_mode:
    description: Returns before and after in the evidence instead.
    support: none
requirements:
  - Python package C(docker) on the control node, for the witness V(docker)
seealso:
  - module: sunset.crm.docker_guests
author:
  - sunset.crm contributors
"""

EXAMPLES = r"""
- name: Power the host off and see that it is off
  sunset.crm.host_power:
    item: host:app1
    state: 'off'
    witness: {kind: silence, address: 192.0.2.10, seconds: 60, reference: 192.0.2.1}

- name: Switch a lab host on again
  sunset.crm.host_power:
    item: host:app1
    state: 'on'
    witness: {kind: docker, container: app1}
"""

RETURN = r"""
result:
  description: What later steps and the ledger read.
  returned: always
  type: dict
  contains:
    power:
      description: What the witness saw last; V(on), V(off) or V(unknown).
      returned: always
      type: str
      sample: 'off'
    proof:
      description: The kind of the witness.
      returned: always
      type: str
      sample: docker
    how:
      description: How the host went off; V(by itself), V(by force), V(already off) or V(unknown).
      returned: for V(off)
      type: str
      sample: by itself
    stays_off:
      description: Whether the witness knows of something that would switch it on again; V(yes), V(no) or V(unknown).
      returned: for V(off)
      type: str
      sample: 'yes'
    machine_id:
      description: The machine id, read through the connection.
      returned: when the host was asked
      type: str
      sample: 0123456789abcdef0123456789abcdef
    boot_id:
      description: The boot id, read through the connection.
      returned: when the host was asked
      type: str
      sample: 11111111-2222-3333-4444-555555555555
    seconds:
      description: From the request to the reading that showed the wanted power.
      returned: when something was done
      type: float
      sample: 3.4
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
