"""llm_explain as a frame and as a roofline; times are not asserted."""

import matplotlib
import numpy as np
import pandas as pd
import psycopg
import pytest
from helpers import tiny_model

import pg_llm
from pg_llm.plots.roofline import roof

matplotlib.use("Agg")
import matplotlib.pyplot as plt


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def frame(database) -> pd.DataFrame:
    with pg_llm.connect(database) as conn:
        tiny_model.make(conn, "costs", d_model=32, n_positions=64)
        return pg_llm.explain("abcdefgh" * 4, "costs", conn=conn)


def test_operations_are_those_of_the_formula(frame):
    """Prefill of T tokens: a multiplication and an addition for each weight, token by token."""
    calls = frame[frame["phase"] == "prefill"].set_index("node")
    T, C = 32, 32
    assert calls.loc["h.*.attn.c_attn.matmul", "flops"] == 2 * T * C * 3 * C * 2
    assert calls.loc["h.*.mlp.c_fc.matmul", "flops"] == 2 * C * 4 * C * (T + 1)  # one row in the last layer
    assert calls.loc["logits", "flops"] == 2 * C * 26
    decode = frame[frame["phase"] == "decode"].set_index("node")
    assert decode.loc["h.*.attn.c_attn.matmul", "flops"] == 2 * C * 3 * C * 2
    # every key and value of 33 positions is read again, in two layers
    assert decode.loc["h.*.attn.heads", "bytes"] == 2 * 4 * (3 * C + 2 * 33 * C + C)


def test_shares_add_up_and_the_statement_has_a_line_of_its_own(frame):
    assert frame["share"].sum() == pytest.approx(1, abs=0.01)
    overhead = frame[frame["phase"] == "overhead"]
    assert list(overhead["op"]) == ["statement", "loading", "tokenizer", "planning", "executor", "sampling"]
    assert (overhead["microseconds"] >= 0).all() and overhead["flops"].isna().all()
    assert list(dict.fromkeys(frame["phase"])) == ["prefill", "decode", "overhead", "first"]


def test_a_watched_statement_gives_the_bits_of_any_other(conn, frame):
    query = "SELECT llm_generate('abcdef', 20, 0, model => 'costs')"
    before = conn.execute(query).fetchone()
    pg_llm.explain("abcdef", "costs", "node", 1, conn=conn)
    assert conn.execute(query).fetchone() == before


def test_no_op_is_faster_than_the_peak(conn):
    """Also if the peak was measured while the machine was busy: then it is measured again."""
    tiny_model.make(conn, "fast", d_model=256, n_positions=128)
    for _ in range(3):
        found = pg_llm.explain("abcdefgh" * 15, "fast", "node", 5, conn=conn)
        assert found["of_peak"].max() <= 1
        rungs = conn.execute("SELECT of_peak FROM llm_kernel_ladder(128, 256, 256)").fetchall()
        assert max(rungs)[0] <= 1


def test_a_model_that_is_not_there_is_what_the_error_names(conn):
    for call in ("llm_explain_text('nosuch')", "llm_story_accuracy('nosuch')", "llm_story_loss('nosuch')",
        "llm_story_heads('nosuch')"):  # fmt: skip
        with pytest.raises(psycopg.errors.UndefinedObject, match='there is no model "nosuch"'):
            conn.execute(f"SELECT * FROM {call}")


def test_an_error_in_the_watched_statement_stops_the_watching(conn, frame):
    with pytest.raises(psycopg.errors.ProgramLimitExceeded, match="65 tokens"):
        pg_llm.explain("a" * 65, "costs", conn=conn)
    assert len(pg_llm.explain("a", "costs", "op", 1, conn=conn))


def test_without_memory_to_measure_the_peak_fractions_are_null(conn, frame):
    notices = []
    conn.add_notice_handler(lambda d: notices.append(d.message_primary))
    conn.execute("SET pg_llm.memory_limit = '64MB'")
    found = pg_llm.explain("abc", "costs", "op", 1, conn=conn)
    assert found["of_peak"].isna().all() and found["share"].sum() == pytest.approx(1, abs=0.01)
    assert "the machine's peak is not known" in notices[0]
    with pytest.raises(ValueError, match=r"pg_llm\.memory_limit"):
        pg_llm.plot_roofline(found)


def test_roof_is_what_the_fractions_divide_by():
    rows = {"gflops": [200.0, 4.0], "of_peak": [0.5, 0.01], "of_bandwidth": [0.1, 0.8]}
    rows |= {"bytes": [8000, 32000], "microseconds": [2.0, 1.0], "flops": [400000, 4000]}
    peak, bandwidth = roof(pd.DataFrame(rows))
    assert peak == pytest.approx(400) and bandwidth == pytest.approx(40)


def test_plot_has_a_point_for_each_op_below_the_roof(frame):
    pg_llm.plot_roofline(frame, "a small model")
    ax = plt.gca()
    assert ax.get_title("left") == "a small model" and ax.get_xscale() == ax.get_yscale() == "log"
    line = ax.lines[0].get_xydata()
    peak, bandwidth = roof(frame)
    assert np.allclose(line[1], [peak / bandwidth, peak]) and np.allclose(line[0][1] / line[0][0], bandwidth)
    named = [t.get_text() for t in ax.texts]
    assert any("c_fc" in name for name in named) and any(name.startswith("peak") for name in named)
    plt.gcf().canvas.draw()


def test_every_rung_of_the_ladder_gives_the_same_bits(conn):
    rows = conn.execute("SELECT rung, gflops, same_bits FROM llm_kernel_ladder(33, 200, 70)").fetchall()
    assert [r[0] for r in rows] == ["naive", "blocked", "packed", "vector", "threads"]
    assert all(gflops > 0 and same for _, gflops, same in rows)
    a, b = np.random.default_rng(3).normal(size=(2, 40, 40)).astype(np.float32)
    results = conn.execute(
        "SELECT llm_matmul_rung(%s, %s, r) FROM unnest(%s::text[]) AS r", (a, b, [r[0] for r in rows])
    ).fetchall()
    want = conn.execute("SELECT %s::tensor @ %s::tensor", (a, b)).fetchone()[0]
    assert all(np.array_equal(got, want) for (got,) in results)


def test_ladder_is_cancelled_at_once(conn):
    conn.execute("SET statement_timeout = '300ms'")
    with pytest.raises(psycopg.errors.QueryCanceled):
        conn.execute("SELECT * FROM llm_kernel_ladder(2000, 2000, 2000)")
