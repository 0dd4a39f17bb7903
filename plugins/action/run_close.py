# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Close a run: it fails unless every item that the run was to finish has evidence."""

from __future__ import annotations

from typing import Any

from ansible_collections.sunset.crm.plugins.plugin_utils.actions.control import ControlAction
from ansible_collections.sunset.crm.plugins.plugin_utils.certificates import certify, orders
from ansible_collections.sunset.crm.plugins.plugin_utils.record.estate import Estate
from ansible_collections.sunset.crm.plugins.plugin_utils.runs import closing
from ansible_collections.sunset.crm.plugins.plugin_utils.runs.session import Session


class ActionModule(ControlAction):
    """See plugins/modules/run_close.py."""

    def act(self, estate: Estate, args: dict[str, Any], task_vars: dict[str, Any], check: bool) -> dict[str, Any]:
        session = Session.of(estate, check)
        phase, waves = session.run["phase"], session.run["waves"]
        if phase == "expire":
            return self._expired(session)
        wipe = phase == "wipe"
        excuses = certify.excuses(session.plan, session.words, session.insiders) if wipe else {}
        rows = closing.unfinished(session.plan, session.view, phase, waves, excuses)
        gaps = certify.gaps(estate, session.plan, session.view, waves) if wipe and not check else []
        copied = session.close([*(row.item for row in rows), *gaps], accept=phase == "shutdown")
        lost = [row for row in copied if not row["ok"]]
        if rows or lost or gaps:
            lines = [f"  - {row.item} (wave {row.wave}): {row.done}; proof: {row.proof}" for row in rows]
            lines += [f"  - {gap}" for gap in gaps]
            lines += [f"  - {line}" for row in rows for line in self._doubts(session, row.item)]
            lines += [f"  - the ledger was not copied to {row['vault']}: {row['error']}" for row in lost]
            return {
                "failed": True,
                "changed": False,
                "msg": f"{phase} of wave {', '.join(waves)} is not finished:\n"
                + "\n".join(lines)
                + "\nMend what is named above and in the failed tasks, then run the same command again.",
            }
        return {"changed": False, "waves": waves, "accepted": closing.waves_accepted(session.plan, session.view), "copies": copied}

    def _doubts(self, session: Session, item_id: str) -> list[str]:
        return orders.doubts(session.plan.items[item_id], session.words) if item_id in session.plan.items else []

    def _expired(self, session: Session) -> dict[str, Any]:
        """A run that destroys packages owes exactly those that it was opened for."""
        left = closing.undestroyed(session.view, session.run.get("packages", []))
        copied = session.close(left)
        lost = [f"the ledger was not copied to {row['vault']}: {row['error']}" for row in copied if not row["ok"]]
        if left or lost:
            lines = "\n".join(f"  - {line}" for line in [*(f"{name} is not destroyed" for name in left), *lost])
            return {"failed": True, "changed": False, "msg": f"expire is not finished:\n{lines}\nMend what the failed tasks name."}
        return {"changed": False, "waves": session.run["waves"], "accepted": [], "copies": copied}
