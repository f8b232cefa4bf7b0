"""The two-layer classroom model trained on the stories' true next-token distributions, not on samples.

With 1200 stories, 4 in a batch, and a schedule of 300 steps, the loss on held-out stories after 100, 200
and 300 steps was 1.672, 1.466, 1.406 from samples and 1.605, 1.416, 1.377 from distributions (floor 0.742):
what 200 steps reach takes 283 from samples.
"""

from __future__ import annotations

import json

import pytest

from pg_llm import classroom

pytestmark = pytest.mark.slow

STORIES, STEPS, WIDTH = 400, 100, 127
# A row of targets for each token: what may come next, and how likely; zeros beyond the story's end.
DISTRIBUTIONS = """
WITH story AS MATERIALIZED (
    SELECT seed, s.text, llm_encode(s.text, 'classroom') AS tokens
    FROM generate_series(0, %(n)s::int - 1) AS seed, llm_story(seed) AS s),
piece AS (
    SELECT seed, pos, string_agg(token, '') OVER (PARTITION BY seed ORDER BY pos) AS beginning
    FROM story, llm_story_token(text)),
following AS (
    SELECT seed, pos, v.token_id, n.probability FROM piece, llm_story_next(beginning) AS n
        JOIN llm_bpe_vocab AS v ON v.model = 'classroom' AND v.bytes = convert_to(n.token, 'UTF8')
    UNION ALL SELECT seed, cardinality(tokens), llm_end_token('classroom'), 1 FROM story),
target AS (
    SELECT seed, reshape(scatter_rows(array_agg(probability ORDER BY pos, token_id)::real[]::tensor,
        array_agg((pos - 1) * %(v)s::int + token_id ORDER BY pos, token_id)::real[]::tensor,
        %(t)s::int * %(v)s::int), ARRAY[%(t)s::int, %(v)s::int]) AS targets FROM following GROUP BY seed)
INSERT INTO llm_dataset (dataset, tokens, names, tensors)
    SELECT 'distributions', tokens || array_fill(0, ARRAY[%(t)s::int - cardinality(tokens)]),
        '{targets}', ARRAY[targets] FROM story JOIN target USING (seed) ORDER BY seed
"""


def make(conn, model, sizes):
    conn.execute(
        "SELECT llm_create_model(%s, 2, %s, %s, %s, %s, tokenizer => 'classroom',"
        " options => jsonb_build_object('eos_token_id', llm_end_token('classroom')))",
        (model, sizes["n_head"], sizes["d_model"], sizes["n_positions"], sizes["vocab"]),
    )
    conn.execute(
        "UPDATE llm_graph SET attrs = attrs || jsonb_build_object('std', s.value) FROM jsonb_each(%s) AS s"
        " WHERE model = %s AND op = 'param' AND (name = s.key OR name LIKE '%%.' || s.key)",
        (json.dumps(sizes["std"]), model),
    )
    conn.execute("SELECT llm_init_model(%s, 1)", (model,))


def train(conn, model, steps):
    conn.execute(
        "SELECT llm_train(%s, %s, dataset => %s, batch_size => 4, lr_max => 2e-3, warmup => 50,"
        " beta2 => 0.98, wd => 0.1, grad_clip => 1, dropout_p => 0, seed => 0, notice_every => 0)",
        (model, steps, model),
    )
    return conn.execute("SELECT loss FROM llm_story_loss(%s, -200, 200)", (model,)).fetchone()[0]


def test_distributions_teach_more_than_samples(conn):
    """Same weights and stories at the start: a lower loss on held-out stories after the same steps."""
    sizes = classroom.recipe()["model"]
    conn.execute("SELECT llm_story_dataset('samples', 0, %s, 'classroom')", (STORIES,))
    conn.execute(DISTRIBUTIONS, {"n": STORIES, "v": sizes["vocab"], "t": WIDTH})
    query = (
        "SELECT tensor_sum(tensors[1]), cardinality(s.target) FROM llm_dataset AS d JOIN (SELECT"
        " row_number() OVER (ORDER BY id) AS n, target FROM llm_dataset WHERE dataset = 'samples') AS s ON"
        " s.n = d.id - (SELECT min(id) - 1 FROM llm_dataset WHERE dataset = 'distributions')"
        " WHERE d.dataset = 'distributions' ORDER BY d.id LIMIT 5"
    )
    for total, length in conn.execute(query).fetchall():
        assert float(total) == pytest.approx(length, rel=1e-5)
    losses = {}
    for model in ("samples", "distributions"):
        make(conn, model, sizes)
        if model == "distributions":
            conn.execute(
                'UPDATE llm_graph SET attrs = \'{"shape": ["B", "T", "V"]}\''
                " WHERE model = 'distributions' AND name = 'targets'"
            )
        losses[model] = train(conn, model, STEPS)
    assert losses["distributions"] < losses["samples"] - 0.02, losses
