#!/usr/bin/python
# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: plan_build
short_description: Builds the plan from the surveys of all hosts
version_added: 0.1.0
description:
  - Joins what the inventory declares with what M(sunset.crm.host_survey) and M(sunset.crm.guest_survey) saw. Writes no plan when
    something expected is missing or unknown.
  - The plan is approved by a signature made outside the control node
    (C(ssh-keygen -Y sign -n plan-approval@sunset.crm plan.json)), which lies beside it as C(plan.json.sig).
options:
  estate:
    description: Name of the estate.
    type: str
    required: true
  waves:
    description: Names of the waves in order.
    type: list
    elements: str
    required: true
  vaults:
    description: Inventory names of the vaults; each has C(sunset_vault_root).
    type: list
    elements: str
    required: true
  custodians:
    description: Name and age recipient of each custodian.
    type: list
    elements: dict
    required: true
  allowed_signers:
    description: File of public keys whose signatures count; its text is pinned in the plan.
    type: path
    required: true
  settings:
    description: >-
      C(grace_seconds), C(proofs_required), C(custodians_required), C(acceptance), C(retention), C(readable) (C(tables), C(xlsx), C(entities): what
      is written for readers without the application; an item's own C(readable) goes before).
    type: dict
    default: {}
  classified:
    description: Persons' words on findings that are not planned; each with C(id), C(by), C(as), C(reason) and optionally C(host).
    type: list
    elements: dict
    default: []
  control:
    description: V(dual) asks for a second person's authorisation of the wipe.
    type: str
    choices: [dual, single]
    default: dual
  profile_folder:
    description: Folder with own profiles of products, looked at before the collection's. What a proof needs of one goes into the plan.
    type: path
  group:
    description: Inventory group of the estate's hosts.
    type: str
    default: sunset_estate
  register:
    description: Variable in which each host's survey was registered.
    type: str
    required: true
  guests:
    description: Variable in which each host's container survey was registered.
    type: str
    required: true
attributes:
  check_mode:
    support: full
    description: Builds the plan and shows the difference; writes nothing.
  diff_mode:
    support: full
    description: Shows the difference between the old plan and the new.
notes:
  - Runs on the control node and connects to no host, so it also answers while hosts are off.
  - The estate's folder is the variable C(sunset_estate_dir).
author:
  - sunset.crm contributors
"""

EXAMPLES = r"""
- name: Build the plan
  sunset.crm.plan_build:
    estate: acme
    waves: [pilot, main]
    vaults: [vault1]
    custodians: [{name: alice, recipient: age1...}]
    allowed_signers: /etc/sunset/allowed_signers
    register: survey_seen
    guests: survey_guests
  run_once: true
"""

RETURN = r"""
plan:
  description: Where the plan lies, its digest and how many items it has.
  returned: success
  type: dict
  sample: {path: /srv/sunset/acme/plan.json, sha256: 9f2c, items: 17}
standing:
  description: >-
    Who stands on whom, as a tree (it lies beside the plan as C(standing.txt), and as a picture in C(standing.svg)), and what of
    that which is kept (control node, vaults, jump hosts, resolvers) could not be compared with the hosts that go off.
  returned: success
  type: dict
  sample: {path: /srv/sunset/acme/standing.txt, tree: ["host:db1"], unknown: []}
unclassified:
  description: What was found and is neither planned nor classified.
  returned: success
  type: list
  elements: str
  sample: ["db1: database:forgotten (a second database)"]
foreign:
  description: Engines and hypervisors that were found and are not handled; a signed attestation says that their guests are dark.
  returned: success
  type: list
  elements: str
  sample: ["node1: engine:kubernetes (Kubernetes is here (kubelet); its guests are not handled by this collection)"]
"""
