# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the two persons of the lab do at their own desks: approve, open packages, authorise, waive.

They use the scripts that people get (scripts/statement, scripts/custodian) and their own keys, and hand files in to the operator.
"""

from __future__ import annotations

import base64
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from . import estate, paths
from .people import PEOPLE
from .shell import run

SCRIPTS = paths.TOP / "scripts"
NAME = "lab"


def _hand_in(folder: Path) -> None:
    """The person gives the statements of a folder to the operator."""
    target = paths.ESTATE / "statements"
    target.mkdir(mode=0o700, parents=True, exist_ok=True)
    for path in sorted(folder.iterdir()):
        shutil.copy(path, target)


def _statement(person: str, verb: str, *arguments: str) -> None:
    key = str(PEOPLE[person].ssh_key)
    run([sys.executable, str(SCRIPTS / "statement"), verb, "--key", key, "--yes", NAME, *arguments])


def approve(person: str = "alice") -> None:
    """Approve the plan that lies in the estate's folder now."""
    _statement(person, "approve", str(paths.ESTATE / "plan.json"))


def _stated(person: str, verb: str, options: Sequence[str], items: Sequence[str]) -> None:
    out = PEOPLE[person].folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    _statement(person, verb, *options, "--out", str(out), str(paths.ESTATE / "plan.json"), *items)
    _hand_in(out)


def authorise(*media: str, person: str = "bob", days: float = 7) -> None:
    """Authorise the wipe of these media, or of all of the plan."""
    _stated(person, "authorise", ["--days", str(days)], media)


def waive_grace(*items: str, person: str = "alice", reason: str = "a demo does not wait two weeks") -> None:
    """Waive the grace period of these items, or of all with the single name '*'."""
    _stated(person, "waive", ["--gate", "grace", "--reason", reason], items)


def challenge(package: str, vault: str, person: str = "bob") -> None:
    """Show that the wrapped identities of a package on a vault, its data's and its keys', open with the person's own key."""
    folder = PEOPLE[person].folder / "challenge"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    stored = f"/srv/vault/{NAME}/keys"
    kept = estate.execute(vault, ["ls", stored]).split()
    wrapped = [folder / name for name in (f"{package}.{person}.age", f"{package}.keys.{person}.age") if name in kept]
    for one in wrapped:
        one.write_bytes(base64.b64decode(estate.execute(vault, ["base64", f"{stored}/{one.name}"])))
    out = folder / "out"
    identity, key = str(PEOPLE[person].age_identity), str(PEOPLE[person].ssh_key)
    script = [sys.executable, str(SCRIPTS / "custodian"), "challenge", "--estate", NAME, "--custodian", person]
    run([*script, "--identity", identity, "--sign-key", key, "--out", str(out), *map(str, wrapped)])
    _hand_in(out)
