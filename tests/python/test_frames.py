"""The rows of a run as DataFrames, over any connection."""

from __future__ import annotations

import psycopg
import pytest

import pg_llm
from pg_llm.client import PGLLMClient
from pg_llm.notebook import fallback_model, frames

MODEL = "framed"
TOKENS = "ARRAY[5, 6, 7, 5, 6]"


@pytest.fixture(scope="module")
def run(database):
    """A model, a traced run with gradients, and three steps of training."""
    with pg_llm.connect(database) as conn:
        conn.execute("SELECT llm_create_model('framed', 2, 2, 8, 16, 20), llm_init_model('framed', 1)")
        run = conn.execute(f"SELECT llm_trace('framed', {TOKENS}, {TOKENS})").fetchone()[0]
        conn.execute("SELECT llm_backprop((SELECT max(id) FROM llm_tape), 'framed')")
        conn.execute("SELECT llm_accumulate_grads('framed')")
        conn.execute(
            f"INSERT INTO llm_dataset (dataset, tokens, target) VALUES ('framed', {TOKENS}, {TOKENS})"
        )
        conn.execute("SELECT llm_train('framed', 3, warmup => 0, dropout_p => 0)")
    return run


def test_the_tape_is_read_in_order_and_by_name(conn, run):
    tape = frames.tape(run, conn=conn)
    assert list(tape.columns[:6]) == ["run", "id", "op", "name", "inputs", "shape"]
    assert tape.id.is_monotonic_increasing and tape.name.iloc[-1] == "loss"
    row = tape[tape.name == "h.0.ln_1"].iloc[0]
    assert row.op == "layernorm" and row.inputs == ["drop", "h.0.ln_1.weight", "h.0.ln_1.bias"]
    assert frames.tape(run + 1000, conn=conn).empty


def test_the_newest_run_is_the_default_and_ones_own(conn, run):
    newest = conn.execute("SELECT max(run) FROM llm_run").fetchone()[0]
    assert set(frames.tape(conn=conn).run) == {newest}
    conn.execute("CREATE ROLE frames_student")
    try:
        conn.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO frames_student")
        conn.execute("SET SESSION AUTHORIZATION frames_student")
        assert frames.tape(conn=conn).empty
    finally:
        conn.execute("RESET SESSION AUTHORIZATION")
        conn.execute("DROP OWNED BY frames_student; DROP ROLE frames_student")


def test_attention_of_one_head_adds_up(conn, run):
    one = frames.attention(run, layer=1, head=0, conn=conn)
    assert len(one) == 15 and set(one.layer) == {1} and set(one["head"]) == {0}
    assert one.groupby("query").weight.sum().sub(1).abs().max() < 1e-6 and (one.key <= one["query"]).all()
    assert len(frames.attention(run, conn=conn)) == 4 * 15


def test_gradients_of_a_model_and_of_a_run(conn, run):
    of_model = frames.gradients(MODEL, conn=conn).set_index("name")
    assert len(of_model) == 28 and (of_model.norm > 0).any()
    of_run = frames.gradients(run=run, conn=conn).set_index("name")
    assert {"logits", "h.0", "wte.weight"} <= set(of_run.index)
    assert of_run.norm["ln_f.weight"] == of_model.norm["ln_f.weight"]


def test_activations_params_and_the_log(conn, run):
    seen = frames.activations(run, conn=conn)
    assert {"h.0", "logits"} <= set(seen.name) and seen["dead"].between(0, 1).all()
    assert list(frames.params(MODEL, conn=conn).columns) == ["name", "shape", "numel", "mean", "sd"]
    log = frames.train_log(MODEL, conn=conn)
    assert list(log.step) == [1, 2, 3] and list(log.columns[:4]) == ["run", "step", "lr", "loss"]
    assert frames.train_log(MODEL, run=-1, conn=conn).empty


def test_the_client_has_them_for_its_model(conn, run):
    client = PGLLMClient(conn, model=MODEL)
    assert len(client.params()) == 28 and len(client.train_log()) == 3 and len(client.gradients()) == 28
    assert len(client.tape(run)) and len(client.attention(run, 0, 0)) == 15 and len(client.activations(run))


def test_without_the_extension_on_the_search_path_and_without_it_at_all(conn, run, server):
    conn.execute("SET search_path = pg_catalog")
    assert len(frames.tape(run, conn=conn))
    conn.execute("RESET search_path")
    with psycopg.connect(**server.start().conninfo("template1")) as plain:
        with pytest.raises(LookupError, match="CREATE EXTENSION"):
            frames.tape(conn=plain)


def test_a_stand_in_is_trained_once_and_gives_way_to_the_classroom(conn, monkeypatch, capsys):
    monkeypatch.setattr(fallback_model, "STEPS", 1)
    monkeypatch.setattr(fallback_model, "STORIES", 16)
    conn.execute("DELETE FROM llm_model_config WHERE model LIKE 'classroom%'")
    assert fallback_model.practice_model(conn) == "practice" and "stand-in" in capsys.readouterr().out
    assert fallback_model.practice_model(conn) == "practice" and capsys.readouterr().out == ""
    assert len(frames.train_log("practice", conn=conn)) == 1
    conn.execute("SELECT llm_create_model('classroom', 1, 1, 4, 8, 10), llm_init_model('classroom')")
    assert fallback_model.practice_model(conn) == "classroom"
