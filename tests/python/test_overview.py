"""The map of the course is what the repository shows, and a drawing of a model says what its tables hold."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest
from helpers.paths import REPO

import pg_llm
from pg_llm.course.exercise import notebooks, plan
from pg_llm.drawings import overview

README = REPO / "notebooks" / "README.md"


def test_the_committed_map_is_the_drawn_one():
    committed = (REPO / "notebooks" / "images" / "course.svg").read_text()
    assert committed == overview.course_map().svg() + "\n", "python -m pg_llm.drawings.overview FILE"


def test_the_map_has_twenty_notebooks_and_the_paths_take_some_of_them():
    numbers = [number for _, part in overview.PARTS for number, _ in part]
    assert numbers == [f"{n:02}" for n in range(20)]
    assert all(set(path) <= set(numbers) for _, path in overview.PATHS.values())


@pytest.mark.parametrize("number", list(notebooks()))
def test_the_readme_states_the_minutes_of_each_notebook(number):
    row = next(line for line in README.read_text().splitlines() if re.match(rf"\| \[?{number} · ", line))
    minutes = sum(map(int, re.findall(r"\d+", row.split("|")[2])))
    assert minutes == sum(part.minutes for part in plan(number)), row


def test_the_paths_of_the_readme_keep_their_hours():
    """Rounded to hours; a path with its hours "a day" or "a week" has a comma between these."""
    section = README.read_text().partition("## Paths")[2].partition("| hours |")[2]
    for row in re.findall(r"^\| (.+) \| (.+) \| (\d.*) \|$", section, re.MULTILINE):
        take = re.sub(r"(\d\d) to (\d\d)", lambda m: span(*map(int, m.groups())), row[1])
        reading = "without the exercises" in take
        groups = take.split(",") if " a " in row[2] else [take]
        hours = [sum(minutes(n, reading) for n in re.findall(r"\d\d", group)) / 60 for group in groups]
        stated = list(map(int, re.findall(r"\d+", row[2])))
        written = [round(h) for h in hours if h]  # 18 and 19 are still to come
        assert [min(written), max(written)] == [stated[0], stated[-1]], (row, hours)


def span(first: int, last: int) -> str:
    return " ".join(f"{n:02}" for n in range(first, last + 1))


def minutes(number: str, reading: bool) -> int:
    """Those of a notebook that is there."""
    parts = plan(number) if number in notebooks() else []
    return sum(part.reading if reading else part.minutes for part in parts)


@pytest.fixture(scope="module")
def template(server):
    with pg_llm.connect(fresh=True) as connection:
        yield connection


def test_a_gpt_as_tables_shows_the_models_rows(template):
    drawing = overview.gpt_as_tables("It was June", conn=template)
    ET.fromstring(drawing.svg())
    token, name, shape = template.execute(
        "SELECT (SELECT token_id FROM llm_tokenize('It', 'classroom')), name, shape(data) FROM llm_param "
        "WHERE model = 'classroom' AND name = 'wte.weight'"
    ).fetchone()
    assert f"'It' is {token}" in drawing.description
    assert f"{name} of shape {','.join(map(str, shape))}" in drawing.description


def test_parameters_by_kind_add_up(template):
    drawing = overview.parameters_by_kind(["classroom", "classroom-1"], conn=template)
    (counted,) = template.execute(
        "SELECT sum(numel(data)) FROM llm_param WHERE model = 'classroom-1'"
    ).fetchone()
    assert f"classroom-1 ({counted:,} parameters)" in drawing.description
    for shares in re.findall(r"parameters\): ([^;]*)", drawing.description):
        assert 99.7 < sum(map(float, re.findall(r"([\d.]+) %", shares))) < 100.3
