"""convert(source, output): any checkpoint that the kit reads, as one .npz or .safetensors file of float32."""

from __future__ import annotations

import contextlib
import json
import os
import re
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from pg_llm.files.checkpoint import (
    CONFIG,
    Checkpoint,
    CheckpointError,
    Tensor,
    open_checkpoint,
    progress_bar,
)
from pg_llm.files.hub import find
from pg_llm.files.layout import in_out, is_buffer, plain_name

# The weights that have a bias beside them.
_BIASED = re.compile(r"(h\.\d+\..*|ln_f)\.weight$")


def convert(source: str | Path, output: str | Path, *, revision: str | None = None) -> None:
    """Writes source (a folder, a file, a model of the hub) to output, in the format of output's extension.

    Names, layout and biases are GPT-2's: prefixes such as `transformer.` are gone, weights are (in,out), a
    model without biases has zeros. Causal masks and a head that equals wte are left out, and config.json is
    stored in the file. Other architectures keep all three. output appears complete or not at all.
    revision: of a model of the hub, a branch, tag or commit.
    Errors: KitError. Example: convert("openai-community/gpt2", "gpt2.npz")
    """
    output = Path(output).expanduser()
    writers = {".npz": _write_npz, ".safetensors": write_safetensors}
    if output.suffix not in writers:
        raise CheckpointError(f"{output}: the name must end in .npz or .safetensors")
    source = find(source, revision=revision)
    with open_checkpoint(source) as checkpoint:
        tensors = _weights(source, checkpoint)
        config = checkpoint.config
        if checkpoint.is_gpt2:
            tensors, config = _with_biases(tensors, config)
        bar = progress_bar((tensor for _, tensor in tensors), output.name)
        with replacing(output) as part, part.open("xb") as file, bar:
            writers[output.suffix](file, tensors, config, bar)
            file.flush()
            os.fsync(file.fileno())


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file beside `path` to write to, which takes its place at the end, or is deleted after an error.

    Errors: CheckpointError for those of the system.
    """
    part = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        yield part
        part.replace(path)
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)


def _weights(source: Path, checkpoint: Checkpoint) -> list[tuple[str, Tensor]]:
    tied = checkpoint.head_is_wte() and checkpoint.stated("tie_word_embeddings") is not False
    weights = [(plain_name(t.name), t) for t in in_out(checkpoint.tensors) if not is_buffer(t.name)]
    weights = [(name, tensor) for name, tensor in weights if not (tied and name == "lm_head.weight")]
    if not weights:
        raise CheckpointError(f"{source}: no tensors in it")
    if len({name for name, _ in weights}) < len(weights):
        raise CheckpointError(
            f'{source}: a tensor is there both with and without a prefix such as "transformer."'
        )
    return weights


def _with_biases(
    weights: list[tuple[str, Tensor]], config: str | None
) -> tuple[list[tuple[str, Tensor]], str | None]:
    """Adds zeros for biases that a model does not have: all, or those of queries, keys and values."""
    names = {name for name, _ in weights}
    matrices = [(name.removesuffix("weight") + "bias", t) for name, t in weights if re.match(_BIASED, name)]
    missing = [(name, t) for name, t in matrices if name not in names]
    kind = "bias" if len(missing) == len(matrices) else "qkv_bias"
    if not missing or (
        kind == "qkv_bias" and not all(name.endswith(".attn.c_attn.bias") for name, _ in missing)
    ):
        return weights, config
    zeros = [
        (name, Tensor(name, "F32", t.shape[-1:], partial(np.zeros, t.shape[-1:], "<f4")))
        for name, t in missing
    ]
    return weights + zeros, json.dumps(json.loads(config or "{}") | {kind: False})


def _write_values(file, tensor: Tensor, bar) -> None:
    for piece in tensor.pieces():
        file.write(piece.data.cast("B"))
        bar.update(piece.nbytes)


def _write_npz(file, tensors: list[tuple[str, Tensor]], config: str | None, bar) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        for name, tensor in tensors:
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                header = {"descr": "<f4", "fortran_order": False, "shape": tensor.shape}
                npy.write_array_header_1_0(member, header)
                _write_values(member, tensor, bar)
        if config is not None:
            archive.writestr(zipfile.ZipInfo(CONFIG), config)


def save_safetensors(path: Path, arrays: dict[str, np.ndarray], config: str | None = None) -> None:
    """Writes arrays in memory as float32, in the order given; config is config.json's text."""
    tensors = [
        (name, Tensor(name, "F32", data.shape, partial(np.asarray, data))) for name, data in arrays.items()
    ]
    with path.open("wb") as file:
        write_safetensors(file, tensors, config, progress_bar([], path.name, show=False))


def write_safetensors(file, tensors: list[tuple[str, Tensor]], config: str | None, bar) -> None:
    """Writes the whole file as float32, tensors in the order given; bar.update(bytes) is called per piece."""
    # transformers rejects files that do not name the framework of their layout.
    header: dict = {"__metadata__": {"format": "pt"} | ({CONFIG: config} if config is not None else {})}
    at = 0
    for name, tensor in tensors:
        header[name] = {"dtype": "F32", "shape": tensor.shape, "data_offsets": [at, at + 4 * tensor.size]}
        at += 4 * tensor.size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for _, tensor in tensors:
        _write_values(file, tensor, bar)
