# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The collection as a user installs it: built, installed into an empty folder, used from there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the collection, installed from the tarball, and nothing else of the checkout."""
    folder = tmp_path_factory.mktemp("installed")
    galaxy = str(BIN / "ansible-galaxy")
    subprocess.run([galaxy, "collection", "build", "--output-path", str(folder), str(TOP)], check=True, capture_output=True)
    (tarball,) = folder.glob("sunset-crm-*.tar.gz")
    argv = [galaxy, "collection", "install", "--offline", "-p", str(folder / "collections"), str(tarball)]
    subprocess.run(argv, check=True, capture_output=True, env=environment(folder))
    return folder


def environment(folder: Path) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")}
    return {**kept, "ANSIBLE_COLLECTIONS_PATH": str(folder / "collections"), "ANSIBLE_HOME": str(folder / "home"), "ANSIBLE_NOCOLOR": "1"}


def run(folder: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    command = [str(BIN / argv[0]), *argv[1:]]
    return subprocess.run(command, check=False, capture_output=True, text=True, cwd=folder, env=environment(folder))


def test_the_tarball_holds_the_product_and_nothing_of_the_workshop(installed: Path) -> None:
    (tarball,) = installed.glob("sunset-crm-*.tar.gz")
    with tarfile.open(tarball) as archive:
        names = archive.getnames()
    tops = {name.split("/")[0] for name in names}
    assert {"plugins", "roles", "playbooks", "profiles", "docs", "meta", "README.md", "LICENSE"} <= tops
    assert not [name for name in names if name.startswith((".", "tests", "extensions")) or "__pycache__" in name]
    assert "scripts/statement" in names, "people sign with it at their own desks"
    assert "scripts/custodian" in names


def test_every_module_and_role_explains_itself(installed: Path) -> None:
    modules = sorted(path.stem for path in (TOP / "plugins" / "modules").glob("*.py"))
    shown = run(installed, "ansible-doc", "--json", *(f"sunset.crm.{name}" for name in modules))
    assert shown.returncode == 0, shown.stderr
    documents = json.loads(shown.stdout)
    assert sorted(documents) == [f"sunset.crm.{name}" for name in modules]
    for name, document in documents.items():
        assert document["examples"], name
        assert document["return"], name
    roles = sorted(f"sunset.crm.{path.name}" for path in (TOP / "roles").iterdir())
    shown = run(installed, "ansible-doc", "-t", "role", "--json", *roles)
    documents = json.loads(shown.stdout)
    assert sorted(documents) == roles
    assert all(document["entry_points"]["main"]["short_description"] for document in documents.values())


@pytest.mark.parametrize("name", sorted(path.stem for path in (TOP / "playbooks").glob("*.yml")))
def test_a_playbook_runs_by_its_full_name(installed: Path, name: str) -> None:
    inventory = installed / "hosts.yml"
    inventory.write_text("all: {hosts: {one: {ansible_connection: local}}}\n")
    done = run(installed, "ansible-playbook", "-i", str(inventory), "--syntax-check", f"sunset.crm.{name}")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("playbook", sorted(path.stem for path in (TOP / "playbooks").glob("*.yml")))
def test_a_wrong_inventory_is_no_success(installed: Path, playbook: str) -> None:
    (installed / "empty.ini").write_text("[somebody_elses]\n")
    done = run(installed, "ansible-playbook", "-i", "empty.ini", f"sunset.crm.{playbook}")
    assert done.returncode == 2 and "the inventory names no host in the group" in done.stdout + done.stderr, done.stdout
