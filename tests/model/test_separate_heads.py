"""Weights of its own for each head: the option separate_heads computes what the merged layout computes."""

from __future__ import annotations

import json

import numpy as np
import psycopg
import pytest
from helpers.checkpoint_files import WAYS, same, stored, visible
from helpers.checkpoint_files import folder as folder
from helpers.tiny_model import logits

torch = pytest.importorskip("torch")

LAYERS, HEADS, CHANNELS, POSITIONS, VOCAB = 2, 3, 12, 20, 37
HEAD = CHANNELS // HEADS
TOKENS = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8]
SIZES = [LAYERS, HEADS, CHANNELS, POSITIONS, VOCAB]
PARTS = "qkv"


def create(conn, model, **options):
    query = "SELECT llm_create_model(%s, %s, %s, %s, %s, %s, options => %s), llm_init_model(%s, 1)"
    conn.execute(query, [model, *SIZES, json.dumps(options), model])


@pytest.fixture
def pair(conn):
    """The models merged and apart, of which the second has the slices of the first's weights."""
    create(conn, "merged")
    conn.execute("UPDATE llm_param SET data = data + randn(shape(data), 7) * 0.3 WHERE model = 'merged'")
    create(conn, "apart", separate_heads=True)
    for name, value in cut(stored(conn, "merged")).items():
        query = "UPDATE llm_param SET data = %s::tensor WHERE (model, name) = ('apart', %s)"
        assert conn.execute(query, [value, name]).rowcount == 1
    yield conn
    conn.execute("DELETE FROM llm_model_config WHERE model IN ('merged', 'apart', 'again')")


def cut(weights):
    """The parameters of the merged layout, c_attn's columns as those of each head's q, k and v."""
    result = {}
    for name, value in weights.items():
        layer, found, kind = name.partition(".attn.c_attn.")
        if not found:
            result[name] = value
            continue
        for part, letter in enumerate(PARTS):
            for head in range(HEADS):
                start = part * CHANNELS + head * HEAD
                result[f"{layer}.attn.head.{head}.{letter}.{kind}"] = value[..., start : start + HEAD]
    return result


def gradients(conn, model):
    conn.execute("SELECT llm_zero_grad(%s)", [model])
    conn.execute("UPDATE llm_autograd_mode SET flag = true")
    conn.execute("SELECT llm_loss(%s, %s::int[], %s::int[])", [model, TOKENS[:-1], TOKENS[1:]])
    conn.execute("UPDATE llm_autograd_mode SET flag = false")
    conn.execute("SELECT llm_backprop((SELECT max(id) FROM llm_tape), %s)", [model])
    conn.execute("SELECT llm_accumulate_grads(%s)", [model])
    rows = conn.execute("SELECT name, grad FROM llm_param WHERE model = %s", [model]).fetchall()
    return {name: np.array(grad) for name, grad in rows}


def test_names_and_sizes(pair):
    """A parameter for each head, and as many elements as in the merged layout."""
    names = stored(pair, "apart")
    assert names["h.0.attn.head.2.q.weight"].shape == (CHANNELS, HEAD)
    assert names["h.1.attn.head.0.v.bias"].shape == (HEAD,)
    query = "SELECT sum(numel(data)) FROM llm_param WHERE model = %s"
    assert len({pair.execute(query, [m]).fetchone() for m in ("merged", "apart")}) == 1


def test_logits_and_gradients(pair):
    """Logits of the merged layout; gradients are the slices of its gradient."""
    ours, merged = logits(pair, "apart", TOKENS), logits(pair, "merged", TOKENS)
    np.testing.assert_allclose(ours, merged, atol=1e-6 * np.abs(merged).max())
    expected, found = cut(gradients(pair, "merged")), gradients(pair, "apart")
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        np.testing.assert_allclose(
            found[name], gradient, atol=2e-6 * max(1e-2, np.abs(gradient).max()), err_msg=name
        )


def layer_norm(x, weights, name):
    return torch.nn.functional.layer_norm(x, (CHANNELS,), weights[f"{name}.weight"], weights[f"{name}.bias"])


def torch_loss(weights, tokens, targets):
    """A GPT-2 that is written head by head."""
    x = weights["wte.weight"][tokens] + weights["wpe.weight"][: len(tokens)]
    mask = torch.full((len(tokens), len(tokens)), -torch.inf).triu(1)
    for layer in range(LAYERS):
        h = f"h.{layer}"
        normed = layer_norm(x, weights, f"{h}.ln_1")
        heads = []
        for head in range(HEADS):
            q, k, v = (
                normed @ weights[f"{h}.attn.head.{head}.{p}.weight"]
                + weights[f"{h}.attn.head.{head}.{p}.bias"]
                for p in PARTS
            )
            heads.append(torch.softmax(q @ k.T / HEAD**0.5 + mask, -1) @ v)
        x = x + torch.cat(heads, -1) @ weights[f"{h}.attn.c_proj.weight"] + weights[f"{h}.attn.c_proj.bias"]
        hidden = layer_norm(x, weights, f"{h}.ln_2") @ weights[f"{h}.mlp.c_fc.weight"]
        act = torch.nn.functional.gelu(hidden + weights[f"{h}.mlp.c_fc.bias"], approximate="tanh")
        x = x + act @ weights[f"{h}.mlp.c_proj.weight"] + weights[f"{h}.mlp.c_proj.bias"]
    out = layer_norm(x, weights, "ln_f") @ weights["wte.weight"].T
    return torch.nn.functional.cross_entropy(out, torch.tensor(targets))


def test_gradients_of_pytorch(pair):
    weights = {n: torch.tensor(w, dtype=torch.float64) for n, w in stored(pair, "apart").items()}
    for weight in weights.values():
        weight.requires_grad_()
    loss = torch_loss(weights, TOKENS[:-1], TOKENS[1:])
    loss.backward()
    query = "SELECT llm_loss('apart', %s::int[], %s::int[])"
    assert pair.execute(query, [TOKENS[:-1], TOKENS[1:]]).fetchone()[0] == pytest.approx(
        loss.item(), rel=1e-6
    )
    largest = max(w.grad.abs().max().item() for w in weights.values())
    for name, gradient in gradients(pair, "apart").items():
        expected = weights[name].grad.numpy()
        scale = max(1e-2 * largest, np.abs(expected).max())
        np.testing.assert_allclose(gradient, expected, atol=4e-6 * scale, err_msg=name)


def test_decoding_from_the_cache(pair):
    """Each step's greedy token is that of the logits of the whole sequence."""
    query = "SELECT token_id FROM llm_generate_stream(%s::int[], 8, 0, model => 'apart', eos => -1)"
    pair.execute(
        "INSERT INTO llm_bpe_vocab (model, token_id, token, bytes) "
        "SELECT 'apart', i, chr(256 + i), int4send(i) FROM generate_series(0, %s - 1) AS i",
        [VOCAB],
    )
    try:
        tokens = list(TOKENS)
        for (token,) in pair.execute(query, [TOKENS]).fetchall():
            assert token == int(np.argmax(logits(pair, "apart", tokens)[-1]))
            tokens.append(token)
        assert len(tokens) == len(TOKENS) + 8
    finally:
        pair.execute("DELETE FROM llm_bpe_vocab WHERE model = 'apart'")


def test_training(pair):
    """It learns as the merged model does."""
    query = "SELECT llm_train_step(%s, %s::int[], %s::int[], lr_max => 0.01, dropout_p => 0)"
    losses = {
        model: [pair.execute(query, [model, TOKENS[:-1], TOKENS[1:]]).fetchone()[0] for _ in range(12)]
        for model in ("merged", "apart")
    }
    np.testing.assert_allclose(losses["apart"], losses["merged"], rtol=1e-4)
    assert losses["apart"][-1] < 0.7 * losses["apart"][0]


@WAYS
def test_exported_and_read_again(pair, folder, load):
    """With a warning, because no other program knows the layout; under another name it is the same model."""
    notices: list[str] = []
    pair.add_notice_handler(lambda notice: notices.append(notice.message_primary))
    pair.execute("SELECT pg_llm_export_safetensors(%s, 'apart')", [str(folder)])
    assert any("separate_heads" in notice for notice in notices), notices
    load(pair, visible(folder), "again")
    assert same(stored(pair, "apart"), stored(pair, "again"))
    np.testing.assert_array_equal(logits(pair, "apart", TOKENS), logits(pair, "again", TOKENS))


def test_options(conn):
    """With biases left out, with experts, with heads of another size; refused where it cannot be."""
    for options in ({"bias": False}, {"qkv_bias": False}, {"head_dim": 5}, {"experts": 3}):
        create(conn, "other", separate_heads=True, **options)
        assert np.isfinite(logits(conn, "other", TOKENS)).all()
        biases = "SELECT count(*) FROM llm_graph WHERE model = 'other' AND name LIKE '%.head.%.bias' AND "
        (frozen,) = conn.execute(biases + "attrs @> '{\"trainable\": false}'").fetchone()
        assert frozen == (3 * HEADS * LAYERS if "bias" in str(options) else 0)
        conn.execute("DELETE FROM llm_model_config WHERE model = 'other'")
    with pytest.raises(psycopg.errors.FeatureNotSupported, match='heads of "llama" cannot'):
        create(conn, "other", architecture="llama", separate_heads=True)
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="separate_heads is 3, expected true"):
        create(conn, "other", separate_heads=3)
    assert conn.execute("SELECT count(*) FROM llm_model_config WHERE model = 'other'").fetchone() == (0,)
