"""A model of one layer named small, its dataset, and all state that training changes."""

import numpy as np
import pytest

SIZE = (2, 3, 33, 17, 101, {})
ROWS, T = 6, 12


def fill(conn, dataset, tokens):
    conn.execute("DELETE FROM llm_dataset WHERE dataset = %s", (dataset,))
    for row in tokens:
        query = "INSERT INTO llm_dataset (dataset, tokens, target) VALUES (%s, %s::int[], %s::int[])"
        conn.execute(query, (dataset, row[:-1].tolist(), row[1:].tolist()))
    query = "SELECT array_agg(id ORDER BY id) FROM llm_dataset WHERE dataset = %s"
    return conn.execute(query, (dataset,)).fetchone()[0]


@pytest.fixture(scope="module")
def tokens():
    return np.random.default_rng(5).integers(0, SIZE[4], (ROWS, T + 1))


def bits(conn):
    query = "SELECT md5(string_agg(name || tensor_send(data)::text || coalesce(tensor_send(m)::text, '') ||"
    query += (
        " coalesce(tensor_send(v)::text, '') || step, '' ORDER BY name)) FROM llm_param WHERE model = 'small'"
    )
    return conn.execute(query).fetchone()[0]


def everything(conn):
    """Weights, moments, steps, log, runs and version."""
    log = conn.execute("SELECT * FROM llm_train_log WHERE model = 'small' ORDER BY id").fetchall()
    runs = conn.execute("SELECT * FROM llm_train_run WHERE model = 'small' ORDER BY run").fetchall()
    version = conn.execute("SELECT version FROM llm_model_version WHERE model = 'small'").fetchone()
    return bits(conn), log, runs, version
