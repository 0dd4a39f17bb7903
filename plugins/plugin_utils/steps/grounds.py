# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a gate decides on, and how it says what is missing."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from ansible_collections.sunset.crm.plugins.plugin_utils.people.statements import Statements
from ansible_collections.sunset.crm.plugins.plugin_utils.planning.plan import Plan
from ansible_collections.sunset.crm.plugins.plugin_utils.record.view import View

SHUTDOWN = "playbooks/shutdown.yml"
SURVEY = "playbooks/survey.yml"


@dataclass(frozen=True)
class Context:
    """Everything a gate may look at. waves: those that the open run works on."""

    plan: Plan
    view: View
    statements: Statements
    approver: str
    operator: str
    waves: tuple[str, ...]
    now: datetime
    phase: str
    login: str = ""
    check: bool = False
    # Vaults that did not tell which disks they use: nobody can say that a medium is none of theirs.
    unseen_vaults: tuple[str, ...] = ()


@dataclass(frozen=True)
class Missing:
    """One piece that is missing: on which item, what, and the command or act that would mend it."""

    item: str
    what: str
    mend: str

    def __str__(self) -> str:
        return f"{self.item}: {self.what} (mend: {self.mend})"


def need(item: str, aspect: str, value: str, context: Context, mend: str) -> list[Missing]:
    if context.view.value(item, aspect) == value:
        return []
    interrupted = any(e.record["item"] == item and e.record["aspect"] == aspect for e in context.view.interrupted)
    what = f"not seen to be {value} ({aspect})" + (", an earlier try was interrupted" if interrupted else "")
    return [Missing(item, what, mend)]


def again(context: Context) -> str:
    return f"ansible-playbook {SHUTDOWN} -e sunset_wave_wanted={','.join(context.waves)}"
