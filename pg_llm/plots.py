"""Pictures of what queries return. Each function draws one, into ax where that is given."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

BLUE, GREY = "#336791", "#9aa5b1"


def _axes(ax, width: float, height: float):
    if ax is None:
        _, ax = plt.subplots(figsize=(width, height), layout="constrained")
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    return ax


def plot_next_tokens(frame: pd.DataFrame, title: str = "", ax=None) -> None:
    """Bars of the probabilities in a result of llm_next_tokens (columns token, probability), best on top."""
    ax = _axes(ax, 6, 0.6 + 0.28 * len(frame))
    labels = [repr(token) for token in frame["token"]]
    bars = ax.barh(range(len(frame)), frame["probability"], color=BLUE)
    ax.bar_label(bars, [f"{p:.3g}%" for p in 100 * frame["probability"]], padding=4, color="#444")
    ax.set_yticks(range(len(frame)), labels, family="monospace")
    ax.invert_yaxis()
    ax.set_xlim(0, max(frame["probability"], default=1) * 1.18 or 1)
    ax.set_xlabel("probability of being next")
    ax.xaxis.set_major_formatter("{x:.0%}" if max(frame["probability"], default=1) > 0.05 else "{x:.3%}")
    ax.set_title(title, loc="left")


def plot_tensor(tensor, title: str = "", rows=None, columns=None, ax=None) -> None:
    """A heat map of a matrix (a vector is one row): blue below zero, red above, white at zero.

    rows, columns: labels. Small matrices show their numbers.
    """
    matrix = np.atleast_2d(np.asarray(tensor, np.float64))
    if matrix.ndim != 2:
        raise ValueError(
            f"plot_tensor draws a matrix; this tensor has shape {matrix.shape}: choose a slice of it"
        )
    height, width = matrix.shape
    ax = _axes(ax, min(9, 1.5 + 0.5 * width), min(7, 1.2 + 0.42 * height))
    limit = np.nanmax(np.abs(matrix), initial=0) or 1
    image = ax.imshow(matrix, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest")
    if height <= 12 and width <= 12:
        for i, j in np.ndindex(height, width):
            dark = abs(matrix[i, j]) > 0.6 * limit
            ax.text(j, i, f"{matrix[i, j]:.3g}", ha="center", va="center", color="white" if dark else "black")
    else:
        ax.figure.colorbar(image, ax=ax, shrink=0.8)
    _label(ax, rows, columns)
    ax.set_title(title, loc="left")


def plot_bigrams(frame: pd.DataFrame, title: str = "", ax=None) -> None:
    """A heat map of pairs: first column the token before, second the one after, third how often."""
    before, after, value = frame.columns[:3]
    order = list(dict.fromkeys(frame[before])) + [t for t in dict.fromkeys(frame[after])]
    order = list(dict.fromkeys(order))
    table = frame.pivot_table(
        index=before, columns=after, values=value, aggfunc="sum", fill_value=0, observed=True
    )
    table = pd.DataFrame(table).reindex(index=order, columns=order, fill_value=0)
    size = min(9, 2 + 0.2 * len(order))
    ax = _axes(ax, size + 0.8, size)
    image = ax.imshow(table.to_numpy(float), cmap="Blues", interpolation="nearest")
    ax.figure.colorbar(image, ax=ax, shrink=0.6, label=str(value))
    _label(ax, [repr(t) for t in order], [repr(t) for t in order])
    ax.tick_params(labelsize=8)
    ax.set_ylabel(f"{before} (before)" if before != "before" else "before")
    ax.set_xlabel(f"{after} (after)" if after != "after" else "after")
    ax.set_title(title, loc="left")


def plot_points(frame: pd.DataFrame, title: str = "", ax=None) -> None:
    """Labelled points: columns label, x, y."""
    label, x, y = frame.columns[:3]
    ax = _axes(ax, 6.5, 5)
    ax.scatter(frame[x], frame[y], s=14, color=BLUE)
    _label_points(ax, frame[label], frame[x], frame[y])
    ax.axhline(0, color=GREY, lw=0.6, zorder=0)
    ax.axvline(0, color=GREY, lw=0.6, zorder=0)
    ax.set_title(title, loc="left")


def plot_losses(frame: pd.DataFrame, lines: dict | None = None, title: str = "", ax=None) -> None:
    """A curve of loss (second column) over the first column, with named horizontal reference lines."""
    x, loss = frame.columns[:2]
    ax = _axes(ax, 6.5, 3.6)
    ax.plot(frame[x], frame[loss], color=BLUE, marker="o" if len(frame) <= 20 else None)
    for name, level in (lines or {}).items():
        ax.axhline(level, color=GREY, lw=1, ls="--", zorder=0)
        ax.annotate(
            f"{name} {level:.2f}",
            (1, level),
            xycoords=("axes fraction", "data"),
            ha="right",
            xytext=(0, 3),
            textcoords="offset points",
            color="#555",
        )
    ax.set_xlabel(str(x))
    ax.set_ylabel(f"{loss} (nats per token)")
    ax.set_title(title, loc="left")


def _label(ax, rows, columns) -> None:
    for axis, labels in ((ax.yaxis, rows), (ax.xaxis, columns)):
        if labels is not None:
            axis.set_ticks(range(len(labels)), labels)
    if columns is not None and max(map(len, map(str, columns)), default=0) > 3:
        ax.tick_params(axis="x", rotation=90)
    for side in ax.spines.values():
        side.set_visible(False)
    ax.tick_params(length=0)


def _label_points(ax, labels, xs, ys) -> None:
    """A label right of each point, moved down to free space where others stand, with a line to its point."""
    height, letter = 12.0, 6.5  # pixels a label takes
    ax.margins(0.12)
    ax.figure.canvas.draw()
    scale = 72 / ax.figure.dpi
    taken = []
    points = ax.transData.transform(list(zip(xs, ys, strict=True)))
    for label, (px, py) in sorted(zip(map(str, labels), points, strict=True), key=lambda item: -item[1][1]):
        at, width = py, letter * len(label) + 6
        while any(px < right and left < px + width and abs(at - y) < height for left, right, y in taken):
            at -= 2
        taken.append((px, px + width, at))
        moved = {"arrowprops": {"arrowstyle": "-", "color": GREY, "lw": 0.4}} if py - at > 4 else {}
        ax.annotate(
            label, (px, py), (6 * scale, (at - py - 4) * scale), xycoords="figure pixels",
            textcoords="offset points", fontsize=9, annotation_clip=False, **moved,
        )  # fmt: skip
