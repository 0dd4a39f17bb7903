# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a vault keeps what, and in which state a package is.

Private to the collection. Valid for Python 3.6, standard library.

    root/<estate>/<package>/                 the package: a BagIt bag once it is sealed
    root/<estate>/keys/<package>.<custodian>.age   its identity, wrapped to each custodian (never inside the package)
    root/<estate>/keys/<package>.keys.<custodian>.age   its second identity, of the data sets that hold the CRM's own keys
    root/<estate>/state/<package>/           records: package.json, <data set>.stored.json, <data set>.proof.json
    root/<estate>/abandoned/<package>.<label>.<number>/   packages whose identity was lost, or that were superseded, with keys and records
    live_dir/<estate>/<package>.*            identities and pull key while the run lasts, lent ones while a verification does: memory only
"""

import errno
import hashlib
import json
import os
import re
import tempfile
from typing import Any, Dict, List, Optional, Tuple  # noqa: F401

NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")
ITEM = re.compile(r"^([a-z][a-z_]*):([A-Za-z0-9][A-Za-z0-9._-]{0,127})$")
RESERVED = ("keys", "state", "abandoned")
# The identities of a package: what encrypts its data, and what encrypts the keys that the CRM kept outside its database.
DATA, KEYS = "data", "keys"
DIGESTS = {DATA: "identity_digest", KEYS: "keys_identity_digest"}
RECIPIENTS = {DATA: "recipient", KEYS: "keys_recipient"}
RECIPIENT = re.compile(r"^(age1[0-9a-z]{58}|ssh-(ed25519|rsa) [A-Za-z0-9+/=]+( .*)?)$")
SHA256 = re.compile(r"^[0-9a-f]{64}$")
CHUNK = 1 << 20


class VaultError(Exception):
    """Something a person must know: the message says what was found, what was expected and what to do."""

    def __init__(self, message, verdict="no", **result):
        # type: (str, str, **Any) -> None
        super(VaultError, self).__init__(message)
        self.verdict = verdict
        self.result = result


def check_name(value, what):
    # type: (str, str) -> str
    if not NAME.match(value or "") or value.endswith(".part"):
        raise VaultError(
            "%s is %r; expected a plain name of letters, digits, dot, underscore and dash that starts with a letter or "
            "digit; correct it in the inventory" % (what, value)
        )
    return value


def item_slug(item):
    # type: (str) -> str
    """The folder name of a data set inside a package. A kind holds no dash, so two items never share one."""
    match = ITEM.match(item or "")
    if not match:
        raise VaultError("item is %r; expected <kind>:<name>, such as database:crm" % (item,))
    return "%s-%s" % (match.group(1), match.group(2))


def sha256_file(path):
    # type: (str) -> Tuple[str, int]
    """Digest and size of a regular file, read to its end."""
    digest, size = hashlib.sha256(), 0
    with open(path, "rb") as stream:
        while True:
            chunk = stream.read(CHUNK)
            if not chunk:
                return digest.hexdigest(), size
            digest.update(chunk)
            size += len(chunk)


def sync_directory(path):
    # type: (str) -> None
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_atomic(path, data, mode=0o600):
    # type: (str, bytes, int) -> None
    """A reader sees the old file or the whole new one, also after a power cut."""
    directory = os.path.dirname(path)
    fd, temporary = tempfile.mkstemp(dir=directory, prefix=".new-")
    try:
        with os.fdopen(fd, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, mode)
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    sync_directory(directory)


def write_record(path, value):
    # type: (str, Dict[str, Any]) -> None
    write_atomic(path, json.dumps(value, sort_keys=True, indent=1).encode("utf-8") + b"\n")


def read_record(path):
    # type: (str) -> Optional[Dict[str, Any]]
    """The record in path; None where there is none. A record that cannot be read is an error, never "none"."""
    try:
        with open(path, "rb") as stream:
            return json.loads(stream.read().decode("utf-8"))
    except IOError as exc:
        if exc.errno == errno.ENOENT:
            return None
        raise VaultError("the record %s cannot be read (%s)" % (path, exc.strerror), verdict="unknown")
    except ValueError:
        raise VaultError(
            "the record %s is no JSON: it was altered from outside; put it back or move the package aside" % path,
            verdict="unknown",
        )


def cipher_files(entry):
    # type: (Dict[str, Any]) -> List[Tuple[str, str, int]]
    """(name in the data set's folder, SHA-256, bytes) of every file of ciphertext that a stored artefact consists of, in order.

    Of one that was only begun: of every segment that is recorded, and that may be none yet."""
    segments = entry.get("segments")
    parts = segments if segments is not None else [dict(entry, file=entry["file"] + ".age")]
    return [(part["file"], part["cipher_sha256"], int(part["cipher_bytes"])) for part in parts]


def make_directory(path, mode=0o700):
    # type: (str, int) -> None
    try:
        os.makedirs(path, mode)
    except OSError as exc:
        if exc.errno != errno.EEXIST or not os.path.isdir(path):
            raise VaultError("the directory %s cannot be made: %s" % (path, exc.strerror))


def mount_of(path, mountinfo):
    # type: (str, str) -> Tuple[str, str]
    """Mount point and file system type that hold path, from the text of /proc/self/mountinfo.

    The last mount on a point hides the earlier ones, so later lines win.
    """
    best = ("", "")
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        fields, kind = left.split(), right.split()
        if len(fields) < 5 or not kind:
            continue
        point = re.sub(r"\\([0-7]{3})", lambda m: chr(int(m.group(1), 8)), fields[4])
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best[0]):
            best = (point, kind[0])
    return best


def require_memory(path):
    # type: (str) -> None
    """Refuse a directory whose files could reach a disk as files."""
    real = os.path.realpath(path)
    with open("/proc/self/mountinfo") as stream:
        point, kind = mount_of(real, stream.read())
    if kind not in ("tmpfs", "ramfs"):
        raise VaultError(
            "%s lies on %s (%s); expected tmpfs: a live identity must never reach a disk; choose a directory in "
            "memory such as /dev/shm" % (path, point or "nothing that is mounted", kind or "unknown")
        )


def swap_in_use():
    # type: () -> str
    """Whether memory of this machine can be written to swap: yes, no, unknown."""
    try:
        with open("/proc/swaps") as stream:
            return "yes" if len(stream.read().splitlines()) > 1 else "no"
    except IOError:
        return "unknown"


def require_space(path, needed, purpose):
    # type: (str, int, str) -> None
    stats = os.statvfs(path)
    free = stats.f_bavail * stats.f_frsize
    if free < needed:
        raise VaultError(
            "%s has %d bytes free; %s needs %d; free %d bytes there or name another place" % (path, free, purpose, needed, needed - free),
            free_bytes=free,
            needed_bytes=needed,
        )


class Package(object):
    """The places of one package. It holds paths only; the world is read when asked."""

    def __init__(self, root, estate, package, live_dir):
        # type: (str, str, str, Optional[str]) -> None
        check_name(estate, "estate")
        check_name(package, "package")
        if package in RESERVED:
            raise VaultError("package is %r; the names %s are taken by the vault itself" % (package, ", ".join(RESERVED)))
        if package.endswith(".keys"):
            raise VaultError("package is %r; names that end in .keys are taken by the second identities of packages" % package)
        if not os.path.isabs(root):
            raise VaultError("root is %r; expected an absolute path on the vault" % root)
        self.root, self.estate, self.name = root, estate, package
        self.estate_dir = os.path.join(root, estate)
        self.bag = os.path.join(self.estate_dir, package)
        self.data = os.path.join(self.bag, "data")
        self.keys = os.path.join(self.estate_dir, "keys")
        self.state_dir = os.path.join(self.estate_dir, "state", package)
        self.record_path = os.path.join(self.state_dir, "package.json")
        self.abandoned = os.path.join(self.estate_dir, "abandoned")
        self.live_base = live_dir or "/dev/shm/sunset-vault-%d" % os.getuid()
        self.live = os.path.join(self.live_base, estate)
        self.identity = os.path.join(self.live, package + ".identity")
        self.keys_identity = os.path.join(self.live, package + ".keys.identity")
        self.pull_key = os.path.join(self.live, package + ".pull")

    def wrapped(self, custodian, which=DATA):
        # type: (str, str) -> str
        return os.path.join(self.keys, "%s%s.%s.age" % (self.name, "" if which == DATA else "." + which, custodian))

    def identity_of(self, which=DATA):
        # type: (Optional[str]) -> str
        """The file in memory that opens what was encrypted to one of the package's identities."""
        return self.keys_identity if which == KEYS else self.identity

    def lend(self):
        # type: () -> Dict[str, str]
        """From now on the identities are those that a custodian lent (scripts/custodian lend); returns their places."""
        self.identity = os.path.join(self.live, self.name + ".lent")
        self.keys_identity = os.path.join(self.live, self.name + ".keys.lent")
        return {DATA: self.identity, KEYS: self.keys_identity}

    def folder(self, item):
        # type: (str) -> str
        return os.path.join(self.data, item_slug(item))

    def stored_path(self, item):
        # type: (str) -> str
        return os.path.join(self.state_dir, item_slug(item) + ".stored.json")

    def proof_path(self, item):
        # type: (str) -> str
        return os.path.join(self.state_dir, item_slug(item) + ".proof.json")

    def record(self):
        # type: () -> Dict[str, Any]
        return read_record(self.record_path) or {"state": "absent"}

    def live_digest(self, which=DATA):
        # type: (str) -> Optional[str]
        """SHA-256 of an identity file in memory; None where there is none."""
        try:
            return sha256_file(self.identity_of(which))[0]
        except IOError as exc:
            if exc.errno == errno.ENOENT:
                return None
            raise VaultError("the live identity %s cannot be read: %s" % (self.identity_of(which), exc.strerror), verdict="unknown")

    def require_live(self):
        # type: () -> Dict[str, Any]
        """The record of an open package whose own identity is in memory."""
        require_memory(self.live_base if os.path.isdir(self.live_base) else os.path.dirname(self.live_base))
        record = self.record()
        if record["state"] == "absent":
            raise VaultError("the package %s/%s is not open; run vault_package with state open first" % (self.estate, self.name))
        if any(self.live_digest(which) != record.get(DIGESTS[which]) for which in (DATA, KEYS)):
            raise VaultError(
                "the identity of the package %s/%s is not in memory on this vault (state %s; was it restarted, or has it "
                "forgotten the identity?); an open package is begun again by vault_package state=open, a sealed one can "
                "only be opened by a custodian" % (self.estate, self.name, record["state"]),
                verdict="unknown",
            )
        return record

    def payload(self):
        # type: () -> List[str]
        """Paths of the payload relative to the bag, sorted; a foreign kind of file is an error."""
        found = []  # type: List[str]
        for folder, folders, files in os.walk(self.data):
            for name in folders + files:
                path = os.path.join(folder, name)
                if os.path.islink(path) or not (os.path.isdir(path) or os.path.isfile(path)):
                    raise VaultError("%s is neither a plain file nor a directory; it does not belong in a package" % path)
            found.extend(os.path.relpath(os.path.join(folder, name), self.bag) for name in files)
        return sorted(found)
