# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The class under the action plugins that wipe: what a wipe ends in, of a disk as of a virtual disk."""

from __future__ import annotations

from typing import Any

from ansible_collections.sunset.crm.plugins.plugin_utils.actions.recording import RecordedAction
from ansible_collections.sunset.crm.plugins.plugin_utils.certificates import certify
from ansible_collections.sunset.crm.plugins.plugin_utils.planning.plan import Item
from ansible_collections.sunset.crm.plugins.plugin_utils.runs.session import Session


class WipeAction(RecordedAction):
    """A wipe that is seen to be whole gets its certificate, also when an earlier run was killed before it was written. One that left,
    or may have left, data on the medium ends in a destruction order."""

    def conclude(self, session: Session, item: Item) -> dict[str, Any]:
        done = certify.conclude(session, item)
        seen = session.view.get(item["id"], "wipe")
        return {**done, **(certify.order_destruction(session, item, seen.result, seen.hash) if seen else {})}

    def regret(self, session: Session, item: Item, outcome: dict[str, Any], entry: str) -> dict[str, Any]:
        return certify.order_destruction(session, item, (outcome["evidence"] or {}).get("result") or {}, entry)
