"""Rights needed for training: on what it reads and writes, if the kit has granted nothing."""

import contextlib

import psycopg
import pytest
from helpers.bare_database import database as database
from helpers.training import SIZE, fill
from helpers.training import tokens as tokens

READS = "llm_model_config, llm_graph, llm_param, llm_param_share, llm_dataset"
CALLS = (
    "SELECT llm_train('small', 2, warmup => 0, trace => false)",
    "SELECT llm_train_step('small', (SELECT min(id) FROM llm_dataset))",
    "CALL llm_train_loop('small', 2, warmup => 0)",
)


@pytest.fixture
def role(conn, tokens):
    """A connection as a role without rights, and a function that executes a statement as the owner."""
    name = "llm_test_trainer"
    with contextlib.suppress(psycopg.errors.UndefinedObject):
        conn.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")
    conn.execute("SELECT llm_create_model('small', 1, 2, 8, 16, %s), llm_init_model('small', 1)", (SIZE[4],))
    fill(conn, "small", tokens)
    conn.execute(f"CREATE ROLE {name}")

    def grant(rights):
        conn.execute("RESET ROLE")
        conn.execute(f"GRANT {rights} TO {name}")
        conn.execute(f"SET ROLE {name}")

    conn.execute(f"SET ROLE {name}")
    yield conn, grant
    conn.execute(f"RESET ROLE; DROP OWNED BY {name}; DROP ROLE {name}")


def test_training_needs_these_rights(role):
    conn, grant = role
    for rights in (None, f"SELECT ON {READS}", "SELECT, INSERT ON llm_train_run, llm_train_log"):
        if rights:
            grant(rights)
        for call in CALLS:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                conn.execute(call)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            conn.execute("SELECT llm_reset_optimizer('small')")
    grant("UPDATE ON llm_param")
    for call in CALLS:
        conn.execute(call)
    assert conn.execute("SELECT max(step) FROM llm_param WHERE model = 'small'").fetchone()[0] == 5
    assert conn.execute("SELECT array_agg(DISTINCT who::text) FROM llm_train_run").fetchone()[0] == [
        "postgres"
    ]
    assert conn.execute("SELECT llm_reset_optimizer('small') > 0").fetchone()[0]
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        conn.execute("SELECT llm_share_param('small', 'ln_f.bias', 'small', 'h.0.ln_1.bias')")


def test_rows_that_a_policy_hides(role):
    """Weights that row security lets a role read but not change: an error, nothing is written."""
    conn, grant = role
    conn.execute("RESET ROLE")
    conn.execute("ALTER TABLE llm_param ENABLE ROW LEVEL SECURITY")
    conn.execute("CREATE POLICY look ON llm_param FOR SELECT USING (true)")
    conn.execute("CREATE POLICY change ON llm_param FOR UPDATE USING (name <> 'ln_f.bias')")
    grant(f"SELECT ON {READS}")
    grant("SELECT, INSERT ON llm_train_run, llm_train_log")
    grant("UPDATE ON llm_param")
    try:
        for call in CALLS:
            with pytest.raises((psycopg.errors.InsufficientPrivilege, psycopg.errors.LockNotAvailable)):
                conn.execute(call)
    finally:
        conn.execute("RESET ROLE")
        conn.execute("DROP POLICY look ON llm_param; DROP POLICY change ON llm_param")
        conn.execute("ALTER TABLE llm_param DISABLE ROW LEVEL SECURITY")
    assert conn.execute("SELECT max(step) FROM llm_param WHERE model = 'small'").fetchone()[0] == 0
