"""A trained model, its checkpoints, and the state that a checkpoint must restore."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from helpers.tiny_model import make
from helpers.training import fill

TRAIN = (
    "SELECT llm_train(%s, 4, lr_max => 0.01, warmup => 1, batch_size => 2, seed => %s, dataset => 'letters')"
)


@pytest.fixture
def m(conn, folder):
    """A model after four steps of training, and a folder for files."""
    conn.execute("SELECT set_config('pg_llm.checkpoint_dir', %s, false)", [str(folder)])
    conn.execute("DELETE FROM llm_checkpoint; DELETE FROM llm_train_run; DELETE FROM llm_param_share")
    conn.execute("DELETE FROM llm_model_config WHERE model NOT LIKE 'gpt2%'; DELETE FROM llm_bpe_vocab")
    make(conn, "m")
    fill(conn, "letters", np.random.default_rng(3).integers(0, 26, (6, 9)))
    conn.execute(TRAIN, ("m", 1))
    return conn


def save(conn, kind="safetensors", model="m"):
    where = ("database", None) if kind == "rows" else ("file", kind)
    query = "SELECT llm_checkpoint_save(%s, 'a note', location => %s, format => %s)"
    return conn.execute(query, (model, *where)).fetchone()[0]


def load(conn, id, model="m"):
    return conn.execute("SELECT llm_checkpoint_load(%s, %s)", (model, id)).fetchone()[0]


def row(conn, id, columns="location"):
    return conn.execute(f"SELECT {columns} FROM llm_checkpoint WHERE id = %s", [id]).fetchone()


def location(conn, id):
    return Path(row(conn, id)[0])


def bits(conn, model="m"):
    """Every parameter's data, moments and step."""
    query = "SELECT name, data::bytea, m::bytea, v::bytea, step FROM llm_param WHERE model = %s ORDER BY name"
    return conn.execute(query, [model]).fetchall()


def sha256(conn, model="m"):
    return conn.execute("SELECT llm_model_sha256(%s)", [model]).fetchone()[0]
