# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
import json

import pytest

from ansible_collections.sunset.crm.plugins.module_utils._service import (
    container_engines as service_container_engines,
    units as service_units,
)

START = "ExecStart={ path=/usr/sbin/dockerd ; argv[]=/usr/sbin/dockerd -H fd:// %s ; ignore_errors=no }"


@pytest.mark.parametrize(
    ("info", "config", "command", "verdict"),
    [
        (json.dumps({"LiveRestoreEnabled": True}), None, "", "yes"),
        # The engine's own answer goes before what is written down for its next start.
        (json.dumps({"LiveRestoreEnabled": False}), json.dumps({"live-restore": True}), "", "no"),
        ("", None, "", "unknown"),
        ("[]", None, "", "unknown"),
        (None, None, "", "no"),
        (None, None, START % "--live-restore", "yes"),
        (None, None, START % "--live-restore=false", "no"),
        (None, json.dumps({"live-restore": True}), START % "", "yes"),
        (None, json.dumps({"log-driver": "journald"}), START % "", "no"),
        (None, "{broken", START % "", "unknown"),
        (None, "[]", START % "", "unknown"),
    ],
)
def test_live_restore_is_yes_no_or_unknown(info, config, command, verdict):
    assert service_container_engines.live_restore(info, config, command)[0] == verdict


def unit(active="inactive", file_state="disabled"):
    return {"active": active, "unit_file_state": file_state}


def test_what_brings_an_engine_back():
    told = service_container_engines.ways_back(
        "docker", {"docker.service": unit("active", "enabled"), "docker.socket": unit("active", "enabled")}
    )
    assert [one.split(" ", 2)[:2] for one in told] == [["docker.service", "is"], ["docker.socket", "listens:"], ["docker.socket", "is"]]
    assert (
        service_container_engines.ways_back("docker", {"docker.service": unit("active"), "containerd.service": unit("active", "enabled")})
        == []
    )


def test_units_that_do_not_exist_are_none():
    rows = {
        "docker.service": {"LoadState": "loaded", "ActiveState": "active", "UnitFileState": "enabled"},
        "docker.socket": {"LoadState": "not-found"},
    }
    assert service_container_engines.units_of(rows) == {"docker.service": unit("active", "enabled")}


@pytest.mark.parametrize(
    ("units", "running", "live", "words"),
    [
        (["docker.service"], {"docker": ["shop-web"]}, "yes", "live restore is on"),
        (["docker.socket", "docker.service"], {"docker": ["shop-web"]}, "no", "would kill each"),
        (["containerd.service"], {"docker": ["shop-web"]}, "unknown", "unknown whether"),
        (["podman.service"], {"podman": ["shop-web"]}, "no", "run on without their engine"),
    ],
)
def test_an_engine_is_not_stopped_from_under_its_containers(units, running, live, words):
    told = service_container_engines.problem_of_stopping(units, running, live)
    assert words in told and "shop-web" in told and "kind: container" in told


def test_other_units_and_engines_without_containers_may_be_stopped():
    assert service_container_engines.problem_of_stopping(["web.service"], {"docker": ["a"]}, "yes") is None
    assert service_container_engines.problem_of_stopping(["docker.service"], {"podman": ["a"]}, "yes") is None
    assert service_container_engines.problem_of_stopping(["docker.service"], {"docker": []}, "yes") is None
    # What only starts containers at boot holds none.
    assert service_container_engines.problem_of_stopping([service_container_engines.RESTARTER], {"podman": ["a"]}, "yes") is None


def test_what_runs_on_without_its_engine_is_named():
    assert service_container_engines.left_running(["docker.service"], {"docker": ["b", "a"], "podman": ["c"]}) == ["a", "b"]
    assert service_container_engines.left_running(["web.service"], {"docker": ["a"]}) == []


def test_the_restarter_is_kept_off_without_its_stop_command():
    """podman-restart.service stops every container when it is stopped, each killed after ten seconds."""
    former = {"active": "active", "unit_file_state": "enabled"}
    text = service_units.drop_in_text("application:crm", former, service_container_engines.RESTARTER)
    assert text.endswith("[Service]\nExecStop=\n") and service_units.parse_former(text) == former
    assert service_units.whole_hold(text, service_container_engines.RESTARTER)
    # One that an older version wrote is written anew.
    assert not service_units.whole_hold(service_units.drop_in_text("application:crm", former), service_container_engines.RESTARTER)
    assert service_units.whole_hold(service_units.drop_in_text("application:crm", former), "web.service")
