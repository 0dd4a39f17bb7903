# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The two streams of a vault: source -> digest -> age -> digest -> file, and the way back into a restore.

Private to the collection. Valid for Python 3.6, standard library. Nothing plain touches a disk; memory stays at a few
blocks whatever the size; every stage's exit code, byte count and digest is checked, and the end of the stream too.
"""

import hashlib
import os
import select
import subprocess
import tempfile
import threading
import time
from typing import Any, BinaryIO, Callable, Dict, List, Optional, Tuple  # noqa: F401

from ansible_collections.sunset.crm.plugins.module_utils._vault import VaultError, sync_directory

BLOCK = 1 << 18
CODECS = {"zst": ["zstd", "-dc"], "gz": ["gzip", "-dc"]}


def clean_environment():
    # type: () -> Dict[str, str]
    return dict(os.environ, LC_ALL="C", LANG="C")


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


def start(argv, stdin, errors):
    # type: (List[str], Any, BinaryIO) -> Any
    try:
        return subprocess.Popen(
            argv, stdin=stdin, stdout=subprocess.PIPE, stderr=errors, env=clean_environment(), close_fds=True, bufsize=0
        )
    except OSError as exc:
        raise VaultError("%s cannot be started (%s); install it on the vault" % (argv[0], exc.strerror))


def stop(children, workers):
    # type: (List[Optional[subprocess.Popen]], List[Worker]) -> None
    """End everything. First the children, so that no thread waits on a pipe; then the threads; the descriptors last."""
    alive = [child for child in children if child is not None]
    for child in alive:
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


def blocks_of(stream, stall):
    # type: (BinaryIO, float) -> Any
    """Blocks of a pipe until its end; VaultError when nothing comes for stall seconds."""
    fd = stream.fileno()
    while True:
        if not select.select([fd], [], [], stall)[0]:
            raise VaultError("the source sent nothing for %d seconds; the transfer was given up" % stall, verdict="unknown")
        block = os.read(fd, BLOCK)
        if not block:
            return
        yield block


def write_all(stream, block):
    # type: (BinaryIO, bytes) -> None
    view = memoryview(block)
    while len(view):
        written = stream.write(view)
        view = view[written if written is not None else 0 :]


def encrypt_to_file(source, recipient, target, rate=0, stall=120):
    # type: (List[str], str, str, int, float) -> Dict[str, Any]
    """Run source, encrypt what it prints into target + ".part" (0600, synced). The caller judges, then renames.

    Returns {"sha256", "bytes", "cipher_sha256", "cipher_bytes"}. On any trouble the part is gone and VaultError is raised.
    """
    part = target + ".part"
    if os.path.lexists(part):
        os.unlink(part)
    plain, cipher = Counted(), Counted()
    feeder = age = None  # type: Any
    workers = []  # type: List[Worker]
    with tempfile.TemporaryFile() as feeder_errors, tempfile.TemporaryFile() as age_errors:
        out = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        try:
            age = start(["age", "-r", recipient], subprocess.PIPE, age_errors)

            def drain(age=age):
                # type: (Any) -> None
                try:
                    while True:
                        block = os.read(age.stdout.fileno(), BLOCK)
                        if not block:
                            return
                        cipher.add(block)
                        while block:
                            block = block[os.write(out, block) :]
                except OSError:
                    age.kill()  # else it would wait for ever for somebody to take its output
                    raise

            writer = Worker(drain)
            workers.append(writer)
            writer.start()
            feeder = start(source, subprocess.DEVNULL, feeder_errors)
            feeder_rc = -1
            began = time.time()
            try:
                for block in blocks_of(feeder.stdout, stall):
                    plain.add(block)
                    write_all(age.stdin, block)
                    if writer.error is not None:
                        break
                    if rate > 0:
                        time.sleep(max(0.0, plain.bytes / float(rate) - (time.time() - began)))
                age.stdin.close()
            except OSError:
                pass  # age is gone: the writer's own trouble (a full disk) or age's exit code names the cause
            if writer.error is not None:
                raise VaultError("%s cannot be written: %s" % (part, writer.error))
            age_rc = age.wait()
            if age_rc == 0:
                feeder_rc = feeder.wait()
            writer.join()
            if writer.error is not None:
                raise VaultError("%s cannot be written: %s" % (part, writer.error))
            if age_rc != 0:
                raise VaultError("age ended with exit code %d: %s" % (age_rc, text_tail(age_errors)))
            if feeder_rc != 0:
                raise VaultError(
                    "%s ended with exit code %d after %d bytes: %s"
                    % (source[0], feeder_rc, plain.bytes, text_tail(feeder_errors) or "no message"),
                    verdict="unknown",
                )
            os.fsync(out)
        except BaseException:
            os.unlink(part)
            raise
        finally:
            stop([feeder, age], workers)
            os.close(out)
    sha256, count = plain.facts()
    cipher_sha256, cipher_count = cipher.facts()
    if os.stat(part).st_size != cipher_count:
        os.unlink(part)
        raise VaultError("%s: fewer bytes are on the disk than age gave" % part)
    return {"sha256": sha256, "bytes": count, "cipher_sha256": cipher_sha256, "cipher_bytes": cipher_count}


def publish(target):
    # type: (str) -> None
    """Give a finished part its final name, safely."""
    os.rename(target + ".part", target)
    sync_directory(os.path.dirname(target))


def codec_of(name):
    # type: (str) -> Optional[str]
    """The compression that a file name tells: zst, gz or None."""
    suffix = name.rsplit(".", 1)[-1]
    return suffix if suffix in CODECS else None


def decrypt_into(path, identity, codec, sink):
    # type: (str, str, Optional[str], Callable[[bytes], Any]) -> Dict[str, Any]
    """Read path, decrypt, decompress, give the plain blocks to sink; digests at every station.

    Returns {"cipher_sha256", "sha256", "bytes", "plain_sha256", "plain_bytes"}. What sink was given is proven only when
    the caller has compared these with what they should be. An exception of sink ends the stream and is raised again.
    """
    cipher, staged, plain = Counted(), Counted(), Counted()
    age = unpacker = None  # type: Any
    workers = []  # type: List[Worker]
    with tempfile.TemporaryFile() as age_errors, tempfile.TemporaryFile() as unpacker_errors, open(path, "rb") as source:
        try:
            age = start(["age", "-d", "-i", identity], subprocess.PIPE, age_errors)
            if codec:
                unpacker = start(CODECS[codec], subprocess.PIPE, unpacker_errors)

            def feed(age=age):
                # type: (Any) -> None
                gone = False
                while True:
                    block = source.read(BLOCK)
                    if not block:
                        break
                    cipher.add(block)
                    if not gone:
                        try:
                            write_all(age.stdin, block)
                        except BrokenPipeError:
                            gone = True  # age's exit code tells why; the cipher digest is still wanted
                age.stdin.close()

            def middle(age=age, unpacker=unpacker):
                # type: (Any, Any) -> None
                gone = False
                while True:
                    block = os.read(age.stdout.fileno(), BLOCK)
                    if not block:
                        break
                    staged.add(block)
                    if not gone:
                        try:
                            write_all(unpacker.stdin, block)
                        except BrokenPipeError:
                            gone = True
                unpacker.stdin.close()

            workers += [Worker(feed)] + ([Worker(middle)] if unpacker else [])
            for worker in workers:
                worker.start()
            last = unpacker or age
            while True:
                block = os.read(last.stdout.fileno(), BLOCK)
                if not block:
                    break
                plain.add(block)
                sink(block)
            for worker in workers:
                worker.join()
                if worker.error is not None and not isinstance(worker.error, BrokenPipeError):
                    raise VaultError("%s cannot be read: %s" % (path, worker.error), verdict="unknown")
            if age.wait() != 0:
                raise VaultError(
                    "%s does not decrypt with the package's identity: %s; the stored copy is damaged or belongs to another "
                    "identity" % (path, text_tail(age_errors)),
                    **{"cipher_sha256": cipher.sha.hexdigest()},
                )
            if unpacker is not None and unpacker.wait() != 0:
                raise VaultError("%s does not decompress: %s" % (path, text_tail(unpacker_errors)))
        finally:
            stop([age, unpacker], workers)
    plain_sha256, plain_bytes = plain.facts()
    sha256, count = (staged if codec else plain).facts()
    return {
        "cipher_sha256": cipher.sha.hexdigest(),
        "sha256": sha256,
        "bytes": count,
        "plain_sha256": plain_sha256,
        "plain_bytes": plain_bytes,
    }
