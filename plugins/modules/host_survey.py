#!/usr/bin/python
# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: host_survey
short_description: Read what is on a host of the estate, declared or not
version_added: 0.1.0
description:
  - Looks for each declared item, reads its identity and the media that carry it, and names everything else it finds
    that nobody declared.
  - Found without being declared can be other databases on the same server and data directories of other servers,
    listeners of services that are neither declared nor part of a base system, cron files, crontabs of users, timers,
    mounts of block devices, and engines with guests (Docker, Podman, libvirt, Proxmox).
  - Engines that this collection does not drive are findings that only a signed attestation settles (Kubernetes, Incus, LXD, LXC, Xen, VMware,
    VirtualBox); so are the hypervisors VMware, Hyper-V, Xen and VirtualBox of a host that is a guest itself.
  - Reads only; nothing is installed or written. Needs root, to see whose sockets and processes there are.
  - Unlike the modules that change things it needs no receipt and writes nothing into the ledger.
options:
  items:
    description: The host's declarations, as C(sunset_items) in the inventory has them.
    type: list
    elements: dict
    required: true
  profiles:
    description: Profiles of the products (files of C(profiles/)), by name. Their C(units) count as declared.
    type: dict
    default: {}
attributes:
  check_mode:
    description: The module only reads.
    support: full
  diff_mode:
    description: It changes nothing.
    support: none
notes:
  - An C(id) in RV(survey.findings) is stable over reboots. Another program on the same port, or another server with
    a database of the same name, has another id, so a person's classification of the one does not cover the other.
author:
  - sunset.crm contributors
"""

EXAMPLES = r"""
- name: Look at the host
  sunset.crm.host_survey:
    items: "{{ sunset_items }}"
  register: seen
"""

RETURN = r"""
survey:
  description: What was found.
  returned: success
  type: dict
  contains:
    machine_id:
      description: Identity of the installation.
      type: str
      returned: success
      sample: 3f0c9a4e8d6b4c0f9a1d2e3f4a5b6c7d
    boot_id:
      description: Changes with each boot.
      type: str
      returned: success
      sample: 6f1c1f0e-5a75-4a0f-9d0a-0a9a0d5a3a11
    hostname:
      description: The name it gives itself.
      type: str
      returned: success
      sample: app1
    os:
      description: Operating system.
      type: dict
      returned: success
      sample: {id: debian, version: "12", kernel: 6.1.0-18-amd64, architecture: x86_64}
    python:
      description: Version of the Python that ran this.
      type: str
      returned: success
      sample: 3.11.2
    ssh_host_key:
      description: Public SSH key of the host.
      type: str
      returned: success
      sample: ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ0pV5dO
    machine:
      description: By what it is known again from elsewhere, as M(sunset.crm.machine_look) reads it.
      type: dict
      returned: success
      sample: {addresses: [192.0.2.11], macs: ["52:54:00:12:34:57"], guests: [], storage: [], container: false}
    engines:
      description:
        - The container engines that are here (C(docker), C(podman)). Whether containers run on while the engine is down (C(live_restore)),
          and what starts it again when it was stopped (C(comes_back)). An engine that does not run is not asked, for the question could start it.
      type: dict
      returned: success
      sample:
        docker:
          runs: "yes"
          live_restore: "no"
          known_by: the engine's own answer
          units: {docker.service: {active: active, unit_file_state: enabled}}
          comes_back: ["docker.service is enabled: it is there again after a boot"]
    expected:
      description:
        - For each declared item whether it was found (C(yes), C(no) or C(unknown)), its identity, the devices that
          carry it, and a sentence where something is to be said.
      type: dict
      returned: success
      sample:
        "filestore:creme-uploads":
          found: "yes"
          identity: {path: /srv/creme/media/upload, inode: 12, fs_uuid: null}
          media: [{kind: loop, serial: LAB-UPLOADS-0001, inode: 4711, size: 100663296, device: /dev/loop7}]
          detail: ""
    staging:
      description:
        - For each declared item with a staging place whether that can be used (C(problem) is empty), on which devices it lies, and whether
          it is in memory alone.
      type: dict
      returned: success
      sample:
        "filestore:creme-uploads":
          place: /srv/creme/media/.sunset-staging
          problem: ""
          media: [{kind: loop, serial: LAB-UPLOADS-0001, inode: 4711, size: 100663296, device: /dev/loop7}]
          in_memory: false
    findings:
      description: What no item declares and no base system brings.
      type: list
      elements: dict
      returned: success
      sample:
        - id: "listener:tcp/9099:legacy-report.service"
          kind: listener
          what: legacy-report.service (python3) listens on tcp port 9099 of 0.0.0.0; no item of this host declares it
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.sunset.crm.plugins.module_utils import _recorded
from ansible_collections.sunset.crm.plugins.module_utils._service import container_engines as service_container_engines
from ansible_collections.sunset.crm.plugins.module_utils._survey import (
    host as survey_host,
    machine as survey_machine,
    media as survey_media,
    rules as survey_rules,
)
from ansible_collections.sunset.crm.plugins.module_utils._survey.expected import Expected


def main():
    module = AnsibleModule(
        argument_spec=dict(
            items=dict(type="list", elements="dict", required=True),
            profiles=dict(type="dict", default={}),
        ),
        supports_check_mode=True,
    )
    items = module.params["items"]
    problem = survey_rules.declaration_problem(items)
    if problem:
        module.fail_json(msg="sunset_items: " + problem)
    expected = Expected(_recorded.run_command, survey_media.Media())
    seen = {survey_rules.item_id(item): expected.look(item) for item in items}
    staging = {survey_rules.item_id(item): expected.staging(item) for item in items if item.get("staging")}
    findings = survey_host.Findings(_recorded.run_command, items, module.params["profiles"], expected)
    facts = dict(survey_host.host_facts(), machine=survey_machine.machine(), engines=service_container_engines.look(_recorded.run_command))
    module.exit_json(changed=False, survey=dict(facts, expected=seen, staging=staging, findings=findings.all(seen)))


if __name__ == "__main__":
    main()
