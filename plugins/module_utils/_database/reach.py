# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The way to the source's server: its local socket, TCP with the CRM's own credentials, or the clients inside its container.

Private to the collection. Valid for Python 3.6, standard library.

A password stands in one file (0600, in a directory of 0700 in memory), which the connection names; never in a command line, an
environment, the job's specification or a log. The directory is locked for as long as its link is open. Whoever opens a link first removes
what dead ones have left, also inside containers, where a client outlives the command that started it.
"""

import contextlib
import fcntl
import json
import os
import re
import shutil
import subprocess
import tempfile
from typing import Any, Dict, Iterator, List, Optional  # noqa: F401

from ansible_collections.sunset.crm.plugins.module_utils._database import (
    config_read as database_config_read,
    credentials as database_credentials,
    sqlclient as database_sqlclient,
)
from ansible_collections.sunset.crm.plugins.module_utils._dump import my as dump_my

PREFIX = "sunset-reach-"
PLACES = ("/dev/shm", "/run")
MARK = "SUNSET_LINK"
KINDS = ("local", "tcp", "container")
# What would lead a client elsewhere; the image may have set them for its own purposes.
UNSET = (
    "PGHOST",
    "PGPORT",
    "PGUSER",
    "PGDATABASE",
    "PGOPTIONS",
    "PGSERVICE",
    "MYSQL_PWD",
    "MYSQL_HOST",
    "MYSQL_TCP_PORT",
    "MYSQL_UNIX_PORT",
)
PG_TOOLS = ("pg_dump", "pg_dumpall", "pg_restore")

# Runs inside the container as root. The password goes from the container's own setting into a file in its memory; printf is part of
# the shell, so it is in no command line there either.
PREPARE = r"""
umask 077
grep -q ' /dev/shm tmpfs ' /proc/mounts || exit 15
password=
for name in MARIADB_ROOT_PASSWORD MYSQL_ROOT_PASSWORD; do
    eval "value=\${$name-} file=\${${name}_FILE-}"
    [ -z "$file" ] || value=$(cat "$file") || exit 14
    [ -z "$value" ] || { password=$value; break; }
done
case $password in *"
"*) exit 13 ;; esac
mkdir -m 0700 "/dev/shm/.sunset-$1" || exit 12
{
    printf '[client]\nuser=root\n'
    [ -z "$password" ] || printf 'password="%s"\n' "$(printf '%s' "$password" | sed 's/[\\"]/\\&/g')"
} >"/dev/shm/.sunset-$1/my.cnf"
"""
PREPARE_SAYS = {
    12: "its /dev/shm cannot be written",
    13: "its root password holds a line end",
    14: "the file of its root password cannot be read",
    15: "its /dev/shm is no tmpfs, and a password must not reach a disk",
}
SWEEP = r"""
for one in /proc/[0-9]*; do
    if tr '\0' '\n' <"$one/environ" 2>/dev/null | grep -qx "SUNSET_LINK=$1"; then kill -9 "${one#/proc/}" 2>/dev/null; fi
done
rm -rf "/dev/shm/.sunset-$1"
"""


class ReachError(Exception):
    """The server cannot be reached as declared; one sentence."""


def problem(engine, reach):
    # type: (Optional[str], Dict[str, Any]) -> Optional[str]
    """What is wrong with a declaration; None if nothing. Pure."""
    kind = reach.get("kind", "local")
    if kind not in KINDS:
        return "reach.kind is {0!r}; expected one of {1}".format(kind, ", ".join(KINDS))
    if engine not in ("postgresql",) + database_sqlclient.MY_ENGINES and kind != "local":
        return "reach.kind is {0!r}; engine {1} is only reached locally, leave reach out".format(kind, engine)
    if kind == "tcp" and not isinstance(reach.get("config"), dict):
        return "reach.config is missing; expected the CRM's configuration: {format: ..., path: /...}"
    if kind == "container" and not re.match(r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", str(reach.get("container") or "")):
        return "reach.container is {0!r}; expected the name of the container that serves the database".format(reach.get("container"))
    return None


# --- a place for what is secret ------------------------------------------------------------------------------------


def memory_place(mounts, places=PLACES):
    # type: (str, Any) -> str
    """The first directory that lies in memory. Pure: `mounts` is the text of /proc/mounts."""
    last = {line.split()[1]: line.split()[2] for line in mounts.splitlines() if len(line.split()) > 2}
    for place in places:
        if last.get(place) in ("tmpfs", "ramfs"):
            return place
    raise ReachError(
        "none of {0} lies in memory here, and a password must not reach a disk; mount a tmpfs at /dev/shm".format(" and ".join(places))
    )


def _mounts():
    with open("/proc/self/mounts") as stream:
        return stream.read()


class Place(object):
    """A directory in memory, locked while it is in use."""

    def __init__(self, root):
        while True:
            self.path = tempfile.mkdtemp(prefix=PREFIX, dir=root)
            self._lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            # Between making and locking it, a sweep may have taken it for a dead one's.
            with contextlib.suppress(OSError):
                if os.stat(self.path).st_ino == os.fstat(self._lock).st_ino:
                    return
            os.close(self._lock)

    def write(self, name, content):
        # type: (str, bytes) -> str
        path = os.path.join(self.path, name)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
        return path

    def remove(self):
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def sweep(root):
    # type: (str) -> None
    """Remove what links have left whose process is dead."""
    for name in sorted(os.listdir(root)):
        path = os.path.join(root, name)
        if not name.startswith(PREFIX):
            continue
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            if os.fstat(descriptor).st_uid != os.geteuid():
                continue
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _sweep_inside(os.path.join(path, "inside.json")):
                shutil.rmtree(path, ignore_errors=True)
        except OSError:
            continue
        finally:
            os.close(descriptor)


def _sweep_inside(record):
    # type: (str) -> bool
    """Whether nothing of that link is left in its container (a container that is gone holds nothing)."""
    try:
        with open(record) as stream:
            left = json.load(stream)
    except (IOError, ValueError):
        return True
    found = _call([left["tool"], "inspect", "--type", "container", "--format", "{{.State.Running}}", left["id"]])
    if found.returncode != 0:
        return b"no such" in found.stderr.lower()
    return b"true" not in found.stdout or _sweep_call(left).returncode == 0


def _sweep_call(left):
    return _call([left["tool"], "exec", "-u", left["user"], left["id"], "sh", "-c", SWEEP, "sh", left["token"]])


def _call(argv, timeout=60):
    # type: (List[str], int) -> Any
    return subprocess.run(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=database_sqlclient.child_environment(),
        timeout=timeout,
        check=False,
    )


# --- the link ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def opened(spec):
    # type: (Dict[str, Any]) -> Iterator[Dict[str, Any]]
    """The specification with what makes a connection: `connection` (the target of PostgreSQL's tools, the arguments of MariaDB's),
    `run_as`, and `inside`, the words that lead into the container. It lives no longer than the context, and is never stored."""
    reach = spec.get("reach") or {}
    kind = reach.get("kind", "local")
    wrong = problem(spec.get("engine"), reach)
    if wrong:
        raise ReachError(wrong)
    if kind == "local":
        yield dict(spec, connection=_local(spec), inside=[])
        return
    root = memory_place(_mounts())
    sweep(root)
    with contextlib.ExitStack() as stack:
        place = Place(root)
        stack.callback(place.remove)
        if kind == "tcp":
            yield _tcp(spec, reach, place)
        else:
            try:
                yield _container(spec, reach, place, stack)
            except subprocess.TimeoutExpired as error:
                raise ReachError("{0} did not answer within {1} seconds".format(error.cmd[0], error.timeout))


def _local(spec):
    if spec.get("engine") == "postgresql":
        return database_sqlclient.postgresql_target(spec["database"], spec.get("port"), spec.get("socket"))
    return database_sqlclient.mariadb_arguments(spec.get("socket")) if spec.get("engine") in database_sqlclient.MY_ENGINES else None


def _tcp(spec, reach, place):
    # type: (Dict[str, Any], Dict[str, Any], Place) -> Dict[str, Any]
    try:
        found = database_config_read.read(reach["config"])
    except database_credentials.ConfigError as error:
        raise ReachError(str(error))
    wrong = database_credentials.contradiction(dict(spec, host=reach.get("host"), port=reach.get("port")), found)
    if wrong:
        raise ReachError("the configuration {0} is not for this item: {1}".format(reach["config"].get("path"), wrong))
    host, port = reach.get("host") or found.host, reach.get("port") or found.port
    if spec["engine"] in database_sqlclient.MY_ENGINES and host == "localhost":
        host = None  # for MySQL's clients that word is the socket, and accounts are granted for it
    socket = None if host else (found.socket or spec.get("socket"))
    if not host and not found.password:
        raise ReachError(
            "the configuration {0} names no host and no password: the CRM goes through the local socket. Leave reach out; "
            "the server's own account needs no password there".format(reach["config"].get("path"))
        )
    live = dict(spec, run_as=None, inside=[], address={"host": host or "socket", "port": port, "user": found.user})
    if spec["engine"] == "postgresql":
        passfile = place.write("pgpass", pgpass(found.password))
        live["connection"] = database_sqlclient.postgresql_target(
            spec["database"], port, socket, found.user, host=host, passfile=passfile, sslmode=found.sslmode
        )
    else:
        defaults = place.write("my.cnf", option_file(found.password))
        live["connection"] = database_sqlclient.mariadb_arguments(socket, found.user, host=host, port=port, defaults=defaults)
    return live


def pgpass(password):
    # type: (str) -> bytes
    """The one line of a password file: for every server, because the connection names this file for one only."""
    text = "*:*:*:*:{0}\n".format(password.replace("\\", "\\\\").replace(":", "\\:"))
    return text.encode("utf-8", "surrogateescape")


def option_file(password):
    # type: (str) -> bytes
    """In quotes, or the spaces at its ends would be lost and a # would begin a comment."""
    text = '[client]\npassword="{0}"\n'.format(password.replace("\\", "\\\\").replace('"', '\\"'))
    return text.encode("utf-8", "surrogateescape")


def _container(spec, reach, place, stack):
    # type: (Dict[str, Any], Dict[str, Any], Place, Any) -> Dict[str, Any]
    tool, found = find_container(reach["container"])
    token = os.path.basename(place.path)[len(PREFIX) :]
    user = "postgres" if spec["engine"] == "postgresql" else "0"
    left = {"tool": tool, "id": found["id"], "token": token, "user": user}
    place.write("inside.json", json.dumps(left).encode("ascii"))
    inside = [tool, "exec", "-i", "-u", user, "-e", MARK + "=" + token, "-e", "LC_ALL=C", "-e", "PGCLIENTENCODING=UTF8", found["id"], "env"]
    for name in UNSET:
        inside += ["-u", name]
    # Else MySQL's clients also read the login file of whoever was logged in there.
    inside.append("MYSQL_TEST_LOGIN_FILE=/dev/null")
    stack.callback(_leave, left)
    live = dict(spec, inside=inside, container=found)
    if spec["engine"] == "postgresql":
        role = _answer(left, 'printf %s "${POSTGRES_USER:-postgres}"', "its superuser's name")
        live["connection"] = database_sqlclient.postgresql_target(
            spec["database"], spec.get("port"), spec.get("socket"), reach.get("user") or role
        )
        live.update(run_as=inside, tools={name: name for name in PG_TOOLS}, client="psql")
        return live
    done = _call([tool, "exec", "-u", "0", found["id"], "sh", "-c", PREPARE, "sh", token])
    if done.returncode != 0:
        said = PREPARE_SAYS.get(done.returncode) or "sh ended with code {0}: {1}".format(done.returncode, _words(done.stderr))
        raise ReachError("the container {0} cannot be used: {1}".format(reach["container"], said))
    defaults = "/dev/shm/.sunset-{0}/my.cnf".format(token)
    live["connection"] = database_sqlclient.mariadb_arguments(spec.get("socket"), defaults=defaults, before=inside)
    installed = _answer(
        left, "for one in mariadb mysql mariadb-dump mysqldump; do command -v $one; done || true", "its client tools"
    ).split()
    names = {os.path.basename(path) for path in installed}
    dump_my.ELSEWHERE.append(names)
    stack.callback(dump_my.ELSEWHERE.pop)
    return live


def told_version(live, tool):
    # type: (Dict[str, Any], str) -> str
    """What a client tool says of itself, where the dump will use it; empty if it says nothing."""
    done = _call(list(live.get("inside") or []) + [tool, "--version"])
    return done.stdout.decode("utf-8", "replace") if done.returncode == 0 else ""


def _leave(left):
    """Nothing of ours stays running there, whatever way the work ended."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        _sweep_call(left)


def _answer(left, script, what):
    done = _call([left["tool"], "exec", "-u", left["user"], left["id"], "sh", "-c", script])
    if done.returncode != 0:
        raise ReachError("the container could not be asked for {0} (code {1}): {2}".format(what, done.returncode, _words(done.stderr)))
    return done.stdout.decode("utf-8", "surrogateescape")


def _words(said):
    return " ".join(said.decode("utf-8", "replace").split())[-300:] or "no message"


def find_container(name, which=shutil.which):
    """(docker or podman, {id, mounts}) of a running container."""
    said = []
    for tool in ("docker", "podman"):
        if not which(tool):
            continue
        done = _call([tool, "inspect", "--type", "container", "--format", "{{.Id}} {{.State.Running}} {{json .Mounts}}", name])
        if done.returncode == 0:
            identity, running, mounts = done.stdout.decode("utf-8", "surrogateescape").split(" ", 2)
            if running != "true":
                raise ReachError("the container {0} does not run; start it, the dump is made by the server inside".format(name))
            return tool, {"name": name, "id": identity, "mounts": json.loads(mounts)}
        said.append("{0}: {1}".format(tool, _words(done.stderr)))
    raise ReachError("the container {0} was not found ({1})".format(name, "; ".join(said) or "this machine has neither docker nor podman"))


def volume_of(mounts, path):
    # type: (List[Dict[str, Any]], str) -> Optional[str]
    """The volume or directory of the host that holds a path of the container; None if the container itself does. Pure."""
    fitting = [one for one in mounts or [] if path == one["Destination"] or path.startswith(one["Destination"].rstrip("/") + "/")]
    if not fitting:
        return None
    best = max(fitting, key=lambda one: len(one["Destination"]))
    return best.get("Name") or best.get("Source")


def data_inode(live, path):
    """(volume, inode) of the server's data: a container that is made anew on the same volume is still the same server."""
    found = live["container"]
    left = {"tool": live["inside"][0], "id": found["id"], "user": "0"}
    inode = _answer(left, "stat -c %i -- '{0}'".format(path.replace("'", "'\\''")), "its data directory").strip()
    return volume_of(found["mounts"], path.rstrip("/")), int(inode)
