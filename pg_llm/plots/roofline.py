"""The time spent per op, and how close each op comes to the machine's limits."""

from __future__ import annotations

from typing import Any

import pandas as pd
import psycopg
from matplotlib.axes import Axes

from pg_llm.notebook.frames import Frame, view
from pg_llm.plots.plots import BLUE, GREY, _axes

COLORS = {"prefill": BLUE, "decode": "#c8622a"}
SEEN, NAMED = 0.002, 0.03  # the share of the phase's time above which an op is drawn, and named


def explain(
    prompt: str = "Once upon a time",
    model: str | None = None,
    by: str = "part",
    repeats: int = 3,
    *,
    conn: psycopg.Connection | None = None,
) -> Frame:
    """The time of each op in prefill and in a decode step, one per row, and the statement's overhead.

    Columns phase, op, node, calls, microseconds, share, flops, bytes, gflops, of_peak, of_bandwidth.
    by: op (a row per kind of op), part (all layers in one row) or node. Errors: psycopg.Error.
    Example: pg_llm.explain("The capital of France is", by="op")
    """
    query = (
        "SELECT * FROM {0}.llm_explain(coalesce(%(model)s, {0}.llm_default_model()), %(prompt)s, %(by)s, "
        "%(repeats)s::int)"
    )
    return view(query, conn, model=model, prompt=prompt, by=by, repeats=repeats)


def roof(frame: pd.DataFrame) -> tuple[float, float]:
    """The peak (GFLOP/s) and bandwidth (GB/s) that the fractions in a result of explain divide by."""
    rows = frame[(frame["gflops"] > 0) & (frame["of_peak"] > 0) & (frame["of_bandwidth"] > 0)]
    if rows.empty:
        raise ValueError(
            "plot_roofline: no row tells the machine's peak; explain gives them where pg_llm.memory_limit "
            "leaves room to measure it"
        )
    best = rows.iloc[rows["of_peak"].argmax()]
    peak = best["gflops"] / best["of_peak"]
    best = rows.iloc[rows["of_bandwidth"].argmax()]
    return peak, best["bytes"] / best["microseconds"] / 1e3 / best["of_bandwidth"]


def plot_roofline(frame: pd.DataFrame, title: str = "", ax: Axes | None = None) -> Axes:
    """The roofline plot: GFLOP/s over arithmetic intensity (FLOP per byte), below the machine's limits.

    frame: pg_llm.explain(); a point is an op, its area the time spent. Points above the slope read from the
    cache instead of memory. Errors: ValueError where the frame does not tell the peak.
    """
    peak, bandwidth = roof(frame)
    timed = frame[frame["phase"].isin(COLORS) & (frame["flops"] > 0)]
    part = timed["microseconds"] / timed.groupby("phase")["microseconds"].transform("sum")
    rows = timed[part >= SEEN].assign(part=part, intensity=timed["flops"] / timed["bytes"])
    ax = _axes(ax, 7, 4.6)
    ax.set_xscale("log")
    ax.set_yscale("log")
    low, high = min(rows["intensity"].min() / 2, 0.05), max(2 * rows["intensity"].max(), 8 * peak / bandwidth)
    corner = peak / bandwidth
    ax.plot([low, corner, high], [low * bandwidth, peak, peak], color="#444", lw=1.5)
    ax.axvline(corner, color=GREY, lw=0.8, ls=":", zorder=0)
    for phase, color in COLORS.items():
        points = rows[rows["phase"] == phase]
        if len(points):
            ax.scatter(points["intensity"], points["gflops"], s=_area(points["part"]), color=color,
                       alpha=0.55, lw=0, label=phase, zorder=3)  # fmt: skip
    ax.set_xlim(low, high)
    ax.set_ylim(min(rows["gflops"].min(), low * bandwidth) / 1.5, max(rows["gflops"].max(), peak) * 2)
    _name(ax, rows)
    style: dict[str, Any] = {"textcoords": "offset points", "color": "#444", "fontsize": 9}
    ax.annotate(f"peak {peak:.0f} GFLOP/s", (high, peak), (0, 4), ha="right", **style)
    ax.annotate(f"memory {bandwidth:.0f} GB/s", (low, low * bandwidth), (26, 4), **style)
    ax.set_xlabel("operations for each byte moved")
    ax.set_ylabel("GFLOP/s")
    ax.legend(frameon=False, fontsize=9, loc="lower right", markerscale=0.5)
    ax.set_title(title, loc="left")
    return ax


def _area(part: pd.Series) -> pd.Series:
    """The area of a point, in square points, for a share of the phase's time."""
    return 15 + 700 * part


def _name(ax, rows: pd.DataFrame) -> None:
    """Writes names beside their points: left of those of a decode step, right of those of prefill.

    Points of one phase that lie together share a label, which lists them from top to bottom.
    """
    names = rows["node"].where(rows["node"].notna(), rows["op"]).astype(str)
    names = names.str.replace(r"^h\.\*\.|\.matmul$", "", regex=True)
    places = ax.transData.transform(rows[["intensity", "gflops"]].to_numpy(float)) * 72 / ax.figure.dpi
    named = rows.assign(name=names, x=places[:, 0], y=places[:, 1], radius=_area(rows["part"]) ** 0.5 / 2)
    named = named[named["part"] >= NAMED].sort_values("y", ascending=False)
    for phase, side in (("decode", -1), ("prefill", 1)):
        points = named[named["phase"] == phase]
        apart = (points["y"].diff().abs() > 16) | (points["x"].diff().abs() > 40)
        for _, near in points.groupby(apart.cumsum()):
            edge = (side * near["x"] + near["radius"]).max() + 2
            first = near.iloc[0]
            ax.annotate(
                "\n".join(near["name"]), (first["intensity"], first["gflops"]),
                (side * edge - first["x"], near["y"].mean() - first["y"]), textcoords="offset points",
                fontsize=8, ha="left" if side > 0 else "right", va="center",
            )  # fmt: skip
