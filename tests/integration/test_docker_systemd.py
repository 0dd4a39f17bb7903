# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Engines under systemd, on a host that is rebooted: Docker behind its socket and with live restore, Podman with Quadlet and units of its own."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from ansible_collections.sunset.crm.plugins.action import guest_survey
from ansible_collections.sunset.crm.plugins.plugin_utils import relay
from ansible_collections.sunset.crm.plugins.plugin_utils.docker import podman as docker_podman, verbs as docker_verbs, way as docker_way
from ansible_collections.sunset.crm.plugins.plugin_utils.docker.engine import Engine
from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.guests import guests, verbs as guest_verbs
from tests.integration.engine_acts import LABEL, OBEYS, item
from tests.integration.engine_host import DOCKER, PODMAN, EngineHost, sdk
from tests.integration.host_container import Failed
from tests.lab.image import mini_image

APP = "application:crm"
ENGINE: list[dict[str, Any]] = [{"unit": "docker.service"}]
QUADLET = f"""[Container]
ContainerName=quad
Image=localhost/{mini_image()}
Exec=/bin/sh -c "{OBEYS}"
Label={LABEL}
[Service]
Restart=always
[Install]
WantedBy=multi-user.target
"""


@pytest.fixture(scope="module")
def host() -> Iterator[EngineHost]:
    with EngineHost(f"ste-engines-{os.getpid()}") as one:
        yield one


@contextlib.contextmanager
def engine(host: EngineHost, path: str, **opening: Any) -> Iterator[Engine]:
    with (
        relay.Relay(host.reach, path) as way,
        Engine(way.address, LABEL, way=way, owners=partial(docker_way.owners, host.reach), **opening) as opened,
    ):
        yield opened


def stop(host: EngineHost, path: str, *names: str, engines: Any = None, **opening: Any) -> dict[str, Any]:
    """As the action does it."""
    docker_way.check_awake(host.reach, path)
    with engine(host, path, **opening) as opened:
        memory = guest_verbs.Memory({}, {}, lambda _note: None)
        return docker_verbs.stop(opened, item(), guest_verbs.Order(names, timeout=60), memory, False, engines)


def start(host: EngineHost, path: str, former: dict[str, Any], **opening: Any) -> dict[str, Any]:
    with engine(host, path, **opening) as opened:
        return docker_verbs.start(opened, item(), former, 60, False)


def survey(host: EngineHost) -> dict[str, Any]:
    declared = [{"kind": "container", "name": "shop", "label": LABEL, "staging": "/srv"}]
    found: dict[str, Any] = host.module("host_survey", items=declared)["survey"]["engines"]
    return found


@pytest.fixture
def shop(host: EngineHost) -> Iterator[str]:
    """A container of Docker that always comes back."""
    host.shell("systemctl -q start docker.service")
    with relay.Relay(host.reach, DOCKER) as way, contextlib.closing(sdk(way)) as api:
        settings = api.create_host_config(network_mode="none", restart_policy={"Name": "always"})
        made = api.create_container(mini_image(), ["/bin/sh", "-c", OBEYS], name="shop-web", labels={"crm": "shop"}, host_config=settings)
        api.start(made["Id"])
        host.heed(int(api.inspect_container(made["Id"])["State"]["Pid"]))
    yield "shop-web"
    host.shell("rm -f /etc/docker/daemon.json; systemctl -q restart docker.service")
    with relay.Relay(host.reach, DOCKER) as way, contextlib.closing(sdk(way)) as api:
        api.remove_container("shop-web", force=True)


def test_an_engine_that_sleeps_behind_its_socket_is_surveyed_without_being_woken(host: EngineHost, shop: str) -> None:
    awake = survey(host)["docker"]
    assert (awake["runs"], awake["live_restore"], awake["known_by"]) == ("yes", "no", "the engine's own answer")
    assert "docker.socket listens: the next call on its socket starts the engine" in awake["comes_back"]
    assert "docker.service is enabled: it is there again after a boot" in awake["comes_back"]

    host.shell("systemctl -q stop docker.service")
    asleep = survey(host)["docker"]
    assert (asleep["runs"], asleep["live_restore"]) == ("no", "no") and "default" in asleep["known_by"]
    for _again in range(2):
        with pytest.raises(Refusal, match=r"docker.service is down and docker.socket listens in its place.*systemctl start docker.service"):
            stop(host, DOCKER, shop)
        assert host.active("docker.service") == "inactive" and host.held() == []
    # The trap: any question starts the engine, and what always comes back.
    with engine(host, DOCKER) as opened:
        assert [guest.power for guest in opened.observe()] == ["on"]
    assert host.active("docker.service") == "active"


def test_the_unit_of_an_engine_is_not_stopped_from_under_its_containers(host: EngineHost, shop: str) -> None:
    with pytest.raises(Failed, match=f"still run: {shop}; the engine's own stop would kill each") as caught:
        host.module("service_state", item=APP, services=ENGINE)
    assert "kind: container" in str(caught.value) and host.active("docker.service") == "active"

    host.write("/etc/docker/daemon.json", '{"live-restore": true}')
    host.shell("systemctl -q reload docker.service")
    host.wait(lambda: survey(host)["docker"]["live_restore"] == "yes")
    with pytest.raises(Failed, match="live restore is on"):
        host.module("service_state", item=APP, services=ENGINE)
    # The trap: the unit is dead, no process is left in it, and the container runs.
    host.shell("systemctl -q stop docker.socket docker.service")
    assert host.active("docker.service") == "inactive" and host.held() == ["containerd-shim"]
    idle = host.module("host_idle")["idle"]
    assert idle["running"] == "yes" and idle["guests"][0].startswith("container "), idle
    asleep = survey(host)["docker"]
    assert (asleep["runs"], asleep["live_restore"], asleep["known_by"]) == ("no", "yes", "/etc/docker/daemon.json")
    with pytest.raises(Failed, match="live restore is on"):
        host.module("service_state", item=APP, services=ENGINE)
    host.shell("systemctl -q start docker.socket docker.service")

    seen = survey(host)
    done = stop(host, DOCKER, shop, engines=seen)
    assert (done["evidence"]["verdict"], done["result"]["way"]) == ("yes", "graceful"), done.get("msg")
    assert done["result"]["engine"]["live_restore"] == "yes" and done["result"]["engine"]["comes_back"] == seen["docker"]["comes_back"]
    held = host.module("service_state", item=APP, services=ENGINE)
    assert (held["changed"], sorted(held["result"]["dead"])) == (True, ["docker.service", "docker.socket"])
    assert [host.active(unit) for unit in held["result"]["dead"]] == ["inactive", "inactive"] and host.held() == []
    assert survey(host)["docker"]["comes_back"] == ["docker.service is enabled: it is there again after a boot",
                                                    "docker.socket is enabled: it is there again after a boot"]  # fmt: skip
    assert host.module("service_state", item=APP, services=ENGINE)["changed"] is False
    host.module("service_state", item=APP, state="started", services=ENGINE, former=held["result"]["former"])
    assert (host.active("docker.service"), host.active("docker.socket")) == ("active", "active")
    # The engine is back, and brings nothing back.
    assert host.held() == []
    back = start(host, DOCKER, done["result"]["former"])
    assert back["evidence"]["verdict"] == "yes" and host.held() == ["containerd-shim"], back.get("msg")


def test_containers_of_systemd_units_and_quadlet_stop_with_their_units_and_come_back_with_them(host: EngineHost) -> None:
    """Podman: whoever stops the container of a unit sees it come back. A reboot in between brings nothing back; a resume brings back all."""
    make = f'podman create --name %s --label {LABEL} %s localhost/{mini_image()} /bin/sh -c "$script"'
    host.shell(
        f"script={OBEYS!r}; {make % ('gen', '')}; {make % ('plain', '--restart always')}; podman start plain;"
        "cd /etc/systemd/system; podman generate systemd --files --name --restart-policy=always gen >/dev/null 2>&1;"
        "systemctl -q daemon-reload; systemctl -q enable --now container-gen.service; systemctl -q enable --now podman-restart.service"
    )
    host.write("/etc/containers/systemd/quad.container", QUADLET)
    host.shell("systemctl -q daemon-reload; systemctl -q start quad.service")
    assert host.podman() == {"gen": "running", "plain": "running", "quad": "running"}
    units = [{"unit": "quad.service"}, {"unit": "container-gen.service"}, {"unit": docker_podman.RESTARTER}]
    held = [str(one["unit"]) for one in units]

    with engine(host, PODMAN) as opened:
        seen = guest_survey.expected({"label": LABEL, "name": "shop"}, opened.inspects(), [])
    owned = seen["identity"]["units"]
    assert {name: one["unit"] for name, one in owned.items()} == {"quad": "quad.service", "gen": "container-gen.service"}
    with pytest.raises(Refusal, match=r"quad: the systemd unit quad.service runs it and would start it again; declare quad.service"):
        stop(host, PODMAN, "gen", "plain", "quad")
    assert set(host.podman().values()) == {"running"}
    # The trap: a container that is stopped without its unit is back at once.
    host.shell("podman stop -t 5 gen quad >/dev/null")
    host.wait(lambda: host.podman() == {"gen": "running", "plain": "running", "quad": "running"})
    host.podman_heeds("gen", "plain", "quad")

    dead = host.module("service_state", item=APP, services=units)
    # podman-restart.service would have stopped plain as well: that has its own turn.
    assert host.podman() == {"gen": "exited", "plain": "running"} and host.active(docker_podman.RESTARTER) == "inactive"
    assert {unit: row["ended"] for unit, row in dead["result"]["dead"].items()}["quad.service"] == "graceful", dead["result"]
    done = stop(host, PODMAN, "gen", "plain", "quad", held_units=held, owned=owned, engines=survey(host))
    assert done["evidence"]["verdict"] == "yes", done.get("msg")
    rows = done["result"]["guests"]
    assert {name: row["how"] for name, row in rows.items()} == {
        "gen": guests.ALREADY_OFF, "plain": guests.BY_ITSELF, "quad": guests.ALREADY_OFF,
    }  # fmt: skip
    assert "quad.service removed it" in rows["quad"]["detail"] and done["result"]["engine"]["live_restore"] == "yes"
    again = stop(host, PODMAN, "gen", "plain", "quad", held_units=held, owned=owned)
    assert again["changed"] is False and host.module("service_state", item=APP, services=units)["changed"] is False

    host.reboot()
    time.sleep(1)
    assert host.held() == [] and set(host.podman().values()) == {"exited"}
    host.shell("systemctl -q start podman.socket")
    assert stop(host, PODMAN, "gen", "plain", "quad", held_units=held, owned=owned)["changed"] is False

    host.module("service_state", item=APP, state="started", services=units, former=dead["result"]["former"])
    back = start(host, PODMAN, done["result"]["former"], held_units=held, owned=owned)
    assert back["result"]["left_to_units"] == {"gen": "container-gen.service", "quad": "quad.service"}, back.get("msg")
    assert host.podman() == {"gen": "running", "plain": "running", "quad": "running"}
    assert host.active("quad.service") == "active" and host.active(docker_podman.RESTARTER) == "active"


def test_engines_that_are_not_handled_are_findings_that_no_classification_settles(host: EngineHost) -> None:
    """By a process as well as by what lies on the disk; the firmware of the machine outside is not taken for the host's."""
    host.shell(
        "cp /bin/sleep /usr/local/bin/kubelet; systemd-run -q --unit kubelet-test /usr/local/bin/kubelet 600; mkdir -p /var/lib/incus"
    )
    host.shell("python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"/var/lib/incus/unix.socket\")'")
    try:
        seen = host.module("host_survey", items=[])["survey"]["findings"]
    finally:
        host.shell("systemctl -q stop kubelet-test; rm -rf /var/lib/incus")
    found = {one["id"]: one for one in seen if one.get("foreign")}
    assert sorted(found) == ["engine:incus", "engine:kubernetes"]
    assert "(kubelet)" in found["engine:kubernetes"]["what"] and "/var/lib/incus/unix.socket" in found["engine:incus"]["what"]
    # One that is driven is a finding of the usual kind: to be planned, or classified.
    assert "service:docker" in {one["id"] for one in seen}
