"""The operation rope: values and gradients are those of transformers' rotary embeddings."""

from __future__ import annotations

import json

import numpy as np
import pytest

HEADS, SIZE, POSITIONS = 3, 16, [0, 1, 2, 63, 64, 700, 4095, 8191]
LLAMA3 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
CASES = {  # attributes of the node; the parameters of transformers' rotary embedding
    "llama": ({}, {"rope_type": "default", "rope_theta": 10000.0}),
    "theta": ({"theta": 5e5}, {"rope_type": "default", "rope_theta": 5e5}),
    "linear": ({"factor": 4}, {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}),
    "llama3": ({"theta": 5e5, **LLAMA3}, {"rope_type": "llama3", "rope_theta": 5e5, **LLAMA3}),
    "neox": ({"dims": 4}, {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25}),
}


@pytest.fixture(scope="module")
def r(database):
    import pg_llm

    with pg_llm.connect(database) as conn:
        conn.execute("SELECT llm_create_model('r', 0, 1, 16, 16, 16)")
        yield conn


def node(conn, attrs):
    """A graph of one node: y = rope(x, at)."""
    with conn.transaction():
        conn.execute("SET CONSTRAINTS llm_graph_fits DEFERRED")
        conn.execute("DELETE FROM llm_graph WHERE model = 'r'")
        conn.execute(
            "INSERT INTO llm_graph (model, name, op, inputs, attrs) VALUES "
            "('r', 'x', 'input', '{}', '{\"shape\": [\"B\", \"T\", 48]}'), "
            "('r', 'at', 'input', '{}', '{\"shape\": [\"T\"], \"dtype\": \"int\"}'), "
            "('r', 'y', 'rope', '{x,at}', %s)",
            [json.dumps({"n_head": HEADS, **attrs})],
        )


def turned(conn, x, positions=POSITIONS):
    query = "SELECT llm_eval('r', 'y', %s::jsonb, ARRAY['x'], ARRAY[%b])"
    return conn.cursor(binary=True).execute(query, [json.dumps({"at": positions}), x]).fetchone()[0]


def rows(seed):
    shape = 2, len(POSITIONS), HEADS * SIZE
    return np.asarray(np.random.default_rng(seed).standard_normal(shape), np.float32)


def neox(torch, x, parameters):
    """Llama's and GPT-NeoX's form: pairs are half of the turned channels apart."""
    from transformers import GPTNeoXConfig
    from transformers.models.gpt_neox.modeling_gpt_neox import GPTNeoXRotaryEmbedding, apply_rotary_pos_emb

    config = GPTNeoXConfig(
        hidden_size=HEADS * SIZE, num_attention_heads=HEADS, max_position_embeddings=8192,
        rope_parameters={"partial_rotary_factor": 1.0, **parameters},
    )  # fmt: skip
    cos, sin = GPTNeoXRotaryEmbedding(config)(x, torch.tensor([POSITIONS]))
    heads = x.view(2, -1, HEADS, SIZE).transpose(1, 2)
    return apply_rotary_pos_emb(heads, heads, cos, sin)[0].transpose(1, 2).reshape(x.shape)


def gptj(torch, x, dims):
    """GPT-J's form: pairs are neighbours."""
    from transformers.models.gptj.modeling_gptj import apply_rotary_pos_emb, create_sinusoidal_positions

    sincos = create_sinusoidal_positions(8192, dims)[torch.tensor([POSITIONS])]
    sin, cos = torch.split(sincos, dims // 2, dim=-1)
    heads = x.view(2, -1, HEADS, SIZE)
    part = apply_rotary_pos_emb(heads[..., :dims], sin, cos)
    return torch.cat([part, heads[..., dims:]], -1).reshape(x.shape)


@pytest.mark.parametrize("name", CASES)
def test_half_split(r, name):
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    attrs, parameters = CASES[name]
    x = rows(1)
    node(r, attrs)
    expected = neox(torch, torch.from_numpy(x), parameters).numpy()
    assert np.abs(turned(r, x) - expected).max() <= 2e-6 * np.abs(expected).max()


@pytest.mark.parametrize("dims", [16, 6])
def test_interleaved(r, dims):
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    x = rows(2)
    node(r, {"dims": dims, "interleaved": True})
    expected = gptj(torch, torch.from_numpy(x), dims).numpy()
    assert np.abs(turned(r, x) - expected).max() <= 2e-6 * np.abs(expected).max()


def test_each_position_is_turned_alone(r):
    """Lengths are kept, position 0 is unchanged, and a row's bits do not depend on the rows beside it."""
    x = rows(3)
    node(r, {"theta": 1000})
    y = turned(r, x)
    pairs = x.reshape(2, -1, HEADS, 2, 8), y.reshape(2, -1, HEADS, 2, 8)
    assert np.allclose(*((p.astype(float) ** 2).sum(3) for p in pairs), rtol=1e-6)
    assert np.array_equal(y[:, 0], x[:, 0])
    for i, position in enumerate(POSITIONS):
        assert np.array_equal(turned(r, np.ascontiguousarray(x[:, i : i + 1]), [position])[:, 0], y[:, i])
