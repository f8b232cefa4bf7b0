"""Architectures are rows: edits change the results as NumPy predicts; inconsistent graphs are rejected."""

import numpy as np
import psycopg
import pytest
from helpers.tiny_model import gpt2, ids, logits, make, params

TOKENS = ids("thequickbrown")
ALL = "SET CONSTRAINTS llm_graph_fits DEFERRED"


@pytest.fixture
def edit(conn):
    """A function that creates a model, edits its rows in one transaction, and returns logits and weights."""

    def run(*statements, n_head=2):
        conn.execute("DELETE FROM llm_model_config WHERE model = 'g'")
        conn.execute("DELETE FROM llm_bpe_vocab WHERE model = 'g'")
        make(conn, "g", n_head=n_head)
        with conn.transaction():
            conn.execute(ALL)
            for statement in statements:
                assert conn.execute(statement).rowcount > 0, statement
        return logits(conn, "g", TOKENS), params(conn, "g")

    return run


def same(ours, theirs):
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= 1e-5 * np.abs(theirs).max()


NOT_CUT = "model = 'g' AND name NOT LIKE 'h.0%'"
EDITS = {
    "nothing": ([], {}),
    "relu": (
        ["UPDATE llm_graph SET op = 'relu' WHERE op = 'gelu'"],
        {"act": lambda x: np.maximum(x, 0)},
    ),
    "tanh": (["UPDATE llm_graph SET op = 'tanh' WHERE op = 'gelu'"], {"act": np.tanh}),
    "layer cut": (
        [
            f"UPDATE llm_graph SET inputs = array_replace(inputs, 'h.0', 'drop') WHERE {NOT_CUT}",
            "DELETE FROM llm_graph WHERE model = 'g' AND name LIKE 'h.0%'",
        ],
        {"layers": [1]},
    ),
    "layers swapped": (
        [
            "UPDATE llm_graph SET inputs = array_replace(inputs, 'h.0', 'x') WHERE name LIKE 'h.1%'",
            "UPDATE llm_graph SET inputs = array_replace(inputs, 'drop', 'h.1') WHERE name LIKE 'h.0%'",
            "UPDATE llm_graph SET inputs = array_replace(inputs, 'x', 'drop') WHERE name LIKE 'h.1%'",
            "UPDATE llm_graph SET inputs = array_replace(inputs, 'h.1', 'h.0') WHERE name = 'ln_f'",
        ],
        {"layers": [1, 0]},
    ),
    "a layer twice": (
        [
            "UPDATE llm_graph SET inputs = array_replace(inputs, w, replace(w, 'h.1', 'h.0')) "
            "FROM unnest(ARRAY['c_fc', 'c_proj']) AS n, format('h.1.mlp.%s.weight', n) AS w "
            "WHERE model = 'g' AND w = ANY (inputs) AND n = 'c_fc'"
        ],
        None,
    ),
    "head ablated": (
        ["""UPDATE llm_graph SET attrs = attrs || '{"head_mask": [0, 1]}' WHERE op = 'attention'"""],
        {"mask": [0, 1]},
    ),
    "window": (
        ["""UPDATE llm_graph SET attrs = attrs || '{"window": 3}' WHERE op = 'attention'"""],
        {"window": 3},
    ),
    "window null": (
        ["""UPDATE llm_graph SET attrs = attrs || '{"window": null}' WHERE op = 'attention'"""],
        {},
    ),
    "parallel": (
        [
            "UPDATE llm_graph SET inputs[1] = CASE name WHEN 'h.0.ln_2' THEN 'drop' ELSE 'h.0' END "
            "WHERE name LIKE 'h._.ln_2'"
        ],
        {"parallel": True},
    ),
}


@pytest.mark.parametrize("name", EDITS)
def test_edits_give_what_numpy_gives(edit, name):
    statements, options = EDITS[name]
    ours, weights = edit(*statements)
    if options is None:  # the second layer reads the first one's matrix
        weights["h.1.mlp.c_fc.weight"] = weights["h.0.mlp.c_fc.weight"]
    same(ours, gpt2(weights, TOKENS, 2, **(options or {})))


def test_a_residual_over_the_whole_model(edit, conn):
    """logits = ln_f(h.1 + drop): one new row, one rewired."""
    ours, weights = edit(
        "INSERT INTO llm_graph (model, name, op, inputs) VALUES ('g', 'skip', 'add', '{h.1,drop}')",
        "UPDATE llm_graph SET inputs[1] = 'skip' WHERE name = 'ln_f'",
    )
    drop = conn.execute("SELECT llm_eval('g', 'drop', %s::jsonb)", [f'{{"tokens": {TOKENS}}}']).fetchone()[0]
    same(drop[0], weights["wte.weight"][TOKENS] + weights["wpe.weight"][: len(TOKENS)])
    x, unchanged = (
        conn.execute("SELECT llm_eval('g', %s, %s::jsonb)", (n, f'{{"tokens": {TOKENS}}}')).fetchone()[0]
        for n in ("skip", "h.1")
    )
    same(x, unchanged + drop)
    assert not np.array_equal(ours, edit()[0])


REFUSED = [  # statement, SQLSTATE, a part of the message
    ("SET op = 'gelo' WHERE op = 'gelu'", "42704", ['"h.0.mlp.act"', '"gelo"']),
    ("SET inputs = '{h.9}' WHERE name = 'h.0.mlp.act'", "42704", ['"h.0.mlp.act"', '"h.9"']),
    ("SET inputs = '{}' WHERE op = 'gelu'", "22023", ['"h.0.mlp.act"', "gelu takes 1 input, not 0"]),
    ("SET inputs = '{NULL}' WHERE op = 'gelu'", "22004", ['"h.0.mlp.act"', "input 1 is NULL"]),
    (
        "SET inputs[2] = 'wte.weight' WHERE name = 'h.0.mlp.c_fc.matmul'",
        "2202E",
        ['"h.0.mlp.c_fc.matmul"', "h.0.ln_2 (B,T,C)", "wte.weight (V,C)", "inner dimensions C and V"],
    ),
    (
        "SET inputs[2] = 'h.0.mlp.act' WHERE name = 'h.0'",
        "2202E",
        ['"h.0"', "h.0.attn.residual (B,T,C)", "h.0.mlp.act (B,T,4*C)", "broadcast"],
    ),
    (
        "SET inputs[2] = 'h.0.attn.c_attn.bias' WHERE name = 'h.0.ln_1'",
        "2202E",
        ['"h.0.ln_1"', "drop (B,T,C)", "h.0.attn.c_attn.bias (3*C)"],
    ),
    ("SET inputs = '{h.0.ln_1}' WHERE name = 'h.0.attn.heads'", "2202E", ['"h.0.attn.heads"', "(B,T,C)"]),
    ("SET inputs = '{logits,positions}' WHERE name = 'loss'", "2202E", ['"loss"', "(B,T,V)", "(T)"]),
    ("SET inputs[1] = 'tokens' WHERE name = 'h.0'", "2202E", ['"h.0"', '"tokens"', "whole numbers"]),
    (
        "SET inputs[1] = 'h.1' WHERE name = 'h.0.attn.residual'",
        "22023",
        ["depends on itself through"],
    ),
    ("SET inputs = '{h.0.mlp.act}' WHERE name = 'h.0.mlp.act'", "22023", ['"h.0.mlp.act"', "itself"]),
    ("""SET attrs = '{"n_head": 3}' WHERE op = 'attention'""", "2202E", ["8 channels", "3 heads"]),
    ("""SET attrs = '{"n_head": "2"}' WHERE op = 'attention'""", "22023", ["n_head", "whole number"]),
    ("""SET attrs = '{"widow": 2}' WHERE op = 'attention'""", "22023", ['"widow"']),
    ("""SET attrs = attrs || '{"window": "5"}' WHERE op = 'attention'""", "22023", ["window"]),
    ("""SET attrs = attrs || '{"window": 0}' WHERE op = 'attention'""", "22023", ["window"]),
    (
        """SET attrs = attrs || '{"causal": "no"}' WHERE op = 'attention'""",
        "22023",
        ["causal", "true or false"],
    ),
    ("""SET attrs = attrs || '{"scale": 1e999}' WHERE op = 'attention'""", "22023", ["scale"]),
    ("""SET attrs = attrs || '{"head_mask": [1]}' WHERE op = 'attention'""", "22023", ["head_mask"]),
    ("""SET attrs = attrs || '{"head_mask": [1, "x"]}' WHERE op = 'attention'""", "22023", ["head_mask"]),
    ("""SET attrs = '{"n_head": {"a": {"b": 1}}}' WHERE op = 'attention'""", "22023", ["nested"]),
    ("""SET attrs = '{"eps": -1}' WHERE op = 'layernorm'""", "22023", ['"h.0.ln_1"', "eps"]),
    ("""SET attrs = '{"shape": ["V", "Q"]}' WHERE name = 'wte.weight'""", "2202E", ['"wte.weight"', "Q"]),
    ("""SET attrs = '{"shape": ["V", "C-1"]}' WHERE name = 'wte.weight'""", "22023", ['"C-1"']),
    ("""SET attrs = '{"shape": ["V", 1.5]}' WHERE name = 'wte.weight'""", "22023", ['"wte.weight"']),
    ("""SET attrs = '{"shape": ["V", "2147483647*C"]}' WHERE name = 'wte.weight'""", "54000", ["too large"]),
    ("""SET attrs = '{"shape": ["B", "T"]}' WHERE name = 'tokens'""", "2202E", ['"wte"', "whole numbers"]),
    ("""SET attrs = '[1]' WHERE op = 'layernorm'""", "23514", ["llm_graph_attrs_check"]),
    ("SET op = 'conv' || chr(1) || repeat('x', 1000000) WHERE name = 'h.0'", "42704", ['"h.0"']),
]


@pytest.fixture
def g(conn):
    conn.execute("DELETE FROM llm_model_config WHERE model = 'g'")
    conn.execute("DELETE FROM llm_bpe_vocab WHERE model = 'g'")
    make(conn, "g")
    return conn


def test_what_does_not_fit_is_refused_when_written(g):
    before = g.execute("SELECT * FROM llm_graph WHERE model = 'g' ORDER BY id").fetchall()
    for change, state, words in REFUSED:
        with pytest.raises(psycopg.Error) as error:
            g.execute(f"UPDATE llm_graph {change} AND model = 'g'")
        assert error.value.sqlstate == state, (change, error.value)
        for word in words:
            assert word in str(error.value), (change, str(error.value))
    after = g.execute("SELECT * FROM llm_graph WHERE model = 'g' ORDER BY id").fetchall()
    assert before == after


def test_several_statements_in_one_change(g):
    """An inconsistent graph is allowed until the transaction ends."""
    rename = "UPDATE llm_graph SET name = 'mid' WHERE model = 'g' AND name = 'h.0'"
    readers = "UPDATE llm_graph SET inputs = array_replace(inputs, 'h.0', 'mid') WHERE model = 'g'"
    with pytest.raises(psycopg.errors.UndefinedObject):
        g.execute(rename)
    with pytest.raises(psycopg.errors.UndefinedObject, match='"h.0"'), g.transaction():
        g.execute(ALL)
        g.execute(rename)
    with g.transaction():
        g.execute(ALL)
        g.execute(rename)
        g.execute(readers)
        g.execute("SET CONSTRAINTS llm_graph_fits IMMEDIATE")
    assert logits(g, "g", [1]).shape == (1, 26)


def test_a_refusal_is_not_forgotten_by_a_savepoint(g):
    """A check that failed and was rolled back to a savepoint must run again at COMMIT."""
    with pytest.raises(psycopg.errors.UndefinedObject), g.transaction():
        g.execute(ALL)
        g.execute("UPDATE llm_graph SET inputs = '{nowhere}' WHERE model = 'g' AND name = 'h.0.mlp.act'")
        with pytest.raises(psycopg.errors.UndefinedObject), g.transaction():
            g.execute("SET CONSTRAINTS llm_graph_fits IMMEDIATE")
    assert logits(g, "g", [1]).shape == (1, 26)


def test_many_rows_are_checked_once(conn):
    """The check writes the shapes with one UPDATE for each INSERT or COPY, however many rows it has."""
    conn.execute("SELECT llm_create_model('from', 20, 2, 8, 16, 26)")
    conn.execute(
        "CREATE TABLE checks (n int); CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN INSERT INTO public.checks VALUES (1); RETURN NULL; END'; CREATE TRIGGER note AFTER UPDATE "
        "ON llm_graph FOR EACH STATEMENT EXECUTE FUNCTION note(); INSERT INTO llm_model_config "
        "SELECT name, 20, 2, 8, 32, 16, 26 FROM unnest(ARRAY['inserted', 'copied']) AS name"
    )
    rows = conn.execute(
        "SELECT id, name, op, inputs, attrs::text FROM llm_graph WHERE model = 'from' ORDER BY id"
    )
    rows = rows.fetchall()
    conn.execute(
        "INSERT INTO llm_graph (model, name, op, inputs, attrs) "
        "SELECT 'inserted', name, op, inputs, attrs FROM llm_graph WHERE model = 'from' ORDER BY random()"
    )
    with conn.cursor().copy("COPY llm_graph (model, id, name, op, inputs, attrs) FROM STDIN") as copy:
        for id, *rest in reversed(rows):
            copy.write_row(("copied", id, *rest))
    assert conn.execute("SELECT count(*) FROM checks").fetchone() == (2,)
    conn.execute("DROP TRIGGER note ON llm_graph")
    shapes = "SELECT name, shape FROM llm_graph WHERE model = %s ORDER BY name"
    expected = conn.execute(shapes, ["from"]).fetchall()
    assert dict(expected)["h.19.attn.c_attn"] == ["B", "T", "3*C"] and dict(expected)["loss"] == []
    assert conn.execute(shapes, ["inserted"]).fetchall() == expected
    assert conn.execute(shapes, ["copied"]).fetchall() == expected


def test_shapes_follow_the_graph(g):
    shape = "SELECT shape FROM llm_graph WHERE model = 'g' AND name = 'h.0.mlp.act'"
    assert g.execute(shape).fetchone() == (["B", "T", "4*C"],)
    g.execute("UPDATE llm_graph SET shape = '{nonsense}' WHERE model = 'g'")
    assert g.execute(shape).fetchone() == (["B", "T", "4*C"],)
    with pytest.raises(psycopg.Error, match="9 channels do not divide into 2 heads"):
        g.execute("UPDATE llm_model_config SET d_model = 9, n_head = 1 WHERE model = 'g'")
    g.execute("UPDATE llm_model_config SET d_model = 4 WHERE model = 'g'")  # weights no longer match
    shapes = r'"wte.weight" is \(26,8\), the graph requires \(V,C\) = \(26,4\)'
    with pytest.raises(psycopg.Error, match=shapes):
        logits(g, "g", [1])


def test_models_come_and_go_by_their_config_row(g):
    make(g, "other", seed=2)
    g_logits, other = logits(g, "g", TOKENS), logits(g, "other", TOKENS)
    assert not np.array_equal(g_logits, other)
    g.execute("UPDATE llm_model_config SET model = 'renamed' WHERE model = 'g'")
    with pytest.raises(psycopg.errors.UndefinedObject, match='no model "g"'):
        logits(g, "g", TOKENS)
    assert np.array_equal(logits(g, "renamed", TOKENS), g_logits)
    g.execute("DELETE FROM llm_model_config WHERE model = 'renamed'")
    for table in ("llm_graph", "llm_param"):
        assert g.execute(f"SELECT count(*) FROM {table} WHERE model = 'renamed'").fetchone() == (0,)
    with pytest.raises(psycopg.errors.UndefinedObject, match='no model "renamed"'):
        logits(g, "renamed", TOKENS)
    assert np.array_equal(logits(g, "other", TOKENS), other)
    g.execute("TRUNCATE llm_graph")
    with pytest.raises(psycopg.errors.UndefinedObject, match='no model "other"'):
        logits(g, "other", TOKENS)


def test_replication_role_does_not_switch_checks_off(g):
    before = logits(g, "g", TOKENS)
    g.execute("SET session_replication_role = replica")
    with pytest.raises(psycopg.errors.UndefinedObject, match="gelo"):
        g.execute("UPDATE llm_graph SET op = 'gelo' WHERE model = 'g' AND op = 'gelu'")
    g.execute("UPDATE llm_graph SET op = 'relu' WHERE model = 'g' AND op = 'gelu'")
    assert not np.array_equal(logits(g, "g", TOKENS), before)
    g.execute("UPDATE llm_param SET data = data * 2::real::tensor WHERE model = 'g'")
    g.execute("UPDATE llm_graph SET op = 'gelu' WHERE model = 'g' AND op = 'relu'")
    assert not np.array_equal(logits(g, "g", TOKENS), before)


def test_plans_are_checked_again_when_run(g):
    """Triggers can be disabled: a graph is checked again before it is executed."""
    with pytest.raises(psycopg.errors.UndefinedObject, match="gelo"), g.transaction():
        g.execute("ALTER TABLE llm_graph DISABLE TRIGGER ALL")
        g.execute("UPDATE llm_graph SET op = 'gelo' WHERE model = 'g' AND op = 'gelu'")
        g.execute("UPDATE llm_param SET step = 1 WHERE model = 'g'")  # a new version
        logits(g, "g", [1])


def test_graphs_without_the_nodes_that_functions_rely_on(g):
    """logits and loss: missing, an input, a parameter, a scalar, empty, one for all sequences."""
    calls = [
        "SELECT llm_logits(ARRAY[1, 2], 'odd')",
        "SELECT llm_loss('odd', ARRAY[1, 2], ARRAY[2, 3])",
        "SELECT llm_generate('ab', 3, 0, model => 'odd')",
        "SELECT * FROM llm_generate_stream('ab', 3, 0, model => 'odd')",
        "SELECT * FROM llm_next_tokens('ab', NULL, 'odd')",
        "SELECT * FROM llm_beam_search('ab', 3, 3, 'odd')",
    ]
    embed = [
        ("tokens", "input", "{}", '{"shape": ["B", "T"], "dtype": "int"}'),
        ("e", "param", "{}", '{"shape": ["V", "C"]}'),
        ("x", "embedding", "{tokens,e}", "{}"),
    ]
    graphs = {
        "no nodes of those names": [],
        "inputs": [(n, "input", "{}", '{"shape": [], "dtype": "int"}') for n in ("logits", "loss")],
        "parameters": [(n, "param", "{}", '{"shape": ["C", "V"]}') for n in ("logits", "loss")]
        + [("y", "matmul", "{x,logits}", "{}"), ("z", "matmul", "{x,loss}", "{}")],
        "empty": [(n, "param", "{}", '{"shape": [0]}') for n in ("p", "q")]
        + [("logits", "relu", "{p}", "{}"), ("loss", "relu", "{q}", "{}")],
        "scalars": [("p", "param", "{}", '{"shape": []}')]
        + [(n, "neg", "{p}", "{}") for n in ("logits", "loss")],
        "one text for all": [("p", "param", "{}", '{"shape": ["P", "V"]}'), ("logits", "neg", "{p}", "{}")],
    }
    g.execute("DELETE FROM llm_bpe_vocab WHERE model = 'odd'")
    for name, nodes in graphs.items():
        g.execute("DELETE FROM llm_model_config WHERE model = 'odd'")
        g.execute("INSERT INTO llm_model_config VALUES ('odd', 1, 1, 4, 16, 8, 26, 'g')")
        with g.transaction():
            g.execute(ALL)
            for node in embed + nodes:
                g.execute(
                    "INSERT INTO llm_graph (model, name, op, inputs, attrs) VALUES ('odd', %s, %s, %s, %s)",
                    node,
                )
        g.execute("SELECT llm_init_model('odd', 1)")
        for call in calls:
            try:
                g.execute(call).fetchall()
                assert name in ("scalars", "one text for all", "empty"), (name, call)
            except psycopg.Error as error:
                assert error.sqlstate in ("42704", "22023", "2202E"), (name, call, error)
                assert '"odd"' in str(error) or "logits" in str(error), (name, call, error)
