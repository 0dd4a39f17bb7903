# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A way to the engine that spoils answers, and a controller in a process of its own that can be killed."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

GARBAGE = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9\r\nConnection: close\r\n\r\n{"oops": '


class Spoiler:
    """A unix socket before the engine's. fault: late, garbage, cut, hang; for the requests that match, so many times.

    Each of them reaches the engine whole and is carried out; what is spoilt is the answer.
    """

    def __init__(self, folder: Path, engine: str, fault: str, matching: str, times: int = 1) -> None:
        self.address, self.engine, self.fault, self.matching, self.left = str(folder / "p"), engine, fault, re.compile(matching), times
        self.hit = threading.Event()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.address)
        self._listener.listen(16)
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _name = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            while True:
                request = self._request(client)
                if not request:
                    return
                # One connection to the engine for each request: its answer then ends with the connection.
                with socket.socket(socket.AF_UNIX) as engine:
                    engine.connect(self.engine)
                    engine.sendall(request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1))
                    answer = b""
                    while True:
                        data = engine.recv(65536)
                        if not data:
                            break
                        answer += data
                line = request.split(b"\r\n", 1)[0].decode()
                if self.left and self.matching.search(line):
                    self.left -= 1
                    self.hit.set()
                    if self.fault == "late":
                        time.sleep(3)
                    elif self.fault == "hang":
                        time.sleep(600)
                    else:
                        client.sendall(GARBAGE if self.fault == "garbage" else b"")
                        return
                client.sendall(answer)
                return

    @staticmethod
    def _request(client: socket.socket) -> bytes:
        seen = b""
        while b"\r\n\r\n" not in seen:
            data = client.recv(65536)
            if not data:
                return b""
            seen += data
        head, _end, body = seen.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: *(\d+)", head)
        while length and len(body) < int(length.group(1)):
            body += client.recv(65536)
        head = re.sub(rb"(?i)\r\nconnection:[^\r]*", b"", head)
        return head + b"\r\n\r\n" + body


def remembered(book: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Former state and requests, of the lines that earlier runs have written."""
    former: dict[str, Any] = {}
    asked: dict[str, Any] = {}
    for line in book.read_text().splitlines() if book.exists() else ():
        note = json.loads(line)
        if note["kind"] == "found":
            former = note["former"]
        else:
            asked[note["guest"]] = {"life": note["life"], "at": note["at_seconds"]}
    return former, asked


def stop(address: str, label: str, names: list[str], book: Path, timeout: float = 60) -> dict[str, Any]:
    """One run of the controller; what it knows of earlier ones lies in the book."""
    from ansible_collections.sunset.crm.plugins.plugin_utils.actions.account import Account
    from ansible_collections.sunset.crm.plugins.plugin_utils.docker.engine import Engine
    from ansible_collections.sunset.crm.plugins.plugin_utils.guests import verbs as guest_verbs

    def note(found: dict[str, Any]) -> None:
        with book.open("a") as lines:
            lines.write(json.dumps(found) + "\n")

    former, asked = remembered(book)
    with Engine(address, label, asked=asked) as engine:
        memory = guest_verbs.Memory(former, asked, note)
        return guest_verbs.stop(engine, Account("docker_guests", "container:t"), guest_verbs.Order(names, timeout=timeout), memory, False)


if __name__ == "__main__":
    stop(sys.argv[1], sys.argv[2], sys.argv[4:], Path(sys.argv[3]))
