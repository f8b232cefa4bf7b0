"""Code that a learner reads: lines fit their cell, and SQL has no bare @ beside + - * /.

The precedence of @ in PostgreSQL is unexpected.
"""

from __future__ import annotations

import ast
import re

import nbformat
import pytest
from helpers.notebooks import named
from helpers.paths import REPO

from pg_llm.notebook import sqltext

# Words and symbols that end one expression and begin another.
BREAKS = set(
    "select from where group order by having limit as and or not when then else end case values set "
    "returning on using in is like between union join left right cross lateral insert update delete create "
    "with over".split()
)


def bare_matmuls(sql: str) -> list[str]:
    """Expressions that mix @ with + - * / at one level of parentheses, as written."""
    found, levels = [], [[]]

    def close(level: list) -> None:
        operators = {t.text for t in level if t.kind == "operator"}
        if "@" in operators and operators & {"+", "-", "*", "/"}:
            found.append(sql[level[0].start : level[-1].end])

    for token in sqltext.tokens(sql):
        if token.kind in ("space", "comment"):
            continue
        if token.kind == "mark" and token.text in "([":
            levels[-1].append(token)
            levels.append([])
        elif token.kind == "mark" and token.text in ")]":
            close(levels.pop() if len(levels) > 1 else levels[-1])
            levels[-1].append(token)
        elif token.text in (",", ";") or (token.kind == "word" and token.text.lower() in BREAKS):
            close(levels[-1])
            levels[-1] = []
        else:
            levels[-1].append(token)
    for level in levels:
        close(level)
    return found


def sql_of_python(source: str) -> list[str]:
    """SQL in calls of sql(...) and execute(...) in Python code; magics are no Python and are skipped."""
    plain = "\n".join(line for line in source.splitlines() if not line.lstrip().startswith(("%", "!")))
    try:
        calls = [n for n in ast.walk(ast.parse(plain)) if isinstance(n, ast.Call) and n.args]
    except SyntaxError:
        return []
    names = {"sql", "execute", "stream"}
    calls = [c for c in calls if getattr(c.func, "attr", getattr(c.func, "id", "")) in names]
    return [
        c.args[0].value
        for c in calls
        if isinstance(c.args[0], ast.Constant) and isinstance(c.args[0].value, str)
    ]


def sql_of_cell(source: str) -> list[str]:
    """The SQL of a code cell, in %%sql, %sql or Python."""
    if source.startswith("%%sql"):
        return [source.split("\n", 1)[1] if "\n" in source else ""]
    source = source.replace("\\\n", " ")  # a magic may be continued on the next line
    return re.findall(r"%sql\s+(.*)", source) + sql_of_python(source)


def sql_of_markdown(source: str) -> list[str]:
    """Fenced SQL and Python, and `inline code`: learners type what they see."""
    fences = re.findall(r"```(?:sql|python)\n(.*?)```", source, re.DOTALL)
    inline = re.findall(r"(?<!`)`([^`\n]+)`(?!`)", re.sub(r"```.*?```", "", source, flags=re.DOTALL))
    return [text for fence in fences for text in sql_of_cell(fence) or [fence]] + inline


def code_of(cell) -> str:
    """The code that a cell shows: its own, or that of the fences in Markdown."""
    fences = re.findall(r"```\w*\n(.*?)```", cell.source, re.DOTALL)
    return cell.source if cell.cell_type == "code" else "\n".join(fences)


@named
def test_no_line_is_longer_than_its_cell(path):
    """In a window of 1,280 pixels, JupyterLab shows about 112 characters of a line."""
    lines = [line for cell in nbformat.read(path, 4).cells for line in code_of(cell).splitlines()]
    assert len(lines) > 100
    assert not [line for line in lines if len(line) > 110]


def texts():
    for path in sorted((REPO / "notebooks").glob("*.ipynb")):
        for cell in nbformat.read(path, 4).cells:
            read = sql_of_cell if cell.cell_type == "code" else sql_of_markdown
            yield from ((path.name, sql) for sql in read(cell.source))
    for path in [REPO / "README.md", REPO / "notebooks" / "README.md"]:
        if path.exists():
            yield from ((path.name, sql) for sql in sql_of_markdown(path.read_text()))
    for path in sorted((REPO / "extension" / "sql").glob("*.sql")):
        yield path.name, path.read_text()


# Shown as examples of what not to write, in the same sentence.
SHOWN_AS_WRONG = {"x @ w + b"}


def test_no_bare_matmul_beside_other_arithmetic():
    wrong = [(name, e) for name, sql in texts() for e in bare_matmuls(sql) if e.strip() not in SHOWN_AS_WRONG]
    assert not wrong, f"write (x @ w) + b: {wrong}"


@pytest.mark.parametrize(
    ("sql", "count"),
    [
        ("SELECT x @ w + b", 1),
        ("SELECT (x @ w) + b", 0),
        ("SELECT x @ (w + b)", 0),
        ("SELECT relu(x @ w * 2), 1 + 1", 1),
        ("SELECT x @ w, a + b FROM t", 0),
        ("SELECT 'x @ w + b' -- x @ w + b", 0),
        ("SELECT a - b @ c", 1),
        ("SELECT count(*), x @ w FROM t", 0),
        ("SELECT f(a, x @ w / 2)", 1),
        ("SELECT x @ w AS y WHERE a > b + 1", 0),
        ("SELECT (x @ w) + (y @ v)", 0),
    ],
)
def test_the_lint_sees_what_it_should(sql, count):
    assert len(bare_matmuls(sql)) == count


def test_sql_is_found_in_cells_of_every_kind():
    assert sql_of_cell("%%sql rows <<\nSELECT 1") == ["SELECT 1"]
    assert sql_of_cell("x = %sql SELECT 2") == ["SELECT 2"]
    assert sql_of_cell('%sql SELECT 2 \\\n+ 1\nsql("SELECT 3")') == ["SELECT 2  + 1", "SELECT 3"]
    assert sql_of_cell('pg_llm.sql("""SELECT 3""", a=1)\nconn.execute("SELECT 4")') == [
        "SELECT 3",
        "SELECT 4",
    ]
    assert sql_of_markdown("text `a @ b`\n```sql\nSELECT 5\n```") == ["SELECT 5\n", "a @ b"]


def test_internal_functions_are_not_for_learners():
    """Functions named _llm_* are called by the extension and the kit; learners' texts do not name them."""
    sql = "".join(path.read_text() for path in (REPO / "extension" / "sql").glob("*.sql"))
    internal = re.findall(r"^CREATE (?:FUNCTION|PROCEDURE) (_llm_\w+)\(", sql, re.MULTILINE)
    pages = [REPO / "README.md", *(REPO / "notebooks").glob("*.ipynb"), *(REPO / "notebooks").glob("*.md")]
    assert internal and len(pages) > 2
    assert not [(p.name, name) for p in pages for name in re.findall(r"\b_llm_\w+", p.read_text())]


# The order of a definition: arguments and result, language and properties, then the body.
DEFINITION = re.compile(
    r"CREATE (FUNCTION|PROCEDURE) \w+\([^;$]*\n    LANGUAGE (c|sql|plpgsql)"
    r"( IMMUTABLE| STABLE| VOLATILE)?( STRICT)?( PARALLEL \w+)?( COST \d+)?( ROWS \d+)?( SUPPORT \w+)?"
    r"( SET search_path = pg_catalog, pg_temp)?( SET pg_llm\.\w+ = \w+)?"
    r"\s+(AS 'MODULE_PATHNAME'(, '\w+')?;|AS \$\$\n|RETURN |BEGIN ATOMIC\n)"
)


def odd_definitions(sql: str) -> list[str]:
    """The functions and procedures that do not match DEFINITION."""
    found = re.split(r"^(?=CREATE (?:FUNCTION|PROCEDURE) )", sql, flags=re.MULTILINE)[1:]
    return [text.split("(")[0] for text in found if not DEFINITION.match(text)]


def test_the_extension_is_written_in_one_way():
    files = {path.name: path.read_text() for path in (REPO / "extension" / "sql").glob("*.sql")}
    assert not [(name, line) for name, sql in files.items() for line in sql.splitlines() if len(line) > 120]
    assert not [(name, odd) for name, sql in files.items() for odd in odd_definitions(sql)]


@pytest.mark.parametrize(
    ("sql", "odd"),
    [
        ("CREATE FUNCTION f(a int) RETURNS int\n    LANGUAGE c STABLE STRICT AS 'MODULE_PATHNAME';", False),
        ("CREATE FUNCTION f(a int)\n    RETURNS int\n    LANGUAGE sql AS $$\n    SELECT 1\n$$;", False),
        ("CREATE FUNCTION f(a int) RETURNS int\n    AS 'MODULE_PATHNAME' LANGUAGE c STABLE;", True),
        ("CREATE FUNCTION f(a int) RETURNS int\n    LANGUAGE C AS 'MODULE_PATHNAME';", True),
        ("CREATE FUNCTION f(a int) RETURNS int\n    LANGUAGE c STRICT STABLE AS 'MODULE_PATHNAME';", True),
        ("CREATE FUNCTION f(a int) RETURNS int LANGUAGE c AS 'MODULE_PATHNAME';", True),
        ("CREATE FUNCTION f() RETURNS int AS $$\n    SELECT 1\n$$\n    LANGUAGE sql;", True),
    ],
)
def test_other_dialects_are_seen(sql, odd):
    assert odd_definitions(sql) == (["CREATE FUNCTION f"] if odd else [])
