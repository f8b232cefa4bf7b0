"""Errors of training: SQLSTATE, message and hint of each; weights, moments, log and runs stay unchanged."""

import psycopg
import pytest
from helpers.training import SIZE, everything, fill
from helpers.training import tokens as tokens  # the fixture

errors = psycopg.errors


@pytest.fixture
def small(conn, tokens):
    """A connection with a small trained model and datasets that do not fit it."""
    conn.execute("DELETE FROM llm_model_config WHERE model = 'small'")
    conn.execute("SELECT llm_create_model('small', 1, 2, 8, 16, %s), llm_init_model('small', 1)", (SIZE[4],))
    conn.execute("DELETE FROM llm_dataset")
    fill(conn, "small", tokens)
    for name, row, target in (
        ("outside", [1, 101], [101, 1]),
        ("target", [1, 2], [2, 101]),
        ("long", list(range(17)), list(range(17))),
    ):
        query = "INSERT INTO llm_dataset (dataset, tokens, target) VALUES (%s, %s::int[], %s::int[])"
        conn.execute(query, (name, row, target))
    conn.execute("SELECT llm_train('small', 2, warmup => 0)")
    return conn


CASES = {
    "no model": ("llm_train('nobody', 1)", errors.UndefinedObject, "no model"),
    "null model": ("llm_train(NULL, 1)", errors.UndefinedObject, "no model"),
    "null steps": ("llm_train('small', NULL)", errors.NullValueNotAllowed, "n_steps"),
    "another size": ("llm_train('small', 1, n_layer => 5)", errors.InvalidParameterValue, "n_layer 1"),
    "empty dataset": ("llm_train('small', 1, dataset => 'none')", errors.NoData, "no rows"),
    "no steps": ("llm_train('small', 0)", errors.InvalidParameterValue, "n_steps is 0"),
    "rate": ("llm_train('small', 1, lr_max => 'NaN')", errors.InvalidParameterValue, "lr_max"),
    "negative rate": ("llm_train('small', 1, min_lr => -1)", errors.InvalidParameterValue, "min_lr"),
    "beta": ("llm_train('small', 1, beta2 => 1)", errors.InvalidParameterValue, "beta2"),
    "eps": ("llm_train('small', 1, eps => -1)", errors.InvalidParameterValue, "eps"),
    "clip": ("llm_train('small', 1, grad_clip => 0)", errors.InvalidParameterValue, "grad_clip"),
    "dropout": ("llm_train('small', 1, dropout_p => 1)", errors.InvalidParameterValue, "dropout_p"),
    "batch": ("llm_train('small', 1, batch_size => 0)", errors.InvalidParameterValue, "batch_size"),
    "huge batch": (
        "llm_train('small', 1, batch_size => 1000000, accumulation => 2)",
        errors.InvalidParameterValue,
        "accumulation",
    ),
    "workers": ("llm_train('small', 1, grad_workers => 0)", errors.InvalidParameterValue, "grad_workers"),
    "pruners": ("llm_train('small', 1, prune_workers => -1)", errors.InvalidParameterValue, "workers is -1"),
    "notices": ("llm_train('small', 1, notice_every => -1)", errors.InvalidParameterValue, "notice_every"),
    "no such row": ("llm_train_step('small', -1)", errors.NoData, "no row -1"),
    "null row": ("llm_train_step('small', NULL)", errors.NullValueNotAllowed, "batch_id"),
    "positions": (
        "llm_train_step('small', (SELECT id FROM llm_dataset WHERE dataset = 'outside'),"
        " positions => '{1,2,3}')",
        errors.NumericValueOutOfRange,
        "101",
    ),
    "few positions": (
        "llm_train_step('small', (SELECT min(id) FROM llm_dataset WHERE dataset = 'small'),"
        " positions => '{1}')",
        errors.ArraySubscriptError,
        "1 positions and 12 tokens",
    ),
    "far positions": (
        "llm_train_step('small', (SELECT min(id) FROM llm_dataset WHERE dataset = 'small'),"
        " positions => '{5,6,7,8,9,10,11,12,13,14,15,16}')",
        errors.NumericValueOutOfRange,
        "16",
    ),
    "token": ("llm_train('small', 1, dataset => 'outside')", errors.NumericValueOutOfRange, "101.*101"),
    "target": ("llm_train('small', 1, dataset => 'target')", errors.NumericValueOutOfRange, "target 101"),
    "length": ("llm_train('small', 1, dataset => 'long')", errors.ProgramLimitExceeded, "17.*16 positions"),
    "nan": (
        "llm_train('small', 300, lr_max => 1e6, warmup => 0, dropout_p => 0)",
        errors.NumericValueOutOfRange,
        "step",
    ),
    "no data": ("llm_perplexity('small', 'none')", errors.NoData, "no rows"),
    "no max": ("llm_perplexity('small', 'small', 0)", errors.InvalidParameterValue, "max_rows"),
    "long text": ("llm_perplexity('small', 'long')", errors.ProgramLimitExceeded, "17.*16"),
}
WITHOUT_HINT = {"null steps"} | {k for k, c in CASES.items() if c[1] is errors.InvalidParameterValue}


@pytest.mark.parametrize("case", CASES)
def test_refused(small, case):
    query, error, words = CASES[case]
    before = everything(small)
    with pytest.raises(error, match=words) as caught:
        small.execute(f"SELECT {query}")
    assert caught.value.diag.message_hint or case in WITHOUT_HINT
    assert everything(small) == before


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ("DELETE FROM llm_param WHERE name = 'wte.weight'", errors.UndefinedObject, "wte.weight"),
        ("UPDATE llm_param SET data = NULL WHERE name LIKE 'h.0.attn%'", errors.UndefinedObject, "for 4 of"),
        ("DELETE FROM llm_param", errors.UndefinedObject, "no weights for 16"),
        ("UPDATE llm_param SET data = zeros(ARRAY[3]) WHERE name = 'ln_f.bias'",
            errors.ArraySubscriptError, r"\(3\).*\(8\)"),
        ("DELETE FROM llm_graph WHERE name = 'loss'", errors.UndefinedObject, 'no node "loss"'),
        ("UPDATE llm_param SET data = data / 0::real::tensor WHERE name = 'wpe.weight'",
            errors.NumericValueOutOfRange, "became"),
    ],
)  # fmt: skip
def test_damaged_models(small, change, error, words):
    """Missing embeddings, missing weights, wrong shapes, a missing loss, NaN and infinite values."""
    with small.transaction(force_rollback=True):
        small.execute(change + (" AND" if "WHERE" in change else " WHERE") + " model = 'small'")
        before = everything(small)
        for query in ("llm_train('small', 1)", "llm_train_step('small', (SELECT min(id) FROM llm_dataset))"):
            with pytest.raises(error, match=words) as caught, small.transaction():
                small.execute(f"SELECT {query}")
            assert caught.value.diag.message_hint
        assert everything(small) == before


def test_drained_within_a_call(small):
    """Rows deleted during a call: its own snapshot still sees them; deletions by a trigger are noticed."""
    small.execute(
        "CREATE OR REPLACE FUNCTION drain() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN DELETE FROM public.llm_dataset WHERE dataset = 'small'; RETURN NEW; END $$"
    )
    small.execute("CREATE TRIGGER drain AFTER INSERT ON llm_train_log FOR EACH ROW EXECUTE FUNCTION drain()")
    before = everything(small)
    try:
        with small.transaction(force_rollback=True):
            small.execute("SELECT llm_train('small', 3, warmup => 0)")
            with pytest.raises(errors.NoData, match="neither"), small.transaction():
                small.execute("SELECT llm_train('small', 3, warmup => 0)")
    finally:
        small.execute("DROP TRIGGER drain ON llm_train_log")
    assert everything(small) == before


def test_the_dataset_that_is_meant(small):
    """The call's, else the recipe's, else that of the model's name, else default; a choice is said."""
    said = []
    small.add_notice_handler(lambda n: said.append(n.message_primary))

    def trained_on(call="SELECT llm_train('small', 1, warmup => 0, notice_every => 0)"):
        said.clear()
        small.execute(call)
        query = "SELECT dataset FROM llm_train_run ORDER BY run DESC LIMIT 1"
        return small.execute(query).fetchone()[0], said

    loop = "CALL llm_train_loop('small', 1, warmup => 0, notice_every => 0, resume => false)"
    small.execute("INSERT INTO llm_dataset (tokens, target) VALUES ('{1,2,3}', '{2,3,4}')")
    small.execute("UPDATE llm_dataset SET dataset = 'plays' WHERE dataset = 'small'")
    assert trained_on() == ("default", ['training model "small" on dataset "default"'])
    assert trained_on(loop) == ("default", ['training model "small" on dataset "default"'])
    small.execute("UPDATE llm_dataset SET dataset = 'small' WHERE dataset = 'plays'")
    assert trained_on() == ("small", ['training model "small" on dataset "small"'])
    small.execute("""UPDATE llm_model_config SET recipe = '{"dataset": "default"}' WHERE model = 'small'""")
    assert trained_on() == ("default", [])
    assert trained_on(loop.replace("1,", "1, dataset => 'small',")) == ("small", [])
    small.execute("""UPDATE llm_model_config SET recipe = '{"dataset": "gone"}' WHERE model = 'small'""")
    with pytest.raises(errors.NoData, match='dataset "gone" has no rows'):
        trained_on()
    small.execute("DELETE FROM llm_dataset WHERE dataset = 'default'")


def test_recipe_and_defaults(small):
    """Omitted arguments come from the model's recipe, then from the kit; the run's row records them."""
    small.execute("UPDATE llm_model_config SET recipe = '{\"lr_max\": 0.5, \"warmup\": 3, \"seed\": 9,"
        " \"batch_size\": 2}' WHERE model = 'small'")  # fmt: skip
    small.execute("SELECT llm_train('small', 4, beta1 => 0.8)")
    query = (
        "SELECT lr_max, warmup, seed, batch_size, beta1, beta2, eps, wd, dropout_p, grad_clip, accumulation,"
    )
    query += (
        " min_lr, dataset, dataset_rows, first_step, n_steps FROM llm_train_run ORDER BY run DESC LIMIT 1"
    )
    expected = (0.5, 3, 9, 2, 0.8, 0.999, 1e-8, 0.01, 0.1, None, 1, 0, "small", 6, 2, 4)
    assert small.execute(query).fetchone() == expected
    small.execute("SELECT llm_train_step('small', (SELECT min(id) FROM llm_dataset), 0.25)")
    step = "SELECT lr, tokens FROM llm_train_log ORDER BY id DESC LIMIT 1"
    assert small.execute(step).fetchone() == (0.25, 12)
    notices = []
    small.add_notice_handler(lambda n: notices.append(n.message_primary))
    small.execute("SELECT llm_train('small', 7, notice_every => 3, warmup => 7)")
    assert notices[0] == 'training model "small" on dataset "small"'
    assert "warm-up (7 steps) is as long as the run (7 steps)" in notices[1]
    assert [n.split(":")[0] for n in notices[2:]] == [f"step {i} of 7" for i in (1, 3, 6)]


def test_positions_move_the_embedding(small):
    """positions are the rows of wpe that receive a gradient."""
    small.execute("SELECT llm_reset_optimizer('small')")
    query = "SELECT llm_train_step('small', (SELECT min(id) FROM llm_dataset WHERE dataset = 'small'), 0.1,"
    query += " wd => 0, positions => '{4,5,6,7,8,9,10,11,12,13,14,15}')"
    small.execute(query)
    m = small.execute("SELECT m FROM llm_param WHERE model = 'small' AND name = 'wpe.weight'").fetchone()[0]
    assert (m[:4] == 0).all() and (m[4:] != 0).any(axis=1).all()
    run = "SELECT positions FROM llm_train_run ORDER BY run DESC LIMIT 1"
    assert small.execute(run).fetchone()[0] == list(range(4, 16))


def test_trace_records_the_last_step(small):
    """Rows of several lengths; the tape's loss equals llm_loss; earlier runs are pruned if requested."""
    small.execute("UPDATE llm_dataset SET tokens = tokens[1:5], target = target[1:5] WHERE dataset = 'small'"
        " AND id % 2 = 0")  # fmt: skip
    small.execute(
        "SELECT llm_train('small', 2, warmup => 0, batch_size => 3, accumulation => 2, trace => true)"
    )
    run = "SELECT run, kind, model, tokens FROM llm_run ORDER BY run DESC LIMIT 1"
    first, kind, model, tokens = small.execute(run).fetchone()
    assert (kind, model, len(tokens)) == ("trace", "small", 3)
    rows = small.execute("SELECT rows[1:3] FROM llm_train_log ORDER BY id DESC LIMIT 1").fetchone()[0]
    total = count = 0
    for row in rows:
        query = "SELECT llm_loss('small', tokens, target), cardinality(target) FROM llm_dataset WHERE id = %s"
        loss, n = small.execute(query, (row,)).fetchone()
        total, count = total + loss * n, count + n
    query = "SELECT data::text::float FROM llm_tensor_rt WHERE run = %s AND name = 'loss'"
    assert small.execute(query, (first,)).fetchone()[0] == pytest.approx(total / count, rel=1e-5)
    one = "SELECT llm_train_step('small', %s, positions => %s, prune_workers => 1, trace => true)"
    query = "SELECT id, cardinality(tokens) FROM llm_dataset WHERE dataset = 'small' ORDER BY id"
    row, n = small.execute(query).fetchone()
    small.execute(one, (row, list(range(4, 4 + n))))
    assert small.execute("SELECT count(*) FROM llm_run").fetchone()[0] == 1
    small.execute("CALL llm_train_loop('small', 2, warmup => 0, prune_workers => 1, trace => true)")
    assert small.execute("SELECT count(*) FROM llm_run").fetchone()[0] == 1
