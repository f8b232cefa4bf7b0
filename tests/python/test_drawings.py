"""Drawings are well-formed SVG that says in words what it shows."""

from __future__ import annotations

import base64
import re
import xml.etree.ElementTree as ET

import pandas as pd
import pytest

from pg_llm.drawings import attention
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
    assert data["image/svg+xml"] == d.svg() and data["text/plain"] == d.description
    page = ET.fromstring(data["text/html"].replace('">', '"/>'))
    assert page.tag == "img" and page.get("alt") == d.description
    assert base64.b64decode(page.get("src").split(",")[1]).decode() == d.svg()
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


def test_small_cells_share_a_path_for_each_shade():
    d = Drawing(100, 100, "heat")
    box = d.heat(10, 10, [[1, None], [0, 1]], cell=4)
    d.scale(10, 60, "weight")
    assert (box.width, box.height) == (8, 8)
    paths = [e.get("d") for e in ET.fromstring(d.svg()).iter(SVG + "path")]
    assert "M0 0h1v1h-1zM1 1h1v1h-1z" in paths


TOY = pd.DataFrame({"token": ["Emma", " Price"], "query": [[0, 2], [1, 1]], "key": [[1, 0], [0, 2]]})
TOY["value"] = [[1, 0], [0, 4]]
PAIRS = [(0, 0), (0, 1), (1, 0), (1, 1)]
MAP = pd.DataFrame(
    [(layer, head, q, TOY.token[q], k, TOY.token[k], 1 / (q + 1))
     for layer in (0, 1) for head in (0, 1) for q, k in PAIRS if k <= q],
    columns=["layer", "head", "query", "query_token", "key", "key_token", "weight"],
)  # fmt: skip


def table(*columns: str) -> pd.DataFrame:
    return pd.DataFrame([(*pair, 0.5) for pair in PAIRS], columns=[*columns])


TABLES = {"query": "i c q", "key": "j c k", "score": "i j score", "weight": "i j weight"}
TABLES |= {"value": "j c v", "mixture": "i c m"}


@pytest.mark.parametrize(
    ("drawing", "says"),
    [
        (attention.vectors(TOY), "Emma (0, 2), Price (1, 1)"),
        (attention.on_paper(TOY, 1), "The mixture of the values is (0.33, 2.68)."),
        (attention.mask(table("i", "j", "score"), TOY.token), "leaves the 3 pairs"),
        (
            attention.joins({name: table(*columns.split()) for name, columns in TABLES.items()}),
            "joined where the channel c is the same",
        ),
        (attention.heads(128, 4, 27), "cut into 4 parts of 32"),
        (attention.head_map(MAP[(MAP.layer == 0) & (MAP["head"] == 1)]), "Price (1) to Emma (0) 0.50"),
        (attention.head_grid(MAP), "2 layers with 2 heads each over the 2 tokens"),
        (attention.induction([" a", " b", " a", " b"], 0.9, 0.8), "attends to b (weight 0.80)"),
    ],
)  # fmt: skip
def test_drawings_of_attention_say_their_numbers(drawing, says):
    assert says in drawing.description
    assert ET.fromstring(drawing.svg()).findtext(SVG + "desc") == drawing.description
