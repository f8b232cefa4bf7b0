"""Drawings and figures of the backward pass: what they say is what they were given."""

from __future__ import annotations

import matplotlib

matplotlib.use("Agg")
import numpy as np
import pandas as pd

from pg_llm.drawings import gradients
from pg_llm.plots.gradient_plots import plot_scales

SHAPES = {
    "h.1.ln_2": (5, 4), "h.1.mlp.c_fc": (5, 16), "h.1.mlp.act": (5, 16), "h.1.mlp.c_proj": (5, 4),
    "h.1.ln_2.weight": (4,), "h.1.mlp.c_fc.weight": (4, 16), "h.1.mlp.c_proj.weight": (16, 4),
}  # fmt: skip


def test_half_a_block_shows_shapes_and_norms_of_gradients():
    norms = {name: 0.01 * k for k, name in enumerate(["h.1", "h.1.attn.residual", *SHAPES], 1)}
    drawing = gradients.half_block(SHAPES, norms, "h.1")
    svg = drawing.svg()
    for shape in ("(5,4)", "(5,16)", "(4)", "(4,16)", "(16,4)"):
        assert f">{shape}</text>" in svg and shape in drawing.description
    for name in ("h.1.ln_2", "h.1.mlp.c_fc", "h.1.mlp.act"):
        assert f">{norms[name]:.4f}</text>" in svg, name
    assert ">gradient 0.0100</text>" in svg and ">gradient 0.0200</text>" in svg, "both ends of the stream"


def test_three_paths_have_five_slopes():
    svg = gradients.layer_norm_paths().svg()
    for slope in ("direct: 1 / sd", "−1 / sd", "1 / C", "−hat / sd", "hat / C"):
        assert f">{slope}</text>" in svg
    assert svg.count("<polygon") == 5


def test_two_uses_say_which_rows_they_read():
    drawing = gradients.two_uses(0.7, 0.1, 0.71, rows=50, shape=(786, 128))
    for text in ("reads 50 rows", "reads all 786 rows", "gradient 0.700", "gradient 0.100", "gradient 0.710"):
        assert f">{text}</text>" in drawing.svg()
    assert "50 of its 786 rows" in drawing.description


def test_scales_are_a_line_each_on_log_axes():
    frame = pd.DataFrame([(s, b, s * (1 + b), s / (1 + b)) for s in (0.1, 30) for b in range(3)],
                         columns=["scale", "block", "stream", "gradient"])  # fmt: skip
    sides = plot_scales(frame, "a title").figure.axes
    assert [ax.get_yscale() for ax in sides] == ["log", "log"]
    for ax, column in zip(sides, ("stream", "gradient"), strict=True):
        assert [line.get_label() for line in ax.lines] == ["weights × 0.1", "weights × 30"]
        assert np.allclose([line.get_ydata() for line in ax.lines], frame[column].to_numpy().reshape(2, 3))
        assert len({line.get_linestyle() for line in ax.lines}) == 2, "told apart without colour"
