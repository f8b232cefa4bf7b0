"""%%check in a notebook: what it shows, what it defines for later cells, and the attempts that are kept."""

from __future__ import annotations

import pytest
from helpers.jupyter_kernel import Kernel
from helpers.means import MEANS, made

from pg_llm.course import keys, progress, store


@pytest.fixture(scope="module")
def kernel(server):
    """A kernel on a server that has the keys of the exercises of this file."""
    with pytest.MonkeyPatch.context() as patch:
        twice = "CREATE OR REPLACE FUNCTION twice(int) RETURNS int LANGUAGE sql"
        big = "SELECT g, avg(x) AS mean, avg(x) > 2 AS big FROM p GROUP BY g"
        tasks = [
            made(),
            made(id="90.3", defines="mean", fallback="SELECT g, avg(x) AS mean FROM p GROUP BY g"),
            made(id="90.5", defines="big", solution=big, wrong=[], fallback=big),
            made(id="90.4", cell="-- your line here", solution=f"{twice} AS 'SELECT 2 * $1'",
                 probe="SELECT twice(3), twice(:n)", wrong=[], fallback=f"{twice} AS 'SELECT $1 + $1'",
                 variant=[{"variables": {"n": 4}}, {"variables": {"n": 5}}]),
        ]  # fmt: skip
        for module in (keys, progress):
            patch.setattr(module, "exercises", lambda: {task.id: task for task in tasks})
        keys.install(lambda text: None)
    with store.connection() as conn:
        conn.execute("DELETE FROM llm_course.attempt")  # other tests': a printed table ends after 60 rows
    kernel = Kernel()
    assert kernel.run("%load_ext pg_llm\nimport pg_llm").ok
    yield kernel
    kernel.close()
    keys.remove()


def test_the_magic_shows_the_result_and_the_verdict(kernel):
    assert kernel.run("%%sql\nDROP TABLE IF EXISTS p; CREATE TABLE p AS SELECT 1 AS g, 2.5 AS x").ok
    assert "waits for your answer" in kernel.run(f"%%check 90.1\n{MEANS['cell']}").printed
    seen = kernel.run("%%check 90.1\nSELECT g, avg(x) FROM p GROUP BY g")
    assert "2.5" in seen.result and seen.printed == "✓ Right. Means.\n"
    seen = kernel.run("%%check 90.1\nSELECT g, sum(x) FROM p GROUP BY g")
    assert "✗ Not yet" in seen.printed and "that is the sum." in seen.printed
    seen = kernel.run("%%check 90.1\nSELECT g, avg(nonsense) FROM p GROUP BY g")
    assert seen.ok and 'column "nonsense" does not exist' in seen.printed
    seen = kernel.run("%%check 90.9\nSELECT 1")
    assert not seen.ok and "there is no exercise 90.9" in seen.printed
    assert "needs the number" in kernel.run("%%check\nSELECT 1").printed
    assert kernel.run("%sql ALTER TABLE p RENAME TO gone").ok  # as a temporary table after a restart
    seen = kernel.run("%%check 90.1\nUPDATE p SET x = x;\nSELECT g, avg(x) FROM p GROUP BY g")
    assert "✓ Right. Means.\nThere is no result to show" in seen.printed
    assert 'ERROR 42P01: relation "p" does not exist' in seen.printed
    assert kernel.run("%sql ALTER TABLE gone RENAME TO p").ok
    seen = kernel.run("%%check 90.1\nCOPY p TO STDOUT;\nSELECT 1")
    assert "an answer contains no COPY" in seen.printed
    assert kernel.run("%%sql answer <<\nSELECT g, avg(x) FROM p GROUP BY g").ok
    assert (
        kernel.run("from pg_llm.course.check import check\ncheck('90.1', answer)").printed
        == "✓ Right. Means.\n"
    )
    seen = kernel.run("check('90.3', answer)")
    assert seen.error == "KitError" and "was the answer to 90.1; run the cell" in seen.message
    assert "Right" in kernel.run("check('90.1', answer)").printed


def test_an_answer_without_end_is_stopped_once(kernel):
    kernel.run("from pg_llm.course import answers\nlimit, answers.LIMIT = answers.LIMIT, 500")
    endless = "WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r) SELECT"
    seen = kernel.run(f"%%check 90.1\n{endless} n, n FROM r")
    assert "got more than 5,000 rows" in seen.printed and not seen.result
    seen = kernel.run(f"%%check 90.1\n{endless} sum(n), 1 FROM r")
    assert "stopped after 500ms" in seen.printed and not seen.result
    kernel.run("answers.LIMIT = limit")


def test_a_table_is_the_learners_or_the_fallbacks(kernel):
    seen = kernel.run("%%check 90.3\nSELECT g, sum(x) AS mean FROM p GROUP BY g")
    assert "use the kit's own result for the table mean" in seen.printed
    assert kernel.run("%sql SELECT mean FROM mean").result.split()[-1].startswith("2.5")
    seen = kernel.run("%%check 90.3\nSELECT g, sum(x) / count(*) AS mean, 'mine' AS whose FROM p GROUP BY g")
    assert "Right" in seen.printed and "kit's own" not in seen.printed
    assert "mine" in kernel.run("%sql SELECT * FROM mean").result
    seen = kernel.run("%%check 90.3\nSELECT g, avg(x) * 1 FROM p GROUP BY g")  # a column without a name
    assert "Right" in seen.printed and "kit's own" not in seen.printed
    assert kernel.run("%sql SELECT mean FROM mean").result.split()[-1].startswith("2.5")
    seen = kernel.run("%%check 90.3\nSELECT g AS a, avg(x) AS b FROM p GROUP BY g")
    assert "Right" in seen.printed and "need the columns g, mean" in seen.printed
    assert kernel.run("%sql SELECT mean FROM mean").result.split()[-1].startswith("2.5")


def test_truth_values_and_numbers_are_so_for_later_cells(kernel):
    seen = kernel.run(
        "%%check 90.5\nSELECT g, avg(x)::text AS mean, (avg(x) > 2)::int AS big FROM p GROUP BY g"
    )
    assert "Right" in seen.printed and "kit's own" not in seen.printed
    assert kernel.run("%sql SELECT mean + 1 FROM big WHERE big").result.split()[-1].startswith("3.5")


def test_a_definition_stays_when_it_is_right(kernel):
    assert "kit's own" in kernel.run("%%check 90.4\n-- your line here\n").printed
    assert kernel.run("%sql SELECT twice(21)").result.split()[-1] == "42"
    wrong = "CREATE OR REPLACE FUNCTION twice(int) RETURNS int LANGUAGE sql AS 'SELECT 3 * $1'"
    assert "Not yet" in kernel.run(f"%%check 90.4\n{wrong}").printed
    assert kernel.run("%sql SELECT twice(21)").result.split()[-1] == "42"
    right = (
        "CREATE OR REPLACE FUNCTION twice(i int) RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN i * 2; END'"
    )
    kernel.run("%sql DROP FUNCTION twice(int)")
    assert "Right" in kernel.run(f"%%check 90.4\n{right}").printed
    assert kernel.run("%sql SELECT twice(i => 21)").result.split()[-1] == "42"


@pytest.mark.slow
def test_progress_survives_a_reset(kernel):
    table = kernel.run("%pg_llm progress").result
    assert "90.1" in table and "means" in table
    assert kernel.run("pg_llm.plot_progress()").ok
    kernel.run("%pg_llm reset")
    assert kernel.run("%pg_llm progress").result == table


def test_a_blank_cell_starts_no_clock(server, kernel):
    """The minutes run from the first try to the first right answer."""
    attempts = [("09:00", None), ("10:00", 0.25), ("10:20", None), ("10:30", 1), ("11:00", 1)]
    columns = "exercise, at, score, message, answer"
    insert = f"INSERT INTO llm_course.attempt ({columns}) VALUES ('91.1', %s, %s, '', '')"
    with store.connection() as conn:
        for time, score in attempts:
            conn.execute(insert, [f"2026-01-05 {time}", score])
    rows = {row["exercise"]: row for _, row in progress.progress().iterrows()}
    assert (rows["91.1"]["minutes"], rows["91.1"]["tries"]) == (30, 3)


def test_an_update_keeps_attempts_and_keys(server, kernel, monkeypatch):
    with store.connection() as conn:
        before = conn.execute("SELECT count(*) FROM llm_course.attempt").fetchone()
    script = store._script() + "-- a newer one"
    monkeypatch.setattr(store, "_script", lambda: script)
    with store.connection() as conn:
        made_by = conn.execute("SELECT obj_description('llm_course'::regnamespace)").fetchone()
        assert made_by == (store._comment(),)
        assert conn.execute("SELECT count(*) FROM llm_course.attempt").fetchone() == before
        assert conn.execute("SELECT count(*) FROM llm_course.answer_key").fetchone() > (0,)
        owners = conn.execute(
            "SELECT DISTINCT relowner::regrole::text FROM pg_class "
            "WHERE relnamespace = 'llm_course'::regnamespace AND relkind IN ('r', 'v')"
        ).fetchall()
        assert owners == [("llm_course",)]
