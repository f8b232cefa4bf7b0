"""The drawings of notebook 15 show the numbers they are given, and say them in words."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pandas as pd
import pytest

from pg_llm.drawings import adapters
from pg_llm.drawings.svg import BLUE, ORANGE

SVG = "{http://www.w3.org/2000/svg}"


def rectangles(drawing, fill: str) -> list:
    return [e for e in ET.fromstring(drawing.svg()).iter(SVG + "rect") if e.get("fill") == fill]


@pytest.mark.parametrize(("k", "n"), [(64, 256), (256, 64), (64, 64)])
def test_factors_are_drawn_to_scale(k, n):
    d = adapters.factors("m", k, n, 4)
    assert f"A, {k} by 4, and B, 4 by {n}, have {4 * (k + n):,} numbers together" in d.description
    (a,), (b,) = rectangles(d, BLUE), rectangles(d, ORANGE)
    assert float(a.get("height")) / float(b.get("width")) == pytest.approx(k / n)
    assert float(a.get("width")) == float(b.get("height")) == pytest.approx(4 * 240 / max(k, n))
    with pytest.raises(ValueError, match="at least 1"):
        adapters.factors("m", k, n, 0)


def test_changes_point_to_their_side_in_proportion():
    rows = [("full", -0.3, 0.4), ("mixed", -0.2, -0.1)]
    d = adapters.changes(pd.DataFrame(rows, columns=["model", "new", "old"]), "female", "surname")
    assert "full: female −0.300, surname +0.400; mixed: female −0.200, surname −0.100." in d.description
    blue = [float(e.get("width")) for e in rectangles(d, BLUE)]
    orange = [(float(e.get("x")), float(e.get("width"))) for e in rectangles(d, ORANGE)]
    assert blue[0] / blue[1] == pytest.approx(1.5) and orange[0][1] / blue[0] == pytest.approx(
        4 / 3, rel=1e-3
    )
    assert orange[0][0] > orange[1][0], "what fell points to the left"
    with pytest.raises(ValueError, match="no rows"):
        adapters.changes(pd.DataFrame(columns=["model", "new", "old"]), "a", "b")


def test_a_tree_names_what_each_model_stores():
    rows = [("base", None, 100, 0), ("female", "base", 8, 100), ("male", "base", 9, 100)]
    frame = pd.DataFrame(rows, columns=["model", "base", "own", "shared"])
    d = adapters.tree(frame)
    assert "base stores 100 numbers" in d.description and "male stores 9 and shares 100" in d.description
    assert len(rectangles(d, BLUE)) == 2
    with pytest.raises(ValueError, match="one row without a base"):
        adapters.tree(frame[1:])
