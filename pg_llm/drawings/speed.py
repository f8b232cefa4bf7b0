"""Drawings about speed: the ladder of kernels, the traffic of a product, batches, rounding, fewer bits."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from pg_llm.drawings.svg import BLUE, GREY, INK, ORANGE, Drawing

SOFT_BLUE, SOFT_ORANGE = "#cfe3f1", "#fbe3d2"
RUNGS = [
    ("1 naive", "three loops: down one\ncolumn of b at a time"),
    ("2 blocked", "eight sums at once; a part\nof b stays in the cache"),
    ("3 packed", "b is copied into the order\nin which it is read"),
    ("4 vector", "8 or 16 columns in one\ninstruction"),
    ("5 threads", "each core takes rows and\ncolumns of its own"),
]
# the cells of b (row, column) that are read first, in their order, for each rung
ORDERS = [
    [(i, 0) for i in range(8)],
    [(i, j) for i in range(4) for j in range(4)],
    [(i, j) for i in range(4) for j in range(4)],
    [(i, j) for i in range(4) for j in range(8)],
    [(i, j) for i in range(4) for j in range(8)],
]


def ladder() -> Drawing:
    """What each rung of the ladder of kernels changes in the way the matrix b is read."""
    said = "; ".join(f"{name}: {text}".replace("\n", " ") for name, text in RUNGS)
    d = Drawing(
        860, 262,
        f"Five ways to read the matrix b of a product a @ b. {said}. "
        "Blue cells are read by one core, orange ones by the other; a line shows their order.",
        title="Five rungs: how b is read",
    )  # fmt: skip
    cell, top = 15, 56
    for k, ((name, text), order) in enumerate(zip(RUNGS, ORDERS, strict=True)):
        x = 24 + 168 * k
        d.text(x, top - 10, name, size=13, bold=True, anchor="start")
        rows, columns = (4, 8) if k == 2 else (8, 8)
        taken = {place: SOFT_BLUE for place in order}
        if k == 4:
            taken |= {(i + 4, j): SOFT_ORANGE for i, j in order}
        for i in range(rows):
            for j in range(columns):
                fill = taken.get((i, j), "#ffffff")
                d.box(x + j * cell, top + i * cell, cell, cell, fill=fill, line="#b8c0c8")
        if k == 0:
            d.arrow((x + 7.5, top + 4), (x + 7.5, top + 8 * cell - 4), colour=BLUE)
        else:
            width = cell * (8 if k > 2 else 4)
            for i in range(4):
                y = top + (i + 0.5) * cell
                d.arrow((x + 4, y), (x + width - 4, y), colour=BLUE, width=1.2 if k < 3 else 2.4)
                if k == 4:
                    d.arrow((x + 4, y + 4 * cell), (x + width - 4, y + 4 * cell), colour=ORANGE, width=2.4)
        if k == 2:
            d.text(x, top + 4 * cell + 20, "the panel, one stream", size=11, anchor="start", colour="#4a5560")
        d.text(x, top + 8 * cell + 24, text, size=12, anchor="start")
    return d


def traffic(k: int, n: int, tokens: int) -> Drawing:
    """FLOPs and bytes of (1,k) @ (k,n), one new token, beside (tokens,k) @ (k,n), a prompt."""
    cases = [(1, "one new token"), (tokens, f"a prompt of {tokens} tokens")]
    costs = [(2 * t * k * n, 4 * (t * k + k * n + t * n)) for t, _ in cases]
    said = "; ".join(f"{name}: {flops:,} FLOPs, {moved:,} bytes, {flops / moved:.1f} FLOPs for each byte"
                     for (_, name), (flops, moved) in zip(cases, costs, strict=True))  # fmt: skip
    d = Drawing(820, 250, f"The same weights ({k},{n}) in two products. {said}.",
                title=f"The same ({k},{n}) weights, read once")  # fmt: skip
    for c, ((t, name), (flops, moved)) in enumerate(zip(cases, costs, strict=True)):
        x, y, high = 30 + 400 * c, 66, 5 if t == 1 else 76
        d.text(x, 52, name, size=13, bold=True, anchor="start")
        a = d.box(x, y + 38 - high / 2, 62, high, fill=SOFT_ORANGE, line=ORANGE)
        d.text(x + 82, y + 43, "@", size=15)
        w = d.box(x + 102, y, 110, 76, "weights", fill=SOFT_BLUE)
        d.text(x + 232, y + 43, "=", size=15)
        out = d.box(x + 250, y + 38 - high / 2, 110, high, fill=SOFT_ORANGE, line=ORANGE)
        for box, label in ((a, f"({t},{k})"), (w, f"({k},{n})"), (out, f"({t},{n})")):
            d.text(box.x + box.width / 2, y + 96, label, size=11, mono=True)
        d.text(x, 192, f"{flops:,} FLOPs", size=13, anchor="start")
        d.text(x + 160, 192, f"{moved:,} bytes", size=13, anchor="start")
        d.text(x, 222, f"{flops / moved:.1f} FLOPs for each byte", size=15, bold=True, anchor="start",
               colour=ORANGE if t == 1 else BLUE)  # fmt: skip
    return d


def batch(frame: pd.DataFrame) -> Drawing:
    """What a step of decoding reads, by the number of texts that share it, and how many tokens that allows.

    frame: columns sequences, weights and caches (bytes that a step reads), at_most (tokens per second).
    """
    columns = [frame[name].tolist() for name in ("sequences", "weights", "caches", "at_most")]
    rows = [(n, caches / (caches + weights), rate) for n, weights, caches, rate in zip(*columns, strict=True)]
    said = "; ".join(f"{n} texts: {100 * s:.0f} % for caches, {rate:.1f} tokens per second at most"
                     for n, s, rate in rows)  # fmt: skip
    d = Drawing(760, 74 + 38 * len(rows), f"What a step of decoding reads. {said}.",
                title="One reading of the weights for all texts, one cache for each")  # fmt: skip
    left, width = 100, 470
    d.text(left - 14, 52, "texts", size=12, anchor="end", colour="#4a5560")
    d.text(left, 52, "share of the bytes of a step", size=12, anchor="start", colour="#4a5560")
    d.text(left + width + 20, 52, "tokens per second", size=12, anchor="start", colour="#4a5560")
    for k, (n, share, rate) in enumerate(rows):
        y, weights = 64 + 38 * k, width * (1 - share)
        d.text(left - 14, y + 18, f"{n:,}", anchor="end", bold=True)
        d.box(left, y, weights, 26, "weights" if share < 0.8 else "", fill=SOFT_BLUE)
        label = f"caches {100 * share:.0f} %" if share > 0.2 else f"{100 * share:.0f} %"
        d.box(left + weights, y, width * share, 26, label, fill=SOFT_ORANGE, line=ORANGE, size=12)
        d.text(left + width + 20, y + 18, f"{rate:.1f}", anchor="start", bold=True, size=15)
    return d


def rounding(weights: Sequence[float], levels: Sequence[int], name: str = "a row") -> Drawing:
    """Weights of a row as dots on a line, and the values that remain with so many levels on each side.

    weights: the row, whose largest magnitude sets the scale. levels: 127 for 8 bits, 7 for 4, 1 for 2.
    Errors: ValueError for a row of zeros.
    """
    top = max((abs(float(w)) for w in weights), default=0.0)
    if top == 0:
        raise ValueError("rounding: the row has no number other than 0")
    lines = []
    for level in levels:
        scale = top / level
        rounded = [round(float(w) / scale) * scale for w in weights]
        error = math.sqrt(
            sum((float(w) - r) ** 2 for w, r in zip(weights, rounded, strict=True)) / len(rounded)
        )
        lines.append((level, len(set(rounded)), error, rounded))
    said = "; ".join(f"{2 * level + 1} values possible, {used} used, root mean square error {error:.4f}"
                     for level, used, error, _ in lines)  # fmt: skip
    d = Drawing(
        820, 92 + 62 * len(lines),
        f"{len(weights)} weights of {name}, from {min(weights):.3f} to {max(weights):.3f}, and what rounding "
        f"leaves of them. {said}.",
        title=f"{len(weights)} weights of {name}, and the values that are left",
    )  # fmt: skip
    left, right = 190, 640

    def place(value: float) -> float:
        return left + (right - left) * (value + top) / (2 * top)

    for row, (level, used, error, rounded) in enumerate([(0, 0, 0.0, list(weights)), *lines]):
        y = 66 + 62 * row
        d.line((left, y), (right, y), colour=GREY, width=1)
        if level:
            bits = math.ceil(math.log2(2 * level + 1))
            d.text(20, y + 5, f"{bits} bits, {2 * level + 1} values", size=12, anchor="start")
            d.text(right + 16, y + 5, f"{used} used, error {error:.4f}", size=12, anchor="start")
            if level <= 31:
                for q in range(-level, level + 1):
                    d.line((place(q * top / level), y - 9), (place(q * top / level), y + 9), colour="#b8c0c8")
        else:
            d.text(20, y + 5, "32 bits", size=12, anchor="start")
        for value in sorted(set(rounded)):
            x = place(value)
            d.line((x, y - 6), (x, y + 6), colour=ORANGE if level else BLUE, width=1.6 if level else 1)
    d.text(left, 86 + 62 * len(lines), f"{-top:.3f}".replace("-", "−"), size=11)
    d.text(place(0), 86 + 62 * len(lines), "0", size=11)
    d.text(right, 86 + 62 * len(lines), f"{top:.3f}", size=11)
    return d


def price(frame: pd.DataFrame) -> Drawing:
    """The rise of the perplexity with fewer bits, in percent: a point for each model and number of bits.

    frame: columns bits, then a column of fractions for each model (0.1: a tenth higher), at most three.
    The axis is logarithmic: values run from hundredths of a percent to hundreds. Errors: ValueError.
    """
    bits, *models = frame.columns
    if not 1 <= len(models) <= 3:
        raise ValueError(f"price: {len(models)} columns after bits; one to three models can be drawn")
    low, high = 0.001, 10000.0
    said = "; ".join(
        f"{row[bits]:.0f} bits: " + ", ".join(f"{name} {100 * row[name]:+.2f} %" for name in models)
        for _, row in frame.iterrows()
    )
    d = Drawing(760, 330, f"The rise of the perplexity when weights have fewer bits. {said}.",
                title="What fewer bits cost: rise of the perplexity")  # fmt: skip
    left, right, top, bottom = 84, 730, 52, 262

    def height(value: float) -> float:
        share = math.log10(min(high, max(low, value)) / low) / math.log10(high / low)
        return bottom - (bottom - top) * share

    for power in range(-3, 5):
        y = height(10.0**power)
        d.line((left, y), (right, y), colour="#e2e4e6", width=1)
        d.text(left - 8, y + 4, f"{10.0**power:g} %", size=11, anchor="end")
    colours = (BLUE, ORANGE, GREY)
    step = (right - left) / len(frame)
    for g, (_, row) in enumerate(frame.iterrows()):
        middle = left + (g + 0.5) * step
        d.text(middle, bottom + 20, f"{row[bits]:.0f} bits", size=12)
        for m, name in enumerate(models):
            x = middle + (m - (len(models) - 1) / 2) * 48
            value = 100 * float(row[name])
            y = height(value)
            d.box(x - 5, y - 5, 10, 10, fill=colours[m], line=colours[m])
            d.text(x, y - 10, _percent(value), size=11, colour=colours[m])
    d.line((left, bottom), (right, bottom), colour=INK)
    d.text(right, bottom + 50, "logarithmic axis", size=11, anchor="end", colour="#4a5560")
    for m, name in enumerate(models):
        d.box(left + 170 * m, bottom + 40, 10, 10, fill=colours[m], line=colours[m])
        d.text(left + 20 + 170 * m, bottom + 50, name, size=12, anchor="start")
    return d


def _percent(value: float) -> str:
    """A percentage with two digits that count; what is below the axis, or negative, as such."""
    if value < 0.001:
        return "≤ 0"
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"
