"""GPT-3's published sizes are registered; their bands and heads are computed as in float64 NumPy."""

from __future__ import annotations

import json
import math

import numpy as np
import psycopg
import pytest
from helpers.tiny_model import gpt2, ids, logits, make, params

# Brown et al. (2020), table 2.1: parameters, layers, channels
PUBLISHED = {
    "gpt3-small": (125e6, 12, 768),
    "gpt3-medium": (350e6, 24, 1024),
    "gpt3-large": (760e6, 24, 1536),
    "gpt3-xl": (1.3e9, 24, 2048),
    "gpt3-2.7b": (2.7e9, 32, 2560),
    "gpt3-6.7b": (6.7e9, 32, 4096),
    "gpt3-13b": (13e9, 40, 5140),
    "gpt3-175b": (175e9, 96, 12288),
}


@pytest.mark.parametrize("model", PUBLISHED)
def test_the_published_sizes(conn, model):
    """Rows of the graph alone; as many parameters as the paper says, to two digits."""
    parameters, layers, channels = PUBLISHED[model]
    query = "SELECT n_layer, d_model, n_positions, vocab, tokenizer FROM llm_model_config WHERE model = %s"
    assert conn.execute(query, [model]).fetchone() == (layers, channels, 2048, 50257, "gpt2")
    conn.execute(
        "SELECT llm_create_model(model, n_layer, n_head, d_model, n_positions, vocab, d_ff, tokenizer, "
        "options) FROM llm_model_config WHERE model = %s",
        [model],
    )
    shapes = conn.execute("SELECT shape FROM llm_param_shapes(%s)", [model]).fetchall()
    assert sum(math.prod(shape) for (shape,) in shapes) == pytest.approx(parameters, rel=0.025)
    query = (
        "SELECT (attrs ->> 'window')::int FROM llm_graph WHERE model = %s AND op = 'attention' ORDER BY id"
    )
    windows = [window for (window,) in conn.execute(query, [model])]
    assert windows == [None, 256] * (layers // 2)
    assert conn.execute("SELECT count(*) FROM llm_param WHERE model = %s", [model]).fetchone() == (0,)
    conn.execute("DELETE FROM llm_graph WHERE model = %s", [model])


def test_the_largest_is_refused(conn):
    """Its embedding is larger than a value may be; nothing is left of the attempt."""
    with pytest.raises(psycopg.Error, match=r"a tensor of shape \(50257,12288\) is too large"):
        conn.execute("SELECT llm_init_model('gpt3-175b')")
    for table in ("llm_graph", "llm_param"):
        (n,) = conn.execute(f"SELECT count(*) FROM {table} WHERE model = 'gpt3-175b'").fetchone()
        assert n == 0


@pytest.mark.parametrize("head_dim", [None, 2, 7])
def test_bands_and_heads(conn, head_dim):
    """Dense and banded layers in turn, heads narrower or wider than the channels, over the cache too."""
    options = {"attention_layers": ["global", "local"], "window_size": 4}
    if head_dim:
        options["head_dim"] = head_dim
    model, tokens = f"bands {head_dim}", ids("thequickbrown")
    make(conn, model, n_layer=3, n_head=3, d_model=12, options=json.dumps(options))
    w = params(conn, model)
    assert w["h.0.attn.c_attn.weight"].shape == (12, 9 * (head_dim or 4))
    expected = gpt2(w, tokens, 3, layers=(0, 1, 2), windows=[None, 4, None])
    np.testing.assert_allclose(logits(conn, model, tokens), expected, atol=3e-6 * np.abs(expected).max())
    query = "SELECT token_id FROM llm_generate_stream(%s::int[], 3, 0, model => %s) ORDER BY step"
    streamed = [token for (token,) in conn.execute(query, [tokens, model])]
    for token in streamed:
        assert token == gpt2(w, tokens, 3, layers=(0, 1, 2), windows=[None, 4, None])[-1].argmax()
        tokens.append(token)
