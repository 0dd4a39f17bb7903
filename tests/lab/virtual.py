# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the hosts with virtual machines need beside their files: kernel and content of real guests, key and secret of the simulated cluster."""

from __future__ import annotations

import secrets
from pathlib import Path

from . import paths
from .layout import HYPERVISOR, SIMULATED, Host
from .marks import mark
from .shell import run

# Guest -> how many marks its disk holds.
PLANTED = {"wiki": 300, "fax": 120, "archive": 500}
# A boot sector (real mode, SeaBIOS's power management registers): let the power button be seen, say "*", wait for it, switch off.
OBEYS = bytes.fromhex("ba0206b80001ef baf803b02aee ba0006fbf4edf6c40174f8 ba0406b80020eff4ebfd").ljust(510, b"\0") + b"\x55\xaa"
SIMULATION = paths.TOP / "tests/integration/pve_fake.py"
PLACE = "/var/lib/simulated-pve"


def planted(*guests: str) -> list[str]:
    """The marks on the disks of these guests; without names of all."""
    return [mark(guest, n) for guest in guests or PLANTED for n in range(PLANTED[guest])]


def _text(guest: str) -> str:
    return "".join(f"{n};{mark(guest, n)};Müller & Söhne; 東京\n" for n in range(PLANTED[guest]))


def secret_file() -> Path:
    """The secret of the API token of the simulated cluster, as the control node has it."""
    file = paths.KEYS / "simulated-token"
    if not file.exists() or not file.read_text():
        file.touch(mode=0o600)
        file.write_text(secrets.token_hex(16) + "\n")
    return file


def certificate(address: str) -> Path:
    """The certificate of the simulated cluster's API, which is its own authority; its key lies beside it."""
    file = paths.KEYS / f"simulated-{address}.crt"
    if not file.exists():
        part = file.with_suffix(".part")
        run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "3650"]
            + ["-subj", "/CN=simulated cluster", "-addext", f"subjectAltName=IP:{address}"]
            + ["-keyout", str(file.with_suffix(".key")), "-out", str(part)]
        )
        part.rename(file)
    return file


def declaration(address: str) -> dict[str, object]:
    """How the collection reaches the simulated cluster."""
    return {
        "hosts": [address],
        "user": "sunset@pve",
        "token_id": "retire",
        "secret_file": str(secret_file()),
        "verify": str(certificate(address)),
    }


def files(host: Host, address: str) -> dict[str, tuple[bytes, int]]:
    """Path on the host -> content and mode."""
    if host.name == HYPERVISOR:
        from tests.integration import linux_guest

        kernel, initrd = linux_guest.files()
        lab = "/usr/local/lib/lab"
        return {
            f"{lab}/vmlinuz": (kernel.read_bytes(), 0o644),
            f"{lab}/initrd": (initrd.read_bytes(), 0o644),
            f"{lab}/obeys.bin": (OBEYS, 0o644),
            **{f"{lab}/{guest}.txt": (_text(guest).encode(), 0o644) for guest in PLANTED},
        }
    if host.name == SIMULATED:
        crt = certificate(address)
        return {
            "/usr/local/lib/lab/pve_fake.py": (SIMULATION.read_bytes(), 0o644),
            f"{PLACE}/token.secret": (secret_file().read_bytes(), 0o600),
            f"{PLACE}/api.crt": (crt.read_bytes(), 0o644),
            f"{PLACE}/api.key": (crt.with_suffix(".key").read_bytes(), 0o600),
        }
    return {}


def powers(engine_answer: str) -> dict[str, str]:
    """Guest -> state, of the lines that virsh list --all prints."""
    rows = [line.split(None, 2) for line in engine_answer.splitlines()[2:] if line.strip()]
    return {name: state for _number, name, state in rows}
