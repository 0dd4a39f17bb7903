#!/usr/bin/python
# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: host_idle
short_description: See whether a guest runs on a host, or somebody elsewhere uses a database of it
version_added: 0.1.0
description:
  - Asks the engines that run on the host what runs in them (Docker, Podman, libvirt, Proxmox, LXC, Xen, systemd-machined), and looks for
    processes that are a guest or hold one, whatever engine they belong to. One that is seen by either runs. An engine that runs
    and gives no answer is V(unknown), never V(no).
  - An engine whose daemon does not run is not asked, since the question could start it and what it starts by itself.
  - Sessions from other hosts are looked for in the kernel's table of connections, on the given ports and on those that a database
    server listens on.
  - Reads only. Used by M(sunset.crm.host_power) right before a host is asked to go off.
options:
  excused:
    description: Names of guests that a person has classified; they may run.
    type: list
    elements: str
    default: []
  ports:
    description: Ports of the plan's database servers on this host.
    type: list
    elements: int
    default: []
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
- name: See what still runs on the hypervisor
  sunset.crm.host_idle:
    ports: [5432]
"""

RETURN = r"""
idle:
  description: What runs.
  returned: success
  type: dict
  contains:
    running:
      description: Whether a guest runs; V(yes), V(no) or V(unknown).
      type: str
      returned: success
      sample: 'no'
    guests:
      description: The guests that run, each with the sign by which it was seen.
      type: list
      elements: str
      returned: success
      sample: ["machine web1 (libvirt)"]
    excused:
      description: Those of O(excused) that run.
      type: list
      elements: str
      returned: success
      sample: []
    unknown:
      description: What could not be found out, in words.
      type: list
      elements: str
      returned: success
      sample: []
    engines:
      description: The engines that answered.
      type: list
      elements: str
      returned: success
      sample: [docker, libvirt]
    databases:
      description: The database servers that run, the ports that were looked at, and sessions from other hosts on them.
      type: dict
      returned: success
      sample: {servers: [postgres], ports: [5432], sessions: ["192.0.2.7 on port 5432"]}
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.sunset.crm.plugins.module_utils import _recorded
from ansible_collections.sunset.crm.plugins.module_utils._service import idle as service_idle


def main():
    module = AnsibleModule(
        argument_spec=dict(
            excused=dict(type="list", elements="str", default=[]),
            ports=dict(type="list", elements="int", default=[]),
        ),
        supports_check_mode=True,
    )

    def run(argv):
        return _recorded.run_command(argv, timeout=service_idle.TIMEOUT)

    module.exit_json(changed=False, idle=service_idle.look(run, module.params["excused"], module.params["ports"]))


if __name__ == "__main__":
    main()
