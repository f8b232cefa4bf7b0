"""The classroom model: a small GPT-2 that the kit trained itself, on its own stories, and ships.

`classroom` has 4 layers, `classroom-2` and `classroom-1` fewer; all share a tokenizer learned from the
stories. recipe.json records how they were made, `pg-llm classroom --layers 4` makes them again, bit for bit.
For 4 layers the stories came in stages, while the model trained: it read 224,000 of them, some twice or
more often. Its seed is, of four that were tried, the one with a head that copies and does little else.
"""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path

import psycopg

from pg_llm import catalog
from pg_llm.errors import KitError

FOLDER = Path(__file__).resolve().parent
MODELS = {4: "classroom", 2: "classroom-2", 1: "classroom-1"}
DEFAULT = MODELS[4]
TOKENIZER = "classroom"
SUMS = "SHA256SUMS"


def recipe() -> dict:
    """The contents of recipe.json: corpus, tokenizer, dimensions, and the arguments of llm_train."""
    return json.loads((FOLDER / "recipe.json").read_text("utf-8"))


def weights_file(layers: int) -> Path:
    """The shipped weights of a model, safetensors; the file need not exist. Example: weights_file(4)."""
    return FOLDER / f"{model_name(layers)}.safetensors"


def model_name(layers: int) -> str:
    """The name of the shipped model with that many layers. Errors: KitError."""
    if layers not in MODELS:
        raise KitError(f"there is no classroom model of {layers} layers; there are {sorted(MODELS)}")
    return MODELS[layers]


def shipped() -> list[int]:
    """The numbers of layers of the shipped models, largest first."""
    return [layers for layers in MODELS if weights_file(layers).is_file()]


def sums() -> dict[str, str]:
    """SHA-256 of each shipped file by name, from SHA256SUMS."""
    path = FOLDER / SUMS
    lines = path.read_text("ascii").splitlines() if path.is_file() else []
    return {name: digest for digest, name in (line.split("  ", 1) for line in lines)}


def digest() -> str:
    """Twelve hex digits that identify the shipped models."""
    return hashlib.sha256(json.dumps(sums()).encode()).hexdigest()[:12]


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def log(layers: int = 4) -> list[dict[str, float]]:
    """The training log of a shipped model: some dozens of steps per row, mean loss and gradient norm."""
    with (FOLDER / f"{model_name(layers)}.csv").open(newline="", encoding="ascii") as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def load(conn: psycopg.Connection) -> list[str]:
    """Loads the shipped tokenizer and models into a database, replacing any with their names.

    All or nothing; returns the models' names. Errors: KitError for a file that is not the shipped one.
    """
    from pg_llm.files.importer import load_model
    from pg_llm.files.tokenizer import load_tokenizer

    layers = shipped()
    if layers:
        _check(["vocab.json", "merges.txt", *(weights_file(n).name for n in layers)])
        with conn.transaction():
            load_tokenizer(conn, FOLDER / "vocab.json", FOLDER / "merges.txt", TOKENIZER, truncate=True)
            for n in layers:
                load_model(conn, weights_file(n), MODELS[n], progress=False, tokenizer=False)
                query = "UPDATE {0}.llm_model_config SET recipe = %s::jsonb WHERE model = %s"
                conn.execute(catalog.qualified(conn, query), [json.dumps(recipe()["train"]), MODELS[n]])
    return [MODELS[n] for n in layers]


def _check(names: list[str]) -> None:
    known = sums()
    for name in names:
        if sha256(FOLDER / name) != known.get(name):
            raise KitError(f"{FOLDER / name} is not the file that was shipped; install the kit again")
