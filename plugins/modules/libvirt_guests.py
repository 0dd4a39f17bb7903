#!/usr/bin/python
# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This file is documentation: the act itself runs on the control node, in the action plugin of the same name.

DOCUMENTATION = r"""
module: libvirt_guests
short_description: Stop, save or start a set of virtual machines on libvirt, with proof of how each ended
version_added: 0.1.0
description:
  - Works on the guests of O(guests) of the libvirt of one host, and on nothing else. Its socket is reached through the connection that Ansible
    has to the host (same user, key, port, jump host and become); nothing is installed there.
  - The set must be exactly what the plan says, by name and uuid, on the very hypervisor. A guest that is missing, that oVirt, OpenStack,
    KubeVirt or Pacemaker runs, that is asleep, has crashed or is paused by an error of its disk is refused by name before anything is touched.
  - O(state=stopped) first takes away what would bring a guest back (autostart, an end that is defined as a restart), and keeps the
    definition of a guest that exists only while it runs. Then each is asked, by its agent where one answers, else by the power button; a guest
    whose agent did nothing is asked by the button after half its time. Requests go out together. Off is the state I(shut off) alone, read again
    after a moment, with the reason and the events that libvirt gave. Nothing is cut off unless O(force_after) says so.
  - O(state=saved) writes the definition and the UEFI variables of each guest that is off into O(staging), and by choice takes a snapshot and
    copies every file of each disk's chain, with digests.
  - O(state=started) starts exactly those that ran, and puts back what brought them back.
options:
  uri:
    description:
      - The hypervisor on the item's host. Taken from the plan.
      - Either V(qemu:///system), or with C(?socket=PATH) where the daemon listens elsewhere. Other drivers are refused by name.
    type: str
    default: qemu:///system
  snapshot:
    description:
      - What kind of snapshot, named C(sunset-saved), is taken of the guests' disks when they are off. Taken from the plan.
      - V(internal) needs qcow2 on every disk and no UEFI firmware. V(external) puts a new file on top of each disk; RV(result.chains) has all.
      - It lies on the same storage as the disk, so it is no backup.
    type: str
    choices: [none, internal, external]
    default: none
  copy:
    description:
      - Whether every file of each disk's chain is copied, compressed, into O(staging), from where the vaults pull it. Taken from the plan.
      - Files and block devices only; a disk on the network is refused by name.
    type: bool
    default: false
requirements:
  - Python package C(libvirt-python) on the control node, version 9 or later
  - Python 3 on the host
  - a connection of type V(ssh) that logs in with a key, or V(local)
notes:
  - libvirt forgets how a guest ended when its daemon is restarted. Where no event was seen either, the end is V(unknown) and never called graceful.
  - What was there before, and each request, is noted in the ledger before it is acted on. A run that goes on after a kill leaves a guest that was
    asked less than an hour ago half its time before it asks once more.
  - Definitions are saved without the passwords of consoles, which libvirt keeps to itself.
  - A snapshot is never deleted and a guest never undefined.
seealso:
  - module: sunset.crm.docker_guests
  - module: sunset.crm.host_power
extends_documentation_fragment:
  - sunset.crm.recorded
  - sunset.crm.recorded.guests
author:
  - sunset.crm contributors
"""

EXAMPLES = r"""
- name: Stop the guests of the CRM
  sunset.crm.libvirt_guests:
    item: guest:crm
    state: stopped
    timeout: 180
    guests: [crm-app, crm-db]
    staging: /srv/crm/.sunset-staging
"""

RETURN = r"""
result:
  description: What later steps and the ledger read.
  returned: always
  type: dict
  contains:
    guests:
      description:
        - For O(state=stopped), each guest's end by name.
        - C(how) is one of V(by itself), V(by force), V(already off), V(unknown), V(still running), V(not asked); C(graceful) is
          V(yes), V(no) or V(unknown).
      returned: when the set was looked at after acting
      type: dict
      sample:
        crm-app:
          id: 5f0c
          how: by itself
          graceful: 'yes'
          detail: shut off by the guest
          seconds: 6.1
          returned_before: autostart
          returns_after: ''
    way:
      description: The word that the worst end of the set deserves; V(graceful), V(forced), V(unknown) or V(running).
      returned: O(state=stopped)
      type: str
      sample: graceful
    forced:
      description: Names of the guests that this call cut off.
      returned: O(state=stopped)
      type: list
      elements: str
      sample: []
    former:
      description: What O(state=started) puts back.
      returned: O(state=stopped)
      type: dict
      sample:
        crm-app: {id: 5f0c, power: 'on'}
    artefacts:
      description: For O(state=saved), the staged files with their digests, and those of their plain content.
      returned: O(state=saved)
      type: list
      elements: dict
      sample:
        - name: crm-app-definition
          role: definition
          path: /srv/crm/.sunset-staging/crm-app-5f0c.domain.xml
          sha256: 9c56
          bytes: 4711
          plain_sha256: 9c56
          plain_bytes: 4711
          codec: none
    source:
      description: For O(state=saved), each guest with its id, its definition and the digest of each artefact as it was read here.
      returned: O(state=saved)
      type: dict
      sample: {guests: {crm-app: {id: 5f0c, definition: crm-app-definition, artefacts: {crm-app-definition: 9c56}}}}
    chains:
      description: For O(state=saved), every file that the content of each disk lies in, the one that is written to first; so that a wipe gets all.
      returned: O(state=saved)
      type: dict
      sample: {crm-app: [{target: vda, files: [{path: /var/lib/libvirt/images/crm-app.qcow2, format: qcow2, bytes: 1048576}]}]}
    started:
      description: Names that were started.
      returned: O(state=started)
      type: list
      elements: str
      sample: [crm-app]
    released:
      description: Names of which was put back what brings them back by itself.
      returned: O(state=started)
      type: list
      elements: str
      sample: [crm-app]
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
