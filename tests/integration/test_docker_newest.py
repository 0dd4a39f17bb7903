# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""docker_guests' verbs against the newest Docker engine that Debian has, which takes no API below 1.44, with both kinds of image stores.

The other tests have 20.10 (Debian 12) and 26.1 (Debian 13). With the image store of containerd, a saved image is laid out in another way and
images have other ids: that is what a fresh Docker 29 has.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from ansible_collections.sunset.crm.plugins.module_utils._proof import image as proof_image
from ansible_collections.sunset.crm.plugins.plugin_utils import relay
from ansible_collections.sunset.crm.plugins.plugin_utils.docker import verbs as docker_verbs
from ansible_collections.sunset.crm.plugins.plugin_utils.docker.engine import Engine
from ansible_collections.sunset.crm.plugins.plugin_utils.guests import guests, verbs as guest_verbs
from tests.integration.engine_acts import IGNORES, LABEL, OBEYS, Patient, item, trapped
from tests.integration.engine_host import DOCKER, NewestHost, sdk
from tests.lab.image import mini_image

HEAD = "com.docker.compose."
OWN_137 = "trap 'exit 137' TERM; while :; do sleep 0.1; done"


@pytest.fixture(scope="module", params=["classic", "containerd"])
def host(request: pytest.FixtureRequest) -> Iterator[NewestHost]:
    with NewestHost(f"ste-newest-{request.param}-{os.getpid()}", request.param) as one:
        yield one


@contextlib.contextmanager
def engine(host: NewestHost) -> Iterator[Engine]:
    with relay.Relay(host.reach, DOCKER) as way, Engine(way.address, LABEL, way=way) as opened:
        yield opened


def stop(host: NewestHost, *names: str, check: bool = False, **order: Any) -> dict[str, Any]:
    with engine(host) as opened:
        memory = guest_verbs.Memory({}, {}, lambda _note: None)
        return docker_verbs.stop(opened, item(), guest_verbs.Order(names, **{"timeout": 60, **order}), memory, check)


def make(host: NewestHost, name: str, script: str, policy: str = "no", depends: str | None = None, **more: Any) -> None:
    with relay.Relay(host.reach, DOCKER) as way, contextlib.closing(sdk(way)) as api:
        labels = {"crm": "shop"}
        if depends is not None:
            labels.update({f"{HEAD}project": "shop", f"{HEAD}service": name, f"{HEAD}depends_on": depends})
        settings = api.create_host_config(network_mode="none", restart_policy={"Name": policy})
        made = api.create_container(mini_image(), ["/bin/sh", "-c", script], name=name, labels=labels, host_config=settings, **more)
        api.start(made["Id"])
        if trapped(script):
            host.heed(int(api.inspect_container(made["Id"])["State"]["Pid"]))


def look(host: NewestHost) -> dict[str, dict[str, Any]]:
    with relay.Relay(host.reach, DOCKER) as way, contextlib.closing(sdk(way)) as api:
        return {row["Names"][0].lstrip("/"): api.inspect_container(row["Id"]) for row in api.containers(all=True)}


def states(host: NewestHost) -> dict[str, tuple[str, str]]:
    return {name: (one["State"]["Status"], one["HostConfig"]["RestartPolicy"]["Name"]) for name, one in look(host).items()}


def test_stop_save_prove_and_back_on_the_newest_engine(host: NewestHost, monkeypatch: pytest.MonkeyPatch) -> None:
    with engine(host) as opened:
        version, drivers = opened.version, str(opened.info.get("DriverStatus"))
    assert int(version["Version"].split(".")[0]) >= 28 and version["MinAPIVersion"] == "1.44", version
    assert ("io.containerd.snapshotter" in drivers) is (host.store == "containerd"), drivers

    health = {"test": ["CMD", "true"], "interval": 10**9, "timeout": 10**9, "retries": 1}
    make(host, "db", "echo kept >/data/own-layer; " + OBEYS, "always", "", healthcheck=health)
    make(host, "web", OBEYS, "unless-stopped", "db:service_healthy:true")
    make(host, "loop", "exit 3", "always")
    make(host, "asleep", OBEYS, "always")
    make(host, "own137", OWN_137)
    make(host, "deaf", IGNORES, "always")
    with relay.Relay(host.reach, DOCKER) as way, contextlib.closing(sdk(way)) as api:
        api.pause("asleep")
    ran = states(host)
    names = sorted(ran)

    assert stop(host, *names, check=True)["changed"] is True and states(host)["db"] == ("running", "always")
    with monkeypatch.context() as patch:
        patch.setattr(guests, "Clock", lambda: Patient(lambda: any(states(host)[name][0] != "exited" for name in names if name != "deaf")))
        late = stop(host, *names, timeout=4)
    assert late["failed"] and "deaf did not end within 4 s" in late["msg"] and "nothing was killed" in late["msg"]
    former = late["result"]["former"]
    asked = [action["guest"] for action in late["evidence"]["actions"] if action["did"] == "asked"]
    assert asked.index("web") < asked.index("db")
    rows = late["result"]["guests"]
    assert {name: (rows[name]["how"], rows[name]["graceful"]) for name in ("db", "web", "asleep", "own137", "deaf")} == {
        "db": (guests.BY_ITSELF, "yes"), "web": (guests.BY_ITSELF, "yes"), "asleep": (guests.BY_ITSELF, "yes"),
        "own137": (guests.UNKNOWN, "unknown"), "deaf": (guests.STILL_ON, "unknown"),
    }  # fmt: skip
    forced = stop(host, *names, force_after=1, allowed_by="Ada")
    assert (forced["evidence"]["verdict"], forced["result"]["way"], forced["result"]["forced"]) == ("yes", "forced", ["deaf"]), forced.get(
        "msg"
    )
    assert stop(host, *names)["changed"] is False

    host.restart()
    assert {state for state, _policy in states(host).values()} == {"exited"}

    saving = docker_verbs.Saving("container:shop", names, "/srv/staging", prove=True, watch=1.0)
    with engine(host) as opened:
        done = docker_verbs.save(opened, item(), host.reach, saving, False)
    assert done["evidence"]["verdict"] == "yes", done.get("msg")
    assert {name: one["starts"] for name, one in done["result"]["starts"].items()}["db"] == "yes", done["result"]["starts"]
    with engine(host) as opened:
        assert docker_verbs.save(opened, item(), host.reach, saving, False)["changed"] is False
        assert [
            tag for image in opened.api.images() for tag in image["RepoTags"] or () if "sunset-saved" in tag or "sunset-proof" in tag
        ] == []
    # As the vault proves it: every layer is there, and is the one that the image names.
    image = next(one for one in done["result"]["artefacts"] if one["name"] == "db-image")
    packed = subprocess.run(["docker", "exec", host.name, "cat", image["path"]], check=True, capture_output=True).stdout
    found, layers = proof_image.problems(proof_image.read_members(io.BytesIO(gzip.decompress(packed))))
    assert found == [] and layers >= 2

    with engine(host) as opened:
        back = docker_verbs.start(opened, item(), former, 20, False)
    # A container that crashes again and again is seen in one of two states.
    assert back["evidence"]["verdict"] == "yes" or "loop" in back["msg"], back.get("msg")
    now = states(host)
    assert {name: one for name, one in now.items() if name != "loop"} == {name: one for name, one in ran.items() if name != "loop"}
    assert now["loop"][1] == "always"
