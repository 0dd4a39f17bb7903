# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reach a host's unix socket and files from the control node, through the connection that Ansible has to the host.

The command line is the one the connection plugin itself would use (user, key, port, jump host, control socket), with
the become plugin's own wrapping around the remote part. Nothing is installed on the host and no second login exists.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shlex
import shutil
import socket
import struct
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from ansible import constants as C

from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal

# Everything before this line on standard output is somebody else's talk (login banners, the become plugin's own marker).
MARKER = b"SUNSET-RELAY-READY\n"
MARKER_LIMIT = 65536
OPEN_TIMEOUT = 60
STDERR_TAIL = 1000

_RELAY_CODE = """
import os, socket, sys, threading
s = socket.socket(socket.AF_UNIX)
try:
    s.connect(sys.argv[1])
except OSError as exc:
    sys.exit("%s: %s" % (sys.argv[1], exc.strerror))
def out(b):
    while b:
        b = b[os.write(1, b):]
def up():
    while True:
        b = os.read(0, 65536)
        if not b:
            break
        s.sendall(b)
    s.shutdown(socket.SHUT_WR)
out(@MARKER@)
t = threading.Thread(target=up)
t.daemon = True
t.start()
while True:
    b = s.recv(65536)
    if not b:
        break
    out(b)
os._exit(0)
""".replace("@MARKER@", repr(MARKER))

# The stream is framed, so that a cut connection cannot pass for the end of the file.
_WRITE_CODE = """
import hashlib, json, os, struct, sys
path = sys.argv[1]
folder, name = os.path.split(path)
i = sys.stdin.buffer
def take(n):
    b = i.read(n)
    if len(b) != n:
        sys.exit("the stream was cut; %s.part is incomplete" % path)
    return b
try:
    if not os.path.isdir(folder):
        if not os.path.isdir(os.path.dirname(folder)):
            sys.exit("the staging place %s has no folder to lie in: make %s, on a medium that is wiped" % (folder, os.path.dirname(folder)))
        os.mkdir(folder, 0o700)
    d = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    fd = os.open(name + ".part", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600, dir_fd=d)
    try:
        os.fchmod(fd, 0o600)
        h, n = hashlib.sha256(), 0
        with os.fdopen(fd, "wb") as o:
            while True:
                size = struct.unpack(">I", take(4))[0]
                if not size:
                    break
                b = take(size)
                h.update(b)
                n += size
                o.write(b)
            if take(64).decode("ascii") != h.hexdigest():
                sys.exit("what arrived is not what was sent")
            o.flush()
            os.fsync(o.fileno())
        os.rename(name + ".part", name, src_dir_fd=d, dst_dir_fd=d)
    except BaseException:
        # It is sent anew from its start, and on a disk that is full its room is needed.
        os.unlink(name + ".part", dir_fd=d)
        raise
    os.fsync(d)
except OSError as exc:
    sys.exit("%s: %s" % (path, exc.strerror))
sys.stdout.buffer.write(@MARKER@ + json.dumps({"sha256": h.hexdigest(), "bytes": n}).encode("ascii"))
""".replace("@MARKER@", repr(MARKER))

_DIGEST_CODE = """
import hashlib, json, os, sys
r = {}
for p in sys.argv[1:]:
    try:
        fd = os.open(p, os.O_RDONLY | os.O_NOFOLLOW)
        h, n = hashlib.sha256(), 0
        with os.fdopen(fd, "rb") as f:
            for b in iter(lambda: f.read(1048576), b""):
                h.update(b)
                n += len(b)
        r[p] = {"sha256": h.hexdigest(), "bytes": n}
    except OSError:
        r[p] = None
sys.stdout.buffer.write(@MARKER@ + json.dumps(r).encode("ascii"))
""".replace("@MARKER@", repr(MARKER))

_STREAM_CODE = """
import os, struct, sys
try:
    fd = os.open(sys.argv[1], os.O_RDONLY | os.O_NOFOLLOW)
except OSError as exc:
    sys.exit(exc.strerror)
o = sys.stdout.buffer
o.write(@MARKER@)
with os.fdopen(fd, "rb") as f:
    for b in iter(lambda: f.read(1048576), b""):
        o.write(struct.pack(">I", len(b)) + b)
o.write(struct.pack(">I", 0))
""".replace("@MARKER@", repr(MARKER))

_READ_CODE = """
import os, sys
try:
    fd = os.open(sys.argv[1], os.O_RDONLY | os.O_NOFOLLOW)
    with os.fdopen(fd, "rb") as f:
        b = f.read(4194304)
except OSError:
    b = b""
sys.stdout.buffer.write(@MARKER@ + b)
""".replace("@MARKER@", repr(MARKER))


def with_python(code: str, arguments: Sequence[str], otherwise: str = "") -> str:
    """A shell line that runs the code with the host's Python 3, wherever it is; else what is said otherwise."""
    tail = " ".join(["-I", "-c", shlex.quote(code), *[shlex.quote(argument) for argument in arguments]])
    return (
        "for p in python3 /usr/libexec/platform-python /usr/bin/python3; do "
        f'if command -v "$p" >/dev/null 2>&1; then exec "$p" {tail}; fi; done; '
        f"{otherwise}echo 'there is no python3 on this host' >&2; exit 127"
    )


def relay_line(path: str) -> str:
    """A shell line that joins its standard streams with the unix socket at this path."""
    ready = f"printf %s {shlex.quote(MARKER.decode().rstrip())}; echo; exec"
    quoted = shlex.quote(path)
    return with_python(
        _RELAY_CODE,
        [path],
        otherwise=(
            f"if command -v socat >/dev/null 2>&1; then {ready} socat - UNIX-CONNECT:{quoted}; fi; "
            f"if command -v docker >/dev/null 2>&1; then {ready} docker -H unix://{quoted} system dial-stdio; fi; "
        ),
    )


@dataclass(frozen=True)
class Reach:
    """How a shell line is run on the host.

    argv: shell line to the local command that runs it there. direct: the host is this machine and no other user is
    needed, so its sockets can be opened as they are. name: for messages.
    """

    argv: Callable[[str], list[str]]
    direct: bool
    name: str


def here() -> Reach:
    """This machine, as the user that runs the controller."""
    return Reach(argv=lambda line: ["/bin/sh", "-c", line], direct=True, name="localhost")


def _becoming(connection: Any) -> Any | None:
    """The become plugin that is in force for this task; None where none is needed. As the action base decides it."""
    become = getattr(connection, "become", None)
    if not become:
        return None
    same = become.get_option("become_user") == _option(connection, "remote_user")
    if same and not C.BECOME_ALLOW_SAME_USER:
        return None
    if become.get_option("become_pass"):
        raise Refusal(
            "the guests of this host are reached through its connection, and becoming another user there takes a "
            "password, which cannot be typed into that stream. Let the login user become root without a password for "
            "the time of the retirement, or log in as root with a key."
        )
    return become


def _option(connection: Any, name: str) -> Any:
    try:
        return connection.get_option(name)
    except KeyError:
        return None


def from_connection(connection: Any) -> Reach:
    """The way that Ansible itself takes to this host. Only ssh and local have one that carries a stream."""
    kind = connection.transport
    become = _becoming(connection)

    def wrapped(line: str) -> str:
        line = "/bin/sh -c " + shlex.quote(line)
        return line if become is None else str(become.build_become_command(line, connection._shell))

    if kind == "local":
        return Reach(argv=lambda line: ["/bin/sh", "-c", wrapped(line)], direct=become is None, name="localhost")
    if kind != "ssh":
        raise Refusal(
            f"the connection to this host is {kind}; its guests can be reached through ssh and local alone. Set ansible_connection to ssh."
        )
    if _option(connection, "password") or connection._play_context.password:
        raise Refusal(
            "the guests of this host are reached through its SSH connection, and that one logs in with a password. "
            "Use a key (ansible_ssh_private_key_file) or an agent."
        )
    host = _option(connection, "host") or connection._play_context.remote_addr
    # The control socket's name is made from this attribute, which the plugin sets only when it runs a command.
    connection.host = host
    executable = _option(connection, "ssh_executable") or "ssh"

    def argv(line: str) -> list[str]:
        built = connection._build_command(executable, "ssh", host, wrapped(line))
        return [part.decode("utf-8", "surrogateescape") if isinstance(part, bytes) else str(part) for part in built]

    return Reach(argv=argv, direct=False, name=str(host))


def _environment() -> dict[str, str]:
    return dict(os.environ, LC_ALL="C")


def _tail(errors: IO[bytes]) -> str:
    errors.seek(0, os.SEEK_END)
    errors.seek(max(0, errors.tell() - STDERR_TAIL))
    return errors.read().decode("utf-8", "replace").strip()


def call(reach: Reach, line: str, feed: Callable[[IO[bytes]], None] | None = None, timeout: float = 600) -> bytes:
    """Run a shell line on the host, feed its standard input, return what it printed after the marker.

    Standard error goes to a file: a control master that ssh leaves behind would keep a pipe open for ever.
    """
    with tempfile.TemporaryFile() as errors, tempfile.TemporaryFile() as output:
        child = subprocess.Popen(
            reach.argv(line),
            stdin=subprocess.PIPE if feed else subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            env=_environment(),
            start_new_session=True,
        )
        try:
            if feed and child.stdin:
                # A broken pipe is told by the other side's exit code and message.
                with contextlib.suppress(BrokenPipeError):
                    feed(child.stdin)
                with contextlib.suppress(BrokenPipeError):
                    child.stdin.close()
            code = child.wait(timeout)
        except subprocess.TimeoutExpired:
            raise Refusal(f"{reach.name} gave no answer within {timeout:g} s") from None
        finally:
            if child.poll() is None:
                child.kill()
                child.wait()
        output.seek(0)
        _talk, marker, answer = output.read().partition(MARKER)
        if code != 0 or not marker:
            raise Refusal(f"{reach.name}: {_tail(errors) or 'no answer'} (exit code {code})")
        return answer


def put(reach: Reach, path: str, chunks: Iterable[bytes], timeout: float = 600) -> dict[str, Any]:
    """Write a file on the host: 0600, under another name until it is whole and on the disk. Its digest and size.

    The digest is taken here, from what is sent, and compared there with what was written.
    """
    sent = hashlib.sha256()
    size = 0

    def feed(pipe: IO[bytes]) -> None:
        nonlocal size
        for chunk in chunks:
            if chunk:
                sent.update(chunk)
                size += len(chunk)
                pipe.write(struct.pack(">I", len(chunk)))
                pipe.write(chunk)
        pipe.write(struct.pack(">I", 0) + sent.hexdigest().encode())

    answer = json.loads(call(reach, with_python(_WRITE_CODE, [path]), feed, timeout))
    if answer != {"sha256": sent.hexdigest(), "bytes": size}:
        raise Refusal(f"{reach.name}: {path} was written with another digest than it was sent with; nothing can be said of it")
    return dict(answer)


def digests(reach: Reach, paths: Sequence[str], timeout: float = 3600) -> dict[str, dict[str, Any] | None]:
    """Digest and size of files on the host, read there; None for one that cannot be read."""
    if not paths:
        return {}
    answer: dict[str, dict[str, Any] | None] = json.loads(call(reach, with_python(_DIGEST_CODE, paths), None, timeout))
    return answer


def read(reach: Reach, path: str, timeout: float = 60) -> bytes:
    """A small file of the host; empty where there is none."""
    return call(reach, with_python(_READ_CODE, [path]), None, timeout)


@contextlib.contextmanager
def stream(reach: Reach, path: str) -> Iterator[Iterator[bytes]]:
    """A file of the host, piece by piece. Raises Refusal where it ends before its end: pieces are framed."""
    with tempfile.TemporaryFile() as errors:
        child = subprocess.Popen(
            reach.argv(with_python(_STREAM_CODE, [path])),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=_environment(),
            start_new_session=True,
        )
        if child.stdout is None:
            raise AssertionError("Popen was given a pipe and made none")
        try:
            yield _framed(reach, path, child.stdout, errors)
        finally:
            child.stdout.close()
            child.kill()
            child.wait()


def _framed(reach: Reach, path: str, pipe: IO[bytes], errors: IO[bytes]) -> Iterator[bytes]:
    talk = b""
    while not talk.endswith(MARKER):
        line = pipe.readline(MARKER_LIMIT)
        talk = talk[-MARKER_LIMIT:] + line
        if not line:
            raise Refusal(f"{reach.name}: {path}: {_tail(errors) or 'no answer'}")
    while True:
        head = pipe.read(4)
        size = struct.unpack(">I", head)[0] if len(head) == 4 else -1
        if size == 0:
            return
        block = pipe.read(size) if size > 0 else b""
        if len(block) != size:
            raise Refusal(f"{reach.name}: {path}: the stream was cut")
        yield block


@dataclass
class Relay:
    """A local socket, only ours, behind which lies the host's. Use as a context; `address` is what clients connect to."""

    reach: Reach
    remote: str
    address: str = ""
    errors: list[str] = field(default_factory=list)
    _folder: str = ""
    _listener: socket.socket | None = None
    _children: list[subprocess.Popen[bytes]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _closing: bool = False

    def __enter__(self) -> Relay:
        if self.reach.direct:
            self.address = self.remote
            return self
        self._folder = tempfile.mkdtemp(prefix="sunset-")
        self.address = f"{self._folder}/s"
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.address)
        Path(self.address).chmod(0o600)
        self._listener.listen(8)
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._closing = True
        if self._listener is not None:
            # close() alone leaves the thread in accept().
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
        with self._lock:
            children = list(self._children)
        for child in children:
            if child.poll() is None:
                child.terminate()
        for child in children:
            try:
                child.wait(5)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)

    def problem(self) -> str:
        """What the way to the host last complained of; empty if nothing."""
        return self.errors[-1] if self.errors else ""

    def _accept(self, listener: socket.socket) -> None:
        while not self._closing:
            try:
                client, _address = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, tempfile.TemporaryFile() as errors:
            try:
                child = subprocess.Popen(
                    self.reach.argv(relay_line(self.remote)),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    env=_environment(),
                    start_new_session=True,
                    bufsize=0,
                )
            except OSError as exc:
                self.errors.append(f"{exc.filename}: {exc.strerror}")
                return
            with self._lock:
                self._children.append(child)
            if child.stdin is None or child.stdout is None:
                raise AssertionError("Popen was given pipes and made none")
            watchdog = threading.Timer(OPEN_TIMEOUT, child.kill)
            watchdog.daemon = True
            watchdog.start()
            rest = self._until_marker(child.stdout)
            watchdog.cancel()
            if rest is None:
                with contextlib.suppress(OSError):
                    child.kill()
                code = child.wait()
                if not self._closing:
                    self.errors.append(f"{self.reach.name}: {_tail(errors) or 'no answer'} (exit code {code})")
                return
            upward = threading.Thread(target=_pump_up, args=(client, child.stdin), daemon=True)
            upward.start()
            with contextlib.suppress(OSError):
                client.sendall(rest)
                while True:
                    data = child.stdout.read(65536)
                    if not data:
                        break
                    client.sendall(data)
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
            upward.join(5)
            child.stdout.close()
            if child.poll() is None:
                child.terminate()
            child.wait()

    @staticmethod
    def _until_marker(stream: IO[bytes]) -> bytes | None:
        """Read past the marker; what came after it in the same read. None if it did not come."""
        seen = b""
        while MARKER not in seen:
            data = stream.read(4096)
            if not data or len(seen) > MARKER_LIMIT:
                return None
            seen += data
        return seen.partition(MARKER)[2]


def _pump_up(client: socket.socket, pipe: IO[bytes]) -> None:
    with contextlib.suppress(OSError, ValueError):
        while True:
            data = client.recv(65536)
            if not data:
                break
            view = memoryview(data)
            while view:
                view = view[pipe.write(view) :]
    with contextlib.suppress(OSError):
        pipe.close()
