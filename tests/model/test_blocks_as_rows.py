"""Llama's, GPT-NeoX's and GPT-Neo's blocks written as rows: logits, gradients and tokens of transformers."""

from __future__ import annotations

import json

import numpy as np
import pytest
from helpers.tiny_model import letters, logits

VOCAB, WIDTH, HEADS, INNER, LAYERS, CONTEXT = 26, 24, 4, 40, 2, 32


class Rows:
    """The rows of a graph, in order."""

    def __init__(self):
        self.rows = []
        self.add("tokens", "input", shape=["B", "T"], dtype="int")
        self.add("targets", "input", shape=["B", "T"], dtype="int")
        self.add("positions", "input", shape=["T"], dtype="int")

    def add(self, name, op, *inputs, **attrs):
        self.rows.append((name, op, list(inputs), json.dumps(attrs)))
        return name

    def embedding(self, name, ids, rows):
        return self.add(name, "embedding", ids, self.add(name + ".weight", "param", shape=[rows, WIDTH]))

    def linear(self, name, x, size_in, size_out, bias=False):
        self.add(name + ".weight", "param", shape=[size_out, size_in])
        y = self.add(name, "matmul", x, name + ".weight", transpose_b=True)
        if bias:
            y = self.add(name + ".out", "add", y, self.add(name + ".bias", "param", shape=[size_out]))
        return y

    def norm(self, name, x, op):
        self.add(name + ".weight", "param", shape=[WIDTH])
        if op == "rmsnorm":
            return self.add(name, op, x, name + ".weight", eps=1e-6)
        return self.add(name, op, x, name + ".weight", self.add(name + ".bias", "param", shape=[WIDTH]))

    def head(self, x, weight):
        self.add("logits", "matmul", x, weight, transpose_b=True)
        self.add("loss", "cross_entropy", "logits", "targets")
        return self.rows


def llama(torch):
    """Grouped heads of a size that is not WIDTH / HEADS, with Llama 3's frequencies."""
    from transformers import LlamaConfig, LlamaForCausalLM

    kv, size = 2, 8
    scaling = {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    }
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCAB,
            hidden_size=WIDTH,
            num_attention_heads=HEADS,
            num_key_value_heads=kv,
            head_dim=size,
            intermediate_size=INNER,
            num_hidden_layers=LAYERS,
            max_position_embeddings=CONTEXT,
            rope_parameters={"rope_type": "llama3", "rope_theta": 10000.0, **scaling},
        )
    )
    r = Rows()
    x = r.embedding("model.embed_tokens", "tokens", VOCAB)
    for i in range(LAYERS):
        h = f"model.layers.{i}."
        y = r.norm(h + "input_layernorm", x, "rmsnorm")
        q = r.linear(h + "self_attn.q_proj", y, WIDTH, HEADS * size)
        k = r.linear(h + "self_attn.k_proj", y, WIDTH, kv * size)
        v = r.linear(h + "self_attn.v_proj", y, WIDTH, kv * size)
        q = r.add(h + "q", "rope", q, "positions", n_head=HEADS, **scaling)
        k = r.add(h + "k", "rope", k, "positions", n_head=kv, **scaling)
        y = r.add(h + "heads", "attention", q, k, v, n_head=HEADS, n_kv_head=kv)
        x = r.add(h + "mid", "add", x, r.linear(h + "self_attn.o_proj", y, HEADS * size, WIDTH))
        y = r.norm(h + "post_attention_layernorm", x, "rmsnorm")
        gate = r.add(h + "act", "silu", r.linear(h + "mlp.gate_proj", y, WIDTH, INNER))
        y = r.add(h + "gated", "mul", gate, r.linear(h + "mlp.up_proj", y, WIDTH, INNER))
        x = r.add(h + "end", "add", x, r.linear(h + "mlp.down_proj", y, INNER, WIDTH))
    r.add("lm_head.weight", "param", shape=[VOCAB, WIDTH])
    return model, r.head(r.norm("model.norm", x, "rmsnorm"), "lm_head.weight"), lambda tensors: tensors


def neox(torch):
    """Attention and feed-forward beside each other; a quarter of each head is turned."""
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    size = 16
    width = HEADS * size
    model = GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=VOCAB,
            hidden_size=width,
            num_attention_heads=HEADS,
            intermediate_size=INNER,
            num_hidden_layers=LAYERS,
            max_position_embeddings=CONTEXT,
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25},
            tie_word_embeddings=False,
        )
    )
    r = Rows()
    r.add("gpt_neox.embed_in.weight", "param", shape=[VOCAB, width])
    x = r.add("embed", "embedding", "tokens", "gpt_neox.embed_in.weight")

    def norm(name, x):
        weights = [r.add(f"{name}.{part}", "param", shape=[width]) for part in ("weight", "bias")]
        return r.add(name, "layernorm", x, *weights)

    for i in range(LAYERS):
        h = f"gpt_neox.layers.{i}."
        y = norm(h + "input_layernorm", x)
        q, k, v = (r.linear(h + "attention." + part, y, width, width, bias=True) for part in "qkv")
        q, k = (r.add(part + ".turned", "rope", part, "positions", n_head=HEADS, dims=4) for part in (q, k))
        y = r.add(h + "heads", "attention", q, k, v, n_head=HEADS)
        attended = r.linear(h + "attention.dense", y, width, width, bias=True)
        y = norm(h + "post_attention_layernorm", x)
        y = r.linear(h + "mlp.dense_h_to_4h", y, width, INNER, bias=True)
        y = r.add(h + "act", "gelu", y, approximate="none")
        y = r.linear(h + "mlp.dense_4h_to_h", y, INNER, width, bias=True)
        x = r.add(h + "end", "total", x, attended, y)
    r.add("lm_head.weight", "param", shape=[VOCAB, width])

    def split(tensors):
        """query_key_value holds q, k and v of each head side by side: three matrices of all heads."""
        parts = {}
        for name, x in tensors.items():
            if "query_key_value" not in name:
                parts[name] = x
                continue
            by_head = x.reshape(HEADS, 3, size, *x.shape[1:])
            for j, part in enumerate("qkv"):
                to = name.replace("query_key_value", part)
                parts[to] = np.ascontiguousarray(by_head[:, j]).reshape(width, *x.shape[1:])
        return parts

    return model, r.head(norm("gpt_neox.final_layer_norm", x), "lm_head.weight"), split


def neo(torch):
    """Dense and local attention in turn, scores that are not scaled, learned positions."""
    from transformers import GPTNeoConfig, GPTNeoForCausalLM

    model = GPTNeoForCausalLM(
        GPTNeoConfig(
            vocab_size=VOCAB,
            hidden_size=WIDTH,
            num_heads=HEADS,
            intermediate_size=INNER,
            num_layers=LAYERS,
            max_position_embeddings=CONTEXT,
            attention_types=[[["global", "local"], LAYERS // 2]],
            window_size=5,
        )
    )
    r = Rows()
    embedded = r.embedding("transformer.wte", "tokens", VOCAB)
    x = r.add("embd", "add", embedded, r.embedding("transformer.wpe", "positions", CONTEXT))
    for i in range(LAYERS):
        h = f"transformer.h.{i}."
        y = r.norm(h + "ln_1", x, "layernorm")
        q, k, v = (r.linear(f"{h}attn.attention.{part}_proj", y, WIDTH, WIDTH) for part in "qkv")
        y = r.add(h + "heads", "attention", q, k, v, n_head=HEADS, scale=1, window=5 if i % 2 else None)
        x = r.add(h + "mid", "add", x, r.linear(h + "attn.attention.out_proj", y, WIDTH, WIDTH, bias=True))
        y = r.linear(h + "mlp.c_fc", r.norm(h + "ln_2", x, "layernorm"), WIDTH, INNER, bias=True)
        y = r.linear(h + "mlp.c_proj", r.add(h + "act", "gelu", y), INNER, WIDTH, bias=True)
        x = r.add(h + "end", "add", x, y)
    x = r.norm("transformer.ln_f", x, "layernorm")
    return model, r.head(x, "transformer.wte.weight"), lambda tensors: tensors


def write(conn, name, width, rows, tensors):
    conn.execute("DELETE FROM llm_model_config WHERE model = %s", [name])
    conn.execute("DELETE FROM llm_bpe_vocab WHERE model = %s", [name])
    with conn.transaction(), conn.cursor(binary=True) as cursor:
        cursor.execute("SET CONSTRAINTS llm_graph_fits DEFERRED")
        cursor.execute(
            "INSERT INTO llm_model_config (model, n_layer, n_head, d_model, d_ff, n_positions, vocab) "
            "VALUES (%s, %s, %s, %s, %s, %s, %s)",
            [name, LAYERS, HEADS, width, INNER, CONTEXT, VOCAB],
        )
        cursor.executemany(
            "INSERT INTO llm_graph (model, name, op, inputs, attrs) VALUES (%s, %s, %s, %s, %s)",
            [(name, *row) for row in rows],
        )
        cursor.executemany(
            "INSERT INTO llm_param (model, name, data) VALUES (%s, %s, %b)",
            [(name, param, value) for param, value in tensors.items()],
        )
    letters(conn, name, VOCAB)


def close(got, expected, tolerance):
    assert np.shape(got) == expected.shape
    assert np.abs(got - expected).max() <= tolerance * np.abs(expected).max()


def gradients(conn, name, tokens):
    """By name, of the loss of each next token."""
    targets = [*tokens[1:], -100]
    (run,) = conn.execute("SELECT llm_trace(%s, %s::int[], %s::int[])", (name, tokens, targets)).fetchone()
    (last,) = conn.execute("SELECT max(id) FROM llm_tape WHERE run = %s", [run]).fetchone()
    conn.execute("SELECT llm_backprop(%s, %s)", (last, name))
    conn.execute("SELECT llm_accumulate_grads(%s)", [name])
    return run, dict(conn.execute("SELECT name, grad FROM llm_param WHERE model = %s", [name]))


@pytest.mark.parametrize("block", [llama, neox, neo])
def test_a_block_as_rows(conn, block):
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    torch.manual_seed(3)
    model, rows, convert = block(torch)
    model.eval()
    for parameter in model.parameters():  # larger than the initial ones, so that every part counts
        parameter.data += 0.2 * torch.randn_like(parameter)
    tensors = convert({n: p.detach().numpy() for n, p in model.named_parameters()})
    write(conn, block.__name__, model.config.hidden_size, rows, tensors)
    tokens = torch.randint(0, VOCAB, (24,)).tolist()

    expected = model(torch.tensor([tokens])).logits[0]
    found = logits(conn, block.__name__, tokens)
    close(found, expected.detach().numpy(), 2e-6)
    assert np.array_equal(logits(conn, block.__name__, tokens[:7]), found[:7])

    torch.nn.functional.cross_entropy(expected[:-1], torch.tensor(tokens[1:])).backward()
    run, grads = gradients(conn, block.__name__, tokens)
    for name, grad in convert({n: p.grad.numpy() for n, p in model.named_parameters()}).items():
        close(grads[name], grad, 1e-5)
    weights = conn.execute(
        "SELECT layer, head, query, sum(weight) FROM llm_attention_map WHERE run = %s GROUP BY 1, 2, 3", [run]
    ).fetchall()
    assert len(weights) == LAYERS * HEADS * len(tokens)
    assert all(abs(total - 1) < 1e-5 for *_, total in weights)

    wanted = tokens[:5]
    for _ in range(20):
        wanted.append(int(model(torch.tensor([wanted])).logits[0, -1].argmax()))
    query = "SELECT token_id FROM llm_generate_stream(%s::int[], 20, 0, model => %s, eos => NULL)"
    found = conn.execute(query + " ORDER BY step", (tokens[:5], block.__name__))
    assert [token for (token,) in found] == wanted[5:]
