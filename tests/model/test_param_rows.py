"""Embedding tables as rows, shared parameters resolved, a model by six columns, dimensions in calls."""

from __future__ import annotations

import numpy as np
import psycopg
import pytest
from helpers.tiny_model import make


@pytest.fixture
def pair(conn):
    """Model a, and b, which shares the token embedding of a."""
    with conn.transaction(force_rollback=True):
        for name, seed in (("a", 1), ("b", 2)):
            make(conn, name, seed=seed)
        conn.execute("SELECT llm_share_param('a', 'wte.weight', 'b', 'wte.weight')")
        conn.execute("UPDATE llm_param SET grad = data * 2.0, m = data + 1.0 WHERE name = 'wte.weight'")
        yield conn


def test_a_row_for_each_token_and_position(pair):
    for model, name, stored in (("a", "wte.weight", "a"), ("b", "wte.weight", "a"), ("b", "wpe.weight", "b")):
        whole = "SELECT data, grad, m, v FROM llm_param WHERE model = %s AND name = %s"
        data, grad, m, v = pair.execute(whole, (stored, name)).fetchone()
        by_row = (
            "SELECT token_id, data, grad, m, v FROM llm_param_row WHERE model = %s AND name = %s ORDER BY 1"
        )
        rows = pair.execute(by_row, (model, name)).fetchall()
        assert [row[0] for row in rows] == list(range(len(data)))
        assert np.array_equal(np.stack([row[1] for row in rows]), data)
        if name == "wte.weight":
            assert np.array_equal(np.stack([row[2] for row in rows]), grad)
            assert np.array_equal(np.stack([row[3] for row in rows]), m)
        else:
            assert grad is m is v is None and all(row[2] is None for row in rows)


def test_other_parameters_are_one_row(pair):
    query = (
        "SELECT r.token_id, r.data = p.data FROM llm_param_row AS r JOIN llm_param AS p USING (model, name)"
    )
    rows = pair.execute(query + " WHERE model = 'a' AND name NOT LIKE 'w_e.weight'").fetchall()
    assert len(rows) == 26 and set(rows) == {(0, True)}
    resolved = "SELECT count(*), count(DISTINCT name) FROM llm_param_resolved WHERE model = 'b'"
    assert pair.execute(resolved).fetchone() == (28, 28)


def test_only_the_rows_that_are_asked_for_are_read(conn):
    with conn.transaction(force_rollback=True):
        make(conn, "wide", d_model=1024, vocab=3000, n_head=1)
        buffers = (
            "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) SELECT data FROM llm_param_row WHERE model = 'wide'"
        )
        buffers += " AND name = 'wte.weight' AND token_id"

        def pages(condition):
            (plan,) = conn.execute(f"{buffers} {condition}").fetchone()[0]
            return plan["Plan"]["Shared Hit Blocks"] + plan["Plan"]["Shared Read Blocks"]

        assert pages("= 7") < pages(">= 0") / 5


def test_a_view_records_nothing(pair):
    pair.execute("INSERT INTO llm_autograd_mode VALUES (true)")
    pair.execute("SELECT sum(numel(data)) FROM llm_param_row WHERE model = 'a'")
    pair.execute("DELETE FROM llm_autograd_mode")
    assert pair.execute("SELECT count(*) FROM llm_tape").fetchone() == (0,)


def test_a_model_by_six_columns(conn):
    with conn.transaction(force_rollback=True):
        columns = "model, n_layer, n_head, d_model, n_positions, vocab"
        conn.execute(f"INSERT INTO llm_model_config ({columns}) VALUES ('six', 1, 2, 12, 16, 26)")
        conn.execute(f"INSERT INTO llm_model_config ({columns}, d_ff) VALUES ('seven', 1, 2, 12, 16, 26, 5)")
        query = "SELECT (llm_get_model_config(%s)).d_ff"
        assert [conn.execute(query, [name]).fetchone()[0] for name in ("six", "seven")] == [48, 5]
        conn.execute("SELECT llm_init_model('six', 1)")
        shape = "SELECT shape FROM llm_param_shapes('six') WHERE name = 'h.0.mlp.c_fc.weight'"
        assert conn.execute(shape).fetchone() == ([12, 48],)
        for rest in ("12, 16, 26", "12, NULL, NULL, 26", "12, 0, 16, 26", "2000000000, NULL, 16, 26"):
            with pytest.raises(psycopg.Error), conn.transaction():
                conn.execute(f"INSERT INTO llm_model_config VALUES ('p', 1, 2, {rest})")
        with pytest.raises(psycopg.Error), conn.transaction():
            conn.execute("UPDATE llm_model_config SET d_ff = NULL WHERE model = 'six'")
    with pytest.raises(psycopg.errors.UndefinedObject, match='no model "six"'):
        conn.execute("SELECT llm_get_model_config('six')")


def test_a_loss_with_dimensions(pair):
    call = "SELECT llm_loss('a', '{{1,2,3}}', '{{2,3,4}}'{})"
    loss = pair.execute(call.format("")).fetchone()
    for more in (", 2, 2, 8, 26", ", 2, 2, 8, 26, training => false", ", NULL, 2, NULL, 26, 0.1, false"):
        assert pair.execute(call.format(more)).fetchone() == loss
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="has n_layer 2"), pair.transaction():
        pair.execute(call.format(", 3, 2, 8, 26"))
    with pytest.raises(psycopg.errors.FeatureNotSupported, match="no dropout"), pair.transaction():
        pair.execute(call.format(", 2, 2, 8, 26, 0.1, true"))
