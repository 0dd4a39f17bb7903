# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A FAKE write-once store: a small HTTP server before moto that refuses what object lock forbids, and faults on demand.

moto keeps objects and versions, but shortens locks and takes wrong checksums. This fake says no to that, in the words of the
S3 protocol, and shows that the five probes can hold. It is no evidence about any real store: none was met so far.
Its key may do everything that a lock does not forbid, past governance as well, unless a hole says otherwise.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from moto.server import ThreadedMotoServer

DENIED = (403, "AccessDenied", "Access Denied because object protected by object lock.")
NO_RIGHTS = (403, "AccessDenied", "Access Denied")


@dataclass
class Faults:
    """holes: what the fake lets pass to moto, or what its key may not do, lock or no lock. The counters say how often a fault happens, from now on."""

    holes: set[str] = field(default_factory=set)
    cut_after: int = -1  # bytes of bodies taken in before every line is cut
    wrong_bytes: str = ""  # part of a key whose bytes come back altered
    refuse: tuple[int, str, str] | None = None  # every call is answered so
    slow: float = 0.0  # seconds before each body is passed on
    taken: int = 0
    parts: int = 0
    gone: set[str] = field(default_factory=set)  # versions whose deletion a hole let happen


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, *_words: Any) -> None:
        pass

    def _answer(self, status: int, code: str, message: str) -> None:
        if status < 300:
            self.send_response(status)
            self.end_headers()
            return
        text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
        text = b"" if self.command == "HEAD" else text
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.send_header("Content-Type", "application/xml")
        self.end_headers()
        self.wfile.write(text)

    def _serve(self) -> None:
        faults = self.server.faults
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if faults.cut_after >= 0 and faults.taken + len(body) > faults.cut_after and body:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        faults.taken += len(body)
        if faults.slow and len(body) > 1 << 20:
            threading.Event().wait(faults.slow)
        refusal = faults.refuse or self.server.judge(self.command, self.path, dict(self.headers), body)
        if refusal:
            self._answer(*refusal)
            return
        faults.parts += self.command == "PUT" and "partNumber=" in self.path
        status, headers, data = self.server.forward(self.command, self.path, self.server.passed_on(self.command, dict(self.headers)), body)
        if "bytes" in faults.holes and self.command == "GET" and status == 200 and self.path.partition("?")[0].endswith(".canary"):
            data = data[:-1] + bytes([data[-1] ^ 1])  # a store that keeps something else than it was given
        if faults.wrong_bytes and faults.wrong_bytes in self.path and self.command == "GET" and status == 200 and data:
            data = bytes([data[0] ^ 1]) + data[1:]
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in ("transfer-encoding", "connection", "content-length", "server", "date"):
                self.send_header(name, value)
        length = next((value for name, value in headers if name.lower() == "content-length"), "0")
        self.send_header("Content-Length", length if self.command == "HEAD" else str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = _serve


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, behind: tuple[str, int]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behind, self.faults = behind, Faults()

    def handle_error(self, *_words: Any) -> None:
        pass

    def passed_on(self, verb: str, headers: dict[str, str]) -> dict[str, str]:
        """The headers of a call as a store with these holes takes them: its lock may be shorter than asked, or none at all."""
        until = next((name for name in headers if name.lower() == "x-amz-object-lock-retain-until-date"), None)
        if verb != "PUT" or until is None or not {"retention", "retention dropped"} & self.faults.holes:
            return headers
        if "retention dropped" in self.faults.holes:
            return {name: value for name, value in headers.items() if not name.lower().startswith("x-amz-object-lock-")}
        return {**headers, until: "2098" + headers[until][4:]}

    def forward(self, verb: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        line = http.client.HTTPConnection(*self.behind, timeout=60)
        try:
            line.request(verb, path, body, {name: value for name, value in headers.items() if name.lower() not in ("host", "expect")})
            answer = line.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            line.close()

    def _lock(self, path: str, headers: dict[str, str]) -> tuple[str, str]:
        """Mode and date that moto holds for this object now; empty where there is no lock."""
        signed = {name: value for name, value in headers.items() if name.lower() in ("authorization", "x-amz-date")}
        url = urlsplit(path)
        version = parse_qs(url.query).get("versionId", [""])[0]
        _status, found, _data = self.forward("HEAD", f"{url.path}?versionId={version}", signed, b"")
        told = {name.lower(): value for name, value in found}
        return told.get("x-amz-object-lock-mode", ""), told.get("x-amz-object-lock-retain-until-date", "")

    def judge(self, verb: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, str, str] | None:
        """The refusal that a write-once store gives to this call; None if it may pass."""
        told, query = {name.lower(): value for name, value in headers.items()}, parse_qs(urlsplit(path).query, keep_blank_values=True)
        holes = self.faults.holes
        bypass = told.get("x-amz-bypass-governance-retention") == "true"
        if ("no rights" in holes and (verb == "DELETE" or (verb == "PUT" and {"retention", "versioning"} & set(query)))) or (
            "no bypass" in holes and bypass
        ):
            return NO_RIGHTS
        if verb == "PUT" and "versioning" in query and "no versioning" in holes:
            return NO_RIGHTS
        if verb == "PUT" and "versioning" in query and b"Suspended" in body and "suspend" not in holes:
            return 409, "InvalidBucketState", "An Object Lock configuration is present on this bucket."
        wanted = told.get("x-amz-checksum-sha256")
        if verb == "PUT" and wanted and "checksum" not in holes and base64.b64encode(hashlib.sha256(body).digest()).decode() != wanted:
            return 400, "BadDigest", "The SHA256 you specified did not match the calculated checksum."
        version = query.get("versionId", [""])[0]
        if version in self.faults.gone:
            return 404, "NoSuchVersion", "The specified version does not exist."
        if verb == "DELETE" and version:
            mode, _until = self._lock(path, headers)
            if mode == "GOVERNANCE" and bypass:
                return None
            if mode and not ("past governance" in holes and bypass) and "delete" not in holes:
                return DENIED
            if mode:
                # moto would refuse: the hole is made here.
                self.faults.gone.add(version)
                return 204, "", ""
        if verb == "PUT" and "retention" in query:
            mode, until = self._lock(path, headers)
            asked = {name: re.search(rf"<{name}>([^<]*)<".encode(), body) for name in ("Mode", "RetainUntilDate")}
            new = {name: match.group(1).decode() for name, match in asked.items() if match}
            if mode == "GOVERNANCE" and bypass:
                return None
            if mode and new.get("RetainUntilDate", "")[:19] < until[:19] and "shorten" not in holes:
                return DENIED
            if mode == "COMPLIANCE" and new.get("Mode") != mode and "downgrade" not in holes:
                return DENIED
        return None


@dataclass
class FakeStore:
    """moto, and the fake before it. worm: the fake's address; plain: moto's own."""

    plain: str
    worm: str
    faults: Faults


@contextmanager
def running() -> Iterator[FakeStore]:
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    try:
        host, port = moto.get_host_and_port()
        server = _Server((host, port))
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield FakeStore(f"http://{host}:{port}", f"http://127.0.0.1:{server.server_address[1]}", server.faults)
        finally:
            server.shutdown()
            server.server_close()
    finally:
        moto.stop()
