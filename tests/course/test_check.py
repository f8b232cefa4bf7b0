"""Checks: what is accepted, what is refused and why, and what an answer may do."""

from __future__ import annotations

import math
from decimal import Decimal

import numpy as np
import pandas as pd
import psycopg
import pytest
from helpers.means import MEANS, made

from pg_llm.course import answers, cells, check, exercise
from pg_llm.errors import KitError

COUNT = {
    **MEANS,
    "id": "90.2",
    "cell": "SELECT -- your line here",
    "solution": "SELECT count(*) FROM generate_series(1, :n)",
    "wrong": [{"answer": "SELECT :n - 1", "message": "one too few."}],
    "variant": [{"variables": {"n": 277_258}}, {"variables": {"n": 33_135}}],
}


@pytest.fixture(scope="module")
def learner(server):
    from pg_llm.notebook import session

    opened = session.start(None, fresh=True)
    yield opened.conn
    opened.conn.close()


def verdict(task, answer, known=None):
    return check.judged(
        exercise.from_dict(task) if isinstance(task, dict) else task, False, answer, known or {}
    )


@pytest.mark.parametrize(
    "answer",
    [
        "SELECT g, avg(x) FROM p GROUP BY g",
        "SELECT avg(x) AS mean, g FROM p GROUP BY g ORDER BY 1;",
        "SELECT g, count(*), round(avg(x)::numeric, 2) FROM p GROUP BY g -- rounded, a column more",
        "SELECT g::text, avg(x)::text FROM p GROUP BY g",
        "WITH s AS (SELECT g, sum(x) AS s, count(*) AS n FROM p GROUP BY g) SELECT g, s / n FROM s",
        "CREATE TEMP TABLE q AS TABLE p; SELECT g, avg(x) FROM q GROUP BY g",
    ],
)
def test_right_in_any_way(learner, answer):
    assert verdict(MEANS, answer).is_right


@pytest.mark.parametrize(
    "answer, message",
    [
        ("SELECT 42", "got 42; expected 3 rows with 2 columns."),
        ("SELECT g FROM p", "got 9 rows with 1 column; expected 3 rows with 2 columns."),
        ("SELECT g, sum(x) FROM p GROUP BY g", "that is the sum."),
        ("SELECT g, max(x) FROM p GROUP BY g", "got 3 rows with 2 columns, of which 0 are right."),
        ("SELECT g, avg(x) + (g = 1)::int FROM p GROUP BY g", "of which 2 are right."),
        ("SELECT g, avg(y) FROM p GROUP BY g", 'ERROR 42703: column "y" does not exist'),
        ("SELEC", 'ERROR 42601: syntax error at or near "SELEC"'),
        ("SELECT g, avg(x) FROM p WHERE false GROUP BY g", "got no rows; expected 3 rows with 2 columns."),
        ("SELECT NULL, NULL FROM generate_series(1, 3)", "of which 0 are right."),
        ("ROLLBACK", "contains no BEGIN, COMMIT or ROLLBACK"),
        ("SELECT 1; commit", "contains no BEGIN, COMMIT or ROLLBACK"),
        ("CREATE TEMP TABLE r (i int)", "cannot execute CREATE TABLE in a read-only transaction"),
        ("SELECT i, i FROM generate_series(1, 10000) AS i", "got more than 5,000 rows"),
        ("SELECT setval('llm_version_seq', 1)", "in a read-only transaction"),
        ("SELECT g, tensor '[1,2]' FROM p GROUP BY g", "of which 0 are right."),
    ],
)
def test_wrong_and_told_why(learner, answer, message):
    found = verdict(MEANS, answer)
    assert not found.is_right and found.score < 0.95
    assert message in found.message, found.message


def test_a_mistake_that_raises_is_told_too(learner):
    """By the code of a data exception; an error of any other kind is shown as it is."""
    wrong = [{"answer": "SELECT g, sum(x) / 0 FROM p GROUP BY g", "message": "how many rows has a group?"}]
    task = {**MEANS, "wrong": wrong}
    assert verdict(task, "SELECT g, 1 / (g - g) FROM p GROUP BY g").message == "how many rows has a group?"
    assert "22003: value out of range" in verdict(task, "SELECT g, exp(g + 1000.0::float8) FROM p").message
    assert "42703" in verdict(task, "SELECT g, y / 0 FROM p GROUP BY g").message


def test_constants_are_refused_on_other_data(learner):
    rows = learner.execute("SELECT 0") and answers.tried(
        made(), MEANS["solution"], made().variants[0], learner, {}
    )
    values = ", ".join(f"({g}, {mean})" for g, mean in rows["rows"])
    found = verdict(MEANS, f"VALUES {values}")
    assert found.score == 0.5 and "not for other data" in found.message
    assert verdict(COUNT, "SELECT 277258").score == 0.5
    assert "(50% of the points)" in str(verdict(COUNT, "SELECT 277258"))


@pytest.mark.slow
def test_whole_numbers_are_exact_and_others_may_be_rounded(learner):
    right = "SELECT count(*){} FROM generate_series(1, :n)"
    assert verdict(COUNT, right.format("::text")).is_right
    assert verdict(COUNT, "SELECT to_char(:n, 'FM999,999')").is_right  # 277,258
    assert not verdict(COUNT, right.format(" + 1")).is_right
    assert verdict(COUNT, right.format(" - 1")).message == "one too few."
    share = {**COUNT, "solution": "SELECT 1.0 / :n", "variant": [{"variables": {"n": n}} for n in (3, 7)]}
    for digits, accepted in [(4, True), (2, True), (1, False)]:
        assert verdict(share, f"SELECT round(1.0 / :n, {digits})").is_right == accepted
    assert not verdict(share, "SELECT round(1.0 / :n, 2) + 0.01").is_right
    assert not verdict(share, "SELECT -1.0 / :n").is_right
    assert verdict({**share, "either_sign": True}, "SELECT -1.0 / :n").is_right
    loose = {**COUNT, "tolerance": 0.02}
    assert verdict(loose, right.format(" + 300")).is_right
    assert not verdict(loose, right.format(" * 2")).is_right


def test_what_was_rounded_too_far_is_told_so(learner):
    """The hint comes only where the decimals that there are agree, and for no other number."""
    hint = "If it is rounded, keep three decimals."
    small = {**MEANS, "cell": "SELECT", "wrong": [], "solution": "SELECT 0.0523 / :n",
             "variant": [{"variables": {"n": 1}}, {"variables": {"n": 2}}]}  # fmt: skip
    for answer, hinted in (("0.05", True), ("'0.05'", True), ("0.1", True), ("0.04", False), ("0", False),
                           ("1", False), ("0.053", False), ("round(0.0523 / :n, 2)", True)):  # fmt: skip
        found = verdict(small, f"SELECT {answer}")
        assert not found.is_right and (hint in found.message) == hinted, (answer, found.message)
    assert verdict(small, "SELECT round(0.0523 / :n, 3)").is_right
    rows = {**small, "solution": "SELECT i, 0.031 * i / :n AS x FROM generate_series(1, 3) AS i"}
    assert hint in verdict(rows, "SELECT i, round(0.031 * i / :n, 2) FROM generate_series(1, 3) AS i").message
    assert (
        hint
        not in verdict(rows, "SELECT i, round(0.041 * i / :n, 2) FROM generate_series(1, 3) AS i").message
    )


def test_a_result_rounded_throughout_may_have_small_numbers(learner):
    small = {
        **MEANS,
        "solution": "SELECT i, 1.0 / i ^ 4 AS share FROM generate_series(1, :n) AS i",
        "variant": [{"variables": {"n": n}} for n in (9, 7)],
    }
    query = "SELECT i, round((1.0 / i ^ 4)::numeric, {}) FROM generate_series(1, :n) AS i"
    assert verdict(small, query.format(3)).is_right  # 0.002 for 0.0016, 0.000 for 0.0004
    assert not verdict(small, query.format(2)).is_right
    cut = "SELECT i, CASE WHEN i < 7 THEN 1.0 / i ^ 4 ELSE 0 END FROM generate_series(1, :n) AS i"
    assert not verdict(small, cut).is_right


@pytest.mark.parametrize(
    "answer, accepted",
    [
        ("SELECT avg(x), g FROM p GROUP BY g", True),
        ("SELECT avg(x), count(*), g FROM p GROUP BY g", True),
        ("SELECT avg(x) AS a, g AS b FROM p GROUP BY g", True),
        ("SELECT avg(x) AS g, g AS mean FROM p GROUP BY g", False),
        ("SELECT sum(x), g FROM p GROUP BY g", False),
    ],
)
def test_columns_of_other_names_may_stand_in_any_order(learner, answer, accepted):
    assert verdict(MEANS, answer).is_right == accepted


def test_a_single_row_is_told_column_by_column(learner):
    both = {**MEANS, "solution": "SELECT count(*) AS n, avg(x) AS mean FROM p", "wrong": []}
    assert verdict(both, "SELECT avg(x), count(*) FROM p").is_right
    half = verdict(both, "SELECT count(*) AS n, max(x) AS mean FROM p")
    assert half.message.endswith("; right is only `n`.")
    assert verdict(both, "SELECT 1 AS n, 'a' AS mean").message.endswith("; none of the values is right.")


@pytest.mark.parametrize(
    "answer, message",
    [
        ("SELECT NULL", "got NULL; expected one number."),
        ("SELECT true", "got true; expected one number."),
        ("SELECT 'many'", "got 'many'; expected one number."),
        ("SELECT 'n' = ':n'", "HINT: ':n' is a text; the variable is :n, without quotes"),
        ("DELETE FROM llm_param", "HINT: the answer is a query; it changes no table"),
    ],
)
def test_what_came_is_told_in_words(learner, answer, message):
    assert verdict(COUNT, answer).message.endswith(message)


def test_infinity_may_come_as_text(learner):
    task = {**COUNT, "solution": "SELECT '-infinity'::float8 AS masked, 'nan'::float8 AS undefined, :n AS n"}
    assert verdict(task, "SELECT '-Infinity' AS masked, 'NaN' AS undefined, :n AS n").is_right


VIEW = {
    **MEANS,
    "solution": "CREATE TEMP VIEW v AS SELECT max(x) AS x FROM p",
    "wrong": [],
    "probe": "SELECT x FROM v",
}


def test_what_the_probe_finds_is_told_as_such(learner):
    assert verdict(VIEW, VIEW["solution"]).is_right
    found = verdict(VIEW, "CREATE TEMP VIEW v AS SELECT min(x) AS x FROM p")
    assert found.message == "tried by the check, it gave 1.0."
    found = verdict(VIEW, "CREATE TEMP VIEW w AS SELECT 1")
    assert found.message == 'tried by the check, it failed: ERROR 42P01: relation "v" does not exist'


def test_a_mistake_at_which_the_probe_fails_is_told(learner):
    half = "CREATE TEMP VIEW v AS SELECT {} / (max(x) - max(x)) AS x FROM p"
    task = {**VIEW, "wrong": [{"answer": half.format(2), "message": "what is divided by?"}]}
    assert verdict(task, half.format(3)).message == "what is divided by?"
    overflow = "CREATE TEMP VIEW v AS SELECT exp(1000 * max(x)) AS x FROM p"
    assert "it failed: ERROR 22003" in verdict(task, overflow).message


def test_a_look_at_what_was_defined_changes_nothing(learner):
    look = "; WITH gone AS (DELETE FROM p RETURNING 1) SELECT count(*), count(*) FROM gone"
    assert verdict(VIEW, VIEW["solution"] + look).is_right
    void = "; SELECT pg_advisory_unlock_all()"  # returns void, of which no table can be made
    assert verdict(VIEW, VIEW["solution"] + void).is_right


@pytest.mark.parametrize(
    ("statement", "query"),
    [
        ("WITH a AS (SELECT 1) SELECT * FROM a", True),
        ("-- new\n(SELECT 1) UNION SELECT 2", True),
        ("WITH a AS (SELECT 1 AS x), b AS (TABLE a) UPDATE t SET x = (SELECT 2) FROM b RETURNING t.x", False),
        ("with a as (select 1) insert into t select * from a", False),
        ("UPDATE t SET x = 1", False),
        ("", False),
    ],
)
def test_what_a_query_is(statement, query):
    assert answers.is_query(statement) is query


def test_a_kept_answer_may_have_columns_of_equal_names(learner):
    task = {**MEANS, "solution": "SELECT 'a', 'b'", "probe": "SELECT count(*) FROM answer", "wrong": []}
    assert verdict(task, "SELECT '100 %', '' AS \"50 %\", 'b'").is_right
    assert "LINE 2: SELECT 1, y\n" in verdict(task, "SELECT 1, y").message


def test_order_counts_only_where_the_task_says_so(learner):
    backwards = "SELECT g, avg(x) FROM p GROUP BY g ORDER BY g DESC"
    ordered = {**MEANS, "solution": MEANS["solution"] + " ORDER BY g"}
    assert verdict(ordered, backwards).is_right
    assert not verdict({**ordered, "ordered": True}, backwards).is_right
    assert verdict({**ordered, "ordered": True}, "SELECT g, avg(x) FROM p GROUP BY g ORDER BY g").is_right


def test_a_transposed_table_is_wrong_and_named_columns_may_be_in_any_order(learner):
    pairs = {**MEANS, "solution": "SELECT g AS i, g * g AS j FROM p", "wrong": []}
    assert verdict(pairs, "SELECT g * g AS j, g AS i FROM p").is_right
    assert not verdict(pairs, "SELECT g AS j, g * g AS i FROM p").is_right


def test_duplicates_count(learner):
    bag = {**MEANS, "solution": "SELECT g FROM p", "wrong": []}
    assert verdict(bag, "SELECT g FROM p ORDER BY x DESC").is_right
    same_size = "SELECT g FROM (SELECT DISTINCT g FROM p) AS d, generate_series(1, 3)"
    assert verdict(bag, same_size).score == 0.5  # three of each is right for the data shown only
    assert not verdict(bag, "SELECT 0 FROM p").is_right


def test_data_that_only_resemble_the_learners_are_named(learner):
    """Four rows are not what a learner sees who has a table of ten."""
    task = COUNT | {"stand_in": True}
    assert verdict(task, "SELECT 7").message == "on data of the check, got 7."
    assert verdict(task, "SELECT 277258").message.startswith(
        "right for some data, but not for other. There: on"
    )
    assert verdict(COUNT, "SELECT 7").message == "got 7."
    assert verdict(COUNT, "SELECT 277258").message.startswith(
        "right for the data shown, but not for other data."
    )


def test_values_that_nearly_sort_alike_are_paired(learner):
    """Rows whose first column differs by rounding keep their partners."""
    close = "SELECT 1 + i * 1e-9 AS a, (i * 7) % 5 AS b FROM generate_series(1, 5) AS i"
    task = {**MEANS, "solution": close, "wrong": [], "variant": [{}, {}]}
    assert verdict(task, close.replace("1 + i * 1e-9", "1 - i * 1e-9")).is_right


def test_tensors_are_compared_by_value_and_shape(learner):
    task = {**MEANS, "solution": "SELECT tensor '[[1,2],[3,4]]' * :k", "wrong": [],
            "variant": [{"variables": {"k": 1}}, {"variables": {"k": 2}}]}  # fmt: skip
    assert verdict(task, "SELECT :k * tensor '[[1,2],[3,4]]'").is_right
    assert verdict(task, "SELECT (tensor '[[1,2],[3,4]]' * :k)::text").is_right
    found = verdict(task, "SELECT reshape(tensor '[[1,2],[3,4]]' * :k, ARRAY[4])")
    assert not found.is_right and "got one tensor (4)" in found.message


def test_an_answer_changes_nothing(learner):
    learner.execute("CREATE TABLE IF NOT EXISTS kept AS SELECT 1 AS i")
    writing = {**MEANS, "writes": True}
    verdict(writing, "DELETE FROM kept; SELECT g, avg(x) FROM p GROUP BY g")
    verdict(MEANS, "WITH d AS (DELETE FROM kept RETURNING i) SELECT i, i FROM d")
    verdict(writing, "SELECT llm_init_model('classroom', 5)")
    assert learner.execute("SELECT count(*) FROM kept").fetchone() == (1,)
    assert learner.info.transaction_status == psycopg.pq.TransactionStatus.IDLE


def test_within_the_learners_own_transaction(learner):
    learner.execute("BEGIN")
    learner.execute("CREATE TABLE mine AS SELECT 1 AS i")
    assert verdict(MEANS, MEANS["solution"]).is_right
    assert not verdict(MEANS, "SELECT nonsense").is_right
    assert learner.execute("SELECT i FROM mine").fetchone() == (1,)
    with pytest.raises(psycopg.Error):
        learner.execute("SELECT nonsense")
    with pytest.raises(KitError, match="leave it with %sql ROLLBACK"):
        verdict(MEANS, MEANS["solution"])
    learner.execute("ROLLBACK")
    assert learner.execute("SELECT to_regclass('mine')").fetchone() == (None,)


def test_python_answers(learner):
    task = made(
        language="python", cell="def f(x):\n    return None  # your line here", probe="[f(n) for n in ns]",
        solution="def f(x): return x + 1", wrong=[{"answer": "def f(x): return x", "message": "add one."}],
        variant=[{"variables": {"ns": [1, 2]}}, {"variables": {"ns": [5, 6]}}],
    )  # fmt: skip
    assert verdict(task, "f = lambda x: 1.0 + x").is_right
    assert verdict(task, "def f(x):\n    return x").message == "add one."
    assert "NameError: name 'y'" in verdict(task, "def f(x): return y").message
    assert "SyntaxError" in verdict(task, "def f(x) return y").message
    assert verdict(task, "def f(x): return [2, 3][x - 1]").score == 0.5
    assert verdict(task, task.cell).score is None
    last = made(language="python", solution="sum(ns)", wrong=[],
                variant=[{"variables": {"ns": [1, 2]}}, {"variables": {"ns": [5, 6]}}])  # fmt: skip
    assert verdict(last, "total = ns[0]\ntotal + ns[1]").is_right


def test_a_probe_reads_the_answer(learner):
    task = made(
        solution="SELECT 'a cat' AS text", right=[], variant=[{}, {}],
        probe="SELECT CASE WHEN text LIKE '%cat%' THEN 'cat' ELSE 'no cat' END FROM answer",
        wrong=[{"answer": "SELECT 'dog' AS text", "message": "a cat, please."}],
    )  # fmt: skip
    assert verdict(task, "SELECT 'my cat' AS text").is_right
    assert verdict(task, "SELECT 'a cow' AS text").message == "a cat, please."


COUNTING = "WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r) SELECT {} FROM r"


@pytest.mark.parametrize(
    "answer, message",
    [
        (COUNTING.format("n, n"), "got more than 5,000 rows"),
        (COUNTING.format("sum(n)"), "stopped after 300ms, the limit of a statement (statement_timeout)"),
        ("DO 'BEGIN LOOP END LOOP; END'; SELECT 1, 1", "stopped after 300ms"),
    ],
)
def test_an_answer_without_end_is_stopped(learner, monkeypatch, answer, message):
    monkeypatch.setattr(answers, "LIMIT", 300)
    tried = []
    monkeypatch.setattr(answers, "tried", lambda *a, f=answers.tried: tried.append(a[2]) or f(*a))
    found = verdict(MEANS, answer)
    assert found.endless and found.score == 0 and message in found.message
    assert tried == [*made().variants[:1], *made().variants]  # the answer once, then the solution
    assert not verdict(MEANS, "SELECT 1").endless
    assert learner.execute("SHOW statement_timeout").fetchone() == ("0",)


def test_a_function_without_end_is_stopped_when_the_check_tries_it(learner, monkeypatch):
    monkeypatch.setattr(answers, "LIMIT", 300)
    function = "CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql AS 'BEGIN {} END'"
    task = {**MEANS, "solution": function.format("RETURN 1;"), "probe": "SELECT f()", "wrong": []}
    assert verdict(task, task["solution"]).is_right
    assert "stopped after 300ms" in verdict(task, function.format("LOOP END LOOP;")).message


def test_temporary_files_are_limited(learner, monkeypatch):
    monkeypatch.setattr(answers, "DISK", 1000)
    large = "SELECT i, count(*) FROM generate_series(1, 400000) AS i GROUP BY i ORDER BY 1 LIMIT 3"
    with learner.transaction():
        learner.execute("SET LOCAL work_mem = '64kB'")
        message = verdict(MEANS, large).message
    assert 'ERROR 53400: temporary file size exceeds "temp_file_limit" (1000kB)' in message
    assert "HINT: a sort, a GROUP BY or a join wrote rows to disk" in message
    before = learner.execute("SHOW temp_file_limit").fetchone()
    learner.execute("SET temp_file_limit = 500")
    try:
        with learner.transaction():
            answers.limited(learner)
            assert learner.execute("SHOW temp_file_limit").fetchone() == ("500kB",)
    finally:
        learner.execute("RESET temp_file_limit")
    assert learner.execute("SHOW temp_file_limit").fetchone() == before != ("-1",)


def test_a_role_that_may_not_limit_files_is_limited_in_time(learner):
    with learner.transaction(force_rollback=True):
        learner.execute("CREATE ROLE pupil; SET LOCAL ROLE pupil")
        assert answers.limited(learner) == "30s"


def test_a_lower_limit_of_the_learners_own_stays(learner):
    learner.execute("SET statement_timeout = '150ms'")
    try:
        assert "stopped after 150ms" in verdict(MEANS, "SELECT pg_sleep(60)").message
    finally:
        learner.execute("RESET statement_timeout")


@pytest.mark.parametrize(
    "value, plain",
    [
        ("12", 12), (" 12 ", 12), ("277,000", 277000), ("1e-3", 0.001), ("0.67", 0.67), ("t", True),
        ("[1, 2.5]", [1, 2.5]), ("[1, x]", "[1, x]"), ("1,2", "1,2"), (Decimal("2"), 2),
        (Decimal("2.50"), 2.5),
        (float("nan"), "nan"), (np.float32(0.5), 0.5), (np.array([[1, 2]]), [[1, 2]]), (None, None),
        ((1, "2"), [1, 2]), (True, True), ("a\0b", "ab"), (Decimal("NaN"), "nan"), (math.inf, "inf"),
        ("{{1,2},{3,4}}", [[1, 2], [3, 4]]), ("{a,b}", "{a,b}"), ('{"a": [1]}', '{"a": [1]}'),
        ("1e999", "1e999"), ("9" * 5000, "9" * 5000), ("[1e999]", "inf"),
        ("[[0.5]]", 0.5), ([[1, 2]], [[1, 2]]),
        ("12 cats", "12 cats"), ("", ""), ("-", "-"), (".", "."), ("²", "²"),
    ],
)  # fmt: skip
def test_plain_values(value, plain):
    found = answers.plain(value)
    assert found == plain and isinstance(found, type(plain))


def test_frames_and_rows_of_python_are_tables():
    frame = answers.value_table(pd.DataFrame({"a": [1, 2], "b": ["x", "y"]}))
    assert frame == {"columns": ["a", "b"], "rows": [[1, "x"], [2, "y"]]}
    assert answers.value_table([(1, 2)]) == {"columns": ["column1", "column2"], "rows": [[1, 2]]}
    assert answers.value_table([1, 2]) == {"columns": ["value"], "rows": [[[1, 2]]]}


def test_the_fallback_is_no_answer(learner):
    task = {**MEANS, "fallback": "DROP TABLE IF EXISTS x;\nSELECT p.g, avg(p.x) AS mean FROM p GROUP BY p.g;"}
    assert not verdict(task, ";").is_right
    for copy in (task["fallback"], "SELECT q.g, AVG(q.x)\nAS m FROM q GROUP BY q.g -- mine"):
        found = verdict(task, copy)
        assert found.score == 0 and "the kit's own version" in found.message
    assert verdict(task, MEANS["solution"]).is_right


def test_a_value_or_an_unknown_exercise_is_an_error(learner):
    with pytest.raises(TypeError, match="takes the query, not its value"):
        check.check("90.1", 42)
    with pytest.raises(KitError, match="there is no exercise 90.1"):
        check.check("90.1", "SELECT 1")


def test_a_file_with_an_unknown_field_is_refused():
    with pytest.raises(KitError, match="90.1.*colour"):
        made(colour="red")


def test_cells_of_an_exercise():
    task = made()
    kinds = [kind for kind, _, _ in cells.parts(task)]
    assert kinds == ["markdown", "code", "markdown"]
    text = "\n".join(source for _, _, source in cells.parts(task))
    assert "### Exercise 90.1 · means" in text and "%%check 90.1\nSELECT g," in text
    assert MEANS["solution"] in text
    assert MEANS["solution"] not in "\n".join(source for _, _, source in cells.parts(task, solutions=False))


@pytest.mark.parametrize(
    ("statement", "is_query"),
    [
        ("SELECT 1", True),
        ("(SELECT 1)", True),
        ("WITH a AS (SELECT 1) SELECT * FROM a", True),
        ("WITH a AS (INSERT INTO t VALUES (1) RETURNING 1) TABLE a", True),
        ("WITH a AS (SELECT 1) INSERT INTO t SELECT * FROM a", False),
        ("DELETE FROM t", False),
        ("", False),
    ],
)
def test_the_word_after_with_decides_what_a_statement_is(statement, is_query):
    assert answers.is_query(statement) == is_query
