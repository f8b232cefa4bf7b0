"""Views of a recorded run: attention, activations, gradients, cost; typical queries are fast."""

import numpy as np
import pytest
from helpers.recording import grads, m, tensors, trace
from helpers.tiny_model import ids, params

import pg_llm

__all__ = ["m"]  # a fixture


def test_attention_map(m):
    """Weights as rows, with the tokens' texts, of the requested layer, head and sequence; batches too."""
    batch = [ids("thequick"), ids("lazydogs")]
    run = trace(m, tokens=batch, targets=batch)
    kept = tensors(m, run)
    rows = m.execute(
        "SELECT batch, layer, head, query, query_token, key, key_token, weight FROM llm_attention_map "
        "WHERE run = %s",
        (run,),
    ).fetchall()
    assert len(rows) == 2 * 2 * 2 * 36  # batches, layers, heads, pairs with key <= query
    words = ["thequick", "lazydogs"]
    for b, layer, head, q, q_token, k, k_token, weight in rows:
        assert weight == kept[f"h.{layer}.attn.heads.probs"][b, head, q, k]
        assert (q_token, k_token) == (words[b][q], words[b][k])
    m.execute(
        "UPDATE llm_graph SET attrs = attrs || '{\"causal\": false}' WHERE model = 'm' "
        "AND name = 'h.0.attn.heads'"
    )
    run = trace(m)
    counts = m.execute(
        "SELECT layer, count(*) FROM llm_attention_map WHERE run = %s GROUP BY 1 ORDER BY 1", (run,)
    )
    assert counts.fetchall() == [(0, 128), (1, 72)]


def test_views_agree_with_numpy(m):
    run = trace(m)
    m.execute("SELECT llm_backprop((SELECT max(id) FROM llm_tape), 'm')")
    m.execute("SELECT llm_accumulate_grads('m')")
    kept = tensors(m, run)
    for name, op, shape, mean, sd, dead in m.execute(
        "SELECT name, op, shape, mean, sd, dead FROM llm_activation WHERE run = %s", (run,)
    ):
        x = kept[name].astype(float)
        assert shape == list(x.shape) and mean == pytest.approx(x.mean(), abs=1e-5), name
        with np.errstate(invalid="ignore"):  # scores of masked positions are -Infinity
            spread = pytest.approx(x.std(), rel=1e-4, abs=1e-6, nan_ok=True)
        assert sd == spread and dead == pytest.approx((x == 0).mean()), (name, op)
    w, g = params(m, "m"), grads(m)
    for name, numel, norm, weight_norm, ratio, largest in m.execute(
        "SELECT name, numel, norm, weight_norm, ratio, largest FROM llm_param_gradient WHERE model = 'm'"
    ):
        assert numel == g[name].size and largest == np.abs(g[name]).max()
        assert norm == pytest.approx(np.linalg.norm(g[name]), rel=1e-5)
        assert weight_norm == pytest.approx(np.linalg.norm(w[name]), rel=1e-5)
        assert ratio is None if weight_norm == 0 else ratio == pytest.approx(norm / weight_norm, rel=1e-5)
    names = [n for (n,) in m.execute("SELECT name FROM llm_gradient WHERE run = %s", (run,))]
    assert set(g) <= set(names) and {"loss", "logits", "h.0", "h.1.attn.heads"} <= set(names)
    assert not [n for n in names if n.endswith(("scores", "probs", "tokens"))]
    cost = m.execute(
        "SELECT sum(calls), sum(share), sum(flops) FROM llm_op_cost WHERE run = %s", (run,)
    ).fetchone()
    ops = m.execute("SELECT count(*), sum(flops) FROM llm_tape_named WHERE run = %s", (run,)).fetchone()
    assert (cost[0], cost[2]) == ops and cost[1] == pytest.approx(1)


@pytest.fixture(scope="module")
def big(server, database):
    """A model of the classroom model's shape (4 layers, 128 wide, 128 tokens), a run with gradients."""
    with pg_llm.connect(database) as conn:
        conn.execute("SELECT llm_create_model('big', 4, 4, 128, 128, 1024)")
        conn.execute("SELECT llm_init_model('big', 1)")
        text = "(SELECT array_agg((i * 7 + %s) %% 1024 ORDER BY i) FROM generate_series(1, 128) AS i)"
        run = conn.execute(f"SELECT llm_trace('big', {text}, {text})", (0, 7)).fetchone()[0]
        conn.execute("SELECT llm_backprop((SELECT max(id) FROM llm_tape WHERE run = %s), 'big')", (run,))
        yield conn, run


QUESTIONS = {
    "which op made this tensor": (
        "SELECT op FROM llm_tape WHERE run = %(run)s AND (SELECT id FROM llm_tensor_rt WHERE run = %(run)s "
        "AND name = 'h.2.attn.heads.probs') = ANY (outputs)",
        [("attention",)],
    ),
    "what flows into h.2.attn": (
        "SELECT name, inputs FROM llm_tape_named WHERE run = %(run)s "
        "AND name IN ('h.2.attn.heads', 'h.2.attn.c_attn') ORDER BY id",
        [("h.2.attn.c_attn", ["h.2.attn.c_attn.matmul", "h.2.attn.c_attn.bias"]),
         ("h.2.attn.heads", ["h.2.attn.c_attn"])],
    ),
    "where is the gradient largest": (
        "SELECT name FROM llm_gradient WHERE run = %(run)s AND name LIKE '%%weight' "
        "ORDER BY norm DESC LIMIT 1",
        None,
    ),
    "every leaf below the loss": (
        "WITH RECURSIVE back (id) AS (SELECT max(id) FROM llm_tape WHERE run = %(run)s UNION "
        "SELECT unnest(t.inputs) FROM back JOIN llm_tape t USING (id)) "
        "SELECT count(*), count(*) FILTER (WHERE requires_grad) FROM back JOIN llm_tensor_rt r USING (id) "
        "WHERE NOT EXISTS (SELECT FROM llm_tape t WHERE t.id = r.id)",
        [(55, 52)],  # the parameters; tokens, targets and positions
    ),
    "whom does a head look at": (
        "SELECT key FROM llm_attention_map WHERE run = %(run)s AND layer = 2 AND head = 1 AND query = 9 "
        "ORDER BY weight DESC LIMIT 1",
        None,
    ),
    "which units are dead": ("SELECT name FROM llm_activation WHERE run = %(run)s AND dead > 0.9", []),
}  # fmt: skip


@pytest.mark.parametrize("question", QUESTIONS)
def test_questions_are_one_query_each(big, question):
    conn, run = big
    query, expected = QUESTIONS[question]
    rows = conn.execute(query, {"run": run}).fetchall()
    assert rows if expected is None else rows == expected


def test_a_run_is_written_whole(big):
    conn, run = big
    kept = conn.execute(
        "SELECT count(*), sum(numel(data)) FROM llm_tensor_rt WHERE run = %s", (run,)
    ).fetchone()
    assert kept[0] == 150 and kept[1] > 2.5e6
