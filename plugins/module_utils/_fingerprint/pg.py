# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""PostgreSQL's half of the fingerprint: SQL that reads rows and catalogue of one database, and the code that folds the answers."""

import re
from typing import Any, Dict  # noqa: F401

from ansible_collections.sunset.crm.plugins.module_utils._canonical import digest
from ansible_collections.sunset.crm.plugins.module_utils._database.sqlclient import pg_identifier, pg_literal

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
    # Known to newer servers only; they would end the session that holds the snapshot.
    # A DO block, because it prints nothing: some sessions' output is taken as it comes.
    "DO $$BEGIN PERFORM set_config(name, '0', false) FROM pg_settings WHERE name IN ('transaction_timeout', 'idle_session_timeout'); END$$",
    # One picture for every statement of the session; pg_dump can be given the same one (pg_export_snapshot).
    "BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY",
)

# The server's own fast hash where it has one (11 and later), md5 otherwise. Sums keep duplicates apart, which xor would not. The sum of
# bigints is a numeric: exact, whatever it grows to, and the same as that of numerics, for less work.
METHODS = {
    "hashtextextended": "coalesce(sum(hashtextextended({0}, 0)), 0)::text",
    "md5": "coalesce(sum(('x' || substr(md5({0}), 1, 16))::bit(64)::bigint), 0)::text",
}

# A row alias that no column is called: "t::text" would be the column t where there is one.
ROW = '"~sunset~row~"'

_OURS = "n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'"


def _member(catalog, oid):
    return "EXISTS (SELECT 1 FROM pg_depend x WHERE x.classid = '{0}'::regclass AND x.objid = {1} AND x.deptype = 'e')".format(catalog, oid)


def _not_extension(catalog, oid):
    return "NOT " + _member(catalog, oid)


def _acl(column, kind, owner):
    """Who may do what, by names and sorted; NULL means the defaults and equals them spelled out."""
    return (
        "(SELECT json_agg(a.x ORDER BY a.x COLLATE \"C\") FROM (SELECT concat_ws('|', pg_get_userbyid(e.grantor), "
        "CASE e.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(e.grantee) END, e.privilege_type, e.is_grantable) AS x "
        "FROM aclexplode(coalesce({0}, acldefault('{1}', {2}))) e) a)".format(column, kind, owner)
    )


def _name(schema, name):
    return "quote_ident({0}) || '.' || quote_ident({1})".format(schema, name)


def _options(array):
    """A dump writes options in the order of their names."""
    return '(SELECT json_agg(o.x ORDER BY o.x COLLATE "C") FROM unnest({0}) AS o(x))'.format(array)


def _tablespace(oid):
    return "(SELECT s.spcname FROM pg_tablespace s WHERE s.oid = {0})".format(oid)


def _placed(oid):
    """What people made: in their own schemas, or inside the system's, where no dump looks."""
    return "({0} OR {1} >= 16384 AND n.nspname IN ('pg_catalog', 'information_schema'))".format(_OURS, oid)


_CLASS = "pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
_CLASS_OURS = _OURS + " AND " + _not_extension("pg_class", "c.oid")
# Relations whose columns, indexes, triggers and the like are compared. Those of an extension's relations are no members of it themselves,
# and pg_dump leaves all of them out.
_CLASS_READ = "(" + _OURS + " OR " + _member("pg_class", "c.oid") + ")"

# Tables and sequences of extensions are read too (people put rows there, and pg_dump only takes those that the extension declares), and
# what somebody made inside the system's schemas, which no dump holds: both must be met in the copy or be named as missing.
LIST_TABLES = (
    "SELECT json_build_array("
    + _name("n.nspname", "c.relname")
    + ", n.nspname, c.relname, c.relkind) FROM "
    + _CLASS
    + " WHERE c.relkind IN ('r', 'm', 'S', 'f') AND ("
    + _CLASS_OURS
    + " OR c.relkind IN ('r', 'm', 'S') AND ("
    + _OURS
    + " OR c.oid >= 16384 AND n.nspname IN ('pg_catalog', 'information_schema')))"
)

PREPARED = "SELECT json_build_array(count(*)) FROM pg_prepared_xacts WHERE database = current_database()"

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


def _existence(kind, catalog, alias, facts):
    """Kinds that few databases hold: that each is there, under its full name, with a few facts."""
    return (
        "SELECT json_build_array('{0} ' || o.identity, {3}) FROM {1} {2}, pg_identify_object('{1}'::regclass, {2}.oid, 0) o "
        "WHERE {2}.oid >= 16384 AND {4}"
    ).format(kind, catalog, alias, facts, _not_extension(catalog, alias + ".oid"))


_OTHERS = (
    ("cast", "pg_cast", "k", "concat_ws('|', k.castcontext, k.castmethod, nullif(k.castfunc, 0)::regprocedure)"),
    ("conversion", "pg_conversion", "k", "k.conproc::text, pg_get_userbyid(k.conowner)"),
    (
        "language",
        "pg_language",
        "k",
        "concat_ws('|', k.lanpltrusted, nullif(k.lanplcallfoid, 0)::regprocedure), pg_get_userbyid(k.lanowner), "
        + _acl("k.lanacl", "l", "k.lanowner"),
    ),
    (
        "operator class",
        "pg_opclass",
        "k",
        "concat_ws('|', k.opcintype::regtype, k.opcdefault, nullif(k.opckeytype, 0)::regtype), pg_get_userbyid(k.opcowner)",
    ),
    ("operator family", "pg_opfamily", "k", "pg_get_userbyid(k.opfowner)"),
    ("text search dictionary", "pg_ts_dict", "k", "k.dictinitoption, pg_get_userbyid(k.dictowner)"),
    ("text search parser", "pg_ts_parser", "k", "k.prsstart::text"),
    ("text search template", "pg_ts_template", "k", "k.tmpllexize::text"),
    ("transform", "pg_transform", "k", "''"),
)

# What describes a relation and a routine, but for who owns it and may do what.
_RELATION = (
    "c.relkind, c.relpersistence, c.reloptions, c.relrowsecurity, "
    "c.relforcerowsecurity, c.relreplident, obj_description(c.oid, 'pg_class'), c.relispartition, c.reloftype::regtype::text, "
    + _tablespace("c.reltablespace")
    + ", (SELECT w.amname FROM pg_am w WHERE w.oid = c.relam), (SELECT w.reloptions FROM pg_class w "
    "WHERE w.oid = c.reltoastrelid), "
    "pg_get_expr(c.relpartbound, c.oid), CASE WHEN c.relkind = 'p' THEN pg_get_partkeydef(c.oid) END, "
    "(SELECT json_agg(i.inhparent::regclass::text ORDER BY i.inhseqno) FROM pg_inherits i WHERE i.inhrelid = c.oid)"
)
_ROUTINE = (
    "CASE WHEN EXISTS (SELECT 1 FROM pg_aggregate g WHERE g.aggfnoid = p.oid) THEN (SELECT concat_ws('|', g.aggtransfn, "
    "g.aggfinalfn, g.aggcombinefn, g.aggsortop::regoperator, g.aggtranstype::regtype, g.agginitval) FROM pg_aggregate g WHERE g.aggfnoid = p.oid) "
    "ELSE pg_get_functiondef(p.oid) END"
)
_MAPPING = (
    "(SELECT json_agg(m.x ORDER BY m.x) FROM (SELECT "
    "concat_ws('|', m.maptokentype, m.mapseqno, m.mapdict::regdictionary) AS x FROM pg_ts_config_map m WHERE m.mapcfg = {0}.oid) m)"
)


def _members(catalog, alias, owner, facts, where="true"):
    """What an extension brought along. A restore makes it from the extension's own script again, so that no dump holds what somebody
    changed in it. Whoever made it owns it, here and there another superuser; only an owner of another sort was put there by somebody."""
    return (
        "SELECT json_build_array(concat(o.type, ' ', o.identity, ' of ', quote_ident(e.extname)), obj_description({1}.oid, '{0}'), "
        "(SELECT a.rolname FROM pg_roles a WHERE a.oid = {1}.{2} AND NOT a.rolsuper AND a.oid <> e.extowner), {3}) FROM {0} {1} "
        "JOIN pg_depend d ON d.classid = '{0}'::regclass AND d.objid = {1}.oid AND d.objsubid = 0 AND d.deptype = 'e' "
        "JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass AND e.oid = d.refobjid, "
        "pg_identify_object('{0}'::regclass, {1}.oid, 0) o WHERE {4}"
    ).format(catalog, alias, owner, facts, where)


# Those in which something can be changed by itself; of a base type, an operator or a cast there is little but that it is there.
_MEMBERS = (
    # The texts that a build of PostGIS writes its date and its revision into.
    _members("pg_proc", "p", "proowner", _ROUTINE, "p.proname !~ '^postgis_(.*_)?scripts_(build_date|installed)$'"),
    _members(
        "pg_class",
        "c",
        "relowner",
        _RELATION
        + ", CASE WHEN c.relkind IN ('v', 'm') THEN pg_get_viewdef(c.oid) END, (SELECT json_build_array(s.seqtypid::regtype::text, "
        "s.seqstart, s.seqincrement, s.seqmax, s.seqmin, s.seqcache, s.seqcycle) FROM pg_sequence s WHERE s.seqrelid = c.oid)",
    ),
    _members(
        "pg_type",
        "t",
        "typowner",
        "t.typnotnull, t.typdefault, (SELECT json_agg(e.enumlabel ORDER BY e.enumsortorder) FROM pg_enum e WHERE e.enumtypid = t.oid), "
        "(SELECT json_agg(pg_get_constraintdef(k.oid) ORDER BY k.conname) FROM pg_constraint k WHERE k.contypid = t.oid)",
        "t.typtype IN ('d', 'e')",
    ),
    _members("pg_ts_dict", "k", "dictowner", "k.dictinitoption"),
    _members("pg_ts_config", "k", "cfgowner", _MAPPING.format("k")),
    _members("pg_foreign_data_wrapper", "k", "fdwowner", _options("k.fdwoptions")),
    _members("pg_language", "k", "lanowner", "k.lanpltrusted"),
)

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
        "SELECT json_build_array("
        + _name("n.nspname", "c.relname")
        + ", pg_get_userbyid(c.relowner), "
        + _acl("c.relacl", "r", "c.relowner")
        + ", "
        + _RELATION
        + ") FROM "
        + _CLASS
        + " WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND "
        + _CLASS_OURS,
    ),
    (
        "column",
        "SELECT json_build_array(" + _name("n.nspname", "c.relname") + " || '.' || quote_ident(a.attname), "
        "row_number() OVER (PARTITION BY c.oid ORDER BY a.attnum), format_type(a.atttypid, a.atttypmod), a.attnotnull, "
        "pg_get_expr(d.adbin, d.adrelid), to_jsonb(a) ->> 'attidentity', to_jsonb(a) ->> 'attgenerated', (SELECT o.collname "
        "FROM pg_collation o WHERE o.oid = a.attcollation), (SELECT json_agg(o.x ORDER BY o.x) FROM unnest(a.attoptions) AS o(x) "
        "WHERE o.x !~ '^pg_'), CASE WHEN a.attacl IS NULL OR "
        # Granted by the owner, who is another one in the copy.
         + _member("pg_class", "c.oid") + " THEN NULL ELSE " + _acl("a.attacl", "c", "c.relowner") + " END, "
        "col_description(c.oid, a.attnum), a.attislocal, CASE WHEN c.relkind IN ('r', 'p', 'm', 'f') THEN a.attstorage END, "
        "to_jsonb(a) ->> 'attcompression', coalesce(to_jsonb(a) ->> 'attstattarget', '-1'), "
        + _options("a.attfdwoptions")
        + ") FROM "
        + _CLASS
        + " JOIN pg_attribute a ON a.attrelid = c.oid "
        "AND a.attnum > 0 AND NOT a.attisdropped LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum "
        "WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'c') AND " + _CLASS_READ,
    ),
    (
        "view",
        "SELECT json_build_array("
        + _name("n.nspname", "c.relname")
        + ", c.relispopulated, pg_get_viewdef(c.oid)) FROM "
        + _CLASS
        + " WHERE c.relkind IN ('v', 'm') AND "
        + _placed("c.oid")
        + " AND "
        + _not_extension("pg_class", "c.oid"),
    ),
    (
        "index",
        "SELECT json_build_array(" + _name("n.nspname", "c.relname") + ", pg_get_indexdef(c.oid), i.indisclustered, "
        "i.indisreplident, i.indisvalid, c.reloptions, obj_description(c.oid, 'pg_class'), "
        + _tablespace("c.reltablespace")
        + ") FROM "
        + _CLASS
        + " JOIN pg_index i ON i.indexrelid = c.oid "
        "WHERE (" + _OURS + " OR " + _member("pg_class", "i.indrelid") + ")",
    ),
    (
        "constraint",
        "SELECT json_build_array(" + _name("n.nspname", "c.relname") + " || '.' || quote_ident(k.conname), k.contype, "
        "pg_get_constraintdef(k.oid), k.convalidated, obj_description(k.oid, 'pg_constraint')) FROM pg_constraint k "
        "JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace WHERE "
        # NOT NULL is a property of the column; only PostgreSQL 18 and later write it down a second time.
        "k.contype <> 'n' AND " + _CLASS_READ,
    ),
    (
        "trigger",
        "SELECT json_build_array(" + _name("n.nspname", "c.relname") + " || '.' || quote_ident(t.tgname), "
        "pg_get_triggerdef(t.oid), t.tgenabled, obj_description(t.oid, 'pg_trigger')) FROM pg_trigger t JOIN pg_class c "
        "ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace WHERE NOT t.tgisinternal AND " + _CLASS_READ,
    ),
    (
        "rule",
        "SELECT json_build_array(" + _name("n.nspname", "c.relname") + " || '.' || quote_ident(r.rulename), "
        "pg_get_ruledef(r.oid), r.ev_enabled) FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class JOIN pg_namespace n "
        "ON n.oid = c.relnamespace WHERE r.rulename <> '_RETURN' AND " + _CLASS_READ,
    ),
    (
        "policy",
        "SELECT json_build_array(" + _name("n.nspname", "c.relname") + " || '.' || quote_ident(p.polname), p.polcmd, "
        "p.polpermissive, (SELECT json_agg(CASE r.x WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(r.x) END ORDER BY 1) FROM "
        "unnest(p.polroles) AS r(x)), pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid)) FROM pg_policy p "
        "JOIN pg_class c ON c.oid = p.polrelid JOIN pg_namespace n ON n.oid = c.relnamespace WHERE " + _CLASS_READ,
    ),
    (
        "routine",
        "SELECT json_build_array(" + _name("n.nspname", "p.proname") + " || '(' || pg_get_function_identity_arguments(p.oid) "
        "|| ')', "
        + _ROUTINE
        + ", pg_get_userbyid(p.proowner), "
        + _acl("p.proacl", "f", "p.proowner")
        + ", obj_description(p.oid, 'pg_proc')) FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE "
        + _placed("p.oid")
        + " AND "
        + _not_extension("pg_proc", "p.oid")
        # The constructors of a range type come and go with it, and belong to whoever made the type.
        + " AND NOT EXISTS (SELECT 1 FROM pg_depend x WHERE x.classid = 'pg_proc'::regclass AND x.objid = p.oid AND x.deptype = 'i')",
    ),
    (
        "type",
        "SELECT json_build_array("
        + _name("n.nspname", "t.typname")
        + ", t.typtype, pg_get_userbyid(t.typowner), "
        + _acl("t.typacl", "T", "t.typowner")
        + ", format_type(nullif(t.typbasetype, 0), t.typtypmod), t.typnotnull, t.typdefault, "
        "(SELECT json_agg(e.enumlabel ORDER BY e.enumsortorder) FROM pg_enum e WHERE e.enumtypid = t.oid), (SELECT json_agg("
        "pg_get_constraintdef(k.oid) ORDER BY k.conname) FROM pg_constraint k WHERE k.contypid = t.oid), obj_description(t.oid, 'pg_type'), "
        "(SELECT o.collname FROM pg_collation o WHERE o.oid = t.typcollation), (SELECT concat_ws('|', r.rngsubtype::regtype, "
        "(SELECT o.collname FROM pg_collation o WHERE o.oid = r.rngcollation), r.rngcanonical, r.rngsubdiff) FROM pg_range r WHERE r.rngtypid = t.oid), "
        "CASE WHEN t.typtype = 'b' THEN concat_ws('|', t.typlen, t.typbyval, t.typalign, t.typstorage, t.typcategory, t.typispreferred, "
        "t.typdelim, t.typelem::regtype, t.typinput, t.typoutput, t.typreceive, t.typsend, t.typmodin, t.typmodout, t.typanalyze) END) "
        "FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace WHERE (t.typtype IN ('d', 'e', 'r') OR t.typtype = 'b' "
        # An array's type comes and goes with its element's.
        "AND NOT EXISTS (SELECT 1 FROM pg_type w WHERE w.typarray = t.oid) OR t.typtype = 'c' AND EXISTS (SELECT 1 FROM "
        "pg_class c WHERE c.oid = t.typrelid AND c.relkind = 'c')) AND " + _placed("t.oid") + " AND " + _not_extension("pg_type", "t.oid"),
    ),
    (
        "extension",
        "SELECT json_build_array(quote_ident(e.extname), e.extversion, n.nspname) FROM pg_extension e JOIN pg_namespace n "
        "ON n.oid = e.extnamespace",
    ),
    ("extension member", " UNION ALL ".join(_MEMBERS)),
    (
        "event trigger",
        "SELECT json_build_array(quote_ident(e.evtname), e.evtevent, e.evtfoid::regproc::text, e.evtenabled, e.evttags, "
        "pg_get_userbyid(e.evtowner)) "
        "FROM pg_event_trigger e",
    ),
    (
        "statistics",
        "SELECT json_build_array(" + _name("n.nspname", "s.stxname") + ", pg_get_statisticsobjdef(s.oid)) FROM "
        "pg_statistic_ext s JOIN pg_namespace n ON n.oid = s.stxnamespace WHERE " + _OURS,
    ),
    (
        "operator",
        "SELECT json_build_array(o.oid::regoperator::text, o.oprcode::text, pg_get_userbyid(o.oprowner)) FROM pg_operator o JOIN pg_namespace n ON "
        "n.oid = o.oprnamespace WHERE " + _OURS + " AND " + _not_extension("pg_operator", "o.oid"),
    ),
    (
        "collation",
        "SELECT json_build_array(" + _name("n.nspname", "o.collname") + ", o.collprovider, o.collcollate, o.collctype) FROM "
        "pg_collation o JOIN pg_namespace n ON n.oid = o.collnamespace WHERE " + _OURS + " AND " + _not_extension("pg_collation", "o.oid"),
    ),
    (
        "text search",
        "SELECT json_build_array(" + _name("n.nspname", "o.cfgname") + ", " + _MAPPING.format("o") + ") "
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
        "foreign data wrapper",
        "SELECT json_build_array(quote_ident(w.fdwname), w.fdwhandler::regproc::text, w.fdwvalidator::regproc::text, "
        + _options("w.fdwoptions")
        + ", "
        "pg_get_userbyid(w.fdwowner), "
        + _acl("w.fdwacl", "F", "w.fdwowner")
        + ") FROM pg_foreign_data_wrapper w WHERE "
        + _not_extension("pg_foreign_data_wrapper", "w.oid"),
    ),
    (
        "foreign server",
        "SELECT json_build_array(quote_ident(s.srvname), w.fdwname, s.srvtype, s.srvversion, pg_get_userbyid(s.srvowner), "
        + _options("s.srvoptions")
        + ", "
        + _acl("s.srvacl", "S", "s.srvowner")
        + ") FROM pg_foreign_server s JOIN pg_foreign_data_wrapper w ON w.oid = s.srvfdw",
    ),
    (
        # Its options hold passwords, and only some accounts may read them: that there is one is all that is said here.
        "user mapping",
        "SELECT json_build_array(concat_ws(' at ', coalesce(u.usename, 'PUBLIC'), quote_ident(u.srvname))) FROM pg_user_mappings u",
    ),
    (
        "foreign table",
        "SELECT json_build_array("
        + _name("n.nspname", "c.relname")
        + ", s.srvname, "
        + _options("t.ftoptions")
        + ") FROM pg_foreign_table t JOIN pg_class c "
        "ON c.oid = t.ftrelid JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_foreign_server s ON s.oid = t.ftserver",
    ),
    (
        "publication",
        "SELECT json_build_array(quote_ident(p.pubname), to_jsonb(p) - 'oid' - 'pubowner', pg_get_userbyid(p.pubowner), "
        "obj_description(p.oid, 'pg_publication'), (SELECT json_agg(t.x ORDER BY t.x ->> 'schemaname', t.x ->> 'tablename') FROM "
        "(SELECT to_jsonb(v) AS x FROM pg_publication_tables v WHERE v.pubname = p.pubname) t)) FROM pg_publication p",
    ),
    (
        # Whether it was enabled is not carried by a dump: a copy must not begin to fetch rows.
        "subscription",
        "SELECT json_build_array(quote_ident(s.subname), pg_get_userbyid(s.subowner), s.subslotname, s.subpublications) "
        "FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid WHERE d.datname = current_database()",
    ),
    (
        "comment",
        "SELECT json_build_array(concat_ws(' ', o.type, o.identity), d.description) FROM pg_description d, "
        "pg_identify_object(d.classoid, d.objoid, d.objsubid) o WHERE (d.objoid >= 16384 OR d.classoid = 'pg_largeobject'::regclass) "
        "AND NOT EXISTS (SELECT 1 FROM pg_depend x WHERE x.classid = d.classoid "
        "AND x.objid = d.objoid AND x.deptype = 'e')",
    ),
    (
        "security label",
        "SELECT json_build_array(concat_ws(' ', s.objtype, s.objname), json_agg(s.provider || ' ' || s.label ORDER BY s.provider)) "
        "FROM pg_seclabels s WHERE s.objtype NOT IN ('role', 'database', 'tablespace') GROUP BY s.objtype, s.objname",
    ),
    ("other object", " UNION ALL ".join(_existence(*one) for one in _OTHERS)),
    (
        # Granted on the system's own objects, so it hangs on no object of ours. The first role has another name on another server. Of
        # the languages and schemas there are few, so that all are told; no dump holds what was done to SQL, C and the information schema.
        "grant on a system object",
        "SELECT json_build_array(g.x, json_agg(concat_ws('|', CASE e.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(e.grantee) END, "
        'e.privilege_type, e.is_grantable) ORDER BY e.grantee::regrole::text COLLATE "C", e.privilege_type) FILTER (WHERE e.grantee '
        "IS NOT NULL)) FROM (SELECT "
        "p.oid::regprocedure::text AS x, p.proacl AS a, 10 AS o FROM pg_proc p LEFT JOIN pg_init_privs i ON i.classoid = 'pg_proc'::regclass "
        "AND i.objoid = p.oid WHERE p.oid < 16384 AND p.proacl IS DISTINCT FROM i.initprivs AND p.proacl IS NOT NULL UNION ALL SELECT "
        "c.oid::regclass::text, c.relacl, 10 FROM pg_class c LEFT JOIN pg_init_privs i ON i.classoid = 'pg_class'::regclass AND "
        "i.objoid = c.oid AND i.objsubid = 0 WHERE c.oid < 16384 AND c.relacl IS DISTINCT FROM i.initprivs AND c.relacl IS NOT NULL UNION ALL "
        "SELECT 'language ' || quote_ident(l.lanname), coalesce(l.lanacl, acldefault('l', l.lanowner)), l.lanowner FROM pg_language l "
        "WHERE l.oid < 16384 OR "
        + _member("pg_language", "l.oid")
        + " UNION ALL SELECT 'schema ' || n.nspname, coalesce(n.nspacl, acldefault('n', n.nspowner)), n.nspowner FROM pg_namespace n "
        "WHERE n.nspname IN ('pg_catalog', 'information_schema')) g "
        "LEFT JOIN LATERAL aclexplode(g.a) e ON e.grantee <> g.o GROUP BY g.x",
    ),
    (
        "database",
        "SELECT json_build_array('database', pg_encoding_to_char(d.encoding), d.datcollate, d.datctype, "
        "pg_get_userbyid(d.datdba), "
        + _acl("d.datacl", "d", "d.datdba")
        + ", d.datconnlimit, shobj_description(d.oid, 'pg_database'), "
        + _tablespace("nullif(d.dattablespace, 1663)")
        + ", to_jsonb(d) ->> 'datlocprovider', coalesce(to_jsonb(d) ->> 'daticulocale', "
        "to_jsonb(d) ->> 'datlocale')) "
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
    "a.rolcanlogin, a.rolreplication, a.rolbypassrls, a.rolconnlimit, a.rolvaliduntil, {0}, shobj_description(a.oid, 'pg_authid')) FROM {1} a WHERE a.rolname !~ '^pg_'"
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
        "SELECT json_build_array(CASE s.setrole WHEN 0 THEN '(all roles)' ELSE pg_get_userbyid(s.setrole) END || '/' || split_part(c.x, '=', 1), "
        "c.x) FROM pg_db_role_setting s, unnest(s.setconfig) AS c(x) WHERE s.setdatabase = 0",
    ),
    (
        # Not where it lies: another machine has other directories.
        "tablespace",
        "SELECT json_build_array(quote_ident(s.spcname), pg_get_userbyid(s.spcowner), "
        + _acl("s.spcacl", "t", "s.spcowner")
        + ", s.spcoptions, shobj_description(s.oid, 'pg_tablespace')) FROM pg_tablespace s WHERE s.spcname !~ '^pg_'",
    ),
)

# An account that is no superuser sees the roles, but not whether they have a password. Its fingerprints say so in their method, so that
# the copy is looked at in the same way.
WITHOUT_PASSWORDS = " without role passwords"
GLOBALS_WITHOUT_PASSWORDS = (("role", _ROLE.format("'not readable'", "pg_roles")),) + GLOBALS[1:]

# Known to PostgreSQL 15 and later.
_HAS_PARAMETERS = "SELECT json_build_array(to_regclass('pg_catalog.pg_parameter_acl') IS NOT NULL)"
_PARAMETERS = (
    "SELECT json_build_array(p.parname, (SELECT json_agg(a.x ORDER BY a.x COLLATE \"C\") FROM (SELECT concat_ws('|', CASE e.grantee "
    "WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(e.grantee) END, e.privilege_type, e.is_grantable) AS x FROM aclexplode(p.paracl) e "
    "WHERE e.grantee <> 10) a)) FROM pg_parameter_acl p"
)

# Kinds whose expressions PostgreSQL prints otherwise after one trip through a dump, although they mean the same:
# IN ('a', 'b') on a varchar column moves its casts. Casts, brackets and spaces are left out of their digests.
_PRINTED_EXPRESSIONS = frozenset(["view", "constraint", "index", "policy", "rule", "type", "trigger", "column"])
_CAST = re.compile(r'::(?:"[^"]+"|[a-z_ ]*[a-z_])(?:\.(?:"[^"]+"|[a-z_]+))?(?:\(\d+(?:,\d+)?\))?(?:\[\])*')


_QUOTED = re.compile(r"('(?:[^']|'')*')")


def normal_expression(text):
    """What stands in quotes is data and stays as it is."""
    parts = _QUOTED.split(text)
    return "".join(part if part.startswith("'") else re.sub(r"[\s()]+", "", _CAST.sub("", part)) for part in parts)


def _fold(kind, payload):
    if kind in _PRINTED_EXPRESSIONS:
        payload = payload[:1] + [normal_expression(one) if isinstance(one, str) else one for one in payload[1:]]
    return digest(payload)[:32]


def contents_statement(schema, table, method):
    """Count and content hash of one table's own rows; ONLY, because partitions and children are listed themselves."""
    hashed = METHODS[method].format(ROW + "::text")
    return "SELECT json_build_array(count(*), {0}) FROM ONLY {1}.{2} AS {3}".format(
        hashed, pg_identifier(schema), pg_identifier(table), ROW
    )


def sequence_statement(schema, name):
    return "SELECT json_build_array(s.last_value::text, s.is_called) FROM {0}.{1} s".format(pg_identifier(schema), pg_identifier(name))


# Name, version and schema, for whoever makes them again; those of a new server are there already. What one requires is older than it.
EXTENSIONS = (
    "SELECT json_build_array(e.extname, e.extversion, n.nspname) FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace "
    "WHERE e.oid >= 16384 ORDER BY e.oid"
)
# What ALTER FUNCTION can change of their functions. A dump leaves it out.
EXTENSION_FUNCTIONS = (
    "SELECT json_build_array(p.oid::regprocedure::text, p.provolatile, p.proparallel, p.proisstrict, p.proleakproof, p.procost, p.prorows, "
    "p.proconfig) FROM pg_proc p JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e' "
    'WHERE d.refobjid >= 16384 ORDER BY p.oid::regprocedure::text COLLATE "C"'
)


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
    found = {kind: _objects(session, kind, statement) for kind, statement in statements}
    if session.rows(_HAS_PARAMETERS)[0][0]:
        found["grant on a parameter"] = _objects(session, "grant on a parameter", _PARAMETERS)
    return found


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
    waiting = session.rows(PREPARED)[0][0]
    if waiting:
        raise ValueError(
            "{0} prepared transactions wait in database {1!r}; no dump holds what they wrote: commit them or roll them back "
            "(pg_prepared_xacts names them)".format(waiting, database)
        )
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
        "notes": {
            "data_elsewhere": sorted(one[0] for one in relations if one[3] == "f"),
            "extensions": session.rows(EXTENSIONS),
            "extension_functions": session.rows(EXTENSION_FUNCTIONS),
        },
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
