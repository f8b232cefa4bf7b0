"""Files of token ids, encoded by nanoGPT, build-nanogpt or llm.c: .bin and .npy, as rows to train on."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pg_llm import catalog
from pg_llm.errors import KitError
from pg_llm.files.formats import describe

PIECE = 1 << 20
_TEXT = re.compile(rb"[\t\n\r -~]{32,}")  # as ids, all above 2000
_HEADER = 256  # int32 values at the beginning of llm.c's files
# The first two of them, and the type of an id.
_LLMC = {(20240520, 1): "<u2", (20240801, 7): "<u4"}
_OTHER = {
    20240326: "weights, which load_model reads",
    20240327: "a debugging state",
    20240328: "a tokenizer",
    20240522: "an evaluation with answers to choose from",
    20240527: "an optimizer's state",
}


def is_token_file(source: str | Path) -> bool:
    """True for the names .bin and .npy."""
    return Path(source).suffix in (".bin", ".npy")


def read(
    cursor, tokenizer: str, source: str | Path, end: int | None, bar
) -> Iterator[tuple[np.ndarray, bool]]:
    """The ids (N) of the file in pieces; True with the last, without an end token, which the caller appends.

    Errors: KitError if the file is damaged, or holds an id that the tokenizer does not have.
    """
    query = "SELECT max(token_id) FROM {0}.llm_bpe_vocab WHERE model = {0}.llm_tokenizer(%s)"
    (largest,) = cursor.execute(catalog.qualified(cursor.connection, query), [tokenizer]).fetchone()
    path = Path(source)
    ids = stored_ids(path)
    # uint32 read as uint16 is ids and their upper halves in turn
    if (
        path.suffix == ".bin"
        and ids.itemsize == 2
        and len(ids) >= 64
        and ids[1 : 2 * PIECE : 2].max() <= largest >> 16
    ):
        raise KitError(
            f"{path}: every second id is at most {largest >> 16}, as of uint32 or int64 ids read as uint16; "
            "write the file as uint16, or as .npy, which states its type: numpy.save"
        )
    whole = ids[:-1] if len(ids) and ids[-1] == end else ids
    for start in range(0, len(whole), PIECE):
        piece = whole[start : start + PIECE]
        wrong = np.flatnonzero((piece < 0) | (piece > largest))
        if len(wrong):
            raise KitError(
                f"{path}: id {piece[wrong[0]]} at position {start + wrong[0]} is no token of {tokenizer}, "
                f"whose ids end at {largest}; name the tokenizer that the file was made with"
            )
        yield piece.astype(np.int32), False
        bar.update(piece.nbytes)
    yield np.empty(0, np.int32), len(ids) > 0


def stored_ids(path: Path) -> np.ndarray:
    """The ids (N) in the file, mapped into memory.

    llm.c's files have a header, nanoGPT's are uint16 values alone, build-nanogpt's are arrays of NumPy.
    """
    try:
        if path.suffix == ".npy":
            if not _start(path).startswith(b"\x93NUMPY"):
                raise KitError(f"{path} is {describe(path) or 'no array'}; expected a .npy array of ids")
            ids = np.load(path, mmap_mode="r", allow_pickle=False)
        else:
            ids = _bin(path)
    except (OSError, EOFError, ValueError) as error:
        raise KitError(f"cannot read {path}: {str(error).partition(chr(10))[0]}") from error
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise KitError(
            f"{path} is an array of {ids.dtype} with shape {ids.shape}, expected ids in one dimension"
        )
    return ids


def _start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(512)


def _bin(path: Path) -> np.ndarray:
    size = path.stat().st_size
    header = np.fromfile(path, "<i4", _HEADER)
    magic, version, count = (int(value) for value in header[:3]) if len(header) == _HEADER else (0, 0, 0)
    if magic in _OTHER:
        raise KitError(f"{path} is a file of llm.c with {_OTHER[magic]}, expected tokens")
    kind = _LLMC.get((magic, version))
    if kind is None:
        if _TEXT.fullmatch(_start(path)):
            raise KitError(f"{path} is {describe(path) or 'text'}; expected uint16 ids")
        if size % 2:
            raise KitError(f"{path} has {size} bytes, which are no whole number of uint16 ids")
        return np.memmap(path, "<u2", "r") if size else np.empty(0, np.uint16)
    expected = 4 * _HEADER + count * np.dtype(kind).itemsize
    if size != expected:
        raise KitError(f"{path} has {size} bytes, expected {expected} for its {count} tokens; it is damaged")
    return np.memmap(path, kind, "r", 4 * _HEADER) if count else np.empty(0, np.uint16)
