# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Gate and record M(media_wipe), then issue the certificate that its evidence carries."""

from __future__ import annotations

from typing import Any

from ansible_collections.sunset.crm.plugins.plugin_utils import certify
from ansible_collections.sunset.crm.plugins.plugin_utils.plan import Item
from ansible_collections.sunset.crm.plugins.plugin_utils.recording import RecordedAction
from ansible_collections.sunset.crm.plugins.plugin_utils.session import Session


class ActionModule(RecordedAction):
    """A wipe that is seen to be whole gets its certificate, also when an earlier run was killed before it was written."""

    def conclude(self, session: Session, item: Item) -> dict[str, Any]:
        return certify.conclude(session, item)
