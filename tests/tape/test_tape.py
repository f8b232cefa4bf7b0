"""A traced model as rows: every tensor with its name, gradients to llm_param, views."""

import time

import numpy as np
import psycopg
import pytest
from helpers.recording import TARGETS, TOKENS, close, grads, m, on, tensors, trace
from helpers.tiny_model import gpt2, ids, make, params
from helpers.torch_gpt2 import random_gpt2

import pg_llm

__all__ = ["m", "on"]  # fixtures

MODES = [("scalar", 1), ("scalar", 2), ("avx2", 1), ("avx512", 2)]


def loss(conn, model="m", tokens=TOKENS, targets=TARGETS):
    query = "SELECT llm_loss(%s, %s::int[], %s::int[])"
    return conn.execute(query, (model, tokens, targets)).fetchone()[0]


def by_hand(conn, model="m", tokens=TOKENS, targets=TARGETS):
    """The sequence of a learner: on, loss, off, backward pass, into llm_param.grad."""
    conn.execute("UPDATE llm_autograd_mode SET flag = true")
    value = loss(conn, model, tokens, targets)
    conn.execute("UPDATE llm_autograd_mode SET flag = false")
    conn.execute("SELECT llm_backprop((SELECT max(id) FROM llm_tape), %s)", (model,))
    conn.execute("SELECT llm_accumulate_grads(%s)", (model,))
    return value


def test_a_trace_holds_every_tensor(m):
    """Values under the graph's names, equal to NumPy's; parameters refer to llm_param."""
    run = trace(m)
    kept = tensors(m, run)
    nodes = m.execute("SELECT name, op FROM llm_graph WHERE model = 'm'").fetchall()
    assert {name for name, op in nodes if op != "param"} <= set(kept)
    mapped = m.execute(
        "SELECT m.name, r.data IS NULL AND r.requires_grad, m.model FROM llm_tensor_map m "
        "JOIN llm_tensor_rt r USING (id) WHERE m.run = %s",
        (run,),
    ).fetchall()
    assert sorted(mapped) == sorted((name, True, "m") for name, op in nodes if op == "param")
    expected = gpt2(params(m, "m"), TOKENS, 2)
    assert np.allclose(kept["logits"][0], expected, atol=1e-4)
    for layer in range(2):
        heads = f"h.{layer}.attn.heads"
        scores, probs = kept[f"{heads}.scores"], kept[f"{heads}.probs"]
        assert scores.shape == probs.shape == (1, 2, 8, 8)
        assert np.allclose(probs.sum(-1), 1, atol=1e-6) and (np.triu(probs[0, 0], 1) == 0).all()
        q, k, v = kept[f"h.{layer}.attn.c_attn"].reshape(8, 3, 2, 4).transpose(1, 2, 0, 3)
        seen = np.tril(np.ones((8, 8), bool))
        assert np.allclose(scores[0][:, seen], (q @ k.transpose(0, 2, 1) / 2)[:, seen], atol=1e-5)
        for head in range(2):
            assert np.allclose(kept[f"{heads}.head.{head}"][0], probs[0, head] @ v[head], atol=1e-5)
            assert (kept[f"{heads}.head.{head}"][0] == kept[heads][0, :, head * 4 : head * 4 + 4]).all()
    row = m.execute(
        "SELECT model, kind, tokens, who, pid = pg_backend_pid(), open FROM llm_run WHERE run = %s", (run,)
    ).fetchone()
    assert row == ("m", "trace", TOKENS, "postgres", True, False)


def test_ids_and_order(m):
    """Ids are run * 1000000 + n, an operation's id is its first result's, and inputs precede it."""
    run = trace(m)
    rows = m.execute("SELECT id, inputs, outputs FROM llm_tape WHERE run = %s ORDER BY id", (run,)).fetchall()
    assert all(id == outputs[0] and max(inputs) < id for id, inputs, outputs in rows)
    made = sorted(i for _, _, outputs in rows for i in outputs)
    leaves = [
        i for (i,) in m.execute("SELECT id FROM llm_tensor_rt WHERE run = %s", (run,)) if i not in set(made)
    ]
    assert sorted(made + leaves) == [run * 1000000 + n for n in range(1, len(made) + len(leaves) + 1)]
    assert m.execute("SELECT max(id) FROM llm_tape").fetchone()[0] == rows[-1][0]
    assert trace(m, targets=None) == run + 1
    last = m.execute("SELECT op, node FROM llm_tape ORDER BY id DESC LIMIT 1").fetchone()
    assert last == ("matmul", "logits")


@pytest.mark.parametrize("isa, threads", MODES)
def test_tracing_changes_no_bit(m, isa, threads):
    """Logits, loss and inner nodes with recording on and off, in batches too."""
    try:
        m.execute(f"SET pg_llm.isa = {isa}; SET pg_llm.threads = {threads}")
    except psycopg.errors.InvalidParameterValue:
        pytest.skip(f"this machine has no {isa}")
    batch, after = [TOKENS, ids("abcdefgh")], [TARGETS, ids("bcdefghi")]

    def everything():
        rows = [
            m.execute("SELECT md5(llm_logits(%s::int[], 'm')::bytea)", (batch,)).fetchone(),
            m.execute("SELECT md5(llm_logits(%s::int[], 'm')::bytea), shape(llm_logits(%s::int[], 'm'))",
                      (TOKENS, TOKENS)).fetchone(),
            m.execute("SELECT md5(llm_eval('m', 'h.1', %s)::bytea)", ('{"tokens": [1, 2]}',)).fetchone(),
            m.execute("SELECT md5(llm_eval('m', 'wte.weight', NULL)::bytea)").fetchone(),
            loss(m, tokens=batch, targets=after),
        ]  # fmt: skip
        return rows

    plain = everything()
    m.execute("UPDATE llm_autograd_mode SET flag = true")
    assert everything() == plain
    m.execute("UPDATE llm_autograd_mode SET flag = false")
    run = trace(m, tokens=batch, targets=after)
    query = "SELECT data FROM llm_tensor_rt WHERE run = %s AND name = 'loss'"
    assert np.float32(m.execute(query, (run,)).fetchone()[0]) == np.float32(plain[-1])
    m.execute("RESET pg_llm.isa; RESET pg_llm.threads")


@pytest.mark.slow
@pytest.mark.parametrize(
    "size", [(2, 3, 33, 17, 101, {}), (1, 1, 7, 9, 31, {"tie_word_embeddings": False})], ids=str
)
def test_gradients_equal_pytorch(m, tmp_path, size):
    """Every parameter's gradient in llm_param.grad, with tied and separate heads, against PyTorch."""
    torch = pytest.importorskip("torch")
    model = random_gpt2(size).train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    model.save_pretrained(tmp_path)
    pg_llm.load_model(m, tmp_path, "n")
    rng = np.random.default_rng(1)
    tokens, targets = rng.integers(0, size[4], (2, 2, size[3] - 2))
    targets[1, :3] = -100
    value = by_hand(m, "n", tokens.tolist(), targets.tolist())
    out = model(torch.tensor(tokens)).logits
    expected = torch.nn.functional.cross_entropy(out.reshape(-1, size[4]), torch.tensor(targets).reshape(-1))
    expected.backward()
    assert value == pytest.approx(expected.item(), rel=1e-5)
    ours = grads(m, "n")
    theirs = {name.removeprefix("transformer."): p.grad for name, p in model.named_parameters()}
    assert set(ours) == set(theirs)
    for name, grad in theirs.items():
        close(ours[name], grad)


def test_gradients_are_those_of_training(m):
    """The norm by which llm_train clips is the norm of these gradients, to the last bit of its float64."""
    by_hand(m)
    m.execute("DELETE FROM llm_dataset WHERE dataset = 'tape'")
    m.execute(
        "INSERT INTO llm_dataset (dataset, tokens, target) VALUES ('tape', %s::int[], %s::int[])",
        (TOKENS, TARGETS),
    )
    before = {name: np.asarray(data, np.float32) for name, data in params(m, "m").items()}
    g = grads(m)
    lr, eps = 0.25, 1e-8
    # a first AdamW step moves each weight by lr * g / (|g| + eps): the gradient's bits show in m
    m.execute(
        "SELECT llm_train_step('m', (SELECT max(id) FROM llm_dataset WHERE dataset = 'tape'), lr_max => %s, "
        "beta1 => 0.5, wd => 0, dropout_p => 0, eps => %s)",
        (lr, eps),
    )
    moments = dict(m.execute("SELECT name, m FROM llm_param WHERE model = 'm'").fetchall())
    assert set(moments) == set(g)
    for name, moment in moments.items():
        assert np.array_equal(np.asarray(moment), g[name] * np.float32(0.5)), name
        assert before[name].shape == g[name].shape


def test_accumulating(m):
    """Gradients of successive losses accumulate in llm_param.grad, each once; llm_zero_grad resets them."""
    batches = [(TOKENS, TARGETS), (ids("lazydogs"), ids("azydogsy"))]
    single = []
    for tokens, targets in batches:
        m.execute("UPDATE llm_param SET grad = NULL")
        by_hand(m, "m", tokens, targets)
        single.append(grads(m))
    m.execute("UPDATE llm_param SET grad = NULL")
    for tokens, targets in batches:
        by_hand(m, "m", tokens, targets)
    both = grads(m)
    for name in both:
        assert np.array_equal(both[name], single[0][name] + single[1][name]), name
    # the same in one run: two losses, two backward passes, one accumulation
    m.execute("UPDATE llm_param SET grad = NULL")
    m.execute("UPDATE llm_autograd_mode SET flag = true")
    for tokens, targets in batches:
        loss(m, "m", tokens, targets)
    run = m.execute("SELECT llm_open_run()").fetchone()[0]
    m.execute("UPDATE llm_autograd_mode SET flag = false")
    losses = m.execute(
        "SELECT id FROM llm_tape WHERE run = %s AND node = 'loss' ORDER BY id", (run,)
    ).fetchall()
    assert len(losses) == 2
    leaves = m.execute(
        "SELECT count(*), count(DISTINCT name) FROM llm_tensor_map WHERE run = %s", (run,)
    ).fetchone()
    assert leaves[0] == leaves[1]  # one leaf per parameter, however often it is read
    for id in losses:
        m.execute("SELECT llm_backprop(%s, 'm')", id)
    m.execute("SELECT llm_backprop(%s, 'm')", losses[0])  # again: a notice, nothing is added
    assert m.execute("SELECT llm_accumulate_grads('m')").fetchone()[0] == len(both)
    for name, grad in grads(m).items():
        assert np.array_equal(grad, both[name]), name
    notices = []
    m.add_notice_handler(lambda n: notices.append((n.message_primary, n.message_hint)))
    assert m.execute("SELECT llm_accumulate_grads('m', 2)").fetchone()[0] == 0
    assert "no gradient of model" in notices[0][0] and "llm_backprop" in notices[0][1]
    # accumulated gradients can be computed again, and count again
    m.execute("SELECT llm_backprop(%s, 'm')", losses[0])
    m.execute("SELECT llm_accumulate_grads('m')")
    for name, grad in grads(m).items():
        assert np.array_equal(grad, both[name] + single[0][name]), name


def test_shared_parameters_gather_in_their_source(m):
    """Two models with a shared embedding: the source's row receives the gradients of both."""
    make(m, "n", seed=2)
    m.execute("SELECT llm_share_param('m', 'wte.weight', 'n', 'wte.weight')")
    single = []
    for model in "mn":
        m.execute("UPDATE llm_param SET grad = NULL")
        by_hand(m, model)
        single.append(grads(m)["wte.weight"])
        assert "wte.weight" not in grads(m, "n")
    m.execute("UPDATE llm_param SET grad = NULL")
    for model in "mn":
        by_hand(m, model)
    assert np.array_equal(grads(m)["wte.weight"], single[0] + single[1])
    assert (single[0] != single[1]).any()


def test_materialised_parameters(m):
    """A model's weights as leaves: an expression over llm_tensor produces gradients in llm_param."""
    assert m.execute("SELECT count(*) FROM llm_tensor").fetchone()[0] == 0
    m.execute("UPDATE llm_autograd_mode SET flag = true")
    n = m.execute("SELECT llm_materialize_params('m')").fetchone()[0]
    assert m.execute("SELECT llm_materialize_params('m')").fetchone()[0] == n
    rows = m.execute(
        "SELECT t.name, t.data = p.data FROM llm_tensor t JOIN llm_param p USING (model, name)"
    ).fetchall()
    assert len(rows) == n and all(same for _, same in rows)
    loss_of = """(WITH w AS MATERIALIZED (SELECT data FROM llm_tensor WHERE name = 'wte.weight')
        SELECT mean(pg_llm_embedding(ARRAY[3, 5], data) @ transpose(data)) FROM w)"""
    ((name, grad),) = m.execute(f"SELECT name, grad FROM llm_backward({loss_of})").fetchall()
    w = params(m, "m")["wte.weight"]
    expected = np.zeros_like(w)
    expected[[3, 5]] += w.sum(0) / (2 * len(w))
    expected += w[[3, 5]].sum(0) / (2 * len(w))
    assert name == "wte.weight"
    close(np.asarray(grad), expected)
    # the backward pass closed the run and returned its gradients: none waits
    assert m.execute("SELECT count(*) FROM llm_tensor").fetchone()[0] == 0
    assert m.execute("SELECT llm_accumulate_grads('m')").fetchone()[0] == 0
    m.execute("SELECT llm_materialize_params('m')")
    m.execute(f"SELECT {loss_of}")
    m.execute("SELECT llm_backprop((SELECT max(id) FROM llm_tape), 'm')")
    assert m.execute("SELECT llm_accumulate_grads('m')").fetchone()[0] == 1
    close(grads(m)["wte.weight"], expected)
    m.execute("UPDATE llm_autograd_mode SET flag = false")


def test_mapped_values(m):
    """A value mapped to a parameter, or to one of its rows, sends its gradient there."""
    m.execute("UPDATE llm_autograd_mode SET flag = true")
    row = "pg_llm_autograd_map_param('m', 'wte.weight', 4, slice(data, 4, 5), ARRAY[8])"
    whole = "pg_llm_autograd_map_param('m', 'ln_f.bias', NULL, '[[1,2,3,4,5,6,7,8]]'::tensor, ARRAY[8])"
    product = f"""(SELECT tensor_sum(({row} + {row}) * {whole}) FROM llm_param
        WHERE model = 'm' AND name = 'wte.weight')"""
    got = {name: np.asarray(grad) for name, grad in m.execute(f"SELECT * FROM llm_backward({product})")}
    assert set(got) == {"wte.weight[4]", "ln_f.bias"}
    m.execute(f"SELECT {product}")
    m.execute("SELECT llm_backprop((SELECT max(id) FROM llm_tape), 'm')")
    assert m.execute("SELECT llm_accumulate_grads('m')").fetchone()[0] == 2
    wte = params(m, "m")["wte.weight"]
    expected = np.zeros_like(wte)
    expected[4] = 2 * np.arange(1, 9)
    assert np.array_equal(grads(m)["wte.weight"], expected)
    close(grads(m)["ln_f.bias"], 2 * wte[4])
    cases = {
        "'m', 'wte.weight', 26, '[1]'": (psycopg.errors.NumericValueOutOfRange, "no row 26"),
        "'m', 'wte.weight', -1, '[1]'": (psycopg.errors.NumericValueOutOfRange, "token_id is -1"),
        "'m', 'ln_f.bias', 0, '[1]'": (psycopg.errors.NumericValueOutOfRange, "no row 0"),
        "'m', 'ln_f.bias', NULL, '[1]'": (
            psycopg.errors.ArraySubscriptError,
            r"the tensor is \(1\), parameter",
        ),
        "'m', 'wte.weight', 3, '[1]'": (psycopg.errors.ArraySubscriptError, "a row of parameter"),
        "'m', 'nothing', NULL, '[1]'": (psycopg.errors.UndefinedObject, 'no parameter "nothing"'),
        "'nobody', 'wte.weight', NULL, '[1]'": (psycopg.errors.UndefinedObject, "no parameter"),
        "'m', 'ln_f.bias', NULL, '[1]', ARRAY[3]": (psycopg.errors.ArraySubscriptError, "reshape"),
        "NULL, 'ln_f.bias', NULL, '[1]'": (psycopg.errors.NullValueNotAllowed, "model must not be NULL"),
    }
    for arguments, (error, message) in cases.items():
        with pytest.raises(error, match=message):
            m.execute(f"SELECT pg_llm_autograd_map_param({arguments})")
    m.execute("UPDATE llm_autograd_mode SET flag = false")


def test_forwards_continue_the_run(m):
    """Results of llm_logits and llm_eval are on the tape, so that a learner's own loss can follow a model."""
    torch = pytest.importorskip("torch")
    m.execute("UPDATE llm_autograd_mode SET flag = true")
    loss_of = "(SELECT pg_llm_cross_entropy(llm_logits(%s::int[], 'm'), %s::int[]))"
    own = f"SELECT name, grad FROM llm_backward({loss_of})"
    ours = {name: np.asarray(g) for name, g in m.execute(own, (TOKENS, TARGETS))}
    by_hand(m)
    for name, grad in grads(m).items():
        close(ours[name], grad)
    m.execute("UPDATE llm_autograd_mode SET flag = true")
    query = "SELECT grad FROM llm_backward((SELECT mean(llm_eval('m', 'wte', %s)))) WHERE name = 'wte.weight'"
    grad = np.asarray(m.execute(query, ('{"tokens": [2, 2, 7]}',)).fetchone()[0])
    assert (
        np.allclose(grad[2], 2 / 24)
        and np.allclose(grad[7], 1 / 24)
        and torch.tensor(grad).count_nonzero() == 16
    )
    m.execute("UPDATE llm_autograd_mode SET flag = false")


def test_changed_weights_are_noticed(m):
    """A gradient belongs to the weights of its loss: after one has changed, no backward pass is possible."""
    trace(m)
    back = "SELECT llm_backprop((SELECT max(id) FROM llm_tape), 'm')"
    m.execute("UPDATE llm_param SET grad = data, m = data WHERE model = 'm'")  # no weight
    m.execute(back)
    changed = psycopg.errors.ObjectNotInPrerequisiteState
    m.execute("UPDATE llm_param SET data = data * 2 WHERE model = 'm' AND name = 'ln_f.weight'")
    with pytest.raises(changed, match='"ln_f.weight" of model "m" has changed') as error:
        m.execute(back)
    assert "run the forward pass again" in error.value.diag.message_hint
    m.execute("UPDATE llm_param SET data = data / 2 WHERE model = 'm' AND name = 'ln_f.weight'")
    m.execute(back)  # the same bits again
    m.execute("DELETE FROM llm_param WHERE model = 'm' AND name = 'ln_f.bias'")
    with pytest.raises(changed, match="has changed"):
        m.execute(back)


def test_errors_of_backprop_teach(m):
    cases = [
        ("SELECT llm_backprop((SELECT max(id) FROM llm_tape), 'm')", "the tape is empty", "flag = true"),
        ("SELECT llm_trace('m', ARRAY[1,2])", None, None),
        ("SELECT llm_backprop(NULL, 'm')", "the tape id is NULL", "max(id)"),
        ("SELECT llm_backprop(7, 'm')", "no operation 7", "max(id)"),
        ("SELECT llm_backprop((SELECT max(id) FROM llm_tape), NULL)", "model must not be NULL", None),
        ("SELECT llm_backprop((SELECT max(id) FROM llm_tape), 'm')", r"shape \(1,2,26\)", "mean(t)"),
        ("SELECT llm_trace('m', ARRAY[1,2], ARRAY[2,3])", None, None),
        ("SELECT llm_backprop((SELECT max(id) FROM llm_tape), 'n')", 'of model "m", not "n"', "'m'"),
        ("SELECT llm_accumulate_grads('nobody')", 'no model "nobody"', "llm_model_config"),
        ("SELECT llm_accumulate_grads(NULL)", "no model", "llm_model_config"),
        ("SELECT llm_accumulate_grads('m', 0)", "workers is 0", "pg_llm.threads"),
        ("SELECT llm_prune_autograd_state(-1)", "workers is -1", "Leave it out"),
        ("SELECT llm_materialize_params('nobody')", 'model "nobody" has no parameters', "llm_init_model"),
        ("SELECT llm_trace('nobody', ARRAY[1])", "nobody", None),
        ("SELECT llm_trace('m', NULL)", "tokens must not be NULL", None),
        ("SELECT llm_trace('m', ARRAY[1], ARRAY[1,2])", "must have the same shape", None),
        ("SELECT llm_trace('m', ARRAY[99])", "99", None),
        ("SELECT llm_trace('m', array_fill(1, ARRAY[17]))", "17 tokens", None),
    ]  # fmt: skip
    for query, message, hint in cases:
        if message is None:
            m.execute(query)
            continue
        with pytest.raises(psycopg.Error, match=message) as error:
            m.execute(query)
        assert hint is None or hint in error.value.diag.message_hint, query


def test_pruning(m, connect):
    """A session's open run and another live session's stay; closed runs are removed with their rows."""
    other = connect()
    other.execute("UPDATE llm_autograd_mode SET flag = true; SELECT llm_var('1', 'x') * 2")
    trace(m)
    trace(m)
    m.execute("UPDATE llm_autograd_mode SET flag = true; SELECT llm_var('1', 'x') * 2")
    assert m.execute("SELECT llm_prune_autograd_state()").fetchone()[0] == 2
    assert m.execute("SELECT count(*) FROM llm_run").fetchone()[0] == 2
    other.close()
    m.execute("UPDATE llm_autograd_mode SET flag = false")
    for _ in range(100):  # until the other session's process has exited
        m.execute("SELECT llm_prune_autograd_state(2)")
        if m.execute("SELECT count(*) FROM llm_run").fetchone()[0] == 0:
            break
        time.sleep(0.05)
    for table in ("llm_run", "llm_tape", "llm_tensor_rt", "llm_tensor_map"):
        assert m.execute(f"SELECT count(*) FROM {table}").fetchone()[0] == 0, table


def test_the_tape_is_unlogged_and_not_dumped(conn):
    query = (
        "SELECT relname, relpersistence, obj_description(oid, 'pg_class') FROM pg_class WHERE oid = ANY "
        "(ARRAY['llm_run', 'llm_tape', 'llm_tensor_rt', 'llm_tensor_map']::regclass[])"
    )
    for name, persistence, comment in conn.execute(query):
        assert persistence == "u" and "not dumped" in comment, name
    dumped = "SELECT count(*) FROM pg_extension WHERE 'llm_tape'::regclass = ANY (extconfig)"
    assert conn.execute(dumped).fetchone()[0] == 0


CONTRACT = {
    "llm_trace": ["model text", "tokens integer[]", "targets integer[]", "positions integer[]"],
    "llm_var": ["t tensor", "name text"],
    "llm_backward": ["loss tensor"],
    "llm_backprop": ["tape_id bigint", "model text"],
    "llm_materialize_params": ["model text"],
    "llm_accumulate_grads": ["model text", "workers integer"],
    "llm_prune_autograd_state": ["workers integer"],
    "pg_llm_autograd_map_param": [
        "model text", "name text", "token_id integer", "tensor tensor", "dims integer[]",
    ],
}  # fmt: skip


def test_functions_of_the_contract(conn):
    """Names and order of arguments; recording functions may not be folded or run in a parallel worker."""
    for name, arguments in CONTRACT.items():
        given, flags = conn.execute(
            "SELECT pg_get_function_identity_arguments(oid), provolatile::text || proparallel::text "
            "FROM pg_proc WHERE proname = %s AND pronamespace = 'public'::regnamespace",
            (name,),
        ).fetchone()
        assert [a for a in given.split(", ") if not a.startswith("OUT ")] == arguments, name
        assert flags == "vu", name
