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
    to it is made. A witness that cannot see is a refusal, and so are several that disagree.
  - V(off) looks at the host first, by its connection (M(sunset.crm.host_idle)). A guest that runs on it, an engine that gives no answer, or
    a session from another host on a database server of it keeps it on. Then it is asked through its own connection to power off. A
    connection that is cut by that is expected and proves nothing. Then the witness is read until it shows the host off or O(timeout) has
    passed. Nothing is forced unless O(force_after) and O(force_allowed_by) say so.
  - A host that is a node of a Proxmox VE cluster goes off only after M(sunset.crm.proxmox_nodes); its cluster is asked once more, at that moment,
    whether all guests are off and HA is aside. Nodes that went off before are not missed. What the cluster says of the node itself proves nothing.
  - V(on) switches on through the witness where that can, waits until the host answers through its connection, and
    checks that it is the same machine.
options:
  state:
    description:
      - What the power is to be. Quote V(off) and V(on), YAML takes both words for booleans.
      - V(woken) is V(on), of a host that was shut down and is to wipe its own disks. It takes nothing of what was proven away, and the
        gate wants everything that the wipe wants.
      - V(ended) is V(off), of such a host after its wipe. It stays up until each of its media is seen wiped, the certificates are
        written, and the ledger has reached the vaults.
    type: str
    choices: ['off', 'on', woken, ended]
    required: true
  witness:
    description:
      - What sees the host's power from outside. Taken from the plan. A mapping, or a list of several of different kinds, which must agree.
      - C(kind=redfish) is a management controller. C(address), C(credentials) (file of mode 0600 on the control node with C(username) and
        C(password)), one of C(ca_file) and C(fingerprint) (SHA-256 of its certificate); C(system) where it has several; C(auth=basic) where it has
        no sessions to give; C(serial) or C(uuid), by which it is known to be the controller of this host; C(timeout) of one answer in seconds.
      - C(kind=ipmi) is a management controller that speaks IPMI 2.0. C(address), C(port), C(credentials), C(uuid).
      - C(kind=libvirt) means that the host is a guest. C(uri) and C(domain) (name or UUID).
      - C(kind=docker) means that the host is a container of the control node's engine, as in the lab. C(container), C(socket).
      - C(kind=silence) means no sign of life for a set time, by TCP, ICMP and ARP. It is weaker than a power state, is called V(silence) wherever
        it appears. C(address), C(ports), C(seconds), C(reference) (address that must answer a ping meanwhile, so that a cut cable here is not taken
        for a host that is off; needed where silence is the only witness), C(wake) (C(mac), C(broadcast), C(port)) for Wake-on-LAN, without which it cannot switch on.
    type: raw
    required: true
  timeout:
    description: Seconds from the request until the witness must show the wanted power.
    type: float
    default: 300
  silence_seconds:
    description: How long a host must be silent, where the witness does not say it.
    type: float
    default: 20
  ask_controller:
    description:
      - Whether a host that does not answer through its connection may be asked to end by its management controller (C(GracefulShutdown), C(chassis
        power soft)). What the controller does not offer is an error; nothing else is sent in its place.
    type: bool
    default: false
  force_after:
    description:
      - Seconds after which a host that does not end is cut off by its management controller. Never, if not given.
      - Must be above 0 and shorter than O(timeout).
    type: float
  force_allowed_by:
    description: Who allowed that. Recorded.
    type: str
  board:
    description: UUID and serial number of the host's mainboard, as the survey read them. Taken from the plan.
    type: dict
    default: {}
  excused:
    description: Guests that a person has classified and that may run. Taken from the plan.
    type: list
    elements: str
    default: []
  ports:
    description: Ports of the plan's database servers on this host. Taken from the plan.
    type: list
    elements: int
    default: []
  idle_waiver:
    description: Digest of a signed waiver of the gate C(idle), which stands for what could not be seen. Taken from the statements.
    type: str
  cluster:
    description: For a node of a Proxmox VE cluster, that cluster, as in M(sunset.crm.proxmox_nodes). Taken from the plan.
    type: dict
  attested:
    description: Engines here that this collection does not drive, and by whose signed word their guests are dark. Taken from the statements.
    type: dict
    default: {}
  machine_id:
    description: The machine id that must answer after V(on). Default is the one read before the last power-off.
    type: str
requirements:
  - On the control node, for the witness of that kind, the Python package C(sushy) (Redfish), C(pyghmi) (IPMI), C(docker), C(libvirt-python)
seealso:
  - module: sunset.crm.docker_guests
extends_documentation_fragment:
  - sunset.crm.recorded
author:
  - sunset.crm contributors
"""

EXAMPLES = r"""
- name: Power the host off and see that it is off
  sunset.crm.host_power:
    item: host:app1
    state: 'off'
    witness: {kind: silence, address: 192.0.2.10, seconds: 60, reference: 192.0.2.1}

- name: Power a host off and see it off by its management controller and by silence
  sunset.crm.host_power:
    item: host:db1
    state: 'off'
    witness:
      - {kind: redfish, address: bmc-db1.example.org, credentials: /etc/sunset/bmc/db1.yml, ca_file: /etc/sunset/bmc/ca.pem}
      - {kind: silence, address: 192.0.2.12, reference: 192.0.2.1}

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
      description:
        - How the host went off; V(by itself), V(by force), V(already off), V(after a graceful request) or V(unknown). A management controller
          shows that a host is off, not how it came to be.
      returned: for V(off)
      type: str
      sample: by itself
    stays_off:
      description: Whether the witness knows of something that would switch it on again; V(yes), V(no) or V(unknown).
      returned: for V(off)
      type: str
      sample: 'yes'
    asked_through:
      description: Through what it was asked to end; V(ssh) or V(controller).
      returned: for V(off), when something was done
      type: str
      sample: ssh
    forced:
      description: Whether it was cut off.
      returned: for V(off), when something was done
      type: bool
      sample: false
    controller_of_this_host:
      description: Whether the management controller is known to be that of this host; V(yes) or V(unknown).
      returned: for V(off), when it has one
      type: str
      sample: 'yes'
    through:
      description: What it was switched on through.
      returned: for V(on), when it was off
      type: str
      sample: redfish (On)
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
