"""Checkpoints in formats of other programs: llm.c's .bin, GGUF of llama.cpp, pg_gpt2's gzip archive.

Each reader appends the tensors under GPT-2's names, matrices (in,out), and the dimensions as config.json.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import math
import re
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.lib import format as npy

if TYPE_CHECKING:
    from pg_llm.files.checkpoint import Checkpoint

Reader = Callable[[Path, "Checkpoint", contextlib.ExitStack], None]

LLMC_HEADER = 256  # int32 values
_LLMC_TYPES: dict[int, tuple[str, np.dtype]] = {3: ("F32", np.dtype("<f4")), 5: ("BF16", np.dtype("<u2"))}
_LLMC_BLOCK = ("ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj")

_GGUF_NAMES = [
    (r"^token_embd\.", "wte."),
    (r"^position_embd\.", "wpe."),
    (r"^output_norm\.", "ln_f."),
    (r"^output\.", "lm_head."),
    (r"^blk\.(\d+)\.", r"h.\1."),
    (r"\.attn_norm\.", ".ln_1."),
    (r"\.attn_qkv\.", ".attn.c_attn."),
    (r"\.attn_output\.", ".attn.c_proj."),
    (r"\.ffn_norm\.", ".ln_2."),
    (r"\.ffn_up\.", ".mlp.c_fc."),
    (r"\.ffn_down\.", ".mlp.c_proj."),
]


def reader(first: bytes) -> Reader | None:
    """The reader of a file that begins with these bytes (nine at least); None if it is of no format here."""
    if first[4:9] == b"\0\0\0\0{":  # safetensors, whose header may have any length
        return None
    known = {b"GGUF": _read_gguf, (20240326).to_bytes(4, "little"): _read_llmc}
    return _read_pg_gpt2 if first[:2] == b"\x1f\x8b" else known.get(first[:4])


def _read_llmc(file: Path, checkpoint: Checkpoint, stack: contextlib.ExitStack) -> None:
    """llm.c: a header, then tensors of all layers at once, matrices (out,in)."""
    from pg_llm.files.checkpoint import CheckpointError, Tensor

    header = np.fromfile(file, "<i4", LLMC_HEADER)
    if len(header) < LLMC_HEADER:
        raise CheckpointError(f"{file}: a file of llm.c that is cut short, in its header of 1024 bytes")
    version, t, v, layers, heads, c, padded = (int(value) for value in header[1:8])
    if version not in _LLMC_TYPES:
        raise CheckpointError(
            f"{file}: version {version} of llm.c's weights, expected 3 (float32) or 5 (bfloat16)"
        )
    kind, stored = _LLMC_TYPES[version]
    wide = {
        "attn.c_attn": (3 * c, c),
        "attn.c_proj": (c, c),
        "mlp.c_fc": (4 * c, c),
        "mlp.c_proj": (c, 4 * c),
    }
    shapes: list[tuple[str, tuple[int, ...]]] = [("wte.weight", (padded, c)), ("wpe.weight", (t, c))]
    for name in _LLMC_BLOCK:
        weight = wide.get(name, (c,))
        shapes += [(f"h.*.{name}.weight", (layers, *weight)), (f"h.*.{name}.bias", (layers, weight[0]))]
    shapes += [("ln_f.weight", (c,)), ("ln_f.bias", (c,))]
    size = 4 * LLMC_HEADER + stored.itemsize * sum(math.prod(shape) for _, shape in shapes)
    if min(t, v, layers, heads, c) < 1 or padded < v or size != file.stat().st_size:
        raise CheckpointError(
            f"{file}: {file.stat().st_size} bytes, expected {size} for its n_layer {layers}, n_head {heads}, "
            f"n_embd {c}, n_positions {t}, vocab_size {v} (padded to {padded}); it is damaged or cut short"
        )
    data, at = np.memmap(file, stored, "r", 4 * LLMC_HEADER), 0
    for name, shape in shapes:
        values, at = data[at : at + math.prod(shape)].reshape(shape), at + math.prod(shape)
        layered = name.startswith("h.")
        for i, one in enumerate(values if layered else [values[:v] if name == "wte.weight" else values]):
            one = one.T if layered else one
            checkpoint.tensors.append(
                Tensor(name.replace("*", str(i)), kind, one.shape, partial(np.asarray, one))
            )
    checkpoint.config = checkpoint.config or json.dumps(
        {"vocab_size": v, "n_positions": t, "n_embd": c, "n_layer": layers, "n_head": heads}
    )


def _read_gguf(file: Path, checkpoint: Checkpoint, stack: contextlib.ExitStack) -> None:
    """GGUF, as llama.cpp converts GPT-2: matrices of blocks are (out,in)."""
    from pg_llm.files.checkpoint import CheckpointError, Tensor

    try:
        from gguf import GGUFReader
        from gguf.quants import dequantize
    except ImportError:
        raise CheckpointError(
            f"{file} is a GGUF file, and the package gguf is not installed: pip install gguf, "
            "or get the model's safetensors file"
        ) from None
    try:
        opened = GGUFReader(file)
        facts = {key: field.contents() for key, field in opened.fields.items() if "tokenizer" not in key}
    except Exception as error:  # of NumPy and of the package, for bytes that make no sense
        raise CheckpointError(f"{file}: a GGUF file that the package gguf cannot read: {error}") from error
    if facts.get("general.architecture") != "gpt2":
        raise CheckpointError(
            f"{file} is a GGUF file of architecture {facts.get('general.architecture')}, expected gpt2"
        )
    for tensor in opened.tensors:
        name = tensor.name
        for pattern, replacement in _GGUF_NAMES:
            name = re.sub(pattern, replacement, name)
        turned = name.startswith("h.") and len(tensor.shape) == 2
        shape = tuple(int(n) for n in tensor.shape)  # the fastest dimension first

        def load(tensor=tensor, turned=turned):
            try:
                values = dequantize(tensor.data, tensor.tensor_type)
            except NotImplementedError as error:
                raise CheckpointError(
                    f'{file}: tensor "{tensor.name}" is {tensor.tensor_type.name}, which the package '
                    "gguf cannot convert; write the file as F32, F16, BF16 or Q8_0"
                ) from error
            return values.T if turned else values

        checkpoint.tensors.append(Tensor(name, "F32", shape if turned else shape[::-1], load))
    keys = {"n_head": "attention.head_count", "layer_norm_epsilon": "attention.layer_norm_epsilon"}
    keys |= {"n_inner": "feed_forward_length", "n_positions": "context_length"}
    keys |= {"n_embd": "embedding_length", "n_layer": "block_count"}
    found = {key: facts[f"gpt2.{name}"] for key, name in keys.items() if f"gpt2.{name}" in facts}
    # A float32 in the file: 1e-05 is read as 9.999999747e-06.
    config = {
        key: float(f"{value:.7g}") if isinstance(value, float) else value for key, value in found.items()
    }
    checkpoint.config = checkpoint.config or json.dumps(config)


def _read_pg_gpt2(file: Path, checkpoint: Checkpoint, stack: contextlib.ExitStack) -> None:
    """pg_gpt2: the length of a name, the name and a .npy array, in turn, gzipped.

    All tensors are in memory at once: such a file has no index.
    """
    from pg_llm.files.checkpoint import CheckpointError, Tensor

    try:
        with gzip.open(file) as archive:
            while length := archive.read(2):
                name = archive.read(int.from_bytes(length, "little")).decode()
                array = npy.read_array(archive, allow_pickle=False)
                name += ".weight" if name in ("wte", "wpe") else ""
                kind = {"f4": "F32", "f2": "F16", "f8": "F64"}.get(array.dtype.str[1:], array.dtype.str)
                checkpoint.tensors.append(Tensor(name, kind, array.shape, partial(np.asarray, array)))
    except (OSError, EOFError, ValueError, MemoryError, zlib.error) as error:
        reason = str(error).partition("\n")[0]
        raise CheckpointError(
            f"{file}: a gzip archive, and none of pg_gpt2 (names and .npy arrays), or a damaged one: "
            f"{reason}; unpack it first if it is another"
        ) from error
