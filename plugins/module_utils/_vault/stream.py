# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The two streams of a vault: source -> digest -> age -> digest -> file, and the way back into a restore.

Private to the collection. Valid for Python 3.6, standard library. Nothing plain touches a disk; memory stays at a few
blocks whatever the size; every stage's exit code, byte count and digest is checked, and the end of the stream too.

A large artefact is a row of segments (_vault.segments), each a file that stock age opens by itself; joined in the order of
their names they are the staged file.
"""

import contextlib
import os
import subprocess
import tempfile
from typing import Any, BinaryIO, Callable, Dict, Iterable, List, Optional  # noqa: F401

from ansible_collections.sunset.crm.plugins.module_utils._vault.pipe import (
    BLOCK,
    Counted,
    Source,
    Worker,
    clean_environment as clean_environment,
    start,
    stop,
    text_tail,
    write_all,
)
from ansible_collections.sunset.crm.plugins.module_utils._vault.state import VaultError, cipher_files, sync_directory

CODECS = {"zst": ["zstd", "-dc"], "gz": ["gzip", "-dc"]}


class Sealer(object):
    """One age process: what it is given becomes target + ".part" (0600). finish() makes it safe, the caller names it.

    On any trouble the part is gone after abandon(), which every caller owes.
    """

    def __init__(self, recipient, target):
        # type: (str, str) -> None
        self.target, self.part = target, target + ".part"
        self.plain, self.cipher = Counted(), Counted()
        if os.path.lexists(self.part):
            os.unlink(self.part)
        self.errors = tempfile.TemporaryFile()
        self.out = os.open(self.part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            self.age = start(["age", "-r", recipient], subprocess.PIPE, self.errors)
        except VaultError:
            os.close(self.out)
            os.unlink(self.part)
            self.errors.close()
            raise
        self.writer = Worker(self._drain)
        self.writer.start()

    def _drain(self):
        # type: () -> None
        try:
            while True:
                block = os.read(self.age.stdout.fileno(), BLOCK)
                if not block:
                    return
                self.cipher.add(block)
                while block:
                    block = block[os.write(self.out, block) :]
        except OSError:
            self.age.kill()  # else it would wait for ever for somebody to take its output
            raise

    def write(self, block):
        # type: (Any) -> None
        self.plain.add(block)
        try:
            write_all(self.age.stdin, block)
        except OSError:
            self._ended()
            raise VaultError("age stopped reading before the end: %s" % text_tail(self.errors))
        if self.writer.error is not None:
            self._ended()

    def end(self):
        # type: () -> None
        with contextlib.suppress(OSError):  # age is gone; finish() tells why
            self.age.stdin.close()

    def _ended(self):
        # type: () -> None
        """Wait for age and for the writer; VaultError with the cause if either failed."""
        self.end()
        self.writer.join()
        code = self.age.wait()
        if self.writer.error is not None:
            raise VaultError("%s cannot be written: %s" % (self.part, self.writer.error))
        if code != 0:
            raise VaultError("age ended with exit code %d: %s" % (code, text_tail(self.errors)))

    def finish(self):
        # type: () -> Dict[str, Any]
        """The part is whole and on the disk; its digests."""
        self._ended()
        os.fsync(self.out)
        if os.fstat(self.out).st_size != self.cipher.bytes:
            raise VaultError("%s: fewer bytes are on the disk than age gave" % self.part)
        self._close()
        sha256, count = self.plain.facts()
        cipher_sha256, cipher_count = self.cipher.facts()
        return {"sha256": sha256, "bytes": count, "cipher_sha256": cipher_sha256, "cipher_bytes": cipher_count}

    def _close(self):
        # type: () -> None
        stop([self.age], [self.writer])
        if self.out >= 0:
            os.close(self.out)
            self.out = -1
            self.errors.close()

    def abandon(self):
        # type: () -> None
        """End everything; a part that was not finished and named by then is removed."""
        self._close()
        if os.path.lexists(self.part):
            os.unlink(self.part)


def encrypt_to_file(source, recipient, target, rate=0, stall=120):
    # type: (List[str], str, str, int, float) -> Dict[str, Any]
    """Run source, encrypt what it prints into target + ".part" (0600, synced). The caller judges, then renames.

    Returns {"sha256", "bytes", "cipher_sha256", "cipher_bytes"}. On any trouble the part is gone and VaultError is raised.
    """
    sealer = Sealer(recipient, target)
    try:
        feeder = Source(source, stall)
        try:
            for block in feeder.blocks(rate):
                sealer.write(block)
            feeder.require_good_end()
        finally:
            feeder.close()
        return sealer.finish()
    except BaseException:
        sealer.abandon()
        raise


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


class Opener(object):
    """Decrypts files one after another into one stream; of each, both digests are checked where they are known.

    parts: [{"path", "cipher_sha256" or None, "sha256" or None}].
    """

    def __init__(self, parts, identity, digest=True):
        # type: (Iterable[Dict[str, Any]], str, bool) -> None
        self.parts, self.identity, self.digest = list(parts), identity, digest
        self.staged = Counted()
        self.cipher = Counted()
        self.child = None  # type: Any
        self.stopped = False

    def run(self, sink):
        # type: (Callable[[bytes], Any]) -> None
        for part in self.parts:
            if not self.stopped:
                self._one(part, sink)

    def _one(self, part, sink):
        # type: (Dict[str, Any], Callable[[bytes], Any]) -> None
        """age and the digest of the ciphertext read the same open file, each by itself: nothing is handed from one to the other."""
        path, cipher, plain = part["path"], Counted(), Counted() if part.get("sha256") else None
        try:
            source = open(path, "rb", 0)
        except (IOError, OSError) as exc:
            raise VaultError("%s cannot be opened: %s" % (path, exc.strerror))
        with source, tempfile.TemporaryFile() as errors:
            age = self.child = start(["age", "-d", "-i", self.identity], source, errors)

            def digest():
                # type: () -> None
                while not self.stopped:
                    block = os.pread(source.fileno(), BLOCK, cipher.bytes)
                    if not block:
                        break
                    cipher.add(block)

            reader = Worker(digest)
            try:
                reader.start()
                while True:
                    block = os.read(age.stdout.fileno(), BLOCK)
                    if not block:
                        break
                    if plain is not None:
                        plain.add(block)
                    if self.digest:
                        self.staged.add(block)
                    else:
                        self.staged.bytes += len(block)
                    sink(block)
                reader.join()
                if reader.error is not None:
                    raise VaultError("%s cannot be read: %s" % (path, reader.error), verdict="unknown")
                self.cipher = cipher
                self._judge(part, age.wait(), errors, cipher, plain)
            finally:
                stop([age], [reader])

    def _judge(self, part, code, errors, cipher, plain):
        # type: (Dict[str, Any], int, BinaryIO, Counted, Optional[Counted]) -> None
        damaged = "the stored copy is damaged, pull it again"
        for key, what, found in (("cipher_sha256", "ciphertext", cipher), ("sha256", "content", plain)):
            if key == "sha256" and code != 0:
                raise VaultError(
                    "%s does not decrypt with the package's identity: %s; the stored copy is damaged or belongs to another "
                    "identity" % (part["path"], text_tail(errors)),
                    **{"cipher_sha256": cipher.sha.hexdigest()},
                )
            if found is not None and part.get(key) and part[key] != found.sha.hexdigest():
                raise VaultError("%s: the %s has sha256 %s; recorded was %s; %s" % (
                    part["path"], what, found.sha.hexdigest(), part[key], damaged))  # fmt: skip

    def abandon(self):
        # type: () -> None
        """Make run() end soon."""
        self.stopped = True
        if self.child is not None and self.child.poll() is None:
            self.child.kill()


def decrypt_parts(parts, identity, codec, sink, digest=True):
    # type: (List[Dict[str, Any]], str, Optional[str], Callable[[bytes], Any], bool) -> Dict[str, Any]
    """Read the parts in order, decrypt, decompress, give the plain blocks to sink; digests at every station.

    Returns {"sha256", "bytes", "plain_sha256", "plain_bytes"} of the joined parts. What sink was given is proven only when
    the caller has compared these with what they should be. An exception of sink ends the stream and is raised again.
    digest: without it no digest over the joined parts is made, for a sink that makes it by itself.
    """
    opener = Opener(parts, identity, digest)
    plain = Counted() if codec else opener.staged

    def last(block):
        # type: (bytes) -> None
        plain.add(block)
        sink(block)

    if not codec:
        opener.run(sink)
    else:
        _unpacked(opener, CODECS[codec], last)
    plain_sha256, plain_bytes = plain.facts()
    sha256, count = opener.staged.facts()
    return {
        "cipher_sha256": opener.cipher.sha.hexdigest(),
        "cipher_bytes": opener.cipher.bytes,
        "sha256": sha256 if digest else None,
        "bytes": count,
        "plain_sha256": plain_sha256 if digest or codec else None,
        "plain_bytes": plain_bytes,
    }


def _unpacked(opener, argv, sink):
    # type: (Opener, List[str], Callable[[bytes], Any]) -> None
    """Run the opener beside us, its output through the decompressor, that one's output into sink."""
    with tempfile.TemporaryFile() as errors:
        unpacker = start(argv, subprocess.PIPE, errors)
        gone = []  # type: List[bool]

        def forward(block):
            # type: (bytes) -> None
            if not gone:
                try:
                    write_all(unpacker.stdin, block)
                except BrokenPipeError:
                    gone.append(True)  # its exit code tells why; the digests are still wanted

        def middle():
            # type: () -> None
            try:
                opener.run(forward)
            finally:
                with contextlib.suppress(OSError):
                    unpacker.stdin.close()

        worker = Worker(middle)
        worker.start()
        try:
            while True:
                block = os.read(unpacker.stdout.fileno(), BLOCK)
                if not block:
                    break
                sink(block)
            worker.join()
            if worker.error is not None:
                raise worker.error
            if unpacker.wait() != 0:
                named = opener.parts[0]["path"] if opener.parts else "the artefact"
                raise VaultError("%s does not decompress: %s" % (named, text_tail(errors)))
        finally:
            opener.abandon()
            stop([unpacker], [worker])


def decrypt_into(path, identity, codec, sink):
    # type: (str, str, Optional[str], Callable[[bytes], Any]) -> Dict[str, Any]
    """decrypt_parts of one file of which nothing is known; the result holds "cipher_sha256" too."""
    return decrypt_parts([{"path": path}], identity, codec, sink)


def decrypt_entry(folder, entry, identity, codec, sink):
    # type: (str, Dict[str, Any], str, Optional[str], Callable[[bytes], Any]) -> Dict[str, Any]
    """A stored artefact in either form into sink. Every digest that its record holds is compared: of each file of
    ciphertext, of each segment, of the whole staged file and of what it holds unpacked. So a segment that is damaged, missing,
    or at another's place is found, and an artefact of which a segment was left out of the record too.
    """
    # What a segment holds is told by its ciphertext's digest, where it belongs by that of the whole; older records say it too.
    plain = [part.get("sha256") for part in entry.get("segments") or [{}]]
    parts = [
        {"path": os.path.join(folder, name), "cipher_sha256": cipher, "sha256": plain[number]}
        for number, (name, cipher, _size) in enumerate(cipher_files(entry))
    ]
    try:
        facts = decrypt_parts(parts, identity, codec, sink)
    except VaultError as exc:
        raise VaultError("%s: %s" % (entry["name"], exc), exc.verdict, **dict(exc.result, artefact=entry["name"]))
    for key, what in (("sha256", "staged file"), ("bytes", "staged file"), ("plain_sha256", "content")):
        if entry.get(key) is not None and entry[key] != facts[key]:
            raise VaultError(
                "%s: the %s has %s %s; recorded was %s; the stored copy is damaged, pull it again"
                % (entry["name"], what, key.replace("plain_", ""), facts[key], entry[key]),
                artefact=entry["name"],
            )
    return facts
