"""What a reset keeps: the learner's models (named my_*) and the tables of the schema `learner`."""

from __future__ import annotations

import psycopg
from psycopg import sql

# Raised by triggers when the other tables are filled.
DERIVED = {"llm_model_version"}

MODEL_TABLES = """
    SELECT n.nspname, c.relname, a.attname
    FROM pg_extension e
    JOIN pg_depend d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid
        AND d.classid = 'pg_class'::regclass AND d.deptype = 'e'
    JOIN pg_class c ON c.oid = d.objid AND c.relkind = 'r' AND c.relpersistence = 'p'
    JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_attribute a ON a.attrelid = c.oid AND NOT a.attisdropped
        AND a.attname IN ('model', 'target_model')
    WHERE e.extname = 'pg_llm'
    -- A model's row first, then its graph, then the rest.
    ORDER BY c.relname <> 'llm_model_config', c.relname <> 'llm_graph', c.relname
"""

LEARNER_TABLES = """
    SELECT c.relname FROM pg_class c
    WHERE c.relnamespace = to_regnamespace('learner') AND c.relkind = 'r' ORDER BY c.oid
"""


def carry_over(old: psycopg.Connection, new: psycopg.Connection) -> None:
    """Copies what a reset keeps from one database to another, in one transaction of the new one."""
    with new.transaction():
        new.execute("SET CONSTRAINTS ALL DEFERRED")
        for schema, table, column in old.execute(MODEL_TABLES).fetchall():
            if table not in DERIVED:
                mine = sql.SQL("WHERE {} LIKE 'my\\_%'").format(sql.Identifier(column))
                _copy(old, new, sql.Identifier(schema, table), mine)
        for (table,) in old.execute(LEARNER_TABLES).fetchall():
            new.execute("CREATE SCHEMA IF NOT EXISTS learner")
            name = sql.Identifier("learner", table)
            _recreate(old, new, table, name)
            _copy(old, new, name, sql.SQL(""))


def _recreate(old: psycopg.Connection, new: psycopg.Connection, table: str, name: sql.Identifier) -> None:
    query = (
        "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = to_regclass(%s) "
        "AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
    )
    columns = old.execute(query, [name.as_string(old)]).fetchall()
    parts = [sql.SQL("{} {}").format(sql.Identifier(column), sql.SQL(kind)) for column, kind in columns]
    new.execute(sql.SQL("CREATE TABLE IF NOT EXISTS {} ({})").format(name, sql.SQL(", ").join(parts)))


def _copy(
    old: psycopg.Connection, new: psycopg.Connection, table: sql.Identifier, where: sql.Composable
) -> None:
    columns = _columns(old, new, table)
    source = sql.SQL("COPY (SELECT {} FROM {} {}) TO STDOUT (FORMAT binary)").format(columns, table, where)
    target = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT binary)").format(table, columns)
    with old.cursor().copy(source) as reading, new.cursor().copy(target) as writing:
        for block in reading:
            writing.write(block)


def _columns(old: psycopg.Connection, new: psycopg.Connection, table: sql.Identifier) -> sql.Composed:
    """Columns that both have (the new one may be of a newer build); generated ones fill themselves."""
    query = (
        "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass(%s) AND attnum > 0 "
        "AND NOT attisdropped AND attgenerated = '' ORDER BY attnum"
    )
    have = [row[0] for row in old.execute(query, [table.as_string(old)]).fetchall()]
    want = {row[0] for row in new.execute(query, [table.as_string(new)]).fetchall()}
    return sql.SQL(", ").join(sql.Identifier(name) for name in have if name in want)
