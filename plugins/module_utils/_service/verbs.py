# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What scheduler_state and service_state have in common: a list of units off, or back.

Private to the collection; it may change at any time. Valid for Python 3.6.
"""

from typing import Any, Dict, List, Optional  # noqa: F401

from ansible_collections.sunset.crm.plugins.module_utils._service import proc as service_proc, units as service_units
from ansible_collections.sunset.crm.plugins.module_utils._service.units import Units

State = Dict[str, Any]


# --- pure ------------------------------------------------------------------------------------------------------------


def units_to_stop(names: List[str], states: Dict[str, State]) -> List[str]:
    """Those that live or could be started."""
    return [unit for unit in names if not (service_units.kept_off(states[unit]) and service_units.is_dead(states[unit]))]


def former_units(names: List[str], states: Dict[str, State]) -> Dict[str, Dict[str, str]]:
    """The state from before we touched them: what our own file on the host says, else what is seen now."""
    return {unit: states[unit]["former"] or service_units.former_of(states[unit]) for unit in names}


def known_former(names: List[str], states: Dict[str, State], given: Dict[str, Any]) -> Dict[str, Dict[str, str]]:
    """The same for the way back; the ledger's word goes before the host's."""
    recorded = given.get("units") or {}
    own = former_units(names, states)
    return {unit: recorded.get(unit) or own[unit] for unit in names}


def units_to_restore(names: List[str], states: Dict[str, State], former: Dict[str, Dict[str, str]]) -> List[str]:
    """Those that we still hold, or that were on and are not."""
    return [
        unit
        for unit in names
        if states[unit]["held"]
        or states[unit]["in_force"]
        or states[unit]["lifted"]
        or (service_units.was_on(former[unit]) and states[unit]["active"] not in service_units.ON_STATES)
    ]


def dead_report(names: List[str], states: Dict[str, State], former: Dict[str, Dict[str, str]]) -> Dict[str, Dict[str, Any]]:
    """{unit: how it ended}."""
    return {
        unit: {
            "active": states[unit]["active"],
            "result": states[unit]["result"],
            "ended": service_units.way_of_ending(states[unit], former[unit]),
            "processes": len(states[unit]["processes"]),
            "kept_off": "masked" if states[unit]["load"] == "masked" else "drop-in",
        }
        for unit in names
    }


def forced_message(dead: Dict[str, Dict[str, Any]], states: Dict[str, State]) -> str:
    """Empty, or what must be said about units that did not end by themselves."""
    units = [unit for unit in sorted(dead) if dead[unit]["ended"] == "forced"]
    if not units:
        return ""
    return (
        "did not end by themselves and were killed by systemd after their own stop timeout: %s. They are off and kept off, "
        "but what they held in memory may be lost. Look at their logs; then set `forced: accept` to go on with a record "
        "that says so" % ", ".join("%s (Result=%s, stop timeout %s)" % (u, states[u]["result"], states[u]["stop_timeout"]) for u in units)
    )


# --- the world -------------------------------------------------------------------------------------------------------


def restore_order(units: Units, wanted: List[str], given: Dict[str, Any]) -> List[str]:
    """Last stopped first, but a socket before its service: systemd refuses it the other way round."""
    names: List[str] = []
    for unit in reversed(wanted):
        names.extend(name for name in units.closure([unit]) if name not in names)
    # what the ledger knows and systemd no longer connects with these units is put back all the same
    names.extend(name for name in sorted(given.get("units") or {}) if name not in names)
    return names


def stop_and_keep_off(
    rec: Any, units: Units, names: List[str], states: Dict[str, State], timeout: float, forced: str
) -> Dict[str, Dict[str, Any]]:
    """Keep all from starting, then stop them in order, then see that they are dead. Acts only where needed."""
    former = former_units(names, states)
    todo = units_to_stop(names, states)
    if todo:
        units.refuse_dependents(states)
        units.hold(names, states)
        for unit in todo:
            if not service_units.is_dead(states[unit]):
                units.stop(unit, timeout)
        for unit in todo:
            if states[unit]["load"] != "masked":
                units.probe(unit)
    seen = units.observe(names)
    alive = units_to_stop(names, seen)
    if alive:
        rec.fail(
            "not dead and kept off: "
            + "; ".join(
                "%s (ActiveState=%s, processes: %s, kept off: %s)"
                % (
                    unit, seen[unit]["active"], service_proc.describe_processes(seen[unit]["processes"]) or "none",
                    "yes" if service_units.kept_off(seen[unit]) else "no",
                )
                for unit in alive
            )
        )  # fmt: skip
    dead = dead_report(names, seen, former)
    message = forced_message(dead, seen)
    if message and forced != "accept":
        rec.fail(message, dead=dead, former={"units": former})
    return dead


def put_back(rec: Any, units: Units, names: List[str], states: Dict[str, State], former: Dict[str, Dict[str, str]], timeout: float) -> None:
    """Let them start, start those that were on, and forget only when that was seen."""
    if not units_to_restore(names, states, former):
        return
    units.lift(names, states)
    for unit in names:
        if service_units.was_on(former[unit]) and units.observe([unit])[unit]["active"] not in service_units.ON_STATES:
            units.start(unit, timeout)
    seen = units.observe(names)
    still = [unit for unit in names if seen[unit]["in_force"]]
    if still:
        rec.fail("still kept off after putting back: %s; look at systemctl cat" % ", ".join(still))
    changed = [u for u in names if seen[u]["unit_file_state"] != former[u].get("unit_file_state")]
    for unit in changed:
        # we never change it, so somebody else did: said, not undone
        rec.note(
            action="observe", unit=unit, unit_file_state=seen[unit]["unit_file_state"],
            formerly=former[unit].get("unit_file_state"),
        )  # fmt: skip
    units.forget(names)
