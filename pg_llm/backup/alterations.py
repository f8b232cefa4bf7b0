"""Changes that users made to the extension's tables: columns, indexes, policies, triggers and so on.

pg_dump omits them, because it attributes every part of an extension's table to the extension. Here each part
is a Fact, a statement that creates it. A fresh database with the extension has facts, too; those that a
backup has in addition, or that differ, must be created again.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import psycopg

# Facts with a place of at least this are created after the rest of the tables, after the rows, and after the
# users' own objects.
BEFORE_ROWS, AFTER_ROWS, LAST = 100, 200, 300
TYPE, OWNER = 12, 300
# PostgreSQL 15.20 and releases of its time write this into a column's options; users cannot set it.
SERVERS_OWN = "pg_attver="

MEMBER = """
    member AS (
        SELECT c.oid AS rel, c.relkind AS kind, c.oid::regclass AS name
        FROM pg_extension e
        JOIN pg_depend d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid
            AND d.classid = 'pg_class'::regclass AND d.deptype = 'e'
        JOIN pg_class c ON c.oid = d.objid AND c.relkind IN ('r', 'v', 'm', 'S')
        WHERE e.extname = 'pg_llm'
    ), owned AS ( -- sequences of columns, the users' columns too
        SELECT d.objid AS seq, d.deptype, m.name, a.attname
        FROM member m
        JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = m.rel AND d.refobjsubid > 0
            AND d.classid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')
        JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S'
        JOIN pg_attribute a ON a.attrelid = m.rel AND a.attnum = d.refobjsubid
    ), sequence AS (
        SELECT rel AS seq FROM member WHERE kind = 'S' UNION SELECT seq FROM owned
    )
"""

# place: the order of creation. builds: another build of the extension may have a different one.
FACTS = f"""
WITH {MEMBER}, col AS (
    SELECT m.name, a.*, format('%s.%I', m.name, a.attname) AS what,
        format('ALTER TABLE %s ALTER COLUMN %I ', m.name, a.attname) AS change,
        format_type(a.atttypid, a.atttypmod) || CASE WHEN a.attcollation <> t.typcollation
            THEN ' COLLATE ' || a.attcollation::regcollation ELSE '' END AS type,
        pg_get_expr(d.adbin, d.adrelid) AS expression
    FROM member m
    JOIN pg_attribute a ON a.attrelid = m.rel AND a.attnum > 0 AND NOT a.attisdropped
    JOIN pg_type t ON t.oid = a.atttypid
    LEFT JOIN pg_attrdef d ON d.adrelid = m.rel AND d.adnum = a.attnum
    WHERE kind = 'r'
), part AS ( -- whatever a comment can be on
    SELECT name, 'pg_class'::regclass AS classid, rel AS objid FROM member
    UNION ALL SELECT name, 'pg_class'::regclass, indexrelid FROM pg_index JOIN member ON rel = indrelid
    UNION ALL SELECT name, 'pg_constraint'::regclass, c.oid FROM pg_constraint c JOIN member ON rel = conrelid
    UNION ALL SELECT name, 'pg_trigger'::regclass, t.oid FROM pg_trigger t JOIN member ON rel = tgrelid
    UNION ALL SELECT name, 'pg_rewrite'::regclass, r.oid FROM pg_rewrite r JOIN member ON rel = ev_class
    UNION ALL SELECT name, 'pg_policy'::regclass, p.oid FROM pg_policy p JOIN member ON rel = polrelid
    UNION ALL SELECT name, 'pg_statistic_ext'::regclass, s.oid
        FROM pg_statistic_ext s JOIN member ON rel = stxrelid
), fact (place, nth, builds, rel, what, make, undo) AS (
    SELECT 10, 0, true, name, format('table %s', name), format('CREATE TABLE %s ()', name), NULL
        FROM member WHERE kind = 'r'
    UNION ALL SELECT 10, 0, true, name, format('sequence %s', name), format('CREATE SEQUENCE %s', name), NULL
        FROM member WHERE kind = 'S' AND rel NOT IN (SELECT seq FROM owned WHERE deptype = 'i')
    UNION ALL SELECT 11, attnum, true, name, format('column %s', what),
            format('ALTER TABLE %s ADD COLUMN IF NOT EXISTS %I %s', name, attname, type)
            || CASE WHEN attgenerated <> '' THEN format(' GENERATED ALWAYS AS (%s) %s', expression,
                CASE attgenerated WHEN 's' THEN 'STORED' ELSE 'VIRTUAL' END) ELSE '' END, NULL
        FROM col
    UNION ALL SELECT {TYPE}, 0, true, name, format('type of %s', what), change || 'TYPE ' || type, NULL
        FROM col WHERE attgenerated = ''

    UNION ALL SELECT 100, 0, true, name, format('logging of %s', name), format('ALTER TABLE %s SET %s', name,
            CASE relpersistence WHEN 'u' THEN 'UNLOGGED' ELSE 'LOGGED' END), NULL
        FROM member JOIN pg_class c ON c.oid = rel WHERE kind = 'r'
    UNION ALL SELECT 101, 0, true, name, format('options of %s', name),
            format('ALTER TABLE %s SET (%s)', name, string_agg(o, ', ' ORDER BY o)),
            format('ALTER TABLE %s RESET (%s)', name, string_agg(split_part(o, '=', 1), ', '))
        FROM member JOIN pg_class c ON c.oid = rel LEFT JOIN pg_class t ON t.oid = c.reltoastrelid,
            LATERAL (SELECT unnest(c.reloptions) UNION ALL SELECT 'toast.' || unnest(t.reloptions)) AS own (o)
        GROUP BY name
    UNION ALL SELECT 102, 0, true, name, format('storage of %s', what),
            change || 'SET STORAGE ' || CASE attstorage WHEN 'p' THEN 'PLAIN' WHEN 'e' THEN 'EXTERNAL'
                WHEN 'm' THEN 'MAIN' ELSE 'EXTENDED' END, NULL
        FROM col WHERE attlen = -1
    UNION ALL SELECT 103, 0, true, name, format('default of %s', what),
            change || 'SET DEFAULT ' || expression, change || 'DROP DEFAULT'
        FROM col WHERE expression IS NOT NULL AND attgenerated = ''
    UNION ALL SELECT 104, 0, true, name, format('identity of %s', what),
            format('%sSET NOT NULL; %sADD GENERATED %s AS IDENTITY (SEQUENCE NAME %s)', change, change,
                CASE attidentity WHEN 'a' THEN 'ALWAYS' ELSE 'BY DEFAULT' END,
                pg_get_serial_sequence(name::text, attname)),
            change || 'DROP IDENTITY' FROM col WHERE attidentity <> ''
    UNION ALL SELECT 105, 0, true, seqrelid::regclass, format('options of %s', seqrelid::regclass),
            format('ALTER SEQUENCE %s AS %s INCREMENT %s MINVALUE %s MAXVALUE %s START %s CACHE %s %s',
                seqrelid::regclass, format_type(seqtypid, NULL), seqincrement, seqmin, seqmax, seqstart,
                seqcache, CASE WHEN seqcycle THEN 'CYCLE' ELSE 'NO CYCLE' END), NULL
        FROM pg_sequence JOIN sequence ON seq = seqrelid
    UNION ALL SELECT 106, inhseqno, true, name, format('parent %s of %s', inhparent::regclass, name),
            format('ALTER TABLE %s INHERIT %s', name, inhparent::regclass),
            format('ALTER TABLE %s NO INHERIT %s', name, inhparent::regclass)
        FROM member JOIN pg_inherits ON inhrelid = rel

    UNION ALL SELECT 200, 0, true, name, format('NOT NULL of %s', what),
            CASE WHEN k.conname <> format('%s_%s_not_null', relname, attname) OR NOT k.convalidated
                THEN format('ALTER TABLE %s ADD CONSTRAINT %I %s', name, conname, pg_get_constraintdef(k.oid))
                ELSE change || 'SET NOT NULL' END,
            change || 'DROP NOT NULL'
        FROM col JOIN pg_class c ON c.oid = attrelid
        LEFT JOIN pg_constraint k -- from PostgreSQL 18 on
            ON k.conrelid = attrelid AND k.contype = 'n' AND k.conkey = ARRAY[attnum]
        WHERE attnotnull AND attidentity = ''
    UNION ALL SELECT CASE contype WHEN 'f' THEN 303 ELSE 201 END, 0, true, name,
            format('constraint %I of %s', conname, name),
            format('ALTER TABLE %s ADD CONSTRAINT %I %s', name, conname, pg_get_constraintdef(c.oid)),
            format('ALTER TABLE %s DROP CONSTRAINT %I', name, conname)
        FROM member JOIN pg_constraint c ON conrelid = rel
        WHERE contype IN ('c', 'u', 'p', 'x', 'f') AND conislocal AND conparentid = 0
    UNION ALL SELECT 202, 0, true, name, format('index %s', indexrelid::regclass),
            pg_get_indexdef(indexrelid), format('DROP INDEX %s', indexrelid::regclass)
        FROM member JOIN pg_index ON indrelid = rel
        WHERE NOT EXISTS (SELECT FROM pg_constraint
            WHERE conindid = indexrelid AND contype IN ('u', 'p', 'x'))

    UNION ALL SELECT {OWNER}, 0, false, name, format('owner of %s', name),
            format('ALTER TABLE %s OWNER TO %I', name, pg_get_userbyid(relowner)), NULL
        FROM member JOIN pg_class c ON c.oid = rel WHERE rel NOT IN (SELECT seq FROM owned)
    UNION ALL SELECT 301, 0, true, seq::regclass, format('column of %s', seq::regclass),
            format('ALTER SEQUENCE %s OWNED BY %s.%I', seq::regclass, name, attname), NULL
        FROM owned WHERE deptype = 'a'
    UNION ALL SELECT 302, 0, true, name, format('statistics %I.%I', nspname, stxname),
            pg_get_statisticsobjdef(s.oid), format('DROP STATISTICS %I.%I', nspname, stxname)
        FROM member JOIN pg_statistic_ext s ON stxrelid = rel JOIN pg_namespace n ON n.oid = stxnamespace
    UNION ALL SELECT 304, 0, true, name, format('trigger %I of %s', tgname, name), pg_get_triggerdef(t.oid),
            format('DROP TRIGGER %I ON %s', tgname, name)
        FROM member JOIN pg_trigger t ON tgrelid = rel WHERE NOT tgisinternal AND tgparentid = 0
    UNION ALL SELECT 305, 0, true, name, format('state of trigger %I of %s', tgname, name),
            format('ALTER TABLE %s %s TRIGGER %I', name, CASE tgenabled WHEN 'D' THEN 'DISABLE' WHEN 'A' THEN
                'ENABLE ALWAYS' WHEN 'R' THEN 'ENABLE REPLICA' ELSE 'ENABLE' END, tgname), NULL
        FROM member JOIN pg_trigger t ON tgrelid = rel
        WHERE NOT tgisinternal AND tgparentid = 0 AND kind = 'r'
    UNION ALL SELECT 306, 0, true, name, format('rule %I of %s', rulename, name), pg_get_ruledef(r.oid),
            format('DROP RULE %I ON %s', rulename, name)
        FROM member JOIN pg_rewrite r ON ev_class = rel WHERE rulename <> '_RETURN'
    UNION ALL SELECT 307, 0, true, name, format('state of rule %I of %s', rulename, name),
            format('ALTER TABLE %s %s RULE %I', name, CASE ev_enabled WHEN 'D' THEN 'DISABLE' WHEN 'A' THEN
                'ENABLE ALWAYS' WHEN 'R' THEN 'ENABLE REPLICA' ELSE 'ENABLE' END, rulename), NULL
        FROM member JOIN pg_rewrite r ON ev_class = rel WHERE rulename <> '_RETURN' AND kind = 'r'
    UNION ALL SELECT 308, 0, false, name, format('replica identity of %s', name),
            format('ALTER TABLE %s REPLICA IDENTITY %s', name, CASE relreplident WHEN 'f' THEN 'FULL'
                WHEN 'n' THEN 'NOTHING' WHEN 'd' THEN 'DEFAULT' ELSE 'USING INDEX ' || (SELECT
                    quote_ident(i.relname) FROM pg_index JOIN pg_class i ON i.oid = indexrelid
                    WHERE indrelid = rel AND indisreplident) END), NULL
        FROM member JOIN pg_class c ON c.oid = rel WHERE kind = 'r'
    UNION ALL SELECT 309, 0, false, name, format('clustering of %s', name),
            format('ALTER TABLE %s CLUSTER ON %I', name, i.relname), NULL
        FROM member JOIN pg_index ON indrelid = rel AND indisclustered JOIN pg_class i ON i.oid = indexrelid
    UNION ALL SELECT 310, 0, false, name, format('statistics target of %s', what),
            change || 'SET STATISTICS ' || coalesce(attstattarget, -1), NULL FROM col
    UNION ALL SELECT 310, 0, true, name, format('options of %s', what),
            change || 'SET (' || string_agg(o, ', ') || ')',
            change || 'RESET (' || string_agg(split_part(o, '=', 1), ', ') || ')'
        FROM col, unnest(attoptions) AS o WHERE NOT starts_with(o, '{SERVERS_OWN}')
        GROUP BY name, what, change
    UNION ALL SELECT 311, 0, true, name, format('policy %I of %s', polname, name),
            format('CREATE POLICY %I ON %s AS %s FOR %s TO %s', polname, name,
                CASE WHEN polpermissive THEN 'PERMISSIVE' ELSE 'RESTRICTIVE' END,
                CASE polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE' WHEN 'd' THEN
                    'DELETE' ELSE 'ALL' END,
                (SELECT string_agg(CASE r WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(r)) END, ', ')
                    FROM unnest(polroles) AS r))
            || coalesce(' USING (' || pg_get_expr(polqual, polrelid) || ')', '')
            || coalesce(' WITH CHECK (' || pg_get_expr(polwithcheck, polrelid) || ')', ''),
            format('DROP POLICY %I ON %s', polname, name)
        FROM member JOIN pg_policy ON polrelid = rel
    UNION ALL SELECT 312, 0, false, name, format('row level security of %s', name),
            format('ALTER TABLE %s %s ROW LEVEL SECURITY, %s ROW LEVEL SECURITY', name,
                CASE WHEN relrowsecurity THEN 'ENABLE' ELSE 'DISABLE' END,
                CASE WHEN relforcerowsecurity THEN 'FORCE' ELSE 'NO FORCE' END), NULL
        FROM member JOIN pg_class c ON c.oid = rel WHERE kind = 'r'
    UNION ALL SELECT 313, 0, true, name, format('comment on %s', on_what),
            format('COMMENT ON %s IS %L', on_what, description), format('COMMENT ON %s IS NULL', on_what)
        FROM part JOIN pg_description ON classoid = classid AND objoid = objid,
            LATERAL (SELECT CASE WHEN o.type LIKE '% column' THEN 'COLUMN' WHEN o.type LIKE '% constraint'
                THEN 'CONSTRAINT' WHEN o.type LIKE 'statistics %' THEN 'STATISTICS' ELSE upper(o.type) END
                || ' ' || o.identity FROM pg_identify_object(classid, objid, objsubid) AS o) AS i (on_what)
)
SELECT place, builds, rel::text, what, make, undo FROM fact ORDER BY place, nth, what
"""

# The objects on which columns of the extension's tables depend: types, and functions of generated columns.
NEEDS = f"""
WITH RECURSIVE {MEMBER}, needs (classid, objid) AS (
    (SELECT d.refclassid, d.refobjid FROM pg_depend d JOIN member m ON d.classid = 'pg_class'::regclass
        AND d.objid = m.rel AND d.objsubid > 0
    UNION
    SELECT d.refclassid, d.refobjid FROM member m
        JOIN pg_attribute a ON a.attrelid = m.rel AND a.attgenerated <> ''
        JOIN pg_attrdef f ON f.adrelid = m.rel AND f.adnum = a.attnum
        JOIN pg_depend d ON d.classid = 'pg_attrdef'::regclass AND d.objid = f.oid)
    UNION
    SELECT d.refclassid, d.refobjid
    FROM pg_depend d JOIN needs n ON d.classid = n.classid AND d.objid = n.objid
)
SELECT classid::int8, objid::int8 FROM needs ORDER BY 1, 2
"""


# Builds with the same relations and functions can use each other's tables.
BUILD = """
SELECT md5(string_agg(concat_ws(' ', o.type, o.identity, p.prosrc), ',' ORDER BY o.type, o.identity))
FROM pg_extension e
JOIN pg_depend d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND d.deptype = 'e'
    AND d.classid IN ('pg_class'::regclass, 'pg_proc'::regclass)
LEFT JOIN pg_proc p ON d.classid = 'pg_proc'::regclass AND p.oid = d.objid,
LATERAL (SELECT i.type, i.identity COLLATE "C" AS identity
    FROM pg_identify_object(d.classid, d.objid, 0) AS i) AS o
WHERE e.extname = 'pg_llm'
"""


class Fact(NamedTuple):
    """A statement that creates a part of a table, and one that drops it (None: `make` overwrites it)."""

    place: int
    builds: bool
    rel: str
    what: str
    make: str
    undo: str | None


class Changes(NamedTuple):
    """The changes from the extension's current tables to those of a backup; left: differences that remain."""

    undo: list[str]
    make: list[Fact]
    left: list[str]


def read_facts(conn: psycopg.Connection) -> list[Fact]:
    """All parts of the extension's relations, in order of creation; needs an empty search_path."""
    return [Fact(*row) for row in conn.execute(FACTS).fetchall()]


def changes(theirs: Iterable[Fact], here: Iterable[Fact], same: bool) -> Changes:
    """The changes to a fresh database with the extension (here) that give it the facts of a backup (theirs).

    same: the backup is of the same build (BUILD). Otherwise a difference may be the user's or the build's:
    existing facts stay, and only missing ones are added.
    """
    theirs, have = list(theirs), {fact.what: fact.make for fact in here}
    want = {fact.what: fact.make for fact in theirs}
    undo = [f.undo for f in reversed(list(here)) if same and f.undo and want.get(f.what) != f.make]
    differ = [f for f in theirs if have.get(f.what) != f.make and (f.place != TYPE or f.what in have)]

    def stays(fact: Fact) -> bool:
        if same or not fact.builds:
            return False
        # This build does not fill a column that it does not know, so it cannot be NOT NULL.
        column = fact.what.removeprefix("NOT NULL of ")
        unfilled = f"column {column}" not in have and f"default of {column}" not in want
        return fact.what in have or (column != fact.what and unfilled)

    return Changes(undo, [f for f in differ if not stays(f)], [f.what for f in differ if stays(f)])
