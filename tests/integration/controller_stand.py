# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Management controllers to talk to, each a process of its own: sushy-emulator and virtualbmc as they are, and an IPMI controller that can lie.

The emulators stand in front of libvirt's test driver. Its state lives in the process and as long as a connection to it, so the process
holds one. Knows nothing of the collection.
"""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

USER, PASSWORD = "admin", "a secret word"


def credentials(folder: Path, name: str = "credentials", password: str = PASSWORD) -> str:
    """A file as the inventory names one for a controller."""
    path = folder / name
    path.write_text(f"username: {USER}\npassword: {password}\n")
    path.chmod(0o600)
    return str(path)


@contextlib.contextmanager
def running(kind: str, folder: Path, **config: Any) -> Iterator[subprocess.Popen[bytes]]:
    """One of the controllers below; it has said that it is ready."""
    log = folder / f"{kind}-{uuid.uuid4().hex[:6]}.log"
    with log.open("wb") as stream:
        argv = [sys.executable, __file__, kind, json.dumps(config)]
        child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, cwd=folder)
        try:
            deadline = time.monotonic() + 60
            while not _ready(kind, config, log):
                assert child.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.1)
            yield child
        finally:
            child.kill()
            child.wait()


def _ready(kind: str, config: dict[str, Any], log: Path) -> bool:
    if kind in ("ipmi", "vbmc"):
        return "ready" in log.read_text()
    try:
        socket.create_connection(("127.0.0.1", config["port"]), 1).close()
    except OSError:
        return False
    return True


def redfish(folder: Path, port: int, tls: dict[str, str], **more: Any) -> dict[str, Any]:
    """The configuration of an emulator with TLS and a login; it takes Basic only."""
    import bcrypt

    word = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()
    (folder / "htpasswd").write_text(f"{USER}:{word}\n")
    names = {"LISTEN_IP": "127.0.0.1", "LISTEN_PORT": port, "SSL_CERT": tls["cert"], "SSL_KEY": tls["key"], **more}
    # Its own default is one place for all emulators of a machine.
    state = folder / f"emulator-{port}.state"
    state.mkdir()
    names["STATE_DIR"] = str(state)
    names["AUTH_FILE"] = str(folder / "htpasswd")
    text = "".join(f"SUSHY_EMULATOR_{name} = {value!r}\n" for name, value in names.items())
    (folder / f"emulator-{port}.conf").write_text(text)
    return {"config": str(folder / f"emulator-{port}.conf"), "port": port}


def _emulator(config: dict[str, Any]) -> None:
    from sushy_tools.emulator import main

    sys.argv = ["sushy-emulator", "--config", config["config"]]
    if config.get("libvirt"):
        import libvirt

        held = libvirt.open(config["libvirt"])
        sys.argv += ["--libvirt-uri", config["libvirt"]]
        main.main()
        held.close()
    main.main()


def _only_sha1() -> None:
    """pyghmi's server accepts a proposal of SHA-256 and then goes on with SHA-1, so its own client cannot log in. Turned down as the
    standard has it (RMCP+ status 4, no matching authentication algorithm), the client proposes SHA-1."""
    from pyghmi.ipmi.private import serversession

    accept = serversession.ServerSession.create_open_session_response

    def judged(self: Any, request: bytes) -> Any:
        return accept(self, request) if request[12] == 1 else bytearray([request[0], 4, 0, 0]) + bytes(request[4:8])

    serversession.ServerSession.create_open_session_response = judged


def _vbmc(config: dict[str, Any]) -> None:
    import libvirt

    _only_sha1()
    from virtualbmc.vbmc import VirtualBMC

    held = libvirt.open("test:///default")
    bmc = VirtualBMC(
        username=USER, password=PASSWORD, port=config["port"], address="127.0.0.1",
        domain_name="test", libvirt_uri="test:///default",
    )  # fmt: skip
    print("ready", flush=True)
    bmc.listen(timeout=1)
    held.close()


def _ipmi(config: dict[str, Any]) -> None:
    """A controller whose machine is a file: {power, obey, policy, guid, refuse}. Each request is written to another one."""
    from pyghmi.ipmi import bmc

    _only_sha1()
    path, book = Path(config["state"]), Path(config["log"])

    class Bmc(bmc.Bmc):
        def state(self) -> dict[str, Any]:
            found: dict[str, Any] = json.loads(path.read_text())
            return found

        def get_chassis_status(self, session: Any) -> None:
            seen = self.state()
            session.send_ipmi_response(data=[int(seen["power"] == "on") | seen["policy"] << 5, 0, 0])

        def get_system_guid(self) -> uuid.UUID:
            if not self.state().get("guid"):
                raise NotImplementedError
            return uuid.UUID(self.state()["guid"])

        def get_boot_device(self) -> str:
            return str(self.state().get("boot") or "default")

        def set_boot_device(self, bootdevice: str) -> None:
            if not self.state().get("deaf"):
                path.write_text(json.dumps({**self.state(), "boot": bootdevice}))

        def control_chassis(self, request: Any, session: Any) -> None:
            seen, directive = self.state(), request["data"][0]
            with book.open("a") as stream:
                stream.write(f"{directive}\n")
            if seen.get("refuse"):
                session.send_ipmi_response(code=0xCC)
                return
            if directive in seen["obey"]:
                path.write_text(json.dumps({**seen, "power": "on" if directive == 1 else "off"}))
            if not seen.get("cut"):
                session.send_ipmi_response()

    served = Bmc({USER: PASSWORD}, port=config["port"], address="127.0.0.1")
    print("ready", flush=True)
    served.listen(timeout=1)


if __name__ == "__main__":
    {"emulator": _emulator, "vbmc": _vbmc, "ipmi": _ipmi}[sys.argv[1]](json.loads(sys.argv[2]))
