# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A read-only window on staging directories, run by a forced command of sshd for a vault's pull key.

Private to the collection. Self-contained: Python 3.6 standard library; its text is installed on estate hosts.

    reader.py <key id>

reads <key id>.json beside itself ({"directories": [...]}) and obeys SSH_ORIGINAL_COMMAND:

    stat <file>            one JSON line: {"bytes": n, "mtime_ns": n}
    read <file> <offset>   the bytes from offset to the end of the file as it was when opened

Nothing else. A file is a plain name in one of the directories, or an absolute path below one of them. A link on the way
from the allowed directory to the file is refused, and so is whatever is no regular file.
Exit codes: 0 done, 2 not allowed or not understood, 3 no such file, 4 the file changed while it was read.
"""

import json
import os
import re
import stat
import sys

NAME = re.compile(r"^[A-Za-z0-9._-]{1,255}$")
COMMAND = re.compile(r"^(?:(stat) (.+)|(read) (.+) ([0-9]{1,18}))$")
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
            return verb, name, int(match.group(5) or 0)
    raise Refused(2, "refused: expected 'stat FILE' or 'read FILE OFFSET'")


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


def open_below(directory, parts):
    # type: (str, list) -> int
    """A descriptor of the regular file that parts lead to from directory, or -1 where there is none."""
    here = -1
    try:
        here = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        for part in parts[:-1]:
            inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=here)
            os.close(here)
            here = inner
        # O_NONBLOCK: opening a named pipe must not wait for its writer.
        fd = os.open(parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=here)
    except FileNotFoundError:
        return -1
    except OSError:
        raise Refused(2, "refused: there is a link on the way to the file, or it may not be read")
    finally:
        if here >= 0:
            os.close(here)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise Refused(2, "refused: it is not a regular file")
    return fd


def find(directories, name):
    # type: (list, str) -> int
    found = [fd for fd in (open_below(*one) for one in candidates(directories, name)) if fd >= 0]
    if not found:
        raise Refused(3, "no such file")
    if len(found) > 1:
        raise Refused(2, "refused: it lies in more than one of the allowed directories; ask with its whole path")
    return found[0]


def stream(fd, offset, out):
    # type: (int, int, object) -> None
    before = os.fstat(fd)
    if offset > before.st_size:
        raise Refused(2, "refused: offset %d is past the end (%d bytes)" % (offset, before.st_size))
    os.lseek(fd, offset, os.SEEK_SET)
    left = before.st_size - offset
    while left > 0:
        block = os.read(fd, min(BLOCK, left))
        if not block:
            break
        out.write(block)  # type: ignore[attr-defined]
        left -= len(block)
    out.flush()  # type: ignore[attr-defined]
    after = os.fstat(fd)
    if left or (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
        raise Refused(4, "the file changed while it was read")


def serve(directories, command, out):
    # type: (list, str, object) -> None
    verb, name, offset = parse(command)
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
