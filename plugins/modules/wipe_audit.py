#!/usr/bin/python
# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Look at a wiped medium again, from its certificate alone; see DOCUMENTATION."""

DOCUMENTATION = r"""
module: wipe_audit
short_description: Look at a wiped medium again, from its certificate alone
version_added: 0.1.0
description:
  - Reads the certificate on the control node, checks its signature, and compares the medium with it, on whatever machine sees the medium
    now. Needs no plan, no ledger and no estate.
  - The identity is read from the very descriptor that is read. Then places of the medium are compared with what it was left with, which is
    the disclosed key stream, or zeros where a final pass was asked for. The places follow NIST SP 800-88's sampling plan with a new random
    choice, or are all bytes.
  - After a technique of the drive's own (a purge) nobody knows what it should hold. Then it is looked at whether one of the keyed
    blocks that were there before has survived. That can only contradict the certificate.
  - Reads only. Fails unless the verdict is V(same) or V(not contradicted), and the signature is one of an allowed signer.
options:
  certificate:
    description: Path of the certificate on the control node. Its signature lies beside it (C(.sig)).
    type: path
    required: true
  allowed_signers:
    description:
      - Text of an allowed-signers file that names the run key, got by another way than the certificate.
      - Without it nobody has said whose signature counts, and the task fails after it has told what it saw.
    type: str
  device:
    description: Path of the block device on this machine.
    type: path
    required: true
  verify:
    description: V(sample) reads a tenth of the medium, V(full) all of it.
    type: str
    choices: [sample, full]
    default: sample
  facts:
    description: What the certificate says. Filled in by the action plugin.
    type: dict
attributes:
  check_mode:
    support: full
    description: The module only reads.
  diff_mode:
    support: none
    description: It changes nothing.
author:
  - sunset.crm contributors (@sunset-crm)
"""

EXAMPLES = r"""
- name: Is the disk in this shelf still as its certificate says?
  sunset.crm.wipe_audit:
    certificate: /mnt/evidence/acme/certificates/medium_pgdata.certificate.json
    allowed_signers: "{{ lookup('file', '/mnt/letter/allowed_signers') }}"
    device: /dev/disk/by-id/scsi-SSEAGATE_ST4000NM_ZC1
"""

RETURN = r"""
verdict:
  description:
    - V(same), V(changed), V(reused), V(another medium) or V(unknown).
    - After a purge V(not contradicted) or V(contradicted).
  returned: always
  type: str
  sample: same
why:
  description: What was seen, in words.
  returned: always
  type: str
  sample: every place looked at is as it was left
signer:
  description: The allowed signer whose signature the certificate bears.
  returned: when the signature was checked and holds
  type: str
  sample: run
found:
  description: Identity of the device.
  returned: when it could be opened
  type: dict
  sample: {kind: scsi, serial: ZC1, size: 4000787030016}
bytes_read:
  description: How many bytes were compared.
  returned: when it is the certificate's medium
  type: int
  sample: 400078704640
differing:
  description: How many places of 4096 bytes are not as they were left.
  returned: when it is the certificate's medium
  type: int
  sample: 0
differing_ranges:
  description: Where, as start and end in bytes; at most 200.
  returned: when it is the certificate's medium
  type: list
  elements: list
  sample: []
plan:
  description: Which places were looked at; from its seed anybody can work them out.
  returned: when it is the certificate's medium
  type: dict
  sample: {name: "NIST SP 800-88 sampling: 1000 subsections, two places each, first and last block", share: 0.1}
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.sunset.crm.plugins.module_utils._wipe import (
    audit as wipe_audit,
    passes as wipe_passes,
    plan as wipe_plan,
    stream as wipe_stream,
)


def main():
    module = AnsibleModule(
        argument_spec=dict(
            certificate=dict(type="path", required=True),
            allowed_signers=dict(type="str"),
            device=dict(type="path", required=True),
            verify=dict(type="str", choices=["sample", "full"], default="sample"),
            facts=dict(type="dict", no_log=False),
        ),
        supports_check_mode=True,
    )
    params = module.params
    facts = params["facts"]
    if not facts:
        module.fail_json(msg="wipe_audit runs through its action plugin, which reads the certificate; call it as a task")
    # After a purge the places are those at which keyed blocks lay before it: at others there is nothing to be found.
    seed = facts.get("seed") or wipe_plan.new_seed() if params["verify"] == "sample" else None
    try:
        key = bytes(bytearray.fromhex(facts["key"]))
        seen = wipe_audit.audit(params["device"], facts["identity"], key, facts["left"], facts["error_ranges"], seed, facts.get("ranges"))
    except (OSError, wipe_passes.Broken, wipe_stream.StreamError) as exc:
        seen = {"verdict": wipe_audit.UNKNOWN, "why": "%s: %s" % (params["device"], exc)}
    module.exit_json(changed=False, **seen)


if __name__ == "__main__":
    main()
