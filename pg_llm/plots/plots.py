"""Figures of query results. Each function draws one, into ax if given, and returns its Axes."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

BLUE, GREY = "#336791", "#9aa5b1"


def _axes(ax: Axes | None, width: float, height: float) -> Axes:
    if ax is None:
        _, ax = plt.subplots(figsize=(width, height), layout="constrained")
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    return ax


def plot_next_tokens(frame: pd.DataFrame, title: str = "", ax: Axes | None = None) -> Axes:
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
    return ax


def plot_tensor(tensor, title: str = "", rows=None, columns=None, ax: Axes | None = None) -> Axes:
    """A heat map of a matrix (a vector is one row): blue below zero, red above, white at zero.

    tensor: (M,N) or (N). rows, columns: labels. Up to 12 x 12 the values are written into the cells.
    Errors: ValueError for more dimensions.
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
    return ax


def plot_bigrams(frame: pd.DataFrame, title: str = "", ax: Axes | None = None) -> Axes:
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
    return ax


def plot_points(frame: pd.DataFrame, title: str = "", ax: Axes | None = None) -> Axes:
    """Labelled points: columns label, x, y."""
    label, x, y = frame.columns[:3]
    ax = _axes(ax, 6.5, 5)
    ax.scatter(frame[x], frame[y], s=14, color=BLUE)
    _label_points(ax, frame[label], frame[x], frame[y])
    ax.axhline(0, color=GREY, lw=0.6, zorder=0)
    ax.axvline(0, color=GREY, lw=0.6, zorder=0)
    ax.set_title(title, loc="left")
    return ax


def plot_losses(
    frame: pd.DataFrame, lines: dict | None = None, title: str = "", ax: Axes | None = None
) -> Axes:
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
    return ax


class Grid(tuple[Axes, ...]):
    """The Axes of a figure that has several."""

    def _ipython_display_(self) -> None:
        """Prints nothing: Jupyter draws the figure by itself."""


def plot_attention(frame: pd.DataFrame, title: str = "", ax: Axes | None = None) -> Axes | Grid:
    """Heat maps of attention weights, one per (layer, head) in the frame: a row is a query, dark is 1.

    frame: columns layer, head, query, query_token, key, key_token, weight of pg_llm.attention(); of a batch
    the first sequence is drawn. Returns the Axes, of several heads a tuple of Axes. Errors: ValueError.
    """
    if "batch" in frame and len(frame):
        frame = frame[frame["batch"] == frame["batch"].iloc[0]]
    heads = list(frame.groupby(["layer", "head"]))
    if not heads:
        raise ValueError("plot_attention: the frame has no rows; llm_trace makes a run that has attention")
    tokens = frame.drop_duplicates("query").sort_values("query")["query_token"].tolist()
    few = len(heads) == 1
    if not few and ax is not None:
        raise ValueError(f"plot_attention: {len(heads)} heads do not fit one ax; choose a layer and a head")
    if few:
        side = min(8.0, 1.6 + 0.24 * len(tokens))
        axes = Grid([_axes(ax, side, side)])
    else:
        columns = min(4, len(heads))
        rows = -(-len(heads) // columns)
        _, grid = plt.subplots(
            rows, columns, figsize=(2.3 * columns, 2.4 * rows), layout="constrained", squeeze=False
        )
        for spare in grid.ravel()[len(heads) :]:
            spare.axis("off")
        axes = Grid(grid.ravel()[: len(heads)])
    for ax, ((layer, head), part) in zip(axes, heads, strict=True):
        matrix = np.full((len(tokens), len(tokens)), np.nan)
        matrix[part["query"] - part["query"].min(), part["key"] - part["key"].min()] = part["weight"]
        ax.imshow(matrix, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
        _label(ax, [repr(t) for t in tokens] if few else [], [repr(t) for t in tokens] if few else [])
        ax.tick_params(labelsize=8)
        ax.set_title(
            title if few and title else f"layer {layer}, head {head}", loc="left", fontsize=None if few else 9
        )
    if few:
        axes[0].set_ylabel("query: who looks")
        axes[0].set_xlabel("key: at whom")
    elif title:
        axes[0].figure.suptitle(title, x=0.01, ha="left")
    return axes[0] if few else axes


def plot_gradients(
    frame: pd.DataFrame, column: str = "norm", title: str = "", ax: Axes | None = None
) -> Axes:
    """Gradient norms from the embeddings up to the head: a line for each kind of matrix, on a log scale.

    frame: pg_llm.gradients(); column: norm, weight_norm, ratio or largest.
    """
    parts = frame["name"].str.extract(r"^h\.(?P<layer>\d+)\.(?P<part>.+)$")
    layers = sorted(parts["layer"].dropna().astype(int).unique())
    ax = _axes(ax, 6.5, 4)
    names = ["embedding", *map(str, layers), "head"]
    matrices = (
        parts["part"].notna() & frame["name"].str.endswith(".weight") & ~frame["name"].str.contains("ln_")
    )
    for k, (part, rows) in enumerate(frame[matrices].groupby(parts["part"])):
        at = [1 + layers.index(int(i)) for i in parts["layer"][rows.index]]
        order = np.argsort(at)
        ax.plot(np.array(at)[order], rows[column].to_numpy()[order], marker="o", ms=4, color=f"C{k}",
                label=str(part).removesuffix(".weight"))  # fmt: skip
    others = frame[parts["part"].isna()].sort_values(column)[["name", column]]
    below: dict[int, float] = {}  # the last label at the left and at the right
    for name, value in others.itertuples(index=False):
        x = 0 if name.startswith(("wte", "wpe")) else len(names) - 1
        lift = 7 if value < 1.3 * below.get(x, 0) else 0
        below[x] = value
        ax.plot([x], [value], marker="s", ms=5, ls="", color="#444")
        ax.annotate(name, (x, value), (6 if x == 0 else -6, lift), textcoords="offset points", va="center",
                    ha="left" if x == 0 else "right", fontsize=8, color="#444")  # fmt: skip
    ax.set_yscale("log")
    ax.set_xticks(range(len(names)), names)
    ax.set_xlabel("layer")
    ax.set_ylabel(f"{column} of the gradient" if column == "norm" else column)
    if matrices.any():
        ax.legend(frameon=False, fontsize=8)
    ax.set_title(title, loc="left")
    return ax


def plot_loss(frame: pd.DataFrame, floor=None, title: str = "", ax: Axes | None = None) -> Axes:
    """The training loss, raw and smoothed, above the floor that no model can get below.

    frame: columns step, loss of pg_llm.train_log(). floor: a row of llm_story_floor, or nats per token; with
    a row the right-hand axis shows bits per character, which compare across vocabularies.
    """
    ax = _axes(ax, 6.5, 3.8)
    ax.plot(frame["step"], frame["loss"], color=BLUE, lw=0.8, alpha=0.35)
    smooth = frame["loss"].rolling(max(1, len(frame) // 40), min_periods=1, center=True).mean()
    ax.plot(frame["step"], smooth, color=BLUE, lw=1.8)
    row: Any = floor.iloc[0] if isinstance(floor, pd.DataFrame) else floor
    measured = not (row is None or np.isscalar(row))
    level = None if row is None else float(row["nats_per_token"] if measured else row)
    if level is not None:
        ax.axhline(level, color=GREY, lw=1, ls="--", zorder=0)
        ax.annotate(f"floor {level:.3f}", (1, level), xycoords=("axes fraction", "data"), ha="right",
                    xytext=(0, 3), textcoords="offset points", color="#555")  # fmt: skip
    ax.set_ylim(bottom=0)
    ax.set_xlabel("step")
    ax.set_ylabel("loss (nats per token)")
    if level is not None and measured:
        error = float(row["standard_error"])
        ax.axhspan(level - 2 * error, level + 2 * error, color=GREY, alpha=0.25, lw=0, zorder=0)
        bits = float(row["bits_per_character"]) / level
        scale = (lambda y: np.multiply(y, bits), lambda y: np.divide(y, bits))
        right = ax.secondary_yaxis("right", functions=scale)
        right.set_ylabel("bits per character")
    ax.set_title(title, loc="left")
    return ax


def plot_paths(frame: pd.DataFrame, height, title: str = "", ax: Axes | None = None) -> Axes:
    """Paths of optimizers over the contour lines of height(x, y): columns label, x, y, a row per step."""
    label, x, y = frame.columns[:3]
    ax = _axes(ax, 6.5, 3.8)
    sides = []
    for values in (frame[x], frame[y]):
        low, high = values.min(), values.max()
        sides.append(np.linspace(low - 0.1 * (high - low), high + 0.1 * (high - low), 200))
    grid = height(*np.meshgrid(*sides))
    ax.contour(
        *sides, grid, levels=np.quantile(grid, np.linspace(0.02, 0.98, 12)), colors=GREY, linewidths=0.6
    )
    for k, (name, path) in enumerate(frame.groupby(label, sort=False)):
        ax.plot(path[x], path[y], marker="o", ms=2.5, lw=1.2, color=f"C{k}", label=str(name))
    ax.set_xlabel(str(x))
    ax.set_ylabel(str(y))
    ax.legend(frameon=False, fontsize=8)
    ax.set_title(title, loc="left")
    return ax


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
    """Puts a label to the right of each point, moved down to free space, with a line to its point."""
    height, letter = 12.0, 6.5  # pixels of a label
    ax.margins(0.12)
    ax.figure.canvas.draw()
    scale = 72 / ax.figure.dpi
    taken: list[tuple[float, float, float]] = []
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
