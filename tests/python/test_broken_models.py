"""The ward of notebook 14: a seed decides who is ill, and who is cured has the control's bits."""

from __future__ import annotations

import pytest

import pg_llm
from pg_llm.notebook import broken_models

BEDS = ["control", *(f"patient_{letter}" for letter in "abcdef")]


@pytest.fixture(scope="module")
def conn(server):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(broken_models, "CHARTED", (0, 1, 2))
        with pg_llm.connect("ward", fresh=True) as opened:
            assert pg_llm.broken_models(seed=3, conn=opened) == BEDS
            yield opened


def models(conn, query: str) -> list[str]:
    return [row[0] for row in conn.execute(f"SELECT DISTINCT model FROM ({query}) AS found ORDER BY 1")]


def test_each_illness_has_one_bed(conn):
    ill = {
        "mask": "SELECT model FROM llm_graph WHERE attrs @> '{\"causal\": false}'",
        "residual": "SELECT model FROM llm_graph WHERE op = 'total' AND name = 'h.3'",
        "positions": "SELECT model FROM llm_graph WHERE op = 'total' AND name = 'embd'",
        "leak": "SELECT dataset AS model FROM llm_dataset WHERE tokens = target AND dataset NOT LIKE '%-%'",
        "rate": "SELECT model FROM llm_train_run WHERE lr_max > 0.1",
        "start": "SELECT model FROM llm_train_log WHERE step = 1 AND loss > 5",
    }
    found = {name: models(conn, query) for name, query in ill.items()}
    assert found["positions"] == ["patient_f"]
    assert sorted(sum(found.values(), [])) == BEDS[1:], found


def test_the_chart_and_the_visits_are_those_of_the_training(conn):
    assert models(conn, "SELECT model FROM ward") == BEDS
    assert conn.execute("SELECT model, step, count(*) FROM visit GROUP BY 1, 2").rowcount == 2 * len(BEDS)
    visits = "SELECT run FROM visit JOIN llm_gradient USING (run) WHERE name = 'h.0.mlp.c_fc.weight'"
    assert conn.execute(visits).rowcount == 2 * len(BEDS), "each has gradients"
    weight, moved = conn.execute(
        "SELECT weight_norm, update_norm FROM chart "
        "WHERE model = 'control' AND step = 1 AND name = 'h.0.ln_1.weight'"
    ).fetchone()
    # Ones, which AdamW's first step moves by the rate each.
    assert weight == pytest.approx(32**0.5, rel=1e-3) and moved == pytest.approx(0.006 * 32**0.5, rel=1e-2)


def test_whoever_is_cured_has_the_bits_of_the_control(conn):
    query = "SELECT llm_model_sha256('patient_f') = llm_model_sha256('control')"
    with conn.transaction(force_rollback=True):
        pg_llm.retrain("patient_f", conn=conn)
        assert conn.execute(query).fetchone() == (False,)
        conn.execute(
            "UPDATE llm_graph AS g SET op = h.op, inputs = h.inputs FROM llm_gpt2_graph('patient_f') AS h "
            "WHERE g.model = 'patient_f' AND g.name = h.name"
        )
        assert pg_llm.retrain("patient_f", conn=conn) > 2
        assert conn.execute(query).fetchone() == (True,)
        runs = conn.execute("SELECT count(*) FROM visit WHERE model = 'patient_f'").fetchone()
        assert runs == (2,), "the old ones are replaced"


def test_another_seed_is_another_order(conn):
    def masked() -> list[str]:
        return models(conn, "SELECT model FROM llm_graph WHERE attrs @> '{\"causal\": false}'")

    before = masked()
    with conn.transaction(force_rollback=True):
        pg_llm.broken_models(seed=4, conn=conn)
        assert len(masked()) == 1 and masked() != before
