"""What transformers, safetensors' save_model and TRL write: other heads, attention scalings, activations."""

from __future__ import annotations

import json

import numpy as np
import psycopg
import pytest
from helpers import checkpoint_files
from helpers.checkpoint_files import WAYS, by_path, config_of, over_connection, stored, visible
from helpers.tiny_model import logits
from helpers.torch_gpt2 import random_gpt2

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.slow

folder = checkpoint_files.folder
model = checkpoint_files.model
TOKENS = [3, 1, 4, 1, 5, 9, 2, 6]
SIZE = (3, 3, 24, 16, 65)


def same_logits(conn, model, network):
    with torch.no_grad():
        expected = network.eval()(torch.tensor([TOKENS])).logits[0].numpy()
    np.testing.assert_allclose(logits(conn, model, TOKENS), expected, atol=2e-6 * np.abs(expected).max())


ARCHITECTURES: list[dict] = [
    {"scale_attn_by_inverse_layer_idx": True},
    {"scale_attn_weights": False},
    {"scale_attn_weights": False, "scale_attn_by_inverse_layer_idx": True},
]
ACTIVATIONS = "silu swish tanh sigmoid quick_gelu relu gelu gelu_new gelu_accurate gelu_python_tanh gelu_fast"
ARCHITECTURES += [{"activation_function": name} for name in ACTIVATIONS.split()]


@WAYS
@pytest.mark.parametrize("options", ARCHITECTURES, ids=lambda options: " ".join(map(str, options.items())))
def test_architectures(conn, folder, model, load, options):
    """Loaded, computed alike, exported, and loaded again by transformers."""
    network = random_gpt2((*SIZE, options))
    network.save_pretrained(folder / "m")
    load(conn, visible(folder / "m"), model)
    same_logits(conn, model, network)
    (folder / "out").mkdir(mode=0o777)
    (folder / "out").chmod(0o777)
    conn.execute("SELECT pg_llm_export_safetensors(%s, %s)", [str(folder / "out"), model])
    same_logits(conn, model, transformers.GPT2LMHeadModel.from_pretrained(folder / "out"))
    load(conn, folder / "out", model)
    same_logits(conn, model, network)


def test_a_registered_model_with_another_scaling(conn, folder, model):
    random_gpt2((*SIZE, {})).save_pretrained(folder / "plain")
    random_gpt2((*SIZE, {"scale_attn_by_inverse_layer_idx": True})).save_pretrained(folder / "scaled")
    by_path(conn, visible(folder / "plain"), model)
    with pytest.raises(psycopg.Error, match="registered as another model") as error:
        by_path(conn, visible(folder / "scaled"), model)
    assert error.value.diag.message_detail == "scale_attn_by_inverse_layer_idx: registered false, file true"


def test_trained_activations(conn, folder, model):
    """quick_gelu is several nodes: its gradient is PyTorch's."""
    network = random_gpt2((1, 3, 24, 16, 65, {"activation_function": "quick_gelu"})).eval()
    network.save_pretrained(folder / "m")
    by_path(conn, visible(folder / "m"), model)
    tokens = torch.tensor([TOKENS])
    loss = network(tokens[:, :-1]).logits
    torch.nn.functional.cross_entropy(loss[0], tokens[0, 1:]).backward()
    conn.execute("SELECT llm_zero_grad(%s)", [model])
    conn.execute("INSERT INTO llm_autograd_mode VALUES (true)")
    conn.execute("SELECT llm_loss(%s, %s::int[], %s::int[])", [model, TOKENS[:-1], TOKENS[1:]])
    conn.execute("DELETE FROM llm_autograd_mode")
    conn.execute("SELECT llm_backprop((SELECT max(id) FROM llm_tape), %s)", [model])
    conn.execute("SELECT llm_accumulate_grads(%s)", [model])
    query = "SELECT grad FROM llm_param WHERE model = %s AND name = 'h.0.mlp.c_fc.weight'"
    ours = np.array(conn.execute(query, [model]).fetchone()[0])
    theirs = network.transformer.h[0].mlp.c_fc.weight.grad.numpy()
    np.testing.assert_allclose(ours, theirs, atol=2e-6 * np.abs(theirs).max())


@WAYS
@pytest.mark.parametrize("prefix", ["", "_orig_mod."])
def test_save_model_keeps_one_of_a_tied_pair(conn, folder, model, load, prefix):
    safetensors = pytest.importorskip("safetensors.torch")
    network = random_gpt2((*SIZE, {}))
    network.save_pretrained(folder / "m")
    wrapped = network
    if prefix:
        wrapped = torch.nn.Module()
        wrapped._orig_mod = network
    safetensors.save_model(wrapped, folder / "m" / "model.safetensors")
    names = safetensors.load_file(folder / "m" / "model.safetensors").keys()
    assert prefix + "lm_head.weight" in names and prefix + "transformer.wte.weight" not in names
    load(conn, visible(folder / "m"), model)
    same_logits(conn, model, network)
    assert config_of(conn, model)[6]["tied_head"] is True
    assert "lm_head.weight" not in stored(conn, model)


@WAYS
@pytest.mark.parametrize("kind", ["classifier", "tokens", "double heads", "trl", "bare"])
def test_other_heads(conn, folder, model, load, kind):
    """Their own head is left out on request; what remains is the language model."""
    network = random_gpt2((*SIZE, {}))
    classes = {
        "classifier": transformers.GPT2ForSequenceClassification,
        "tokens": transformers.GPT2ForTokenClassification,
        "double heads": transformers.GPT2DoubleHeadsModel,
        "bare": transformers.GPT2Model,
    }
    saved = classes.get(kind, transformers.GPT2LMHeadModel)(network.config)
    getattr(saved, "transformer", saved).load_state_dict(network.transformer.state_dict())
    if kind == "trl":  # AutoModelForCausalLMWithValueHead
        v_head = {"v_head.summary.weight": torch.zeros(1, 24), "v_head.summary.bias": torch.zeros(1)}
        saved.save_pretrained(folder / "m", state_dict=saved.state_dict() | v_head)
    else:
        saved.save_pretrained(folder / "m")
    if kind != "bare":
        with pytest.raises(psycopg.Error, match="surplus") as error:
            load(conn, visible(folder / "m"), model)
        assert "ignore_surplus => true" in error.value.diag.message_hint
    load(conn, visible(folder / "m"), model, ignore_surplus=True)
    same_logits(conn, model, network)


def test_dialogpt(conn, folder, model):
    """Its .bin has a second name for the tied head, and float16."""
    network = random_gpt2((*SIZE, {})).half()
    state = network.state_dict()
    state["lm_head.decoder.weight"] = state.pop("lm_head.weight")
    state |= {f"transformer.h.{i}.attn.bias": torch.ones(1, 1, 16, 16).tril() for i in range(3)}
    torch.save(state, folder / "pytorch_model.bin")
    (folder / "config.json").write_text(json.dumps(network.config.to_dict()))
    over_connection(conn, folder, model)
    same_logits(conn, model, network.float())
    assert config_of(conn, model)[6]["tied_head"] is True
