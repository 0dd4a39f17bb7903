#!/usr/bin/env python3
# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How long a hundred simulated guests of Proxmox VE take to stop, and how often the API is asked. ``name value bound ok|short`` a line.

    tests/bench/guests_proxmox.py [--guests 100] [--slowest 20]

Three nodes in a process of its own (fakepve: simulated, with the answers of the real thing), over HTTPS. Each guest takes a time of its own up to
--slowest seconds; every second one has onboot set. Times are real seconds.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(HERE / ".collections"), str(HERE)]

CALLS_PER_GUEST = 16


def serve(directory: Path, guests: int, slowest: float) -> None:
    """The cluster; ends with its standard input."""
    from tests.integration.pve_fake import Serving

    serving = Serving(directory, answers="real", time_scale=1.0)
    serving.grant()
    for number in range(guests):
        node = f"pve{number % 3 + 1}"
        config = {"onboot": number % 2}
        if number % 4 == 3:
            guest = serving.pve.add_ct(100 + number, f"ct{number}", node=node, status="running", config=config)
        else:
            guest = serving.pve.add_vm(100 + number, f"vm{number}", node=node, status="running", config=config)
        guest.shutdown_secs = slowest * (number + 1) / guests
    print(json.dumps(serving.api()), flush=True)
    sys.stdin.read()
    running = sum(guest.status == "running" for guest in [*serving.pve.vms, *serving.pve.cts])
    shutdowns = sum(task["type"] in ("qmshutdown", "vzshutdown") for task in serving.pve.tasklog)
    print(json.dumps({"running": running, "shutdowns": shutdowns}), flush=True)
    serving.stop()


def told(name: str, value: float, bound: float) -> bool:
    good = value <= bound
    print(f"{name} {value:.2f} {bound:.2f} {'ok' if good else 'short'}", flush=True)
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--guests", type=int, default=100)
    parser.add_argument("--slowest", type=float, default=20.0)
    parser.add_argument("--serve", type=Path)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, options.guests, options.slowest)
        return 0
    from ansible_collections.sunset.crm.plugins.plugin_utils.actions.account import Account
    from ansible_collections.sunset.crm.plugins.plugin_utils.guests import verbs as guest_verbs
    from ansible_collections.sunset.crm.plugins.plugin_utils.proxmox.api import Api
    from ansible_collections.sunset.crm.plugins.plugin_utils.proxmox.cluster import Cluster
    from tests.integration.pve_acts import Ledger

    names = [str(100 + number) for number in range(options.guests)]
    limit = options.slowest * 2 + 30
    with tempfile.TemporaryDirectory() as place:
        argv = [sys.executable, __file__, "--serve", place, "--guests", str(options.guests), "--slowest", str(options.slowest)]
        with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None and server.stdin is not None
            settings = json.loads(server.stdout.readline())
            ledger = Ledger()
            begun, cpu = time.monotonic(), time.process_time()
            with Api(settings) as api, Cluster(api, names, limit) as cluster:
                cluster.settle(cluster.prepare(["stopped"]))
                memory = guest_verbs.Memory({}, {}, ledger.note)
                done = guest_verbs.stop(
                    cluster, Account("proxmox_guests", "guest:bench"), guest_verbs.Order(names, timeout=limit), memory, False
                )
                calls = api.calls
            wall, cpu = time.monotonic() - begun, time.process_time() - cpu
            server.stdin.close()
            left = json.loads(server.stdout.readline())
    ways = {row["how"] for row in done["result"]["guests"].values()}
    if done.get("failed") or left != {"running": 0, "shutdowns": options.guests} or ways != {"by itself"}:
        print(f"guests_proxmox: not what was asked for: {done.get('msg')} {left} {ways}", file=sys.stderr)
        return 1
    good = [
        told("proxmox_stop_seconds", wall, 1.5 * options.slowest + 5),
        told("proxmox_calls_per_guest", calls / options.guests, CALLS_PER_GUEST),
        told("proxmox_client_cpu_seconds", cpu, 0.1 * options.guests + 5),
    ]
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
