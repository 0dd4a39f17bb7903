# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""SQLite and Redis from the source to the proof, against the real things: one container is the estate host and the vault."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.host_container import Failed
from tests.integration.test_vault import ROOT, Vault, base, four, plain

DB = "/srv/crm/db #1.sqlite3"
LITE: dict[str, Any] = {"item": "database:monica", "engine": "sqlite", "database": DB, "staging": "/srv/crm/.staging"}
REDIS: dict[str, Any] = {"item": "database:queue", "engine": "redis", "database": "all", "port": 6379, "staging": "/srv/queue/.staging"}
ENGINES = pytest.mark.parametrize("options", [LITE, REDIS], ids=["sqlite", "redis"])
MARKER = "Zoë Müster 4711 🎈"
SECRET = "s3cret of the queue"
PART = "find /srv/queue/.staging -name '*.{}.zst.part' 2>/dev/null | grep -q ."

SETUP = f"""
install -d -o vault -g vault -m 0700 /srv/vault
install -d /srv/crm /srv/queue
ssh-keygen -A >/dev/null; systemctl start ssh
cat >/etc/redis/extra.conf <<'C'
requirepass "{SECRET}"
C
printf 'include /etc/redis/extra.conf\\ndatabases 64\\nunixsocket /run/redis.sock\\nenable-debug-command yes\\n' >>/etc/redis/redis.conf
mkdir -p /etc/systemd/system/redis-server.service.d
printf '[Service]\\nPrivateUsers=no\\nPrivateDevices=no\\n' >/etc/systemd/system/redis-server.service.d/test.conf
systemctl daemon-reload
install -d -o redis -g redis /var/lib/redis /var/log/redis /run/redis
setsid runuser -u redis -- redis-server /etc/redis/redis.conf --supervised no --daemonize yes --unixsocket /run/redis/r.sock >/dev/null
export REDISCLI_AUTH='{SECRET}'
i=0; until redis-cli ping 2>/dev/null | grep -q PONG; do i=$((i + 1)); [ $i -lt 600 ] || exit 1; sleep 0.1; done
"""

FILL = r"""
SELECT 0
RPUSH queue:mail "MARKER 1" "b" "b"
LPUSH "queue: odd\nname" "\x00\xff"
XADD jobs 1-1 who "MARKER"
XADD jobs 1-2 who two
XGROUP CREATE jobs workers 0
XREADGROUP GROUP workers one COUNT 1 STREAMS jobs >
ZADD delayed 1.5 a -0.1 b +inf c
HSET session:1 name "MARKER" n 7
SET counter 18446744073709551615
SET dies "soon" EX 100000
SET number 12 PX 90000000
FUNCTION LOAD "#!lua name=lib\nredis.register_function('f', function(keys, args) return 1 end)"
SELECT 3
SADD tags one two three
SET empty ""
"""

LITE_SQL = """
import random, sqlite3, sys
c = sqlite3.connect(sys.argv[1], isolation_level=None)
c.execute("PRAGMA journal_mode = WAL")
c.executescript('''
CREATE TABLE contact (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT, score REAL, photo BLOB, mixed);
CREATE TABLE note (a, b, PRIMARY KEY (a, b)) WITHOUT ROWID;
CREATE VIRTUAL TABLE found USING fts5(name); CREATE VIEW v AS SELECT name FROM contact;
CREATE TRIGGER t AFTER INSERT ON note BEGIN SELECT 1; END;
''')
c.execute("BEGIN")
for n in range(3000):
    c.execute("INSERT INTO contact (name, score, photo, mixed) VALUES (?, ?, ?, ?)", (sys.argv[2] + " %d" % n, n / 7, random.randbytes(300), n))
    c.execute("INSERT INTO note VALUES (?, ?)", (n, str(n)))
    c.execute("INSERT INTO found VALUES (?)", (sys.argv[2],))
c.execute("COMMIT")
"""


def cli(world: Vault, *words: str) -> str:
    return world.run("env", f"REDISCLI_AUTH={SECRET}", "redis-cli", *words)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vault]:
    if os.geteuid() != 0:
        pytest.skip("the lab's containers need root")
    with Vault(f"sunset-test-lite-{os.getpid()}") as box:
        box.shell(SETUP)
        box.run("env", f"REDISCLI_AUTH={SECRET}", "redis-cli", stdin=FILL.replace("MARKER", MARKER))
        assert cli(box, "-n", "0", "DBSIZE").strip() == "8"
        cli(box, "-n", "5", "EVAL", "for i = 1, 5000 do redis.call('RPUSH', 'big:' .. (i % 50), 'job ' .. i) end", "0")
        box.run("python3", "-c", LITE_SQL, DB, MARKER)
        yield box


@pytest.fixture(autouse=True)
def _fresh(world: Vault) -> None:
    world.wait(lambda: not jobs(world))
    world.shell("rm -rf /srv/crm/.staging /srv/queue/.staging")


def jobs(world: Vault) -> list[str]:
    return world.shell("pgrep -f '[f]rame.py .*_copy_job.py' || true").split()


def dump(world: Vault, options: dict[str, Any], check: bool = False, **more: Any) -> dict[str, Any]:
    return world.module("database_dump", check=check, **dict(options, **more))


def staged(world: Vault, options: dict[str, Any]) -> list[str]:
    """Names in the directories of copies."""
    mark = "?" * 16
    return world.shell(f"cd {options['staging']} 2>/dev/null && find . -path './*/{mark}/*' -type f -printf '%f\\n' || true").split()


@ENGINES
def test_four_times_in_a_row(world: Vault, options: dict[str, Any]) -> None:
    before = world.snapshot("/srv/crm")
    answers = [dump(world, options, check=check) for check in (True, False, True, False)]
    assert [one["changed"] for one in answers] == [True, True, False, False]
    first = answers[1]["result"]
    assert first == answers[3]["result"] and {one["role"] for one in first["artefacts"]} == {"dump", "fingerprint"}
    assert sorted(name.rsplit(".", 2)[-2] for name in staged(world, options)) in (["json", "sqlite3"], ["json", "jsonl"])
    assert world.shell(f"find {options['staging']} '(' -maxdepth 0 -o -name '*.zst' ')' -perm /077") == ""
    for answer in answers:
        text = json.dumps(answer, ensure_ascii=False)
        assert MARKER not in text and SECRET not in text and "queue:mail" not in text
    if options is LITE:
        assert first["source"]["integrity"] == "ok" and first["source"]["rows"] > 9000
        world.shell("rm -rf /srv/crm/.staging")
        after = world.snapshot("/srv/crm").splitlines()
        assert [line for line in after if "sqlite3" in line] == [line for line in before.splitlines() if "sqlite3" in line]
    else:
        assert first["source"]["rows"] == 60
        assert first["source"]["queues"] == {
            "lists": 52, "list_entries": 5004, "streams": 1, "stream_entries": 2, "sorted_sets": 1, "sorted_set_members": 3,
        }  # fmt: skip


def test_no_password_in_a_process_or_a_file(world: Vault) -> None:
    with world.held(PART.format("redis.jsonl"), "database_dump", **dict(REDIS, rate=20000)) as process:
        seen = world.shell(
            "cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n' || true; find /srv/queue/.staging -path '*/job-*' -type f -exec cat {} + 2>/dev/null | LC_ALL=C tr -cd '[:print:]' || true"
        )
    process.communicate(timeout=120)
    assert "_copy_job.py" in seen
    assert seen.count(SECRET) == 0, "the password was seen"
    assert world.shell(f"zstd -qdc /srv/queue/.staging/*/*/*.zst | grep -c '{SECRET}' || true").strip() == "0"


@ENGINES
def test_killed_in_the_middle(world: Vault, options: dict[str, Any]) -> None:
    process = world.start_module("database_dump", **dict(options, rate=5000))
    world.wait(lambda: any(one.endswith(".part") for one in staged(world, options)))
    world.kill_module()
    process.wait(60)
    for pid in jobs(world):
        world.run("kill", "-9", pid, check=False)
    world.wait(lambda: not jobs(world))
    assert not any(one.endswith(".zst") for one in staged(world, options))
    answer = dump(world, options)
    assert answer["changed"] and "interrupted" in answer["evidence"]["before"]["why"]
    names = staged(world, options)
    assert len(names) == 2 and all(one.endswith(".zst") for one in names), names


@ENGINES
def test_a_changed_source_is_copied_again(world: Vault, options: dict[str, Any]) -> None:
    first = dump(world, options)["result"]
    if options is LITE:
        world.run("python3", "-c", "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); "
                  "c.execute(\"UPDATE contact SET mixed = '7' WHERE mixed = 7\"); c.commit()", DB)  # fmt: skip
    else:
        cli(world, "DEL", "dies")
        assert not dump(world, options, check=True)["changed"], "a key that expires may vanish"
        cli(world, "RPUSH", "queue:mail", "late")
    second = dump(world, options)
    assert second["changed"] and second["result"]["dump_id"] != first["dump_id"]
    assert len(staged(world, options)) == 2


def test_a_writer_during_the_redis_dump_is_an_error(world: Vault) -> None:
    with world.promptly(PART.format("redis.jsonl"), f"REDISCLI_AUTH='{SECRET}' redis-cli -n 3 SADD tags late"):
        process = world.start_module("database_dump", **dict(REDIS, rate=20000))
    out, _err = process.communicate(timeout=120)
    assert b"changed while the dump was made: db3" in out and b'"failed": true' in out
    assert staged(world, REDIS) == []


def test_a_writer_during_the_sqlite_dump_changes_nothing_in_the_copy(world: Vault) -> None:
    process = world.start_module("database_dump", **dict(LITE, rate=300000))
    world.wait(lambda: any(".sqlite3" in one for one in staged(world, LITE)))
    world.run(
        "python3", "-c", "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('DELETE FROM note WHERE a < 3'); c.commit()", DB
    )
    out, _err = process.communicate(timeout=120)
    source = json.loads(out)["result"]["source"]
    path = world.shell("ls /srv/crm/.staging/*/*/*.sqlite3.zst").strip()
    world.shell(f"zstd -qdfc {path} >/srv/opened.sqlite3")
    count = "import sqlite3; print(sqlite3.connect('/srv/opened.sqlite3').execute('SELECT count(*) FROM note').fetchone()[0])"
    assert world.run("python3", "-c", count).strip() == "3000" and source["tables"] > 3
    assert dump(world, LITE, check=True)["changed"]


@pytest.mark.parametrize(
    ("options", "change", "message"),
    [
        (LITE, {"database": "/srv/crm/none.db"}, "does not exist"),
        (LITE, {"database": "/srv/vault"}, "no regular file"),
        (LITE, {"database": "/etc/passwd"}, "SQLCipher"),
        (LITE, {"direct": "always"}, "made in the staging place"),
        (REDIS, {"database": "0"}, "copied whole"),
        (REDIS, {"port": 6999}, "does not answer"),
        (REDIS, {"config": "/etc/passwd"}, "NOAUTH.*password_file"),
        (REDIS, {"password_file": "/etc/passwd"}, "mode 644"),
    ],
)
def test_bad_input_is_one_clear_message(world: Vault, options: dict[str, Any], change: dict[str, Any], message: str) -> None:
    for check in (True, False):
        with pytest.raises(Failed, match=message):
            dump(world, options, check=check, **change)


@pytest.mark.parametrize(
    ("make", "undo", "message"),
    [
        (["REPLICAOF", "127.0.0.1", "6998"], ["REPLICAOF", "NO", "ONE"], "is a replica of 127.0.0.1:6998"),
        (["ACL", "SETUSER", "default", "-dump"], ["ACL", "SETUSER", "default", "+dump"], "refused DUMP: NOPERM"),
    ],
    ids=["replica", "no right to dump"],
)
def test_a_redis_that_cannot_be_the_source(world: Vault, make: list[str], undo: list[str], message: str) -> None:
    assert cli(world, *make).strip() == "OK"
    try:
        with pytest.raises(Failed, match=message):
            dump(world, REDIS)
    finally:
        cli(world, *undo)


def test_survey(world: Vault) -> None:
    items = [dict(LITE, kind="database", name="monica"), dict(REDIS, kind="database", name="queue"),
             {"kind": "database", "name": "m", "engine": "mongodb", "database": "crm"}]  # fmt: skip
    survey = world.module("host_survey", items=items)["survey"]
    expected = survey["expected"]
    assert [expected[f"database:{name}"]["found"] for name in ("monica", "queue", "m")] == ["yes", "yes", "unknown"]
    assert "mongodb" in expected["database:m"]["detail"]
    lite = dump(world, LITE)["result"]["source"]["identity"]
    assert expected["database:monica"]["identity"] == lite and lite["path"] == DB
    assert expected["database:queue"]["identity"] == dump(world, REDIS)["result"]["source"]["identity"]
    assert not [one for one in survey["findings"] if one["kind"] == "database"]
    # Forgotten: an open SQLite file, the queue with keys, and what nobody can copy here.
    world.shell("cp /bin/sleep /srv/mongod; (setsid /srv/mongod 60 >/dev/null 2>&1 &)")
    hold = f"import sqlite3, time; c = sqlite3.connect({DB!r}); c.execute('SELECT 1 FROM note').fetchone(); time.sleep(60)"
    holder = subprocess.Popen(["docker", "exec", world.name, "python3", "-c", hold])
    try:
        wanted = {"database:redis/6379", f"database:sqlite:{DB}", "database:mongodb"}
        seen: dict[str, str] = {}

        def all_found() -> bool:
            seen.update({one["id"]: one["what"] for one in world.module("host_survey", items=[])["survey"]["findings"]})
            return wanted <= set(seen)

        world.wait(all_found)
        assert " keys; no item declares it" in seen["database:redis/6379"]
    finally:
        holder.kill()
        world.shell("pkill -x mongod || true; pkill -f '[t]ime.sleep.60' || true")


# --- the vault -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def package(world: Vault, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    place: Path = tmp_path_factory.mktemp("custodian")
    subprocess.run(["age-keygen", "-o", place / "alice.age"], check=True, capture_output=True)
    made = subprocess.run(["age-keygen", "-y", place / "alice.age"], check=True, capture_output=True, text=True)
    custodians = [{"name": name, "recipient": made.stdout.strip()} for name in ("alice",)]
    found = world.vault("vault_package", item="host:h1", state="open", custodians=custodians, **base("h1"))
    world.module("vault_access", item="host:h1", public_key=found["result"]["pull_public_key"],
                 directories=["/srv/crm/.staging", "/srv/queue/.staging"])  # fmt: skip
    return {"address": "127.0.0.1", "port": 22, "user": "root", "host_key": world.read("/etc/ssh/ssh_host_ed25519_key.pub").strip()}


def pulled(world: Vault, package: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """The options of its proof."""
    made = dump(world, options)["result"]
    common = {"item": options["item"], "artefacts": made["artefacts"], **base("h1")}
    world.vault("vault_pull", source=package, **common)
    return dict(common, proof=options["engine"], source=made["source"])


@ENGINES
def test_prove_four_times(world: Vault, package: dict[str, Any], options: dict[str, Any]) -> None:
    proof = pulled(world, package, options)
    state = lambda: world.shell(f"find {ROOT}/lab -printf '%p %m %s %T@\\n' | sort")  # noqa: E731
    result = four(lambda check=False: world.vault("vault_prove", check=check, **proof), state)["result"]
    assert result["verdict"] == "equal" and result["differences"] == [] and result["version_relation"] == "same"
    assert result["fingerprint_sha256"] == proof["source"]["fingerprint_sha256"]
    assert result["rows"] == proof["source"]["rows"] > 50
    assert world.shell("ls -d /dev/shm/sv-* 2>/dev/null || true; pgrep -u vault -a redis || true") == ""
    assert plain(world) == ""


def test_keys_behind_the_sixteenth_database(world: Vault, package: dict[str, Any]) -> None:
    """A new server has sixteen; the throw-away one has as many as the source used."""
    cli(world, "-n", "40", "SET", "far", "away")
    try:
        proof = pulled(world, package, REDIS)
        keys = sum(int(found) for found in re.findall(r"keys=(\d+)", cli(world, "INFO", "keyspace")))
    finally:
        cli(world, "-n", "40", "DEL", "far")
    result = world.vault("vault_prove", **proof)["result"]
    assert (result["verdict"], result["rows"]) == ("equal", keys) and proof["source"]["databases"] == 41


def forged(world: Vault, options: dict[str, Any], program: str) -> None:
    """Change the staged dump and write its record anew: as if the dump had been wrong from the start."""
    world.run("python3", "-c", FORGE, options["staging"], stdin=program)


FORGE = """
import glob, hashlib, json, subprocess, sys
record = glob.glob(sys.argv[1] + "/*/finished.json")[0]
data = json.load(open(record))
one = [a for a in data["artefacts"] if a["role"] == "dump"][0]
plain = subprocess.run(["zstd", "-qdc", one["path"]], stdout=subprocess.PIPE, check=True).stdout
names = {"plain": plain}
exec(sys.stdin.read(), names)
plain = names["plain"]
staged = subprocess.run(["zstd", "-qc"], input=plain, stdout=subprocess.PIPE, check=True).stdout
open(one["path"], "wb").write(staged)
one.update(sha256=hashlib.sha256(staged).hexdigest(), bytes=len(staged), plain_sha256=hashlib.sha256(plain).hexdigest(), plain_bytes=len(plain))
json.dump(data, open(record, "w"))
"""

SQL = "import sqlite3; open('/srv/f.db', 'wb').write(plain); c = sqlite3.connect('/srv/f.db'); c.execute({0!r}); c.commit(); " \
      "c.execute('PRAGMA wal_checkpoint(TRUNCATE)'); c.close(); plain = open('/srv/f.db', 'rb').read()"  # fmt: skip
LINES = "import json; rows = [json.loads(line) for line in plain.splitlines()]; {0}; " \
        "plain = b''.join(json.dumps(one).encode() + b'\\n' for one in rows)"  # fmt: skip


@pytest.mark.parametrize(
    ("options", "program", "message"),
    [
        (LITE, SQL.format("UPDATE contact SET score = score + 1e-9 WHERE id = 5"), "is different: 1 differences.*contact"),
        (LITE, SQL.format("DROP TRIGGER t"), "is different.*trigger t"),
        (LITE, "plain = plain[:len(plain) * 8 // 10]", "integrity_check|cannot be opened"),
        (LITE, "plain = plain[:200000] + bytes(4096) + plain[204096:]", "integrity_check|cannot be opened|could not be compared"),
        (LITE, "plain = b''", "is empty|given nothing"),
        (REDIS, LINES.format("[row.update(expires=row['expires'] + 1) for row in rows if row.get('expires')]"), "is different.*db0 expiring"),
        (REDIS, LINES.format("rows.pop(3); rows[-1]['keys'] -= 1"), "is different"),
        (REDIS, LINES.format("rows.pop(3)"), "it was written with"),
        (REDIS, LINES.format("rows.pop()"), "has no end"),
        (REDIS, LINES.format("rows[3].update(dump=rows[3]['dump'][:8] + rows[3]['dump'][12:])"), "could not be put back.*checksum|is none of"),
    ],
)  # fmt: skip
def test_a_wrong_copy_is_never_equal(world: Vault, package: dict[str, Any], options: dict[str, Any], program: str, message: str) -> None:
    made = dump(world, options)["result"]
    forged(world, options, program)
    record = json.loads(world.shell(f"cat {options['staging']}/*/finished.json"))
    common = {"item": options["item"], "artefacts": record["artefacts"], **base("h1")}
    world.vault("vault_pull", source=package, **common)
    with pytest.raises(Failed, match=message) as caught:
        world.vault("vault_prove", proof=options["engine"], source=made["source"], **common)
    assert caught.value.answer["evidence"]["verdict"] in ("no", "unknown")
    assert world.shell("ls -d /dev/shm/sv-* 2>/dev/null || true; pgrep -u vault -a redis || true") == ""


def test_a_newer_dump_format_is_unknown_by_name(world: Vault, package: dict[str, Any]) -> None:
    proof = pulled(world, package, REDIS)
    proof["source"] = dict(proof["source"], rdb_version=99)
    with pytest.raises(Failed, match="dump format 99; this vault's 7.* reads up to") as caught:
        world.vault("vault_prove", again=True, **proof)
    assert caught.value.answer["evidence"]["verdict"] == "unknown"


README_TOOLS = r"""
mkdir -p /srv/vault/bin /srv/vault/out/redis
printf '#!/bin/sh\nexec /usr/bin/redis-cli -s /srv/vault/out/redis/s "$@"\n' >/srv/vault/bin/redis-cli
printf '#!/bin/sh\nexec python3 -c "import sqlite3, sys; print(sqlite3.connect(sys.argv[1]).execute(sys.argv[2]).fetchone()[0])" "$@"\n' >/srv/vault/bin/sqlite3
printf '#!/bin/sh\nmkdir -p "$4" && exec python3 -m zipfile -e "$2" "$4"\n' >/srv/vault/bin/unzip
chmod 755 /srv/vault/bin/*
export PATH=/srv/vault/bin:$PATH
redis-server --port 0 --unixsocket /srv/vault/out/redis/s --dir /srv/vault/out/redis --save "" --daemonize yes >/dev/null
i=0; until redis-cli ping 2>/dev/null | grep -q PONG; do i=$((i + 1)); [ $i -lt 600 ] || exit 1; sleep 0.1; done
"""


def test_the_readme_opens_them(world: Vault, tmp_path: Path) -> None:
    """Every command of the sealed package's README.txt, as it stands, in its order: what was put in comes out by the engines' own tools."""
    mine = tmp_path / "alice.age"
    subprocess.run(["age-keygen", "-o", mine], check=True, capture_output=True)
    made = subprocess.run(["age-keygen", "-y", mine], check=True, capture_output=True, text=True)
    opening = {"item": "host:h9", "state": "open", "custodians": [{"name": "alice", "recipient": made.stdout.strip()}]}
    found = world.vault("vault_package", **opening, **base("h9"))
    world.module(
        "vault_access",
        item="host:h9",
        public_key=found["result"]["pull_public_key"],
        directories=["/srv/crm/.staging", "/srv/queue/.staging"],
    )
    key = world.read("/etc/ssh/ssh_host_ed25519_key.pub").strip()
    for options in (LITE, REDIS):
        dumped = dump(world, options)["result"]
        common = {"item": options["item"], "artefacts": dumped["artefacts"], **base("h9")}
        world.vault("vault_pull", source={"address": "127.0.0.1", "port": 22, "user": "root", "host_key": key}, **common)
        world.vault("vault_prove", proof=options["engine"], source=dumped["source"], **common)
    world.vault("vault_package", item="host:h9", state="sealed", retention={"class": "books"}, **base("h9"))
    bag = f"{ROOT}/lab/h9"
    subprocess.run(["docker", "cp", mine, f"{world.name}:/srv/vault/alice.age"], check=True, capture_output=True)
    world.shell("chown vault /srv/vault/alice.age; rm -rf /srv/vault/out; install -d -o vault -m 0700 /srv/vault/out")
    script = [line[4:] for line in world.read(f"{bag}/README.txt").splitlines() if line.startswith("    ")]
    places = {"PACKAGE": bag, "KEYS": f"{ROOT}/lab/keys", "CUSTODIAN": "alice", "IDENTITY": "/srv/vault/alice.age", "OUT": "/srv/vault/out"}
    # Signed by nobody here: the package of this test was sealed without a control node.
    lines = [line for line in script if line.split("=")[0] not in places and not line.startswith("ssh-keygen")]
    text = "\n".join([README_TOOLS, *(f"{name}={value}" for name, value in places.items()), *lines])
    argv = ["docker", "exec", "-i", "-u", "vault", world.name, "sh", "-euc", text]
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        assert "\nok\n" in "\n" + done.stdout and "keys=50" in done.stdout, done.stdout[-1500:]

        def ask(*words: str) -> str:
            return world.run("redis-cli", "-s", "/srv/vault/out/redis/s", *words)

        assert ask("LRANGE", "queue:mail", "0", "-1") == cli(world, "LRANGE", "queue:mail", "0", "-1") and MARKER in ask(
            "LINDEX", "queue:mail", "0"
        )
        odd = ("--no-raw", "LRANGE", "queue: odd\nname", "0", "-1")
        assert ask(*odd) == cli(world, *odd) and "xff" in ask(*odd)
        assert ask("XINFO", "GROUPS", "jobs") == cli(world, "XINFO", "GROUPS", "jobs")
        assert abs(int(ask("PEXPIRETIME", "number")) - int(cli(world, "PEXPIRETIME", "number"))) < 2
        members = sorted(ask("-n", "3", "SMEMBERS", "tags").split())
        assert members == sorted(cli(world, "-n", "3", "SMEMBERS", "tags").split()) and set(members) >= {"one", "three", "two"}
        count = "import glob, sqlite3; print(sqlite3.connect(glob.glob('/srv/vault/out/database-monica/*.sqlite3')[0]).execute('SELECT count(*) FROM contact').fetchone()[0])"
        assert world.run("python3", "-c", count).strip() == "3000"
    finally:
        world.shell("pkill -u vault redis-server; sleep 0.3; rm -rf /srv/vault/out /srv/vault/bin /srv/vault/alice.age", check=False)
