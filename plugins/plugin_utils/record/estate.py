# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The estate's folder on the control node, and the lock that lets one run at a time work on it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.files import plain, write
from ansible_collections.sunset.crm.plugins.plugin_utils.people import signatures, statements
from ansible_collections.sunset.crm.plugins.plugin_utils.planning import plan as plans
from ansible_collections.sunset.crm.plugins.plugin_utils.record import ledger


@dataclass(frozen=True)
class Estate:
    """Where everything of one estate lies. The folder is private to the operator (0700)."""

    root: Path

    @classmethod
    def at(cls, path: Any) -> Estate:
        """The estate whose folder is path. Raises Refusal when the variable is not set."""
        if not path:
            raise Refusal(
                "the variable sunset_estate_dir is not set; give the folder of the estate's plan and ledger in the inventory "
                "(group_vars/all)"
            )
        root = Path(str(path)).expanduser().absolute()
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        return cls(root)

    @property
    def plan_file(self) -> Path:
        return self.root / "plan.json"

    @property
    def approval_file(self) -> Path:
        return self.root / "plan.json.sig"

    @property
    def ledger_file(self) -> Path:
        return self.root / "ledger.jsonl"

    @property
    def statements_folder(self) -> Path:
        return self.root / "statements"

    @property
    def certificates_folder(self) -> Path:
        return self.root / "certificates"

    @property
    def orders_folder(self) -> Path:
        return self.root / "orders"

    @property
    def report_folder(self) -> Path:
        return self.root / "report"

    @property
    def run_file(self) -> Path:
        return self.root / "run.json"

    @property
    def run_key(self) -> Path:
        return self.root / "keys" / "run_ed25519"

    def plan(self) -> plans.Plan:
        return plans.load(self.plan_file)

    def approver(self, current: plans.Plan) -> str:
        return statements.approval(self.plan_file.read_bytes(), self.approval_file, current)

    def secret(self, name: str, make: bool = True) -> str | None:
        """A random 256-bit key in hexadecimal, made once and kept in a file that only the operator reads."""
        path = self.root / "secrets" / plain(name)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        if not path.exists():
            if not make:
                return None
            temporary = path.with_name(f".{path.name}.{os.getpid()}")
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(fd, "w") as stream:
                stream.write(os.urandom(32).hex())
                stream.flush()
                os.fsync(stream.fileno())
            with contextlib.suppress(FileExistsError):
                os.link(temporary, path)
            temporary.unlink()
        return path.read_text(encoding="ascii").strip()

    def forget_secret(self, name: str) -> None:
        (self.root / "secrets" / plain(name)).unlink(missing_ok=True)

    def sign_head(self) -> dict[str, Any]:
        """Sign the ledger's current head with the run key; the files lie beside the ledger."""
        signatures.create_key(self.run_key, "sunset.crm run key")
        current = ledger.head(self.ledger_file)
        document = (json.dumps(current, sort_keys=True, indent=1) + "\n").encode()
        signature = signatures.sign(document, self.run_key, signatures.LEDGER_HEAD)
        write(self.root / "ledger.head.json", document)
        write(self.root / "ledger.head.json.sig", signature.encode())
        self._write_signers()
        return {**current, "signature": signature, "document": document.decode()}

    def _write_signers(self) -> None:
        """Everybody whose signature an auditor meets, in a file beside the ledger."""
        if self.plan_file.exists():
            write(self.root / "allowed_signers", self.signers(self.plan()).encode(), 0o644)

    def signers(self, current: plans.Plan) -> str:
        """The plan's people, and the run key under the name C(run) for what it signs."""
        key = " ".join(self.run_key.with_suffix(".pub").read_text(encoding="utf-8").split()[:2])
        names = f"{signatures.LEDGER_HEAD},{signatures.CERTIFICATE},{signatures.ORDER},{signatures.PACKAGE}"
        return current.allowed_signers.rstrip("\n") + f'\nrun namespaces="{names}" {key}\n'

    @contextlib.contextmanager
    def item_lock(self, item_id: str) -> Iterator[None]:
        """One act at a time on one item, whatever process it comes from."""
        path = self.root / "locks" / f"{plain(item_id)}.lock"
        path.parent.mkdir(mode=0o700, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Refusal(f"another task is at work on {item_id}; wait for it to end, then run the same command again") from None
            yield
        finally:
            os.close(fd)


# --- the run lock -----------------------------------------------------------------------------------------------------


def controller() -> dict[str, Any]:
    """The ansible-playbook process that this worker belongs to: its number, start time (clock ticks) and machine."""
    pid = os.getppid()
    return {"pid": pid, "started": _start_time(pid), "machine": socket.gethostname()}


def _start_time(pid: int) -> str:
    """Field 22 of /proc/PID/stat (proc(5)); with the number it names one process for good."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _alive(owner: dict[str, Any]) -> bool:
    if owner["machine"] != socket.gethostname():
        return True
    return bool(owner["started"]) and _start_time(int(owner["pid"])) == owner["started"]


@contextlib.contextmanager
def _run_file_locked(estate: Estate) -> Iterator[None]:
    fd = os.open(estate.root / "run.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def current_run(estate: Estate) -> dict[str, Any] | None:
    """The run that holds the estate, if its controller still lives."""
    try:
        run: dict[str, Any] = json.loads(estate.run_file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return run if _alive(run["owner"]) else None


def open_run(estate: Estate, run: dict[str, Any]) -> None:
    """Take the estate for this controller. Raises Refusal naming who has it, where and since when."""
    with _run_file_locked(estate):
        other = current_run(estate)
        if other is not None and other["owner"] != run["owner"]:
            raise Refusal(
                f"another run works on the estate {run['estate']}: {other['operator']} on {other['owner']['machine']} "
                f"(process {other['owner']['pid']}), phase {other['phase']}, since {other['since']}. Wait for it to end. If that "
                f"machine is gone for good, remove {estate.run_file} by hand."
            )
        write(estate.run_file, (json.dumps(run, indent=1, sort_keys=True) + "\n").encode())


def close_run(estate: Estate) -> None:
    with _run_file_locked(estate):
        run = current_run(estate)
        if run is not None and run["owner"] == controller():
            estate.run_file.unlink()


def my_run(estate: Estate) -> dict[str, Any]:
    """The run that this very controller opened. Raises Refusal when it opened none."""
    run = current_run(estate)
    if run is None or run["owner"] != controller():
        raise Refusal(
            "no run is open: this module acts only inside a play that has opened a run on the estate "
            "(sunset.crm.run_open; playbooks/shutdown.yml does it first, and it cannot be skipped by tags, limits or --start-at-task)"
        )
    return run
