"""Figures of query results. Each function draws one, into ax if given, and returns its Axes."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator, PercentFormatter
from matplotlib.transforms import Bbox

BLUE, ORANGE, GREY = "#336791", "#d55e00", "#9aa5b1"
SERIES = (BLUE, ORANGE, "#009e73", "#8a5a9e", "#555555")  # told apart by the colour-blind, and by markers


def _axes(ax: Axes | None, width: float, height: float) -> Axes:
    if ax is None:
        _, ax = plt.subplots(figsize=(width, height), layout="constrained")
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    return ax


def plot_next_tokens(frame: pd.DataFrame, title: str = "", ax: Axes | None = None) -> Axes:
    """Bars of the probabilities in a result of llm_next_tokens (columns token, probability), best on top."""
    ax = _axes(ax, 6, 0.6 + 0.28 * len(frame))
    bars = ax.barh(range(len(frame)), frame["probability"], color=BLUE)
    ax.bar_label(bars, _percentages(frame["probability"]), padding=4, color="#444")
    ax.set_yticks(range(len(frame)), [_quoted(t) for t in frame["token"]], family="monospace")
    ax.invert_yaxis()
    ax.set_xlim(0, max(frame["probability"], default=1) * 1.18 or 1)
    ax.set_xlabel("probability of being next")
    ax.xaxis.set_major_formatter(PercentFormatter(1))  # as many digits as its ticks need
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
    _label(ax, [_quoted(t) for t in order], [_quoted(t) for t in order])
    ax.tick_params(labelsize=8)
    ax.set_ylabel(f"{before}: the token before" if before != "before" else "the token before")
    ax.set_xlabel(f"{after}: the token after" if after != "after" else "the token after")
    ax.set_title(title, loc="left")
    return ax


def plot_points(frame: pd.DataFrame, title: str = "", ax: Axes | None = None) -> Axes:
    """Labelled points: columns label, x, y. Labels keep clear of each other and of the points."""
    label, x, y = frame.columns[:3]
    ax = _axes(ax, 6.5, 5)
    ax.scatter(frame[x], frame[y], s=14, color=BLUE)
    ax.axhline(0, color=GREY, lw=0.6, zorder=0)
    ax.axvline(0, color=GREY, lw=0.6, zorder=0)
    ax.set_xlabel(str(x))
    ax.set_ylabel(str(y))
    ax.set_title(title, loc="left")
    _label_points(ax, frame[label], frame[x], frame[y])
    return ax


def plot_losses(
    frame: pd.DataFrame, lines: dict | None = None, title: str = "", ax: Axes | None = None
) -> Axes:
    """Curves of losses over the first column, one for each further column, and named reference lines.

    The columns' names label the axis and the curves. lines: name to level, in nats per token; the names
    stand right of the axes. Up to 12 points are marked and named below the axis, and where each is at least
    a quarter larger than the one before (1, 2, 4, 8 …), that axis is logarithmic.
    """
    x, *curves = frame.columns
    ax = _axes(ax, 7, 3.8)
    few = len(frame) <= 12
    for k, curve in enumerate(curves):
        ax.plot(frame[x], frame[curve], color=SERIES[k % len(SERIES)], marker="osD^v"[k % 5] if few else None,
                ls=("-", "--", "-.")[k % 3] if not few else "-", ms=5, label=str(curve))  # fmt: skip
    at = np.asarray(frame[x], float)
    if few and len(at) > 3 and at[0] > 0 and (at[1:] >= 1.25 * at[:-1]).all():
        ax.set_xscale("log", base=2)
        ax.xaxis.set_minor_locator(NullLocator())
    if few:
        ax.set_xticks(at, [f"{value:g}" for value in at])
    for level in (lines or {}).values():
        ax.axhline(level, color=GREY, lw=1, ls="--", zorder=0)
    ax.set_xlabel(str(x))
    ax.set_ylabel("loss (nats per token)")
    if len(curves) > 1:
        ax.legend(frameon=False, fontsize=9)
    ax.set_title(title, loc="left")
    _label_lines(ax, lines or {})
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
        axes[0].set_ylabel("query: the token that attends")
        axes[0].set_xlabel("key: the token attended to")
    else:
        for k, ax in enumerate(axes):
            ax.set_xlabel("key" if k >= len(axes) - columns else "", fontsize=9)
            ax.set_ylabel("query" if k % columns == 0 else "", fontsize=9)
        axes[0].figure.suptitle(title, x=0.01, ha="left")
    return axes[0] if few else axes


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


def _label(ax, rows, columns) -> None:
    for axis, labels in ((ax.yaxis, rows), (ax.xaxis, columns)):
        if labels is not None:
            axis.set_ticks(range(len(labels)), labels)
    if columns is not None and max(map(len, map(str, columns)), default=0) > 3:
        ax.tick_params(axis="x", rotation=90)
    for side in ax.spines.values():
        side.set_visible(False)
    ax.tick_params(length=0)


def _quoted(token) -> str:
    """A token in quotes, control characters escaped; what llm_token_text has escaped stays as it is."""
    text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(token))
    quote = '"' if "'" in text and '"' not in text else "'"
    return quote + text.replace("$", r"\$") + quote  # a pair of $ would enclose a formula


def _percentages(values) -> list[str]:
    """Probabilities in percent with equally many decimals, three digits for the largest."""
    percent = [100 * float(value) for value in values]
    largest = max(percent, default=0)
    decimals = 1 if largest <= 0 else int(min(6, max(1, 2 - np.floor(np.log10(largest)))))
    least = 10.0**-decimals
    return [f"<{least:.{decimals}f}%" if 0 < p < least / 2 else f"{p:.{decimals}f}%" for p in percent]


def _label_lines(ax: Axes, lines: dict) -> None:
    """Names horizontal lines right of the axes, each at its level or as far above as the one below asks."""
    ax.figure.canvas.draw()
    height = 13.0 * ax.figure.dpi / 72  # of a label, in pixels
    above = -np.inf
    for name, level in sorted(lines.items(), key=lambda item: item[1]):
        at = ax.transData.transform((0 if ax.get_xscale() == "linear" else 1, level))[1]
        above = max(at, above + height)
        ax.annotate(
            f"{name} {level:.2f}", (1, level), ((6, (above - at) * 72 / ax.figure.dpi)),
            xycoords=("axes fraction", "data"), textcoords="offset points", va="center", fontsize=9,
            color="#555", annotation_clip=False,
        )  # fmt: skip


def _label_points(ax: Axes, labels, xs, ys) -> None:
    """Puts each label at the best free place around its point, with a line to it from further away.

    Free: over no other label and no point. Labels of crowded points choose first.
    """
    ax.margins(0.14)
    figure: Any = ax.figure
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    points = ax.transData.transform(np.column_stack([xs, ys])) if len(xs) else np.empty((0, 2))
    crowded = [np.sort(np.hypot(*(points - point).T))[:4].sum() for point in points]
    placed, lines = np.empty((0, 4)), np.empty((0, 2))  # labels: x0, y0, x1, y1; places that a line runs over
    for k in np.argsort(crowded, kind="stable"):
        at = xs.iloc[k], ys.iloc[k]
        text = ax.annotate(str(labels.iloc[k]), at, (0, 0), textcoords="offset points", fontsize=9,
                           ha="center", va="center", annotation_clip=False)  # fmt: skip
        size = text.get_window_extent(renderer)
        dots = np.delete(points, k, axis=0)
        taken = np.vstack([placed, np.hstack([dots - 3, dots + 3])])
        middle, half, line = _free_place(points[k], size, taken, lines, ax.get_window_extent())
        placed = np.vstack([placed, np.hstack([points[k] + middle - half, points[k] + middle + half])])
        text.set_position(tuple(middle * 72 / figure.dpi))
        text.set_in_layout(False)
        if len(line):
            lines = np.vstack([lines, line])
            stroke = ax.annotate("", at, tuple((line[-1] - points[k]) * 72 / figure.dpi),
                                 textcoords="offset points", annotation_clip=False,
                                 arrowprops={"arrowstyle": "-", "color": GREY, "lw": 0.6})  # fmt: skip
            stroke.set_in_layout(False)


def _free_place(point, size: Bbox, taken, lines, frame: Bbox) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The best place of a label: over nothing else, then near, then with a line that crosses nothing.

    taken: boxes (N,4); lines: places (M,2) that other labels' lines run over. Returns, in pixels, the way
    from the point to the label's middle, half its size, and places along its line, if it needs one.
    """
    half = np.array([size.width + 4, size.height + 1]) / 2
    best: Any = (np.inf,)
    for distance in range(0, 120, 5):
        if best[0] <= distance:
            break
        for angle in np.arange(16) * np.pi / 8:
            middle = np.array([np.cos(angle), np.sin(angle)]) * (half + distance + 4)
            (x0, y0), (x1, y1) = point + middle - half, point + middle + half
            over = (taken[:, 0] < x1) & (taken[:, 2] > x0) & (taken[:, 1] < y1) & (taken[:, 3] > y0)
            crossed = (lines[:, 0] < x1) & (lines[:, 0] > x0) & (lines[:, 1] < y1) & (lines[:, 1] > y0)
            outside = x0 < frame.x0 or x1 > frame.x1 or y0 < frame.y0 or y1 > frame.y1
            cost = 1000 * (over.sum() + outside) + 5 * crossed.sum() + distance
            if cost >= best[0]:
                continue
            end = middle - np.clip(middle, -half, half)
            line = point + end * np.linspace(0.2, 1, 4 + distance // 2)[:, None]
            line = line if distance > 5 else np.empty((0, 2))
            x, y = line[:, :1], line[:, 1:]
            hit = (taken[:, 0] < x) & (taken[:, 2] > x) & (taken[:, 1] < y) & (taken[:, 3] > y)
            near = np.abs(line[:, None] - lines[None]).max(axis=2, initial=0) < 4
            cost += 15 * hit.sum() + 10 * near.any(axis=1).sum()
            if cost < best[0]:
                best = cost, middle, half, line
    return best[1:]
