# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The way to a host's socket and files, with a shell here in the place of ssh."""

from __future__ import annotations

import http.client
import os
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.sunset.crm.plugins.plugin_utils import relay
from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal


@pytest.fixture
def reach() -> relay.Reach:
    """Another machine, as far as the relay knows; one that greets with a banner."""
    return relay.Reach(argv=lambda line: ["/bin/sh", "-c", f"echo 'Authorised use only'; {line}"], direct=False, name="far")


@pytest.fixture
def echo(tmp_path: Path) -> Iterator[str]:
    """A server on a unix socket that gives back what it got, in capitals, when the client has ended."""
    path = str(tmp_path / "echo")
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen(8)

    def serve() -> None:
        while True:
            try:
                client, _ = server.accept()
            except OSError:
                return
            with client:
                data = b""
                while piece := client.recv(65536):
                    data += piece
                client.sendall(data.upper())

    threading.Thread(target=serve, daemon=True).start()
    yield path
    server.shutdown(socket.SHUT_RDWR)
    server.close()


def talk(address: str, data: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(20)
        client.connect(address)
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        answer = b""
        while piece := client.recv(65536):
            answer += piece
        return answer


def test_streams_pass_whole_and_half_closed(reach: relay.Reach, echo: str) -> None:
    data = b"x" * 3_000_000
    with relay.Relay(reach, echo) as way:
        assert stat.S_IMODE(os.stat(way.address).st_mode) == 0o600
        assert stat.S_IMODE(os.stat(os.path.dirname(way.address)).st_mode) == 0o700
        assert talk(way.address, data) == data.upper()
        assert talk(way.address, b"again") == b"AGAIN"
    assert not os.path.exists(os.path.dirname(way.address))
    assert all(child.poll() is not None for child in way._children)


def test_an_open_client_does_not_keep_the_relay(reach: relay.Reach, echo: str) -> None:
    with relay.Relay(reach, echo) as way:
        client = socket.socket(socket.AF_UNIX)
        client.connect(way.address)
        client.sendall(b"x")
    client.close()
    assert all(child.poll() is not None for child in way._children)


def test_the_complaint_of_the_other_side_is_kept(reach: relay.Reach, tmp_path: Path) -> None:
    with relay.Relay(reach, str(tmp_path / "none")) as way:
        assert talk(way.address, b"") == b""
        for _ in range(100):
            if way.problem():
                break
            threading.Event().wait(0.02)
        assert "No such file or directory" in way.problem()


def test_a_direct_reach_uses_the_socket_itself(echo: str) -> None:
    with relay.Relay(relay.here(), echo) as way:
        assert way.address == echo


def test_without_python_another_program_carries_the_stream(tmp_path: Path) -> None:
    line = relay.relay_line("/a b/docker.sock")
    (tmp_path / "socat").write_text('#!/bin/sh\necho "socat $*"\n')
    (tmp_path / "socat").chmod(0o755)
    # No Python under either name: the line's own loop finds none.
    line = line.replace("for p in python3 /usr/libexec/platform-python /usr/bin/python3", "for p in none")
    reach = relay.Reach(argv=lambda text: ["/usr/bin/env", f"PATH={tmp_path}", "/bin/sh", "-c", text], direct=False, name="far")
    assert relay.call(reach, line) == b"socat - UNIX-CONNECT:/a b/docker.sock\n"


def test_nothing_to_carry_the_stream_is_said(tmp_path: Path) -> None:
    line = relay.relay_line("/x").replace("for p in python3 /usr/libexec/platform-python /usr/bin/python3", "for p in none")
    reach = relay.Reach(argv=lambda text: ["/usr/bin/env", f"PATH={tmp_path}", "/bin/sh", "-c", text], direct=False, name="far")
    with pytest.raises(Refusal, match=r"far: there is no python3 on this host \(exit code 127\)"):
        relay.call(reach, line)


def test_files_are_written_whole_or_not_at_all(reach: relay.Reach, tmp_path: Path) -> None:
    path = str(tmp_path / "staging" / "it's a file")
    done = relay.put(reach, path, [b"abc", b"", b"d" * 100_000])
    assert done["bytes"] == 100_003
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(os.path.dirname(path)).st_mode) == 0o700
    assert relay.digests(reach, [path, "/none"]) == {path: done, "/none": None}
    assert relay.read(reach, path)[:4] == b"abcd"
    assert relay.read(reach, "/none") == b""


def test_a_staging_place_without_a_folder_to_lie_in_is_said(reach: relay.Reach, tmp_path: Path) -> None:
    """Not made by the way: it would come to lie on whatever medium is there."""
    with pytest.raises(
        Refusal, match=f"the staging place {tmp_path}/not/staging has no folder to lie in: make {tmp_path}/not, on a medium"
    ):
        relay.put(reach, str(tmp_path / "not" / "staging" / "f"), [b"x"])
    assert list(tmp_path.iterdir()) == []


def test_a_stream_that_breaks_leaves_no_file(reach: relay.Reach, tmp_path: Path) -> None:
    path = str(tmp_path / "f")

    def chunks() -> Iterator[bytes]:
        yield b"abc"
        raise Refusal("the engine went away")

    with pytest.raises(Refusal, match="the engine went away"):
        relay.put(reach, path, chunks())
    assert not os.path.exists(path)


def test_a_cut_stream_leaves_no_file(tmp_path: Path) -> None:
    path = str(tmp_path / "f")
    cut = relay.Reach(argv=lambda line: ["/bin/sh", "-c", f"head -c 5 | ({line})"], direct=False, name="far")
    with pytest.raises(Refusal, match="the stream was cut"):
        relay.put(cut, path, [b"abcdef"])
    assert list(tmp_path.iterdir()) == [], "no part is left either"


def test_a_full_disk_is_not_left_full(tmp_path: Path) -> None:
    path = str(tmp_path / "f")
    full = relay.Reach(argv=lambda line: ["/bin/sh", "-c", f"ulimit -f 100; trap '' XFSZ; {line}"], direct=False, name="far")
    with pytest.raises(Refusal, match="far: .*/f: File too large"):
        relay.put(full, path, [b"x" * (1 << 20)])
    assert list(tmp_path.iterdir()) == []


def test_a_link_is_not_followed(reach: relay.Reach, tmp_path: Path) -> None:
    (tmp_path / "target").write_text("keep")
    (tmp_path / "f.part").symlink_to(tmp_path / "target")
    with pytest.raises(Refusal):
        relay.put(reach, str(tmp_path / "f"), [b"x"])
    assert (tmp_path / "target").read_text() == "keep"


class Become:
    """A become plugin as ansible-core has them."""

    def __init__(self, user: str = "root", password: str | None = None) -> None:
        self.options = {"become_user": user, "become_pass": password}

    def get_option(self, name: str) -> Any:
        return self.options[name]

    def build_become_command(self, line: str, _shell: Any) -> str:
        return f"sudo -n -u root {line}"


class Connection:
    """The part of a connection plugin that the relay uses."""

    def __init__(self, transport: str = "ssh", become: Become | None = None, **options: Any) -> None:
        self.transport, self.become, self._shell = transport, become, None
        self.options = {"host": "192.0.2.1", "remote_user": "deploy", "password": None, "ssh_executable": "ssh", **options}
        self.host = ""
        self._play_context = type("Context", (), {"password": "", "remote_addr": "192.0.2.1"})()

    def get_option(self, name: str) -> Any:
        return self.options[name]

    def _build_command(self, binary: str, _kind: str, *rest: str) -> list[bytes]:
        return [binary.encode(), b"-o", b"Port=2222", *[part.encode() for part in rest]]


def test_the_connections_own_command_line_is_used() -> None:
    connection = Connection(become=Become())
    reach = relay.from_connection(connection)
    assert reach.argv("echo 'a b'") == ["ssh", "-o", "Port=2222", "192.0.2.1", "sudo -n -u root /bin/sh -c 'echo '\"'\"'a b'\"'\"''"]
    assert (reach.direct, reach.name, connection.host) == (False, "192.0.2.1", "192.0.2.1")


def test_becoming_oneself_is_not_done() -> None:
    assert relay.from_connection(Connection(become=Become("deploy"))).argv("id")[-1] == "/bin/sh -c id"


@pytest.mark.parametrize(
    ("connection", "message"),
    [
        (Connection("docker"), "through ssh and local alone"),
        (Connection(password="x"), "logs in with a password"),
        (Connection(become=Become(password="x")), "takes a password"),
    ],
)
def test_what_cannot_carry_a_stream_is_refused(connection: Connection, message: str) -> None:
    with pytest.raises(Refusal, match=message):
        relay.from_connection(connection)


def test_local_is_direct_unless_another_user_is_needed() -> None:
    assert relay.from_connection(Connection("local")).direct
    assert not relay.from_connection(Connection("local", become=Become())).direct


def test_http_over_the_relay(reach: relay.Reach, tmp_path: Path) -> None:
    """A server that closes first, as HTTP servers do."""
    path = str(tmp_path / "http")
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen(1)

    def serve() -> None:
        client, _ = server.accept()
        with client:
            client.recv(65536)
            client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi")

    threading.Thread(target=serve, daemon=True).start()
    with relay.Relay(reach, path) as way:
        connection = http.client.HTTPConnection("localhost", timeout=20)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(way.address)
        connection.request("GET", "/")
        assert connection.getresponse().read() == b"hi"
        connection.close()
    server.close()
