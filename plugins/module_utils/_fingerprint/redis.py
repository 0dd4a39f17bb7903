# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Redis' half of the fingerprint, and a session that speaks its protocol over a socket: no client is needed on the host.

What is hashed is the content of a key, never its DUMP: the same set is laid out otherwise in every server's memory. Keys that
expire are counted apart, for they may vanish while nobody writes.
"""

import hashlib
import socket as sockets
from typing import Any, Dict, List, Optional  # noqa: F401

from ansible_collections.sunset.crm.plugins.module_utils._canonical import digest
from ansible_collections.sunset.crm.plugins.module_utils._database.sqlclient import SqlError

EXACT, COARSE = "content and expiry", "content"
# A proof puts keys back with their expiry this much later (milliseconds), so that none vanishes before it was compared.
SHIFT = 10**14
TIMEOUT = 120.0
TYPES = ("string", "list", "set", "zset", "hash", "stream")
_WORD = 1 << 128


class RedisError(SqlError):
    """The server's own refusal."""


class RedisSession(object):
    engine = "redis"

    def __init__(self, port=None, socket=None, password=None):
        self.place = socket or "127.0.0.1:{0}".format(port or 6379)
        try:
            if socket:
                self._socket = sockets.socket(sockets.AF_UNIX)
                self._socket.settimeout(TIMEOUT)
                self._socket.connect(socket)
            else:
                self._socket = sockets.create_connection(("127.0.0.1", int(port or 6379)), TIMEOUT)
            self._stream = self._socket.makefile("rb")
        except OSError as error:
            raise SqlError("Redis at {0} does not answer: {1}".format(self.place, error))
        try:
            if password is not None:
                self.call("AUTH", password)
            self.server = self.info("server")
        except Exception:
            self.close()
            raise

    def call(self, *words):
        """One command. Numbers and text are sent as UTF-8; bulk answers come as bytes."""
        parts = [one if isinstance(one, bytes) else str(one).encode("utf-8") for one in words]
        message = b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(one), one) for one in parts)
        try:
            self._socket.sendall(message)
            return self._answer(words[0])
        except OSError as error:
            raise SqlError("the connection to Redis at {0} broke: {1}".format(self.place, error))

    def _answer(self, command):
        line = self._stream.readline()
        if not line.endswith(b"\r\n"):
            raise SqlError("Redis at {0} closed the connection".format(self.place))
        kind, rest = line[:1], line[1:-2]
        if kind == b"-":
            raise RedisError("Redis at {0} refused {1}: {2}".format(self.place, command, rest.decode("utf-8", "replace")))
        if kind == b"+":
            return rest
        if kind == b":":
            return int(rest)
        if kind == b"$":
            return None if rest == b"-1" else self._read(int(rest))
        if kind == b"*":
            return None if rest == b"-1" else self._answers(int(rest), command)
        raise SqlError("{0} does not speak Redis' protocol".format(self.place))

    def _answers(self, count, command):
        found, refusal = [], None
        for _number in range(count):
            try:
                found.append(self._answer(command))
            except RedisError as error:  # the rest of the answer must be read before anything else is asked
                refusal = error
        if refusal:
            raise refusal
        return found

    def _read(self, size):
        data = self._stream.read(size + 2)
        if len(data) != size + 2:
            raise SqlError("Redis at {0} closed the connection".format(self.place))
        return data[:-2]

    def info(self, section):
        text = self.call("INFO", section).decode("utf-8", "replace")
        return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)

    @property
    def version(self):
        return self.server.get("valkey_version") or self.server.get("redis_version") or ""

    @property
    def major(self):
        number = self.server.get("redis_version", "0").split(".")[0]
        return int(number) if number.isdigit() else 0

    def databases(self):
        """Numbers of the databases that hold keys."""
        return sorted(int(name[2:]) for name in self.info("keyspace") if name.startswith("db") and name[2:].isdigit())

    def lines(self, command):
        return self.call(*command.split())

    def close(self):
        stream = getattr(self, "_stream", None)
        if stream:
            stream.close()
        self._socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_exception):
        self.close()


def keys(session):
    """Every key of the database that is selected, once: SCAN may name one twice while a table grows."""
    seen, cursor = set(), b"0"
    while True:
        cursor, names = session.call("SCAN", cursor, "COUNT", 500)
        for name in names:
            mark = hashlib.sha256(name).digest()[:12]
            if mark not in seen:
                seen.add(mark)
                yield name
        if cursor == b"0":
            return


def expiry(session, key):
    """Milliseconds since 1970, None if it does not expire, 0 if the key is gone. Before version 7 this is right to about a millisecond."""
    if session.major >= 7:
        when = session.call("PEXPIRETIME", key)
    else:
        left = session.call("PTTL", key)
        seconds, micros = session.call("TIME")
        when = left if left < 0 else int(seconds) * 1000 + int(micros) // 1000 + left
    return {-1: None, -2: 0}.get(when, when)


def fold(value):
    """Nested answers as bytes that cannot be mistaken for another nesting."""
    if value is None:
        return b"n"
    if isinstance(value, bytes):
        return b"b%d:" % len(value) + value
    if isinstance(value, int):
        return b"i%d;" % value
    return b"l%d:" % len(value) + b"".join(fold(one) for one in value)


def pairs(flat):
    return [[flat[at], flat[at + 1]] for at in range(0, len(flat), 2)]


def content(session, key, kind):
    """(what the key holds, free of the server's memory layout; how many entries). None if it is gone."""
    if kind == "string":
        value = session.call("GET", key)
        return value, 1
    if kind == "list":
        value = session.call("LRANGE", key, 0, -1)
    elif kind == "set":
        value = sorted(session.call("SMEMBERS", key))
    elif kind == "hash":
        value = sorted(pairs(session.call("HGETALL", key)))
    elif kind == "zset":
        value = sorted(pairs(session.call("ZRANGE", key, 0, -1, "WITHSCORES")))
    elif kind == "stream":
        return stream(session, key)
    else:
        raise ValueError("a key is of the type {0!r}, which a module of this server brings; it cannot be compared".format(kind))
    return value, len(value)


def stream(session, key):
    """Entries, groups and what is delivered but not acknowledged; not how the server keeps them."""
    if session.major < 6:
        raise ValueError("this Redis {0} holds streams; only version 6 and later shows them whole".format(session.version))
    try:
        told = dict(pairs(session.call("XINFO", "STREAM", key, "FULL", "COUNT", 0)))
    except RedisError as error:
        if "no such key" in str(error):
            return None, 0
        raise
    try:
        groups = [stream_group(dict(pairs(one))) for one in told[b"groups"]]
        return [told[b"length"], told[b"last-generated-id"], told[b"entries"], sorted(groups)], told[b"length"]
    except KeyError as error:
        raise ValueError("this Redis {0} describes a stream without {1}; it cannot be compared".format(session.version, error))


def stream_group(facts):
    consumers = [[one[b"name"], pending(one)] for one in (dict(pairs(row)) for row in facts[b"consumers"])]
    return [facts[b"name"], facts[b"last-delivered-id"], pending(facts), sorted(consumers)]


def pending(facts):
    """Delivered and not acknowledged: "pending" up to Redis 7.0, "pel" in its documentation and in other versions."""
    return sorted(facts[b"pending"] if b"pending" in facts else facts[b"pel"])


def queues():
    return dict.fromkeys(("lists", "list_entries", "streams", "stream_entries", "sorted_sets", "sorted_set_members"), 0)


_QUEUE = {"list": ("lists", "list_entries"), "stream": ("streams", "stream_entries"), "zset": ("sorted_sets", "sorted_set_members")}


def walk(session, method, each=None, progress=None):
    """Read every key of every database once. each(number, key, kind, expiry, length) may keep it. -> (tables, queues)"""
    found = {}  # type: Dict[str, List[int]]
    lengths, done = queues(), 0
    for number in session.databases():
        session.call("SELECT", number)
        for key in keys(session):
            kind = session.call("TYPE", key).decode("ascii", "replace")
            when = expiry(session, key)
            held, length = (None, 0) if kind == "none" or when == 0 else content(session, key, kind)
            if held is None:
                continue  # it expired
            if each and not each(number, key, kind, when, length):
                continue
            if when and when > SHIFT:
                when -= SHIFT
            told = fold([kind.encode("ascii"), key, held, b"yes" if when and method == COARSE else when])
            name = "db{0}{1}".format(number, " expiring" if when else "")
            entry = found.setdefault(name, [0, 0])
            entry[0] += 1
            entry[1] += int.from_bytes(hashlib.sha256(told).digest()[:16], "big")
            for counter, amount in zip(_QUEUE.get(kind, ()), (1, length)):
                lengths[counter] += amount
            done += 1
            if progress and done % 500 == 0:
                progress(done, 0)
    tables = {name: {"rows": entry[0], "hash": "{0:032x}".format(entry[1] % _WORD)} for name, entry in found.items()}
    return tables, lengths


def method_of(session):
    return EXACT if session.major >= 7 else COARSE


def take(session, database, method=None, progress=None, each=None):
    if method not in (None, EXACT, COARSE):
        raise ValueError("method is {0!r}; Redis fingerprints are taken with {1!r} or {2!r}".format(method, EXACT, COARSE))
    method = method or method_of(session)
    if method == EXACT and session.major < 7:
        raise ValueError("the source's expiry times are exact, and Redis {0} cannot show them so; use version 7".format(session.version))
    tables, lengths = walk(session, method, each, progress)
    return {
        "version": session.version,
        "method": method,
        "tables": tables,
        "derived": {},
        "catalogue": {"function": functions(session)},
        "globals": {},
        "notes": {"queues": lengths},
    }


def functions(session):
    """{library: digest of its code}; they came with version 7."""
    if session.major < 7:
        return {}
    found = {}
    for row in session.call("FUNCTION", "LIST", "WITHCODE"):
        facts = dict(pairs(row))
        found[facts[b"library_name"].decode("utf-8", "replace")] = digest([facts[b"library_code"].decode("utf-8", "surrogateescape")])[:32]
    return found
