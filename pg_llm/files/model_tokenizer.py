"""The tokenizer of a model that is imported: the files beside the weights, or one that the database has."""

from __future__ import annotations

from pathlib import Path

import psycopg

from pg_llm import catalog
from pg_llm.errors import KitError
from pg_llm.files import tokenizer as tokenizers

# Files by which a tokenizer of another kind is known.
OTHER_KINDS = {
    "tokenizer.model": "SentencePiece",
    "spiece.model": "SentencePiece",
    "sentencepiece.bpe.model": "SentencePiece",
    "vocab.txt": "WordPiece",
}


def set_tokenizer(
    conn: psycopg.Connection, weights: Path, model: str, choice: bool | str
) -> tuple[str | None, str | None]:
    """Gives an imported model its tokenizer, inside the import's transaction.

    choice: True for the files beside the weights, False for none, or the name of one in the database.
    Returns the tokenizer that the model uses (None: none), and why the files were not loaded.
    Errors: KitError for a name that the database lacks, and for a file that is not UTF-8 or no JSON.
    """
    if isinstance(choice, str):
        _use(conn, model, choice)
        return choice, None
    folder = weights if weights.is_dir() else weights.parent
    files = tokenizers.files_of(conn, folder) if choice else {}
    if files:
        return _load(conn, folder, files, model)
    name = catalog.value(conn, catalog.qualified(conn, "SELECT {0}.llm_tokenizer(%s)"), [model])
    used = name if name and tokenizers.exists(conn, name) else None
    kind = next((file for file in OTHER_KINDS if (folder / file).is_file()), None)
    if choice and kind and used != model:
        return used, (
            f'the tokenizer of model "{model}" was not loaded: {folder / kind} is a tokenizer of '
            f"{OTHER_KINDS[kind]}, expected byte-level byte pair encoding as tokenizer.json, or vocab.json "
            "and merges.txt"
        )
    return used, None


def _load(
    conn: psycopg.Connection, folder: Path, files: dict[str, Path], model: str
) -> tuple[str | None, str | None]:
    texts = tokenizers.read_texts(folder, files)
    query = "SELECT tokenizer, reason FROM {0}._llm_import_tokenizer(%s::text[], %s::text[], %s)"
    try:
        return catalog.row(conn, catalog.qualified(conn, query), [list(texts), list(texts.values()), model])
    except psycopg.errors.InvalidTextRepresentation as error:
        raise KitError(
            f"{folder}: a file of the tokenizer is no JSON: {error.diag.message_primary}; "
            "with tokenizer=False the weights are loaded alone"
        ) from error


def _use(conn: psycopg.Connection, model: str, name: str) -> None:
    if not tokenizers.exists(conn, name):
        raise KitError(
            f'the database has no tokenizer "{name}"; SELECT DISTINCT model FROM llm_bpe_vocab lists them'
        )
    if name != model and tokenizers.exists(conn, model):
        raise KitError(
            f'model "{model}" has a tokenizer of its own name, which it uses; for "{name}", first '
            "DELETE FROM llm_bpe_vocab and llm_bpe_merges WHERE model is that name"
        )
    query = "UPDATE {0}.llm_model_config SET tokenizer = %s WHERE model = %s"
    conn.execute(catalog.qualified(conn, query), [name, model])
