# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A small estate for tests: its plan, the ledger of a complete retirement, and people who can sign.

Two waves (old1; then app1, db1, dock1), two vaults, one station. complete() is every step in its order, so that a test
can take one piece of evidence away and see which gate closes.
"""

from __future__ import annotations

import copy
import json
import subprocess
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from ansible_collections.sunset.crm.plugins.module_utils._volume import chain as volume_chain
from ansible_collections.sunset.crm.plugins.plugin_utils.people import statements
from ansible_collections.sunset.crm.plugins.plugin_utils.planning import plan
from ansible_collections.sunset.crm.plugins.plugin_utils.record import ledger, view
from ansible_collections.sunset.crm.plugins.plugin_utils.record.ledger import Entry
from ansible_collections.sunset.crm.plugins.plugin_utils.runs import runs
from ansible_collections.sunset.crm.plugins.plugin_utils.steps import grounds, steps

VAULTS = ("vault1", "vault2")
NOW = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
LONG_AGO = "2026-01-01T00:00:00.000000Z"
# Test keys are made once in a test run; the names are the principals.
PEOPLE = ("alice", "bob", "carol", "operator")

Record = dict[str, Any]
Key = tuple[str, str]


# --- the plan ---


def host(name: str, wave: str) -> Record:
    return {
        "id": f"host:{name}", "kind": "host", "host": name, "wave": wave, "stands_on": [],
        "identity": {"machine_id": f"id-of-{name}", "hostname": name},
        "expects": {
            "power": {"kind": "docker", "container": name},
            "reach": {"address": name, "port": 22, "user": "root", "host_key": "ssh-ed25519 AAAA"},
        },
    }  # fmt: skip


def application(name: str, where: str, wave: str, uses: list[str], database: str) -> Record:
    return {
        "id": f"application:{name}", "kind": "application", "host": where, "wave": wave,
        "identity": {"files": {f"/etc/{name}": "1"}}, "stands_on": sorted([*uses, f"host:{where}"]),
        "expects": {
            "schedulers": {"units": [f"{name}-jobs.service"], "cron_files": [f"/etc/cron.d/{name}"]},
            "web": {"server": "nginx", "site": f"/etc/nginx/sites-enabled/{name}.conf", "probes": ["http://127.0.0.1/"]},
            "sessions": {"database": database, "table": "django_session"},
            "services": [{"unit": f"{name}-web.service", "ports": [8000]}],
        },
    }  # fmt: skip


def database(name: str, where: str, wave: str, medium: str) -> Record:
    return {
        "id": f"database:{name}", "kind": "database", "host": where, "wave": wave, "stands_on": [f"host:{where}"],
        "identity": {"system_identifier": f"system-{name}", "database": name, "oid": 16384}, "media": [f"medium:{medium}"],
        "expects": {
            "engine": "postgresql", "database": name, "unit": "postgresql@15-main.service", "port": 5432,
            "staging": f"/var/lib/{name}/.sunset-staging",
        },
    }  # fmt: skip


def filestore(name: str, where: str, wave: str, medium: str) -> Record:
    return {
        "id": f"filestore:{name}", "kind": "filestore", "host": where, "wave": wave, "stands_on": [f"host:{where}"],
        "identity": {"path": f"/srv/{name}", "inode": 2, "fs_uuid": f"uuid-{name}"}, "media": [f"medium:{medium}"],
        "expects": {"path": f"/srv/{name}", "staging": f"/srv/{name}/.sunset-staging"},
    }  # fmt: skip


def container(name: str, where: str, wave: str, volume: str, medium: str) -> Record:
    return {
        "id": f"container:{name}", "kind": "container", "host": where, "wave": wave, "media": [f"medium:{medium}"],
        "identity": {"containers": [f"{name}-web", f"{name}-db"]}, "stands_on": sorted([volume, f"host:{where}"]),
        "expects": {"label": f"stack={name}", "staging": f"/srv/{name}/.sunset-staging"},
    }  # fmt: skip


def guest(name: str, where: str, wave: str, guests: list[str], **more: Any) -> dict[str, Any]:
    return {
        "id": f"guest:{name}", "kind": "guest", "host": where, "wave": wave, "stands_on": [f"host:{where}"], "media": [],
        "identity": {"guests": guests, "uuids": {one: f"uuid-{one}" for one in guests}, "hypervisor": {"uuid": "h"}},
        "expects": {"backend": "libvirt", "guests": guests, "staging": f"/srv/{name}/.sunset-staging", **more},
    }  # fmt: skip


def medium(name: str, where: str, wave: str) -> Record:
    return {
        "id": f"medium:{name}", "kind": "medium", "host": where, "wave": wave, "stands_on": [],
        "identity": {"kind": "loop", "serial": f"serial-{name}", "inode": 7, "size": 64 << 20},
        "expects": {"device": "/dev/loop7"}, "wipe": {"way": "station", "host": "station1"},
    }  # fmt: skip


def virtual_medium(name: str, where: str, wave: str, guest_name: str = "a", path: str = "") -> Record:
    """A disk of a guest whose hypervisor stays."""
    layers = [
        {"path": path or f"/images/{name}.qcow2", "format": "qcow2", "kind": "file", "inode": 7, "virtual_bytes": 8388608},
    ]
    return {
        "id": f"medium:{name}", "kind": "medium", "host": where, "wave": wave, "identity": volume_chain.identity(layers), "stands_on": [],
        "expects": {"device": layers[0]["path"], "layers": layers, "guests": [[guest_name, "vda"]]},
        "wipe": {"way": "in-place", "host": where, "method": "overwrite"},
    }  # fmt: skip


def plan_data(**changes: Any) -> Record:
    """The plan as it lies in plan.json; changes replace top-level fields."""
    return {
        "schema": plan.SCHEMA,
        "estate": "acme",
        "control": "dual",
        "waves": ["pilot", "main"],
        "vaults": {name: {"root": "/srv/vault"} for name in VAULTS},
        "custodians": [{"name": "bob", "recipient": "age1bob"}, {"name": "carol", "recipient": "age1carol"}],
        "settings": {},
        "allowed_signers": "nobody",
        "items": [
            host("old1", "pilot"),
            application("old", "old1", "pilot", ["database:old"], "database:old"),
            database("old", "old1", "pilot", "mydata"),
            medium("mydata", "old1", "pilot"),
            host("app1", "main"),
            application("creme", "app1", "main", ["database:creme", "filestore:uploads"], "database:creme"),
            filestore("uploads", "app1", "main", "uploads"),
            medium("uploads", "app1", "main"),
            host("db1", "main"),
            database("creme", "db1", "main", "pgdata"),
            medium("pgdata", "db1", "main"),
            host("dock1", "main"),
            container("shop", "dock1", "main", "filestore:shop-data", "shopvol"),
            filestore("shop-data", "dock1", "main", "shopvol"),
            medium("shopvol", "dock1", "main"),
        ],
        "findings": [],
        **changes,
    }


def plan_bytes(data: Record) -> bytes:
    return (json.dumps(data, indent=1, sort_keys=True) + "\n").encode()


def make_plan(data: Record | None = None) -> plan.Plan:
    return plan.parse(plan_bytes(data if data is not None else plan_data()))


def item_of(data: Record, item_id: str) -> Record:
    return next(item for item in data["items"] if item["id"] == item_id)


# --- the ledger ---


class Book:
    """A ledger in memory: numbered entries, each step an intent and an outcome."""

    def __init__(self, current: plan.Plan) -> None:
        self.plan = current
        self.entries: list[Entry] = []

    def add(self, at: str = LONG_AGO, **record: Any) -> Entry:
        entry = Entry(len(self.entries), f"{len(self.entries):064x}", {"at": at, **record})
        self.entries.append(entry)
        return entry

    def head(self, item_id: str, step: steps.Step, vault: str = "") -> Record:
        item = self.plan.items[item_id]
        return {
            "item": item_id, "subject": plan.subject(item), "aspect": step.key(vault), "value": step.value, "wave": item["wave"],
            "back": step.back, "irreversible": step.irreversible,
        }  # fmt: skip

    def step(self, item_id: str, module: str, state: str | None = None, vault: str = "", status: str | None = "done", **more: Any) -> None:
        """One step; status None: interrupted. more: result, about, former, at, changed."""
        step = steps.find(module, {"state": state})
        head = self.head(item_id, step, vault)
        if step.per_vault and "about" not in more:
            more["about"] = self.about(item_id, vault)
        head["about"] = more.get("about", {})
        intent = self.add(kind="intent", former=more.get("former", {}), **head)
        if status is not None:
            evidence = {"result": more.get("result", {}), "before": {}}
            if "changed" in more:
                head["changed"] = more["changed"]
            self.add(more.get("at", LONG_AGO), kind="outcome", intent=intent.hash, status=status, evidence=evidence, **head)

    def about(self, item_id: str, vault: str) -> Record:
        seen, item = self.view(), self.plan.items[item_id]
        current = seen.dump(self.plan, item)
        return {"dump": view.dump_id(current.result), "package": seen.identity(item["host"], vault)} if current else {}

    def view(self) -> view.View:
        return view.build(self.entries, plan=self.plan)

    def without(self, key: Key) -> Book:
        """The same ledger without anything about one aspect of one item, or (wave, "accepted") without that acceptance."""
        other = Book(self.plan)
        other.entries = [entry for entry in self.entries if key_of(entry) != key]
        return other

    def pieces(self) -> list[Key]:
        """Every piece of evidence that is there."""
        return sorted({key_of(entry) for entry in self.entries})


def key_of(entry: Entry) -> Key:
    record = entry.record
    return (record["wave"], "accepted") if record["kind"] == "accepted" else (record["item"], record["aspect"])


def dump_result(item_id: str, number: int = 1) -> Record:
    return {"dump_id": f"{item_id}#{number}", "artefacts": [{"name": "a", "role": "dump", "sha256": "ab" * 32}]}


def shut(book: Book, wave: str) -> None:
    """Everything that the shutdown of one wave records."""
    at = book.plan
    for app in at.of("application", wave=wave):
        book.step(app["id"], "scheduler_state", "frozen", former={"units": {}})
        book.step(app["id"], "web_closed", "closed", former={"site": "x"})
        book.step(app["id"], "session_end")
        book.step(app["id"], "service_state", "stopped", former={"services": {}})
    for box in at.of("container", wave=wave):
        book.step(box["id"], "docker_guests", "stopped", former={"web": "running"})
    keepers = [found for found in at.of("host", wave=wave) if at.of(*plan.DATA_SETS, host=found["host"])]
    for keeper in keepers:
        for vault in VAULTS:
            book.step(keeper["id"], "vault_package", "open", vault, result={"identity_digest": f"{keeper['id']}@{vault}"})
            book.step(keeper["id"], "vault_access", "present", vault)
    modules = {"database": ("database_dump", None), "filestore": ("filestore_archive", None), "container": ("docker_guests", "saved")}
    for data_set in at.of(*plan.DATA_SETS, wave=wave):
        module, state = modules[data_set["kind"]]
        book.step(data_set["id"], module, state, result=dump_result(data_set["id"]))
        for vault in VAULTS:
            book.step(data_set["id"], "vault_pull", None, vault)
            book.step(data_set["id"], "vault_prove", None, vault)
    for keeper in keepers:
        for vault in VAULTS:
            book.step(keeper["id"], "vault_package", "sealed", vault, result={"identity_digest": f"{keeper['id']}@{vault}"})
            book.step(keeper["id"], "vault_access", "absent", vault)
    for machine in at.of("host", wave=wave):
        book.step(machine["id"], "host_look", result={"new": []})
    for base in at.of("database", wave=wave):
        book.step(base["id"], "service_state", "stopped", former={"services": {}})
    tiers = runs.power_order(at)
    for machine in sorted(at.of("host", wave=wave), key=lambda found: tiers[found["host"]]):
        book.step(machine["id"], "host_power", "off", former={"power": "on"})


def complete(current: plan.Plan, *, forgotten: bool = False) -> Book:
    """Both waves shut down and accepted; with forgotten, all identities gone as well: only the wipe is left."""
    book = Book(current)
    for wave in current.waves:
        shut(book, wave)
        book.add(kind="accepted", wave=wave)
    for machine in current.of("host") if forgotten else []:
        for vault in VAULTS:
            book.step(machine["id"], "vault_package", "forgotten", vault, result={"identity_digest": f"{machine['id']}@{vault}"})
    return book


# --- words of people ---


def said(kind: str, signer: str, name: str = "", **document: Any) -> statements.Statement:
    """A statement whose signature was found to hold."""
    whole = {"kind": kind, "estate": "acme", **document}
    return statements.Statement(kind, signer, whole, f"sha-{kind}-{name or signer}", name or f"{kind}-{signer}.json")


def authorised(current: plan.Plan, item_id: str, signer: str = "bob", **changes: Any) -> statements.Statement:
    """An authorisation of one medium, valid until the day after NOW; changes replace fields of the medium's entry or (expires) of it."""
    identity = current.items[item_id]["identity"]
    entry = {"item": item_id, "serial": identity.get("serial"), "size": identity.get("size"), "method": "overwrite"}
    document: Record = {"expires": (NOW + timedelta(days=1)).isoformat()}
    for name, value in changes.items():
        target = document if name == "expires" else entry
        target[name] = value
        if value is None:
            del target[name]
    return said("authorisation", signer, media=[entry], **document)


def attested(signer: str = "carol") -> list[statements.Statement]:
    """One custodian's word for every package."""
    return [
        said("attestation", signer, f"{name}@{vault}", about=f"package:{name}", identity_digest=f"host:{name}@{vault}")
        for name in ("old1", "app1", "db1", "dock1")
        for vault in VAULTS
    ]


def context(book: Book, words: Iterable[statements.Statement] = (), **changes: Any) -> grounds.Context:
    """What a gate sees: a shutdown of all waves by an operator who signs nothing, approved by alice."""
    given: Record = {"approver": "alice", "operator": "olga", "waves": tuple(book.plan.waves), "now": NOW, "phase": "shutdown"}
    return grounds.Context(book.plan, book.view(), statements.Statements(list(words), {}), **{**given, **changes})


# --- real keys and a real estate folder ---


def make_keys(folder: Path) -> dict[str, Path]:
    """A key pair for each of PEOPLE."""
    for name in PEOPLE:
        if not (folder / name).exists():
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(folder / name)], check=True)
    return {name: folder / name for name in PEOPLE}


def allowed_signers(keys: dict[str, Path]) -> str:
    return "".join(f"{name} {' '.join(key.with_suffix('.pub').read_text().split()[:2])}\n" for name, key in keys.items())


def sign(path: Path, key: Path, namespace: str) -> Path:
    """Sign a file as a person would, with the stock tool; the signature lies beside it."""
    signature = path.with_name(path.name + ".sig")
    signature.unlink(missing_ok=True)
    subprocess.run(["ssh-keygen", "-q", "-Y", "sign", "-f", str(key), "-n", namespace, str(path)], check=True, capture_output=True)
    return signature


def say(folder: Path, name: str, key: Path, namespace: str, document: Record) -> Path:
    """Put a signed statement into an estate's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(document))
    sign(path, key, namespace)
    return path


def write_ledger(path: Path, book: Book) -> None:
    """A book as a real ledger file; the references of outcomes to intents are kept."""
    hashes: dict[str, str] = {}
    for entry in book.entries:
        record = {name: value for name, value in copy.deepcopy(entry.record).items() if name != "at"}
        if "intent" in record:
            record["intent"] = hashes[record["intent"]]
        hashes[entry.hash] = ledger.append(path, record).hash


def make_estate(folder: Path, keys: dict[str, Path], data: Record | None = None, book: Book | None = None) -> Any:
    """An estate's folder as on a control node: plan, alice's approval, and the ledger of a book."""
    from ansible_collections.sunset.crm.plugins.plugin_utils.people import signatures
    from ansible_collections.sunset.crm.plugins.plugin_utils.record.estate import Estate

    estate = Estate.at(folder)
    data = data or plan_data()
    data["allowed_signers"] = allowed_signers({name: keys[name] for name in ("alice", "bob", "carol")})
    estate.plan_file.write_bytes(plan_bytes(data))
    sign(estate.plan_file, keys["alice"], signatures.APPROVAL).rename(estate.approval_file)
    if book is not None:
        write_ledger(estate.ledger_file, book)
    return estate
