# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Entries of a restored tree whose mode keeps even their owner out (an upload in quarantine, chmod 000), read all the same.

Private to the collection. Valid for Python 3.6, standard library. Only for trees of our own that are thrown away afterwards: the
source is read as root, whom no mode keeps out, and nothing is ever changed there.
"""

import base64
import os
import stat
from typing import Any, Dict  # noqa: F401

# The owner's part of a mode stands in the list of an extended ACL too. Names of lists that can be read without a right to read the file.
_LISTS = ("system.posix_acl_access", "system.posix_acl_default")


def _lists(path):
    # type: (bytes) -> Dict[str, str]
    found = {}
    for name in _LISTS:
        try:
            found[name] = base64.b64encode(os.getxattr(path, name, follow_symlinks=False)).decode("ascii")
        except OSError:
            continue
    return found


def open_all(root):
    # type: (bytes) -> Dict[bytes, Dict[str, Any]]
    """Give the owner the rights to read every entry; {name relative to root: what its mode and lists were before}."""
    changed = {}  # type: Dict[bytes, Dict[str, Any]]
    inodes = {}  # type: Dict[Any, Dict[str, Any]]

    def give(path):
        # type: (bytes) -> None
        found = os.lstat(path)
        mode, inode = found.st_mode, (found.st_dev, found.st_ino)
        wanted = stat.S_IRUSR | stat.S_IXUSR if stat.S_ISDIR(mode) else stat.S_IRUSR
        if inode not in inodes:
            if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)) or mode & wanted == wanted:
                return
            inodes[inode] = {"mode": "{0:04o}".format(stat.S_IMODE(mode)), "lists": _lists(path)}
            os.chmod(path, stat.S_IMODE(mode) | wanted)
        # A hard link is opened under its first name.
        changed[os.path.relpath(path, root)] = inodes[inode]

    give(root)
    # From above: a folder is opened before it is entered.
    for folder, folders, files in os.walk(root):
        for name in folders + files:
            give(os.path.join(folder, name))
    return changed


def as_before(entry, before):
    # type: (Dict[str, Any], Dict[str, Any]) -> None
    """A manifest's entry that was read after open_all() tells what was restored."""
    entry["mode"] = before["mode"]
    held = dict(entry.pop("xattrs", {}), **before["lists"])
    if held:
        entry["xattrs"] = held
