"""Entries of the SQL reference, from the catalog of a database, in the order of extension/sql."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import psycopg

from helpers.markdown import entry, escaped
from helpers.paths import REPO

# Functions for the extension's own use: internal by name, by type, or because something else calls them.
HIDDEN = """
    SELECT p.oid FROM pg_proc AS p WHERE p.proname LIKE '\\_%'
        OR p.prorettype IN ('trigger'::regtype, 'internal'::regtype, 'cstring'::regtype)
        OR 'internal'::regtype = ANY (p.proargtypes)
    UNION SELECT oprcode FROM pg_operator UNION SELECT castfunc FROM pg_cast
    UNION SELECT amproc FROM pg_amproc UNION SELECT aggfinalfn FROM pg_aggregate
    UNION SELECT unnest(ARRAY[typinput, typoutput, typsend, typreceive, typmodin, typmodout]) FROM pg_type"""
PUBLIC = f"""
    SELECT d.classid::regclass::text, d.objid FROM pg_depend AS d
    LEFT JOIN pg_class AS c ON d.classid = 'pg_class'::regclass AND c.oid = d.objid
    LEFT JOIN pg_type AS t ON d.classid = 'pg_type'::regclass AND t.oid = d.objid
    WHERE d.deptype = 'e' AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'pg_llm')
        AND (d.classid = 'pg_operator'::regclass OR c.relkind IN ('r', 'v')
            OR t.typtype = 'b' AND t.typelem = 0
            OR d.classid = 'pg_proc'::regclass AND d.objid NOT IN ({HIDDEN}))"""
COMMENT = re.compile(r"^COMMENT ON (\w+) (.+?)\s+IS\b", re.MULTILINE | re.DOTALL)
CATALOG = {"TABLE": "pg_class", "VIEW": "pg_class", "TYPE": "pg_type", "OPERATOR": "pg_operator"}
REG = {"pg_class": "regclass", "pg_type": "regtype", "pg_operator": "regoperator", "pg_proc": "regprocedure"}

FUNCTION = """
    SELECT p.proname, pg_get_function_arguments(p.oid), pg_get_function_result(p.oid), p.prokind,
        obj_description(p.oid, 'pg_proc') FROM pg_proc AS p WHERE p.oid = %s"""
OPERATOR = """
    SELECT concat_ws(' ', format_type(nullif(o.oprleft, 0), NULL), o.oprname,
            format_type(o.oprright, NULL), '→', format_type(o.oprresult, NULL)),
        obj_description(o.oid, 'pg_operator') FROM pg_operator AS o WHERE o.oid = %s"""
RELATION = """
    SELECT c.relname, CASE c.relkind WHEN 'v' THEN 'view' ELSE 'table' END,
        obj_description(c.oid, 'pg_class'),
        (SELECT array_agg(ARRAY[attname::text, format_type(atttypid, atttypmod),
                col_description(c.oid, attnum)] ORDER BY attnum)
            FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped)
    FROM pg_class AS c WHERE c.oid = %s"""
TYPE = """
    SELECT t.typname, obj_description(t.oid, 'pg_type'),
        (SELECT string_agg(format('`%%s`%%s', format_type(castsource, NULL), how), ', ' ORDER BY n)
            FROM casts WHERE casttarget = t.oid),
        (SELECT string_agg(format('`%%s`%%s', format_type(casttarget, NULL), how), ', ' ORDER BY n)
            FROM casts WHERE castsource = t.oid)
    FROM pg_type AS t WHERE t.oid = %s"""
CASTS = """
    WITH casts AS (SELECT *, oid AS n,
            CASE castcontext WHEN 'e' THEN ' (written `::` or `CAST` only)' ELSE '' END AS how
        FROM pg_cast WHERE castsource <> casttarget)"""
SETTINGS = """
    SELECT name, CASE vartype WHEN 'enum' THEN array_to_string(enumvals, ', ') ELSE vartype END, boot_val,
        unit, context, concat_ws(' ', short_desc, extra_desc)
    FROM pg_settings WHERE name LIKE 'pg\\_llm.%' AND context <> 'internal' ORDER BY name"""
WHO = {"user": "", "superuser": "; superusers", "sighup": "; `ALTER SYSTEM`", "postmaster": "; server start"}


def reading_order() -> Iterator[tuple[str, str, str]]:
    """File of extension/sql, catalog and name of each object that has a COMMENT ON, as they stand there."""
    for path in sorted((REPO / "extension" / "sql").glob("*.sql")):
        for kind, name in COMMENT.findall(path.read_text()):
            if kind in ("FUNCTION", "PROCEDURE", "AGGREGATE", *CATALOG):
                yield path.name, CATALOG.get(kind, "pg_proc"), name.replace("VARIADIC ", "")


def public_objects(conn: psycopg.Connection) -> dict[str, list[tuple[str, int]]]:
    """File of extension/sql -> its public objects as (catalog, oid), in the order of the file."""
    public = {*conn.execute(PUBLIC)}
    files: dict[str, list[tuple[str, int]]] = {}
    for file, catalog, name in reading_order():
        oid = conn.execute(f"SELECT %s::{REG[catalog]}::oid", [name]).fetchone()[0]
        if (catalog, oid) in public:
            files.setdefault(file, []).append((catalog, oid))
    lost = public - {item for items in files.values() for item in items}
    assert not lost, f"without a COMMENT ON in extension/sql: {lost}"
    return files


def name_of(conn: psycopg.Connection, catalog: str, oid: int) -> str:
    """An object's name without its schema."""
    names = {"pg_class": "relname", "pg_type": "typname", "pg_operator": "oprname", "pg_proc": "proname"}
    return conn.execute(f"SELECT {names[catalog]} FROM {catalog} WHERE oid = %s", [oid]).fetchone()[0]


def signature(arguments: str, result: str | None) -> str:
    """(a integer DEFAULT 1) → text; columns of a row that OUT arguments name become its result.

    >>> signature("t tensor, OUT i integer, OUT x real", "SETOF record")
    '(t tensor) → TABLE(i integer, x real)'
    """
    parts = [re.sub(r"::[\w ]+(\[\])?$", "", part) for part in arguments.split(", ") if part]
    parts = [re.sub(r"'(-\d+)'$", r"\1", part) for part in parts]
    out = [part.removeprefix("OUT ") for part in parts if part.startswith("OUT ")]
    if out:
        result = ("TABLE" if result.startswith("SETOF") else "") + f"({', '.join(out)})"
        result = result if len(out) > 1 or result.startswith("TABLE") else out[0]
    given = ", ".join(part for part in parts if not part.startswith("OUT "))
    return f"({given})" + (f" → {result}" if result else "")


def describe(conn: psycopg.Connection, catalog: str, oid: int) -> tuple[str, str]:
    """The head of an entry, and what it says."""
    if catalog == "pg_proc":
        name, arguments, result, kind, comment = conn.execute(FUNCTION, [oid]).fetchone()
        note = {"a": " (aggregate)", "p": " (procedure)"}.get(kind, "")
        return f"`{name}{signature(arguments, result)}`{note}", comment
    if catalog == "pg_operator":
        form, comment = conn.execute(OPERATOR, [oid]).fetchone()
        return f"`{form}`", comment
    if catalog == "pg_class":
        name, kind, comment, columns = conn.execute(RELATION, [oid]).fetchone()
        listed = ", ".join(f"{column} {type_}" for column, type_, _ in columns)
        notes = "".join(f"\n  - `{column}`: {text}" for column, _, text in columns if text)
        return f"{kind} `{name} ({listed})`", comment + notes
    name, comment, sources, targets = conn.execute(CASTS + TYPE, [oid]).fetchone()
    return f"type `{name}`", f"{comment}\n  - casts from {sources}\n  - casts to {targets}"


def sql_entries(conn: psycopg.Connection, objects: list[tuple[str, int]]) -> str:
    """Entries of one file; what says the same of several signatures is one entry."""
    heads: dict[str, list[str]] = {}
    for head, text in (describe(conn, *item) for item in objects):
        heads.setdefault(text, []).append(head)
    return "\n".join(entry(group, escaped(said)) for said, group in heads.items())


def settings(conn: psycopg.Connection) -> str:
    """A table of the settings, for a session that has loaded the library."""
    lines = ["| setting | values | default | |", "|---|---|---|---|"]
    for name, values, default, unit, context, text in conn.execute(SETTINGS):
        shown = "" if unit or not default else f"`{default}`"  # memory: of the machine
        lines.append(f"| `{name}` | {values}{WHO.get(context, '; ' + context)} | {shown} | {text} |")
    return "\n".join(lines)


def sql_blocks(conn: psycopg.Connection) -> Callable[[str], str]:
    """Marker -> what stands below it in extension/README.md."""
    conn.execute("LOAD 'pg_llm'")
    files = public_objects(conn)

    def block(marker: str) -> str:
        if marker == "settings":
            return settings(conn)
        return "\n".join(sql_entries(conn, files[file]) for file in marker.split() if file in files)

    return block
