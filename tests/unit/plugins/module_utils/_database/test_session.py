# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
import pytest

from ansible_collections.sunset.crm.plugins.module_utils._database import logins as database_logins


@pytest.mark.parametrize(
    "engine, table, name",
    [
        ("postgresql", "django_session", '"django_session"'),
        ("postgresql", 'a.b"; DROP TABLE x; --', '"a"."b""; DROP TABLE x; --"'),
        ("mariadb", "ses`sion", "`ses``sion`"),
        ("mariadb", "crm.sessions", "`crm`.`sessions`"),
    ],
)
def test_names_are_quoted(engine, table, name):
    assert database_logins.quoted(engine, table) == name


@pytest.mark.parametrize("table", ["", ".x", "x.", "a\nb", "a\0b"])
def test_what_is_no_table(table):
    assert "django_session" in database_logins.table_problem(table)
    assert database_logins.table_problem("public.django_session") is None
