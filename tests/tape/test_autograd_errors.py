"""Recording and its limits: transactions, sessions, roles, rows changed by hand, and all errors."""

import contextlib

import numpy as np
import psycopg
import pytest
from helpers.recording import backward, on, rand

__all__ = ["on"]  # a fixture


def test_transactions_and_savepoints(on):
    """A rollback removes what was recorded in it; earlier records stay."""
    with pytest.raises(ZeroDivisionError), on.transaction():
        on.execute("SELECT llm_var('1', 'x') * 2")
        raise ZeroDivisionError
    assert on.execute("SELECT llm_open_run()").fetchone()[0] is None
    assert on.execute("SELECT count(*) FROM llm_run").fetchone()[0] == 0
    with on.transaction():
        on.execute(
            "CREATE TEMP TABLE y ON COMMIT DROP AS SELECT tensor_sum(llm_var('[2,3]', 'x') * 2) AS loss"
        )
        run = on.execute("SELECT llm_open_run()").fetchone()[0]
        with contextlib.suppress(psycopg.errors.UndefinedTable), on.transaction():
            on.execute("SELECT * FROM nowhere")  # nothing was recorded inside
        assert on.execute("SELECT llm_open_run()").fetchone()[0] == run
        with on.transaction():
            on.execute("SELECT loss * 3 FROM y")
        with contextlib.suppress(psycopg.errors.ArraySubscriptError), on.transaction():
            on.execute(
                "SELECT (ones(ARRAY[3]) * loss) @ '[[1,2,3]]' FROM y"
            )  # recorded a product, then failed
        assert on.execute("SELECT llm_open_run()").fetchone()[0] is None
        # what was recorded before is still on the tape, in a closed run
        rows = on.execute("SELECT name, grad::text FROM llm_backward((SELECT loss FROM y))").fetchall()
        assert rows == [("x", "[2,2]")]
        with pytest.raises(psycopg.errors.InvalidParameterValue, match="constant") as error, on.transaction():
            on.execute("SELECT * FROM llm_backward((SELECT loss * 2 FROM y))")
        assert "a rollback" in error.value.diag.message_hint
    orphans = "SELECT count(*) FROM llm_tensor_rt WHERE run NOT IN (SELECT run FROM llm_run)"
    assert on.execute(orphans).fetchone()[0] == 0


def test_switches(conn):
    """INSERT, UPDATE, DELETE, SET, SET LOCAL and ROLLBACK all change the same setting."""
    flag = lambda: conn.execute("SELECT flag FROM llm_autograd_mode").fetchall()  # noqa: E731
    assert flag() == [(False,)]
    for statement, expected in {
        "INSERT INTO llm_autograd_mode VALUES (true)": True,
        "INSERT INTO llm_autograd_mode (flag) VALUES (false)": False,
        "UPDATE llm_autograd_mode SET flag = NOT flag": True,
        "DELETE FROM llm_autograd_mode": False,
        "SET pg_llm.autograd = on": True,
        "RESET pg_llm.autograd": False,
    }.items():
        conn.execute(statement)
        assert flag() == [(expected,)], statement
    with conn.transaction(force_rollback=True):
        conn.execute("UPDATE llm_autograd_mode SET flag = true")
        assert flag() == [(True,)]
    assert flag() == [(False,)]
    with conn.transaction():
        conn.execute("SET LOCAL pg_llm.autograd = on")
        conn.execute("SELECT llm_var('1', 'x') * 2")
        assert conn.execute("SELECT llm_open_run() IS NOT NULL").fetchone()[0]
    assert conn.execute("SELECT llm_open_run()").fetchone()[0] is None
    with pytest.raises(psycopg.errors.NullValueNotAllowed, match="flag is NULL"):
        conn.execute("UPDATE llm_autograd_mode SET flag = NULL")
    assert conn.execute("INSERT INTO llm_autograd_mode VALUES (true) RETURNING flag").fetchall() == [(True,)]
    conn.execute("DISCARD ALL")
    assert flag() == [(False,)]
    # off: llm_var returns the value and nothing is written
    assert conn.execute("SELECT (llm_var('[1,2]', 'x') * 2)::text").fetchone()[0] == "[2,4]"
    assert conn.execute("SELECT llm_open_run()").fetchone()[0] is None


# ---- errors ----


def test_errors_of_backward_teach(on):
    cases = {
        "SELECT * FROM llm_backward(NULL)": ("the loss is NULL", "NULL among the operands"),
        "SELECT * FROM llm_backward(llm_var(NULL, 'x') * 2)": ("the loss is NULL", "NULL among the operands"),
        "SELECT * FROM llm_backward('3')": ("not recorded", "llm_var(w, 'w')"),
        "SELECT * FROM llm_backward('3'::tensor * 2)": ("is a constant", "llm_var(w, 'w')"),
        "SELECT * FROM llm_backward(llm_var('[1,2]', 'x') * 2)": (r"shape \(2\)", "mean(t)"),
        "SELECT * FROM llm_backward(argmax(llm_var('[1,2]', 'x')))": ("not recorded", "llm_var(w, 'w')"),
        "SELECT llm_var('1', NULL)": ("name must not be NULL", None),
        "SELECT llm_var('1', '')": ("name of a leaf is empty", "llm_var(w, 'w')"),
        "SELECT llm_var('1', repeat('x', 1001))": ("1001 bytes", None),
    }
    for query, (message, hint) in cases.items():
        with pytest.raises(psycopg.Error, match=message) as error:
            on.execute(query)
        assert hint is None or hint in error.value.diag.message_hint, query
    on.execute("UPDATE llm_autograd_mode SET flag = false")
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="not recorded") as error:
        on.execute("SELECT * FROM llm_backward(llm_var('3', 'x') * 2)")
    assert "flag = true" in error.value.diag.message_hint


def test_a_read_only_transaction_says_so(on):
    with on.transaction(force_rollback=True):
        on.execute("SET TRANSACTION READ ONLY")
        assert on.execute("SELECT flag FROM llm_autograd_mode").fetchone()[0]
        with (
            pytest.raises(psycopg.errors.ReadOnlySqlTransaction, match="read-only") as error,
            on.transaction(),
        ):
            on.execute("SELECT '[1]'::tensor + 1")
        assert "autograd = off" in error.value.diag.message_hint
        on.execute("SET pg_llm.autograd = off")
        assert on.execute("SELECT ('[1]'::tensor + 1)::text").fetchone()[0] == "[2]"
    # and within a run
    on.execute("SELECT llm_var('1', 'x') * 2")
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction), on.transaction():
        on.execute("SET TRANSACTION READ ONLY")
        on.execute("SELECT '[1]'::tensor + 1")


def test_nan_and_infinity_pass_through(on):
    grads = backward(on, "tensor_sum(log(a) * 2)", {"a": np.array([-1, 0, 1], np.float32)})["a"]
    assert np.isinf(grads[1]) and grads[0] == -2 and grads[2] == 2
    assert np.isnan(backward(on, "tensor_sum(a * 'nan'::tensor)", {"a": rand(2)})["a"]).all()


def test_a_parallel_plan_records_nothing_wrong(on):
    """Tables are scanned in parallel, the leader computes tensors: the gradients are the same."""
    on.execute(
        "CREATE TABLE many AS SELECT i, tensor(ARRAY[i, 1]::real[]) AS t FROM generate_series(1, 500) AS i"
    )
    for setting in ("debug_parallel_query", "force_parallel_mode"):
        with contextlib.suppress(psycopg.errors.UndefinedObject):
            on.execute(f"SET {setting} = on")
    on.execute(
        "SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0"
    )
    query = (
        "SELECT grad::text FROM llm_backward(("
        "SELECT tensor_sum(sum(t * llm_var('[2,3]', 'w') ORDER BY i)) FROM many WHERE i % 2 = 0))"
    )
    assert on.execute(query).fetchone()[0] == "[62750,250]"
    on.execute("RESET ALL; DROP TABLE many")


def test_two_sessions_record_apart(on, connect):
    """Each has its own run; neither can differentiate the other's, whose values are constants there."""
    other = connect()
    on.execute("CREATE TABLE handed AS SELECT tensor_sum(llm_var('[1,2]', 'x') * 2) AS loss")
    other.execute("UPDATE llm_autograd_mode SET flag = true")
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="recorded by another session") as error:
        other.execute("SELECT * FROM llm_backward((SELECT loss FROM handed))")
    assert "run it here" in error.value.diag.message_hint
    grads = other.execute(
        "SELECT grad::text FROM llm_backward((SELECT loss * llm_var('5', 'y') FROM handed))"
    )
    assert grads.fetchall() == [("6",)]
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="another session"):
        other.execute(
            "SELECT llm_backprop((SELECT max(id) FROM llm_tape WHERE run = %s), 'm')",
            on.execute("SELECT llm_open_run()").fetchone(),
        )
    # pruning by the other session keeps the open run
    other.execute("SELECT llm_prune_autograd_state()")
    assert (
        on.execute("SELECT grad::text FROM llm_backward((SELECT loss FROM handed))").fetchone()[0] == "[2,2]"
    )
    assert other.execute("SELECT llm_prune_autograd_state()").fetchone()[0] == 1
    on.execute("DROP TABLE handed")


def test_what_is_not_differentiable_is_refused(on):
    """Scores and heads of attention are for inspection; a gradient through them would silently be wrong."""
    on.execute(
        "SELECT pg_llm_attention(llm_var(randn(ARRAY[3,4], 1), 'x'), randn(ARRAY[4,12], 2),"
        " zeros(ARRAY[12]), randn(ARRAY[4,4], 3), zeros(ARRAY[4]), 2)"
    )
    with pytest.raises(psycopg.errors.FeatureNotSupported, match="no gradient flows through tensor"):
        on.execute(
            "SELECT * FROM llm_backward("
            "(SELECT mean(data) FROM llm_tensor_rt WHERE name = 'attention.probs'))"
        )


def test_rows_changed_by_hand_do_no_harm(on):
    """Inconsistent ids, ops and shapes are rejected, whatever they are; the server stays up."""
    loss = "SELECT tensor_sum(llm_var(randn(ARRAY[3,4], 1), 'a') @ llm_var(randn(ARRAY[4,2], 2), 'b')) AS l"
    harm = [
        "UPDATE llm_tape SET inputs = ARRAY[id, id] WHERE op = 'matmul' AND run = {run}",
        "UPDATE llm_tape SET inputs = ARRAY[id + 1, NULL] WHERE op = 'matmul' AND run = {run}",
        "UPDATE llm_tape SET inputs = '{{}}' WHERE op = 'matmul' AND run = {run}",
        "UPDATE llm_tape SET inputs = inputs || inputs WHERE op = 'matmul' AND run = {run}",
        "UPDATE llm_tape SET inputs = ARRAY[inputs[2], inputs[1]] WHERE op = 'matmul' AND run = {run}",
        "UPDATE llm_tape SET op = 'nothing' WHERE op = 'matmul' AND run = {run}",
        "UPDATE llm_tape SET op = 'cross_entropy' WHERE op = 'matmul' AND run = {run}",
        "UPDATE llm_tape SET op = 'embedding' WHERE op = 'matmul' AND run = {run}",
        "UPDATE llm_tape SET op = 'param' WHERE op = 'matmul' AND run = {run}",
        "UPDATE llm_tape SET op = 'slice' WHERE op = 'sum' AND run = {run}",
        "UPDATE llm_tape SET extra = '{{\"attrs\": {{\"axis\": 7}}}}' WHERE op = 'sum' AND run = {run}",
        "UPDATE llm_tape SET extra = '{{\"attrs\": {{\"axis\": [[1]]}}}}' WHERE op = 'sum' AND run = {run}",
        "UPDATE llm_tensor_rt SET data = '[1,2,3]' WHERE name = 'a' AND run = {run}",
        "UPDATE llm_tensor_rt SET data = NULL WHERE name = 'a' AND run = {run}",
        "UPDATE llm_tensor_rt SET data = zeros(ARRAY[2,2]) WHERE id = {run} * 1000000 + 3",
        "DELETE FROM llm_tensor_rt WHERE name = 'b' AND run = {run}",
        "DELETE FROM llm_tape WHERE run = {run}",
        "DELETE FROM llm_run WHERE run = {run}",
        "INSERT INTO llm_tensor_map (id, run, model, name) SELECT id, run, 'none', 'a' FROM llm_tensor_rt "
        "WHERE name = 'a' AND run = {run};"
        "UPDATE llm_tensor_rt SET data = NULL WHERE run = {run} AND name = 'a'",
    ]
    for statement in harm:
        on.execute("UPDATE llm_autograd_mode SET flag = true")
        on.execute(f"CREATE TEMP TABLE hurt AS {loss}")
        run = on.execute("SELECT llm_open_run()").fetchone()[0]
        on.execute("UPDATE llm_autograd_mode SET flag = false")
        on.execute(statement.format(run=run))
        try:
            on.execute("SELECT * FROM llm_backward((SELECT l FROM hurt))")
            pytest.fail(statement)
        except psycopg.Error as problem:
            error = problem
        assert error.sqlstate[:2] != "XX", (statement, error)
        on.execute("DROP TABLE hurt")


def test_a_role_without_rights_is_told(conn):
    role = "llm_test_autograd"
    with contextlib.suppress(psycopg.errors.UndefinedObject):
        conn.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
    conn.execute(f"CREATE ROLE {role}")
    tables = "llm_run, llm_tape, llm_tensor_rt, llm_tensor_map"
    try:
        conn.execute(f"REVOKE ALL ON {tables} FROM PUBLIC; REVOKE ALL ON SEQUENCE llm_run_seq FROM PUBLIC")
        conn.execute(f"SET ROLE {role}; UPDATE llm_autograd_mode SET flag = true")
        with pytest.raises(
            psycopg.errors.InsufficientPrivilege, match=f'"{role}" may not write "llm_run"'
        ) as error:
            conn.execute("SELECT '[1]'::tensor + 1")
        assert "GRANT" in error.value.diag.message_hint
        conn.execute(f"RESET ROLE; GRANT SELECT, INSERT, UPDATE ON {tables} TO {role}")
        conn.execute(f"GRANT DELETE ON llm_run TO {role}; GRANT USAGE ON SEQUENCE llm_run_seq TO {role}")
        conn.execute(f"SET ROLE {role}")
        query = "SELECT grad::text FROM llm_backward(tensor_sum(llm_var('[1,2]', 'x') * 3))"
        assert conn.execute(query).fetchone()[0] == "[3,3]"
        conn.execute("UPDATE llm_autograd_mode SET flag = false; SELECT llm_prune_autograd_state()")
    finally:
        conn.execute(f"RESET ROLE; DROP OWNED BY {role}; DROP ROLE {role}")
        conn.execute("RESET pg_llm.autograd")


def test_nothing_in_the_search_path_stands_in(on):
    on.execute("CREATE TEMP TABLE llm_tape (id int); CREATE TEMP TABLE llm_tensor_rt (id int)")
    on.execute("CREATE TEMP TABLE llm_run (id int)")
    assert backward(on, "tensor_sum(a * 2)", {"a": rand(2)})["a"].tolist() == [2, 2]
    on.execute("DROP TABLE pg_temp.llm_tape, pg_temp.llm_tensor_rt, pg_temp.llm_run")


def test_a_new_extension_starts_a_new_tape(server):
    """DROP and CREATE EXTENSION in one session discard what it was recording."""
    info = server.start().conninfo("postgres")
    with psycopg.connect(**info, autocommit=True) as admin:
        admin.execute("DROP DATABASE IF EXISTS test_autograd_new")
        admin.execute("CREATE DATABASE test_autograd_new TEMPLATE template0")
    with psycopg.connect(**server.start().conninfo("test_autograd_new"), autocommit=True) as conn:
        for _ in range(2):
            conn.execute("CREATE EXTENSION pg_llm")
            conn.execute("SET pg_llm.autograd = on")
            query = "SELECT grad::text FROM llm_backward(tensor_sum(llm_var('[1,2]', 'x') * 3))"
            conn.execute("SELECT llm_var('1', 'left open')")
            assert conn.execute(query).fetchone()[0] == "[3,3]"
            conn.execute("SELECT llm_var('1', 'left open') * 2")
            conn.execute("DROP EXTENSION pg_llm")
    with psycopg.connect(**info, autocommit=True) as admin:
        admin.execute("DROP DATABASE test_autograd_new")


def test_memory_is_limited(on):
    """A backward pass that needs more than pg_llm.memory_limit is refused, and the session continues."""
    on.execute("CREATE TEMP TABLE big AS SELECT mean(llm_var(randn(ARRAY[3000, 1000], 1), 'x') * 2) AS l")
    on.execute("SET pg_llm.memory_limit = '40MB'")
    with pytest.raises(psycopg.errors.OutOfMemory):
        on.execute("SELECT shape(grad) FROM llm_backward((SELECT l FROM big))")
    on.execute("RESET pg_llm.memory_limit")
    assert on.execute("SELECT shape(grad) FROM llm_backward((SELECT l FROM big))").fetchone()[0] == [
        3000,
        1000,
    ]
    on.execute("DROP TABLE big")


def test_looking_is_not_recorded(on):
    """Reading the views of the tape adds nothing to it."""
    on.execute("SELECT mean(llm_var('[1,2]', 'x') * 2)")
    before = on.execute("SELECT count(*) FROM llm_tensor_rt").fetchone()
    for view in "tape_named op_cost activation gradient param_gradient attention_map".split():
        on.execute(f"SELECT * FROM llm_{view}")
    on.execute("SELECT * FROM llm_tensor")
    assert on.execute("SELECT count(*) FROM llm_tensor_rt").fetchone() == before


def test_off_costs_nothing(conn):
    """A thousand additions with recording off write nothing and take no measurable time."""
    conn.execute("SELECT llm_prune_autograd_state()")
    conn.execute("SELECT sum('[1,2]'::tensor + i) FROM generate_series(1, 1000) AS i")
    assert conn.execute("SELECT count(*) FROM llm_tensor_rt").fetchone()[0] == 0
