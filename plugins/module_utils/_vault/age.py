# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""age, as a vault uses it: make an identity, wrap it, know its recipient. The data streams are in _vault.stream.

Private to the collection. Valid for Python 3.6, standard library. No key material ever enters an argument list,
an environment or a log: age is given file names only.
"""

import os
import re
from typing import Any, Callable, Dict, Tuple  # noqa: F401

from ansible_collections.sunset.crm.plugins.module_utils._vault.state import VaultError, sha256_file, sync_directory

PUBLIC = re.compile(r"^age1[0-9a-z]{58}$")


def make_identity(run, path):
    # type: (Callable[..., Any], str) -> None
    """A new identity under path, 0600, complete or not there at all."""
    part = path + ".part"
    if os.path.lexists(part):
        os.unlink(part)
    run(["age-keygen", "-o", part], timeout=30)
    os.chmod(part, 0o600)
    os.rename(part, path)


def recipient_of(read, path):
    # type: (Callable[..., Any], str) -> str
    """The public recipient of an identity file."""
    result = read(["age-keygen", "-y", path], timeout=30)
    recipient = result.out.strip()
    if result.rc != 0 or not PUBLIC.match(recipient):
        raise VaultError("%s holds no age identity that age-keygen understands (exit code %d)" % (path, result.rc))
    return recipient


def wrap(run, identity, recipient, target):
    # type: (Callable[..., Any], str, str, str) -> str
    """Encrypt the identity file to a custodian's recipient; returns the digest of the wrapped file."""
    part = target + ".part"
    if os.path.lexists(part):
        os.unlink(part)
    run(["age", "-r", recipient, "-o", part, identity], timeout=30)
    os.chmod(part, 0o600)
    fd = os.open(part, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    os.rename(part, target)
    sync_directory(os.path.dirname(target))
    return sha256_file(target)[0]


def tool_versions(read):
    # type: (Callable[..., Any]) -> Dict[str, str]
    """Versions of the tools a vault cannot do without; a missing one is a clear refusal."""
    result = read(["age", "--version"], timeout=30)
    if result.rc == 127:
        raise VaultError("age is not installed on this vault; install the package age (it brings age-keygen)")
    return {"age": result.out.strip()}
