# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A vault that is a directory on the control node: this machine is the control node, a container is the estate's one host.

Everything is real: ansible-playbook with a local connection that becomes another account, the run, its gates and its ledger. No account
is made for it: the vault's is one that every Debian has and nobody uses. It is become with su, to which Ansible hands modules as
files; sudo, which needs none, is played by a few lines of shell, since not every machine has it.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ansible_collections.sunset.crm.plugins.plugin_utils.record import ledger
from ansible_collections.sunset.crm.plugins.plugin_utils.record.estate import Estate
from tests.integration.host_container import HostContainer, docker
from tests.integration.test_gating import TOP, Gate
from tests.unit import builders

ACCOUNT = "backup"
VAULT, SOURCE, HOST = "deskvault", "desksource", "host:desksource"
FILES, CRM = "filestore:up", "database:crm"
MARKER = "Zoë Müster 4711"
# As sudo does: another account, nothing of the environment, the caller's directory.
SUDO = """#!/bin/sh
while [ "${1#-}" != "$1" ]; do case $1 in -u) user=$2; shift 2 ;; *) shift ;; esac; done
exec env -i PATH="$PATH" HOME=/var/backups runuser -u "$user" -- "$@"
"""
SETUP = f"""
ssh-keygen -A >/dev/null; systemctl start ssh
pg_createcluster --start-conf=auto 15 main -- --no-sync >/dev/null
printf 'fsync = off\\nmax_connections = 20\\nshared_buffers = 16MB\\n' >>/etc/postgresql/15/main/postgresql.conf
systemctl start postgresql@15-main
runuser -u postgres -- psql -q -c 'CREATE DATABASE crm'
runuser -u postgres -- psql -q -d crm -c "CREATE TABLE contact AS SELECT n, '{MARKER} ' || n AS name FROM generate_series(1, 700) n"
install -d -m 0700 /srv/up /srv/crm /root/.ssh; mkdir -p /srv/up/store/ünï
for n in 1 2 3; do echo '{MARKER}' >"/srv/up/store/ünï/$n.txt"; done; chown 905:44 /srv/up/store/ünï/1.txt
"""


class Desk(Gate):
    """One host in a container, and a vault that is a folder here."""

    def __init__(self, folder: Path, source: HostContainer) -> None:
        self.folder, self.source = folder, source
        self.account = pwd.getpwnam(ACCOUNT)
        self.root = Path(f"/var/tmp/sunset-desk-{os.getpid()}")
        self.temporary = Path(f"{self.root}-tmp")
        self.live = Path(f"/dev/shm/sunset-vault-{self.account.pw_uid}")
        self.root.mkdir(mode=0o700)
        os.chown(self.root, self.account.pw_uid, self.account.pw_gid)
        for name in ("control", "bob.age"):
            argv = ["age-keygen", "-o"] if name.endswith("age") else ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f"]
            subprocess.run([*argv, folder / name], check=True, capture_output=True)
        source.write("/root/.ssh/authorized_keys", (folder / "control.pub").read_text(), "0600")
        self.host_key = " ".join(source.read("/etc/ssh/ssh_host_ed25519_key.pub").split()[:2])
        self.address = docker("inspect", "-f", "{{.NetworkSettings.Networks.bridge.IPAddress}}", source.name).strip()
        self.keys = builders.make_keys(self._made("keys"))
        self.estate: Estate = builders.make_estate(folder / "estate", self.keys, self._plan())
        self.inventory = folder / "hosts.yml"
        self._write_inventory()

    def _write_inventory(self) -> None:
        (self.folder / "known_hosts").write_text(f"{self.address} {self.host_key}\n")
        common = {"sunset_estate": "acme", "sunset_estate_dir": str(self.estate.root), "sunset_confirm": "acme", "sunset_operator": "olga"}
        options = f"-F none -o UserKnownHostsFile={self.folder}/known_hosts -o IdentitiesOnly=yes"
        source = {"ansible_host": self.address, "ansible_user": "root", "ansible_ssh_private_key_file": str(self.folder / "control"),
                  "ansible_ssh_common_args": options}  # fmt: skip
        self.temporary.mkdir()
        self.temporary.chmod(0o1777)
        (self.folder / "sudo").write_text(SUDO)
        (self.folder / "sudo").chmod(0o755)
        vault = {
            "sunset_vault_root": str(self.root), "ansible_connection": "local", "ansible_pipelining": True, "ansible_become": True,
            "ansible_become_user": ACCOUNT, "ansible_become_method": "ansible.builtin.su", "ansible_become_flags": "-s /bin/sh",
            "ansible_system_tmpdirs": [str(self.temporary)],
        }  # fmt: skip
        hosts = {SOURCE: source, VAULT: vault, "gatestation": {"ansible_connection": "local"}}
        children = {"sunset_estate": {"hosts": {SOURCE: None}}, "sunset_vaults": {"hosts": {VAULT: None}}}
        self.inventory.write_text(yaml.safe_dump({"all": {"hosts": hosts, "vars": common, "children": children}}))

    def _plan(self) -> dict[str, Any]:
        host = builders.host(SOURCE, "only")
        host["identity"] = {"hostname": SOURCE, "machine_id": self.source.read("/etc/machine-id").strip()}
        host["expects"]["reach"] = {"address": self.address, "port": 22, "user": "root", "host_key": self.host_key}
        files = builders.filestore("up", SOURCE, "only", "toy")
        files.update(identity={"path": "/srv/up/store"}, expects={"path": "/srv/up/store", "staging": "/srv/up/.staging"})
        crm = builders.database("crm", SOURCE, "only", "toy")
        crm["identity"] = {"database": "crm"}
        crm["expects"]["staging"] = "/srv/crm/.staging"
        medium = builders.medium("toy", SOURCE, "only")
        medium["wipe"]["host"] = "gatestation"
        recipient = subprocess.run(["age-keygen", "-y", self.folder / "bob.age"], check=True, capture_output=True, text=True).stdout.strip()
        return builders.plan_data(
            waves=["only"],
            vaults={VAULT: {"root": str(self.root)}},
            custodians=[{"name": "bob", "recipient": recipient}],
            items=[host, files, crm, medium],
        )

    def environment(self) -> dict[str, str]:
        """Of an operator whose own places are closed to the vault's account, and who works with databases."""
        return {**super().environment(), "TMPDIR": str(self._closed()), "PGHOST": "db.example.org", "PGSERVICE": "none", "MYSQL_HOST": "db"}

    def _closed(self) -> Path:
        (self.folder / "closed").mkdir(mode=0o700, exist_ok=True)
        return self.folder / "closed"

    def run(self, *arguments: str, program: str = "ansible-playbook", **more: str) -> tuple[int, str]:
        line = [str(Path(sys.executable).with_name(program)), "-i", str(self.inventory), *arguments]
        # Started where the vault's account cannot even look.
        environment = {**self.environment(), **more}
        done = subprocess.run(line, cwd=self._closed(), env=environment, capture_output=True, text=True, timeout=400, check=False)
        return done.returncode, " ".join((done.stdout + done.stderr).split())

    def by_sudo(self) -> str:
        """Variables; there is no place for temporary files."""
        become = {"method": "ansible.builtin.sudo", "exe": str(self.folder / "sudo"), "flags": "-H -S -n"}
        places = {"ansible_system_tmpdirs": ["/proc/none"], "ansible_remote_tmp": "/proc/none"}
        return json.dumps({**{f"ansible_become_{name}": value for name, value in become.items()}, **places})

    def retire(self, *arguments: str) -> tuple[int, str]:
        """What playbooks/shutdown.yml does between stopping and powering off."""
        role = lambda name, **more: {"ansible.builtin.include_role": {"name": f"sunset.crm.{name}", **more}}  # noqa: E731
        takes_back = {"sunset.crm.vault_access": {"item": HOST, "vault": VAULT, "state": "absent"}}
        plays: list[dict[str, Any]] = [
            {"import_playbook": str(TOP / "playbooks/internal/open.yml"), "vars": {"sunset_phase": "shutdown"}},
            {"hosts": VAULT, "gather_facts": False, "tasks": [role("vault", tasks_from="open.yml")]},
            {"hosts": SOURCE, "gather_facts": False, "tasks": [role("preserve")]},
            {"hosts": VAULT, "gather_facts": False, "tasks": [role("vault")]},
            {"hosts": SOURCE, "gather_facts": False, "tasks": [takes_back]},
        ]
        path = self.folder / "retire.yml"
        path.write_text(yaml.safe_dump(plays, sort_keys=False))
        return self.run(str(path), *arguments)

    def outcomes(self) -> dict[tuple[str, str], dict[str, Any]]:
        return {(record["item"], record["aspect"]): record for record in self.records("outcome") if record["status"] == "done"}


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    if os.geteuid() != 0:
        pytest.skip("to become another account without its password needs root")
    if not Path("/usr/lib/postgresql").is_dir() or not shutil.which("zstd"):
        pytest.skip("this machine lacks what a vault needs: postgresql, zstd")
    with HostContainer(f"sunset-test-desk-{os.getpid()}") as source:
        docker("network", "disconnect", "none", source.name)
        docker("network", "connect", "bridge", source.name)
        source.shell(SETUP)
        made = None
        try:
            made = Desk(tmp_path_factory.mktemp("desk"), source)
            yield made
        finally:
            if made is not None:
                shutil.rmtree(made.root)
                shutil.rmtree(made.temporary)
                shutil.rmtree(made.live / "acme", ignore_errors=True)


def test_root_is_no_vault(desk: Desk) -> None:
    """Whoever forgets to become another account is told before anything happens."""
    code, out = desk.retire("-e", json.dumps({"ansible_become": False, "ansible_remote_tmp": str(desk.folder / "tmp")}))
    assert code != 0 and "its account is root, which proves nothing" in out, out
    assert list(desk.root.iterdir()) == [] and desk.source.run("find", "/srv/up", "/srv/crm", "-name", ".staging") == ""


def test_a_place_that_the_account_cannot_write_is_told(desk: Desk) -> None:
    os.chown(desk.root, 0, 0)
    try:
        code, out = desk.retire()
        assert code != 0 and f"{desk.root} cannot be written by the vault's account" in out, out
    finally:
        os.chown(desk.root, desk.account.pw_uid, desk.account.pw_gid)


def test_no_other_account_reads_a_module_on_its_way(desk: Desk) -> None:
    """su: the module is a file for a moment, which the vault's account may read and nobody else. sudo: it never is one."""
    probe = (VAULT, "-m", "sunset.crm.vault_probe", "-a", f"root={desk.root}")
    code, out = desk.run(*probe, program="ansible", ANSIBLE_KEEP_REMOTE_FILES="1")
    (folder,) = desk.temporary.iterdir()
    assert code == 0 and f"uid: {desk.account.pw_uid}" in out and list(folder.iterdir()), out
    assert stat.S_IMODE(folder.stat().st_mode) & 0o007 == 0
    shutil.rmtree(folder)
    code, out = desk.run(*probe, "-e", desk.by_sudo(), program="ansible")
    assert code == 0, out


def test_a_host_is_copied_proven_and_sealed(desk: Desk) -> None:
    code, out = desk.retire("--check")
    assert code == 0 and list(desk.root.iterdir()) == [], out
    code, out = desk.retire()
    assert code == 0, out
    seen = desk.outcomes()
    assert seen[FILES, f"proof@{VAULT}"]["evidence"]["result"]["verdict"] == "equal"
    assert seen[CRM, f"proof@{VAULT}"]["evidence"]["result"]["rows"] == 700
    assert seen[HOST, f"package@{VAULT}"]["value"] == "sealed"
    assert (desk.root / "acme" / SOURCE / "tagmanifest-sha256.txt.sig").is_file()
    code, out = desk.retire()
    assert code == 0 and f"{VAULT} : ok=" in out and "changed=1" not in out, out


def test_nobody_else_can_read_it(desk: Desk) -> None:
    paths = [path for top in (desk.root, desk.live / "acme") for path in (top, *top.rglob("*"))]
    assert len(paths) > 20
    for path in paths:
        facts = path.lstat()
        assert facts.st_uid == desk.account.pw_uid, path
        assert stat.S_IMODE(facts.st_mode) & 0o077 == 0 and not stat.S_ISLNK(facts.st_mode), path
    assert stat.S_IMODE(desk.live.stat().st_mode) == 0o700
    words = MARKER.encode()
    assert not [path for path in paths if path.is_file() and (words in path.read_bytes() or b"PGDMP" in path.read_bytes())]
    # Others on this machine make and remove such places too.
    left = []
    for path in Path("/dev/shm").glob("sv-*"):
        with contextlib.suppress(OSError):
            left += [path] if path.stat().st_uid == desk.account.pw_uid else []
    assert left == []
    assert list(desk.temporary.iterdir()) == []


def test_the_record_is_called_what_it_is(desk: Desk) -> None:
    """A receiver on the control node would be no second hand: the inventory's word for it does not count."""
    head = next(record for record in desk.records("run"))
    assert head["append_only"] == []
    receiver = {"sunset_ledger_receiver": {"user": "ledger", "key": "/none", "known_hosts": "/none"}}
    code, out = desk.retire("-e", json.dumps(receiver))
    assert code == 0, out
    assert [record["append_only"] for record in desk.records("run")][-1] == []


def test_it_is_verified_and_proven_again(desk: Desk) -> None:
    code, out = desk.run(str(TOP / "playbooks/verify.yml"))
    assert code == 0, out
    lent = desk.live / "acme" / f"{SOURCE}.lent"
    argv = [TOP / "scripts/custodian", "lend", "--identity", desk.folder / "bob.age", desk.root / f"acme/keys/{SOURCE}.bob.age"]
    plain = subprocess.run(argv, check=True, capture_output=True).stdout
    subprocess.run(["runuser", "-u", ACCOUNT, "--", "sh", "-c", f"umask 077; cat >{lent}"], input=plain, check=True)
    code, out = desk.run(str(TOP / "playbooks/verify.yml"), "-e", "sunset_verify_proof=true", "-e", desk.by_sudo())
    assert code == 0, out
    told = [entry.record for entry in ledger.read(desk.estate.ledger_file) if entry.record["kind"] == "verified"][-1]
    (package,) = told["packages"]
    assert told["verdict"] == "intact" and {one["item"]: one["verdict"] for one in package["proofs"]} == {FILES: "equal", CRM: "equal"}
    assert package["signature"]["signer"] == "run" and package["lent_destroyed"] == ["data"] and not lent.exists()
