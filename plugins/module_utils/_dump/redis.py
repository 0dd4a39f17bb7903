# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Redis: how its keys are read at the source. One JSON line a key, its DUMP as base64, so that a queue can also be read by eye.

The password comes from the server's own configuration on this host, or from a file that only root reads; it goes through the
socket and nowhere else.
"""

import base64
import glob
import json
import os
import shlex
import stat
from typing import Any, Dict, List  # noqa: F401

from ansible_collections.sunset.crm.plugins.module_utils import _canonical
from ansible_collections.sunset.crm.plugins.module_utils._database import sqlclient as database_sqlclient
from ansible_collections.sunset.crm.plugins.module_utils._fingerprint import engines as fingerprint_engines, redis as fingerprint_redis

FORMAT = "sunset-redis-1"
CONFIGS = ("/etc/redis/redis.conf", "/etc/redis.conf", "/etc/valkey/valkey.conf", "/etc/redis/default.conf.d/redis.conf")


def directives(path, depth=8):
    """{directive: last value} of a configuration with what it includes. Raises SqlError where it cannot be read."""
    found = {}  # type: Dict[str, List[str]]
    try:
        with open(path, "rb") as stream:
            lines = stream.read().decode("utf-8", "surrogateescape").splitlines()
    except OSError as error:
        raise database_sqlclient.SqlError("{0} cannot be read: {1}".format(path, error.strerror))
    for line in lines:
        try:
            words = shlex.split(line.strip()) if line.strip() and not line.lstrip().startswith("#") else []
        except ValueError:
            continue  # a quote of some other directive that is not closed
        if len(words) < 2:
            continue
        if words[0].lower() == "include" and depth:
            for included in sorted(glob.glob(words[1])):
                found.update(directives(included, depth - 1))
        else:
            found[words[0].lower()] = words[1:]
    return found


def password(config, password_file):
    """The password, or None where the server wants none as far as its configuration says."""
    if password_file:
        try:
            found = os.lstat(password_file)
        except OSError as error:
            raise database_sqlclient.SqlError("password_file {0}: {1}".format(password_file, error.strerror))
        if not stat.S_ISREG(found.st_mode) or stat.S_IMODE(found.st_mode) & 0o077 or found.st_uid != os.geteuid():
            raise database_sqlclient.SqlError(
                "password_file {0} has mode {1:o} and owner {2}; expected a regular file of mode 600 that belongs to {3}".format(
                    password_file, stat.S_IMODE(found.st_mode), found.st_uid, os.geteuid()
                )
            )
        with open(password_file, "rb") as stream:
            return stream.read().rstrip(b"\r\n")
    path = config or next((one for one in CONFIGS if os.path.exists(one)), None)
    words = directives(path).get("requirepass") if path else None
    return words[0].encode("utf-8", "surrogateescape") if words and words[0] else None


def open_source(spec):
    word = password(spec.get("config"), spec.get("password_file"))
    try:
        return fingerprint_redis.RedisSession(port=spec.get("port"), socket=spec.get("socket"), password=word)
    except fingerprint_redis.RedisError as error:
        if "NOAUTH" in str(error) or "WRONGPASS" in str(error):
            raise database_sqlclient.SqlError(
                "{0}. The item's config (its requirepass) or password_file must give the password of the account default".format(error)
            )
        raise


def server_problem(server, replication):
    """Why this server cannot be the source; None if it can. Pure."""
    mode = server.get("redis_mode", "standalone")
    if mode != "standalone":
        return "the server runs in {0} mode, which this collection does not keep: its keys lie on several servers".format(mode)
    if replication.get("role") != "master":
        return "the server is a replica of {0}:{1}; a replica may lag behind: declare its primary".format(
            replication.get("master_host", "another"), replication.get("master_port", "?")
        )
    return None


def folder(session):
    """The directory that the server writes to; None if it does not tell."""
    try:
        told = session.call("CONFIG", "GET", "dir")
    except fingerprint_redis.RedisError:
        return None
    return os.fsdecode(told[1]) if told else None


def identity(session):
    """Stable over restarts: run_id is not."""
    place = folder(session)
    known = {"port": int(session.server.get("tcp_port", 0)), "config_file": session.server.get("config_file", ""), "dir": place}
    if place and os.path.isdir(place):
        known["inode"] = os.stat(place).st_ino
    return known


def specification(spec):
    """For _database.server: (spec of the job, bytes that the staging must hold)."""
    if spec["database"] != "all":
        raise database_sqlclient.SqlError("database is {0!r}; a Redis server is copied whole: expected 'all'".format(spec["database"]))
    with open_source(spec) as session:
        problem = server_problem(session.server, session.info("replication"))
        if problem:
            raise database_sqlclient.SqlError(problem)
        if session.info("persistence").get("loading") == "1":
            raise database_sqlclient.SqlError("the server is still loading its data; run the same command again when it has")
        for words in (("SCAN", "0", "COUNT", "1"), ("DUMP", "sunset"), ("TYPE", "sunset")):
            session.call(*words)  # an account without the right, or a command that was renamed, is refused here by name
        spec["identity"] = identity(session)
        spec["versions"] = {"redis": session.version}
        used = int(session.info("memory").get("used_memory", 0))
    spec["client"] = None
    return spec, 3 * used  # the spool and the stream, in base64


def line(value):
    return json.dumps(value, sort_keys=True).encode("ascii") + b"\n"


def text(data):
    return base64.b64encode(data).decode("ascii")


def rdb_version(payload):
    """DUMP ends in two bytes of format version and eight of checksum."""
    return int.from_bytes(payload[-10:-8], "little")


def spool(session, out, progress):
    """Write the whole dump to `out` and return its fingerprint: one reading for both."""
    seen = {"keys": 0, "rdb": 0}

    def each(number, key, kind, when, length):
        payload = session.call("DUMP", key)
        if payload is None:
            return False
        seen["rdb"] = rdb_version(payload)
        seen["keys"] += 1
        out.write(line({"db": number, "key": text(key), "type": kind, "expires": when, "length": length, "dump": text(payload)}))
        return True

    out.write(line({"format": FORMAT, "version": session.version}))
    found = fingerprint_redis.take(session, "all", progress=progress, each=each)
    if found["catalogue"]["function"]:
        out.write(line({"functions": text(session.call("FUNCTION", "DUMP"))}))
    out.write(line({"end": True, "keys": seen["keys"]}))
    out.flush()
    found["notes"]["rdb_version"] = seen["rdb"]
    found.update(schema=fingerprint_engines.SCHEMAS["redis"], engine="redis", database="all")
    return found


def lasting(found):
    return {name: entry for name, entry in found["tables"].items() if not name.endswith(" expiring")}


def changed(before, after):
    """Databases (and functions) whose lasting keys differ."""
    left, right = lasting(before), lasting(after)
    names = [name for name in sorted(set(left) | set(right)) if left.get(name) != right.get(name)]
    return names + (["functions"] if before["catalogue"] != after["catalogue"] else [])


def databases(found):
    """How many databases a server must have to take the keys back: they are counted from 0, and a new server has 16."""
    return max([int(name.split(" ")[0][len("db") :]) + 1 for name in found["tables"]] or [1])


def lasting_digest(found):
    return _canonical.digest([lasting(found), found["catalogue"], found["method"]])


def unchanged(spec, record):
    """By the keys that last: one that expired meanwhile is no change that somebody made."""
    if record["source"].get("identity") != spec["identity"]:
        return False
    with open_source(spec) as session:
        found = fingerprint_engines.take("redis", session, spec["database"], method=record["source"].get("method"))
    return lasting_digest(found) == record["source"].get("lasting_sha256")
