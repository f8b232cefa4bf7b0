"""The drawings of notebook 09 show the rows they are given, and say in words what they show."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pandas as pd
import pytest

from pg_llm.drawings import tape

SVG = "{http://www.w3.org/2000/svg}"
NODES = pd.DataFrame({
    "tensor": [1, 2, 3, 4], "label": ["x", "y", "", ""], "value": [2.0, 5.0, 10.0, 12.0],
    "gradient": [6.0, 2.0, 1.0, 1.0],
})  # fmt: skip
EDGES = pd.DataFrame(
    [(3, 1, "mul", 5.0), (3, 2, "mul", 2.0), (4, 3, "add", 1.0), (4, 1, "add", 1.0)],
    columns=["result", "input", "op", "slope"],
)


def texts(drawing) -> list[str]:
    return [e.text or "" for e in ET.fromstring(drawing.svg()).iter(f"{SVG}text")]


def heads(drawing) -> int:
    return len(list(ET.fromstring(drawing.svg()).iter(f"{SVG}polygon")))


def test_a_graph_has_a_box_for_each_tensor_and_an_arrow_for_each_use():
    d = tape.graph(NODES, EDGES, "f")
    assert {"x", "y", "mul", "add", "10", "12", "6", "5"} <= set(texts(d))
    assert heads(d) == 4
    assert "mul = 10, gradient 1 from x (slope 5) and y (slope 2)" in d.description


def test_a_square_has_two_arrows():
    edges = pd.DataFrame([(2, 1, "mul", 3.0)] * 2, columns=["result", "input", "op", "slope"])
    nodes = pd.DataFrame({"tensor": [1, 2], "label": ["x", ""], "value": [3.0, 9.0]})
    d = tape.graph(nodes, edges)
    assert heads(d) == 2 and texts(d).count("3") == 3  # the value and both slopes


def test_a_graph_without_edges_is_refused():
    with pytest.raises(ValueError, match="no edges"):
        tape.graph(NODES, EDGES.iloc[:0])


def test_doublings_count_their_paths():
    d = tape.doublings(pd.DataFrame({"tensor": [1, 2, 3], "paths": [4, 2, 1]}))
    assert {"4", "2", "1"} <= set(texts(d)) and heads(d) == 4 + 1
    assert d.title == "2 additions: 4 paths, 2 rows"


def test_passes_show_values_gradients_and_who_gets_a_part():
    rows = pd.DataFrame(
        [("sub", ["a", "1"], "miss", -0.5, -1.0), ("mul", ["miss", "miss"], "loss", 0.25, 1.0)],
        columns=["op", "inputs", "output", "value", "gradient"],
    )
    shown = texts(tape.passes(rows))
    assert {"−0.5", "0.25", "−1", "miss, miss"} <= set(shown)
    assert shown.count("a") == 1  # the constant gets nothing, the variable a part
    assert shown.count("a, 1") == 1


def test_a_slope_names_its_nudges():
    d = tape.slope(pd.DataFrame({"nudge": [1.0, 0.1], "slope": [7.0, 6.1]}))
    assert "nudge 0.1: slope 6.1" in texts(d) and "1 gives 7, 0.1 gives 6.1" in d.description


def test_a_network_has_its_weights_and_biases():
    rows = pd.DataFrame({"name": ["w1", "b1", "w2", "b2"],
                         "w": [[[1.5, -2.0], [0.5, 0.25]], [0.1, 0.2], [[3.0], [-4.0]], [0.75]]})  # fmt: skip
    d = tape.network(rows, "net")
    assert {"1.50", "−2.00", "3.00", "−4.00", "0.75"} <= set(texts(d))
    assert "2 inputs, 2 neurons with tanh, 1 answer" in d.description
