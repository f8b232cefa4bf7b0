"""README's SQL runs as it stands in a new database, and leaves the shipped models as they are."""

from __future__ import annotations

import re

import pytest
from helpers.paths import REPO

import pg_llm
from pg_llm.server import database as databases

pytestmark = pytest.mark.slow

SHIPPED = "SELECT model FROM llm_model_config WHERE model IN ('classroom', 'classroom-1', 'classroom-2')"
GRAPH = f"SELECT model, name, op FROM llm_graph WHERE model IN ({SHIPPED}) ORDER BY id"
WEIGHTS = f"SELECT model, llm_model_sha256(model) FROM ({SHIPPED}) AS shipped ORDER BY 1"


@pytest.fixture
def fresh(server):
    databases.drop_database("readme")
    with pg_llm.connect("readme") as conn:
        yield conn
    databases.drop_database("readme")


def test_the_first_lines_of_sql_work(fresh):
    (block,) = re.findall(r"```sql\n(.*?)```", (REPO / "README.md").read_text(), re.DOTALL)
    before = fresh.execute(GRAPH).fetchall(), fresh.execute(WEIGHTS).fetchall()
    cursors = [fresh.execute(line.partition(";")[0]) for line in block.splitlines()]
    answers = [cursor.fetchall() for cursor in cursors if cursor.description]
    assert len(answers) == 5 and all(answers)
    assert answers[2] == [("classroom-int8",)]
    assert (fresh.execute(GRAPH).fetchall(), fresh.execute(WEIGHTS).fetchall()) == before
