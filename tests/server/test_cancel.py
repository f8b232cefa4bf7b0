"""A cancel ends a statement soon, however large a value is, and its memory is freed."""

import threading
import time

import psycopg
import pytest

import pg_llm

pytestmark = pytest.mark.slow

N = 20_000_000  # elements of the large tensor t; m has as many, in a matrix of 4000 rows
SETUP = f"""
CREATE UNLOGGED TABLE big AS SELECT randn(ARRAY[{N}], 1) AS t, randn(ARRAY[4000, {N // 4000}], 2) AS m;
CREATE UNLOGGED TABLE forms AS SELECT t::bytea AS b, t::real[] AS r, slice(t, 0, 2000000)::text AS x,
    array_fill(1.5::numeric, ARRAY[2000000]) AS n FROM big;
"""
STATEMENTS = {
    "equal logits": f"SELECT pg_llm_sample(ones(ARRAY[{N}]), 1, 0, 0.9, 1)",
    "logits in a buffer": "SELECT pg_llm_sample(b, 1, 50, 0.9, 1) FROM forms",
    "softmax of one row": "SELECT numel(pg_llm_softmax(t)) FROM big",
    "softmax down columns": "SELECT numel(pg_llm_softmax(m, 0)) FROM big",
    "its gradient": "SELECT numel(pg_llm_softmax_backward(t, t)) FROM big",
    "layer norm of one row": "SELECT numel(pg_llm_layernorm(t, t, t)) FROM big",
    "layer norm of tiny rows": "SELECT numel(pg_llm_layernorm("
    f"reshape(t, ARRAY[{N}, 1]), '[1]', '[1]')) FROM big",
    "its gradient, in buffers": "SELECT length((pg_llm_layernorm_backward(b, b, b, 1e-5)).dx) FROM forms",
    "cross-entropy": "SELECT pg_llm_cross_entropy(t, 5) FROM big",
    "sum of two": "SELECT numel((t + t) * t) FROM big",
    "gradient of a broadcast": "SELECT numel((pg_llm_add_backward(m, ones(ARRAY[4000, 1]), m)).db) FROM big",
    "GELU": "SELECT numel(pg_llm_gelu(t)) FROM big",
    "dropout": "SELECT numel(pg_llm_dropout(t, 0.5, true, 1)) FROM big",
    "AdamW": "SELECT numel((pg_llm_adamw_step(t, t, t, t, 0.1, 0.9, 0.999, 1e-8, 0.01, 1)).weight) FROM big",
    "product": "SELECT numel(transpose(slice(m, 0, 3000)) @ slice(m, 0, 3000)) FROM big",
    "transpose": "SELECT numel(transpose(m)) FROM big",
    "concat": "SELECT numel(concat(ARRAY[t, t, t], 0)) FROM big",
    "sums of tiny rows": f"SELECT numel(tensor_sum(reshape(t, ARRAY[{N // 2}, 2]), 1)) FROM big",
    "hash": "SELECT tensor_hash(t), tensor_hash_extended(t, 3), t = t + 0 FROM big",
    "aggregate": "SELECT numel(stack(t)) FROM big, generate_series(1, 4)",
    "text of a tensor": "SELECT octet_length(slice(t, 0, 3000000)::text) FROM big",
    "tensor of a text": "SELECT numel(x::tensor) FROM forms",
    "arrays of a tensor": "SELECT cardinality(t::real[]), cardinality(t::float8[]) FROM big",
    "tensor of an array": "SELECT numel(r::tensor) FROM forms",
    "tensor of numerics": "SELECT numel(n::tensor) FROM forms",
    "bytes of a tensor": "SELECT length(t::bytea), length(tensor_send(t)) FROM big",
    "tensor of bytes": f"SELECT numel(tensor(b, ARRAY[{N}])) FROM forms",
    "random numbers": f"SELECT numel(randn(ARRAY[{N}], 1))",
    "quantized": "SELECT numel(pg_llm_quantize(m, 'int8', false)) FROM big",
    "stories": "SELECT llm_story_floor(1, 20000)",
}


@pytest.fixture(scope="module")
def m(server, database):
    with pg_llm.connect(database) as conn:
        conn.execute(SETUP)
        conn.execute("SET pg_llm.memory_limit = '1GB'")
        yield conn


def seconds(conn, statement, cancel_after=None):
    """The duration of a statement; canceled after that many seconds, it must end with the cancel's error."""
    start = time.monotonic()
    if cancel_after is None:
        conn.execute(statement)
        return time.monotonic() - start
    timer = threading.Timer(cancel_after, conn.cancel)
    timer.start()
    try:
        with pytest.raises(psycopg.errors.QueryCanceled):
            conn.execute(statement)
    finally:
        timer.join()
    return time.monotonic() - start


@pytest.mark.parametrize("what", STATEMENTS)
def test_a_cancel_ends_the_statement_soon(m, what):
    """Canceled after a quarter of its time, it ends before two thirds; a busy machine gets three tries."""
    whole = min(seconds(m, STATEMENTS[what]) for _ in range(2))
    if whole < 0.15:
        pytest.skip(f"over in {whole:.2f} s here")
    outcomes = []
    for _ in range(3):
        try:
            outcomes.append(seconds(m, STATEMENTS[what], whole / 4))
        except pytest.fail.Exception:  # it had ended before the cancel
            outcomes.append(whole)
        if outcomes[-1] < whole * 2 / 3:
            break
    assert min(outcomes) < whole * 2 / 3, (whole, outcomes)
    # it left nothing behind
    assert m.execute("SELECT numel(zeros(ARRAY[100000000]))").fetchone() == (100_000_000,)


def test_shapes_are_refused_before_values_are_read(m):
    """A product of mismatched shapes fails in a fraction of the time that reading its operands takes."""
    reads = seconds(m, "SELECT numel(t + 0), numel(m + 0) FROM big")
    start = time.monotonic()
    with pytest.raises(psycopg.errors.ArraySubscriptError):
        m.execute("SELECT m @ t FROM big")
    assert time.monotonic() - start < reads / 2
