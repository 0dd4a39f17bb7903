#!/usr/bin/python
# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: host_look
short_description: Surveys a host once more before it goes off
version_added: 0.1.0
description:
  - Runs M(sunset.crm.host_survey) on the host and compares what it finds with the approved plan. Something new, a database that was
    created after the survey for instance, keeps the host from being powered off and its media from being wiped.
  - Runs while the database servers still answer and after the last dump; the gate of the power-off asks for it.
options:
  items:
    description: The declarations of the host's items; filled in from the plan.
    type: list
    elements: dict
  profiles:
    description: Profiles of the products; filled in from the plan.
    type: dict
extends_documentation_fragment:
  - sunset.crm.recorded
author:
  - sunset.crm contributors
"""

EXAMPLES = r"""
- name: Look again for what nobody planned
  sunset.crm.host_look:
    item: host:db1
"""

RETURN = r"""
result:
  description: What was found that the plan does not know; empty in a good end.
  returned: always
  type: dict
  sample: {new: [], machine_id: 4c4c4544004d3510}
"""
