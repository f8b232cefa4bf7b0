"""Small models whose tokens are letters, and GPT-2's forward pass in float64 NumPy to compare with."""

from __future__ import annotations

import math

import numpy as np

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def make(conn, model, n_layer=2, n_head=2, d_model=8, n_positions=16, vocab=26, seed=1, gain=10, **more):
    """A model with random weights, `gain` times GPT-2's initial ones so that its choices differ clearly."""
    named = "".join(f", {name} => %({name})s" for name in more)
    conn.execute(
        f"SELECT llm_create_model(%(m)s, %(l)s, %(h)s, %(d)s, %(p)s, %(v)s{named})",
        {"m": model, "l": n_layer, "h": n_head, "d": d_model, "p": n_positions, "v": vocab, **more},
    )
    conn.execute("SELECT llm_init_model(%s, %s)", (model, seed))
    conn.execute(
        "UPDATE llm_param SET data = data * %s::real::tensor WHERE model = %s AND name LIKE '%%weight' "
        "AND ndim(data) = 2",
        (gain, model),
    )
    letters(conn, model, vocab)


def letters(conn, model, vocab=26):
    """A tokenizer for the model with one token per letter."""
    conn.execute(
        "INSERT INTO llm_bpe_vocab (model, token_id, token, bytes) "
        "SELECT %s, i, chr(97 + i), chr(97 + i)::bytea FROM generate_series(0, %s - 1) AS i",
        (model, min(vocab, 26)),
    )


def ids(text):
    return [LETTERS.index(c) for c in text]


def logits(conn, model, tokens):
    return conn.execute("SELECT llm_logits(%s::int[], %s)", (tokens, model)).fetchone()[0]


def params(conn, model):
    rows = conn.execute("SELECT name, data FROM llm_param WHERE model = %s", (model,))
    return {name: np.asarray(data, float) for name, data in rows}


def gelu(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def layernorm(x, w, name):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * w[
        name + ".weight"
    ] + w[name + ".bias"]


def attention(x, w, h, n_head, window=None, mask=None):  # (T,C) -> (T,C)
    T, C = x.shape
    qkv = x @ w[h + ".attn.c_attn.weight"] + w[h + ".attn.c_attn.bias"]
    q, k, v = qkv.reshape(T, 3, n_head, -1).transpose(1, 2, 0, 3)  # each (NH,T,HS)
    ages = np.arange(T)[:, None] - np.arange(T)  # the distance from a query back to a key
    seen = (ages >= 0) & (ages < (window or T))
    scores = np.where(seen, q @ k.transpose(0, 2, 1) / math.sqrt(q.shape[-1]), -np.inf)
    out = softmax(scores) @ v * np.reshape([1] * n_head if mask is None else mask, (n_head, 1, 1))
    return out.transpose(1, 0, 2).reshape(T, -1) @ w[h + ".attn.c_proj.weight"] + w[h + ".attn.c_proj.bias"]


def gpt2(w, tokens, n_head, layers=(0, 1), act=gelu, parallel=False, windows=None, **attention_options):
    """The logits (T,V) of GPT-2 with the parameters w, by name; windows: of each layer, None where dense."""
    x = w["wte.weight"][tokens] + w["wpe.weight"][: len(tokens)]
    for i in layers:
        h = f"h.{i}"
        if windows:
            attention_options["window"] = windows[i]
        a = attention(layernorm(x, w, h + ".ln_1"), w, h, n_head, **attention_options)
        inner = layernorm(x if parallel else x + a, w, h + ".ln_2")
        inner = act(inner @ w[h + ".mlp.c_fc.weight"] + w[h + ".mlp.c_fc.bias"])
        x = x + a + inner @ w[h + ".mlp.c_proj.weight"] + w[h + ".mlp.c_proj.bias"]
    return layernorm(x, w, "ln_f") @ w["wte.weight"].T
