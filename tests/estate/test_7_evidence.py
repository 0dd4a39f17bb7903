# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The auditor's page run as it stands: each ```sh block of docs/auditor.md, on copies of the evidence, with stock tools alone."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import pytest

from tests import lab
from tests.estate import world
from tests.estate.driver import Done, play
from tests.lab import paths, virtual
from tests.lab.layout import HOSTS, HYPERVISOR, SIMULATED, VAULTS
from tests.lab.people import PEOPLE
from tests.lab.shell import run

PAGE = paths.TOP / "docs" / "auditor.md"
BLOCK = re.compile(r"<!-- block: ([a-z-]+)(?:; as: ([a-z ]+))? -->\n```sh\n(.*?)^```$", re.S | re.M)
BLOCKS = {name: (who or "", text) for name, who, text in BLOCK.findall(PAGE.read_text())}
# Package -> what is in it.
PACKAGES = {
    "app1": ["filestore"],
    "db1": ["postgresql"],
    "dock1": ["filestore"],
    "kvm1": ["guests"],
    "old1": ["mariadb"],
    "pve-simulated": ["guests"],
}
CARRIED = {"app1": "uploads", "db1": "pgdata", "dock1": "shopvol", "old1": "mydata"}
# Written out again from the server into which the page's block has restored a dump, while it still runs.
AND_THEN = {
    "postgresql": '"$bin/pg_dump" -d "$database" >"$WORK/restored.sql"\n',
    "mariadb": 'mariadb-dump --no-defaults --socket="$WORK/my/s" -u auditor --databases "$database" >"$WORK/restored.sql"\n',
    "filestore": "",
    "guests": "",
}
ran: set[str] = set()


@dataclass(frozen=True)
class Audit:
    """The auditor's own copies, in memory."""

    folder: Path
    custodian: str = "bob"

    def variables(self, package: str = "db1", medium: str = "pgdata", on: str = "vault1") -> dict[str, str]:
        vault = self.folder / on / "vault" / "lab"
        return {
            "ESTATE_DIR": str(self.folder / "estate"),
            "RUN_KEY": str(self.folder / "run_ed25519.pub"),
            "VAULT_LEDGER": str(self.folder / on / "ledger" / "lab"),
            "PACKAGE": str(vault / package),
            "CERTIFICATE": str(self.folder / "estate" / "certificates" / f"medium_{medium}.certificate.json"),
            "DEVICE": lab.media()[medium].device,
            "WRAPPED": str(vault / "keys" / f"{package}.{self.custodian}.age"),
            "CUSTODIAN_KEY": str(self.folder / "age.txt"),
            "WORK": str(self.folder / package),
        }

    def block(self, name: str, more: str = "", **where: str) -> subprocess.CompletedProcess[str]:
        """Run a block of the page; those for an ordinary user as one."""
        who, text = BLOCKS[name]
        variables = {**self.variables(), **where} if "WORK" in where else self.variables(**where)
        argv = ["sh", "-c", text + more]
        if who == "an ordinary user":
            run(["chown", "-R", "nobody:", variables["WORK"]])
            argv = ["runuser", "-u", "nobody", "--", *argv]
        ran.add(name)
        environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "HOME": "/nonexistent", **variables}
        return subprocess.run(
            argv, env=environment, cwd=self.folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False
        )


@pytest.fixture(scope="module")
def audit(certificates: dict[str, bytes]) -> Iterator[Audit]:
    folder = Path(tempfile.mkdtemp(prefix="audit", dir="/dev/shm"))
    folder.chmod(0o755)
    try:
        shutil.copytree(paths.ESTATE, folder / "estate", ignore=shutil.ignore_patterns("secrets", "keys", "locks"))
        shutil.copy(paths.ESTATE / "keys" / "run_ed25519.pub", folder)
        shutil.copy(PEOPLE["bob"].age_identity, folder / "age.txt")
        for vault, name in product(VAULTS, ("vault", "ledger")):
            (folder / vault).mkdir(exist_ok=True)
            run(["docker", "cp", f"{HOSTS[vault].container}:/srv/{name}", str(folder / vault / name)])
        for package in PACKAGES:
            (folder / package).mkdir()
        yield Audit(folder)
    finally:
        shutil.rmtree(folder)


def passed(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, f"it ended with {done.returncode}:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


@pytest.mark.parametrize("name", ["fingerprints", "chain", "head", "plan", "statements"])
def test_the_estate(audit: Audit, name: str) -> None:
    assert passed(audit.block(name))


@pytest.mark.parametrize("vault", VAULTS)
@pytest.mark.parametrize("package", PACKAGES)
def test_a_package(audit: Audit, package: str, vault: str) -> None:
    passed(audit.block("package", package=package, on=vault))
    passed(audit.block("package-signature", package=package, on=vault))


@pytest.mark.parametrize("vault", VAULTS)
def test_the_copy_of_the_ledger(audit: Audit, vault: str) -> None:
    assert passed(audit.block("vault-copy", on=vault))


@pytest.mark.parametrize("package", PACKAGES)
def test_the_content_is_all_there(audit: Audit, package: str) -> None:
    """Opened with bob's key, restored with the engine's own tools: every planted mark of the medium is in it."""
    passed(audit.block("open", package=package))
    for name in PACKAGES[package]:
        print(passed(audit.block(name, AND_THEN[name], package=package)))
    work = audit.folder / package
    tree = work / ("open" if PACKAGES[package] == ["guests"] else "tree")
    restored = [work / "restored.sql"] if (work / "restored.sql").exists() else [path for path in tree.rglob("*") if path.is_file()]
    found = {word for path in restored for word in re.findall(rf"{lab.PREFIX}[0-9a-f]{{16}}", path.read_text(errors="replace"))}
    # Behind the simulated cluster there are no disks, so nothing is planted.
    planted = set(virtual.planted() if package == HYPERVISOR else lab.planted(CARRIED.get(package, "")))
    assert (planted or package == SIMULATED) and planted <= found, f"{len(planted - found)} of {len(planted)} marks are lost"


@pytest.mark.parametrize("medium", ["dockdisk", "kvmdisk", "mydata", "pgdata", "shopvol", "uploads"])
def test_a_wiped_medium(audit: Audit, medium: str) -> None:
    passed(audit.block("certificate", medium=medium))
    assert "are the certificate's stream" in passed(audit.block("device", medium=medium))


def test_places_of_a_medium(audit: Audit) -> None:
    passed(audit.block("device-places"))


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


FORGERIES = {
    "chain": ("estate/ledger.jsonl", 200),
    "head": ("estate/ledger.head.json", 20),
    "vault-copy": ("vault1/ledger/lab/ledger.jsonl", 200),
    "plan": ("estate/plan.json", 300),
    "package": ("vault1/vault/lab/db1/manifest-sha256.txt", 3),
    "certificate": ("estate/certificates/medium_pgdata.certificate.json", 300),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forgery_is_found(audit: Audit, name: str) -> None:
    """One bit of the evidence changed: the block that is there to find it does."""
    file, at = FORGERIES[name]
    flip(audit.folder / file, at)
    try:
        assert audit.block(name).returncode != 0
    finally:
        flip(audit.folder / file, at)


def test_another_stream_is_found(audit: Audit) -> None:
    """The certificate of one medium does not fit another: the check of the bytes can fail."""
    done = audit.block("device-places", WORK=audit.variables()["WORK"], DEVICE=lab.media()["mydata"].device)
    assert done.returncode != 0


def test_there_is_no_way_back(audit: Audit, wiped: Done) -> None:
    """Last of all, since a refused run leaves lines behind the last signed head: the auditor has the copies by now."""
    play("resume").refused("the wipe of medium:", "has begun: there is no way back from here")
    assert not world.powered()["app1"] and not world.powered()["old1"]


def test_every_block_of_the_page_was_run() -> None:
    assert len(PAGE.read_text().split("```sh\n")) - 1 == len(BLOCKS)
    assert ran == set(BLOCKS)
