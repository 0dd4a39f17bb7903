# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A small Redfish service that can lie, for what an emulator cannot do; and certificates for it. Knows nothing of the collection."""

from __future__ import annotations

import json
import ssl
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

ALL = ["On", "ForceOff", "GracefulShutdown", "GracefulRestart", "ForceRestart", "PushPowerButton"]
ROOT = "/redfish/v1/"
SYSTEM = "/redfish/v1/Systems/1"
RESET = SYSTEM + "/Actions/ComputerSystem.Reset"
MEDIUM = "/redfish/v1/Managers/1/VirtualMedia/Cd"
SESSIONS = "/redfish/v1/SessionService/Sessions"


def certificates(folder: Path, name: str = "127.0.0.1") -> dict[str, str]:
    """A CA and a server certificate for a loopback address; the paths, and the server certificate's fingerprint."""
    folder.mkdir(parents=True, exist_ok=True)

    def openssl(*argv: str) -> str:
        done = subprocess.run(["openssl", *argv], cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    ec = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    ca = ("-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign")
    openssl("req", "-x509", *ec, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=test CA", "-days", "30", *ca)
    openssl("req", *ec, "-keyout", "bmc.key", "-out", "bmc.csr", "-subj", "/CN=bmc")
    (folder / "ext").write_text(f"subjectAltName=IP:{name}\nauthorityKeyIdentifier=keyid\n")
    signing = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial")
    openssl("x509", "-req", "-in", "bmc.csr", *signing, "-out", "bmc.pem", "-days", "30", "-extfile", "ext")
    printed = openssl("x509", "-in", "bmc.pem", "-noout", "-fingerprint", "-sha256")
    paths = {one: str(folder / one) for one in ("ca.pem", "bmc.pem", "bmc.key")}
    return {"ca": paths["ca.pem"], "cert": paths["bmc.pem"], "key": paths["bmc.key"], "fingerprint": printed.strip().partition("=")[2]}


@dataclass
class Machine:
    """A board in memory. obey: what a reset does to it, and after how many seconds."""

    state: str = "On"
    obey: bool = True
    after: float = 0.0
    through: str = ""  # a state that it shows meanwhile

    def power(self) -> str:
        return self.state

    def reset(self, kind: str) -> None:
        end = {"On": "On", "ForceOff": "Off", "GracefulShutdown": "Off"}.get(kind)
        if kind == "PushPowerButton":
            end = "Off" if self.state == "On" else "On"
        if not self.obey or end is None:
            return
        if self.through:
            self.state = self.through
        threading.Timer(self.after, lambda: setattr(self, "state", end)).start()


@dataclass
class Bmc:
    """The service. Everything about it can be changed while it runs."""

    machine: Any = field(default_factory=Machine)
    offers: list[str] | None = field(default_factory=lambda: list(ALL))
    action_info: bool = False
    policy: str | None = "AlwaysOff"
    serial: str = "SER-1"
    uuid: str = "11111111-2222-3333-4444-555555555555"
    password: str = "a secret word"
    slots: int = 4
    basic: bool = True
    delay: float = 0.0
    broken: str = ""  # every answer is this text
    status: int = 0  # every reset is answered with this status, and not carried out
    cut: Callable[[str, str], bool] = lambda method, path: False  # carried out, then cut off without an answer
    systems: int = 1
    once: bool = False  # whether boot "Once" is honoured
    boot: dict[str, Any] = field(default_factory=lambda: {"BootSourceOverrideEnabled": "Disabled", "BootSourceOverrideTarget": "None"})
    medium: dict[str, Any] = field(default_factory=lambda: {"Image": None, "Inserted": False, "WriteProtected": True})
    sessions: dict[str, str] = field(default_factory=dict)
    log: list[tuple[str, str, Any]] = field(default_factory=list)
    address: str = ""

    def posts(self) -> list[str]:
        """The reset types that were asked for."""
        return [body["ResetType"] for method, path, body in self.log if (method, path) == ("POST", RESET)]

    def start(self, tls: dict[str, str]) -> Bmc:
        bmc = self

        class Handler(_Handler):
            service = bmc

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls["cert"], tls["key"])
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.address = f"https://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def system(self) -> dict[str, Any]:
        action: dict[str, Any] = {"target": RESET}
        if self.offers is not None and not self.action_info:
            action["ResetType@Redfish.AllowableValues"] = self.offers
        if self.action_info:
            action["@Redfish.ActionInfo"] = SYSTEM + "/ResetActionInfo"
        body = {
            "@odata.id": SYSTEM, "Id": "1", "Name": "System", "SerialNumber": self.serial, "UUID": self.uuid, "Model": "Fake",
            "PowerState": self.machine.power(), "Actions": {"#ComputerSystem.Reset": action},
            "Boot": {**self.boot, "BootSourceOverrideTarget@Redfish.AllowableValues": ["None", "Pxe", "Cd", "Hdd"]},
            "Links": {"ManagedBy": [{"@odata.id": "/redfish/v1/Managers/1"}]},
        }  # fmt: skip
        if self.policy:
            body["PowerRestorePolicy"] = self.policy
        return body

    def get(self, path: str) -> dict[str, Any] | None:
        members = {
            "/redfish/v1/Systems": [SYSTEM, *(f"/redfish/v1/Systems/{n}" for n in range(2, self.systems + 1))], "/redfish/v1/Managers": ["/redfish/v1/Managers/1"],
            "/redfish/v1/Managers/1/VirtualMedia": [MEDIUM], SESSIONS: [f"{SESSIONS}/{one}" for one in self.sessions],
        }  # fmt: skip
        if path in members:
            return {"@odata.id": path, "Name": "Collection", "Members": [{"@odata.id": one} for one in members[path]]}
        if path.startswith("/redfish/v1/Systems/") and path.count("/") == 4 and 1 < int(path.rpartition("/")[2]) <= self.systems:
            return {**self.system(), "@odata.id": path, "Id": path.rpartition("/")[2], "PowerState": "Off"}
        return {
            "/redfish/v1": {
                "@odata.id": ROOT, "Id": "Root", "Name": "Root", "RedfishVersion": "1.6.0",
                "Systems": {"@odata.id": "/redfish/v1/Systems"}, "Managers": {"@odata.id": "/redfish/v1/Managers"},
                "Links": {"Sessions": {"@odata.id": SESSIONS}}, "SessionService": {"@odata.id": "/redfish/v1/SessionService"},
            },
            SYSTEM: self.system(),
            SYSTEM + "/ResetActionInfo": {"Parameters": [{"Name": "ResetType", "Required": True, "AllowableValues": self.offers or []}]},
            "/redfish/v1/Managers/1": {
                "@odata.id": "/redfish/v1/Managers/1", "Id": "1", "Name": "Manager", "ManagerType": "BMC",
                "VirtualMedia": {"@odata.id": "/redfish/v1/Managers/1/VirtualMedia"},
                "Links": {"ManagerForServers": [{"@odata.id": SYSTEM}]},
            },
            MEDIUM: {
                "@odata.id": MEDIUM, "Id": "Cd", "Name": "Cd", "MediaTypes": ["CD", "DVD"], **self.medium,
                "Actions": {
                    "#VirtualMedia.InsertMedia": {"target": MEDIUM + "/Actions/VirtualMedia.InsertMedia"},
                    "#VirtualMedia.EjectMedia": {"target": MEDIUM + "/Actions/VirtualMedia.EjectMedia"},
                },
            },
        }.get(path.rstrip("/") if path != ROOT else "/redfish/v1")  # fmt: skip


class _Handler(BaseHTTPRequestHandler):
    service: Bmc
    # It closes each connection, as it is asked to, and does not say so: a client that takes one again loses its request.
    protocol_version = "HTTP/1.1"

    def log_message(self, *_args: Any) -> None:
        pass

    def _answer(self, status: int, body: Any = None, headers: dict[str, str] | None = None) -> None:
        bmc = self.service
        if bmc.cut(self.command, self.path):
            self.close_connection = True
            self.connection.close()
            return
        raw = bmc.broken.encode() if bmc.broken else b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(raw)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(raw)

    def _may(self) -> bool:
        import base64

        bmc = self.service
        if self.headers.get("X-Auth-Token") in bmc.sessions.values():
            return True
        kind, _space, word = (self.headers.get("Authorization") or "").partition(" ")
        return bmc.basic and kind == "Basic" and base64.b64decode(word).decode() == f"admin:{bmc.password}"

    def _error(self, status: int, text: str) -> None:
        self._answer(status, {"error": {"code": "Base.1.0.GeneralError", "message": text}})

    def _handle(self) -> None:
        bmc = self.service
        size = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(size)) if size else None
        bmc.log.append((self.command, self.path, body))
        time.sleep(bmc.delay)
        if self.path.rstrip("/") == "/redfish/v1":
            return self._answer(200, bmc.get(ROOT))
        if (self.command, self.path) == ("POST", SESSIONS):
            return self._log_in(body)
        if not self._may():
            return self._error(401, "log in first")
        if self.command == "GET":
            found = bmc.get(self.path)
            return self._answer(200, found) if found else self._error(404, "no such thing")
        if self.command == "DELETE" and self.path.startswith(SESSIONS + "/"):
            bmc.sessions.pop(self.path.rpartition("/")[2], None)
            return self._answer(204)
        return self._change(body)

    def _log_in(self, body: Any) -> None:
        bmc = self.service
        if (body.get("UserName"), body.get("Password")) != ("admin", bmc.password):
            return self._error(401, "wrong name or word")
        if len(bmc.sessions) >= bmc.slots:
            return self._error(503, "Base.1.0.SessionLimitExceeded: the session limit is exceeded")
        number = str(len(bmc.log))
        bmc.sessions[number] = f"token-{number}"
        return self._answer(201, {"Id": number}, {"X-Auth-Token": f"token-{number}", "Location": f"{SESSIONS}/{number}"})

    def _change(self, body: Any) -> None:
        bmc = self.service
        if self.path == RESET:
            if bmc.status:
                return self._error(bmc.status, "not now")
            bmc.machine.reset(body["ResetType"])
            return self._answer(204)
        if self.command == "PATCH" and self.path == SYSTEM:
            bmc.boot.update(body["Boot"])
            if not bmc.once and bmc.boot["BootSourceOverrideEnabled"] == "Once":
                bmc.boot["BootSourceOverrideEnabled"] = "Continuous"
            return self._answer(204)
        if self.path.endswith("VirtualMedia.InsertMedia"):
            bmc.medium.update(Image=body["Image"], Inserted=True)
            return self._answer(204)
        if self.path.endswith("VirtualMedia.EjectMedia"):
            bmc.medium.update(Image=None, Inserted=False)
            return self._answer(204)
        return self._error(405, "no")

    do_GET = do_POST = do_DELETE = do_PATCH = _handle
