"""Figures of gradients and of what they lead to: their lengths, paths of optimizers, a network's answers."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from pg_llm.plots.plots import BLUE, GREY, ORANGE, SERIES, _axes

# Colour, line and marker: any one of them is enough to tell the lines apart.
STYLES = tuple(zip(SERIES, ("-", "--", "-.", ":", "-"), "os^Dv", strict=True))


def plot_gradients(
    frame: pd.DataFrame, column: str = "norm", title: str = "", ax: Axes | None = None
) -> Axes:
    """Gradient norms from the embeddings up to the head: a line for each kind of matrix, on a log scale.

    frame: pg_llm.gradients(); column: norm, weight_norm, ratio or largest. The legend follows the lines'
    order in the last layer.
    """
    parts = frame["name"].str.extract(r"^h\.(?P<layer>\d+)\.(?P<part>.+)$")
    layers = sorted(parts["layer"].dropna().astype(int).unique())
    ax = _axes(ax, 7, 4)
    names = ["embedding", *map(str, layers), "head"]
    matrices = (
        parts["part"].notna() & frame["name"].str.endswith(".weight") & ~frame["name"].str.contains("ln_")
    )
    lines: list[tuple[float, Line2D]] = []  # with their values in the last layer
    for k, (part, rows) in enumerate(frame[matrices].groupby(parts["part"])):
        at = [1 + layers.index(int(i)) for i in parts["layer"][rows.index]]
        order = np.argsort(at)
        color, dashes, marker = STYLES[k % len(STYLES)]
        values = rows[column].to_numpy()[order]
        (line,) = ax.plot(np.array(at)[order], values, color=color, ls=dashes, marker=marker, ms=4.5,
                          label=str(part).removesuffix(".weight"))  # fmt: skip
        lines.append((float(values[-1]), line))
    others = frame[parts["part"].isna()].sort_values(column)[["name", column]]
    below: dict[int, float] = {}  # the last label at the left and at the right
    for name, value in others.itertuples(index=False):
        x = 0 if name.startswith(("wte", "wpe")) else len(names) - 1
        lift = 7 if value < 1.3 * below.get(x, 0) else 0
        below[x] = value
        ax.plot([x], [value], marker="*", ms=8, ls="", color="#444")
        ax.annotate(name, (x, value), (7 if x == 0 else -7, lift), textcoords="offset points", va="center",
                    ha="left" if x == 0 else "right", fontsize=8, color="#444")  # fmt: skip
    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.grid(axis="y", color=GREY, lw=0.4, alpha=0.5)
    ax.set_xticks(range(len(names)), names)
    ax.set_xlabel("layer")
    ax.set_ylabel(f"{column} of the gradient" if column == "norm" else column)
    if lines:
        handles = [line for _, line in sorted(lines, key=lambda pair: -pair[0])]
        ax.legend(handles=handles, frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    ax.set_title(title, loc="left")
    return ax


def plot_scales(frame: pd.DataFrame, title: str = "") -> Axes:
    """What reaches each block, forward and backward, for several scales of the first weights, on log axes.

    frame: columns scale, block (0 is the stream before the first), stream, gradient. Returns the left Axes.
    """
    import matplotlib.pyplot as plt

    figure, sides = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
    panels = [("stream", "forward: standard deviation of the stream"),
              ("gradient", "backward, from right to left: norm of the gradient")]  # fmt: skip
    for ax, (column, label) in zip(sides, panels, strict=True):
        for k, (scale, rows) in enumerate(frame.groupby("scale")):
            color, dashes, marker = STYLES[k % len(STYLES)]
            ax.plot(rows["block"], rows[column], color=color, ls=dashes, marker=marker, ms=5,
                    label=f"weights × {scale:g}")  # fmt: skip
        ax.set_yscale("log")
        ax.yaxis.set_minor_locator(NullLocator())
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.set_xticks(sorted(frame["block"].unique()))
        ax.set_xlabel("after this many blocks")
        ax.set_title(label, loc="left", fontsize=10)
        ax.grid(axis="y", color=GREY, lw=0.4, alpha=0.5)
        ax.spines[["top", "right"]].set_visible(False)
    sides[1].legend(frameon=False, fontsize=9)
    figure.suptitle(title, x=0.01, ha="left")
    return sides[0]


def plot_paths(
    frame: pd.DataFrame, height, title: str = "", minimum: tuple | None = None, ax: Axes | None = None
) -> Axes:
    """Paths of optimizers over the contour lines of height(x, y): columns label, x, y, a row per step.

    Both axes have the same scale, so that lengths and directions are true. minimum: its (x, y), marked.
    """
    label, x, y = frame.columns[:3]
    sides, spans = [], []
    for k, values in enumerate((frame[x], frame[y])):
        at = [*values, *([] if minimum is None else [minimum[k]])]
        low, high = min(at), max(at)
        spans.append(1.2 * (high - low) or 1)
        sides.append(np.linspace(low - 0.1 * (high - low), high + 0.1 * (high - low), 400))
    ax = _axes(ax, 8, float(np.clip(6.8 * spans[1] / spans[0], 1.2, 6)) + 1.4)
    grid = height(*np.meshgrid(*sides))
    ax.contour(
        *sides, grid, levels=np.quantile(grid, np.linspace(0.02, 0.98, 12)), colors=GREY, linewidths=0.6
    )
    for k, (name, path) in enumerate(frame.groupby(label, sort=False)):
        color, dashes, marker = STYLES[k % len(STYLES)]
        ax.plot(path[x], path[y], ls=dashes, marker=marker, ms=3, lw=1.2, color=color, label=str(name))
    start = frame.iloc[0]
    ax.annotate("start", (start[x], start[y]), (0, 5), textcoords="offset points", ha="center", fontsize=8)
    if minimum is not None:
        ax.plot(*minimum, marker="*", ms=13, ls="", color="black", zorder=3, label="minimum")
    ax.set_aspect("equal")
    ax.set_xlabel(str(x))
    ax.set_ylabel(str(y))
    ax.legend(frameon=False, fontsize=8, ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.32))
    ax.set_title(title, loc="left")
    return ax


def plot_decision(
    answers, ticks, points: pd.DataFrame, level: float = 0.5, title: str = "", ax: Axes | None = None
) -> Axes:
    """A network's answers on a square of inputs: blue below the level, orange above, a line where they meet.

    answers: (N,N), rows from the lowest second input up. ticks: (N), the inputs along both axes.
    points: columns first input, second input, wanted answer; their names label the axes and the colours.
    """
    from matplotlib.colors import LinearSegmentedColormap

    first, second, wanted = points.columns[:3]
    matrix = np.asarray(answers, np.float64)
    ax = _axes(ax, 6, 5)
    limit = max(np.abs(matrix - level).max(), np.abs(points[wanted] - level).max())
    colours = LinearSegmentedColormap.from_list("blue and orange", [BLUE, "white", ORANGE])
    scale = {"cmap": colours, "vmin": level - limit, "vmax": level + limit}
    image = ax.pcolormesh(ticks, ticks, matrix, shading="nearest", rasterized=True, **scale)
    ax.figure.colorbar(image, ax=ax, shrink=0.8, label="answer")
    if matrix.min() < level < matrix.max():
        line = ax.contour(ticks, ticks, matrix, levels=[level], colors="black", linewidths=1.2)
        ax.clabel(line, fmt=f"{level:g}")
    ax.scatter(points[first], points[second], c=points[wanted], s=110, edgecolors="black", zorder=3, **scale)
    for a, b, c in points[[first, second, wanted]].itertuples(index=False):
        ax.annotate(f"{wanted} {c:g}", (a, b), (9, 7), textcoords="offset points", fontsize=9)
    ax.set_aspect("equal")
    ax.set_xlabel(str(first))
    ax.set_ylabel(str(second))
    ax.set_title(title, loc="left")
    return ax
