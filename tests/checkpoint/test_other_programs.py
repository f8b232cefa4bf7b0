"""Checkpoints of nanoGPT, minGPT, build-nanogpt and LLMs-from-scratch load, and compute the same."""

from __future__ import annotations

import dataclasses
import json
import sys
import types

import numpy as np
import psycopg
import pytest
from helpers import checkpoint_files
from helpers.checkpoint_files import WAYS, by_path, config_of, nothing_left, over_connection, stored, visible
from helpers.tiny_model import logits

from pg_llm.files.checkpoint import CheckpointError
from pg_llm.files.convert import convert

torch = pytest.importorskip("torch")
from helpers.torch_gpts import NanoGPT, ScratchGPT  # noqa: E402

pytestmark = pytest.mark.slow

folder = checkpoint_files.folder
model = checkpoint_files.model
TOKENS = [3, 1, 4, 1, 5, 9, 2, 6]
SIZE = {"n_layer": 2, "n_head": 3, "n_embd": 24, "block_size": 16, "vocab_size": 65}
SCRATCH = {"vocab_size": 65, "context_length": 16, "emb_dim": 24, "n_heads": 3, "n_layers": 2}
ARGS = SIZE | {"bias": True, "dropout": 0.0}


def same_logits(conn, model, network):
    with torch.no_grad():
        expected = network.eval()(torch.tensor([TOKENS]))[0].numpy()
    np.testing.assert_allclose(logits(conn, model, TOKENS), expected, atol=2e-6 * np.abs(expected).max())


def nano_checkpoint(network, prefix="", **args):
    """What nanoGPT's train.py saves."""
    optimizer = torch.optim.AdamW(network.parameters())
    state = {prefix + name: tensor for name, tensor in network.state_dict().items()}
    return {
        "model": state, "optimizer": optimizer.state_dict(), "model_args": ARGS | args, "iter_num": 2000,
        "best_val_loss": torch.tensor(1.4), "config": {"dataset": "shakespeare_char", "n_head": 3},
    }  # fmt: skip


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("prefix", ["", "_orig_mod.", "module._orig_mod.", "model."])
def test_nanogpt(conn, folder, model, bias, prefix):
    network = NanoGPT(**SIZE, bias=bias)
    path = folder / "ckpt.pt"
    torch.save(nano_checkpoint(network, prefix, bias=bias), path)
    over_connection(conn, folder if prefix else path, model)
    same_logits(conn, model, network)
    row = config_of(conn, model)
    assert row[:6] == (2, 3, 24, 96, 16, 65)
    assert row[6] == {"activation": "gelu_erf", "bias": bias, "tied_head": True}
    frozen = "SELECT count(*) FROM llm_graph WHERE model = %s AND attrs @> '{\"trainable\": false}'"
    assert conn.execute(frozen, [model]).fetchone() == (0 if bias else 2 * 6 + 1,)


def test_build_nanogpt_pickles_its_config(conn, folder, model, monkeypatch):
    """config is an object of a class in __main__, which this program does not have."""
    network = NanoGPT(**SIZE, approximate="tanh")
    fields = [(name, int) for name in SIZE]
    config = dataclasses.make_dataclass("GPTConfig", fields)(**SIZE)
    main = types.ModuleType("train_gpt2")
    main.GPTConfig = type(config)
    type(config).__module__ = "train_gpt2"
    monkeypatch.setitem(sys.modules, "train_gpt2", main)
    path = folder / "model_19072.pt"
    torch.save(
        {"model": network.state_dict(), "config": config, "step": 19072, "val_loss": np.float64(3.0)}, path
    )
    monkeypatch.delitem(sys.modules, "train_gpt2")
    over_connection(conn, path, model)
    same_logits(conn, model, network)
    assert config_of(conn, model)[6] == {"tied_head": True}


def test_mingpt_needs_n_head(conn, folder, model):
    """A state_dict alone: the hint has all that the file reveals, and the call that it names is right."""
    network = NanoGPT(**SIZE, approximate="tanh", tied=False)
    path = folder / "model.pt"
    torch.save(network.state_dict(), path)
    with pytest.raises(psycopg.Error, match="n_head of model .* is unknown") as error:
        over_connection(conn, path, model)
    assert nothing_left(conn, model)
    hint = error.value.diag.message_hint
    assert "d_ff => 96" in hint and '"tied_head": false' in hint and '"activation": "gelu_erf"' in hint
    conn.execute(hint[hint.index("SELECT") : hint.index(";")].replace("?", "3"))
    over_connection(conn, path, model)
    same_logits(conn, model, network)


@pytest.mark.parametrize("qkv_bias", [True, False])
@pytest.mark.parametrize("wrapped", [True, False])
def test_llms_from_scratch(conn, folder, model, qkv_bias, wrapped):
    network = ScratchGPT(**SCRATCH, qkv_bias=qkv_bias)
    path, config = folder / "model_and_optimizer.pth", {"n_head": 3}
    content = network.state_dict()
    if wrapped:
        content = {"model_state_dict": content, "config": SCRATCH | {"qkv_bias": qkv_bias, "drop_rate": 0.1}}
    else:
        (folder / "config.json").write_text(json.dumps(config))
    torch.save(content, path)
    over_connection(conn, path, model)
    same_logits(conn, model, network)
    assert config_of(conn, model)[:6] == (2, 3, 24, 96, 16, 65)


def test_llms_from_scratch_by_path(conn, folder, model):
    """The server does not know the names; its hint says who does."""
    state = {name: tensor.numpy() for name, tensor in ScratchGPT(**SCRATCH).state_dict().items()}
    checkpoint_files.write_safetensors(folder / "m.safetensors", state)
    with pytest.raises(psycopg.Error, match="no two-dimensional wte.weight") as error:
        by_path(conn, folder / "m.safetensors", model)
    assert "pg-llm convert" in error.value.diag.message_hint


def test_mingpt_of_2020(conn, folder, model):
    network = NanoGPT(**SIZE)
    state = {}
    for name, tensor in network.state_dict().items():
        name = (
            name.removeprefix("transformer.")
            .replace("h.", "blocks.")
            .replace("ln_", "ln")
            .replace("lnf", "ln_f")
        )
        name = name.replace("mlp.c_fc", "mlp.0").replace("mlp.c_proj", "mlp.2").replace("c_proj", "proj")
        name = name.replace("wte", "tok_emb").replace("lm_head", "head")
        if name == "wpe.weight":
            state["pos_emb"] = tensor[None]
        elif "c_attn" in name:
            for part, values in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                state[name.replace("c_attn", part)] = values
        else:
            state[name] = tensor
    state |= {f"blocks.{i}.attn.mask": torch.ones(1, 1, 16, 16) for i in range(2)}
    torch.save(state, folder / "model.pt")
    config = {"n_head": 3, "activation_function": "gelu"}
    (folder / "config.json").write_text(json.dumps(config))
    over_connection(conn, folder / "model.pt", model)
    same_logits(conn, model, network)


@WAYS
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("ending", ["safetensors", "npz"])
def test_linear_layout(conn, folder, model, load, bias, ending):
    """nanoGPT's state_dict in files that the server reads, too."""
    network = NanoGPT(**SIZE, bias=bias)
    state = {f"_orig_mod.{name}": tensor.numpy() for name, tensor in network.state_dict().items()}
    path = folder / f"m.{ending}"
    if ending == "npz":  # in Fortran order, which transposes once more
        np.savez(path, **{name: np.asfortranarray(array) for name, array in state.items()})
    else:
        checkpoint_files.write_safetensors(path, state)
    (folder / "config.json").write_text(json.dumps({"n_head": 3, "activation_function": "gelu"}))
    load(conn, visible(folder) / path.name, model)
    same_logits(conn, model, network)


@pytest.mark.parametrize("kind", ["nanogpt", "without biases", "scratch"])
def test_convert(conn, folder, model, kind):
    """The converted file is GPT-2's: complete, (in,out), and loaded by the server and by transformers."""
    transformers = pytest.importorskip("transformers")
    network = NanoGPT(**SIZE, bias=kind == "nanogpt")
    if kind == "scratch":
        network = ScratchGPT(**SCRATCH)
        torch.save({"model_state_dict": network.state_dict(), "cfg": SCRATCH}, folder / "ckpt.pt")
    else:
        torch.save(nano_checkpoint(network, "_orig_mod.", bias=kind == "nanogpt"), folder / "ckpt.pt")
    convert(folder / "ckpt.pt", folder / "model.safetensors")
    by_path(conn, visible(folder) / "model.safetensors", model)
    same_logits(conn, model, network)
    config = conn.execute("SELECT llm_export_config(%s)::text", [model]).fetchone()[0]
    (folder / "config.json").write_text(config)
    theirs, report = transformers.GPT2LMHeadModel.from_pretrained(folder, output_loading_info=True)
    assert not {"missing_keys", "unexpected_keys", "mismatched_keys"} & {k for k, v in report.items() if v}
    with torch.no_grad():
        expected = network.eval()(torch.tensor([TOKENS]))[0].numpy()
        np.testing.assert_allclose(
            theirs.eval()(torch.tensor([TOKENS])).logits[0].numpy(), expected, atol=1e-5
        )


def test_zero_biases_stay_zero(conn, folder, model):
    network = NanoGPT(**SIZE, bias=False)
    torch.save(nano_checkpoint(network, bias=False), folder / "ckpt.pt")
    over_connection(conn, folder / "ckpt.pt", model)
    conn.execute("DELETE FROM llm_dataset WHERE dataset = 'some'")
    conn.execute("INSERT INTO llm_dataset (dataset, tokens, target) VALUES ('some', '{1,2,3}', '{2,3,4}')")
    conn.execute("SELECT llm_train(%s, 2, lr_max => 0.1, warmup => 1, dataset => 'some')", [model])
    weights = stored(conn, model)
    assert all((array == 0).all() for name, array in weights.items() if name.endswith("bias"))
    assert not np.allclose(weights["ln_f.weight"], network.transformer.ln_f.weight.detach().numpy())
    # An export can be imported under the same name, and under another.
    conn.execute("SELECT pg_llm_export_safetensors(%s, %s)", [str(folder / "out.safetensors"), model])
    by_path(conn, folder / "out.safetensors", model)
    assert checkpoint_files.same(stored(conn, model), weights)


# ---- files that are not loaded ----


class Command:
    """Unpickled, it would execute a command."""

    def __init__(self, call, *arguments):
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments


def refused(conn, path, model, match):
    with pytest.raises(CheckpointError, match=match) as error:
        over_connection(conn, path, model)
    assert str(path.parent) in str(error.value) and "weights_only" not in str(error.value)
    assert "safe_globals" not in str(error.value) and nothing_left(conn, model)
    return str(error.value)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("call", ["os.system", "eval", "subprocess.call"])
def test_code_is_never_executed(conn, folder, model, zipped, call):
    import os
    import subprocess

    mark = folder / "executed"
    calls = {
        "os.system": Command(os.system, f"touch '{mark}'"),
        "eval": Command(eval, f"open({str(mark)!r}, 'w')"),
        "subprocess.call": Command(subprocess.call, ["touch", str(mark)]),
    }
    content = nano_checkpoint(NanoGPT(**SIZE)) | {"extra": calls[call]}
    torch.save(content, folder / "ckpt.pt", _use_new_zipfile_serialization=zipped)
    refused(conn, folder / "ckpt.pt", model, "contains code")
    assert not mark.exists()


def test_other_contents(conn, folder, model):
    import pickle

    network = NanoGPT(**SIZE)
    path = folder / "ckpt.pt"
    torch.save(network, path)
    refused(conn, path, model, "whole model.*save the weights alone")
    torch.save({"model": network}, path)
    refused(conn, path, model, "whole model")
    torch.save({"epoch": 3}, path)
    refused(conn, path, model, "'epoch' is of type int")
    torch.save([1, 2], path)
    refused(conn, path, model, "no dict of tensors .* but list")
    path.write_bytes(pickle.dumps({"wte.weight": [1.0]}))
    refused(conn, path, model, "a Python pickle")
    state = network.state_dict()
    torch.save(state | {"lm_head.weight": state["lm_head.weight"].to_sparse()}, path)
    refused(conn, path, model, '"lm_head.weight" is sparse_coo')
    torch.save(state | {"transformer.ln_f.bias": torch.empty(24, device="meta")}, path)
    refused(conn, path, model, '"transformer.ln_f.bias" has no values')
    torch.save(nano_checkpoint(network), path)
    path.write_bytes(path.read_bytes()[:-3000])
    refused(conn, path, model, ".")


def test_a_file_of_before_1_6(conn, folder, model):
    network = NanoGPT(**SIZE)
    torch.save(nano_checkpoint(network), folder / "ckpt.pt", _use_new_zipfile_serialization=False)
    over_connection(conn, folder / "ckpt.pt", model)
    same_logits(conn, model, network)


def test_two_models_in_a_file(conn, folder, model):
    state = NanoGPT(**SIZE).state_dict()
    torch.save({f"{side}.{n}": t for side in ("actor", "critic") for n, t in state.items()}, folder / "m.pt")
    with pytest.raises(
        psycopg.Error, match='"actor.transformer.*" and "critic.transformer.*" are the same parameter'
    ):
        over_connection(conn, folder / "m.pt", model)
