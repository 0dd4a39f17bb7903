#!/usr/bin/python
# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: media_plan
short_description: Decides how every medium of the fleet would be wiped, without touching one
version_added: 0.1.0
description:
  - Takes what M(sunset.crm.disk_info) saw on the machines of the estate and the stations, holds it against the plan, and decides for each medium
    by which techniques it would be wiped, what that is called by the standards, how long it takes, what is in the way and what has to come before.
  - Media of the plan that no machine shows, machines that gave no answer, and media that are in no plan are named. Without a plan every medium is
    looked at.
  - Asked for Purge where only less can be reached, the medium gets an order of destruction, and RV(problem) says so. There is no fallback to less.
  - Whether the keys of an encrypted medium may be destroyed in the place of its data is decided by the signed ledger of key copies among the estate's
    statements; whether a self-encrypting drive may be reverted, by whether the machine has the number from its label. An inventory says neither.
  - Disks that carry the system of the control node or lie under a vault are never in it, whatever the plan says.
  - Prints the table, and writes the decisions to C(report/media.json) and the table to C(report/media.txt) of the estate's folder.
options:
  policy:
    description:
      - What is asked for. C(asked) is V(clear) or V(purge) (NIST SP 800-88 Rev. 2, techniques by IEEE 2883). C(prefer) is V(evidence) (what can be
        verified comes first, the default) or V(speed). C(logical) says whether a virtual disk may end in logical sanitisation; V(yes) by default for
        Clear, V(no) for Purge. C(pool_reserve) is the share of a thin pool that stays free.
      - A medium's own C(sanitisation) in the inventory overrules it for that medium.
      - Without it the plan's own is taken (C(settings.wipe_policy)), and C(clear) where there is none.
    type: dict
  register:
    description: Name of the variable in which each machine's answer was registered.
    type: str
    default: sunset_disks
attributes:
  check_mode:
    support: full
    description: Decides the same, writes no file.
  diff_mode:
    support: none
    description: It changes no machine.
notes:
  - Runs on the control node and connects to no host. The estate's folder is the variable C(sunset_estate_dir).
  - It is a preview. The wipe takes the same decision again where it runs, with the plan's policy, and looks at the opened device before it writes.
seealso:
  - module: sunset.crm.disk_info
  - module: sunset.crm.media_wipe
author:
  - sunset.crm contributors
"""

EXAMPLES = r"""
- name: Read the media of every machine
  sunset.crm.disk_info:
  register: sunset_disks

- name: Decide how each would be wiped
  sunset.crm.media_plan:
    policy: {asked: purge}
  run_once: true
"""

RETURN = r"""
path:
  description: Where the decisions lie.
  returned: success
  type: str
  sample: /srv/sunset/acme/report/media.json
table:
  description: The same for people, line by line.
  returned: success
  type: list
  elements: str
  sample: ["item  host  device  model  serial  size  verdict  technique  class  rev1  time"]
rows:
  description: One decision a medium.
  returned: success
  type: list
  elements: dict
  sample: [{item: "medium:pgdata", host: station1, device: /dev/nvme1n1, verdict: plan, reachable: purge, seconds: 60}]
seconds:
  description: Sum of the estimates; media that give none are not in it.
  returned: success
  type: int
  sample: 7320
sha256:
  description: Digest of the decisions, equal as long as nothing that matters changes (no process ids, no estimates).
  returned: success
  type: str
  sample: 8441553a1da40336adc2e98e9ef36d025fca915fff9b245657387843d14bdf61
problem:
  description: Media that cannot reach what is asked, or are shown nowhere, and machines that gave no answer; empty where there is none.
  returned: success
  type: str
  sample: "medium:db1-disk-a on station1 cannot reach purge"
"""
