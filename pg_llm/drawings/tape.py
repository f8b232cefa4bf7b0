"""Drawings of a tape: a slope, a graph with values, slopes and gradients, paths, the two passes, a network.

Each takes rows that a query returned, so that it draws what was computed and not a sketch of it.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pandas as pd

from pg_llm.drawings.svg import BLUE, GREY, INK, ORANGE, PAPER, Box, Drawing
from pg_llm.plots.tape_plot import Layered

WIDE, HIGH, COLUMN, ROW = 82.0, 40.0, 146.0, 76.0  # a node, and the distances between nodes, in pixels
SOFT, LEAF = "#dcebf6", "#eef0f2"


def slope(frame: pd.DataFrame, at: float = 3.0) -> Drawing:
    """The curve x * x with its tangent, and a line for the largest nudge of the rows.

    frame: columns nudge and slope, the largest nudge first; at: where the slope is asked for.
    """
    rows = [(float(nudge), float(value)) for nudge, value in frame[["nudge", "slope"]].to_numpy()]
    said = ", ".join(f"{_r(nudge)} gives {_r(value)}" for nudge, value in rows)
    drawing = Drawing(
        640, 330,
        f"The curve x * x near x = {_r(at)}. A nudge of {said}. The smaller the nudge, the closer the line "
        f"through two points of the curve comes to the tangent, whose slope is {_r(2 * at)}.",
        f"How steep is x · x at {_r(at)}?",
    )  # fmt: skip
    left, floor, across, up = 60, 285, 100.0, 11.0

    def place(x: float, y: float) -> tuple[float, float]:
        return left + across * x, floor - up * y

    drawing.line(place(0, 0), place(4.6, 0), colour=GREY)
    drawing.line(place(0, 0), place(0, 21), colour=GREY)
    for x in range(5):
        drawing.text(*place(x, -1.6), str(x), size=11)
    for y in (0, 5, 10, 15, 20):
        drawing.text(left - 8, floor - up * y + 4, str(y), size=11, anchor="end")
    drawing.text(*place(4.6, -2.9), "x", size=12)
    points = [place(x, x * x) for x in np.linspace(0, 4.5, 46)]
    for a, b in zip(points, points[1:], strict=False):
        drawing.line(a, b, colour=BLUE, width=2.6)
    drawing.line(place(at - 1.4, at * at - 1.4 * 2 * at), place(at + 1.4, at * at + 1.4 * 2 * at), width=1.6)
    nudge, steep = rows[0]
    far = (at + nudge) ** 2
    drawing.line(place(at, at * at), place(at + nudge, far), colour=ORANGE, width=2)
    drawing.line(place(at, at * at), place(at + nudge, at * at), colour=ORANGE, dashed=True)
    drawing.line(place(at + nudge, at * at), place(at + nudge, far), colour=ORANGE, dashed=True)
    drawing.text(*place(at + nudge / 2, at * at - 1.7), f"{_r(nudge)}", size=11.5, colour=ORANGE)
    middle = place(at + nudge, (at * at + far) / 2)
    drawing.text(middle[0] + 6, middle[1] + 4, _r(far - at * at), size=11.5, colour=ORANGE, anchor="start")
    drawing.text(*place(1.0, 3.2), "x · x", size=13, colour=BLUE)
    drawing.text(86, 62, f"black: the tangent, slope {_r(2 * at)}", size=12, anchor="start")
    for k, (nudge, value) in enumerate(rows):
        text = f"nudge {_r(nudge)}: slope {_r(value)}"
        drawing.text(86, 82 + 18 * k, text, size=12, anchor="start", colour=ORANGE if k == 0 else INK)
    return drawing


def graph(nodes: pd.DataFrame, edges: pd.DataFrame, title: str = "") -> Drawing:
    """A tape of numbers from left to right: a box for each tensor, an arrow for each use of it.

    nodes: columns tensor, label, value, and gradient where it is to be written below the box.
    edges: columns result, input, op, and slope where it is to be written on the arrow; a row for each use.
    Errors: ValueError without edges.
    """
    if edges.empty:
        raise ValueError("graph: there are no edges; is the run's number right?")
    places, uses, paths = _places(edges)
    about: dict[str, Any] = {str(row["tensor"]): row for row in nodes.to_dict("records")}
    ops = {str(row["result"]): str(row["op"]) for row in edges.to_dict("records")}
    boxes = {name: at for name, at in places.items() if isinstance(name, str)}
    width = max(max(x for x, _ in boxes.values()) + WIDE + 28, 8.8 * len(title) + 30)
    height = max(y for _, y in boxes.values()) + HIGH + (34 if "gradient" in nodes else 18)
    drawing = Drawing(width, height, _told(about, ops, edges, title), title)
    slopes = _slopes(edges)
    labels = []
    for path in paths:
        a, b = path[0], path[-1]
        count = uses[a, b]
        for k in range(count):
            aside = 13.0 * (2 * k - (count - 1)) if count > 1 else 0.0
            at = _use(drawing, [places[node] for node in path], aside)
            labels += [(*at, _r(slopes[a, b][k]))] if slopes else []
    for x, y, text in labels:
        _label(drawing, x, y, text, BLUE)
    for name, (x, y) in boxes.items():
        row, made = about.get(name, {}), name in ops
        box = drawing.box(x, y, WIDE, HIGH, "", fill=SOFT if made else LEAF, line=BLUE if made else GREY)
        label = str(row.get("label", "")) or ops.get(name, "")
        drawing.text(*_inside(box, 16), label, size=12.5, mono=True)
        drawing.text(*_inside(box, 32), _r(row["value"]) if row.get("value") is not None else "", size=12)
        gradient = row.get("gradient")
        if gradient is not None and not pd.isna(gradient):
            drawing.text(*_inside(box, HIGH + 15), _r(gradient), size=12, colour=ORANGE, bold=True)
    return drawing


def _inside(box: Box, down: float) -> tuple[float, float]:
    return box.x + box.width / 2, box.y + down


def _places(edges: pd.DataFrame) -> tuple[dict, Counter, list]:
    """The top left corner of each node (of a bend: of the box it would have), uses, and paths."""
    rows = [
        {"op": str(group["op"].iloc[0]), "name": str(result), "inputs": [str(i) for i in group["input"]],
         "shape": []}
        for result, group in edges.sort_values("result", kind="stable").groupby("result", sort=True)
    ]  # fmt: skip
    layered = Layered(pd.DataFrame(rows))
    across = layered.places()
    least = min(across.values())
    places = {node: (20 + COLUMN * depth, 44 + ROW * (across[node] - least))
              for node, depth in layered.depth.items()}  # fmt: skip
    return places, layered.uses, layered.paths


def _slopes(edges: pd.DataFrame) -> dict[tuple[str, str], list[float]]:
    found: dict[tuple[str, str], list[float]] = {}
    if "slope" in edges:
        for row in edges.to_dict("records"):
            found.setdefault((str(row["input"]), str(row["result"])), []).append(float(row["slope"]))
    return found


def _use(drawing: Drawing, corners: list[tuple[float, float]], aside: float) -> tuple[float, float]:
    """An arrow from the first node to the last, past the bends between; returns where its label belongs.

    aside: pixels off the straight way, for one of several arrows between two nodes.
    """
    middles = [(x + WIDE / 2, y + HIGH / 2) for x, y in corners]
    start = (corners[0][0] + WIDE, middles[0][1] + aside / 3)
    end = (corners[-1][0] - 1, middles[-1][1] + aside / 3)
    x, y = (start[0] + end[0]) / 2, (start[1] + end[1]) / 2
    length = math.dist(start, end)
    across = (end[1] - start[1]) / length, (start[0] - end[0]) / length
    bend = -aside
    if len(middles) > 2:
        bx, by = np.mean(middles[1:-1], axis=0)
        bend = 1.15 * ((bx - x) * across[0] + (by - y) * across[1])
    drawing.arrow(start, end, colour=GREY, bend=bend)
    return x + bend * across[0], y + bend * across[1]


def _label(drawing: Drawing, x: float, y: float, text: str, colour: str = INK) -> None:
    """A number in the middle of a line, on a piece of paper of its own."""
    wide = 6.6 * len(text) + 3
    drawing.box(x - wide / 2, y - 8, wide, 16, fill=PAPER, line=PAPER)
    drawing.text(x, y + 4, text, size=11.5, colour=colour)


def _told(about: dict, ops: dict[str, str], edges: pd.DataFrame, title: str) -> str:
    """The graph in words."""

    def name(tensor: object) -> str:
        row = about.get(str(tensor), {})
        return str(row.get("label", "") or ops.get(str(tensor), tensor))

    parts = []
    for result, group in edges.groupby("result", sort=True):
        inputs = " and ".join(
            name(i) + (f" (slope {_r(s)})" if s is not None else "")
            for i, s in zip(group["input"], group.get("slope", [None] * len(group)), strict=True)
        )
        row = about.get(str(result), {})
        value = f" = {_r(row['value'])}" if row.get("value") is not None else ""
        gradient = row.get("gradient")
        told = f", gradient {_r(gradient)}" if gradient is not None and not pd.isna(gradient) else ""
        parts.append(f"{name(result)}{value}{told} from {inputs}")
    leaves = [row for key, row in about.items() if key not in ops]
    given = ", ".join(f"{row['label']} = {_r(row['value'])}" for row in leaves)
    return f"{title or 'A tape as a graph'}. Inputs: {given}. " + "; ".join(parts) + "."


def doublings(frame: pd.DataFrame) -> Drawing:
    """A number that is added to itself again and again: two arrows a step, and how many paths lead to each.

    frame: columns tensor, paths, from the input to the result.
    """
    counts = [int(n) for n in frame["paths"]]
    n = len(counts)
    step = min(58.0, 740 / n)
    drawing = Drawing(
        n * step + 30, 178,
        f"A chain of {n} numbers, each the sum of the one before and itself, so that two arrows lead from "
        f"each to the next. Paths from the result to each, from right to left: "
        f"{', '.join(f'{c:,}' for c in reversed(counts))}. The backward pass visits {n - 1} rows.",
        f"{n - 1} additions: {counts[0]:,} paths, {n - 1} rows",
    )  # fmt: skip
    y, wide = 92.0, step - 24
    for k, count in enumerate(counts):
        x = 15 + k * step
        name = "x" if k == 0 else "+"
        box = drawing.box(x, y, wide, 30, name, fill=LEAF if k == 0 else SOFT, line=GREY if k == 0 else BLUE)
        drawing.text(box.top[0], y - 14, f"{count:,}", size=11.5, colour=ORANGE, bold=True)
        if k:
            for bend in (6, -6):
                drawing.arrow((x - 24, y + 15 - bend / 2), (x - 1, y + 15 - bend / 2), bend=bend, colour=GREY)
    drawing.text(
        15, 58, "paths from the result down to each number", size=11.5, colour=ORANGE, anchor="start"
    )
    drawing.arrow((15 + (n - 1) * step + wide, 143), (15, 143), colour=BLUE, width=2)
    drawing.text(15 + n * step / 2, 163, f"one backward pass: {n - 1} rows, each once", size=12, colour=BLUE)
    return drawing


def passes(rows: pd.DataFrame) -> Drawing:
    """The rows of a tape with both passes: forward writes values from the top, backward gradients from below.

    rows: columns op, inputs, output (names), value, gradient, in the order of the tape.
    """
    records = rows.to_dict("records")
    line = 34.0
    top, bottom = 92.0, 92.0 + line * len(records)
    said = "; ".join(
        f"{r['output']} = {r['op']}({', '.join(r['inputs'])}) = {_r(r['value'])}, "
        f"gradient {_r(r['gradient'])}"
        for r in records
    )
    drawing = Drawing(
        776, bottom + 44,
        f"The {len(records)} rows of a tape. The forward pass runs down and writes a value in each row; the "
        f"backward pass runs up through the same rows and adds to the gradients of their inputs: {said}.",
        "Two passes over the same rows",
    )  # fmt: skip
    columns = [(60, "row"), (100, "op"), (170, "reads"), (300, "makes"), (390, "value"),
               (480, "its gradient"), (590, "passes parts on to")]  # fmt: skip
    for x, title in columns:
        drawing.text(x, 74, title, size=12, bold=True, anchor="start",
                     colour={"value": BLUE, "its gradient": ORANGE}.get(title, INK))  # fmt: skip
    for k, row in enumerate(records):
        y = top + line * k
        drawing.box(48, y, 690, line - 6, "", fill="#ffffff", line="#d5d9dd")
        cells = [str(k + 1), str(row["op"]), ", ".join(row["inputs"]), str(row["output"]), _r(row["value"]),
                 _r(row["gradient"]), ", ".join(i for i in row["inputs"] if not _is_number(i))]  # fmt: skip
        for (x, title), text in zip(columns, cells, strict=True):
            colour = {"value": BLUE, "its gradient": ORANGE}.get(title, INK)
            drawing.text(x, y + 19, text, size=12, mono=title not in ("row",), anchor="start", colour=colour)
    drawing.arrow((28, top), (28, bottom - 6), colour=BLUE, width=2.4)
    drawing.text(18, (top + bottom) / 2, "forward", size=12.5, colour=BLUE, turn=-90)
    drawing.arrow((748, bottom - 6), (748, top), colour=ORANGE, width=2.4)
    drawing.text(762, (top + bottom) / 2, "backward", size=12.5, colour=ORANGE, turn=-90)
    note = "blue, down: the forward pass writes values; orange, up: the backward pass adds gradients"
    drawing.text(48, bottom + 22, note, size=11.5, anchor="start", colour="#555")
    return drawing


def network(weights: pd.DataFrame, title: str = "") -> Drawing:
    """A network of two layers: a line for each weight, blue above zero, orange below, wide where it is large.

    weights: columns name and w with the rows w1 (I,H), b1 (H), w2 (H,O), b2 (O).
    """
    by_name = {str(row["name"]): np.asarray(row["w"], np.float64) for row in weights.to_dict("records")}
    w1, w2 = np.atleast_2d(by_name["w1"]), np.atleast_2d(by_name["w2"])
    b1, b2 = by_name["b1"].reshape(-1), by_name["b2"].reshape(-1)
    limit = max(abs(w1).max(), abs(w2).max())
    sizes = [w1.shape[0], w1.shape[1], w2.shape[1]]
    tall = 74.0 * max(sizes) + 70
    said = "; ".join(
        f"hidden {j}: weights {', '.join(_r(v) for v in w1[:, j])}, bias {_r(b1[j])}, "
        f"to the answer {_r(w2[j, 0])}"
        for j in range(sizes[1])
    )
    drawing = Drawing(
        520, tall,
        f"{title or 'A network'}: {sizes[0]} inputs, {sizes[1]} neurons with tanh, {sizes[2]} answer. "
        f"{said}.",
        title,
    )  # fmt: skip

    def centre(layer: int, k: int) -> tuple[float, float]:
        return 60 + 195.0 * layer, 38 + (tall - 70) * (k + 0.5) / sizes[layer]

    labels = []
    for layer, weight in ((0, w1), (1, w2)):
        for i, j in np.ndindex(*weight.shape):
            value = float(weight[i, j])
            (x0, y0), (x1, y1) = centre(layer, i), centre(layer + 1, j)
            colour = BLUE if value >= 0 else ORANGE
            drawing.line((x0 + 18, y0), (x1 - 18, y1), colour=colour, width=0.6 + 6 * abs(value) / limit)
            part = 0.4 if layer else 0.58 + 0.24 * (i % 2)
            at = x0 + 18 + (x1 - x0 - 36) * part, y0 + (y1 - y0) * part
            labels.append((*at, f"{value:.2f}".replace("-", "−")))
    for x, y, text in labels:
        _label(drawing, x, y, text)
    for layer, names in enumerate((["x₁", "x₂", *["x"] * 9], ["tanh"] * 99, ["y"] * 9)):
        for k in range(sizes[layer]):
            x, y = centre(layer, k)
            bias = None if layer == 0 else (b1, b2)[layer - 1][k]
            drawing.box(x - 20, y - 15, 40, 30, names[k], fill=LEAF if layer == 0 else SOFT,
                        line=GREY if layer == 0 else BLUE, size=12)  # fmt: skip
            if bias is not None:
                drawing.text(x, y + 28, f"{bias:.2f}".replace("-", "−"), size=11, colour="#555")
    note = "numbers on lines: weights; below a neuron: its bias"
    drawing.text(14, tall - 8, note, size=10.5, anchor="start", colour="#555")
    return drawing


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _r(value: Any) -> str:
    """At most four significant digits, with a minus sign that is one.

    >>> _r(3.0), _r(-0.39562), _r(4096), _r(1e-9)
    ('3', '−0.3956', '4,096', '0')
    """
    value = float(value)
    if abs(value) < 5e-7:
        return "0"
    digits = max(0, 3 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{digits}f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text).replace("-", "−")
