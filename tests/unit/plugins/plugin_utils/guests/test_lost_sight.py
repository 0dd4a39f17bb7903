# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Processes of guests that their engine calls ended: whose they are."""

from __future__ import annotations

from ansible_collections.sunset.crm.plugins.plugin_utils.guests import lost_sight

KEY, OTHER = "a" * 64, "b" * 64
UUID = "6c011883-31b0-4428-8043-7ba2c63969c5"


def test_processes_of_a_container_are_known_by_their_control_group() -> None:
    """Version 1 and 2, cgroupfs and systemd; zombies have ended, and what watches over a container is not in it."""
    answer = f"""seen
11 S sh /proc/11/cgroup:0::/system.slice/docker-{KEY}.scope
12 R mysqld /proc/12/cgroup:12:pids:/docker/{OTHER}/docker/{KEY}
13 Z sh /proc/13/cgroup:0::/system.slice/docker-{KEY}.scope
14 S conmon /proc/14/cgroup:0::/machine.slice/libpod-conmon-{KEY}.scope
15 S conmon /proc/15/cgroup:0::/libpod_parent/libpod-{KEY}/conmon
16   /proc/16/cgroup:0::/docker/{KEY}
17 S sh /proc/17/cgroup:0::/docker/{"c" * 64}
"""
    assert lost_sight.of_containers(answer, [KEY]) == {KEY: [11, 12]}
    assert lost_sight.of_containers(answer, [KEY, OTHER]) == {KEY: [11, 12], OTHER: [12]}


def test_the_process_of_a_machine_is_known_by_its_uuid_and_not_who_only_speaks_of_it() -> None:
    answer = f"""seen
21 S qemu-system-x86 /proc/21/cmdline:/usr/bin/qemu-system-x86_64 -name guest=crm,debug-threads=on -uuid {UUID} -display none
22 S sh /proc/22/cmdline:sh -c grep -uuid {UUID}
23 S qemu-img /proc/23/cmdline:qemu-img convert {UUID}.qcow2
24 Z qemu-kvm /proc/24/cmdline:/usr/libexec/qemu-kvm -uuid {UUID}
"""
    assert lost_sight.of_machines(answer, [UUID]) == {UUID: [21]}
