#!/usr/bin/env python3
# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How long a hundred containers take to stop, and how often the engine is asked. Prints ``name value bound ok|short`` a line.

    tests/bench/guests.py [--guests 100] [--slowest 20]

On an engine of its own. Each container takes a time of its own up to --slowest seconds; every second one has a restart policy.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(HERE / ".collections"), str(HERE)]

CALLS_PER_GUEST = 6


def told(name: str, value: float, bound: float) -> bool:
    good = value <= bound
    print(f"{name} {value:.2f} {bound:.2f} {'ok' if good else 'short'}", flush=True)
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--guests", type=int, default=100)
    parser.add_argument("--slowest", type=float, default=20.0)
    options = parser.parse_args()
    from ansible_collections.sunset.crm.plugins.plugin_utils.actions.account import Account
    from ansible_collections.sunset.crm.plugins.plugin_utils.docker.engine import Engine
    from ansible_collections.sunset.crm.plugins.plugin_utils.guests import verbs as guest_verbs
    from tests.integration.private_engine import Dockerd, running

    names = [f"n{number}" for number in range(options.guests)]
    with tempfile.TemporaryDirectory(prefix="ste-", ignore_cleanup_errors=True) as folder, running(Dockerd(Path(folder))) as engine:
        image, api = engine.load(), engine.client()
        for number, name in enumerate(names):
            # A shell that waits costs nothing while it waits.
            script = f"trap 'kill $w; sleep {options.slowest * (number + 1) / options.guests:.2f}; exit 0' TERM; sleep 100000 & w=$!; wait"
            host = api.create_host_config(network_mode="none", restart_policy={"Name": "always" if number % 2 else "no"})
            made = api.create_container(image, ["/bin/sh", "-c", script], name=name, labels={"crm": "bench"}, host_config=host)
            api.start(made["Id"])
        begun = time.monotonic()
        with Engine(engine.address, "crm=bench") as opened:
            memory = guest_verbs.Memory({}, {}, lambda _note: None)
            order = guest_verbs.Order(names, timeout=options.slowest * 3 + 30)
            done = guest_verbs.stop(opened, Account("docker_guests", "container:bench"), order, memory, False)
            calls = opened.calls
        wall = time.monotonic() - begun
        api.close()
    if done.get("failed") or {row["how"] for row in done["result"]["guests"].values()} != {"by itself"}:
        print(f"guests: not what was asked for: {done.get('msg')}", file=sys.stderr)
        return 1
    slowest = max(float(row["seconds"]) for row in done["result"]["guests"].values())
    good = [
        told("docker_stop_seconds", wall, 1.5 * slowest + 5),
        told("docker_calls_per_guest", calls / options.guests, CALLS_PER_GUEST),
    ]
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
