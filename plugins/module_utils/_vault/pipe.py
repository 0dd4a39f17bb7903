# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What both streams of a vault are made of: children with wide pipes, digests that count, threads whose errors are not lost.

Private to the collection. Valid for Python 3.6, standard library.
"""

import contextlib
import fcntl
import hashlib
import os
import select
import subprocess
import tempfile
import threading
import time
from typing import Any, BinaryIO, Callable, Dict, List, Optional, Tuple  # noqa: F401

from ansible_collections.sunset.crm.plugins.module_utils._vault.state import VaultError

BLOCK = 1 << 18
SET_PIPE_SIZE = 1031


# What the environment of whoever started us would say to the tools: su hands it on to the vault's account.
FOREIGN = ("PG", "MYSQL", "MARIADB", "REDISCLI_", "TAR_OPTIONS", "ZSTD_", "GZIP")


def clean_environment():
    # type: () -> Dict[str, str]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    return dict(kept, LC_ALL="C", LANG="C", MYSQL_TEST_LOGIN_FILE="/dev/null")  # no login file of the account


def text_tail(stream, limit=400):
    # type: (BinaryIO, int) -> str
    stream.seek(0)
    return stream.read().decode("utf-8", "replace").strip()[-limit:]


class Counted(object):
    """A digest and a byte count that grow together."""

    def __init__(self):
        # type: () -> None
        self.sha = hashlib.sha256()
        self.bytes = 0

    def add(self, block):
        # type: (bytes) -> None
        self.sha.update(block)
        self.bytes += len(block)

    def facts(self):
        # type: () -> Tuple[str, int]
        return self.sha.hexdigest(), self.bytes

    def copy(self):
        # type: () -> Counted
        twin = Counted()
        twin.sha, twin.bytes = self.sha.copy(), self.bytes
        return twin


class Worker(threading.Thread):
    """A thread whose exception is kept and raised where it is joined."""

    def __init__(self, work):
        # type: (Callable[[], None]) -> None
        super(Worker, self).__init__()
        self.daemon = True
        self.work = work
        self.error = None  # type: Optional[BaseException]

    def run(self):
        # type: () -> None
        try:
            self.work()
        except BaseException as exc:  # handed over to the joining thread
            self.error = exc


def start(argv, stdin, errors, stdout=subprocess.PIPE):
    # type: (List[str], Any, BinaryIO, Any) -> Any
    try:
        child = subprocess.Popen(argv, stdin=stdin, stdout=stdout, stderr=errors, env=clean_environment(), close_fds=True, bufsize=0)
    except OSError as exc:
        raise VaultError("%s cannot be started (%s); install it on the vault" % (argv[0], exc.strerror))
    for pipe in (child.stdin, child.stdout):
        # Fewer wake-ups between processes; a kernel that refuses (its sum for one user is limited) costs speed only.
        with contextlib.suppress(OSError):
            if pipe is not None:
                fcntl.fcntl(pipe.fileno(), SET_PIPE_SIZE, 4 * BLOCK)
    return child


def stop(children, workers):
    # type: (List[Optional[subprocess.Popen]], List[Worker]) -> None
    """End everything. First the children, so that no thread waits on a pipe; then the threads; the descriptors last."""
    alive = [child for child in children if child is not None]
    for child in alive:
        # Before Python 3.9 a signal to a child that another thread has just seen to its end is an error.
        with contextlib.suppress(ProcessLookupError):
            if child.poll() is None:
                child.kill()
    for worker in workers:
        if worker.ident is not None:
            worker.join()
    for child in alive:
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:
                    pass
        child.wait()


def write_all(stream, block):
    # type: (BinaryIO, Any) -> None
    view = memoryview(block)
    while len(view):
        written = stream.write(view)
        view = view[written if written is not None else 0 :]


class SourceFailed(VaultError):
    """The command that gives the bytes failed, or went silent; what came before is what it gave."""


class Source(object):
    """The command whose output is fetched. What it says on its standard error is kept, and is a sign of life too."""

    def __init__(self, argv, stall):
        # type: (List[str], float) -> None
        self.name, self.stall = argv[0], stall
        self.errors = tempfile.TemporaryFile()
        self.taken = 0
        try:
            self.child = start(argv, subprocess.DEVNULL, self.errors)
        except VaultError:
            self.errors.close()
            raise

    def blocks(self, rate=0):
        # type: (int) -> Any
        """Blocks until the end; VaultError when neither data nor a word comes for stall seconds."""
        fd, said, began = self.child.stdout.fileno(), 0, time.monotonic()
        while True:
            if not select.select([fd], [], [], self.stall)[0]:
                before, said = said, os.fstat(self.errors.fileno()).st_size
                if said > before:
                    continue
                raise SourceFailed("the source sent nothing for %d seconds; the transfer was given up" % self.stall, verdict="unknown")
            block = os.read(fd, BLOCK)
            if not block:
                return
            self.taken += len(block)
            yield block
            if rate > 0:
                time.sleep(max(0.0, self.taken / float(rate) - (time.monotonic() - began)))

    def said(self):
        # type: () -> str
        return text_tail(self.errors) or "no message"

    def last_line(self, mark):
        # type: (bytes) -> Optional[bytes]
        """What stands behind the mark in the last line that begins with it; None where there is no such whole line."""
        self.errors.seek(0)
        found = [line for line in self.errors.read().split(b"\n")[:-1] if line.startswith(mark)]
        return found[-1][len(mark) :] if found else None

    def require_good_end(self):
        # type: () -> None
        code = self.child.wait()
        if code != 0:
            raise SourceFailed(
                "%s ended with exit code %d after %d bytes: %s" % (self.name, code, self.taken, self.said()), verdict="unknown", code=code
            )

    def close(self):
        # type: () -> None
        stop([self.child], [])
        self.errors.close()
