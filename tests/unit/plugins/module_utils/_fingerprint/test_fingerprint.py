# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
import pytest

from ansible_collections.sunset.crm.plugins.module_utils._database import sqlclient as database_sqlclient
from ansible_collections.sunset.crm.plugins.module_utils._fingerprint import (
    engines as fingerprint_engines,
    my as fingerprint_my,
    pg as fingerprint_pg,
)


def taken(**changes):
    value = {
        "schema": 1,
        "engine": "postgresql",
        "database": "crm",
        "method": "md5",
        "version": "15.1",
        "tables": {"public.a": {"rows": 2, "hash": "10"}, "public.b": {"rows": 0, "hash": "0"}},
        "derived": {"public.m": {"rows": 1, "hash": "5"}},
        "catalogue": {"view": {"public.v": "aa"}, "sequence value": {"public.s": "7/true"}},
        "globals": {"role": {"postgres": "bb"}},
    }
    value.update(changes)
    return value


def told(source, copy):
    return [(one["kind"], one["name"], one["what"]) for one in fingerprint_engines.compare(source, copy)]


def test_equal():
    assert fingerprint_engines.compare(taken(), taken(version="15.9")) == []
    assert fingerprint_engines.verdict([]) == "equal"
    assert fingerprint_engines.digest(taken()) == fingerprint_engines.digest(taken(version="15.9"))


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({"tables": {"public.a": {"rows": 2, "hash": "11"}, "public.b": {"rows": 0, "hash": "0"}}}, ("table", "public.a", "content")),
        ({"tables": {"public.a": {"rows": 1, "hash": "10"}, "public.b": {"rows": 0, "hash": "0"}}}, ("table", "public.a", "rows")),
        ({"tables": {"public.a": {"rows": 2, "hash": "10"}}}, ("table", "public.b", "missing in the copy")),
        ({"catalogue": {"view": {"public.v": "ab"}, "sequence value": {"public.s": "7/true"}}}, ("view", "public.v", "definition")),
        ({"catalogue": {"view": {}, "sequence value": {"public.s": "7/true"}}}, ("view", "public.v", "missing in the copy")),
        ({"catalogue": {"sequence value": {"public.s": "7/true"}}}, ("view", "public.v", "missing in the copy")),
        ({"globals": {"role": {}}}, ("role", "postgres", "missing in the copy")),
    ],
)
def test_each_difference_has_a_name_and_decides(changes, expected):
    assert told(taken(), taken(**changes)) == [expected]
    assert fingerprint_engines.verdict(fingerprint_engines.compare(taken(), taken(**changes))) == "different"
    assert fingerprint_engines.digest(taken()) != fingerprint_engines.digest(taken(**changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"derived": {"public.m": {"rows": 9, "hash": "6"}}},  # refreshed by the restore
        {"globals": {"role": {"postgres": "bb", "vault": "cc"}}},  # the throw-away server's own
    ],
)
def test_derived_differences_are_told_but_do_not_decide(changes):
    differences = fingerprint_engines.compare(taken(), taken(**changes))
    assert len(differences) == 1
    assert fingerprint_engines.verdict(differences) == "equal"


@pytest.mark.parametrize("changes", [{"database": "other"}, {"method": "x"}, {"engine": "mariadb"}, {"schema": 2}])
def test_what_cannot_be_compared_is_refused(changes):
    with pytest.raises(ValueError, match="cannot be compared"):
        fingerprint_engines.compare(taken(), taken(**changes))


def test_unknown_engine_is_refused_by_name():
    with pytest.raises(ValueError, match="oracle"):
        fingerprint_engines.open_session("oracle", "crm")


@pytest.mark.parametrize(
    "before, after",
    [
        (
            "CHECK (((v)::text = ANY ((ARRAY['a'::character varying, 'b'::character varying])::text[])))",
            "CHECK (((v)::text = ANY (ARRAY[('a'::character varying)::text, ('b'::character varying)::text])))",
        ),
        ('\'x\'::"S 2"."My Type"', "'x'"),
        ("(a)::numeric(10,2)", "a"),
    ],
)
def test_expressions_that_mean_the_same_have_one_normal_form(before, after):
    assert fingerprint_pg.normal_expression(before) == fingerprint_pg.normal_expression(after)


def test_expressions_that_differ_stay_different():
    assert fingerprint_pg.normal_expression("CHECK (a > 1)") != fingerprint_pg.normal_expression("CHECK (a > 2)")


def test_hostile_names_are_quoted():
    statement = fingerprint_pg.contents_statement('s"; DROP TABLE x; --', "ta\nble", "md5")
    assert 'ONLY "s""; DROP TABLE x; --"."ta\nble" AS' in statement
    assert database_sqlclient.my_identifier("a`b") == "`a``b`"
    assert database_sqlclient.my_literal("it's") == "_utf8mb4 X'69742773'"
    assert database_sqlclient.postgresql_target("a'b\\ c", 5433, "/run/x") == "dbname='a\\'b\\\\ c' user='postgres' host='/run/x' port=5433"


def test_float_is_hashed_as_the_exact_double():
    column = fingerprint_my.Column("f", "float", "", None)
    assert "CAST(`f` AS DOUBLE)" in fingerprint_my.row_hash([column])
    assert fingerprint_my.exact_value("t", "longtext") == "SHA2(`t`, 256)"


class Answers:
    """A MariaDB session that answers one row."""

    def __init__(self, *row):
        self.row = list(row)

    def rows(self, expressions, rest=""):
        return [self.row]


def test_a_row_whose_hash_cannot_be_formed_is_an_error_and_never_a_smaller_sum():
    column = fingerprint_my.Column("a", "varchar", "", "utf8mb4")
    most = (2**64 - 1) * 10**12
    told = fingerprint_my._contents(Answers(str(10**12), str(most)), "t", "BASE TABLE", [column])
    assert told == {"rows": 10**12, "hash": str(most)}
    with pytest.raises(ValueError, match="table t: 3 rows are too large for max_allowed_packet"):
        fingerprint_my._contents(Answers("9", str(3 * fingerprint_my.UNHASHED + 17)), "t", "BASE TABLE", [column])


def test_a_row_is_hashed_once_and_a_long_text_once_a_row():
    column = fingerprint_my.Column("t", "longtext", "", "utf8mb4")
    joined = " ".join(fingerprint_my.contents_expressions([column]))
    assert joined.count("SHA2(`t`, 256)") == 1 and joined.count("SHA2(") == 2


def test_history_of_a_versioned_table_is_read():
    suffix, implicit = fingerprint_my.history("SYSTEM VERSIONED", [fingerprint_my.Column("a", "int", "", None)])
    assert suffix == " FOR SYSTEM_TIME ALL" and [one.name for one in implicit] == ["row_start", "row_end"]
    named = [fingerprint_my.Column("since", "timestamp", "ROW START", None)]
    assert fingerprint_my.history("SYSTEM VERSIONED", named) == (" FOR SYSTEM_TIME ALL", [])
    assert fingerprint_my.history("BASE TABLE", []) == ("", [])


def test_batch_output_of_the_client_is_undone():
    assert database_sqlclient._unescape(b"a\\nb\\tc\\\\d\\0") == "a\nb\tc\\d\0"
    assert database_sqlclient._unhex(b"-") is None
    assert database_sqlclient._unhex(b"") == ""
