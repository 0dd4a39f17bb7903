# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A throw-away MariaDB server for a proof: one unix socket, no network, no event scheduler, no binary log.

Private to the collection. Valid for Python 3.6, standard library.
"""

import contextlib
import os
import re
import signal
import subprocess
from typing import Any, Callable, Dict, Iterable, List, Optional, Set, Tuple  # noqa: F401

from ansible_collections.sunset.crm.plugins.module_utils._proof.scratch import Feed, Scratch, stop_server  # noqa: F401
from ansible_collections.sunset.crm.plugins.module_utils._vault.state import VaultError
from ansible_collections.sunset.crm.plugins.module_utils._vault.stream import clean_environment

# The source's accounts may change root's way of logging in; this one is in no source.
ACCOUNT = "sunset_proof"
BASE_BYTES = 192 << 20
SETTINGS = [
    "--skip-networking",
    "--skip-log-bin",
    "--skip-slave-start",
    "--event-scheduler=OFF",
    "--performance-schema=OFF",
    "--innodb-flush-log-at-trx-commit=0",
    "--innodb-doublewrite=0",
    "--innodb-use-native-aio=0",
    "--innodb-buffer-pool-size=128M",
    "--innodb-strict-mode=0",
    "--max-allowed-packet=1G",
    # How large a table of the engine MEMORY may be; the server's own 16 MiB is less than many sources have set.
    "--max-heap-table-size=1T",
    "--lower-case-table-names=0",
    # No dump of ours asks for a file of the client's machine; one that was made by another hand would get it.
    "--local-infile=0",
]
# Rows that are older than a constraint may break it: they must come back as they were. (No option of the server sets this.)
# From then on the copy has this account and those of the source: what a new server brings along would look like a difference.
OWN_ACCOUNT = """
SET GLOBAL check_constraint_checks = OFF;
CREATE USER {0}@localhost;
GRANT ALL PRIVILEGES ON *.* TO {0}@localhost WITH GRANT OPTION;
GRANT PROXY ON ''@'%' TO {0}@localhost WITH GRANT OPTION;
DELETE FROM mysql.global_priv WHERE User NOT IN ('mariadb.sys', '{0}');
DELETE FROM mysql.proxies_priv WHERE User <> '{0}';
FLUSH PRIVILEGES;
"""
# Kept small in memory; the same at creation and at run time.
FILES = ["--innodb-log-file-size=32M"]


# A grant on a table or routine of a database; it can only be given once the object is there.
ON_OBJECT = re.compile(r"^GRANT .* ON (?:(?:FUNCTION|PROCEDURE|PACKAGE|PACKAGE BODY) )?`((?:[^`]|``)+)`\.`(?:[^`]|``)+` TO ")
SYSTEM = ("mysql", "sys", "information_schema", "performance_schema")


# Ways of logging in that the server brings along and loads on demand only: name -> file of the plugin.
PLUGINS = {
    "caching_sha2_password": "auth_mysql_sha2",
    "ed25519": "auth_ed25519",
    "gssapi": "auth_gssapi",
    "pam": "auth_pam",
    "parsec": "auth_parsec",
}


def plugins_of(text):
    # type: (bytes) -> List[str]
    """Files of the plugins that the accounts name: without them such an account cannot be put back, and no copy of that server be proven."""
    words = set()  # type: Any
    for line in text.decode("utf-8", "surrogateescape").splitlines():
        if line.startswith("CREATE USER "):
            words.update(re.findall(r" (?:VIA|OR) ([a-z0-9_]+)", line))
    return sorted(PLUGINS[word] for word in words if word in PLUGINS)


def split_users(text):
    # type: (bytes) -> Tuple[bytes, List[Tuple[str, bytes]]]
    """The accounts without the grants on objects, and those grants as (database, statement)."""
    now, later = [], []
    for line in text.splitlines(True):
        match = ON_OBJECT.match(line.decode("utf-8", "surrogateescape"))
        database = match.group(1).replace("``", "`") if match else ""
        if match and database not in SYSTEM:
            later.append((database, line))
        else:
            now.append(line)
    return b"".join(now), later


# An event keeps the time zone of the session that made it. A new server knows no named one; who makes the event must name it again.
ZONE = re.compile(rb"SET time_zone\s*=\s*'([A-Za-z0-9_+-]+(?:/[A-Za-z0-9_+-]+)*)'")
ZONE_MARK = b"SET time_zone"
ZONE_BYTES = 200
ZONEINFO = "/usr/share/zoneinfo"


def advice(said, database):
    # type: (str, str) -> str
    """What to do about a restore of that database which ended so, as the end of the sentence. Pure."""
    zone = re.search(r"ERROR 1298 .* time zone: '([^']+)'", said)
    if zone:
        return "; the server has the time zone %s from the vault's %s: install tzdata and the server's own tzinfo tool on the vault" % (
            zone.group(1),
            ZONEINFO,
        )
    table = re.search(r"ERROR 1146 .*Table '([^']+?)\.[^']+' doesn't exist", said)
    if table and table.group(1) != database:
        return (
            "; it reads the database %s, and the copy of one database holds no other: drop or rewrite at the source what reads it, then make the "
            "dump again" % table.group(1)
        )
    return ""


class ZonedFeed(Feed):
    """A feed that has each time zone made known to the server before the server reads its name."""

    def __init__(self, scratch, choose, what, learn):
        # type: (Scratch, Callable[[bytes], List[str]], str, Callable[[str], None]) -> None
        super(ZonedFeed, self).__init__(scratch, choose, what)
        self.learn, self.tail = learn, b""

    def __call__(self, block):
        # type: (bytes) -> None
        text = self.tail + block
        if ZONE_MARK in text:
            for name in sorted(set(ZONE.findall(text))):
                self.learn(name.decode("ascii"))
        self.tail = text[-ZONE_BYTES:]
        super(ZonedFeed, self).__call__(block)


PLACES = ("/usr/sbin", "/usr/bin", "/usr/libexec", "/usr/local/sbin", "/usr/local/bin")


def find(names, paths=PLACES):
    # type: (Iterable[str], Any) -> str
    for name in names:
        for path in paths:
            if os.access(os.path.join(path, name), os.X_OK):
                return os.path.join(path, name)
    raise VaultError("this vault has no %s; install mariadb-server on the vault" % " or ".join(names), verdict="unknown")


def numbers(version):
    # type: (str) -> Any
    """(10, 11) of "10.11.19-MariaDB-0+deb12u1"; None where there is none."""
    match = re.search(r"(\d+)\.(\d+)\.\d+", str(version or ""))
    return (int(match.group(1)), int(match.group(2))) if match else None


def check_version(source, here):
    # type: (str, str) -> None
    """An older server, or another vendor's, gives no proof that counts."""
    ours, theirs = numbers(here), numbers(source)
    if theirs is None:
        raise VaultError("the source's version %r is not known; expected it in source.version" % (source,), verdict="unknown")
    if "mariadb" not in source.lower():
        raise VaultError("the source is %s, not MariaDB; this proof restores MariaDB dumps only" % source, verdict="unknown")
    if ours is None or ours < theirs:
        raise VaultError(
            "the source runs MariaDB %d.%d; this vault has %s; install that version or a newer one on the vault"
            % (theirs[0], theirs[1], here),
            verdict="unknown",
        )


def space_needed(plain_bytes):
    # type: (int) -> int
    return BASE_BYTES + 3 * plain_bytes + (64 << 20)


class Mariadb(object):
    engine = "mariadb"
    passes_globals = ("users", "globals")
    settings = SETTINGS + FILES
    own_account = OWN_ACCOUNT
    places = PLACES  # type: Tuple[str, ...]
    zone_tools = ("mariadb-tzinfo-to-sql", "mysql_tzinfo_to_sql")  # type: Tuple[str, ...]

    def __init__(self, scratch, source):
        # type: (Scratch, Dict[str, Any]) -> None
        self.scratch = scratch
        self.find_programs(str(source.get("version") or ""))
        self.not_restored = []  # type: List[str]
        self.set_again = []  # type: List[str]
        self.later = []  # type: List[Tuple[str, bytes]]
        self.zones = set()  # type: Set[str]
        self.database = str(source.get("database") or "")

    def find_programs(self, source):
        # type: (str) -> None
        """The server and the client that can take a dump of that version."""
        self.daemon = find(["mariadbd", "mysqld"])
        self.install = find(["mariadb-install-db", "mysql_install_db"])
        self.client = find(["mariadb", "mysql"])
        check_version(source, scratch_version(self.daemon))

    def create(self, data, temporary):
        # type: (str, str) -> None
        """An empty server's files."""
        create = ["--no-defaults", "--datadir=" + data, "--tmpdir=" + temporary, "--auth-root-authentication-method=normal"]
        self.scratch.run([self.install] + create + ["--skip-test-db"] + FILES, timeout=300)

    def __enter__(self):
        # type: () -> Any
        data = os.path.join(self.scratch.path, "data")
        self.socket = os.path.join(self.scratch.sub("s"), "m")
        temporary = self.scratch.sub("t")
        self.create(data, temporary)
        argv = [self.daemon, "--no-defaults", "--datadir=" + data, "--tmpdir=" + temporary, "--socket=" + self.socket]
        # Statements read and write files there alone.
        argv += ["--pid-file=" + os.path.join(self.scratch.path, "pid"), "--secure-file-priv=" + temporary] + self.settings
        self.child = self.scratch.server(argv, self.ready, signal.SIGKILL)
        self.scratch.run(self.argv("root"), self.own_account.format(ACCOUNT).encode("ascii"))
        return self

    def __exit__(self, *_exc):
        # type: (*Any) -> None
        stop_server(self.child, signal.SIGKILL)

    def argv(self, user):
        # type: (str) -> List[str]
        # --binary-mode: without it the client rewrites line ends inside routine bodies, and obeys commands of its own (\!, system).
        base = [self.client, "--no-defaults", "--protocol=socket", "--socket=" + self.socket, "--user=" + user]
        return base + ["--default-character-set=utf8mb4", "--batch", "--binary-mode", "--local-infile=0", "--max-allowed-packet=1G"]

    def ready(self):
        # type: () -> bool
        if not os.path.exists(self.socket):
            return False
        argv = self.argv("root") + ["-e", "SELECT 1"]
        null = subprocess.DEVNULL
        return subprocess.call(argv, env=clean_environment(), stdin=null, stdout=null, stderr=null) == 0

    def load_globals(self, text):
        # type: (bytes) -> None
        text, self.later = split_users(text)
        for name in plugins_of(text):
            with contextlib.suppress(VaultError):  # not on this vault: the account that names it says so, by its name
                self.scratch.run(self.argv(ACCOUNT), ("INSTALL SONAME '%s'" % name).encode("ascii"))
        self.scratch.run(self.argv(ACCOUNT), text)

    def loaded(self, database):
        # type: (str) -> int
        """Called when the dump is in: the grants on its objects. Returns how many are on objects of other databases."""
        mine = [line for name, line in self.later if name == database]
        if mine:
            self.scratch.run(self.argv(ACCOUNT), b"".join(mine))
        return len(self.later) - len(mine)

    def feed(self, _wanted):
        # type: (Dict[str, Any]) -> Feed
        feed = ZonedFeed(self.scratch, lambda _first: self.argv(ACCOUNT), "the restore", self.learn_zone)
        feed.advice = lambda said: advice(said, self.database)
        return feed

    def learn_zone(self, name):
        # type: (str) -> None
        """Make one named time zone known to the server. Where that cannot be done, the server says so when the zone is needed."""
        path = os.path.join(ZONEINFO, name)
        if name in self.zones or not os.path.isfile(path):
            return
        self.zones.add(name)
        with contextlib.suppress(VaultError):
            self.scratch.run(self.argv(ACCOUNT) + ["mysql"], self.scratch.run([find(self.zone_tools, self.places), path, name]))

    def session_arguments(self, database):
        # type: (str) -> Dict[str, Any]
        """For _fingerprint.engines.open_session."""
        return {"database": database, "socket": self.socket, "user": ACCOUNT, "client": self.client}


def scratch_version(daemon):
    # type: (str) -> str
    done = subprocess.run(
        [daemon, "--no-defaults", "--version"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=clean_environment(),
        timeout=60,
        check=False,
    )
    return done.stdout.decode("utf-8", "replace").strip()
