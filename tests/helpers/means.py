"""An exercise to try answers on: the means of groups."""

from __future__ import annotations

from pg_llm.course import exercise

MEANS = {
    "id": "90.1",
    "title": "means",
    "difficulty": 1,
    "importance": 1,
    "minutes": 5,
    "task": "The mean of x in each group g of the table p.",
    "hints": ["one", "two"],
    "cell": "SELECT g,\n       -- your line here\nFROM p",
    "solution": "SELECT g, avg(x) AS mean FROM p GROUP BY g",
    "praise": "Means.",
    "wrong": [{"answer": "SELECT g, sum(x) FROM p GROUP BY g", "message": "that is the sum."}],
    "variant": [
        {"setup": "CREATE TEMP TABLE p AS SELECT i % 3 AS g, sqrt(i) AS x FROM generate_series(1, 9) AS i"},
        {"setup": "CREATE TEMP TABLE p AS SELECT i % 4 AS g, sqrt(i) AS x FROM generate_series(1, 9) AS i"},
    ],
}


def made(**changes) -> exercise.Exercise:
    """The exercise with other fields."""
    return exercise.from_dict({**MEANS, **changes})
