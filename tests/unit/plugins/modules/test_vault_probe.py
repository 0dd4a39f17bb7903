# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a vault says of the servers that it proves copies in."""

from ansible_collections.sunset.crm.plugins.module_utils._proof import mariadb as proof_mariadb
from ansible_collections.sunset.crm.plugins.modules import vault_probe


def test_a_server_whose_program_is_broken_is_missing_and_not_the_whole_vault(monkeypatch, tmp_path):
    """An estate without that engine does not ask for it."""
    broken = tmp_path / "mariadbd"
    broken.write_bytes(b"\x7fELF of another machine")
    broken.chmod(0o755)
    monkeypatch.setattr(proof_mariadb, "find", lambda _names: str(broken))
    told = vault_probe.missing_server(vault_probe.mariadb_there)
    assert told.startswith("its program on this vault does not tell its version: ") and "Exec format" in told
