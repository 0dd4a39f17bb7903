# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Long work that goes on without the controller: start it detached, attach to it, read its end.

Private to the collection. Valid for Python 3.6, standard library.

A job is a directory (0700) that holds its code, its spec, C(progress.json), C(result.json) and a lock file. Its code is what
its entry module reaches by import, in folders of the names that it is imported by, so one way of importing holds everywhere.
Modules are named from this package on: C(_job), C(_wipe.engine).
The running job holds the lock for its whole life, so "is it alive" never rests on a process number that
may have been given to another process meanwhile.
"""

import ast
import contextlib
import errno
import fcntl
import importlib
import inspect
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from types import ModuleType  # noqa: F401
from typing import Any, Dict, List, Optional  # noqa: F401

PACKAGE = "ansible_collections.sunset.crm.plugins.module_utils"

# The job's own frame: takes the lock, then runs the entry file as __main__. Kept as text because it travels with the job.
FRAME = """
import fcntl, os, runpy, sys
directory, entry = sys.argv[1], sys.argv[2]
lock = os.open(os.path.join(directory, "lock"), os.O_RDWR | os.O_CREAT, 0o600)
try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
except OSError:
    sys.exit(0)  # another runner of this very job was faster
log = os.open(os.path.join(directory, "log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
os.dup2(log, 1)
os.dup2(log, 2)
open(os.path.join(directory, "started"), "w").close()
sys.argv = [entry, os.path.join(directory, "spec.json")]
runpy.run_path(os.path.join(directory, entry), run_name="__main__")
"""

# The entry file itself, which also runs alone. The folders beside it come first: a collection of the system's own must not win.
STARTER = """
import os, sys
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from %s import %s as entry
sys.exit(entry.main(sys.argv))
"""


def for_throughput():
    # type: () -> None
    """Tell Linux that this process and what it starts have time (SCHED_BATCH, sched(7)): who is given bytes does not interrupt who made them.

    Five processes of a pipe on two cores change places a third as often, which is a tenth of the time; the source's servers, which stay as
    they are, come first. Where somebody has chosen another policy for us, or the kernel does not want it, all stays as it is.
    """
    with contextlib.suppress(OSError, AttributeError):  # AttributeError: not Linux
        if os.sched_getscheduler(0) == os.SCHED_OTHER:
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def sources(*entries):
    # type: (*ModuleType) -> Dict[str, str]
    """What travels with a job, by module: its entries and every module of this package that they reach by import. Works from a zip too."""
    found, waiting = {}, list(entries)  # type: Dict[str, str], List[ModuleType]
    while waiting:
        module = waiting.pop()
        name = name_of(module)
        if name in found:
            continue
        found[name] = inspect.getsource(module)
        for node in ast.walk(ast.parse(found[name])):
            if isinstance(node, ast.ImportFrom) and ((node.module or "") + ".").startswith(PACKAGE + "."):
                whence = importlib.import_module(str(node.module))
                # From a folder come modules, from a module come names.
                inside = ["%s.%s" % (node.module, alias.name) for alias in node.names] if hasattr(whence, "__path__") else []
                waiting += [importlib.import_module(one) for one in inside] if inside else [whence]
    return found


def name_of(module):
    # type: (ModuleType) -> str
    return module.__name__[len(PACKAGE) + 1 :]


def lay(directory, *entries):
    # type: (str, *ModuleType) -> str
    """Write the code of a job, whose first entry is what runs, into directory. The file to run."""
    for name, text in sorted(sources(*entries).items()):
        folder, parts = directory, ("%s.%s" % (PACKAGE, name)).split(".")
        for part in parts[:-1]:
            folder = os.path.join(folder, part)
            if not os.path.isdir(folder):
                os.mkdir(folder, 0o700)
            _write(os.path.join(folder, "__init__.py"), "")
        _write(os.path.join(folder, parts[-1] + ".py"), text)
    return start_file(directory, name_of(entries[0]))


def start_file(directory, name):
    # type: (str, str) -> str
    """The file that runs a module of the code in directory. It is called like the module, with underscores for dots."""
    path = os.path.join(directory, name.replace(".", "_") + ".py")
    _write(path, STARTER % tuple(("%s.%s" % (PACKAGE, name)).rsplit(".", 1)))
    return path


def _write(path, text):
    # type: (str, str) -> None
    with open(path, "w", encoding="utf-8") as stream:
        stream.write(text)


def write_json_atomic(path, value):
    # type: (str, Any) -> None
    """Write value as JSON so that a reader sees the old file or the new one, also after a power cut."""
    fd, temporary = tempfile.mkstemp(dir=os.path.dirname(path), prefix=".", suffix=".tmp")
    try:
        with os.fdopen(fd, "w") as stream:
            json.dump(value, stream, sort_keys=True)
            stream.flush()
            os.fsync(stream.fileno())
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def read_json(path):
    # type: (str) -> Optional[Dict[str, Any]]
    """The JSON object in path; None when there is no such file."""
    try:
        with open(path) as stream:
            return json.load(stream)
    except IOError as exc:
        if exc.errno == errno.ENOENT:
            return None
        raise


def systemd_is_running():
    # type: () -> bool
    return os.path.isdir("/run/systemd/system") and shutil.which("systemd-run") is not None


class Job(object):
    """One detached job in C(directory)/C(name)."""

    def __init__(self, directory, name):
        # type: (str, str) -> None
        self.name = name
        self.directory = os.path.join(directory, name)

    def _path(self, name):
        # type: (str) -> str
        return os.path.join(self.directory, name)

    def _locked(self):
        # type: () -> bool
        try:
            fd = os.open(self._path("lock"), os.O_RDWR)
        except OSError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
        except OSError:
            return True
        finally:
            os.close(fd)

    def status(self):
        # type: () -> Dict[str, Any]
        """C(state) is absent, running, done (there is a result) or died (it ended without one)."""
        running = self._locked()
        result = read_json(self._path("result.json"))
        if result is not None and not running:
            state = "done"
        elif running:
            state = "running"
        else:
            state = "died" if os.path.exists(self._path("started")) else "absent"
        return {"state": state, "progress": read_json(self._path("progress.json")) or {}, "result": result or {}}

    def start(self, spec, *entries):
        # type: (Dict[str, Any], *ModuleType) -> None
        """Start the job, C(main) of the first entry, or attach to it if it is running; the other entries are what it hands on.
        A finished or dead job is started anew; what its files say about its progress stays, so that the job itself can resume."""
        if self._locked():
            return
        os.makedirs(self.directory, mode=0o700, exist_ok=True)
        os.chmod(self.directory, 0o700)
        for name in ("result.json", "started"):
            if os.path.exists(self._path(name)):
                os.unlink(self._path(name))
        entry = os.path.basename(lay(self.directory, *entries))
        _write(self._path("frame.py"), FRAME)
        write_json_atomic(self._path("spec.json"), dict(spec, directory=self.directory))
        self._spawn([sys.executable, "-I", "-B", self._path("frame.py"), self.directory, entry])
        deadline = time.monotonic() + 30
        while not os.path.exists(self._path("started")) and time.monotonic() < deadline:
            time.sleep(0.05)

    def _spawn(self, argv):
        # type: (List[str]) -> None
        if systemd_is_running() and os.geteuid() == 0:
            unit = "sunset-job-%s-%d" % ("".join(c if c.isalnum() else "-" for c in self.name), time.time() * 1000)
            subprocess.check_call(
                ["systemd-run", "--quiet", "--collect", "--no-ask-password", "--unit", unit] + argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            return
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                null = os.open(os.devnull, os.O_RDWR)
                for descriptor in (0, 1, 2):
                    os.dup2(null, descriptor)
                os.closerange(3, 1024)
                os.execv(argv[0], argv)
            os._exit(0)
        os.wait()

    def wait(self, timeout, poll=0.2):
        # type: (float, float) -> Dict[str, Any]
        """Wait until the job has ended or C(timeout) seconds have passed; return its status."""
        deadline = time.monotonic() + timeout
        while True:
            status = self.status()
            if status["state"] != "running" or time.monotonic() >= deadline:
                return status
            time.sleep(poll)

    def log_tail(self, size=2000):
        # type: (int) -> str
        try:
            with open(self._path("log"), "rb") as stream:
                return stream.read()[-size:].decode("utf-8", "replace")
        except IOError:
            return ""

    def forget(self):
        # type: () -> None
        """Remove the files of a job that has ended."""
        if not self._locked():
            shutil.rmtree(self.directory, ignore_errors=True)
