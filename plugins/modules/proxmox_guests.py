#!/usr/bin/python
# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This file is documentation: the act itself runs on the control node, in the action plugin of the same name.

DOCUMENTATION = r"""
module: proxmox_guests
short_description: Stop, save or start a set of guests on Proxmox VE, with proof of how each ended
version_added: 0.1.0
description:
  - Works on QEMU and LXC guests of one Proxmox VE node or cluster (7.4 to 9.2), and on no others. The control node speaks to the API over
    HTTPS (O(api)); nothing is installed on the nodes.
  - Before anything is touched the rights of the user or token are read. One that may not see every guest of the cluster is refused, since
    Proxmox answers it with a shortened list; so is a cluster without quorum, another cluster at the same address, a guest that got the number of
    another, and a node that does not answer.
  - Guests that are locked are waited for as long as a running task owns the lock. A lock that was left behind is reported; this module
    never unlocks anything and never uses C(skiplock). A guest that migrates meanwhile is looked up again.
  - O(state=stopped) first keeps the guests from coming back. HA resources are set to V(ignored), and the HA manager is waited for;
    C(onboot) is taken away, the only key of a configuration that is ever written (O(keep_off)). Then each guest is asked to shut down, with O(timeout)
    given to Proxmox and C(forceStop) never. Requests go out together; guests with a start order end in its reverse.
  - A task that ends with C(OK) is no proof. The guest's own C(status/current) is read, and how it ended is taken from the task's type, its
    exit status and its whole log; C(VM still running - terminating now with SIGTERM) is an end by force, C(hastop) only a request.
  - Templates never run; they are named and left alone. A hibernated guest (lock V(suspended)) is off with its memory on disk; it is
    named as such, and no snapshot or backup of it is made.
  - O(state=saved) takes a snapshot of each guest (O(snapshot)) and backs each one up to a storage of Proxmox (O(copy)), where that is wished, and
    puts each guest's definition into O(staging) on the item's host. Guests must be off. Nothing that exists is removed, and no backup is pruned.
  - O(state=started) puts HA state and C(onboot) back as they were and starts exactly those that ran.
options:
  api:
    description: How the API is reached. Taken from the plan.
    type: dict
    required: true
    suboptions:
      hosts:
        description: Nodes by name or address. The first is asked; when it does not answer, the next.
        type: list
        elements: str
        required: true
      port:
        description: The port of the API.
        type: int
        default: 8006
      user:
        description: The user, with its realm, such as V(sunset@pve).
        type: str
        required: true
      token_id:
        description:
          - The name of an API token of the user. Without it the user logs in with a password, and the ticket is renewed.
          - A token needs rights of its own, unless it was made without privilege separation.
        type: str
      secret_file:
        description: File on the control node, of mode 0600, that holds the secret of the token, or the password, and nothing else.
        type: path
        required: true
      verify:
        description:
          - How the certificate is checked. V(system), the path of a CA file (such as a copy of C(/etc/pve/pve-root-ca.pem)), or the SHA-256
            fingerprint of the certificate.
        type: str
        default: system
  keep_off:
    description:
      - Whether C(onboot) is taken away, so that a node that starts does not start the guest. What it was is recorded and put back by O(state=started).
      - If not, the evidence says of each such guest that it does not stay off (C(stays_off)).
    type: bool
    default: true
  lock_wait:
    description: Seconds that a locked guest is waited for before anything is begun.
    type: float
    default: 600
  snapshot:
    description:
      - Whether a snapshot is taken of each guest when it is off. Taken from the plan.
      - It lies on the same storage as the disk and is no copy. Where a storage cannot, the disk is named and nothing is taken.
    type: bool
    default: false
  snapshot_name:
    description: The name of the snapshots. A letter, then 1 to 39 letters, digits, C(-) or C(_).
    type: str
    default: sunset-retire
  copy:
    description: Whether each guest is backed up (vzdump) to O(storage). Taken from the plan.
    type: bool
    default: false
  copy_timeout:
    description: Seconds that each backup has.
    type: float
    default: 21600
  storage:
    description: The storage of the backups. They are protected and carry the item's name in their notes. Taken from the plan.
    type: str
  leave_out:
    description:
      - Disks that a snapshot or backup may leave out, as C(GUEST:DISK). Proxmox leaves out bind mounts, mount points without C(backup=1) and disks
        with C(backup=0) without a word; here each is a refusal unless it is named.
    type: list
    elements: str
    default: []
requirements:
  - Python packages C(proxmoxer) and C(requests) on the control node
  - privileges with propagation. C(VM.Audit) on C(/vms) and C(Sys.Audit) on C(/) always; C(VM.PowerMgmt), and C(VM.Config.Options) for C(onboot), on
    the guests; C(Sys.Console) on C(/) if HA knows one of them; C(VM.Snapshot) for snapshots; C(VM.Backup), C(Datastore.AllocateSpace) and
    C(Datastore.Audit) for backups
notes:
  - A token that is denied a single guest by a role without privileges (C(NoAccess)) cannot be told from one that sees all, if that guest is not in the plan.
  - Proxmox gives no digest of a backup. It is proven by its own log, by the storage's list before and after, and by the configuration read from it; the
    databases and files of the CRM are proven by their own items.
  - An HA resource that is V(ignored) is not recovered when its node dies; nor are those that stay V(ignored) after a run that was given up. Resume puts them back.
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
  sunset.crm.proxmox_guests:
    item: guest:crm
    state: stopped
    timeout: 180
    guests: [crm-app, crm-db, "104"]
    staging: /var/lib/sunset-staging
    api:
      hosts: [pve1.example.com, pve2.example.com]
      user: sunset@pve
      token_id: retire
      secret_file: /etc/sunset/pve-token
      verify: /etc/sunset/pve-root-ca.pem
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
          id: qemu/101/8c1d6d1e-3c38-4c7a-9f3b-6f3a0c1f7b11
          how: by itself
          graceful: 'yes'
          detail: 'qmshutdown: OK'
          seconds: 6.1
          before: {node: pve1, status: running, ha: started, onboot: 1, stays_off: 'no: HA state started and onboot'}
          after: {node: pve1, status: stopped, ha: ignored, onboot: 0, stays_off: 'yes'}
          returned_before: HA state started and onboot
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
        crm-app: {id: qemu/101/8c1d6d1e-3c38-4c7a-9f3b-6f3a0c1f7b11, power: 'on', onboot: 1, ha: started}
    artefacts:
      description: For O(state=saved), the staged files with their digests, and those of their plain content.
      returned: O(state=saved)
      type: list
      elements: dict
      sample:
        - name: guest-101-definition
          role: definition
          path: /var/lib/sunset-staging/guest-101.definition.json
          sha256: 9c56
          bytes: 4711
          plain_sha256: 9c56
          plain_bytes: 4711
          codec: none
    source:
      description: For O(state=saved), each guest with its id, its definition and the digest of each artefact as it was read here.
      returned: O(state=saved)
      type: dict
      sample: {guests: {crm-app: {id: qemu/101, definition: guest-101-definition, artefacts: {guest-101-definition: 9c56}}}}
    snapshots:
      description: For O(state=saved) with O(snapshot), each guest's snapshot as it was read afterwards.
      returned: O(state=saved)
      type: dict
      sample: {crm-app: {snapshot: sunset-retire, state: whole, consistency: offline, copy: 'no: it lies on the same storage as the disk'}}
    backups:
      description: For O(state=saved) with O(copy), each guest's archive as it was read afterwards.
      returned: O(state=saved)
      type: dict
      sample: {crm-app: {storage: backup1, volid: 'backup1:backup/vzdump-qemu-101-2026_11_22-04_12_00.vma.zst', size: 4194304, protected: 1}}
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
