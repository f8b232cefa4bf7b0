"""pg_llm.attention_chunk: the number of queries per chunk of attention changes memory, never a result."""

from __future__ import annotations

import psycopg
import pytest
from helpers import tiny_model

CHUNKS = (128, 256, 384, 1024)


@pytest.fixture(scope="module")
def model(database):
    """A model whose sequences are longer than two chunks, and a dataset of such sequences."""
    import pg_llm

    with pg_llm.connect(database) as conn:
        tiny_model.make(conn, "long", n_layer=2, n_head=2, d_model=16, n_positions=300, vocab=50)
        conn.execute(
            "INSERT INTO llm_dataset (dataset, tokens, target) SELECT 'long', t, t FROM (SELECT array_agg("
            "(i * i + r * 7) % 50) FROM generate_series(1, 290) AS i, generate_series(1, 2) AS r GROUP BY r)"
            " AS rows(t)"
        )
    return "long"


def bits(conn, query: str) -> str:
    return conn.execute(query).fetchone()[0]


LOGITS = (
    "SELECT md5(tensor_send(llm_logits((SELECT tokens FROM llm_dataset WHERE dataset = 'long' LIMIT 1),"
    " 'long'))::text)"
)
TRAIN = (
    "SELECT llm_train('long', 2, lr_max => 0.01, warmup => 1, batch_size => 2, dropout_p => 0.1, seed => 3,"
    " dataset => 'long')"
)
WEIGHTS = (
    "SELECT md5(string_agg(tensor_send(data)::text, '' ORDER BY name)) FROM llm_param WHERE model = 'long'"
)


def test_no_result_depends_on_it(conn, model):
    results = set()
    for chunk in CHUNKS:
        for threads in (1, 2):
            conn.execute(f"SET pg_llm.attention_chunk = {chunk}")
            conn.execute(f"SET pg_llm.threads = {threads}")
            logits = bits(conn, LOGITS)
            with conn.transaction(force_rollback=True):
                conn.execute(TRAIN)
                results.add((logits, bits(conn, WEIGHTS)))
    assert len(results) == 1


@pytest.mark.parametrize("value", ["129", "200", "-128", "0", "64", "1e9", "2147483520", "'many'"])
def test_whole_blocks_only(conn, value):
    with pytest.raises(psycopg.errors.InvalidParameterValue) as error:
        conn.execute(f"SET pg_llm.attention_chunk = {value}")
    assert "attention_chunk" in str(error.value)
    assert conn.execute("SHOW pg_llm.attention_chunk").fetchone()[0] == "128"


def test_the_error_names_the_neighbours(conn):
    with pytest.raises(psycopg.errors.InvalidParameterValue) as error:
        conn.execute("SET pg_llm.attention_chunk = 200")
    assert error.value.diag.message_detail == "It must be a multiple of 128."
    assert "128 and 256" in error.value.diag.message_hint
