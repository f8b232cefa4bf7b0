"""%load_ext pg_llm in a real kernel: one connection, SQL as written, errors that teach, Ctrl-C, restarts."""

from __future__ import annotations

import json
import os
import re
import textwrap

import pytest
from helpers.jupyter_kernel import Kernel

import pg_llm
from pg_llm.notebook import lab

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def kernel(server):
    kernel = Kernel()
    assert kernel.run("%load_ext pg_llm\nimport pg_llm").ok
    yield kernel
    kernel.close()


def rows(seen) -> list[str]:
    """The cells of the HTML table that a cell showed, without markup."""
    assert seen.ok, seen.traceback
    return re.findall(r"<td[^>]*>(.*?)</td>", seen.html, re.DOTALL)


def test_loading_prints_nothing_that_differs_between_machines(server):
    kernel = Kernel()
    seen = kernel.run("%load_ext pg_llm")
    kernel.close()
    assert (seen.ok, seen.printed, seen.result) == (True, "", "")


def test_one_session_for_sql_cells_and_python(kernel):
    pid = rows(kernel.run("%sql SELECT pg_backend_pid()"))
    assert rows(kernel.run('pg_llm.sql("SELECT pg_backend_pid()")')) == pid
    # The package sql gets that connection, too.
    assert kernel.run("%sql --connections\nfrom sql.connection import Connection").ok
    text = "Connection.current.internal_connection.connection.driver_connection.info.backend_pid"
    assert kernel.run(text).result == pid[0]


@pytest.mark.parametrize(
    "written",
    [
        "SELECT '{x}'",
        "SELECT '{1,2}'::int[]",
        """SELECT '{"a":1,"b":"x:y"}'::jsonb""",
        "SELECT $$x$$",
        "SELECT $x$ it's $x$",
        "SELECT '$x $$x'",
        "SELECT (ARRAY[1,2,3])[1:2]",
        "SELECT '12:30'::time, 7::int",
        "SELECT ':x', E'\\\\:x'",
        "SELECT 7 % 4, 'abc' LIKE 'a%c', '%(x)s %s'",
        "SELECT 'a -- b' /* :x ; {x} */ -- :x",
        "SELECT 'semi;colon'",
    ],
)
def test_sql_arrives_as_it_is_written(kernel, server, written):
    import pg_llm

    assert kernel.run("x = 5").ok
    with pg_llm.connect("as_written") as conn:
        expected = conn.execute(written).fetchall()
    got = kernel.run(f"%%sql got <<\n{written}")
    assert got.ok, got.traceback
    assert kernel.run("print([tuple(r) for r in got])").printed.strip() == str(expected)


def test_a_python_variable_is_a_parameter_only_where_it_is_named(kernel):
    assert kernel.run('wanted = "it\'s"; tokens = [1, 2, 3]; import numpy as np; w = np.eye(2)').ok
    shown = rows(kernel.run("%sql SELECT :wanted, :tokens::int[], :w, 10 % 3"))
    assert shown == ["it&#x27;s", "[1, 2, 3]", "[[1,0],[0,1]]", "1"]


@pytest.mark.parametrize("how", ["%%sql kept <<\n{}", "%sql kept << {}", "%sql kept <<{}"])
def test_a_failed_cell_leaves_no_earlier_result(kernel, how):
    assert kernel.run("kept = 4").ok and kernel.run(how.format("SELECT :kept + 1")).ok
    assert kernel.run("kept[0][0]").result == "5"
    assert kernel.run(how.format("SELECT foo FROM bar")).error == "UndefinedTable"
    assert kernel.run("kept").error == "NameError"


@pytest.mark.parametrize("name", ["class", "1x", "a.b"])
def test_a_result_goes_to_a_variable_only(kernel, name):
    seen = kernel.run(f"%%sql {name} <<\nSELECT 1")
    assert not seen.ok and f"{name} is not the name of a Python variable" in seen.printed


def test_an_unknown_variable_is_named_as_such(kernel):
    seen = kernel.run("%sql SELECT :no_such_variable")
    assert seen.error == "SyntaxError" and "Python variable" in seen.traceback


@pytest.mark.parametrize("how", ["%sql {}", "%%sql\n{}", 'pg_llm.sql("""{}""")'])
def test_a_failing_statement_fails_the_cell_briefly(kernel, how):
    seen = kernel.run(how.format("SELECT foo FROM bar"))
    assert not seen.ok and seen.error == "UndefinedTable"
    assert seen.printed == ""
    assert "42P01" in seen.traceback and "LINE 1: SELECT foo FROM bar" in seen.traceback
    assert len(seen.traceback.splitlines()) < 8 and "/" not in seen.traceback


def test_detail_and_hint_are_shown(kernel):
    seen = kernel.run("%%sql\nDO $$ BEGIN RAISE 'no' USING DETAIL = 'the detail', HINT = 'the hint'; END $$")
    assert "DETAIL: the detail" in seen.traceback and "HINT: the hint" in seen.traceback


def test_notices_are_shown_and_skipping_is_not(kernel):
    seen = kernel.run("%%sql\nDO $$ BEGIN RAISE NOTICE 'hello'; END $$;\nDROP TABLE IF EXISTS no_such_table")
    assert seen.printed == "NOTICE: hello\n"


def test_a_cell_is_several_statements_and_shows_the_last_table(kernel):
    seen = kernel.run("%%sql\nBEGIN;\nCREATE TABLE gone AS SELECT 7 AS a;\nSELECT * FROM gone;\nROLLBACK;")
    assert rows(seen) == ["7"]
    assert kernel.run("%sql SELECT * FROM gone").error == "UndefinedTable"


def test_a_transaction_stays_open_between_cells(kernel):
    assert kernel.run("%%sql\nBEGIN;\nCREATE TABLE between_cells AS SELECT 1 AS a").ok
    assert rows(kernel.run("%sql SELECT a FROM between_cells")) == ["1"]
    assert kernel.run("%sql ROLLBACK").ok
    assert not kernel.run("%sql SELECT a FROM between_cells").ok


def test_an_aborted_transaction_says_how_to_leave_it(kernel):
    assert not kernel.run("%%sql\nBEGIN;\nSELECT 1/0").ok
    assert "%sql ROLLBACK" in kernel.run("%sql SELECT 1").traceback
    assert kernel.run("%sql ROLLBACK").ok


def test_create_database_and_a_committing_procedure_work(kernel):
    assert kernel.run("%sql CREATE DATABASE made_in_a_cell").ok
    assert kernel.run("%sql DROP DATABASE made_in_a_cell").ok
    assert kernel.run("%%sql\nCREATE PROCEDURE p() LANGUAGE plpgsql AS $$ BEGIN COMMIT; END $$;\nCALL p()").ok


def test_large_tensors_are_summaries_in_sql_cells_and_arrays_in_python(kernel):
    many = "array_agg(i::real)::tensor AS t FROM generate_series(1, 1000) i"
    assert "tensor(1000)" in kernel.run(f"%sql SELECT {many}").result
    assert kernel.run(f'pg_llm.sql("SELECT {many}").t[0].sum()').result.endswith("500500.0)")


TENSORS = (
    "SELECT tensor '[[0.1,-2e10],[1,64311768]]' AS small, zeros(ARRAY[0,3]) AS none, "
    "randn(ARRAY[10,10], 1) AS hundred, randn(ARRAY[101], 1) AS large, "
    "ARRAY[tensor '[1,2]'] AS list, 0.1::real AS f"
)


def test_tensors_are_arrays_and_drawn_as_the_server_writes_them(kernel, server):
    import pg_llm

    with pg_llm.connect("as_written") as conn:
        conn.execute("SET pg_llm.display_limit = 100")
        texts = TENSORS.replace(" AS ", "::text AS ").replace("::text AS list", "::text[] AS list")
        expected = [str(value) for value in conn.execute(texts).fetchone()]
    shown = rows(kernel.run(f"%sql {TENSORS}"))
    assert [cell.replace("&#x27;", "'") for cell in shown] == expected
    assert kernel.run(f"%%sql kept <<\n{TENSORS}").ok
    assert rows(kernel.run("kept")) == shown
    assert kernel.run(
        "[kept[0].large.shape, kept[0].none.shape, kept[0].list[0].sum(), kept[0].f]"
    ).result == ("[(101,), (0, 3), np.float32(3.0), 0.1]")
    assert kernel.run("kept.DataFrame().hundred[0].shape").result == "(10, 10)"
    assert kernel.run("'[[0.1,-2e+10],[1,6.4311768e+07]]' in kept.csv()").result == "True"
    assert kernel.run(
        f"found = %sql {TENSORS}\nfound[0].small.shape, found.DataFrame().hundred[0].shape"
    ).result == ("((2, 2), (10, 10))")
    assert "%%sql name <<" in kernel.run("import numpy as np\nnp.asarray(found[0].large)").message


def test_a_result_keeps_its_first_rows_and_says_so(kernel):
    seen = kernel.run("%sql SELECT i FROM generate_series(1, 100001) AS i")
    assert "keeps the first 100,000 of 100,001 rows" in seen.printed
    assert "100,001 rows, the first 50 shown" in seen.result and len(rows(seen)) == 50
    assert kernel.run("%config SqlMagic.keeplimit = 60").ok
    seen = kernel.run("%%sql kept <<\nSELECT i FROM generate_series(1, 70) AS i")
    assert "keeps the first 60 of 70 rows" in seen.printed and kernel.run("len(kept)").result == "60"
    assert kernel.run("%config SqlMagic.keeplimit = 0").ok
    seen = kernel.run("%%sql kept <<\nSELECT i FROM generate_series(1, 70) AS i")
    assert seen.printed == "" and kernel.run("len(kept)").result == "70"
    assert kernel.run("%config SqlMagic.keeplimit = 100000").ok


def test_a_copy_leaves_the_session_and_its_transaction_as_they_were(kernel):
    assert rows(kernel.run("%sql COPY (SELECT 1, 'a b') TO STDOUT")) == ["1\ta b"]
    assert kernel.run("%%sql\nBEGIN;\nCREATE TABLE copied AS SELECT 1 AS a").ok
    assert rows(kernel.run("%%sql\nCOPY copied TO STDOUT (FORMAT csv, HEADER)")) == ["a", "1"]
    for refused in (
        "COPY copied FROM STDIN",
        "COPY copied TO STDOUT (FORMAT binary)",
        "\\copy copied TO 'file'",
    ):
        assert kernel.run(f"%sql {refused}").error == "KitError"
    python = "from pg_llm.notebook import session\nsession.current().conn.execute('COPY copied TO STDOUT')"
    assert kernel.run(python).error == "ProgrammingError"
    assert "pg_llm" in kernel.run("%pg_llm status").result
    assert kernel.run("%sql COMMIT").ok
    assert rows(kernel.run("%%sql\nDELETE FROM copied;\nDROP TABLE copied;\nSELECT 2")) == ["2"]


def test_notifications_are_shown(kernel):
    assert kernel.run("%%sql\nLISTEN heard;\nNOTIFY heard, 'hello'").printed == "NOTIFY heard: hello\n"
    assert kernel.run("%sql UNLISTEN heard").ok


@pytest.mark.parametrize("how", ["%sql {}", 'pg_llm.sql("{}")'])
def test_an_interrupt_stops_the_statement_and_keeps_the_session(kernel, how):
    pid = rows(kernel.run("%sql SELECT pg_backend_pid()"))
    seen = kernel.run(how.format("SELECT pg_sleep(30)"), interrupt_after=1)
    assert seen.error == "KeyboardInterrupt" and seen.seconds < 10
    assert len(seen.traceback.splitlines()) == 1
    assert rows(kernel.run("%sql SELECT pg_backend_pid()")) == pid


def test_a_lost_connection_is_said_and_made_again(kernel):
    seen = kernel.run("%sql SELECT pg_terminate_backend(pg_backend_pid())")
    assert seen.error == "KitError" and "run this cell again" in seen.message
    assert rows(kernel.run("%sql SELECT 1")) == ["1"]
    assert rows(kernel.run('pg_llm.sql("SELECT 2")')) == ["2"]
    assert rows(kernel.run("%sql SHOW pg_llm.display_limit")) == ["100"]
    assert kernel.run("%sql SET idle_in_transaction_session_timeout = 1; BEGIN").ok
    kernel.run("import time; time.sleep(0.2)")
    assert "run this cell again" in kernel.run("%sql SELECT 1").message
    seen = kernel.run(
        "from pg_llm.notebook import session\nsession.current().conn.close()\npg_llm.sql('SELECT 3')"
    )
    assert "had been closed" in seen.printed and rows(seen) == ["3"]


def test_ipython_sql_can_go_elsewhere_and_come_back(kernel):
    assert kernel.run("%sql sqlite://").ok
    assert rows(kernel.run("%sql SELECT sqlite_version() IS NOT NULL")) == ["1"]
    assert kernel.run("%sql pg_llm").ok
    assert rows(kernel.run("%sql SELECT pg_backend_pid() > 0")) == ["true"]


def test_persist_writes_a_frame_on_the_same_connection(kernel):
    assert kernel.run("import pandas as pd\nkept = pd.DataFrame({'a': [1, 2]})\n%sql --persist kept").ok
    assert rows(kernel.run("%sql SELECT sum(a) FROM kept")) == ["3"]


def test_a_cell_of_sql_before_the_first_loads_the_extension(server):
    kernel = Kernel(**lab.environment())
    assert kernel.run("dir()").result.count("_prepare") == 0
    seen = kernel.run("%%sql\nSELECT 1 AS a;\nSELECT 2 AS a")
    assert rows(seen) == ["2"] and "%load_ext pg_llm had not been run" in seen.printed
    seen = kernel.run("%sql SELECT 3 AS a")
    assert rows(seen) == ["3"] and seen.printed == ""
    assert "already loaded" in kernel.run("%load_ext pg_llm").printed
    kernel.close()


def test_load_ext_sql_leaves_sql_cells_as_they_are(server):
    kernel = Kernel()
    assert kernel.run("%load_ext sql").ok
    assert kernel.run("%load_ext pg_llm").printed == ""
    assert rows(kernel.run("%sql SELECT '{x}', $$:x$$")) == ["{x}", ":x"]
    assert "still pg_llm's" in kernel.run("%reload_ext sql").printed
    assert rows(kernel.run("%sql SELECT '{x}', 7 % 4")) == ["{x}", "3"]
    assert kernel.run("%sql sqlite://").ok
    assert rows(kernel.run("%sql SELECT sqlite_version() IS NOT NULL")) == ["1"]
    assert kernel.run("%sql pg_llm\n%reload_ext sql").ok
    assert rows(kernel.run("%sql SELECT pg_backend_pid() > 0")) == ["true"]
    kernel.close()


def test_no_open_transaction_is_rolled_back_for_another_connection(server):
    kernel = Kernel()
    assert kernel.run("%load_ext pg_llm").ok
    assert kernel.run("%%sql\nBEGIN;\nCREATE TABLE kept_open AS SELECT 1 AS a").ok
    seen = kernel.run("%sql --connections")
    assert seen.error == "KitError" and "%sql COMMIT" in seen.message
    assert kernel.run("%sql COMMIT").ok and kernel.run("%sql --connections").ok
    assert rows(kernel.run("%sql SELECT a FROM kept_open")) == ["1"]
    kernel.close()


# What the kit calls of jupysql, which installs its package sql over that of ipython-sql.
JUPYSQL = {
    "__init__": "from sql.magic import load_ipython_extension",
    "connection": """
        class ConnectionManager:
            current, connections = None, {}
        class SQLAlchemyConnection:
            def __init__(self, engine, alias):
                self.alias, self.engine = alias, engine
                ConnectionManager.current = ConnectionManager.connections[alias] = self""",
    "magic": """
        from IPython.core.magic import Magics, line_cell_magic, magics_class
        from sql.connection import ConnectionManager, SQLAlchemyConnection
        @magics_class
        class SqlMagic(Magics):
            style = "DEFAULT"
            @line_cell_magic("sql")
            def execute(self, line, cell="", local_ns=None):
                if "://" in line:
                    SQLAlchemyConnection(None, line)
                with ConnectionManager.current.engine.connect() as connection:
                    print(connection.exec_driver_sql("SELECT pg_backend_pid()").scalar())
        def load_ipython_extension(shell):
            shell.register_magics(SqlMagic)""",
}


def test_jupysql_in_place_of_ipython_sql(server, tmp_path):
    (tmp_path / "sql").mkdir()
    for name, text in JUPYSQL.items():
        (tmp_path / "sql" / f"{name}.py").write_text(textwrap.dedent(text))
    kernel = Kernel(PYTHONPATH=f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    assert kernel.run("%load_ext pg_llm").ok
    pid = rows(kernel.run("%sql SELECT pg_backend_pid()"))
    assert kernel.run("%sql --persist frame").printed.split() == pid
    assert "still pg_llm's" in kernel.run("%reload_ext sql").printed
    assert kernel.run("%sql --persist frame").printed.split() == pid
    assert kernel.run("%sql other://").error == "AttributeError"
    assert kernel.run("%sql SELECT 1").error == "AttributeError"
    assert kernel.run("%sql pg_llm").ok
    assert rows(kernel.run("%sql SELECT pg_backend_pid()")) == pid
    (tmp_path / "sql" / "magic.py").write_text("from sql.connection import Connection")
    broken = Kernel(PYTHONPATH=f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    assert broken.run("%load_ext pg_llm").ok
    assert rows(broken.run("%sql SELECT 1")) == ["1"]
    seen = broken.run("%sql sqlite://")
    assert seen.error == "KitError" and "ImportError" in seen.message and "pip install" in seen.message
    assert rows(broken.run("%sql SELECT 2")) == ["2"]
    kernel.close()
    broken.close()


def test_options_of_sql_cells(kernel):
    assert kernel.run("%config SqlMagic.displaylimit = 2").ok
    assert "3 rows, the first 2 shown" in kernel.run("%sql SELECT generate_series(1, 3)").html
    assert kernel.run("%config SqlMagic.displaylimit = 50\n%config SqlMagic.autopandas = True").ok
    assert kernel.run("frame = %sql SELECT 1 AS a\n(type(frame).__name__, frame.a[0])").ok
    assert "DataFrame" in kernel.run("type(frame)").result
    assert kernel.run("%%sql frame <<\nSELECT 2 AS a").ok
    assert kernel.run("int(frame.a[0])").result == "2"
    assert kernel.run("%config SqlMagic.autopandas = False").ok
    for limit in ("displaylimit", "keeplimit"):
        kernel.run(f"%config SqlMagic.{limit} = -1")
    assert rows(kernel.run("%sql SELECT 1")) == ["1"]
    assert "not recognized" in kernel.run("%config SqlMagic.autocommit = False").printed


def test_a_result_can_be_read_like_ipython_sqls(kernel):
    assert kernel.run("%%sql got <<\nSELECT * FROM (VALUES ('a', 1.5, 2), ('b', 3, 4)) AS v (k, x, x)").ok
    assert kernel.run("got.keys, got.field_names").result == "(['k', 'x', 'x'], ['k', 'x', 'x_1'])"
    assert kernel.run("got['b'][2], got[0].k, got.dict()['k']").result == "(4, 'a', ('a', 'b'))"
    assert kernel.run("[row['k'] for row in got.dicts()]").result == "['a', 'b']"
    assert kernel.run("got.dict()['x_1'], list(got.dicts())[0]['x_1']").result == "((2, 4), 2)"
    assert kernel.run("got['c']").error == "KeyError"
    assert kernel.run("got.csv()").result == repr("k,x,x_1\r\na,1.5,2\r\nb,3,4\r\n")
    assert kernel.run("list(got.DataFrame().k)").result == "['a', 'b']"
    for chart in ("plot", "bar", "pie"):
        assert kernel.run(f"got.{chart}()").ok


def test_spaces_in_text_are_kept(kernel):
    seen = kernel.run("%sql SELECT ' the  cat' AS token")
    assert rows(seen) == [" the  cat"] and "white-space:pre-wrap" in seen.html


def test_a_figure_is_shown_without_the_text_of_its_axes(kernel):
    assert kernel.run("import pg_llm").ok
    for call in ("plot_tensor([1, 2])", "plots.plots.Grid([pg_llm.plot_tensor([1, 2])])"):
        seen = kernel.run(f"pg_llm.{call}")
        kinds = [{*shown} for shown in seen.displays]  # the figure, and its words
        assert seen.ok and kinds == [{"image/png", "text/plain"}, {"text/html", "text/plain"}]
        assert "Axes" not in seen.result
        assert "<Axes" not in seen.result


def test_the_kit_magic_helps_and_refuses_what_it_does_not_know(kernel):
    assert "%%sql" in kernel.run("%pg_llm help").printed
    assert "embedded" in kernel.run("%pg_llm status").result
    facts = kernel.run("seen = %pg_llm status\ndict(zip(seen.item, seen.value))").result
    assert "'server': 'PostgreSQL 18" in facts
    seen = kernel.run("%pg_llm fly")
    assert not seen.ok and "status, reset, update, adopt, help, progress, train, not fly" in seen.printed


def test_a_notebook_keeps_its_database_and_reset_empties_it(server):
    name = {"JPY_SESSION_NAME": "course/keeps its database.ipynb"}
    first = Kernel(**name)
    assert first.run("%load_ext pg_llm").printed == ""
    assert first.run("%sql CREATE TABLE mine AS SELECT 42 AS answer").ok
    first.close()
    second = Kernel(**name)
    said = second.run("%load_ext pg_llm").printed
    assert "as you left it" in said and "Run All Above" in said
    assert rows(second.run("%sql SELECT answer FROM mine")) == ["42"]
    reset = second.run("%pg_llm reset")
    assert reset.ok and "clean" in reset.printed
    assert second.run("%sql SELECT answer FROM mine").error == "UndefinedTable"
    assert rows(second.run("%sql SELECT current_database()")) == ["keeps_its_database"]
    third = Kernel(**name)
    assert third.run("%load_ext pg_llm").ok and second.run("%pg_llm reset --force").ok
    said = third.run("%sql SELECT 1").message
    assert "made anew" in said and "What was committed" not in said
    assert third.run("%sql SELECT pg_terminate_backend(pg_backend_pid())").message.count("What was committed")
    second.close()
    third.close()


def test_two_notebooks_of_one_name_and_a_renamed_one(server, tmp_path):
    """Each has its tables; a reset names who else is connected; a renamed notebook adopts what it had."""
    for folder in "ab":
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "twins.ipynb").touch()
    kernels = []

    def opened(name):
        kernels.append(Kernel(JPY_SESSION_NAME=str(tmp_path / name)))
        return kernels[-1], kernels[-1].run("%load_ext pg_llm")

    try:
        first, seen = opened("a/twins.ipynb")
        assert seen.printed == "" and first.run("%sql CREATE TABLE mine AS SELECT 42 AS answer").ok
        second, seen = opened("b/twins.ipynb")
        assert f"belongs to {tmp_path / 'a/twins.ipynb'}" in seen.printed
        assert second.run("%sql SELECT answer FROM mine").error == "UndefinedTable"
        assert second.run("%pg_llm reset").ok
        assert rows(first.run("%sql SELECT answer FROM mine")) == ["42"]
        again, seen = opened("a/twins.ipynb")
        name, pid = rows(first.run("%sql SELECT current_setting('application_name'), pg_backend_pid()"))
        refused = again.run("%pg_llm reset")
        assert name == "twins" and f"twins (process {pid})" in refused.message
        assert rows(again.run("%sql SELECT answer FROM mine")) == ["42"]
        for kernel in (first, again):
            kernel.close()
        (tmp_path / "a" / "twins.ipynb").rename(tmp_path / "a" / "renamed twin.ipynb")
        renamed, seen = opened("a/renamed twin.ipynb")
        assert "%pg_llm adopt twins takes its database along" in seen.printed
        assert renamed.run("%sql BEGIN").ok
        assert "transaction is open" in renamed.run("%pg_llm adopt twins").message
        assert renamed.run("%sql ROLLBACK").ok
        assert "is still there" in renamed.run("%pg_llm adopt twins_2").message
        assert "databases drop renamed_twin" in renamed.run("%pg_llm adopt twins").printed
        assert rows(renamed.run("%sql SELECT answer FROM mine")) == ["42"]
        for wrong in ("adopt", "adopt a b", "reset now", "status --force"):
            assert f"%pg_llm {wrong.split()[0]}: " in renamed.run(f"%pg_llm {wrong}").printed
        _, seen = opened("a/renamed twin.ipynb")
        assert "this notebook, twins, is as you left it" in seen.printed
    finally:
        for kernel in kernels:
            kernel.close()


def test_a_database_of_an_older_build_is_brought_up_to_date_with_its_tables(server, tmp_path):
    """The first cell names the command; it keeps the tables, and the database stays the notebook's."""
    from pg_llm.server import database as databases
    from pg_llm.server import notebooks, template
    from pg_llm.server.connect import maintenance

    path = tmp_path / "of an older build.ipynb"
    path.touch()
    name = notebooks.claim(str(path)).database
    with maintenance() as conn:
        template.write_note(conn, name, {**template.read_note(conn, name), template.build_key(): "older"})
    kernel = Kernel(JPY_SESSION_NAME=str(path))
    try:
        told = kernel.run("%load_ext pg_llm").printed
        assert "%pg_llm update brings it up to date" in told
        assert kernel.run("%sql BEGIN; CREATE TABLE kept AS SELECT 42 AS a").ok
        assert "transaction is open" in kernel.run("%pg_llm update").message
        with pg_llm.connect(name) as other:
            assert kernel.run("%sql COMMIT").ok
            assert kernel.run("%sql CREATE TEMP TABLE mine ()").ok
            refused = kernel.run("%pg_llm update").message
            assert (
                f"(process {other.info.backend_pid}); close" in refused
                and "%pg_llm update --force" in refused
            )
            assert kernel.run("%sql TABLE mine").ok, "a refusal costs nothing"
        assert kernel.run("%pg_llm update").printed.startswith(
            "The database of this notebook is of this build"
        )
        assert rows(kernel.run("%sql SELECT a FROM kept")) == ["42"]
        assert databases.build_of(name) == databases.current_build()
        assert "already" in kernel.run("%pg_llm update").printed
        assert notebooks.claim(str(path)).database == name
    finally:
        kernel.close()
        databases.drop_database(name)


def test_reset_keeps_the_attempts(server):
    kernel = Kernel(JPY_SESSION_NAME="attempts.ipynb")
    assert kernel.run("%load_ext pg_llm\nfrom pg_llm import check\ncheck('01.1', 'nonsense')").ok
    tried = kernel.run("%pg_llm progress").result
    assert "01.1" in tried and kernel.run("%pg_llm reset").ok
    assert kernel.run("%pg_llm progress").result == tried
    kernel.close()


def test_an_unreachable_server_fails_the_load(server):
    kernel = Kernel(PG_LLM_DSN="host=/nowhere dbname=x")
    seen = kernel.run("%load_ext pg_llm")
    kernel.close()
    assert not seen.ok and seen.error == "KitError" and "PG_LLM_DSN" in seen.message


def test_results_are_the_same_text_in_html_and_plain(kernel):
    seen = kernel.run("%sql SELECT NULL AS nothing, true AS yes, '\\xc4a0'::bytea AS raw, 0.1::real AS f")
    assert rows(seen) == ["NULL", "true", "\\xc4a0", "0.1"]
    assert json.dumps(seen.result.split()) == json.dumps(
        "nothing yes raw f ------- ---- ------ --- NULL true \\xc4a0 0.1".split()
    )


@pytest.fixture
def pupil(server):
    """DSN of a role that may not create anything, in a database that a superuser has prepared."""
    import pg_llm
    from pg_llm.server import database as databases

    databases.drop_database("class_of_30")
    with pg_llm.connect("as_written") as conn:
        conn.execute("DROP ROLE IF EXISTS pupil; CREATE ROLE pupil LOGIN PASSWORD 'pupil'")
        conn.execute("CREATE DATABASE class_of_30")
        conn.execute("GRANT CONNECT ON DATABASE class_of_30 TO pupil")
    with pg_llm.connect("class_of_30") as conn:
        conn.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO pupil")
    info = {**server.start().conninfo("class_of_30"), "user": "pupil", "password": "pupil"}
    yield " ".join(f"{key}='{value}'" for key, value in info.items())
    databases.drop_database("class_of_30")


def test_a_role_that_creates_nothing_works_in_the_dsns_database(pupil):
    for notebook in ({}, {"JPY_SESSION_NAME": "lesson.ipynb"}):
        kernel = Kernel(PG_LLM_DSN=pupil, **notebook)
        loaded = kernel.run("%load_ext pg_llm")
        assert loaded.ok, loaded.traceback
        assert "share class_of_30" in loaded.printed and "pupil" not in loaded.printed
        assert rows(kernel.run("%sql SELECT current_database(), current_user")) == ["class_of_30", "pupil"]
        assert rows(kernel.run("%sql SELECT llm_encode('Hello world!', 'gpt2')")) == ["[15496, 995, 0]"]
        reset = kernel.run("%pg_llm reset")
        assert reset.error == "KitError" and "did not make" in reset.message
        assert rows(kernel.run("%sql SELECT 1")) == ["1"]
        kernel.close()
