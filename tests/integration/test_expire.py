# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sealed, verified, held, destroyed: with the real playbooks, ssh-keygen and age, on a made-up estate whose vault is a folder here.

What a shutdown would have brought (the copy and its proof) is put into the ledger and the package by hand; everything after it is real.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ansible_collections.sunset.crm.plugins.plugin_utils.people import signatures
from ansible_collections.sunset.crm.plugins.plugin_utils.record import ledger
from tests.integration.test_gating import FILES, TOP, Gate
from tests.unit import builders

Result = dict[str, Any]
LIVE = Path(f"/dev/shm/sunset-expire-{os.getpid()}")
HOST, VAULT = "host:gate1", "gatevault"


class Retired(Gate):
    """A host whose package can be sealed."""

    def __init__(self, folder: Path) -> None:
        subprocess.run(["age-keygen", "-o", folder / "bob.age"], check=True, capture_output=True)
        made = subprocess.run(["age-keygen", "-y", folder / "bob.age"], check=True, capture_output=True, text=True)
        self.recipient = made.stdout.strip()
        super().__init__(folder)
        hosts = yaml.safe_load(self.inventory.read_text())
        hosts["all"]["vars"] |= {"sunset_estate": "acme", "sunset_operator": "olga"}
        variables = {"sunset_vault_root": str(folder / "vault"), "sunset_vault_live_dir": str(LIVE)}
        hosts["all"]["children"]["sunset_vaults"] = {"hosts": {VAULT: variables}}
        self.inventory.write_text(yaml.safe_dump(hosts))
        self.bag = folder / "vault/acme/gate1"
        self.aside = folder

    def _plan(self) -> Result:
        plan = super()._plan()
        plan["vaults"][VAULT]["live_dir"] = str(LIVE)
        plan["custodians"] = [{"name": "bob", "recipient": self.recipient}]
        plan["settings"] = {"retention": {"default": {"class": "books", "until": "2020-12-31"}}}
        return plan

    def package(self, state: str) -> tuple[int, str]:
        opening = {"hosts": "all", "tasks": [{"sunset.crm.run_open": {"phase": "shutdown", "confirm": "acme"}, "run_once": True}]}
        return self.play(opening, {"hosts": VAULT, "tasks": [{"sunset.crm.vault_package": {"item": HOST, "state": state}}]})

    def fill(self) -> None:
        """One stored and proven artefact, as pull and proof leave it, and their words in the ledger."""
        record = json.loads((self.folder / "vault/acme/state/gate1/package.json").read_text())
        plain, folder = b"customers' files", self.bag / "data/filestore-toy"
        folder.mkdir(mode=0o700)
        subprocess.run(["age", "-r", record["recipient"], "-o", folder / "toy.tar.age"], input=plain, check=True)
        cipher = (folder / "toy.tar.age").read_bytes()
        digests = {"sha256": hashlib.sha256(plain).hexdigest(), "cipher_sha256": hashlib.sha256(cipher).hexdigest()}
        entry = {"name": "toy", "file": "toy.tar", "role": "archive", "bytes": len(plain), "cipher_bytes": len(cipher), **digests}
        state = self.folder / "vault/acme/state/gate1"
        (state / "filestore-toy.stored.json").write_text(json.dumps({"item": FILES, "complete": True, "artefacts": [entry]}))
        proof = {
            "verdict": "equal",
            "proof": "filestore",
            "cipher_sha256": [digests["cipher_sha256"]],
            "source": {},
            "result": {},
            "proven": "x",
        }
        (state / "filestore-toy.proof.json").write_text(json.dumps(proof))
        book = builders.Book(self.estate.plan())
        book.step(HOST, "vault_package", "open", VAULT, result={"identity_digest": record["identity_digest"]})
        book.step(FILES, "filestore_archive", None, result=builders.dump_result(FILES))
        for module in ("vault_pull", "vault_prove"):
            book.step(FILES, module, None, VAULT)
        builders.write_ledger(self.estate.ledger_file, book)

    def verified(self) -> Result:
        lines = (self.estate.root / "verify.jsonl").read_text().splitlines()
        found: Result = json.loads(lines[-1])
        return found

    def say(self, *words: str, who: str = "bob") -> Path:
        """A person's signed word, by the person's own helper."""
        out = self.folder / "said"
        shutil.rmtree(out, ignore_errors=True)
        argv = [str(TOP / "scripts/statement"), words[0], "--key", str(self.keys[who]), "--yes", "acme", "--out", str(out), *words[1:]]
        subprocess.run(argv, check=True, capture_output=True)
        (path,) = out.glob("*.json")
        self.estate.statements_folder.mkdir(exist_ok=True)
        for one in (path, path.with_name(path.name + ".sig")):
            shutil.copy(one, self.estate.statements_folder)
        return self.estate.statements_folder / path.name

    def destroy_word(self, who: str = "bob") -> Path:
        listed = str(self.estate.root / "verify.jsonl")
        return self.say("destroy", "--vault", VAULT, "--listed", listed, "--reason", "due", str(self.estate.plan_file), "gate1", who=who)

    def left(self) -> dict[str, str]:
        """Every file of the vault."""
        paths = [path for path in sorted((self.folder / "vault").rglob("*")) if path.is_file()]
        return {str(path.relative_to(self.folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}

    def remove(self, path: Path) -> None:
        path.unlink()
        path.with_name(path.name + ".sig").unlink()


@pytest.fixture(scope="module")
def retired(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Retired]:
    made = Retired(tmp_path_factory.mktemp("retired"))
    try:
        code, out = made.package("open")
        assert code == 0, out
        made.fill()
        # The vault was restarted: what the lost identity encrypted is moved aside, and the package begun again.
        (LIVE / "acme/gate1.identity").unlink()
        code, out = made.package("open")
        assert code == 0, out
        made.fill()
        code, out = made.package("sealed")
        assert code == 0, out
        (made.aside,) = (made.folder / "vault/acme/abandoned").iterdir()
        assert (made.aside / "package/data/filestore-toy/toy.tar.age").exists() and (made.aside / "gate1.bob.age").exists()
        yield made
    finally:
        shutil.rmtree(LIVE, ignore_errors=True)


def test_the_seal_is_signed_and_marked_by_the_plan(retired: Retired) -> None:
    text, signature = (retired.bag / "tagmanifest-sha256.txt").read_bytes(), (retired.bag / "tagmanifest-sha256.txt.sig").read_text()
    assert signatures.verify(text, signature, retired.estate.signers(retired.estate.plan()), signatures.PACKAGE) == "run"
    outcome = next(e.record for e in reversed(ledger.read(retired.estate.ledger_file)) if e.record.get("value") == "sealed" and e.record["kind"] == "outcome")  # fmt: skip
    assert outcome["status"] == "done" and outcome["evidence"]["result"]["retention"] == {
        "class": "books",
        "until": "2020-12-31",
        "hold": False,
    }
    acts = [act.get("act") for act in outcome["evidence"]["actions"]]
    assert "wrote the bag" in acts and "put the signature beside the tag manifest" in acts
    assert "Sunset-Retention-Class: books" in (retired.bag / "bag-info.txt").read_text()
    code, out = retired.package("sealed")
    assert code == 0 and "changed=0" in out


def test_a_task_cannot_choose_the_retention(retired: Retired) -> None:
    opening = {"hosts": "all", "tasks": [{"sunset.crm.run_open": {"phase": "shutdown", "confirm": "acme"}, "run_once": True}]}
    word = {"item": HOST, "state": "open", "retention": {"class": "none"}}
    code, out = retired.play(opening, {"hosts": VAULT, "tasks": [{"sunset.crm.vault_package": {**word}}]})
    assert code != 0 or "changed=0" in out
    assert "Sunset-Retention-Class: books" in (retired.bag / "bag-info.txt").read_text()


def test_verified_by_schedule(retired: Retired) -> None:
    before = retired.left()
    code, out = retired.run("playbooks/verify.yml")
    assert code == 0 and "changed=0" in out, out
    told = retired.verified()
    assert (told["verdict"], told["past_retention"], told["on_hold"]) == ("intact", ["gate1"], [])
    assert told["packages"][0]["signature"]["signer"] == "run"
    (superseded,) = told["packages"][0]["superseded"]
    assert (
        superseded["place"] == str(retired.aside) and superseded["retention"] == {"past": "unknown"} and superseded["custodians"] == ["bob"]
    )
    assert ledger.read(retired.estate.ledger_file)[-1].record["kind"] == "verified"
    assert retired.left() == before
    file = next((retired.bag / "data").rglob("toy.tar.age"))
    good = file.read_bytes()
    file.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    try:
        code, out = retired.run("playbooks/verify.yml")
        assert code != 0 and "data/filestore-toy/toy.tar.age is damaged" in out, out
        assert retired.verified()["verdict"] == "damaged"
    finally:
        file.write_bytes(good)
    shutil.move(retired.bag, retired.folder / "away")
    try:
        code, out = retired.run("playbooks/verify.yml")
        assert code != 0 and "gate1: the package" in out and "is not there" in out
    finally:
        shutil.move(retired.folder / "away", retired.bag)


def test_verified_without_the_estate(retired: Retired, tmp_path: Path) -> None:
    """No ledger, no plan: the result goes to the log that is named."""
    log = tmp_path / "log/verify.jsonl"
    count = len(ledger.read(retired.estate.ledger_file))
    options = ("-e", "sunset_estate_dir=", "-e", f"sunset_verify_log={log}")
    code, out = retired.run("playbooks/verify.yml", *options)
    assert code != 0 and "nobody said whose key counts" in out, out
    assert json.loads(log.read_text())["verdict"] == "unknown"
    log.unlink()
    signers = tmp_path / "signers.json"
    signers.write_text(json.dumps({"sunset_verify_signers": retired.estate.signers(retired.estate.plan())}))
    code, out = retired.run("playbooks/verify.yml", *options, "-e", f"@{signers}")
    assert code == 0, out
    assert json.loads(log.read_text())["verdict"] == "intact" and len(ledger.read(retired.estate.ledger_file)) == count
    code, out = retired.run("playbooks/verify.yml", "-e", "sunset_estate_dir=")
    assert code != 0 and "log is not set" in out


def test_the_end_of_a_package(retired: Retired) -> None:
    """Refused while anything speaks against it, one after the other; then done once, and never again."""
    expire = lambda *more: retired.run("playbooks/expire.yml", *more)  # noqa: E731
    before = retired.left()
    retired.run("playbooks/verify.yml")
    code, out = expire()
    assert code != 0 and "no signed statement names a package" in out
    own = retired.destroy_word("carol")
    code, out = expire("-e", "sunset_operator=carol")
    assert code != 0 and "its signer is the operator of this run" in out
    retired.remove(own)

    hold = retired.say("hold", "--reason", "a suit", str(retired.estate.plan_file), FILES, who="carol")
    good = retired.destroy_word()
    code, out = expire()
    assert code != 0 and f"legal hold {hold.name} by carol" in out
    code, out = retired.run("playbooks/verify.yml")
    assert code == 0 and retired.verified()["on_hold"] == ["gate1"]
    kept = (hold.read_bytes(), hold.with_name(hold.name + ".sig").read_bytes())
    retired.remove(hold)
    code, out = expire()
    assert code != 0 and f"the legal hold {hold.name}, which the ledger knows, is no longer among the statements" in out
    hold.write_bytes(kept[0])
    hold.with_name(hold.name + ".sig").write_bytes(kept[1])
    hold.write_bytes(kept[0] + b" ")
    code, out = expire()
    assert code != 0 and "says that it is a legal hold, but cannot be counted" in out
    hold.write_bytes(kept[0])
    retired.say("lift", "--reason", "settled", str(retired.estate.plan_file), str(hold))
    longer = retired.say("extend", "--until", "2999-12-31", "--reason", "audit", str(retired.estate.plan_file), "gate1", who="carol")
    code, out = expire()
    assert code != 0 and "it is to be kept until 2999-12-31" in out
    assert retired.left() == before, "nothing of all this touched the vault"

    # The extension cannot be taken back; this ledger is made to forget it, as no command can.
    retired.remove(longer)
    lines = retired.estate.ledger_file.read_bytes().splitlines(keepends=True)
    first = next(number for number, line in enumerate(lines) if longer.name.encode() in line)
    retired.estate.ledger_file.write_bytes(b"".join(lines[:first]))
    code, out = expire("--check")
    assert code == 0 or "not finished" in out
    assert retired.left() == before
    code, out = expire()
    assert code == 0 and "changed=1" in out, out
    assert (
        not (retired.bag / "data").exists() and not list((retired.folder / "vault/acme/keys").iterdir()) and not list(LIVE.rglob("gate1.*"))
    )
    assert not list((retired.folder / "vault/acme/abandoned").iterdir())
    stone = json.loads((retired.bag / "DESTROYED.json").read_text())
    assert [one["place"] for one in stone["superseded"]] == [str(retired.aside)]
    assert json.loads(good.read_text())["packages"][0]["superseded"] == [retired.aside.name]
    assert stone["statement_sha256"] == hashlib.sha256(good.read_bytes()).hexdigest()
    after = retired.left()
    code, out = expire()
    assert code == 0 and "changed=0" in out, out
    code, out = expire("--check")
    assert code == 0 and "changed=0" in out, out
    code, out = retired.run("playbooks/verify.yml")
    assert code == 0 and retired.verified()["packages"][0]["verdict"] == "destroyed"
    code, out = retired.package("open")
    assert code != 0 and "not begun again under its name" in out
    assert retired.left() == after
