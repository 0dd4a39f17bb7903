# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""RFC 3161 against a real service: stock OpenSSL behind a web server on the loopback interface."""

from __future__ import annotations

import http.server
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.sunset.crm.plugins.plugin_utils.certificates import timestamps
from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal

CONFIG = """
[req]
distinguished_name = name
[name]
[root]
basicConstraints = critical, CA:TRUE
[stamps]
extendedKeyUsage = critical, timeStamping
[tsa]
default_tsa = this
[this]
serial = {0}/serial
signer_cert = {0}/tsa.pem
certs = {0}/ca.pem
signer_key = {0}/tsa.key
signer_digest = sha256
default_policy = 1.2.3.4.1
digests = sha256
"""


class Service(http.server.ThreadingHTTPServer):
    """A time stamp service. lies: name of what it does wrong."""

    folder: Path
    lies = ""
    asked = 0


class Handler(http.server.BaseHTTPRequestHandler):
    server: Service

    def do_POST(self) -> None:
        folder = self.server.folder
        self.server.asked += 1
        query = folder / f"query{self.server.asked}"
        query.write_bytes(self.rfile.read(int(self.headers["Content-Length"])))
        if self.server.lies == "old":
            query = folder / "query1"
        argv = ["openssl", "ts", "-reply", "-config", str(folder / "conf"), "-queryfile", str(query)]
        body = subprocess.run(argv, check=True, capture_output=True).stdout
        if self.server.lies == "flip":
            body = body[:-20] + bytes([body[-20] ^ 1]) + body[-19:]
        self.send_response(500 if self.server.lies == "500" else 200)
        self.send_header("Content-Type", "text/html" if self.server.lies == "html" else "application/timestamp-reply")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def authority(folder: Path) -> str:
    """A root and a service certificate under it; returns the root as PEM."""
    folder.mkdir(exist_ok=True)
    (folder / "conf").write_text(CONFIG.format(folder))
    (folder / "serial").write_text("01\n")
    new = ["openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-config", str(folder / "conf")]
    for argv in (
        [*new, "-x509", "-days", "2", "-extensions", "root", "-subj", "/CN=root", "-keyout", f"{folder}/ca.key", "-out", f"{folder}/ca.pem"],
        [*new, "-subj", "/CN=tsa", "-keyout", f"{folder}/tsa.key", "-out", f"{folder}/tsa.csr"],
        ["openssl", "x509", "-req", "-in", f"{folder}/tsa.csr", "-CA", f"{folder}/ca.pem", "-CAkey", f"{folder}/ca.key", "-days", "2",
         "-CAcreateserial", "-extfile", str(folder / "conf"), "-extensions", "stamps", "-out", f"{folder}/tsa.pem"],
    ):  # fmt: skip
        subprocess.run(argv, check=True, capture_output=True)
    return (folder / "ca.pem").read_text()


@pytest.fixture
def service(tmp_path: Path) -> Iterator[tuple[Service, dict[str, str]]]:
    found = Service(("127.0.0.1", 0), Handler)
    found.folder = tmp_path / "tsa"
    setting = {"url": f"http://127.0.0.1:{found.server_port}/tsa", "ca": authority(found.folder)}
    thread = threading.Thread(target=found.serve_forever)
    thread.start()
    yield found, setting
    found.shutdown()
    thread.join()
    found.server_close()


@pytest.fixture
def paper(tmp_path: Path) -> Path:
    path = tmp_path / "work" / "medium_x.certificate.json"
    path.parent.mkdir()
    path.write_bytes(b'{"a": 1}\n')
    return path


def files(paper: Path) -> set[str]:
    return {path.name for path in paper.parent.iterdir()}


def test_stamped_once_and_an_auditor_can_tell(service: Any, paper: Path) -> None:
    server, setting = service
    answer = timestamps.stamp(paper, setting)
    assert files(paper) == {paper.name, paper.name + ".tsq", paper.name + ".tsr"} and "GMT" in timestamps.when(answer)
    before = answer.read_bytes()
    assert timestamps.stamp(paper, setting) == answer and answer.read_bytes() == before and server.asked == 1
    argv = ["openssl", "ts", "-verify", "-data", str(paper), "-in", str(answer), "-CAfile", str(server.folder / "ca.pem")]
    assert subprocess.run(argv, check=False, capture_output=True).returncode == 0
    paper.write_bytes(b'{"a": 2}\n')
    assert subprocess.run(argv, check=False, capture_output=True).returncode != 0
    assert timestamps.problem(paper, paper.with_name(paper.name + ".tsq"), answer, setting["ca"]) != ""
    timestamps.stamp(paper, setting)
    assert server.asked == 2, "another file wants another stamp"


@pytest.mark.parametrize("lie", ["old", "flip", "html", "500"])
def test_a_service_that_lies_leaves_nothing(service: Any, paper: Path, lie: str) -> None:
    server, setting = service
    server.lies = lie
    server.asked = 1
    (server.folder / "query1").write_bytes(b"")
    other = paper.parent.parent / "other"
    other.write_bytes(b"something else")
    subprocess.run(
        ["openssl", "ts", "-query", "-data", str(other), "-sha256", "-cert", "-out", str(server.folder / "query1")],
        check=True,
        capture_output=True,
    )
    with pytest.raises(Refusal, match="time stamp"):
        timestamps.stamp(paper, setting)
    assert files(paper) == {paper.name}


def test_another_root_and_a_silent_service(service: Any, paper: Path, tmp_path: Path) -> None:
    _, setting = service
    with pytest.raises(Refusal, match="is not valid"):
        timestamps.stamp(paper, {**setting, "ca": authority(tmp_path / "others")})
    with pytest.raises(Refusal, match="does not answer"):
        timestamps.stamp(paper, {**setting, "url": "http://127.0.0.1:9/tsa"})
    assert files(paper) == {paper.name}


def test_the_setting_is_judged() -> None:
    assert timestamps.faults("http://x") and timestamps.faults({"url": "ftp://x", "ca": ""}) and timestamps.faults({"url": "http://x"})
    assert timestamps.faults({"url": "https://x", "ca": "-----BEGIN CERTIFICATE-----\n"}) == []
