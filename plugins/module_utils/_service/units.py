# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""systemd units: switch them off, keep them off, see that they are dead, and put back what was.

Private to the collection; it may change at any time. Valid for Python 3.6.

A unit is kept off by a drop-in, not by C(systemctl mask):

* mask refuses a unit whose file lies in /etc/systemd/system, and that is where people put their own units;
* a drop-in can be written *before* the stop, so nothing starts the unit again in between, and the unit keeps its own
  stop command and stop timeout, which a masked unit loses;
* the enabled state stays untouched, so there is less to put back.

RefuseManualStart stops C(systemctl start), the condition (the root directory always exists, so "!/" is never true)
stops everything else: boot, dependencies, timers, sockets, Restart=. The drop-in also carries the former state, so a run
that was killed before it could report loses nothing. While a unit is put back the file is renamed, so that systemd no
longer reads it but the former state is still there until the unit was seen in it.
"""

import errno
import json
import os
import re
import time
from typing import Any, Callable, Dict, Iterable, List, Optional, Tuple

from ansible_collections.sunset.crm.plugins.module_utils._service import proc as service_proc

PROPERTIES = (
    "Id", "LoadState", "ActiveState", "SubState", "UnitFileState", "FragmentPath", "DropInPaths", "Result",
    "ExecMainCode", "ExecMainStatus", "TriggeredBy", "Triggers", "RequiredBy", "BoundBy", "ConsistsOf",
    "TimeoutStopUSec", "NeedDaemonReload", "RefuseManualStart", "Job", "Type", "RemainAfterExit",
)  # fmt: skip
UNIT = re.compile(r"[A-Za-z0-9:_.\\@][A-Za-z0-9:_.\\@-]*\.(service|socket|timer|path)\Z")
ON_STATES = ("active", "reloading", "activating", "refreshing")
OFF_STATES = ("inactive", "failed")
FORMER_LINE = "# sunset-former: "
DROP_IN = """# sunset.crm keeps this unit off while %(item)s is being retired.
# To put it back use the same module with the opposite state: it also needs the next line.
%(former_line)s%(former)s
[Unit]
RefuseManualStart=yes
# Never true, for the root directory always exists.
ConditionPathExists=!/
"""
# What a unit needs beside that. The stop command of this one would stop all of Podman's containers and kill each after ten seconds, before
# their own turn and in no order.
SPECIAL = {"podman-restart.service": "[Service]\nExecStop=\n"}
ETC = "/etc/systemd/system"


# --- pure ------------------------------------------------------------------------------------------------------------


def unit_problem(unit: str) -> Optional[str]:
    """Why this cannot be a unit that we switch; None if it can."""
    if not UNIT.match(unit or ""):
        return "%r is no unit name; expected a whole one such as crm-web.service (service, socket, timer or path)" % unit
    return None


def parse_show(text: str) -> List[Dict[str, str]]:
    """The blocks of C(systemctl show), in the order of the units asked for."""
    blocks = []
    for block in text.strip("\n").split("\n\n"):
        rows = [line.split("=", 1) for line in block.splitlines() if "=" in line]
        if rows:
            blocks.append(dict(rows))
    return blocks


def was_on(former: Optional[Dict[str, Any]]) -> bool:
    return former is not None and former.get("active") in ON_STATES


def former_of(state: Dict[str, Any]) -> Dict[str, str]:
    """What must be known to put a unit back. A one-shot at work has no state to put back: what triggers it has."""
    return {"active": "inactive" if state["oneshot"] else state["active"], "unit_file_state": state["unit_file_state"]}


def drop_in_text(item: str, former: Dict[str, str], unit: str = "") -> str:
    text = DROP_IN % {"item": item, "former_line": FORMER_LINE, "former": json.dumps(former, sort_keys=True)}
    return text + SPECIAL.get(unit, "")


def whole_hold(text: Optional[str], unit: str) -> bool:
    """Is this drop-in one that does for the unit all that it must?"""
    return parse_former(text) is not None and (text or "").endswith(SPECIAL.get(unit, ""))


def parse_former(text: Optional[str]) -> Optional[Dict[str, str]]:
    """The former state that a drop-in carries; None if there is none."""
    for line in (text or "").splitlines():
        if line.startswith(FORMER_LINE):
            try:
                value = json.loads(line[len(FORMER_LINE) :])
            except ValueError:
                return None
            return value if isinstance(value, dict) and "active" in value else None
    return None


def kept_off(state: Dict[str, Any]) -> bool:
    """Does systemd itself (not only our file) refuse to start the unit?"""
    return state["load"] == "masked" or (state["held"] and state["refuses_start"] and not state["needs_reload"])


def is_dead(state: Dict[str, Any]) -> bool:
    return state["active"] in OFF_STATES and not state["processes"]


def way_of_ending(state: Dict[str, Any], former: Optional[Dict[str, Any]]) -> str:
    """graceful | error | forced | was_off. forced: systemd had to kill it, so it may have lost what it held."""
    if former and not was_on(former):
        return "was_off"
    if state["result"] in ("timeout", "watchdog", "oom-kill") or (state["killed"] and state["exit"] == "9"):
        return "forced"
    return "graceful" if state["result"] in ("success", "") else "error"


def dependents(states: Dict[str, Dict[str, Any]]) -> List[Tuple[str, str]]:
    """(unit, other): stopping the unit would also stop the other one, which is not among these."""
    return [(unit, other) for unit in sorted(states) for other in states[unit]["stops_with_it"] if other not in states]


# --- the world -------------------------------------------------------------------------------------------------------


def hold_path(unit: str, hold: str, lifted: bool = False) -> str:
    """systemd reads only names that end in .conf; 'zz' is read last, so no other drop-in takes the condition away."""
    return "%s/%s.d/zz-sunset-%s.%s" % (ETC, unit, hold, "former" if lifted else "conf")


def write_atomic(path: str, text: str, mode: int = 0o644) -> None:
    """Whole or not at all, also after a power cut."""
    # hidden: no include pattern (sites-enabled/*) may ever pick up half a file
    part = os.path.join(os.path.dirname(path), "." + os.path.basename(path) + ".sunset-part")
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
    with os.fdopen(fd, "wb") as handle:
        handle.write(text.encode("utf-8"))
        handle.flush()
        os.fsync(handle.fileno())
    os.chmod(part, mode)
    os.rename(part, path)
    sync_directory(os.path.dirname(path))


def sync_directory(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def show(read: Callable[..., Any], units: Iterable[str]) -> Dict[str, Dict[str, str]]:
    """{unit: properties}; a unit that systemd does not know has LoadState=not-found. Empty if systemd is not there."""
    names = sorted(set(units))
    if not names:
        return {}
    answer = read(["systemctl", "show", "--no-pager", "-p", ",".join(PROPERTIES), "--"] + names)
    blocks = parse_show(answer.out)
    return {names[at]: blocks[at] for at in range(len(names))} if answer.rc == 0 and len(blocks) == len(names) else {}


class Units(object):
    """The units of one item. hold names who keeps them off: two modules may both hold one unit."""

    def __init__(self, rec: Any, hold: str, item: str) -> None:
        self.rec = rec
        self.hold_name = hold
        self.item = item

    def closure(self, units: List[str]) -> List[str]:
        """The units in the order of stopping, each after the sockets, timers and paths that would start it again,
        each timer, path and socket followed by what it starts."""
        ordered: List[str] = []
        for unit in units:
            problem = unit_problem(unit)
            if problem:
                self.rec.fail(problem)
            self._visit(unit, ordered, set())
        return ordered

    def _visit(self, unit: str, ordered: List[str], seen: Any) -> None:
        if unit in ordered or unit in seen or unit_problem(unit):
            return
        seen.add(unit)
        properties = show(self.rec.read, [unit]).get(unit)
        if properties is None:
            self.rec.fail(
                "systemd does not answer for %s (found: systemctl show failed; expected: systemd as the init of this "
                "host); units are switched through systemd only" % unit
            )
            return
        for trigger in properties.get("TriggeredBy", "").split():
            self._visit(trigger, ordered, seen)
        if unit not in ordered:
            ordered.append(unit)
        for triggered in properties.get("Triggers", "").split():
            self._visit(triggered, ordered, seen)

    def observe(self, units: List[str]) -> Dict[str, Dict[str, Any]]:
        """The state of each unit, with the processes that really live in its cgroup."""
        properties = show(self.rec.read, units)
        processes = service_proc.processes_of_units(units)
        states = {}
        for unit in units:
            row = properties.get(unit)
            if row is None:
                self.rec.fail("systemd does not answer for %s" % unit)
                raise AssertionError("fail() does not return")
            if row.get("LoadState") not in ("loaded", "masked"):
                self.rec.fail(
                    "unit %s: found LoadState=%s, expected a unit that exists; correct its name in the inventory's "
                    "sunset_items, or take it out of them" % (unit, row.get("LoadState"))
                )
            states[unit] = self._state(unit, row, processes[unit])
        return states

    def _state(self, unit: str, row: Dict[str, str], processes: List[Dict[str, Any]]) -> Dict[str, Any]:
        path = hold_path(unit, self.hold_name)
        marker = service_proc.read_text(path)
        lifted = service_proc.read_text(hold_path(unit, self.hold_name, lifted=True))
        stops = " ".join(row.get(key, "") for key in ("RequiredBy", "BoundBy", "ConsistsOf")).split()
        return {
            "load": row["LoadState"],
            "active": row.get("ActiveState", ""),
            "sub": row.get("SubState", ""),
            "unit_file_state": row.get("UnitFileState", ""),
            "result": row.get("Result", ""),
            "killed": row.get("ExecMainCode") == "2",
            "exit": row.get("ExecMainStatus", ""),
            "oneshot": row.get("Type") == "oneshot" and row.get("RemainAfterExit") != "yes",
            "stop_timeout": row.get("TimeoutStopUSec", ""),
            "processes": processes,
            # a file without our former state is not ours to count on: it is written anew
            "held": whole_hold(marker, unit),
            "in_force": path in row.get("DropInPaths", "").split(),
            "lifted": lifted is not None,
            "former": parse_former(marker) or parse_former(lifted),
            "refuses_start": row.get("RefuseManualStart") == "yes",
            "needs_reload": row.get("NeedDaemonReload") == "yes" or path not in row.get("DropInPaths", "").split(),
            "busy": row.get("Job", "") not in ("", "0"),
            "stops_with_it": sorted(name for name in set(stops) if UNIT.match(name)),
        }

    def refuse_dependents(self, states: Dict[str, Dict[str, Any]]) -> None:
        """Nothing may go down with a unit that the plan did not name."""
        pairs = dependents(states)
        rows = show(self.rec.read, [other for _unit, other in pairs])
        for unit, other in pairs:
            if rows.get(other, {}).get("ActiveState") in ON_STATES:
                self.rec.fail(
                    "stopping %s would also stop %s, which is active and not named (found by RequiredBy, BoundBy or "
                    "PartOf); name it before %s in the inventory's sunset_items" % (unit, other, unit)
                )

    def hold(self, units: List[str], states: Dict[str, Dict[str, Any]]) -> None:
        """Keep them from starting. Nothing is stopped yet."""
        touched = False
        for unit in units:
            state = states[unit]
            if kept_off(state):
                continue
            if not state["held"]:
                former = state["former"] or former_of(state)
                path = hold_path(unit, self.hold_name)
                if not os.path.isdir(os.path.dirname(path)):
                    os.mkdir(os.path.dirname(path), 0o755)
                write_atomic(path, drop_in_text(self.item, former, unit))
                self._forget(unit)
                self.rec.note(action="write", path=path, former=former)
            touched = True
        if touched:
            self.rec.run(["systemctl", "daemon-reload"], timeout=120)

    def stop(self, unit: str, timeout: float) -> None:
        """Ask systemd to stop it and wait. systemd itself kills after the unit's own stop timeout; we never do."""
        self.rec.run(["systemctl", "stop", "--no-block", unit], timeout=60)
        deadline = time.time() + timeout
        while True:
            state = self.observe([unit])[unit]
            if is_dead(state) and not state["busy"]:
                return
            if time.time() > deadline:
                self.rec.fail(
                    "%s did not end within %d seconds: found ActiveState=%s (%s), processes: %s; its own stop timeout is "
                    "%s. Nothing was killed, and it is kept from starting again. Look at its log (journalctl -u %s), "
                    "then run the same command again."
                    % (
                        unit, timeout, state["active"], state["sub"],
                        service_proc.describe_processes(state["processes"]) or "none", state["stop_timeout"], unit,
                    ),
                    unit=unit, ended="no",
                )  # fmt: skip
            time.sleep(0.2)

    def lift(self, units: List[str], states: Dict[str, Dict[str, Any]]) -> None:
        """Let them start again, without starting them. The former state stays on disk until forget()."""
        touched = False
        for unit in units:
            path = hold_path(unit, self.hold_name)
            if os.path.lexists(path):
                os.rename(path, hold_path(unit, self.hold_name, lifted=True))
                sync_directory(os.path.dirname(path))
                self.rec.note(action="rename", path=path, to=hold_path(unit, self.hold_name, lifted=True))
                touched = True
            touched = touched or states[unit]["in_force"]
        if touched:
            self.rec.run(["systemctl", "daemon-reload"], timeout=120)

    def start(self, unit: str, timeout: float) -> None:
        """Start it and wait until systemd calls it active."""
        self.rec.run(["systemctl", "reset-failed", unit], check=False)
        answer = self.rec.run(["systemctl", "start", unit], check=False, timeout=timeout)
        state = self.observe([unit])[unit]
        if answer.rc != 0 or state["active"] not in ON_STATES:
            others = list(self._other_holds(unit))
            self.rec.fail(
                "%s did not start: found ActiveState=%s (%s), Result=%s; expected active, as it was before. %s%s"
                % (
                    unit, state["active"], state["sub"], state["result"],
                    "It is still kept off by %s: put that back first. " % ", ".join(others) if others
                    else "Look at journalctl -u %s. " % unit,
                    answer.err.strip()[-300:],
                ),
                unit=unit,
            )  # fmt: skip

    def _other_holds(self, unit: str) -> List[str]:
        try:
            names = os.listdir("%s/%s.d" % (ETC, unit))
        except OSError:
            return []
        return sorted(name for name in names if name.startswith("zz-sunset-") and name.endswith(".conf"))

    def _forget(self, unit: str) -> None:
        try:
            os.unlink(hold_path(unit, self.hold_name, lifted=True))
        except OSError as err:
            if err.errno != errno.ENOENT:
                raise

    def forget(self, units: List[str]) -> None:
        """The unit was seen in its former state: the last trace goes."""
        for unit in units:
            self._forget(unit)
            try:
                os.rmdir("%s/%s.d" % (ETC, unit))
            except OSError as err:
                if err.errno not in (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST):
                    raise

    def probe(self, unit: str) -> Dict[str, Any]:
        """Try to start it, which must fail. Only if systemd already says that it refuses, so nothing can start."""
        state = self.observe([unit])[unit]
        if not kept_off(state):
            self.rec.fail(
                "%s is not kept off: found LoadState=%s, RefuseManualStart=%s, drop-in read by systemd: %s. Another "
                "drop-in may take ours back; look at systemctl cat %s."
                % (unit, state["load"], state["refuses_start"], state["in_force"], unit),
                unit=unit,
            )
        answer = self.rec.run(["systemctl", "start", unit], check=False, timeout=30)
        state = self.observe([unit])[unit]
        if answer.rc == 0 or not is_dead(state):
            self.rec.fail(
                "%s could be started although it is kept off: exit code %d, ActiveState=%s, processes: %s"
                % (unit, answer.rc, state["active"], service_proc.describe_processes(state["processes"]) or "none"),
                unit=unit,
            )
        return state
