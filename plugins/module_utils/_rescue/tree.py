# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The RAM file system of the rescue, made of the host's own files, and its archive for the kernel.

Private to the collection. Valid for Python 3.6, standard library. Nothing is fetched from anywhere: programs are copied with the
libraries that the host's own loader finds for them, under the paths that they have on the host.
"""

import ctypes
import gzip
import hashlib
import os
import shutil
import stat
import struct
import subprocess
import sys
import sysconfig
from typing import Any, BinaryIO, Dict, Iterable, List, Optional, Set  # noqa: F401

SEARCH = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
# Without these there is no rescue.
NEEDED = ("sh", "cat", "mkdir", "rm", "chmod", "ip", "sshd")
# What helps a person or a technique, where the host has it.
WELCOME = (
    "ls", "cp", "mv", "ln", "echo", "sleep", "sync", "dd", "od", "grep", "sed", "ps", "kill", "mount", "umount", "dmesg", "uname", "df", "free",
    "touch", "head", "tail", "cmp", "lsblk", "blkid", "blockdev", "hdparm", "nvme", "smartctl", "sg_sanitize", "sg_requests", "sg_readcap",
    "sg_opcodes", "sg_format", "sedutil-cli", "mmc", "cryptsetup", "openssl", "rtcwake", "ethtool",
)  # fmt: skip
# Newer OpenSSH runs its sessions in programs of their own.
SSHD_PARTS = ("sshd-session", "sshd-auth")
SSHD_FOLDERS = ("/usr/lib/openssh", "/usr/libexec/openssh", "/usr/libexec", "/usr/lib/ssh")
# Loaded at run time, so no list of libraries names them: the thread library's way out, names of users on older systems, the cipher.
AT_RUN_TIME = ("libgcc_s.so.1", "libnss_files.so.2", "libcrypto.so.3", "libcrypto.so.1.1", "libcrypto.so.10")
STDLIB_WITHOUT = (
    "test", "tests", "idlelib", "tkinter", "lib2to3", "ensurepip", "turtledemo", "pydoc_data", "site-packages", "dist-packages", "venv",
    "sqlite3", "curses", "dbm", "xmlrpc", "wsgiref",
)  # fmt: skip
EXTENSIONS_WITHOUT = ("_test", "_tkinter", "_dbm", "_gdbm", "_curses", "readline", "_sqlite3", "_ctypes_test", "_xxtest", "_xxsub", "xx")
ETC = ("/etc/machine-id", "/etc/os-release", "/usr/lib/os-release", "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/hostname")
EMPTY = (
    "root",
    "tmp",
    "var/tmp",
    "var/lib",
    "run/lock",
    "run/sshd",
    "var/empty/sshd",
    "usr/share/empty.sshd",
    "proc",
    "sys",
    "dev",
    "dev/shm",
)
NODES = (
    ("null", 0o666, 1, 3),
    ("zero", 0o666, 1, 5),
    ("random", 0o666, 1, 8),
    ("urandom", 0o666, 1, 9),
    ("tty", 0o666, 5, 0),
    ("console", 0o600, 5, 1),
)


class TreeError(Exception):
    """The rescue cannot be built from what is here."""


def find(name):
    # type: (str) -> Optional[str]
    for folder in SEARCH:
        path = os.path.join(folder, name)
        if os.access(path, os.X_OK) and os.path.isfile(path):
            return path
    return None


def is_elf(path):
    # type: (str) -> bool
    with open(path, "rb") as stream:
        return stream.read(4) == b"\x7fELF"


def parse_ldd(text):
    # type: (str) -> Dict[str, Any]
    """{libraries: paths that ldd found, missing: names that it did not find}. Pure."""
    libraries, missing = set(), set()  # type: Set[str], Set[str]
    for line in text.splitlines():
        words = line.split()
        if "=>" in words:
            target = words[words.index("=>") + 1 :]
            if target[:2] == ["not", "found"]:
                missing.add(words[0])
            elif target and target[0].startswith("/"):
                libraries.add(target[0])
        elif len(words) == 2 and words[0].startswith("/") and words[1].startswith("(0x"):
            libraries.add(words[0])
    return {"libraries": libraries, "missing": missing}


def loader(path):
    # type: (str) -> Optional[str]
    """The dynamic loader that a 64-bit program names (PT_INTERP); None where it names none, or it is no such program."""
    with open(path, "rb") as stream:
        head = stream.read(64)
        if len(head) < 64 or head[:5] != b"\x7fELF\x02" or head[5:6] not in (b"\x01", b"\x02"):
            return None
        order = "<" if head[5:6] == b"\x01" else ">"
        start = struct.unpack_from(order + "Q", head, 32)[0]
        size, count = struct.unpack_from(order + "HH", head, 54)
        if max(start, size * count) > os.fstat(stream.fileno()).st_size:
            return None
        stream.seek(start)
        table = stream.read(size * count)
        for at in range(0, len(table) - 55, size or 56):
            kind, offset, length = struct.unpack_from(order + "I4xQ16xQ", table, at)
            if kind == 3 and offset < 1 << 40:
                stream.seek(offset)
                return os.fsdecode(stream.read(min(length, 4096)).split(b"\0")[0]) or None
    return None


def listed(program, preloaded=()):
    # type: (str, Iterable[str]) -> Optional[Dict[str, Any]]
    """What the loader itself finds for a program, or, for many extensions at once, with them loaded before it. None where it complains.

    One process in place of the handful that C(ldd) starts for each file, which is what a build on a slow machine spends its time on."""
    own = loader(program)
    if own is None:
        return None
    environment = dict(os.environ, LC_ALL="C", **({"LD_PRELOAD": ":".join(preloaded)} if preloaded else {}))
    try:
        child = subprocess.Popen(
            [own, "--list", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, env=environment
        )
        out, err = child.communicate()
    except OSError:
        return None
    found = parse_ldd(out.decode("utf-8", "replace"))
    return None if child.returncode != 0 or err.strip() or found["missing"] else found


def libraries_of(paths):
    # type: (Iterable[str]) -> Dict[str, Any]
    """What the host's own loader finds for these programs and extensions."""
    paths = list(paths)
    extensions = [path for path in paths if path.endswith(".so")]
    found = {"libraries": set(), "missing": set()}  # type: Dict[str, Any]
    at_once = listed(python(), extensions) if extensions else None
    left = []
    for path in paths:
        one = at_once if at_once and path in extensions else listed(path)
        if one:
            found["libraries"] |= one["libraries"]
        else:
            left.append(path)
    more = by_ldd(left) if left else found
    return {name: found[name] | more[name] for name in found}


def by_ldd(paths):
    # type: (Iterable[str]) -> Dict[str, Any]
    """The same by C(ldd), which also knows static programs, those of another architecture, and what is missing."""
    environment = dict(os.environ, LC_ALL="C")
    child = subprocess.Popen(
        ["ldd"] + list(paths), stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, env=environment
    )
    out, err = child.communicate()
    # Exit code 1 only says that one of them is static.
    if child.returncode not in (0, 1):
        raise TreeError("ldd ended with exit code %d: %s" % (child.returncode, err.decode("utf-8", "replace").strip()[-300:]))
    return parse_ldd(out.decode("utf-8", "replace"))


def libraries_at_run_time():
    # type: () -> List[str]
    """Paths of libraries that programs open by name while they run, as this host's loader finds them."""
    for name in AT_RUN_TIME:
        try:
            ctypes.CDLL(name)
        except OSError:
            continue
    found = set()
    with open("/proc/self/maps") as stream:
        for line in stream:
            path = line.split(None, 5)[-1].strip()
            base = os.path.basename(path)
            if path.startswith("/") and any(base.split(".so")[0] == name.split(".so")[0] or base == name for name in AT_RUN_TIME):
                found.add(path)
    # The names by which they are asked for, beside the files that these names lead to.
    return sorted(found | {os.path.join(os.path.dirname(path), name) for path in found for name in AT_RUN_TIME if same(path, name)})


def same(path, name):
    # type: (str, str) -> bool
    beside = os.path.join(os.path.dirname(path), name)
    return os.path.exists(beside) and os.path.realpath(beside) == os.path.realpath(path)


def python():
    # type: () -> str
    """The interpreter itself, past links and virtual environments."""
    return os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)


def standard_library():
    # type: () -> List[str]
    """The files of Python's standard library that a module needs; extensions whose libraries are large or useless here stay away."""
    found = []
    for top in sorted({sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")}):
        for folder, folders, names in os.walk(top):
            folders[:] = sorted(name for name in folders if name not in STDLIB_WITHOUT and not name.startswith("config-"))
            for name in sorted(names):
                extension = name.endswith(".so")
                optimised = ".opt-" in name
                if optimised or (extension and name.startswith(EXTENSIONS_WITHOUT)) or not name.endswith((".py", ".pyc", ".so")):
                    continue
                found.append(os.path.join(folder, name))
    return found


class Tree(object):
    """A folder that becomes the root of the rescue."""

    def __init__(self, root):
        # type: (str) -> None
        self.root = root
        self.files = set()  # type: Set[str]

    def path(self, path):
        # type: (str) -> str
        return os.path.join(self.root, path.lstrip("/"))

    def add(self, path):
        # type: (str) -> None
        """Copy a file of the host with every link on the way to it."""
        parts, at, links = path.strip("/").split("/"), "/", 0
        while parts:
            at = os.path.join(at, parts.pop(0))
            inside = self.path(at)
            if os.path.islink(at):
                links += 1
                if links > 40:
                    raise TreeError("%s leads in a circle of links" % path)
                target = os.readlink(at)
                if not os.path.lexists(inside):
                    os.symlink(target, inside)
                parts = os.path.normpath(os.path.join(os.path.dirname(at), target)).strip("/").split("/") + parts
                at = "/"
            elif os.path.isdir(at):
                if not os.path.isdir(inside):
                    os.makedirs(inside, 0o755)
            elif at not in self.files:
                self._take(at, inside)
                self.files.add(at)

    @staticmethod
    def _take(path, inside):
        # type: (str, str) -> None
        """The file itself under a second name, which costs no room; a copy where it lies on another file system."""
        try:
            os.link(path, inside)
        except OSError:
            shutil.copy2(path, inside)

    def add_programs(self, needed, welcome):
        # type: (Iterable[str], Iterable[str]) -> None
        """Programs and extensions with their libraries. One that is only welcome and lacks a library is left out."""
        needed, welcome = [p for p in needed if is_elf(p)], [p for p in welcome if is_elf(p)]
        found = libraries_of(needed)
        if found["missing"]:
            raise TreeError("libraries of the host's own programs are not there: %s" % ", ".join(sorted(found["missing"])))
        more = libraries_of(welcome) if welcome else {"libraries": set(), "missing": set()}
        if more["missing"]:
            welcome = [path for path in welcome if not libraries_of([path])["missing"]]
            more = libraries_of(welcome) if welcome else more
        for path in needed + welcome + sorted(found["libraries"] | more["libraries"]):
            self.add(path)

    def write(self, path, text, mode=0o644):
        # type: (str, str, int) -> None
        inside = self.path(path)
        if not os.path.isdir(os.path.dirname(inside)):
            os.makedirs(os.path.dirname(inside), 0o755)
        if os.path.lexists(inside):
            os.unlink(inside)  # it may be the host's own file under a second name
        fd = os.open(inside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(fd, "w") as stream:
            stream.write(text)
        os.chmod(inside, mode)

    def furnish(self):
        # type: () -> None
        """Folders and device nodes that must be there before anything runs."""
        for name in EMPTY:
            if not os.path.isdir(self.path(name)):
                os.makedirs(self.path(name), 0o755)
        for name in ("tmp", "var/tmp", "dev/shm"):
            os.chmod(self.path(name), 0o1777)  # noqa: S103 (as everywhere: sticky)
        os.chmod(self.path("root"), 0o700)
        for name, mode, major, minor in NODES:
            if not os.path.exists(self.path("dev/" + name)):
                os.mknod(self.path("dev/" + name), mode | stat.S_IFCHR, os.makedev(major, minor))
                os.chmod(self.path("dev/" + name), mode)

    def size(self):
        # type: () -> int
        return sum(os.lstat(os.path.join(folder, name)).st_size for folder, _dirs, names in os.walk(self.root) for name in names)


# --- the archive


def header(number, info, size, name):
    # type: (int, os.stat_result, int, bytes) -> bytes
    """One entry's head in the format that the kernel reads (newc). Everything in it belongs to root. Pure."""
    special = stat.S_ISCHR(info.st_mode) or stat.S_ISBLK(info.st_mode)
    rdev = (os.major(info.st_rdev), os.minor(info.st_rdev)) if special else (0, 0)
    fields = (number, info.st_mode, 0, 0, 1, int(info.st_mtime), size, 0, 0, rdev[0], rdev[1], len(name) + 1, 0)
    head = b"070701" + b"".join(b"%08X" % (field & 0xFFFFFFFF) for field in fields) + name + b"\0"
    return head + b"\0" * (-len(head) % 4)


class Sink(object):
    """A file that is written once, with its size and digest."""

    def __init__(self, stream):
        # type: (BinaryIO) -> None
        self.stream, self.size, self.digest = stream, 0, hashlib.sha256()

    def write(self, data):
        # type: (bytes) -> int
        self.stream.write(data)
        self.digest.update(data)
        self.size += len(data)
        return len(data)

    def flush(self):
        # type: () -> None
        self.stream.flush()


class Archive(object):
    """A cpio archive that is written once."""

    def __init__(self, stream):
        # type: (Any) -> None
        self.stream, self.size, self.number = stream, 0, 0

    def _put(self, data):
        # type: (bytes) -> None
        self.stream.write(data)
        self.size += len(data)

    def entry(self, path, name):
        # type: (str, str) -> None
        info = os.lstat(path)
        self.number += 1
        link = os.fsencode(os.readlink(path)) if stat.S_ISLNK(info.st_mode) else b""
        length = len(link) if link else (info.st_size if stat.S_ISREG(info.st_mode) else 0)
        self._put(header(self.number, info, length, os.fsencode(name)))
        if link:
            self._put(link)
        elif length:
            seen = 0
            with open(path, "rb") as stream:
                for block in iter(lambda: stream.read(1 << 20), b""):
                    seen += len(block)
                    self._put(block)
            if seen != length:
                raise TreeError("%s changed while it was packed" % path)
        self._put(b"\0" * (-length % 4))

    def close(self):
        # type: () -> None
        head = b"070701" + b"%08X" * 13 % (0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 11, 0) + b"TRAILER!!!\0"
        self._put(head + b"\0" * (-len(head) % 4))
        self._put(b"\0" * (-self.size % 512))


def knows_gzip(release):
    # type: (str) -> bool
    """Whether the kernel says of itself that it unpacks an archive compressed by gzip."""
    for path in ("/boot/config-" + release, "/lib/modules/%s/config" % release, "/proc/config.gz"):
        try:
            with (gzip.open if path.endswith(".gz") else open)(path, "rb") as stream:
                return b"\nCONFIG_RD_GZIP=y\n" in stream.read()
        except (OSError, IOError):
            continue
    return False


def pack(root, target, compressed=False):
    # type: (str, str, bool) -> Dict[str, Any]
    """The whole tree as an archive beside it: {path, bytes, sha256, entries, compressed}.

    A smaller one is not only sooner written: the jump begins with a check of every byte of it, by code that is not made for speed."""
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(fd, "wb") as stream:
        sink = Sink(stream)
        packer = gzip.GzipFile(filename="", mode="wb", compresslevel=1, fileobj=sink, mtime=0) if compressed else None  # type: ignore[arg-type]
        archive = Archive(packer or sink)
        for folder, folders, names in os.walk(root):
            folders.sort()
            for name in sorted(folders + names):
                path = os.path.join(folder, name)
                archive.entry(path, os.path.relpath(path, root))
        archive.close()
        if packer:
            packer.close()
        stream.flush()
        os.fsync(stream.fileno())
    return {"path": target, "bytes": sink.size, "sha256": sink.digest.hexdigest(), "entries": archive.number, "compressed": compressed}
