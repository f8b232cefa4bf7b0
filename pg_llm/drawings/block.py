"""Drawings of a transformer block: residual stream, layer norm, GELU, MLP, positions, parameters.

Each takes rows that a query returned, so that it draws the model at hand and not a sketch of one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from pg_llm.drawings.svg import BLUE, GREY, INK, ORANGE, Drawing, shade

SOFT = {"layernorm": "#eef0f2", "attention": "#cfe3f3", "gelu": "#f8dfcf", "relu": "#f8dfcf"}
PARTS = {"embeddings": GREY, "attention": BLUE, "mlp": ORANGE, "norms": INK}
LEVELS = 8  # shades on each side of zero


class _Sheet(Drawing):
    """A drawing with shapes of many points, written as one path each."""

    def path(self, data: str, fill="none", line="none", width: float = 1.4, dash="") -> None:
        dashes = f' stroke-dasharray="{dash}"' if dash else ""
        self._add(f'<path d="{data}" fill="{fill}" stroke="{line}" stroke-width="{width}"{dashes}/>')

    def curve(self, points, colour: str, width: float = 2, dash: str = "") -> None:
        self.path("M" + " L".join(f"{_n(x)} {_n(y)}" for x, y in points), line=colour, width=width, dash=dash)

    def bars(self, x: float, base: float, values, step: float, scale: float, colour: str) -> None:
        """A bar for each value, up or down from the base line, scale pixels for 1."""
        wide = _n(max(step - 0.4, step * 0.75))
        self.path("".join(f"M{_n(x + k * step)} {_n(base)}v{_n(-v * scale)}h{wide}v{_n(v * scale)}z"
                          for k, v in enumerate(values)), fill=colour)  # fmt: skip

    def cells(self, x: float, y: float, values, columns: int, size: float, limit: float) -> None:
        """A grid of small cells without numbers: blue above zero, orange below, white at zero."""
        groups: dict[int, list[str]] = {}
        for k, value in enumerate(values):
            level = round(max(-1.0, min(1.0, float(value) / limit)) * LEVELS)
            left, top = x + k % columns * size, y + k // columns * size
            groups.setdefault(level, []).append(f"M{_n(left)} {_n(top)}h{_n(size)}v{_n(size)}h{_n(-size)}z")
        for level in sorted(groups):
            self.path("".join(groups[level]), fill=shade(level / LEVELS))
        wide, high = _n(columns * size), _n(-(-len(values) // columns) * size)
        self.path(f"M{_n(x)} {_n(y)}h{wide}v{high}h-{wide}z", line=GREY, width=0.8)


def residual(nodes: pd.DataFrame) -> Drawing:
    """A block of a model along its residual stream, from its rows of llm_graph.

    nodes: columns name, op, inputs, shape, the rows of one block that are not parameters, in their order.
    A matmul and the add of its bias are one box; dropout is left out. Errors: ValueError without a
    residual sum.

    >>> residual(pg_llm.sql("SELECT name, op, inputs, shape FROM llm_graph …"))  # doctest: +SKIP
    """
    rows: dict[str, Any] = {str(row.name): row for row in nodes.itertuples(index=False)}
    branches, stream = _branches(rows)
    if not branches:
        raise ValueError("residual: these rows add nothing to a stream; choose those of one block")
    wide, gap, left = 79, 13, 46
    longest = max(len(boxes) for boxes, _ in branches)
    span = longest * (wide + gap) + 18
    width = left + len(branches) * span + 40
    names = [[row.name for row in boxes] for boxes, _ in branches]
    ends = [end for _, end in branches]
    said = "; ".join(f"{' to '.join(n)}, added back as {end}" for n, end in zip(names, ends, strict=True))
    drawing = _Sheet(
        width, 268,
        f"A block along its residual stream, which begins as {stream}: a branch reads the stream, "
        f"computes and adds its result to it. {said}.",
        "A block reads from its stream and adds to it",
    )  # fmt: skip
    base, top = 210, 70
    shape = _shape(rows[branches[-1][1]].shape)
    drawing.line((20, base), (width - 30, base), colour=BLUE, width=7)
    drawing.arrow((width - 34, base), (width - 12, base), colour=BLUE, width=7)
    drawing.text(24, base + 26, stream, size=12, mono=True, anchor="start")
    below = f"the residual stream, {shape}: one vector for each token"
    drawing.text(width / 2, base + 46, below, size=12, colour=BLUE)
    for k, (boxes, end) in enumerate(branches):
        x = left + k * span
        for m, row in enumerate(boxes):
            label = f"{row.name.split('.', 2)[-1]}\n{_op(row, rows)}\n{_shape(row.shape)}"
            at = x + m * (wide + gap)
            drawing.box(at, top, wide, 62, label, size=10.5, fill=SOFT.get(row.op, "#ffffff"))
            if m:
                drawing.arrow((at - gap, top + 31), (at, top + 31))
        drawing.arrow((x + wide / 2, base - 4), (x + wide / 2, top + 62), colour=INK)
        drawing.text(x + wide / 2 - 6, base - 30, "reads", size=11, anchor="end", colour="#555")
        right = x + len(boxes) * (wide + gap) - gap - wide / 2
        drawing.arrow((right, top + 62), (right, base - 11), colour=ORANGE, width=2)
        drawing.text(right - 8, base - 30, "adds", size=11, anchor="end", colour=ORANGE)
        drawing.box(right - 11, base - 11, 22, 22, "+", fill="#ffffff", size=16)
        drawing.text(right, base + 26, end, size=12, mono=True)
    return drawing


def _branches(rows: dict[str, Any]) -> tuple[list[tuple[list, str]], str]:
    """Each branch of a block, its boxes and the sum it ends in; and where the stream begins."""
    first = next(row for row in rows.values() if row.inputs[0] not in rows)
    stream = first.inputs[0]
    on_stream, branches = {stream}, []
    boxes: list[Any]
    for row in rows.values():
        if row.op != "add" or row.inputs[0] not in on_stream:
            continue
        boxes, name = [], row.inputs[1]
        while name in rows and name not in on_stream:
            node = rows[name]
            if node.op != "dropout":
                boxes.insert(0, node)
            name = rows[node.inputs[0]].inputs[0] if _biased(node, rows) else node.inputs[0]
        branches.append((boxes, row.name))
        on_stream.add(row.name)
    return branches, stream


def _biased(row, rows: dict) -> bool:
    """Whether the row adds a bias to a product."""
    return row.op == "add" and row.inputs[0] in rows and rows[row.inputs[0]].op == "matmul"


def _op(row, rows: dict) -> str:
    return "@ and bias" if _biased(row, rows) else row.op


def _shape(shape: Sequence[str]) -> str:
    return "(" + ",".join(shape).replace("*", "") + ")"


def depth(frame: pd.DataFrame, floor: float, low: float = 0.7, high: float = 1.1) -> Drawing:
    """Training losses of models that differ in their number of layers, over the step, and the floor.

    frame: columns layers, step, loss. The vertical axis runs from low to high; what lies above is cut off.
    """
    last = {int(str(n)): rows.sort_values("step") for n, rows in frame.groupby("layers")}
    steps = float(frame["step"].max())
    ends = {n: float(rows["loss"].tail(20).mean()) for n, rows in last.items()}
    said = ", ".join(f"{n} layer{'s' * (n > 1)} {end:.3f}" for n, end in ends.items())
    drawing = _Sheet(
        760, 400,
        f"Training loss over {steps:,.0f} steps, axis {low} to {high} nats per token: at the end {said}; "
        f"the floor is {floor:.3f}.",
        "Training loss of the same model with 1, 2 and 4 layers",
    )  # fmt: skip
    left, right, top, bottom = 62, 620, 50, 345

    def place(step: float, loss: float) -> tuple[float, float]:
        return left + (right - left) * step / steps, bottom - (bottom - top) * (loss - low) / (high - low)

    for k in range(round((high - low) / 0.1) + 1):
        y = place(0, low + 0.1 * k)[1]
        drawing.line((left, y), (right, y), colour="#e2e4e6", width=1)
        drawing.text(left - 8, y + 4, f"{low + 0.1 * k:.1f}", size=11, anchor="end")
    for k in range(6):
        x = place(steps * k / 5, low)[0]
        drawing.line((x, bottom), (x, bottom + 4), colour=GREY)
        drawing.text(x, bottom + 18, f"{steps * k / 5:,.0f}", size=11)
    colours = dict(zip(last, ("#3d9ad1", ORANGE, BLUE), strict=False))
    for n, rows in last.items():
        points = [place(*pair) for pair in zip(rows["step"], rows["loss"], strict=True)]
        inside = [k for k, (_, y) in enumerate(points) if y >= top]
        drawing.curve(points[inside[0] :], colours[n], 1.8)
        y = place(steps, ends[n])[1] + {1: 4, 2: 0, 4: 6}.get(n, 4)
        drawing.text(
            right + 8, y, f"{n} layer{'s' * (n > 1)}: {ends[n]:.3f}", colour=colours[n], anchor="start"
        )
    y = place(0, floor)[1]
    drawing.line((left, y), (right, y), colour=INK, dashed=True)
    drawing.text(right + 8, y + 19, f"floor: {floor:.3f}", anchor="start")
    drawing.text((left + right) / 2, bottom + 40, "training step", size=12)
    drawing.text(18, (top + bottom) / 2, "loss, nats per token", size=12, turn=-90)
    note = f"The axis begins at {low}, not at 0; losses above {high} (the first steps) are cut off."
    drawing.text(left, top - 10, note, size=10.5, anchor="start", colour="#555")
    return drawing


def layer_norm(x, gamma, beta, name: str = "", eps: float = 1e-5) -> Drawing:
    """The four moves of layer norm on the vector of one token: a bar for each channel."""
    x, gamma, beta = (np.asarray(v, np.float64).reshape(-1) for v in (x, gamma, beta))
    mean, var = x.mean(), x.var()
    centred, scaled = x - mean, (x - mean) / math.sqrt(var + eps)
    steps = [("x, as it comes", x), ("minus its mean", centred), ("divided by √(variance + ε)", scaled),
             ("times γ, plus β", scaled * gamma + beta)]  # fmt: skip
    numbers = "; ".join(f"{title}: mean {_r(v.mean())}, deviation {_r(v.std())}" for title, v in steps)
    of = f" of {name}" if name else ""
    panel, half = 176, 62
    about = f"Layer norm on one vector{of}, {len(x)} channels as bars. {numbers}."
    drawing = _Sheet(4 * panel + 44, 250, about, f"Layer norm on one vector{of}")
    before, after = (max(abs(a[1]).max(), abs(b[1]).max()) for a, b in (steps[:2], steps[2:]))
    limits = [before, before, after, after]
    for k, ((title, values), limit) in enumerate(zip(steps, limits, strict=True)):
        left, base = 24 + k * panel, 128
        plot = panel - 26
        drawing.box(left, base - half - 4, plot, 2 * half + 8, fill="#ffffff", line="#d5d9dd")
        spread = values.std() * half / limit
        middle = base - values.mean() * half / limit
        drawing.box(left, middle - spread, plot, 2 * spread, fill="#f6e3d7", line="#f6e3d7")
        drawing.bars(left + 2, base, values, (plot - 4) / len(values), half / limit, BLUE)
        drawing.line((left, middle), (left + plot, middle), colour=ORANGE, width=1.4)
        drawing.text(left + plot / 2, 50, title, size=12)
        below = f"mean {_r(values.mean())}, sd {_r(values.std())}"
        drawing.text(left + plot / 2, base + half + 22, below, size=11)
        drawing.text(left + 3, base - half + 6, _r(limit), size=9, anchor="start", colour="#555")
        if k:
            drawing.arrow((left - 23, base), (left - 4, base))
    note = "orange: the mean, and one standard deviation on both sides; 1 and 2 share a scale, as do 3 and 4"
    drawing.text(24, 238, note, size=10.5, anchor="start", colour="#555")
    return drawing


def gelu(values) -> Drawing:
    """GELU's curve with ReLU dashed, above a histogram of the values that a run really puts into it."""
    values = np.asarray(values, np.float64).reshape(-1)
    negative = float((values < 0).mean())
    drawing = _Sheet(
        560, 380,
        "GELU, by tanh as GPT-2 computes it, from -4 to 4: close to 0 on the far left, -0.17 at its lowest "
        "near -0.75, 0 at 0, close to x on the right; ReLU as a dashed line. Below, a histogram of the run's "
        f"{len(values):,} values: {negative:.0%} are below 0.",
        "GELU, and what it is given",
    )  # fmt: skip
    left, right, zero, unit, scale = 60, 530, 205, (530 - 60) / 8, 38

    def place(v):
        return left + (v + 4) * unit, zero

    xs = np.linspace(-4, 4, 161)
    ys = 0.5 * xs * (1 + np.tanh(math.sqrt(2 / math.pi) * (xs + 0.044715 * xs**3)))
    for y in range(0, 5):
        drawing.line((left, zero - y * scale), (right, zero - y * scale), colour="#e2e4e6", width=1)
        drawing.text(left - 8, zero - y * scale + 4, str(y), size=11, anchor="end")
    drawing.curve([(place(v)[0], zero - max(v, 0) * scale) for v in (-4, 0, 4)], ORANGE, 1.6, "5 4")
    drawing.curve([(place(x)[0], zero - y * scale) for x, y in zip(xs, ys, strict=True)], BLUE, 2.6)
    drawing.text(place(2.2)[0], zero - 2.9 * scale, "gelu(x)", size=13, colour=BLUE, anchor="end")
    drawing.text(place(-2.1)[0], zero - 10, "relu(x), dashed", size=12, colour=ORANGE)
    counts, edges = np.histogram(np.clip(values, -3.999, 3.999), bins=64, range=(-4, 4))
    floor, tall = 350, 95
    drawing.bars(left, floor, counts, (right - left) / 64, tall / max(counts.max(), 1), "#7fa9cc")
    drawing.line((left, floor), (right, floor), colour=GREY, width=1)
    drawing.line((place(0)[0], zero - 4 * scale), (place(0)[0], floor), colour=GREY, width=1, dashed=True)
    for v in range(-4, 5):
        drawing.text(place(v)[0], floor + 17, str(v).replace("-", "−"), size=11)
    note = f"{len(values):,} values of a run,\n{negative:.0%} of them below 0"
    drawing.text(place(4)[0], floor - tall + 6, note, size=11, anchor="end", colour="#555")
    return drawing


def mlp(x, hidden, act, out, name: str = "") -> Drawing:
    """One token's way through the MLP: narrow, wide, wide after the nonlinearity, narrow again."""
    parts = [np.asarray(v, np.float64).reshape(-1) for v in (x, hidden, act, out)]
    narrow, wide = len(parts[0]), len(parts[1])
    below, quiet = float((parts[1] < 0).mean()), float((abs(parts[2]) < 0.2).mean())
    of = f" ({name})" if name else ""
    drawing = _Sheet(
        760, 300,
        f"One token{of} in the MLP: {narrow} channels become {wide}, of which {below:.0%} are negative; "
        f"after GELU {quiet:.0%} are smaller than 0.2 in size; then {len(parts[3])} channels again.",
        f"One token{of} in the MLP: {narrow} → {wide} → {len(parts[3])} channels",
    )  # fmt: skip
    size, middle = 6.5, 160
    # The grids are a quarter as wide as they are tall where the vector is wide: 512 is 16 x 32.
    grids = [(40, 8), (212, 16), (424, 16), (640, 8)]
    titles = ["x", "c_fc", "act", "c_proj"]
    notes = [
        f"{narrow}",
        f"{wide}, {below:.0%} below 0",
        f"{wide}, {quiet:.0%} within ±0.2",
        f"{len(parts[3])}",
    ]
    boxes = []
    for (left, columns), values, title, note in zip(grids, parts, titles, notes, strict=True):
        rows = -(-len(values) // columns)
        top = middle - rows * size / 2
        drawing.cells(left, top, values, columns, size, max(abs(values).max(), 1e-9))
        drawing.text(left + columns * size / 2, top - 8, title, size=13, mono=True)
        drawing.text(left + columns * size / 2, top + rows * size + 17, note, size=11)
        boxes.append((left, top, columns * size, rows * size))
    product = "@ weight\n+ bias"
    for a, b, label in zip(boxes, boxes[1:], [product, "GELU", product], strict=False):
        start, end = a[0] + a[2] + 5, b[0] - 5
        right = f"L{_n(end)} {_n(b[1])}V{_n(b[1] + b[3])}L{_n(start)} {_n(a[1] + a[3])}z"
        drawing.path(f"M{_n(start)} {_n(a[1])}{right}", fill="#eef2f5")
        drawing.arrow((start + 6, middle + 24), (end - 6, middle + 24))
        drawing.text((start + end) / 2, middle - 8, label, size=11)
    return drawing


def positions(tokens: Sequence[str], wte, wpe, channels: int = 6) -> Drawing:
    """Token vectors plus position vectors are what the first block gets: the first channels of each.

    tokens: their text; wte, wpe: a row for each token, its token's vector and its position's.
    """
    wte, wpe = np.asarray(wte, np.float64)[:, :channels], np.asarray(wpe, np.float64)[:, :channels]
    labels = [f"{k} {token!r}" for k, token in enumerate(tokens)]
    cell, high = 38, 26
    twice = [k for k, token in enumerate(tokens) if list(tokens).count(token) > 1]
    note = ""
    if twice:
        same = " and ".join(labels[k] for k in twice)
        note = f" The tokens {same} have one vector in wte and two in the sum."
    block = channels * cell
    width = 104 + 3 * block + 2 * 40 + 16
    drawing = _Sheet(
        width, 112 + high * len(tokens),
        f"The first {channels} channels of {len(tokens)} tokens: a token's row of wte plus a position's row "
        f"of wpe is the input of the first block.{note}",
        "What the first block gets: token + position",
    )  # fmt: skip
    limit = float(max(abs(wte).max(), abs(wpe).max()))
    parts = [(wte, "wte[token]"), (wpe, "wpe[position]"), (wte + wpe, "their sum")]
    for k, (values, title) in enumerate(parts):
        left = 104 + k * (block + 40)
        drawing.matrix(left, 70, values.tolist(), cell=cell, height=high, rows=() if k else labels,
                       title=title, size=10.5, limit=limit)  # fmt: skip
        if k:
            drawing.text(left - 20, 70 + high * len(tokens) / 2 + 6, "=" if k == 2 else "+", size=20)
        for row in twice:
            drawing.box(left - 2, 70 + row * high - 1, block + 4, high + 2, fill="none", line=ORANGE)
    below = f"the first {channels} channels" + ("; in orange frames: the same token twice" if twice else "")
    drawing.text(104, 92 + high * len(tokens), below, size=11, anchor="start", colour="#555")
    return drawing


def shares(frame: pd.DataFrame) -> Drawing:
    """Where a model's parameters and FLOPs are: a bar of each, cut into parts.

    frame: columns model, part, parameters, flops; models and parts in the order of their rows.
    """
    frame = frame.fillna(0)
    models, parts = list(dict.fromkeys(frame["model"])), list(dict.fromkeys(frame["part"]))
    colours = {part: PARTS.get(part, "#56B4E9") for part in parts}
    bars, said = [], []
    for model in models:
        rows = frame[frame["model"] == model].set_index("part")
        for what in ("parameters", "flops"):
            values = {part: float(rows[what].get(part, 0)) for part in parts}
            bars.append((model, what, values))
            total = sum(values.values()) or 1
            each = ", ".join(f"{part} {value / total:.1%}" for part, value in values.items())
            said.append(f"{model}, {total:,.0f} {'FLOPs' if what == 'flops' else what}: {each}")
    title = "Where the parameters and the FLOPs are"
    drawing = _Sheet(760, 96 + 44 * len(bars), ". ".join(said) + ".", title)
    for k, part in enumerate(parts):
        drawing.box(160 + 130 * k, 38, 14, 14, fill=colours[part], line=colours[part])
        drawing.text(180 + 130 * k, 50, part, size=12, anchor="start")
    for k, (model, what, values) in enumerate(bars):
        y, left, total = 72 + 44 * k, 160.0, sum(values.values()) or 1
        drawing.text(150, y + 12, model, size=12, anchor="end", mono=True)
        drawing.text(150, y + 26, f"{total:,.0f} {'FLOPs' if what == 'flops' else what}", size=10,
                     anchor="end", colour="#555")  # fmt: skip
        for part, value in values.items():
            wide = 580 * value / total
            label = f"{value / total:.0%}" if wide > 26 else ""
            if wide > 0:
                drawing.box(left, y, wide, 30, label, fill=colours[part], line="#ffffff", size=11)
            left += wide
    return drawing


def stream(frame: pd.DataFrame) -> Drawing:
    """The norms of the vectors of the residual stream, and of those that each sublayer adds to it.

    frame: columns part, adds, after: a row for each sublayer, with mean Euclidean norms; the first
    row is what the stream begins with, its adds is ignored.
    """
    rows: list[Any] = list(frame.itertuples(index=False))
    said = "; ".join(f"{row.part} adds {_r(row.adds)}, then {_r(row.after)}" for row in rows[1:])
    about = f"Mean norm of the residual stream's vectors: {rows[0].part} {_r(rows[0].after)}; {said}."
    drawing = _Sheet(760, 300, about, "The residual stream grows")
    limit = max(float(frame["after"].max()), float(frame["adds"].fillna(0).max()))
    floor, tall, step = 236, 170, 690 / len(rows)
    drawing.line((36, floor), (740, floor), colour=GREY, width=1)
    for k, row in enumerate(rows):
        x = 44 + k * step
        for value, colour, shift in ((row.after, BLUE, 0), (row.adds if k else None, ORANGE, step * 0.4)):
            if value is None:
                continue
            high = float(value) / limit * tall
            drawing.box(x + shift, floor - high, step * 0.36, high, fill=colour, line=colour)
            drawing.text(x + shift + step * 0.18, floor - high - 5, _r(value), size=10.5)
        drawing.text(x + step * 0.38, floor + 18, "\n".join(row.part.rsplit(" ", 1)), size=11)
    drawing.text(44, 50, "blue: the stream after this part", size=12, colour=BLUE, anchor="start")
    drawing.text(44, 67, "orange: what the part adds", size=12, colour=ORANGE, anchor="start")
    below = "Euclidean norm, mean over the tokens"
    drawing.text(740, floor + 54, below, size=11, anchor="end", colour="#555")
    return drawing


def _n(value: float) -> str:
    return f"{round(float(value), 2) + 0.0:.2f}".rstrip("0").rstrip(".")


def _r(value: float) -> str:
    """Three significant digits, without an exponent and with a minus sign that is one."""
    value = float(value)
    if abs(value) < 5e-4:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:.{digits}f}".replace("-", "−")
