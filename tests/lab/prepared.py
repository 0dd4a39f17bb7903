# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which state a fresh estate's media begin in: made once by filling real servers, then laid down as images.

The name of a prepared state is a hash of everything that shapes it, so a changed seed makes a new one.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

from . import image, paths, tree
from .layout import MEDIA, Medium
from .loops import Loop, format_empty, restore, save
from .shell import say

PREPARED = ("pgdata", "mydata", "uploads")


def _hash() -> str:
    digest = hashlib.sha256(image.recipe_hash().encode())
    for path in [*tree.sources("db1", "app1", "old1"), paths.HERE / "marks.py"]:
        digest.update(path.read_bytes())
    for name in PREPARED:
        digest.update(repr(MEDIA[name]).encode())
    return digest.hexdigest()[:12]


def folder() -> Path:
    return paths.CACHE / "prepared" / _hash()


def there() -> bool:
    return (folder() / ".complete").exists()


def lay(medium: Medium, loop: Loop) -> bool:
    """The medium's first content: prepared, or an empty file system. False if it still has to be filled."""
    if medium.name in PREPARED and there():
        restore(medium, loop, folder() / f"{medium.name}.img.zst")
        return True
    format_empty(medium, loop)
    return medium.name not in PREPARED


def keep(loops: dict[str, Loop]) -> None:
    """Saves the media of the hosts that are off now; older states go, they would only fill the disk."""
    say("keeping the filled media for the next time")
    part = folder().with_name(f"part-{os.getpid()}")
    part.mkdir(parents=True)
    for name in PREPARED:
        save(MEDIA[name], loops[name], part / f"{name}.img.zst")
    (part / ".complete").touch()
    shutil.rmtree(folder(), ignore_errors=True)
    part.rename(folder())
    for other in folder().parent.iterdir():
        if other != folder():
            shutil.rmtree(other, ignore_errors=True)
