# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How long packages are to be kept, as the plan's setting C(retention) says it. Pure."""

from __future__ import annotations

from datetime import date, datetime
from typing import Any


def faults(given: Any, ids: set[str]) -> list[str]:
    """What is wrong with the setting C(retention), in words."""
    if not isinstance(given, dict):
        return [f"the setting retention is {given!r}; expected a mapping of 'default' or item ids to class and years or until"]
    wrong = [f"the setting retention names {name}, which the plan does not have" for name in sorted(set(given) - ids - {"default"})]
    for name, rule in given.items():
        if not isinstance(rule, dict) or set(rule) - {"class", "years", "until"} or not str(rule.get("class") or "").strip():
            wrong.append(f"the retention of {name} is {rule!r}; expected a class, and years or until")
            continue
        years = rule.get("years")
        if years is not None and (not isinstance(years, int) or isinstance(years, bool) or not 0 <= years <= 1000):
            wrong.append(f"the retention of {name} has years {years!r}; expected a whole number")
        if rule.get("until") is not None and day(rule["until"]) is None:
            wrong.append(f"the retention of {name} has until {rule['until']!r}; expected a day such as 2036-12-31")
        if years is not None and rule.get("until") is not None:
            wrong.append(f"the retention of {name} has both years and until; expected one of them")
    return wrong


def day(text: Any) -> date | None:
    """A day written as YYYY-MM-DD; None when it is not one."""
    try:
        return datetime.strptime(str(text), "%Y-%m-%d").date()
    except ValueError:
        return None
