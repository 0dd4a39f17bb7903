# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The place of a proof: a directory in memory, with whatever runs in it, that is always removed again.

Private to the collection. Valid for Python 3.6, standard library.
"""

import ctypes
import hashlib
import os
import pwd
import re
import shutil
import signal
import subprocess
import time
from typing import Any, Callable, Dict, List, Optional  # noqa: F401

from ansible_collections.sunset.crm.plugins.module_utils._database.messages import safe_errors
from ansible_collections.sunset.crm.plugins.module_utils._proof import alone as proof_alone
from ansible_collections.sunset.crm.plugins.module_utils._vault.state import VaultError, require_memory, require_space
from ansible_collections.sunset.crm.plugins.module_utils._vault.stream import clean_environment

PR_SET_PDEATHSIG = 1
# As long as a job may take; a restore in one stream has no limit of its own either.
TIMEOUT = 7 * 86400


def dies_with_us(signum):
    # type: (int) -> Callable[[], None]
    """For preexec_fn: the child gets signum when this process ends in whatever way, so a kill leaves no server behind."""
    parent = os.getpid()

    def arrange():
        # type: () -> None
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signum, 0, 0, 0)
        if os.getppid() != parent:
            os.kill(os.getpid(), signum)

    return arrange


def processes_in(path):
    # type: (str) -> List[int]
    """Processes of ours whose working directory lies in path."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            try:
                cwd = os.readlink("/proc/%s/cwd" % name)
            except OSError:
                continue
            if cwd == path or cwd.startswith(path + "/"):
                found.append(int(name))
    return found


def end_processes(path):
    # type: (str) -> None
    """SIGQUIT is PostgreSQL's immediate stop, which also gives back its shared memory; SIGKILL for whoever stays."""
    for signum, seconds in ((signal.SIGQUIT, 5.0), (signal.SIGKILL, 10.0)):
        end = time.time() + seconds
        for pid in processes_in(path):
            try:
                os.kill(pid, signum)
            except OSError:
                pass
        while processes_in(path) and time.time() < end:
            time.sleep(0.05)
    if processes_in(path):
        raise VaultError("processes in %s do not end: %s; end them, then run the same command again" % (path, processes_in(path)))


def remove_tree(path):
    # type: (str) -> None
    """Remove a tree of ours, also where it holds directories without write permission."""
    for folder, folders, _files in os.walk(path):
        for name in folders:
            inner = os.path.join(folder, name)
            if not os.path.islink(inner):
                os.chmod(inner, 0o700)
    shutil.rmtree(path)


def home():
    # type: () -> List[str]
    """The account's own directory; nothing where it is in no list of accounts, as in a container that runs as any number."""
    try:
        found = pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        found = os.environ.get("HOME", "")
    return [found] if found.startswith("/") else []


class Scratch(object):
    """A directory in memory, named after the proof, so that the next run finds what a killed one left."""

    def __init__(self, base, package, item, needed):
        # type: (str, Any, str, int) -> None
        self.base, self.needed = base, needed
        # What the account keeps besides: no server that is started here needs to see it.
        self.kept = [package.root, getattr(package, "live_base", package.root)] + home()
        # What the server that was started last could not see.
        self.unseen = []  # type: List[str]
        name = hashlib.sha256("\0".join([package.root, package.estate, package.name, item]).encode("utf-8")).hexdigest()[:12]
        # Short: a socket's whole path may have 107 bytes.
        self.path = os.path.join(os.path.realpath(base), "sv-%d-%s" % (os.getuid(), name))

    def __enter__(self):
        # type: () -> Scratch
        if not os.path.isdir(self.base):
            raise VaultError("the scratch directory %s does not exist; name a directory in memory" % self.base)
        require_memory(self.base)
        self.clean()
        require_space(self.base, self.needed, "the restore")
        os.mkdir(self.path, 0o700)
        return self

    def __exit__(self, *_exc):
        # type: (*Any) -> None
        self.clean()

    def clean(self):
        # type: () -> None
        if os.path.lexists(self.path):
            if os.path.islink(self.path) or os.lstat(self.path).st_uid != os.getuid():
                raise VaultError("%s belongs to somebody else; remove it" % self.path)
            end_processes(self.path)
            remove_tree(self.path)

    def sub(self, name):
        # type: (str) -> str
        path = os.path.join(self.path, name)
        os.mkdir(path, 0o700)
        return path

    def run(self, argv, stdin=b"", timeout=600):
        # type: (List[str], bytes, float) -> bytes
        """A command that must end with 0; its output. A complaint is shown without data."""
        try:
            done = subprocess.run(
                argv,
                input=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=clean_environment(),
                cwd=self.path,
                timeout=timeout,
                check=False,
            )
        except OSError as exc:
            raise VaultError("%s cannot be started on the vault: %s" % (argv[0], exc.strerror), verdict="unknown")
        except subprocess.TimeoutExpired:
            raise VaultError("%s did not end within %d seconds" % (argv[0], timeout), verdict="unknown")
        if done.returncode != 0:
            raise VaultError(
                "%s ended with exit code %d: %s"
                % (os.path.basename(argv[0]), done.returncode, safe_errors(done.stderr.decode("utf-8", "replace"))),
                verdict="unknown",
            )
        return done.stdout

    def hidden(self, program):
        # type: (str) -> List[str]
        """The directories that this program does not see when it is started here; none where that cannot be had."""
        needed = [self.path, os.path.realpath(program), "/usr", "/lib", "/etc", "/tmp", "/dev/null"]
        paths = proof_alone.to_hide(self.kept, needed)
        return paths if proof_alone.network() == proof_alone.NONE and proof_alone.hides(paths) else []

    def server(self, argv, ready, signum, seconds=120):
        # type: (List[str], Callable[[], bool], int, float) -> subprocess.Popen
        """Start a server that dies with us and, where that can be had, has no network and sees nothing of the vault; wait until it is ready."""
        log = os.path.join(self.path, "server.log")
        alone, dies = proof_alone.network() == proof_alone.NONE, dies_with_us(signum)
        hidden = self.unseen = self.hidden(argv[0])

        def arrange():
            # type: () -> None
            # In this order: who goes into other namespaces may lose the signal that was asked for before.
            if alone:
                proof_alone.enter(hidden)
            dies()

        with open(log, "ab") as stream:
            child = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                env=clean_environment(),
                cwd=self.path,
                close_fds=True,
                preexec_fn=arrange,
            )
        end = time.time() + seconds
        while not ready():
            if child.poll() is not None or time.time() > end:
                with open(log, "rb") as told:
                    said = safe_errors(told.read().decode("utf-8", "replace"))
                stop_server(child)
                raise VaultError("the throw-away server %s did not start: %s" % (argv[0], said), verdict="unknown")
            time.sleep(0.1)
        return child


def stop_server(child, signum=signal.SIGKILL):
    # type: (subprocess.Popen, int) -> None
    if child.poll() is None:
        child.send_signal(signum)
    try:
        child.wait(timeout=60)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


class Feed(object):
    """A command that takes a stream on its standard input; a sink for _vault.stream.decrypt_into.

    choose: called with the first bytes of the stream, returns the command line, which may depend on them.
    """

    def __init__(self, scratch, choose, what):
        # type: (Scratch, Callable[[bytes], List[str]], str) -> None
        self.scratch, self.choose, self.what = scratch, choose, what
        self.child = None  # type: Optional[subprocess.Popen]
        self.errors = os.path.join(scratch.path, "errors-%s" % re.sub(r"[^a-z]", "-", what))
        # What to do about a complaint, after it.
        self.advice = lambda _said: ""  # type: Callable[[str], str]

    def __call__(self, block):
        # type: (bytes) -> None
        if self.child is None:
            with open(self.errors, "wb") as stream:
                argv = self.choose(block)
                try:
                    self.child = subprocess.Popen(
                        argv,
                        stdin=subprocess.PIPE,
                        stdout=subprocess.DEVNULL,
                        stderr=stream,
                        env=clean_environment(),
                        cwd=self.scratch.path,
                    )
                except OSError as exc:
                    raise VaultError("%s cannot be started on the vault: %s" % (argv[0], exc.strerror), verdict="unknown")
        try:
            self.child.stdin.write(block)  # type: ignore[union-attr]
        except BrokenPipeError:
            self.finish()
            raise VaultError("%s stopped reading before the end" % self.what, verdict="unknown")

    def finish(self):
        # type: () -> None
        """End of the stream: the command must have ended well."""
        if self.child is None:
            raise VaultError("%s was given nothing: the artefact is empty" % self.what)
        try:
            self.child.stdin.close()  # type: ignore[union-attr]
        except BrokenPipeError:
            pass
        if self.child.wait() != 0:
            with open(self.errors, "rb") as stream:
                said = safe_errors(stream.read().decode("utf-8", "replace"))
            said += self.advice(said)
            raise VaultError("%s ended with exit code %d: %s" % (self.what, self.child.returncode, said), verdict="unknown")

    def abandon(self):
        # type: () -> None
        if self.child is not None and self.child.poll() is None:
            self.child.kill()
            self.child.wait()


class KeptFeed(Feed):
    """A feed whose command gets the whole stream as a file in the scratch, named last on its command line.

    The command starts when the stream has ended, so after its digests were compared; the file is gone when it has.
    """

    def __init__(self, scratch, choose, what):
        # type: (Scratch, Callable[[bytes], List[str]], str) -> None
        super(KeptFeed, self).__init__(scratch, choose, what)
        self.path = os.path.join(scratch.path, "stream")
        self.stream = None  # type: Any
        self.argv = []  # type: List[str]

    def __call__(self, block):
        # type: (bytes) -> None
        if self.stream is None:
            self.argv = self.choose(block) + [self.path]
            self.stream = open(self.path, "xb")
        try:
            self.stream.write(block)
        except OSError as exc:
            raise VaultError("the scratch %s cannot take the copy: %s" % (self.scratch.path, exc.strerror), verdict="unknown")

    def finish(self):
        # type: () -> None
        if self.stream is None:
            raise VaultError("%s was given nothing: the artefact is empty" % self.what)
        self.stream.close()
        try:
            self.scratch.run(self.argv, timeout=TIMEOUT)
        finally:
            os.unlink(self.path)

    def abandon(self):
        # type: () -> None
        if self.stream is not None:
            self.stream.close()
