# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What may be shown of a server's or tool's complaint: what is wrong and with which object, not the data it was about.

Private to the collection. Valid for Python 3.6, standard library. Answers stand in the ledger, which holds no personal data.
"""

import re
from typing import List, Optional  # noqa: F401

# Messages that quote what a customer wrote are cut before the quoted part.
QUOTES_DATA = re.compile(
    r"(invalid (input|byte)|value|Duplicate entry|Incorrect|Data too long|out of range|malformed|syntax error in|is not a number|near(?= ')).*$",
    re.IGNORECASE,
)
STRUCTURE = re.compile(
    r"error|fatal|panic|could not|cannot|can't|denied|missing|unknown|restricted|failed|unable|refused|does not exist|not found|no such|TOC entry",
    re.IGNORECASE,
)
FIELD = re.compile(r"\s*(DETAIL|CONTEXT|STATEMENT|QUERY|COPY|LINE|HINT|LOCATION|Command was)\b")
ADDRESS = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
# A quoted word that is no plain name. An apostrophe inside a word (doesn't) neither opens nor closes.
QUOTED = re.compile(r"(?<!\w)'(?:[^']|(?<=\w)'(?=\w))*[^A-Za-z0-9_.`/'-](?:[^']|(?<=\w)'(?=\w))*'(?!\w)")

# PostgreSQL: severity (in the server's language), two blanks, and the SQLSTATE where the client was told to be verbose.
POSTGRESQL = re.compile(r"(?:^|: |\] )(?P<severity>[^\W\d_]+):  (?:(?P<state>[0-9A-Z]{5}): )?")
MY = re.compile(r"ERROR (?P<number>\d+) \((?P<state>[0-9A-Z]{5})\)(?: at line \d+)?: ")
# What the messages below say stands in no row: databases, tables, views, accounts, plugins, character sets, time zones.
MY_NAMES_ONLY = frozenset((1044, 1045, 1046, 1049, 1051, 1054, 1115, 1142, 1146, 1227, 1273, 1286, 1298, 1305, 1356, 1449, 1477, 1524))
MY_SIGNALS = frozenset((1642, 1643, 1644))
# PostgreSQL's own classes, without those of texts that come from functions: external routines, RAISE and ASSERT.
POSTGRESQL_CLASSES = frozenset(
    "08 09 0A 0B 0F 0L 0P 0Z 20 21 22 23 24 25 26 27 28 2B 2D 2F 34 39 3B 3D 3F 40 42 44 53 54 55 57 58 72 F0 HV XX".split()
)
DATA_EXCEPTION = "22"
LEFT_OUT = "(a text of the database's own code is left out, it may quote data%s)"
NOTHING = "no message that can be shown"


def records(text):
    # type: (str) -> List[List[str]]
    """A message each, with the lines that belong to it. What a server says may have several lines, none of which stands for itself. Pure."""
    found = []  # type: List[List[str]]
    for line in text.split("\n"):
        said = found[-1][0] if found else ""
        if POSTGRESQL.search(said) or MY.search(said):
            new = re.match(r"psql: |psql:\S+:\d+: |pg_\w+: |\d{4}-\d\d-\d\d ", line) or POSTGRESQL.match(line) or MY.match(line)
        else:
            new = re.match(r"\S", line)
        if found and (FIELD.match(line) or not new):
            found[-1].append(line)
        elif not FIELD.match(line):
            found.append([line])
    return found


def own_code(record):
    # type: (List[str]) -> Optional[str]
    """Where in the database's own code PostgreSQL's message was written; "" where nobody says; None where it is the server's own. Pure."""
    told = POSTGRESQL.search(record[0])
    state = told.group("state") if told else None
    context = [number for number, line in enumerate(record) if line.startswith("CONTEXT:")]
    # The innermost comes first; only a traceback stands before it.
    where = "\n".join(record[context[0] :]) if context else ""
    first = re.search(r"^(?:CONTEXT:  )?([^\n\"]*\bPL/[^\n]*|(?:SQL|COPY) [^\n]*)", where, re.MULTILINE)
    place = first.group(1) if first else ""
    language = place.split('"')[0]
    if "PL/" in language and (re.search(r"\b(RAISE|ASSERT)\b", place) or "PL/pgSQL" not in language):
        return place
    return "" if state and state[:2] not in POSTGRESQL_CLASSES else None


def shown(record):
    # type: (List[str]) -> Optional[str]
    """One message as it may be shown; None for one that says nothing of what is wrong. Pure."""
    line, my, pg = record[0], MY.search(record[0]), POSTGRESQL.search(record[0])
    if my:
        if int(my.group("number")) in MY_SIGNALS or my.group("state").startswith("45"):
            return line[: my.end()] + LEFT_OUT % ""
        if int(my.group("number")) in MY_NAMES_ONLY:
            return ADDRESS.sub("...", line)[:300]
    elif pg:
        if pg.group("severity") in ("WARNING", "NOTICE", "INFO", "DEBUG") or (pg.group("state") or "")[:2] in ("00", "01", "02"):
            return None
        place = own_code(record)
        if place is not None:
            return line[: pg.end()] + LEFT_OUT % (place and ": " + place[:200])
        if (pg.group("state") or "").startswith(DATA_EXCEPTION):
            line = line[: pg.end()] + re.sub(r"(\"|: ).*", "...", line[pg.end() :])
    if not (my or (pg and pg.group("state")) or STRUCTURE.search(line)):
        return None
    return ADDRESS.sub("...", QUOTED.sub("'...'", QUOTES_DATA.sub(lambda match: match.group(1) + " ...", line)))[:300]


def safe_errors(text, lines=4):
    # type: (str, int) -> str
    """The last messages of a tool's complaint that name what is wrong, without the data it was about."""
    kept = [one for one in map(shown, records(text)) if one]
    return " | ".join(kept[-lines:]) or NOTHING
