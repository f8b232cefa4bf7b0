"""Copies what a reset keeps: the learner's models (named my_*) and the tables of the schema `learner`."""

from __future__ import annotations

import subprocess

import psycopg
from psycopg import sql

from pg_llm import catalog
from pg_llm.errors import KitError
from pg_llm.server import clients

# Versions, which triggers raise when the other tables are filled.
DERIVED = {"llm_model_version"}

# Tables whose rows belong to a model, with the column that names the model or the checkpoint.
MODEL_TABLES = """
    WITH RECURSIVE tables AS (
        SELECT c.oid, n.nspname, c.relname, a.attname
        FROM pg_extension e
        JOIN pg_depend d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid
            AND d.classid = 'pg_class'::regclass AND d.deptype = 'e'
        JOIN pg_class c ON c.oid = d.objid AND c.relkind = 'r' AND c.relpersistence = 'p'
        JOIN pg_namespace n ON n.oid = c.relnamespace
        JOIN pg_attribute a ON a.attrelid = c.oid AND NOT a.attisdropped
            AND a.attname IN ('model', 'target_model', 'checkpoint')
        WHERE e.extname = 'pg_llm'
    ), levels AS (
        SELECT oid, 0 AS level FROM tables
        UNION
        SELECT f.conrelid, levels.level + 1 FROM pg_constraint f JOIN levels ON f.confrelid = levels.oid
        WHERE f.contype = 'f' AND f.conrelid <> f.confrelid AND levels.level < 10
    )
    SELECT t.nspname, t.relname, t.attname FROM tables t JOIN levels l USING (oid)
    GROUP BY t.nspname, t.relname, t.attname
    -- What others refer to first; of the rest a model's graph.
    ORDER BY max(l.level), t.relname <> 'llm_graph', t.relname
"""

SEQUENCES = """
    SELECT n.nspname, c.relname
    FROM pg_extension e
    JOIN pg_depend d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid
        AND d.classid = 'pg_class'::regclass AND d.deptype = 'e'
    JOIN pg_class c ON c.oid = d.objid AND c.relkind = 'S'
    JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE e.extname = 'pg_llm' AND c.relname <> 'llm_version_seq'
"""

LEARNER = "learner"


def carry_over(old: psycopg.Connection, new: psycopg.Connection) -> None:
    """Copies what a reset keeps from one database to another."""
    with new.transaction():
        new.execute("SET CONSTRAINTS ALL DEFERRED")
        for schema, table, column in old.execute(MODEL_TABLES).fetchall():
            if table not in DERIVED:
                mine = sql.SQL("WHERE {} LIKE 'my\\_%'").format(sql.Identifier(column))
                if column == "checkpoint":
                    checkpoints = sql.Identifier(schema, "llm_checkpoint")
                    mine = sql.SQL(
                        "WHERE checkpoint IN (SELECT id FROM {} WHERE model LIKE 'my\\_%')"
                    ).format(checkpoints)
                _copy(old, new, sql.Identifier(schema, table), mine)
        _advance_sequences(old, new)
    if old.execute("SELECT 1 FROM pg_namespace WHERE nspname = %s", [LEARNER]).fetchone():
        _copy_schema(old, new)


def _advance_sequences(old: psycopg.Connection, new: psycopg.Connection) -> None:
    """The rows keep their numbers, so the sequences must continue after them."""
    for schema, name in old.execute(SEQUENCES).fetchall():
        sequence = sql.Identifier(schema, name)
        last = catalog.value(old, sql.SQL("SELECT last_value FROM {}").format(sequence))
        if catalog.value(new, "SELECT to_regclass(%s)", [sequence.as_string(new)]):
            advance = "SELECT setval(%s::regclass, greatest(%s::bigint, last_value)) FROM {}"
            new.execute(sql.SQL(advance).format(sequence), [sequence.as_string(new), last])


def _copy_schema(old: psycopg.Connection, new: psycopg.Connection) -> None:
    """Copies the learner's own tables with pg_dump, which knows every kind of object."""
    dump = _run(clients.command(old, "pg_dump", "--no-owner", "--no-acl", "--schema", LEARNER))
    script = b"".join(clients.suited(dump.splitlines(keepends=True), new.info.server_version))
    _run(clients.command(new, "psql", "-q", "-1", "-X", "-v", "ON_ERROR_STOP=1"), script)


def _run(command: dict, script: bytes | None = None) -> bytes:
    done = subprocess.run(**command, input=script, capture_output=True)
    if done.returncode != 0:
        words = done.stderr.decode(errors="replace").strip()
        raise KitError(f"your own tables could not be kept, nothing was changed: {words}")
    return done.stdout


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
    """Columns that both have (the new table may be of a newer build), except generated ones."""
    query = (
        "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass(%s) AND attnum > 0 "
        "AND NOT attisdropped AND attgenerated = '' ORDER BY attnum"
    )
    have = [row[0] for row in old.execute(query, [table.as_string(old)]).fetchall()]
    want = {row[0] for row in new.execute(query, [table.as_string(new)]).fetchall()}
    return sql.SQL(", ").join(sql.Identifier(name) for name in have if name in want)
