"""Checkpoint files as named tensors, read in pieces: safetensors (and shards), npz, and PyTorch's with torch.

`with open_checkpoint(path) as checkpoint: checkpoint.tensors`. Tensor.pieces() reads values one piece at a
time, so that files of any size fit into memory.
"""

from __future__ import annotations

import contextlib
import json
import math
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
from numpy.lib import format as npy

from pg_llm.errors import KitError
from pg_llm.files.formats import describe
from pg_llm.files.layout import plain_name, to_gpt2

# Elements converted and sent at a time.
PIECE = 1 << 20
MAX_DIMS = 8
MAX_NPY_HEADER = 65536
CONFIG = "config.json"

# A folder's weights, the first that is there; the last three are diffusers'.
_NAMES = (
    *("model.safetensors", "model.npz", "pytorch_model.bin", "ckpt.pt"),
    *(f"diffusion_pytorch_model{kind}" for kind in (".safetensors", ".fp16.safetensors", ".bin")),
)

# safetensors' names of types that convert to float32; bfloat16 is read as the upper half of a float32.
_TYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "F64": "<f8"}
_FLOATS: dict[str, np.dtype] = {name: np.dtype(stored) for name, stored in _TYPES.items()}
# Near the beginning of PyTorch's files of before 1.6; later ones are ZIP archives.
_LEGACY_TORCH = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."


class CheckpointError(KitError, ValueError):
    """A checkpoint file is missing, damaged, or contains something other than weights."""


@dataclass
class Tensor:
    """name, dtype (F32, F16, BF16, F64 or another type's name) and shape; load() gives the stored array."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    load: Callable[[], np.ndarray] = field(repr=False)

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    def pieces(self) -> Iterator[np.ndarray]:
        """The values as little-endian float32, row-major, a flat piece at a time. Errors: CheckpointError."""
        if self.dtype not in _FLOATS:
            raise CheckpointError(f'tensor "{self.name}" has the type {self.dtype}, which is no float')
        stored = self.load().reshape(-1)  # a copy only if the file is in Fortran order
        for start in range(0, self.size, PIECE):
            piece = stored[start : start + PIECE]
            if self.dtype == "BF16":
                yield (piece.astype("<u4") << 16).view("<f4")
            else:
                with np.errstate(over="ignore"):
                    yield np.ascontiguousarray(piece, "<f4")


@dataclass
class Checkpoint:
    """The result of open_checkpoint: the tensors in the file's order, and config.json as text or None."""

    tensors: list[Tensor]
    config: str | None = None

    def find(self, name: str) -> Tensor | None:
        """The tensor with GPT-2's name, with or without the prefix `transformer.`"""
        return next((t for t in self.tensors if plain_name(t.name) == name), None)

    def stated(self, key: str):
        """The value of this key in config.json; None if the key or the file is missing."""
        return json.loads(self.config or "{}").get(key)

    def head_is_wte(self) -> bool:
        """True if a GPT-2's lm_head.weight and wte.weight both exist and are equal: the head is tied."""
        return same_values(self.find("lm_head.weight"), self.find("wte.weight"))

    @property
    def is_gpt2(self) -> bool:
        """True unless config.json states another model_type."""
        return self.stated("model_type") in (None, "gpt2")


def same_values(a: Tensor | None, b: Tensor | None) -> bool:
    """True if both tensors exist and are equal bit for bit, as float32."""
    if not a or not b or a.shape != b.shape or not {a.dtype, b.dtype} <= set(_FLOATS):
        return False
    pairs = zip(a.pieces(), b.pieces(), strict=True)
    return all(np.array_equal(x.view("<u4"), y.view("<u4")) for x, y in pairs)


def progress_bar(tensors: Iterable[Tensor], label: str, show: bool = True):
    """A tqdm bar over the bytes of these tensors as float32, shown only if they take over two seconds."""
    from tqdm.auto import tqdm

    total = 4 * sum(tensor.size for tensor in tensors)
    return tqdm(total=total, unit="B", unit_scale=True, desc=label, delay=2, leave=False, disable=not show)


@contextlib.contextmanager
def open_checkpoint(source: str | Path, *, as_gpt2: bool = True) -> Iterator[Checkpoint]:
    """A file, or a folder with model.safetensors (or its shards), model.npz, pytorch_model.bin or ckpt.pt.

    as_gpt2: tensors of other layouts get GPT-2's names; otherwise they are as the file has them.
    config.json is taken from inside the file (where pg_llm's exports write it), or from the same folder.
    Errors: CheckpointError that names the file. Example: `with open_checkpoint("gpt2") as c: len(c.tensors)`
    """
    path = Path(source).expanduser()
    checkpoint = Checkpoint([])
    with contextlib.ExitStack() as stack:
        for file in _files(path):
            with _told_of(file):
                _reader(file)(file, checkpoint, stack)
        if checkpoint.config is None:
            beside = (path if path.is_dir() else path.parent) / CONFIG
            if beside.is_file():
                with _told_of(beside):
                    checkpoint.config = beside.read_text("utf-8-sig")
        _check(path, checkpoint)
        if as_gpt2 and checkpoint.is_gpt2:
            to_gpt2(checkpoint)
        yield checkpoint


@contextlib.contextmanager
def _told_of(file: Path) -> Iterator[None]:
    """Turns errors of zipfile, zlib, NumPy and the system over a bad file into one that names the file."""
    try:
        yield
    except CheckpointError:
        raise
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{file}: text that is not UTF-8, at byte {error.start}") from error
    except (OSError, EOFError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        # Of several lines, NumPy's later ones advise to unpickle.
        text = getattr(error, "strerror", None) or str(error).partition("\n")[0]
        raise CheckpointError(f"{file}: {text}") from error


def _check(path: Path, checkpoint: Checkpoint) -> None:
    for name, count in Counter(t.name for t in checkpoint.tensors).most_common(1):
        if count > 1:
            raise CheckpointError(f'{path}: two tensors have the name "{name}"')
    for tensor in checkpoint.tensors:
        if not tensor.name or "\0" in tensor.name:
            raise CheckpointError(f"{path}: a tensor has the name {tensor.name!r}")
        if len(tensor.shape) > MAX_DIMS:
            raise CheckpointError(f'{path}: tensor "{tensor.name}" has more than {MAX_DIMS} dimensions')
    if checkpoint.config is not None:
        try:
            config = json.loads(checkpoint.config, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"{path}: config.json is no JSON: {error}") from error
        if not isinstance(config, dict):
            raise CheckpointError(f"{path}: config.json holds {checkpoint.config[:40]}, expected an object")


def read_json(file: Path) -> Any:
    """The value in a JSON file, with or without a byte order mark. Errors: CheckpointError."""
    try:
        return json.loads(file.read_text("utf-8-sig"))
    except OSError as error:
        raise CheckpointError(f"{file}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file}: no JSON: {error}") from error


def _no_constant(text: str):
    raise ValueError(f"{text} is no JSON number")


def _files(path: Path) -> list[Path]:
    if not path.exists():
        raise CheckpointError(f"{path}: no such file or folder")
    if not path.is_dir():
        return [path]
    for name in _NAMES:
        if (path / name).is_file():
            return [path / name]
        if (path / f"{name}.index.json").is_file():
            return _shards(path, path / f"{name}.index.json")
    what = "; it has a checkpoint of TensorFlow, which is not read" if [*path.glob("*.ckpt.index")] else ""
    raise CheckpointError(
        f"{path}: no model.safetensors, model.npz, pytorch_model.bin or ckpt.pt in it{what}; "
        "give the path of the file itself if it has another name"
    )


def _shards(folder: Path, index: Path) -> list[Path]:
    try:
        names = list(dict.fromkeys(json.loads(index.read_bytes())["weight_map"].values()))
        if not names or any(not name or "/" in name for name in names):
            raise ValueError("its values must be names of files beside it")
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise CheckpointError(f'{index}: no "weight_map" with file names ({error})') from error
    return [folder / name for name in names]


def _reader(file: Path):
    from pg_llm.files import other_formats
    from pg_llm.files.torch_file import read_torch

    with file.open("rb") as opened:
        first = opened.read(40)
    if other := other_formats.reader(first):
        return other
    if first[:4] in (b"PK\3\4", b"PK\5\6"):
        with zipfile.ZipFile(file) as archive:
            pickled = any(name.endswith("data.pkl") for name in archive.namelist())
        return read_torch if pickled else _read_npz
    return read_torch if _LEGACY_TORCH in first else _read_safetensors


def _read_safetensors(file: Path, checkpoint: Checkpoint, stack: contextlib.ExitStack) -> None:
    try:
        with safetensors.safe_open(file, framework="numpy") as opened:  # checks the whole header
            checkpoint.config = checkpoint.config or (opened.metadata() or {}).get(CONFIG)
    except safetensors.SafetensorError as error:
        if what := describe(file):
            raise CheckpointError(f"{file}: no checkpoint; it is {what}") from error
        raise CheckpointError(f"{file}: not a safetensors file, or a damaged one: {error}") from error
    with file.open("rb") as header:
        start = 8 + int.from_bytes(header.read(8), "little")
        # Pairs: of two tensors with one name, which the format forbids, a dict would keep the last.
        entries = json.loads(header.read(start - 8), object_pairs_hook=list)
    data = np.memmap(file, np.uint8, "r")
    for name, entry in ((name, dict(pairs)) for name, pairs in entries if name != "__metadata__"):
        begin, end = entry["data_offsets"]
        stored = data[start + begin : start + end]
        if entry["dtype"] in _FLOATS:
            stored = stored.view(_FLOATS[entry["dtype"]])
        checkpoint.tensors.append(
            Tensor(name, entry["dtype"], tuple(entry["shape"]), partial(np.asarray, stored))
        )


def _read_npz(file: Path, checkpoint: Checkpoint, stack: contextlib.ExitStack) -> None:
    arrays = stack.enter_context(np.load(file, allow_pickle=False, max_header_size=MAX_NPY_HEADER))
    for info in arrays.zip.infolist():
        member = info.filename
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise CheckpointError(
                f'{file}: member "{member}" is compressed by method {info.compress_type}; '
                "only stored (0) and deflate (8) are read"
            )
        if member == CONFIG:
            checkpoint.config = checkpoint.config or arrays.zip.read(member).decode()
            continue
        if member.endswith("/") and info.file_size == 0:
            continue
        if not member.endswith(".npy"):
            raise CheckpointError(f'{file}: member "{member}" is neither a .npy array nor config.json')
        name = member.removesuffix(".npy")
        with arrays.zip.open(member) as opened:
            # Version 3.0 differs from 2.0 only in the encoding of field names, which weights do not have.
            first = npy.read_magic(opened) == (1, 0)
            read_header = npy.read_array_header_1_0 if first else npy.read_array_header_2_0
            shape, _, dtype = read_header(opened, max_header_size=MAX_NPY_HEADER)
            left = info.file_size - opened.tell()
        if not dtype.hasobject and left != math.prod(shape) * dtype.itemsize:
            raise CheckpointError(
                f'{file}: array "{name}" has {left} bytes, its shape and type need another number'
            )
        kind = {"f4": "F32", "f2": "F16", "f8": "F64"}.get(dtype.str[1:], dtype.str)

        def load(member=member):
            with _told_of(file):
                return arrays[member]

        checkpoint.tensors.append(Tensor(name, kind, shape, load))
