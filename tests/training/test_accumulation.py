"""Micro-batches whose numbers of targets differ give the loss and the gradient of their whole step."""

import numpy as np
import psycopg
import pytest
from helpers.torch_gpt2 import random_gpt2
from helpers.training import SIZE

import pg_llm

LENGTHS = {
    "one row counts little": [(12, 12), (12, 2)],
    "shorter rows": [(12, 12), (3, 3), (7, 7), (1, 1)],
    "a row without targets": [(12, 0), (12, 12), (12, 5), (12, 0)],
    "all alike": [(12, 12)] * 4,
}


def rows(lengths):
    """Tokens and targets; of each row, only the last targets count."""
    rng = np.random.default_rng(3)
    for length, counted in lengths:
        tokens = rng.integers(0, SIZE[4], length + 1)
        target = tokens[1:].copy()
        target[: length - counted] = -1
        yield tokens[:-1].tolist(), target.tolist()


@pytest.fixture
def model(conn, tmp_path):
    model = random_gpt2((*SIZE[:5], {})).float()
    model.save_pretrained(tmp_path)
    conn.execute("DELETE FROM llm_model_config WHERE model = 'uneven'")
    conn.execute("DELETE FROM llm_dataset WHERE dataset = 'uneven'")
    pg_llm.load_model(conn, tmp_path, "uneven")
    return model.double().eval()


def insert(conn, lengths):
    for tokens, target in rows(lengths):
        query = "INSERT INTO llm_dataset (dataset, tokens, target) VALUES ('uneven', %s::int[], %s::int[])"
        conn.execute(query, (tokens, target))


def step(conn, batch_size, accumulation):
    """Loss, norm and first moments of one step, which is undone."""
    with conn.transaction(force_rollback=True):
        conn.execute(
            "SELECT llm_train('uneven', 1, lr_max => 1e-3, warmup => 0, grad_clip => 1e30, dropout_p => 0,"
            " batch_size => %s, accumulation => %s, dataset => 'uneven', seed => 1)",
            (batch_size, accumulation),
        )
        query = "SELECT loss, grad_norm FROM llm_train_log WHERE model = 'uneven' ORDER BY id DESC LIMIT 1"
        loss, norm = conn.execute(query).fetchone()
        moments = conn.execute("SELECT name, m FROM llm_param WHERE model = 'uneven'").fetchall()
        return loss, norm, dict(moments)


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_the_step_is_that_of_one_batch(conn, model, lengths):
    torch = pytest.importorskip("torch")
    insert(conn, lengths)
    losses = []
    for tokens, target in rows(lengths):
        out = model(torch.tensor([tokens])).logits[0]
        goal = torch.tensor(target)
        losses.append(torch.nn.functional.cross_entropy(out, goal, ignore_index=-1, reduction="sum"))
    count = sum(t >= 0 for _, target in rows(lengths) for t in target)
    theirs = sum(losses) / count
    theirs.backward()
    length = sum((p.grad**2).sum().item() for p in model.parameters()) ** 0.5
    for batch_size in (1, 2, len(lengths)):
        loss, norm, moments = step(conn, batch_size, len(lengths) // batch_size)
        assert loss == pytest.approx(theirs.item(), rel=1e-5)
        assert norm == pytest.approx(length, rel=1e-4)
        for name, parameter in model.named_parameters():
            mine = moments[name.removeprefix("transformer.")] / 0.1  # AdamW's first moment is (1 - beta1) g
            assert np.abs(mine - parameter.grad.numpy()).max() <= 1e-4 * length, name


def test_equal_numbers_of_targets_keep_their_bits(conn, model):
    """Dropping the last half of each row's targets leaves the micro-batches' weights at 1."""
    insert(conn, [(12, 6)] * 4)
    loss, norm, moments = step(conn, 2, 2)
    assert loss == np.float32(np.mean([np.float64(step_loss(conn, ids)) for ids in halves(conn)]))


def halves(conn):
    query = "SELECT rows FROM llm_train_log WHERE model = 'uneven' ORDER BY id DESC LIMIT 1"
    with conn.transaction(force_rollback=True):
        conn.execute(
            "SELECT llm_train('uneven', 1, lr_max => 1e-3, warmup => 0, dropout_p => 0, batch_size => 2,"
            " accumulation => 2, dataset => 'uneven', seed => 1)"
        )
        (ids,) = conn.execute(query).fetchone()
    return ids[:2], ids[2:]


def step_loss(conn, ids):
    query = "SELECT llm_loss('uneven', array_agg(tokens ORDER BY at), array_agg(target ORDER BY at))"
    query += " FROM unnest(%s::bigint[]) WITH ORDINALITY AS row(id, at) JOIN llm_dataset USING (id)"
    return conn.execute(query, (ids,)).fetchone()[0]


@pytest.mark.parametrize(
    "query",
    [
        "SELECT llm_loss('uneven', ARRAY[1,2,3], ARRAY[-1,-1,-1])",
        "SELECT llm_loss('uneven', ARRAY[[1,2],[3,4]], ARRAY[[-1,-5],[-1,-1]])",
        "SELECT llm_train('uneven', 1, warmup => 0, batch_size => 2, dataset => 'uneven')",
        "SELECT llm_train('uneven', 1, warmup => 0, batch_size => 1, accumulation => 2, dataset => 'uneven')",
        "SELECT llm_train_step('uneven', (SELECT min(id) FROM llm_dataset WHERE dataset = 'uneven'))",
        "SELECT pg_llm_cross_entropy('[[1,2],[3,4]]', ARRAY[-100,-100])",
    ],
)
def test_a_loss_needs_a_target(conn, model, query):
    insert(conn, [(5, 0), (7, 0)])
    before = conn.execute("SELECT version FROM llm_model_version WHERE model = 'uneven'").fetchone()
    with pytest.raises(psycopg.Error, match=r"none of the \d+ targets counts in the loss") as error:
        conn.execute(query)
    assert "negative one is left out" in error.value.diag.message_hint
    assert conn.execute("SELECT version FROM llm_model_version WHERE model = 'uneven'").fetchone() == before


@pytest.mark.parametrize(("n_steps", "warmup"), [(1, 0), (2, 1), (3, 2)])
def test_one_step_after_the_warmup_is_at_the_highest_rate(conn, model, n_steps, warmup):
    insert(conn, [(5, 5)])
    with conn.transaction(force_rollback=True):
        conn.execute(
            "SELECT llm_train('uneven', %s, lr_max => 0.01, warmup => %s, batch_size => 1,"
            " dataset => 'uneven')",
            (n_steps, warmup),
        )
        rates = conn.execute("SELECT lr FROM llm_train_log WHERE model = 'uneven' ORDER BY id").fetchall()
    expected = [0.01 * n / warmup for n in range(1, warmup)] + [0.01] * (2 if warmup else 1)
    assert [lr for (lr,) in rates] == pytest.approx(expected)


def test_longer_schedules_end_at_the_lowest_rate(conn):
    query = "SELECT pg_llm_lr_schedule(%s, %s, %s, 0.5)"
    assert conn.execute(query, (2, 0, 2)).fetchone()[0] == 0
    assert conn.execute(query, (4, 2, 4)).fetchone()[0] == 0
    assert conn.execute(query, (1, 0, 1)).fetchone()[0] == 0.5
