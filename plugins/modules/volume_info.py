#!/usr/bin/python
# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What virtual disks of a machine are made of; see DOCUMENTATION."""

DOCUMENTATION = r"""
---
module: volume_info
short_description: Reads what virtual disks of a machine are made of, and what they lie on
version_added: "0.1.0"
description:
  - For each disk every layer, the one that is written to first, through all files behind a qcow2, with what each is known by, and the devices of the machine
    that carry it.
  - A raw disk is never probed for another format.
  - Reads only. It is what the survey of sets of guests asks.
options:
  disks:
    description: The disks, each with C(path) and C(format) as the hypervisor's definition has them.
    type: list
    elements: dict
    required: true
attributes:
  check_mode:
    support: full
    description: It only reads.
  diff_mode:
    support: none
    description: It changes nothing.
seealso:
  - module: sunset.crm.volume_wipe
author:
  - sunset.crm contributors (@sunset-crm)
"""

EXAMPLES = r"""
- name: What is this disk made of
  sunset.crm.volume_info:
    disks:
      - {path: /var/lib/libvirt/images/db1.qcow2, format: qcow2}
"""

RETURN = r"""
disks:
  description: The disks in the order in which they were given.
  returned: success
  type: list
  elements: dict
  contains:
    source:
      description: The path that was asked for.
      type: str
      returned: always
      sample: /var/lib/libvirt/images/db1.qcow2
    chain:
      description: The layers. Empty where they cannot all be told.
      type: list
      elements: dict
      returned: always
      sample: [{path: /var/lib/libvirt/images/db1.qcow2, format: qcow2, kind: file, inode: 2211859, bytes: 196616, virtual_bytes: 8388608, snapshots: 0}]
    problem:
      description: Why the layers cannot be told; empty if they can.
      type: str
      returned: always
      sample: ""
    media:
      description: Identities of the devices of the machine that carry the layers.
      type: list
      elements: dict
      returned: always
      sample: [{kind: scsi, serial: S3Z9NB0K123456, size: 1000204886016, device: /dev/sda}]
"""

import os
from typing import Any, Dict, List  # noqa: F401

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.sunset.crm.plugins.module_utils._survey import media as survey_media
from ansible_collections.sunset.crm.plugins.module_utils._volume import chain as volume_chain


def media_of(known, chain):
    """Whole devices below the layers, as far as this machine has nodes of them: a container is shown the disks of the machine around it."""
    found = []  # type: List[Dict[str, Any]]
    for layer in chain:
        if layer["kind"] == "file":
            rows = known.below([layer["path"]])
        else:
            rows = [survey_media.identity_of(number) for number in survey_media.whole_devices(layer["device"])]
        found.extend(row for row in rows if row not in found and os.path.exists(str(row.get("device"))))
    return found


def main():
    module = AnsibleModule(argument_spec=dict(disks=dict(type="list", elements="dict", required=True)), supports_check_mode=True)
    known, found = survey_media.Media(), []
    for disk in module.params["disks"]:
        if not disk.get("path"):
            module.fail_json(msg="a disk has no path: %r; expected path and format of each" % (disk,))
        row = volume_chain.look(str(disk["path"]), str(disk.get("format") or "raw"))
        found.append(dict(row, media=media_of(known, row["chain"])))
    module.exit_json(changed=False, disks=found)


if __name__ == "__main__":
    main()
