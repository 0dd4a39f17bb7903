# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The life of a package after its copies are proven: sealed and signed, opened by its own README, verified from itself alone, destroyed.

One container is the estate host and the vault, as in test_vault.py. Each kind of damage is made for real, on a copy of the package.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bagit
import jsonschema
import pytest

from ansible_collections.sunset.crm.plugins.module_utils._vault import contents as vault_contents
from ansible_collections.sunset.crm.plugins.plugin_utils.people import signatures
from tests.integration.host_container import Failed, docker, flip
from tests.integration.test_vault import (
    MARKER,
    PROOFS,
    ROOT,
    STAGING,
    TOP,
    Vault,
    base,
    custodians,  # noqa: F401
    dumps,  # noqa: F401
    four,
    opened,
    people,  # noqa: F401
    pull,
    source,  # noqa: F401
    world,  # noqa: F401
)

# ruff: noqa: F811
BAG = f"{ROOT}/lab/h1"
LIVE = "/dev/shm/sunset-vault-906/lab"
SECRET = "filestore:keys"
WHOLE = f"{ROOT}.whole"


def as_vault(world: Vault, script: str, stdin: bytes = b"") -> str:
    done = subprocess.run(
        ["docker", "exec", "-i", "-u", "vault", world.name, "sh", "-euc", script], input=stdin, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stdout.decode(errors="replace")[-2000:] + done.stderr.decode(errors="replace")[-3000:]
    return done.stdout.decode(errors="replace")


@pytest.fixture(scope="module")
def run_key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "run_ed25519"
    signatures.create_key(path, "run")
    return path


@pytest.fixture(scope="module")
def signers(run_key: Path) -> str:
    return 'run namespaces="package@sunset.crm" ' + run_key.with_suffix(".pub").read_text()


# World to allowed signers, for verify().
SIGNERS: dict[str, str] = {}


def seal(world: Vault, package: str, key: Path, check: bool = False, **more: Any) -> dict[str, Any]:
    """What the action plugin does: seal, sign on the control node, put the signature in."""
    options = {"item": f"host:{package}", "state": "sealed", **base(package), **more}
    done = world.vault("vault_package", check=check, **options)
    text = done["result"].get("tagmanifest")
    if check or not text:
        return done
    signed = world.vault("vault_package", signature=signatures.sign(text.encode(), key, signatures.PACKAGE), **options)
    assert "tagmanifest" not in signed["result"] and signed["result"]["signature"]["state"] == "valid"
    return {**signed, "changed": done["changed"] or signed["changed"]}


def export(world: Vault, package: str, item: str, recipient: str) -> None:
    """A readable export as the proof leaves it (the shape is fixed; what is in it is another test's)."""
    slug = item.replace(":", "-")
    script = f"""
import hashlib, io, json, os, subprocess, zipfile
os.umask(0o077)
stream = io.BytesIO()
with zipfile.ZipFile(stream, "w") as archive:
    archive.writestr("tables/contact.csv", "id,name\\n1,Zoe\\n")
plain = stream.getvalue()
folder = "{ROOT}/lab/{package}/data/readable"
os.makedirs(folder, exist_ok=True)
path = folder + "/{slug}.zip.age"
subprocess.run(["age", "-r", "{recipient}", "-o", path], input=plain, check=True)
cipher = open(path, "rb").read()
record = dict(item="{item}", file="readable/{slug}.zip", cipher_sha256=hashlib.sha256(cipher).hexdigest(), cipher_bytes=len(cipher),
    plain_sha256=hashlib.sha256(plain).hexdigest(), plain_bytes=len(plain), tables=1, rows=1, entities=dict(contacts=1))
json.dump(record, open("{ROOT}/lab/state/{package}/{slug}.readable.json", "w"))
"""
    as_vault(world, "python3 -", script.encode())


@pytest.fixture(scope="module")
def keys(world: Vault) -> dict[str, Any]:
    """The dump of a store of key files."""
    world.shell("install -d -m 0700 /srv/keys /srv/keys/store /srv/keys/.s; printf 'APP_KEY=base64:sehr-geheim' >/srv/keys/store/app.key")
    found: dict[str, Any] = world.module("filestore_archive", staging="/srv/keys/.s", item=SECRET, path="/srv/keys/store")["result"]
    return found


@pytest.fixture(scope="module")
def package(world: Vault, custodians: Any, dumps: Any, source: Any, keys: Any, run_key: Path, signers: str) -> Iterator[dict[str, Any]]:
    """A sealed, signed package with every kind of artefact in it; a whole copy lies beside, for the tests that damage it."""
    SIGNERS[world.name] = signers
    dumps = {**dumps, SECRET: keys}
    first = four(
        lambda check=False: opened(world, "h1", custodians, secret=True, check=check),
        lambda: world.shell(f"find {ROOT} {LIVE} -printf '%p %m %s %T@\\n' 2>/dev/null | sort || true"),
    )["result"]
    assert first["keys_identity_digest"] not in (None, first["identity_digest"])
    assert sorted((one["custodian"], one["identity"]) for one in first["wrapped"]) == [
        ("alice", "data"), ("alice", "keys"), ("bob", "data"), ("bob", "keys")]  # fmt: skip
    world.module("vault_access", item="host:h1", public_key=first["pull_public_key"], directories=[*STAGING.values(), "/srv/keys/.s"])
    for item in [*PROOFS, SECRET]:
        more = {"secret": True} if item == SECRET else {}
        pull(world, dumps, source, "h1", item, **more)
        options = {"artefacts": dumps[item]["artefacts"], "source": dumps[item]["source"], **more}
        done = world.vault("vault_prove", item=item, proof=PROOFS.get(item, "filestore"), **options, **base("h1"))
        assert done["result"]["verdict"] == "equal"
    export(world, "h1", "database:crm", first["recipient"])
    retention = {"class": "books", "until": "2020-12-31", "hold": False}
    sealed = four(
        lambda check=False: seal(world, "h1", run_key, check=check, retention=retention),
        lambda: world.shell(f"find {ROOT}/lab -printf '%p %s %T@\\n' | sort"),
    )["result"]
    world.shell(f"rm -rf {WHOLE}; cp -a {ROOT} {WHOLE}")
    yield sealed


@pytest.fixture
def again(world: Vault, package: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The package for a test that damages it; put back afterwards."""
    yield package
    world.shell(f"rm -rf {ROOT}; cp -a {WHOLE} {ROOT}; rm -f {LIVE}/*.lent")


def verify(world: Vault, **options: Any) -> dict[str, Any]:
    """The module's answer, whatever it is. Whose key counts is said, unless allowed_signers is given as None."""
    options = {name: value for name, value in {"allowed_signers": SIGNERS.get(world.name), **options}.items() if value is not None}
    out, err = _start(world, options)
    try:
        answer: dict[str, Any] = json.loads(out.decode())
    except ValueError:
        raise AssertionError(f"no JSON: {out.decode()!r} {err.decode()[-3000:]}") from None
    assert MARKER not in json.dumps(answer, ensure_ascii=False) and not answer.get("changed")
    return answer


def _start(world: Vault, options: dict[str, Any]) -> tuple[bytes, bytes]:
    arguments = {"root": ROOT, "estate": "lab", **options, "_ansible_check_mode": False, "_ansible_module_name": "sunset.crm.vault_verify"}
    argv = ["docker", "exec", "-i", "-u", "vault", world.name, "/usr/bin/python3", "/opt/sunset-test/run.py", "vault_verify"]
    done = subprocess.run(
        argv, input=json.dumps({"ANSIBLE_MODULE_ARGS": arguments}).encode(), capture_output=True, timeout=300, check=False
    )
    return done.stdout, done.stderr


def of(answer: dict[str, Any], name: str = "h1") -> dict[str, Any]:
    (found,) = [one for one in answer["packages"] if one["package"] == name]
    return dict(found)


def lend(world: Vault, people: Any, tmp_path: Path, which: tuple[str, ...] = ("data", "keys"), who: str = "alice") -> None:
    """The custodian's own helper, over a connection that is docker exec here instead of ssh."""
    fake = tmp_path / "ssh"
    fake.write_text('#!/bin/sh\nshift 2\nexec docker exec -i -u vault "$SUNSET_BOX" sh -c "$1"\n')
    fake.chmod(0o755)
    for one in which:
        name = f"h1{'.keys' if one == 'keys' else ''}.{who}.age"
        (tmp_path / name).write_bytes(subprocess.run(["docker", "exec", world.name, "cat", f"{WHOLE}/lab/keys/{name}"], check=True, capture_output=True).stdout)  # fmt: skip
        argv = [TOP / "scripts/custodian", "lend", "--estate", "lab", "--identity", people[who]["identity"], "--custodian", who]
        argv += ["--to", "vault@vault1", "--ssh", str(fake), tmp_path / name]
        done = subprocess.run(
            argv, env={"PATH": "/usr/local/bin:/usr/bin:/bin", "SUNSET_BOX": world.name}, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr.decode()
        assert b"AGE-SECRET" not in done.stdout + done.stderr


# --- what a package holds ---


def test_the_bag_is_one_for_others_too(world: Vault, package: dict[str, Any], tmp_path: Path) -> None:
    docker("cp", f"{world.name}:{BAG}", str(tmp_path / "bag"))
    bag = bagit.Bag(str(tmp_path / "bag"))
    bag.validate()
    assert bag.info["Payload-Oxum"] == package["payload_oxum"] and bag.version_info == (1, 0)
    told = {name: bag.info[f"Sunset-{name}"] for name in ("Retention-Class", "Retain-Until", "Legal-Hold", "Contents", "Identities")}
    assert told == {"Retention-Class": "books", "Retain-Until": "2020-12-31", "Legal-Hold": "no", "Identities": "2",
                    "Contents": "1 container, 2 database, 2 filestore"}  # fmt: skip
    assert sorted(bag.tagfile_entries()) == sorted(
        ["README.txt", "bag-info.txt", "bagit.txt", "contents.schema.json", "manifest-sha256.txt", "package.json"]
    )


def test_the_signature_is_the_run_keys(world: Vault, package: dict[str, Any], signers: str, run_key: Path) -> None:
    text = world.read(f"{BAG}/tagmanifest-sha256.txt")
    assert hashlib.sha256(text.encode()).hexdigest() == package["tagmanifest_sha256"]
    assert signatures.verify(text.encode(), world.read(f"{BAG}/tagmanifest-sha256.txt.sig"), signers, signatures.PACKAGE) == "run"
    assert package["signature"]["key"] in subprocess.run(["ssh-keygen", "-lf", run_key], check=True, capture_output=True, text=True).stdout


def test_a_signature_that_is_lost_is_made_again(world: Vault, again: dict[str, Any], run_key: Path) -> None:
    """As after a kill between the sealing and the signing."""
    world.shell(f"rm {BAG}/tagmanifest-sha256.txt.sig")
    assert of(verify(world))["verdict"] == "unknown"
    done = seal(world, "h1", run_key, retention={"class": "letters", "until": "2021-12-31"})
    assert done["changed"] is True and done["result"]["tagmanifest_sha256"] == again["tagmanifest_sha256"]
    assert done["result"]["retention"]["class"] == "books"
    assert of(verify(world))["verdict"] == "intact"
    text = world.read(f"{BAG}/tagmanifest-sha256.txt")
    other = signatures.sign(text.encode() + b"x", run_key, signatures.PACKAGE)
    world.shell(f"rm {BAG}/tagmanifest-sha256.txt.sig")
    with pytest.raises(Failed, match="not one over the tag manifest"):
        world.vault("vault_package", item="host:h1", state="sealed", signature=other, **base("h1"))


def test_the_readme_opens_the_package(world: Vault, package: dict[str, Any], people: Any) -> None:
    """Every command of README.txt is run as it stands, in its order; only the five places at the top are set."""
    docker("cp", str(people["alice"]["identity"]), f"{world.name}:/srv/vault/alice.age")
    world.shell("chown vault /srv/vault/alice.age; rm -rf /srv/vault/out; install -d -o vault -m 0700 /srv/vault/out")
    script = [line[4:] for line in world.read(f"{BAG}/README.txt").splitlines() if line.startswith("    ")]
    places = {"PACKAGE": BAG, "KEYS": f"{ROOT}/lab/keys", "CUSTODIAN": "alice", "IDENTITY": "/srv/vault/alice.age", "OUT": "/srv/vault/out"}
    lines = [f"{name}={value}" for name, value in places.items()] + [line for line in script if line.split("=")[0] not in places]
    restores = [
        line
        for line in lines
        if line.startswith(("psql", "pg_restore", "mariadb", "docker", "mkdir")) and not line.startswith('mkdir "$OUT/d')
    ]
    assert {line.split()[0] for line in restores} >= {"psql", "pg_restore", "mariadb", "docker", "mkdir"}
    servers = """
export HOME=/srv/vault/out PATH=$PATH:/usr/lib/postgresql/15/bin:/usr/sbin PGHOST=/srv/vault/out PGUSER=postgres
initdb -D /srv/vault/out/pg -U postgres -A trust --no-sync >/dev/null
pg_ctl -D /srv/vault/out/pg -l /srv/vault/out/pg.log -s -w -o "-k /srv/vault/out -c listen_addresses= -c fsync=off" start
mariadb-install-db --no-defaults --datadir=/srv/vault/out/my --auth-root-authentication-method=normal --skip-test-db >/dev/null
mariadbd --no-defaults --datadir=/srv/vault/out/my --socket=/srv/vault/out/s --skip-networking --event-scheduler=OFF 2>/srv/vault/out/my.log &
printf '[client]\\nsocket=/srv/vault/out/s\\nuser=auditor\\n' >/srv/vault/out/.my.cnf
for i in $(seq 600); do mariadb -u root -e 'SELECT 1' >/dev/null 2>&1 && break; sleep 0.1; done
mariadb -u root -e "CREATE USER auditor@localhost; GRANT ALL ON *.* TO auditor@localhost WITH GRANT OPTION;
    GRANT PROXY ON ''@'%' TO auditor@localhost WITH GRANT OPTION"
docker() { tar -tf "$3" >/srv/vault/out/image.list; }
command -v unzip >/dev/null || unzip() { mkdir -p "$4" && python3 -m zipfile -e "$2" "$4"; }
"""
    try:
        as_vault(world, servers + "\n".join(lines))
        rows = as_vault(world, "psql -h /srv/vault/out -U postgres -d crm -Atc 'SELECT count(*), min(name) FROM contact'")
        assert rows.strip() == f"3000|{MARKER} 1"
        rows = as_vault(world, "HOME=/srv/vault/out mariadb -S /srv/vault/out/s -u auditor -N -e 'SELECT count(*) FROM old.lead'")
        assert rows.strip() == "2000"
        assert as_vault(world, 'cat "/srv/vault/out/filestore-up.tree/ünï.txt"') == MARKER
        assert "sehr-geheim" in as_vault(world, "cat /srv/vault/out/filestore-keys.tree/app.key")
        assert "Zoe" in as_vault(world, "cat /srv/vault/out/database-crm.tables/tables/contact.csv")
        assert "manifest.json" in as_vault(world, "cat /srv/vault/out/image.list")
        contents = json.loads(as_vault(world, "cat /srv/vault/out/contents.json"))
    finally:
        world.shell("pkill -u vault mariadbd; pkill -u vault postgres; sleep 1; rm -rf /srv/vault/out /srv/vault/alice.age", check=False)
    jsonschema.validate(contents, json.loads(world.read(f"{BAG}/contents.schema.json")))
    assert {one["item"]: one["identity"] for one in contents["data_sets"]} == {**dict.fromkeys(PROOFS, "data"), SECRET: "keys"}
    assert all(entry["opened_by"] != "no program is known for this ending" for one in contents["data_sets"] for entry in one["artefacts"])


def test_the_schema_in_the_docs_is_the_one_in_the_packages() -> None:
    assert (TOP / "docs/contents.schema.json").read_text() == vault_contents.text_of(vault_contents.SCHEMA)


def test_keys_open_with_the_second_identity_only(world: Vault, package: dict[str, Any], people: Any, tmp_path: Path) -> None:
    path = as_vault(world, f"ls {BAG}/data/filestore-keys/*.tar*.age").strip()
    as_vault(world, f"age -d -i {LIVE}/h1.keys.identity {path} >/dev/null && ! age -d -i {LIVE}/h1.identity {path} >/dev/null 2>&1")
    assert "sehr-geheim" not in world.shell(f"cat {BAG}/package.json {BAG}/README.txt {BAG}/bag-info.txt")
    for which, digest in (("", package["identity_digest"]), (".keys", package["keys_identity_digest"])):
        mine = tmp_path / f"h1{which}.alice.age"
        mine.write_bytes(
            subprocess.run(["docker", "exec", world.name, "cat", f"{ROOT}/lab/keys/{mine.name}"], check=True, capture_output=True).stdout
        )
        argv = [TOP / "scripts/custodian", "challenge", "--estate", "lab", "--identity", people["alice"]["identity"], "--sign-key",
                people["alice"]["key"], "--custodian", "alice", "--out", tmp_path, mine]  # fmt: skip
        subprocess.run(argv, check=True, capture_output=True)
        (said,) = [json.loads(one.read_text()) for one in tmp_path.glob(f"attestation-h1-alice-{digest[:12]}.json")]
        assert said["about"] == "package:h1" and said["identity_digest"] == digest and said["identity"] == (which[1:] or "data")


# --- verification ---


def test_an_intact_package(world: Vault, package: dict[str, Any], signers: str) -> None:
    before = world.shell(f"find {ROOT} -printf '%p %m %s %T@\\n' | sort")
    answer = verify(world, expected={"h1": package["tagmanifest_sha256"]})
    found = of(answer)
    assert (answer["verdict"], found["damage"], found["unknown"]) == ("intact", [], [])
    assert found["signature"]["signer"] == "run" and found["signature"]["state"] == "good"
    assert answer["past_retention"] == ["h1"] and found["retention"]["past"] == "yes" and answer["on_hold"] == []
    nobody = of(verify(world, allowed_signers=None))
    assert (nobody["verdict"], nobody["signature"]["state"]) == ("unknown", "valid") and "whose key counts" in nobody["unknown"][0]
    assert of(verify(world, allowed_signers=None, expected={"h1": package["tagmanifest_sha256"]}))["verdict"] == "intact"
    assert world.shell(f"find {ROOT} -printf '%p %m %s %T@\\n' | sort") == before


KINDS = ["data/database-crm/*.pgcustom*.age", "data/database-crm/*.globals*.age", "data/database-crm/*.fingerprint*.age",
         "data/database-old/*.users*.age", "data/database-old/*[!s].sql*.age", "data/database-old/*.fingerprint*.age", "data/filestore-up/*.tar*.age", "data/filestore-up/*.manifest*.age",
         "data/container-shop/*.age", "data/filestore-keys/*.tar*.age", "data/readable/*.age", "data/contents.json.age",
         "data/inner-manifest.age", "README.txt", "bag-info.txt", "bagit.txt", "contents.schema.json", "package.json",
         "manifest-sha256.txt", "tagmanifest-sha256.txt", "tagmanifest-sha256.txt.sig"]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "how", [flip('"$path"'), 'truncate -s -9 "$path"', 'rm "$path"', 'cp "$other" "$path"'], ids=["bit", "short", "gone", "swapped"]
)
def test_damage_is_found_and_named(world: Vault, again: dict[str, Any], signers: str, kind: str, how: str) -> None:
    path = as_vault(world, f"ls {BAG}/{kind} | head -n 1").strip()
    # Another good file of the package in its place.
    other = f"{BAG}/data/inner-manifest.age" if "inner" not in kind else f"{BAG}/data/contents.json.age"
    as_vault(world, f"path={path}; other={other}\n{how}")
    answer = verify(world, package="h1")
    found = of(answer)
    if kind.endswith(".sig") and how.startswith("rm"):
        assert answer["verdict"] == "unknown" and "signature of the tag manifest is absent" in found["unknown"][0]
        return
    assert answer["failed"] and answer["verdict"] == found["verdict"] == "damaged", answer
    assert path[len(BAG) + 1 :] in answer["msg"]


@pytest.mark.parametrize(
    ("damage", "name"),
    [
        ("touch data/database-crm/stranger.age", "data/database-crm/stranger.age is in the package but not in its manifest"),
        ("touch note.txt", "note.txt does not belong to the package"),
        ("ln -s /etc/passwd data/link", "data/link is neither a plain file nor a directory"),
        ("sed -i 's/2020-12-31/2019-12-31/' bag-info.txt", "bag-info.txt is damaged"),
        ("sed -i 's/2020-12-31/2019-12-31/' package.json", "package.json is damaged"),
        ("rm ../keys/h1.alice.age", "the wrapped identity of alice (keys/h1.alice.age) is missing"),
        ("cp ../keys/h1.bob.age ../keys/h1.alice.age", "the wrapped identity of alice (keys/h1.alice.age) is damaged"),
        ("rm ../keys/h1.keys.bob.age", "the wrapped identity of bob (keys/h1.keys.bob.age) is missing"),
        ("cd ..; rm -r h1", "the package /srv/vault/packages/lab/h1 is not there"),
    ],
)
def test_other_damage(world: Vault, again: dict[str, Any], damage: str, name: str) -> None:
    as_vault(world, f"cd {BAG}; {damage}")
    answer = verify(world)
    assert answer["verdict"] == "damaged" and name in answer["msg"]


def test_a_package_that_was_made_anew_by_another_hand(
    world: Vault, again: dict[str, Any], signers: str, run_key: Path, tmp_path: Path
) -> None:
    """Everything in it fits together, but it is not the one that was sealed."""
    script = f"""cd {BAG}; sed -i s/2020-12-31/2019-12-31/ bag-info.txt package.json; rm -r ../state
for f in README.txt bag-info.txt bagit.txt contents.schema.json manifest-sha256.txt package.json; do sha256sum $f; done >tagmanifest-sha256.txt"""
    as_vault(world, script)
    assert "no signature over" in verify(world)["msg"]
    signatures.create_key(tmp_path / "other", "other")
    text = world.read(f"{BAG}/tagmanifest-sha256.txt").encode()
    signature = signatures.sign(text, tmp_path / "other", signatures.PACKAGE)
    as_vault(world, f"cat >{BAG}/tagmanifest-sha256.txt.sig", signature.encode())
    assert of(verify(world))["verdict"] == "damaged"
    unchecked = of(verify(world, allowed_signers=None))
    assert unchecked["verdict"] == "unknown" and unchecked["signature"]["state"] == "valid"
    assert "not the one that the ledger has" in verify(world, expected={"h1": again["tagmanifest_sha256"]})["msg"]
    wrong = signatures.sign(text, run_key, signatures.LEDGER_HEAD)
    as_vault(world, f"cat >{BAG}/tagmanifest-sha256.txt.sig", wrong.encode())
    assert of(verify(world))["verdict"] == "damaged"


def test_the_absent_are_named(world: Vault, package: dict[str, Any]) -> None:
    answer = verify(world, expected={"h9": "0" * 64})
    assert of(answer, "h9")["verdict"] == "damaged" and of(answer)["verdict"] == "intact"
    assert "there is no package of the estate" in verify(world, estate="other")["msg"]


def test_proven_again_from_the_package_alone(world: Vault, again: dict[str, Any], people: Any, tmp_path: Path) -> None:
    """No record of the vault, no plan, no ledger, no identity of the run: only the folder, and what a custodian lends."""
    as_vault(world, f"rm -r {ROOT}/lab/state; mkdir {LIVE}/.kept; mv {LIVE}/h1.* {LIVE}/.kept/")
    try:
        refused = of(verify(world, proof=True))
        assert refused["verdict"] == "unknown" and "no custodian has lent the identity" in refused["unknown"][-1]
        lend(world, people, tmp_path, ("data",))
        half = of(verify(world, proof=True))
        assert {one["item"]: one["verdict"] for one in half["proofs"]} == {**dict.fromkeys(PROOFS, "equal"), SECRET: "unknown"}
        assert half["lent_destroyed"] == ["data"] and half["verdict"] == "unknown"
        assert world.shell(f"ls {LIVE}").split() == []
        lend(world, people, tmp_path, who="bob")
        assert world.shell(f"stat -c '%a %U' {LIVE}/h1.lent {LIVE}/h1.keys.lent").split() == ["600", "vault"] * 2
        answer = verify(world, proof=True)
        found = of(answer)
        assert answer["verdict"] == "intact" and {one["verdict"] for one in found["proofs"]} == {"equal"} and len(found["proofs"]) == 5
        assert next(one for one in found["proofs"] if one["item"] == "database:crm")["rows"] > 1000
        assert found["lent_destroyed"] == ["data", "keys"] and world.shell(f"ls {LIVE}").split() == []
        assert world.leaves() == ""
    finally:
        as_vault(world, f"mv {LIVE}/.kept/h1.* {LIVE}/; rmdir {LIVE}/.kept")


def test_a_proof_of_a_damaged_artefact_never_passes(world: Vault, again: dict[str, Any], people: Any, tmp_path: Path) -> None:
    path = as_vault(world, f"ls {BAG}/data/database-crm/*.pgcustom*.age").strip()
    as_vault(world, flip(path))
    lend(world, people, tmp_path)
    found = of(verify(world, proof=True))
    verdicts = {one["item"]: one["verdict"] for one in found["proofs"]}
    assert verdicts.pop("database:crm") == "different" and set(verdicts.values()) == {"equal"}
    assert found["verdict"] == "damaged" and found["lent_destroyed"] == ["data", "keys"]


def test_an_identity_of_another_package_proves_nothing(world: Vault, again: dict[str, Any]) -> None:
    as_vault(world, f"umask 077; age-keygen -o {LIVE}/h1.lent 2>/dev/null")
    found = of(verify(world, proof=True))
    assert found["verdict"] == "unknown" and "is not that of the package h1" in found["unknown"][0]
    assert world.shell(f"ls {LIVE}/h1.lent 2>/dev/null || echo gone") == "gone\n"
    as_vault(world, f"age-keygen -o {LIVE}/h1.lent 2>/dev/null; chmod 644 {LIVE}/h1.lent")
    assert "no file of mode 0600" in of(verify(world, proof=True))["unknown"][0]


# --- the end, and what is not the end ---


def test_nothing_else_destroys_or_alters_a_sealed_package(
    world: Vault, again: dict[str, Any], custodians: Any, dumps: Any, source: Any, run_key: Path
) -> None:
    """What the normal commands can do to it: nothing; superseding moves it aside whole, keys and all."""
    state = lambda: world.shell(f"cd {ROOT}/lab; find h1 keys state -type f -exec sha256sum {{}} + | sort")  # noqa: E731
    before = state()
    assert opened(world, "h1", custodians)["changed"] is False
    assert seal(world, "h1", run_key, retention={"class": "none", "until": "2000-01-01"})["changed"] is False
    newer = [{**one, "sha256": "0" * 64} for one in dumps["database:crm"]["artefacts"]]
    with pytest.raises(Failed, match="is sealed and does not hold"):
        pull(world, dumps, source, "h1", "database:crm", artefacts=newer)
    assert state() == before
    place = opened(world, "h1", custodians, supersede=True)["result"]["abandoned"]
    assert world.shell(f"cd {place}; sha256sum -c --quiet /dev/stdin <<'E'\n" + before.replace("  h1/", "  package/").replace("  keys/", "  ").replace("  state/h1/", "  state/") + "E")  == ""  # fmt: skip


def destroying(world: Vault, sealed: dict[str, Any], check: bool = False, **change: Any) -> dict[str, Any]:
    names = ("tagmanifest_sha256", "identity_digest", "keys_identity_digest")
    options = {**{name: sealed[name] for name in names}, "statement_sha256": "5" * 64, **base("h1"), **change}
    return world.vault("vault_destroy", item="host:h1", check=check, **options)


@pytest.mark.parametrize("name", ["tagmanifest_sha256", "identity_digest", "keys_identity_digest"])
def test_a_statement_about_another_package_destroys_nothing(world: Vault, again: dict[str, Any], name: str) -> None:
    before = world.snapshot(ROOT)
    for wrong in ("0" * 64, *([None] if name.startswith("keys") else [])):
        with pytest.raises(Failed, match="it speaks of another package; nothing was touched"):
            destroying(world, again, **{name: wrong})
    assert world.snapshot(ROOT) == before


def test_the_package_itself_knows_its_end(world: Vault, again: dict[str, Any]) -> None:
    """Also where the gate was passed: a package that is to be kept longer by its own word is not destroyed."""
    as_vault(world, f"sed -i 's/2020-12-31/2999-12-31/' {BAG}/package.json")
    before = world.snapshot(ROOT)
    with pytest.raises(Failed, match="is to be kept until 2999-12-31"):
        destroying(world, again)
    assert world.snapshot(ROOT) == before


# Shifts both clocks of every Python on the vault by what stands in a file.
CLOCK = """
import datetime, time
_time = time.time
def _offset():
    try:
        with open("/run/clock-offset") as stream:
            return float(stream.read() or 0)
    except (OSError, ValueError):
        return 0.0
time.time = lambda: _time() + _offset()
class datetime_(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return datetime_.fromtimestamp(time.time(), tz)
datetime.datetime = datetime_
"""


def test_the_vaults_clock_is_moved(world: Vault, again: dict[str, Any], people: Any, tmp_path: Path) -> None:
    """What is whole stays whole; a clock that was set back lets nothing be destroyed; one that was set forward destroys nothing by itself."""
    world.write("/usr/lib/python3/dist-packages/sunset_clock.py", CLOCK)
    world.write("/usr/lib/python3/dist-packages/sunset_clock.pth", "import sunset_clock\n")
    try:
        for years, past in ((-20, []), (500, ["h1"])):
            world.write("/run/clock-offset", str(years * 365.25 * 86400))
            before = world.snapshot(ROOT)
            told = verify(world, expected={"h1": again["tagmanifest_sha256"]})
            assert (of(told)["verdict"], told["past_retention"]) == ("intact", past)
            assert world.snapshot(ROOT) == before
            if not past:
                with pytest.raises(Failed, match=r"is to be kept until 2020-12-31, and by this vault's clock it is 20\d\d"):
                    destroying(world, again)
                assert world.snapshot(ROOT) == before
            lend(world, people, tmp_path)
            found = of(verify(world, proof=True))
            assert {one["verdict"] for one in found["proofs"]} == {"equal"} and found["verdict"] == "intact"
    finally:
        world.shell("rm -f /usr/lib/python3/dist-packages/sunset_clock.* /run/clock-offset")


def superseded(world: Vault, custodians: Any) -> str:
    """The package is begun again and is sealed once more: what was sealed first lies in abandoned/. Returns the place.

    The second seal is the first one put back, with the identities in memory: to pull and prove everything again would show nothing else."""
    place = str(opened(world, "h1", custodians, supersede=True)["result"]["abandoned"])
    as_vault(world, f"cd {ROOT}/lab; rm -r h1 state/h1 keys/h1.*; for one in h1 state/h1; do cp -a {WHOLE}/lab/$one $one; done; cp -a {WHOLE}/lab/keys/h1.* keys/")  # fmt: skip
    return place


def test_destroyed_four_times(world: Vault, again: dict[str, Any], custodians: Any) -> None:
    state = lambda: world.shell(f"find {ROOT}/lab {LIVE} -printf '%p %s %T@\\n' | sort")  # noqa: E731
    live = world.shell(f"mkdir -p /tmp/kept; cp -a {LIVE}/. /tmp/kept/")
    try:
        place = superseded(world, custodians)
        (listed,) = of(verify(world))["superseded"]
        assert (listed["place"], listed["identity_digest"], listed["retention"]["past"]) == (place, again["identity_digest"], "yes")
        done = four(lambda check=False: destroying(world, again, check=check), state)
        assert done["result"]["state"] == "destroyed" and done["result"]["custodians"] == ["alice", "bob"]
        assert [one["place"] for one in done["result"]["superseded"]] == [place] and world.shell(f"ls {ROOT}/lab/abandoned") == ""
        assert "copy-on-write" in done["result"]["overwriting"] and "custodians" in done["result"]["elsewhere"]
        assert world.shell(f"ls {ROOT}/lab/keys | grep '^h1' || true; ls {LIVE} | grep '^h1' || true") == ""
        left = world.shell(f"ls {BAG}").split()
        assert "data" not in left and {"DESTROYED.json", "bag-info.txt", "manifest-sha256.txt", "tagmanifest-sha256.txt.sig"} <= set(left)
        stone = json.loads(world.read(f"{BAG}/DESTROYED.json"))
        assert stone["statement_sha256"] == "5" * 64 and stone["tagmanifest_sha256"] == again["tagmanifest_sha256"] and stone["destroyed"]
        assert of(verify(world))["verdict"] == "destroyed" and verify(world)["verdict"] == "intact"
        for supersede in (False, True):
            with pytest.raises(Failed, match="not begun again under its name"):
                opened(world, "h1", custodians, supersede=supersede)
        with pytest.raises(Failed, match="was destroyed, on record"):
            world.vault("vault_package", item="host:h1", state="sealed", **base("h1"))
    finally:
        world.shell(f"cp -a /tmp/kept/. {LIVE}/{live}")


@pytest.mark.parametrize("left", ["keys", "payload"])
def test_a_destruction_that_was_killed_is_finished(world: Vault, again: dict[str, Any], custodians: Any, left: str) -> None:
    """The module is stopped at the worst places: before the keys, and between the keys and the payload."""
    world.shell(f"mkdir -p /tmp/kept; cp -a {LIVE}/. /tmp/kept/")
    try:
        place = superseded(world, custodians)
        stop = "overwrite" if left == "keys" else "forget_live"
        script = f"""
import sys; sys.path.insert(0, "/opt/sunset-test")
from ansible_collections.sunset.crm.plugins.module_utils._vault import destroy as d, package as p
from ansible_collections.sunset.crm.plugins.module_utils._vault.state import Package
def die(*a): raise SystemExit(9)
setattr(d if "{stop}" == "overwrite" else p, "{stop}", die)
class Rec: note = staticmethod(lambda **k: None)
d.destroy(Package("{ROOT}", "lab", "h1", None), "5" * 64, Rec)
"""
        argv = ["docker", "exec", "-i", "-u", "vault", world.name, "python3", "-"]
        assert subprocess.run(argv, input=script.encode(), check=False).returncode == 9
        found = of(verify(world))
        assert found["verdict"] == "unknown" and "begun and not finished" in found["unknown"][0]
        for keys in (f"{ROOT}/lab/keys", place):
            assert world.shell(f"ls {keys} | grep -c '^h1' || true").strip() == ("4" if left == "keys" else "0")
        assert destroying(world, again)["changed"] is True
        assert of(verify(world))["verdict"] == "destroyed"
        assert destroying(world, again)["changed"] is False
    finally:
        world.shell(f"cp -a /tmp/kept/. {LIVE}/")


def test_both_identities_are_attested_before_they_are_forgotten(world: Vault, again: dict[str, Any]) -> None:
    options = {"item": "host:h1", "state": "forgotten", "attestation_sha256": "a" * 64, **base("h1")}
    with pytest.raises(Failed, match=f"keys_attestation_sha256 is missing.*{again['keys_identity_digest']}"):
        world.vault("vault_package", **options)
    done = world.vault("vault_package", keys_attestation_sha256="b" * 64, **options)
    assert done["changed"] is True and done["result"]["keys_attestation_sha256"] == "b" * 64
    assert world.shell(f"ls {LIVE} | grep '^h1' || true") == ""
