"""Training against PyTorch: losses, weights and AdamW's moments of several steps; transactions; errors."""

import numpy as np
import psycopg
import pytest
from test_executor import random_gpt2

import pg_llm

SIZE = (2, 3, 33, 17, 101, {})
ROWS, T = 6, 12


def fill(conn, dataset, tokens):
    conn.execute("DELETE FROM llm_dataset WHERE dataset = %s", (dataset,))
    for row in tokens:
        query = "INSERT INTO llm_dataset (dataset, tokens, target) VALUES (%s, %s::int[], %s::int[])"
        conn.execute(query, (dataset, row[:-1].tolist(), row[1:].tolist()))
    query = "SELECT array_agg(id ORDER BY id) FROM llm_dataset WHERE dataset = %s"
    return conn.execute(query, (dataset,)).fetchone()[0]


@pytest.fixture(scope="module")
def tokens():
    return np.random.default_rng(5).integers(0, SIZE[4], (ROWS, T + 1))


def state(conn, model):
    query = "SELECT name, data, m, v, step FROM llm_param WHERE model = %s"
    return {row[0]: row[1:] for row in conn.execute(query, (model,)).fetchall()}


@pytest.mark.parametrize(
    "options", [{}, {"tie_word_embeddings": False, "activation_function": "gelu"}], ids=str
)
def test_steps_equal_pytorch(conn, tmp_path, tokens, options):
    """Batches, accumulation, clipping, decay groups, schedule: losses, weights and moments of eight steps."""
    torch = pytest.importorskip("torch")
    model = random_gpt2((*SIZE[:5], options)).double()
    model.save_pretrained(tmp_path, safe_serialization=True)
    for parameter in model.parameters():
        parameter.data = parameter.data.float().double()
    name = f"train_{len(options)}"
    model.float().save_pretrained(tmp_path)
    model.double().train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    pg_llm.load_model(conn, tmp_path, name)
    ids = fill(conn, name, tokens)
    (loss,) = conn.execute(
        "SELECT llm_train(%s, 8, lr_max => 1e-3, warmup => 2, min_lr => 1e-4, wd => 0.1, beta2 => 0.95,"
        " grad_clip => 1, dropout_p => 0, batch_size => 2, accumulation => 2, dataset => %s, seed => 7)",
        (name, name),
    ).fetchone()
    log = conn.execute(
        "SELECT step, lr, loss, grad_norm, rows FROM llm_train_log WHERE model = %s ORDER BY step", (name,)
    ).fetchall()
    assert [row[0] for row in log] == list(range(1, 9)) and log[-1][2] == loss
    decay = [p for p in model.parameters() if p.ndim >= 2]
    groups = [
        {"params": decay, "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=0, betas=(0.9, 0.95), eps=1e-8)
    for _, lr, loss, norm, rows in log:
        batches = torch.tensor(tokens[[ids.index(r) for r in rows]]).reshape(2, 2, T + 1)
        optimizer.zero_grad()
        total = 0
        for batch in batches:
            out = model(batch[:, :-1]).logits
            micro = torch.nn.functional.cross_entropy(out.reshape(-1, SIZE[4]), batch[:, 1:].reshape(-1))
            (micro / 2).backward()
            total += micro.item() / 2
        assert loss == pytest.approx(total, rel=2e-5)
        assert norm == pytest.approx(torch.nn.utils.clip_grad_norm_(model.parameters(), 1).item(), rel=2e-4)
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
    ours = state(conn, name)
    for long_name, parameter in model.named_parameters():
        data, m, v, step = ours[long_name.removeprefix("transformer.")]
        theirs = optimizer.state[parameter]
        assert step == 8
        sure = np.ones(data.shape, bool)
        if long_name.endswith(
            "c_attn.bias"
        ):  # keys' biases have no gradient but rounding, which AdamW enlarges
            sure[len(data) // 3 : 2 * len(data) // 3] = False
        difference = np.abs(data - parameter.detach().numpy())[sure]
        assert difference.max() <= 3e-5, long_name
        scale = max(theirs["exp_avg"].abs().max().item(), 1e-12)
        assert np.abs(m - theirs["exp_avg"].numpy()).max() <= 1e-3 * scale, long_name
        assert np.allclose(v, theirs["exp_avg_sq"].numpy(), rtol=0, atol=1e-3 * scale**2 + 1e-9), long_name


@pytest.fixture
def small(conn, tokens):
    """A little model with its dataset, fresh for each test."""
    conn.execute("DELETE FROM llm_model_config WHERE model = 'small'")
    conn.execute("DELETE FROM llm_train_log WHERE model = 'small'")
    conn.execute("SELECT llm_create_model('small', 1, 2, 8, 16, %s), llm_init_model('small', 1)", (SIZE[4],))
    fill(conn, "small", tokens)
    return "small"


TRAIN = (
    "SELECT llm_train('small', %s, lr_max => 0.01, warmup => 1, batch_size => 2, dropout_p => {}, seed => {})"
)


def bits(conn):
    query = "SELECT md5(string_agg(name || tensor_send(data)::text || coalesce(tensor_send(m)::text, '') ||"
    query += (
        " coalesce(tensor_send(v)::text, '') || step, '' ORDER BY name)) FROM llm_param WHERE model = 'small'"
    )
    return conn.execute(query).fetchone()[0]


def test_same_bits_on_every_level(conn, small):
    results = set()
    for isa in ("scalar", "avx2", "avx512"):
        for threads in (1, 2):
            conn.execute("SELECT llm_init_model('small', 1)")
            try:
                conn.execute(f"SET pg_llm.isa = {isa}")
            except psycopg.Error:
                continue
            conn.execute(f"SET pg_llm.threads = {threads}")
            conn.execute(TRAIN.format(0.1, 3), (5,))
            results.add(bits(conn))
    conn.execute("RESET pg_llm.isa")
    conn.execute("RESET pg_llm.threads")
    assert len(results) == 1


def test_seed_decides_dropout_and_order(conn, small):
    def run(p, seed):
        conn.execute("SELECT llm_init_model('small', 1)")
        conn.execute(TRAIN.format(p, seed), (5,))
        return bits(conn)

    assert run(0.1, 1) == run(0.1, 1)
    assert len({run(0, 1), run(0.1, 1), run(0.1, 2)}) == 3


def test_rollback_undoes_a_step(conn, small):
    conn.execute(TRAIN.format(0.1, 1), (3,))
    before = bits(conn)
    with conn.transaction():
        with pytest.raises(ZeroDivisionError), conn.transaction():
            conn.execute("SELECT llm_train_step('small', (SELECT min(id) FROM llm_dataset))")
            assert bits(conn) != before
            raise ZeroDivisionError
        assert bits(conn) == before
    assert conn.execute("SELECT max(step) FROM llm_train_log WHERE model = 'small'").fetchone()[0] == 3


def test_second_training_is_told_who_trains(conn, connect, small):
    other = connect()
    with conn.transaction():
        conn.execute(TRAIN.format(0, 1), (1,))
        with pytest.raises(psycopg.errors.LockNotAvailable, match=f"process {conn.info.backend_pid}"):
            other.execute(TRAIN.format(0, 1), (1,))


def test_errors_leave_the_weights(conn, small):
    before = bits(conn)
    for query, text in (
        ("SELECT llm_train('nobody', 1)", "no model"),
        ("SELECT llm_train('small', 1, n_layer => 5)", "n_layer 1"),
        ("SELECT llm_train('small', 1, dataset => 'none')", "no rows"),
        ("SELECT llm_train('small', 0, dataset => 'small')", "n_steps"),
        ("SELECT llm_train('small', 1, lr_max => 'NaN', dataset => 'small')", "lr_max"),
        ("SELECT llm_train('small', 1, dropout_p => 1, dataset => 'small')", "dropout_p"),
        ("SELECT llm_train_step('small', -1)", "no row -1"),
        ("SELECT llm_train_step('small', NULL)", "batch_id"),
        ("SELECT llm_train('small', 200, lr_max => 1e5, warmup => 0, dataset => 'small')", "step"),
    ):
        with pytest.raises(psycopg.Error, match=text):
            conn.execute(query)
        assert bits(conn) == before
    conn.execute("INSERT INTO llm_dataset (dataset, tokens, target) VALUES ('bad', '{1,5000}', '{5000,1}')")
    with pytest.raises(psycopg.Error, match="5000"):
        conn.execute("SELECT llm_train('small', 1, dataset => 'bad')")
    long = list(range(17))
    conn.execute("INSERT INTO llm_dataset (dataset, tokens, target) VALUES ('long', %s, %s)", (long, long))
    with pytest.raises(psycopg.Error, match="positions"):
        conn.execute("SELECT llm_train('small', 1, dataset => 'long')")
    assert bits(conn) == before


def test_dropout_gradient_is_the_slope(conn, small):
    """Forward and backward drop the same elements: the loss moves as the gradient says."""
    query = "SELECT llm_train_step('small', (SELECT min(id) FROM llm_dataset WHERE dataset = 'small'), %s,"
    query += " dropout_p => 0.3, wd => 0, seed => 5)"
    (loss,) = conn.execute(query, (0,)).fetchone()
    gradients = {name: s[1] / 0.1 for name, s in state(conn, "small").items()}  # m = (1 - beta1) g
    rng = np.random.default_rng(0)
    for name, gradient in gradients.items():
        conn.execute("SELECT llm_init_model('small', 1)")
        direction = rng.standard_normal(gradient.shape).astype("f4")
        direction /= np.linalg.norm(direction)
        losses = []
        for h in (1e-3, -1e-3):
            with conn.transaction(force_rollback=True):
                move = "UPDATE llm_param SET data = data + %s::tensor WHERE model = 'small' AND name = %s"
                conn.execute(move, (direction * h, name))
                losses.append(conn.execute(query, (0,)).fetchone()[0])
        slope = (losses[0] - losses[1]) / 2e-3
        assert slope == pytest.approx(float((gradient * direction).sum()), rel=0.02, abs=1e-3), name
