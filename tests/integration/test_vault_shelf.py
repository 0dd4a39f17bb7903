# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The shelf against moto, which is no write-once store, and against a fake that refuses as one would (tests/integration/s3_fake.py).

The module runs as Ansible would run it, in a process of its own on this machine; the package is a real bag with made-up ciphertext.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest

from ansible_collections.sunset.crm.plugins.module_utils._recorded import make_receipt
from ansible_collections.sunset.crm.plugins.module_utils._shelf import rules as shelf_rules
from ansible_collections.sunset.crm.plugins.module_utils._vault import bag as vault_bag
from ansible_collections.sunset.crm.plugins.module_utils._vault.state import Package, write_record
from tests.integration import s3_fake
from tests.integration.host_container import Failed

TOP = Path(__file__).resolve().parents[2]
KEYS = ("AKIDSUNSETTEST", "not-a-real-secret-0123456789")
UNTIL = "2099-12-31"
RUNNER = """
import importlib, sys
import ansible.module_utils.basic as basic
basic._ANSIBLE_ARGS, basic._ANSIBLE_PROFILE = sys.stdin.buffer.read(), "legacy"
importlib.import_module("ansible_collections.sunset.crm.plugins.modules.vault_shelf").main()
"""


@pytest.fixture(scope="module")
def fake() -> Iterator[s3_fake.FakeStore]:
    with s3_fake.running() as store:
        yield store


@pytest.fixture(autouse=True)
def no_faults(fake: s3_fake.FakeStore) -> None:
    for name, value in vars(s3_fake.Faults()).items():
        setattr(fake.faults, name, value)


class Shelf:
    """One vault's root with a sealed package, and one bucket."""

    number = 0

    def __init__(self, folder: Path, fake: s3_fake.FakeStore, *, lock: bool = True) -> None:
        Shelf.number += 1
        self.folder, self.fake = folder, fake
        self.bucket = f"archive-{os.getpid()}-{Shelf.number}"
        self.client = boto3.client(
            "s3", endpoint_url=fake.plain, region_name="us-east-1", aws_access_key_id=KEYS[0], aws_secret_access_key=KEYS[1]
        )
        self.client.create_bucket(Bucket=self.bucket, ObjectLockEnabledForBucket=lock)
        self.credentials = folder / "s3-credentials"
        self.credentials.write_text(f"[default]\naws_access_key_id = {KEYS[0]}\naws_secret_access_key = {KEYS[1]}\n")
        self.credentials.chmod(0o600)
        self.package = Package(str(folder / "vault"), "lab", "db1", None)
        self.seal({"data/database-crm/crm.pgcustom.zst.age": os.urandom(70_000), "data/inner-manifest.age": os.urandom(300)})

    def seal(self, payload: dict[str, bytes], **record: Any) -> None:
        for place in (self.package.state_dir, self.package.keys):
            Path(place).mkdir(parents=True, exist_ok=True)
        for name, content in payload.items():
            path = Path(self.package.bag) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        Path(self.package.wrapped("bob")).write_bytes(b"age-encryption.org/v1 the wrapped identity")
        digests = [(name, hashlib.sha256(content).hexdigest()) for name, content in payload.items()]
        tagmanifest = vault_bag.write_bag(self.package, {name: f"{name}\n" for name in vault_bag.TAG_FILES}, digests)
        (Path(self.package.bag) / vault_bag.SIGNATURE).write_text("-----BEGIN SSH SIGNATURE-----\n")
        base = {"state": "sealed", "sealed": "2026-11-21T12:00:00Z", "tagmanifest_sha256": tagmanifest}
        write_record(self.package.record_path, {**base, "retention": {"class": "books", "until": UNTIL, "hold": False}, **record})

    def start(self, check: bool = False, environment: dict[str, str] | None = None, again: bool = False, **shelf: Any) -> Any:
        told = {"kind": "s3", "endpoint": self.fake.worm, "bucket": self.bucket, "prefix": "crm", "credentials": str(self.credentials)}
        settings = {name: value for name, value in {**told, **shelf}.items() if value is not None}
        options = {"item": "host:db1", "root": self.package.root, "estate": "lab", "package": "db1", "shelf": settings, "again": again}
        options["receipt"] = make_receipt("vault_shelf", "host:db1", intent="test", check=check)
        options.update(_ansible_check_mode=check, _ansible_module_name="sunset.crm.vault_shelf")
        clean = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        clean.update(PYTHONPATH=f"{TOP}/.collections", HOME=str(self.folder), AWS_EC2_METADATA_DISABLED="true", no_proxy="127.0.0.1")
        process = subprocess.Popen(
            [sys.executable, "-c", RUNNER], env={**clean, **(environment or {})}, cwd=self.folder,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        assert process.stdin is not None
        process.stdin.write(json.dumps({"ANSIBLE_MODULE_ARGS": options}).encode())
        process.stdin.close()
        process.stdin = None
        return process

    def run(self, check: bool = False, **more: Any) -> dict[str, Any]:
        out, err = self.start(check, **more).communicate(timeout=120)
        try:
            answer: dict[str, Any] = json.loads(out.decode())
        except ValueError:
            raise AssertionError(f"no JSON: {out.decode()!r} {err.decode()[-3000:]}") from None
        assert KEYS[1] not in out.decode() and KEYS[0] not in out.decode()
        if answer.get("failed"):
            raise Failed(answer)
        return answer

    def state(self) -> Any:
        """Every version of every object with its lock, and the vault's own files."""
        told = self.client.list_object_versions(Bucket=self.bucket)
        rows = []
        for one in told.get("Versions", []):
            head = self.client.head_object(Bucket=self.bucket, Key=one["Key"], VersionId=one["VersionId"])
            lock = (head.get("ObjectLockMode"), str(head.get("ObjectLockRetainUntilDate")), head.get("ObjectLockLegalHoldStatus"))
            rows.append((one["Key"], one["VersionId"], one["Size"], lock))
        files = [(str(path), path.read_bytes()) for path in sorted(self.folder.rglob("*")) if path.is_file()]
        return sorted(rows), [row["Key"] for row in told.get("DeleteMarkers", [])], files

    def objects(self) -> dict[str, str]:
        """Key -> SHA-256 of the newest version, read past the fake."""
        found = {}
        for row in self.client.list_objects_v2(Bucket=self.bucket).get("Contents", []):
            found[row["Key"]] = hashlib.sha256(self.client.get_object(Bucket=self.bucket, Key=row["Key"])["Body"].read()).hexdigest()
        return found


@pytest.fixture
def shelf(tmp_path: Path, fake: s3_fake.FakeStore) -> Shelf:
    return Shelf(tmp_path, fake)


def bag_files(shelf: Shelf) -> dict[str, str]:
    bag = Path(shelf.package.bag)
    return {str(path.relative_to(bag)): hashlib.sha256(path.read_bytes()).hexdigest() for path in bag.rglob("*") if path.is_file()}


# --- the good end, against the fake ---


def test_four_times(shelf: Shelf) -> None:
    before = shelf.state()
    assert shelf.run(check=True)["changed"] is True
    assert shelf.state() == before
    first = shelf.run()
    assert first["changed"] is True
    after = shelf.state()
    again = shelf.run()
    assert again["changed"] is False
    counts = {"uploaded": 0, "kept": first["result"]["files"]}
    assert again["result"] == {**first["result"], **counts}
    assert shelf.run(check=True)["changed"] is False
    assert shelf.state() == after


def test_every_file_of_the_bag_lies_there_locked_and_nothing_else(shelf: Shelf) -> None:
    result = shelf.run()["result"]
    folder = result["folder"]
    assert folder.startswith("crm/lab/db1.")
    stored = {key.removeprefix(f"{folder}/"): sha for key, sha in shelf.objects().items() if key.startswith(f"{folder}/")}
    assert stored == bag_files(shelf)
    assert set(shelf.objects()) - {f"{folder}/{name}" for name in stored} == {f"{folder}.canary"}
    rows, markers, _files = shelf.state()
    assert {lock for _key, _version, _size, lock in rows} == {("COMPLIANCE", "2100-01-01 00:00:00+00:00", None)}
    assert not markers
    wrapped = hashlib.sha256(Path(shelf.package.wrapped("bob")).read_bytes()).hexdigest()
    assert wrapped not in shelf.objects().values()


def test_a_store_that_holds_in_all_five_probes_is_called_worm(shelf: Shelf) -> None:
    result = shelf.run(require_worm=True)["result"]
    assert (result["class"], result["failed_probes"]) == ("WORM", [])
    assert set(result["probes"]) == {"checksum", "retention", "delete", "shorten", "bytes"}
    said = {answer["said"] for probe in result["probes"].values() for answer in probe["answers"]}
    assert {"403 AccessDenied", "409 InvalidBucketState", "400 BadDigest"} <= said


# hole -> the probe that sees it. Each of the five has one that it alone would let through.
HOLES = {
    "checksum": "checksum",
    "retention": "retention",
    "retention dropped": "retention",
    "delete": "delete",
    "past governance": "delete",
    "shorten": "shorten",
    "downgrade": "shorten",
    "suspend": "shorten",
    "bytes": "bytes",
}


@pytest.mark.parametrize("hole", HOLES)
def test_a_store_with_one_hole_is_not(shelf: Shelf, hole: str) -> None:
    shelf.fake.faults.holes = {hole}
    result = shelf.run()["result"]
    assert result["class"] == "object storage, not WORM"
    assert HOLES[hole] in result["failed_probes"]
    assert shelf.client.get_bucket_versioning(Bucket=shelf.bucket)["Status"] == "Enabled"


# What the key may not do -> the probes whose refusals it makes worthless.
RIGHTS = {"no rights": ["delete", "shorten"], "no bypass": ["delete", "shorten"], "no versioning": ["shorten"]}


@pytest.mark.parametrize("hole", RIGHTS)
def test_a_key_without_rights_makes_no_worm(shelf: Shelf, hole: str) -> None:
    """Every act is refused, as it must be; but so it would be without a lock."""
    shelf.fake.faults.holes = {hole}
    result = shelf.run()["result"]
    assert (result["class"], result["failed_probes"]) == ("object storage, not WORM", RIGHTS[hole])
    for name in RIGHTS[hole]:
        assert result["probes"][name]["held"] == "unknown"
        weak = [answer for answer in result["probes"][name]["answers"] if answer["held"] != "yes"]
        assert all(one["asked"].startswith("control") and "403 AccessDenied: so they prove nothing" in one["said"] for one in weak), weak
    assert shelf.run()["changed"] is False
    with pytest.raises(Failed, match=r"not WORM, and the shelf asks for WORM.*control, these credentials may do it.*403 AccessDenied"):
        shelf.run(require_worm=True)
    shelf.fake.faults.holes = set()
    assert shelf.run(again=True)["result"]["class"] == "WORM"


def test_governance_is_no_worm_whoever_asks(shelf: Shelf) -> None:
    """Not for a key that may bypass it, and of one that may not nothing can be known."""
    for hole, held in (("no bypass", "unknown"), ("", "no")):
        shelf.fake.faults.holes = {hole}
        result = shelf.run(mode="GOVERNANCE", again=True)["result"]
        assert result["class"] == "object storage, not WORM" and result["probes"]["delete"]["held"] == held
        assert "only COMPLIANCE can be WORM" in result["probes"]["delete"]["answers"][0]["said"]


def test_a_default_retention_of_the_bucket_does_not_hinder_the_control(shelf: Shelf) -> None:
    rule = {"DefaultRetention": {"Mode": "COMPLIANCE", "Days": 3650}}
    shelf.client.put_object_lock_configuration(Bucket=shelf.bucket, ObjectLockConfiguration={"ObjectLockEnabled": "Enabled", "Rule": rule})
    assert shelf.run()["result"]["class"] == "WORM"
    assert not [row for row in shelf.state()[0] if "-control" in row[0]], "the control was deleted, not only hidden"


def test_probes_without_controls_are_made_again(shelf: Shelf) -> None:
    """Of a package that an earlier version stored: what it took for WORM counts for nothing until then."""
    shelf.run()
    path = Path(shelf.package.state_dir) / "shelf.json"
    record = json.loads(path.read_text())
    del record["rules"]
    write_record(str(path), record)
    checked = shelf.run(check=True)
    assert checked["changed"] is True and checked["result"]["class"] == "object storage, not WORM"
    done = shelf.run()
    assert done["changed"] is True and (done["result"]["class"], done["result"]["uploaded"]) == ("WORM", 0)
    assert shelf.run()["changed"] is False


@pytest.mark.parametrize(
    ("status", "code", "held"),
    [
        (204, "", "no"),
        (403, "AccessDenied", "yes"),
        (409, "InvalidBucketState", "yes"),
        (400, "ObjectLockedByRetention", "yes"),
        *((403, code, "unknown") for code in ("AllAccessDisabled", "AccountProblem", "NotSignedUp", "UnauthorizedAccess", "ExpiredToken")),
        (409, "OperationAborted", "unknown"),
        (403, "", "unknown"),
        (501, "NotImplemented", "unknown"),
        (0, "ReadTimeoutError", "unknown"),
    ],
)
def test_what_is_a_refusal_because_of_a_lock(status: int, code: str, held: str) -> None:
    assert shelf_rules.refused(status, code, "lock") == held


def test_moto_is_not_worm_and_says_why(shelf: Shelf) -> None:
    result = shelf.run(endpoint=shelf.fake.plain)["result"]
    assert result["class"] == "object storage, not WORM"
    assert "shorten" in result["failed_probes"] and "delete" not in result["failed_probes"]
    weak = [answer["asked"] for answer in result["probes"]["shorten"]["answers"] if answer["held"] == "no"]
    assert {"an earlier date is refused", "COMPLIANCE to GOVERNANCE is refused", "suspending versioning is refused"} <= set(weak)
    assert result["files"] == len(bag_files(shelf))


def test_worm_can_be_asked_for(shelf: Shelf) -> None:
    with pytest.raises(Failed, match=r"not WORM, and the shelf asks for WORM.*shorten") as failed:
        shelf.run(endpoint=shelf.fake.plain, require_worm=True)
    assert "shorten" in failed.value.answer["result"]["failed_probes"]
    assert not [key for key in shelf.objects() if "/data/" in key]


def test_the_probes_can_be_made_again(shelf: Shelf) -> None:
    shelf.run()
    shelf.fake.faults.holes = {"shorten"}
    assert shelf.run()["result"]["class"] == "WORM"
    done = shelf.run(again=True)
    assert done["changed"] is True and done["result"]["class"] == "object storage, not WORM"


# --- verified at a later time, from the store's own bytes ---


def settings_of(shelf: Shelf) -> dict[str, Any]:
    return {"kind": "s3", "endpoint": shelf.fake.worm, "bucket": shelf.bucket, "prefix": "crm", "credentials": str(shelf.credentials)}


def verified(box: Shelf, **more: Any) -> dict[str, Any]:
    seal = json.loads(Path(box.package.record_path).read_text())["tagmanifest_sha256"]
    options = {"root": box.package.root, "estate": "lab", "shelf": settings_of(box), "expected": {"db1": seal}, **more}
    arguments = {"ANSIBLE_MODULE_ARGS": {**options, "_ansible_check_mode": False, "_ansible_module_name": "sunset.crm.vault_verify"}}
    clean = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    done = subprocess.run(
        [sys.executable, "-c", RUNNER.replace("vault_shelf", "vault_verify")], input=json.dumps(arguments).encode(), capture_output=True,
        env={**clean, "PYTHONPATH": f"{TOP}/.collections", "HOME": str(box.folder), "no_proxy": "127.0.0.1"}, check=False,
    )  # fmt: skip
    assert KEYS[1] not in done.stdout.decode()
    answer: dict[str, Any] = json.loads(done.stdout)
    (found,) = answer["packages"]
    return dict(found)


def on_the_shelf(found: dict[str, Any]) -> list[str]:
    return [line for line in found["damage"] + found["unknown"] if line.startswith(("on the shelf, ", "the shelf "))]


def test_what_lies_on_the_shelf_is_verified(shelf: Shelf) -> None:
    folder = shelf.run()["result"]["folder"]
    before = shelf.state()
    found = verified(shelf)
    assert on_the_shelf(found) == [] and found["shelf"]["folder"] == folder
    assert found["shelf"]["files"] == len(bag_files(shelf)) - 1, "all but the signature, which no manifest names"
    assert "shelf" not in verified(shelf, shelf=None)
    # The vault's own bag may be gone, and its record of versions too: the ledger's seal and the bucket are enough.
    (Path(shelf.package.bag) / "data/inner-manifest.age").write_bytes(b"rotten")
    (Path(shelf.package.state_dir) / "shelf.json").unlink()
    found = verified(shelf)
    assert found["verdict"] == "damaged" and on_the_shelf(found) == [] and found["shelf"]["files"] > 5
    assert shelf.state()[:2] == before[:2], "nothing was written"


@pytest.mark.parametrize("name", ["data/database-crm/crm.pgcustom.zst.age", "README.txt", "manifest-sha256.txt", "tagmanifest-sha256.txt"])
@pytest.mark.parametrize("damage", ["other bytes", "gone"])
def test_damage_on_the_shelf_is_named(shelf: Shelf, name: str, damage: str) -> None:
    """In a store that did not hold what it promised."""
    folder = shelf.run()["result"]["folder"]
    version = json.loads((Path(shelf.package.state_dir) / "shelf.json").read_text())["objects"][name]
    if damage == "gone":
        shelf.fake.faults.gone = {version}
        shelf.client.delete_object(Bucket=shelf.bucket, Key=f"{folder}/{name}")
    else:
        shelf.fake.faults.wrong_bytes = f"/{name}"
    told = on_the_shelf(verified(shelf))
    assert told[0].startswith(f"on the shelf, {name} is {'missing' if damage == 'gone' else 'damaged'}"), told


def test_a_lock_on_the_shelf_that_ends_too_early_is_named(shelf: Shelf) -> None:
    facts = {
        "schema": 1,
        "estate": "lab",
        "package": "db1",
        "wrapped": [],
        "retention": {"class": "books", "until": "2120-12-31", "hold": False},
    }
    shelf.run()
    (Path(shelf.package.bag) / "package.json").write_text(json.dumps(facts))
    told = on_the_shelf(verified(shelf))
    assert told and all("is locked until 2100-01-01T00:00:00+00:00 only; expected 2121-01-01" in line for line in told), told


def test_a_bucket_that_cannot_be_read_is_no_whole_copy(shelf: Shelf) -> None:
    shelf.run()
    for change, words in (({"bucket": "none-such"}, "there is no such bucket"), ({"kind": "tape"}, "its kind is 'tape'")):
        found = verified(shelf, shelf={**settings_of(shelf), **change})
        assert any(words in line for line in on_the_shelf(found)), found
        assert found["verdict"] != "intact"


# --- locks ---


def test_a_lock_is_made_longer_and_never_shorter(shelf: Shelf) -> None:
    shelf.run()
    record = json.loads(Path(shelf.package.record_path).read_text())
    record["retention"] = {"class": "books", "until": "2100-06-30", "hold": True}
    write_record(shelf.package.record_path, record)
    done = shelf.run()
    assert done["changed"] is True and done["result"]["uploaded"] == 0 and done["result"]["locked"] == done["result"]["files"]
    rows = [row for row in shelf.state()[0] if not row[0].endswith(".canary")]
    assert {lock for *_row, lock in rows} == {("COMPLIANCE", "2100-07-01 00:00:00+00:00", "ON")}
    record["retention"] = {"class": "books", "until": "2090-01-01", "hold": False}
    write_record(shelf.package.record_path, record)
    assert shelf.run()["changed"] is False
    assert [row for row in shelf.state()[0] if not row[0].endswith(".canary")] == rows


def test_years_of_the_shelf_count_from_the_seal(shelf: Shelf) -> None:
    assert shelf.run(years=80)["result"]["retain_until"] == "2106-11-22T00:00:00Z"


# --- faults ---


def test_a_line_cut_in_the_middle(shelf: Shelf) -> None:
    shelf.seal({"data/filestore-up/files.tar.zst.age": os.urandom(40 << 20)})
    shelf.fake.faults.cut_after = 20 << 20
    with pytest.raises(Failed, match="gave no whole answer .* run the same command again"):
        shelf.run()
    assert not [key for key in shelf.objects() if key.endswith("files.tar.zst.age")]
    shelf.fake.faults.cut_after = -1
    shelf.fake.faults.parts = 0
    done = shelf.run()
    assert shelf.fake.faults.parts == 3, "two of five parts were there"
    folder = done["result"]["folder"]
    assert shelf.objects()[f"{folder}/data/filestore-up/files.tar.zst.age"] == bag_files(shelf)["data/filestore-up/files.tar.zst.age"]
    assert not shelf.client.list_multipart_uploads(Bucket=shelf.bucket).get("Uploads")
    assert not list(Path(shelf.package.state_dir).glob("shelf-uploads*"))


def test_killed_in_the_middle(shelf: Shelf) -> None:
    shelf.seal({"data/filestore-up/files.tar.zst.age": os.urandom(40 << 20)})
    shelf.fake.faults.slow = 0.5
    process = shelf.start()
    deadline = time.monotonic() + 60
    while shelf.fake.faults.parts < 2:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    shelf.fake.faults.slow, shelf.fake.faults.parts = 0.0, 0
    assert shelf.run()["result"]["class"] == "WORM"
    assert shelf.fake.faults.parts <= 3
    assert shelf.run()["changed"] is False


def test_memory_does_not_grow_with_the_file(shelf: Shelf) -> None:
    path = Path(shelf.package.bag) / "data/filestore-up/files.tar.zst.age"
    shelf.seal({"data/filestore-up/files.tar.zst.age": os.urandom(1 << 20) * 200})
    process = shelf.start()
    peak = 0
    while process.poll() is None:
        status = Path(f"/proc/{process.pid}/status")
        try:
            peak = max([peak, *(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM"))])
        except OSError:
            break
        time.sleep(0.05)
    assert json.loads(process.communicate()[0])["result"]["uploaded"]
    print(f"peak {peak >> 10} MiB for a file of {path.stat().st_size >> 20} MiB")
    assert 0 < peak < 200 << 10


def test_wrong_bytes_given_back(shelf: Shelf) -> None:
    shelf.fake.faults.wrong_bytes = "crm.pgcustom"
    with pytest.raises(Failed, match=r"the store gives back other bytes for data/database-crm/crm.pgcustom.zst.age"):
        shelf.run()
    shelf.fake.faults.wrong_bytes = ""
    assert shelf.run()["changed"] is True
    assert shelf.run()["changed"] is False
    shelf.fake.faults.wrong_bytes = "crm.pgcustom"
    assert shelf.run(check=True)["changed"] is True
    with pytest.raises(Failed, match="gives back other bytes"):
        shelf.run()


def test_a_bucket_without_lock(tmp_path: Path, fake: s3_fake.FakeStore) -> None:
    bare = Shelf(tmp_path, fake, lock=False)
    with pytest.raises(Failed, match="the bucket has no object lock"):
        bare.run()
    assert bare.objects() == {}


def test_no_bucket(shelf: Shelf) -> None:
    with pytest.raises(Failed, match="there is no such bucket"):
        shelf.run(bucket="another-bucket")


def test_missing_credentials(shelf: Shelf) -> None:
    with pytest.raises(Failed, match=r"no usable credentials in the chain of boto3 .*NoCredentialsError"):
        shelf.run(credentials=None)
    with pytest.raises(Failed, match=r"s3-none cannot be read"):
        shelf.run(credentials=str(shelf.folder / "s3-none"))
    shelf.credentials.chmod(0o640)
    with pytest.raises(Failed, match=r"mode 0640; expected a file of uid \d+ with mode 0600"):
        shelf.run()
    assert shelf.objects() == {}


def test_the_standard_places_of_boto3_are_looked_at(shelf: Shelf) -> None:
    place = shelf.folder / ".aws"
    place.mkdir(mode=0o700)
    shelf.credentials.rename(place / "credentials")
    assert shelf.run(credentials=None)["result"]["class"] == "WORM"


@pytest.mark.parametrize(
    ("refusal", "words"),
    [
        ((403, "RequestTimeTooSkewed", "x"), "the clocks of the vault and of the store differ too much"),
        ((403, "InvalidAccessKeyId", "x"), "the store does not know this access key"),
        ((403, "SignatureDoesNotMatch", "x"), "the secret key does not fit"),
        ((403, "AccessDenied", "x"), "the credentials may not do that"),
        ((503, "SlowDown", "x"), "answers 503 SlowDown"),
    ],
)
def test_a_store_that_answers_badly(shelf: Shelf, refusal: tuple[int, str, str], words: str) -> None:
    shelf.fake.faults.refuse = refusal
    with pytest.raises(Failed, match=words) as failed:
        shelf.run()
    assert failed.value.answer["evidence"]["verdict"] == ("unknown" if refusal[0] >= 500 else "no")


def test_nobody_there(shelf: Shelf) -> None:
    with pytest.raises(Failed, match="EndpointConnectionError") as failed:
        shelf.run(endpoint="http://127.0.0.1:9")
    assert failed.value.answer["evidence"]["verdict"] == "unknown"


def test_what_is_not_sealed_or_not_whole_is_not_stored(shelf: Shelf) -> None:
    path = Path(shelf.package.bag) / "data/inner-manifest.age"
    content = path.read_bytes()
    path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    with pytest.raises(Failed, match="inner-manifest.age is damaged on the vault"):
        shelf.run()
    assert not [key for key in shelf.objects() if "inner-manifest" in key]
    path.write_bytes(content)
    record = json.loads(Path(shelf.package.record_path).read_text())
    write_record(shelf.package.record_path, {**record, "state": "open"})
    with pytest.raises(Failed, match="is open; expected sealed"):
        shelf.run()


def test_retention_that_is_unknown_or_over(shelf: Shelf) -> None:
    record = json.loads(Path(shelf.package.record_path).read_text())
    write_record(shelf.package.record_path, {**record, "retention": {}})
    with pytest.raises(Failed, match="nothing says how long the package must be kept"):
        shelf.run()
    yesterday = (datetime.now(UTC) - timedelta(days=1)).strftime("%Y-%m-%d")
    with pytest.raises(Failed, match="a lock into the past holds nothing"):
        shelf.run(retain_until=yesterday)
    assert shelf.objects() == {}


def test_boto3_is_asked_for_by_name(shelf: Shelf) -> None:
    (shelf.folder / "boto3.py").write_text("raise ImportError('none')\n")
    with pytest.raises(Failed, match="boto3 is not there, which the shelf needs; install it on the vault"):
        shelf.run(environment={"PYTHONPATH": f"{shelf.folder}:{TOP}/.collections"})
