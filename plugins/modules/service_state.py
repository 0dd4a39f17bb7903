#!/usr/bin/python
# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: service_state
short_description: Stop services for good, proven dead by processes and ports, or start them again
version_added: 0.1.0
description:
  - Stops systemd units in the given order and keeps them from coming back by a manual start, a dependency, a timer, a
    socket or a reboot. Sockets, timers and paths that would start one of them are found and kept off too.
  - The exit code of the stop proves nothing here. A service counts as dead when systemd calls it inactive, no process
    is left in its control group, nothing listens on its ports on any address, and a start was tried and refused.
  - The unit of a container engine is stopped only when none of its containers runs, by the processes that hold them; afterwards they are looked
    for again. With live restore, or with Podman, containers run on without their engine.
  - C(podman-restart.service) is kept off without its own stop command, which would stop all containers, each killed after ten seconds.
  - Refuses, before anything is touched, if stopping a unit would also stop an active unit that is not named.
  - O(state=started) puts back what was recorded, in the opposite order. What was off stays off.
options:
  state:
    description: V(stopped) or V(started).
    type: str
    choices: [stopped, started]
    default: stopped
  services:
    description: The services in the order of stopping.
    type: list
    elements: dict
    required: true
    suboptions:
      unit:
        description: Whole unit name.
        type: str
        required: true
      ports:
        description: TCP and UDP ports that it serves.
        type: list
        elements: int
        default: []
  former:
    description:
      - For O(state=started), the RV(result.former) that the ledger keeps of the stopping.
      - Without it the record on the host is used.
    type: dict
  timeout:
    description: Seconds to wait for one unit to end or to start. Nothing is ever killed by this module.
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
  - "A unit is kept off by a drop-in C(zz-sunset-service.conf) that systemd reads last: it refuses manual starts and
    carries a condition that is never true. C(systemctl mask) would refuse units whose file lies in
    C(/etc/systemd/system)."
  - A process that listens on one of the ports but belongs to another unit makes the module fail and is named.
seealso:
  - module: sunset.crm.scheduler_state
extends_documentation_fragment:
  - sunset.crm.recorded
author:
  - sunset.crm contributors
"""

EXAMPLES = r"""
- name: Stop the web server of the CRM
  sunset.crm.service_state:
    item: application:creme
    state: stopped
    services:
      - {unit: creme-web.service, ports: [8000]}
  register: stopped

- name: Start it again as it was
  sunset.crm.service_state:
    item: application:creme
    state: started
    services:
      - {unit: creme-web.service, ports: [8000]}
    former: "{{ stopped.result.former }}"
"""

RETURN = r"""
result:
  description: What later steps read.
  returned: always
  type: dict
  contains:
    former:
      description: The state from before the stopping.
      type: dict
      returned: success
      sample: {units: {creme-web.service: {active: active, unit_file_state: enabled}}}
    dead:
      description: For each unit how it ended (C(graceful), C(error), C(forced) or C(was_off)).
      type: dict
      returned: when O(state=stopped)
      sample: {creme-web.service: {active: inactive, result: success, ended: graceful, processes: 0, kept_off: drop-in}}
    ports:
      description: For each port whether something listens on it now.
      type: dict
      returned: success
      sample: {"8000": closed}
    now:
      description: The state of each unit.
      type: dict
      returned: when O(state=started)
      sample: {creme-web.service: active}
evidence:
  description: What was seen and done, as it goes into the ledger.
  returned: always
  type: dict
  sample: {module: service_state, item: "application:creme", verdict: "yes"}
"""

import time

from ansible_collections.sunset.crm.plugins.module_utils._recorded import Recorded
from ansible_collections.sunset.crm.plugins.module_utils._service import (
    container_engines as service_container_engines,
    proc as service_proc,
    units as service_units,
    verbs as service_verbs,
)
from ansible_collections.sunset.crm.plugins.module_utils._service.units import Units


def main():
    rec = Recorded(
        argument_spec=dict(
            state=dict(type="str", choices=["stopped", "started"], default="stopped"),
            services=dict(
                type="list",
                elements="dict",
                required=True,
                options=dict(
                    unit=dict(type="str", required=True),
                    ports=dict(type="list", elements="int", default=[]),
                ),
            ),
            former=dict(type="dict"),
            timeout=dict(type="int", default=300),
            forced=dict(type="str", choices=["fail", "accept"], default="fail"),
        ),
        object_lock="service",
    )
    units = Units(rec, "service", rec.item)
    if rec.params["state"] == "stopped":
        stopped(rec, units)
    else:
        started(rec, units)


def wanted_units(rec):
    return [service["unit"] for service in rec.params["services"]]


def open_ports(rec, ports):
    """{port: [who listens]}, named by unit or command."""
    rows, complete = service_proc.listeners()
    if not complete:
        rec.fail("/proc/net cannot be read whole, so nothing can be said about ports; run as root", verdict="unknown")
    rows = service_proc.listening_on(ports, rows)
    owners = service_proc.socket_owners([row["inode"] for row in rows])
    init = service_proc.init_cgroup()
    found = {}  # type: dict
    for row in rows:
        pid = owners.get(row["inode"])
        unit = service_proc.unit_of_pid(pid, init) if pid else None
        who = "%s (%s/%d on %s)" % (
            unit or (service_proc.command_name(pid) if pid else "an unknown process"), row["proto"], row["port"], row["address"],
        )  # fmt: skip
        found.setdefault(row["port"], []).append(who)
    return found


def all_ports(rec):
    return sorted({port for service in rec.params["services"] for port in service["ports"]})


def stopped(rec, units):
    names = units.closure(wanted_units(rec))
    states = units.observe(names)
    listening = open_ports(rec, all_ports(rec))
    rec.before({"units": states, "listening": listening})
    former = {"units": service_verbs.former_units(names, states)}
    todo = service_verbs.units_to_stop(names, states)
    if rec.check_mode:
        rec.after({"units": states, "listening": listening})
        result = {"former": former, "ports": port_words(rec, listening)}
        rec.finish(changed=bool(todo), verdict="unknown" if todo else "yes", result=result)
        return
    engines = [unit for unit in names if service_container_engines.engine_of(unit)]
    if engines and todo:
        live = service_container_engines.ask_live_restore(rec.read, {service_proc.command_name(pid) for pid in service_proc.pids()})[0]
        problem = service_container_engines.problem_of_stopping(engines, service_container_engines.running(rec.read), live)
        if problem:
            rec.fail(problem, former=former)
    dead = service_verbs.stop_and_keep_off(rec, units, names, states, rec.params["timeout"], rec.params["forced"])
    listening = open_ports(rec, all_ports(rec))
    rec.after({"units": units.observe(names), "listening": listening})
    left = service_container_engines.left_running(engines, service_container_engines.running(rec.read)) if engines else []
    if left:
        rec.fail(
            "the units are dead, but containers of theirs run on without them: %s (live restore, or Podman). Lift the hold (state: started), stop "
            "them as a set of containers, then run the same command again" % ", ".join(left),
            dead=dead,
            former=former,
        )
    if listening:
        rec.fail(
            "the units are dead, but somebody still listens: %s. Either the port is wrong in the inventory's sunset_items, "
            "or another unit serves it: name that one too" % "; ".join(who for port in sorted(listening) for who in listening[port]),
            dead=dead,
            former=former,
        )
    rec.finish(changed=bool(todo), result={"former": former, "dead": dead, "ports": port_words(rec, listening)})


def port_words(rec, listening):
    return {str(port): "open" if port in listening else "closed" for port in all_ports(rec)}


def ports_of_running(rec, former):
    """Ports that must listen once the units are back: those of the services that were on."""
    return sorted({p for service in rec.params["services"] for p in service["ports"] if service_units.was_on(former[service["unit"]])})


def wait_for_ports(rec, ports, timeout):
    deadline = time.time() + timeout
    while True:
        listening = open_ports(rec, ports)
        missing = [port for port in ports if port not in listening]
        if not missing:
            return
        if time.time() > deadline:
            rec.fail(
                "started, but nothing listens on port %s after %d seconds; look at the service's log"
                % (", ".join(str(port) for port in missing), timeout)
            )
        time.sleep(0.3)


def started(rec, units):
    given = rec.params["former"] or {}
    names = service_verbs.restore_order(units, wanted_units(rec), given)
    states = units.observe(names)
    rec.before({"units": states, "listening": open_ports(rec, all_ports(rec))})
    former = service_verbs.known_former(names, states, given)
    changed = bool(service_verbs.units_to_restore(names, states, former))
    if not rec.check_mode:
        service_verbs.put_back(rec, units, names, states, former, rec.params["timeout"])
        wait_for_ports(rec, ports_of_running(rec, former), rec.params["timeout"])
        states = units.observe(names)
    listening = open_ports(rec, all_ports(rec))
    rec.after({"units": states, "listening": listening})
    rec.finish(
        changed=changed,
        verdict="unknown" if rec.check_mode and changed else "yes",
        result={
            "former": {"units": former},
            "now": {unit: states[unit]["active"] for unit in names},
            "ports": port_words(rec, listening),
        },
    )


if __name__ == "__main__":
    main()
