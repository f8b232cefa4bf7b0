"""What a file is, by its first bytes: for the error where it is no checkpoint that the kit reads."""

from __future__ import annotations

import re
from pathlib import Path

_BEGIN: list[tuple[bytes, str]] = [
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file (.h5), as Keras and TensorFlow write it"),
    (
        b"version https://git-lfs",
        "a Git LFS pointer, which names the weights and does not hold them: git lfs pull",
    ),
    (b"BZh", "a bzip2 archive: unpack it"),
    (b"\xfd7zXZ\0", "an xz archive: unpack it"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive: unpack it"),
    (b"PK\3\4", "a ZIP archive"),
    (b"\xff\xfe", "UTF-16 text: save it as UTF-8"),
    (b"\xfe\xff", "UTF-16 text: save it as UTF-8"),
    (b"\x93NUMPY", "a single NumPy array (.npy); weights are several: numpy.savez(path, **{name: array})"),
    (b"model_checkpoint_path:", "an index of TensorFlow checkpoints"),
    (b"[PAD]\n", "a WordPiece vocabulary of BERT (vocab.txt)"),
    (b"[PAD]\r\n", "a WordPiece vocabulary of BERT (vocab.txt)"),
]
_PATTERNS: list[tuple[bytes, str]] = [
    (
        rb"(?i)\s*(<!doctype html|<html|<\?xml)",
        "an HTML page, not the file that it links to: download that one",
    ),
    (rb"\x80[\2-\5]", "a Python pickle, which can contain code and is not opened"),
    (rb"[A-Za-z0-9+/]+={0,2} \d+\r?\n", "a vocabulary of tiktoken (.tiktoken)"),
    (rb"\s*[{\[]", "JSON text"),
]
# The end of an index of TensorFlow, which has no beginning of its own.
_TABLE_END = bytes.fromhex("57fb808b247547db")


def describe(file: Path) -> str | None:
    """What the file is, with what to do where that is short; None where it is not known."""
    with file.open("rb") as opened:
        first = opened.read(512)
        opened.seek(max(0, file.stat().st_size - len(_TABLE_END)))
        last = opened.read()
    if not first:
        return "empty"
    if first[7:9] == b"\0{":  # the header of safetensors, whatever its length
        return None
    known = next((name for begin, name in _BEGIN if first.startswith(begin)), None)
    known = known or next((name for pattern, name in _PATTERNS if re.match(pattern, first)), None)
    if known is None and (last == _TABLE_END or ".ckpt.data-" in file.name):
        known = "a checkpoint of TensorFlow"
    return known
