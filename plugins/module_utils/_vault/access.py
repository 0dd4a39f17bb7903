# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One line in authorized_keys and the reader behind it: the only way in that a vault has to an estate host.

Private to the collection. Valid for Python 3.6, standard library. Every other line of the file is kept byte for byte.
"""

import base64
import errno
import hashlib
import json
import os
import pwd
import re
import stat
import tempfile
from typing import Any, Dict, List, Optional, Tuple  # noqa: F401

from ansible_collections.sunset.crm.plugins.module_utils._vault.state import VaultError, read_record, write_atomic

PUBLIC_KEY = re.compile(r"^ssh-ed25519 ([A-Za-z0-9+/]+=*)(?: ([A-Za-z0-9@._-]+))?$")
KEY_ID_IN_LINE = re.compile(rb' ([0-9a-f]{16})" ssh-ed25519 ')
SAFE_PATH = re.compile(r"^/[A-Za-z0-9._/-]+$")


class Key(object):
    """A public key: its blob, fingerprint as ssh-keygen -l prints it, and a short id for file names."""

    def __init__(self, text):
        # type: (str) -> None
        match = PUBLIC_KEY.match(text.strip())
        if not match:
            raise VaultError("public_key is no plain ssh-ed25519 public key; expected pull_public_key of vault_package's result")
        self.blob = match.group(1)
        self.comment = match.group(2) or "sunset-vault"
        try:
            raw = base64.b64decode(self.blob.encode("ascii"), validate=True)
        except ValueError:
            raise VaultError("public_key is not valid base64; expected pull_public_key of vault_package's result")
        sha = hashlib.sha256(raw)
        self.fingerprint = "SHA256:" + base64.b64encode(sha.digest()).decode("ascii").rstrip("=")
        self.id = sha.hexdigest()[:16]


def wanted_line(key, python, reader):
    # type: (Key, str, str) -> str
    """The one line that lets the vault in, to the reader and nothing else."""
    for path in (python, reader):
        if not SAFE_PATH.match(path):
            raise VaultError("%s cannot stand in authorized_keys; expected a path without spaces and quotes" % path)
    command = "%s -I %s %s" % (python, reader, key.id)
    return 'restrict,command="%s" ssh-ed25519 %s %s' % (command, key.blob, key.comment)


def is_ours(line, key, reader):
    # type: (bytes, Key, str) -> bool
    """Whether a line of authorized_keys is about this key, or about an earlier key of the same vault and package.

    A vault that was restarted makes a new pull key under the old comment; the line of the old one must not stay.
    """
    words = line.strip().split()
    if not words or words[0].startswith(b"#"):
        return False
    earlier = words[-1] == key.comment.encode("ascii") and reader.encode("utf-8") in words[:-1]
    return key.blob.encode("ascii") in words or earlier


def edit(content, key, reader, line):
    # type: (bytes, Key, str, Optional[str]) -> bytes
    """authorized_keys with exactly one line for the key (line), or none (None). All other bytes stay as they are.

    A file without a newline at its end gets the separator in front of our line only, so that taking the line away again
    gives back the same bytes.
    """
    lines = content.split(b"\n")
    ours = [index for index, old in enumerate(lines) if is_ours(old, key, reader)]
    if line is None:
        return b"\n".join(old for index, old in enumerate(lines) if index not in ours)
    if ours:
        lines[ours[0]] = line.encode("ascii")
        return b"\n".join(old for index, old in enumerate(lines) if index not in ours[1:])
    if not content or content.endswith(b"\n"):
        return content + line.encode("ascii") + b"\n"
    return content + b"\n" + line.encode("ascii")


class Place(object):
    """The files of one login user's access."""

    def __init__(self, user, reader_dir, key):
        # type: (str, str, Key) -> None
        try:
            self.account = pwd.getpwnam(user)
        except KeyError:
            raise VaultError("there is no user %s on this host; name the login user of the vault's source" % user)
        self.key = key
        self.ssh_dir = os.path.join(self.account.pw_dir, ".ssh")
        self.authorized = os.path.join(self.ssh_dir, "authorized_keys")
        self.reader_dir = reader_dir
        self.reader = os.path.join(reader_dir, "reader.py")
        self.config = os.path.join(reader_dir, key.id + ".json")
        # Another login user than root must be able to read the reader; it holds no secret.
        self.mode = 0o700 if self.account.pw_uid == os.geteuid() else 0o755

    def content(self):
        # type: () -> Optional[bytes]
        """Bytes of authorized_keys; None where there is no file. A link is refused: its target may be shared."""
        if os.path.islink(self.authorized) or os.path.islink(self.ssh_dir):
            raise VaultError("%s is a symbolic link; expected a plain file; give the login user its own" % self.authorized)
        try:
            with open(self.authorized, "rb") as stream:
                return stream.read()
        except IOError as exc:
            if exc.errno == errno.ENOENT:
                return None
            raise


def file_text(path):
    # type: (str) -> Optional[bytes]
    try:
        with open(path, "rb") as stream:
            return stream.read()
    except IOError as exc:
        if exc.errno == errno.ENOENT:
            return None
        raise


def safe_owner(path):
    # type: (str) -> bool
    """Ours, and nobody else can write to it."""
    facts = os.lstat(path)
    return facts.st_uid == os.geteuid() and not stat.S_IMODE(facts.st_mode) & 0o022 and not stat.S_ISLNK(facts.st_mode)


def observe(place, line, text, directories):
    # type: (Place, str, bytes, List[str]) -> Dict[str, Any]
    """What is there, and whether it is what is wanted."""
    content = place.content()
    lines = [old for old in (content or b"").split(b"\n") if is_ours(old, place.key, place.reader)]
    config = read_record(place.config)
    return {
        "lines": len(lines),
        "line_wanted": lines == [line.encode("ascii")],
        "reader_present": os.path.lexists(place.reader),
        "reader_wanted": file_text(place.reader) == text and safe_owner(place.reader) and safe_owner(place.reader_dir),
        "config_present": config is not None,
        "directories": (config or {}).get("directories", []),
        "directories_wanted": (config or {}).get("directories") == directories,
        "others_sha256": hashlib.sha256(edit(content or b"", place.key, place.reader, None)).hexdigest(),
        "other_keys_use_reader": len(other_configs(place)),
    }


def other_configs(place):
    # type: (Place) -> List[str]
    try:
        names = os.listdir(place.reader_dir)
    except OSError:
        return []
    return [name for name in names if name.endswith(".json") and name != os.path.basename(place.config)]


def configs_of(place, content):
    # type: (Place, bytes) -> List[str]
    """File names of the configurations that our lines name, without the one of the present key."""
    ours = [line for line in content.split(b"\n") if is_ours(line, place.key, place.reader)]
    found = [match.group(1).decode("ascii") for match in map(KEY_ID_IN_LINE.search, ours) if match]
    return [name + ".json" for name in found if name != place.key.id]


def remove_configs(place, names):
    # type: (Place, List[str]) -> None
    for name in names:
        path = os.path.join(place.reader_dir, name)
        if os.path.lexists(path):
            os.unlink(path)


def decide(seen, state):
    # type: (Dict[str, Any], str) -> bool
    """Whether anything must change."""
    if state == "present":
        return not (seen["line_wanted"] and seen["reader_wanted"] and seen["directories_wanted"])
    return bool(seen["lines"] or seen["config_present"] or (seen["reader_present"] and not seen["other_keys_use_reader"]))


def check_directories(directories):
    # type: (List[str]) -> None
    if not directories:
        raise VaultError("directories is empty; expected the staging directories that the vault may read")
    for path in directories:
        if not os.path.isabs(path) or os.path.normpath(path) != path or path == "/":
            raise VaultError("%r is no absolute, normal path; expected a staging directory" % path)


def replace_authorized(place, old, new):
    # type: (Place, Optional[bytes], bytes) -> None
    """Put new in place of old atomically; refuse if somebody else changed the file meanwhile."""
    if not os.path.isdir(place.ssh_dir):
        os.mkdir(place.ssh_dir, 0o700)
        os.chown(place.ssh_dir, place.account.pw_uid, place.account.pw_gid)
    mode, uid, gid = 0o600, place.account.pw_uid, place.account.pw_gid
    if old is not None:
        facts = os.stat(place.authorized)
        mode, uid, gid = stat.S_IMODE(facts.st_mode), facts.st_uid, facts.st_gid
    fd, temporary = tempfile.mkstemp(dir=place.ssh_dir, prefix=".authorized_keys.")
    try:
        with os.fdopen(fd, "wb") as stream:
            stream.write(new)
            stream.flush()
            os.fchown(stream.fileno(), uid, gid)
            os.fchmod(stream.fileno(), mode)
            os.fsync(stream.fileno())
        if place.content() != old:
            raise VaultError("%s was changed by somebody else just now; run the same command again" % place.authorized)
        os.rename(temporary, place.authorized)
    except BaseException:
        os.unlink(temporary)
        raise


def grant(place, line, text, directories, rec):
    # type: (Place, str, bytes, List[str], Any) -> None
    """Reader and its directories first, the line that uses them last."""
    if not os.path.isdir(place.reader_dir):
        os.makedirs(place.reader_dir, place.mode)
    os.chmod(place.reader_dir, place.mode)
    if not safe_owner(place.reader_dir):
        raise VaultError("%s can be written by others; expected a directory of root alone" % place.reader_dir)
    write_atomic(place.reader, text, place.mode)
    old = place.content()
    known = read_record(place.config) or {}
    config = {
        "directories": directories,
        "made_file": known.get("made_file", old is None),
        "made_directory": known.get("made_directory", not os.path.isdir(place.ssh_dir)),
    }
    write_atomic(place.config, json.dumps(config, sort_keys=True).encode("utf-8"), place.mode & 0o755)
    new = edit(old or b"", place.key, place.reader, line)
    earlier = configs_of(place, old or b"")
    if new != old:
        replace_authorized(place, old, new)
    remove_configs(place, earlier)
    rec.note(act="let the vault's key in, read-only", file=place.authorized, fingerprint=place.key.fingerprint)


def revoke(place, rec):
    # type: (Place, Any) -> None
    """The line first, then what it used. What this module had made and is empty now goes too."""
    old = place.content()
    known = read_record(place.config) or {}
    if old is not None:
        new = edit(old, place.key, place.reader, None)
        earlier = configs_of(place, old)
        if new != old:
            replace_authorized(place, old, new)
        remove_configs(place, earlier)
        if known.get("made_file") and not new:
            os.unlink(place.authorized)
            if known.get("made_directory") and not os.listdir(place.ssh_dir):
                os.rmdir(place.ssh_dir)
    if os.path.lexists(place.config):
        os.unlink(place.config)
    if not other_configs(place):
        if os.path.lexists(place.reader):
            os.unlink(place.reader)
        if os.path.isdir(place.reader_dir) and not os.listdir(place.reader_dir):
            os.rmdir(place.reader_dir)
    rec.note(act="shut the vault's key out", file=place.authorized, fingerprint=place.key.fingerprint)
