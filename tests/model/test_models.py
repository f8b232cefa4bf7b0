"""Models by name: creation, initialisation, logits, loss, any node, next tokens; bad arguments are named."""

import numpy as np
import psycopg
import pytest
from helpers.tiny_model import LETTERS, gpt2, ids, letters, logits, make, params, softmax

import pg_llm
from pg_llm import classroom


@pytest.fixture(scope="module")
def m(server, database):
    with pg_llm.connect(database) as conn:
        make(conn, "m")
        yield conn


def test_configs_of_gpt2_are_there(conn):
    rows = conn.execute(
        "SELECT model, n_layer, n_head, d_model, d_ff, n_positions, vocab, tokenizer FROM llm_model_config "
        "WHERE model LIKE 'gpt2-%' ORDER BY d_model"
    ).fetchall()
    sizes = {"small": (12, 12, 768), "medium": (24, 16, 1024), "large": (36, 20, 1280), "xl": (48, 25, 1600)}
    assert rows == [(f"gpt2-{n}", L, NH, C, 4 * C, 1024, 50257, "gpt2") for n, (L, NH, C) in sizes.items()]


def test_init_is_gpt2s(m):
    """Normal with 0.02, smaller for weights that add to the residual stream; ones and zeros."""
    m.execute("SELECT llm_create_model('init', 8, 4, 64, 32, 100)")
    (n,) = m.execute("SELECT llm_init_model('init', 3)").fetchone()
    w = params(m, "init")
    C, L = 64, 8
    assert n == sum(x.size for x in w.values()) == 132 * C + 2 * C + L * (12 * C * C + 13 * C)
    for name, x in w.items():
        if x.ndim == 2:
            std = 0.02 / (np.sqrt(2 * L) if "c_proj" in name else 1)
            assert abs(x.std() / std - 1) < 4 / np.sqrt(2 * x.size) and abs(x.mean()) < 4 * std / np.sqrt(
                x.size
            )
        else:
            assert (x == (1 if name.endswith("weight") else 0)).all()
    again = {s: m.execute("SELECT llm_init_model('init', %s)", [s]) and params(m, "init") for s in (3, 4)}
    assert all(np.array_equal(w[name], again[3][name]) for name in w)
    assert not np.array_equal(w["wte.weight"], again[4]["wte.weight"])
    names = [x for x in w if x.endswith("c_attn.weight")]
    assert len({w[x].tobytes() for x in names}) == L  # all parameters differ


def test_options(m):
    """relu, exact gelu, another epsilon, a separate head: each appears in the graph and in the logits."""
    for n, (options, check) in enumerate(
        [
            ('{"activation": "relu"}', "count(*) FILTER (WHERE op = 'relu') = 2"),
            ('{"activation": "gelu_erf"}', "count(*) FILTER (WHERE attrs ->> 'approximate' = 'none') = 2"),
            ('{"layer_norm_epsilon": 0.1}', "count(*) FILTER (WHERE attrs ->> 'eps' = '0.1') = 5"),
            ('{"tied_head": false}', "count(*) FILTER (WHERE name = 'lm_head.weight') = 1"),
        ]
    ):
        make(m, f"option{n}", options=options)
        assert m.execute(f"SELECT {check} FROM llm_graph WHERE model = 'option{n}'").fetchone() == (True,)
        assert not np.array_equal(logits(m, f"option{n}", [1, 2]), logits(m, "m", [1, 2]))


BAD_MODELS = [
    ("('x', 1, 0, 8, 16, 26)", "22023", "n_head 0"),
    ("('x', 1, 3, 8, 16, 26)", "22023", "d_model 8 does not divide into 3 heads"),
    ("('x', -1, 1, 8, 16, 26)", "22023", "n_layer -1"),
    ("('x', 1, 1, 8, 0, 26)", "22023", "n_positions 0"),
    ("('x', 1, 1, 8, 16, -5)", "22023", "vocab -5"),
    ("('x', 1, 1, 8, 16, 26, 0)", "22023", "d_ff 0"),
    ("('x', 2147483647, 1, 8, 16, 26)", "54000", "2147483647 layers"),
    ("('x', 1, 1, 2147483647, 16, 26)", "22003", "out of range"),
    ("(NULL, 1, 1, 8, 16, 26)", "22004", "must not be NULL"),
    ("('x', 1, 1, 8, 16, NULL)", "22004", "must not be NULL"),
    ("('', 1, 1, 8, 16, 26)", "23514", "model_check"),
    ("('x', 1, 1, 8, 16, 26, options => '[1]')", "23514", "options"),
    ("""('x', 1, 1, 8, 16, 26, options => '{"activation": "swish"}')""", "22023", '"swish"'),
    ("""('x', 1, 1, 8, 16, 26, options => '{"layer_norm_epsilon": -1}')""", "22023", "eps"),
    ("('m', 2, 2, 8, 16, 27)", "42710", "other dimensions"),
    ("""('m', 2, 2, 8, 16, 26, options => '{"activation": "relu"}')""", "42710", "other options"),
    ("('m', 2, 2, 8, 16, 26, tokenizer => 'gpt2')", "42710", "other options"),
]


def test_models_that_cannot_be_made(m):
    for arguments, state, words in BAD_MODELS:
        with pytest.raises(psycopg.Error) as error:
            m.execute(f"SELECT llm_create_model{arguments}")
        assert error.value.sqlstate in state.split("|"), (arguments, error.value)
        assert words in str(error.value), (arguments, str(error.value))
    assert m.execute("SELECT count(*) FROM llm_model_config WHERE model = 'x'").fetchone() == (0,)
    m.execute("SELECT llm_create_model('m', 2, 2, 8, 16, 26)")  # again, as it is
    for call, state in (
        ("llm_init_model('nobody', 1)", "42704"),
        ("llm_init_model(NULL, 1)", "22004"),
        ("llm_init_model('m', NULL)", "22004"),
    ):
        with pytest.raises(psycopg.Error) as error:
            m.execute(f"SELECT {call}")
        assert error.value.sqlstate == state
    m.execute("SELECT llm_create_model('huge', 1, 1, 1, 8, 1073741824)")
    with pytest.raises(psycopg.Error, match="too large"):
        m.execute("SELECT llm_init_model('huge', 1)")


BAD_TOKENS = [
    ("llm_logits(NULL, 'm')", "22004", "tokens must not be NULL"),
    ("llm_logits(ARRAY[1], NULL)", "22004", "model must not be NULL"),
    ("llm_logits('{}', 'm')", "22023", "tokens is empty"),
    ("llm_logits(ARRAY[1, NULL], 'm')", "22004", "tokens must not contain NULL"),
    ("llm_logits(ARRAY[[[1]]], 'm')", "22023", "tokens has 3 dimensions"),
    ("llm_logits(ARRAY[26], 'm')", "22003", 'number 26 at place 1 of "tokens"'),
    ("llm_logits(ARRAY[0, -1], 'm')", "22003", "number -1 at place 2"),
    ("llm_logits(ARRAY[2147483647], 'm')", "22003", "outside the table's 26 rows"),
    ("llm_logits(array_fill(1, ARRAY[17]), 'm')", "54000", "17 tokens are more than the 16 positions"),
    ("llm_logits(array_fill(1, ARRAY[1000000]), 'm')", "54000", "1000000 tokens"),
    ("llm_logits(ARRAY[1, 2], 'm', ARRAY[1])", "2202E", "each of the 2 tokens"),
    ("llm_logits(ARRAY[1, 2], 'm', ARRAY[[1, 2]])", "2202E", "each of the 2 tokens"),
    ("llm_logits(ARRAY[1, 2], 'm', ARRAY[1, 16])", "22003", 'number 16 at place 2 of "positions"'),
    ("llm_logits(ARRAY[1, 2], 'm', ARRAY[1, NULL])", "22004", "positions must not contain NULL"),
    ("llm_logits(ARRAY[1], 'nobody')", "42704", 'no model "nobody"'),
    ("llm_loss('m', ARRAY[1, 2], ARRAY[1])", "2202E", "tokens are (1,2), targets are (1,1)"),
    ("llm_loss('m', ARRAY[[1], [2]], ARRAY[1, 2])", "2202E", "tokens are (2,1), targets are (1,2)"),
    ("llm_loss('m', ARRAY[1, 2], ARRAY[1, 26])", "22003", "target 26 at place 2"),
    ("llm_loss('m', NULL, ARRAY[1])", "22004", "tokens must not be NULL"),
    ("llm_loss('m', ARRAY[1], NULL)", "22004", "targets must not be NULL"),
    ("llm_loss(NULL, ARRAY[1], ARRAY[1])", "22004", "model must not be NULL"),
    ("llm_next_tokens('ab', 0, 'm')", "22023", "k is 0"),
    ("llm_next_tokens('ab', -2147483648, 'm')", "22023", "k is -2147483648"),
    ("llm_next_tokens(NULL, 1, 'm')", "22004", "prompt must not be NULL"),
    ("llm_next_tokens('ab', 1, NULL)", "22004", "model must not be NULL"),
    ("llm_next_tokens(repeat('a', 17), 1, 'm')", "54000", "17 tokens"),
    ("llm_next_tokens('', 1, 'm')", "22023", "the prompt is empty"),
    ("llm_eval('m', 'nowhere', '{}')", "42704", 'no node "nowhere"'),
    ("llm_eval('m', NULL, '{}')", "22004", "node must not be NULL"),
    ("llm_eval(NULL, 'h.0', '{}')", "22004", "model must not be NULL"),
    ("llm_eval('m', 'h.0', NULL)", "22023", "must be a JSON object"),
    ("llm_eval('m', 'h.0', '[[1]]')", "22023", "must be a JSON object"),
    ("llm_eval('m', 'h.0', '{}')", "42704", 'input "tokens" (B,T), which was not given'),
    ("""llm_eval('m', 'loss', '{"tokens": [1]}')""", "42704", 'input "targets" (B,T)'),
    ("""llm_eval('m', 'h.0', '{"token": [1]}')""", "42704", 'no node "token"'),
    ("""llm_eval('m', 'h.0', '{"drop": [1]}')""", "2202E", 'input "drop" has 1 dimensions'),
    ("""llm_eval('m', 'h.0', '{"tokens": [1.5]}')""", "22023", "whole numbers, not 1.5"),
    ("""llm_eval('m', 'h.0', '{"tokens": "nan"}')""", "22023", "whole numbers, not NaN"),
    ("""llm_eval('m', 'h.0', '{"tokens": 1e10}')""", "22023", "whole numbers, not 1e+10"),
    ("""llm_eval('m', 'h.0', '{"tokens": null}')""", "22023", '"tokens" is not an array of numbers'),
    ("""llm_eval('m', 'h.0', '{"tokens": {"a": 1}}')""", "22023", '"tokens" is not an array of numbers'),
    ("""llm_eval('m', 'h.0', '{"tokens": []}')""", "22023", '"tokens" is empty'),
    ("""llm_eval('m', 'h.0', '{"tokens": 1}')""", "2202E", '"tokens" has 0 dimensions'),
    ("""llm_eval('m', 'h.0', '{"tokens": [[[1]]]}')""", "2202E", '"tokens" has 3 dimensions'),
    ("""llm_eval('m', 'h.0', '{"tokens": [[1], [2, 3]]}')""", None, "bracket"),
    ("""llm_eval('m', 'h.0', '{"tokens": ["a"]}')""", None, "number was expected"),
    ("""llm_eval('m', 'h.0', '{"tokens": [1, 2], "positions": [1, 2, 3]}')""", "2202E", "positions"),
    ("""llm_eval('m', 'h.0', '{"tokens": [1], "positions": [99]}')""", "22003", "number 99"),
]


def test_bad_arguments_are_named(m):
    for call, state, words in BAD_TOKENS:
        with pytest.raises(psycopg.Error) as error:
            m.execute(f"SELECT * FROM {call}")
        assert state in (None, error.value.sqlstate), (call, error.value.sqlstate, str(error.value))
        assert words in str(error.value), (call, str(error.value))
    assert logits(m, "m", [1]).shape == (1, 26)


def test_shapes_bounds_and_positions(m):
    w = params(m, "m")
    whole = logits(m, "m", ids("abcdefgh"))
    assert whole.shape == (8, 26)
    same = m.execute("SELECT llm_logits('[7:9]={1,2,3}', 'm') = llm_logits('{1,2,3}', 'm')")
    assert same.fetchone() == (True,)
    batch = logits(m, "m", [[1, 2, 3], [4, 5, 6]])
    assert batch.shape == (2, 3, 26) and np.array_equal(batch[1], logits(m, "m", [4, 5, 6]))
    (moved,) = m.execute("SELECT llm_logits(ARRAY[1, 2, 3], 'm', ARRAY[4, 4, 15])").fetchone()
    w["wpe.weight"] = w["wpe.weight"][[4, 4, 15]]
    expected = gpt2(w, [1, 2, 3], 2)
    assert np.abs(moved - expected).max() <= 1e-5 * np.abs(expected).max()


def test_loss_counts_the_targets_that_are_there(m):
    log_p = np.log(softmax(gpt2(params(m, "m"), [1, 2, 3], 2)))
    for targets in ([2, 3, 4], [2, -1, 4], [-100, -1, 0]):
        (loss,) = m.execute("SELECT llm_loss('m', ARRAY[1, 2, 3], %s::int[])", [targets]).fetchone()
        chosen = [log_p[i, t] for i, t in enumerate(targets) if t >= 0]
        assert loss == pytest.approx(-np.mean(chosen), rel=1e-5)
    with pytest.raises(psycopg.Error, match="none of the 2 targets counts"):
        m.execute("SELECT llm_loss('m', ARRAY[1, 2], ARRAY[-1, -1])")


def test_every_node_can_be_seen(m):
    """By name, for one sequence or several, with the inferred shape; and parameters without any input."""
    nodes = m.execute("SELECT name, op, shape FROM llm_graph WHERE model = 'm' ORDER BY id").fetchall()
    size = {"B": 2, "T": 3, "C": 8, "V": 26, "3*C": 24, "4*C": 32, "P": 16}
    inputs = '{"tokens": [[1, 2, 3], [4, 5, 6]], "targets": [[2, 3, 4], [5, 6, 7]]}'
    for name, op, shape in nodes:
        (value,) = m.execute("SELECT llm_eval('m', %s, %s)", (name, inputs)).fetchone()
        assert value.shape == tuple(size[d] for d in shape), name
        if op == "param":
            (stored,) = m.execute(
                "SELECT data FROM llm_param WHERE model = 'm' AND name = %s", [name]
            ).fetchone()
            (alone,) = m.execute("SELECT llm_eval('m', %s, NULL)", [name]).fetchone()
            assert np.array_equal(value, stored) and np.array_equal(alone, stored)
    (value,) = m.execute("SELECT llm_eval('m', 'logits', %s)", [inputs]).fetchone()
    assert np.array_equal(value, logits(m, "m", [[1, 2, 3], [4, 5, 6]]))
    (value,) = m.execute("""SELECT llm_eval('m', 'wpe', '{"positions": [15, 0]}')""").fetchone()
    assert np.array_equal(value, params(m, "m")["wpe.weight"][[15, 0]].astype("f4"))


def test_next_tokens(m):
    rows = m.execute("SELECT * FROM llm_next_tokens('abc', NULL, 'm')").fetchall()
    p = softmax(gpt2(params(m, "m"), ids("abc"), 2)[-1])
    assert [r[0] for r in rows] == list(range(1, 27))
    assert [r[1] for r in rows] == list(np.argsort(-p, kind="stable"))
    assert all(LETTERS[i] == token for _, i, token, _ in rows)
    assert sum(r[3] for r in rows) == pytest.approx(1, abs=1e-12)
    assert [r[3] for r in rows] == pytest.approx(list(np.sort(p)[::-1]), rel=1e-4)
    assert m.execute("SELECT * FROM llm_next_tokens('abc', 3, 'm')").fetchall() == rows[:3]
    assert m.execute("SELECT * FROM llm_next_tokens('abc', 1000, 'm')").fetchall() == rows
    # ties: the lowest id first, none more likely than another
    m.execute("SELECT llm_create_model('flat', 0, 1, 2, 4, 30), llm_init_model('flat', 1)")
    m.execute("UPDATE llm_param SET data = zeros(shape(data)) WHERE model = 'flat'")
    letters(m, "flat", 26)  # four tokens of the model have no text
    rows = m.execute("SELECT * FROM llm_next_tokens('abc', NULL, 'flat')").fetchall()
    assert [r[1] for r in rows] == list(range(30)) and {r[3] for r in rows} == {1 / 30}
    assert [r[2] for r in rows] == [*LETTERS, None, None, None, None]
    texts = {r[0] for r in m.execute("SELECT llm_generate('a', 1, 1, NULL, NULL, 'flat', NULL, s) "
        "FROM generate_series(1, 500) AS s")}  # fmt: skip
    assert texts == {"a" + c for c in LETTERS + "\ufffd"}


def test_the_default_model(m):
    m.execute("SET pg_llm.default_model = 'm'")
    assert m.execute("SELECT llm_default_model(), shape(llm_logits(ARRAY[1, 2]))").fetchone() == (
        "m",
        [2, 26],
    )
    assert m.execute("SELECT llm_generate('ab', 2) = llm_generate('ab', 2, model => 'm')").fetchone()
    m.execute("RESET pg_llm.default_model")
    own = classroom.DEFAULT if classroom.shipped() else "gpt2-small"
    assert m.execute("SELECT llm_default_model()").fetchone() == (own,)


@pytest.mark.parametrize(
    "query",
    [
        "SELECT llm_default_model()",
        "SELECT cardinality(llm_encode('Hello', 'gpt2'))",
        "SELECT llm_accumulate_grads('gpt2-small')",
    ],
)
def test_settings_are_known_to_the_first_statement_of_a_session(server, database, query):
    """Without session_preload_libraries, as in databases of roles that may not set it."""
    with psycopg.connect(
        **server.start().conninfo(database), options="-c session_preload_libraries=", autocommit=True
    ) as conn:
        loaded = "SELECT count(*) FROM pg_settings WHERE name = 'pg_llm.isa'"
        assert conn.execute(loaded).fetchone() == (0,)
        assert conn.execute(query).fetchone() is not None
