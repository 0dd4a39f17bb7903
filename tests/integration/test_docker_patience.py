# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A container that needs longer than the ten seconds that an engine gives: by its own stop, and by ours."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from ansible_collections.sunset.crm.plugins.plugin_utils.actions.account import Account
from ansible_collections.sunset.crm.plugins.plugin_utils.docker.engine import Engine
from ansible_collections.sunset.crm.plugins.plugin_utils.guests import guests, verbs as guest_verbs
from tests.integration.engine_acts import heeds
from tests.integration.private_engine import Dockerd, running

LABEL = "crm=shop"
# A database that writes its memory to disk when it is asked to end.
SLOW = "trap 'n=0; while [ $n -lt 130 ]; do sleep 0.1; n=$((n+1)); done; exit 0' TERM; while :; do sleep 0.1; done"


def ended(engine: Any) -> tuple[str, int]:
    state = engine.client().inspect_container("db")["State"]
    return state["Status"], state["ExitCode"]


def test_fact_8_what_an_engine_that_stops_would_kill_after_10_s_ends_by_itself() -> None:
    """[moby 32357, 26828, 22471; storj 2300; postgres 1207] It is asked before, with the time that it needs."""
    folder = Path(tempfile.mkdtemp(prefix="st8-"))
    try:
        with running(Dockerd(folder)) as engine:
            api = engine.client()
            settings = api.create_host_config(network_mode="none", restart_policy={"Name": "always"})
            made = api.create_container(engine.load(), ["/bin/sh", "-c", SLOW], name="db", labels={"crm": "shop"}, host_config=settings)
            api.start(made["Id"])
            heeds(int(api.inspect_container(made["Id"])["State"]["Pid"]))
            order = guest_verbs.Order(["db"], timeout=120)
            with Engine(engine.address, LABEL) as opened:
                done = guest_verbs.stop(
                    opened, Account("docker_guests", "container:t"), order, guest_verbs.Memory({}, {}, lambda _note: None), False
                )
            row = done["result"]["guests"]["db"]
            assert (done["evidence"]["verdict"], row["how"], row["graceful"]) == ("yes", guests.BY_ITSELF, "yes"), done.get("msg")
            assert row["seconds"] > 10 and ended(engine) == ("exited", 0)

            # The other side: the engine's own stop does not wait for it.
            api.start(made["Id"])
            engine.down()
            engine.up()
            assert ended(engine) == ("exited", 137)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
