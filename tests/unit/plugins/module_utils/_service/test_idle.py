# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
import collections
import json
import os
import socket
import sys
import threading

import pytest

from ansible_collections.sunset.crm.plugins.module_utils._service import idle as service_idle

Answer = collections.namedtuple("Answer", "rc out err")
KEY = "ab" * 32
QEMU = ["/usr/bin/qemu-system-x86_64", "-name", "guest=web1,debug-threads=on", "-S"]


def names(rows):
    return [(row["kind"], row["name"]) for row in rows]


@pytest.mark.parametrize(
    "comm, argv, expected",
    [
        ("qemu-system-x86", QEMU, ("machine", "web1")),
        ("kvm", ["/usr/bin/kvm", "-id", "100", "-name", "db,debug-threads=on"], ("machine", "db")),
        ("CPU 0/KVM", ["/usr/libexec/qemu-kvm", "-name", "guest=x"], ("machine", "x")),
        ("qemu-system-arm", ["qemu-system-arm"], ("machine", "without a name")),
        ("containerd-shim", ["/usr/bin/containerd-shim-runc-v2", "-namespace", "moby", "-id", KEY], ("container", KEY[:12])),
        ("conmon", ["/usr/bin/conmon", "--api-version", "1", "-c", KEY, "-n", "shop"], ("podman", "shop")),
        ("lxc-start", ["lxc-start", "-F", "-n", "200"], ("lxc", "200")),
        ("3", ["[lxc monitor] /var/snap/lxd/common/lxd/containers c1"], ("lxc", "c1")),
        ("systemd-nspawn", ["systemd-nspawn", "--machine", "old"], ("nspawn", "old")),
        ("VBoxHeadless", ["VBoxHeadless"], ("virtualbox", "without a name")),
    ],
)
def test_a_process_that_is_or_holds_a_guest(comm, argv, expected):
    assert names([service_idle.of_process(comm, argv)]) == [expected]


@pytest.mark.parametrize(
    "comm, argv",
    [
        ("kvm-nx-lpage-re", []),
        ("qemu-nbd", ["qemu-nbd", "x"]),
        ("bash", ["bash", "-name", "kvm"]),
        ("dockerd", ["dockerd"]),
        ("vhost-1", []),
    ],
)
def test_what_is_no_guest(comm, argv):
    assert service_idle.of_process(comm, argv) is None


def test_answers_of_engines():
    rows = service_idle.parse_docker(json.dumps([{"Id": KEY, "Names": ["/shop-db"]}]))
    assert (names(rows), rows[0]["key"]) == ([("container", "shop-db")], KEY)
    assert names(service_idle.parse_virsh("web1\nmail server\n\n")) == [("machine", "web1"), ("machine", "mail server")]
    qm = (
        "      VMID NAME                 STATUS     MEM(MB)    BOOTDISK(GB) PID\n"
        "       100 web                  running    2048              32.00 1234\n"
        "       101 stopped-one          stopped    2048              32.00 0\n"
        "       102 held                 paused     2048              32.00 99\n"
    )
    assert names(service_idle.parse_qm(qm)) == [("machine", "web"), ("machine", "held")]
    pct = "VMID       Status     Lock         Name\n200        running                 files\n201        stopped    backup       old\n"
    assert names(service_idle.parse_pct(pct)) == [("lxc", "files")]
    assert names(service_idle.parse_podman(json.dumps([{"Id": KEY, "Names": ["pod"]}]))) == [("podman", "pod")]
    assert service_idle.parse_podman("null") == []
    assert names(service_idle.parse_xl("Name ID Mem VCPUs State Time\nDomain-0 0 1 1 r 1\nweb 3 1 1 b 1\n")) == [("xen", "web")]
    assert names(service_idle.parse_machinectl("qemu-1-web vm libvirt-qemu - - -\n.host host - - -\n")) == [("machine", "web")]


@pytest.mark.parametrize(
    "parse, text", [(service_idle.parse_docker, "{}"), (service_idle.parse_qm, "x\nnonsense"), (service_idle.parse_pct, "x\ny")]
)
def test_an_answer_that_cannot_be_read_is_not_an_empty_one(parse, text):
    with pytest.raises(ValueError):
        parse(text)


def told(running, **answers):
    def run(argv):
        return answers.get(argv[0], Answer(127, "", "no such file"))

    return service_idle.answers(run, set(running))


def test_an_engine_whose_daemon_does_not_run_is_not_asked():
    seen, asked, unknown = told([], virsh=Answer(0, "web1\n", ""), qm=Answer(0, "", ""))
    assert (seen, asked, unknown) == ([], [], [])


def test_an_engine_that_runs_and_gives_no_answer_is_unknown():
    seen, asked, unknown = told(["libvirtd"], virsh=Answer(1, "", "error: failed to connect"))
    assert (seen, asked) == ([], [])
    assert unknown == ["libvirt does not tell what runs: error: failed to connect"]
    assert told(["virtqemud"])[2] == ["libvirt runs here and there is no virsh to ask it"]
    assert told(["pmxcfs"], qm=Answer(124, "", ""))[2][0].startswith("proxmox machines does not tell what runs: exit code 124")
    assert told([], podman=Answer(125, "", "Error: cannot"))[2] == ["podman does not tell what runs: Error: cannot"]


def test_an_engine_that_answers_none():
    assert told(["libvirtd"], virsh=Answer(0, "\n", "")) == ([], ["libvirt"], [])


def test_a_guest_seen_by_both_signs_is_one_and_one_sign_is_enough():
    engine = [service_idle.guest("container", "shop", "docker", KEY)]
    kernel = [service_idle.guest("container", KEY[:12], "process", KEY), service_idle.guest("machine", "hidden", "process")]
    found = service_idle.judge(engine, kernel, [], [])
    assert (found["running"], found["guests"]) == ("yes", ["container shop (docker)", "machine hidden (process)"])
    assert service_idle.judge([], kernel, ["podman is hung"], ["hidden", KEY[:12]])["running"] == "unknown"
    none = service_idle.judge(engine, kernel[:1], [], ["shop"])
    assert (none["running"], none["guests"], none["excused"]) == ("no", [], ["shop"])
    assert service_idle.judge([], [], [], [])["running"] == "no"


class Engine:
    """A socket that answers one request as dockerd would, or in another way."""

    def __init__(self, path, answer):
        self.server = socket.socket(socket.AF_UNIX)
        self.server.bind(path)
        self.server.listen(1)
        self.answer = answer
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        client = self.server.accept()[0]
        client.recv(65536)
        client.sendall(self.answer)
        client.close()


def test_docker_is_asked_where_its_daemon_runs_here(tmp_path):
    body = json.dumps([{"Id": KEY, "Names": ["/one"]}]).encode("ascii")
    path = str(tmp_path / "a")
    Engine(path, b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
    # The way to an engine on another machine is a socket without a dockerd.
    assert service_idle.docker_answers({"systemd"}, [path]) == ([], [], [])
    seen, asked, unknown = service_idle.docker_answers({"dockerd"}, [path])
    assert (names(seen), asked, unknown) == ([("container", "one")], ["docker"], [])
    for number, answer in enumerate([b"", b"HTTP/1.1 500 no\r\nContent-Length: 0\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n<html>"]):
        path = str(tmp_path / str(number))
        Engine(path, answer)
        assert "does not tell what runs" in service_idle.docker_answers({"dockerd"}, [path])[2][0]
    assert "does not tell what runs" in service_idle.docker_answers({"dockerd"}, [str(tmp_path / "none")])[2][0]
    assert service_idle.docker_answers({"dockerd"}, [])[2] == ["dockerd runs here and none of its sockets was found"]


LITTLE = pytest.mark.skipif(sys.byteorder != "little", reason="the samples were taken on a little-endian machine")


@LITTLE
def test_sessions_of_other_hosts_are_told_from_this_hosts_own():
    table = "sl\n" + "\n".join(
        [
            "0: 0100007F:1538 00000000:0000 0A x",
            "1: 050200C0:1538 070200C0:D431 01 x",  # 192.0.2.5 <- 192.0.2.7
            "2: 0100007F:1538 0100007F:D432 01 x",
            "3: 050200C0:1538 050200C0:D433 01 x",  # to itself over its own address
            "4: 050200C0:0016 070200C0:D434 01 x",  # ssh
            "5: 050200C0:1538 080200C0:D435 06 x",  # is over
        ]
    )
    rows = service_idle.parse_established(table)
    assert service_idle.foreign(rows, [5432]) == ["192.0.2.7 on port 5432"]
    assert service_idle.foreign(rows, []) == []
    assert service_idle.foreign([("::ffff:192.0.2.5", 5432, "::ffff:192.0.2.9")], [5432]) == ["192.0.2.9 on port 5432"]


def test_a_server_that_nobody_planned_is_seen_by_its_user():
    listening = [
        {"proto": "tcp", "address": "0", "port": 3306, "uid": 105, "inode": 1},
        {"proto": "tcp", "address": "0", "port": 22, "uid": 0, "inode": 2},
    ]
    connections = [("192.0.2.5", 3306, "192.0.2.9"), ("192.0.2.5", 22, "192.0.2.9")]
    found = service_idle.sessions([], [("mariadbd", 105), ("sshd", 0)], listening, connections)
    assert found == {"servers": ["mariadbd"], "ports": [3306], "sessions": ["192.0.2.9 on port 3306"]}


def test_this_very_machine_can_be_looked_at():
    found = service_idle.look(lambda argv: Answer(127, "", ""), [], [])
    assert found["running"] in ("yes", "no", "unknown")
    if os.geteuid() != 0:
        assert found["unknown"]
