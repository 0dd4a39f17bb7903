# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PostgreSQL's extensions in a restored copy: made in the source's versions. A dump says CREATE EXTENSION without one.

Private to the collection. Valid for Python 3.6, standard library. Pure.
"""

from typing import Dict, List, Sequence  # noqa: F401

from ansible_collections.sunset.crm.plugins.module_utils._database.sqlclient import pg_identifier, pg_literal

# What this server can make.
AVAILABLE = "SELECT json_build_array(name, version) FROM pg_available_extension_versions"
HOOK = "sunset_proof_extensions"


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


def statements(wanted):
    # type: (Sequence[Sequence[str]]) -> List[str]
    """As pg_dump writes them, with the version. In the source's order: what an extension requires was made before it."""
    return [
        "CREATE EXTENSION IF NOT EXISTS %s WITH SCHEMA %s VERSION %s" % (pg_identifier(name), pg_identifier(schema), pg_literal(version))
        for name, version, schema in wanted
    ]


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
