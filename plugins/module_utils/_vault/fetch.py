# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One artefact on its way from the host into the package: small, in segments, or straight from its source.

Private to the collection. Valid for Python 3.6, standard library. Which ones are fetched is decided in _vault.pull.
"""

import contextlib
import os
import time
from typing import Any, Dict, List, Tuple  # noqa: F401

from ansible_collections.sunset.crm.plugins.module_utils._vault import (
    pipe as vault_pipe,
    segments as vault_segments,
    stream as vault_stream,
)
from ansible_collections.sunset.crm.plugins.module_utils._vault.source import Connection, trailer_of
from ansible_collections.sunset.crm.plugins.module_utils._vault.state import Package, VaultError, item_slug, sync_directory  # noqa: F401

KEPT = ("name", "file", "role", "sha256", "bytes", "plain_sha256", "plain_bytes", "direct", "of", "estimate", "identity")
# The reader's exit code for a file that was written to while it was read: what came is of no file that ever was.
CHANGED = 4
LEFT = ".left"


class Puller(object):
    """Fetches artefacts of one data set over one pinned connection each. record: _vault.pull.Record, which is told of each segment."""

    def __init__(self, package, item, identity, source, rate, stall, rec):
        # type: (Package, str, str, Dict[str, Any], int, float, Any) -> None
        self.package, self.item, self.rate, self.stall, self.rec = package, item, rate, stall, rec
        self.folder, self.identity = package.folder(item), identity
        known_hosts = os.path.join(package.live, "%s.%s.known_hosts" % (package.name, item_slug(item)))
        self.done, self.left = {}, {}  # type: Dict[str, List[str]], Dict[str, List[str]]
        # What this run has read from the disk to its end: {file: (digest, size) of the ciphertext}.
        self.proven = {}  # type: Dict[str, Tuple[str, int]]
        self.connection = Connection(source, package.pull_key, known_hosts, rec)

    def fetch(self, artefact, recipient, record):
        # type: (Dict[str, Any], str, Any) -> Dict[str, Any]
        """One artefact, whole: its entry for the record."""
        found = self.connection.size(artefact["source_path"])
        if artefact.get("direct"):
            return self.fetch_direct(artefact, recipient)
        if found != artefact["bytes"]:
            raise VaultError(
                "%s on %s has %d bytes; the ledger says %d; it was changed after the dump, make the dump again"
                % (artefact["source_path"], self.connection.where, found, artefact["bytes"])
            )
        if artefact["bytes"] > vault_segments.SMALLEST:
            return self.fetch_segments(artefact, recipient, record)
        target = os.path.join(self.folder, artefact["file"] + ".age")
        argv = self.connection.argv("read", artefact["source_path"], "0")
        facts = vault_stream.encrypt_to_file(argv, recipient, target, self.rate, self.stall)
        if (facts["sha256"], facts["bytes"]) != (artefact["sha256"], artefact["bytes"]):
            os.unlink(target + ".part")
            raise other_content(artefact, facts["sha256"], facts["bytes"])
        vault_stream.publish(target)
        self.rec.note(act="pulled and encrypted", artefact=artefact["name"], **facts)
        return dict(kept_of(artefact), cipher_sha256=facts["cipher_sha256"], cipher_bytes=facts["cipher_bytes"])

    def fetch_segments(self, artefact, recipient, record):
        # type: (Dict[str, Any], str, Any) -> Dict[str, Any]
        """What an interrupted run left and is whole stays; the rest comes in one stream.

        The digest over the whole is that of what came (and of what kept segments hold, decrypted), each segment's that of its file.
        """
        began = time.monotonic()
        segments, whole = self.whole_segments(artefact, record)
        kept, synced = whole.bytes, time.monotonic()

        def keep(segment):
            # type: (Dict[str, Any]) -> None
            self.proven[segment["file"]] = (segment["cipher_sha256"], segment["cipher_bytes"])
            segments.append(segment)
            record.keep(artefact, segments)

        size = vault_segments.segment_size(artefact["bytes"])
        if kept < artefact["bytes"]:
            cutter = vault_segments.Cutter(self.folder, artefact["file"], len(segments) + 1, size, recipient, whole, keep)
            stream = None
            try:
                kept += self.salvage(artefact, cutter, size)
                stream = self.connection.read(artefact["source_path"], kept, self.stall)
                for block in stream.blocks(self.rate):
                    cutter.take(block)
                stream.require_good_end()
                cutter.end()
                synced = cutter.synced
            except vault_pipe.SourceFailed as exc:
                # What came over a connection that was cut is whole as far as it came: the piece ends where it ended.
                cutter.end(worth=vault_segments.WORTH)
                if exc.result.get("code") == CHANGED:
                    self.forget(artefact, segments, record)
                raise
            finally:
                if stream is not None:
                    stream.close()
                cutter.abandon()
        sha256, count = whole.facts()
        if (sha256, count) != (artefact["sha256"], artefact["bytes"]):
            self.forget(artefact, segments, record)
            raise other_content(artefact, sha256, count)
        sync_directory(self.folder)
        facts = {"sha256": sha256, "bytes": count, "kept": kept, "segments": len(segments)}
        times = {"seconds": round(synced - began, 3), "read_back_seconds": round(time.monotonic() - synced, 3)}
        self.rec.note(act="pulled and encrypted", artefact=artefact["name"], **dict(facts, **times))
        return dict(kept_of(artefact), segments=segments)

    def set_aside(self, artefact, record):
        # type: (Dict[str, Any], Any) -> List[str]
        """What a killed run has left behind the recorded segments: finished ones that were not read back yet, then unfinished ones."""
        file, number = artefact["file"], len(record.segments(artefact)) + 1
        done, left = [], []  # type: List[str], List[str]
        self.done[file], self.left[file] = done, left
        while file in record.partial:  # else they may be of another artefact
            name = vault_segments.segment_name(file, number)
            path = os.path.join(self.folder, name)
            here = [path + ending for ending in (LEFT, ".part", "") if os.path.exists(path + ending)]
            if not here:
                break
            if here == [path] and not left:
                done.append(name)
            else:
                if not here[0].endswith(LEFT):
                    os.rename(here[0], path + LEFT)
                left.append(path + LEFT)
            number += 1
        return done + [os.path.basename(path) for path in left]

    def salvage(self, artefact, cutter, size):
        # type: (Dict[str, Any], vault_segments.Cutter, int) -> int
        """Put what unfinished segments hold into new ones; how many bytes that was.

        age gives out nothing of a file that it has not authenticated, so what it gives before the end that is missing is right.
        """
        trouble = []  # type: List[BaseException]
        count = [0]

        def take(block):
            # type: (bytes) -> None
            try:
                cutter.take(block)
            except BaseException as exc:
                trouble.append(exc)
                raise
            count[0] += len(block)

        joined = True
        for path in self.left.get(artefact["file"], []):
            held = count[0]
            try:
                if joined:
                    vault_stream.decrypt_parts([{"path": path}], self.identity, None, take, digest=False)
            except VaultError:
                if trouble:
                    raise  # on our side; that the file was cut somewhere is why it is here
            joined = joined and count[0] - held == size
            os.unlink(path)
        return count[0]

    def whole_segments(self, artefact, record):
        # type: (Dict[str, Any], Any) -> Tuple[List[Dict[str, Any]], vault_pipe.Counted]
        """The first of those that are still what was recorded, and finished ones behind them, in their order; the digest over them.

        What lies behind the first that is not whole goes: it would stand at another place of the stream.
        """
        known = record.segments(artefact)
        found = list(known) + [{"file": name} for name in self.done.get(artefact["file"], [])]
        whole, good = vault_pipe.Counted(), []  # type: vault_pipe.Counted, List[Dict[str, Any]]
        for segment in found:
            trial = whole.copy()
            try:
                segment = vault_segments.read_back(self.folder, segment, self.identity, trial)
            except VaultError:
                break
            whole = trial
            good.append(segment)
            self.proven[segment["file"]] = (segment["cipher_sha256"], segment["cipher_bytes"])
        if len(good) < len(found):
            for path in [os.path.join(self.folder, one["file"]) for one in found[len(good) :]] + self.left.pop(artefact["file"], []):
                if os.path.exists(path):
                    os.unlink(path)
        if good != known or artefact["file"] not in record.partial:
            record.keep(artefact, list(good))  # from here on unfinished segments are known to be of this artefact
        return good, whole

    def forget(self, artefact, segments, record):
        # type: (Dict[str, Any], List[Dict[str, Any]], Any) -> None
        record.drop(artefact)
        for segment in segments:
            os.unlink(os.path.join(self.folder, segment["file"]))

    def fetch_direct(self, artefact, recipient):
        # type: (Dict[str, Any], str) -> Dict[str, Any]
        """A stream that the source makes now. It cannot be made twice alike, so an interrupted one starts again."""
        segments, whole = [], vault_pipe.Counted()  # type: List[Dict[str, Any]], vault_pipe.Counted

        def keep(segment):
            # type: (Dict[str, Any]) -> None
            self.proven[segment["file"]] = (segment["cipher_sha256"], segment["cipher_bytes"])
            segments.append(segment)

        size = vault_segments.segment_size(artefact["estimate"])
        cutter = vault_segments.Cutter(self.folder, artefact["file"], 1, size, recipient, whole, keep)
        stream = self.connection.make(artefact["source_path"], self.stall)
        try:
            try:
                for block in stream.blocks(self.rate):
                    cutter.take(block)
                code = stream.child.wait()
                told = trailer_of(stream)
            finally:
                stream.close()
            if code != 0 or told.get("ok") is not True:
                raise VaultError(
                    "%s did not give a whole %s (exit code %d after %d bytes): %s; nothing was kept"
                    % (self.connection.where, artefact["name"], code, stream.taken, told.get("error")),
                    verdict="unknown",
                )
            cutter.end()
            sha256, count = whole.facts()
            if (sha256, count) != (told.get("sha256"), told.get("bytes")):
                raise VaultError(
                    "%s arrived with sha256 %s and %d bytes; its source says %s and %s; nothing was kept, run the same command again"
                    % (artefact["name"], sha256, count, told.get("sha256"), told.get("bytes"))
                )
            if told.get("of") != artefact["of"]:
                raise VaultError(
                    "%s is a copy of other content than was looked at before (%s, the ledger says %s); nothing was kept; stop what "
                    "writes there and make the dump again" % (artefact["name"], told.get("of"), artefact["of"])
                )
        except BaseException:
            cutter.abandon()
            for number in range(1, cutter.number):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(os.path.join(self.folder, vault_segments.segment_name(artefact["file"], number)))
            raise
        sync_directory(self.folder)
        self.rec.note(act="pulled straight from its source and encrypted", artefact=artefact["name"], segments=len(segments), **told)
        told = {key: told[key] for key in ("sha256", "bytes", "plain_sha256", "plain_bytes")}
        return dict(kept_of(artefact), segments=segments, **told)


def kept_of(artefact):
    # type: (Dict[str, Any]) -> Dict[str, Any]
    return {key: artefact[key] for key in KEPT if key in artefact}


def other_content(artefact, sha256, count):
    # type: (Dict[str, Any], str, int) -> VaultError
    return VaultError(
        "%s arrived with sha256 %s and %d bytes; the ledger says %s and %d; nothing was kept; if it was changed on the host, make "
        "the dump again" % (artefact["name"], sha256, count, artefact["sha256"], artefact["bytes"]),
        artefact=artefact["name"],
    )
