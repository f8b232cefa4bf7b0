"""Training against PyTorch: losses, weights and AdamW's moments of several steps; transactions; errors."""

import numpy as np
import psycopg
import pytest
from helpers.torch_gpt2 import random_gpt2
from helpers.training import SIZE, T, bits, everything, fill
from helpers.training import tokens as tokens

import pg_llm


def state(conn, model):
    query = "SELECT name, data, m, v, step FROM llm_param WHERE model = %s"
    return {row[0]: row[1:] for row in conn.execute(query, (model,)).fetchall()}


def rate(n, total, warmup, highest, lowest):
    """The intended schedule: linear warmup, then half a cosine down to the floor."""
    if n < warmup:
        return highest * n / warmup
    return lowest + (highest - lowest) * (1 + np.cos(np.pi * (n - warmup) / (total - warmup))) / 2


def pytorch(options):
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)  # with tensors this small, threads cost more time than they save
    model = random_gpt2((*SIZE[:5], options)).float().double()  # values representable in float32
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return torch, model


def adamw(torch, model, wd, betas=(0.9, 0.95)):
    """GPT-2's decay groups: matrices decay, vectors do not."""
    groups = [
        {"params": [p for p in model.parameters() if p.ndim >= 2], "weight_decay": wd},
        {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=0, betas=betas, eps=1e-8)


def pytorch_step(torch, model, optimizer, batches, lr, clip):
    """One step over micro-batches (n, B, T + 1): mean loss, and the gradient's norm before clipping."""
    optimizer.zero_grad()
    total = 0
    for batch in batches:
        out = model(batch[:, :-1]).logits
        micro = torch.nn.functional.cross_entropy(out.reshape(-1, SIZE[4]), batch[:, 1:].reshape(-1))
        (micro / len(batches)).backward()
        total += micro.item() / len(batches)
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), clip).item()
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.step()
    return total, norm


@pytest.mark.parametrize(
    "options", [{}, {"tie_word_embeddings": False, "activation_function": "gelu"}], ids=str
)
def test_steps_equal_pytorch(conn, tmp_path, tokens, options):
    """Batches, accumulation, clipping, decay groups, schedule: losses, weights and moments of eight steps."""
    torch, model = pytorch(options)
    name = f"train_{len(options)}"
    model.float().save_pretrained(tmp_path)
    model.double()
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
    optimizer = adamw(torch, model, 0.1)
    for step, lr, loss, norm, rows in log:
        assert lr == pytest.approx(rate(step, 8, 2, 1e-3, 1e-4), rel=1e-12)
        batches = torch.tensor(tokens[[ids.index(r) for r in rows]]).reshape(2, 2, T + 1)
        total, length = pytorch_step(torch, model, optimizer, batches, lr, 1)
        assert loss == pytest.approx(total, rel=2e-5)
        assert norm == pytest.approx(length, rel=2e-4)
    ours = state(conn, name)
    for long_name, parameter in model.named_parameters():
        data, m, v, step = ours[long_name.removeprefix("transformer.")]
        theirs = optimizer.state[parameter]
        assert step == 8
        sure = np.ones(data.shape, bool)
        if long_name.endswith(
            "c_attn.bias"
        ):  # keys' biases have no gradient except rounding errors, which AdamW amplifies
            sure[len(data) // 3 : 2 * len(data) // 3] = False
        difference = np.abs(data - parameter.detach().numpy())[sure]
        assert difference.max() <= 3e-5, long_name
        scale = max(theirs["exp_avg"].abs().max().item(), 1e-12)
        assert np.abs(m - theirs["exp_avg"].numpy()).max() <= 1e-3 * scale, long_name
        assert np.allclose(v, theirs["exp_avg_sq"].numpy(), rtol=0, atol=1e-3 * scale**2 + 1e-9), long_name


def test_a_hundred_steps_follow_pytorch(conn, tmp_path, tokens):
    """Losses of 100 steps to 1e-4, without dropout, against PyTorch in float64."""
    torch, model = pytorch({})
    model.float().save_pretrained(tmp_path)
    model.double()
    pg_llm.load_model(conn, tmp_path, "hundred")
    ids = fill(conn, "hundred", tokens)
    conn.execute(
        "SELECT llm_train('hundred', 100, lr_max => 1e-3, warmup => 10, min_lr => 1e-5, wd => 0.1,"
        " beta2 => 0.95, grad_clip => 1, dropout_p => 0, batch_size => 3)"
    )
    log = "SELECT lr, loss, rows FROM llm_train_log WHERE model = 'hundred' ORDER BY step"
    optimizer = adamw(torch, model, 0.1)
    worst = 0
    for lr, loss, rows in conn.execute(log).fetchall():
        batches = torch.tensor(tokens[[ids.index(r) for r in rows]])[None]
        worst = max(worst, abs(pytorch_step(torch, model, optimizer, batches, lr, 1)[0] - loss))
    assert worst <= 1e-4


def test_each_step_as_torch_adamw(conn):
    """A single parameter: every step's weight and moments, from given gradients."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(8)
    w = rng.standard_normal(50).astype("f4")
    theirs = torch.nn.Parameter(torch.tensor(w))
    optimizer = torch.optim.AdamW([theirs], lr=3e-3, betas=(0.8, 0.99), eps=1e-6, weight_decay=0.2)
    m = v = np.zeros(50, "f4")
    for step in range(1, 30):
        gradient = (rng.standard_normal(50) * 10.0 ** rng.integers(-4, 4)).astype("f4")
        theirs.grad = torch.tensor(gradient)
        optimizer.step()
        query = "SELECT (s).weight, (s).m, (s).v FROM (SELECT pg_llm_adamw_step(%s::tensor, %s, %s, %s, 3e-3,"
        query += " 0.8, 0.99, 1e-6, 0.2, %s) AS s) AS one"
        w, m, v = conn.execute(query, (w, gradient, m, v, step)).fetchone()
        assert np.allclose(w, theirs.detach().numpy(), rtol=2e-6, atol=1e-7)


@pytest.fixture
def small(conn, tokens):
    """A small model with its dataset, new for each test."""
    conn.execute("DELETE FROM llm_model_config WHERE model = 'small'")
    conn.execute("DELETE FROM llm_train_log WHERE model = 'small'")
    conn.execute("SELECT llm_create_model('small', 1, 2, 8, 16, %s), llm_init_model('small', 1)", (SIZE[4],))
    fill(conn, "small", tokens)
    return "small"


TRAIN = (
    "SELECT llm_train('small', %s, lr_max => 0.01, warmup => 1, batch_size => 2, dropout_p => {}, seed => {})"
)


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
    """SAVEPOINT, one step, ROLLBACK TO restores all bits; repeating the step gives the same result."""
    conn.execute(TRAIN.format(0.1, 1), (3,))
    before = everything(conn)
    logits = "SELECT llm_logits(ARRAY[1, 2, 3], 'small')"
    of_before = conn.execute(logits).fetchone()[0].tobytes()
    step = "SELECT llm_train_step('small', (SELECT min(id) FROM llm_dataset))"
    with conn.transaction():
        after = []
        for _ in range(2):
            conn.execute("SAVEPOINT one")
            conn.execute(step)
            after.append((bits(conn), conn.execute(logits).fetchone()[0].tobytes()))
            conn.execute("ROLLBACK TO one")
            assert everything(conn) == before
            assert conn.execute(logits).fetchone()[0].tobytes() == of_before
        assert after[0] == after[1] and after[0][0] != before[0] and after[0][1] != of_before
    assert everything(conn) == before


def test_second_training_is_told_who_trains(conn, connect, small):
    other = connect()
    with conn.transaction():
        conn.execute(TRAIN.format(0, 1), (1,))
        with pytest.raises(psycopg.errors.LockNotAvailable, match=f"process {conn.info.backend_pid}"):
            other.execute(TRAIN.format(0, 1), (1,))


def test_dropout_gradient_is_the_slope(conn, small):
    """Forward and backward drop the same elements: the loss changes as the gradient predicts."""
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


def test_names_and_order_of_arguments(conn):
    """The documented order of arguments and their defaults, the same for the loop."""
    order = (
        "model n_steps n_layer n_head d vocab dropout_p beta1 beta2 eps wd lr_max warmup grad_clip"
        " grad_workers prune_workers batch_size accumulation dataset seed min_lr trace"
    ).split()
    query = "SELECT proargnames, pronargdefaults, prokind, provolatile, proparallel FROM pg_proc"
    query += " WHERE proname = %s ORDER BY proargnames[2]"  # of llm_train_step, that with batch_id
    for name, more, kind in (
        ("llm_train", "notice_every wait", b"f"),
        ("llm_train_loop", "commit_every notice_every wait resume until_step", b"p"),
    ):
        names, defaults, is_kind, volatile, parallel = conn.execute(query, (name,)).fetchone()
        assert names == [*order, *more.split(), "recompute", "activations"] and defaults == len(names) - 2
        assert (is_kind, volatile, parallel) in ((kind, b"v", b"u"), (kind.decode(), "v", "u"))
    names, defaults, *_ = conn.execute(query, ("llm_train_step",)).fetchone()
    assert names[:2] == ["model", "batch_id"] and defaults == len(names) - 2
    assert {"lr_max", "beta1", "beta2", "eps", "wd", "grad_clip", "dropout_p", "positions"} <= set(names)
