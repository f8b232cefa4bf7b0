"""Weights are rows of a transaction: a session computes with those that its statement's snapshot sees."""

import threading
import time

import numpy as np
import psycopg
import pytest
from helpers.tiny_model import ids, letters, logits, make

import pg_llm

TOKENS = ids("abcdefgh")
DOUBLE = "UPDATE llm_param SET data = data * 2::real::tensor WHERE model = %s AND name = 'wte.weight'"


@pytest.fixture
def m(conn):
    """The connection, with a new model "m"."""
    conn.execute("DELETE FROM llm_model_config WHERE model = 'm'")
    conn.execute("DELETE FROM llm_bpe_vocab WHERE model = 'm'")
    make(conn, "m")
    return conn


def bits(conn, model="m"):
    return logits(conn, model, TOKENS).tobytes()


def test_an_update_counts_at_once_here_and_when_committed_elsewhere(m, connect):
    other, repeatable = connect(), connect()
    before = bits(m)
    assert bits(other) == before
    repeatable.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    assert bits(repeatable) == before
    m.execute("BEGIN")
    m.execute(DOUBLE, ["m"])
    after = bits(m)
    assert after != before
    assert bits(other) == before and bits(repeatable) == before
    m.execute("COMMIT")
    assert bits(other) == after == bits(m)
    assert bits(repeatable) == before
    repeatable.execute("COMMIT")
    assert bits(repeatable) == after


def test_rollback_restores_every_bit(m, connect):
    states = [bits(m)]
    with pytest.raises(ZeroDivisionError), m.transaction():
        m.execute(DOUBLE, ["m"])
        states.append(bits(m))
        with pytest.raises(KeyError), m.transaction():
            m.execute(DOUBLE, ["m"])
            m.execute("UPDATE llm_graph SET op = 'relu' WHERE model = 'm' AND op = 'gelu'")
            states.append(bits(m))
            raise KeyError
        assert bits(m) == states[1]
        raise ZeroDivisionError
    assert bits(m) == states[0] and len(set(states)) == 3
    assert bits(connect()) == states[0]


def test_inside_one_function(m):
    m.execute(
        """CREATE OR REPLACE FUNCTION steps(OUT a tensor, OUT b tensor, OUT c tensor, OUT d tensor) AS $$
        BEGIN
            a := llm_logits(ARRAY[1, 2], 'm');
            UPDATE llm_param SET data = data * 2::real::tensor WHERE model = 'm' AND name = 'wte.weight';
            b := llm_logits(ARRAY[1, 2], 'm');
            BEGIN
                UPDATE llm_param SET data = data * 2::real::tensor WHERE model = 'm' AND name = 'wte.weight';
                c := llm_logits(ARRAY[1, 2], 'm');
                RAISE division_by_zero;
            EXCEPTION WHEN division_by_zero THEN d := llm_logits(ARRAY[1, 2], 'm');
            END;
        END $$ LANGUAGE plpgsql"""
    )
    a, b, c, d = (x.tobytes() for x in m.execute("SELECT * FROM steps()").fetchone())
    assert len({a, b, c}) == 3
    # c was computed and kept in a variable; its weights were rolled back with the block
    assert d == b == logits(m, "m", [1, 2]).tobytes()


def test_a_model_read_while_a_command_changes_it(m, connect):
    """A volatile function sees rows changed by its own command; no copy made from them may survive."""
    m.execute(
        """CREATE OR REPLACE FUNCTION peek(name text, t tensor) RETURNS tensor LANGUAGE plpgsql VOLATILE AS $$
        BEGIN
            IF name = 'ln_f.weight' THEN PERFORM llm_logits(ARRAY[1, 2], 'm'); END IF;
            RETURN t * 3::real::tensor;
        END $$"""
    )
    before = bits(m)
    other = connect()  # reads the model for the first time during its own change
    with other.transaction(force_rollback=True):
        other.execute("UPDATE llm_param SET data = peek(name, data) WHERE model = 'm'")
    assert bits(other) == before
    other = connect()
    with other.transaction():
        with other.transaction(force_rollback=True):
            other.execute("UPDATE llm_param SET data = peek(name, data) WHERE model = 'm'")
        assert bits(other) == before
    m.execute("CREATE OR REPLACE FUNCTION nested(t tensor) RETURNS tensor LANGUAGE plpgsql AS $$ BEGIN "
        "UPDATE llm_param SET step = step + 1 WHERE model = 'm' AND name = 'ln_f.bias'; "
        "PERFORM llm_logits(ARRAY[1], 'm'); RETURN t * 3::real::tensor; END $$")  # fmt: skip
    m.execute("UPDATE llm_param SET data = nested(data) WHERE model = 'm' AND ndim(data) = 2")
    fresh = pg_llm.connect(m.info.dbname)
    assert bits(m) == bits(fresh) != before
    fresh.close()


def test_a_generator_keeps_the_weights_it_began_with(m):
    """The copy is pinned: updates, even dropping the model, affect only later statements."""
    stream = "llm_generate_stream('ab', 10, 0, model => 'm', eos => NULL)"
    expected = m.execute(f"SELECT text FROM {stream}").fetchall()
    with m.transaction():
        m.execute(f"DECLARE c CURSOR FOR SELECT text FROM {stream}")
        got = m.execute("FETCH 3 FROM c").fetchall()
        m.execute("UPDATE llm_param SET data = neg FROM (SELECT name AS n, -data AS neg FROM llm_param "
            "WHERE model = 'm') AS x WHERE model = 'm' AND name = n")  # fmt: skip
        changed = m.execute(f"SELECT text FROM {stream}").fetchall()
        got += m.execute("FETCH 3 FROM c").fetchall()
        m.execute("DELETE FROM llm_model_config WHERE model = 'm'")
        m.execute("DELETE FROM llm_bpe_vocab WHERE model = 'm'")
        with pytest.raises(psycopg.errors.UndefinedObject), m.transaction():
            m.execute(f"SELECT text FROM {stream}")
        got += m.execute("FETCH ALL FROM c").fetchall()
    assert got == expected != changed


def test_shared_parameters_follow_their_source(m, connect):
    m.execute("DELETE FROM llm_model_config WHERE model = 'twin'")
    m.execute("SELECT llm_create_model('twin', 2, 2, 8, 16, 26)")
    m.execute(
        "INSERT INTO llm_param_share SELECT 'twin', name, 'm', name FROM llm_graph "
        "WHERE model = 'twin' AND op = 'param'"
    )
    assert m.execute("SELECT llm_init_model('twin', 5)").fetchone() == (0,)  # it has no parameters of its own
    other = connect()
    assert bits(m, "twin") == bits(m) == bits(other, "twin")
    m.execute(DOUBLE, ["m"])
    assert bits(m, "twin") == bits(m) == bits(other, "twin")
    m.execute("DELETE FROM llm_param_share WHERE target_model = 'twin' AND target_name = 'ln_f.bias'")
    with pytest.raises(
        psycopg.errors.UndefinedObject, match='no weights for 1 of its parameters: "ln_f.bias"'
    ):
        bits(m, "twin")
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        m.execute("DELETE FROM llm_model_config WHERE model = 'm'")
    m.execute("DELETE FROM llm_model_config WHERE model = 'twin'")


def test_two_sessions_writing_one_model(m, connect):
    """The second waits until the first ends; both changes are then present."""
    other = connect()
    m.execute("BEGIN")
    m.execute("UPDATE llm_param SET data = ones(shape(data)) WHERE model = 'm' AND name = 'ln_f.bias'")
    change = "UPDATE llm_param SET data = ones(shape(data)) WHERE model = 'm' AND name = 'h.0.ln_1.bias'"
    waiting = threading.Thread(target=other.execute, args=[change])
    waiting.start()
    time.sleep(0.3)
    assert waiting.is_alive()
    half = bits(m)
    m.execute("COMMIT")
    waiting.join(10)
    assert bits(m) == bits(other) != half
    for session in (m, other):
        (n,) = session.execute(
            "SELECT count(*) FROM llm_param WHERE model = 'm' AND name LIKE '%.bias' AND mean(data) = '1'"
        ).fetchone()
        assert n == 2


def test_truncate_and_weights_that_are_missing(m):
    before = bits(m)
    with m.transaction(force_rollback=True):
        m.execute("TRUNCATE llm_param")
        with pytest.raises(psycopg.errors.UndefinedObject, match="no weights for 28 of its parameters"):
            with m.transaction():
                bits(m)
    assert bits(m) == before
    m.execute("UPDATE llm_param SET data = NULL WHERE model = 'm' AND name IN ('ln_f.bias', 'ln_f.weight')")
    with pytest.raises(
        psycopg.errors.UndefinedObject, match='2 of its parameters: "ln_f.weight", "ln_f.bias"'
    ) as e:
        bits(m)
    assert "llm_init_model('m', seed)" in e.value.diag.message_hint


@pytest.mark.slow
def test_extension_dropped_and_created_anew_in_one_session(server):
    """Version numbers restart in a schema of the same name: no copy of the old tables may be used."""
    with pg_llm.connect(fresh=True) as conn:
        results = []
        for seed in (1, 2):
            conn.execute("DROP EXTENSION pg_llm CASCADE; CREATE EXTENSION pg_llm")
            make(conn, "m", seed=seed)
            text = conn.execute(
                "SELECT llm_logits(ARRAY[1, 2], 'm')::text, llm_generate('ab', 5, 0, model => 'm')"
            )
            results.append(text.fetchone())
        assert results[0][0] != results[1][0]
        conn.execute(
            "DROP EXTENSION pg_llm CASCADE; CREATE SCHEMA elsewhere; CREATE EXTENSION pg_llm SCHEMA elsewhere"
        )
        conn.execute("SET search_path = elsewhere, public")
        make(conn, "m", seed=2)
        query = "SELECT llm_logits(ARRAY[1, 2], 'm')::text, llm_generate('ab', 5, 0, model => 'm')"
        assert conn.execute(query).fetchone() == results[1]
        with conn.transaction(force_rollback=True):
            conn.execute("DROP EXTENSION pg_llm CASCADE")
        assert conn.execute(query).fetchone() == results[1]


@pytest.mark.slow
@pytest.mark.parametrize("path", ["", "public", '"odd schema"', '"odd schema", pg_catalog'])
def test_extension_in_another_schema(server, path):
    """With or without the schema in search_path, at any position, and with a name that needs quotes."""
    with pg_llm.connect(fresh=True) as conn:
        conn.execute('DROP EXTENSION pg_llm CASCADE; CREATE SCHEMA "odd schema"')
        conn.execute('CREATE EXTENSION pg_llm SCHEMA "odd schema"')
        conn.execute('SET search_path = "odd schema"')
        letters(conn, "m")
        conn.execute(f"SET search_path = {path or chr(39) * 2}")
        s = '"odd schema".'
        for query in (
            f"SELECT {s}llm_create_model('m', 2, 2, 8, 16, 26)",
            f"SELECT {s}llm_init_model('m', 1)",
            f"UPDATE {s}llm_graph SET op = 'relu' WHERE op = 'gelu'",
            f"SELECT {s}llm_loss('m', ARRAY[1, 2], ARRAY[2, 3])",
            f"SELECT * FROM {s}llm_next_tokens('ab', 3, 'm')",
            f"SELECT * FROM {s}llm_beam_search('ab', 2, 3, 'm')",
            f"SELECT * FROM {s}llm_generate_stream('ab', 3, model => 'm')",
            f"""SELECT {s}llm_eval('m', 'h.0', '{{"tokens": [1, 2]}}')""",
            f"SET pg_llm.default_model = 'm'; SELECT {s}llm_generate('ab', 3)",
            f"DELETE FROM {s}llm_model_config WHERE model = 'm'",
        ):
            conn.execute(query)


def test_numpy_sees_what_the_tables_hold(m):
    """A tensor written by a client is what the model computes with."""
    bias = np.arange(26, dtype=np.float32)
    m.execute(
        "UPDATE llm_param SET data = %s WHERE model = 'm' AND name = 'ln_f.weight'", (np.zeros(8, "f4"),)
    )
    m.execute(
        "UPDATE llm_param SET data = %s WHERE model = 'm' AND name = 'ln_f.bias'", (np.eye(8, dtype="f4")[0],)
    )
    table = np.zeros((26, 8), np.float32)
    table[:, 0] = bias
    m.execute("UPDATE llm_param SET data = %s WHERE model = 'm' AND name = 'wte.weight'", (table,))
    assert np.array_equal(logits(m, "m", [3, 4]), [bias, bias])
