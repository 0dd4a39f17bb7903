# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
import os
import socket
import sys

import pytest

from ansible_collections.sunset.crm.plugins.module_utils._service import proc as service_proc

ANY = ".".join("0000")
HEADER = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
LITTLE = pytest.mark.skipif(sys.byteorder != "little", reason="the samples were taken on a little-endian machine")
CONTAINER = "3" * 64


@LITTLE
@pytest.mark.parametrize(
    "text, expected",
    [
        ("0100007F:1538", ("127.0.0.1", 5432)),
        ("00000000:0050", (ANY, 80)),
        ("00000000000000000000000001000000:0016", ("::1", 22)),
        ("0000000000000000FFFF00000100007F:0016", ("::ffff:127.0.0.1", 22)),
    ],
)
def test_addresses(text, expected):
    assert service_proc.decode_address(text) == expected


@LITTLE
def test_only_listening_sockets_count():
    rows = [
        "   0: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000   905        0 4711 1 x",
        "   1: 0100007F:1F90 0100007F:D431 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 x",
        "   2: 0100007F:D431 0100007F:1F90 06 00000000:00000000 00:00000000 00000000     0        0 0 1 x",
        "broken line",
    ]
    found = service_proc.parse_listeners(HEADER + "\n".join(rows), "tcp")
    assert found == [{"proto": "tcp", "address": ANY, "port": 8080, "uid": 905, "inode": 4711}]


@LITTLE
def test_udp_with_a_peer_does_not_listen():
    rows = [
        "   0: 00000000:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 11 2 x",
        "   1: 0100007F:9C40 0100007F:0035 01 00000000:00000000 00:00000000 00000000     0        0 12 2 x",
    ]
    assert [row["inode"] for row in service_proc.parse_listeners(HEADER + "\n".join(rows), "udp6")] == [11]


def test_a_real_listener_is_seen_with_its_owner():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        one.listen(1)
        port = one.getsockname()[1]
        rows = service_proc.listening_on([port], service_proc.listeners()[0])
        assert [(row["address"], row["uid"]) for row in rows] == [("127.0.0.1", os.getuid())]
        assert service_proc.socket_owners([rows[0]["inode"]]) == {rows[0]["inode"]: os.getpid()}


@pytest.mark.parametrize(
    "text, path",
    [
        ("12:pids:/a\n1:name=systemd:/system.slice/x.service\n0::/elsewhere\n", "/system.slice/x.service"),
        ("0::/system.slice/x.service\n", "/system.slice/x.service"),
        ("1:name=systemd:/a:b\n", "/a:b"),
        ("5:cpu:/a\n", None),
        ("", None),
    ],
)
def test_cgroup_path_on_both_versions(text, path):
    assert service_proc.cgroup_path(text) == path


@pytest.mark.parametrize(
    "path, unit",
    [
        ("/system.slice/crm-web.service", "crm-web.service"),
        ("/system.slice/crm-web.service/worker", "crm-web.service"),
        ("/system.slice/system-postgresql.slice/postgresql@15-main.service", "postgresql@15-main.service"),
        ("/user.slice/user-1000.slice/session-4.scope", "session-4.scope"),
        ("/user.slice/user-1000.slice/user@1000.service/app.slice/x.service", "user@1000.service:x.service"),
        ("/user.slice/user-1000.slice/user@1000.service/init.scope", "user@1000.service:init.scope"),
        ("/docker/" + CONTAINER, "docker:" + "3" * 12),
        ("/system.slice/docker-" + CONTAINER + ".scope", "docker:" + "3" * 12),
        ("/docker/" + CONTAINER + "/system.slice/inner.service", "inner.service"),
        ("/system.slice/_odd.service", "odd.service"),
        ("/user.slice", None),
        ("/", None),
    ],
)
def test_unit_of_a_path(path, unit):
    assert service_proc.unit_of_path(path) == unit


def test_a_host_that_is_a_container_counts_from_its_own_init():
    own = "/docker/" + CONTAINER
    assert service_proc.relative_cgroup(own + "/system.slice/x.service", own + "/init.scope") == "/system.slice/x.service"
    assert service_proc.relative_cgroup(own, own + "/init.scope") == "/"
    assert service_proc.relative_cgroup("/system.slice/x.service", "/init.scope") == "/system.slice/x.service"
    assert service_proc.relative_cgroup("/elsewhere", own + "/init.scope") == "/elsewhere"
    assert service_proc.unit_of_path(service_proc.relative_cgroup(own, own + "/init.scope")) is None


def test_processes_are_described_shortly():
    rows = [{"pid": number, "comm": "worker"} for number in range(1, 8)]
    assert service_proc.describe_processes(rows, limit=2) == "1 worker, 2 worker and 5 more"
    assert service_proc.describe_processes([]) == ""
