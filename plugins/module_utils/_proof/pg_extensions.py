# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PostgreSQL's extensions in a restored copy: made in the source's versions, with what was altered of their functions. A dump says
CREATE EXTENSION and nothing else.

Private to the collection. Valid for Python 3.6, standard library. Pure.
"""

from typing import Any, Callable, Dict, List, Sequence  # noqa: F401

from ansible_collections.sunset.crm.plugins.module_utils._database.sqlclient import pg_identifier, pg_literal
from ansible_collections.sunset.crm.plugins.module_utils._dump.pg import setting

# What this server can make.
AVAILABLE = "SELECT json_build_array(name, version) FROM pg_available_extension_versions"
HOOK = "sunset_proof_extensions"
# As ALTER FUNCTION calls them, in the order of the rows; the settings come after these.
ATTRIBUTES = (
    {"i": "IMMUTABLE", "s": "STABLE", "v": "VOLATILE"}.__getitem__,
    {"s": "PARALLEL SAFE", "r": "PARALLEL RESTRICTED", "u": "PARALLEL UNSAFE"}.__getitem__,
    {True: "STRICT", False: "CALLED ON NULL INPUT"}.__getitem__,
    {True: "LEAKPROOF", False: "NOT LEAKPROOF"}.__getitem__,
    "COST {0}".format,
    "ROWS {0}".format,
)  # type: Sequence[Callable[[Any], str]]


def problem(wanted, available, server):
    # type: (Sequence[Sequence[str]], List[List[str]], str) -> str
    """What keeps a server from making the source's extensions in their versions; empty if nothing does."""
    there = {}  # type: Dict[str, List[str]]
    for name, version in available:
        there.setdefault(name, []).append(version)
    words = []
    for name, version, _schema in wanted:
        if version not in there.get(name, []):
            words.append('extension "%s" in version %s (has %s)' % (name, version, ", ".join(sorted(there.get(name, []))) or "none"))
    if not words:
        return ""
    return "the vault's PostgreSQL %s does not have the source's %s; install them on the vault, or update the extension at the source" % (
        server,
        "; ".join(words),
    )


def identifier(name):
    # type: (str) -> str
    """In ASCII: the hook is stored in template0, and read in whatever encoding the database made of it has."""
    if all(ord(one) < 128 for one in name):
        return pg_identifier(name)
    escaped = [one if ord(one) < 128 and one != "\\" else "\\+%06X" % ord(one) for one in name.replace('"', '""')]
    return 'U&"%s"' % "".join(escaped)


def statements(wanted):
    # type: (Sequence[Sequence[str]]) -> List[str]
    """As pg_dump writes them, with the version. In the source's order: what an extension requires was made before it."""
    return [
        "CREATE EXTENSION IF NOT EXISTS %s WITH SCHEMA %s VERSION %s" % (identifier(name), identifier(schema), pg_literal(version))
        for name, version, schema in wanted
    ]


def trial(wanted, question):
    # type: (Sequence[Sequence[str]], str) -> str
    """For an empty database: make the extensions, ask about them, and take all back."""
    schemas = sorted({schema for _name, _version, schema in wanted if not schema.startswith("pg_")})
    lines = ["BEGIN"] + ["CREATE SCHEMA IF NOT EXISTS %s" % pg_identifier(one) for one in schemas]
    lines += ["SET LOCAL search_path = ''"] + statements(wanted) + [question, "ROLLBACK"]
    return "".join("%s;\n" % one for one in lines)


def alterations(wanted, made):
    # type: (Sequence[Sequence[Any]], Sequence[Sequence[Any]]) -> List[str]
    """What makes the functions of fresh extensions what they are at the source; rows of EXTENSION_FUNCTIONS (_fingerprint.pg)."""
    fresh = {row[0]: row[1:] for row in made}
    found = []
    for row in wanted:
        name, theirs = row[0], row[1:]
        ours = fresh.get(name, theirs)
        actions = [words(value) for words, value, now in zip(ATTRIBUTES, theirs, ours) if value != now]
        if theirs[len(ATTRIBUTES)] != ours[len(ATTRIBUTES)]:
            actions += ["RESET ALL"] + ["SET " + setting(one) for one in theirs[len(ATTRIBUTES)] or []]
        if actions:
            found.append("ALTER FUNCTION %s %s" % (name, " ".join(actions)))
    return found


def hook(commands):
    # type: (Sequence[str]) -> str
    """For template0, of which pg_restore makes the database: before its first CREATE EXTENSION these are run. Its own then find theirs
    made. That is the one moment in a stream when the schemas are there and what needs the extensions is not. The hook goes
    away first: nothing of it is in the copy, and the source's own event triggers, which come last, never see it."""
    body = ["DROP EVENT TRIGGER %s" % HOOK, "DROP FUNCTION pg_catalog.%s()" % HOOK] + list(commands)
    text = "BEGIN\n%sEND" % "".join("%s;\n" % one for one in body)
    return (
        "CREATE FUNCTION pg_catalog.%s() RETURNS event_trigger LANGUAGE plpgsql AS %s;\n"
        "CREATE EVENT TRIGGER %s ON ddl_command_start WHEN TAG IN ('CREATE EXTENSION') EXECUTE PROCEDURE pg_catalog.%s();\n"
        % (HOOK, pg_literal(text), HOOK, HOOK)
    )
