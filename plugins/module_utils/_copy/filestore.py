# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A file tree: its manifest by own reading, and the comparison of a restored tree with the manifest.

Names are bytes. A manifest is a list of entries with `path` (or `path_b64` where the name is not UTF-8), relative to the tree.
What was declared to be left out is an entry of the type "left out": nobody may think that the tree was whole.
"""

import base64
import contextlib
import errno
import fnmatch
import hashlib
import json
import os
import stat
from typing import Any, Dict, List, Tuple  # noqa: F401

from ansible_collections.sunset.crm.plugins.module_utils import _canonical
from ansible_collections.sunset.crm.plugins.module_utils._copy import stream as copy_stream, treemodes as copy_treemodes

_KINDS = (
    (stat.S_ISREG, "file"),
    (stat.S_ISDIR, "directory"),
    (stat.S_ISLNK, "symlink"),
    (stat.S_ISFIFO, "fifo"),
    (stat.S_ISSOCK, "socket"),
    (stat.S_ISCHR, "character device"),
    (stat.S_ISBLK, "block device"),
)
LEFT_OUT = "left out"
# What no archive holds: a socket is nothing without its process.
NOT_ARCHIVED = ("socket", LEFT_OUT)
# What an unprivileged restore cannot give back; compared only where the restore ran as root.
_OWNER = ("uid", "gid")


class TreeError(Exception):
    """The tree cannot be read as one picture; the message names the entry."""


def show(name):
    """A name for people: printable whatever its bytes are."""
    return ascii(name.decode("utf-8", "backslashreplace"))[1:-1] if isinstance(name, bytes) else name


def encode_name(name, key="path"):
    """{key: text} for UTF-8 names, {key_b64: ...} for others: JSON has no bytes, and replacing characters loses the name."""
    try:
        return {key: name.decode("utf-8")}
    except UnicodeDecodeError:
        return {key + "_b64": base64.b64encode(name).decode("ascii")}


def decode_name(entry, key="path"):
    if key in entry:
        return entry[key].encode("utf-8")
    return base64.b64decode(entry[key + "_b64"])


def _xattrs(path):
    """Raises OSError where attributes are there and cannot be read: that they are unknown does not mean that there are none."""
    found = {}
    try:
        for name in os.listxattr(path, follow_symlinks=False):
            found[name] = base64.b64encode(os.getxattr(path, name, follow_symlinks=False)).decode("ascii")
    except OSError as error:
        if error.errno not in (errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        return {}
    # Set by the kernel for a security module of this machine, not part of the data.
    found.pop("security.selinux", None)
    return found


def _read_file(path, shown):
    """(sha256, stat) of a regular file, sure that it was the same from open to end."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | getattr(os, "O_NOATIME", 0))
    except PermissionError:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        before = os.fstat(descriptor)
        digest = hashlib.sha256()
        while True:
            chunk = os.read(descriptor, copy_stream.CHUNK)
            if not chunk:
                break
            digest.update(chunk)
        after = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    if (before.st_size, before.st_mtime_ns, before.st_ctime_ns) != (after.st_size, after.st_mtime_ns, after.st_ctime_ns):
        raise TreeError("{0} changed while it was read".format(shown))
    return digest.hexdigest(), after


def _entry(root, name):
    path = os.path.join(root, name)
    shown = show(name)
    try:
        found = os.lstat(path)
        kind = next((text for test, text in _KINDS if test(found.st_mode)), "unknown")
        entry = dict(encode_name(name), type=kind)
        if kind == "file":
            entry["sha256"], found = _read_file(path, shown)
            entry["size"] = found.st_size
        elif kind == "symlink":
            entry.update(encode_name(os.readlink(path), "target"))
        elif kind.endswith("device"):
            entry["device"] = [os.major(found.st_rdev), os.minor(found.st_rdev)]
        entry.update(mode="{0:04o}".format(stat.S_IMODE(found.st_mode)), uid=found.st_uid, gid=found.st_gid, mtime_ns=found.st_mtime_ns)
        extended = _xattrs(path)
        if extended:
            entry["xattrs"] = extended
    except FileNotFoundError:
        raise TreeError("{0} vanished while the tree was read".format(shown))
    except OSError as error:
        raise TreeError("{0} cannot be read: {1}".format(shown, error.strerror))
    return entry, found


class Selection(object):
    """Which part of a tree is meant: all of it, or `only` these entries and what is below them, without what `leave_out` matches."""

    def __init__(self, only=(), leave_out=()):
        self.only = [os.path.normpath(os.fsencode(one)) for one in only or ()]
        self.patterns = [os.fsencode(one).rstrip(b"/") for one in leave_out or ()]
        # The directories on the way to them: kept with owner and mode, but what else lies there is no matter.
        self.passed = {b"."} if self.only else set()
        for name in self.only:
            while os.path.dirname(name) not in (b"", b"/"):  # an absolute one is told by problem()
                name = os.path.dirname(name)
                self.passed.add(name)

    def leaves_out(self, name):
        return name != b"." and any(fnmatch.fnmatchcase(name, pattern) for pattern in self.patterns)

    def problem(self):
        """Why this cannot be meant; None if it can."""
        for option, names in (("only", self.only), ("leave_out", self.patterns)):
            for name in names:
                if name.startswith(b"/") or b".." in name.split(b"/") or name in (b"", b".") or b"\0" in name:
                    return "{0} holds {1!r}; expected paths below path, relative to it".format(option, show(name))
        for name in self.only:
            parts = name.split(b"/")
            if any(self.leaves_out(b"/".join(parts[: count + 1])) for count in range(len(parts))):
                return "only names {0!r}, and leave_out leaves it out; expected one of the two".format(show(name))
        return None


WHOLE = Selection()


def _walk(root, selection):
    """(name, lstat) of every entry that is meant, each once; a directory before what is in it, in no other order."""
    if selection.only:
        for name in sorted(selection.passed):
            found = _lstat(root, name, selection)
            if not stat.S_ISDIR(found.st_mode):
                raise TreeError("{0} is on the way to what only names, and is no directory (links are not followed)".format(show(name)))
            yield name, found
    pending = sorted(set(selection.only)) or [b"."]
    met = set(selection.passed) if selection.only else None
    while pending:
        name = pending.pop()
        if met is not None:
            if name in met and name not in selection.only:
                continue
            again = name in met
            met.add(name)
        found = _lstat(root, name, selection)
        if met is None or not again:
            yield name, found
        if stat.S_ISDIR(found.st_mode) and not selection.leaves_out(name):
            pending += _children(root, name)


def _lstat(root, name, selection):
    try:
        return os.lstat(os.path.join(root, name))
    except FileNotFoundError:
        if name in selection.only or name in selection.passed:
            raise TreeError("{0} is named by only, but is not there".format(show(name)))
        raise TreeError("{0} vanished while the tree was read".format(show(name)))
    except OSError as error:
        raise TreeError("{0} cannot be read: {1}".format(show(name), error.strerror))


def _mark(found, selection, name):
    """What changes when an entry is changed, replaced, written to or touched, with whatever time it is given afterwards."""
    mark = (found.st_dev, found.st_ino, found.st_mode, found.st_uid, found.st_gid)
    if name in selection.passed or selection.leaves_out(name):
        return mark
    size = None if stat.S_ISDIR(found.st_mode) else found.st_size
    return mark + (found.st_nlink, size, found.st_mtime_ns, found.st_ctime_ns)


def manifest(root, progress=None, selection=WHOLE, marks=None):
    """The entries of everything below root and of root itself ("."), sorted by name. Symlinks are entries, never followed.

    marks: a dict that is filled for moved(): what each entry looked like when it was read.
    """
    root = os.fsencode(root)
    top = os.stat(root)
    entries = []
    links = {}  # type: Dict[Tuple[int, int], List[Dict[str, Any]]]
    for name, found in _walk(root, selection):
        if selection.leaves_out(name):
            entry = dict(encode_name(name), type=LEFT_OUT)
        else:
            if found.st_dev != top.st_dev:
                raise TreeError(
                    "{0} is on another file system that is mounted inside the file store; declare it as a file store of its own".format(
                        show(name)
                    )
                )
            entry, found = _entry(root, name)
        if entry["type"] == "unknown":
            raise TreeError("{0} is of a type that no archive can hold".format(show(name)))
        if name in selection.passed and name not in selection.only:
            del entry["mtime_ns"]
        elif entry["type"] not in ("directory", LEFT_OUT) and found.st_nlink > 1:
            links.setdefault((found.st_dev, found.st_ino), []).append(entry)
        entries.append(entry)
        if marks is not None:
            marks[name] = _mark(found, selection, name)
        if progress:
            progress(len(entries), len(entries))
    entries.sort(key=decode_name)
    for group in links.values():
        if len(group) > 1:
            first = min(group, key=decode_name)
            for entry in group:
                entry.update(encode_name(decode_name(first), "linked"))
    return entries


def moved(root, marks, selection=WHOLE):
    """Look again, without reading: sentences about every entry that is not what it was when marks were taken."""
    root = os.fsencode(root)
    told, seen = [], set()
    for name, found in _walk(root, selection):
        seen.add(name)
        if name not in marks:
            told.append("{0} is new".format(show(name)))
        elif marks[name] != _mark(found, selection, name):
            told.append("{0} changed".format(show(name)))
    return sorted(told + ["{0} is missing".format(show(name)) for name in marks if name not in seen])


def _children(root, name):
    try:
        found = os.listdir(os.path.join(root, name))
    except OSError as error:
        raise TreeError("{0} cannot be listed: {1}".format(show(name), error.strerror))
    return [child if name == b"." else os.path.join(name, child) for child in found]


def manifest_chunks(entries):
    for entry in entries:
        yield _canonical.canonical(entry) + b"\n"


def manifest_digest(entries):
    digest = hashlib.sha256()
    for line in manifest_chunks(entries):
        digest.update(line)
    return digest.hexdigest()


def read_manifest(lines):
    """Entries from the lines of a manifest artefact."""
    return [json.loads(line.decode("ascii")) for line in lines if line.strip()]


def totals(entries):
    """Counts for the ledger, which holds no names."""
    return {
        "files": sum(1 for entry in entries if entry["type"] == "file"),
        "entries": sum(1 for entry in entries if entry["type"] != LEFT_OUT),
        "bytes": sum(entry.get("size", 0) for entry in entries),
        "sockets": sum(1 for entry in entries if entry["type"] == "socket"),
        "left_out": sum(1 for entry in entries if entry["type"] == LEFT_OUT),
    }


def differences(wanted, found, ignore=()):
    """Sentences that tell two manifests apart; empty if they say the same."""
    left = {decode_name(entry): entry for entry in wanted}
    right = {decode_name(entry): entry for entry in found}
    told = []
    for name in sorted(set(left) | set(right)):
        if name not in right:
            told.append("{0} is missing".format(show(name)))
        elif name not in left:
            told.append("{0} is new".format(show(name)))
        else:
            one, other = left[name], right[name]
            fields = [key for key in sorted(set(one) | set(other)) if key not in ignore and one.get(key) != other.get(key)]
            if fields:
                told.append("{0} differs in {1}".format(show(name), ", ".join(fields)))
    return told


def verify_tree(wanted, directory, owners=None):
    """Compare a restored tree with the manifest of the source: sentences, empty if equal.

    What no archive holds is not looked for. `owners`: compare uid and gid; by default only where we are root, an
    unprivileged restore cannot give them back (tar_owner_differences() reads them from the archive instead).
    """
    owners = os.geteuid() == 0 if owners is None else owners
    archived = [entry for entry in wanted if entry["type"] not in NOT_ARCHIVED]
    ignore = () if owners else _OWNER
    if not owners:
        archived = [_acls_only(entry) for entry in archived]
    # As root nothing keeps us out; else a file that nobody may read could never be compared.
    closed = {} if os.geteuid() == 0 else copy_treemodes.open_all(os.fsencode(directory))  # type: Dict[bytes, Dict[str, Any]]
    found = manifest(directory)
    for entry in found if closed else ():
        if decode_name(entry) in closed:
            copy_treemodes.as_before(entry, closed[decode_name(entry)])
    timeless = {decode_name(entry) for entry in archived if "mtime_ns" not in entry}
    for entry in found:
        if decode_name(entry) in timeless:
            del entry["mtime_ns"]
    return differences(archived, found, ignore)


def _acls_only(entry):
    """Without root an archive's ACLs come back, but no other attributes: those of users are compared in its headers."""
    kept = {key: value for key, value in entry.get("xattrs", {}).items() if key.startswith("system.posix_acl")}
    entry = {key: value for key, value in entry.items() if key != "xattrs"}
    return dict(entry, xattrs=kept) if kept else entry


def identity(path):
    """What tells this file store from another one of the same name: its file system and its inode there."""
    found = os.stat(path)
    uuid = None
    with contextlib.suppress(OSError):
        for name in os.listdir("/dev/disk/by-uuid"):
            with contextlib.suppress(OSError):
                if os.stat(os.path.join("/dev/disk/by-uuid", name)).st_rdev == found.st_dev:
                    uuid = name
    return {"path": path, "inode": found.st_ino, "fs_uuid": uuid}


def data_size(path, selection=WHOLE):
    """Bytes the tree takes on its disk, the estimate for staging."""
    total = 0
    for name, found in _walk(os.fsencode(path), selection):
        total += 1024
        if not selection.leaves_out(name) and not stat.S_ISDIR(found.st_mode):
            total += found.st_blocks * 512
    return total


def selection_of(spec):
    return Selection(spec.get("only"), spec.get("leave_out"))


def path_problem(path, staging):
    """Why this tree cannot be archived into that staging place; None if it can."""
    if not path.startswith("/"):
        return "path is {0!r}; expected an absolute path".format(path)
    if os.path.islink(path) or not os.path.isdir(path):
        return "path {0} is no directory (a link is not followed); expected the directory of the file store".format(path)
    real, place = os.path.realpath(path), os.path.realpath(staging)
    if place == real or place.startswith(real.rstrip("/") + "/"):
        return "staging {0} lies inside the file store {1}; expected a place outside it, the copy would contain itself".format(
            staging, path
        )
    return None


def unchanged(spec, record):
    """Whether the tree is still the one that was archived, by identity and by manifest."""
    source = record["source"]
    if source.get("identity") != spec["identity"] or any(source.get(key, []) != (spec.get(key) or []) for key in ("only", "leave_out")):
        return False
    return manifest_digest(manifest(spec["path"], selection=selection_of(spec))) == source["manifest_sha256"]
