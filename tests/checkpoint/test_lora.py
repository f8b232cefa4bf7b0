"""LoRA: adapters of PEFT as rows, with PEFT's results; trained, merged, saved, deleted."""

from __future__ import annotations

import json

import numpy as np
import psycopg
import pytest
from helpers import checkpoint_files
from helpers.lora import SIZE, TOKENS, adapted, load_base, peft_logits, save
from helpers.tiny_model import logits
from helpers.torch_gpt2 import random_gpt2
from helpers.training import fill

import pg_llm
from pg_llm.files.checkpoint import CheckpointError

LINEAR = ["c_attn", "attn.c_proj", "mlp.c_proj", "c_fc"]
SETTINGS = {
    "default": {},
    "linear": {"r": 4, "lora_alpha": 6, "target_modules": LINEAR, "lora_dropout": 0.1},
    "patterns": {
        "target_modules": LINEAR,
        "rank_pattern": {"h.0.attn.c_attn": 3, "c_fc": 5},
        "alpha_pattern": {"c_proj": 7, "^transformer.h.1.*c_attn": 2},
        "use_rslora": True,
    },
    "one layer": {"target_modules": ["c_attn"], "layers_to_transform": [1]},
    "embeddings": {"target_modules": ["wte", "wpe", "c_attn"], "r": 2},
    "head": {"target_modules": ["lm_head", "c_fc"], "r": 2},
    "biases": {"target_modules": ["c_fc"], "bias": "all"},
    "own biases": {"target_modules": ["c_fc", "c_attn"], "bias": "lora_only"},
    "modules": {"target_modules": ["c_attn"], "modules_to_save": ["ln_f", "lm_head"]},
}
close = {"rtol": 2e-5, "atol": 2e-5}
folder = checkpoint_files.folder


@pytest.fixture
def base(conn, folder):
    conn.execute("DELETE FROM llm_param_share; DELETE FROM llm_model_config WHERE model NOT LIKE 'gpt2%'")
    load_base(conn, folder)
    return conn


def load(conn, path, model="tuned"):
    return pg_llm.load_adapter(conn, path, "base", model, progress=False)


def contents(conn, model):
    """Graph and parameters of a model as text, with all bits."""
    query = "SELECT name, op, inputs, attrs::text FROM llm_graph WHERE model = %s ORDER BY id"
    rows = conn.execute(query, [model]).fetchall()
    return rows, checkpoint_files.stored(conn, model)


def test_rows_with_names_of_ones_own_merge(base):
    """The node that reads the sum is found by its inputs, whatever the nodes' names are."""
    base.execute("SELECT llm_lora_add('base', 'tuned', targets => '{h.0.mlp.c_fc}')")
    base.execute(
        "UPDATE llm_param SET data = randn(shape(data), 3) WHERE model = 'tuned' AND name LIKE '%lora_B%'"
    )
    expected = logits(base, "tuned", TOKENS)
    base.execute("""BEGIN; SET CONSTRAINTS ALL DEFERRED;
        UPDATE llm_graph SET name = 'with lora' WHERE model = 'tuned' AND name = 'h.0.mlp.c_fc';
        UPDATE llm_graph SET name = 'h.0.mlp.c_fc' WHERE model = 'tuned' AND name = 'h.0.mlp.c_fc.base';
        UPDATE llm_graph SET inputs = array_replace(array_replace(array_replace(inputs, 'h.0.mlp.c_fc', '?'),
            'h.0.mlp.c_fc.base', 'h.0.mlp.c_fc'), '?', 'with lora') WHERE model = 'tuned'; COMMIT""")
    assert base.execute("SELECT node FROM llm_lora WHERE model = 'tuned'").fetchone() == ("with lora",)
    np.testing.assert_array_equal(logits(base, "tuned", TOKENS), expected)
    base.execute("SELECT llm_lora_merge('tuned', 'merged')")
    np.testing.assert_allclose(logits(base, "merged", TOKENS), expected, **close)
    base.execute("""INSERT INTO llm_graph (model, name, op, inputs)
        SELECT 'tuned', 'unused', 'neg', ARRAY['h.0.mlp.c_fc']""")
    with pytest.raises(psycopg.errors.FeatureNotSupported, match='node "unused" reads its weights without'):
        base.execute("SELECT llm_lora_merge('tuned', 'other')")
    assert checkpoint_files.nothing_left(base, "other")


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_it_computes_what_peft_computes(base, folder, settings):
    """Loaded, merged, saved and loaded again, here and by PEFT."""
    peft = pytest.importorskip("peft")
    model = adapted(settings)
    expected = peft_logits(model)
    before = contents(base, "base")
    load(base, save(model, folder / "adapter"))
    ours = logits(base, "tuned", TOKENS)
    assert np.abs(expected - logits(base, "base", TOKENS)).max() > 0.1
    np.testing.assert_allclose(ours, expected, **close)

    base.execute("SELECT llm_lora_merge('tuned', 'merged')")
    np.testing.assert_allclose(logits(base, "merged", TOKENS), expected, **close)
    names = "SELECT array_agg(name ORDER BY id) FROM llm_graph WHERE model = %s AND name <> 'lm_head.weight'"
    assert base.execute(names, ["merged"]).fetchone() == base.execute(names, ["base"]).fetchone()

    pg_llm.save_adapter(base, "tuned", folder / "again")
    load(base, folder / "again", "again")
    assert np.array_equal(logits(base, "again", TOKENS), ours)
    again = peft.PeftModel.from_pretrained(random_gpt2(SIZE), folder / "again").eval()
    np.testing.assert_allclose(peft_logits(again), expected, rtol=1e-6, atol=1e-6)

    after = contents(base, "base")
    assert before[0] == after[0] and checkpoint_files.same(before[1], after[1])


def test_merging_adds_in_the_documented_order(base, folder):
    """W + transpose(B @ A) * scale, and W + (B @ A) * scale for a head, to the last bit."""
    load(base, save(adapted({"target_modules": ["c_attn", "lm_head", "wte"]}), folder / "adapter"))
    base.execute("SELECT llm_lora_merge('tuned', 'merged')")
    for module, product in (
        ("h.1.attn.c_attn", "transpose(b.data @ a.data)"),
        ("lm_head", "(b.data @ a.data)"),
        ("wte", "(a.data @ transpose(b.data))"),
    ):
        weight = f"{module.replace('lm_head', 'wte')}.weight"
        query = f"""SELECT m.data = (w.data + ({product} * l.scale)) FROM llm_lora AS l
            JOIN llm_param AS a ON a.model = 'tuned' AND a.name = module || '.lora_A.weight'
            JOIN llm_param AS b ON b.model = 'tuned' AND b.name = module || '.lora_B.weight'
            JOIN llm_param AS w ON w.model = 'base' AND w.name = %s
            JOIN llm_param AS m ON m.model = 'merged' AND m.name = module || '.weight'
            WHERE l.model = 'tuned' AND module = %s"""
        assert base.execute(query, [weight, module]).fetchall() == [(True,)], module


def test_training_moves_the_adapter_alone(base):
    """It begins with the base's very logits, trains as PEFT's does, and the base keeps its bits."""
    torch, peft = pytest.importorskip("torch"), pytest.importorskip("peft")
    base.execute("SELECT llm_lora_add('base', 'tuned', rank => 2, alpha => 6, targets => %s)", [LINEAR])
    assert np.array_equal(logits(base, "base", TOKENS), logits(base, "tuned", TOKENS))
    assert base.execute("SELECT count(*), min(rank), min(alpha) FROM llm_lora").fetchone() == (8, 2, 6)
    assert {row[0].rpartition(".lora")[1] for row in base.execute(
        "SELECT name FROM llm_param WHERE model = 'tuned'")} == {".lora"}  # fmt: skip
    before = checkpoint_files.stored(base, "base")

    model = peft.get_peft_model(
        random_gpt2(SIZE),
        peft.LoraConfig(r=2, lora_alpha=6, target_modules=LINEAR, fan_in_fan_out=True, task_type="CAUSAL_LM"),
    )
    state = {name: torch.tensor(data) for name, data in checkpoint_files.stored(base, "tuned").items()}
    peft.set_peft_model_state_dict(
        model, {f"base_model.model.transformer.{name}": data for name, data in state.items()}
    )
    tokens = np.random.default_rng(5).integers(0, 31, (4, 9))
    fill(base, "d", tokens)
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=0.01, weight_decay=0.01
    )
    x, y = torch.tensor(tokens[:, :-1]), torch.tensor(tokens[:, 1:])
    for _ in range(6):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x).logits.flatten(0, 1), y.flatten()).backward()
        optimizer.step()
    for _ in range(6):  # runs of one step: each at the whole learning rate
        base.execute(
            "SELECT llm_train('tuned', 1, batch_size => 4, dataset => 'd', dropout_p => 0, warmup => 0, "
            "lr_max => 0.01, min_lr => 0.01)"
        )
    np.testing.assert_allclose(logits(base, "tuned", TOKENS), peft_logits(model.eval()), rtol=1e-3, atol=1e-3)
    assert np.abs(logits(base, "tuned", TOKENS) - logits(base, "base", TOKENS)).max() > 0.01
    assert checkpoint_files.same(before, checkpoint_files.stored(base, "base"))


def test_lora_is_deleted_and_rolled_back(base):
    before = contents(base, "base")
    with base.transaction(force_rollback=True):
        base.execute("SELECT llm_lora_add('base')")
        assert base.execute("SELECT count(*) FROM llm_lora WHERE model = 'base-lora'").fetchone() == (2,)
    assert checkpoint_files.nothing_left(base, "base-lora")
    base.execute("SELECT llm_lora_add('base'); DELETE FROM llm_model_config WHERE model = 'base-lora'")
    assert checkpoint_files.nothing_left(base, "base-lora")
    assert base.execute("SELECT count(*) FROM llm_param_share").fetchone() == (0,)
    after = contents(base, "base")
    assert before[0] == after[0] and checkpoint_files.same(before[1], after[1])


def test_a_change_of_the_scale_is_a_change_of_a_row(base, folder):
    """scale 0 switches the adapter off; a merged or saved model has the row's value."""
    load(base, save(adapted({"lora_alpha": 5, "r": 3}), folder / "adapter"))
    base.execute(
        "UPDATE llm_graph SET attrs = '{\"value\": 0}' WHERE model = 'tuned' AND name ~ 'lora_scale$'"
    )
    assert np.array_equal(logits(base, "tuned", TOKENS), logits(base, "base", TOKENS))
    base.execute(
        "UPDATE llm_graph SET attrs = '{\"value\": 2.5}' WHERE model = 'tuned' AND name ~ 'lora_scale$'"
    )
    pg_llm.save_adapter(base, "tuned", folder / "again", base="gpt2")
    config = json.loads((folder / "again" / "adapter_config.json").read_text())
    assert (config["lora_alpha"], config["r"], config["base_model_name_or_path"]) == (7.5, 3, "gpt2")


REFUSED = {
    "use_dora": ({"use_dora": True}, "use_dora is true"),
    "lora_bias": ({"lora_bias": True, "fan_in_fan_out": False}, "lora_bias is true"),
    "pissa": ({"init_lora_weights": "pissa", "target_modules": ["c_attn"]}, 'init_lora_weights is "pissa"'),
}


@pytest.mark.parametrize(("settings", "message"), REFUSED.values(), ids=REFUSED)
def test_other_kinds_are_refused_by_name(base, folder, settings, message):
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(random_gpt2(SIZE), peft.LoraConfig(**({"fan_in_fan_out": True} | settings)))
    with pytest.raises(CheckpointError, match=f"adapter_config.json: {message}.*merge_and_unload"):
        load(base, save(model, folder / "adapter"))
    assert checkpoint_files.nothing_left(base, "tuned")


def changed(path, config=(), tensors=None):
    """An adapter with other settings, or its tensors changed by a function."""
    safetensors = pytest.importorskip("safetensors.numpy")
    file = path / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | dict(config)))
    if tensors:
        weights = path / "adapter_model.safetensors"
        safetensors.save_file(tensors(safetensors.load_file(weights)), weights)
    return path


A = "base_model.model.transformer.h.0.attn.c_attn.lora_A.weight"
DAMAGED = {
    "another method": (dict(config={"peft_type": "IA3"}), 'peft_type is "IA3", expected "LORA"'),
    "no B": (
        dict(tensors=lambda t: {k: t[k] for k in t if "0.attn.c_attn.lora_B" not in k}),
        "no lora_B",
    ),
    "nothing": (dict(tensors=lambda t: {"x": np.zeros(1, np.float32)}), "no lora_A and lora_B in it"),
    "inputs": (dict(tensors=lambda t: t | {A: np.zeros((8, 13), np.float32)}), r"is \(8, 13\), .* \(8, 12\)"),
    "rank": (dict(tensors=lambda t: t | {A: np.zeros((7, 12), np.float32)}), r"is \(7, 12\), .* \(8, 12\)"),
    "a surplus tensor": (
        dict(tensors=lambda t: t | {"base_model.model.score.weight": np.zeros((2, 12), np.float32)}),
        'score.weight" belongs to no parameter',
    ),
    "alpha": (dict(config={"lora_alpha": "many"}), "lora_alpha 'many'"),
}


@pytest.mark.parametrize(("change", "message"), DAMAGED.values(), ids=DAMAGED)
def test_damaged_adapters_change_nothing(base, folder, change, message):
    path = changed(save(adapted({}), folder / "adapter"), **change)
    with pytest.raises(CheckpointError, match=message):
        load(base, path)
    assert checkpoint_files.nothing_left(base, "tuned")


def test_a_module_that_the_base_lacks(base, folder):
    safetensors = pytest.importorskip("safetensors.numpy")
    path = save(adapted({}), folder / "adapter")
    file = path / "adapter_model.safetensors"
    tensors = safetensors.load_file(file)
    safetensors.save_file({name.replace("h.1", "h.5"): value for name, value in tensors.items()}, file)
    with pytest.raises(psycopg.errors.UndefinedObject, match='has no module "h.5.attn.c_attn"'):
        load(base, path)
    assert checkpoint_files.nothing_left(base, "tuned")


def test_older_files_and_the_bare_model(base, folder):
    """adapter_model.bin of torch, and an adapter of GPT2Model, whose names have no `transformer.`"""
    torch = pytest.importorskip("torch")
    safetensors = pytest.importorskip("safetensors.torch")
    path = save(adapted({}), folder / "adapter")
    load(base, path)
    expected = logits(base, "tuned", TOKENS)
    file = path / "adapter_model.safetensors"
    state = {name.replace("transformer.", ""): value for name, value in safetensors.load_file(file).items()}
    file.unlink()
    torch.save(state, path / "adapter_model.bin")
    assert load(base, path, "older")[:2] == (4, 2 * (8 * 12 + 36 * 8))
    assert np.array_equal(logits(base, "older", TOKENS), expected)


def test_a_role_that_may_not_change_the_base_gets_copies(base, connect):
    """Row security keeps its rows from being shared; the adapter trains all the same."""
    fill(base, "d", np.random.default_rng(5).integers(0, 31, (4, 9)))
    base.execute("""DROP ROLE IF EXISTS lora_student; CREATE ROLE lora_student;
        GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO lora_student;
        GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO lora_student;
        ALTER TABLE llm_param ENABLE ROW LEVEL SECURITY;
        CREATE POLICY seen ON llm_param FOR SELECT USING (true);
        CREATE POLICY own ON llm_param USING (model <> 'base')""")
    try:
        student = connect()
        student.execute("SET ROLE lora_student")
        student.execute("SELECT llm_lora_add('base', 'tuned')")
        assert base.execute("SELECT count(*) FROM llm_param_share").fetchone() == (0,)
        before = checkpoint_files.stored(base, "tuned")
        student.execute("SELECT llm_train('tuned', 1, dataset => 'd', lr_max => 0.1)")
        after = checkpoint_files.stored(base, "tuned")
        moved = {name for name in before if not np.array_equal(before[name], after[name])}
        assert moved == {name for name in before if ".lora_" in name}
    finally:
        base.execute("""DROP POLICY seen ON llm_param; DROP POLICY own ON llm_param;
            ALTER TABLE llm_param DISABLE ROW LEVEL SECURITY;
            DROP OWNED BY lora_student; DROP ROLE lora_student""")


def test_arguments_are_checked(base):
    errors = psycopg.errors
    base.execute("SELECT llm_lora_add('base', 'tuned')")
    for query, error, message in (
        ("llm_lora_add('nobody')", errors.UndefinedObject, "no model"),
        ("llm_lora_add('gpt2-xl')", errors.UndefinedObject, "neither graph nor weights"),
        ("llm_lora_add('base', 'tuned')", errors.DuplicateObject, '"tuned" already exists'),
        ("llm_lora_add('tuned', 'more')", errors.DuplicateObject, "has LoRA already"),
        ("llm_lora_add('base', 'more', targets => '{c_atn}')", errors.UndefinedObject, 'no module "c_atn"'),
        ("llm_lora_add('base', 'more', targets => '{}')", errors.UndefinedObject, "no module"),
        ("llm_lora_add('base', 'more', rank => 0)", errors.InvalidParameterValue, "rank is 0"),
        ("llm_lora_add('base', 'more', alpha => 'NaN')", errors.InvalidParameterValue, "alpha NaN"),
        ("llm_lora_add('base', 'more', dropout => 1)", errors.InvalidParameterValue, "dropout 1"),
        ("llm_lora_add('base', 'more', targets => '{NULL}')", errors.NullValueNotAllowed, "NULL"),
        ("llm_lora_merge('base')", errors.UndefinedObject, "no LoRA"),
        ("llm_lora_merge('tuned', 'base')", errors.DuplicateObject, '"base" already exists'),
    ):
        with pytest.raises(error, match=message) as raised:
            base.execute(f"SELECT {query}")
        assert raised.value.diag.message_hint or error is errors.NullValueNotAllowed, query
    assert checkpoint_files.nothing_left(base, "more")
    with pytest.raises(CheckpointError, match="has no LoRA"):
        pg_llm.save_adapter(base, "base", "/nowhere")
