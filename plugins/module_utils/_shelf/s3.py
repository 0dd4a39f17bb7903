# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A bucket with object lock, spoken to with boto3: what lies there, putting a file there in constant memory, reading it back.

Private to the collection. Valid for Python 3.6, standard library; boto3 is imported on the vault, where it is asked for by name.
Credentials come from boto3's own chain on the vault or from a file there, never from an option, argument or record.
"""

import base64
import hashlib
import importlib
import os
import stat
from typing import Any, Callable, Dict, List, Optional, Tuple  # noqa: F401

from ansible_collections.sunset.crm.plugins.module_utils._shelf import rules as shelf_rules
from ansible_collections.sunset.crm.plugins.module_utils._vault.state import CHUNK, VaultError, read_record, write_record

BOTO3_WANTED = (1, 21)
PAUSE = {"connect_timeout": 10, "read_timeout": 60}
ABSENT = ("404", "NoSuchKey", "NoSuchVersion", "NotFound", "NoSuchUpload")
ADVICE = {
    "NoSuchBucket": "there is no such bucket; make it, with object lock, or correct sunset_vault_shelf",
    "InvalidAccessKeyId": "the store does not know this access key; correct the credentials on the vault",
    "SignatureDoesNotMatch": "the secret key does not fit the access key; correct the credentials on the vault",
    "RequestTimeTooSkewed": "the clocks of the vault and of the store differ too much; set the clock of the vault (NTP), then run again",
    "ExpiredToken": "the credentials have expired; renew them on the vault",
    "AccessDenied": (
        "the credentials may not do that; they need s3:PutObject, s3:GetObject, s3:GetObjectVersion, s3:PutObjectRetention, "
        "s3:GetObjectRetention, s3:PutObjectLegalHold, s3:ListBucket, s3:GetBucketObjectLockConfiguration"
    ),
    "ObjectLockConfigurationNotFoundError": (
        "the bucket has no object lock, so nothing in it could be kept from being deleted; make a bucket with object lock"
    ),
}


def _library(name):
    # type: (str) -> Any
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def library_problems():
    # type: () -> List[str]
    """What keeps this machine from talking to a store."""
    boto3 = _library("boto3")
    if boto3 is None:
        return [
            "boto3 is not there, which the shelf needs; install it on the vault (Debian: python3-boto3), for the Python that Ansible uses"
        ]
    found = tuple(int(part) for part in boto3.__version__.split(".")[:2])
    if found < BOTO3_WANTED:
        return ["boto3 is %s; the shelf needs 1.21 or later (SHA-256 checksums)" % boto3.__version__]
    return []


def check_credentials_file(path):
    # type: (str) -> None
    try:
        facts = os.stat(path)
    except OSError as exc:
        raise VaultError(
            "the credentials file %s cannot be read (%s); expected a file of the vault's account, mode 0600" % (path, exc.strerror)
        )
    if not stat.S_ISREG(facts.st_mode) or facts.st_uid != os.geteuid() or stat.S_IMODE(facts.st_mode) & 0o077:
        raise VaultError(
            "the credentials file %s belongs to uid %d with mode %04o; expected a file of uid %d with mode 0600; the keys in it may be "
            "known to others: make new ones" % (path, facts.st_uid, stat.S_IMODE(facts.st_mode), os.geteuid())
        )


def base64_of(digest):
    # type: (bytes) -> str
    return base64.b64encode(digest).decode("ascii")


def md5_of(data):
    # type: (bytes) -> str
    """What most stores call the ETag of a part; empty where this machine's policy knows no MD5."""
    try:
        return hashlib.md5(data).hexdigest()  # noqa: S324 - compared with an ETag, proves nothing
    except ValueError:
        return ""


class Store(object):
    """One bucket. Every failure is a VaultError in words; nothing that is secret is in them."""

    def __init__(self, shelf):
        # type: (Dict[str, Any]) -> None
        problems = library_problems()
        if problems:
            raise VaultError("; ".join(problems))
        boto3, self._errors = _library("boto3"), _library("botocore.exceptions")
        self.versions = {"boto3": boto3.__version__, "botocore": _library("botocore").__version__}
        self.bucket, self.place = str(shelf["bucket"]), str(shelf.get("endpoint") or "S3 in %s" % shelf.get("region"))
        self.credentials = shelf.get("credentials")
        core = _library("botocore.session").Session(profile=shelf.get("profile"))
        if self.credentials:
            check_credentials_file(self.credentials)
            core.set_config_variable("credentials_file", self.credentials)
        try:
            session = boto3.session.Session(botocore_session=core, region_name=shelf.get("region") or "us-east-1")
            # False: boto3 takes its own bundle only where none is named.
            more = {"verify": shelf["ca"]} if shelf.get("ca") else {}
            self.client = session.client(
                "s3", endpoint_url=shelf.get("endpoint") or None, config=self._config(bool(shelf.get("endpoint"))), **more
            )
        except self._errors.BotoCoreError as exc:
            raise VaultError(self._broken("the client", exc))

    @staticmethod
    def _config(own_endpoint):
        # type: (bool) -> Any
        config = _library("botocore.config").Config
        wanted = dict(PAUSE, retries={"max_attempts": 4, "mode": "standard"}, signature_version="s3v4")  # type: Dict[str, Any]
        if own_endpoint:
            wanted["s3"] = {"addressing_style": "path"}
        try:
            # Later versions add a checksum of their own to every call, which many stores do not know.
            return config(request_checksum_calculation="when_required", response_checksum_validation="when_required", **wanted)
        except TypeError:
            return config(**wanted)

    # --- asking ---

    def _broken(self, what, exc):
        # type: (str, Exception) -> str
        name = type(exc).__name__
        if name in ("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "CredentialRetrievalError"):
            where = self.credentials or "the chain of boto3 (~/.aws/credentials, environment)"
            return "%s: no usable credentials in %s (%s); put them there on the vault, mode 0600" % (what, where, name)
        if name == "ParamValidationError":
            return "%s: this boto3 does not know what the shelf needs (%s); install 1.21 or later" % (what, str(exc)[:300])
        return "%s: %s gave no whole answer (%s: %s); nothing is lost: run the same command again" % (
            what,
            self.place,
            name,
            str(exc)[:200],
        )

    def _ask(self, what, call, **options):
        # type: (str, Callable[..., Any], **Any) -> Any
        try:
            return call(Bucket=self.bucket, **options)
        except self._errors.ClientError as exc:
            error = exc.response.get("Error", {})
            code, status = str(error.get("Code", "")), int(exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
            advice = ADVICE.get("AccessDenied" if code == "403" else code, str(error.get("Message", ""))[:200])
            raise VaultError(
                "%s: the bucket %s at %s answers %d %s: %s" % (what, self.bucket, self.place, status, code, advice),
                "unknown" if status >= 500 else "no",
                code=code,
            )
        except self._errors.BotoCoreError as exc:
            raise VaultError(self._broken(what, exc), "unknown")

    def attempt(self, operation, **options):
        # type: (str, **Any) -> Tuple[int, str, Dict[str, Any]]
        """(HTTP status, code, answer) of a call whose refusal is as good as its success; 0 where no answer came."""
        try:
            answer = getattr(self.client, operation)(Bucket=self.bucket, **options)
            return int(answer["ResponseMetadata"]["HTTPStatusCode"]), "", answer
        except self._errors.ClientError as exc:
            status = int(exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
            return status, str(exc.response.get("Error", {}).get("Code", "")), {}
        except self._errors.BotoCoreError as exc:
            return 0, type(exc).__name__, {}

    def require_object_lock(self):
        # type: () -> None
        answer = self._ask("looking at the object lock", self.client.get_object_lock_configuration)
        if answer.get("ObjectLockConfiguration", {}).get("ObjectLockEnabled") != "Enabled":
            raise VaultError("the bucket %s says nothing of an object lock; make a bucket with object lock" % self.bucket)

    def head(self, key, version=None):
        # type: (str, Optional[str]) -> shelf_rules.Found
        try:
            more = {"VersionId": version} if version else {}
            answer = self._ask("looking at %s" % key, self.client.head_object, Key=key, **more)
        except VaultError as exc:
            if exc.result.get("code") in ABSENT:
                return shelf_rules.Found()
            raise
        lock = None
        if answer.get("ObjectLockMode") and answer.get("ObjectLockRetainUntilDate"):
            hold = answer.get("ObjectLockLegalHoldStatus") == "ON"
            lock = shelf_rules.Lock(str(answer["ObjectLockMode"]), answer["ObjectLockRetainUntilDate"], hold)
        sha256 = str(answer.get("Metadata", {}).get("sha256", ""))
        # A bucket whose versioning was suspended speaks of the version "null".
        found = answer.get("VersionId") or version
        return shelf_rules.Found(str(found) if found else "null", int(answer["ContentLength"]), sha256, lock)

    def digest(self, key, version):
        # type: (str, str) -> Tuple[str, int]
        """SHA-256 and size of every byte of one version, read from the store."""
        what = "reading %s back" % key
        answer = self._ask(what, self.client.get_object, Key=key, VersionId=version)
        found, size = hashlib.sha256(), 0
        try:
            for chunk in answer["Body"].iter_chunks(CHUNK):
                found.update(chunk)
                size += len(chunk)
        except (self._errors.BotoCoreError, self._errors.HTTPClientError) as exc:
            raise VaultError(self._broken(what, exc), "unknown")
        return found.hexdigest(), size

    def read(self, key, version, limit):
        # type: (str, str, int) -> bytes
        """The bytes of one version, which are not more than limit."""
        what = "reading %s" % key
        answer = self._ask(what, self.client.get_object, Key=key, VersionId=version)
        try:
            found = answer["Body"].read(limit + 1)
        except (self._errors.BotoCoreError, self._errors.HTTPClientError) as exc:
            raise VaultError(self._broken(what, exc), "unknown")
        if len(found) > limit:
            raise VaultError("%s: it has more than %d bytes" % (what, limit), "unknown")
        return bytes(found)

    # --- changing ---

    def put(self, key, data, lock):
        # type: (str, bytes, shelf_rules.Lock) -> str
        """Store some bytes under lock; returns the version."""
        sha = hashlib.sha256(data)
        answer = self._ask("storing %s" % key, self.client.put_object, **dict(
            put_options(key, sha.hexdigest(), lock), Body=data, ChecksumAlgorithm="SHA256", ChecksumSHA256=base64_of(sha.digest())
        ))  # fmt: skip
        return self._version(key, answer)

    def _version(self, key, answer):
        # type: (str, Dict[str, Any]) -> str
        if not answer.get("VersionId"):
            raise VaultError(
                "the bucket %s gave no version for %s; expected versioning, which an object lock needs" % (self.bucket, key), "unknown"
            )
        return str(answer["VersionId"])

    def strengthen(self, key, version, lock):
        # type: (str, str, shelf_rules.Lock) -> None
        """Make the lock of a version as strict and as long as asked. It is never made weaker, a hold is never lifted."""
        found = self.head(key, version).lock
        mode = shelf_rules.MODES[0] if found and found.mode == shelf_rules.MODES[0] else lock.mode
        until = max(found.until, lock.until) if found else lock.until
        retention = {"Mode": mode, "RetainUntilDate": until}
        self._ask("locking %s" % key, self.client.put_object_retention, Key=key, VersionId=version, Retention=retention)
        if lock.hold:
            self._ask("holding %s" % key, self.client.put_object_legal_hold, Key=key, VersionId=version, LegalHold={"Status": "ON"})

    def upload(self, path, key, asked, lock, notes):
        # type: (str, str, shelf_rules.Asked, shelf_rules.Lock, str) -> str
        """Store a file under lock, a big one in parts; returns the version. notes: file that remembers an upload under way."""
        if asked.bytes <= shelf_rules.SINGLE_PUT:
            with open(path, "rb") as stream:
                data = stream.read(shelf_rules.SINGLE_PUT + 1)
            require_local(path, hashlib.sha256(data).hexdigest(), asked.sha256)
            return self.put(key, data, lock)
        upload, kept = self._begin(key, asked, lock, notes)
        size, count = shelf_rules.parts_of(asked.bytes)
        whole, parts = hashlib.sha256(), []  # type: Tuple[Any, List[Dict[str, Any]]]
        with open(path, "rb") as stream:
            for number in range(1, count + 1):
                data = stream.read(size)
                whole.update(data)
                parts.append(self._part(key, upload, number, data, kept.get(number, {})))
        if whole.hexdigest() != asked.sha256:
            self.abort(key, upload)
            forget_upload(notes, key)
        require_local(path, whole.hexdigest(), asked.sha256)
        done = self._ask(
            "completing %s" % key, self.client.complete_multipart_upload, Key=key, UploadId=upload, MultipartUpload={"Parts": parts}
        )
        forget_upload(notes, key)
        return self._version(key, done)

    def _begin(self, key, asked, lock, notes):
        # type: (str, shelf_rules.Asked, shelf_rules.Lock, str) -> Tuple[str, Dict[int, Dict[str, Any]]]
        """Id of the upload and the parts of it that are there: the one that an interrupted run began, or a new one."""
        known = (read_record(notes) or {}).get(key)
        terms = {"sha256": asked.sha256, "mode": lock.mode, "until": lock.until.isoformat(), "hold": lock.hold}
        if known and known["terms"] == terms:
            try:
                return known["upload"], self._parts(key, known["upload"])
            except VaultError as exc:
                if exc.result.get("code") not in ABSENT:
                    raise
        elif known:
            self.abort(key, known["upload"])
        options = dict(put_options(key, asked.sha256, lock), ChecksumAlgorithm="SHA256")
        upload = str(self._ask("beginning %s" % key, self.client.create_multipart_upload, **options)["UploadId"])
        write_record(notes, dict(read_record(notes) or {}, **{key: {"upload": upload, "terms": terms}}))
        return upload, {}

    def _parts(self, key, upload):
        # type: (str, str) -> Dict[int, Dict[str, Any]]
        found, marker = {}, 0  # type: Tuple[Dict[int, Dict[str, Any]], int]
        while True:
            answer = self._ask(
                "looking at the parts of %s" % key, self.client.list_parts, Key=key, UploadId=upload, PartNumberMarker=marker
            )
            for part in answer.get("Parts", []):
                found[int(part["PartNumber"])] = part
            marker = int(answer.get("NextPartNumberMarker") or 0)
            if not answer.get("IsTruncated") or not marker:
                return found

    def _part(self, key, upload, number, data, kept):
        # type: (str, str, int, bytes, Dict[str, Any]) -> Dict[str, Any]
        checksum = base64_of(hashlib.sha256(data).digest())
        same = kept.get("Size") == len(data) and (
            kept.get("ChecksumSHA256") == checksum or str(kept.get("ETag")).strip('"') == md5_of(data)
        )
        if same:
            return {"PartNumber": number, "ETag": kept["ETag"], "ChecksumSHA256": checksum}
        answer = self._ask(
            "storing part %d of %s" % (number, key),
            self.client.upload_part,
            Key=key, UploadId=upload, PartNumber=number, Body=data, ChecksumAlgorithm="SHA256", ChecksumSHA256=checksum,
        )  # fmt: skip
        return {"PartNumber": number, "ETag": answer["ETag"], "ChecksumSHA256": checksum}

    def abort(self, key, upload):
        # type: (str, str) -> None
        """Give up an upload that nobody will finish; one that is gone already is no fault."""
        self.attempt("abort_multipart_upload", Key=key, UploadId=upload)


def put_options(key, sha256, lock):
    # type: (str, str, shelf_rules.Lock) -> Dict[str, Any]
    hold = {"ObjectLockLegalHoldStatus": "ON"} if lock.hold else {}
    return dict(hold, Key=key, Metadata={"sha256": sha256}, ObjectLockMode=lock.mode, ObjectLockRetainUntilDate=lock.until)


def forget_upload(notes, key):
    # type: (str, str) -> None
    left = {name: value for name, value in (read_record(notes) or {}).items() if name != key}
    if left:
        write_record(notes, left)
    elif os.path.lexists(notes):
        os.unlink(notes)


def require_local(path, found, wanted):
    # type: (str, str, str) -> None
    if found != wanted:
        raise VaultError("%s is damaged on the vault: its digest is not the one of the sealed package; it was not stored" % path)
