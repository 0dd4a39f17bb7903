# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PostgreSQL: where its tools are and how they are called."""

import os

from ansible_collections.sunset.crm.plugins.module_utils._database import sqlclient as database_sqlclient

GLOBALS_END = b"-- PostgreSQL database cluster dump complete"

_PLACES = ("/usr/lib/postgresql/{0}/bin", "/usr/pgsql-{0}/bin", "/usr/lib/postgresql{0}/bin", "/opt/pgsql-{0}/bin")


def find_tool(name, major, exists=os.path.exists):
    """The tool of the server's own version if it is installed: an older pg_dump is refused by the server, a newer one writes an
    archive that the old pg_restore cannot read."""
    for place in _PLACES:
        path = os.path.join(place.format(major), name)
        if exists(path):
            return path
    return name


def major(version_num):
    """150020 -> "15", 90624 -> "9.6"."""
    if version_num >= 100000:
        return str(version_num // 10000)
    return "{0}.{1}".format(version_num // 10000, version_num // 100 % 100)


# pg_dumpall leaves out ALTER ROLE ALL SET.
ALL_ROLES = (
    "SELECT json_build_array(c.x) FROM pg_db_role_setting s, unnest(s.setconfig) AS c(x) "
    "WHERE s.setdatabase = 0 AND s.setrole = 0 ORDER BY c.x"
)
# The catalogue holds these already quoted, as lists.
_LISTS = (
    "local_preload_libraries",
    "search_path",
    "session_preload_libraries",
    "shared_preload_libraries",
    "temp_tablespaces",
    "unix_socket_directories",
)


def setting(one):
    """work_mem=5MB, as the catalogue has it -> "work_mem" TO '5MB', for SET."""
    name, value = one.split("=", 1)
    listed = name.lower() in _LISTS
    quoted = value if listed and value else database_sqlclient.pg_literal(value).replace("\\", "\\\\")
    if "\\" in value and not listed:
        quoted = "E" + quoted
    return "{0} TO {1}".format(".".join(database_sqlclient.pg_identifier(part) for part in name.split(".")), quoted)


def settings_of_all_roles(settings):
    """["work_mem=5MB"] -> the statements that set them again; last in the globals, so that they do not disturb what is before."""
    lines = ["ALTER ROLE ALL SET {0};\n".format(setting(one)) for one in settings]
    return "\n-- Settings of all roles\n" + "".join(lines) if lines else ""


def template_problem(database):
    """Every server makes its own: a copy could be restored into none."""
    if database in ("template0", "template1"):
        return "{0} is the template of new databases, and no database of a CRM; name the one that the CRM uses".format(database)
    return None


ENCODING = "SELECT json_build_array(current_setting('server_encoding'))"


def dump_argv(tool, run_as, target, snapshot, encoding="UTF8"):
    """-C keeps the database's own settings; money is written as its locale says, so that is pinned; -Z0 leaves compression to the stream, whose digest is taken before it.

    encoding: the database's own. Its bytes may mean nothing in another one (SQL_ASCII takes any)."""
    return database_sqlclient.as_user(run_as) + [
        tool,
        "-Fc",
        "-Z0",
        "-C",
        "--no-password",
        "--lock-wait-timeout=60s",
        "--snapshot=" + snapshot,
        "--encoding=" + encoding,
        "-d",
        target + " options='-c lc_monetary=C'",
    ]


def globals_argv(tool, run_as, target, passwords=True):
    """Only a superuser reads the roles' passwords; without them the roles, their rights and memberships still come."""
    without = [] if passwords else ["--no-role-passwords"]
    return database_sqlclient.as_user(run_as) + [tool, "--globals-only", "--no-password"] + without + ["-d", target]


def reader_argv(tool):
    """Reads a custom archive to its end; unlike --list it fails where one is cut."""
    return [tool, "-f", "/dev/null"]


IDENTITY = (
    "SELECT json_build_array(version(), current_setting('server_version'), current_setting('server_version_num')::int, "
    "has_function_privilege('pg_catalog.pg_control_system()', 'EXECUTE'), (SELECT oid::text FROM pg_database WHERE datname = current_database()), "
    "pg_is_in_recovery(), (SELECT coalesce(sum(pg_table_size(c.oid)), 0) FROM pg_class c WHERE c.relkind IN ('r', 'm') "
    "AND c.oid >= 16384) + pg_table_size('pg_largeobject'))"
)
SYSTEM_IDENTIFIER = "SELECT json_build_array((SELECT system_identifier::text FROM pg_control_system()))"
