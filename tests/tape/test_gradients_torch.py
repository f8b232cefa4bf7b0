"""Gradients of every parameter of random GPT-2s against PyTorch: as close to float64 as float32 permits."""

from __future__ import annotations

import numpy as np
import pytest

import pg_llm

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

# vocabulary, positions, channels, layers, feed-forward width, heads, batch, length; all models differ
MODELS = {
    "tiny": ((11, 7, 6, 1, 10, 3, 1, 5), {}),
    "batch": ((37, 24, 20, 2, 48, 5, 3, 17), {}),
    "long": ((101, 150, 36, 2, 50, 4, 2, 141), {"activation_function": "gelu"}),
    "separate": ((53, 33, 24, 3, 7, 1, 2, 33), {"tie_word_embeddings": False, "activation_function": "relu"}),
    "one": ((5, 3, 4, 1, 1, 4, 1, 1), {}),
}


# Rows that replace ln_f by another norm: the root mean square, with the halves of channels swapped.
OTHER_NORM = """
    INSERT INTO llm_graph (model, name, op, inputs, attrs) VALUES
        ('other', 'square', 'mul', '{h.1,h.1}', '{}'),
        ('other', 'mean', 'mean', '{square}', '{"axis": -1}'),
        ('other', 'root', 'sqrt', '{mean}', '{}'),
        ('other', 'column', 'reshape', '{root}', '{"shape": ["B", "T", 1]}'),
        ('other', 'unit', 'div', '{h.1,column}', '{}'),
        ('other', 'first', 'slice', '{unit}', '{"starts": [0, 0, 0], "stops": [null, null, 10]}'),
        ('other', 'second', 'slice', '{unit}', '{"starts": [0, 0, -10], "stops": [null, null, null]}'),
        ('other', 'turned', 'concat', '{second,first}', '{"axis": 2}')
"""


class OtherNorm(torch.nn.Module):
    def __init__(self, weight):
        super().__init__()
        self.weight = weight

    def forward(self, x):
        unit = x / (x * x).mean(-1, keepdim=True).sqrt()
        return torch.cat([unit[..., 10:], unit[..., :10]], -1) * self.weight


def make(name: str):
    """A PyTorch GPT-2 in float32, with weights large enough to matter; its tokens and targets."""
    (vocab, positions, channels, layers, width, heads, texts, length), options = MODELS[name]
    config = transformers.GPT2Config(
        vocab_size=vocab,
        n_positions=positions,
        n_embd=channels,
        n_layer=layers,
        n_inner=width,
        n_head=heads,
        bos_token_id=0,
        eos_token_id=0,
        attn_implementation="eager",
        **options,
    )
    torch.manual_seed(len(name))
    model = transformers.GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.15)
    tokens = torch.randint(vocab, (texts, length))
    targets = torch.randint(vocab, (texts, length))
    targets[:, 1::5] = -100
    return model, tokens, targets


def theirs(model, tokens, targets) -> tuple[float, dict[str, np.ndarray]]:
    """Loss and gradients by autograd, in float64."""
    model.zero_grad()
    logits = model(tokens).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
    loss.backward()
    grads = {
        name.removeprefix("transformer."): p.grad.double().numpy() for name, p in model.named_parameters()
    }
    return loss.item(), grads


def ours(conn, name, tokens, targets) -> tuple[float, dict[str, np.ndarray]]:
    """The same by a trace, its backward pass, and llm_param.grad."""
    (run,) = conn.execute(
        "SELECT llm_trace(%s, %s::int[], %s::int[])", (name, tokens.tolist(), targets.tolist())
    ).fetchone()
    (last,) = conn.execute("SELECT max(id) FROM llm_tape WHERE run = %s", (run,)).fetchone()
    conn.execute("SELECT llm_backprop(%s, %s)", (last, name))
    conn.execute("SELECT llm_accumulate_grads(%s)", (name,))
    (loss,) = conn.execute("SELECT data FROM llm_tensor_rt WHERE id = %s", (last,)).fetchone()
    rows = conn.execute("SELECT name, grad FROM llm_param WHERE model = %s", (name,)).fetchall()
    return float(loss), {row[0]: np.asarray(row[1], float) for row in rows}


def test_gradients_of_every_parameter(conn, tmp_path):
    """Within 1e-5 of each tensor's norm, and overall no further from float64 than PyTorch's float32."""
    torch.set_num_threads(1)  # with tensors this small, threads cost more time than they save
    mine, other = 0.0, 0.0  # squared errors
    for name in MODELS:
        model, tokens, targets = make(name)
        model.save_pretrained(tmp_path / name)
        pg_llm.load_model(conn, tmp_path / name, name)
        _, single = theirs(model, tokens, targets)
        exact_loss, exact = theirs(model.double(), tokens, targets)
        loss, grads = ours(conn, name, tokens, targets)
        assert abs(loss - exact_loss) <= 1e-5
        assert grads.keys() == exact.keys()
        for parameter, truth in exact.items():
            assert grads[parameter].shape == truth.shape
            error = np.linalg.norm(grads[parameter] - truth)
            assert error <= 1e-5 * np.linalg.norm(truth), (name, parameter, error / np.linalg.norm(truth))
            mine += error**2
            other += np.linalg.norm(single[parameter] - truth) ** 2
    assert mine <= other


def test_gradients_of_a_graph_changed_by_rows(conn, tmp_path):
    """Another architecture, written as rows, is differentiated and trained as in PyTorch."""
    model, tokens, targets = make("batch")
    model.save_pretrained(tmp_path)
    pg_llm.load_model(conn, tmp_path, "other")
    model.transformer.ln_f = OtherNorm(model.transformer.ln_f.weight)
    with conn.transaction():
        conn.execute("SET CONSTRAINTS ALL DEFERRED")
        conn.execute(OTHER_NORM)
        conn.execute("DELETE FROM llm_graph WHERE model = 'other' AND name = 'ln_f.bias'")
        conn.execute(
            "UPDATE llm_graph SET op = 'mul', inputs = '{turned,ln_f.weight}', attrs = '{}'"
            " WHERE model = 'other' AND name = 'ln_f'"
        )
    exact_loss, exact = theirs(model.double(), tokens, targets)
    loss, grads = ours(conn, "other", tokens, targets)
    assert abs(loss - exact_loss) <= 1e-5
    for parameter, truth in exact.items():
        assert np.linalg.norm(grads[parameter] - truth) <= 1e-5 * np.linalg.norm(truth), parameter
