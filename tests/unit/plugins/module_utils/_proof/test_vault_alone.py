# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a throw-away server could reach anybody, and when that is refused. (A real copy that calls: test_traps_postgresql.py.)"""

import types

import pytest

from ansible_collections.sunset.crm.plugins.module_utils._proof import alone as proof_alone, run as proof_run, scratch as proof_scratch
from ansible_collections.sunset.crm.plugins.module_utils._vault.state import VaultError

CALLS = {"engine": "postgresql", "catalogue": {"foreign server": {"far": "x"}, "extension": {"dblink": "x", "pg_trgm": "y"}}}


@pytest.mark.parametrize(
    ("wanted", "named"),
    [
        (CALLS, ["foreign server far", "extension dblink"]),
        ({"engine": "postgresql", "catalogue": {"extension": {"pg_trgm": "y"}}, "notes": {"data_elsewhere": ["t"]}}, []),
        ({"engine": "mariadb", "notes": {"data_elsewhere": ["there"]}}, ["table there"]),
        ({"engine": "sqlite"}, []),
    ],
)
def test_what_could_call(wanted, named):
    assert proof_alone.reaching(wanted) == named


def test_without_a_namespace_what_could_call_is_refused_and_all_else_says_so(monkeypatch):
    monkeypatch.setattr(proof_alone, "_KNOWN", ["the vault's own: no network namespace can be made here (EPERM)"])
    with pytest.raises(VaultError, match="holds foreign server far, extension dblink.*EPERM.*max_user_namespaces") as caught:
        proof_run.check_network(CALLS)
    assert caught.value.verdict == "unknown"
    assert proof_run.check_network({"engine": "mariadb"}).startswith("the vault's own")
    monkeypatch.setattr(proof_alone, "_KNOWN", [proof_alone.NONE])
    assert proof_run.check_network(CALLS) == proof_alone.NONE


def test_it_is_tried_and_not_assumed(monkeypatch):
    def refuse():
        raise OSError(1, "no")

    monkeypatch.setattr(proof_alone, "_KNOWN", [])
    monkeypatch.setattr(proof_alone, "enter", refuse)
    assert proof_alone.network() == "the vault's own: no network namespace can be made here (EPERM)"
    monkeypatch.setattr(proof_alone, "_KNOWN", [])
    # It "works", but the network is still there.
    monkeypatch.setattr(proof_alone, "enter", lambda: None)
    assert proof_alone.network() != proof_alone.NONE


def test_what_is_hidden_is_there_and_not_needed(tmp_path):
    home, live = tmp_path / "home", tmp_path / "live"
    for one in (home / "packages", live, tmp_path / "memory" / "sv-1"):
        one.mkdir(parents=True)
    (tmp_path / "link").symlink_to(live)
    kept = [str(home / "packages"), str(tmp_path / "link"), str(home), str(tmp_path / "none"), "/", str(tmp_path / "memory")]
    found = proof_alone.to_hide(kept, [str(tmp_path / "memory" / "sv-1"), "/usr"])
    assert found == sorted([str(home), str(live), "/proc"]), "no root, no parent of the scratch, nothing twice, links by where they lead"


def test_a_directory_that_cannot_be_hidden_is_not_said_to_be(monkeypatch, tmp_path):
    monkeypatch.setattr(proof_alone, "_HIDES", {})
    monkeypatch.setattr(proof_alone, "enter", lambda _paths: None)
    assert not proof_alone.hides([str(tmp_path)]), "it was tried, and the directory is what it was"


def test_an_account_without_an_entry_proves_too(monkeypatch):
    """A container may run as any number."""

    def nobody(_uid):
        raise KeyError("getpwuid(): uid not found")

    package = types.SimpleNamespace(root="/srv/vault", estate="lab", name="db1", live_base="/dev/shm/live")
    monkeypatch.setattr(proof_scratch.pwd, "getpwuid", nobody)
    monkeypatch.setenv("HOME", "/runner")
    assert proof_scratch.Scratch("/dev/shm", package, "database:crm", 1).kept == ["/srv/vault", "/dev/shm/live", "/runner"]
    monkeypatch.delenv("HOME")
    assert proof_scratch.Scratch("/dev/shm", package, "database:crm", 1).kept == ["/srv/vault", "/dev/shm/live"]


def test_a_server_that_lies_in_the_accounts_own_directory_is_seen(monkeypatch, tmp_path):
    """As one that was unpacked to /usr/local/mysql, which is the home of some accounts."""
    (tmp_path / "mysql/bin").mkdir(parents=True)
    package = types.SimpleNamespace(root=str(tmp_path / "vault"), estate="lab", name="db1")
    monkeypatch.setattr(proof_scratch.pwd, "getpwuid", lambda _uid: types.SimpleNamespace(pw_dir=str(tmp_path / "mysql")))
    monkeypatch.setattr(proof_alone, "_KNOWN", [proof_alone.NONE])
    monkeypatch.setattr(proof_alone, "hides", lambda _paths: True)
    scratch = proof_scratch.Scratch("/dev/shm", package, "database:crm", 1)
    assert scratch.hidden("/usr/sbin/mysqld") == ["/proc", str(tmp_path / "mysql")]
    assert scratch.hidden(str(tmp_path / "mysql/bin/mysqld")) == ["/proc"]
