# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""SSH signatures (SSHSIG) through the stock ssh-keygen, one namespace a kind of statement.

Namespaces keep a signature for one purpose from being used for another (PROTOCOL.sshsig, "namespace").
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal

APPROVAL = "plan-approval@sunset.crm"
WAIVER = "waiver@sunset.crm"
ATTESTATION = "attestation@sunset.crm"
AUTHORISATION = "authorisation@sunset.crm"
HOLD = "hold@sunset.crm"
ACCEPTANCE = "acceptance@sunset.crm"
RETENTION = "retention@sunset.crm"
DESTRUCTION = "destruction@sunset.crm"
DISPOSAL = "disposal@sunset.crm"
KEY_COPIES = "key-copies@sunset.crm"
ORDER = "destruction-order@sunset.crm"
LEDGER_HEAD = "ledger-head@sunset.crm"
CERTIFICATE = "certificate@sunset.crm"
PACKAGE = "package@sunset.crm"


def _keygen(arguments: list[str], data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "LC_ALL": "C"}
    environment.pop("SSH_AUTH_SOCK", None)
    try:
        return subprocess.run(["ssh-keygen", *arguments], input=data, capture_output=True, env=environment, timeout=30, check=False)
    except FileNotFoundError:
        raise Refusal("ssh-keygen was not found; install the OpenSSH client (8.2 or newer) on the control node.") from None


def create_key(path: Path, comment: str) -> None:
    """Make an Ed25519 key pair without a passphrase, readable by its owner only, unless it is there."""
    if path.exists():
        return
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    done = _keygen(["-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path)])
    if done.returncode != 0:
        raise Refusal(f"ssh-keygen could not make the key {path}: {done.stderr.decode(errors='replace').strip()}")


def sign(document: bytes, key: Path, namespace: str) -> str:
    """The armoured signature over document."""
    done = _keygen(["-Y", "sign", "-f", str(key), "-n", namespace], document)
    if done.returncode != 0 or b"BEGIN SSH SIGNATURE" not in done.stdout:
        raise Refusal(f"signing with {key} failed: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout.decode("ascii")


def verify(document: bytes, signature: str, allowed_signers: str, namespace: str) -> str:
    """The principal who signed document in this namespace.

    allowed_signers: text of an ALLOWED SIGNERS file (ssh-keygen(1)). Raises Refusal when the signature is not
    that of an allowed signer, is for another namespace, or the document was altered.
    """
    with tempfile.TemporaryDirectory(prefix="sunset-verify-") as folder:
        allowed, sig = Path(folder, "allowed_signers"), Path(folder, "sig")
        allowed.write_text(allowed_signers, encoding="utf-8")
        sig.write_text(signature, encoding="utf-8")
        found = _keygen(["-Y", "find-principals", "-s", str(sig), "-f", str(allowed)])
        principals = found.stdout.decode("utf-8", "replace").split("\n")[0].strip()
        if found.returncode != 0 or not principals:
            raise Refusal("the key that signed it is not among the allowed signers")
        done = _keygen(["-Y", "verify", "-f", str(allowed), "-I", principals, "-n", namespace, "-s", str(sig)], document)
        if done.returncode != 0:
            raise Refusal(
                f"the signature by {principals} does not hold for namespace {namespace}: it was made for another purpose, "
                "the signer may not sign this kind, or the document was altered"
            )
        return principals
