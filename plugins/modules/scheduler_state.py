#!/usr/bin/python
# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: scheduler_state
short_description: Freeze the job managers, timers and cron lines of an application, or put them back
version_added: 0.1.0
description:
  - Stops the units that run an application's background jobs, keeps them from starting again, and sets its files in
    C(/etc/cron.d) aside under a name that cron ignores. Nothing is deleted and no enabled state is changed.
  - Timers, sockets and paths that would start one of the units, and the units that a named timer starts, are found
    and frozen with it.
  - Success means that the world was read afterwards. Each unit is inactive, has no process left in its control group
    and refuses a start (tried); no command of the cron files runs any more.
  - The former state is written to the host before anything is changed, so a run that was killed at any moment is
    finished by the same command, and O(state=restored) puts back exactly what was. What was off stays off.
options:
  state:
    description: V(frozen) or V(restored).
    type: str
    choices: [frozen, restored]
    default: frozen
  units:
    description: Whole unit names (service, timer, path or socket), in the order of stopping.
    type: list
    elements: str
    default: []
  cron_files:
    description: Absolute paths of files in C(/etc/cron.d).
    type: list
    elements: path
    default: []
  former:
    description:
      - For O(state=restored), the RV(result.former) that the ledger keeps of the freezing.
      - Without it the record on the host is used.
    type: dict
  timeout:
    description: Seconds to wait for one unit, or for running cron jobs, to end or to start. Nothing is ever killed.
    type: int
    default: 300
  forced:
    description:
      - What to do about a unit that systemd had to kill because it did not end within its own stop timeout.
      - V(fail) ends in an error, also in later runs; V(accept) goes on and says so in RV(result.dead).
    type: str
    choices: [fail, accept]
    default: fail
notes:
  - "A unit is kept off by a drop-in C(zz-sunset-scheduler.conf) that systemd reads last: it refuses manual starts and
    carries a condition that is never true. See it with C(systemctl cat)."
seealso:
  - module: sunset.crm.service_state
extends_documentation_fragment:
  - sunset.crm.recorded
author:
  - sunset.crm contributors
"""

EXAMPLES = r"""
- name: Freeze the job manager and the cron line of the CRM
  sunset.crm.scheduler_state:
    item: application:creme
    state: frozen
    units: [creme-jobs.service]
    cron_files: [/etc/cron.d/creme]
  register: frozen

- name: Put them back
  sunset.crm.scheduler_state:
    item: application:creme
    state: restored
    units: [creme-jobs.service]
    cron_files: [/etc/cron.d/creme]
    former: "{{ frozen.result.former }}"
"""

RETURN = r"""
result:
  description: What later steps read.
  returned: always
  type: dict
  contains:
    former:
      description: The state from before the freezing.
      type: dict
      returned: success
      sample:
        units: {creme-jobs.service: {active: active, unit_file_state: enabled}}
        cron_files: {/etc/cron.d/creme: {present: true, sha256: 5a1e}}
    dead:
      description: For each unit how it ended (C(graceful), C(error), C(forced) or C(was_off)).
      type: dict
      returned: when O(state=frozen)
      sample: {creme-jobs.service: {active: inactive, ended: graceful, processes: 0}}
    now:
      description: The state of each unit and file that was put back.
      type: dict
      returned: when O(state=restored)
      sample: {creme-jobs.service: active, /etc/cron.d/creme: active}
evidence:
  description: What was seen and done, as it goes into the ledger.
  returned: always
  type: dict
  sample: {module: scheduler_state, item: "application:creme", verdict: "yes"}
"""

from ansible_collections.sunset.crm.plugins.module_utils._recorded import Recorded
from ansible_collections.sunset.crm.plugins.module_utils._service import scheduler as service_scheduler, verbs as service_verbs
from ansible_collections.sunset.crm.plugins.module_utils._service.units import Units


def main():
    rec = Recorded(
        argument_spec=dict(
            state=dict(type="str", choices=["frozen", "restored"], default="frozen"),
            units=dict(type="list", elements="str", default=[]),
            cron_files=dict(type="list", elements="path", default=[]),
            former=dict(type="dict"),
            timeout=dict(type="int", default=300),
            forced=dict(type="str", choices=["fail", "accept"], default="fail"),
        ),
        object_lock="scheduler",
    )
    units = Units(rec, "scheduler", rec.item)
    if rec.params["state"] == "frozen":
        frozen(rec, units)
    else:
        restored(rec, units)


def observe(rec, units, names):
    states = units.observe(names)
    files = service_scheduler.observe_files(rec.params["cron_files"])
    for path in sorted(files):
        if files[path]["state"] in ("conflict", "absent"):
            rec.fail(files[path]["message"])
    return states, files


def frozen(rec, units):
    names = units.closure(rec.params["units"])
    states, files = observe(rec, units, names)
    rec.before({"units": states, "cron_files": files})
    to_move = [path for path in sorted(files) if files[path]["state"] == "active"]
    to_stop = service_verbs.units_to_stop(names, states)
    former = {
        "units": service_verbs.former_units(names, states),
        "cron_files": {path: {"present": True, "sha256": files[path]["sha256"]} for path in files},
    }
    jobs = service_scheduler.running_jobs(rec.params["cron_files"])
    changed = bool(to_move or to_stop or jobs)
    if rec.check_mode:
        rec.after({"units": states, "cron_files": files})
        rec.finish(changed=changed, verdict="unknown" if changed else "yes", result={"former": former})
        return
    for path in to_move:
        service_scheduler.move(rec, path, service_scheduler.frozen_name(path))
    dead = service_verbs.stop_and_keep_off(rec, units, names, states, rec.params["timeout"], rec.params["forced"])
    jobs = service_scheduler.wait_for_jobs(rec.params["cron_files"], rec.params["timeout"])
    if jobs:
        rec.fail(
            "jobs of the frozen cron files still run after %d seconds: %s. No new one will start and nothing was killed; "
            "wait for them or end them, then run the same command again"
            % (rec.params["timeout"], ", ".join("%(pid)d %(comm)s" % job for job in jobs))
        )
    states, files = observe(rec, units, names)
    rec.after({"units": states, "cron_files": files})
    wrong = [path for path in sorted(files) if files[path]["state"] != "frozen"]
    if wrong:
        rec.fail("found again after freezing: %s; something writes it anew, stop that and run again" % ", ".join(wrong))
    rec.finish(changed=changed, result={"former": former, "dead": dead})


def restored(rec, units):
    given = rec.params["former"] or {}
    names = service_verbs.restore_order(units, rec.params["units"], given)
    states, files = observe(rec, units, names)
    rec.before({"units": states, "cron_files": files})
    former = service_verbs.known_former(names, states, given)
    recorded = given.get("cron_files") or {}
    for path in sorted(files):
        wanted = (recorded.get(path) or {}).get("sha256")
        if wanted and wanted != files[path]["sha256"]:
            rec.fail(
                "%s: found sha256 %s, the freezing recorded %s; it was changed meanwhile. Put the recorded content back, "
                "or restore without `former`" % (path, files[path]["sha256"], wanted)
            )
    # leftover: both names exist with the same bytes; moving the frozen one over the plain one loses nothing
    to_move = [path for path in sorted(files) if files[path]["state"] == "frozen" or files[path]["leftover"]]
    changed = bool(to_move or service_verbs.units_to_restore(names, states, former))
    if not rec.check_mode:
        service_verbs.put_back(rec, units, names, states, former, rec.params["timeout"])
        for path in to_move:
            service_scheduler.move(rec, service_scheduler.frozen_name(path), path)
        states, files = observe(rec, units, names)
    rec.after({"units": states, "cron_files": files})
    now = {unit: states[unit]["active"] for unit in names}
    now.update((path, files[path]["state"]) for path in files)
    done = not (rec.check_mode and changed)
    rec.finish(
        changed=changed,
        verdict="yes" if done else "unknown",
        result={"former": {"units": former, "cron_files": recorded}, "now": now},
    )


if __name__ == "__main__":
    main()
