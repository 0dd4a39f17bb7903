# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""docker_guests' verbs against engines of the test's own: one that is restarted, a swarm, Podman."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import docker.types
import pytest

from ansible_collections.sunset.crm.plugins.plugin_utils import docker_podman, docker_verbs, guest_verbs, guests, relay
from ansible_collections.sunset.crm.plugins.plugin_utils.account import Account
from ansible_collections.sunset.crm.plugins.plugin_utils.docker_engine import Engine
from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal
from tests.integration.private_engine import Dockerd, Podman, Private, running

LABEL = "crm=shop"
OBEYS = "trap 'exit 0' TERM; while :; do sleep 0.1; done"
IGNORES = "trap '' TERM; while :; do sleep 0.1; done"


@pytest.fixture
def folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="ste-"))
    yield made
    shutil.rmtree(made, ignore_errors=True)


def item() -> Account:
    return Account("docker_guests", "container:t")


def stop(engine: Private, *names: str, timeout: float = 20, check: bool = False, **opening: Any) -> dict[str, Any]:
    notes: list[dict[str, Any]] = []
    order = guest_verbs.Order(names, timeout=timeout)
    with Engine(engine.address, LABEL, **opening) as opened:
        done = guest_verbs.stop(opened, item(), order, guest_verbs.Memory({}, {}, notes.append), check)
    return {**done, "notes": notes}


def start(engine: Private, former: dict[str, Any], **opening: Any) -> dict[str, Any]:
    with Engine(engine.address, LABEL, **opening) as opened:
        return docker_verbs.start(opened, item(), former, 20, False)


def make(engine: Private, image: str, name: str, script: str, policy: str = "no", labels: dict[str, str] | None = None, **host: Any) -> str:
    api = engine.client()
    if isinstance(engine, Podman):
        host["ulimits"] = [{"Name": kind, "Soft": 1024, "Hard": 1024} for kind in ("nofile", "nproc")]
    settings = api.create_host_config(network_mode="none", restart_policy={"Name": policy}, **host)
    command = ["/bin/sh", "-c", script]
    made = api.create_container(image, command, name=name, labels={"crm": "shop", **(labels or {})}, host_config=settings)
    api.start(made["Id"])
    api.close()
    return str(made["Id"])


def states(engine: Private) -> dict[str, str]:
    return {row["Names"][0].lstrip("/"): row["State"] for row in engine.client().containers(all=True)}


def test_after_an_engine_restart_everything_stays_off_and_resume_restores_exactly(folder: Path) -> None:
    """Section 0 fact 7, moby 12626: a stopped container with the policy always comes back; ours does not."""
    with running(Dockerd(folder)) as engine:
        image = engine.load()
        make(engine, image, "always", OBEYS, "always")
        make(engine, image, "unless", OBEYS, "unless-stopped")
        make(engine, image, "never", OBEYS)
        make(engine, image, "ended", "exit 0", "on-failure")
        time.sleep(0.5)
        names = ("always", "unless", "never", "ended")
        done = stop(engine, *names)
        assert (done["evidence"]["verdict"], done["result"]["way"]) == ("yes", "graceful"), done.get("msg")
        engine.down()
        engine.up()
        time.sleep(2)
        assert set(states(engine).values()) == {"exited"}
        assert stop(engine, *names)["changed"] is False
        back = start(engine, done["result"]["former"])
        assert back["evidence"]["verdict"] == "yes", back.get("msg")
        assert states(engine) == {"always": "running", "unless": "running", "never": "running", "ended": "exited"}
        # The other side of the fact: with the policies put back, a plain stop would not have held.
        api = engine.client()
        api.stop("always", timeout=5)
        engine.down()
        engine.up()
        time.sleep(2)
        assert states(engine)["always"] == "running"
        assert done["evidence"]["tools"]["live restore"] == "no"


def service(engine: Private, image: str, name: str, script: str, grace: float = 10, mode: Any = None, label: bool = True) -> str:
    container = docker.types.ContainerSpec(
        image, command=["/bin/sh", "-c", script], labels={"crm": "shop"}, stop_grace_period=int(grace * 1e9)
    )
    template = docker.types.TaskTemplate(container, networks=[{"Target": "host"}])
    made = engine.client().create_service(
        template, name=name, labels={"crm": "shop"} if label else {}, mode=mode or docker.types.ServiceMode("replicated", 2)
    )
    return str(made["ID"])


def until(engine: Private, want: int) -> None:
    deadline = time.monotonic() + 40
    while True:
        if sum(row["State"] == "running" for row in engine.client().containers()) == want:
            return
        assert time.monotonic() < deadline, engine.client().containers(all=True)
        time.sleep(0.3)


def test_services_of_a_swarm(folder: Path) -> None:
    with running(Dockerd(folder)) as engine:
        image = engine.load()
        engine.swarm()
        web = service(engine, image, "web", OBEYS)
        service(engine, image, "stubborn", IGNORES, grace=1)
        make(engine, image, "single", OBEYS, "always")
        until(engine, 5)
        dry = stop(engine, "web", "stubborn", "single", check=True)
        assert (dry["changed"], dry["result"]["would_stop"]) == (True, ["single", "stubborn", "web"])
        done = stop(engine, "web", "stubborn", "single", timeout=40)
        assert done["evidence"]["verdict"] == "yes", done.get("msg")
        rows = done["result"]["guests"]
        assert rows["web"]["id"] == web
        assert (rows["web"]["how"], rows["web"]["graceful"]) == (guests.BY_ITSELF, "yes"), rows["web"]
        assert (rows["stubborn"]["how"], rows["stubborn"]["graceful"]) == (guests.BY_FORCE, "no"), rows["stubborn"]
        assert "grace period of 1 s" in rows["stubborn"]["detail"]
        assert done["result"]["way"] == "forced"
        assert done["result"]["former"]["web"]["replicas"] == 2
        assert [row for row in engine.client().containers() if "web" in row["Names"][0]] == []
        assert stop(engine, "web", "stubborn", "single")["changed"] is False
        # The swarm's own memory is on disk: after a restart it is still none that it wants.
        engine.down()
        engine.up()
        time.sleep(2)
        assert engine.client().containers() == []
        back = start(engine, done["result"]["former"])
        assert back["evidence"]["verdict"] == "yes", back.get("msg")
        until(engine, 5)
        assert start(engine, done["result"]["former"])["changed"] is False


def test_what_of_a_swarm_cannot_be_scaled_is_refused_by_name(folder: Path) -> None:
    with running(Dockerd(folder)) as engine:
        image = engine.load()
        engine.swarm()
        service(engine, image, "everywhere", OBEYS, mode=docker.types.ServiceMode("global"))
        until(engine, 1)
        with pytest.raises(Refusal, match="everywhere: it is a global service"):
            stop(engine, "everywhere")
        service(engine, image, "unlabelled", OBEYS, label=False)
        until(engine, 3)
        with pytest.raises(Refusal, match="service update --label-add crm=shop unlabelled"):
            stop(engine, "everywhere", *[name for name in states(engine) if name.startswith("unlabelled")])
        assert sum(state == "running" for state in states(engine).values()) == 3


def test_podman(folder: Path) -> None:
    with running(Podman(folder)) as engine:
        image = engine.load()
        make(engine, image, "web", "trap 'sleep 1; exit 0' TERM; while :; do sleep 0.1; done", "always")
        make(engine, image, "own", "trap 'exit 7' TERM; while :; do sleep 0.1; done")
        make(engine, image, "unit", OBEYS, labels={docker_podman.UNIT: "shop-unit.service"})
        time.sleep(0.5)
        with pytest.raises(Refusal, match=r"unit: the systemd unit shop-unit.service runs it .* declare shop-unit.service under services"):
            stop(engine, "web", "own", "unit", held_units=[docker_podman.RESTARTER])
        with pytest.raises(Refusal, match=r"web: its restart policy always cannot be taken away on Podman"):
            stop(engine, "web", "own", "unit", held_units=["shop-unit.service"])
        assert set(states(engine).values()) == {"running"}
        held = [docker_podman.RESTARTER, "shop-unit.service", "removing.service"]
        owned = {"gone": {"id": "f" * 64, "unit": "removing.service", "image": image, "image_id": image}}
        done = stop(engine, "web", "own", "unit", "gone", held_units=held, owned=owned)
        assert done["evidence"]["verdict"] == "yes", done.get("msg")
        rows = done["result"]["guests"]
        assert {name: (row["how"], row["after"].get("exit_code")) for name, row in rows.items()} == {
            "web": (guests.BY_ITSELF, 0),
            "own": (guests.BY_ITSELF, 7),
            "unit": (guests.BY_ITSELF, 0),
            "gone": (guests.ALREADY_OFF, None),
        }
        assert "removing.service removed it" in rows["gone"]["detail"]
        time.sleep(1.5)
        assert set(states(engine).values()) == {"exited"}
        again = stop(engine, "web", "own", "unit", "gone", held_units=held, owned=owned)
        assert (again["changed"], again["evidence"]["actions"]) == (False, [])
        saving = docker_verbs.Saving("container:t", ["web", "own", "unit", "gone"], str(folder / "staging"), prove=True, watch=1.0)
        with Engine(engine.address, LABEL, held_units=held, owned=owned) as opened:
            saved = docker_verbs.save(opened, item(), relay.here(), saving, False)
        assert saved["evidence"]["verdict"] == "yes", saved.get("msg")
        assert {name: one["starts"] for name, one in saved["result"]["starts"].items()} == dict.fromkeys(("web", "own", "unit"), "yes") | {
            "gone": saved["result"]["starts"]["gone"]["starts"]
        }
        assert [row for row in engine.client().images() if "sunset" in str(row["RepoTags"]).replace("sunset-lab", "")] == []
        back = start(engine, done["result"]["former"], held_units=held, owned=owned)
        assert back["result"]["left_to_units"] == {"unit": "shop-unit.service", "gone": "removing.service"}
        assert states(engine) == {"web": "running", "own": "running", "unit": "exited"}


def test_a_pod_of_podman_is_taken_whole_or_not(folder: Path) -> None:
    with running(Podman(folder)) as engine:
        image = engine.load()
        engine.run(
            "pod",
            "create",
            "--name",
            "shop",
            "--infra=true",
            "--infra-image",
            image,
            "--infra-command",
            "/bin/sleep 1000",
            "--network",
            "none",
        )
        limits = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"]
        for name, label in (("a", ["--label", LABEL]), ("b", [])):
            engine.run("create", "--pod", "shop", "--name", name, *label, *limits, image, "/bin/sh", "-c", OBEYS)
        with pytest.raises(Refusal, match="its pod shop also holds b, which is not in this set"):
            stop(engine, "a", next(name for name in states(engine) if name.endswith("-infra")))
