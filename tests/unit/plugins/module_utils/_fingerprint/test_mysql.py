# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What MySQL needs otherwise than MariaDB: versions, tools, options, accounts, definitions. The servers: tests/integration/test_traps_mysql."""

from pathlib import Path
from typing import Optional

import pytest

from ansible_collections.sunset.crm.plugins.module_utils._dump import my as dump_my, mysql as dump_mysql
from ansible_collections.sunset.crm.plugins.module_utils._fingerprint import my as fingerprint_my, mysql as fingerprint_mysql
from ansible_collections.sunset.crm.plugins.module_utils._proof import mysql as proof_mysql
from ansible_collections.sunset.crm.plugins.module_utils._proof.run import relation
from ansible_collections.sunset.crm.plugins.module_utils._vault.state import VaultError

HELP = "  --column-statistics \n --set-gtid-purged[=name] \n  --dump-date  Put\n -y, --no-tablespaces \n --init-command=name\n"


@pytest.mark.parametrize(
    ("version", "refused"),
    [("5.7.44-log", True), ("8.0.18", True), ("8.0.19", False), ("8.0.36-0ubuntu0.22.04.1", False), ("9.7.4-2", False), ("", True)],
)
def test_a_server_that_cannot_be_asked_exactly_is_refused_by_its_version(version: str, refused: bool) -> None:
    said = dump_mysql.too_old(version)
    assert (said is not None) == refused and (said is None or (version in said and "expected 8.0.19 or later" in said))


def test_only_mysqls_own_tools_are_taken() -> None:
    ours = "mysqldump  Ver 8.0.36 for Linux on x86_64 (MySQL Community Server - GPL)"
    assert dump_mysql.foreign_tool("mysqldump", ours) is None
    for other in ("mysqldump  Ver 10.19 Distrib 10.11.6-MariaDB, for debian-linux-gnu (x86_64)", "", "mysqldump from 11.8.2-MariaDB"):
        assert "is not MySQL's" in (dump_mysql.foreign_tool("mysqldump", other) or "")


def test_options_go_by_what_the_tool_and_the_server_know() -> None:
    new = dump_mysql.common(dump_mysql.features(HELP), "9.7.4")
    assert "--set-gtid-purged=OFF" in new and "--column-statistics=0" in new and "--init-command=" + fingerprint_mysql.GIPK in new
    assert not [one for one in dump_mysql.common(dump_mysql.features(HELP), "8.0.29") if "gipk" in one]
    assert (
        dump_mysql.common(dump_mysql.features(""), "9.7.4")
        == dump_my.plan_passes("d", {"dump-history": False, "skip-dump-date": False}, [], [])[0][:5]
    )


def test_keys_that_the_server_hides_need_a_tool_that_can_ask_for_them() -> None:
    can, cannot = dump_mysql.features(HELP), dump_mysql.features("")
    assert dump_mysql.hidden_keys_problem(can, "OFF") is None and dump_mysql.hidden_keys_problem(cannot, "ON") is None
    assert dump_mysql.hidden_keys_problem(cannot, None) is None
    assert "SET GLOBAL it to ON" in (dump_mysql.hidden_keys_problem(cannot, "OFF") or "")


def test_default_roles_are_set_when_all_accounts_are_there() -> None:
    odd = "CREATE USER `a`` DEFAULT ROLE `@`%` IDENTIFIED WITH 'p' AS 0x00 DEFAULT ROLE `r`@`%`,`s`@`10.%` REQUIRE NONE COMMENT ' DEFAULT ROLE `x`@`y` REQUIRE '"
    plain = "CREATE USER `b`@`%` IDENTIFIED WITH 'p' REQUIRE NONE"
    assert dump_mysql.in_order([odd, plain]) == [
        "CREATE USER IF NOT EXISTS `a`` DEFAULT ROLE `@`%` IDENTIFIED WITH 'p' AS 0x00 REQUIRE NONE COMMENT ' DEFAULT ROLE `x`@`y` REQUIRE ';",
        "CREATE USER IF NOT EXISTS `b`@`%` IDENTIFIED WITH 'p' REQUIRE NONE;",
        "",
        "SET DEFAULT ROLE `r`@`%`,`s`@`10.%` TO `a`` DEFAULT ROLE `@`%`;",
    ]


@pytest.mark.parametrize(
    ("shown", "kept"),
    [
        ("  `a` varchar(20) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin DEFAULT 'x',", "  `a` varchar(20) COLLATE utf8mb4_bin DEFAULT 'x',"),
        ("  `a``)` enum('(',')''') CHARACTER SET latin1 COLLATE latin1_bin,", "  `a``)` enum('(',')''') COLLATE latin1_bin,"),
        ("  `a` text COLLATE utf8mb4_bin,", None),
        ("  `a` text CHARACTER SET latin1,", None),
        ("  `a` int COMMENT ' CHARACTER SET utf8mb4 COLLATE utf8mb4_bin'", None),
        (") ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin", None),
    ],
)
def test_a_definition_in_words_that_a_reload_keeps(shown: str, kept: Optional[str]) -> None:
    assert fingerprint_mysql.definition(shown) == (kept or shown)


def test_types_that_only_mysql_has_are_exported_as_what_they_are() -> None:
    def exported(kind: str) -> str:
        return dump_my.literal(fingerprint_my.Column("c", kind, "", None))

    assert "_utf8mb4 X" in exported("json")
    assert all("'X'''" in exported(kind) for kind in ("vector", "geomcollection"))


def test_the_relation_of_two_servers_is_said_by_release() -> None:
    assert relation("8.0.36", "8.0.36", "mysql") == "same"
    assert relation("8.0.36", "8.0.40-0ubuntu1", "mysql") == "same major"
    assert relation("8.0.36", "8.4.2", "mysql") == "newer"
    assert relation("8.0.36", "10.11.6-MariaDB", "mysql") == "vendor changed"
    assert relation("15.4", "15.9", "postgresql") == "same major" and relation("15.4", "16.1", "postgresql") == "newer"


@pytest.mark.parametrize(
    ("source", "here", "words"),
    [
        (
            "8.4.1",
            "/usr/sbin/mysqld  Ver 8.0.36 for Linux on x86_64 (MySQL Community Server - GPL)",
            "the source runs MySQL 8.4; this vault has",
        ),
        ("10.11.6-MariaDB", "mysqld  Ver 9.7.4-2", "not MySQL; this proof restores MySQL dumps only"),
        ("none", "mysqld  Ver 9.7.4-2", "is not known"),
    ],
)
def test_a_server_that_proves_nothing_is_refused(source: str, here: str, words: str) -> None:
    with pytest.raises(VaultError, match=words) as refused:
        proof_mysql.check_version(source, here)
    assert refused.value.verdict == "unknown"
    proof_mysql.check_version("8.0.36", "mysqld  Ver 9.7.4-2 for Linux")


def test_mariadbs_program_of_the_same_name_is_passed_over(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mysqld").write_text("")
        (tmp_path / folder / "mysqld").chmod(0o755)
    told = {
        str(tmp_path / "a/mysqld"): "mysqld  Ver 10.11.6-MariaDB",
        str(tmp_path / "b/mysqld"): "mysqld  Ver 8.4.2 for Linux",
    }.__getitem__
    places = (str(tmp_path / "a"), str(tmp_path / "b"))
    assert proof_mysql.find("mysqld", places, told)[0] == str(tmp_path / "b/mysqld")
    with pytest.raises(
        VaultError, match=r"no mysqld of MySQL; .*a/mysqld is not one \(mysqld  Ver 10.11.6-MariaDB\); install MySQL's server"
    ):
        proof_mysql.find("mysqld", places[:1], told)
