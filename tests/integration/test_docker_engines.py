# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""docker_guests' verbs against engines of the test's own: one that is restarted, one with live restore, a swarm of one node, Podman."""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import docker.types
import pytest

from ansible_collections.sunset.crm.plugins.module_utils._service import (
    container_engines as service_container_engines,
    idle as service_idle,
)
from ansible_collections.sunset.crm.plugins.plugin_utils import relay
from ansible_collections.sunset.crm.plugins.plugin_utils.docker import podman as docker_podman, verbs as docker_verbs
from ansible_collections.sunset.crm.plugins.plugin_utils.docker.engine import Engine
from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.guests import guests
from tests.integration.engine_acts import IGNORES, LABEL, OBEYS, Patient, item, make, service, start, states, stop, until
from tests.integration.private_engine import Dockerd, Enduring, Podman, running


@pytest.fixture
def folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="ste-"))
    yield made
    shutil.rmtree(made, ignore_errors=True)


def compose(name: str, depends: str = "") -> dict[str, str]:
    head = "com.docker.compose."
    return {f"{head}project": "shop", f"{head}service": name, f"{head}depends_on": depends}


def reboot(engine: Dockerd) -> None:
    """The engine goes down and comes back. By the time that it answers, it has started what its restart policies tell it to."""
    engine.down()
    engine.up()
    time.sleep(1)


def test_reboot_the_engine_after_the_shutdown_everything_stays_off_resume_everything_that_ran_runs(folder: Path) -> None:
    """Issue 4's sentence, for each restart policy, a Compose project and a swarm. Section 0 fact 7, moby 12626: others' come back."""
    with running(Dockerd(folder)) as engine:
        image = engine.load()
        engine.swarm()
        make(engine, image, "always", OBEYS, "always")
        make(engine, image, "unless", OBEYS, "unless-stopped")
        make(engine, image, "on-failure", OBEYS, "on-failure")
        # Ends with an error when it is asked, which the policy takes for a reason to start it again.
        make(engine, image, "fails", "trap 'exit 3' TERM; while :; do sleep 0.1; done", "on-failure")
        make(engine, image, "never", OBEYS)
        make(engine, image, "ended", "exit 0", "on-failure")
        make(engine, image, "shop-db", OBEYS, "always", compose("db"))
        make(engine, image, "shop-web", OBEYS, "unless-stopped", compose("web", "db:service_started:true"))
        service(engine, image, "web", OBEYS)
        until(engine, 9)
        ran = {name: state for name, state in states(engine).items() if not name.startswith("web.")}
        policies = {name: engine.client().inspect_container(name)["HostConfig"]["RestartPolicy"] for name in ran}
        everything = (*ran, "web")
        done = stop(engine, *everything)
        assert (done["evidence"]["verdict"], done["result"]["way"]) == ("yes", "graceful"), done.get("msg")
        asked = [action["guest"] for action in done["evidence"]["actions"] if action["did"] == "asked"]
        assert asked.index("shop-web") < asked.index("shop-db")
        reboot(engine)
        assert engine.client().containers() == []
        assert stop(engine, *everything)["changed"] is False

        back = start(engine, done["result"]["former"])
        assert back["evidence"]["verdict"] == "yes", back.get("msg")
        until(engine, 9)
        assert {name: state for name, state in states(engine).items() if not name.startswith("web.")} == ran
        assert {name: engine.client().inspect_container(name)["HostConfig"]["RestartPolicy"] for name in ran} == policies
        assert start(engine, done["result"]["former"])["changed"] is False
        # The other side: with the policies back, a stop as others make it does not hold, and what has no policy stays down.
        engine.client().stop("always", timeout=5)
        reboot(engine)
        now = states(engine)
        assert (now["always"], now["unless"], now["shop-db"], now["shop-web"], now["never"], now["ended"]) == (
            *("running",) * 4, "exited", "exited",
        )  # fmt: skip


def test_with_live_restore_an_engine_that_is_down_proves_nothing(folder: Path) -> None:
    """Its containers run on. What holds them is seen by the kernel, and the engine's unit may not be stopped from under them."""
    with running(Enduring(folder)) as engine:
        image = engine.load()
        ids = {make(engine, image, name, OBEYS, "always") for name in ("web", "db")}
        answer = service_idle.ask(engine.address, "/info")
        assert service_container_engines.live_restore(answer, None, "") == ("yes", "the engine's own answer")
        began = {name: engine.client().inspect_container(name)["State"]["StartedAt"] for name in ("web", "db")}

        engine.down()
        assert len(engine.shims()) == 2
        rows = service_idle.processes(
            (service_idle.service_proc.command_name(pid), service_idle.service_proc.argv_of(pid)) for pid in engine.shims()
        )
        assert {row["key"] for row in rows} == ids
        told = service_container_engines.problem_of_stopping(
            ["docker.service"], service_container_engines.running(lambda *_argv, **_more: None), "yes"
        )
        assert told and "live restore is on" in told and all(key[:12] in told for key in ids)

        engine.up()
        assert {name: engine.client().inspect_container(name)["State"]["StartedAt"] for name in began} == began
        done = stop(engine, "web", "db", engines={"docker": {"comes_back": ["docker.socket listens"]}})
        assert (done["evidence"]["verdict"], done["result"]["way"]) == ("yes", "graceful"), done.get("msg")
        told = done["result"]["engine"]
        assert (told["live_restore"], told["comes_back"]) == ("yes", ["docker.socket listens"]) and "proves nothing" in told["means"]
        assert engine.without_shims()
        reboot(engine)
        assert set(states(engine).values()) == {"exited"} and engine.without_shims()
        assert stop(engine, "web", "db")["changed"] is False
        back = start(engine, done["result"]["former"])
        assert back["evidence"]["verdict"] == "yes" and set(states(engine).values()) == {"running"}, back.get("msg")


def test_an_engine_with_live_restore_is_restarted_while_its_containers_come_down(folder: Path) -> None:
    """The request reaches them once, the engine finds them again, or finds them ended while it was away."""
    slow = "n=0; trap 'n=$((n+1)); echo signal $n' TERM; while [ $n -eq 0 ]; do sleep 0.1; done; sleep 2; exit 5"
    with running(Enduring(folder)) as engine:
        image = engine.load()
        make(engine, image, "slow", slow, "always")

        def restart() -> None:
            api, deadline = engine.client(), time.monotonic() + 120
            # Not before the request has arrived: whoever opens a way to an engine that is away is told so.
            while api.logs("slow") == b"" and time.monotonic() < deadline:
                time.sleep(0.05)
            api.close()
            engine.down()
            engine.up()

        other = threading.Thread(target=restart)
        other.start()
        try:
            done = stop(engine, "slow")
        finally:
            other.join()
        assert done["evidence"]["verdict"] == "yes", done.get("msg")
        assert engine.client().logs("slow") == b"signal 1\n"
        row = done["result"]["guests"]["slow"]
        assert row["how"] == guests.BY_ITSELF and states(engine) == {"slow": "exited"} and engine.without_shims(), row
        assert stop(engine, "slow")["changed"] is False


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
        done = stop(engine, "web", "stubborn", "single")
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


def test_what_is_killed_on_podman_stays_off(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill alone would let the restart policy start it again: it was asked to stop before, and that is what Podman remembers."""
    with running(Podman(folder)) as engine:
        image = engine.load()
        make(engine, image, "deaf", IGNORES, "always")
        make(engine, image, "web", OBEYS)
        held = [docker_podman.RESTARTER]
        with monkeypatch.context() as patch:
            patch.setattr(guests, "Clock", lambda: Patient(lambda: states(engine)["web"] != "exited"))
            late = stop(engine, "deaf", "web", timeout=3, held_units=held)
        assert late["failed"] and "nothing was killed" in late["msg"] and states(engine)["web"] == "exited"
        done = stop(engine, "deaf", "web", held_units=held, force_after=1, allowed_by="Ada")
        assert (done["evidence"]["verdict"], done["result"]["way"], done["result"]["forced"]) == ("yes", "forced", ["deaf"]), done.get(
            "msg"
        )
        time.sleep(2)
        assert states(engine) == {"deaf": "exited", "web": "exited"}
        assert stop(engine, "deaf", "web", held_units=held)["changed"] is False


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
