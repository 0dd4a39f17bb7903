# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A read-only window on staging directories, run by a forced command of sshd for a vault's pull key.

Private to the collection. Self-contained: Python 3.6 standard library; its text is installed on estate hosts.

    reader.py <key id>

reads <key id>.json beside itself ({"directories": [...]}) and obeys SSH_ORIGINAL_COMMAND:

    stat <file>            one JSON line: {"bytes": n, "mtime_ns": n}
    read <file> <offset>   the bytes from offset to the end of the file as it was when opened
    make <file>            the stream that the job beside this direct.json makes; its last words go to standard error

Nothing else. A file is a plain name in one of the directories, or an absolute path below one of them. A link on the way
from the allowed directory to the file is refused, and so is whatever is no regular file. What make runs must belong to the
account that this runs as, root for a host's data, all the way from the allowed directory, and nobody else may write there.
Exit codes: 0 done, 2 not allowed or not understood, 3 no such file, 4 the file changed while it was read.
"""

import errno
import json
import os
import re
import stat
import sys

NAME = re.compile(r"^[A-Za-z0-9._-]{1,255}$")
COMMAND = re.compile(r"^(?:(stat|make) (.+)|(read) (.+) ([0-9]{1,18}))$")
SPEC, JOB = "direct.json", "_copy_direct_job.py"
KEY_ID = re.compile(r"^[0-9a-f]{16}$")
BLOCK = 1 << 18


class Refused(Exception):
    def __init__(self, code, message):
        # type: (int, str) -> None
        super(Refused, self).__init__(message)
        self.code = code


def parse(command):
    # type: (str) -> tuple
    """(verb, file, offset) of a command line, or Refused."""
    match = COMMAND.match(command)
    if match and "\n" not in command and "\0" not in command:
        verb, name = match.group(1) or match.group(3), match.group(2) or match.group(4)
        absolute = re.match("/[^/]", name) and os.path.normpath(name) == name
        if absolute or NAME.match(name) and name not in (".", ".."):
            if verb != "make" or absolute and os.path.basename(name) == SPEC:
                return verb, name, int(match.group(5) or 0)
    raise Refused(2, "refused: expected 'stat FILE', 'read FILE OFFSET' or 'make /.../direct.json'")


def candidates(directories, name):
    # type: (list, str) -> list
    """(allowed directory, the parts of the way from it to the file)."""
    if not name.startswith("/"):
        return [(directory, [name]) for directory in directories]
    below = [d for d in directories if name.startswith(d + "/")]
    if not below:
        raise Refused(2, "refused: the file lies in none of the allowed directories")
    longest = max(below, key=len)
    return [(longest, name[len(longest) + 1 :].split("/"))]


def walk(directory, parts):
    # type: (str, list) -> list
    """Descriptors of directory and of each of parts below it. The caller closes them, also after an exception: see open_below."""
    way = [os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)]
    try:
        for part in parts:
            way.append(os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=way[-1]))
    except OSError:
        close(way)
        raise
    return way


def close(descriptors):
    # type: (list) -> None
    for descriptor in descriptors:
        os.close(descriptor)


def open_below(directory, parts):
    # type: (str, list) -> int
    """A descriptor of the regular file that parts lead to from directory, or -1 where there is none."""
    way = []  # type: list
    try:
        way = walk(directory, parts[:-1])
        # O_NONBLOCK: opening a named pipe must not wait for its writer.
        fd = os.open(parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=way[-1])
    except FileNotFoundError:
        return -1
    except OSError:
        raise Refused(2, "refused: there is a link on the way to the file, or it may not be read")
    finally:
        close(way)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise Refused(2, "refused: it is not a regular file")
    return fd


def job_directory(directories, name):
    # type: (list, str) -> int
    """A descriptor of the directory of a job that nobody but this account can have put there or altered.

    The caller goes on with the descriptor, never with the path: a directory above may belong to the database's own account,
    which could put another in its place meanwhile.
    """
    directory, parts = candidates(directories, name)[0]
    fd = open_below(directory, parts)
    if fd < 0:
        raise Refused(3, "no such file")
    try:
        way = walk(directory, parts[:-1])
    except OSError:
        os.close(fd)
        raise Refused(2, "refused: the way to the job changed just now")
    facts = [os.fstat(one) for one in way] + [os.fstat(fd)]
    os.close(fd)
    close(way[:-1])
    private = not stat.S_IMODE(facts[-1].st_mode) & 0o077 and facts[-1].st_nlink == 1
    if not private or any(one.st_uid != os.geteuid() or stat.S_IMODE(one.st_mode) & 0o022 for one in facts):
        os.close(way[-1])
        raise Refused(2, "refused: the job or a directory on its way belongs to another account, or others can write there")
    return int(way[-1])


def become_job(directories, name):
    # type: (list, str) -> None
    """From here on this process is the job: its exit code and its two outputs are the vault's answer."""
    fd = job_directory(directories, name)
    os.set_inheritable(fd, True)
    os.execv(sys.executable, [sys.executable, "-I", "-B", "/proc/self/fd/%d/%s" % (fd, JOB)])


def find(directories, name):
    # type: (list, str) -> int
    found = [fd for fd in (open_below(*one) for one in candidates(directories, name)) if fd >= 0]
    if not found:
        raise Refused(3, "no such file")
    if len(found) > 1:
        raise Refused(2, "refused: it lies in more than one of the allowed directories; ask with its whole path")
    return found[0]


def give(fd, offset, count, out):
    # type: (int, int, int, object) -> int
    """Some of the bytes from offset on, at most count; how many. sshd gets them from the kernel where that can hand them over."""
    try:
        return os.sendfile(out.fileno(), fd, offset, min(count, 16 * BLOCK))  # type: ignore[attr-defined]
    except OSError as exc:
        if exc.errno not in (None, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
    block = os.pread(fd, min(BLOCK, count), offset)
    out.write(block)  # type: ignore[attr-defined]
    return len(block)


def stream(fd, offset, out):
    # type: (int, int, object) -> None
    before = os.fstat(fd)
    if offset > before.st_size:
        raise Refused(2, "refused: offset %d is past the end (%d bytes)" % (offset, before.st_size))
    left = before.st_size - offset
    while left > 0:
        sent = give(fd, before.st_size - left, left, out)
        if not sent:
            break
        left -= sent
    out.flush()  # type: ignore[attr-defined]
    after = os.fstat(fd)
    if left or (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
        raise Refused(4, "the file changed while it was read")


def serve(directories, command, out):
    # type: (list, str, object) -> None
    verb, name, offset = parse(command)
    if verb == "make":
        become_job(directories, name)
    fd = find(directories, name)
    try:
        if verb == "read":
            stream(fd, offset, out)
        else:
            facts = os.fstat(fd)
            line = {"bytes": facts.st_size, "mtime_ns": facts.st_mtime_ns}
            out.write(json.dumps(line, sort_keys=True).encode("ascii") + b"\n")  # type: ignore[attr-defined]
            out.flush()  # type: ignore[attr-defined]
    finally:
        os.close(fd)


def main(argv):
    # type: (list) -> int
    try:
        if len(argv) != 2 or not KEY_ID.match(argv[1]):
            raise Refused(2, "refused: this reader was started without its key id")
        with open(os.path.join(os.path.dirname(os.path.abspath(argv[0])), argv[1] + ".json")) as source:
            directories = json.load(source)["directories"]
        serve(directories, os.environ.get("SSH_ORIGINAL_COMMAND", ""), sys.stdout.buffer)
    except Refused as exc:
        sys.stderr.write("%s\n" % exc)
        return exc.code
    except (IOError, OSError, ValueError, KeyError) as exc:
        sys.stderr.write("the reader failed: %s\n" % type(exc).__name__)
        return 5
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
