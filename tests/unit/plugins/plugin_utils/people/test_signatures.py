# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""SSH signatures through the stock tool: made here, verified by hand, and the other way round."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.people import signatures
from tests.unit.builders import allowed_signers


def test_sign_and_verify(keys: dict[str, Path]) -> None:
    signature = signatures.sign(b"words", keys["alice"], signatures.CERTIFICATE)
    signers = allowed_signers(keys)
    assert signatures.verify(b"words", signature, signers, signatures.CERTIFICATE) == "alice"
    for document, namespace in ((b"word", signatures.CERTIFICATE), (b"words", signatures.LEDGER_HEAD)):
        with pytest.raises(Refusal):
            signatures.verify(document, signature, signers, namespace)
    with pytest.raises(Refusal):
        signatures.verify(b"words", "no signature", signers, signatures.CERTIFICATE)
    with pytest.raises(Refusal):
        signatures.verify(b"words", signature, "", signatures.CERTIFICATE)


def test_a_key_is_made_once_and_private(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "run"
    signatures.create_key(path, "a comment")
    first = path.read_bytes()
    signatures.create_key(path, "another")
    assert path.read_bytes() == first
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_what_cannot_be_signed_or_made_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Refusal, match="signing with"):
        signatures.sign(b"x", tmp_path / "none", signatures.HOLD)
    (tmp_path / "file").write_text("")
    with pytest.raises((Refusal, OSError)):
        signatures.create_key(tmp_path / "file" / "key", "x")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Refusal, match="ssh-keygen was not found"):
        signatures.sign(b"x", tmp_path / "none", signatures.HOLD)


def test_a_signature_of_a_person_with_the_stock_tool_is_verified(keys: dict[str, Path], tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    file.write_bytes(b"{}")
    subprocess.run(["ssh-keygen", "-q", "-Y", "sign", "-f", str(keys["bob"]), "-n", signatures.HOLD, str(file)], check=True)
    assert signatures.verify(b"{}", (tmp_path / "x.json.sig").read_text(), allowed_signers(keys), signatures.HOLD) == "bob"


def test_each_kind_has_a_namespace_of_its_own() -> None:
    names = [value for name, value in vars(signatures).items() if name.isupper()]
    assert len(names) == len(set(names)) == 14
