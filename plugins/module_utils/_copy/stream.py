# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One owner for the whole pipe: chunks -> sha256 -> compressor -> sha256 -> file.part -> fsync -> rename.

A shell pipe hides the exit code of all stages but one, and a dump of a database that does not exist becomes a valid empty
archive. Here each stage's end is looked at, and a file gets its name only when all of them were good.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
import threading
import time
from typing import Any  # noqa: F401

from ansible_collections.sunset.crm.plugins.module_utils._database.sqlclient import child_environment

CHUNK = 1024 * 1024
# What is moved at once. Small enough to stay in the core's own cache from the reading over the digest to the writing: with pieces of a
# megabyte the same stream takes a tenth more CPU, with half of this a twentieth.
PIECE = 128 * 1024
# A file's bytes go to the disk while the stream runs, so that little is left for the sync at its end.
_WRITTEN_EARLY = 8 * CHUNK
_SET_PIPE_SIZE = 1031

DECOMPRESS = {"zstd": ["zstd", "-q", "-d", "-c"], "gzip": ["gzip", "-d", "-c"], "none": ["cat"]}
SUFFIX = {"zstd": ".zst", "gzip": ".gz"}


class StreamError(Exception):
    """A stage of the pipe failed, or its end was not seen."""


# Documents are mostly packed by themselves (office files, PDF, images): more effort costs a third of the time and saves hundredths.
FILES_LEVEL = 1
# The digests take what this level saves against zstd's own third one; the dump is a few hundredths larger.
DUMP_LEVEL = 2


def find_codec(which=shutil.which, level=DUMP_LEVEL):
    """The best compressor that this machine has: (name, argv)."""
    if which("zstd"):
        return "zstd", ["zstd", "-q", "-T0", "-%d" % level, "-c"]
    if which("gzip"):
        return "gzip", ["gzip", "-n", "-6", "-c"]
    raise StreamError("found neither zstd nor gzip on this machine; one of them is needed to stage a copy")


def _widen(stream):
    # Fewer wake-ups between processes; a kernel that refuses costs speed only.
    with contextlib.suppress(OSError):
        fcntl.fcntl(stream.fileno(), _SET_PIPE_SIZE, CHUNK)


def process_chunks(argv, stdin=None, what=None):
    """The output of a command as chunks. It ends in StreamError unless the command ended with 0."""
    what = what or argv[0]
    errors = tempfile.TemporaryFile()
    given = None
    if stdin is not None:
        given = tempfile.TemporaryFile()
        given.write(stdin)
        given.seek(0)
    try:
        child = subprocess.Popen(
            argv, stdin=given or subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, env=child_environment(), cwd="/"
        )
    except OSError as error:
        raise StreamError("{0} could not be started: {1}".format(what, error))
    output = child.stdout  # type: Any
    try:
        _widen(output)
        while True:
            chunk = output.read(PIECE)
            if not chunk:
                break
            yield chunk
        code = child.wait()
        if code != 0:
            raise StreamError("{0} ended with code {1}: {2}".format(what, code, _said(errors)))
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()
        output.close()
        errors.close()
        if given:
            given.close()


def _said(errors):
    errors.seek(0)
    return errors.read().decode("utf-8", "replace").strip()[-800:] or "no message"


def ending_with(chunks, marker, what, window=4096):
    """Pass chunks on; at the end the marker must have stood in the last bytes. Exit codes alone do not show a whole dump."""
    tail = b""
    for chunk in chunks:
        tail = chunk[-window:] if len(chunk) >= window else (tail + chunk)[-window:]
        yield chunk
    if marker not in tail:
        raise StreamError("{0}: the end of the dump was not seen (expected {1!r} in its last bytes)".format(what, marker.decode("ascii")))


class Throttle(object):
    """Holds the average at `rate` bytes a second; None means no limit."""

    def __init__(self, rate, clock=time.monotonic, sleep=time.sleep):
        self._rate = rate
        self._clock = clock
        self._sleep = sleep
        self._start = clock()
        self._bytes = 0

    def passed(self, count):
        if not self._rate:
            return
        self._bytes += count
        ahead = self._bytes / float(self._rate) - (self._clock() - self._start)
        if ahead > 0:
            self._sleep(ahead)


class _Drain(threading.Thread):
    """Reads one pipe to its end, digests what comes and hands it to `sink`; keeps the first error for the owner."""

    def __init__(self, source, sink):
        super(_Drain, self).__init__()
        self.daemon = True
        self._source = source
        self._sink = sink
        self._hash = hashlib.sha256()
        self.count = 0
        self.error = None

    def run(self):
        try:
            while True:
                chunk = self._source.read1(PIECE) if hasattr(self._source, "read1") else self._source.read(PIECE)
                if not chunk:
                    return
                self._hash.update(chunk)
                self.count += len(chunk)
                self._sink(chunk)
        except Exception as error:  # whatever it is: a thread that ends without a word would look like one that saw the end
            self.error = error
            # The writer at the other end must not wait for a reader that is gone.
            self._source.close()

    def hexdigest(self):
        return self._hash.hexdigest()


def _write_all(descriptor, chunk):
    view = memoryview(chunk)
    while view:
        view = view[os.write(descriptor, view) :]


class _Sink(object):
    """Writes into a new file and lets the disk begin at once."""

    def __init__(self, descriptor):
        self._descriptor = descriptor
        self._count = self._begun = 0

    def __call__(self, chunk):
        _write_all(self._descriptor, chunk)
        self._count += len(chunk)
        if self._count - self._begun >= _WRITTEN_EARLY:
            # "Not needed soon" makes Linux start writing what is dirty; only what is on the disk already leaves the memory. No promise is
            # taken from it: the sync at the end is what counts.
            with contextlib.suppress(OSError):
                os.posix_fadvise(self._descriptor, self._begun, self._count - self._begun, os.POSIX_FADV_DONTNEED)
            self._begun = self._count


def sync_directory(path):
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def stage(chunks, directory, name, role, codec, rate=None, progress=None):
    """Write chunks compressed into directory/name and return the artefact: both digests and both byte counts.

    Only a complete, synced file carries the name; whatever fails removes the part and raises.
    """
    codec_name, argv = codec
    name += SUFFIX.get(codec_name, "")
    path = os.path.join(directory, name)
    part = path + ".part"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(part)
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        plain, drain = _through(chunks, argv, _Sink(descriptor), Throttle(rate), progress)
        os.fsync(descriptor)
        if os.fstat(descriptor).st_size != drain.count:
            raise StreamError("{0}: {1} bytes were written, the file has {2}".format(name, drain.count, os.fstat(descriptor).st_size))
        os.rename(part, path)
        sync_directory(directory)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(part)
        raise
    finally:
        os.close(descriptor)
    return {
        "name": name,
        "role": role,
        "path": path,
        "codec": codec_name,
        "sha256": drain.hexdigest(),
        "bytes": drain.count,
        "plain_sha256": plain[0],
        "plain_bytes": plain[1],
    }


def pour(chunks, descriptor, codec, rate=None, progress=None):
    """The same pipe into a descriptor instead of a file: for a copy that is never staged. Both digests, both byte counts."""
    plain, drain = _through(chunks, codec[1], lambda chunk: _write_all(descriptor, chunk), Throttle(rate), progress)
    return {"sha256": drain.hexdigest(), "bytes": drain.count, "plain_sha256": plain[0], "plain_bytes": plain[1]}


def _through(chunks, argv, sink, throttle, progress):
    errors = tempfile.TemporaryFile()
    child = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, env=child_environment(), cwd="/")
    entrance = child.stdin  # type: Any
    for pipe in (entrance, child.stdout):
        _widen(pipe)
    drain = _Drain(child.stdout, sink)
    drain.start()
    digest, count = hashlib.sha256(), 0
    broken = None
    try:
        try:
            for chunk in chunks:
                digest.update(chunk)
                count += len(chunk)
                entrance.write(chunk)
                throttle.passed(len(chunk))
                if progress:
                    progress(count)
            entrance.close()
        except BrokenPipeError as error:
            broken = error
        drain.join()
        code = child.wait()
        if drain.error is not None:
            raise StreamError("the far end of the stream failed: {0}".format(drain.error))
        if broken is not None or code != 0:
            raise StreamError("{0} ended with code {1}: {2}".format(argv[0], code, _said(errors)))
        return (digest.hexdigest(), count), drain
    finally:
        close = getattr(chunks, "close", None)
        if close:
            close()
        if child.poll() is None:
            child.kill()
            child.wait()
        with contextlib.suppress(OSError):
            entrance.close()
        errors.close()


def file_chunks(path):
    with open(path, "rb") as stream:
        while True:
            chunk = stream.read(PIECE)
            if not chunk:
                return
            yield chunk


def file_sha256(path):
    digest = hashlib.sha256()
    for chunk in file_chunks(path):
        digest.update(chunk)
    return digest.hexdigest()


def check_staged(artefact, reader=None, look=None):
    """Read a staged file back from its disk: both digests, both counts, and a reader that must take all of it.

    reader: argv of a program that fails on an incomplete dump (pg_restore into /dev/null). None: digests only.
    look: is called with each chunk of the content too, in a thread, and must not raise.
    """
    name = artefact["name"]
    target = None
    entrance = None  # type: Any
    errors = tempfile.TemporaryFile()
    if reader:
        target = subprocess.Popen(reader, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=errors, env=child_environment(), cwd="/")
        entrance = target.stdin
        _widen(entrance)

    def sink(chunk):
        if look:
            look(chunk)
        if target:
            entrance.write(chunk)

    try:
        try:
            (digest, count), drain = _through(
                file_chunks(artefact["path"]),
                DECOMPRESS[artefact["codec"]],
                sink,
                Throttle(None),
                None,
            )
        except StreamError:
            # A reader that gives up breaks the pipe; what it said of it is worth more than that.
            if target:
                with contextlib.suppress(OSError):
                    entrance.close()
                if target.wait() != 0:
                    raise StreamError(
                        "{0}: {1} cannot read it to its end (code {2}): {3}".format(name, reader[0], target.returncode, _said(errors))
                    )
            raise
        if target:
            entrance.close()
            code = target.wait()
            if code != 0:
                raise StreamError("{0}: {1} cannot read it to its end (code {2}): {3}".format(name, reader[0], code, _said(errors)))
        seen = (digest, count, drain.hexdigest(), drain.count)
        wanted = tuple(artefact[key] for key in ("sha256", "bytes", "plain_sha256", "plain_bytes"))
        if seen != wanted:
            raise StreamError("{0}: read back as {1}, written as {2}".format(name, seen, wanted))
    finally:
        if target and target.poll() is None:
            target.kill()
            target.wait()
        errors.close()
