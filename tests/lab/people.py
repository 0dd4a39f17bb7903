# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Keys of the lab: the control node's, each host's, and those of the two persons.

The persons' keys lie apart, in state/people/<name>. Only the test and demo drivers, playing those persons, read them;
the inventory holds the public halves.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path

from . import paths
from .layout import HOSTS
from .shell import run


@dataclass(frozen=True)
class Person:
    name: str
    role: str
    custodian: bool = True

    @property
    def folder(self) -> Path:
        return paths.PEOPLE / self.name

    @property
    def ssh_key(self) -> Path:
        return self.folder / "id_ed25519"

    @property
    def age_identity(self) -> Path:
        return self.folder / "age.txt"

    @property
    def age_recipient(self) -> str:
        return (self.folder / "age.pub").read_text().strip()


PEOPLE = {person.name: person for person in (Person("alice", "approves the plan"), Person("bob", "authorises the wipe"))}


def _ssh_key(path: Path, comment: str) -> None:
    if path.with_suffix(".pub").exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.unlink(missing_ok=True)
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path)])


def _age_identity(person: Person) -> None:
    if (person.folder / "age.pub").exists():
        return
    person.age_identity.unlink(missing_ok=True)
    run(["age-keygen", "-o", str(person.age_identity)])
    public = run(["age-keygen", "-y", str(person.age_identity)]).stdout
    (person.folder / "age.pub").write_bytes(public)


def control_key() -> Path:
    return paths.KEYS / "control"


def ledger_key() -> Path:
    return paths.KEYS / "ledger"


def host_key(host: str) -> Path:
    return paths.KEYS / "hosts" / host


def public(key: Path) -> str:
    """A public key without its comment."""
    return " ".join(key.with_suffix(".pub").read_text().split()[:2])


def database_password() -> str:
    file = paths.KEYS / "database-password"
    if not file.exists() or not file.read_text():
        file.touch(mode=0o600)
        file.write_text(secrets.token_hex(16))
    return file.read_text()


def ensure() -> None:
    paths.KEYS.mkdir(parents=True, exist_ok=True, mode=0o700)
    _ssh_key(control_key(), "sunset-lab control node")
    _ssh_key(ledger_key(), "sunset-lab ledger copies")
    for host in HOSTS:
        _ssh_key(host_key(host), host)
    for person in PEOPLE.values():
        _ssh_key(person.ssh_key, person.name)
        _age_identity(person)
    database_password()


def allowed_signers() -> str:
    """Who may sign, as ssh-keygen -Y verify wants it."""
    return "".join(f"{person.name} {public(person.ssh_key)}\n" for person in PEOPLE.values())


def known_hosts(addresses: dict[str, str]) -> str:
    return "".join(f"{address},{host} {public(host_key(host))}\n" for host, address in sorted(addresses.items()))
