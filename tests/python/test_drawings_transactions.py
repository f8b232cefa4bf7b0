"""The drawings of notebook 13 say in words what they show, and show what their rows say."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pandas as pd

from pg_llm.drawings import transactions


def texts(drawing) -> list[str]:
    return [e.text or "" for e in ET.fromstring(drawing.svg()).iter("{http://www.w3.org/2000/svg}text")]


def test_versions_have_a_cell_for_each_session_and_moment():
    rows = [
        ("before", "a", 3, "aaaa"),
        ("before", "b", 3, "aaaa"),
        ("after", "a", 4, "bbbb"),
        ("after", "b", 3, "aaaa"),
    ]
    d = transactions.versions(pd.DataFrame(rows, columns=["when", "session", "highest_step", "sha256"]))
    assert texts(d).count("step 3") == 3 and texts(d).count("step 4") == 1
    assert "after: a sees step 4, b sees step 3" in d.description


def test_the_best_trial_is_marked():
    d = transactions.trials([(0.1, 3.0), (0.01, 2.5), (1.0, 4.0)], step=21)
    assert texts(d).count("undone") == 2 and texts(d).count("the best, undone as well") == 1
    assert {"loss 2.500", "rate 0.01", "step 21", "savepoint"} <= set(texts(d))


def test_what_a_crash_lost_is_after_the_last_commit():
    commits = pd.DataFrame({"from_step": [42, 142], "to_step": [141, 241]})
    d = transactions.crash(commits, reported=271, planned=341)
    assert "Steps 242 to 271 were computed and not committed" in d.description
    assert {"42 to 141", "142 to 241", "lost", "41", "271", "341"} <= set(texts(d))


def test_branches_leave_their_parents():
    runs = pd.DataFrame(
        [("trunk", None, 0, 90, "all"), ("twig", "trunk", 40, 60, "other data")],
        columns=["model", "parent", "from_step", "to_step", "note"],
    )
    d = transactions.branches(runs)
    assert "twig has steps 40 to 60 and branches off trunk: other data." in d.description
    assert {"trunk", "twig", "40", "60", "90"} <= set(texts(d))
