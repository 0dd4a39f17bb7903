# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A throw-away Redis for a proof: one unix socket, no network, nothing written to disk.

Private to the collection. Valid for Python 3.6, standard library.
"""

import base64
import json
import os
import signal
from typing import Any, Dict, List, Tuple  # noqa: F401

from ansible_collections.sunset.crm.plugins.module_utils._database import sqlclient as database_sqlclient
from ansible_collections.sunset.crm.plugins.module_utils._dump import redis as dump_redis
from ansible_collections.sunset.crm.plugins.module_utils._fingerprint import redis as fingerprint_redis
from ansible_collections.sunset.crm.plugins.module_utils._proof.scratch import Scratch, stop_server  # noqa: F401
from ansible_collections.sunset.crm.plugins.module_utils._vault.state import VaultError

SERVERS = ("redis-server", "valkey-server", "keydb-server")
PLACES = ("/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin")
SETTINGS = (
    ("port", "0"),
    ("unixsocketperm", "700"),
    ("save", ""),
    ("appendonly", "no"),
    ("daemonize", "no"),
    ("maxmemory", "0"),
    ("logfile", ""),
    ("pidfile", ""),
)


def space_needed(plain_bytes):
    # type: (int) -> int
    """The keys live in the server's own memory, which a scratch in memory shares."""
    return 2 * plain_bytes + (64 << 20)


def find(places=PLACES):
    # type: (Any) -> str
    for name in SERVERS:
        for place in places:
            if os.access(os.path.join(place, name), os.X_OK):
                return os.path.join(place, name)
    raise VaultError("this vault has none of %s; install redis-server on the vault" % ", ".join(SERVERS), verdict="unknown")


class Restore(object):
    """Takes the stream line by line and puts each key back. Its expiry is moved far away, so that the comparison sees the key."""

    def __init__(self, session):
        # type: (Any) -> None
        self.session, self.rest = session, []  # type: Any, List[bytes]
        self.keys, self.database, self.ended, self.begun = 0, -1, False, False

    def __call__(self, block):
        # type: (bytes) -> None
        while True:
            at = block.find(b"\n")
            if at < 0:
                break
            self.take(b"".join(self.rest) + block[:at])
            self.rest, block = [], block[at + 1 :]
        if block:
            self.rest.append(block)

    def take(self, line):
        # type: (bytes) -> None
        try:
            value = json.loads(line.decode("ascii"))
            if self.ended:
                raise VaultError("the dump goes on behind its end; make it again")
            if not self.begun:
                if value.get("format") != dump_redis.FORMAT:
                    raise VaultError("the dump has the format %r; expected %s" % (value.get("format"), dump_redis.FORMAT), "unknown")
                self.begun = True
            elif "end" in value:
                if value["keys"] != self.keys:
                    raise VaultError("the dump ends after %d keys; it was written with %d" % (self.keys, value["keys"]))
                self.ended = True
            elif "functions" in value:
                self.session.call("FUNCTION", "RESTORE", base64.b64decode(value["functions"]))
            else:
                self.key(value)
        except (ValueError, KeyError, AttributeError, TypeError):
            raise VaultError("the dump holds a line that is none of a Redis dump; make it again", verdict="unknown")
        except database_sqlclient.SqlError as exc:
            raise VaultError("a key could not be put back: %s" % exc, verdict="unknown")

    def key(self, value):
        # type: (Dict[str, Any]) -> None
        if value["db"] != self.database:
            self.session.call("SELECT", value["db"])
            self.database = value["db"]
        payload, when = base64.b64decode(value["dump"]), value["expires"]
        ending = [when + fingerprint_redis.SHIFT, payload, "ABSTTL"] if when else [0, payload]
        self.session.call("RESTORE", base64.b64decode(value["key"]), *ending)
        self.keys += 1

    def finish(self):
        # type: () -> None
        if not self.ended:
            raise VaultError("the dump has no end: %d keys, then nothing; make it again" % self.keys)

    def abandon(self):
        # type: () -> None
        pass


class Redis(object):
    engine = "redis"
    passes_globals = ()  # type: Tuple[str, ...]

    def __init__(self, scratch, source):
        # type: (Scratch, Dict[str, Any]) -> None
        self.scratch, self.source, self.daemon = scratch, source, find()
        self.not_restored = []  # type: List[str]
        self.set_again = []  # type: List[str]

    def __enter__(self):
        # type: () -> Redis
        self.socket = os.path.join(self.scratch.sub("s"), "r")
        argv = [self.daemon, "--dir", self.scratch.path, "--unixsocket", self.socket]
        argv += ["--databases", str(max(16, int(self.source.get("databases") or 16)))]
        for name, value in SETTINGS:
            argv += ["--" + name, value]
        self.child = self.scratch.server(argv, self.ready, signal.SIGKILL)
        try:
            self.session = fingerprint_redis.RedisSession(socket=self.socket)
            self.check_version()
        except (VaultError, database_sqlclient.SqlError) as exc:
            stop_server(self.child, signal.SIGKILL)
            raise exc if isinstance(exc, VaultError) else VaultError("the throw-away Redis: %s" % exc, verdict="unknown")
        return self

    def __exit__(self, *_exc):
        # type: (*Any) -> None
        self.session.close()
        stop_server(self.child, signal.SIGKILL)

    def ready(self):
        # type: () -> bool
        try:
            with fingerprint_redis.RedisSession(socket=self.socket) as session:
                return bool(session.call("PING") == b"PONG")
        except database_sqlclient.SqlError:
            return False

    def check_version(self):
        # type: () -> None
        """The number of the dump's own format decides, not the product's: an older one cannot read it."""
        self.session.call("SET", "sunset", "1")
        here = dump_redis.rdb_version(self.session.call("DUMP", "sunset"))
        self.session.call("DEL", "sunset")
        theirs = int(self.source.get("rdb_version") or 0)
        if theirs > here:
            raise VaultError(
                "the source's Redis %s writes the dump format %d; this vault's %s reads up to %d; install that version or a newer one on "
                "the vault" % (self.source.get("version"), theirs, self.session.version, here),
                verdict="unknown",
            )

    def load_globals(self, text):
        # type: (bytes) -> None
        raise VaultError("a Redis copy has no globals; the package holds an artefact that it should not")

    def loaded(self, _database):
        # type: (str) -> int
        """There are no accounts and no grants to put back after the data."""
        return 0

    def feed(self, _wanted):
        # type: (Dict[str, Any]) -> Restore
        return Restore(self.session)

    def session_arguments(self, database):
        # type: (str) -> Dict[str, Any]
        """For _fingerprint.engines.open_session."""
        return {"database": database, "socket": self.socket}
