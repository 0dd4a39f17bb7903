#!/usr/bin/python
# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Build a rescue system of the host's own files and lay it ready in the kernel; see DOCUMENTATION."""

DOCUMENTATION = r"""
---
module: rescue_boot
short_description: Move a host into a rescue system that lives in RAM, so that its own root disk can be wiped
version_added: "0.1.0"
description:
  - Builds a RAM file system from the host's own programs (kernel and loaded modules, Python with its standard library, C(sshd), C(ip),
    tools for disks where the host has them) with the libraries that its own loader finds. Nothing is installed or fetched.
  - With the way V(kexec) tries the parts inside that tree, loads it with the running kernel by the system call C(kexec_file_load), and sees in
    C(/sys/kernel/kexec_loaded) that it lies there. C(kexec-tools) is not needed. Then the action plugin lets the host jump.
  - With the way V(virtual_media) the action plugin fetches the tree and the host's kernel, makes a medium of them, has the host's management
    controller insert it and boot from it once, lets the host go off, sees it off, and switches it on. With V(pxe) it lays both into
    a folder of your network boot server instead. Afterwards the medium is taken out and the override put back; both are read back.
  - Then it waits until the rescue answers, and judges what answers - the SSH host key that the control node made, the marker, the machine
    id, another boot id, the root in RAM, no file system and no swap on a disk; booted from a medium, the same board or network cards too.
  - The rescue takes over the addresses and routes of the host's network cards, and the bonds, VLANs and bridges over them. It lets root in with one key, made for it by the control
    node, and nobody else.
  - A host that is in its rescue already is left as it is.
  - Everything that can be checked is checked before the jump - memory, kexec, lockdown and Secure Boot, the network, the tools, that no
    service or port of the CRM is awake. A refusal names all that is wrong, and nothing was changed.
  - A host that does not come back is a failed step that says so. Its disks were not touched by then. A reset starts its old system.
  - Runs only through the action plugin of the same name, which checks the gates and records an intent.
author:
  - sunset.crm contributors (@sunset-crm)
extends_documentation_fragment:
  - sunset.crm.recorded
options:
  timeout:
    description: Seconds after the jump, or after it was switched on, within which the rescue must answer. As long it may take to go off.
    type: float
    default: 600
  way:
    description: How the host comes into its rescue. From the plan (C(way) of its media).
    type: str
    choices: [kexec, virtual_media, pxe]
    default: kexec
  witness:
    description: The host's witnesses, one of which is a management controller, for V(virtual_media) and V(pxe). From the plan.
    type: raw
  board:
    description: UUID and serial number of the host's mainboard, as the survey read them. From the plan.
    type: dict
    default: {}
  boot:
    description: What the controller is to boot from, and how the control node gives it out (C(sunset_rescue_boot)). From the plan.
    type: dict
    default: {}
  kernel_arguments:
    description:
      - Arguments for the rescue's kernel beside those taken over from the running one (consoles, and how the machine is to be treated).
      - A virtual machine without hardware support may need C(no_timer_check). From the plan (C(sunset_rescue)).
    type: list
    elements: str
    default: []
  services:
    description: What must not be awake on the host - a list of C(unit) and C(ports). From the plan.
    type: list
    elements: dict
    default: []
  directory:
    description: Where the rescue is built. It lies on a disk that is going to be wiped.
    type: path
    default: /var/lib/sunset-crm/rescue
  marker:
    description: What the rescue says of itself. Set by the action plugin.
    type: dict
  host_key:
    description: Private SSH host key of the rescue, made by the control node. Set by the action plugin.
    type: str
  authorized_key:
    description: The one public key that the rescue lets in. Set by the action plugin.
    type: str
attributes:
  check_mode:
    support: full
    description: Checks everything that can be checked without building, and reports the same RV(ignore:changed).
notes:
  - Linux with kexec on x86_64, aarch64, ppc64le, s390x or riscv64; a medium on x86_64 without Secure Boot. Policy routing, routes over
    several gateways and, for V(kexec), a kernel that is locked down are refused by name. Tried for real on x86_64 (QEMU, Debian's kernel).
  - V(virtual_media) needs C(grub-mkrescue) and C(xorriso) on the control node.
seealso:
  - module: sunset.crm.media_wipe
  - module: sunset.crm.host_power
"""

EXAMPLES = r"""
- name: Move the host into its rescue
  sunset.crm.rescue_boot:
    item: host:crm-db1
  register: rescue

- name: Talk to the rescue from here on
  ansible.builtin.add_host:
    name: crm-db1
    ansible_user: root
    ansible_become: false
    ansible_ssh_private_key_file: "{{ rescue.connection.private_key_file }}"
    ansible_ssh_common_args: "{{ rescue.connection.common_args }}"
    ansible_python_interpreter: "{{ rescue.connection.python }}"
"""

RETURN = r"""
evidence:
  description: What was seen before, done, and seen after.
  returned: always
  type: dict
  sample: {module: rescue_boot, item: "host:crm-db1", verdict: "yes", before: {}, actions: [], after: {root: rootfs}}
evidence_sha256:
  description: Digest of RV(evidence).
  returned: always
  type: str
  sample: 8441553a1da40336adc2e98e9ef36d025fca915fff9b245657387843d14bdf61
connection:
  description: How the rescue is reached, for C(add_host). Returned when it answers.
  returned: success
  type: dict
  sample: {private_key_file: /etc/sunset/acme/secrets/rescue-crm-db1, common_args: "-o StrictHostKeyChecking=yes", python: /usr/bin/python3.11}
result:
  description: What later steps read from the ledger.
  returned: always
  type: dict
  contains:
    state:
      description: V(loaded) or V(built) (the module's own ends), V(entered) (the rescue was recognised) or V(planned) (check mode).
      type: str
      returned: always
      sample: entered
    boot_id:
      description: Boot id of the rescue.
      type: str
      returned: when it was recognised
      sample: 3f0c6d6e-6a7f-4d0a-8a0e-0f5a3c1d2b10
    image:
      description: Size and digest of the RAM file system.
      type: dict
      returned: when it was built
      sample: {bytes: 73400320, sha256: 9a2db2e23f15}
    disks:
      description: The disks that the rescue sees.
      type: list
      elements: dict
      returned: when it was recognised
      sample: [{name: nvme0n1, serial: S4EWNX0R123456, size: 512110190592}]
"""

import os

from ansible_collections.sunset.crm.plugins.module_utils._recorded import Recorded, machine_id
from ansible_collections.sunset.crm.plugins.module_utils._rescue import (
    build as rescue_build,
    host as rescue_host,
    init as rescue_init,
    network as rescue_network,
    tree as rescue_tree,
)
from ansible_collections.sunset.crm.plugins.module_utils._service import proc as service_proc

ASLEEP = ("inactive", "failed")


def awake(services, rows, complete, state_of):
    """What of the CRM runs here, in words. A unit or port that nobody can answer for counts as awake. Pure but for what it is given.

    rows, complete: C(service_proc.listeners); state_of: unit -> ActiveState, or None where there is no systemd to ask.
    """
    found = []
    for service in services:
        unit, ports = service.get("unit"), service.get("ports") or []
        state = state_of(unit) if unit else "inactive"
        if state is None:
            found.append("whether %s runs is unknown: systemd does not run here" % unit)
        elif state not in ASLEEP:
            found.append("%s is %s" % (unit, state))
        if ports and not complete:
            found.append("the listening ports cannot be read whole")
        for row in service_proc.listening_on(ports, rows):
            found.append("something listens on %s port %d" % (row["proto"], row["port"]))
    return found


def unit_state(rec):
    def ask(unit):
        if not os.path.isdir("/run/systemd/system"):
            return None
        found = rec.read(["systemctl", "show", "--property=ActiveState", "--", unit])
        return found.out.strip().partition("=")[2] or None if found.rc == 0 else None

    return ask


def observe(rec):
    """What must hold, read-only: (facts, network, problems)."""
    facts, way = rescue_host.kexec_facts(), rec.params["way"]
    problems = rescue_host.kexec_problems(facts) if way == "kexec" else rescue_host.boot_problems(facts, way)
    problems += rescue_host.argument_problems(rec.params["kernel_arguments"])
    rows, complete = service_proc.listeners()
    problems += ["the CRM is awake: " + line for line in awake(rec.params["services"], rows, complete, unit_state(rec))]
    ip = rescue_tree.find("ip")
    words = os.environ.get("SSH_CONNECTION", "").split()
    net = {"links": [], "made": [], "routes": [], "problems": ["the program ip (iproute2) is not here"]}
    if ip:
        net = rescue_network.network(ip, words[2] if len(words) == 4 else None)
    problems += net["problems"]
    here = {"machine_id": machine_id(), "boot_id": rescue_host.read("/proc/sys/kernel/random/boot_id")}
    if not here["machine_id"]:
        problems.append("this host has no machine id (/etc/machine-id), so nobody could recognise it in the rescue")
    seen = dict(
        facts,
        links=net["links"],
        made=net["made"],
        routes=len(net["routes"]),
        reached_by=words[2] if len(words) == 4 else "unknown",
        **here,
    )
    return dict(seen, problems=problems), net, problems


def build(rec, facts, net):
    """Build, try, load where it is to jump. Everything on the disk is removed again if it fails."""
    rescue = rescue_build.Rescue(rec.params["directory"])
    jumps = rec.params["way"] == "kexec"
    marker = dict(rec.params["marker"] or {}, machine_id=facts["machine_id"], former_boot_id=facts["boot_id"])
    marker["hardware"] = rescue_init.hardware()
    arguments = rescue_host.command_line(rescue_host.read("/proc/cmdline") or "", rec.params["kernel_arguments"])
    try:
        rescue.build(facts, net, marker, rec.params["host_key"], rec.params["authorized_key"])
        tests = rescue.self_test()
        size, memory = rescue.tree.size(), rescue_host.read("/proc/meminfo")
        problems = rescue_host.memory_problems(
            size, rescue_host.meminfo(memory, "MemAvailable") if jumps else None, rescue_host.meminfo(memory, "MemTotal")
        )
        if problems:
            raise rescue_build.RescueError("; ".join(problems))
        image = rescue.pack()
        rec.note(did="built the rescue of the host's own files", image=image, tests=tests, left_out=rescue.left_out)
        if not jumps:
            kernel = {"path": facts["image"], "sha256": rescue_host.digest(facts["image"])}
            return {"image": image, "kernel": kernel, "arguments": arguments, "firmware": facts["firmware"]}
        rescue.load(facts["image"], arguments)
        rec.note(did="loaded it by kexec_file_load", kernel=facts["image"], arguments=arguments)
        return {"image": image, "jump": rescue.jump_file()}
    except (rescue_build.RescueError, rescue_tree.TreeError, OSError) as exc:
        rescue_build.unload()
        rescue.forget()
        rec.after({"kexec_loaded": rescue_host.read(rescue_host.KEXEC_LOADED)})
        rec.fail("%s cannot go into a rescue: %s. It runs on as before." % (rec.item, exc))
    raise AssertionError("fail() does not return")


def main():
    rec = Recorded(
        argument_spec={
            "timeout": {"type": "float", "default": 600},
            "way": {"choices": ["kexec", "virtual_media", "pxe"], "default": "kexec"},
            "witness": {"type": "raw"},
            "board": {"type": "dict", "default": {}},
            "boot": {"type": "dict", "default": {}},
            "kernel_arguments": {"type": "list", "elements": "str", "default": []},
            "services": {"type": "list", "elements": "dict", "default": []},
            "directory": {"type": "path", "default": "/var/lib/sunset-crm/rescue"},
            "marker": {"type": "dict"},
            "host_key": {"type": "str", "no_log": True},
            "authorized_key": {"type": "str", "no_log": False},
        },
        object_lock="rescue",
    )
    facts, net, problems = observe(rec)
    rec.before(facts)
    if problems:
        rec.after(facts)
        rec.fail("%s cannot go into a rescue: %s. Nothing was changed." % (rec.item, "; ".join(problems)))
    if rec.check_mode:
        rec.after(facts)
        rec.finish(changed=True, verdict="unknown", result={"state": "planned"})
    for name in ("marker", "host_key", "authorized_key"):
        if not rec.params[name]:
            rec.fail("%s is missing; the action plugin gives it" % name)
    built = build(rec, facts, net)
    rec.after({"kexec_loaded": rescue_host.read(rescue_host.KEXEC_LOADED)})
    state = "loaded" if rec.params["way"] == "kexec" else "built"
    result = {"state": state, "boot_id": facts["boot_id"], "machine_id": facts["machine_id"], "python": rescue_tree.python()}
    rec.finish(changed=True, result=dict(result, **built))


if __name__ == "__main__":
    main()
