"""Checkpoints of other programs, written as those do: llm.c's .bin, GGUF, pg_gpt2's gzip archive."""

from __future__ import annotations

import gzip
import io
import json

import numpy as np
import pytest
from helpers.checkpoint_files import config_of, gpt2, same, stored
from helpers.checkpoint_files import model as model

import pg_llm
from pg_llm.files.checkpoint import CheckpointError, open_checkpoint
from pg_llm.files.convert import convert

DIMS = (50, 7, 32, 2, 128)  # vocab, positions, channels (of whole blocks of q8_0), layers, feed-forward width
HEADS = 4
MATRICES = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
ORDER = ["ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj"]


def bfloat16(array):
    """The upper halves of float32 values, rounded to nearest even."""
    bits = array.astype("<f4").view("<u4")
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")


def llmc(weights, version=3, **changes) -> bytes:
    """As llm.c's write_model: a header, then each tensor of all layers, matrices (out,in)."""
    v, t, c, layers, _ = DIMS
    padded = -(-v // 128) * 128
    header = np.zeros(256, "<i4")
    header[:8] = [20240326, version, t, v, layers, HEADS, c, padded]
    for at, value in changes.items():
        header[int(at[1:])] = value
    wte = np.pad(weights["wte.weight"], [(0, padded - v), (0, 0)])
    tensors = [wte, weights["wpe.weight"]]
    for name in ORDER:
        for kind in ("weight", "bias"):
            tensors += [weights[f"h.{i}.{name}.{kind}"].T for i in range(layers)]
    tensors += [weights["ln_f.weight"], weights["ln_f.bias"]]
    values = np.concatenate([tensor.reshape(-1) for tensor in tensors])
    return header.tobytes() + (bfloat16(values) if version == 5 else values.astype("<f4")).tobytes()


def pg_gpt2(weights) -> bytes:
    """As pg_gpt2 converts GPT-2: names and .npy arrays in one gzip stream."""
    out = io.BytesIO()
    with gzip.open(out, "wb") as archive:
        for name in sorted(weights):
            short = {"wte.weight": "wte", "wpe.weight": "wpe"}.get(name, name).encode()
            archive.write(len(short).to_bytes(2, "little") + short)
            np.lib.format.write_array(archive, weights[name])
    return out.getvalue()


def gguf_file(path, weights, kind="F32", architecture="gpt2", head=False, dims=DIMS):
    """As llama.cpp converts GPT-2: vectors float32, matrices (out,in) of the kind."""
    gguf = pytest.importorskip("gguf")
    names = {"wte": "token_embd", "wpe": "position_embd", "ln_f": "output_norm", "lm_head": "output"}
    names |= {
        "ln_1": "attn_norm",
        "attn.c_attn": "attn_qkv",
        "attn.c_proj": "attn_output",
        "ln_2": "ffn_norm",
    }
    names |= {"mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down"}
    writer = gguf.GGUFWriter(path, architecture)
    v, t, c, layers, f = dims
    writer.add_block_count(layers)
    writer.add_context_length(t)
    writer.add_embedding_length(c)
    writer.add_feed_forward_length(f)
    writer.add_head_count(HEADS)
    writer.add_layer_norm_eps(1e-5)
    writer.add_token_list([f"t{i}" for i in range(v)])
    for name, array in (weights | ({"lm_head.weight": weights["wte.weight"]} if head else {})).items():
        stem, end = name.rsplit(".", 1)
        if stem.startswith("h."):
            _, layer, stem = stem.split(".", 2)
            new, array = f"blk.{layer}.{names[stem]}.{end}", array.T
        else:
            new = f"{names[stem]}.{end}"
        stored_as = gguf.GGMLQuantizationType[kind if array.ndim == 2 else "F32"]
        data = gguf.quants.quantize(np.ascontiguousarray(array), stored_as)
        writer.add_tensor(new, data, raw_dtype=stored_as)
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
    return path


def read(path):
    """The tensors of a file, and its config."""
    with open_checkpoint(path) as checkpoint:
        pieces = {t.name: np.concatenate([*t.pieces()]).reshape(t.shape) for t in checkpoint.tensors}
        return pieces, json.loads(checkpoint.config or "{}")


def test_llmc(conn, tmp_path, model):
    weights = gpt2(DIMS)
    path = tmp_path / "gpt2_124M.bin"
    path.write_bytes(llmc(weights))
    pg_llm.load_model(conn, path, model, progress=False)
    assert same(stored(conn, model), weights)
    assert config_of(conn, model)[:6] == (2, HEADS, 32, 128, 7, 50)
    path.write_bytes(llmc(weights, version=5))
    half, config = read(path)
    widened = {n: (bfloat16(a).astype("<u4") << 16).view("<f4") for n, a in weights.items()}
    assert same(half, widened) and config["n_head"] == HEADS
    convert(path, tmp_path / "converted.npz")
    assert same(read(tmp_path / "converted.npz")[0], widened)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda data: data[:500], "cut short, in its header"),
        (lambda data: data[:-4], "bytes, expected"),
        (lambda data: data + b"\0\0\0\0", "bytes, expected"),
        (lambda data: llmc(gpt2(DIMS), _4=3), "n_layer 3"),
        (lambda data: llmc(gpt2(DIMS), _3=129), r"vocab_size 129 \(padded to 128\)"),
        (lambda data: llmc(gpt2(DIMS), _4=-1), "n_layer -1"),
        (lambda data: llmc(gpt2(DIMS), _5=0), "n_head 0"),
        (lambda data: llmc(gpt2(DIMS), _1=1), "version 1 of llm.c's weights, expected 3"),
    ],
)
def test_damaged_llmc(tmp_path, damage, words):
    path = tmp_path / "damaged.bin"
    path.write_bytes(damage(llmc(gpt2(DIMS))))
    with pytest.raises(CheckpointError, match=words) as error:
        read(path)
    assert str(path) in str(error.value)


def test_pg_gpt2(conn, tmp_path, model):
    weights = gpt2(DIMS)
    path = tmp_path / "gpt2-small.npz"
    path.write_bytes(pg_gpt2(weights))
    (tmp_path / "config.json").write_text(json.dumps({"n_head": HEADS}))
    pg_llm.load_model(conn, path, model, progress=False)
    assert same(stored(conn, model), weights)
    whole = path.read_bytes()
    huge = (
        b"\3\0wte" + b"\x93NUMPY\1\0v\0{'descr': '<f4', 'fortran_order': False, 'shape': (2000000000000000,)}"
    )
    others = [gzip.compress(b"a text"), gzip.compress(b"\2\0abc"), gzip.compress(huge.ljust(133) + b"\n")]
    pickled = io.BytesIO()
    np.save(pickled, np.array([{}]), allow_pickle=True)
    for damaged in [whole[:-20], whole[:99], *others, gzip.compress(b"\3\0wte" + pickled.getvalue())]:
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="a gzip archive, and none of pg_gpt2") as error:
            read(path)
        assert str(path) in str(error.value) and "allow_pickle=True" not in str(error.value)


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0"])
def test_gguf(conn, tmp_path, model, kind):
    weights = gpt2(DIMS)
    path = gguf_file(tmp_path / "gpt2.gguf", weights, kind, head=True)
    pg_llm.load_model(conn, path, model, progress=False)
    got = stored(conn, model)
    assert got.keys() == weights.keys() and config_of(conn, model)[:6] == (2, HEADS, 32, 128, 7, 50)
    for name, array in weights.items():
        # The largest error of a step: 2^-11 and 2^-8 of a value, half a 127th of the largest of 32.
        exact = kind == "F32" or array.ndim == 1
        error = 0 if exact else {"F16": 2**-11, "BF16": 2**-8, "Q8_0": 1 / 250}[kind] * abs(array).max()
        assert abs(got[name] - array).max() <= error
        assert exact or abs(got[name] - array).max() > 0


def test_gguf_of_another_width(conn, tmp_path, model):
    dims = (50, 7, 32, 2, 96)
    pg_llm.load_model(conn, gguf_file(tmp_path / "gpt2.gguf", gpt2(dims), dims=dims), model, progress=False)
    assert same(stored(conn, model), gpt2(dims)) and config_of(conn, model)[3] == 96


def test_gguf_of_a_type_that_the_package_cannot_convert(conn, tmp_path, model):
    gguf = pytest.importorskip("gguf")
    path = tmp_path / "gpt2.gguf"
    writer = gguf.GGUFWriter(path, "gpt2")
    writer.add_head_count(HEADS)
    for name, array in gpt2(DIMS).items():
        stem = {"wte.weight": "token_embd.weight", "wpe.weight": "position_embd.weight"}.get(name, name)
        writer.add_tensor(stem, array.astype(np.float64).T if array.ndim == 2 and stem == name else array)
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
    with pytest.raises(CheckpointError, match='gpt2.gguf: tensor ".*" is F64, which .* gguf cannot convert'):
        pg_llm.load_model(conn, path, model, progress=False)
    assert not stored(conn, model)


def test_other_gguf(tmp_path, monkeypatch):
    path = gguf_file(tmp_path / "llama.gguf", gpt2(DIMS), architecture="llama")
    with pytest.raises(CheckpointError, match="a GGUF file of architecture llama, expected gpt2"):
        read(path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="a GGUF file that the package gguf cannot read"):
        read(path)
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    with pytest.raises(CheckpointError, match="pip install gguf"):
        read(path)
