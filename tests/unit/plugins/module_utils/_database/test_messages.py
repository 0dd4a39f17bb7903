# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
import pytest

from ansible_collections.sunset.crm.plugins.module_utils._database.messages import NOTHING, safe_errors


def test_complaints_are_shown_without_data():
    text = (
        'pg_restore: error: COPY failed for table "contact": ERROR:  invalid input syntax for type integer: "Muster"\n'
        'CONTEXT:  COPY contact, line 1: "Zoe Muster"\nDETAIL: Key (mail)=(zoe@example.org) missing\n'
        "ERROR 1062 (23000) at line 9: Duplicate entry 'zoe@example.org' for key 'mail'\n"
    )
    said = safe_errors(text)
    assert "Muster" not in said and "zoe" not in said and "contact" in said and "Duplicate entry" in said


@pytest.mark.parametrize(
    "text",
    [
        "ERROR:  P0001: cannot index customer zoe@example.org: denied\nCONTEXT:  PL/pgSQL function public.refuse(text) line 2 at RAISE\n",
        "pg_restore: error: could not execute query: ERROR:  cannot index\nzoe: an error, denied\nCONTEXT:  PL/pgSQL function public.refuse(text) line 2 at RAISE"
        "\nCommand was: CREATE INDEX i ON c (refuse('zoe error'))\n",
        # With another SQLSTATE; on a server that speaks German; from another language.
        "ERROR:  23503: cannot index Zoe\nCONTEXT:  PL/pgSQL function public.refuse(text) line 2 at RAISE\nLOCATION:  exec_stmt_raise, pl_exec.c:3911\n",
        "FEHLER:  P0001: Zoe fehlt\nCONTEXT:  PL/pgSQL-Funktion public.refuse(text) Zeile 2 bei RAISE\n",
        'ERROR:  38000: error of zoe\nCONTEXT:  Traceback (most recent call last):\n  PL/Python function "refuse", line 2\nPL/Python function "refuse"\n',
        "ERREUR:  23503: Zoe\nCONTEXT:  fonction PL/pgSQL public.refuse(text), ligne 2 à RAISE\n",
        "ERROR:  C0123: cannot take Zoe\n",
        "ERROR 1644 (45000) at line 3: cannot take zoe@example.org\nerror: zoe\n",
    ],
)
def test_texts_of_the_databases_own_code_are_left_out(text):
    said = safe_errors(text)
    assert "zoe" not in said.lower() and "left out" in said
    assert "refuse" in said or "C0123" in said or "1644" in said


@pytest.mark.parametrize(
    "text, wanted",
    [
        (
            'ERROR:  42P01: relation "other" does not exist\nCONTEXT:  PL/pgSQL function f(text) line 3 at SQL statement\n',
            'relation "other" does not exist',
        ),
        ('ERROR:  22P02: "Zoe" is no such thing\n', "22P02: ..."),
        ('pg_restore: error: could not execute query: ERROR:  syntax error in tsquery: "zoe"\n', "ERROR:  syntax error in ..."),
        (
            'ERROR:  42P01: relation "other" does not exist\nCONTEXT:  SQL statement "SELECT \'RAISE Zoe\'"\n',
            'ERROR:  42P01: relation "other" does not exist',
        ),
        ("WARNING:  01000: error of Zoe\n", NOTHING),
        ('psql: error: connection to server failed: FATAL:  database "x" does not exist\n', 'FATAL:  database "x" does not exist'),
        ("ERROR 1298 (HY000) at line 120: Unknown or incorrect time zone: 'Europe/Berlin'\n", "time zone: 'Europe/Berlin'"),
        ("ERROR 1146 (42S02) at line 9: Table 'my crm.t' doesn't exist\n", "Table 'my crm.t' doesn't exist"),
        ("ERROR 1005 (HY000): Can't create table `a` (errno: 150 'wrongly formed key')\n", "Can't create table `a` (errno: 150 '...')"),
        ("ERROR 1064 (42000) at line 3: You have an error near 'Zoe's (1), ('x')' at line 1\n", "You have an error near ..."),
        ("ERROR 1210 (HY000): error with 'Zoe O'Hara'\n", "error with '...'"),
        ("tar: x: Cannot open: Permission denied\n", "tar: x: Cannot open: Permission denied"),
    ],
)
def test_what_a_message_says_of_objects_is_kept(text, wanted):
    assert safe_errors(text).endswith(wanted)
