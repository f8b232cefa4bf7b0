"""The executor against PyTorch: logits and loss of odd-sized GPT-2s; trained models on their tasks."""

import base64
import json
import math

import numpy as np
import pytest
from helpers.torch_gpt2 import random_gpt2

import pg_llm

# Arguments of random_gpt2.
SIZES = [
    (1, 1, 1, 1, 1, {}),
    (1, 1, 7, 5, 3, {}),
    (2, 3, 33, 17, 101, {"tie_word_embeddings": False}),
    (3, 7, 70, 200, 257, {"activation_function": "gelu"}),
    (5, 5, 40, 130, 64, {"activation_function": "relu", "n_inner": 50}),
    (2, 2, 260, 300, 65, {"layer_norm_epsilon": 1e-3}),
]


def torch_logits(model, tokens, dtype=None):
    import torch

    with torch.no_grad():
        return (model.to(dtype) if dtype else model)(torch.tensor(tokens)).logits.double().numpy()


def logits(conn, tokens, model):
    return conn.execute("SELECT llm_logits(%s::int[], %s)", (tokens, model)).fetchone()[0]


@pytest.mark.parametrize("size", SIZES, ids=lambda s: "x".join(map(str, s[:5])))
def test_logits_equal_pytorch(conn, tmp_path, size):
    torch = pytest.importorskip("torch")
    model = random_gpt2(size)
    model.save_pretrained(tmp_path)
    pg_llm.load_model(conn, tmp_path, f"odd_{SIZES.index(size)}")
    n_positions, vocab = size[3], size[4]
    rng = np.random.default_rng(1)
    for T in sorted({1, min(2, n_positions), (n_positions + 1) // 2, n_positions}):
        tokens = rng.integers(0, vocab, (2, T)).tolist()
        ours = logits(conn, tokens, f"odd_{SIZES.index(size)}")
        theirs = torch_logits(model, tokens)
        assert ours.shape == theirs.shape == (2, T, vocab)
        assert np.abs(ours - theirs).max() <= 2e-5 * np.abs(theirs).max()
        if T > 1:
            loss = conn.execute(
                "SELECT llm_loss(%s, %s::int[], %s::int[])",
                (f"odd_{SIZES.index(size)}", [t[:-1] for t in tokens], [t[1:] for t in tokens]),
            ).fetchone()[0]
            expected = torch.nn.functional.cross_entropy(
                torch.tensor(theirs[:, :-1].reshape(-1, vocab)),
                torch.tensor([t[1:] for t in tokens]).reshape(-1),
            ).item()
            assert loss == pytest.approx(expected, rel=1e-5, abs=1e-6)


@pytest.mark.slow
def test_gpt2_small_is_as_exact_as_pytorch(conn, tmp_path):
    """Root-mean-square error against float64 no larger than PyTorch's own, maximum error within 2e-5."""
    torch = pytest.importorskip("torch")
    model = random_gpt2((12, 12, 768, 1024, 50257, {}))
    for parameter in model.parameters():
        parameter.data *= 0.02 / (1.5 / 768**0.5)
    model.save_pretrained(tmp_path)
    pg_llm.load_model(conn, tmp_path, "gpt2_random")
    tokens = np.random.default_rng(2).integers(0, 50257, 96).tolist()
    ours = logits(conn, tokens, "gpt2_random")
    single = torch_logits(model, [tokens])[0]
    exact = torch_logits(model, [tokens], torch.float64)[0]
    rms_ours, rms_torch = (float(np.sqrt(((x - exact) ** 2).mean())) for x in (ours, single))
    print(f"rms error against float64: {rms_ours:.3g}, PyTorch {rms_torch:.3g}")
    assert rms_ours <= rms_torch
    assert np.abs(ours - single).max() <= 2e-5 * np.abs(single).max()


# ---- models trained elsewhere: their README gives the expected results ----


@pytest.fixture(scope="module")
def trained(server, shared, database):
    with pg_llm.connect(database) as conn:
        for name in ("gpt-nano-sort", "gpt-nano-adder-a", "makemore-names-a", "slm-4096"):
            pg_llm.load_model(conn, shared / "data" / "models" / name, name)
        for name, first in (("makemore-names-a", 1), ("slm-4096", 0)):
            characters(conn, shared / "data" / "models" / name, name, first)
    return shared / "data" / "models"


def characters(conn, folder, model, first):
    """A vocabulary of single characters; GPT-2's text form writes some bytes as other characters."""
    chars = json.loads((folder / "chars.json").read_text())["chars"]
    visible = {ord(c): c for c in map(chr, [*range(33, 127), *range(161, 173), *range(174, 256)])}
    hidden = iter(range(256, 512))
    form = {b: visible[b] if b in visible else chr(next(hidden)) for b in range(256)}
    for i, c in enumerate(chars):
        token = "".join(form[b] for b in c.encode())
        conn.execute(
            "INSERT INTO llm_bpe_vocab (model, token_id, token, bytes) VALUES (%s, %s, %s, %s)",
            (model, i + first, token, c.encode()),
        )
    if first:
        conn.execute("INSERT INTO llm_bpe_vocab VALUES (%s, 0, '<end>', '<end>')", (model,))
    return chars


def test_sort_every_sequence(conn, trained):
    """Greedy decoding continues every length-6 sequence over {0,1,2} with its sorted self."""
    right = conn.execute(
        """
        WITH RECURSIVE texts(tokens, start) AS (
            SELECT ARRAY[n / 243 %% 3, n / 81 %% 3, n / 27 %% 3, n / 9 %% 3, n / 3 %% 3, n %% 3],
                   ARRAY[n / 243 %% 3, n / 81 %% 3, n / 27 %% 3, n / 9 %% 3, n / 3 %% 3, n %% 3]
            FROM generate_series(0, 728) AS n
            UNION ALL
            SELECT tokens || argmax(slice(llm_logits(tokens, 'gpt-nano-sort'), cardinality(tokens) - 1,
                cardinality(tokens)), 1)::int[], start
            FROM texts WHERE cardinality(tokens) < 12)
        SELECT count(*) FILTER (WHERE tokens[7:12]
                = (SELECT array_agg(x ORDER BY x) FROM unnest(start) AS x)),
            count(*)
        FROM texts WHERE cardinality(tokens) = 12
        """.replace("%%", "%")
    ).fetchone()
    assert right == (729, 729)


# the names of the published values and of our nodes; of the first block if blocks repeat
PARTIALS = {
    "tok_emb": "wte", "x": "drop", "ln1": "h.0.ln_1", "qkv": "h.0.attn.c_attn", "y": "h.0.attn.heads",
    "yProj": "h.0.attn.c_proj", "attnResid": "h.0.attn.residual", "ln2": "h.0.ln_2", "fc": "h.0.mlp.c_fc",
    "gelu": "h.0.mlp.act", "mlp": "h.0.mlp.c_proj", "mlpResid": "h.0", "block0": "h.0", "block1": "h.1",
    "block2": "h.2", "ln_f": "ln_f", "lm_head": "logits",
}  # fmt: skip


def test_sort_intermediate_values(conn, trained):
    """Every node is within 4e-6 of published values from PyTorch."""
    reference = json.loads((trained / "gpt-nano-sort" / "reference_partials.json").read_text())

    def partial(name):
        data = np.frombuffer(base64.b64decode(reference[name]["data"]), "<f4")
        return data.reshape(reference[name]["shape"])

    inputs = json.dumps({"tokens": partial("idx").astype(int).tolist()})
    for theirs, node in PARTIALS.items():
        query = "SELECT llm_eval('gpt-nano-sort', %s, %s::jsonb)"
        ours = conn.execute(query, (node, inputs)).fetchone()[0]
        assert ours.shape == partial(theirs).shape, node
        assert np.abs(ours - partial(theirs)).max() <= 4e-6 * max(1, np.abs(partial(theirs)).max()), node


def test_adder(conn, trained):
    rng = np.random.default_rng(3)
    pairs = rng.integers(0, 100, (400, 2))
    tokens = np.array([[a // 10, a % 10, b // 10, b % 10] for a, b in pairs])
    for _ in range(3):
        out = logits(conn, tokens.tolist(), "gpt-nano-adder-a")
        tokens = np.concatenate([tokens, out[:, -1].argmax(-1)[:, None]], axis=1)
    answers = tokens[:, 4] + 10 * tokens[:, 5] + 100 * tokens[:, 6]
    assert (answers == pairs.sum(1)).all()


@pytest.mark.slow
def test_names(conn, trained):
    """Mean loss 1.80 nats per token over the corpus of 32,000 names."""
    chars = json.loads((trained / "makemore-names-a" / "chars.json").read_text())["chars"]
    names = (trained / "makemore-names-a" / "corpus.txt").read_text().split()
    assert len(names) > 30000
    tokens = np.zeros((len(names), 16), int)
    targets = np.full((len(names), 16), -1)
    for i, name in enumerate(names):
        ids = [chars.index(c) + 1 for c in name]
        tokens[i, 1 : len(ids) + 1] = ids
        targets[i, : len(ids) + 1] = [*ids, 0]
    total = 0
    for i in range(0, len(names), 4000):
        some = slice(i, i + 4000)
        query = "SELECT llm_loss('makemore-names-a', %s::int[], %s::int[])"
        (loss,) = conn.execute(query, (tokens[some].tolist(), targets[some].tolist())).fetchone()
        total += loss * (targets[some] >= 0).sum()
    assert total / (targets >= 0).sum() == pytest.approx(1.80, abs=0.01)


def test_slm_recites(conn, trained):
    corpus = (trained / "slm-4096" / "corpus.txt").read_text()
    text = conn.execute("SELECT llm_generate('Q: What is SLM?', 100, 0, model => 'slm-4096')").fetchone()[0]
    assert text == corpus[corpus.index("Q: What is SLM?") :][: len(text)]
    chars = json.loads((trained / "slm-4096" / "chars.json").read_text())["chars"]
    ids = [chars.index(c) for c in corpus]
    windows = [ids[i : i + 129] for i in range(0, len(ids) - 129, 128)]
    loss = conn.execute(
        "SELECT llm_loss('slm-4096', %s::int[], %s::int[])",
        ([w[:-1] for w in windows], [w[1:] for w in windows]),
    ).fetchone()[0]
    assert loss == pytest.approx(0.07, abs=0.02)


def test_loss_of_uniform_logits(conn):
    conn.execute("SELECT llm_create_model('flat', 0, 1, 4, 8, 10)")
    conn.execute("SELECT llm_init_model('flat', 0)")
    conn.execute(
        "UPDATE llm_param SET data = zeros(shape(data)) WHERE model = 'flat' AND name = 'wte.weight'"
    )
    (loss,) = conn.execute("SELECT llm_loss('flat', ARRAY[1,2,3], ARRAY[2,3,-1])").fetchone()
    assert loss == pytest.approx(math.log(10), rel=1e-6)
