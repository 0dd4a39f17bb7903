# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Transfers that are cut, killed, filled up, damaged and falsified; and copies that go to the vault without being staged.

After each fault: a clear error, nothing under a final name that is not whole, and the second run completes.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.host_container import KILL_MODULE, LIBRARY, Failed, flip
from tests.integration.test_vault import MARKER, PROOFS, ROOT, SETUP, STAGING, Vault, admitted, base, four, opened, people, plain

_ = people  # a fixture of the other file
BIG = "/srv/up/.s/big.bin"
ITEM = "filestore:big"
MIB = 1 << 20
SIZE = 22 * MIB + 12345
HOSTILE = "/srv/small"
READER = "pgrep -f '^/usr/bin/python3.* -I /var/lib/sunset-reader/reader.py'"


@pytest.fixture(scope="module")
def world() -> Iterator[Vault]:
    if os.geteuid() != 0:
        pytest.skip("the lab's containers need root")
    box = Vault(f"sunset-test-transfer-{os.getpid()}")
    box.docker_arguments += ("--tmpfs", f"{HOSTILE}:size=20m,mode=0755", "--tmpfs", "/srv/tight:size=40m,mode=0777")
    with box:
        box.shell(SETUP)
        box.shell(f"head -c {SIZE} /dev/urandom >{BIG}; chmod 600 {BIG}; cp {BIG} /srv/big.keep")
        box.shell("head -c 24000000 /dev/urandom >/srv/up/store/large")
        yield box


@pytest.fixture(scope="module")
def custodians(people: dict[str, dict[str, Any]]) -> list[dict[str, str]]:
    return [{"name": name, "recipient": one["recipient"]} for name, one in people.items()]


@pytest.fixture(scope="module")
def source(world: Vault) -> dict[str, Any]:
    return {"address": "127.0.0.1", "port": 22, "user": "root", "host_key": world.read("/etc/ssh/ssh_host_ed25519_key.pub").strip()}


class Transfer:
    """One package of its own, and the pull of the large file into it."""

    def __init__(self, world: Vault, source: dict[str, Any], package: str, root: str = ROOT) -> None:
        self.world, self.package, self.root = world, package, root
        self.folder, self.state_of_it = f"{root}/lab/{package}/data/filestore-big", f"{root}/lab/state/{package}/filestore-big.stored.json"
        sha = world.shell(f"sha256sum <{BIG} | cut -c1-64").strip()
        artefact = {"name": "big.bin", "role": "archive", "path": BIG, "sha256": sha, "bytes": SIZE}
        self.options: dict[str, Any] = {"item": ITEM, "source": source, "artefacts": [artefact], **base(package), "root": root}

    def pull(self, check: bool = False, **more: Any) -> dict[str, Any]:
        return self.world.vault("vault_pull", check=check, **{**self.options, **more})

    def begin(self, act: str, segments: int = 2, recorded: int = 0, **more: Any) -> subprocess.Popen[bytes]:
        """Start a slow pull; as soon as some segments are there (and some are recorded), `act` follows inside the container."""
        there = f"[ $(ls {self.folder} 2>/dev/null | grep -c 'age$') -ge {segments} ]"
        there += f" && [ $(grep -o '[.]age' {self.state_of_it} | wc -l) -ge {recorded} ]" if recorded else ""
        with self.world.promptly(there, act):
            return self.world.start_vault("vault_pull", **{**self.options, **more}, rate=4 * MIB)

    def begin_and_kill(self, segments: int = 2, **more: Any) -> None:
        self.begin(KILL_MODULE, segments, **more).communicate()
        self.world.wait(lambda: not self.world.module_pids())

    def segments(self) -> list[str]:
        return self.world.shell(f"ls {self.folder} 2>/dev/null | grep 'age$' || true").split()

    def damage(self, name: str) -> None:
        self.world.shell(flip(f"{self.folder}/{name}", 3000000))

    def state(self) -> str:
        return self.world.shell(f"find {self.root}/lab/{self.package} {self.root}/lab/state -printf '%p %m %s %T@\\n' | sort")

    def kept(self, answer: dict[str, Any]) -> int:
        (note,) = [one for one in answer["evidence"]["actions"] if one.get("act") == "pulled and encrypted"]
        kept: int = note["kept"]
        return kept

    def opens(self) -> None:
        """By hand, as a person in ten years would: age and cat, in the order of the names."""
        identity = f"/dev/shm/sunset-vault-906/lab/{self.package}.identity"
        joined = f'for one in {self.folder}/big.bin.*.age; do age -d -i {identity} "$one" || exit 1; done | sha256sum | cut -c1-64'
        assert self.world.shell(joined).strip() == self.options["artefacts"][0]["sha256"]

    def record(self) -> dict[str, Any]:
        record: dict[str, Any] = json.loads(self.world.read(self.state_of_it))
        return record

    def whole(self) -> None:
        """The end of each test: stored, nothing else there, unchanged by another run."""
        assert self.segments() == [one["file"] for one in self.record()["artefacts"][0]["segments"]]
        assert self.record()["complete"] and not {"partial", "earlier"} & set(self.record())
        assert self.world.shell(f"find {self.root}/lab/{self.package} -name '*.part'") == ""
        assert self.pull()["changed"] is False
        self.opens()


def failed(process: subprocess.Popen[bytes]) -> str:
    answer = json.loads(process.communicate(timeout=120)[0])
    assert answer["failed"] and answer["evidence"]["verdict"] != "yes"
    return str(answer["msg"])


@pytest.fixture
def transfer(world: Vault, custodians: Any, source: Any, request: pytest.FixtureRequest) -> Iterator[Transfer]:
    package = "t" + hashlib.sha256(request.node.name.encode()).hexdigest()[:12]
    admitted(world, package, custodians)
    yield Transfer(world, source, package)
    world.shell(f"cp /srv/big.keep {BIG}; chmod 600 {BIG}")


def test_segments_four_times(transfer: Transfer) -> None:
    result = four(lambda check=False: transfer.pull(check=check), transfer.state)["result"]
    (stored,) = result["stored"]
    assert stored["segments"] == 6 and stored["sha256"] == transfer.options["artefacts"][0]["sha256"]
    folder = f"{ROOT}/lab/{transfer.package}/data/filestore-big"
    assert transfer.world.shell(f"cd {folder} && sha256sum big.bin.*.age | sha256sum | cut -c1-64").strip() == stored["segments_sha256"]
    transfer.whole()


def test_the_connection_is_cut(transfer: Transfer) -> None:
    process = transfer.begin(f"reader=$({READER} | tail -n 1); kill -9 $(awk '/^PPid/ {{print $2}}' /proc/$reader/status)")
    assert "ssh ended with exit code 255" in failed(process)
    before = sum(one["bytes"] for one in transfer.record()["partial"]["big.bin"]["segments"])
    assert len(transfer.segments()) >= 2 and transfer.record()["artefacts"] == []
    assert transfer.pull(check=True)["changed"] is True
    answer = transfer.pull()
    assert transfer.kept(answer) == before >= 8 * MIB
    transfer.whole()


def test_the_reader_is_killed(transfer: Transfer) -> None:
    process = transfer.begin(f"kill -9 $({READER})")
    assert "ssh ended with exit code" in failed(process)
    assert transfer.kept(transfer.pull()) >= 8 * MIB
    transfer.whole()


def test_the_vault_process_is_killed(transfer: Transfer) -> None:
    transfer.begin_and_kill(recorded=1)
    kept = sum(one["bytes"] for one in transfer.record()["partial"]["big.bin"]["segments"])
    there = int(transfer.world.shell(f"cat {ROOT}/lab/{transfer.package}/data/filestore-big/* | wc -c"))
    assert kept >= 4 * MIB
    # Of the unfinished ones all is kept that age can vouch for: blocks of 64 KiB.
    assert transfer.kept(transfer.pull()) >= max(kept, 0.98 * there)
    transfer.whole()


def test_a_pull_that_is_killed_before_its_first_segment_is_recorded_goes_on(transfer: Transfer) -> None:
    with transfer.world.promptly(f"[ -e {transfer.state_of_it} ]", KILL_MODULE):
        process = transfer.world.start_vault("vault_pull", **transfer.options, rate=MIB)
    process.communicate()
    transfer.world.wait(lambda: not transfer.world.module_pids())
    assert transfer.record()["partial"]["big.bin"]["segments"] == []
    assert [transfer.pull(check=True)["changed"], transfer.pull()["changed"]] == [True, True]
    transfer.whole()


def test_the_vault_process_is_killed_again_and_again(transfer: Transfer) -> None:
    for number in range(1, 5):
        transfer.begin_and_kill(segments=number)
    assert transfer.kept(transfer.pull()) >= 4 * 4 * MIB
    transfer.whole()


def test_a_kept_segment_that_is_damaged_is_not_built_upon(transfer: Transfer) -> None:
    transfer.begin_and_kill(segments=3)
    transfer.damage("big.bin.0002.age")
    assert transfer.kept(transfer.pull()) == 4 * MIB
    transfer.whole()


def test_the_vaults_disk_is_full_in_the_middle(world: Vault, custodians: Any, source: Any) -> None:
    answer = world.vault("vault_package", item="host:t1", state="open", custodians=custodians, **{**base("t1"), "root": "/srv/tight"})
    world.module("vault_access", item="host:t1", public_key=answer["result"]["pull_public_key"], directories=sorted(STAGING.values()))
    transfer = Transfer(world, source, "t1", "/srv/tight")
    process = transfer.begin("cat /dev/zero >/srv/tight/filler 2>/dev/null || true")
    assert "No space left" in failed(process)
    assert world.shell("find /srv/tight -name '*.part'") == ""
    with pytest.raises(Failed, match=r"has \d+ bytes free; the package of filestore:big needs \d+"):
        transfer.pull()
    world.shell("rm /srv/tight/filler")
    assert transfer.kept(transfer.pull()) >= 4 * MIB
    transfer.whole()


def test_the_source_is_another_file(transfer: Transfer) -> None:
    """Same size, other content: what an interrupted run brought of the right one does not make it right."""
    transfer.begin_and_kill()
    transfer.world.shell(flip(BIG, SIZE - 1) + flip(BIG, 99))
    with pytest.raises(Failed, match="big.bin arrived with sha256"):
        transfer.pull()
    assert transfer.segments() == [] and "partial" not in transfer.record()
    transfer.world.shell(f"cp /srv/big.keep {BIG}")
    assert transfer.kept(transfer.pull()) == 0
    transfer.whole()


def test_the_source_is_truncated(transfer: Transfer) -> None:
    transfer.world.shell(f"truncate -s 1M {BIG}")
    with pytest.raises(Failed, match=f"has {MIB} bytes; the ledger says {SIZE}"):
        transfer.pull()
    assert transfer.segments() == []
    transfer.world.shell(f"cp /srv/big.keep {BIG}")
    transfer.pull()
    transfer.whole()


def test_the_source_is_written_to_while_it_is_read(transfer: Transfer) -> None:
    process = transfer.begin(f"printf x >>{BIG}")
    assert "changed while it was read" in failed(process)
    assert transfer.segments() == []
    transfer.world.shell(f"cp /srv/big.keep {BIG}")
    transfer.pull()
    transfer.whole()


@pytest.mark.parametrize("damage", ["flip", "swap", "missing", "other place"])
def test_a_stored_segment_is_damaged(transfer: Transfer, damage: str) -> None:
    transfer.pull()
    folder = f"{ROOT}/lab/{transfer.package}/data/filestore-big"
    third, fourth = f"{folder}/big.bin.0003.age", f"{folder}/big.bin.0004.age"
    if damage == "flip":
        transfer.damage("big.bin.0003.age")
    elif damage == "swap":
        transfer.world.shell(f"mv {third} /srv/vault/x; mv {fourth} {third}; mv /srv/vault/x {fourth}")
    elif damage == "missing":
        transfer.world.shell(f"rm {third}")
    else:
        transfer.world.shell(f"cp {folder}/big.bin.0001.age {third}")
    with pytest.raises(Failed, match="was altered or is not there"):
        transfer.world.vault(
            "vault_prove", item=ITEM, proof="filestore", **{k: v for k, v in transfer.options.items() if k not in ("item", "source")}
        )
    # Those in front of the damage are kept, the rest comes again.
    assert transfer.kept(transfer.pull()) == 8 * MIB
    transfer.whole()


def test_a_newer_dump_replaces_the_older_one_only_when_whole(transfer: Transfer) -> None:
    transfer.pull()
    old = {one["file"] for one in transfer.record()["artefacts"][0]["segments"]}
    newer = BIG.replace("big", "new")
    transfer.world.shell(f"head -c {SIZE} /dev/urandom >{newer}")
    sha = transfer.world.shell(f"sha256sum <{newer} | cut -c1-64").strip()
    new = [{"name": "new.bin", "role": "archive", "path": newer, "sha256": sha, "bytes": SIZE}]
    transfer.begin_and_kill(segments=len(old) + 2, artefacts=new)
    assert old < set(transfer.segments())
    transfer.begin_and_kill(segments=len(old) + 3, artefacts=new)
    assert old < set(transfer.segments())
    transfer.pull(artefacts=new)
    assert len(transfer.segments()) >= 6 and not old & set(transfer.segments())


def test_wrong_pull_key(transfer: Transfer) -> None:
    key = f"/dev/shm/sunset-vault-906/lab/{transfer.package}.pull"
    transfer.world.shell(f"cp -a {key} /run/right; rm -f /tmp/wrong; ssh-keygen -q -t ed25519 -N '' -f /tmp/wrong; cat /tmp/wrong >{key}")
    with pytest.raises(Failed, match="(?is)cannot reach.*permission denied"):
        transfer.pull()
    assert transfer.segments() == []
    transfer.world.shell(f"cp -a /run/right {key}")
    transfer.pull()
    transfer.whole()


def test_two_pulls_at_once(transfer: Transfer) -> None:
    process = transfer.begin(f"kill -STOP $(pgrep -f '^/usr/bin/python3 {LIBRARY}/run.py')", segments=1)
    (pid,) = transfer.world.module_pids()
    try:
        with pytest.raises(Failed, match="another vault_pull is at work on filestore:big"):
            transfer.pull()
    finally:
        transfer.world.run("kill", "-CONT", pid)
    assert json.loads(process.communicate(timeout=120)[0])["changed"] is True
    transfer.whole()


# --- without staging ---

DATABASES = {
    "database:crm": {"engine": "postgresql", "database": "crm", "port": 5432},
    "database:old": {"engine": "mariadb", "database": "old"},
}


def preserved(world: Vault, item: str, check: bool = False, **more: Any) -> dict[str, Any]:
    if item in DATABASES:
        options = {"direct": "always", "staging": STAGING[item], **DATABASES[item], **more}
        return world.module("database_dump", item=item, check=check, **options)
    return world.module("filestore_archive", item=item, check=check, **{"staging": f"{HOSTILE}/s", "path": "/srv/up/store", **more})


def direct(world: Vault, source: Any, package: str, item: str, check: bool = False, **more: Any) -> dict[str, Any]:
    artefacts = preserved(world, item)["result"]["artefacts"]
    return world.vault("vault_pull", check=check, **{"item": item, "source": source, "artefacts": artefacts, **base(package), **more})


def admit(world: Vault, package: str, custodians: Any) -> None:
    answer = opened(world, package, custodians)
    places = [*sorted(STAGING.values()), f"{HOSTILE}/s"]
    world.module("vault_access", item=f"host:{package}", public_key=answer["result"]["pull_public_key"], directories=places)


def files(world: Vault, package: str) -> list[str]:
    return world.shell(f"cd {ROOT}/lab/{package}/data && find . -type f | sort").split()


@pytest.mark.parametrize("item", ["database:crm", "database:old", "filestore:up"])
def test_a_copy_that_is_not_staged(world: Vault, custodians: Any, source: Any, item: str) -> None:
    places = f"{HOSTILE} {STAGING[item] if item in DATABASES else ''}"
    state = lambda: world.shell(f"find {places} -type f -printf '%p %m %s %T@\\n' 2>/dev/null | sort || true")  # noqa: E731
    dumped = four(lambda check=False: preserved(world, item, check=check), state)
    (large,) = [one for one in dumped["result"]["artefacts"] if one.get("direct")]
    assert large["sha256"] is None and large["bytes"] is None and large["role"] in ("dump", "archive")
    assert not [line for line in state().splitlines() if int(line.split()[-2]) > 2 * MIB]
    admit(world, "d1", custodians)
    inside = lambda: world.shell(f"find {ROOT}/lab/d1 {ROOT}/lab/state -printf '%p %m %s %T@\\n' | sort")  # noqa: E731
    pulled = four(lambda check=False: direct(world, source, "d1", item, check=check), inside)
    (stored,) = [one for one in pulled["result"]["stored"] if one.get("direct")]
    assert stored["of"] == large["of"] and len(stored["sha256"]) == len(stored["plain_sha256"]) == 64 and stored["plain_bytes"] > 0
    assert plain(world) == ""
    options = {"item": item, "proof": PROOFS[item], "artefacts": dumped["result"]["artefacts"], "source": dumped["result"]["source"]}
    proven = four(lambda check=False: world.vault("vault_prove", check=check, **options, **base("d1")), inside)
    assert proven["result"]["verdict"] == "equal" and MARKER not in json.dumps(proven)


def test_too_little_room_is_known_with_the_number(world: Vault) -> None:
    with pytest.raises(Failed, match=r"staging /srv/small/t has \d+ bytes free; the copy may need \d+ .*: \d+ are missing"):
        preserved(world, "filestore:up2", staging=f"{HOSTILE}/t", direct="never")
    assert preserved(world, "filestore:up2", staging=f"{HOSTILE}/t", check=True)["changed"] is True
    assert world.shell(f"ls {HOSTILE}/t 2>/dev/null || true") == ""
    answer = preserved(world, "filestore:up2", staging=f"{HOSTILE}/t")
    assert [one for one in answer["evidence"]["actions"] if "bytes free" in one.get("why", "")]
    with pytest.raises(Failed, match=r"\d+ are missing"):
        preserved(world, "filestore:up2", staging=f"{HOSTILE}/t", direct="never")


def test_the_source_changes_between_its_look_and_the_stream(world: Vault, custodians: Any, source: Any) -> None:
    admit(world, "d2", custodians)
    for item, change in (
        ("database:crm", "runuser -u postgres -- psql -qc \"UPDATE contact SET name = 'x' WHERE id = 5\" crm"),
        ("database:old", "mariadb -e \"UPDATE lead SET note = 'x' WHERE id = 5\" old"),
        ("filestore:up", "printf z >>/srv/up/store/blob"),
    ):
        artefacts = preserved(world, item)["result"]["artefacts"]
        world.shell(change)
        with pytest.raises(Failed, match="did not give a whole.*(is not what it was|changed)"):
            world.vault("vault_pull", item=item, source=source, artefacts=artefacts, **base("d2"))
        assert not [name for name in files(world, "d2") if item.replace(":", "-") in name and ".0001.age" in name]
        assert direct(world, source, "d2", item)["changed"] is True


def test_a_direct_stream_is_cut_and_starts_again(world: Vault, custodians: Any, source: Any) -> None:
    admit(world, "d3", custodians)
    artefacts = preserved(world, "filestore:up")["result"]["artefacts"]
    options = {"item": "filestore:up", "source": source, "artefacts": artefacts, **base("d3")}
    for kill in ("job", "vault"):
        act = KILL_MODULE if kill == "vault" else "kill -9 $(pgrep -f '[_]direct_job.py')"
        with world.promptly(f"ls {ROOT}/lab/d3/data/*/*.0001.age >/dev/null 2>&1", act):
            process = world.start_vault("vault_pull", rate=2 * MIB, **options)
        if kill == "job":
            assert "did not give a whole" in failed(process)
            assert not [name for name in files(world, "d3") if ".0001.age" in name]
        else:
            process.communicate()
            world.wait(lambda: not world.module_pids())
            assert world.vault("vault_pull", check=True, **options)["changed"] is True
    assert world.vault("vault_pull", **options)["changed"] is True
    assert world.vault("vault_pull", **options)["changed"] is False
    assert world.shell("pgrep -f '[_]direct_job.py' || true") == ""


def test_what_is_not_roots_own_is_not_made(world: Vault, custodians: Any) -> None:
    admit(world, "d4", custodians)
    spec = next(one["path"] for one in preserved(world, "filestore:up")["result"]["artefacts"] if one.get("direct"))
    folder, upper = os.path.dirname(spec), os.path.dirname(os.path.dirname(spec))
    ssh = "runuser -u vault -- ssh -i /dev/shm/sunset-vault-906/lab/d4.pull -o StrictHostKeyChecking=no -o BatchMode=yes root@127.0.0.1"

    def ask(path: str) -> int:
        argv = ["docker", "exec", world.name, "sh", "-c", f"{ssh} 'make {path}' 2>/dev/null | wc -c; exit 0"]
        return int(subprocess.run(argv, capture_output=True, check=True).stdout)

    assert ask(spec) > 9_000_000
    world.shell(f"mkdir -p {HOSTILE}/s/x; cp {spec} {HOSTILE}/s/x/other.json; cp -a {folder} /srv/copy; ln -s /srv/copy {HOSTILE}/s/link")
    for path in (
        f"{HOSTILE}/s/x/other.json",
        "/srv/copy/direct.json",
        f"{HOSTILE}/s/link/direct.json",
        "direct.json",
        f"{folder}/../direct/direct.json",
    ):
        assert ask(path) == 0, path
    for spoil, mend in (
        (f"chmod 644 {spec}", f"chmod 600 {spec}"),
        (f"chown vault {spec}", f"chown root {spec}"),
        (f"ln {spec} {folder}/second", f"rm {folder}/second"),
        (f"chmod 777 {folder}", f"chmod 700 {folder}"),
        (f"chown vault {upper}", f"chown root {upper}"),
        (f"chmod 770 {HOSTILE}/s", f"chmod 700 {HOSTILE}/s"),
    ):
        world.shell(spoil)
        assert ask(spec) == 0, spoil
        world.shell(mend)
    assert ask(spec) > 9_000_000
