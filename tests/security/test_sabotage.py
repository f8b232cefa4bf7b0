"""Tables and functions altered by their owner: what C reads gives an error or a result, never a crash.

Every column of every table: NULL, another type, odd values, gone; every table: rows twice, rows missing, a
view in its place; every function that C asks through SQL: replaced by one that lies.
After each, all that reads it.
"""

import itertools

import psycopg
import pytest
from helpers.tiny_model import letters, make

import pg_llm

pytestmark = pytest.mark.slow

RECORDING = [
    "SET LOCAL pg_llm.autograd = on",
    "SELECT mean(llm_var('[1,2]', 'w') * llm_var('[3,4]', 'u'))",
    "SELECT llm_materialize_params('m')",
]
CALLS = {
    "model": [
        "SELECT llm_logits('{1,2,3}', 'm')",
        "SELECT llm_loss('m', '{1,2,3}', '{2,3,4}')",
        "SELECT llm_generate('abc', 3, 0, model => 'm')",
        "SELECT text FROM llm_generate_stream('abc', 3, 1, model => 'm', seed => 1)",
        "SELECT * FROM llm_beam_search('ab', 2, 3, 'm')",
        "SELECT * FROM llm_next_tokens('ab', 3, 'm')",
        """SELECT llm_eval('m', 'h.0', '{"tokens": [1, 2]}')""",
        "SELECT * FROM llm_param_shapes('m')",
        "UPDATE llm_graph SET attrs = attrs WHERE model = 'm'",
        "UPDATE llm_param SET step = step WHERE model = 'm'",
        "SELECT llm_quantize('m', 'int8', 'q')",
        "SELECT llm_share_param('m', 'wte.weight', 'other', 'wte.weight')",
        "SELECT llm_unshare_param('sharer', 'wpe.weight')",
        "SELECT llm_init_model('m', 3)",
        "SELECT llm_create_model('new', 1, 1, 4, 8, 26)",
        "SELECT * FROM llm_explain('m', 'abc')",
        "SELECT pg_llm_export_safetensors('{folder}/m.safetensors', 'm')",
        "SELECT pg_llm_import_safetensors('{folder}/good.safetensors', 'imported')",
        "DELETE FROM llm_model_config WHERE model IN ('m', 'sharer')",
    ],
    "tokenizer": [
        "SELECT llm_encode('abc', 'm'), llm_decode('{1,2}', 'm')",
        "SELECT * FROM llm_tokenize('abc', 'm')",
        "SELECT * FROM llm_bpe_steps('abc', 'm')",
        "UPDATE llm_bpe_vocab SET rank = rank WHERE model = 'm'",
        "SELECT llm_bpe_train('SELECT ''abc abd''', 300, 'tok')",
    ],
    "tape": [
        "SELECT llm_trace('m', '{1,2,3}', '{2,3,4}')",
        "SELECT llm_backprop((SELECT max(id) FROM llm_tape), 'm')",
        "SELECT llm_accumulate_grads('m')",
        *RECORDING,
        "SELECT mean(data) FROM llm_tensor WHERE name = 'wpe.weight'",
        "SELECT llm_loss('m', '{1,2,3}', '{2,3,4}')",
        "SELECT * FROM llm_backward(mean(llm_var('[1,2]', 'w') * llm_var('[1,2]', 'w')))",
        "SELECT pg_llm_autograd_map_param('m', 'wte.weight', 1, zeros('{8}'))",
        "SELECT llm_backprop((SELECT max(id) FROM llm_tape), 'm')",
        "SET LOCAL pg_llm.autograd = off",
        "SELECT * FROM llm_activation",
        "SELECT * FROM llm_attention_map",
        "SELECT * FROM llm_gradient",
        "SELECT llm_prune_autograd_state()",
    ],
    "training": [
        "SELECT llm_train_step('m', 1, lr_max => 0.01)",
        "SELECT llm_train('m', 2, dataset => 'd', lr_max => 0.01, batch_size => 2, warmup => 1)",
        "SELECT * FROM llm_dataset_loss('m', 'd')",
        "SELECT * FROM llm_perplexity('m', 'd')",
        "SELECT llm_train_lock('m')",
        "SELECT llm_dataset_load('d2', 'SELECT ''abcabcabc''', 'm', block_size => 4)",
    ],
    "checkpoint": [
        "SELECT llm_checkpoint_save('m', 'again')",
        "SELECT llm_model_sha256('m')",
        "SELECT llm_checkpoint_load('m', 1)",
        "SELECT * FROM llm_replay('m', 1)",
    ],
}

# The readers of each table.
READERS = {
    "llm_model_config": ["model", "tokenizer", "training", "checkpoint"],
    "llm_model_version": ["model", "tokenizer"],
    "llm_graph": ["model", "tape", "training", "checkpoint"],
    "llm_param": ["model", "tape", "training", "checkpoint"],
    "llm_param_share": ["model", "tape", "training"],
    "llm_bpe_vocab": ["tokenizer", "model"],
    "llm_bpe_merges": ["tokenizer"],
    "llm_bpe_config": ["tokenizer"],
    "llm_run": ["tape"],
    "llm_tape": ["tape"],
    "llm_tensor_rt": ["tape"],
    "llm_tensor_map": ["tape"],
    "llm_dataset": ["training", "checkpoint"],
    "llm_train_run": ["training", "checkpoint"],
    "llm_train_log": ["training", "checkpoint"],
    "llm_checkpoint": ["checkpoint"],
    "llm_checkpoint_model": ["checkpoint"],
    "llm_checkpoint_param": ["checkpoint"],
}

COLUMNS = """SELECT c.relname, a.attname, a.atttypid::regtype::text FROM pg_class c JOIN pg_depend d
    ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'
    JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'pg_llm'
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    WHERE c.relkind = 'r' AND c.relname <> 'llm_op' ORDER BY c.relname, a.attnum"""

# Values that the column's type permits, but no constraint would.
ODD = {
    "text": ["''", "repeat('x', 5000)", "'tokens'", "'loss'"],
    "integer": ["0", "-1", "2147483647"],
    "bigint": ["0", "-1", "9223372036854775807"],
    "real": ["'NaN'", "'Infinity'"],
    "double precision": ["'NaN'", "-1"],
    "boolean": ["NOT {c}"],
    "integer[]": [
        "'{}'",
        "'{NULL,1}'",
        "'{{1,2},{3,4}}'",
        "'[5:6]={1,2}'",
        "'{2147483647,2147483647}'",
        "'{-1}'",
    ],
    "bigint[]": ["'{}'", "'{NULL}'", "'{{1},{2}}'", "'{9223372036854775807}'"],
    "text[]": ["'{}'", "'{NULL}'", "'{{tokens},{loss}}'", "'{loss,loss,loss}'", "'{\"\"}'"],
    "jsonb": ["'null'", "'[1]'", "'\"x\"'", '\'{"shape": ["C", 1e300]}\'', '\'{"n_head": 1e9, "axis": -9}\''],
    "tensor": ["'3'", "'[1,2]'", "'[[[1]]]'", "zeros('{0}')", "'[NaN]'"],
    "bytea": ["''", "'\\xff'"],
    "name": ["''"],
}
# One passed by reference, one by value.
OTHER_TYPES = {"text": ["bytea", "bigint"], "integer": ["text", "real"]}

UNCONSTRAIN = """DO $$ DECLARE k record; BEGIN
    FOR k IN SELECT conname, conrelid::regclass AS t FROM pg_constraint WHERE contype IN ('p', 'u', 'f', 'c')
        AND conrelid IN (SELECT objid FROM pg_depend WHERE deptype = 'e' AND classid = 'pg_class'::regclass)
        AND ({which})
    LOOP EXECUTE format('ALTER TABLE %s DROP CONSTRAINT IF EXISTS %I CASCADE', k.t, k.conname); END LOOP;
END $$"""

# Functions that C calls through SQL, and what they may return instead.
LIES = {
    "shape(t tensor) RETURNS int[] IMMUTABLE": [
        "NULL",
        "'{1}'",
        "'{-1,5}'",
        "'{NULL}'",
        "array_fill(1, ARRAY[20])",
    ],
    "_llm_tensor_version(t tensor) RETURNS bigint STABLE": ["NULL", "1"],
    "_llm_own_run(pid int, started timestamptz) RETURNS boolean STABLE": ["NULL", "false"],
    "llm_end_token(model text) RETURNS int STABLE": ["NULL", "-5", "2147483647"],
}


@pytest.fixture(scope="module")
def m(server, database, tmp_path_factory):
    with pg_llm.connect(database) as conn:
        make(conn, "m", n_layer=1, n_head=2, d_model=8)
        for other in ("other", "sharer"):
            conn.execute("SELECT llm_create_model(%s, 1, 2, 8, 16, 26)", [other])
            conn.execute("SELECT llm_init_model(%s, 2)", [other])
        letters(conn, "sharer")
        conn.execute("SELECT llm_share_param('m', 'wpe.weight', 'sharer', 'wpe.weight')")
        conn.execute(
            "INSERT INTO llm_dataset (dataset, tokens, target) "
            "SELECT 'd', ARRAY[i, i + 1, i + 2], ARRAY[i + 1, i + 2, i + 3] FROM generate_series(1, 6) AS i"
        )
        conn.execute("SELECT llm_train('m', 2, dataset => 'd', lr_max => 0.01, warmup => 1)")
        conn.execute("SELECT llm_checkpoint_save('m', 'first')")
        conn.execute("SELECT llm_train('m', 2, dataset => 'd', lr_max => 0.01, warmup => 1)")
        conn.execute("SELECT llm_trace('m', '{1,2,3}', '{2,3,4}')")
        folder = server.home / "sabotage"
        folder.mkdir(mode=0o777)
        folder.chmod(0o777)
        conn.execute("SELECT pg_llm_export_safetensors(%s, 'm')", [f"{folder}/good.safetensors"])
        conn.execute("SET client_min_messages = error; SET statement_timeout = '5s'")
        conn.folder = folder
        yield conn


def attack(conn, readers, *statements):
    """Applies the statements while a tape is recorded, calls all readers, rolls back. Returns the failures'
    count."""
    errors = 0
    conn.execute("BEGIN")
    calls = [*RECORDING, *statements, *itertools.chain(*(CALLS[reader] for reader in readers))]
    for call in calls:
        conn.execute("SAVEPOINT s")
        try:
            conn.execute(call.replace("{folder}", str(conn.folder)))
        except psycopg.Error as error:
            assert not conn.closed, (statements, call, error)
            conn.execute("ROLLBACK TO s")
            errors += 1
    conn.execute("ROLLBACK")
    return errors


def test_nothing_is_wrong_before(m):
    # the second llm_backprop finds no parameter of the model
    assert attack(m, list(CALLS)) == 1


def test_a_leaf_whose_data_is_gone(m):
    """Regression test: the leaf of that name was compared with NULL."""
    m.execute("BEGIN; SET LOCAL pg_llm.autograd = on")
    m.execute("SELECT mean(llm_var('[1,2]', 'w')); UPDATE llm_tensor_rt SET data = NULL WHERE name = 'w'")
    with pytest.raises(
        psycopg.errors.DataCorrupted, match='"data", of what pg_llm read from its tables is NULL'
    ):
        m.execute("SELECT mean(llm_var('[1,2]', 'w'))")
    m.execute("ROLLBACK")


@pytest.mark.parametrize(
    "change",
    [
        "ADD x text NOT NULL DEFAULT 'a'",
        "ADD x bigint GENERATED ALWAYS AS (version + 1) STORED",
        "ADD CHECK (version > 0)",
        "ADD UNIQUE (version)",
        "DROP CONSTRAINT llm_model_version_pkey",
        "ALTER version TYPE int",
        "RENAME TO other",
    ],
)
def test_the_version_table_is_what_it_was(m, change):
    """Its rows are written without the executor, which would have enforced these."""
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="was altered"), m.transaction():
        m.execute(f"ALTER TABLE llm_model_version {change}")
        m.execute("UPDATE llm_param SET step = step WHERE model = 'm'")


REFUSING = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} END $$;
CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION refuse();
"""


@pytest.mark.parametrize(
    ("table", "call", "message"),
    [
        ("llm_run", "SELECT llm_trace('m', '{1,2}')", "could not be written to llm_run"),
        ("llm_tape", "SELECT llm_trace('m', '{1,2}')", "wrote 0 rows instead of one"),
        ("llm_tensor_rt", "SELECT llm_trace('m', '{1,2}')", "wrote 0 rows instead of one"),
        ("llm_tensor_map", "SELECT llm_trace('m', '{1,2}')", "wrote 0 rows instead of one"),
        ("llm_param", "SELECT llm_train_step('m', 1, lr_max => 0.01)", "could not be written"),
        ("llm_train_log", "SELECT llm_train_step('m', 1, lr_max => 0.01)", "wrote 0 rows instead of one"),
        ("llm_train_run", "SELECT llm_train_step('m', 1, lr_max => 0.01)", "column 1, .run.* is NULL"),
        ("llm_checkpoint_param", "SELECT llm_checkpoint_save('m')", "wrote 0 rows instead of one"),
    ],
)
def test_a_trigger_that_keeps_rows_out(m, table, call, message):
    """BEFORE triggers that return NULL: writing a run was retried forever."""
    m.execute("BEGIN")
    m.execute(REFUSING.format(table=table, body="RETURN NULL;"))
    with pytest.raises(psycopg.Error, match=message):
        m.execute(call)
    m.execute("ROLLBACK")


@pytest.mark.parametrize("table", ["llm_param", "llm_train_log", "llm_train_run"])
def test_a_trigger_that_finds_no_table_of_its_own(m, table):
    """During training, names resolve in pg_catalog: a failing trigger's error says so."""
    m.execute("BEGIN; CREATE TABLE audit (what text)")
    m.execute(REFUSING.format(table=table, body="INSERT INTO audit VALUES ('x'); RETURN NEW;"))
    with pytest.raises(psycopg.errors.UndefinedTable) as error:
        m.execute("SELECT llm_train('m', 1, dataset => 'd', lr_max => 0.01, warmup => 1)")
    assert "it ran with search_path = pg_catalog, pg_temp" in error.value.diag.context
    m.execute("ROLLBACK; BEGIN")
    with pytest.raises(psycopg.Error) as error:
        m.execute("SELECT llm_train('m', 1, dataset => 'nowhere')")
    assert "search_path" not in (error.value.diag.context or "")
    m.execute("ROLLBACK")


def test_each_column(m):
    columns = m.execute(COLUMNS).fetchall()
    assert {table for table, _, _ in columns} == READERS.keys()
    for table, column, kind in columns:
        free = UNCONSTRAIN.replace("{which}", f"'public.{table}'::regclass IN (conrelid, confrelid)")
        bare = f"ALTER TABLE {table} ALTER {column} DROP NOT NULL, ALTER {column} DROP DEFAULT"
        touch = "UPDATE llm_param SET step = step"
        for odd in ["NULL", *ODD.get(kind, [])]:
            value = odd.replace("{c}", column)
            attack(m, READERS[table], free, bare, f"UPDATE {table} SET {column} = {value}", touch)
        for other in OTHER_TYPES.get(kind, ["text", "integer"]):
            change = (
                f"ALTER TABLE {table} ALTER {column} TYPE {other} USING {'1' if other != 'bytea' else 'NULL'}"
            )
            attack(m, READERS[table], free, bare, f"DROP VIEW {VIEWS} CASCADE", change, touch)
        attack(m, READERS[table], f"ALTER TABLE {table} DROP COLUMN {column} CASCADE", touch)


VIEWS = (
    "llm_param_row, llm_param_resolved, llm_lora, "
    "llm_tensor, llm_tape_named, llm_op_cost, llm_activation, llm_gradient, llm_param_gradient, "
    "llm_attention_map"
)


def test_each_table(m):
    columns = {}
    for table, column, _ in m.execute(COLUMNS).fetchall():
        columns.setdefault(table, []).append(column)
    quiet, loud = "SET LOCAL session_replication_role = replica", "RESET session_replication_role"
    free = UNCONSTRAIN.replace("{which}", "true")
    none = "CREATE FUNCTION none() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$"
    for table, readers in READERS.items():
        nulls = ", ".join(f"NULL::text AS {column}" for column in columns[table])
        aside = f"ALTER TABLE {table} RENAME TO aside"
        for sabotage in (
            [free, f"INSERT INTO {table} OVERRIDING SYSTEM VALUE SELECT * FROM {table}"],
            [free, quiet, f"DELETE FROM {table} WHERE ctid = (SELECT min(ctid) FROM {table})", loud],
            [free, quiet, f"DELETE FROM {table} WHERE ctid = (SELECT max(ctid) FROM {table})", loud],
            [free, quiet, f"DELETE FROM {table}", loud],
            [aside],
            [aside, f"CREATE VIEW {table} AS SELECT * FROM aside"],
            [aside, f"CREATE VIEW {table} AS SELECT {nulls} FROM aside"],
            [aside, f"CREATE TABLE {table} AS SELECT * FROM aside UNION ALL SELECT * FROM aside"],
            [
                none,
                f"CREATE TRIGGER t BEFORE INSERT OR UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION none()",
            ],
            [f"CREATE RULE r AS ON INSERT TO {table} DO INSTEAD NOTHING"],
            [f"CREATE RULE r AS ON UPDATE TO {table} DO INSTEAD NOTHING"],
        ):
            attack(m, readers, *sabotage)


def test_each_function(m):
    everything = ["model", "tape", "training", "checkpoint"]
    for declaration, answers in LIES.items():
        for answer in answers:
            lie = f"CREATE OR REPLACE FUNCTION {declaration} LANGUAGE sql AS $$ SELECT {answer} $$"
            attack(m, everything, lie, "UPDATE llm_param SET step = step")
    rows = m.execute(
        """SELECT pg_get_function_arguments(p.oid), pg_get_function_result(p.oid), p.proname
        FROM pg_proc p WHERE p.proname IN ('_llm_export_rows', '_llm_export_begin', '_llm_import_begin',
        '_llm_checkpoint_tensors', '_llm_checkpoint_facts', '_llm_train_begin', '_llm_train_plan',
        'llm_param_shapes', 'llm_gpt2_graph', '_llm_checkpoint_get')"""
    ).fetchall()
    assert len(rows) == 10
    for arguments, result, name in rows:
        for body in ("BEGIN RETURN; END", "BEGIN RETURN NEXT; RETURN NEXT; END", "BEGIN RETURN NULL; END"):
            declaration = f"{name}({arguments}) RETURNS {result} LANGUAGE plpgsql"
            attack(m, everything, f"CREATE OR REPLACE FUNCTION {declaration} AS $$ {body} $$")
