"""The stream: rows are sent as they are made, never half a character, and it stops on request."""

import os
import threading
import time
from pathlib import Path

import numpy as np
import psycopg
import pytest
from helpers.tiny_model import LETTERS, make

import pg_llm


@pytest.fixture(scope="module")
def m(server, database):
    with pg_llm.connect(database) as conn:
        make(conn, "m", n_layer=2, n_head=4, d_model=32, n_positions=100, gain=8)
        yield conn


@pytest.fixture(scope="module")
def slow(server, database):
    """A model that takes some milliseconds per token: 12 layers of 384 channels."""
    with pg_llm.connect(database) as conn:
        make(conn, "slow", n_layer=12, n_head=6, d_model=384, n_positions=2000, gain=1)
        conn.execute("SELECT llm_generate('a', 1, model => 'slow')")
        yield conn


def rss(conn) -> int:
    """Resident memory of a session's server process in MB."""
    pages = Path(f"/proc/{conn.info.backend_pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE") >> 20


STREAM = "SELECT * FROM llm_generate_stream(%s, %s, 0, model => %s, eos => %s)"


def test_rows_tell_the_text_as_it_grows(m):
    (whole,) = m.execute("SELECT llm_generate('hello', 30, 0, model => 'm', eos => NULL)").fetchone()
    rows = m.execute(STREAM, ("hello", 30, "m", None)).fetchall()
    assert len(rows) == 30
    for n, (step, token_id, token, text, complete, _) in enumerate(rows, 1):
        assert (step, text, token) == (n, whole[: 5 + n], whole[4 + n])
        assert LETTERS[token_id] == token and complete == (n == 30)
    end = rows[7][1]
    cut = m.execute(STREAM, ("hello", 30, "m", end)).fetchall()
    last = [r[1] for r in rows].index(end)
    assert cut[:-1] == [(*r[:4], False, r[5]) for r in rows[:last]]
    # the end token has a row of its own, and adds nothing to the text
    assert cut[-1] == (last + 1, end, "", rows[last][3][:-1], True, rows[last][5])
    assert m.execute(STREAM, ("hello", 0, "m", None)).fetchall() == []


def test_columns(m):
    cursor = m.execute(STREAM, ("hello", 1, "m", None))
    names = ["step", "token_id", "token", "text", "is_complete", "logprob"]
    assert [c.name for c in cursor.description] == names


def test_the_plan_collects_nothing(m):
    """A function scan would buffer every row until the last is made."""
    rows = m.execute("EXPLAIN " + STREAM, ("hello", 5, "m", None)).fetchall()
    plan = "\n".join(r[0] for r in rows)
    assert "ProjectSet" in plan and "Function Scan" not in plan


def test_the_first_row_comes_long_before_the_last(slow):
    """By the client's clock, for both ways of reading a result row by row, and within a join."""
    joined = (
        "SELECT s.* FROM (VALUES ('ab')) AS p (prompt), "
        "LATERAL llm_generate_stream(p.prompt, 60, 0, model => 'slow', eos => NULL) AS s"
    )
    for query, arguments in ((STREAM, ("ab", 60, "slow", None)), (joined, None)):
        times = []
        started = time.monotonic()
        with slow.cursor() as cursor:
            for _row in cursor.stream(query, arguments):
                times.append(time.monotonic() - started)
        assert len(times) == 60
        print(f"first row after {times[0]:.4f} s, last after {times[-1]:.4f} s")
        assert times[0] < times[-1] / 3
        assert times[29] < times[-1] * 0.8  # and the others do not arrive together


def script(conn, model, tokens):
    """A graph that is no GPT: position t is followed by tokens[t], whatever the prompt is."""
    conn.execute(
        "INSERT INTO llm_model_config VALUES (%s, 1, 1, 1, 1, %s, 50257, 'gpt2')", (model, len(tokens))
    )
    conn.execute(
        "INSERT INTO llm_graph (model, name, op, inputs, attrs) "
        "SELECT %s, * FROM (VALUES "
        """('positions', 'input', '{}'::text[], '{"shape": ["T"], "dtype": "int"}'::jsonb), """
        """('table', 'param', '{}', '{"shape": ["P", "V"]}'), """
        """('logits', 'embedding', '{positions,table}', '{}')) AS v""",
        (model,),
    )  # fmt: skip
    table = np.zeros((len(tokens), 50257), np.float32)
    table[np.arange(len(tokens)), tokens] = 1
    conn.execute("INSERT INTO llm_param (model, name, data) VALUES (%s, 'table', %s)", (model, table))


def test_text_never_shows_half_a_character(m):
    """Characters of several tokens appear when complete; incomplete ones become U+FFFD."""
    text = " naïve 🙂👩‍👩‍👧 한국어 \U0001f9ff𝔘𝔫𝔦 日本 e\u0301 end"
    tokens = m.execute("SELECT llm_encode(%s, 'gpt2')", [text]).fetchone()[0]
    script(m, "says", [0, *tokens])
    rows = m.execute(STREAM, ("!", len(tokens) + 1, "says", None)).fetchall()
    shown = [r[3].removeprefix("!!") for r in rows[1:]]
    assert len(tokens) > len(text) > 20 and shown[-1] == text
    for before, after in zip(shown, shown[1:], strict=False):
        assert after.startswith(before)
    assert all(text.startswith(part) and "\ufffd" not in part for part in shown)
    assert all("!" + "".join(r[2] for r in rows[:n]) == rows[n - 1][3] for n in range(1, len(rows) + 1))
    # bytes that are no UTF-8: a lead byte, then something else; a lead byte at the very end
    rows = m.execute("SELECT bytes, token_id FROM llm_bpe_vocab WHERE model = 'gpt2' AND length(bytes) = 1")
    byte = {bytes(b): token_id for b, token_id in rows}
    half = [byte[bytes([b])] for b in b"\xf0\x9fA\xffB\xe2\x82"]
    script(m, "breaks", half)
    rows = m.execute(
        "SELECT text, token FROM llm_generate_stream('', 7, 0, model => 'breaks', eos => 50256)"
    ).fetchall()
    shown = [r[0] for r in rows]
    assert [r[1] for r in rows] == ["", "", "\ufffdA", "\ufffd", "B", "", "\ufffd"]
    assert shown[:3] == ["", "", "\ufffdA"] and shown[4] == "\ufffdA\ufffdB" and shown[5] == shown[4]
    assert shown[6] == "\ufffdA\ufffdB\ufffd" == m.execute(
        "SELECT llm_generate('', 7, 0, model => 'breaks', eos => 50256)"
    ).fetchone()[0]  # fmt: skip


def test_a_limit_stops_early_and_frees(slow):
    many = "SELECT * FROM llm_generate_stream('ab', 1900, 0, model => 'slow', eos => NULL) LIMIT 1"
    for _ in range(3):
        slow.execute(many)
    before, started = rss(slow), time.monotonic()
    for _ in range(20):  # each has some 70 MB of keys and values during execution
        assert len(slow.execute(many).fetchall()) == 1
    assert rss(slow) <= before + 30
    print(f"20 streams cut after one row: {time.monotonic() - started:.2f} s")


def test_two_streams_at_once(m):
    expected = [m.execute(STREAM, (p, 40, "m", None)).fetchall() for p in ("abc", "xyz")]
    got = [[], []]
    with m.transaction():
        for i, prompt in enumerate(("abc", "xyz")):
            m.execute(f"DECLARE c{i} CURSOR FOR {STREAM}", (prompt, 40, "m", None))
        for n in range(9):
            got[0] += m.execute(f"FETCH {n} FROM c0").fetchall()
            got[1] += m.execute(f"FETCH {9 - n} FROM c1").fetchall()
            m.execute("SELECT llm_generate('between', 3, model => 'm')")
        got[0] += m.execute("FETCH ALL FROM c0").fetchall()
    assert got[0] == expected[0] and got[1] == expected[1]


def test_cursors_that_outlive_their_transaction(m):
    expected = m.execute(STREAM, ("abc", 40, "m", None)).fetchall()
    with m.transaction():
        m.execute(f"DECLARE held CURSOR WITH HOLD FOR {STREAM}", ("abc", 40, "m", None))
        got = m.execute("FETCH 5 FROM held").fetchall()
    m.execute("UPDATE llm_param SET step = step WHERE model = 'm'")
    got += m.execute("FETCH ALL FROM held").fetchall()
    m.execute("CLOSE held")
    assert got == expected
    with pytest.raises(ZeroDivisionError), m.transaction():
        m.execute(f"DECLARE lost CURSOR FOR {STREAM}", ("abc", 40, "m", None))
        m.execute("FETCH 5 FROM lost")
        raise ZeroDivisionError
    assert m.execute(STREAM, ("abc", 40, "m", None)).fetchall() == expected


def test_every_way_to_ask(m):
    """Prepared, read only, scrolled, nested, stored, from a view or a function: the same rows."""
    expected = m.execute(STREAM, ("abc", 4, "m", None)).fetchall()
    texts = [r[3] for r in expected]
    call = "llm_generate_stream('abc', 4, 0, model => 'm', eos => NULL)"
    for _ in range(8):  # the plan becomes a generic one
        assert m.execute(STREAM, ("abc", 4, "m", None), prepare=True).fetchall() == expected
    with m.transaction():
        m.execute("SET TRANSACTION READ ONLY")
        assert m.execute(f"SELECT * FROM {call}").fetchall() == expected
    with m.transaction():
        m.execute(f"DECLARE c SCROLL CURSOR FOR SELECT * FROM {call}")
        assert m.execute("FETCH 3 FROM c").fetchall() == expected[:3]
        assert m.execute("FETCH BACKWARD 2 FROM c").fetchall() == expected[1::-1]
        assert m.execute("FETCH ABSOLUTE 4 FROM c").fetchall() == expected[3:]
    m.execute(f"CREATE VIEW v AS SELECT * FROM {call}; CREATE MATERIALIZED VIEW mv AS SELECT * FROM {call}; "
        f"CREATE TABLE t AS SELECT * FROM {call}; INSERT INTO t SELECT * FROM {call}")  # fmt: skip
    assert m.execute("TABLE v").fetchall() == m.execute("TABLE mv").fetchall() == expected
    assert m.execute("TABLE t").fetchall() == expected * 2
    m.execute("DROP VIEW v; DROP MATERIALIZED VIEW mv; DROP TABLE t")
    assert [r[0] for r in m.execute(f"SELECT ({call}).text")] == texts
    nested = (
        "SELECT (SELECT string_agg(text, '|' ORDER BY step) FROM llm_generate_stream(p, 4, 0, model => 'm'))"
    )
    rows = m.execute(f"{nested} FROM unnest(ARRAY['abc', 'x', 'abc']) AS p").fetchall()
    assert rows[0] == rows[2] == ("|".join(texts),) != rows[1]
    loop = f"FOR r IN SELECT * FROM {call} LOOP n := n + r.step; END LOOP"
    m.execute(f"DO $$ DECLARE r record; n int := 0; BEGIN {loop}; ASSERT n = 10; END $$")


# ---- stopping ----

LONG = {
    "prefill": f"SELECT llm_generate('{'ab' * 999}', 1, model => 'slow') FROM generate_series(1, 30)",
    "logits of a batch": "SELECT shape(llm_logits(array_fill(1, ARRAY[20, 2000]), 'slow'))",
    "decode": "SELECT llm_generate('ab', 1990, model => 'slow', eos => NULL)",
    "stream": "SELECT count(*) FROM llm_generate_stream('ab', 1990, model => 'slow', eos => NULL)",
    "beams": "SELECT * FROM llm_beam_search('ab', 16, 500, 'slow')",
    "product": "SELECT shape(randn(ARRAY[12000, 8000], 1) @ randn(ARRAY[8000, 12000], 2))",
    "random numbers": "SELECT shape(randn(ARRAY[12000, 20000], 1))",
}


@pytest.mark.slow
@pytest.mark.parametrize("what", LONG)
def test_cancel_and_timeout(slow, what):
    """The statement ends with its reason, frees its memory, and the session continues."""
    short = "SELECT llm_generate('ab', 20, 0, model => 'slow', eos => NULL)"
    expected = slow.execute(short).fetchone()
    before = rss(slow)
    for after in (0.05, 0.2, 0.35):
        timer = threading.Timer(after, slow.cancel)
        timer.start()
        try:
            with pytest.raises(psycopg.errors.QueryCanceled, match="user request"):
                slow.execute(LONG[what])
        finally:
            timer.join()
    slow.execute("SET statement_timeout = '100ms'")
    with pytest.raises(psycopg.errors.QueryCanceled, match="statement timeout"):
        slow.execute(LONG[what])
    slow.execute("RESET statement_timeout")
    assert slow.execute(short).fetchone() == expected
    assert rss(slow) <= before + 40


def test_a_client_that_goes_away_ends_its_stream(slow, connect):
    lost = connect()
    pid = lost.info.backend_pid
    lost.pgconn.send_query(LONG["stream"].replace("count(*)", "*").encode())
    time.sleep(0.3)
    lost.pgconn.finish()
    for _ in range(100):
        if not slow.execute("SELECT 1 FROM pg_stat_activity WHERE pid = %s", [pid]).fetchone():
            break
        time.sleep(0.1)
    else:
        pytest.fail("the session goes on for nobody")
