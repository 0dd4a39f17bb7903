# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the Docker backend reads out of the engine's answers."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.sunset.crm.plugins.plugin_utils.docker import facts as engine
from ansible_collections.sunset.crm.plugins.plugin_utils.guests.guests import Guest


def inspect(name: str = "shop-db", status: str = "running", labels: dict[str, str] | None = None, **host: Any) -> dict[str, Any]:
    return {
        "Id": f"id-{name}",
        "Name": f"/{name}",
        "Image": "sha256:1",
        "Created": "2026-01-01T00:00:00Z",
        "State": {"Status": status, "ExitCode": 0, "OOMKilled": False, "StartedAt": "s", "FinishedAt": "f"},
        "Config": {"Labels": labels or {}, "Image": "shop:1", "Env": ["PASSWORD=geheim"]},
        "HostConfig": host,
        "Mounts": [],
    }


def test_few_fields_are_read_so_that_what_engines_add_or_leave_out_changes_nothing() -> None:
    """[community.docker changelog] Docker 29 broke readers of ports, addresses and layers; nothing here reads them."""
    labels = {"com.docker.compose.project": "shop", "com.docker.compose.depends_on": "db:service_started:false"}
    old = inspect("shop-web", labels=labels, RestartPolicy={"Name": "always", "MaximumRetryCount": 0})
    old |= {"NetworkSettings": {"IPAddress": "172.17.0.2", "Ports": {"80/tcp": [{"HostPort": "80"}]}}, "GraphDriver": {"Name": "overlay2"}}
    new = inspect("shop-web", labels=labels, RestartPolicy={"Name": "always", "MaximumRetryCount": 0})
    new |= {
        "NetworkSettings": {"Ports": None},
        "ImageManifestDescriptor": {"digest": "sha256:2"},
        "Storage": {"RootFS": {}},
        "Platform": "linux",
    }
    services = {"shop/db": ["shop-db"]}
    assert (
        engine.record_of(old)
        == engine.record_of(new)
        == engine.record_of(inspect("shop-web", labels=labels, RestartPolicy={"Name": "always"}))
    )
    assert engine.needs_of(old, services, {}) == engine.needs_of(new, services, {}) == {"shop-db"}
    assert engine.refusal_of(old) == engine.refusal_of(new) == ""


def test_both_spellings_of_no_policy_are_the_same() -> None:
    assert engine.policy_of(inspect(RestartPolicy={"Name": "", "MaximumRetryCount": 0})) == engine.RESTART_NO
    assert engine.policy_of(inspect()) == engine.RESTART_NO
    assert engine.policy_of(inspect(RestartPolicy={"Name": "on-failure", "MaximumRetryCount": 3}))["MaximumRetryCount"] == 3


@pytest.mark.parametrize(
    "text", ["db:service_started:false,cache:service_healthy:true", "db,cache", "db:service_started, cache:service_healthy"]
)
def test_compose_dependencies_in_every_spelling(text: str) -> None:
    one = inspect("shop-web", labels={"com.docker.compose.project": "shop", "com.docker.compose.depends_on": text})
    services = {"shop/db": ["shop-db"], "shop/cache": ["shop-cache-1", "shop-cache-2"], "other/db": ["other-db"]}
    assert engine.needs_of(one, services, {}) == {"shop-db", "shop-cache-1", "shop-cache-2"}


def test_links_networks_and_volumes_make_dependencies() -> None:
    one = inspect("web", Links=["/db:/web/db"], NetworkMode="container:id-vpn", VolumesFrom=["id-data:ro"])
    assert engine.needs_of(one, {}, {"id-vpn": "vpn", "id-data": "data"}) == {"db", "vpn", "data"}


def test_no_dependencies_is_an_empty_label() -> None:
    assert engine.needs_of(inspect(labels={"com.docker.compose.depends_on": ""}), {}, {}) == frozenset()


@pytest.mark.parametrize("label", [*sorted(engine.OWNERS), "com.docker.swarm.service.name", "PODMAN_SYSTEMD_UNIT"])
def test_containers_of_other_masters_are_refused(label: str) -> None:
    assert label in engine.refusal_of(inspect(labels={label: "x"}))


def test_half_removed_and_vanishing_containers_are_refused() -> None:
    assert "half removed" in engine.refusal_of(inspect(status="dead"))
    assert "--rm" in engine.refusal_of(inspect(AutoRemove=True))
    assert engine.refusal_of(inspect(AutoRemove=True, status="created")) == ""
    assert engine.refusal_of(inspect()) == ""


def test_the_environment_never_enters_the_evidence() -> None:
    assert "geheim" not in repr(engine.record_of(inspect()))


def end(code: int, *, before: str = "on", asked: bool = True, forced: bool = False, signals: tuple[str, ...] = ("15",), **rest: Any) -> Any:
    after = {"exit_code": code, "oom_killed": False, "finished": "f", **rest}
    ending = engine.ending_of(Guest("k", "n", before), Guest("k", "n", "off", record=after), asked, forced, signals)
    return ending.how, ending.graceful


def test_how_a_container_ended() -> None:
    assert end(0) == ("by itself", "yes")
    assert end(3) == ("by itself", "yes")
    assert end(143) == ("by itself", "yes")
    assert end(137) == ("unknown", "unknown")
    assert end(137, signals=("15", "9")) == ("by force", "no")
    assert end(137, signals=("15", "SIGKILL")) == ("by force", "no")
    assert end(137, forced=True) == ("by force", "no")
    assert end(0, forced=True) == ("by itself", "yes")
    assert end(137, oom_killed=True) == ("by force", "no")
    assert end(0, asked=False) == ("by itself", "yes")


@pytest.mark.parametrize("code", [255, -1, 139, 134])
def test_an_end_that_nobody_saw_and_a_crash_are_not_called_graceful(code: int) -> None:
    """255 is what Docker writes of a container that was gone when the engine came back, after a power cut too; 139 a segmentation fault."""
    assert end(code) == ("unknown", "unknown")
    assert end(code, before="off") == ("already off", "unknown")
    assert end(code, forced=True) == (("by force", "no") if code in (255, -1) else ("unknown", "unknown"))


def test_a_container_whose_own_stop_signal_is_sigkill_cannot_end_by_itself() -> None:
    """It is the image that says so; the kill is its own request, and nobody else's."""
    before = Guest("k", "n", "on", record={"stop_signal": "SIGKILL"})
    after = Guest("k", "n", "off", record={"exit_code": 137, "oom_killed": False, "finished": "f"})
    ending = engine.ending_of(before, after, True, False, ["9"])
    assert (ending.how, ending.graceful) == ("by force", "no") and "its own stop signal is SIGKILL" in ending.detail


def test_how_a_container_was_off() -> None:
    assert end(0, before="off") == ("already off", "yes")
    assert end(137, before="off") == ("already off", "unknown")
    assert end(0, before="off", finished=engine.NEVER) == ("already off", "yes")
    assert end(137, before="off", oom_killed=True) == ("already off", "no")
    began, earlier, later = (f"2026-11-22T15:12:{second}.396158634Z" for second in (29, 28, 30))
    assert end(0, before="off", started=began, finished=later) == ("already off", "yes")
    assert end(0, before="off", started=engine.NEVER, finished=engine.NEVER) == ("already off", "yes")
    # Its engine has lost what it knew of its last run, or has never seen its end.
    assert end(0, before="off", started=began, finished=engine.NEVER) == ("already off", "unknown")
    assert end(0, before="off", started=began, finished=earlier) == ("already off", "unknown")


def test_repository_names() -> None:
    assert engine.image_name("container:Shop_Übung  1") == "shop-bung-1"
    assert engine.image_name("container:___") == "unnamed"
