"""The drawings of notebook 03 show the numbers they are given, and say them in words."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import numpy as np
import pandas as pd
import pytest

from pg_llm.drawings import embeddings
from pg_llm.drawings.svg import ORANGE

SVG = "{http://www.w3.org/2000/svg}"


def texts(drawing) -> list[str]:
    return [element.text or "" for element in ET.fromstring(drawing.svg()).iter(SVG + "text")]


def test_counts_of_a_row_become_probabilities():
    rows = [
        (" cat", " ran", 3, 0.75),
        (" cat", " sat", 1, 0.25),
        (" dog", " ran", 0, 0.0),
        (" dog", " sat", 2, 1.0),
    ]
    d = embeddings.bigram_counts(pd.DataFrame(rows, columns=["before", "after", "n", "p"]), " cat")
    assert "␣ran 3 of 4, ␣sat 1 of 4" in d.description
    assert {"total 4", "÷ 4", "3", "·", "0.75", "0.25"} <= set(texts(d))


@pytest.mark.parametrize(
    ("r", "token"), [(0.0, "a"), (0.249, "a"), (0.25, "b"), (0.6, "b"), (0.99, "␣c"), (1.0, "␣c")]
)
def test_a_random_number_falls_on_a_token(r, token):
    d = embeddings.inverse_cdf(pd.DataFrame({"after": ["a", "b", " c"], "p": [0.25, 0.5, 0.25]}), r)
    assert d.description.endswith(f"The random number {r:g} falls on {token}.")
    pieces = [e for e in ET.fromstring(d.svg()).iter(SVG + "rect") if e.get("stroke") == "#ffffff"]
    assert [float(e.get("width", 0)) for e in pieces] == [160, 320, 160]
    assert [e.get("fill") == ORANGE for e in pieces] == [t == token for t in ("a", "b", "␣c")]


def test_a_cell_of_the_table_is_the_product_of_a_row_and_a_column():
    wte, head = np.array([[1.0, -2.0], [0.5, 0.0]]), np.array([[3.0, 1.0], [0.0, -1.5], [1.0, 1.0]])
    p = np.full((2, 3), 1 / 3)
    d = embeddings.factorisation(wte, head, p, [" a", "b"], ["x", " y", "z"], (0, 1))
    assert "row of 2 numbers in wte" in d.description and "score of 3.00" in d.description
    assert "␣a → ␣y: 1.00·0.00 + −2.00·(−1.50) = 3.00" in texts(d)
    assert d.width > 0 and texts(d).count("0.33") == 6
