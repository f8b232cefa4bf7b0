"""Figures of several models beside each other: a line for each, and the spread of activations by layer."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from pg_llm.plots.plots import GREY, _axes

# Told apart by the colour-blind (Okabe and Ito), and by their markers.
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8a6d00", "#56b4e9")
MARKERS = "os^Dv*"


def plot_models(frame: pd.DataFrame, x: str, y: str, title: str = "", *, control: str = "control",
                logx: bool = False, logy: bool = False, references: Mapping[str, float] | None = None,
                ylim: tuple[float, float] | None = None,
                xlabel: str = "", ylabel: str = "", ax: Axes | None = None) -> Axes:  # fmt: skip
    """A line of y over x for each model of the frame, named at its end; the control is black and broad.

    references: horizontal lines, {label: y}. logx, logy: powers of ten. ylim: of the y axis. Example:
    plot_models(pg_llm.sql("SELECT model, step, loss FROM llm_train_log"), "step", "loss")
    """
    ax = _axes(ax, 8, 4.2)
    ends = []
    for model, rows in frame.sort_values(x).groupby("model"):
        if model == control:
            ax.plot(rows[x], rows[y], color="black", linewidth=3.2, zorder=2)
            colour = "black"
        else:
            i = (ord(str(model)[-1]) - ord("a")) % len(SERIES)  # its colour in every figure
            colour = SERIES[i]
            ax.plot(rows[x], rows[y], color=colour, marker=MARKERS[i % len(MARKERS)], markersize=4,
                    linewidth=1.4, markevery=max(1, len(rows) // 12), zorder=3)  # fmt: skip
        ends.append([float(rows[y].iloc[-1]), str(model), colour])
    for label, value in (references or {}).items():
        ax.axhline(value, color=GREY, linestyle="--", linewidth=1, zorder=1)
        ax.annotate(label, (0, value), (2, 2), xycoords=("axes fraction", "data"), textcoords="offset points",
                    fontsize=8, color="#555", va="bottom")  # fmt: skip
    if logx:
        ax.set_xscale("log")
        ax.xaxis.set_major_formatter("{x:g}")
    if logy:
        ax.set_yscale("log")
    if ylim:
        ax.set_ylim(*ylim)
    ax.set(xlabel=xlabel or x, ylabel=ylabel or y)
    ax.set_title(title, loc="left")
    _name_ends(ax, ends)
    return ax


def _name_ends(ax: Axes, ends: list) -> None:
    """Names beside the right ends of lines, moved apart where they would overlap."""
    ax.figure.canvas.draw()
    to_axes = ax.transData + ax.transAxes.inverted()
    height = 12 / (ax.get_window_extent().height * 72 / ax.figure.dpi)
    places = sorted((float(to_axes.transform((1, y))[1]), y, name, colour) for y, name, colour in ends)
    heights = [place for place, *_ in places]
    for _ in range(200):  # relax
        for i in range(len(heights) - 1):
            gap = height - (heights[i + 1] - heights[i])
            if gap > 1e-6:
                heights[i] -= gap / 2
                heights[i + 1] += gap / 2
    for at, (real, _, name, colour) in zip(heights, places, strict=True):
        ax.annotate(name, (1, real), (1.03, at), xycoords="axes fraction", textcoords="axes fraction",
                    color=colour, fontsize=9, va="center", annotation_clip=False,
                    arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.6,
                                "relpos": (0, 0.5)})  # fmt: skip


def plot_activations(frame: pd.DataFrame, title: str = "", *, limit: float = 12, mark: float | None = -3):
    """Histograms of the elements of tensors, a panel for each model, a line for each layer; returns the Axes.

    frame: columns model, layer, data (tensors). limit: of the x axis; what lies beyond counts in the last
    bin. mark: a vertical line, None for none.
    """
    models = list(dict.fromkeys(frame["model"]))
    figure, axes = plt.subplots(1, len(models), figsize=(4.2 * len(models), 3), sharex=True,
                                layout="constrained", squeeze=False)  # fmt: skip
    edges = np.linspace(-limit, limit, 49)
    shades = plt.get_cmap("viridis")(np.linspace(0, 0.85, frame["layer"].nunique()))
    for ax, model in zip(axes[0], models, strict=True):
        _axes(ax, 4, 3)
        for (layer, rows), colour in zip(
            frame[frame["model"] == model].groupby("layer"), shades, strict=False
        ):
            values = np.clip(np.concatenate([np.ravel(t) for t in rows["data"]]), -limit, limit)
            ax.stairs(
                np.histogram(values, edges)[0] / values.size, edges, color=colour, label=f"layer {layer}"
            )
        if mark is not None:
            ax.axvline(mark, color="#d55e00", linestyle="--", linewidth=1)
        ax.set(xlabel="input of GELU", yticks=[])
        ax.set_title(model, loc="left")
    axes[0, 0].set_ylabel("share of elements")
    axes[0, -1].legend(frameon=False, fontsize=8)
    figure.suptitle(title, x=0.01, ha="left")
    return axes[0]
