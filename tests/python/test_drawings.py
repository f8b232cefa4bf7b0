"""Drawings are well-formed SVG that says in words what it shows."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest

from pg_llm.drawings.svg import BLUE, Drawing

SVG = "{http://www.w3.org/2000/svg}"


def drawn() -> Drawing:
    d = Drawing(300, 200, 'One "score": 2 < 3 & more', title="a < b")
    q = d.matrix(60, 50, [[1, -0.5], [None, "x<y"]], rows=["q & a", "k"], columns=["0", "1"], title="query")
    s = d.box(200, 60, 80, 30, "score\n<2>", fill=BLUE)
    d.arrow(q.right, s.left, "meet")
    d.arrow(q.bottom, s.bottom, bend=30, both=True, dashed=True)
    d.bracket((60, 120), (136, 120), "two & two")
    with d.group(10, 1 / 3):
        d.text(0, 180, "moved")
    return d


def test_a_drawing_is_well_formed_and_has_its_description_in_every_place():
    d = drawn()
    root = ET.fromstring(d.svg())
    assert root.tag == SVG + "svg" and root.get("role") == "img"
    assert root.get("aria-label") == root.findtext(SVG + "desc") == d.description
    assert root.findtext(SVG + "title") == "a < b"
    data, metadata = d._repr_mimebundle_()
    assert data == {"image/svg+xml": d.svg(), "text/plain": d.description}
    assert metadata["image/svg+xml"]["alt"] == d.description
    assert not root.findall(".//*[@id]"), "ids of several drawings on one page would collide"


def test_text_is_escaped():
    texts = [element.text for element in ET.fromstring(drawn().svg()).iter(SVG + "text")]
    for text in ("q & a", "x<y", "<2>", "two & two", "−0.50", "moved"):
        assert text in texts


def test_arrows_have_heads_at_their_ends():
    d = Drawing(100, 100, "arrows")
    d.arrow((10, 50), (90, 50))
    d.arrow((10, 50), (90, 50), bend=20, both=True)
    heads = [e.get("points", "") for e in ET.fromstring(d.svg()).iter(SVG + "polygon")]
    assert [head.split()[0] for head in heads] == ["90,50", "90,50", "10,50"]
    corners = [tuple(map(float, corner.split(","))) for corner in heads[0].split()[1:]]
    assert all(x < 90 for x, _ in corners) and sum(y for _, y in corners) == pytest.approx(100)
    # to the left of the direction is up, where y is smaller
    path = next(e for e in ET.fromstring(d.svg()).findall(SVG + "path")[1:])
    assert float(re.findall(r"Q\S+ (\S+)", path.get("d", ""))[0]) < 50


def test_the_same_drawing_has_the_same_bytes(tmp_path):
    assert drawn().svg() == drawn().svg()
    assert not re.search(r"\d\.\d{3}", drawn().svg())
    drawn().save(tmp_path / "a.svg")
    assert (tmp_path / "a.svg").read_text(encoding="utf-8") == drawn().svg() + "\n"


def test_a_drawing_without_description_is_refused():
    with pytest.raises(ValueError, match="description"):
        Drawing(10, 10, " ")
