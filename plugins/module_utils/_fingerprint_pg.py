# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PostgreSQL's half of the fingerprint: SQL that reads rows and catalogue of one database, and the code that folds the answers."""

import re
from typing import Any, Dict  # noqa: F401

from ansible_collections.sunset.crm.plugins.module_utils._canonical import digest
from ansible_collections.sunset.crm.plugins.module_utils._sqlclient import pg_identifier, pg_literal

# Each of these changes how equal data are printed; a restored copy does not inherit all of them.
PINS = (
    "SET TimeZone = 'UTC'",
    "SET DateStyle = 'ISO, YMD'",
    "SET IntervalStyle = 'postgres'",
    "SET extra_float_digits = 3",
    "SET bytea_output = 'hex'",
    "SET lc_monetary = 'C'",
    "SET xmlbinary = 'base64'",
    "SET standard_conforming_strings = on",
    "SET search_path = ''",
    "SET row_security = off",
    "SET quote_all_identifiers = off",
    "SET statement_timeout = 0",
    "SET idle_in_transaction_session_timeout = 0",
    "SET lock_timeout = '60s'",
    # One picture for every statement of the session; pg_dump can be given the same one (pg_export_snapshot).
    "BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY",
)

# The server's own fast hash where it has one (11 and later), md5 otherwise. Sums keep duplicates apart, which xor would not.
METHODS = {
    "hashtextextended": "coalesce(sum(hashtextextended({0}, 0)::numeric), 0)::text",
    "md5": "coalesce(sum(('x' || substr(md5({0}), 1, 16))::bit(64)::bigint::numeric), 0)::text",
}

# A row alias that no column is called: "t::text" would be the column t where there is one.
_ROW = '"~sunset~row~"'

_OURS = "n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'"


def _not_extension(catalog, oid):
    return "NOT EXISTS (SELECT 1 FROM pg_depend x WHERE x.classid = '{0}'::regclass AND x.objid = {1} AND x.deptype = 'e')".format(
        catalog, oid
    )


def _acl(column, kind, owner):
    """Who may do what, by names and sorted; NULL means the defaults and equals them spelled out."""
    return (
        "(SELECT json_agg(a.x ORDER BY a.x COLLATE \"C\") FROM (SELECT concat_ws('|', pg_get_userbyid(e.grantor), "
        "CASE e.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(e.grantee) END, e.privilege_type, e.is_grantable) AS x "
        "FROM aclexplode(coalesce({0}, acldefault('{1}', {2}))) e) a)".format(column, kind, owner)
    )


def _name(schema, name):
    return "quote_ident({0}) || '.' || quote_ident({1})".format(schema, name)


_CLASS = "pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
_CLASS_OURS = _OURS + " AND " + _not_extension("pg_class", "c.oid")

LIST_TABLES = (
    "SELECT json_build_array("
    + _name("n.nspname", "c.relname")
    + ", n.nspname, c.relname, c.relkind) FROM "
    + _CLASS
    + " WHERE c.relkind IN ('r', 'm', 'S', 'f') AND "
    + _CLASS_OURS
)

# Pages may be missing (holes read as zeros) and come back written out, so zero pages are left out and short ones are padded.
_PAGE = "(current_setting('block_size')::int / 4)"
_LARGE_OBJECTS = (
    "SELECT json_build_array(m.oid::text, pg_get_userbyid(m.lomowner), " + _acl("m.lomacl", "L", "m.lomowner") + ", "
    "{size}, (SELECT sum(('x' || substr(md5(p.pageno::text || ':' || encode(p.page, 'hex')), 1, 16))"
    "::bit(64)::bigint::numeric)::text FROM (SELECT o.pageno, "
    "o.data || decode(repeat('00', " + _PAGE + " - length(o.data)), 'hex') AS page FROM {pages}) p "
    "WHERE p.page <> decode(repeat('00', " + _PAGE + "), 'hex'))) FROM pg_largeobject_metadata m"
)
LARGE_OBJECTS = _LARGE_OBJECTS.format(
    size="coalesce((SELECT max(o.pageno::bigint * " + _PAGE + " + length(o.data)) FROM pg_largeobject o WHERE o.loid = m.oid), 0)",
    pages="pg_largeobject o WHERE o.loid = m.oid",
)
# The pages themselves are for superusers; another account reads each object as a whole, and fails where it may not.
LARGE_OBJECTS_BY_READING = _LARGE_OBJECTS.format(
    size="length(lo_get(m.oid))",
    pages="(SELECT g AS pageno, lo_get(m.oid, g::bigint * " + _PAGE + ", " + _PAGE + ") AS data "
    "FROM generate_series(0, (length(lo_get(m.oid)) - 1) / " + _PAGE + ") g) o WHERE length(o.data) > 0",
)


def large_objects(session):
    allowed = session.rows("SELECT json_build_array(has_table_privilege('pg_catalog.pg_largeobject', 'SELECT'))")[0][0]
    return LARGE_OBJECTS if allowed else LARGE_OBJECTS_BY_READING


# kind -> a statement that selects json_build_array(name, whatever describes the object ...)
CATALOGUE = (
    (
        "schema",
        "SELECT json_build_array(quote_ident(n.nspname), pg_get_userbyid(n.nspowner), "
        + _acl("n.nspacl", "n", "n.nspowner")
        + ", obj_description(n.oid, 'pg_namespace')) FROM pg_namespace n WHERE "
        + _OURS
        + " AND "
        + _not_extension("pg_namespace", "n.oid"),
    ),
    (
        "relation",
        "SELECT json_build_array(" + _name("n.nspname", "c.relname") + ", c.relkind, c.relpersistence, "
        "pg_get_userbyid(c.relowner), " + _acl("c.relacl", "r", "c.relowner") + ", c.reloptions, c.relrowsecurity, "
        "c.relforcerowsecurity, c.relreplident, obj_description(c.oid, 'pg_class'), c.relispartition, "
        "pg_get_expr(c.relpartbound, c.oid), CASE WHEN c.relkind = 'p' THEN pg_get_partkeydef(c.oid) END, "
        "(SELECT json_agg(i.inhparent::regclass::text ORDER BY i.inhseqno) FROM pg_inherits i WHERE i.inhrelid = c.oid)) "
        "FROM " + _CLASS + " WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND " + _CLASS_OURS,
    ),
    (
        "column",
        "SELECT json_build_array(" + _name("n.nspname", "c.relname") + " || '.' || quote_ident(a.attname), "
        "row_number() OVER (PARTITION BY c.oid ORDER BY a.attnum), format_type(a.atttypid, a.atttypmod), a.attnotnull, "
        "pg_get_expr(d.adbin, d.adrelid), to_jsonb(a) ->> 'attidentity', to_jsonb(a) ->> 'attgenerated', (SELECT o.collname "
        "FROM pg_collation o WHERE o.oid = a.attcollation), (SELECT json_agg(o.x ORDER BY o.x) FROM unnest(a.attoptions) AS o(x) "
        "WHERE o.x !~ '^pg_'), CASE WHEN a.attacl IS NULL THEN NULL ELSE " + _acl("a.attacl", "c", "c.relowner") + " END, "
        "col_description(c.oid, a.attnum), a.attislocal) FROM " + _CLASS + " JOIN pg_attribute a ON a.attrelid = c.oid "
        "AND a.attnum > 0 AND NOT a.attisdropped LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum "
        "WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'c') AND " + _CLASS_OURS,
    ),
    (
        "view",
        "SELECT json_build_array("
        + _name("n.nspname", "c.relname")
        + ", c.relispopulated, pg_get_viewdef(c.oid)) FROM "
        + _CLASS
        + " WHERE c.relkind IN ('v', 'm') AND "
        + _CLASS_OURS,
    ),
    (
        "index",
        "SELECT json_build_array(" + _name("n.nspname", "c.relname") + ", pg_get_indexdef(c.oid), i.indisclustered, "
        "i.indisreplident, c.reloptions, obj_description(c.oid, 'pg_class')) FROM " + _CLASS + " JOIN pg_index i ON i.indexrelid = c.oid "
        "WHERE " + _CLASS_OURS + " AND " + _not_extension("pg_class", "i.indrelid"),
    ),
    (
        "constraint",
        "SELECT json_build_array(" + _name("n.nspname", "c.relname") + " || '.' || quote_ident(k.conname), k.contype, "
        "pg_get_constraintdef(k.oid), k.convalidated, obj_description(k.oid, 'pg_constraint')) FROM pg_constraint k "
        "JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace WHERE " + _CLASS_OURS,
    ),
    (
        "trigger",
        "SELECT json_build_array(" + _name("n.nspname", "c.relname") + " || '.' || quote_ident(t.tgname), "
        "pg_get_triggerdef(t.oid), t.tgenabled, obj_description(t.oid, 'pg_trigger')) FROM pg_trigger t JOIN pg_class c "
        "ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace WHERE NOT t.tgisinternal AND " + _CLASS_OURS,
    ),
    (
        "rule",
        "SELECT json_build_array(" + _name("n.nspname", "c.relname") + " || '.' || quote_ident(r.rulename), "
        "pg_get_ruledef(r.oid), r.ev_enabled) FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class JOIN pg_namespace n "
        "ON n.oid = c.relnamespace WHERE r.rulename <> '_RETURN' AND " + _CLASS_OURS,
    ),
    (
        "policy",
        "SELECT json_build_array(" + _name("n.nspname", "c.relname") + " || '.' || quote_ident(p.polname), p.polcmd, "
        "p.polpermissive, (SELECT json_agg(CASE r.x WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(r.x) END ORDER BY 1) FROM "
        "unnest(p.polroles) AS r(x)), pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid)) FROM pg_policy p "
        "JOIN pg_class c ON c.oid = p.polrelid JOIN pg_namespace n ON n.oid = c.relnamespace WHERE " + _CLASS_OURS,
    ),
    (
        "routine",
        "SELECT json_build_array(" + _name("n.nspname", "p.proname") + " || '(' || pg_get_function_identity_arguments(p.oid) "
        "|| ')', CASE WHEN EXISTS (SELECT 1 FROM pg_aggregate g WHERE g.aggfnoid = p.oid) THEN (SELECT concat_ws('|', g.aggtransfn, "
        "g.aggfinalfn, g.aggcombinefn, g.aggsortop, g.aggtranstype::regtype, g.agginitval) FROM pg_aggregate g WHERE g.aggfnoid = p.oid) "
        "ELSE pg_get_functiondef(p.oid) END, pg_get_userbyid(p.proowner), "
        + _acl("p.proacl", "f", "p.proowner")
        + ", obj_description(p.oid, 'pg_proc')) FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE "
        + _OURS
        + " AND "
        + _not_extension("pg_proc", "p.oid"),
    ),
    (
        "type",
        "SELECT json_build_array("
        + _name("n.nspname", "t.typname")
        + ", t.typtype, pg_get_userbyid(t.typowner), "
        + _acl("t.typacl", "T", "t.typowner")
        + ", format_type(nullif(t.typbasetype, 0), t.typtypmod), t.typnotnull, t.typdefault, "
        "(SELECT json_agg(e.enumlabel ORDER BY e.enumsortorder) FROM pg_enum e WHERE e.enumtypid = t.oid), (SELECT json_agg("
        "pg_get_constraintdef(k.oid) ORDER BY k.conname) FROM pg_constraint k WHERE k.contypid = t.oid), obj_description(t.oid, 'pg_type')"
        ") FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace WHERE t.typtype IN ('d', 'e', 'r') AND "
        + _OURS
        + " AND "
        + _not_extension("pg_type", "t.oid"),
    ),
    (
        "extension",
        "SELECT json_build_array(quote_ident(e.extname), e.extversion, n.nspname) FROM pg_extension e JOIN pg_namespace n "
        "ON n.oid = e.extnamespace",
    ),
    (
        "event trigger",
        "SELECT json_build_array(quote_ident(e.evtname), e.evtevent, e.evtfoid::regproc::text, e.evtenabled, e.evttags) "
        "FROM pg_event_trigger e",
    ),
    (
        "statistics",
        "SELECT json_build_array(" + _name("n.nspname", "s.stxname") + ", pg_get_statisticsobjdef(s.oid)) FROM "
        "pg_statistic_ext s JOIN pg_namespace n ON n.oid = s.stxnamespace WHERE " + _OURS,
    ),
    (
        "operator",
        "SELECT json_build_array(o.oid::regoperator::text, o.oprcode::text) FROM pg_operator o JOIN pg_namespace n ON "
        "n.oid = o.oprnamespace WHERE " + _OURS + " AND " + _not_extension("pg_operator", "o.oid"),
    ),
    (
        "collation",
        "SELECT json_build_array(" + _name("n.nspname", "o.collname") + ", o.collprovider, o.collcollate, o.collctype) FROM "
        "pg_collation o JOIN pg_namespace n ON n.oid = o.collnamespace WHERE " + _OURS + " AND " + _not_extension("pg_collation", "o.oid"),
    ),
    (
        "text search",
        "SELECT json_build_array(" + _name("n.nspname", "o.cfgname") + ", (SELECT json_agg(m.x ORDER BY m.x) FROM (SELECT "
        "concat_ws('|', m.maptokentype, m.mapseqno, m.mapdict::regdictionary) AS x FROM pg_ts_config_map m WHERE m.mapcfg = o.oid) m)) "
        "FROM pg_ts_config o JOIN pg_namespace n ON n.oid = o.cfgnamespace WHERE " + _OURS + ""
        " AND " + _not_extension("pg_ts_config", "o.oid"),
    ),
    (
        "default privileges",
        "SELECT json_build_array(concat_ws('/', pg_get_userbyid(d.defaclrole), n.nspname, d.defaclobjtype), "
        "(SELECT json_agg(i.x ORDER BY i.x) FROM (SELECT i::text AS x FROM unnest(d.defaclacl) i) i)) FROM pg_default_acl d "
        "LEFT JOIN pg_namespace n ON n.oid = d.defaclnamespace",
    ),
    (
        "foreign server",
        "SELECT json_build_array(quote_ident(s.srvname), w.fdwname, s.srvtype, s.srvversion, pg_get_userbyid(s.srvowner)) "
        "FROM pg_foreign_server s JOIN pg_foreign_data_wrapper w ON w.oid = s.srvfdw",
    ),
    (
        "publication",
        "SELECT json_build_array(quote_ident(p.pubname), p.puballtables, p.pubinsert, p.pubupdate, p.pubdelete) FROM pg_publication p",
    ),
    (
        "database",
        "SELECT json_build_array('database', pg_encoding_to_char(d.encoding), d.datcollate, d.datctype, "
        "pg_get_userbyid(d.datdba), " + _acl("d.datacl", "d", "d.datdba") + ", d.datconnlimit, shobj_description(d.oid, 'pg_database')) "
        "FROM pg_database d WHERE d.datname = current_database()",
    ),
    (
        "setting",
        "SELECT json_build_array(CASE s.setrole WHEN 0 THEN '' ELSE pg_get_userbyid(s.setrole) END || '/' || split_part(c.x, "
        "'=', 1), c.x) FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase, unnest(s.setconfig) AS c(x) "
        "WHERE d.datname = current_database()",
    ),
)

# Password verifiers are secrets: the artefact of globals carries them, a fingerprint only says whether there is one.
_ROLE = (
    "SELECT json_build_array(quote_ident(a.rolname), a.rolsuper, a.rolinherit, a.rolcreaterole, a.rolcreatedb, "
    "a.rolcanlogin, a.rolreplication, a.rolbypassrls, a.rolconnlimit, a.rolvaliduntil, {0}) FROM {1} a WHERE a.rolname !~ '^pg_'"
)
GLOBALS = (
    ("role", _ROLE.format("a.rolpassword IS NOT NULL", "pg_authid")),
    (
        "membership",
        "SELECT json_build_array(pg_get_userbyid(m.member) || ' in ' || pg_get_userbyid(m.roleid), m.admin_option) "
        "FROM pg_auth_members m WHERE pg_get_userbyid(m.member) !~ '^pg_'",
    ),
    (
        "role setting",
        "SELECT json_build_array(pg_get_userbyid(s.setrole) || '/' || split_part(c.x, '=', 1), c.x) "
        "FROM pg_db_role_setting s, unnest(s.setconfig) AS c(x) WHERE s.setdatabase = 0 AND s.setrole <> 0",
    ),
)

# An account that is no superuser sees the roles, but not whether they have a password. Its fingerprints say so in their method, so that
# the copy is looked at in the same way.
WITHOUT_PASSWORDS = " without role passwords"
GLOBALS_WITHOUT_PASSWORDS = (("role", _ROLE.format("'not readable'", "pg_roles")),) + GLOBALS[1:]

# Kinds whose expressions PostgreSQL prints otherwise after one trip through a dump, although they mean the same:
# IN ('a', 'b') on a varchar column moves its casts. Casts, brackets and spaces are left out of their digests.
_PRINTED_EXPRESSIONS = frozenset(["view", "constraint", "index", "policy", "rule", "type", "trigger", "column"])
_CAST = re.compile(r'::(?:"[^"]+"|[a-z_ ]*[a-z_])(?:\.(?:"[^"]+"|[a-z_]+))?(?:\(\d+(?:,\d+)?\))?(?:\[\])*')


def normal_expression(text):
    return re.sub(r"[\s()]+", "", _CAST.sub("", text))


def _fold(kind, payload):
    if kind in _PRINTED_EXPRESSIONS:
        payload = payload[:1] + [normal_expression(one) if isinstance(one, str) else one for one in payload[1:]]
    return digest(payload)[:32]


def contents_statement(schema, table, method):
    """Count and content hash of one table's own rows; ONLY, because partitions and children are listed themselves."""
    hashed = METHODS[method].format(_ROW + "::text")
    return "SELECT json_build_array(count(*), {0}) FROM ONLY {1}.{2} AS {3}".format(
        hashed, pg_identifier(schema), pg_identifier(table), _ROW
    )


def sequence_statement(schema, name):
    return "SELECT json_build_array(s.last_value::text, s.is_called) FROM {0}.{1} s".format(pg_identifier(schema), pg_identifier(name))


SEQUENCE_SHAPE = (
    "SELECT json_build_array(" + _name("n.nspname", "c.relname") + ", s.seqtypid::regtype::text, s.seqstart, s.seqincrement, s.seqmax, "
    "s.seqmin, s.seqcache, s.seqcycle, pg_get_userbyid(c.relowner), " + _acl("c.relacl", "s", "c.relowner") + ", (SELECT "
    "json_agg(concat_ws('.', d.refobjid::regclass, d.refobjsubid > 0, d.deptype)) FROM pg_depend d WHERE d.classid = 'pg_class'::regclass "
    "AND d.objid = c.oid AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i'))) FROM "
    + _CLASS
    + " JOIN pg_sequence s ON s.seqrelid = c.oid WHERE "
    + _CLASS_OURS
)


def sequences(session, relations=None):
    """Values of all sequences. They stand outside every snapshot, so a dump reads them before and after."""
    if relations is None:
        relations = session.rows(LIST_TABLES)
    return {name: session.rows(sequence_statement(schema, relation))[0] for name, schema, relation, kind in relations if kind == "S"}


def global_objects(session, method):
    statements = GLOBALS_WITHOUT_PASSWORDS if method.endswith(WITHOUT_PASSWORDS) else GLOBALS
    return {kind: _objects(session, kind, statement) for kind, statement in statements}


def choose_method(session, number):
    """The best that this server and this account allow."""
    base = "hashtextextended" if number >= 110000 else "md5"
    allowed = session.rows("SELECT json_build_array(has_table_privilege('pg_catalog.pg_authid', 'SELECT'))")[0][0]
    return base if allowed else base + WITHOUT_PASSWORDS


def take(session, database, method=None, progress=None):
    version = session.rows(
        "SELECT json_build_array(current_setting('server_version'), current_setting('server_version_num')::int, current_database())"
    )[0]
    if version[2] != database:
        raise ValueError("the session is in database {0!r}, the fingerprint was asked for {1!r}".format(version[2], database))
    method = method or choose_method(session, version[1])
    relations = session.rows(LIST_TABLES)
    holders = [one for one in relations if one[3] in ("r", "m")]
    contents = {"r": {}, "m": {}}  # type: Dict[str, Dict[str, Any]]
    for done, (name, schema, table, kind) in enumerate(holders):
        progress(done, len(holders))
        rows, hashed = _contents(session, schema, table, kind, method.split(" ")[0])
        contents[kind][name] = {"rows": rows, "hash": hashed}
    catalogue = {kind: _objects(session, kind, statement) for kind, statement in CATALOGUE}
    catalogue["large object"] = _objects(session, "large object", large_objects(session))
    catalogue["sequence"] = _objects(session, "sequence", SEQUENCE_SHAPE)
    catalogue["sequence value"] = {name: "{0}/{1}".format(*value) for name, value in sequences(session, relations).items()}
    return {
        "version": version[0],
        "method": method,
        "tables": contents["r"],
        "derived": contents["m"],
        "catalogue": catalogue,
        "globals": global_objects(session, method),
        "notes": {"foreign_tables": sorted(one[0] for one in relations if one[3] == "f")},
    }


def _contents(session, schema, table, kind, method):
    if kind == "m":
        known = session.rows(
            "SELECT json_build_array(c.relispopulated) FROM {0} WHERE n.nspname = {1} AND c.relname = {2}".format(
                _CLASS, pg_literal(schema), pg_literal(table)
            )
        )
        if not known[0][0]:
            return 0, "not populated"
    return session.rows(contents_statement(schema, table, method))[0]


def _objects(session, kind, statement):
    return {row[0]: _fold(kind, row) for row in session.rows(statement)}
