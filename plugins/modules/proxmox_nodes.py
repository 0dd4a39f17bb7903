#!/usr/bin/python
# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This file is documentation: the act itself runs on the control node, in the action plugin of the same name.

DOCUMENTATION = r"""
module: proxmox_nodes
short_description: Set HA and Ceph of a Proxmox VE cluster aside before its nodes go off, and put them back
version_added: 0.1.0
description:
  - Under its default policy Proxmox VE starts the guests of a node that goes off elsewhere, and a node on which HA works resets itself when the
    cluster loses its quorum. So HA and Ceph are told before the first node is asked. The nodes themselves go off by M(sunset.crm.host_power), which
    refuses a node for which this was not done, and looks at the cluster once more.
  - A host is a node when a set of guests on that cluster stands on it and its host name is the name of a node, as the survey saw both.
  - O(state=aside) wants every guest of the cluster off, those of no plan as well, no task running, quorum, and every node heard of. Then HA is
    disarmed (from 9.1 on; every resource ignored), or each resource is set to V(ignored), and the agents are waited for until they are idle. Where
    there is Ceph, its flag C(noout) is set. What of that was so before is left alone.
  - O(state=restored) waits until all nodes of the cluster are there and it has its quorum, and puts back what was changed, nothing else.
  - Rights are read first. The user or token needs C(Sys.Audit) on C(/) and C(VM.Audit) on C(/vms), C(Sys.Console) on C(/) where HA is to be
    changed, C(Sys.Modify) on C(/) where C(noout) is.
options:
  state:
    description: What HA and Ceph are to be.
    type: str
    choices: [aside, restored]
    required: true
  cluster:
    description:
      - The cluster, this host's node of it, and the hosts of the plan that are its nodes. Taken from the plan.
      - C(name), C(api) (as in M(sunset.crm.proxmox_guests)), C(node), C(hosts) (inventory name to node), C(together)
        (those of them that are retired with this one), C(excused) (guests that a person has classified).
    type: dict
    required: true
  timeout:
    description:
      - Seconds until all of it must be done and seen.
      - Before version 9.1 an HA agent is idle only about ten minutes after its last resource was let go.
    type: float
    default: 900
  former:
    description: For O(state=restored), the RV(result.former) that the ledger keeps. Filled in by the action plugin.
    type: dict
    default: {}
requirements:
  - Python packages C(proxmoxer) and C(requests) on the control node
notes:
  - Name several nodes in the set's C(api) (C(hosts)), so that the cluster still answers when the first of them is off.
seealso:
  - module: sunset.crm.host_power
  - module: sunset.crm.proxmox_guests
extends_documentation_fragment:
  - sunset.crm.recorded
author:
  - sunset.crm contributors
"""

EXAMPLES = r"""
- name: Set HA and Ceph aside
  sunset.crm.proxmox_nodes:
    item: host:pve1
    state: aside

- name: Put them back
  sunset.crm.proxmox_nodes:
    item: host:pve1
    state: restored
"""

RETURN = r"""
result:
  description: What later steps and the ledger read.
  returned: always
  type: dict
  contains:
    cluster:
      description: Name of the cluster.
      returned: always
      type: str
      sample: crm
    node:
      description: What this host is called in it.
      returned: always
      type: str
      sample: pve1
    ha:
      description: V(disarmed), V(let be) (no resource that HA would start or move) or V(armed).
      returned: always
      type: str
      sample: disarmed
    ceph:
      description: Health of Ceph, V(none) or V(unknown).
      returned: always
      type: str
      sample: HEALTH_WARN
    noout:
      description: Whether Ceph's flag C(noout) is set.
      returned: always
      type: bool
      sample: true
    quorate:
      description: Whether the cluster has its quorum.
      returned: always
      type: bool
      sample: true
    gone:
      description: Nodes that were asked to go off before, as the ledger has it.
      returned: always
      type: list
      elements: str
      sample: []
    late:
      description: Whether a Ceph monitor runs on this node, so that it is asked after the others.
      returned: always
      type: bool
      sample: false
    monitors:
      description: Nodes on which a Ceph monitor runs.
      returned: always
      type: list
      elements: str
      sample: []
    former:
      description: What was, or would be, changed; C(armed), C(ha) (resource to its state), C(noout).
      returned: always
      type: dict
      sample: {armed: true, ha: {}, noout: true}
    now:
      description: What is still missing, in words.
      returned: in check mode and on failure
      type: list
      elements: str
      sample: []
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
