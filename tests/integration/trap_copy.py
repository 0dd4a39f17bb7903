# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A restored copy that stays up, so that a test can damage it and see what the comparison says.

The restore and the comparison are the product's own (`prove_database`, run as the vault's user, in a throw-away server). Only two
things are replaced: the artefacts come from the staging place instead of a package, and the comparison is made as often as asked.
"""

from __future__ import annotations

import json
import re
import subprocess
from typing import Any

from tests.integration.host_container import LIBRARY, HostContainer

HOLDER = f"""
import hashlib, json, os, subprocess, sys, types
sys.path.insert(0, {LIBRARY!r})
from ansible_collections.sunset.crm.plugins.module_utils._fingerprint import engines as fingerprint_engines
from ansible_collections.sunset.crm.plugins.module_utils._proof import run as prove
from ansible_collections.sunset.crm.plugins.module_utils._vault import state as vault_state
job = json.loads(sys.stdin.readline())
taken = fingerprint_engines.take

def say(value):
    sys.stdout.write(json.dumps(value) + "\\n")
    sys.stdout.flush()

class Staged(prove.Artefacts):
    def open(self, entry, sink):
        child = subprocess.Popen(["zstd", "-qdc", entry["path"]], stdout=subprocess.PIPE)
        digest = hashlib.sha256()
        for block in iter(lambda: child.stdout.read(1 << 20), b""):
            digest.update(block)
            sink(block)
        assert child.wait() == 0 and digest.hexdigest() == entry["plain_sha256"], entry["name"]
        self.checked.append(entry["name"])

def held(engine, session, database, method=None, progress=None, apart=()):
    found = taken(engine, session, database, method=method, apart=apart)
    say({{"restored": True}})
    for line in sys.stdin:
        order = json.loads(line)
        if order["do"] == "end":
            break
        if order["do"] == "rows":
            say([one.decode("utf-8", "replace") for one in session.lines(order["sql"])])
            continue
        if engine == "postgresql":
            session.lines("ROLLBACK"); session.lines("BEGIN READ WRITE")
        try:
            for sql in order["sql"]:
                session.lines(sql)
        except Exception as error:
            say("the statement failed: " + str(error))
            raise
        now = prove.without_own(taken(engine, session, database, method=method, apart=apart))
        if engine == "postgresql":
            session.lines("ROLLBACK"); session.lines(prove.fingerprint_engines.fingerprint_pg.PINS[-1])
        rest, allowed = prove.allow(fingerprint_engines.compare(wanted, now), job.get("allowed", []), wanted, now)
        say(rest + [{{"kind": "allowed", "name": one, "what": "", "derived": False}} for one in allowed])
    return found

package = types.SimpleNamespace(root="/srv/trap", estate="trap", name=job["name"])
artefacts = Staged(package, job["item"], job["artefacts"], types.SimpleNamespace(note=lambda **_facts: None))
try:
    wanted = json.loads(artefacts.text(artefacts.one("fingerprint")).decode())
    if job["hold"]:
        fingerprint_engines.take = held
    say({{"result": prove.prove_database(job["engine"], artefacts, job["source"], "/dev/shm", {{"readable": {{"tables": False}}}})}})
except vault_state.VaultError as error:
    say({{"error": str(error), "verdict": error.verdict}})
"""


class TrapHost(HostContainer):
    """A source host that is its own vault; its proofs run as the user `vault`."""

    def __init__(self, name: str, *arguments: str) -> None:
        # The engine's own filter keeps namespaces from being made; the vault of these tests may, as a machine of its own would.
        super().__init__(name, "--shm-size", "2g", "--security-opt", "seccomp=unconfined", *arguments)

    def dump(self, engine: str, database: str, **more: Any) -> dict[str, Any]:
        options = {
            "item": f"database:{re.sub('[^a-z0-9]+', '-', database.lower())}",
            "engine": engine,
            "database": database,
            "staging": "/srv/staging",
        }
        answer = self.module("database_dump", **{**options, **more})
        assert answer["evidence"]["verdict"] == "yes"
        result = answer["result"]
        assert isinstance(result, dict)
        return result

    def holder(self, engine: str, result: dict[str, Any], name: str, hold: bool, allowed: Any = ()) -> Holder:
        copies = []
        for one in result["artefacts"]:
            self.shell(f"install -d -o vault /srv/given/{name}; install -o vault -m 0400 {one['path']} /srv/given/{name}/{one['name']}")
            copies.append({**one, "path": f"/srv/given/{name}/{one['name']}"})
        job = {"engine": engine, "item": f"database:{name}", "name": name, "artefacts": copies, "source": result["source"], "hold": hold}
        job["allowed"] = list(allowed)
        return Holder(self.name, job)

    def prove(self, engine: str, result: dict[str, Any], name: str) -> dict[str, Any]:
        """The proof of a staged dump: its result, or {error, verdict}."""
        with self.holder(engine, result, name, False) as holder:
            answer = holder.answer()
        return dict(answer.get("result") or answer)


class Holder:
    """The conversation with a restored copy."""

    def __init__(self, container: str, job: dict[str, Any]) -> None:
        argv = ["docker", "exec", "-i", "-u", "vault", container, "python3", "-c", HOLDER]
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.send(job)

    def __enter__(self) -> Holder:
        return self

    def __exit__(self, *_exception: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(60)

    def send(self, value: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(value).encode() + b"\n")
        self.process.stdin.flush()

    def answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the copy's process ended without a word"
        return json.loads(line)

    def changed(self, *statements: str) -> list[dict[str, Any]]:
        """What differs after these statements were run on the copy (PostgreSQL: they are rolled back afterwards)."""
        self.send({"do": "compare", "sql": statements})
        found = self.answer()
        assert isinstance(found, list), found
        return found

    def rows(self, sql: str) -> list[str]:
        self.send({"do": "rows", "sql": sql})
        return list(self.answer())

    def end(self) -> dict[str, Any]:
        self.send({"do": "end"})
        answer = self.answer()
        return dict(answer.get("result") or answer)


def told(differences: list[dict[str, Any]]) -> set[str]:
    """ "kind name: what" of each difference that decides."""
    return {f"{one['kind']} {one['name']}: {one['what']}" for one in differences if not one["derived"]}
