# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One ZIP, streamed through age onto the disk of the vault: nothing plain is ever a file there, memory is a few blocks.

Private to the collection. Valid for Python 3.6, standard library.
"""

import hashlib
import os
import subprocess
import tempfile
import time
import zipfile
from typing import Any, Dict, Iterable, List, Tuple  # noqa: F401

from ansible_collections.sunset.crm.plugins.module_utils._vault.pipe import BLOCK, Counted, Worker, start, stop, text_tail, write_all
from ansible_collections.sunset.crm.plugins.module_utils._vault.state import VaultError

LEVEL = 3


class Encrypted(object):
    """A sink whose bytes end as ciphertext in target + ".part" (0600, synced). No tell(): zipfile then writes a pure stream."""

    def __init__(self, recipient, target, scratch):
        # type: (str, str, str) -> None
        self.target, self.part = target, target + ".part"
        if os.path.lexists(self.part):
            os.unlink(self.part)
        self.plain, self.cipher = Counted(), Counted()
        self._pending, self._size = [], 0  # type: List[bytes], int
        self._errors = tempfile.TemporaryFile(dir=scratch)
        self._out = os.open(self.part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        self._age = None  # type: Any
        self._workers = []  # type: List[Worker]
        try:
            self._age = start(["age", "-r", recipient], subprocess.PIPE, self._errors)
            self._workers.append(Worker(self._drain))
            self._workers[0].start()
        except BaseException:
            self.abandon()
            raise

    def _drain(self):
        # type: () -> None
        try:
            while True:
                block = os.read(self._age.stdout.fileno(), BLOCK)
                if not block:
                    return
                self.cipher.add(block)
                while block:
                    block = block[os.write(self._out, block) :]
        except OSError:
            self._age.kill()  # else it would wait for ever for somebody to take its output
            raise

    def write(self, data):
        # type: (bytes) -> int
        self._pending.append(bytes(data))
        self._size += len(data)
        if self._size >= BLOCK:
            self._pass_on()
        return len(data)

    def flush(self):
        # type: () -> None
        """zipfile calls it; blocks are passed on when they are full."""

    def _pass_on(self):
        # type: () -> None
        block = b"".join(self._pending)
        self._pending, self._size = [], 0
        self.plain.add(block)
        try:
            write_all(self._age.stdin, block)
        except OSError:
            self._trouble()
            raise VaultError("age stopped taking the readable export: %s" % text_tail(self._errors), verdict="unknown")

    def _trouble(self):
        # type: () -> None
        error = self._workers[0].error
        if error is not None:
            raise VaultError("%s cannot be written: %s" % (self.part, error), verdict="unknown")

    def finish(self):
        # type: () -> Dict[str, Any]
        """End of the stream; the digests. The caller gives the file its name."""
        if self._pending:
            self._pass_on()
        self._age.stdin.close()
        code = self._age.wait()
        self._workers[0].join()
        self._trouble()
        if code != 0:
            raise VaultError("age ended with exit code %d: %s" % (code, text_tail(self._errors)), verdict="unknown")
        os.fsync(self._out)
        plain, cipher = self.plain.facts(), self.cipher.facts()
        if os.stat(self.part).st_size != cipher[1]:
            raise VaultError("%s: fewer bytes are on the disk than age gave" % self.part, verdict="unknown")
        self._close()
        return {"plain_sha256": plain[0], "plain_bytes": plain[1], "cipher_sha256": cipher[0], "cipher_bytes": cipher[1]}

    def _close(self):
        # type: () -> None
        stop([self._age], self._workers)
        if self._out >= 0:
            os.close(self._out)
            self._out = -1
        self._errors.close()

    def abandon(self):
        # type: () -> None
        """After trouble: no process, no part."""
        if self._out >= 0:
            self._close()
            if os.path.lexists(self.part):
                os.unlink(self.part)


class Archive(object):
    """The members of the ZIP, one after another."""

    def __init__(self, sink, when):
        # type: (Any, float) -> None
        # The format knows these years only; a vault's clock that stands elsewhere is no reason to have no export.
        self.when = min(max(time.gmtime(when)[:6], (1980, 1, 1, 0, 0, 0)), (2107, 12, 31, 23, 59, 58))
        self.zip = zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED, allowZip64=True)

    def _info(self, path):
        # type: (str) -> zipfile.ZipInfo
        info = zipfile.ZipInfo(path, self.when)
        info.compress_type = zipfile.ZIP_DEFLATED
        # The setting has had two names; Python 3.6 has none and packs with its own level.
        for name in ("_compresslevel", "compress_level"):
            if hasattr(info, name):
                setattr(info, name, LEVEL)
        info.external_attr = 0o600 << 16
        return info

    def member(self, path, chunks):
        # type: (str, Iterable[bytes]) -> Tuple[str, int]
        """Write a member of unknown size; its digest and bytes."""
        digest, size = hashlib.sha256(), 0
        # Sizes come after the data, in 64 bits: no table is too large.
        with self.zip.open(self._info(path), "w", force_zip64=True) as out:
            for chunk in chunks:
                digest.update(chunk)
                size += len(chunk)
                out.write(chunk)
        return digest.hexdigest(), size

    def text(self, path, text):
        # type: (str, bytes) -> None
        self.zip.writestr(self._info(path), text)

    def file(self, path, source):
        # type: (str, str) -> Tuple[str, int]
        """A finished file of the scratch."""
        digest, size = hashlib.sha256(), 0
        with open(source, "rb") as stream, self.zip.open(self._info(path), "w", force_zip64=True) as out:
            while True:
                block = stream.read(BLOCK)
                if not block:
                    return digest.hexdigest(), size
                digest.update(block)
                size += len(block)
                out.write(block)

    def close(self):
        # type: () -> None
        self.zip.close()
