# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A throw-away PostgreSQL server for a proof: own bootstrap role, one unix socket, nothing that runs by itself.

Private to the collection. Valid for Python 3.6, standard library.
"""

import binascii
import json
import os
import re
import signal
import subprocess
from typing import Any, Callable, Dict, List  # noqa: F401

from ansible_collections.sunset.crm.plugins.module_utils._dump import pg as dump_pg
from ansible_collections.sunset.crm.plugins.module_utils._fingerprint import pg as fingerprint_pg
from ansible_collections.sunset.crm.plugins.module_utils._proof import pg_extensions as proof_pg_extensions
from ansible_collections.sunset.crm.plugins.module_utils._proof.scratch import Feed, KeptFeed, Scratch, stop_server  # noqa: F401
from ansible_collections.sunset.crm.plugins.module_utils._vault.state import VaultError
from ansible_collections.sunset.crm.plugins.module_utils._vault.stream import clean_environment

# Not "postgres": the source's globals create that role themselves, with its password and settings.
ROLE = "sunset_proof"
# Where we are connected while another database is made; no copy has this name, while it may well be called "postgres".
MAINTENANCE = "template1"
PORT = 5432
HOME = "/usr/lib/postgresql"
BASE_BYTES = 128 << 20
WAL_BYTES = 160 << 20
# Each has an index in the making in its memory (maintenance_work_mem).
MOST_JOBS = 4
# Before, pg_restore with several jobs cannot read an archive that was written to a pipe.
PARALLEL_SINCE = 13
SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_wal_size": "128MB",
    "min_wal_size": "32MB",
    "checkpoint_timeout": "30min",
    "autovacuum": "off",
    "shared_buffers": "64MB",
    "maintenance_work_mem": "128MB",
    "max_locks_per_transaction": "256",
    "shared_preload_libraries": "",
    "archive_mode": "off",
    "log_min_error_statement": "panic",
    "logging_collector": "off",
}
# The first of each major version whose psql can be told to obey no commands of its own (CVE-2025-8714).
RESTRICTS = {13: 22, 14: 19, 15: 14, 16: 10, 17: 6}
OWN_RESTRICTION = re.compile(r"^\\(?:un)?restrict [A-Za-z0-9]+$", re.MULTILINE)
TABLESPACE = re.compile(r"^(CREATE TABLESPACE .* LOCATION )'(?:[^']|'')*';$")
# Settings of the source's database or roles that would keep the copy from being written, or read money in another way.
PINNED = " options='-c default_transaction_read_only=off -c lc_monetary=C'"


def installed(home=HOME):
    # type: (str) -> List[int]
    """Major versions whose server is on this vault."""
    try:
        names = os.listdir(home)
    except OSError:
        return []
    return sorted(int(n) for n in names if n.isdigit() and os.access(os.path.join(home, n, "bin", "initdb"), os.X_OK))


def choose_major(source_version, majors):
    # type: (str, List[int]) -> int
    """The source's own major version, else the next newer one; an older server cannot take the dump."""
    match = re.match(r"(\d+)", str(source_version or ""))
    if not match:
        raise VaultError("the source's PostgreSQL version %r is not known; expected it in source.version" % (source_version,))
    wanted = int(match.group(1))
    fitting = [major for major in majors if major >= wanted]
    if not fitting:
        raise VaultError(
            "the source runs PostgreSQL %d; this vault has the servers %s; install postgresql-%d (or newer) on the vault"
            % (wanted, ", ".join(map(str, majors)) or "none", wanted),
            verdict="unknown",
        )
    return fitting[0]


def space_needed(plain_bytes):
    # type: (int) -> int
    """A custom-format dump holds no indexes; three times its plain size and the write-ahead log stand for both."""
    return BASE_BYTES + 3 * plain_bytes + WAL_BYTES


def jobs(major, needed, free, cores):
    # type: (int, int, int, int) -> int
    """How many sessions restore at once. More than one needs the archive as a file, so its size once more in memory;
    where that is not free, or with an old pg_restore, the stream goes into one session."""
    archive = max(0, needed - BASE_BYTES - WAL_BYTES) // 3
    if major < PARALLEL_SINCE or free < needed + archive:
        return 1
    return max(1, min(cores, MOST_JOBS))


def relocated(text, place):
    # type: (str, Callable[[int], str]) -> str
    """The globals with each tablespace in a directory of our own: place(number) makes one and returns its path."""
    lines = text.split("\n")
    for number, line in enumerate(lines):
        match = TABLESPACE.match(line)
        if match:
            lines[number] = "%s'%s';" % (match.group(1), place(number).replace("'", "''"))
    return "\n".join(lines)


def restricts(version):
    # type: (str) -> bool
    """Whether a psql that calls itself so has \\restrict."""
    match = re.search(r"(\d+)\.(\d+)", version)
    major = int(match.group(1)) if match else 0
    return major > max(RESTRICTS) or bool(match and int(match.group(2)) >= RESTRICTS.get(major, 10**6))


def confined(text, version, key):
    # type: (str, str, str) -> str
    """The globals so that psql only passes them on. They come from the estate's host, and psql would run a program where they say so,
    as the account that holds every package's identity, outside of the namespaces of the throw-away server."""
    text = OWN_RESTRICTION.sub("", text)
    if restricts(version):
        return "\\restrict %s\n%s" % (key, text)
    if "\\" in text:
        raise VaultError(
            "the globals hold a backslash, and this vault's %s could take it for a command of its own; install a later minor version "
            "(15.14, 16.10, 17.6 or later) on the vault" % (version or "psql"),
            verdict="unknown",
        )
    return text


def restore_argv(first, server):
    # type: (bytes, Postgresql) -> List[str]
    """pg_restore, which stops at the first error. A plain dump would be obeyed by psql, with whatever commands stand in it."""
    if not first.startswith(b"PGDMP"):
        raise VaultError("the dump is none of PostgreSQL's custom format; make it again", verdict="unknown")
    where = ["-h", server.socket, "-p", str(PORT), "-U", ROLE, "-d", "dbname=" + MAINTENANCE + PINNED]
    return [server.tool("pg_restore"), "-e", "-C"] + where


class Postgresql(object):
    engine = "postgresql"
    passes_globals = ("globals",)

    def __init__(self, scratch, source):
        # type: (Scratch, Dict[str, Any]) -> None
        self.scratch = scratch
        self.bin = os.path.join(HOME, str(choose_major(source.get("version", ""), installed())), "bin")
        self.not_restored = []  # type: List[str]
        # What no dump holds, and was set from the fingerprint.
        self.set_again = []  # type: List[str]

    def tool(self, name):
        # type: (str) -> str
        return os.path.join(self.bin, name)

    def psql(self, database):
        # type: (str) -> List[str]
        where = ["-h", self.socket, "-p", str(PORT), "-U", ROLE, "-d", "dbname=" + database + PINNED]
        return [self.tool("psql"), "-X", "-q", "-w", "-v", "ON_ERROR_STOP=1", "-v", "VERBOSITY=verbose"] + where

    def __enter__(self):
        # type: () -> Postgresql
        data = os.path.join(self.scratch.path, "data")
        self.socket = self.scratch.sub("s")
        self.scratch.run(
            [self.tool("initdb"), "-D", data, "-U", ROLE, "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]
            + ["--no-instructions", "--wal-segsize=4"] * (int(self.bin.split("/")[-2]) >= 14),
            timeout=180,
        )
        argv = [self.tool("postgres"), "-D", data, "-k", self.socket, "-p", str(PORT)]
        for name, value in sorted(SETTINGS.items()):
            argv += ["-c", "%s=%s" % (name, value)]
        self.child = self.scratch.server(argv, self.ready, signal.SIGQUIT)
        return self

    def __exit__(self, *_exc):
        # type: (*Any) -> None
        stop_server(self.child, signal.SIGQUIT)

    def ready(self):
        # type: () -> bool
        argv = [self.tool("pg_isready"), "-q", "-h", self.socket, "-p", str(PORT)]
        return subprocess.call(argv, stdin=subprocess.DEVNULL, env=clean_environment()) == 0

    def load_globals(self, text):
        # type: (bytes) -> None
        kept = relocated(text.decode("utf-8", "surrogateescape"), lambda number: self.scratch.sub("ts%d" % number))
        version = self.scratch.run([self.tool("psql"), "--version"]).decode("utf-8", "replace").strip()
        kept = confined(kept, version, binascii.hexlify(os.urandom(16)).decode("ascii"))
        self.scratch.run(self.psql(MAINTENANCE), kept.encode("utf-8", "surrogateescape"))

    def loaded(self, _database):
        # type: (str) -> int
        """PostgreSQL's grants on objects are in the dump itself."""
        return 0

    def prepare(self, wanted):
        # type: (Dict[str, Any]) -> None
        """What pg_restore must find, and what it must not."""
        wrong = dump_pg.template_problem(wanted["database"])
        if wrong:
            raise VaultError(wrong, verdict="unknown")
        if wanted["database"] == "postgres":
            self.scratch.run(self.psql(MAINTENANCE), b"DROP DATABASE postgres")
        # Packages of earlier versions do not say them.
        notes = wanted.get("notes", {})
        if notes.get("extensions"):
            self.make_extensions(notes["extensions"], notes["extension_functions"])

    def make_extensions(self, wanted, functions):
        # type: (List[List[str]], List[List[Any]]) -> None
        told = self.scratch.run(self.psql(MAINTENANCE) + ["-A", "-t", "-c", proof_pg_extensions.AVAILABLE])
        available = [json.loads(line) for line in told.decode("utf-8").splitlines()]
        wrong = proof_pg_extensions.problem(wanted, available, self.bin.split("/")[-2])
        if wrong:
            raise VaultError(wrong, verdict="unknown")
        self.scratch.run(self.psql(MAINTENANCE), b"ALTER DATABASE template0 ALLOW_CONNECTIONS true")
        trial = proof_pg_extensions.trial(wanted, fingerprint_pg.EXTENSION_FUNCTIONS).encode("utf-8", "surrogateescape")
        told = self.scratch.run(self.psql("template0") + ["-A", "-t"], trial)
        made = [json.loads(line) for line in told.decode("utf-8", "surrogateescape").splitlines() if line.startswith("[")]
        self.set_again = proof_pg_extensions.alterations(functions, made)
        hook = proof_pg_extensions.hook(proof_pg_extensions.statements(wanted) + self.set_again)
        self.scratch.run(self.psql("template0"), hook.encode("utf-8", "surrogateescape"))

    def feed(self, wanted):
        # type: (Dict[str, Any]) -> Feed
        self.prepare(wanted)
        found = os.statvfs(self.scratch.path)
        count = jobs(int(self.bin.split("/")[-2]), self.scratch.needed, found.f_bavail * found.f_frsize, os.cpu_count() or 1)

        def choose(first):
            # type: (bytes) -> List[str]
            argv = restore_argv(first, self)
            return argv if count == 1 else argv + ["-j", str(count)]

        return (Feed if count == 1 else KeptFeed)(self.scratch, choose, "the restore")

    def session_arguments(self, database):
        # type: (str) -> Dict[str, Any]
        """For _fingerprint.engines.open_session."""
        return {"database": database, "port": PORT, "socket": self.socket, "user": ROLE, "client": self.tool("psql")}
