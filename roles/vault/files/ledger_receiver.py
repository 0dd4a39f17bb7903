#!/usr/bin/python3
# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Keeps copies of ledgers on a vault: they can be appended to, never rewritten.

Run by a forced command of sshd for an account of its own, on the vault's system Python (3.6 or later, standard library):

    restrict,command="/usr/bin/python3 -I /usr/local/lib/sunset/ledger_receiver.py /srv/ledger" ssh-ed25519 ...

Standard input: one JSON line, the header, then ledger lines. Standard output: one JSON line.

    {"op": "head", "estate": NAME}
    {"op": "append", "estate": NAME, "from_line": N, "head": ..., "head_signature": ..., "line_count": M}

from_line is the number of lines in front of the first one that follows. Lines that are there already must be the same bytes;
each new one must carry, in "prev", the SHA-256 of the line before (64 zeros for the first). Anything else is refused with exit
code 3 and nothing is kept of that call. line_count is optional: with it, a cut-off input is told from a short one.

    BASE/<estate>/ledger.jsonl    the copy
    BASE/<estate>/heads.jsonl     signed heads as they came, with the time of receipt

Exit codes: 0 done, 2 not understood, 3 refused (a rewriting or a broken chain), 4 the vault's own trouble.
"""

import datetime
import fcntl
import hashlib
import json
import os
import re
import sys

GENESIS = "0" * 64
NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")
LINE_LIMIT = 16 << 20


class Refused(Exception):
    def __init__(self, code, message):
        super().__init__(message)
        self.code = code


def line_hash(line):
    return hashlib.sha256(line).hexdigest()


def check_next(line, prev, number):
    """The hash of a line that continues the chain, or Refused."""
    try:
        record = json.loads(line.decode("utf-8"))
    except ValueError:
        raise Refused(3, f"line {number + 1} is no JSON") from None
    if not isinstance(record, dict) or record.get("prev") != prev:
        raise Refused(3, f"line {number + 1} does not continue the chain")
    return line_hash(line)


def read_lines(stream):
    """Lines without their newline; a last line without one is told by a final None."""
    lines = []
    while True:
        line = stream.readline(LINE_LIMIT + 1)
        if not line:
            return lines
        if not line.endswith(b"\n"):
            if len(line) > LINE_LIMIT:
                raise Refused(2, f"a line is longer than {LINE_LIMIT} bytes")
            return lines + [None]
        lines.append(line[:-1])


class Store:
    """The copy of one ledger, under an exclusive lock for as long as it is open."""

    def __init__(self, base, estate):
        self.directory = os.path.join(base, estate)
        os.makedirs(self.directory, 0o700, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        self.fd = os.open(os.path.join(self.directory, "ledger.jsonl"), flags, 0o600)
        fcntl.flock(self.fd, fcntl.LOCK_EX)
        self.lines = []
        self.repaired = self.load()

    def __enter__(self):
        return self

    def __exit__(self, *_exc):
        os.close(self.fd)

    def load(self):
        """Read and check the stored chain. A torn last line (this program was killed in it) is cut off: True."""
        with os.fdopen(os.dup(self.fd), "rb") as stream:
            stream.seek(0)
            lines = read_lines(stream)
        torn = bool(lines) and lines[-1] is None
        self.lines = lines[:-1] if torn else lines
        prev = GENESIS
        for number, line in enumerate(self.lines):
            try:
                prev = check_next(line, prev, number)
            except Refused as exc:
                raise Refused(4, f"the copy on this vault is damaged: {exc}") from None
        if torn:
            os.ftruncate(self.fd, sum(len(line) + 1 for line in self.lines))
            os.fsync(self.fd)
        return torn

    @property
    def head(self):
        return line_hash(self.lines[-1]) if self.lines else GENESIS

    def append(self, start, given):
        """Take what is new; everything that overlaps must be the same. Returns the number of new lines."""
        if start > len(self.lines):
            raise Refused(3, f"lines {len(self.lines)} to {start - 1} are missing here; send from line {len(self.lines)}")
        known = self.lines[start:]
        for offset, line in enumerate(given[: len(known)]):
            if line != known[offset]:
                raise Refused(3, f"line {start + offset + 1} differs from the one that is stored; it will not be rewritten")
        fresh = given[len(known) :]
        prev = self.head
        for offset, line in enumerate(fresh):
            prev = check_next(line, prev, len(self.lines) + offset)
        if fresh:
            self.write(b"".join(line + b"\n" for line in fresh))
            self.lines += fresh
        return len(fresh)

    def write(self, data):
        """All of it, synced, or none of it."""
        end = os.lseek(self.fd, 0, os.SEEK_END)
        try:
            while data:
                data = data[os.write(self.fd, data) :]
            os.fsync(self.fd)
        except OSError as exc:
            os.ftruncate(self.fd, end)
            raise Refused(4, f"the vault cannot write: {exc.strerror}") from None
        directory = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def keep_head(self, head, signature):
        """A signed head as it came. Each is kept, so that heads of different times can be compared with the ledger."""
        received = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        record = {"received": received, "lines": len(self.lines), "head": head, "signature": signature}
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(os.path.join(self.directory, "heads.jsonl"), flags, 0o600)
        try:
            os.write(fd, json.dumps(record, sort_keys=True).encode("utf-8") + b"\n")
            os.fsync(fd)
        finally:
            os.close(fd)


def parse_header(line):
    try:
        header = json.loads(line.decode("utf-8"))
    except ValueError:
        raise Refused(2, "the first line is no JSON header") from None
    if not isinstance(header, dict) or header.get("op") not in ("append", "head"):
        raise Refused(2, "op is missing; expected append or head")
    if not isinstance(header.get("estate"), str) or not NAME.match(header["estate"]):
        raise Refused(2, "estate is missing or no plain name")
    start = header.get("from_line", 0)
    if isinstance(start, bool) or not isinstance(start, int) or start < 0:
        raise Refused(2, "from_line is no number of lines")
    return header


def serve(base, stream):
    """The answer to one call."""
    first = stream.readline(LINE_LIMIT)
    if not first.endswith(b"\n"):
        raise Refused(2, "the input ended before the header")
    header = parse_header(first[:-1])
    given = read_lines(stream) if header["op"] == "append" else []
    if given and given[-1] is None:
        raise Refused(2, "the input ended in the middle of a line; nothing was kept")
    if "line_count" in header and header["line_count"] != len(given):
        raise Refused(2, f"{len(given)} lines came, {header['line_count']} were announced; nothing was kept")
    with Store(base, header["estate"]) as store:
        added = 0
        if header["op"] == "append":
            added = store.append(header.get("from_line", 0), given)
            if header.get("head_signature"):
                store.keep_head(header.get("head"), header["head_signature"])
        return {"ok": True, "lines": len(store.lines), "head": store.head, "added": added, "repaired": store.repaired}


def main(argv):
    if len(argv) != 2 or not os.path.isabs(argv[1]):
        sys.stderr.write("usage: ledger_receiver.py /absolute/base/directory\n")
        return 2
    os.umask(0o077)
    code = 0
    try:
        answer = serve(argv[1], sys.stdin.buffer)
    except Refused as exc:
        answer, code = {"ok": False, "error": str(exc)}, exc.code
    except OSError as exc:
        answer, code = {"ok": False, "error": f"the vault's own trouble: {exc.strerror}"}, 4
    sys.stdout.write(json.dumps(answer, sort_keys=True) + "\n")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv))
