"""Graphs that are no language models, trained from rows of named tensors: PyTorch's losses and weights."""

import numpy as np
import psycopg
import pytest
from helpers.any_graph import add_rows, leaves, logged, params, torch_steps, write_graph
from helpers.torch_gpt2 import random_gpt2
from helpers.training import SIZE, T, fill
from helpers.training import tokens as tokens

import pg_llm

MLP = [
    ("x", "input", [], {"shape": ["B", 4]}),
    ("y", "input", [], {"shape": ["B", 2]}),
    ("w1", "param", [], {"shape": [4, 8], "init": "normal", "std": 0.5}),
    ("b1", "param", [], {"shape": [8], "init": "zeros"}),
    ("w2", "param", [], {"shape": [8, 2], "init": "normal", "std": 0.5}),
    ("h", "matmul", ["x", "w1"], {}),
    ("a", "add", ["h", "b1"], {}),
    ("t", "tanh", ["a"], {}),
    ("out", "matmul", ["t", "w2"], {}),
    ("loss", "mse", ["out", "y"], {}),
]
TRAIN = (
    "SELECT llm_train(%s, %s, lr_max => 0.01, min_lr => 0.01, warmup => 0, dropout_p => 0, batch_size => %s,"
    " accumulation => %s, dataset => %s, seed => 3)"
)


def rows_of_mlp(n=7):
    rng = np.random.default_rng(2)
    return [{"x": rng.standard_normal(4), "y": rng.standard_normal(2)} for _ in range(n)]


def same(conn, model, weights):
    for name, found in params(conn, model).items():
        expected = weights[name].detach().numpy()
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5, err_msg=name)


@pytest.mark.parametrize(("batch_size", "accumulation"), [(1, 1), (3, 1), (2, 2)])
def test_regression_from_two_named_tensors(conn, batch_size, accumulation):
    torch = pytest.importorskip("torch")
    write_graph(conn, "mlp", MLP)
    rows = rows_of_mlp()
    ids = add_rows(conn, "mlp", rows)
    weights = leaves(torch, conn, "mlp")

    def loss_of(batch):
        x, y = (torch.tensor(np.array([rows[ids.index(i)][k] for i in batch], np.float32)) for k in "xy")
        out = torch.tanh(x.double() @ weights["w1"] + weights["b1"]) @ weights["w2"]
        return torch.nn.functional.mse_loss(out, y.double())

    conn.execute(TRAIN, ("mlp", 3, batch_size, accumulation, "mlp"))
    log = logged(conn, "mlp")
    assert [row[0] for row in log] == [1, 2, 3]
    for (_, loss, norm, _, _), expected in zip(
        log, torch_steps(torch, weights, loss_of, log, accumulation), strict=True
    ):
        assert (loss, norm) == pytest.approx(expected, rel=1e-5)
    same(conn, "mlp", weights)


# -- a convolution, whole numbers, accumulation ----------------------------------------------------

CONV = [
    ("image", "input", [], {"shape": ["B", 1, 6, 6]}),
    ("label", "input", [], {"shape": ["B"], "dtype": "int"}),
    ("k", "param", [], {"shape": [3, 1, 3, 3], "init": "normal", "std": 0.3}),
    ("kb", "param", [], {"shape": [3], "init": "zeros"}),
    ("w", "param", [], {"shape": [3, 4], "init": "normal", "std": 0.5}),
    ("conv", "conv2d", ["image", "k", "kb"], {"padding": 1, "stride": 2}),
    ("act", "relu", ["conv"], {}),
    ("rows", "mean", ["act"], {"axis": 3}),
    ("pool", "mean", ["rows"], {"axis": 2}),
    ("logits", "matmul", ["pool", "w"], {}),
    ("loss", "cross_entropy", ["logits", "label"], {}),
]


@pytest.mark.parametrize(("batch_size", "accumulation"), [(4, 1), (2, 3)])
def test_a_convolution_learns_labels(conn, batch_size, accumulation):
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    write_graph(conn, "conv", CONV)
    rng = np.random.default_rng(3)
    rows = [{"label": i % 4, "image": rng.standard_normal((1, 6, 6))} for i in range(8)]
    ids = add_rows(conn, "conv", rows)
    weights = leaves(torch, conn, "conv")

    def loss_of(batch):
        image, label = (np.array([rows[ids.index(i)][k] for i in batch]) for k in ("image", "label"))
        x = torch.tensor(image.astype(np.float32)).double()
        x = torch.relu(functional.conv2d(x, weights["k"], weights["kb"], padding=1, stride=2))
        return functional.cross_entropy(x.mean((2, 3)) @ weights["w"], torch.tensor(label))

    conn.execute(TRAIN, ("conv", 4, batch_size, accumulation, "conv"))
    log = logged(conn, "conv")
    steps = torch_steps(torch, weights, loss_of, log, accumulation)
    for (_, loss, norm, _, count), expected in zip(log, steps, strict=True):
        assert (loss, norm) == pytest.approx(expected, rel=2e-5) and count == 0
    same(conn, "conv", weights)


def test_the_loss_of_a_dataset_is_the_mean_over_its_rows(conn):
    write_graph(conn, "mlp", MLP)
    rows = rows_of_mlp(11)  # groups of 8 and 3
    add_rows(conn, "mlp", rows)
    w = {name: data.astype(float) for name, data in params(conn, "mlp").items()}
    x, y = (np.array([row[k] for row in rows], np.float32).astype(float) for k in "xy")
    expected = ((np.tanh(x @ w["w1"] + w["b1"]) @ w["w2"] - y) ** 2).mean()
    loss, tokens = conn.execute("SELECT * FROM llm_dataset_loss('mlp', 'mlp')").fetchone()
    assert loss == pytest.approx(expected, rel=1e-5) and tokens == 0


def test_an_input_without_b_is_one_rows(conn):
    """A row may be a batch of its own: its input is bound as it is, with batch_size 1."""
    torch = pytest.importorskip("torch")
    whole = [(name, op, inputs, {**a, "shape": ["N", *a["shape"][1:]]}) for name, op, inputs, a in MLP[:2]]
    write_graph(conn, "whole", whole + MLP[2:])
    rng = np.random.default_rng(4)
    rows = [{"x": rng.standard_normal((n, 4)), "y": rng.standard_normal((n, 2))} for n in (5, 3)]
    ids = add_rows(conn, "whole", rows)
    weights = leaves(torch, conn, "whole")

    def loss_of(batch):
        x, y = (torch.tensor(rows[ids.index(batch[0])][k].astype(np.float32)).double() for k in "xy")
        out = torch.tanh(x @ weights["w1"] + weights["b1"]) @ weights["w2"]
        return torch.nn.functional.mse_loss(out, y)

    conn.execute(TRAIN, ("whole", 3, 1, 2, "whole"))
    log = logged(conn, "whole")
    for (_, loss, _, _, _), (expected, _) in zip(
        log, torch_steps(torch, weights, loss_of, log, 2), strict=True
    ):
        assert loss == pytest.approx(expected, rel=1e-5)
    with pytest.raises(psycopg.Error, match=r'input "x" \(N,4\) does not begin with the dimension B'):
        conn.execute(TRAIN, ("whole", 1, 2, 1, "whole"))


# -- distributions as targets ----------------------------------------------------------------------


def test_a_gpt_learns_distributions(conn, tmp_path, tokens):
    """Tokens of a column, targets (T,V) by name; tokens beside them are not read as targets."""
    torch = pytest.importorskip("torch")
    model = random_gpt2((*SIZE[:5], {})).float()
    model.save_pretrained(tmp_path)
    pg_llm.load_model(conn, tmp_path, "soft")
    conn.execute(
        'UPDATE llm_graph SET attrs = \'{"shape": ["B", "T", "V"]}\' WHERE (model, name) = (%s, %s)',
        ("soft", "targets"),
    )
    rng = np.random.default_rng(6)
    targets = rng.dirichlet([0.05] * SIZE[4], (len(tokens), T)).astype(np.float32)
    ids = add_rows(conn, "soft", [{"targets": t} for t in targets], tokens[:, :-1].tolist())
    model = model.double().train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    weights = {n.removeprefix("transformer."): p for n, p in model.named_parameters()}

    def loss_of(batch):
        places = [ids.index(i) for i in batch]
        logits = model(torch.tensor(tokens[places, :-1])).logits
        p = torch.tensor(targets[places]).double()
        return torch.nn.functional.cross_entropy(logits.reshape(-1, SIZE[4]), p.reshape(-1, SIZE[4]))

    conn.execute(TRAIN, ("soft", 3, 2, 2, "soft"))
    log = logged(conn, "soft")
    for (_, loss, norm, _, count), expected in zip(
        log, torch_steps(torch, weights, loss_of, log, 2), strict=True
    ):
        assert (loss, norm) == pytest.approx(expected, rel=2e-4) and count == 4 * T
    found = params(conn, "soft")
    for name in ("wte.weight", "h.0.mlp.c_fc.weight", "ln_f.bias"):
        np.testing.assert_allclose(found[name], weights[name].detach().numpy(), rtol=0, atol=1e-4)
    loss, count = conn.execute("SELECT * FROM llm_dataset_loss('soft', 'soft')").fetchone()
    assert loss == pytest.approx(loss_of(ids).item(), rel=1e-3) and count == len(ids) * T


# -- random nodes ----------------------------------------------------------------------------------

NOISY = [
    *MLP[:2],
    ("noise", "normal", [], {"shape": ["B", 4], "std": 0.3}),
    ("place", "randint", [], {"shape": ["B"], "high": 5}),
    ("scale", "uniform", [], {"shape": ["B", 4]}),
    ("table", "param", [], {"shape": [5, 4], "init": "normal", "std": 0.5}),
    ("row", "gather_rows", ["table", "place"], {}),
    ("noised", "mul", ["noise", "scale"], {}),
    ("shifted", "add", ["noised", "row"], {}),
    ("given", "add", ["x", "shifted"], {}),
    *MLP[2:5],
    ("h", "matmul", ["given", "w1"], {}),
    *MLP[6:],
]
RANDOM = ("noise", "place", "scale")


def traced(conn, ids, seed, step):
    """What the random nodes draw for rows in a step's first micro-batch, from its trace."""
    (run,) = conn.execute(
        "SELECT _llm_trace_rows('noisy', %s::bigint[], NULL, %s, %s)", (ids, seed, step)
    ).fetchone()
    query = "SELECT name, data FROM llm_tensor_rt WHERE run = %s AND name = ANY(%s)"
    return dict(conn.cursor(binary=True).execute(query, (run, list(RANDOM))).fetchall())


def test_noise_is_that_of_the_step(conn):
    """Losses of PyTorch with the numbers that a step's trace shows: functions of seed, step and node."""
    torch = pytest.importorskip("torch")
    write_graph(conn, "noisy", NOISY)
    rows = rows_of_mlp()
    ids = add_rows(conn, "noisy", rows)
    weights = leaves(torch, conn, "noisy")
    conn.execute(TRAIN, ("noisy", 3, 3, 1, "noisy"))
    log = logged(conn, "noisy")
    draws = {step: traced(conn, batch, 3, step) for step, _, _, batch, _ in log}
    assert len({draw["noise"].tobytes() for draw in draws.values()}) == 3
    steps = iter(draws.values())

    def loss_of(batch):
        draw = {name: torch.tensor(np.array(data)).double() for name, data in next(steps).items()}
        x, y = (torch.tensor(np.array([rows[ids.index(i)][k] for i in batch], np.float32)) for k in "xy")
        given = x.double() + draw["noise"] * draw["scale"] + weights["table"][draw["place"].long()]
        out = torch.tanh(given @ weights["w1"] + weights["b1"]) @ weights["w2"]
        return torch.nn.functional.mse_loss(out, y.double())

    for (_, loss, norm, _, _), expected in zip(
        log, torch_steps(torch, weights, loss_of, log, 1), strict=True
    ):
        assert (loss, norm) == pytest.approx(expected, rel=1e-5)
    same(conn, "noisy", weights)


def test_random_graphs_replay_to_the_bit(conn):
    """A loop with accumulation, and the same at once: losses, norms and weights, from a checkpoint."""
    write_graph(conn, "noisy", NOISY)
    ids = add_rows(conn, "noisy", rows_of_mlp())
    (start,) = conn.execute("SELECT llm_checkpoint_save('noisy', 'start')").fetchone()
    loop = (
        "CALL llm_train_loop('noisy', 6, batch_size => 2, accumulation => 2, warmup => 0, seed => 9,"
        " commit_every => {}, until_step => {})"
    )
    conn.execute(loop.format(1, 2))
    conn.execute(loop.format(4, 6))
    weights = params(conn, "noisy")
    replay = conn.execute("SELECT * FROM llm_replay('noisy', %s)", (start,)).fetchall()
    assert [row[0] for row in replay] == [1, 2, 3, 4, 5, 6]
    assert all(row[3] for row in replay) and replay[-1][4]
    conn.execute("SELECT llm_checkpoint_load('noisy', %s)", (start,))
    conn.execute(
        "SELECT llm_train('noisy', 6, batch_size => 2, accumulation => 2, warmup => 0, seed => 9)"
    )  # at once and uninterrupted
    again = params(conn, "noisy")
    assert all(np.array_equal(again[name].view("u4"), weights[name].view("u4")) for name in weights)
    conn.execute("UPDATE llm_dataset SET tensors[1] = tensors[1] + 1::tensor WHERE id = %s", (ids[0],))
    with pytest.raises(psycopg.Error, match="rows of llm_dataset have changed since"):
        conn.execute("SELECT * FROM llm_replay('noisy', %s)", (start,))


def test_micro_batches_draw_anew(conn):
    """A loss that is its noise: two micro-batches of the same row differ from one, and from each other's."""
    nodes = [
        ("x", "input", [], {"shape": ["B", 1]}),
        ("w", "param", [], {"shape": [1], "init": "ones"}),
        ("noise", "normal", [], {"shape": ["B", 1]}),
        ("both", "mul", ["x", "noise"], {}),
        ("out", "mul", ["both", "w"], {}),
        ("loss", "mean", ["out"], {}),
    ]
    write_graph(conn, "pure", nodes)
    add_rows(conn, "pure", [{"x": [1.0]}])
    losses = []
    for accumulation in (1, 2):
        with conn.transaction(force_rollback=True):
            conn.execute(TRAIN, ("pure", 1, 1, accumulation, "pure"))
            losses.append(logged(conn, "pure")[-1][1])
    assert losses[0] != losses[1]
    assert params(conn, "pure")["w"] == 1 and logged(conn, "pure") == []  # rolled back


@pytest.fixture
def small(conn, tokens):
    conn.execute("DELETE FROM llm_model_config WHERE model = 'small'")
    conn.execute("SELECT llm_create_model('small', 1, 2, 8, 16, %s), llm_init_model('small', 1)", (SIZE[4],))
    fill(conn, "small", tokens)
    return "small"


# -- errors ----------------------------------------------------------------------------------------

GOOD = {"x": np.zeros(4), "y": np.zeros(2)}


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({**GOOD, "x": np.zeros(5)}, r'row \d+ of dataset "mlp": input "x" is \(5\), expected \(4\)'),
        (
            {**GOOD, "x": np.zeros((1, 4))},
            r'row \d+ of dataset "mlp": input "x" is \(1,4\), expected \(4\)',
        ),
        ({**GOOD, "x": 1.0}, r'row \d+ of dataset "mlp": input "x" is \(\), expected \(4\)'),
        ({"y": np.zeros(2)}, r'row \d+ of dataset "mlp" has no "x", expected \(4\)'),
        ({**GOOD, "z": 1.0}, r'row \d+ of dataset "mlp" has "z", which is no input of model "mlp"'),
        ({**GOOD, "h": 1.0}, r'row \d+ of dataset "mlp" has "h", which is no input of model "mlp"'),
    ],
)
def test_a_row_that_does_not_fit_changes_nothing(conn, row, says):
    write_graph(conn, "mlp", MLP)
    ids = add_rows(conn, "mlp", [*rows_of_mlp(3), row])
    before = params(conn, "mlp")
    for statement in (
        "SELECT llm_train('mlp', 8, batch_size => 2)",
        "CALL llm_train_loop('mlp', 8, batch_size => 2)",
        "SELECT llm_dataset_loss('mlp', 'mlp')",
        f"SELECT llm_train_step('mlp', {ids[-1]})",
    ):
        with pytest.raises(psycopg.Error, match=says) as error:
            conn.execute(statement)
        assert str(ids[-1]) in str(error.value)
    after = params(conn, "mlp")
    assert all(np.array_equal(after[name], before[name]) for name in before) and not logged(conn, "mlp")


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (
            [{"image": np.zeros((1, 6, 6)), "label": 0.5}] * 2,
            '"label" must hold whole numbers, not 0.5',
        ),
        ([{"image": np.zeros((1, 6, 6)), "label": np.nan}] * 2, 'input "label" must hold whole numbers'),
        ([{"image": np.zeros((1, 6, 6)), "label": [1]}] * 2, r'input "label" is \(1\), expected \(\)'),
        ([{"image": np.zeros((1, 6, 6)), "label": 4}] * 2, "4"),
    ],
)
def test_rows_of_a_batch_fit_one_another(conn, rows, says):
    write_graph(conn, "conv", CONV)
    add_rows(conn, "conv", rows)
    with pytest.raises(psycopg.Error, match=says):
        conn.execute(TRAIN, ("conv", 1, 2, 1, "conv"))
    assert not logged(conn, "conv")


def test_sizes_that_only_data_have_are_those_of_the_whole_batch(conn):
    nodes = [
        *((name, "input", [], {"shape": ["B", "N"]}) for name in "xy"),
        ("w", "param", [], {"shape": [1], "init": "ones"}),
        ("out", "mul", ["x", "w"], {}),
        ("loss", "mse", ["out", "y"], {}),
    ]
    write_graph(conn, "free", nodes)
    add_rows(conn, "free", [{"x": np.zeros(n), "y": np.zeros(n)} for n in (3, 4)])
    conn.execute(TRAIN, ("free", 1, 1, 2, "free"))  # one after the other
    with pytest.raises(psycopg.Error, match=r'of dataset "free": input "x" is \([34]\), expected') as error:
        conn.execute(TRAIN, ("free", 1, 2, 1, "free"))
    assert error.value.diag.message_detail == 'Model "free" declares it as (B,N).'
    add_rows(conn, "free", [{"x": np.zeros(3), "y": np.zeros(4)}])
    with pytest.raises(psycopg.Error, match=r'input "y" is \(4\), expected \(3\)'):
        conn.execute(TRAIN, ("free", 1, 1, 1, "free"))


def test_text_and_tensors_do_not_mix(conn, small):
    """A row of tokens for a graph of images, tensors for a language model, targets twice."""
    write_graph(conn, "mlp", MLP)
    with pytest.raises(psycopg.Error, match=r'row \d+ of dataset "small" has no "y", expected \(2\)|no "x"'):
        conn.execute("SELECT llm_train('mlp', 1, dataset => 'small')")
    add_rows(conn, "mlp", [GOOD])
    with pytest.raises(psycopg.Error, match='has "x", which is no input of model "small"'):
        conn.execute("SELECT llm_train('small', 1, dataset => 'mlp')")
    conn.execute("UPDATE llm_dataset SET names = '{targets}', tensors = ARRAY['1'::tensor]")
    with pytest.raises(psycopg.Error, match='gives the input "targets" twice'):
        conn.execute("SELECT llm_train('small', 1, dataset => 'small')")


@pytest.mark.parametrize(
    ("values", "constraint"),
    [
        ("NULL, NULL, NULL, NULL", "example"),
        ("'{1}', NULL, NULL, NULL", "example"),
        ("NULL, '{1}', NULL, NULL", "example"),
        ("NULL, '{1}', '{a}', ARRAY['1'::tensor]", "example"),
        ("'{1}', '{1}', '{a}', NULL", "names"),
        ("NULL, NULL, NULL, ARRAY['1'::tensor]", "example"),
        ("NULL, NULL, '{a,b}', ARRAY['1'::tensor]", "names"),
        ("NULL, NULL, '{a}', ARRAY[NULL::tensor]", "names"),
        ("NULL, NULL, '{NULL}', ARRAY['1'::tensor]", "names"),
        ("NULL, NULL, '{}', '{}'", "names"),
        ("NULL, NULL, '{{a}}', ARRAY[ARRAY['1'::tensor]]", "names"),
    ],
)
def test_a_row_is_an_example(conn, values, constraint):
    with pytest.raises(psycopg.errors.CheckViolation, match=f"llm_dataset_{constraint}"):
        conn.execute(f"INSERT INTO llm_dataset (tokens, target, names, tensors) VALUES ({values})")


def test_named_tensors_are_rows(conn):
    """The view; what it shows is subject to the reader's policies; rows leave with their data set."""
    ids = add_rows(conn, "mlp", rows_of_mlp(2))
    query = "SELECT id, name, shape FROM llm_dataset_tensor WHERE dataset = 'mlp' ORDER BY id, name"
    expected = [(i, name, shape) for i in ids for name, shape in (("x", [4]), ("y", [2]))]
    assert conn.execute(query).fetchall() == expected
    with conn.transaction(force_rollback=True):
        conn.execute("CREATE ROLE reader; GRANT SELECT ON llm_dataset, llm_dataset_tensor TO reader")
        conn.execute("ALTER TABLE llm_dataset ENABLE ROW LEVEL SECURITY")
        conn.execute(f"CREATE POLICY one ON llm_dataset TO reader USING (id = {ids[0]})")
        conn.execute("SET LOCAL ROLE reader")
        assert conn.execute(query).fetchall() == expected[:2]
    conn.execute("DELETE FROM llm_dataset WHERE dataset = 'mlp'")
    assert conn.execute(query).fetchall() == []
