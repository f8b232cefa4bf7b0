"""Training that keeps less for the backward pass: the same bits, PyTorch's gradients, what is refused."""

import numpy as np
import psycopg
import pytest
from helpers.any_graph import add_rows, params, write_graph
from helpers.torch_gpt2 import random_gpt2
from helpers.training import SIZE, bits, fill
from helpers.training import tokens as tokens

import pg_llm


def create(conn, options="{}", layers=3):
    conn.execute("DELETE FROM llm_model_config WHERE model = 'small'")
    conn.execute("DELETE FROM llm_train_run WHERE model = 'small'")
    conn.execute(
        "SELECT llm_create_model('small', %s, 2, 8, 16, %s, options => %s), llm_init_model('small', 1)",
        (layers, SIZE[4], options),
    )


def trained(conn, more="", steps=3):
    """The bits after some steps with dropout."""
    conn.execute(
        "SELECT llm_train('small', %s, lr_max => 0.01, warmup => 1, batch_size => 2, accumulation => 2,"
        f" dropout_p => 0.1, seed => 3{more})",
        (steps,),
    )
    return bits(conn)


def marked(conn):
    query = "SELECT array_agg(name) FROM llm_graph WHERE model = 'small' AND attrs ? 'recompute'"
    return conn.execute(query).fetchone()[0] or []


NOISE = [
    ("x", "input", [], {"shape": ["B", 4]}),
    ("y", "input", [], {"shape": ["B", 4]}),
    ("w", "param", [], {"shape": [4, 4], "init": "normal", "std": 0.5}),
    ("table", "param", [], {"shape": [5, 4], "init": "normal", "std": 0.5}),
    ("noise", "normal", [], {"shape": ["B", 4], "std": 0.3}),
    ("share", "uniform", [], {"shape": ["B", 4]}),
    ("step", "randint", [], {"shape": ["B"], "high": 5}),
    ("noisy", "add", ["x", "noise"], {}),
    ("part", "mul", ["noisy", "share"], {}),
    ("product", "matmul", ["part", "w"], {}),
    ("row", "gather_rows", ["table", "step"], {}),
    ("sum", "add", ["product", "row"], {}),
    ("value", "tanh", ["sum"], {}),
    ("loss", "mse", ["value", "y"], {}),
]
LLAMA = '{"architecture": "llama", "n_kv_head": 1'


@pytest.mark.parametrize("options", ["{", LLAMA + ", ", '{"experts": 4, '])
def test_same_bits_however_little_is_kept(conn, tokens, options):
    """Nothing again, all but the passages, within all layers or one, one node: dropout's masks come again."""
    fill(conn, "small", tokens)
    create(conn, options.rstrip(", ") + "}")
    want = trained(conn)
    assert marked(conn) == []
    create(conn, options.rstrip(", ") + "}")
    assert trained(conn, ", recompute => true") == want
    for value in ("true", "[1]", "[0, 2]"):
        create(conn, options + f'"recompute": {value}}}')
        assert trained(conn) == want
        layers = {name.split(".")[1] for name in marked(conn)}
        assert layers == ({"0", "1", "2"} if value == "true" else set(value[1:-1].split(", ")))
        outputs = {name for name in marked(conn) if name.count(".") == 1}
        assert outputs == set()  # what a layer adds to the residual stream is kept
    create(conn, options.rstrip(", ") + "}")
    conn.execute(
        "UPDATE llm_graph SET attrs = attrs || '{\"recompute\": true}' WHERE model = 'small'"
        " AND name = (SELECT max(name) FROM llm_graph WHERE model = 'small' AND op IN ('gelu', 'silu'))"
    )
    assert len(marked(conn)) == 1 and trained(conn) == want


def test_a_step_equals_pytorch_with_checkpoints(conn, tmp_path, tokens):
    """Loss, gradient norm and AdamW's first moments of one step, beside gradient checkpoints."""
    torch = pytest.importorskip("torch")
    model = random_gpt2((*SIZE[:5], {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0})).float()
    model.save_pretrained(tmp_path)
    pg_llm.load_model(conn, tmp_path, "checkpoints")
    fill(conn, "checkpoints", tokens)
    conn.execute(
        "SELECT llm_train('checkpoints', 1, lr_max => 1e-3, warmup => 0, beta1 => 0.9, dropout_p => 0,"
        " batch_size => %s, recompute => true)",
        (len(tokens),),
    )
    loss, norm = conn.execute(
        "SELECT loss, grad_norm FROM llm_train_log WHERE model = 'checkpoints' ORDER BY id DESC LIMIT 1"
    ).fetchone()
    model.double().train()
    model.gradient_checkpointing_enable()  # transformers 6: activation_checkpointing_enable
    batch = torch.tensor(tokens)
    out = model(batch[:, :-1]).logits
    theirs = torch.nn.functional.cross_entropy(out.reshape(-1, SIZE[4]), batch[:, 1:].reshape(-1))
    theirs.backward()
    square = sum((p.grad**2).sum().item() for p in model.parameters())
    assert loss == pytest.approx(theirs.item(), rel=1e-5)
    assert norm == pytest.approx(square**0.5, rel=1e-4)
    ours = dict(conn.execute("SELECT name, m FROM llm_param WHERE model = 'checkpoints'").fetchall())
    for name, p in model.named_parameters():
        gradient = ours[name.removeprefix("transformer.")] / 0.1
        assert np.abs(gradient - p.grad.numpy()).max() <= 2e-4 * max(p.grad.abs().max().item(), 1e-3), name


def test_the_run_says_so_and_continues_without(conn, tokens):
    """The argument is in llm_train_run and in the recipe; a run may continue with the other choice."""
    fill(conn, "small", tokens)
    create(conn)
    want = trained(conn, steps=4)
    create(conn)
    conn.execute("UPDATE llm_model_config SET recipe = '{\"recompute\": true}' WHERE model = 'small'")
    call = (
        "CALL llm_train_loop('small', 4, lr_max => 0.01, warmup => 1, batch_size => 2, accumulation => 2,"
        " dropout_p => 0.1, seed => 3, {})"
    )
    conn.execute(call.format("until_step => 2"))
    conn.execute(call.format("recompute => false"))
    assert bits(conn) == want
    runs = "SELECT array_agg(recompute ORDER BY run) FROM llm_train_run WHERE model = 'small'"
    assert conn.execute(runs).fetchone()[0] == [True]


def losses(conn):
    query = "SELECT array_agg(loss ORDER BY id) FROM llm_train_log WHERE model = 'small'"
    return np.array(conn.execute(query).fetchone()[0])


@pytest.mark.parametrize("options", ["{}", '{"experts": 4}'])
def test_bf16_learns_with_the_same_bits_everywhere(conn, tokens, options):
    """One set of bits on every level, not those of float32; the loss falls as it does there."""
    fill(conn, "small", tokens)
    create(conn, options)
    exact = trained(conn, steps=30)
    curve = losses(conn)
    results = set()
    for isa in ("scalar", "avx2", "avx512"):
        for threads in (1, 2):
            try:
                conn.execute(f"SET pg_llm.isa = {isa}")
            except psycopg.Error:
                continue
            create(conn, options)
            conn.execute(f"SET pg_llm.threads = {threads}")
            results.add(trained(conn, ", activations => 'bf16'", steps=30))
    conn.execute("RESET pg_llm.isa; RESET pg_llm.threads")
    assert len(results) == 1 and exact not in results
    rounded = losses(conn)
    assert rounded[0] == curve[0] and curve[-1] < curve[0] - 0.5
    assert np.abs(rounded - curve).max() <= 0.03
    runs = "SELECT array_agg(DISTINCT activations) FROM llm_train_run WHERE model = 'small'"
    assert conn.execute(runs).fetchone()[0] == ["bf16"]


def test_bf16_is_not_continued_in_float32(conn, tokens):
    """Its gradients differ, so that the same call with another choice is another run."""
    fill(conn, "small", tokens)
    create(conn)
    for more in ("activations => 'bf16', until_step => 2", "activations => 'float32'"):
        conn.execute(f"CALL llm_train_loop('small', 4, batch_size => 2, {more})")
    runs = "SELECT count(*) FROM llm_train_run WHERE model = 'small'"
    assert conn.execute(runs).fetchone()[0] == 2


@pytest.mark.parametrize("value", ["fp16", "", "BF16"])
def test_wrong_activations_are_refused(conn, tokens, value):
    fill(conn, "small", tokens)
    create(conn)
    with pytest.raises(psycopg.Error, match=f'activations is "{value}"; it must be float32 or bf16'):
        trained(conn, f", activations => '{value}'")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ('"yes"', 'recompute is "yes", expected true, or a list of layers'),
        ("1", "recompute is 1, expected true, or a list"),
        ('["0"]', "expected true, or a list"),
        ("[1.5]", "expected true, or a list"),
        ("[-1]", "expected true, or a list"),
        ("[3]", "recompute names layer 3, expected layers from 0 to 2"),
        ("[[1]]", "expected true, or a list"),
    ],
)
def test_wrong_options_are_refused(conn, value, message):
    with pytest.raises(psycopg.Error, match=message):
        create(conn, f'{{"recompute": {value}}}')


def test_random_nodes_draw_the_same_again(conn):
    """Noise and time steps of a graph, computed again in the backward pass: the same bits of every weight."""
    rng = np.random.default_rng(7)
    rows = [{"x": rng.standard_normal(4), "y": rng.standard_normal(4)} for _ in range(6)]
    add_rows(conn, "noise", rows)
    found = {}
    drawn = ["normal", "randint", "uniform"]
    for again in ([], drawn, [*drawn, "mul", "add", "tanh"]):
        write_graph(conn, "noise", NOISE)
        conn.execute(
            "UPDATE llm_graph SET attrs = attrs || '{\"recompute\": true}'"
            " WHERE model = 'noise' AND op = ANY(%s)",
            (again,),
        )
        conn.execute(
            "SELECT llm_train('noise', 4, lr_max => 0.01, warmup => 0, batch_size => 2, accumulation => 2,"
            " seed => 9, dropout_p => 0)"
        )
        found[len(again)] = {name: value.tobytes() for name, value in params(conn, "noise").items()}
    assert found[0] == found[3] == found[6]


def test_a_bf16_run_replays(conn, tokens):
    """llm_replay takes the run's own way of keeping values."""
    fill(conn, "small", tokens)
    create(conn)
    first = conn.execute("SELECT llm_checkpoint_save('small')").fetchone()[0]
    trained(conn, ", activations => 'bf16'")
    rows = conn.execute(
        "SELECT step, matches, weights_match FROM llm_replay('small', %s)", (first,)
    ).fetchall()
    assert [row[0] for row in rows] == [1, 2, 3]
    assert all(matches for _, matches, _ in rows) and rows[-1][2]


def test_wrong_attributes_are_refused(conn):
    create(conn, layers=1)
    change = "UPDATE llm_graph SET attrs = attrs || %s WHERE model = 'small' AND name = %s"
    for attrs, name, message in (
        ('{"recompute": 1}', "ln_f", "attribute recompute of layernorm must be true or false"),
        ('{"recompute": true}', "wte.weight", 'param has no attribute "recompute"'),
        ('{"recompute": true}', "tokens", 'input has no attribute "recompute"'),
    ):
        with pytest.raises(psycopg.Error, match=message):
            conn.execute(change, (attrs, name))
    for name in ("loss", "logits", "ln_f"):  # the target and what its loss computes in chunks: no effect
        conn.execute(change, ('{"recompute": true}', name))
