"""The figures and drawings of notebook 14."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text

from pg_llm.drawings import ward
from pg_llm.plots.ward_plots import plot_activations, plot_models


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def test_names_at_the_ends_of_lines_do_not_overlap():
    rows = [(m, x, x * 0.001 * k) for k, m in enumerate(["control", "a", "b", "c"]) for x in (1, 2, 3)]
    ax = plot_models(pd.DataFrame(rows, columns=["model", "x", "y"]), "x", "y", references={"one": 1.0})
    ax.figure.canvas.draw()
    names = {t.get_text(): Text.get_window_extent(t) for t in ax.texts}  # without the line to the end
    assert {"control", "a", "b", "c", "one"} == set(names)
    boxes = [names[name] for name in ("control", "a", "b", "c")]
    assert not any(p.overlaps(q) for i, p in enumerate(boxes) for q in boxes[:i])
    assert max(ax.lines, key=lambda line: line.get_linewidth()).get_color() == "black"


def test_a_panel_of_activations_for_each_model():
    rows = [
        (m, layer, np.full((2, 3), value))
        for m, value in (("control", 0.0), ("ill", -99.0))
        for layer in (0, 1)
    ]
    axes = plot_activations(pd.DataFrame(rows, columns=["model", "layer", "data"]))
    assert [ax.get_title(loc="left") for ax in axes] == ["control", "ill"]
    heights = axes[1].patches[0].get_data().values
    assert heights[0] == 1 and heights.sum() == 1, "what lies beyond the axis is in the last bin"


def test_what_lies_above_the_diagonal_is_said():
    drawing = ward.triangles(
        {"healthy": [[1, None], [0.5, 0.5]], "ill": [[0.1, 0.9], [0.5, 0.5]]}, ["a", "b"]
    )
    assert "healthy: nothing above the diagonal" in drawing.description
    assert "ill: the largest weight above the diagonal is 0.90, from position 0 to 1" in drawing.description


def test_each_place_names_its_table():
    text = ward.places().svg()
    assert all(table in text for _, _, table in ward.PLACES) and all(
        table in text for _, table in ward.TRACES
    )
