"""Helpers for tests of import and export: random GPT-2s, files of every kind, the tables' contents."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import pg_llm

# vocab, positions, channels, layers, feed-forward width: all different, so that no shape fits by accident
DIMS = (11, 7, 6, 2, 10)
CONFIG = {"vocab_size": 11, "n_positions": 7, "n_embd": 6, "n_layer": 2, "n_head": 3, "n_inner": 10}


def gpt2(dims=DIMS, head=None, seed=0, dtype=np.float32) -> dict[str, np.ndarray]:
    """Random weights under GPT-2's names; head: None (tied) or "separate" or "equal"."""
    v, p, c, layers, f = dims
    shapes = {"wte.weight": (v, c), "wpe.weight": (p, c)}
    for i in range(layers):
        block = {"ln_1.weight": (c,), "ln_1.bias": (c,), "attn.c_attn.weight": (c, 3 * c)}
        block |= {"attn.c_attn.bias": (3 * c,), "attn.c_proj.weight": (c, c), "attn.c_proj.bias": (c,)}
        block |= {"ln_2.weight": (c,), "ln_2.bias": (c,), "mlp.c_fc.weight": (c, f), "mlp.c_fc.bias": (f,)}
        block |= {"mlp.c_proj.weight": (f, c), "mlp.c_proj.bias": (c,)}
        shapes |= {f"h.{i}.{name}": shape for name, shape in block.items()}
    shapes |= {"ln_f.weight": (c,), "ln_f.bias": (c,)}
    random = np.random.default_rng(seed)
    weights = {name: random.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}
    if head == "separate":
        weights["lm_head.weight"] = random.standard_normal((v, c)).astype(dtype)
    elif head == "equal":
        weights["lm_head.weight"] = weights["wte.weight"].copy()
    return weights


NUMPY_NAMES = {"<f4": "F32", "<f2": "F16", "<f8": "F64", "|b1": "BOOL", "|u1": "U8", "<i8": "I64"}


def write_safetensors(path: Path, tensors: dict[str, np.ndarray], dtypes=(), metadata=None) -> Path:
    """A writer of our own, so that a test can also write files that the safetensors package would reject."""
    header, blobs, at = ({"__metadata__": metadata} if metadata else {}), [], 0
    for name, array in tensors.items():
        dtype = dict(dtypes).get(name) or NUMPY_NAMES[array.dtype.str]
        header[name] = {"dtype": dtype, "shape": array.shape, "data_offsets": [at, at + array.nbytes]}
        blobs.append(array.tobytes())
        at += array.nbytes
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(blobs))
    path.chmod(0o644)
    return path


@pytest.fixture
def folder(home, request):
    """A folder that the server can read and write, whatever user it has."""
    path = home / f"files {request.node.name[:40].replace('/', '_')}"
    path.mkdir()
    path.chmod(0o777)
    yield path
    shutil.rmtree(path)


def visible(path: Path) -> Path:
    """Lets the server's user read the file."""
    for each in [path, *path.rglob("*")] if path.is_dir() else [path]:
        each.chmod(0o777 if each.is_dir() else 0o644)
    return path


def by_path(conn, path, model, ignore_surplus=False):
    function = "npz" if str(path).endswith(".npz") else "safetensors"
    query = f"SELECT * FROM pg_llm_import_{function}(%s, %s, ignore_surplus => %s)"
    return conn.execute(query, [str(path), model, ignore_surplus]).fetchone()


def over_connection(conn, path, model, ignore_surplus=False):
    return pg_llm.load_model(conn, path, model, ignore_surplus=ignore_surplus, progress=False)


WAYS = pytest.mark.parametrize("load", [by_path, over_connection])


def stored(conn, model) -> dict[str, np.ndarray]:
    cursor = conn.cursor(binary=True)
    query = "SELECT name, data FROM llm_param WHERE model = %s"
    return {name: np.array(data) for name, data in cursor.execute(query, [model])}


def same(a: dict, b: dict) -> bool:
    """The same names, shapes and bits."""
    return a.keys() == b.keys() and all(
        a[n].shape == b[n].shape and a[n].astype("<f4").tobytes() == b[n].astype("<f4").tobytes() for n in a
    )


def config_of(conn, model):
    query = "SELECT n_layer, n_head, d_model, d_ff, n_positions, vocab, options FROM llm_model_config "
    return conn.execute(query + "WHERE model = %s", [model]).fetchone()


def nothing_left(conn, model) -> bool:
    tables = ["llm_model_config", "llm_graph", "llm_param"]
    return not any(
        conn.execute(f"SELECT count(*) FROM {t} WHERE model = %s", [model]).fetchone()[0] for t in tables
    )


@pytest.fixture
def model(request, conn):
    """A model name for this test, dropped afterwards."""
    name = request.node.name[:60]
    yield name
    for table in ["llm_param", "llm_graph", "llm_model_config"]:
        conn.execute(f"DELETE FROM {table} WHERE model = %s", [name])
