# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The staging place of one item: where its job works, what it finished, and whether that is still whole.

<staging>/                      0700, on a medium that is itself wiped later
  <slug>/finished.json          written last, by rename: artefacts, source, dump_id
  <slug>/<dump_id>/<artefacts>  0600
  <slug>/<dump_id>/direct/      direct.json and the job that makes the large artefact for each vault, where it was not staged
  <slug>/job-<slug>/            the detached job
"""

import contextlib
import hashlib
import os
import re
import shutil
import stat

from ansible_collections.sunset.crm.plugins.module_utils import _job
from ansible_collections.sunset.crm.plugins.module_utils._copy import stream as copy_stream

# What a file system needs besides the data: directories, the fingerprint, the job's own files.
MARGIN = 16 * 1024 * 1024


class StagingError(Exception):
    """The staging place cannot be used as asked."""


def slug(item):
    """A directory name for an item id; the digest keeps two items apart whose names differ only in odd characters."""
    readable = re.sub(r"[^A-Za-z0-9]+", "-", item).strip("-")[:40] or "item"
    if readable == item.replace(":", "-"):
        return readable
    return "{0}-{1}".format(readable, hashlib.sha256(item.encode("utf-8", "surrogateescape")).hexdigest()[:8])


class Staging(object):
    # What is staged here is read back from the disk before it counts.
    reads_back = True

    def __init__(self, directory, item):
        self.root = directory
        self.slug = slug(item)
        self.directory = os.path.join(directory, self.slug)
        self.job = _job.Job(self.directory, "job-" + self.slug)

    @property
    def record_path(self):
        return os.path.join(self.directory, "finished.json")

    def problem(self):
        """Why the place cannot be used; None if it can. Reads only."""
        if not self.root.startswith("/"):
            return "staging is {0!r}; expected an absolute path on a medium of the wipe set".format(self.root)
        try:
            found = os.lstat(self.root)
        except FileNotFoundError:
            parent = os.path.dirname(self.root.rstrip("/"))
            if not os.path.isdir(parent):
                return "the directory {0} does not exist; create it, or choose another staging place".format(parent)
            return None
        if not stat.S_ISDIR(found.st_mode):
            return "staging {0} is no directory (links are not followed); choose another place".format(self.root)
        if found.st_uid != os.geteuid():
            return "staging {0} belongs to uid {1}, expected {2}; choose another place".format(self.root, found.st_uid, os.geteuid())
        strangers = [name for name in os.listdir(self.root) if name != "lost+found"] if found.st_mode & 0o077 else []
        if strangers:
            return (
                "staging {0} is open to others (mode {1:04o}) and holds {2} entries; it becomes private (0700), which would shut out whoever "
                "uses them: name a directory of its own, such as {3}"
            ).format(self.root, stat.S_IMODE(found.st_mode), len(strangers), os.path.join(self.root, "sunset-staging"))
        return None

    def free(self):
        """Bytes that can be written there now."""
        place = self.root
        while not os.path.isdir(place):
            place = os.path.dirname(place)
        found = os.statvfs(place)
        return found.f_bavail * found.f_frsize

    def shortage(self, data):
        """The sentence that refuses for want of space; None if `data` bytes fit even uncompressed."""
        free, need = self.free(), int(data) + MARGIN
        if free >= need:
            return None
        return (
            "staging {0} has {1} bytes free; the copy may need {2} ({3} of data and {4} besides): {5} are missing. Free them, "
            "or choose a staging place on another medium of the wipe set"
        ).format(self.root, free, need, int(data), MARGIN, need - free)

    def prepare(self):
        for path in (self.root, self.directory):
            with contextlib.suppress(FileExistsError):
                os.mkdir(path, 0o700)
            os.chmod(path, 0o700)

    def finished(self):
        """The record of the finished copy; None where there is none, or where it cannot be read as one."""
        try:
            record = _job.read_json(self.record_path)
        except ValueError:
            return None
        return record if isinstance(record, dict) and record.get("artefacts") else None

    def damage(self, record):
        """What is wrong with the staged files of a record: sentences; empty if every digest was read again and is right."""
        found = []
        for artefact in record["artefacts"]:
            name = artefact["name"]
            try:
                if artefact.get("direct"):
                    if copy_stream.file_sha256(artefact["path"]) != artefact["spec_sha256"]:
                        found.append("the description of the direct copy {0} has other content than recorded".format(name))
                    continue
                size = os.lstat(artefact["path"]).st_size
                if size != artefact["bytes"]:
                    found.append("{0} has {1} bytes, recorded are {2}".format(name, size, artefact["bytes"]))
                elif copy_stream.file_sha256(artefact["path"]) != artefact["sha256"]:
                    found.append("{0} has other content than recorded".format(name))
            except OSError as error:
                found.append("{0} cannot be read: {1}".format(name, error.strerror))
        return found

    def begin(self, dump_id):
        """An empty directory for a new copy. The finished one stays until the new one is whole."""
        record = self.finished()
        if record and record["dump_id"] == dump_id:
            os.unlink(self.record_path)  # the same source, damaged files: they are made again in the same place
        self.abandon()
        target = os.path.join(self.directory, dump_id)
        os.mkdir(target, 0o700)
        return target

    def stage(self, *arguments):
        """Where an artefact of the copy goes: to a file."""
        return copy_stream.stage(*arguments)

    def seal(self, spec, artefacts, content):
        """Called with the digest of the whole content, before the copy is published."""

    def abandon(self):
        """Remove every copy that is not the finished one."""
        record = self.finished()
        for name in os.listdir(self.directory):
            if re.match(r"^[0-9a-f]{16}$", name) and not (record and record["dump_id"] == name):
                shutil.rmtree(os.path.join(self.directory, name))

    def commit(self, record):
        """Publish the new copy, then drop the one before it."""
        _job.write_json_atomic(self.record_path, record)
        copy_stream.sync_directory(self.directory)
        self.abandon()


def copy_chunks(value):
    """A bytes value as a stream of one chunk."""
    yield value
