"""llm_create_model with experts: logits, gradients and balance loss are those of a PyTorch module."""

from __future__ import annotations

import json

import numpy as np
import psycopg
import pytest
from helpers.checkpoint_files import by_path, folder, same, stored
from helpers.tiny_model import LETTERS, letters, logits, make

torch = pytest.importorskip("torch")
functional = torch.nn.functional

__all__ = ["folder"]

SIZES = [(4, 2), (3, 1), (5, 5), (1, 1)]  # experts, experts of a token
TOKENS = [[3, 1, 4, 1, 5, 9, 2], [6, 5, 3, 5, 8, 9, 7], [9, 3, 2, 3, 8, 4, 6]]
TARGETS = [[1, 4, 1, 5, 9, 2, -1], [5, 3, 5, 8, 9, 7, 0], [3, 2, 3, 8, 4, 6, 25]]
INPUTS = json.dumps({"tokens": TOKENS, "targets": TARGETS})


def mixture(conn, model="m", experts=4, k=2, **more):
    """A mixture with random weights and biases of two layers of 12 channels."""
    conn.execute("DELETE FROM llm_model_config WHERE model = %s", [model])
    conn.execute("DELETE FROM llm_bpe_vocab WHERE model = %s", [model])
    options = json.dumps({"experts": experts, "experts_per_token": k} | more)
    make(conn, model, d_model=12, n_head=3, d_ff=20, n_positions=80, options=options)
    conn.execute(
        "UPDATE llm_param SET data = data + randn(shape(data), hashtext(name)) * 0.3::real::tensor "
        "WHERE model = %s AND (name ~ 'bias|gate' OR name LIKE '%%.mlp.c_%%')",
        [model],
    )


def weights(conn, model="m"):
    """The parameters as leaves of float64."""
    return {name: torch.from_numpy(x).double().requires_grad_() for name, x in stored(conn, model).items()}


def norm(x, w, name):
    return functional.layer_norm(x, x.shape[-1:], w[name + ".weight"], w[name + ".bias"])


def attention(x, w, h):
    B, T, C = x.shape
    qkv = x @ w[h + ".attn.c_attn.weight"] + w[h + ".attn.c_attn.bias"]
    q, k, v = qkv.reshape(B, T, 3, 3, C // 3).permute(2, 0, 3, 1, 4)
    y = functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(B, T, C)
    return y @ w[h + ".attn.c_proj.weight"] + w[h + ".attn.c_proj.bias"]


def experts(x, w, h, chosen, shares):
    """Every position goes through each of its experts alone."""
    y = torch.zeros_like(x)
    for e in range(len(w[h + ".mlp.c_fc.weight"])):
        hidden = x @ w[h + ".mlp.c_fc.weight"][e] + w[h + ".mlp.c_fc.bias"][e]
        out = functional.gelu(hidden, approximate="tanh") @ w[h + ".mlp.c_proj.weight"][e]
        share = (shares * (chosen == e)).sum(-1, keepdim=True)
        y = y + share * (out + w[h + ".mlp.c_proj.bias"][e])
    return y


def gpt2(w, tokens, k, layers=2):
    """The logits (B,T,V), and each layer's scores (B,T,E)."""
    tokens = torch.tensor(tokens)
    x = w["wte.weight"][tokens] + w["wpe.weight"][: tokens.shape[1]]
    gates = []
    for h in (f"h.{i}" for i in range(layers)):
        x = x + attention(norm(x, w, h + ".ln_1"), w, h)
        y = norm(x, w, h + ".ln_2")
        gates.append(y @ w[h + ".mlp.gate.weight"])
        best, chosen = gates[-1].topk(k)
        x = x + experts(y, w, h, chosen, best.softmax(-1))
    return norm(x, w, "ln_f") @ w["wte.weight"].T, gates


def balance(gates, k):
    """transformers' loss of each layer, added up."""
    modeling = pytest.importorskip("transformers.models.mixtral.modeling_mixtral")
    E = gates[0].shape[-1]
    return sum(modeling.load_balancing_loss_func((g.reshape(-1, E),), E, k) for g in gates)


def training_loss(w, k, coefficient):
    found, gates = gpt2(w, TOKENS, k)
    loss = functional.cross_entropy(found.flatten(0, 1), torch.tensor(TARGETS).flatten(), ignore_index=-1)
    return loss, loss + coefficient * balance(gates, k)


def close(got, expected, tolerance=3e-6, what=""):
    expected = expected.detach().numpy() if hasattr(expected, "detach") else np.asarray(expected)
    np.testing.assert_allclose(got, expected, atol=tolerance * max(1, np.abs(expected).max()), err_msg=what)


@pytest.mark.parametrize("size", SIZES)
def test_logits_and_gradients(conn, size):
    """With the coefficient of the balance loss that the options say, and no balance in llm_loss."""
    mixture(conn, "m", *size, balance_loss=0.3)
    w = weights(conn)
    close(logits(conn, "m", TOKENS), gpt2(w, TOKENS, size[1])[0])
    loss, total = training_loss(w, size[1], 0.3)
    close(conn.execute("SELECT llm_loss('m', %s::int[], %s::int[])", [TOKENS, TARGETS]).fetchone()[0], loss)
    conn.execute("SET pg_llm.autograd = on")
    query = "SELECT name, grad FROM llm_backward(llm_eval('m', 'training_loss', %s::jsonb))"
    found = dict(conn.cursor(binary=True).execute(query, [INPUTS]).fetchall())
    conn.execute("RESET pg_llm.autograd")
    total.backward()
    assert found.keys() == w.keys()
    for name, x in w.items():
        close(found[name], x.grad, 5e-6, name)
    assert size[1] == size[0] or w["h.1.mlp.gate.weight"].grad.abs().max() > 1e-3
    (value,) = conn.execute("SELECT llm_eval('m', 'training_loss', %s::jsonb)", [INPUTS]).fetchone()
    close(value, total)


def test_a_training_step_minimises_both(conn):
    """AdamW's first step of PyTorch from the gradient of the sum; the log has the loss that is minimised."""
    mixture(conn, balance_loss=2)
    w = weights(conn)
    total = training_loss(w, 2, 2)[1]
    total.backward()
    optimizer = torch.optim.AdamW(w.values(), lr=1e-3, weight_decay=0, eps=1e-3)
    optimizer.step()
    conn.execute("DELETE FROM llm_dataset WHERE dataset = 'm'")
    for tokens, targets in zip(TOKENS, TARGETS, strict=True):
        query = "INSERT INTO llm_dataset (dataset, tokens, target) VALUES ('m', %s::int[], %s::int[])"
        conn.execute(query, [tokens, targets])
    # n_steps 1 after a warm-up of 0 takes lr_max
    query = "SELECT llm_train('m', 1, lr_max => 1e-3, warmup => 0, wd => 0, eps => 1e-3, dropout_p => 0, "
    (loss,) = conn.execute(query + "batch_size => 3, dataset => 'm')").fetchone()
    close(loss, total)
    for name, x in stored(conn, "m").items():
        close(x, w[name], 2e-6, name)


def test_greedy_tokens(conn):
    """64 tokens over the cache, and in a batch, are those of PyTorch without one."""
    mixture(conn)
    w = weights(conn)
    letters_of = {prompt: [LETTERS.index(c) for c in prompt] for prompt in ("sequel", "mixtureofexp")}
    expected = {}
    with torch.no_grad():
        for prompt, tokens in letters_of.items():
            for _ in range(64):
                tokens.append(int(gpt2(w, [tokens], 2)[0][0, -1].argmax()))
            expected[prompt] = "".join(LETTERS[i] for i in tokens)
    assert all(len(set(text)) > 3 for text in expected.values())
    for prompt, text in expected.items():
        query = "SELECT token FROM llm_generate_stream(%s, 64, 0, model => 'm') ORDER BY step"
        assert prompt + "".join(token for (token,) in conn.execute(query, [prompt])) == text
    query = "SELECT text FROM llm_generate_batch(%s::text[], 64, 0, model => 'm') ORDER BY prompt"
    assert [text for (text,) in conn.execute(query, [[*expected]])] == [*expected.values()]


def test_only_chosen_experts_are_computed(conn):
    """What nobody chooses is not read: NaN there does not reach the logits."""
    mixture(conn, experts=6, k=1)
    tokens = TOKENS[0]
    before = logits(conn, "m", tokens)
    query = "SELECT array_agg(DISTINCT expert) FROM llm_routing('m', %s::int[]) WHERE layer = 0"
    (used,) = conn.execute(query, [tokens]).fetchone()
    assert 0 < len(used) < 6
    x = stored(conn, "m")["h.0.mlp.c_fc.weight"]
    x[[e for e in range(6) if e not in used]] = np.nan
    update = "UPDATE llm_param SET data = %b WHERE model = 'm' AND name = 'h.0.mlp.c_fc.weight'"
    conn.execute(update, [x])
    assert np.array_equal(before, logits(conn, "m", tokens))
    x[used[0]] = np.nan
    conn.execute(update, [x])
    assert np.isnan(logits(conn, "m", tokens)).any()


@pytest.mark.parametrize("size", SIZES)
def test_routing_as_rows(conn, size):
    """PyTorch's choices and weights, one row each."""
    mixture(conn, "m", *size)
    rows = conn.execute("SELECT * FROM llm_routing('m', %s::int[])", [TOKENS]).fetchall()
    _, gates = gpt2(weights(conn), TOKENS, size[1])
    expected = []
    for layer, gate in enumerate(gates):
        best, chosen = gate.topk(size[1])
        for (b, t, choice), expert in np.ndenumerate(chosen.numpy()):
            share = best.softmax(-1)[b, t, choice].item()
            expected.append((b, t, TOKENS[b][t], layer, choice, expert, pytest.approx(share, abs=1e-5)))
    assert sorted(rows) == sorted(expected, key=lambda row: row[:6])
    one = conn.execute("SELECT * FROM llm_routing('m', %s::int[])", [TOKENS[0]]).fetchall()
    assert one == [row for row in rows if row[0] == 0]
    conn.execute("SET pg_llm.autograd = on")
    (before,) = conn.execute("SELECT count(*) FROM llm_run").fetchone()
    conn.execute("SELECT * FROM llm_routing('m', %s::int[])", [TOKENS[0]])
    assert conn.execute("SELECT count(*) FROM llm_run").fetchone() == (before,)
    conn.execute("RESET pg_llm.autograd")


def test_routing_is_refused(conn):
    mixture(conn)
    conn.execute("DELETE FROM llm_model_config WHERE model = 'dense'")
    make(conn, "dense")
    for call, message in {
        "'dense', ARRAY[1]": 'model "dense" is no mixture of experts: its graph has no node "routing"',
        "'nobody', ARRAY[1]": 'there is no model "nobody"',
        "NULL, ARRAY[1]": "there is no model",
        "'m', NULL": "tokens must not be or contain NULL",
        "'m', ARRAY[1, NULL]": "tokens must not be or contain NULL",
        "'m', ARRAY[]::int[]": 'input "tokens" is empty',
        "'m', ARRAY[26]": "26",
        "'m', array_fill(1, ARRAY[81])": "81 tokens are more than the 80 positions",
    }.items():
        with pytest.raises(psycopg.Error, match=message):
            conn.execute(f"SELECT * FROM llm_routing({call})")


@pytest.fixture(scope="module")
def told(server, database):
    """A connection to a database with stories as a dataset, and a mixture that read some of them."""
    import pg_llm
    from pg_llm import classroom

    with pg_llm.connect(database) as conn:
        recipe = classroom.recipe()
        (vocab,) = conn.execute(
            "SELECT llm_bpe_train(%s, 2048, 'stories')", [recipe["tokenizer"]["corpus"]]
        ).fetchone()
        options = json.dumps({"experts": 4, "experts_per_token": 2})
        query = "SELECT llm_create_model('tales', 2, 2, 32, 128, %s, tokenizer => 'stories', options => %s)"
        conn.execute(query, [vocab, options])
        conn.execute("SELECT llm_init_model('tales', 1), llm_story_dataset('tales', 1, 400, 'tales')")
        yield conn


def test_trained_on_the_stories(told):
    """The loss falls, in a loop that is continued; replayed, every step has its bits; the experts share."""
    held_out = "SELECT loss FROM llm_story_loss('tales', -20, 20)"
    (before,) = told.execute(held_out).fetchone()
    call = "CALL llm_train_loop('tales', 60, lr_max => 3e-3, warmup => 5, batch_size => 8, dropout_p => 0.1"
    told.execute(call + ", until_step => 25)")
    (checkpoint,) = told.execute("SELECT llm_checkpoint_save('tales', 'at 25')").fetchone()
    told.execute(call + ")")
    (after,) = told.execute(held_out).fetchone()
    assert after < before - 2
    replayed = told.execute("SELECT step, matches FROM llm_replay('tales', %s, 60)", [checkpoint]).fetchall()
    assert replayed == [(step, True) for step in range(26, 61)]
    rows = told.execute(
        "SELECT layer, expert, kind, count(*) FROM llm_story_routing('tales', -20, 20) GROUP BY 1, 2, 3"
    ).fetchall()
    kinds = dict(told.execute("SELECT kind, tokens FROM llm_story_accuracy('tales', -20, 20)").fetchall())
    for kind, tokens in kinds.items():  # two choices in each of two layers
        of_kind = sum(n for *_, k, n in rows if k == kind)
        assert of_kind == 4 * tokens or (kind == "syntax" and 0 <= 4 * tokens - of_kind <= 4 * 20)
    total = sum(n for *_, n in rows) / 2
    for layer in (0, 1):
        shares = [sum(n for at, e, _, n in rows if (at, e) == (layer, expert)) / total for expert in range(4)]
        assert min(shares) > 0.05


def test_saved_and_loaded(conn, folder):
    """Checkpoints, files, copies of fewer bits, LoRA and the explanation know it."""
    mixture(conn, experts=3, k=2, balance_loss=0.5)
    before, values = stored(conn, "m"), logits(conn, "m", TOKENS)
    (checkpoint,) = conn.execute("SELECT llm_checkpoint_save('m', 'first')").fetchone()
    conn.execute("UPDATE llm_param SET data = data * '2' WHERE model = 'm' AND name ~ 'gate|c_fc'")
    conn.execute("SELECT llm_checkpoint_load('m', %s)", [checkpoint])
    assert same(before, stored(conn, "m"))

    conn.execute("DELETE FROM llm_model_config WHERE model IN ('again', 'm-int8', 'm-lora')")
    conn.execute("SELECT pg_llm_export_safetensors(%s, 'm')", [str(folder)])
    by_path(conn, folder, "again")
    assert same(before, stored(conn, "again")) and np.array_equal(values, logits(conn, "again", TOKENS))
    query = "SELECT name, op, inputs, attrs FROM llm_graph WHERE model = %s ORDER BY id"
    assert conn.execute(query, ["m"]).fetchall() == conn.execute(query, ["again"]).fetchall()

    notices = []
    conn.add_notice_handler(lambda notice: notices.append(notice.message_primary))
    conn.execute("SELECT llm_quantize('m', 'int8')")
    assert notices == ['the experts of model "m" stay float32: expert_matmul reads no other format']
    changed = {name for name, x in stored(conn, "m-int8").items() if not np.array_equal(x, before[name])}
    assert "h.0.attn.c_attn.weight" in changed and not any(".mlp.c_" in name for name in changed)

    conn.execute("SELECT llm_lora_add('m', 'm-lora', rank => 2)")
    assert np.array_equal(values, logits(conn, "m-lora", TOKENS))
    parts = "SELECT op, node FROM llm_explain('m', 'abc') WHERE phase = 'decode'"
    assert ("expert_matmul", "h.*.mlp.c_fc.matmul") in conn.execute(parts).fetchall()


# options, and what the error says
REFUSED = {
    '{"experts": 0}': "experts is 0, expected a whole number from 1 to 4096",
    '{"experts": -4}': "experts is -4, expected",
    '{"experts": 4.5}': "experts is 4.5, expected a whole number",
    '{"experts": 1e30}': "experts is 10*, expected a whole number from 1 to 4096",
    '{"experts": "four"}': 'experts is "four", expected a whole number',
    '{"experts": true}': "experts is true, expected a whole number",
    '{"experts": [4]}': r"experts is \[4\], expected a whole number",
    '{"experts": "NaN"}': 'experts is "NaN", expected',
    '{"experts": 4, "experts_per_token": 5}': "experts_per_token is 5, expected a whole number from 1 to 4",
    '{"experts": 4, "experts_per_token": 0}': "experts_per_token is 0, expected a whole number from 1",
    '{"experts": 4, "experts_per_token": "2"}': 'experts_per_token is "2", expected a whole number',
    '{"experts": 4, "balance_loss": -1}': "balance_loss is -1, expected a number from 0 to 1000",
    '{"experts": 4, "balance_loss": 1e400}': "balance_loss is 10*, expected a number from 0 to 1000",
    '{"experts": 4, "balance_loss": "NaN"}': 'balance_loss is "NaN", expected a number',
    '{"experts_per_token": 2}': "experts_per_token without experts",
    '{"balance_loss": 0.1, "experts_per_token": 2}': "balance_loss and experts_per_token without experts",
    '{"experts": 4, "architecture": "llama"}': 'the MLPs of "llama" cannot be mixtures of experts',
}


@pytest.mark.parametrize("options", REFUSED)
def test_options_are_refused(conn, options):
    """With what was expected, and nothing is written."""
    with pytest.raises(psycopg.Error, match=f'model "bad": {REFUSED[options]}'):
        conn.execute("SELECT llm_create_model('bad', 2, 2, 8, 16, 26, options => %s)", [options])
    for table in ("llm_model_config", "llm_graph", "llm_model_version"):
        (n,) = conn.execute(f"SELECT count(*) FROM {table} WHERE model = 'bad'").fetchone()
        assert n == 0


def test_sizes_are_refused(conn):
    for size, message in {
        "0, 2, 8, 16, 26": "a model without layers has no MLP",
        "500, 2, 8, 16, 26": "nodes",
    }.items():
        with pytest.raises(psycopg.Error, match=message):
            conn.execute(f"SELECT llm_create_model('bad', {size}, options => '{{\"experts\": 4}}')")


def test_defaults(conn):
    """Two experts a token where there are two; options that are null are absent; calling again is allowed."""
    letters(conn, "unused", 1)
    for options, k in {
        '{"experts": 8}': 2,
        '{"experts": 1}': 1,
        '{"experts": null, "balance_loss": null}': None,
    }.items():
        for _ in range(2):
            conn.execute("SELECT llm_create_model('d', 1, 2, 8, 16, 26, options => %s)", [options])
        query = "SELECT (attrs ->> 'k')::int FROM llm_graph WHERE model = 'd' AND name = 'h.0.mlp.chosen'"
        found = conn.execute(query).fetchone()
        assert found == (None if k is None else (k,))
        conn.execute("DELETE FROM llm_model_config WHERE model = 'd'")
